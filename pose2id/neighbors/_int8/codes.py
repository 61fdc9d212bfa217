"""Rows as int8 codes whose products bound the distances of the rows: the arithmetic of the filter in `_filter`.

**Codes.** A set is moved by a common vector, scaled by a power of two, and mapped by a linear map that never lengthens
a difference. Of such maps there are two:

`turn`
    One orthogonal matrix for every `TURN` columns, which evens out their entries. Distances stay as they are.
`prefix`
    y = P x with some hundred rows of P along the directions in which a sample varies most, and one more coordinate,
    the length of what P leaves over: r = sqrt(|x|² - |y|²). For |P| <= 1 there is a matrix R with
    |x|² = |P x|² + |R x|², so d² = |P (x_i - x_j)|² + |R (x_i - x_j)|², and the second part is at least
    (|R x_i| - |R x_j|)² = (r_i - r_j)².

A mapped row z is written as step * q + rest with int8 codes q. With E = |rest| and what rounding may hide (below),

    step |q_i - q_j| - E_i - E_j  <=  d(i, j)                                                             (1)

for both maps, and for `turn` also d(i, j) <= step |q_i - q_j| + E_i + E_j. |q_i - q_j|² is exact integer arithmetic:
with h = floor(|q|² / 2), the product c = q_i . q_j - h_i - h_j obeys

    -2 c  <=  |q_i - q_j|²  <=  2 - 2 c.                                                                  (2)

So a row whose k-th neighbour is known to be within t needs only those j with

    c >= -((t + E_i + E_j) / step)² / 2.                                                                  (3)

**Rounding** (u = 2^-24). Subtracting rounds each entry once, u |x|. `turn` sums b = 16 products per entry with a matrix
orthogonal to about b u: ((b + 3) sqrt(b) + 2) u |x|, about 80 u |x|. `prefix` sums D products in parts of `PART`
columns, each entry off by (PART + D / PART) u |x| |P_m|, together v = (PART + D / PART + 4) u |P|_F |x|, where P is
divided by 1 + |P P' - 1|_F so that |P| <= 1. The computed r² is off by at most
w = (2 v + 3 (PART + D / PART + 8) u |x|) |x|, so r by at most w / r, or sqrt(w) where that is less. All of it goes into
E, with 1 % for the rounding of the bounds themselves and for a float64 row's way to float32. |rest| is a float32 sum of
squares of D' entries, off by a factor of at most 1 + (D' + 8) u. The integer limit of (3) is lowered by 3 for the
rounding of its own float64 arithmetic and of (2). Squares below float32's range, and float32 distances below its normal
numbers, are covered by adding 1e-20 (1 + step) and one least float32 number to every E.
"""

from __future__ import annotations

import itertools
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from pose2id.arrays import row_blocks

TILE = 2048
"""Rows of a tile; half of it for sets of fewer than four tiles, which need tiles that are near each other."""
TILE_CUDA = 8192
GROUP = 64
"""Rows are padded to whole groups: int8 products on CUDA want multiples of 8, maxima over groups whole ones."""
TURN = 16
PART = 128
PIVOTS = 256
CHUNK = 2**20
MEMORY_SHARE = 1 / 3
"""Codes that take more of the machine's memory go into a temporary file."""
UNIT = 2.0**-24
ALLOWANCE = 160
"""Twice what moving and turning may hide, in u |x|."""
NONE = -800_000_000
"""Below every c of two real rows of at most `WIDEST` columns, above those of padding."""
PADDING = 950_000_000
WIDEST = 16_384


@lru_cache
def largest_code(device_type: str) -> int:
    """The largest code whose products are exact on this machine: 127, 63, or 0 when int8 products cannot be used.

    Without AVX512-VNNI the CPU adds pairs of products in 16 bits, which codes of 127 overflow.
    """
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


