"""`evaluate_parts`: mAP, CMC and mINP of part features, without the matrix of distances."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch

from pose2id.arrays import ArrayT, work_dtype
from pose2id.distances import full_precision
from pose2id.evaluation import Protocol, Scores
from pose2id.evaluation.relevance import Relevance
from pose2id.evaluation.scores import check_gallery, score_tiles
from pose2id.parts.distances import check_rule
from pose2id.parts.pairs import Rule, measure_pairs, pair_weights
from pose2id.parts.sets import PartSet, prepare, take_pair, take_parts
from pose2id.parts.tiles import Side, Tiles
from pose2id.threads import fit_threads
from pose2id.validation import check_flag

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.evaluation.masks import Ignore, MoreLabels, Table
    from pose2id.validation import Labels


@fit_threads
def evaluate_parts(
    query: ArrayT,
    gallery: ArrayT | None,
    query_ids: Labels,
    gallery_ids: Labels | None = None,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    query_visibility: Array | None = None,
    gallery_visibility: Array | None = None,
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
    kept: Table | None = None,
    reduce: str = "mean",
    metric: str = "euclidean",
    normalize: bool = True,
    progress: bool = False,
) -> Scores:
    """Score part features by the parts that both images show, without ever holding the (Q, G) matrix.

    Parameters
    ----------
    query, gallery, query_visibility, gallery_visibility, reduce, metric, normalize
        As for `part_distances`; `gallery` and its visibility may be None, as for `evaluate_features`.
    query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels, kept
        As for `evaluate`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Scores
        Those of `evaluate` on the matrix of float64 distances, rounded to float32 unless the parts are float64. Items
        without a common part come last, in the order of the gallery, as in the released BPBReID and KPR.

    Raises
    ------
    TypeError, ValueError
        As `part_distances` and `evaluate`.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import evaluate_parts
    >>> query = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> gallery = np.array([[[-1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]]])
    >>> evaluate_parts(query, gallery, [7], [5, 7], query_visibility=np.array([[True, False]])).mAP
    1.0
    """
    rule = check_rule(metric, reduce)
    for flag, name in ((normalize, "normalize"), (progress, "progress")):
        check_flag(flag, name)
    check_gallery(gallery, gallery_ids)
    if gallery is not None:
        queries, items, _ = take_pair(query, gallery, query_visibility, gallery_visibility)
    elif gallery_visibility is None:
        queries, _ = take_parts(query, query_visibility, ("query", "query_visibility"), "(Q, P, D)")
        items = queries
    else:
        raise ValueError(
            "gallery_visibility must be left out where gallery is None: query_visibility is that of the set"
        )
    size = len(queries.rows), len(items.rows)
    relevance = Relevance(size, query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels, kept)
    dtype = work_dtype(torch.promote_types(queries.rows.dtype, items.rows.dtype))
    sets = [prepare(part, dtype, normalize=normalize or metric == "cosine") for part in (queries, items)]
    with full_precision(items.rows.device):
        return score_tiles(relevance, PartTiles(sets[0], sets[1], rule), progress=progress)


class PartBound(NamedTuple):
    """How far distances from tiles may be off, in their own units: by `error` (b,) and by `relative` of themselves.

    `measure` gives the exact scores of pairs of a query and an item, (p,).
    """

    error: torch.Tensor
    relative: float
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def limits(self, scores: torch.Tensor, row: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Between what some scores, of these rows, lie: all others outside stand in the right order to them."""
        off = (2 * (self.error[row] + self.relative * scores.double())).to(scores.dtype)
        return scores - off, scores + off


class PartTiles:
    """Part features as tiles of distances; pairs without a common part get one that is larger than all others."""

    def __init__(self, queries: PartSet, items: PartSet, rule: Rule) -> None:
        self.queries, self.items, self.rule = queries, items, rule
        self.dtype, self.device = items.rows.dtype, items.rows.device
        self.height = max(16, min(1024, 2**23 // max(1, len(items.rows))))
        self._prepared: tuple[Tiles, Side] | None = None
        self._lock = threading.Lock()

    def tile(self, block: slice, product: torch.dtype) -> tuple[torch.Tensor, PartBound]:
        """The distances of a block of queries to all items, in units of a tile, from products in this dtype."""
        tiles, right = self._prepare(product)
        left = tiles.left(self.queries.pick(block))
        scores, weights = tiles.bounds(left, right)
        if weights is not None and self.rule.reduce == "mean":
            # Where both show hardly anything in common, roots that were raised matter.
            row, column = ((weights > 0) & (weights < tiles.floor**0.5)).nonzero(as_tuple=True)
            if len(row):
                scores[row, column] = self._measure(tiles, row + block.start, column).to(product)
        scores.masked_fill_(scores == torch.inf, _beyond(tiles))
        relative = (tiles.parts + 32) * tiles.eps + 2 * torch.finfo(self.dtype).eps
        return scores, PartBound(tiles.spread(left, right), relative, partial(self._measure, tiles))

    def _prepare(self, product: torch.dtype) -> tuple[Tiles, Side]:
        """What all tiles share; kept for the next one, whichever thread asks."""
        with self._lock:
            if self._prepared is None or self._prepared[0].dtype != product:
                self._prepared = None  # frees memory for the other dtype
                tiles = Tiles(self.queries, self.items, self.rule, product)
                self._prepared = tiles, tiles.right(self.items)
            return self._prepared

    def _measure(self, tiles: Tiles, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Distances in units of a tile, float64, of the value rounded to the working dtype."""
        values = torch.full((len(rows),), _beyond(tiles), dtype=torch.float64, device=self.device)
        at = (pair_weights(self.queries, self.items, rows, columns) > 0).any(dim=1).nonzero().flatten()
        found = measure_pairs(self.queries, self.items, rows[at], columns[at], tiles.frame.scale, self.rule)
        values[at] = found.to(self.dtype).double() * tiles.unit
        return values


def _beyond(tiles: Tiles) -> float:
    """Above every distance: in the frame entries are at most 1, so parts at most 2 sqrt(D) apart; cosines at most 2."""
    return 4.0 * math.sqrt(tiles.width) + 4.0
