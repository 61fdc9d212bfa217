"""Distances that the caller has as matrices: `combine_distances` and `rerank_distances`."""

from __future__ import annotations

import math
from typing import Any

import torch

from pose2id.arrays import ArrayT, Kind, check_same_kind, cut, elements_at_once, row_blocks, take_array, work_dtype
from pose2id.reranking import SharedWeights, encode_neighbors, final_blocks, neighbors_needed, smallest
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, check_number

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ROUNDING = 1e-4
"""How far below 0, of 1 or the largest of some rows, rounding may have put a distance."""
TILE = 2**20
"""Distances that are sorted at once on a CPU."""


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
    first, kind = _take_matrix(global_distances, "global_distances", "(Q, G)")
    second, other = _take_matrix(local_distances, "local_distances", "(Q, G)")
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
    query_query: ArrayT,
    gallery_gallery: ArrayT,
    *,
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
    query_query, gallery_gallery : (Q, Q) and (G, G) arrays of the same container and device
        Distances within each set, by the same rule, symmetric. The diagonal is used: `aligned_distances` of an image
        to itself are not 0.
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
        Smaller is nearer; float64 if one of the three is, else float32.

    Raises
    ------
    TypeError, ValueError
        For shapes that do not fit, negative or infinite distances, NaN, or anything but floating-point numbers.

    Notes
    -----
    Each row's own place is first, its other neighbours follow by distance, ties by index, queries before gallery. The
    (Q + G) x (Q + G) matrix is not built: beside the three given there are rows of neighbours and sparse rows.

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
    names = ("query_gallery", "query_query", "gallery_gallery")
    shapes = ("(Q, G)", "(Q, Q)", "(G, G)")
    (across, kind), *within = (
        _take_matrix(array, name, shape, distances=True)
        for array, name, shape in zip((query_gallery, query_query, gallery_gallery), names, shapes, strict=True)
    )
    q, g = across.shape
    for (matrix, other), name, n in zip(within, names[1:], (q, g), strict=True):
        check_same_kind(kind, other, (names[0], name))
        if not n or tuple(matrix.shape) != (n, n):
            raise ValueError(
                f"query_gallery must have at least one row and one column and {name} one of each per row of its set, "
                f"received shapes {(q, g)} and {tuple(matrix.shape)}"
            )
    table = _Table(across, within[0][0], within[1][0], square=square)
    near, distances, largest, own = table.neighbors(min(neighbors_needed(k1, k2), q + g - 1))
    encoded = encode_neighbors(near, distances, largest, table.measure, k1, k2, own)

    def write(block: slice, columns: slice, out: torch.Tensor) -> None:
        out.copy_((table.take(across[block, columns]) / largest[block, None]).square_().mul_(share))

    result = torch.empty(q, g, dtype=table.dtype, device=across.device)
    for _ in final_blocks(SharedWeights(encoded, q, across.device), write, share, result, progress=progress):
        pass
    return kind.give_back(result, table.dtype)  # type: ignore[no-any-return]


class _Table:
    """The (Q + G) x (Q + G) distances as three matrices; what it gives are the roots of what is to be used.

    The steps of re-ranking square what they are given, so that is a root where nothing is to be squared.
    """

    def __init__(self, across: torch.Tensor, queries: torch.Tensor, items: torch.Tensor, *, square: bool) -> None:
        self.across, self.queries, self.items, self.square = across, queries, items, square
        self.q, self.n = len(queries), len(queries) + len(items)
        self.dtype = torch.float32
        for part in (across, queries, items):
            self.dtype = work_dtype(torch.promote_types(self.dtype, part.dtype))

    def take(self, values: torch.Tensor) -> torch.Tensor:
        """Given distances, as described, float64."""
        values = values.double().clamp(min=0)
        return values if self.square else values.sqrt_()

    def neighbors(self, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Each row's k nearest others (n, k) and their distances, its largest distance (n,), that to itself (n,)."""
        device = self.across.device
        near = torch.empty(self.n, k, dtype=torch.int64, device=device)
        distances = torch.empty(self.n, k, dtype=self.dtype, device=device)
        largest, own = torch.empty(2, self.n, dtype=torch.float64, device=device)
        height = max(1, elements_at_once(device, TILE) // self.n)
        for first, last in ((0, self.q), (self.q, self.n)):
            for part in cut(last - first, height):
                block = slice(first + part.start, first + part.stop)
                if first:
                    rows = torch.cat([self.across[:, part].T.to(self.dtype), self.items[part].to(self.dtype)], dim=1)
                else:
                    rows = torch.cat([self.queries[part].to(self.dtype), self.across[part].to(self.dtype)], dim=1)
                rows.clamp_(min=0)  # before they are ordered: what is below 0 counts as 0
                largest[block] = self.take(rows.amax(dim=1))
                at = torch.arange(block.start, block.stop, device=device)[:, None]
                own[block] = self.take(rows.gather(1, at)[:, 0])
                rows.scatter_(1, at, torch.inf)
                values, near[block] = smallest(rows, k)
                distances[block] = self.take(values).to(self.dtype)
        return near, distances, largest.masked_fill_(largest == 0, 1.0), own  # 1: all distances are 0

    def measure(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """The distances of pairs of rows."""
        values = torch.empty(len(row), dtype=torch.float64, device=row.device)
        left, right = row < self.q, column < self.q
        for matrix, rows, columns, chosen in (
            (self.queries, row, column, left & right),
            (self.across, row, column - self.q, left & ~right),
            (self.across, column, row - self.q, ~left & right),
            (self.items, row - self.q, column - self.q, ~left & ~right),
        ):
            values[chosen] = matrix[rows[chosen], columns[chosen]].double()
        return self.take(values)


def _take_matrix(array: Any, name: str, shape: str, *, distances: bool = False) -> tuple[torch.Tensor, Kind]:
    """A matrix of floats without NaN; of `distances`: finite, and not below 0 but by rounding."""
    tensor, kind = take_array(array, name)
    if tensor.dtype not in FLOATS:
        raise TypeError(
            f"{name} must hold floating-point values, received dtype {kind.dtype}; convert to float32 first"
        )
    if tensor.ndim != 2:
        raise ValueError(f"{name} must have shape {shape}, received {tuple(tensor.shape)}")
    allowed = "finite distances >= 0" if distances else "distances without NaN"
    for block in row_blocks(tensor) if tensor.numel() else ():
        low, high = (float(end) for end in torch.aminmax(tensor[block]))  # NaN spreads to both
        if distances:
            wrong = not math.isfinite(high) or not low >= -ROUNDING * max(1.0, high)
        else:
            wrong = math.isnan(low) or low == -math.inf
        if wrong:
            raise ValueError(
                f"{name} must hold {allowed}, received values from {low} to {high} in rows {block.start} on"
            )
    return tensor, kind
