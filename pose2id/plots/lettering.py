"""Texts of any length in the room there is: measured, shortened in the middle, broken into lines."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from pose2id.plots.drawing import DPI, load_matplotlib

SLACK = 1.02
"""Widths differ a little between resolutions, for which a figure may be saved."""


@lru_cache(maxsize=1024)
def measure(text: str, size: float, *, bold: bool = False) -> float:
    """The width of one line in inches, in matplotlib's font of that size in points."""
    properties = load_matplotlib("font_manager").font_manager.FontProperties(
        size=size, weight="bold" if bold else "normal"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks; they are drawn as boxes
        width: float = _renderer().get_text_width_height_descent(text, properties, False)[0]
    return SLACK * width / DPI


@lru_cache(maxsize=1)
def _renderer() -> Any:
    return load_matplotlib("backends.backend_agg").backends.backend_agg.RendererAgg(1, 1, DPI)


def one_line(text: object) -> str:
    """Any name without line ends."""
    return " ".join(str(text).split())


def shorten(text: object, width: float, size: float, *, bold: bool = False) -> str:
    """One line that is at most so many inches wide; what does not fit is left out of its middle.

    Names often begin alike and differ at the end, or the other way round, so both ends stay.
    """
    line = one_line(text)
    if measure(line, size, bold=bold) <= width:
        return line
    return _keep(line, _count(lambda kept: measure(_keep(line, kept), size, bold=bold) <= width, len(line)))


def _count(fits: Callable[[int], bool], too_many: int) -> int:
    """The largest number of letters that fits, or 0."""
    most = 0
    while too_many - most > 1:
        middle = (most + too_many) // 2
        most, too_many = (middle, too_many) if fits(middle) else (most, middle)
    return most


def _begins(line: str, width: float, size: float, bold: bool, kept: int) -> bool:
    return measure(line[:kept], size, bold=bold) <= width


def _keep(line: str, kept: int) -> str:
    end = kept // 2
    return f"{line[: kept - end].rstrip()}…{line[len(line) - end :].lstrip()}"


def wrap(text: str, width: float, size: float, *, bold: bool = False) -> str:
    """Lines that are at most so many inches wide, broken at spaces, or within a word that is wider than a line."""
    lines: list[str] = []
    for given in text.split("\n"):
        if measure(given, size, bold=bold) <= width:
            lines.append(given)
            continue
        line = ""
        for word in given.split():
            longer = f"{line} {word}" if line else word
            if measure(longer, size, bold=bold) <= width:
                line = longer
                continue
            lines += [line] * bool(line)
            line = word
            while measure(line, size, bold=bold) > width and len(line) > 1:
                cut = max(1, _count(partial(_begins, line, width, size, bold), len(line)))
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    return "\n".join(lines)
