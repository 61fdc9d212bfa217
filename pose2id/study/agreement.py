"""What features say of their mutual neighbours without labels: whether lists agree, more than by chance."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from pose2id.centralization import centralize
from pose2id.distances import unit
from pose2id.neighbors import find_neighbors
from pose2id.study.splits import SETTINGS

SAMPLE, SPREAD = 1500, 3000
"""Rows that are looked at (their neighbours are searched among all rows), and of which the spread is measured."""
NEAR = 10
"""Length of the lists that are compared."""
K = 2
"""k1 = k2 of the mutual neighbours that all this is about: the published setting."""
JUDGED, JUDGES, LIST = 1000, 20, 50
"""Rows that halves of the dimensions are compared on, rows that are right by the other half, and length of a list."""
LARGE = 12_000
"""Rows above which halves are compared on the neighbourhoods of fewer rows."""
TINY = 2e-4
"""Added to an agreement, which may be nothing."""


class Statistics(NamedTuple):
    """What is measured on rows of length 1; 0 where there is nothing to count.

    "Above chance" is above what `scatter_rows` makes of the same rows: it spreads alike and has no groups. Few
    directions make any lists agree, many make none.
    """

    rows: int
    linked: float
    """Share of rows with a mutual neighbour."""
    surplus: float
    """That share above chance."""
    excess: float
    """Common members of the lists of both ends of a mutual pair, over all of them; the mean, above chance."""
    cameras: float
    """Share of mutual pairs of one camera, above that of random pairs; 0 without cameras."""
    published: float
    """By this setting, half of the dimensions comes to agree so much more with the other half: the logarithm of the
    mean average precision where the nearest rows by the other half are the right ones, after and before."""
    recommended: float


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
    linked, overlap, pairs = _measure_lists(rows, seed, engine)
    by_chance = _measure_lists(scatter_rows(rows, seed), seed, engine)
    same = 0.0
    if cams is not None and len(pairs.left):
        share = torch.bincount(cams).double() / len(cams)
        same = _mean(cams[pairs.left] == cams[pairs.right]) - float(share.square().sum())
    gains = compare_halves(rows, cams, seed=seed, engine=engine)
    return Statistics(
        rows=len(rows),
        linked=linked,
        surplus=linked - by_chance[0],
        excess=overlap - by_chance[1],
        cameras=same,
        published=gains["published"],
        recommended=gains["recommended"],
    )


def _measure_lists(rows: torch.Tensor, seed: int, engine: str) -> tuple[float, float, Pairs]:
    at = draw_rows(rows, SAMPLE, seed)
    near, _ = search_others(rows, at, NEAR, engine=engine)
    pairs = find_pairs(rows, at, near, engine=engine)
    left, right, lists = pairs
    common = (lists[left, :, None] == lists[right, None, :]).any(dim=2).sum(dim=1).double()
    linked = torch.isin(at, left)
    return _mean(linked), _mean(common / (2 * NEAR - common)), pairs


def scatter_rows(rows: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """As many rows of length 1 that spread alike and have no groups: each principal component shuffled among them."""
    sample = rows[draw_rows(rows, SPREAD, seed)].double()
    sample -= sample.mean(dim=0)
    turned = rows @ torch.linalg.eigh(sample.T @ sample).eigenvectors.to(rows)
    rng = np.random.default_rng([seed, 3])
    for column in range(turned.shape[1]):
        turned[:, column] = turned[torch.from_numpy(rng.permutation(len(rows))).to(rows.device), column]
    return scale_rows(turned)[0]


def compare_halves(
    rows: torch.Tensor, cams: torch.Tensor | None = None, *, seed: int = 0, engine: str = "auto"
) -> dict[str, float]:
    """By setting, what centralizing half of the dimensions does to its agreement with the other half.

    Dimensions are split after a random rotation. Noise of one half is none of the other, so the rows that are near in
    the other are a judge, as if they were the right answers.
    """
    width = rows.shape[1]
    names = ("published", "recommended")
    if width < 2:
        return dict.fromkeys(names, 0.0)
    rows, cams, at = _take_neighbourhoods(rows, cams, seed, engine)
    drawn = np.random.default_rng([seed, 1]).standard_normal((width, width))
    turned = rows @ torch.from_numpy(np.linalg.qr(drawn)[0]).to(rows)
    halves = [scale_rows(turned[:, part])[0] for part in (slice(width // 2), slice(width // 2, None))]
    if min(map(len, halves)) < len(rows):  # a half of zeros
        return dict.fromkeys(names, 0.0)
    plain = [_search_elsewhere(half, at, cams, engine) for half in halves]
    before = sum(_score_lists(plain[i], plain[1 - i]) for i in (0, 1))
    gains = {}
    for name in names:
        setting = SETTINGS[name]
        exclude = cams.cpu().numpy() if cams is not None and setting.other_cameras else None
        after = 0.0
        for half, judge in zip(halves, plain[::-1], strict=True):
            pulled = centralize(half, k1=setting.k1, k2=setting.k2, alpha=setting.alpha, exclude=exclude, engine=engine)
            after += _score_lists(_search_elsewhere(pulled, at, cams, engine), judge)
        gains[name] = math.log((after + TINY) / (before + TINY))
    return gains


def _take_neighbourhoods(
    rows: torch.Tensor, cams: torch.Tensor | None, seed: int, engine: str
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Rows, their cameras, and which are looked at; of very many rows only those that are near to some."""
    if len(rows) <= LARGE:
        return rows, cams, draw_rows(rows, JUDGED, seed)
    at = draw_rows(rows, LARGE // LIST, seed)
    near, _ = search_others(rows, at, LIST - 1, engine=engine)
    kept = torch.unique(torch.cat([at, near.flatten()]))
    return rows[kept], None if cams is None else cams[kept], torch.searchsorted(kept, at)


def _search_elsewhere(rows: torch.Tensor, at: torch.Tensor, cams: torch.Tensor | None, engine: str) -> torch.Tensor:
    """The `LIST` nearest rows of other cameras, if there are any, of the rows `at`; -1 where there are fewer."""
    apart = cams is not None and len(torch.unique(cams)) > 1
    near, _ = find_neighbors(rows[at], rows, 4 * LIST if apart else LIST + 1, engine=engine)
    others = (near >= 0) & (near != at[:, None])
    if cams is not None and apart:
        others &= cams[near] != cams[at][:, None]
    order = (~others).to(torch.int8).sort(dim=1, stable=True).indices[:, :LIST]
    return near.where(others, -1).gather(1, order)


def _score_lists(lists: torch.Tensor, judge: torch.Tensor) -> float:
    """Mean average precision of lists (n, `LIST`) where the first `JUDGES` of other lists are the right answers."""
    right = ((lists[:, :, None] == judge[:, None, :JUDGES]).any(dim=2) & (lists >= 0)).double()
    precision = right.cumsum(dim=1) / torch.arange(1, lists.shape[1] + 1, device=lists.device)
    return float((precision * right).sum(dim=1).mean() / JUDGES)


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean()) if len(values) else 0.0
