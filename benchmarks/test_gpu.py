"""Rows for a CUDA device: seconds, and peak memory of the device beyond the features. Skipped without one."""

from __future__ import annotations

import statistics
import time

import pytest
import torch
from features import reid_like

from pose2id import centralize, knn_graph, rerank, rerank_top

HEAD = ("task", "N", "D", "dtype", "CPU [s]", "GPU [s]", "memory", "equality")

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def on_device(call, repeats=3):
    """Median seconds of a call on the device, after one warm-up, and its peak memory in bytes."""
    call()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before, seconds = torch.cuda.memory_allocated(), []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), torch.cuda.max_memory_allocated() - before


def timed(call):
    start = time.perf_counter()
    return call(), time.perf_counter() - start


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_knn_and_centralize(report, full, dtype):
    n, d = (15913, 2048) if full else (8000, 768)
    x = torch.from_numpy(reid_like(n, d)[0]).to(dtype)
    there = x.cuda()
    graph, seconds = timed(lambda: knn_graph(x, 2))
    same = (knn_graph(there, 2).indices.cpu() == graph.indices).double().mean()
    assert same == 1
    ours, space = on_device(lambda: knn_graph(there, 2))
    share = f"{space / there.nbytes:.2f}"
    report("GPU", HEAD, "knn_graph k=2", n, d, str(dtype), f"{seconds:.3f}", f"{ours:.4f}", share, "all")
    better, seconds = timed(lambda: centralize(x))
    difference = (centralize(there).cpu() - better).abs().max().item()
    assert difference < 1e-3 if dtype == torch.float16 else difference < 1e-6
    ours, space = on_device(lambda: centralize(there))
    cells = f"{seconds:.3f}", f"{ours:.4f}", f"{space / there.nbytes:.2f}", f"to {difference:.0e}"
    report("GPU", HEAD, "centralize", n, d, str(dtype), *cells)


def test_a_million_rows(report, full):
    if not full:
        pytest.skip("needs --full")
    n, d = 1_000_000, 2048
    there = torch.from_numpy(reid_like(n, d)[0]).cuda()
    for engine in ("exact", "pivots"):
        graph = knn_graph(there, 2, engine=engine, recall_sample=2000)
        assert graph.sampled_recall == 1 if engine == "exact" else graph.sampled_recall > 0.95
        ours, space = on_device(lambda engine=engine: knn_graph(there, 2, engine=engine), repeats=1)
        cells = "", f"{ours:.2f}", f"{space / there.nbytes:.2f}", f"recall {graph.sampled_recall:.4f}"
        report("GPU", HEAD, f"knn_graph k=2, {engine}", n, d, "torch.float32", *cells)


def test_rerank(report, full):
    q, g, d = (3368, 15913, 768) if full else (600, 2400, 768)
    x = torch.from_numpy(reid_like(q + g, d)[0])
    there = x.cuda()
    ranked, seconds = timed(lambda: rerank(x[:q], x[q:]))
    difference = (rerank(there[:q], there[q:]).cpu() - ranked).abs()
    assert difference.mean() < 1e-6
    ours, space = on_device(lambda: rerank(there[:q], there[q:]))
    cells = f"{seconds:.2f}", f"{ours:.3f}", f"{space / there.nbytes:.2f}", f"mean {difference.mean():.0e}"
    report("GPU", HEAD, "rerank", f"{q}+{g}", d, "torch.float32", *cells)
    if full:
        q, g = 11659, 82161
        there = torch.from_numpy(reid_like(q + g, d)[0]).cuda()
        ours, space = on_device(lambda: rerank_top(there[:q], there[q:], 100), repeats=1)
        cells = "", f"{ours:.2f}", f"{space / there.nbytes:.2f}", ""
        report("GPU", HEAD, "rerank_top 100", f"{q}+{g}", d, "torch.float32", *cells)
