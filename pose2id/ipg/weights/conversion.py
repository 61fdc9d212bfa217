"""Released files into one folder that `IPGPipeline.from_pretrained` reads: whole or not there, made once."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from pose2id.atomic import lock, write_folder
from pose2id.errors import one_line, require
from pose2id.ipg.weights.configuration import RELEASED, Config, record_settings
from pose2id.ipg.weights.fetching import download
from pose2id.ipg.weights.table import PURPOSE, REPOSITORY, converted_folder, model_card

log = logging.getLogger(__name__)


def convert(
    folder: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    config: Config = None,
    vae: Any = None,
) -> Path:
    """Write files with the released names as one folder that `IPGPipeline.from_pretrained` reads.

    The folder appears when it is complete. Of several processes that convert into the default folder at once one does,
    and the others wait for it.

    Parameters
    ----------
    folder : path, optional
        As for `IPGPipeline.from_released_files`. None: the released files, downloaded where they are not there.
    output : path, optional
        The folder to write. None: `converted_folder`, where ``from_pretrained("yuanc3/Pose2ID")`` looks.
    config, vae : optional
        As for `IPGPipeline.from_released_files`; need an `output`.

    Returns
    -------
    pathlib.Path
        The folder. Without `folder` and `output` it may have been converted before.

    Raises
    ------
    ValueError
        When the folder exists already, and as `IPGPipeline.from_released_files`.
    OSError
        When a file is missing or the folder cannot be written.
    """
    target = converted_folder() if output is None else Path(output)
    if output is None and (config is not None or vae is not None):
        raise ValueError(f"{target} is for the released weights; with config or vae, name another output")
    if target.exists() and (folder is not None or output is not None):
        raise ValueError(f"{target} exists already; delete it or name another output")
    if output is not None:
        return _write_folder(folder, target, config, vae)
    if (target / "model_index.json").is_file():  # also where nothing may be written
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(f"{target}.lock", wait=True):
        if (target / "model_index.json").is_file():
            return target
        if target.exists():  # not the folder that another process has just made
            raise ValueError(f"{target} is in the way: it holds no model_index.json; delete it")
        return _write_folder(folder, target, None, None)


def _write_folder(folder: str | os.PathLike[str] | None, target: Path, config: Config, vae: Any) -> Path:
    require("diffusers", "ipg", PURPOSE)
    from pose2id.ipg.weights import loading  # needs torch and diffusers, which naming the weights does not

    components = loading.load_components(download() if folder is None else folder, config, vae)
    log.info("converting the weights into %s", target)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with write_folder(target) as temporary:
            save_components(components, temporary)
    except OSError:
        raise
    except Exception as error:  # for a full disk, safetensors raises an error of its own
        raise OSError(f"{target} cannot be written: {one_line(error, 300)}") from error
    return target


def save_components(components: dict[str, Any], folder: Path) -> None:
    """What `IPGPipeline.save_pretrained` writes, without the pipeline, which stands above this room."""
    version = require("diffusers", "ipg", PURPOSE).__version__
    index = {"_class_name": "IPGPipeline", "_diffusers_version": version, **RELEASED._asdict()}
    for name, part in components.items():
        part.save_pretrained(folder / name)
        home = type(part).__module__
        index[name] = ["diffusers" if home.startswith("diffusers.") else home, type(part).__name__]
    content = json.dumps(index, indent=2, sort_keys=True) + "\n"
    (folder / "model_index.json").write_text(content, encoding="utf-8")
    record_settings(folder)
    (folder / "README.md").write_text(model_card(), encoding="utf-8")


def from_hub(repository: str = REPOSITORY) -> Path:
    """The released weights as a folder of `save_pretrained`, by `convert`; ValueError for any other repository."""
    if repository != REPOSITORY:
        raise ValueError(f"repository must be {REPOSITORY!r}; received {repository!r}")
    return convert()
