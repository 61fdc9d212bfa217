"""Jaccard distances of k-reciprocal neighbours within one set (SpCL, ClusterContrast), dense."""

import numpy as np

from reference.neighbors import distance_matrix
from reference.remembered import remembered
from reference.reranking import ranking_lists, reciprocal_set


@remembered
def jaccard_distances(x: np.ndarray, *, k1: int = 30, k2: int = 6, single: bool = True) -> np.ndarray:
    """Distances (N, N). A list holds k1 rows, the row itself first."""
    n, half = len(x), int(np.around(k1 / 2))
    squared = distance_matrix(x, x, single=False) ** 2
    lists = [each[:k1] for each in ranking_lists(x, single=single)]
    # reciprocal_set takes the first k + 1, of which there are k1 at most.
    whole = [reciprocal_set(lists, i, k1) for i in range(n)]
    halves = [reciprocal_set(lists, i, half) for i in range(n)]
    weights = np.zeros((n, n))
    for i in range(n):
        members = set(whole[i])
        for j in whole[i]:
            if 3 * len(halves[j] & whole[i]) > 2 * len(halves[j]):
                members |= halves[j]
        members = sorted(members)
        weights[i, members] = np.exp(-squared[i, members])
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[each[:k2]].mean(axis=0) for each in lists])
    shared = np.stack([np.minimum(row, weights).sum(axis=1) for row in weights])
    return np.maximum(1 - shared / (2 - shared), 0)
