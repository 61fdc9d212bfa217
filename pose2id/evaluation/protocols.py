"""Protocols: which gallery items are junk for a query (the camera rule), which are right, and what CMC counts.

Labels alone decide it. Nothing here imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pose2id.validation import JUNK, check_choice, encode_labels, equal_label, take_labels

if TYPE_CHECKING:
    from pose2id.validation import Labels

    Numbers = npt.NDArray[np.int64]
    Marks = npt.NDArray[np.bool_]

_NUMBER = re.compile(r"0|-?[1-9]\d{0,8}", re.ASCII)
METRICS = ("euclidean", "cosine")
"""How `evaluate_features` may compare rows."""


@dataclass(frozen=True)
class Protocol:
    """Which gallery items a query is not scored on.

    Attributes
    ----------
    name : str
        The name `evaluate` knows it by.
    summary : str
        One sentence for documentation and error messages.
    same_camera_is_junk : bool
        Items of the query's identity from the query's own camera are removed from its list.
    junk_label : int or None
        Gallery items with this identity (as an integer or as a string) are removed from every list; a query that
        carries it is not scored.
    whole_camera_is_junk : bool
        With `same_camera_is_junk`: the items of all other identities from that camera are removed too.
    co_located : tuple of (int, int)
        Pairs of cameras (as integers or as strings) that look at one place and count as one camera; pairs that share a
        camera are merged. Labels must be numbers then: 3 or "3", not "cam3".
    cmc_over_identities : bool
        CMC counts identities, each at its nearest item, instead of items; mAP and mINP count items all the same.
    cameras : tuple of int
        The cameras there are, where their numbers mean something; others are refused. Empty: any.

    Raises
    ------
    ValueError
        For rules that do not fit each other; from its methods for cameras that the rule cannot mean.
    """

    name: str
    summary: str
    same_camera_is_junk: bool
    junk_label: int | None = JUNK
    whole_camera_is_junk: bool = False
    co_located: tuple[tuple[int, int], ...] = ()
    cmc_over_identities: bool = False
    cameras: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.whole_camera_is_junk and not self.same_camera_is_junk:
            raise ValueError("whole_camera_is_junk needs same_camera_is_junk, received False")
        if self.cameras and not {cam for pair in self.co_located for cam in pair} <= set(self.cameras):
            raise ValueError(f"co_located must be pairs of cameras {self.cameras}, received {self.co_located}")

    def junk(
        self,
        query_id: object,
        gallery_ids: npt.NDArray[Any],
        query_cam: object = None,
        gallery_cams: npt.NDArray[Any] | None = None,
    ) -> Marks:
        """Mark what is removed from the list of one query, (G,) bool; without cameras nothing is for its camera."""
        junk = self.marked(gallery_ids)
        if self.same_camera_is_junk and gallery_cams is not None:
            names = "query_cam", "gallery_cams"
            sides = take_labels([query_cam], 1, names[0]), gallery_cams
            for side, name in zip(sides, names, strict=True):
                self.check_cameras(side, name)
            cam, cams = encode_labels([self.merge_cameras(side) for side in sides], names)
            identity, identities = encode_labels(
                [take_labels([query_id], 1, "query_id"), gallery_ids], ("query_id", "gallery_ids")
            )
            junk |= self.removed(cams == cam, identities == identity)
        return junk

    def removed(self, same_camera: Marks, same_identity: Marks) -> Marks:
        """Mark what the rule for cameras removes, if there is one, by what an item shares with the query."""
        return same_camera if self.whole_camera_is_junk else same_camera & same_identity

    def merge_cameras(self, cams: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The cameras, co-located ones all under the label of one of them."""
        label = str if cams.dtype.kind == "U" else int
        kept: dict[int, int] = {}  # camera: another one that looks at its place
        for pair in self.co_located:
            one, other = (_follow(kept, cam) for cam in pair)
            if one != other:
                kept[other] = one
        for cam in kept:
            cams = np.where(cams == label(cam), label(_follow(kept, cam)), cams)
        return cams

    def check_cameras(self, cams: npt.NDArray[Any], name: str) -> None:
        """Raise ValueError for cameras that the rule cannot mean: others than `cameras`, "cam3" with `co_located`."""
        if not (self.cameras or self.co_located):
            return
        allowed = f"one of {', '.join(map(str, self.cameras))}" if self.cameras else "a whole number"
        for label in np.unique(cams).tolist():
            # "03" is refused: beside "3" it would be another camera.
            number = label if not isinstance(label, str) or not _NUMBER.fullmatch(label) else int(label)
            if isinstance(number, str) or (self.cameras and number not in self.cameras):
                raise ValueError(
                    f"{name} must be cameras as protocol {self.name!r} numbers them, each {allowed}, received "
                    f"{label!r}; renumber them, or leave out the cameras of both sides"
                )

    def marked(self, ids: npt.NDArray[Any]) -> Marks:
        """Mark which of `ids` carry the junk label."""
        if self.junk_label is None:
            return np.zeros(len(ids), bool)
        return equal_label(ids, self.junk_label)


