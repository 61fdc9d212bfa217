"""Scores of a ranking: mAP, CMC, mINP, under named protocols.

"mAP" is several metrics in this field; here a protocol is an object that says which gallery items are junk for a
query, and average precision is always the plain one, the mean over a query's matches of (matches so far / rank).

No list is sorted: the rank of a match is one more than the number of items that stand before it. Items at exactly
equal distance stand in the order of the gallery. That happens often after centralization, which makes the two members
of a mutual pair identical; `Scores.tied_rank1` counts where it decides rank-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from pose2id.arrays import (
    BLOCK_ELEMENTS,
    ArrayT,
    check_finite,
    check_same_kind,
    row_blocks,
    take_array,
    take_features,
    work_dtype,
)
from pose2id.distances import Frame, full_precision, pair_cosines, pair_distances, slack, squared_norms, unit
from pose2id.validation import check_choice, check_count, check_flag, encode_labels, take_labels

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels

    Errors = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

METRICS = ("euclidean", "cosine")
QUERY_TILE, ITEM_TILE = 256, 512
"""Rows and columns of one product: by measurement small, nearly square ones are the fastest."""


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
    whole_camera_is_junk : bool
        With `same_camera_is_junk`: the items of all other identities from that camera are removed too.
    one_place : tuple of (int, int)
        Pairs of cameras (as integers or as strings) that stand in one place and count as one camera; pairs that share
        a camera are all one place.
    cmc_over_identities : bool
        CMC counts identities, each at its nearest item, instead of items; mAP and mINP count items all the same.
    """

    name: str
    summary: str
    same_camera_is_junk: bool
    junk_label: int | None = -1
    whole_camera_is_junk: bool = False
    one_place: tuple[tuple[int, int], ...] = ()
    cmc_over_identities: bool = False

    def __post_init__(self) -> None:
        if self.whole_camera_is_junk and not self.same_camera_is_junk:
            raise ValueError("whole_camera_is_junk needs same_camera_is_junk, received False")

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
            here = self.places(gallery_cams) == self.places(np.asarray([query_cam]))
            junk |= here if self.whole_camera_is_junk else here & (gallery_ids == query_id)
        return junk

    def places(self, cams: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The cameras, all those of one place under the label of one of them."""
        label = str if cams.dtype.kind == "U" else int
        kept: dict[int, int] = {}  # camera: another one of its place
        for pair in self.one_place:
            one, other = (_follow(kept, cam) for cam in pair)
            if one != other:
                kept[other] = one
        for cam in kept:
            cams = np.where(cams == label(cam), label(_follow(kept, cam)), cams)
        return cams

    def marked(self, ids: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Mark which of `ids` carry the junk label."""
        if self.junk_label is None:
            return np.zeros(len(ids), bool)
        return np.asarray(ids == (str(self.junk_label) if ids.dtype.kind == "U" else self.junk_label))


def _follow(kept: dict[int, int], cam: int) -> int:
    while cam in kept:
        cam = kept[cam]
    return cam


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("market1501", "same identity and camera removed, gallery label -1 is junk, 0 is ordinary", True),
        Protocol("all", "no camera rule; gallery label -1 is junk, 0 is ordinary", False),
        Protocol(
            "sysu-mm01",
            "a query skips the camera of its own place (2 and 3 are one), CMC counts identities",
            same_camera_is_junk=True,
            whole_camera_is_junk=True,
            one_place=((2, 3),),
            cmc_over_identities=True,
        ),
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
        cmc[k - 1] is the share of valid queries with a match among their first k items (identities, if the protocol
        counts these); R is the longest list.
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
    values, kind = take_array(distances, "distances")
    if values.is_complex() or values.dtype == torch.bool:
        raise TypeError(f"distances must hold real numbers, received dtype {kind.dtype}")
    if values.ndim != 2:
        raise ValueError(f"distances must have shape (Q, G), received {tuple(values.shape)}")
    labels = _take_sides(values.shape[0], values.shape[1], query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    check_finite(values, "distances")
    exact = torch.float32 if values.dtype in (torch.float16, torch.bfloat16, torch.float32) else torch.float64

    def tile(block: slice, _: torch.dtype) -> tuple[torch.Tensor, Errors]:
        return values[block].to(exact).contiguous(), lambda scores, _: torch.zeros_like(scores)

    return _score(labels, tile, values.device, max(1, BLOCK_ELEMENTS // max(1, values.shape[1])))


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
    labels = _take_sides(len(queries), len(items), query_ids, gallery_ids, query_cams, gallery_cams, protocol)
    dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
    width, g = items.shape[1], len(items)
    frame = Frame(items, queries)
    bar = tqdm(total=len(queries), desc="evaluating", unit="query", disable=not progress)

    def place(rows: torch.Tensor, product: torch.dtype) -> torch.Tensor:
        return frame.tile(rows, product) if metric == "euclidean" else unit(rows.double()).to(product)

    @lru_cache(maxsize=1)
    def base(product: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        placed = torch.empty(items.shape, dtype=product, device=items.device)
        for block in row_blocks(*items.shape):
            placed[block] = place(items[block], product)
        # Cosine: for zero rows too, so they get 1.
        return placed, squared_norms(placed) if metric == "euclidean" else torch.ones(g, device=items.device).double()

    def tile(block: slice, product: torch.dtype) -> tuple[torch.Tensor, Errors]:
        # Squared distances less the query's own norm, or cosine distances times two less one: the order is the same.
        placed, norms = base(product)
        part = place(queries[block], product)
        scores = torch.empty(len(part), g, dtype=product, device=items.device)
        for begin in range(0, g, ITEM_TILE):
            columns = slice(begin, begin + ITEM_TILE)
            addend = norms[None, columns].to(product)
            torch.addmm(addend, part, placed[columns].T, alpha=-2, out=scores[:, columns])
        bar.update(block.stop - bar.n)
        own = squared_norms(part) if metric == "euclidean" else torch.ones_like(part[:, 0]).double()
        product_error = 2 * slack(width, product) * (own + norms.max()) + 16 * width * torch.finfo(product).tiny

        def errors(near: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
            # Distances that are off by eps / 2 may be equal if their squares differ by 2 eps and a little.
            rounding = 4 * torch.finfo(dtype).eps * (near + own[row]).clamp(min=0)
            return (product_error[row] + rounding).to(product)

        return scores, errors

    def measure(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        if metric == "cosine":
            return pair_cosines(queries, items, rows, columns).to(dtype)
        return pair_distances(queries, items, rows, columns, frame.scale).to(dtype)

    with full_precision(items.device), bar:
        return _score(labels, tile, items.device, max(16, min(QUERY_TILE, 2**23 // max(1, g))), measure)


@dataclass(frozen=True)
class _Sides:
    """Labels of both sides as integer codes (codes, cameras), junk marked, and the rules for cameras and CMC."""

    query: npt.NDArray[np.int64]
    gallery: npt.NDArray[np.int64]
    query_cams: npt.NDArray[np.int64] | None
    gallery_cams: npt.NDArray[np.int64] | None
    query_junk: npt.NDArray[np.bool_]
    gallery_junk: npt.NDArray[np.bool_]
    whole_camera: bool
    cmc_over_identities: bool

    def lengths(self) -> npt.NDArray[np.int64]:
        """How many entries the list of each query has, (Q,), its own items all counted unless by `whole_camera`."""
        clean = ~self.gallery_junk
        labels, cams = self.gallery[clean], None if self.gallery_cams is None else self.gallery_cams[clean]
        lengths = np.full(len(self.query), len(np.unique(labels)) if self.cmc_over_identities else len(labels))
        if self.whole_camera and self.query_cams is not None and cams is not None:
            for camera in np.unique(self.query_cams):
                left = labels[cams != camera]
                lengths[self.query_cams == camera] = len(np.unique(left)) if self.cmc_over_identities else len(left)
        return lengths


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
        cams = encode_labels([protocol.places(side) for side in taken], ("query_cams", "gallery_cams"))
    codes = encode_labels(ids, ("query_ids", "gallery_ids"))
    if not protocol.same_camera_is_junk:
        cams = [None, None]
    return _Sides(
        codes[0],
        codes[1],
        cams[0],
        cams[1],
        protocol.marked(ids[0]),
        protocol.marked(ids[1]),
        protocol.whole_camera_is_junk,
        protocol.cmc_over_identities,
    )


def _score(
    sides: _Sides,
    tile: Callable[[slice, torch.dtype], tuple[torch.Tensor, Errors]],
    device: torch.device,
    height: int,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> Scores:
    """Walk the queries in blocks of up to `height` rows and add up.

    `tile` gives a block of scores (b, G) and, for some of them and their rows, the differences from which on their
    order to other scores is certain. What is closer together is settled by `measure`, which gives the exact values of
    pairs (query, gallery item); without it the scores are exact. `tile` is asked for scores from float32 products,
    and where these leave too much to measure, from then on for float64.
    """
    by_identity = np.argsort(sides.gallery, kind="stable")
    ordered = sides.gallery[by_identity]
    found = np.searchsorted(ordered, sides.query, "right") - np.searchsorted(ordered, sides.query, "left")
    # A block needs tables of rows x matches: few rows where queries have thousands of matches.
    height = max(1, min(height, math.isqrt(4 * BLOCK_ELEMENTS // max(1, int(found.sum()) // max(1, len(found))))))
    entries = sides.lengths()
    queries = torch.from_numpy(sides.query).to(device)
    items = torch.from_numpy(np.where(sides.gallery_junk, -1, sides.gallery)).to(device)
    places = None
    if sides.whole_camera and sides.query_cams is not None and sides.gallery_cams is not None:
        places = torch.from_numpy(sides.query_cams).to(device), torch.from_numpy(sides.gallery_cams).to(device)
    product = torch.float32

    precisions = np.full(len(sides.query), np.nan)
    inps, firsts, lengths, tied = [], [], [], 0
    for first in range(0, len(sides.query), height):
        block = slice(first, min(first + height, len(sides.query)))
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
        right = torch.from_numpy(row[~junk]).to(device), torch.from_numpy(column[~junk]).to(device)
        cells = len(count) * len(sides.gallery)
        while (
            counted := _count_before(
                *tile(block, product),
                right,
                queries[block],
                items,
                None if places is None else (places[0][block], places[1]),
                measure,
                first,
                # An entry of the float64 product costs about as much as a sixtieth of a measurement.
                cells // 64 if product == torch.float32 else cells,
                over_identities=sides.cmc_over_identities,
            )
        ) is None:
            product = torch.float64
        before, ties, leading = counted
        ahead = np.sort(_padded(before.cpu().numpy(), matches), axis=1)  # (b, most matches), padding last
        rank = ahead + np.arange(1, ahead.shape[1] + 1)  # of the first, second, ... match
        valid = matches > 0
        real = np.arange(ahead.shape[1]) < matches[:, None]
        precision = np.where(real, np.arange(1, ahead.shape[1] + 1) / rank, 0)
        precisions[block][valid] = precision.sum(axis=1)[valid] / matches[valid]
        inps.append(matches[valid] / np.take_along_axis(rank, np.maximum(matches - 1, 0)[:, None], 1)[valid, 0])
        if leading is not None:
            firsts.append(leading.cpu().numpy()[valid] + 1)
            lengths.append(entries[block][valid])
        else:
            firsts.append(rank[valid, 0])
            own = 0 if sides.whole_camera else np.bincount(row[junk], minlength=len(count))
            lengths.append((entries[block] - own)[valid])
        tied += ties
    if not inps:
        raise ValueError(
            f"at least one query must have a match in the gallery after junk removal, received {len(sides.query)} "
            f"queries and {len(sides.gallery)} gallery items without any; check ids, cameras and protocol"
        )
    best = np.concatenate(firsts)
    hits = np.bincount(best - 1, minlength=int(np.concatenate(lengths).max()))
    return Scores(
        mAP=float(np.nanmean(precisions)),
        mINP=float(np.concatenate(inps).mean()),
        cmc=hits.cumsum() / len(best),
        valid_queries=len(best),
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
    scores: torch.Tensor,
    errors: Errors,
    right: tuple[torch.Tensor, torch.Tensor],
    queries: torch.Tensor,
    items: torch.Tensor,
    places: tuple[torch.Tensor, torch.Tensor] | None,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None,
    offset: int,
    limit: int,
    *,
    over_identities: bool,
) -> tuple[torch.Tensor, int, torch.Tensor | None] | None:
    """How many wrong items stand before each match, and in how many rows a tie of the two decides rank-1.

    With `over_identities` also of how many identities wrong items stand before the first match of each row, (b,).

    `scores` (b, G); `right` holds row and column of the matches, rows ascending; `queries` (b,) and `items` (G,) are
    identities, -1 for junk. With `places` (b,) and (G,), items of the query's own place are no wrong ones. Within the
    `errors` of a match the order is settled by `measure`, and by the order of the gallery where values are equal.
    None if more than `limit` wrong items would have to be measured.
    """
    row, column = right
    near = scores[row, column]
    order = _order(near, row)
    row, column, near = row[order], column[order], near[order]
    counts = torch.bincount(row, minlength=len(scores))
    starts = counts.cumsum(0) - counts
    slot = torch.arange(len(row), device=row.device) - starts[row]
    error = errors(near, row)
    lower, upper = near - error, near + error

    # Wrong items that may stand before the last match of their row: of good features, one in forty.
    reach = near.new_full((len(scores),), -torch.inf)
    reach[row[slot + 1 == counts[row]]] = upper[slot + 1 == counts[row]]
    flat = _up_to(scores, reach)
    entry, item = flat // scores.shape[1], flat % scores.shape[1]
    identity = items.index_select(0, item)  # here and below much faster than items[item]
    counted = (identity != queries.index_select(0, entry)) & (identity >= 0)
    if places is not None:
        counted &= places[1].index_select(0, item) != places[0].index_select(0, entry)
    wrong = counted.nonzero().flatten()
    flat, entry, item = (array.index_select(0, wrong) for array in (flat, entry, item))
    value = scores.flatten().index_select(0, flat)
    passed = _count_limits(upper, row, slot, scores, flat, strict=True)  # matches that are surely nearer
    if measure is None:  # one that is not farther either is the next, at the same score
        following = near.new_full((len(scores), int(counts.max()) + 1), torch.inf)
        following[row, slot] = near
        following = following.flatten().index_select(0, entry * following.shape[1] + passed)
        equal = (following == value).nonzero().flatten()
        touched = passed.clone()
        touched[equal] = _count_limits(lower, row, slot, scores, flat[equal], strict=False)
    else:
        touched = _count_limits(lower, row, slot, scores, flat, strict=False)  # matches that are not surely farther

    def count(place: torch.Tensor, of: torch.Tensor) -> torch.Tensor:
        """For every match, how many items of its row, rows `of`, have a place up to the match's own."""
        size = int(counts.max()) + 1
        table = torch.bincount(of * size + place, minlength=len(scores) * size).view(-1, size)
        return table.cumsum(dim=1)[row, slot]

    def distinct(leading: torch.Tensor) -> torch.Tensor | None:
        """Of how many identities, row by row, the wrong items `leading` are."""
        if not over_identities:
            return None
        size = int(items.max()) + 1
        pairs = torch.unique(entry[leading] * size + items[item[leading]])
        return torch.bincount(pairs // size, minlength=len(scores))

    before = count(touched, entry)
    among = (touched > passed).nonzero().flatten()
    if not len(among):
        return before, 0, distinct((touched == 0).nonzero().flatten())
    if measure is not None and len(among) > limit:
        return None
    surely = count(touched[among], entry[among])
    doubtful = (count(passed[among], entry[among]) > surely).nonzero().flatten()
    closed = (before - surely)[doubtful]

    # The matches and wrong items whose order is open, in their final order.
    rows, columns = torch.cat([row[doubtful], entry[among]]), torch.cat([column[doubtful], item[among]])
    values = torch.cat([near[doubtful], value[among]]) if measure is None else measure(rows + offset, columns)
    order = _order(columns, values + 0, rows)  # + 0: -0 is 0
    rows, values = rows[order], values[order]
    is_wrong, settled = order >= len(doubtful), torch.cat([closed, passed[among]])[order]
    at = torch.arange(len(rows), device=rows.device)
    new_row = torch.ones_like(is_wrong)
    new_row[1:] = rows[1:] != rows[:-1]
    new_value = new_row.clone()
    new_value[1:] |= values[1:] != values[:-1]
    row_start = torch.where(new_row, at, 0).cummax(0).values
    ahead = is_wrong.cumsum(0) - is_wrong.long()
    ahead -= ahead[row_start]
    before[doubtful[order[~is_wrong]]] = settled[~is_wrong] + ahead[~is_wrong]

    # Rank-1 is tied where the first value of the row belongs to both, and nothing settled is nearer than it.
    leads = torch.where(new_value, at, 0).cummax(0).values == row_start
    both = torch.zeros(3, len(scores), dtype=torch.bool, device=rows.device)
    for mark, of in zip(both, (leads & is_wrong, leads & ~is_wrong, leads & (settled > 0)), strict=True):
        mark[rows[of]] = True

    # Before every match of the row: what surely is, and what the open ones begin with where no match is surely nearer.
    right_ahead = (~is_wrong).cumsum(0) - (~is_wrong).long()
    first = is_wrong & (right_ahead == right_ahead[row_start]) & (settled == 0)
    leading = torch.cat([(touched == 0).nonzero().flatten(), among[order[first] - len(doubtful)]])
    return before, int((both[0] & both[1] & ~both[2]).sum()), distinct(leading)


def _order(*keys: torch.Tensor) -> torch.Tensor:
    """The order that sorts by the last of the keys, ties by the one before, and so on."""
    order = keys[0].argsort(stable=True)
    for key in keys[1:]:
        order = order[key[order].argsort(stable=True)]
    return order


def _up_to(scores: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """Where in the flattened `scores` (b, G) entries do not exceed the limit of their row, ascending."""
    if scores.is_cuda:
        return (scores <= limits[:, None]).flatten().nonzero().flatten()
    return torch.from_numpy(np.flatnonzero(scores.numpy() <= limits.numpy()[:, None]))  # four times faster than torch


def _count_limits(
    limits: torch.Tensor,
    row: torch.Tensor,
    slot: torch.Tensor,
    scores: torch.Tensor,
    flat: torch.Tensor,
    *,
    strict: bool,
) -> torch.Tensor:
    """For the entries `flat` of `scores` (b, G), how many limits of their row are below them (not strict: or equal).

    `row` and `slot` are the places of the limits, ascending in each row.
    """
    (height, width), size = scores.shape, len(limits) + 1
    if 4 * len(flat) > scores.numel():  # most: a search in each row for all of it
        table = limits.new_full((height, int(slot.max()) + 1), torch.inf)
        table[row, slot] = limits
        return torch.searchsorted(table, scores, right=not strict).flatten().index_select(0, flat)
    limits, order = limits.sort()  # few: one search in the limits of all rows, and how many of each row are among them
    among = torch.zeros(height, size, dtype=torch.int32, device=row.device)
    among[row[order], torch.arange(1, size, device=row.device)] = 1
    among = among.cumsum(dim=1, dtype=torch.int32)
    place = torch.searchsorted(limits, scores.flatten().index_select(0, flat), right=not strict)
    return among.flatten().index_select(0, flat // width * size + place).long()
