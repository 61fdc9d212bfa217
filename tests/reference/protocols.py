"""The SYSU-MM01 protocol, one query at a time, as its authors' MATLAB code words it."""

from collections.abc import Sequence

import numpy as np

from reference.evaluation import JUNK, Scores

PLACE = {1: 1, 2: 2, 3: 2, 4: 4, 5: 5, 6: 6}


def evaluate_sysu(
    distances: np.ndarray,
    query_ids: Sequence,
    gallery_ids: Sequence,
    query_cams: Sequence,
    gallery_cams: Sequence,
    ignored: np.ndarray | None = None,
) -> Scores:
    """Gallery items from the place of the query are left out, whoever they show; CMC sees each identity once."""
    precisions, penalties, first_ranks, lengths, tied = [], [], [], [], 0
    for q, query_id in enumerate(query_ids):
        place = PLACE[int(query_cams[q])]
        ranked = [
            g
            for g in sorted(range(len(gallery_ids)), key=lambda g: (distances[q][g], g))
            if PLACE[int(gallery_cams[g])] != place and gallery_ids[g] not in JUNK
            if ignored is None or not ignored[q, g]
        ]
        people: list = []
        for g in ranked:
            if gallery_ids[g] not in people:
                people.append(gallery_ids[g])
        if query_id in JUNK or query_id not in people:
            continue
        positions = [rank for rank, g in enumerate(ranked, start=1) if gallery_ids[g] == query_id]
        precisions.append(np.mean([found / rank for found, rank in enumerate(positions, start=1)]))
        penalties.append(len(positions) / positions[-1])
        first_ranks.append(people.index(query_id) + 1)
        lengths.append(len(people))
        nearest = {gallery_ids[g] == query_id for g in ranked if distances[q][g] == distances[q][ranked[0]]}
        tied += nearest == {True, False}
    cmc = np.array([np.mean([first <= rank for first in first_ranks]) for rank in range(1, max(lengths) + 1)])
    return Scores(float(np.mean(precisions)), float(np.mean(penalties)), cmc, len(first_ranks), tied)
