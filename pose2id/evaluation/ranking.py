"""Rankings to look at: the gallery rows in the order of one query, junk removed, right and wrong marked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from pose2id.arrays import check_finite
from pose2id.evaluation.relevance import Relevance
from pose2id.evaluation.scores import average_precision
from pose2id.evaluation.tiles import take_distances
from pose2id.validation import check_count

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.evaluation.protocols import Protocol
    from pose2id.validation import Labels


class Ranking(NamedTuple):
    """The list of one query.

    Attributes
    ----------
    rows : (L,) int64 array
        Gallery rows, nearest first, without junk.
    right : (L,) bool array
        Which of them show the query's identity.
    average_precision : float
        NaN without a right one.
    """

    rows: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    average_precision: float


def rank_gallery(
    distances: Array,
    query_ids: Labels,
    gallery_ids: Labels,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    queries: Sequence[int],
    protocol: str | Protocol = "market1501",
) -> list[Ranking]:
    """The rankings of a few queries, as `evaluate` scores them.

    Parameters
    ----------
    distances, query_ids, gallery_ids, query_cams, gallery_cams, protocol
        As for `evaluate`: of all queries, (Q, G) and (Q,).
    queries : sequence of int
        The rows to rank.

    Returns
    -------
    list of Ranking
        One for each of `queries`. Equal distances stand in the order of the gallery.

    Raises
    ------
    TypeError, ValueError
        As `evaluate`, except that queries need no match; for `queries` that are no rows.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.evaluation import rank_gallery
    >>> (ranking,) = rank_gallery(np.array([[0.3, 0.1, 0.2]]), [7], [7, 7, -1], queries=[0])
    >>> ranking.rows.tolist(), ranking.right.tolist(), ranking.average_precision
    ([1, 0], [True, True], 1.0)
    """
    values = take_distances(distances)
    relevance = Relevance((len(values), values.shape[1]), query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    check_finite(values, "distances")
    rankings = []
    for query in queries:
        if check_count(query, "queries", 0) >= len(values):
            raise ValueError(f"queries must be rows 0 to {len(values) - 1}, received {query}")
        # float64 keeps order and ties of every narrower dtype; numpy has no bfloat16.
        order = np.argsort(values[query].double().cpu().numpy(), kind="stable")
        rows = order[~relevance.junk(query, order)]
        right = relevance.right(query, rows)
        ranks = np.flatnonzero(right)[None] + 1
        rankings.append(Ranking(rows, right, float(average_precision(ranks, np.array([ranks.size]))[0])))
    return rankings
