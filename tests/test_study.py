"""The study loop, against its four steps written out."""

from __future__ import annotations

import gc
import math
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from pose2id import centralize, evaluate, evaluate_features, id_density, rerank
from pose2id.parts import centralize_parts, evaluate_parts, part_density, rerank_parts
from pose2id.study import FeatureSet, Row, Setting, centralize_sets, run_study, runs, standard_error
from pose2id.tables import as_dicts

RNG = np.random.default_rng(0)


def make_side(n: int) -> FeatureSet:
    ids = np.arange(n) % 6
    centres = np.random.default_rng(1).normal(size=(6, 5))
    features, generated = (
        (centres[ids] + 0.9 * RNG.normal(size=(*shape, n, 5))).astype(np.float32) for shape in ((), (3,))
    )
    return FeatureSet(features, ids, RNG.integers(0, 3, n), np.ascontiguousarray(generated.transpose(1, 0, 2)))


QUERY, GALLERY = make_side(18), make_side(42)
LABELS = (QUERY.ids, GALLERY.ids, QUERY.cams, GALLERY.cams)
BASE = Setting("base")
FULL = Setting("all of it", "a heading", eta=0.5, k1=3, k2=2, alpha=2.0, other_cameras=True)
SETTINGS = {
    "base": (BASE, [{"k1": 0}, {"k1": 0}]),
    "neighbours": (Setting("x", k1=2, k2=3), [{"k1": 2, "k2": 3}] * 2),
    "generated": (
        Setting("x", eta=2.0),
        [{"k1": 0, "eta": 2.0, "generated": side.generated} for side in (QUERY, GALLERY)],
    ),
    "raw sums": (Setting("x", k1=2, k2=2, normalize=False), [{"normalize": False}] * 2),
    "all": (
        FULL,
        [
            {"generated": side.generated, "eta": 0.5, "k1": 3, "k2": 2, "alpha": 2.0, "exclude": side.cams}
            for side in (QUERY, GALLERY)
        ],
    ),
    "query only": (Setting("x", k1=2, k2=2, gallery=False), [{}, {"k1": 0}]),
    "gallery only": (Setting("x", k1=2, k2=2, query=False), [{"k1": 0}, {}]),
}


def numbers(row: Row) -> dict[str, object]:
    names = ("mAP", "rank1", "rank5", "rank10", "mINP", "id2_paper", "id2_released", "valid_queries", "tied_rank1")
    return as_dicts([row], (*names, "error", "encoder"))[0]


