"""The engine `pivots` on a cluster: rows are sent to the parts of their nearest pivots, and searched there.

Pivots come from k-means on a sample, as those of `pose2id.neighbors` do; here they only decide which rows meet on a
worker. They are cut into parts of about equally many rows, neighbouring pivots into one part as far as may be: by
halves along the direction in which they vary most. A row joins the parts of its `MEMBERSHIPS` nearest pivots, mostly
one or two, and the engine `pivots` searches every part.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pose2id.arrays import cut
from pose2id.distributed.blocks import Block, Floats, Indices, Table, as_tensor, empty_table, merge_tables
from pose2id.neighbors import find_neighbors
from pose2id.validation import encode_labels

MEMBERSHIPS = 5
COPIES = 2
"""How many parts a row joins, as a plan: parts are so many that with it they are as large as blocks."""
PIVOTS_PER_PART = 32
SAMPLED = 16
"""Rows per pivot in the sample."""
STEPS = 3
ELEMENTS = 2**22
"""Elements of a tile of products."""
SEED = 0


class Pivots(NamedTuple):
    """Pivots (P, D) and the part of each (P,)."""

    rows: Floats
    part: Indices


class Sent(NamedTuple):
    """Rows (m, D) of one block for one part, their indices in the whole set (m,), their labels (m,) or None."""

    rows: Floats
    indices: Indices
    labels: Any


class Met(NamedTuple):
    """Neighbours that rows `indices` (m,) of the whole set met in one part."""

    indices: Indices
    table: Table


def count_parts(sizes: Sequence[int]) -> int:
    """How many parts: so many that one has about the rows of the largest block."""
    return max(1, -(-COPIES * sum(sizes) // max(1, *sizes))) if len(sizes) > 1 else 1


def share_sample(sizes: Sequence[int], parts: int) -> list[int]:
    """How many rows of each block belong to the sample."""
    wanted = parts * PIVOTS_PER_PART * SAMPLED
    return [min(size, -(-wanted * size // max(1, sum(sizes)))) for size in sizes]


def take_sample(block: Block, *, count: int) -> Floats:
    """At most `count` rows that are not zero, evenly spread."""
    at = (block.rows != 0).any(axis=1).nonzero()[0]
    rows: Floats = block.rows[at[np.linspace(0, len(at) - 1, min(count, len(at))).astype(np.int64)]]
    return rows


def train(samples: Sequence[Floats], *, parts: int) -> Pivots:
    """Pivots from a sample, and parts from pivots."""
    sample = as_tensor(np.concatenate(samples))
    sample = sample / sample.abs().amax().clamp(min=torch.finfo(sample.dtype).tiny) if len(sample) else sample
    largest = float(np.max([np.abs(rows).max(initial=0.0) for rows in samples]))
    generator = torch.Generator("cpu").manual_seed(SEED)
    count = min(parts * PIVOTS_PER_PART, len(sample))
    pivots = sample[torch.randperm(len(sample), generator=generator)[:count]]
    weight = torch.ones(count, dtype=torch.int64)
    for _ in range(STEPS if count else 0):
        nearest = _nearest(sample, pivots, 1)[:, 0]
        sums = torch.zeros_like(pivots).index_add_(0, nearest, sample)
        weight = torch.bincount(nearest, minlength=count)
        pivots = torch.where(weight[:, None] > 0, sums / weight.clamp(min=1)[:, None], pivots)
    part = np.zeros(count, np.int64)
    _halve(pivots, weight, torch.arange(count), 0, parts, part)
    return Pivots((pivots * largest).numpy(), part)


def _halve(pivots: torch.Tensor, weight: torch.Tensor, at: torch.Tensor, first: int, parts: int, part: Indices) -> None:
    """Give the pivots `at` the parts first ... first + parts - 1, each about as much weight."""
    if parts == 1 or len(at) <= 1:
        part[at.numpy()] = first
        return
    left = parts // 2
    centred = pivots[at] - pivots[at].mean(dim=0)
    along = centred @ torch.linalg.svd(centred.double(), full_matrices=False).Vh[0].to(centred.dtype)
    order = along.argsort(stable=True)
    share = weight[at][order].cumsum(0)
    cut = int(torch.searchsorted(share, share[-1] * left / parts, right=True))
    cut = min(max(cut, 1), len(at) - 1)
    _halve(pivots, weight, at[order[:cut]], first, left, part)
    _halve(pivots, weight, at[order[cut:]], first + left, parts - left, part)


def _nearest(rows: torch.Tensor, pivots: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` nearest pivots of every row, (n, count)."""
    half = pivots.square().sum(dim=1) / 2
    step = max(1, ELEMENTS // max(1, len(pivots)))
    found = torch.empty(len(rows), min(count, len(pivots)), dtype=torch.int64)
    for part in cut(len(rows), step):
        found[part] = (rows[part] @ pivots.T).sub_(half).topk(found.shape[1], dim=1).indices
    return found


def send(block: Block, pivots: Pivots, *, parts: int, zeros: bool) -> list[Sent]:
    """The rows of a block, by the parts that they join."""
    rows = as_tensor(block.rows)
    at = torch.arange(len(rows)) if zeros else (rows != 0).any(dim=1).nonzero().flatten()
    largest = max(float(np.abs(pivots.rows).max(initial=0.0)), float(torch.finfo(rows.dtype).tiny))
    near = _nearest(rows[at] / largest, as_tensor(pivots.rows) / largest, MEMBERSHIPS)
    joins = np.zeros((len(at), parts), bool)
    if near.shape[1]:
        np.put_along_axis(joins, pivots.part[near.numpy()], True, axis=1)
    else:
        joins[:, 0] = True  # rows of zeros only
    sent = []
    for part in range(parts):
        chosen = at.numpy()[joins[:, part]]
        labels = None if block.labels is None else block.labels[chosen]
        sent.append(Sent(block.rows[chosen], chosen + block.first, labels))
    return sent


def search_part(sent: Sequence[Sent], *, k: int, device: str) -> list[Met]:
    """The neighbours within one part, by the blocks that sent its rows."""
    rows = as_tensor(np.concatenate([each.rows for each in sent]))
    indices = np.concatenate([each.indices for each in sent])
    labels = None
    if sent[0].labels is not None:
        joined = np.concatenate([each.labels for each in sent])
        labels = torch.from_numpy(encode_labels([joined], ("exclude", "exclude"))[0]).to(device)
    rows = rows.to(device)
    near, distances = find_neighbors(rows, rows, k, labels, labels, within=True, engine="pivots")
    found = near.cpu().numpy()
    found = np.where(found >= 0, indices[found.clip(min=0)], -1) if len(indices) else found
    ends = np.cumsum([len(each.indices) for each in sent])[:-1]
    parts = (np.split(array, ends) for array in (indices, found, distances.cpu().numpy()))
    return [Met(own, Table(*table)) for own, *table in zip(*parts, strict=True)]


def join_tables(met: Sequence[Met], *, rows: int, first: int, k: int, dtype: Any) -> Table:
    """The table of a block whose rows met others in several parts."""
    table = empty_table(rows, k, dtype)
    for own, found in met:
        at = own - first
        near = Table(table.indices[at], table.distances[at])
        table.indices[at], table.distances[at] = merge_tables([near, found])
    return table
