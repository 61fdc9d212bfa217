"""Runs of the generator over many photographs that may be killed at any moment and go on where they were.

The last bits of a picture depend on what else is in its batch. So the unit of work is a batch, and a manifest in the
output folder fixes, before anything is drawn, which references and poses each unit has and with which settings. A unit
is finished when all its pictures are there; an unfinished one is drawn again whole. Every file is written under a
temporary name and renamed, so that a picture is there completely or not at all. What is there when a run ends does not
depend on how often it was killed before.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import logging
import os
import posixpath
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from pose2id.errors import require
from pose2id.images import PURPOSE, decode, read_bytes
from pose2id.validation import check_count, check_number

if TYPE_CHECKING:
    from PIL import Image

    from pose2id.poses import Pose

__all__ = ["LAYOUTS", "Report", "Settings", "generate_folder"]

MANIFEST = "manifest.jsonl"
LOCK = ".pose2id.lock"
TEMPORARY = ".pose2id.part"
SHEETS = "sheets"
FORMAT = 1
LAYOUTS = ("reference", "pose")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".pgm", ".ppm", ".jp2", ".avif")
CELL = 256
"""Height of a picture on a contact sheet, in pixels."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What decides the pictures of a run, beside references and poses; one folder holds pictures of one setting.

    Attributes
    ----------
    weights : str
        Which weights these are, such as a repository with its revision or a hash.
    seed, num_inference_steps, guidance_scale, height, width, batch_size
        As for the pipeline.
    layout : {"reference", "pose"}
        "reference": ``<reference without suffix>/<pose>.png``. "pose": a folder for each pose (``pose1`` for pose
        "1") with the names of the references, as the demo of the released code reads them; JPEG (quality 95) where
        that name says JPEG, else PNG.
    dtype, device : str
        What the pipeline computes with.
    """

    weights: str
    seed: int = 42
    num_inference_steps: int = 20
    guidance_scale: float = 3.5
    height: int = 512
    width: int = 256
    batch_size: int = 8
    layout: str = "reference"
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Report:
    """What a run did, in numbers of pictures.

    Attributes
    ----------
    drawn, found : int
        Pictures of the given references and poses: drawn now, and there before.
    skipped : dict of str to str
        References without all their pictures, and why.
    waiting : int
        Pictures begun by an earlier run with references or poses that were not given to this one.
    """

    drawn: int
    found: int
    skipped: dict[str, str]
    waiting: int


@dataclass(frozen=True)
class _Unit:
    """One batch: each of these references in each of these poses."""

    references: tuple[str, ...]
    poses: tuple[str, ...]

    def pairs(self) -> Iterator[tuple[str, str]]:
        return ((reference, pose) for reference in self.references for pose in self.poses)

    def __len__(self) -> int:
        return len(self.references) * len(self.poses)


@dataclass
class _Manifest:
    """What the manifest holds: SHA-256 of each pose drawing and of each reference's file, and the units."""

    settings: dict[str, Any] = field(default_factory=dict)
    poses: dict[str, str] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)
    units: list[_Unit] = field(default_factory=list)
    torn: bool = False

    def text(self) -> str:
        lines: list[dict[str, Any]] = [{"pose2id": "generate", "format": FORMAT, **self.settings}]
        lines += [{"pose": name, "sha256": value} for name, value in self.poses.items()]
        lines += [{"reference": key, "sha256": value} for key, value in self.references.items()]
        lines += [{"unit": i, "references": u.references, "poses": u.poses} for i, u in enumerate(self.units)]
        return "".join(json.dumps(line) + "\n" for line in lines)


