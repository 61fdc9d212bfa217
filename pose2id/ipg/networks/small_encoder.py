"""An identity encoder for small pictures, trained in minutes on a CPU; stands in for TransReID."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL.Image import Image
from torch import nn
from torch.nn import functional

from pose2id.ipg.inputs import check_shape, stack_images
from pose2id.ipg.weights.parts import CheckedModel


class SmallEncoder(CheckedModel, ModelMixin, ConfigMixin):
    """A residual network with pooling over horizontal stripes, for re-identification of small pictures.

    Parameters
    ----------
    img_size : (int, int)
        Height and width of its input, multiples of 8.
    channels : sequence of int
        Of the four stages, at a half, a quarter, an eighth and an eighth of the size.
    stripes : int
        Horizontal stripes that are pooled apart (Sun et al., Beyond Part Models, ECCV 2018).
    out_features : int
        Width of the feature.

    Examples
    --------
    >>> import torch
    >>> from pose2id.ipg.networks import SmallEncoder
    >>> SmallEncoder().eval()(torch.zeros(2, 3, 64, 32)).shape
    torch.Size([2, 256])
    """

    __module__ = "pose2id.ipg.small"  # the path that saved pipelines name

    @register_to_config
    def __init__(
        self,
        img_size: Sequence[int] = (64, 32),  # noqa: ARG002 - for the config
        channels: Sequence[int] = (24, 48, 96, 160),
        stripes: int = 2,
        out_features: int = 256,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), nn.BatchNorm2d(channels[0]), nn.ReLU()
        )
        before = [channels[0], *channels[:-1]]
        strides = [1, 2, 2, 1]
        self.stages = nn.Sequential(*map(_Residual, before, channels, strides))
        self.embed = nn.Linear(stripes * channels[-1], out_features)
        # Without it all features share a large part, and what tells people apart is a small rest.
        self.neck = nn.BatchNorm1d(out_features, affine=False)

    @property
    def feature_width(self) -> int:
        """D."""
        return int(self.config.out_features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) as `preprocess` makes them, as features (N, out_features), not of length 1."""
        check_shape(images, *self.config.img_size)
        features: torch.Tensor = self.neck(self.project(images))
        return features

    def project(self, images: torch.Tensor) -> torch.Tensor:
        """Features before the batch normalisation that `forward` ends with."""
        maps = self.stages(self.stem(images))
        pooled = functional.adaptive_avg_pool2d(maps, (self.config.stripes, 1))
        pooled = pooled + functional.adaptive_max_pool2d(maps, (self.config.stripes, 1))
        return self.embed(pooled.flatten(1))

    def preprocess(self, images: Sequence[Image]) -> torch.Tensor:
        """PIL images as (N, 3, H, W) float32 in [-1, 1]: RGB, resized with Lanczos."""
        return stack_images(images, *self.config.img_size) / 127.5 - 1


class _Residual(nn.Module):
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
