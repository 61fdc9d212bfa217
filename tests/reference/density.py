"""ID², the identity density."""

from collections.abc import Sequence

import numpy as np

from reference.centralization import unit


def sample_distances(x: np.ndarray, ids: Sequence) -> np.ndarray:
    """Distance (N,) of every normalised feature to the plain mean of its identity's normalised features."""
    u = unit(x)
    result = np.zeros(len(u))
    centres = {
        identity: np.mean([u[j] for j, other in enumerate(ids) if other == identity], axis=0) for identity in set(ids)
    }
    for i, identity in enumerate(ids):
        result[i] = np.sqrt(((u[i] - centres[identity]) ** 2).sum())
    return result


def paper(x: np.ndarray, ids: Sequence) -> float:
    """Mean over identities of the mean distance."""
    distances = sample_distances(x, ids)
    means = [
        np.mean([d for d, other in zip(distances, ids, strict=True) if other == identity]) for identity in set(ids)
    ]
    return float(np.mean(means))


def released(x: np.ndarray, ids: Sequence) -> float:
    """Mean over samples of the squared distance."""
    return float(np.mean(sample_distances(x, ids) ** 2))
