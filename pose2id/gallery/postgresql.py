"""A gallery in a PostgreSQL schema (psycopg 3)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from pose2id.errors import require
from pose2id.gallery.database import NOTHING, Database
from pose2id.gallery.schema import sql
from pose2id.gallery.stores.targets import take_target, unreadable
from pose2id.gallery.transactions import Transaction

URLS = ("postgresql://", "postgres://", "postgresql+psycopg://")
LOST = ("08", "57P")
"""How the codes of errors begin after which the connection is of no use: it broke, or the server ended it."""


def driver(extra: str, purpose: str) -> Any:
    """The package psycopg."""
    return require("psycopg", extra, purpose)


class PostgreSQL(Database):
    """A schema of a PostgreSQL database; writers take an advisory lock."""

    reads: ClassVar[dict[str, Any]] = {"isolation_level": "REPEATABLE READ"}

    def __init__(self, target: str) -> None:
        sa, (url, self._words) = sql(), _take_url(target)
        name = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()
        super().__init__(name, sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, pool_size=1))

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        """As of every database; psycopg's warning that it could not end what a lost connection had begun is no news."""
        log = logging.getLogger("psycopg")

        def is_news(record: logging.LogRecord) -> bool:
            return not record.getMessage().startswith("error ignored")

        log.addFilter(is_news)
        try:
            with super().write() as told:
                yield told
        finally:
            log.removeFilter(is_news)

    def _wait(self, connection: Any) -> None:
        words = "SELECT pg_advisory_xact_lock(hashtext('pose2id.gallery'), hashtext(current_schema()))"
        connection.execute(sql().text(words))

    def _explain(self, error: Exception, original: Any, *, committing: bool) -> Exception:
        words = self._words(original)
        state = getattr(original, "sqlstate", None) or ""
        if state == "53100":
            return OSError(f"{self.name} cannot be written: the disk of the server is full; {NOTHING}")
        if not state and isinstance(original, driver("postgresql", "").ProgrammingError):
            return ValueError(f"{self.name} cannot be read as a URL: {words}")
        if not state or state.startswith(LOST) or getattr(error, "connection_invalidated", False):
            ending = "; whether the last change is stored tells the gallery's version" if committing else f"; {NOTHING}"
            return ConnectionError(f"{self.name} cannot be reached, or the connection was lost: {words}{ending}")
        return OSError(f"{self.name}: {words}; {NOTHING}")


def _take_url(text: str) -> tuple[Any, Callable[[Exception], str]]:
    """The URL for SQLAlchemy, and what says of an error what shows no password."""
    scheme, _, rest = text.partition("://")
    if f"{scheme}://" not in URLS:
        raise ValueError(f"a gallery is a path or begins with postgresql://, received one that begins with {scheme}://")
    driver("postgresql", "A gallery in PostgreSQL")
    target = take_target(f"postgresql://{rest}")  # refuses what may have a password in the wrong place
    try:
        return sql().make_url(text).set(drivername="postgresql+psycopg"), target.words
    except Exception:  # noqa: BLE001  its words may hold the password
        raise unreadable("postgresql") from None
