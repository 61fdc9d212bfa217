"""Rows of a gallery in memory, most of them mapped from a file: a cache that the database can always make anew.

A file holds the rows of one version of one gallery and is never changed afterwards; a newer one takes its place. It
is used only if the database knows its version by the same random stamp, so what a lost transaction or another copy of
the database left is not; and if its checksum is right. What changed since is read from the database and kept beside.
"""

from __future__ import annotations

import logging
import mmap
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.arrays import take_array
from pose2id.atomic import write_file
from pose2id.errors import one_line

MAGIC = b"pose2id rows 1\n\0"
HEADER = struct.Struct("<16s32s32sqqqII")  # magic, gallery, stamp, version, rows, columns, checksums of ids and rows
PAGE = 4096
PIECE = 2**24
"""Bytes that are checked at once."""
FEWEST = 4096
"""A file is not written anew for fewer rows beside it."""

Ids = NDArray[np.int64]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Mark:
    """A version of a gallery that no other state has."""

    gallery: str
    version: int
    stamp: str


@dataclass(frozen=True)
class RowStore:
    """Rows (N, D) by ascending id; a change makes a new store, which shares what stays."""

    ids: Ids
    where: Ids  # (N,): a row of `base`, or len(base) + a row of `beside`
    base: torch.Tensor  # (B, D), mapped from a file
    beside: torch.Tensor  # (capacity, D), of which `used` are taken
    used: int = 0
    mapped: mmap.mmap | None = field(default=None, repr=False)  # lives as long as `base`

    @property
    def width(self) -> int:
        """Columns of the rows."""
        return self.base.shape[1]

    def take(self, places: Ids) -> torch.Tensor:
        """The rows at these places; they may be views."""
        where = self.where[places]
        if not len(where):
            return self.base[:0]
        first, last, size = int(where[0]), int(where[-1]), len(self.base)
        if last - first == len(where) - 1 and (len(where) < 2 or bool((np.diff(where) == 1).all())):
            if last < size:
                return self.base[first : last + 1]
            if first >= size:
                return self.beside[first - size : last - size + 1]
        rows = torch.empty(len(where), self.width, dtype=self.base.dtype)
        for part, inside, start in ((self.base, where < size, 0), (self.beside, where >= size, size)):
            at = torch.from_numpy(inside.nonzero()[0])
            if len(at):
                rows[at] = part.index_select(0, torch.from_numpy(where[inside] - start))
        return rows

    def release(self) -> None:
        """Let the system have the memory of what was read from the file; it is read again when it is needed."""
        if self.mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED)

    def drop(self, gone: Ids) -> RowStore:
        """Without these ids."""
        kept = ~np.isin(self.ids, gone)
        return replace(self, ids=self.ids[kept], where=self.where[kept])

    def reserve(self, count: int) -> RowStore:
        """With memory for so many more rows."""
        if self.used + count <= len(self.beside):
            return self
        kept = self.where >= len(self.base)
        held = int(kept.sum())
        beside, where = torch.empty(held + count, self.width, dtype=self.beside.dtype), self.where.copy()
        beside[:held] = self.beside[torch.from_numpy(where[kept] - len(self.base))]
        where[kept] = len(self.base) + np.arange(held)
        return replace(self, where=where, beside=beside, used=held)

    def put(self, ids: Ids, rows: torch.Tensor) -> RowStore:
        """With these rows, whose ids are not there."""
        if self.used + len(rows) > len(self.beside):
            return self.reserve(len(rows) + self.used // 4).put(ids, rows)
        used = self.used + len(rows)
        self.beside[self.used : used] = rows
        together = np.concatenate([self.ids, ids])
        where = np.concatenate([self.where, len(self.base) + self.used + np.arange(len(ids))])
        order = together.argsort(kind="stable")
        return replace(self, ids=together[order], where=where[order], used=used)


def no_rows(width: int) -> RowStore:
    """A store without rows."""
    none = np.zeros(0, np.int64)
    return RowStore(none, none, torch.empty(0, width), torch.empty(0, width))


def save(path: Path, mark: Mark, ids: Ids, width: int, blocks: Iterable[torch.Tensor]) -> RowStore | None:
    """Write rows, some at a time, to a file; a store that maps it, or None where it could not be written."""
    names = ids.astype("<i8").tobytes()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.is_symlink():  # what it leads to is not ours
            path.unlink()
        with write_file(path) as new, new.open("wb") as stream:
            checksum = 0
            stream.seek(_start(len(ids)))
            for block in blocks:
                data = block.numpy().astype("<f4", copy=False).tobytes()
                checksum = zlib.crc32(data, checksum)
                stream.write(data)
            stream.seek(0)
            head = (MAGIC, mark.gallery.encode(), mark.stamp.encode(), mark.version, len(ids), width)
            stream.write(HEADER.pack(*head, zlib.crc32(names), checksum))
            stream.seek(PAGE)
            stream.write(names)
        return _map(path, mark.gallery, check=False)[1]
    except (OSError, ValueError, struct.error) as error:  # it is only a cache
        log.warning("the cache %s is not written: %s", path, one_line(error))
        return None


def discard(path: Path, mark: Mark) -> None:
    """Remove a file unless it holds this version of the gallery or a later one."""
    if not path.is_file() and not path.is_symlink():
        return
    try:
        with suppress(OSError, ValueError, struct.error), path.open("rb") as stream:
            _, name, _, version, *_ = HEADER.unpack(stream.read(HEADER.size))
            if name == mark.gallery.encode() and version >= mark.version:
                return
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the cache %s cannot be removed, and may hold rows that were: %s", path, one_line(error))


def _start(count: int) -> int:
    """Where the rows stand in a file."""
    return PAGE + -(-count * 8 // PAGE) * PAGE


def load(path: Path, gallery: str) -> tuple[Mark, RowStore] | None:
    """The rows of a file, and of which version they are; None where there is none, or it is damaged."""
    try:
        return _map(path, gallery, check=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, struct.error) as error:
        log.warning("the cache %s is not used, it is made anew: %s", path, one_line(error))
        return None


def _map(path: Path, gallery: str, *, check: bool) -> tuple[Mark, RowStore]:
    """As `load`; raises for a file that is none or damaged."""
    if path.exists() and not path.is_file():  # to open a pipe is to wait
        raise ValueError("it is no file")
    with path.open("rb") as stream:
        head = stream.read(HEADER.size)
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    magic, name, stamp, version, count, width, ids_sum, rows_sum = HEADER.unpack(head)
    if magic != MAGIC or name.decode("ascii") != gallery or count < 1 or width < 1:
        raise ValueError("it is of another gallery or kind")
    start = _start(count)
    if len(mapped) != start + 4 * count * width:
        raise ValueError("it has another size than its first page says")
    ids, rows = np.frombuffer(mapped, "<i8", count, PAGE), np.frombuffer(mapped, "<f4", count * width, start)
    base = take_array(rows.astype(np.float32, copy=False).reshape(count, width), "rows")[0]
    store = RowStore(ids.astype(np.int64), np.arange(count), base, torch.empty(0, width), 0, mapped)
    if check:
        checksum = 0
        for begin in range(start, len(mapped), PIECE):
            checksum = zlib.crc32(memoryview(mapped)[begin : begin + PIECE], checksum)
            store.release()
        if zlib.crc32(ids.tobytes()) != ids_sum or checksum != rows_sum:
            raise ValueError("its checksum is wrong")
    return Mark(gallery, version, stamp.decode("ascii")), store
