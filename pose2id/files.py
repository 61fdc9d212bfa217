"""Feature files: read with every check, never as code, by `pose2id.formats`; written whole or not at all.

| suffix         | read                                                             | written                       |
|----------------|------------------------------------------------------------------|-------------------------------|
| `.npz`         | `features` or `parts`, and what else `NAMES` has                 | the same names, or the result |
| `.npy`         | the features alone                                               | the result alone              |
| `.safetensors` | as `.npz`, or a single tensor of any name; extra `ipg`           | as `.npz`                     |
| `.pt`, `.pth`  | as `.safetensors`: a dictionary of plain tensors, or one tensor  | the result alone, as `.pt`    |
| `.mat`         | as `.npz`; MATLAB's versions 5 to 7                              | never                         |

A file may hold both sides, queries and gallery: its names begin with `query_` and `gallery_` then. `f`, `label` and
`cam` after that stand for `features`, `ids` and `cams`, as programs write them that descend from
Person_reID_baseline_pytorch.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose2id.atomic import clear_leftovers, write_file
from pose2id.errors import MissingExtraError, nearest, require
from pose2id.formats import READERS, SIDES, explain, read_tensors
from pose2id.labels import take_stored_labels
from pose2id.validation import check_choice, is_tensor, take_tensor

__all__ = [
    "LABELS",
    "NAMES",
    "PART_NAMES",
    "SIDES",
    "SUFFIXES",
    "FeatureFile",
    "check_output",
    "read_features",
    "read_tensors",
    "write_arrays",
]

SUFFIXES = (".npz", ".npy", ".safetensors", ".pt")
"""Of files that are written; read are `.pth` and `.mat` files too."""
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
_SHORT = {"f": "features", "label": "ids", "cam": "cams"}
"""What else they are called after that."""
_TOLD = 10
"""How many names an error lists."""


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
        How well each part is seen. Integers 0 and 1 in a file come out as bools.
    generated_parts : (N, M, P, D) array, optional
        Parts of generated images.
    generated_visibility : (N, M, P) bools or floats, optional
        How well each of these is seen.
    others : tuple of str
        Names of arrays that the file holds and that none of these is.
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
    others: tuple[str, ...] = ()


def read_features(
    path: str | os.PathLike[str],
    needs: tuple[str, ...] = (),
    *,
    names: tuple[str, ...] = NAMES,
    side: str | None = None,
) -> FeatureFile:
    """Read a feature file.

    Labels are also taken as other programs store them: `ids` and `cams` of shape (1, N) or (N, 1), and whole numbers as
    floats, come out as (N,) integers.

    Parameters
    ----------
    path : path
        `.npz`, `.npy`, `.safetensors`, `.pt`, `.pth` or `.mat`; the table at the head of this module says what each
        holds.
    needs : tuple of str
        Names that must be there, such as "ids"; one of "features" and "parts" must be anyway.
    names : tuple of str
        What to take from the file beside the features; all else stays unread and unchecked. Without "parts" there
        must be features.
    side : {"query", "gallery"}, optional
        Which one to take of a file that holds both, such as `pytorch_result.mat` with `query_f`, `query_label`,
        `query_cam`, `gallery_f` and so on. Files of one set, without such names, are read as they are.

    Returns
    -------
    FeatureFile
        numpy arrays, or torch tensors for `.safetensors`, `.pt` and `.pth`.

    Raises
    ------
    ValueError
        For an unknown suffix, a missing name, features or parts of another shape, labels that are none, a file that
        holds both sides and no `side`, or one that is damaged or holds pickled objects.
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
    if path.suffix not in READERS:
        raise ValueError(f"{path} must be a {', '.join(READERS)} file, received suffix {path.suffix!r}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    sides = SIDES if side is None else (check_choice(side, "side", SIDES),)
    spelled = {one: _spell(one, ("features", *names)) for one in sides}
    try:
        held = READERS[path.suffix](path, {"features", *names}.union(*spelled.values()))
    except MissingExtraError:
        raise
    except Exception as error:  # damaged files raise nearly everything: KeyError, TokenError, struct.error, ...
        words = explain(error)
        if isinstance(error.__cause__, pickle.UnpicklingError):
            words = (
                "it holds pickled objects, which are never loaded, or is damaged; save one plain tensor instead, or "
            )
            words += "a dictionary of them (numpy arrays by torch.from_numpy)"
        raise ValueError(f"{path} cannot be read as {path.suffix}: {words}") from error
    arrays = _take_side(path, held, spelled)
    main = "parts" if "parts" in names and "parts" in arrays and "features" not in arrays else "features"
    for name in (main, *needs):
        if name not in arrays:
            raise ValueError(f"{path} must hold an array {name!r}, {_tell_missing(path.suffix, name, held)}")
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
    for name in {"visibility", "generated_visibility"} & taken.keys():
        taken[name] = _take_visibility(taken[name], f"{path}: {name}")
    remedy = f"store one integer or string for each row of {main!r}"
    for name in set(LABELS) & taken.keys():
        taken[name] = take_stored_labels(taken[name], n, f"{path}: {name}", remedy)
    known = {*NAMES}.union(*(_spell(one, NAMES) for one in SIDES))
    return FeatureFile(path, **taken, others=tuple(name for name in held if name not in known))


def _spell(side: str, names: Iterable[str]) -> dict[str, str]:
    """What the arrays of one side are called in a file that holds both, each with our name for it."""
    wanted = set(names)
    words = {name: name for name in NAMES} | _SHORT
    return {f"{side}_{word}": name for word, name in words.items() if name in wanted}


def _take_side(path: Path, held: Mapping[str, Any], spelled: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """The arrays by our names: those of one of the sides, unless the file is of one set."""
    if not {"features", "parts"}.isdisjoint(held):
        return dict(held)
    there = {side: names for side, names in spelled.items() if not names.keys().isdisjoint(held)}
    other = [side for side in SIDES if side not in spelled and not _spell(side, NAMES).keys().isdisjoint(held)]
    if other and not there:
        raise ValueError(
            f"{path} holds the {other[0]}, and no {next(iter(spelled))}: {', '.join(sorted(held)[:_TOLD])}"
        )
    if len(there) > 1:
        raise ValueError(f"{path} holds two sets, {' and '.join(SIDES)}; say which to take: --side, or side= in Python")
    arrays: dict[str, Any] = {}
    for word, name in next(iter(there.values()), {}).items():
        if word in held:
            if name in arrays:
                raise ValueError(f"{path} holds {name} twice, under several names, one of them {word}; leave one out")
            arrays[name] = held[word]
    return arrays or dict(held)


def _take_visibility(array: Any, name: str) -> Any:
    """Integers 0 and 1 as bools: other programs store these so, and MATLAB's logical arrays are read as such."""
    if is_tensor(array):
        array = take_tensor(array, name)
        if array.dtype == torch.bool or array.is_floating_point() or array.is_complex():
            return array
        array = array.long()  # torch compares no uint16
    elif array.dtype.kind not in "iu":
        return array
    other = array[(array != 0) & (array != 1)]
    if len(other):
        raise ValueError(
            f"{name} must hold bools, 0 and 1, or floats from 0 to 1, received the integer {int(other[0])}"
        )
    return array == 1


def _tell_missing(suffix: str, name: str, held: Collection[str]) -> str:
    """What a file holds instead of an array, and what to do about it."""
    names = sorted(held)
    listed = ", ".join(names[:_TOLD]) or "nothing"
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    near = nearest(name, names, likeness=0.7)
    meant = f"is {near!r} meant? " if near else ""
    remedy = f"{meant}store it under that name, as in np.savez(..., {name}=...)"
    if suffix == ".mat":
        remedy = f"{meant}store it under that name"
    if suffix in (".pt", ".pth"):
        remedy = f"{meant}store it under that name, as in torch.save({{..., {name!r}: ...}}, ...)"
    if suffix in (".npy", ".pt", ".pth") and names == ["features"]:
        remedy = f"a {suffix} file holds features only, use .npz: np.savez(..., features=..., {name}=...)"
        if name in ("ids", "cams"):
            remedy += f"; or give a file of {name}, text, .csv or .npy (--help has the option)"
    if name in ("ids", "cams") and "paths" in held:  # as `pose2id extract` writes them
        remedy += "; or extract with --names or --dataset"
    return f"it holds: {listed}{more}; {remedy}"


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
