"""evaluate and evaluate_features: protocols, junk, ties, scores."""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import evaluation as reference
from reference.neighbors import distance_matrix
from support.arrays import ArrayKind, as_float64

from pose2id import evaluate, evaluate_features
from pose2id.evaluation import METRICS as METRIC_NAMES
from pose2id.evaluation import PROTOCOLS, Protocol, Scores, rank_gallery, tiles

F32 = ArrayKind("numpy", "float32")
PROTOCOL_NAMES = ["market1501", "all"]


def assert_same_scores(scores, expected, tolerance=1e-12):
    assert scores.mAP == pytest.approx(expected.mAP, abs=tolerance)
    assert scores.mINP == pytest.approx(expected.mINP, abs=tolerance)
    assert scores.cmc.shape == expected.cmc.shape
    np.testing.assert_allclose(scores.cmc, expected.cmc, rtol=0, atol=tolerance)
    assert scores.valid_queries == expected.valid_queries
    assert scores.tied_rank1 == expected.tied_rank1


def labels(q=30, g=80, seed=0):
    """Identities with distractors, junk and unmatched queries, and four cameras."""
    rng = np.random.default_rng(seed)
    query_ids, gallery_ids = rng.integers(0, 12, q), rng.integers(-1, 10, g)
    return query_ids, gallery_ids, rng.integers(0, 4, q), rng.integers(0, 4, g)


def distances(q=30, g=80, seed=0):
    return np.random.default_rng(seed).random((q, g))


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize("cams", [True, False])
def test_equals_reference(array_kind, protocol, cams):
    values = array_kind.rounded(distances())
    arguments = labels() if cams else labels()[:2]
    scores = evaluate(array_kind.make(distances()), *arguments, protocol=protocol)
    assert_same_scores(scores, reference.evaluate(values, *arguments, protocol=protocol))


LABEL_LISTS = st.integers(1, 9).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-1, 3), min_size=n, max_size=n),
        st.lists(st.integers(0, 2), min_size=n, max_size=n),
    )
)


@given(query=LABEL_LISTS, gallery=LABEL_LISTS, data=st.data(), protocol=st.sampled_from(PROTOCOL_NAMES))
def test_equals_reference_with_ties(query, gallery, data, protocol):
    q, g = len(query[0]), len(gallery[0])
    cells = data.draw(st.lists(st.integers(-2, 2), min_size=q * g, max_size=q * g))
    table = np.array(cells, dtype=np.float64).reshape(q, g)
    arguments = (query[0], gallery[0], query[1], gallery[1])
    try:
        expected = reference.evaluate(table, *arguments, protocol=protocol)
    except ValueError:  # no valid query: the longest of no lists
        with pytest.raises(ValueError, match="quer"):
            evaluate(table, *arguments, protocol=protocol)
    else:
        assert_same_scores(evaluate(table, *arguments, protocol=protocol), expected)


def ends_of(distances, of_labels, protocol):
    """Scores with right items a little farther, and a little nearer, than wrong ones at the same (whole) distance."""
    right = np.asarray(of_labels[0])[:, None] == np.asarray(of_labels[1])
    return [evaluate(distances + step * right, *of_labels, protocol=protocol) for step in (0.25, -0.25)]


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 40), st.integers(1, 6))
def test_the_span_is_that_of_the_worst_and_the_best_order(seed, q, g, values):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, values, (q, g)).astype(np.float64)
    of_labels = (rng.integers(0, 3, q), rng.integers(-1, 3, g), rng.integers(0, 3, q), rng.integers(0, 3, g))
    for protocol in ("market1501", "all", "sysu-mm01", "cuhk03"):
        try:
            scores = evaluate(distances, *of_labels, protocol=protocol)
        except ValueError:
            continue  # no query has a match
        low, high = ends_of(distances, of_labels, protocol)
        assert scores.span.mAP == pytest.approx((low.mAP, high.mAP), abs=1e-12)
        assert low.mAP - 1e-12 <= scores.mAP <= high.mAP + 1e-12
        if protocol in PROTOCOL_NAMES:
            np.testing.assert_allclose(scores.span.cmc, [low.cmc, high.cmc], atol=1e-12)
            assert scores.span.rank(1) == (low.rank(1), high.rank(1))
        else:
            with pytest.raises(ValueError, match="counts identities or draws galleries"):
                scores.span.rank(1)


