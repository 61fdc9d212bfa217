"""Choosing settings: what is best by construction is chosen, on the labels of the validation identities alone."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pose2id import centralize, evaluate_features
from pose2id.centralization import SearchedSet
from pose2id.cli import main
from pose2id.study import GRID, FeatureSet, choose, run_study, standard_error

PEOPLE = 24


def make_side(copies: int, seed: int, *, noise: float = 0.7) -> FeatureSet:
    """Rows around centres, half of them hard to tell apart, with cameras, generated features and names of people."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((PEOPLE, 6))
    who = rng.permutation(np.repeat(np.arange(PEOPLE), copies))
    features, first, second = (centres[who] + noise * rng.standard_normal((len(who), 6)) for _ in range(3))
    generated = np.stack([first, second], axis=1).astype(np.float32)
    ids = np.array([f"person {i}" for i in who])
    return FeatureSet(features.astype(np.float32), ids, rng.integers(0, 4, len(who)), generated)


QUERY, GALLERY = make_side(2, 0), make_side(5, 1)
SMALL = {"eta": (0, 1), "k": (0, 2), "alpha": (0, 4)}


def shuffle(side: FeatureSet, order: np.ndarray) -> FeatureSet:
    return FeatureSet(side.features[order], side.ids[order], side.cams[order], side.generated[order])


@pytest.fixture(scope="module")
def choice():
    return choose(QUERY, GALLERY, over=SMALL)


def cancel(side: FeatureSet, at: float) -> FeatureSet:
    """Generated features that cancel all noise at one eta, and only there."""
    rng = np.random.default_rng(len(side.ids))
    who = np.array([int(name.split()[1]) for name in side.ids])
    centres, noise = np.eye(PEOPLE)[who], rng.standard_normal((len(who), PEOPLE))
    features, generated = centres + at * noise, centres - noise
    return replace(side, features=features.astype(np.float32), generated=generated.astype(np.float32))


@pytest.mark.parametrize("at", [0.25, 4.0])
def test_the_eta_that_is_best_by_construction(at) -> None:
    choice = choose(cancel(QUERY, at), cancel(GALLERY, at), over={"k": [0]})
    assert choice.setting.eta == choice.arguments["eta"] == at
    assert choice.tried[0].setting.eta == at
    assert {trial.setting.eta for trial in choice.tried} == set(GRID["eta"])
    assert choice.tried[0].mAP == choice.reported[-1].mAP == 1.0 > choice.tried[1].mAP
    assert choice.warning == ""


