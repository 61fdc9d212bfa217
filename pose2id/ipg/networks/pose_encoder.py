"""The pose encoder: pose maps as features of the denoiser's first convolution."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

from pose2id.ipg.weights.parts import CheckedModel


class PoseEncoder(CheckedModel, ModelMixin, ConfigMixin):
    """Pose maps as features of the denoiser's first convolution, at an eighth of the size.

    Parameters
    ----------
    conditioning_embedding_channels : int
        Channels of the denoiser's first convolution.
    conditioning_channels : int
        Channels of the pose maps.
    block_out_channels : sequence of int
        Channels of the levels; three steps of half the size between four levels.
    """

    __module__ = "pose2id.ipg.modules"  # the path that saved pipelines name

    @register_to_config
    def __init__(
        self,
        conditioning_embedding_channels: int = 320,
        conditioning_channels: int = 3,
        block_out_channels: Sequence[int] = (16, 32, 64, 128),
    ) -> None:
        super().__init__()
        levels = list(block_out_channels)
        self.conv_in = nn.Conv2d(conditioning_channels, levels[0], 3, padding=1)
        self.blocks = nn.ModuleList()
        for here, below in pairwise(levels):
            self.blocks.append(nn.Conv2d(here, here, 3, padding=1))
            self.blocks.append(nn.Conv2d(here, below, 3, padding=1, stride=2))
        self.conv_out = nn.Conv2d(levels[-1], conditioning_embedding_channels, 3, padding=1)
        for parameter in self.conv_out.parameters():  # an untrained encoder leaves the denoiser as it is
            nn.init.zeros_(parameter)

    def forward(self, pose_maps: torch.Tensor) -> torch.Tensor:
        """Pose maps (N, 3, H, W) in [0, 1], RGB, as features (N, C, H / 8, W / 8)."""
        hidden = functional.silu(self.conv_in(pose_maps))
        for block in self.blocks:
            hidden = functional.silu(block(hidden))
        return self.conv_out(hidden)
