"""The sweep of the int8 filter: tiles of products of codes, each pair of tiles once for the rows of both.

`_codes` derives what a product proves about a distance, and numbers the formulas; `_filter` decides what is swept.

1. Tiles near each other come first: rows are sorted by the nearest of some pivot rows.
2. A row's limit is an upper bound of the distance to its k-th neighbour: codes made by `turn` bound distances from
   above, so maxima over groups of columns give it as the sweep goes on. Codes made by `prefix` do not; there the best
   of each row's own tile are measured beforehand (`seed`).
3. Only groups whose maximum reaches the limit are looked at entry by entry; the pairs that do are kept.
4. Kept pairs are measured by float products (`settle`), which give a narrow interval, and the limits follow. Those
   whose interval can still hold a neighbour are measured as float64 differences (`nearest`); they decide.

Rows that collect more than their share of pairs are set aside (`open`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tqdm import tqdm

from pose2id.arrays import work_dtype
from pose2id.distances import pair_distances, pair_products, slack, squared_norms
from pose2id.neighbors._int8 import codes as _codes
from pose2id.neighbors._int8.codes import NONE, Codes, Encoder
from pose2id.neighbors.contract import Search

SETTLE_ROWS = 512
"""Positions that are settled at once: their rows, and the rows these meet, stay in the caches."""
FLUSH = 10
"""Pairs per row, and 3 for each neighbour asked for, that are kept before they are settled; some 60 bytes each then."""
FINE = 4
"""Columns of the groups that set a row's first limit."""
OUTER = 512
"""Rows that give the first bounds of the farthest distances."""
OPEN = 2**30
"""A limit that no pair reaches."""


def group_width(k: int) -> int:
    """Columns of a group: a tile must hold clearly more groups than k, or its maxima bound nothing."""
    return 64 if k <= 4 else 16 if k <= 24 else 8


class Side:
    """One of the two sets of a sweep: its codes and what is known of its rows so far.

    Attributes
    ----------
    bounds : (n, k) float64
        Upper bounds of the distances to k different rows, in the frame; the last column is the limit t.
    open : (n,) bool
        Rows that collected too many pairs: they are not searched here. Padding is open from the start.
    """

    def __init__(self, codes: Codes, labels: torch.Tensor | None, k: int) -> None:
        n, device = len(codes.order), codes.order.device
        self.codes = codes
        self.labels = None if labels is None else labels.int()[codes.order.clamp(min=0)]
        self.bounds = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n, dtype=torch.int64, device=device)
        self.open = codes.order < 0
        self.tiles = [slice(*ends) for ends in itertools.pairwise(codes.starts)]
        self.errors = [codes.error[tile].max() for tile in self.tiles]  # the largest E of each

    def limits(self, rows: slice | torch.Tensor, far: torch.Tensor, step: float) -> torch.Tensor:
        """The integer limits of (3) for `rows` against columns with errors up to `far`; none pass for open rows."""
        # Rounding to float32 may make a slightly longer distance equal.
        reach = (self.bounds[rows, -1] * (1 + 2.0**-22) + self.codes.error[rows] + far) / step
        limit = (reach.square() / -2 - 3).floor().clamp(min=NONE)
        return torch.where(self.open[rows], OPEN, limit.int())


