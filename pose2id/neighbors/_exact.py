"""The engine `exact`: plain torch, CPU and CUDA alike, tile by tile, never N x N.

Sets of some size are filtered by products of codes first (`_int8`); others, among themselves, by float products that
are made once for the rows of both sides (`_symmetric`). What these leave, and everything else, goes through two stages
in float, both safe by the bound that `pose2id.distances` derives:

1. *Candidates.* A product in the working dtype gives, for every pair, a lower bound of its squared distance. Each
   row keeps the k + SPARE pairs with the smallest lower bounds; those are measured again as float64 differences.
   When the lower bound of everything that was not kept exceeds the measured k-th distance, the row is done.
2. *Sweep.* Rows that stage 1 could not decide (many near ties, wildly different scales) go through the base once
   more in ascending order of index, with the bound in float64; every pair that the bound cannot rule out is
   measured. What is held so far always has the lower index, so a later pair must be strictly nearer.

The result depends on the rows only: ascending by the float64 distance rounded to the working dtype, then by index.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from pose2id.arrays import work_dtype
from pose2id.distances import Frame, full_precision, lower_distances, pair_distances, slack, squared_norms, underflow
from pose2id.neighbors._int8 import filter as _filter
from pose2id.neighbors._int8 import machine
from pose2id.neighbors._int8.products import Products
from pose2id.neighbors._symmetric import search_symmetric
from pose2id.neighbors.contract import Search
from pose2id.neighbors.distinct import search_distinct
from pose2id.neighbors.rounded import WIDEST, rounded_distances
from pose2id.neighbors.ties import Bound, settle_ties
from pose2id.progress import tqdm
from pose2id.threads import refit_threads

ROW_TILE = 1024
COLUMN_TILE = 1024
SWEEP_TILE = 256
SPARE = 6
ACROSS, DOWN = 32, 8
"""Columns, and rows, of a tile whose smallest bound is looked at before each of theirs."""
LAST = 2**32 - 1
LARGEST_PROJECTED = 4
"""The largest k for which the filter projects rows (`projection_columns`)."""


def probe() -> tuple[object | None, str]:
    """Give torch and a sentence on where it computes; the counterpart of the other engines' probe."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = f" and {gpus} CUDA device(s), int8 codes there up to {machine.largest_code('cuda')}" if gpus else ""
    return torch, f"torch {torch.__version__}, CPU{there}"


@search_distinct
def search(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k), by the contract."""
    indices, distances = asked.no_neighbors()
    if not len(asked.queries) or not len(asked.base):
        return indices, distances
    rows = torch.arange(len(asked.queries), device=asked.base.device)
    filtered = _search_tiles(asked)
    if filtered is not None:
        indices, distances, rows = filtered.indices, filtered.distances, filtered.left.nonzero().flatten()
    if len(rows):
        search_rows(asked, rows, indices, distances)
    return indices, distances


def search_both_ends(asked: Search) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `search` gives within one set, and the distance of every row to the farthest (n,), float64."""
    found = _search_tiles(asked, farthest=True)
    if found is None:
        return *search(asked), farthest(asked.base, progress=asked.progress)
    if bool(found.left.any()):
        search_rows(asked, found.left.nonzero().flatten(), found.indices, found.distances)
    far = farthest(asked.base, progress=asked.progress) if found.farthest is None else found.farthest
    return found.indices, found.distances, far


def _search_tiles(asked: Search, *, farthest: bool = False) -> _filter.Found | None:
    """What products of codes or of floats decide, a pair of tiles at a time; None where neither is for these sets."""
    ways = [_filter.search, search_symmetric]
    # Codes that are multiplied as floats gain nothing over the rows themselves, but by projections, which are short.
    if (farthest or asked.k > LARGEST_PROJECTED) and not Products(asked.base.device).int8:
        ways.reverse()
    return ways[0](asked, farthest=farthest) or ways[1](asked, farthest=farthest)


