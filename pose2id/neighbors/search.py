"""The searches that users and other rooms call: the nearest, the farthest, and whose nearest a new row would enter."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pose2id.arrays import ArrayT, take_features, work_dtype
from pose2id.distances import check_range
from pose2id.neighbors import _exact
from pose2id.neighbors._across import search_across
from pose2id.neighbors._native import search as _native
from pose2id.neighbors.contract import Neighbors, Search
from pose2id.neighbors.engines import ENGINES, Choice, check_engine, choose_engine, planned_native
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, encode_labels, take_labels

if TYPE_CHECKING:
    from pose2id.validation import Labels

logger = logging.getLogger("pose2id")


@fit_threads
def knn_graph(
    features: ArrayT,
    k: int,
    *,
    exclude: Labels | None = None,
    engine: str = "auto",
    recall_sample: int = 0,
    progress: bool = False,
) -> Neighbors[ArrayT]:
    """Find the k nearest other rows of every row.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; used as given, not normalised.
    k : int
        Neighbours per row, at least 1. Where there are fewer other rows, the rest is -1 and inf.
    exclude : (N,) integers or strings, optional
        Rows with equal labels are never neighbours (same camera, same frame, same tracklet).
    engine : {"auto", "exact", "native", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        See `pose2id.neighbors`. The first four give the same answer; the others are approximate, for large sets: they
        may miss neighbours, and what they report is at its real distance.
    recall_sample : int
        Measure the recall on so many rows, evenly spread over all: their true neighbours are searched by the engine
        "exact", and the share of them that the result holds becomes its `sampled_recall`. Ties count by distance. 0
        for none.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Neighbors
        `indices` (N, k) int64 and `distances` (N, k), Euclidean, not squared; float64 for float64 features, else
        float32; container and device as the input. For float64 features the order is that of the float64 distance,
        for narrower ones that of the float64 distance rounded to float32; ties go to the lower index.

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point features (N, D), an integer k >= 1 and N labels; and for features so
        large that the distance of a neighbour does not fit the dtype of the distances.
    MissingExtraError
        When the engine is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import knn_graph
    >>> graph = knn_graph(np.array([[0.0], [1.0], [3.0]], dtype=np.float32), k=1)
    >>> graph.indices.ravel().tolist(), graph.distances.ravel().tolist()
    ([1, 0, 1], [1.0, 1.0, 2.0])
    """
    k = check_count(k, "k", 1)
    check_engine(engine)
    recall_sample = check_count(recall_sample, "recall_sample", 0)
    check_flag(progress, "progress")
    rows, kind = take_features(features)
    labels = take_exclude(exclude, rows)
    indices, distances = find_neighbors(rows, rows, k, labels, labels, within=True, engine=engine, progress=progress)
    recall = _measure_recall(rows, labels, distances, recall_sample, progress=progress) if recall_sample else None
    return Neighbors(kind.give_back(indices, torch.int64), kind.give_back(distances, work_dtype(rows.dtype)), recall)


def _measure_recall(
    rows: torch.Tensor, labels: torch.Tensor | None, distances: torch.Tensor, count: int, *, progress: bool
) -> float:
    """The share of the true neighbours of `count` rows that were found, given all rows' reported distances.

    Reported distances are real, so a reported neighbour is a true one if it is no farther than the farthest true one.
    1.0 where there is nothing to find.
    """
    n, k = distances.shape
    at = torch.linspace(0, max(n - 1, 0), min(count, n), dtype=torch.float64, device=rows.device).round().long()
    own = None if labels is None else labels[at]
    # One more than asked for: as queries of another set, rows find themselves, unless k + 1 duplicates come first.
    near, true = find_neighbors(rows[at], rows, k + 1, own, labels, engine="exact", progress=progress)
    others = (near >= 0) & (near != at[:, None])
    counts = others.sum(dim=1).clamp(max=k)
    true = true.masked_fill(~others, torch.inf).sort(dim=1).values
    radius = true.gather(1, (counts - 1).clamp(min=0)[:, None])
    hits = (distances[at] <= radius).sum(dim=1).minimum(counts)
    return int(hits.sum()) / int(counts.sum()) if bool(counts.any()) else 1.0


def take_exclude(exclude: Any, rows: torch.Tensor) -> torch.Tensor | None:
    """`exclude` as integer codes on the device of `rows`."""
    if exclude is None:
        return None
    labels = take_labels(exclude, len(rows), "exclude")
    return torch.from_numpy(encode_labels([labels], ("exclude", "exclude"))[0]).to(rows.device)


@fit_threads
def find_neighbors(
    queries: torch.Tensor,
    base: torch.Tensor,
    k: int,
    query_labels: torch.Tensor | None = None,
    base_labels: torch.Tensor | None = None,
    *,
    within: bool = False,
    engine: str = "auto",
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k) of the k nearest rows of `base` for every row of `queries`, by the contract.

    `within` says that the queries are the rows of the base: then row i is not its own neighbour. Whether both names
    hold one tensor, a view or a copy does not matter.
    """
    if within and queries.shape != base.shape:
        raise ValueError(
            "within=True means that the queries are the rows of the base, "
            f"received {tuple(queries.shape)} and {tuple(base.shape)}; pass the same rows, or within=False"
        )
    check_engine(engine)
    if engine == "auto":
        choice = _choose(queries, base, k, within=within)
        engine = choice.engine
        if choice.hint and within:
            logger.warning(
                "engine 'auto' takes '%s' for %d rows; engine='%s' is much faster and misses a few neighbours; "
                "engine='%s' says this no more",
                *(engine, len(base), choice.hint, engine),
            )
    wanted = max(1, min(k, len(base)))  # a table of k columns is never built for fewer rows
    asked = Search(base if within else queries, base, wanted, query_labels, base_labels, within, progress)
    if within and base_labels is not None and bool((base_labels == base_labels[:1]).all()):
        indices, distances = asked.no_neighbors()  # some engines would look at every pair before they know
    else:
        indices, distances = ENGINES[engine].load()(asked)
    return _widen(indices, distances, k)


def _widen(indices: torch.Tensor, distances: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both with k columns: the further ones hold no neighbours. Refuses neighbours whose distance is inf, all ties."""
    check_range(distances.masked_fill(indices < 0, 0))
    if k > indices.shape[1]:
        indices = torch.nn.functional.pad(indices, (0, k - indices.shape[1]), value=-1)
        distances = torch.nn.functional.pad(distances, (0, k - distances.shape[1]), value=np.inf)
    return indices, distances


def _choose(queries: torch.Tensor, base: torch.Tensor, k: int, *, within: bool) -> Choice:
    """What "auto" takes for a search."""
    n, width = base.shape
    asks = None if within else len(queries)
    return choose_engine(n, base.device.type, width=width, k=max(1, min(k, n)), queries=asks)


@fit_threads
def find_across(
    left: torch.Tensor,
    right: torch.Tensor,
    k: int,
    left_labels: torch.Tensor | None = None,
    right_labels: torch.Tensor | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The k nearest rows of `right` for every row of `left`, and the other way round, as `find_neighbors` gives them.

    The engine "exact", which "auto" is here, finds both from the same products; another one searches twice.
    """
    check_engine(engine)
    if engine in ("auto", "exact"):
        engine, wanted = "exact", max(1, min(k, max(len(left), len(right))))
        found = search_across(Search(left, right, wanted, left_labels, right_labels, progress=progress))
        if found is not None:
            return _widen(*found[0], k), _widen(*found[1], k)
    return (
        find_neighbors(left, right, k, left_labels, right_labels, engine=engine, progress=progress),
        find_neighbors(right, left, k, right_labels, left_labels, engine=engine, progress=progress),
    )


class Entered(NamedTuple):
    """The neighbours of queries as `find_neighbors` gives them, and P pairs, sorted by row, then query."""

    indices: torch.Tensor  # (Q, k)
    distances: torch.Tensor  # (Q, k)
    queries: torch.Tensor  # (P,) int64
    rows: torch.Tensor  # (P,) int64: rows of the base whose k nearest the query enters
    lengths: torch.Tensor  # (P,): distances of query and row


@fit_threads
def find_entered(
    queries: torch.Tensor,
    base: torch.Tensor,
    k: int,
    radius: torch.Tensor,
    query_labels: torch.Tensor | None = None,
    base_labels: torch.Tensor | None = None,
    *,
    within: torch.Tensor | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> Entered:
    """The k nearest rows of `base` for every query, and of which rows of the base it would enter the k nearest.

    Of the nearest only those are given that are at most `within` (Q,) away, everywhere without: what k others, found
    elsewhere, are no farther than.

    `radius` (N,) is the distance of each base row to its present k-th neighbour, inf where it has fewer. Pairs at most
    that far apart are reported, all of them, whatever the engine: by the contract's rounded distance, so that a query
    that ties with the k-th neighbour is reported too. Who wins a tie, the caller decides by index.
    """
    if radius.shape != base.shape[:1]:
        raise ValueError(
            f"radius must have one entry for each of the {len(base)} rows of the base, received {tuple(radius.shape)}"
        )
    check_engine(engine)
    asked = Search(queries, base, k, query_labels, base_labels, progress=progress)
    if within is None:
        within = radius.new_full((len(queries),), torch.inf)
    # "auto" needs no estimate: `exact` finds both from the same products, another engine only one of them.
    if engine in ("auto", "exact"):
        indices, distances, pairs = _exact.search_entered(asked, radius, within)
    else:
        found = find_neighbors(queries, base, k, query_labels, base_labels, engine=engine, progress=progress)
        far = found[1] > within[:, None]
        indices, distances = found[0].masked_fill(far, -1), found[1].masked_fill(far, torch.inf)
        pairs = _exact.pairs_within(asked, radius)
    check_range(pairs[2])
    return Entered(*_widen(indices, distances, k), *pairs)


@fit_threads
def find_both_ends(
    rows: torch.Tensor, k: int, *, engine: str = "auto", progress: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k nearest other rows of every row, as `find_neighbors` gives them, and the distance to the farthest.

    That one is float64, (n,), Euclidean; 0 where all rows are identical.
    """
    # "auto" needs no estimate: `exact` and `native` find both ends from the same products, another only one of them.
    if engine in ("auto", "exact", "native") and k < len(rows):
        asked = Search(rows, rows, k, within=True, progress=progress)
        natively = engine == "native" or (engine == "auto" and _goes_natively(rows, k))
        near, distances, far = (_native if natively else _exact).search_both_ends(asked)
        near, distances = _widen(near, distances, k)
    else:
        near, distances = find_neighbors(rows, rows, k, within=True, engine=engine, progress=progress)
        far = _exact.farthest(rows, progress=progress)
    check_range(far)
    return near, distances, far


def _goes_natively(rows: torch.Tensor, k: int) -> bool:
    """Whether the engine `native` is for both ends of such a set."""
    n, width = rows.shape
    return rows.device.type == "cpu" and planned_native(n, n, width, k, within=True) is not None
