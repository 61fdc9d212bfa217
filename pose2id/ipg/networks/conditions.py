"""The two small networks of the generator: identity tokens (IFR) and the pose encoder. Parameter names as released."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

__all__ = ["IFR", "PoseEncoder"]


class IFR(ModelMixin, ConfigMixin):
    """Identity Feature Redistribute: LayerNorm(Linear(feature)), cut into tokens (paper, section 3.2.1).

    Parameters
    ----------
    in_features : int
        Width of the identity feature.
    num_tokens, token_dim : int
        Shape of the tokens; `token_dim` is the width of the UNets' cross-attention.
    """

    @register_to_config
    def __init__(self, in_features: int = 3840, num_tokens: int = 20, token_dim: int = 768) -> None:
        super().__init__()
        self.proj_motion = nn.Linear(in_features, num_tokens * token_dim)
        self.norm_motion = nn.LayerNorm(token_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Identity features (N, in_features) as tokens (N, num_tokens, token_dim)."""
        tokens = self.proj_motion(features).view(len(features), self.config.num_tokens, self.config.token_dim)
        return self.norm_motion(tokens)


class PoseEncoder(ModelMixin, ConfigMixin):
    """Pose drawings as features of the denoiser's first convolution, at an eighth of the size.

    Parameters
    ----------
    conditioning_embedding_channels : int
        Channels of the denoiser's first convolution.
    conditioning_channels : int
        Channels of the drawings.
    block_out_channels : sequence of int
        Channels of the levels; three steps of half the size between four levels.
    """

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

    def forward(self, drawings: torch.Tensor) -> torch.Tensor:
        """Drawings (N, 3, H, W) in [0, 1], RGB, as features (N, C, H / 8, W / 8)."""
        hidden = functional.silu(self.conv_in(drawings))
        for block in self.blocks:
            hidden = functional.silu(block(hidden))
        return self.conv_out(hidden)
