"""What is asked and told within one transaction: all of a gallery's SQL, in SQLAlchemy Core, for every database."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from operator import itemgetter
from typing import Any

from pose2id.gallery.schema import MIGRATIONS, SCHEMA, Head, Row, sql, tables
from pose2id.gallery.settings import Settings

AT_ONCE = 4000
"""Ids or keys that one statement names: SQLite takes 32,766, PostgreSQL 65,535."""


class Transaction:
    """What is asked and told within one transaction."""

    def __init__(self, connection: Any) -> None:
        self._connection, self._sa, self._tables = connection, sql(), tables()

    def _all(self, statement: Any) -> list[Any]:
        return list(self._connection.execute(statement))

    # The gallery as a whole.

    def is_made(self) -> bool:
        """Whether there is a gallery."""
        return bool(self._sa.inspect(self._connection).has_table("pose2id_gallery"))

    def make(self, name: str, settings: Settings, width: int | None, listed: int) -> None:
        """Make the tables, and the empty gallery."""
        there = set(self._sa.inspect(self._connection).get_table_names()) & set(self._tables.data.tables)
        if there:
            raise ValueError(f"{name} holds something else, in tables of these names: {', '.join(sorted(there))}")
        self._tables.data.create_all(self._connection)
        head = {"one": 1, "schema_version": SCHEMA, "gallery": secrets.token_hex(16), "width": width, "listed": listed}
        head |= {"fused": False, "next_id": 1, "version": 0, **asdict(settings)}
        self._connection.execute(self._tables.gallery.insert().values(head))
        self._note(0, "made", 0)

    def migrate(self, name: str) -> None:
        """Bring the tables to the present schema version; ValueError where they are of a later one."""
        gallery = self._tables.gallery
        found = self._schema_version()
        if found > SCHEMA:
            raise ValueError(f"{name} was written by a later pose2id (schema {found}, here {SCHEMA}); update pose2id")
        for version in range(found, SCHEMA):
            MIGRATIONS[version](self._connection)
            self._connection.execute(gallery.update().values(schema_version=version + 1))

    def is_current(self) -> bool:
        """Whether the tables are of the present schema version."""
        return self._schema_version() == SCHEMA

    def _schema_version(self) -> int:
        return int(self._connection.execute(self._sa.select(self._tables.gallery.c.schema_version)).scalar_one())

    def head(self) -> Head:
        """What is said of the whole; ValueError where another program migrated it meanwhile."""
        gallery, versions = self._tables.gallery.c, self._tables.versions.c
        asked = self._sa.select(self._tables.gallery, versions.stamp).where(versions.version == gallery.version)
        found = dict(self._connection.execute(asked).mappings().one())
        if found["schema_version"] != SCHEMA:
            raise ValueError(f"the gallery is of schema {found['schema_version']}, here {SCHEMA}; open it again")
        settings = Settings(**{name: found[name] for name in asdict(Settings())})
        names = ("gallery", "width", "listed", "fused", "next_id", "version", "stamp")
        return Head(**{name: found[name] for name in names}, settings=settings)

    def is_version(self, version: int, stamp: str) -> bool:
        """Whether the gallery had this state once."""
        versions = self._tables.versions.c
        asked = self._sa.select(versions.stamp).where(versions.version == version)
        return bool(self._connection.execute(asked).scalar_one_or_none() == stamp)

    def fix_width(self, width: int) -> None:
        """The columns of all rows to come, where that is not decided yet."""
        gallery = self._tables.gallery
        self._connection.execute(gallery.update().where(gallery.c.width.is_(None)).values(width=width))

    def advance(self, version: int, action: str, count: int, **head: Any) -> None:
        """Say that this is a new version; `head` are further columns that change."""
        self._connection.execute(self._tables.gallery.update().values(version=version, **head))
        self._note(version, action, count)

    def _note(self, version: int, action: str, count: int) -> None:
        values = {"version": version, "stamp": secrets.token_hex(16), "at": time.time(), "action": action}
        self._connection.execute(self._tables.versions.insert().values(**values, count=count))

    def history(self, since: int) -> list[Any]:
        """Version, time, action and number of rows of each change after a version."""
        versions = self._tables.versions.c
        columns = (versions.version, versions.at, versions.action, versions.count)
        return self._all(self._sa.select(*columns).where(versions.version > since).order_by(versions.version))

    # Rows.

    def ids_of(self, keys: Sequence[str]) -> dict[str, int]:
        """The ids of those keys that are there."""
        return self._pairs("key", "id", keys)

    def keys_of(self, ids: Sequence[int]) -> dict[int, str]:
        """The keys of these ids."""
        return self._pairs("id", "key", ids)

    def _pairs(self, given: str, wanted: str, values: Sequence[Any]) -> dict[Any, Any]:
        """By the values of one column those of another, of the rows that are there."""
        column, other = (self._tables.rows.c[name] for name in (given, wanted))
        found: dict[Any, Any] = {}
        for part in _parts(values):
            found.update((one, two) for one, two in self._all(self._sa.select(column, other).where(column.in_(part))))
        return found

    def keys(self) -> list[str]:
        """All keys in order of insertion."""
        rows = self._tables.rows.c
        return [key for (key,) in self._all(self._sa.select(rows.key).order_by(rows.id))]

    def count(self) -> int:
        """How many rows there are."""
        return int(self._connection.execute(self._sa.select(self._sa.func.count(self._tables.rows.c.id))).scalar_one())

    def ids(self, changed_after: int = -1) -> list[int]:
        """Ids of all rows, or of those whose centralized row changed after a version, in ascending order."""
        rows = self._tables.rows.c
        return [
            at for (at,) in self._all(self._sa.select(rows.id).where(rows.changed > changed_after).order_by(rows.id))
        ]

    def count_orphans(self) -> list[str]:
        """What is wrong between the tables, in words."""
        found, rows = [], self._tables.rows.c
        for name in ("fused", "centralized"):
            table = getattr(self._tables, name).c
            lost = self._sa.select(self._sa.func.count(table.id)).where(table.id.not_in(self._sa.select(rows.id)))
            count = int(self._connection.execute(lost).scalar_one())
            if count:
                found.append(f"{count} {name} rows belong to no key")
        return found

    def lists(self, after: int | None) -> Iterable[Sequence[Any]]:
        """id, cam, grp, near, distances and stored of all rows, or of those touched after a version; many at a time."""
        rows = self._tables.rows.c
        columns = (rows.id, rows.cam, rows.grp, rows.near, rows.distances, rows.stored)
        asked = self._sa.select(*columns).order_by(rows.id)
        asked = asked if after is None else asked.where(rows.touched > after)
        options = {"yield_per": AT_ONCE}
        return self._connection.execute(asked, execution_options=options).partitions()  # type: ignore[no-any-return]

    def labels_of(self, ids: Sequence[int]) -> dict[int, tuple[str | None, str | None]]:
        """cam and group of these rows."""
        rows = self._tables.rows.c
        found: dict[Any, Any] = {}
        for part in _parts(ids):
            asked = self._sa.select(rows.id, rows.cam, rows.grp).where(rows.id.in_(part))
            found.update((at, (cam, group)) for at, cam, group in self._all(asked))
        return found

    def insert(self, version: int, rows: Sequence[Row]) -> None:
        """New rows without lists and vectors."""
        told = {"near": None, "distances": None, "stored": version, "changed": version, "touched": version}
        self._many(self._tables.rows.insert(), [row._asdict() | told for row in rows])

    def relabel(self, name: str, ids: Sequence[int], values: Sequence[Any]) -> None:
        """Another cam, grp or time for these rows."""
        rows = self._tables.rows
        statement = rows.update().where(rows.c.id == self._sa.bindparam("at"))
        statement = statement.values({name: self._sa.bindparam("value")})
        self._many(statement, [{"at": at, "value": value} for at, value in zip(ids, values, strict=True)])

    def put_lists(self, version: int, lists: Iterable[tuple[int, bytes | None, bytes | None]]) -> None:
        """Lists of rows: id, near, distances."""
        rows, bind = self._tables.rows, self._sa.bindparam
        values = {"near": bind("a"), "distances": bind("b"), "touched": version}
        statement = rows.update().where(rows.c.id == bind("at")).values(values)
        self._many(statement, [{"at": at, "a": near, "b": distances} for at, near, distances in lists])

    def mark(self, version: int, ids: Sequence[int], *, stored: bool = False) -> None:
        """Say that these rows changed in this version; `stored`: themselves, not only what is made of them."""
        rows = self._tables.rows
        values = {"changed": version, "touched": version} | ({"stored": version} if stored else {})
        for part in _parts(ids):
            self._connection.execute(rows.update().where(rows.c.id.in_(part)).values(values))

    def remove(self, version: int, ids: Sequence[int]) -> None:
        """Take rows out, and note their keys."""
        rows, removed = self._tables.rows, self._tables.removed
        for part in _parts(ids):
            columns = (rows.c.id, rows.c.key, self._sa.literal(version))
            chosen = self._sa.select(*columns).where(rows.c.id.in_(part))
            self._connection.execute(removed.insert().from_select(["id", "key", "version"], chosen))
            for table in (rows, self._tables.fused, self._tables.centralized):
                self._connection.execute(table.delete().where(table.c.id.in_(part)))

    def removed(self, after: int) -> list[Any]:
        """id and key of all rows removed after a version."""
        removed = self._tables.removed.c
        return self._all(self._sa.select(removed.id, removed.key).where(removed.version > after))

    def changed(self, after: int) -> list[str]:
        """Keys of rows that are new, or whose centralized row or labels changed, after a version."""
        rows = self._tables.rows.c
        return [key for (key,) in self._all(self._sa.select(rows.key).where(rows.changed > after).order_by(rows.id))]

    def choose(self, filters: Mapping[str, Any], after: float | None, before: float | None) -> list[int]:
        """Ids in ascending order. `filters` are lists of labels by column, after "not " those that are left out."""
        long = next((name for name, values in filters.items() if len(values) > AT_ONCE), None)
        if long is not None:
            rest = {name: values for name, values in filters.items() if name != long}
            column = long.removeprefix("not ")
            inside = {at for part in _parts(filters[long]) for at in self.choose({column: part}, None, None)}
            return [at for at in self.choose(rest, after, before) if (at in inside) != long.startswith("not ")]
        rows = self._tables.rows.c
        asked = self._sa.select(rows.id).order_by(rows.id)
        for name, values in filters.items():
            column = rows[name.removeprefix("not ")]
            among = column.in_(values)
            asked = asked.where(column.is_(None) | ~among if name.startswith("not ") else among)
        if after is not None:
            asked = asked.where(rows.time >= after)
        if before is not None:
            asked = asked.where(rows.time < before)
        return [at for (at,) in self._all(asked)]

    def count_labels(self, name: str) -> int:
        """How many cams or grps there are."""
        column = self._tables.rows.c[name]
        return int(self._connection.execute(self._sa.select(self._sa.func.count(column.distinct()))).scalar_one())

    def times(self) -> tuple[float | None, float | None]:
        """The first and the last time."""
        column, functions = self._tables.rows.c.time, self._sa.func
        first, last = self._connection.execute(self._sa.select(functions.min(column), functions.max(column))).one()
        return first, last

    def labeled(self, ids: Sequence[int]) -> Iterator[Any]:
        """id, key, cam, grp, time and whether it is a row of zeros, in ascending order of id; `ids` ascend."""
        rows = self._tables.rows.c
        columns = (rows.id, rows.key, rows.cam, rows.grp, rows.time, rows.near.is_(None))
        for part in _parts(ids):
            yield from self._all(self._sa.select(*columns).where(rows.id.in_(part)).order_by(rows.id))

    # Vectors.

    def put_vectors(self, name: str, ids: Sequence[int], blobs: Sequence[bytes], *, new: bool) -> None:
        """Rows of "fused" or "centralized"; `new` ones are not there yet."""
        table, bind = getattr(self._tables, name), self._sa.bindparam
        if new:
            self._many(table.insert(), [{"id": at, "vector": blob} for at, blob in zip(ids, blobs, strict=True)])
            return
        statement = table.update().where(table.c.id == bind("at")).values(vector=bind("blob"))
        self._many(statement, [{"at": at, "blob": blob} for at, blob in zip(ids, blobs, strict=True)])

    def vectors(self, name: str, ids: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """id and bytes of these rows of "fused" or "centralized", in ascending order of id; `ids` ascend."""
        table = getattr(self._tables, name).c
        for part in _parts(ids):
            asked = self._sa.select(table.id, table.vector).where(table.id.in_(part)).order_by(table.id)
            yield from self._all(asked)

    def _many(self, statement: Any, values: list[dict[str, Any]]) -> None:
        """One statement for many rows; as the driver takes it, since SQLAlchemy takes longer over each than SQLite."""
        told = statement.compile(dialect=self._connection.dialect)
        fixed = told.params
        rows: list[Any] = [fixed | each for each in values]
        if told.positional:
            rows = list(map(itemgetter(*told.positiontup), rows))
        for start in range(0, len(rows), AT_ONCE):
            self._connection.exec_driver_sql(told.string, rows[start : start + AT_ONCE])


def _parts(values: Sequence[Any]) -> Iterator[list[Any]]:
    values = list(values)
    for start in range(0, len(values), AT_ONCE):
        yield values[start : start + AT_ONCE]
