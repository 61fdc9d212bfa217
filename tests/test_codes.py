"""The int8 filter: its bounds hold for every pair, and the engine that uses it gives what the float path gives."""

import numpy as np
import pytest
import torch
from reference.neighbors import knn

from pose2id import knn_graph
from pose2id.neighbors import _codes, _exact


def clustered(n=400, width=24, seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // 8, width))
    return torch.tensor(centres[rng.integers(0, len(centres), n)] + 0.3 * rng.standard_normal((n, width))).to(dtype)


SETS = {
    "clustered": clustered(),
    "odd width": clustered(width=19),
    "float64": clustered(dtype=torch.float64),
    "float16": clustered(dtype=torch.float16),
    "a common offset": clustered() + 300,
    "tiny": clustered() * 1e-20,
    "float32 underflow": clustered() * 1e-40,
    "huge": clustered() * 1e18,
    "very huge float64": clustered(dtype=torch.float64) * 1e140,
    "one giant row": torch.cat([clustered(), 1e4 * torch.ones(1, 24)]),
    "duplicates": clustered()[torch.arange(400) // 3],
    "mixed lengths": clustered() * torch.logspace(-6, 6, 400)[:, None],
    "lattice": torch.randint(-2, 3, (400, 5), generator=torch.Generator().manual_seed(0)).float(),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("level", [127, 63])
def test_the_bounds_hold_for_every_pair(name, level):
    rows = SETS[name]
    codes = _codes.encode(rows, level)
    real = codes.order >= 0
    assert sorted(codes.order[real].tolist()) == list(range(len(rows)))
    q, half = codes.codes.long(), codes.half.long()
    assert q.abs().max() <= level
    product = (q @ q.T - half - half[:, None])[real][:, real]
    squared = torch.cdist(q.double(), q.double()).square().round()[real][:, real]
    assert (-2 * product <= squared).all()  # (2)
    assert (squared <= 2 - 2 * product).all()
    placed = rows.double()[codes.order[real]] * codes.scale
    exact = (placed[:, None] - placed).square().sum(dim=2).sqrt()
    error = codes.error[real]
    reach = codes.step * squared.sqrt()
    assert (reach - error - error[:, None] <= exact).all()  # (1)
    assert (exact <= reach + error + error[:, None]).all()
    if name in ("clustered", "a common offset", "tiny"):
        assert error.median() < 0.2 * exact.median()  # and they are worth something


@pytest.fixture
def always(monkeypatch):
    """The filter on sets of any size and kind."""
    monkeypatch.setattr(_codes, "SMALLEST", 24)
    monkeypatch.setattr(_codes, "expected_pairs", lambda *_: (0.0, 0.0))


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("k", [1, 2, 5, 20, 40])
@pytest.mark.usefixtures("always")
def test_same_neighbours_as_the_reference(name, k):
    rows = SETS[name]
    indices, distances = knn(rows.double().numpy(), k, single=rows.dtype != torch.float64)
    graph = knn_graph(rows, k, engine="exact")
    if rows.dtype == torch.float64:  # the last bit of a float64 distance is the order of summation
        np.testing.assert_allclose(graph.distances, distances, rtol=1e-12)
    else:
        np.testing.assert_array_equal(graph.indices, indices)
        np.testing.assert_array_equal(graph.distances, distances)


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.usefixtures("always")
def test_column_major_rows(width):
    rows = clustered(width=width)
    expected = knn_graph(rows, 3)
    for other in (rows.T.contiguous().T, np.asfortranarray(rows.numpy())):
        assert (torch.as_tensor(knn_graph(other, 3).indices) == expected.indices).all()


SUBNORMAL = torch.randint(0, 60, (300, 2), generator=torch.Generator().manual_seed(0)) * torch.tensor(2.0**-149)
GIANT = torch.cat([torch.randn(299, 24, generator=torch.Generator().manual_seed(0)) * 1e-25, torch.full((1, 24), 1e20)])
LARGEST = clustered() * 2e37  # some distances are beyond float32


@pytest.mark.parametrize("rows", [SUBNORMAL, GIANT, LARGEST], ids=["subnormal", "giant", "largest"])
@pytest.mark.usefixtures("always")
def test_at_the_ends_of_float32(rows):
    with np.errstate(over="ignore"):
        indices, _ = knn(rows.double().numpy(), 4)
    np.testing.assert_array_equal(knn_graph(rows, 4).indices, indices)


@pytest.mark.parametrize("tile", [64, 128, 320])
@pytest.mark.parametrize("pivots", [8, 64])
@pytest.mark.usefixtures("always")
def test_tiles_and_pivots_change_nothing(monkeypatch, tile, pivots):
    rows, labels = clustered(700), np.random.default_rng(0).integers(0, 4, 700)
    expected = knn_graph(rows, 3, exclude=labels)
    monkeypatch.setattr(_codes, "TILE", tile)
    monkeypatch.setattr(_codes, "PIVOTS", pivots)
    monkeypatch.setattr(_codes, "BLOCK_ELEMENTS", 500)
    graph = knn_graph(rows, 3, exclude=labels)
    assert torch.equal(graph.indices, expected.indices)
    assert torch.equal(graph.distances, expected.distances)


@pytest.mark.usefixtures("always")
def test_rows_that_collect_too_much_are_left_to_the_float_path(monkeypatch):
    rows = torch.cat([clustered(), torch.zeros(600, 24)])  # the zeros are all each other's neighbours
    left = []
    original = _exact._search_rows
    monkeypatch.setattr(_exact, "_search_rows", lambda *a, **k: (left.append(len(a[2])), original(*a, **k)))
    graph = knn_graph(rows, 2)
    assert left == [600]
    np.testing.assert_array_equal(graph.indices, knn(rows.double().numpy(), 2)[0])


@pytest.mark.usefixtures("always")
def test_pairs_are_pruned_on_the_way(monkeypatch):
    rows = clustered(700)
    expected = knn_graph(rows, 3)
    original, calls = _codes.Sweep.prune, []
    monkeypatch.setattr(_codes.Sweep, "prune", lambda self: (calls.append(1), original(self))[1])
    start = _codes.Sweep.__init__
    monkeypatch.setattr(_codes.Sweep, "__init__", lambda self, *a: (start(self, *a), setattr(self, "pruned_at", 50))[0])
    assert torch.equal(knn_graph(rows, 3).indices, expected.indices)
    assert len(calls) > 1


def test_used_where_it_pays_and_only_there():
    structured = clustered(3200)
    assert _codes.search(structured, 2) is not None
    assert _codes.search(structured[:2900], 2) is None
    assert _codes.search(structured, 65) is None
    assert _codes.search(torch.ones(3200, 24), 2) is None  # everything is everybody's neighbour
    noise = torch.randn(3200, 2000, generator=torch.Generator().manual_seed(0))
    assert _codes.search(noise, 2) is None
    indices, distances, left = _codes.search(structured, 2)
    assert len(left) < 32
    measured = torch.ones(3200, dtype=torch.bool)
    measured[left] = False
    expected = knn(structured.double().numpy(), 2)
    np.testing.assert_array_equal(indices[measured], expected[0][measured])
    np.testing.assert_array_equal(distances[measured], expected[1][measured])


def test_the_self_test_finds_saturating_products(monkeypatch):
    """A CPU without AVX512-VNNI adds pairs of products in int16."""

    def saturating(limit):
        def product(a, b):
            pairs = (a.int()[:, None, :] * b.T.int()[None]).unflatten(2, (-1, 2)).sum(dim=3)
            return pairs.clamp(-limit, limit).sum(dim=2).int()

        return product

    for limit, level in ((2**15 - 1, 127), (20_000, 63), (5_000, 0)):
        _codes.largest_code.cache_clear()
        monkeypatch.setattr(torch, "_int_mm", saturating(limit))
        assert _codes.largest_code("cpu") == level
    monkeypatch.delattr(torch, "_int_mm")
    _codes.largest_code.cache_clear()
    assert _codes.largest_code("cpu") == 0
    assert _codes.search(clustered(3200), 2) is None
    monkeypatch.undo()
    _codes.largest_code.cache_clear()
    assert _codes.largest_code("cpu") in (127, 63, 0)
