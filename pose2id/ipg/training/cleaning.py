"""Which photographs of a data set the generator is trained on: outliers and unclear poses are left out.

The paper (supplementary 7.1) takes the Mahalanobis distance of every feature to the mean of its identity, and keeps
what lies between two quantiles of these distances: S_ref, the pictures that may stand for a person. Those of S_ref that
have a valid pose are S_trg, the pictures that may be drawn. Features have far more dimensions than an identity has
pictures, so its covariance cannot be inverted as it is; what is done about that is said at `mahalanobis_distances` and
`clean`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from pose2id.images import draw_sheet, take_image
from pose2id.poses import Pose, PoseLimits, pose_faults
from pose2id.validation import check_count, check_number, take_labels, take_numbers

LEAST_SHRINKAGE = 0.01
FEWEST = 3
"""With fewer pictures no one of an identity lies farther out than another."""


@dataclass(frozen=True, eq=False)  # comparing arrays with == has no single truth value
class Cleaned:
    """What `clean` found; N pictures.

    Attributes
    ----------
    reference, target : ndarray of bool, shape (N,)
        S_ref, and S_trg, which is part of it.
    distances : ndarray of float64, shape (N,)
        Distance to the mean of the identity by what is usual for the identity; NaN where there are too few pictures.
    low, high : float
        The quantiles between which distances are kept.
    reasons : dict of int to str
        For every row that is not a target, why.
    ids : ndarray, shape (N,)
    """

    reference: NDArray[np.bool_]
    target: NDArray[np.bool_]
    distances: NDArray[np.float64]
    low: float
    high: float
    reasons: dict[int, str]
    ids: NDArray[Any]

    def report(self) -> str:
        """A small table: how many pictures are kept, and why others are not."""
        faults = [reason.split("; ") for row, reason in self.reasons.items() if self.reference[row]]
        kinds = Counter(kind for parts in faults for kind in {_kind(part) for part in parts})
        both = np.intersect1d(self.ids[self.reference], self.ids[self.target])
        lines: list[tuple[str, int]] = [
            ("pictures", len(self.reference)),
            ("references (S_ref)", int(self.reference.sum())),
            (f"  farther than {self.high:.3g}", int((self.distances > self.high).sum())),
            (f"  nearer than {self.low:.3g}", int((self.distances < self.low).sum())),
            ("targets (S_trg)", int(self.target.sum())),
            *((f"  not: {kind}", count) for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))),
            ("identities", len(np.unique(self.ids))),
            ("  with references and targets", len(both)),
        ]
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:<{width}} {count:>8,}" for name, count in lines)


def mahalanobis_distances(features: Any, *, shrinkage: float | None = None) -> NDArray[np.float64]:
    """Distances of an identity's features to their mean, by their own covariance: sqrt((f - mu)' Sigma^-1 (f - mu)).

    Sigma is a mixture of the sample covariance S (divided by N) and a multiple of the identity matrix with the same
    trace: (1 - s) S + s (tr S / D) I. By default s is the estimate of Ledoit and Wolf, at least 0.01. Nothing of size
    D x D is computed: with the eigenvalues l_k and eigenvectors u_k of the N x N matrix of inner products of the
    centred features, the square of the distance of row i is sum_k u_ik^2 l_k / (s tr S / D + (1 - s) l_k / N).

    Parameters
    ----------
    features : array_like of real numbers, shape (N, D)
        Of one identity; used as they are.
    shrinkage : float, optional
        s, above 0 and at most 1; None: the estimate.

    Returns
    -------
    ndarray of float64, shape (N,)
        Zeros if all features are the same.

    Raises
    ------
    TypeError, ValueError
        For another type or shape, NaN or inf.

    References
    ----------
    O. Ledoit and M. Wolf, A well-conditioned estimator for large-dimensional covariance matrices, Journal of
    Multivariate Analysis 88, 2004, section 3.

    Examples
    --------
    >>> from pose2id.ipg.training.cleaning import mahalanobis_distances
    >>> features = [[0, 0, 1], [0, 1, 0], [1, 0, 0], [5, 5, 5]]
    >>> mahalanobis_distances(features, shrinkage=0.5).round(2).tolist()
    [0.89, 0.89, 0.89, 2.11]
    """
    rows = _take_features(features)
    if shrinkage is not None and not check_number(shrinkage, "shrinkage", 0, 1):
        raise ValueError("shrinkage must be above 0, received 0: the covariance cannot be inverted without")
    n, d = rows.shape
    if not n:
        return np.zeros(0)
    gram = _inner_products(rows)
    if not gram.any():
        return np.zeros(n)
    mean = float(np.trace(gram)) / (n * d)  # tr S / D
    s = _estimate_shrinkage(gram, d) if shrinkage is None else shrinkage
    values, vectors = np.linalg.eigh(gram)
    values = values.clip(min=0)
    squares: NDArray[np.float64] = vectors**2 @ (values / (s * mean + (1 - s) * values / n))
    return np.sqrt(squares)


def clean(
    features: Any,
    ids: Any,
    poses: Sequence[Pose | None],
    *,
    quantile: float = 0.005,
    shrinkage: float | None = None,
    limits: PoseLimits | None = None,
    aspect: float = 0.5,
) -> Cleaned:
    """Choose the references S_ref and the targets S_trg of a data set.

    With more dimensions than pictures, how large the Mahalanobis distances of an identity are depends on the number of
    its pictures, whatever these look like: their mean square is near (N - 1) / (1 - s). Quantiles over all identities
    would pick out those with many pictures. Therefore every distance is divided by the root mean square of its
    identity's, and the quantiles are those of all quotients. An outlier widens the covariance that it is measured by,
    and makes the estimate of s small, so that it hides itself; therefore all identities have the same s, the median of
    their estimates. Identities of one or two pictures are kept, since there is nothing to compare.

    Parameters
    ----------
    features : array_like of real numbers, shape (N, D)
        From the ReID model; used as they are.
    ids : array_like, shape (N,)
        Integers or strings.
    poses : sequence of Pose or None, length N
        None where no pose was found.
    quantile : float
        p, below 0.5: what lies below the p-quantile, nearest to the mean, or above the (1 - p)-quantile is left out.
        Quantiles are interpolated linearly between the sorted distances; 0 keeps all.
    shrinkage : float, optional
        s of `mahalanobis_distances` for all identities; None: the median of their estimates.
    limits : PoseLimits, optional
        Of `pose_valid`.
    aspect : float
        Width of the pictures by their height.

    Returns
    -------
    Cleaned
        Both sets, and why the others dropped out.

    Raises
    ------
    TypeError, ValueError
        For input of other types or shapes, and NaN or inf in `features`.

    References
    ----------
    C. Yuan and others, From Poses to Identity, CVPR 2025, supplementary 7.1.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.ipg.training.cleaning import clean
    >>> from pose2id.poses import representative_poses
    >>> features = np.random.default_rng(0).normal(size=(40, 64))
    >>> features[3] += 5  # someone else under that identity
    >>> poses = [*representative_poses()] * 5
    >>> poses[7] = None
    >>> cleaned = clean(features, np.arange(40) // 10, poses, quantile=0.01)
    >>> cleaned.reasons[7], cleaned.reasons[3]
    ('no pose', 'distance 1.52 above 1.33')
    """
    rows = _take_features(features)
    n = len(rows)
    labels = take_labels(ids, n, "ids")
    if len(poses) != n:
        raise ValueError(f"poses must hold one entry for each of the {n} features, received {len(poses)}")
    if check_number(quantile, "quantile", 0, 0.5) == 0.5:
        raise ValueError("quantile must be below 0.5, received 0.5: nothing would be left")

    everyone = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    several = [members for members in everyone if len(members) >= FEWEST]
    if shrinkage is None and several:
        estimates = [_estimate_shrinkage(_inner_products(rows[members]), rows.shape[1]) for members in several]
        shrinkage = float(np.median(estimates))
    distances = np.full(n, np.nan)
    for members in several:
        own = mahalanobis_distances(rows[members], shrinkage=shrinkage)
        if own.any():
            distances[members] = own / math.sqrt((own**2).mean())
    known = distances[np.isfinite(distances)]
    low, high = (float(q) for q in np.quantile(known, [quantile, 1 - quantile])) if known.size else (0.0, math.inf)

    reference = ~((distances < low) | (distances > high))  # NaN is neither
    target = reference.copy()
    reasons: dict[int, str] = {}
    for row, (distance, pose) in enumerate(zip(distances.tolist(), poses, strict=True)):
        faults = ("no pose",) if pose is None else pose_faults(pose, limits, aspect=aspect)
        if distance > high:
            reasons[row] = f"distance {distance:.3g} above {high:.3g}"
        elif distance < low:
            reasons[row] = f"distance {distance:.3g} below {low:.3g}"
        elif faults:
            reasons[row] = "; ".join(faults)
            target[row] = False
    return Cleaned(reference, target, distances, low, high, reasons, labels)


def draw_dropped(
    images: Sequence[Any], cleaned: Cleaned, *, columns: int = 8, height: int = 128, limit: int = 64
) -> Image.Image:
    """A contact sheet of the pictures that are no targets, the reason below each; outliers first.

    Parameters
    ----------
    images : sequence of PIL images, arrays (H, W, 3) of uint8, or paths, length N
        Only those that are drawn are read.
    cleaned : Cleaned
    columns, height, limit : int
        Pictures in a row, their height in pixels, and how many are drawn at most.

    Returns
    -------
    PIL.Image.Image
        RGB.

    Raises
    ------
    TypeError, ValueError
        When there are not as many images as `cleaned` has rows, or for sizes below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.ipg.training.cleaning import clean, draw_dropped
    >>> rng = np.random.default_rng(0)
    >>> cleaned = clean(rng.normal(size=(12, 4)), np.arange(12) // 6, [None] * 12)
    >>> draw_dropped(rng.integers(0, 256, (12, 64, 32, 3), dtype=np.uint8), cleaned, columns=6).mode
    'RGB'
    """
    columns, limit = check_count(columns, "columns", 1), check_count(limit, "limit", 1)
    height = check_count(height, "height", 1)
    if len(images) != len(cleaned.reference):
        raise ValueError(f"images must hold {len(cleaned.reference)} pictures, received {len(images)}")
    rows = sorted(cleaned.reasons, key=lambda row: (bool(cleaned.reference[row]), row))[:limit]
    size = max(96, height), height
    cells = [ImageOps.pad(_open(images[row]), size, color="white") for row in rows]
    labels = [f"{row}: {cleaned.reasons[row]}" for row in rows] or ["nothing dropped"]
    lines = [slice(first, first + columns) for first in range(0, len(labels), columns)]
    return draw_sheet([cells[line] or [None] for line in lines], size, labels=[labels[line] for line in lines])


def _estimate_shrinkage(gram: NDArray[np.float64], d: int) -> float:
    """The share of the identity matrix by Ledoit and Wolf, from inner products (N, N) of centred rows of width d."""
    n = len(gram)
    mean = np.trace(gram) / (n * d)
    size = (gram**2).sum() / n**2  # squared Frobenius norm of S
    spread = max(size - d * mean**2, 0.0)  # of S around mean * I
    error = (np.diag(gram) ** 2).sum() / n**2 - size / n  # of S around its expectation
    return float(max(min(error / spread, 1.0), LEAST_SHRINKAGE)) if spread > 0 else 1.0


def _inner_products(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of centred rows, (N, N), in a unit that keeps squares from overflowing; distances are the same in any."""
    centred = rows - rows.mean(axis=0)
    centred /= np.abs(centred).max(initial=0) or 1.0
    return centred @ centred.T


def _open(image: Any) -> Image.Image:
    return Image.fromarray(image) if isinstance(image, np.ndarray) else take_image(image)


def _kind(fault: str) -> str:
    """What a pose is at fault for, without the numbers."""
    return re.split(r"[\d(:,+]| bent", re.sub(r"^\d+ ", "", fault))[0].strip()


def _take_features(features: Any) -> NDArray[np.float64]:
    rows = take_numbers(features, "features")
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"features must have shape (N, D) with D >= 1, received {rows.shape}")
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"features must be finite; not so in rows {np.flatnonzero(~np.isfinite(rows).all(axis=1))}")
    return rows
