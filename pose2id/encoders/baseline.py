"""The baseline of all systems: one feature of the whole picture."""

from __future__ import annotations

import torch

from pose2id.encoders.contract import Batch, Encoded, Encoder
from pose2id.encoders.losses import Classifier, euclidean, identity_loss, triplet_loss
from pose2id.encoders.trunk import Trunk


class Global(Encoder):
    """The mean of the trunk's map, identities as classes and the hardest triplets (Luo et al. 2019, "strong baseline").

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import Global, Trunk
    >>> tuple(Global(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32)).features.shape)
    (2, 128)
    """

    def __init__(self, classes: int, trunk: Trunk) -> None:
        super().__init__(classes, trunk)
        self.classify = Classifier(trunk.channels, classes)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Normalised means (N, C) as features, and the map."""
        maps = self.trunk(images)  # (N, C, H, W)
        pooled = maps.mean((2, 3))  # (N, C); what triplets compare
        return Encoded(features=self.classify.norm(pooled), maps=maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms `identity` and `triplet`."""
        pooled = self.trunk(batch.images).mean((2, 3))
        scores = self.classify(pooled)
        return {"identity": identity_loss(scores, batch.ids), "triplet": triplet_loss(euclidean(pooled), batch.ids)}
