"""An encoder as a folder: ``encoder.safetensors`` and ``encoder.json``, which says what it is. Nothing is pickled."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pose2id.atomic import write_folder
from pose2id.documents import parse_json, read_json
from pose2id.encoders.contract import Encoder, check_size
from pose2id.encoders.systems import find_system, name_system
from pose2id.encoders.trunk import Trunk
from pose2id.errors import one_line
from pose2id.formats import read_tensors, write_tensors
from pose2id.hub import hash_file
from pose2id.validation import check_count, check_path, take_path

WEIGHTS, DESCRIPTION = "encoder.safetensors", "encoder.json"
_FORM, _VERSION = "pose2id encoder", 1
_MOST = 10_000_000
"""Identities: what a folder may ask for before its weights are looked at."""


def make_encoder(
    system: str, classes: int, *, channels: Any = (24, 48, 128), sizes: dict[str, Any] | None = None
) -> Encoder:
    """A new encoder by the name of its system.

    Parameters
    ----------
    system : str
        One of `pose2id.encoders.SYSTEMS`.
    classes : int
        Identities that it is trained on.
    channels : sequence of 3 int
        Of the stages of its `Trunk`.
    sizes : dict, optional
        Keywords of the system's class.

    Returns
    -------
    Encoder
        With random weights, in training mode.

    Raises
    ------
    ValueError, TypeError
        For another name, sizes that the system does not have or that JSON cannot hold.

    Examples
    --------
    >>> from pose2id.encoders import make_encoder
    >>> type(make_encoder("global", 10)).__name__
    'Global'
    """
    kind, given = find_system(system), dict(sizes or {})
    if isinstance(channels, str | bytes) or not hasattr(channels, "__len__") or len(channels) != 3:
        raise ValueError(f"channels must be three integers, the widths of the trunk's stages, received {channels!r}")
    widths = [check_size(width, "each of channels") for width in channels]
    try:
        given = parse_json(json.dumps(given).encode())
    except (TypeError, ValueError) as error:
        raise TypeError(f"sizes of {system} must be such as JSON can hold: {one_line(error)}") from error
    try:
        return kind(check_count(classes, "classes", 1, _MOST), Trunk(widths), **given)
    except TypeError as error:
        raise TypeError(f"sizes of {system} do not fit: {one_line(error)}") from error


def save_encoder(encoder: Encoder, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write an encoder as a folder, whole or not at all.

    Parameters
    ----------
    encoder : Encoder
        Of one of `pose2id.encoders.SYSTEMS`.
    folder : path
    overwrite : bool
        Replace a folder that is there.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        For an encoder of another class; when the folder is there.
    OSError
        When it cannot be written.
    MissingExtraError
        Without safetensors.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.encoders import load_encoder, make_encoder, save_encoder
    >>> with tempfile.TemporaryDirectory() as place:
    ...     folder = save_encoder(make_encoder("global", 10), f"{place}/mine")
    ...     load_encoder(folder).classes
    10
    """
    path = check_path(folder, "folder")
    description = {
        "format": _FORM,
        "version": _VERSION,
        "system": name_system(encoder),
        "classes": encoder.classes,
        "channels": list(encoder.trunk.widths),
        "sizes": encoder.sizes,
        "image_size": None if encoder.image_size is None else list(encoder.image_size),
        "part_names": list(encoder.part_names),
        "made_by": {name: metadata.version(name) for name in ("pose2id", "torch")},
    }
    with write_folder(path, overwrite=overwrite) as part:
        write_tensors(encoder.state_dict(), part / WEIGHTS)
        description["sha256"] = hash_file(part / WEIGHTS)
        (part / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return path


def load_encoder(folder: str | os.PathLike[str]) -> Encoder:
    """Read an encoder that `save_encoder` or a training wrote.

    Parameters
    ----------
    folder : path

    Returns
    -------
    Encoder
        In eval mode, without gradients, on the CPU.

    Raises
    ------
    FileNotFoundError
        When there is no such folder.
    ValueError
        For a folder that holds something else, of a newer version or a system that is not known, or is damaged.
    MissingExtraError
        Without safetensors.

    Examples
    --------
    >>> from pose2id.encoders import load_encoder
    >>> encoder = load_encoder("run/encoder")  # doctest: +SKIP
    """
    path = take_path(folder, "folder")
    if not path.is_dir():
        raise FileNotFoundError(f"encoder {path} is {'a file, not' if path.exists() else 'not'} a folder")
    if not (path / DESCRIPTION).is_file():
        raise ValueError(f"encoder {path} has no {DESCRIPTION}; name a folder that a training of encoders wrote")
    held = read_json(path / DESCRIPTION)
    if not isinstance(held, dict) or held.get("format") != _FORM:
        raise ValueError(f"{path / DESCRIPTION} is not of an encoder of this package; name another folder")
    if held.get("version") != _VERSION:
        raise ValueError(
            f"encoder {path} is of version {held.get('version')!r} of its format, this package reads {_VERSION}"
        )
    try:
        encoder = _make(held)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        words = f"{error} is missing" if isinstance(error, KeyError) else one_line(error)
        raise ValueError(f"{path / DESCRIPTION} describes no encoder of this version: {words}") from error
    weights = path / WEIGHTS
    if not weights.is_file():
        raise ValueError(f"encoder {path} is damaged: it has no {WEIGHTS}; fetch or train it anew")
    try:
        tensors = read_tensors(weights)
        if hash_file(weights) != held.get("sha256"):
            raise ValueError(f"it is another one than {DESCRIPTION} says")
        encoder.load_state_dict(tensors)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{weights} is damaged: {one_line(error, 300)}; fetch or train it anew") from error
    return encoder.eval().requires_grad_(False)


def _make(held: dict[str, Any]) -> Encoder:
    """An encoder as a folder describes it, without its weights."""
    if not isinstance(held["sizes"], dict):
        raise TypeError(f"sizes must be an object, received {held['sizes']!r}")
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        encoder = make_encoder(held["system"], held["classes"], channels=held["channels"], sizes=held["sizes"])
    size, names = held["image_size"], held["part_names"]
    if size is not None:
        if not isinstance(size, list) or len(size) != 2:
            raise ValueError(f"image_size must be height and width, received {size!r}")
        height, width = (check_count(side, "each side of image_size", 1, 2**16) for side in size)
        encoder.image_size = height, width
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"part_names must be texts, received {names!r}")
    encoder.part_names = tuple(names)
    return encoder
