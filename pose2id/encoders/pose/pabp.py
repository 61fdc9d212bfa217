"""PABP: what is seen at each location, sorted by what part of the body is there."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import euclidean, triplet_loss
from pose2id.encoders.pose.joints import draw_heatmaps
from pose2id.encoders.trunk import Trunk
from pose2id.parts import bilinear_pool
from pose2id.poses import KEYPOINTS


class PABP(Encoder):
    r"""Maps of appearance and of parts, multiplied and pooled: :math:`f = \frac{1}{S} \sum_{xy} p_{xy} \otimes a_{xy}`.

    What differs from the paper:

    - The branch of the pose starts from bells drawn around given joints, not from the maps of OpenPose's network.
    - The pose's channels, 16 for its 128, are few enough for all products; the paper sketches them in 512 numbers.

    Features have length 1, and triplets alone are learned from, as in the paper; parts are the appearance under each
    channel of the pose.

    Parameters
    ----------
    classes, trunk
        As `Encoder`.
    appearance, pose : int
        Channels of the two maps; 512 and 128 in the paper.

    References
    ----------
    Suh et al., "Part-Aligned Bilinear Representations for Person Re-identification", ECCV 2018.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import PABP, Trunk
    >>> keypoints = torch.rand(2, 18, 3) * torch.tensor([32.0, 64.0, 1.0])
    >>> found = PABP(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32), keypoints)
    >>> tuple(found.features.shape), tuple(found.parts.shape)
    ((2, 1024), (2, 16, 64))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"keypoints"})

    def __init__(self, classes: int, trunk: Trunk, *, appearance: int = 64, pose: int = 16) -> None:
        super().__init__(classes, trunk)
        appearance, pose = check_size(appearance, "appearance"), check_size(pose, "pose")
        # (N, C, H, W) to (N, appearance, H, W)
        conv = nn.Conv2d(trunk.channels, appearance, 1, bias=False)
        self.appearance = nn.Sequential(conv, nn.BatchNorm2d(appearance), nn.ReLU())
        # heat maps (N, 19, H, W) to part maps (N, pose, H, W)
        conv = nn.Conv2d(len(KEYPOINTS) + 1, pose, 3, padding=1, bias=False)
        self.pose = nn.Sequential(conv, nn.BatchNorm2d(pose))

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
    ) -> Encoded:
        """Features (N, pose * appearance), pose slow, the same as parts (N, pose, appearance), and the map."""
        given = self.take("keypoints", keypoints)
        maps = self.trunk(images)  # (N, C, H, W)
        heat = draw_heatmaps(given, (images.shape[2], images.shape[3]), (maps.shape[2], maps.shape[3]))
        pose, appearance = self.pose(heat.to(maps.dtype)), self.appearance(maps)
        features = bilinear_pool(appearance, pose)  # (N, pose * appearance)
        return Encoded(features, features.unflatten(1, (pose.shape[1], -1)), maps=maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term "triplet"."""
        features = self(batch.images, batch.keypoints).features
        return {"triplet": triplet_loss(euclidean(features), batch.ids)}
