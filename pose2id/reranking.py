"""Re-ranking by k-reciprocal encoding (Zhong et al., CVPR 2017), from sparse rows, never an N x N array.

Query and gallery form one set of n = Q + G rows. D is the squared Euclidean distance of the features as given, each
row divided by its own largest entry. The steps, in the paper's notation:

1. N(i, k): row i itself and its k nearest others.
2. R(i, k): those j of N(i, k) that hold i in N(j, k), the k-reciprocal neighbours.
3. R*(i): R(i, k1), joined with R(j, k1 / 2) for every j in it that shares more than 2/3 of its members with R(i, k1).
4. V_i: exp(-D_ij) over R*(i), scaled to sum 1: about 16 entries of n, so a sparse row.
5. Local query expansion: V_i becomes the mean of V over the first k2 members of N(i, k1).
6. Jaccard distance J_qg = 1 - s / (2 - s), s = sum of min(V_q, V_g), through an inverted index of the gallery.
7. (1 - lambda) J + lambda D.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pose2id.arrays import (
    BLOCK_ELEMENTS,
    ArrayT,
    Kind,
    check_count,
    check_flag,
    check_number,
    check_same_kind,
    row_blocks,
    take_features,
    work_dtype,
)
from pose2id.distances import Frame, full_precision, pair_distances, squared_norms
from pose2id.neighbors import Neighbors, check_engine, find_farthest, find_neighbors

if TYPE_CHECKING:
    import torch
    from scipy import sparse


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
    engine : {"auto", "exact", "faiss"}
        Who searches neighbours; see `pose2id.neighbors`.
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
    import torch

    (queries, items), kind, (k1, k2, share) = _take(query, gallery, k1, k2, lambda_value, engine, progress)
    dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
    result = torch.empty(len(queries), len(items), dtype=dtype, device=queries.device)
    for block, distances in _blocks(queries, items, k1, k2, share, engine=engine, progress=progress):
        result[block] = distances
    return kind.give_back(result, dtype)  # type: ignore[no-any-return]


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
    import torch

    top = check_count(top, "top", 1)
    (queries, items), kind, (k1, k2, share) = _take(query, gallery, k1, k2, lambda_value, engine, progress)
    dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
    indices = torch.full((len(queries), top), -1, dtype=torch.int64, device=queries.device)
    values = torch.full((len(queries), top), torch.inf, dtype=dtype, device=queries.device)
    width = min(top, len(items))
    for block, distances in _blocks(queries, items, k1, k2, share, engine=engine, progress=progress):
        ordered, at = distances.sort(dim=1, stable=True)
        values[block, :width], indices[block, :width] = ordered[:, :width], at[:, :width]
    return Neighbors(kind.give_back(indices, torch.int64), kind.give_back(values, dtype))


def _take(
    query: Any, gallery: Any, k1: object, k2: object, lambda_value: object, engine: object, progress: object
) -> tuple[tuple[torch.Tensor, torch.Tensor], Kind, tuple[int, int, float]]:
    """Both sets, the kind of array to give back, and the checked numbers."""
    numbers = (
        check_count(k1, "k1", 1),
        check_count(k2, "k2", 1),
        check_number(lambda_value, "lambda_value", 0, 1),
    )
    check_engine(engine)
    check_flag(progress, "progress")
    queries, kind = take_features(query, "query", "(Q, D)")
    items, other = take_features(gallery, "gallery", "(G, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    if not len(queries) or not len(items) or queries.shape[1] != items.shape[1]:
        raise ValueError(
            "query and gallery must have at least one row each and equal D, "
            f"received {tuple(queries.shape)} and {tuple(items.shape)}"
        )
    return (queries, items), kind, numbers


def _blocks(
    queries: torch.Tensor, items: torch.Tensor, k1: int, k2: int, share: float, *, engine: str, progress: bool
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Steps 1 to 7; the result in blocks of query rows, (b, G)."""
    import torch
    from tqdm import tqdm

    dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
    n, first = len(queries) + len(items), len(queries)
    rows = torch.cat([queries.to(dtype), items.to(dtype)])
    near, _ = find_neighbors(rows, rows, min(max(k1, k2 - 1), max(1, n - 1)), engine=engine, progress=progress)
    near = torch.cat([torch.arange(n, device=rows.device)[:, None], near], dim=1)  # N(i, k), i first
    largest = find_farthest(rows, progress=progress)
    largest[largest == 0] = 1  # all rows identical: every distance is 0
    encoded = _encode(rows, near, k1, largest)
    if k2 > 1:
        encoded = _expand(encoded, near[:, :k2].cpu().numpy())

    weights = encoded[first:].tocsc()  # by column: which gallery rows hold a member, and how strongly
    holders = torch.from_numpy(weights.indices.astype(np.int64)).to(rows.device)
    strengths = torch.from_numpy(weights.data).to(rows.device, dtype)
    # Placed rows make the products safe from overflow and from a common offset; their distances are scaled only.
    frame = Frame(rows)
    placed = frame.tile(rows, dtype)
    norms = squared_norms(placed)
    norms, unit = norms.to(dtype), (largest * frame.scale).square().to(dtype)
    with full_precision(rows.device), tqdm(total=first, desc="re-ranking", unit="query", disable=not progress) as bar:
        # Up to 256 query rows: thinner products are slow, and the inverted index needs a dense block.
        for block in row_blocks(first, len(items), at_least=max(16, min(256, 2**23 // len(items)))):
            part = encoded[block]
            common = torch.zeros((block.stop - block.start) * len(items), dtype=dtype, device=rows.device)
            for pair in _pairs(part, weights.indptr):
                row, entry, own = (torch.from_numpy(array).to(rows.device) for array in pair)
                common.index_add_(0, row * len(items) + holders[entry], torch.minimum(own.to(dtype), strengths[entry]))
            common = common.view(-1, len(items))
            jaccard = 1 - common / (2 - common)
            squared = torch.addmm(norms[None, first:], placed[block], placed[first:].T, alpha=-2) + norms[block, None]
            original = squared.clamp_(min=0).div_(unit[block, None])
            yield block, original.mul_(share).add_(jaccard, alpha=1 - share)
            bar.update(block.stop - block.start)


def _encode(rows: torch.Tensor, near: torch.Tensor, k1: int, largest: torch.Tensor) -> sparse.csr_matrix:
    """Steps 2 to 4: V as a sparse (n, n) matrix. `near` holds N(i, k), `largest` each row's largest distance."""
    import torch
    from scipy import sparse

    half = round(k1 / 2)  # to even, as numpy.around in the usual script
    reciprocal = _reciprocal(near[:, : k1 + 1])  # R(i, k1), (n, k1 + 1), -1 elsewhere
    smaller = _reciprocal(near[:, : half + 1])  # R(j, k1 / 2)
    members = []
    for block in row_blocks(len(near), reciprocal.shape[1] * smaller.shape[1]):
        own = reciprocal[block]  # (b, k1 + 1)
        theirs = smaller[own.clamp(min=0)].masked_fill((own < 0)[:, :, None], -1)  # (b, k1 + 1, half + 1)
        ordered = own.sort(dim=1).values
        at = torch.searchsorted(ordered, theirs.flatten(1)).clamp(max=ordered.shape[1] - 1).view(theirs.shape)
        shared = (ordered.gather(1, at.flatten(1)).view(theirs.shape) == theirs) & (theirs >= 0)
        joins = 3 * shared.sum(dim=2) > 2 * (theirs >= 0).sum(dim=2)  # more than 2/3 of R(j, k1 / 2) lies in R(i, k1)
        theirs = theirs.masked_fill(~joins[:, :, None], -1)
        together = torch.cat([own, theirs.flatten(1)], dim=1).sort(dim=1).values
        fresh = torch.ones_like(together, dtype=torch.bool)
        fresh[:, 1:] = together[:, 1:] != together[:, :-1]
        row, slot = (fresh & (together >= 0)).nonzero(as_tuple=True)
        members.append(torch.stack([row + block.start, together[row, slot]]))
    row, column = torch.cat(members, dim=1)
    ratio = pair_distances(rows, rows, row, column, Frame(rows, centred=False).scale) / largest[row]
    weight = torch.exp(-ratio.square())
    total = torch.zeros(len(near), dtype=torch.float64, device=rows.device).index_add_(0, row, weight)
    weight = (weight / total[row]).to(rows.dtype)
    ends = torch.bincount(row, minlength=len(near)).cumsum(0).cpu().numpy()
    shape = (len(near), len(near))
    return sparse.csr_matrix((weight.cpu().numpy(), column.cpu().numpy(), np.concatenate([[0], ends])), shape=shape)


def _reciprocal(near: torch.Tensor) -> torch.Tensor:
    """Of N(i, k) those that hold i in turn, -1 in place of the others."""
    import torch

    kept = torch.empty_like(near)
    for block in row_blocks(len(near), near.shape[1] ** 2):
        own = torch.arange(block.start, block.stop, device=near.device)[:, None, None]
        mutual = (near[near[block].clamp(min=0)] == own).any(dim=2) & (near[block] >= 0)
        kept[block] = torch.where(mutual, near[block], -1)
    return kept


def _expand(encoded: sparse.csr_matrix, near: np.ndarray[Any, np.dtype[np.int64]]) -> sparse.csr_matrix:
    """Step 5: the mean of V over the first k2 members of each row, as a sparse product."""
    from scipy import sparse

    row, slot = (near >= 0).nonzero()
    counts = (near >= 0).sum(axis=1)
    mean = sparse.csr_matrix(((1 / counts[row]).astype(encoded.dtype), (row, near[row, slot])), shape=encoded.shape)
    expanded: sparse.csr_matrix = mean @ encoded
    return expanded


def _pairs(part: sparse.csr_matrix, starts: np.ndarray[Any, Any]) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Meetings of query rows `part` with all gallery rows that hold the same member, in bounded batches.

    Each is the query row, the position in the inverted index, and the query's weight.
    """
    row = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr))
    counts = (starts[part.indices + 1] - starts[part.indices]).astype(np.int64)
    ends = counts.cumsum()
    cuts = np.searchsorted(ends, np.arange(BLOCK_ELEMENTS, int(ends[-1]) if len(ends) else 0, BLOCK_ELEMENTS))
    for entries in np.split(np.arange(len(row)), cuts):
        if not len(entries):
            continue
        meetings = np.repeat(entries, counts[entries])
        within = np.arange(len(meetings)) - np.repeat(counts[entries].cumsum() - counts[entries], counts[entries])
        yield row[meetings], starts[part.indices[meetings]].astype(np.int64) + within, part.data[meetings]