def test_the_span_of_features():
    """Rows on a grid: many distances are equal; features with float32 products as the matrix of exact distances."""
    rng = np.random.default_rng(3)
    query, gallery = (rng.integers(0, 3, (n, 4)).astype(np.float32) for n in (40, 200))
    of_labels = labels(40, 200)
    distances = ((query[:, None] - gallery[None]) ** 2).sum(axis=2)
    low, high = ends_of(distances, of_labels, "market1501")
    for spread in (1, 1e4):  # far from 0, so that products leave ties open
        found = evaluate_features(query + np.float32(spread - 1), gallery + np.float32(spread - 1), *of_labels)
        assert found.span.mAP == pytest.approx((low.mAP, high.mAP), abs=1e-12)
        np.testing.assert_allclose(found.span.cmc, [low.cmc, high.cmc], atol=1e-12)
    noise = rng.standard_normal((200, 4))
    plain = evaluate_features(noise[:40], noise[40:], *labels(40, 160))
    assert plain.span.mAP == (plain.mAP, plain.mAP)
    np.testing.assert_array_equal(plain.span.cmc, [plain.cmc, plain.cmc])
    assert evaluate(distances, *of_labels, protocol="vehicleid").span is None


def test_worked_example():
    """Hits at ranks 1 and 3 for one query, at rank 2 for the other."""
    table = np.array([[0.1, 0.2, 0.3, 0.4], [0.3, 0.1, 0.2, 0.4]])
    scores = evaluate(table, [1, 2], [1, 3, 1, 4], protocol="all")
    assert (scores.valid_queries, scores.tied_rank1) == (1, 0)  # nobody in the gallery is 2
    assert scores.mAP == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert scores.mINP == pytest.approx(2 / 3)
    assert scores.cmc.tolist() == [1, 1, 1, 1]
    scores = evaluate(table, [1, 2], [1, 3, 2, 1], protocol="all")
    assert scores.mAP == pytest.approx(((1 / 1 + 2 / 4) / 2 + 1 / 2) / 2)
    assert scores.mINP == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert scores.cmc.tolist() == [0.5, 1, 1, 1]


def test_same_identity_and_camera_is_removed_only_by_market1501():
    table = np.array([[0.1, 0.2, 0.3, 0.4]])
    arguments = ([5], [5, 6, 5, 7], ["c1"], ["c1", "c1", "c2", "c2"])
    market, everything = (evaluate(table, *arguments, protocol=name) for name in PROTOCOL_NAMES)
    assert market.cmc.tolist() == [0, 1, 1]
    assert market.mAP == pytest.approx(1 / 2)
    assert everything.cmc.tolist() == [1, 1, 1, 1]
    assert everything.mAP == pytest.approx((1 + 2 / 3) / 2)


def test_market1501_is_the_default():
    values = distances()
    assert_same_scores(evaluate(values, *labels()), reference.evaluate(values, *labels(), protocol="market1501"))


def test_another_identity_from_the_same_camera_stays():
    scores = evaluate(np.array([[0.1, 0.2]]), [5], [6, 5], [1], [1, 2])
    assert scores.cmc.tolist() == [0, 1]


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize("kind", [int, str])
def test_gallery_minus_one_is_junk_and_zero_is_not(protocol, kind):
    table = np.array([[0.1, 0.2, 0.3, 0.4]])
    gallery = [kind(label) for label in (-1, 0, 5, -1)]
    scores = evaluate(table, [kind(5)], gallery, protocol=protocol)
    assert scores.cmc.tolist() == [0, 1]
    assert evaluate(table, [kind(0)], gallery, protocol=protocol).cmc.tolist() == [1, 1]


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
@pytest.mark.parametrize("kind", [int, str])
def test_a_query_labelled_minus_one_is_invalid(protocol, kind):
    table = np.array([[0.1, 0.2], [0.2, 0.1]])
    scores = evaluate(table, [kind(-1), kind(5)], [kind(-1), kind(5)], protocol=protocol)
    assert (scores.valid_queries, scores.mAP, scores.cmc.tolist()) == (1, 1.0, [1.0])


def test_other_negative_labels_are_ordinary():
    scores = evaluate(np.array([[0.2, 0.1]]), [-2], [-2, -3])
    assert scores.cmc.tolist() == [0, 1]


def test_queries_without_a_match_are_skipped():
    table = np.array([[0.1, 0.2, 0.3], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])
    # The second has its only match on its own camera, the third none at all.
    scores = evaluate(table, [1, 2, 9], [1, 2, 3], [0, 0, 0], [1, 0, 1])
    assert (scores.valid_queries, scores.mAP, scores.rank(1)) == (1, 1.0, 1.0)


def test_cmc_is_as_long_as_the_longest_list_of_a_valid_query():
    """Lists after junk removal: 4 (valid), 5 (no match, so it does not count), 3 (valid)."""
    gallery_ids, gallery_cams = [1, 1, 2, 2, 2], [0, 1, 0, 0, 1]
    table = np.tile(np.arange(5.0), (3, 1))
    scores = evaluate(table, [1, 7, 2], gallery_ids, [0, 0, 0], gallery_cams)
    expected = reference.evaluate(table, [1, 7, 2], gallery_ids, [0, 0, 0], gallery_cams)
    assert len(expected.cmc) == 4
    assert_same_scores(scores, expected)


