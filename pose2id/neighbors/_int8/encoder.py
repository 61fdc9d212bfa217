"""Rows as int8 codes with a proven error: how a set is mapped, and what the codes say about distances.

A set is moved to about its mean, scaled by a power of two, and mapped by a linear map that lengthens no difference:

`Rotation`
    One orthogonal matrix for every `ROTATED` columns, which evens out their entries. Distances stay as they are.
`Projection`
    y = P x with some hundred rows of P along the directions in which a sample varies most, and one more coordinate,
    the length of what P leaves over: r = sqrt(|x|² - |y|²). For |P| <= 1 there is a matrix R with
    |x|² = |P x|² + |R x|², so d² = |P (x_i - x_j)|² + |R (x_i - x_j)|², and the second part is at least
    (|R x_i| - |R x_j|)² = (r_i - r_j)².

A mapped row z is written as step * q + rest with int8 codes q. With E = |rest| and what rounding may hide (below),

    step |q_i - q_j| - E_i - E_j  <=  d(i, j)                                                             (1)

for both maps, and for rotations also d(i, j) <= step |q_i - q_j| + E_i + E_j.

**Rounding** (u = 2^-24). Subtracting the centre rounds each entry once, u |x|. A rotation sums b = 16 products per
entry with a matrix orthogonal to about b u: ((b + 3) sqrt(b) + 2) u |x|, about 80 u |x|. A projection sums D products
in parts of `PART` columns, each entry off by (PART + D / PART) u |x| |P_m|, together
v = (PART + D / PART + 4) u |P|_F |x|, where P is divided by 1 + |P P' - 1|_F so that |P| <= 1. The computed r² is off
by at most w = (2 v + 3 (PART + D / PART + 8) u |x|) |x|, so r by at most w / r, or sqrt(w) where that is less. All of
it goes into E, with 1 % for the rounding of the bounds themselves and for a float64 row's way to float32. |rest| is a
float32 sum of squares of D' entries, off by a factor of at most 1 + (D' + 8) u. Squares below float32's range, and
float32 distances below its normal numbers, are covered by adding 1e-20 (1 + step) and one least float32 number to
every E.
"""

from __future__ import annotations

import torch

from pose2id.arrays import rows_at_once
from pose2id.distances import Frame
from pose2id.neighbors._int8.machine import allocate_codes
from pose2id.neighbors._int8.products import Products
from pose2id.threads import refit_threads

ROTATED = 16
"""Columns that are rotated together."""
PART = 128
"""Columns that a projection sums at once."""
CHUNK = 2**20
"""Entries of the rows that are encoded at once, an eighth of it for rotations: for the caches."""
UNIT = 2.0**-24
ALLOWANCE = 160
"""Twice what moving and rotating may hide, in u |x|."""


