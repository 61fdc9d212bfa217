"""Lists: the scores of a tile sorted row by row, as far as the last match of each.

On the CPU numpy sorts, several rows at a time: its sort of mere numbers takes a quarter of the time of one that tells
where they stood, and a tenth of torch's. Rows whose columns are asked for are sorted as whole numbers that hold both.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

Values = npt.NDArray[Any]


class RowSorter:
    """Sorts the rows of tiles (b, G) up to a limit of each row, `end` (b,), with as many threads as torch uses.

    What is given is as wide as the longest list, others are padded with inf, and may hold more than the limit asks for.
    """

    def __init__(self) -> None:
        self._threads = torch.get_num_threads()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="evaluate")

    def sort(self, scores: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
        """The scores of each row, ascending."""
        if scores.is_cuda:
            return scores.sort(dim=1).values
        return _stack(self._each(_sort_row, scores, end), torch.inf)

    def order(self, scores: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As `sort`, and the columns where they stood, ascending where scores are equal."""
        if scores.is_cuda:
            values, columns = scores.sort(dim=1, stable=True)
            return values, columns
        columns = self._each(_order_row, scores, end)
        values = [row[order] for row, order in zip(scores.numpy(), columns, strict=True)]
        return _stack(values, torch.inf), _stack(columns, 0)

    def _each(self, call: Callable[[Values, Values], Values], scores: torch.Tensor, end: torch.Tensor) -> list[Values]:
        """What `call` makes of each row and its limit; each thread takes a run of rows."""
        rows, ends = scores.numpy(), end.numpy()
        step = max(1, -(-len(rows) // self._threads))
        starts = range(0, len(rows), step)
        runs = self._pool.map(lambda at: [*map(call, rows[at : at + step], ends[at : at + step])], starts)
        return [result for run in runs for result in run]


def _sort_row(row: Values, end: Values) -> Values:
    near = row <= end
    return np.sort(row if 2 * np.count_nonzero(near) > len(row) else row[near])


def _order_row(row: Values, end: Values) -> Values:
    columns = np.flatnonzero(row <= end)
    values = row[columns] + 0  # -0 is 0
    if values.dtype != np.float32:
        return columns[np.argsort(values, kind="stable")]
    # Above the column stands the score, as a whole number of the same order.
    bits = values.view(np.int32).astype(np.int64)
    keys = ((bits ^ ((bits >> 63) & 0x7FFFFFFF)) << 32) | columns
    keys.sort()
    return keys & 0xFFFFFFFF


def _stack(rows: list[Values], padding: float) -> torch.Tensor:
    """Rows of different lengths, at least one, as a table."""
    table = np.full((len(rows), max(1, *map(len, rows))), padding, rows[0].dtype)
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return torch.from_numpy(table)
