"""Lists: the scores of a tile sorted row by row, as far as the last match of each.

On the CPU numpy sorts: its sort of mere numbers takes a quarter of the time of one that tells where they stood. Rows
whose columns are asked for are sorted as whole numbers that hold both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

Values = npt.NDArray[Any]


class Places(NamedTuple):
    """For limits (b, m) of rows, how many scores of their row are below (`before`) and not above (`until`), (b, m)."""

    before: torch.Tensor
    until: torch.Tensor


def find_places(scores: torch.Tensor, end: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> Places:
    """The places of limits (b, m) among the scores (b, G) of their row; no limit is above the row's `end` (b,).

    Limits ascend in each row and are padded with inf, whose places mean nothing.
    """
    if scores.is_cuda:
        return _search(scores.sort(dim=1).values, lower, upper)
    return _place(_each(_find_in_row, scores, end, lower, upper))


def order_rows(
    scores: torch.Tensor, end: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor
) -> tuple[Places, torch.Tensor]:
    """As `find_places`, and the columns of the sorted scores, (b, w), ascending where these are equal."""
    if scores.is_cuda:
        values, columns = scores.sort(dim=1, stable=True)
        return _search(values, lower, upper), columns
    found, orders = zip(*_each(_order_row, scores, end, lower, upper), strict=True)
    table = np.zeros((len(orders), max(1, *map(len, orders))), np.int64)
    for row, order in zip(table, orders, strict=True):
        row[: len(order)] = order
    return _place(found), torch.from_numpy(table)


def _each(call: Callable[..., Any], *tensors: torch.Tensor) -> list[Any]:
    arrays = [tensor.numpy() for tensor in tensors]
    memory = np.empty_like(arrays[0][0])  # for a row; new memory for each costs half as much as its sort
    return [call(*rows, memory) for rows in zip(*arrays, strict=True)]


def _find_in_row(row: Values, end: Values, lower: Values, upper: Values, memory: Values) -> tuple[Values, Values]:
    near = row <= end
    if 2 * np.count_nonzero(near) > len(row):
        values = memory
        values[:] = row
    else:
        values = row[np.flatnonzero(near)]  # by far faster than row[near]
    values.sort()
    return values.searchsorted(lower), values.searchsorted(upper, "right")


def _order_row(
    row: Values, end: Values, lower: Values, upper: Values, _: Values
) -> tuple[tuple[Values, Values], Values]:
    columns = np.flatnonzero(row <= end)
    values = row[columns] + 0  # -0 is 0
    if values.dtype == np.float32:
        # Above the column stands the score, as a whole number of the same order.
        bits = values.view(np.int32).astype(np.int64)
        keys = ((bits ^ ((bits >> 63) & 0x7FFFFFFF)) << 32) | columns
        keys.sort()
        columns = keys & 0xFFFFFFFF
    else:
        columns = columns[values.argsort(kind="stable")]
    values = row[columns]
    return (values.searchsorted(lower), values.searchsorted(upper, "right")), columns


def _place(found: Sequence[tuple[Values, Values]]) -> Places:
    return Places(*(torch.from_numpy(np.stack(places)) for places in zip(*found, strict=True)))


def _search(values: torch.Tensor, lower: torch.Tensor, upper: torch.Tensor) -> Places:
    return Places(torch.searchsorted(values, lower), torch.searchsorted(values, upper, right=True))
