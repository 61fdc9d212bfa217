"""Will it help? The precision of the mutual neighbours, and a verdict on each setting, with labels or without."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import take_features
from pose2id.centralization.arguments import take_generated
from pose2id.distances import unit
from pose2id.neighbors import check_engine, take_exclude
from pose2id.study.agreement import NEAR, Statistics, draw_rows, find_pairs, measure_agreement, search_others
from pose2id.study.runs import FeatureSet, Setting, run_study, standard_error
from pose2id.threads import fit_threads
from pose2id.validation import JUNK, check_count, equal_label, is_tensor, take_labels, take_numbers

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels

__all__ = ["Verdict", "assess"]

SETTINGS = {
    "published": Setting("published", k1=2, k2=2),
    "recommended": Setting("recommended", k1=3, k2=3, alpha=4.0, other_cameras=True),
    "views": Setting("views", eta=1.0),
}
"""What the verdicts are about; without cameras the recommended setting takes neighbours from everywhere."""

# Without labels. Made on the sets of benchmarks/assess_sets.py; docs/results.md has the table of right and wrong.
TIGHT: dict[str, float] = {"jaccard": 0.36, "closed": 0.65, "kept": 0.5, "linked": 0.55}
"""Mutual neighbours share lists, close triangles, are found again by half of the dimensions, and are no exception."""
ROOMY: dict[str, float] = {"jaccard": 0.26, "closed": 0.6, "kept": 0.45, "linked": 0.55, "dimension": 20}
"""Or somewhat less of it, in many directions: few directions make any lists overlap."""
LINKED = 0.72
"""In the second case at most so many rows are linked: where there are no groups, more are."""
CAMERAS = 0.2
"""Above this excess of mutual neighbours of one camera nothing is said: they tell the camera, not who it is."""
FEWEST: dict[str, int] = {"published": 1000, "recommended": 500}
"""Rows below which nothing is said."""
CROWDED = 0.7
"""Below this groups have fewer than five rows, which the published setting mixes with other groups."""
GUESSES: dict[str, tuple[float, float, float]] = {
    "helps": (0.95, 0.7, 1.0),
    "lost": (0.25, 0.0, 0.75),
    "open": (0.7, 0.0, 1.0),
}
"""Precision (middle, low, high): where it helps, where half the dimensions keep less than `LOST`, and elsewhere."""
LOST = 0.3

# With labels.
LABELLED = 2000
"""Rows with a label whose mutual neighbours are looked at."""
MEASURED, QUERIES = 16_000, 1500
"""Rows on which settings are tried, and of them queries."""
EACH = 4
"""Queries of an identity, at most: what helps sets with many rows of each may harm a set of queries with few."""
KNOWN = 0.5
"""Share of rows with labels from which on settings are tried."""
WRONG, DOUBTFUL = 0.25, 0.6
"""Precision below which the published setting never gained, and below which it often lost."""
SURE = 2.6
"""Standard errors that a change must exceed, 99 %: the own split of a user differs by more than chance."""
FULL = 4
"""Rows of a usual identity below which settings are not tried: taking queries out changes them."""
COARSE = 0.01
"""A standard error of mAP above this says nothing; then the features are asked."""


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
        With enough labels: change of mAP on a random split of the rows, and its standard error over identities.
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
            measured = "" if gain is None else f": mAP {100 * gain[0]:+.2f} ± {100 * gain[1]:.2f} on a random split"
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
    With labels that is counted, and the settings are tried on a random split of the rows. Without, it is estimated
    from how lists of neighbours agree; then "helps" is said only where that was always right on many sets, "hurts"
    never, and "unclear" often.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        The gallery: float16, bfloat16, float32 or float64.
    cams : (N,) integers or strings, optional
        Cameras. With them, verdicts are about scores that leave out a query's own camera.
    ids : (N,) integers or strings, optional
        Identities; -1, "-1", None or NaN where unknown. Rows, or identities with all of their rows, should be drawn at
        random. Which of these it was shows in how many neighbours have labels; as long as it does not, the interval
        reaches down to what the second would mean.
    generated : as for `pose2id.centralize`, optional
        Features of generated images, for the verdict on "views", which needs labels.
    seed : int
        Of the rows that are drawn, and of the split.
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
    lower end: below a quarter the published setting never gained. High precision is not enough, for instance where
    identities have hundreds of rows. The interval with labels is Wilson's, for as many independent pairs as their
    spread over identities amounts to; without labels it is the range seen on other sets.

    The estimate cannot know whether tight groups are identities: people in one uniform are a tight group too. A few
    dozen labels are worth more than any of it.

    Above 16,000 rows, settings are tried on the rows of some identities only.

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
    low_high = GUESSES["helps" if verdicts["published"] == "helps" else "lost" if found.kept < LOST else "open"]
    verdict = Verdict(low_high[0], low_high[1:], verdicts, statistics=dict(found._asdict()))
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


def judge_features(found: Statistics) -> dict[str, str]:
    """The verdicts without labels."""
    values = found._asdict()
    tight = all(values[name] >= least for name, least in TIGHT.items())
    roomy = found.linked <= LINKED and all(values[name] >= least for name, least in ROOMY.items())
    good = (tight or roomy) and found.cameras <= CAMERAS
    helps = {
        "published": good and found.rows >= FEWEST["published"] and found.crowded >= CROWDED,
        "recommended": good and found.rows >= FEWEST["recommended"],
        "views": False,
    }
    return {name: "helps" if yes else "unclear" for name, yes in helps.items()}


def judge_gain(name: str, word: str, interval: tuple[float, float], gain: tuple[float, float] | None) -> str:
    """The verdict with labels: by the measured gain, else by the precision, else the one without labels, `word`."""
    change, error = gain or (0.0, math.inf)
    if error <= COARSE:
        return "helps" if change > SURE * error else "hurts" if change < -SURE * error else "unclear"
    if name == "published" and interval[1] < WRONG:
        return "hurts"
    return word if interval[1] >= DOUBTFUL and change >= 0 else "unclear"


def measure_features(
    rows: torch.Tensor, cams: npt.NDArray[Any] | None, *, seed: int = 0, engine: str = "auto"
) -> Statistics:
    """The statistics of features of any length; rows of zeros do not count."""
    directions, nonzero = _scale(rows)
    codes = None if cams is None else take_exclude(cams, rows)
    if len(directions) <= NEAR:
        return Statistics(len(directions), *[0.0] * (len(Statistics._fields) - 1))
    return measure_agreement(directions, None if codes is None else codes[nonzero], seed=seed, engine=engine)


def _scale(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that have a direction, of length 1 in float32, and which they are (indices)."""
    nonzero = (rows != 0).any(dim=1).nonzero().flatten()
    blocks = [unit(rows[part].double()).float() for part in torch.split(nonzero, 4096)]
    return (torch.cat(blocks) if blocks else rows[:0].float()), nonzero


