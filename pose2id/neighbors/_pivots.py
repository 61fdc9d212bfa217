"""The engine `pivots`: approximate neighbours within one large set, by joins around pivots.

What it reports is exact: real neighbours at their real distances, in the contract's order. It may *miss* neighbours,
and then reports farther ones, or -1 where it met none. How it works:

1. *Codes.* Rows become int8 codes, so products run at the speed of int8. The error of the codes only decides who is
   measured at the end.
2. *Pivots.* A few steps of k-means on a sample of the rows place P pivots, P the largest power of two of at most
   `PIVOTS_PER_ROOT` sqrt(N), which leaves `ROWS_PER_PIVOT` and k rows to each. Here rows are compared in their
   `PROJECTED` principal directions only: the choice of a pivot need not be fine.
3. *Lists.* Every row joins the lists of its `MEMBERSHIPS` nearest pivots, so a pair meets when these sets have any
   pivot in common. That is what inverted files (faiss-ivf) do for queries, done here for both sides of a pair at
   once; it takes the place of several rounds with fresh pivots, at a fraction of the products.
4. *Join.* Each list is multiplied with itself, and each of its rows keeps its best k + 1. Lists above `LONGEST` rows
   are cut into parts, sorted by the rows' other pivots.
5. *Measure.* The best k + `SPARE` candidates of each row are measured in float64.

The choice of pivots comes from a generator of its own, so the same rows give the same answer. Beside the codes (N D
bytes; in a temporary file where that is more than a third of the machine's memory) there are 8 (k + 1) bytes per
row and membership, and tiles: no float copy of the rows, nothing N x N.

Sets below `SMALLEST` rows, k above `LARGEST_K`, rows of more than `WIDEST` columns, and searches of one set in
another go to the engine `exact`.
"""

from __future__ import annotations

import torch

from pose2id.arrays import cut, elements_at_once, row_blocks, rows_at_once, work_dtype
from pose2id.distances import Frame, full_precision, pair_distances
from pose2id.neighbors import _exact
from pose2id.neighbors._int8 import machine
from pose2id.neighbors._int8.products import Products
from pose2id.neighbors.contract import Search
from pose2id.progress import tqdm

SMALLEST = 5000
"""Below so many rows the exact engine takes less than a second."""
LARGEST_K = 64
WIDEST = 65_536
"""Sums of so many products of two codes still fit into int32."""
MEMBERSHIPS = 5
PIVOTS_PER_ROOT = 20
ROWS_PER_PIVOT = 16
TRAINING_ROWS = 5
"""Rows per pivot in the sample that pivots are trained on."""
STEPS = 2
PROJECTED = 128
LONGEST = 1024
SPARE = 1
TILE = 512
"""Rows of a product, more on a GPU."""
CODED = 2**17
"""Elements of the rows that become codes at once, for the caches of a CPU."""
NONE = -(2**30)
SEED = 0

probe = _exact.probe


