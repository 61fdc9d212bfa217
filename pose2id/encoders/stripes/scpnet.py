"""SCPNet: channels of the whole feature are taught by stripes."""

from __future__ import annotations

import torch
from torch import nn

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import Classifier, euclidean, identity_loss, triplet_loss
from pose2id.encoders.trunk import Trunk
from pose2id.parts import pool_stripes

PULL = 10.0
"""The weight, lambda, of what pulls channels to stripes."""


class SCPNet(Encoder):
    """A whole feature of P groups of channels, each of which learns to be what one stripe is.

    Stripes teach and do not learn: no gradient goes through them. They are not used in the test.

    What differs from the paper: squares are averaged over channels, not summed, as in the public code; before the
    classifiers stands a batch normalisation (BNNeck) and no dropout, since the small trunk is not pretrained.

    Parameters
    ----------
    classes : int
    trunk : Trunk
    stripes : int
        P, of stripes and of groups.

    References
    ----------
    Fan et al., "SCPNet: Spatial-Channel Parallelism Network for Joint Holistic and Partial Person Re-Identification",
    ACCV 2018.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import SCPNet, Trunk
    >>> tuple(SCPNet(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32)).features.shape)
    (2, 512)
    """

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 4) -> None:
        super().__init__(classes, trunk)
        self.stripes = check_size(stripes, "stripes")
        # One 1 x 1 convolution for each group, together: (N, C, H, W) to (N, P C, H, W).
        self.expand = nn.Sequential(
            nn.Conv2d(trunk.channels, self.stripes * trunk.channels, 1, bias=False),
            nn.BatchNorm2d(self.stripes * trunk.channels),
        )
        self.classify = nn.ModuleList(Classifier(trunk.channels, classes) for _ in range(self.stripes))

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """All groups in a row as features (N, P C), and the map."""
        maps = self.trunk(images)  # (N, C, H, W)
        return Encoded(features=self.group(maps).flatten(1), maps=maps)

    def group(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to the groups of channels (N, P, C), means over the whole picture."""
        groups: torch.Tensor = self.expand(maps).mean((2, 3))
        return groups.view(len(groups), self.stripes, groups.shape[1] // self.stripes)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms "identity" and "triplet" of the groups, "pull" of groups to stripes; each a sum over groups."""
        maps = self.trunk(batch.images)
        groups = self.group(maps)
        stripes = pool_stripes(maps.detach(), self.stripes)  # (N, P, C)
        pairs = list(zip(self.classify, groups.unbind(1), strict=True))
        return {
            "identity": torch.stack([identity_loss(classify(group), batch.ids) for classify, group in pairs]).sum(),
            "triplet": torch.stack([triplet_loss(euclidean(group), batch.ids) for _, group in pairs]).sum(),
            "pull": PULL * (groups - stripes).square().mean((0, 2)).sum(),
        }
