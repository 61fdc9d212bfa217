"""Deep spatial feature reconstruction: one map's locations made of another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_sizes
from pose2id.encoders.losses import MARGIN, Classifier, euclidean, identity_loss, mine_triplets
from pose2id.encoders.trunk import Trunk
from pose2id.parts import location_pyramid

PENALTY = 0.001
"""Of the ridge; the released code's."""


class DSR(Encoder):
    """The baseline's feature finds a shortlist, and reconstruction of locations orders it, weighted by visibility.

    Pairwise for the shortlist; `features` are those of the whole picture. What differs from the papers: the ridge of
    the later one (FPR) instead of the l1 penalty, since its solution has a gradient; pyramids of sizes that fit a map
    of 16 x 8.

    Parameters
    ----------
    classes, trunk
        As for `Encoder`.
    squares : sequence of int
        Sides of the squares of the pyramid, with stride 2.

    References
    ----------
    He et al., "Deep Spatial Feature Reconstruction for Partial Person Re-identification", CVPR 2018, and
    "Foreground-aware Pyramid Reconstruction for Alignment-free Occluded Person Re-identification", ICCV 2019.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import DSR, Trunk
    >>> dsr = DSR(10, Trunk()).eval()
    >>> found = dsr(torch.rand(2, 3, 64, 32))
    >>> tuple(found.features.shape), tuple(dsr.compare(found.maps, found.maps.flip(0)).shape)
    ((2, 128), (2,))
    """

    pairwise: ClassVar[bool] = True

    def __init__(self, classes: int, trunk: Trunk, *, squares: Sequence[int] = (2, 4, 6)) -> None:
        super().__init__(classes, trunk)
        self.squares = check_sizes(squares, "squares")
        self.classify = Classifier(trunk.channels, classes)
        self.occlusion = nn.Linear(trunk.channels, 1)  # the foreground probability of a location

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Normalised means (N, C) as features, and the map."""
        maps = self.trunk(images)
        return Encoded(features=self.classify.norm(maps.mean((2, 3))), maps=maps)

    def locate(self, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Columns (n, C, M) of length 1 of the locations of all sizes, and the weights (n, M) of sum 1."""
        if max(self.squares) > min(maps.shape[2:]):
            raise ValueError(
                f"squares must fit into maps of {tuple(maps.shape[2:])}, a quarter of the pictures, received "
                f"{self.squares}; pass smaller ones, or larger pictures"
            )
        columns = location_pyramid(maps, self.squares)
        foreground = torch.sigmoid(self.occlusion(columns.transpose(1, 2))[:, :, 0])
        return functional.normalize(columns, dim=1), foreground / foreground.sum(1, keepdim=True)

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances (n,): sum over the first one's locations q of weight times |q - Gw|, w by the ridge."""
        (query, weights), (gallery, _) = self.locate(first), self.locate(second)
        gram = gallery.transpose(1, 2) @ gallery  # (n, M, M)
        ridge = gram + PENALTY * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        shares = torch.linalg.solve(ridge, gallery.transpose(1, 2) @ query)  # w of every location, (n, M, M)
        left: torch.Tensor = (query - gallery @ shares).square().sum(1).clamp(min=1e-12).sqrt()
        return (weights * left).sum(1)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms `identity`, `triplet` of the whole, and `reconstruction`: the same triplets by `compare`."""
        maps = self.trunk(batch.images)
        pooled = maps.mean((2, 3))
        distances = euclidean(pooled)
        positive, negative = mine_triplets(distances, batch.ids)
        rows = torch.arange(len(maps), device=maps.device)
        whole = distances[rows, positive] - distances[rows, negative]
        parts = self.compare(maps, maps[positive]) - self.compare(maps, maps[negative])
        return {
            "identity": identity_loss(self.classify(pooled), batch.ids),
            "triplet": functional.relu(whole + MARGIN).mean(),
            "reconstruction": functional.relu(parts + MARGIN).mean(),
        }
