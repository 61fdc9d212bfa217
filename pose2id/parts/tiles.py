"""Tiles of distances between parts: one product per part and a root, each a proven lower bound.

A row of parts u_p with visibility v_p, centred and scaled by `Frame`, enters a product with two more columns,

    a_p = v_p (-2 u_p, n_p, 1)    and    b_p = v_p (u_p, 1, n_p),    n_p = |u_p|² (1 - s),

so that one product gives v_p v'_p (|u_p - u'_p|² - s (|u_p|² + |u'_p|²)) at once; its root is at most w_p d_p.
Rounding, of the D + 2 products and of what enters them, is at most (D + 8) eps (|u_p|² + |u'_p|²) for any order of
summation, and that of centring 2 eps of the same (see `pose2id.distances`): s = (D + 32) eps covers both, so what
comes out is never above the true value. Sums over P parts and the division by the sum of weights are off by a factor of
at most 1 + (P + 16) eps, which `lower` takes off.

The sum of weights is a product of the roots of visibilities, P columns wide. Roots below `floor` are raised to it,
which makes the bound lower; the visibility of each row is scaled by its largest, which changes no distance.

The same tile bounds distances from above: no part is off by more than the root of 2 s v_p v'_p (|u_p|² + |u'_p|²), so
no mean by more than the largest of these without the visibilities, `spread`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from pose2id.arrays import row_blocks
from pose2id.distances import Frame, underflow
from pose2id.parts.pairs import Rule
from pose2id.parts.sets import PartSet

HEIGHT, WIDTH = 1024, 1024
"""Rows and columns of one product on a CPU: few enough for the caches, many enough for two threads."""


class Side(NamedTuple):
    """Some rows as they enter a tile."""

    factors: torch.Tensor  # (P, n, D + 2): a or b
    roots: torch.Tensor  # (n, P): of visibility
    norms: torch.Tensor  # (n,) float64: the largest |u_p|² of each row

    def pick(self, at: slice) -> Side:
        """Some of the rows."""
        return Side(self.factors[:, at], self.roots[at], self.norms[at])


class Tiles:
    """Makes tiles of two sets of parts in `dtype`, or of one with itself."""

    def __init__(self, queries: PartSet, base: PartSet, rule: Rule, dtype: torch.dtype) -> None:
        self.rule, self.dtype = rule, dtype
        self.parts, self.width = base.rows.shape[1:]
        flat = queries.rows.flatten(1)
        self.frame = Frame(base.rows.flatten(1), None if queries.rows is base.rows else flat)
        self.eps = torch.finfo(dtype).eps
        self.slack = (self.width + 32) * self.eps
        self.floor = 2.0**-60 if dtype == torch.float32 else 2.0**-200
        shown = [s.visibility > 0 for s in (queries, base)]
        self.always_common = bool((shown[0].all(dim=0) & shown[1].all(dim=0)).any())
        self.all_visible = all(bool((s.visibility == 1).all()) for s in (queries, base))
        self._hidden = underflow(dtype, self.width + 2) ** 0.5 + (8 * self.eps if rule.metric == "cosine" else 0)

    def left(self, rows: PartSet) -> Side:
        """Rows of the queries, as they enter a tile."""
        return self._side(rows, -2.0, (0, 1))

    def right(self, rows: PartSet) -> Side:
        """Rows of the base, as they enter a tile."""
        return self._side(rows, 1.0, (1, 0))

    def _side(self, rows: PartSet, factor: float, places: tuple[int, int]) -> Side:
        n, d, device = len(rows.rows), self.width, rows.rows.device
        largest = rows.visibility.amax(dim=1, keepdim=True)
        visibility = rows.visibility / torch.where(largest > 0, largest, 1)
        roots = visibility.sqrt()
        if self.rule.reduce == "max":
            weights = (visibility > 0).double()
        else:
            weights = roots if self.rule.metric == "cosine" else visibility
        factors = torch.empty(self.parts, n, d + 2, dtype=self.dtype, device=device)
        norms = torch.zeros(n, dtype=torch.float64, device=device)
        own = weights.to(self.dtype)
        for block in row_blocks(rows.rows):
            moved = self.frame.centre_rows(rows.rows[block].flatten(1), self.dtype).view(-1, self.parts, d)
            squared = moved.square().sum(dim=2, dtype=torch.float64)
            norms[block] = torch.where(weights[block] > 0, squared, 0).amax(dim=1)
            weight = own[block].T
            torch.mul(moved.transpose(0, 1), factor * weight[:, :, None], out=factors[:, block, :d])
            reduced = (squared * (1 - self.slack)).to(self.dtype).T
            factors[:, block, d + places[0]] = weight * reduced
            factors[:, block, d + places[1]] = weight
        raised = torch.where(visibility > 0, roots.clamp(min=self.floor), 0).to(self.dtype)
        return Side(factors, raised, norms)

    def bounds(
        self, left: Side, right: Side, out: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Lower bounds (a, b) but for the factor of `lower`, inf without a common part, and the sums of weights.

        The sums are None where the visibility of all parts is 1, or the rule asks for no mean.
        """
        a, b = len(left.roots), len(right.roots)
        result = torch.empty(a, b, dtype=self.dtype, device=left.roots.device) if out is None else out
        height, width = (a, b) if result.is_cuda else (HEIGHT, WIDTH)
        buffer = torch.empty(min(a, height) * min(b, width), dtype=self.dtype, device=result.device)
        for i in range(0, a, height):
            rows = slice(i, min(i + height, a))
            for j in range(0, b, width):
                columns = slice(j, min(j + width, b))
                shape = rows.stop - rows.start, columns.stop - columns.start
                part, total = buffer[: math.prod(shape)].view(shape), result[rows, columns]
                for p in range(self.parts):
                    torch.mm(left.factors[p, rows], right.factors[p, columns].T, out=part)
                    part.clamp_(min=0)
                    if self.rule.metric == "euclidean":
                        part.sqrt_()
                    if p == 0:
                        total.copy_(part)
                    elif self.rule.reduce == "max":
                        torch.maximum(total, part, out=total)
                    else:
                        total.add_(part)
        if self.rule.metric == "cosine":
            result.mul_(0.5)
        weights = None
        if not self.all_visible or (self.rule.reduce == "mean" and self.parts > 1):
            weights = self._weigh(result, left, right)
        return result, weights

    def _weigh(self, result: torch.Tensor, left: Side, right: Side) -> torch.Tensor | None:
        """Divide by the sums of weights where the rule is a mean; inf without a common part."""
        if self.all_visible:
            result.mul_(1 / self.parts)
            return None
        weights: torch.Tensor = left.roots @ right.roots.T
        if self.rule.reduce == "mean":
            result.div_(weights)
        if not self.always_common:
            result.masked_fill_(weights == 0, torch.inf)
        return weights

    def lower(self, bounds: torch.Tensor) -> torch.Tensor:
        """Entries of `bounds` as lower bounds of distances in the caller's units, float64."""
        factor = (1 - (self.parts + 16) * self.eps) * (1 - (self.width + 8) * 2.0**-52)
        lower: torch.Tensor = (bounds.double() * factor - self._hidden).clamp_(min=0) / self.unit
        return lower

    @property
    def unit(self) -> float:
        """How many units of a tile the caller's unit is."""
        return self.frame.scale if self.rule.metric == "euclidean" else 1.0

    def spread(self, left: Side, right: Side) -> torch.Tensor:
        """How far true distances may be above `bounds`, but for rounding of the size of eps, (a,) float64."""
        off = 2 * self.slack * (left.norms + right.norms.max())
        spread: torch.Tensor = (off.sqrt() if self.rule.metric == "euclidean" else off / 2) + self._hidden
        return spread
