"""Training of an encoder, any of the systems, on pictures in memory.

Every random number of a step depends on the seed and on the number of the step alone, so a run that was killed and goes
on from a checkpoint ends with the weights that it would have had; on the CPU they are the same to the last bit.
"""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pose2id.atomic import clear_leftovers
from pose2id.encoders.contract import Batch, Encoder, check_sizes
from pose2id.encoders.folders import WEIGHTS, load_encoder, make_encoder, save_encoder
from pose2id.encoders.pictures import Pictures
from pose2id.encoders.recipe import EncoderSettings, Part, plan_stages
from pose2id.encoders.systems import find_system
from pose2id.errors import one_line, require
from pose2id.hub import hash_file
from pose2id.training.checkpoints import (
    CHECKPOINTS,
    RUN,
    Checkpoint,
    check_same_run,
    check_tensors,
    find_newest,
    load,
    require_packages,
    save,
)
from pose2id.training.folders import hold_folder
from pose2id.training.prefetching import prefetch
from pose2id.training.reports import Reports
from pose2id.training.schedule import learning_rate
from pose2id.validation import check_path

RESULT = "encoder"
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")
_NARROWEST = 8
"""With fewer channels torch 2.13 writes beyond its memory in the layout channels_last."""


def train_encoder(
    system: str,
    images: NDArray[np.uint8],
    ids: Any,
    output: str | os.PathLike[str],
    settings: EncoderSettings | None = None,
    *,
    keypoints: Any = None,
    masks: NDArray[np.uint8] | None = None,
    part_names: Sequence[str] = (),
    attributes: Any = None,
    channels: Sequence[int] = (24, 48, 128),
    sizes: Mapping[str, Any] | None = None,
    trunk: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
    resume: bool = True,
    report: Callable[[str], None] | None = None,
) -> Encoder:
    """Train an encoder on pictures of known people, or go on with that where a run was killed.

    A batch has some pictures of each of some people. They are mirrored at random, and then left and right change places
    in keypoints and masks too; of some a rectangle is erased, and then keypoints there are missing and masks have no
    part there. What is minimised says the system.

    Parameters
    ----------
    system : str
        One of `pose2id.encoders.SYSTEMS`.
    images : ndarray of uint8, shape (N, H, W, 3)
        RGB, all of the size that the encoder will take.
    ids : array_like, shape (N,)
        Integers or strings, at least two different ones.
    output : path
        A folder: ``checkpoints``, ``losses.csv``, and at the end ``encoder`` for `load_encoder`.
    settings : EncoderSettings, optional
        None: the defaults.
    keypoints : (N, 18, 2) floats, or sequence of Pose or None
        In the order of `pose2id.poses.KEYPOINTS`, as fractions of width and height; NaN where missing.
    masks : ndarray of uint8, shape (N, H, W)
        Which part each pixel shows: its place in `part_names`, from 1; 0 for the background.
    part_names : sequence of str
        Of the masks. A mirror makes "left arm" of "right arm".
    attributes : (N, A) integers
        The class of each attribute, from 0; -1 where unknown.
    channels : sequence of 3 int
        Of the trunk's stages.
    sizes : mapping, optional
        Keywords of the system's class. For a system that needs attributes `attributes`, how many classes each has, is
        found in the pictures where it is not given.
    trunk : path, optional
        The folder of a trained encoder of the same channels, whose trunk this one begins with.
    device : str or torch.device
    progress : bool
        A bar on stderr, with the time left.
    resume : bool
        Go on from the newest checkpoint in `output`. False: refuse a folder with checkpoints.
    report : callable, optional
        Told every minute, in words, how far the run is; for where no bar is shown.

    Returns
    -------
    Encoder
        In eval mode, without gradients.

    Raises
    ------
    ValueError, TypeError
        For pictures of which something is missing that the system needs, and other arguments that do not fit; when
        another run works in `output`, or it holds a run with other settings or a damaged checkpoint.
    FloatingPointError
        When loss or gradient are not finite any more; the checkpoints before remain.
    MissingExtraError
        Without safetensors or filelock, or tensorboard if `settings` ask for it.

    References
    ----------
    H. Luo and others, Bag of Tricks and a Strong Baseline for Deep Person Re-Identification, CVPR workshops 2019;
    A. Hermans and others, In Defense of the Triplet Loss for Person Re-Identification, 2017 (batches); Z. Zhong and
    others, Random Erasing Data Augmentation, AAAI 2020.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.encoders import EncoderSettings, encode_images, train_encoder
    >>> from pose2id.synthetic import make_set
    >>> people, settings = make_set([0, 1, 2], cams=2), EncoderSettings(steps=2, identities=3)
    >>> with tempfile.TemporaryDirectory() as run:
    ...     encoder = train_encoder("global", people.images, people.ids, run, settings, progress=False)
    >>> tuple(encode_images(encoder, people.images).features.shape)
    (12, 128)
    """
    settings, folder = settings or EncoderSettings(), check_path(output, "output")
    pictures = Pictures(images, ids, keypoints, masks, tuple(part_names), attributes)
    check_needs(system, pictures.given())
    if len(pictures.people) < 2:
        raise ValueError(f"ids must hold at least two identities, received {len(pictures.people)}")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output {folder} must be a folder, it is a file")
    require_packages()
    if settings.tensorboard:
        require("tensorboard", "train", "EncoderSettings.tensorboard")
    kind, sizes = find_system(system), dict(sizes or {})
    if kind.sized:
        sizes.setdefault("size", list(images.shape[1:3]))
    if "attributes" in kind.needs:
        _check_attributes(sizes, pictures)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        encoder = make_encoder(system, len(pictures.people), channels=tuple(channels), sizes=sizes)
    encoder.image_size, encoder.part_names = images.shape[1:3], pictures.part_names
    start = None if trunk is None else load_encoder(trunk)
    if start is not None:
        _take_trunk(encoder, start, trunk)
    run: dict[str, Any] = {"system": system, "channels": list(encoder.trunk.widths), "sizes": encoder.sizes}
    run |= {
        "trunk": None if trunk is None else hash_file(check_path(trunk, "trunk") / WEIGHTS),
        "pictures": pictures.fingerprint(),
    }
    with hold_folder(folder):
        plan = plan_stages(encoder.stages(), settings.steps)
        found = _open_folder(folder, {**run, **settings.deciding()}, settings.steps, resume=resume)
        trainer = _Trainer(encoder.to(device), pictures, folder, settings, plan)
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            trainer.run(found, progress=progress, report=report)
        save_encoder(encoder, folder / RESULT, overwrite=True)
    return encoder


