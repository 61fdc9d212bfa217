"""Distances between rows, fast with a bound on their error, and exact for chosen pairs; rows of unit length.

A tile of distances comes from a matrix product, |q|² + |g|² - 2 q.g, which loses digits where rows are close
together. So the product is only ever used to say which pairs *cannot* matter; those that can are computed again
as differences in float64. The two forms:

`Frame.centre_rows`
    moves rows to the mean of the set and scales them by a power of two, so that nothing overflows and a common
    offset costs no digits. With u the rounding unit of the product's dtype and D columns, the computed squared
    distance p of two centred rows q, g obeys (Higham, Accuracy and Stability, 3.5, for any order of summation)

        |p - d²| <= (D + 4) u (|q| + |g|)²,

    and centring itself moves d by at most u (|q| + |g|), that is d² by at most 2u (|q| + |g|)² and a little. With
    (|q| + |g|)² <= 2|q|² + 2|g|², everything together is, to first order in D u, below `slack(D, dtype)` (|q|² + |g|²).

`pair_distances`
    sums squared differences in float64. The value depends on the two rows only, never on a tile or on the place of the
    pair in a batch (beyond the last bits of float64, where a library sums few very long rows in another order); it is
    symmetric, and exactly 0 for identical rows.
"""

from __future__ import annotations

import contextlib
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import torch

from pose2id.arrays import BLOCK_ELEMENTS, row_blocks, rows_at_once
from pose2id.threads import refit_threads

PAIR_ELEMENTS = 2**17
"""Elements of the pairs that are measured at once, for the caches of a CPU."""
VANISHED = 2.0**-900
"""A sum of squares below may lack some that left the range of float64; those of narrower features never do."""
PIECE = 2**14
"""Columns that are summed at once where the order must not depend on the number of rows: threads share 2**15."""


def slack(width: int, dtype: torch.dtype) -> float:
    """The factor of (|q|² + |g|²) that bounds the error of a product tile of `width` columns; see the module."""
    return (width + 8) * torch.finfo(dtype).eps  # 2 (D + 8) u; eps is 2 u


def underflow(dtype: torch.dtype, width: int) -> float:
    """What underflow can hide in a squared distance of `width` columns of centred rows."""
    return 8 * width * float(torch.finfo(dtype).tiny)


def lower_distances(squared: torch.Tensor, width: int, scale: float) -> torch.Tensor:
    """Squared lower bounds in a frame as distances in the caller's units, less what measuring may round."""
    return squared.clamp(min=0).sqrt() * ((1 - (width + 8) * 2.0**-52) / scale)


