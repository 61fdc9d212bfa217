"""The keypoints of a data set's pictures that a table [data] names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pose2id.poses import Pose, read_keypoints
from pose2id.validation import take_path


def read_poses(data: Any) -> dict[str, Pose]:
    """The poses by path below ``root`` in the file ``keypoints``; without such a file none."""
    if not data.keypoints:
        return {}
    path = take_path(data.keypoints, "data: keypoints")
    if not path.exists():
        raise FileNotFoundError(
            f"data: keypoints = {data.keypoints!r} is not there; relative paths begin at the folder where the command "
            f"runs, {Path.cwd()}; to write such a file: pose2id poses {data.root} -o {data.keypoints}"
        )
    return read_keypoints(path)


def find_pose(poses: dict[str, Pose], path: Path, data: Any) -> Pose | None:
    """That of a picture."""
    return poses.get(path.relative_to(take_path(data.root, "data: root")).as_posix())


def check_found(poses: Sequence[Pose | None], paths: Sequence[Path], data: Any) -> None:
    """ValueError where a file of keypoints has none of any picture."""
    if data.keypoints and not any(poses):
        found = list(read_poses(data))
        named = f"it has {', '.join(map(repr, found[:3]))}" if found else "it has none"
        more = f" and {len(found) - 3:,} more" if len(found) > 3 else ""
        raise ValueError(
            f"data: no picture has a pose in {data.keypoints}; its keys must be paths below root, {data.root}, such as "
            f"{paths[0].relative_to(take_path(data.root, 'data: root')).as_posix()!r}; {named}{more}; to write such a "
            f"file: pose2id poses -o keypoints.json {data.root}"
        )
