"""Protocols: which gallery items are junk for a query, and what CMC counts. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

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
        camera are merged.
    cmc_over_identities : bool
        CMC counts identities, each at its nearest item, instead of items; mAP and mINP count items all the same.
    """

    name: str
    summary: str
    same_camera_is_junk: bool
    junk_label: int | None = -1
    whole_camera_is_junk: bool = False
    co_located: tuple[tuple[int, int], ...] = ()
    cmc_over_identities: bool = False

    def __post_init__(self) -> None:
        if self.whole_camera_is_junk and not self.same_camera_is_junk:
            raise ValueError("whole_camera_is_junk needs same_camera_is_junk, received False")

    def junk(
        self,
        query_id: object,
        gallery_ids: npt.NDArray[Any],
        query_cam: object = None,
        gallery_cams: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Mark what is removed from the list of one query, (G,) bool; without cameras nothing is for its camera."""
        junk = self.marked(gallery_ids)
        if self.same_camera_is_junk and gallery_cams is not None:
            same_camera = self.merge_cameras(gallery_cams) == self.merge_cameras(np.asarray([query_cam]))
            junk |= self.removed(same_camera, gallery_ids == query_id)
        return junk

    def removed(self, same_camera: npt.NDArray[Any], same_identity: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
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

    def marked(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mark which of `ids` carry the junk label."""
        if self.junk_label is None:
            return np.zeros(len(ids), bool)
        return np.asarray(ids == (str(self.junk_label) if ids.dtype.kind == "U" else self.junk_label))


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
        ),
    )
}
"""The protocols by name. A further one is one line here."""