def generate_folder(
    load: Callable[[], Callable[..., Any]],
    references: Mapping[str, str | os.PathLike[str]],
    output: str | os.PathLike[str],
    poses: Mapping[str, Image.Image | Pose] | None = None,
    *,
    settings: Settings,
    sheet: bool = False,
    on_skip: Callable[[str, str], object] | None = None,
    progress: bool = False,
) -> Report:
    """Draw photographs of people in given poses into a folder, and go on where an earlier run ended.

    Parameters
    ----------
    load : callable
        Gives the pipeline; called once, and only when something is to be drawn.
    references : mapping of str to path
        The photographs by key. A key is a relative path with "/"; it names the output and seeds the noise.
    output : path
        The folder, made where it is not there. ``manifest.jsonl`` in it says what it holds.
    poses : mapping of str to PIL image or Pose, optional
        By name; None: the 8 representative ones, "1" to "8".
    settings : Settings
        Those of the earlier run where there was one.
    sheet : bool
        Also write a contact sheet with the pose drawings for each reference, ``sheets/<reference>.png``.
    on_skip : callable
        Called as ``f(key, reason)`` as soon as it is known that a reference is skipped.
    progress : bool
        Bars on stderr.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For settings or poses other than those the folder was begun with; names that leave the folder or meet in it;
        a file in the way; a damaged manifest; a second run in the folder.
    OSError
        When a file cannot be written.
    MissingExtraError
        Without Pillow.
    """
    settings = _check_settings(settings)
    run = _Run(Path(output), _take_poses(poses), _take_references(references), settings, sheet, on_skip, progress)
    if run.root.exists() and not run.root.is_dir():
        raise ValueError(f"output {run.root} must be a folder, it is a file")
    run.root.mkdir(parents=True, exist_ok=True)
    with _locked(run.root):
        run.plan()
        return run.draw(load)


