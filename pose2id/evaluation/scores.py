"""Scores: mAP, CMC and mINP, and how the ranks of the matches add up to them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pose2id.tables import format_text
from pose2id.validation import check_count

if TYPE_CHECKING:
    from pose2id.evaluation.relevance import Matches


@dataclass(frozen=True, eq=False)
class Scores:
    """What `evaluate` found; fractions, not percent.

    Attributes
    ----------
    mAP : float
        Mean average precision over the valid queries.
    mINP : float
        Mean inverse negative penalty: matches / rank of the last match (Ye et al., TPAMI 2021).
    cmc : (R,) float64 array
        cmc[k - 1] is the share of valid queries with a match among their first k items (identities, if the protocol
        counts these); R is the longest list.
    valid_queries : int
        Queries with at least one match left after junk removal; the others are skipped.
    tied_rank1 : int
        Valid queries where a right and a wrong item share the smallest distance exactly, so that only the order of
        the gallery decides rank-1.
    average_precision : (Q,) float64 array
        That of every query, in their order; NaN for skipped ones.
    """

    mAP: float
    mINP: float
    cmc: npt.NDArray[np.float64]
    valid_queries: int
    tied_rank1: int
    average_precision: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def rank(self, k: int) -> float:
        """Share of valid queries with a match among their first k, k >= 1; past the longest list, its end."""
        return float(self.cmc[min(check_count(k, "k", 1), len(self.cmc)) - 1])

    def __str__(self) -> str:
        head = ("mAP", "mINP", "R1", "R5", "R10", "queries", "tied R1")
        fractions = (self.mAP, self.mINP, self.rank(1), self.rank(5), self.rank(10))
        row = (*(f"{100 * value:.2f}" for value in fractions), self.valid_queries, self.tied_rank1)
        return format_text(head, [row], align=">")


class Ranks(NamedTuple):
    """Where the matches of a block of queries stand, counted from 1.

    `items` (b, most matches): the ranks of the first, second, ... match, padded with a number above them all. `first`
    (b,): that of the first match in what CMC counts. `tied`: queries where a right and a wrong item share the smallest
    distance.
    """

    items: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    tied: int


def average_precision(ranks: npt.NDArray[np.int64], matches: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The mean of (matches so far / rank) over the matches, (b,), NaN without any.

    `ranks` (b, m) are those of the first, second, ... match, of which `matches` (b,) are real.
    """
    nth = np.arange(1, ranks.shape[1] + 1)
    total = np.where(nth <= matches[:, None], nth / ranks, 0).sum(axis=1)
    result = np.full(len(matches), np.nan)
    np.divide(total, matches, out=result, where=matches > 0)
    return result


class Tally:
    """Adds up `Scores` from the ranks of one block of queries after the other."""

    def __init__(self, queries: int) -> None:
        self._precision = np.full(queries, np.nan)
        self._inp: list[npt.NDArray[np.float64]] = []
        self._first: list[npt.NDArray[np.int64]] = []
        self._longest = self._tied = 0
        self.queries = 0

    def add(self, block: slice, matches: Matches, ranks: Ranks) -> None:
        """Count the queries `block` in, those without a match excepted."""
        self._precision[block] = average_precision(ranks.items, matches.per_query)
        valid = matches.per_query > 0
        count = matches.per_query[valid]
        last = np.take_along_axis(ranks.items[valid], count[:, None] - 1, axis=1)[:, 0]
        self.queries += len(count)
        self._inp.append(count / last)
        self._first.append(ranks.first[valid])
        self._longest = max(self._longest, int(matches.listed[valid].max()))
        self._tied += ranks.tied

    def scores(self) -> Scores:
        """The scores of all that was added, of at least one query with a match."""
        first = np.concatenate(self._first)
        return Scores(
            mAP=float(np.nanmean(self._precision)),
            mINP=float(np.concatenate(self._inp).mean()),
            cmc=np.bincount(first - 1, minlength=self._longest).cumsum() / self.queries,
            valid_queries=self.queries,
            tied_rank1=self._tied,
            average_precision=self._precision,
        )
