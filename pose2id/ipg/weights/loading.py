"""Released files into the networks: read as tensors only, checked key by key, nothing initialised."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pose2id.errors import one_line, require
from pose2id.ipg.components import check_components
from pose2id.ipg.networks import IFR, PoseEncoder, TransReID
from pose2id.ipg.weights.configuration import Config, join_names, read_config
from pose2id.ipg.weights.fetching import download
from pose2id.ipg.weights.parts import find_faults, is_finite, list_faults, read_file, take_state
from pose2id.ipg.weights.table import FILES, TINY_SAYS, VAE_REPOSITORY

SUFFIXES = (".safetensors", ".pth")
ALSO_NAMED = {"transformer_20": ("transreid",)}
"""Released training code numbers its files by epoch; who renames one calls it after what it is."""
ABSENT = ("conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias")
"""What the released reference UNet lacks: of that network only the hidden states on the way are used."""
PURPOSE = "loading the generator"


def read_state(folder: str | os.PathLike[str], name: str) -> dict[str, Tensor]:
    """Tensors of the released file ``name.safetensors`` or ``name.pth``, by parameter, on the CPU.

    They are mapped into memory where the format allows it. A prefix "module." is removed; of ``{"state_dict": ...}``
    the inner dict is taken.

    Raises
    ------
    FileNotFoundError
        When neither file is there.
    ValueError
        For a damaged file, and one that holds anything but tensors: pickled code is refused and does not run.
    """
    path = _find(folder, name)
    content = read_file(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    state: dict[str, Tensor] = {}
    for key, tensor in take_state(content, path).items():
        if key.removeprefix("module.") in state:
            raise ValueError(f"{path} holds {key.removeprefix('module.')} twice, with and without 'module.'")
        state[key.removeprefix("module.")] = tensor
    return state


def _find(folder: str | os.PathLike[str], name: str) -> Path:
    folder = Path(folder)
    for base in (name, *ALSO_NAMED.get(name, ())):
        for suffix in SUFFIXES:
            if (path := folder / (base + suffix)).is_file():
                return path
    message = f"{folder} holds neither {' nor '.join(name + suffix for suffix in SUFFIXES)}"
    if not folder.is_dir():
        message = f"{folder} is not a folder; {name} was looked for in it"
    elif (folder / "model_index.json").is_file():
        message += "; it was written by save_pretrained, IPGPipeline.from_pretrained reads it"
    raise FileNotFoundError(f"{message}. To fetch the released files: pose2id weights download. {TINY_SAYS}")


def load_state(module: nn.Module, state: Mapping[str, Tensor], *, where: str, absent: Collection[str] = ()) -> None:
    """Give a module, which may be on the meta device, the tensors of a file: every key of it and no other.

    They are not copied where they are contiguous and have the dtype of the module. Keys in `absent` must not be in
    `state` and become zeros. The ValueError names `where` and every fault (up to twenty of each kind).
    """
    own = module.state_dict()
    faults = find_faults(own, state, absent)
    if any(faults.values()):
        raise ValueError(f"{where} does not fit; {list_faults(faults)}")
    tensors = {key: torch.zeros(own[key].shape, dtype=own[key].dtype) for key in absent}
    tensors |= {key: given.detach().to(own[key].dtype).contiguous() for key, given in state.items()}
    module.load_state_dict(tensors, strict=True, assign=True)


def load_components(folder: str | os.PathLike[str], config: Config = None, vae: Any = None) -> dict[str, Any]:
    """All parts of the pipeline by name, from what `IPGPipeline.from_released_files` is given.

    They are in eval mode, without gradients, float32 and on the CPU (a given AutoencoderKL keeps dtype and device).
    Nothing is initialised to be overwritten: they are built without memory and take the tensors of the files, which
    stay mapped where they are float32.
    """
    diffusers = require("diffusers", "ipg", PURPOSE)
    blocks = read_config(config)
    unet = diffusers.UNet2DConditionModel
    rows = (  # component, its file, its class, its block of the config, keys that the file lacks
        ("reference_unet", "reference_unet", unet, "unet", ABSENT),
        ("unet", "denoising_unet", unet, "unet", ()),
        ("pose_encoder", "pose_guider", PoseEncoder, "pose_guider", ()),
        ("ifr", "IFR", IFR, "ifr", ()),
    )
    paths = {file: _find(folder, file) for file in (*(row[1] for row in rows), "transformer_20")}  # before reading any
    components = {name: _build(cls, blocks, block) for name, _, cls, block, _ in rows}
    components["identity_encoder"] = load_encoder(folder, config)
    components["scheduler"] = _build(diffusers.DDIMScheduler, blocks, "scheduler")
    components["vae"] = load_vae(vae, blocks.get("vae"))
    check_components(components)
    for name, file, _, _, absent in rows:
        load_state(components[name], read_state(folder, file), where=str(paths[file]), absent=absent)
    for name in components.keys() - {"scheduler"}:
        components[name].eval().requires_grad_(False)
    return components


def _build(cls: Any, blocks: Mapping[str, Mapping[str, Any]], name: str) -> Any:
    """An instance without memory for its parameters."""
    block = _settings(blocks[name])
    known = [key for key in inspect.signature(cls.__init__).parameters if key != "self"]
    if unknown := [key for key in block if key not in known]:
        raise ValueError(f"config block {name!r} has unknown keys: {join_names(unknown)}; known are {', '.join(known)}")
    written = blocks[name].get("_class_name", cls.__name__)
    if written != cls.__name__:
        raise ValueError(f"config block {name!r} must be for a {cls.__name__}, it is for a {written}")
    try:
        with torch.device("meta") if issubclass(cls, torch.nn.Module) else nullcontext():
            return cls(**block)
    except Exception as error:  # values that do not fit make these classes stumble in many ways
        raise ValueError(f"config block {name!r} does not fit {cls.__name__}: {one_line(error, 300)}") from error


def _settings(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block without the notes that diffusers leaves in it."""
    return {key: value for key, value in block.items() if not key.startswith("_")}


