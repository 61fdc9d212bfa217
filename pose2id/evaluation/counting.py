"""Counting: the ranks of matches, each one more than the number of wrong items before it.

Only items that may stand before the last match of their query are sorted, of good features one in forty, and of these
the scores alone. Where that leaves an order open, between items at equal or nearly equal distance, their columns are
sorted along: items at exactly equal distance stand in the order of the gallery; pairs whose order a tile leaves open
are measured.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.evaluation.draws import DrawnRanks, Draws
from pose2id.evaluation.lists import Places, find_places, order_rows
from pose2id.evaluation.relevance import Matches, Relevance
from pose2id.evaluation.tiles import MEASUREMENT, Limits, Tiles

FEW = 32
"""So many ties of a row cost less to be looked up, one by one, than to sort the row along with its columns."""


class Ranks(NamedTuple):
    """Where the matches of a block of queries stand, counted from 1.

    `items` (b, most matches): the ranks of the first, second, ... match, padded with a number above them all. `first`
    (b, 1), or for draws (b, repetitions): that of the first match in what CMC counts, 0 where a query has no list.
    `tied`: lists where a right and a wrong item share the smallest distance. `open_rows` (t,): the rows in which some
    right and wrong items are equally far; `ends` (2, t, most matches): their `items` if of these all right ones came
    first, and last.
    """

    items: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    tied: int
    open_rows: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]


class _Counts(NamedTuple):
    """How many wrong items stand before each match, of how many `identities`, if CMC counts these, how many rows tie.

    `drawn`: the ranks in drawn galleries, if there are any. `nearer`, `until`: how many wrong items are nearer, and how
    many are not farther.
    """

    before: torch.Tensor
    identities: torch.Tensor | None
    tied: int
    drawn: DrawnRanks | None
    nearer: torch.Tensor
    until: torch.Tensor


class RankCounter:
    """Counts the ranks of matches of blocks of queries, of several at a time in as many threads.

    Scores come from float32 products; where these leave too much open, from then on from float64 ones.
    """

    def __init__(self, relevance: Relevance, tiles: Tiles) -> None:
        self._tiles, self._product = tiles, torch.float32
        self._draws = Draws(relevance) if relevance.protocol.repetitions else None
        self._over_identities = relevance.protocol.cmc_over_identities and self._draws is None
        self._items = torch.from_numpy(relevance.gallery_ids).to(tiles.device)
        self._junk = torch.from_numpy(np.flatnonzero(relevance.gallery_junk)).to(tiles.device)
        self._cams: list[torch.Tensor] = []  # of both sides, where whole cameras are junk
        if relevance.protocol.whole_camera_is_junk and relevance.cams is not None:
            self._cams = [torch.from_numpy(cams).to(tiles.device) for cams in relevance.cams]

    def count(self, block: slice, matches: Matches) -> Ranks:
        """The ranks of the matches of a block of queries."""
        while (counts := self._count_before(block, matches)) is None:
            self._product = torch.float64
        before, identities, tied, drawn, nearer, until = counts

        most = int(matches.per_query.max())
        items = _rank(before.cpu().numpy(), matches.per_query, most)
        low, high = (ahead.cpu().numpy() for ahead in (nearer, until))
        row = np.repeat(np.arange(len(items)), matches.per_query)
        is_open = np.zeros(len(items), bool)
        is_open[row[low != high]] = True
        part, number = is_open[row], matches.per_query[is_open]
        ends = np.stack([_rank(ahead[part], number, most) for ahead in (low, high)])
        open_rows = np.flatnonzero(is_open)
        if drawn is not None:
            return Ranks(items, drawn.rank, drawn.tied, open_rows, ends)
        first = items[:, :1] if identities is None else identities.cpu().numpy()[:, None] + 1
        return Ranks(items, first, tied, open_rows, ends)

    def _count_before(self, block: slice, matches: Matches) -> _Counts | None:
        """Of every match, rows ascending, what stands before it; None if the tile leaves too much open."""
        scores, bound = self._tiles.tile(block, self._product)
        drawn = None
        if self._draws is not None and matches.kept is not None:
            drawn = self._draws.rank(scores, bound, block, matches, matches.kept)
            if drawn is None:
                return None
        right = _Right(scores, *self._move(matches.row, matches.column))
        lower, upper = (right.score, right.score) if bound is None else bound.limits(right.score, right.row)
        self._hide(scores, block, matches)
        end = right.of_last(upper)
        if bound is None:
            before, nearer, until, tied = self._order_ties(right, scores, end)
        else:
            places, columns = order_rows(scores, end, right.table(lower), right.table(upper))
            before, until = right.take(places)
            most = scores.numel() // MEASUREMENT if self._product == torch.float32 else scores.numel()
            unsure = right.list_between(before, until, columns, most)
            if unsure is None:
                return None
            doubtful, tied, nearer, until = _measure(bound, block.start, right, unsure, before)
        if not self._over_identities:
            return _Counts(before, None, tied, drawn, nearer, until)
        leading = right.find_leading(scores, lower, exact=bound is None)
        if bound is not None:
            leading = _Items(*(torch.cat(pair) for pair in zip(leading, doubtful, strict=True)))
        identities = self._count_identities(leading, matches.columns, len(scores))
        return _Counts(before, identities, tied, None, nearer, until)

    def _order_ties(
        self, right: _Right, scores: torch.Tensor, end: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """From exact scores, how many items stand before each match, are nearer, are not farther; how many rows tie."""
        limits = right.table(right.score)
        before, until = right.take(find_places(scores, end, limits, limits))
        tied = int(((right.slot == 0) & (before == 0) & (until > 0)).sum())
        nearer, equal = before.clone(), (until > before).nonzero().flatten()
        if not scores.is_cuda:
            few = torch.bincount(right.row[equal], minlength=len(scores))[right.row[equal]] <= FEW
            table = scores.numpy()
            for at in equal[few].tolist():
                ahead_of = table[int(right.row[at]), : int(right.column[at])]
                before[at] += int(np.count_nonzero(ahead_of == right.score[at].item()))
            equal = equal[~few]
        if len(equal):
            row, column = right.row[equal], right.column[equal]
            tied_rows = torch.full_like(end, -torch.inf)
            tied_rows[row] = end[row]
            _, columns = order_rows(scores, tied_rows, limits, limits)
            low, high = before[equal], until[equal]
            for _ in range(scores.shape[1].bit_length()):  # the columns between ascend: halve
                middle = ((low + high) // 2).clamp(max=columns.shape[1] - 1)
                ahead = (low < high) & (columns[row, middle] < column)
                low, high = torch.where(ahead, middle + 1, low), torch.where(ahead, high, middle)
            before[equal] = low
        return before, nearer, until, tied

    def _hide(self, scores: torch.Tensor, block: slice, matches: Matches) -> None:
        """Make the scores (b, G) of all but wrong items inf: of what is left out and of the query's identity."""
        scores[self._move(*matches.same)] = torch.inf
        if matches.kept is not None:
            scores.masked_fill_(torch.from_numpy(~matches.kept).to(scores.device), torch.inf)
            return
        scores.index_fill_(1, self._junk, torch.inf)
        if self._cams:
            query_cams, gallery_cams = self._cams
            scores.masked_fill_(query_cams[block, None] == gallery_cams, torch.inf)

    def _move(self, *arrays: npt.NDArray[np.int64]) -> tuple[torch.Tensor, ...]:
        """Indices on the device of the tiles."""
        return tuple(torch.from_numpy(array).to(self._tiles.device) for array in arrays)

    def _count_identities(self, items: _Items, columns: npt.NDArray[np.int64] | None, rows: int) -> torch.Tensor:
        """Of how many identities, row by row, these items are, in places of `columns` (b, n) or of the gallery."""
        column = items.column if columns is None else self._move(columns)[0][items.row, items.column]
        size = int(self._items.max()) + 1
        pairs = torch.unique(items.row * size + self._items[column])
        return torch.bincount(pairs // size, minlength=rows)


class _Items(NamedTuple):
    """Some wrong items of a tile (b, G), by row and column."""

    row: torch.Tensor
    column: torch.Tensor


class _Unsure(NamedTuple):
    """Wrong items whose order to some match is open: so many matches are surely `nearer`, or `not_farther`."""

    row: torch.Tensor
    column: torch.Tensor
    nearer: torch.Tensor
    not_farther: torch.Tensor


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

    def count_items(self, slots: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        """For every match, how many items of its row, given by `row`, have a slot up to its own."""
        size = int(self.per_row.max()) + 1
        table = torch.bincount(row * size + slots, minlength=len(self.per_row) * size).view(-1, size)
        return table.cumsum(dim=1)[self.row, self.slot]

    def list_between(
        self, before: torch.Tensor, until: torch.Tensor, columns: torch.Tensor, most: int
    ) -> _Unsure | None:
        """The items that stand between the places of some match; `columns` (b, w) of those sorted.

        None if there are more than `most`.
        """
        start = before.clone()
        follows = self.row[1:] == self.row[:-1]
        start[1:] = torch.where(follows, before[1:].maximum(until[:-1]), before[1:])
        count = until - start
        total = int(count.sum())
        if total > most:
            return None
        which = torch.arange(len(count), device=count.device).repeat_interleave(count, output_size=total)
        place = torch.arange(total, device=count.device) - (count.cumsum(0) - count - start)[which]
        row, width = self.row[which], columns.shape[1] + 1
        not_farther = torch.searchsorted(self.row * width + before, row * width + place, right=True)
        first = which - self.slot[which]
        return _Unsure(row, columns[row, place], self.slot[which], not_farther - first)

    def find_leading(self, scores: torch.Tensor, limits: torch.Tensor, *, exact: bool) -> _Items:
        """The items below the first limit of their row; of exact scores those at it, too, that stand before the match.

        There is a limit for each match, ascending in each row.
        """
        first = self.slot == 0
        limit = limits.new_full((len(scores), 1), -torch.inf)
        limit[self.row[first], 0] = limits[first]
        leads = scores < limit
        if exact:
            column = torch.zeros_like(limit, dtype=torch.int64)
            column[self.row[first], 0] = self.column[first]
            leads |= (scores == limit) & (torch.arange(scores.shape[1], device=column.device) < column)
        return _Items(*leads.nonzero(as_tuple=True))

    def table(self, limits: torch.Tensor) -> torch.Tensor:
        """Limits, one for each match, as rows, padded with inf."""
        table = limits.new_full((len(self.per_row), int(self.per_row.max())), torch.inf)
        table[self.row, self.slot] = limits
        return table

    def take(self, places: Places) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of each match, of what was found for such a table."""
        return places.before[self.row, self.slot], places.until[self.row, self.slot]


def _measure(
    bound: Limits, start: int, right: _Right, wrong: _Unsure, before: torch.Tensor
) -> tuple[_Items, int, torch.Tensor, torch.Tensor]:
    """Order these wrong items, and the matches that some of them may or may not stand before, by exact values.

    Corrects `before`, the items surely before each match, and tells which of the items stand before all matches, and
    how many rows are tied: those whose first value belongs to a match and to a wrong item, while nothing is surely
    nearer; and how many items are nearer than each match, and not farther. The rows are those of the queries from
    `start` on.
    """
    if not len(wrong.row):
        return _Items(wrong.row, wrong.column), 0, before, before
    surely = right.count_items(wrong.not_farther, wrong.row)
    doubtful = (right.count_items(wrong.nearer, wrong.row) > surely).nonzero().flatten()
    row = torch.cat([right.row[doubtful], wrong.row])
    column = torch.cat([right.column[doubtful], wrong.column])
    closed = torch.cat(
        [(before - surely)[doubtful], wrong.nearer]
    )  # so many of the other kind surely stand before each
    value = bound.measure(row + start, column) + 0  # -0 is 0
    order = _order(column, value, row)
    row, value, closed, is_wrong = row[order], value[order], closed[order], order >= len(doubtful)

    row_start = torch.searchsorted(row, row)
    wrong_ahead, right_ahead = (_count_ahead(kind, row_start) for kind in (is_wrong, ~is_wrong))
    at = doubtful[order[~is_wrong]]
    before[at] = (closed + wrong_ahead)[~is_wrong]
    # Of equal values in a row the wrong ones before the first are nearer, those up to the last not farther.
    begins = torch.ones(len(row) + 1, dtype=torch.bool, device=row.device)
    begins[1:-1] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    starts, run = begins.nonzero().flatten(), begins[:-1].cumsum(0) - 1
    nearer, until = before.clone(), before.clone()
    nearer[at] = (closed + wrong_ahead[starts[run]])[~is_wrong]
    until[at] = (closed + (wrong_ahead + is_wrong)[starts[run + 1] - 1])[~is_wrong]
    leading = order[is_wrong & (right_ahead == 0) & (closed == 0)] - len(doubtful)

    first = value == value[row_start]
    has_wrong, has_right, has_nearer = torch.zeros(3, len(right.per_row), dtype=torch.bool, device=row.device)
    for mark, of in ((has_wrong, is_wrong), (has_right, ~is_wrong), (has_nearer, closed > 0)):
        mark[row[first & of]] = True
    tied = int((has_wrong & has_right & ~has_nearer).sum())
    return _Items(wrong.row[leading], wrong.column[leading]), tied, nearer, until


def _count_ahead(kind: torch.Tensor, row_start: torch.Tensor) -> torch.Tensor:
    """How many of the marked ones stand before each, from the start of its row on."""
    ahead = kind.cumsum(0) - kind.long()
    return ahead - ahead[row_start]


def _rank(ahead: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Ranks (b, most), ascending, of matches of rows with so many each, from how many wrong items are ahead of them.

    Padded with a number above them all.
    """
    table = np.full((len(counts), most), 2**62)
    table[np.arange(most) < counts[:, None]] = ahead
    table.sort(axis=1)
    table += np.arange(1, most + 1)
    return table


def _order(*keys: torch.Tensor) -> torch.Tensor:
    """The order that sorts by the last of the keys, ties by the one before, and so on."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order
