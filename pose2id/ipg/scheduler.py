"""The DDIM scheduler: as released (zero terminal SNR, v-prediction, trailing), and which others the pipeline takes."""

from __future__ import annotations

from diffusers import DDIMScheduler

from pose2id.ipg.weights.configuration import read_config

PREDICTIONS = ("v_prediction", "epsilon", "sample")
SPACINGS = ("trailing", "leading", "linspace")


def make_scheduler() -> DDIMScheduler:
    """A new one with the released settings, those of `data/ipg.json`."""
    return DDIMScheduler(**read_config()["scheduler"])


def check_scheduler(scheduler: DDIMScheduler) -> None:
    """Raise ValueError for settings that the pipeline cannot draw with."""
    for name, allowed in {"prediction_type": PREDICTIONS, "timestep_spacing": SPACINGS}.items():
        if (value := scheduler.config[name]) not in allowed:
            raise ValueError(f"{name} of scheduler must be one of {', '.join(allowed)}; received {value!r}")
