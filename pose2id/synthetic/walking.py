"""Poses of invented people: variations of the 8 representative ones."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from pose2id.poses import KEYPOINTS, Pose, pose_direction, representative_poses
from pose2id.synthetic.cameras import Camera

PREFERENCE = 0.6
"""So often a camera sees people within `NEAR` degrees of its preferred direction for certain."""
NEAR = 50.0
_CHAINS = ((3, 4), (6, 7), (9, 10), (12, 13))
"""Elbow and wrist, knee and ankle."""
_FACE = (0, 14, 15, 16, 17)
_MIRRORED = tuple(
    KEYPOINTS.index({"right": "left", "left": "right"}.get(side, side) + gap + rest)
    for side, gap, rest in (name.partition("_") for name in KEYPOINTS)
)
_FROM = (
    *((3, 2, 0.15), (4, 3, 0.13), (6, 5, 0.15), (7, 6, 0.13)),  # the arms
    *((9, 8, 0.21), (10, 9, 0.2), (12, 11, 0.21), (13, 12, 0.2)),  # the legs
)
"""Where a missing joint is put: below the second, by that fraction of the picture's height."""


def sample_pose(rng: np.random.Generator, camera: Camera | None = None) -> tuple[Pose, float]:
    """A walking pose at random.

    One of the 8 representative poses of the paper, mirrored half of the time; wrists that are missing there are
    completed, joints moved a little, and the whole made narrower by up to a quarter and lower by up to a tenth, about
    the middle of the picture: the representative poses themselves, which fill it, lie at the edge of what is drawn.

    Parameters
    ----------
    rng : numpy.random.Generator
    camera : Camera, optional
        Prefers one direction, 60 % of the time. None: all poses are equally likely.

    Returns
    -------
    pose : Pose
        All 18 keypoints, as fractions of the picture.
    yaw : float
        Direction in degrees, from 0 to below 360, as in `pose2id.poses.pose_direction`: 0 towards the camera, 90
        to the right edge of the picture, 180 away.

    Raises
    ------
    TypeError
        For another `rng` or `camera`.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.synthetic import sample_pose
    >>> pose, yaw = sample_pose(np.random.default_rng(0))
    >>> int(pose.present.sum()), 0 <= yaw < 360
    (18, True)
    """
    check_generator(rng)
    if camera is not None and not isinstance(camera, Camera):
        raise TypeError(f"camera must be a Camera or None, received {type(camera).__name__}")
    poses, yaws = _walkers()
    choices = np.arange(len(poses))
    preferred = rng.random() < PREFERENCE
    if camera is not None and preferred:
        choices = np.flatnonzero(np.abs((yaws - camera.yaw + 180) % 360 - 180) <= NEAR)
    chosen = choices[rng.integers(len(choices))]
    points = poses[chosen].copy()
    for middle, end in _CHAINS:
        swing, more, lift = rng.normal(0, (0.03, 0.02, 0.012))
        points[middle, 0] += 0.6 * swing
        points[end] += swing + more, lift
    points[list(_FACE)] += rng.normal(0, (0.012, 0.005))
    points = 0.5 + (points - 0.5) * (rng.uniform(0.75, 1.0), rng.uniform(0.9, 1.0))
    return Pose(points), float((yaws[chosen] + rng.normal(0, 8)) % 360)


@cache
def _walkers() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The 8 poses and their mirror images (16, 18, 2), and their directions (16,)."""
    poses = np.stack([complete(pose) for pose in representative_poses()])
    yaws = np.array([pose_direction(pose) for pose in representative_poses()])
    mirrored = poses[:, list(_MIRRORED)] * (-1, 1) + (1, 0)
    return np.concatenate([poses, mirrored]), np.concatenate([yaws, -yaws]) % 360


def complete(pose: Pose) -> NDArray[np.float64]:
    """Keypoints (18, 2) without gaps: a missing joint hangs below the one before it, towards the middle of the body."""
    points = pose.keypoints.copy()
    needed = [2, 5, 8, 11]
    if not pose.present[needed].all():
        missing = ", ".join(KEYPOINTS[k] for k in needed if not pose.present[k])
        raise ValueError(f"pose must have both shoulders and hips to be drawn; missing: {missing}")
    if np.isnan(points[1, 0]):
        points[1] = (points[2] + points[5]) / 2
    trunk = abs((points[8, 1] + points[11, 1]) / 2 - points[1, 1]) / 0.31  # that of the representative poses
    for joint, parent, below in _FROM:
        if np.isnan(points[joint, 0]):
            points[joint] = points[parent] + (0.1 * (points[1, 0] - points[parent, 0]), below * trunk)
    face = points[list(_FACE)]
    if np.isnan(face).all():
        face = np.tile(points[1] - (0, 0.11 * trunk), (len(_FACE), 1))
    points[list(_FACE)] = np.where(np.isnan(face), np.nanmean(face, axis=0), face)
    return points


def check_generator(rng: object) -> None:
    """Raise TypeError unless it is a numpy.random.Generator."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(
            f"rng must be a numpy.random.Generator, such as np.random.default_rng(0); received {type(rng).__name__}"
        )
