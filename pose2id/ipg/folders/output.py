"""The output folder: where each picture and contact sheet goes, which files are there, how one is written."""

from __future__ import annotations

import io
import os
import posixpath
import unicodedata
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pose2id.atomic import clear_leftovers, write_file
from pose2id.errors import require
from pose2id.images import PURPOSE, SUFFIXES
from pose2id.ipg.folders.keys import LOCK
from pose2id.ipg.folders.manifest import MANIFEST, Unit
from pose2id.validation import check_path

if TYPE_CHECKING:
    from PIL import Image


class OutputFolder:
    """The folder that a run writes into; made where it is not there."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = check_path(root, "output")
        self.files: set[str] = set()  # finished pictures and sheets, as paths below `root` with "/"
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"output {self.root} must be a folder, it is a file")
        self.root.mkdir(parents=True, exist_ok=True)
        self._real_root = os.path.realpath(self.root)  # Path.resolve fails on a link that leads to itself

    def place(self, target: str) -> Path:
        """Where a file or folder of this folder is; ValueError when a link leads out."""
        path = self.root / target
        if not Path(os.path.realpath(path)).is_relative_to(self._real_root):
            raise ValueError(f"{path} is not inside {self.root}, a link leads out of it; remove the link")
        return path

    def list_files(self, folders: Iterable[str]) -> None:
        """See which files are in these folders; half-written ones of a run that was killed are removed."""
        for folder in set(folders):
            place = self.place(folder)
            clear_leftovers(place)
            with suppress(FileNotFoundError), os.scandir(place) as entries:
                # Of a link that leads to itself entry.is_file() raises.
                self.files.update(posixpath.join(folder, entry.name) for entry in entries if Path(entry).is_file())

    def write(self, target: str, content: bytes) -> None:
        """Write a file so that it is there completely or not at all, even after a loss of power."""
        path = self.place(target)  # before any folder is made
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_file(path) as temporary:
            temporary.write_bytes(content)
        self.files.add(target)

    def write_picture(self, target: str, picture: Image.Image, poses: str | None = None) -> None:
        """Write a picture as JPEG or PNG, as its name says; `poses` is a note in a PNG."""
        buffer = io.BytesIO()
        if target.lower().endswith((".jpg", ".jpeg")):
            picture.save(buffer, "JPEG", quality=95, subsampling=0)
        else:
            texts = require("PIL.PngImagePlugin", "ipg", PURPOSE).PngInfo()
            if poses is not None:
                texts.add_text("poses", poses)
            picture.save(buffer, "PNG", pnginfo=texts)
        self.write(target, buffer.getvalue())


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
    return f"sheets/{without_suffix(key)}.png"


def _picture_path(key: str, name: str, layout: str) -> str:
    if layout == "reference":
        return f"{without_suffix(key)}/{name}.png"
    folder = f"pose{name}" if name.isdecimal() else name
    return f"{folder}/{key if key.lower().endswith(('.jpg', '.jpeg', '.png')) else without_suffix(key) + '.png'}"


def without_suffix(key: str) -> str:
    """The key of a photograph without the suffix of its format."""
    stem, suffix = posixpath.splitext(key)
    return stem if suffix.lower() in SUFFIXES else key


def _fold(path: str) -> str:
    """The same for all names that some file system takes for one: without case, accents composed."""
    return unicodedata.normalize("NFC", path).casefold()