def take_known(ids: Any, n: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Identities as numbers, -1 where unknown, and which rows have one."""
    if is_tensor(ids) and ids.dtype.is_floating_point:
        ids = take_numbers(ids, "ids")
    values = ids
    if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind in "fO":
        values = ids.tolist()
    there = np.ones(n, bool)
    if isinstance(values, Sequence) and not isinstance(values, str | bytes) and len(values) == n:
        there = np.array(
            [not (x is None or (isinstance(x, float | np.floating) and math.isnan(x))) for x in values], bool
        )
        values = [_take_whole(x) for x, given in zip(values, there, strict=True) if given]
    labels = take_labels(values, int(there.sum()), "ids")
    codes = np.full(n, JUNK, np.int64)
    codes[there] = np.where(equal_label(labels, JUNK), JUNK, np.unique(labels, return_inverse=True)[1].reshape(-1))
    return codes, codes != JUNK


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
    seed: int = 0,
    engine: str = "auto",
) -> Counted:
    """Count the mutual neighbours that are of one identity; `labels` as `take_known` gives them."""
    directions, nonzero = _scale(rows)
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
    if known.all():
        return Counted(precision, (low, high), len(right), chosen=False)
    least, most = (1 - end / known.mean() for end in wilson(wrong, total * count / len(right))[::-1])
    chosen = precision > most
    precision = max(0.0, 1 - wrong / float(known.mean())) if chosen else precision
    return Counted(precision, (max(0.0, min(low, least)), high), len(right), chosen)


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


def try_settings(
    features: Any,
    labels: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
    cams: npt.NDArray[Any] | None,
    generated: Any,
    *,
    seed: int,
    engine: str,
) -> dict[str, tuple[float, float]]:
    """Change of mAP by each setting, and its standard error, on a random split into queries and gallery."""
    counts = np.unique(labels[known], return_counts=True)[1]
    if not (counts > 1).any() or np.median(counts[counts > 1]) < FULL:
        return {}
    rng = np.random.default_rng([seed, 2])
    kept = np.arange(len(labels))
    if len(labels) > MEASURED:  # the rows of whole identities, so that they stay as full as they are
        groups = np.where(known, labels, labels.max() + 1 + np.arange(len(labels)))
        order = rng.permutation(groups.max() + 1)[groups]
        kept = np.sort(np.argsort(order, kind="stable")[:MEASURED])
    drawn = _draw_queries(np.where(known, labels, JUNK)[kept], rng)
    queries, gallery = kept[drawn], kept[~drawn]
    names = ["published", "recommended"] + ["views"] * (generated is not None)
    settings = [
        replace(SETTINGS[name], other_cameras=SETTINGS[name].other_cameras and cams is not None) for name in names
    ]

    def take(at: npt.NDArray[np.int64]) -> FeatureSet:
        pick: Any = torch.from_numpy(at) if is_tensor(features) else at
        some = [part[pick] for part in generated] if isinstance(generated, list | tuple) else None
        some = generated[pick] if some is None and generated is not None else some
        return FeatureSet(features[pick], labels[at], None if cams is None else cams[at], some)

    query, base = take(queries), take(gallery)
    scored = rng.permutation(queries[known[queries]])[:QUERIES]  # all are centralized
    if not _has_answers(scored, gallery, labels, cams):
        return {}
    query = replace(query, ids=np.where(np.isin(queries, scored), labels[queries], JUNK))
    rows = run_study(query, base, [Setting("base"), *settings], density=False, engine=engine)
    gains = {}
    for name, row in zip(names, rows[1:], strict=True):
        change = row.scores.average_precision - rows[0].scores.average_precision
        error = standard_error(replace(row.scores, average_precision=change), query.ids)
        if not math.isnan(error):
            gains[name] = float(np.nanmean(change)), error
    return gains


def _has_answers(
    queries: npt.NDArray[np.int64],
    gallery: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    cams: npt.NDArray[Any] | None,
) -> bool:
    """Whether some query has a gallery row of its identity, from another camera where there are cameras."""
    names = np.zeros(len(labels), np.int64) if cams is None else np.unique(cams, return_inverse=True)[1].reshape(-1)
    spread = labels * (names.max() + 1) + names
    of_identity, of_both = Counter(labels[gallery].tolist()), Counter(spread[gallery].tolist())
    own = Counter() if cams is None else of_both
    return any(of_identity[int(labels[query])] > own[int(spread[query])] for query in queries)


def _draw_queries(labels: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Which rows are queries: a fifth, but at most `EACH` of an identity, as test sets have them."""
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    place = np.arange(len(labels)) - np.repeat(starts, counts)
    fifth = np.repeat(counts, counts) / 5
    drawn = place < np.where(labels[order] == JUNK, fifth, np.minimum(np.ceil(fifth), EACH))
    queries = np.zeros(len(labels), bool)
    queries[order[drawn]] = True
    return queries
