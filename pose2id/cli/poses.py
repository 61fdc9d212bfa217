"""`pose2id poses`: keypoints of the person on each photograph, in one file by path."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from pose2id.cli.printing import say, tell
from pose2id.images import read_image
from pose2id.ipg.folders import collect_references
from pose2id.ipg.folders.sources import reason_of
from pose2id.poses import keypoints, write_keypoints
from pose2id.progress import tqdm
from pose2id.validation import check_path


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
    keys: list[str] = []

    def tell_skipped(key: str, reason: str) -> None:
        skipped[key] = reason
        tell(f"pose2id poses: {key} skipped: {reason}")

    def read() -> Iterator[Any]:
        bar = tqdm(sorted(references), desc="poses", unit="picture", disable=not arguments.progress)
        for key in bar:
            try:
                picture = read_image(references[key])
            except (ValueError, OSError) as error:
                tell_skipped(key, reason_of(error))
                continue
            keys.append(key)
            yield picture

    for key in missing:
        tell_skipped(key, "there is no such file")
    found = keypoints.extract_poses(read(), session, threshold=arguments.threshold, batch_size=arguments.batch_size)
    total = len(references) + len(missing)
    if not found:
        raise ValueError(f"none of {total:,} photographs can be read")
    write_keypoints(output, dict(zip(keys, found, strict=True)), overwrite=arguments.overwrite)
    nobody = [key for key, pose in zip(keys, found, strict=True) if not pose.present.any()]
    say(f"{output}: {len(found):,} photographs, {len(found) - len(nobody):,} with keypoints")
    if nobody and not arguments.quiet:
        more = f" and {len(nobody) - 3:,} more" if len(nobody) > 3 else ""
        tell(f"pose2id poses: nobody was found on {', '.join(nobody[:3])}{more}")
    if skipped:
        tell(f"pose2id poses: skipped {len(skipped):,} of {total:,} photographs:", *(f"  {key}" for key in skipped))
    return 1 if skipped else 0