@pytest.mark.parametrize("reranked", [False, True])
@pytest.mark.parametrize(("setting", "options"), SETTINGS.values(), ids=SETTINGS.keys())
def test_the_four_steps(setting, options, reranked) -> None:
    sides = [centralize(side.features, **given) for side, given in zip((QUERY, GALLERY), options, strict=True)]
    setting = replace(setting, reranked=reranked, rerank_k1=7, rerank_k2=3, rerank_lambda=0.5)
    scores = evaluate_features(*sides, *LABELS, protocol="all", metric="cosine")
    if reranked:
        scores = evaluate(rerank(*sides, k1=7, k2=3, lambda_value=0.5), *LABELS, protocol="all")
    both, ids = np.concatenate(sides), np.concatenate([QUERY.ids, GALLERY.ids])
    (row,) = run_study(QUERY, GALLERY, [setting], protocol="all", metric="cosine", encoder="mine")
    assert row.setting == setting
    assert numbers(row) == {
        "mAP": scores.mAP,
        **{f"rank{k}": scores.rank(k) for k in (1, 5, 10)},
        "mINP": scores.mINP,
        "id2_paper": id_density(both, ids),
        "id2_released": id_density(both, ids, variant="released"),
        "valid_queries": scores.valid_queries,
        "tied_rank1": scores.tied_rank1,
        "error": standard_error(scores, QUERY.ids),
        "encoder": "mine",
    }
    np.testing.assert_array_equal(row.scores.average_precision, scores.average_precision)
    np.testing.assert_array_equal(row.scores.cmc, scores.cmc)
    for mine, other in zip(centralize_sets(QUERY, GALLERY, setting), sides, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert (row.name, row.table, row.id2) == (setting.name, setting.group, row.id2_paper)


def test_as_given() -> None:
    setting = Setting("as given", normalize=False)
    assert centralize_sets(QUERY, GALLERY, setting) == (QUERY.features, GALLERY.features)  # not even copied
    scores = evaluate_features(QUERY.features, GALLERY.features, *LABELS)
    assert run_study(QUERY, GALLERY, [setting])[0].mAP == scores.mAP != run_study(QUERY, GALLERY, [BASE])[0].mAP


def test_tensors_and_names_give_the_same() -> None:
    sides = [
        FeatureSet(
            torch.tensor(side.features),
            [f"person {i}" for i in side.ids],
            torch.tensor(side.cams),
            list(torch.tensor(side.generated).unbind(1)),
        )
        for side in (QUERY, GALLERY)
    ]
    settings = [BASE, FULL, replace(FULL, reranked=True)]
    for row, other in zip(run_study(*sides, settings), run_study(QUERY, GALLERY, settings), strict=True):
        assert row.setting == other.setting
        assert numbers(row) == pytest.approx(numbers(other), abs=1e-12)


def test_work_is_shared_and_nothing_is_kept(monkeypatch) -> None:
    calls, made = [], []

    def count(features, *arguments, **options):
        gc.collect()
        calls.append((len(features), sum(ref() is not None for ref in made)))
        result = centralize(features, *arguments, **options)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(runs, "centralize", count)
    nfc = Setting("neighbours", k1=2, k2=2)
    settings = [BASE, replace(BASE, reranked=True), nfc, replace(nfc, query=False), replace(nfc, reranked=True), FULL]
    rows = run_study(QUERY, GALLERY, settings)
    # base, neighbours, all of it, each side once
    assert [n for n, _ in calls] == [18, 42] * 3
    # Of what was made before, only what is needed again is alive: the base's queries, for the fourth setting.
    assert [alive for _, alive in calls] == [0, 1, 1, 2, 0, 1]
    assert rows[2].id2 == rows[4].id2
    assert [row.setting for row in rows] == settings


def test_what_comes_to_the_same_is_done_once(monkeypatch) -> None:
    """Scored, and re-ranked, once: settings that differ in their names, or in what does nothing."""
    calls = []

    def count(function):
        def call(*arguments, **options):
            calls.append(function.__name__)
            return function(*arguments, **options)

        return call

    for function in (rerank, evaluate_features, evaluate, id_density):
        monkeypatch.setattr(runs, function.__name__, count(function))
    again = [BASE, replace(BASE, name="k2 = 0", k1=3), replace(BASE, name="other re-ranking", rerank_k1=7)]
    settings = [*again, *(replace(each, reranked=True) for each in again)]
    told = []
    rows = run_study(QUERY, GALLERY, settings, report=told.append)
    assert [row.setting for row in rows] == settings
    once = ["evaluate_features", "id_density", "id_density"]
    assert calls == once + 2 * ["rerank", "evaluate", "id_density", "id_density"]
    assert told == [
        *(f"{BASE.name}: {step}" for step in ("the query side", "the gallery side", "scoring", "re-ranking")),
        "other re-ranking: re-ranking",
    ]
    alone = [run_study(QUERY, GALLERY, [setting])[0] for setting in settings]
    assert [numbers(row) for row in rows] == [numbers(row) for row in alone]
    assert rows[3].mAP == rows[4].mAP != rows[5].mAP


def test_settings_are_any_iterable() -> None:
    rows = run_study(QUERY, GALLERY, (setting for setting in (BASE, FULL)))
    assert [row.setting for row in rows] == [BASE, FULL]
    assert run_study(QUERY, GALLERY, []) == []


def test_without_density_and_cameras() -> None:
    sides = [FeatureSet(side.features, side.ids) for side in (QUERY, GALLERY)]
    (row,) = run_study(*sides, [BASE], density=False)
    assert math.isnan(row.id2_paper)
    assert math.isnan(row.id2_released)
    assert row.mAP == evaluate_features(*centralize_sets(*sides, BASE), *LABELS[:2]).mAP


def test_one_side_may_have_generated_features() -> None:
    alone = replace(GALLERY, generated=None)
    setting = Setting("x", eta=1.0)
    query, gallery = centralize_sets(QUERY, alone, setting)
    np.testing.assert_array_equal(query, centralize(QUERY.features, QUERY.generated, k1=0))
    np.testing.assert_array_equal(gallery, centralize(GALLERY.features, k1=0))


def test_a_setting_that_would_be_another_is_refused_before_any_work(monkeypatch) -> None:
    bare = [replace(side, cams=None, generated=None) for side in (QUERY, GALLERY)]
    monkeypatch.setattr(runs, "centralize", None)
    for settings, words in (
        ([BASE, Setting("mine", eta=1.0)], "'mine' has eta = 1.0, but query and gallery have no generated features"),
        ([BASE, Setting("mine", eta=1.0, query=False)], "'mine' has eta = 1.0, but gallery has no generated features"),
        (
            [BASE, Setting("mine", other_cameras=True)],
            "'mine' takes neighbours from other cameras, but query has no cams",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            run_study(*bare, settings)
        with pytest.raises(ValueError, match=words):
            centralize_sets(*bare, settings[1])


def test_what_is_wrong_is_said_by_the_step() -> None:
    with pytest.raises(ValueError, match="k1 must be an integer >= 0, received -1"):
        run_study(QUERY, GALLERY, [Setting("x", k1=-1, k2=2)])
    with pytest.raises(ValueError, match="engine must be one of"):
        run_study(QUERY, GALLERY, [BASE], engine="magic")
    with pytest.raises(ValueError, match="metric must be one of"):
        run_study(QUERY, GALLERY, [BASE], metric="magic")
    with pytest.raises(ValueError, match="protocol must be"):
        run_study(QUERY, GALLERY, [replace(BASE, reranked=True)], protocol="magic")
    with pytest.raises(ValueError, match=r"query_ids must have shape \(18,\)"):
        run_study(replace(QUERY, ids=QUERY.ids[1:]), GALLERY, [BASE])


def test_bars(capsys) -> None:
    run_study(QUERY, GALLERY, [FULL, replace(FULL, reranked=True)], progress=True)
    captured = capsys.readouterr()
    assert "evaluating" in captured.err
    assert captured.out == ""
    run_study(QUERY, GALLERY, [FULL])
    assert capsys.readouterr() == ("", "")


def test_standard_errors() -> None:
    # By hand: the means are 0.3, 0.7 and 0.5, a variance of 0.04. One without a right answer does not count, neither
    # among its identity's queries nor as an identity.
    precision = np.array([0.2, 0.4, 0.7, 0.5, np.nan, np.nan])
    scores = replace(evaluate(RNG.normal(size=(6, 42)), QUERY.ids[:6], GALLERY.ids), average_precision=precision)
    for ids in ([1, 1, 2, 3, 3, 4], ["a", "a", "b", "c", "c", "d"]):
        assert standard_error(scores, ids) == pytest.approx((0.04 / 3) ** 0.5, rel=1e-12)
    distances = RNG.normal(size=(18, 42))
    one = evaluate(distances[QUERY.ids == 1], QUERY.ids[QUERY.ids == 1], GALLERY.ids)
    assert math.isnan(standard_error(one, QUERY.ids[QUERY.ids == 1]))


def test_what_is_no_setting_or_no_set_is_named() -> None:
    row = FULL.__dict__
    for settings, words in (
        ([BASE, "base"], "every setting must be a pose2id.study.Setting, received str"),
        ([{"name": "base"}], "every setting must be a pose2id.study.Setting, received dict"),
        ([None], "every setting must be a pose2id.study.Setting, received NoneType"),
        (BASE, "settings must be a sequence of Setting, received Setting"),
        (None, "settings must be a sequence of Setting, received NoneType"),
    ):
        with pytest.raises(TypeError, match=words):
            run_study(QUERY, GALLERY, settings)
    for query, gallery, words in (
        (QUERY.features, GALLERY, "query must be a pose2id.study.FeatureSet, received ndarray"),
        (QUERY, (GALLERY.features, GALLERY.ids), "gallery must be a pose2id.study.FeatureSet, received tuple"),
    ):
        with pytest.raises(TypeError, match=words):
            run_study(query, gallery, [BASE])
        with pytest.raises(TypeError, match=words):
            centralize_sets(query, gallery, BASE)
    with pytest.raises(TypeError, match=r"every setting must be a pose2id.study.Setting, received dict"):
        centralize_sets(QUERY, GALLERY, row)


def test_junk_is_nobody_in_a_study() -> None:
    ids = np.where(np.arange(len(GALLERY.ids)) % 5 == 0, -1, GALLERY.ids)
    (row,) = run_study(QUERY, replace(GALLERY, ids=ids), [BASE])
    kept = ids != -1
    features = np.concatenate([QUERY.features, GALLERY.features[kept]])
    assert row.id2 == pytest.approx(id_density(features, np.concatenate([QUERY.ids, ids[kept]])), rel=1e-6)


def make_parts(side: FeatureSet) -> FeatureSet:
    parts = np.stack([side.features, side.features[:, ::-1] + 1], axis=1)
    seen = RNG.random((len(parts), 2)) < 0.7
    return FeatureSet(np.where(seen[:, :, None], parts, np.nan), side.ids, side.cams, visibility=seen)


@pytest.mark.parametrize("reranked", [False, True])
@pytest.mark.parametrize("as_tensors", [False, True])
def test_parts(reranked, as_tensors) -> None:
    sides = [make_parts(side) for side in (QUERY, GALLERY)]
    views, shown = RNG.normal(size=(42, 2, 2, 5)), RNG.random((42, 2, 2)) < 0.5
    sides[1] = replace(sides[1], generated=views, generated_visibility=shown)
    how = {"k1": 3, "k2": 2, "alpha": 2.0}
    query = centralize_parts(sides[0].features, sides[0].visibility, exclude=QUERY.cams, **how)
    gallery = centralize_parts(
        *(sides[1].features, sides[1].visibility, views, 0.5),
        generated_visibility=shown,
        fill=True,
        exclude=GALLERY.cams,
        **how,
    )
    given = [(side.features, side.visibility) for side in sides]
    setting = Setting("x", eta=0.5, other_cameras=True, fill_gallery=True, reranked=reranked, rerank_k1=7, **how)
    plain = Setting("plain", reranked=reranked, rerank_k1=7)
    if as_tensors:
        fields = ("features", "generated", "visibility", "generated_visibility")
        tensors = [{x: None if getattr(y, x) is None else torch.tensor(getattr(y, x)) for x in fields} for y in sides]
        sides = [replace(side, **arrays) for side, arrays in zip(sides, tensors, strict=True)]
    for (one, other), each in ((given, plain), ((query, gallery), setting)):
        (row,) = run_study(*sides, [each])
        seen = {"query_visibility": one[1], "gallery_visibility": other[1]}
        scores = evaluate_parts(one[0], other[0], *LABELS, **seen)
        if reranked:
            scores = evaluate(rerank_parts(one[0], other[0], one[1], other[1], k1=7), *LABELS)
        assert (row.mAP, row.mINP, row.rank1) == (scores.mAP, scores.mINP, scores.rank(1))
        scaled = [centralize_parts(*side, k1=0) for side in (one, other)]
        parts, seen = (np.concatenate(arrays) for arrays in zip(*scaled, strict=True))
        expected = part_density(parts, np.concatenate([QUERY.ids, GALLERY.ids]), seen)
        assert row.id2 == pytest.approx(expected.mean(), rel=1e-12)
    for mine, other in zip(centralize_sets(*sides, setting), (query, gallery), strict=True):
        np.testing.assert_array_equal(mine.parts, other.parts)
        np.testing.assert_array_equal(mine.visibility, other.visibility)


def test_parts_and_features_do_not_mix() -> None:
    parts = make_parts(GALLERY)
    for query, setting, words in (
        (QUERY, BASE, r"both parts \(N, P, D\), received \(18, 5\) and \(42, 2, 5\)"),
        (parts, Setting("x", k1=2, k2=2, gallery=False, fill_gallery=True), "but gallery is not centralized"),
    ):
        with pytest.raises(ValueError, match=words):
            run_study(query, parts, [setting])
    for side, setting, words in (
        (QUERY, Setting("x", k1=2, k2=2, fill_query=True), r"fills hidden parts, but query has features \(N, D\)"),
        (replace(QUERY, visibility=parts.visibility), BASE, r"visibility goes with parts \(N, P, D\), but query has"),
    ):
        with pytest.raises(ValueError, match=words):
            run_study(side, GALLERY, [setting])
