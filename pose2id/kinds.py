"""Rows that occur many times: which are equal, and which of them is the first."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pose2id.arrays import row_blocks

FEWEST_ALIKE = 4
"""Rows of a kind, on average, that pay for telling kinds apart."""
PROBED = 8
"""Columns that tell of most sets that there is nothing to find."""


class Kinds(NamedTuple):
    """Rows by kind."""

    of: torch.Tensor  # (n,): the kind of each row
    first: torch.Tensor  # (kinds,): the first row of each kind
    place: torch.Tensor  # (n,): how many rows of its kind stand before each


def find_kinds(rows: torch.Tensor, labels: torch.Tensor | None = None) -> Kinds | None:
    """The kinds of rows; None where a kind has less than `FEWEST_ALIKE` rows on average."""
    n, width = rows.shape
    some = rows[:, :: -(-width // PROBED)]
    for part in (some, rows):
        kind = _number(part, labels)
        count = int(kind.max()) + 1
        if FEWEST_ALIKE * count > n:
            return None
    order = kind.argsort(stable=True)
    sizes = torch.bincount(kind)
    starts = sizes.cumsum(0) - sizes
    first = order[starts]
    for block in row_blocks(n, width):
        if not bool((rows[block] == rows[first[kind[block]]]).all()):
            return None  # two different rows of one number
    place = torch.empty_like(order)
    place[order] = torch.arange(n, device=rows.device) - starts.repeat_interleave(sizes)
    return Kinds(kind, first, place)


def _number(rows: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """Numbers 0, 1, ... for rows, (n,): the same for equal rows of one label."""
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[rows.element_size()]
    generator = torch.Generator("cpu").manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (rows.shape[1],), generator=generator, device="cpu").to(rows.device)
    sums = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    for block in row_blocks(*rows.shape):
        sums[block] = ((rows[block] + 0).view(integers) * weights).sum(dim=1)  # + 0: 0 and -0 have different bits
    if labels is not None:
        codes = torch.unique(labels, return_inverse=True)[1]
        sums = torch.unique(sums, return_inverse=True)[1] * (int(codes.max()) + 1) + codes
    kind: torch.Tensor = torch.unique(sums, return_inverse=True)[1]
    return kind
