"""From a configuration to a trained generator: connects data sets, encoder and training.

This is the body of ``pose2id train generator``. A configuration is a TOML file with four tables: ``[data]`` and
``[model]``, described in `pose2id.ipg.training.configuration`, ``[training]`` and ``[[stages]]``, described at
`pose2id.ipg.training.read_settings`. `records` are made of the first, the `models` of the second.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pose2id.atomic import write_file, write_folder
from pose2id.datasets import READERS
from pose2id.ipg.training import FolderData, SmallModel, find_processes, read_settings, train
from pose2id.ipg.training.configuration import read_data, read_model
from pose2id.ipg.training.records import find_people
from pose2id.ipg.training.trainer import hold_folder
from pose2id.programs.training.models import build_pipeline, halve
from pose2id.programs.training.records import choose_validation, clean_records, read_records
from pose2id.validation import check_path

__all__ = ["build_pipeline", "read_records", "run_training"]


def run_training(
    config: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    progress: bool = True,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Train a generator as a configuration says, or go on with that where it was.

    Parameters
    ----------
    config : path
        A TOML file.
    output : path
        A folder; see `pose2id.ipg.training.train`. A model of kind "small" also has its ``encoder`` and ``codec``
        there, and its result once more in half precision, ``pipeline-float16``.
    progress : bool
        Bars on stderr.
    report : callable, optional
        As for `train`.

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
    recipe, target = read_settings(config), check_path(output, "output")
    settings, processes = recipe.settings, find_processes()
    progress = progress and processes.is_main_process
    if target.exists() and not target.is_dir():
        raise ValueError(f"output {target} must be a folder, it is a file")
    with ExitStack() as held:
        if target.is_dir():  # a second run is told at once; a wrong configuration makes no folder
            held.enter_context(hold_folder(target))
        with processes.main_process_first():  # one writes, the others read what it wrote
            try:
                data, model = read_data(recipe.data, READERS), read_model(recipe.model)
                records = read_records(data, settings, progress=progress)
                if not any(record.pose for record in records):
                    raise ValueError(
                        "data: no picture has a pose, so there are no targets; give keypoints, a file that "
                        "`pose2id poses` writes"
                    )
                find_people(records)
                held.enter_context(hold_folder(target))
                if processes.is_main_process:
                    _check_same_tables(target / "tables.json", {"data": recipe.data, "model": recipe.model})
                pipe = build_pipeline(model, settings, records, target, progress=progress)
            except (
                TypeError,
                ValueError,
                FileNotFoundError,
            ) as error:  # of that kind: its own may want other arguments
                kind = next(k for k in (TypeError, ValueError, FileNotFoundError) if isinstance(error, k))
                raise kind(f"{config}: {error}") from error
            if isinstance(data, FolderData) and data.clean:
                records = clean_records(pipe.identity_encoder, records, data.quantile, target, progress=progress)
        shown = choose_validation(data, settings, records)
        told: dict[str, Any] = {"progress": progress, "report": report}
        train(pipe, records, target, settings, stages=recipe.stages, validation=shown, **told)
        if isinstance(model, SmallModel) and processes.is_main_process:
            with write_folder(target / "pipeline-float16", overwrite=True) as part:
                halve(pipe).save_pretrained(part)
        processes.wait_for_everyone()
    return target / "pipeline"


def _check_same_tables(path: Path, tables: dict[str, Any]) -> None:
    """Write down what a run starts from, or compare it with what is there."""
    now = json.dumps(tables, indent=1, sort_keys=True)
    if path.exists() and path.read_text(encoding="utf-8") != now:
        raise ValueError(f"output {path.parent} was begun with other tables [data] or [model]; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_file(path) as part:
        part.write_text(now, encoding="utf-8")