class Frame:
    """How rows are moved before a product: to the mean of `base`, scaled to the size of both sets.

    `scale` is a power of two, so scaling is exact, `largest` the largest entry of both sets. `most`: the mean of about
    so many rows, evenly spread, will do.
    """

    def __init__(
        self,
        base: torch.Tensor,
        queries: torch.Tensor | None = None,
        *,
        centred: bool = True,
        most: int | None = None,
    ) -> None:
        sets = [base] if queries is None or queries is base else [base, queries]
        # Asked once, since a GPU's host has to wait for it.
        ends = [torch.stack(torch.aminmax(rows[block])) for rows in sets for block in row_blocks(rows)]
        self.largest = float(torch.cat(ends).abs().max()) if ends else 0.0
        exponent = math.frexp(self.largest)[1]
        # Narrow rows are centred in float32, which has no powers of two above 2^127.
        self.wide = torch.float64 if any(rows.dtype == torch.float64 for rows in sets) else torch.float32
        self.scale = math.ldexp(1.0, -max(-1000 if self.wide == torch.float64 else -120, min(1000, exponent)))
        self.centre = torch.zeros(base.shape[1], dtype=torch.float64, device=base.device)
        if centred and len(base):
            # Differences to one row, so that a constant column leaves nothing behind.
            first = base[:1].to(self.wide) * self.scale
            some = base if most is None else base[:: max(1, len(base) // most)]
            for block in row_blocks(some):
                self.centre += (some[block].to(self.wide) * self.scale).sub_(first).sum(dim=0)
            self.centre = self.centre / len(some) + first[0]

    def centre_rows(self, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`rows` (n, D), centred and scaled, in `dtype`; a new tensor, made a block at a time."""
        moved = torch.empty(rows.shape, dtype=dtype, device=rows.device)
        # Rounding the centre moves it for all rows alike, so narrow rows need no float64 on the way to float32.
        wide = torch.float64 if torch.float64 in (self.wide, dtype) else torch.float32
        centre = self.centre.to(wide)
        for block in row_blocks(rows):
            if dtype == wide:  # in one pass
                torch.add(-centre, rows[block].to(wide), alpha=self.scale, out=moved[block])
            else:
                moved[block] = (rows[block].to(wide) * self.scale).sub_(centre)
        return moved


def split_lengths(rows: torch.Tensor) -> list[torch.Tensor]:
    """What rows (float64) are to be divided by, one after the other, to have length 1; (b, 1) each.

    That is their length, or, where some squares could leave the range of float64, the largest entry first. It is 1
    for a row of zeros, and depends on nothing but the row.
    """
    length: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    rare = ~((length > 1e-140) & (length < 1e140)).flatten()
    if not bool(rare.any()):
        return [length]
    largest = torch.ones_like(length)
    largest[rare] = rows[rare].abs().amax(dim=1, keepdim=True)
    largest.masked_fill_(largest == 0, 1)
    length[rare] = torch.linalg.vector_norm(rows[rare] / largest[rare], dim=1, keepdim=True)
    return [largest, length.masked_fill_(length == 0, 1)]


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Rows (float64) scaled to length 1, a new tensor; a row of zeros stays."""
    return scale_to_unit(rows.clone())


def scale_to_unit(rows: torch.Tensor) -> torch.Tensor:
    """`rows` (float64), scaled in place to length 1; a row of zeros stays."""
    for length in split_lengths(rows):
        rows /= length
    return rows


def row_sums(rows: torch.Tensor) -> torch.Tensor:
    """The sum of every row, (n,); it depends on the row only.

    torch sums a few very long rows by several threads, in another order than many; in pieces of `PIECE` it never does.
    """
    if rows.shape[1] <= PIECE:
        return rows.sum(dim=1)
    return torch.stack([piece.sum(dim=1) for piece in torch.split(rows, PIECE, dim=1)], dim=1).sum(dim=1)


def squared_norms(rows: torch.Tensor) -> torch.Tensor:
    """|row|² as float64, shape (n,), summed in the dtype of the rows: `slack` has room for that."""
    norms = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    for block in row_blocks(rows):
        norms[block] = rows[block].square().sum(dim=1)
    return norms


def pair_distances(
    queries: torch.Tensor, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: float = 1.0
) -> torch.Tensor:
    """Euclidean distances (not squared) of the pairs queries[left], base[right], float64, in the caller's units.

    `scale`, a power of two, keeps squares inside the range of float64, but for those of tiny differences of float64
    rows: these are measured by their own scale.
    """
    result = torch.empty(len(left), dtype=torch.float64, device=queries.device)
    step = min(len(left), rows_at_once(queries, PAIR_ELEMENTS))
    buffers = torch.empty(2, step, queries.shape[1], dtype=torch.float64, device=queries.device)
    for start in range(0, len(left), step or 1):
        refit_threads()
        pairs = slice(start, min(start + step, len(left)))
        difference, other = buffers[:, : pairs.stop - start]
        difference.copy_(queries.index_select(0, left[pairs]))
        other.copy_(base.index_select(0, right[pairs]))
        if scale != 1:
            difference.mul_(scale)
            other.mul_(scale)
        squared = difference.sub_(other).square_().sum(dim=1)
        result[pairs] = squared.sqrt().div_(scale)
        if torch.float64 in (queries.dtype, base.dtype):
            tiny = (squared < VANISHED).nonzero().flatten()
            apart = queries[left[pairs][tiny]].double() - base[right[pairs][tiny]].double()
            some = (apart != 0).any(dim=1, keepdim=True)  # the length of a row of zeros is given as 1
            result[start + tiny] = math.prod(split_lengths(apart), start=some.double()).flatten()
    return result


def check_range(distances: torch.Tensor) -> None:
    """Raise ValueError if one of some measured distances is inf: above the largest number of its dtype."""
    if bool((distances == torch.inf).any()):
        dtype = distances.dtype
        raise ValueError(
            f"distances leave the range of {dtype}: received features so large that some of their distances are above "
            f"{torch.finfo(dtype).max:.2g}; divide the features by a constant"
            + (", or pass float64 features" if dtype == torch.float32 else "")
        )


def pair_products(queries: torch.Tensor, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Inner products of the pairs queries[left], base[right] in their dtype, which is one.

    Their error is that of a product tile (without centring).
    """
    result = torch.empty(len(left), dtype=base.dtype, device=base.device)
    step = rows_at_once(base, 2 * PAIR_ELEMENTS)  # mostly half as wide as what is measured
    for start in range(0, len(left), step):
        refit_threads()
        pairs = slice(start, start + step)
        result[pairs] = queries.index_select(0, left[pairs]).mul_(base.index_select(0, right[pairs])).sum(dim=1)
    return result


@lru_cache
def hear_warning_about_csr() -> None:
    """Make torch say, once and unheard, that its CSR tensors are in beta state; it says so once per process."""
    with _lock, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support")
        start = torch.zeros(2, dtype=torch.int64, device="cpu")
        nothing = torch.zeros(0, dtype=torch.int64, device="cpu")
        torch.sparse_csr_tensor(start, nothing, nothing.float(), (1, 1), device="cpu", check_invariants=False)


def pair_cosines(queries: torch.Tensor, base: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """1 - cosine of the pairs queries[left], base[right], float64; 1 where a row is zero."""
    result = torch.empty(len(left), dtype=torch.float64, device=queries.device)
    step = rows_at_once(queries, BLOCK_ELEMENTS // 2)
    for start in range(0, len(left), step):
        pairs = slice(start, start + step)
        own = unit(queries.index_select(0, left[pairs]).double())
        other = unit(base.index_select(0, right[pairs]).double())
        result[pairs] = 1 - (own * other).sum(dim=1)
    return result


_lock = threading.Lock()
_inside: list[Callable[[], None]] = []
"""One entry for every thread within `full_precision`; the first one's puts torch's settings back."""


@contextlib.contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Products in true float32 on `device` while inside, whatever torch was told before: TF32, bfloat16, autocast.

    Less would break the bound above. torch's settings are the process's own; they are put back when the last thread
    leaves.
    """
    with _lock:
        _inside.append(_set_full_precision() if not _inside else _inside[0])
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        with _lock:
            put_back = _inside.pop()
            if not _inside:
                put_back()


def _set_full_precision() -> Callable[[], None]:
    """Turn reduced precision off; what puts it back.

    Since torch 2.9 each backend has a setting of its own. Who has used it cannot ask, and should not set, by the
    older function for all, so both ways are tried.
    """
    # Their `fp32_precision` is newer than the oldest torch that is supported, and so untyped here.
    backends: list[Any] = [torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None)]
    own = [(backend, backend.fp32_precision) for backend in backends if hasattr(backend, "fp32_precision")]
    try:
        overall = torch.get_float32_matmul_precision()
    except RuntimeError:  # "mix of the legacy and new APIs"
        overall = None
    if overall == "highest":
        return lambda: None
    if overall is not None:
        torch.set_float32_matmul_precision("highest")
    else:
        for backend, _ in own:
            backend.fp32_precision = "ieee"

    def put_back() -> None:
        if overall is not None:
            torch.set_float32_matmul_precision(overall)
        for backend, setting in own:
            backend.fp32_precision = setting

    return put_back
