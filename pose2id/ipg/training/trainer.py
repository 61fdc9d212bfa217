"""Training of the generator, as the paper describes it (section 3.2, supplementary 6.3 and 7).

The authors released no training code. What the paper leaves open is decided here and said where it is decided. Every
random number of a step depends on the seed and on the number of the step alone, so a run that was killed and goes on
from a checkpoint has the losses that it would have had; on the CPU they are the same to the last bit.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedDataParallelKwargs, GradientAccumulationPlugin, parse_flag_from_env
from PIL import Image
from tqdm import tqdm

from pose2id.errors import require
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.batches import Batch, Batches, Record, check_pictures, find_people, fingerprint, prefetch
from pose2id.ipg.training.checkpoints import Checkpoint, LossLog, check_same_run, clear_parts, find_newest, load, save
from pose2id.ipg.training.initialisation import STABLE_DIFFUSION, copy_denoiser, start_from_stable_diffusion
from pose2id.ipg.training.objective import (
    TRAINED,
    Generator,
    average,
    check_scheduler,
    dead_parameters,
    draw_noise,
    ema_decay,
    loss_weights,
    noisy_and_target,
    swapped,
    weighted_error,
)
from pose2id.ipg.training.recipe import Recipe, Settings, Stage, learning_rate, plan_stages, read_settings
from pose2id.poses import representative_poses

__all__ = [
    "STABLE_DIFFUSION",
    "Recipe",
    "Record",
    "Settings",
    "copy_denoiser",
    "dead_parameters",
    "read_settings",
    "start_from_stable_diffusion",
    "train",
]

CHECKPOINTS = "checkpoints"
PIPELINE = "pipeline"
SHEETS = "sheets"
LOSSES = "losses.csv"
RUN = "run.json"
_FREE = ("save_every", "keep", "validate_every", "validation_steps", "validation_guidance", "workers", "tensorboard")
"""Settings that do not change what is learnt, so a run may go on with others."""
_COLUMNS = 8
_AT_ONCE = 32
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")

log = logging.getLogger(__name__)


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
) -> IPGPipeline:
    """Train both UNets, the pose encoder and the IFR of a pipeline; its autoencoder and identity encoder stay as is.

    With `accelerate launch` it runs on several GPUs. A step takes `gradient_accumulation` batches of `batch_size` pairs
    on each of them: a random identity, a random reference and a random other picture of it as the target.

    Parameters
    ----------
    pipe : IPGPipeline
        The start; changed in place. Its trained parts become float32.
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

    Returns
    -------
    IPGPipeline
        `pipe`, with the weights that were saved.

    Raises
    ------
    ValueError, TypeError
        For records without a pair of reference and target; when `output` holds a run with other settings, or a damaged
        checkpoint; for a scheduler that does not predict the velocity.
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
    settings = Settings() if settings is None else settings
    plan = plan_stages(settings, stages)
    run = _Run(pipe, list(records), Path(output), plan, list(validation), progress=progress, resume=resume)
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        run.all_stages()
    return pipe


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


