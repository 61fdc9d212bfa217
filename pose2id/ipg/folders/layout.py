"""Where each generated picture and each contact sheet goes: paths below the output folder from keys and pose names."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath

from pose2id.images import SUFFIXES
from pose2id.ipg.folders.manifest import MANIFEST, Unit

LOCK = ".pose2id.lock"


def place_pictures(units: Iterable[Unit], layout: str) -> dict[tuple[str, str], str]:
    """The path of each picture, (reference, pose), below the output folder; no two meet, whatever the file system."""
    paths = {(key, name): _picture_path(key, name, layout) for unit in units for key, name in unit.pairs()}
    sheets = {(key, "the sheet"): sheet_path(key) for key, _ in paths}
    owners = {_fold(path): f"the run's own {path}" for path in (MANIFEST, LOCK)}
    for (key, name), path in [*paths.items(), *sheets.items()]:
        other = owners.setdefault(_fold(path), f"{key} ({name})")
        if other != f"{key} ({name})":
            raise ValueError(f"{other} and {key} ({name}) would both be written to {path}; rename one of them")
    for folder in {str(parent) for path in owners for parent in PurePosixPath(path).parents}:
        if folder in owners:
            raise ValueError(f"{owners[folder]} would be written to {folder}, which is a folder for others; rename it")
    return paths


def sheet_path(key: str) -> str:
    """The path of a reference's contact sheet."""
    return f"sheets/{_without_suffix(key)}.png"


def _picture_path(key: str, name: str, layout: str) -> str:
    if layout == "reference":
        return f"{_without_suffix(key)}/{name}.png"
    folder = f"pose{name}" if name.isdecimal() else name
    return f"{folder}/{key if key.lower().endswith(('.jpg', '.jpeg', '.png')) else _without_suffix(key) + '.png'}"


def _without_suffix(key: str) -> str:
    stem, suffix = posixpath.splitext(key)
    return stem if suffix.lower() in SUFFIXES else key


def _fold(path: str) -> str:
    """The same for all names that some file system takes for one: without case, accents composed."""
    return unicodedata.normalize("NFC", path).casefold()
