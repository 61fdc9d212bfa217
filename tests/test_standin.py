"""The stand-in for CUDA refuses what its docstring says, and what is right gives the CPU's numbers there."""

import numpy as np
import pytest
import torch
from support.standin import StandinTensor, reason_to_skip, standin

from pose2id import arrays, centralize, evaluate_features, id_density, knn_graph, rerank
from pose2id.neighbors import _exact, _pivots, rounded
from pose2id.neighbors._int8 import machine

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

TWO_DEVICES = RuntimeError, "at least two devices, cuda:0 and cpu"
TO_NUMPY = TypeError, "can't convert cuda:0 device type tensor to numpy"
LAYOUT = RuntimeError, "CUBLAS_STATUS_NOT_SUPPORTED"


def there(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype, device="cuda")


def cpu(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def codes(rows, columns):
    return (torch.arange(rows * columns, device="cuda") % 7).view(rows, columns).to(torch.int8)


def generator():
    return torch.Generator().manual_seed(0)


def deterministic(call):
    torch.use_deterministic_algorithms(True)
    try:
        return call()
    finally:
        torch.use_deterministic_algorithms(False)


# Each fault, what it raises, and its twin that is right.
FAULTS = {
    # Two devices
    "operands": (lambda: there(1, 2) + cpu(3, 4), TWO_DEVICES, lambda: there(1, 2) + cpu(3, 4).cuda()),
    "product": (lambda: there(1, 2) @ cpu(3, 4), TWO_DEVICES, lambda: there(1, 2) @ cpu(3, 4).to("cuda")),
    "a number": (lambda: torch.cat([there(1), cpu(2)]), TWO_DEVICES, lambda: there(1, 2) * torch.tensor(2.0)),
    "a number of CUDA": (lambda: cpu(1, 2) * there(3)[0], TWO_DEVICES, lambda: cpu(1, 2) * there(3)[0].item()),
    "in place": (lambda: torch.tensor(1.0).add_(there(3)[0]), TWO_DEVICES, lambda: there(3)[0].add_(torch.tensor(1.0))),
    "from numpy": (
        lambda: there(1, 2).sub_(torch.from_numpy(np.ones(2, "f4"))),
        TWO_DEVICES,
        lambda: there(1, 2).sub_(torch.from_numpy(np.ones(2, "f4")).cuda()),
    ),
    "index": (
        lambda: cpu(1, 2)[there(0, dtype=torch.long)],
        TWO_DEVICES,
        lambda: there(1, 2)[cpu(0, dtype=torch.long)],
    ),
    "mask": (lambda: cpu(1, 2)[there(1, 2) > 1], TWO_DEVICES, lambda: there(1, 2)[there(1, 2) > 1]),
    "gather": (
        lambda: there(1, 2).gather(0, cpu(0, dtype=torch.long)),
        TWO_DEVICES,
        lambda: there(1, 2).gather(0, there(0, dtype=torch.long)),
    ),
    "assigned": (
        lambda: there(1, 2).index_put_((there(0, dtype=torch.long),), cpu(5)),
        TWO_DEVICES,
        lambda: there(1, 2).index_put_((there(0, dtype=torch.long),), torch.tensor(5.0)),
    ),
    "out": (
        lambda: torch.mul(there(1), there(2), out=torch.empty(1)),
        TWO_DEVICES,
        lambda: torch.mul(there(1), there(2), out=there(0)),
    ),
    "comparison": (lambda: torch.equal(there(1), cpu(1)), TWO_DEVICES, lambda: there(1).cpu().equal(cpu(1))),
    # A factory without device=
    "arange": (
        lambda: there(1, 2) == torch.arange(2),
        TWO_DEVICES,
        lambda: there(1, 2) == torch.arange(2, device="cuda"),
    ),
    "full": (
        lambda: torch.minimum(there(1, 2), torch.full((2,), 1.5)),
        TWO_DEVICES,
        lambda: torch.minimum(there(1, 2), torch.full_like(there(1, 2), 1.5)),
    ),
    "tensor": (
        lambda: there(1, 2) - torch.tensor([1.0]),
        TWO_DEVICES,
        lambda: there(1, 2) - there(1, 2).new_tensor([1.0]),
    ),
    # numpy
    "numpy()": (lambda: there(1, 2).numpy(), TO_NUMPY, lambda: there(1, 2).cpu().numpy()),
    "asarray": (lambda: np.asarray(there(1, 2)), TO_NUMPY, lambda: np.asarray(there(1, 2).cpu())),
    "numpy of a result": (lambda: np.sqrt(there(1, 2).square()), TO_NUMPY, lambda: there(1, 2).square().sqrt()),
    "DLPack": (
        lambda: np.from_dlpack(there(1)),
        (BufferError, "no CUDA memory"),
        lambda: np.from_dlpack(there(1).cpu()),
    ),
    # Generators and devices
    "generator": (
        lambda: torch.randn(3, generator=generator(), device="cuda"),
        (RuntimeError, "Expected a 'cuda' device type for generator but found 'cpu'"),
        lambda: torch.randn(3, generator=generator()).cuda(),
    ),
    "permutation": (
        lambda: torch.randperm(3, generator=generator(), device="cuda"),
        (RuntimeError, "generator"),
        lambda: torch.randperm(3, generator=generator(), device="cpu").cuda(),
    ),
    "second device": (
        lambda: torch.zeros(1, device="cuda:1"),
        (RuntimeError, "invalid device ordinal"),
        lambda: torch.zeros(1, device="cuda:0"),
    ),
    # The limits of int8 products
    "16 rows": (
        lambda: torch._int_mm(codes(16, 8), codes(8, 8).T),
        (RuntimeError, "greater than 16"),
        lambda: torch._int_mm(codes(17, 8), codes(8, 8).T),
    ),
    "12 columns": (
        lambda: torch._int_mm(codes(32, 12), codes(32, 12).T),
        (RuntimeError, "multiples of 8"),
        lambda: torch._int_mm(codes(32, 16), codes(32, 16).T),
    ),
    "30 rows on the right": (
        lambda: torch._int_mm(codes(32, 8), codes(30, 8).T),
        (RuntimeError, "multiples of 8"),
        lambda: torch._int_mm(codes(30, 8), codes(32, 8).T),
    ),
    "right by rows": (
        lambda: torch._int_mm(codes(32, 16), codes(16, 32)),
        LAYOUT,
        lambda: torch._int_mm(codes(32, 16), codes(16, 32).T.contiguous().T),
    ),
    "left by columns": (
        lambda: torch._int_mm(codes(16, 32).T, codes(32, 16).T),
        LAYOUT,
        lambda: torch._int_mm(codes(16, 32).T.contiguous(), codes(32, 16).T),
    ),
    "output in pieces": (
        lambda: torch._int_mm(codes(32, 8), codes(8, 8).T, out=torch.empty(32, 16, device="cuda").int()[:, ::2]),
        (RuntimeError, "contiguous"),
        lambda: torch._int_mm(codes(32, 8), codes(8, 8).T, out=torch.empty(32, 8, device="cuda").int()),
    ),
    # Kernels
    "product of integers": (
        lambda: codes(4, 4).long() @ codes(4, 4).long(),
        (RuntimeError, "not implemented for torch.int64"),
        lambda: codes(4, 4).double() @ codes(4, 4).double(),
    ),
    "nonzero of 2**31": (
        lambda: there(0).expand(2**31).nonzero(),
        (RuntimeError, "INT_MAX"),
        lambda: there(0).expand(2**10).nonzero(),
    ),
    "median": (
        lambda: deterministic(lambda: there(3, 1, 2).median(dim=0)),
        (RuntimeError, "deterministic"),
        lambda: deterministic(lambda: there(3, 1, 2).median()),
    ),
    "kthvalue": (
        lambda: deterministic(lambda: there(3, 1, 2).kthvalue(2)),
        (RuntimeError, "deterministic"),
        lambda: deterministic(lambda: there(3, 1, 2).sort().values[1]),
    ),
    "histc": (
        lambda: deterministic(lambda: there(3, 1, 2).histc(2)),
        (RuntimeError, "deterministic"),
        lambda: there(3, 1, 2).histc(2),
    ),
    "put_": (
        lambda: deterministic(lambda: there(3, 1).put_(there(0, dtype=torch.long), there(5))),
        (RuntimeError, "deterministic"),
        lambda: deterministic(lambda: there(3, 1).index_put_((there(0, dtype=torch.long),), there(5))),
    ),
    "cumsum": (
        lambda: deterministic(lambda: there(3, 1).cumsum(0)),
        (RuntimeError, "deterministic"),
        lambda: deterministic(lambda: there(3, 1).long().cumsum(0)),
    ),
    "bincount": (
        lambda: deterministic(lambda: there(3, 1).int().bincount(there(1, 2))),
        (RuntimeError, "deterministic"),
        lambda: deterministic(lambda: there(3, 1).int().bincount()),
    ),
    # What it cannot play
    "sparse": (lambda: there(0, 1).to_sparse(), (NotImplementedError, "sparse"), lambda: there(0, 1).nonzero()),
    "shape in place": (
        lambda: there(0, 1).unsqueeze_(0),
        (NotImplementedError, "shape in place"),
        lambda: there(0, 1).unsqueeze(0),
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_fault(name):
    fault, (kind, words), right = FAULTS[name]
    with standin():
        with pytest.raises(kind, match=words):
            fault()
        right()


ROWS = torch.randn(300, 20, generator=torch.Generator().manual_seed(0))
IDS = np.arange(300) % 40


def forget_device(patch, name):
    """Calls of torch.<name> do without their `device=`."""
    make = getattr(torch, name)
    patch.setattr(torch, name, lambda *args, device=None, **options: make(*args, **options))  # noqa: ARG005


def take_the_way_of_the_cpu(patch):
    patch.setattr(StandinTensor, "is_cuda", property(lambda _: False))


def measure_as_the_cpu(patch):
    patch.setattr(_exact, "_search_tiles", lambda *_, **__: None)
    patch.setattr(_exact, "_differences", lambda asked, *to: rounded.rounded_distances(asked.queries, asked.base, *to))


def multiply_by(patch, product):
    patch.setattr(torch, "_int_mm", lambda left, right, *, out: out.copy_(product(left, right)))


def narrow_tiles(patch):
    patch.setattr(_pivots, "TILE", 16)
    patch.setattr(arrays, "CUDA_ELEMENTS", 1)


def pivots(x):
    return knn_graph(x, 2, engine="pivots").indices


INT_MM = torch._int_mm
# A change of the package or of what it calls, a call that then fails, and how.
IN_THE_PACKAGE = {
    "arange without device": (lambda p: forget_device(p, "arange"), lambda x: id_density(x, IDS), TWO_DEVICES),
    "full without device": (lambda p: forget_device(p, "full"), lambda x: knn_graph(x, 2), TWO_DEVICES),
    "zeros without device": (lambda p: forget_device(p, "zeros"), lambda x: rerank(x[:50], x[50:]), TWO_DEVICES),
    "numpy in scores": (
        take_the_way_of_the_cpu,
        lambda x: evaluate_features(x[:50], x[50:], IDS[:50], IDS[50:]),
        TO_NUMPY,
    ),
    "numpy in powers": (take_the_way_of_the_cpu, lambda x: centralize(x, alpha=2.0), TO_NUMPY),
    "sparse products": (
        measure_as_the_cpu,
        lambda x: knn_graph(x, 2, engine="exact"),
        (NotImplementedError, "sparse"),
    ),
    "generator": (
        lambda p: p.setattr(
            _pivots, "_project", lambda codes, g: torch.randn(300, 32, generator=g, device=codes.device)
        ),
        pivots,
        (RuntimeError, "generator"),
    ),
    "layout": (lambda p: multiply_by(p, lambda left, right: INT_MM(left, right.contiguous())), pivots, LAYOUT),
    "products of integers": (
        lambda p: multiply_by(p, lambda left, right: left.int() @ right.int()),
        pivots,
        (RuntimeError, "not implemented for torch.int32"),
    ),
    "narrow tiles": (narrow_tiles, pivots, (RuntimeError, "greater than 16")),
    "kthvalue": (
        lambda p: p.setattr(_pivots, "_near_largest", lambda values: float(values.flatten().kthvalue(9).values)),
        lambda x: deterministic(lambda: pivots(x)),
        (RuntimeError, "deterministic"),
    ),
}


@pytest.mark.parametrize("name", IN_THE_PACKAGE)
def test_fault_in_the_package(monkeypatch, name):
    change, call, (kind, words) = IN_THE_PACKAGE[name]
    monkeypatch.setattr(_pivots, "SMALLEST", 200)
    monkeypatch.setattr(machine, "largest_code", lambda _: 63)  # the other one keeps what it has found
    with standin():
        x = ROWS.to("cuda")
        call(x)
        change(monkeypatch)
        with pytest.raises(kind, match=words):
            call(x)


NUMBERS = np.arange(4, dtype="f4")
# What runs on the stand-in, and how many launches and waits it is; `x` is (4,), [0, 1, 2, 3].
COUNTED = {
    "a kernel": (lambda x: x + 1, 1, 0),
    "views": (lambda x: x[1:].view(3, 1).T, 0, 0),
    "memory": (lambda x: torch.empty_like(x), 0, 0),
    "a number": (lambda x: float(x.sum()), 2, 1),
    "a copy to the host": (lambda x: x.cpu(), 1, 1),
    "a copy from the host": (lambda _: torch.from_numpy(NUMBERS).cuda(), 1, 1),
    "a mask that takes": (lambda x: x[x > 1], 2, 1),
    "a mask that sets": (lambda x: x.index_put_((x > 1,), -x[2:]), 3, 1),
    "a mask that fills": (lambda x: x.masked_fill_(x > 1, 0), 2, 0),
    "an index": (lambda x: x[x.long()], 2, 0),
    "nonzero": (lambda x: x.nonzero(), 1, 1),
    "repeated, of known size": (lambda x: x.repeat_interleave(x.long(), output_size=6), 3, 0),
    "repeated": (lambda x: x.repeat_interleave(x.long()), 3, 1),
}


@pytest.mark.parametrize("name", COUNTED)
def test_launches_and_waits_are_counted(name):
    call, launches, waits = COUNTED[name]
    with standin() as counts:
        x = there(0, 1, 2, 3)
        before = counts.launches, counts.waits
        call(x)
        assert (counts.launches - before[0], counts.waits - before[1]) == (launches, waits)


def test_the_busiest_lines_are_named():
    with standin() as counts:
        id_density(ROWS.to("cuda"), IDS)
        first, *others = counts.busiest("launches", 3).splitlines()
        assert int(first.split()[0]) >= int(others[0].split()[0])
        assert sum(line.rpartition(":")[0].endswith(".py") for line in (first, *others)) == 3


def test_right_code_gives_the_numbers_of_the_cpu():
    """In place, through views, masks and lists, with gradients, under a default device."""

    def call(device):
        with torch.device(device):
            x = torch.arange(12).view(3, 4) / 4
        x[:, 1:][x[:, 1:] > 2] = -1.0
        x[[0, 2], 0] = x.new_tensor([7, 8])
        x[1] += torch.as_tensor(np.ones(4, "f4"), device=device)
        weight = torch.nn.Parameter(torch.ones(4, 2, device=device))
        (x @ weight).square().sum().backward()
        return x, weight.grad, x.half(), x.to(torch.float64), x.sort().indices, torch.nn.functional.pad(x, (0, 1))

    with standin():
        found = [part.cpu() for part in call("cuda")]
        assert all(part.device == torch.device("cuda:0") and part.is_cuda for part in call("cuda"))
    for one, other in zip(found, call("cpu"), strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_there_is_no_device_before_and_after():
    with standin():
        x = there(1, 2)
        assert torch.cuda.is_available()
        assert x.to("cuda") is x.cuda() is x
    assert not torch.cuda.is_available()
    with pytest.raises(RuntimeError, match="outside"):
        x + 1
    with pytest.raises((RuntimeError, AssertionError)):
        torch.zeros(1, device="cuda")
