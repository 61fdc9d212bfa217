"""Encoders by name: a list of PIL images to features (n, D), as everywhere in this package."""

from __future__ import annotations

import hashlib
import json
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pose2id.documents import parse_json
from pose2id.encoders import encode_images, folders
from pose2id.encoders.systems import name_system
from pose2id.errors import one_line, require, suggest
from pose2id.hub import hash_file
from pose2id.images import MAX_PIXELS, PURPOSE
from pose2id.onnx import load_session, read_input
from pose2id.poses import Pose

if TYPE_CHECKING:
    from PIL import Image

WEIGHTS = {"tiny": "tiny", "pose2id": "yuanc3/Pose2ID"}
"""Encoders inside the generator's weights, by the weights' names."""
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and deviation of RGB in [0, 1] that most ReID models are trained with."""
POSE = "pose2id pose"
"""Under this name in a picture's `info` stands its pose, for encoders that need it."""
OUTSIDE = (".data", "_data")
"""What follows the name of an ONNX file where torch writes weights outside it."""


class Encoder(NamedTuple):
    """What turns pictures into features, and which it is: `identity` changes when it does.

    With `columns` a row of features is several arrays one after the other: their names in the file and their shapes.
    With `poses`, by key, each picture is given with its pose in ``picture.info[POSE]``.
    """

    call: Callable[[list[Image.Image]], Any]
    identity: dict[str, Any]
    columns: dict[str, tuple[int, ...]] | None = None
    poses: Mapping[str, Pose] | None = None


def load_encoder(
    name: str,
    *,
    device: str = "cpu",
    size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    parts: bool = False,
    poses: Mapping[str, Pose] | None = None,
) -> Encoder:
    """An encoder by its name.

    Parameters
    ----------
    name : str
        A file ``.onnx``; ``package.module:function``, a callable from a list of PIL images (RGB) to an (n, D) array or
        tensor, also of a module in the current folder; "tiny" or "pose2id", the encoder in these weights of the
        generator; a folder that `pose2id.encoders.save_encoder` or ``pose2id train encoder`` wrote.
    device : str
        Where it computes; a function of yours knows itself.
    size : (height, width), optional
        Of an ONNX model's input. None: what the model says, by its shape or its metadata.
    mean, std : three floats each, optional
        Of RGB from 0 to 1, for an ONNX model. None: what the model's metadata say, else ImageNet's.
    parts : bool
        Of a folder's encoder, which must have them, also the parts and their visibility.
    poses : mapping of str to Pose, optional
        The pose of each photograph by its key, for a folder's encoder that needs keypoints.

    Returns
    -------
    Encoder
        With an identity that tells it, and what it depends on, from others.

    Raises
    ------
    ValueError, TypeError, FileNotFoundError, ImportError
        For a name that is none of these, a model that takes no pictures, settings that do not fit.

    Examples
    --------
    >>> from pose2id.programs.extraction import load_encoder
    >>> load_encoder("builtins:len").call(["a", "list", "of pictures"])  # any callable
    3
    """
    settings = {"size": size, "mean": mean, "std": std}
    given = [f"--{key}" for key, value in settings.items() if value is not None]
    if name.lower().endswith(".onnx") and not parts:
        model = OnnxEncoder(name, device=device, size=size, mean=mean, std=std)
        beside = [Path(f"{name}{suffix}") for suffix in OUTSIDE]
        outside = {"outside": [hash_file(path) for path in beside if path.is_file()]}
        return Encoder(model, {"onnx": hash_file(Path(name)), **outside, **model.settings()})
    if name not in WEIGHTS and Path(name).is_dir():
        return _load_folder(name, device, given, parts=parts, poses=poses)
    if parts:
        raise ValueError(f"--parts is for a folder that `pose2id train encoder` wrote, {name} gives one feature each")
    if given:
        raise ValueError(f"{', '.join(given)} are for an .onnx model; encoder {name} does its own resizing and scaling")
    if name in WEIGHTS:
        return _load_own(name, device)
    if ":" in name:
        return _load_function(name)
    raise ValueError(
        "encoder must be a folder that `pose2id train encoder` wrote, a file .onnx, package.module:function, tiny or "
        f"pose2id, received {name!r}" + suggest(name, WEIGHTS)
    )


