"""The engine `pivots` on a cluster: rows are sent to the parts of their nearest pivots, and searched there.

Pivots come from k-means on a sample, as those of `pose2id.neighbors` do; here they only decide which rows meet on a
worker, for which *sketches* of at most `SKETCHED` columns do. A row joins the parts of its `MEMBERSHIPS` nearest
pivots. Pivots that too many rows are near to are moved away from all. Then they are cut into parts of about equally
many rows, neighbouring pivots into one part as far as may be: by halves along the direction in which they vary most.
The engine `pivots` searches every part, or, where it is small, the engine `exact`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from pose2id.arrays import cut
from pose2id.distributed import blocks
from pose2id.distributed.blocks import Block, Floats, Indices, Table, as_tensor, empty_table, merge_into, merge_tables
from pose2id.neighbors import find_neighbors
from pose2id.validation import encode_labels

MEMBERSHIPS = 5
COPIES = 3
"""How many parts a row joins, as a plan: parts are so many that with it they are as large as blocks."""
PIVOTS_PER_PART = 8
SAMPLED = 16
"""Rows per pivot in the sample, where these take no more memory than a block."""
SKETCHED = 256
STEPS = 3
BALANCED = 20
"""Steps that even out how many rows are near each pivot."""
ELEMENTS = 2**22
"""Elements of a tile of products."""
EXACT = 5000
"""Parts of fewer rows are searched exactly, as the engine `pivots` does with so few, but in pieces."""
SEED = 0


class Sample(NamedTuple):
    """Sketches of rows (m, S), float32, as shares of the largest entry."""

    rows: Floats
    largest: float


class Pivots(NamedTuple):
    """Pivots (P, S) as shares of the sample's `largest` entry, how far each is moved away (P,), and its part (P,)."""

    rows: Floats
    away: Floats
    part: Indices
    largest: float


class Joined(NamedTuple):
    """Rows (e,) and the parts (e,) that they join, ascending: a row once for each of its parts."""

    row: Indices
    part: Indices


class Sent(NamedTuple):
    """Rows (m, D) of one block for some parts, their indices in the whole set (m,), their labels (m,) or None."""

    rows: Floats
    indices: Indices
    labels: Any
    joined: Joined


class Met(NamedTuple):
    """Neighbours that rows `indices` (m,) of the whole set met in one part."""

    indices: Indices
    table: Table


