"""Synthetic sets: many pictures of many people, as arrays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import require
from pose2id.poses import Pose
from pose2id.progress import tqdm
from pose2id.synthetic.cameras import PURPOSE, Camera, draw_background, expose, make_camera
from pose2id.synthetic.people import make_person
from pose2id.synthetic.pictures import Picture, canvas_size, render
from pose2id.synthetic.traits import label_people
from pose2id.synthetic.walking import sample_pose
from pose2id.validation import check_count, check_flag, check_number


@dataclass(frozen=True, eq=False)
class SyntheticSet:
    """Synthetic pictures and everything that is known about them.

    Attributes
    ----------
    images : ndarray of uint8, shape (N, H, W, 3)
    keypoints : ndarray of float32, shape (N, 18, 2)
        As in `pose2id.poses.Pose`; missing ones are NaN.
    ids : ndarray of int64, shape (N,)
    cams : ndarray of int64, shape (N,)
        From 0.
    yaws : ndarray of float32, shape (N,)
        Directions in degrees, see `sample_pose`.
    occluded : ndarray of bool, shape (N,)
        Whether something stands before the person.
    seen : ndarray of bool, shape (N, 18)
        Which keypoints lie inside of the picture, and not behind what stands before the person.
    masks : ndarray of uint8, shape (N, H, W), or None
        Which part of the person each pixel shows: its place in `PARTS`, from 1; 0 for all that is not the person. See
        `Picture.parts`. None unless asked for.
    attributes : ndarray of int64, shape (N, 11), or None
        The class of each attribute of `pose2id.attributes.SYNTHETIC` of each picture's person, whether it is seen or
        not; None of sets that were made otherwise than by `make_set`.
    """

    images: NDArray[np.uint8]
    keypoints: NDArray[np.float32]
    ids: NDArray[np.int64]
    cams: NDArray[np.int64]
    yaws: NDArray[np.float32]
    occluded: NDArray[np.bool_]
    seen: NDArray[np.bool_]
    masks: NDArray[np.uint8] | None = None
    attributes: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def poses(self) -> list[Pose]:
        """The keypoints as poses."""
        return [Pose(points) for points in self.keypoints]

    @property
    def seen_poses(self) -> list[Pose]:
        """The keypoints that are `seen`, as poses; the others are missing. `pose2id.parts.part_boxes` takes them."""
        return [Pose(points) for points in np.where(self.seen[:, :, None], self.keypoints, np.nan)]

    def select(self, rows: Any) -> SyntheticSet:
        """The pictures with these indices, or where a mask (N,) is True, or of a slice; in this order."""
        if not isinstance(rows, slice):
            rows = np.atleast_1d(np.asarray(rows))
            rows = rows if rows.size else rows.astype(np.int64)
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        return SyntheticSet(**{name: values[rows] for name, values in known.items() if values is not None})


def make_set(
    ids: Iterable[int],
    *,
    seed: int = 0,
    cams: int = 6,
    per_cam: int = 2,
    height: int = 64,
    width: int = 32,
    occlusion: float = 0.25,
    infrared_cams: int = 0,
    masks: bool = False,
    progress: bool = False,
) -> SyntheticSet:
    """Synthetic pictures of some people, by identity, then camera, then shot.

    A picture depends on the seed, its identity, camera and shot only (and on size and occlusion), not on what else is
    made.

    Parameters
    ----------
    ids : iterable of int
        Different identities, not negative. Identities of the same seed share their cameras.
    seed : int
        Of the world: other people, other cameras.
    cams : int
        So many cameras.
    per_cam : int
        Pictures of each identity from each camera.
    height, width : int
        Size of the pictures, at least 8.
    occlusion : float
        Probability that something stands before the person; see `render`.
    infrared_cams : int
        So many of the cameras are infrared, evenly spaced and the last one among them: with 2 of 6 the third and the
        sixth, as in SYSU-MM01.
    masks : bool
        Also say which part of the person each pixel shows, `SyntheticSet.masks`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    SyntheticSet
        `cams` x `per_cam` pictures of each identity, in the order of `ids`.

    Raises
    ------
    TypeError, ValueError
        For arguments of other kinds or out of range; for an identity named twice.
    MissingExtraError
        Without Pillow.

    Examples
    --------
    >>> from pose2id.synthetic import make_set
    >>> people = make_set([1, 2, 3], cams=2)
    >>> people.images.shape, people.ids.tolist()
    ((12, 64, 32, 3), [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3])
    >>> make_set([1], cams=1, masks=True).masks.shape
    (2, 64, 32)
    >>> people.attributes.shape
    (12, 11)
    """
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes):
        raise TypeError(f"ids must be integers, such as range(1, 11); received {ids!r}")
    numbers = [check_count(number, "each of ids", 0) for number in ids]
    if len(set(numbers)) < len(numbers):
        twice = sorted({number for number in numbers if numbers.count(number) > 1})
        raise ValueError(f"ids must be different, received more than once: {', '.join(map(str, twice[:10]))}")
    world = World(seed, cams, infrared_cams, height, width)
    per_cam, occlusion = check_count(per_cam, "per_cam", 1), check_number(occlusion, "occlusion", 0, 1)
    shots = [(number, cam, shot) for number in numbers for cam in range(len(world.cameras)) for shot in range(per_cam)]
    count = len(shots)
    result = SyntheticSet(
        images=np.empty((count, world.height, world.width, 3), np.uint8),
        keypoints=np.empty((count, 18, 2), np.float32),
        ids=np.array([number for number, _, _ in shots], np.int64),
        cams=np.array([cam for _, cam, _ in shots], np.int64),
        yaws=np.empty(count, np.float32),
        occluded=np.empty(count, np.bool_),
        seen=np.empty((count, 18), np.bool_),
        masks=np.empty((count, world.height, world.width), np.uint8) if check_flag(masks, "masks") else None,
        attributes=np.repeat(label_people(numbers, seed=world.seed).classes, len(world.cameras) * per_cam, axis=0),
    )
    bar = tqdm(shots, desc="synthetic", unit="picture", disable=not check_flag(progress, "progress"))
    for row, (number, cam, shot) in enumerate(bar):
        picture, yaw = world.take(number, cam, shot, occlusion)
        result.images[row], result.keypoints[row] = picture.image, picture.pose.keypoints
        result.yaws[row], result.occluded[row], result.seen[row] = yaw, picture.occluded, picture.seen
        if result.masks is not None:
            result.masks[row] = picture.parts
    return result


class World:
    """The people and cameras of one seed, and the size of the pictures."""

    def __init__(self, seed: int, cams: int, infrared_cams: int, height: int, width: int) -> None:
        require("PIL.Image", "ipg", PURPOSE)
        self.seed, cams = check_count(seed, "seed", 0), check_count(cams, "cams", 1)
        infrared_cams = check_count(infrared_cams, "infrared_cams", 0)
        if infrared_cams > cams:
            raise ValueError(f"infrared_cams must be at most cams, {cams}; received {infrared_cams}")
        self.height, self.width = check_count(height, "height", 8), check_count(width, "width", 8)
        self.infrared = [(place + 1) * cams // infrared_cams - 1 for place in range(infrared_cams)]
        self.cameras: list[Camera] = [make_camera(self.seed, c, infrared=c in self.infrared) for c in range(cams)]
        self.person = lru_cache(16)(partial(make_person, self.seed))

    def take(self, number: int, cam: int, shot: int, occlusion: float) -> tuple[Picture, float]:
        """That shot of that identity by that camera, and the yaw."""
        rng = np.random.default_rng([3, self.seed, number, cam, shot])
        pose, yaw = sample_pose(rng, self.cameras[cam])
        return self._render(number, pose, yaw, cam, rng, occlusion), yaw

    def take_junk(self, number: int, cam: int) -> Picture:
        """A bad detection of that identity: far too near or far, or half beside the picture."""
        rng = np.random.default_rng([4, self.seed, number, cam])
        pose, yaw = sample_pose(rng, self.cameras[cam])
        zoom, aside = float(rng.choice([0.55, 1.7])), (float(rng.choice([-0.4, 0.4])), float(rng.uniform(-0.3, 0.3)))
        bad = Pose((pose.keypoints - 0.5) * zoom + 0.5 + aside)
        return self._render(number, bad, yaw, cam, rng, 0.5)

    def take_nobody(self, number: int, cam: int) -> Picture:
        """A false detection: the background alone."""
        rng = np.random.default_rng([5, self.seed, number, cam])
        size = (self.width, self.height)
        image = expose(draw_background(self.cameras[cam], rng, canvas_size(size)), self.cameras[cam], rng, size)
        nothing = np.zeros(image.shape[:2], np.uint8)
        return Picture(image, Pose(np.full((18, 2), np.nan)), nothing > 0, False, nothing, np.zeros(18, np.bool_))

    def _render(
        self, number: int, pose: Pose, yaw: float, cam: int, rng: np.random.Generator, occlusion: float
    ) -> Picture:
        person, camera = self.person(number), self.cameras[cam]
        return render(person, pose, yaw, camera, rng, height=self.height, width=self.width, occlusion=occlusion)
