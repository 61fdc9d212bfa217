"""Dask arrays: the numbers of one machine to the last bit, however rows are cut, and with workers that die."""

import numpy as np
import pytest

import pose2id
from pose2id import distributed
from pose2id.distributed import blocks, graphs, pivots, sources

dask = pytest.importorskip("dask", reason="dask is not installed: pip install 'pose2id[dask]'")
da = pytest.importorskip("dask.array", reason="dask is not installed: pip install 'pose2id[dask]'")


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Chunks stay as small as they are given, searched in pieces, and computed by this thread."""
    monkeypatch.setattr(sources, "SMALLEST", 1)
    monkeypatch.setattr(blocks, "SEARCHED", 30 * 12 * 4)
    monkeypatch.setattr(graphs, "FAN", 3)
    with dask.config.set(scheduler="sync"):
        yield


def make_rows(n, width=12, dtype=np.float32):
    """People of four photographs, rows of zeros, and ties across blocks: rows that are there several times."""
    random = np.random.default_rng(5)
    people = random.standard_normal((n // 4 + 1, width))
    rows = people[random.integers(0, len(people), n)] + 0.5 * random.standard_normal((n, width))
    if n > 20:
        rows[[3, n // 2]] = 0
        rows[[7, n // 2 + 1, n - 2]] = rows[19]
        rows[[8, n // 2 + 2, n - 1]] = np.eye(width)[:3]  # as far from each other to the last bit
    return rows.astype(dtype)


def same(result, expected):
    """Equal to the last bit, in one dtype."""
    result = np.asarray(result)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


CUTS = [(1, 11), (7, 83), (1000, 300), ((40, 0, 3, 40), 83), (1000, 1), (3, 0), (1, 2)]


@pytest.mark.parametrize(("chunks", "n"), CUTS)
@pytest.mark.parametrize("k", [1, 4])
def test_neighbors_are_those_of_one_machine(chunks, n, k):
    x = make_rows(n)
    found = distributed.knn_graph(da.from_array(x, chunks=(chunks, 5)), k)
    expected = pose2id.knn_graph(x, k)
    indices, distances = dask.compute(found.indices, found.distances)
    same(indices, expected.indices)
    same(distances, expected.distances)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"k1": 4, "k2": 3, "alpha": 2.0},
        {"normalize": False},
        {"k1": 0},
        {"generated": True, "eta": 0.5},
        {"generated": True, "eta": 0.0},
        {"exclude": True, "k2": 3, "engine": "faiss"},
    ],
)
def test_rows_are_those_of_one_machine(dtype, settings):
    if "engine" in settings:
        pytest.importorskip("faiss", reason="faiss is not installed")
    x, random = make_rows(83, dtype=dtype), np.random.default_rng(0)
    given, as_dask = dict(settings), dict(settings)
    if "generated" in settings:
        given["generated"] = random.standard_normal((83, 3, 12)).astype(dtype)
        as_dask["generated"] = da.from_array(given["generated"], chunks=(30, 2, 5))
    if "exclude" in settings:
        given["exclude"] = as_dask["exclude"] = random.integers(0, 4, 83)
    result = distributed.centralize(da.from_array(x, chunks=(31, 12)), **as_dask)
    assert (result.shape, result.dtype) == (x.shape, dtype)
    same(result.compute(), pose2id.centralize(x, **given))


@pytest.mark.parametrize("kind", [np.int32, str])
def test_labels_may_be_a_dask_array(kind):
    x, labels = make_rows(83), np.random.default_rng(0).integers(0, 4, 83).astype(kind)
    found = distributed.centralize(da.from_array(x, chunks=(31, 12)), exclude=da.from_array(labels, chunks=50))
    same(found.compute(), pose2id.centralize(x, exclude=labels))
    both = da.from_array(x, chunks=(31, 12))
    same(distributed.centralize(both, both, exclude=labels).compute(), pose2id.centralize(x, x, exclude=labels))


def test_small_chunks_are_put_together(monkeypatch):
    monkeypatch.setattr(sources, "SMALLEST", 12 * 4 * 10)
    x = da.from_array(make_rows(83), chunks=(1, 12))
    assert distributed.centralize(x).chunks[0] == (10,) * 7 + (13,)


def test_pivots_find_most(monkeypatch):
    monkeypatch.setattr(blocks, "SEARCHED", 2**24)
    x = make_rows(4000, 16)
    expected = pose2id.knn_graph(x, 2)
    found = distributed.knn_graph(da.from_array(x, chunks=(700, 16)), 2, engine="pivots")
    indices, distances = dask.compute(found.indices, found.distances)
    recall = (indices[:, :, None] == expected.indices[:, None, :]).any(axis=2).mean()
    assert recall > 0.97
    hit = indices == expected.indices
    np.testing.assert_array_equal(distances[hit], expected.distances[hit])
    own = np.linalg.norm(x[:, None].astype(np.float64) - x[indices], axis=2)
    np.testing.assert_allclose(distances, own, rtol=1e-6)
    assert (indices != np.arange(4000)[:, None]).all()


def test_parts_are_about_as_large_as_blocks():
    x = make_rows(4000, 16)
    block = blocks.fuse_block(x, first=0)
    trained = pivots.train([pivots.take_sample(block, count=2000)], parts=7)
    sizes = [len(each.rows) for each in pivots.send(block, trained, parts=7, zeros=True)]
    assert sum(sizes) >= 4000
    assert max(sizes) < 2.5 * sum(sizes) / 7


@pytest.mark.parametrize("n", [0, 1, 5, 83])
def test_pivots_of_few_rows_are_all_neighbors(n):
    x = make_rows(n)
    same(
        distributed.centralize(da.from_array(x, chunks=(1000, 12)), engine="pivots").compute(),
        pose2id.centralize(x),
    )
    found = distributed.centralize(da.from_array(np.zeros_like(x), chunks=(2, 12)), engine="pivots").compute()
    same(found, np.zeros_like(x))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: distributed.centralize(x.compute()), "features must be a dask array, received ndarray"),
        (lambda x: distributed.centralize(x.astype(int)), "received dtype int64"),
        (lambda x: distributed.centralize(x[0]), r"features must have shape \(N, D\), received \(12,\)"),
        (lambda x: distributed.centralize(x[:, :0]), "at least one column"),
        (lambda x: distributed.centralize(x[x[:, 0] > 0]), "compute_chunk_sizes"),
        (lambda x: distributed.centralize(x, x[:5]), "generated must have shape"),
        (lambda x: distributed.centralize(x, exclude=[1, 2]), "one label per row"),
        (lambda x: distributed.centralize(x, exclude=x[:, 0]), "exclude must be integers or strings"),
        (lambda x: distributed.centralize(x, engine="faiss-ivf"), "engine on a cluster must be one of"),
        (lambda x: distributed.centralize(x, device="tpu"), "device must be one of"),
        (lambda x: distributed.knn_graph(x, 0), "k must be an integer >= 1"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, words):
    with pytest.raises((TypeError, ValueError), match=words):
        make(da.from_array(make_rows(83), chunks=(31, 12)))


def test_rows_that_are_not_finite_are_named():
    x = make_rows(83)
    x[50] = np.nan
    with pytest.raises(ValueError, match=r"features\[31:62\] must be finite, .* in 1 row\(s\): 19;"):
        distributed.centralize(da.from_array(x, chunks=(31, 12))).compute()
