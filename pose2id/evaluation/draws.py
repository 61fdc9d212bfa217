"""Draws: single-gallery-shot, one item of each identity from what is left for a query, time and again.

Every gallery item has a random number in each repetition; of an identity the one with the smallest is drawn, for each
query among those left for it. So all queries of a repetition meet the same gallery, as far as the protocol allows, and
the draws depend on the seed and on the gallery's order alone.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.evaluation.relevance import Matches, Relevance
from pose2id.evaluation.tiles import MEASUREMENT, Limits


class DrawnRanks(NamedTuple):
    """Of a block of queries: the `rank` of the right item in each repetition, (b, r), 0 where there is none to find.

    `tied`: how many of these lists have a right and a wrong item at the smallest distance.
    """

    rank: npt.NDArray[np.int64]
    tied: int


class Draws:
    """The drawn galleries of all repetitions, and the ranks in them."""

    def __init__(self, relevance: Relevance) -> None:
        protocol, ids = relevance.protocol, relevance.gallery_ids
        random = np.random.default_rng(protocol.seed)
        self._orders = [
            np.lexsort((random.random(len(ids)), ids)).astype(np.int32) for _ in range(protocol.repetitions)
        ]
        names, self._starts = np.unique(np.sort(ids), return_index=True)
        slots = np.searchsorted(names, relevance.query_ids).clip(max=max(0, len(names) - 1))
        self._slots = torch.from_numpy(slots)
        self._drawn_queries: list[npt.NDArray[np.bool_]] = []
        if relevance.itself and protocol.drawn_gallery:
            clean = ~relevance.gallery_junk
            for order in self._orders:  # junk has an identity of its own, of which nothing is drawn
                drawn = np.zeros(len(ids), bool)
                drawn[order[self._starts]] = True
                self._drawn_queries.append(drawn & clean)

    def rank(
        self, scores: torch.Tensor, bound: Limits | None, block: slice, matches: Matches, kept: npt.NDArray[np.bool_]
    ) -> DrawnRanks | None:
        """The ranks by the scores (b, G) of a block of queries; None if a float32 product leaves too much open."""
        valid, slots = torch.from_numpy(matches.per_query > 0), self._slots[block]
        ranks, tied = np.zeros((len(scores), len(self._orders)), np.int64), 0
        for repetition, order in enumerate(self._orders):
            columns = torch.from_numpy(self._draw(order, kept)).to(scores.device)
            counted = valid
            if self._drawn_queries:
                counted = valid & torch.from_numpy(~self._drawn_queries[repetition][block])
            found = _rank_drawn(scores, bound, block.start, columns, slots.to(scores.device), counted.to(scores.device))
            if found is None:
                return None
            rank, is_tied = found
            ranks[:, repetition] = rank.cpu().numpy()
            tied += is_tied
        return DrawnRanks(ranks, tied)

    def _draw(self, order: npt.NDArray[np.int32], kept: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        """The column of the item drawn of each identity for each query, (b, identities), -1 where nothing is left."""
        total = np.int32(len(order))
        places = np.where(kept[:, order], np.arange(total, dtype=np.int32), total)
        first = np.minimum.reduceat(places, self._starts, axis=1)
        return np.where(first < total, order[np.minimum(first, total - 1)], -1).astype(np.int64)


def _rank_drawn(
    scores: torch.Tensor,
    bound: Limits | None,
    start: int,
    columns: torch.Tensor,
    slots: torch.Tensor,
    counted: torch.Tensor,
) -> tuple[torch.Tensor, int] | None:
    """The rank of the right item, at `slots` (b,) of the drawn `columns` (b, n), where `counted`, and how many tie."""
    rows = torch.arange(len(scores), device=scores.device)
    values = scores.gather(1, columns.clamp(min=0)).masked_fill_(columns < 0, torch.inf)
    right, own = values[rows, slots], columns[rows, slots]
    low, high = (right, right) if bound is None else bound.limits(right, rows)
    nearer = values < low[:, None]
    near = (values <= high[:, None]) & ~nearer & counted[:, None] & (columns >= 0)
    near[rows, slots] = False
    row, slot = near.nonzero(as_tuple=True)
    if bound is not None and scores.dtype == torch.float32 and len(row) > scores.numel() // MEASUREMENT:
        return None
    column = columns[row, slot]
    if bound is None:
        value, limit = values[row, slot], right[row]
    else:
        value, limit = bound.measure(row + start, column), bound.measure(row + start, own[row])

    def count(marks: torch.Tensor) -> torch.Tensor:
        return torch.bincount(row[marks], minlength=len(scores))

    ahead = nearer.sum(dim=1)
    tied = (ahead + count(value < limit) == 0) & (count(value == limit) > 0)
    rank = 1 + ahead + count((value < limit) | ((value == limit) & (column < own[row])))
    return torch.where(counted, rank, 0), int(tied.sum())
