"""The boundary: recognise numpy and torch arrays, check them, convert them, give back the same kind.

Every public function takes its arrays in here and hands its result back through `Kind.give_back`; inside the
package there are only torch tensors. A numpy array becomes a tensor that shares its memory, so nothing past this
module may write to what it was given; only `take_output` gives a tensor to write to. A memory-mapped file is such an
array and is read a block at a time; only one that torch cannot share (foreign byte order, negative strides) is copied.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pose2id.threads import refit_threads
from pose2id.validation import is_tensor, take_tensor

if TYPE_CHECKING:
    Array = npt.NDArray[Any] | torch.Tensor

ArrayT = TypeVar("ArrayT", bound="npt.NDArray[Any] | torch.Tensor")

BLOCK_ELEMENTS = 2**20
"""Elements of one working block: rows are converted, checked and summed so many at a time, to stay in the caches."""
CACHE_ELEMENTS = 2**18
"""Elements of a block that many steps go over: its float64 copies (2 MB each) stay in the caches."""
CUDA_ELEMENTS = 2**24
"""Elements of any block on a GPU, where each step of each block is a launch of its own, about as long as a step over
2**20 elements; float64 copies of a block are 128 MB. Estimated from data sheets, see benchmarks/gpu_first_look.py."""


@dataclass(frozen=True)
class Kind:
    """What the caller's array was, so that the result can be the same: container, dtype, device."""

    container: str
    dtype: Any
    device: Any

    def give_back(self, tensor: torch.Tensor, dtype: torch.dtype | None = None) -> Any:
        """Turn `tensor` into the caller's container on its device, in its dtype or in `dtype` when one is named."""
        if self.container == "torch":
            return tensor.to(device=self.device, dtype=dtype or self.dtype)
        array = tensor.cpu().numpy() if dtype is None else tensor.to(dtype).cpu().numpy()
        return array.astype(self.dtype, copy=False) if dtype is None else array


def work_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower: the dtype of distances and of working copies."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def elements_at_once(device: torch.device, on_cpu: int) -> int:
    """How many elements to work on at once: what was measured for the caches of a CPU, or `CUDA_ELEMENTS`."""
    return CUDA_ELEMENTS if device.type == "cuda" else on_cpu


