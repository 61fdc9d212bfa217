"""Re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017), from sparse rows, never an N x N array.

Query and gallery form one set of n = Q + G rows. D_ij is the squared Euclidean distance of the features as given over
the largest of row i. The steps, in the paper's notation:

1. N(i, k): row i itself and its k nearest others.
2. R(i, k): those j of N(i, k) that hold i in N(j, k), the k-reciprocal neighbours.
3. R*(i): R(i, k1), joined with R(j, k1 / 2) for every j in it that shares more than 2/3 of its members with R(i, k1).
4. V_i: exp(-D_ij) over R*(i), scaled to sum 1: about 16 entries of n, so a sparse row.
5. Local query expansion: V_i becomes the mean of V over the first k2 members of N(i, k1).
6. Jaccard distance J_qg = 1 - s / (2 - s), s = sum of min(V_q, V_g), through an inverted index of the gallery.
7. (1 - lambda) J + lambda D.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from tqdm import tqdm

from pose2id.arrays import ArrayT, Kind, check_same_kind, cut, elements_at_once, take_features, work_dtype
from pose2id.distances import Frame, full_precision, pair_distances, squared_norms
from pose2id.neighbors import Neighbors, check_engine, find_both_ends
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, check_number

# By measurement: small, nearly square products are the fastest, and what follows them stays in the caches.
QUERY_TILE, ITEM_TILE = 256, 512
PRODUCT = 2**22
"""Entries of a sparse product that are held at once."""
MEETINGS = 2**18
"""Meetings of queries and gallery rows in a member that are added up at once, for the caches."""
DENSE = 8
"""From so many pairs of queries and gallery rows per meeting on, only those that met are looked at."""


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
    engine : {"auto", "exact", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        Who searches neighbours; see `knn_graph`. The first three give the same answer, the others are approximate.
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
    jaccard = SharedWeights(encoded, len(task.queries), rows.device)
    del encoded
    original = _OriginalDistances(rows, largest[: len(task.queries)], task.share)
    yield from final_blocks(jaccard, original.write, task.share, result, progress=task.progress)


def final_blocks(
    jaccard: SharedWeights,
    write: Callable[[slice, slice, torch.Tensor], None],
    share: float,
    result: torch.Tensor | None = None,
    *,
    progress: bool = False,
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Steps 6 and 7: the final distances of blocks of query rows (b, G), written into `result` (Q, G) if given.

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
    """Steps 1 to 5: V as a sparse (n, n) matrix, and the largest distance of each row (n,), inf where all are 0."""
    n, k = len(rows), neighbors_needed(task.k1, task.k2)
    near, distances, largest = find_both_ends(rows, min(k, n - 1), engine=task.engine, progress=task.progress)
    largest[largest == 0] = torch.inf

    def measure(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        return pair_distances(rows, rows, row, column, Frame(rows, centred=False).scale)

    return encode_neighbors(near, distances, largest, measure, task.k1, task.k2), largest


def neighbors_needed(k1: int, k2: int) -> int:
    """How many neighbours of each row the steps look at."""
    return max(k1, k2 - 1)


def encode_neighbors(
    near: torch.Tensor,
    distances: torch.Tensor,
    largest: torch.Tensor,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    k1: int,
    k2: int,
    own: torch.Tensor | None = None,
) -> sparse.csr_matrix:
    """Steps 1 to 5: V as a sparse (n, n) matrix, from each row's nearest others.

    `near` and `distances` (n, k): the `neighbors_needed`, -1 where there are fewer; `largest` (n,): the largest
    distance of each row; `measure` gives distances of pairs of rows, float64; `own` (n,) the distance
    of each row to itself, where it is not 0.
    """
    # Where fewer were found, the row itself, which is a member anyway.
    near = torch.where(near < 0, torch.arange(len(near), device=near.device)[:, None], near)
    encoded = _weigh(_members(near.cpu().numpy(), k1), near, distances, largest, measure, own)
    return _expand(encoded, near[:, : k2 - 1].cpu().numpy()) if k2 > 1 else encoded


def _members(near: np.ndarray[Any, np.dtype[np.int64]], k1: int) -> sparse.csr_matrix:
    """Steps 2 and 3: R*, a sparse (n, n) matrix; `near` (n, k) holds each row's nearest others."""
    own = _reciprocal(near[:, :k1])  # R(i, k1)
    smaller = _reciprocal(near[:, : round(k1 / 2)])  # to even, as numpy.around in the usual script
    # Joined are those j of R(i, k1) that have more than 2/3 of R(j, k1 / 2), which is symmetric, in R(i, k1).
    size = np.diff(smaller.indptr)
    n, most = own.shape[0], min(own.shape[0], (k1 + 1) * (k1 // 2 + 1))  # entries of a row of the product
    height = max(1, PRODUCT // most)
    blocks = []
    for start in range(0, n, height):
        part = own[start : start + height]
        joined = (part @ smaller).multiply(part).tocsr()
        joined.data = (3 * joined.data > 2 * size[joined.indices]).astype(np.int32)
        joined.eliminate_zeros()
        blocks.append(part + joined @ smaller)
    members: sparse.csr_matrix = sparse.vstack(blocks, format="csr")
    members.sort_indices()
    return members


def _weigh(
    members: sparse.csr_matrix,
    near: torch.Tensor,
    distances: torch.Tensor,
    largest: torch.Tensor,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    own: torch.Tensor | None = None,
) -> sparse.csr_matrix:
    """Step 4: V. `near` and `distances` (n, k) hold each row's nearest others, `largest` (n,) its largest distance."""
    n, device = len(near), near.device
    column = torch.from_numpy(members.indices.astype(np.int64)).to(device)
    row = torch.from_numpy(np.repeat(np.arange(n), np.diff(members.indptr))).to(device)
    # Nine of ten members are neighbours, whose distance is known; the others are measured.
    known, order = (near + torch.arange(n, device=near.device)[:, None] * n).sort(dim=1)
    known, wanted = known.flatten(), row * n + column
    at = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    ratio = distances.gather(1, order).flatten()[at].double()
    ratio[row == column] = 0 if own is None else own.double()
    other = ((known[at] != wanted) & (row != column)).nonzero().flatten()
    ratio[other] = measure(row[other], column[other])
    weight = torch.exp(-(ratio / largest[row]).square())
    total = torch.zeros(n, dtype=torch.float64, device=device).index_add_(0, row, weight)
    weight = (weight / total[row]).to(distances.dtype)
    return sparse.csr_matrix((weight.cpu().numpy(), members.indices, members.indptr), shape=members.shape)


def _reciprocal(near: np.ndarray[Any, np.dtype[np.int64]]) -> sparse.csr_matrix:
    """Rows that hold each other among their nearest, and each row itself: a symmetric matrix of ones."""
    n, k = near.shape
    ones = np.ones(n * k, np.int32)
    holds = sparse.csr_matrix((ones, near.ravel(), np.arange(n + 1) * k), shape=(n, n))
    mutual: sparse.csr_matrix = holds.multiply(holds.T).tocsr() + sparse.identity(n, np.int32, format="csr")
    mutual.data[:] = 1  # also where a row stood among its own neighbours
    return mutual


def _expand(encoded: sparse.csr_matrix, near: np.ndarray[Any, np.dtype[np.int64]]) -> sparse.csr_matrix:
    """Step 5: the mean of V over each row and its nearest others `near` (n, k2 - 1), as a sparse product."""
    n, k = near.shape
    members = np.concatenate([np.arange(n)[:, None], near], axis=1).ravel()
    share = np.full(n * (k + 1), 1 / (k + 1), encoded.dtype)
    mean = sparse.csr_matrix((share, members, np.arange(n + 1) * (k + 1)), shape=encoded.shape)
    expanded: sparse.csr_matrix = mean @ encoded
    return expanded


class SharedWeights:
    """Step 6: s = sum of min(V_q, V_g) of queries, the first q rows of V, with all gallery rows: the other rows.

    Through an inverted index: for each member, which gallery rows hold it, and how strongly. `height` is the number of
    queries in the largest block.
    """

    def __init__(self, encoded: sparse.csr_matrix, q: int, device: torch.device) -> None:
        self.queries, self.holders = _Rows(encoded[:q], device), _Rows(encoded[q:].T.tocsr(), device)
        self.size, self.width = q, encoded.shape[0] - q
        self.height = max(16, elements_at_once(device, min(2**23, QUERY_TILE * self.width)) // self.width)
        self.sums = torch.zeros(self.height * self.width, dtype=self.queries.data.dtype, device=device)

    def add(self, block: slice, share: float, out: torch.Tensor) -> None:
        """Add share x J to `out` (b, G) for a block of queries, with J = 1 - s / (2 - s) = 2 + 2 / (s - 2)."""
        flat = out.view(-1)
        sums = self.sums[: len(flat)]  # zeros
        met: list[torch.Tensor] = []
        few = len(flat) // DENSE
        for place, own, other in self._meetings(block):
            sums.index_add_(0, place, torch.minimum(own, other))
            few -= len(place)
            met = [*met, place] if few >= 0 else []
        if few < 0:
            flat.add_(sums.sub_(2).reciprocal_().add_(1), alpha=2 * share)
            sums.zero_()
            return
        # Nearly all pairs share nothing: J = 1.
        at = torch.cat(met) if met else torch.empty(0, dtype=torch.int64, device=flat.device)
        changed = torch.add(flat[at], (sums[at] - 2).reciprocal_().add_(1), alpha=2 * share)
        flat.add_(share)
        flat[at] = changed
        sums[at] = 0

    def _meetings(self, block: slice) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Meetings of queries with all gallery rows that hold the same member, in bounded batches.

        Each is the place in the flattened table of queries and gallery rows, and the weights of both.
        """
        part = self.queries.entries(block)
        member, weight = self.queries.indices[part], self.queries.data[part]
        row = torch.arange(block.stop - block.start, device=member.device) * self.width
        row = row.repeat_interleave(self.queries.counts[block], output_size=len(member))
        counts = self.holders.counts[member]
        ends = counts.cumsum(0)
        first = self.holders.starts[member] - ends + counts  # less the meetings before
        total = int(ends[-1]) if len(ends) else 0
        inner = torch.arange(MEETINGS, max(total, MEETINGS), MEETINGS, device=ends.device)
        cuts = [0, *torch.searchsorted(ends, inner).tolist(), len(ends)]
        for begin, end in itertools.pairwise(cuts):
            if begin == end:
                continue
            before = int(ends[begin - 1]) if begin else 0
            of = torch.arange(begin, end, device=ends.device).repeat_interleave(counts[begin:end])
            at = first[of] + torch.arange(before, before + len(of), device=ends.device)
            yield row[of] + self.holders.indices[at], weight[of], self.holders.data[at]


class _Rows:
    """A sparse matrix on the device: row i holds `data` in the columns `indices`, from `starts[i]` on, `counts[i]`."""

    def __init__(self, matrix: sparse.csr_matrix, device: torch.device) -> None:
        ends = matrix.indptr.astype(np.int64)
        self.ends = ends
        self.starts = torch.from_numpy(ends[:-1]).to(device)
        self.counts = torch.from_numpy(np.diff(ends)).to(device)
        self.indices = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)
        self.data = torch.from_numpy(matrix.data).to(device)

    def entries(self, rows: slice) -> slice:
        """Where the entries of some rows stand."""
        return slice(int(self.ends[rows.start]), int(self.ends[rows.stop]))


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
