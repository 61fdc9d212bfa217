"""The tables of a gallery, one schema for every database, and what stands in them, in Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, NamedTuple

from pose2id.errors import require
from pose2id.gallery.settings import Settings

SCHEMA = 1
MIGRATIONS: dict[int, Callable[[Any], None]] = {}
"""What turns the tables of a schema version into those of the next one, given the connection."""


def sql() -> Any:
    """The package SQLAlchemy."""
    return require("sqlalchemy", "gallery", "pose2id.gallery")


@lru_cache
def tables() -> SimpleNamespace:
    """All tables, by their names without ``pose2id_``."""
    sa = sql()
    data, column = sa.MetaData(), sa.Column
    whole = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    real = sa.Double()

    def own_id() -> Any:
        return column("id", whole, primary_key=True, autoincrement=False)

    made = {
        "gallery": [  # one row
            column("one", sa.Integer, primary_key=True, autoincrement=False),
            column("schema_version", sa.Integer, nullable=False),
            column("gallery", sa.String, nullable=False),  # random: which gallery this is
            column("width", sa.Integer),
            column("listed", sa.Integer, nullable=False),  # neighbours in a list
            column("fused", sa.Boolean, nullable=False),  # whether some rows hold generated features
            column("next_id", whole, nullable=False),
            column("version", whole, nullable=False),
            column("k1", sa.Integer, nullable=False),
            column("k2", sa.Integer, nullable=False),
            column("alpha", real, nullable=False),
            column("eta", real, nullable=False),
            column("normalize", sa.Boolean, nullable=False),
            column("exclude", sa.String),
            column("dtype", sa.String, nullable=False),
        ],
        "rows": [  # small, so that all can be read quickly
            own_id(),  # order of insertion; never used again
            column("key", sa.Text, nullable=False, unique=True),
            column("cam", sa.Text),
            column("grp", sa.Text),
            column("time", real),
            column("near", sa.LargeBinary),  # ids of the nearest, int64; NULL for a row of zeros
            column("distances", sa.LargeBinary),  # float32
            column("stored", whole, nullable=False),  # versions that last changed: the row itself,
            column("changed", whole, nullable=False),  # its centralized row or labels,
            column("touched", whole, nullable=False),  # anything
        ],
        "fused": [own_id(), column("vector", sa.LargeBinary, nullable=False)],
        "centralized": [own_id(), column("vector", sa.LargeBinary, nullable=False)],
        "removed": [own_id(), column("key", sa.Text, nullable=False), column("version", whole, nullable=False)],
        "versions": [
            column("version", whole, primary_key=True, autoincrement=False),
            column("stamp", sa.String, nullable=False),  # random, so that no two states are taken for one
            column("at", real, nullable=False),
            column("action", sa.String, nullable=False),
            column("count", whole, nullable=False),
        ],
    }
    named = {name: sa.Table(f"pose2id_{name}", data, *columns) for name, columns in made.items()}
    for name, by in (("rows", "touched"), ("rows", "changed"), ("rows", "time"), ("removed", "version")):
        sa.Index(f"pose2id_{name}_{by}", named[name].c[by])
    return SimpleNamespace(data=data, **named)


@dataclass(frozen=True)
class Head:
    """What the database says of the gallery as a whole."""

    gallery: str
    width: int | None
    listed: int
    fused: bool
    next_id: int
    version: int
    stamp: str
    settings: Settings


class Row(NamedTuple):
    """One row without its vectors."""

    id: int
    key: str
    cam: str | None
    grp: str | None
    time: float | None
