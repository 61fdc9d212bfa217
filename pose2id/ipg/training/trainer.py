"""Training of the generator, as the paper describes it (section 3.2, supplementary 6.3 and 7).

The authors released no training code. What the paper leaves open is decided here and said where it is decided. Every
random number of a step depends on the seed and on the number of the step alone, so a run that was killed and goes on
from a checkpoint has the losses that it would have had; on the CPU they are the same to the last bit.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, parse_flag_from_env

from pose2id.atomic import clear_leftovers, write_file, write_folder
from pose2id.errors import one_line, require
from pose2id.ipg.components import remember_defaults
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.batches import Batch, Batches
from pose2id.ipg.training.initialisation import copy_denoiser
from pose2id.ipg.training.objective import (
    TRAINED,
    Generator,
    Loss,
    average,
    check_prediction,
    ema_decay,
    swapped,
    unused_parameters,
)
from pose2id.ipg.training.recipe import Settings, Stage, describe_run, learning_rate, plan_stages
from pose2id.ipg.training.records import Record, check_pictures, find_people
from pose2id.ipg.training.sheets import draw_validation
from pose2id.training import folders
from pose2id.training.checkpoints import (
    CHECKPOINTS,
    RUN,
    Checkpoint,
    check_same_run,
    check_tensors,
    find_newest,
    load,
    save,
)
from pose2id.training.prefetching import prefetch
from pose2id.training.reports import Reports
from pose2id.validation import check_path

PIPELINE = "pipeline"
SHEETS = "sheets"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")

log = logging.getLogger(__name__)


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


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """As `pose2id.training.folders.hold_folder`; of several processes of one run the first holds it for all."""
    with folders.hold_folder(folder) if find_processes().is_main_process else nullcontext():
        yield


def train(
    pipe: IPGPipeline,
    records: Sequence[Record],
    output: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    stages: Sequence[Mapping[str, Any]] | None = None,
    validation: Sequence[Record] = (),
    progress: bool = True,
    resume: bool = True,
    report: Callable[[str], None] | None = None,
) -> IPGPipeline:
    """Train both UNets, the pose encoder and the IFR of a pipeline; its autoencoder and identity encoder stay as is.

    With `accelerate launch` it runs on several GPUs. A step takes `gradient_accumulation` batches of `batch_size` pairs
    on each of them: a random identity, a random reference and a random other picture of it as the target.

    Parameters
    ----------
    pipe : IPGPipeline
        Begins the training; changed in place. Its trained parts become float32.
    records : sequence of Record
    output : path
        A folder: ``checkpoints``, ``losses.csv``, ``sheets``, and at the end ``pipeline`` for
        `IPGPipeline.from_pretrained`. With ``ema`` that holds the averaged weights.
    settings : Settings, optional
        None: ``Settings()``, the paper's.
    stages : sequence of mappings, optional
        Runs one after the other, each with other values for some settings, and optionally ``copy_denoiser=True`` to
        begin with `copy_denoiser`. A stage begins with the result of the one before (the averaged weights, if there are
        any) and a new optimiser. None: one stage.
    validation : sequence of Record
        People for ``sheets/step-000123.png``: each reference drawn in the poses of these records.
    progress : bool
        A bar on stderr, with the time left.
    resume : bool
        Go on from the newest checkpoint in `output`. False: refuse a folder with checkpoints.
    report : callable, optional
        Told every minute, in words, how far the run is; for where no bar is shown.

    Returns
    -------
    IPGPipeline
        `pipe`, with the weights that were saved.

    Raises
    ------
    ValueError, TypeError
        For records without a pair of reference and target; when another run works in `output`, or it holds a run with
        other settings or a damaged checkpoint; for a scheduler that does not predict the velocity.
    FloatingPointError
        When the loss is not finite any more; the checkpoints before remain.
    MissingExtraError
        Without tensorboard if `settings` ask for it.

    References
    ----------
    C. Yuan and others, From Poses to Identity: Training-Free Person Re-Identification via Feature Centralization, CVPR
    2025, section 3.2 and supplementary 6.3 and 7; github.com/yuanc3/Pose2ID for the configuration.

    Examples
    --------
    >>> from pose2id.ipg.training import Record, Settings, train
    >>> pipe = train(start, records, "run", Settings(steps=80_000))  # doctest: +SKIP
    """
    plan = plan_stages(Settings() if settings is None else settings, stages)
    records, validation, folder = list(records), list(validation), check_path(output, "output")
    _check_run(pipe, records, validation, folder, plan, progress)
    accelerator = Accelerator(
        mixed_precision=plan[0].settings.mixed_precision,
        # Not every batch has a row with a reference, so the reference network may get no gradient in a step.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        # Keeps accelerate from dividing the loss by what its environment says; `Trainer` divides it.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
    )
    with hold_folder(folder):
        found = _open_folder(folder, plan, records, accelerator, resume=resume)
        trainer = Trainer(pipe, records, folder, validation, accelerator)
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            trainer.run(plan, found, progress=progress, report=report)
    return pipe


def _check_run(
    pipe: IPGPipeline, records: list[Record], validation: list[Record], folder: Path, plan: list[Stage], progress: bool
) -> None:
    """Refuse whatever can be refused before anything is written."""
    for name, given in (("records", records), ("validation", validation)):
        if wrong := [type(record).__name__ for record in given if not isinstance(record, Record)]:
            raise TypeError(f"{name} must hold Record objects, received {wrong[0]}")
    find_people(records)
    check_prediction(pipe.scheduler)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output {folder} must be a folder, it is a file")
    for stage in plan:
        for name in ("height", "width"):
            if (size := getattr(stage.settings, name)) % pipe.reduction:
                raise ValueError(f"{name} must be a multiple of {pipe.reduction}, received {size}")
    if plan[0].settings.mixed_precision == "fp16" and find_processes().device.type == "cpu":
        raise ValueError("mixed_precision 'fp16' needs a GPU; use 'no' or 'bf16'")
    if plan[0].settings.tensorboard:
        require("tensorboard", "train", "Settings.tensorboard")
    if find_processes().is_main_process:
        check_pictures([*records, *validation], progress=progress)


def _open_folder(
    folder: Path, plan: list[Stage], records: list[Record], accelerator: Accelerator, *, resume: bool
) -> Checkpoint | None:
    """Make the folder of a run, or load the newest checkpoint of the same run from it."""
    checkpoints = folder / CHECKPOINTS
    if accelerator.is_main_process:
        checkpoints.mkdir(parents=True, exist_ok=True)
        for each in (folder, checkpoints, folder / SHEETS):
            clear_leftovers(each)
        run = describe_run(plan, records, accelerator.num_processes)
        check_same_run(folder / RUN, run, begun=find_newest(checkpoints) is not None)
    accelerator.wait_for_everyone()
    newest = find_newest(checkpoints)
    if newest is not None and not resume:
        raise ValueError(f"output {folder} holds checkpoints; name another folder, or resume")
    found = load(newest) if newest else None
    if found and found.step > (total := sum(stage.settings.steps for stage in plan)):
        raise ValueError(f"checkpoint {newest} is of step {found.step:,}, this run has {total:,}; name another folder")
    return found


class Trainer:
    """Trains the networks of a pipeline stage after stage, and writes checkpoints, sheets and the result."""

    # Of the present stage:
    settings: Settings
    optimizer: torch.optim.Optimizer
    prepared: Any  # the same by accelerate
    ema: dict[str, torch.Tensor] | None

    def __init__(
        self, pipe: IPGPipeline, records: list[Record], folder: Path, validation: list[Record], accelerator: Accelerator
    ) -> None:
        self.pipe, self.records, self.folder, self.validation = pipe, records, folder, validation
        self.accelerator, self.device = accelerator, accelerator.device
        for name in ("vae", "identity_encoder"):
            getattr(pipe, name).requires_grad_(False).eval().to(self.device)
        for name in TRAINED:
            getattr(pipe, name).requires_grad_(True).train().float().to(self.device)
        self.generator = Generator(pipe)
        unused = {f"reference_unet.{name}" for name in unused_parameters(pipe.reference_unet)}
        self.parameters = {name: value for name, value in self.generator.named_parameters() if name not in unused}
        for name in unused:
            self.generator.get_parameter(name).requires_grad_(False)
        log.info("%d parameters are trained; without effect, so left out: %s", len(self.parameters), sorted(unused))
        self.model = accelerator.prepare(self.generator)
        self.done = 0
        self.reports: Reports | None = None

    def run(
        self,
        plan: Sequence[Stage],
        found: Checkpoint | None,
        *,
        progress: bool,
        report: Callable[[str], None] | None = None,
    ) -> None:
        """Do what is left of a plan after a checkpoint, and save the result."""
        total, last = sum(stage.settings.steps for stage in plan), plan[-1].settings
        self.done = found.step if found else 0
        try:
            if self.accelerator.is_main_process:
                shown: dict[str, Any] = {"tensorboard": last.tensorboard, "progress": progress, "report": report}
                self.reports = Reports(self.folder, self.done, total, **shown)
            start = 0
            for number, stage in enumerate(plan):
                # A checkpoint at the end of a stage belongs to that stage: the next one has not begun.
                if not found or found.step <= start + stage.settings.steps:
                    self._begin_stage(stage, found)
                    self._train_stage(number, start)
                    self._end_stage()
                    found = None
                start += stage.settings.steps
            self.pipe.register_to_config(sample_size=[last.height, last.width])
            remember_defaults(self.pipe.unet, self.pipe.defaults)
            if self.accelerator.is_main_process:
                with write_folder(self.folder / PIPELINE, overwrite=True) as part:
                    self.pipe.save_pretrained(part)
            self.accelerator.wait_for_everyone()
        finally:
            if self.reports:
                self.reports.close()
            self._set_gradient_checkpointing(False)
            for name in TRAINED:
                getattr(self.pipe, name).requires_grad_(True).eval()

    def _begin_stage(self, stage: Stage, found: Checkpoint | None) -> None:
        """Networks, optimiser and averages at the beginning of a stage, or as a checkpoint holds them."""
        self.settings = settings = stage.settings
        if found:
            try:
                self.generator.load_state_dict(found.model)
            except RuntimeError as error:
                raise ValueError(
                    f"the checkpoint at step {found.step} is of another generator: {one_line(error)}"
                ) from error
        elif stage.copy_denoiser:
            copy_denoiser(self.pipe)
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self.prepared = self.accelerator.prepare(self.optimizer)
        self.ema = {name: value.detach().clone() for name, value in self.parameters.items()} if settings.ema else None
        if found:
            self._load_optimizer(found)
        self._set_gradient_checkpointing(settings.gradient_checkpointing)
        self.optimizer.zero_grad()  # what a run that failed has left in the networks

    def _train_stage(self, number: int, start: int) -> None:
        """The steps that are left of a stage, which follows `start` steps of those before."""
        settings, end = self.settings, start + self.settings.steps
        steps = range(self.done + 1, end + 1)
        if self.done > start:  # the run may have been broken off between a checkpoint and its sheet
            self._draw_sheet(end, again=False)
        if not steps:  # or between two stages
            return
        data = Batches(self.pipe, self.records, settings)
        loss_of = Loss(self.pipe, self.model, data, settings, self.device)
        rank = self.accelerator.process_index
        keys = [(number, step, i, rank) for step in steps for i in range(settings.gradient_accumulation)]
        with closing(prefetch(data.make, keys, settings.workers)) as batches, self.generator.connected():
            for step in steps:
                rate = learning_rate(settings, step - start)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                seed = np.random.default_rng((settings.seed, number, step, rank)).integers(2**63)
                torch.manual_seed(int(seed))  # for dropout, where a network has it
                loss, norm = self._step(batches, loss_of)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} at step {step}; begin again in another folder with a lower learning_rate, "
                        "or with mixed_precision 'no'"
                    )
                if self.ema is not None:
                    average(self.ema, self.parameters, ema_decay(settings.ema, step - start))
                self.done = step
                if self.reports:
                    self.reports.add(step, loss, rate, norm)
                if step == end or step % settings.save_every == 0:
                    self._save_checkpoint()
                self._draw_sheet(end)

    def _end_stage(self) -> None:
        """Take the averages as the result of the stage."""
        if self.ema is not None:
            with torch.no_grad():
                for name, value in self.parameters.items():
                    value.copy_(self.ema[name])
        self.optimizer.state.clear()  # accelerate holds on to the optimiser itself

    def _step(self, batches: Iterator[Batch], loss_of: Loss) -> tuple[float, float]:
        """One step of the optimiser; its loss, and the norm of the gradient before it was cut."""
        count = self.settings.gradient_accumulation
        total = torch.zeros((), device=self.device)
        for i in range(count):
            batch = next(batches)
            with nullcontext() if i + 1 == count else self.accelerator.no_sync(self.model):
                loss = loss_of(batch) / count
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.unscale_gradients(self.prepared)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip or math.inf, foreach=True)
        if self.accelerator.scaler is None and not bool(norm.isfinite()):  # before it reaches the weights
            raise FloatingPointError(
                f"the gradient is {float(norm)} at step {self.done + 1}; go on with a lower learning_rate in another "
                "folder, or with mixed_precision 'no'"
            )
        self.prepared.step()
        self.prepared.zero_grad()
        return float(self.accelerator.reduce(total, reduction="mean")), float(norm)

    def _set_gradient_checkpointing(self, enable: bool) -> None:
        for unet in (self.pipe.unet, self.pipe.reference_unet):
            (unet.enable_gradient_checkpointing if enable else unet.disable_gradient_checkpointing)()

    def _save_checkpoint(self) -> None:
        if self.reports:
            self.reports.losses.sync()  # before a checkpoint says that these steps are done
            moments = {
                f"{name}.{key}": tensor
                for name, value in self.parameters.items()
                for key, tensor in self.optimizer.state.get(value, {}).items()
            }
            scaler = self.accelerator.scaler
            more = {"scaler": scaler.state_dict() if scaler else {}, "settings": asdict(self.settings)}
            checkpoint = Checkpoint(self.done, self.generator.state_dict(), moments, self.ema, more)
            save(self.folder / CHECKPOINTS, checkpoint, self.settings.keep)
        self.accelerator.wait_for_everyone()

    def _load_optimizer(self, found: Checkpoint) -> None:
        begun = [name for name in self.parameters if any(f"{name}.{key}" in found.optimizer for key in _MOMENTS)]
        check_tensors(
            {
                f"{name}.{key}": torch.empty(()) if key == "step" else self.parameters[name]
                for name in begun
                for key in _MOMENTS
            },
            found.optimizer,
            f"the moments in the checkpoint at step {found.step}",
        )
        check_tensors(self.ema or {}, found.ema or {}, f"the averages in the checkpoint at step {found.step}")
        scaler = found.state.get("scaler")
        if not isinstance(scaler, dict):
            raise ValueError(f"the checkpoint at step {found.step} must hold an object 'scaler', it holds {scaler!r}")
        for name, value in self.parameters.items():
            there = {key: found.optimizer.get(f"{name}.{key}") for key in _MOMENTS}
            if state := {key: tensor.to(self.device) for key, tensor in there.items() if tensor is not None}:
                self.optimizer.state[value] = state
        if scaler and self.accelerator.scaler:
            try:
                self.accelerator.scaler.load_state_dict(scaler)
            except (KeyError, TypeError) as error:
                raise ValueError(f"the checkpoint at step {found.step} holds a wrong scaler, {scaler!r}") from error
        for name, tensor in (self.ema or {}).items():
            tensor.copy_((found.ema or {})[name])

    def _draw_sheet(self, end: int, *, again: bool = True) -> None:
        """The sheet of the step that is done, where one is due: at the end of a stage, and as the settings say."""
        every, folder = self.settings.validate_every, self.folder / SHEETS
        if not self.validation or not (self.done == end or (every and self.done % every == 0)):
            return
        path = folder / f"step-{self.done:06d}.png"
        if self.accelerator.is_main_process and (again or not path.exists()):
            folder.mkdir(exist_ok=True)
            with swapped(self.parameters, self.ema or {}), self.accelerator.autocast():
                sheet = draw_validation(self.pipe, self.validation, self.settings)
            with write_file(path) as part:
                sheet.save(part)
        self.accelerator.wait_for_everyone()
