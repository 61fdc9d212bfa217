"""The exact engines against brute force in float64, over every kind of set, width and k that has ever gone wrong."""

import functools

import numpy as np
import pytest
import torch
from support.engines import with_projections

from pose2id import knn_graph


def _people(rng, n, width):
    """Identities in groups, a decaying spectrum, length 1."""
    scale = (1 + np.arange(width)) ** -0.4
    groups = rng.standard_normal((max(2, n // 100), width)) * scale
    identities = groups[rng.integers(0, len(groups), max(2, n // 12))]
    identities = identities + 0.7 * rng.standard_normal(identities.shape) * scale
    rows = identities[rng.integers(0, len(identities), n)] + 0.5 * rng.standard_normal((n, width)) * scale
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _outlier(rng, n, width):
    rows = _people(rng, n, width)
    rows[n // 3] *= 1e7
    return rows


KINDS = {
    "people": _people,
    "Gaussian": lambda rng, n, width: rng.standard_normal((n, width)),
    "duplicates": lambda rng, n, width: _people(rng, n, width)[np.where(rng.random(n) < 0.3, 7, np.arange(n))],
    "identical": lambda _, n, width: np.full((n, width), 0.3),
    "near ties": lambda rng, n, width: _people(rng, 2, width)[rng.integers(0, 2, n)] + 1e-7 * rng.random((n, width)),
    "mean 1000": lambda rng, n, width: _people(rng, n, width) + 1000,
    "mixed lengths": lambda rng, n, width: _people(rng, n, width) * np.exp(rng.uniform(-3, 3, (n, 1))),
    "ReLU": lambda rng, n, width: np.maximum(_people(rng, n, width), 0),
    "outlier": _outlier,
    "subnormal": lambda rng, n, width: _people(rng, n, width) * 1e-40,
    "halves": lambda rng, n, width: _people(rng, n, width).astype(np.float16),
}


@functools.cache
def case(kind, n, width, depth):
    """float32 rows and their `depth` nearest others: distances in float64, rounded to float32, then by index."""
    rows = KINDS[kind](np.random.default_rng(n + width), n, width).astype(np.float32)
    wide = torch.from_numpy(rows).double()
    distances = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist").float()
    distances.fill_diagonal_(torch.inf)
    # The bits of a distance and an index make one integer: no two are alike, and the nearest are the smallest.
    keys = distances.view(torch.int32).long() << 32 | torch.arange(n)
    order = keys.topk(depth, largest=False).values & 0xFFFFFFFF
    return rows, distances.gather(1, order).numpy(), order.numpy()


def check(kind, n, width, k, engine, depth):
    rows, values, order = case(kind, n, width, depth)
    graph = knn_graph(rows, k, engine=engine)
    within = min(k, n - 1)
    np.testing.assert_array_equal(graph.distances[:, :within], values[:, :within])
    np.testing.assert_array_equal(graph.indices[:, :within], order[:, :within])
    assert (graph.indices[:, within:] == -1).all()
    assert np.isinf(graph.distances[:, within:]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [1, 2, 3])
def test_small_sets(engine, kind, width):
    for k in (1, 2, 3, 20, 259, 265):  # more rows than there are pivots
        check(kind, 260, width, k, engine, depth=260)


@with_projections
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [17, 64, 768, 3840])
def test_small_sets_of_wider_rows(engine, kind, width):
    n = {768: 130, 3840: 70}.get(width, 260)
    for k in (1, 2, 3, 20) if width <= 64 else (2, 20):
        check(kind, n, width, k, engine, depth=n)


@pytest.mark.parametrize("kind", KINDS)
def test_sets_that_the_filter_takes_by_itself(kind):
    for k in (2, 20):
        check(kind, 3100, 64, k, "exact", depth=20)
    case.cache_clear()  # a distance from every row to every other
