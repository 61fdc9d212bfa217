"""Budgets for GPUs, on the stand-in: launches and waits decide there how fast a call on some thousand rows is.

A bound is some tenth above what was counted. Who breaks one is told the busiest lines; who needs more raises it.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.standin import reason_to_skip, standin

from pose2id import (
    arrays,
    centralize,
    evaluate,
    evaluate_features,
    id_density,
    jaccard_distances,
    knn_graph,
    rerank,
    rerank_top,
)
from pose2id.neighbors import _pivots
from pose2id.neighbors._int8 import filter as _filter
from pose2id.neighbors._int8 import layout, machine

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

ROWS, QUERIES, WIDTH = 768, 192, 512
"""Few, for the CPU that computes: but more than one block for its caches, and three tiles."""


def make_rows():
    """Rows of 200 identities on a plane of 30 dimensions, identities and cameras."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 200, ROWS)
    rows = rng.standard_normal((200, 30))[ids] + 0.3 * rng.standard_normal((ROWS, 30))
    rows = rows @ rng.standard_normal((30, WIDTH)) / WIDTH**0.5
    return torch.tensor(rows, dtype=torch.float32), ids, rng.integers(0, 4, ROWS)


def scored(call, ids, cams):
    return call(ids[:QUERIES], ids[QUERIES:], cams[:QUERIES], cams[QUERIES:])


# A call, its launches and its waits.
BUDGETS = {
    "knn_graph, k = 2": (lambda x, *_: knn_graph(x, 2), 1530, 64),
    "knn_graph, k = 20": (lambda x, *_: knn_graph(x, 20), 1680, 67),
    "pivots": (lambda x, *_: knn_graph(x, 2, engine="pivots"), 580, 17),
    "centralize": (lambda x, *_: centralize(x), 1640, 75),
    "centralize, alpha": (lambda x, *_: centralize(x, alpha=3.0), 1725, 82),
    "rerank": (lambda x, *_: rerank(x[:QUERIES], x[QUERIES:]), 2340, 115),
    "rerank_top": (lambda x, *_: rerank_top(x[:QUERIES], x[QUERIES:]), 2360, 115),
    "jaccard_distances": (lambda x, *_: jaccard_distances(x), 2140, 128),
    "evaluate": (
        lambda x, *labels: scored(lambda *of: evaluate(x[:QUERIES] @ x[QUERIES:].T, *of), *labels),
        68,
        16,
    ),
    "evaluate_features": (
        lambda x, *labels: scored(lambda *of: evaluate_features(x[:QUERIES], x[QUERIES:], *of), *labels),
        178,
        26,
    ),
    "id_density": (lambda x, ids, _: id_density(x, ids), 37, 7),
}


@pytest.fixture(scope="module")
def rows():
    return make_rows()


def check(call, launches, waits, *arguments):
    """Call it on the stand-in, and fail if it takes more."""
    with standin() as counts:
        x, *labels = arguments
        there = x.to("cuda")
        machine.largest_code("cuda")  # once in a process
        counts.clear()
        call(there, *labels)
    for kind, most in (("launches", launches), ("waits", waits)):
        found = getattr(counts, kind)
        assert found <= most, f"{found} {kind}, at most {most} are allowed; the busiest lines:\n{counts.busiest(kind)}"


@pytest.fixture(autouse=True)
def several_tiles(monkeypatch):
    monkeypatch.setattr(layout, "TILE_CUDA", 256)
    monkeypatch.setattr(_filter, "THRESHOLDS", replace(_filter.THRESHOLDS, smallest=ROWS // 2))
    monkeypatch.setattr(_pivots, "SMALLEST", ROWS)
    monkeypatch.setattr(_pivots, "LONGEST", 256)


@pytest.mark.parametrize("name", BUDGETS)
def test_budget(rows, name):
    call, launches, waits = BUDGETS[name]
    check(call, launches, waits, *rows)


@pytest.mark.parametrize("name", ["centralize", "evaluate"])
def test_small_blocks_break_the_budget(monkeypatch, rows, name):
    monkeypatch.setattr(arrays, "CUDA_ELEMENTS", 2**15)
    call, launches, waits = BUDGETS[name]
    with pytest.raises(AssertionError, match="launches, at most"):
        check(call, launches, waits, *rows)
