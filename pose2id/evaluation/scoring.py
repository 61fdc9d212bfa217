"""`evaluate` and `evaluate_features`: the scores of a matrix of distances, or of features without that matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tqdm import tqdm

from pose2id.arrays import ArrayT, check_finite, check_same_kind, take_features
from pose2id.distances import full_precision
from pose2id.evaluation.counting import RankCounter
from pose2id.evaluation.protocols import METRICS, Protocol
from pose2id.evaluation.relevance import Relevance
from pose2id.evaluation.scores import Scores, Tally
from pose2id.evaluation.tiles import FEATURE_TILES, MatrixTiles, Tiles, take_distances
from pose2id.validation import check_choice, check_flag

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels


def evaluate(
    distances: Array,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    protocol: str | Protocol = "market1501",
) -> Scores:
    """Score a matrix of distances.

    Parameters
    ----------
    distances : (Q, G) numpy array or torch tensor
        Any finite real scores, smaller is nearer; negative ones are fine.
    query_ids, gallery_ids : (Q,) and (G,) integers or strings
        Identities. -1 (or "-1") in the gallery is junk; a query labelled -1 is not scored; 0 is an ordinary label.
    query_cams, gallery_cams : (Q,) and (G,) integers or strings, optional
        Cameras, both or neither; without them nothing is removed for its camera.
    protocol : {"market1501", "all", "sysu-mm01"} or Protocol
        "market1501": gallery items of the query's identity *and* camera are removed. "all": no camera rule.
        "sysu-mm01": a query of camera 3 skips all items of camera 2, and CMC counts identities, not items.

    Returns
    -------
    Scores
        Exactly equal distances stand in the order of the gallery.

    Raises
    ------
    TypeError, ValueError
        For NaN or inf (rows are named), wrong shapes or labels, cameras on one side only, an unknown protocol, or
        when no query has a match.

    References
    ----------
    Zheng et al., *Scalable Person Re-identification: A Benchmark*, ICCV 2015. Its original code averages
    neighbouring precisions; this is the plain average precision of the usual toolkits.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import evaluate
    >>> distances = np.array([[0.1, 0.2, 0.3]])
    >>> scores = evaluate(distances, query_ids=[7], gallery_ids=[5, 7, 7])
    >>> round(scores.mAP, 4), scores.rank(1), scores.rank(2)
    (0.5833, 0.0, 1.0)
    """
    values = take_distances(distances)
    relevance = Relevance((len(values), values.shape[1]), query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    check_finite(values, "distances")
    return _score(relevance, MatrixTiles(values))


def evaluate_features(
    query: ArrayT,
    gallery: ArrayT,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    protocol: str | Protocol = "market1501",
    metric: str = "euclidean",
    progress: bool = False,
) -> Scores:
    """Score features, without ever holding the (Q, G) matrix.

    Parameters
    ----------
    query : (Q, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; not normalised here.
    gallery : (G, D) array of the same container and device
    query_ids, gallery_ids, query_cams, gallery_cams, protocol
        As for `evaluate`.
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
    """
    check_choice(metric, "metric", METRICS)
    check_flag(progress, "progress")
    queries, kind = take_features(query, "query", "(Q, D)")
    items, other = take_features(gallery, "gallery", "(G, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"query and gallery must have equal D, received {tuple(queries.shape)} and {tuple(items.shape)}"
        )
    size = len(queries), len(items)
    relevance = Relevance(size, query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    with full_precision(items.device):
        return _score(relevance, FEATURE_TILES[metric](queries, items), progress=progress)


def _score(relevance: Relevance, tiles: Tiles, *, progress: bool = False) -> Scores:
    """Walk the queries in blocks, count the ranks of their matches, and add up."""
    total = len(relevance.query_ids)
    counter, tally = RankCounter(relevance, tiles), Tally(total)
    with tqdm(total=total, desc="evaluating", unit="query", disable=not progress) as bar:
        for block in relevance.blocks(tiles.height):
            matches = relevance.matches(block)
            if len(matches.row):
                tally.add(block, matches, counter.count(block, matches))
            bar.update(block.stop - block.start)
    if not tally.queries:
        raise ValueError(
            f"at least one query must have a match in the gallery after junk removal, received {total} "
            f"queries and {len(relevance.gallery_ids)} gallery items without any; check ids, cameras and protocol"
        )
    return tally.scores()
