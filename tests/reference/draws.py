"""Single-gallery-shot scores, a drawn list at a time: CUHK03's as torchreid and open-reid count, and VehicleID's."""

from collections.abc import Sequence

import numpy as np

from reference.evaluation import JUNK, Scores
from reference.evaluation import evaluate as evaluate_plainly


def random_numbers(seed: int, repetitions: int, items: int) -> list[np.ndarray]:
    """A number for each gallery item in each repetition."""
    generator = np.random.default_rng(seed)
    return [generator.random(items) for _ in range(repetitions)]


def draw(rows: Sequence[int], ids: Sequence, numbers: np.ndarray) -> list[int]:
    """Of each identity the row with the smallest number."""
    chosen: dict = {}
    for g in rows:
        if ids[g] not in chosen or numbers[g] < numbers[chosen[ids[g]]]:
            chosen[ids[g]] = g
    return sorted(chosen.values())


def evaluate_cuhk03(
    distances: np.ndarray,
    query_ids: Sequence,
    gallery_ids: Sequence,
    query_cams: Sequence,
    gallery_cams: Sequence,
    *,
    repetitions: int,
    seed: int = 0,
    separate_camera_set: bool = True,
    ignored: np.ndarray | None = None,
) -> Scores:
    """mAP and mINP over all items that are left, CMC as the mean over drawn ones; ties at rank 1 in the drawn lists."""
    numbers = random_numbers(seed, repetitions, len(gallery_ids))
    precisions, penalties, ranks, lengths, tied = [], [], [], [], 0
    for q, query_id in enumerate(query_ids):
        left = [
            g
            for g in range(len(gallery_ids))
            if gallery_ids[g] not in JUNK
            and not (gallery_cams[g] == query_cams[q] and (separate_camera_set or gallery_ids[g] == query_id))
            and not (ignored is not None and ignored[q, g])
        ]
        left.sort(key=lambda g, q=q: (distances[q][g], g))
        places = [place for place, g in enumerate(left, start=1) if gallery_ids[g] == query_id]
        if query_id in JUNK or not places:
            continue
        precisions.append(np.mean([found / place for found, place in enumerate(places, start=1)]))
        penalties.append(len(places) / places[-1])
        for number in numbers:
            drawn = sorted(draw(left, gallery_ids, number), key=lambda g, q=q: (distances[q][g], g))
            ranks.append(1 + [gallery_ids[g] for g in drawn].index(query_id))
            lengths.append(len(drawn))
            nearest = {gallery_ids[g] == query_id for g in drawn if distances[q][g] == distances[q][drawn[0]]}
            tied += nearest == {True, False}
    cmc = np.array([np.mean(np.array(ranks) <= k) for k in range(1, max(lengths) + 1)])
    tied = -(-tied // repetitions)
    return Scores(float(np.mean(precisions)), float(np.mean(penalties)), cmc, len(precisions), tied)


def evaluate_vehicleid(distances: np.ndarray, ids: Sequence, *, repetitions: int, seed: int = 0) -> Scores:
    """Each repetition splits the set (N, N): a random image of each vehicle is the gallery, the others are queries."""
    rows = [g for g in range(len(ids)) if ids[g] not in JUNK]
    scores = []
    for numbers in random_numbers(seed, repetitions, len(ids)):
        gallery = draw(rows, ids, numbers)
        query = [row for row in rows if row not in gallery]
        split = distances[np.ix_(query, gallery)]
        scores.append(evaluate_plainly(split, [ids[q] for q in query], [ids[g] for g in gallery], protocol="all"))
    return Scores(
        float(np.mean([s.mAP for s in scores])),
        float(np.mean([s.mINP for s in scores])),
        np.mean([s.cmc for s in scores], axis=0),
        scores[0].valid_queries,
        int(np.ceil(np.mean([s.tied_rank1 for s in scores]))),
    )
