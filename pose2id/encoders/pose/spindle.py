"""Spindle Net: seven regions of the body, pooled within boxes and joined by a tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size, check_sizes
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.trunk import Trunk
from pose2id.parts import part_boxes, pool_boxes

MACRO = 3
"""The first regions of `part_boxes` are large ones, head, body and legs; then come right arm, left arm, legs alike."""


class Spindle(Encoder):
    """Regions by boxes of joints, largest values within (FEN), joined from the limbs up by largest values (FFN).

    What differs from the paper:

    - All regions are pooled from the trunk's last map; the paper has limbs and the others at two depths.
    - What follows the pooling is one convolution for large regions, one for limbs, one for the whole picture.
    - Joints that are not there count for nothing; the paper takes whatever its network of poses says.
    - Identities are told behind a batch normalisation, as by `Global`.

    Features have length 1, since the paper compares cosines; parts are the seven regions before the tree.

    Parameters
    ----------
    classes, trunk
        As `Encoder`.
    size : int
        Width of every feature; 256 in the paper.
    bins : (int, int)
        Rows and columns of a pooled region; 24 x 24 and 12 x 12 in the paper.

    References
    ----------
    Zhao et al., "Spindle Net: Person Re-identification with Human Body Region Guided Feature Decomposition and Fusion",
    CVPR 2017.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import Spindle, Trunk
    >>> keypoints = torch.rand(2, 18, 3) * torch.tensor([32.0, 64.0, 1.0])
    >>> found = Spindle(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32), keypoints)
    >>> tuple(found.features.shape), tuple(found.parts.shape), tuple(found.visibility.shape)
    ((2, 64), (2, 7, 64), (2, 7))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"keypoints"})

    def __init__(self, classes: int, trunk: Trunk, *, size: int = 64, bins: Sequence[int] = (4, 4)) -> None:
        super().__init__(classes, trunk)
        size, (height, width) = check_size(size, "size"), check_sizes(bins, "bins", 2)
        self.bins = height, width
        # FEN up to where regions are pooled: (N, C, H, W) to (N, size, H, W), not negative.
        conv = nn.Conv2d(trunk.channels, size, 1, bias=False)
        self.reduce = nn.Sequential(conv, nn.BatchNorm2d(size), nn.ReLU())
        # What is left of FEN: (n, size, h, w) of a region to its feature (n, size), not negative.
        self.tails = nn.ModuleDict({name: _Tail(size) for name in ("whole", "large", "limb")})
        # FFN: a fully connected layer at each of its joints, (N, size) to (N, size).
        joints = ("arms", "legs", "upper", "lower", "person")
        self.tree = nn.ModuleDict({name: nn.Sequential(nn.Linear(size, size), nn.ReLU()) for name in joints})
        self.join = nn.Linear(2 * size, size)
        self.classify = Classifier(size, classes)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
    ) -> Encoded:
        """Features (N, size), the seven regions as parts (N, 7, size), where there is a joint of them, and the map."""
        maps, parts, seen, feature = self._encode(images, self.take("keypoints", keypoints))
        return Encoded(functional.normalize(self.classify.norm(feature)), parts, seen, maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term "identity", of the whole tree."""
        feature = self._encode(batch.images, self.take("keypoints", batch.keypoints))[3]
        return {"identity": identity_loss(self.classify(feature), batch.ids)}

    def _encode(self, images: torch.Tensor, keypoints: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The map, the regions (N, 7, size), which are seen, and the feature (N, size)."""
        maps = self.trunk(images)  # (N, C, H, W)
        extent = (images.shape[2], images.shape[3])
        boxes, seen = part_boxes(keypoints, extent)  # (N, 7, 4), (N, 7)
        reduced = self.reduce(maps)  # (N, size, H, W)
        pooled = pool_boxes(reduced, boxes, extent, size=self.bins)  # (N, 7, size, h, w)
        kinds = (("large", slice(None, MACRO)), ("limb", slice(MACRO, None)))
        regions = [(name, pooled[:, at]) for name, at in kinds]  # (N, 3 or 4, size, h, w)
        found = [self.tails[name](one.flatten(0, 1)).unflatten(0, one.shape[:2]) for name, one in regions]
        parts = torch.cat(found, 1) * seen[:, :, None]  # (N, 7, size); 0, the least, where there is no joint
        return maps, parts, seen, self.fuse(parts, self.tails["whole"](reduced))

    def fuse(self, parts: torch.Tensor, whole: torch.Tensor) -> torch.Tensor:
        """FFN: regions (N, 7, size) and the whole picture (N, size), not negative, to one feature (N, size)."""
        head, body, legs, *limbs = parts.unbind(1)
        arms = self.tree["arms"](torch.maximum(limbs[0], limbs[1]))
        both = self.tree["legs"](torch.maximum(limbs[2], limbs[3]))
        upper = self.tree["upper"](torch.maximum(body, arms))
        lower = self.tree["lower"](torch.maximum(legs, both))
        person = self.tree["person"](torch.maximum(head, torch.maximum(upper, lower)))
        feature: torch.Tensor = self.join(torch.cat([whole, person], 1))  # the only concatenation
        return feature


class _Tail(nn.Sequential):
    """A convolution on a map, and its mean: (n, size, h, w) to (n, size)."""

    def __init__(self, size: int) -> None:
        conv = nn.Conv2d(size, size, 3, padding=1, bias=False)
        super().__init__(conv, nn.BatchNorm2d(size), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
