"""Distances of many pairs, rounded to float32, by float64 products: the bits of `pair_distances` in a part of its time.

A difference of two rows must be gathered, widened, subtracted, squared and summed; for a product both are read once. In
float64 it errs so little, `slack` (|q|² + |b|²) in the squared distance, that both ends of what it leaves open nearly
always round to the same float32 number. That is the contract's distance. The few pairs where they do not, equal rows
among them, are measured as differences.
"""

from __future__ import annotations

import torch

from pose2id.distances import hear_warning_about_csr, pair_distances, slack
from pose2id.threads import refit_threads

TILE = 2048
"""Rows of either side that are widened to float64 at once."""
WIDEST = 2048
"""Columns: widened tiles of more would take far more memory, and little less time (none at 16,384 columns)."""


def rounded_distances(
    queries: torch.Tensor, base: torch.Tensor, rows: torch.Tensor, found: torch.Tensor, scale: float
) -> torch.Tensor:
    """Distances of the queries `rows` (r,) to the rows `found` (r, c) of the base, float32; inf where `found` is -1.

    On the CPU, for features narrower than float64: no square of theirs leaves the range of float64.
    """
    result = torch.full(found.shape, torch.inf, dtype=torch.float32, device=base.device)
    if not bool((found >= 0).any()):
        return result
    whole = queries is base and len(rows) == len(base) <= TILE  # then one copy does for both sides
    whole = whole and torch.equal(rows, torch.arange(len(base), device=rows.device))
    for begin in range(0, len(rows), TILE):
        part = slice(begin, begin + TILE)
        left = base.double() if whole else queries[rows[part]].double()
        own = _squares(left)
        for start in range(0, len(base), TILE):
            refit_threads()
            chosen = (found[part] >= start) & (found[part] < start + TILE)
            row, slot = chosen.nonzero(as_tuple=True)
            if not len(row):
                continue
            right = left if whole else base[start : start + TILE].double()
            column = found[part][row, slot] - start
            ends = torch.nn.functional.pad(chosen.sum(dim=1).cumsum(0), (1, 0))
            result[part][row, slot] = _measure(left, right, own, ends, row, column)
        open_row, slot = result[part].isnan().nonzero(as_tuple=True)
        near = found[part][open_row, slot]
        result[part][open_row, slot] = pair_distances(queries, base, rows[part][open_row], near, scale).float()
    return result


def _measure(
    left: torch.Tensor,
    right: torch.Tensor,
    own: torch.Tensor,
    ends: torch.Tensor,
    row: torch.Tensor,
    column: torch.Tensor,
) -> torch.Tensor:
    """Distances of left[row] and right[column], float32; NaN where products leave them open. `ends` cuts `row`."""
    hear_warning_about_csr()
    width = left.shape[1]
    wanted = torch.sparse_csr_tensor(
        ends, column, left.new_zeros(len(column)), (len(left), len(right)), device=left.device, check_invariants=False
    )
    products = torch.sparse.sampled_addmm(wanted, left, right.T, beta=0.0).values()
    lengths = own[row] + (own if right is left else _squares(right))[column]
    squared, off = products.mul_(-2).add_(lengths), lengths.mul_(slack(width, torch.float64))
    rounding = (width + 8) * 2.0**-52  # of the differences
    lower = (squared - off).clamp_(min=0).sqrt_().mul_(1 - rounding).float()
    upper = squared.add_(off).sqrt_().mul_(1 + rounding).float()
    return torch.where(lower == upper, lower, torch.nan)


def _squares(rows: torch.Tensor) -> torch.Tensor:
    """|row|²; the root on the way saves a pass, and `slack` has room for its rounding."""
    lengths: torch.Tensor = torch.linalg.vector_norm(rows, dim=1)
    return lengths.square_()
