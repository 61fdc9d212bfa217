"""ICNN: PCB and a global branch beside it."""

from __future__ import annotations

import torch
from torch import nn

from pose2id.encoders.contract import Batch, Encoded
from pose2id.encoders.losses import euclidean, triplet_loss
from pose2id.encoders.stripes.pcb import PCB
from pose2id.encoders.trunk import Trunk
from pose2id.parts import concatenate_parts


class ICNN(PCB):
    """PCB, whose stripes learn identities, and a global branch that learns from the hardest triplets, in one row.

    What differs from the paper, of which no code is public: the layer of the global branch, and that it and each
    stripe has length 1 in the row, are our choice.

    Parameters
    ----------
    classes : int
    trunk : Trunk
    stripes, width : int
        As of `PCB`.

    References
    ----------
    Zhang, Si and Liu, "Integration Convolutional Neural Network for Person Re-Identification in Camera Networks",
    IEEE Access 2018.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import ICNN, Trunk
    >>> tuple(ICNN(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32)).features.shape)
    (2, 896)
    """

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 6, width: int = 64) -> None:
        super().__init__(classes, trunk, stripes=stripes, width=width)
        # Global branch: the mean of the map, (N, C) to (N, C).
        self.embed = nn.Linear(trunk.channels, trunk.channels, bias=False)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """The global feature and stripes in a row, each of length 1, as features (N, C + P C); stripes; the map."""
        maps = self.trunk(images)  # (N, C, H, W)
        parts = self.pool(maps)
        return Encoded(features=concatenate_parts(parts, self.embed(maps.mean((2, 3)))), parts=parts, maps=maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms "identity", the sum of those of all stripes, and "triplet" of the global branch."""
        maps = self.trunk(batch.images)
        whole = self.embed(maps.mean((2, 3)))
        return {
            "identity": self.identify(self.pool(maps), batch.ids),
            "triplet": triplet_loss(euclidean(whole), batch.ids),
        }
