"""Distances of stripes, their combination, and re-ranking of any distances: golden numbers and the naive versions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import aligned as reference
from support.arrays import as_float64
from support.golden import GOLDEN

from pose2id import Neighbors, rerank
from pose2id.parts import aligned, aligned_distances, combine_distances, rerank_distances


@pytest.fixture(scope="module")
def released():
    with np.load(GOLDEN / "parts" / "aligned.npz") as file:
        return dict(file)


def stripes(rng, n, h=4, d=5):
    return rng.standard_normal((n, h, d))


def cut_matrix(table, q):
    return table[:q, q:], table[:q, :q], table[q:, q:]


def euclidean(x):
    return np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))


def test_released_distances(released):
    x, q = released["local"], int(released["n_query"])
    np.testing.assert_allclose(aligned_distances(x[:q], x[q:]), released["dmli"], rtol=1e-12)
    np.testing.assert_allclose(aligned_distances(x[:q], x[q:], aligned=False), released["unaligned"], rtol=1e-12)
    np.testing.assert_allclose(aligned_distances(x[:q], x[:q]), released["dmli_qq"], rtol=1e-7)
    np.testing.assert_allclose(aligned_distances(x[q:], x[q:]), released["dmli_gg"], rtol=1e-7)
    narrow = released["float32.local"]
    for flag, name in ((True, "dmli"), (False, "unaligned")):
        found = aligned_distances(narrow[:q], narrow[q:], aligned=flag)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, released[f"float32.{name}"], rtol=2e-6)
    found = aligned_distances(released["unequal.query"], released["unequal.gallery"])
    np.testing.assert_allclose(found, released["unequal.dmli"], rtol=1e-12)
    assert abs(found[0, 0] - released["unequal.pair_2d_released"]) > 1


def test_released_combination_and_reranking(released):
    x, q = released["local"], int(released["n_query"])
    raw = released["global_raw"]
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    far, local = euclidean(raw / length), aligned_distances(x, x)
    options = {"k1": int(released["k1"]), "k2": int(released["k2"]), "lambda_value": float(released["lam"])}
    both = combine_distances(far[:q, q:] ** 2, local[:q, q:])
    np.testing.assert_allclose(both, released["global_plus_dmli"], rtol=1e-12)
    plain = combine_distances(euclidean(raw / (length + np.finfo(np.float32).eps)), local)  # as huanghoujing scales
    np.testing.assert_allclose(plain[:q, q:], released["global_euclidean_plus_dmli"], rtol=1e-12)
    for name, table in (("global", far**2), ("dmli", local), ("global_plus_dmli", far**2 + local)):
        found = rerank_distances(*cut_matrix(table, q), **options)
        np.testing.assert_allclose(found, released[f"rerank_{name}"], atol=2e-3)
    for name, table in (("global", far), ("dmli", local), ("global_plus_dmli", plain)):
        found = rerank_distances(*cut_matrix(table, q), **options, square=True)
        np.testing.assert_allclose(found, released[f"rerank_huang_{name}"], atol=1e-6)


def test_containers_and_dtypes(array_kind):
    kind = array_kind
    rng = np.random.default_rng(0)
    query, gallery = kind.make(stripes(rng, 3, 4)), kind.make(stripes(rng, 5, 2))
    found = aligned_distances(query, gallery)
    assert kind.has_container(found)
    assert str(found.dtype).removeprefix("torch.") == kind.distance_dtype
    expected = reference.distances(as_float64(query), as_float64(gallery))
    np.testing.assert_allclose(as_float64(found), expected, atol=1e-5 if kind.single else 1e-12)
    table = np.array([[0, 4, -1], [2, 2, 1], [-1, -1, -1]])
    table = torch.tensor(table) if kind.container == "torch" else table.astype(np.int32)
    some = aligned_distances(query, gallery, candidates=table)
    assert some.dtype == found.dtype
    picked = np.where(as_float64(table) < 0, np.inf, expected[np.arange(3)[:, None], as_float64(table).astype(int)])
    np.testing.assert_allclose(as_float64(some), picked, atol=1e-5 if kind.single else 1e-12)
    matrix = kind.make(rng.random((2, 3)))
    combined = combine_distances(matrix, matrix, weight=2)
    np.testing.assert_allclose(as_float64(combined), 3 * as_float64(matrix), rtol=1e-6)
    assert str(combined.dtype).removeprefix("torch.") == kind.distance_dtype
    reranked = rerank_distances(matrix, kind.make(np.eye(2)), kind.make(1 - np.eye(3)), k1=1, k2=1)
    assert kind.has_container(reranked)
    assert str(reranked.dtype).removeprefix("torch.") == kind.distance_dtype


@given(
    st.integers(0, 2**32 - 1),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(1, 4)),
    st.sampled_from([1, 7, 60, 2**20]),
)
def test_any_shape_in_any_tiles_is_as_the_naive_version(seed, shape, tile):
    rng = np.random.default_rng(seed)
    q, g, h, w, d = shape
    query, gallery = stripes(rng, q, h, d), stripes(rng, g, w, d)
    gallery[rng.integers(g), 0] = query[0, -1]
    expected = reference.distances(query, gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aligned, "TILE", tile)
        found = aligned_distances(query, gallery)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
        rows, columns = rng.permutation(q), rng.permutation(g)
        moved = aligned_distances(query[rows], gallery[columns])
        np.testing.assert_allclose(moved, found[rows][:, columns], rtol=1e-10, atol=1e-10)
        table = rng.integers(-1, g, (q, 3))
        some = aligned_distances(query, gallery, candidates=table)
        picked = np.where(table < 0, np.inf, expected[np.arange(q)[:, None], table])
        np.testing.assert_allclose(some, picked, rtol=1e-10, atol=1e-10)
        if h == w:
            straight = aligned_distances(query, gallery, aligned=False)
            np.testing.assert_allclose(straight, reference.distances(query, gallery, aligned=False), atol=1e-10)
            short = aligned_distances(query, gallery, aligned=False, candidates=table)
            np.testing.assert_array_equal(np.isinf(short), table < 0)


@pytest.mark.parametrize("offset", [0.0, 1e3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_equal_stripes_are_at_nought(dtype, offset):
    rng = np.random.default_rng(1)
    x = (stripes(rng, 6, 1, 64) + offset).astype(dtype)
    x[0] += 1e3  # one far off moves the mean
    found = aligned_distances(x, x)
    assert (found.diagonal() == 0).all()
    near = x + (x * np.finfo(dtype).eps * 8).astype(dtype)
    expected = reference.distances(near.astype(np.float64), x.astype(np.float64))
    np.testing.assert_allclose(aligned_distances(near, x).diagonal(), expected.diagonal(), rtol=1e-5)
    np.testing.assert_allclose(aligned_distances(near, x, aligned=False).diagonal(), expected.diagonal(), rtol=1e-5)


@pytest.mark.parametrize("size", [1e-30, 1e-4, 0.03, 1.0, 100.0, 1e36])
def test_stripes_of_any_size(size):
    rng = np.random.default_rng(2)
    query, gallery = (stripes(rng, n).astype(np.float32) * np.float32(size) for n in (2, 3))
    expected = reference.distances(query.astype(np.float64), gallery.astype(np.float64))
    np.testing.assert_allclose(aligned_distances(query, gallery), expected, rtol=5e-6)


def test_empty_sets():
    empty, some = np.zeros((0, 3, 2)), np.ones((4, 3, 2))
    assert aligned_distances(empty, some).shape == (0, 4)
    assert aligned_distances(some, empty).shape == (4, 0)
    assert aligned_distances(some, some, candidates=np.zeros((4, 0), int)).shape == (4, 0)
    assert (aligned_distances(some, empty, candidates=np.full((4, 2), -1)) == np.inf).all()
    assert combine_distances(np.zeros((2, 0)), np.zeros((2, 0))).shape == (2, 0)


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.booleans(), st.booleans())
def test_reranking_is_as_the_naive_version(seed, q, g, square, tied):
    rng = np.random.default_rng(seed)
    table = rng.random((q + g, q + g))
    table = np.round((table + table.T) / 2, 1 if tied else 9)
    options = {"k1": int(rng.integers(1, 6)), "lambda_value": 0.3, "square": square}
    options["k2"] = int(rng.integers(1, options["k1"] + 2))
    expected = reference.rerank_distances(*cut_matrix(table, q), **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pose2id.parts.given.TILE", 2 * (q + g))
        found = rerank_distances(*cut_matrix(table, q), **options)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def lists_of(table, k):
    """Neighbours and farthest distances of a whole matrix."""
    table = np.array(table)
    farthest = table.max(axis=1)
    np.fill_diagonal(table, np.inf)
    near = np.argsort(table, axis=1, kind="stable")[:, :k]
    return {"neighbors": Neighbors(near, np.take_along_axis(table, near, 1)), "farthest": farthest}


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 9), st.booleans(), st.booleans())
def test_reranking_from_neighbours_is_that_from_matrices(seed, q, g, square, tied):
    rng = np.random.default_rng(seed)
    table = rng.random((q + g, q + g))
    table = np.round((table + table.T) / 2, 1 if tied else 9)
    options = {"k1": int(rng.integers(1, 6)), "k2": int(rng.integers(1, 6)), "square": square}
    expected = rerank_distances(*cut_matrix(table, q), **options)
    asked = []

    def measure(rows, columns):
        asked.extend(zip(rows.tolist(), columns.tolist(), strict=True))
        return table[rows, columns]

    k = min(max(options["k1"], options["k2"] - 1), q + g - 1)
    found = rerank_distances(table[:q, q:], **lists_of(table, k), measure=measure, **options)
    np.testing.assert_array_equal(found, expected)
    assert all((i < q) == (j < q) for i, j in asked)  # what query_gallery holds is not asked for
    np.fill_diagonal(table, 0)
    found = rerank_distances(table[:q, q:], **lists_of(table, q + g - 1), **options)
    np.testing.assert_array_equal(found, rerank_distances(*cut_matrix(table, q), **options))


def test_reranking_from_neighbours_asks_for_what_is_missing():
    x = np.random.default_rng(5).standard_normal((60, 3))
    table = euclidean(x)
    lists = lists_of(table, 8)
    with pytest.raises(ValueError, match=r"8 columns lack the distances of \d+ pairs .* more columns, or measure"):
        rerank_distances(table[:20, 20:], **lists, k1=8, k2=3)
    for answer in (lambda i, j: table[i, j][:1], lambda i, j: -table[i, j] - 1):
        with pytest.raises(ValueError, match=r"measure must return \d+ finite distances >= 0, received the shape"):
            rerank_distances(table[:20, 20:], **lists, measure=answer, k1=8, k2=3)


def test_padded_neighbours():
    table = np.array([[0.0, 1, 2], [1, 0, 4], [2, 4, 0]])
    lists = lists_of(table, 2)
    lists["neighbors"].indices[2, 1], lists["neighbors"].distances[2, 1] = -1, np.inf  # the third knows the first only
    found = rerank_distances(table[:1, 1:], **lists, measure=lambda i, j: table[i, j], k1=2, k2=1)
    assert np.isfinite(found).all()


def test_euclidean_distances_rerank_as_features():
    x = np.random.default_rng(3).standard_normal((40, 6))
    found = rerank_distances(*cut_matrix(euclidean(x), 12), k1=6, k2=3, square=True)
    np.testing.assert_allclose(found, rerank(x[:12], x[12:], k1=6, k2=3), atol=1e-9)


def test_devices(device):
    rng = np.random.default_rng(4)
    x = stripes(rng, 12)
    x[7] = x[2]
    table = rng.integers(-1, 7, (5, 3))

    def work(x, table):
        parts = x[:5], x[5:]
        matrices = [aligned_distances(a, b) for a, b in (parts, parts[:1] * 2, parts[1:] * 2)]
        return (
            rerank_distances(*matrices, k1=3, k2=2),
            combine_distances(matrices[0], aligned_distances(*parts, aligned=False)),
            aligned_distances(*parts, candidates=table),
        )

    moved = work(torch.tensor(x).to(device), torch.tensor(table).to(device))
    for found, expected in zip(moved, work(x, table), strict=True):
        assert found.device.type == device
        np.testing.assert_allclose(found.cpu().numpy(), expected, atol=1e-10)


def test_pairs_that_were_not_measured_stay_infinite():
    found = combine_distances(np.array([[1.0, 2.0]]), np.array([[np.inf, 3.0]]), weight=0)
    assert found.tolist() == [[np.inf, 2.0]]


X, M = np.zeros((2, 3, 4)), np.zeros((2, 2))
FAR = euclidean(np.arange(4.0)[:, None])
LISTS = lists_of(FAR, 2)
FALLING = Neighbors(LISTS["neighbors"].indices[:, ::-1], LISTS["neighbors"].distances[:, ::-1])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: aligned_distances(X[0], X), ValueError, r"query must have shape \(Q, H, D\), received \(3, 4\)"),
        (
            lambda: aligned_distances(X, X[:, :, :2]),
            ValueError,
            r"equal D, received shapes \(2, 3, 4\) and \(2, 3, 2\)",
        ),
        (lambda: aligned_distances(X[:, :0], X), ValueError, "at least one stripe"),
        (lambda: aligned_distances(X, X[:, :2], aligned=False), ValueError, "equal numbers of stripes"),
        (lambda: aligned_distances(X, X * np.nan), ValueError, r"gallery must be finite.*2 row\(s\): 0, 1"),
        (lambda: aligned_distances(X, torch.zeros(2, 3, 4)), TypeError, "the same kind"),
        (lambda: aligned_distances(X, X, aligned=1), TypeError, "aligned must be True or False"),
        (lambda: aligned_distances(X, X, candidates=M), TypeError, "candidates must hold integers from -1 to 1"),
        (lambda: aligned_distances(X, X, candidates=[[0], [1]]), TypeError, "candidates must be a numpy array"),
        (lambda: aligned_distances(X, X, candidates=np.array([[0], [2]])), ValueError, r"received 2 at \(1, 0\)"),
        (lambda: aligned_distances(X, X, candidates=np.array([[-2], [1]])), ValueError, r"received -2 at \(0, 0\)"),
        (
            lambda: aligned_distances(X, X, candidates=np.array([0, 1])),
            ValueError,
            r"shape \(2, C\), one row per query",
        ),
        (lambda: combine_distances(M, M[:, :1]), ValueError, r"equal shapes, received \(2, 2\) and \(2, 1\)"),
        (lambda: combine_distances(M, M * np.nan), ValueError, "local_distances must hold distances without NaN"),
        (lambda: combine_distances(M, M.astype(int)), TypeError, "floating-point values, received dtype int64"),
        (lambda: combine_distances(M, M, weight=-1), ValueError, "weight must be a finite number >= 0"),
        (lambda: rerank_distances(M, M[:1, :1], M), ValueError, r"received shapes \(2, 2\) and \(1, 1\)"),
        (lambda: rerank_distances(M, M, M[:, :1]), ValueError, r"gallery_gallery .* and \(2, 1\)"),
        (lambda: rerank_distances(M[:0], M[:0, :0], M), ValueError, "at least one row and one column"),
        (lambda: rerank_distances(M, M - 1, M), ValueError, "query_query must hold finite distances >= 0"),
        (lambda: rerank_distances(M, M, M + np.inf), ValueError, "gallery_gallery must hold finite distances"),
        (lambda: rerank_distances(M, M, torch.zeros(2, 2)), TypeError, "the same kind"),
        (lambda: rerank_distances(M, M, M, square=1), TypeError, "square must be True or False"),
        (lambda: rerank_distances(M), ValueError, "received none of them"),
        (lambda: rerank_distances(M, M), ValueError, "received query_query"),
        (lambda: rerank_distances(M, M, M, measure=max), ValueError, "gallery_gallery, measure"),
        (lambda: rerank_distances(M, **{**LISTS, "farthest": None}), ValueError, "received neighbors"),
        (
            lambda: rerank_distances(M, neighbors=M, farthest=M[0]),
            TypeError,
            r"must be Neighbors\(indices, distances\)",
        ),
        (lambda: rerank_distances(M, **LISTS, k1=3), ValueError, r"K >= 3, .* received \(4, 2\), \(4, 2\) and \(4,\)"),
        (lambda: rerank_distances(M, **{**LISTS, "farthest": np.ones(3)}, k1=2, k2=2), ValueError, r"and \(3,\)"),
        (lambda: rerank_distances(M, **{**LISTS, "farthest": np.full(4, np.nan)}, k1=2, k2=2), ValueError, "in row 0"),
        (lambda: rerank_distances(M, **{**LISTS, "farthest": np.zeros(4)}, k1=2, k2=2), ValueError, "at most farthest"),
        (lambda: rerank_distances(M, **lists_of(-FAR, 2), k1=2, k2=2), ValueError, "must be finite, >= 0, ascending"),
        (lambda: rerank_distances(M, **{**LISTS, "neighbors": FALLING}, k1=2, k2=2), ValueError, "ascending"),
    ],
)
def test_bad_input(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_what_rounding_left_below_0_is_0_before_it_is_ordered():
    within = np.array([[0.0, 4, 6], [4, 0, 7], [6, 7, 0]])
    across = np.array([[0.0, -1e-6, 5]])  # the first is as near as the second, and precedes it
    found = rerank_distances(across, np.zeros((1, 1)), within, k1=1, k2=1)
    np.testing.assert_array_equal(found, rerank_distances(across.clip(min=0), np.zeros((1, 1)), within, k1=1, k2=1))
