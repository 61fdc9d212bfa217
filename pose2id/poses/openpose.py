"""What OpenPose writes as JSON: people with 18 or 25 keypoints, in pixels or as fractions.

The form is that of github.com/CMU-Perceptual-Computing-Lab/openpose, doc/02_output.md: ``pose_keypoints_2d`` holds x, y
and confidence of each keypoint, zeros for one that was not found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.poses.pose import Pose, take_size
from pose2id.validation import check_number

__all__ = ["parse_people"]

_KEYS = ("pose_keypoints_2d", "pose_keypoints")
_ROWS = {54: [*range(18)], 75: [*range(8), *range(9, 19)]}
"""By how many numbers there are, which keypoints are ours: all of COCO's 18; of BODY_25 all but the middle of the hips
(8) and the feet (19 to 24), which follow the ears."""
_FARTHEST = 0.5
"""Found keypoints lie inside the picture, or so many pictures beside it where somebody has moved them."""


def parse_people(content: Mapping[str, Any], size: tuple[float, float] | None, title: str) -> tuple[Pose, ...]:
    """The poses in an object with "people"; named by number, or with a title by that, and number where several."""
    people = content["people"]
    if not isinstance(people, list):
        raise TypeError(f"people must be a list, received {type(people).__name__}")
    found = [_take_person(person, number) for number, person in enumerate(people, 1)]
    width, height = _find_size(content, size, found)
    poses = []
    for number, rows in enumerate(found, 1):
        with np.errstate(over="ignore"):  # infinite is outside
            shares = rows[:, :2] / (width, height)
        if ((shares < -_FARTHEST) | (shares > 1 + _FARTHEST)).any():
            raise ValueError(
                f"person number {number} lies outside a picture of {width:g} x {height:g}; give the size of the one in "
                "which these keypoints were found"
            )
        poses.append(Pose.from_pixels(rows, width, height, _name(title, number, len(found))))
    return tuple(poses)


def _take_person(person: Any, number: int) -> NDArray[np.float64]:
    """x, y and confidence (18, 3) of a person, zeros for what was not found."""
    try:
        key = next((key for key in _KEYS if isinstance(person, dict) and key in person), None)
        if key is None:
            raise ValueError(f"it must be an object with {_KEYS[0]!r}")
        values = person[key]
        if not isinstance(values, list) or len(values) not in _ROWS:
            held = f"{len(values)} entries" if isinstance(values, list) else type(values).__name__
            raise ValueError(
                f"{key} must be one list of 54 numbers (18 keypoints) or 75 (25 keypoints, BODY_25), x, y and "
                f"confidence of each; received {held}"
            )
        numbers = [check_number(value, f"{key}[{i}]", -math.inf) for i, value in enumerate(values)]
    except (TypeError, ValueError) as error:
        raise ValueError(f"person number {number}: {error}") from error
    rows = np.array(numbers).reshape(-1, 3)[_ROWS[len(numbers)]]
    rows[rows[:, 2] <= 0] = 0
    return rows


def _find_size(
    content: Mapping[str, Any], size: tuple[float, float] | None, found: list[NDArray[np.float64]]
) -> tuple[float, float]:
    """What coordinates are divided by: 1 where they are fractions, else the size of the picture."""
    if "canvas_width" in content or "canvas_height" in content:
        own = take_size(content.get("canvas_width", 0), content.get("canvas_height", 0))
        if size not in (None, own):
            raise ValueError(f"size is {size}, but the file is of a canvas of {own}; leave size out")
        size = own
    low = min((float(rows[:, :2].min()) for rows in found), default=0.0)
    high = max((float(rows[:, :2].max()) for rows in found), default=0.0)
    if low >= 0 and high <= 1:
        return 1.0, 1.0
    if low >= -1 and high <= 1:
        raise ValueError("coordinates from -1 to 1 are not read; let OpenPose write with --keypoint_scale 0 or 3")
    if size is None:
        raise ValueError(
            f"its coordinates, up to {high:g}, are pixels, and it does not say of how large a picture; give "
            "size=(width, height) (--pose-size WIDTHxHEIGHT), or let OpenPose write with --keypoint_scale 3"
        )
    return size


def _name(title: str, number: int, count: int) -> str:
    if not title:
        return str(number)
    return title if count == 1 else f"{title}-{number}"
