"""Relevance: what is right, wrong or left out for each query, by the labels of both sides and a protocol.

Nothing here imports torch.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pose2id.evaluation.masks import Kept, take_ignore
from pose2id.evaluation.protocols import PROTOCOLS, Protocol
from pose2id.validation import check_choice, encode_labels, take_labels

if TYPE_CHECKING:
    from pose2id.evaluation.masks import Ignore, MoreLabels, Table
    from pose2id.validation import Labels

    Numbers = npt.NDArray[np.int64]
    Marks = npt.NDArray[np.bool_]


class Matches(NamedTuple):
    """The right items of a block of queries, junk removed: pairs of a `row` of the block and a `column`; rows ascend.

    `same`: such pairs of all items of the query's identity, junk or not. Of each query, (b,): `per_query`, how many
    matches there are, `listed`, how many entries its whole list has for CMC, and `relevant`, how many right items there
    are with those that the search does not look at. `kept` (b, G): what is left of the gallery, where more than the
    protocol decides it or items are drawn; else None. `columns` (b, n): what the search looks at for each query, where
    that is a small part; `column` and `kept` are then places in it.
    """

    row: Numbers
    column: Numbers
    same: tuple[Numbers, Numbers]
    per_query: Numbers
    listed: Numbers
    relevant: Numbers
    kept: Marks | None = None
    columns: Numbers | None = None


class Relevance:
    """What the labels of Q queries and G gallery items say under a protocol.

    Identities and cameras are kept as numbers, the same for both sides, co-located cameras as one; `cams` is None where
    there are none, or no rule asks for them. `same` (Q,) counts the gallery items of each query's identity. `itself`:
    the queries are the gallery, told by leaving out the labels of the latter. `kept`: what the search looks at; None
    for all.
    """

    def __init__(
        self,
        size: tuple[int, int],
        query_ids: Labels,
        gallery_ids: Labels | None,
        query_cams: Labels | None,
        gallery_cams: Labels | None,
        protocol: str | Protocol,
        ignore: Ignore | None = None,
        labels: MoreLabels | None = None,
        kept: Table | None = None,
    ) -> None:
        if not isinstance(protocol, Protocol):
            protocol = PROTOCOLS[check_choice(protocol, "protocol", tuple(PROTOCOLS))]
        self.itself = gallery_ids is None
        if self.itself:
            if gallery_cams is not None:
                raise ValueError("gallery_cams must be left out where gallery_ids is None: both are of one set")
            if size[0] != size[1]:
                raise ValueError(
                    f"gallery_ids must be given for a gallery other than the queries, received size {size}"
                )
            gallery_ids, gallery_cams = query_ids, query_cams
        ids = [take_labels(query_ids, size[0], "query_ids"), take_labels(gallery_ids, size[1], "gallery_ids")]
        sides = {"ids": (ids[0], ids[1])}
        cams = None
        if (query_cams is None) != (gallery_cams is None):
            given, missing = ("query_cams", "gallery_cams") if gallery_cams is None else ("gallery_cams", "query_cams")
            raise ValueError(f"query_cams and gallery_cams must be given together, received {given} without {missing}")
        if query_cams is not None:
            names = "query_cams", "gallery_cams"
            sides["cams"] = take_labels(query_cams, size[0], names[0]), take_labels(gallery_cams, size[1], names[1])
            for side, name in zip(sides["cams"], names, strict=True):
                protocol.check_cameras(side, name)
            cams = encode_labels([protocol.merge_cameras(side) for side in sides["cams"]], names)
        self.protocol, self.cams = protocol, cams if protocol.same_camera_is_junk else None
        self.query_ids, self.gallery_ids = encode_labels(ids, ("query_ids", "gallery_ids"))
        self.query_junk, self.gallery_junk = (protocol.marked(side) for side in ids)

        self._by_identity = np.argsort(self.gallery_ids, kind="stable")
        ordered = self.gallery_ids[self._by_identity]
        self._first = np.searchsorted(ordered, self.query_ids, "left")
        self.same = np.searchsorted(ordered, self.query_ids, "right") - self._first
        self._starts = np.flatnonzero(np.diff(ordered, prepend=-1))  # of each identity
        self._ignored = take_ignore(ignore, labels, size, sides, itself=self.itself)
        self.kept = None if kept is None else Kept(kept, size)
        self._narrow = False
        if kept is not None and protocol.repetitions:
            raise ValueError(
                f"kept must be left out under protocol {protocol.name!r}, which draws galleries; use another protocol"
            )
        self._listed = self._count_listed()

    def junk(self, query: Any, item: Any) -> Marks:
        """Mark what is removed from the list of a query; both index their side, and broadcast."""
        junk: Marks = self.gallery_junk[item]
        if self.cams is not None:
            same_camera = self.cams[0][query] == self.cams[1][item]
            junk = junk | self.protocol.removed(same_camera, self.right(query, item))
        return junk

    def right(self, query: Any, item: Any) -> Marks:
        """Mark items of the query's identity, junk or not; indices as for `junk`."""
        return np.asarray(self.query_ids[query] == self.gallery_ids[item])

    def left(self, query: int) -> Marks:
        """Mark what the list of one query holds, (G,)."""
        left = ~self.junk(query, slice(None))
        return left if self._ignored is None else left & ~self._ignored(slice(query, query + 1))[0]

    def matches(self, block: slice) -> Matches:
        """The right items of a block of queries; a query with the junk label has none."""
        same = np.where(self.query_junk[block], 0, self.same[block])
        row = np.repeat(np.arange(len(same)), same)
        nth = np.arange(len(row)) - np.repeat(same.cumsum() - same, same)
        column = self._by_identity[np.repeat(self._first[block], same) + nth]
        junk = self.junk(row + block.start, column)
        if self._ignored is None and self.kept is None and not self.protocol.repetitions:
            right, listed = ~junk, self._listed[block]
            if not (self.protocol.whole_camera_is_junk or self.protocol.cmc_over_identities):
                listed = listed - np.bincount(row[junk], minlength=len(same))
            found = np.bincount(row[right], minlength=len(same))
            return Matches(row[right], column[right], (row, column), found, listed, found)
        ignored = None if self._ignored is None else self._ignored(block)
        right = ~junk if ignored is None else ~junk & ~ignored[row, column]
        relevant = np.bincount(row[right], minlength=len(same))
        if self.kept is None or not self._narrow:
            columns, kept = None, self._keep(block, ignored)
        else:
            columns, kept, place = self._look(block, ignored, self.kept, row, column)
            row, column, right = row[place >= 0], place[place >= 0], right[place >= 0]
        kept[row, column] &= right
        right = kept[row, column]
        found, listed = np.bincount(row[right], minlength=len(same)), self._count_kept(kept, columns)
        return Matches(row[right], column[right], (row, column), found, listed, relevant, kept, columns)

    def _keep(self, block: slice, ignored: Marks | None) -> Marks:
        """What is left for a block of queries, (b, G), but for the rule for their own identities."""
        if self.kept is None:
            kept = np.ones((block.stop - block.start, len(self.gallery_ids)), bool)
        else:
            kept = self.kept.marks(block)
        if ignored is not None:
            kept &= ~ignored
        kept[:, self.gallery_junk] = False
        if self.protocol.whole_camera_is_junk and self.cams is not None:
            kept &= self.cams[0][block, None] != self.cams[1]
        return kept

    def _look(
        self, block: slice, ignored: Marks | None, there: Kept, row: Numbers, column: Numbers
    ) -> tuple[Numbers, Marks, Numbers]:
        """What the search looks at for a block of queries, (b, n), and what is left of it; places of pairs, or -1."""
        items, (of_row, slot) = there.indices(block), there.slots(block)
        shape, total = (block.stop - block.start, 1 + int(slot.max(initial=-1))), len(self.gallery_ids)
        columns, kept = np.zeros(shape, np.int64), np.zeros(shape, bool)
        columns[of_row, slot] = items
        left = ~self.gallery_junk[items]
        if ignored is not None:
            left &= ~ignored[of_row, items]
        if self.protocol.whole_camera_is_junk and self.cams is not None:
            left &= self.cams[0][block][of_row] != self.cams[1][items]
        kept[of_row, slot] = left
        pairs, wanted = of_row * total + items, row * total + column
        at = np.searchsorted(pairs, wanted)
        found = np.append(pairs, -1)[at] == wanted
        return columns, kept, np.where(found, np.append(slot, -1)[at], -1)

    def narrow(self, order: Numbers, kept: Kept) -> Relevance:
        """The same of the queries in another order, of each block with what is `kept` of the gallery for these."""
        there = copy(self)
        ignored = self._ignored
        there.query_ids, there.query_junk, there.same = self.query_ids[order], self.query_junk[order], self.same[order]
        there._first, there._listed = self._first[order], self._listed[order]
        if self.cams is not None:
            there.cams = [self.cams[0][order], self.cams[1]]
        if ignored is not None:
            there._ignored = lambda block: np.concatenate([ignored(slice(row, row + 1)) for row in order[block]])
        there.kept, there._narrow = kept, True
        return there

    def _count_kept(self, kept: Marks, columns: Numbers | None) -> Numbers:
        """How many entries the lists of what is left have for CMC, (b,)."""
        if not self.protocol.cmc_over_identities:
            return np.asarray(np.count_nonzero(kept, axis=1))
        if columns is None:
            kept = np.logical_or.reduceat(kept[:, self._by_identity], self._starts, axis=1)
            return np.asarray(np.count_nonzero(kept, axis=1))
        (row, column), size = kept.nonzero(), 1 + int(self.gallery_ids.max(initial=0))
        pairs = np.unique(row * size + self.gallery_ids[columns[row, column]])
        return np.bincount(pairs // size, minlength=len(kept))

    def _count_listed(self) -> Numbers:
        """How many entries the list of each query has for CMC, (Q,), items of its own identity all counted in."""
        count = _count_unique if self.protocol.cmc_over_identities else len
        clean = ~self.gallery_junk
        counts = np.full(len(self.query_ids), count(self.gallery_ids[clean]))
        if self.protocol.whole_camera_is_junk and self.cams is not None:
            query_cams, gallery_cams = self.cams
            for camera in np.unique(query_cams):
                counts[query_cams == camera] = count(self.gallery_ids[clean & (gallery_cams != camera)])
        return counts


def _count_unique(ids: Numbers) -> int:
    return len(np.unique(ids))
