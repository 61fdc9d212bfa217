"""Candidates for the engine `faiss` within one set, on the CPU: each product once, kept in the heaps of faiss.

faiss multiplies every row with every row. Within one set the product of i and j serves both, so tiles of the upper half
by torch are enough; faiss's heaps, which are quick at passing over what is too far, take every tile twice: as its rows
see it, and turned, as its columns do. Rows are left as they are where centring would gain little, which saves a copy.

What is proposed is squared distances in float32, off by at most `slack` (|q|² + |b|²). Only candidates whose lower
bound does not exceed the upper bound of the k-th are measured.
"""

from __future__ import annotations

from types import ModuleType

import torch

from pose2id.distances import Frame, full_precision, lower_distances, slack, squared_norms, underflow
from pose2id.neighbors import _exact
from pose2id.neighbors.contract import Search
from pose2id.progress import tqdm
from pose2id.threads import refit_threads

PANEL = 256
"""Rows of a tile; the products within the diagonal's tiles are made twice."""
COLUMNS = 4096
SMALLEST = 256
"""Rows of a set; below, the search is a matter of calls, not of products."""
FAR = 16
"""Squared lengths around the mean that rows may have, at most, to be left as they are."""


def can_search(faiss: ModuleType, asked: Search) -> bool:
    """Whether this search is one within a set on the CPU, and this faiss has heaps."""
    own = asked.within and asked.base.device.type == "cpu" and len(asked.base) >= SMALLEST
    return own and hasattr(faiss, "float_maxheap_array_t")


def search(faiss: ModuleType, asked: Search, indices: torch.Tensor, distances: torch.Tensor) -> torch.Tensor:
    """Write the k nearest of k + SPARE candidates; the rows for which these do not decide, (u,)."""
    base, k = asked.base, asked.k
    n, width = base.shape
    ask = min(n, k + _exact.SPARE)
    moved, norms, scale = _move(base)
    squared, found = _fill(faiss, asked, moved, norms.float(), ask)
    off = (norms + norms.max()).mul_(slack(width, torch.float32)).add_(underflow(torch.float32, width))[:, None]
    lower = lower_distances(squared - off, width, scale).to(distances.dtype)
    upper = (squared[:, k - 1 : k] + off).sqrt_().mul_((1 + (width + 8) * 2.0**-52) / scale).to(distances.dtype)
    rows = torch.arange(n, device=base.device)
    indices[:], distances[:] = _exact.measure(asked, rows, found.masked_fill_(lower > upper, -1), scale)
    beyond = lower[:, -1]
    return rows[~((beyond > distances[:, -1]) | torch.isinf(beyond) | (ask == n))]


def _move(base: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Rows in float32, for products; their squared lengths (n,), float64; and the scale of their frame."""
    if base.dtype == torch.float32 and base.is_contiguous():
        norms = squared_norms(base)
        largest, mean = float(norms.max()), float(norms.mean())
        offset = float(base.mean(dim=0).double().square().sum())
        if 2.0**-60 < largest < 2.0**60 and mean * (1 - 1 / FAR) > offset:
            return base, norms, 1.0
    frame = Frame(base)
    moved = frame.centre_rows(base, torch.float32)
    return moved, squared_norms(moved), frame.scale


def _fill(
    faiss: ModuleType, asked: Search, rows: torch.Tensor, norms: torch.Tensor, ask: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared distances (n, ask), ascending, float32, and whose they are; inf and -1 where there are fewer."""
    n, device = len(rows), rows.device
    squared = torch.full((n, ask), torch.inf, dtype=torch.float32, device=device)
    found = torch.full((n, ask), -1, dtype=torch.int64, device=device)
    heaps = faiss.float_maxheap_array_t()
    heaps.nh, heaps.k = n, ask
    heaps.val, heaps.ids = faiss.swig_ptr(squared.numpy()), faiss.swig_ptr(found.numpy())
    buffers = torch.empty(2, PANEL * min(n, COLUMNS), dtype=torch.float32, device=device)
    starts = tqdm(range(0, n, PANEL), desc="products (faiss)", unit="tile", disable=not asked.progress)
    with full_precision(device):
        for first in starts:
            own = slice(first, min(first + PANEL, n))
            height = own.stop - own.start
            for start in range(first, n, COLUMNS):
                refit_threads()
                other = slice(start, min(start + COLUMNS, n))
                width = other.stop - other.start
                tile = buffers[0, : height * width].view(height, width)
                torch.addmm(norms[None, other], rows[own], rows[other].T, alpha=-2, out=tile).add_(norms[own, None])
                alike = asked.labelled_alike(own, other)
                if alike is not None:
                    tile.masked_fill_(alike, torch.inf)
                if start == first:
                    tile.fill_diagonal_(torch.inf)
                heaps.addn(width, faiss.swig_ptr(tile.numpy()), start, first, height)
                beside = height if start == first else 0  # these columns are the tile's own rows
                if beside < width:
                    turned = buffers[1, : (width - beside) * height].view(width - beside, height)
                    turned.copy_(tile[:, beside:].T)
                    heaps.addn(height, faiss.swig_ptr(turned.numpy()), first, start + beside, width - beside)
    heaps.reorder()
    return squared, found
