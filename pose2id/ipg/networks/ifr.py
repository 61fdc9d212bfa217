"""IFR, Identity Feature Redistribute: the feature of a person as tokens for the denoiser's cross-attentions."""

from __future__ import annotations

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn

from pose2id.ipg.weights.parts import CheckedModel


class IFR(CheckedModel, ModelMixin, ConfigMixin):
    """Identity Feature Redistribute: LayerNorm(Linear(feature)), cut into tokens (paper, section 3.2.1).

    Parameters
    ----------
    in_features : int
        Width of the identity feature.
    num_tokens, token_dim : int
        Shape of the tokens; `token_dim` is the width of the UNets' cross-attention.
    """

    __module__ = "pose2id.ipg.modules"  # the path that saved pipelines name

    @register_to_config
    def __init__(self, in_features: int = 3840, num_tokens: int = 20, token_dim: int = 768) -> None:
        super().__init__()
        self.proj_motion = nn.Linear(in_features, num_tokens * token_dim)
        self.norm_motion = nn.LayerNorm(token_dim)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Identity features (N, in_features) as tokens (N, num_tokens, token_dim)."""
        tokens = self.proj_motion(features).view(len(features), self.config.num_tokens, self.config.token_dim)
        return self.norm_motion(tokens)
