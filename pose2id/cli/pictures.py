"""The pictures of `pose2id evaluate --plot`: checked before the work, drawn after it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from pose2id.cli.printing import tell
from pose2id.files import FeatureFile
from pose2id.plots import check_matplotlib
from pose2id.programs.figures import PICTURES, draw_evaluation
from pose2id.study import FeatureSet, Row
from pose2id.validation import check_path


def check_pictures(arguments: argparse.Namespace) -> None:
    """Raise where pictures could not be written, or would replace others unasked."""
    check_matplotlib("--plot")
    folder = check_path(arguments.plot, "--plot")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"--plot {folder} must be a folder, it is a file")
    there = [name for name in PICTURES if (folder / name).exists()]
    if there and not arguments.overwrite:
        raise ValueError(f"{folder / there[0]} exists already; name another folder or pass --overwrite")


def find_folders(arguments: argparse.Namespace, files: Sequence[FeatureFile]) -> list[Path]:
    """The folder of each side's photographs, by --images; empty without it."""
    if arguments.images is None:
        return []
    roots = [check_path(folder, "--images") for folder in arguments.images]
    if len(roots) not in (1, len(files)):
        raise ValueError(f"--images takes one folder, or one for each feature file, received {len(roots)}")
    for root in roots:
        if not root.is_dir():
            raise ValueError(f"--images {root} is not a folder")
    for file in files:
        if file.paths is None:
            raise ValueError(
                f"--images needs an array 'paths' in {file.path}, it holds none; `pose2id extract` writes it"
            )
    return roots * len(files) if len(roots) == 1 else roots


def find_photographs(arguments: argparse.Namespace, files: Sequence[FeatureFile]) -> list[list[Path]] | None:
    """Of each side the photographs of its rows, by --images; None without it. The first of each must be there."""
    if arguments.images is None:
        return None
    found = []
    for root, file in zip(find_folders(arguments, files), files, strict=True):
        paths = [root / str(path) for path in file.paths]
        if paths and not os.path.isfile(paths[0]):  # noqa: PTH113 -- Path.is_file raises an error for a very long name
            raise ValueError(
                f"{paths[0]} is not a file; --images must be the folder that 'paths' in {file.path} are relative to, "
                f"such as {str(file.paths[0])!r}"
            )
        found.append(paths)
    return found


def draw_pictures(
    arguments: argparse.Namespace,
    query: FeatureSet,
    gallery: FeatureSet | None,
    rows: Sequence[Row],
    photographs: Sequence[Sequence[Path]] | None,
) -> list[Path]:
    """Draw them; says on stderr which were not drawn, and why."""
    options = {name: getattr(arguments, name) for name in ("protocol", "metric", "engine")}
    drawn, missing = draw_evaluation(query, gallery, rows, arguments.plot, photographs=photographs, **options)
    if not arguments.quiet:
        for words in missing:
            hint = ": --images FOLDER, the folder that 'paths' are relative to" if "photographs" in words else ""
            tell(f"pose2id evaluate: {words}{hint}")
    return drawn
