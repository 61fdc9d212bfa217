"""Will it help? The precision of the mutual neighbours, and a verdict on each setting, with labels or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import take_features
from pose2id.centralization.arguments import take_generated
from pose2id.neighbors import check_engine, take_exclude
from pose2id.study.agreement import NEAR, Statistics, measure_agreement, scale_rows
from pose2id.study.counting import count_right, take_known, wilson
from pose2id.study.splits import SETTINGS, try_settings
from pose2id.threads import fit_threads
from pose2id.validation import JUNK, check_count, take_labels

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels

__all__ = ["Verdict", "assess"]

# Without labels. Fitted by benchmarks/test_assess.py; docs/results.md has the table of right and wrong.
WEIGHTS: dict[str, dict[str, float]] = {
    "published": {"excess": 17.3, "published": 16.6, "recommended": 10.4, "": -1.7},
    "recommended": {"excess": 16.5, "surplus": -5.9, "recommended": 21.4, "": 0.35},
}
"""Log odds that mAP gains, by statistics and a constant."""
HELPS: dict[str, tuple[float, int]] = {"published": (1.5, 1000), "recommended": (3.1, 480)}
"""Log odds and rows from which on "helps" is said: above all of the wrong ones, in sets of at least so many rows."""
HURTS, FEWEST, LOOSE = -2.0, 480, 0.12
""""Hurts" is said of the published setting from these log odds down, where lists agree less than that above chance."""
LINKED: dict[str, float] = {"helps": 0.58, "hurts": 0.55}
"""Share of linked rows below which some rows are near to all others, and nothing is said."""
CAMERAS = 0.2
"""Above this excess of mutual neighbours of one camera nothing is said: they tell the camera, not who it is."""
PRECISION: tuple[float, float, float] = (12.8, -1.5, 2.7)
"""Of the log odds that a mutual pair is right: by `excess`, a constant, and the reach of the interval."""
SLACK = 0.02
"""Added to the interval at both ends: without any groups the precision is nothing, which has no log odds."""

# With labels.
KNOWN = 0.5
"""Share of rows with labels from which on settings are tried."""
WRONG, DOUBTFUL = 0.17, 0.6
"""Precision below which the published setting never gained, and below which it often lost."""
SURE, MARGIN = {"helps": 2.6, "hurts": 3.3}, 0.001
"""Standard errors by which a change must exceed zero, or nearly: the queries of a user differ by more than chance, and
galleries that lack some rows gain less."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What `assess` found; printed it is a few lines.

    Attributes
    ----------
    precision : float
        Share of the mutual neighbours (k1 = k2 = 2) that are of one identity: counted where there are labels, else
        estimated.
    interval : (float, float)
        Of the precision, 95 %.
    verdicts : dict of str to {"helps", "hurts", "unclear"}
        For "published" (k1 = k2 = 2), "recommended" (k1 = k2 = 3, alpha 4, other cameras) and "views" (generated
        features, eta 1), each alone: what it does to mAP when both sides are centralized.
    pairs : int
        Mutual pairs with both labels known that the precision was counted on; 0: it is estimated.
    gains : dict of str to (float, float)
        With enough labels: change of mAP where rows are searched among the others, and its standard error over
        identities.
    statistics : dict of str to float
        What was measured without labels.
    """

    precision: float
    interval: tuple[float, float]
    verdicts: dict[str, str]
    pairs: int = 0
    gains: dict[str, tuple[float, float]] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        low, high = self.interval
        how = f"counted on {self.pairs:,} pairs" if self.pairs else "estimated without labels"
        lines = [f"mutual neighbours of one identity: {self.precision:.0%} ({low:.0%} to {high:.0%}), {how}"]
        for name, word in self.verdicts.items():
            gain = self.gains.get(name)
            measured = "" if gain is None else f": mAP {100 * gain[0]:+.2f} ± {100 * gain[1]:.2f} within these rows"
            lines.append(f"{name}: {word}{measured}")
        return "\n".join([*lines, "said of mAP; rank-1 may fall where mAP rises"])


@fit_threads
def assess(
    features: Array,
    cams: Labels | None = None,
    ids: Labels | Sequence[Any] | None = None,
    generated: Array | Sequence[Array] | None = None,
    *,
    seed: int = 0,
    engine: str = "auto",
) -> Verdict:
    """Say whether centralization will help on these features, with labels of any part of the rows or without.

    Neighbour centralization helps where most *mutual neighbours* are of one identity, and harms where they are not.
    With labels that is counted, and the settings are tried: some rows are a set of queries and are searched among the
    others. Without, it is estimated from how lists of neighbours agree, compared with rows that spread alike but have
    no groups, and from whether centralized halves of the dimensions agree more or less. Then a verdict is given only
    where such verdicts were right on many sets, and "unclear" in more than half of all cases.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        The gallery: float16, bfloat16, float32 or float64.
    cams : (N,) integers or strings, optional
        Cameras. With them, verdicts are about scores that leave out a query's own camera.
    ids : (N,) integers or strings, optional
        Identities; -1, "-1", None or NaN where unknown. Rows, or identities with all of their rows, should be drawn at
        random. Which of these it was shows in how many neighbours have labels; as long as it does not, the interval
        reaches down to what the second would mean. Junk labelled -1 counts as unknown too, and may lower the precision.
    generated : as for `pose2id.centralize`, optional
        Features of generated images, for the verdict on "views", which needs labels.
    seed : int
        Of the rows that are drawn, and of the halves.
    engine : str
        Who searches neighbours, as for `pose2id.knn_graph`.

    Returns
    -------
    Verdict
        The precision with its interval, and three verdicts; printed it is a few lines.

    Raises
    ------
    TypeError, ValueError
        For anything but finite features (N, D), N labels each, and generated features that fit.

    Notes
    -----
    Of mAP, not of rank-1, which may fall by points where mAP rises. Of precision alone a verdict follows only at its
    lower end: below a sixth the published setting never gained. High precision is not enough, for instance where
    identities have hundreds of rows. The interval with labels is Wilson's, for as many independent pairs as their
    spread over identities amounts to; without labels it is the range seen on other sets.

    The estimate cannot know whether tight groups are identities: people in one uniform are a tight group too, and so
    are the frames of one track, which only `cams` give away. Nor does it see how many rows an identity has: with two or
    three each, the published setting may lose where all is clear. A few dozen labels are worth more than any of it.

    The queries are at most four rows of an identity, each of another camera, as test sets have them; where yours have
    others, changes will differ. Settings are tried only where a usual identity has four rows or more, and above 8,000
    rows on those of some identities.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.study import assess
    >>> data = load_demo()
    >>> features, cams, ids = (x[data.gallery] for x in (data.features, data.cams, data.ids))
    >>> assess(features, cams).verdicts
    {'published': 'helps', 'recommended': 'helps', 'views': 'unclear'}
    >>> verdict = assess(features, cams, ids)
    >>> round(verdict.precision, 2), verdict.verdicts["recommended"]
    (0.96, 'helps')
    """
    rows, kind = take_features(features)
    check_count(seed, "seed", 0)
    check_engine(engine)
    if generated is not None:
        take_generated(generated, rows, kind)
    cameras = None if cams is None else take_labels(cams, len(rows), "cams")
    found = measure_features(rows, cameras, seed=seed, engine=engine)
    verdicts = judge_features(found)
    if cameras is not None and len(np.unique(cameras)) == 1:  # there are no neighbours of other cameras
        verdicts["recommended"] = "unclear"
    verdict = Verdict(*estimate_precision(found), verdicts, statistics=dict(found._asdict()))
    if ids is None:
        return verdict
    labels, known = take_known(ids, len(rows))
    precision, interval, pairs, chosen = count_right(rows, labels, seed=seed, engine=engine)
    if not pairs:
        return verdict
    gains = {}
    if chosen or known.mean() >= KNOWN:
        alone = labels.max() + 1 + np.arange(len(labels))  # rows of nobody else
        used = np.where(known, labels, alone if chosen else JUNK)
        gains = try_settings(features, used, known, cameras, generated, seed=seed, engine=engine)
    words = {name: judge_gain(name, verdicts[name], interval, gains.get(name)) for name in SETTINGS}
    return replace(verdict, precision=precision, interval=interval, verdicts=words, pairs=pairs, gains=gains)


def estimate_precision(found: Statistics) -> tuple[float, tuple[float, float]]:
    """The precision without labels, and its interval."""
    slope, constant, reach = PRECISION
    middle = slope * found.excess + constant
    low, estimate, high = (1 / (1 + math.exp(-odds)) for odds in (middle - reach, middle, middle + reach))
    return estimate, (max(0.0, low - SLACK), min(1.0, high + SLACK))


def judge_features(found: Statistics) -> dict[str, str]:
    """The verdicts without labels."""
    values = found._asdict() | {"": 1.0}
    words = dict.fromkeys(SETTINGS, "unclear")
    for name, weights in WEIGHTS.items():
        odds = sum(weight * values[key] for key, weight in weights.items())
        least, rows = HELPS[name]
        if found.cameras > CAMERAS:
            continue
        if odds >= least and found.rows >= rows and found.linked >= LINKED["helps"]:
            words[name] = "helps"
        loose = found.rows >= FEWEST and found.linked >= LINKED["hurts"] and found.excess < LOOSE
        if name == "published" and odds <= HURTS and loose:
            words[name] = "hurts"
    return words


def judge_gain(name: str, word: str, interval: tuple[float, float], gain: tuple[float, float] | None) -> str:
    """The verdict with labels: by the gain if it is sure, else by the precision, else `word`, the one without labels.

    `word` stands only where neither speaks against it.
    """
    change, error = gain or (0.0, math.inf)
    error = max(error, MARGIN)
    measured = "helps" if change > 0 else "hurts"
    if abs(change) > error and SURE[measured] * error < abs(change) + MARGIN:
        return measured
    if gain is None and name == "published" and interval[1] < WRONG:
        return "hurts"
    helps = word == "helps"
    fits = change >= 0 and interval[1] >= DOUBTFUL if helps else change <= 0 and interval[0] < DOUBTFUL
    return word if fits else "unclear"


def judge_answers(verdict: Verdict, right: int, count: int) -> Verdict:
    """A verdict without labels, after so many mutual pairs drawn at random were looked at, and so many were right."""
    if not count:
        return verdict
    interval = wilson(right / count, count)
    words = {name: judge_gain(name, word, interval, None) for name, word in verdict.verdicts.items()}
    return replace(verdict, precision=right / count, interval=interval, verdicts=words, pairs=count)


def measure_features(
    rows: torch.Tensor, cams: npt.NDArray[Any] | None, *, seed: int = 0, engine: str = "auto"
) -> Statistics:
    """The statistics of features of any length; rows of zeros do not count."""
    directions, nonzero = scale_rows(rows)
    codes = None if cams is None else take_exclude(cams, rows)
    if len(directions) <= NEAR:
        return Statistics(len(directions), *[0.0] * (len(Statistics._fields) - 1))
    return measure_agreement(directions, None if codes is None else codes[nonzero], seed=seed, engine=engine)
