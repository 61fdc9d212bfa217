"""Feature files and tensor files: read with every check, never as code; feature files written whole or not at all.

| suffix         | read                                                             | written                       |
|----------------|------------------------------------------------------------------|-------------------------------|
| `.npz`         | `features` or `parts`, and what else `NAMES` has                 | the same names, or the result |
| `.npy`         | the features alone                                               | the result alone              |
| `.safetensors` | as `.npz`, or a single tensor of any name; extra `ipg`           | as `.npz`                     |
| `.pt`          | one plain tensor, the features alone                             | the result alone              |
"""

from __future__ import annotations

import errno
import os
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from pose2id.atomic import clear_leftovers, write_file
from pose2id.errors import MissingExtraError, one_line, require
from pose2id.validation import is_tensor, take_labels, take_tensor

SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")
PART_NAMES = ("parts", "visibility", "generated_parts", "generated_visibility")
LABELS = ("ids", "cams", "groups", "paths")
"""One of each row, integers or strings; they go with the rows into what is written."""
NAMES = ("features", *LABELS, "generated", *PART_NAMES)
_OWNERS = {
    "generated": "features",
    "visibility": "parts",
    "generated_parts": "parts",
    "generated_visibility": "generated_parts",
}
"""What says nothing without another array."""


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """What a feature file holds; everything but `path` may be None, but not both `features` and `parts`.

    Attributes
    ----------
    path : pathlib.Path
        Where it was read from.
    features : (N, D) numpy array or torch tensor, optional
        One row per image.
    ids, cams : (N,) integers or strings, optional
        Identities and cameras.
    groups : (N,) integers or strings, optional
        Rows of one group are never neighbours, such as the people in one frame of a video.
    paths : (N,) strings, optional
        The photographs; anything else of that name in a file is passed over.
    generated : (N, M, D) or (N, D) array, optional
        Features of generated images, or their mean.
    parts : (N, P, D) array, optional
        Several features an image.
    visibility : (N, P) bools, or floats from 0 to 1, optional
        How well each part is seen.
    generated_parts : (N, M, P, D) array, optional
        Parts of generated images.
    generated_visibility : (N, M, P) bools or floats, optional
        How well each of these is seen.
    """

    path: Path
    features: Any = None
    ids: Any = None
    cams: Any = None
    groups: Any = None
    paths: Any = None
    generated: Any = None
    parts: Any = None
    visibility: Any = None
    generated_parts: Any = None
    generated_visibility: Any = None


