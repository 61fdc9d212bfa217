"""Opening a gallery: which database a target means, and how the gallery in it is made or brought up to date."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pose2id.gallery.arguments import other_width
from pose2id.gallery.database import Database
from pose2id.gallery.lists import count_listed
from pose2id.gallery.postgresql import PostgreSQL
from pose2id.gallery.schema import Head
from pose2id.gallery.settings import Settings
from pose2id.gallery.sqlite import SQLite
from pose2id.validation import take_path


def open_database(target: str | os.PathLike[str], *, create: bool) -> Database:
    """The database that a target means: what looks like a URL and is no file is PostgreSQL."""
    if isinstance(target, str) and "://" in target and not Path(target).exists():
        return PostgreSQL(target)
    return SQLite(target, create=create)


def make_gallery(database: Database, given: dict[str, Any], width: int | None, *, create: bool) -> Head:
    """What the database says of its gallery, which is made if it is not there and `create` says so."""
    with database.read() as asked:
        made = asked.is_made()
    if not made and not create:
        raise FileNotFoundError(f"there is no gallery in {database.name}")
    if not made:
        with database.write() as told:
            if not told.is_made():  # another process may have been first
                settings = Settings(**given)
                told.make(database.name, settings, width, count_listed(settings.k))
    with database.read() as asked:
        old = not asked.is_current()
    if old:
        with database.write() as told:
            told.migrate(database.name)
    with database.read() as asked:
        head = asked.head()
    if width is not None and head.width is None:
        with database.write() as told:
            told.fix_width(width)
            head = told.head()
    if width is not None and head.width != width:
        raise ValueError(other_width(head.width or 0, width))
    return head


def choose_cache(database: Database, head: Head) -> Path:
    """The folder for the memory-mapped rows, where none is named."""
    if database.path is not None:
        return database.path.with_name(database.path.name + ".cache")
    home = take_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "the folder of caches (XDG_CACHE_HOME)")
    return Path(home, "pose2id", "galleries", head.gallery)
