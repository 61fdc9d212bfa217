"""Equation 9 for parts: each part plus the mean of its generated ones, by visibility; made again where needed."""

from __future__ import annotations

import torch

from pose2id.arrays import all_finite, cached_blocks, work_dtype
from pose2id.centralization.fusion import check_fits
from pose2id.distances import split_lengths
from pose2id.parts.sets import Parts, PartSet, visible_rows
from pose2id.progress import tqdm


class FusedParts:
    """The parts f + eta * mean of the generated ones, scaled to length 1 if asked, in the working dtype.

    As `centralization.FusedRows`: written once into lent memory, made again with the same bits where that has been
    written over. Hidden parts are 0; with `fill` those that generated images show are their mean, and seen.

    Attributes
    ----------
    visibility : (N, P) float64
        That of the fused parts: 0 for parts of zeros too; known after `write`.
    """

    def __init__(self, parts: Parts, generated: Parts | None, eta: float, *, fill: bool, normalize: bool) -> None:
        self.parts, self.normalize = parts, normalize
        self.dtype = work_dtype(parts.rows.dtype)
        self.visibility = parts.visibility.clone()
        self._own, self._views = parts.visibility > 0, generated if eta else None
        if generated is not None and eta:
            seen = generated.visibility  # (N, M, P)
            total = seen.sum(dim=1)
            factor = self._own.double() * eta + (~self._own).double() * fill
            # (eta * v) / total, so that M visible ones have the eta / M of `centralize`
            self._shares = torch.where(total[:, None] > 0, factor[:, None] * seen / total[:, None], 0)
            if fill:
                self.visibility = torch.where(self._own, self.visibility, seen.amax(dim=1))
        self._lengths: list[torch.Tensor] = []

    def write(self, memory: torch.Tensor, *, progress: bool = False) -> PartSet:
        """Fuse all rows: in `memory` (N, P, D), or, where that is of a narrower dtype, in a copy."""
        shape = self.visibility.shape
        largest, length = torch.ones(2, *shape, 1, dtype=torch.float64, device=memory.device)
        made = memory if memory.dtype == self.dtype else torch.empty_like(memory, dtype=self.dtype)
        with tqdm(total=len(memory), desc="fusing", unit="row", disable=not progress) as bar:
            for block in cached_blocks(memory):
                fused = self._sum(block)
                if self._views is not None and not all_finite(fused):
                    raise ValueError("eta * generated must stay finite, received a larger eta; use a smaller eta")
                if self.normalize:
                    divisors = [
                        each.view(*fused.shape[:2], 1) for each in split_lengths(fused.view(-1, fused.shape[2]))
                    ]
                    *large, length[block] = divisors
                    if large:
                        largest[block] = large[0]
                    for divisor in divisors:
                        fused /= divisor
                written = fused.to(self.dtype)
                if self._views is not None and not self.normalize:
                    check_fits(written)
                made[block] = written
                self.visibility[block] *= made[block].abs().amax(dim=2) > 0
                bar.update(block.stop - block.start)
        if self.normalize:
            self._lengths = [length] if bool((largest == 1).all()) else [largest, length]
        return PartSet(made, self.visibility)

    def take(self, at: slice | torch.Tensor) -> torch.Tensor:
        """The fused parts of the rows `at` in a new float64 tensor (b, P, D), made again; hidden ones 0."""
        fused = self._sum(at)
        for length in self._lengths:
            fused /= length[at]
        return fused.to(self.dtype).double()

    def take_hidden(self, block: slice) -> torch.Tensor:
        """The parts of some rows as they were given, float64, scaled to length 1 if asked; NaN and inf as given."""
        rows = self.parts.rows[block].to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        if self.normalize:
            flat = rows.view(-1, rows.shape[2])
            good = torch.isfinite(flat).all(dim=1).nonzero().flatten()
            chosen = flat[good]
            for divisor in split_lengths(chosen):
                chosen /= divisor
            flat[good] = chosen
        return rows

    def _sum(self, at: slice | torch.Tensor) -> torch.Tensor:
        fused = visible_rows(_pick(self.parts.rows, at), self.parts.visibility[at])
        if self._views is not None:
            shares = self._shares[at]
            for m in range(shares.shape[1]):
                each = visible_rows(_pick(self._views.rows[:, m], at), shares[:, m])
                fused += each * shares[:, m, :, None]
        return fused


def _pick(rows: torch.Tensor, at: slice | torch.Tensor) -> torch.Tensor:
    return rows[at] if isinstance(at, slice) else rows.index_select(0, at)
