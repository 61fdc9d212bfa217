"""Drawing: the palette, a new figure, pictures as RGBA; the one place where matplotlib is imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pose2id.errors import require

if TYPE_CHECKING:
    from matplotlib.axes import Axes as Axes
    from matplotlib.figure import Figure as Figure

    Images = Sequence[ArrayLike] | NDArray[Any]

INK = "#1f2933"
MUTED = "#616e7c"
RULE = "#d9dee4"
# Bluish green and vermilion of the Okabe-Ito palette stay apart under red-green colour blindness; line style and mark
# tell right from wrong as well.
RIGHT = "#009e73"
WRONG = "#c8203a"
COLOURS = ("#7b8794", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#3b3f9e", "#56b4e9")

DPI = 200
WIDTH = 8.0  # inches


def check_matplotlib(purpose: str) -> None:
    """Raise MissingExtraError, whose first words are `purpose`, where matplotlib cannot be imported."""
    require("matplotlib", extra="plots", purpose=purpose)


def load_matplotlib(*modules: str) -> Any:
    """The package with these of its modules, never pyplot: ``load_matplotlib("figure").figure.Figure``."""
    for module in modules:
        require(f"matplotlib.{module}", extra="plots", purpose="pose2id.plots")
    return require("matplotlib", extra="plots", purpose="pose2id.plots")


def new_figure(width: float, height: float) -> Figure:
    """An empty white figure of this size in inches, that belongs to no window."""
    matplotlib = load_matplotlib("backends.backend_agg", "figure")
    figure: Figure = matplotlib.figure.Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    matplotlib.backends.backend_agg.FigureCanvasAgg(figure)
    return figure


def as_rgba(image: ArrayLike) -> NDArray[np.float64]:
    """An (H, W, 4) picture with floats in [0, 1]; bool is dark ink on a clear ground."""
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(f"an image must have shape (H, W), (H, W, 3) or (H, W, 4), received {pixels.shape}")
    if pixels.dtype == np.bool_:
        if pixels.ndim == 3:
            raise ValueError(f"a bool image must have shape (H, W), received {pixels.shape}")
        ink = np.array([0x1F, 0x29, 0x33]) / 255
        return np.concatenate([np.broadcast_to(ink, (*pixels.shape, 3)), pixels[..., None]], axis=2)
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    elif pixels.dtype.kind != "f" or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"an image must be bool, uint8, or floats in [0, 1]; received {pixels.dtype} "
            f"from {pixels.min()} to {pixels.max()}"
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        pixels = np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], axis=2)
    return pixels.astype(np.float64)
