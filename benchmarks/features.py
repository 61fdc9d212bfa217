"""Features like a ReID model's, for timing: identity groups, tracklets per camera, a decaying spectrum, occlusions.

Not a data set and no claim about accuracy: what matters for speed is how features crowd, so the base mAP is near 0.8
and neighbours are close but not isolated.
"""

from __future__ import annotations

import numpy as np


def reid_like(n: int, width: int, seed: int = 0, cameras: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make (n, width) float32 rows of length 1, identities and cameras."""
    rng = np.random.default_rng(seed)
    rank = min(width, 512)
    identities = max(2, n // 20)
    scale = (1 + np.arange(rank) / 60) ** -0.75
    scale = (scale / np.sqrt((scale**2).sum())).astype(np.float32)
    basis = np.linalg.qr(rng.standard_normal((width, rank)).astype(np.float32))[0].T

    def draw(count: int, size: float) -> np.ndarray:
        return size * rng.standard_normal((count, rank), dtype=np.float32) * scale

    ids = np.sort(rng.integers(0, identities, n))
    cams = rng.integers(0, cameras, n)
    groups = draw(max(2, identities // 27), 0.8)
    centres = groups[rng.integers(0, len(groups), identities)] + draw(identities, 0.6)
    place, tracklet = draw(cameras, 0.35), draw(identities * cameras, 0.6)
    rows = np.empty((n, width), np.float32)
    for start in range(0, n, 8192):
        part = slice(start, min(start + 8192, n))
        count = part.stop - part.start
        seen = centres[ids[part]] + place[cams[part]] + tracklet[ids[part] * cameras + cams[part]] + draw(count, 0.5)
        seen[rng.random(count) < 0.09] += draw(1, 1.2)
        rows[part] = seen @ basis + 0.2 / np.sqrt(width) * rng.standard_normal((count, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = rng.permutation(n)
    return rows[order], ids[order], cams[order]


def loose(n: int, width: int, seed: int = 0, each: int = 20) -> np.ndarray:
    """Make (n, width) float32 rows around one centre for `each` of them, no principal directions, half of it noise."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // each, width), dtype=np.float32)
    rows = centres[rng.integers(0, len(centres), n)]
    rows += np.float32(0.5) * rng.standard_normal((n, width), dtype=np.float32)
    return rows


def ranking(q: int, g: int, matches: int, nearer: float, seed: int = 0) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Make random distances (q, g), so many matches on average and so much nearer, in standard deviations; labels."""
    rng = np.random.default_rng(seed)
    ids, cams = rng.integers(0, g // matches, q + g), rng.integers(0, 6, q + g)
    labels = ids[:q], ids[q:], cams[:q], cams[q:]
    distances = rng.standard_normal((q, g), dtype=np.float32)
    distances += np.float32(nearer) * (labels[0][:, None] != labels[1])
    return distances, labels
