"""The nearest rows of parts, tile by tile, never N x N; and the farthest.

By the contract of `pose2id.neighbors.contract`: distances are float64 (`pairs`), rounded to the working dtype;
ascending, ties by index; pairs with equal labels, the row itself within one set, and pairs without a common part do
not count.

1. *Candidates.* Tiles of lower bounds (`tiles`), within one set each pair of tiles once, for the rows of both. Each row
   keeps the k + SPARE smallest. The first k are measured, then those that may be nearer than the k-th of these. When
   the bound of everything that was not kept exceeds the k-th distance, the row is done.
2. *Sweep.* Rows that are left (many ties) go through the base once more in ascending order of index, with bounds in
   float64. What is held so far always has the lower index, so a later pair must be strictly nearer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from pose2id.arrays import cut, work_dtype
from pose2id.distances import full_precision
from pose2id.neighbors.ties import Bound, settle_ties
from pose2id.parts.pairs import EUCLIDEAN_MEAN, Rule, measure_pairs
from pose2id.parts.sets import PartSet
from pose2id.parts.tiles import Tiles
from pose2id.progress import tqdm
from pose2id.threads import refit_threads

TILE = 2048
"""Rows and columns whose bounds are held at once."""
SWEEP_TILE = 256
SPARE = 6
GROUP = 32
"""Columns of which only the smallest is looked at first."""


@dataclass(frozen=True, eq=False)
class Search:
    """What is asked: the k nearest rows of `base` for every row of `queries`."""

    queries: PartSet
    base: PartSet  # the queries themselves if `within`
    k: int  # at least 1
    labels: torch.Tensor | None = None  # (N,) int64, of one set; pairs with equal labels do not count
    within: bool = False
    rule: Rule = EUCLIDEAN_MEAN
    progress: bool = False

    def measure(self, tiles: Tiles, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """Distances of pairs, rounded to the working dtype."""
        found = measure_pairs(self.queries, self.base, left, right, tiles.frame.scale, self.rule)
        return found.to(work_dtype(self.base.rows.dtype))

    def exclude(self, bounds: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> None:
        """Write inf to the pairs that do not count, of `rows` (a,) and `columns` (b,)."""
        if self.within and bool(rows[0] <= columns[-1]) and bool(rows[-1] >= columns[0]):
            bounds.masked_fill_(rows[:, None] == columns, torch.inf)
        if self.labels is not None:
            bounds.masked_fill_(self.labels[rows][:, None] == self.labels[columns], torch.inf)


@dataclass(frozen=True, eq=False)
class Found:
    """Indices (Q, k), -1 where there is none, and distances (Q, k), inf there; the farthest (Q,), where asked for."""

    indices: torch.Tensor
    distances: torch.Tensor
    farthest: torch.Tensor | None = None  # float64; 0 where no other row shows a common part
    scale: float = 1.0  # at which pairs were measured


def search(asked: Search, *, farthest: bool = False) -> Found:
    """The k nearest rows, and, within one set, the distance to the farthest row that shows a common part.

    As for `neighbors.find_both_ends` the farthest is chosen by bounds and measured: among rows that they cannot tell
    apart it need not be the very farthest.
    """
    queries, base = asked.queries, asked.base
    n, device, dtype = len(queries.rows), base.rows.device, work_dtype(base.rows.dtype)
    indices = torch.full((n, asked.k), -1, dtype=torch.int64, device=device)
    distances = torch.full((n, asked.k), torch.inf, dtype=dtype, device=device)
    far = torch.zeros(n, dtype=torch.float64, device=device)
    if not n or not len(base.rows):
        return Found(indices, distances, far if farthest else None)
    with full_precision(device):
        tiles = Tiles(queries, base, asked.rule, dtype)
        ends = _Ends(n, asked, farthest=farthest)
        for rows, columns, bounds in _all_tiles(asked, tiles):
            ends.take(rows, columns, bounds)
        left = _decide(asked, tiles, ends, indices, distances)
        if farthest:
            at = (ends.where >= 0).nonzero().flatten()
            far[at] = measure_pairs(queries, base, at, ends.where[at], tiles.frame.scale, asked.rule)
        del ends
        if len(left):
            _sweep(asked, Tiles(queries, base, asked.rule, torch.float64), left, indices, distances)
    return Found(indices, distances, far if farthest else None, tiles.frame.scale)


def _all_tiles(asked: Search, tiles: Tiles) -> Iterator[tuple[slice, slice, torch.Tensor]]:
    """Bounds of all pairs, tile by tile: its rows, its columns, and the tile; within one set also transposed."""
    queries, base = asked.queries, asked.base
    rows, columns = (list(cut(len(part.rows), TILE)) for part in (queries, base))
    memory = torch.empty(
        min(TILE, len(queries.rows)) * min(TILE, len(base.rows)), dtype=tiles.dtype, device=base.rows.device
    )
    total = len(rows) * (len(rows) + 1) // 2 if asked.within else len(rows) * len(columns)
    with tqdm(total=total, desc="neighbours", unit="tile", disable=not asked.progress) as bar:
        for i, row in enumerate(rows):
            left = tiles.left(queries.pick(row))
            for column in columns[i if asked.within else 0 :]:
                shape = row.stop - row.start, column.stop - column.start
                out = memory[: shape[0] * shape[1]].view(shape)
                bounds, _ = tiles.bounds(left, tiles.right(base.pick(column)), out)
                yield row, column, bounds
                if asked.within and column != row:
                    yield column, row, bounds.T
                bar.update(1)
                refit_threads()


class _Ends:
    """The smallest bounds of every row, whose they are, and the row with the largest."""

    def __init__(self, n: int, asked: Search, *, farthest: bool) -> None:
        device, dtype = asked.base.rows.device, work_dtype(asked.base.rows.dtype)
        self.asked, self.farthest = asked, farthest
        self.count = min(asked.k + SPARE, len(asked.base.rows))
        self.bounds = torch.full((n, self.count), torch.inf, dtype=dtype, device=device)
        self.columns = torch.full((n, self.count), -1, dtype=torch.int64, device=device)
        self.largest = torch.full((n if farthest else 0,), -torch.inf, dtype=dtype, device=device)
        self.where = torch.full((n if farthest else 0,), -1, dtype=torch.int64, device=device)

    def take(self, rows: slice, columns: slice, bounds: torch.Tensor) -> None:
        """Look at a tile, and write inf to the pairs of it that do not count."""
        device = bounds.device
        at = [torch.arange(part.start, part.stop, device=device) for part in (rows, columns)]
        self.asked.exclude(bounds, *at)
        if self.farthest:
            far, where = bounds.masked_fill(bounds == torch.inf, -torch.inf).max(dim=1)
            better = far > self.largest[rows]
            self.largest[rows] = torch.where(better, far, self.largest[rows])
            self.where[rows] = torch.where(better, where + columns.start, self.where[rows])
        near, where = _smallest(bounds, self.count)
        near, where = (
            torch.cat([self.bounds[rows], near], dim=1),
            torch.cat([self.columns[rows], where + columns.start], 1),
        )
        near, chosen = near.topk(self.count, dim=1, largest=False, sorted=False)
        self.bounds[rows], self.columns[rows] = near, where.gather(1, chosen)


def _smallest(bounds: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` smallest entries of each row and their columns, in any order; all where there are fewer."""
    groups = bounds.shape[1] // GROUP
    if groups <= count:
        return bounds.topk(min(count, bounds.shape[1]), dim=1, largest=False, sorted=False)
    # They lie in the groups with the smallest minima, or in what is left over at the end.
    least = bounds[:, : groups * GROUP].unfold(1, GROUP, GROUP).amin(dim=2)
    group = least.topk(count, dim=1, largest=False, sorted=False).indices
    inside = torch.arange(GROUP, device=bounds.device)
    columns = (group[:, :, None] * GROUP + inside).flatten(1)
    rest = torch.arange(groups * GROUP, bounds.shape[1], device=bounds.device).expand(len(bounds), -1)
    columns = torch.cat([columns, rest], dim=1)
    near, chosen = bounds.gather(1, columns).topk(count, dim=1, largest=False, sorted=False)
    return near, columns.gather(1, chosen)


