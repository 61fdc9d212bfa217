"""Pictures that an encoder learns from, with what is known of them: checked, changed at random, as batches."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.encoders.contract import Batch
from pose2id.poses import KEYPOINTS, Pose
from pose2id.training.erasing import draw_published, fill
from pose2id.validation import take_labels

_OTHER = {"left": "right", "right": "left"}


def mirror_names(names: Sequence[str]) -> NDArray[np.int64]:
    """For each name the place of the one that a mirror makes of it: of the left arm, the right one."""
    names = [name.lower() for name in names]
    mirrored = [re.sub("left|right", lambda side: _OTHER[side[0]], name) for name in names]
    return np.array([names.index(name) if name in names else at for at, name in enumerate(mirrored)], np.int64)


_MIRRORED_KEYPOINTS = mirror_names(KEYPOINTS)


@dataclass(frozen=True, eq=False)  # comparing arrays with == has no single truth value
class Pictures:
    """N pictures of known people; the arguments of `pose2id.encoders.train_encoder` say what each may be."""

    images: NDArray[np.uint8]
    ids: Any
    keypoints: Any = None
    masks: Any = None
    part_names: tuple[str, ...] = ()
    attributes: Any = None

    def __post_init__(self) -> None:
        images = self.images
        if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images must be an array of uint8 of shape (N, H, W, 3), received {_describe(images)}")
        object.__setattr__(self, "ids", take_labels(self.ids, len(images), "ids"))
        object.__setattr__(self, "part_names", tuple(self.part_names))
        if self.keypoints is not None:
            object.__setattr__(self, "keypoints", _take_keypoints(self.keypoints, len(images)))
        if self.masks is not None:
            self._check_masks()
        if self.attributes is not None:
            kinds = np.asarray(self.attributes)
            if (
                kinds.ndim != 2
                or len(kinds) != len(images)
                or kinds.dtype.kind not in "iu"
                or kinds.min(initial=0) < -1
            ):
                raise ValueError(
                    f"attributes must be classes (N, A) from 0, or -1 where unknown, received {_describe(kinds)}"
                )
            object.__setattr__(self, "attributes", kinds.astype(np.int64))

    def _check_masks(self) -> None:
        masks = self.masks
        if not isinstance(masks, np.ndarray) or masks.dtype != np.uint8 or masks.shape != self.images.shape[:3]:
            raise ValueError(
                f"masks must be an array of uint8 of shape {self.images.shape[:3]}, the part that each pixel shows, "
                f"received {_describe(masks)}"
            )
        if not self.part_names or len(set(self.part_names)) < len(self.part_names):
            raise ValueError(f"part_names must name each part of the masks once, received {self.part_names}")
        if masks.size and masks.max() > len(self.part_names):
            raise ValueError(f"masks hold part {masks.max()}, part_names are of {len(self.part_names)}")

    @cached_property
    def people(self) -> list[NDArray[np.int64]]:
        """The rows of each identity, in the order of the sorted identities: that of the classes."""
        _, classes = np.unique(self.ids, return_inverse=True)
        order = np.argsort(classes, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)

    def given(self) -> set[str]:
        """What is known beside identities, in the words of `Encoder.needs`."""
        return {name for name in ("keypoints", "masks", "attributes") if getattr(self, name) is not None}

    def fingerprint(self) -> str:
        """A hash of all that is learnt from."""
        digest = hashlib.sha256(repr((self.images.shape, self.part_names)).encode())
        for values in (self.images, self.ids, self.keypoints, self.masks, self.attributes):
            digest.update(b"-" if values is None else np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def take(self, rows: NDArray[np.int64] | slice, ids: NDArray[np.int64] | None = None) -> Batch:
        """These rows as they are."""
        known = {name: None if getattr(self, name) is None else np.array(getattr(self, name)[rows]) for name in _KNOWN}
        images = np.array(self.images[rows])
        return self._as_batch(images, np.zeros(len(images), np.int64) if ids is None else ids, known)

    def draw(self, rng: np.random.Generator, *, identities: int, shots: int, flip: float, erase: float) -> Batch:
        """Some pictures of some people, mirrored and partly erased, each with its probability.

        What is erased is hidden: keypoints there are missing, and masks have no part there, as behind an obstacle.
        """
        people = rng.choice(len(self.people), min(identities, len(self.people)), replace=False)
        rows = np.concatenate(
            [rng.choice(self.people[who], shots, replace=len(self.people[who]) < shots) for who in people]
        )
        images = self.images[rows]  # a copy
        known = {name: None if getattr(self, name) is None else getattr(self, name)[rows] for name in _KNOWN}
        for row in np.flatnonzero(rng.random(len(rows)) < flip):
            self._mirror(int(row), images, **known)
        for row in np.flatnonzero(rng.random(len(rows)) < erase):
            _erase(rng, int(row), images, **known)
        return self._as_batch(images, people.repeat(shots), known)

    def _mirror(self, row: int, images: Any, keypoints: Any, masks: Any, **_: Any) -> None:
        """Left becomes right, in the picture and in what is known of it."""
        images[row] = images[row, :, ::-1].copy()
        if keypoints is not None:
            keypoints[row] = keypoints[row, _MIRRORED_KEYPOINTS]
            keypoints[row, :, 0] = 1 - keypoints[row, :, 0]
        if masks is not None:
            masks[row] = self._mirrored_parts[masks[row, :, ::-1]]

    @cached_property
    def _mirrored_parts(self) -> NDArray[np.uint8]:
        return np.concatenate([[0], mirror_names(self.part_names) + 1]).astype(np.uint8)

    def _as_batch(self, images: NDArray[np.uint8], ids: NDArray[np.int64], known: dict[str, Any]) -> Batch:
        height, width = images.shape[1:3]
        points, labels, kinds = known["keypoints"], known["masks"], known["attributes"]
        joints = masks = None
        if points is not None:
            there = ~np.isnan(points[:, :, :1])  # missing ones at 0, with a confidence of 0
            joints = torch.from_numpy(np.concatenate([np.nan_to_num(points) * (width, height), there], 2)).float()
        if labels is not None:
            every = torch.arange(len(self.part_names) + 1, dtype=torch.uint8)[:, None, None]
            masks = (torch.from_numpy(labels)[:, None] == every).float()
        return Batch(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1,
            ids=torch.from_numpy(ids),
            keypoints=joints,
            masks=masks,
            attributes=None if kinds is None else torch.from_numpy(kinds),
        )


_KNOWN = ("keypoints", "masks", "attributes")


def _erase(rng: np.random.Generator, row: int, images: Any, keypoints: Any, masks: Any, **_: Any) -> None:
    """Hide a rectangle behind random pixels."""
    height, width = images.shape[1:3]
    rows, columns = rectangle = draw_published(height, width, rng)
    fill(images[row], rectangle, rng)
    if keypoints is not None:
        x, y = keypoints[row, :, 0] * width, keypoints[row, :, 1] * height  # NaN lies nowhere
        keypoints[row, (x >= columns.start) & (x < columns.stop) & (y >= rows.start) & (y < rows.stop)] = np.nan
    if masks is not None:
        masks[row, rows, columns] = 0


def _take_keypoints(given: Any, count: int) -> NDArray[np.float64]:
    """Keypoints (N, 18, 2) as fractions of the picture, rows of NaN where missing."""
    if isinstance(given, Sequence) and all(pose is None or isinstance(pose, Pose) for pose in given):
        nobody = np.full((len(KEYPOINTS), 2), np.nan)
        given = np.stack([nobody if pose is None else pose.keypoints for pose in given]) if given else nobody[None]
    points = np.asarray(given)
    if points.shape != (count, len(KEYPOINTS), 2) or points.dtype.kind != "f":
        raise ValueError(
            f"keypoints must be floats (N, {len(KEYPOINTS)}, 2), fractions of the picture with NaN where missing, or a "
            f"Pose or None for each picture; received {_describe(points)} for {count} pictures"
        )
    points = points.astype(np.float64)
    points[~np.isfinite(points).all(2)] = np.nan
    if (far := np.nanmax(np.abs(points), initial=0)) > 10:
        raise ValueError(
            f"keypoints must be fractions of the picture, received {far:g}; divide x by width, y by height"
        )
    return points


def _describe(value: Any) -> str:
    return f"{value.dtype} of {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
