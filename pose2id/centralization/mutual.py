"""Algorithm 1: who is a mutual neighbour of whom, and the sums of rows with their mutual neighbours."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from pose2id.arrays import cached_blocks, row_blocks
from pose2id.centralization.fusion import FusedRows, check_fits
from pose2id.distances import row_sums, scale_to_unit
from pose2id.neighbors import find_neighbors
from pose2id.progress import tqdm

Take = Callable[[torch.Tensor], torch.Tensor]


def search_neighbors(
    searched: torch.Tensor,
    nonzero: torch.Tensor,
    k: int,
    labels: torch.Tensor | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> torch.Tensor:
    """The k nearest other nonzero rows of every row, (N, k) int64, -1 where there is none (all of it for zero rows).

    `searched` holds the nonzero rows only; `nonzero`, (N,) bool, says which they are.
    """
    table = torch.full((len(nonzero), k), -1, dtype=torch.int64, device=nonzero.device)
    at = nonzero.nonzero().flatten()
    if k and len(at):
        part = None if labels is None else labels[at]
        found, _ = find_neighbors(searched, searched, k, part, part, within=True, engine=engine, progress=progress)
        table[at] = torch.where(found >= 0, at[found.clamp(min=0)], -1)
    return table


def drop_neighbors(table: torch.Tensor, nonzero: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """A given table without zero rows and excluded pairs; what is left moves up, so the first k are what is left."""
    result = torch.empty_like(table)
    for block in row_blocks(table):
        part = table[block]
        keep = (part >= 0) & nonzero[part.clamp(min=0)] & nonzero[block, None]
        if labels is not None:
            keep &= labels[part.clamp(min=0)] != labels[block, None]
        part = torch.where(keep, part, -1)
        result[block] = part.gather(1, (~keep).to(torch.int8).sort(dim=1, stable=True).indices)
    return result


def mutual_neighbors(table: torch.Tensor, k1: int, k2: int) -> torch.Tensor:
    """M_i of algorithm 1, (N, k1): of the first k1 of each row, those that hold the row among their first k2; else -1.

    `table` (N, K) holds the neighbours of each row, nearest first, -1 where there is none.
    """
    n, near = len(table), table[:, :k1]
    mutual = torch.full(near.shape, -1, dtype=torch.int64, device=table.device)
    # Who is held, and by whom, as one number; sorted, so that the holders of a row stand together.
    rows = torch.arange(n, device=table.device)[:, None]
    held = (table[:, :k2] * n + rows).flatten().sort().values
    if not len(held):
        return mutual
    for block in row_blocks(near):
        own = near[block]
        wanted = rows[block] * n + own
        at = torch.searchsorted(held, wanted).clamp_(max=len(held) - 1)
        mutual[block] = torch.where((held[at] == wanted) & (own >= 0), own, -1)
    return mutual


def add_mutual_neighbors(
    fused: FusedRows, mutual: torch.Tensor, alpha: float, out: torch.Tensor, *, progress: bool = False
) -> None:
    """Write z_i = f_i + the weighted sum of f_j over the mutual neighbours j of i to `out` (N, D), which may hold f.

    Sums run in float64 in ascending order of index, the row itself included, so rows that are all each other's
    neighbours come out equal to the last bit. They are scaled to length 1 if `fused` is.
    """
    # Rows at and after the present block stand in `out` still, if they ever did.
    ahead = FusedRows(out) if fused.in_memory else fused
    with tqdm(total=len(out), desc="adding", unit="row", disable=not progress) as bar:
        for block in cached_blocks(out):
            if not fused.in_memory:
                out[block] = fused.take(block)
            at = (mutual[block] >= 0).any(dim=1).nonzero().flatten() + block.start
            if len(at):
                near = mutual[at].sort(dim=1).values
                before, after = (near >= 0) & (near < at[:, None]), near > at[:, None]
                own = ahead.take(at)  # kept until the next block's: memory that is given back is not always found again
                sums = mutual_sums(own, near, before, after, fused.take, ahead.take, alpha)
                out.index_copy_(0, at, (scale_to_unit(sums) if fused.normalize else sums).to(out.dtype))
            if not fused.normalize:
                check_fits(out[block])
            bar.update(block.stop - block.start)


def mutual_sums(
    own: torch.Tensor,
    near: torch.Tensor,
    before: torch.Tensor,
    after: torch.Tensor,
    take_before: Take,
    take_after: Take,
    alpha: float,
) -> torch.Tensor:
    """Rows (b, D), float64, with their mutual neighbours `near` (b, k), sorted by index: those `before` them first.

    `before` and `after`, (b, k) bool, say which of `near` have a lower and which a higher index than the row.
    """
    sums = torch.zeros_like(own)
    add_weighted(sums, own, take_before, near, before, alpha)
    sums += own
    add_weighted(sums, own, take_after, near, after, alpha)
    return sums


def add_weighted(
    sums: torch.Tensor, rows: torch.Tensor, take: Take, neighbors: torch.Tensor, chosen: torch.Tensor, alpha: float
) -> None:
    """Add to `sums` (b, D), float64, the chosen neighbours (b, k), each times max(cosine to its row, 0) ** alpha.

    `take` gives rows by index. A sum depends on its row and neighbours alone, to the last bit.
    """
    directions = scale_to_unit(rows.clone()) if alpha > 0 else rows
    for slot in range(neighbors.shape[1]):
        at = chosen[:, slot].nonzero().flatten()
        if len(at):
            other = take(neighbors[at, slot])
            if alpha > 0:
                cosine = row_sums(directions[at] * scale_to_unit(other.clone()))[:, None]
                other *= power(cosine.clamp(0, 1), alpha)
            sums.index_add_(0, at, other)  # each row at most once, so there is no order to get wrong


def power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """base ** exponent; on a CPU by numpy, since torch rounds the last few entries of an array in another way."""
    if base.is_cuda:
        return base**exponent
    return torch.from_numpy(np.power(base.numpy(), exponent))
