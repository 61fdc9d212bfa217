"""Products of int8 codes, by whichever instructions of this machine multiply them faster."""

from __future__ import annotations

import torch

from pose2id.neighbors._int8 import machine

LEVEL = 127
"""The largest code where float32 products are taken."""
WHOLE = 2**24 // LEVEL**2
"""Sums of so many products of codes are whole numbers that float32 holds."""
AT_ONCE = 512
"""Columns that are multiplied as floats at once, so that their copy is small."""


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

    def __call__(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product; `left` must hold its rows, `right` its columns in one piece, as CUDA wants it."""
        a, b = len(left), right.shape[1]
        if len(self._sums) < a * b:
            self._sums = self._sums.new_empty(a * b)
        sums = self._sums[: a * b].view(a, b)
        if self.int8:
            return torch._int_mm(left, right, out=sums)
        for start in range(0, left.shape[1], WHOLE):
            part, factor = left[:, start : start + WHOLE].float(), right[start : start + WHOLE]
            for begin in range(0, b, AT_ONCE):
                columns = slice(begin, begin + AT_ONCE)
                floats = torch.mm(part, factor[:, columns].float())
                if start == 0:
                    sums[:, columns] = floats
                else:
                    sums[:, columns] += floats.int()
        return sums
