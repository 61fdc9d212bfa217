"""The int8 filter of the engine `exact`: which rows are searched by products of codes, and with which codes.

`_codes` gives rows as int8 codes and says what a product of codes proves about a distance; `_sweep` goes through all
tiles of products. Here it is decided what pays: `prefix` codes for wide rows, then `turn` codes for what they leave;
the rest, and sets without structure, go to the float path of `_exact`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pose2id.distances import full_precision
from pose2id.neighbors._int8 import codes as _codes
from pose2id.neighbors._int8.codes import WIDEST, Encoder, largest_code, sort_codes
from pose2id.neighbors._int8.sweep import Farthest, Side, Sweep, products_help
from pose2id.neighbors.contract import Search

SMALLEST = 3000
"""Below so many rows the float path is as fast."""
AGAIN = 64
"""So many rows left over by `prefix` codes, or so many queries, pay for making `turn` codes."""
FEW = 64
LONGEST = 2**18
"""Up to FEW rows set aside are swept once more, without a cap, in sets of up to LONGEST rows: 2**24 pairs at most."""
CAPTURED = 0.5
"""The share of squared lengths that `prefix` codes must keep to be tried."""


FAST = 10.0
"""Where codes are multiplied so many times faster than floats, whole rows of them are faster than a prefix."""


def prefix_columns(n: int, width: int, k: int, speed: float) -> int:
    """How many columns `prefix` codes should have; 0 where products of whole rows are as fast (measured)."""
    columns = 16 * round(20 * (n / 16_000) ** 0.5)
    return min(columns, width // 48 * 16) if columns >= 320 and width >= 1536 and k <= 4 and speed < FAST else 0


@dataclass
class Found:
    """What `search` found: neighbours (Q, k), their distances, the rows left out, and the farthest distances (n,)."""

    indices: torch.Tensor
    distances: torch.Tensor
    left: torch.Tensor
    farthest: torch.Tensor | None = None


def _prefix_sweep(asked: Search, level: int, cap: int) -> Sweep | None:
    """The sweep of one set by `prefix` codes, done; None where these would not pay."""
    base, k, n = asked.base, asked.k, len(asked.base)
    columns = prefix_columns(n, base.shape[1], k, _codes.code_speed(base.device.type))
    if not columns:
        return None
    encoder = Encoder(base, level, columns=columns)
    if encoder.captured < CAPTURED or not products_help(base, base, encoder):
        return None
    side = Side(sort_codes(*encoder.encode(base)), asked.base_labels, k)
    sweep = Sweep(asked, encoder, side, side, cap, limited=True)
    sweep.seed()
    mean, above = sweep.expected()
    if mean > n / 128 or above > 0.2:
        return None
    sweep.run(progress=asked.progress)
    return sweep


def search(asked: Search, *, farthest: bool = False) -> Found | None:
    """The k nearest rows where the filter can tell.

    With `farthest` (for one set only) also the distance to each row's farthest other row, unless float products do
    not help to choose it. None when these sets are not for it: too small, too large a k, no int8 products, or no
    structure to filter by.
    """
    queries, base, k = asked.queries, asked.base, asked.k
    n, width = base.shape
    if n < SMALLEST or len(queries) < AGAIN or k > 64 or width > WIDEST:
        return None
    level = largest_code(base.device.type)
    if not level or queries.dtype != base.dtype:
        return None
    cap = 256 + 16 * k + n // 16
    indices, distances = asked.no_neighbors()
    left_out = torch.ones(len(queries), dtype=torch.bool, device=base.device)

    def write(sweep: Sweep) -> None:
        rows, near, far = sweep.nearest()
        done = ~sweep.left.open
        indices[rows[done]], distances[rows[done]] = near[done], far[done]
        left_out[rows[done]] = False

    with full_precision(base.device):
        first = _prefix_sweep(asked, level, cap) if asked.within and not farthest else None
        if first is not None:
            write(first)
            if int(left_out.sum()) < AGAIN:
                return Found(indices, distances, left_out.nonzero().flatten())
        encoder = Encoder(base, level, None if asked.within else queries)
        if base.dtype != torch.float64 and 2 * width**0.5 / encoder.scale > torch.finfo(torch.float32).max:
            return None  # distances may be inf in float32, all of them ties
        if first is not None:
            # What is left, with the limits and the order that are known by now.
            order = first.left.codes.order
            again = (first.left.open & (order >= 0)).nonzero().flatten()
            right = Side(_codes.pad(*encoder.encode(base, order.clamp(min=0)), order), asked.base_labels, k)
            left = Side(right.codes.take(again), asked.query_labels, k)
            left.bounds[: len(again)] = first.left.bounds[again]
            sweep = Sweep(asked, encoder, left, right, cap, limited=True)
        else:
            right = Side(sort_codes(*encoder.encode(base)), asked.base_labels, k)
            left = right if asked.within else Side(sort_codes(*encoder.encode(queries)), asked.query_labels, k)
            sweep = Sweep(asked, encoder, left, right, cap, limited=False)
            mean, above = sweep.expected()
            if mean > 64 + 4 * k or above > 0.2:
                return None
        del first
        if farthest and sweep.norms is not None:
            sweep.farthest = Farthest(sweep)
        sweep.run(progress=asked.progress)
        write(sweep)
        far = sweep.farthest.distances() if sweep.farthest is not None else None
        few = (left.open & (left.codes.order >= 0)).nonzero().flatten()
        if 0 < len(few) <= FEW and n <= LONGEST:
            # Not worth placing all rows for the float path; they may collect what they like. Only measured pairs may
            # tighten limits that are known: maxima would count a row twice.
            rest = Side(left.codes.take(few), asked.query_labels, k)
            rest.bounds[: len(few)] = left.bounds[few]
            sweep = Sweep(asked, encoder, rest, right, n, limited=True)
            sweep.run(progress=False)
            write(sweep)
    return Found(indices, distances, left_out.nonzero().flatten(), far)
