"""What is asked of one version of a gallery: neighbours, searches, numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from pose2id.arrays import all_finite
from pose2id.centralization import FusedRows, add_counted
from pose2id.gallery import lists as neighborhoods
from pose2id.gallery.answers import Found, Neighborhood
from pose2id.gallery.arguments import search_rows
from pose2id.gallery.keys import find_ids, name_found
from pose2id.gallery.lists import NONE
from pose2id.gallery.memory import Memory
from pose2id.gallery.transactions import Transaction
from pose2id.gallery.updates import PART, State
from pose2id.threads import fit_threads


def find_neighborhood(asked: Transaction, memory: Memory, names: list[str] | None) -> Neighborhood:
    """The neighbours of the rows with these keys, of all rows for None."""
    state = memory.sync(asked)
    lists, settings = state.lists, state.head.settings
    ids = lists.ids if names is None else find_ids(asked, names)
    places = lists.places(ids)
    near, mutual = (
        lists.near[places][:, : settings.k],
        neighborhoods.mutual(lists, places, settings.k1 if settings.k else 0, settings.k2),
    )
    named = asked.keys_of(np.unique(np.concatenate([near.ravel(), mutual.ravel()])).tolist())
    return Neighborhood(name_found(near, named), lists.distances[places][:, : settings.k], name_found(mutual, named))


def search(
    asked: Transaction,
    memory: Memory,
    rows: torch.Tensor,
    top: int,
    filters: Mapping[str, Any],
    times: Sequence[float | None],
    *,
    centralize: bool,
) -> Found:
    """The `top` nearest centralized rows; see `Gallery.search`. `filters` and `times` are those of `choose`."""
    state = memory.sync(asked)
    head, lists = state.head, state.lists
    if head.width is not None and rows.shape[1] != head.width:
        raise ValueError(f"query must have the gallery's D = {head.width}, received {tuple(rows.shape)}")
    rows = rows.cpu()
    queries = _take_queries(state, rows if rows.dtype == torch.float64 else rows.float(), centralize=centralize)
    if not all_finite(queries):
        raise ValueError("query is too large for float32, in which a gallery that does not normalize searches")
    chosen = lists.nonzero
    if filters or times != [None, None]:
        chosen = chosen & np.isin(lists.ids, np.array(asked.choose(filters, *times), dtype=np.int64))
    store = memory.centralized(asked, state)
    k = max(1, min(top, len(lists.ids)))
    ids, distances = neighborhoods.search(queries, lists, store, k, chosen)
    named = asked.keys_of(np.unique(ids).tolist())
    padded = np.pad(distances, ((0, 0), (0, top - k)), constant_values=np.inf)
    return Found(name_found(ids, named), padded)


@fit_threads
def _take_queries(state: State, rows: torch.Tensor, *, centralize: bool) -> torch.Tensor:
    """Queries as they are searched with, float32."""
    settings, lists = state.head.settings, state.lists
    searched, nonzero = search_rows(rows, normalize=settings.normalize)
    if not centralize or not settings.k or not len(lists.ids):
        return searched
    k1 = min(settings.k1, len(lists.ids))
    ids, distances = neighborhoods.search(searched, lists, state.fused, k1, lists.nonzero)
    places = lists.places(ids).clip(max=len(lists.ids) - 1)
    counts = (ids >= 0) & (distances <= lists.distances[places][:, :, settings.k2 - 1]) & nonzero.numpy()[:, None]
    counted = torch.from_numpy(np.where(counts, places, NONE))

    def take(at: torch.Tensor) -> torch.Tensor:
        return state.fused.take(at.numpy()).double()

    queries, out = FusedRows(rows, normalize=settings.normalize), torch.empty_like(rows)
    queries.write(torch.empty_like(rows), searched=False)
    add_counted(queries, counted, take, settings.alpha, out)
    return out.float()


def count(asked: Transaction, memory: Memory) -> dict[str, Any]:
    """Numbers of the gallery; see `Gallery.stats`."""
    state = memory.sync(asked)
    lists, settings = state.lists, state.head.settings
    pulled = 0
    for start in range(0, len(lists.ids) if settings.k else 0, PART):
        places = np.arange(start, min(start + PART, len(lists.ids)))
        pulled += int((neighborhoods.mutual(lists, places, settings.k1, settings.k2) >= 0).any(axis=1).sum())
    first, last = asked.times()
    return {
        "rows": len(lists.ids),
        "width": state.head.width,
        "version": state.head.version,
        "cams": asked.count_labels("cam"),
        "groups": asked.count_labels("grp"),
        "zero_rows": int((~lists.nonzero).sum()),
        "pulled": pulled,
        "first_time": first,
        "last_time": last,
        "settings": asdict(settings),
    }