def check_needs(system: str, given: set[str]) -> None:
    """ValueError unless all that a system needs is given."""
    if missing := sorted(find_system(system).needs - given):
        words = f"; given are {', '.join(sorted(given))}" if given else ""
        raise ValueError(
            f"system {system} needs {' and '.join(missing)} of every picture{words}; give them, or train another system"
        )


def _check_attributes(sizes: dict[str, Any], pictures: Pictures) -> None:
    """The size `attributes`, found in the pictures where it is not given; ValueError for classes that it lacks."""
    found = (pictures.attributes.max(0, initial=0) + 1).tolist()
    counts = check_sizes(sizes.setdefault("attributes", found), "attributes")
    if len(counts) != len(found) or any(map(operator.lt, counts, found)):
        raise ValueError(
            f"attributes must be numbers of classes of at least {found}, those in the pictures, received {list(counts)}"
        )


def _take_trunk(encoder: Encoder, start: Encoder, folder: Any) -> None:
    """Begin with the trunk of another encoder."""
    if start.trunk.widths != encoder.trunk.widths:
        raise ValueError(
            f"trunk {folder} has channels {list(start.trunk.widths)}, this encoder {list(encoder.trunk.widths)}; they "
            "must be the same"
        )
    encoder.start_from(start.trunk)


def _open_folder(folder: Path, run: Mapping[str, Any], steps: int, *, resume: bool) -> Checkpoint | None:
    """Make the folder of a run, or load the newest checkpoint of the same run from it."""
    checkpoints = folder / CHECKPOINTS
    checkpoints.mkdir(parents=True, exist_ok=True)
    for each in (folder, checkpoints):
        clear_leftovers(each)
    newest = find_newest(checkpoints)
    check_same_run(folder / RUN, run, begun=newest is not None)
    if newest is None:
        return None
    if not resume:
        raise ValueError(f"output {folder} holds checkpoints; name another folder, or resume")
    found = load(newest)
    if found.step > steps:
        raise ValueError(f"checkpoint {newest} is of step {found.step:,}, this run has {steps:,}; name another folder")
    return found


