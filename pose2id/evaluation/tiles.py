"""Tiles: blocks of scores, from a given matrix or from features, with a proven bound on their error."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from pose2id.arrays import BLOCK_ELEMENTS, cut, elements_at_once, row_blocks, rows_at_once, work_dtype
from pose2id.distances import Frame, check_range, pair_cosines, pair_distances, slack, squared_norms, unit
from pose2id.duplicates import find_duplicates

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from pose2id.evaluation.masks import Kept

NARROW = 32
"""So many queries look at the same part of a gallery: with more they share less, with fewer calls cost more."""
QUERY_TILE, ITEM_TILE = 256, 512
"""Rows and columns of one product: by measurement small, nearly square ones are the fastest."""
MEASUREMENT = 64
"""How many entries of a float64 product cost as much as measuring a pair, by measurement."""


class Bound(NamedTuple):
    """How far scores from a matrix product may be off: by at most `error` (b,) in each row.

    They are distances, squared and less `own` (b,). Distances that differ by less than their rounding, `eps`, are
    equal. `measure` gives the exact scores of pairs of a query and an item, (p,).
    """

    error: torch.Tensor
    own: torch.Tensor
    eps: float
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def limits(self, scores: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between what some scores, of these rows, lie: all others outside stand in the right order to them."""
        # Distances that are off by eps / 2 may be equal if their squares differ by 2 eps and a little.
        rounding = 4 * self.eps * (scores + self.own[row]).clamp(min=0)
        error = (self.error[row] + rounding).to(scores.dtype)
        return scores - error, scores + error


def exact_in_float64(values: torch.Tensor, *, infinite: bool = False) -> torch.Tensor:
    """Scores (Q, G) that float64 holds, and numbers above all others of them.

    Integers beyond 2^53 become places in their row, of the same order and ties; if some scores are `infinite`, so do
    those that go up to the largest float64.
    """
    if not values.numel() or values.dtype not in (torch.int64, torch.uint64):
        largest = torch.finfo(torch.float64).max
        full = infinite and values.dtype == torch.float64
        full = full and any(bool((values[block] == largest).any()) for block in row_blocks(values))
        return _place_in_rows(values) if full else values
    whole = values.view(torch.int64)  # torch cannot compare the unsigned ones
    low, high = (0 if values.dtype == torch.uint64 else -(2**53)), 2**53
    smallest, largest = (int(value) for value in whole.aminmax())
    if low <= smallest and largest <= high:
        return whole
    if values.dtype == torch.uint64:
        whole = whole ^ torch.iinfo(torch.int64).min  # the upper half comes after the lower one
    return _place_in_rows(whole)


