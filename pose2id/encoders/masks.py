"""SPReID: the person and its parts, by masks of what each pixel shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.trunk import Trunk
from pose2id.parts import mask_visibility, pool_masks

GROUPS = ((1,), (2, 3, 4), (5,), (6,))
"""Head; torso and arms; legs; feet: of `pose2id.synthetic.PARTS`, from 1. A bag, 7, belongs to the foreground only."""


class SPReID(Encoder):
    """The mean over the person, the largest of the means over four parts, and the plain mean, in a row.

    As in the paper, means are those of maps that are resized up to the masks (bilinear, corners in place). That is the
    mean of the maps as they are under masks that went the same way back, which is what is computed.

    What differs from the paper:

    - Masks are given, not predicted by a second network.
    - The four groups of parts are those of the given masks; the paper joins the 20 classes of LIP.
    - Identities are told behind a batch normalisation, as by `Global`.

    Parameters
    ----------
    classes, trunk
        As `Encoder`.
    groups : sequence of sequences of int
        Channels of the masks that are one part together; 0 is the background.

    References
    ----------
    Kalayeh et al., "Human Semantic Parsing for Person Re-identification", CVPR 2018.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import SPReID, Trunk
    >>> masks = torch.softmax(torch.randn(2, 8, 64, 32), 1)
    >>> found = SPReID(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32), masks=masks)
    >>> tuple(found.features.shape), tuple(found.parts.shape), tuple(found.visibility.shape)
    ((2, 384), (2, 4, 128), (2, 4))
    """

    needs: ClassVar[frozenset[str]] = frozenset({"masks"})

    def __init__(self, classes: int, trunk: Trunk, *, groups: Sequence[Sequence[int]] = GROUPS) -> None:
        super().__init__(classes, trunk)
        if not isinstance(groups, list | tuple) or not all(
            isinstance(group, list | tuple) for group in [groups, *groups]
        ):
            raise TypeError(f"groups must be a list of lists of channels, received {groups!r}")
        if not groups or not all(groups):
            raise ValueError(f"groups must be at least one group of at least one channel, received {groups!r}")
        self.groups = [[check_size(channel, "each channel of groups") for channel in group] for group in groups]
        self.classify = Classifier(3 * trunk.channels, classes)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,
    ) -> Encoded:
        """Features (N, 3 * C), the parts (N, P, C), of which a pixel is likeliest to show each, and the map."""
        given = self.take("masks", masks)
        maps, regions, pooled = self._encode(images, given)
        row = self.describe(pooled, maps)
        seen = mask_visibility(torch.cat([given[:, :1], regions[:, 1:]], 1))
        return Encoded(self.classify.norm(row), pooled[:, 1:], seen, maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term "identity"."""
        maps, _, pooled = self._encode(batch.images, self.take("masks", batch.masks))
        return {"identity": identity_loss(self.classify(self.describe(pooled, maps)), batch.ids)}

    def _encode(self, images: torch.Tensor, masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The map, the regions' masks (N, 1 + P, h, w), foreground first, and the means over each (N, 1 + P, C)."""
        maps = self.trunk(images)  # (N, C, H, W)
        most = max(map(max, self.groups))
        if most >= masks.shape[1]:
            raise ValueError(
                f"masks must have channels for the background and parts 1 to {most}, the last of groups, received "
                f"{masks.shape[1]} channels; pass other groups"
            )
        regions = torch.stack([1 - masks[:, 0], *(masks[:, group].sum(1) for group in self.groups)], 1)
        rows, columns = (
            _resizing(small, large, masks) for small, large in zip(maps.shape[2:], masks.shape[2:], strict=True)
        )
        lowered = (rows @ regions @ columns.T).clamp(min=0)  # 1 - p may be less than 0 by rounding
        return maps, regions, pool_masks(maps, lowered.to(maps.dtype))

    @staticmethod
    def describe(pooled: torch.Tensor, maps: torch.Tensor) -> torch.Tensor:
        """The descriptor (N, 3 * C) of means over foreground and parts (N, 1 + P, C) and of the map (N, C, H, W)."""
        return torch.cat([pooled[:, 0], pooled[:, 1:].amax(1), maps.mean((2, 3))], 1)


def _resizing(small: int, large: int, like: torch.Tensor) -> torch.Tensor:
    """What each of `small` places adds to each of `large` ones when a row is resized, (small, large)."""
    places = torch.eye(small, dtype=like.dtype, device=like.device)[None]
    return functional.interpolate(places, large, mode="linear", align_corners=True)[0]
