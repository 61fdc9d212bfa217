"""Parts from maps and keypoints; loops over images, parts and locations."""

from math import ceil, floor

import numpy as np


def stripes(maps: np.ndarray, count: int, rule: str = "adaptive", reduce: str = "mean") -> np.ndarray:
    n, channels, height, _ = maps.shape
    result = np.zeros((n, count, channels))
    for i, p, c in np.ndindex(*result.shape):
        if rule == "adaptive":
            first, stop = floor(p * height / count), ceil((p + 1) * height / count)
        else:
            first = p * (height // count)
            stop = first + height - (count - 1) * (height // count)
        values = maps[i, c, first:stop]
        result[i, p, c] = values.mean() if reduce == "mean" else values.max()
    return result


def resize(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """One mask (h, w), bilinear, corners on corners."""
    result = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        v = y * (mask.shape[0] - 1) / (height - 1) if height > 1 else 0.0
        u = x * (mask.shape[1] - 1) / (width - 1) if width > 1 else 0.0
        for j, i in np.ndindex(*mask.shape):
            result[y, x] += mask[j, i] * max(0, 1 - abs(v - j)) * max(0, 1 - abs(u - i))
    return result


def masked(maps: np.ndarray, masks: np.ndarray, divide: str = "mask") -> np.ndarray:
    n, channels, height, width = maps.shape
    result = np.zeros((n, masks.shape[1], channels))
    for i, p in np.ndindex(*result.shape[:2]):
        mask = resize(masks[i, p], height, width)
        total = max(mask.sum(), 1e-6) if divide == "mask" else height * width
        result[i, p] = [(mask * maps[i, c]).sum() / total for c in range(channels)]
    return result


def mask_visibility(masks: np.ndarray, binary: bool = True) -> np.ndarray:
    n, channels = masks.shape[:2]
    result = np.zeros((n, channels - 1))
    for i, k in np.ndindex(*result.shape):
        result[i, k] = (masks[i].argmax(axis=0) == k + 1).any() if binary else masks[i, k + 1].max()
    return result


SPINDLE = {
    "head": {0, 1, 2, 5},
    "body": {2, 3, 4, 5, 6, 7, 8, 11},
    "leg": {8, 9, 10, 11, 12, 13},
    "right arm": {2, 3, 4},
    "left arm": {5, 6, 7},
    "right leg": {8, 9, 10},
    "left leg": {11, 12, 13},
}
"""Joints of 14."""


def spindle_boxes(joints: np.ndarray, height: int, width: int, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 7, 4) and visibility (N, 7) of 14 joints (N, 14, 3)."""
    boxes, seen = np.zeros((len(joints), 7, 4)), np.zeros((len(joints), 7), dtype=bool)
    for i, person in enumerate(joints):
        for p, (name, region) in enumerate(SPINDLE.items()):
            known = [person[j, :2] for j in region if person[j, 2] > threshold]
            if known:
                boxes[i, p], seen[i, p] = _box(np.array(known), height, width, name in ("head", "body", "leg")), True
    return boxes, seen


def _box(points: np.ndarray, height: int, width: int, macro: bool) -> list[float]:
    limit = (width, height)
    ends = []
    for axis in (0, 1):
        low, high = points[:, axis].min(), points[:, axis].max()
        margin = 0.2 * (high - low)
        ends.append([min(max(low - margin, 0), limit[axis]), min(max(high + margin, 0), limit[axis])])
    sides = [high - low for low, high in ends]
    for axis in (0, 1):
        if macro:
            more = (max(sides) - sides[axis]) / 2
            ends[axis] = [max(ends[axis][0] - more, 0), min(ends[axis][1] + more, limit[axis])]
    if min(high - low for low, high in ends) < height / 7:
        for axis in (0, 1):
            low, high = ends[axis]
            least, most = (low + high) / 2 - height / 14, (low + high) / 2 + height / 14
            if not macro:
                least, most = min(low, least), max(high, most)
            ends[axis] = [min(max(least, 0), limit[axis]), min(max(most, 0), limit[axis])]
    return [ends[0][0], ends[1][0], ends[0][1], ends[1][1]]


def nearest(value: float) -> int:
    """The nearest whole number; halves go away from 0, as in C."""
    return floor(value + 0.5) if value >= 0 else -floor(-value + 0.5)


def pooled_boxes(
    maps: np.ndarray, boxes: np.ndarray, height: int, width: int, reduce: str, size: tuple[int, int]
) -> np.ndarray:
    n, channels, rows, columns = maps.shape
    result = np.zeros((n, boxes.shape[1], channels, *size))
    for i, p in np.ndindex(n, boxes.shape[1]):
        if not boxes[i, p].any():
            continue
        x1, x2 = (nearest(x * columns / width) for x in boxes[i, p, ::2])
        y1, y2 = (nearest(y * rows / height) for y in boxes[i, p, 1::2])
        tall, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
        for h, w in np.ndindex(*size):
            ys = range(max(y1 + h * tall // size[0], 0), min(y1 - (-(h + 1) * tall // size[0]), rows))
            xs = range(max(x1 + w * wide // size[1], 0), min(x1 - (-(w + 1) * wide // size[1]), columns))
            for c in range(channels):
                values = [maps[i, c, y, x] for y in ys for x in xs]
                if values:
                    result[i, p, c, h, w] = max(values) if reduce == "max" else np.mean(values)
    return result


def bilinear(appearance: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """The mean over locations, not normalised."""
    n, _, height, width = appearance.shape
    result = np.zeros((n, pose.shape[1] * appearance.shape[1]))
    for i, y, x in np.ndindex(n, height, width):
        result[i] += np.outer(pose[i, :, y, x], appearance[i, :, y, x]).ravel() / (height * width)
    return result


def pyramid(maps: np.ndarray, sizes: tuple[int, ...], stride: int) -> np.ndarray:
    height, width = maps.shape[2:]
    columns = [
        maps[:, :, y : y + size, x : x + size].max(axis=(2, 3))
        for size in sizes
        for y in range(0, height - size + 1, stride)
        for x in range(0, width - size + 1, stride)
    ]
    return np.stack(columns, axis=2)


def differences(f: np.ndarray, g: np.ndarray, size: int) -> np.ndarray:
    """K; K' is that of g and f."""
    result = np.zeros((*f.shape, size, size))
    for i, c, y, x, v, u in np.ndindex(*result.shape):
        row, column = y + v - size // 2, x + u - size // 2
        inside = 0 <= row < f.shape[2] and 0 <= column < f.shape[3]
        result[i, c, y, x, v, u] = f[i, c, y, x] - (g[i, c, row, column] if inside else 0.0)
    return result
