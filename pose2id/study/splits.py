"""Settings tried on one set: rows as queries against all other rows, a quarter of them at a time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pose2id.evaluation import Scores
from pose2id.study.runs import FeatureSet, Setting, compare_scores, run_study
from pose2id.validation import JUNK, is_tensor

SETTINGS = {
    "published": Setting("published", k1=2, k2=2),
    "recommended": Setting("recommended", k1=3, k2=3, alpha=4.0, other_cameras=True),
    "views": Setting("views", eta=1.0),
}
"""What the verdicts are about; without cameras the recommended setting takes neighbours from everywhere."""
MEASURED, QUERIES = 8000, 1500
"""Rows on which settings are tried, and of them queries that are scored."""
EACH = 4
"""Queries of an identity at most, each of another camera, as test sets have them; also the number of parts."""
FULL = 4
"""Rows of a usual identity below which settings are not tried: taking one out changes them."""


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
    """Change of mAP by each setting, and its standard error.

    The queries are a set of their own, as users have one. Each is searched among all rows but a few, at most one of an
    identity, so that identities stay nearly as full as they are.
    """
    counts = np.unique(labels[known], return_counts=True)[1]
    if not (counts > 1).any() or np.median(counts[counts > 1]) < FULL:
        return {}
    rng = np.random.default_rng([seed, 2])
    kept = np.arange(len(labels))
    if len(labels) > MEASURED:  # the rows of whole identities, so that they stay as full as they are
        groups = np.where(known, labels, labels.max() + 1 + np.arange(len(labels)))
        order = rng.permutation(groups.max() + 1)[groups]
        kept = np.sort(np.argsort(order, kind="stable")[:MEASURED])
    codes = None if cams is None else np.unique(cams, return_inverse=True)[1].reshape(-1)[kept]
    part = _draw_queries(labels[kept], known[kept], codes, rng)
    queries = kept[part >= 0]
    names = ["published", "recommended"] + ["views"] * (generated is not None)
    settings = [
        replace(SETTINGS[name], other_cameras=SETTINGS[name].other_cameras and cams is not None) for name in names
    ]

    def take(at: npt.NDArray[np.int64]) -> FeatureSet:
        pick: Any = torch.from_numpy(at) if is_tensor(features) else at
        some = [part[pick] for part in generated] if isinstance(generated, list | tuple) else None
        some = generated[pick] if some is None and generated is not None else some
        return FeatureSet(features[pick], labels[at], None if cams is None else cams[at], some)

    query = take(queries)
    scored = np.isin(queries, rng.permutation(queries[known[queries]])[:QUERIES])  # all are centralized
    tried = []
    for number in range(EACH):
        ids = np.where(scored & (part[part >= 0] == number), labels[queries], JUNK)
        rest = kept[part != number]
        if _has_answers(queries[ids != JUNK], rest, labels, cams):
            sides = replace(query, ids=ids), take(rest)
            rows = run_study(*sides, [Setting("base"), *settings], density=False, engine=engine)
            tried.append([row.scores for row in rows])
    if not tried:
        return {}
    base, *others = [_join(scores) for scores in zip(*tried, strict=True)]
    gains = {}
    for name, scores in zip(names, others, strict=True):
        gain, error = compare_scores(scores, base, np.where(scored, labels[queries], JUNK))
        if not math.isnan(error):
            gains[name] = gain, error
    return gains


def _join(scores: Sequence[Scores]) -> Scores:
    """Scores of the same queries, each valid in one of them at most."""
    precision = np.fmax.reduce([each.average_precision for each in scores])
    return replace(scores[0], mAP=float(np.nanmean(precision)), average_precision=precision)


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


def _draw_queries(
    labels: npt.NDArray[np.int64],
    known: npt.NDArray[np.bool_],
    cams: npt.NDArray[np.int64] | None,
    rng: np.random.Generator,
) -> npt.NDArray[np.int64]:
    """In which part each row is a query, -1 if in none.

    One row of each identity and camera, at most `EACH` of an identity; without cameras `EACH` of each. Where only some
    identities have labels, as many of the other rows fill the set, in part `EACH`: they are not scored.
    """
    order = rng.permutation(len(labels))
    if cams is not None:  # the first of each camera before all others
        order = order[np.argsort(_count_before(labels * (cams.max() + 1) + cams, order)[order], kind="stable")]
    place = _count_before(labels, order)
    drawn = known & (place < EACH)
    if cams is not None:
        drawn &= _count_before(labels * (cams.max() + 1) + cams, order) == 0
    part = np.where(drawn, place, -1)
    rest = rng.permutation(np.flatnonzero(~known & (labels != JUNK)))
    part[rest[: round(len(rest) * drawn.sum() / max(1, known.sum()))]] = EACH
    return part


def _count_before(keys: npt.NDArray[np.int64], order: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How many rows of the same key come before each row in `order`."""
    order = order[np.argsort(keys[order], kind="stable")]
    _, starts, counts = np.unique(keys[order], return_index=True, return_counts=True)
    count = np.empty(len(keys), np.int64)
    count[order] = np.arange(len(keys)) - np.repeat(starts, counts)
    return count
