"""Random erasing of pictures (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def draw_rectangle(
    height: int,
    width: int,
    area: float,
    aspect: float,
    rng: np.random.Generator,
    rounded: Callable[[float], int] = round,
) -> tuple[slice, slice]:
    """Rows and columns of a rectangle at a random place in a picture of `height` x `width`.

    `area` is its share of the picture, `aspect` its height by its width. Sides too long for the picture are cut to it.
    """
    area *= height * width
    tall = min(height, max(1, rounded((area * aspect) ** 0.5)))
    wide = min(width, max(1, rounded((area / aspect) ** 0.5)))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    return slice(top, top + tall), slice(left, left + wide)


def draw_published(height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a rectangle of the published sizes and shapes."""
    return draw_rectangle(height, width, rng.uniform(0.02, 0.4), rng.uniform(0.3, 1 / 0.3), rng)


def erase(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of a picture (H, W, 3) with random pixels in a random rectangle, of the published sizes and shapes."""
    height, width, _ = picture.shape
    changed = picture.copy()
    fill(changed, draw_published(height, width, rng), rng)
    return changed


def fill(picture: NDArray[np.uint8], rectangle: tuple[slice, slice], rng: np.random.Generator) -> None:
    """Put random pixels into a rectangle."""
    picture[rectangle] = rng.integers(256, size=picture[rectangle].shape, dtype=np.uint8)
