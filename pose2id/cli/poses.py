"""`pose2id poses`: keypoints of the person on each photograph, in one file by path; what was killed is gone on with."""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pose2id.atomic import lock
from pose2id.cli.printing import say, tell
from pose2id.hub import hash_file
from pose2id.images import read_image
from pose2id.ipg.folders import collect_references
from pose2id.ipg.folders.sources import reason_of
from pose2id.poses import KEYPOINTS, Pose, keypoints, write_keypoints
from pose2id.programs.unfinished import Block, Unfinished, stamp
from pose2id.progress import tqdm
from pose2id.validation import check_path

BLOCK = 256
"""Photographs of a block, which is what a killed run loses at most."""


def run(arguments: argparse.Namespace) -> int:
    """`pose2id poses`; returns the exit code: 1 when photographs were skipped."""
    output = check_path(arguments.output, "--output")
    if output.suffix.lower() != ".json":
        raise ValueError(f"output {output} must be a .json file, received suffix {output.suffix!r}")
    if not output.parent.is_dir():
        raise ValueError(f"output {output} must be in an existing folder, {output.parent} is none")
    if output.is_dir() or (output.exists() and not arguments.overwrite):
        raise ValueError(f"output {output} exists already; name another or pass --overwrite")
    references, missing = collect_references(arguments.references, output)
    session = keypoints.load_session(arguments.model)
    skipped: dict[str, str] = {}

    def tell_skipped(key: str, reason: str) -> None:
        skipped[key] = reason
        tell(f"pose2id poses: {key} skipped: {reason}")

    for key in missing:
        tell_skipped(key, "there is no such file")
    total = len(references) + len(missing)
    unfinished = Unfinished(output, _describe(arguments, references))
    with lock(output.with_name(f"{output.name}.lock"), keep=False):
        unfinished.begin(restart=arguments.overwrite)
        found: dict[str, Pose] = {}
        bar = tqdm(total=len(references), desc="poses", unit="picture", disable=not arguments.progress)
        with bar:
            for number, keys in enumerate(_cut(sorted(references))):
                stamps = stamp([references[key] for key in keys])
                block = unfinished.read(number, stamps)
                if block is None:
                    block = _find_keypoints(arguments, session, {key: references[key] for key in keys}, bar)
                    unfinished.write(number, block, stamps)
                else:
                    bar.update(len(keys))
                for key, reason in block.skipped.items():
                    tell_skipped(key, reason)
                found |= {keys[row]: Pose(points) for row, points in zip(block.rows, block.features, strict=True)}
        if found:
            write_keypoints(output, found, overwrite=arguments.overwrite)
        unfinished.end()
    if not found:
        raise ValueError(f"none of {total:,} photographs can be read")
    nobody = [key for key, pose in found.items() if not pose.present.any()]
    say(f"{output}: {len(found):,} photographs, {len(found) - len(nobody):,} with keypoints")
    if nobody and not arguments.quiet:
        more = f" and {len(nobody) - 3:,} more" if len(nobody) > 3 else ""
        tell(f"pose2id poses: nobody was found on {', '.join(nobody[:3])}{more}")
    if skipped:
        tell(f"pose2id poses: skipped {len(skipped):,} of {total:,} photographs:", *(f"  {key}" for key in skipped))
    return 1 if skipped else 0


def _cut(keys: list[str]) -> Iterator[list[str]]:
    return (keys[first : first + BLOCK] for first in range(0, len(keys), BLOCK))


def _describe(arguments: argparse.Namespace, references: Mapping[str, Path]) -> dict[str, Any]:
    """What a run that goes on with another must have in common with it."""
    return {
        "pose2id": "poses",
        "model": keypoints.SHA256 if arguments.model is None else hash_file(Path(arguments.model)),
        "threshold": arguments.threshold,
        "batch_size": arguments.batch_size,
        "rows": len(references),
        "keys": hashlib.sha256(json.dumps(sorted(references)).encode()).hexdigest(),
    }


def _find_keypoints(arguments: argparse.Namespace, session: Any, references: Mapping[str, Path], bar: Any) -> Block:
    """The keypoints on some photographs, (n, 18, 2), and why others were skipped."""
    rows: list[int] = []
    skipped: dict[str, str] = {}

    def read() -> Iterator[Any]:
        for row, (key, path) in enumerate(references.items()):
            bar.update()
            try:
                picture = read_image(path)
            except (ValueError, OSError) as error:
                skipped[key] = reason_of(error)
                continue
            rows.append(row)
            yield picture

    options = {"threshold": arguments.threshold, "batch_size": arguments.batch_size}
    poses = keypoints.extract_poses(read(), session, **options)
    points = np.array([pose.keypoints for pose in poses]).reshape(-1, len(KEYPOINTS), 2)
    return Block(np.array(rows, np.int64), points, None, skipped)