def rows_at_once(rows: torch.Tensor, on_cpu: int) -> int:
    """How many of `rows` (N, ...) make as many elements as `elements_at_once`; at least one."""
    return max(1, elements_at_once(rows.device, on_cpu) // max(1, math.prod(rows.shape[1:])))


def cut(n: int, step: int) -> Iterator[slice]:
    """Slices of `step` that cover n rows; the last one may be shorter."""
    for start in range(0, n, step):
        refit_threads()
        yield slice(start, min(start + step, n))


def row_blocks(rows: torch.Tensor) -> Iterator[slice]:
    """Slices that cover `rows` (N, ...), for one step or two over each."""
    return cut(len(rows), rows_at_once(rows, BLOCK_ELEMENTS))


def cached_rows(rows: torch.Tensor) -> int:
    """How many of `rows` (N, D) to take for many steps over them."""
    return rows_at_once(rows, CACHE_ELEMENTS)


def cached_blocks(rows: torch.Tensor) -> Iterator[slice]:
    """Slices that cover `rows` (N, D), `cached_rows` each."""
    return cut(len(rows), cached_rows(rows))


PARTS_GO_TO = (
    "part features (N, P, D) are for pose2id.parts: centralize_parts, evaluate_parts, rerank_parts, part_neighbors, "
    "part_density"
)
FLOATS = "float16, bfloat16, float32 or float64 values"
_NUMBERS = {torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz}
_NUMBERS |= {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32}
_NUMBERS |= {torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64}


def take_array(array: Any, name: str, allowed: str = "real numbers of at most 64 bits") -> tuple[torch.Tensor, Kind]:
    """A tensor that shares memory with `array` where it can, and the kind to give back.

    Checks the container and that it holds numbers torch knows; `allowed` is what the error says.
    """
    if is_tensor(array):
        tensor = take_tensor(array, name)
        if array.dtype not in _NUMBERS:
            raise TypeError(f"{name} must hold {allowed}, received dtype {array.dtype}")
        return tensor, Kind("torch", array.dtype, array.device)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array; fill or drop the masked entries first")
    if not isinstance(array, np.ndarray):
        raise TypeError(
            f"{name} must be a numpy array or a torch tensor, received {type(array).__name__}; "
            "convert it, for instance with numpy.asarray(..., dtype=numpy.float32)"
        )
    kind = Kind("numpy", array.dtype, None)
    if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
        raise TypeError(f"{name} must hold {allowed}, received dtype {array.dtype}")
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if any(stride < 0 or stride % native.itemsize for stride in native.strides):
        native = native.copy(order="C")  # torch has no negative and no odd strides, of an empty array either
    if native.flags.writeable:
        return torch.from_numpy(native), kind
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")  # we never write to it
        return torch.from_numpy(native), kind


def take_floats(array: Any, name: str = "features", shape: str = "(N, D)") -> tuple[torch.Tensor, Kind]:
    """Check one array of features but for NaN and inf: float dtype, the rank of `shape`, at least one column."""
    tensor, kind = take_array(array, name, FLOATS)
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"{name} must hold {FLOATS}, received dtype {kind.dtype}; convert to float32 first")
    if tensor.ndim != shape.count(",") + 1:
        words = f"{name} must have shape {shape}, received {tuple(tensor.shape)}"
        if shape.count(",") == 1 and tensor.ndim == 3 and min(tensor.shape) > 1:  # flattening them would do harm
            words += f"; {PARTS_GO_TO}"
        raise ValueError(words)
    if tensor.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one column (D >= 1), received shape {tuple(tensor.shape)}")
    return tensor, kind


def take_features(array: Any, name: str = "features", shape: str = "(N, D)") -> tuple[torch.Tensor, Kind]:
    """Check one array of features: float dtype, the rank of `shape`, at least one column, finite values."""
    tensor, kind = take_floats(array, name, shape)
    check_finite(tensor, name)
    return tensor, kind


def check_finite(tensor: torch.Tensor, name: str, *, infinity: bool = False) -> bool:
    """Raise ValueError naming the first rows that hold NaN or inf; with `infinity` inf may stand there, -inf may not.

    Tells whether there is some.
    """
    if not tensor.dtype.is_floating_point:
        return False
    total = torch.zeros((), dtype=work_dtype(tensor.dtype), device=tensor.device)
    for block in row_blocks(tensor):
        total += tensor[block].sum(dtype=total.dtype)
    if bool(torch.isfinite(total)):  # then all entries are; asked once, since a GPU's host has to wait for it
        return False
    bad: list[int] = []
    found = False
    for block in row_blocks(tensor):
        if not all_finite(tensor[block]):
            wrong = ~torch.isfinite(tensor[block])
            if infinity:
                far = tensor[block].to(total.dtype) == torch.inf
                found, wrong = found or bool(far.any()), wrong & ~far
            bad += (wrong.flatten(1).any(dim=1).nonzero().flatten() + block.start).tolist()
    if bad:
        named = ", ".join(map(str, bad[:10])) + (", ..." if len(bad) > 10 else "")
        allowed, received = ("finite, or inf", "NaN or -inf") if infinity else ("finite", "NaN or inf")
        raise ValueError(
            f"{name} must be {allowed}, received {received} in {len(bad)} row(s): {named}; remove or repair these rows"
        )
    return found


def all_finite(block: torch.Tensor) -> bool:
    """Whether all entries are finite: they are if their sum is, which is ten times faster to see."""
    total = block.sum(dtype=work_dtype(block.dtype))
    return bool(torch.isfinite(total)) or bool(torch.isfinite(block).all())