def _place_in_rows(values: torch.Tensor) -> torch.Tensor:
    """How many different values of its row are smaller, (Q, G)."""
    places = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    for block in row_blocks(values):
        ordered, order = values[block].sort(dim=1)
        steps = torch.zeros_like(ordered, dtype=torch.int32)
        steps[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        places[block] = torch.empty_like(steps).scatter_(1, order, steps.cumsum(dim=1, dtype=torch.int32))
    return places


class MatrixTiles:
    """A given matrix (Q, G), exact as it is, in blocks of up to `height` queries; some scores may be `infinite`."""

    def __init__(self, values: torch.Tensor, *, infinite: bool = False) -> None:
        narrow = values.dtype in (torch.float16, torch.bfloat16, torch.float32) and not infinite
        self._values, self._dtype, self._infinite = values, torch.float32 if narrow else torch.float64, infinite
        self.device, self.height = values.device, rows_at_once(values, BLOCK_ELEMENTS)

    def tile(self, block: slice, _: torch.dtype) -> tuple[torch.Tensor, None]:
        """The scores of a block of queries to all items, smaller is nearer, exact: without a bound; a new tensor."""
        scores = self._values[block].to(self._dtype, copy=True, memory_format=torch.contiguous_format)
        if self._infinite:  # what is farthest is an answer; items that are none are told by inf
            scores.clamp_(max=torch.finfo(scores.dtype).max)
        return scores, None


class FeatureTiles:
    """Features (Q, D) and (G, D), multiplied a tile at a time, in blocks of up to `height` queries.

    After `narrow` a tile has a row of the items that a search looks at for each query, as far as the longest of them.

    Euclidean distances are those of rows moved to the mean of the gallery. Cosine distances are half the squared
    Euclidean ones of rows of length 1; a row of zeros counts as one, its cosine is 0.
    """

    def __init__(self, queries: torch.Tensor, items: torch.Tensor, metric: str) -> None:
        self.queries, self.items = queries, items
        self._frame = Frame(items, queries) if metric == "euclidean" else None
        self.scale = None if self._frame is None else self._frame.scale
        self.dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
        self._base: tuple[torch.Tensor, torch.Tensor] | None = None
        self._kept: Kept | None = None
        self._lock = threading.Lock()
        self.device, most = items.device, min(2**23, QUERY_TILE * len(items))
        self.height = max(16, elements_at_once(self.device, most) // max(1, len(items)))

    def narrow(self, order: npt.NDArray[np.int64], kept: Kept) -> FeatureTiles:
        """The same of the queries in another order, with what is `kept` of the items for these."""
        there = copy(self)
        there.queries, there._kept = self.queries[torch.from_numpy(order)], kept
        there.height = max(1, min(8, BLOCK_ELEMENTS // (NARROW * max(1, kept.most())))) * NARROW
        return there

    def tile(self, block: slice, product: torch.dtype) -> tuple[torch.Tensor, Bound]:
        """|g|² - 2 q.g: the squared distance less |q|², which changes no order, from products in this dtype."""
        items, norms = self._prepared_items(product)
        part = self._prepare(self.queries[block], product)
        own, width = self._norms(part), part.shape[1]
        error = 2 * slack(width, product) * (own + norms.max()) + 16 * width * torch.finfo(product).tiny
        eps = torch.finfo(self.dtype).eps
        if self._kept is None:
            return self._multiply(part, items, norms), Bound(error, own, eps, self.measure)
        row, slot = map(torch.from_numpy, self._kept.slots(block))
        scores = torch.zeros(len(part), 1 + int(slot.max()) if len(slot) else 0, dtype=product)
        columns = torch.zeros(scores.shape, dtype=torch.int64)
        columns[row, slot] = torch.from_numpy(self._kept.indices(block)).long()
        place = torch.empty(len(items), dtype=torch.int64)
        start = 0
        for group in cut(len(part), NARROW):
            there = slice(block.start + group.start, block.start + group.stop)
            some = torch.from_numpy(self._kept.columns(there))
            if not len(some):
                continue
            place[some] = torch.arange(len(some))
            asked = slice(start, start + len(self._kept.indices(there)))
            start = asked.stop
            held = place[columns[row[asked], slot[asked]]]
            product_of = self._multiply(part[group], items, norms[some], some)
            scores[row[asked], slot[asked]] = product_of[row[asked] - group.start, held]

        def measure(rows: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
            return self.measure(rows, columns[rows - block.start, places])

        return scores, Bound(error, own, eps, measure)

    def _multiply(
        self, part: torch.Tensor, items: torch.Tensor, norms: torch.Tensor, some: torch.Tensor | None = None
    ) -> torch.Tensor:
        """|g|² - 2 q.g of prepared rows, (b, n); `norms` (n,) are those of the items, or of `some` of them."""
        scores = torch.empty(len(part), len(norms), dtype=part.dtype, device=self.device)
        width = max(1, elements_at_once(self.device, len(part) * ITEM_TILE) // max(1, len(part)))
        memory = items[:0] if some is None else items.new_empty(min(width, len(some)), items.shape[1])
        for columns in cut(len(norms), width):
            if some is None:
                rows = items[columns]
            else:
                rows = torch.index_select(items, 0, some[columns], out=memory[: len(some[columns])])
            torch.addmm(norms[None, columns].to(part.dtype), part, rows.T, alpha=-2, out=scores[:, columns])
        return scores

    def may_overflow(self) -> bool:
        """Whether a distance may be inf in the working dtype; `measure` refuses it."""
        longest = 0.0 if self._frame is None else 2 * self.items.shape[1] ** 0.5 * self._frame.largest
        return longest > torch.finfo(self.dtype).max

    def measure(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The exact scores of pairs of a query and an item, (p,): only equal ones are a tie."""
        if self._frame is None:
            return pair_cosines(self.queries, self.items, rows, columns).to(self.dtype)
        distances = pair_distances(self.queries, self.items, rows, columns, self._frame.scale).to(self.dtype)
        if self.may_overflow():
            check_range(distances)
        return distances

    def _prepared_items(self, product: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The gallery as it enters products, and its squared norms; kept for the next tile."""
        with self._lock:
            if self._base is None or self._base[0].dtype != product:
                self._base = None  # frees memory for the other dtype
                prepared = torch.empty(self.items.shape, dtype=product, device=self.device)
                for block in row_blocks(self.items):
                    prepared[block] = self._prepare(self.items[block], product)
                self._base = prepared, self._norms(prepared)
            return self._base

    def _prepare(self, rows: torch.Tensor, product: torch.dtype) -> torch.Tensor:
        """Rows as they enter the product."""
        return unit(rows.double()).to(product) if self._frame is None else self._frame.centre_rows(rows, product)

    def _norms(self, prepared: torch.Tensor) -> torch.Tensor:
        """Their squared norms, float64, (n,)."""
        if self._frame is None:
            return torch.ones(len(prepared), dtype=torch.float64, device=self.device)
        return squared_norms(prepared)


class DistinctTiles:
    """Features of few distinct rows: each pair of these is measured once, so the scores are exact.

    `values` has a row for each distinct query and a column for each distinct item; `query` (Q,) and `item` (G,) are
    their numbers.
    """

    def __init__(self, values: torch.Tensor, query: torch.Tensor, item: torch.Tensor) -> None:
        self._values, self._query, self._item = values, query, item
        self.device = values.device
        self.height = max(1, elements_at_once(self.device, BLOCK_ELEMENTS) // max(1, len(item)))

    @classmethod
    def of(cls, tiles: FeatureTiles) -> DistinctTiles | None:
        """The same scores; None where there are so many distinct pairs that products of all are cheaper."""
        if tiles.may_overflow():
            return None
        (query, query_first), (item, item_first) = (_distinct(rows) for rows in (tiles.queries, tiles.items))
        shape = len(query_first), len(item_first)
        if MEASUREMENT * shape[0] * shape[1] > len(query) * len(item):
            return None
        values = torch.empty(shape, dtype=tiles.dtype, device=tiles.device)
        for block in row_blocks(values):
            rows = query_first[block].repeat_interleave(shape[1])
            values[block] = tiles.measure(rows, item_first.repeat(len(query_first[block]))).view_as(values[block])
        return cls(values, query, item)

    def tile(self, block: slice, _: torch.dtype) -> tuple[torch.Tensor, None]:
        """As for `MatrixTiles`."""
        return self._values[self._query[block]].index_select(1, self._item), None


class GridTiles:
    """Features of numbers with so few digits that float32 products are exact, as binary codes: the scores are exact.

    Different rows of these are often equally far, which no bound on an error could tell.
    """

    def __init__(self, queries: torch.Tensor, items: torch.Tensor, unit: float, dtype: torch.dtype) -> None:
        self._queries, self._items, self._unit, self._dtype = queries, items, unit, dtype
        self._norms = [rows.square().sum(dim=1) for rows in (queries, items)]
        self.device = items.device
        self.height = max(1, elements_at_once(self.device, BLOCK_ELEMENTS) // max(1, len(items)))

    @classmethod
    def of(cls, tiles: FeatureTiles) -> GridTiles | None:
        """The same scores; None for other features, and for cosines."""
        if tiles.scale is None or tiles.may_overflow():
            return None
        # Whole numbers up to `most` have squared distances up to 2^24, which float32 holds.
        most = 2.0 ** (math.floor((24 - math.log2(tiles.items.shape[1])) / 2) - 1)
        unit, sets = tiles.scale * most, []
        for rows in (tiles.queries, tiles.items):
            whole = torch.empty(rows.shape, dtype=torch.float32, device=rows.device)
            for block in row_blocks(rows):
                steps = rows[block].double() * unit
                if not bool(((steps == steps.round()) & (steps.abs() <= most)).all()):
                    return None
                whole[block] = steps
            sets.append(whole)
        return cls(sets[0], sets[1], unit, tiles.dtype)

    def tile(self, block: slice, _: torch.dtype) -> tuple[torch.Tensor, None]:
        """As for `MatrixTiles`."""
        own, others = self._norms
        squared = torch.addmm(others, self._queries[block], self._items.T, alpha=-2).add_(own[block, None])
        return squared.double().sqrt_().div_(self._unit).to(self._dtype), None


def _distinct(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The number of each row's distinct row, (n,), and the first row of each; where few are equal, all are distinct."""
    found = find_duplicates(rows) if len(rows) else None
    return (torch.arange(len(rows), device=rows.device),) * 2 if found is None else (found.of, found.first)


class Limits(Protocol):
    """What `Bound` tells, of scores of any kind."""

    def limits(self, scores: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between what some scores, of these rows, lie: all others outside stand in the right order to them."""

    @property
    def measure(self) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
        """What gives the exact scores of pairs of a query and an item, (p,)."""


class Tiles(Protocol):
    """Where blocks of scores come from, asked by several threads at once; other rooms may bring their own."""

    height: int
    device: torch.device

    def tile(self, block: slice, product: torch.dtype, /) -> tuple[torch.Tensor, Limits | None]:
        """The scores of a block of queries to all items, a new tensor, and how far they may be off; None: not."""
