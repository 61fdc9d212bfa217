"""A linear image codec for small pictures; stands in for the autoencoder where there are no pretrained weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional

from pose2id.ipg.weights.parts import CheckedModel

if TYPE_CHECKING:
    from typing import Self


class PatchCodec(CheckedModel, ModelMixin, ConfigMixin):
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
    >>> from pose2id.ipg.networks import PatchCodec
    >>> pictures = np.random.default_rng(0).integers(0, 256, (8, 64, 32, 3), dtype=np.uint8)
    >>> codec = PatchCodec.fit(pictures, latent_channels=48)  # as many as a patch has numbers: nothing is lost
    >>> pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    >>> latents = codec.encode(pixels).latent_dist.mean
    >>> latents.shape, bool((codec.decode(latents).sample - pixels).abs().max() < 1e-4)
    (torch.Size([8, 48, 16, 8]), True)
    """

    __module__ = "pose2id.ipg.small"  # the path that saved pipelines name

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
