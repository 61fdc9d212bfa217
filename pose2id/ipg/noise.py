"""The noise that a picture begins as: a function of seed, reference key and pose key alone."""

from __future__ import annotations

import hashlib

import torch

Key = str | int


def draw_noise(seed: int, reference_key: Key, pose_key: Key, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (float32, on the CPU) that depends on these arguments only."""
    words = repr((int(seed), *(key if isinstance(key, str) else int(key) for key in (reference_key, pose_key))))
    number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") >> 1
    generator = torch.Generator("cpu").manual_seed(number)
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)
