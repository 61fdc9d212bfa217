"""What a target remembers of the gallery it holds, and what every kind of store does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

TITLE = "pose2id gallery"
"""How a record begins: what does not is not ours."""


class Record(NamedTuple):
    """Which gallery a target holds, and how far it is.

    All rows are at least of `version`. Those with ids up to `through` are of `goal`, which a publication that was
    interrupted was about to reach. -1 is before everything.
    """

    gallery: str
    width: int
    version: int
    stamp: str
    goal: int
    goal_stamp: str
    through: int

    def write(self) -> str:
        """The record as text: words without blanks, quotes or anything that a user wrote."""
        return f"{TITLE}: " + " ".join(f"{name}={value}" for name, value in self._asdict().items())

    @classmethod
    def read(cls, text: str | None) -> Record | None:
        """The record of a text, None for a text that is none."""
        title, _, words = (text or "").partition(": ")
        told = dict(word.partition("=")[::2] for word in words.split(" "))
        if title != TITLE or set(told) != set(cls._fields):
            return None
        whole = {name: int(told[name]) for name in ("width", "version", "goal", "through")}
        return cls(**{**told, **whole})  # type: ignore[arg-type]


class StoredRow(NamedTuple):
    """One row as it is published, without its vector."""

    id: int  # in order of insertion; never used again
    key: str
    cam: str | None
    grp: str | None
    time: float | None
    zero: bool  # a row of zeros, which `Gallery.search` never finds


class Store(Protocol):
    """One table or collection, which holds one gallery and nothing else."""

    name: str

    def record(self) -> Record | None:
        """What the target remembers, None where there is nothing yet; ValueError where it holds something else."""

    def make(self, record: Record) -> None:
        """Make it empty, whatever it held."""

    def note(self, record: Record) -> None:
        """Remember this; what was put and deleted before is stored when this returns."""

    def put(self, rows: Sequence[StoredRow], vectors: NDArray[np.float32]) -> None:
        """Insert rows, or replace those with the same ids."""

    def delete(self, ids: Sequence[int]) -> None:
        """Take rows out; those that are not there are passed over."""

    def count(self) -> int:
        """How many rows there are."""
        ...

    def ids(self) -> list[int]:
        """The ids of all rows."""
        ...

    def close(self) -> None:
        """Let go of the database."""


def foreign(name: str) -> ValueError:
    """The error for a table or collection of something else."""
    return ValueError(f"{name} is there and was not made by publishing a gallery; name another one")
