"""Files of poses: JSON, read and written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path

from pose2id.atomic import write_file
from pose2id.documents import parse_json
from pose2id.poses.pose import Pose

__all__ = ["parse_poses", "read_poses", "write_poses"]


def read_poses(path: str | os.PathLike[str]) -> tuple[Pose, ...]:
    """Read poses from a JSON file, such as `write_poses` writes.

    Parameters
    ----------
    path : path
        A list of objects, or an object with such a list under "poses". Each has "keypoints", 18 times [x, y] or
        null, and optionally "name"; without, the pose is named by its number, from 1. Other entries are ignored.

    Returns
    -------
    tuple of Pose
        In the order of the file.

    Raises
    ------
    OSError
        When there is no such file.
    ValueError
        When it is not such a file; says which pose.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> from pose2id.poses import read_poses
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "poses.json")
    ...     length = path.write_text(json.dumps([{"name": "face only", "keypoints": [[0.5, 0.1]] + [None] * 17}]))
    ...     [(pose.name, pose.keypoints[0].tolist()) for pose in read_poses(path)]
    [('face only', [0.5, 0.1])]
    """
    path = Path(path)
    try:
        return parse_poses(path.read_bytes())
    except (TypeError, ValueError) as error:  # of the JSON, of its encoding, or of Pose
        raise ValueError(f"{path} cannot be read as poses: {error}") from error


def parse_poses(content: bytes) -> tuple[Pose, ...]:
    """The poses of a file with this content."""
    held = parse_json(content, finite=False)
    entries = held.get("poses") if isinstance(held, dict) else held
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "keypoints" in entry for entry in entries):
        raise ValueError('it must hold a list of objects with "keypoints", alone or under "poses"')
    poses = []
    for number, entry in enumerate(entries, 1):
        try:
            poses.append(Pose(entry["keypoints"], entry.get("name", str(number))))
        except (TypeError, ValueError) as error:
            raise ValueError(f"pose number {number}: {error}") from error
    return tuple(poses)


def write_poses(path: str | os.PathLike[str], poses: Sequence[Pose], *, overwrite: bool = False) -> Path:
    """Write poses to a JSON file, whole or not at all; `read_poses` gives exactly the same numbers back.

    Parameters
    ----------
    path : path
        Usually with the suffix ".json".
    poses : sequence of Pose
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError, TypeError
        When the file exists and `overwrite` is False; when `poses` holds anything else.
    OSError
        When the file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.poses import read_poses, representative_poses, write_poses
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_poses(pathlib.Path(folder, "poses.json"), representative_poses()[:2])
    ...     [pose.name for pose in read_poses(path)]
    ['1', '2']
    """
    path, poses = Path(path), list(poses)
    if not all(isinstance(pose, Pose) for pose in poses):
        raise TypeError(f"poses must be Pose objects, received {sorted({type(pose).__name__ for pose in poses})}")
    lines = []
    for pose in poses:
        points = [None if math.isnan(x) else [x, y] for x, y in pose.keypoints.tolist()]
        lines.append(f'  {{"name": {json.dumps(pose.name)}, "keypoints": {json.dumps(points)}}}')
    with write_file(path, overwrite=overwrite) as temporary:
        temporary.write_text('{\n "poses": [\n' + ",\n".join(lines) + "\n ]\n}\n", encoding="utf-8")
    return path
