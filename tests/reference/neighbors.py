"""The k nearest other rows and the mutual relation."""

from collections.abc import Sequence

import numpy as np

from reference.remembered import remembered


def distance_matrix(a: np.ndarray, b: np.ndarray, *, single: bool = True) -> np.ndarray:
    """Euclidean distances (len(a), len(b)), from differences in float64."""
    table = np.zeros((len(a), len(b)))
    for i, row in enumerate(a):
        table[i] = np.sqrt(((b - row) ** 2).sum(axis=1))
    return table.astype(np.float32).astype(np.float64) if single else table


@remembered
def neighbor_lists(
    x: np.ndarray, *, exclude: Sequence | None = None, hidden: Sequence[int] = (), single: bool = True
) -> list[list[int]]:
    """For every row all the rows that may be its neighbours, by (distance, index).

    Rows in ``hidden`` are nobody's neighbours and have none.
    """
    return _sort_rows(distance_matrix(x, x, single=single), exclude, set(hidden))


def _sort_rows(table: np.ndarray, exclude: Sequence | None, hidden: set[int]) -> list[list[int]]:
    visible = np.array([j for j in range(len(table)) if j not in hidden], dtype=np.int64)
    lists: list[list[int]] = [[] for _ in table]
    for i in visible.tolist():
        allowed = visible[visible != i]
        if exclude is not None:
            allowed = allowed[[exclude[i] != exclude[j] for j in allowed.tolist()]]
        lists[i] = allowed[np.argsort(table[i, allowed], kind="stable")].tolist()  # the smaller index first
    return lists


@remembered
def knn(
    x: np.ndarray, k: int, *, exclude: Sequence | None = None, single: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Indices and distances (N, k), padded with -1 and inf."""
    table = distance_matrix(x, x, single=single)
    indices = np.full((len(x), k), -1, dtype=np.int64)
    distances = np.full((len(x), k), np.inf)
    for i, row in enumerate(_sort_rows(table, exclude, set())):
        for position, j in enumerate(row[:k]):
            indices[i, position] = j
            distances[i, position] = table[i, j]
    return indices, distances


def mutual_neighbors(lists: Sequence[Sequence[int]], k1: int, k2: int) -> list[list[int]]:
    """M_i = {j in the first k1 of i : i in the first k2 of j}."""
    return [[j for j in row[:k1] if i in lists[j][:k2]] for i, row in enumerate(lists)]


@remembered
def is_clear_cut(x: np.ndarray, depth: int, gap: float) -> bool:
    """Whether rounding cannot reorder the first ``depth`` neighbours of any row.

    True if neighbouring distances in every list are either exactly equal or further apart than ``gap`` times
    the largest distance. Guards comparisons of versions that round at different places.
    """
    table = distance_matrix(x, x, single=False)
    np.fill_diagonal(table, np.inf)
    nearest = np.sort(table, axis=1)[:, : depth + 1]
    nearest = np.where(np.isinf(nearest), np.nan, nearest)
    steps = np.diff(nearest, axis=1)
    finite = table[np.isfinite(table)]
    largest = finite.max() if finite.size else 0.0
    return not ((steps > 0) & (steps <= gap * largest)).any()
