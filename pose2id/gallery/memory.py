"""What a process keeps of a gallery in memory, brought to the database's version by what changed since."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose2id.gallery.arguments import search_rows
from pose2id.gallery.cache import FEWEST, Mark, RowStore, discard, load, no_rows, save
from pose2id.gallery.keys import name_ids
from pose2id.gallery.lists import NONE, Ids, Lists, no_lists
from pose2id.gallery.schema import Head
from pose2id.gallery.settings import Settings
from pose2id.gallery.transactions import Transaction
from pose2id.gallery.updates import PART, State, stack


class Memory:
    """The lists and searched rows of one gallery; `folder` is for files of rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state: State | None = None
        self._centralized: tuple[RowStore, int] | None = None  # and of which version; read when it is first searched
        self._codes: dict[str, int] = {}

    def sync(self, asked: Transaction) -> State:
        """The state that the database has now."""
        head, state = asked.head(), self.state
        if state is not None and not asked.is_version(state.head.version, state.head.stamp):
            state = self._centralized = None  # the database was replaced by another copy
        if state is None or state.head.settings != head.settings or state.head.width != head.width:
            self.state = self._load(asked, head)
        elif state.head.version != head.version:
            self.state = self._catch_up(asked, head, state)
            self.save()
        return self.state or State(head, *self._nothing(head))

    @staticmethod
    def _nothing(head: Head) -> tuple[Lists, RowStore]:
        return no_lists(head.listed), no_rows(head.width or 1)

    def _catch_up(self, asked: Transaction, head: Head, state: State) -> State:
        since = state.head.version
        gone = np.array([at for at, _ in asked.removed(since)], dtype=np.int64)
        changed, stored = self.read_lists(asked, head, since)
        known = state.lists.take(~np.isin(state.lists.ids, np.concatenate([gone, changed.ids])))
        lists = known.join(changed)
        anew = changed.ids[stored > since]
        if len(gone) or state.lists.has(anew).any():
            self.clean(head)
        fused = state.fused.drop(np.concatenate([gone, anew]))
        return State(head, lists, self._fetch(asked, head, "fused", fused, anew))

    def _load(self, asked: Transaction, head: Head) -> State:
        """Everything from the database, the rows from the cache where that is right."""
        lists, stored = self.read_lists(asked, head)
        store, since = self._map(asked, head, "fused")
        gone = np.concatenate([_without(store.ids, lists.ids), lists.ids[stored > since]])
        if len(gone) or not len(store.ids):
            self.clean(head)
        store = store.drop(gone)
        missing = _without(lists.ids, store.ids)
        return State(head, lists, self._fetch(asked, head, "fused", store, missing))

    def read_lists(self, asked: Transaction, head: Head, after: int | None = None) -> tuple[Lists, Ids]:
        """Lists of all rows, or of those touched after a version; and when each row was stored."""
        empty = np.full(head.listed, NONE, "<i8").tobytes(), np.full(head.listed, np.inf, "<f4").tobytes()
        whole = {(len(empty[0]), len(empty[1])), (-1, -1)}
        lists, stored = [no_lists(head.listed)], [np.zeros(0, np.int64)]
        for rows in asked.lists(after):
            ids, cams, groups, near, distances, when = zip(*rows, strict=True)
            sizes = ([-1 if each is None else len(each) for each in blobs] for blobs in (near, distances))
            bad = [at for at, *size in zip(ids, *sizes, strict=True) if tuple(size) not in whole]
            if bad:
                raise ValueError(f"{len(bad)} lists of neighbours are damaged: {name_ids(asked, bad)}")
            zero = np.array([each is None for each in near])
            if zero.any():
                near = tuple(empty[0] if each is None else each for each in near)
                distances = tuple(empty[1] if each is None else each for each in distances)
            bits, lengths = b"".join(near), b"".join(distances)
            part = Lists(
                np.array(ids, dtype=np.int64),
                np.frombuffer(bits, "<i8").astype(np.int64).reshape(len(ids), head.listed),
                np.frombuffer(lengths, "<f4").astype(np.float32).reshape(len(ids), head.listed),
                ~zero,
                self.encode(head.settings, {"cam": cams, "grp": groups}, len(ids)),
            )
            lists.append(part)
            stored.append(np.array(when, dtype=np.int64))
        return lists[0].join(*lists[1:]), np.concatenate(stored)

    def encode(self, settings: Settings, labels: dict[str, Any], n: int) -> Ids:
        """Numbers for what `exclude` names, the same ones as long as this object lives."""
        if settings.exclude is None:
            return np.zeros(n, np.int64)
        codes = [self._codes.setdefault(value, len(self._codes)) for value in labels[settings.excluded]]
        return np.array(codes, dtype=np.int64)

    def _map(self, asked: Transaction, head: Head, name: str) -> tuple[RowStore, int]:
        """Rows from the cache and of which version they are; none of version -1 where it is of no use."""
        found = load(self.folder / name, head.gallery)
        if found is not None:
            mark, store = found
            if store.width == head.width and asked.is_version(mark.version, mark.stamp):
                return store, mark.version
        return no_rows(head.width or 1), -1

    def _fetch(self, asked: Transaction, head: Head, name: str, store: RowStore, ids: Ids) -> RowStore:
        """The store with these rows, which it does not hold, from the database."""

        def read(part: Ids) -> torch.Tensor:
            rows = stack(asked, name, part, head)
            return search_rows(rows, normalize=head.settings.normalize)[0] if name == "fused" else rows.float()

        def merge() -> Iterator[torch.Tensor]:
            for start in range(0, len(every), PART):
                part = every[start : start + PART]
                held = np.isin(part, store.ids)
                if held.all() or not held.any():
                    yield store.take(np.searchsorted(store.ids, part)) if held.all() else read(part)
                    continue
                rows = torch.empty(len(part), store.width)
                rows[torch.from_numpy(held)] = store.take(np.searchsorted(store.ids, part[held]))
                rows[torch.from_numpy(~held)] = read(part[~held])
                yield rows

        if len(ids) > max(FEWEST, len(store.ids) // 4):  # through a file, since they may be too many for memory
            every = np.union1d(store.ids, ids)
            mapped = save(self.folder / name, _mark(head), every, store.width, merge())
            if mapped is not None:
                return mapped
        store = store.reserve(len(ids))
        for start in range(0, len(ids), PART):
            part = ids[start : start + PART]
            store = store.put(part, read(part))
        return store

    def centralized(self, asked: Transaction, state: State) -> RowStore:
        """The centralized rows of a state, to be searched."""
        store, since = self._centralized or self._map(asked, state.head, "centralized")
        if store.width != (state.head.width or 1):
            store, since = no_rows(state.head.width or 1), -1
        if since != state.head.version:
            anew = np.array(asked.ids(changed_after=since), dtype=np.int64)
            store = store.drop(np.concatenate([_without(store.ids, state.lists.ids), anew]))
            missing = _without(state.lists.ids, store.ids)
            store = self._fetch(asked, state.head, "centralized", store, missing)
        self._centralized = (store, state.head.version)
        self.save()
        return self._centralized[0]

    def keep(self, state: State, *, clean: bool) -> None:
        """Hold a newer state; `clean`: rows were removed or replaced."""
        self.state = state
        if clean:
            self.clean(state.head)
        self.save()

    def clean(self, head: Head) -> None:
        """Leave no file of an older version, which may hold what was removed since, as the law may demand."""
        for name in ("fused", "centralized"):
            discard(self.folder / name, _mark(head))

    def save(self, *, closing: bool = False) -> None:
        """Write to files what is kept in memory, if it is much; all of it at the end, where it would be missed."""
        if self.state is None:
            return
        head = self.state.head
        self.state = self.state._replace(fused=self._save_one("fused", head, self.state.fused, closing=closing))
        if self._centralized is not None and self._centralized[1] == head.version:
            store = self._save_one("centralized", head, self._centralized[0], closing=closing)
            self._centralized = store, head.version

    def _save_one(self, name: str, head: Head, store: RowStore, *, closing: bool) -> RowStore:
        path = self.folder / name
        if not _is_worth_it(store, path, closing=closing):
            return store
        blocks = (store.take(np.arange(at, min(at + PART, len(store.ids)))) for at in range(0, len(store.ids), PART))
        return save(path, _mark(head), store.ids, store.width, blocks) or store


def _without(ids: Ids, others: Ids) -> Ids:
    """Those that are not among the others."""
    return ids[~np.isin(ids, others)]


def _mark(head: Head) -> Mark:
    return Mark(head.gallery, head.version, head.stamp)


def _is_worth_it(store: RowStore, path: Path, *, closing: bool) -> bool:
    count = len(store.ids)
    if closing:
        return count > 0 and (not path.exists() or 16 * store.used > count)
    return count > 0 and store.used > max(FEWEST, count // 4)
