"""Pairs that codes could not rule out: float products narrow their distances, float64 differences decide."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from pose2id.arrays import work_dtype
from pose2id.distances import pair_distances, pair_products, slack, squared_norms, underflow
from pose2id.neighbors._int8.encoder import Encoder
from pose2id.neighbors._int8.side import Side
from pose2id.neighbors.contract import Search

RESOLVED_ROWS = 512
"""Positions that are resolved at once: their rows, and the rows these meet, stay in the caches."""
FLUSH = 10
"""Pairs per row, and 3 for each neighbour asked for, that wait before they are resolved; some 60 bytes each then."""


class Pairs:
    """Pairs of positions of the left and the right side that may matter.

    New ones wait until `resolve`, which tightens the limits of the left side and keeps what they do not rule out.
    """

    def __init__(self, asked: Search, encoder: Encoder, left: Side, right: Side) -> None:
        self.asked, self.encoder, self.left, self.right = asked, encoder, left, right
        self.norms: tuple[torch.Tensor, torch.Tensor] | None = None  # (queries, base), in the caller's units
        if products_help(asked.queries, asked.base, encoder):
            norms = squared_norms(asked.base)
            self.norms = (norms if asked.within else squared_norms(asked.queries), norms)
        self.underflow = underflow(work_dtype(asked.base.dtype), asked.base.shape[1])
        self._new: list[torch.Tensor] = []
        self._waiting = 0
        none = torch.empty(0, dtype=torch.int32, device=asked.base.device)
        self._kept = (none, none, none.double(), none.double())  # position, position, lower and upper bound

    def add(self, position: torch.Tensor, other: torch.Tensor, product: torch.Tensor) -> None:
        """New pairs with their products c, one after the other."""
        self._new.append(torch.stack([position, other, product]).int())
        self._waiting += len(position)

    @property
    def many(self) -> bool:
        """Whether so many wait that they should be resolved."""
        return self._waiting > (FLUSH + 3 * self.asked.k) * len(self.left.codes.order)

    def resolve(self) -> None:
        """Measure the pairs that are new by products, tighten the limits, and keep what they do not rule out."""
        side = self.left
        position, other, product = torch.cat(self._new or [side.codes.half.new_empty((3, 0))], dim=1)
        self._new, self._waiting = [], 0
        possible = product >= side.limits(position, self.right.codes.error[other], self.encoder.step)
        position, other, product = position[possible], other[possible], product[possible]
        order = position.argsort(stable=True)
        position, other, product = position[order], other[order], product[order]
        parts = [self.intervals(position[run].long(), other[run].long(), product[run]) for run in self.runs(position)]
        new = (position, other, *(torch.cat(values) for values in zip(*parts, strict=True)))
        position, other, lower, upper = (torch.cat(pair) for pair in zip(self._kept, new, strict=True))
        order = upper.argsort()
        order = order[position[order].argsort(stable=True)]
        position, other, lower, upper = position[order], other[order], lower[order], upper[order]
        place = _places(torch.bincount(position, minlength=len(side.codes.order)))
        for i in range(self.asked.k):
            at = place == i
            row = position[at].long()
            side.bounds[row, i] = torch.minimum(side.bounds[row, i], upper[at])
        row = position.long()
        keep = (lower * (1 - 2.0**-20) <= side.bounds[row, -1]) & ~side.set_aside[row]
        self._kept = (position[keep], other[keep], lower[keep], upper[keep])

    def runs(self, position: torch.Tensor) -> Iterator[slice]:
        """Pairs, positions ascending, cut into runs of `RESOLVED_ROWS` positions; at least one."""
        counts = torch.bincount(position, minlength=len(self.left.codes.order))
        ends = counts.cumsum(0)[RESOLVED_ROWS - 1 :: RESOLVED_ROWS].tolist()
        return (slice(*run) for run in itertools.pairwise([0, *ends, len(position)]))

    def intervals(
        self, position: torch.Tensor, other: torch.Tensor, product: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds (float64, in the frame) of the distances of pairs, positions ascending.

        By float products where these help; else from their `product` c, which is needed only then.
        """
        encoder = self.encoder
        if self.norms is None:
            if product is None:
                raise ValueError("pairs must come with their products where float products do not help, received none")
            error = self.left.codes.error[position] + self.right.codes.error[other]
            near = (-2 * product.double()).clamp_(min=0).sqrt_().mul_(encoder.step).sub_(error)
            return near, (2 - 2 * product.double()).clamp_(min=0).sqrt_().mul_(encoder.step).add_(error)
        row, column = self.left.codes.order[position], self.right.codes.order[other]
        lengths = self.norms[0][row] + self.norms[1][column]
        squared = lengths - 2 * pair_products(self.asked.queries, self.asked.base, row, column).double()
        # The slack covers the product and the norms; what it allows for moving the rows is not needed here.
        off = lengths * slack(self.asked.base.shape[1], self.asked.base.dtype) + self.underflow
        lower, upper = (squared - off).clamp_(min=0).sqrt_(), (squared + off).clamp_(min=0).sqrt_()
        return lower.mul_(encoder.scale), upper.mul_(encoder.scale)

    def nearest(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows (of the queries) by position, their neighbours (n, k) and distances (n, k), measured.

        They count for the rows that are not set aside.
        """
        self.resolve()
        k, base = self.asked.k, self.asked.base
        position, other = self._kept[0].long(), self._kept[1].long()
        row, column = self.left.codes.order[position], self.right.codes.order[other]
        dtype = work_dtype(base.dtype)
        distance = pair_distances(self.asked.queries, base, row, column, self.encoder.scale).to(dtype)
        order = column.argsort()
        order = order[distance[order].argsort(stable=True)]
        order = order[position[order].argsort(stable=True)]
        n = len(self.left.codes.order)
        place = _places(torch.bincount(position, minlength=n))
        order, place = order[place < k], place[place < k]
        indices = torch.full((n, k), -1, dtype=torch.int64, device=row.device)
        distances = torch.full((n, k), torch.inf, dtype=dtype, device=row.device)
        indices[position[order], place] = column[order]
        distances[position[order], place] = distance[order]
        return self.left.codes.order, indices, distances


def products_help(queries: torch.Tensor, base: torch.Tensor, encoder: Encoder) -> bool:
    """Whether float products of the rows as they are tell distances better than codes do, and cheaply.

    Not for halves, which would have to be copied, nor far from the origin, where products cancel.
    """
    dtype = work_dtype(base.dtype)
    largest = 2.0**40 if dtype == torch.float32 else 2.0**400
    return (
        base.dtype == queries.dtype == dtype
        and base.is_contiguous()
        and encoder.offset < 16
        and 1 / largest < encoder.scale < largest
    )


def _places(counts: torch.Tensor) -> torch.Tensor:
    """0, 1, ... counts[0] - 1, 0, 1, ...: places within consecutive groups."""
    starts = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum()), device=counts.device) - starts.repeat_interleave(counts)
