"""Weights by name ("tiny", a folder, a Hub id, released files): where they are, which they are, their pipeline."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
from diffusers.utils import logging

from pose2id.errors import one_line
from pose2id.hub import hash_file
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.weights import FILES, REPOSITORY, TINY, tiny_folder


def find_weights(name: str) -> tuple[Path | str, str]:
    """Where weights are to be loaded from, and an identity that changes when they do."""
    folder = tiny_folder() if name == TINY else Path(name)
    if folder.is_dir():
        files = [f for f in sorted(folder.rglob("*")) if f.suffix in (".safetensors", ".pth", ".json") and f.is_file()]
        if not files:
            raise ValueError(f"{folder} holds no weights (.safetensors or .pth)")
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.relative_to(folder).as_posix()} {hash_file(file)}\n".encode())
        return folder, f"sha256:{total.hexdigest()}"
    if name == REPOSITORY:
        return name, f"{name}@{FILES[0].revision}"
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FileNotFoundError(f"weights {name} is neither a folder nor a Hub id such as {REPOSITORY}")
    try:
        snapshot = Path(huggingface_hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # of the Hub's client, its HTTP library, or the disk
        raise OSError(f"weights {name} cannot be fetched: {one_line(error, 300)}") from error
    return snapshot, f"{name}@{snapshot.name}"  # the snapshot's folder is named by the commit


def load_pipeline(source: Path | str, device: Any, dtype: str, *, progress: bool) -> Any:
    """The pipeline on its device."""
    if not progress:
        logging.disable_progress_bar()
    logging.set_verbosity_error()  # it warns of every change of dtype
    if isinstance(source, Path) and not (source / "model_index.json").is_file():
        pipe = IPGPipeline.from_released_files(source)
    else:
        pipe = IPGPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, getattr(torch, dtype))
