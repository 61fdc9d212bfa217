"""`aligned_distances`: the shortest way through the distances of horizontal stripes (DMLI of AlignedReID++).

A tile is one matrix product of the stripes of some queries and some gallery items, centred by `Frame`. The products
cancel where stripes nearly coincide; there differences are taken instead. The ways through all tables of a tile advance
together, one anti-diagonal at a time.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from pose2id.arrays import ArrayT, check_same_kind, cut, elements_at_once, take_features, work_dtype
from pose2id.distances import Frame, full_precision, pair_distances
from pose2id.parts.sets import take_candidates
from pose2id.threads import fit_threads
from pose2id.validation import check_flag

if TYPE_CHECKING:
    from pose2id.arrays import Array

TILE = 2**20
"""Stripe distances that are held at once on a CPU."""
NEAR = 1e-3
"""Share of |a|² + |b|², of centred stripes, below which a squared distance is measured by differences."""
FAR = 0.05
"""Where all x are larger, tanh(x / 2) is taken from exp, six times as fast; it loses digits where x is small."""


@fit_threads
def aligned_distances(
    query: ArrayT, gallery: ArrayT, *, aligned: bool = True, candidates: Array | None = None
) -> ArrayT:
    """Distances of images cut in horizontal stripes, aligned by the shortest way (DMLI of AlignedReID++).

    With x the Euclidean distance of stripe i of a query and stripe j of a gallery item, the cell (i, j) costs
    tanh(x / 2). The result is the smallest sum of cells on a way from the first to the last pair of stripes, by steps
    to the right or down.

    Parameters
    ----------
    query : (Q, H, D) numpy array or torch tensor
        H >= 1 stripes from top to bottom; float16, bfloat16, float32 or float64. Used as given: scale each stripe to
        length 1 first, as AlignedReID++ does.
    gallery : (G, H2, D) array of the same container and device
        Another number of stripes is allowed.
    aligned : bool
        False: no search, the sum of the cells (i, i); then H2 must be H.
    candidates : (Q, C) integers, or None
        Gallery items to measure for each query, such as the nearest by global distance; -1 for none.

    Returns
    -------
    (Q, G) array, or (Q, C) with `candidates`
        Smaller is nearer; inf where the candidate is -1. float64 for float64 features, else float32; container and
        device as the input.

    Raises
    ------
    TypeError, ValueError
        For different D, anything but finite floating-point features, or candidates outside the gallery.

    Notes
    -----
    The sum has H + H2 - 1 cells or more, so it is not a mean: an image is not at 0 from itself (about 4 for 8 unit
    stripes), and sums of `aligned=True` and `False` do not compare. Leave an image itself out by index, not by 0.

    Memory beside the result is some tiles of 2**20 stripe distances (2**24 on a GPU). The Euclidean distances come from
    products, and from differences where x² is below 1e-3 of the squared lengths of both stripes (moved to the
    mean stripe): equal stripes cost exactly 0, and errors of x are below 1e-5 of the lengths in float32.

    References
    ----------
    Zhang et al.: *AlignedReID*, arXiv 1711.08184, 2017; Luo et al.: *AlignedReID++*, Pattern Recognition 94, 2019.

    Examples
    --------
    The same person, half a picture lower:

    >>> import numpy as np
    >>> from pose2id.parts import aligned_distances
    >>> query = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    >>> gallery = np.array([[[0.6, 0.8], [0.0, 1.0]], [[1.0, 0.0], [0.0, 1.0]]])
    >>> aligned_distances(query, gallery).round(2).tolist()
    [[0.91, 1.22]]
    >>> aligned_distances(query, gallery, candidates=np.array([[1, -1]])).round(2).tolist()
    [[1.22, inf]]
    """
    check_flag(aligned, "aligned")
    queries, kind = take_features(query, "query", "(Q, H, D)")
    items, other = take_features(gallery, "gallery", "(G, H2, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    shapes = tuple(queries.shape), tuple(items.shape)
    if not queries.shape[1] or not items.shape[1] or shapes[0][2] != shapes[1][2]:
        raise ValueError(
            "query and gallery must have at least one stripe (H >= 1) and equal D, "
            f"received shapes {shapes[0]} and {shapes[1]}"
        )
    if not aligned and shapes[0][1] != shapes[1][1]:
        raise ValueError(
            "query and gallery must have equal numbers of stripes with aligned=False, "
            f"received shapes {shapes[0]} and {shapes[1]}; aligned=True takes any"
        )
    tiles = _Tiles(queries, items, aligned=aligned)
    wanted = None if candidates is None else take_candidates(candidates, len(queries), len(items), kind)
    with full_precision(queries.device):
        result = tiles.all() if wanted is None else tiles.some(wanted)
    return kind.give_back(result, tiles.dtype)  # type: ignore[no-any-return]


class _Side(NamedTuple):
    """Stripes of one side of a tile: m groups of c images."""

    at: torch.Tensor  # (m, H, c), which of all stripes
    rows: torch.Tensor  # (m, H c, D), centred
    lengths: torch.Tensor  # (m, H c), squared


class _Tiles:
    """The distances of queries (Q, H, D) and items (G, H2, D), tile by tile."""

    def __init__(self, queries: torch.Tensor, items: torch.Tensor, *, aligned: bool) -> None:
        self.dtype = work_dtype(torch.promote_types(queries.dtype, items.dtype))
        self.device, self.aligned = queries.device, aligned
        self.sizes = len(queries), len(items)
        # Stripes of the gallery stand upside down, so that anti-diagonals become diagonals, which torch has as views.
        self.own, self.other = (torch.arange(part.shape[1], device=self.device) for part in (queries, items))
        self.other = self.other.flip(0)
        self.queries, self.items = (part.reshape(-1, part.shape[2]) for part in (queries, items))
        self.frame = Frame(self.items, self.queries)
        self.tile = elements_at_once(self.device, TILE)

    def all(self) -> torch.Tensor:
        """Every query with every item, (Q, G)."""
        result = torch.empty(self.sizes, dtype=self.dtype, device=self.device)
        pairs = max(1, self.tile // (len(self.own) * len(self.other)))
        height = max(1, min(self.sizes[0], math.isqrt(pairs)))
        indices = [torch.arange(n, device=self.device)[None] for n in self.sizes]
        for block in cut(self.sizes[0], height):
            left = self._side(self.queries, indices[0][:, block], self.own)
            for columns in cut(self.sizes[1], pairs // height):
                right = self._side(self.items, indices[1][:, columns], self.other)
                result[block, columns] = self._measure(left, right)[0]
        return result

    def some(self, table: torch.Tensor) -> torch.Tensor:
        """Every query with the items of its row of `table` (Q, C); inf for -1."""
        result = torch.full(table.shape, torch.inf, dtype=self.dtype, device=self.device)
        # The stripes of the items are gathered, which may be more numbers than their distances.
        pairs = max(1, self.tile // (len(self.other) * max(len(self.own), self.items.shape[1])))
        width = max(1, min(pairs, table.shape[1]))
        if not self.sizes[1]:
            return result
        for block in cut(len(table), pairs // width):
            query = torch.arange(block.start, block.stop, device=self.device)[:, None]
            left = self._side(self.queries, query, self.own)
            for columns in cut(table.shape[1], width):
                item = table[block, columns]
                right = self._side(self.items, item.clamp(min=0), self.other)
                values = self._measure(left, right)[:, 0]
                result[block, columns] = values.masked_fill_(item < 0, torch.inf)
        return result

    def _side(self, stripes: torch.Tensor, images: torch.Tensor, order: torch.Tensor) -> _Side:
        """The stripes of images (m, c), in the given order."""
        at = images[:, None, :] * len(order) + order[None, :, None]
        rows = self.frame.centre_rows(stripes[at.flatten()], self.dtype).view(len(at), -1, stripes.shape[1])
        return _Side(at, rows, rows.square().sum(dim=2))

    def _measure(self, left: _Side, right: _Side) -> torch.Tensor:
        """The distances of the u queries and the c items of each of m groups, (m, u, c)."""
        if self.aligned:
            return _shortest(self._costs(left, right))
        (groups, h, u), c = left.at.shape, right.at.shape[2]
        total = torch.zeros(groups, u, c, dtype=self.dtype, device=self.device)
        for i in range(h):
            pair = []
            for side, row in ((left, i), (right, h - 1 - i)):
                part = slice(row * side.at.shape[2], (row + 1) * side.at.shape[2])
                pair.append(_Side(side.at[:, row : row + 1], side.rows[:, part], side.lengths[:, part]))
            total += self._costs(*pair)[0, 0]
        return total

    def _costs(self, left: _Side, right: _Side) -> torch.Tensor:
        """The cells tanh(x / 2) of all pairs of stripes, (H, H2, m, u, c)."""
        scale = self.frame.scale
        squared = torch.baddbmm(right.lengths[:, None, :], left.rows, right.rows.transpose(1, 2), alpha=-2)
        squared.add_(left.lengths[:, :, None])
        ends = squared.min(), left.lengths.max(), right.lengths.max()
        least, *longest = torch.stack(ends).tolist()  # asked once, since a GPU's host has to wait for it
        close = None
        if least <= NEAR * sum(longest):
            bound = (left.lengths[:, :, None] + right.lengths[:, None, :]).mul_(NEAR)
            close = (squared <= bound).nonzero(as_tuple=True)
        x = squared.clamp_(min=0).sqrt_()
        if close is not None:
            group, row, column = close
            pairs = left.at.flatten(1)[group, row], right.at.flatten(1)[group, column]
            x[close] = pair_distances(self.queries, self.items, *pairs, scale).mul_(scale).to(x.dtype)
        if math.sqrt(max(least, 0.0)) / scale > FAR:  # 2 / (1 + exp(-x)) - 1
            cells = x.mul_(-1 / scale).exp_().add_(1).reciprocal_().mul_(2).sub_(1)
        else:
            cells = x.mul_(0.5 / scale).tanh_()
        shape = len(left.at), *left.at.shape[1:], *right.at.shape[1:]
        return cells.view(shape).permute(1, 3, 0, 2, 4)


def _shortest(cells: torch.Tensor) -> torch.Tensor:
    """The smallest sums of cells (H, H2, ...) from (0, H2 - 1), down or to the left, to (H - 1, 0): (...)."""
    h, w = cells.shape[:2]
    # Row i + 1 holds the sum at row i of the anti-diagonal; row 0, and rows that are not reached yet, are outside.
    best = torch.full((h + 1, *cells.shape[2:]), torch.inf, dtype=cells.dtype, device=cells.device)
    best[1] = cells[0, w - 1]
    before = torch.empty_like(best[1:])
    for step in range(1, h + w - 1):
        first, last = max(0, step - w + 1), min(step, h - 1)
        cell = cells.diagonal(w - 1 - step).movedim(-1, 0)
        part = before[: last - first + 1]
        torch.minimum(best[first : last + 1], best[first + 1 : last + 2], out=part)
        torch.add(part, cell, out=best[first + 1 : last + 2])
    return best[h]