def test_rank_beyond_the_list_is_the_last_one():
    scores = evaluate(np.array([[0.2, 0.1], [0.1, 0.2]]), [1, 1], [1, 2])
    assert scores.cmc.tolist() == [0.5, 1.0]
    assert [scores.rank(k) for k in (1, 2, 3, 1000)] == [0.5, 1.0, 1.0, 1.0]


def test_types_of_the_scores():
    scores = evaluate(F32.make(distances()), *labels())
    assert isinstance(scores, Scores)
    assert type(scores.mAP) is float
    assert type(scores.mINP) is float
    assert type(scores.rank(5)) is float
    assert type(scores.valid_queries) is int
    assert type(scores.tied_rank1) is int
    assert isinstance(scores.cmc, np.ndarray)
    assert scores.cmc.dtype == np.float64
    assert [scores.rank(k + 1) for k in range(len(scores.cmc))] == scores.cmc.tolist()
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.mAP = 1.0


def test_what_is_printed_one_after_the_other_lines_up():
    """Whatever the numbers: 0, 100 and some between them; one query and many."""
    some = [evaluate(distances(), *labels()), evaluate(np.array([[0.0, 1.0]]), [1], [1, 2])]
    some += [dataclasses.replace(some[0], mAP=0.0, mINP=0.05, valid_queries=1_234_567, tied_rank1=11_659)]
    texts = [str(scores).splitlines() for scores in some]
    assert len({head for head, _ in texts}) == 1
    ends = [
        [at for at, pair in enumerate(zip(row, row[1:] + " ", strict=True)) if pair[0] != " " == pair[1]]
        for _, row in texts
    ]
    assert ends[0] == ends[1] == ends[2]
    assert texts[1][1].split() == ["100.00"] * 5 + ["1", "0"]


def test_text_is_a_small_table():
    scores = evaluate(distances(), *labels())
    text = str(scores)
    assert "mAP" in text
    assert "mINP" in text
    assert 2 <= len(text.splitlines()) <= 12
    assert f"{100 * scores.mAP:.1f}" in text or f"{scores.mAP:.3f}" in text


def test_protocols_are_named_objects():
    assert set(PROTOCOL_NAMES) <= set(PROTOCOLS)
    for name in PROTOCOL_NAMES:
        by_name = evaluate(distances(), *labels(), protocol=name)
        assert_same_scores(evaluate(distances(), *labels(), protocol=PROTOCOLS[name]), by_name)


# Ties


def test_ties_go_to_the_lower_gallery_index():
    table = np.zeros((2, 4))
    scores = evaluate(table, [1, 2], [3, 1, 4, 2])
    assert scores.cmc.tolist() == [0, 0.5, 0.5, 1]


def test_many_ties_in_a_long_list():
    """An unstable sort shows only in lists longer than a few dozen."""
    table = np.random.default_rng(0).integers(0, 3, (20, 700)).astype(np.float64)
    arguments = labels(20, 700, seed=1)
    assert_same_scores(evaluate(table, *arguments), reference.evaluate(table, *arguments))


TIED = {
    "right and wrong tie": ([0.1, 0.1, 0.2], [1, 2, 3], 1),
    "wrong and right tie": ([0.1, 0.1, 0.2], [2, 1, 3], 1),
    "two right tie": ([0.1, 0.1, 0.2], [1, 1, 3], 0),
    "two wrong tie": ([0.1, 0.1, 0.2], [2, 3, 1], 0),
    "tie further down": ([0.0, 0.1, 0.1], [3, 1, 2], 0),
    "the second match ties": ([0.0, 0.1, 0.1], [1, 1, 2], 0),
    "both matches tie": ([0.1, 0.1, 0.1], [1, 2, 1], 1),
    "wrong one is junk": ([0.1, 0.1, 0.2], [-1, 1, 3], 0),
    "tie under a junk item": ([0.0, 0.1, 0.1], [-1, 1, 3], 1),
    "not quite": ([0.1, np.nextafter(0.1, 1), 0.2], [1, 2, 3], 0),
    "three": ([0.1, 0.1, 0.1], [2, 2, 1], 1),
    "zero and minus zero": ([0.0, -0.0, 0.1], [1, 2, 3], 1),
}


@pytest.mark.parametrize(("row", "gallery_ids", "count"), TIED.values(), ids=TIED.keys())
def test_tied_rank1(row, gallery_ids, count):
    assert evaluate(np.array([row]), [1], gallery_ids).tied_rank1 == count


def test_a_right_item_of_the_same_camera_is_no_tie():
    row = np.array([[0.1, 0.1, 0.2]])
    assert evaluate(row, [1], [1, 2, 1], [0], [0, 1, 1]).tied_rank1 == 0
    assert evaluate(row, [1], [1, 2, 1], [0], [0, 1, 1], protocol="all").tied_rank1 == 1


