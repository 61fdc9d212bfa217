"""PostgreSQL with pgvector: one table for one gallery; its comment is the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import escape
from pose2id.gallery.postgresql import driver
from pose2id.gallery.stores.records import Record, StoredRow, foreign
from pose2id.gallery.stores.targets import Target

TABLE = "pose2id_gallery_vectors"
LONGEST = 63
"""Bytes of a name in PostgreSQL, which cuts longer ones."""
COLUMNS = (*StoredRow._fields, "vector")


class _Vector(bytes):
    """A vector as the server sends and takes it in binary."""

    @classmethod
    def of(cls, row: NDArray[np.float32]) -> _Vector:
        return cls(len(row).to_bytes(2, "big") + b"\0\0" + row.astype(">f4").tobytes())


class Store:
    """A table; the connection holds a lock, so that no two publish to it at once."""

    def __init__(self, target: Target) -> None:
        self._target, self.name = target, target.name
        self._table = _check_table(target.options.get("table", TABLE))
        self._index = target.index
        self._psycopg = psycopg = driver("pgvector", "Publishing to PostgreSQL")
        self._sql = psycopg.sql
        self._t = self._sql.Identifier(self._table)
        with self._explained():
            self._connection = psycopg.connect(f"postgresql://{target.address}")
        try:
            with self._explained():
                words = "SELECT pg_advisory_lock(hashtext('pose2id.publish'), hashtext(%s))"
                self._connection.execute(words, [self._table])
                self._connection.commit()
        except BaseException:
            self._connection.close()
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except self._psycopg.Error as error:
            kind = OSError if error.sqlstate and error.sqlstate[:2] not in ("08", "57") else ConnectionError
            raise kind(self._target.explain(error)) from None
        except UnicodeError as error:
            raise ValueError(self._target.explain(error)) from None

    def _run(self, words: str, values: Sequence[Any] | None = None, **names: Any) -> Any:
        composed = self._sql.SQL(words).format(t=self._t if values is None else self._quoted(), **names)
        with self._explained():
            return self._connection.execute(composed, values)

    def _quoted(self) -> Any:
        """The table in a statement with placeholders, where a percent sign is written twice."""
        return self._sql.SQL(self._t.as_string(self._connection).replace("%", "%%"))

    def record(self) -> Record | None:
        """The comment of the table."""
        quoted = self._t.as_string(self._connection)
        words = "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c WHERE c.oid = to_regclass(%s)"
        found = self._run(words, [quoted]).fetchone()
        if found is None:
            return None
        record = Record.read(found[0])
        if record is None:
            raise foreign(self.name)
        self._adapt()
        return record

    def _adapt(self) -> Any:
        """Learn what the extension's type is called here, and how to send it; returns the schema it is in."""
        words = (
            "SELECT n.nspname, t.oid FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
            "JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = 'vector' WHERE e.extname = 'vector'"
        )
        found = self._run(words).fetchone()
        if found is None:
            raise OSError(f"{self.name}: the extension vector (pgvector) is gone")
        vector = {"oid": found[1], "format": self._psycopg.pq.Format.BINARY, "dump": lambda _, value: bytes(value)}
        self._connection.adapters.register_dumper(_Vector, type("_Dumper", (self._psycopg.adapt.Dumper,), vector))
        return self._sql.Identifier(found[0])

    def make(self, record: Record) -> None:
        """The table anew, and the extension if need be."""
        self._run("CREATE EXTENSION IF NOT EXISTS vector")
        schema = self._adapt()
        self._run("DROP TABLE IF EXISTS {t}")
        self._run(
            "CREATE TABLE {t} (id bigint PRIMARY KEY, key text NOT NULL, cam text, grp text, time double precision, "
            "zero boolean NOT NULL, vector {s}.vector({width}) NOT NULL)",
            s=schema,
            width=self._sql.Literal(record.width),
        )
        self._run("CREATE INDEX ON {t} (key)")
        if self._index == "hnsw":
            self._run("CREATE INDEX ON {t} USING hnsw (vector {s}.vector_l2_ops)", s=schema)
        self.note(record)

    def note(self, record: Record) -> None:
        """The comment of the table; ends the transaction."""
        self._run("COMMENT ON TABLE {t} IS {text}", text=self._sql.Literal(record.write()))
        with self._explained():
            self._connection.commit()

    def put(self, rows: Sequence[StoredRow], vectors: NDArray[np.float32]) -> None:
        """By their ids."""
        names = self._sql.SQL(", ").join(map(self._sql.Identifier, COLUMNS))
        anew = self._sql.SQL(", ").join(
            self._sql.SQL("{name} = excluded.{name}").format(name=self._sql.Identifier(name)) for name in COLUMNS[1:]
        )
        words = "INSERT INTO {t} ({names}) VALUES ({values}) ON CONFLICT (id) DO UPDATE SET {anew}"
        values = self._sql.SQL(", ").join([self._sql.Placeholder()] * len(COLUMNS))
        composed = self._sql.SQL(words).format(t=self._quoted(), names=names, values=values, anew=anew)
        told = [(*row, _Vector.of(vector)) for row, vector in zip(rows, vectors, strict=True)]
        with self._explained(), self._connection.cursor() as cursor:
            cursor.executemany(composed, told)

    def delete(self, ids: Sequence[int]) -> None:
        """By their ids."""
        self._run("DELETE FROM {t} WHERE id = ANY(%s)", [list(ids)])

    def count(self) -> int:
        """Of all rows."""
        return int(self._run("SELECT count(*) FROM {t}").fetchone()[0])

    def ids(self) -> list[int]:
        """Of all rows."""
        return [row[0] for row in self._run("SELECT id FROM {t} ORDER BY id")]

    def close(self) -> None:
        """What was not noted is undone."""
        self._connection.close()


def _check_table(table: str) -> str:
    size = len(table.encode(errors="replace"))
    if not 0 < size <= LONGEST or "\0" in table:
        raise ValueError(f"table must be a name of 1 to {LONGEST} bytes, received '{escape(table[:80])}'")
    return table
