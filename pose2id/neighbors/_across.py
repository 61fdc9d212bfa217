"""Two sets by float products: every pair of tiles once, the nearest of either set for the rows of the other.

The two stages are those of `_exact`: the same lower bounds, seen from both sides. Rows that the products do not decide
are swept, each side by itself.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from pose2id.arrays import BLOCK_ELEMENTS, cut, rows_at_once, work_dtype
from pose2id.distances import Frame, full_precision, slack, squared_norms
from pose2id.duplicates import find_duplicates
from pose2id.neighbors._exact import SPARE, Best, decide, sweep
from pose2id.neighbors._int8 import machine
from pose2id.neighbors._int8.filter import is_for
from pose2id.neighbors.contract import Search
from pose2id.neighbors.distinct import FEWEST
from pose2id.progress import tqdm
from pose2id.threads import refit_threads

TILE = 1024
"""Rows of a tile at most: a product and its copies are some times 4 MB then. Of wide rows one block of elements."""

Table = tuple[torch.Tensor, torch.Tensor]
"""Indices and distances, (n, k) each."""


def search_across(asked: Search) -> tuple[Table, Table] | None:
    """The k nearest of the base for the queries, and of the queries for the base, by the contract.

    None where two searches are quicker: for sets without rows, or of few rows that are there many times, and where
    codes are multiplied twice in less time than floats once.
    """
    sides = asked, _turn(asked)
    if not all(len(side.queries) for side in sides) or any(_repeats(side) or _has_codes(side) for side in sides):
        return None
    frame = Frame(asked.base, asked.queries)
    tiles = [list(cut(len(side.queries), min(TILE, rows_at_once(side.queries, BLOCK_ELEMENTS)))) for side in sides]
    with full_precision(asked.base.device):
        best = _multiply(asked, frame, tiles)
        return _finish(sides[0], tiles[0], best[0], frame), _finish(sides[1], tiles[1], best[1], frame)


def _multiply(asked: Search, frame: Frame, tiles: list[list[slice]]) -> list[list[Best]]:
    """The smallest lower bounds for every row of each side's tiles, less the row's own norm."""
    dtype = work_dtype(asked.base.dtype)
    best = [[Best(asked.k + SPARE) for _ in own] for own in tiles]
    total = len(tiles[0]) * len(tiles[1])
    with tqdm(total=total, desc="neighbours", unit="tile", disable=not asked.progress) as bar:
        for i, rows in enumerate(tiles[0]):
            left, own = _centre(frame, asked.queries[rows], dtype)
            left *= -2
            for j, columns in enumerate(tiles[1]):
                refit_threads()
                right, other = _centre(frame, asked.base[columns], dtype)
                product = torch.mm(left, right.T)
                alike = asked.labelled_alike(rows, columns)
                if alike is not None:
                    product.masked_fill_(alike, torch.inf)
                best[0][i].take(product + other, columns.start)
                best[1][j].take(product.T.contiguous().add_(own), rows.start)
                bar.update()
    return best


def _turn(asked: Search) -> Search:
    """The search of the rows of the base among the queries."""
    return replace(
        asked,
        queries=asked.base,
        base=asked.queries,
        query_labels=asked.base_labels,
        base_labels=asked.query_labels,
    )


def _repeats(side: Search) -> bool:
    """Whether each row is there several times: then each distinct one is searched once."""
    return len(side.queries) >= FEWEST and find_duplicates(side.queries, side.query_labels) is not None


def _has_codes(side: Search) -> bool:
    """Whether the filter is for this search, and its codes are multiplied more than twice as fast as floats."""
    kind, (n, width) = side.base.device.type, side.base.shape
    filtered = is_for(len(side.queries), n, width, side.k) and machine.largest_code(kind) > 0
    return filtered and machine.code_speed(kind) > 2


def _centre(frame: Frame, rows: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in the frame, and the part of their squared norms that no error of a product takes away."""
    moved = frame.centre_rows(rows, dtype)
    return moved, (squared_norms(moved) * (1 - slack(moved.shape[1], dtype))).to(dtype)


def _finish(side: Search, tiles: list[slice], best: list[Best], frame: Frame) -> Table:
    """The nearest of one side, from the best bounds of each tile of its rows."""
    indices, distances = side.no_neighbors()
    undecided = []
    for rows, each in zip(tiles, best, strict=True):
        part = torch.arange(rows.start, rows.stop, device=indices.device)
        tile = frame.centre_rows(side.queries[rows], distances.dtype)
        undecided.append(decide(side, part, tile, frame, each.bounds, each.where, indices, distances))
    left = torch.cat(undecided)
    if len(left):
        sweep(side, left, indices, distances, frame)
    return indices, distances