@dataclass
class View:
    """A tile of c, seen from one of its sides."""

    rows: slice
    columns: slice
    far: torch.Tensor  # the largest E of the columns
    grouped: torch.Tensor  # (rows, groups, group) for dim 2, (groups, group, rows) for dim 1
    dim: int
    own: bool = False  # rows and columns are the same tile

    def largest(self) -> torch.Tensor:
        """The maxima over groups of columns, (rows, groups)."""
        best = self.grouped.amax(dim=self.dim)
        return best if self.dim == 2 else best.T

    def smallest(self) -> torch.Tensor:
        """The minima over groups of columns, (rows, groups)."""
        least = self.grouped.amin(dim=self.dim)
        return least if self.dim == 2 else least.T

    def entries(self, row: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """The entries (m, group) of chosen rows and groups."""
        return self.grouped[row, group] if self.dim == 2 else self.grouped[group, :, row]


class Sweep:
    """One pass over all pairs of tiles of two sets, or of one with itself.

    After `run`, `nearest` gives the k nearest rows of `right` for every row of `left` that is not open.
    """

    def __init__(self, asked: Search, encoder: Encoder, left: Side, right: Side, cap: int, *, limited: bool) -> None:
        self.queries, self.base, self.within, self.k = queries, base, _, k = (
            asked.queries,
            asked.base,
            asked.within,
            asked.k,
        )
        self.encoder, self.left, self.right = encoder, left, right
        self.cap, self.group, self.limited = cap, group_width(k), limited
        self.norms: tuple[torch.Tensor, torch.Tensor] | None = None  # (queries, base), in the caller's units
        if products_help(queries, base, encoder):
            norms = squared_norms(base)
            self.norms = (norms if asked.within else squared_norms(queries), norms)
        self.hidden = 8 * base.shape[1] * float(torch.finfo(work_dtype(base.dtype)).tiny)  # by underflow
        size = _codes.TILE_CUDA if base.is_cuda else _codes.TILE
        self.out = torch.empty(size**2, dtype=torch.int32, device=base.device)
        self.farthest: Farthest | None = None
        self.fresh: list[torch.Tensor] = []
        self.size = 0
        none = torch.empty(0, dtype=torch.int32, device=base.device)
        self.kept = (none, none, none.double(), none.double())  # position, position, lower and upper bound

    def tile_pairs(self) -> list[tuple[int, int]]:
        """Every pair of tiles once; within one set each tile with itself first, then with near ones."""
        a, b = len(self.left.tiles), len(self.right.tiles)
        if self.left is self.right:
            return [(i, i + apart) for apart in range(a) for i in range(a - apart)]
        return [(i, j) for i in range(a) for j in range(b)]

    def multiply(self, first: int, second: int) -> torch.Tensor:
        """The tile of c for two tiles of rows, as (a, b) int32; below NONE where a pair does not count."""
        left, right = self.left, self.right
        rows, columns = left.tiles[first], right.tiles[second]
        a, b = rows.stop - rows.start, columns.stop - columns.start
        tile = self.out[: a * b].view(a, b)
        torch._int_mm(left.codes.codes[rows], right.codes.codes[columns].T, out=tile)
        tile -= right.codes.half[columns]
        tile -= left.codes.half[rows][:, None]
        if left.labels is not None and right.labels is not None:
            tile.masked_fill_(left.labels[rows][:, None] == right.labels[columns], 2 * NONE)
        if left is right:
            if first == second:
                tile.fill_diagonal_(2 * NONE)
        elif self.within:
            tile.masked_fill_(left.codes.order[rows][:, None] == right.codes.order[columns], 2 * NONE)
        return tile

    def run(self, *, progress: bool = False) -> None:
        """Sweep all tiles."""
        for first, second in tqdm(self.tile_pairs(), desc="neighbours", unit="tile", disable=not progress):
            tile = self.multiply(first, second)
            for view in self.views(tile, first, second):
                self._take(view)
            if self.size > (FLUSH + 3 * self.k) * len(self.left.codes.order):
                self.settle()
            if self.farthest is not None:
                real = tile if bool(tile.amin() > NONE) else tile.masked_fill_(tile <= NONE, OPEN)
                for view in self.views(real, first, second):
                    self.farthest.take(view)

    def views(self, tile: torch.Tensor, first: int, second: int) -> Iterator[View]:
        """A tile as its rows see it, and, within one set, as its columns do."""
        a, b = tile.shape
        left, right, group = self.left, self.right, self.group
        own = left is right and first == second
        yield View(left.tiles[first], right.tiles[second], right.errors[second], tile.view(a, -1, group), 2, own)
        if left is right and not own:
            yield View(left.tiles[second], left.tiles[first], left.errors[first], tile.view(a // group, group, b), 1)

    def _take(self, view: View) -> None:
        """Bounds and pairs for the rows of a tile from its maxima, and from single entries where these reach."""
        side, step, rows, far, best = self.left, self.encoder.step, view.rows, view.far, view.largest()
        limit = side.limits(rows, far, step)
        if self.limited:
            row, group = (best >= limit[:, None]).nonzero(as_tuple=True)
        else:
            busy = (best >= limit[:, None]).any(dim=1).nonzero().flatten()
            at, part = busy + rows.start, best[busy]
            # The first tile of a row sets its limit: its groups are cut finer for that.
            fine = view.grouped.reshape(len(best), -1, FINE).amax(dim=2)[busy] if view.own else part
            top = fine.topk(min(self.k, fine.shape[1]), dim=1).values
            reach = (2 - 2 * top.double()).sqrt_().mul_(step).add_(side.codes.error[at][:, None] + far)
            reach[top <= NONE] = torch.inf
            joined = torch.cat([side.bounds[at], reach], dim=1)
            side.bounds[at] = joined.topk(self.k, dim=1, largest=False, sorted=True).values
            limit[busy] = side.limits(at, far, step)
            which, group = (part >= limit[busy, None]).nonzero(as_tuple=True)
            row = busy[which]
        if not len(row):
            return
        entries = view.entries(row, group)
        hit, slot = (entries >= limit[row, None]).nonzero(as_tuple=True)
        row = row[hit]
        side.counts[rows] += torch.bincount(row, minlength=len(best))
        column = group[hit] * self.group + slot + view.columns.start
        self.fresh.append(torch.stack([row + rows.start, column, entries[hit, slot]]).int())
        self.size += len(row)
        side.open[rows] |= side.counts[rows] > self.cap

    def seed(self) -> None:
        """Limits for `prefix` codes: each row's most promising rows of its own tile, measured."""
        side, k = self.left, self.k
        for i, rows in enumerate(side.tiles):
            tile = self.multiply(i, i)
            a = len(tile)
            best, slot = tile.view(a, a // self.group, self.group).max(dim=2)
            value, group = best.topk(min(k + 1, best.shape[1]), dim=1)
            column = slot.gather(1, group) + group * self.group + rows.start
            position = torch.arange(rows.start, rows.stop, device=column.device)[:, None].expand_as(column)
            real = (value > NONE) & ~side.open[position]
            _, upper = self.intervals(position[real], column[real], value[real])
            reach = torch.full(column.shape, torch.inf, dtype=torch.float64, device=column.device)
            reach[real] = upper
            least = reach.sort(dim=1).values[:, :k]
            side.bounds[rows, : least.shape[1]] = least

    def settle(self) -> None:
        """Measure the pairs that are new by products, tighten the limits, and keep what they do not rule out."""
        side = self.left
        fresh = self.fresh or [side.codes.half.new_empty((3, 0))]
        position, other, product = torch.cat(fresh, dim=1)
        self.fresh, self.size = [], 0
        possible = product >= side.limits(position, self.right.codes.error[other], self.encoder.step)
        position, other, product = position[possible], other[possible], product[possible]
        order = position.argsort(stable=True)
        position, other, product = position[order], other[order], product[order]
        n = len(side.codes.order)
        parts = [
            self.intervals(position[pairs].long(), other[pairs].long(), product[pairs]) for pairs in self.runs(position)
        ]
        new = (position, other, *(torch.cat(values) for values in zip(*parts, strict=True)))
        position, other, lower, upper = (torch.cat(pair) for pair in zip(self.kept, new, strict=True))
        order = upper.argsort()
        order = order[position[order].argsort(stable=True)]
        position, other, lower, upper = position[order], other[order], lower[order], upper[order]
        place = _places(torch.bincount(position, minlength=n))
        for i in range(self.k):
            at = place == i
            row = position[at].long()
            side.bounds[row, i] = torch.minimum(side.bounds[row, i], upper[at])
        keep = (lower * (1 - 2.0**-20) <= side.bounds[position.long(), -1]) & ~side.open[position.long()]
        self.kept = (position[keep], other[keep], lower[keep], upper[keep])

    def runs(self, position: torch.Tensor) -> Iterator[slice]:
        """Pairs, positions ascending, cut into runs of `SETTLE_ROWS` positions; at least one."""
        counts = torch.bincount(position, minlength=len(self.left.codes.order))
        ends = counts.cumsum(0)[SETTLE_ROWS - 1 :: SETTLE_ROWS].tolist()
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
        squared = lengths - 2 * pair_products(self.queries, self.base, row, column).double()
        # The slack covers the product and the norms; what it allows for moving the rows is not needed here.
        off = lengths * slack(self.base.shape[1], self.base.dtype) + self.hidden
        lower, upper = (squared - off).clamp_(min=0).sqrt_(), (squared + off).clamp_(min=0).sqrt_()
        return lower.mul_(encoder.scale), upper.mul_(encoder.scale)

    def nearest(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows (of the queries) that were decided, their neighbours (n, k) and distances (n, k), measured."""
        self.settle()
        position, other = self.kept[0].long(), self.kept[1].long()
        row, column = self.left.codes.order[position], self.right.codes.order[other]
        dtype = work_dtype(self.base.dtype)
        distance = pair_distances(self.queries, self.base, row, column, self.encoder.scale).to(dtype)
        order = column.argsort()
        order = order[distance[order].argsort(stable=True)]
        order = order[position[order].argsort(stable=True)]
        n = len(self.left.codes.order)
        place = _places(torch.bincount(position, minlength=n))
        order, place = order[place < self.k], place[place < self.k]
        indices = torch.full((n, self.k), -1, dtype=torch.int64, device=row.device)
        distances = torch.full((n, self.k), torch.inf, dtype=dtype, device=row.device)
        indices[position[order], place] = column[order]
        distances[position[order], place] = distance[order]
        return self.left.codes.order, indices, distances

    def expected(self) -> tuple[float, float]:
        """Pairs a row will keep, and the share of rows that will be set aside, from a sample of rows against all."""
        left, right, step = self.left, self.right, self.encoder.step
        at = (~left.open).nonzero().flatten()
        count = max(32, min(128, 2**24 // len(right.codes.order)))
        at = at[torch.linspace(0, len(at) - 1, count, dtype=torch.float64, device=at.device).long()]
        table = torch._int_mm(left.codes.codes[at], right.codes.codes.T)
        table.sub_(right.codes.half).sub_(left.codes.half[at][:, None])
        if self.within:
            table.masked_fill_(left.codes.order[at][:, None] == right.codes.order, 2 * NONE)
        if left.labels is not None and right.labels is not None:
            table.masked_fill_(left.labels[at][:, None] == right.labels, 2 * NONE)
        error = left.codes.error[at]
        limit = left.bounds[at, -1]
        if not self.limited:
            near, where = table.topk(min(self.k, table.shape[1]), dim=1)
            limit = ((2 - 2 * near.double()).sqrt() * step + error[:, None] + right.codes.error[where]).amax(dim=1)
        limit = ((limit + error + right.codes.error.median()) / step).square() / -2 - 3
        counts = (table >= limit.floor().clamp(min=NONE).int()[:, None]).sum(dim=1)
        return float(counts.clamp(max=self.cap).double().mean()), float((counts > self.cap).double().mean())


class Farthest:
    """The farthest other row of every row, found along with a sweep of one set by `turn` codes.

    The mirror image of the nearest: (1) and (2) give each row a lower bound of its farthest distance, and what may
    exceed it is measured by float products, which also choose.
    """

    def __init__(self, sweep: Sweep) -> None:
        n, device = len(sweep.left.codes.order), sweep.left.codes.order.device
        self.sweep = sweep
        self.bound = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)  # lower, in the frame
        self.best = torch.full((n,), -torch.inf, dtype=torch.float64, device=device)
        self.where = torch.zeros(n, dtype=torch.int64, device=device)
        self.fresh: list[torch.Tensor] = []
        self.size = 0
        # First bounds from the rows that are farthest from the middle.
        codes = sweep.left.codes
        outer = torch.where(codes.order >= 0, codes.half, -1).topk(min(OUTER, n)).indices.sort().values
        for rows in sweep.left.tiles:
            tile = torch._int_mm(codes.codes[rows], codes.codes[outer].T)
            tile.sub_(codes.half[outer]).sub_(codes.half[rows][:, None])
            self._raise_bounds(rows, tile.masked_fill_(tile <= NONE, 0).amin(dim=1), codes.error[outer].max())

    def _raise_bounds(self, rows: slice, least: torch.Tensor, far: torch.Tensor) -> None:
        """Lower bounds of the farthest distance from the smallest c of each row with rows of errors up to `far`."""
        error = self.sweep.left.codes.error[rows] + far
        reach = (-2 * least.double()).clamp_(min=0).sqrt_().mul_(self.sweep.encoder.step).sub_(error)
        self.bound[rows] = torch.maximum(self.bound[rows], reach)

    def take(self, view: View) -> None:
        """Bounds and pairs for the rows of a tile from its minima, and from single entries where these reach."""
        rows, step = view.rows, self.sweep.encoder.step
        error = self.sweep.left.codes.error[rows] + view.far
        least = view.smallest()
        self._raise_bounds(rows, least.amin(dim=1), view.far)
        limit = ((self.bound[rows] - error).clamp_(min=0).div_(step).square_() / -2 + 4).ceil_()
        limit = limit.clamp_(min=2 * NONE).int()
        limit[self.sweep.left.codes.order[rows] < 0] = 2 * NONE
        row, group = (least <= limit[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return
        entries = view.entries(row, group)
        hit, slot = (entries <= limit[row, None]).nonzero(as_tuple=True)
        row = row[hit] + rows.start
        self.fresh.append(torch.stack([row, group[hit] * self.sweep.group + slot + view.columns.start]).int())
        self.size += len(row)
        if self.size > 4 * FLUSH * len(self.bound):
            self.settle()

    def settle(self) -> None:
        """Measure the pairs that are new by products; each row keeps its farthest."""
        if not self.size:
            return
        position, other = torch.cat(self.fresh, dim=1)
        self.fresh, self.size = [], 0
        order = position.argsort(stable=True)
        position, other = position[order].long(), other[order].long()
        for pairs in self.sweep.runs(position):
            at, to = position[pairs], other[pairs]
            lower, upper = self.sweep.intervals(at, to)
            far = self.best.scatter_reduce(0, at, upper, "amax")
            chosen = (upper == far[at]) & (upper > self.best[at])
            self.where[at[chosen]] = to[chosen]
            self.best = far
            self.bound.scatter_reduce_(0, at, lower, "amax")

    def distances(self) -> torch.Tensor:
        """The distance of every row of the set to its farthest, (n,) float64, in the caller's units."""
        self.settle()
        order, rows = self.sweep.left.codes.order, self.sweep.base
        real = order >= 0
        own, other = order[real], order[self.where[real]]
        result = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
        result[own] = pair_distances(rows, rows, own, other, self.sweep.encoder.scale)
        return result


def products_help(queries: torch.Tensor, base: torch.Tensor, encoder: Encoder) -> bool:
    """Whether float products of the rows as they are tell distances better than codes do, and cheaply.

    Not for halves, which would have to be copied, nor far from the origin, where products cancel.
    """
    dtype = work_dtype(base.dtype)
    reach = 2.0**40 if dtype == torch.float32 else 2.0**400
    return (
        base.dtype == queries.dtype == dtype
        and base.is_contiguous()
        and encoder.offset < 16
        and 1 / reach < encoder.scale < reach
    )


def _places(counts: torch.Tensor) -> torch.Tensor:
    """0, 1, ... counts[0] - 1, 0, 1, ...: places within consecutive groups."""
    starts = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum()), device=counts.device) - starts.repeat_interleave(counts)
