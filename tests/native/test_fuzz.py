"""The native engine fed with shapes, scales and extremes, some answers compared with those of `exact`.

`make test-native` runs it under sanitizers, where a fault of memory or of threads ends the process. POSE2ID_FUZZ is the
number of calls, POSE2ID_FUZZ_SEED where they begin.
"""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from pose2id.neighbors import _exact
from pose2id.neighbors._native import all_kernels, load_kernel
from pose2id.neighbors._native import search as native
from pose2id.neighbors.contract import Search

CALLS = int(os.environ.get("POSE2ID_FUZZ", "100"))
SEED = int(os.environ.get("POSE2ID_FUZZ_SEED", "0"))
KERNELS = all_kernels()
TRIES = 20
"""Searches of one set, by different kernels, numbers of neighbours, labels and threads."""
COMPARED = 4
"""Every so-manieth answer is compared: that takes longer than the search."""

pytestmark = pytest.mark.skipif(not KERNELS, reason=f"the native kernel is {load_kernel()[1]}")


def draw_rows(dice):
    """A set of some kind, (n, width), with extremes of its dtype but no NaN."""
    n, width = (int(torch.randint(1, most, (), generator=dice)) for most in (150, 70))
    dtype = [torch.float16, torch.bfloat16, torch.float32, torch.float32, torch.float64][draw(dice, 5)]
    rows = torch.randn(n, width, generator=dice, dtype=torch.float64)
    kind = draw(dice, 9)
    if kind == 0:
        rows = rows[torch.randint(0, n, (n,), generator=dice)]  # copies
    elif kind == 1:
        rows = torch.randint(-2, 3, rows.shape, generator=dice).double()  # ties
    elif kind == 2:
        rows = rows[torch.randint(0, 1 + n // 9, (n,), generator=dice)] + 0.1 * rows
    elif kind == 3:
        rows = rows * 10.0 ** torch.randint(-12, 12, (n, 1), generator=dice).double()
    elif kind == 4:
        rows = rows + 10.0 ** draw(dice, 8)
    elif kind == 5:
        rows = rows * 10.0 ** torch.randint(-6, 6, (1, width), generator=dice).double()
    elif kind == 6:
        rows[:] = rows[:1]
    largest = float(torch.finfo(dtype).max) / 4
    if draw(dice, 3) == 0:
        rows = rows * 10.0 ** (draw(dice, 80) - 40)
    if draw(dice, 8) == 0:
        rows[draw(dice, n)] = largest
    if draw(dice, 8) == 0:
        rows[draw(dice, n)] = float(torch.finfo(dtype).tiny) / 8
    return rows.clamp(-largest, largest).to(dtype)


def draw(dice, most):
    return int(torch.randint(0, most, (), generator=dice))


def in_threads(call, slices, _device):
    """As the engine does, but with two threads where torch, whose threads would be watched too, has one."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(call, slices)


def search(asked, farthest, compared):
    """One search by the kernel, whose answer is that of `exact` to the last bit."""
    found = native.search_both_ends(asked) if farthest else native.search(asked)
    assert (found[0] < len(asked.base)).all()
    if not compared:
        return
    wanted = _exact.search_both_ends(asked) if farthest else _exact.search(asked)
    if farthest:
        torch.testing.assert_close(found[2], wanted[2], rtol=1e-6, atol=0)
    assert torch.equal(found[0], wanted[0])
    assert torch.equal(found[1], wanted[1])


@pytest.mark.parametrize("part", range(-(-CALLS // TRIES)))
def test_calls(monkeypatch, part):
    dice = torch.Generator().manual_seed(SEED + part)
    monkeypatch.setattr(native, "SMALLEST", 1)
    monkeypatch.setattr(native, "SLICE", 1)  # as many slices as tasks, for threads
    monkeypatch.setattr(native, "BLOCK", 1)
    monkeypatch.setattr(native, "AT_ONCE", 4)
    monkeypatch.setattr(native, "map_in_threads", in_threads)
    rows = draw_rows(dice)
    for call in range(TRIES):
        compared = call % COMPARED == 0
        kernel = KERNELS[draw(dice, len(KERNELS))]
        monkeypatch.setattr(native, "load_kernel", lambda kernel=kernel: (kernel, "drawn"))
        monkeypatch.setattr(native, "CAP", [256, 0, -1000][draw(dice, 3)])
        monkeypatch.setattr(native, "ROOM", [4096, 1][draw(dice, 2)])
        monkeypatch.setattr(native, "rounding", [native.rounding, lambda _: 1e-7][draw(dice, 2)])
        n = len(rows)
        k, cut = 1 + draw(dice, 20), draw(dice, n + 1)
        labels = torch.randint(0, 5, (n,), generator=dice) if draw(dice, 2) else None
        if draw(dice, 2) or not 0 < cut < n:
            far = labels is None and k < n and draw(dice, 2) == 1
            search(Search(rows, rows, min(k, n), labels, labels, within=True), far, compared)
        else:
            sides = (None, None) if labels is None else (labels[:cut], labels[cut:])
            search(Search(rows[:cut], rows[cut:], min(k, n - cut), *sides), False, compared)
