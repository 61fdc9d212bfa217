"""Photographs: read, decoded and turned upright, any kind of file in, RGB out; and contact sheets of pictures.

Nothing here needs more than Pillow (extra `ipg`).
"""

from __future__ import annotations

import io
import os
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import one_line, require
from pose2id.validation import check_choice, check_count

if TYPE_CHECKING:
    from PIL import Image

# Only what photographs come in: of its other formats, Pillow hands some to external programs.
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "MPO", "AVIF")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".jp2", ".avif")
"""By which photographs and pose maps are looked for in folders, in small letters."""
MAX_PIXELS = 89_478_485
"""A larger picture is refused before it is decoded; Pillow's own limit, where it warns of decompression bombs."""
MAX_BYTES = 2**30
LABEL_LINES, LINE_HEIGHT, LETTER_WIDTH = 5, 12, 7
"""Of the texts on contact sheets: how many lines at most, and their pixels in Pillow's own font."""
PURPOSE = "reading images"


def take_image(image: Image.Image | str | os.PathLike[str], name: str = "image") -> Image.Image:
    """A path, or an opened image, as `read_image` gives one; an 8-bit RGB image without orientation stays as it is."""
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)
    if not hasattr(image, "convert"):
        raise TypeError(f"{name} must be a PIL image or a path, received {type(image).__name__}")
    taken: Image.Image = _as_rgb(require("PIL.ImageOps", "ipg", PURPOSE).exif_transpose(image))
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
        words = one_line(error, 200)
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


def draw_sheet(
    rows: Sequence[Sequence[Image.Image | NDArray[np.uint8] | None]],
    size: tuple[int, int],
    *,
    labels: Sequence[Sequence[str]] | None = None,
    resampling: str = "lanczos",
) -> Image.Image:
    """A contact sheet: rows of pictures of one size on white, RGB.

    Parameters
    ----------
    rows : sequence of sequences of PIL images, arrays (H, W, 3) of uint8, or None
        From top to bottom, from left to right; None leaves the place white. Rows may be of different lengths.
    size : (int, int)
        Width and height of each picture on the sheet, in pixels.
    labels : sequence of sequences of str, optional
        A text below each picture, of at most five lines.
    resampling : str
        Pillow's name of the filter that resizes the pictures.

    Raises
    ------
    ValueError
        For rows without a place, a size below 1 x 1, and a filter that Pillow has not.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.images import draw_sheet
    >>> black = np.zeros((2, 1, 3), np.uint8)
    >>> draw_sheet([[None, black], [black, black, black]], (32, 64)).size
    (96, 128)
    """
    pillow, drawing = (require(f"PIL.{name}", "ipg", "a contact sheet") for name in ("Image", "ImageDraw"))
    width, height = (check_count(side, "size", 1) for side in size)
    if not any(map(len, rows)):
        raise ValueError(f"rows must have at least one place, received {len(rows)} rows without any")
    check_choice(resampling, "resampling", tuple(each.name.lower() for each in pillow.Resampling))
    room = 0 if labels is None else LABEL_LINES * LINE_HEIGHT + 4
    sheet: Image.Image = pillow.new("RGB", (width * max(map(len, rows)), (height + room) * len(rows)), "white")
    for line, row in enumerate(rows):
        for column, cell in enumerate(row):
            if cell is not None:
                picture = pillow.fromarray(cell) if isinstance(cell, np.ndarray) else cell
                place = column * width, line * (height + room)
                sheet.paste(picture.resize(size, pillow.Resampling[resampling.upper()]), place)
    pen = drawing.Draw(sheet)
    for line, texts in enumerate(labels or ()):
        for column, text in enumerate(texts):
            for number, words in enumerate(textwrap.wrap(text, max(1, width // LETTER_WIDTH))[:LABEL_LINES]):
                place = column * width + 2, line * (height + room) + height + 2 + number * LINE_HEIGHT
                pen.text(place, words, fill="black")
    return sheet
