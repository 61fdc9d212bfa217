"""Weights by name ("tiny", a folder, a Hub id, released files): where they are, which they are, their pipeline."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from pose2id.errors import one_line, require
from pose2id.ipg.weights import FILES, REPOSITORY, TINY, tiny_folder

RELEASED_SIZE = (512, 256)
PURPOSE = "pose2id generate"


def find_weights(name: str) -> tuple[Path | str, str]:
    """Where weights are to be loaded from, and an identity that changes when they do."""
    folder = tiny_folder() if name == TINY else Path(name)
    if folder.is_dir():
        files = [f for f in sorted(folder.rglob("*")) if f.suffix in (".safetensors", ".pth", ".json") and f.is_file()]
        if not files:
            raise ValueError(f"{folder} holds no weights (.safetensors or .pth)")
        total = hashlib.sha256()
        for file in files:
            with file.open("rb") as stream:
                value = hashlib.file_digest(stream, "sha256").hexdigest()
            total.update(f"{file.relative_to(folder).as_posix()} {value}\n".encode())
        return folder, f"sha256:{total.hexdigest()}"
    if name == REPOSITORY:
        return name, f"{name}@{FILES[0].revision}"
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise FileNotFoundError(f"--weights {name} is neither a folder nor a Hub id such as {REPOSITORY}")
    hub = require("huggingface_hub", "ipg", PURPOSE)
    try:
        snapshot = Path(hub.snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # of the Hub's client, its HTTP library, or the disk
        raise OSError(f"--weights {name} cannot be fetched: {one_line(error, 300)}") from error
    return snapshot, f"{name}@{snapshot.name}"  # the snapshot's folder is named by the commit


def read_sample_size(source: Path | str) -> tuple[int, int]:
    """Height and width that weights were trained at."""
    index = Path(source, "model_index.json")
    if not index.is_file():
        return RELEASED_SIZE
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{index} is damaged: {error}; give another folder") from error
    if not isinstance(content, dict):
        raise ValueError(f"{index} is damaged: it must hold an object, not a {type(content).__name__}")
    size = content.get("sample_size")
    if size is None:
        return RELEASED_SIZE
    if not (isinstance(size, (list, tuple)) and len(size) == 2 and all(type(x) is int and x > 0 for x in size)):
        raise ValueError(f"sample_size in {index} must be [height, width] in pixels, it is {size!r}; mend it")
    return size[0], size[1]


def load_pipeline(source: Path | str, device: Any, dtype: str, *, progress: bool) -> Any:
    """The pipeline on its device."""
    logging = require("diffusers.utils.logging", "ipg", PURPOSE)
    if not progress:
        logging.disable_progress_bar()
    logging.set_verbosity_error()  # it warns of every change of dtype
    from pose2id.ipg.pipeline import IPGPipeline  # needs packages that finding weights does not

    if isinstance(source, Path) and not (source / "model_index.json").is_file():
        pipe = IPGPipeline.from_released_files(source)
    else:
        pipe = IPGPipeline.from_pretrained(source)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device, getattr(torch, dtype))
