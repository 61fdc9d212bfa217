"""A person's pose: 18 keypoints as fractions of the picture; from pixels, from COCO's 17, drawn as a pose map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import require
from pose2id.poses.drawing import draw_skeleton
from pose2id.validation import check_count, check_number

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["KEYPOINTS", "LEFT_HIP", "NECK", "Pose", "in_heights", "take_size"]

KEYPOINTS = (
    *("nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow", "left_wrist"),
    *("right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle"),
    *("right_eye", "left_eye", "right_ear", "left_ear"),
)
"""Names of the rows of `Pose.keypoints`, the OpenPose order; right and left are the person's own."""
NECK, LEFT_HIP = 1, 11
"""Rows of two of them."""
_FROM_COCO = (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)  # 17: the neck, put after the others
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
    def from_pixels(
        cls, keypoints: Any, width: float, height: float, name: str = "", *, scores: Any = None, threshold: float = 0.0
    ) -> Pose:
        """A pose from 18 keypoints, as for `Pose` but in pixels of a picture of that width and height.

        Parameters
        ----------
        keypoints : array_like, shape (18, 2) or (18, 3)
            x and y; a third column is taken for `scores`. What lies at exactly (0, 0) is missing, whatever its score:
            that is how OpenPose and others write what they did not find.
        width, height : float
            Size of the picture, positive.
        name : str
            As for `Pose`.
        scores : array_like, shape (18,), optional
            Keypoints whose score is not above `threshold`, or NaN, are missing.
        threshold : float
            See `scores`; at 0, whatever was found is there.

        Raises
        ------
        TypeError, ValueError
            As `Pose`; for `scores` of another shape, or beside a third column.

        Examples
        --------
        >>> from pose2id.poses import Pose
        >>> found = [(32, 16, 0.9), (32, 40, 0.8), *[(0, 0, 0)] * 16]  # nose and neck, as OpenPose writes them
        >>> Pose.from_pixels(found, 64, 128).keypoints[:3].tolist()
        [[0.5, 0.125], [0.5, 0.3125], [nan, nan]]
        """
        rows = _take_pixels(keypoints, scores, len(KEYPOINTS), "keypoints", threshold)
        return cls(rows / take_size(width, height), name)

    @classmethod
    def from_coco17(
        cls, points: Any, scores: Any = None, *, width: float, height: float, threshold: float = 0.3, name: str = ""
    ) -> Pose:
        """A pose from the 17 keypoints of COCO, in pixels; the neck is the middle of the shoulders.

        Parameters
        ----------
        points : array_like, shape (17, 2) or (17, 3)
            Pixels, in COCO's order: nose, left eye, right eye, left ear, right ear, then left and right shoulder,
            elbow, wrist, hip, knee, ankle. A missing one is a row of NaN, None in a sequence, or at exactly (0, 0). A
            third column is taken for `scores`.
        scores : array_like, shape (17,), optional
            Keypoints whose score is not above `threshold` are missing; None: all that are given are there. COCO's
            visibility flags (0 is missing) can be given as they are.
        width, height : float
            Size of the picture, positive.
        threshold : float
            See `scores`; 0.3 is DWPose's.
        name : str
            As for `Pose`.

        Returns
        -------
        Pose
            Without a neck if a shoulder is missing.
        """
        rows = _take_pixels(points, scores, 17, "points", threshold)
        neck = (rows[5] + rows[6]) / 2
        return cls.from_pixels(np.vstack([rows, neck])[list(_FROM_COCO)], width, height, name)

    def draw(
        self, width: int = 64, height: int = 128, *, stick_width: int | None = None, joint_radius: int | None = None
    ) -> Image.Image:
        """The pose map that the pose encoder takes: canonical DWPose colours on black.

        At 64 x 128 the pixels are those of the released pose files: limbs are filled ellipses, the canvas is darkened
        to 0.6, joints are discs, positions are cut to whole pixels.

        Parameters
        ----------
        width, height : int
            Size of the pose map in pixels. The network was trained on pose maps of 64 x 128, enlarged.
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


def _take_pixels(points: Any, scores: Any, count: int, name: str, threshold: float) -> NDArray[np.float64]:
    """Points in pixels, with or without a column of scores, as float64 (count, 2); NaN for what was not found."""
    threshold = check_number(threshold, "threshold", -math.inf)
    array = _take_array(points, count, name)
    if array.shape == (count, 3):
        if scores is not None:
            raise ValueError(f"scores must not be given beside the third column of {name}; leave out one of them")
        array, scores = array[:, :2], array[:, 2]
    rows = _take_rows(array, count, name)
    if scores is not None:
        values = np.asarray(scores)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"scores must be real numbers, received dtype {values.dtype}")
        if values.shape != (count,):
            raise ValueError(f"scores must have shape ({count},), one for each point; received {values.shape}")
        rows[~(values > threshold)] = np.nan
    rows[(rows == 0).all(axis=1)] = np.nan
    return rows


def _take_rows(points: Any, count: int, name: str) -> NDArray[np.float64]:
    """A float64 copy (count, 2) with NaN for what is missing."""
    array = _take_array(points, count, name)
    if array.shape != (count, 2):
        raise ValueError(f"{name} must have shape ({count}, 2), received {array.shape}")
    rows: NDArray[np.float64] = array.astype(np.float64)
    bad = np.isinf(rows).any(axis=1) | (np.isnan(rows).sum(axis=1) == 1)
    if bad.any():
        raise ValueError(f"{name} must be finite or NaN in both coordinates; not so in rows {np.flatnonzero(bad)}")
    return rows


def _take_array(points: Any, count: int, name: str) -> NDArray[Any]:
    """Points as an array of real numbers, None as NaN."""
    if not hasattr(points, "__array__"):
        if isinstance(points, str | bytes | dict) or not hasattr(points, "__iter__"):
            raise TypeError(f"{name} must be an array or a sequence of points, received {type(points).__name__}")
        points = list(points)
        width = next((len(point) for point in points if hasattr(point, "__len__")), 2)
        points = [(math.nan,) * width if point is None else point for point in points]
    try:
        array = np.asarray(points)
    except ValueError as error:
        raise ValueError(f"{name} must have shape ({count}, 2); received points of different lengths") from error
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name} must be real numbers (NaN or None for a missing point), received dtype {array.dtype}")
    return array


def take_size(width: float, height: float) -> tuple[float, float]:
    """Width and height, finite and positive."""
    size = check_number(width, "width"), check_number(height, "height")
    if not all(size):
        raise ValueError(f"width and height must be positive, received {width} and {height}")
    return size


def in_heights(pose: Pose, aspect: float) -> NDArray[np.float64]:
    """Keypoints with the picture's height as the unit of both coordinates."""
    if not isinstance(pose, Pose):
        raise TypeError(f"pose must be a Pose, received {type(pose).__name__}")
    return pose.keypoints * take_size(aspect, 1)
