"""Generated pictures in a folder, by the photograph that they are of."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path

from pose2id.images import SUFFIXES
from pose2id.ipg.folders.keys import check_key
from pose2id.ipg.folders.manifest import MANIFEST, Manifest, read_manifest
from pose2id.ipg.folders.output import place_pictures, without_suffix
from pose2id.validation import check_path


def find_pictures(folder: str | os.PathLike[str], keys: Iterable[str]) -> dict[str, list[Path]]:
    """The generated pictures of some photographs, in the order of the poses.

    Parameters
    ----------
    folder : path
        As `pose2id generate` wrote it, in either layout, finished or not. Without its ``manifest.jsonl``: pictures
        ``<photograph>/<pose>.png``, or ``pose<N>/<photograph>`` as the released demo has them.
    keys : iterable of str
        The photographs, by their paths below the folder that `generate` was given, or below one above it.

    Returns
    -------
    dict of str to list of pathlib.Path
        For each key those pictures that are there, maybe none.

    Raises
    ------
    FileNotFoundError, ValueError
        When there is no such folder, a key leaves it, its manifest is damaged, or a picture may be of two photographs.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.ipg.folders import find_pictures
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("ann/1.png", "ann/2.png", "ann/10.png"):
    ...         path = Path(folder, name)
    ...         path.parent.mkdir(exist_ok=True)
    ...         _ = path.write_bytes(b"")
    ...     [path.name for path in find_pictures(folder, ["ann.jpg"])["ann.jpg"]]
    ['1.png', '2.png', '10.png']
    """
    root = check_path(folder, "the folder of generated pictures")
    if not root.is_dir():
        raise FileNotFoundError(f"{root} is not a folder")
    keys = [check_key(key) for key in keys]
    manifest = read_manifest(root / MANIFEST)
    above = posixpath.commonpath([posixpath.dirname(key) for key in keys]).split("/") if keys else []
    found: dict[str, list[Path]] = {}
    for left_out in range(len([part for part in above if part]) + 1):  # what all keys begin with tells none apart
        names = {key: "/".join(key.split("/")[left_out:]) for key in keys}
        pictures = _find(root, manifest, list(names.values()))
        found = {key: pictures[name] for key, name in names.items()}
        if any(found.values()):
            break
    owners: dict[Path, str] = {}
    for key, paths in found.items():
        for path in paths:
            if owners.setdefault(path, key) != key:
                raise ValueError(
                    f"{path} may be of {owners[path]!r} and of {key!r}, which differ in their suffix or folder only; "
                    "rename one of them, and its pictures"
                )
    return found


def _find(root: Path, manifest: Manifest, keys: list[str]) -> dict[str, list[Path]]:
    """The pictures of photographs by just these keys."""
    if manifest.settings:
        places = place_pictures(manifest.units, manifest.settings["layout"])
        found = {key: [root / places[key, pose] for pose in manifest.poses if (key, pose) in places] for key in keys}
        return {key: [path for path in paths if path.is_file()] for key, paths in found.items()}
    by_pose = sorted((path for path in root.glob("pose*") if path.is_dir()), key=_in_order)
    found = {key: [path for pose in by_pose if (path := _picture(pose / key)) is not None] for key in keys}
    if any(found.values()):  # else "pose..." are photographs
        return found
    return {key: _list_pictures(root / without_suffix(key)) for key in keys}


def _picture(path: Path) -> Path | None:
    """A picture of a photograph's name, or of that with another suffix."""
    names = (path, *(path.with_suffix(suffix) for suffix in SUFFIXES))
    return next((name for name in names if name.is_file()), None)


def _list_pictures(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    files = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    return sorted(files, key=_in_order)


def _in_order(path: Path) -> list[tuple[bool, int, str]]:
    """Names with numbers in them, 2 before 10."""
    return [
        (not part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", path.name)
    ]