@lru_cache
def code_speed(device_type: str) -> float:
    """How many times faster this machine multiplies codes than float32 numbers: about 4 with VNNI, 20 with AMX.

    Measured once, in some ten milliseconds. Only the way to an answer depends on it, never the answer.
    """

    def least_time(multiply: Callable[[], object]) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
        return min(times)

    codes = torch.ones(512, 768, dtype=torch.int8, device=device_type)
    rows = codes.float()
    return least_time(lambda: rows @ rows.T) / least_time(lambda: torch._int_mm(codes, codes.T))


def room(n: int, columns: int, device: torch.device) -> torch.Tensor:
    """Zeros (n, columns), int8, in a temporary file (of `TMPDIR`) where memory is short for them."""
    if device.type == "cpu" and n * columns > MEMORY_SHARE * _memory():
        with tempfile.TemporaryFile() as file:  # the mapping keeps it, and nothing of it stays behind
            if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                os.posix_fallocate(file.fileno(), 0, n * columns)
            return torch.from_numpy(np.memmap(file, np.int8, "w+", shape=(n, columns)))
    return torch.zeros(n, columns, dtype=torch.int8, device=device)


def _memory() -> float:
    """Bytes of memory this machine has; unlimited where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf


@dataclass
class Codes:
    """Rows as codes, in sweeping order, padded to whole groups; see the module for the symbols."""

    codes: torch.Tensor  # (n, D'), int8
    half: torch.Tensor  # (n,), int32: h, out of reach for padding
    error: torch.Tensor  # (n,), float64: E
    order: torch.Tensor  # (n,), int64: row of the set, -1 for padding
    starts: list[int]  # of the tiles, and n

    def take(self, at: torch.Tensor) -> Codes:
        """The codes at some positions, in that order, padded again."""
        at = torch.nn.functional.pad(at, (0, -len(at) % GROUP), value=-1)
        part = lay_out(self.codes, self.half, self.error, at)
        part.order = torch.where(at >= 0, self.order[at.clamp(min=0)], -1)
        return part


class Encoder:
    """The map from rows to codes, made for a set from a sample of it.

    Attributes
    ----------
    step : float
        Distance of neighbouring codes, in the frame.
    scale : float
        The power of two between the caller's units and the frame.
    captured : float
        The share of the sample's squared lengths that the map keeps; 1 for `turn`.
    offset : float
        How much longer rows are as given than around their mean: the ratio of squared lengths in the sample.
    """

    def __init__(
        self, base: torch.Tensor, level: int, queries: torch.Tensor | None = None, *, columns: int = 0
    ) -> None:
        n, self.width = base.shape
        self.level, self.prefix = level, columns > 0
        self.wide = base.dtype == torch.float64
        largest = 0.0
        for rows in (base,) if queries is None else (base, queries):
            for block in row_blocks(*rows.shape):
                largest = max(largest, *(abs(float(end)) for end in torch.aminmax(rows[block])))
        exponent = math.frexp(largest)[1]
        self.scale = math.ldexp(1.0, -max(-1000 if self.wide else -120, min(1000, exponent)))
        count = min(n, 5 * columns if columns else 256)
        sample = base[torch.linspace(0, n - 1, count, dtype=torch.float64, device=base.device).long()]
        placed = (sample if self.wide else sample.float()) * self.scale
        self.centre = placed.double().mean(dim=0).to(placed.dtype)
        lengths = placed.square().sum()
        squared = placed.sub_(self.centre).square().sum()
        self.offset = float(lengths / squared.clamp(min=1e-30))
        moved = placed.float()
        generator = torch.Generator("cpu").manual_seed(0)
        self.columns = columns or -(-self.width // TURN) * TURN
        if columns:
            self.matrix = _main_directions(moved, columns - 1, generator)
            self.norm = float(self.matrix.double().norm())
            mapped = self._projected(moved)[0]
            self.captured = float(mapped[:, :-1].square().sum() / squared.clamp(min=1e-30))
            self.left_over = float(mapped[:, -1].mean())
            mapped[:, -1] -= self.left_over
        else:
            random = torch.randn(TURN, TURN, dtype=torch.float64, generator=generator, device="cpu")
            self.matrix = torch.linalg.qr(random)[0].float().to(base.device)
            mapped, self.captured = self._turned(moved), 1.0
        spread = mapped[:: max(1, len(mapped) // 256)].abs().flatten()
        # Not smaller, or dividing by it would leave float32's range for rows far longer than the sample's.
        self.step = max(float(spread.topk(max(1, len(spread) // 10_000)).values[-1]) / level, 1e-30)

    def _moved(self, rows: torch.Tensor) -> torch.Tensor:
        return ((rows if self.wide else rows.float()) * self.scale).sub_(self.centre).float()

    def _turned(self, moved: torch.Tensor) -> torch.Tensor:
        if self.columns > self.width:
            moved = torch.nn.functional.pad(moved, (0, self.columns - self.width))
        turned: torch.Tensor = torch.mm(moved.reshape(-1, TURN), self.matrix).view(len(moved), self.columns)
        return turned

    def _projected(self, moved: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rows under the map `prefix` (b, D'), what rounding may hide in them, and their squared lengths."""
        mapped = torch.zeros(len(moved), self.columns, dtype=torch.float32, device=moved.device)
        squared = torch.zeros(len(moved), dtype=torch.float64, device=moved.device)
        for start in range(0, self.width, PART):
            part = moved[:, start : start + PART]
            mapped[:, :-1].addmm_(part, self.matrix[start : start + PART])
            squared += part.square().sum(dim=1)
        kept = torch.zeros_like(squared)
        for start in range(0, self.columns - 1, PART):
            kept += mapped[:, start : min(start + PART, self.columns - 1)].square().sum(dim=1)
        rest = (squared - kept).clamp_(min=0).sqrt_()
        mapped[:, -1] = rest
        length = squared.sqrt()
        sums = (PART + self.width / PART + 4) * UNIT
        off = length * (sums * self.norm)  # v
        wrong = (2 * off + 3 * (sums + 4 * UNIT) * length) * length  # w
        return mapped, off + torch.minimum(wrong.sqrt(), wrong / rest.clamp(min=1e-300)), squared

    def encode(
        self, rows: torch.Tensor, at: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes (n, D'), h (n,) and E (n,) of rows, in their own order or of the rows `at`."""
        n, device = len(rows) if at is None else len(at), rows.device
        underflow = 1e-20 * (1 + self.step) + (0.0 if self.wide else 2.0**-149 * self.scale)
        codes = room(n, self.columns, device)
        half = torch.empty(n, dtype=torch.int32, device=device)
        error = torch.empty(n, dtype=torch.float64, device=device)
        at_once = max(64, (CHUNK if self.prefix else CHUNK // 8) // self.width)
        for start in range(0, n, at_once):
            block = slice(start, min(start + at_once, n))
            moved = self._moved(rows[block] if at is None else rows.index_select(0, at[block]))
            if self.prefix:
                mapped, hidden, squared = self._projected(moved)
                mapped[:, -1] -= self.left_over
                hidden += 4 * UNIT * (squared.sqrt() + self.left_over)
            else:
                mapped = self._turned(moved)
                hidden = mapped.square().sum(dim=1).double().sqrt() * (ALLOWANCE * UNIT)
            mapped.div_(self.step)
            whole = mapped.round().clamp_(-self.level, self.level)
            codes[block] = whole
            rest = mapped.sub_(whole).square_().sum(dim=1).double().sqrt() * self.step
            error[block] = rest * (1 + (self.columns + 8) * UNIT) + 1.01 * hidden + underflow
            half[block] = whole.square_().sum(dim=1, dtype=torch.float64).div_(2).floor_().int()
        return codes, half, error


def _main_directions(moved: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """A (D, count) matrix of norm at most 1 along the directions in which `moved` varies most, turned at random."""
    device = moved.device
    start = moved[torch.randperm(len(moved), generator=generator, device="cpu")[:count].to(device)].T
    start = moved.T @ (moved @ start)  # one step of subspace iteration, from rows instead of noise
    # Turning them at random evens out the coordinates, which share one step.
    random = torch.randn(count, count, dtype=torch.float32, generator=generator, device="cpu")
    turn = torch.linalg.qr(random)[0].to(device)
    matrix: torch.Tensor = torch.linalg.qr(start / start.abs().max().clamp(min=1e-30))[0] @ turn
    matrix = matrix.double()
    excess = (matrix.T @ matrix - torch.eye(count, dtype=torch.float64, device=device)).norm()
    matrix /= (1 + excess) * (1 + 2 * count**0.5 * UNIT)  # rounding to float32 lengthens it by sqrt(count) u at most
    return matrix.float()


def sort_codes(codes: torch.Tensor, half: torch.Tensor, error: torch.Tensor) -> Codes:
    """A set in sweeping order: sorted by the nearest of some pivots, near rows spread over a tile's groups.

    Rows with large errors go last, so that the largest error of a tile is small for most tiles.
    """
    n, device = len(codes), codes.device
    if n < GROUP:
        return lay_out(
            codes, half, error, torch.nn.functional.pad(torch.arange(n, device=device), (0, -n % GROUP), value=-1)
        )
    generator = torch.Generator("cpu").manual_seed(0)
    pivots = torch.randperm(n, generator=generator, device="cpu")[: min(PIVOTS, n // 8 * 8)].to(device)
    near = (torch._int_mm(codes[pivots], codes[pivots].T) - half[pivots]).cpu().numpy()
    rank, at = [0] * len(pivots), 0
    for place in range(1, len(pivots)):  # a chain: from each pivot to the nearest one not yet visited
        near[:, at] = 2 * NONE
        at = int(near[at].argmax())
        rank[at] = place
    nearest = torch.empty(n, dtype=torch.int64, device=device)
    for start in range(0, n, 4096):
        part = slice(max(0, min(start, n - 4096)), start + 4096)  # the last one whole, for CUDA's sake
        nearest[part] = (torch._int_mm(codes[part], codes[pivots].T) - half[pivots]).argmax(dim=1)
    key = torch.tensor(rank, device=device)[nearest] + len(pivots) * (error > 1.5 * error.median())
    order = torch.nn.functional.pad(key.argsort(stable=True), (0, -n % GROUP), value=-1)
    for start, stop in itertools.pairwise(_tiles(len(order), device)):
        order[start:stop] = order[start:stop].view(GROUP, -1).T.flatten().clone()
    return lay_out(codes, half, error, order)


def _tiles(n: int, device: torch.device) -> list[int]:
    """Where tiles of whole groups and nearly equal size start, and n."""
    tile = TILE_CUDA if device.type == "cuda" else TILE if n >= 4 * TILE else max(GROUP, TILE // 2)
    groups, tiles = n // GROUP, max(1, -(-n // tile))
    return [GROUP * (groups * i // tiles) for i in range(tiles + 1)]


def lay_out(codes: torch.Tensor, half: torch.Tensor, error: torch.Tensor, order: torch.Tensor) -> Codes:
    """Rows in the given order, -1 for padding."""
    at = order.clamp(min=0)
    sorted_codes = torch.index_select(codes, 0, at, out=room(len(at), codes.shape[1], codes.device))
    return pad(sorted_codes, half[at], error[at], order)


def pad(codes: torch.Tensor, half: torch.Tensor, error: torch.Tensor, order: torch.Tensor) -> Codes:
    """Codes that are in that order already; writes the padding's h and E."""
    half[order < 0], error[order < 0] = PADDING, 0.0
    return Codes(codes, half, error, order, _tiles(len(order), codes.device))
