"""The engine `native`: codes as in the int8 filter of `exact`, multiplied, compared and measured by the native kernel.

Rows become codes with a proven error (`_int8.encoder`), of whole rows or, for few neighbours, of a projection. The
kernel multiplies blocks of codes, each pair of blocks once for the rows of both. A pair whose bound does not rule it
out is measured at once, as a sum of float64 differences, and tightens the limits of its rows. So nothing waits, and
what a row holds are its k nearest.

The float32 distance is that of `exact` to the last bit: where float64 sums leave two numbers open, the pair is kept
apart, and measured as `exact` does. Distances of float64 rows are so measured for all; there the kernel proposes a
few more than k. Rows that many others crowd around, and sets without structure, go to `exact`.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import torch

from pose2id.distances import full_precision, pair_distances
from pose2id.errors import MissingExtraError
from pose2id.neighbors import _exact
from pose2id.neighbors._int8.encoder import Encoder
from pose2id.neighbors._int8.layout import PADDING, WIDEST
from pose2id.neighbors._int8.products import Products
from pose2id.neighbors._native import PANEL, Kernel, Side, Sweep, load_kernel
from pose2id.neighbors.contract import Search
from pose2id.neighbors.distinct import search_distinct
from pose2id.progress import tqdm
from pose2id.threads import map_in_threads, refit_threads

LARGEST_K = 64
SPARE = 6
"""Rows beyond k that are proposed for float64 rows."""
SPEED = {1: 2.4, 2: 8.0, 3: 8.0}
"""How many times faster than float32 numbers codes are multiplied, by machine of the kernel; measured for AVX2 only."""
SMALLEST = 256
"""Rows of either side; below, `exact` is as fast."""
LARGEST = 2**31 - PANEL
"""Rows of either side: the kernel counts them in int32."""
BLOCK = 2**18
"""Codes of a block: it stays in the caches."""
SLICE = 2**29
"""Products of codes that are made in one call, some milliseconds: between calls signals are heard."""
AT_ONCE = 2**16
"""Tasks that are held at once: all are quadratic in the rows."""
CAP = 256
"""Pairs that a row may measure, with 16 for each neighbour asked for, and one for every 16 rows."""
PIVOTS = 256
"""Rows that others are sorted by, at most,"""
LOOKED_AT = 128
"""by so many columns."""
OUTER = 64
"""Rows that give the first bounds of the farthest distances."""
ROOM = 4096
"""Pairs that may wait to be measured as `exact` does."""
OUTERMOST, ALL = range(2)


def probe() -> tuple[object | None, str]:
    """Give the kernel and a sentence on it; None and what is wrong where there is none."""
    return load_kernel()


def projection_columns(n: int, width: int, k: int) -> int:
    """How many columns projection codes should have; 0 where products of whole rows are as fast (measured, AVX2)."""
    columns = min(max(256, 16 * round(24 * (n / 16_000) ** 0.5)), width // 24 * 16)
    return columns if columns >= 256 and n >= 2048 and n * width > (8_000_000 if k <= 4 else 30_000_000) else 0


def measured_at_most(queries: int, n: int, k: int) -> int:
    """Pairs that are measured in all before the search is left to `exact`: there is no structure to filter by."""
    return queries * (64 + 8 * k + n // 64)


def rounding(width: int) -> float:
    """What a distance by float64 differences may be off by, as a share of it, whatever the order of summation."""
    return (width + 8) * 2.0**-52


def is_for(queries: int, n: int, width: int, k: int) -> bool:
    """Whether the kernel is for searches of this size."""
    fits = min(queries, n) >= SMALLEST and max(queries, n) <= LARGEST
    return fits and 0 < k <= LARGEST_K and 0 < width <= WIDEST


def planned_products(queries: int, n: int, width: int, k: int, *, within: bool) -> tuple[int, float] | None:
    """Columns of the codes of such a search, and how many times faster than floats they are multiplied.

    None where the kernel is not for such a search, not there, or has no vector instructions.
    """
    kernel, _ = load_kernel()
    if kernel is None or not kernel.machine or not is_for(queries, n, width, k):
        return None
    return (projection_columns(n, width, k) if within else 0) or width, SPEED[kernel.machine]


@search_distinct
def search(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k), by the contract."""
    found = _search(asked)
    return _exact.search(asked) if found is None else (found.indices, found.distances)


