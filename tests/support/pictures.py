"""Pictures that a small network can learn."""

import numpy as np


def smooth_pictures(count, height=16, width=8, seed=0):
    """Colours that change slowly, with some noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, (count, 3, 2, 3))
    rows, columns = np.linspace(0, 2, height), np.linspace(0, 1, width)
    i, j = rows.astype(int).clip(max=1), columns.astype(int).clip(max=0)
    a, b = (rows - i)[None, :, None, None], (columns - j)[None, None, :, None]
    above = coarse[:, i][:, :, j] * (1 - b) + coarse[:, i][:, :, j + 1] * b
    below = coarse[:, i + 1][:, :, j] * (1 - b) + coarse[:, i + 1][:, :, j + 1] * b
    return (above * (1 - a) + below * a + rng.normal(0, 3, (count, height, width, 3))).clip(0, 255).astype(np.uint8)
