"""Distances that the caller gives to `rerank_distances`: as matrices, or as rows of neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from pose2id.arrays import Kind, check_same_kind, cut, elements_at_once, row_blocks, take_array, work_dtype
from pose2id.centralization.arguments import take_table
from pose2id.neighbors import Neighbors
from pose2id.reranking import smallest

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROUNDING = 1e-4
"""How far below 0, of 1 or the largest of some rows, rounding may have put a distance."""
TILE = 2**20
"""Distances that are sorted at once on a CPU."""


def take_matrix(array: Any, name: str, shape: str, *, distances: bool = False) -> tuple[torch.Tensor, Kind]:
    """A matrix of floats without NaN; of `distances`: finite, and not below 0 but by rounding."""
    tensor, kind = take_array(array, name)
    if tensor.dtype not in FLOATS:
        raise TypeError(
            f"{name} must hold floating-point values, received dtype {kind.dtype}; convert to float32 first"
        )
    if tensor.ndim != 2:
        raise ValueError(f"{name} must have shape {shape}, received {tuple(tensor.shape)}")
    allowed = "finite distances >= 0" if distances else "distances without NaN"
    for block in row_blocks(tensor) if tensor.numel() else ():
        low, high = (float(end) for end in torch.aminmax(tensor[block]))  # NaN spreads to both
        if distances:
            wrong = not math.isfinite(high) or not low >= -ROUNDING * max(1.0, high)
        else:
            wrong = math.isnan(low) or low == -math.inf
        if wrong:
            raise ValueError(
                f"{name} must hold {allowed}, received values from {low} to {high} in rows {block.start} on"
            )
    return tensor, kind


def take_within(across: torch.Tensor, kind: Kind, queries: Any, items: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices within both sets, checked."""
    taken = []
    for array, name, n, shape in (
        (queries, "query_query", len(across), "(Q, Q)"),
        (items, "gallery_gallery", across.shape[1], "(G, G)"),
    ):
        matrix, other = take_matrix(array, name, shape, distances=True)
        check_same_kind(kind, other, ("query_gallery", name))
        if tuple(matrix.shape) != (n, n):
            raise ValueError(
                f"query_gallery has one row per query and one column per gallery item, {name} one of each per row of "
                f"its set; received shapes {tuple(across.shape)} and {tuple(matrix.shape)}"
            )
        taken.append(matrix)
    return taken[0], taken[1]


def take_lists(
    across: torch.Tensor, kind: Kind, neighbors: Any, farthest: Any, least: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neighbours' indices and distances (n, K), K >= least, and farthest distances (n,), checked."""
    if not isinstance(neighbors, Neighbors):
        raise TypeError(f"neighbors must be Neighbors(indices, distances), received {type(neighbors).__name__}")
    n = sum(across.shape)
    distances, other = take_array(neighbors.distances, "neighbors.distances")
    far, third = take_array(farthest, "farthest")
    for kind_, name in ((other, "neighbors.distances"), (third, "farthest")):
        check_same_kind(kind, kind_, ("query_gallery", name))
    for array, name in ((distances, "neighbors.distances"), (far, "farthest")):
        if array.dtype not in FLOATS:
            raise TypeError(f"{name} must hold floating-point values, received dtype {array.dtype}")
    indices = take_table(neighbors.indices, n, 0).to(across.device)
    if indices.shape != distances.shape or indices.shape[1] < least or tuple(far.shape) != (n,):
        raise ValueError(
            f"neighbors must have indices and distances of shape ({n}, K), K >= {least}, and farthest the shape "
            f"({n},), received {tuple(indices.shape)}, {tuple(distances.shape)} and {tuple(far.shape)}"
        )
    held = torch.where(indices < 0, torch.inf, distances)
    last = torch.where(indices < 0, 0, distances).amax(dim=1, keepdim=True) if indices.shape[1] else far[:, None]
    # Both may be rounded in ways of their own. NaN fails each of these.
    right = (held >= 0) & (torch.isfinite(held) | (indices < 0))
    wrong = ~right.all(dim=1) | ~(held[:, 1:] >= held[:, :-1]).all(dim=1)
    wrong |= ~torch.isfinite(far) | ~(last[:, 0] <= far * (1 + ROUNDING) + ROUNDING)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            "neighbors.distances must be finite, >= 0, ascending and at most farthest, -1 last; received "
            f"{distances[row].tolist()} of {indices[row].tolist()}, and {float(far[row])}, in row {row}"
        )
    return indices, held, far


