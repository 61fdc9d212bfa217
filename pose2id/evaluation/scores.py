"""Scores: mAP, CMC and mINP of a matrix of distances, or of features without it; rankings of single queries."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import (
    BLOCK_ELEMENTS,
    ArrayT,
    check_finite,
    check_same_kind,
    elements_at_once,
    take_array,
    take_features,
)
from pose2id.distances import full_precision
from pose2id.evaluation.counting import RankCounter, Ranks
from pose2id.evaluation.protocols import METRICS, Protocol
from pose2id.evaluation.relevance import Matches, Relevance
from pose2id.evaluation.tiles import (
    NARROW,
    DistinctTiles,
    FeatureTiles,
    GridTiles,
    MatrixTiles,
    Tiles,
    exact_in_float64,
)
from pose2id.progress import tqdm
from pose2id.tables import format_text
from pose2id.threads import fit_threads, map_in_threads
from pose2id.validation import check_choice, check_count, check_flag

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.evaluation.masks import Ignore, MoreLabels, Table
    from pose2id.validation import Labels


@dataclass(frozen=True, eq=False)
class TieSpan:
    """What scores could be if items at exactly equal distance stood in another order: lowest and highest.

    Attributes
    ----------
    mAP : (float, float)
        With all wrong items before the right ones at equal distance, and all after.
    cmc : (2, R) float64 array, or None
        Likewise; None where the protocol counts identities or draws galleries.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import evaluate
    >>> scores = evaluate(np.array([[0.5, 0.5]]), [1], [1, 2])  # which of the two comes first?
    >>> scores.mAP, scores.span.mAP, scores.span.rank(1)
    (1.0, (0.5, 1.0), (0.0, 1.0))
    """

    mAP: tuple[float, float]
    cmc: npt.NDArray[np.float64] | None = None

    def rank(self, k: int) -> tuple[float, float]:
        """Lowest and highest share of valid queries with a match among their first k."""
        if self.cmc is None:
            raise ValueError("the span of ranks is not known where a protocol counts identities or draws galleries")
        low, high = self.cmc[:, min(check_count(k, "k", 1), self.cmc.shape[1]) - 1]
        return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Scores:
    """What `evaluate` found; fractions, not percent.

    Attributes
    ----------
    mAP : float
        Mean average precision over the valid queries.
    mINP : float
        Mean inverse negative penalty: matches / rank of the last match (Ye et al., TPAMI 2021).
    cmc : (R,) float64 array
        cmc[k - 1] is the share of valid queries with a match among their first k items (identities, if the protocol
        counts these); R is the longest list.
    valid_queries : int
        Queries with at least one match left after junk removal; the others are skipped.
    tied_rank1 : int
        Valid queries where a right and a wrong item share the smallest distance exactly, so that only the order of
        the gallery decides rank-1; *tied R1* in tables.
    average_precision : (Q,) float64 array
        That of every query, in their order; NaN for skipped ones.
    span : TieSpan or None
        What other orders of exactly equal distances would give, such as those of programs whose sorting is not stable.
        None where a protocol draws galleries of one item an identity.

    Notes
    -----
    Where a protocol draws galleries, `cmc` is the mean over them, `valid_queries` and `tied_rank1` are those of one of
    them, the mean rounded up.
    """

    HEAD: ClassVar = ("mAP", "mINP", "R1", "R5", "R10", "queries", "tied R1")
    WIDTHS: ClassVar = (6, 6, 6, 6, 6, 7, 7)  # those of 100.00, so that what is printed one after the other lines up
    mAP: float
    mINP: float
    cmc: npt.NDArray[np.float64]
    valid_queries: int
    tied_rank1: int
    average_precision: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    span: TieSpan | None = None

    def rank(self, k: int) -> float:
        """Share of valid queries with a match among their first k, k >= 1; past the longest list, its end."""
        return float(self.cmc[min(check_count(k, "k", 1), len(self.cmc)) - 1])

    def cells(self) -> tuple[object, ...]:
        """What stands under `HEAD` in a table, fractions in percent."""
        fractions = (self.mAP, self.mINP, self.rank(1), self.rank(5), self.rank(10))
        return (*(f"{100 * value:.2f}" for value in fractions), self.valid_queries, self.tied_rank1)

    def __str__(self) -> str:
        return format_text(self.HEAD, [self.cells()], align=">", widths=self.WIDTHS)


class Ranking(NamedTuple):
    """The list of one query.

    `rows` (L,): the gallery rows, nearest first, without junk. `right` (L,): which of them show the query's identity.
    `average_precision`: NaN without a right one.
    """

    rows: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    average_precision: float


@fit_threads
def evaluate(
    distances: Array,
    query_ids: Labels,
    gallery_ids: Labels | None = None,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
    kept: Table | None = None,
) -> Scores:
    """Score a matrix of distances.

    Parameters
    ----------
    distances : (Q, G) numpy array or torch tensor
        Any real scores, smaller is nearer; negative ones are fine, and inf is farthest. Integers are compared as they
        are, also those that float64 would round.
    query_ids, gallery_ids : (Q,) and (G,) integers or strings
        Identities. -1 (or "-1") in the gallery is junk; a query labelled -1 is not scored; 0 is an ordinary label.
        Without `gallery_ids` the matrix is that of one set, (N, N): each row is a query, and never finds itself.
    query_cams, gallery_cams : (Q,) and (G,) integers or strings, optional
        Cameras, both or neither; without them nothing is removed for its camera. Of one set `query_cams` alone.
    protocol : {"market1501", "all", "sysu-mm01", "cuhk03", "vehicleid"} or Protocol
        "market1501": gallery items of the query's identity *and* camera are removed. "all": no camera rule.
        "sysu-mm01": a query of camera 3 skips all items of camera 2, and CMC counts identities, not items; cameras
        must be 1 to 6 (or "1" to "6"). "cuhk03": single-gallery-shot CMC; items of the query's camera are removed.
        "vehicleid": the mean over galleries of one random item of each identity.
    ignore : (Q, G) bools, or a function, optional
        What is left out of each query's list beside that, as if it were not in the gallery: a numpy array, a torch
        tensor or a scipy sparse array, True where an item is left out. Or a function of a query's labels and those of
        the gallery, ``ignore(query, gallery)``, which gives (G,) bools. Both are mappings with the names "ids", "cams",
        where there are some, "rows", from 0, and those of `labels`; the values are the labels of the one query, and
        arrays (G,). It is called for one query after the other, by several threads.
    labels : mapping of str to ((Q,), (G,)) pairs of integers or strings, optional
        More labels for a function as `ignore`, such as clothes or tracklets; of one set (N,) labels instead of a pair.
    kept : (Q, G) bools, optional
        What a search looks at for each query, such as what `pose2id.attributes.attribute_filter` leaves: a numpy array,
        a torch tensor or a scipy sparse array, True where an item stays. Ranks are those among what stays. A wrong item
        that was dropped is gone; a right one is *missed*: it counts among those to be found, and is never found. So a
        query whose right items were all dropped is valid, and its scores are 0. Not for protocols that draw galleries.

    Returns
    -------
    Scores
        Exactly equal distances stand in the order of the gallery.

    Raises
    ------
    TypeError, ValueError
        For NaN or -inf (rows are named), wrong shapes or labels, cameras on one side only or unknown to the protocol,
        an unknown protocol, or when no query has a match.

    References
    ----------
    Zheng et al., *Scalable Person Re-identification: A Benchmark*, ICCV 2015. Its original code averages
    neighbouring precisions; this is the plain average precision of the usual toolkits. "cuhk03": Li et al., *DeepReID:
    Deep Filter Pairing Neural Network for Person Re-Identification*, CVPR 2014, and the evaluation of open-reid and
    torchreid. "vehicleid": Liu et al., *Deep Relative Distance Learning*, CVPR 2016. The page *Protocols* has the rest.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import evaluate
    >>> distances = np.array([[0.1, 0.2, 0.3]])
    >>> scores = evaluate(distances, query_ids=[7], gallery_ids=[5, 7, 7])
    >>> round(scores.mAP, 4), scores.rank(1), scores.rank(2)
    (0.5833, 0.0, 1.0)

    Right answers in the query's clothes left out:

    >>> def same_clothes(query, gallery):
    ...     return (gallery["ids"] == query["ids"]) & (gallery["clothes"] == query["clothes"])
    >>> clothes = {"clothes": (["red"], ["red", "red", "blue"])}
    >>> evaluate(distances, [7], [5, 7, 7], ignore=same_clothes, labels=clothes).mAP
    0.5
    """
    of_labels = (query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels, kept)
    values, relevance, infinite = _take(distances, of_labels)
    return score_tiles(relevance, MatrixTiles(values, infinite=infinite))


@fit_threads
def evaluate_features(
    query: ArrayT,
    gallery: ArrayT | None,
    query_ids: Labels,
    gallery_ids: Labels | None = None,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
    kept: Table | None = None,
    metric: str = "euclidean",
    progress: bool = False,
) -> Scores:
    """Score features, without ever holding the (Q, G) matrix.

    Parameters
    ----------
    query : (Q, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; not normalised here.
    gallery : (G, D) array of the same container and device, or None
        None: `query` is the gallery too, each row is a query, and never finds itself (leave-one-out). Then there are
        no `gallery_ids` and `gallery_cams`. The same array given twice is two sets: each row finds its twin.
    query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels, kept
        As for `evaluate`. With a sparse `kept` distances are computed only for groups of similar queries and what stays
        for some of each, where that is a small part of the gallery: the fewer stay, the quicker.
    metric : {"euclidean", "cosine"}
        "cosine" ranks by 1 - cosine; a row of zeros has cosine 0 with everything.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Scores
        Those of `evaluate` on the matrix of float64 distances, rounded to float32 unless the features are float64.
        A tie is a tie of these values: identical gallery rows are always tied.

    Raises
    ------
    TypeError, ValueError
        As `evaluate`; also for different D, container or device, and for an unknown metric.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import evaluate_features
    >>> query, gallery = np.eye(2, dtype=np.float32), np.eye(3, 2, dtype=np.float32)
    >>> evaluate_features(query, gallery, query_ids=["a", "b"], gallery_ids=["a", "b", "c"]).mAP
    1.0
    >>> evaluate_features(gallery, None, ["a", "a", "b"]).mAP
    0.5
    """
    check_choice(metric, "metric", METRICS)
    check_flag(progress, "progress")
    check_gallery(gallery, gallery_ids)
    queries, kind = take_features(query, "query", "(Q, D)")
    items = queries
    if gallery is not None:
        items, other = take_features(gallery, "gallery", "(G, D)")
        check_same_kind(kind, other, ("query", "gallery"))
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"query and gallery must have equal D, received {tuple(queries.shape)} and {tuple(items.shape)}"
        )
    size = len(queries), len(items)
    relevance = Relevance(size, query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels, kept)
    with full_precision(items.device):
        tiles = FeatureTiles(queries, items, metric)
        exact, order = DistinctTiles.of(tiles) or GridTiles.of(tiles), None
        if relevance.kept is not None and exact is None and items.device.type == "cpu":
            order = relevance.kept.order(NARROW)
        if order is None or relevance.kept is None:
            return score_tiles(relevance, exact or tiles, progress=progress)
        kept_there = relevance.kept.reorder(order)
        relevance, tiles = relevance.narrow(order, kept_there), tiles.narrow(order, kept_there)
        scores = score_tiles(relevance, tiles, progress=progress)
    precision = np.empty_like(scores.average_precision)
    precision[order] = scores.average_precision
    return replace(scores, average_precision=precision)


def rank_gallery(
    distances: Array,
    query_ids: Labels,
    gallery_ids: Labels | None = None,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    queries: Sequence[int],
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
) -> list[Ranking]:
    """The rankings of a few queries, as `evaluate` scores them; nothing is drawn.

    Parameters
    ----------
    distances : (Q, G) numpy array or torch tensor
        As for `evaluate`.
    query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels
        As for `evaluate`.
    queries : sequence of int
        Rows of the distances, from 0.

    Returns
    -------
    list of Ranking
        One for each of `queries`, in their order; exactly equal distances stand in the order of the gallery.

    Raises
    ------
    TypeError, ValueError
        As `evaluate`, but queries need no match; also for a row that is not there.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.evaluation import rank_gallery
    >>> (ranking,) = rank_gallery(np.array([[0.3, 0.1, 0.2]]), [7], [7, 7, -1], queries=[0])
    >>> ranking.rows.tolist(), ranking.right.tolist(), ranking.average_precision
    ([1, 0], [True, True], 1.0)
    """
    of_labels = (query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels)
    values, relevance, _ = _take(distances, of_labels)
    rankings = []
    for query in queries:
        if check_count(query, "queries", 0) >= len(values):
            raise ValueError(f"queries must be rows 0 to {len(values) - 1}, received {query}")
        # float64 keeps order and ties of every narrower dtype; numpy has no bfloat16.
        order = np.argsort(values[query].double().cpu().numpy(), kind="stable")
        rows = order[relevance.left(query)[order]]
        right = relevance.right(query, rows)
        ranks = np.flatnonzero(right)[None] + 1
        rankings.append(Ranking(rows, right, float(_average_precision(ranks, *2 * [np.array([ranks.size])])[0])))
    return rankings


def _take(distances: Array, of_labels: tuple[Any, ...]) -> tuple[torch.Tensor, Relevance, bool]:
    """A matrix of real scores (Q, G), what its labels say, and whether some scores are inf."""
    values, _ = take_array(distances, "distances")
    if values.ndim != 2:
        raise ValueError(f"distances must have shape (Q, G), received {tuple(values.shape)}")
    relevance = Relevance((len(values), values.shape[1]), *of_labels)
    infinite = check_finite(values, "distances", infinity=True)
    return exact_in_float64(values, infinite=infinite), relevance, infinite


def check_gallery(gallery: object, gallery_ids: object) -> None:
    """Raise unless a gallery has identities, and one set against itself no second ones."""
    if gallery is None and gallery_ids is not None:
        raise ValueError("gallery_ids must be left out where gallery is None: query_ids are those of the one set")
    if gallery is not None and gallery_ids is None:
        raise TypeError(
            "gallery_ids must be given with a gallery, received None; gallery=None scores one set by itself"
        )


def score_tiles(relevance: Relevance, tiles: Tiles, *, progress: bool = False) -> Scores:
    """Walk the queries in blocks, count the ranks of their matches, and add up."""
    total, counter = len(relevance.query_ids), RankCounter(relevance, tiles)
    # A block needs tables of rows x matches: few rows where queries have thousands of matches.
    elements = 4 * elements_at_once(tiles.device, BLOCK_ELEMENTS)
    most = math.isqrt(elements // max(1, int(relevance.same.sum()) // max(1, total)))
    height = max(1, min(tiles.height, most))
    blocks = [slice(start, min(start + height, total)) for start in range(0, total, height)]

    def count(block: slice) -> tuple[slice, Matches, Ranks | None]:
        matches = relevance.matches(block)
        return block, matches, counter.count(block, matches) if len(matches.row) else None

    precision, lists = np.full(total, np.nan), max(1, relevance.protocol.repetitions)
    ends, first_ends = np.full((2, total), np.nan), [np.empty((2, 0), np.int64)]
    negative_penalty, first, longest, tied, missed = [np.empty(0)], [np.empty(0, np.int64)], 1, 0, 0
    counted = map_in_threads(count, blocks, tiles.device)
    with tqdm(total=total, desc="evaluating", unit="query", disable=not progress) as bar, contextlib.closing(counted):
        for block, matches, ranks in counted:
            found, number = matches.per_query > 0, matches.relevant
            valid = number > 0
            lost = int((valid & ~found).sum())  # what they ask for was dropped, all of it
            missed += lost
            negative_penalty.append(np.zeros(lost))
            precision[block][valid] = ends[:, block][:, valid] = 0
            longest = max(longest, int(matches.listed[valid].max(initial=0)))
            if ranks is not None:
                best = ranks.first[found]
                first.append(best[best > 0])
                if relevance.protocol.drawn_gallery:  # each list has one right item
                    precision[block][found] = _mean_inverse(best)
                    negative_penalty.append(1 / first[-1])
                else:
                    precision[block] = ends[:, block] = _average_precision(ranks.items, matches.per_query, number)
                    row = ranks.open_rows
                    of_rows = matches.per_query[row], number[row]
                    ends[:, block.start + row] = [_average_precision(end, *of_rows) for end in ranks.ends]
                    both = np.stack([ranks.items[:, 0]] * 2)
                    both[:, row] = ranks.ends[:, :, 0]
                    first_ends.append(both[:, found])
                    held = matches.per_query[found]
                    last = np.take_along_axis(ranks.items[found], held[:, None] - 1, axis=1)[:, 0]
                    negative_penalty.append(np.where(held == number[found], held / last, 0))
                tied += ranks.tied
            bar.update(block.stop - block.start)
    best = np.concatenate(first)
    asked = len(best) + missed
    if not asked:
        known = bool((relevance.same[~relevance.query_junk] > 0).any())
        reason = "check ids, cameras and protocol"
        if known and relevance.cams is not None:
            reason = "those of its own camera are left out: if there is one camera only, leave the cams away"
        raise ValueError(
            f"at least one query must have a match in the gallery after junk removal, received {total} "
            f"queries and {len(relevance.gallery_ids)} gallery items without any; {reason}"
        )
    mINP = float(np.concatenate(negative_penalty).mean())
    return Scores(
        mAP=mINP if relevance.protocol.drawn_gallery else float(np.nanmean(precision)),
        mINP=mINP,
        cmc=np.bincount(best - 1, minlength=longest).cumsum() / asked,
        valid_queries=math.ceil(asked / lists),
        tied_rank1=math.ceil(tied / lists),
        average_precision=precision,
        span=None
        if relevance.protocol.drawn_gallery
        else _span(ends, np.concatenate(first_ends, axis=1), missed, longest, relevance),
    )


def _span(
    precision: npt.NDArray[np.float64],
    first: npt.NDArray[np.int64],
    missed: int,
    longest: int,
    relevance: Relevance,
) -> TieSpan:
    """The span, of average precisions (2, Q) and first ranks (2, valid queries), right items first, and last.

    So many more queries `missed` all of theirs.
    """
    high, low = (float(value) for value in np.nanmean(precision, axis=1))
    if relevance.protocol.cmc_over_identities or relevance.protocol.repetitions:
        return TieSpan((low, high))
    asked = first.shape[1] + missed
    curves = [np.bincount(ranks - 1, minlength=longest).cumsum() / asked for ranks in first[::-1]]
    return TieSpan((low, high), np.stack(curves))


def _average_precision(
    ranks: npt.NDArray[np.int64], matches: npt.NDArray[np.int64], relevant: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """The mean of (matches so far / rank) over all `relevant` items (b,), NaN without any; what is no match adds 0.

    `ranks` (b, m) are those of the first, second, ... match, of which `matches` (b,) are real.
    """
    nth = np.arange(1, ranks.shape[1] + 1)
    total = np.where(nth <= matches[:, None], nth / ranks, 0).sum(axis=1)
    result = np.full(len(matches), np.nan)
    np.divide(total, relevant, out=result, where=relevant > 0)
    return result


def _mean_inverse(ranks: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The mean of 1 / rank over the lists of each query, (b,); 0 stands for no list, NaN for none at all."""
    number = np.count_nonzero(ranks, axis=1)
    total = np.divide(1, ranks, out=np.zeros(ranks.shape), where=ranks > 0).sum(axis=1)
    result = np.full(len(ranks), np.nan)
    np.divide(total, number, out=result, where=number > 0)
    return result
