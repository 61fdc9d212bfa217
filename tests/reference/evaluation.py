"""Retrieval scores, one query at a time."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

JUNK = (-1, "-1")


@dataclass(frozen=True)
class Scores:
    """What ``evaluate`` must return."""

    mAP: float
    mINP: float
    cmc: np.ndarray
    valid_queries: int
    tied_rank1: int


def cosine_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """1 - cos (Q, G)."""
    q = query / np.sqrt((query**2).sum(axis=1, keepdims=True))
    g = gallery / np.sqrt((gallery**2).sum(axis=1, keepdims=True))
    return np.stack([1 - (g * row).sum(axis=1) for row in q])


def ranked_list(
    row: np.ndarray,
    query_id: object,
    query_cam: object,
    gallery_ids: Sequence,
    gallery_cams: Sequence | None,
    protocol: str,
) -> list[tuple[float, bool]]:
    """(distance, right or wrong) of the gallery items left after junk removal, by (distance, index)."""
    ranked, row = [], row.tolist()
    for g in sorted(range(len(row)), key=lambda g: (row[g], g)):
        same = gallery_ids[g] == query_id
        same_camera = gallery_cams is not None and gallery_cams[g] == query_cam
        if gallery_ids[g] in JUNK or (protocol == "market1501" and same and same_camera):
            continue
        ranked.append((row[g], bool(same)))
    return ranked


def evaluate(
    distances: np.ndarray,
    query_ids: Sequence,
    gallery_ids: Sequence,
    query_cams: Sequence | None = None,
    gallery_cams: Sequence | None = None,
    *,
    protocol: str = "market1501",
    ignored: np.ndarray | None = None,
) -> Scores:
    """CMC, mAP with plain average precision, mINP, and the ties at rank 1.

    Each query has a gallery of its own, without the rows that are `ignored` (Q, G) for it.
    """
    hit_rows, precisions, penalties, tied = [], [], [], 0
    for q, query_id in enumerate(query_ids):
        camera = None if query_cams is None else query_cams[q]
        rows = [g for g in range(len(gallery_ids)) if ignored is None or not ignored[q, g]]
        ids, cams = [gallery_ids[g] for g in rows], None if gallery_cams is None else [gallery_cams[g] for g in rows]
        ranked = ranked_list(distances[q][rows], query_id, camera, ids, cams, protocol)
        hits = [right for _, right in ranked]
        if query_id in JUNK or not any(hits):
            continue
        positions = [rank for rank, right in enumerate(hits, start=1) if right]
        precisions.append(np.mean([found / rank for found, rank in enumerate(positions, start=1)]))
        penalties.append(len(positions) / positions[-1])
        hit_rows.append(hits)
        nearest = {right for distance, right in ranked if distance == ranked[0][0]}
        tied += nearest == {True, False}
    length = max(len(hits) for hits in hit_rows)
    cmc = np.zeros(length)
    for rank in range(1, length + 1):
        cmc[rank - 1] = np.mean([hits.index(True) < rank for hits in hit_rows])
    return Scores(float(np.mean(precisions)), float(np.mean(penalties)), cmc, len(hit_rows), tied)


def evaluate_kept(
    distances: np.ndarray,
    query_ids: Sequence,
    gallery_ids: Sequence,
    query_cams: Sequence | None = None,
    gallery_cams: Sequence | None = None,
    *,
    kept: np.ndarray,
    protocol: str = "market1501",
    ignored: np.ndarray | None = None,
) -> tuple[Scores, list[float]]:
    """A search that looks only at what is `kept` (Q, G): what is right and was dropped is to be found, and never is.

    Also the average precision of every query, NaN for those that are not scored.
    """
    first, precisions, penalties, tied, longest = [], [], [], 0, 1
    for q, query_id in enumerate(query_ids):
        camera = None if query_cams is None else query_cams[q]
        there = [g for g in range(len(gallery_ids)) if ignored is None or not ignored[q, g]]
        lists = []
        for rows in (there, [g for g in there if kept[q, g]]):
            ids = [gallery_ids[g] for g in rows]
            cams = None if gallery_cams is None else [gallery_cams[g] for g in rows]
            lists.append(ranked_list(distances[q][rows], query_id, camera, ids, cams, protocol))
        asked, ranked = sum(right for _, right in lists[0]), lists[1]
        if query_id in JUNK or not asked:
            precisions.append(np.nan)
            continue
        positions = [rank for rank, (_, right) in enumerate(ranked, start=1) if right]
        precisions.append(sum(found / rank for found, rank in enumerate(positions, start=1)) / asked)
        penalties.append(asked / positions[-1] if len(positions) == asked else 0.0)
        first.append(positions[0] if positions else np.inf)
        longest = max(longest, len(ranked))
        tied += bool(ranked) and {right for distance, right in ranked if distance == ranked[0][0]} == {True, False}
    cmc = np.array([np.mean([rank <= k for rank in first]) for k in range(1, longest + 1)])
    scores = Scores(float(np.nanmean(precisions)), float(np.mean(penalties)), cmc, len(first), tied)
    return scores, precisions
