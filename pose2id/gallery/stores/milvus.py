"""Milvus: one collection for one gallery; one of its properties is the record."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import escape, require
from pose2id.gallery.arguments import LONGEST
from pose2id.gallery.stores.records import Record, StoredRow, foreign
from pose2id.gallery.stores.targets import Target

COLLECTION = "pose2id_gallery"
PROPERTY = "pose2id.record"
INDEX = {"exact": "FLAT", "hnsw": "HNSW"}
LOGS = ("pymilvus", "milvus_lite")
AT_ONCE = 8192
"""Ids in one answer or request."""


class _Quiet:
    """The loggers of the client say nothing as long as a thread is within, and what they said before afterwards."""

    def __init__(self) -> None:
        self._lock, self._within, self._levels = threading.Lock(), 0, [0] * len(LOGS)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        logs = [logging.getLogger(name) for name in LOGS]
        with self._lock:
            self._within += 1
            if self._within == 1:
                self._levels = [log.level for log in logs]
                for log in logs:
                    log.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            with self._lock:
                self._within -= 1
                for log, level in zip(logs, self._levels, strict=True):
                    log.setLevel(log.level if self._within else level)


_quiet = _Quiet()


class Store:
    """A collection in a file of milvus-lite or on a server."""

    def __init__(self, target: Target) -> None:
        self._target, self.name = target, target.name
        self._collection = _check_collection(target.options.get("collection", COLLECTION))
        self._index = INDEX[target.index]
        options = _find_server(target)
        self._milvus = require("pymilvus", "milvus", "Publishing to Milvus")
        with self._explained():
            self._client = self._milvus.MilvusClient(**options)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Errors in one line; the client also logs each with its traceback, and what it was given."""
        try:
            with _quiet():
                yield
        except (self._milvus.MilvusException, OSError, ValueError, RuntimeError) as error:
            words = self._target.explain(error)
            # A process that opened a place of milvus-lite keeps it until it ends, also after its client is closed.
            words += "; another process may have it open" if "local milvus" in words else ""
            lost = getattr(error, "code", 0) == 2 or isinstance(error, ConnectionError)
            raise (ConnectionError if lost else OSError)(words) from None

    def record(self) -> Record | None:
        """A property of the collection."""
        with self._explained():
            if not self._client.has_collection(self._collection):
                return None
            told = self._client.describe_collection(self._collection).get("properties") or {}
        record = Record.read(dict(told).get(PROPERTY))
        if record is None:
            raise foreign(self.name)
        self._prepare()
        return record

    def make(self, record: Record) -> None:
        """The collection anew; what is stored is seen by the next request (consistency level Strong)."""
        kind, client = self._milvus.DataType, self._client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", kind.INT64, is_primary=True)
        schema.add_field("key", kind.VARCHAR, max_length=LONGEST)
        schema.add_field("cam", kind.VARCHAR, max_length=LONGEST, nullable=True)
        schema.add_field("grp", kind.VARCHAR, max_length=LONGEST, nullable=True)
        schema.add_field("time", kind.DOUBLE, nullable=True)
        schema.add_field("zero", kind.BOOL)
        schema.add_field("vector", kind.FLOAT_VECTOR, dim=record.width)
        with self._explained():
            client.drop_collection(self._collection)
            client.create_collection(
                self._collection,
                schema=schema,
                consistency_level="Strong",
                properties={PROPERTY: record.write()},
            )
        self._prepare()

    def _prepare(self) -> None:
        """Its index, which is not there after a kill at the wrong moment, and the collection in memory."""
        index = self._client.prepare_index_params()
        more = {"params": {"M": 32, "efConstruction": 200}} if self._index == "HNSW" else {}
        index.add_index(field_name="vector", index_type=self._index, metric_type="L2", **more)
        with self._explained():
            if not self._client.list_indexes(self._collection):
                self._client.create_index(self._collection, index)
            self._client.load_collection(self._collection)

    def note(self, record: Record) -> None:
        """A property of the collection."""
        with self._explained():
            self._client.alter_collection_properties(self._collection, properties={PROPERTY: record.write()})

    def put(self, rows: Sequence[StoredRow], vectors: NDArray[np.float32]) -> None:
        """By their ids."""
        told = [row._asdict() | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
        with self._explained():
            self._client.upsert(self._collection, told)

    def delete(self, ids: Sequence[int]) -> None:
        """By their ids."""
        with self._explained():
            for start in range(0, len(ids), AT_ONCE):
                self._client.delete(self._collection, ids=list(ids[start : start + AT_ONCE]))

    def count(self) -> int:
        """Of all rows."""
        with self._explained():
            return int(self._client.query(self._collection, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def ids(self) -> list[int]:
        """Of all rows."""
        found: list[int] = []
        with self._explained():
            every = self._client.query_iterator(self._collection, AT_ONCE, filter="id >= 0", output_fields=["id"])
            while part := every.next():
                found += [row["id"] for row in part]
            every.close()
        return sorted(found)

    def close(self) -> None:
        """What was put is stored."""
        with self._explained():
            self._client.close()


def _check_collection(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,254}", name):
        raise ValueError(
            "collection must be letters (a-z), digits and underscores, up to 255, no digit first, as Milvus has it; "
            f"received '{escape(name[:80])}'"
        )
    return name


def _find_server(target: Target) -> dict[str, Any]:
    """What the client is told: a file of milvus-lite, or an address and who asks."""
    place = target.address.partition("?")[0]
    if place.endswith(".db"):
        if not Path(place).parent.is_dir():
            raise FileNotFoundError(f"{target.name} cannot be made: its folder does not exist")
        return {"uri": place}
    who, _, where = place.rpartition("@")
    host, _, database = where.partition("/")
    if not host or "/" in database:
        raise ValueError(
            "a target in Milvus is milvus://FILE.db for milvus-lite, or milvus://user:password@host:19530/database; "
            f"received {target.name}"
        )
    secure = target.options.get("secure", "false") == "true"
    told = {"uri": f"http{'s' * secure}://{host}", "token": unquote(who)}
    return told | ({"db_name": unquote(database)} if database else {})
