"""What users have switched on around a call changes no result: autocast, reduced precision, default device, modes."""

import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from pose2id import centralize, evaluate_features, id_density, knn_graph, rerank

rng = np.random.default_rng(0)
# Many rows close together: bfloat16 or TF32 products cannot tell these neighbours apart.
ROWS = torch.tensor(
    rng.standard_normal((350, 64))[rng.integers(0, 350, 3300)] + 0.005 * rng.standard_normal((3300, 64))
)
ROWS = ROWS.float()


def results():
    return (
        knn_graph(ROWS, 3).indices,
        knn_graph(ROWS[:2500], 3).indices,
        centralize(ROWS),
        rerank(ROWS[:60], ROWS[60:500]),
        torch.tensor(id_density(ROWS[:100], np.arange(100) % 9), device="cpu"),
        torch.tensor(evaluate_features(ROWS[:60], ROWS[60:300], range(60), np.arange(240) % 60).mAP, device="cpu"),
    )


EXPECTED = results()

MODES = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "default device": lambda: torch.device("meta"),
    "inference mode": torch.inference_mode,
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_change_nothing(mode):
    with MODES[mode]():
        found = results()
    for one, other in zip(found, EXPECTED, strict=True):
        assert torch.equal(one, other)


def test_bfloat16_products_would_change_them(monkeypatch):
    """The data above tells the difference; without this the test above could not fail."""
    import contextlib

    import pose2id.neighbors._exact as exact

    monkeypatch.setattr(exact, "full_precision", lambda _: contextlib.nullcontext())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.equal(knn_graph(ROWS[:2500], 3, engine="exact").indices, EXPECTED[1])


def test_gradients_are_not_carried():
    rows = ROWS[:50].clone().requires_grad_()
    assert not centralize(rows).requires_grad


def test_settings_return_when_the_last_thread_leaves():
    code = """
import threading, torch
from pose2id.distances import full_precision
torch.set_float32_matmul_precision("medium")
inside, leave = threading.Event(), threading.Event()
def other():
    with full_precision(torch.device("cpu")):
        inside.set(); leave.wait()
        assert torch.get_float32_matmul_precision() == "highest"
first = full_precision(torch.device("cpu")); first.__enter__()
thread = threading.Thread(target=other); thread.start(); inside.wait()
first.__exit__(None, None, None)
assert torch.get_float32_matmul_precision() == "highest"
leave.set(); thread.join()
assert torch.get_float32_matmul_precision() == "medium"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_threads_of_the_caller_do_not_disturb_each_other():
    found = [None] * 4

    def work(i):
        found[i] = centralize(ROWS[:800])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = centralize(ROWS[:800])
    assert all(torch.equal(result, expected) for result in found)