def read_features(
    path: str | os.PathLike[str], needs: tuple[str, ...] = (), *, names: tuple[str, ...] = NAMES
) -> FeatureFile:
    """Read a feature file.

    Labels are also taken as other programs store them: `ids` and `cams` of shape (1, N) or (N, 1), and whole numbers as
    floats, come out as (N,) integers.

    Parameters
    ----------
    path : path
        `.npz`, `.npy`, `.safetensors` or `.pt`; the table at the head of this module says what each holds.
    needs : tuple of str
        Names that must be there, such as "ids"; one of "features" and "parts" must be anyway.
    names : tuple of str
        What to take from the file beside the features; all else stays unread and unchecked. Without "parts" there
        must be features.

    Returns
    -------
    FeatureFile
        numpy arrays, or torch tensors for `.safetensors` and `.pt`.

    Raises
    ------
    ValueError
        For an unknown suffix, a missing name, features or parts of another shape, labels that are none, or a file that
        is damaged or holds pickled objects.
    FileNotFoundError
        When there is no such file.
    MissingExtraError
        For `.safetensors` without the package of that name.

    Examples
    --------
    >>> import numpy as np, pathlib, tempfile
    >>> from pose2id.files import read_features
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "query.npz")
    ...     np.savez(path, features=np.eye(2), ids=np.array([1, 2]))
    ...     read_features(path, needs=("ids",)).ids.tolist()
    [1, 2]
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path} must be a {', '.join(SUFFIXES)} file, received suffix {path.suffix!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    try:
        arrays = _READERS[path.suffix](path, ("features", *names))
    except MissingExtraError:
        raise
    except Exception as error:  # damaged files raise nearly everything: KeyError, TokenError, struct.error, ...
        words = _reason(error)
        if isinstance(error.__cause__, pickle.UnpicklingError):
            words = "it holds pickled objects, which are never loaded, or is damaged; save one plain tensor instead"
        raise ValueError(f"{path} cannot be read as {path.suffix}: {words}") from error
    main = "parts" if "parts" in names and "parts" in arrays and "features" not in arrays else "features"
    for name in (main, *needs):
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            remedy = f"store it under that name, as in np.savez(..., {name}=...)"
            if path.suffix in (".npy", ".pt"):
                remedy = f"a {path.suffix} file holds features only, use .npz: np.savez(..., features=..., {name}=...)"
            raise ValueError(f"{path} must hold an array {name!r}, it holds: {held}; {remedy}")
    taken = {name: arrays[name] for name in ("features", *names) if name in arrays}
    if is_tensor(paths := taken.get("paths")) or getattr(paths, "dtype", np.dtype(object)).kind != "U":
        taken.pop("paths", None)
    for name, axes in (("features", "(N, D)"), ("parts", "(N, P, D)")):  # before the labels, which their rows count
        if name in taken and taken[name].ndim != axes.count(",") + 1:
            shape = tuple(taken[name].shape)
            words = f"{path}: {name} must have shape {axes}, one row for each image, received {shape}"
            if name == "features" and len(shape) == 3 and min(shape) > 1:  # flattening them would do harm
                words += "; part features (N, P, D) go under the name 'parts', as in np.savez(..., parts=...)"
            raise ValueError(words)
    n = len(taken[main])
    if "parts" in taken and len(taken["parts"]) != n:
        raise ValueError(f"{path}: parts must have a row for each of the {n} features, received {len(taken['parts'])}")
    for name, owner in _OWNERS.items():
        if name in taken and owner not in taken:
            allowed = ", ".join(map(repr, PART_NAMES))
            raise ValueError(f"{path} holds {name!r} but no {owner!r}; the arrays of part features are {allowed}")
    for name in set(LABELS) & taken.keys():
        taken[name] = _take_labels(taken[name], n, main, f"{path}: {name}")
    return FeatureFile(path, **taken)


def _take_labels(labels: Any, rows: int, main: str, name: str) -> Any:
    """Labels as (N,) integers or strings in their container; ValueError with the remedy for what is no label."""
    shape = tuple(labels.shape)
    if labels.dtype.is_floating_point if is_tensor(labels) else labels.dtype.kind == "f":
        floats = (torch if is_tensor(labels) else np).finfo(labels.dtype)
        exact, dtype = min(int(2 / floats.eps), 2**63 - 1), floats.dtype  # up to there they tell labels apart
        values = np.ravel(labels.double().numpy() if is_tensor(labels) else labels)
        wrong = np.flatnonzero(~((values == np.floor(values)) & (np.abs(values) <= exact)))
        if len(wrong):
            value, row = values[wrong[0]], wrong[0]
            why = f"; {dtype} cannot hold all whole numbers beyond {exact}" if exact < abs(value) < np.inf else ""
            raise ValueError(
                f"{name} must be integers or strings, received {value} in row {row}{why}; "
                "store them as int64 or as strings"
            )
        labels = labels.long() if is_tensor(labels) else labels.astype(np.int64)
    if shape in ((1, rows), (rows, 1)):
        labels = labels.reshape(-1)
    try:
        take_labels(labels, rows, name)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{error}; store one integer or string for each row of {main!r}") from error
    return labels


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
        raise ValueError(_reason(error)) from error


def _reason(error: Exception) -> str:
    """In one line why a file cannot be read; an error that is not ours with its class."""
    words = one_line(error, 300)
    return words if type(error) is ValueError else f"{type(error).__name__}: {words}"


def _read_npz(path: Path, names: tuple[str, ...]) -> dict[str, Any]:
    with path.open("rb") as stream:
        _check_start(stream, (b"PK\x03\x04", b"PK\x05\x06"), "not a zip archive")
        with np.load(stream, allow_pickle=False) as archive:
            if twice := {name for name in archive.files if name in names and archive.files.count(name) > 1}:
                raise ValueError(f"it holds {', '.join(sorted(twice))} twice")
            return {name: _take_member(archive, name) if name in names else None for name in archive.files}


def _take_member(archive: Mapping[str, Any], name: str) -> Any:
    try:
        array = _load(lambda: archive[name], f", as {name!r}")
    except ValueError:
        if name == "paths":  # nothing depends on them, and many programs keep objects under that name
            return None
        raise
    if not isinstance(array, np.ndarray):  # numpy gives back the bytes of any other member
        raise ValueError(f"{name!r} in it is not a numpy array")
    return array


def _read_npy(path: Path, _: tuple[str, ...]) -> dict[str, Any]:
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


def _read_safetensors(path: Path, _: tuple[str, ...]) -> dict[str, Any]:
    tensors: dict[str, Any] = read_tensors(path)
    if len(tensors) == 1 and not {"features", "parts"} & tensors.keys():
        return {"features": next(iter(tensors.values()))}
    return tensors


def _read_pt(path: Path, _: tuple[str, ...]) -> dict[str, Any]:
    tensor = read_tensors(path)
    if not is_tensor(tensor):
        raise ValueError(f"it must hold one plain tensor, it holds a {type(tensor).__name__}")
    return {"features": tensor}


def _check_start(stream: BinaryIO, starts: tuple[bytes, ...], otherwise: str) -> None:
    """Raise ValueError unless the file begins with one of `starts`; the readers take other files for pickles."""
    if not stream.read(8).startswith(starts):
        raise ValueError(otherwise)
    stream.seek(0)


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt}


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """A path that may be written: known suffix, existing folder, no file in the way unless `overwrite`.

    What killed writers left in that folder is removed, so that its room serves the next one.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output {path} must be a {', '.join(SUFFIXES)} file, received suffix {path.suffix!r}")
    if not path.parent.is_dir():
        raise ValueError(f"output {path} must be in an existing folder, {path.parent} is none")
    clear_leftovers(path.parent)
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"output {path} exists already; name another or pass --overwrite")
    if path.suffix == ".safetensors":
        require("safetensors.torch", "ipg", f"writing {path.name}")
    return path


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write named arrays, whole or not at all: the result first, which is all that a file for one array gets.

    Parameters
    ----------
    path : path
        Its suffix decides the format.
    arrays : mapping of str to numpy array or torch tensor
    overwrite : bool
        Replace an existing file.

    Returns
    -------
    pathlib.Path
        The file written.

    Raises
    ------
    ValueError, TypeError, OSError
        As `check_output` and `pose2id.atomic.write_file`; for bfloat16 in a numpy format, and for arrays of objects,
        which would be pickled.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from pose2id.files import read_features, write_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = write_arrays(Path(folder, "query.npz"), {"features": np.eye(2, 3), "ids": np.array([7, 8])})
    ...     read_features(path).ids
    array([7, 8])
    """
    path = check_output(path, overwrite=overwrite)
    with write_file(path, overwrite=overwrite) as temporary:
        _write(temporary, arrays)
    return path


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{name: _as_numpy(array, name) for name, array in arrays.items()})
        return
    name, first = next(iter(arrays.items()))
    if path.suffix == ".npy":
        np.save(path, _as_numpy(first, name), allow_pickle=False)
        return
    try:
        if path.suffix == ".pt":
            torch.save(_as_tensor(first, name), path)
            return
        save = require("safetensors.torch", "ipg", f"writing {path.name}").save_file
        numbers = {name: array for name, array in arrays.items() if is_tensor(array) or array.dtype.kind in "fiub"}
        save({name: _as_tensor(array, name) for name, array in numbers.items()}, path)  # the format has no strings
    except (OSError, MissingExtraError, ValueError, TypeError):
        raise
    except Exception as error:  # for a full disk, torch raises RuntimeError and safetensors an error of its own
        raise OSError(str(error)) from error


def _as_numpy(array: Any, name: str) -> Any:
    if not is_tensor(array):
        if array.dtype.hasobject:
            if array.dtype.kind == "T":  # numpy's strings of variable width
                return np.asarray(array.tolist(), dtype=str)
            raise TypeError(f"{name} holds objects, which could only be pickled; convert to numbers or strings first")
        return array
    if array.dtype == torch.bfloat16:
        raise ValueError(f"{name} is bfloat16, which numpy files cannot hold; write .safetensors or .pt")
    return take_tensor(array, name).cpu().numpy()


def _as_tensor(array: Any, name: str) -> Any:
    """A contiguous tensor on the CPU that holds nothing else; torch has one byte order only."""
    if is_tensor(array):
        return take_tensor(array, name).cpu().clone(memory_format=torch.contiguous_format)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))
