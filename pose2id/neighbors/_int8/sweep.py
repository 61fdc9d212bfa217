"""The sweep: tiles of products of codes, each pair of tiles once for the rows of both.

1. Tiles near each other come first: rows are sorted by the nearest of some pivot rows (`layout`).
2. A row's limit comes from an upper bound of the distance to its k-th neighbour (`side`). Rotation codes bound
   distances from above, so maxima over groups of columns give it as the sweep goes on. Projection codes do not; there
   the best of each row's own tile are measured beforehand (`measure_own_tiles`).
3. Only groups whose maximum passes the limit are looked at entry by entry; the entries that pass become `pairs`.
4. Pairs that wait are resolved by float products, tile by tile, and the limits follow.

Rows that collect more than their share of pairs are set aside.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pose2id.arrays import elements_at_once
from pose2id.neighbors._int8.encoder import Encoder
from pose2id.neighbors._int8.farthest import Farthest
from pose2id.neighbors._int8.layout import NONE
from pose2id.neighbors._int8.pairs import Pairs, count_each
from pose2id.neighbors._int8.side import NO_PAIR, Side, View
from pose2id.neighbors.contract import Search
from pose2id.progress import tqdm
from pose2id.threads import refit_threads

ENTRIES = 2**18
"""Entries of groups that are looked at at once, for the caches of a CPU: a tile may hold all of them in loose data."""
FINE = 4
"""Columns of the groups that set a row's first limit."""


def group_width(k: int) -> int:
    """Columns of a group: a tile must hold clearly more groups than k, or its maxima bound nothing."""
    return 64 if k <= 4 else 16 if k <= 24 else 8