def count_parts(sizes: Sequence[int]) -> int:
    """How many parts: so many that one has about the rows of the largest block."""
    return max(1, -(-COPIES * sum(sizes) // max(1, *sizes))) if len(sizes) > 1 else 1


def share_sample(sizes: Sequence[int], parts: int, width: int) -> list[int]:
    """How many rows of each block belong to the sample, whose sketches take no more memory than the largest block."""
    wanted = min(parts * PIVOTS_PER_PART * SAMPLED, max(1, *sizes) * -(-width // SKETCHED))
    return [min(size, -(-wanted * size // max(1, sum(sizes)))) for size in sizes]


def sketch(rows: torch.Tensor) -> torch.Tensor:
    """Rows (n, D) in at most `SKETCHED` columns, float64: sums under random signs, whose distances are about theirs."""
    n, width = rows.shape
    if width <= SKETCHED:
        return rows.double()
    generator = torch.Generator("cpu").manual_seed(SEED)
    signs = torch.randint(0, 2, (width,), generator=generator, device="cpu") * 2 - 1
    signed = torch.nn.functional.pad(rows * signs, (0, -width % SKETCHED))
    return signed.view(n, -1, SKETCHED).sum(dim=1, dtype=torch.float64)


def take_sample(block: Block, *, count: int) -> Sample:
    """At most `count` rows that are not zero, evenly spread."""
    at = (block.rows != 0).any(axis=1).nonzero()[0]
    at = at[np.linspace(0, len(at) - 1, min(count, len(at))).astype(np.int64)]
    rows = as_tensor(block.rows)
    largest = max([0.0, *(float(sketch(rows[at[part]]).abs().amax()) for part in _pieces(rows, len(at)))])
    short = torch.empty(len(at), min(rows.shape[1], SKETCHED), dtype=torch.float32)
    for part in _pieces(rows, len(at)):
        short[part] = (sketch(rows[at[part]]) / (largest or 1.0)).float()
    return Sample(short.numpy(), largest)


def _pieces(rows: torch.Tensor, n: int) -> Iterator[slice]:
    """Slices that cover n rows of such a width, for sketches: these take some times the memory of their rows."""
    return cut(n, max(1, ELEMENTS // 4 // rows.shape[1]))


def train(samples: Sequence[Sample], *, parts: int) -> Pivots:
    """Pivots from a sample, and parts from pivots."""
    largest = max(each.largest for each in samples)
    sample = torch.cat([as_tensor(each.rows) * (each.largest / (largest or 1.0)) for each in samples])
    generator = torch.Generator("cpu").manual_seed(SEED)
    count = min(parts * PIVOTS_PER_PART, -(-2 * len(sample) // SAMPLED)) if len(sample) else 0
    count = min(len(sample), max(count, parts))
    pivots = sample[torch.randperm(len(sample), generator=generator)[:count]]
    for _ in range(STEPS if count else 0):
        nearest = _nearest(sample, pivots, pivots.square().sum(dim=1) / 2, 1)[:, 0]
        sums = torch.zeros_like(pivots).index_add_(0, nearest, sample)
        weight = torch.bincount(nearest, minlength=count)
        pivots = torch.where(weight[:, None] > 0, sums / weight.clamp(min=1)[:, None], pivots)
    away, load = _balance(sample, pivots)
    part = np.zeros(count, np.int64)
    _halve(pivots, load, torch.arange(count), 0, parts, part)
    return Pivots(pivots.numpy(), away.numpy(), part, largest)


def _balance(sample: torch.Tensor, pivots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How far pivots are moved away so that about equally many rows are near each, (P,), and how many are, (P,).

    In unstructured data the pivots nearest to the mean would be near to all rows.
    """
    away, count = pivots.square().sum(dim=1) / 2, len(pivots)
    best = away, torch.full((count,), len(sample))
    if not count:
        return best
    step = (sample[:: -(-len(sample) // 1024)] @ pivots.T).sub_(away).std(correction=0) / 2
    for _ in range(BALANCED):
        load = torch.bincount(_nearest(sample, pivots, away, MEMBERSHIPS).flatten(), minlength=count)
        if load.max() < best[1].max():
            best = away, load
        away = away + step * ((load + 1) / (load.float().mean() + 1)).log()
        step *= 0.85
    return best


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


def _nearest(rows: torch.Tensor, pivots: torch.Tensor, away: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` nearest pivots of every row (of a sketch), (n, count)."""
    found = torch.empty(len(rows), min(count, len(pivots)), dtype=torch.int64)
    for part in cut(len(rows), max(1, ELEMENTS // max(1, len(pivots)))):
        found[part] = (rows[part] @ pivots.T).sub_(away).topk(found.shape[1], dim=1).indices
    return found


def join(block: Block, pivots: Pivots, *, parts: int, zeros: bool) -> Joined:
    """Which rows of a block join which parts."""
    rows = as_tensor(block.rows)
    at = torch.arange(len(rows)) if zeros else (rows != 0).any(dim=1).nonzero().flatten()
    known = as_tensor(pivots.rows), as_tensor(pivots.away)
    near = torch.empty(len(at), min(MEMBERSHIPS, len(pivots.part)), dtype=torch.int64)
    for piece in _pieces(rows, len(at)):
        short = (sketch(rows[at[piece]]) / (pivots.largest or 1.0)).clamp_(-1e9, 1e9).float()
        near[piece] = _nearest(short, *known, MEMBERSHIPS)
    joins = np.zeros((len(at), parts), bool)
    if near.shape[1]:
        np.put_along_axis(joins, pivots.part[near.numpy()], True, axis=1)
    else:
        joins[:, 0] = True  # rows of zeros only
    part, row = joins.T.nonzero()
    return Joined(at.numpy()[row], part)


def send(block: Block, joined: Joined, *, first: int, stop: int) -> Sent:
    """The rows of a block for the parts from `first` to `stop`. Those for all parts at once would be several blocks."""
    indices = np.arange(block.first, block.first + len(block.rows))
    return send_on(Sent(block.rows, indices, block.labels, joined), first=first, stop=stop)


def send_on(sent: Sent, *, first: int, stop: int) -> Sent:
    """Those of some rows that are for the parts from `first` to `stop`."""
    rows, indices, labels, joined = sent
    begin, end = np.searchsorted(joined.part, [first, stop])
    chosen, row = np.unique(joined.row[begin:end], return_inverse=True)
    labels = None if labels is None else labels[chosen]
    return Sent(rows[chosen], indices[chosen], labels, Joined(row, joined.part[begin:end]))


def search_part(sent: Sequence[Sent], *, k: int, device: str) -> list[Met]:
    """The neighbours within one part, by the blocks that sent its rows."""
    indices = np.concatenate([each.indices for each in sent])
    search = _search_pieces if len(indices) < EXACT else _search_whole
    near, distances = search(sent, k=k, device=device)
    near = np.where(near >= 0, indices[near.clip(min=0)], -1) if len(indices) else near
    ends = np.cumsum([len(each.indices) for each in sent])[:-1]
    parts = (np.split(array, ends) for array in (indices, near, distances))
    return [Met(own, Table(*table)) for own, *table in zip(*parts, strict=True)]


def _search_whole(sent: Sequence[Sent], *, k: int, device: str) -> Table:
    """The table of a part by the engine `pivots`, which wants its rows in one array."""
    part = _join_sent(sent, 0)
    labels = None
    if part.labels is not None:
        labels = torch.from_numpy(encode_labels([part.labels], ("exclude", "exclude"))[0]).to(device)
    rows = as_tensor(part.rows).to(device)
    near, distances = find_neighbors(rows, rows, k, labels, labels, within=True, engine="pivots")
    return Table(near.cpu().numpy(), distances.cpu().numpy())


def _search_pieces(sent: Sequence[Sent], *, k: int, device: str) -> Table:
    """The table of a part by the engine `exact`: all pairs of pieces, for which no copy of all rows is needed."""
    table = empty_table(sum(len(each.indices) for each in sent), k, sent[0].rows.dtype)
    pieces: list[tuple[int, list[Sent]]] = []
    first, held = 0, 0
    for each in filter(lambda each: len(each.indices), sent):
        if not pieces or held + each.rows.nbytes > blocks.SEARCHED:
            pieces.append((first, []))
            held = 0
        pieces[-1][1].append(each)
        first, held = first + len(each.indices), held + each.rows.nbytes
    for number, (start, own) in enumerate(pieces):
        left = _join_sent(own, start)
        for begin, others in pieces[number:]:
            right = left if begin == start else _join_sent(others, begin)
            found = blocks.search_pair(left, right, k=k, engine="exact", zeros=True, device=device)
            for side, piece in zip(found, (left, right), strict=True):
                merge_into(table, slice(piece.first, piece.first + len(piece.rows)), side)
    return table


def _join_sent(sent: Sequence[Sent], first: int) -> Block:
    """Rows that were sent, one block's after the other's, as a block that begins at row `first` of the part."""
    labels = [each.labels for each in sent if each.labels is not None]
    rows = sent[0].rows if len(sent) == 1 else np.concatenate([each.rows for each in sent])
    return Block(rows, first, np.concatenate(labels) if labels else None)


def join_tables(met: Sequence[Met], *, rows: int, first: int, k: int, dtype: Any) -> Table:
    """The table of a block whose rows met others in several parts."""
    table = empty_table(rows, k, dtype)
    for own, found in met:
        at = own - first
        near = Table(table.indices[at], table.distances[at])
        table.indices[at], table.distances[at] = merge_tables([near, found])
    return table
