"""What a training run is told: settings, stages, and the TOML file whose tables hold them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pose2id.ipg.training.records import Record, fingerprint
from pose2id.training import schedule
from pose2id.training.configuration import check_keys, open_configuration, read_table
from pose2id.validation import check_choice, check_count, check_flag, check_number

_ONE_FOR_ALL = ("mixed_precision", "tensorboard", "keep", "save_every", "validate_every")
_FREE = ("save_every", "keep", "validate_every", "validation_steps", "validation_guidance", "workers", "tensorboard")
"""Settings that do not change what is learnt, so a run may go on with others."""


@dataclass(frozen=True)
class Settings:
    """How the generator is trained. The defaults are the paper's and its released configuration's.

    Attributes
    ----------
    steps : int
        Optimiser steps.
    batch_size : int
        Pairs of reference and target at once, on each process.
    learning_rate, betas, weight_decay
        Of AdamW. The paper says Adam with a weight decay of 0.01; decoupled decay is what the training scripts of its
        kind use, and keeps the decay from being divided by the gradient's size.
    height, width : int
        Of pictures and pose maps.
    condition_drop : float
        Share of the rows without tokens and reference; they teach the unconditional half of guidance. Poses stay.
    token_drop : float
        Share of the other rows that have the tokens of the all-zero image, and keep the reference.
    same_picture : float
        Share of the pairs whose target is the reference itself, before that is mirrored and erased. From scratch, a
        stage of these alone, with `token_drop` = 1, opens the way from the reference network to the denoiser, which
        then finds the same clothes in other poses.
    use_reference : bool
        False: the reference network is not run, and learns nothing. For a first stage, before `copy_denoiser`: half the
        time of a step.
    noise_offset, min_snr_gamma : float
        See `pose2id.ipg.training.objective`; 0 switches either off.
    flip, erase : float
        Probabilities that a reference is mirrored, and that a rectangle of it is erased. Targets are not touched.
    clip : float
        Largest norm of the gradient; 0: any.
    warmup : int
        Steps in which the learning rate rises linearly.
    decay : {"constant", "cosine"}
        Then it stays; or stays for the share `flat` of all steps and falls to 0 along a cosine.
    flat : float
    ema : float
        Decay of the averaged weights, which then are the result; 0: none. Less at the beginning: (1 + s) / (10 + s) at
        step s.
    gradient_accumulation : int
        Batches for a step.
    mixed_precision : {"no", "fp16", "bf16"}
        The paper used fp16, which needs a GPU.
    gradient_checkpointing : bool
        Less memory for more time.
    seed : int
    save_every, keep : int
        Steps between checkpoints, and how many are kept.
    validate_every : int
        Steps between sheets of pictures; 0: at the end of a stage only.
    validation_steps, validation_guidance
        Of the pipeline, for these sheets; a model of kind "small" takes them for its own defaults.
    cache : bool
        Keep pictures, pose maps and the targets' latents in memory.
    workers : int
        Threads that prepare batches ahead; 0: none.
    tensorboard : bool
        Write scalars for TensorBoard; needs the extra `train`.

    Raises
    ------
    TypeError, ValueError
        Naming the setting, what it is and what it may be.
    """

    steps: int = 80_000
    batch_size: int = 4
    learning_rate: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    height: int = 512
    width: int = 256
    condition_drop: float = 0.1
    token_drop: float = 0.0
    same_picture: float = 0.0
    use_reference: bool = True
    noise_offset: float = 0.05
    min_snr_gamma: float = 5.0
    flip: float = 0.5
    erase: float = 0.5
    clip: float = 1.0
    warmup: int = 0
    decay: str = "constant"
    flat: float = 0.6
    ema: float = 0.0
    gradient_accumulation: int = 1
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    seed: int = 0
    save_every: int = 1000
    keep: int = 3
    validate_every: int = 1000
    validation_steps: int = 20
    validation_guidance: float = 3.5
    cache: bool = False
    workers: int = 1
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "height", "width", "gradient_accumulation", "save_every", "keep"):
            check_count(getattr(self, name), name, 1)
        check_count(self.validation_steps, "validation_steps", 1)
        for name in ("warmup", "seed", "validate_every", "workers"):
            check_count(getattr(self, name), name, 0)
        for name in ("condition_drop", "token_drop", "same_picture", "flip", "erase", "flat", "ema"):
            check_number(getattr(self, name), name, 0, 1)
        for name in ("learning_rate", "weight_decay", "noise_offset", "min_snr_gamma", "clip", "validation_guidance"):
            check_number(getattr(self, name), name)
        for name in ("use_reference", "gradient_checkpointing", "cache", "tensorboard"):
            check_flag(getattr(self, name), name)
        check_choice(self.decay, "decay", ("constant", "cosine"))
        check_choice(self.mixed_precision, "mixed_precision", ("no", "fp16", "bf16"))
        if not isinstance(self.betas, (tuple, list)) or len(self.betas) != 2:
            raise TypeError(f"betas must be two numbers, received {self.betas!r}")
        for beta in self.betas:
            check_number(beta, "betas", 0, 1)
        if max(*self.betas, self.ema) >= 1:
            raise ValueError(f"betas and ema must be below 1, received {self.betas} and {self.ema}")
        if 0 < self.min_snr_gamma < 1:
            raise ValueError(f"min_snr_gamma must be 0 or at least 1, received {self.min_snr_gamma}")
        object.__setattr__(self, "betas", tuple(self.betas))


@dataclass(frozen=True)
class Stage:
    """A part of a run: its settings, and whether the reference network begins as a copy of the denoiser."""

    settings: Settings
    copy_denoiser: bool = False


@dataclass(frozen=True)
class Recipe:
    """What the tables of a TOML file say, see `read_settings`."""

    settings: Settings  # [training]
    stages: tuple[dict[str, Any], ...] = ()  # [[stages]]: what each changes, for `train`
    data: dict[str, Any] = field(default_factory=dict)  # [data] and [model], as they are
    model: dict[str, Any] = field(default_factory=dict)


def plan_stages(settings: Settings, stages: Sequence[Mapping[str, Any]] | None = None) -> list[Stage]:
    """The stages of a run, each with all its settings; errors name the stage."""
    plan = []
    for number, changes in enumerate(stages or [{}], 1):
        try:
            given = dict(changes)
            copy = check_flag(given.pop("copy_denoiser", False), "copy_denoiser")
            check_keys(given, {each.name for each in fields(Settings)})
            plan.append(Stage(replace(settings, **given), copy))
        except (TypeError, ValueError) as error:
            raise type(error)(f"stage {number}: {error}") from error
    for name in _ONE_FOR_ALL:
        values = [getattr(stage.settings, name) for stage in plan]
        if len(set(values)) > 1:
            raise ValueError(f"{name} must be the same in all stages, received {values}")
    return plan


def learning_rate(settings: Settings, step: int) -> float:
    """The learning rate of a stage's step, counted from 1."""
    flat = 1.0 if settings.decay == "constant" else settings.flat
    rate, steps = settings.learning_rate, settings.steps
    return schedule.learning_rate(rate, step, steps, warmup=settings.warmup, flat=flat)


