"""Parts from keypoints: boxes of regions of the body, and feature maps pooled in boxes (Spindle Net, GLAD).

Boxes are x1, y1, x2, y2 in pixels of the image, floats, not rounded. Joints of 14 (CPM), 17 (COCO) and 18 (OpenPose)
become the 18 of `pose2id.poses.KEYPOINTS`, of which the first 14 are CPM's but for the first: the top of the head
there, the nose here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import ArrayT, Kind, take_array, take_floats
from pose2id.parts.maps import check_same_images, name_rows, pool_blocks, take_extent, take_maps
from pose2id.poses import KEYPOINTS, Pose
from pose2id.threads import fit_threads
from pose2id.validation import check_choice, check_number

if TYPE_CHECKING:
    from pose2id.arrays import Array

MARGIN = 0.2
"""A box grows by this part of its own width and height on each side."""
THINNEST = 7
"""No side of a box is shorter than the image's height divided by this, unless the image ends there."""

# Joints of each region, and whether its box is "macro": made square, as far as the image goes.
SPINDLE = {
    "head": ((0, 1, 2, 5, 14, 15, 16, 17), True),
    "body": ((2, 3, 4, 5, 6, 7, 8, 11), True),
    "leg": ((8, 9, 10, 11, 12, 13), True),
    "right arm": ((2, 3, 4), False),
    "left arm": ((5, 6, 7), False),
    "right leg": ((8, 9, 10), False),
    "left leg": ((11, 12, 13), False),
}
THREE = {
    "head": ((0, 1, 14, 15, 16, 17), False),
    "upper body": ((1, 2, 3, 4, 5, 6, 7, 8, 11), False),
    "lower body": ((8, 9, 10, 11, 12, 13), False),
}
SCHEMES = {"spindle": SPINDLE, "three": THREE}
# Which given joint is each of the 18; the number of joints itself stands for one that is not given.
_ORDER = {
    14: (*range(14), 14, 14, 14, 14),
    17: (0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3),
    18: tuple(range(18)),
}
_NECK, _SHOULDERS = 1, [2, 5]


@overload
def part_boxes(
    keypoints: ArrayT, image_size: tuple[int, int], *, scheme: str = ..., threshold: float = ...
) -> tuple[ArrayT, ArrayT]: ...


@overload
def part_boxes(
    keypoints: Pose | Sequence[Pose], image_size: tuple[int, int], *, scheme: str = ..., threshold: float = ...
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]: ...


@fit_threads
def part_boxes(
    keypoints: Array | Pose | Sequence[Pose],
    image_size: tuple[int, int],
    *,
    scheme: str = "spindle",
    threshold: float = 0.3,
) -> tuple[Array, Array]:
    """Boxes of the regions of a body, from its joints (Spindle Net's seven, or three).

    A box goes around the valid joints of its region, grows by 0.2 of its width and height on each side, and is cut off
    at the image's border. A side shorter than a seventh of the image's height is stretched to that.

    Parameters
    ----------
    keypoints : (N, J, 3) numpy array or torch tensor, or Pose, or sequence of Pose
        x, y in pixels and the confidence of 14 joints (CPM: top of head, neck, right and left shoulder, elbow, wrist,
        right and left hip, knee, ankle), 17 (COCO) or 18 (OpenPose, `pose2id.poses.KEYPOINTS`). What a `Pose` has
        counts as certain. For COCO the neck is the middle of the shoulders. Where there is no top of the head, nose,
        eyes and ears stand for it.
    image_size : (height, width)
        Of the image in pixels.
    scheme : {"spindle", "three"}
        "spindle": head, body, legs, which are made square as far as the image goes, then right arm, left arm, right
        leg, left leg. "three": head, upper body, lower body as in GLAD, whose margins are not published: these are
        ours.
    threshold : float
        A joint is valid if its confidence is above this, and x and y are neither NaN nor inf. Spindle Net used every
        joint: -1 does the same.

    Returns
    -------
    boxes : (N, P, 4) array
        x1, y1, x2, y2 in pixels, not rounded; of the kind of `keypoints`, float64 for poses. All 0 for a region without
        a valid joint, which `pool_boxes` turns into zeros.
    visibility : (N, P) bools
        False for a region without a valid joint.

    Raises
    ------
    TypeError, ValueError
        For other arrays, another number of joints, sizes that are no positive integers.

    References
    ----------
    Zhao et al., "Spindle Net", CVPR 2017; Wei et al., "GLAD", ACM MM 2017.

    Examples
    --------
    >>> from pose2id.parts import part_boxes
    >>> from pose2id.poses import representative_poses
    >>> boxes, visibility = part_boxes(representative_poses(), (128, 64), scheme="three")
    >>> boxes.shape, visibility.all().item()
    ((8, 3, 4), True)
    >>> boxes[0, 0].round(1).tolist()  # the head of a person seen from the front
    [19.7, 4.4, 47.2, 27.9]
    """
    height, width = take_extent(image_size, "image_size")
    check_choice(scheme, "scheme", tuple(SCHEMES))
    threshold = check_number(threshold, "threshold", -np.inf)
    joints, kind = _take_joints(keypoints, height, width, threshold)
    regions = [(joints[:, list(at)], macro) for at, macro in SCHEMES[scheme].values()]
    found = [_region_box(some, height, width, macro=macro) for some, macro in regions]
    seen = torch.stack([_valid(some).any(dim=1) for some, _ in regions], dim=1)
    return kind.give_back(torch.stack(found, dim=1)), kind.give_back(seen, torch.bool)


