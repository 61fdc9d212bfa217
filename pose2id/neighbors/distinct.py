"""Sets that hold rows many times: each distinct row is searched once, among the first few of every distinct row.

Equal rows with an equal label have the same neighbours, but for themselves. Of equal ones in the base only the first
k count, since ties go to the lower index; k + 1 within one set, where a row may be among them. So a search of few
distinct rows is small, and its result is that of the whole search: distances depend on the two rows alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import wraps

import torch

from pose2id.arrays import row_blocks
from pose2id.duplicates import find_duplicates
from pose2id.neighbors.contract import Search

FEWEST = 256
"""From so many queries on, looking for duplicates pays."""

Engine = Callable[[Search], tuple[torch.Tensor, torch.Tensor]]


def search_distinct(search: Engine) -> Engine:
    """Wrap an engine that finds all neighbours, so that it searches rows that occur many times only once."""

    @wraps(search)
    def search_once(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
        own = find_duplicates(asked.queries, asked.query_labels) if len(asked.queries) >= FEWEST else None
        if own is None:
            return search(asked)
        same = own if asked.within else find_duplicates(asked.base, asked.base_labels)
        k = min(asked.k + asked.within, len(asked.base))
        kept = None if same is None else (same.place < k).nonzero().flatten()
        if kept is not None and 2 * len(kept) > len(asked.base):
            kept = None  # a copy of most rows is not worth it
        found, distances = search(
            replace(
                asked,
                queries=asked.queries[own.first],
                base=asked.base if kept is None else asked.base[kept],
                k=k,
                query_labels=None if asked.query_labels is None else asked.query_labels[own.first],
                base_labels=asked.base_labels if asked.base_labels is None or kept is None else asked.base_labels[kept],
                within=False,
            )
        )
        if kept is not None:
            found = torch.where(found >= 0, kept[found.clamp(min=0)], -1)
        return _hand_out(asked, own.of, found, distances)

    return search_once


def _hand_out(
    asked: Search, number: torch.Tensor, found: torch.Tensor, lengths: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What was found for every distinct row, given to all that repeat it, without the row itself within one set."""
    indices, distances = asked.no_neighbors()
    found = torch.nn.functional.pad(found, (0, 1), value=-1)  # for a row that passes over itself
    lengths = torch.nn.functional.pad(lengths, (0, 1), value=torch.inf)
    columns = torch.arange(asked.k, device=found.device)
    for block in row_blocks(indices):
        of, at = number[block, None], columns
        if asked.within:
            rows = torch.arange(block.start, block.stop, device=found.device)[:, None]
            at = columns + (found[of, columns] == rows).cumsum(dim=1)
        indices[block], distances[block] = found[of, at], lengths[of, at]
    return indices, distances
