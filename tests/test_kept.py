"""What a search looks at (`kept`): right items that were dropped are missed, wrong ones are gone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import evaluation as reference
from scipy import sparse
from support.arrays import as_float64

from pose2id import evaluate, evaluate_features
from pose2id.attributes import attribute_filter
from pose2id.evaluation import masks, tiles
from pose2id.parts import evaluate_parts

FORMS = {
    "numpy": lambda kept: kept,
    "torch": torch.from_numpy,
    "csr": sparse.csr_array,
    "coo": sparse.coo_array,
    "csc_matrix": sparse.csc_matrix,
    "with zeros": lambda kept: sparse.csr_array(
        (kept.reshape(-1), np.tile(np.arange(kept.shape[1]), len(kept)), np.arange(len(kept) + 1) * kept.shape[1]),
        shape=kept.shape,
    ),
}


@pytest.fixture(autouse=True)
def _narrow(monkeypatch):
    """Parts of the gallery are looked at in small sets, too, and where they are most of it."""
    monkeypatch.setattr(masks, "_WORTH", 1.0)
    monkeypatch.setattr(masks, "_FEW", 1.0)
    monkeypatch.setattr("pose2id.evaluation.scores.NARROW", 3)
    monkeypatch.setattr(tiles, "NARROW", 3)


def world(seed, q=20, g=60, share=0.3):
    """Labels, and what is kept: mostly right items, for some queries nothing."""
    rng = np.random.default_rng(seed)
    of_labels = (rng.integers(-1, 8, q), rng.integers(-1, 7, g), rng.integers(1, 4, q), rng.integers(1, 4, g))
    kept = rng.random((q, g)) < share * (1 + 2 * (of_labels[0][:, None] == of_labels[1]))
    kept[rng.random(q) < 0.15] = False
    return of_labels, kept


def assert_same(scores, expected, precisions):
    assert scores.mAP == pytest.approx(expected.mAP, abs=1e-12)
    assert scores.mINP == pytest.approx(expected.mINP, abs=1e-12)
    np.testing.assert_allclose(scores.cmc, expected.cmc, rtol=0, atol=1e-12)
    assert (scores.valid_queries, scores.tied_rank1) == (expected.valid_queries, expected.tied_rank1)
    np.testing.assert_allclose(scores.average_precision, precisions, rtol=0, atol=1e-12)


def test_what_is_missed_and_what_is_gone():
    distances = np.array([[0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.4]])
    of_labels = [7, 5], [5, 7, 7, 5]
    both = evaluate(distances, *of_labels)
    assert both.average_precision.tolist() == pytest.approx([(1 / 2 + 2 / 3) / 2, (1 + 2 / 4) / 2])
    kept = np.array([[False, True, False, True], [False, True, True, False]])
    scores = evaluate(distances, *of_labels, kept=kept)
    # The first query finds one of two, at once; the second has nothing but wrong items.
    assert scores.average_precision.tolist() == [0.5, 0.0]
    assert (scores.mAP, scores.mINP, scores.valid_queries) == (0.25, 0.0, 2)
    assert scores.cmc.tolist() == [0.5, 0.5]
    assert scores.rank(9) == 0.5
    assert scores.span.mAP == (0.25, 0.25)
    assert evaluate(distances, *of_labels, kept=np.ones((2, 4), bool)).mAP == both.mAP
    nothing = evaluate(distances, *of_labels, kept=np.zeros((2, 4), bool))
    assert (nothing.mAP, nothing.mINP, nothing.cmc.tolist(), nothing.valid_queries) == (0.0, 0.0, [0.0], 2)
    ignored = evaluate(distances, *of_labels, ignore=~kept)
    assert (ignored.mAP, ignored.valid_queries) == (1.0, 1)  # as if it were not in the gallery


def test_identities_are_counted_among_what_stays():
    """SYSU-MM01: CMC counts the identities before the first right item, mAP counts items."""
    distances, of_labels = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]]), ([7], [5, 5, 7, 6, 7], [3], [1, 1, 1, 1, 1])
    for kept, precision, cmc in (
        ([1, 1, 1, 1, 1], (1 / 3 + 2 / 5) / 2, [0, 1, 1]),
        ([0, 1, 1, 1, 1], (1 / 2 + 2 / 4) / 2, [0, 1, 1]),
        ([0, 0, 1, 1, 0], 1 / 2, [1, 1]),
        ([1, 1, 0, 1, 1], 1 / 4 / 2, [0, 0, 1]),
        ([1, 1, 0, 1, 0], 0, [0, 0]),
    ):
        scores = evaluate(distances, *of_labels, protocol="sysu-mm01", kept=np.array([kept], bool))
        assert scores.mAP == pytest.approx(precision)
        assert scores.cmc.tolist() == cmc


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("protocol", ["market1501", "all"])
def test_equals_reference(form, protocol):
    for seed in range(4):
        of_labels, kept = world(seed)
        rng = np.random.default_rng(seed)
        distances = rng.integers(0, 9, (20, 60)).astype(np.float64)
        ignored = rng.random((20, 60)) < 0.2 * seed
        expected = reference.evaluate_kept(distances, *of_labels, kept=kept, protocol=protocol, ignored=ignored)
        given_form = FORMS[form](kept)
        scores = evaluate(distances, *of_labels, protocol=protocol, kept=given_form, ignore=ignored)
        assert_same(scores, *expected)
        if form == "with zeros":
            assert given_form.nnz == kept.size  # it is not changed


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_equal_reference(form, metric, array_kind):
    of_labels, kept = world(5)
    rng = np.random.default_rng(5)
    rows = array_kind.make(rng.standard_normal((80, 6)))
    exact = as_float64(rows)
    if metric == "cosine":
        exact = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    distances = ((exact[:20, None] - exact[None, 20:]) ** 2).sum(axis=2)
    expected = reference.evaluate_kept(distances, *of_labels, kept=kept)
    scores = evaluate_features(rows[:20], rows[20:], *of_labels, kept=FORMS[form](kept), metric=metric)
    assert_same(scores, *expected)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["market1501", "all", "sysu-mm01"]), st.booleans(), st.booleans())
def test_parts_of_the_gallery_change_nothing(seed, protocol, alone, tied):
    """Features, looked at in parts, as the matrix of their distances looked at as a whole."""
    rng = np.random.default_rng(seed)
    q, g = rng.integers(1, 30), rng.integers(1, 60)
    g = q if alone else g
    of_labels, kept = world(seed % 1000, q, g, rng.choice([0.02, 0.1, 0.3]))
    of_labels = (of_labels[0], None, of_labels[2]) if alone else of_labels
    rows = rng.standard_normal((q + g, 3)).astype(np.float32)
    if tied:  # twins, far from 0, of which products leave the order open; the third keeps rows from a grid
        rows[:, :2] = rng.integers(0, 2, (q + g, 2)) + 30
        rows[:, 2] = rng.choice([0.1, 0.3, 0.7], q + g)
    query, gallery = (rows[:q],) * 2 if alone else (rows[:q], rows[q:])
    distances = np.sqrt(((query[:, None].astype(float) - gallery[None]) ** 2).sum(axis=2)).astype(np.float32)
    options = {"protocol": protocol}
    if rng.random() < 0.3:
        options["ignore"] = lambda query, gallery: gallery["rows"] % 5 == query["rows"] % 5
    calls = (
        lambda: evaluate(distances, *of_labels, **options, kept=kept),
        lambda: evaluate_features(
            query, None if alone else gallery, *of_labels, **options, kept=sparse.csr_array(kept)
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DistinctTiles", "GridTiles"):
            patch.setattr(f"pose2id.evaluation.scores.{name}.of", lambda _: None)
        found = []
        for call in calls:
            try:
                found.append(call())
            except ValueError as error:
                found.append(str(error))
    if isinstance(found[0], str):
        assert found[0] == found[1]
        return
    one, other = found
    assert_same(other, one, one.average_precision)
    assert other.span.mAP == pytest.approx(one.span.mAP, abs=1e-12)
    if protocol != "sysu-mm01":
        np.testing.assert_allclose(other.span.cmc, one.span.cmc, atol=1e-12)
    dense = evaluate_features(query, None if alone else gallery, *of_labels, **options, kept=kept)
    assert_same(dense, one, one.average_precision)


def test_only_what_stays_is_measured(monkeypatch):
    """Groups of queries that ask for the same part of a gallery, in no order: tiles have that part alone."""
    rng = np.random.default_rng(0)
    group = rng.permutation(np.arange(60) % 6)
    part = rng.permutation(np.arange(600) % 6)
    kept = sparse.csr_array(group[:, None] == part)
    monkeypatch.setattr("pose2id.evaluation.scores.NARROW", 10)
    monkeypatch.setattr(tiles, "NARROW", 10)
    widths = []
    tile = tiles.FeatureTiles.tile
    monkeypatch.setattr(
        tiles.FeatureTiles,
        "tile",
        lambda self, block, product: (widths.append(tile(self, block, product)[0].shape), tile(self, block, product))[
            1
        ],
    )
    rows = rng.standard_normal((660, 8))
    found = evaluate_features(rows[:60], rows[60:], group, part, kept=kept)
    assert sum(height * width for height, width in widths) == 60 * 100
    assert found.mAP == 1.0


def test_a_filter_and_its_scores():
    """From probabilities to scores: a query in red never meets anybody surely in blue."""
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.5, 0.5]])
    kept = attribute_filter(probabilities[:1], probabilities[1:], [2])
    features = np.array([[1.0, 0], [0, 1], [1, 0], [1, 1]])
    scores = evaluate_features(features[:1], features[1:], [7], [7, 8, 7], kept=kept)
    assert scores.average_precision.tolist() == [pytest.approx((1 + 2 / 2) / 2)]
    assert evaluate_features(features[:1], features[1:], [7], [7, 8, 7]).mAP == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_parts():
    of_labels, kept = world(3)
    rng = np.random.default_rng(3)
    rows = rng.standard_normal((80, 1, 6))
    distances = ((rows[:20] - rows[20:, 0]) ** 2).sum(axis=2)
    expected = reference.evaluate_kept(distances, *of_labels, kept=kept)
    scores = evaluate_parts(rows[:20], rows[20:], *of_labels, kept=sparse.csr_array(kept), normalize=False)
    assert_same(scores, *expected)


def test_devices(device):
    of_labels, kept = world(7)
    rng = np.random.default_rng(7)
    rows = torch.from_numpy(rng.standard_normal((80, 6))).to(device)
    plain = evaluate_features(rows[:20].cpu(), rows[20:].cpu(), *of_labels, kept=kept)
    found = evaluate_features(rows[:20], rows[20:], *of_labels, kept=sparse.csr_array(kept))
    assert_same(found, plain, plain.average_precision)


D, QI, GI = np.zeros((2, 3)), [1, 2], [1, 2, 3]
OK = np.ones((2, 3), bool)


@pytest.mark.parametrize(
    ("call", "wrong", "words"),
    [
        (lambda: evaluate(D, QI, GI, kept=OK.T), ValueError, r"kept must have shape \(2, 3\), received \(3, 2\)"),
        (lambda: evaluate(D, QI, GI, kept=OK * 1), TypeError, "kept must hold bools, True for what stays.*int64"),
        (lambda: evaluate(D, QI, GI, kept=sparse.csr_array(OK * 1)), TypeError, "kept must hold bools"),
        (lambda: evaluate(D, QI, GI, kept=OK.tolist()), TypeError, "kept must be an array of bools, received list"),
        (lambda: evaluate(D, QI, GI, kept=lambda *_: OK[0]), TypeError, "kept must be an array of bools"),
        (
            lambda: evaluate(D, QI, GI, kept=OK, protocol="cuhk03"),
            ValueError,
            "kept .* 'cuhk03', which draws galleries",
        ),
        (lambda: evaluate(D, QI, GI, kept=OK, protocol="vehicleid"), ValueError, "kept must be left out"),
        (lambda: evaluate(D, [7, 8], GI, kept=OK), ValueError, "at least one query must have a match"),
    ],
)
def test_faults(call, wrong, words):
    with pytest.raises(wrong, match=words):
        call()
