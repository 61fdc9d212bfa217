"""The sweep of one set by float products: the answers of the other float path, whatever the tiles hold."""

import numpy as np
import pytest
import torch

from pose2id import knn_graph
from pose2id.neighbors import _exact, _symmetric
from pose2id.neighbors.contract import Search


def draw(name):
    """Rows of several kinds; their numbers are no multiples of a group."""
    g = torch.Generator().manual_seed(0)
    normal = torch.randn(301, 12, generator=g)
    return {
        "normal": normal,
        "float64": normal.double(),
        "half": normal.half(),
        "lattice": torch.randint(0, 4, (301, 4), generator=g).float(),
        "near ties": normal[torch.randint(0, 30, (301,), generator=g)] + 1e-7 * normal,
        "shifted": normal * 1e-3 + 5,
        "huge": normal * 1e18,
        "tiny": normal * 1e-40,
        "few long": torch.cat([normal, 1e6 * normal[:7]]),
        "one group": normal[:64],
    }[name]


@pytest.mark.parametrize("tile", [64, 128, 2048])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("k", [1, 9, 30])
@pytest.mark.parametrize(
    "name",
    ["normal", "float64", "half", "lattice", "near ties", "shifted", "huge", "tiny", "few long", "one group"],
)
def test_equals_the_other_float_path(monkeypatch, name, k, labelled, tile):
    monkeypatch.setattr(_symmetric, "TILE", tile)
    rows = draw(name)
    labels = torch.arange(len(rows)) % 5 if labelled else None
    asked = Search(rows, rows, min(k, len(rows) // 5), labels, labels, within=True)
    expected = asked.no_neighbors()
    _exact.search_rows(asked, torch.arange(len(rows)), *expected)
    found = _symmetric.search_symmetric(asked, farthest=not labelled)
    if found is None:  # it says so rather than collecting most pairs
        assert name in ("near ties", "few long")
        return
    decided = ~found.left
    torch.testing.assert_close(found.indices[decided], expected[0][decided], rtol=0, atol=0)
    torch.testing.assert_close(found.distances[decided], expected[1][decided], rtol=0, atol=0)
    if not labelled:
        torch.testing.assert_close(found.farthest, _exact.farthest(rows), rtol=1e-6, atol=0)
    if name in ("normal", "float64", "half", "shifted"):
        assert not found.left.any()


def test_rows_with_too_many_near_ties_are_left(monkeypatch):
    """300 copies of one row, nearly: more pairs than a row may keep; the others are searched here."""
    monkeypatch.setattr(_symmetric, "TILE", 64)
    g = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.randn(1000, 12, generator=g), 3 + 1e-7 * torch.randn(500, 12, generator=g)])
    rows = rows[torch.randperm(len(rows), generator=g)]
    asked = Search(rows, rows, 2, within=True)
    found = _symmetric.search_symmetric(asked, farthest=True)
    crowd = (rows - 3).abs().amax(dim=1) < 1e-3
    assert found.left.any()
    assert not found.left[~crowd].any()
    indices, distances, farthest = _exact.search_both_ends(asked)
    expected = asked.no_neighbors()
    _exact.search_rows(asked, torch.arange(len(rows)), *expected)
    torch.testing.assert_close((indices, distances), expected, rtol=0, atol=0)
    torch.testing.assert_close(farthest, _exact.farthest(rows), rtol=1e-6, atol=0)


def test_it_is_not_for_other_queries_nor_for_many_neighbours():
    rows = draw("normal")
    assert _symmetric.search_symmetric(Search(rows[:50], rows, 2)) is None
    assert _symmetric.search_symmetric(Search(rows, rows, 65, within=True)) is None


@pytest.mark.parametrize(("dtype", "unit", "k"), [(np.float32, 2.0**-149, 1), (np.float64, 2.0**-1070, 7)])
def test_distances_below_normal_numbers_tie_by_index(dtype, unit, k):
    """Rounding to these is absolute: longer distances are equal than a relative margin allows for."""
    whole = np.random.default_rng(0).integers(0, 40, (300, 3))
    rows = (whole * unit).astype(dtype)
    exact = np.sqrt(np.square(whole[:, None] - whole).sum(axis=2)) * unit
    np.fill_diagonal(exact, np.inf)
    wanted = exact.astype(dtype).argsort(axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(knn_graph(rows, k, engine="exact").indices, wanted)
