"""Where a gallery is published: one file for each kind of vector database, imported only when a target names it.

- `targets`: how a target is written, and what is never said of it.
- `records`: what a target remembers of the gallery it holds; what every kind of store does.
- `milvus`, `pgvector`: the stores.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

from pose2id.gallery.stores.records import Store
from pose2id.gallery.stores.targets import ROOMS, take_target

__all__ = ["Store", "open_store"]


def open_store(text: str) -> Store:
    """The store that a target names; it is closed by whoever asked for it."""
    target = take_target(text)
    return cast(Store, import_module(f"{__name__}.{ROOMS[target.scheme]}").Store(target))