def search_rows(asked: Search, rows: torch.Tensor, indices: torch.Tensor, distances: torch.Tensor) -> None:
    """Both stages in float for the named rows of `queries`; writes their rows of `indices` and `distances`."""
    base, dtype = asked.base, distances.dtype
    frame = Frame(base, asked.queries)
    undecided = []
    silent = not asked.progress
    with full_precision(base.device), tqdm(total=len(rows), desc="neighbours", unit="row", disable=silent) as bar:
        for start in range(0, len(rows), ROW_TILE):
            part = rows[start : start + ROW_TILE]
            tile = frame.centre_rows(asked.queries[part], dtype)
            lower, found = _candidates(asked, part, tile, frame)
            undecided.append(decide(asked, part, tile, frame, lower, found, indices, distances))
            bar.update(len(part))
    left = torch.cat(undecided)
    if len(left):
        sweep(asked, left, indices, distances, frame)


def decide(
    asked: Search,
    part: torch.Tensor,
    tile: torch.Tensor,
    frame: Frame,
    lower: torch.Tensor,
    found: torch.Tensor,
    indices: torch.Tensor,
    distances: torch.Tensor,
    within: torch.Tensor | None = None,
) -> torch.Tensor:
    """Measure the candidates of the queries `part`, and write their rows of the result; those that stay undecided.

    `within` (len(part),): what is farther need not be known.
    """
    base, dtype = asked.base, distances.dtype
    # Smallest lower bound among all that was not kept, in the caller's units; inf when all were kept.
    keep = 1 - slack(base.shape[1], dtype)
    beyond = lower.amax(dim=1).double() + squared_norms(tile) * keep - underflow(dtype, base.shape[1])
    if len(base) - asked.within > asked.k + SPARE:
        beyond = lower_distances(beyond, base.shape[1], frame.scale).to(dtype)
    else:
        beyond = torch.full_like(beyond, torch.inf).to(dtype)
    found = torch.where(torch.isfinite(lower), found, -1)
    indices[part], distances[part] = measure(asked, part, found, frame.scale)
    last = distances[part, -1] if within is None else distances[part, -1].minimum(within)
    return part[~((beyond > last) | torch.isinf(beyond))]


