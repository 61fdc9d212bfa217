"""PostgreSQL with pgvector: one table for one gallery; its comment is the record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import escape
from pose2id.gallery.postgresql import LOST, driver
from pose2id.gallery.stores.records import Record, StoredRow, foreign
from pose2id.gallery.stores.targets import Target

TABLE = "pose2id_gallery_vectors"
LONGEST = 63
"""Bytes of a name in PostgreSQL, which cuts longer ones."""
WIDEST = 2000
"""Columns of an approximate index."""
TYPES = ("int8", "text", "text", "text", "float8", "bool")
"""Of the columns, as those of `StoredRow`; the vector's is known once the extension is there."""


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
            self._connection = psycopg.connect(f"postgresql://{target.address}", client_encoding="utf8")
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
            if error.sqlstate is None and isinstance(error, self._psycopg.ProgrammingError):
                raise ValueError(self._target.explain(error)) from None  # libpq does not know a word of the target
            lost = error.sqlstate is None or error.sqlstate.startswith(LOST)
            raise (ConnectionError if lost else OSError)(self._target.explain(error)) from None
        except UnicodeError as error:
            raise ValueError(self._target.explain(error)) from None

    def _run(self, words: str, **names: Any) -> Any:
        """Run a statement; `names` are composed into it, and the table as `{t}`."""
        composed = self._sql.SQL(words).format(t=self._t, **names)
        with self._explained():
            return self._connection.execute(composed)

    def _quoted(self) -> Any:
        """The table as PostgreSQL writes it, as text."""
        return self._sql.Literal(self._t.as_string(self._connection))

    def record(self) -> Record | None:
        """The comment of the table."""
        words = "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c WHERE c.oid = to_regclass({quoted})"
        found = self._run(words, quoted=self._quoted()).fetchone()
        if found is None:
            return None
        record = Record.read(found[0])
        if record is None:
            raise foreign(self.name)
        return record

    def _adapt(self) -> tuple[str, int]:
        """The schema of the extension, and the number of its type, which the connection learns to send."""
        words = (
            "SELECT n.nspname, t.oid FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
            "JOIN pg_type t ON t.typnamespace = n.oid AND t.typname = 'vector' WHERE e.extname = 'vector'"
        )
        found = self._run(words).fetchone()
        if found is None:
            raise OSError(f"{self.name}: the extension vector (pgvector) is gone; write everything (anew=True, --anew)")
        vector = {"oid": found[1], "format": self._psycopg.pq.Format.BINARY, "dump": lambda _, value: bytes(value)}
        self._connection.adapters.register_dumper(_Vector, type("_Dumper", (self._psycopg.adapt.Dumper,), vector))
        return found[0], found[1]

    def make(self, record: Record) -> None:
        """The table anew, and the extension if need be."""
        if self._index == "hnsw" and record.width > WIDEST:
            raise ValueError(
                f"{self.name} cannot have index=hnsw, which pgvector makes of at most {WIDEST:,} columns; the gallery "
                f"has {record.width:,}; publish without it"
            )
        self._run("CREATE EXTENSION IF NOT EXISTS vector")
        schema = self._sql.Identifier(self._adapt()[0])
        self._run("DROP TABLE IF EXISTS {t}")
        self._run(
            "CREATE TABLE {t} (id bigint PRIMARY KEY, key text NOT NULL, cam text, grp text, time double precision, "
            "zero boolean NOT NULL, vector {s}.vector({width}) NOT NULL)",
            s=schema,
            width=self._sql.Literal(record.width),
        )
        self._run("CREATE INDEX ON {t} (key)")
        self.note(record)

    def _make_index(self) -> None:
        """The approximate index, if it is not there: of all rows at once, which is faster than row by row."""
        words = (
            "SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam "
            "WHERE a.amname = 'hnsw' AND i.indrelid = to_regclass({quoted})"
        )
        if self._run(words, quoted=self._quoted()).fetchone() is None:
            schema = self._sql.Identifier(self._adapt()[0])
            self._run("CREATE INDEX ON {t} USING hnsw (vector {s}.vector_l2_ops)", s=schema)

    def note(self, record: Record) -> None:
        """The comment of the table; ends the transaction."""
        if self._index == "hnsw" and record.version >= 0:  # filled for the first time
            self._make_index()
        self._run("COMMENT ON TABLE {t} IS {text}", text=self._sql.Literal(record.write()))
        with self._explained():
            self._connection.commit()

    def put(self, rows: Sequence[StoredRow], vectors: NDArray[np.float32]) -> None:
        """By their ids. Taken out and copied in: some times as fast as an INSERT of each."""
        self.delete([row.id for row in rows])
        names = ", ".join((*StoredRow._fields, "vector"))
        words = self._sql.SQL(f"COPY {{t}} ({names}) FROM STDIN (FORMAT BINARY)").format(t=self._t)
        types = [*TYPES, self._adapt()[1]]
        with self._explained(), self._connection.cursor() as cursor, cursor.copy(words) as copy:
            copy.set_types(types)
            for row, vector in zip(rows, vectors, strict=True):
                copy.write_row((*row, _Vector.of(vector)))

    def delete(self, ids: Sequence[int]) -> None:
        """By their ids."""
        self._run("DELETE FROM {t} WHERE id = ANY({ids}::bigint[])", ids=self._sql.Literal(list(ids)))

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
