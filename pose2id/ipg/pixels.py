"""Pictures as the tensors that networks take."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from pose2id.images import take_image

__all__ = ["check_shape", "read_pixels", "stack_images"]


def read_pixels(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """An image, turned upright and resized with Lanczos, as (3, height, width) float32 in [0, 1], RGB."""
    if not image.width * image.height:
        raise ValueError(f"an image must have pixels; received one of {image.width} x {image.height}")
    resized = take_image(image).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def stack_images(images: Sequence[Image.Image], height: int, width: int) -> torch.Tensor:
    """PIL images, resized with Lanczos, as (N, 3, height, width) float32 from 0 to 255, RGB; else TypeError."""
    pixels = np.empty((len(images), height, width, 3), np.float32)
    for index, image in enumerate(images):
        if not isinstance(image, Image.Image):
            raise TypeError(f"images must be PIL images, images[{index}] is a {type(image).__name__}")
        pixels[index] = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def check_shape(pixels: torch.Tensor, height: int, width: int) -> None:
    """Raise ValueError unless these are (N, 3, height, width), as an encoder takes them."""
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, height, width):
        raise ValueError(
            f"images must have shape (N, 3, {height}, {width}), as preprocess() makes them, "
            f"received {tuple(pixels.shape)}"
        )