def load_vae(vae: Any = None, block: Mapping[str, Any] | None = None) -> Any:
    """The autoencoder, as `IPGPipeline.from_released_files` takes it; `block` is what a config says of it."""
    cls = require("diffusers", "ipg", PURPOSE).AutoencoderKL
    if isinstance(vae, cls):
        return vae
    if vae is not None and not isinstance(vae, str | os.PathLike):
        raise TypeError(f"vae must be an AutoencoderKL, a folder, a Hub id or None; received {type(vae).__name__}")
    if vae is None and block is not None and _settings(block) != _settings(read_config()["vae"]):
        raise ValueError(f"config block 'vae' is not that of {VAE_REPOSITORY}; pass the autoencoder itself as vae")
    if vae is None or vae == VAE_REPOSITORY:
        vae = download([file.name for file in FILES if file.repository == VAE_REPOSITORY])
    place = os.fspath(vae)
    if not Path(place).is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", place):
        raise FileNotFoundError(f"vae {place} is neither a folder nor a Hub id such as {VAE_REPOSITORY}")
    try:
        loaded, report = cls.from_pretrained(place, use_safetensors=True, output_loading_info=True)
    except Exception as error:  # of diffusers, safetensors or the Hub's client
        local = Path(place).is_dir()
        raise (ValueError if local else OSError)(f"vae {place} cannot be loaded: {one_line(error, 300)}") from error
    check_report(loaded, report, f"vae {place}")
    return loaded


def check_report(loaded: nn.Module, report: Mapping[str, Any], what: str) -> None:
    """Raise ValueError unless diffusers, by its report (`output_loading_info`), found all of a model and no more.

    It leaves such parameters random, with a warning.
    """
    faults = {fault.replace("_", " "): [str(key) for key in keys] for fault, keys in report.items()}
    faults["NaN or inf"] = [key for key, tensor in loaded.state_dict().items() if not is_finite(tensor)]
    if any(faults.values()):
        raise ValueError(f"{what} does not fit its config.json; {list_faults(faults)}")


def load_encoder(folder: str | os.PathLike[str], config: Config = None) -> Any:
    """The identity encoder alone, from a folder with transformer_20 (or transreid), .safetensors or .pth."""
    path = _find(folder, "transformer_20")
    encoder = _build(TransReID, read_config(config), "transreid")
    encoder.to_empty(device="cpu")
    for tensor in encoder.state_dict().values():
        tensor.zero_()  # the parts that only training uses may be absent, and shall not be random
    try:
        encoder.load_released_state(read_state(folder, "transformer_20"))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return encoder.eval().requires_grad_(False)
