"""The choice of the filter: which searches go by products of codes, with which codes, and what is left to floats."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pose2id.distances import full_precision
from pose2id.neighbors._int8 import machine
from pose2id.neighbors._int8.encoder import Encoder
from pose2id.neighbors._int8.farthest import Farthest
from pose2id.neighbors._int8.layout import WIDEST, sort_codes
from pose2id.neighbors._int8.pairs import products_help
from pose2id.neighbors._int8.products import Products
from pose2id.neighbors._int8.side import Side
from pose2id.neighbors._int8.sweep import Sweep
from pose2id.neighbors.contract import Search

LARGEST_K = 64
LONGEST = 2**18
"""The few rows left over are swept again in sets of up to so many rows: 2**24 pairs at most."""
FAST = 10.0
"""Where codes are multiplied so many times faster than floats, whole rows of them are faster than projections."""


@dataclass(frozen=True)
class Thresholds:
    """What a search must have for the filter to be used, by measurement."""

    smallest: int = 3000  # rows of the base: below, the float path is as fast
    fewest: int = 64  # queries that pay for making rotation codes
    few: int = 64  # up to so many rows that were set aside are swept once more, without a cap
    captured: float = 0.5  # the share of squared lengths that projection codes must keep
    structure: bool = True  # whether a sample must show that codes rule most pairs out
    columns: int | None = None  # of projection codes, 0 for none; None: by `projection_columns`
    floats: bool = False  # whether a CPU may multiply whole rows of codes as floats: it is slower than without codes


THRESHOLDS = Thresholds()


def projection_columns(n: int, width: int, k: int, speed: float) -> int:
    """How many columns projection codes should have; 0 where products of whole rows are as fast (measured)."""
    columns = 16 * round(20 * (n / 16_000) ** 0.5)
    if speed < 1:  # products cost most of the time
        columns, pays = max(256, columns), width >= 768 and n * width > 5_000_000
    else:
        pays = columns >= 320 and width >= 1536 and speed < FAST
    return min(columns, width // 48 * 16) if pays and k <= 4 else 0


@dataclass
class Found:
    """What a search found."""

    indices: torch.Tensor  # (Q, k), by the contract, for rows that are not left over
    distances: torch.Tensor  # (Q, k)
    left: torch.Tensor  # (Q,) bool: rows that could not be decided here
    farthest: torch.Tensor | None = None  # (N,) float64, where asked for and where products help to choose

    def take(self, sweep: Sweep) -> None:
        """Take over what a sweep has decided."""
        for rows, near, far in sweep.pairs.nearest():
            self.indices[rows], self.distances[rows], self.left[rows] = near, far, False


def is_for(queries: int, n: int, width: int, k: int) -> bool:
    """Whether the filter is for searches of this size."""
    return n >= THRESHOLDS.smallest and queries >= THRESHOLDS.fewest and k <= LARGEST_K and width <= WIDEST


def _code_speed(kind: str) -> float:
    """How many times faster than floats codes are multiplied; 0.0 on a CPU that has no such products."""
    return machine.code_speed(kind) if kind == "cuda" or machine.largest_code(kind) else 0.0


def planned_products(queries: int, n: int, width: int, k: int, *, within: bool) -> tuple[int, float] | None:
    """Columns of the codes of such a search on the CPU, and how many times faster than floats they are multiplied.

    1.0 where they, or the rows themselves, are multiplied as floats, each pair once; None where neither is.
    """
    if not is_for(queries, n, width, k):
        return None
    speed = _code_speed("cpu")
    if speed < 1 and not within:
        return None
    columns = projection_columns(n, width, k, speed) if within else 0
    return columns or width, max(speed, 1.0)


def search(asked: Search, *, farthest: bool = False) -> Found | None:
    """The k nearest rows where the filter can tell.

    With `farthest` (for one set only) also the distance to each row's farthest other row. None when these sets are not
    for it: too small, too large a k, or no structure to filter by.
    """
    queries, base, k = asked.queries, asked.base, asked.k
    n, width = base.shape
    if queries.dtype != base.dtype or not is_for(len(queries), n, width, k):
        return None
    products = Products(base.device)
    cap = 256 + 16 * k + n // 16
    left = torch.ones(len(queries), dtype=torch.bool, device=base.device)
    found = Found(*asked.no_neighbors(), left)
    with full_precision(base.device):
        first = _sweep_projections(asked, products, cap) if asked.within and not farthest else None
        if first is not None:
            found.take(first)
            return found
        if base.device.type == "cpu" and not (products.int8 or THRESHOLDS.floats):
            return None
        encoder = Encoder(base, products, None if asked.within else queries)
        if base.dtype != torch.float64 and 2 * width**0.5 / encoder.scale > torch.finfo(torch.float32).max:
            return None  # distances may be inf in float32, all of them ties
        sweep = _all_rows(asked, encoder, cap)
        if sweep is None:
            return None
        far = Farthest(sweep.pairs, sweep.group) if farthest and sweep.pairs.norms is not None else None
        sweep.run(far, progress=asked.progress)
        found.take(sweep)
        if far is not None:
            found.farthest = far.distances()
        few = sweep.left.rows_left()
        if 0 < len(few) <= THRESHOLDS.few and n <= LONGEST:
            # Not worth centring all rows for the float path; they may collect what they like. Only measured pairs may
            # tighten limits that are known: maxima would count a row twice.
            rest = sweep.left.take(few, asked.query_labels, sweep.left.bounds)
            again = Sweep(asked, encoder, rest, sweep.right, n, limited=True)
            again.run()
            found.take(again)
    return found


def _sweep_projections(asked: Search, products: Products, cap: int) -> Sweep | None:
    """The sweep of one set by projection codes, done; None where these would not pay."""
    base, k, n = asked.base, asked.k, len(asked.base)
    columns = THRESHOLDS.columns
    if columns is None:
        columns = projection_columns(n, base.shape[1], k, _code_speed(base.device.type))
    if not 0 < columns <= base.shape[1]:
        return None
    encoder = Encoder(base, products, columns=columns)
    if encoder.map.captured < THRESHOLDS.captured or not products_help(base, base, encoder):
        return None
    side = Side(sort_codes(encoder, base), asked.base_labels, k)
    sweep = Sweep(asked, encoder, side, side, cap, limited=True)
    sweep.measure_own_tiles()
    if not _has_structure(sweep, n / 128):
        return None
    sweep.run(progress=asked.progress)
    return sweep


def _all_rows(asked: Search, encoder: Encoder, cap: int) -> Sweep | None:
    """The sweep of all queries by rotation codes, to be run; None without structure."""
    right = Side(sort_codes(encoder, asked.base), asked.base_labels, asked.k)
    left = right
    if not asked.within:
        left = Side(sort_codes(encoder, asked.queries), asked.query_labels, asked.k)
    sweep = Sweep(asked, encoder, left, right, cap, limited=False)
    return sweep if _has_structure(sweep, 64 + 4 * asked.k) else None


def _has_structure(sweep: Sweep, most: float) -> bool:
    """Whether a sample says that rows will keep at most `most` pairs on average, and few rows be set aside."""
    if not THRESHOLDS.structure:
        return True
    mean, share = sweep.expected()
    return mean <= most and share <= 0.2
