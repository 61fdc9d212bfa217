"""Poses: 18 keypoints of a person, the 8 representative poses, their drawings, which poses to keep.

Needs numpy, and Pillow (extra `ipg`) for drawings only.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import require
from pose2id.poses.drawing import COLORS, LIMBS, draw_skeleton
from pose2id.validation import check_count, check_number, take_labels

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "COLORS",
    "KEYPOINTS",
    "LIMBS",
    "Pose",
    "PoseLimits",
    "pose_direction",
    "pose_faults",
    "pose_valid",
    "read_poses",
    "representative_poses",
    "select_representative",
    "write_poses",
]

KEYPOINTS = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
"""Names of the rows of `Pose.keypoints`, the OpenPose order; right and left are the person's own."""
_FROM_COCO = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # 17: the neck, put after the others
_NECK, _LEFT_HIP = 1, 11
_FACE = [0, 14, 15, 16, 17]
_SIDES = (("right", 2, 8), ("left", 5, 11))
"""Shoulder and hip of each side; elbow and wrist, knee and ankle follow them."""
_SHOULDERS = 0.85
"""Width of the shoulders, seen from the front, by the length from the neck to the middle of the hips."""
_FARTHEST = 10.0
"""Keypoints may lie beside the picture; what is farther away than this many pictures is taken for pixels."""


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, eq=False)
class Pose:
    """A person's pose: 18 keypoints in the order of `KEYPOINTS`.

    Parameters
    ----------
    keypoints : array_like, shape (18, 2)
        x as a fraction of the picture's width, y of its height; may lie a little outside. A missing keypoint is a
        row of NaN, or None in a sequence. Kept as a read-only float64 copy, missing rows NaN.
    name : str
        What the pose is called.

    Raises
    ------
    TypeError, ValueError
        For another shape, anything but real numbers, infinities, half a keypoint, or pixels instead of fractions.

    Examples
    --------
    >>> from pose2id.poses import Pose, representative_poses
    >>> pose = representative_poses()[2]
    >>> pose.name, pose.keypoints.shape, pose.present.sum().item()  # its left wrist is hidden
    ('3', (18, 2), 17)
    >>> pose.draw().size
    (64, 128)
    >>> Pose.from_pixels(pose.keypoints * (64, 128), 64, 128, name="mine").name
    'mine'
    """

    keypoints: NDArray[np.float64]
    name: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"name must be a string, received {type(self.name).__name__}")
        rows = _take_rows(self.keypoints, len(KEYPOINTS), "keypoints")
        if np.nanmax(np.abs(rows), initial=0) > _FARTHEST:
            raise ValueError(
                f"keypoints must be fractions of the picture's width and height, received a coordinate of "
                f"{rows.flat[np.nanargmax(np.abs(rows))]:g}; for pixels use Pose.from_pixels"
            )
        rows.setflags(write=False)
        object.__setattr__(self, "keypoints", rows)

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which keypoints there are, (18,)."""
        return np.isfinite(self.keypoints[:, 0])

    @classmethod
    def from_pixels(cls, keypoints: Any, width: float, height: float, name: str = "") -> Pose:
        """A pose from 18 keypoints in pixels of a picture of that width and height.

        Parameters
        ----------
        keypoints : array_like, shape (18, 2)
            As for `Pose`, but in pixels.
        width, height : float
            Size of the picture, positive.
        name : str
            What the pose is called.

        Returns
        -------
        Pose
        """
        return cls(_take_rows(keypoints, len(KEYPOINTS), "keypoints") / _take_size(width, height), name)

    @classmethod
    def from_coco17(
        cls, points: Any, scores: Any = None, *, width: float, height: float, threshold: float = 0.3, name: str = ""
    ) -> Pose:
        """A pose from the 17 keypoints of COCO, in pixels; the neck is the middle of the shoulders.

        Parameters
        ----------
        points : array_like, shape (17, 2)
            Pixels, in COCO's order: nose, left eye, right eye, left ear, right ear, then left and right shoulder,
            elbow, wrist, hip, knee, ankle. A missing one is a row of NaN, or None in a sequence.
        scores : array_like, shape (17,), optional
            Keypoints whose score is not above `threshold` are missing; None: all that are given are there. COCO's
            visibility flags (0 is missing) can be given as they are.
        width, height : float
            Size of the picture, positive.
        threshold : float
            See `scores`; 0.3 is DWPose's.
        name : str
            What the pose is called.

        Returns
        -------
        Pose
            Without a neck if a shoulder is missing.
        """
        rows = _take_rows(points, 17, "points")
        threshold = check_number(threshold, "threshold", -math.inf)
        if scores is not None:
            values = np.asarray(scores)
            if values.dtype.kind not in "fiu":
                raise TypeError(f"scores must be real numbers, received dtype {values.dtype}")
            if values.shape != (17,):
                raise ValueError(f"scores must have shape (17,), one for each point; received {values.shape}")
            rows[~(values > threshold)] = np.nan
        neck = (rows[5] + rows[6]) / 2
        return cls.from_pixels(np.vstack([rows, neck])[list(_FROM_COCO)], width, height, name)

    def draw(
        self, width: int = 64, height: int = 128, *, stick_width: int | None = None, joint_radius: int | None = None
    ) -> Image.Image:
        """The drawing that the pose encoder takes: canonical DWPose colours on black.

        At 64 x 128 the pixels are those of the released pose files. DWPose draws with OpenCV: limbs are filled
        ellipses, the canvas is darkened to 0.6, joints are discs; positions are cut to whole pixels. OpenCV's
        ellipse2Poly, fillConvexPoly and circle are reproduced here, also where a limb leaves the picture.

        Parameters
        ----------
        width, height : int
            Size of the drawing in pixels. The network was trained on drawings of 64 x 128, enlarged.
        stick_width, joint_radius : int, optional
            Half the width of a limb and radius of a joint, in pixels. None: 1 and 2 at 64 x 128, and in proportion
            to the smaller of the two scales elsewhere, but at least 1.

        Returns
        -------
        PIL.Image.Image
            RGB. The released files have red and blue swapped, because they were written without conversion.

        Raises
        ------
        MissingExtraError
            Without Pillow.
        TypeError, ValueError
            Unless all of these are positive integers.
        """
        width, height = check_count(width, "width", 1), check_count(height, "height", 1)
        scale = min(width / 64, height / 128)
        stick = max(1, round(scale)) if stick_width is None else check_count(stick_width, "stick_width", 1)
        radius = max(1, round(2 * scale)) if joint_radius is None else check_count(joint_radius, "joint_radius", 1)
        image: Image.Image = require("PIL.Image", "ipg", "drawing a pose").fromarray(
            draw_skeleton(self.keypoints * (width, height), width, height, stick, radius)
        )
        return image


def _take_rows(points: Any, count: int, name: str) -> NDArray[np.float64]:
    """A float64 copy (count, 2) with NaN for what is missing."""
    if not hasattr(points, "__array__"):
        if isinstance(points, str | bytes | dict) or not hasattr(points, "__iter__"):
            raise TypeError(f"{name} must be an array or a sequence of points, received {type(points).__name__}")
        points = [(math.nan, math.nan) if point is None else point for point in points]
    try:
        array = np.asarray(points)
    except ValueError as error:
        raise ValueError(f"{name} must have shape ({count}, 2); received points of different lengths") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers (NaN or None for a missing point), received dtype {array.dtype}")
    if array.shape != (count, 2):
        raise ValueError(f"{name} must have shape ({count}, 2), received {array.shape}")
    rows: NDArray[np.float64] = array.astype(np.float64)
    bad = np.isinf(rows).any(axis=1) | (np.isnan(rows).sum(axis=1) == 1)
    if bad.any():
        raise ValueError(f"{name} must be finite or NaN in both coordinates; not so in rows {np.flatnonzero(bad)}")
    return rows


def _take_size(width: float, height: float) -> tuple[float, float]:
    size = check_number(width, "width"), check_number(height, "height")
    if not all(size):
        raise ValueError(f"width and height must be positive, received {width} and {height}")
    return size


def read_poses(path: str | os.PathLike[str]) -> tuple[Pose, ...]:
    """Read poses from a JSON file, such as `write_poses` writes.

    Parameters
    ----------
    path : path
        A list of objects, or an object with such a list under "poses". Each has "keypoints", 18 times [x, y] or
        null, and optionally "name"; without, the pose is named by its number, from 1. Other entries are ignored.

    Returns
    -------
    tuple of Pose
        In the order of the file.

    Raises
    ------
    OSError
        When there is no such file.
    ValueError
        When it is not such a file; says which pose.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.poses import read_poses, representative_poses, write_poses
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_poses(pathlib.Path(folder, "poses.json"), representative_poses()[:2])
    ...     [pose.name for pose in read_poses(path)]
    ['1', '2']
    """
    path = Path(path)
    try:
        return _parse_poses(path.read_text(encoding="utf-8"))
    except (TypeError, ValueError) as error:  # of the JSON, of its encoding, or of Pose
        raise ValueError(f"{path} cannot be read as poses: {error}") from error


def _parse_poses(text: str) -> tuple[Pose, ...]:
    content = json.loads(text)
    entries = content.get("poses") if isinstance(content, dict) else content
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "keypoints" in entry for entry in entries):
        raise ValueError('it must hold a list of objects with "keypoints", alone or under "poses"')
    poses = []
    for number, entry in enumerate(entries, 1):
        try:
            poses.append(Pose(entry["keypoints"], entry.get("name", str(number))))
        except (TypeError, ValueError) as error:
            raise ValueError(f"pose number {number}: {error}") from error
    return tuple(poses)


def write_poses(path: str | os.PathLike[str], poses: Sequence[Pose], *, overwrite: bool = False) -> Path:
    """Write poses to a JSON file, whole or not at all; `read_poses` gives exactly the same numbers back.

    Parameters
    ----------
    path : path
        Usually with the suffix ".json".
    poses : sequence of Pose
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError, TypeError
        When the file exists and `overwrite` is False; when `poses` holds anything else.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.poses import read_poses, representative_poses, write_poses
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_poses(pathlib.Path(folder, "poses.json"), representative_poses()[:2])
    ...     [pose.name for pose in read_poses(path)]
    ['1', '2']
    """
    path, poses = Path(path), list(poses)
    if not all(isinstance(pose, Pose) for pose in poses):
        raise TypeError(f"poses must be Pose objects, received {sorted({type(pose).__name__ for pose in poses})}")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists already; name another or pass overwrite=True")
    lines = []
    for pose in poses:
        points = [None if math.isnan(x) else [x, y] for x, y in pose.keypoints.tolist()]
        lines.append(f'  {{"name": {json.dumps(pose.name)}, "keypoints": {json.dumps(points)}}}')
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text('{\n "poses": [\n' + ",\n".join(lines) + "\n ]\n}\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


@cache
def representative_poses() -> tuple[Pose, ...]:
    """The 8 representative poses of the paper, in its order, named "1" to "8".

    They show a person from the front, front right, right, back right, back, back left, and twice from the front
    left. The keypoints were recovered from the released drawings; `Pose.draw` gives these drawings back.

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
    return _parse_poses(source.read_text(encoding="utf-8"))


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
    points = _in_heights(pose, aspect)
    needed = [_NECK, *(i for _, shoulder, hip in _SIDES for i in (shoulder, hip, hip + 1, hip + 2))]
    absent = [KEYPOINTS[i] for i in needed if not pose.present[i]] + ["face"] * (not pose.present[_FACE].any())
    if absent:  # the rest cannot be measured
        return (f"missing: {', '.join(absent)}",)
    trunk = _distance(points, _NECK, _LEFT_HIP)
    if trunk < limits.trunk:
        return (f"trunk {trunk:.2f} of the picture's height, must be at least {limits.trunk:g}",)
    body = (points - points[_NECK]) / trunk

    # No comparison below is true of NaN: what is missing is not at fault.
    faults = []
    missing = int((~pose.present).sum())
    if missing > limits.missing:
        faults.append(f"{missing} keypoints missing, must be at most {limits.missing}")
    beside = (pose.keypoints < -limits.margin) | (pose.keypoints > 1 + limits.margin)
    faults += [f"{KEYPOINTS[i]} outside the picture" for i in np.flatnonzero(beside.any(axis=1))]

    lengths = {"head": (_distance(body, _NECK, 0), limits.head)}
    for side, shoulder, hip in _SIDES:
        lengths |= {
            f"{side} shoulder": (_distance(body, _NECK, shoulder), limits.shoulder),
            f"{side} upper arm": (_distance(body, shoulder, shoulder + 1), limits.arm),
            f"{side} forearm": (_distance(body, shoulder + 1, shoulder + 2), limits.arm),
            f"{side} hip": (_distance(body, _NECK, hip), limits.hip),
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
    """Whether a pose is likely that of a whole, upright pedestrian: no `pose_faults`, with the same parameters.

    Examples
    --------
    >>> from pose2id.poses import pose_valid, representative_poses
    >>> all(pose_valid(pose) for pose in representative_poses())
    True
    """
    return not pose_faults(pose, limits, aspect=aspect)


def _in_heights(pose: Pose, aspect: float) -> NDArray[np.float64]:
    """Keypoints with the picture's height as the unit of both coordinates."""
    if not isinstance(pose, Pose):
        raise TypeError(f"pose must be a Pose, received {type(pose).__name__}")
    return pose.keypoints * _take_size(aspect, 1)


def _distance(points: NDArray[np.float64], one: int, other: int) -> float:
    return math.dist(points[one], points[other])


def _angle(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Degrees between two vectors of the plane, 0 to 180; NaN where a part is missing."""
    return math.degrees(math.atan2(abs(one[0] * other[1] - one[1] * other[0]), one @ other))


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
    points = _in_heights(pose, aspect)
    trunk = math.dist(points[_NECK], (points[8] + points[_LEFT_HIP]) / 2)
    if not trunk > 0:
        return math.nan
    faces = points[0, 0], points[14:16, 0].mean(), points[16:18, 0].mean()
    side = next((float(x - points[_NECK, 0]) for x in faces if math.isfinite(x)), math.nan)
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
    rows = np.asarray(features)
    if rows.dtype.kind not in "fiu":
        raise TypeError(f"features must hold real numbers, received dtype {rows.dtype}")
    if rows.ndim != 2:
        raise ValueError(f"features must have shape (N, D), received {rows.shape}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"features must be finite; not so in rows {np.flatnonzero(~np.isfinite(rows).all(axis=1))}")
    labels = take_labels(ids, len(rows), "ids")
    if len(poses) != len(rows):
        raise ValueError(f"poses must hold one entry for each of the {len(rows)} features, received {len(poses)}")
    count = check_count(count, "count", 1)

    directions = np.array(
        [
            math.nan if pose is None or not pose_valid(pose, aspect=aspect) else pose_direction(pose, aspect=aspect)
            for pose in poses
        ]
    )
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