def search_both_ends(asked: Search) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `search` gives within one set, and the distance of every row to the farthest (n,), float64."""
    found = _search(asked, farthest=True)
    if found is None or found.farthest is None:
        return _exact.search_both_ends(asked)
    return found.indices, found.distances, found.farthest


@dataclass
class Found:
    """What a search found."""

    indices: torch.Tensor  # (Q, k), by the contract
    distances: torch.Tensor  # (Q, k)
    farthest: torch.Tensor | None = None  # (N,) float64


def _search(asked: Search, *, farthest: bool = False) -> Found | None:
    """The k nearest rows; None where these sets are not for the kernel."""
    kernel, words = load_kernel()
    if kernel is None:
        raise MissingExtraError(f"engine 'native' needs its kernel: {words}", extra="", package="pose2id")
    wide = asked.base.dtype == torch.float64
    n, width = asked.base.shape
    k = asked.k + SPARE if wide else asked.k
    if (
        asked.base.device.type != "cpu"
        or asked.queries.dtype != asked.base.dtype
        or not is_for(len(asked.queries), n, width, k)
    ):
        return None
    rows = asked.base if wide else asked.base.float()  # the kernel reads these
    queries = rows if asked.within else asked.queries if wide else asked.queries.float()
    same = replace(asked, queries=queries.contiguous(), base=rows.contiguous())
    if asked.within:
        same = replace(same, queries=same.base)
    with full_precision(rows.device):
        search = _Sweep(kernel, same, k, farthest=farthest)
        if not search.fits or not search.run():
            return None
        found, left = search.found()
    if len(left):
        _exact.search_rows(asked, left, found.indices, found.distances)
    return found


class _Codes:
    """One set in sweeping order, for the kernel."""

    def __init__(self, encoder: Encoder, rows: torch.Tensor, order: torch.Tensor) -> None:
        pad = -len(order) % PANEL
        self.codes, self.half, self.error = encoder.encode(rows, order, spare=pad)
        self.order = torch.nn.functional.pad(order, (0, pad), value=-1).int()
        self.half[len(order) :] = PADDING
        self.rows = rows
        self.labels: torch.Tensor | None = None
        self.lanes: torch.Tensor | None = None

    def pack(self, kernel: Kernel) -> None:
        """Give the codes the order in which the kernel reads them."""
        self.lanes = kernel.pack(self.codes)

    def take(self, at: torch.Tensor) -> _Codes:
        """Some rows, a multiple of `PANEL`, not yet packed."""
        part = object.__new__(_Codes)
        part.codes, part.half, part.error, part.order = (
            each[at] for each in (self.codes, self.half, self.error, self.order)
        )
        part.rows, part.labels, part.lanes = self.rows, None, None
        return part

    def label(self, labels: torch.Tensor | None) -> None:
        """Keep the labels of the set in sweeping order."""
        if labels is not None:
            self.labels = labels[self.order.long().clamp(min=0)].contiguous()

    def side(self) -> Side:
        """What the kernel is told."""
        parts = (self.codes, self.half, self.error, self.order, self.labels, self.lanes, self.rows)
        return Side(*(None if part is None else part.data_ptr() for part in parts), len(self.order))


class _Order:
    """Rows by the nearest of some pivots, which follow each other from near to near, by a part of their columns."""

    def __init__(self, encoder: Encoder, base: torch.Tensor) -> None:
        self.encoder = encoder
        width, pieces = base.shape[1], max(1, LOOKED_AT // 16)
        starts = {max(0, width - 16) * piece // max(1, pieces - 1) for piece in range(pieces)}
        self.columns = [slice(start, start + 16) for start in sorted(starts)]
        generator, count = torch.Generator("cpu").manual_seed(0), min(PIVOTS, 1 + len(base) // 16)
        pivots = self._look(base[torch.randperm(len(base), generator=generator, device="cpu")[:count]])
        near = (pivots @ pivots.T - self._half(pivots)).numpy()
        rank, at = [0] * len(pivots), 0
        for place in range(1, len(pivots)):  # a chain: from each pivot to the nearest one not yet visited
            near[:, at] = -torch.inf
            at = int(near[at].argmax())
            rank[at] = place
        self.pivots, self.rank = pivots, torch.tensor(rank, device="cpu")

    def _look(self, rows: torch.Tensor) -> torch.Tensor:
        parts = [(rows[:, at] * self.encoder.scale - self.encoder.centre[at]).float() for at in self.columns]
        return torch.cat(parts, dim=1)

    def _half(self, looked: torch.Tensor) -> torch.Tensor:
        return looked.square().sum(dim=1) / 2

    def sort(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The order of rows (n,), and their places in the chain, ascending; rows far from the middle last."""
        place, half = [], []
        for part in torch.split(rows, 4096):
            refit_threads()
            looked = self._look(part)
            place.append(self.rank[torch.addmm(-self._half(self.pivots), looked, self.pivots.T).argmax(dim=1)])
            half.append(self._half(looked))
        lengths = torch.cat(half)
        key = torch.cat(place) + PIVOTS * (lengths > 4 * lengths.median())
        key, order = key.sort(stable=True)
        return order, key


