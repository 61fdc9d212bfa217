"""A gallery in a SQLite file: the embedded default, nothing to start."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

from pose2id.errors import hide_passwords, one_line
from pose2id.gallery.database import NOTHING, Database
from pose2id.gallery.schema import sql
from pose2id.validation import take_path

PAGE = 32768
"""Bytes of a page of a new file: of 4096, which is SQLite's own choice, a row of 512 columns leaves half unused."""
PATIENCE = 600.0
"""Seconds that a writer waits for another one."""


class SQLite(Database):
    """A SQLite file, with a write-ahead log; a writer begins with ``BEGIN IMMEDIATE``."""

    path: Path
    writes: ClassVar[dict[str, Any]] = {"pose2id_writes": True}

    def __init__(self, target: str | os.PathLike[str], *, create: bool) -> None:
        sa = sql()
        self.path = Path(os.path.abspath(take_path(target, "a gallery")))  # noqa: PTH100
        self._file: tuple[int, int] | None = None  # that is open
        name = hide_passwords(os.fspath(target))  # it may be a URL that is written wrongly
        if self.path.is_dir():
            raise ValueError(f"{name} is a folder; a gallery is a file")
        if not create and not (self.path.exists() and self.path.stat().st_size):
            raise FileNotFoundError(f"there is no gallery {name}")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{name} cannot be made: its folder does not exist")
        engine = sa.create_engine(
            "sqlite://", creator=self._connect, poolclass=sa.pool.StaticPool, hide_parameters=True
        )
        sa.event.listen(engine, "begin", _begin)
        super().__init__(name, engine)

    def _connect(self) -> sqlite3.Connection:
        # Not SQLAlchemy's URL of a path, in which some letters mean something.
        connection = sqlite3.connect(
            self.path,
            timeout=PATIENCE,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            held = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type <> 'index'")}
            if held and "pose2id_gallery" not in held:  # which is left as it is, to the last byte
                raise ValueError(f"{self.name} is a database of something else; name another file")
            for pragma in (
                f"page_size={PAGE}",
                "journal_mode=WAL",
                "synchronous=FULL",
                "secure_delete=ON",
                "cache_size=-32768",
            ):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        self._file = _identify(self.path)
        return connection

    def _check(self) -> None:
        """What is written to a file that has no name any more is lost, and may harm another one of its name."""
        if self._file is not None and _identify(self.path) != self._file:
            raise OSError(f"{self.name} was removed or replaced while it was open; close it and open it again")

    def _explain(self, error: Exception, original: Any, *, committing: bool) -> Exception:  # noqa: ARG002
        words = one_line(original, 300)
        if "locked" in words or "busy" in words:
            return TimeoutError(f"{self.name} is written by another process for {PATIENCE:g} s now; {NOTHING}")
        if "not a database" in words or "malformed" in words:
            return ValueError(f"{self.name} is no gallery, or is damaged: {words}")
        full = "; the disk may be full" if "I/O" in words else ""
        return OSError(f"{self.name} cannot be read or written: {words}{full}; {NOTHING}")


def _identify(path: Path) -> tuple[int, int] | None:
    """Which file this is, whatever its name."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("pose2id_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