class _Run:
    """A run in a folder: all its stages, and what is written meanwhile."""

    def __init__(
        self,
        pipe: IPGPipeline,
        records: list[Record],
        output: Path,
        plan: list[Stage],
        validation: list[Record],
        *,
        progress: bool,
        resume: bool,
    ) -> None:
        first = plan[0].settings
        # Whatever can be refused is, before anything is written.
        for name, given in (("records", records), ("validation", validation)):
            if wrong := [type(record).__name__ for record in given if not isinstance(record, Record)]:
                raise TypeError(f"{name} must hold Record objects, received {wrong[0]}")
        find_people(records)
        check_scheduler(pipe.scheduler)
        if output.exists() and not output.is_dir():
            raise ValueError(f"output {output} must be a folder, it is a file")
        for stage in plan:
            for name in ("height", "width"):
                if (size := getattr(stage.settings, name)) % pipe.reduction:
                    raise ValueError(f"{name} must be a multiple of {pipe.reduction}, received {size}")
        if first.mixed_precision == "fp16" and find_processes().device.type == "cpu":
            raise ValueError("mixed_precision 'fp16' needs a GPU; use 'no' or 'bf16'")
        check_pictures([*records, *validation], progress=progress)
        self.pipe, self.records, self.output, self.plan, self.validation = pipe, records, output, plan, validation
        self.total = sum(stage.settings.steps for stage in plan)
        # Not every batch has a row with a reference, so the reference network may get no gradient in a step.
        unused = DistributedDataParallelKwargs(find_unused_parameters=True)
        # The plugin keeps accelerate from dividing the loss by what its environment says; that is done here.
        self.accelerator = Accelerator(
            mixed_precision=first.mixed_precision,
            kwargs_handlers=[unused],
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),
        )
        self.main = self.accelerator.is_main_process
        self.device = self.accelerator.device
        if first.tensorboard:
            require("tensorboard", "train", "Settings.tensorboard")

        if self.main:
            output.mkdir(parents=True, exist_ok=True)
            (output / CHECKPOINTS).mkdir(exist_ok=True)
            clear_parts(output / CHECKPOINTS)
            run = describe_run(plan, records, self.accelerator.num_processes)
            check_same_run(output / RUN, run, begun=find_newest(output / CHECKPOINTS) is not None)
        self.accelerator.wait_for_everyone()
        newest = find_newest(output / CHECKPOINTS)
        if newest is not None and not resume:
            raise ValueError(f"output {output} holds checkpoints; name another folder, or resume")
        self.found = load(newest) if newest else None
        self.done = self.found.step if self.found else 0

        for name in ("vae", "identity_encoder"):
            getattr(pipe, name).requires_grad_(False).eval().to(self.device)
        for name in TRAINED:
            module = getattr(pipe, name).requires_grad_(True).train().to(self.device)
            if module.dtype != torch.float32:
                module.float()
        self.generator = Generator(pipe)
        dead = {f"reference_unet.{name}" for name in dead_parameters(pipe.reference_unet)}
        self.live = {name: value for name, value in self.generator.named_parameters() if name not in dead}
        for name in dead:
            self.generator.get_parameter(name).requires_grad_(False)
        log.info("%d parameters are trained; without effect, so left out: %s", len(self.live), ", ".join(sorted(dead)))
        self.model = self.accelerator.prepare(self.generator)
        self.log = LossLog(output / LOSSES, self.done) if self.main else None
        self.board = None
        if first.tensorboard and self.main:
            writer = require("torch.utils.tensorboard", "train", "Settings.tensorboard").SummaryWriter
            self.board = writer(str(output / "tensorboard"), purge_step=self.done + 1)
        self.bar = tqdm(
            total=self.total, initial=self.done, desc="training", unit="step", disable=not (progress and self.main)
        )

    def all_stages(self) -> None:
        """Run what is left to do, and save the result."""
        try:
            start = 0
            for number, stage in enumerate(self.plan):
                end = start + stage.settings.steps
                # A checkpoint at the end of a stage belongs to that stage: the next one has not begun.
                if not self.found or self.found.step <= end:
                    self._stage(stage, number, start)
                start = end
            last = self.plan[-1].settings
            self.pipe.register_to_config(sample_size=[last.height, last.width])
            if self.main:
                self._save_pipeline()
            self.accelerator.wait_for_everyone()
        finally:
            self.bar.close()
            if self.log:
                self.log.close()
            if self.board:
                self.board.close()
            self._checkpointing(enable=False)
            for name in TRAINED:
                getattr(self.pipe, name).requires_grad_(True).eval()

    def _stage(self, stage: Stage, number: int, start: int) -> None:
        """The rest of a stage that follows `start` steps of those before."""
        settings, end = stage.settings, start + stage.settings.steps
        found, self.found = self.found, None
        if found:
            self._load_model(found)
        elif stage.copy_denoiser:
            copy_denoiser(self.pipe)
        optimizer = torch.optim.AdamW(
            self.live.values(),
            lr=settings.learning_rate,
            betas=settings.betas,
            weight_decay=settings.weight_decay,
            fused=self.device.type in ("cpu", "cuda"),
        )
        prepared = self.accelerator.prepare(optimizer)
        ema = {name: value.detach().clone() for name, value in self.live.items()} if settings.ema else None
        if found:
            self._load_optimizer(found, optimizer, ema)
        self._checkpointing(settings.gradient_checkpointing)
        optimizer.zero_grad()  # what a run that failed has left in the networks
        if self.done < end:  # else it was broken off between two stages
            self._steps(settings, number, start, optimizer, prepared, ema)
        if ema is not None:
            with torch.no_grad():
                for name, value in self.live.items():
                    value.copy_(ema[name])
        optimizer.state.clear()  # accelerate holds on to the optimiser itself

    def _steps(
        self,
        settings: Settings,
        number: int,
        start: int,
        optimizer: torch.optim.Optimizer,
        prepared: Any,
        ema: dict[str, torch.Tensor] | None,
    ) -> None:
        end = start + settings.steps
        data = Batches(self.pipe, self.records, settings)
        latents = self._target_latents(data) if settings.cache else None
        nothing = self._features(data.nothing)
        rank = self.accelerator.process_index
        steps = range(self.done + 1, end + 1)
        keys = [(number, step, i, rank) for step in steps for i in range(settings.gradient_accumulation)]
        with closing(prefetch(data.make, keys, settings.workers)) as batches, self.generator.connected():
            for step in steps:
                rate = learning_rate(settings, step - start)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                torch.manual_seed(_seed(settings.seed, number, step, rank))  # for dropout, where a network has it
                loss, norm = self._step(settings, prepared, batches, latents, nothing)
                if not math.isfinite(loss):
                    raise FloatingPointError(
                        f"the loss is {loss} at step {step}; begin again in another folder with a lower learning_rate, "
                        "or with mixed_precision 'no'"
                    )
                if ema is not None:
                    average(ema, self.live, ema_decay(settings.ema, step - start))
                self.done = step
                self._report(step, loss, rate, norm)
                if step == end or step % settings.save_every == 0:
                    self._save_checkpoint(settings, optimizer, ema)
                due = settings.validate_every and step % settings.validate_every == 0
                if self.validation and (step == end or due):
                    self._draw_sheet(settings, ema)

    def _step(
        self,
        settings: Settings,
        optimizer: Any,
        batches: Iterator[Batch],
        latents: dict[int, torch.Tensor] | None,
        nothing: torch.Tensor,
    ) -> tuple[float, float]:
        """One step of the optimiser; its loss, and the norm of the gradient before it was cut."""
        count = settings.gradient_accumulation
        total = torch.zeros((), device=self.device)
        for i in range(count):
            batch = next(batches)
            with nullcontext() if i + 1 == count else self.accelerator.no_sync(self.model):
                loss = self._loss(settings, batch, latents, nothing) / count
                self.accelerator.backward(loss)
            total += loss.detach()
        self.accelerator.unscale_gradients(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.live.values(), settings.clip or math.inf, foreach=True)
        if self.accelerator.scaler is None and not bool(norm.isfinite()):  # before it reaches the weights
            raise FloatingPointError(
                f"the gradient is {float(norm)} at step {self.done + 1}; go on with a lower learning_rate in another "
                "folder, or with mixed_precision 'no'"
            )
        optimizer.step()
        optimizer.zero_grad()
        return float(self.accelerator.reduce(total, reduction="mean")), float(norm)

    def _loss(
        self, settings: Settings, batch: Batch, latents: dict[int, torch.Tensor] | None, nothing: torch.Tensor
    ) -> torch.Tensor:
        """The loss of a batch."""
        # 1. What is to be drawn, and the references, (B, C, h, w) and (K, C, h, w).
        if latents is None:
            targets = self._encode(batch.target_pixels)
        else:
            targets = torch.stack([latents[row] for row in batch.targets])
        known = len(batch.references)
        references = self._encode(batch.references) if known and settings.use_reference else targets[:0]
        features = self._features(batch.encoder_input) if known else nothing[:0]

        # 2. Noise.
        generator = torch.Generator().manual_seed(batch.seed)
        scheduler = self.pipe.scheduler
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(targets),), generator=generator)
        timesteps = timesteps.to(self.device)
        noise = draw_noise(tuple(targets.shape), settings.noise_offset, generator).to(self.device)
        rows, velocity = noisy_and_target(scheduler, targets, noise, timesteps)

        # 3. Prediction and error.
        prediction = self.model(
            rows,
            timesteps,
            batch.drawings.to(self.device),
            references,
            features,
            nothing,
            batch.tokenless.to(self.device),
        )
        return weighted_error(prediction, velocity, loss_weights(scheduler, timesteps, settings.min_snr_gamma))

    @torch.no_grad()
    def _encode(self, pixels: torch.Tensor | None) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [0, 1] as scaled latents; the posterior's mean, as the pipeline takes it."""
        if pixels is None:
            raise ValueError("a batch without pixels needs its latents kept")
        vae = self.pipe.vae
        given = (2 * pixels - 1).to(self.device, vae.dtype)
        return (vae.encode(given).latent_dist.mean * vae.config.scaling_factor).float()

    @torch.no_grad()
    def _features(self, images: torch.Tensor) -> torch.Tensor:
        encoder = self.pipe.identity_encoder
        return encoder(images.to(self.device, encoder.dtype)).float()

    def _target_latents(self, data: Batches) -> dict[int, torch.Tensor]:
        rows = data.target_rows
        latents: dict[int, torch.Tensor] = {}
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            encoded = self._encode(torch.stack([data.pixels(row) for row in some]))
            latents |= dict(zip(some, encoded, strict=True))
        return latents

    def _checkpointing(self, enable: bool) -> None:
        for unet in (self.pipe.unet, self.pipe.reference_unet):
            (unet.enable_gradient_checkpointing if enable else unet.disable_gradient_checkpointing)()

    def _report(self, step: int, loss: float, rate: float, norm: float) -> None:
        self.bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self.bar.update()
        if self.log:
            self.log.add(step, loss, rate, norm)
        if self.board:
            for name, value in (("loss", loss), ("learning_rate", rate), ("gradient_norm", norm)):
                self.board.add_scalar(f"train/{name}", value, step)

    def _save_checkpoint(
        self, settings: Settings, optimizer: torch.optim.Optimizer, ema: dict[str, torch.Tensor] | None
    ) -> None:
        if self.main and self.log:
            self.log.sync()
            moments: dict[str, torch.Tensor] = {}
            for name, value in self.live.items():
                moments |= {f"{name}.{key}": tensor for key, tensor in optimizer.state.get(value, {}).items()}
            scaler = self.accelerator.scaler
            state = {"scaler": scaler.state_dict() if scaler else {}, "settings": asdict(settings)}
            checkpoint = Checkpoint(self.done, self.generator.state_dict(), moments, ema, state)
            save(self.output / CHECKPOINTS, checkpoint, settings.keep)
        self.accelerator.wait_for_everyone()

    def _load_model(self, found: Checkpoint) -> None:
        try:
            self.generator.load_state_dict(found.model)
        except RuntimeError as error:
            raise ValueError(f"the checkpoint at step {found.step} is of another generator: {error}") from error

    def _load_optimizer(
        self, found: Checkpoint, optimizer: torch.optim.Optimizer, ema: dict[str, torch.Tensor] | None
    ) -> None:
        for name, value in self.live.items():
            keys = [key for key in _MOMENTS if f"{name}.{key}" in found.optimizer]
            if keys:
                optimizer.state[value] = {key: found.optimizer[f"{name}.{key}"].to(self.device) for key in keys}
        if found.state["scaler"] and self.accelerator.scaler:
            self.accelerator.scaler.load_state_dict(found.state["scaler"])
        if ema is not None:
            for name, tensor in ema.items():
                tensor.copy_((found.ema or {})[name])

    def _save_pipeline(self) -> None:
        target, part, old = (self.output / name for name in (PIPELINE, f".{PIPELINE}.part", f".{PIPELINE}.old"))
        for path in (part, old):
            shutil.rmtree(path, ignore_errors=True)
        self.pipe.save_pretrained(part)
        if target.exists():
            target.replace(old)
        part.replace(target)
        shutil.rmtree(old, ignore_errors=True)

    def _draw_sheet(self, settings: Settings, ema: dict[str, torch.Tensor] | None) -> None:
        if self.main:
            folder = self.output / SHEETS
            folder.mkdir(exist_ok=True)
            with swapped(self.live, ema or {}), drawing_mode(self.pipe), self.accelerator.autocast():
                sheet = draw_sheet(self.pipe, self.validation, settings)
            target = folder / f"step-{self.done:06d}.png"
            part = target.with_name(f".{target.name}")
            sheet.save(part, format="PNG")
            part.replace(target)
        self.accelerator.wait_for_everyone()


