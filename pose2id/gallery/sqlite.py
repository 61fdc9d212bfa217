"""A gallery in a SQLite file: the embedded default, nothing to start."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Any, ClassVar

from pose2id.errors import one_line
from pose2id.gallery.database import NOTHING, Database
from pose2id.gallery.schema import sql
from pose2id.validation import check_path

PATIENCE = 600.0
"""Seconds that a writer waits for another one."""


class SQLite(Database):
    """A SQLite file, with a write-ahead log; a writer begins with ``BEGIN IMMEDIATE``."""

    path: Path
    writes: ClassVar[dict[str, Any]] = {"pose2id_writes": True}

    def __init__(self, target: str | os.PathLike[str], *, create: bool) -> None:
        sa = sql()
        self.path = Path(os.path.abspath(check_path(target, "a gallery")))  # noqa: PTH100
        name = os.fspath(target)
        if self.path.is_dir():
            raise ValueError(f"{name} is a folder; a gallery is a file")
        if not create and not self.path.exists():
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
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "cache_size=-32768"):
                connection.execute(f"PRAGMA {pragma}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _explain(self, error: Exception, original: Any, *, committing: bool) -> Exception:  # noqa: ARG002
        words = one_line(original, 300)
        if "locked" in words or "busy" in words:
            return TimeoutError(f"{self.name} is written by another process for {PATIENCE:g} s now; {NOTHING}")
        if "not a database" in words or "malformed" in words:
            return ValueError(f"{self.name} is no gallery, or is damaged: {words}")
        full = "; the disk may be full" if "I/O" in words else ""
        return OSError(f"{self.name} cannot be read or written: {words}{full}; {NOTHING}")


def _begin(connection: Any) -> None:
    writes = connection.get_execution_options().get("pose2id_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