def search(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k), by the contract, but neighbours may be missing."""
    base, k = asked.base, asked.k
    n, width = base.shape
    if not asked.within or n < SMALLEST or k > LARGEST_K or width > WIDEST:
        return _exact.search(asked)
    scale = Frame(base, centred=False).scale
    generator = torch.Generator("cpu").manual_seed(SEED)
    with full_precision(base.device):
        codes, half = _encode(base, scale)
        short = _project(codes, generator)
        lists = _nearest(short, _train(short, _count_pivots(n, k), generator), MEMBERSHIPS)
        del short
        found, score = _join(asked, codes, half, lists, k + SPARE)
    del codes
    indices, distances = asked.no_neighbors()
    for block in row_blocks(found):
        best = _merge(found[block], score[block], k + SPARE)
        indices[block], distances[block] = _measure(base, block.start, best, k, scale)
    return indices, distances


def _count_pivots(n: int, k: int) -> int:
    """How many pivots for n rows; the rows that share a list with one must be clearly more than k."""
    most = min(PIVOTS_PER_ROOT * n**0.5, n / max(ROWS_PER_PIVOT, k))
    return 1 << max(6, int(most).bit_length() - 1)


def _encode(rows: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes (n, D rounded up to 16) int8 of the rows moved to a median, and half their squared lengths, int32."""
    n, width = rows.shape
    level = Products(rows.device).level
    wide = torch.float64 if scale > 2.0**120 or rows.dtype == torch.float64 else torch.float32
    sample = rows[_spread(n, 1024, rows.device)].to(wide) * scale
    # The median: a few rows far out do not move it. Sorted, since CUDA has no deterministic `median` along rows.
    centre = sample.sort(dim=0).values[(len(sample) - 1) // 2]
    step = max(_near_largest(sample - centre) / level, 1e-30)
    codes = machine.allocate_codes(n, -(-width // 16) * 16, rows.device)
    half = torch.empty(n, dtype=torch.int32, device=rows.device)
    for block in cut(n, rows_at_once(rows, CODED)):
        whole = rows[block].to(wide).mul(scale).sub_(centre).div_(step).round_().clamp_(-level, level)
        codes[block, :width] = whole
        half[block] = whole.square_().sum(dim=1).div_(2)
    return codes, half


def _project(codes: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Codes of the codes in their `PROJECTED` principal directions, found by subspace iteration on a sample."""
    n, width = codes.shape
    if width <= 2 * PROJECTED:
        return codes
    sample = codes[_spread(n, 4096, codes.device)].float()
    sample -= sample.mean(dim=0)
    basis = torch.randn(width, PROJECTED, dtype=torch.float32, generator=generator, device="cpu").to(codes.device)
    for _ in range(3):
        basis = torch.linalg.qr(sample.T @ (sample @ basis))[0]
    product = Products(codes.device)
    step = _near_largest(basis) / product.level
    shrink = step * product.level / max(_near_largest(sample @ basis), 1.0)
    whole = (basis / step).round_().clamp_(-product.level, product.level).to(torch.int8)
    whole = whole.T.contiguous().T  # as `Products` wants it
    short = torch.empty(n, PROJECTED, dtype=torch.int8, device=codes.device)
    for part in _tiles(n, PROJECTED, codes.device):
        short[part] = product(codes[part], whole).float().mul_(shrink).round_().clamp_(-product.level, product.level)
    return short


def _train(short: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """`count` pivots: `STEPS` steps of k-means from random rows, on a sample; a pivot without rows stays."""
    n, width = short.shape
    at = torch.randperm(n, generator=generator, device="cpu")[: TRAINING_ROWS * count].to(short.device)
    sample, pivots = short[at], short[at[:count]]
    for _ in range(STEPS):
        nearest = _nearest(sample, pivots, 1)[:, 0]
        sums = torch.zeros(count, width, dtype=torch.float32, device=short.device)
        sums.index_add_(0, nearest, sample.float())  # whole numbers below 2^24: exact in any order
        counts = torch.bincount(nearest, minlength=count)[:, None]
        pivots = torch.where(counts > 0, (sums / counts.clamp(min=1)).round_().to(torch.int8), pivots)
    return pivots


def _nearest(short: torch.Tensor, pivots: torch.Tensor, count: int) -> torch.Tensor:
    """The `count` nearest pivots of every row, (n, count), nearest first."""
    # The best entries lie in the columns with the largest maxima over groups, and maxima are cheap.
    groups = min(16, len(pivots) // 8)
    columns, half = pivots.T, pivots.float().square().sum(dim=1).div_(2).int()
    product = Products(short.device)
    nearest = torch.empty(len(short), count, dtype=torch.int64, device=short.device)
    for part in _tiles(len(short), len(pivots), short.device):
        tile = product(short[part], columns).sub_(half).view(-1, groups, len(pivots) // groups)
        at = tile.amax(dim=1).topk(count, dim=1).indices
        entries = tile.gather(2, at[:, None, :].expand(-1, groups, -1)).flatten(1)
        best = entries.topk(count, dim=1).indices
        nearest[part] = best // count * (len(pivots) // groups) + at.gather(1, best % count)
    return nearest


def _join(
    asked: Search, codes: torch.Tensor, half: torch.Tensor, lists: torch.Tensor, keep: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `keep` of every row in each of its lists, (n, lists x keep) int32: rows and scores, NONE for no pair."""
    labels, silent = asked.base_labels, not asked.progress
    n, m = lists.shape
    key = lists * int(lists.max() + 1) + lists.roll(-1, dims=1)  # within a list, by the next pivot
    order = key.flatten().argsort(stable=True)
    found = torch.full((n * m, keep), -1, dtype=torch.int32, device=codes.device)
    score = torch.full((n * m, keep), NONE, dtype=torch.int32, device=codes.device)
    product = Products(codes.device)
    together = codes.is_cuda  # a list's product takes less time than its launches
    parts = _parts(torch.bincount(lists.flatten()).tolist(), together=together)
    for part in tqdm(parts, desc="neighbours", unit="part", disable=silent):
        place = order[part]
        if len(place) < 2:
            continue
        rows = place // m
        padded = torch.nn.functional.pad(codes[rows], (0, 0, 0, max(24, -(-len(rows) // 8) * 8) - len(rows)))
        tile = product(padded, padded.T)[: len(rows), : len(rows)]
        tile -= half[rows]
        tile.fill_diagonal_(NONE)
        if labels is not None:
            tile.masked_fill_(labels[rows][:, None] == labels[rows], NONE)
        if together:
            own = lists.flatten()[place]
            tile.masked_fill_(own[:, None] != own, NONE)
        best, at = tile.topk(min(keep, len(rows)), dim=1)
        met = rows[at].int()
        score[place, : best.shape[1]] = best
        # A row of another list does not count here; where it does, it must not be taken for the same again.
        found[place, : best.shape[1]] = met.masked_fill_(best == NONE, -1) if together else met
    return found.view(n, -1), score.view(n, -1)


def _merge(found: torch.Tensor, score: torch.Tensor, keep: int) -> torch.Tensor:
    """The best `keep` different candidates of each row, in ascending order, -1 first."""
    found, order = found.sort(dim=1)
    score = score.gather(1, order)
    score[:, 1:][found[:, 1:] == found[:, :-1]] = NONE
    best, at = score.topk(keep, dim=1)
    merged = found.gather(1, at).long()
    merged[best == NONE] = -1
    return merged.sort(dim=1).values


def _measure(
    rows: torch.Tensor, first: int, found: torch.Tensor, k: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best k of the candidates of rows[first:...] by (distance, index); a pair met from both sides once."""
    own = torch.arange(first, first + len(found), device=rows.device)[:, None]
    distances = torch.full(found.shape, torch.inf, dtype=work_dtype(rows.dtype), device=rows.device)
    real = found >= 0
    pairs = (torch.minimum(own, found) * len(rows) + torch.maximum(own, found))[real]
    pairs, which = torch.unique(pairs, return_inverse=True)
    measured = pair_distances(rows, rows, pairs // len(rows), pairs % len(rows), scale)
    distances[real] = measured.to(distances.dtype)[which]
    distances, order = distances.sort(dim=1, stable=True)
    return found.gather(1, order)[:, :k], distances[:, :k]


def _tiles(n: int, columns: int, device: torch.device) -> list[slice]:
    """Slices that cover n rows, for products with `columns`; the last one whole too: CUDA wants no narrow ones."""
    tile = min(n, max(TILE, elements_at_once(device, TILE * columns) // columns))
    return [slice(max(0, min(start, n - tile)), min(start + tile, n)) for start in range(0, n, tile)]


def _parts(sizes: list[int], *, together: bool) -> list[slice]:
    """Lists of these sizes, one after the other, cut into parts of at most `LONGEST`; short ones `together` if so."""
    parts: list[slice] = []
    stop = 0
    for size in sizes:
        count = -(-size // LONGEST)
        for i in range(count):
            part = slice(stop + size * i // count, stop + size * (i + 1) // count)
            if together and parts and part.stop - parts[-1].start <= LONGEST:
                part = slice(parts.pop().start, part.stop)
            parts.append(part)
        stop += size
    return parts


def _spread(n: int, count: int, device: torch.device) -> torch.Tensor:
    """At most `count` row numbers, evenly spread over n rows."""
    return torch.linspace(0, n - 1, min(n, count), dtype=torch.float64, device=device).long()


def _near_largest(values: torch.Tensor) -> float:
    """The largest magnitude in a row, of all but the 5 % of rows where it is largest."""
    largest = values.abs().amax(dim=1)
    return float(largest.sort().values[max(1, len(largest) * 19 // 20) - 1])
