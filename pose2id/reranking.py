"""Re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017), from sparse rows, never an N x N array.

Query and gallery form one set of n = Q + G rows. D_ij is the squared Euclidean distance of the features as given over
the largest of row i. Steps 1 to 6, from neighbours to the Jaccard distance J, stand in `pose2id.reciprocal`;
the last one is here: 7. (1 - lambda) J + lambda D.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from scipy import sparse

from pose2id.arrays import ArrayT, Kind, check_same_kind, cut, elements_at_once, take_features, work_dtype
from pose2id.distances import Frame, full_precision, pair_distances, squared_norms
from pose2id.neighbors import Neighbors, check_engine, find_both_ends
from pose2id.progress import tqdm
from pose2id.reciprocal import SharedWeights, encode_neighbors, neighbors_needed
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, check_number

ITEM_TILE = 512
"""Gallery rows of a tile, by measurement: small, nearly square products are the fastest, and stay in the caches."""


@fit_threads
def rerank(
    query: ArrayT,
    gallery: ArrayT,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    engine: str = "auto",
    progress: bool = False,
) -> ArrayT:
    """Re-ranked distances of every query to every gallery item, by k-reciprocal encoding.

    Parameters
    ----------
    query : (Q, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64, Q >= 1; used as given, so normalise first if your model's features
        are compared by cosine (`centralize` does).
    gallery : (G, D) array of the same container and device
        G >= 1.
    k1 : int
        Neighbours that are encoded, at least 1.
    k2 : int
        Rows averaged in local query expansion, the row itself included, at least 1 (no expansion).
    lambda_value : float
        Share of the original distance, from 0 to 1.
    engine : {"auto", "exact", "native", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        Who searches neighbours; see `knn_graph`. The first four give the same answer, the others are approximate.
    progress : bool
        Show progress bars.

    Returns
    -------
    (Q, G) array
        Smaller is nearer; comparable within a row, no longer a metric. float64 for float64 features, else float32;
        container and device as the input.

    Raises
    ------
    TypeError, ValueError
        For empty sets, different D, or anything but finite floating-point features and numbers in range.
    MissingExtraError
        When the engine is not installed.

    Notes
    -----
    The usual script holds V and J in float16; here they are float32 (float64 for float64 features), so single
    entries differ from it by up to some 1e-3, and mean differences are around 1e-4. Where the script's lists have no
    defined order (k2 > k1 + 1), these are the nearest.

    References
    ----------
    Zhong, Zheng, Cao, Li: *Re-ranking Person Re-identification with k-reciprocal Encoding*, CVPR 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import rerank
    >>> query = np.array([[0.0, 1.0]])
    >>> gallery = np.array([[0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])
    >>> rerank(query, gallery, k1=1, k2=1).round(2).tolist()
    [[0.01, 1.0, 0.97]]
    """
    task, kind = _take(query, gallery, k1, k2, lambda_value, engine, progress)
    result = torch.empty(len(task.queries), len(task.items), dtype=task.dtype, device=task.queries.device)
    for _ in _blocks(task, result):
        pass
    return kind.give_back(result, task.dtype)  # type: ignore[no-any-return]


@fit_threads
def rerank_top(
    query: ArrayT,
    gallery: ArrayT,
    top: int = 100,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    engine: str = "auto",
    progress: bool = False,
) -> Neighbors[ArrayT]:
    """The first `top` gallery items of every query after `rerank`, without the (Q, G) array.

    Parameters
    ----------
    query, gallery, k1, k2, lambda_value, engine, progress
        As for `rerank`.
    top : int
        Items per query, at least 1; where the gallery has fewer, the rest is -1 and inf.

    Returns
    -------
    Neighbors
        `indices` (Q, top) into the gallery and `distances` (Q, top) as `rerank` gives them, ascending; ties go to
        the lower index.

    Raises
    ------
    TypeError, ValueError, MissingExtraError
        As `rerank`.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import rerank_top
    >>> query = np.array([[0.0, 1.0]], dtype=np.float32)
    >>> gallery = np.array([[1.0, 0.0], [1.0, 0.1], [0.1, 1.0]], dtype=np.float32)
    >>> rerank_top(query, gallery, top=1, k1=1, k2=1).indices.tolist()
    [[2]]
    """
    top = check_count(top, "top", 1)
    task, kind = _take(query, gallery, k1, k2, lambda_value, engine, progress)
    shape, device = (len(task.queries), top), task.queries.device
    indices = torch.full(shape, -1, dtype=torch.int64, device=device)
    values = torch.full(shape, torch.inf, dtype=task.dtype, device=device)
    width = min(top, len(task.items))
    for block, distances in _blocks(task):
        values[block, :width], indices[block, :width] = smallest(distances, width)
    return Neighbors(kind.give_back(indices, torch.int64), kind.give_back(values, task.dtype))


class _Task(NamedTuple):
    """What is to be re-ranked, checked: both sets as tensors, and the numbers."""

    queries: torch.Tensor
    items: torch.Tensor
    k1: int
    k2: int
    share: float
    engine: str
    progress: bool

    @property
    def dtype(self) -> torch.dtype:
        """The working dtype."""
        return work_dtype(torch.promote_types(self.queries.dtype, self.items.dtype))


def _take(
    query: Any, gallery: Any, k1: object, k2: object, lambda_value: object, engine: object, progress: bool
) -> tuple[_Task, Kind]:
    """The arguments, checked, and the kind of array to give back."""
    k1, k2 = check_count(k1, "k1", 1), check_count(k2, "k2", 1)
    share = check_number(lambda_value, "lambda_value", 0, 1)
    engine = check_engine(engine)
    check_flag(progress, "progress")
    queries, kind = take_features(query, "query", "(Q, D)")
    items, other = take_features(gallery, "gallery", "(G, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    if not len(queries) or not len(items) or queries.shape[1] != items.shape[1]:
        raise ValueError(
            "query and gallery must have at least one row each and equal D, "
            f"received {tuple(queries.shape)} and {tuple(items.shape)}"
        )
    return _Task(queries, items, k1, k2, share, engine, progress), kind


def smallest(distances: torch.Tensor, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `width` smallest of every row and their columns, ascending, ties by column: both (b, width)."""
    values, at = distances.topk(min(width + 1, distances.shape[1]), dim=1, largest=False)
    at, order = at.sort(dim=1)
    values, order = values.gather(1, order).sort(dim=1, stable=True)
    at = at.gather(1, order)
    # Which of equal ones topk takes is undefined: where the next is equal to the last, the whole row is sorted.
    tied = (values[:, width:] == values[:, width - 1 : width]).any(dim=1).nonzero().flatten()
    whole = distances[tied].sort(dim=1, stable=True)
    values[tied], at[tied] = (part[:, : values.shape[1]] for part in whole)
    return values[:, :width], at[:, :width]


def _blocks(task: _Task, result: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
    """The final distances of blocks of query rows (b, G), written into `result` (Q, G) where it is given."""
    rows = torch.cat([task.queries.to(task.dtype), task.items.to(task.dtype)])
    encoded, largest = _encode(rows, task)
    q = len(task.queries)
    jaccard = SharedWeights(encoded[:q], encoded[q:], rows.device)
    del encoded
    original = _OriginalDistances(rows, largest[:q], task.share)
    yield from final_blocks(jaccard, original.write, task.share, result, progress=task.progress)


def final_blocks(
    jaccard: SharedWeights,
    write: Callable[[slice, slice, torch.Tensor], None],
    share: float,
    result: torch.Tensor | None = None,
    *,
    progress: bool = False,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Step 7: the final distances of blocks of query rows (b, G), written into `result` (Q, G) if given.

    `write` puts lambda D of a block of queries and some gallery rows into a tile; `share` is lambda.
    """
    q, g, height, sums = jaccard.size, jaccard.width, jaccard.height, jaccard.sums
    width = elements_at_once(sums.device, height * ITEM_TILE) // height
    held = torch.empty(height, g, dtype=sums.dtype, device=sums.device) if result is None else None
    with full_precision(sums.device), tqdm(total=q, desc="re-ranking", unit="query", disable=not progress) as bar:
        for start in range(0, q, height):
            block = slice(start, min(start + height, q))
            final = held[: block.stop - start] if held is not None else result[block]  # type: ignore[index]
            for columns in cut(g, width):
                write(block, columns, final[:, columns])
            jaccard.add(block, 1 - share, final)
            yield block, final
            bar.update(block.stop - start)


def _encode(rows: torch.Tensor, task: _Task) -> tuple[sparse.csr_matrix, torch.Tensor]:
    """V as a sparse (n, n) matrix, and the largest distance of each row (n,), inf where all are 0."""
    n, k = len(rows), neighbors_needed(task.k1, task.k2)
    near, distances, largest = find_both_ends(rows, min(k, n - 1), engine=task.engine, progress=task.progress)
    largest[largest == 0] = torch.inf

    def measure(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return pair_distances(rows, rows, row, column, Frame(rows, centred=False).scale)

    return encode_neighbors(near, distances, largest, measure, task.k1, task.k2), largest


class _OriginalDistances:
    """lambda D of step 7: squared distances of queries to gallery rows over the query's largest, by products.

    Centres `rows` (queries, then gallery) in place, so that products neither overflow nor lose a common offset.
    """

    def __init__(self, rows: torch.Tensor, largest: torch.Tensor, share: float) -> None:
        frame = Frame(rows)
        rows.mul_(frame.scale).sub_(frame.centre.to(rows.dtype))
        again = 2.0 ** -math.frexp(max(abs(float(end)) for end in rows.aminmax()))[1]  # what is left may be small
        rows.mul_(again)
        self.queries, self.items = rows[: len(largest)], rows[len(largest) :]
        norms = squared_norms(rows).to(rows.dtype)
        self.query_norms, self.item_norms = norms[: len(largest), None], norms[None, len(largest) :]
        self.factor = (share / (largest * frame.scale * again).square()).to(rows.dtype)[:, None]

    def write(self, block: slice, columns: slice, out: torch.Tensor) -> None:
        """The values of a block of queries and some gallery rows, written to `out` (b, c)."""
        torch.addmm(self.item_norms[:, columns], self.queries[block], self.items[columns].T, alpha=-2, out=out)
        out.add_(self.query_norms[block]).clamp_(min=0).mul_(self.factor[block])