class _Distances:
    """Distances of n rows, queries before gallery; what it gives are the roots of what is to be used.

    The steps of re-ranking square what they are given, so that is a root where nothing is to be squared.
    """

    def __init__(self, arrays: Sequence[torch.Tensor], n: int, *, square: bool) -> None:
        self.across, self.square = arrays[0], square
        self.q, self.n = len(arrays[0]), n
        self.dtype = torch.float32
        for part in arrays:
            self.dtype = work_dtype(torch.promote_types(self.dtype, part.dtype))

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Given distances, as described, float64."""
        values = values.double().clamp(min=0)
        return values if self.square else values.sqrt_()


class Matrices(_Distances):
    """All distances, as three matrices."""

    def __init__(self, across: torch.Tensor, queries: torch.Tensor, items: torch.Tensor, *, square: bool) -> None:
        super().__init__((across, queries, items), len(queries) + len(items), square=square)
        self.queries, self.items = queries, items

    def neighbors(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each row's k nearest others (n, k) and their distances, its largest distance (n,), that to itself (n,)."""
        device = self.across.device
        near = torch.empty(self.n, k, dtype=torch.int64, device=device)
        distances = torch.empty(self.n, k, dtype=self.dtype, device=device)
        largest, own = torch.empty(2, self.n, dtype=torch.float64, device=device)
        height = max(1, elements_at_once(device, TILE) // self.n)
        for first, last in ((0, self.q), (self.q, self.n)):
            for part in cut(last - first, height):
                block = slice(first + part.start, first + part.stop)
                if first:
                    rows = torch.cat([self.across[:, part].T.to(self.dtype), self.items[part].to(self.dtype)], dim=1)
                else:
                    rows = torch.cat([self.queries[part].to(self.dtype), self.across[part].to(self.dtype)], dim=1)
                rows.clamp_(min=0)  # before they are ordered: what is below 0 counts as 0
                largest[block] = self.take(rows.amax(dim=1))
                at = torch.arange(block.start, block.stop, device=device)[:, None]
                own[block] = self.take(rows.gather(1, at)[:, 0])
                rows.scatter_(1, at, torch.inf)
                values, near[block] = smallest(rows, k)
                distances[block] = self.take(values).to(self.dtype)
        return near, distances, largest.masked_fill_(largest == 0, 1.0), own  # 1: all distances are 0

    def measure(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """The distances of pairs of rows."""
        values = torch.empty(len(row), dtype=torch.float64, device=row.device)
        left, right = row < self.q, column < self.q
        for matrix, rows, columns, chosen in (
            (self.queries, row, column, left & right),
            (self.across, row, column - self.q, left & ~right),
            (self.across, column, row - self.q, ~left & right),
            (self.items, row - self.q, column - self.q, ~left & ~right),
        ):
            values[chosen] = matrix[rows[chosen], columns[chosen]].double()
        return self.take(values)


class Lists(_Distances):
    """Those of neighbours, (n, K) in order, and the farthest of each row (n,); `given` tells those of other pairs."""

    def __init__(
        self,
        across: torch.Tensor,
        indices: torch.Tensor,
        distances: torch.Tensor,
        farthest: torch.Tensor,
        given: Callable[[Any, Any], Any] | None,
        kind: Kind,
        *,
        square: bool,
    ) -> None:
        super().__init__((across, distances, farthest), len(indices), square=square)
        self.indices, self.distances, self.farthest = indices, distances, farthest
        self.given, self.kind = given, kind
        rows, columns = (indices >= 0).nonzero(as_tuple=True)
        self.known, order = (rows * self.n + indices[rows, columns]).sort()
        self.values = distances[rows, columns].double()[order]

    def neighbors(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """As `Matrices.neighbors`."""
        everyone = torch.arange(self.n, device=self.across.device)
        own = torch.zeros(self.n, dtype=torch.float64, device=self.across.device)
        if self.given is not None:
            own = self.take(self._ask(everyone, everyone))
        largest = torch.maximum(self.take(self.farthest), own)
        distances = self.take(self.distances[:, :k]).to(self.dtype)
        return self.indices[:, :k], distances, largest.masked_fill_(largest == 0, 1.0), own

    def measure(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """The distances of pairs of different rows."""
        values = torch.full((len(row),), torch.nan, dtype=torch.float64, device=row.device)
        left, right = row < self.q, column < self.q
        values[left & ~right] = self.across[row[left & ~right], column[left & ~right] - self.q].double()
        values[~left & right] = self.across[column[~left & right], row[~left & right] - self.q].double()
        for first, second in ((row, column), (column, row)):
            open_ = values.isnan().nonzero().flatten()
            wanted = first[open_] * self.n + second[open_]
            at = torch.searchsorted(self.known, wanted).clamp_(max=max(len(self.known) - 1, 0))
            there = self.known[at] == wanted if len(self.known) else torch.zeros_like(wanted, dtype=torch.bool)
            values[open_[there]] = self.values[at[there]]
        open_ = values.isnan().nonzero().flatten()
        if len(open_):
            values[open_] = self._ask(row[open_], column[open_])
        return self.take(values)

    def _ask(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """The caller's distances of pairs."""
        if self.given is None:
            raise ValueError(
                f"neighbors with {self.indices.shape[1]} columns lack the distances of {len(row)} pairs that are "
                f"encoded, such as rows {int(row[0])} and {int(column[0])}; give more columns, or measure"
            )
        answer = self.given(*(self.kind.give_back(part, torch.int64) for part in (row, column)))
        values, other = take_array(answer, "what measure returns")
        check_same_kind(self.kind, other, ("query_gallery", "what measure returns"))
        values = values.double()
        if values.shape != row.shape or not bool((torch.isfinite(values) & (values >= -ROUNDING)).all()):
            raise ValueError(
                f"measure must return {len(row)} finite distances >= 0, received the shape {tuple(values.shape)} "
                f"and values from {float(values.min()) if values.numel() else 'none'}"
            )
        return values
