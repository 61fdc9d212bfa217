"""Finding and listing what a data set consists of, with errors that say what is missing and what was expected."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import one_line
from pose2id.validation import take_path

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""What counts as an image, in upper or lower case. Hidden files and all others (`Thumbs.db`) are passed over.

Fewer than `pose2id.images` reads: whatever counts must be named as the data set names its files, and none of the sets
has a GIF.
"""
Needed = Sequence[str | tuple[str, ...]]
"""Folders and files that a data set must have; a tuple holds alternatives."""
_NAMED = 3
"""How many files an error names."""


def find_root(name: str, root: str | os.PathLike[str], needed: Needed, nested: tuple[str, ...] = ()) -> Path:
    """The folder that holds all that is `needed`: `root`, or the first of the usual `nested` folders in it."""
    top = take_path(root, "root")
    if not top.is_dir():
        raise FileNotFoundError(f"{name}: {top} is not a folder")
    folders = [top, *(top / inner for inner in nested if (top / inner).is_dir())]
    missing = [[_words(each) for each in needed if not _find(folder, each)] for folder in folders]
    best = min(range(len(folders)), key=lambda place: len(missing[place]))
    if not missing[best]:
        return folders[best]
    places = f"in the folder given, or in one of these inside it: {', '.join(nested)}" if nested else "in that folder"
    raise FileNotFoundError(
        f"{name}: {folders[best]} has no {' and no '.join(missing[best])}; "
        f"expected {', '.join(map(_words, needed))} {places}"
    )


def take(folder: Path, names: str | tuple[str, ...]) -> Path:
    """The first of the alternatives in `folder`; `find_root` has found that there is one."""
    found = _find(folder, names)
    if not found:
        raise FileNotFoundError(f"{folder} has no {_words(names)}")
    return found[0]


def _find(folder: Path, names: str | tuple[str, ...]) -> list[Path]:
    places = [folder / name for name in ((names,) if isinstance(names, str) else names)]
    return [place for place in places if place.exists()]


def _words(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else " or ".join(names)


def list_images(folder: Path) -> list[Path]:
    """The images of a folder by name, as `SUFFIXES` has them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of images")
    with os.scandir(folder) as entries:
        found = sorted(
            (entry.name, entry.is_file()) for entry in entries if is_image(entry.name) and not entry.is_dir()
        )
    if lost := [name for name, there in found if not there]:
        raise FileNotFoundError(f"{folder} holds links to images that are not there: {named(lost)}")
    return [folder / name for name, _ in found]


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")  # macOS writes ._0001.jpg beside 0001.jpg


def match_names(name: str, files: Sequence[str | Path], pattern: str, example: str, where: Path) -> list[re.Match[str]]:
    """The matches of `pattern` with every file's name up to its suffix; ValueError with the names that have none."""
    compiled = re.compile(rf"(?:{pattern})(?:\.\w+)+", re.ASCII)
    names = [each if isinstance(each, str) else each.name for each in files]
    matches = [compiled.fullmatch(each) for each in names]
    strange = [each for each, match in zip(names, matches, strict=True) if match is None]
    if strange:
        raise ValueError(
            f"{name}: image files must be named like {example}, found {named(strange)} in {where}; move them away, "
            "or rename them"
        )
    return [match for match in matches if match is not None]


def check_some(name: str, paths: Sequence[Any], where: Path | str) -> None:
    """Raise ValueError unless there is an image."""
    if not paths:
        raise ValueError(f"{name}: {where} holds no images ({', '.join(SUFFIXES)})")


def check_there(name: str, folder: Path, files: Iterable[str], source: Path) -> None:
    """Raise FileNotFoundError unless all files that the list `source` names are in `folder`, by paths from there."""
    listed: dict[str, set[str]] = {}
    missing = []
    for file in files:
        parent, _, base = file.rpartition("/")
        if parent not in listed:
            listed[parent] = _names(folder / parent)
        if base not in listed[parent]:
            missing.append(file)
    if missing:
        raise FileNotFoundError(f"{name}: {source} names files that are not in {folder}: {named(missing)}")


def _names(folder: Path) -> set[str]:
    if not folder.is_dir():
        return set()
    with os.scandir(folder) as entries:  # MARS has a million: no path for each
        return {entry.name for entry in entries}


def named(names: Sequence[str]) -> str:
    """The first few, and how many there are."""
    words = ", ".join(names[:_NAMED])
    return words if len(names) <= _NAMED else f"{words} and {len(names) - _NAMED} more"


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty."""
    if path.is_dir():
        raise ValueError(f"{path} must be a text file, it is a folder")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text file: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_list(path: Path) -> tuple[list[str], list[int]]:
    """Paths and labels of a file with lines such as `0001/0001_000_01.jpg 1`."""
    names, labels = [], []
    for number, line in enumerate(read_lines(path), start=1):
        match = re.fullmatch(r"(.+?)\s+(-?\d{1,9})", line, re.ASCII)
        if match is None:
            raise ValueError(f"{path}, entry {number}: must be a path and a label, found {line[:80]!r}")
        names.append(match[1])
        labels.append(int(match[2]))
    if twice := sorted({each for each, count in Counter(names).items() if count > 1}):
        raise ValueError(f"{path} must name every file once, names again: {named(twice)}")
    if outside := [each for each in names if ".." in Path(each).parts or Path(each).is_absolute()]:
        raise ValueError(f"{path} must name files below its folder, names {named(outside)}")
    if not names:
        raise ValueError(f"{path} is empty, it must hold lines of a path and a label")
    return names, labels


def read_mat(path: Path, variable: str) -> NDArray[Any]:
    """A variable of a MATLAB file up to version 7; nothing in such a file is run."""
    from scipy.io import loadmat  # only MARS and SYSU-MM01 need it

    try:
        content = loadmat(path, appendmat=False)
    except Exception as error:  # damaged files raise nearly everything, version 7.3 NotImplementedError
        raise ValueError(f"{path} cannot be read as a MATLAB file: {one_line(error, 200)}") from error
    if variable not in content:
        held = ", ".join(sorted(key for key in content if not key.startswith("__"))) or "nothing"
        raise ValueError(f"{path} must hold a variable {variable!r}, it holds: {held}")
    return np.asarray(content[variable])
