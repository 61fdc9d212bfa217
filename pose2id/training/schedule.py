"""How the learning rate rises and falls."""

from __future__ import annotations

import math


def learning_rate(rate: float, step: int, steps: int, *, warmup: int = 0, flat: float = 0.0) -> float:
    """That of a step, counted from 1, of `steps`: it rises linearly for `warmup` steps, then falls to 0 along a cosine.

    With `flat` it falls only after that share of all steps.
    """
    rate = rate * min(1.0, step / max(1, warmup))
    before = flat * steps
    gone = max(0.0, step - 1 - before) / max(1.0, steps - before)
    return rate * 0.5 * (1 + math.cos(math.pi * gone))
