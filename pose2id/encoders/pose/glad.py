"""GLAD: the whole picture, and head, upper and lower body within boxes."""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import nn

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.trunk import Trunk
from pose2id.parts import part_boxes, pool_boxes

BRANCHES = ("whole", "head", "upper body", "lower body")


class GLAD(Encoder):
    r"""Three boxes and the whole picture, an identity loss each: :math:`f = [f^G; f^h; f^{ub}; f^{lb}]`.

    What differs from the paper:

    - Boxes are pooled from the map of the whole picture; the paper cuts the picture and shares the lower layers.
    - The boxes' margins are ours, see `pose2id.parts.part_boxes`; those of the paper are not published.
    - A branch is one linear layer behind the mean; identities are told behind a batch normalisation, as by `Global`.
    - A part without a joint is 0, and is not asked for its identity.

    Parameters
    ----------
    classes, trunk
        As `Encoder`.
    size : int
        Width of each of the four; 1024 in the paper.

    References
    ----------
    Wei et al., "GLAD: Global-Local-Alignment Descriptor for Pedestrian Retrieval", ACM MM 2017.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import GLAD, Trunk
    >>> keypoints = torch.rand(2, 18, 3) * torch.tensor([32.0, 64.0, 1.0])
    >>> found = GLAD(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32), keypoints)
    >>> tuple(found.features.shape), tuple(found.parts.shape)
    ((2, 256), (2, 3, 64))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"keypoints"})

    def __init__(self, classes: int, trunk: Trunk, *, size: int = 64) -> None:
        super().__init__(classes, trunk)
        size = check_size(size, "size")
        self.embed = nn.ModuleList(nn.Linear(trunk.channels, size, bias=False) for _ in BRANCHES)
        self.classify = nn.ModuleList(Classifier(size, classes) for _ in BRANCHES)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
    ) -> Encoded:
        """Features (N, 4 * size), the boxes' as parts (N, 3, size), where there is a joint of them, and the map."""
        maps, branches, seen = self._encode(images, self.take("keypoints", keypoints))
        heads = cast("list[Classifier]", self.classify)
        whole, *boxes = [head.norm(branch) for head, branch in zip(heads, branches, strict=True)]
        parts = torch.stack(boxes, 1) * seen[:, :, None]
        return Encoded(torch.cat([whole, parts.flatten(1)], 1), parts, seen, maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term "identity" of each branch, of the pictures that show it."""
        _, branches, boxes = self._encode(batch.images, self.take("keypoints", batch.keypoints))
        seen = torch.cat([torch.ones_like(boxes[:, :1]), boxes], 1)
        terms = {}
        for name, classify, branch, rows in zip(BRANCHES, self.classify, branches, seen.unbind(1), strict=True):
            scores = classify(branch)
            # rows of nobody have no mean
            term = identity_loss(scores[rows], batch.ids[rows]) if bool(rows.any()) else 0 * scores.sum()
            terms[f"identity, {name}"] = term
        return terms

    def _encode(
        self, images: torch.Tensor, keypoints: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
        """The map, the four branches (N, size), and which of the three boxes are seen."""
        maps = self.trunk(images)  # (N, C, H, W)
        extent = (images.shape[2], images.shape[3])
        boxes, seen = part_boxes(keypoints, extent, scheme="three")  # (N, 3, 4), (N, 3)
        within = pool_boxes(maps, boxes, extent, reduce="mean")  # (N, 3, C)
        pooled = [maps.mean((2, 3)), *within.unbind(1)]
        return maps, [embed(one) for embed, one in zip(self.embed, pooled, strict=True)], seen
