"""Adapters that recognise a framework by what its objects have, on stand-ins; tests/integrations has the frameworks."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from pose2id import centralize
from pose2id.errors import MissingExtraError
from pose2id.integrations.fiftyone import centralize_samples, read_vectors, score_samples
from pose2id.integrations.pytorch_metric_learning import CentralizedKNN
from pose2id.integrations.wildlife_tools import CentralizedSimilarity

rng = np.random.default_rng(0)
ROWS = torch.tensor(rng.standard_normal((40, 6)))
CAMS = rng.integers(0, 3, 40)


def nearest(query, reference, k, own):
    """By all distances; `own` are no neighbours of themselves."""
    distances = torch.cdist(query, reference, compute_mode="donot_use_mm_for_euclid_dist")
    if own:
        distances[torch.arange(len(query)), torch.arange(len(query))] = torch.inf
    return distances.argsort(dim=1, stable=True)[:, :k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [{"k1": 0}, {}, {"k1": 3, "k2": 3, "alpha": 4}])
def test_knn_of_two_sets_and_of_one(settings, dtype):
    rows = ROWS.to(dtype)
    query, reference = rows[:15], rows[15:]
    knn = CentralizedKNN(**settings, query_exclude=CAMS[:15], reference_exclude=CAMS[15:])
    sides = [centralize(rows, exclude=cams, **settings) for rows, cams in ((query, CAMS[:15]), (reference, CAMS[15:]))]
    distances, indices = knn(query, 25, reference)
    assert indices.tolist() == nearest(*sides, 25, own=False).tolist()
    assert distances.dtype == dtype
    torch.testing.assert_close(distances, torch.cdist(*sides).sort(dim=1).values, atol=1e-4, rtol=0)

    whole = CentralizedKNN(**settings, query_exclude=["unused"], reference_exclude=CAMS)
    better = centralize(rows, exclude=CAMS, **settings)
    assert whole(rows, 39, rows, True)[1].tolist() == nearest(better, better, 39, own=True).tolist()
    assert whole(query, 5, rows, True)[1].tolist() == nearest(better[:15], better, 5, own=True).tolist()


def test_knn_of_tensors_of_any_device(device):
    rows = ROWS.float().to(device)
    distances, indices = CentralizedKNN()(rows[:9], 4, rows, ref_includes_query=True)
    assert distances.device.type == indices.device.type == rows.device.type
    assert indices.tolist() == CentralizedKNN()(ROWS[:9].float(), 4, ROWS.float(), ref_includes_query=True)[1].tolist()


def test_knn_finds_twins_and_not_itself():
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    distances, indices = CentralizedKNN(k1=0)(rows, 1, rows, ref_includes_query=True)
    assert (indices.tolist(), distances.tolist()[:2]) == ([[1], [0], [0]], [[0.0], [0.0]])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((ROWS, 3), "reference must be given"),
        ((ROWS, 41, ROWS), "k must be at most 40 here, received 41"),
        ((ROWS, 40, ROWS, True), "k must be at most 39 here, received 40"),
        ((ROWS, 2, ROWS[:, :5]), r"equally many columns, received \(40, 6\) and \(40, 5\)"),
        ((ROWS, 2, ROWS[:5], True), "reference must begin with the queries, received 5 rows for 40"),
    ],
)
def test_what_a_knn_cannot_find_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        CentralizedKNN()(*arguments)


class Samples(dict):
    """What a FiftyOne collection does with fields."""

    values, set_values = dict.__getitem__, dict.__setitem__


@pytest.mark.parametrize("samples", [[1, 2], np.zeros((2, 3)), None])
def test_what_holds_no_samples_is_named(samples):
    with pytest.raises(
        TypeError, match=f"samples must be a dataset or a view of FiftyOne, received {type(samples).__name__}$"
    ):
        centralize_samples(samples)


def test_samples_with_gaps_are_named():
    samples = Samples(embeddings=[*ROWS.numpy()], person=["a"] * 40, camera=[*CAMS])
    assert np.array_equal(centralize_samples(samples, exclude="camera"), centralize(ROWS.numpy(), exclude=CAMS))
    assert np.array_equal(samples["centralized"], centralize(ROWS.numpy(), exclude=CAMS))
    assert centralize_samples(samples, field=None).shape == (40, 6)
    samples["embeddings"][3] = None
    with pytest.raises(
        ValueError, match=r"'embeddings' must have a value in every sample, received 1 of 40 without.*exists"
    ):
        centralize_samples(samples)
    samples["embeddings"][3] = np.zeros(5)
    with pytest.raises(ValueError, match=r"vectors of one length, received shapes \[\(5,\), \(6,\)\]"):
        read_vectors(samples, "embeddings")
    samples["person"][1] = None
    with pytest.raises(ValueError, match="'person' must have a value in every sample"):
        score_samples(samples, None, "centralized", ids="person")


def test_a_matcher_must_be_callable():
    with pytest.raises(TypeError, match="matcher must be callable"):
        CentralizedSimilarity("cosine")
    with pytest.raises(TypeError, match="'camera' is a column of metadata, which ndarray has not"):
        CentralizedSimilarity(np.dot, exclude="camera")(ROWS.numpy(), ROWS.numpy())


def test_without_torchmetrics_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.delitem(sys.modules, "pose2id.integrations.torchmetrics", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'torchmetrics>=1.0'"):
        import pose2id.integrations.torchmetrics  # noqa: F401
