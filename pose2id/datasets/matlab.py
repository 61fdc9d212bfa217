"""MATLAB files of lists: one variable, of a file that is as small as lists are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pose2id import matlab
from pose2id.matlab import Other

__all__ = ["Other", "read_variable"]

_LARGEST = 2**26
"""Bytes of a file, and of what is packed in one: the largest table of MARS has some hundred thousand."""


def read_variable(path: Path, variable: str) -> Any:
    """A variable as an array of its shape, at least two-dimensional: of numbers, or of objects for cells; or `Other`.

    ValueError for damaged files, and where there is no such variable or more than one.
    """
    return matlab.read_variable(path, variable, largest=_LARGEST)
