"""Random erasing of pictures (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_rectangle", "erase"]

_AREAS = (0.02, 0.4)
_ASPECTS = (0.3, 1 / 0.3)


def draw_rectangle(
    height: int,
    width: int,
    area: float,
    aspect: float,
    rng: np.random.Generator,
    rounded: Callable[[float], int] = round,
) -> tuple[slice, slice]:
    """Rows and columns of a rectangle at a random place in a picture of `height` x `width`.

    `area` is its share of the picture, `aspect` its height by its width; its sides are made integers by `rounded`. A
    side that is too long for the picture is cut to it.
    """
    area *= height * width
    tall = min(height, max(1, rounded((area * aspect) ** 0.5)))
    wide = min(width, max(1, rounded((area / aspect) ** 0.5)))
    top, left = int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1))
    return slice(top, top + tall), slice(left, left + wide)


def erase(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of a picture (H, W, 3) with random pixels in a random rectangle.

    2 to 40 per cent of the area, 0.3 to 3.3 times as high as wide.
    """
    height, width, _ = picture.shape
    rows, columns = draw_rectangle(height, width, rng.uniform(*_AREAS), rng.uniform(*_ASPECTS), rng)
    changed = picture.copy()
    changed[rows, columns] = rng.integers(256, size=changed[rows, columns].shape, dtype=np.uint8)
    return changed
