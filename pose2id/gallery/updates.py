"""What a change touches: lists, then sums, of few rows, written within the transaction that changes the rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from pose2id.centralization import FusedRows, add_mutual_neighbors
from pose2id.gallery import lists as neighborhoods
from pose2id.gallery.arguments import from_blobs, search_rows, to_blobs
from pose2id.gallery.cache import RowStore, no_rows
from pose2id.gallery.lists import NONE, Ids, Lists
from pose2id.gallery.schema import Head
from pose2id.gallery.transactions import Transaction
from pose2id.threads import fit_threads

PART = 4096
"""Rows that are read, searched or summed at once."""


class State(NamedTuple):
    """One version of a gallery in memory."""

    head: Head
    lists: Lists
    fused: RowStore  # as they are searched


class Come(NamedTuple):
    """Rows that come in, by ascending id."""

    ids: Ids
    stored: Callable[[slice], torch.Tensor]  # parts of the rows as they are kept
    labels: Ids  # codes of what `exclude` names
    new: bool  # their rows are not in the database yet


NOBODY = Come(np.zeros(0, np.int64), lambda _: torch.empty(0), np.zeros(0, np.int64), new=False)


@fit_threads
def move(change: Transaction, state: State, version: int, gone: Ids, come: Come) -> tuple[Lists, RowStore]:
    """Take the rows `gone` out and put those that `come` in, and write what follows; an updated row is in both."""
    head, settings = state.head, state.head.settings
    for start in range(0, len(come.ids), PART):
        part = slice(start, start + PART)
        change.put_vectors("fused", come.ids[part].tolist(), to_blobs(come.stored(part)), new=come.new)
    anew = not len(state.lists.ids) or np.array_equal(gone, state.lists.ids)
    lists = neighborhoods.no_lists(head.listed) if anew else neighborhoods.drop(state.lists, gone)
    rows = no_rows(head.width or 1) if anew else state.fused.drop(gone)
    exclude = settings.exclude is not None
    for start in range(0, len(come.ids), PART):
        part = slice(start, start + PART)
        searched, nonzero = search_rows(come.stored(part), normalize=settings.normalize)
        new = neighborhoods.without_neighbors(come.ids[part], nonzero.numpy(), come.labels[part], head.listed)
        lists = neighborhoods.enter(lists, rows, new, searched, exclude=exclude)
        rows = rows.put(new.ids, searched)
    lists = neighborhoods.refill(lists, rows, settings.k, exclude=exclude)
    if anew:
        listed = moved = lists.ids
    else:
        listed, moved = neighborhoods.find_changed(state.lists, lists, settings.k1, settings.k2)
        # A row changes with an updated one among its mutual neighbours; that one has it among its first k2.
        holders = lists.near[lists.places(come.ids)][:, : settings.k2].ravel()
        moved = np.union1d(np.union1d(moved, come.ids), holders[holders >= 0])
        listed = np.union1d(listed, come.ids)
    for start in range(0, len(listed), PART):
        _write_lists(change, lists, listed[start : start + PART], version)
    for start in range(0, len(moved), PART):
        ids = moved[start : start + PART]
        blobs = to_blobs(pull(change, head, lists, ids))
        new_ones = np.isin(ids, come.ids) & come.new
        for new_one in (True, False):
            at = (new_ones == new_one).nonzero()[0]
            change.put_vectors("centralized", ids[at].tolist(), [blobs[each] for each in at], new=new_one)
        change.mark(version, ids[~new_ones].tolist())
    return lists, rows


def _write_lists(change: Transaction, lists: Lists, ids: Ids, version: int) -> None:
    at = lists.places(ids)
    near, far = lists.near[at].astype("<i8"), lists.distances[at].astype("<f4")
    found = zip(ids.tolist(), near, far, lists.nonzero[at], strict=True)
    change.put_lists(
        version, [(each, a.tobytes(), b.tobytes()) if full else (each, None, None) for each, a, b, full in found]
    )


def pull(asked: Transaction, head: Head, lists: Lists, ids: Ids) -> torch.Tensor:
    """The centralized rows of these ids, which ascend, as they are kept; by the functions of `centralize`."""
    settings = head.settings
    mutual = neighborhoods.mutual(lists, lists.places(ids), settings.k1, settings.k2)
    involved = np.union1d(ids, mutual[mutual >= 0])
    stored = stack(asked, "fused", involved, head)
    table, at = np.full((len(involved), mutual.shape[1]), NONE), np.searchsorted(involved, ids)
    table[at] = np.where(mutual >= 0, np.searchsorted(involved, mutual), NONE)
    fused, out = FusedRows(stored, normalize=settings.normalize), torch.empty_like(stored)
    fused.write(out, searched=False)
    add_mutual_neighbors(fused, torch.from_numpy(table), settings.alpha, out)
    return out[torch.from_numpy(at)]


def stack(asked: Transaction, name: str, ids: Ids, head: Head) -> torch.Tensor:
    """Rows of "fused" or "centralized" as they are kept, (n, D); `ids` ascend."""
    dtype = head.settings.dtype
    rows = torch.empty(len(ids), head.width or 0, dtype=getattr(torch, dtype))
    for start in range(0, len(ids), PART):
        part = ids[start : start + PART]
        blobs = [blob for _, blob in asked.vectors(name, part.tolist())]
        if len(blobs) != len(part):
            raise ValueError(f"{len(part) - len(blobs)} {name} rows are missing: the database is damaged")
        rows[start : start + len(part)] = torch.from_numpy(from_blobs(blobs, dtype, rows.shape[1]))
    return rows