def check_same_kind(first: Kind, second: Kind, names: tuple[str, str]) -> None:
    """Raise unless both arrays are of the same container and on the same device."""
    if first.container != second.container:
        raise TypeError(
            f"{names[0]} and {names[1]} must be of the same kind, received {first.container} and {second.container}; "
            "convert one of them"
        )
    if first.device != second.device:
        raise ValueError(
            f"{names[0]} and {names[1]} must be on the same device, received {first.device} and {second.device}; "
            "move one of them with .to(device)"
        )


def take_output(out: Any, rows: torch.Tensor, kind: Kind, inputs: Sequence[tuple[Any, torch.Tensor]]) -> torch.Tensor:
    """A tensor to write to that shares the memory of `out`: of the kind, shape and device of `rows`.

    `inputs` are arrays that must not be overwritten, each as the caller gave it and as it was taken.
    """
    of_numpy = kind.container == "numpy"
    dtype = kind.dtype.newbyteorder("=") if of_numpy else kind.dtype
    wanted = f"a {'numpy array' if of_numpy else 'torch tensor'} of dtype {dtype}, like features"
    if not (isinstance(out, np.ndarray) if of_numpy else is_tensor(out)):
        raise TypeError(f"out must be {wanted}, received {type(out).__name__}")
    if out.dtype != dtype:
        raise TypeError(f"out must be {wanted}, received dtype {out.dtype}")
    tensor, _ = take_array(out, "out")
    if tuple(out.shape) != tuple(rows.shape):
        raise ValueError(f"out must have the shape of features, {tuple(rows.shape)}, received {tuple(out.shape)}")
    if of_numpy and not out.flags.writeable:
        raise ValueError("out must be writable, received a read-only array; open a file with mode 'r+' or 'w+'")
    if not of_numpy and out.is_neg():
        raise ValueError(
            "out must be memory to write to, received a view of negated numbers; call .resolve_neg() first"
        )
    if not of_numpy and out.device != rows.device:
        raise ValueError(f"out must be where features are worked on, {rows.device}, received a tensor on {out.device}")
    (n, width), item = rows.shape, rows.element_size()
    strides = out.strides if of_numpy else tuple(step * item for step in out.stride())
    if (n and width > 1 and strides[1] != item) or (n > 1 and (strides[0] < width * item or strides[0] % item)):
        raise ValueError(f"out must hold its rows one after the other, in one piece each, received strides {strides}")
    for array, taken in inputs:
        shared = of_numpy and isinstance(array, np.ndarray) and np.may_share_memory(out, array)
        if shared or _overlap(tensor, taken) or _on_one_file(out, array):
            raise ValueError("out must not lie in the memory or file of features or generated; pass another array")
    return tensor


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether the memory from the first to the last entry of both has addresses in common."""
    first, start = one.data_ptr(), other.data_ptr()
    last, stop = (
        begin + sum((n - 1) * step for n, step in zip(rows.shape, rows.stride(), strict=True)) * rows.element_size()
        for begin, rows in ((first, one), (start, other))
    )
    return one.numel() > 0 and other.numel() > 0 and first <= stop and start <= last


def _on_one_file(one: Any, other: Any) -> bool:
    """Whether two arrays map one file, each for itself; within one mapping their addresses say what overlaps."""
    (path, mapping), (other_path, other_mapping) = _mapped_file(one), _mapped_file(other)
    if path is None or other_path is None or mapping is other_mapping:
        return False
    return path == other_path or (path.exists() and other_path.exists() and path.samefile(other_path))


def _mapped_file(array: Any) -> tuple[Path | None, object]:
    """The file behind an array, None without one, and the object that owns the array's memory."""
    name = None
    while isinstance(array, np.ndarray):
        name = name or getattr(array, "filename", None)
        array = array.base
    return (Path(name) if name else None), array