@dataclass
class _Run:
    """One run: what was asked for, then what was found out about it."""

    root: Path
    drawings: dict[str, Any]
    paths: dict[str, Path]
    settings: Settings
    sheet: bool
    on_skip: Callable[[str, str], object] | None
    progress: bool
    hashes: dict[str, str] = field(default_factory=dict)  # of the references that can be read
    skipped: dict[str, str] = field(default_factory=dict)
    targets: dict[tuple[str, str], str] = field(default_factory=dict)  # (reference, pose): path below root
    found: set[str] = field(default_factory=set)  # paths of finished pictures and sheets
    ready: list[_Unit] = field(default_factory=list)  # units to draw
    finished: int = 0
    waiting: int = 0

    def skip(self, key: str, reason: str) -> None:
        if key not in self.skipped:
            self.skipped[key] = reason
            if self.on_skip is not None:
                self.on_skip(key, reason)

    def plan(self) -> None:
        """Read the manifest and the references, write down new units, find out which are unfinished."""
        old = _read_manifest(self.root / MANIFEST)
        if old.units and not old.torn and not self.has_pictures(old):
            old = _Manifest()  # what failed before its first picture binds nobody
        values = asdict(self.settings) | {"versions": _versions()}
        drawn = {name: _hash_image(image) for name, image in self.drawings.items()}
        _check_same(self.root, old, values, drawn)
        for key, path in tqdm(self.paths.items(), desc="reading", unit="image", disable=not self.progress):
            try:
                self.hashes[key] = _verify(path, old.references.get(key))
            except (ValueError, OSError) as error:
                self.skip(key, _reason(error))
        units = _new_units(self.hashes, self.drawings, old.units, self.settings.batch_size)
        known = {key: self.hashes[key] for unit in units for key in unit.references}
        manifest = _Manifest(values, old.poses | drawn, old.references | known, old.units + units)

        self.targets = _targets(manifest.units, self.settings.layout)
        folders = {posixpath.dirname(path) for path in [*self.targets.values(), *map(_sheet_path, self.hashes)]}
        self.found = _list_files(self.root, folders | {""})
        wanted = [self.targets[pair] for unit in units for pair in unit.pairs()]
        foreign = [target for target in wanted if target in self.found]
        if foreign and not (old.torn and old.settings):
            where = self.root / foreign[0]
            raise ValueError(f"{where} is in the way: no run here has drawn it; remove it or name another folder")
        self.found -= set(foreign)  # of units that were lost with the end of the manifest, perhaps with other members
        if units or old.torn:
            _write(self.root, MANIFEST, manifest.text().encode())

        for unit in manifest.units:
            asked = [pair for pair in unit.pairs() if pair[0] in self.hashes and pair[1] in self.drawings]
            if all(self.targets[pair] in self.found for pair in unit.pairs()):
                self.finished += len(asked)
            elif len(asked) == len(unit):
                self.ready.append(unit)
            elif asked:
                absent = [f"reference {key}" for key in unit.references if key not in self.hashes]
                absent += [f"pose {name}" for name in unit.poses if name not in self.drawings]
                for key, _ in asked:
                    self.skip(key, f"an earlier run planned it in one batch with {absent[0]}, which is not there now")
            else:
                self.waiting += len(unit)

    def has_pictures(self, manifest: _Manifest) -> bool:
        """Whether any picture that a manifest plans is there."""
        targets = _targets(manifest.units, manifest.settings.get("layout", LAYOUTS[0])).values()
        return any((self.root / target).is_file() for target in targets)

    def draw(self, load: Callable[[], Callable[..., Any]]) -> Report:
        """Draw the unfinished units."""
        self.draw_sheets(self.hashes)
        pipe, drawn = None, 0
        total = self.finished + sum(map(len, self.ready))
        with tqdm(total=total, initial=self.finished, desc="drawing", unit="picture", disable=not self.progress) as bar:
            for unit in self.ready:
                try:
                    people = [_take(self.paths[key], self.hashes[key]) for key in unit.references]
                except (ValueError, OSError) as error:
                    for key in unit.references:
                        self.skip(key, f"one of its batch cannot be read any more: {_reason(error)}")
                    continue
                pipe = load() if pipe is None else pipe
                for pair, picture in zip(unit.pairs(), self.call(pipe, people, unit), strict=True):
                    _write(self.root, self.targets[pair], _encode(picture, self.targets[pair]))
                    self.found.add(self.targets[pair])
                    drawn += 1
                    bar.update()
                self.draw_sheets(unit.references)
        return Report(drawn, self.finished, self.skipped, self.waiting)

    def call(self, pipe: Callable[..., Any], people: list[Any], unit: _Unit) -> list[Any]:
        """The pictures of a unit; one batch of the denoiser."""
        rows = pipe(
            people,
            [self.drawings[name] for name in unit.poses],
            height=self.settings.height,
            width=self.settings.width,
            num_inference_steps=self.settings.num_inference_steps,
            guidance_scale=self.settings.guidance_scale,
            seed=self.settings.seed,
            output_type="pil",
            batch_size=len(unit),
            reference_keys=list(unit.references),
            pose_keys=list(unit.poses),
        ).images
        return [picture for row in rows for picture in row]

    def draw_sheets(self, keys: Iterable[str]) -> None:
        """Contact sheets of those references whose pictures are all there."""
        for key in keys if self.sheet else ():
            paths = [self.targets.get((key, name), "") for name in self.drawings]
            note = json.dumps(list(self.drawings))
            if not self.found.issuperset(paths) or self.has_sheet(key, note):
                continue
            try:
                person = _take(self.paths[key], self.hashes[key])
                pictures = [decode(read_bytes(self.root / path)) for path in paths]
            except (ValueError, OSError) as error:
                self.skip(key, f"its pictures are there, its contact sheet cannot be drawn: {_reason(error)}")
                continue
            sheet = _draw_sheet(person, list(self.drawings.values()), pictures)
            _write(self.root, _sheet_path(key), _encode(sheet, _sheet_path(key), note))
            self.found.add(_sheet_path(key))

    def has_sheet(self, key: str, note: str) -> bool:
        """Whether the reference has a sheet of these poses; a run with more poses draws it again."""
        if _sheet_path(key) not in self.found:
            return False
        try:
            with require("PIL.Image", "ipg", PURPOSE).open(self.root / _sheet_path(key), formats=["PNG"]) as image:
                return bool(image.info.get("poses") == note)
        except (OSError, ValueError, SyntaxError):
            return False


def _check_settings(settings: Settings) -> Settings:
    counts = {"seed": 0, "num_inference_steps": 1, "height": 1, "width": 1, "batch_size": 1}
    checked: dict[str, Any] = {name: check_count(getattr(settings, name), name, low) for name, low in counts.items()}
    for name in ("height", "width"):
        if checked[name] % 8:
            raise ValueError(f"{name} must be a multiple of 8, received {checked[name]}")
    checked["guidance_scale"] = check_number(settings.guidance_scale, "guidance_scale")
    if settings.layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, received {settings.layout!r}")
    return replace(settings, **checked)


def _take_references(references: Mapping[str, str | os.PathLike[str]]) -> dict[str, Path]:
    """Paths by key, keys checked: they become paths in the output folder and seed the noise."""
    if not references:
        raise ValueError("references must hold at least one image, received none")
    for key in references:
        parts = key.split("/")
        if any(part in ("", ".", "..") for part in parts) or PurePosixPath(key).is_absolute() or "\0" in key:
            raise ValueError(f"a reference's key must be a relative path without '.' and '..', received {key!r}")
        try:
            key.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"a reference's name must be valid UTF-8, received {key!r}; rename the file") from error
    return {key: Path(path) for key, path in references.items()}


