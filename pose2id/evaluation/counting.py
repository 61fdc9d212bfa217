"""Counting: the ranks of matches without sorting, each one more than the number of items before it.

Only wrong items are counted, and only those that may stand before the last match of their query: of good features,
one in forty. A tile of scores says of most of them, surely, which matches they stand before; the pairs whose order it
leaves open are measured. Items at exactly equal distance stand in the order of the gallery.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.evaluation.bins import Bins, Limits
from pose2id.evaluation.protocols import Matches, Relevance
from pose2id.evaluation.tiles import MEASUREMENT, Bound, Tiles

FEW = 8
"""Of so many items, one that may stand before the last match is few: bins would not pay."""


class Ranks(NamedTuple):
    """Where the matches of a block of queries stand, counted from 1.

    `items` (b, most matches): the ranks of the first, second, ... match, padded with a number above them all. `first`
    (b,): that of the first match in what CMC counts. `tied`: queries where a right and a wrong item share the smallest
    distance.
    """

    items: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    tied: int


class RankCounter:
    """Counts the ranks of matches, one block of queries after the other.

    Scores come from float32 products; where these leave too much open, from then on from float64 ones.
    """

    def __init__(self, relevance: Relevance, tiles: Tiles) -> None:
        self._tiles, self._product = tiles, torch.float32
        self._over_identities = relevance.protocol.cmc_over_identities
        self._items = torch.from_numpy(relevance.gallery_ids).to(tiles.device)
        self._junk = torch.from_numpy(np.flatnonzero(relevance.gallery_junk)).to(tiles.device)
        self._cams: list[torch.Tensor] = []  # of both sides, where whole cameras are junk
        if relevance.protocol.whole_camera_is_junk and relevance.cams is not None:
            self._cams = [torch.from_numpy(cams).to(tiles.device) for cams in relevance.cams]

    def count(self, block: slice, matches: Matches) -> Ranks:
        """The ranks of the matches of a block of queries."""
        while (counts := self._count_before(block, matches)) is None:
            self._product = torch.float64
        before, identities, tied = counts
        ahead = np.sort(_pad(before.cpu().numpy(), matches.per_query), axis=1)
        items = ahead + np.arange(1, ahead.shape[1] + 1)
        return Ranks(items, items[:, 0] if identities is None else identities.cpu().numpy() + 1, tied)

    def _count_before(self, block: slice, matches: Matches) -> tuple[torch.Tensor, torch.Tensor | None, int] | None:
        """How many wrong items stand before each match, rows ascending; of how many identities; how many rows are tied.

        None if the tile leaves too much open.
        """
        scores, bound = self._tiles.tile(block, self._product)
        right = _Right(scores, *self._move(matches.row, matches.column))
        lower, upper = (right.score, right.score) if bound is None else bound.limits(right.score, right.row)
        self._hide(scores, block, matches)
        wrong, settled = self._wrong_items(scores, right, right.limits(lower, upper), exact=bound is None)
        nearer = right.count_limits(upper, scores, wrong, strict=True)  # matches surely nearer than each wrong item
        if bound is None:
            return self._order_ties(right, scores, wrong, nearer, settled)
        not_farther = right.count_limits(lower, scores, wrong, strict=False)  # those not surely farther
        unsure = (not_farther > nearer).nonzero().flatten()
        most = scores.numel() // MEASUREMENT if self._product == torch.float32 else scores.numel()
        if len(unsure) > most:
            return None
        before, leads, tied = settled + right.count_items(not_farther, wrong.row), not_farther == 0, 0
        if len(unsure):
            doubtful = wrong.take(unsure), nearer[unsure], not_farther[unsure]
            leading, tied = _measure(bound, block.start, right, *doubtful, before)
            leads[unsure[leading]] = True
        return before, self._count_identities(wrong.take(leads.nonzero().flatten()), len(scores)), tied

    def _order_ties(
        self, right: _Right, scores: torch.Tensor, wrong: _Items, nearer: torch.Tensor, settled: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None, int]:
        """What `_count_before` gives, from exact scores: equal ones stand in the order of the gallery."""
        ahead = right.count_ahead(nearer, scores, wrong)
        leads = (ahead == 0).nonzero().flatten()
        is_first = right.slot == 0
        tied = int((scores.amin(dim=1)[right.row[is_first]] == right.score[is_first]).sum())
        before = settled + right.count_items(ahead, wrong.row)
        return before, self._count_identities(wrong.take(leads), len(scores)), tied

    def _hide(self, scores: torch.Tensor, block: slice, matches: Matches) -> None:
        """Make the scores (b, G) of all but wrong items inf: of junk and of the query's identity."""
        scores.index_fill_(1, self._junk, torch.inf)
        scores[self._move(*matches.same)] = torch.inf
        if self._cams:
            query_cams, gallery_cams = self._cams
            scores.masked_fill_(query_cams[block, None] == gallery_cams, torch.inf)

    def _wrong_items(
        self, scores: torch.Tensor, right: _Right, limits: Limits, *, exact: bool
    ) -> tuple[_Items, torch.Tensor]:
        """The wrong items that may or may not stand before some match, and how many others stand before each, (m,)."""
        near = _up_to(scores, limits.last)
        settled = torch.zeros_like(right.row)
        # Where CMC asks for the identities of what stands before, counts are not enough.
        if FEW * _count(near) > near.numel() and not self._over_identities:
            bins = Bins(scores, limits)
            settled, left_open = bins.count()
            near &= left_open
            if exact and FEW * _count(near) > near.numel():
                settled += bins.count_equal(right.column, near)
        return _find(near), settled

    def _move(self, *arrays: npt.NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """Indices on the device of the tiles."""
        return tuple(torch.from_numpy(array).to(self._tiles.device) for array in arrays)

    def _count_identities(self, wrong: _Items, rows: int) -> torch.Tensor | None:
        """Of how many identities, row by row, these items are; None where CMC does not ask."""
        if not self._over_identities:
            return None
        size = int(self._items.max()) + 1
        pairs = torch.unique(wrong.row * size + self._items[wrong.column])
        return torch.bincount(pairs // size, minlength=rows)


class _Items(NamedTuple):
    """Some items of a tile (b, G), by row and column, and by their `place` in the flattened tile."""

    place: torch.Tensor
    row: torch.Tensor
    column: torch.Tensor

    def take(self, chosen: torch.Tensor) -> _Items:
        return _Items(*(array.index_select(0, chosen) for array in self))


class _Right:
    """The matches of a block, by row and then score; `slot` numbers those of each row, `per_row` (b,) of them."""

    def __init__(self, scores: torch.Tensor, row: torch.Tensor, column: torch.Tensor) -> None:
        score = scores[row, column] + 0  # -0 is 0
        order = _order(score, row)
        self.row, self.column, self.score = row[order], column[order], score[order]
        self.per_row = torch.bincount(self.row, minlength=len(scores))
        starts = self.per_row.cumsum(0) - self.per_row
        self.slot = torch.arange(len(row), device=row.device) - starts[self.row]

    def of_last(self, limits: torch.Tensor) -> torch.Tensor:
        """Of limits, one for each match, that of the last match of each row, (b,); -inf without one."""
        is_last = self.slot + 1 == self.per_row[self.row]
        last = limits.new_full((len(self.per_row),), -torch.inf)
        last[self.row[is_last]] = limits[is_last]
        return last

    def limits(self, lower: torch.Tensor, upper: torch.Tensor) -> Limits:
        """The limits of all matches, and of each row the first and last of these; inf and -inf without any."""
        first = lower.new_full((len(self.per_row),), torch.inf)
        is_first = self.slot == 0
        first[self.row[is_first]] = lower[is_first]
        return Limits(self.row, lower, upper, first, self.of_last(upper))

    def count_items(self, slots: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """For every match, how many items of its row, given by `row`, have a slot up to its own."""
        size = int(self.per_row.max()) + 1
        table = torch.bincount(row * size + slots, minlength=len(self.per_row) * size).view(-1, size)
        return table.cumsum(dim=1)[self.row, self.slot]

    def count_limits(self, limits: torch.Tensor, scores: torch.Tensor, items: _Items, *, strict: bool) -> torch.Tensor:
        """For items, how many limits of their row are below their score (not strict: or equal).

        There is a limit for each match, ascending in each row.
        """
        if 4 * len(items.place) > scores.numel():  # most: a search in each row for all of it
            table = self._table(limits, int(self.slot.max()) + 1)
            return torch.searchsorted(table, scores, right=not strict).flatten().index_select(0, items.place)
        # Few: one search in the limits of all rows, and how many of each row are among them.
        limits, order = limits.sort()
        size = len(limits) + 1
        among = torch.zeros(len(scores), size, dtype=torch.int32, device=limits.device)
        among[self.row[order], torch.arange(1, size, device=limits.device)] = 1
        among = among.cumsum(dim=1, dtype=torch.int32)
        found = torch.searchsorted(limits, scores.flatten().index_select(0, items.place), right=not strict)
        return among.flatten().index_select(0, items.row * size + found).long()

    def count_ahead(self, nearer: torch.Tensor, scores: torch.Tensor, items: _Items) -> torch.Tensor:
        """By exact scores, for items: the matches of their row that stand before them.

        So many matches are `nearer`; equal ones stand in the order of their columns.
        """
        size = int(self.per_row.max()) + 1
        following = self._table(self.score, size).flatten().index_select(0, items.row * size + nearer)
        equal = (following == scores.flatten().index_select(0, items.place)).nonzero().flatten()
        if not len(equal):
            return nearer
        # Matches of one row and score are a run, numbered in order, so these keys ascend.
        new = torch.ones_like(self.row, dtype=torch.bool)
        new[1:] = (self.row[1:] != self.row[:-1]) | (self.score[1:] != self.score[:-1])
        run = new.cumsum(0) * scores.shape[1]
        tied, starts = items.take(equal), self.per_row.cumsum(0) - self.per_row
        start = starts.index_select(0, tied.row)
        key = run.index_select(0, start + nearer.index_select(0, equal)) + tied.column
        ahead = nearer.clone()
        ahead[equal] = torch.searchsorted(run + self.column, key) - start
        return ahead

    def _table(self, values: torch.Tensor, width: int) -> torch.Tensor:
        """Values of the matches as rows, padded with inf."""
        table = values.new_full((len(self.per_row), width), torch.inf)
        table[self.row, self.slot] = values
        return table


def _measure(
    bound: Bound,
    start: int,
    right: _Right,
    wrong: _Items,
    nearer: torch.Tensor,
    not_farther: torch.Tensor,
    before: torch.Tensor,
) -> tuple[torch.Tensor, int]:
    """Order these wrong items, and the matches that some of them may or may not stand before, by exact values.

    Corrects `before`, and tells which of the items stand before all matches, and how many rows are tied: those
    whose first value belongs to a match and to a wrong item, while nothing is surely nearer. The rows are those of the
    queries from `start` on.
    """
    surely = right.count_items(not_farther, wrong.row)
    doubtful = (right.count_items(nearer, wrong.row) > surely).nonzero().flatten()
    row = torch.cat([right.row[doubtful], wrong.row])
    column = torch.cat([right.column[doubtful], wrong.column])
    closed = torch.cat([(before - surely)[doubtful], nearer])  # so many of the other kind surely stand before each
    value = bound.measure(row + start, column) + 0  # -0 is 0
    order = _order(column, value, row)
    row, value, closed, is_wrong = row[order], value[order], closed[order], order >= len(doubtful)

    row_start = torch.searchsorted(row, row)
    wrong_ahead, right_ahead = (_count_ahead(kind, row_start) for kind in (is_wrong, ~is_wrong))
    before[doubtful[order[~is_wrong]]] = (closed + wrong_ahead)[~is_wrong]
    leading = order[is_wrong & (right_ahead == 0) & (closed == 0)] - len(doubtful)

    first = value == value[row_start]
    has_wrong, has_right, has_nearer = torch.zeros(3, len(right.per_row), dtype=torch.bool, device=row.device)
    for mark, of in ((has_wrong, is_wrong), (has_right, ~is_wrong), (has_nearer, closed > 0)):
        mark[row[first & of]] = True
    return leading, int((has_wrong & has_right & ~has_nearer).sum())


def _count_ahead(kind: torch.Tensor, row_start: torch.Tensor) -> torch.Tensor:
    """How many of the marked ones stand before each, from the start of its row on."""
    ahead = kind.cumsum(0) - kind.long()
    return ahead - ahead[row_start]


def _pad(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Values of consecutive groups as rows of one array, padded with a number above them all."""
    table = np.full((len(counts), int(counts.max())), 2**62)
    table[np.arange(table.shape[1]) < counts[:, None]] = values
    return table


def _order(*keys: torch.Tensor) -> torch.Tensor:
    """The order that sorts by the last of the keys, ties by the one before, and so on."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order


def _up_to(scores: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Mark the entries of `scores` (b, G) that do not exceed the limit of their row."""
    if scores.is_cuda:
        return scores <= limits[:, None]
    return torch.from_numpy(scores.numpy() <= limits.numpy()[:, None])  # much faster than torch


def _count(marks: torch.Tensor) -> int:
    return int(marks.sum()) if marks.is_cuda else int(np.count_nonzero(marks.numpy()))  # as above


def _find(marks: torch.Tensor) -> _Items:
    """The marked entries of a tile (b, G), ascending."""
    height, width = marks.shape
    # On the CPU four times faster than torch.
    place = marks.flatten().nonzero().flatten() if marks.is_cuda else torch.from_numpy(np.flatnonzero(marks.numpy()))
    starts = torch.arange(height + 1, device=marks.device) * width
    per_row = torch.searchsorted(place, starts).diff()
    row = torch.arange(height, device=marks.device).repeat_interleave(per_row, output_size=len(place))
    return _Items(place, row, place - row * width)
