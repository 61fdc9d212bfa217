"""What a training of an encoder is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from pose2id.encoders.contract import Stage
from pose2id.training.configuration import Table
from pose2id.validation import check_count, check_flag, check_number

FREE = ("save_every", "keep", "workers", "tensorboard")
"""Settings that do not change what is learnt, so a run may go on with others."""


@dataclass(frozen=True)
class EncoderSettings:
    """How an encoder is trained.

    Attributes
    ----------
    steps : int
        Batches, of all stages together.
    identities, shots : int
        Identities in a batch, and pictures of each; those of whom there are fewer are drawn with repetition.
    learning_rate, weight_decay : float
        Of AdamW.
    warmup : int
        Steps in which the learning rate rises linearly; then it falls to 0 along a cosine. Of each stage, but at most a
        tenth of its steps.
    flip, erase : float
        Probabilities that a picture is mirrored, and that a rectangle of it is erased; see `train_encoder`.
    clip : float
        Largest norm of the gradient; 0: any.
    seed : int
    save_every, keep : int
        Steps between checkpoints, and how many are kept.
    workers : int
        Threads that prepare batches ahead; 0: none.
    tensorboard : bool
        Write scalars for TensorBoard; needs the extra `train`.

    Raises
    ------
    TypeError, ValueError
        Naming the setting, what it is and what it may be.
    """

    steps: int = 1500
    identities: int = 16
    shots: int = 4
    learning_rate: float = 2e-3
    weight_decay: float = 0.01
    warmup: int = 50
    flip: float = 0.5
    erase: float = 0.5
    clip: float = 0.0
    seed: int = 0
    save_every: int = 250
    keep: int = 2
    workers: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("identities", 2), ("shots", 2), ("save_every", 1), ("keep", 1)):
            check_count(getattr(self, name), name, least)
        for name in ("warmup", "seed", "workers"):
            check_count(getattr(self, name), name, 0)
        for name in ("flip", "erase"):
            check_number(getattr(self, name), name, 0, 1)
        for name in ("learning_rate", "weight_decay", "clip"):
            check_number(getattr(self, name), name)
        check_flag(self.tensorboard, "tensorboard")

    def deciding(self) -> Mapping[str, Any]:
        """Those that decide what is learnt."""
        return {name: value for name, value in asdict(self).items() if name not in FREE}


@dataclass(frozen=True)
class EncoderModel(Table):
    """Which encoder is trained: the table ``[encoder]``.

    Attributes
    ----------
    system : str
        One of `pose2id.encoders.SYSTEMS`.
    height, width : int
        Of its pictures; photographs are resized.
    channels : list of int
        Of the trunk's three stages.
    sizes : dict
        Keywords of the system's class.
    trunk : str, optional
        The folder of a trained encoder whose trunk this one begins with.
    """

    system: str
    height: int = 64
    width: int = 32
    channels: list[int] = field(default_factory=lambda: [24, 48, 128])
    sizes: dict[str, Any] = field(default_factory=dict)
    trunk: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("height", "width"):
            check_count(getattr(self, name), name, 8)


@dataclass(frozen=True)
class Part:
    """A stage of a run: its steps are those after `start` up to `end`."""

    stage: Stage
    start: int
    end: int


def plan_stages(stages: tuple[Stage, ...], steps: int) -> list[Part]:
    """The stages with their steps, at least one each."""
    total = sum(stage.share for stage in stages)
    if steps < len(stages):
        raise ValueError(f"steps must be at least {len(stages)}, the stages of this system, received {steps}")
    plan, start, before = [], 0, 0.0
    for number, stage in enumerate(stages, 1):
        before += stage.share
        end = min(max(round(steps * before / total), start + 1), steps - (len(stages) - number))
        plan.append(Part(stage, start, end))
        start = end
    return plan
