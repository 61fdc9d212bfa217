"""One side of a sweep: what is known of its rows, which products matter to them, and how they see a tile.

|q_i - q_j|² is exact integer arithmetic: with h = floor(|q|² / 2), the product c = q_i . q_j - h_i - h_j obeys

    -2 c  <=  |q_i - q_j|²  <=  2 - 2 c.                                                                  (2)

With (1) of `encoder`, a row whose k-th neighbour is known to be within t needs only those j with

    c >= -((t + E_i + E_j) / step)² / 2.                                                                  (3)

The integer limit of (3) is lowered by 3 for the rounding of its own float64 arithmetic and of (2).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from pose2id.neighbors._int8.layout import NONE, Codes

NO_PAIR = 2**30
"""A limit that no pair passes."""


class Side:
    """One of the two sets of a sweep: its codes and what is known of its rows so far.

    `bounds` (n, k) are upper bounds of the distances to k different rows, in the frame; the last column is t of (3).
    Rows that collected too many pairs are `set_aside` (n,), and not searched here; padding is from the start.
    """

    def __init__(self, codes: Codes, labels: torch.Tensor | None, k: int) -> None:
        n, device = len(codes.order), codes.order.device
        self.codes = codes
        self.labels = None if labels is None else labels.int()[codes.order.clamp(min=0)]
        self.bounds = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n, dtype=torch.int64, device=device)
        self.set_aside = codes.order < 0
        self.tiles = [slice(*ends) for ends in itertools.pairwise(codes.starts)]
        self.errors = [codes.error[tile].max() for tile in self.tiles]  # the largest E of each

    def take(self, at: torch.Tensor, labels: torch.Tensor | None, bounds: torch.Tensor) -> Side:
        """A side of some positions of this one, with bounds (n, k) of this one's positions that are known already."""
        part = Side(self.codes.take(at), labels, bounds.shape[1])
        part.bounds[: len(at)] = bounds[at]
        return part

    def rows_left(self) -> torch.Tensor:
        """Positions that were set aside, without padding."""
        return (self.set_aside & (self.codes.order >= 0)).nonzero().flatten()

    def limits(self, rows: slice | torch.Tensor, error: torch.Tensor, step: float) -> torch.Tensor:
        """The integer limits of (3) for `rows` against columns with errors up to `error`; `NO_PAIR` if set aside."""
        # Rounding to float32 may make a slightly longer distance equal.
        radius = (self.bounds[rows, -1] * (1 + 2.0**-22) + self.codes.error[rows] + error) / step
        limit = (radius.square() / -2 - 3).floor().clamp(min=NONE)
        return torch.where(self.set_aside[rows], NO_PAIR, limit.int())


@dataclass
class View:
    """A tile of c, seen from one of its sides."""

    tile: int  # of its rows
    rows: slice
    columns: slice
    error: torch.Tensor  # the largest E of the columns
    grouped: torch.Tensor  # (rows, groups, group) for dim 2, (groups, group, rows) for dim 1
    dim: int
    own: bool = False  # rows and columns are the same tile

    def largest(self) -> torch.Tensor:
        """The maxima over groups of columns, (rows, groups)."""
        best = self.grouped.amax(dim=self.dim)
        return best if self.dim == 2 else best.T

    def smallest(self) -> torch.Tensor:
        """The minima over groups of columns, (rows, groups)."""
        least = self.grouped.amin(dim=self.dim)
        return least if self.dim == 2 else least.T

    def entries(self, row: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
        """The entries (m, group) of chosen rows and groups."""
        return self.grouped[row, group] if self.dim == 2 else self.grouped[group, :, row]
