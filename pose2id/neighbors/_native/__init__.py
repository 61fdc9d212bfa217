"""The native kernel: the library that was compiled from `kernel.cpp`, and what this machine can do with it.

The library is optional. Without it nothing is missing but speed: the engine `native` says so, and "auto" takes others.
"""

from __future__ import annotations

import ctypes
import os
import struct
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

ABI_VERSION = 2
NAMES = ("_kernel.so", "_kernel.dll")
PANEL = 32
"""Rows of codes that lie together."""
STRIP = 16
"""Rows that are multiplied at once."""
FASTEST_FIRST = (2, 1, 3)
"""The kernel's machines with vector instructions: AVX512-VNNI, AVX2, NEON; 0 is portable and slow."""


class Side(ctypes.Structure):
    """`Side` of the kernel: pointers into arrays that the caller keeps alive."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("panels", "half", "error", "order", "labels", "lanes", "rows")] + [
        ("count", ctypes.c_int64)
    ]


class Sweep(ctypes.Structure):
    """`Sweep` of the kernel."""

    _fields_ = (
        [(name, Side) for name in ("left", "right", "outer")]
        + [(name, ctypes.c_int64) for name in ("columns", "width", "k", "cap", "block")]
        + [(name, ctypes.c_double) for name in ("step", "scale", "rounding")]
        + [(name, ctypes.c_int32) for name in ("machine", "within", "wide", "room")]
        + [(name, ctypes.c_void_p) for name in ("locks", "limits", "counts", "keys", "farthest", "farthest_rows")]
        + [(name, ctypes.c_void_p) for name in ("doubtful", "doubts", "measured")]
    )


class Kernel(NamedTuple):
    """The library, and the machine that it shall use."""

    library: Any
    machine: int
    name: str
    level: int  # the largest code

    def pack(self, codes: torch.Tensor) -> torch.Tensor:
        """Codes (n, D') as panels, in place, and the lengths by (7) (n / 16,); n is a multiple of `PANEL`, D' of 16."""
        scratch = self.scratch(codes.shape[1], 0)
        lanes = torch.empty(len(codes) // STRIP, dtype=torch.int32, device="cpu")
        self.library.pose2id_pack(codes.data_ptr(), *codes.shape, self.machine, lanes.data_ptr(), scratch.data_ptr())
        return lanes

    def scratch(self, columns: int, block: int) -> torch.Tensor:
        """Memory for one thread."""
        return torch.empty(self.library.pose2id_scratch(columns, block), dtype=torch.uint8, device="cpu")

    def sweep(self, sweep: Sweep, tasks: torch.Tensor) -> None:
        """Run tasks (n, 3), int32; several threads may at the same time."""
        scratch = self.scratch(sweep.columns, sweep.block)
        self.library.pose2id_sweep(ctypes.byref(sweep), tasks.data_ptr(), len(tasks), scratch.data_ptr())

    def multiply(self, codes: torch.Tensor) -> torch.Tensor:
        """The products of the first `STRIP` of `PANEL` rows of codes with all, (16, 32) int32: for tests."""
        codes = codes.clone()
        lanes = self.pack(codes)
        scratch = self.scratch(codes.shape[1], PANEL)
        products = torch.empty(STRIP, PANEL, dtype=torch.int32, device="cpu")
        self.library.pose2id_multiply(
            codes.data_ptr(),
            codes.shape[1],
            self.machine,
            lanes.data_ptr(),
            products.data_ptr(),
            scratch.data_ptr(),
        )
        return products

    def is_right(self) -> bool:
        """Whether a tile of extreme and of random codes is multiplied without a fault."""
        generator = torch.Generator("cpu").manual_seed(0)
        codes = torch.randint(-self.level, self.level + 1, (PANEL, 64), generator=generator, device="cpu")
        codes[: PANEL // 2] = codes[: PANEL // 2].sign() * self.level
        codes[:4] = torch.tensor([[1], [-1], [1], [-1]], device="cpu") * self.level
        tiles = (codes, codes // 2)  # products of the second are summed by (7)
        return all(torch.equal(self.multiply(tile.to(torch.int8)).long(), tile[:STRIP] @ tile.T) for tile in tiles)


def find_library() -> Path | None:
    """The compiled library: the file that POSE2ID_KERNEL names, else the one beside this module; None without."""
    named = os.environ.get("POSE2ID_KERNEL")
    files = [Path(named)] if named else [Path(__file__).with_name(name) for name in NAMES]
    return next((file for file in files if file.is_file()), None)


def load_kernel() -> tuple[Kernel | None, str]:
    """The kernel for this machine, and a sentence; None and what is wrong where there is none."""
    file = find_library()
    if file is None:
        named = os.environ.get("POSE2ID_KERNEL")
        missing = "not compiled: install with a C++ compiler and without POSE2ID_PURE"
        return None, f"POSE2ID_KERNEL names no file: {named}" if named else missing
    return _load_kernel(file, file.stat().st_mtime_ns)


@lru_cache
def _load_kernel(file: Path, _: int) -> tuple[Kernel | None, str]:
    try:
        if _is_cut_short(file):
            return None, f"{file.name} is cut short: install again"
        library = ctypes.CDLL(str(file))
        version = library.pose2id_abi_version()
    except (OSError, AttributeError) as error:
        return None, f"{file.name} cannot be loaded: {error}"
    if version != ABI_VERSION:
        return None, f"{file.name} has version {version} of its interface, {ABI_VERSION} is needed: install again"
    for name in ("pose2id_pack", "pose2id_sweep", "pose2id_multiply", "pose2id_scratch"):
        getattr(library, name).restype = ctypes.c_int64 if name == "pose2id_scratch" else None
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    library.pose2id_machine.restype = ctypes.c_char_p
    library.pose2id_scratch.argtypes = [integer, integer]
    library.pose2id_pack.argtypes = [pointer, integer, integer, ctypes.c_int32, pointer, pointer]
    library.pose2id_sweep.argtypes = [pointer, pointer, integer, pointer]
    library.pose2id_multiply.argtypes = [pointer, integer, ctypes.c_int32, pointer, pointer, pointer]
    for machine in (*FASTEST_FIRST, 0):
        kernel = _try_machine(library, machine)
        if kernel is not None:
            return kernel, f"compiled, uses {kernel.name}"
    return None, f"{file.name} multiplies wrongly on this machine"


def _is_cut_short(file: Path) -> bool:
    """Whether a library of Linux lacks its end, the table of its sections: the system would end the process for it."""
    with file.open("rb") as stream:
        header = stream.read(64)
    if header[:6] != b"\x7fELF\x02\x01":  # of 64 bits, the low byte first
        return False
    if len(header) < 64:
        return True
    (start,), (size, count) = struct.unpack_from("<Q", header, 40), struct.unpack_from("<2H", header, 58)
    return bool(start + size * count > file.stat().st_size)


def _try_machine(library: Any, machine: int) -> Kernel | None:
    level = ctypes.c_int32()
    name = library.pose2id_machine(machine, ctypes.byref(level))
    kernel = None if name is None else Kernel(library, machine, name.decode(), level.value)
    return kernel if kernel is not None and kernel.is_right() else None


def all_kernels() -> list[Kernel]:
    """The kernel for every machine that this one can be, portable included: for tests."""
    kernel, _ = load_kernel()
    if kernel is None:
        return []
    found = [_try_machine(kernel.library, machine) for machine in (*FASTEST_FIRST, 0)]
    return [each for each in found if each is not None]
