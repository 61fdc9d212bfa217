"""The public functions of features give on every device what they give on the CPU, on the device of the input."""

import functools

import numpy as np
import pytest
import torch
from support.arrays import as_float64
from support.engines import with_projections

from pose2id import (
    centralize,
    evaluate,
    evaluate_features,
    id_density,
    jaccard_distances,
    knn_graph,
    rerank,
    rerank_top,
)
from pose2id.centralization import centralize_queries
from pose2id.evaluation import tiles
from pose2id.neighbors import _pivots, describe_engines, find_entered
from pose2id.study import FeatureSet, Setting, run_study

ROWS, QUERIES, WIDTH = 500, 120, 24


def rows_and_labels(dtype=torch.float32):
    """Rows of 100 identities, some of them twice, one zero; identities and cameras."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 100, ROWS)
    rows = rng.standard_normal((100, WIDTH))[ids] + 0.4 * rng.standard_normal((ROWS, WIDTH))
    rows[50:60], rows[7] = rows[150:160], 0
    return torch.tensor(rows, dtype=dtype), torch.tensor(ids), torch.tensor(rng.integers(0, 4, ROWS))


def graph(x, ids, engine):
    found = knn_graph(x, 3, exclude=ids, engine=engine, recall_sample=50)
    return found.indices, found.distances


def entered(x, ids, engine):
    query, base = x[:QUERIES], x[QUERIES:]
    radius = knn_graph(base, 2).distances[:, -1]
    return find_entered(query, base, 2, radius, ids[:QUERIES], ids[QUERIES:], engine=engine)


def best(x):
    found = rerank_top(x[:QUERIES], x[QUERIES:], 10)
    return found.indices, found.distances


def scores(call, ids, cams):
    found = call(ids[:QUERIES], ids[QUERIES:], cams[:QUERIES], cams[QUERIES:])
    numbers = [found.mAP, found.mINP, found.valid_queries], found.cmc, found.average_precision
    return [torch.tensor(part, device="cpu") for part in numbers]


def of_distances(x, ids, cams):
    table = torch.cdist(x[:QUERIES].cpu(), x[QUERIES:].cpu()).round(decimals=1).to(x.device)  # with ties
    return scores(functools.partial(evaluate, table), ids, cams)


def of_features(x, ids, cams, **options):
    return scores(functools.partial(evaluate_features, x[:QUERIES], x[QUERIES:], **options), ids, cams)


def densities(x, ids):
    return [torch.tensor([id_density(x, ids, variant=variant) for variant in ("paper", "released")], device="cpu")]


def studied(x, ids, cams):
    sides = (FeatureSet(x[part], ids[part], cams[part], x[part]) for part in (slice(QUERIES), slice(QUERIES, None)))
    settings = Setting("a", eta=1.0, k1=2, k2=2, alpha=1.0), Setting("b", k1=2, k2=2, other_cameras=True, reranked=True)
    rows = run_study(*sides, settings)
    return [torch.tensor([[row.mAP, row.mINP, row.error, row.id2] for row in rows], device="cpu")]


BY_ENGINE = {
    "knn_graph": lambda x, ids, _, engine: graph(x, ids, engine),
    "centralize": lambda x, ids, _, engine: [centralize(x, [x.flip(0)], k1=3, k2=2, exclude=ids, engine=engine)],
    "rerank": lambda x, *_, engine: [rerank(x[:QUERIES], x[QUERIES:], k1=8, k2=3, engine=engine)],
    "find_entered": lambda x, ids, _, engine: entered(x, ids, engine),
}
CALLS = {
    "alpha": lambda x, *_: [centralize(x, alpha=2.0)],
    "raw sums": lambda x, *_: [centralize(x, normalize=False)],
    "out": lambda x, *_: [centralize(x, out=torch.empty_like(x))],
    "neighbors": lambda x, *_: [centralize(x, neighbors=knn_graph(x, 4).indices, k1=3, k2=4)],
    "centralize_queries": lambda x, *_: [centralize_queries(x[:QUERIES], x[QUERIES:], x[:QUERIES].flip(0), alpha=1.0)],
    "rerank": lambda x, *_: [rerank(x[:QUERIES], x[QUERIES:])],
    "rerank_top": lambda x, *_: best(x),
    "jaccard_distances": lambda x, *_: [torch.tensor(jaccard_distances(x, 8, 3).toarray(), device="cpu")],
    "evaluate": of_distances,
    "evaluate_features": of_features,
    "cosine": functools.partial(of_features, metric="cosine"),
    "id_density": lambda x, ids, _: densities(x, ids),
    "run_study": studied,
}


def compare(call, device, dtype=torch.float32):
    arguments = rows_and_labels(dtype)
    expected, found = call(*arguments), call(*(part.to(device) for part in arguments))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        if not other.is_floating_point():
            assert torch.equal(one.cpu(), other)
        rtol = 1e-2 if other.dtype.itemsize == 2 else 1e-5
        np.testing.assert_allclose(as_float64(one), as_float64(other), rtol=rtol, atol=1e-6)
    return found


@with_projections
@pytest.mark.parametrize("name", BY_ENGINE)
def test_every_engine(device, engine, name):
    found = compare(functools.partial(BY_ENGINE[name], engine=engine), device)
    assert {part.device.type for part in found} == {device}


@pytest.mark.parametrize("name", CALLS)
def test_every_function(device, name):
    compare(CALLS[name], device)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["alpha", "rerank", "evaluate_features", "id_density"])
def test_other_dtypes(device, dtype, name):
    compare(CALLS[name], device, dtype)


def test_several_blocks(monkeypatch, device):
    monkeypatch.setattr(tiles, "BLOCK_ELEMENTS", 5000)
    monkeypatch.setattr(tiles, "QUERY_TILE", 32)
    monkeypatch.setattr(tiles, "ITEM_TILE", 100)
    compare(CALLS["evaluate"], device)
    compare(CALLS["evaluate_features"], device)


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS wants for it
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@with_projections
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("name", ["knn_graph", "centralize", "rerank"])
def test_deterministic_algorithms(device, engine, name):
    compare(functools.partial(BY_ENGINE[name], engine=engine), device)


@pytest.mark.usefixtures("deterministic")
def test_deterministic_algorithms_of_functions(device):
    for call in CALLS.values():
        compare(call, device)


@pytest.mark.usefixtures("deterministic")
def test_deterministic_pivots(monkeypatch, device):
    monkeypatch.setattr(_pivots, "SMALLEST", 200)
    x = rows_and_labels()[0]
    found = knn_graph(x.to(device), 2, engine="pivots").indices.cpu()
    assert float((found == knn_graph(x, 2).indices).double().mean()) > 0.95


def test_the_report_on_engines_tries_every_device(device):
    """On a GPU with enough rows for each engine to take its own way."""
    assert [works for _, works, words in describe_engines() if "not installed" not in words].count(False) == 0, device
