"""Aligned distances of stripes, and re-ranking of any distances; loops over pairs and cells."""

import numpy as np

from reference.reranking import extended_set


def cells(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """tanh(x / 2) of the Euclidean distances x of the stripes (H, D) and (H2, D): (H, H2)."""
    return np.array([[np.tanh(np.sqrt(((s - t) ** 2).sum()) / 2) for t in b] for s in a])


def pair_distance(a: np.ndarray, b: np.ndarray, *, aligned: bool = True) -> float:
    """The smallest sum on a way from the first to the last cell, right or down; or the sum of the diagonal."""
    cost = cells(a, b)
    if not aligned:
        return float(np.trace(cost))
    best = np.full((len(a) + 1, len(b) + 1), np.inf)
    for i, j in np.ndindex(*cost.shape):
        before = 0.0 if i == j == 0 else min(best[i, j + 1], best[i + 1, j])
        best[i + 1, j + 1] = before + cost[i, j]
    return float(best[-1, -1])


def distances(query: np.ndarray, gallery: np.ndarray, *, aligned: bool = True) -> np.ndarray:
    """Every query against every gallery item, (Q, G)."""
    return np.array([[pair_distance(a, b, aligned=aligned) for b in gallery] for a in query])


def rerank_distances(
    across: np.ndarray, queries: np.ndarray, items: np.ndarray, *, k1: int, k2: int, lambda_value: float, square: bool
) -> np.ndarray:
    """Re-ranked distances (Q, G), from the whole matrix."""
    table = np.block([[queries, across], [across.T, items]])
    n, q = len(table), len(queries)
    lists = [sorted(range(n), key=lambda j, i=i: (j != i, table[i, j], j)) for i in range(n)]
    table = table**2 if square else table
    largest = table.max(axis=1, keepdims=True)
    original = np.divide(table, largest, out=np.zeros_like(table), where=largest > 0)
    weights = np.zeros((n, n))
    for i in range(n):
        members = sorted(extended_set(lists, i, k1))
        weights[i, members] = np.exp(-original[i, members])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[lists[i][:k2]].mean(axis=0) for i in range(n)])
    shared = np.minimum(weights[:q, None], weights[None, q:]).sum(axis=2)
    return (1 - lambda_value) * (1 - shared / (2 - shared)) + lambda_value * original[:q, q:]
