"""`pose2id report`: a page that says whether centralization helps on two feature files."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pose2id.cli.inputs import check_part_options, note_generated, note_parts, read_sides, tell_steps
from pose2id.cli.pictures import find_folders
from pose2id.cli.printing import say, tell
from pose2id.files import LABELS, FeatureFile
from pose2id.report import Audit, check_page, prepare_audit, write_report
from pose2id.study import FeatureSet, Setting


def run(arguments: argparse.Namespace) -> None:
    """`pose2id report`."""
    inputs = read_sides(arguments)
    check_part_options(arguments, inputs)
    files = [given.file for given in inputs]
    for name in LABELS[:2]:
        if sum(getattr(file, name) is None for file in files) == 1:
            having, lacking = sorted(files, key=lambda file: getattr(file, name) is None)
            raise ValueError(
                f"{having.path} holds {name!r} and {lacking.path} does not; give both files, or neither, some"
            )
    folders = find_folders(arguments, files)
    labelled = files[0].ids is not None
    cams = files[0].cams is not None
    if arguments.exclude_cams and not cams:
        raise ValueError(f"--exclude-cams needs an array 'cams' in {files[0].path}, it holds none")
    sets = [
        FeatureSet(
            x.rows,
            x.file.ids if labelled else [0] * len(x.rows),
            x.file.cams,
            x.generated,
            x.visibility,
            x.generated_visibility,
            groups=x.file.groups,
        )
        for x in inputs
    ]
    eta = arguments.eta * any(data.generated is not None for data in sets)
    note_generated(arguments, inputs, eta)
    other = cams if arguments.exclude_cams is None else arguments.exclude_cams
    method: dict[str, Any] = {name: getattr(arguments, name) for name in ("k1", "k2", "alpha")}
    setting = Setting("centralized", eta=eta, other_cameras=other, fill_gallery=arguments.fill, **method)
    check_page(arguments.output, overwrite=arguments.overwrite)
    tell_step = tell_steps(arguments, inputs)
    audit = _prepare_audit(arguments, sets[1], files[1], folders, tell_step)
    _note_missing(arguments, folders, files)
    verdicts: list[str] = []
    path = write_report(
        sets[0],
        sets[1],
        arguments.output,
        setting,
        labelled=labelled,
        query_paths=files[0].paths,
        gallery_paths=files[1].paths,
        images=folders,
        command=["pose2id", *sys.argv[1:]],
        protocol=arguments.protocol,
        reranked=not arguments.no_rerank,
        count=arguments.count,
        engine=arguments.engine,
        overwrite=arguments.overwrite,
        audit=audit,
        report=tell_step,
        tell=verdicts.append,
        progress=arguments.progress,
    )
    note_parts(arguments, inputs)
    say(f"{path}: {path.stat().st_size / 1e6:.1f} MB; open it in a browser", *verdicts)
    if audit and audit.answers:
        say(*str(audit.verdict).split("\n"))


def _prepare_audit(
    arguments: argparse.Namespace,
    gallery: FeatureSet,
    file: FeatureFile,
    folders: Sequence[Path],
    report: Callable[[str], None],
) -> Audit | None:
    """The pairs that are to be looked at, if some are."""
    if arguments.audit is None and arguments.answers is None:
        return None
    if gallery.has_parts:
        remedy = "; pass --whole to use its 'features'" if file.features is not None else ""
        raise ValueError(f"--audit needs features, {file.path} holds parts{remedy}")
    if not folders:
        raise ValueError(
            "--audit shows photographs, so it needs --images FOLDER, the folder that the 'paths' in the feature files "
            "are relative to"
        )
    report("drawing pairs")
    options = {name: getattr(arguments, name) for name in ("answers", "generated", "seed", "engine", "progress")}
    return prepare_audit(gallery, file.paths, folders[-1], count=arguments.audit, **options)


def _note_missing(arguments: argparse.Namespace, folders: Sequence[Path], files: Sequence[FeatureFile]) -> None:
    """Say on stderr where no picture of a side is there: the folder is probably another."""
    lacking = []
    for root, file in zip(folders, files, strict=False):
        paths = [root / str(path) for path in file.paths]
        if paths and not any(map(os.path.isfile, paths)):  # Path.is_file raises an error for a very long name
            lacking.append((file.path, paths[0]))
    if lacking and not arguments.quiet:
        where = " and ".join(str(path) for path, _ in lacking)
        tell(
            f"pose2id report: no picture of {where} is there, such as {lacking[0][1]}; --images must be the folder "
            "that 'paths' are relative to"
        )
