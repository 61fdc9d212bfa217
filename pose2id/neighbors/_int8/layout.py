"""Codes in the order of a sweep: near rows in one tile, tiles of whole groups, padding at the end."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch

from pose2id.neighbors._int8.encoder import Encoder
from pose2id.neighbors._int8.machine import allocate_codes
from pose2id.neighbors._int8.products import Products

TILE = 2048
"""Rows of a tile; half of it for sets of fewer than four tiles, which need tiles that are near each other."""
TILE_CUDA = 8192
GROUP = 64
"""Rows are padded to whole groups: int8 products on CUDA want multiples of 8, maxima over groups whole ones."""
PIVOTS = 256
"""Rows that others are sorted by."""
MOVED = 128
"""Columns that are sorted at once, in place: so codes are never held twice."""
WIDEST = 16_384
"""Columns of the widest rows that may be encoded: the sums fit into int32."""
NONE = -800_000_000
"""Below every c of two real rows of at most `WIDEST` columns, above those of padding."""
PADDING = 950_000_000
"""h of padding."""


@dataclass
class Codes:
    """Rows as codes, in sweeping order, padded to whole groups; see `encoder` for the symbols."""

    codes: torch.Tensor  # (n, D'), int8
    half: torch.Tensor  # (n,), int32: h, `PADDING` for padding
    error: torch.Tensor  # (n,), float64: E
    order: torch.Tensor  # (n,), int64: row of the set, -1 for padding
    starts: list[int]  # of the tiles, and n

    def take(self, at: torch.Tensor) -> Codes:
        """The codes at some positions, in that order, padded again."""
        at = torch.nn.functional.pad(at, (0, -len(at) % GROUP), value=-1)
        order = torch.where(at >= 0, self.order[at.clamp(min=0)], -1)
        at = at.clamp(min=0)
        codes = allocate_codes(len(at), self.codes.shape[1], self.codes.device)
        torch.index_select(self.codes, 0, at, out=codes)
        return pad_codes(codes, self.half[at], self.error[at], order)


def sort_codes(encoder: Encoder, rows: torch.Tensor) -> Codes:
    """The codes of a set in sweeping order: by the nearest of some pivots, near rows spread over a tile's groups.

    Rows with large errors go last, so that the largest error of a tile is small for most tiles.
    """
    n = len(rows)
    codes, half, error = encoder.encode(rows, spare=-n % GROUP)
    order = (
        torch.arange(n, device=rows.device) if n < GROUP else _chain(encoder.products, codes[:n], half[:n], error[:n])
    )
    order = torch.nn.functional.pad(order, (0, -n % GROUP), value=-1)
    for start, stop in itertools.pairwise(_tile_starts(len(order), rows.device)):
        order[start:stop] = order[start:stop].view(GROUP, -1).T.flatten().clone()
    at = order.clamp(min=0)
    for part in torch.split(codes, MOVED, dim=1):
        part.copy_(part.index_select(0, at))
    return pad_codes(codes, half[at], error[at], order)


def _chain(products: Products, codes: torch.Tensor, half: torch.Tensor, error: torch.Tensor) -> torch.Tensor:
    """Rows in the order of their nearest pivots, which follow each other from near to near."""
    n, device = codes.shape[0], codes.device
    generator = torch.Generator("cpu").manual_seed(0)
    pivots = torch.randperm(n, generator=generator, device="cpu")[: min(PIVOTS, n // 8 * 8)].to(device)
    near = (products(codes[pivots], codes[pivots].T) - half[pivots]).cpu().numpy()
    rank, at = [0] * len(pivots), 0
    for place in range(1, len(pivots)):  # a chain: from each pivot to the nearest one not yet visited
        near[:, at] = 2 * NONE
        at = int(near[at].argmax())
        rank[at] = place
    nearest = torch.empty(n, dtype=torch.int64, device=device)
    for start in range(0, n, 4096):
        part = slice(max(0, min(start, n - 4096)), start + 4096)  # the last one whole, for CUDA's sake
        nearest[part] = (products(codes[part], codes[pivots].T) - half[pivots]).argmax(dim=1)
    key = torch.tensor(rank, device=device)[nearest] + len(pivots) * (error > 1.5 * error.median())
    return key.argsort(stable=True)


def pad_codes(codes: torch.Tensor, half: torch.Tensor, error: torch.Tensor, order: torch.Tensor) -> Codes:
    """Codes that are in that order already, -1 for padding; writes the padding's h and E."""
    half[order < 0], error[order < 0] = PADDING, 0.0
    return Codes(codes, half, error, order, _tile_starts(len(order), codes.device))


def _tile_starts(n: int, device: torch.device) -> list[int]:
    """Where tiles of whole groups and nearly equal size start, and n."""
    tile = TILE_CUDA if device.type == "cuda" else TILE if n >= 4 * TILE else max(GROUP, TILE // 2)
    groups, tiles = n // GROUP, max(1, -(-n // tile))
    return [GROUP * (groups * i // tiles) for i in range(tiles + 1)]
