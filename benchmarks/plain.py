"""Literal, unhurried versions of the published algorithms, N x N matrices and all: the peers to be measured against."""

from __future__ import annotations

import numpy as np
import torch


def centralize(features: np.ndarray, k1: int = 2, k2: int = 2) -> np.ndarray:
    """Normalise, N x N distances, top k1, a Python loop over mutual neighbours, normalise."""
    rows = torch.nn.functional.normalize(torch.from_numpy(features))
    squared = rows.square().sum(1)
    distances = squared[:, None] + squared[None] - 2 * rows @ rows.T
    distances.fill_diagonal_(torch.inf)
    near = distances.topk(max(k1, k2), largest=False).indices.tolist()
    result = rows.clone()
    for i in range(len(rows)):
        for j in near[i][:k1]:
            if i in near[j][:k2]:
                result[i] += rows[j]
    return torch.nn.functional.normalize(result).numpy()


def rerank(query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, share: float = 0.3) -> np.ndarray:
    """k-reciprocal encoding with dense n x n matrices and a loop over rows (Zhong et al. 2017)."""
    rows = np.concatenate([query, gallery])
    n, q = len(rows), len(query)
    squared = (rows**2).sum(1)
    original = np.maximum(squared[:, None] + squared[None] - 2 * rows @ rows.T, 0)
    np.fill_diagonal(original, 0)
    original = original / original.max(axis=1, keepdims=True)
    ranks = np.argsort(original, axis=1, kind="stable")
    half = int(np.around(k1 / 2))
    weights = np.zeros((n, n), np.float32)
    for i in range(n):
        own = _reciprocal(ranks, i, k1)
        members = own
        for j in own:
            theirs = _reciprocal(ranks, j, half)
            if len(np.intersect1d(theirs, own)) > 2 / 3 * len(theirs):
                members = np.append(members, theirs)
        members = np.unique(members)
        weight = np.exp(-original[i, members])
        weights[i, members] = weight / weight.sum()
    if k2 > 1:
        weights = np.stack([weights[ranks[i, :k2]].mean(axis=0) for i in range(n)])
    holders = [np.flatnonzero(weights[:, i]) for i in range(n)]
    jaccard = np.zeros((q, len(gallery)), np.float32)
    for i in range(q):
        common = np.zeros(n, np.float32)
        for j in np.flatnonzero(weights[i]):
            common[holders[j]] += np.minimum(weights[i, j], weights[holders[j], j])
        jaccard[i] = 1 - common[q:] / (2 - common[q:])
    return (1 - share) * jaccard + share * original[:q, q:]


def _reciprocal(ranks: np.ndarray, i: int, k: int) -> np.ndarray:
    forward = ranks[i, : k + 1]
    return forward[(ranks[forward, : k + 1] == i).any(axis=1)]


def evaluate(distances, query_ids, gallery_ids, query_cams, gallery_cams, kind=None) -> tuple[float, np.ndarray]:
    """The usual numpy evaluator of ReID code: sort every list, loop over queries; mAP and CMC of 50 ranks.

    Step by step as there; `kind` of sorting "stable" puts equal distances in the order of the gallery.
    """
    order = np.argsort(distances, axis=1, kind=kind)
    matches = (gallery_ids[order] == query_ids[:, None]).astype(np.int32)
    aps, curves = [], []
    for i in range(len(query_ids)):
        remove = (gallery_ids[order[i]] == query_ids[i]) & (gallery_cams[order[i]] == query_cams[i])
        right = matches[i][np.invert(remove)]
        if not np.any(right):
            continue
        hits = right.cumsum()
        curve = hits.copy()
        curve[curve > 1] = 1
        curves.append(curve[:50])
        precision = hits / (np.arange(1, len(hits) + 1) * 1.0)
        aps.append((precision * right).sum() / right.sum())
    return float(np.mean(aps)), np.mean(curves, axis=0)


def id_density(features: np.ndarray, ids: np.ndarray) -> float:
    """Squared distance of each normalised row to its identity's mean, averaged over rows; a loop over identities."""
    rows = torch.nn.functional.normalize(torch.from_numpy(features))
    labels = torch.from_numpy(ids)
    density = torch.zeros(len(rows))
    for label in labels.unique():
        own = labels == label
        density[own] = (rows[own] - rows[own].mean(0)).square().sum(1)
    return float(density.mean())


def aligned_distances(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """DMLI (Luo et al. 2019) of stripes (Q, H, D) and (G, H, D), by a loop over pairs and cells."""
    result = np.empty((len(query), len(gallery)))
    for q, own in enumerate(query):
        for g, other in enumerate(gallery):
            far = np.sqrt(np.maximum((own**2).sum(1)[:, None] + (other**2).sum(1) - 2 * own @ other.T, 0))
            cell = (np.exp(far) - 1) / (np.exp(far) + 1)
            result[q, g] = _shortest(cell)
    return result


def aligned_distances_at_once(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """The same with the loop over cells only, as the released numpy code does for blocks of 200 x 200 images."""
    result = np.empty((len(query), len(gallery)))
    (h, d), w = query.shape[1:], gallery.shape[1]
    for i in range(0, len(query), 200):
        for j in range(0, len(gallery), 200):
            own, other = query[i : i + 200].reshape(-1, d), gallery[j : j + 200].reshape(-1, d)
            far = np.sqrt(np.maximum((own**2).sum(1)[:, None] + (other**2).sum(1) - 2 * own @ other.T, 0))
            cell = (np.exp(far) - 1) / (np.exp(far) + 1)
            cell = cell.reshape(-1, h, len(other) // w, w).transpose(1, 3, 0, 2)
            result[i : i + 200, j : j + 200] = _shortest(cell)
    return result


def _shortest(cell: np.ndarray) -> np.ndarray:
    best = np.zeros_like(cell)
    for i in range(cell.shape[0]):
        for j in range(cell.shape[1]):
            before = [best[i - 1, j]] if i else []
            before += [best[i, j - 1]] if j else []
            best[i, j] = cell[i, j] + (np.minimum.reduce(before) if before else 0)
    return best[-1, -1]


def attribute_filter(query, gallery, counts, threshold):
    """What stays (Q, G), attribute by attribute for all pairs: where not reliable on both sides, or equal."""
    kept, start = np.ones((len(query), len(gallery)), bool), 0
    for count in counts:
        one, other = (side[:, start : start + count] for side in (query, gallery))
        reliable = (one.max(axis=1) > threshold)[:, None] & (other.max(axis=1) > threshold)
        kept &= ~(reliable & (one.argmax(axis=1)[:, None] != other.argmax(axis=1)))
        start += count
    return kept
