"""jaccard_distances: the sparse matrix against the dense formula, and what DBSCAN makes of both."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.jaccard import jaccard_distances as reference
from support.arrays import ArrayKind, as_float64

from pose2id import jaccard, jaccard_distances, knn_graph, reciprocal

F32 = ArrayKind("numpy", "float32")
everything = functools.partial(jaccard_distances, max_distance=1)


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def people(n=60, width=6, spread=0.3, seed=0):
    """A dozen identities, in random order, of length 1."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, width))
    return unit(centres[rng.integers(0, 12, n)] + spread * rng.standard_normal((n, width)))


def dense(matrix):
    """With the ones that are not stored."""
    table = np.ones(matrix.shape)
    row = np.repeat(np.arange(len(table)), np.diff(matrix.indptr))
    table[row, matrix.indices] = matrix.data
    return table


def check(matrix, expected, atol):
    """The values, and what is stored: pairs below 1, each once, each row sorted by distance, then by index."""
    np.testing.assert_allclose(dense(matrix), expected, atol=atol, rtol=0)
    assert matrix.nnz == (expected < 1).sum()
    for start, end in zip(matrix.indptr[:-1], matrix.indptr[1:], strict=True):
        order = np.lexsort((matrix.indices[start:end], matrix.data[start:end]))
        np.testing.assert_array_equal(order, np.arange(end - start))


@pytest.mark.parametrize(
    ("k1", "k2"), [(30, 6), (20, 6), (7, 1), (8, 8), (5, 3), (6, 20), (3, 2), (2, 2), (1, 1), (1, 3)]
)
def test_equals_reference(engine, k1, k2):
    x = people()
    check(everything(x, k1, k2, engine=engine), reference(x, k1=k1, k2=k2, single=False), 1e-12)


def test_defaults():
    x = people(90, spread=0.6)
    whole = reference(x, k1=30, k2=6, single=False)
    assert ((whole > 0.8) & (whole < 1)).any()
    np.testing.assert_allclose(dense(jaccard_distances(x)), np.where(whole <= 0.8, whole, 1), atol=1e-12)


@pytest.mark.parametrize("most", [0, 0.3, 1])
def test_larger_distances_are_not_stored(most):
    x = people(spread=0.6).astype(np.float32)
    whole = dense(everything(x, 12, 4))
    matrix = jaccard_distances(x, 12, 4, max_distance=most)
    np.testing.assert_array_equal(dense(matrix), np.where(whole <= most, whole, 1))
    assert matrix.nnz == ((whole <= most) & (whole < 1)).sum() >= 60


def test_every_kind(array_kind, engine):
    x = array_kind.rounded(people(seed=1))
    matrix = everything(array_kind.make(x), k1=8, k2=3, engine=engine)
    assert (matrix.format, matrix.dtype) == ("csr", array_kind.distance_dtype)
    check(matrix, reference(x, k1=8, k2=3, single=array_kind.single), 2e-6)


def test_devices(device):
    x = torch.tensor(people(), dtype=torch.float32, device=device)
    check(everything(x, k1=8, k2=3), reference(as_float64(x), k1=8, k2=3), 2e-6)


@given(n=st.integers(1, 25), k1=st.integers(1, 30), k2=st.integers(1, 10), seed=st.integers(0, 10**6))
def test_any_k_and_size(n, k1, k2, seed):
    x = people(n, 3, seed=seed)
    check(everything(x, k1, k2), reference(x, k1=k1, k2=k2, single=False), 1e-12)


def test_no_rows():
    for dtype in (np.float32, np.float64):
        matrix = everything(np.empty((0, 4), dtype))
        assert (matrix.shape, matrix.nnz, matrix.dtype) == ((0, 0), 0, dtype)


