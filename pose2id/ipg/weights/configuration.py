"""Sizes and settings of the generator's parts, as a dict of blocks: the released ones, or a user's, checked."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

Config = Mapping[str, Any] | str | os.PathLike[str] | None
BLOCKS = ("unet", "scheduler", "pose_guider", "ifr", "transreid")


def read_config(config: Config = None) -> dict[str, dict[str, Any]]:
    """Sizes and settings of the generator's parts.

    Parameters
    ----------
    config : dict or path to JSON, optional
        Blocks "unet", "scheduler", "pose_guider", "ifr", "transreid" and optionally "vae"; a block "run" is ignored.
        `attention_head_dim` in "unet" is the *number* of heads, as in Stable Diffusion's own file and in diffusers.
        Keys absent from a block take the defaults of its class. None: the released, full size.

    Returns
    -------
    dict of dicts
        A copy of the blocks, without "run".

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
        blocks = json.loads(files("pose2id").joinpath("data", "ipg.json").read_text(encoding="utf-8"))
    elif isinstance(config, str | os.PathLike):
        where = f"config {os.fspath(config)}"
        if not Path(config).is_file():
            raise FileNotFoundError(f"{where} is not a file")
        try:
            blocks = json.loads(Path(config).read_text(encoding="utf-8"))
        except ValueError as error:  # also of what is not UTF-8
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
