"""Scaling rows: seconds against N, every engine that is installed. Equality is asserted, time is not."""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from features import reid_like

from pose2id import knn_graph
from pose2id.centralization import mutual_neighbors

HEAD = ("N", "D", "engine", "seconds", "exact / it", "recall", "mutual pairs")
SIZES = [1_000, 3_000, 10_000]
FULL = [30_000, 100_000, 200_000]
WIDTH = 768


def mutual_recall(exact, graph):
    """The share of the mutual neighbours, as `centralize` takes them with k1 = k2 = 2, that were found."""
    true, found = (mutual_neighbors(torch.from_numpy(table.indices), 2, 2) for table in (exact, graph))
    hits = (true[:, :, None] == found[:, None]).any(dim=2) & (true >= 0)
    return int(hits.sum()) / int((true >= 0).sum())


def test_scaling(report, full, request):
    engines = ["exact", "pivots"]
    if importlib.util.find_spec("faiss"):
        engines += ["faiss", "faiss-ivf", "faiss-hnsw"]
    rows = []
    for n in SIZES + (FULL if full else []):
        x = reid_like(n, WIDTH)[0]
        exact = None
        for engine in engines:
            if n > 100_000 and engine == "faiss":
                continue  # by the square of N: four times the row before, minutes
            best = np.inf
            for _ in range(3 if n <= 10_000 else 1):
                start = time.perf_counter()
                graph = knn_graph(x, 2, engine=engine)
                best = min(best, time.perf_counter() - start)
            if exact is None:
                exact = graph, best
            found = (graph.indices[:, :, None] == exact[0].indices[:, None]).any(axis=2).mean()
            assert found == 1.0 if engine == "faiss" else found > 0.9
            pairs = mutual_recall(exact[0], graph)
            rows.append((n, WIDTH, engine, *(round(float(x), 4) for x in (best, exact[1] / best, found, pairs))))
            report("Scaling of knn_graph, k = 2", HEAD, *rows[-1])
    name = request.config.getoption("--record")
    if name:
        path = Path(__file__).parent / "results" / f"{dt.date.today()}-{name}-scaling.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *rows])


def test_sampled_recall_is_the_recall(report):
    """What an engine says of itself on a sample, against all rows."""
    pytest.importorskip("faiss")
    x = reid_like(10_000, 256)[0]
    exact = knn_graph(x, 2)
    for engine in ("pivots", "faiss-ivf", "faiss-hnsw"):
        graph = knn_graph(x, 2, engine=engine, recall_sample=2000)
        found = (graph.indices[:, :, None] == exact.indices[:, None]).any(axis=2).mean()
        assert abs(found - graph.sampled_recall) < 0.02
        report(
            "Sampled recall, 10,000 x 256", ("engine", "sampled", "of all rows"), engine, graph.sampled_recall, found
        )