def describe_run(plan: Sequence[Stage], records: Sequence[Record], processes: int) -> dict[str, Any]:
    """What decides the losses of a run, beside the weights that it starts from."""
    run: dict[str, Any] = {"stages": len(plan), "processes": processes, "records": fingerprint(records)}
    for number, stage in enumerate(plan, 1):
        values = {**asdict(stage.settings), "copy_denoiser": stage.copy_denoiser}
        run |= {f"stage {number}, {name}": value for name, value in values.items() if name not in _FREE}
    return run


def read_settings(path: str | os.PathLike[str]) -> Recipe:
    r"""Read the configuration of a training.

    Parameters
    ----------
    path : path
        A TOML file. Its table ``[training]`` holds fields of `Settings`, each of its ``[[stages]]`` those that it
        changes, and optionally ``copy_denoiser = true``. What ``[data]`` and ``[model]`` hold is not looked at.

    Returns
    -------
    Recipe
        `settings`, `stages` (tuple of dict), `data` and `model` (dicts).

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError, TypeError
        When it is not TOML; for an unknown table or setting, or a wrong value.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.ipg.training.recipe import read_settings
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "tiny.toml")
    ...     _ = path.write_text("[training]\nsteps = 300\n[[stages]]\n[[stages]]\ncopy_denoiser = true")
    ...     recipe = read_settings(path)
    >>> recipe.settings.steps, recipe.stages
    (300, ({}, {'copy_denoiser': True}))
    """
    with open_configuration(path, ("training", "data", "model"), more=("stages",)) as content:
        stages = content.get("stages", [])
        if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
            raise TypeError(f"stages must be tables, written as [[stages]], received {stages!r}")
        settings = read_table(Settings, content.get("training", {}), "training")
        plan_stages(settings, stages)
    return Recipe(settings, tuple(stages), content.get("data", {}), content.get("model", {}))
