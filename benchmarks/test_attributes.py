"""The filter by attributes: what each threshold keeps, what it costs, and how much sooner a search is done.

Features are like a model's (`features.reid_like`); identities have the attributes of synthetic people. Probabilities
are those of a softmax over these with noise, see NOISE and MARGIN. They know nothing of the features: by a network near
items agree more often, and a filter drops fewer of the wrong ones that matter. The time of a search with the filter
includes the filter; both are `evaluate_features`, so ranks and scores are in it too.

By default 1,000 queries and 6,000 gallery images of width 2048; `--full`: Market-1501's size.
"""

from __future__ import annotations

import statistics
import time
from functools import lru_cache

import numpy as np
import plain
import pytest
from conftest import percent
from features import reid_like

pytest.importorskip("PIL")

from pose2id import evaluate, evaluate_features
from pose2id.attributes import SYNTHETIC, attribute_filter
from pose2id.synthetic import label_people

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 1.0)
CHOSEN = 0.7
"""The threshold of the paper."""
HEAD = (
    *("threshold", "kept [%]", "right ones kept [%]", "mAP", "R1", "filter [s]", "filter, search [s]"),
    *("search alone [s]", "speed-up"),
)
NOISE, MARGIN = 1.0, 3.0
"""Standard deviation of the scores before the softmax, and by how much that of the true class is larger."""


@lru_cache(1)
def world(queries, gallery, width):
    """Features of both sides, labels, and probabilities of attributes."""
    rows, ids, cams = reid_like(queries + gallery, width)
    rng, known = np.random.default_rng(1), label_people(range(int(ids.max()) + 1)).classes
    parts = []
    for classes, count in zip(known[ids].T, SYNTHETIC.counts, strict=True):
        scores = NOISE * rng.standard_normal((len(ids), count))
        scores[np.arange(len(ids)), classes] += MARGIN
        scores = np.exp(scores)
        parts.append(scores / scores.sum(axis=1, keepdims=True))
    probabilities = np.concatenate(parts, axis=1).astype(np.float32)
    sides = [np.split(array, [queries]) for array in (rows, ids, cams, probabilities)]
    return sides[0], (*sides[1], *sides[2]), sides[3]


def seconds(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def check(features, labels, probabilities):
    """On some rows: the filter as by pairs, and scores as those of the matrix."""
    (query, gallery), (ids, gallery_ids, cams, gallery_cams) = (
        [each[:300] for each in side] for side in (features, labels)
    )
    of_labels = ids, gallery_ids, cams, gallery_cams
    sides = [each[:300] for each in probabilities]
    distances = ((query[:, None].astype(np.float64) - gallery[None]) ** 2).sum(axis=2)
    for threshold in (0.5, CHOSEN, 0.9):
        kept = attribute_filter(*sides, SYNTHETIC, threshold=threshold)
        assert np.array_equal(kept.toarray(), plain.attribute_filter(*sides, SYNTHETIC.counts, threshold))
        found, expected = (
            evaluate_features(query, gallery, *of_labels, kept=kept),
            evaluate(distances, *of_labels, kept=kept.toarray()),
        )
        np.testing.assert_allclose(found.average_precision, expected.average_precision, atol=1e-12)
        np.testing.assert_allclose(found.cmc, expected.cmc, atol=1e-12)


def test_attribute_filter(report, full):
    features, labels, probabilities = world(*((3368, 15913) if full else (1000, 6000)), 2048)
    check(features, labels, probabilities)
    truth = label_people(range(int(labels[0].max()) + 1)).classes[labels[0]]
    found = [
        probabilities[0][:, SYNTHETIC.columns(name)].argmax(axis=1) == classes
        for name, classes in zip(SYNTHETIC.names, truth.T, strict=True)
    ]
    accuracy = f"{100 * np.mean(found):.0f} % of attributes right"
    right = labels[0][:, None] == labels[1]
    ratios = {}
    for threshold in THRESHOLDS:
        kept, scores = None, None

        def with_filter(threshold=threshold):
            nonlocal kept, scores, first
            start = time.perf_counter()
            kept = attribute_filter(*probabilities, SYNTHETIC, threshold=threshold)
            first = time.perf_counter() - start
            scores = evaluate_features(*features, *labels, kept=kept)

        first, times = 0.0, [[], [], []]
        for _ in range(1 if full else 3):
            times[0].append(seconds(with_filter))
            times[1].append(first)
            times[2].append(seconds(lambda: evaluate_features(*features, *labels)))
        ours, filtering, alone = (statistics.median(each) for each in times)
        ratios[threshold] = alone / ours
        name = f"**{threshold}**" if threshold == CHOSEN else threshold
        share, of_right = kept.nnz / right.size, kept.multiply(right).sum() / right.sum()
        cells = name, percent(share), percent(of_right), percent(scores.mAP), percent(scores.rank(1))
        report(
            f"Attribute filter, {right.shape[0]:,} queries, {right.shape[1]:,} gallery images, {accuracy}",
            *(HEAD, *cells, f"{filtering:.3f}", f"{ours:.2f}", f"{alone:.2f}", f"{ratios[threshold]:.1f}"),
        )
        if threshold == 1.0:
            plain_scores = evaluate_features(*features, *labels)
            assert (share, scores.mAP) == (1.0, pytest.approx(plain_scores.mAP, abs=1e-12))
    assert ratios[CHOSEN] > 1