def test_tied_rank1_counts_valid_queries_only():
    table = np.zeros((3, 2))
    assert evaluate(table, [1, 9, -1], [1, 2]).tied_rank1 == 1


# What is farthest


@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_infinity_is_farthest(array_kind, protocol):
    """In the order of the gallery among itself; behind every number, the largest of its dtype too."""
    table = array_kind.rounded(distances().round(1)).copy()
    table[distances(seed=1) < 0.4] = np.inf
    if array_kind.dtype in ("float32", "float64"):
        table[distances(seed=2) < 0.2] = np.finfo(array_kind.dtype).max
    table[3] = np.inf
    scores = evaluate(array_kind.make(table), *labels(), protocol=protocol)
    assert_same_scores(scores, reference.evaluate(table, *labels(), protocol=protocol))
    (ranking,) = rank_gallery(array_kind.make(table), *labels(), queries=[3], protocol=protocol)
    assert (np.diff(ranking.rows) > 0).all()


def test_nothing_but_infinity():
    scores = evaluate(np.full((1, 3), np.inf), [1], [2, 1, 3])
    assert (scores.cmc.tolist(), scores.tied_rank1) == ([0, 1, 1], 1)


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_other_values_without_a_place_are_refused(value):
    table = distances()
    table[2, 3], table[4, 5] = value, np.inf
    with pytest.raises(ValueError, match=r"distances must be finite, or inf, received NaN or -inf in 1 row\(s\): 2;"):
        evaluate(table, *labels())


def test_without_new_threads(monkeypatch):
    """Where the system gives none, or not as many, the calling thread counts."""
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 100)
    monkeypatch.setattr("pose2id.threads.count_others", lambda: 0)
    expected = evaluate(distances(), *labels())
    start = threading.Thread.start
    for most in (0, 1, 2, 3):
        started = []

        def limited(thread, most=most, started=started):
            if len(started) >= most:
                raise RuntimeError("can't start new thread")
            started.append(thread)
            start(thread)

        before = torch.get_num_threads()
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", limited)
            torch.set_num_threads(2)
            scores = evaluate(distances(), *labels())
            torch.set_num_threads(before)
        assert_same_scores(scores, expected)


# Forms of the input

FORMS = {
    "lists": lambda values: values.tolist(),
    "tuples": lambda values: tuple(values.tolist()),
    "int32": lambda values: values.astype(np.int32),
    "torch": lambda values: torch.tensor(values),
    "strings": lambda values: values.astype(str),
    "list of strings": lambda values: values.astype(str).tolist(),
    "object array of strings": lambda values: values.astype(str).astype(object),
    "reversed view": lambda values: values[::-1].copy()[::-1],
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_labels_of_every_form(form, protocol):
    arguments = labels()
    scores = evaluate(distances(), *(form(values) for values in arguments), protocol=protocol)
    assert_same_scores(scores, reference.evaluate(distances(), *arguments, protocol=protocol))


def test_identities_and_cameras_may_have_different_forms():
    query_ids, gallery_ids, query_cams, gallery_cams = labels()
    scores = evaluate(
        distances(),
        query_ids.tolist(),
        gallery_ids,
        query_cams.astype(str),
        gallery_cams.astype(str).tolist(),
    )
    assert_same_scores(scores, reference.evaluate(distances(), *labels()))


def test_strings_are_compared_whole():
    """numpy would cut "c10" to the width of "c1"."""
    scores = evaluate(np.array([[0.1, 0.2]]), ["c1"], ["c10", "c1"])
    assert scores.cmc.tolist() == [0, 1]


def test_large_labels():
    scores = evaluate(np.array([[0.1, 0.2]]), [2**60], [2**60 + 1, 2**60])
    assert scores.cmc.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64, np.uint8])
def test_integer_distances(dtype):
    table = np.random.default_rng(0).integers(0, 100, (30, 80)).astype(dtype)
    assert_same_scores(evaluate(table, *labels()), reference.evaluate(table.astype(float), *labels()))


def test_torch_distances_on_a_device(device):
    table = torch.tensor(distances(), dtype=torch.float32, device=device)
    ids = (torch.tensor(values, device=device) for values in labels())
    assert_same_scores(evaluate(table, *ids), reference.evaluate(as_float64(table), *labels()))


def test_negative_distances():
    table = -distances()
    assert_same_scores(evaluate(table, *labels()), reference.evaluate(table, *labels()))


@pytest.mark.parametrize("factor", [1e-300, 1e300])
def test_only_the_order_counts(factor):
    assert_same_scores(evaluate(distances() * factor, *labels()), reference.evaluate(distances(), *labels()))


def test_order_of_the_queries_does_not_matter():
    query_ids, gallery_ids, query_cams, gallery_cams = labels()
    order = np.random.default_rng(0).permutation(30)
    shuffled = evaluate(distances()[order], query_ids[order], gallery_ids, query_cams[order], gallery_cams)
    assert_same_scores(shuffled, reference.evaluate(distances(), *labels()))


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda table: table[::-1].copy()[::-1]])
def test_memory_layout_does_not_matter(layout):
    assert_same_scores(evaluate(layout(distances()), *labels()), reference.evaluate(distances(), *labels()))


