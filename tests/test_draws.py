"""Single-gallery-shot protocols: CUHK03 and VehicleID."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from reference import draws as reference
from reference.evaluation import evaluate as evaluate_plainly
from reference.neighbors import distance_matrix
from support.arrays import ArrayKind

from pose2id import evaluate, evaluate_features
from pose2id.evaluation import PROTOCOLS, Protocol
from pose2id.parts import evaluate_parts, part_distances

F32 = ArrayKind("numpy", "float32")
CUHK03 = replace(PROTOCOLS["cuhk03"], repetitions=7, seed=3)
ONE_CAMERA = replace(CUHK03, whole_camera_is_junk=False)
VEHICLES = replace(PROTOCOLS["vehicleid"], repetitions=4, seed=2)


def assert_same(scores, expected, tolerance=1e-12):
    for name in ("mAP", "mINP"):
        assert getattr(scores, name) == pytest.approx(getattr(expected, name), abs=tolerance)
    assert scores.cmc.shape == expected.cmc.shape
    np.testing.assert_allclose(scores.cmc, expected.cmc, rtol=0, atol=tolerance)
    assert (scores.valid_queries, scores.tied_rank1) == (expected.valid_queries, expected.tied_rank1)


def labels(q=25, g=70, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 9, q), rng.integers(-1, 8, g), rng.integers(1, 3, q), rng.integers(1, 3, g)


@pytest.mark.parametrize("protocol", [CUHK03, ONE_CAMERA])
@pytest.mark.parametrize("decimals", [1, 9])
@pytest.mark.parametrize("masked", [False, True])
def test_cuhk03(array_kind, protocol, decimals, masked):
    rng = np.random.default_rng(0)
    distances = rng.random((25, 70)).round(decimals)
    mask = rng.random((25, 70)) < 0.3 if masked else None
    expected = reference.evaluate_cuhk03(
        array_kind.rounded(distances),
        *labels(),
        repetitions=7,
        seed=3,
        separate_camera_set=protocol.whole_camera_is_junk,
        ignored=mask,
    )
    assert_same(evaluate(array_kind.make(distances), *labels(), protocol=protocol, ignore=mask), expected)


def test_cuhk03_of_a_set_against_itself():
    """As torchreid's classic split has it: test images are queries and gallery; a query's own camera is left out."""
    rng = np.random.default_rng(1)
    ids, cams, features = rng.integers(0, 8, 60), rng.integers(0, 2, 60), F32.rounded(rng.standard_normal((60, 5)))
    distances = distance_matrix(features, features).astype(np.float32)
    for protocol in (CUHK03, ONE_CAMERA):
        separate = protocol.whole_camera_is_junk
        expected = reference.evaluate_cuhk03(
            distances, ids, ids, cams, cams, repetitions=7, seed=3, separate_camera_set=separate
        )
        found = evaluate_features(features.astype(np.float32), None, ids, None, cams, protocol=protocol)
        assert_same(found, expected)
        assert_same(evaluate(distances, ids, ids, cams, cams, protocol=protocol), expected)


def test_the_mean_of_many_draws_is_the_expectation():
    """Of three identities with one to three items each, by going through all galleries."""
    ids, row = [1, 1, 2, 2, 2, 3], np.array([0.4, 0.1, 0.3, 0.2, 0.5, 0.35])
    ranks = [
        1 + sum(row[other] < row[own] for other in (two, three)) for own, two, three in product((0, 1), (2, 3, 4), (5,))
    ]
    protocol = replace(PROTOCOLS["cuhk03"], repetitions=400)
    scores = evaluate(row[None], [1], ids, protocol=protocol)
    expected = [np.mean(np.array(ranks) <= k) for k in (1, 2, 3)]
    np.testing.assert_allclose(scores.cmc, expected, atol=0.1)  # four standard errors
    assert scores.mAP == pytest.approx((1 / 1 + 2 / 5) / 2)


def test_the_seed_decides():
    distances = np.random.default_rng(0).random((25, 70))
    one, again, other = (
        evaluate(distances, *labels(), protocol=replace(CUHK03, seed=seed)).cmc.tolist() for seed in (0, 0, 1)
    )
    assert one == again != other


def test_with_one_item_of_each_identity_there_is_nothing_to_draw():
    distances, ids = np.random.default_rng(0).random((20, 9)), np.arange(20) % 9
    for protocol in (CUHK03, VEHICLES):
        found = evaluate(distances, ids, np.arange(9), protocol=protocol)
        assert_same(found, evaluate_plainly(distances, ids, np.arange(9), protocol="all"))


@pytest.mark.parametrize("decimals", [1, 9])
def test_vehicleid(decimals):
    rng = np.random.default_rng(2)
    ids, distances = rng.integers(-1, 9, 60), rng.random((60, 60)).round(decimals)
    ids[0] = 77  # a vehicle with one image is in every gallery
    expected = reference.evaluate_vehicleid(distances, ids, repetitions=4, seed=2)
    found = evaluate(distances, ids, protocol=VEHICLES)
    assert_same(found, expected)
    assert np.isnan(found.average_precision[ids == -1]).all()
    assert np.isnan(found.average_precision[0])
    features = F32.rounded(rng.standard_normal((60, 5)))
    distances = distance_matrix(features, features).astype(np.float32)
    expected = reference.evaluate_vehicleid(distances, ids, repetitions=4, seed=2)
    assert_same(evaluate_features(features.astype(np.float32), None, ids, protocol=VEHICLES), expected)


def test_vehicleid_of_two_sets_draws_from_the_gallery():
    rng = np.random.default_rng(2)
    query_ids, gallery_ids, distances = rng.integers(0, 9, 30), rng.integers(0, 9, 60), rng.random((30, 60))
    galleries = [reference.draw(range(60), gallery_ids, x) for x in reference.random_numbers(2, 4, 60)]
    trials = [evaluate_plainly(distances[:, rows], query_ids, gallery_ids[rows], protocol="all") for rows in galleries]
    found = evaluate(distances, query_ids, gallery_ids, protocol=VEHICLES)
    assert found.mAP == pytest.approx(np.mean([trial.mAP for trial in trials]))
    np.testing.assert_allclose(found.cmc, np.mean([trial.cmc for trial in trials], axis=0))
    assert found.valid_queries == 30


@pytest.mark.parametrize("protocol", [CUHK03, VEHICLES])
def test_draws_of_features_that_a_float32_product_cannot_tell_apart(protocol):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((6, 40))
    rows = F32.rounded(centres[rng.integers(0, 6, 150)] + 1e-3 * rng.standard_normal((150, 40)))
    rows[7] *= 1e4  # and an outlier, which leaves everything to float64 products
    ids, cams = rng.integers(0, 12, 150), rng.integers(1, 3, 150)
    distances = distance_matrix(rows, rows).astype(np.float32)
    by_matrix = evaluate(distances, ids, None, cams, protocol=protocol)
    assert_same(evaluate_features(rows.astype(np.float32), None, ids, None, cams, protocol=protocol), by_matrix)
    coarse = rng.integers(0, 2, (90, 5)) * 1.0
    distances = distance_matrix(coarse, coarse).astype(np.float32)
    arguments = ids[:90], None, cams[:90]
    by_matrix = evaluate(distances, *arguments, protocol=protocol)
    assert by_matrix.tied_rank1 > 0
    assert_same(evaluate_features(coarse.astype(np.float32), None, *arguments, protocol=protocol), by_matrix)


def test_draws_of_parts():
    rng = np.random.default_rng(5)
    parts, seen = rng.standard_normal((40, 3, 4)), rng.random((40, 3)) < 0.5
    ids = rng.integers(0, 6, 40)
    found = evaluate_parts(parts, None, ids, query_visibility=seen, protocol=VEHICLES)
    matrix = part_distances(parts, parts, seen, seen)
    assert_same(found, reference.evaluate_vehicleid(matrix, ids, repetitions=4, seed=2))


def test_draws_on_a_device(device):
    import torch

    distances = np.random.default_rng(0).random((25, 70))
    tensor = torch.tensor(distances, device=device)
    assert_same(evaluate(tensor, *labels(), protocol=CUHK03), evaluate(distances, *labels(), protocol=CUHK03))


@pytest.mark.parametrize("elements", [1, 1000])
def test_block_size_changes_nothing(monkeypatch, elements):
    distances = np.random.default_rng(0).random((25, 70)).round(2)
    expected = evaluate(distances, *labels(), protocol=CUHK03)
    monkeypatch.setattr("pose2id.evaluation.scores.BLOCK_ELEMENTS", elements)
    monkeypatch.setattr("pose2id.evaluation.tiles.BLOCK_ELEMENTS", elements)
    assert_same(evaluate(distances, *labels(), protocol=CUHK03), expected)


@pytest.mark.parametrize("protocol", [CUHK03, VEHICLES])
def test_nothing_to_find(protocol):
    for shape in ((0, 0), (2, 0), (0, 3), (2, 3)):
        with pytest.raises(ValueError, match="at least one query must have a match"):
            evaluate(np.zeros(shape), [7] * shape[0], [8] * shape[1], protocol=protocol)
    with pytest.raises(ValueError, match="at least one query must have a match"):
        evaluate(np.zeros((3, 3)), [1, 2, 3], protocol=protocol)
    with pytest.raises(ValueError, match="at least one query must have a match"):
        evaluate(np.zeros((3, 3)), [-1, -1, 3], protocol=protocol)


def test_they_say_what_they_are():
    assert [name for name, protocol in PROTOCOLS.items() if "single-gallery-shot" in protocol.summary] == [
        "cuhk03",
        "vehicleid",
    ]
    assert (PROTOCOLS["cuhk03"].repetitions, PROTOCOLS["vehicleid"].repetitions) == (100, 10)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"repetitions": 3}, ValueError, "repetitions needs cmc_over_identities, received False"),
        ({"repetitions": -1}, ValueError, "repetitions must be"),
        ({"repetitions": True, "cmc_over_identities": True}, TypeError, "repetitions must be"),
        ({"seed": 0.5}, TypeError, "seed must be"),
        ({"drawn_gallery": True}, ValueError, "drawn_gallery needs repetitions"),
    ],
)
def test_rules_that_do_not_fit(options, error, words):
    with pytest.raises(error, match=words):
        Protocol("p", "", False, **options)
