"""Pair classifiers on differences of neighbourhoods: IDLA, and PersonNet with deeper layers around them."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size, check_sizes
from pose2id.encoders.losses import pair_rows
from pose2id.encoders.trunk import Trunk
from pose2id.parts import neighborhood_differences

SIZE = 5
"""Side of a neighbourhood."""
SMALLEST = 13
"""Side of a picture whose map has the four rows that the layers across patches need."""


class IDLA(Encoder):
    """Whether two pictures show one person, from the differences of their maps around each location.

    Pairwise: there is no feature of one picture. What differs from the paper: the maps come from the trunk, 16 x 8
    instead of 37 x 12; the hidden layer has 64 numbers instead of 500; two wrong pairs for each right one from the
    start, and no hard negatives mined by training again.

    Parameters
    ----------
    classes, trunk
        As for `Encoder`; `classes` are not used, a pair has two.
    channels : int
        Of the maps that are compared.
    width : int
        Of the hidden layer.
    size : (int, int)
        Height and width of the pictures; the trainer takes those that it is given.

    References
    ----------
    Ahmed, Jones and Marks, "An Improved Deep Learning Architecture for Person Re-Identification", CVPR 2015.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import IDLA, Trunk
    >>> idla = IDLA(10, Trunk()).eval()
    >>> maps = idla(torch.zeros(2, 3, 64, 32)).maps
    >>> tuple(maps.shape), tuple(idla.compare(maps, maps).shape)
    ((2, 25, 16, 8), (2,))
    """

    pairwise: ClassVar[bool] = True
    sized: ClassVar[bool] = True

    def __init__(
        self, classes: int, trunk: Trunk, *, channels: int = 25, width: int = 64, size: tuple[int, int] = (64, 32)
    ) -> None:
        super().__init__(classes, trunk)
        channels, width = check_size(channels, "channels"), check_size(width, "width")
        self.size = check_sizes(size, "size", 2, SMALLEST)
        self.embed = self._make_embedding(trunk.channels, channels)  # tied: one for both pictures
        # patch summary: what is different at a location, 5 x 5 numbers a channel, as one number a channel
        self.summarise = nn.ModuleList(nn.Conv2d(channels, channels, SIZE, SIZE) for _ in range(2))
        # across patches
        self.relate = nn.ModuleList(self._make_relation(channels) for _ in range(2))
        height, breadth = (-(-side // 4) for side in self.size)  # of the trunk's map
        with torch.no_grad():
            locations = self.relate[0](torch.zeros(1, channels, height, breadth)).numel()
        self.hidden = nn.Linear(2 * locations, width)
        self.verify = nn.Linear(width, 2)  # different, same

    def _make_embedding(self, before: int, channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(before, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())

    def _make_relation(self, channels: int) -> nn.Sequential:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(channels, channels, 3), nn.MaxPool2d(2), nn.ReLU())

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
        masks: torch.Tensor | None = None,  # noqa: ARG002
    ) -> Encoded:
        """Maps (N, channels, H, W), for `compare`."""
        if images.shape[2:] != self.size:
            raise ValueError(
                f"images must be of {self.size}, height and width, as the encoder's size says, received "
                f"{tuple(images.shape[2:])}"
            )
        return Encoded(maps=self.embed(self.trunk(images)))

    def summaries(self, first: torch.Tensor, second: torch.Tensor) -> list[torch.Tensor]:
        """L and L' (n, channels, H, W) of pairs of maps: their neighbourhoods' differences, both ways round."""
        found = []
        for layer, differences in zip(self.summarise, neighborhood_differences(first, second, SIZE), strict=True):
            n, channels, height, width = first.shape
            tiles = differences.permute(0, 1, 2, 4, 3, 5).reshape(n, channels, SIZE * height, SIZE * width)
            found.append(layer(functional.relu(tiles)))  # the paper's ReLU stands on K
        return found

    def classify(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Scores (n, 2) of different and same, of pairs of maps (n, channels, H, W)."""
        summaries = self.summaries(first, second)
        related = [layer(summary).flatten(1) for layer, summary in zip(self.relate, summaries, strict=True)]
        scores: torch.Tensor = self.verify(functional.relu(self.hidden(torch.cat(related, dim=1))))
        return scores

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Distances (n,): the score of different less that of same, the logarithm of the odds."""
        scores = self.classify(first, second)
        return scores[:, 0] - scores[:, 1]

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The term `verification`: cross-entropy over pairs of the batch."""
        maps = self(batch.images).maps
        first, second, same = pair_rows(batch.ids)
        return {"verification": functional.cross_entropy(self.classify(maps[first], maps[second]), same.long())}


class PersonNet(IDLA):
    """IDLA with small, stacked convolutions before and behind the differences.

    Pairwise. What differs from the paper: the trunk stands for its first layers, and Adam for RMSProp; sizes as IDLA.

    References
    ----------
    Wu, Shen and van den Hengel, "PersonNet: Person Re-identification with Deep Convolutional Neural Networks", 2016.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import PersonNet, Trunk
    >>> tuple(PersonNet(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32)).maps.shape)
    (2, 25, 16, 8)
    """

    def _make_embedding(self, before: int, channels: int) -> nn.Sequential:
        first, second = nn.Conv2d(before, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1)
        return nn.Sequential(first, nn.BatchNorm2d(channels), nn.ReLU(), second, nn.BatchNorm2d(channels), nn.ReLU())

    def _make_relation(self, channels: int) -> nn.Sequential:
        first, second = nn.Conv2d(channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3)
        return nn.Sequential(nn.ReLU(), first, nn.ReLU(), second, nn.MaxPool2d(2), nn.ReLU())
