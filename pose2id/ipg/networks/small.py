"""Small parts for small pictures: an identity encoder and an image codec that train in minutes on a CPU.

They stand in for TransReID and the autoencoder where there are no pretrained weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

from pose2id.errors import require

if TYPE_CHECKING:
    from typing import Self

    from PIL.Image import Image

__all__ = ["PatchCodec", "SmallEncoder"]


class SmallEncoder(ModelMixin, ConfigMixin):
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
    >>> from pose2id.ipg.networks.small import SmallEncoder
    >>> SmallEncoder().eval()(torch.zeros(2, 3, 64, 32)).shape
    torch.Size([2, 256])
    """

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
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.config.img_size):
            height, width = self.config.img_size
            raise ValueError(
                f"images must have shape (N, 3, {height}, {width}), as preprocess() makes them, "
                f"received {tuple(images.shape)}"
            )
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
        pillow = require("PIL.Image", "ipg", "SmallEncoder.preprocess")
        height, width = self.config.img_size
        pixels = np.empty((len(images), height, width, 3), np.float32)
        for index, image in enumerate(images):
            if not isinstance(image, pillow.Image):
                raise TypeError(f"images must be PIL images, images[{index}] is a {type(image).__name__}")
            pixels[index] = np.asarray(image.convert("RGB").resize((width, height), pillow.Resampling.LANCZOS))
        return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous() / 127.5 - 1


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


class PatchCodec(ModelMixin, ConfigMixin):
    """Pictures as latents by a principal component analysis of their patches; the interface of `AutoencoderKL`.

    A latent pixel holds the first coefficients of a patch, each divided by the square root of its standard deviation:
    the strong ones stay stronger than the noise for longer. On average over the channels the variance is 1.

    Parameters
    ----------
    patch_size : int
        Side of a patch in pixels.
    latent_channels : int
        Coefficients kept.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from pose2id.ipg.networks.small import PatchCodec
    >>> pictures = np.random.default_rng(0).integers(0, 256, (8, 64, 32, 3), dtype=np.uint8)
    >>> codec = PatchCodec.fit(pictures, latent_channels=48)  # as many as a patch has numbers: nothing is lost
    >>> pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    >>> latents = codec.encode(pixels).latent_dist.mean
    >>> latents.shape, bool((codec.decode(latents).sample - pixels).abs().max() < 1e-4)
    (torch.Size([8, 48, 16, 8]), True)
    """

    @register_to_config
    def __init__(
        self,
        patch_size: int = 4,
        latent_channels: int = 12,
        scaling_factor: float = 1.0,  # noqa: ARG002 - for the config
    ) -> None:
        super().__init__()
        width = 3 * patch_size**2
        self.mean = nn.Parameter(torch.zeros(width))
        self.to_latent = nn.Parameter(torch.eye(latent_channels, width))
        self.to_patch = nn.Parameter(torch.eye(width, latent_channels))

    @classmethod
    def fit(cls, images: np.ndarray[Any, Any], *, patch_size: int = 4, latent_channels: int = 12) -> Self:
        """A codec for pictures like these, uint8 (N, H, W, 3)."""
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise ValueError(f"images must be uint8 of shape (N, H, W, 3), received {images.dtype} of {images.shape}")
        codec = cls(patch_size, latent_channels)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).double() / 127.5 - 1
        patches = functional.pixel_unshuffle(pixels, patch_size).transpose(0, 1).flatten(1)  # (width, patches)
        mean = patches.mean(1)
        variances, axes = torch.linalg.eigh((patches - mean[:, None]) @ (patches - mean[:, None]).T / patches.shape[1])
        variances, axes = variances.flip(0)[:latent_channels], axes.flip(1)[:, :latent_channels]
        divisors = variances.clamp_min(1e-12) ** 0.25  # the square root of the standard deviation
        divisors = divisors * (variances / divisors**2).mean().sqrt()
        with torch.no_grad():
            codec.mean.copy_(mean)
            codec.to_latent.copy_((axes / divisors).T)
            codec.to_patch.copy_(axes * divisors)
        return codec.requires_grad_(False).eval()

    def encode(self, pixels: torch.Tensor, return_dict: bool = True) -> Any:
        """Pixels (N, 3, H, W) in [-1, 1] as an output whose ``latent_dist`` has ``mean``, ``mode()``, ``sample()``.

        The three are the same: there is nothing random in it.
        """
        patches = functional.pixel_unshuffle(pixels, self.config.patch_size) - self.mean[:, None, None]
        latents = torch.einsum("cw,nwij->ncij", self.to_latent, patches)
        found = SimpleNamespace(mean=latents, mode=lambda: latents, sample=lambda _generator=None: latents)
        return SimpleNamespace(latent_dist=found) if return_dict else (found,)

    def decode(self, latents: torch.Tensor, return_dict: bool = True) -> Any:
        """Latents (N, C, h, w) as an output whose ``sample`` is (N, 3, H, W)."""
        patches = torch.einsum("wc,ncij->nwij", self.to_patch, latents) + self.mean[:, None, None]
        pixels = functional.pixel_shuffle(patches, self.config.patch_size)
        return SimpleNamespace(sample=pixels) if return_dict else (pixels,)
