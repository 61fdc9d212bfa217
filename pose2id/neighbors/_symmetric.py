"""One set by float products: every pair of tiles once, for the rows of both, the nearest as well as the farthest.

Where the int8 filter does not help, this is how the engine `exact` searches a set among itself. With s the product's
squared distance of two centred rows and off = slack |row|² of each (`pose2id.distances`),

    s - off_i - off_j  <=  d²  <=  s + off_i + off_j.

1. Minima of s over groups of columns are upper bounds for as many different rows: the k smallest seen so far limit a
   row's k-th distance, from its own tile on.
2. Only groups whose minimum is within the limit are looked at entry by entry; the entries within it become pairs.
3. What the last limits leave of the pairs, little more than k a row, is measured as float64 differences.

Rows that collect more than their share of pairs, those with many near ties, are left to the caller.
"""

from __future__ import annotations

import torch

from pose2id.arrays import work_dtype
from pose2id.distances import Frame, full_precision, pair_distances, slack, squared_norms, underflow
from pose2id.neighbors._int8.filter import LARGEST_K, Found
from pose2id.neighbors._int8.layout import GROUP
from pose2id.neighbors._int8.sweep import FINE, group_width
from pose2id.neighbors.contract import Search
from pose2id.progress import tqdm
from pose2id.threads import refit_threads

TILE = 2048
"""Rows of a tile, a multiple of `GROUP`."""
CROWD = 512
"""Entries, and 16 for each neighbour asked for, that a row may look at in one tile."""
WAITING = 16
"""Pairs per row, and one for each neighbour asked for, that wait before those beyond the limits are dropped."""


def search_symmetric(asked: Search, *, farthest: bool = False) -> Found | None:
    """The k nearest other rows of every row, and with `farthest` the distance to the farthest (float64).

    None where it does not help: queries of another set, too large a k for groups, or products that cannot tell the rows
    of a tile apart (near ties, a few rows far longer than all others).
    """
    n, k = len(asked.base), asked.k
    if not asked.within or k > LARGEST_K or n <= 4 * k:
        return None
    sweep = _Sweep(asked, farthest=farthest)
    with full_precision(asked.base.device):
        if not sweep.run():
            return None
        indices, distances, far = *sweep.nearest(), sweep.farthest()
    return Found(indices, distances, sweep.set_aside[:n], far)