class _Trainer:
    """Trains an encoder stage after stage, and writes checkpoints."""

    optimizer: torch.optim.Optimizer  # of the present stage
    parameters: dict[str, nn.Parameter]  # that it learns

    def __init__(
        self, encoder: Encoder, pictures: Pictures, folder: Path, settings: EncoderSettings, plan: Sequence[Part]
    ) -> None:
        self.encoder, self.pictures, self.folder, self.settings, self.plan = encoder, pictures, folder, settings, plan
        self.learnable = [name for name, value in encoder.named_parameters() if value.requires_grad]
        widths = [module.out_channels for module in encoder.modules() if isinstance(module, nn.Conv2d)]
        # Twice as fast on CPUs.
        fits = min(widths, default=_NARROWEST) >= _NARROWEST
        self.layout = torch.channels_last if fits else torch.contiguous_format
        encoder.to(memory_format=self.layout)  # type: ignore[call-overload]
        self.device = next(encoder.parameters()).device
        self.done = 0

    def run(self, found: Checkpoint | None, *, progress: bool, report: Callable[[str], None] | None) -> None:
        """Do what is left after a checkpoint."""
        self.done = found.step if found else 0
        shown: dict[str, Any] = {"tensorboard": self.settings.tensorboard, "progress": progress, "report": report}
        self.reports = Reports(self.folder, self.done, self.settings.steps, **shown)
        try:
            with _deterministic():
                for part in self.plan:
                    # A checkpoint at the end of a stage belongs to that stage: the next one has not begun.
                    if self.done <= part.end and (found or self.done < part.end):
                        self._begin_stage(part, found)
                        self._train_stage(part)
                        found = None
        finally:
            self.reports.close()
            self.encoder.stage = None
            self.encoder.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)  # type: ignore[call-overload]

    def _begin_stage(self, part: Part, found: Checkpoint | None) -> None:
        """What learns, and its optimiser, at the beginning of a stage or as a checkpoint holds them."""
        stage, encoder = part.stage, self.encoder
        encoder.stage = stage.name
        learnt = {name for name in self.learnable if name.startswith(stage.trains)}
        if not learnt:
            raise ValueError(f"stage {stage.name!r} trains no parameter: none begins with one of {stage.trains}")
        for name, value in encoder.named_parameters():
            value.requires_grad_(name in learnt)
        encoder.train()
        for module in encoder.modules():  # the running statistics of what is frozen stay too
            own = list(module.parameters())
            if own and not any(value.requires_grad for value in own):
                module.eval()
        self.parameters = {name: value for name, value in encoder.named_parameters() if name in learnt}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), weight_decay=self.settings.weight_decay)
        if found:
            try:
                encoder.load_state_dict(found.model)
            except RuntimeError as error:
                raise ValueError(
                    f"the checkpoint at step {found.step} is of another encoder: {one_line(error)}"
                ) from error
            self._load_moments(found)

    def _train_stage(self, part: Part) -> None:
        """The steps that are left of a stage."""
        settings, length = self.settings, part.end - part.start
        rising = min(settings.warmup, length // 10)
        steps = range(self.done + 1, part.end + 1)
        with closing(prefetch(self._draw, steps, settings.workers)) as batches:
            for step, batch in zip(steps, batches, strict=True):
                rate = settings.learning_rate * part.stage.rate
                rate = learning_rate(rate, step - part.start, length, warmup=rising)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                torch.manual_seed(int(np.random.default_rng((settings.seed, step)).integers(2**63)))  # for dropout
                terms, norm = self._step(batch)
                self.done = step
                self.reports.add(step, sum(terms.values()), rate, norm, terms)
                if step == part.end or step % settings.save_every == 0:
                    self._save_checkpoint()

    def _draw(self, step: int) -> Batch:
        """The batch of a step, a function of the seed and its number."""
        settings = self.settings
        drawn = {name: getattr(settings, name) for name in ("identities", "shots", "flip", "erase")}
        return self.pictures.draw(np.random.default_rng((settings.seed, 1, step)), **drawn)

    def _step(self, batch: Batch) -> tuple[dict[str, float], float]:
        """One step of the optimiser; the terms of its loss, and the norm of the gradient before it was cut."""
        images = batch.images.to(self.device).contiguous(memory_format=self.layout)
        given = {name: value.to(self.device) for name, value in batch._asdict().items() if value is not None}
        terms = self.encoder.loss(batch._replace(**{**given, "images": images}))
        self.optimizer.zero_grad()
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip or math.inf)
        if not bool(norm.isfinite()):  # before it reaches the weights
            raise FloatingPointError(
                f"the gradient is {float(norm)} at step {self.done + 1}; begin again in another folder with a lower "
                "learning_rate"
            )
        self.optimizer.step()
        return {name: float(term.detach()) for name, term in terms.items()}, float(norm)

    def _save_checkpoint(self) -> None:
        self.reports.losses.sync()  # before a checkpoint says that these steps are done
        moments = {
            f"{name}.{key}": tensor
            for name, value in self.parameters.items()
            for key, tensor in self.optimizer.state.get(value, {}).items()
        }
        state = {"stage": self.encoder.stage}
        checkpoint = Checkpoint(self.done, self.encoder.state_dict(), moments, None, state)
        save(self.folder / CHECKPOINTS, checkpoint, self.settings.keep)

    def _load_moments(self, found: Checkpoint) -> None:
        begun = [name for name in self.parameters if any(f"{name}.{key}" in found.optimizer for key in _MOMENTS)]
        wanted = {
            f"{name}.{key}": torch.empty(()) if key == "step" else self.parameters[name]
            for name in begun
            for key in _MOMENTS
        }
        check_tensors(wanted, found.optimizer, f"the moments in the checkpoint at step {found.step}")
        for name in begun:
            value, held = self.parameters[name], {key: found.optimizer[f"{name}.{key}"] for key in _MOMENTS}
            # In the layout of the parameter, as the optimiser had made them.
            laid = {key: torch.empty_like(value).copy_(held[key]) for key in _MOMENTS[1:]}
            self.optimizer.state[value] = {"step": held["step"], **laid}


@contextmanager
def _deterministic() -> Iterator[None]:
    """Have torch add in one order where it may choose."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    filling: Any = torch.utils.deterministic
    filled = filling.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    filling.fill_uninitialized_memory = False  # which costs time and decides nothing
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        filling.fill_uninitialized_memory = filled
