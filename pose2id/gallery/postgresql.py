"""A gallery in a PostgreSQL schema (psycopg 3)."""

from __future__ import annotations

from typing import Any, ClassVar

from pose2id.errors import one_line, require
from pose2id.gallery.database import NOTHING, Database
from pose2id.gallery.schema import sql

URLS = ("postgresql://", "postgres://", "postgresql+psycopg://")


def driver(extra: str, purpose: str) -> Any:
    """The package psycopg."""
    return require("psycopg", extra, purpose)


class PostgreSQL(Database):
    """A schema of a PostgreSQL database; writers take an advisory lock."""

    reads: ClassVar[dict[str, Any]] = {"isolation_level": "REPEATABLE READ"}

    def __init__(self, target: str) -> None:
        sa, url = sql(), _take_url(target)
        hidden = [url.password, url.query.get("password"), url.query.get("sslpassword")]
        self._secrets = [str(word) for word in hidden if word]
        name = sa.URL.create("postgresql", url.username, None, url.host, url.port, url.database).render_as_string()
        super().__init__(name, sa.create_engine(url, pool_pre_ping=True, hide_parameters=True, pool_size=1))

    def _wait(self, connection: Any) -> None:
        words = "SELECT pg_advisory_xact_lock(hashtext('pose2id.gallery'), hashtext(current_schema()))"
        connection.execute(sql().text(words))

    def _explain(self, error: Exception, original: Any, *, committing: bool) -> Exception:
        words = one_line(original, 300)
        for secret in self._secrets:
            words = words.replace(secret, "***")
        state = getattr(original, "sqlstate", None) or ""
        if state == "53100":
            return OSError(f"{self.name} cannot be written: the disk of the server is full; {NOTHING}")
        if state[:2] in ("", "08", "57") or getattr(error, "connection_invalidated", False):
            ending = "; whether the last change is stored tells the gallery's version" if committing else f"; {NOTHING}"
            return ConnectionError(f"{self.name} cannot be reached, or the connection was lost: {words}{ending}")
        return OSError(f"{self.name}: {words}; {NOTHING}")


def _take_url(text: str) -> Any:
    sa = sql()
    scheme = text.partition("://")[0] + "://"
    if scheme not in URLS:
        raise ValueError(f"a gallery is a path or begins with postgresql://, received one that begins with {scheme}")
    driver("postgresql", "A gallery in PostgreSQL")
    try:
        return sa.make_url(text).set(drivername="postgresql+psycopg")
    except Exception:  # noqa: BLE001  its words may hold the password
        raise ValueError(
            "the URL cannot be read, it must look like postgresql://user:password@host:5432/database; "
            "write special letters in the password as %XX"
        ) from None
