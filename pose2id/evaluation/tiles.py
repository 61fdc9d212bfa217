"""Tiles: blocks of scores, from a given matrix or from features, with a proven bound on their error."""

from __future__ import annotations

from typing import NamedTuple

import torch

from pose2id.arrays import CACHE_ELEMENTS, row_blocks, work_dtype
from pose2id.distances import Frame, pair_cosines, pair_distances, slack, squared_norms, unit
from pose2id.kinds import find_kinds

QUERY_TILE, ITEM_TILE = 256, 512
"""Rows and columns of one product: by measurement small, nearly square ones are the fastest."""
BLOCK_ELEMENTS = CACHE_ELEMENTS
"""Entries of a block of exact scores, of which nothing is multiplied: as many as stay in the caches."""
MEASUREMENT = 64
"""How many entries of a float64 product cost as much as measuring a pair, by measurement."""


class Bound(NamedTuple):
    """How far scores from a matrix product may be off: by at most `error` (b,) in each row.

    They are distances, squared and less `own` (b,). Distances that differ by less than their rounding, `eps`, are
    equal.
    """

    error: torch.Tensor
    own: torch.Tensor
    eps: float

    def limits(self, scores: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between what some scores, of these rows, lie: all others outside stand in the right order to them."""
        # Distances that are off by eps / 2 may be equal if their squares differ by 2 eps and a little.
        rounding = 4 * self.eps * (scores + self.own[row]).clamp(min=0)
        error = (self.error[row] + rounding).to(scores.dtype)
        return scores - error, scores + error


def exact_in_float64(values: torch.Tensor) -> torch.Tensor:
    """Scores (Q, G) that float64 holds: integers beyond 2^53 become places in their row, of the same order and ties."""
    if values.dtype not in (torch.int64, torch.uint64) or not values.numel():
        return values
    whole = values.view(torch.int64)  # torch cannot compare the unsigned ones
    low, high = (0 if values.dtype == torch.uint64 else -(2**53)), 2**53
    smallest, largest = (int(value) for value in whole.aminmax())
    if low <= smallest and largest <= high:
        return whole
    if values.dtype == torch.uint64:
        whole = whole ^ torch.iinfo(torch.int64).min  # the upper half comes after the lower one
    places = torch.empty(values.shape, dtype=torch.int32, device=values.device)
    for block in row_blocks(*values.shape):
        ordered, order = whole[block].sort(dim=1)
        steps = torch.zeros_like(ordered, dtype=torch.int32)
        steps[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
        places[block] = torch.empty_like(steps).scatter_(1, order, steps.cumsum(dim=1, dtype=torch.int32))
    return places


class MatrixTiles:
    """A given matrix (Q, G), exact as it is, in blocks of up to `height` queries."""

    def __init__(self, values: torch.Tensor) -> None:
        narrow = values.dtype in (torch.float16, torch.bfloat16, torch.float32)
        self._values, self._dtype = values, torch.float32 if narrow else torch.float64
        self.device, self.height = values.device, max(1, BLOCK_ELEMENTS // max(1, values.shape[1]))

    def tile(self, block: slice, _: torch.dtype) -> tuple[torch.Tensor, None]:
        """The scores of a block of queries to all items, smaller is nearer, exact: without a bound."""
        return self._values[block].to(self._dtype).contiguous(), None

    def measure(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The values of pairs of a query and an item, (p,): only equal ones are a tie."""
        return self._values[rows, columns].to(self._dtype)


class FeatureTiles:
    """Features (Q, D) and (G, D), multiplied a tile at a time, in blocks of up to `height` queries.

    Euclidean distances are those of rows moved to the mean of the gallery. Cosine distances are half the squared
    Euclidean ones of rows of length 1; a row of zeros counts as one, its cosine is 0.
    """

    def __init__(self, queries: torch.Tensor, items: torch.Tensor, metric: str) -> None:
        self.queries, self.items = queries, items
        self._frame = Frame(items, queries) if metric == "euclidean" else None
        self.dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
        self._base: tuple[torch.Tensor, torch.Tensor] | None = None
        self.device, self.height = items.device, max(16, min(QUERY_TILE, 2**23 // max(1, len(items))))

    def tile(self, block: slice, product: torch.dtype) -> tuple[torch.Tensor, Bound]:
        """|g|² - 2 q.g: the squared distance less |q|², which changes no order, from products in this dtype."""
        items, norms = self._prepared_items(product)
        part = self._prepare(self.queries[block], product)
        scores = torch.empty(len(part), len(items), dtype=product, device=self.device)
        for begin in range(0, len(items), ITEM_TILE):
            columns = slice(begin, begin + ITEM_TILE)
            addend = norms[None, columns].to(product)
            torch.addmm(addend, part, items[columns].T, alpha=-2, out=scores[:, columns])
        own, width = self._norms(part), part.shape[1]
        error = 2 * slack(width, product) * (own + norms.max()) + 16 * width * torch.finfo(product).tiny
        return scores, Bound(error, own, torch.finfo(self.dtype).eps)

    def measure(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """As for `MatrixTiles`."""
        if self._frame is None:
            return pair_cosines(self.queries, self.items, rows, columns).to(self.dtype)
        return pair_distances(self.queries, self.items, rows, columns, self._frame.scale).to(self.dtype)

    def _prepared_items(self, product: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """The gallery as it enters products, and its squared norms; kept for the next tile."""
        if self._base is None or self._base[0].dtype != product:
            self._base = None  # frees memory for the other dtype
            prepared = torch.empty(self.items.shape, dtype=product, device=self.device)
            for block in row_blocks(*self.items.shape):
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


def _kinds(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The kind of each row (n,), and the first row of each kind; each row a kind where few are equal."""
    kinds = find_kinds(rows) if len(rows) else None
    return (torch.arange(len(rows), device=rows.device),) * 2 if kinds is None else (kinds.of, kinds.first)


class DistinctTiles:
    """Features of few distinct rows: each pair of these is measured once, so the scores are exact.

    `values` has a row for each kind of query and a column for each kind of item; `query_kind` (Q,), `item_kind` (G,).
    """

    def __init__(self, values: torch.Tensor, query_kind: torch.Tensor, item_kind: torch.Tensor) -> None:
        self._values, self._query_kind, self._item_kind = values, query_kind, item_kind
        self.device, self.height = values.device, max(1, BLOCK_ELEMENTS // max(1, len(item_kind)))

    @classmethod
    def of(cls, tiles: FeatureTiles) -> DistinctTiles | None:
        """The same scores; None where there are so many distinct pairs that products of all are cheaper."""
        (query_kind, query), (item_kind, item) = (_kinds(rows) for rows in (tiles.queries, tiles.items))
        if MEASUREMENT * len(query) * len(item) > len(query_kind) * len(item_kind):
            return None
        values = torch.empty(len(query), len(item), dtype=tiles.dtype, device=tiles.device)
        for block in row_blocks(*values.shape):
            rows = query[block].repeat_interleave(len(item))
            values[block] = tiles.measure(rows, item.repeat(len(query[block]))).view(-1, len(item))
        return cls(values, query_kind, item_kind)

    def tile(self, block: slice, _: torch.dtype) -> tuple[torch.Tensor, None]:
        """As for `MatrixTiles`."""
        return self._values[self._query_kind[block]].index_select(1, self._item_kind), None

    def measure(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """As for `MatrixTiles`."""
        return self._values[self._query_kind[rows], self._item_kind[columns]]


Tiles = MatrixTiles | FeatureTiles | DistinctTiles
