"""The formats of feature files and of tensor files: what each holds, read with every check and never as code."""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from pose2id.errors import MissingExtraError, one_line, require
from pose2id.matlab import Other, read_variables
from pose2id.validation import is_tensor

__all__ = ["READERS", "SIDES", "explain", "read_tensors", "write_tensors"]

SIDES = ("query", "gallery")
"""What the names of a file that holds both begin with."""
_LARGEST = 2**33
"""Bytes of a `.mat` file, and of what is packed in one: MSMT17's gallery is 1.3 GB in float64."""


def read_tensors(path: str | os.PathLike[str], *, mapped: bool = False) -> Any:
    """What a tensor file holds, on the CPU: safetensors by its suffix, otherwise a file of `torch.save`.

    Code in a file is refused and never runs.

    Parameters
    ----------
    path : path
    mapped : bool
        Map the file into memory instead of reading it, where its format allows that.

    Returns
    -------
    dict of str to tensor
        Or whatever else of tensors, lists, dicts and numbers was given to `torch.save`.

    Raises
    ------
    ValueError
        For everything that keeps the file from being read; says what, but does not name the file.
    MissingExtraError
        For safetensors without the package of that name.

    Examples
    --------
    >>> import tempfile, torch
    >>> from pose2id.files import read_tensors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     torch.save({"weight": torch.ones(2)}, f"{folder}/a.pth")
    ...     read_tensors(f"{folder}/a.pth")
    {'weight': tensor([1., 1.])}
    """
    path = Path(path)
    try:
        with path.open("rb") as stream:
            start = stream.read(64)
        if start.startswith(b"version https://git-lfs"):
            raise ValueError("it is a Git LFS pointer, not the file itself; fetch that with git lfs pull")
        if path.suffix == ".safetensors":
            return require("safetensors.torch", "ipg", f"reading {path.name}").load_file(path)
        archive = start.startswith(b"PK\x03\x04")
        if not archive and not start.startswith(b"\x80"):
            raise ValueError(f"it is no file of torch.save, it begins with {start[:16]!r}")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the error after it says enough
            # Only the newer of torch's two formats can be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped and archive)
    except MissingExtraError:
        raise
    except pickle.UnpicklingError as error:  # not with the words of torch: they advise to trust the file
        name = re.search(r"GLOBAL ([\w.]+)", str(error))
        words = f"it holds more than tensors ({name[1]})" if name else "it is damaged, or holds more than tensors"
        raise ValueError(f"{words}, which is never loaded and did not run") from error
    except Exception as error:  # damaged files raise nearly everything
        if isinstance(error, OSError) and error.errno == errno.EINVAL:  # a map beyond the end of the file
            raise ValueError("it is cut off or damaged") from error
        raise ValueError(explain(error)) from error


def write_tensors(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write tensors, of any device and layout, as a safetensors file."""
    save = require("safetensors.torch", "ipg", f"writing {path.name}").save_file
    save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def explain(error: Exception) -> str:
    """In one line why a file cannot be read; an error that is not ours with its class."""
    words = one_line(error, 300)
    return words if type(error) is ValueError else f"{type(error).__name__}: {words}"


def _read_npz(path: Path, names: Collection[str]) -> dict[str, Any]:
    with path.open("rb") as stream:
        _check_start(stream, (b"PK\x03\x04", b"PK\x05\x06"), "not a zip archive")
        with np.load(stream, allow_pickle=False) as archive:
            if twice := {name for name in archive.files if name in names and archive.files.count(name) > 1}:
                raise ValueError(f"it holds {', '.join(sorted(twice))} twice")
            return {name: _take_member(archive, name) if name in names else None for name in archive.files}


def _is_path(name: str) -> bool:
    """Whether it names photographs: nothing depends on them, and many programs keep objects under that name."""
    return name.rpartition("_")[2] == "paths"


def _take_member(archive: Mapping[str, Any], name: str) -> Any:
    try:
        array = _load(lambda: archive[name], f", as {name!r}")
    except ValueError:
        if _is_path(name):
            return None
        raise
    if not isinstance(array, np.ndarray):  # numpy gives back the bytes of any other member
        raise ValueError(f"{name!r} in it is not a numpy array")
    return array


def _read_npy(path: Path, _: Collection[str]) -> dict[str, Any]:
    with path.open("rb") as stream:
        _check_start(stream, (b"\x93NUMPY",), "not a numpy array file")
        return {"features": _load(lambda: np.load(stream, allow_pickle=False))}


def _load(load: Callable[[], Any], where: str = "") -> Any:
    """What numpy loads; ValueError in other words than its own, which advise to allow what is never done here."""
    try:
        return load()
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        words = f"it holds pickled objects, which are never loaded{where}; save plain numbers or strings instead"
        raise ValueError(words) from error


def _read_safetensors(path: Path, names: Collection[str]) -> dict[str, Any]:
    return _take_single(read_tensors(path), names)


def _read_pt(path: Path, names: Collection[str]) -> dict[str, Any]:
    content = read_tensors(path)
    if is_tensor(content):
        return {"features": content}
    if not isinstance(content, dict):
        raise ValueError(
            f"it must hold one plain tensor, it holds a {type(content).__name__}; a dictionary of tensors is read too"
        )
    arrays = {str(name): _take_value(value, name, name in names) for name, value in content.items()}
    return _take_single(arrays, names)


def _take_single(arrays: dict[str, Any], names: Collection[str]) -> dict[str, Any]:
    """The arrays of a file; a single one of any name, unless it tells what it is, is the features."""
    if len(arrays) == 1:
        ((name, value),) = arrays.items()
        if is_tensor(value) and name not in names and not name.startswith(tuple(f"{side}_" for side in SIDES)):
            return {"features": value}
    return arrays


def _take_value(value: Any, name: object, wanted: bool) -> Any:
    """A tensor of a dictionary, or a list of labels as an array; all else only where nobody depends on it."""
    if wanted and isinstance(value, list | tuple) and all(isinstance(each, int | str) for each in value):
        return np.array(value, dtype=str if all(isinstance(each, str) for each in value) else object)
    if wanted and not is_tensor(value) and not _is_path(str(name)):
        raise ValueError(f"{name!r} in it is a {type(value).__name__}, it must be a tensor")
    return value


def _read_mat(path: Path, names: Collection[str]) -> dict[str, Any]:
    found = read_variables(path, names, largest=_LARGEST)
    arrays: dict[str, Any] = {}
    for name, value in found:
        if name in names:
            if name in arrays:
                raise ValueError(f"it holds {name} twice")
            if _is_path(name):
                value = None  # text is not read
            elif isinstance(value, Other) or value.dtype.hasobject:
                what = value.what if isinstance(value, Other) else "cells"
                raise ValueError(f"{name!r} in it is {what}, it must be an array of numbers")
        # MATLAB stores column by column, and everything here goes by rows; a copy, so that the file's bytes can go.
        arrays[name] = value if value is None else np.array(value, order="C")
    return arrays


def _check_start(stream: BinaryIO, starts: tuple[bytes, ...], otherwise: str) -> None:
    """Raise ValueError unless the file begins with one of `starts`; the readers take other files for pickles."""
    if not stream.read(8).startswith(starts):
        raise ValueError(otherwise)
    stream.seek(0)


READERS: dict[str, Callable[[Path, Collection[str]], dict[str, Any]]] = {
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".safetensors": _read_safetensors,
    ".pt": _read_pt,
    ".pth": _read_pt,
    ".mat": _read_mat,
}
"""By suffix: all arrays of a file by their names; those that are not among the names given may be None."""
