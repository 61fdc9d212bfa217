"""The trunk that all systems share, small enough for a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class Trunk(nn.Module):
    """A residual network: images (N, 3, H, W) to maps (N, C, H / 4, W / 4).

    The last stage keeps the size of the one before, as the last stride 1 of PCB does: stripes and parts need rows.

    Parameters
    ----------
    channels : sequence of int
        Of the three stages, at a half, a quarter and a quarter of the picture's size.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import Trunk
    >>> trunk = Trunk()
    >>> tuple(trunk(torch.zeros(2, 3, 64, 32)).shape), sum(p.numel() for p in trunk.parameters())
    ((2, 128, 16, 8), 253992)
    """

    def __init__(self, channels: Sequence[int] = (24, 48, 128)) -> None:
        super().__init__()
        first, second, third = channels
        self.channels, self.widths = third, (first, second, third)
        self.stem = nn.Sequential(nn.Conv2d(3, first, 3, 2, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.stages = nn.Sequential(
            _Residual(first, first, 1), _Residual(first, second, 2), _Residual(second, third, 1)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps, after a ReLU: not negative."""
        maps: torch.Tensor = self.stages(self.stem(images))
        return maps


class _Residual(nn.Module):
    """Two convolutions and a way around them."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.skip = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(maps) + self.skip(maps))
