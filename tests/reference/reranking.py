"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), dense."""

import numpy as np

from reference.neighbors import distance_matrix
from reference.remembered import remembered


def ranking_lists(x: np.ndarray, *, single: bool = True) -> list[list[int]]:
    """Every row's list of all rows: itself, then the others by (distance, index)."""
    table = distance_matrix(x, x, single=single)
    return [sorted(range(len(x)), key=lambda j, i=i: (j != i, table[i, j], j)) for i in range(len(x))]


def reciprocal_set(lists: list[list[int]], i: int, k: int) -> set[int]:
    """R(i, k): the rows j among the first k + 1 of i that have i among their first k + 1."""
    return {j for j in lists[i][: k + 1] if i in lists[j][: k + 1]}


def extended_set(lists: list[list[int]], i: int, k1: int) -> set[int]:
    """R(i, k1) together with every R(j, half) that lies in it to more than two thirds."""
    half = int(np.around(k1 / 2))
    base = reciprocal_set(lists, i, k1)
    extended = set(base)
    for j in base:
        candidate = reciprocal_set(lists, j, half)
        if 3 * len(candidate & base) > 2 * len(candidate):
            extended |= candidate
    return extended


@remembered
def rerank(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    single: bool = True,
) -> np.ndarray:
    """Distances (Q, G)."""
    x = np.concatenate([query, gallery])
    n = len(x)
    squared = distance_matrix(x, x, single=False) ** 2
    largest = squared.max(axis=1, keepdims=True)
    original = np.divide(squared, largest, out=np.zeros_like(squared), where=largest > 0)
    lists = ranking_lists(x, single=single)

    weights = np.zeros((n, n))
    for i in range(n):
        members = sorted(extended_set(lists, i, k1))
        weights[i, members] = np.exp(-original[i, members])
        weights[i] /= weights[i].sum()
    if k2 > 1:
        weights = np.stack([weights[lists[i][:k2]].mean(axis=0) for i in range(n)])

    result = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            shared = np.minimum(weights[q], weights[len(query) + g]).sum()
            jaccard = 1 - shared / (2 - shared)
            result[q, g] = (1 - lambda_value) * jaccard + lambda_value * original[q, len(query) + g]
    return result
