"""The processes of a training run: which there are, and the accelerator that connects them."""

from __future__ import annotations

import os

from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, parse_flag_from_env

__all__ = ["connect_processes", "find_processes"]


def find_processes() -> PartialState:
    """The processes of this run, and which of them this is.

    Raises
    ------
    ValueError
        When there are several that do not know of each other, so that each would take itself for the first.
    """
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    if int(os.environ.get("WORLD_SIZE", "1")) > state.num_processes:
        raise ValueError(
            f"there are {os.environ['WORLD_SIZE']} processes and no GPU for them; for a run on CPUs set "
            "ACCELERATE_USE_CPU=true"
        )
    return state


def connect_processes(mixed_precision: str) -> Accelerator:
    """The accelerator of a run."""
    return Accelerator(
        mixed_precision=mixed_precision,
        # Not every batch has a row with a reference, so the reference network may get no gradient in a step.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        # Keeps accelerate from dividing the loss by what its environment says; `Trainer` divides it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
