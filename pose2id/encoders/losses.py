"""Losses that several systems share: which person it is, and who is farther away than whom."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

MARGIN = 0.3
"""Of triplets: by so much another person should be farther away than the same one."""
SMOOTHING = 0.1
"""Of labels: the share of a target that all classes have."""


class Classifier(nn.Module):
    """Features (N, D) to scores of identities, behind a batch normalisation without a shift (BNNeck).

    References
    ----------
    Luo et al., "Bag of Tricks and a Strong Baseline for Deep Person Re-Identification", CVPR workshops 2019.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.norm.bias.requires_grad_(False)
        self.linear = nn.Linear(width, classes, bias=False)
        nn.init.normal_(self.linear.weight, std=0.001)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes)."""
        scores: torch.Tensor = self.linear(self.norm(features))
        return scores


def identity_loss(scores: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scores (N, classes) with smoothed labels."""
    return functional.cross_entropy(scores, ids, label_smoothing=SMOOTHING)


def euclidean(features: torch.Tensor) -> torch.Tensor:
    """Distances (N, N) within a batch (N, D), with a gradient everywhere: equal rows are 1e-6 apart."""
    lengths = features.square().sum(1)
    squared = lengths[:, None] + lengths - 2 * features @ features.T
    return squared.clamp(min=1e-12).sqrt()


def mine_triplets(distances: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """For each row the farthest of its identity and the nearest of another, (N,) each: the hardest triplets.

    References
    ----------
    Hermans, Beyer and Leibe, "In Defense of the Triplet Loss for Person Re-Identification", 2017.
    """
    same = ids[:, None] == ids
    if bool(same.all()):
        raise ValueError("ids must hold at least two identities: a triplet needs somebody else, received one or none")
    farthest = distances.detach().masked_fill(~same, -math.inf).argmax(1)
    nearest = distances.detach().masked_fill(same, math.inf).argmin(1)
    return farthest, nearest


def triplet_loss(distances: torch.Tensor, ids: torch.Tensor, mined_by: torch.Tensor | None = None) -> torch.Tensor:
    """The mean over the hardest triplets of a batch of ``max(0, positive - negative + MARGIN)``.

    Parameters
    ----------
    distances : (N, N)
        Of the batch.
    ids : (N,)
    mined_by : (N, N), optional
        Other distances that say which triplets are hardest (AlignedReID's local branch is mined by the global one).
    """
    positive, negative = mine_triplets(distances if mined_by is None else mined_by, ids)
    rows = torch.arange(len(ids), device=ids.device)
    return functional.relu(distances[rows, positive] - distances[rows, negative] + MARGIN).mean()


def pair_rows(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pairs of a batch to verify: each row with the next of its identity, and with two rows of other identities.

    Two wrong pairs for a right one, as IDLA's training ends; a row alone of its identity has no right one.

    Returns
    -------
    first, second, same : (n,) int64, int64 and bool
    """
    n = len(ids)
    rows = torch.arange(n, device=ids.device)
    ahead = (rows - rows[:, None]) % n
    same = (ids[:, None] == ids) & (ahead > 0)
    following = ahead.masked_fill(~same, n).argmin(1)
    first = torch.cat([rows[same.any(1)], rows, rows])
    second = torch.cat([following[same.any(1)], rows.roll(-(n // 2)), rows.roll(-(n // 3))])
    alike = ids[first] == ids[second]
    alike_wanted = torch.arange(len(first), device=ids.device) < same.any(1).sum()
    kept = alike == alike_wanted
    return first[kept], second[kept], alike[kept]
