"""Pairs that codes could not rule out: float products narrow their distances, float64 differences decide."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pose2id.arrays import work_dtype
from pose2id.distances import pair_distances, pair_products, slack, squared_norms, underflow
from pose2id.neighbors._int8.encoder import Encoder
from pose2id.neighbors._int8.side import Side
from pose2id.neighbors.contract import Search

FLUSH = 10
"""Pairs per row, and 3 for each neighbour asked for, that wait in a tile before they are resolved, 12 bytes each."""


class Pairs:
    """Pairs of positions of the left and the right side that may matter, for each tile of the left side.

    New ones wait until `resolve`, which tightens the limits of a tile and keeps what they do not rule out.
    """

    def __init__(self, asked: Search, encoder: Encoder, left: Side, right: Side) -> None:
        self.asked, self.encoder, self.left, self.right = asked, encoder, left, right
        self.norms: tuple[torch.Tensor, torch.Tensor] | None = None  # (queries, base), in the caller's units
        if products_help(asked.queries, asked.base, encoder):
            norms = squared_norms(asked.base)
            self.norms = (norms if asked.within else squared_norms(asked.queries), norms)
        self.underflow = underflow(work_dtype(asked.base.dtype), asked.base.shape[1])
        none = torch.empty(0, dtype=torch.int32, device=asked.base.device)
        self._new: list[list[torch.Tensor]] = [[] for _ in left.tiles]
        self._waiting = [0] * len(left.tiles)
        # Positions, positions, lower and upper bounds, the last two float32.
        self._kept = [(none, none, none.float(), none.float())] * len(left.tiles)

    def add(self, tile: int, position: torch.Tensor, other: torch.Tensor, product: torch.Tensor) -> bool:
        """New pairs of rows of a tile, with their products c; whether so many waited that limits have changed."""
        self._new[tile].append(torch.stack([position, other, product]).int())
        self._waiting[tile] += len(position)
        rows = self.left.tiles[tile]
        many = self._waiting[tile] > (FLUSH + 3 * self.asked.k) * (rows.stop - rows.start)
        if many:
            self.resolve(tile)
        return many

    def resolve(self, tile: int) -> None:
        """Measure the new pairs of a tile by products, tighten its limits, and keep what they do not rule out."""
        if not self._new[tile]:
            return
        side, start = self.left, self.left.tiles[tile].start
        position, other, product = torch.cat(self._new[tile], dim=1)
        self._new[tile], self._waiting[tile] = [], 0
        possible = product >= side.limits(position, self.right.codes.error[other], self.encoder.step)
        possible = possible.nonzero().flatten()  # once: for each mask that is an index the host of a GPU waits
        position, other, product = position[possible], other[possible], product[possible]
        order = position.argsort(stable=True)
        position, other, product = position[order], other[order], product[order]
        lower, upper = self.intervals(position.long(), other.long(), product)
        # Half the memory, and ten times as fast to sort.
        lower = (lower * (1 - 2.0**-22) - 2.0**-149).clamp_(min=0).float()
        upper = (upper * (1 + 2.0**-22) + 2.0**-149).float()
        new = position, other, lower, upper
        position, other, lower, upper = (torch.cat(pair) for pair in zip(self._kept[tile], new, strict=True))
        order = _order(position - start, upper)
        position, other, lower, upper = position[order], other[order], lower[order], upper[order]
        row, place = position.long(), _places(position - start, side.tiles[tile].stop - start)
        first = (place < self.asked.k).nonzero().flatten()
        at = row[first], place[first]
        side.bounds[at] = torch.minimum(side.bounds[at], upper[first].double())
        # Rounding to float32 may make a slightly longer distance equal.
        keep = (lower * (1 - 2.0**-20) <= side.bounds[row, -1]) & ~side.set_aside[row]
        keep = keep.nonzero().flatten()
        self._kept[tile] = (position[keep], other[keep], lower[keep], upper[keep])

    def intervals(
        self, position: torch.Tensor, other: torch.Tensor, product: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Lower and upper bounds (float64, in the frame) of the distances of pairs.

        By float products where these help; else from their `product` c, which is needed only then.
        """
        encoder = self.encoder
        if self.norms is None:
            if product is None:
                raise ValueError("pairs must come with their products where float products do not help, received none")
            error = self.left.codes.error[position] + self.right.codes.error[other]
            near = (-2 * product.double()).clamp_(min=0).sqrt_().mul_(encoder.step).sub_(error)
            return near, (2 - 2 * product.double()).clamp_(min=0).sqrt_().mul_(encoder.step).add_(error)
        row, column = self.left.codes.order[position], self.right.codes.order[other]
        lengths = self.norms[0][row] + self.norms[1][column]
        squared = lengths - 2 * pair_products(self.asked.queries, self.asked.base, row, column).double()
        # The slack covers the product and the norms; what it allows for moving the rows is not needed here.
        off = lengths * slack(self.asked.base.shape[1], self.asked.base.dtype) + self.underflow
        lower, upper = (squared - off).clamp_(min=0).sqrt_(), (squared + off).clamp_(min=0).sqrt_()
        return lower.mul_(encoder.scale), upper.mul_(encoder.scale)

    def nearest(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Tile by tile the rows (of the queries) that are not set aside, their neighbours (n, k) and distances (n, k).

        Distances are measured; what was kept is used up.
        """
        k, base, side = self.asked.k, self.asked.base, self.left
        dtype = work_dtype(base.dtype)
        for tile, rows in enumerate(side.tiles):
            self.resolve(tile)
            position, other = (each.long() for each in self._kept[tile][:2])
            row, column = side.codes.order[position], self.right.codes.order[other]
            distance = pair_distances(self.asked.queries, base, row, column, self.encoder.scale).to(dtype)
            position -= rows.start
            order = column.argsort(stable=True)
            order = order[_order(position[order], distance[order])]
            n = rows.stop - rows.start
            place = _places(position, n)
            first = (place < k).nonzero().flatten()
            order, place = order[first], place[first]
            indices = torch.full((n, k), -1, dtype=torch.int64, device=row.device)
            distances = torch.full((n, k), torch.inf, dtype=dtype, device=row.device)
            indices[position[order], place] = column[order]
            distances[position[order], place] = distance[order]
            done = (~side.set_aside[rows]).nonzero().flatten()
            yield side.codes.order[rows][done], indices[done], distances[done]


def products_help(queries: torch.Tensor, base: torch.Tensor, encoder: Encoder) -> bool:
    """Whether float products of the rows as they are tell distances better than codes do, and cheaply.

    Not for halves, which would have to be copied, nor far from the origin, where products cancel.
    """
    dtype = work_dtype(base.dtype)
    largest = 2.0**40 if dtype == torch.float32 else 2.0**400
    return (
        base.dtype == queries.dtype == dtype
        and base.is_contiguous()
        and encoder.offset < 16
        and 1 / largest < encoder.scale < largest
    )


def _order(position: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """The stable order of pairs by position, then by length (not negative)."""
    if length.dtype == torch.float64:
        order = length.argsort(stable=True)
        return order[position[order].argsort(stable=True)]
    # Whole numbers are sorted by radix; the bits of such floats have their order.
    return ((position.long() << 32) + length.view(torch.int32)).argsort(stable=True)


def count_each(numbers: torch.Tensor, n: int) -> torch.Tensor:
    """How often each of 0 .. n - 1 occurs, (n,) int64; as `bincount`, for which a GPU's host would wait."""
    counts = torch.zeros(n, dtype=torch.int64, device=numbers.device)
    return counts.index_add_(0, numbers, torch.ones_like(numbers, dtype=torch.int64))


def _places(position: torch.Tensor, n: int) -> torch.Tensor:
    """0, 1, ... for the pairs of each of n positions; the positions of pairs ascend."""
    counts = count_each(position, n)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(position), device=position.device)
    return place - starts.repeat_interleave(counts, output_size=len(position))
