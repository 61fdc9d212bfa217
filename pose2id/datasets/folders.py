"""Finding and listing what a data set consists of, with errors that say what is missing and what was expected."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pose2id.images import SUFFIXES
from pose2id.validation import take_path

Needed = Sequence[str | tuple[str, ...]]
"""Folders and files that a data set must have; a tuple holds alternatives."""
_NAMED = 3
"""How many files an error names."""
_DEEPEST = 3
"""How many folders by one of the usual names may lie in one another."""


def find_root(name: str, root: str | os.PathLike[str], needed: Needed, nested: Sequence[str] = ()) -> Path:
    """The folder that holds all that is `needed`: `root`, or one in it by one of the usual names."""
    return find_layout(name, root, (needed,), nested)[0]


def find_layout(
    name: str, root: str | os.PathLike[str], layouts: Sequence[Needed], nested: Sequence[str] = ()
) -> tuple[Path, int]:
    """The nearest folder that holds all of one of the layouts, and which one that is.

    Looked at are `root`, and the folders in it by the `nested` names, in upper or lower case, three deep: archives and
    toolkits put one into another. FileNotFoundError with what is missing where most is there.
    """
    top = take_path(root, "root")
    if not top.is_dir():
        raise FileNotFoundError(f"{name}: {top} is not a folder")
    folders = level = [top]
    for _ in range(_DEEPEST):
        level = [inner for folder in level for inner in _list_named(folder, nested)]
        folders = [*folders, *level]
    places = [(folder, number) for folder in folders for number in range(len(layouts))]
    missing = [[_words(each) for each in layouts[number] if not _find(folder, each)] for folder, number in places]
    best = min(range(len(places)), key=lambda place: len(missing[place]) / len(layouts[places[place][1]]))
    if not missing[best]:
        return places[best]
    where = f"in the folder given, or in one of these inside it: {', '.join(nested)}" if nested else "in that folder"
    expected = "; or ".join(", ".join(map(_words, needed)) for needed in layouts)
    raise FileNotFoundError(
        f"{name}: {places[best][0]} has no {' and no '.join(missing[best])}; expected {expected} {where}"
    )


def _list_named(folder: Path, names: Sequence[str]) -> list[Path]:
    """The folders in a folder that have one of these names, in upper or lower case, in the order of the names."""
    order = {name.casefold(): place for place, name in reversed(list(enumerate(names)))}
    found = [each for each in list_folders(folder) if each.name.casefold() in order] if names else []
    return sorted(found, key=lambda each: order[each.name.casefold()])


def take(folder: Path, names: str | tuple[str, ...]) -> Path:
    """The first of the alternatives in `folder`; `find_root` has found that there is one."""
    found = _find(folder, names)
    if not found:
        raise FileNotFoundError(f"{folder} has no {_words(names)}")
    return found[0]


def _find(folder: Path, names: str | tuple[str, ...]) -> list[Path]:
    places = [folder / name for name in ((names,) if isinstance(names, str) else names)]
    return [place for place in places if place.exists()]


def is_given(file: Path) -> bool:
    """Whether there is something at this path: a folder or a link to nothing is no reason to do without the file."""
    return file.exists() or file.is_symlink()


def _words(names: str | tuple[str, ...]) -> str:
    return names if isinstance(names, str) else " or ".join(names)


def list_images(folder: Path, *, inner: bool = False) -> list[Path]:
    """The images of a folder by name, as `SUFFIXES` has them; `inner`: the caller reads the folders in it."""
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} must be a folder of images")
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not _is_hidden(entry.name)]
    folders = sorted(entry.name for entry in seen if entry.is_dir())
    if not inner and (passed := [each for each in folders if has_images(folder / each)]):
        raise ValueError(
            f"{folder} has folders with images in it, which would not be read: {named(passed)}; move these images up, "
            "or the folders away"
        )
    found = sorted((entry.name, entry.is_file()) for entry in seen if is_image(entry.name) and not entry.is_dir())
    if lost := [name for name, there in found if not there]:
        raise FileNotFoundError(f"{folder} holds links to images that are not there: {named(lost)}")
    return [folder / name for name, _ in found]


def list_folders(folder: Path) -> list[Path]:
    """The folders in a folder by name, hidden ones left out."""
    return sorted(each for each in folder.iterdir() if each.is_dir() and not _is_hidden(each.name))


def has_images(folder: Path) -> bool:
    """Whether there is an image in this folder, or in one of those in it."""
    waiting = [os.fspath(folder)]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting += [] if _is_hidden(entry.name) else [entry.path]
                elif is_image(entry.name):
                    return True
    return False


def is_image(name: str) -> bool:
    """Whether a file of that name is taken for an image."""
    return name.lower().endswith(SUFFIXES) and not _is_hidden(name)  # macOS writes ._0001.jpg beside 0001.jpg


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def match_names(name: str, files: Sequence[str | Path], pattern: str, example: str, where: Path) -> list[re.Match[str]]:
    """The matches of `pattern` with every file's name up to its suffix.

    ValueError with the names that have none, and for one image in two files, such as `x.jpg` and `x.png`.
    """
    compiled = re.compile(rf"(?:{pattern})(?:\.\w+)+", re.ASCII)
    names = [each if isinstance(each, str) else each.name for each in files]
    matches = [compiled.fullmatch(each) for each in names]
    strange = [each for each, match in zip(names, matches, strict=True) if match is None]
    if strange:
        raise ValueError(
            f"{name}: image files must be named like {example}, found {named(strange)} in {where}; move them away, "
            "or rename them"
        )
    if twice := find_doubles(names):
        raise ValueError(
            f"{name}: an image must be there once, found again, maybe with another suffix: {named(twice)} in {where}; "
            "move all but one away"
        )
    return [match for match in matches if match is not None]


def find_doubles(names: Sequence[str]) -> list[str]:
    """The names, or paths, that are those of earlier ones up to their suffix, in upper or lower case."""
    if len({_stem(name) for name in names}) == len(names):
        return []
    counts = Counter(map(_stem, names))
    return sorted({name for name in names if counts[_stem(name)] > 1})


def _stem(name: str) -> str:
    parent, slash, base = name.rpartition("/")
    return f"{parent}{slash}{base.partition('.')[0].lower()}"


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
        return {entry.name for entry in entries if entry.is_file()}


def named(names: Sequence[str]) -> str:
    """The first few, and how many there are."""
    words = ", ".join(names[:_NAMED])
    return words if len(names) <= _NAMED else f"{words} and {len(names) - _NAMED} more"
