"""`part_distances`, all of them; `part_neighbors`, the nearest only."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from pose2id.arrays import ArrayT, row_blocks, work_dtype
from pose2id.distances import Frame, full_precision, pair_distances
from pose2id.neighbors import Neighbors
from pose2id.parts.pairs import Rule
from pose2id.parts.search import Search, search
from pose2id.parts.sets import Parts, check_part_engine, prepare, take_pair, unit_parts
from pose2id.threads import fit_threads, refit_threads
from pose2id.validation import check_choice, check_count, check_flag

if TYPE_CHECKING:
    from pose2id.arrays import Array

METRICS = ("euclidean", "cosine")
REDUCES = ("mean", "max")
MISSING = ("inf", "release")
HEIGHT, WIDTH = 512, 1024
"""Rows and columns of one float64 product on a CPU."""


@fit_threads
def part_distances(
    query: ArrayT,
    gallery: ArrayT,
    query_visibility: Array | None = None,
    gallery_visibility: Array | None = None,
    *,
    reduce: str = "mean",
    metric: str = "euclidean",
    missing: str = "inf",
    normalize: bool = True,
) -> ArrayT:
    """Distances of all queries to all gallery items, by the parts that both show.

    Parameters
    ----------
    query : (Q, P, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64. A part of zeros is hidden; hidden parts may hold anything, NaN too.
    gallery : (G, P, D) array of the same container and device
    query_visibility, gallery_visibility : (Q, P) and (G, P) bools, or floats from 0 to 1, optional
        0 or False: hidden. None: all are visible.
    reduce : {"mean", "max"}
        The mean of the part distances, weighted by w = sqrt(v_q v_g), which is 0 or 1 for bools; or the largest of
        those with w > 0.
    metric : {"euclidean", "cosine"}
        Of single parts: Euclidean distance, or 1 - cosine.
    missing : {"inf", "release"}
        What pairs without a common part get. "release", as the released BPBReID and KPR: one more than the largest
        part distance of the whole matrix, of common parts if both visibilities are bools (0 if there are none), else
        of all; so a distance depends on the set it is measured in. There, floats on either side also make "max" a mean,
        and so does "release" here.
    normalize : bool
        True: each part is scaled to length 1 first. False: as given (cosines are always those of unit parts).

    Returns
    -------
    (Q, G) array of the container and device given
        float64 for float64 parts, else float32; computed in float64.

    Raises
    ------
    TypeError, ValueError
        For wrong shapes, dtypes or choices, visibility outside 0 to 1 or NaN, and NaN or inf in visible parts.

    Notes
    -----
    `evaluate` puts pairs at inf last, in the order of the gallery, as ``missing="release"`` ranks them and as
    `evaluate_parts` does, which needs no matrix.

    References
    ----------
    Somers, De Vleeschouwer, Alahi: *Body Part-Based Representation Learning for Occluded Person Re-Identification*,
    WACV 2023.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import part_distances
    >>> query = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> gallery = np.array([[[1.0, 0.0], [0.0, -1.0]], [[-1.0, 0.0], [0.0, 1.0]]])
    >>> part_distances(query, gallery).tolist()
    [[1.0, 1.0]]
    >>> part_distances(query, gallery, np.array([[True, False]])).tolist()
    [[0.0, 2.0]]
    """
    rule = check_rule(metric, reduce)
    check_choice(missing, "missing", MISSING)
    check_flag(normalize, "normalize")
    queries, items, kind = take_pair(query, gallery, query_visibility, gallery_visibility)
    dense = DenseDistances(queries, items, rule, normalize=normalize, release=missing == "release")
    shape = len(queries.rows), len(items.rows)
    result = torch.empty(shape, dtype=dense.dtype, device=queries.rows.device)
    for start in range(0, shape[0], HEIGHT):
        block = slice(start, min(start + HEIGHT, shape[0]))
        dense.write(block, slice(0, shape[1]), result[block])
        refit_threads()
    if missing == "release":
        result.masked_fill_(result == torch.inf, dense.largest + 1)
    return kind.give_back(result, dense.dtype)  # type: ignore[no-any-return]


@fit_threads
def part_neighbors(
    query: ArrayT,
    gallery: ArrayT,
    k: int,
    query_visibility: Array | None = None,
    gallery_visibility: Array | None = None,
    *,
    reduce: str = "mean",
    metric: str = "euclidean",
    normalize: bool = True,
    engine: str = "auto",
    progress: bool = False,
) -> Neighbors[ArrayT]:
    """The k nearest gallery items of every query, by the parts that both show, without the (Q, G) matrix.

    Parameters
    ----------
    query, gallery, query_visibility, gallery_visibility, reduce, metric, normalize
        As for `part_distances`.
    k : int
        At least 1. Where fewer items share a part with the query, the rest is -1 and inf.
    engine : {"auto", "exact"}
        There is one engine for parts, and it finds all.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Neighbors
        `indices` (Q, k) int64 and `distances` (Q, k), ascending, ties by index; float64 for float64 parts, else
        float64 distances rounded to float32.

    Raises
    ------
    TypeError, ValueError
        As `part_distances`.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import part_neighbors
    >>> query = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> gallery = np.array([[[-1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, -1.0]]])
    >>> part_neighbors(query, gallery, 2, query_visibility=np.array([[True, False]])).indices.tolist()
    [[1, 0]]
    """
    k = check_count(k, "k", 1)
    rule = check_rule(metric, reduce)
    for flag, name in ((normalize, "normalize"), (progress, "progress")):
        check_flag(flag, name)
    check_part_engine(engine)
    queries, items, kind = take_pair(query, gallery, query_visibility, gallery_visibility)
    dtype = work_dtype(torch.promote_types(queries.rows.dtype, items.rows.dtype))
    sets = [prepare(part, dtype, normalize=normalize or metric == "cosine") for part in (queries, items)]
    count = min(k, max(1, len(items.rows)))
    found = search(Search(sets[0], sets[1], count, rule=rule, progress=progress))
    short = k - found.indices.shape[1]
    indices = torch.nn.functional.pad(found.indices, (0, short), value=-1)
    distances = torch.nn.functional.pad(found.distances, (0, short), value=math.inf)
    return Neighbors(kind.give_back(indices, torch.int64), kind.give_back(distances, dtype))


def check_rule(metric: object, reduce: object) -> Rule:
    """Both choices."""
    return Rule(check_choice(metric, "metric", METRICS), check_choice(reduce, "reduce", REDUCES))


class DenseDistances:
    """All distances of two sets, a block at a time, by float64 products.

    Where these cancel, for parts that nearly coincide, differences are taken instead: relative errors stay below 1e-9
    for float64 parts, below the rounding to float32 for others. `largest` is the largest part distance so far, of
    common parts or, with floats, of all, as "release" wants it; -1 without any.
    """

    def __init__(self, queries: Parts, items: Parts, rule: Rule, *, normalize: bool, release: bool = False) -> None:
        self.dtype = work_dtype(torch.promote_types(queries.rows.dtype, items.rows.dtype))
        self.soft = queries.soft is not None or items.soft is not None
        self.rule = Rule(rule.metric, "mean") if release and self.soft else rule
        self.release, self.largest = release, -1.0
        unit = normalize or rule.metric == "cosine"
        (self._left, self._known), (self._right, self._others) = (
            _finite_rows(part, normalize=unit, hidden=release and self.soft) for part in (queries, items)
        )
        self._weights = queries.visibility.sqrt(), items.visibility.sqrt()
        self._frame = Frame(self._right.flatten(1), self._left.flatten(1))
        self._near = 1e-3 if self.dtype == torch.float64 else 1e-6

    def write(self, block: slice, columns: slice, out: torch.Tensor) -> None:
        """The distances of a block of queries to some items, written to `out` (b, c); inf without a common part."""
        with full_precision(out.device):
            for start in range(columns.start, columns.stop, WIDTH):
                part = slice(start, min(start + WIDTH, columns.stop))
                out[:, start - columns.start : part.stop - columns.start] = self._tile(block, part)

    def _tile(self, block: slice, columns: slice) -> torch.Tensor:
        left, right = self._weights[0][block], self._weights[1][columns]
        shape = len(left), len(right)
        total: torch.Tensor = torch.zeros(shape, dtype=torch.float64, device=left.device)
        weights = torch.zeros_like(total)
        if self.rule.reduce == "max":
            total.fill_(-torch.inf)
        for p in range(left.shape[1]):
            values, weight = self._part(p, block, columns), left[:, p, None] * right[:, p]
            weights += weight
            if self.release:
                counted = weight > 0
                if self.soft:
                    counted = self._known[block, p, None] & self._others[columns, p]
                if bool(counted.any()):
                    self.largest = max(self.largest, float(values[counted].max()))
            if self.rule.reduce == "max":
                total = torch.where(weight > 0, torch.maximum(total, values), total)
            else:
                total += values.mul_(weight)
        if self.rule.reduce == "mean":
            total /= weights
        total[weights == 0] = torch.inf
        return total

    def _part(self, p: int, block: slice, columns: slice) -> torch.Tensor:
        """The distances of one part, whatever is visible, float64 (b, c)."""
        if self.rule.metric == "cosine":
            own, other = (
                unit_parts(rows[:, None].double())[:, 0] for rows in (self._left[block, p], self._right[columns, p])
            )
            cosines: torch.Tensor = own @ other.T
            return 1 - cosines
        centre = self._frame.centre.view(-1, self._left.shape[2])[p]
        own, other = (
            (rows.double() * self._frame.scale).sub_(centre) for rows in (self._left[block, p], self._right[columns, p])
        )
        lengths = own.square().sum(dim=1)[:, None] + other.square().sum(dim=1)
        squared = torch.addmm(lengths, own, other.T, alpha=-2)
        row, column = (squared <= lengths.mul_(self._near)).nonzero(as_tuple=True)
        values = squared.clamp_(min=0).sqrt_().div_(self._frame.scale)
        if len(row):
            sets = self._left[block, p], self._right[columns, p]
            values[row, column] = pair_distances(*sets, row, column, self._frame.scale)
        return values


def _finite_rows(parts: Parts, *, normalize: bool, hidden: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """All parts in the working dtype, 0 where not finite and, unless `hidden` ones are wanted, where hidden.

    And which are finite (N, P). What hidden parts hold must not set the scale of the others.
    """
    rows = torch.empty(parts.rows.shape, dtype=work_dtype(parts.rows.dtype), device=parts.rows.device)
    known = torch.ones(parts.visibility.shape, dtype=torch.bool, device=rows.device)
    for block in row_blocks(rows):
        part = parts.rows[block].to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        known[block] = torch.isfinite(part).all(dim=2)
        part[~known[block] if hidden else parts.visibility[block] == 0] = 0
        rows[block] = unit_parts(part) if normalize else part
    return rows, known
