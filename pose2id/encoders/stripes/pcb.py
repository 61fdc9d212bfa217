"""PCB: the mean of each stripe, and a classifier for each."""

from __future__ import annotations

import torch
from torch import nn

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import identity_loss
from pose2id.encoders.trunk import Trunk
from pose2id.parts import concatenate_parts, pool_stripes


class PCB(Encoder):
    """Stripes that are told apart one by one and compared in a row: the part-based convolutional baseline.

    What differs from the paper: labels are smoothed; stripes share rows of the map where their number does not divide
    its height.

    Parameters
    ----------
    classes : int
    trunk : Trunk
    stripes : int
        P, of equal height.
    width : int
        Of the reduced stripes, which the classifiers see.

    References
    ----------
    Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import PCB, Trunk
    >>> encoded = PCB(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32))
    >>> tuple(encoded.features.shape), tuple(encoded.parts.shape)
    ((2, 768), (2, 6, 128))
    """

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 6, width: int = 64) -> None:
        super().__init__(classes, trunk)
        self.stripes, width = check_size(stripes, "stripes"), check_size(width, "width")
        # A 1 x 1 convolution, the same for all stripes: g (N, C, P) to h (N, width, P).
        self.reduce = nn.Sequential(nn.Conv1d(trunk.channels, width, 1, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.classify = nn.ModuleList(nn.Linear(width, classes) for _ in range(self.stripes))
        for weight in self.classify.parameters():
            nn.init.normal_(weight, std=0.001)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Stripes (N, P, C) as parts; in a row, each of length 1, as features (N, P C); and the map."""
        maps = self.trunk(images)  # (N, C, H, W)
        parts = self.pool(maps)
        return Encoded(features=concatenate_parts(parts), parts=parts, maps=maps)

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to g, (N, P, C)."""
        return pool_stripes(maps, self.stripes)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term "identity", the sum of those of all stripes."""
        return {"identity": self.identify(self.pool(self.trunk(batch.images)), batch.ids)}

    def identify(self, parts: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """The sum of the losses of all classifiers, each of its part of (N, P, C)."""
        reduced = self.reduce(parts.mT).unbind(2)  # h, P times (N, width)
        scores = [classify(part) for classify, part in zip(self.classify, reduced, strict=True)]
        return torch.stack([identity_loss(one, ids) for one in scores]).sum()