def _take_joints(keypoints: Any, height: int, width: int, threshold: float) -> tuple[torch.Tensor, Kind]:
    """The 18 joints (N, 18, 2) as float64 in pixels; NaN for those that are not given or not valid."""
    poses = [keypoints] if isinstance(keypoints, Pose) else keypoints
    if isinstance(poses, Sequence) and not isinstance(poses, str) and all(isinstance(pose, Pose) for pose in poses):
        keypoints = np.full((len(poses), len(KEYPOINTS), 3), np.inf)  # sure above any threshold
        for row, pose in zip(keypoints, poses, strict=True):
            row[:, :2] = pose.keypoints * (width, height)
    elif not isinstance(poses, np.ndarray | torch.Tensor):
        raise TypeError(
            "keypoints must be a numpy array or a torch tensor, a Pose or a sequence of Pose, "
            f"received {type(poses).__name__}"
        )
    given, kind = take_floats(keypoints, "keypoints", "(N, J, 3)")
    count = given.shape[1]
    if count not in _ORDER or given.shape[2] != 3:
        raise ValueError(
            "keypoints must have shape (N, J, 3), x, y and confidence of 14, 17 or 18 joints, "
            f"received {tuple(given.shape)}"
        )
    # In the dtype of the confidences, so that float32's 0.3 is not above 0.3.
    sure = given[:, :, 2] > torch.tensor(threshold, dtype=given.dtype)
    joints = given[:, :, :2].to(torch.float64)
    joints = joints.where((sure & torch.isfinite(joints).all(dim=2))[:, :, None], torch.nan)
    joints = torch.cat([joints, torch.full_like(joints[:, :1], torch.nan)], dim=1)[:, list(_ORDER[count])]
    if count == 17:
        joints[:, _NECK] = joints[:, _SHOULDERS].mean(dim=1)
    return joints, kind