def _decide(asked: Search, tiles: Tiles, ends: _Ends, indices: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Measure the candidates of all rows; writes what they decide, and gives the rows that are left."""
    left, k, dtype = [], asked.k, distances.dtype
    everything = ends.count >= len(asked.base.rows) - asked.within
    for block in cut(len(indices), TILE):
        bounds, order = ends.bounds[block].sort(dim=1)
        columns = ends.columns[block].gather(1, order)
        found = torch.full(bounds.shape, torch.inf, dtype=dtype, device=bounds.device)
        lower = tiles.lower(bounds).to(dtype)
        counts, radius = bounds < torch.inf, torch.full_like(lower[:, :1], torch.inf)
        for part in (slice(0, k), slice(k, None)):
            row, slot = (counts[:, part] & (lower[:, part] <= radius)).nonzero(as_tuple=True)
            slot = slot + (part.start or 0)
            found[row, slot] = asked.measure(tiles, row + block.start, columns[row, slot])
            radius = found[:, :k].amax(dim=1, keepdim=True)
        order = torch.where(found < torch.inf, columns, len(asked.base.rows)).argsort(dim=1, stable=True)
        order = order.gather(1, found.gather(1, order).argsort(dim=1, stable=True))[:, :k]
        near = found.gather(1, order)
        width = near.shape[1]
        distances[block, :width] = near
        indices[block, :width] = torch.where(near < torch.inf, columns.gather(1, order), -1)
        if not everything:
            beyond = torch.where(bounds[:, -1] < torch.inf, lower[:, -1], torch.inf)
            undecided = ~((beyond > distances[block, -1]) | torch.isinf(beyond))
            left.append(undecided.nonzero().flatten() + block.start)
    return torch.cat(left) if left else indices.new_empty(0)


def _sweep(asked: Search, tiles: Tiles, rows: torch.Tensor, indices: torch.Tensor, distances: torch.Tensor) -> None:
    """Stage 2 for the named rows of the queries; writes their rows of `indices` and `distances`, see `settle_ties`."""
    base = asked.base

    def begin(block: torch.Tensor) -> Bound:
        own = tiles.left(asked.queries.pick(block))

        def bound(first: int, stop: int) -> torch.Tensor:
            bounds, _ = tiles.bounds(own, tiles.right(base.pick(slice(first, stop))))
            asked.exclude(bounds, block, torch.arange(first, stop, device=bounds.device))
            return tiles.lower(bounds).to(distances.dtype)

        return bound

    def measure(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return asked.measure(tiles, left, right)

    sizes = {"height": TILE, "width": SWEEP_TILE}
    settle_ties(rows, len(base.rows), indices, distances, begin, measure, **sizes, progress=asked.progress)