class _Tasks:
    """All that the kernel is asked to do, by number. They are made as they are needed.

    Tasks go in rounds: first bounds of the farthest, if asked for; then every block of the left side with the nearest
    block of the right one, `nearest` (a,), with the next, and so on. Within one set each pair of blocks comes once.
    """

    def __init__(self, nearest: torch.Tensor, blocks: int, *, within: bool, farthest: bool) -> None:
        self.nearest, self.blocks, self.outer = nearest, blocks, int(farthest)
        a, rounds = len(nearest), torch.arange(blocks, device="cpu")
        lengths = a - rounds if within else torch.full_like(rounds, a)
        self.starts = torch.cat([torch.zeros(1, dtype=torch.int64, device="cpu"), lengths]).cumsum(0)
        if farthest:
            self.starts = torch.cat([self.starts[:1], self.starts + a])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, first: int, stop: int) -> torch.Tensor:
        """Tasks `first` to `stop`, or to the last one: (n, 3), int32."""
        number = torch.arange(first, min(stop, len(self)), device="cpu")
        turn = torch.searchsorted(self.starts, number, right=True) - 1
        row, apart = number - self.starts[turn], turn - self.outer
        column = (self.nearest[row] + apart) % self.blocks
        kind = torch.where(apart < 0, OUTERMOST, ALL)
        return torch.stack([kind, row, column.masked_fill_(apart < 0, 0)], dim=1).int()


