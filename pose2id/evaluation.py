"""Scores of a ranking: mAP, CMC, mINP, under named protocols.

"mAP" is several metrics in this field; here a protocol is an object that says which gallery items are junk for a
query, and average precision is always the plain one, the mean over a query's matches of (matches so far / rank).

No list is sorted: the rank of a match is one more than the number of items that stand before it. Items at exactly
equal distance stand in the order of the gallery. That happens often after centralization, which makes the two members
of a mutual pair identical; `Scores.tied_rank1` counts where it decides rank-1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pose2id.arrays import (
    ArrayT,
    check_choice,
    check_count,
    check_finite,
    check_flag,
    check_same_kind,
    encode_labels,
    row_blocks,
    take_array,
    take_features,
    take_labels,
    work_dtype,
)
from pose2id.distances import Frame, pair_cosines, pair_distances, slack, squared_norms, unit

if TYPE_CHECKING:
    import torch

    from pose2id.arrays import Array, Labels

METRICS = ("euclidean", "cosine")


@dataclass(frozen=True)
class Protocol:
    """Which gallery items a query is not scored on.

    Attributes
    ----------
    name : str
        The name `evaluate` knows it by.
    summary : str
        One sentence for documentation and error messages.
    same_camera_is_junk : bool
        Items of the query's identity from the query's own camera are removed from its list.
    junk_label : int or None
        Gallery items with this identity (as an integer or as a string) are removed from every list; a query that
        carries it is not scored.
    """

    name: str
    summary: str
    same_camera_is_junk: bool
    junk_label: int | None = -1

    def junk(
        self,
        query_id: object,
        gallery_ids: npt.NDArray[Any],
        query_cam: object = None,
        gallery_cams: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[np.bool_]:
        """Mark what is removed from the list of one query, (G,) bool; without cameras nothing is for its camera."""
        junk = self.marked(gallery_ids)
        if self.same_camera_is_junk and gallery_cams is not None:
            junk |= (gallery_ids == query_id) & (gallery_cams == query_cam)
        return junk

    def marked(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mark which of `ids` carry the junk label."""
        if self.junk_label is None:
            return np.zeros(len(ids), bool)
        return np.asarray(ids == (str(self.junk_label) if ids.dtype.kind == "U" else self.junk_label))


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("market1501", "same identity and camera removed, gallery label -1 is junk, 0 is ordinary", True),
        Protocol("all", "no camera rule; gallery label -1 is junk, 0 is ordinary", False),
    )
}
"""The protocols by name. A further one is one line here."""


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
        cmc[k - 1] is the share of valid queries with a match among their first k; R is the longest list.
    valid_queries : int
        Queries with at least one match left after junk removal; the others are skipped.
    tied_rank1 : int
        Valid queries where a right and a wrong item share the smallest distance exactly, so that only the order of
        the gallery decides rank-1.
    average_precision : (Q,) float64 array
        That of every query, in their order; NaN for skipped ones.
    """

    mAP: float
    mINP: float
    cmc: npt.NDArray[np.float64]
    valid_queries: int
    tied_rank1: int
    average_precision: npt.NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def rank(self, k: int) -> float:
        """Share of valid queries with a match among their first k, k >= 1; past the longest list, its end."""
        return float(self.cmc[min(check_count(k, "k", 1), len(self.cmc)) - 1])

    def __str__(self) -> str:
        names = ["mAP", "mINP", "R1", "R5", "R10", "queries", "tied R1"]
        values = [f"{100 * v:.2f}" for v in (self.mAP, self.mINP, self.rank(1), self.rank(5), self.rank(10))]
        values += [str(self.valid_queries), str(self.tied_rank1)]
        widths = [max(len(name), len(value)) for name, value in zip(names, values, strict=True)]
        rows = ("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in (names, values))
        return "\n".join(rows)


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
    protocol : {"market1501", "all"} or Protocol
        "market1501": gallery items of the query's identity *and* camera are removed. "all": no camera rule.

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
    import torch

    values, kind = take_array(distances, "distances")
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"distances must hold real numbers, received dtype {kind.dtype}")
    if values.ndim != 2:
        raise ValueError(f"distances must have shape (Q, G), received {tuple(values.shape)}")
    labels = _take_sides(values.shape[0], values.shape[1], query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    check_finite(values, "distances")
    exact = torch.float32 if values.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float64

    def tile(block: slice) -> torch.Tensor:
        return values[block].to(exact)

    return _score(labels, tile, values.device)


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
    import torch
    from tqdm import tqdm

    check_choice(metric, "metric", METRICS)
    check_flag(progress, "progress")
    queries, kind = take_features(query, "query", "(Q, D)")
    items, other = take_features(gallery, "gallery", "(G, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    if queries.shape[1] != items.shape[1]:
        raise ValueError(
            f"query and gallery must have equal D, received {tuple(queries.shape)} and {tuple(items.shape)}"
        )
    labels = _take_sides(len(queries), len(items), query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
    width, double = items.shape[1], torch.float64
    frame = Frame(items, queries)

    def place(rows: torch.Tensor) -> torch.Tensor:
        return frame.tile(rows, double) if metric == "euclidean" else unit(rows.double())

    norms = torch.ones(len(items), dtype=double, device=items.device)  # cosine: for zero rows too, so they get 1
    if metric == "euclidean":
        for block in row_blocks(*items.shape):
            norms[block] = squared_norms(place(items[block]))
    largest = float(norms.max()) if len(norms) else 0.0
    bar = tqdm(total=len(queries), desc="evaluating", unit="query", disable=not progress)

    def tile(block: slice) -> torch.Tensor:
        # Squared distances less the query's own norm, or cosine distances times two less one: the order is the same.
        part = place(queries[block])
        scores = torch.empty(len(part), len(items), dtype=double, device=items.device)
        for columns in row_blocks(*items.shape):
            torch.addmm(norms[None, columns], part, place(items[columns]).T, alpha=-2, out=scores[:, columns])
        bar.update(len(part))
        return scores

    def error(block: slice) -> torch.Tensor | float:
        own = squared_norms(place(queries[block])) if metric == "euclidean" else 1.0
        # The product's, and how far rounding two distances to `dtype` may move their squares.
        return (slack(width, double) + 4 * torch.finfo(dtype).eps) * (own + largest) + torch.finfo(double).tiny

    def measure(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        pairs = pair_distances if metric == "euclidean" else pair_cosines
        return pairs(queries, items, rows, columns, frame.scale).to(dtype)

    with bar:
        return _score(labels, tile, items.device, error, measure)


@dataclass(frozen=True)
class _Sides:
    """Labels of both sides as integer codes (codes, cameras), junk marked, and the rule for cameras."""

    query: npt.NDArray[np.int64]
    gallery: npt.NDArray[np.int64]
    query_cams: npt.NDArray[np.int64] | None
    gallery_cams: npt.NDArray[np.int64] | None
    query_junk: npt.NDArray[np.bool_]
    gallery_junk: npt.NDArray[np.bool_]


def _take_sides(
    q: int,
    g: int,
    query_ids: Any,
    gallery_ids: Any,
    query_cams: Any,
    gallery_cams: Any,
    protocol: str | Protocol,
) -> _Sides:
    """Check all labels against the Q and G of the scores, and look the protocol up."""
    if not isinstance(protocol, Protocol):
        protocol = PROTOCOLS[check_choice(protocol, "protocol", tuple(PROTOCOLS))]
    ids = [take_labels(query_ids, q, "query_ids"), take_labels(gallery_ids, g, "gallery_ids")]
    if (query_cams is None) != (gallery_cams is None):
        given, missing = ("query_cams", "gallery_cams") if gallery_cams is None else ("gallery_cams", "query_cams")
        raise ValueError(f"query_cams and gallery_cams must be given together, received {given} without {missing}")
    cams: list[npt.NDArray[np.int64]] | list[None] = [None, None]
    if query_cams is not None:
        taken = [take_labels(query_cams, q, "query_cams"), take_labels(gallery_cams, g, "gallery_cams")]
        cams = encode_labels(taken, ("query_cams", "gallery_cams"))
    codes = encode_labels(ids, ("query_ids", "gallery_ids"))
    if not protocol.same_camera_is_junk:
        cams = [None, None]
    return _Sides(codes[0], codes[1], cams[0], cams[1], protocol.marked(ids[0]), protocol.marked(ids[1]))


def _score(
    sides: _Sides,
    tile: Callable[[slice], torch.Tensor],
    device: torch.device,
    error: Callable[[slice], torch.Tensor | float] | None = None,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Scores:
    """Walk the queries in blocks and add up.

    `tile` gives a block of scores (b, G). If they are inexact, `error` bounds them, per row or for all, and `measure`
    gives the exact values of pairs (query, gallery item): they are asked for only where a right and a wrong item are
    so close together that the bound leaves their order open.
    """
    import torch

    by_identity = np.argsort(sides.gallery, kind="stable")
    ordered = sides.gallery[by_identity]
    junk_columns = torch.from_numpy(np.flatnonzero(sides.gallery_junk)).to(device)
    clean = len(sides.gallery) - len(junk_columns)

    precisions = np.full(len(sides.query), np.nan)
    inps, firsts, lengths, tied = [], [], [], 0
    for block in row_blocks(len(sides.query), len(sides.gallery), at_least=32):
        start = np.searchsorted(ordered, sides.query[block], "left")
        count = np.searchsorted(ordered, sides.query[block], "right") - start
        count[sides.query_junk[block]] = 0
        row = np.repeat(np.arange(len(count)), count)
        column = by_identity[np.repeat(start, count) + _within(count)]  # all items of each query's identity
        junk = np.zeros(len(row), bool)
        if sides.query_cams is not None and sides.gallery_cams is not None:
            junk = sides.query_cams[block][row] == sides.gallery_cams[column]
        matches = np.bincount(row[~junk], minlength=len(count))
        if not matches.any():
            continue
        same = (torch.from_numpy(row).to(device), torch.from_numpy(column).to(device))
        right = same[0][torch.from_numpy(~junk).to(device)], same[1][torch.from_numpy(~junk).to(device)]
        scores = tile(block)
        near = scores[right]
        wrong = scores.clone(memory_format=torch.contiguous_format)  # with everything but wrong items out of the way
        wrong[same] = torch.inf
        wrong[:, junk_columns] = torch.inf
        window = 0.0 if error is None else 2 * error(block)
        before, ties = _count_before(wrong, near, right, window, measure, block.start)
        ahead = np.sort(_padded(before.cpu().numpy(), matches), axis=1)  # (b, most matches), padding last
        rank = ahead + np.arange(1, ahead.shape[1] + 1)  # of the first, second, ... match
        valid = matches > 0
        real = np.arange(ahead.shape[1]) < matches[:, None]
        precision = np.where(real, np.arange(1, ahead.shape[1] + 1) / rank, 0)
        precisions[block][valid] = precision.sum(axis=1)[valid] / matches[valid]
        inps.append(matches[valid] / np.take_along_axis(rank, np.maximum(matches - 1, 0)[:, None], 1)[valid, 0])
        firsts.append(rank[valid, 0])
        lengths.append((clean - np.bincount(row[junk], minlength=len(count)))[valid])
        tied += ties
    if not inps:
        raise ValueError(
            f"at least one query must have a match in the gallery after junk removal, received {len(sides.query)} "
            f"queries and {len(sides.gallery)} gallery items without any; check ids, cameras and protocol"
        )
    first = np.concatenate(firsts)
    hits = np.bincount(first - 1, minlength=int(np.concatenate(lengths).max()))
    return Scores(
        mAP=float(np.nanmean(precisions)),
        mINP=float(np.concatenate(inps).mean()),
        cmc=hits.cumsum() / len(first),
        valid_queries=len(first),
        tied_rank1=tied,
        average_precision=precisions,
    )


def _within(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """0, 1, ... counts[0] - 1, 0, 1, ... counts[1] - 1, ...: places within consecutive groups."""
    return np.arange(int(counts.sum())) - np.repeat(counts.cumsum() - counts, counts)


def _padded(values: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Values of consecutive groups as rows of one array, padded with a number above them all."""
    table = np.full((len(counts), int(counts.max())), 2**62)
    table[np.repeat(np.arange(len(counts)), counts), _within(counts)] = values
    return table


