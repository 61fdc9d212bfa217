"""What pictures are drawn from: photographs of people by key, poses by name; found in folders, files and lists."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pose2id.errors import one_line
from pose2id.images import SUFFIXES, decode, read_bytes, read_image
from pose2id.ipg.folders.keys import check_key, check_pose_name
from pose2id.poses import Pose, read_poses, representative_poses
from pose2id.progress import tqdm
from pose2id.validation import check_path

if TYPE_CHECKING:
    from PIL import Image


def collect_references(sources: Iterable[str], output: Path) -> tuple[dict[str, Path], list[str]]:
    """Photographs by key, and entries of lists that are not there.

    Sources are folders (with the folders in them), files, and "@LIST": a text file with one path a line. The key of a
    file in a folder is its path below that folder; of a file, its name; of an entry of a list its path below the list's
    folder, or its name where it lies elsewhere. What lies in `output` is not taken.
    """
    references: dict[str, Path] = {}
    missing: dict[str, None] = {}
    for source in sources:
        is_list = source.startswith("@") and not Path(source).exists()
        path = check_path(source[1:] if is_list else source, "a source of photographs")
        if not path.exists():
            raise FileNotFoundError(f"{path} is neither a file nor a folder")
        if is_list:
            found = list(_read_list(path, missing))
        elif path.is_dir():
            found = [(file.relative_to(path).as_posix(), file) for file in _walk(path, output)]
            if not found:
                raise ValueError(f"{path} holds no images ({', '.join(SUFFIXES)})")
        else:
            found = [(path.name, path)]
        for key, file in found:
            other = references.setdefault(key, file)
            if os.path.realpath(other) != os.path.realpath(file):  # Path.resolve fails on a link that leads to itself
                raise ValueError(
                    f"{other} and {file} would both be called {key}; name a folder that holds both, or use two outputs"
                )
    return references, list(missing)


def _walk(folder: Path, output: Path) -> list[Path]:
    """Images in a folder and the folders in it, sorted; links are followed, but never in a circle."""
    left_out, seen = os.path.realpath(output), set()
    files = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_raise):
        here = os.path.realpath(parent)
        if here == left_out or here in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files += [Path(parent, n) for n in names if n.lower().endswith(SUFFIXES) and not n.startswith(".")]
    return sorted(files)


def _raise(error: OSError) -> None:
    """What `os.walk` calls; otherwise it passes over folders that may not be read, and their pictures."""
    raise error


def _read_list(path: Path, missing: dict[str, None]) -> Iterator[tuple[str, Path]]:
    """Key and path of each entry of a list; those that are not files go into `missing`."""
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text file in UTF-8, one path a line: {error}") from error
    entries = [line.rstrip("\r") for line in lines if line.strip()]
    if not entries:
        raise ValueError(f"{path} must hold one path a line, it holds none")
    home = Path(os.path.normpath(path.parent.absolute()))
    for entry in entries:
        file = Path(os.path.normpath(home / entry))
        if file.is_file():
            yield (file.relative_to(home).as_posix() if file.is_relative_to(home) else file.name), file
        else:
            missing[entry] = None


def collect_poses(
    source: str | os.PathLike[str], size: tuple[float, float] | None = None
) -> dict[str, Image.Image | Pose]:
    """Poses by name from a folder of pose maps or of OpenPose's JSON, one pose map, or JSON; `size` as `read_poses`."""
    path = check_path(source, "poses")
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not there; name a folder of pose maps or of OpenPose's .json files, one pose map, or one .json "
            "file of keypoints"
        )
    files = [path]
    if path.is_dir():
        files = [f for f in sorted(path.iterdir()) if f.suffix.lower() in SUFFIXES and f.name[0] != "."]
        if not files and not any(path.glob("*.json")):
            raise ValueError(f"{path} holds neither pose maps ({', '.join(SUFFIXES)}) nor .json files of keypoints")
    named: list[tuple[str, Image.Image | Pose]]
    if path.suffix.lower() == ".json" or not files:
        found = read_poses(path, size=size)
        if bare := [pose.name or str(i) for i, pose in enumerate(found, 1) if not pose.present.any()]:
            raise ValueError(f"{path}: pose {bare[0]!r} has no keypoints, so there is nothing to draw; remove it")
        named = [(pose.name or str(i), pose) for i, pose in enumerate(found, 1)]
    else:
        named = [(file.stem, read_image(file)) for file in files]
    if not named:
        raise ValueError(f"{path} holds no pose: nobody was found; name poses to draw people in")
    poses: dict[str, Image.Image | Pose] = {}
    for name, pose in named:
        if name in poses:
            raise ValueError(f"{path} holds two poses called {name!r}; rename one of them")
        poses[name] = pose
    return poses


def draw_poses(poses: Mapping[str, Image.Image | Pose] | None) -> dict[str, Image.Image]:
    """Pose maps by name, RGB; of the 8 representative poses for None. Names become file names and are checked."""
    if poses is None:
        poses = {pose.name: pose for pose in representative_poses()}
    if not poses:
        raise ValueError("poses must hold at least one, received none")
    for name, pose in poses.items():
        check_pose_name(name)
        if not hasattr(pose, "convert") and not isinstance(pose, Pose):
            raise TypeError(f"pose {name!r} must be a PIL image or a Pose, received {type(pose).__name__}")
    return {name: (pose.draw() if isinstance(pose, Pose) else pose).convert("RGB") for name, pose in poses.items()}


class Photographs:
    """The references of a run by key, and which of them are skipped.

    A key becomes a path in the output folder and seeds the noise; `ValueError` for one that leaves the folder.
    """

    def __init__(
        self, paths: Mapping[str, str | os.PathLike[str]], on_skip: Callable[[str, str], object] | None, progress: bool
    ) -> None:
        if not paths:
            raise ValueError("references must hold at least one image, received none")
        for key in paths:
            check_key(key)
        self.hashes: dict[str, str] = {}  # SHA-256 of the files that can be read
        self.skipped: dict[str, str] = {}  # why a reference has not all its pictures
        self._paths = {key: Path(path) for key, path in paths.items()}
        self._on_skip = on_skip
        self._progress = progress

    def verify(self, known: Mapping[str, str]) -> None:
        """Hash all files; what has no hash in `known` is also decoded, so that units have good ones only."""
        for key in tqdm(self._paths, desc="reading", unit="image", disable=not self._progress):
            try:
                content = self._content(key)
                value = hashlib.sha256(content).hexdigest()
                if key not in known:
                    decode(content)
                elif value != known[key]:
                    raise ValueError(
                        "the file has changed since an earlier run planned its pictures; give it another name"
                    )
                self.hashes[key] = value
            except (ValueError, OSError) as error:
                self.skip(key, reason_of(error))

    def read(self, key: str) -> Image.Image:
        """A photograph that was verified, RGB."""
        content = self._content(key)
        if hashlib.sha256(content).hexdigest() != self.hashes[key]:
            raise ValueError(f"{self._paths[key].name} has changed during the run")
        return decode(content)

    def skip(self, key: str, reason: str) -> None:
        """Note, and tell once, that a reference will not have all its pictures."""
        if key not in self.skipped:
            self.skipped[key] = reason
            if self._on_skip is not None:
                self._on_skip(key, reason)

    def _content(self, key: str) -> bytes:
        if not self._paths[key].is_file():
            raise ValueError("there is no such file")
        return read_bytes(self._paths[key])


def reason_of(error: Exception) -> str:
    """What an error says, in one line; of the system's errors without number and path."""
    return one_line(OSError(error.strerror) if isinstance(error, OSError) and error.strerror else error)
