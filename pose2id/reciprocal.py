"""k-reciprocal encoding (Zhong et al., CVPR 2017) of n rows as sparse rows: what re-ranking and clustering share.

Squared distances D_ij over a number of row i's own, see the rooms that call. The steps, in the paper's notation:

1. N(i, k): row i itself and its k nearest others.
2. R(i, k): those j of N(i, k) that hold i in N(j, k), the k-reciprocal neighbours.
3. R*(i): R(i, k1), joined with R(j, k1 / 2) for every j in it that shares more than 2/3 of its members with R(i, k1).
4. V_i: exp(-D_ij) over R*(i), scaled to sum 1: about 16 entries of n, so a sparse row.
5. Local query expansion: V_i becomes the mean of V over the first k2 members of N(i, k1).
6. Jaccard distance J_ij = 1 - s / (2 - s), s = sum of min(V_i, V_j), through an inverted index of the rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from scipy import sparse

from pose2id.arrays import elements_at_once

QUERY_TILE = 256
"""Queries that are compared with all gallery rows at once, by measurement."""
PRODUCT = 2**22
"""Entries of a sparse product that are held at once."""
MEETINGS = 2**18
"""Meetings of queries and gallery rows in a member that are added up at once, for the caches."""
DENSE = 8
"""From so many pairs of queries and gallery rows per meeting on, only those that met are looked at."""


def neighbors_needed(k1: int, k2: int) -> int:
    """How many neighbours of each row the steps look at."""
    return max(k1, k2 - 1)


def encode_neighbors(
    near: torch.Tensor,
    distances: torch.Tensor,
    largest: torch.Tensor,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    k1: int,
    k2: int,
    own: torch.Tensor | None = None,
    *,
    half: int | None = None,
) -> sparse.csr_matrix:
    """Steps 1 to 5: V as a sparse (n, n) matrix, from each row's nearest others.

    `near` and `distances` (n, k): the `neighbors_needed`, -1 where there are fewer; `largest` (n,): what the distances
    of each row are divided by; `measure` gives distances of pairs of rows, float64; `own` (n,) the distance
    of each row to itself, where it is not 0; `half`: what k1 / 2 is, if not that, rounded to even.
    """
    half = round(k1 / 2) if half is None else half  # to even, as numpy.around in the usual scripts
    # Where fewer were found, the row itself, which is a member anyway.
    near = torch.where(near < 0, torch.arange(len(near), device=near.device)[:, None], near)
    encoded = _weigh(_members(near.cpu().numpy(), k1, half), near, distances, largest, measure, own)
    return _expand(encoded, near[:, : k2 - 1].cpu().numpy()) if k2 > 1 else encoded


def _members(near: np.ndarray[Any, np.dtype[np.int64]], k1: int, half: int) -> sparse.csr_matrix:
    """Steps 2 and 3: R*, a sparse (n, n) matrix; `near` (n, k) holds each row's nearest others."""
    own = _reciprocal(near[:, :k1])  # R(i, k1)
    smaller = _reciprocal(near[:, :half])
    # Joined are those j of R(i, k1) that have more than 2/3 of R(j, k1 / 2), which is symmetric, in R(i, k1).
    size = np.diff(smaller.indptr)
    n, most = own.shape[0], min(own.shape[0], (k1 + 1) * (half + 1))  # entries of a row of the product
    height = max(1, PRODUCT // most)
    blocks = []
    for start in range(0, n, height):
        part = own[start : start + height]
        joined = (part @ smaller).multiply(part).tocsr()
        joined.data = (3 * joined.data > 2 * size[joined.indices]).astype(np.int32)
        joined.eliminate_zeros()
        blocks.append(part + joined @ smaller)
    members: sparse.csr_matrix = sparse.vstack(blocks, format="csr")
    members.sort_indices()
    return members


def _weigh(
    members: sparse.csr_matrix,
    near: torch.Tensor,
    distances: torch.Tensor,
    largest: torch.Tensor,
    measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    own: torch.Tensor | None = None,
) -> sparse.csr_matrix:
    """Step 4: V. `near` and `distances` (n, k) hold each row's nearest others, `largest` (n,) what divides them."""
    n, device = len(near), near.device
    column = torch.from_numpy(members.indices.astype(np.int64)).to(device)
    row = torch.from_numpy(np.repeat(np.arange(n), np.diff(members.indptr))).to(device)
    # Nine of ten members are neighbours, whose distance is known; the others are measured.
    known, order = (near + torch.arange(n, device=near.device)[:, None] * n).sort(dim=1)
    known, wanted = known.flatten(), row * n + column
    at = torch.searchsorted(known, wanted).clamp(max=len(known) - 1)
    ratio = distances.gather(1, order).flatten()[at].double()
    ratio[row == column] = 0 if own is None else own.double()
    other = ((known[at] != wanted) & (row != column)).nonzero().flatten()
    ratio[other] = measure(row[other], column[other])
    weight = torch.exp(-(ratio / largest[row]).square())
    total = torch.zeros(n, dtype=torch.float64, device=device).index_add_(0, row, weight)
    weight = (weight / total[row]).to(distances.dtype)
    return sparse.csr_matrix((weight.cpu().numpy(), members.indices, members.indptr), shape=members.shape)


def _reciprocal(near: np.ndarray[Any, np.dtype[np.int64]]) -> sparse.csr_matrix:
    """Rows that hold each other among their nearest, and each row itself: a symmetric matrix of ones."""
    n, k = near.shape
    ones = np.ones(n * k, np.int32)
    holds = sparse.csr_matrix((ones, near.ravel(), np.arange(n + 1) * k), shape=(n, n))
    mutual: sparse.csr_matrix = holds.multiply(holds.T).tocsr() + sparse.identity(n, np.int32, format="csr")
    mutual.data[:] = 1  # also where a row stood among its own neighbours
    return mutual


def _expand(encoded: sparse.csr_matrix, near: np.ndarray[Any, np.dtype[np.int64]]) -> sparse.csr_matrix:
    """Step 5: the mean of V over each row and its nearest others `near` (n, k2 - 1), as a sparse product."""
    n, k = near.shape
    members = np.concatenate([np.arange(n)[:, None], near], axis=1).ravel()
    share = np.full(n * (k + 1), 1 / (k + 1), encoded.dtype)
    mean = sparse.csr_matrix((share, members, np.arange(n + 1) * (k + 1)), shape=encoded.shape)
    expanded: sparse.csr_matrix = mean @ encoded
    return expanded


class SharedWeights:
    """Step 6: s = sum of min(V_q, V_g) of queries with all gallery rows, given the rows V of both.

    Through an inverted index: for each member, which gallery rows hold it, and how strongly. `height` is the number of
    queries in the largest block.
    """

    def __init__(self, queries: sparse.csr_matrix, items: sparse.csr_matrix, device: torch.device) -> None:
        self.queries, self.holders = _Rows(queries, device), _Rows(items.T.tocsr(), device)
        self.size, self.width = queries.shape[0], items.shape[0]
        self.height = max(16, elements_at_once(device, min(2**23, QUERY_TILE * self.width)) // self.width)
        self.sums = torch.zeros(self.height * self.width, dtype=self.queries.data.dtype, device=device)

    def add(self, block: slice, share: float, out: torch.Tensor) -> None:
        """Add share x J to `out` (b, G) for a block of queries, with J = 1 - s / (2 - s) = 2 + 2 / (s - 2)."""
        flat = out.view(-1)
        sums = self.sums[: len(flat)]  # zeros
        met: list[torch.Tensor] = []
        few = len(flat) // DENSE
        for place, own, other in self._meetings(block):
            sums.index_add_(0, place, torch.minimum(own, other))
            few -= len(place)
            met = [*met, place] if few >= 0 else []
        if few < 0:
            flat.add_(sums.sub_(2).reciprocal_().add_(1), alpha=2 * share)
            sums.zero_()
            return
        # Nearly all pairs share nothing: J = 1.
        at = torch.cat(met) if met else torch.empty(0, dtype=torch.int64, device=flat.device)
        changed = torch.add(flat[at], (sums[at] - 2).reciprocal_().add_(1), alpha=2 * share)
        flat.add_(share)
        flat[at] = changed
        sums[at] = 0

    def shared(self, block: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """The pairs of a block that share a member: places in the flattened (b, G), ascending, and their s."""
        sums = self.sums[: (block.stop - block.start) * self.width]  # zeros
        for place, own, other in self._meetings(block):
            sums.index_add_(0, place, torch.minimum(own, other))
        at = sums.nonzero().flatten()
        found = sums[at]
        sums[at] = 0
        return at, found

    def _meetings(self, block: slice) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Meetings of queries with all gallery rows that hold the same member, in bounded batches.

        Each is the place in the flattened table of queries and gallery rows, and the weights of both.
        """
        part = self.queries.entries(block)
        member, weight = self.queries.indices[part], self.queries.data[part]
        row = torch.arange(block.stop - block.start, device=member.device) * self.width
        row = row.repeat_interleave(self.queries.counts[block], output_size=len(member))
        counts = self.holders.counts[member]
        ends = counts.cumsum(0)
        first = self.holders.starts[member] - ends + counts  # less the meetings before
        total = int(ends[-1]) if len(ends) else 0
        inner = torch.arange(MEETINGS, max(total, MEETINGS), MEETINGS, device=ends.device)
        cuts = [0, *torch.searchsorted(ends, inner).tolist(), len(ends)]
        for begin, end in itertools.pairwise(cuts):
            if begin == end:
                continue
            before = int(ends[begin - 1]) if begin else 0
            of = torch.arange(begin, end, device=ends.device).repeat_interleave(counts[begin:end])
            at = first[of] + torch.arange(before, before + len(of), device=ends.device)
            yield row[of] + self.holders.indices[at], weight[of], self.holders.data[at]


class _Rows:
    """A sparse matrix on the device: row i holds `data` in the columns `indices`, from `starts[i]` on, `counts[i]`."""

    def __init__(self, matrix: sparse.csr_matrix, device: torch.device) -> None:
        ends = matrix.indptr.astype(np.int64)
        self.ends = ends
        self.starts = torch.from_numpy(ends[:-1]).to(device)
        self.counts = torch.from_numpy(np.diff(ends)).to(device)
        self.indices = torch.from_numpy(matrix.indices.astype(np.int64)).to(device)
        self.data = torch.from_numpy(matrix.data).to(device)

    def entries(self, rows: slice) -> slice:
        """Where the entries of some rows stand."""
        return slice(int(self.ends[rows.start]), int(self.ends[rows.stop]))