def test_input_is_not_changed(array_kind):
    table = array_kind.make(distances())
    arguments = labels()
    before = [as_float64(table).copy(), *(values.copy() for values in arguments)]
    evaluate(table, *arguments)
    for array, old in zip((table, *arguments), before, strict=True):
        np.testing.assert_array_equal(as_float64(array), old)


# Blocks, and the two ways to count


@pytest.mark.parametrize("apart", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("identities", [2, 12, 200])
@pytest.mark.parametrize("decimals", [2, 9])
def test_near_and_far_matches(apart, identities, decimals):
    """Lists of few and of many wrong items before the last match, few and hundreds of matches, with and without ties.

    0.9: one in a hundred stands there, so all matches are searched at once; 0.0: nearly all, so each row's are.
    """
    rng = np.random.default_rng(0)
    query_ids, gallery_ids = rng.integers(0, identities, 40), rng.integers(-1, identities, 700)
    arguments = query_ids, gallery_ids, rng.integers(0, 3, 40), rng.integers(0, 3, 700)
    table = (rng.random((40, 700)) + apart * (query_ids[:, None] != gallery_ids)).round(decimals)
    assert_same_scores(evaluate(table, *arguments), reference.evaluate(table, *arguments))


@pytest.mark.parametrize("elements", [1, 100, 1000])
def test_block_size_changes_nothing(monkeypatch, elements):
    table = distances().round(1)
    query, gallery = feature_sets()
    expected = evaluate(table, *labels()), evaluate_features(query, gallery, *labels())
    monkeypatch.setattr("pose2id.evaluation.scores.BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(tiles, "QUERY_TILE", elements // 30)
    monkeypatch.setattr(tiles, "ITEM_TILE", 1 + elements // 30)
    assert_same_scores(evaluate(table, *labels()), expected[0])
    assert_same_scores(evaluate_features(query, gallery, *labels()), expected[1])


def test_the_matrix_stays_on_its_device(monkeypatch):
    """Only arrays of the size of the labels go to the host, by any of torch's ways there."""
    table = torch.tensor(distances(50, 400), dtype=torch.float32).round(decimals=2)
    features = [torch.tensor(x, dtype=torch.float32) for x in feature_sets(50, 400)]
    arguments = labels(50, 400)
    expected = evaluate(table, *arguments), evaluate_features(*features, *arguments)
    sizes = []

    def watched(way):
        def go(tensor, *args, **kwargs):
            sizes.append(tensor.numel())
            return way(tensor, *args, **kwargs)

        return go

    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda _: True))  # take the way of a GPU
    for name in ("cpu", "numpy", "tolist", "__array__"):
        monkeypatch.setattr(torch.Tensor, name, watched(getattr(torch.Tensor, name)))
    scores = evaluate(table, *arguments), evaluate_features(*features, *arguments)
    monkeypatch.undo()
    matches = (arguments[0][:, None] == arguments[1]).sum()
    assert 0 < max(sizes) <= matches < table.numel() / 4
    assert_same_scores(scores[0], expected[0])
    assert_same_scores(scores[1], expected[1])


# From features


def feature_sets(q=30, g=80, d=5, seed=0):
    """Unnormalised features; every fifth gallery row repeats its predecessor, whatever its label."""
    rng = np.random.default_rng(seed)
    query, gallery = rng.standard_normal((q, d)) * 3, rng.standard_normal((g, d)) * 3
    gallery[4::5] = gallery[3::5]
    return query, gallery


METRICS = {
    "euclidean": lambda q, g: distance_matrix(q, g, single=False),
    "cosine": reference.cosine_distances,
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("protocol", PROTOCOL_NAMES)
def test_features_give_the_scores_of_their_distances(array_kind, metric, protocol):
    query, gallery = feature_sets()
    table = METRICS[metric](array_kind.rounded(query), array_kind.rounded(gallery))
    table = table.astype(array_kind.distance_dtype)
    features = array_kind.make(query), array_kind.make(gallery)
    scores = evaluate_features(*features, *labels(), metric=metric, protocol=protocol)
    assert_same_scores(scores, reference.evaluate(table, *labels(), protocol=protocol))


def test_cosine_ignores_length_in_ties_too(array_kind):
    """Every second gallery row is its predecessor, longer, and wrong where that is right or the other way round."""
    query, gallery = (array_kind.rounded(x).copy() for x in feature_sets())
    gallery[1::2] = 4 * gallery[::2]
    table = reference.cosine_distances(query, gallery).astype(array_kind.distance_dtype)
    expected = reference.evaluate(table, *labels())
    assert expected.tied_rank1 > 3
    features = array_kind.make(query), array_kind.make(gallery)
    assert_same_scores(evaluate_features(*features, *labels(), metric="cosine"), expected)


def test_euclidean_is_the_default_metric():
    query, gallery = feature_sets()
    by_default = evaluate_features(query, gallery, *labels())
    assert_same_scores(by_default, evaluate_features(query, gallery, *labels(), metric="euclidean"))
    assert by_default.mAP != evaluate_features(query, gallery, *labels(), metric="cosine").mAP


@given(seed=st.integers(0, 10**6), dtype=st.sampled_from(["float32", "float64"]))
def test_features_with_tied_distances(seed, dtype):
    rng = np.random.default_rng(seed)
    query, gallery = rng.integers(-2, 3, (12, 3)) * 1.0, rng.integers(-2, 3, (60, 3)) * 1.0
    arguments = labels(12, 60, seed)
    table = distance_matrix(query, gallery, single=dtype == "float32")
    scores = evaluate_features(query.astype(dtype), gallery.astype(dtype), *arguments)
    assert_same_scores(scores, reference.evaluate(table, *arguments))


@pytest.mark.parametrize(("dtype", "ties"), [("float32", 1), ("float64", 0)])
def test_features_are_compared_by_their_rounded_distance(dtype, ties):
    query, gallery = np.zeros((1, 2)), np.array([[1, 2.0**-14], [1, 0]])
    scores = evaluate_features(query.astype(dtype), gallery.astype(dtype), [1], [1, 2])
    assert scores.tied_rank1 == ties
    # float32: a tie, so the lower index, which is right, comes first; float64: the wrong one is nearer
    assert scores.rank(1) == ties


def test_features_with_a_large_mean():
    rng = np.random.default_rng(0)
    query, gallery = rng.integers(-8, 9, (20, 6)) + 4096.0, rng.integers(-8, 9, (90, 6)) + 4096.0
    arguments = labels(20, 90, seed=2)
    scores = evaluate_features(F32.make(query), F32.make(gallery), *arguments)
    assert_same_scores(scores, reference.evaluate(distance_matrix(query, gallery), *arguments))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_of_any_scale(metric, scale, dtype):
    kind = ArrayKind("numpy", dtype)
    query, gallery = (x * scale for x in feature_sets())
    table = METRICS[metric](kind.rounded(query), kind.rounded(gallery)).astype(dtype)
    scores = evaluate_features(kind.make(query), kind.make(gallery), *labels(), metric=metric)
    assert_same_scores(scores, reference.evaluate(table, *labels()))


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 3e38), ("float64", 1.5e308)])
def test_distances_that_do_not_fit_are_refused(dtype, largest):
    query, gallery = (x / np.abs(x).max() for x in feature_sets())
    gallery[:3], gallery[3] = 1, 0.9
    evaluate_features(*((x * (largest / 10)).astype(dtype) for x in (query, gallery)), *labels())
    with pytest.raises(ValueError, match=f"leave the range of torch.{dtype}: received features so large"):
        evaluate_features(*((x * largest).astype(dtype) for x in (query, gallery)), *labels())