class Sweep:
    """One pass over all pairs of tiles of two sets, or of one with itself.

    After `run`, `pairs.nearest` gives the k nearest rows of `right` for every row of `left` that is not set aside.
    `limited` says that only measured pairs may tighten the limits: those of projection codes, and limits from before.
    """

    def __init__(self, asked: Search, encoder: Encoder, left: Side, right: Side, cap: int, *, limited: bool) -> None:
        self.within, self.k = asked.within, asked.k
        self.encoder, self.left, self.right = encoder, left, right
        self.cap, self.group, self.limited = cap, group_width(asked.k), limited
        self.pairs = Pairs(asked, encoder, left, right)

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
        tile = self._products(rows, columns)
        if left is right:
            if first == second:
                tile.fill_diagonal_(2 * NONE)
        elif self.within:
            tile.masked_fill_(left.codes.order[rows][:, None] == right.codes.order[columns], 2 * NONE)
        return tile

    def _products(self, rows: slice | torch.Tensor, columns: slice) -> torch.Tensor:
        """The products c of rows of the left side and columns of the right; 2 NONE for pairs with equal labels."""
        left, right = self.left, self.right
        tile = self.encoder.products(left.codes.codes[rows], right.codes.codes[columns].T)
        tile.sub_(right.codes.half[columns]).sub_(left.codes.half[rows][:, None])
        if left.labels is not None and right.labels is not None:
            tile.masked_fill_(left.labels[rows][:, None] == right.labels[columns], 2 * NONE)
        return tile

    def run(self, farthest: Farthest | None = None, *, progress: bool = False) -> None:
        """Sweep all tiles, for the farthest rows too if asked."""
        for first, second in tqdm(self.tile_pairs(), desc="neighbours", unit="tile", disable=not progress):
            refit_threads()
            tile = self.multiply(first, second)
            for view in self.views(tile, first, second):
                self._take(view)
            if farthest is not None:
                real = tile if bool(tile.amin() > NONE) else tile.masked_fill_(tile <= NONE, NO_PAIR)
                for view in self.views(real, first, second):
                    farthest.take(view)

    def views(self, tile: torch.Tensor, first: int, second: int) -> Iterator[View]:
        """A tile as its rows see it, and, within one set, as its columns do."""
        a, b = tile.shape
        left, right, group = self.left, self.right, self.group
        own = left is right and first == second
        yield View(first, left.tiles[first], right.tiles[second], right.errors[second], tile.view(a, -1, group), 2, own)
        if left is right and not own:
            yield View(
                second, left.tiles[second], left.tiles[first], left.errors[first], tile.view(a // group, group, b), 1
            )

    def _take(self, view: View) -> None:
        """Bounds and pairs for the rows of a tile from its maxima, and from single entries where these pass."""
        side, rows, best = self.left, view.rows, view.largest()
        limit = side.limits(rows, view.error, self.encoder.step)
        if self.limited:
            row, group = (best >= limit[:, None]).nonzero(as_tuple=True)
        else:
            busy = (best >= limit[:, None]).any(dim=1).nonzero().flatten()
            part = best[busy]
            self._tighten(view, busy, part)
            limit[busy] = side.limits(busy + rows.start, view.error, self.encoder.step)
            which, group = (part >= limit[busy, None]).nonzero(as_tuple=True)
            row = busy[which]
        if not len(row):
            return
        at_once = elements_at_once(row.device, ENTRIES) // self.group
        for some, groups in zip(torch.split(row, at_once), torch.split(group, at_once), strict=True):
            entries = view.entries(some, groups)
            hit, slot = (entries >= limit[some, None]).nonzero(as_tuple=True)
            position = some[hit]
            side.counts[rows] += count_each(position, len(best))
            side.set_aside[rows] |= side.counts[rows] > self.cap
            column = groups[hit] * self.group + slot + view.columns.start
            if self.pairs.add(view.tile, position + rows.start, column, entries[hit, slot]):
                limit = side.limits(rows, view.error, self.encoder.step)

    def _tighten(self, view: View, busy: torch.Tensor, best: torch.Tensor) -> None:
        """Bounds of the rows `busy` of a tile from the maxima `best` of their groups, by (2) and (1)."""
        side, at = self.left, busy + view.rows.start
        if view.own:  # the first tile of a row sets its limit: its groups are cut finer for that
            best = view.grouped.reshape(len(view.grouped), -1, FINE).amax(dim=2)[busy]
        top = best.topk(min(self.k, best.shape[1]), dim=1).values
        radius = (2 - 2 * top.double()).sqrt_().mul_(self.encoder.step)
        radius.add_(side.codes.error[at][:, None] + view.error)
        radius[top <= NONE] = torch.inf
        joined = torch.cat([side.bounds[at], radius], dim=1)
        side.bounds[at] = joined.topk(self.k, dim=1, largest=False, sorted=True).values

    def measure_own_tiles(self) -> None:
        """First limits for projection codes: each row's most promising rows of its own tile, measured."""
        side, k = self.left, self.k
        for i, rows in enumerate(side.tiles):
            tile = self.multiply(i, i)
            a = len(tile)
            best, slot = tile.view(a, a // self.group, self.group).max(dim=2)
            value, group = best.topk(min(k + 1, best.shape[1]), dim=1)
            column = slot.gather(1, group) + group * self.group + rows.start
            position = torch.arange(rows.start, rows.stop, device=column.device)[:, None].expand_as(column)
            real = (value > NONE) & ~side.set_aside[position]
            _, upper = self.pairs.intervals(position[real], column[real], value[real])
            radius = torch.full(column.shape, torch.inf, dtype=torch.float64, device=column.device)
            radius[real] = upper
            least = radius.sort(dim=1).values[:, :k]
            side.bounds[rows, : least.shape[1]] = least

    def expected(self) -> tuple[float, float]:
        """Pairs a row will keep, and the share of rows that will be set aside, from a sample of rows against all."""
        left, right, step = self.left, self.right, self.encoder.step
        at = (~left.set_aside).nonzero().flatten()
        count = max(32, min(128, 2**20 // len(right.codes.order)))  # a quarter of a tile
        at = at[torch.linspace(0, len(at) - 1, count, dtype=torch.float64, device=at.device).long()]
        table = self._products(at, slice(None))
        if self.within:
            table.masked_fill_(left.codes.order[at][:, None] == right.codes.order, 2 * NONE)
        error = left.codes.error[at]
        radius = left.bounds[at, -1]
        if not self.limited:
            near, where = table.topk(min(self.k, table.shape[1]), dim=1)
            radius = ((2 - 2 * near.double()).sqrt() * step + error[:, None] + right.codes.error[where]).amax(dim=1)
        limit = ((radius + error + right.codes.error.median()) / step).square() / -2 - 3
        counts = (table >= limit.floor().clamp(min=NONE).int()[:, None]).sum(dim=1)
        return float(counts.clamp(max=self.cap).double().mean()), float((counts > self.cap).double().mean())