def _valid(joints: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(joints[:, :, 0])


def _region_box(joints: torch.Tensor, height: int, width: int, *, macro: bool) -> torch.Tensor:
    """Boxes (N, 4) around the valid ones of joints (N, k, 2); Spindle Net's rule."""
    valid = _valid(joints)
    limit = torch.tensor([width, height], dtype=joints.dtype, device=joints.device)

    def clip(corner: torch.Tensor) -> torch.Tensor:
        return torch.minimum(corner.clamp(min=0), limit)

    low = joints.masked_fill(~valid[:, :, None], torch.inf).amin(dim=1)
    high = joints.masked_fill(~valid[:, :, None], -torch.inf).amax(dim=1)
    some = valid.any(dim=1)[:, None]
    low, high = low.where(some, 0), high.where(some, 0)
    margin = MARGIN * (high - low)
    low, high = clip(low - margin), clip(high + margin)
    if macro:
        side = high - low
        growth = (side.amax(dim=1, keepdim=True) - side) / 2
        low, high = clip(low - growth), clip(high + growth)
    thin = (high - low).amin(dim=1, keepdim=True) < height / THINNEST
    center, half = (low + high) / 2, height / THINNEST / 2
    least, most = clip(center - half), clip(center + half)
    if not macro:
        least, most = torch.minimum(low, least), torch.maximum(high, most)
    boxes = torch.cat([least.where(thin, low), most.where(thin, high)], dim=1)
    return boxes.where(some, 0)


@fit_threads
def pool_boxes(
    maps: ArrayT,
    boxes: ArrayT,
    image_size: tuple[int, int],
    *,
    reduce: str = "max",
    size: tuple[int, int] | None = None,
) -> ArrayT:
    """Pool maps within boxes, as Caffe's ROI pooling, which Spindle Net uses.

    Corners are rounded to whole locations of the map, halves away from 0, and belong to the box; it is cut into `size`
    bins, from floor to ceil, which may share a row.

    Parameters
    ----------
    maps : (N, C, H, W) numpy array or torch tensor
        float16, bfloat16, float32 or float64; finite.
    boxes : (N, P, 4) array of the same kind of container
        x1, y1, x2, y2 in pixels of the image; real numbers.
    image_size : (height, width)
        Of the image in pixels; the maps show all of it.
    reduce : {"max", "mean"}
        Over the locations of a bin.
    size : (height, width), optional
        Bins of each box. None: one for the whole box.

    Returns
    -------
    (N, P, C) array of the kind of `maps`, or (N, P, C, height, width) with a size
        0 for a bin without a location, outside the map, and for a box that is all 0, which `part_boxes` gives for a
        region that is not seen.

    Raises
    ------
    TypeError, ValueError
        For other arrays, different N or kind, NaN or inf (the rows are named), boxes whose second corner lies before
        the first, other options.

    References
    ----------
    Girshick, "Fast R-CNN", ICCV 2015; Zhao et al., "Spindle Net", CVPR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import pool_boxes
    >>> maps = np.arange(16.0).reshape(1, 1, 4, 4)
    >>> boxes = np.array([[[0, 0, 3, 1], [2, 4, 4, 6]]])
    >>> pool_boxes(maps, boxes, (8, 8))[0, :, 0].tolist()
    [6.0, 14.0]
    >>> pool_boxes(maps, boxes, (8, 8), reduce="mean")[0, :, 0].tolist()
    [3.0, 11.5]
    """
    tensor, kind = take_maps(maps)
    corners, other = _take_boxes(boxes)
    height, width = take_extent(image_size, "image_size")
    check_choice(reduce, "reduce", ("max", "mean"))
    bins = (1, 1) if size is None else take_extent(size, "size")
    check_same_images((tensor, kind), (corners, other), ("maps", "boxes"))
    rows = _bins(corners[:, :, 1::2], height, tensor.shape[2], bins[0])
    columns = _bins(corners[:, :, 0::2], width, tensor.shape[3], bins[1])
    rows[(corners == 0).all(dim=2)] = 0

    def mean(block: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        strips = torch.einsum("bcyx,bphy->bpchx", block, _shares(y, block.shape[2], block.dtype))
        return torch.einsum("bpchx,bpwx->bpchw", strips, _shares(x, block.shape[3], block.dtype))

    # float32 holds the places in a map whatever the dtype of the maps.
    found = pool_blocks(_pool_largest if reduce == "max" else mean, tensor, rows.float(), columns.float())
    return kind.give_back(found[:, :, :, 0, 0] if size is None else found)  # type: ignore[no-any-return]


def _take_boxes(boxes: Any) -> tuple[torch.Tensor, Kind]:
    """Boxes (N, P, 4) as float64, finite, corners in order."""
    given, kind = take_array(boxes, "boxes")
    if given.ndim != 3 or given.shape[2] != 4 or given.shape[1] == 0:
        raise ValueError(f"boxes must have shape (N, P, 4) with P >= 1, received {tuple(given.shape)}")
    corners = given.to(torch.float64)
    wrong = ~torch.isfinite(corners).all(dim=2) | (corners[:, :, 2:] < corners[:, :, :2]).any(dim=2)
    if bool(wrong.any()):
        raise ValueError(
            "boxes must be finite x1, y1, x2, y2 with x1 <= x2 and y1 <= y2, received others in "
            f"{name_rows(wrong.any(dim=1))}"
        )
    return corners, kind


def _bins(ends: torch.Tensor, extent: int, length: int, count: int) -> torch.Tensor:
    """Where the bins of intervals (N, P, 2) of an image `extent` long lie in a map of `length` locations.

    First location and the one after the last, (N, P, count, 2), within the map. Whole numbers throughout, so that no
    bin is a location too wide by rounding.
    """
    scaled = (ends * length / extent).clamp(-(2.0**31), 2.0**31)
    rounded = (scaled.sign() * (scaled.abs() + 0.5).floor()).long()
    first, last = rounded[:, :, :1], rounded[:, :, 1:]
    inside = (last - first + 1).clamp(min=1)
    number = torch.arange(count, device=ends.device)
    start = first + number * inside // count
    stop = first - (-(number + 1) * inside // count)
    return torch.stack([start, stop], dim=3).clamp(0, length)


class _Entries(NamedTuple):
    """Values (n, L, K), and where in the map they are; None where nobody asks."""

    values: torch.Tensor
    places: torch.Tensor | None


def _pool_largest(block: torch.Tensor, y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The largest of each bin, (b, P, C, h, w); its gradient goes to one of equal ones."""
    (b, c, height, width), (p, h), w = block.shape, y.shape[1:3], x.shape[2]
    if not b:
        return block.new_zeros(0, p, c, h, w) + block.sum()  # the sum, 0, still says whether a gradient is wanted
    places = None
    if block.requires_grad:
        number = torch.arange(height * width, device=block.device).view(height, 1, width)
        places = number.expand(-1, c, -1).flatten(1).expand(b, -1, -1)
    with torch.no_grad():
        rows = _Entries(block.transpose(1, 2).flatten(2), places)  # (b, H, C * W)
        strips, low = _take_largest(rows, y.flatten(1, 2).long())  # (b, P * h, C * W)
        columns = [
            None if part is None else part.view(b, p, h, c, width).permute(0, 1, 4, 2, 3).reshape(b * p, width, h * c)
            for part in strips
        ]
        found, narrow = _take_largest(_Entries(*columns), x.flatten(0, 1).long())  # type: ignore[arg-type]
        empty = low.view(b, p, 1, h, 1) | narrow.view(b, p, 1, 1, w)
        values, at = (None if part is None else part.view(b, p, w, h, c).permute(0, 1, 4, 3, 2) for part in found)
    if at is not None:
        values = block.flatten(2).gather(2, at.transpose(1, 2).flatten(2)).view(b, c, p, h, w).transpose(1, 2)
    return torch.as_tensor(values).masked_fill(empty, 0)


def _take_largest(entries: _Entries, ranges: torch.Tensor) -> tuple[_Entries, torch.Tensor]:
    """The largest (n, Q, K) within each of `ranges` (n, Q, 2) along the second axis, and which ranges are empty.

    A range is covered by two of the longest power of two that fits, whose largest are known: a table of all of them
    takes one comparison each, and no range is gone through.
    """
    sizes = ranges[:, :, 1] - ranges[:, :, 0]
    tables, span, longest = [entries], 1, int(sizes.max())
    while 2 * span <= longest:
        parts = [(part, part) if part is None else (part[:, :-span], part[:, span:]) for part in tables[-1]]
        tables.append(_larger(*map(_Entries._make, zip(*parts, strict=True))))
        span *= 2
    counts = torch.tensor([0, *(table.values.shape[1] for table in tables)], device=ranges.device).cumsum(0)
    level = sizes.clamp(min=1).double().log2().long()
    first = counts[level] + counts[-1] * torch.arange(len(ranges), device=ranges.device)[:, None]
    flat = [None if part[0] is None else torch.cat(part, 1).flatten(0, 1) for part in zip(*tables, strict=True)]
    last = len(ranges) * int(counts[-1]) - 1
    ends = []
    for end in (ranges[:, :, 0], ranges[:, :, 1] - 2**level):
        at = (first + end.clamp(min=0)).clamp(max=last).flatten()  # an empty range may lie anywhere
        ends.append(_Entries._make(None if part is None else part.index_select(0, at) for part in flat))
    return _larger(*ends), sizes <= 0


def _larger(one: _Entries, other: _Entries) -> _Entries:
    if one.places is None or other.places is None:
        return _Entries(torch.maximum(one.values, other.values), None)
    later = other.values > one.values
    return _Entries(other.values.where(later, one.values), other.places.where(later, one.places))


def _shares(ranges: torch.Tensor, length: int, dtype: torch.dtype) -> torch.Tensor:
    """Weights (b, P, count, length) of the mean over each of `ranges` (b, P, count, 2); 0 for an empty one."""
    at = torch.arange(length, device=ranges.device)
    inside = ((at >= ranges[..., :1]) & (at < ranges[..., 1:])).to(dtype)
    return inside / inside.sum(dim=3, keepdim=True).clamp(min=1)