def _load_folder(name: str, device: str, given: list[str], *, parts: bool, poses: Mapping[str, Pose] | None) -> Encoder:
    """A trained encoder; of parts, their visibility follows, if it has one."""
    encoder = folders.load_encoder(name).to(device)
    if given:
        raise ValueError(f"{', '.join(given)} are for an .onnx model; encoder {name} knows its own")
    system = name_system(encoder)
    if "masks" in encoder.needs:
        raise ValueError(
            f"encoder {name} ({system}) needs masks of every picture, which extract does not have; in Python: "
            "pose2id.encoders.encode_images(encoder, images, masks=...), then pose2id.files.write_arrays"
        )
    if "keypoints" not in encoder.needs:
        poses = None
    elif poses is None:
        raise ValueError(
            f"encoder {name} ({system}) needs keypoints of every picture; pass --keypoints FILE, as `pose2id poses "
            "PHOTOS -o FILE` writes"
        )
    if encoder.image_size is None:
        raise ValueError(
            f"encoder {name} does not say for which size of pictures it is; set image_size and save it anew"
        )
    height, width = encoder.image_size
    method = require("PIL.Image", "ipg", PURPOSE).Resampling.BILINEAR

    def encode(images: list[Image.Image]) -> dict[str, torch.Tensor]:
        pixels = np.stack([np.asarray(image.resize((width, height), method)) for image in images])
        points = None if poses is None else [image.info.get(POSE) for image in images]
        found = encode_images(encoder, pixels, keypoints=points, batch_size=len(pixels))
        names = ("features", "parts", "visibility") if parts else ("features",)
        made = {each: getattr(found, each) for each in names}
        return {each: value.float() for each, value in made.items() if value is not None}

    example = encode([require("PIL.Image", "ipg", PURPOSE).new("RGB", (width, height))])
    if "features" not in example:
        raise ValueError(
            f"encoder {name} ({system}) compares pairs and has no feature of one picture; extract features by another, "
            "and let it score their nearest rows: pose2id.encoders.Encoder.compare"
        )
    if parts and "parts" not in example:
        raise ValueError(f"--parts: encoder {name} ({system}) gives one feature of each picture and no parts")
    identity: dict[str, Any] = {"folder": hash_file(Path(name) / folders.WEIGHTS), "parts": parts}
    if poses is not None:
        digest = hashlib.sha256(json.dumps(sorted(poses)).encode())
        for key in sorted(poses):
            digest.update(poses[key].keypoints.tobytes())
        identity["keypoints"] = digest.hexdigest()
    columns = {each: tuple(value.shape[1:]) for each, value in example.items()}

    def join(images: list[Image.Image]) -> torch.Tensor:
        return torch.cat([value.flatten(1) for value in encode(images).values()], dim=1)

    return Encoder(join, identity, columns if parts else None, poses)


def _load_own(name: str, device: str) -> Encoder:
    from pose2id.ipg import named, require_packages

    require_packages(f"the encoder {name!r}")
    source, identity = named.find_weights(WEIGHTS[name])
    network = named.load_identity_encoder(source).to(device)

    def encode(images: list[Image.Image]) -> torch.Tensor:
        pixels = network.preprocess(images).to(device, network.dtype)
        features: torch.Tensor = network(pixels)
        return features

    return Encoder(encode, {"weights": identity})


