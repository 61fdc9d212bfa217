"""Pose maps as pixels: the skeletons that DWPose draws with OpenCV, reproduced with numpy.

OpenCV's ellipse2Poly, fillConvexPoly and circle, to the pixel, also where a limb leaves the picture.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)),
    *((1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
"""Pairs of keypoints that are joined, in the order in which they are drawn."""
COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0)),
    *((0, 255, 0), (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255)),
    *((0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
"""DWPose's colours, RGB: the first 17 for the limbs, all 18 for the keypoints."""


def draw_skeleton(points: NDArray[np.float64], width: int, height: int, stick: int, radius: int) -> NDArray[np.uint8]:
    """Keypoints in pixels (18, 2) as an RGB array (height, width, 3)."""
    return _draw(points.astype(np.float64).tobytes(), width, height, stick, radius).copy()


@lru_cache(maxsize=16)  # the eight representative poses are drawn again and again
def _draw(coordinates: bytes, width: int, height: int, stick: int, radius: int) -> NDArray[np.uint8]:
    points = np.frombuffer(coordinates).reshape(18, 2)
    canvas = np.zeros((height, width, 3), np.uint8)
    for (first, second), color in zip(LIMBS, COLORS, strict=False):
        if not np.isfinite(points[[first, second]]).all():
            continue
        (x1, y1), (x2, y2) = points[first].tolist(), points[second].tolist()
        half_length = ((y1 - y2) ** 2 + (x1 - x2) ** 2) ** 0.5 / 2
        angle = math.degrees(math.atan2(y1 - y2, x1 - x2))
        centre = int((x1 + x2) / 2), int((y1 + y2) / 2)
        _fill_polygon(canvas, _ellipse_outline(centre, int(half_length), stick, int(angle)), color)
    canvas = (canvas * 0.6).astype(np.uint8)
    for (x, y), color in zip(points.tolist(), COLORS, strict=True):
        if math.isfinite(x):
            _fill_disc(canvas, int(x), int(y), radius, color)
    return canvas


@cache
def _sines() -> NDArray[np.float64]:
    """Sines of 0 to 450 degrees, as exact as in OpenCV's table: 7 decimals, float32."""
    return np.round(np.sin(np.deg2rad(np.arange(451))), 7).astype(np.float32).astype(np.float64)


def _ellipse_outline(centre: tuple[int, int], a: int, b: int, angle: int) -> NDArray[np.int64]:
    """Corners (P, 2) of an ellipse, one for each degree, rounded to pixels; what cv2.ellipse2Poly gives."""
    sines, degrees = _sines(), np.arange(361)
    along, across = a * sines[450 - degrees], b * sines[degrees]
    cosine, sine = sines[450 - angle % 360], sines[angle % 360]
    x, y = centre[0] + along * cosine - across * sine, centre[1] + along * sine + across * cosine
    corners: NDArray[np.int64] = np.rint(np.stack([x, y], axis=1)).astype(np.int64)
    return corners[np.r_[True, (corners[1:] != corners[:-1]).any(axis=1)]]


def _fill_polygon(canvas: NDArray[np.uint8], corners: NDArray[np.int64], color: tuple[int, int, int]) -> None:
    """Fill a convex polygon as cv2.fillConvexPoly does: in each row all between its two sides, and its outline.

    The two round differently: the sides are followed in steps of 1 / 65536 pixel, and on the outline a half is
    rounded towards the left end of an edge.
    """
    height, width = canvas.shape[:2]
    starts, ends = np.roll(corners, 1, axis=0), corners

    low, high = _sort(starts, ends, axis=1)  # from top to bottom
    run, rows = (high - low).T
    doubled = run * 2**17 + rows
    slope = np.sign(doubled) * (np.abs(doubled) // np.maximum(2 * rows, 1))
    k = np.arange(rows.max(initial=0))[:, None]  # (rows, edges)
    x, y = (low[:, 0] * 2**16 + k * slope + 2**15) >> 16, low[:, 1] + k
    seen = (k < rows) & (y >= 0) & (y < height)
    left, right = np.full(height, width), np.full(height, -1)
    np.minimum.at(left, y[seen], x[seen])
    np.maximum.at(right, y[seen], x[seen])
    columns = np.arange(width)
    canvas[(columns >= left[:, None]) & (columns <= right[:, None])] = color

    low, high = _sort(*_clip(starts, ends, width, height), axis=0)  # from left to right
    run, rise = (high - low).T
    steps, shorter = np.maximum(run, np.abs(rise)), np.minimum(run, np.abs(rise))
    k = np.arange(steps.max(initial=0) + 1)[:, None]  # (steps, edges)
    aside = (2 * k * shorter + steps - 1) // np.maximum(2 * steps, 1)
    flat, seen = run >= np.abs(rise), k <= steps
    x = low[:, 0] + np.where(flat, k, aside)
    y = low[:, 1] + np.where(flat, aside, k) * np.sign(rise)
    canvas[y[seen], x[seen]] = color


def _sort(starts: NDArray[np.int64], ends: NDArray[np.int64], axis: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The two ends of edges, swapped where the first is the greater one along `axis`."""
    swapped = (starts[:, axis] > ends[:, axis])[:, None]
    return np.where(swapped, ends, starts), np.where(swapped, starts, ends)


def _clip(
    starts: NDArray[np.int64], ends: NDArray[np.int64], width: int, height: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Edges cut to the picture, those outside left out; the new ends are whole pixels, as in cv2.clipLine."""
    starts, ends = starts.copy(), ends.copy()
    for axis, last in ((1, height - 1), (0, width - 1)):
        pair = np.stack([starts[:, axis], ends[:, axis]])
        reaches = ~((pair < 0).all(axis=0) | (pair > last).all(axis=0))
        starts, ends = starts[reaches], ends[reaches]
        for end, other in ((starts, ends), (ends, starts)):
            border = np.clip(end[:, axis], 0, last)
            slope_run = np.where(border == end[:, axis], 1, other[:, axis] - end[:, axis])
            moved = (border - end[:, axis]) * (other - end)[:, 1 - axis] / slope_run
            end[:, 1 - axis] += np.trunc(moved).astype(np.int64)
            end[:, axis] = border
    return starts, ends


def _fill_disc(canvas: NDArray[np.uint8], x: int, y: int, radius: int, color: tuple[int, int, int]) -> None:
    """Fill a disc as cv2.circle does: an eighth of its outline is walked, one pixel aside at most for each row."""
    half_widths: dict[int, int] = {}
    aside, row = radius, 0
    while aside >= row:
        half_widths[row] = max(half_widths.get(row, 0), aside)
        half_widths[aside] = max(half_widths.get(aside, 0), row)
        row += 1
        aside -= aside**2 + row**2 > radius**2
    for offset, half in half_widths.items():
        for at in {y - offset, y + offset}:
            if 0 <= at < len(canvas):
                canvas[at, max(x - half, 0) : max(x + half + 1, 0)] = color
