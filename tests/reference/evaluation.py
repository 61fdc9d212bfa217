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
