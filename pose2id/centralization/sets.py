"""`centralize`: one set pulls itself together, without labels and without training. The published use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from pose2id.arrays import ArrayT, take_features, take_output
from pose2id.centralization.arguments import check_parameters, pair_generated, take_generated, take_table
from pose2id.centralization.fusion import FusedRows
from pose2id.centralization.mutual import add_mutual_neighbors, drop_neighbors, mutual_neighbors, search_neighbors
from pose2id.neighbors import Neighbors, take_exclude
from pose2id.threads import fit_threads

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels


@fit_threads
def centralize(
    features: ArrayT,
    generated: Array | Sequence[Array] | None = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    alpha: float = 0.0,
    normalize: bool = True,
    neighbors: Array | Neighbors[Any] | None = None,
    exclude: Labels | None = None,
    engine: str = "auto",
    progress: bool = False,
    out: ArrayT | None = None,
) -> ArrayT:
    """Pull each feature toward its identity's centre, without labels and without training.

    Call it once for the query set and once for the gallery, as the paper does: no feature of one ever enters the
    other.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        One row per image, as the ReID model gives them: float16, bfloat16, float32 or float64. Not written to. A
        memory-mapped file is read a block of rows at a time (see Notes).
    generated : (N, M, D) or (N, D) array, or a sequence of M arrays (N, D), optional
        Features of M generated images of each sample, from the same model; (N, D) is their mean already.
    eta : float
        How much the generated images are trusted. It multiplies the *mean* of the M features (the released README
        adds the sum instead: its factor is M times ours). Published: 2 on Market-1501, 1 on Occluded-ReID, 0.25 on
        SYSU-MM01.
    k1, k2 : int
        Row j counts for row i if it is among the k1 nearest of i, and i is among the k2 nearest of j. 2 to 4 are
        best in the paper; 0 for either switches the step off. (In the released code a k2 above k1 acts as k1.)
    alpha : float
        Each mutual neighbour is added with weight max(cosine, 0) ** alpha; 0, the published rule, gives plain sums.
    normalize : bool
        True: rows are scaled to length 1 after fusing and again at the end, the published evaluation. False: raw
        sums, as the released stand-alone function.
    neighbors : (N, K) integer array or Neighbors, optional
        Neighbours found elsewhere: row indices, nearest first, without the row itself, -1 where there is none, and
        K >= max(k1, k2). They should be those of the fused (and, with `normalize`, normalised) features.
    exclude : (N,) integers or strings, optional
        Rows with equal labels are never neighbours: pass camera labels to take neighbours from other cameras only,
        frame or tracklet labels where equal ones cannot (or need not) match.
    engine : {"auto", "exact", "native", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        Who searches neighbours; see `knn_graph`. The first four give the same answer, the others are approximate.
    progress : bool
        Show progress bars: fusing, the search, adding the neighbours.
    out : (N, D) array of the container, device and dtype of `features`, optional
        Receives the result, for instance ``numpy.lib.format.open_memmap(path, "w+", features.dtype, shape)``. It must
        hold its rows one after the other, be in native byte order, and share no memory or file with `features` or
        `generated`. After an error other than those of wrong arguments, what it holds is undefined.

    Returns
    -------
    (N, D) array of the container, device and dtype of `features`
        `out` if given, else a new array; detached from any gradient. A row of zeros has no direction: it is nobody's
        neighbour, has none, and stays zero.

    Raises
    ------
    TypeError
        For containers, dtypes or numbers of the wrong type.
    ValueError
        For wrong shapes, NaN or inf (rows are named), neighbours out of range, M = 0, an `out` that is read-only or
        in the way of the input, or raw sums that do not fit the dtype.
    MissingExtraError
        When the engine is not installed.

    Notes
    -----
    The bits of a result row depend only on the row, its generated features and its mutual neighbours in order of
    index: not on N, the number of threads or the engine (on one kind of CPU).

    Beyond input and result only the search takes memory worth mentioning, because the result's memory holds the fused
    rows meanwhile. So with ``numpy.load(path, mmap_mode="r")`` and an `out` that is a memory-mapped file as well,
    `features` need not fit into memory. Two exceptions: float16 and bfloat16 rows that are fused or scaled are searched
    in a float32 copy, and an array that torch cannot share (foreign byte order, negative strides) is copied.

    References
    ----------
    Yuan et al., *From Poses to Identity: Training-Free Person Re-Identification via Feature Centralization*, CVPR
    2025, equation 9 and algorithm 1. `alpha`: Radenovic et al., TPAMI 2019 (alpha query expansion).

    Examples
    --------
    Rows 0 and 1 are each other's nearest and meet in the middle; row 2 keeps its place.

    >>> import numpy as np
    >>> from pose2id import centralize
    >>> features = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    >>> centralize(features, k1=1, k2=1).round(3).tolist()
    [[0.894, 0.447], [0.894, 0.447], [0.0, -1.0]]
    """
    eta, k1, k2, alpha = check_parameters(eta, k1, k2, alpha, normalize, engine, progress)
    rows, kind = take_features(features)
    averaged = [] if generated is None else take_generated(generated, rows, kind)
    labels = take_exclude(exclude, rows)
    given = None if neighbors is None else take_table(neighbors, len(rows), max(k1, k2)).to(rows.device)
    if out is None:
        result = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    else:
        result = take_output(out, rows, kind, [(features, rows), *pair_generated(generated, averaged)])
    k = min(max(k1, k2), len(rows) - 1) if k1 and k2 and len(rows) else 0  # no row has more neighbours than that

    # 1. Fuse (equation 9). The result's memory holds the fused rows until step 4 writes over them.
    fused = FusedRows(rows, averaged if eta else [], eta, normalize=normalize)
    searched = fused.write(result, searched=k > 0 and given is None, progress=progress)
    # 2. Search the nearest rows of every row.
    if given is None:
        table = search_neighbors(searched, fused.nonzero, k, labels, engine=engine, progress=progress)
    else:
        table = drop_neighbors(given, fused.nonzero, labels)
    del searched  # a copy, where features are narrower than float32
    # 3. Keep those that are mutual.
    mutual = mutual_neighbors(table, k1, k2)
    # 4. Add them.
    add_mutual_neighbors(fused, mutual, alpha, result, progress=progress)
    return kind.give_back(result) if out is None else out
