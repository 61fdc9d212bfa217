"""AlignedReID: stripes that are aligned in training, so that the whole feature learns from them."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import Classifier, euclidean, identity_loss, triplet_loss
from pose2id.encoders.trunk import Trunk
from pose2id.parts import pool_stripes


class AlignedReID(Encoder):
    """A global branch, and a local one that sees the same triplets by aligned distances (AlignedReID++).

    What is compared is the global feature. The trained layers of the local branch are used in training only; parts are
    the rows of the trunk's map, for `pose2id.parts.aligned_distances`, each scaled to length 1 first.

    What differs from the paper: a stripe is H / P rows of the map high, not one; before the classifier stands a batch
    normalisation (BNNeck), since the small trunk is not pretrained.

    Parameters
    ----------
    classes : int
    trunk : Trunk
    stripes : int
        P, of the local branch.
    width : int
        Of the trained stripes.

    References
    ----------
    Zhang et al., "AlignedReID: Surpassing Human-Level Performance in Person Re-Identification", 2017;
    Luo et al., "AlignedReID++: Dynamically Matching Local Information for Person Re-Identification", 2019.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import AlignedReID, Trunk
    >>> encoded = AlignedReID(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32))
    >>> tuple(encoded.features.shape), tuple(encoded.parts.shape)
    ((2, 128), (2, 8, 128))
    """

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 8, width: int = 64) -> None:
        super().__init__(classes, trunk)
        self.stripes, width = check_size(stripes, "stripes"), check_size(width, "width")
        self.classify = Classifier(trunk.channels, classes)  # global branch: (N, C) to (N, classes)
        # Local branch: (N, C, H, W), the maximum of each stripe, (N, P, C) to (N, P, width).
        self.norm = nn.Sequential(nn.BatchNorm2d(trunk.channels), nn.ReLU())
        self.reduce = nn.Linear(trunk.channels, width)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Means (N, C) of length 1 as features, maxima of stripes (N, P, C) as parts, and the map."""
        maps = self.trunk(images)  # (N, C, H, W)
        parts = pool_stripes(maps, self.stripes, reduce="max")
        return Encoded(features=functional.normalize(maps.mean((2, 3))), parts=parts, maps=maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms "identity" and "triplet" of the global branch; "local": the same triplets by aligned distances."""
        maps = self.trunk(batch.images)
        whole = maps.mean((2, 3))  # (N, C)
        local = self.reduce(pool_stripes(self.norm(maps), self.stripes, reduce="max"))  # (N, P, width)
        distances = euclidean(whole)
        return {
            "identity": identity_loss(self.classify(whole), batch.ids),
            "triplet": triplet_loss(distances, batch.ids),
            "local": triplet_loss(align(functional.normalize(local, dim=2)), batch.ids, mined_by=distances),
        }


def align(stripes: torch.Tensor) -> torch.Tensor:
    """The aligned distances (N, N) within a batch (N, H, D), with a gradient.

    By value those of `pose2id.parts.aligned_distances`, but equal stripes are 1e-6 apart and not 0.
    """
    n, h, _ = stripes.shape
    cells = (euclidean(stripes.flatten(0, 1)) / 2).tanh().view(n, h, n, h)
    return shortest_ways(cells.permute(1, 3, 0, 2))


def shortest_ways(cells: torch.Tensor) -> torch.Tensor:
    """The least sums (...) of cells (H, H2, ...) on a way from the first to the last, by steps right and down."""
    ways: list[torch.Tensor] = []  # the shortest to each cell of a row
    for i, row in enumerate(cells.unbind(0)):
        for j, cell in enumerate(row.unbind(0)):
            if i and j:
                ways[j] = torch.minimum(ways[j], ways[j - 1]) + cell  # from above, from the left
            elif i:
                ways[j] = ways[j] + cell
            else:
                ways.append(ways[j - 1] + cell if j else cell)
    return ways[-1]
