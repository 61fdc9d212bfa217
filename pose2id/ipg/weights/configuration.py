"""How a generator is configured: sizes of its parts, and the size, steps and guidance that it draws with by default."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from pose2id.documents import parse_json
from pose2id.validation import check_count, check_number

Config = Mapping[str, Any] | str | os.PathLike[str] | None
RECORD = "_settings_sha256"
"""Where the index of a saved pipeline says what the settings of its parts are."""
BLOCKS = ("unet", "scheduler", "pose_guider", "ifr", "transreid")


def read_config(config: Config = None) -> dict[str, dict[str, Any]]:
    """Sizes and settings of the generator's parts, as a copy that may be changed.

    Parameters
    ----------
    config : dict or path to JSON, optional
        Blocks "unet", "scheduler", "pose_guider", "ifr", "transreid" and optionally "vae"; a block "run" is ignored.
        `attention_head_dim` in "unet" is the *number* of heads, as in Stable Diffusion's own file and in diffusers.
        Keys absent from a block take the defaults of its class. None: the released, full size.

    Raises
    ------
    OSError, TypeError, ValueError
        When there is no such file, or it is not JSON; for missing or unknown blocks.

    Examples
    --------
    >>> from pose2id.ipg.weights.configuration import read_config
    >>> read_config()["ifr"]
    {'in_features': 3840, 'num_tokens': 20, 'token_dim': 768}
    """
    where, blocks = "config", config
    if config is None:
        blocks = parse_json(files("pose2id").joinpath("data", "ipg.json").read_bytes())
    elif isinstance(config, str | os.PathLike):
        where = f"config {os.fspath(config)}"
        if not Path(config).is_file():
            raise FileNotFoundError(f"{where} is not a file")
        try:
            blocks = parse_json(Path(config).read_bytes())
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(blocks, Mapping):
        raise TypeError(f"{where} must be a dict of blocks or a path to JSON; received {type(blocks).__name__}")
    missing = [name for name in BLOCKS if name not in blocks]
    unknown = [name for name in blocks if name not in (*BLOCKS, "vae", "run")]
    if missing or unknown:
        raise ValueError(
            f"{where} must have blocks {', '.join(BLOCKS)}, and may have vae; "
            f"missing: {join_names(missing) or 'none'}, unknown: {join_names(unknown) or 'none'}"
        )
    for name, block in blocks.items():
        if not isinstance(block, Mapping):
            raise TypeError(f"{where}: block {name!r} must be a dict; received {type(block).__name__}")
    return {name: dict(copy.deepcopy(block)) for name, block in blocks.items() if name != "run"}


def join_names(names: list[str], limit: int = 20) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


class Defaults(NamedTuple):
    """What a generator draws with unless a call says otherwise; by default as the released weights do."""

    sample_size: tuple[int, int] = (512, 256)  # height and width in pixels of what the weights were trained on
    num_inference_steps: int = 20
    guidance_scale: float = 3.5


RELEASED = Defaults()


def read_defaults(source: str | os.PathLike[str]) -> Defaults:
    """The defaults of a folder of `save_pretrained`, from its model_index.json; else those of the released weights.

    ValueError where that file is damaged, or holds sizes or numbers that cannot be.

    Examples
    --------
    >>> from pose2id.ipg.weights import read_defaults, tiny_folder
    >>> read_defaults(tiny_folder())
    Defaults(sample_size=(64, 32), num_inference_steps=10, guidance_scale=2.0)
    """
    index = Path(source, "model_index.json")
    if not index.is_file():
        return RELEASED
    content = read_object(index)
    given = {name: content[name] for name in Defaults._fields if content.get(name) is not None}
    try:
        return check_defaults(*RELEASED._replace(**given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{index}: {error}; mend it") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object that a JSON file of a model holds; FileNotFoundError or ValueError names the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        content = parse_json(path.read_bytes(), finite=False)  # which of the numbers is wrong is said by others
        if not isinstance(content, dict):
            raise ValueError(f"it must hold an object, not a {type(content).__name__}")
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; give another folder") from error
    return content


def record_settings(folder: Path) -> None:
    """Write down in the index of a saved pipeline what the settings of its parts are, so that a change is seen.

    Another number of attention heads, or another noise schedule, fits the same tensors and draws other pictures.
    """
    path = folder / "model_index.json"
    index = read_object(path)
    index[RECORD] = {file.parent.name: hash_settings(file) for file in sorted(folder.glob("*/*config.json"))}
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def hash_settings(path: Path) -> str:
    """SHA-256 of the settings in a part's file; notes that begin with "_" do not count."""
    settings = {key: value for key, value in read_object(path).items() if not key.startswith("_")}
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check_defaults(sample_size: Any, num_inference_steps: Any, guidance_scale: Any) -> Defaults:
    """Defaults of the right kinds; TypeError or ValueError for what cannot be."""
    if not isinstance(sample_size, (list, tuple)) or len(sample_size) != 2:
        raise ValueError(f"sample_size must be [height, width] in pixels, received {sample_size!r}")
    height, width = (check_count(side, "sample_size", 1) for side in sample_size)
    steps = check_count(num_inference_steps, "num_inference_steps", 1)
    return Defaults((height, width), steps, check_number(guidance_scale, "guidance_scale"))
