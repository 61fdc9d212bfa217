"""Cleaning of a data set: distances against explicit inverses, quantiles, poses, the report and the contact sheet."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pose2id.ipg.training.cleaning import FEWEST, LEAST_SHRINKAGE, clean, draw_dropped, mahalanobis_distances
from pose2id.poses import Pose, PoseLimits, pose_faults, representative_poses

POSES = representative_poses()


def covariance(rows):
    centred = rows - rows.mean(axis=0)
    return centred.T @ centred / len(rows)


def explicit(rows, shrinkage):
    """By the D x D matrix and its inverse."""
    s, d = covariance(rows), rows.shape[1]
    sigma = (1 - shrinkage) * s + shrinkage * np.trace(s) / d * np.eye(d)
    centred = rows - rows.mean(axis=0)
    return np.sqrt(np.einsum("id,de,ie->i", centred, np.linalg.inv(sigma), centred))


def ledoit_wolf(rows):
    """Lemma 3.2 to 3.5 of the paper, term by term; norms are divided by D as there."""
    n, d = rows.shape
    centred, s = rows - rows.mean(axis=0), covariance(rows)

    def norm(matrix):
        return np.trace(matrix @ matrix.T) / d

    mean = np.trace(s) / d
    spread = norm(s - mean * np.eye(d))
    error = sum(norm(np.outer(row, row) - s) for row in centred) / n**2
    return min(error, spread) / spread


SHAPES = [(30, 4), (10, 6), (6, 40), (3, 50), (200, 20)]


def rows_of(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) @ (rng.normal(size=(shape[1],) * 2) * np.geomspace(1, 0.05, shape[1])) + 7


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shrinkage", [0.02, 0.4, 1.0])
def test_distances_are_those_of_the_explicit_inverse(shape, shrinkage):
    rows = rows_of(shape)
    found = mahalanobis_distances(rows, shrinkage=shrinkage)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, explicit(rows, shrinkage), rtol=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
def test_shrinkage_is_the_estimate_of_ledoit_and_wolf(shape):
    rows = rows_of(shape)
    estimate = ledoit_wolf(rows)
    assert LEAST_SHRINKAGE < estimate < 1
    np.testing.assert_allclose(mahalanobis_distances(rows), explicit(rows, estimate), rtol=1e-8)


def test_shrinkage_agrees_with_scikit_learn():
    sklearn = pytest.importorskip("sklearn.covariance")
    rows = rows_of((25, 60))
    np.testing.assert_allclose(ledoit_wolf(rows), sklearn.ledoit_wolf_shrinkage(rows), rtol=1e-10)


def test_distances_of_two_by_hand():
    # S = diag(1, 0), so the estimate is 0 and 0.01 is taken: Sigma = diag(0.995, 0.005).
    np.testing.assert_allclose(mahalanobis_distances([[1, 0], [-1, 0]]), 1 / 0.995**0.5)
    # With s = 1, Sigma = 0.5 I: the distance is sqrt(2) times the Euclidean one.
    np.testing.assert_allclose(mahalanobis_distances([[1, 0], [-1, 0]], shrinkage=1), 2**0.5)


def test_distances_of_none_one_and_equal_rows():
    assert mahalanobis_distances(np.zeros((0, 5))).shape == (0,)
    assert mahalanobis_distances([[3.0, 4.0]]).tolist() == [0.0]
    assert mahalanobis_distances(np.full((4, 3), 0.1)).tolist() == [0.0] * 4


@pytest.mark.parametrize("scale", [1e-150, 1e-20, 1e150])
def test_distances_do_not_depend_on_the_scale(scale):
    rows = rows_of((8, 20)) - 7
    np.testing.assert_allclose(mahalanobis_distances(rows * scale), mahalanobis_distances(rows), rtol=1e-9)


def test_distances_of_tensors_on_any_device(device):
    rows = np.random.default_rng(0).standard_normal((6, 9))
    there = torch.tensor(rows, device=device, requires_grad=True)
    np.testing.assert_array_equal(mahalanobis_distances(there), mahalanobis_distances(rows))


def test_as_many_dimensions_as_the_encoder_has():
    rows = rows_of((12, 30))
    wide = np.zeros((12, 3840))
    wide[:, ::128] = rows
    found = mahalanobis_distances(wide.astype(np.float32), shrinkage=0.3)
    mean = np.trace(covariance(rows)) / 3840
    sigma = 0.7 * covariance(rows) + 0.3 * mean * np.eye(30)  # the other dimensions are 0
    centred = rows - rows.mean(axis=0)
    np.testing.assert_allclose(found**2, (centred @ np.linalg.inv(sigma) * centred).sum(axis=1), rtol=1e-3)


@pytest.mark.parametrize(
    ("features", "shrinkage", "error", "words"),
    [
        ([1.0, 2.0], None, ValueError, r"shape \(N, D\) with D >= 1, received \(2,\)"),
        (np.zeros((3, 0)), None, ValueError, r"received \(3, 0\)"),
        ([["a"]], None, TypeError, "real numbers, received dtype <U1"),
        ([[1.0], [np.nan], [np.inf]], None, ValueError, r"finite; not so in rows \[1 2\]"),
        ([[1.0]], 0.0, ValueError, "shrinkage must be above 0"),
        ([[1.0]], 1.5, ValueError, "shrinkage must be a number from 0 to 1"),
    ],
)
def test_wrong_features_are_refused(features, shrinkage, error, words):
    with pytest.raises(error, match=words):
        mahalanobis_distances(features, shrinkage=shrinkage)


def people(sizes, d=64, seed=0):
    """Features and ids: identities of these sizes, centres and spread at random."""
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(len(sizes)), sizes)
    centres = rng.normal(size=(len(sizes), d)) * 3
    return centres[ids] + rng.normal(size=(len(ids), d)) * rng.uniform(0.5, 2, len(sizes))[ids, None], ids


def test_cleaning_step_by_step():
    features, ids = people([10, 4, 25, 7])
    poses = [POSES[i % 8] for i in range(len(ids))]
    cleaned = clean(features, ids, poses, quantile=0.05)
    distances = np.empty(len(ids))
    shrinkage = np.median([ledoit_wolf(features[ids == label]) for label in range(4)])
    for label in range(4):
        own = explicit(features[ids == label], shrinkage)
        distances[ids == label] = own / np.sqrt((own**2).mean())
    np.testing.assert_allclose(cleaned.distances, distances, rtol=1e-8)

    ordered = np.sort(distances)  # 46 of them: the 5 % quantile is a quarter of the way from the 3rd to the 4th
    assert cleaned.low == pytest.approx(ordered[2] + 0.25 * (ordered[3] - ordered[2]))
    assert cleaned.high == pytest.approx(ordered[43] - 0.25 * (ordered[43] - ordered[42]))
    dropped = np.isin(distances, [*ordered[:3], *ordered[-3:]])
    np.testing.assert_array_equal(cleaned.reference, ~dropped)
    np.testing.assert_array_equal(cleaned.target, ~dropped)
    assert sorted(cleaned.reasons) == np.flatnonzero(dropped).tolist()
    farthest, nearest = int(distances.argmax()), int(distances.argmin())
    assert cleaned.reasons[farthest] == f"distance {ordered[-1]:.3g} above {cleaned.high:.3g}"
    assert cleaned.reasons[nearest] == f"distance {ordered[0]:.3g} below {cleaned.low:.3g}"


@pytest.mark.parametrize("seed", range(5))
def test_people_under_a_wrong_name_are_found_whatever_the_number_of_pictures(seed):
    sizes = np.random.default_rng(seed).integers(5, 40, 60)
    features, ids = people(sizes, d=512, seed=seed)
    wrong = np.random.default_rng(seed + 100).choice(len(ids), 6, replace=False)
    names = ids.copy()
    names[wrong] = (ids[wrong] + 1) % 60
    cleaned = clean(features, names, [POSES[0]] * len(ids), quantile=0.005)
    assert set(wrong) <= set(np.flatnonzero(cleaned.distances > cleaned.high))


def test_shrinkage_may_be_given():
    features, ids = people([10, 4, 25, 7])
    cleaned = clean(features, ids, [POSES[0]] * 46, shrinkage=0.7)
    own = explicit(features[:10], 0.7)
    np.testing.assert_allclose(cleaned.distances[:10], own / np.sqrt((own**2).mean()))


def test_poses_decide_on_targets_only():
    features, ids = people([8, 8])
    bad = POSES[0].keypoints.copy()
    bad[9] = bad[8]
    poses = [*POSES, *POSES]
    poses[3], poses[5] = None, Pose(bad)
    cleaned = clean(features, ids, poses, quantile=0.0)
    assert cleaned.reference.all()
    assert np.flatnonzero(~cleaned.target).tolist() == [3, 5] == sorted(cleaned.reasons)
    assert cleaned.reasons[3] == "no pose"
    assert cleaned.reasons[5] == "; ".join(pose_faults(Pose(bad)))
    strict = clean(features, ids, poses, quantile=0.0, limits=PoseLimits(missing=0))
    assert strict.target.sum() < cleaned.target.sum()
    flat = clean(features, ids, poses, quantile=0.0, aspect=3.0)
    assert flat.target.sum() < cleaned.target.sum()


def test_targets_are_references():
    features, ids = people([30])
    cleaned = clean(features, ids, [None] * 30, quantile=0.1)
    assert not cleaned.target.any()
    assert cleaned.reference.sum() == 24
    assert len(cleaned.reasons) == 30


def test_few_or_equal_pictures_are_kept():
    features, ids = people([FEWEST - 1, 1, 12])
    features, ids = np.vstack([features, np.ones((5, 64))]), np.append(ids, [9] * 5)
    cleaned = clean(features, ids, [POSES[0]] * 20, quantile=0.1)
    alone = [0, 1, 2, *range(15, 20)]
    assert np.isnan(cleaned.distances[alone]).all()
    assert cleaned.reference[alone].all()
    assert np.isfinite(cleaned.distances[3:15]).all()
    lonely = clean(features[:3], ids[:3], [POSES[0]] * 3)
    assert lonely.reference.all()
    assert (lonely.low, lonely.high) == (0.0, np.inf)
    assert clean(np.zeros((0, 4)), [], []).reference.shape == (0,)


def test_names_may_be_strings_and_order_does_not_matter():
    features, ids = people([9, 11])
    poses = [POSES[0]] * 20
    shuffled = np.random.default_rng(0).permutation(20)
    one = clean(features, ids, poses, quantile=0.1)
    two = clean(features[shuffled], [f"p{ids[row]}" for row in shuffled], poses, quantile=0.1)
    np.testing.assert_array_equal(two.reference, one.reference[shuffled])


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"ids": [1, 2]}, ValueError, r"ids must have shape \(4,\)"),
        ({"poses": [None]}, ValueError, "poses must hold one entry for each of the 4 features, received 1"),
        ({"quantile": 0.5}, ValueError, "quantile must be below 0.5"),
        ({"quantile": 0.6}, ValueError, "quantile must be a number from 0 to 0.5"),
        ({"limits": 3}, TypeError, "limits must be PoseLimits"),
        ({"features": np.full((4, 3), np.nan)}, ValueError, r"finite; not so in rows \[0 1 2 3\]"),
    ],
)
def test_wrong_input_is_refused(change, error, words):
    given = {"features": np.eye(4), "ids": [1, 1, 1, 1], "poses": [POSES[0]] * 4} | change
    with pytest.raises(error, match=words):
        clean(given.pop("features"), given.pop("ids"), given.pop("poses"), **given)


def some_dropped():
    features, ids = people([12, 2])
    features[4] += 30
    bad = POSES[0].keypoints.copy()
    bad[9] = bad[8]
    poses = [POSES[0]] * 14
    poses[7], poses[9], poses[12], poses[13] = None, Pose(bad), None, None
    return clean(features, ids, poses, quantile=0.05)


def test_the_report():
    cleaned = some_dropped()
    assert sorted(cleaned.reasons) == sorted({4, 7, 9, 12, 13, int(np.nanargmin(cleaned.distances))})
    low, high = f"{cleaned.low:.3g}", f"{cleaned.high:.3g}"
    lines = [line.rsplit(maxsplit=1) for line in cleaned.report().splitlines()]
    assert {name.strip(): int(count) for name, count in lines} == {
        "pictures": 14,
        "references (S_ref)": 12,
        f"farther than {high}": 1,
        f"nearer than {low}": 1,
        "targets (S_trg)": 8,
        "not: no pose": 3,
        "not: right thigh": 1,
        "not: thigh": 1,
        "not: right shin": 1,
        "not: shin": 1,
        "not: right knee": 1,
        "identities": 2,
        "with references and targets": 1,
    }


def test_the_contact_sheet(tmp_path):
    image = pytest.importorskip("PIL.Image")
    cleaned = some_dropped()
    # A colour for each picture; those that are not drawn would not even open.
    pictures = [
        image.new("RGB", (64, 128), (row * 15, 0, 255)) if row in cleaned.reasons else None for row in range(14)
    ]
    pictures[7] = np.asarray(pictures[7])
    pictures[9].save(tmp_path / "9.png")
    pictures[9] = tmp_path / "9.png"
    sheet = draw_dropped(pictures, cleaned, columns=4)
    assert sheet.size == (4 * 128, 2 * (128 + 64))
    outliers = sorted(row for row in cleaned.reasons if not cleaned.reference[row])
    order = outliers + [row for row in sorted(cleaned.reasons) if row not in outliers]
    for place, row in enumerate(order):
        left, top = place % 4 * 128, place // 4 * 192
        assert sheet.getpixel((left + 64, top + 60)) == (row * 15, 0, 255)
        below = np.asarray(sheet.crop((left, top + 128, left + 128, top + 192)))
        assert (below.min(axis=2) < 128).sum() > 20  # something is written
    assert draw_dropped(pictures, cleaned, columns=4, limit=3).size == (3 * 128, 192)
    with pytest.raises(ValueError, match="images must hold 14 pictures, received 13"):
        draw_dropped(pictures[1:], cleaned)
    with pytest.raises(ValueError, match="columns must be an integer >= 1"):
        draw_dropped(pictures, cleaned, columns=0)
    empty = draw_dropped(pictures, replace(cleaned, reasons={}))
    assert empty.size == (128, 192)
