"""The tables of a configuration file: their reader, and [data] as dataclasses."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from pose2id.documents import read_toml
from pose2id.errors import suggest
from pose2id.validation import check_path

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "list[int]": (list,),
    "list[str]": (list,),
    "dict[str, Any]": (dict,),
}

T = TypeVar("T")
W = TypeVar("W", bound="WorldData")
F = TypeVar("F", bound="FolderData")


@contextmanager
def open_configuration(
    path: str | os.PathLike[str], tables: Collection[str], *, more: Collection[str] = ()
) -> Iterator[dict[str, Any]]:
    """What a TOML file holds: `tables`, which are tables where they are there, and `more`, which may be anything.

    Errors that are raised while it is open name the file.
    """
    path = check_path(path, "the configuration")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    content = read_toml(path)
    try:
        check_keys(content, {*tables, *more})
        for name in tables:
            if not isinstance(content.get(name, {}), dict):
                raise TypeError(f"{name} must be a table, received {content[name]!r}")
        yield content
    except (TypeError, ValueError) as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{path}: {error}") from error


def read_table(kind: type[T], table: Mapping[str, Any], name: str) -> T:
    """A table of a configuration as the dataclass that describes it; its errors name table and key."""
    known = fields(kind)  # type: ignore[arg-type]
    try:
        check_keys(table, {each.name for each in known})
        needed = [each.name for each in known if each.default is MISSING and each.default_factory is MISSING]
        if missing := [key for key in needed if key not in table]:
            raise ValueError(f"{', '.join(missing)} must be given")
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_keys(given: Mapping[str, Any], allowed: set[str]) -> None:
    """Raise ValueError for keys that are not allowed."""
    unknown = sorted(set(given) - allowed)
    if unknown:
        known = ", ".join(sorted(allowed))
        raise ValueError(f"unknown: {', '.join(unknown)}; allowed are {known}{suggest(unknown[0], sorted(allowed))}")


@dataclass(frozen=True)
class Table:
    """A table whose values are what its annotations say; numbers are not negative."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kinds = getattr(self, each.name), _KINDS[str(each.type).removesuffix(" | None")]
            if value is None and each.default is None:
                continue
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                words = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{each.name} must be {words}, received {value!r}")
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{each.name} must not be negative, received {value}")
            if not isinstance(value, list):
                continue
            if each.type == "list[str]" and not all(isinstance(text, str) for text in value):
                raise TypeError(f"{each.name} must hold texts, received {value!r}")
            if each.type == "list[int]" and not all(type(number) is int and number >= 0 for number in value):
                raise TypeError(f"{each.name} must hold integers of 0 or more, received {value!r}")


@dataclass(frozen=True)
class WorldData(Table):
    """Synthetic people, ``kind = "world"``; what is not said here is described at `pose2id.synthetic.make_set`.

    Attributes
    ----------
    ids : list of int
        The first identity and the one after the last.
    seed, cams, per_cam, occlusion
        Of `make_set`.
    """

    ids: list[int]
    kind: str = "world"
    seed: int = 0
    cams: int = 6
    per_cam: int = 2
    occlusion: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ids) != 2 or not self.ids[0] < self.ids[1] <= 2**31:
            raise ValueError(
                f"ids must be the first identity and the one after the last, at most 2**31, received {self.ids}"
            )


@dataclass(frozen=True)
class FolderData(Table):
    """A data set in folders.

    Attributes
    ----------
    kind : str
        A name that `pose2id.datasets.read_dataset` knows.
    root : str
        Its folder.
    options : dict
        Of its reader.
    keypoints : str, optional
        A JSON file: path below `root`, then 18 points [x, y] as fractions of width and height, or null.
    """

    kind: str
    root: str
    options: dict[str, Any] = field(default_factory=dict)
    keypoints: str | None = None


def read_data(table: Mapping[str, Any], readers: Collection[str], world: type[W], folders: type[F]) -> W | F:
    """Table ``[data]`` as one of two dataclasses; `readers` are the kinds of the second."""
    kind = table.get("kind")
    if kind == "world":
        return read_table(world, table, "data")
    if not isinstance(kind, str) or kind not in readers:
        kinds = ("world", *readers)
        raise ValueError(
            f"data: kind must be 'world' or one of {', '.join(readers)}; received {kind!r}{suggest(kind, kinds)}"
        )
    return read_table(folders, table, "data")
