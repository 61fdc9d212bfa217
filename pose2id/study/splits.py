"""Settings tried on one set: a random split of it into queries and gallery."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pose2id.study.runs import FeatureSet, Setting, compare_scores, run_study
from pose2id.validation import JUNK, is_tensor

SETTINGS = {
    "published": Setting("published", k1=2, k2=2),
    "recommended": Setting("recommended", k1=3, k2=3, alpha=4.0, other_cameras=True),
    "views": Setting("views", eta=1.0),
}
"""What the verdicts are about; without cameras the recommended setting takes neighbours from everywhere."""
MEASURED, QUERIES = 16_000, 1500
"""Rows on which settings are tried, and of them queries."""
EACH = 4
"""Queries of an identity, at most: what helps sets with many rows of each may harm a set of queries with few."""
FULL = 4
"""Rows of a usual identity below which settings are not tried: taking queries out changes them."""


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
        gain, error = compare_scores(row.scores, rows[0].scores, query.ids)
        if not math.isnan(error):
            gains[name] = gain, error
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