class _View:
    """A product of two tiles as the rows of one of them see it: in groups of every so-many-th column of the other."""

    def __init__(self, product: torch.Tensor, own: slice, across: slice, width: int, *, turned: bool = False) -> None:
        self.product, self.own, self.across, self.turned = product, own, across, turned
        self.width, self.grouped = width, self._cut(width)
        self.groups = (len(product) if turned else product.shape[1]) // width

    def _cut(self, width: int) -> torch.Tensor:
        a, b = self.product.shape
        return self.product.view(width, a // width, b) if self.turned else self.product.view(a, width, b // width)

    def smallest(self, width: int | None = None) -> torch.Tensor:
        """The minima over groups, (rows, groups), or over narrower ones."""
        grouped = self.grouped if width is None else self._cut(width)
        return grouped.amin(dim=0).T.contiguous() if self.turned else grouped.amin(dim=1)

    def largest(self) -> torch.Tensor:
        """The maxima over groups, (rows, groups)."""
        return self.grouped.amax(dim=0).T.contiguous() if self.turned else self.grouped.amax(dim=1)

    def entries(self, row: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """The entries (m, width) of chosen rows and groups."""
        return self.grouped[:, group, row].T if self.turned else self.grouped[row, :, group]


class _Sweep:
    """What is known of the rows, padded to whole groups, while the pairs of tiles go by.

    `bounds` (m, k) are upper bounds of the squared distances to k different rows, in the frame, ascending.
    """

    def __init__(self, asked: Search, *, farthest: bool) -> None:
        base, self.asked, self.k = asked.base, asked, asked.k
        self.frame, self.dtype = Frame(base), work_dtype(base.dtype)
        n, m, device = len(base), -(-len(base) // GROUP) * GROUP, base.device
        self.tiles = [slice(start, min(start + TILE, m)) for start in range(0, m, TILE)]
        self.norms = torch.cat([squared_norms(self._centred(tile)) for tile in self.tiles]).to(self.dtype)
        self.off = self.norms * slack(base.shape[1], self.dtype) + underflow(self.dtype, base.shape[1])
        self.set_aside = torch.arange(m, device=device) >= n
        self.bounds = self.norms.new_full((m, self.k), torch.inf)
        self.bounds[n:] = -torch.inf
        self.counts = torch.zeros(m, dtype=torch.int64, device=device)
        numbers = torch.finfo(self.dtype)
        self.least = numbers.smallest_normal * numbers.eps * self.frame.scale
        self.cap, self.group = 256 + 16 * self.k + n // 16, group_width(self.k)
        self._pairs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # row, other row, s
        self._waiting = 0
        self.best = self.norms.new_full((m if farthest else 0,), -torch.inf)
        self.where = torch.zeros(len(self.best), dtype=torch.int64, device=device)

    def _centred(self, tile: slice) -> torch.Tensor:
        rows = self.frame.centre_rows(self.asked.base[tile], self.dtype)
        return torch.nn.functional.pad(rows, (0, 0, 0, tile.stop - tile.start - len(rows)))

    def run(self) -> bool:
        """Every pair of tiles once, each tile with itself first; whether that was worth it."""
        size = self.tiles[0].stop
        buffer = self.norms.new_empty(size * size)
        pairs = len(self.tiles) * (len(self.tiles) + 1) // 2
        with tqdm(total=pairs, desc="neighbours", unit="tile", disable=not self.asked.progress) as bar:
            for tile in self.tiles:
                rows = self._centred(tile)
                self._take(tile, tile, rows, rows, buffer)
                bar.update()
            if 5 * int(self.set_aside[: len(self.asked.base)].sum()) > len(self.asked.base):
                return False
            for i, tile in enumerate(self.tiles[:-1]):
                rows = self._centred(tile)
                for other in self.tiles[i + 1 :]:
                    self._take(tile, other, rows, self._centred(other), buffer)
                    bar.update()
        return True

    def _take(self, tile: slice, other: slice, rows: torch.Tensor, columns: torch.Tensor, buffer: torch.Tensor) -> None:
        """Multiply two tiles, and look at the product from both sides."""
        refit_threads()
        product = buffer[: len(rows) * len(columns)].view(len(rows), len(columns))
        torch.addmm(self.norms[other], rows, columns.T, alpha=-2, out=product).add_(self.norms[tile, None])
        views = [_View(product, tile, other, self.group)]
        if tile != other:
            views.append(_View(product, other, tile, self.group, turned=True))
        padding = max(0, other.stop - len(self.asked.base))  # of the last tile, which is never the first of two
        if len(self.best):
            product[:, len(columns) - padding :] = -torch.inf
            for view in views:
                self._look_far(view)
        product[:, len(columns) - padding :] = torch.inf
        if tile == other:
            product.fill_diagonal_(torch.inf)
        alike = self.asked.labelled_alike(tile, other)
        if alike is not None:
            product[: alike.shape[0], : alike.shape[1]].masked_fill_(alike, torch.inf)
        for view in views:
            self._look_near(view)
        if self._waiting > (WAITING + self.k) * len(self.norms):
            self._drop()

    def _look_far(self, view: _View) -> None:
        """The farthest of a tile."""
        far, at = view.largest().max(dim=1)
        row = (far > self.best[view.own]).nonzero().flatten()
        group = at[row]
        self.best[view.own.start + row] = far[row]
        self.where[view.own.start + row] = (
            view.entries(row, group).argmax(dim=1) * view.groups + group + view.across.start
        )

    def _look_near(self, view: _View) -> None:
        """Bounds from the minima of groups of a tile, and pairs from the groups that are within the limit."""
        own, most = view.own, self.off[view.across].max()
        least = view.smallest()
        busy = (least.amin(dim=1) <= self._limits(own, most)).nonzero().flatten()
        if not len(busy):
            return
        at, least = busy + own.start, least[busy]
        # Its first tile sets a row's limit: its groups are cut finer for that.
        upper = view.smallest(FINE)[busy] if own == view.across else least
        joined = torch.cat([self.bounds[at], upper + (self.off[at] + most)[:, None]], dim=1)
        self.bounds[at] = joined.topk(self.k, dim=1, largest=False, sorted=True).values
        limit = self._limits(at, most)
        possible = least <= limit[:, None]
        crowded = possible.sum(dim=1) * view.width > CROWD + 16 * self.k
        possible &= ~crowded[:, None]
        self._set_aside(at[crowded])
        which, group = possible.nonzero(as_tuple=True)
        entries = view.entries(busy[which], group)
        hit, slot = (entries <= limit[which, None]).nonzero(as_tuple=True)
        row, column = at[which[hit]], slot * view.groups + group[hit] + view.across.start
        self._pairs.append((row.int(), column.int(), entries[hit, slot]))
        self._waiting += len(row)
        self.counts[own] += torch.bincount(row - own.start, minlength=own.stop - own.start)
        self._set_aside((self.counts[own] > self.cap).nonzero().flatten() + own.start)

    def _set_aside(self, rows: torch.Tensor) -> None:
        """Leave rows to the caller: nothing passes their limit from now on."""
        self.set_aside[rows], self.bounds[rows] = True, -torch.inf

    def _limits(self, rows: slice | torch.Tensor, off: torch.Tensor) -> torch.Tensor:
        """The largest s that matters to `rows` with others of at most `off`; finite, since inf marks no pair."""
        # Rounding to the working dtype may make a slightly longer distance equal, by its part or by the least number.
        bound = self.bounds[rows, -1]
        longer = (bound.clamp(min=0).sqrt() * (1 + 2.0**-21) + 2 * self.least).square() * (1 + 2.0**-21)
        limit = torch.where(bound < 0, bound, longer) + self.off[rows] + off
        return limit.clamp_(max=torch.finfo(limit.dtype).max)

    def _drop(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Drop the pairs beyond the limits; the rows and the other rows of those that stay."""
        row, other, squared = (torch.cat(part) for part in zip(*self._pairs, strict=True))
        keep = squared <= self._limits(row, self.off[other])
        self._pairs = [(row[keep], other[keep], squared[keep])]
        self._waiting = len(self._pairs[0][0])
        return self._pairs[0][:2]

    def nearest(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices and distances (n, k) by the contract, for the rows that are not set aside."""
        indices, distances = self.asked.no_neighbors()
        if not self._pairs:
            return indices, distances
        n, base = len(indices), self.asked.base
        row, other = self._drop()
        self._pairs = []
        # Most pairs are there from both sides, and are measured once.
        pair, of = torch.unique(torch.minimum(row, other).long() * n + torch.maximum(row, other), return_inverse=True)
        measured = pair_distances(base, base, pair // n, pair % n, self.frame.scale).to(self.dtype)[of]
        del pair, of
        order = (row.long() * n + other).argsort()
        order = order[measured[order].argsort(stable=True)]
        order = order[row[order].argsort(stable=True)]
        row, other, measured = row[order].long(), other[order].long(), measured[order]
        counts = torch.bincount(row, minlength=n)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
        first = place < self.k
        indices[row[first], place[first]] = other[first]
        distances[row[first], place[first]] = measured[first]
        return indices, distances

    def farthest(self) -> torch.Tensor | None:
        """The distance of every row to its farthest, (n,) float64; None where that was not asked."""
        if not len(self.best):
            return None
        base = self.asked.base
        rows = torch.arange(len(base), device=base.device)
        return pair_distances(base, base, rows, self.where[: len(base)], self.frame.scale)
