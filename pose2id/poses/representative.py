"""Representative poses: the paper's 8, where a pose faces, and how to choose others from a data set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.poses.files import parse_poses
from pose2id.poses.pose import LEFT_HIP, NECK, Pose, in_heights
from pose2id.poses.validity import pose_valid
from pose2id.validation import check_count, take_labels, take_numbers

__all__ = ["pose_direction", "representative_poses", "select_representative"]

_SHOULDERS = 0.85
"""Width of the shoulders, seen from the front, by the length from the neck to the middle of the hips."""


@cache
def representative_poses() -> tuple[Pose, ...]:
    """The 8 representative poses of the paper, in its order, named "1" to "8".

    They show a person from the front, front right, right, back right, back, back left, and twice from the front
    left. The keypoints were recovered from the released pose maps; `Pose.draw` gives these back.

    Returns
    -------
    tuple of Pose, length 8
        The same objects on every call.

    References
    ----------
    github.com/yuanc3/Pose2ID, IPG/standard_poses, commit 0fea3b3, MIT licence; its text is in ``pose2id/data``.

    Examples
    --------
    >>> from pose2id.poses import representative_poses
    >>> [pose.name for pose in representative_poses()]
    ['1', '2', '3', '4', '5', '6', '7', '8']
    """
    source = files("pose2id").joinpath("data", "representative_poses.json")
    return parse_poses(source.read_bytes())


def pose_direction(pose: Pose, *, aspect: float = 0.5) -> float:
    """Where a person faces, in degrees: 0 to the camera, 90 to the right edge of the picture, 180 away, -90 left.

    From the front, the left shoulder is seen to the right of the right one, at 0.85 of the length from the neck to the
    middle of the hips. Turning shortens this distance, from behind it is negative: its share of the full width is taken
    for the cosine of the direction. The side is that to which the face lies of the neck (the nose, else the middle of
    the eyes, else of the ears). So measured, the released poses face the ways named in their file. A head turned over
    the shoulder misleads it.

    Parameters
    ----------
    pose : Pose
    aspect : float
        Width of the picture by its height.

    Returns
    -------
    float
        In [-180, 180]; NaN if the neck, a shoulder, a hip or the whole face is missing, or the trunk has no length.

    Examples
    --------
    >>> from pose2id.poses import pose_direction, representative_poses
    >>> [round(pose_direction(pose)) for pose in representative_poses()]
    [0, 36, 73, 117, -164, -125, -46, -34]
    """
    points = in_heights(pose, aspect)
    trunk = math.dist(points[NECK], (points[8] + points[LEFT_HIP]) / 2)
    if not trunk > 0:
        return math.nan
    faces = points[0, 0], points[14:16, 0].mean(), points[16:18, 0].mean()
    side = next((float(x - points[NECK, 0]) for x in faces if math.isfinite(x)), math.nan)
    cosine = float(points[5, 0] - points[2, 0]) / (_SHOULDERS * trunk)
    if math.isnan(cosine + side):
        return math.nan
    return math.copysign(math.degrees(math.acos(min(max(cosine, -1.0), 1.0))), side)


def select_representative(
    features: Any, ids: Any, poses: Sequence[Pose | None], count: int = 8, *, aspect: float = 0.5
) -> NDArray[np.int64]:
    """Choose images whose poses stand for all: near to their identity's centre, facing different ways.

    The centre of an identity is the mean of its features (eq. 7), and its candidate the image nearest to it (eq. 8)
    among those with a valid pose whose direction is known. Of the candidates, those are taken that face in `count`
    evenly spaced directions best, starting from the camera: again and again the nearest pair of a direction and a
    candidate. (The paper draws them at random.)

    Parameters
    ----------
    features : array_like of real numbers, shape (N, D)
        Used as they are; normalise before if the distance should be that of directions.
    ids : array_like, shape (N,)
        Integers or strings.
    poses : sequence of Pose or None, length N
        The pose of each image, None where there is none.
    count : int
        How many to choose.
    aspect : float
        Width of the pictures by their height.

    Returns
    -------
    ndarray of int64, shape (count,)
        Rows, ordered by the direction that each was chosen for: 0, 360 / count, ... degrees as in `pose_direction`.
        Ties go to the lower row.

    Raises
    ------
    TypeError, ValueError
        For input of other types or shapes, NaN or inf in `features`; if fewer than `count` identities have a candidate.

    References
    ----------
    C. Yuan and others, From Poses to Identity, CVPR 2025, 3.2.3.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.poses import representative_poses, select_representative
    >>> poses = representative_poses()
    >>> rows = select_representative(np.eye(8), np.arange(8), poses, count=4)
    >>> [poses[row].name for row in rows]
    ['1', '3', '5', '6']
    """
    rows = take_numbers(features, "features")
    if rows.ndim != 2:
        raise ValueError(f"features must have shape (N, D), received {rows.shape}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"features must be finite; not so in rows {np.flatnonzero(~np.isfinite(rows).all(axis=1))}")
    labels = take_labels(ids, len(rows), "ids")
    if len(poses) != len(rows):
        raise ValueError(f"poses must hold one entry for each of the {len(rows)} features, received {len(poses)}")
    count = check_count(count, "count", 1)

    directions = np.full(len(poses), np.nan)
    for row, pose in enumerate(poses):
        if pose is not None and pose_valid(pose, aspect=aspect):
            directions[row] = pose_direction(pose, aspect=aspect)
    candidates = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        distances = np.linalg.norm(rows[members] - rows[members].mean(axis=0), axis=1)
        distances[np.isnan(directions[members])] = np.inf
        if np.isfinite(distances).any():
            candidates.append(members[distances.argmin()])
    if len(candidates) < count:
        raise ValueError(
            f"count is {count}, but only {len(candidates)} identities have an image with a valid pose and a known "
            "direction; choose fewer, or give more images"
        )
    candidates.sort()
    targets = np.arange(count) * 360 / count
    apart = np.abs((directions[candidates] - targets[:, None] + 180) % 360 - 180)  # (count, candidates)
    chosen = np.empty(count, np.int64)
    for _ in range(count):
        target, candidate = np.unravel_index(apart.argmin(), apart.shape)
        chosen[target] = candidates[candidate]
        apart[target], apart[:, candidate] = np.inf, np.inf
    return chosen
