"""Near ties: rows that one product left open go through the base once more, in ascending order of index."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pose2id.progress import tqdm
from pose2id.threads import refit_threads

Bound = Callable[[int, int], torch.Tensor]


def settle_ties(
    rows: torch.Tensor,
    size: int,
    indices: torch.Tensor,
    distances: torch.Tensor,
    begin: Callable[[torch.Tensor], Bound],
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *,
    height: int,
    width: int,
    progress: bool = False,
) -> None:
    """Write the `rows` of `indices` and `distances` (Q, k): the k nearest of `size` rows of a base, ties by index.

    On entry `distances` holds measured distances of some k pairs, so its last column limits what can matter. What is
    held so far has the lower index, so a later pair must be strictly nearer.

    `begin` takes up to `height` of the rows, and gives what bounds their distances to base[first:stop] from below: inf
    for pairs that do not count. `measure` gives the distances of pairs of a row and one of the base, rounded; `width`
    is the largest number of base rows that are bounded at once.
    """
    k, device, dtype = distances.shape[1], distances.device, distances.dtype
    for start in tqdm(range(0, len(rows), height), desc="near ties", disable=not progress):
        block = rows[start : start + height]
        bound, limit = begin(block), distances[block, -1:]
        held = torch.full((len(block), k), torch.inf, dtype=dtype, device=device)
        where = torch.full((len(block), k), -1, dtype=torch.int64, device=device)
        stop = 0
        while stop < size:
            # Narrow tiles first: among many ties the k first decide at once.
            refit_threads()
            first, stop = stop, min(size, stop + min(width, max(stop, 16)))
            done = held[:, -1] == 0  # nothing can be strictly nearer
            if 2 * int(done.sum()) > len(block):
                indices[block[done]], distances[block[done]] = where[done], held[done]
                block, limit, held, where = (part[~done] for part in (block, limit, held, where))
                if not len(block):
                    break
                bound = begin(block)
            lower = bound(first, stop)
            possible = (lower < torch.inf) & (lower <= limit)
            possible &= (lower < held[:, -1:]) | torch.isinf(held[:, -1:])
            busy = possible.any(dim=1).nonzero().flatten()
            if not len(busy):
                continue
            row, column = possible[busy].nonzero(as_tuple=True)
            columns = torch.arange(first, stop, device=device)
            nearer = torch.full((len(busy), len(columns)), torch.inf, dtype=dtype, device=device)
            nearer[row, column] = measure(block[busy][row], columns[column])
            index = torch.where(torch.isinf(nearer), -1, columns)
            nearer, order = torch.cat([held[busy], nearer], dim=1).sort(dim=1, stable=True)
            held[busy] = nearer[:, :k]
            where[busy] = torch.cat([where[busy], index], dim=1).gather(1, order)[:, :k]
        indices[block], distances[block] = where, held
