"""What arguments must be: counts, numbers, flags, choices and labels. Nothing here imports torch."""

from __future__ import annotations

import math
import numbers
import operator
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pose2id.errors import suggest

if TYPE_CHECKING:
    import torch

    Labels = Sequence[int] | Sequence[str] | npt.NDArray[Any] | torch.Tensor


JUNK = -1
"""The label of what belongs to nobody, as Market-1501 and MARS have it; as a string "-1"."""


def check_count(value: object, name: str, minimum: int, maximum: int | None = None) -> int:
    """A real integer (numpy's included, bool excluded) from `minimum` to `maximum`; None: to what arrays have rows."""
    if isinstance(value, bool | np.bool_) or "bool" in str(getattr(value, "dtype", "")):
        raise TypeError(f"{name} must be an integer >= {minimum}, received the bool {value}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be an integer >= {minimum}, received {value!r}") from None
    if minimum <= number <= (2**31 - 1 if maximum is None else maximum):
        return number
    limit = "below 2**31" if maximum is None else f"from {minimum} to {maximum}"
    raise ValueError(f"{name} must be an integer {f'>= {minimum}' if number < minimum else limit}, received {number}")


def check_number(value: object, name: str, low: float = 0.0, high: float = math.inf) -> float:
    """A finite real number in [low, high]."""
    limit = f" >= {low:g}" if low > -math.inf else ""
    allowed = f"a finite number{limit}" if high == math.inf else f"a number from {low:g} to {high:g}"
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be {allowed}, received {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number) or not low <= number <= high:
        raise ValueError(f"{name} must be {allowed}, received {number}")
    return number


def check_flag(value: object, name: str) -> bool:
    """A plain bool."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, received {value!r}")
    return bool(value)


def check_choice(value: object, name: str, allowed: tuple[str, ...]) -> str:
    """One of the `allowed` names."""
    if not isinstance(value, str) or value not in allowed:
        wrong = ValueError if isinstance(value, str) else TypeError
        choices = ", ".join(map(repr, allowed))
        raise wrong(f"{name} must be one of {choices}, received {value!r}{suggest(value, allowed)}")
    return value


def check_path(path: object, name: str) -> Path:
    """A path; ValueError for the empty text, which systems take for the working directory."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} must be a path, received {type(path).__name__}")
    if not os.fspath(path):
        raise ValueError(f"{name} must be a path, received an empty text; write '.' for the working directory")
    return Path(path)


def take_path(path: str | os.PathLike[str], name: str) -> Path:
    """A path, with the home folder for a `~` at its beginning; ValueError where there is no such user."""
    try:
        return check_path(path, name).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{name} {os.fspath(path)!r} begins with the home of a user that is not known here") from error