class _Sweep:
    """One search by the kernel: what it is lent, and what it gives back."""

    def __init__(self, kernel: Kernel, asked: Search, k: int, *, farthest: bool) -> None:
        self.kernel, self.asked, self.k = kernel, asked, k
        base, queries = asked.base, asked.queries
        n, width = base.shape
        self.wide = base.dtype == torch.float64
        products = Products(base.device)
        products.level = kernel.level
        columns = projection_columns(n, width, asked.k) if asked.within and not farthest else 0
        encoder = Encoder(base, products, None if asked.within else queries, columns=columns)
        if columns and encoder.map.captured < 0.5:
            encoder = Encoder(base, products, columns=0)
        self.encoder = encoder
        # Beyond, distances may be inf, all of them ties; `Frame` stops 2^8 or 2^24 below the largest number.
        most = torch.finfo(base.dtype).max / (2.0**24 if self.wide else 2.0**8)
        self.fits = 2 * width**0.5 / encoder.scale < most
        order = _Order(encoder, base)
        at, places = order.sort(base)
        self.right = self.left = _Codes(encoder, base, at)
        self.right.label(asked.base_labels)
        own = places
        if not asked.within:
            at, own = order.sort(queries)
            self.left = _Codes(encoder, queries, at)
            self.left.label(asked.query_labels)
        outer = None
        if farthest:
            where = torch.where(self.left.order >= 0, self.left.half, -1).topk(min(OUTER, len(self.left.half)))
            outer = self.left.take(where.indices)
        for each in (self.left, outer, None if asked.within else self.right):
            if each is not None:
                each.pack(kernel)
        self.outer = outer
        m = len(self.left.order)
        self.locks = torch.zeros(m, dtype=torch.uint8, device="cpu")
        self.limits = torch.full((m,), torch.inf, dtype=torch.float32, device="cpu")
        self.counts = torch.zeros(m, dtype=torch.int32, device="cpu")
        self.keys = torch.full((m, k), EMPTY, dtype=torch.int64, device="cpu")
        self.far = torch.full((m if farthest else 0,), -1.0, dtype=torch.float64, device="cpu")
        self.far_rows = torch.zeros(len(self.far), dtype=torch.int32, device="cpu")
        self.doubtful = torch.empty(ROOM, 2, dtype=torch.int32, device="cpu")
        self.doubts = torch.zeros(1, dtype=torch.int64, device="cpu")
        self.measured = torch.zeros(1, dtype=torch.int64, device="cpu")
        columns = self.left.codes.shape[1]
        self.block = min(256, max(PANEL, BLOCK // columns // PANEL * PANEL))
        a, b = (-(-len(each.order) // self.block) for each in (self.left, self.right))
        nearest = torch.arange(a, device="cpu")
        if not asked.within:
            # The block of the base whose places are those of the middle of the queries' block.
            middle = own[(nearest * self.block + self.block // 2).clamp(max=len(own) - 1)]
            nearest = torch.searchsorted(places, middle).clamp(max=len(places) - 1) // self.block
        self.tasks = _Tasks(nearest, b, within=asked.within, farthest=farthest)
        self.sweep = Sweep(
            self.left.side(), self.right.side(), Side() if outer is None else outer.side(),
            columns, width, k, CAP + 16 * k + n // 16, self.block,
            encoder.step, encoder.scale, rounding(width),
            kernel.machine, asked.within, self.wide, ROOM,
            self.locks.data_ptr(), self.limits.data_ptr(), self.counts.data_ptr(), self.keys.data_ptr(),
            self.far.data_ptr() if farthest else None, self.far_rows.data_ptr(),
            self.doubtful.data_ptr(), self.doubts.data_ptr(), self.measured.data_ptr(),
        )  # fmt: skip

    def run(self) -> bool:
        """All tasks; whether that was worth it."""
        n, each = len(self.left.order), self.block**2 * self.left.codes.shape[1]
        size = max(1, min(SLICE // each, len(self.tasks) // 16))  # enough for some threads
        most = measured_at_most(n, len(self.right.order), self.k)
        done, total = self._run_slices(size), -(-len(self.tasks) // size)
        for _ in tqdm(done, total=total, desc="neighbours", unit="slice", disable=not self.asked.progress):
            if int(self.measured) > most:
                done.close()
                return False
        return True

    def _run_slices(self, size: int) -> Generator[None, None, None]:
        """Run so many tasks in each call of the kernel."""
        at_once = max(1, AT_ONCE // size) * size
        for first in range(0, len(self.tasks), at_once):
            slices = torch.split(self.tasks.take(first, first + at_once), size)
            refit_threads()
            yield from map_in_threads(lambda part: self.kernel.sweep(self.sweep, part), slices, self.limits.device)

    def found(self) -> tuple[Found, torch.Tensor]:
        """What was found, and the rows that are left over, ascending."""
        asked = self.asked
        real = self.left.order >= 0
        order = self.left.order[real].long()
        self._settle_doubts()
        keys = self.keys[real].sort(dim=1).values
        near, bits = keys & LAST, (keys >> 32).int().view(torch.float32)
        near = near.masked_fill_(near == LAST, -1)
        left = self.limits[real] < 0
        indices, distances = asked.no_neighbors()
        if self.wide:
            scale = self.encoder.scale
            indices[order], distances[order] = _exact.measure(asked, order, near, scale)
            # What was not kept is farther than the float32 number below the last that was.
            beyond = bits[:, -1].nextafter(torch.full_like(bits[:, -1], -1)).double() / scale
            left |= ~((beyond > distances[order, -1]) | (near[:, -1] < 0))
        else:
            indices[order], distances[order] = near, bits
        far = None
        if len(self.far):
            far = torch.empty(len(order), dtype=torch.float64, device="cpu")
            far[order] = pair_distances(asked.base, asked.base, order, self.far_rows[real].long(), self.encoder.scale)
        return Found(indices, distances, far), order[left].sort().values

    def _settle_doubts(self) -> None:
        """Measure the pairs that were kept apart, for both of their rows."""
        count = min(int(self.doubts), ROOM)
        if not count:
            return
        row, column = self.doubtful[:count].long().T
        if self.asked.within:
            row, column = torch.cat([row, column]), torch.cat([column, row])
        own, other = self.left.order[row].long(), self.right.order[column].long()
        measured = pair_distances(self.asked.queries, self.asked.base, own, other, self.encoder.scale).float()
        keys = (measured.view(torch.int32).long() << 32) + other
        touched = row.unique()
        keys = torch.cat([keys, self.keys[touched].flatten()])
        row = torch.cat([row, touched.repeat_interleave(self.k)])
        order = keys.argsort()
        order = order[row[order].argsort(stable=True)]  # by row, then by key
        row, keys = row[order], keys[order]
        fresh = torch.ones_like(row, dtype=torch.bool)
        fresh[1:] = (row[1:] != row[:-1]) | (keys[1:] != keys[:-1])  # a pair may be met by both of its rows
        row, keys = row[fresh], keys[fresh]
        place = torch.arange(len(row), device="cpu") - torch.searchsorted(row, row)
        kept = place < self.k
        self.keys[touched] = EMPTY
        self.keys[row[kept], place[kept]] = keys[kept]


LAST = 2**32 - 1
EMPTY = (0x7F800000 << 32) + LAST
"""The key of no neighbour."""
