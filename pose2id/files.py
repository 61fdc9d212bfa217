"""Feature files: read with every check, written whole or not at all.

| suffix         | read                                                             | written                       |
|----------------|------------------------------------------------------------------|-------------------------------|
| `.npz`         | `features`, optionally `ids`, `cams`, `generated`                | the same names, or the result |
| `.npy`         | the features alone                                               | the result alone              |
| `.safetensors` | as `.npz`, or a single tensor of any name; extra `ipg`           | as `.npz`                     |
| `.pt`          | one plain tensor, the features alone                             | the result alone              |

Nothing pickled is ever loaded.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pose2id.arrays import is_tensor
from pose2id.errors import require

SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")
NAMES = ("features", "ids", "cams", "generated")


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """What a feature file holds; everything but `features` may be None."""

    path: Path
    features: Any
    ids: Any = None
    cams: Any = None
    generated: Any = None


def read_features(path: str | os.PathLike[str], needs: tuple[str, ...] = ()) -> FeatureFile:
    """Read a feature file.

    Parameters
    ----------
    path : path
        `.npz`, `.npy`, `.safetensors` or `.pt`; see the table above.
    needs : tuple of str
        Names beside "features" that must be there: of "ids", "cams", "generated".

    Returns
    -------
    FeatureFile
        numpy arrays, or torch tensors for `.safetensors` and `.pt`.

    Raises
    ------
    ValueError
        For an unknown suffix, a missing name, or a file that is damaged or holds pickled objects.
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
        arrays = _READERS[path.suffix](path)
    except (
        pickle.UnpicklingError,
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        words = " ".join(str(error).split())
        if "pickle" in words.lower() or "weights_only" in words.lower():
            raise ValueError(
                f"{path} holds pickled objects, which are never loaded; save plain arrays instead"
            ) from None
        raise ValueError(f"{path} cannot be read as {path.suffix}: {words[:200]}") from error
    for name in ("features", *needs):
        if name not in arrays:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"{path} must hold an array {name!r}, it holds: {held}")
    return FeatureFile(path, **{name: arrays[name] for name in NAMES if name in arrays})


def _read_npz(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        if stream.read(2) != b"PK":
            raise ValueError("not a zip archive")
    with np.load(path, allow_pickle=False) as archive:
        wanted = [name for name in archive.files if name in NAMES]
        return {name: archive[name] for name in wanted} | dict.fromkeys(set(archive.files) - set(NAMES))


def _read_npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        if stream.read(6) != b"\x93NUMPY":
            raise ValueError("not a numpy array file")
    return {"features": np.load(path, allow_pickle=False)}


def _read_safetensors(path: Path) -> dict[str, Any]:
    load = require("safetensors.torch", "ipg", f"reading {path.name}").load_file
    try:
        tensors: dict[str, Any] = load(path)
    except Exception as error:  # the package has an error class of its own
        raise ValueError(str(error)) from error
    if "features" not in tensors and len(tensors) == 1:
        return {"features": next(iter(tensors.values()))}
    return tensors


def _read_pt(path: Path) -> dict[str, Any]:
    import torch

    tensor = torch.load(path, map_location="cpu", weights_only=True)
    if not is_tensor(tensor):
        raise ValueError(f"it must hold one plain tensor, it holds a {type(tensor).__name__}")
    return {"features": tensor}


_READERS = {".npz": _read_npz, ".npy": _read_npy, ".safetensors": _read_safetensors, ".pt": _read_pt}


def check_output(path: str | os.PathLike[str], *, overwrite: bool) -> Path:
    """A path that may be written: known suffix, existing folder, no file in the way unless `overwrite`."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"output {path} must be a {', '.join(SUFFIXES)} file, received suffix {path.suffix!r}")
    if not path.parent.is_dir():
        raise ValueError(f"output {path} must be in an existing folder, {path.parent} is none")
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"output {path} exists already; name another or pass --overwrite")
    if path.suffix == ".safetensors":
        require("safetensors.torch", "ipg", f"writing {path.name}")
    return path


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any], *, overwrite: bool = False) -> Path:
    """Write named arrays, the result first; a file for one array gets the first only.

    The file is written under a temporary name in the same folder and renamed when it is complete, so a failure
    leaves an existing file as it was.

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
    ValueError
        When the file exists and `overwrite` is False, for an unknown suffix or a missing folder, or for bfloat16
        in a numpy format.
    """
    path = check_output(path, overwrite=overwrite)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        _write(Path(temporary), arrays)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)  # a temporary file is private, a result is not
        Path(temporary).replace(check_output(path, overwrite=overwrite))
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    import torch

    first = next(iter(arrays.values()))
    if path.suffix in (".npz", ".npy"):
        plain = {name: _as_numpy(array, name) for name, array in arrays.items()}
        if path.suffix == ".npz":
            np.savez(path, **plain)
        else:
            np.save(path, next(iter(plain.values())), allow_pickle=False)
        return
    tensor = first if is_tensor(first) else torch.from_numpy(np.ascontiguousarray(first))
    if path.suffix == ".pt":
        torch.save(tensor, path)
        return
    save = require("safetensors.torch", "ipg", f"writing {path.name}").save_file
    tensors = {
        name: a if is_tensor(a) else torch.from_numpy(np.ascontiguousarray(a))
        for name, a in arrays.items()
        if is_tensor(a) or np.asarray(a).dtype.kind in "fiu"
    }  # the format has no strings
    save({name: tensor.contiguous() for name, tensor in tensors.items()}, path)


def _as_numpy(array: Any, name: str) -> Any:
    import torch

    if not is_tensor(array):
        return array
    if array.dtype == torch.bfloat16:
        raise ValueError(f"{name} is bfloat16, which numpy files cannot hold; write .safetensors or .pt")
    return array.cpu().numpy()
