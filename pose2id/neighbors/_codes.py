"""The int8 filter of the engine `exact`: which pairs of one set can be neighbours, at the speed of int8 products.

**Bound.** Rows are moved by a common vector, scaled by a power of two, and turned by one orthogonal matrix in blocks
of `TURN` columns (which evens out their entries); none of this changes distances but by the scale. A turned row y is
written as step * q + rest with int8 codes q. With E = |rest| and what rounding may hide (below), for any two rows

    step |q_i - q_j| - E_i - E_j  <=  d(i, j)  <=  step |q_i - q_j| + E_i + E_j.                          (1)

|q_i - q_j|² is exact integer arithmetic: with h = floor(|q|² / 2), the tile c = q_i . q_j - h_i - h_j obeys

    -2 c  <=  |q_i - q_j|²  <=  2 - 2 c.                                                                  (2)

So a row whose k-th neighbour is known to be within t needs only those j with

    c >= -((t + E_i + E_j) / step)² / 2,                                                                  (3)

and the k largest c of a row give, by (1) and (2), an upper bound t of its k-th distance.

**Rounding** (u = 2^-24). Subtracting rounds each entry once, u |x - mu|; turning sums b = 16 products per entry with a
matrix orthogonal to about b u: ((b + 3) sqrt(b) + 2) u |x - mu|, about 80 u; `ALLOWANCE` = 160 u covers both and a
float64 row's way to float32. |rest| is a float32 sum of squares, off by a factor of at most 1 + (D + 8) u. The integer
limit of (3) is lowered by 3 for the rounding of its own float64 arithmetic and of (2). Squares below float32's range,
and float32 distances below its normal numbers, are covered by adding 1e-27 and one least float32 number to every E.

**Sweep.** Rows are sorted by the nearest of some pivot rows, so near rows share a tile; each pair of tiles is
multiplied once and serves the rows of both. Maxima over groups of columns come first: they give limits, and only groups
that reach a limit are looked at entry by entry. Rows that collect more than their share are left to the caller.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from pose2id.arrays import BLOCK_ELEMENTS, work_dtype
from pose2id.distances import full_precision, pair_distances

if TYPE_CHECKING:
    import torch

TILE = 1024
TILE_CUDA = 8192
TURN = 16
PIVOTS = 256
CHUNK = 2**17
ALLOWANCE = 160 * 2.0**-24
NONE = -800_000_000
"""Below every c of two real rows of at most `WIDEST` columns, above those of padding."""
PADDING = 950_000_000
WIDEST = 16_384
SMALLEST = 3000
"""Below so many rows the float path is as fast."""


@dataclass
class Codes:
    """Rows as int8 codes, in sweeping order, padded to whole groups of 64; see the module for the symbols."""

    codes: torch.Tensor  # (n, D'), int8
    half: torch.Tensor  # (n,), int32: h, out of reach for padding
    error: torch.Tensor  # (n,), float64: E
    order: torch.Tensor  # (n,), int64: row of the set, -1 for padding
    step: float
    scale: float
    starts: list[int]  # of the tiles, and n


@lru_cache
def largest_code(device_type: str) -> int:
    """The largest code whose products are exact on this machine: 127, 63, or 0 when int8 products cannot be used.

    Without AVX512-VNNI the CPU adds pairs of products in 16 bits, which codes of 127 overflow.
    """
    import torch

    generator = torch.Generator("cpu").manual_seed(0)
    for level in (127, 63):
        signs = torch.randint(0, 2, (64, 256), generator=generator, device="cpu") * 2 - 1
        signs[:32] = 1
        codes = (signs * level).to(torch.int8).to(device_type)
        try:
            product = torch._int_mm(codes, codes.T)
        except (RuntimeError, AttributeError):
            return 0
        if torch.equal(product.cpu().double(), codes.cpu().double() @ codes.cpu().double().T):
            return level
    return 0


def group_width(k: int) -> int:
    """Columns of a group: a tile must hold clearly more groups than k, or its maxima bound nothing."""
    return 64 if k <= 4 else 16 if k <= 24 else 8


def encode(rows: torch.Tensor, level: int) -> Codes:
    """Make codes of magnitude up to `level` and put the rows into sweeping order."""
    import torch

    n, width = rows.shape
    device = rows.device
    generator = torch.Generator("cpu").manual_seed(0)
    padded = -(-width // TURN) * TURN
    sample = rows[torch.linspace(0, n - 1, min(n, 256), dtype=torch.float64, device=device).long()]
    step_rows = max(1, CHUNK // padded)
    largest = max(float(max(map(abs, torch.aminmax(rows[i : i + step_rows])))) for i in range(0, n, step_rows))
    exponent = math.frexp(largest)[1]
    scale = math.ldexp(1.0, -max(-1000 if rows.dtype == torch.float64 else -120, min(1000, exponent)))
    centre = (sample.double() * scale).mean(dim=0)
    random = torch.randn(TURN, TURN, dtype=torch.float64, generator=generator, device="cpu")
    turn = torch.linalg.qr(random)[0].float().to(device)
    wide = rows.dtype == torch.float64
    offset = centre if wide else centre.float()

    def turned(part: torch.Tensor) -> torch.Tensor:
        moved = (part if wide else part.float()) * scale - offset
        moved = torch.nn.functional.pad(moved.float(), (0, padded - width))
        return torch.mm(moved.reshape(-1, TURN), turn).view(len(part), padded)

    spread = turned(sample).abs().flatten()
    # Not smaller, or dividing by it would leave float32's range for rows far longer than the sample's.
    step = max(float(spread.topk(max(1, len(spread) // 10_000)).values[-1]) / level, 1e-30)

    underflow = 1e-27 + (0.0 if wide else 2.0**-149 * scale)
    codes = torch.empty(n, padded, dtype=torch.int8, device=device)
    half = torch.empty(n, dtype=torch.int32, device=device)
    error = torch.empty(n, dtype=torch.float64, device=device)
    for start in range(0, n, step_rows):
        part = slice(start, min(start + step_rows, n))
        exact = turned(rows[part])
        length = exact.square().sum(dim=1)
        exact.div_(step)
        whole = exact.round().clamp_(-level, level)
        codes[part] = whole
        rest = exact.sub_(whole).square_().sum(dim=1).double().sqrt() * (step * (1 + (width + 8) * 2.0**-24))
        error[part] = rest + ALLOWANCE * 1.01 * length.double().sqrt() + underflow
        half[part] = whole.square_().sum(dim=1, dtype=torch.float64).div_(2).floor_().int()
    order, starts = _sweeping_order(codes, half, error, generator)
    at = order.clamp(min=0)
    half, error = half[at], error[at]
    half[order < 0], error[order < 0] = PADDING, 0.0
    return Codes(codes.index_select(0, at), half, error, order, step, scale, starts)


def _sweeping_order(
    codes: torch.Tensor, half: torch.Tensor, error: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, list[int]]:
    """Positions in tiles of whole groups: rows sorted by nearest pivot, near ones spread over a tile's groups."""
    import torch

    n, device = len(codes), codes.device
    pivots = torch.randperm(n, generator=generator, device="cpu")[: min(PIVOTS, n // 8 * 8)].to(device)
    table = torch._int_mm(codes[pivots], codes[pivots].T) - half[pivots]
    near = table.cpu().numpy()
    rank, at = [0] * len(pivots), 0
    for place in range(1, len(pivots)):  # a chain: from each pivot to the nearest one not yet visited
        near[:, at] = 2 * NONE
        at = int(near[at].argmax())
        rank[at] = place
    nearest = torch.empty(n, dtype=torch.int64, device=device)
    columns = codes[pivots].T.contiguous()
    for start in range(0, n, 4096):
        part = slice(max(0, min(start, n - 4096)), start + 4096)  # the last one whole, for CUDA's sake
        nearest[part] = (torch._int_mm(codes[part], columns) - half[pivots]).argmax(dim=1)
    key = torch.tensor(rank, device=device)[nearest] + len(pivots) * (error > 1.5 * error.median())
    order = key.argsort(stable=True)

    groups = -(-n // 64)
    order = torch.nn.functional.pad(order, (0, groups * 64 - n), value=-1)
    tile = TILE_CUDA if device.type == "cuda" else TILE
    tiles = -(-groups * 64 // tile)
    starts = [64 * (groups * i // tiles) for i in range(tiles + 1)]
    for start, stop in itertools.pairwise(starts):
        order[start:stop] = order[start:stop].view(64, -1).T.flatten().clone()
    return order, starts


class Sweep:
    """One pass over all pairs of tiles; afterwards `pairs` holds, per row, everything that can be a neighbour.

    Attributes
    ----------
    bounds : (n, k) float64
        Upper bounds of the distances to k different rows, in the frame; the last column is the limit t.
    open : (n,) bool
        Rows that collected too many pairs: they are not searched here.
    """

    def __init__(self, codes: Codes, k: int, labels: torch.Tensor | None, cap: int) -> None:
        import torch

        n, device = len(codes.order), codes.order.device
        self.of, self.k, self.cap, self.group = codes, k, cap, group_width(k)
        self.labels = None if labels is None else labels.int()[codes.order.clamp(min=0)]
        self.bounds = torch.full((n, k), torch.inf, dtype=torch.float64, device=device)
        self.counts = torch.zeros(n, dtype=torch.int64, device=device)
        self.open = codes.order < 0
        self.kept: list[torch.Tensor] = []
        self.size, self.pruned_at = 0, 32 * n

    def tile_pairs(self) -> list[tuple[int, int]]:
        """Every pair of tiles once, each tile with itself first, then with near ones: limits are tight early."""
        tiles = len(self.of.starts) - 1
        return [(a, a + apart) for apart in range(tiles) for a in range(tiles - apart)]

    def visit(self, first: int, second: int, out: torch.Tensor) -> None:
        """Multiply one pair of tiles and take from it what its rows, and its columns, need."""
        import torch

        of = self.of
        rows = slice(of.starts[first], of.starts[first + 1])
        columns = slice(of.starts[second], of.starts[second + 1])
        a, b = rows.stop - rows.start, columns.stop - columns.start
        tile = out[: a * b].view(a, b)
        torch._int_mm(of.codes[rows], of.codes[columns].T, out=tile)
        tile -= of.half[columns]
        tile -= of.half[rows][:, None]
        if self.labels is not None:
            tile.masked_fill_(self.labels[rows][:, None] == self.labels[columns], 2 * NONE)
        if first == second:
            tile.fill_diagonal_(2 * NONE)
        by_group = tile.view(a, b // self.group, self.group)
        self._take(by_group.amax(dim=2), lambda row, group: by_group[row, group], rows, columns)
        if first != second:
            down = tile.view(a // self.group, self.group, b)
            self._take(down.amax(dim=1).T, lambda row, group: down[group, :, row], columns, rows)

    def _take(
        self,
        best: torch.Tensor,
        entries_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        rows: slice,
        columns: slice,
    ) -> None:
        """Bounds and pairs for `rows` from the maxima (rows, groups) of a tile, and from single entries on request."""
        import torch

        of = self.of
        far = float(of.error[columns].max())
        own = of.error[rows]
        reach = (2 - 2 * best.double()).sqrt_().mul_(of.step).add_(own[:, None] + far)
        reach[best <= NONE] = torch.inf
        joined = torch.cat([self.bounds[rows], reach], dim=1).topk(self.k, dim=1, largest=False, sorted=True).values
        self.bounds[rows] = joined
        limit = self._limits(rows, far)
        row, group = (best >= limit[:, None]).nonzero(as_tuple=True)
        if not len(row):
            return
        entries = entries_of(row, group)  # (m, columns of a group)
        hit, slot = (entries >= limit[row, None]).nonzero(as_tuple=True)
        row = row[hit]
        self.counts[rows] += torch.bincount(row, minlength=len(best))
        column = group[hit] * self.group + slot + columns.start
        self.kept.append(torch.stack([row + rows.start, column, entries[hit, slot]]).int())
        self.size += len(row)
        self.open[rows] |= self.counts[rows] > self.cap
        if self.size > self.pruned_at:
            self.prune()
            self.pruned_at = max(2 * self.size, self.pruned_at)

    def _limits(self, rows: slice | torch.Tensor, far: float | torch.Tensor) -> torch.Tensor:
        """The integer limits of (3) for `rows` against columns with errors up to `far`; none pass for open rows."""
        import torch

        of = self.of
        reach = (self.bounds[rows, -1] + of.error[rows] + far) / of.step
        limit = (reach.square() / -2 - 3).floor().clamp(min=NONE)
        return torch.where(self.open[rows], 2**30, limit.int())

    def prune(self) -> torch.Tensor:
        """Drop kept pairs that the present limits rule out; all that remain, (3, m) int32."""
        import torch

        kept = torch.cat(self.kept, dim=1) if self.kept else self.of.half.new_zeros((3, 0))
        limit = self._limits(kept[0].long(), self.of.error[kept[1].long()])
        kept = kept[:, kept[2] >= limit]
        self.kept, self.size = [kept], kept.shape[1]
        return kept


def expected_pairs(codes: Codes, k: int, labels: torch.Tensor | None, cap: int) -> tuple[float, float]:
    """Pairs a row will keep, and the share of rows above `cap`, from a sample of rows against all."""
    import torch

    n = len(codes.order)
    at = (codes.order >= 0).nonzero().flatten()
    at = at[torch.linspace(0, len(at) - 1, 128, dtype=torch.float64, device=at.device).long()]
    table = torch._int_mm(codes.codes[at], codes.codes.T).sub_(codes.half).sub_(codes.half[at][:, None])
    table[torch.arange(len(at), device=at.device), at] = 2 * NONE
    if labels is not None:
        own = labels[codes.order.clamp(min=0)]
        table.masked_fill_(own[at][:, None] == own, 2 * NONE)
    near, where = table.topk(min(k, n), dim=1)
    reach = (2 - 2 * near.double()).sqrt() * codes.step + codes.error[at][:, None] + codes.error[where]
    limit = ((reach.amax(dim=1) + codes.error[at] + codes.error.median()) / codes.step).square() / -2 - 3
    limit = limit.floor().clamp(min=NONE).int()
    counts = (table >= limit[:, None]).sum(dim=1)
    return float(counts.clamp(max=cap).double().mean()), float((counts > cap).double().mean())


def search(
    rows: torch.Tensor, k: int, labels: torch.Tensor | None = None, *, progress: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The k nearest other rows where the filter can tell: indices, distances, and the rows left out.

    None when this set is not for it: too small, too large a k, no int8 products, or no structure to filter by.
    """
    import torch
    from tqdm import tqdm

    n = len(rows)
    level = largest_code(rows.device.type) if n >= SMALLEST and k <= 64 and rows.shape[1] <= WIDEST else 0
    if not level:
        return None
    with full_precision(rows.device):
        codes = encode(rows, level)
    if rows.dtype != torch.float64 and 2 * math.sqrt(rows.shape[1]) / codes.scale > torch.finfo(torch.float32).max:
        return None  # distances may be inf in float32, all of them ties
    cap = 256 + 16 * k
    mean, above = expected_pairs(codes, k, labels, cap)
    if above > 0.2 or mean > 64 + 4 * k:
        return None
    sweep = Sweep(codes, k, labels, cap)
    out = torch.empty((TILE_CUDA if rows.is_cuda else TILE) ** 2, dtype=torch.int32, device=rows.device)
    for first, second in tqdm(sweep.tile_pairs(), desc="neighbours", unit="tile", disable=not progress):
        sweep.visit(first, second, out)
    del out
    return _verify(rows, sweep, sweep.prune())


def _verify(rows: torch.Tensor, sweep: Sweep, pairs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Measure the pairs that matter; the k best of each row by (distance, index), and the rows left out."""
    import torch

    codes, k, n = sweep.of, sweep.k, len(rows)
    dtype = work_dtype(rows.dtype)
    indices = torch.full((n, k), -1, dtype=torch.int64, device=rows.device)
    distances = torch.full((n, k), torch.inf, dtype=dtype, device=rows.device)
    pairs = pairs[:, ~sweep.open[pairs[0].long()]]
    pairs = pairs[:, (pairs[0].long() * 2**31 - pairs[2]).argsort()]  # by position, then the largest product first
    ends = torch.bincount(pairs[0], minlength=len(codes.order)).cumsum(0)
    start = 0
    while start < pairs.shape[1]:  # whole rows, about BLOCK_ELEMENTS pairs at a time
        last = int(torch.searchsorted(ends, torch.tensor(start + BLOCK_ELEMENTS, device=ends.device)))
        stop = int(ends[min(last, len(ends) - 1)])
        _verify_block(rows, codes, k, pairs[:, start:stop].long(), indices, distances)
        start = stop
    return indices, distances, codes.order[sweep.open & (codes.order >= 0)]


def _verify_block(
    rows: torch.Tensor, codes: Codes, k: int, pairs: torch.Tensor, indices: torch.Tensor, distances: torch.Tensor
) -> None:
    """Measure the most promising k pairs of each row, then those that may still be nearer; write the best."""
    import torch

    position, other, product = pairs
    row, column = codes.order[position], codes.order[other]
    _, group, counts = position.unique_consecutive(return_inverse=True, return_counts=True)
    place = _places(counts)
    distance = torch.full((len(position),), torch.inf, dtype=distances.dtype, device=rows.device)
    first = (place < k).nonzero().flatten()
    distance[first] = pair_distances(rows, rows, row[first], column[first], codes.scale).to(distance.dtype)
    # The largest of k measured distances limits the rest.
    limit = torch.zeros(len(counts), dtype=torch.float64, device=rows.device)
    limit.scatter_reduce_(0, group[first], distance[first].double() * codes.scale, "amax")
    limit[counts < k] = torch.inf
    lower = (product.double() * -2).clamp(min=0).sqrt() * codes.step - codes.error[position] - codes.error[other]
    lower *= 1 - 1e-6  # measuring, and rounding to float32
    rest = ((place >= k) & (lower <= limit[group])).nonzero().flatten()
    distance[rest] = pair_distances(rows, rows, row[rest], column[rest], codes.scale).to(distance.dtype)

    order = torch.cat([first, rest])
    order = order[column[order].argsort()]
    order = order[distance[order].argsort(stable=True)]
    order = order[group[order].argsort(stable=True)]
    place = _places(torch.bincount(group[order]))
    order, place = order[place < k], place[place < k]
    indices[row[order], place] = column[order]
    distances[row[order], place] = distance[order]


def _places(counts: torch.Tensor) -> torch.Tensor:
    """0, 1, ... counts[0] - 1, 0, 1, ...: places within consecutive groups."""
    import torch

    starts = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum()), device=counts.device) - starts.repeat_interleave(counts)
