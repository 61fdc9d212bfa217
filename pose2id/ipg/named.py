"""Weights by name ("tiny", a folder, a Hub id, released files): where they are, which they are, their pipeline."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.utils import logging

from pose2id.documents import read_json
from pose2id.errors import one_line
from pose2id.hub import hash_file
from pose2id.ipg.components import NAMED_SOLVERS
from pose2id.ipg.networks import SmallEncoder, TransReID
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.weights import FILES, REPOSITORY, TINY, TINY_SAYS, download, tiny_folder
from pose2id.ipg.weights.loading import load_encoder
from pose2id.ipg.weights.parts import check_part


def find_weights(name: str, what: str = "weights") -> tuple[Path | str, str]:
    """Where weights are to be loaded from, and an identity that changes when they do; `what` names them in errors."""
    hint = f". {TINY_SAYS}" if what == "weights" else ""
    folder = tiny_folder() if name == TINY else Path(name)
    if folder.is_dir():
        files = [f for f in sorted(folder.rglob("*")) if f.suffix in (".safetensors", ".pth", ".json") and f.is_file()]
        if not files:
            raise ValueError(f"{folder} holds no weights (.safetensors or .pth){hint}")
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.relative_to(folder).as_posix()} {hash_file(file)}\n".encode())
        return folder, f"sha256:{total.hexdigest()}"
    if name == REPOSITORY:
        return name, f"{name}@{FILES[0].revision}"
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FileNotFoundError(f"{what} {name} is neither a folder nor a Hub id such as {REPOSITORY}{hint}")
    try:
        snapshot = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # of the Hub's client, its HTTP library, or the disk
        raise OSError(f"{what} {name} cannot be fetched: {one_line(error, 300)}{hint}") from error
    return snapshot, f"{name}@{snapshot.name}"  # the snapshot's folder is named by the commit


def load_decoder(folder: Path | str, device: Any, dtype: str) -> Any:
    """A tiny decoder on its device; OSError or ValueError where the folder holds none."""
    check_part(Path(folder), AutoencoderTiny, kinds=(AutoencoderKL,))  # whose block_out_channels it notes down
    decoder: Any = AutoencoderTiny.from_pretrained(folder)
    return decoder.to(device, getattr(torch, dtype)).eval()


def load_identity_encoder(source: Path | str) -> Any:
    """The identity encoder alone, on the CPU: of a folder that `save_pretrained` wrote, or of released files."""
    # Of the released files this one is all that is fetched.
    folder = download(["transformer_20.pth"]) if isinstance(source, str) else source
    index = folder / "model_index.json"
    if not index.is_file():
        return load_encoder(folder)
    _, name = read_json(index).get("identity_encoder", ("", ""))
    kinds = {kind.__name__: kind for kind in (SmallEncoder, TransReID)}
    if name not in kinds:
        raise ValueError(f"{index} must name an identity_encoder, one of {', '.join(kinds)}; received {name!r}")
    check_part(folder / "identity_encoder", kinds[name])
    encoder: Any = kinds[name].from_pretrained(folder / "identity_encoder")
    return encoder.eval().requires_grad_(False)


def load_pipeline(source: Path | str, device: Any, dtype: str, *, solver: str | None = None, progress: bool) -> Any:
    """The pipeline on its device, where asked with another solver, one of `NAMED_SOLVERS`."""
    if not progress:
        logging.disable_progress_bar()
    logging.set_verbosity_error()  # it warns of every change of dtype
    if isinstance(source, Path) and not (source / "model_index.json").is_file():
        pipe = IPGPipeline.from_released_files(source)
    else:
        pipe = IPGPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    if solver is not None:
        pipe.scheduler = NAMED_SOLVERS[solver].from_config(pipe.scheduler.config)
    return pipe.to(device, getattr(torch, dtype))