@pytest.mark.parametrize("metric", METRICS)
def test_features_that_a_float32_product_cannot_tell_apart(metric):
    """Within a cluster the product is off by more than distances differ, so the order is measured."""
    rng = np.random.default_rng(0)
    gallery = rng.standard_normal((6, 40))[rng.integers(0, 6, 300)] + 1e-3 * rng.standard_normal((300, 40))
    query, gallery = F32.rounded(gallery[:20] + 1e-3 * rng.standard_normal((20, 40))), F32.rounded(gallery)
    arguments = labels(20, 300, seed=4)
    expected = reference.evaluate(METRICS[metric](query, gallery).astype(np.float32), *arguments)
    assert_same_scores(evaluate_features(F32.make(query), F32.make(gallery), *arguments, metric=metric), expected)


@pytest.mark.parametrize("outlier", [False, True])
def test_an_outlier_is_left_to_float64_products(monkeypatch, outlier):
    """It makes the bound on a float32 product so wide that nearly everything would have to be measured."""
    rng = np.random.default_rng(0)
    query, gallery = (F32.rounded(rng.standard_normal((n, 30))) for n in (64, 900))
    gallery[7] *= 1e4 if outlier else 1
    arguments = labels(64, 900, seed=5)
    products, measured = [], []
    bound, pairs = tiles.slack, tiles.pair_distances
    monkeypatch.setattr(tiles, "slack", lambda width, dtype: products.append(dtype) or bound(width, dtype))
    monkeypatch.setattr(
        tiles,
        "pair_distances",
        lambda query, gallery, rows, *rest: measured.append(len(rows)) or pairs(query, gallery, rows, *rest),
    )
    scores = evaluate_features(F32.make(query), F32.make(gallery), *arguments)
    assert_same_scores(scores, reference.evaluate(distance_matrix(query, gallery), *arguments))
    assert set(products) == ({torch.float32, torch.float64} if outlier else {torch.float32})
    assert sum(measured) < 64 * 900 / 64


