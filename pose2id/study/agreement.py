"""What features say of their mutual neighbours without labels: whether lists of neighbours agree with each other."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pose2id.distances import unit
from pose2id.neighbors import find_neighbors

SAMPLE = 1500
"""Rows that are looked at; their neighbours are searched among all rows."""
NEAR = 10
"""Length of the lists that are compared."""
CLOSE = 5
"""A neighbour of both ends of a pair, among so many of either, closes a triangle."""
K = 2
"""k1 = k2 of the mutual neighbours that all this is about: the published setting."""


class Statistics(NamedTuple):
    """What is measured on rows of length 1; the shares are 0 where there is nothing to count."""

    rows: int
    linked: float
    """Share of rows with a mutual neighbour."""
    jaccard: float
    """Common members of the lists of both ends of a mutual pair, over all of them; the mean."""
    closed: float
    """Of rows whose two nearest are mutual: how often one of these is among the `CLOSE` nearest of the other."""
    kept: float
    """Of the nearest rows, how many are found again by half of the dimensions, split at random after a rotation."""
    dimension: float
    """Participation ratio of the covariance: in how many directions the rows spread alike."""
    crowded: float
    """Median of a row's distance to its nearest over that to its `CLOSE`th: small where groups have few rows."""
    cameras: float
    """Share of mutual pairs of one camera, above that of random pairs; 0 without cameras."""


def scale_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that have a direction, of length 1 in float32, and which they are (indices)."""
    nonzero = (rows != 0).any(dim=1).nonzero().flatten()
    blocks = [unit(rows[part].double()).float() for part in torch.split(nonzero, 4096)]
    return (torch.cat(blocks) if blocks else rows[:0].float()), nonzero


def search_others(
    rows: torch.Tensor, at: torch.Tensor, k: int, *, engine: str = "auto"
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest other rows of the rows `at`: indices and distances (b, k), -1 and inf where there is none."""
    # As queries of another set, rows find themselves.
    near, far = find_neighbors(rows[at], rows, k + 1, engine=engine)
    others = (near >= 0) & (near != at[:, None])
    order = (~others).to(torch.int8).sort(dim=1, stable=True).indices[:, :k]
    return near.where(others, -1).gather(1, order), far.masked_fill(~others, torch.inf).gather(1, order)


class Pairs(NamedTuple):
    """Mutual neighbours `left[i]`, `right[i]` of some rows, and the lists of all rows that were looked at."""

    left: torch.Tensor
    right: torch.Tensor
    lists: torch.Tensor  # (n, NEAR) of those looked at; the others are -1


def find_pairs(rows: torch.Tensor, at: torch.Tensor, near: torch.Tensor, *, engine: str = "auto") -> Pairs:
    """Mutual pairs of the rows `at`, whose nearest are `near` (b, `NEAR`)."""
    lists = torch.full((len(rows), NEAR), -1, device=rows.device)
    second = torch.unique(near[:, :K])
    second = second[second >= 0]
    lists[second] = search_others(rows, second, NEAR, engine=engine)[0]
    lists[at] = near
    left, right = at.repeat_interleave(K), near[:, :K].flatten()
    left, right = left[right >= 0], right[right >= 0]
    mutual = (lists[right, :K] == left[:, None]).any(dim=1)
    return Pairs(left[mutual], right[mutual], lists)


def draw_rows(rows: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Indices of `count` rows at random, or of all, in ascending order."""
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return torch.from_numpy(np.sort(chosen)).to(rows.device)


def measure_agreement(
    rows: torch.Tensor, cams: torch.Tensor | None = None, *, seed: int = 0, engine: str = "auto"
) -> Statistics:
    """The statistics of rows of length 1 (float32)."""
    at = draw_rows(rows, SAMPLE, seed)
    near, far = search_others(rows, at, NEAR, engine=engine)
    left, right, lists = find_pairs(rows, at, near, engine=engine)
    common = (lists[left, :, None] == lists[right, None, :]).any(dim=2).sum(dim=1).double()
    counts = torch.bincount(left, minlength=len(rows))[at]
    one, other = near[counts == K][:, :K].unbind(dim=1)
    closed = (lists[one, :CLOSE] == other[:, None]).any(dim=1) | (lists[other, :CLOSE] == one[:, None]).any(dim=1)
    ratio = far[:, 0] / far[:, CLOSE - 1].clamp(min=1e-12)
    same = 0.0
    if cams is not None and len(left):
        share = torch.bincount(cams).double() / len(cams)
        same = _mean(cams[left] == cams[right]) - float(share.square().sum())
    return Statistics(
        rows=len(rows),
        linked=_mean(counts > 0),
        jaccard=_mean(common / (2 * NEAR - common)),
        closed=_mean(closed),
        kept=_count_kept(rows, at, near, seed, engine),
        dimension=_count_directions(rows[at].double()),
        crowded=float(ratio.median()) if len(ratio) else 0.0,
        cameras=same,
    )


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0


def _count_kept(rows: torch.Tensor, at: torch.Tensor, near: torch.Tensor, seed: int, engine: str) -> float:
    width = rows.shape[1]
    if width < 2:
        return 0.0
    drawn = np.random.default_rng([seed, 1]).standard_normal((width, width))
    turned = rows @ torch.from_numpy(np.linalg.qr(drawn)[0]).to(rows)
    shares = []
    for half in (turned[:, : width // 2].contiguous(), turned[:, width // 2 :].contiguous()):
        again, _ = search_others(half, at, NEAR, engine=engine)
        shares.append(_mean((near[:, :, None] == again[:, None, :]).any(dim=2).double().mean(dim=1)))
    return sum(shares) / 2


def _count_directions(sample: torch.Tensor) -> float:
    centred = sample - sample.mean(dim=0)
    products = centred.T @ centred if centred.shape[1] < len(centred) else centred @ centred.T
    squares = float(products.square().sum())
    return float(products.diagonal().sum()) ** 2 / squares if squares > math.ulp(0.0) else 0.0
