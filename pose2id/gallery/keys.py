"""Keys and the ids that stand for them in the database."""

from __future__ import annotations

import numpy as np

from pose2id.gallery.arguments import name_some
from pose2id.gallery.lists import NONE, Ids
from pose2id.gallery.transactions import Transaction


def find_ids(asked: Transaction, keys: list[str]) -> Ids:
    """The ids of keys, in their order; ValueError naming those that are not there."""
    found = asked.ids_of(keys)
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"keys must be in the gallery, {len(missing)} are not: {name_some(missing)}")
    return np.array([found[key] for key in keys], dtype=np.int64)


def name_found(ids: Ids, named: dict[int, str]) -> list[list[str]]:
    """The keys of found ids; nothing for NONE."""
    return [[named[at] for at in row if at != NONE] for row in ids.tolist()]


def name_ids(asked: Transaction, ids: list[int]) -> str:
    """The first few keys of many ids, for an error."""
    named = asked.keys_of(ids[:6])
    return name_some([named.get(at, str(at)) for at in ids[:6]] + [""] * (len(ids) - 6))
