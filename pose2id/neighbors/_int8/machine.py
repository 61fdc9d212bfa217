"""What this machine does with int8 codes: the largest exact one, how fast products are, and where codes are kept."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch

from pose2id.errors import explain_write, is_out_of_memory
from pose2id.threads import one_thread

MEMORY_SHARE = 1 / 3
"""Codes that take more of the machine's memory go into a temporary file."""
CUDA_SPEED = 16.0
"""At most what `code_speed` would measure on CUDA devices with tensor cores, from their data sheets."""


def largest_code(device_type: str) -> int:
    """The largest code whose products are exact on this machine: 127, 63, or 0 when int8 products cannot be used.

    What was computed once is remembered; a failure is not, for it may come of a passing shortage.
    """
    try:
        return _try_codes(device_type)
    except (RuntimeError, AttributeError) as error:
        if is_out_of_memory(error):
            raise
        return 0


@lru_cache
def _try_codes(device_type: str) -> int:
    # Without AVX512-VNNI the CPU adds pairs of products in 16 bits, which codes of 127 overflow.
    # Some versions of CUDA have wrong kernels for small products only, or for large ones: both are tried there.
    shapes = [(64, 256)] + [(1024, 512)] * (device_type == "cuda")
    generator = torch.Generator("cpu").manual_seed(0)

    def is_exact(level: int, n: int, width: int) -> bool:
        signs = torch.randint(0, 2, (n, width), generator=generator, device="cpu") * 2 - 1
        signs[: n // 2] = 1
        codes = (signs * level).to(torch.int8)
        there, some = codes.to(device_type), slice(None, None, -(-n // 256))
        return torch.equal(torch._int_mm(there, there.T)[some].cpu().double(), codes[some].double() @ codes.double().T)

    return next((level for level in (127, 63) if all(is_exact(level, *shape) for shape in shapes)), 0)


largest_code.cache_clear = _try_codes.cache_clear  # type: ignore[attr-defined]


@lru_cache
def code_speed(device_type: str) -> float:
    """How many times faster this machine multiplies codes than float32 numbers: about 4 with VNNI, 20 with AMX.

    Measured once, in less than a tenth of a second, by one thread, which waits for no other on a busy machine;
    `CUDA_SPEED` on CUDA, where the clock would see launches only. Only the way to an answer depends on it, never the
    answer.
    """
    if device_type == "cuda":
        return CUDA_SPEED

    def least_time(multiply: Callable[[], object]) -> float:
        times: list[float] = []
        while len(times) < 5 and sum(times) < 0.05:  # where they are slow, they take a hundred times as long
            start = time.perf_counter()
            multiply()
            times.append(time.perf_counter() - start)
        return min(times)

    codes = torch.ones(256, 768, dtype=torch.int8, device=device_type)
    rows = codes.float()
    with one_thread():
        return least_time(lambda: rows @ rows.T) / least_time(lambda: torch._int_mm(codes, codes.T))


def allocate_codes(n: int, columns: int, device: torch.device) -> torch.Tensor:
    """Zeros (n, columns), int8, in a temporary file (of `TMPDIR`) where memory is short for them."""
    if device.type == "cpu" and n * columns > MEMORY_SHARE * _memory():
        with tempfile.TemporaryFile() as file:  # the mapping keeps it, and nothing of it stays behind
            try:
                if hasattr(os, "posix_fallocate"):  # a full disk is an error now, not a crash later
                    os.posix_fallocate(file.fileno(), 0, n * columns)
                return torch.from_numpy(np.memmap(file, np.int8, "w+", shape=(n, columns)))
            except OSError as error:
                raise OSError(
                    f"{n * columns:,} bytes for codes cannot be written into {tempfile.gettempdir()}: "
                    f"{explain_write(error)}; name another folder in TMPDIR, or take another engine"
                ) from error
    return torch.zeros(n, columns, dtype=torch.int8, device=device)


def _memory() -> float:
    """Bytes of memory this machine has; unlimited where it does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        return math.inf
