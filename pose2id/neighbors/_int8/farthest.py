"""The farthest other row of every row, found along with a sweep of one set by rotation codes.

The mirror image of the nearest: (1) and (2) give each row a lower bound of its farthest distance, and what may exceed
it is measured by float products, which also choose.
"""

from __future__ import annotations

import torch

from pose2id.arrays import elements_at_once
from pose2id.distances import pair_distances
from pose2id.neighbors._int8.layout import NONE
from pose2id.neighbors._int8.pairs import FLUSH, Pairs
from pose2id.neighbors._int8.side import View

OUTER = 512
"""Rows that give the first bounds of the farthest distances."""
MEASURED = 2**16
"""Pairs that are measured by products at once, a hundred bytes each."""


class Farthest:
    """What is known of the farthest rows: lower bounds, and the best that was measured.

    `pairs` are those of the sweep of one set, whose groups have `group` columns.
    """

    def __init__(self, pairs: Pairs, group: int) -> None:
        self.pairs, self.side, self.step, self.group = pairs, pairs.left, pairs.encoder.step, group
        codes = self.side.codes
        n, device = len(codes.order), codes.order.device
        self.bound = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)  # lower, in the frame
        self.best = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
        self.where = torch.zeros(n, dtype=torch.int64, device=device)
        self._new: list[torch.Tensor] = []
        self._waiting = 0
        # First bounds from the rows that are farthest from the middle.
        outer = torch.where(codes.order >= 0, codes.half, -1).topk(min(OUTER, n)).indices.sort().values
        for rows in self.side.tiles:
            tile = pairs.encoder.products(codes.codes[rows], codes.codes[outer].T)
            tile.sub_(codes.half[outer]).sub_(codes.half[rows][:, None])
            self._raise_bounds(rows, tile.masked_fill_(tile <= NONE, 0).amin(dim=1), codes.error[outer].max())

    def _raise_bounds(self, rows: slice, least: torch.Tensor, error: torch.Tensor) -> None:
        """Lower bounds of the farthest distance from the smallest c of each row with rows of errors up to `error`."""
        error = self.side.codes.error[rows] + error
        radius = (-2 * least.double()).clamp_(min=0).sqrt_().mul_(self.step).sub_(error)
        self.bound[rows] = torch.maximum(self.bound[rows], radius)

    def take(self, view: View) -> None:
        """Bounds and pairs for the rows of a tile from its minima, and from single entries where these pass."""
        rows = view.rows
        error = self.side.codes.error[rows] + view.error
        least = view.smallest()
        self._raise_bounds(rows, least.amin(dim=1), view.error)
        limit = ((self.bound[rows] - error).clamp_(min=0).div_(self.step).square_() / -2 + 4).ceil_()
        limit = limit.clamp_(min=2 * NONE).int()
        limit[self.side.codes.order[rows] < 0] = 2 * NONE
        row, group = (least <= limit[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return
        entries = view.entries(row, group)
        hit, slot = (entries <= limit[row, None]).nonzero(as_tuple=True)
        row = row[hit] + rows.start
        self._new.append(torch.stack([row, group[hit] * self.group + slot + view.columns.start]).int())
        self._waiting += len(row)
        if self._waiting > 4 * FLUSH * len(self.bound):
            self.resolve()

    def resolve(self) -> None:
        """Measure the pairs that are new by products; each row keeps its farthest."""
        if not self._waiting:
            return
        position, other = torch.cat(self._new, dim=1)
        self._new, self._waiting = [], 0
        order = position.argsort(stable=True)
        position, other = position[order].long(), other[order].long()
        at_once = elements_at_once(position.device, MEASURED)
        for at, to in zip(position.split(at_once), other.split(at_once), strict=True):
            lower, upper = self.pairs.intervals(at, to)
            best = self.best.scatter_reduce(0, at, upper, "amax")
            chosen = (upper == best[at]) & (upper > self.best[at])
            self.where[at[chosen]] = to[chosen]
            self.best = best
            self.bound.scatter_reduce_(0, at, lower, "amax")

    def distances(self) -> torch.Tensor:
        """The distance of every row of the set to its farthest, (n,) float64, in the caller's units."""
        self.resolve()
        order, rows = self.side.codes.order, self.pairs.asked.base
        real = order >= 0
        own, other = order[real], order[self.where[real]]
        result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        result[own] = pair_distances(rows, rows, own, other, self.pairs.encoder.scale)
        return result