def _load_function(name: str) -> Encoder:
    module_name, _, function_name = name.partition(":")
    if not all(module_name.split(".")) or "/" in module_name or module_name.endswith(".py"):
        raise ValueError(
            f"encoder {name} must name a module as Python imports it, without folders and .py, and a function: "
            "package.module:function; a module in the current folder, or below it, is found"
        )
    if "" not in sys.path:  # as `python -m` has it: a module in the current folder
        sys.path.insert(0, "")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name == error.name or module_name.startswith(f"{error.name}.")):
            raise
        raise ImportError(
            f"encoder {name}: there is no module {error.name!r} in {Path.cwd()} or among the installed packages"
        ) from error
    except ImportError:
        raise
    except (Exception, SystemExit) as error:  # what the module runs may raise anything
        raise ImportError(f"encoder {name}: {module_name} cannot be imported: {_locate(error)}") from error
    found: Any = module
    for part in function_name.split("."):
        if not hasattr(found, part):
            names = [own for own, value in vars(module).items() if callable(value) and own[0] != "_"]
            raise ValueError(
                f"encoder {name}: {module_name} has no {function_name!r}; it has {', '.join(names) or 'none'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise TypeError(f"encoder {name} must be callable, it is a {type(found).__name__}")
    source = getattr(module, "__file__", None)  # built-in ones have none
    content = hash_file(Path(source)) if source and Path(source).is_file() else ""
    return Encoder(partial(_call, found, name), {"function": name, "source": content})


def _call(function: Callable[[list[Image.Image]], Any], name: str, images: list[Image.Image]) -> Any:
    """What a function of the user gives; ValueError where it fails, however it does."""
    try:
        return function(images)
    except Exception as error:
        raise ValueError(f"encoder {name} failed on {len(images)} pictures: {_locate(error)}") from error


def _locate(error: BaseException) -> str:
    """What an error of the user's code says, and where it was raised."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    words = "" if isinstance(error, SyntaxError) else f" ({frame.filename}, line {frame.lineno})"
    return f"{type(error).__name__}: {one_line(error, 300)}{words}"


class OnnxEncoder:
    """A ReID model in an ONNX file: RGB, resized bilinearly, from 0 to 1, less `mean` and over `std`, (n, 3, H, W).

    Its metadata may hold ``size`` ("256,128"), ``mean`` and ``std`` ("0.485,0.456,0.406"), as JSON lists too.
    """

    def __init__(
        self,
        path: str,
        *,
        device: str = "cpu",
        size: tuple[int, int] | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        kind = device.partition(":")[0]
        chosen = None if kind == "cuda" else ["CPUExecutionProvider"]
        self.path = path
        self.session: Any = load_session(path, providers=chosen, purpose="an ONNX encoder", extra="onnx")
        self.input, shape = read_input(self.session)
        entry, *more = self.session.get_inputs()
        if more:
            names = ", ".join(repr(each.name) for each in more)
            raise ValueError(f"{path} must have one input, pictures, it also wants {names}; export it without")
        if len(shape) != 4 or shape[1] not in (3, None) or entry.type not in ("tensor(float)", "tensor(float16)"):
            raise ValueError(
                f"{path} must take pictures (N, 3, H, W) of floats, its input {self.input!r} is {entry.type} of shape "
                f"{list(entry.shape)}; export the whole model with that input"
            )
        self.dtype = np.float16 if entry.type == "tensor(float16)" else np.float32
        self.batch = shape[0]
        notes = dict(self.session.get_modelmeta().custom_metadata_map)
        fixed = (shape[2], shape[3]) if shape[2] and shape[3] else None
        noted = _read_numbers(notes, "size", 2, path)
        if noted is not None and not all(side >= 1 and side == int(side) for side in noted):
            raise ValueError(
                f"{path}: its metadata 'size' must be height and width in pixels, received {notes['size']!r}"
            )
        wanted = size or fixed or (None if noted is None else (int(noted[0]), int(noted[1])))
        if wanted is None:
            raise ValueError(f"{path} takes pictures of any size and its metadata name none; pass --size HEIGHTxWIDTH")
        if fixed is not None and wanted != fixed:
            raise ValueError(
                f"{path} takes pictures of {fixed[0]}x{fixed[1]} only, received --size {wanted[0]}x{wanted[1]}"
            )
        if wanted[0] * wanted[1] > MAX_PIXELS:
            raise ValueError(
                f"{path} must take pictures of at most {MAX_PIXELS:,} pixels, {wanted[0]}x{wanted[1]} has more"
            )
        self.size = wanted
        self.mean = tuple(mean or _read_numbers(notes, "mean", 3, path) or IMAGENET[0])
        self.std = tuple(std or _read_numbers(notes, "std", 3, path) or IMAGENET[1])
        if not all(value > 0 for value in self.std):
            raise ValueError(f"std of {path} must be three numbers above 0, which pictures are divided by: {self.std}")

    def settings(self) -> dict[str, Any]:
        """Size, mean and deviation that are used."""
        return {"size": list(self.size), "mean": list(self.mean), "std": list(self.std)}

    def __call__(self, images: list[Image.Image]) -> np.ndarray[Any, Any]:
        """Features (n, D) of n pictures."""
        height, width = self.size
        method = require("PIL.Image", "ipg", PURPOSE).Resampling.BILINEAR
        pixels = np.stack([np.asarray(image.resize((width, height), method), np.float32) for image in images])
        scaled = (pixels / 255 - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        batch = np.ascontiguousarray(scaled.transpose(0, 3, 1, 2).astype(self.dtype))
        step = self.batch or len(batch)
        rows = []
        for start in range(0, len(batch), step):
            part = batch[start : start + step]
            fill = np.repeat(part[-1:], step - len(part), axis=0)  # the model takes just so many
            try:
                found = self.session.run(None, {self.input: np.concatenate([part, fill])})[0]
            except Exception as error:  # onnxruntime has classes of its own
                hint = "; --batch-size 1 if it takes only one at a time" if len(part) > 1 else ""
                raise ValueError(f"{self.path} failed on {len(part)} pictures{hint}: {one_line(error, 400)}") from error
            found = np.asarray(found)
            if found.ndim > 2 and set(found.shape[2:]) == {1}:  # pooled maps
                found = found.reshape(found.shape[:2])
            if not found.ndim:
                raise ValueError(f"{self.path} must give features (N, D) first, its first output is one number")
            rows.append(found[: len(part)])
        return np.concatenate(rows)


def _read_numbers(notes: dict[str, str], name: str, count: int, path: str) -> tuple[float, ...] | None:
    """Numbers that the metadata of a model hold under a name; None where there is none."""
    text = notes.get(name)
    if text is None:
        return None
    listed = text if text.lstrip().startswith("[") else f"[{text}]"
    try:
        values = tuple(float(value) for value in parse_json(listed.encode()))
    except (ValueError, TypeError):
        values = ()
    if len(values) != count or not all(np.isfinite(values)):
        raise ValueError(f"{path}: its metadata {name!r} must be {count} numbers, received {text!r}")
    return values
