"""Bins: the coarse place of a score alone tells of most items which matches they stand before.

Each row of a tile is cut into bins of equal width between its first and its last match. An item in a bin that holds
no match stands before or after each of them, whatever the order within the bin; only items that share a bin with a
match are left open. Where many of these have exactly the score of a match, the columns are cut likewise. So counting
takes much the same time for any order of the items.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch

from pose2id.arrays import cached_blocks, cached_rows

BINS, MOST_BINS = 64, 8192
"""Bins of a row, so many for each match, up to the most."""
PIECES, MOST_ENTRIES = 1024, 2**20
"""Pieces of the columns, so many that the pieces of all bins have no more entries."""


class Limits(NamedTuple):
    """Between what the scores of matches lie, (m,), by `row`, ascending in each; `first` and `last` of rows, (b,)."""

    row: torch.Tensor
    lower: torch.Tensor
    upper: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor


class Bins:
    """The bins of a tile of scores (b, G). Items whose score is inf stand before no match."""

    def __init__(self, scores: torch.Tensor, limits: Limits) -> None:
        self.scores, self.limits = scores, limits
        self.bins = min(MOST_BINS, BINS * int(torch.bincount(limits.row).max()))
        # inf: a row without matches
        first, last = (torch.where(torch.isfinite(end), end, 0) for end in (limits.first, limits.last))
        number = torch.finfo(scores.dtype)
        # So wide that what is below the first match does not share its bin.
        width = ((last - first) / (self.bins - 3)).maximum(number.eps * first.abs()).clamp(min=number.tiny)
        self._start, self._factor = first - width, width.reciprocal().clamp(min=number.tiny)
        start, factor = self._start[limits.row], self._factor[limits.row]
        low, high = (self._place(ends, start, factor).long() for ends in (limits.lower, limits.upper))
        self._low, self._high = (limits.row * self.bins + place for place in (low, high))

    def count(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Count, for matches, the items before them by bins alone, (m,), and mark those whose bin leaves it open."""
        # One more at the first bin of a match, one less behind its last: what is above 0 holds a match.
        steps = torch.zeros(len(self.scores) * self.bins + 1, dtype=torch.int32, device=self.scores.device)
        ones = torch.ones_like(self._low, dtype=torch.int32)
        steps.index_add_(0, self._low, ones).index_add_(0, self._high + 1, -ones)
        holds = steps[:-1].cumsum(0, dtype=torch.int32) > 0
        before = torch.zeros_like(holds, dtype=torch.int64)
        left_open = torch.empty_like(self.scores, dtype=torch.bool)
        for block, part, place in self._places():
            counts = torch.bincount(place, minlength=part.stop - part.start).masked_fill_(holds[part], 0)
            before[part] = counts.view(-1, self.bins).cumsum(dim=1).flatten()
            left_open[block] = holds[part].index_select(0, place).view(left_open[block].shape)
        return before[self._low], left_open

    def count_equal(self, column: torch.Tensor, left_open: torch.Tensor) -> torch.Tensor:
        """Count, for matches at `column` (m,) with exact scores, those of what `left_open` marks that equal a match.

        They stand in the order of their columns, which are cut into pieces: what shares one with a match stays open,
        what is counted is so no longer.
        """
        used, which = torch.unique(self._low, return_inverse=True)
        number = torch.zeros(len(self.scores) * self.bins, dtype=torch.int32, device=self.scores.device)
        number[used] = torch.arange(len(used), dtype=torch.int32, device=number.device)
        score = torch.empty(len(used), dtype=self.scores.dtype, device=number.device)
        score[which] = self.limits.lower  # of several in a bin, one
        pieces = max(1, min(PIECES, MOST_ENTRIES // len(used)))
        piece = (torch.arange(self.scores.shape[1], device=number.device) * pieces // self.scores.shape[1]).int()
        at, same = which * pieces + piece[column], score[which] == self.limits.lower
        rest = len(used) * pieces  # of items that equal no match
        holds = torch.zeros(rest + 1, dtype=torch.bool, device=number.device)
        holds[at[same]] = holds[rest] = True
        counts = torch.zeros_like(holds, dtype=torch.int64)
        for block, part, place in self._places():
            own = number[part].index_select(0, place)
            equal = left_open[block] & (score.index_select(0, own).view(left_open[block].shape) == self.scores[block])
            own = own.mul_(pieces).view(equal.shape) + piece
            own = torch.where(equal, own, rest).flatten()
            counts += torch.bincount(own, minlength=rest + 1)
            left_open[block] &= holds.index_select(0, own).view(equal.shape)
        ahead = counts.masked_fill_(holds, 0)[:rest].view(-1, pieces).cumsum(dim=1)
        among = ahead.flatten()[at].masked_fill_(~same, 0)
        among = torch.where(score[which] < self.limits.lower, ahead[which, -1], among)
        below = ahead[:, -1].cumsum(0) - ahead[:, -1]  # in the bins before, of all rows
        return among + (below - below[torch.searchsorted(used, used // self.bins * self.bins)])[which]

    def _places(self) -> Iterator[tuple[slice, slice, torch.Tensor]]:
        """Blocks of rows, what part of all bins is theirs, and the place there of each of their scores."""
        height = min(len(self.scores), cached_rows(self.scores))
        starts = self.bins * torch.arange(height, dtype=torch.int32, device=self.scores.device)[:, None]
        moved = torch.empty_like(self.scores[:height])  # used again and again: new memory costs more than the rest
        place = torch.empty_like(moved, dtype=torch.int32)
        for block in cached_blocks(self.scores):
            rows = slice(block.stop - block.start)
            self._place(self.scores[block], self._start[block, None], self._factor[block, None], out=moved[rows])
            torch.add(place[rows].copy_(moved[rows]), starts[rows], out=place[rows])
            yield block, slice(block.start * self.bins, block.stop * self.bins), place[rows].flatten()

    def _place(
        self, scores: torch.Tensor, start: torch.Tensor, factor: torch.Tensor, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The bins of scores of rows cut so, to be truncated; of two scores in a row, the larger has no smaller bin."""
        return torch.sub(scores, start, out=out).mul_(factor).clamp_(0, self.bins - 1)
