"""A stand-in for a CUDA device: tensors that say `cuda:0`, hold their numbers on the CPU, and refuse what CUDA refuses.

The `device` fixture runs every test that takes it on this stand-in, so that code for GPUs is run where there is none::

    with standin():
        rows = torch.ones(3, 2, device="cuda")  # rows.is_cuda, rows.device == torch.device("cuda:0")
        rows + torch.ones(2)  # RuntimeError, as on a GPU: torch.ones without device=

``with standin() as counts`` also counts what decides, beside kernels, how fast code for GPUs is, see `Counts`.

**What it catches**, each kind with its faults, and the right way beside them, in `test_standin.py`:

- tensors that meet on two devices: operands, indices, masks, outputs, results of a factory without `device=`. Allowed
  as on CUDA: one number (0-dim) on the CPU beside others, indices on the CPU, copies;
- numpy on a CUDA tensor: `numpy()`, `numpy.asarray`, functions of numpy, DLPack;
- a generator of the CPU for random numbers on CUDA;
- devices that are not there, such as `cuda:1`;
- `torch._int_mm` beyond the limits of cuBLASLt: at least 17 rows, all other sizes multiples of 8, the left operand by
  rows and the right one by columns, a contiguous output;
- operators without a CUDA kernel: products of integers, `nonzero` of 2**31 entries or more;
- operators that CUDA refuses under `torch.use_deterministic_algorithms`: `kthvalue`, `median` along a dimension,
  `histc`, `put_`, `cumsum` of floats, `bincount` with weights;
- what it cannot play, so that nothing passes unseen: sparse tensors, in-place changes of shape.

**What it cannot prove.** Every number comes from the kernels of the CPU. Those of CUDA, their rounding, the order of
their additions, TF32, autocast, half precision, random numbers on the device, streams, memory, speed and more than one
device are not played: a green test says that tensors are where they must be, not that the code was tested on CUDA.

How it works: to torch's C++ a `StandinTensor` is an empty tensor on the device "meta", since a build for CPUs cannot
even index on "cuda". `_Operators` sees every operator that such tensors reach, checks it and runs it on the numbers on
the CPU; `_Functions` sees the Python functions whose C++ would look at the device first. While inside, "meta" means
the stand-in too. All this rests on private names of torch, so it is for the version of `constraints.txt` alone.
"""

import collections
import contextlib
import dataclasses
import functools
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def _operators(names):
    return {getattr(torch.ops.aten, name) for name in names.split()}


COPIES = _operators("_to_copy copy_")
TAKES_INDICES = _operators("index index_put index_put_ _index_put_impl_ _unsafe_index")
TAKES_NUMBERS = _operators("where masked_fill masked_fill_ fill fill_ index_fill index_fill_ lerp") | TAKES_INDICES
"""Where a 0-dim tensor of the CPU may stand beside those of CUDA, besides the pointwise operators."""
OF_FLOATS = _operators("mm addmm addmm_ bmm baddbmm baddbmm_ mv addmv dot vdot linear")
NO_KERNELS = _operators("detach lift_fresh alias empty empty_like empty_strided new_empty")
NEVER_DETERMINISTIC = _operators("kthvalue histc put_")


