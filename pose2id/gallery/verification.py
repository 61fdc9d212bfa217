"""Computing everything anew from the fused rows, and comparing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.centralization import centralize
from pose2id.gallery.arguments import from_blobs, search_rows
from pose2id.gallery.keys import name_ids
from pose2id.gallery.lists import NONE, Ids, Lists
from pose2id.gallery.memory import Memory
from pose2id.gallery.settings import Settings
from pose2id.gallery.transactions import Transaction
from pose2id.neighbors import find_neighbors


def verify(asked: Transaction, memory: Memory, *, progress: bool) -> list[str]:
    """What is wrong, in words; see `Gallery.verify`."""
    head = asked.head()  # and nothing that is kept in memory or in files
    try:
        lists, settings = memory.read_lists(asked, head)[0], head.settings
    except ValueError as error:
        return [str(error)]
    wrong = asked.count_orphans()
    fused = dict(asked.vectors("fused", lists.ids.tolist()))
    pulled = dict(asked.vectors("centralized", lists.ids.tolist()))
    size = np.dtype(settings.dtype).itemsize * (head.width or 0)
    for name, found in (("fused", fused), ("centralized", pulled)):
        bad = [at for at in lists.ids.tolist() if len(found.get(at, b"")) != size]
        if bad:
            wrong.append(f"{len(bad)} {name} rows are missing or damaged: {name_ids(asked, bad)}")
    if wrong or not len(lists.ids):
        return wrong
    rows = from_blobs(list(fused.values()), settings.dtype, head.width or 1)
    if not np.isfinite(rows).all():
        return [f"some fused rows hold NaN or inf: {name_ids(asked, lists.ids[~np.isfinite(rows).all(1)].tolist())}"]
    table, lengths = _search_anew(rows, lists, settings, progress=progress)
    # A list holds as many neighbours as the rule asks for, and may hold more of the next ones; they are needed later.
    known, needed = lists.near >= 0, np.arange(lists.near.shape[1]) < settings.k
    others = (np.where(table >= 0, lists.ids[table], NONE) != lists.near) | (lengths != lists.distances)
    unlike = (others & (known | needed)).any(axis=1) | (~known & np.isfinite(lists.distances)).any(axis=1)
    unlike |= (known[:, 1:] & ~known[:, :-1]).any(axis=1)
    if unlike.any():
        some = name_ids(asked, lists.ids[unlike].tolist())
        wrong.append(f"{int(unlike.sum())} rows have other neighbours than those kept: {some}")
    options: dict[str, Any] = {each: getattr(settings, each) for each in ("k1", "k2", "alpha", "normalize")}
    expected = centralize(rows, neighbors=table[:, : settings.k] if settings.k else None, progress=progress, **options)
    stored = from_blobs(list(pulled.values()), settings.dtype, head.width or 1)
    whole = f"u{expected.dtype.itemsize}"
    differ = (expected.view(whole) != stored.view(whole)).any(axis=1)
    if differ.any():
        some = name_ids(asked, lists.ids[differ].tolist())
        wrong.append(f"{int(differ.sum())} centralized rows are not those of centralize: {some}")
    return wrong


def _search_anew(
    rows: NDArray[Any], lists: Lists, settings: Settings, *, progress: bool
) -> tuple[Ids, NDArray[np.float32]]:
    """Full lists of every row, by place, as `centralize` finds them."""
    searched, nonzero = search_rows(torch.from_numpy(rows), normalize=settings.normalize)
    at = nonzero.nonzero().flatten()
    table, lengths = np.full(lists.near.shape, NONE), np.full(lists.near.shape, np.inf, np.float32)
    if table.size and len(at):
        labels = torch.from_numpy(lists.labels)[at] if settings.exclude else None
        base = searched[at]
        found, far = find_neighbors(base, base, lists.near.shape[1], labels, labels, within=True, progress=progress)
        table[at], lengths[at] = torch.where(found >= 0, at[found.clamp(min=0)], NONE), far.numpy()
    return table, lengths
