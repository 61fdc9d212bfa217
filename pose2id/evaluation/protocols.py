"""Protocols: which gallery items are junk for a query (the camera rule), which are right, and what CMC counts.

Labels alone decide it. Nothing here imports torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pose2id.validation import JUNK, check_count, check_flag, encode_labels, equal_label, take_labels

if TYPE_CHECKING:
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
    repetitions : int
        Single-gallery-shot: of what is left for a query one item of each identity is drawn, so many times, and CMC is
        the mean of the lists of these. mAP and mINP count all items. 0: nothing is drawn. Needs `cmc_over_identities`.
    seed : int
        What the draws are made from; equal seeds draw equal items, whatever the distances.
    drawn_gallery : bool
        With `repetitions`: mAP and mINP too are means over the lists of drawn items, and in a set against itself a
        drawn item is no query of its repetition.

    Raises
    ------
    ValueError, TypeError
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
    repetitions: int = 0
    seed: int = 0
    drawn_gallery: bool = False

    def __post_init__(self) -> None:
        check_count(self.repetitions, "repetitions", 0)
        check_count(self.seed, "seed", 0)
        check_flag(self.drawn_gallery, "drawn_gallery")
        if self.repetitions and not self.cmc_over_identities:
            raise ValueError("repetitions needs cmc_over_identities, received False")
        if self.drawn_gallery and not self.repetitions:
            raise ValueError("drawn_gallery needs repetitions >= 1, received 0")
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
        Protocol(
            "cuhk03",
            "single-gallery-shot: a query skips all items of its camera, CMC is the mean over draws of one item of "
            "each identity, mAP counts all items",
            same_camera_is_junk=True,
            whole_camera_is_junk=True,
            cmc_over_identities=True,
            repetitions=100,
        ),
        Protocol(
            "vehicleid",
            "single-gallery-shot, no camera rule: the mean over galleries of one drawn item of each identity; of one "
            "set all other items are the queries",
            same_camera_is_junk=False,
            cmc_over_identities=True,
            repetitions=10,
            drawn_gallery=True,
        ),
    )
}
"""The protocols by name. A further one is one line here."""
