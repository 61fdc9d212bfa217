"""MATLAB files of lists: one variable, of a file that is as small as lists are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pose2id.matlab import Other, read_variables

__all__ = ["Other", "read_variable"]

_LARGEST = 2**26
"""Bytes of a file, and of what is packed in one: the largest table of MARS has some hundred thousand."""


def read_variable(path: Path, variable: str) -> Any:
    """A variable as an array of its shape, at least two-dimensional: of numbers, or of objects for cells; or `Other`.

    ValueError for damaged files, and where there is no such variable or more than one.
    """
    if not path.is_file():
        raise ValueError(f"{path} must be a MATLAB file, it is {'a folder' if path.is_dir() else 'none'}")
    try:
        found = read_variables(path, {variable}, largest=_LARGEST)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    named = [value for name, value in found if name == variable]
    if len(named) != 1:
        held = ", ".join(sorted(name for name, _ in found)) or "nothing"
        raise ValueError(f"{path} must hold a variable {variable!r}, it holds: {held}")
    return named[0]
