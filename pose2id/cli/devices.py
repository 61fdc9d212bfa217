"""Where to compute, as an option says it."""

from __future__ import annotations

from typing import Any

import torch


def take_device(name: str | None) -> torch.device:
    """A device that is there; None: a GPU if there is one, else the CPU."""
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be cpu, cuda, cuda:1, mps or the like, received {name!r}") from error
    kind: Any = getattr(torch, device.type, None)  # such as torch.cuda
    there = device.type == "cpu" or (hasattr(kind, "is_available") and kind.is_available())
    if not there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"--device {name} is not there; leave it out to use what there is")
    return device
