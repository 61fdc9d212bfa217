"""Lists and indices of data sets, read with every check: text files of names, labels or numbers, and MATLAB tables.

What is read is what the file says, or a ValueError names the file, the line or place, and what was expected there: no
number is rounded, no file is taken twice or from outside of the folder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.datasets.folders import find_doubles, is_image, named
from pose2id.datasets.matlab import Other, read_variable
from pose2id.documents import BLANKS, read_lines

_DRIVE = re.compile(r"[A-Za-z]:")
_LABEL = re.compile(r"-?\d{1,9}", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
_LONGEST = 255
_EXACT = 2**53
"""Up to which whole number float64, in which MATLAB stores all numbers, tells neighbours apart."""


def read_names(path: Path) -> list[str]:
    """The files that a list names, one a line, by paths from the list's folder of images."""
    names = []
    for number, line, text in read_lines(path):
        _check_name(text, f"{path}, entry {number}: must be a file below its folder", line, text)
        names.append(text)
    _check_doubles(path, names, "lines of a path")
    return names


def read_labelled(path: Path) -> tuple[list[str], list[int]]:
    """Paths and labels of a file with lines such as `0001/0001_000_01.jpg 1`."""
    names, labels = [], []
    for number, line, text in read_lines(path):
        where = f"{path}, entry {number}: must be a path and a label"
        cut = max(text.rfind(blank) for blank in BLANKS)
        name, label = text[: max(cut, 0)].rstrip(BLANKS), text[cut + 1 :]
        if not name or not _LABEL.fullmatch(label):
            raise ValueError(f"{where}, found {text[:80]!r} in line {line}")
        _check_name(name, where, line, text)
        names.append(name)
        labels.append(int(label))
    _check_doubles(path, names, "lines of a path and a label")
    return names, labels


def read_people(path: Path) -> list[int]:
    """Identities of a text file (numbers with commas or blanks between) or of a MATLAB file (variable `id`)."""
    if path.suffix == ".mat":
        return [int(number) for number in read_vector(path, "id")]
    people = []
    for _, line, text in read_lines(path):
        for word in text.replace(",", " ").split():
            if not _NUMBER.fullmatch(word):
                raise ValueError(
                    f"{path} must hold identities, numbers with commas between; found {word[:80]!r} in line {line}"
                )
            people.append(int(word))
    if not people:
        raise ValueError(f"{path} must hold identities, numbers with commas between; found nothing")
    return people


def read_vector(path: Path, variable: str) -> NDArray[np.int64]:
    """A row or a column of whole numbers of a MATLAB file, (n,), n >= 1."""
    values = take_whole(read_variable(path, variable), f"{path}: {variable!r}")
    if values.ndim != 2 or 1 not in values.shape or not values.size:
        raise ValueError(f"{path}: {variable!r} must be one row or one column of numbers, has shape {values.shape}")
    return values.reshape(-1)


def take_whole(values: NDArray[Any] | Other, where: str) -> NDArray[np.int64]:
    """A table of a MATLAB file as the whole numbers that it holds, in its shape; `where` begins the error."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        found = "cells" if isinstance(values, np.ndarray) else values.what
        raise ValueError(f"{where} must be a full table of real numbers, found {found}")
    wrong = ~(np.isfinite(values) & (values == np.floor(values)) & (values >= -_EXACT) & (values <= _EXACT))
    if wrong.any():
        place = np.argwhere(wrong)[0]
        at = ", ".join(str(index + 1) for index in place)
        raise ValueError(f"{where} must hold whole numbers, found {values[tuple(place)]} at ({at}), counted from 1")
    return values.astype(np.int64)


def _check_name(name: str, where: str, line: int, text: str) -> None:
    """Raise ValueError unless this is the path of an image, from a folder down, spelled in the only way."""
    parts = name.split("/")
    if "\\" in name:
        what = ", with / between folders and file"
    elif _DRIVE.match(name) or not {"", ".", ".."}.isdisjoint(parts):
        what = ", the path from its folder down, without . and .."
    elif len(name) > _LONGEST:
        what = f", a path of at most {_LONGEST} characters"
    elif not is_image(parts[-1]):
        what = ", the path of an image"
    else:
        return
    raise ValueError(f"{where}{what}; found {text[:80]!r} in line {line}")


def _check_doubles(path: Path, names: Sequence[str], lines: str) -> None:
    if not names:
        raise ValueError(f"{path} is empty, it must hold {lines}")
    if twice := find_doubles(names):
        raise ValueError(f"{path} must name every file once, names again: {named(twice)}")