def test_a_list_of_k1_holds_the_row_itself():
    """Three in a row: with lists of two the middle one and its nearer neighbour are alike, the third is alone."""
    x = np.array([[0.0], [1.0], [2.1]])
    two, three = (dense(everything(x, k1=k1, k2=1)) for k1 in (2, 3))
    assert (two[0, 1] < 1, two[1, 2], two[0, 2]) == (True, 1, 1)
    assert (three < 1).all()


def test_distances_are_not_divided_by_the_largest():
    """V is exp(-1) to 1, whatever else lies far away."""
    share = np.array([1, np.exp(-1.0)]) / (1 + np.exp(-1.0))
    shared = 2 * share[1]
    for far in (10.0, 1000.0):
        matrix = dense(everything(np.array([[0.0], [1.0], [far], [far + 1]]), k1=2, k2=1))
        assert matrix[0, 1] == pytest.approx(1 - shared / (2 - shared))


def test_zeros_are_stored():
    """Of duplicates and of the row itself: what is not stored would not be a neighbour."""
    x = np.repeat(people(20, seed=3), 3, axis=0).astype(np.float32)
    matrix = everything(x, k1=3, k2=1)
    check(matrix, reference(x.astype(float), k1=3, k2=1), 1e-6)
    np.testing.assert_array_equal(np.diff(matrix.indptr), 3)
    assert (matrix.data < 1e-6).all()
    own = matrix.indices == np.repeat(np.arange(60), 3)
    assert (own.sum(), np.abs(matrix.data[own]).max()) == (60, 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_is_symmetric_and_the_same_in_any_pieces(monkeypatch, dtype):
    x = people(150, seed=4).astype(dtype)
    whole = everything(x, k1=12, k2=4)
    assert (dense(whole) == dense(whole).T).all()
    monkeypatch.setattr(reciprocal, "QUERY_TILE", 1)
    monkeypatch.setattr(reciprocal, "MEETINGS", 7)
    monkeypatch.setattr(reciprocal, "PRODUCT", 100)
    again = everything(x, k1=12, k2=4)
    for one, other in zip(
        (whole.data, whole.indices, whole.indptr), (again.data, again.indices, again.indptr), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("length", "warned"), [(0.4, True), (0.6, False), (1.0, False), (1.9, False), (14.0, True)])
def test_the_log_warns_of_other_lengths(caplog, length, warned):
    everything(length * people())
    assert [record.message for record in caplog.records] == [
        f"features are {length:.3g} long; clustering wants rows of length 1, so normalise them first"
    ] * warned


@pytest.mark.parametrize("scale", [1e-20, 1e18])
def test_lengths_far_from_one(engine, scale):
    """All weights are alike, or that of the row itself is all there is."""
    x = F32.rounded(scale * people(seed=5))
    matrix = everything(F32.make(x), k1=8, k2=3, engine=engine)
    np.testing.assert_allclose(dense(matrix), reference(x, k1=8, k2=3), atol=2e-6, rtol=0)


def test_neighbours_that_were_not_found(monkeypatch):
    """An approximate engine may return fewer than k: what is missing adds nothing."""

    def find(rows, _base, k, **_):
        graph = knn_graph(rows, 4)
        missing = (0, k - 4)
        return (
            torch.nn.functional.pad(graph.indices, missing, value=-1),
            torch.nn.functional.pad(graph.distances, missing, value=torch.inf),
        )

    x = people(seed=6)
    monkeypatch.setattr(jaccard, "find_neighbors", find)
    halves = reference(x, k1=5, k2=3, single=False), reference(x, k1=6, k2=3, single=False)
    found = dense(everything(x, k1=5, k2=3))
    np.testing.assert_allclose(found, halves[0], atol=1e-12)
    assert np.isfinite(dense(everything(x, k1=9, k2=7))).all()


def test_progress_changes_nothing(capsys):
    x = people()
    plain, shown = everything(x), everything(x, progress=True)
    assert "Jaccard distances" in capsys.readouterr().err
    np.testing.assert_array_equal(plain.data, shown.data)


def test_nothing_of_the_size_of_all_pairs(monkeypatch):
    """The largest tensor that torch makes, after the search."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, _types, arguments=(), options=None):
            nonlocal largest
            made = function(*arguments, **(options or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:  # others have no storage
                    largest = max(largest, tensor.untyped_storage().nbytes())
            return made

    n = 3000
    x = np.repeat(np.random.default_rng(0).standard_normal((n // 30, 16)), 30, axis=0)
    x = unit(x + 0.1 * np.random.default_rng(1).standard_normal(x.shape)).astype(np.float32)
    find = jaccard.find_neighbors

    def search(*arguments, **options):
        nonlocal largest
        found, largest = find(*arguments, **options), 0
        return found

    monkeypatch.setattr(jaccard, "find_neighbors", search)
    monkeypatch.setattr(reciprocal, "QUERY_TILE", 64)
    with Watch():
        matrix = everything(x, k1=10, k2=4)
    assert matrix.nnz < 100 * n
    assert 0 < largest < n * n  # bytes: a quarter of the pairs in float32


# --- clusters -----------------------------------------------------------------------------------------------------


def lattice(_seed):
    """Many equal distances."""
    return np.stack(np.meshgrid(*[np.arange(5.0)] * 3), axis=-1).reshape(-1, 3) / 4


def cameras(seed):
    """Each identity under three cameras that shift it."""
    rng = np.random.default_rng(seed)
    shifts = 0.5 * rng.standard_normal((3, 16))
    x = rng.standard_normal((15, 16))[np.arange(180) % 15] + shifts[np.arange(180) % 3]
    return unit(x + 0.25 * rng.standard_normal(x.shape))


SETS = {
    "random": lambda seed: unit(np.random.default_rng(seed).standard_normal((150, 16))),
    "people": lambda seed: people(180, 8, 0.35, seed),
    "loose people": lambda seed: people(180, 8, 0.6, seed),
    "cameras": cameras,
    "duplicates": lambda seed: people(60, 8, 0.4, seed)[np.random.default_rng(seed).integers(0, 60, 180)],
    "one cluster": lambda seed: unit(1 + 0.3 * np.random.default_rng(seed).standard_normal((120, 8))),
    "as given": lambda seed: 3 * people(150, 8, 0.35, seed),
    "lattice": lattice,
}


def between(table, about):
    """A number near `about` with no entry of the table so close that rounding could decide."""
    near = np.unique(np.append(table[np.abs(table - about) < 0.02], [about - 0.02, about + 0.02]))
    at = np.diff(near).argmax()
    assert near[at + 1] - near[at] > 1e-5
    return (near[at] + near[at + 1]) / 2


def same_labels(x, k1, k2):
    """Labels by DBSCAN of the sparse matrix, which are those of the dense one; for three eps."""
    from sklearn.cluster import DBSCAN

    table, matrix = reference(x, k1=k1, k2=k2), jaccard_distances(F32.make(x), k1=k1, k2=k2)
    found = []
    for eps in (0.4, 0.5, 0.6):
        cluster = DBSCAN(eps=between(table, eps), min_samples=4, metric="precomputed")
        found.append(cluster.fit_predict(matrix))  # every warning is an error here
        np.testing.assert_array_equal(found[-1], cluster.fit_predict(table))
    return found


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize(("k1", "k2"), [(30, 6), (12, 1)])
def test_clusters_are_those_of_the_dense_matrix(name, k1, k2):
    pytest.importorskip("sklearn")
    labels = same_labels(F32.rounded(SETS[name](0)), k1, k2)
    if name in ("people", "cameras", "duplicates"):
        assert max(each.max() for each in labels) > 3


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_clusters_of_golden_features(golden, name):
    pytest.importorskip("sklearn")
    x = golden[f"nfc.{name}.input"].astype(float)[:200]
    same_labels(F32.rounded(unit(x)), 20, 6)
