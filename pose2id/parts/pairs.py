"""The distance of two rows of parts, by the parts that both show: for chosen pairs, exact.

With weights w_p = sqrt(v_p v'_p), which are 0 or 1 for bools, it is the sum of w_p d_p over the sum of w_p, or the
largest d_p with w_p > 0; d_p is Euclidean, or 1 - cosine. Without a common part it is inf.

Everything is float64, and sums over parts run from the smallest term to the largest. So a distance depends on neither
the order of the parts, nor the place of the pair in a batch, nor parts that one of the two hides; it is symmetric.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pose2id.distances import pair_cosines, pair_distances
from pose2id.parts.sets import PartSet


class Rule(NamedTuple):
    """How part distances become one."""

    metric: str = "euclidean"  # or "cosine"
    reduce: str = "mean"  # or "max"


EUCLIDEAN_MEAN = Rule()


def ordered_mean(values: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The means of values (n, P) by weights (n, P), whatever the order of the columns; inf where no weight is."""
    total, weight = torch.zeros(2, len(values), dtype=torch.float64, device=values.device)
    terms, ordered = (values * weights).sort(dim=1).values, weights.sort(dim=1).values
    for p in range(values.shape[1]):
        total += terms[:, p]
        weight += ordered[:, p]
    return torch.where(weight > 0, total / weight, torch.inf)


def pair_weights(queries: PartSet, base: PartSet, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The weights w (n, P) of the pairs queries[left], base[right]."""
    return queries.visibility[left].sqrt() * base.visibility[right].sqrt()


def measure_pairs(
    queries: PartSet, base: PartSet, left: torch.Tensor, right: torch.Tensor, scale: float, rule: Rule
) -> torch.Tensor:
    """Distances of the pairs queries[left], base[right], (n,) float64; `scale` as for `pair_distances`."""
    weights = pair_weights(queries, base, left, right)
    values = torch.empty_like(weights)
    for p in range(values.shape[1]):
        sets = queries.rows[:, p], base.rows[:, p]
        if rule.metric == "cosine":
            values[:, p] = pair_cosines(*sets, left, right)
        else:
            values[:, p] = pair_distances(*sets, left, right, scale)
    if rule.reduce == "mean":
        return ordered_mean(values, weights)
    largest = torch.where(weights > 0, values, -torch.inf).amax(dim=1)
    return torch.where(largest == -torch.inf, torch.inf, largest)
