"""Files of poses: JSON, read and written."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pose2id.atomic import clear_leftovers, write_file
from pose2id.documents import parse_json, read_json
from pose2id.images import SUFFIXES
from pose2id.poses.openpose import parse_people
from pose2id.poses.pose import KEYPOINTS, Pose, take_size
from pose2id.validation import check_path

__all__ = ["parse_poses", "read_keypoints", "read_poses", "write_keypoints", "write_poses"]


def read_poses(path: str | os.PathLike[str], *, size: tuple[float, float] | None = None) -> tuple[Pose, ...]:
    """Read poses from a JSON file, such as `write_poses` and OpenPose write, or a folder of such files.

    Parameters
    ----------
    path : path
        A file, or a folder, whose ``.json`` files are read by name. A file holds

        - a list of objects, or an object with such a list under "poses". Each has "keypoints", 18 times [x, y] or null,
          and optionally "name"; without, the pose is named by its number, from 1. Other entries are ignored;
        - what `write_keypoints` and ``pose2id poses`` write: an object whose keys are paths of photographs. A pose is
          named as its photograph, "a/1.jpg" becomes "a_1"; where nobody was found all its keypoints are missing; or
        - what OpenPose writes: an object with "people", each with "pose_keypoints_2d" (or, of older versions,
          "pose_keypoints"): x, y and confidence of 18 keypoints (COCO) or 25 (BODY_25, of which these 18 are taken) in
          one list. What has no confidence is missing. In a folder these poses are named as their file, without
          ``_keypoints.json``, and of several people ``<file>-1``, ``<file>-2``; elsewhere by their number.
    size : (width, height), optional
        Of the pictures, for files of OpenPose in pixels that do not hold "canvas_width" and "canvas_height". Files
        whose coordinates are all from 0 to 1 are fractions of the picture already (``--keypoint_scale 3``).

    Returns
    -------
    tuple of Pose
        In the order of the file; empty for a file with nobody.

    Raises
    ------
    OSError
        When there is no such file.
    TypeError, ValueError
        When it is not such a file; says which pose or person. For a wrong `size`.

    Examples
    --------
    >>> import json, pathlib, tempfile
    >>> from pose2id.poses import read_poses
    >>> person = {"pose_keypoints_2d": [32, 16, 0.9] + [0, 0, 0] * 24}  # OpenPose has found a nose
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "poses.json")
    ...     length = path.write_text(json.dumps([{"name": "face only", "keypoints": [[0.5, 0.1]] + [None] * 17}]))
    ...     mine = [(pose.name, pose.keypoints[0].tolist()) for pose in read_poses(path)]
    ...     length = path.write_text(json.dumps({"version": 1.3, "people": [person]}))
    ...     mine, [(pose.name, pose.keypoints[0].tolist()) for pose in read_poses(path, size=(64, 128))]
    ([('face only', [0.5, 0.1])], [('1', [0.5, 0.125])])
    """
    path = check_path(path, "path")
    if size is not None:
        if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
            raise TypeError(f"size must be (width, height), received {size!r}")
        size = take_size(*size)
    if not path.is_dir():
        return _read_file(path, size)
    files = [file for file in sorted(path.glob("*.json")) if not file.name.startswith(".")]
    if not files:
        raise ValueError(f"{path} holds no .json files of poses")
    return tuple(pose for file in files for pose in _read_file(file, size, file.stem.removesuffix("_keypoints")))


def _read_file(path: Path, size: tuple[float, float] | None, title: str = "") -> tuple[Pose, ...]:
    try:
        return parse_poses(path.read_bytes(), size, title)
    except (TypeError, ValueError) as error:  # of the JSON, of its encoding, or of Pose
        raise ValueError(f"{path} cannot be read as poses: {error}") from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} is not there; name a .json file of poses, or a folder of them") from error


def parse_poses(content: bytes, size: tuple[float, float] | None = None, title: str = "") -> tuple[Pose, ...]:
    """The poses of a file with this content; people without names are named by number, or by a title."""
    held = parse_json(content, finite=False)
    if isinstance(held, dict) and "people" in held:
        return parse_people(held, size, title)
    if isinstance(held, dict) and "poses" not in held and _is_by_path(held):
        return tuple(Pose(pose.keypoints, _name_of(path)) for path, pose in _take_by_path(held).items())
    entries = held.get("poses") if isinstance(held, dict) else held
    if not isinstance(entries, list) or not all(isinstance(entry, dict) and "keypoints" in entry for entry in entries):
        raise ValueError(
            'it must hold a list of objects with "keypoints", alone or under "poses", or OpenPose\'s "people", or by '
            "path of a photograph 18 points"
        )
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
    path, poses = check_path(path, "path"), list(poses)
    if not all(isinstance(pose, Pose) for pose in poses):
        raise TypeError(f"poses must be Pose objects, received {sorted({type(pose).__name__ for pose in poses})}")
    lines = [f'  {{"name": {json.dumps(pose.name)}, "keypoints": {_write_points(pose)}}}' for pose in poses]
    return _write(path, '{\n "poses": [\n' + ",\n".join(lines) + "\n ]\n}\n", overwrite=overwrite)


def read_keypoints(path: str | os.PathLike[str]) -> dict[str, Pose]:
    """Read the poses of photographs by their paths, as `write_keypoints` writes them.

    Parameters
    ----------
    path : path
        JSON: one object, whose keys are paths of photographs, and whose values 18 times [x, y] or null, as fractions of
        width and height; or null where nobody was found.

    Returns
    -------
    dict of str to Pose
        Named by their keys. Where nobody was found no keypoint is present.

    Raises
    ------
    OSError
        When there is no such file.
    ValueError
        When it is not such a file; names the key.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.poses import read_keypoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "keypoints.json")
    ...     length = path.write_text('{"query/0001_c1.jpg": null}')
    ...     [(key, pose.present.any().item()) for key, pose in read_keypoints(path).items()]
    [('query/0001_c1.jpg', False)]
    """
    path = check_path(path, "path")
    held = read_json(path, finite=False)
    try:
        if not isinstance(held, dict):
            raise ValueError(f"it must hold an object: path, then 18 points; it holds a {type(held).__name__}")
        return _take_by_path(held)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_keypoints(path: str | os.PathLike[str], poses: Mapping[str, Pose], *, overwrite: bool = False) -> Path:
    """Write the poses of photographs by their paths, whole or not at all; `read_keypoints` gives the same numbers back.

    Parameters
    ----------
    path : path
        Usually with the suffix ".json".
    poses : mapping of str to Pose
        Keys are paths of photographs with "/", for training below the data set's root. A pose of which no keypoint is
        present stands for "nobody was found".
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
    >>> from pose2id.poses import read_keypoints, representative_poses, write_keypoints
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_keypoints(pathlib.Path(folder, "keypoints.json"), {"a/1.jpg": representative_poses()[0]})
    ...     list(read_keypoints(path))
    ['a/1.jpg']
    """
    path = check_path(path, "path")
    if not isinstance(poses, Mapping) or not all(isinstance(pose, Pose) for pose in poses.values()):
        raise TypeError("poses must be a mapping from paths of photographs to Pose objects")
    lines = [
        f" {json.dumps(key)}: {_write_points(pose) if pose.present.any() else 'null'}" for key, pose in poses.items()
    ]
    return _write(path, "{\n" + ",\n".join(lines) + "\n}\n", overwrite=overwrite)


def _is_by_path(held: dict[str, Any]) -> bool:
    """Whether these may be poses by path, and not an object of another kind."""
    return bool(held) and all(points is None or (isinstance(points, list) and points) for points in held.values())


def _take_by_path(held: dict[str, Any]) -> dict[str, Pose]:
    poses, nobody = {}, np.full((len(KEYPOINTS), 2), np.nan)
    for key, points in held.items():
        try:
            poses[key] = Pose(nobody if points is None else points, key)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key!r}: {error}") from error
    return poses


def _name_of(path: str) -> str:
    """What the pose of a photograph is called, which may become a file name."""
    stem, dot, suffix = path.rpartition(".")
    return (stem if f"{dot}{suffix}".lower() in SUFFIXES else path).replace("/", "_")


def _write_points(pose: Pose) -> str:
    return json.dumps([None if math.isnan(x) else [x, y] for x, y in pose.keypoints.tolist()])


def _write(path: Path, text: str, *, overwrite: bool) -> Path:
    clear_leftovers(path.parent)
    with write_file(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path
