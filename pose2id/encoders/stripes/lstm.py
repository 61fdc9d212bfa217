"""Stripes read from top to bottom by an LSTM, behind a gate that compares two pictures' stripes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import euclidean, mine_triplets
from pose2id.encoders.trunk import Trunk
from pose2id.parts import pool_stripes

MARGIN = 1.0
"""By so much two people should be apart; rows have length 1, so that no two are farther apart than 2."""
SPREAD = 2.0
"""Of each channel's gate at first: wide, so that the gate stands open until it has learnt what differs."""


class GatedLSTM(Encoder):
    """A Siamese LSTM behind a matching gate: it compares pairs, and one picture alone has no feature.

    What differs from the papers: the gate of the one stands before the LSTM of the other, once, on the trunk's stripes;
    in each batch every picture makes two pairs, its hardest by the mean of the map: of its own person and of another.

    Parameters
    ----------
    classes : int
    trunk : Trunk
    stripes : int
        P, of equal height.
    width : int
        Of the states of the LSTM.

    References
    ----------
    Varior et al., "A Siamese Long Short-Term Memory Architecture for Human Re-Identification" (the LSTM), and Varior,
    Haloi and Wang, "Gated Siamese Convolutional Neural Network Architecture for Human Re-Identification" (the gate),
    both ECCV 2016.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import GatedLSTM, Trunk
    >>> encoder = GatedLSTM(10, Trunk()).eval()
    >>> maps = encoder(torch.zeros(2, 3, 64, 32)).maps
    >>> tuple(encoder.compare(maps, maps.flip(0)).shape)
    (2,)
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 8, width: int = 64) -> None:
        super().__init__(classes, trunk)
        self.stripes, width = check_size(stripes, "stripes"), check_size(width, "width")
        self.summarize = nn.Linear(trunk.channels, trunk.channels, bias=False)  # (n, P, C), what a gate compares
        self.spread = nn.Parameter(torch.full((trunk.channels,), SPREAD))
        self.read = nn.LSTM(trunk.channels, width, batch_first=True)  # (n, P, C) to (n, P, width)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """The map only; for `compare`."""
        return Encoded(maps=self.trunk(images))

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances (n,) of n pairs of maps (n, C, H, W), from 1e-6, of equal ones, to 2; the same both ways round."""
        return self.measure(pool_stripes(first, self.stripes), pool_stripes(second, self.stripes))

    def measure(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances (n,) of n pairs of stripes (n, P, C)."""
        gates = self.gate(first, second)
        ends = []
        for stripes in (first, second):
            gated = functional.normalize(stripes + gates * stripes, dim=2)  # what both show is boosted
            states, _ = self.read(gated)  # all of them are the feature of the picture in this pair
            ends.append(functional.normalize(states.flatten(1)))  # (n, P width)
        distances: torch.Tensor = (ends[0] - ends[1]).square().sum(1).clamp(min=1e-12).sqrt()
        return distances

    def gate(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """How alike two pictures' stripes are, channel by channel: (n, P, C), from 0 to 1."""
        differences: torch.Tensor = (self.summarize(first) - self.summarize(second)) / self.spread
        return (-differences.square()).exp()

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term "contrastive": squares of distances of one person, and of what others lack to `MARGIN`."""
        maps = self.trunk(batch.images)
        farthest, nearest = mine_triplets(euclidean(maps.mean((2, 3))), batch.ids)
        stripes = pool_stripes(maps, self.stripes)  # (N, P, C)
        same, other = (self.measure(stripes, stripes[pair]) for pair in (farthest, nearest))
        return {"contrastive": (same.square() + functional.relu(MARGIN - other).square()).mean()}
