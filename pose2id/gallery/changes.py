"""One change of a gallery: rows are added, updated, removed, or all of them computed anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from pose2id.gallery.arguments import fuse_features, name_some, other_width
from pose2id.gallery.keys import find_ids, name_ids
from pose2id.gallery.lists import Ids, count_listed
from pose2id.gallery.memory import Memory
from pose2id.gallery.schema import Head, Row
from pose2id.gallery.settings import Settings, change_settings
from pose2id.gallery.transactions import Transaction
from pose2id.gallery.updates import NOBODY, Come, State, move, stack

EMPTY: Mapping[str, Any] = {}


class Change:
    """One change while its transaction is open."""

    def __init__(self, action: str, ask: Transaction, memory: Memory) -> None:
        self.action, self.ask, self.memory = action, ask, memory
        self.state = memory.sync(ask)
        self.version = self.state.head.version + 1
        self.after: State | None = None

    # What users call; see `Gallery`. `told` are labels and times by their columns.

    def add(self, names: list[str], told: dict[str, list[Any]], features: Any, generated: Any) -> int:
        """Add rows at the end; the new version."""
        n = len(names)
        head = self.state.head
        stored = fuse_features(features, generated, head.settings, n)
        _check_width(head.width, stored.shape[1])
        _check_excluded(head.settings, told)
        there = self.ask.ids_of(names)
        if there:
            raise ValueError(f"keys must be new, there are already: {name_some(list(there))}; update or remove these")
        if not n:
            return head.version
        ids = head.next_id + np.arange(n)
        columns = [told.get(name, [None] * n) for name in ("cam", "grp", "time")]
        rows = [Row(*row) for row in zip(ids.tolist(), names, *columns, strict=True)]
        self.ask.insert(self.version, rows)
        come = Come(ids, lambda part: stored[part], self.memory.encode(head.settings, told, n), new=True)
        fresh = {"width": stored.shape[1], "next_id": int(ids[-1]) + 1}
        self.move(n, come=come, head=fresh | _fused(head, generated))
        return self.version

    def update(self, names: list[str], told: dict[str, list[Any]], features: Any, generated: Any) -> int:
        """Give rows that are there other features and labels; the new version."""
        n = len(names)
        head = self.state.head
        stored = fuse_features(features, generated, head.settings, n)
        _check_width(head.width, stored.shape[1])
        if not n:
            return head.version
        ids = find_ids(self.ask, names)
        order = ids.argsort()
        ids, stored = ids[order], stored[torch.from_numpy(order)]
        for name, values in told.items():
            self.ask.relabel(name, ids.tolist(), [values[at] for at in order])
        come = Come(ids, lambda part: stored[part], self._codes(head.settings, ids), new=False)
        self.move(n, ids, come, _fused(head, generated))
        return self.version

    def remove(self, names: list[str]) -> int:
        """Remove rows; the new version."""
        ids = np.sort(find_ids(self.ask, names))
        if not len(ids):
            return self.state.head.version
        self.ask.remove(self.version, ids.tolist())
        self.move(len(ids), ids)
        return self.version

    def expire(self, moment: float) -> list[str]:
        """Remove rows of before a time; their keys."""
        ids = np.array(self.ask.choose({}, None, moment), dtype=np.int64)
        named = self.ask.keys_of(ids.tolist())
        if len(ids):
            self.ask.remove(self.version, ids.tolist())
            self.move(len(ids), ids)
        return [named[at] for at in ids.tolist()]

    def reembed(self, names: list[str], features: Any, generated: Any) -> int:
        """Give all rows other features, perhaps of another width; the new version."""
        n = len(names)
        state = self.state
        stored = fuse_features(features, generated, state.head.settings, n)
        missing = sorted(set(self.ask.keys()) - set(names))
        if missing:
            raise ValueError(f"reembed replaces all rows, {len(missing)} keys are missing: {name_some(missing)}")
        if not n and stored.shape[1] == state.head.width:
            return state.head.version
        ids = find_ids(self.ask, names)
        order = ids.argsort()
        ids, stored = ids[order], stored[torch.from_numpy(order)]
        come = Come(ids, lambda part: stored[part], state.lists.labels, new=False)
        self.move(n, ids, come, {"width": stored.shape[1], "fused": generated is not None})
        return self.version

    def recompute(self, given: dict[str, Any]) -> None:
        """Compute everything anew with other settings."""
        head, ids = self.state.head, self.state.lists.ids
        settings = change_settings(head.settings, given, recompute=True, fused=head.fused)
        if settings == head.settings:  # another process was first
            return
        new = replace(head, settings=settings, listed=count_listed(settings.k))
        self.state = self.state._replace(head=new)
        labels = self.ask.labels_of(ids.tolist())
        at = 1 if settings.exclude == "groups" else 0
        lacking = [row for row in ids.tolist() if labels[row][at] is None] if settings.exclude else []
        if lacking:
            named = name_ids(self.ask, lacking)
            raise ValueError(f"exclude={settings.exclude!r} needs one for every row, these have none: {named}")
        codes = self._codes(settings, ids)
        come = Come(ids, lambda part: stack(self.ask, "fused", ids[part], new), codes, new=False)
        self.move(len(ids), ids, come, {"listed": new.listed, **asdict(settings)})

    # How it is done.

    def move(self, count: int, gone: Ids = NOBODY.ids, come: Come = NOBODY, head: Mapping[str, Any] = EMPTY) -> None:
        """Take rows out, put rows in, and say so; `head` are columns that change."""
        before = self.state
        if "width" in head:
            before = before._replace(head=replace(before.head, width=head["width"]))
        if not come.new and len(come.ids):
            self.ask.mark(self.version, come.ids.tolist(), stored=True)
        lists, rows = move(self.ask, before, self.version, gone, come)
        self.ask.advance(self.version, self.action, count, **head)
        self.after = State(self.ask.head(), lists, rows)

    def _codes(self, settings: Settings, ids: Ids) -> Ids:
        """The labels of rows that are there, for `exclude`."""
        labels = self.ask.labels_of(ids.tolist())
        cams, groups = ([labels[at][each] for at in ids.tolist()] for each in (0, 1))
        return self.memory.encode(settings, {"cam": cams, "grp": groups}, len(ids))


def _fused(head: Head, generated: object) -> dict[str, bool]:
    return {"fused": head.fused or generated is not None}


def _check_excluded(settings: Settings, told: dict[str, list[Any]]) -> None:
    if settings.exclude is not None and settings.excluded not in told:
        raise ValueError(
            f"this gallery has exclude={settings.exclude!r}, so every row needs one; pass {settings.exclude}"
        )


def _check_width(kept: int | None, width: int) -> None:
    if kept is not None and width != kept:
        raise ValueError(other_width(kept, width))
