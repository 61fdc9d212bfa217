"""Products of int8 codes, by whichever instructions of this machine multiply them faster."""

from __future__ import annotations

import torch

from pose2id.neighbors._int8 import machine

LEVEL = 127
"""The largest code where float32 products are taken."""
WHOLE = 2**24 // LEVEL**2
"""Sums of so many products of codes are whole numbers that float32 holds."""
AT_ONCE = 512
"""Rows and columns that are multiplied as floats at once: their copies are small, and products stay in the caches."""


class Products:
    """Products of codes on a device: (a, D') int8 times (D', b) int8 is (a, b) int32, exact, until the next call.

    `level` is the largest code that may be used. Where int8 products are wrong, or slower than those of floats, codes
    are multiplied as float32 numbers, `WHOLE` columns at once, with the same result.
    """

    def __init__(self, device: torch.device) -> None:
        level = machine.largest_code(device.type)
        self.int8 = level > 0 and machine.code_speed(device.type) >= 1
        self.level = level if self.int8 else LEVEL
        self._sums = torch.empty(0, dtype=torch.int32, device=device)
        self._floats = torch.empty(0, dtype=torch.float32, device=device)

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product; `left` must hold its rows, `right` its columns in one piece, as CUDA wants it."""
        self._sums, sums = _take(self._sums, len(left), right.shape[1])
        if self.int8:
            return torch._int_mm(left, right, out=sums)
        for begin in range(0, right.shape[1], AT_ONCE):
            columns = slice(begin, min(begin + AT_ONCE, right.shape[1]))
            self._multiply_floats(left, right[:, columns], sums[:, columns])
        return sums

    def _multiply_floats(self, left: torch.Tensor, right: torch.Tensor, sums: torch.Tensor) -> None:
        for start in range(0, left.shape[1], WHOLE):
            inner = slice(start, start + WHOLE)
            factor = right[inner].float()
            for begin in range(0, len(left), AT_ONCE):
                part, into = left[begin : begin + AT_ONCE, inner].float(), sums[begin : begin + AT_ONCE]
                self._floats, floats = _take(self._floats, len(part), right.shape[1])
                torch.mm(part, factor, out=floats)
                if start == 0:
                    into.copy_(floats)
                else:
                    into.add_(floats.int())


def _take(buffer: torch.Tensor, a: int, b: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The buffer, grown if it is too small, and (a, b) of it."""
    if len(buffer) < a * b:
        buffer = buffer.new_empty(a * b)
    return buffer, buffer[: a * b].view(a, b)