def test_a_larger_gallery_than_one_block():
    query, gallery = (F32.rounded(x) for x in feature_sets(70, 3000, 4, seed=3))
    arguments = labels(70, 3000, seed=3)
    expected = evaluate(distance_matrix(query, gallery).astype(np.float32), *arguments)
    assert_same_scores(evaluate_features(F32.make(query), F32.make(gallery), *arguments), expected)


def test_features_on_a_device(device):
    query, gallery = (torch.tensor(x, dtype=torch.float32, device=device) for x in feature_sets())
    expected = reference.evaluate(distance_matrix(as_float64(query), as_float64(gallery)), *labels())
    assert_same_scores(evaluate_features(query, gallery, *labels()), expected)


def test_progress_changes_nothing():
    query, gallery = feature_sets()
    shown = evaluate_features(query, gallery, *labels(), progress=True)
    assert_same_scores(shown, evaluate_features(query, gallery, *labels()))


def test_co_located_pairs_that_share_a_camera_are_merged():
    for pairs in (((1, 2), (2, 3)), ((2, 3), (1, 2)), ((3, 2), (1, 3)), ((1, 2), (3, 4), (4, 2))):
        cams = Protocol("p", "", True, co_located=pairs).merge_cameras(np.array([1, 2, 3, 7]))
        assert len(set(cams[:3])) == 1, pairs
        assert cams[3] == 7
    names = Protocol("p", "", True, co_located=((1, 2), (2, 3))).merge_cameras(np.array(["1", "2", "3", "a"]))
    assert (len(set(names[:3])), names[3]) == (1, "a")


def test_a_whole_camera_only_with_the_rule_for_cameras():
    with pytest.raises(ValueError, match="whole_camera_is_junk needs same_camera_is_junk"):
        Protocol("p", "", False, whole_camera_is_junk=True)


def test_every_metric_is_known_here():
    assert tuple(METRICS) == METRIC_NAMES


