"""Which poses are those of a whole, upright pedestrian: PoseValid of the paper."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose2id.poses.pose import KEYPOINTS, LEFT_HIP, NECK, Pose, in_heights

__all__ = ["PoseLimits", "pose_faults", "pose_valid"]

_FACE = [0, 14, 15, 16, 17]
_SIDES = (("right", 2, 8), ("left", 5, 11))
"""Shoulder and hip of each side; elbow and wrist, knee and ankle follow them."""


@dataclass(frozen=True)
class PoseLimits:
    """What `pose_valid` asks of a pose.

    The supplementary of the paper (7.1.2) names the kinds of constraints, not their values. These leave room around
    the 8 released poses, whose measures are in parentheses. The unit of length is the trunk, from the neck to the left
    hip; a pair of numbers is the smallest and the greatest length. Limbs towards the camera may be as short as can be.

    Attributes
    ----------
    missing : int
        Occlusion: so many of the 18 keypoints may be missing (1). Neck, shoulders, hips, knees, ankles and something
        of the face must be there.
    margin : float
        So far outside the picture a keypoint may lie, as a fraction of its width or height (0).
    trunk : float
        The least length of the trunk, as a fraction of the picture's height (0.30 to 0.33).
    shoulder, hip, head : (float, float)
        From the neck to a shoulder (0.12 to 0.42), the right hip (0.94 to 1.03), the nose (0.35 to 0.51).
    arm, thigh, shin : (float, float)
        Upper arm and forearm (0.34 to 0.63), thigh (0.62 to 0.89), shin (0.57 to 1.02).
    arm_ratio, leg_ratio : float
        Symmetry: the longer of a left and a right limb is at most so many times the shorter (1.5 and 1.4).
    twist : float
        Left and right shoulder, left and right hip lie the same way round, unless one pair is nearer than this.
    lean : float
        Degrees between the trunk and the vertical (12), at most.
    elbow, knee : float
        Degrees between upper arm and forearm (129), thigh and shin (118), at least.
    """

    missing: int = 4
    margin: float = 0.05
    trunk: float = 0.15
    shoulder: tuple[float, float] = (0.0, 0.7)
    hip: tuple[float, float] = (0.6, 1.5)
    head: tuple[float, float] = (0.0, 0.8)
    arm: tuple[float, float] = (0.0, 0.9)
    thigh: tuple[float, float] = (0.3, 1.2)
    shin: tuple[float, float] = (0.3, 1.3)
    arm_ratio: float = 3.0
    leg_ratio: float = 2.0
    twist: float = 0.2
    lean: float = 30.0
    elbow: float = 20.0
    knee: float = 60.0


def pose_faults(pose: Pose, limits: PoseLimits | None = None, *, aspect: float = 0.5) -> tuple[str, ...]:
    """What makes a pose unlikely to be that of a whole, upright pedestrian: PoseValid of the paper, with reasons.

    Body height is the distance from the neck to the left hip. The neck is moved to the origin, everything is divided
    by the body height, and the limits are applied to what is then seen.

    Parameters
    ----------
    pose : Pose
    limits : PoseLimits, optional
        None: ``PoseLimits()``.
    aspect : float
        Width of the picture by its height.

    Returns
    -------
    tuple of str
        One sentence for each fault; empty for a valid pose.

    Raises
    ------
    TypeError, ValueError
        For anything but a `Pose`, `PoseLimits` and a positive number.

    References
    ----------
    C. Yuan and others, From Poses to Identity, CVPR 2025, supplementary 7.1.2. The limits are ours, see `PoseLimits`.

    Examples
    --------
    >>> from pose2id.poses import Pose, pose_faults, representative_poses
    >>> keypoints = representative_poses()[0].keypoints.copy()
    >>> pose_faults(Pose(keypoints))
    ()
    >>> keypoints[9] = keypoints[8]
    >>> pose_faults(Pose(keypoints))[0]
    'right thigh 0.00, must be 0.3 to 1.2'
    """
    limits = PoseLimits() if limits is None else limits
    if not isinstance(limits, PoseLimits):
        raise TypeError(f"limits must be PoseLimits, received {type(limits).__name__}")
    points = in_heights(pose, aspect)
    needed = [NECK, *(i for _, shoulder, hip in _SIDES for i in (shoulder, hip, hip + 1, hip + 2))]
    absent = [KEYPOINTS[i] for i in needed if not pose.present[i]] + ["face"] * (not pose.present[_FACE].any())
    if absent:  # the rest cannot be measured
        return (f"missing: {', '.join(absent)}",)
    trunk = _distance(points, NECK, LEFT_HIP)
    if trunk < limits.trunk:
        return (f"trunk {trunk:.2f} of the picture's height, must be at least {limits.trunk:g}",)
    body = (points - points[NECK]) / trunk

    # No comparison below is true of NaN: what is missing is not at fault.
    faults = []
    missing = int((~pose.present).sum())
    if missing > limits.missing:
        faults.append(f"{missing} keypoints missing, must be at most {limits.missing}")
    beside = (pose.keypoints < -limits.margin) | (pose.keypoints > 1 + limits.margin)
    faults += [f"{KEYPOINTS[i]} outside the picture" for i in np.flatnonzero(beside.any(axis=1))]

    lengths = {"head": (_distance(body, NECK, 0), limits.head)}
    for side, shoulder, hip in _SIDES:
        lengths |= {
            f"{side} shoulder": (_distance(body, NECK, shoulder), limits.shoulder),
            f"{side} upper arm": (_distance(body, shoulder, shoulder + 1), limits.arm),
            f"{side} forearm": (_distance(body, shoulder + 1, shoulder + 2), limits.arm),
            f"{side} hip": (_distance(body, NECK, hip), limits.hip),
            f"{side} thigh": (_distance(body, hip, hip + 1), limits.thigh),
            f"{side} shin": (_distance(body, hip + 1, hip + 2), limits.shin),
        }
    for name, (length, (least, most)) in lengths.items():
        if length < least or length > most:
            faults.append(f"{name} {length:.2f}, must be {least:g} to {most:g}")
    for limb in ("upper arm", "forearm", "thigh", "shin"):
        ratio = limits.arm_ratio if "arm" in limb else limits.leg_ratio
        right, left = lengths[f"right {limb}"][0], lengths[f"left {limb}"][0]
        if right > ratio * left or left > ratio * right:
            faults.append(f"{limb} {right:.2f} right and {left:.2f} left, must differ by at most {ratio:g} times")

    if np.nanmean(body[_FACE, 1]) > 0:
        faults.append("face below the neck")
    shoulders, hips = float(body[5, 0] - body[2, 0]), float(body[11, 0] - body[8, 0])
    if shoulders * hips < 0 and min(abs(shoulders), abs(hips)) > limits.twist:
        faults.append(f"shoulders ({shoulders:+.2f}) and hips ({hips:+.2f}) lie the other way round")
    across, down = (body[8] + body[11]) / 2
    if (lean := math.degrees(math.atan2(abs(across), down))) > limits.lean:
        faults.append(f"trunk leans {lean:.0f} degrees, must be at most {limits.lean:g}")
    for side, shoulder, hip in _SIDES:
        faults += [f"{side} knee above the hip"] * bool(body[hip + 1, 1] < body[hip, 1])
        faults += [f"{side} ankle above the hip"] * bool(body[hip + 2, 1] < body[hip, 1])
        for name, joint, limit in (("elbow", shoulder + 1, limits.elbow), ("knee", hip + 1, limits.knee)):
            if (angle := _angle(body[joint - 1] - body[joint], body[joint + 1] - body[joint])) < limit:
                faults.append(f"{side} {name} bent to {angle:.0f} degrees, must be at least {limit:g}")
    return tuple(faults)


def pose_valid(pose: Pose, limits: PoseLimits | None = None, *, aspect: float = 0.5) -> bool:
    """Whether a pose is likely that of a whole, upright pedestrian: whether it has no `pose_faults`.

    Parameters
    ----------
    pose : Pose
    limits : PoseLimits, optional
        None: ``PoseLimits()``.
    aspect : float
        Width of the picture by its height.

    Returns
    -------
    bool
        True for a valid pose.

    Raises
    ------
    TypeError, ValueError
        For anything but a `Pose`, `PoseLimits` and a positive number.

    References
    ----------
    As for `pose_faults`.

    Examples
    --------
    >>> from pose2id.poses import pose_valid, representative_poses
    >>> all(pose_valid(pose) for pose in representative_poses())
    True
    """
    return not pose_faults(pose, limits, aspect=aspect)


def _distance(points: NDArray[np.float64], one: int, other: int) -> float:
    return math.dist(points[one], points[other])


def _angle(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Degrees between two vectors of the plane, 0 to 180; NaN where a part is missing."""
    return math.degrees(math.atan2(abs(one[0] * other[1] - one[1] * other[0]), one @ other))
