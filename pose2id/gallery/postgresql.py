"""A gallery in a PostgreSQL schema (psycopg 3)."""

from __future__ import annotations

import logging
import re
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

LOCK = """
SELECT pg_advisory_xact_lock(hashtext('pose2id.gallery'), hashtext(coalesce(
    (SELECT nspname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
     WHERE c.oid = to_regclass('pose2id_gallery')), current_schema())))
"""
"""One lock for one gallery, by the schema that it is in: several search paths may lead there."""


def driver(extra: str, purpose: str) -> Any:
    """The package psycopg."""
    return require("psycopg", extra, purpose)


class PostgreSQL(Database):
    """A schema of a PostgreSQL database; writers take an advisory lock."""

    reads: ClassVar[dict[str, Any]] = {"isolation_level": "REPEATABLE READ"}
    # What is read after waiting for the lock is what the last writer left, whatever the server has as its default.
    writes: ClassVar[dict[str, Any]] = {"isolation_level": "READ COMMITTED"}

    def __init__(self, target: str) -> None:
        url, engine, self._words = _take_url(target)
        parts = (url.username, None, url.host, url.port, url.database)
        super().__init__(sql().URL.create("postgresql", *parts).render_as_string(), engine)

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
        connection.execute(sql().text(LOCK))

    def _explain(self, error: Exception, original: Any, *, committing: bool) -> Exception:
        words = self._words(original)
        state = getattr(original, "sqlstate", None) or ""
        if state == "53100":
            return OSError(f"{self.name} cannot be written: the disk of the server is full; {NOTHING}")
        if not state and isinstance(original, driver("postgresql", "").ProgrammingError):
            return ValueError(f"{self.name} cannot be read as a URL: {words}")
        driven = isinstance(error, sql().exc.DBAPIError)
        if driven and (not state or state.startswith(LOST) or getattr(error, "connection_invalidated", False)):
            ending = "; whether the last change is stored tells the gallery's version" if committing else f"; {NOTHING}"
            return ConnectionError(f"{self.name} cannot be reached, or the connection was lost: {words}{ending}")
        return OSError(f"{self.name}: {words}; {NOTHING}")


def _take_url(text: str) -> tuple[Any, Any, Callable[[Exception], str]]:
    """The URL for SQLAlchemy, its engine, and what says of an error what shows no password."""
    scheme, _, rest = text.partition("://")
    if f"{scheme}://" not in URLS:
        began = f"one that begins with {scheme}://" if re.fullmatch(r"[\w+]{1,30}", scheme) else "something else"
        raise ValueError(f"a gallery is a path or begins with postgresql://, received {began}")
    driver("postgresql", "A gallery in PostgreSQL")
    target = take_target(f"postgresql://{rest}")  # refuses what may have a password in the wrong place
    try:
        url = sql().make_url(text).set(drivername="postgresql+psycopg")
        # Any text can be a key, whatever the encoding of the database.
        options = {"connect_args": {"client_encoding": "utf8"}, "pool_pre_ping": True, "pool_size": 1}
        return url, sql().create_engine(url, hide_parameters=True, **options), target.words
    except Exception:  # noqa: BLE001  its words may hold the password
        raise unreadable("postgresql") from None