def test_features_that_neighbours_can_only_spoil() -> None:
    """Each row's nearest is somebody else's, and the two become one."""
    who = np.arange(PEOPLE)
    side = FeatureSet(np.hstack([np.eye(PEOPLE)[who // 2], 0.3 * np.eye(PEOPLE)]), who)
    choice = choose(side, side, over={"k": (0, 1, 2), "alpha": [0]})
    assert choice.setting.k1 == 0
    assert choice.tried[0].mAP == choice.reported[-1].mAP == 1.0 > choice.reported[0].mAP
    assert choice.warning == ""


def test_where_nothing_can_be_told_the_recommended_setting_is_chosen_with_a_warning() -> None:
    side = replace(cancel(make_side(8, 0), 0.0), generated=None)
    choice = choose(side, side)
    assert {trial.mAP for trial in choice.tried} == {1.0}
    assert choice.setting.name == "k1 = k2 = 3, alpha 4, other cameras"
    assert choice.warning.startswith(
        "the best setting is within the error of the published one: +0.00 ± 0.00 mAP on 12"
    )
    assert f"warning: {choice.warning}" in str(choice)


@pytest.mark.parametrize("kind", ["float32", "float16", "tensors"])
def test_every_trial_is_what_a_study_finds(kind) -> None:
    sides = []
    for side in (QUERY, GALLERY):
        arrays = [array.copy() for array in (side.features, side.generated)]
        arrays[0][3] = arrays[1][3] = 0  # a row without direction
        arrays = [array.astype(np.float16) if kind == "float16" else array for array in arrays]
        features, generated = map(torch.from_numpy, arrays) if kind == "tensors" else arrays
        sides.append(replace(side, features=features, generated=generated, groups=np.arange(len(side.ids)) // 3))
    rules = {"protocol": "all", "metric": "cosine"}
    choice = choose(*sides, over={"eta": (0, 0.5), "k": (0, 3), "alpha": (2,)}, **rules)
    for identities, trials in ((choice.validation, choice.tried), (choice.others, choice.reported)):
        chosen = np.isin(QUERY.ids, identities)
        masked = replace(sides[0], ids=np.where(chosen, QUERY.ids, "-1"))
        rows = run_study(masked, sides[1], [trial.setting for trial in trials], density=False, **rules)
        ends = [choice.published.setting, choice.base.setting]
        published, base = run_study(masked, sides[1], ends, density=False, **rules)
        for row, trial in zip(rows, trials, strict=True):
            np.testing.assert_array_equal(row.scores.average_precision, trial.scores.average_precision)
            assert (row.mAP, row.rank1, row.error) == (trial.mAP, trial.rank1, trial.error)
            assert trial.gain == row.mAP - published.mAP
            pairs = row.scores.average_precision - published.scores.average_precision
            means = np.array([pairs[QUERY.ids == name].mean() for name in identities])
            assert trial.gain_error == pytest.approx(means.std(ddof=1) / len(means) ** 0.5, rel=1e-9, abs=1e-15)
            assert trial.over_base == row.mAP - base.mAP
            pairs = row.scores.average_precision - base.scores.average_precision
            means = np.array([pairs[QUERY.ids == name].mean() for name in identities])
            assert trial.over_base_error == pytest.approx(means.std(ddof=1) / len(means) ** 0.5, rel=1e-9, abs=1e-15)


def test_the_table(choice) -> None:
    names = [trial.name for trial in choice.tried]
    assert len(names) == len(set(names)) == 2 * (1 + 2 * 2)
    assert [trial.mAP for trial in choice.tried] == sorted((trial.mAP for trial in choice.tried), reverse=True)
    assert (choice.published.name, choice.base.name) == ("eta 1, k1 = k2 = 2", "length 1")
    assert [trial.name for trial in choice.reported] == ["length 1", "eta 1, k1 = k2 = 2", choice.setting.name]
    assert choice.base.mAP == next(trial.mAP for trial in choice.tried if trial.name == "length 1")
    lines = choice.describe(None).splitlines()
    assert [line.strip()[: len(name)] for line, name in zip(lines[3:], names, strict=False)] == names
    assert "12 other identities" in lines
    assert lines[0].split() == ["mAP", "R1", "over", "published", "over", "length", "1"]
    assert next(line for line in lines if line.startswith("  length 1 ")).endswith("  +0.00 ± 0.00")
    assert f"chosen: {choice.setting.name}" in lines
    assert "9 more were tried" in choice.describe(1)
    apart = choice.setting.other_cameras
    pulled = [
        centralize(side.features, side.generated, exclude=side.cams if apart else None, **choice.arguments)
        for side in (QUERY, GALLERY)
    ]
    ids = np.where(np.isin(QUERY.ids, choice.others), QUERY.ids, "-1")
    assert evaluate_features(*pulled, ids, GALLERY.ids, QUERY.cams, GALLERY.cams).mAP == choice.reported[-1].mAP


def test_labels_of_the_other_identities_do_not_enter(choice) -> None:
    rng = np.random.default_rng(0)
    sides = []
    for side in (QUERY, GALLERY):
        ids, other = side.ids.copy(), np.isin(side.ids, choice.others)
        ids[other] = rng.permutation(ids[other])
        sides.append(replace(side, ids=ids))
    again = choose(*sides, over=SMALL)
    assert again.setting == choice.setting
    assert [(x.name, x.mAP, x.gain_error) for x in again.tried] == [(x.name, x.mAP, x.gain_error) for x in choice.tried]
    assert [x.mAP for x in again.reported] != [x.mAP for x in choice.reported]
    own = [replace(side, ids=np.where(np.isin(side.ids, choice.validation), "person 0", side.ids)) for side in sides]
    assert [x.mAP for x in choose(*own, over=SMALL).tried] != [x.mAP for x in choice.tried]  # those of the others do


def test_the_order_of_rows_does_not_enter() -> None:
    rng, over = np.random.default_rng(3), {**SMALL, "alpha": (2, 4)}  # alpha 0 leaves ties, which go by the order
    sides = [shuffle(side, rng.permutation(len(side.ids))) for side in (QUERY, GALLERY)]
    choice, again = choose(QUERY, GALLERY, over=over), choose(*sides, over=over)
    assert again.setting == choice.setting
    np.testing.assert_array_equal(again.validation, choice.validation)
    found = {trial.name: trial.mAP for trial in again.tried}
    assert found == pytest.approx({trial.name: trial.mAP for trial in choice.tried}, abs=1e-9)


def test_which_identities_are_validation_ones() -> None:
    over = {"k": [0], "eta": [0]}
    numbers = [replace(x, ids=np.array([int(name.split()[1]) for name in x.ids])) for x in (QUERY, GALLERY)]
    texts = [replace(x, ids=x.ids.astype(str)) for x in numbers]
    one, other = choose(*numbers, over=over), choose(*texts, over=over)
    assert sorted(map(str, one.validation.tolist())) == sorted(other.validation.tolist())
    assert len(set(one.validation) | set(one.others)) == PEOPLE
    assert set(choose(*numbers, over=over, seed=1).validation) != set(one.validation)
    assert len(choose(*numbers, over=over, share=0.25).validation) == 6
    everybody = choose(*numbers, over=over, share=1)
    assert (len(everybody.validation), len(everybody.others), everybody.reported) == (PEOPLE, 0, [])
    (row,) = run_study(*numbers, [everybody.setting], density=False)
    assert everybody.tried[0].mAP == row.mAP
    assert everybody.tried[0].error == standard_error(row.scores, numbers[0].ids)
    junk = replace(numbers[0], ids=np.where(numbers[0].ids == one.validation[0], -1, numbers[0].ids))
    assert -1 not in choose(junk, numbers[1], over=over, share=1).validation


def test_what_is_not_there_is_not_tried() -> None:
    bare = [replace(side, cams=None, generated=None) for side in (QUERY, GALLERY)]
    choice = choose(*bare, over={"k": (0, 4), "alpha": (1.5,)})
    assert {trial.name for trial in choice.tried} == {"length 1", "k1 = k2 = 4, alpha 1.5"}
    assert choice.published.name == "k1 = k2 = 2"
    one_sided = choose(QUERY, replace(GALLERY, generated=None), over={"k": [0], "eta": [0, 1]})
    assert {trial.name for trial in one_sided.tried} == {"length 1", "eta 1"}


def test_parts() -> None:
    sides = []
    for side in (QUERY, GALLERY):
        parts = np.stack([side.features, side.features[:, ::-1]], axis=1)
        seen = np.random.default_rng(0).random(parts.shape[:2]) < 0.8
        sides.append(FeatureSet(parts, side.ids, side.cams, visibility=seen))
    choice = choose(*sides, over={"k": (0, 2), "alpha": [0]})
    masked = replace(sides[0], ids=np.where(np.isin(QUERY.ids, choice.validation), QUERY.ids, "-1"))
    rows = run_study(masked, sides[1], [trial.setting for trial in choice.tried], density=False)
    assert [row.mAP for row in rows] == [trial.mAP for trial in choice.tried]
    assert len(rows) == 3


def test_a_searched_set_is_centralized_to_the_bit() -> None:
    for dtype in (np.float32, np.float16, np.float64):
        features, generated = QUERY.features.astype(dtype), QUERY.generated.astype(dtype)
        searched = SearchedSet(features, generated, 0.5, 4, exclude=QUERY.cams)
        for k1, k2, alpha in ((4, 4, 0.0), (0, 0, 0.0), (2, 3, 2.0), (4, 4, 0.0)):
            expected = centralize(features, generated, 0.5, k1, k2, alpha=alpha, exclude=QUERY.cams)
            np.testing.assert_array_equal(searched.centralize(k1, k2, alpha), expected)
    few = SearchedSet(features[:2], None, 1.0, 9)  # fewer rows than neighbours
    np.testing.assert_array_equal(few.centralize(9, 9, 0.0), centralize(features[:2], k1=9, k2=9))


BARE = replace(QUERY, generated=None, cams=None)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"query": QUERY.features}, TypeError, "query must be a pose2id.study.FeatureSet, received ndarray"),
        ({"gallery": None}, TypeError, "gallery must be a pose2id.study.FeatureSet, received NoneType"),
        ({"over": [1]}, TypeError, "over must be a mapping of names to values, received list"),
        ({"over": {"k1": [1]}}, ValueError, "over must have names out of eta, k, alpha, other_cameras, received 'k1'"),
        ({"over": {"k": 3}}, ValueError, r"over\['k'\] must be a sequence of at least one value, received 3"),
        ({"over": {"alpha": []}}, ValueError, r"over\['alpha'\] must be a sequence of at least one value"),
        ({"over": {"k": [1.5]}}, TypeError, r"a value of over\['k'\] must be an integer >= 0, received 1.5"),
        ({"over": {"eta": [-1]}}, ValueError, r"a value of over\['eta'\] must be a finite number >= 0, received -1"),
        ({"over": {"eta": [math.nan]}}, ValueError, r"a value of over\['eta'\] must be a finite number >= 0"),
        ({"over": {"other_cameras": [1]}}, TypeError, r"over\['other_cameras'\] must be True or False, received 1"),
        (
            {"query": BARE, "gallery": replace(GALLERY, generated=None, cams=None), "over": {"eta": [0, 2]}},
            ValueError,
            "eta = 2.0 needs generated features, which query and gallery lack",
        ),
        (
            {"query": BARE, "gallery": replace(GALLERY, cams=None), "over": {"other_cameras": [True]}},
            ValueError,
            "other_cameras = True needs cameras, which query or gallery lacks",
        ),
        ({"share": 0}, ValueError, "share must be above 0, received 0.0"),
        ({"share": 1.5}, ValueError, "share must be a number from 0 to 1, received 1.5"),
        ({"share": 0.04}, ValueError, "received share = 0.04 of 24 identities with queries; share = 1 takes all"),
        ({"share": 0.99}, ValueError, "reported on at least 1 other, received share = 0.99 of 24"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, received -1"),
        ({"progress": 1}, TypeError, "progress must be True or False"),
        ({"protocol": "magic"}, ValueError, "protocol must be"),
        ({"metric": "magic"}, ValueError, "metric must be one of"),
        ({"engine": "magic"}, ValueError, "engine must be one of"),
    ],
)
def test_what_is_wrong_is_said(arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        choose(**{"query": QUERY, "gallery": GALLERY, **arguments})


def test_a_bar(capsys) -> None:
    choose(QUERY, GALLERY, over={"k": [2], "eta": [1], "alpha": [0], "other_cameras": [False]}, progress=True)
    captured = capsys.readouterr()
    assert "tuning: 100%" in captured.err
    assert captured.out == ""


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch):
    """`pose2id tune` on files of both sides."""
    monkeypatch.chdir(tmp_path)
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        arrays = {"features": side.features, "ids": side.ids, "cams": side.cams, "generated": side.generated}
        np.savez(f"{name}.npz", **arrays)
    return ["tune", "--query", "query.npz", "--gallery", "gallery.npz"]


def test_the_command_prints_what_the_function_finds(command, capsys) -> None:
    words = "--etas 0 1 --ks 0 2 --alphas 0 4 --neighbors other --share 0.4 --seed 3 --protocol all --metric cosine"
    over = {"eta": (0, 1), "k": (0, 2), "alpha": (0, 4), "other_cameras": [True]}
    choice = choose(QUERY, GALLERY, over=over, share=0.4, seed=3, protocol="all", metric="cosine")
    assert main([*command, *words.split()]) == 0
    captured = capsys.readouterr()
    *table, line = captured.out.splitlines()
    assert captured.err == ""
    assert table == str(choice).splitlines()
    arguments = " ".join(f"--{name} {value:g}" for name, value in choice.arguments.items())
    apart = " --exclude-cams" if choice.setting.other_cameras else ""
    assert line == f"pose2id centralize FILE -o OUT {arguments}{apart}"
    assert main([*command, *words.split(), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["chosen"] == choice.setting.name
    assert found["arguments"] == {**choice.arguments, "other_cameras": choice.setting.other_cameras}
    assert (found["validation"], found["others"]) == (choice.validation.tolist(), choice.others.tolist())
    for name in ("tried", "reported"):
        assert [(x["name"], x["mAP"], x["gain"]) for x in found[name]] == [
            (x.name, x.mAP, x.gain) for x in getattr(choice, name)
        ]
    assert (found["published"]["mAP"], found["base"]["rank1"]) == (choice.published.mAP, choice.base.rank1)
    assert found["warning"] == choice.warning


def test_the_command_tries_the_grid_and_prints_all_of_it(command, capsys) -> None:
    assert main([*command, "--etas", "1", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(" ± " in line for line in lines) == 13 + 1 + 3  # the grid, length 1; and on the others
    assert not any("more were tried" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--etas 1 -2", "--etas must be a finite number >= 0, received -2.0"),
        ("--ks 2 -1", "--ks must be an integer >= 0, received -1"),
        ("--share 2", "--share must be a number from 0 to 1, received 2.0"),
        ("--share 0.01", "settings are chosen on at least 2 identities, and reported on at least 1 other"),
        ("--neighbors none", "argument --neighbors: invalid choice: 'none'"),
        ("--whole --gallery nowhere.npz", "nowhere.npz"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(command, capsys, words, message) -> None:
    try:
        code = main([*command, *words.split()])
    except SystemExit as error:  # of argparse
        code = error.code
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("pose2id tune: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_without_cameras_the_command_says_so(command, capsys) -> None:
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(f"{name}.npz", features=side.features, ids=side.ids)
    assert main([*command, "--ks", "0", "2"]) == 0
    captured = capsys.readouterr()
    said = (
        "pose2id tune: no 'cams' in query.npz and gallery.npz: nothing is removed, and no neighbour left out, for its"
    )
    assert captured.err == f"{said} camera\n"
    assert "other cameras" not in captured.out
    for name, side in (("query", QUERY), ("gallery", GALLERY)):
        np.save(f"{name}.npy", side.cams)
    assert main([*command, "--ks", "0", "2", "--query-cams", "query.npy", "--gallery-cams", "gallery.npy"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "other cameras" in captured.out
