"""Equation 9: a feature plus the mean of its generated features; and where fused rows stand while they are needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pose2id.arrays import all_finite, cached_blocks, work_dtype
from pose2id.distances import split_lengths
from pose2id.progress import tqdm


class FusedRows:
    """The rows f + eta * mean of the generated features, scaled to length 1 if asked, in the working dtype.

    Kept beside input and result they would be a third array of N x D. So they are written once, into memory that is
    lent: the result's, which is free while neighbours are searched. What is needed after results have been written
    over them is made again, with the same bits: lengths are kept, and all else is done entry by entry, so it depends
    on the row alone.

    Attributes
    ----------
    nonzero : (N,) bool
        Rows that have a direction; known after `write`.
    in_memory : bool
        Whether the lent memory holds all rows, in their order.
    """

    def __init__(
        self, rows: torch.Tensor, generated: Sequence[torch.Tensor] = (), eta: float = 1.0, *, normalize: bool = False
    ) -> None:
        self.rows, self.generated, self.eta, self.normalize = rows, generated, eta, normalize
        self.dtype = work_dtype(rows.dtype)
        self.nonzero = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
        self.in_memory = False
        self._lengths: list[torch.Tensor] = []  # what rows are divided by, one after the other, (N, 1) each

    def write(self, memory: torch.Tensor, *, searched: bool = True, progress: bool = False) -> torch.Tensor:
        """Fuse all rows; the nonzero ones, one after the other, to search among, if they are to be `searched`.

        They stand where they were given if nothing is fused or scaled, else in `memory` (N, D), else, where that is of
        a narrower dtype, in a copy.
        """
        if self._as_given:
            self._fuse(None, progress=progress)
            if not searched or (bool(self.nonzero.all()) and self.rows.is_contiguous()):
                return self.rows
        if memory.dtype == self.dtype:
            count = self._fuse(memory, progress=progress)
            self.in_memory = count == len(memory)
            return memory[:count]
        copy = torch.empty(memory.shape, dtype=self.dtype, device=memory.device) if searched else None
        count = self._fuse(copy, progress=progress)
        return self.rows if copy is None else copy[:count]

    def take(self, at: slice | torch.Tensor) -> torch.Tensor:
        """The rows `at` in a new float64 tensor, made again."""
        fused = self._sum(at)
        for length in self._lengths:
            fused /= length[at]
        return fused if self._as_given else fused.to(self.dtype).double()

    @property
    def _as_given(self) -> bool:
        return not self.generated and not self.normalize

    def _fuse(self, buffer: torch.Tensor | None, *, progress: bool) -> int:
        """Find `nonzero` and the lengths, and write the nonzero rows one after the other to `buffer`; their number."""
        n, count = len(self.rows), 0
        largest, length = torch.ones(2, n, 1, dtype=torch.float64, device=self.rows.device)
        with tqdm(total=n, desc="fusing", unit="row", disable=not progress) as bar:
            for block in cached_blocks(self.rows):
                fused = self._sum(block)
                if self.generated and not all_finite(fused):
                    raise ValueError(f"eta * generated must stay finite, received eta = {self.eta}; use a smaller eta")
                if self.normalize:
                    *large, length[block] = divisors = split_lengths(fused)
                    if large:
                        largest[block] = large[0]
                    for divisor in divisors:
                        fused /= divisor
                fused = fused.to(self.dtype)
                if self.generated and not self.normalize:
                    check_fits(fused)
                nonzero = self.nonzero[block] = fused.abs().amax(dim=1) > 0
                fused = fused if bool(nonzero.all()) else fused[nonzero]
                if buffer is not None:
                    buffer[count : count + len(fused)] = fused
                count += len(fused)
                bar.update(block.stop - block.start)
        if self.normalize:
            self._lengths = [length] if bool((largest == 1).all()) else [largest, length]
        return count

    def _sum(self, at: slice | torch.Tensor) -> torch.Tensor:
        fused = _pick(self.rows, at).to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        for each in self.generated:
            fused += _pick(each, at).double() * (self.eta / len(self.generated))
        return fused


def _pick(rows: torch.Tensor, at: slice | torch.Tensor) -> torch.Tensor:
    return rows[at] if isinstance(at, slice) else rows.index_select(0, at)  # 3 times as fast as indexing


def check_fits(block: torch.Tensor) -> None:
    """Raise ValueError where sums that are not normalised are too large for the dtype of `block`."""
    if not all_finite(block):
        raise ValueError(
            f"the sums do not fit {block.dtype}: received features too large for normalize=False; "
            "pass a wider dtype or normalize=True"
        )