def _seed(*numbers: int) -> int:
    return int(np.random.default_rng(numbers).integers(2**63))


@contextmanager
def drawing_mode(pipe: IPGPipeline) -> Iterator[None]:
    """While inside, trained modules are in evaluation mode and the pipeline shows no bar."""
    bar = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=True)
    for name in TRAINED:
        getattr(pipe, name).eval()
    try:
        yield
    finally:
        for name in TRAINED:
            getattr(pipe, name).train()
        pipe.set_progress_bar_config(**bar)


def draw_sheet(pipe: IPGPipeline, people: Sequence[Record], settings: Settings) -> Image.Image:
    """A sheet: a row with up to 8 poses, then a row for each person, the reference and it drawn in these poses.

    The poses are those of the people, or the representative ones if they have none.
    """
    poses = [person.pose for person in people if person.pose is not None][:_COLUMNS] or list(representative_poses())
    references = [Image.fromarray(person.read()) for person in people]
    drawn = pipe(
        references,
        poses,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.validation_steps,
        guidance_scale=settings.validation_guidance,
        seed=settings.seed,
        return_dict=False,
    )
    cell = settings.width, settings.height
    sheet = Image.new("RGB", ((len(poses) + 1) * cell[0], (len(people) + 1) * cell[1]), "white")
    for column, pose in enumerate(poses, 1):
        sheet.paste(pose.draw().resize(cell, Image.Resampling.LANCZOS), (column * cell[0], 0))
    for line, (reference, pictures) in enumerate(zip(references, drawn[0], strict=True), 1):
        for column, picture in enumerate([reference, *pictures]):
            sheet.paste(picture.resize(cell, Image.Resampling.LANCZOS), (column * cell[0], line * cell[1]))
    return sheet


def describe_run(plan: Sequence[Stage], records: Sequence[Record], processes: int) -> dict[str, Any]:
    """What decides the losses of a run, beside the weights that it starts from."""
    run: dict[str, Any] = {"stages": len(plan), "processes": processes, "records": fingerprint(records)}
    for number, stage in enumerate(plan, 1):
        values = {**asdict(stage.settings), "copy_denoiser": stage.copy_denoiser}
        run |= {f"stage {number}, {name}": value for name, value in values.items() if name not in _FREE}
    return run
