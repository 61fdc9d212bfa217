"""Distances that the caller has: `combine_distances` and `rerank_distances`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pose2id.arrays import ArrayT, check_same_kind, row_blocks, work_dtype
from pose2id.neighbors import Neighbors
from pose2id.parts.given import Lists, Matrices, take_lists, take_matrix, take_within
from pose2id.reciprocal import SharedWeights, encode_neighbors, neighbors_needed
from pose2id.reranking import final_blocks
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, check_number


@fit_threads
def combine_distances(global_distances: ArrayT, local_distances: ArrayT, *, weight: float = 1.0) -> ArrayT:
    """Distances of whole images plus a weight times those of their stripes: global + weight x local.

    Parameters
    ----------
    global_distances : (Q, G) numpy array or torch tensor
        Such as squared Euclidean distances of unit features (AlignedReID++), or Euclidean ones.
    local_distances : (Q, G) array of the same container and device
        Such as `aligned_distances`. Where one of both is inf, so is the result, whatever the weight.
    weight : float
        At least 0; 1 in the released codes.

    Returns
    -------
    (Q, G) array of the container and device given
        float64 if one of both is, else float32.

    Raises
    ------
    TypeError, ValueError
        For different shapes, NaN, or anything but floating-point numbers.

    Notes
    -----
    The scales differ: squared distances of unit features lie in [0, 4], `aligned_distances` of 8 unit stripes within
    about 6 to 9. What counts is how much each varies; choose the weight on data that you do not test on.

    References
    ----------
    Luo et al.: *AlignedReID++*, Pattern Recognition 94, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import combine_distances
    >>> combine_distances(np.array([[1.0, 2.0]]), np.array([[6.0, 7.0]]), weight=0.5).tolist()
    [[4.0, 5.5]]
    """
    weight = check_number(weight, "weight")
    first, kind = take_matrix(global_distances, "global_distances", "(Q, G)")
    second, other = take_matrix(local_distances, "local_distances", "(Q, G)")
    check_same_kind(kind, other, ("global_distances", "local_distances"))
    if first.shape != second.shape:
        raise ValueError(
            "global_distances and local_distances must have equal shapes, "
            f"received {tuple(first.shape)} and {tuple(second.shape)}"
        )
    dtype = work_dtype(torch.promote_types(first.dtype, second.dtype))
    result = torch.empty(first.shape, dtype=dtype, device=first.device)
    for block in row_blocks(result):
        result[block] = second[block]
        far = result[block] == torch.inf
        result[block] *= weight
        result[block] += first[block]
        result[block].masked_fill_(far, torch.inf)
    return kind.give_back(result, dtype)  # type: ignore[no-any-return]


@fit_threads
def rerank_distances(
    query_gallery: ArrayT,
    query_query: ArrayT | None = None,
    gallery_gallery: ArrayT | None = None,
    *,
    neighbors: Neighbors[ArrayT] | None = None,
    farthest: ArrayT | None = None,
    measure: Callable[[ArrayT, ArrayT], ArrayT] | None = None,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    square: bool = False,
    progress: bool = False,
) -> ArrayT:
    """Re-ranked distances by k-reciprocal encoding, from any distances: `rerank` where they are not Euclidean.

    Parameters
    ----------
    query_gallery : (Q, G) numpy array or torch tensor
        Finite distances, Q >= 1 and G >= 1; what rounding left below 0 counts as 0.
    query_query, gallery_gallery : (Q, Q) and (G, G) arrays of the same container and device, or None
        Distances within each set, by the same rule, symmetric. The diagonal is used: `aligned_distances` of an image
        to itself are not 0. None: `neighbors` and `farthest` are given instead.
    neighbors : Neighbors, or None
        Of the Q + G rows, queries before gallery, in one set: `indices` and `distances` (Q + G, K), nearest first, at
        least max(k1, k2 - 1) columns or all other rows, without the row itself; -1 and inf where there is none.
    farthest : (Q + G,) array, or None
        The largest distance of each of these rows to any of them.
    measure : callable, or None
        Called with two arrays of row numbers (B,), gives the distances of these pairs (B,); a row and itself, too.
        Asked for what `neighbors` and `query_gallery` do not hold, some tenth of the pairs that are encoded. None: rows
        have the distance 0 to themselves, and it is an error if another pair is missing; more columns hold more.
    k1, k2, lambda_value
        As for `rerank`.
    square : bool
        Square all distances first, as `rerank` does with Euclidean ones, and as huanghoujing/AlignedReID and BPBReID
        do. False: as they are, as in AlignedReID++ (whose global distances are squared already).
    progress : bool
        Show a progress bar.

    Returns
    -------
    (Q, G) array of the container and device given
        Smaller is nearer; float64 if one of the arrays is, else float32.

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, negative or infinite distances, NaN, or anything but floating-point numbers; for
        neighbours that are no table as described, or too few.

    Notes
    -----
    Each row's own place is first, its other neighbours follow by distance, ties by index, queries before gallery. The
    (Q + G) x (Q + G) matrix is not built: beside what is given there are rows of neighbours and sparse rows.

    References
    ----------
    Zhong et al., CVPR 2017; Luo et al.: *AlignedReID++*, Pattern Recognition 94, 2019.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import aligned_distances, rerank_distances
    >>> query = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    >>> gallery = np.array([[[0.1, 1.0], [1.0, 0.1]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [0.1, 1.0]]])
    >>> matrices = [aligned_distances(a, b) for a, b in ((query, gallery), (query, query), (gallery, gallery))]
    >>> rerank_distances(*matrices, k1=1, k2=1).round(2).tolist()
    [[0.22, 1.0, 1.0]]
    """
    k1, k2 = check_count(k1, "k1", 1), check_count(k2, "k2", 1)
    share = check_number(lambda_value, "lambda_value", 0, 1)
    for flag, name in ((square, "square"), (progress, "progress")):
        check_flag(flag, name)
    across, kind = take_matrix(query_gallery, "query_gallery", "(Q, G)", distances=True)
    if not across.numel():
        raise ValueError(f"query_gallery must have at least one row and one column, received {tuple(across.shape)}")
    given = [array is not None for array in (query_query, gallery_gallery, neighbors, farthest)]
    table: Matrices | Lists
    if given == [True, True, False, False] and measure is None:
        table = Matrices(across, *take_within(across, kind, query_query, gallery_gallery), square=square)
    elif given == [False, False, True, True]:
        least = min(neighbors_needed(k1, k2), sum(across.shape) - 1)
        table = Lists(across, *take_lists(across, kind, neighbors, farthest, least), measure, kind, square=square)
    else:
        names = ("query_query", "gallery_gallery", "neighbors", "farthest")
        received = [name for name, there in zip(names, given, strict=True) if there]
        received += [] if measure is None else ["measure"]
        raise ValueError(
            "beside query_gallery give query_query and gallery_gallery, or neighbors and farthest (with measure, or "
            f"without); received {', '.join(received) or 'none of them'}"
        )
    near, distances, largest, own = table.neighbors(min(neighbors_needed(k1, k2), sum(across.shape) - 1))
    encoded = encode_neighbors(near, distances, largest, table.measure, k1, k2, own)

    def write(block: slice, columns: slice, out: torch.Tensor) -> None:
        out.copy_((table.take(across[block, columns]) / largest[block, None]).square_().mul_(share))

    jaccard = SharedWeights(encoded[: len(across)], encoded[len(across) :], across.device)
    result = torch.empty(across.shape, dtype=table.dtype, device=across.device)
    for _ in final_blocks(jaccard, write, share, result, progress=progress):
        pass
    return kind.give_back(result, table.dtype)  # type: ignore[no-any-return]
