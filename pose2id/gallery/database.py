"""Where a gallery is kept: what a SQLite file (`sqlite`) and PostgreSQL (`postgresql`) have in common.

A writer waits until it is the only one; a reader sees one version, whatever is written meanwhile. What fails is one
line that names the database without its password, and leaves nothing half done.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from pose2id.gallery.schema import sql
from pose2id.gallery.transactions import Transaction

NOTHING = "nothing was changed"


class Database:
    """A database that holds a gallery, by SQLAlchemy's engine for it; `name` is without passwords."""

    path: Path | None = None
    """The file, where it is one."""
    reads: ClassVar[dict[str, Any]] = {}
    """Options of a connection that reads."""
    writes: ClassVar[dict[str, Any]] = {}
    """Options of a connection that writes."""

    def __init__(self, name: str, engine: Any) -> None:
        self.name, self._engine = name, engine

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """One version of the gallery, as long as this is open."""
        self._check()
        with self._explained(), self._engine.connect() as plain:
            connection = plain.execution_options(**self.reads)
            with connection.begin():
                yield Transaction(connection)

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """The only writer; all that is done is stored at the end, or nothing after an error."""
        self._check()
        with self._explained() as told, self._engine.connect() as plain:
            connection = plain.execution_options(**self.writes)
            with connection.begin() as begun:
                self._wait(connection)
                yield Transaction(connection)
                told["committing"] = True
                begun.commit()
                told["committing"] = False

    def _check(self) -> None:
        """OSError where what is open is not what is there."""

    def _wait(self, connection: Any) -> None:
        """Wait until nobody else writes, where the transaction has not done so at its beginning."""

    @contextmanager
    def _explained(self) -> Iterator[dict[str, bool]]:
        """Turn errors of the database into one line each."""
        sa, told = sql(), {"committing": False}
        try:
            yield told
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            raise self._explain(error, getattr(error, "orig", None) or error, committing=told["committing"]) from None

    def _explain(self, error: Exception, original: Any, *, committing: bool) -> Exception:
        """An error of SQLAlchemy, and the driver's own, as one line."""
        raise NotImplementedError