def _follow(kept: dict[int, int], cam: int) -> int:
    while cam in kept:
        cam = kept[cam]
    return cam


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("market1501", "same identity and camera removed, gallery label -1 is junk, 0 is ordinary", True),
        Protocol("all", "no camera rule; gallery label -1 is junk, 0 is ordinary", False),
        Protocol(
            "sysu-mm01",
            "a query skips all items of its camera (2 and 3 are co-located), CMC counts identities",
            same_camera_is_junk=True,
            whole_camera_is_junk=True,
            co_located=((2, 3),),
            cmc_over_identities=True,
            cameras=(1, 2, 3, 4, 5, 6),
        ),
    )
}
"""The protocols by name. A further one is one line here."""


class Matches(NamedTuple):
    """The right items of a block of queries, junk removed: pairs of a `row` of the block and a `column`; rows ascend.

    `same`: such pairs of all items of the query's identity, junk or not. Of each query, (b,): `per_query`, how many
    matches there are, and `listed`, how many entries its whole list has for CMC.
    """

    row: Numbers
    column: Numbers
    same: tuple[Numbers, Numbers]
    per_query: Numbers
    listed: Numbers


class Relevance:
    """What the labels of Q queries and G gallery items say under a protocol.

    Identities and cameras are kept as numbers, the same for both sides, co-located cameras as one; `cams` is None where
    there are none, or no rule asks for them. `same` (Q,) counts the gallery items of each query's identity.
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
        ids = [take_labels(query_ids, size[0], "query_ids"), take_labels(gallery_ids, size[1], "gallery_ids")]
        cams = None
        if (query_cams is None) != (gallery_cams is None):
            given, missing = ("query_cams", "gallery_cams") if gallery_cams is None else ("gallery_cams", "query_cams")
            raise ValueError(f"query_cams and gallery_cams must be given together, received {given} without {missing}")
        if query_cams is not None:
            sides = [take_labels(query_cams, size[0], "query_cams"), take_labels(gallery_cams, size[1], "gallery_cams")]
            names = "query_cams", "gallery_cams"
            for side, name in zip(sides, names, strict=True):
                protocol.check_cameras(side, name)
            cams = encode_labels([protocol.merge_cameras(side) for side in sides], names)
        self.protocol, self.cams = protocol, cams if protocol.same_camera_is_junk else None
        self.query_ids, self.gallery_ids = encode_labels(ids, ("query_ids", "gallery_ids"))
        self.query_junk, self.gallery_junk = (protocol.marked(side) for side in ids)

        self._by_identity = np.argsort(self.gallery_ids, kind="stable")
        ordered = self.gallery_ids[self._by_identity]
        self._first = np.searchsorted(ordered, self.query_ids, "left")
        self.same = np.searchsorted(ordered, self.query_ids, "right") - self._first
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

    def matches(self, block: slice) -> Matches:
        """The right items of a block of queries; a query with the junk label has none."""
        same = np.where(self.query_junk[block], 0, self.same[block])
        row = np.repeat(np.arange(len(same)), same)
        nth = np.arange(len(row)) - np.repeat(same.cumsum() - same, same)
        column = self._by_identity[np.repeat(self._first[block], same) + nth]
        junk = self.junk(row + block.start, column)
        listed = self._listed[block]
        if not (self.protocol.whole_camera_is_junk or self.protocol.cmc_over_identities):
            listed = listed - np.bincount(row[junk], minlength=len(same))
        every, row, column = (row, column), row[~junk], column[~junk]
        return Matches(row, column, every, np.bincount(row, minlength=len(same)), listed)

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
