"""From a configuration file to a trained generator: connects data sets, encoder and training.

This is the body of ``pose2id ipg-train``. A configuration is a TOML file with four tables: ``[data]`` and ``[model]``,
described at `read_records` and `build_pipeline`, ``[training]`` and ``[[stages]]``, described at
`pose2id.ipg.training.recipe.read_settings`.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from pose2id.errors import one_line
from pose2id.poses import Pose

if TYPE_CHECKING:
    from pose2id.ipg.pipeline import IPGPipeline
    from pose2id.ipg.training.batches import Record
    from pose2id.ipg.training.recipe import Settings

__all__ = ["build_pipeline", "read_records", "run_training"]

ENCODER = "encoder"
CODEC = "codec"
TABLES = "tables.json"
HALF = "pipeline-float16"
BATCH = 32
_WORLD = {"kind": str, "seed": int, "ids": list, "cams": int, "per_cam": int, "occlusion": (int, float)} | {
    "occluded_targets": bool
}
_READER = {"kind": str, "root": str, "keypoints": str, "clean": bool, "quantile": (int, float), "options": dict}
_SMALL = {"kind": str, "channels": list, "pose_channels": list} | dict.fromkeys(
    ("seed", "encoder_steps", "latent_channels", "layers", "heads", "groups", "tokens", "token_width"), int
)
_STABLE_DIFFUSION = {"kind": str, "path": str, "vae": str, "encoder": str, "tokens": int, "seed": int}

log = logging.getLogger(__name__)


def run_training(config: str | os.PathLike[str], output: str | os.PathLike[str], *, progress: bool = True) -> Path:
    """Train a generator as a configuration says, or go on with that where it was.

    Parameters
    ----------
    config : path
        A TOML file.
    output : path
        A folder; see `pose2id.ipg.training.train`. A small encoder is kept in ``encoder``. The result of a model of
        kind "small" is written once more, in half precision, as ``pipeline-float16``.
    progress : bool
        Bars on stderr.

    Returns
    -------
    pathlib.Path
        The trained pipeline's folder, for `IPGPipeline.from_pretrained`.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        For a configuration that does not fit, naming table and key, and as `train`.

    Examples
    --------
    >>> from pose2id.programs.training import run_training
    >>> folder = run_training("tiny.toml", "run")  # doctest: +SKIP
    """
    from pose2id.ipg.training import find_processes, read_settings, train
    from pose2id.ipg.training.batches import find_people

    recipe, target = read_settings(config), Path(output)
    settings, processes = recipe.settings, find_processes()
    if target.exists() and not target.is_dir():
        raise ValueError(f"output {target} must be a folder, it is a file")
    with processes.main_process_first():  # one writes, the others read what it wrote
        try:
            records = read_records(recipe.data, settings, progress=progress and processes.is_main_process)
            if not any(record.pose for record in records):
                raise ValueError("data: no picture has a pose, so there are no targets; give keypoints")
            find_people(records)
            if processes.is_main_process:
                _check_same_tables(target / TABLES, {"data": recipe.data, "model": recipe.model})
            pipe = build_pipeline(recipe.model, settings, records, target, progress=progress)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{config}: {error}") from error
        if recipe.data.get("clean"):
            records = _clean(pipe, records, recipe.data, target, progress=progress)
    shown = _choose_validation(records)
    train(pipe, records, target, settings, stages=recipe.stages, validation=shown, progress=progress)
    if recipe.model["kind"] == "small" and processes.is_main_process:
        from torch import nn

        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.half()  # `pipe.to` would warn of parts that should stay as they are; there are none
        _save_folder(pipe, target / HALF)
    processes.wait_for_everyone()
    return target / "pipeline"


def _check_same_tables(path: Path, tables: dict[str, Any]) -> None:
    """Write down what a run starts from, or compare it with what is there."""
    now = json.dumps(tables, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != now:
        raise ValueError(f"output {path.parent} was begun with other tables [data] or [model]; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}")
    part.write_text(now, encoding="utf-8")
    part.replace(path)


def read_records(data: Mapping[str, Any], settings: Settings, *, progress: bool = False) -> list[Record]:
    """The pictures of table ``[data]``.

    Parameters
    ----------
    data : mapping
        ``kind = "world"``: `seed`, `ids` (the first identity and the one after the last), `cams`, `per_cam`,
        `occlusion` of `pose2id.synthetic.make_set`, and ``occluded_targets`` (true: occluded pictures may be drawn as
        well). Any other kind is a name that `pose2id.datasets.read_dataset` knows: `root`, `options` for the reader,
        `keypoints` (a JSON file: path below root, 18 points [x, y] as fractions, or null), ``clean`` (true: as in
        supplementary 7.1) and `quantile`.
    settings : Settings
        For the size of synthetic pictures.
    progress : bool
        A bar on stderr.

    Returns
    -------
    list of Record
        One for each picture; targets have a pose.

    Examples
    --------
    >>> from pose2id.ipg.training.recipe import Settings
    >>> from pose2id.programs.training import read_records
    >>> world = {"kind": "world", "ids": [0, 2], "cams": 2, "per_cam": 1}
    >>> [record.identity for record in read_records(world, Settings(height=64, width=32))]
    [0, 0, 1, 1]
    """
    from pose2id.ipg.training.batches import Record

    kind = data.get("kind")
    if kind == "world":
        from pose2id.synthetic import make_set

        _check_table(data, _WORLD, "data", needed=("ids",))
        if len(data["ids"]) != 2 or data["ids"][0] >= data["ids"][1]:
            raise ValueError(f"data: ids must be the first identity and the one after the last, received {data['ids']}")
        first, end = data["ids"]
        given = {name: data[name] for name in ("seed", "cams", "per_cam", "occlusion") if name in data}
        world = make_set(range(first, end), height=settings.height, width=settings.width, progress=progress, **given)
        anyway = bool(data.get("occluded_targets", False))
        return [
            Record(image, int(who), pose, target=anyway or not hidden)
            for image, who, pose, hidden in zip(world.images, world.ids, world.poses, world.occluded, strict=True)
        ]
    from pose2id.datasets import READERS, read_dataset

    if not isinstance(kind, str) or kind not in READERS:
        raise ValueError(f"data: kind must be 'world' or one of {', '.join(READERS)}; received {kind!r}")
    _check_table(data, _READER, "data", needed=("root",))
    root = Path(data["root"]).expanduser()
    found = read_dataset(kind, root, **data.get("options", {})).train
    if not found.paths:
        raise ValueError(f"data: {kind} in {data['root']} has no training pictures")
    poses = _read_keypoints(Path(data["keypoints"])) if "keypoints" in data else {}
    records = []
    for row, (path, who) in enumerate(zip(found.paths, found.ids, strict=True)):
        inside = path.relative_to(root).as_posix()
        pose = poses.get(inside)
        if found.keypoints is not None:
            pose = Pose(found.keypoints[row])
        seen = pose is not None and bool(pose.present.any())
        records.append(Record(path, int(who), pose if seen else None, target=seen))
    return records


def _read_keypoints(path: Path) -> dict[str, Pose]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it must hold an object: path, then 18 points; it holds a {type(content).__name__}")
        return {name: Pose(points) for name, points in content.items() if points is not None}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def build_pipeline(
    model: Mapping[str, Any], settings: Settings, records: list[Record], output: Path, *, progress: bool = False
) -> IPGPipeline:
    """The untrained generator of table ``[model]``.

    Parameters
    ----------
    model : mapping
        ``kind = "small"``: an encoder that is trained here on the same pictures (`encoder_steps`) and kept in `output`,
        a patch codec (`latent_channels`), UNets of two levels (`channels`, `layers`, `heads`, `groups` of the
        normalisation, `tokens` of `token_width`), a pose encoder (`pose_channels`), and `seed`.
        ``kind = "stable-diffusion"``: `path`, `vae` (folders or Hub ids), `encoder` (a folder with transformer_20),
        `tokens`, `seed`.
    settings : Settings
        For sizes.
    records : list of Record
        Pictures for encoder and codec.
    output : path
        Where the encoder is kept.
    progress : bool
        Bars on stderr.

    Returns
    -------
    IPGPipeline
        Its two UNets, pose encoder and IFR are not trained yet.

    Examples
    --------
    >>> from pose2id.programs.training import build_pipeline
    >>> pipe = build_pipeline({"kind": "small"}, settings, records, Path("run"))  # doctest: +SKIP
    """
    if model.get("kind") == "small":
        return _build_small(model, settings, records, output, progress=progress)
    if model.get("kind") == "stable-diffusion":
        return _build_large(model)
    raise ValueError(f"model: kind must be 'small' or 'stable-diffusion', received {model.get('kind')!r}")


def _build_small(
    model: Mapping[str, Any], settings: Settings, records: list[Record], output: Path, *, progress: bool
) -> IPGPipeline:
    from diffusers import UNet2DConditionModel

    from pose2id.ipg.networks import IFR, PatchCodec, PoseEncoder, SmallEncoder
    from pose2id.ipg.pipeline import IPGPipeline
    from pose2id.ipg.scheduler import make_scheduler

    _check_table(model, _SMALL, "model")
    channels = list(model.get("channels", (48, 96)))
    latent_channels, seed = model.get("latent_channels", 12), model.get("seed", 0)
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
    images = np.stack(pictures)
    width = SmallEncoder(img_size=images.shape[1:3]).feature_width
    try:  # before the encoder is trained
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            reference_unet, unet = (
                UNet2DConditionModel(
                    sample_size=(settings.height // 4, settings.width // 4),
                    in_channels=latent_channels,
                    out_channels=latent_channels,
                    block_out_channels=channels,
                    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
                    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
                    layers_per_block=model.get("layers", 1),
                    attention_head_dim=model.get("heads", 4),
                    norm_num_groups=model.get("groups", 8),
                    cross_attention_dim=model.get("token_width", 64),
                )
                for _ in range(2)
            )
            pose_encoder = PoseEncoder(channels[0], block_out_channels=model.get("pose_channels", (12, 24, 48)))
            ifr = IFR(width, model.get("tokens", 6), model.get("token_width", 64))
    except Exception as error:  # numbers that do not fit each other make diffusers stumble in many ways
        raise ValueError(f"model: the networks cannot be built: {one_line(error, 200)}") from error
    if not (output / ENCODER).is_dir():
        from pose2id.ipg.training.encoder import train_encoder

        names = [record.identity for record in records]
        trained = train_encoder(images, names, steps=model.get("encoder_steps", 3000), seed=seed, progress=progress)
        _save_folder(trained, output / ENCODER)
    if not (output / CODEC).is_dir():  # kept, because another machine may find the same axes in other directions
        fitted = PatchCodec.fit(images[:: max(1, len(images) // 4000)], latent_channels=latent_channels)
        _save_folder(fitted, output / CODEC)
    encoder, codec = _load_part(SmallEncoder, output / ENCODER), _load_part(PatchCodec, output / CODEC)
    parts = (codec, reference_unet, unet, pose_encoder, ifr, encoder.eval(), make_scheduler())
    size = settings.height, settings.width
    return IPGPipeline(*parts, size, settings.validation_steps, settings.validation_guidance)


def _build_large(model: Mapping[str, Any]) -> IPGPipeline:
    from pose2id.ipg.training import STABLE_DIFFUSION, start_from_stable_diffusion
    from pose2id.ipg.weights.loading import load_encoder, load_vae

    _check_table(model, _STABLE_DIFFUSION, "model", needed=("encoder",))
    vae = load_vae(model.get("vae"))
    return start_from_stable_diffusion(
        model.get("path", STABLE_DIFFUSION),
        vae=vae,
        identity_encoder=load_encoder(model["encoder"]),
        num_tokens=model.get("tokens", 20),
        seed=model.get("seed", 0),
    )


def _clean(
    pipe: IPGPipeline, records: list[Record], data: Mapping[str, Any], output: Path, *, progress: bool
) -> list[Record]:
    """Records with S_ref and S_trg of supplementary 7.1; a report, and a sheet of those that drop out, in `output`."""
    from PIL import Image

    from pose2id.ipg.training import find_processes
    from pose2id.ipg.training.cleaning import clean, draw_dropped

    processes = find_processes()
    encoder = pipe.identity_encoder.to(processes.device)
    rows = []
    for start in tqdm(range(0, len(records), BATCH), desc="encoding", unit="batch", disable=not progress):
        part = records[start : start + BATCH]
        with torch.no_grad():
            pixels = encoder.preprocess([Image.fromarray(record.read()) for record in part])
            rows.append(encoder(pixels.to(encoder.device, encoder.dtype)).float().cpu().numpy())
    names = [record.identity for record in records]
    cleaned = clean(np.concatenate(rows), names, [r.pose for r in records], quantile=data.get("quantile", 0.005))
    if processes.is_main_process:
        output.mkdir(parents=True, exist_ok=True)
        (output / "cleaning.txt").write_text(cleaned.report() + "\n", encoding="utf-8")
        draw_dropped([record.image for record in records], cleaned).save(output / "cleaning.png")
    log.info("%s", cleaned.report())
    return [
        replace(record, reference=bool(reference), target=record.target and bool(target))
        for record, reference, target in zip(records, cleaned.reference, cleaned.target, strict=True)
    ]


def _choose_validation(records: list[Record], count: int = 8) -> list[Record]:
    """Pictures of different people, evenly from all of them, that have a pose."""
    firsts: dict[Any, Record] = {}
    for record in records:
        if record.target:
            firsts.setdefault(record.identity, record)
    chosen = list(firsts.values())
    return chosen[:: max(1, len(chosen) // count)][:count]


def _load_part(cls: Any, folder: Path) -> Any:
    """A model without the knowledge where it comes from, which would be saved with the pipeline."""
    kept = cls.from_pretrained(folder)
    part = cls(**{key: value for key, value in kept.config.items() if not key.startswith("_")})
    part.load_state_dict(kept.state_dict())
    return part.eval().requires_grad_(False)


def _save_folder(part: Any, folder: Path) -> None:
    """`save_pretrained`, so that the folder is there completely or not at all; one that is there is replaced."""
    import tempfile

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".") as temporary:
        made = Path(temporary, folder.name)
        part.save_pretrained(made)
        if folder.exists():
            folder.rename(Path(temporary, "former"))
        made.rename(folder)


def _check_table(table: Mapping[str, Any], kinds: Mapping[str, Any], name: str, needed: Sequence[str] = ()) -> None:
    """Raise ValueError or TypeError, naming table and key."""
    if unknown := sorted(table.keys() - kinds.keys()):
        raise ValueError(f"{name}: unknown keys {', '.join(unknown)}; known are {', '.join(sorted(kinds))}")
    if missing := [key for key in needed if key not in table]:
        raise ValueError(f"{name}: {', '.join(missing)} must be given")
    for key, value in table.items():
        kind = kinds[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            words = " or ".join(each.__name__ for each in (kind if isinstance(kind, tuple) else (kind,)))
            raise TypeError(f"{name}: {key} must be {words}, received {value!r}")
        if isinstance(value, int) and value < 0:
            raise ValueError(f"{name}: {key} must not be negative, received {value}")
        if isinstance(value, list) and not all(type(each) is int and each >= 0 for each in value):
            raise TypeError(f"{name}: {key} must hold integers of 0 or more, received {value!r}")
