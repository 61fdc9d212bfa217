"""What a run of `extract` or `poses` has done so far: a folder beside the output, that the same command goes on with.

`request.json` says what is encoded and how. The rows are cut in blocks, the same in every run, and each finished block
is a file, whole or not at all. So what is written in the end does not depend on how often a run was killed.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from pose2id.atomic import clear_leftovers, remove_folder, write_file
from pose2id.documents import parse_json, read_json
from pose2id.errors import one_line

REQUEST = "request.json"

log = logging.getLogger(__name__)


class Block(NamedTuple):
    """A finished block: of its rows those kept, and why others (or single pictures of them) were skipped."""

    rows: Any  # (n,) numbers of rows within all
    features: Any  # (n, D)
    generated: Any | None  # (n, M, D)
    skipped: dict[str, str]


class Unfinished:
    """The folder of an output that is not finished; made when it is begun."""

    def __init__(self, output: Path, request: dict[str, Any]) -> None:
        self.folder = output.with_name(f"{output.name}.unfinished")
        self.request = _as_read(request)

    def begin(self, *, restart: bool) -> None:
        """Go on with what is there, or begin; ValueError where blocks are of another request, unless `restart`."""
        path = self.folder / REQUEST
        if self.folder.exists():
            clear_leftovers(self.folder)
            old = read_json(path) if path.is_file() else None
            if old == self.request:
                return
            own = isinstance(old, dict) and old.get("pose2id") == self.request["pose2id"]
            if not own and any(self.folder.iterdir()):
                program = self.request["pose2id"]
                raise ValueError(
                    f"{self.folder} is in the way, and not of `{program}`; move it, or name another output"
                )
            if own and not restart and any(self.folder.glob("*.npz")):
                raise ValueError(
                    f"{self.folder} was begun with other settings ({_tell_difference(old, self.request)}); run it with "
                    "those, remove the folder, or pass --overwrite to begin anew"
                )
            remove_folder(self.folder)
        self.folder.mkdir()
        with write_file(path) as temporary:
            temporary.write_text(json.dumps(self.request, indent=1) + "\n", encoding="utf-8")

    def read(self, number: int, stamps: Sequence[Any]) -> Block | None:
        """A finished block; None where it is not, or its photographs have changed since."""
        path = self._path(number)
        if not path.is_file():
            return None
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as held:
                notes = parse_json(str(held["notes"]).encode())
                if notes["stamps"] != _as_read(stamps):
                    return None
                generated = held["generated"] if "generated" in held.files else None
                return Block(held["rows"], held["features"], generated, notes["skipped"])
        except (OSError, ValueError, KeyError, BadZipFile, zlib.error) as error:
            log.warning("%s is damaged (%s) and made anew", path, one_line(error))
            return None

    def write(self, number: int, block: Block, stamps: Sequence[Any]) -> None:
        """Keep a finished block."""
        notes = np.array(json.dumps({"stamps": stamps, "skipped": block.skipped}))
        arrays = {"rows": block.rows, "features": block.features, "notes": notes}
        if block.generated is not None:
            arrays["generated"] = block.generated
        with write_file(self._path(number)) as temporary:
            np.savez(temporary, **arrays)

    def reread(self, number: int, stamps: Sequence[Any]) -> Block:
        """A block that was finished or read before; ValueError where it is not there any more."""
        block = self.read(number, stamps)
        if block is None:
            raise ValueError(f"{self._path(number)} was changed or removed during the run; run it again")
        return block

    def join(self, name: str, parts: Iterator[Any], rows: int) -> Any:
        """Parts one below the other, mapped from a file in the folder.

        The file is written, not mapped: on a full disk a process that writes to a map is killed.
        """
        path = self.folder / f"{name}.npy"
        with write_file(path) as temporary, temporary.open("wb") as stream:
            for number, part in enumerate(parts):
                if not number:
                    head = np.lib.format.header_data_from_array_1_0(np.empty((0, *part.shape[1:]), part.dtype))
                    np.lib.format.write_array_header_1_0(stream, head | {"shape": (rows, *part.shape[1:])})
                stream.write(np.ascontiguousarray(part).data)
        return np.load(path, mmap_mode="r")

    def end(self) -> None:
        """Remove the folder."""
        remove_folder(self.folder)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def stamp(files: Sequence[str | os.PathLike[str]]) -> list[list[int]]:
    """Size and time of change of files, 0 where there is none: whether one has become another."""
    stamps = []
    for file in files:
        try:
            status = Path(file).stat()
            stamps.append([status.st_size, status.st_mtime_ns])
        except OSError:
            stamps.append([0, 0])
    return stamps


def _as_read(content: Any) -> Any:
    """What is read back when this is written as JSON."""
    return parse_json(json.dumps(content).encode())


def _tell_difference(old: Any, new: dict[str, Any]) -> str:
    """In a few words what differs."""
    old = old if isinstance(old, dict) else {}
    names = [name for name in old | new if old.get(name) != new.get(name)]
    words = [f"{name} {old.get(name)} then, {new.get(name)} now" for name in names]
    return "; ".join(word if len(word) < 120 else f"other {name}" for name, word in zip(names, words, strict=True))
