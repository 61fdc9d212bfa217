"""Jaccard distances of k-reciprocal neighbours, sparse: what unsupervised ReID training clusters by in every epoch."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse

from pose2id.arrays import cut, take_features, work_dtype
from pose2id.distances import Frame, pair_distances, squared_norms
from pose2id.neighbors import check_engine, find_neighbors
from pose2id.progress import tqdm
from pose2id.reciprocal import SharedWeights, encode_neighbors
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, check_number

if TYPE_CHECKING:
    from pose2id.arrays import Array

logger = logging.getLogger("pose2id")


@fit_threads
def jaccard_distances(
    features: Array,
    k1: int = 30,
    k2: int = 6,
    *,
    max_distance: float = 0.8,
    engine: str = "auto",
    progress: bool = False,
) -> sparse.csr_matrix:
    """Jaccard distances of k-reciprocal neighbours within one set, as a sparse matrix for scikit-learn's `DBSCAN`.

    What SpCL and ClusterContrast cluster by in every epoch (`compute_jaccard_distance`), without an N x N array.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; used as given. The released codes give rows of length 1, and weights
        are exp(-squared distance): normalise first where your model does not (the log warns of other lengths).
    k1 : int
        Length of the lists of neighbours, the row itself included, at least 1.
    k2 : int
        Rows averaged in local query expansion, the row itself included, at least 1 (no expansion); at most k1 count.
    max_distance : float
        Larger distances are not stored, from 0 to 1: at least the `eps` of `DBSCAN`. 1 stores all pairs that share a
        neighbour, in sets without structure half of all pairs.
    engine : {"auto", "exact", "native", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        Who searches neighbours; see `knn_graph`. The first four give the same answer, the others are approximate.
    progress : bool
        Show progress bars.

    Returns
    -------
    scipy.sparse.csr_matrix, (N, N)
        Distances, float64 for float64 features, else float32. **What is not stored is larger than `max_distance`**, or
        1: pairs that share no neighbour. Zeros, such as on the diagonal, are stored. Each row is sorted by distance,
        ties by index, as scikit-learn wants neighbours; `sort_indices()` puts columns in order.

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point features (N, D) and numbers in range.
    MissingExtraError
        When the engine is not installed.

    Notes
    -----
    In `rerank` a list of k1 is the row and k1 others, and distances are divided by the largest; here, as in the
    released codes, the row is one of k1, and they are not. A row comes first in its own list, ties go to the lower
    index; the released codes leave ties to faiss. Memory beside the features is that of the search and of what is
    stored, some hundred pairs a row.

    References
    ----------
    Zhong, Zheng, Cao, Li: *Re-ranking Person Re-identification with k-reciprocal Encoding*, CVPR 2017. Ge et al.:
    *Self-paced Contrastive Learning with Hybrid Memory for Domain Adaptive Object Re-ID*, NeurIPS 2020. Dai et al.:
    *Cluster Contrast for Unsupervised Person Re-Identification*, ACCV 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import jaccard_distances
    >>> distances = jaccard_distances(np.array([[0.0], [0.1], [3.0]]), k1=2, k2=1)
    >>> [list(zip(row.indices.tolist(), row.data.round(2).tolist())) for row in distances]
    [[(0, 0.0), (1, 0.01)], [(1, 0.0), (0, 0.01)], [(2, 0.0)]]
    """
    k1, k2 = check_count(k1, "k1", 1), check_count(k2, "k2", 1)
    most = check_number(max_distance, "max_distance", 0, 1)
    check_engine(engine)
    check_flag(progress, "progress")
    rows, _ = take_features(features)
    length = float(squared_norms(rows).mean().sqrt())
    if len(rows) and not 0.5 < length < 2:
        logger.warning("features are %.3g long; clustering wants rows of length 1, so normalise them first", length)
    n, dtype = len(rows), work_dtype(rows.dtype)
    if not n:
        return sparse.csr_matrix(torch.empty(0, 0, dtype=dtype).numpy())
    encoded = _encode(rows.to(dtype), k1, k2, engine, progress=progress)
    return _compare(encoded, most, rows.device, progress=progress)


def _encode(rows: torch.Tensor, k1: int, k2: int, engine: str, *, progress: bool) -> sparse.csr_matrix:
    """V of all rows, (n, n), columns in order."""
    n = len(rows)
    k = max(1, min(k1, n) - 1)  # others in a list of k1; one is searched where none counts
    near, distances = find_neighbors(rows, rows, k, within=True, engine=engine, progress=progress)
    scale = Frame(rows, centred=False).scale

    def measure(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return pair_distances(rows, rows, row, column, scale)

    ones = torch.ones(n, dtype=torch.float64, device=rows.device)
    encoded = encode_neighbors(near, distances, ones, measure, k1 - 1, min(k1, k2), half=round(k1 / 2))
    encoded.sort_indices()  # so that both sums of a pair have one order, and the result is symmetric
    return encoded


def _compare(encoded: sparse.csr_matrix, most: float, device: torch.device, *, progress: bool) -> sparse.csr_matrix:
    """J of all pairs where it is below 1 and at most `most`, each row sorted by it."""
    n = encoded.shape[0]
    weights = SharedWeights(encoded, encoded, device)
    counts, indices, values = [], [], []
    with tqdm(total=n, desc="Jaccard distances", unit="row", disable=not progress) as bar:
        for block in cut(n, weights.height):
            at, shared = weights.shared(block)
            row, column = at // n, at % n
            found = (1 - shared / (2 - shared)).clamp_(min=0)
            found[row + block.start == column] = 0  # shared are 1 to rounding
            kept = (found < 1) & (found <= most)
            part, ids, distances = (each[kept].cpu().numpy() for each in (row, column, found))
            order = np.lexsort((distances, part))  # stable: ties stay in the order of columns
            counts.append(np.bincount(part, minlength=block.stop - block.start))
            indices.append(ids[order].astype(np.int32))
            values.append(distances[order])
            bar.update(block.stop - block.start)
    ends = np.concatenate([[0], *counts]).cumsum()
    return sparse.csr_matrix((np.concatenate(values), np.concatenate(indices), ends), shape=(n, n))
