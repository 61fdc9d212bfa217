"""What tasks do: fuse a block of rows, search a pair of blocks, tell who is mutual, add. Plain functions of arrays.

Nothing here knows Dask, and every function is pure: the same blocks give the same bits, wherever and however often it
runs. So a worker may die and its tasks be done again elsewhere. The numbers are those of one machine, since distances
depend on two rows only, ties go to the lower *global* index, and sums run in order of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import cached_blocks, take_array, take_features, work_dtype
from pose2id.centralization import FusedRows, check_fits, mutual_sums, take_generated
from pose2id.distances import scale_to_unit
from pose2id.neighbors import find_across, find_neighbors
from pose2id.validation import encode_labels

SEARCHED = 2**22
"""Bytes of rows that are searched at once where what a search needs beside them is some times as much."""

Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


class Block(NamedTuple):
    """Fused rows (b, D) in the working dtype, the index of the first in the whole set, and labels (b,) or None."""

    rows: Floats
    first: int
    labels: npt.NDArray[Any] | None


class Table(NamedTuple):
    """Neighbours of a block's rows: indices in the whole set (b, k) and distances (b, k), as `Neighbors` has them."""

    indices: Indices
    distances: Floats


class Answer(NamedTuple):
    """Mutual neighbours of who asked: `at` (m,) its own rows, `neighbors` (m,) in the whole set, rows[of[m]] theirs."""

    at: Indices
    neighbors: Indices
    of: Indices
    rows: Floats


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor that shares memory with an array, which may be one that must not be written to."""
    return take_array(array, "rows")[0]


def fuse_block(
    features: Any,
    generated: Any = None,
    labels: npt.NDArray[Any] | None = None,
    *,
    first: int,
    part: slice = slice(0, None),
    eta: float = 0.0,
    normalize: bool = False,
) -> Block:
    """Check and fuse the rows of one block, which begins at row `first` of the whole set, or `part` of them.

    `generated` and `labels` are those of the part.
    """
    first, features = first + part.start, features[part]
    name = f"features[{first}:{first + len(features)}]"
    rows, kind = take_features(features, name)
    views = [] if generated is None else take_generated(generated, rows, kind, name)
    fused = FusedRows(rows, views if eta else [], eta, normalize=normalize)
    memory = torch.empty(rows.shape, dtype=work_dtype(rows.dtype))
    fused.write(memory, searched=False)
    if not fused.in_memory:
        for block in cached_blocks(memory):
            memory[block] = fused.take(block)
    return Block(memory.numpy(), first, labels)


def join_parts(parts: Sequence[Block]) -> Block:
    """The block whose rows are those of its parts."""
    labels = [part.labels for part in parts if part.labels is not None]
    joined = np.concatenate([part.rows for part in parts])
    return Block(joined, parts[0].first, np.concatenate(labels) if labels else None)


def empty_table(rows: int, k: int, dtype: Any) -> Table:
    """No neighbours."""
    return Table(np.full((rows, k), -1, np.int64), np.full((rows, k), np.inf, dtype))


def search_pair(
    left: Block, right: Block, *, k: int, engine: str, zeros: bool, device: str = "cpu"
) -> tuple[Table, Table]:
    """The k nearest rows of `right` for every row of `left`, and the other way round; of one block, the same twice.

    The engine "exact" multiplies every pair of rows once, and goes through two blocks by small tiles. All else is
    searched a piece of both at a time. Without `zeros` rows of zeros have no neighbours and are none.
    """
    how: dict[str, Any] = {"k": k, "engine": engine, "zeros": zeros, "device": device}
    tables = empty_table(len(left.rows), k, left.rows.dtype), empty_table(len(right.rows), k, right.rows.dtype)
    if one := left.first == right.first:
        tables = tables[0], tables[0]
    by_tiles = engine == "exact" and not one and (zeros or all(map(_has_no_zeros, (left, right))))
    for rows in _pieces(left, whole=by_tiles):
        for columns in _pieces(right, whole=by_tiles):
            if one and columns.start == rows.start:
                merge_into(
                    tables[0], rows, *_search_piece(_cut(left, rows), _cut(right, columns), **how, sides="within")
                )
            elif not one or columns.start > rows.start:
                found = _search_piece(_cut(left, rows), _cut(right, columns), **how, sides="both")
                merge_into(tables[0], rows, found[0])
                merge_into(tables[1], columns, found[1])
    return tables


def search_block(queries: Block, base: Block, k: int, engine: str, *, zeros: bool, device: str = "cpu") -> Table:
    """The k nearest rows of `base`, another block, for every query: one side of `search_pair`."""
    table = empty_table(len(queries.rows), k, queries.rows.dtype)
    for rows in _pieces(queries):
        for columns in _pieces(base):
            pieces = _cut(queries, rows), _cut(base, columns)
            merge_into(table, rows, *_search_piece(*pieces, k, engine, zeros, device, sides="left"))
    return table


def merge_into(table: Table, rows: slice, found: Table) -> None:
    """Merge what was found for `rows` into the table."""
    table.indices[rows], table.distances[rows] = merge_tables(
        [Table(table.indices[rows], table.distances[rows]), found]
    )


def _pieces(block: Block, *, whole: bool = False) -> list[slice]:
    """Slices of a block of at most `SEARCHED` bytes, or all of it."""
    n = len(block.rows)
    step = max(1, n if whole else SEARCHED // max(1, block.rows[:1].nbytes))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _cut(block: Block, rows: slice) -> Block:
    labels = None if block.labels is None else block.labels[rows]
    return Block(block.rows[rows], block.first + rows.start, labels)


def _search_piece(
    left: Block, right: Block, k: int, engine: str, zeros: bool, device: str, *, sides: str
) -> list[Table]:
    """Tables of the rows of `left`, and for the sides "both" of `right`; "within" says that both are one piece."""
    pieces = left, right
    tables = [empty_table(len(piece.rows), k, piece.rows.dtype) for piece in pieces][: 1 + (sides == "both")]
    rows = [as_tensor(piece.rows) for piece in pieces]
    at = [torch.arange(len(part)) if zeros else _nonzero(part) for part in rows]
    if not all(map(len, at)):
        return tables
    found: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    codes: list[torch.Tensor | None] = [None, None]
    if left.labels is not None and right.labels is not None:
        encoded = encode_labels([left.labels, right.labels], ("exclude", "exclude"))
        codes = [torch.from_numpy(part)[kept].to(device) for part, kept in zip(encoded, at, strict=True)]
    rows = [part if len(kept) == len(part) else part[kept] for part, kept in zip(rows, at, strict=True)]
    queries, base = (part.to(device) for part in rows)
    if sides == "both":
        found = find_across(queries, base, k, *codes, engine=engine)
    else:
        found = (find_neighbors(queries, base, k, *codes, within=sides == "within", engine=engine),)
    across = zip(tables, at, at[::-1], (right.first, left.first), found, strict=False)  # of one side, its table alone
    for table, own, other, first, (near, distances) in across:
        near = near.cpu()
        table.indices[own.numpy()] = torch.where(near >= 0, (other + first)[near.clamp(min=0)], -1).numpy()
        table.distances[own.numpy()] = distances.cpu().numpy()
    return tables


def _nonzero(rows: torch.Tensor) -> torch.Tensor:
    return ((rows != 0).any(dim=1)).nonzero().flatten()


def _has_no_zeros(block: Block) -> bool:
    """Whether no row is zero: others need not be copied to be searched."""
    return len(_nonzero(as_tensor(block.rows))) == len(block.rows)


def merge_tables(tables: Sequence[Table]) -> Table:
    """The best k of all columns by (distance, index); a neighbour that several tables hold counts once."""
    k = tables[0].indices.shape[1]
    indices = np.concatenate([table.indices for table in tables], axis=1)
    distances = np.concatenate([table.distances for table in tables], axis=1)
    indices = np.where(indices < 0, np.iinfo(np.int64).max, indices)
    order = np.argsort(indices, axis=1, kind="stable")
    indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    twice = indices[:, 1:] == indices[:, :-1]
    distances[:, 1:][twice] = np.inf
    indices[:, 1:][twice] = np.iinfo(np.int64).max
    order = np.lexsort((indices, distances), axis=1)[:, :k]
    indices, distances = np.take_along_axis(indices, order, 1), np.take_along_axis(distances, order, 1)
    return Table(np.where(indices == np.iinfo(np.int64).max, -1, indices), distances)


def merge_sides(pairs: Sequence[tuple[Table, Table] | Table], sides: Sequence[int]) -> Table:
    """Merge one side, 0 or 1, of each pair of blocks; -1: what is a table itself."""
    tables: list[Any] = [pair if side < 0 else pair[side] for pair, side in zip(pairs, sides, strict=True)]
    return merge_tables(tables)


def ask(table: Table, *, first: int, part: slice, starts: Sequence[int], k1: int) -> list[tuple[Indices, Indices]]:
    """In which blocks the k1 nearest of part of a block lie: own rows and neighbours, by the whole set's index.

    `first` is the first row of the block, `starts` those of all blocks.
    """
    near, first = table.indices[part, :k1], first + part.start
    row, slot = (near >= 0).nonzero()
    neighbors = near[row, slot]
    block = np.searchsorted(starts, neighbors, side="right") - 1
    order = np.argsort(block, kind="stable")
    ends = np.searchsorted(block[order], np.arange(len(starts) + 1))
    row, neighbors = row[order] + first, neighbors[order]
    return [(row[a:b], neighbors[a:b]) for a, b in pairwise(ends)]


def answer(
    block: Block, table: Table, questions: Sequence[tuple[Indices, Indices]], *, firsts: Sequence[int], k2: int
) -> list[Answer]:
    """For the questions of each asker, whose rows begin at `firsts`: the mutual ones, with the rows of this block."""
    return [
        answer_rows(block.rows, table.indices[:, :k2], row, neighbor, row - first, neighbor - block.first)
        for (row, neighbor), first in zip(questions, firsts, strict=True)
    ]


def answer_rows(rows: Floats, held: Indices, row: Indices, neighbor: Indices, at: Indices, place: Indices) -> Answer:
    """The mutual ones of the pairs `row`, `neighbor` (m,), which the asking block holds `at`, and this at `place`.

    `held` (b, k2) are the nearest of this block's `rows` (b, D).
    """
    mutual = (held[place] == row[:, None]).any(axis=1)
    wanted, of = np.unique(place[mutual], return_inverse=True)
    return Answer(at[mutual], neighbor[mutual], of, rows[wanted])


def add_block(
    block: Block, answers: Sequence[Answer], *, part: slice, alpha: float, normalize: bool, dtype: torch.dtype
) -> Floats:
    """The rows of part of a block with their mutual neighbours added, as an array (b, D) in `dtype`."""
    own, indices = as_tensor(block.rows[part]), np.arange(block.first + part.start, block.first + part.stop)
    rows: Floats = add_rows(own, indices, answers, alpha, normalize=normalize, dtype=dtype).numpy()
    return rows


def add_rows(
    rows: torch.Tensor,
    indices: Indices,
    answers: Sequence[Answer],
    alpha: float,
    *,
    normalize: bool,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Fused rows (b, D) whose `indices` in the whole set are (b,), with their mutual neighbours in that order added."""
    out = torch.empty(rows.shape, dtype=dtype)
    nothing = np.empty(0, np.int64)
    at = np.concatenate([nothing, *(each.at for each in answers)])
    neighbors = np.concatenate([nothing, *(each.neighbors for each in answers)])
    source = np.concatenate([nothing, *(np.full(len(each.at), m) for m, each in enumerate(answers))])
    of = np.concatenate([nothing, *(each.of for each in answers)])
    order = np.lexsort((neighbors, at))
    at, neighbors, source, of = at[order], neighbors[order], source[order], of[order]
    counts = np.bincount(at, minlength=len(rows))
    ends = np.concatenate([[0], counts.cumsum()])

    def take(places: torch.Tensor) -> torch.Tensor:
        taken = torch.empty(len(places), rows.shape[1], dtype=torch.float64)
        number = places.numpy()
        for m in np.unique(source[number]):
            here = (source[number] == m).nonzero()[0]
            taken[torch.from_numpy(here)] = torch.from_numpy(answers[m].rows[of[number[here]]]).double()
        return taken

    for part in cached_blocks(rows):
        out[part] = rows[part].double()
        has = counts[part].nonzero()[0] + part.start
        if len(has):
            slots = ends[has][:, None] + np.arange(counts[has].max())
            chosen = slots < ends[has + 1][:, None]
            slots = np.where(chosen, slots, 0)
            before = chosen & (neighbors[slots] < indices[has][:, None])
            earlier, later = torch.from_numpy(before), torch.from_numpy(chosen & ~before)
            own = rows[torch.from_numpy(has)].double()
            sums = mutual_sums(own, torch.from_numpy(slots), earlier, later, take, take, alpha)
            out[torch.from_numpy(has)] = (scale_to_unit(sums) if normalize else sums).to(dtype)
        if not normalize:
            check_fits(out[part])
    return out
