"""Joints of a batch: which are there, and maps of them."""

from __future__ import annotations

import torch

from pose2id.poses import KEYPOINTS


def take_joints(keypoints: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (N, 18, 2) in pixels and confidences (N, 18) in [0, 1]; all 0 for a joint that is not there."""
    if keypoints.ndim != 3 or keypoints.shape[1:] != (len(KEYPOINTS), 3):
        raise ValueError(
            f"keypoints must have shape (N, {len(KEYPOINTS)}, 3), x and y in pixels and confidence, "
            f"received {tuple(keypoints.shape)}"
        )
    there = torch.isfinite(keypoints).all(2) & (keypoints[:, :, 2] > 0)
    points = keypoints[:, :, :2].where(there[:, :, None], 0)
    return points, keypoints[:, :, 2].clamp(max=1).where(there, 0)


def draw_heatmaps(
    keypoints: torch.Tensor, image_size: tuple[int, int], size: tuple[int, int], spread: float = 1.0
) -> torch.Tensor:
    """Maps (N, 19, h, w) of joints (N, 18, 3): a bell around each, as high as its confidence; 0 without it.

    The last one is the background, 1 less the highest of the others, as OpenPose's. `spread` is the standard deviation
    of a bell in locations of the map; OpenPose's are 0.9 wide.
    """
    points, confidence = take_joints(keypoints)
    bells = []
    for axis, (extent, count) in enumerate(zip(image_size[::-1], size[::-1], strict=True)):
        at = torch.arange(count, device=points.device, dtype=points.dtype) + 0.5
        bells.append(torch.exp(-((points[:, :, axis, None] * count / extent - at) ** 2) / (2 * spread**2)))
    across, down = bells
    maps = confidence[:, :, None, None] * down[:, :, :, None] * across[:, :, None, :]
    return torch.cat([maps, 1 - maps.amax(1, keepdim=True)], 1)
