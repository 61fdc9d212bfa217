"""Feature centralization: fuse, normalise, add mutual neighbours, normalise."""

from collections.abc import Sequence

import numpy as np

from reference.neighbors import mutual_neighbors, neighbor_lists
from reference.remembered import remembered


def unit(x: np.ndarray) -> np.ndarray:
    """Rows divided by their length; a zero row stays zero."""
    result = np.zeros_like(x, dtype=np.float64)
    for i, row in enumerate(x):
        largest = np.abs(row).max()
        if largest > 0:
            scaled = row / largest
            result[i] = scaled / np.sqrt((scaled**2).sum())
    return result


def fuse(x: np.ndarray, generated: np.ndarray | None, eta: float) -> np.ndarray:
    """f + eta * mean over M of the generated (N, M, D); (N, D) is a mean already."""
    if generated is None:
        return x.astype(np.float64)
    mean = generated if generated.ndim == 2 else generated.mean(axis=1)
    return x + eta * mean


def given_lists(neighbors: np.ndarray, exclude: Sequence | None = None, hidden: Sequence[int] = ()) -> list[list[int]]:
    """Neighbour lists from a precomputed table, without -1, forbidden and hidden entries."""
    lists = []
    for i, row in enumerate(neighbors.tolist()):
        allowed = [j for j in row if j >= 0 and j not in hidden and i not in hidden]
        lists.append([j for j in allowed if exclude is None or exclude[i] != exclude[j]])
    return lists


@remembered
def centralize(
    x: np.ndarray,
    generated: np.ndarray | None = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    alpha: float = 0.0,
    normalize: bool = True,
    neighbors: np.ndarray | None = None,
    exclude: Sequence | None = None,
    single: bool = True,
) -> np.ndarray:
    """The whole method: equation 9, then algorithm 1."""
    f = fuse(x, generated, eta)
    directions = unit(f)
    if normalize:
        f = directions
    hidden = [i for i, row in enumerate(f) if not row.any()]
    if neighbors is None:
        lists = neighbor_lists(f, exclude=exclude, hidden=hidden, single=single)
    else:
        lists = given_lists(neighbors, exclude, hidden)
    z = f.copy()
    for i, mutual in enumerate(mutual_neighbors(lists, k1, k2)):
        for j in mutual:
            cosine = float((directions[i] * directions[j]).sum())
            z[i] += max(cosine, 0.0) ** alpha * f[j]
    return unit(z) if normalize else z
