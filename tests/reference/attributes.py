"""Attributes: what a filter by reliable ones leaves, pair by pair, and how many predictions are right."""

from collections.abc import Mapping, Sequence

import numpy as np


def keep(query: np.ndarray, gallery: np.ndarray, counts: Sequence[int], threshold: float) -> np.ndarray:
    """Which gallery rows stay for which queries (Q, G)."""
    result = np.ones((len(query), len(gallery)), bool)
    for q, one in enumerate(query):
        for g, other in enumerate(gallery):
            start = 0
            for count in counts:
                a, b = one[start : start + count], other[start : start + count]
                if a.max() > threshold and b.max() > threshold and a.argmax() != b.argmax():
                    result[q, g] = False
                start += count
    return result


def official_accuracy(
    predictions: np.ndarray,
    identities: Sequence[int],
    fields: Mapping[str, Mapping[int, int]],
    columns: Sequence[str],
    colours: Mapping[str, Sequence[str]],
) -> list[float]:
    """The share of right images for every column of `evaluate_market_attribute.m`, whose numbers count from 1.

    `fields[name][identity]` is the value of an annotation file.
    """
    rows = [row for row, identity in enumerate(identities) if identity > 0]
    shares = []
    for column, name in enumerate(columns):
        right = 0
        for row in rows:
            value = int(predictions[row, column])
            if name in colours:
                right += fields[colours[name][value - 1]][identities[row]] == 2
            else:
                right += fields[name][identities[row]] == value
        shares.append(right / len(rows))
    return shares
