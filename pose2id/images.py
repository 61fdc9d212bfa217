"""Photographs: read, decoded and turned upright; any kind of file in, RGB out. Nothing here needs more than Pillow."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from pose2id.errors import require

if TYPE_CHECKING:
    from PIL import Image

# Only what photographs come in: of its other formats, Pillow hands some to external programs.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "MPO", "AVIF")
MAX_PIXELS = 89_478_485
"""A larger picture is refused before it is decoded; Pillow's own limit, where it warns of decompression bombs."""
MAX_BYTES = 2**30
PURPOSE = "reading images"


def take_image(image: Image.Image) -> Image.Image:
    """An opened image as `read_image` gives one: RGB, turned upright; 8-bit RGB without orientation stays as it is."""
    upright = require("PIL.ImageOps", "ipg", PURPOSE).exif_transpose(image)
    taken: Image.Image = _as_rgb(upright)
    return taken


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """Read a photograph of a person as RGB, turned upright.

    Grey, palette, CMYK and the like become RGB; transparent pixels become white; of several frames the first is taken;
    the orientation that a camera noted in the file (EXIF) is applied. Grey of more than 8 bits, as infrared cameras
    write it, is scaled from the smallest even number of bits that holds its largest value (12 bits for 3000) to 8 bits.

    Parameters
    ----------
    path : path
        JPEG, PNG, BMP, WebP, TIFF, GIF, PPM, JPEG 2000 or AVIF, whatever its suffix; at most 89,478,485 pixels.

    Returns
    -------
    PIL image
        Mode "RGB".

    Raises
    ------
    ValueError
        When it is no image, is damaged, cut off or too large.
    FileNotFoundError
        When there is no such file.
    MissingExtraError
        Without Pillow.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from pose2id.images import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "infrared.png")
    ...     Image.fromarray(np.full((128, 64), 4095, np.uint16)).save(path)
    ...     read_image(path).getpixel((0, 0))
    (255, 255, 255)
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        return decode(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_bytes(path: Path) -> bytes:
    """The content of a file of at most MAX_BYTES."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"the file has {size:,} bytes, at most {MAX_BYTES:,} are read")
    return path.read_bytes()


def decode(content: bytes) -> Image.Image:
    """The content of an image file as RGB, turned upright; ValueError says what is wrong with it."""
    pillow, operations = (require(f"PIL.{name}", "ipg", PURPOSE) for name in ("Image", "ImageOps"))
    if not content:
        raise ValueError("the file is empty")
    pillow.init()
    stream: BinaryIO = io.BytesIO(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of a size that is checked below
            with pillow.open(stream, formats=[name for name in FORMATS if name in pillow.OPEN]) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise ValueError(f"{width} x {height} pixels are too many, at most {MAX_PIXELS:,} are read")
                image.load()
                upright: Image.Image = _as_rgb(operations.exif_transpose(image))
                return upright
    except pillow.UnidentifiedImageError as error:
        raise ValueError("not an image, or of a kind that is not read") from error
    except MemoryError:
        raise
    except Exception as error:  # damaged files raise nearly everything
        words = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(words if type(error) is ValueError else f"it cannot be decoded: {words}") from error


def _as_rgb(image: Any) -> Any:
    """Any mode of Pillow as RGB; 8-bit RGB stays as it is."""
    pillow = require("PIL.Image", "ipg", PURPOSE)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return pillow.fromarray(_to_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        return pillow.alpha_composite(pillow.new("RGBA", image.size, "white"), coloured).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(grey: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Grey values of more than 8 bits, scaled; the number of bits is guessed from the largest value."""
    values = grey.astype(np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise ValueError("it holds grey values that are negative, NaN or inf")
    largest = float(values.max())
    if grey.dtype.kind == "f" and largest <= 1:
        full = 1.0
    else:
        bits = max(8, int(np.ceil(largest)).bit_length())
        full = 2.0 ** (bits + bits % 2) - 1
    return np.round(values * (255 / full)).astype(np.uint8)
