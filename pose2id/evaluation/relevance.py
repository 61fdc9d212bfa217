"""Relevance: which gallery items are right, wrong or junk for a query, by the labels of both sides and a protocol."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pose2id.arrays import BLOCK_ELEMENTS
from pose2id.evaluation.protocols import PROTOCOLS, Protocol
from pose2id.validation import check_choice, encode_labels, take_labels

if TYPE_CHECKING:
    from pose2id.validation import Labels


class Matches(NamedTuple):
    """The right items of a block of queries, junk removed.

    Pairs of a `row` within the block and a `column` of the gallery, rows ascending; how many each query has,
    `per_query` (b,); how many entries its whole list has, `listed` (b,), in what CMC counts.
    """

    row: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    per_query: npt.NDArray[np.int64]
    listed: npt.NDArray[np.int64]


class Relevance:
    """The labels of Q queries and G gallery items, checked.

    Attributes
    ----------
    protocol : Protocol
        The rules.
    query_ids, gallery_ids : (Q,) and (G,) int64 arrays
        Identities, numbered 0, 1, ...
    cams : pair of (Q,) and (G,) int64 arrays, or None
        Cameras, numbered, co-located ones as one; None where there are none, or no rule asks for them.
    query_junk, gallery_junk : (Q,) and (G,) bool arrays
        Who carries the junk label.
    """

    def __init__(
        self,
        size: tuple[int, int],
        query_ids: Labels,
        gallery_ids: Labels,
        query_cams: Labels | None,
        gallery_cams: Labels | None,
        protocol: str | Protocol,
    ) -> None:
        if not isinstance(protocol, Protocol):
            protocol = PROTOCOLS[check_choice(protocol, "protocol", tuple(PROTOCOLS))]
        self.protocol = protocol
        ids = [take_labels(query_ids, size[0], "query_ids"), take_labels(gallery_ids, size[1], "gallery_ids")]
        cams = _take_cams(size, query_cams, gallery_cams, protocol)
        self.query_ids, self.gallery_ids = encode_labels(ids, ("query_ids", "gallery_ids"))
        self.query_junk, self.gallery_junk = (protocol.marked(side) for side in ids)
        self.cams = cams if protocol.same_camera_is_junk else None

        self._by_identity = np.argsort(self.gallery_ids, kind="stable")
        ordered = self.gallery_ids[self._by_identity]
        self._first = np.searchsorted(ordered, self.query_ids, "left")
        self._same = np.searchsorted(ordered, self.query_ids, "right") - self._first  # gallery items of the identity
        self._clean = self._count_clean()

    def junk(self, query: Any, item: Any) -> npt.NDArray[np.bool_]:
        """Mark what is removed from the list of a query; both index their side, and broadcast."""
        junk: npt.NDArray[np.bool_] = self.gallery_junk[item]
        if self.cams is not None:
            same_camera = self.cams[0][query] == self.cams[1][item]
            junk = junk | self.protocol.removed(same_camera, self.right(query, item))
        return junk

    def right(self, query: Any, item: Any) -> npt.NDArray[np.bool_]:
        """Mark items of the query's identity, junk or not; both index their side, and broadcast."""
        return np.asarray(self.query_ids[query] == self.gallery_ids[item])

    def blocks(self, height: int) -> Iterator[slice]:
        """Blocks of up to `height` queries that cover all, fewer where queries have thousands of matches.

        A block needs tables of rows x matches.
        """
        total = len(self.query_ids)
        matches = max(1, int(self._same.sum()) // max(1, total))
        height = max(1, min(height, math.isqrt(4 * BLOCK_ELEMENTS // matches)))
        return (slice(first, min(first + height, total)) for first in range(0, total, height))

    def matches(self, block: slice) -> Matches:
        """The right items of a block of queries; a query with the junk label has none."""
        same = np.where(self.query_junk[block], 0, self._same[block])
        row = np.repeat(np.arange(len(same)), same)
        nth = np.arange(len(row)) - np.repeat(same.cumsum() - same, same)
        column = self._by_identity[np.repeat(self._first[block], same) + nth]
        junk = self.junk(row + block.start, column)
        listed = self._clean[block]
        if not (self.protocol.whole_camera_is_junk or self.protocol.cmc_over_identities):
            listed = listed - np.bincount(row[junk], minlength=len(same))
        row, column = row[~junk], column[~junk]
        return Matches(row, column, np.bincount(row, minlength=len(same)), listed)

    def _count_clean(self) -> npt.NDArray[np.int64]:
        """How many entries the list of each query has, (Q,), before items are removed one by one."""
        clean = ~self.gallery_junk
        ids = self.gallery_ids[clean]
        counts = np.full(len(self.query_ids), self._entries(ids))
        if self.protocol.whole_camera_is_junk and self.cams is not None:
            query_cams, gallery_cams = self.cams[0], self.cams[1][clean]
            for camera in np.unique(query_cams):
                counts[query_cams == camera] = self._entries(ids[gallery_cams != camera])
        return counts

    def _entries(self, ids: npt.NDArray[np.int64]) -> int:
        """How many entries a list of items with these identities has, in what CMC counts."""
        return len(np.unique(ids)) if self.protocol.cmc_over_identities else len(ids)


def _take_cams(
    size: tuple[int, int], query_cams: Labels | None, gallery_cams: Labels | None, protocol: Protocol
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Cameras of both sides as numbers, None without any."""
    if (query_cams is None) != (gallery_cams is None):
        given, missing = ("query_cams", "gallery_cams") if gallery_cams is None else ("gallery_cams", "query_cams")
        raise ValueError(f"query_cams and gallery_cams must be given together, received {given} without {missing}")
    if query_cams is None:
        return None
    taken = [take_labels(query_cams, size[0], "query_cams"), take_labels(gallery_cams, size[1], "gallery_cams")]
    query, gallery = encode_labels([protocol.merge_cameras(side) for side in taken], ("query_cams", "gallery_cams"))
    return query, gallery