def test_protocols_need_no_torch():
    program = """
import sys
sys.modules["torch"] = None  # no import of it succeeds
from pose2id.evaluation import METRICS, PROTOCOLS
import pose2id.evaluation.protocols
try:
    from pose2id.evaluation import evaluate
except ImportError as error:
    assert "torch" in str(error)
else:
    raise SystemExit("evaluate should need torch")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


# Single rankings


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if not PROTOCOLS[name].repetitions])
@pytest.mark.parametrize("cams", [True, False])
def test_rankings_agree_with_the_scores(protocol, cams):
    rng = np.random.default_rng(4)
    for seed in range(8):
        arguments = (*labels(12, 50, seed)[:2], *(rng.integers(1, 5, n) for n in (12, 50)))[: 4 if cams else 2]
        table = rng.integers(0, 30, (12, 50)) / 30  # ties
        scores = evaluate(table, *arguments, protocol=protocol)
        rankings = rank_gallery(table, *arguments, queries=range(12), protocol=protocol)
        precisions = [ranking.average_precision for ranking in rankings]
        np.testing.assert_allclose(precisions, scores.average_precision, rtol=1e-12)
        first = [ranking.right[0] for ranking in rankings if ranking.right.any()]
        assert len(first) == scores.valid_queries
        assert np.mean(first) == scores.rank(1)
        if not PROTOCOLS[protocol].cmc_over_identities:
            assert max(len(ranking.rows) for ranking in rankings if ranking.right.any()) == len(scores.cmc)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rankings_leave_out_what_the_protocol_marks(protocol):
    query_ids, gallery_ids, query_cams, gallery_cams = labels(9, 60, 7)
    query_cams, gallery_cams = query_cams + 1, gallery_cams + 1  # "sysu-mm01" has no camera 0
    table = np.random.default_rng(5).integers(0, 9, (9, 60)) / 9
    rankings = rank_gallery(
        table, query_ids, gallery_ids, query_cams, gallery_cams, queries=[8, 0, 8], protocol=protocol
    )
    for query, ranking in zip((8, 0, 8), rankings, strict=True):
        junk = PROTOCOLS[protocol].junk(query_ids[query], gallery_ids, query_cams[query], gallery_cams)
        expected = [row for row in sorted(range(60), key=lambda row: (table[query, row], row)) if not junk[row]]
        assert ranking.rows.tolist() == expected
        np.testing.assert_array_equal(ranking.right, gallery_ids[expected] == query_ids[query])


def test_rankings_of_every_kind(array_kind):
    table = array_kind.rounded(distances())
    given = rank_gallery(array_kind.make(distances()), *labels(), queries=[3, 29])
    for ranking, expected in zip(given, rank_gallery(table, *labels(), queries=[3, 29]), strict=True):
        np.testing.assert_array_equal(ranking.rows, expected.rows)


def test_a_ranking_without_a_match():
    (ranking,) = rank_gallery(np.array([[0.2, 0.1]]), [9], [1, 2], queries=[0])
    assert ranking.rows.tolist() == [1, 0]
    assert not ranking.right.any()
    assert np.isnan(ranking.average_precision)


@pytest.mark.parametrize(
    ("queries", "error"), [([2], ValueError), ([-1], ValueError), ([0.5], TypeError), ([True], TypeError)]
)
def test_rankings_of_no_row(queries, error):
    with pytest.raises(error, match="queries must be"):
        rank_gallery(np.zeros((2, 2)), [1, 2], [1, 2], queries=queries)


# Cameras that mean something


FITTING = ([1, 2, 3, 4, 5, 6], ["1", "2", "3", "4", "5", "6"])
SYSU = PROTOCOLS["sysu-mm01"]


def camera_calls(cams, protocol):
    """Everything that reads cameras by a protocol, with these for the gallery and camera `cams[0]` for the query."""
    table, people, one = np.arange(len(cams))[None] / 9, [7] * len(cams), np.array(cams)[:1]
    features = np.eye(len(cams), dtype=np.float32)
    yield lambda: evaluate(table, [7], people, one, cams, protocol=protocol)
    yield lambda: evaluate_features(features[:1], features, [7], people, one, cams, protocol=protocol)
    yield lambda: rank_gallery(table, [7], people, one, cams, queries=[0], protocol=protocol)
    yield lambda: (SYSU if isinstance(protocol, str) else protocol).junk(7, np.array(people), one[0], np.array(cams))


@pytest.mark.parametrize(
    ("query", "words"),
    [(("7", 1), "query_id and gallery_ids must both"), ((7, "1"), "query_cam and gallery_cams must both")],
)
def test_junk_of_labels_that_do_not_mix(query, words):
    with pytest.raises(TypeError, match=words):
        PROTOCOLS["market1501"].junk(query[0], np.array([7, 8]), query[1], np.array([1, 2]))


@pytest.mark.parametrize("cams", FITTING)
def test_cameras_that_the_protocol_knows(cams):
    for call in camera_calls(cams, "sysu-mm01"):
        call()


@pytest.mark.parametrize(
    ("cams", "named"),
    [
        ([0, 1, 2, 3, 4, 5], "0"),
        ([1, 2, 3, 7], "7"),
        ([1, 2, -3], "-3"),
        (["cam1", "cam2", "cam3"], "'cam1'"),
        (["0", "1", "2"], "'0'"),
        (["01", "02", "03"], "'01'"),
        (["1", "2", "3 "], "'3 '"),
        (["1", "+2"], r"'\+2'"),
        (["1", "2.0"], r"'2\.0'"),
        (["1", ""], "''"),
        (["1", "٣"], "'٣'"),  # a digit, but no number of ours
        (["1", "1" * 400], "'1111"),
        (np.array([2**60, 1]), str(2**60)),
    ],
)
def test_cameras_that_the_protocol_does_not_know(cams, named):
    """They were taken for cameras of their own, and those that look at one place were not found."""
    for call in camera_calls(cams, "sysu-mm01"):
        words = rf"cams? must be cameras as protocol 'sysu-mm01' numbers them, each one of 1, .*, 6, received {named}"
        with pytest.raises(ValueError, match=words):
            call()
    evaluate(np.arange(len(cams))[None] / 9, [7], [7] * len(cams), [cams[0]], cams)  # market1501 takes any


def test_cameras_of_a_protocol_of_ones_own():
    own = Protocol("door", "", same_camera_is_junk=True, co_located=((1, 2),))
    for call in camera_calls(["cam1", "cam2"], own):
        with pytest.raises(ValueError, match="protocol 'door' numbers them, each a whole number, received 'cam1'"):
            call()
    for call in (*camera_calls(["9", "1", "2"], own), *camera_calls([0, 1, 2, -7], own)):
        call()
    named = Protocol("doors", "", same_camera_is_junk=True, cameras=(1, 2, 3))
    for call in camera_calls([1, 4], named):
        with pytest.raises(ValueError, match="each one of 1, 2, 3, received 4"):
            call()
    with pytest.raises(ValueError, match=r"co_located must be pairs of cameras \(1, 2\), received \(\(2, 3\),\)"):
        Protocol("doors", "", same_camera_is_junk=True, cameras=(1, 2), co_located=((2, 3),))


@pytest.mark.parametrize(("q", "g"), [(20, 0), (0, 20), (0, 0)])
def test_sides_without_rows_have_no_match(q, g):
    rows, labels = np.ones((20, 4), np.float32), np.arange(20)
    with pytest.raises(ValueError, match=f"received {q} queries and {g} gallery items without any"):
        evaluate_features(rows[:q], rows[:g], labels[:q], labels[:g])