def _count_before(
    wrong: torch.Tensor,
    near: torch.Tensor,
    right: tuple[torch.Tensor, torch.Tensor],
    window: torch.Tensor | float,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    offset: int,
) -> tuple[torch.Tensor, int]:
    """How many wrong items stand before each match, and in how many rows a tie of the two decides rank-1.

    `wrong` (b, G) holds the scores of wrong items and inf elsewhere; `near` those of the matches `right` (row,
    column), rows ascending. Within `window` of a match the order is settled by `measure`, and by the order of the
    gallery where values are equal.
    """
    import torch

    row, column = right
    counts = torch.bincount(row, minlength=len(wrong))
    place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts)[row]
    matches = near.new_full((len(wrong), int(counts.max())), torch.inf)
    matches[row, place] = near
    matches, order = matches.sort(dim=1)
    width = (window[:, None] if isinstance(window, torch.Tensor) else window) if measure is not None else 0.0
    surely = _count_below(wrong, matches - width, strict=True)  # nearer than the match, whatever the error
    maybe = _count_below(wrong, matches + width, strict=False)  # not farther, whatever the error
    back = order.argsort(dim=1)[row, place]
    before, open_to = surely[row, back], maybe[row, back]

    doubtful = (open_to > before).nonzero().flatten()
    level = torch.zeros_like(before)  # wrong items at the match's own distance, where no wrong one is nearer
    for block in row_blocks(len(doubtful), wrong.shape[1]):
        at = doubtful[block]
        reach = window[row[at], None] if isinstance(window, torch.Tensor) else window
        match = near[at, None]
        entry, item = ((wrong[row[at]] >= match - reach) & (wrong[row[at]] <= match + reach)).nonzero(as_tuple=True)
        if measure is None:
            own, other = near[at], wrong[row[at][entry], item]
        else:
            own, other = measure(row[at] + offset, column[at]), measure(row[at][entry] + offset, item)
        nearer, equal = other < own[entry], other == own[entry]
        first = equal & (item < column[at][entry])
        ahead = torch.zeros_like(at).index_add_(0, entry, (nearer | first).long())
        strictly = before[at] + torch.zeros_like(at).index_add_(0, entry, nearer.long())
        level[at] = torch.zeros_like(at).index_add_(0, entry, equal.long()) * (strictly == 0)
        before[at] += ahead

    # Of those matches, a tie decides rank-1 for the ones that no other match of their query precedes.
    tied = torch.zeros(len(wrong), dtype=torch.bool, device=row.device)
    tied[row[level > 0]] = True
    at = tied[row].nonzero().flatten()
    own = near[at] if measure is None else measure(row[at] + offset, column[at])
    best = own.new_full((len(wrong),), torch.inf).scatter_reduce_(0, row[at], own, "amin")
    decided = torch.zeros_like(tied)
    decided[row[at][(level[at] > 0) & (own == best[row[at]])]] = True
    return before, int(decided.sum())


def _count_below(wrong: torch.Tensor, limits: torch.Tensor, *, strict: bool) -> torch.Tensor:
    """For every limit (b, P), ascending per row, how many of wrong (b, G) are below (or, not strict, equal): (b, P)."""
    import torch

    # The number of limits that do not admit an item is the first place at which it counts.
    place = torch.searchsorted(limits.contiguous(), wrong, right=strict)
    counts = torch.zeros(len(limits), limits.shape[1] + 1, dtype=torch.int64, device=limits.device)
    counts.scatter_add_(1, place, torch.ones((), dtype=torch.int64, device=place.device).expand_as(place))
    return counts[:, :-1].cumsum(dim=1)