def is_tensor(value: object) -> bool:
    """Whether `value` is a torch tensor, without importing torch for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def take_tensor(tensor: Any, name: str) -> Any:
    """A torch tensor as plain numbers in memory, detached; TypeError for every kind that torch's functions stumble on.

    What is not known here is told by its data: sparse, traced, fake and masked tensors have none of their own.
    """
    torch = sys.modules["torch"]
    if tensor.is_nested:
        raise TypeError(f"{name} must be one dense tensor, received a nested tensor; pad its parts or concatenate them")
    if tensor.layout is not torch.strided:
        raise TypeError(f"{name} must be a dense tensor, received layout {tensor.layout}; call .to_dense() first")
    if tensor.is_quantized:
        raise TypeError(f"{name} must not be quantized, received dtype {tensor.dtype}; call .dequantize() first")
    if tensor.device.type == "meta":
        raise ValueError(f"{name} must be on a device that holds data, such as cpu or cuda, received device meta")
    try:
        plain = tensor.detach()
        # Other accelerators lack float64, which verification needs; their arrays are worked on by the CPU.
        plain = plain if plain.device.type in ("cpu", "cuda") else plain.cpu()
        empty = not plain.numel() or not plain.data_ptr()
    except (RuntimeError, ValueError, NotImplementedError):
        plain, empty = tensor, True
    if empty and (plain is tensor or plain.numel()):
        kind = type(tensor).__name__
        raise TypeError(f"{name} must be a plain tensor with data of its own, received {kind} without; pass its values")
    return plain.resolve_conj().resolve_neg()


def take_numbers(array: Any, name: str) -> npt.NDArray[Any]:
    """Real numbers as a numpy array, from a tensor (then float64 or integers), an array, or a sequence."""
    if is_tensor(array):
        tensor = take_tensor(array, name)
        if tensor.dtype.is_floating_point:
            return tensor.double().cpu().numpy()  # type: ignore[no-any-return]
        if tensor.dtype not in _whole_dtypes():
            raise TypeError(f"{name} must hold real numbers, received dtype {tensor.dtype}")
        return tensor.cpu().numpy()  # type: ignore[no-any-return]
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill or drop the masked entries first")
    numbers = np.asarray(array)
    if numbers.dtype.kind not in "fiu":
        raise TypeError(f"{name} must hold real numbers, received dtype {numbers.dtype}")
    return numbers


def take_labels(labels: Any, n: int, name: str) -> npt.NDArray[Any]:
    """Labels as a numpy array of n integers (int64) or n strings, from a sequence, a numpy array or a tensor."""
    dtype = getattr(labels, "dtype", None)
    if is_tensor(labels):
        if dtype not in _whole_dtypes():
            raise TypeError(f"{name} must be integers or strings, received dtype {dtype}; convert with .long()")
        array: npt.NDArray[Any] = take_tensor(labels, name).cpu().numpy()
    elif isinstance(labels, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill or drop the masked entries first")
    elif isinstance(labels, np.ndarray | memoryview):
        array = np.asarray(labels)  # of the plain class: some of numpy's compare strings without their last blanks
    else:
        array = _label_array(labels, name)
    if array.dtype.kind in "OT":
        array = _label_array(array.tolist(), name)
    if array.dtype.kind not in "iuU" and array.size:
        raise TypeError(
            f"{name} must be integers or strings, received dtype {dtype or array.dtype}; convert with .astype(int)"
        )
    if array.ndim != 1 or len(array) != n:
        raise ValueError(f"{name} must have shape ({n},), one label per row, received {array.shape}")
    if array.dtype.kind == "U":
        return array
    if array.dtype.kind == "u" and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ValueError(f"{name} must fit into int64, received {int(array.max())}")
    return array.astype(np.int64)


def _whole_dtypes() -> set[Any]:
    names = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64")
    return {getattr(sys.modules["torch"], name) for name in names}


def _label_array(labels: Any, name: str) -> npt.NDArray[Any]:
    """A sequence as an array, refusing what numpy would silently turn into something else (1 and "1")."""
    ordered = hasattr(labels, "__len__") and hasattr(labels, "__getitem__") and hasattr(labels, "__iter__")
    if not ordered or isinstance(labels, str | bytes | Mapping):
        raise TypeError(f"{name} must be a sequence of integers or strings, received {type(labels).__name__}")
    kinds = {str if isinstance(label, str) else type(label) for label in labels}
    allowed = all(kind is str or (issubclass(kind, int | np.integer) and kind is not bool) for kind in kinds)
    if not allowed or (str in kinds and len(kinds) > 1):
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TypeError(f"{name} must be all integers or all strings, received a sequence of {found}")
    if str in kinds:
        words = [str.__str__(label) for label in labels]  # numpy takes a member of an enumeration by its name, cut
        cut = next((word for word in words if word.endswith("\0")), None)
        if cut is not None:
            raise ValueError(f"{name} must not end with NUL, which numpy's strings drop, received {cut!r}; strip it")
        return np.asarray(words)
    try:
        return np.asarray([int(label) for label in labels], dtype=np.int64)  # numpy makes floats of some mixtures
    except OverflowError:
        raise ValueError(f"{name} must fit into int64, received larger integers") from None


def equal_label(labels: npt.NDArray[Any], label: int) -> npt.NDArray[np.bool_]:
    """Mark the labels, integers or strings, that are this number."""
    return np.asarray(labels == (str(label) if labels.dtype.kind == "U" else label))


def encode_labels(labels: Sequence[npt.NDArray[Any]], names: tuple[str, str]) -> list[npt.NDArray[np.int64]]:
    """Number the distinct labels of several arrays jointly, 0, 1, ...; integers and strings do not mix."""
    kinds = {array.dtype.kind == "U" for array in labels if array.size}
    if len(kinds) > 1:
        raise TypeError(
            f"{names[0]} and {names[1]} must both be integers or both be strings, "
            f"received {labels[0].dtype} and {labels[1].dtype}"
        )
    _, codes = np.unique(np.concatenate([array for array in labels if array.size] or [labels[0]]), return_inverse=True)
    ends = np.cumsum([array.size for array in labels])[:-1]
    return [part.astype(np.int64) for part in np.split(codes.reshape(-1), ends)]