def reason_to_skip():
    """Why there is no stand-in here, if so: a real device, or another torch than the one it is written for."""
    if torch.cuda.is_available():
        return "there is a real CUDA device"
    pinned = next((line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch==")), "none")
    ours = torch.__version__.partition("+")[0]
    return None if pinned == f"torch=={ours}" else f"the stand-in is for {pinned}, not for torch {ours}"


@contextlib.contextmanager
def standin():
    """A machine with one CUDA device, for as long as it lasts."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_name": "stand-in",
        "synchronize": None,
        "_lazy_init": None,
        "set_device": None,
        "manual_seed_all": None,
        "get_rng_state": torch.zeros(0, dtype=torch.uint8),
        "set_rng_state": None,
        "empty_cache": None,
        "is_bf16_supported": True,
        "get_device_capability": (9, 0),
        "get_device_properties": mock.Mock(total_memory=2**33, multi_processor_count=1),
        "set_sync_debug_mode": None,
        "reset_peak_memory_stats": None,
        "memory_allocated": 0,
        "max_memory_allocated": 0,
    }
    with contextlib.ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, mock.Mock(return_value=answer)))
        group = torch._C._group_tensors_by_device_and_dtype
        stack.enter_context(mock.patch.object(torch._C, group.__name__, functools.partial(_group, group)))
        stack.enter_context(_Functions())
        yield stack.enter_context(_Operators()).counts


@dataclasses.dataclass
class Counts:
    """What ran on the stand-in so far: kernels that are launched, and waits of the host for the device.

    A launch is an operator that is no view. The host waits where it needs a number or size (`int(x)`, `nonzero`, masks
    as indices, `unique`, `bincount`), and for every copy between both: what `torch.cuda.set_sync_debug_mode` tells of.
    """

    launches: int = 0
    waits: int = 0
    lines: collections.Counter = dataclasses.field(default_factory=collections.Counter)  # of both, by line of pose2id

    def add(self, func, args, kwargs, *, copies):
        """Count one operator; `copies` if it leaves or reaches the device."""
        launched = not func.is_view and func.overloadpacket not in NO_KERNELS
        waited = copies or _waits(func, args, kwargs)
        self.launches += launched
        self.waits += waited
        frame = sys._getframe(2)
        while frame is not None and PACKAGE not in frame.f_code.co_filename:
            frame = frame.f_back
        place = f"{frame.f_code.co_filename.rpartition(PACKAGE)[2]}:{frame.f_lineno}" if frame else "elsewhere"
        self.lines["launches", place] += launched
        self.lines["waits", place] += waited

    def clear(self):
        """Begin anew."""
        self.launches = self.waits = 0
        self.lines.clear()

    def busiest(self, kind, count=8):
        """The lines with most "launches" or "waits", as text."""
        lines = [(line, number) for (of, line), number in self.lines.most_common() if of == kind and number]
        return "\n".join(f"{number:6} {line}" for line, number in lines[:count])


PACKAGE = "/pose2id/"


def _waits(func, args, kwargs):
    """Whether the host must know a number or a size before it goes on."""
    if func.overloadpacket in TAKES_INDICES:
        masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
        filled = len(args) > 2 and len(masks) == len(args[1]) == 1 and not args[2].ndim  # that is masked_fill_
        return bool(masks) and not filled
    if func.overloadpacket is torch.ops.aten.repeat_interleave:
        return kwargs.get("output_size") is None
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def _group(group, *args):
    """What optimisers ask in C++ for the device of tensors."""
    return {(CUDA if at.type == "meta" else at, dtype): found for (at, dtype), found in group(*args).items()}


class StandinTensor(torch.Tensor):
    """A tensor on the stand-in; `held` is the tensor on the CPU with its numbers and its strides."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} on a tensor of the stand-in, outside of it")

    device = property(lambda _: CUDA)
    is_cuda = property(lambda _: True)
    is_cpu = is_meta = property(lambda _: False)

    def __repr__(self, **_):
        return f"StandinTensor({self.held})"

    def get_device(self):
        return 0

    def data_ptr(self):
        return self.held.data_ptr()

    def tolist(self):
        return self.detach().cpu().tolist()

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. "
            "Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, *_, **__):
        return self.numpy()

    def __dlpack__(self, **_):
        raise BufferError("the stand-in has no CUDA memory to share")


class _Functions(TorchFunctionMode):
    """Python functions that look at the device, or make tensors on it, before any operator is called."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        instead = FUNCTIONS.get(func)
        return instead(func, *args, **kwargs) if instead else func(*args, **kwargs)


def _make(func, *args, device=None, **kwargs):
    """`torch.tensor` and its like, which move what they have read in C++, unseen by `_Operators`."""
    if device is None or torch.device(device).type != "cuda":
        return func(*args, **kwargs) if device is None else func(*args, device=device, **kwargs)
    needs_grad = kwargs.pop("requires_grad", False)
    return _move(None, func(*args, device="cpu", **kwargs), device).requires_grad_(needs_grad)


def _move(func, tensor, *args, copy=False, **kwargs):  # noqa: ARG001
    """`Tensor.to`."""
    if args and isinstance(args[0], torch.Tensor):
        args = args[0].device, args[0].dtype, *args[1:]
    device, dtype, _, layout = torch._C._nn._parse_to(*args, **kwargs)
    dtype, device = dtype or tensor.dtype, device or tensor.device
    if not copy and dtype == tensor.dtype and device.type == tensor.device.type and device.index in (None, 0):
        return tensor
    layout = layout or torch.preserve_format
    return torch.ops.aten._to_copy(tensor, dtype=dtype, device=device, memory_format=layout)


def _new_tensor(func, tensor, data, **kwargs):  # noqa: ARG001
    """`Tensor.new_tensor`."""
    return _make(torch.tensor, data, **{"dtype": tensor.dtype, "device": tensor.device} | kwargs)


def _index(func, tensor, at, *value):
    """`tensor[at]` and `tensor[at] = value`: lists become tensors where the indexed one is."""
    if isinstance(tensor, StandinTensor):
        parts = at if isinstance(at, tuple) else (at,)
        parts = tuple(
            _make(torch.tensor, part, device=CUDA) if isinstance(part, (list, np.ndarray)) else part for part in parts
        )
        at = parts if isinstance(at, tuple) else parts[0]
    return func(tensor, at, *value)


def _refuse_sparse(func, *args, device=None, **kwargs):
    if "cuda" in str(device) or any(isinstance(value, StandinTensor) for value in args):
        raise NotImplementedError("the stand-in has no sparse tensors")
    return func(*args, device=device, **kwargs)


FUNCTIONS = {
    torch.sparse_coo_tensor: _refuse_sparse,
    torch.sparse_csr_tensor: _refuse_sparse,
    torch.tensor: _make,
    torch.as_tensor: _make,
    torch.asarray: _make,
    torch.Tensor.to: _move,
    torch.Tensor.cuda: lambda func, tensor, device=CUDA, **_: _move(func, tensor, device),
    torch.Tensor.new_tensor: _new_tensor,
    torch.Tensor.__getitem__: _index,
    torch.Tensor.__setitem__: _index,
}


class _Operators(TorchDispatchMode):
    """Every operator that concerns the stand-in: checked, counted, then run on the CPU."""

    def __init__(self):
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        values = _flatten((args, kwargs), [])
        there = [value for value in values if isinstance(value, StandinTensor)]
        target = next((value for value in values if isinstance(value, torch.device)), None)
        onto = target is not None and target.type in ("cuda", "meta")
        if not there and not onto:
            return func(*args, **kwargs)
        _check(func, args, kwargs, values, target)

        leaves = target is not None and not onto
        if func.overloadpacket is torch.ops.aten.copy_:
            leaves = not isinstance(args[0], StandinTensor)
        arrives = func.overloadpacket in COPIES and not isinstance(
            args[func.overloadpacket is torch.ops.aten.copy_], StandinTensor
        )
        self.counts.add(func, args, kwargs, copies=leaves or arrives)
        known = {id(value.held): value for value in there}

        def take(value):
            if isinstance(value, StandinTensor):
                return value.held
            return torch.device("cpu") if onto and value is target else value

        args, kwargs = _map(take, (args, kwargs))
        result = RUNS_AS.get(func.overloadpacket, func)(*args, **kwargs)
        for value in there:  # numbers are shared, shapes are not
            if value.shape != value.held.shape or value.stride() != value.held.stride():
                raise NotImplementedError(f"the stand-in cannot play {func}: it changes a shape in place")

        def give_back(value):
            if leaves or not isinstance(value, torch.Tensor):
                return value
            if value.layout is not torch.strided:
                raise NotImplementedError(f"the stand-in cannot play {func}: it has no sparse tensors")
            return known[id(value)] if id(value) in known else StandinTensor(value)

        return _map(give_back, result)


def _multiply_codes(left, right, *, out=None):
    """Products of int8, for which CPUs without instructions for them take a hundred times as long; whole, so exact."""
    product = (left.double() @ right.double()).int()
    return product if out is None else out.copy_(product)


RUNS_AS = {torch.ops.aten._int_mm: _multiply_codes}


def _flatten(value, leaves):
    """The leaves of nested lists, tuples and dictionaries: all that operators take. That of torch is much slower."""
    if isinstance(value, (list, tuple, dict)):
        for part in value.values() if isinstance(value, dict) else value:
            _flatten(part, leaves)
    else:
        leaves.append(value)
    return leaves


def _map(change, value):
    """The same nest with each leaf changed."""
    if isinstance(value, dict):
        return {key: _map(change, part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_map(change, part) for part in value])
    return change(value)


def _check(func, args, kwargs, values, target):
    """Raise what CUDA would raise for an operator; `target` is the device it names, if any."""
    if target is not None and target.index:
        raise RuntimeError(f"CUDA error: invalid device ordinal: {target}")
    if target == torch.device("meta") and func.overloadpacket is torch.ops.aten.empty and 0 not in args[0]:
        raise NotImplementedError("the stand-in cannot play what C++ writes into a new tensor by itself")
    if any(isinstance(value, torch.Generator) and value.device.type == "cpu" for value in values):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if any(isinstance(value, torch.Tensor) and value.layout is not torch.strided for value in values):
        raise NotImplementedError(f"the stand-in cannot play {func}: it has no sparse tensors")
    _check_together(func, args, kwargs, values)
    _check_kernel(func.overloadpacket, args, kwargs)


def _check_together(func, args, kwargs, values):
    """Raise where tensors of the CPU meet those of CUDA, unless CUDA takes them."""
    operator = func.overloadpacket
    here = [value for value in values if isinstance(value, torch.Tensor) and not isinstance(value, StandinTensor)]
    if operator in COPIES or not here or not any(isinstance(value, StandinTensor) for value in values):
        return
    if operator in TAKES_INDICES and isinstance(args[0], StandinTensor):
        here = [value for value in here if not any(value is index for index in args[1])]
    numbers = operator in TAKES_NUMBERS or torch.Tag.pointwise in func.tags
    given = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
    written = [given.get(part.name) for part in func._schema.arguments if part.alias_info and part.alias_info.is_write]
    if any(value.ndim or not numbers or any(value is out for out in written) for value in here):
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"(when checking arguments of {func})"
        )


def _check_kernel(operator, args, kwargs):
    """Raise for what the kernels of CUDA refuse and those of the CPU take."""
    aten, first = torch.ops.aten, args[0] if args else None
    tensors = [value for value in args if isinstance(value, torch.Tensor)]
    if operator is aten._int_mm:
        _check_int_mm(*args, **kwargs)
    elif operator in OF_FLOATS and not all(value.is_floating_point() or value.is_complex() for value in tensors):
        raise RuntimeError(f'"addmm_cuda" not implemented for {first.dtype}')
    elif operator is aten.nonzero and first.numel() >= 2**31:
        raise RuntimeError("nonzero is not supported for tensors with more than INT_MAX elements")
    if torch.are_deterministic_algorithms_enabled() and (
        operator in NEVER_DETERMINISTIC
        or (operator in (aten.median, aten.nanmedian) and len(args) > 1)
        or (operator in (aten.cumsum, aten.cumsum_) and (kwargs.get("dtype") or first.dtype).is_floating_point)
        or (operator is aten.bincount and len(tensors) > 1)
    ):
        raise RuntimeError(f"{operator} does not have a deterministic implementation on CUDA")


def _check_int_mm(left, right, *, out=None):
    (m, k), n = left.shape, right.shape[1]
    if m <= 16:
        raise RuntimeError(f"self.size(0) needs to be greater than 16, but got {m}")
    if not k or not n or k % 8 or n % 8:
        raise RuntimeError(f"self.size(1) and mat2.size(1) need to be multiples of 8, but got {k} and {n}")
    if out is not None and not out.is_contiguous():
        raise RuntimeError("Expected result to be contiguous.")
    # cuBLASLt has a kernel for one layout on every device (https://github.com/pytorch/pytorch/issues/169956).
    (row, step), (other_step, column) = left.stride(), right.stride()
    if step != 1 or other_step != 1 or row % 4 or column % 4:
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling cublasLtMatmul")