def _candidates(
    asked: Search, rows: torch.Tensor, tile: torch.Tensor, frame: Frame
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k + SPARE smallest lower bounds of the queries `rows` (less their own norms) and whose they are.

    inf where there is none. `tile` holds the rows in the frame.
    """
    count = asked.k + SPARE
    best = tile.new_full((len(tile), 0), torch.inf)
    where = torch.empty((len(tile), 0), dtype=torch.int64, device=tile.device)
    for start in range(0, len(asked.base), COLUMN_TILE):
        refit_threads()
        stop = min(start + COLUMN_TILE, len(asked.base))
        bound, _ = _lower_bounds(asked, rows, tile, frame, start, stop)
        near, at = bound.topk(min(count, stop - start), dim=1, largest=False, sorted=False)
        best, where = torch.cat([best, near], dim=1), torch.cat([where, at + start], dim=1)
        if best.shape[1] > count:
            best, at = best.topk(count, dim=1, largest=False, sorted=False)
            where = where.gather(1, at)
    return best, where


def _lower_bounds(
    asked: Search, rows: torch.Tensor, tile: torch.Tensor, frame: Frame, start: int, stop: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower bounds of the squared distances of the queries `rows` to base[start:stop], less their own norms.

    (rows, columns); inf for pairs that do not count. `tile` holds the rows in the frame. And the largest squared norm
    of base[start:stop] there.
    """
    columns = frame.centre_rows(asked.base[start:stop], tile.dtype)
    norms = squared_norms(columns)
    floor = (norms * (1 - slack(columns.shape[1], tile.dtype))).to(tile.dtype)
    bound = torch.addmm(floor[None], tile, columns.T, alpha=-2)
    if asked.within:
        here = ((rows >= start) & (rows < stop)).nonzero().flatten()
        bound[here, rows[here] - start] = torch.inf
    alike = asked.labelled_alike(rows, slice(start, stop))
    return bound if alike is None else bound.masked_fill_(alike, torch.inf), norms.amax()


def measure(asked: Search, rows: torch.Tensor, found: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Measure candidates `found` (len(rows), any), -1 where there is none; the best k by (distance, index)."""
    base, k = asked.base, asked.k
    short = k - found.shape[1]
    if short > 0:
        found = torch.nn.functional.pad(found, (0, short), value=-1)
    if work_dtype(base.dtype) == torch.float64 or base.device.type != "cpu":
        found = found.sort(dim=1).values
        distances = _differences(asked, rows, found, scale)
        distances, order = distances.sort(dim=1, stable=True)  # ascending indices before: ties go to the lower one
        return found.gather(1, order)[:, :k], distances[:, :k]
    # Widening both sides costs what a few differences do.
    cheaper = 2 * found.numel() > len(rows) + len(base) and base.shape[1] <= WIDEST
    distances = (
        rounded_distances(asked.queries, base, rows, found, scale)
        if cheaper
        else _differences(asked, rows, found, scale)
    )
    # The bits of floats that are not negative are in their order; below them the index, with -1 as the last.
    keys = (distances.view(torch.int32).long() << 32) + (found & LAST)
    keys = keys.sort(dim=1).values[:, :k]
    found = keys & LAST
    return found.masked_fill_(found == LAST, -1), (keys >> 32).int().view(torch.float32)


def _differences(asked: Search, rows: torch.Tensor, found: torch.Tensor, scale: float) -> torch.Tensor:
    """Distances of the queries `rows` (r,) to the rows `found` (r, c) of the base; inf where `found` is -1."""
    dtype = work_dtype(asked.base.dtype)
    distances = torch.full(found.shape, torch.inf, dtype=dtype, device=found.device)
    row, slot = (found >= 0).nonzero(as_tuple=True)
    measured = pair_distances(asked.queries, asked.base, rows[row], found[row, slot], scale)
    distances[row, slot] = measured.to(dtype)
    return distances


def sweep(asked: Search, rows: torch.Tensor, indices: torch.Tensor, distances: torch.Tensor, frame: Frame) -> None:
    """Stage 2 for the named rows of `queries`; writes their rows of `indices` and `distances`, see `settle_ties`."""
    base, width, dtype = asked.base, asked.base.shape[1], distances.dtype
    keep = 1 - slack(width, torch.float64)

    def begin(block: torch.Tensor) -> Bound:
        tile = frame.centre_rows(asked.queries[block], torch.float64)
        floor = squared_norms(tile)[:, None] * keep - underflow(torch.float64, width)

        def bound(first: int, stop: int) -> torch.Tensor:
            other = frame.centre_rows(base[first:stop], torch.float64)
            squared = floor + squared_norms(other)[None] * keep - 2 * (tile @ other.T)
            lower = lower_distances(squared, width, frame.scale).to(dtype)
            columns = torch.arange(first, stop, device=base.device)
            if asked.within:
                lower.masked_fill_(block[:, None] == columns, torch.inf)
            alike = asked.labelled_alike(block, columns)
            return lower if alike is None else lower.masked_fill_(alike, torch.inf)

        return bound

    def measure(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return pair_distances(asked.queries, base, left, right, frame.scale).to(dtype)

    sizes = {"height": ROW_TILE, "width": SWEEP_TILE}
    settle_ties(rows, len(base), indices, distances, begin, measure, **sizes, progress=asked.progress)


Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, base rows and distances of pairs, sorted by base row, then query."""


def pairs_within(asked: Search, radius: torch.Tensor) -> Pairs:
    """All pairs whose distance is at most the `radius` (N,) of the base row."""
    return _enter(asked, radius, radius.new_zeros(len(asked.queries)), None)


def search_entered(
    asked: Search, radius: torch.Tensor, within: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, Pairs]:
    """What `search` gives, less what is farther than `within` (Q,), and `pairs_within`, from the same products."""
    indices, distances = asked.no_neighbors()
    pairs = _enter(asked, radius, within, (indices, distances))
    far = distances > within[:, None]
    return indices.masked_fill_(far, -1), distances.masked_fill_(far, torch.inf), pairs


def _enter(
    asked: Search, radius: torch.Tensor, within: torch.Tensor, nearest: tuple[torch.Tensor, torch.Tensor] | None
) -> Pairs:
    """All pairs within the radius; writes the nearest of every query too, where there is somewhere to write.

    Products rule pairs out, float64 differences decide. Of the nearest, those farther than `within` may be missing.
    """
    base, dtype, device = asked.base, work_dtype(asked.base.dtype), asked.base.device
    radius, frame = radius.to(dtype), Frame(base, asked.queries, most=COLUMN_TILE)
    pairs = [(torch.empty(2, 0, dtype=torch.int64, device=device), torch.empty(0, dtype=dtype, device=device))]
    undecided = [torch.empty(0, dtype=torch.int64, device=device)]
    starts = range(0, len(asked.queries) if len(base) else 0, ROW_TILE)
    with full_precision(device):
        for first in tqdm(starts, desc="entered", unit="tile", disable=not asked.progress):
            tile = frame.centre_rows(asked.queries[first : first + ROW_TILE], dtype)
            norms, order = squared_norms(tile).sort()  # rows of a group should have about one limit
            rows, tile = first + order, tile[order]
            best = Best(asked.k + SPARE)
            near = within[rows].to(dtype)
            for start, bound, inside, most in _entered_tiles(asked, rows, tile, norms, frame, radius, near):
                if nearest is not None:
                    best.take(bound, start, most)
                pair = torch.stack([rows[inside[0]], start + inside[1]])
                lengths = pair_distances(asked.queries, base, pair[0], pair[1], frame.scale).to(dtype)
                enters = lengths <= radius[pair[1]]
                pairs.append((pair[:, enters], lengths[enters]))
            if nearest is not None:
                undecided.append(decide(asked, rows, tile, frame, best.bounds, best.where, *nearest, near))
    left = torch.cat(undecided).sort().values
    if nearest is not None and len(left):
        sweep(asked, left, *nearest, frame)
    queries, columns = torch.cat([pair for pair, _ in pairs], dim=1)
    order = (columns * len(asked.queries) + queries).argsort()
    return queries[order], columns[order], torch.cat([lengths for _, lengths in pairs])[order]


def _entered_tiles(
    asked: Search,
    rows: torch.Tensor,
    tile: torch.Tensor,
    norms: torch.Tensor,
    frame: Frame,
    radius: torch.Tensor,
    within: torch.Tensor,
) -> Iterator[tuple[int, torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]]:
    """Tiles of the base: the first column, `_lower_bounds`, and what of these may matter.

    That is the rows and columns of pairs that may be within the radius of the column, and for each row the largest
    bound of pairs that may be within its own. `norms` (len(rows),) are those of `tile`.
    """
    width, dtype = tile.shape[1], tile.dtype
    own = (norms * (1 - slack(width, dtype)) - underflow(dtype, width)).to(dtype)
    rounding = 1 + 2 * (width + 8) * 2.0**-52

    def limits(lengths: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        # A pair is out if bound + own, the lower bound of its squared distance, is above the squared length. All of it
        # is rounded to the working dtype, for which there is room, in units of the largest number that occurs.
        far = (lengths.double().clamp(min=0) * frame.scale).square() * rounding
        most = far.masked_fill(far.isinf(), 0).amax() + 2 * (norms.amax() + largest)
        far += 16 * torch.finfo(dtype).eps * most
        return far.masked_fill_(lengths < 0, -torch.inf).to(dtype)  # no pair counts

    for start in range(0, len(asked.base), COLUMN_TILE):
        refit_threads()
        stop = min(start + COLUMN_TILE, len(asked.base))
        bound, largest = _lower_bounds(asked, rows, tile, frame, start, stop)
        inside = _within(bound, own, limits(radius[start:stop], largest))
        yield start, bound, inside, limits(within, largest) - own


def _within(bound: torch.Tensor, own: torch.Tensor, far: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and columns of the finite bounds that are at most far (columns,) - own (rows,)."""
    height, width = bound.shape
    whole, found = height - height % DOWN, []
    for part, down in ((slice(0, whole), DOWN), (slice(whole, height), 1)):
        count = (part.stop - part.start) // down
        grouped, each = bound[part].view(count, down, width), own[part].view(count, down)
        possible = grouped.amin(dim=1) <= far - each.amin(dim=1, keepdim=True)
        group, column = possible.nonzero(as_tuple=True)
        entries = grouped[group, :, column]
        hit, slot = ((entries <= far[column, None] - each[group]) & (entries < torch.inf)).nonzero(as_tuple=True)
        found.append((part.start + group[hit] * down + slot, column[hit]))
    return torch.cat([rows for rows, _ in found]), torch.cat([columns for _, columns in found])


def _below(bound: torch.Tensor, limit: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows, in ascending order, and columns of the bounds that are less than the limit (rows,)."""
    grouped = _across(bound)
    row, group = (grouped.amin(dim=1) < limit[:, None]).nonzero(as_tuple=True)
    hit, slot = (grouped[row, :, group] < limit[row, None]).nonzero(as_tuple=True)
    return row[hit], slot * grouped.shape[2] + group[hit]


def _across(bound: torch.Tensor) -> torch.Tensor:
    """Columns in groups of `ACROSS`, (rows, ACROSS, groups); inf fills the last of them."""
    missing = -bound.shape[1] % ACROSS
    whole = torch.nn.functional.pad(bound, (0, missing), value=torch.inf) if missing else bound
    return whole.view(len(bound), ACROSS, whole.shape[1] // ACROSS)


class Best:
    """The `count` smallest bounds of every row, inf where there is none; only what can be among them is looked at."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.bounds = self.where = torch.empty(0)

    def take(self, bound: torch.Tensor, start: int, most: torch.Tensor | None = None) -> None:
        """Take a tile (Q, columns) whose first column is `start`; what is above `most` (Q,) does not matter."""
        if not len(self.bounds):
            self.bounds = bound.new_full((len(bound), self.count), torch.inf)
            self.where = torch.zeros(self.bounds.shape, dtype=torch.int64, device=bound.device)
        limit = self.bounds.amax(dim=1)
        above = torch.full_like(limit, torch.inf)
        if most is not None:
            limit = limit.minimum(most.nextafter(above))
        if bool(limit.isinf().any()):  # so many groups, or columns, have each something at or below the last of them
            grouped = _across(bound)
            least = grouped.amin(dim=1) if grouped.shape[2] >= self.count else bound
            if least.shape[1] >= self.count:
                last = least.topk(self.count, dim=1, largest=False, sorted=False).values.amax(dim=1)
                limit = limit.minimum(last.nextafter(above))
        row, column = _below(bound, limit)
        if not len(row):
            return
        rows, counts = torch.unique_consecutive(row, return_counts=True)
        place = torch.arange(len(row), device=row.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        line = torch.arange(len(rows), device=row.device).repeat_interleave(counts)
        near = bound.new_full((len(rows), int(counts.max())), torch.inf)
        where = torch.zeros(near.shape, dtype=torch.int64, device=row.device)
        near[line, place], where[line, place] = bound[row, column], column + start
        together, places = torch.cat([self.bounds[rows], near], dim=1), torch.cat([self.where[rows], where], dim=1)
        self.bounds[rows], at = together.topk(self.count, dim=1, largest=False, sorted=False)
        self.where[rows] = places.gather(1, at)


def farthest(rows: torch.Tensor, *, progress: bool = False) -> torch.Tensor:
    """The distance (float64, not squared) of every row to the farthest row of the same set, shape (n,).

    Every pair of tiles is multiplied once and serves the rows of both. The product finds the row, float64 differences
    give its distance: the error is at most that of choosing, among rows whose distances the product cannot tell
    apart, not the very farthest.
    """
    dtype = work_dtype(rows.dtype)
    frame = Frame(rows)
    centred = frame.centre_rows(rows, dtype)
    norms = squared_norms(centred).to(dtype)
    best = centred.new_full((len(rows),), -torch.inf)
    where = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    starts = range(0, len(rows), ROW_TILE)
    with full_precision(rows.device), tqdm(total=len(rows), desc="farthest", unit="row", disable=not progress) as bar:
        for first in starts:
            own = slice(first, min(first + ROW_TILE, len(rows)))
            for second in range(first, len(rows), ROW_TILE):
                refit_threads()
                other = slice(second, min(second + ROW_TILE, len(rows)))
                squared = torch.addmm(norms[other], centred[own], centred[other].T, alpha=-2).add_(norms[own, None])
                for part, start, dim in ((own, second, 1), (other, first, 0))[: 1 + (first != second)]:
                    far, at = squared.max(dim=dim)
                    where[part] = torch.where(far > best[part], at + start, where[part])
                    best[part] = torch.maximum(best[part], far)
            bar.update(own.stop - own.start)
    return pair_distances(rows, rows, torch.arange(len(rows), device=rows.device), where, frame.scale)