def _take_poses(poses: Mapping[str, Any] | None) -> dict[str, Any]:
    """Drawings by name: RGB images."""
    if poses is None:
        from pose2id.poses import representative_poses

        poses = {pose.name: pose for pose in representative_poses()}
    if not poses:
        raise ValueError("poses must hold at least one, received none")
    for name in poses:
        if not name.isprintable() or not name or name.strip(".") == "" or any(sign in name for sign in "/\\:"):
            raise ValueError(f"a pose's name becomes a file name and must not hold '/', received {name!r}")
    return {name: (pose.draw() if hasattr(pose, "draw") else pose).convert("RGB") for name, pose in poses.items()}


def _verify(path: Path, known: str | None) -> str:
    """SHA-256 of a reference's file; one that is not in the manifest is decoded, so that units have good ones only."""
    content = _read(path)
    value = hashlib.sha256(content).hexdigest()
    if known is None:
        decode(content)
    elif value != known:
        raise ValueError("the file has changed since an earlier run planned its pictures; give it another name")
    return value


def _take(path: Path, known: str) -> Image.Image:
    content = _read(path)
    if hashlib.sha256(content).hexdigest() != known:
        raise ValueError(f"{path.name} has changed during the run")
    return decode(content)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError("there is no such file")
    return read_bytes(path)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _new_units(references: Iterable[str], poses: Iterable[str], units: list[_Unit], batch_size: int) -> list[_Unit]:
    """Units for what no unit has yet: as many whole references as fit in a batch, or a part of one's poses."""
    planned = {pair for unit in units for pair in unit.pairs()}
    new: list[_Unit] = []
    for key in references:
        missing = tuple(name for name in poses if (key, name) not in planned)
        for start in range(0, len(missing), batch_size):
            names = missing[start : start + batch_size]
            last = new[-1] if new else _Unit((), ())
            # Only references with the same poses to draw can share a call of the pipeline.
            if last.poses == names == missing and len(last) + len(names) <= batch_size:
                new[-1] = _Unit((*last.references, key), names)
            else:
                new.append(_Unit((key,), names))
    return new


def _targets(units: list[_Unit], layout: str) -> dict[tuple[str, str], str]:
    """Where each picture goes, as a path below the output folder; no two meet, whatever the file system."""
    targets = {(key, name): _target(key, name, layout) for unit in units for key, name in unit.pairs()}
    sheets = {(key, "the sheet"): _sheet_path(key) for unit in units for key in unit.references}
    owners = {_fold(path): f"the run's own {path}" for path in (MANIFEST, LOCK)}
    for (key, name), path in [*targets.items(), *sheets.items()]:
        other = owners.setdefault(_fold(path), f"{key} ({name})")
        if other != f"{key} ({name})":
            raise ValueError(f"{other} and {key} ({name}) would both be written to {path}; rename one of them")
    for folder in {parent for path in owners for parent in _parents(path)}:
        if folder in owners:
            raise ValueError(f"{owners[folder]} would be written to {folder}, which is a folder for others; rename it")
    return targets


def _target(key: str, name: str, layout: str) -> str:
    if layout == "reference":
        return f"{_stem(key)}/{name}.png"
    folder = f"pose{name}" if name.isdecimal() else name
    return f"{folder}/{key}" if key.lower().endswith((".jpg", ".jpeg", ".png")) else f"{folder}/{_stem(key)}.png"


def _stem(key: str) -> str:
    stem, suffix = posixpath.splitext(key)
    return stem if suffix.lower() in SUFFIXES else key


def _sheet_path(key: str) -> str:
    return f"{SHEETS}/{_stem(key)}.png"


def _fold(path: str) -> str:
    return unicodedata.normalize("NFC", path).casefold()


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path


def _list_files(root: Path, folders: Iterable[str]) -> set[str]:
    """Files in these folders; half-written ones of a run that was killed are removed."""
    found = set()
    for folder in folders:
        try:
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name == TEMPORARY:
                        Path(entry.path).unlink()
                    elif entry.is_file():
                        found.add(posixpath.join(folder, entry.name))
        except FileNotFoundError:
            continue
    return found


