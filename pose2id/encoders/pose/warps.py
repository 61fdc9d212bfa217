"""Parts of a picture, cut out along the bones, upright, each put where it belongs: a person in one fixed pose.

PIE calls it a PoseBox, PDC the modified part image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from pose2id.encoders.pose.joints import take_joints

THRESHOLD = 0.3
"""Only joints surer than this are used, as by `pose2id.parts.part_boxes`."""


class Piece(NamedTuple):
    """A part of the body along a segment, and its place.

    Attributes
    ----------
    start, end : joints
        The segment goes from the middle of some joints to that of others, of those that are there. Where only one end
        is there, it has no length and is upright.
    longer, wide : float
        What is cut out goes so much farther at both ends, and so far to both sides; in heights of the picture.
    rows, columns : (first, end)
        Where it is put: in sixteenths of the height and eighths of the width.
    """

    start: tuple[int, ...]
    end: tuple[int, ...]
    longer: float
    wide: float
    rows: tuple[int, int]
    columns: tuple[int, int]


def warp_pieces(
    images: torch.Tensor,
    keypoints: torch.Tensor,
    pieces: Sequence[Piece],
    adjust: Sequence[Callable[[torch.Tensor], torch.Tensor]] | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the pieces out of images (N, 3, H, W) and put them in their places, on 0; `adjust` changes each before.

    Returns the new images (N, 3, H, W), and (N, P) bools: False for a piece without any joint, which is left out.
    """
    points, confidence = take_joints(keypoints.to(images.dtype))
    height, width = images.shape[2:]
    canvas, seen = torch.zeros_like(images), []
    if not len(images):  # of which torch cuts nothing
        return canvas, canvas.new_zeros(0, len(pieces), dtype=torch.bool)
    for number, piece in enumerate(pieces):
        top, bottom = (round(row * height / 16) for row in piece.rows)
        left, right = (round(column * width / 8) for column in piece.columns)
        cut, there = _cut(images, points, confidence > THRESHOLD, piece, (bottom - top, right - left))
        canvas[:, :, top:bottom, left:right] = cut if adjust is None else adjust[number](cut)
        seen.append(there)
    return canvas, torch.stack(seen, 1)


def _cut(
    images: torch.Tensor, points: torch.Tensor, there: torch.Tensor, piece: Piece, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """One piece of all images, (N, 3, *size), and in which of them it is."""
    (start, first), (end, last) = (_middle(points, there, joints) for joints in (piece.start, piece.end))
    start, end = start.where(first, end), end.where(last, start)  # both 0 where neither is there
    height, width = images.shape[2:]
    length = (end - start).norm(dim=1, keepdim=True)
    upright = torch.tensor([0.0, 1.0], dtype=points.dtype, device=points.device)
    along = ((end - start) / length.clamp(min=1e-6)).where(length > 1e-6, upright)
    across = torch.stack([along[:, 1], -along[:, 0]], 1)  # not mirrored
    columns = [piece.wide * height * across, (length / 2 + piece.longer * height) * along, (start + end) / 2]
    matrix = torch.stack(columns, 2) * (2 / torch.tensor([[width], [height]], dtype=points.dtype, device=points.device))
    matrix[:, :, 2] -= 1
    grid = functional.affine_grid(matrix, [len(images), images.shape[1], *size], align_corners=False)
    seen = (first | last)[:, 0]
    return functional.grid_sample(images, grid, align_corners=False) * seen[:, None, None, None], seen


def _middle(points: torch.Tensor, there: torch.Tensor, joints: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (N, 2) of those joints that are there, 0 without any; and (N, 1) whether there is one."""
    known = there[:, list(joints), None]
    count = known.sum(1)
    return (points[:, list(joints)] * known).sum(1) / count.clamp(min=1), count > 0
