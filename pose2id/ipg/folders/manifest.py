"""What decides the pictures of a folder: its `FolderSettings`, and the manifest.jsonl that says what it holds."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pose2id.documents import parse_json
from pose2id.errors import one_line
from pose2id.ipg.folders.keys import check_key, check_pose_name
from pose2id.ipg.presets import Drawing, check_drawing
from pose2id.ipg.weights import RELEASED
from pose2id.validation import check_count

if TYPE_CHECKING:
    from PIL import Image

MANIFEST = "manifest.jsonl"
FORMAT = 1
LAYOUTS = ("reference", "pose")
"""One folder for each reference, or for each pose."""
_HASH = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FolderSettings:
    """What decides the pictures of a folder, beside references and poses; one folder holds pictures of one setting.

    Attributes
    ----------
    weights : str
        Which weights these are, such as a repository with its revision or a hash.
    seed, num_inference_steps, guidance_scale, height, width, batch_size, guidance_rescale, guidance_start, \
guidance_stop, shared_noise, decode_chunk_size
        As for the pipeline.
    layout : {"reference", "pose"}
        "reference": ``<reference without suffix>/<pose>.png``. "pose": a folder for each pose (``pose1`` for pose
        "1") with the names of the references, as the demo of the released code reads them; JPEG (quality 95) where
        that name says JPEG, else PNG.
    dtype, device : str
        What the pipeline computes with.
    solver, decoder : str, optional
        A name for its scheduler, and which `AutoencoderTiny` makes its pictures; None: the weights' own. A record only:
        `load` of `generate_folder` gives a pipeline that has them.
    """

    weights: str
    seed: int = 42
    num_inference_steps: int = RELEASED.num_inference_steps
    guidance_scale: float = RELEASED.guidance_scale
    height: int = RELEASED.sample_size[0]
    width: int = RELEASED.sample_size[1]
    batch_size: int = 8
    layout: str = "reference"
    dtype: str = "float32"
    device: str = "cpu"
    guidance_rescale: float = 0.0
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    shared_noise: bool = False
    decode_chunk_size: int = 1
    solver: str | None = None
    decoder: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of the pipeline; what stands at the usual value is left out, so that a plain callable will do."""
        kept = ("height", "width", "num_inference_steps", "guidance_scale", "seed", *OPTIONAL)
        usual = _leave_out_usual(asdict(self)).items()
        return {name: value for name, value in usual if name in kept and name not in RECORDED}

    @property
    def drawing(self) -> Drawing:
        """Those that say how pictures are drawn, as the pipeline's arguments."""
        return Drawing(*(getattr(self, name) for name in Drawing._fields))

    def __post_init__(self) -> None:
        counts = {"seed": 0, "height": 1, "width": 1, "batch_size": 1, "decode_chunk_size": 1}
        for name, low in counts.items():
            object.__setattr__(self, name, check_count(getattr(self, name), name, low))
        for name in ("height", "width"):
            if getattr(self, name) % 8:
                raise ValueError(f"{name} must be a multiple of 8, received {getattr(self, name)}")
        for name, value in check_drawing(self.drawing)._asdict().items():
            object.__setattr__(self, name, value)
        for name in ("weights", "dtype", "device", "solver", "decoder"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (value is None and name in OPTIONAL):
                raise TypeError(f"{name} must be a string, received {value!r}")
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, received {self.layout!r}")


OPTIONAL = {each.name: each.default for each in fields(FolderSettings)[-7:]}
"""Settings that a manifest leaves out where they are as usual, as those of earlier versions do."""

RECORDED = ("solver", "decoder")
"""Settings that a pipeline has or not, whatever it is called with."""


def _leave_out_usual(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in OPTIONAL or value != OPTIONAL[name]}


@dataclass(frozen=True)
class Unit:
    """One batch: each of these references in each of these poses."""

    references: tuple[str, ...]
    poses: tuple[str, ...]

    def pairs(self) -> Iterator[tuple[str, str]]:
        """Each (reference, pose)."""
        return ((reference, pose) for reference in self.references for pose in self.poses)

    def __len__(self) -> int:
        return len(self.references) * len(self.poses)


@dataclass
class Manifest:
    """What manifest.jsonl holds."""

    settings: dict[str, Any] = field(default_factory=dict)  # `FolderSettings`, and versions of the packages that draw
    poses: dict[str, str] = field(default_factory=dict)  # SHA-256 of each pose map's pixels, by name
    references: dict[str, str] = field(default_factory=dict)  # SHA-256 of each photograph's file, by key
    units: list[Unit] = field(default_factory=list)  # in the order in which they were planned
    torn: bool = False  # whether the last line of the file was not written to its end

    def text(self) -> str:
        """The content of the file."""
        lines: list[dict[str, Any]] = [{"pose2id": "generate", "format": FORMAT, **_leave_out_usual(self.settings)}]
        lines += [{"pose": name, "sha256": value} for name, value in self.poses.items()]
        lines += [{"reference": key, "sha256": value} for key, value in self.references.items()]
        lines += [{"unit": i, "references": u.references, "poses": u.poses} for i, u in enumerate(self.units)]
        return "".join(json.dumps(line) + "\n" for line in lines)


def describe_request(settings: FolderSettings, pose_maps: Mapping[str, Image.Image]) -> Manifest:
    """What a run asks of a folder, as a manifest without references and units."""
    hashes = {
        name: hashlib.sha256(f"{image.width} x {image.height} ".encode() + image.tobytes()).hexdigest()
        for name, image in pose_maps.items()
    }
    versions: dict[str, str | None] = {}
    for package in ("pose2id", "torch", "diffusers", "pillow"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return Manifest(asdict(settings) | {"versions": versions}, hashes)


def read_manifest(path: Path) -> Manifest:
    """An empty manifest where there is none; without its last line where that was not written to its end.

    The file may have been edited, and its names become paths: everything in it is checked.
    """
    manifest = Manifest()
    if not path.exists():
        return manifest
    lines = path.read_bytes().split(b"\n")
    manifest.torn = lines.pop() != b""
    planned: set[tuple[str, str]] = set()
    for number, text in enumerate(lines, 1):
        try:
            line = parse_json(text)
            if not isinstance(line, dict):
                raise TypeError(f"it must be an object, received {type(line).__name__}")
            if number == 1:
                manifest.settings = _take_settings(line)
            elif "pose" in line:
                _take_hash(line, "pose", check_pose_name, manifest.poses)
            elif "reference" in line:
                _take_hash(line, "reference", check_key, manifest.references)
            else:
                unit = _take_unit(line, manifest)
                if not planned.isdisjoint(unit.pairs()):
                    raise ValueError("pictures in it are those of an earlier unit")
                planned.update(unit.pairs())
                manifest.units.append(unit)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{path} is damaged in line {number} ({one_line(error, 300)}); restore it or name another folder"
            ) from error
    return manifest


def _take_settings(line: dict[str, Any]) -> dict[str, Any]:
    """The first line: whose file it is, `FolderSettings`, and versions."""
    made_by, form = line.pop("pose2id", None), line.pop("format", None)
    if made_by != "generate" or type(form) is not int or form != FORMAT:
        raise ValueError("it is of another version of pose2id")
    versions = line.pop("versions", None)
    if not isinstance(versions, dict) or not all(isinstance(value, str | None) for value in versions.values()):
        raise TypeError(f"versions must be an object of strings, received {versions!r}")
    names = {each.name for each in fields(FolderSettings)}
    _check_names(line, names - (OPTIONAL.keys() - line.keys()))
    return asdict(FolderSettings(**line)) | {"versions": versions}


def _take_hash(line: dict[str, Any], kind: str, check: Callable[[object], str], known: dict[str, str]) -> None:
    """A line with a pose or a reference goes into those known."""
    _check_names(line, {kind, "sha256"})
    name, value = check(line[kind]), line["sha256"]
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise ValueError(f"sha256 must be 64 hexadecimal digits, received {value!r}")
    if name in known:
        raise ValueError(f"{kind} {name!r} is listed twice")
    known[name] = value


def _take_unit(line: dict[str, Any], manifest: Manifest) -> Unit:
    """A line with a unit of what is listed above it, no larger than a batch."""
    _check_names(line, {"unit", "references", "poses"})
    number = check_count(line["unit"], "unit", 0)
    if number != len(manifest.units):
        raise ValueError(f"it must be unit {len(manifest.units)}, it is unit {number}; a unit is listed once, in order")
    for name, known in (("references", manifest.references), ("poses", manifest.poses)):
        members = line[name]
        if not isinstance(members, list) or not members or not all(isinstance(member, str) for member in members):
            raise TypeError(f"{name} must be a list of one string or more, received {members!r}")
        if len(set(members)) < len(members):
            raise ValueError(f"{name} must differ, received {members!r}")
        if strangers := [member for member in members if member not in known]:
            raise ValueError(f"it names {name} that are not listed above it: {strangers!r}")
    unit = Unit(tuple(line["references"]), tuple(line["poses"]))
    if len(unit) > manifest.settings["batch_size"]:
        raise ValueError(f"it has {len(unit):,} pictures, a batch has {manifest.settings['batch_size']:,}")
    return unit


def _check_names(line: dict[str, Any], wanted: set[str]) -> None:
    if line.keys() != wanted:
        raise ValueError(f"it must hold {', '.join(sorted(wanted))}; it holds {', '.join(sorted(line)) or 'nothing'}")


def check_same(root: Path, old: Manifest, asked: Manifest) -> None:
    """Raise ValueError where a folder was begun with other settings, or other poses of the same names."""
    if not old.settings:
        return
    before, now = _flatten(old.settings), _flatten(asked.settings)
    changed = [name for name in before | now if before.get(name) != now.get(name)]
    redrawn = [name for name, value in asked.poses.items() if old.poses.get(name, value) != value]
    faults = [f"{name} was {before.get(name)!r}, is {now.get(name)!r}" for name in changed]
    faults += [f"pose {name} was drawn differently" for name in redrawn]
    if faults:
        raise ValueError(
            f"{root} was begun with other settings: {'; '.join(faults)}. Pictures of two settings do not mix: "
            "run with the old ones or name another folder"
        )


def _flatten(settings: Mapping[str, Any]) -> dict[str, Any]:
    plain = {name: value for name, value in settings.items() if name != "versions"}
    return plain | {f"version of {name}": value for name, value in settings.get("versions", {}).items()}