def _write(root: Path, target: str, content: bytes) -> None:
    """Write a file so that it is there completely or not at all, even after a loss of power."""
    path = root / target
    if not path.parent.resolve().is_relative_to(root.resolve()):  # before any folder is made
        raise ValueError(f"{path} is not inside {root}, a link leads out of it; remove the link")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(TEMPORARY)
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    if target == MANIFEST and os.name == "posix":  # a picture whose name is lost is drawn again, a manifest is not
        handle = os.open(root, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encode(picture: Any, target: str, note: str | None = None) -> bytes:
    buffer = io.BytesIO()
    if target.lower().endswith((".jpg", ".jpeg")):
        picture.save(buffer, "JPEG", quality=95, subsampling=0)
    elif note is None:
        picture.save(buffer, "PNG")
    else:
        texts = require("PIL.PngImagePlugin", "ipg", PURPOSE).PngInfo()
        texts.add_text("poses", note)
        picture.save(buffer, "PNG", pnginfo=texts)
    return buffer.getvalue()


def _draw_sheet(person: Any, drawings: list[Any], pictures: list[Any]) -> Any:
    """The person, then a column for each pose: its drawing above the picture."""
    pillow = require("PIL.Image", "ipg", PURPOSE)
    width = max(1, round(CELL * pictures[0].width / pictures[0].height))
    sheet = pillow.new("RGB", (width * (1 + len(pictures)), 2 * CELL), "white")
    for row, cells in enumerate(([None, *drawings], [person, *pictures])):
        for column, cell in enumerate(cells):
            if cell is not None:
                sheet.paste(cell.resize((width, CELL), pillow.Resampling.LANCZOS), (column * width, row * CELL))
    return sheet


def _hash_image(image: Any) -> str:
    return hashlib.sha256(f"{image.width} x {image.height} ".encode() + image.tobytes()).hexdigest()


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in ("pose2id", "torch", "diffusers", "pillow"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _read_manifest(path: Path) -> _Manifest:
    """An empty manifest where there is none; without its last line where that was not written to its end."""
    manifest = _Manifest()
    if not path.exists():
        return manifest
    lines = path.read_bytes().split(b"\n")
    manifest.torn = lines.pop() != b""
    for number, text in enumerate(lines, 1):
        try:
            line = json.loads(text)
            if number == 1:
                if (line.pop("pose2id"), line.pop("format")) != ("generate", FORMAT):
                    raise ValueError("it is of another version of pose2id")
                manifest.settings = line
            elif "pose" in line:
                manifest.poses[line["pose"]] = line["sha256"]
            elif "reference" in line:
                manifest.references[line["reference"]] = line["sha256"]
            else:
                unit = _Unit(tuple(line["references"]), tuple(line["poses"]))
                if not manifest.references.keys() >= set(unit.references) or not manifest.poses.keys() >= set(
                    unit.poses
                ):
                    raise ValueError("it names references or poses that are not listed above it")
                manifest.units.append(unit)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            words = _reason(error)
            raise ValueError(
                f"{path} is damaged in line {number} ({words}); restore it or name another folder"
            ) from error
    return manifest


def _check_same(root: Path, old: _Manifest, values: dict[str, Any], poses: dict[str, str]) -> None:
    """Raise ValueError where a folder was begun with other settings, or other poses of the same names."""
    if not old.settings:
        return
    before, now = _flatten(old.settings), _flatten(values)
    faults = [
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]
    faults += [
        f"pose {name} was drawn differently" for name, value in poses.items() if old.poses.get(name, value) != value
    ]
    if faults:
        raise ValueError(
            f"{root} was begun with other settings: {'; '.join(faults)}. Pictures of two settings do not mix: "
            "run with the old ones or name another folder"
        )


def _flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in values.items() if name != "versions"}
    return plain | {f"version of {name}": value for name, value in values.get("versions", {}).items()}


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    """Hold the folder for this process; the system lets go of it when a process ends, however it ends."""
    try:
        import fcntl
    except ImportError:
        log.warning("this system has no locks: take care that no second run works in %s", root)
        yield
        return
    with (root / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                holder = (root / LOCK).read_text().strip() or "unknown"
                raise ValueError(f"another run (process {holder}) works in {root}; wait for it or end it") from error
            log.warning("%s cannot be locked (%s): take care that no second run works in it", root, error)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)
