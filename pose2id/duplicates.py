"""Duplicates: which rows of a set are equal, and which of them comes first."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pose2id.arrays import row_blocks

FEWEST_ALIKE = 4
"""Equal rows, on average, that pay for telling them from others."""
PROBED = 8
"""Columns that tell of most sets that there is nothing to find."""


class Duplicates(NamedTuple):
    """Rows by the distinct row that each repeats; the distinct rows are numbered from 0."""

    of: torch.Tensor  # (n,): the number of each row's distinct row
    first: torch.Tensor  # (distinct rows,): the first row of each number
    place: torch.Tensor  # (n,): how many rows of its number stand before each


def find_duplicates(rows: torch.Tensor, labels: torch.Tensor | None = None) -> Duplicates | None:
    """Which rows are equal and have equal labels; None where that is less than `FEWEST_ALIKE` on average."""
    n, width = rows.shape
    some = rows[:, :: -(-width // PROBED)]
    for part in (some, rows):
        number = _number(part, labels)
        count = int(number.max()) + 1
        if FEWEST_ALIKE * count > n:
            return None
    order = number.argsort(stable=True)
    sizes = torch.bincount(number)
    starts = sizes.cumsum(0) - sizes
    first = order[starts]
    for block in row_blocks(rows):
        if not bool((rows[block] == rows[first[number[block]]]).all()):
            return None  # two different rows of one number
    place = torch.empty_like(order)
    place[order] = torch.arange(n, device=rows.device) - starts.repeat_interleave(sizes)
    return Duplicates(number, first, place)


def _number(rows: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Numbers 0, 1, ... for rows, (n,): the same for equal rows of one label."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
    generator = torch.Generator("cpu").manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator, device="cpu").to(rows.device)
    sums = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for block in row_blocks(rows):
        sums[block] = ((rows[block] + 0).view(integers) * weights).sum(dim=1)  # + 0: 0 and -0 have different bits
    if labels is not None:
        codes = torch.unique(labels, return_inverse=True)[1]
        sums = torch.unique(sums, return_inverse=True)[1] * (int(codes.max()) + 1) + codes
    number: torch.Tensor = torch.unique(sums, return_inverse=True)[1]
    return number
