"""The untrained generator of a training by its table [model], with the encoder and the codec that it needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pose2id.atomic import write_folder
from pose2id.ipg.components import make_scheduler
from pose2id.ipg.networks import PatchCodec, SmallEncoder
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training import (
    Record,
    Settings,
    SmallModel,
    StableDiffusionModel,
    start_from_stable_diffusion,
    train_encoder,
)
from pose2id.ipg.training.configuration import read_model
from pose2id.ipg.training.initialisation import make_small_networks
from pose2id.ipg.weights.loading import load_encoder, load_vae


def build_pipeline(
    model: Mapping[str, Any] | SmallModel | StableDiffusionModel,
    settings: Settings,
    records: Sequence[Record],
    output: Path,
    *,
    progress: bool = False,
) -> IPGPipeline:
    """The generator that a training begins with: its two UNets, pose encoder and IFR are not trained yet.

    Parameters
    ----------
    model : SmallModel, StableDiffusionModel or mapping
        Table ``[model]``.
    settings : Settings
        For sizes.
    records : sequence of Record
        Pictures from which a small model's encoder and codec are made.
    output : path
        Where these two are kept; those that are there are taken.
    progress : bool
        Bars on stderr.

    Returns
    -------
    IPGPipeline
        In float32, on the CPU.

    Examples
    --------
    >>> from pose2id.ipg.training import SmallModel
    >>> from pose2id.programs.training import build_pipeline
    >>> pipe = build_pipeline(SmallModel(), settings, records, Path("run"))  # doctest: +SKIP
    """
    model = read_model(model)
    if isinstance(model, StableDiffusionModel):
        return start_from_stable_diffusion(
            model.path,
            vae=load_vae(model.vae),
            identity_encoder=load_encoder(model.encoder),
            num_tokens=model.tokens,
            seed=model.seed,
        )
    images, ids = _stack_pictures(records, settings), [record.identity for record in records]
    networks = make_small_networks(model, settings.height, settings.width)  # before the encoder's longer training
    learn = partial(train_encoder, images, ids, steps=model.encoder_steps, seed=model.seed, progress=progress)
    encoder = _keep(output / "encoder", SmallEncoder, learn)
    # Kept as well, because another machine may find the same axes in other directions.
    fit = partial(PatchCodec.fit, images[:: max(1, len(images) // 4000)], latent_channels=model.latent_channels)
    codec = _keep(output / "codec", PatchCodec, fit)
    size = settings.height, settings.width
    drawing = settings.validation_steps, settings.validation_guidance
    return IPGPipeline(codec, *networks, encoder, make_scheduler(), size, *drawing)


def _stack_pictures(records: Sequence[Record], settings: Settings) -> NDArray[np.uint8]:
    """All pictures (N, H, W, 3), which must have the size of the training."""
    pictures = [record.read() for record in records]
    for picture in pictures:
        if picture.shape[:2] != (settings.height, settings.width):
            raise ValueError(
                f"model: a small model needs pictures of {settings.height} x {settings.width}, as [training] says; "
                f"received {picture.shape[0]} x {picture.shape[1]}"
            )
    for name in ("height", "width"):
        if getattr(settings, name) % 8:
            raise ValueError(f"training: {name} must be a multiple of 8, received {getattr(settings, name)}")
    return np.stack(pictures)


def _keep(folder: Path, kind: Any, make: Callable[[], Any]) -> Any:
    """A model that is kept in a folder, and made if it is not there yet."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with write_folder(folder) as part:
            make().save_pretrained(part)
    kept = kind.from_pretrained(folder)
    # Without the knowledge where it comes from, which would be saved with the pipeline.
    model = kind(**{key: value for key, value in kept.config.items() if not key.startswith("_")})
    model.load_state_dict(kept.state_dict())
    return model.eval().requires_grad_(False)


def halve(pipe: IPGPipeline) -> IPGPipeline:
    """A copy of a pipeline in half precision."""
    copy = deepcopy(pipe)
    for part in copy.components.values():
        if isinstance(part, nn.Module):
            part.half()  # `copy.to` would warn of parts that should stay as they are; there are none
    return copy
