"""The errors that docs/numerics.md states, measured on the embedded set: the page and these limits are one table."""

import numpy as np
import pytest
import torch
from reference import reranking as reference
from support.engines import with_projections

from pose2id import centralize, evaluate, evaluate_features, knn_graph, rerank
from pose2id.datasets import load_demo

ULP = {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24, "float64": 2.0**-53}


def features(dtype):
    return torch.from_numpy(load_demo().features).to(getattr(torch, dtype))


@with_projections
@pytest.mark.parametrize("dtype", ULP)
def test_centralize_is_off_by_its_last_rounding_only(engine, dtype):
    x = features(dtype)
    exact = centralize(x.double(), engine=engine)
    difference = (centralize(x, engine=engine).double() - exact).abs().max()
    assert difference <= ULP[dtype] / 2 + 2**-25 * (dtype != "float64")
    assert difference > 0 or dtype == "float64"


@with_projections
@pytest.mark.parametrize("dtype", ULP)
def test_distances_are_rounded_float64_distances(engine, dtype):
    x = features(dtype)
    graph = knn_graph(x, 5, engine=engine)
    rows = x.double().numpy()
    for i in range(0, len(rows), 7):
        exact = np.linalg.norm(rows - rows[i], axis=1)
        exact = exact if dtype == "float64" else exact.astype(np.float32)
        exact[i] = np.inf
        order = np.lexsort((np.arange(len(rows)), exact))[:5]
        if dtype != "float64":  # in float64 the last bit is the order of summation
            assert graph.indices[i].tolist() == order.tolist()
        np.testing.assert_allclose(
            graph.distances[i].numpy(), exact[order], rtol=0 if dtype != "float64" else 4 * 2**-53
        )


@pytest.mark.parametrize(("dtype", "mean", "largest"), [("float32", 1e-7, 1e-6), ("float64", 1e-15, 1e-14)])
def test_rerank_against_dense_float64(engine, dtype, mean, largest):
    data = load_demo()
    pick = np.r_[0:60, 240:480]
    x = centralize(features(dtype)[pick], k1=0)
    expected = reference.rerank(x[:60].double().numpy(), x[60:].double().numpy(), single=dtype != "float64")
    difference = np.abs(rerank(x[:60], x[60:], engine=engine).double().numpy() - expected)
    assert data.n_query == 240
    assert difference.mean() < mean
    assert difference.max() < largest


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_features_score_as_their_matrix_does(metric):
    data = load_demo()
    x = centralize(data.features)  # many identical rows
    q, g = x[data.query].astype(np.float64), x[data.gallery].astype(np.float64)
    labels = (data.ids[data.query], data.ids[data.gallery], data.cams[data.query], data.cams[data.gallery])
    if metric == "euclidean":
        matrix = np.stack([np.linalg.norm(g - row, axis=1) for row in q])
    else:
        directions = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (q, g)]
        matrix = np.stack([1 - (directions[1] * row).sum(axis=1) for row in directions[0]])
    expected = evaluate(matrix.astype(np.float32), *labels)
    scores = evaluate_features(x[data.query], x[data.gallery], *labels, metric=metric)
    assert scores.mAP == pytest.approx(expected.mAP, abs=1e-12)
    np.testing.assert_array_equal(scores.cmc, expected.cmc)
    assert scores.tied_rank1 == expected.tied_rank1
