"""Part features: distances with visibility, and centralization part by part; loops over pairs and parts."""

from collections.abc import Sequence

import numpy as np

from reference.centralization import unit
from reference.neighbors import mutual_neighbors


def visible_parts(parts: np.ndarray, visibility: np.ndarray | None) -> np.ndarray:
    """Visibility (N, P) as numbers; 0 where a part is a vector of zeros."""
    v = np.ones(parts.shape[:2]) if visibility is None else np.asarray(visibility, dtype=np.float64)
    return np.where((parts == 0).all(axis=2), 0.0, v)


def unit_parts(parts: np.ndarray) -> np.ndarray:
    """Each part divided by its length; zero parts and parts with NaN or inf stay as they are."""
    result = np.array(parts, dtype=np.float64)
    for i, p in np.ndindex(*parts.shape[:2]):
        if np.isfinite(parts[i, p]).all():
            result[i, p] = unit(result[i, p][None])[0]
    return result


def part_distance(a: np.ndarray, b: np.ndarray, metric: str) -> float:
    """The distance of two parts (D,)."""
    return float(np.sqrt(((a - b) ** 2).sum())) if metric == "euclidean" else float(1 - (a * b).sum())


def pair_distance(
    a: np.ndarray, b: np.ndarray, v: np.ndarray, w: np.ndarray, reduce: str = "mean", metric: str = "euclidean"
) -> float:
    """The distance of two rows of parts (P, D) with visibility (P,); inf without a common part."""
    weights = np.sqrt(v * w)
    common = np.flatnonzero(weights)
    if not len(common):
        return np.inf
    values = [part_distance(a[p], b[p], metric) for p in common]
    if reduce == "max":
        return max(values)
    return float(sum(weights[p] * value for p, value in zip(common, values, strict=True)) / weights[common].sum())


def distances(
    query: np.ndarray,
    gallery: np.ndarray,
    v: np.ndarray | None = None,
    w: np.ndarray | None = None,
    *,
    reduce: str = "mean",
    metric: str = "euclidean",
    missing: str = "inf",
    normalize: bool = True,
) -> np.ndarray:
    """Every query against every gallery row, (Q, G)."""
    soft = any(x is not None and np.asarray(x).dtype.kind == "f" for x in (v, w))
    seen, other = visible_parts(query, v), visible_parts(gallery, w)
    if normalize or metric == "cosine":
        query, gallery = unit_parts(query), unit_parts(gallery)
    if missing == "release" and soft:
        reduce = "mean"
    result = np.array(
        [
            [pair_distance(a, b, x, y, reduce, metric) for b, y in zip(gallery, other, strict=True)]
            for a, x in zip(query, seen, strict=True)
        ]
    ).reshape(len(query), len(gallery))
    if missing == "release" and np.isinf(result).any():
        largest = -1.0
        for i, j, p in np.ndindex(len(query), len(gallery), query.shape[1]):
            a, b = query[i, p], gallery[j, p]
            if soft or (seen[i, p] and other[j, p]):
                largest = np.fmax(largest, part_distance(a, b, metric))
        result[np.isinf(result)] = largest + 1
    return result


def neighbor_lists(
    d: np.ndarray, exclude: Sequence | None = None, *, within: bool = True, single: bool = False
) -> list[list[int]]:
    """All rows that count for each row of distances d, nearest first, ties by index; inf never counts."""
    lists = []
    for i, row in enumerate(d.astype(np.float32) if single else d):
        allowed = [
            j
            for j in range(len(row))
            if np.isfinite(row[j]) and not (within and i == j) and (exclude is None or exclude[i] != exclude[j])
        ]
        lists.append(sorted(allowed, key=lambda j, row=row: (row[j], j)))
    return lists


def fuse(
    parts: np.ndarray, v: np.ndarray, generated: np.ndarray, g: np.ndarray, eta: float, *, fill: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The parts and their visibility with the generated ones (N, M, P, D) of visibility (N, M, P)."""
    fused, seen = np.array(parts, dtype=np.float64), v.copy()
    for i, p in np.ndindex(*v.shape):
        weights = g[i, :, p]
        if not weights.sum() or not eta:
            continue
        mean = sum(weights[m] * generated[i, m, p] for m in np.flatnonzero(weights)) / weights.sum()
        if v[i, p]:
            fused[i, p] = parts[i, p] + eta * mean
        elif fill:
            fused[i, p], seen[i, p] = mean, weights.max()
    return fused, seen


def centralize(
    parts: np.ndarray,
    visibility: np.ndarray | None = None,
    generated: np.ndarray | None = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    generated_visibility: np.ndarray | None = None,
    alpha: float = 0.0,
    fill: bool = False,
    exclude: Sequence | None = None,
    normalize: bool = True,
    single: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Parts and visibility after fusing and adding mutual neighbours, part by part."""
    v = visible_parts(parts, visibility)
    f = np.array(parts, dtype=np.float64)
    if generated is not None:
        shape = generated.shape[:3]
        g = np.ones(shape) if generated_visibility is None else np.asarray(generated_visibility, dtype=np.float64)
        f, v = fuse(f, v, generated, g, eta, fill=fill)
        v = visible_parts(f, v)
    directions = unit_parts(f)
    if normalize:
        f = directions.astype(np.float32).astype(np.float64) if single else directions
    d = np.array([[pair_distance(a, b, x, y) for b, y in zip(f, v, strict=True)] for a, x in zip(f, v, strict=True)])
    mutual = mutual_neighbors(neighbor_lists(d.reshape(len(f), len(f)), exclude, single=single), k1, k2)
    z, seen = f.copy(), v.copy()
    for i, mates in enumerate(mutual):
        factor = {}
        for j in mates:
            w = np.sqrt(v[i] * v[j])
            common = np.flatnonzero(w)
            cosine = sum(w[p] * (directions[i, p] * directions[j, p]).sum() for p in common) / w[common].sum()
            factor[j] = max(float(cosine), 0.0) ** alpha
        for p in range(v.shape[1]):
            seeing = [j for j in mates if v[j, p]]
            if v[i, p]:
                z[i, p] = v[i, p] * f[i, p] + sum(factor[j] * v[j, p] * f[j, p] for j in seeing)
            elif fill and seeing:
                z[i, p] = sum(factor[j] * v[j, p] * f[j, p] for j in seeing)
                seen[i, p] = max(v[j, p] for j in seeing)
    return (unit_parts(z) if normalize else z), seen
