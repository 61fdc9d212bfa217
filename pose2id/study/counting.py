"""Mutual neighbours counted where labels are known: their precision, and an interval that knows of identities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.study.agreement import NEAR, draw_rows, find_pairs, scale_rows, search_others
from pose2id.validation import JUNK, equal_label, is_tensor, take_labels, take_numbers

LABELLED = 2000
"""Rows with a label whose mutual neighbours are looked at."""


def take_known(ids: Any, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Identities as numbers, -1 where unknown, and which rows have one."""
    if is_tensor(ids) and ids.dtype.is_floating_point:
        ids = take_numbers(ids, "ids")
    values = ids
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "fO":
        values = ids.tolist()
    elif not is_tensor(ids) and not isinstance(ids, np.ndarray | str | bytes | Mapping) and hasattr(ids, "__len__"):
        values = list(ids)  # also of a pandas.Series, which is no Sequence
    there = np.ones(n, bool)
    if isinstance(values, list) and len(values) == n:
        there = np.array([not _is_unknown(x) for x in values], bool)
        values = [_take_whole(x) for x, given in zip(values, there, strict=True) if given]
    labels = take_labels(values, int(there.sum()), "ids")
    codes = np.full(n, JUNK, np.int64)
    codes[there] = np.where(equal_label(labels, JUNK), JUNK, np.unique(labels, return_inverse=True)[1].reshape(-1))
    return codes, codes != JUNK


def _is_unknown(label: Any) -> bool:
    number = isinstance(label, int | float | np.integer | np.floating)
    return label is None or (number and bool(label == JUNK or label != label))


def _take_whole(label: Any) -> Any:
    """A label; a whole number where an array with NaN made a float of it."""
    if not isinstance(label, float | np.floating):
        return label
    if not float(label).is_integer():
        raise ValueError(f"ids must be whole numbers or strings, NaN or None where unknown, received {label!r}")
    return int(label)


class Counted(NamedTuple):
    """Mutual neighbours of rows with labels; `pairs` 0: none with both labels known."""

    precision: float
    interval: tuple[float, float]
    pairs: int
    chosen: bool
    """Whether identities were labelled, rather than rows at random."""


def count_right(
    rows: torch.Tensor,
    labels: npt.NDArray[np.int64],
    *,
    nobody: bool = False,
    seed: int = 0,
    engine: str = "auto",
) -> Counted:
    """Count the mutual neighbours that are of one identity; `labels` as `take_known` gives them.

    Rows without a label are of somebody unknown, or with `nobody` of nobody: then they are left out, and that is all.
    """
    directions, nonzero = scale_rows(rows)
    known = labels != JUNK
    at = torch.from_numpy(known).to(nonzero.device)[nonzero].nonzero().flatten()
    nothing = Counted(math.nan, (0.0, 1.0), 0, chosen=False)
    if len(directions) <= NEAR or not len(at):
        return nothing
    at = at[draw_rows(at, LABELLED, seed)]
    near, _ = search_others(directions, at, NEAR, engine=engine)
    found = find_pairs(directions, at, near, engine=engine)
    one, other = (nonzero[x].cpu().numpy() for x in (found.left, found.right))
    with_label = known[other]
    if not with_label.any():
        return nothing
    # Of right neighbours more have a label where identities were labelled, of wrong ones as many as of any rows: so
    # their share tells the precision without the right ones, whoever was labelled.
    wrong = float((with_label & (labels[one] != labels[other])).mean())
    both = np.sort(np.stack([one, other]), axis=0)
    total = np.unique(both, axis=1).shape[1]
    one, other = labels[np.unique(both[:, with_label], axis=1)]
    right = one == other
    count = count_independent(right, one, other)
    precision, (low, high) = float(right.mean()), wilson(float(right.mean()), count)
    if nobody or known.all():
        return Counted(precision, (low, high), len(right), chosen=False)
    least, most = (1 - end / float(known.mean()) for end in wilson(wrong, total * count / len(right))[::-1])
    chosen = precision > most
    precision = max(0.0, 1 - wrong / float(known.mean())) if chosen else precision
    return Counted(precision, (float(max(0.0, min(low, least))), high), len(right), chosen)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Wilson's interval, 95 %, of a share of n independent answers."""
    z = 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(max(0.0, share * (1 - share) / n + z * z / (4 * n * n)))
    return max(0.0, middle - reach), min(1.0, middle + reach)


def count_independent(right: npt.NDArray[np.bool_], one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """How many independent pairs these amount to: pairs that share an identity vary together.

    The variance of a mean over pairs, summed over all couples of pairs with a common identity (Aronow, Samii and
    Assenova, Political Analysis 23, 2015), against that of independent ones. Never more than there are identities where
    all answers are alike, nor more than there are pairs.
    """
    n, identities = len(right), np.unique(np.concatenate([one, other]))
    share = right.mean()
    if share in (0, 1):
        return float(min(n, len(identities)))
    rest = right - share
    at, to = np.searchsorted(identities, one), np.searchsorted(identities, other)
    mixed = at != to
    sums = np.bincount(at, rest, len(identities)) + np.bincount(to[mixed], rest[mixed], len(identities))
    twins = np.unique(np.minimum(at, to)[mixed] * len(identities) + np.maximum(at, to)[mixed], return_inverse=True)[1]
    twice = np.bincount(twins.reshape(-1), rest[mixed]) if mixed.any() else np.zeros(1)
    count = len(identities)
    variance = (np.square(sums).sum() - np.square(twice).sum()) * count / max(1, count - 1)
    return float(max(1.0, n / max(1.0, variance / (n * share * (1 - share)))))