class Rotation:
    """Rows rotated by one orthogonal matrix for every `ROTATED` columns."""

    captured = 1.0
    chunk = CHUNK // 8

    def __init__(self, width: int, device: torch.device) -> None:
        self.width, self.columns = width, -(-width // ROTATED) * ROTATED
        generator = torch.Generator("cpu").manual_seed(0)
        random = torch.randn(ROTATED, ROTATED, dtype=torch.float64, generator=generator, device="cpu")
        self.matrix = torch.linalg.qr(random)[0].float().to(device)

    def __call__(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows under the map, (b, columns), and what rounding may hide in them, (b,)."""
        if self.columns > self.width:
            centred = torch.nn.functional.pad(centred, (0, self.columns - self.width))
        mapped = torch.mm(centred.reshape(-1, ROTATED), self.matrix).view(len(centred), self.columns)
        return mapped, mapped.square().sum(dim=1).double().sqrt() * (ALLOWANCE * UNIT)


class Projection:
    """Rows on the main directions of a sample, and the length of what these leave over.

    `captured` is the share of the sample's squared lengths on the main directions.
    """

    chunk = CHUNK

    def __init__(self, sample: torch.Tensor, columns: int, squared: torch.Tensor) -> None:
        """`sample` (n, D) is centred, float32; `squared` the sum of its squared lengths."""
        self.width, self.columns = sample.shape[1], columns
        self.matrix = _main_directions(sample, columns - 1)
        self.norm = float(self.matrix.double().norm())
        mapped = self._project(sample)[0]
        self.captured = float(mapped[:, :-1].square().sum() / squared.clamp(min=1e-30))
        self.left_over = float(mapped[:, -1].mean())

    def __call__(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows under the map, (b, columns), and what rounding may hide in them, (b,)."""
        mapped, hidden, squared = self._project(centred)
        mapped[:, -1] -= self.left_over  # so that its codes, too, lie around zero
        return mapped, hidden.add_(squared.sqrt().add_(self.left_over).mul_(4 * UNIT))

    def _project(self, centred: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """y and r side by side, what rounding may hide in them, and |x|²."""
        mapped = torch.zeros(len(centred), self.columns, dtype=torch.float32, device=centred.device)
        squared = torch.zeros(len(centred), dtype=torch.float64, device=centred.device)
        for start in range(0, self.width, PART):
            part = centred[:, start : start + PART]
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


def _main_directions(sample: torch.Tensor, count: int) -> torch.Tensor:
    """A (D, count) matrix of norm at most 1 along the directions in which `sample` varies most, rotated at random."""
    device, generator = sample.device, torch.Generator("cpu").manual_seed(0)
    start = sample[torch.randperm(len(sample), generator=generator, device="cpu")[:count].to(device)].T
    start = sample.T @ (sample @ start)  # one step of subspace iteration, from rows instead of noise
    # Rotating them at random evens out the coordinates, which share one step.
    random = torch.randn(count, count, dtype=torch.float32, generator=generator, device="cpu")
    rotation = torch.linalg.qr(random)[0].to(device)
    matrix: torch.Tensor = torch.linalg.qr(start / start.abs().max().clamp(min=1e-30))[0] @ rotation
    matrix = matrix.double()
    excess = (matrix.T @ matrix - torch.eye(count, dtype=torch.float64, device=device)).norm()
    matrix /= (1 + excess) * (1 + 2 * count**0.5 * UNIT)  # rounding to float32 lengthens it by sqrt(count) u at most
    return matrix.float()


class Encoder:
    """The way from rows to codes, made for a set from a sample of it; by a projection if `columns` is given.

    `scale` is the power of two between the caller's units and the frame, `step` the distance of neighbouring codes in
    the frame, `offset` how much longer rows are as given than around their mean: the ratio of squared lengths.
    """

    def __init__(
        self, base: torch.Tensor, products: Products, queries: torch.Tensor | None = None, *, columns: int = 0
    ) -> None:
        n, self.width = base.shape
        self.products, self.level = products, products.level
        self.wide = base.dtype == torch.float64
        self.scale = Frame(base, queries, centred=False).scale
        count = min(n, 5 * columns if columns else 256)
        sample = base[torch.linspace(0, n - 1, count, dtype=torch.float64, device=base.device).long()]
        sample = (sample if self.wide else sample.float()) * self.scale
        self.centre = sample.double().mean(dim=0).to(sample.dtype)
        lengths = sample.square().sum()
        squared = sample.sub_(self.centre).square().sum()
        self.offset = float(lengths / squared.clamp(min=1e-30))
        centred = sample.float()
        self.map = Projection(centred, columns, squared) if columns else Rotation(self.width, base.device)
        spread = self.map(centred[:: max(1, len(centred) // 256)])[0].abs().flatten()
        # Not smaller, or dividing by it would leave float32's range for rows far longer than the sample's.
        self.step = max(float(spread.topk(max(1, len(spread) // 10_000)).values[-1]) / self.level, 1e-30)

    def encode(
        self, rows: torch.Tensor, at: torch.Tensor | None = None, *, spare: int = 0
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes (n, D'), h (n,) and E (n,) of rows, in their own order or of the rows `at`; zeros for `spare` more."""
        n, device, columns = len(rows) if at is None else len(at), rows.device, self.map.columns
        underflow = 1e-20 * (1 + self.step) + (0.0 if self.wide else 2.0**-149 * self.scale)
        codes = allocate_codes(n + spare, columns, device)
        half = torch.zeros(n + spare, dtype=torch.int32, device=device)
        error = torch.zeros(n + spare, dtype=torch.float64, device=device)
        at_once = max(64, rows_at_once(rows, self.map.chunk))
        for start in range(0, n, at_once):
            refit_threads()
            block = slice(start, min(start + at_once, n))
            part = rows[block] if at is None else rows.index_select(0, at[block])
            centred = ((part if self.wide else part.float()) * self.scale).sub_(self.centre).float()
            mapped, hidden = self.map(centred)
            mapped.div_(self.step)
            whole = mapped.round().clamp_(-self.level, self.level)
            codes[block] = whole
            rest = mapped.sub_(whole).square_().sum(dim=1).double().sqrt() * self.step
            error[block] = rest * (1 + (columns + 8) * UNIT) + 1.01 * hidden + underflow
            half[block] = whole.square_().sum(dim=1, dtype=torch.float64).div_(2).floor_().int()
        return codes, half, error
