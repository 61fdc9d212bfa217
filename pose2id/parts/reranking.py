"""`rerank_parts`: k-reciprocal re-ranking by part distances, from sparse rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from pose2id.arrays import ArrayT
from pose2id.parts.distances import MISSING, DenseDistances
from pose2id.parts.pairs import Rule, measure_pairs
from pose2id.parts.search import Search, search
from pose2id.parts.sets import Parts, PartSet, check_part_engine, prepare, take_pair
from pose2id.reciprocal import SharedWeights, encode_neighbors, neighbors_needed
from pose2id.reranking import final_blocks
from pose2id.threads import fit_threads
from pose2id.validation import check_choice, check_count, check_flag, check_number

if TYPE_CHECKING:
    from pose2id.arrays import Array

BLOCK = 512


@fit_threads
def rerank_parts(
    query: ArrayT,
    gallery: ArrayT,
    query_visibility: Array | None = None,
    gallery_visibility: Array | None = None,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    missing: str = "inf",
    normalize: bool = True,
    engine: str = "auto",
    progress: bool = False,
) -> ArrayT:
    """Re-ranked distances of every query to every gallery item: `rerank` by the distance of common parts.

    Parameters
    ----------
    query, gallery, query_visibility, gallery_visibility, normalize
        As for `part_distances`; Q >= 1 and G >= 1. The distance is the mean of Euclidean part distances.
    k1, k2, lambda_value
        As for `rerank`.
    missing : {"inf", "release"}
        "inf": rows without a common part are never neighbours, and count as far as the farthest row that has one.
        Where a row has fewer neighbours than asked for, the row itself stands for the others in query expansion.
        "release", as the released BPBReID: they are as far as `part_distances` says, by one constant each for queries,
        for gallery items and between them, and become neighbours where there are no others; takes longer.
    engine : {"auto", "exact"}
        There is one engine for parts, and it finds all.
    progress : bool
        Show progress bars.

    Returns
    -------
    (Q, G) array of the container and device given
        Smaller is nearer; float64 for float64 parts, else float32.

    Raises
    ------
    TypeError, ValueError
        As `part_distances` and `rerank`.

    Notes
    -----
    The released BPBReID puts a row that shows nothing anywhere into its own list; here every row comes first there.

    References
    ----------
    Zhong et al., CVPR 2017; Somers et al., WACV 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import rerank_parts
    >>> query = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    >>> gallery = np.array([[[0.1, 1.0], [0.0, 9.0]], [[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.1], [0.0, 1.0]]])
    >>> shown = np.array([[True, False], [True, True], [True, True]])
    >>> rerank_parts(query, gallery, None, shown, k1=1, k2=1).round(2).tolist()
    [[0.01, 1.0, 0.98]]
    """
    k1, k2 = check_count(k1, "k1", 1), check_count(k2, "k2", 1)
    share = check_number(lambda_value, "lambda_value", 0, 1)
    check_choice(missing, "missing", MISSING)
    check_part_engine(engine)
    for flag, name in ((normalize, "normalize"), (progress, "progress")):
        check_flag(flag, name)
    queries, items, kind = take_pair(query, gallery, query_visibility, gallery_visibility)
    if not len(queries.rows) or not len(items.rows):
        raise ValueError(
            "query and gallery must have at least one row each, "
            f"received {tuple(queries.rows.shape)} and {tuple(items.rows.shape)}"
        )
    rule = Rule()
    dense = DenseDistances(queries, items, rule, normalize=normalize)
    sets = [prepare(part, dense.dtype, normalize=normalize) for part in (queries, items)]
    rows = PartSet(*(torch.cat(part) for part in zip(*sets, strict=True)))
    del sets
    n, q, device = len(rows.rows), len(queries.rows), rows.rows.device
    k = neighbors_needed(k1, k2)
    found = search(Search(rows, rows, min(k, n - 1) or 1, within=True, rule=rule, progress=progress), farthest=True)
    near, distances, largest = found.indices, found.distances, found.farthest
    if largest is None:
        raise RuntimeError("the search must find the farthest rows too")
    constants = None
    if missing == "release":
        constants = _constants(queries, items, normalize=normalize)
        near, distances, largest = _release(rows, constants, q, near, distances, largest)
    largest = torch.where(largest == 0, 1.0, largest)  # all distances are 0

    def measure(row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        values = measure_pairs(rows, rows, row, column, found.scale, rule)
        far = largest[row] if constants is None else constants[(row >= q).long() + (column >= q).long()]
        return torch.where(values == torch.inf, far, values)

    def write(block: slice, columns: slice, out: torch.Tensor) -> None:
        tile = torch.empty(out.shape, dtype=torch.float64, device=device)
        dense.write(block, columns, tile)
        ratio = tile.div_(largest[block, None])
        far = torch.ones_like(largest[block, None]) if constants is None else constants[1] / largest[block, None]
        out.copy_(torch.where(ratio == torch.inf, far, ratio).square_().mul_(share))

    encoded = encode_neighbors(near, distances, largest, measure, k1, k2)
    jaccard = SharedWeights(encoded[:q], encoded[q:], device)
    result = torch.empty(q, n - q, dtype=dense.dtype, device=device)
    for _ in final_blocks(jaccard, write, share, result, progress=progress):
        pass
    return kind.give_back(result, dense.dtype)  # type: ignore[no-any-return]


def _constants(queries: Parts, items: Parts, *, normalize: bool) -> torch.Tensor:
    """What the release gives pairs without a common part: of two queries, of both kinds, of two items; (3,)."""
    values = []
    for left, right in ((queries, queries), (queries, items), (items, items)):
        dense = DenseDistances(left, right, Rule(), normalize=normalize, release=True)
        n, g = len(left.rows), len(right.rows)
        for start in range(0, n, BLOCK):
            block = slice(start, min(start + BLOCK, n))
            dense.write(
                block, slice(0, g), torch.empty(block.stop - start, g, dtype=torch.float64, device=left.rows.device)
            )
        values.append(dense.largest + 1)
    return torch.tensor(values, dtype=torch.float64, device=queries.rows.device)


def _release(
    rows: PartSet, constants: torch.Tensor, q: int, near: torch.Tensor, distances: torch.Tensor, largest: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neighbours, distances and largest distances where rows without a common part are so far, ties by index."""
    n, k = near.shape
    near, distances, largest = near.clone(), distances.clone(), largest.clone()
    shown = (rows.visibility > 0).double()
    for i in range(n):
        alone = (shown @ shown[i] == 0).nonzero().flatten()
        if not len(alone):
            continue
        values = constants[(alone >= q).long() + (i >= q)]
        largest[i] = torch.maximum(largest[i], values.max())
        others, apart = alone[alone != i], values[alone != i]
        order = apart.argsort(stable=True)
        have = int((near[i] >= 0).sum())
        taken = order[: k - have]
        near[i, have : have + len(taken)] = others[taken]
        distances[i, have : have + len(taken)] = apart[taken].to(distances.dtype)
    return near, distances, largest
