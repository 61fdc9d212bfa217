"""pytorch-metric-learning: its AccuracyCalculator with our `knn_func`, and with its own searches."""

import pytest
import torch
from support.recipes import run

from pose2id import centralize, evaluate_features
from pose2id.integrations.pytorch_metric_learning import CentralizedKNN

SETTINGS = {"k1": 3, "k2": 3, "alpha": 4}
METRICS = (
    "mean_average_precision",
    "mean_average_precision_at_r",
    "precision_at_1",
    "r_precision",
    "mean_reciprocal_rank",
)


@pytest.fixture(scope="module")
def calculator(package):
    make = package("pytorch_metric_learning.utils.accuracy_calculator").AccuracyCalculator
    return lambda knn, **more: make(include=METRICS, k=None, knn_func=knn, device=torch.device("cpu"), **more)


@pytest.fixture(scope="module", params=["CustomKNN, LpDistance", "CustomKNN, CosineSimilarity", "FaissKNN"])
def theirs(request, package):
    inference, distances = (package(f"pytorch_metric_learning.{name}") for name in ("utils.inference", "distances"))
    if request.param == "FaissKNN":
        package("faiss")
        return request.param, inference.FaissKNN()
    kind = distances.LpDistance(normalize_embeddings=False) if "Lp" in request.param else distances.CosineSimilarity()
    return request.param, inference.CustomKNN(kind)


def sides(data):
    """Features, ids and cameras of the queries, and of the gallery."""
    return [(data.features[rows], data.ids[rows], data.cams[rows]) for rows in (data.query, data.gallery)]


def test_recipe(package, demo):
    package("pytorch_metric_learning")
    (query, query_ids, query_cams), (gallery, gallery_ids, gallery_cams) = sides(demo)
    names = run(
        "pytorch-metric-learning",
        **{name: value for name, value in locals().items() if name not in ("package", "demo")},
    )
    better = [centralize(rows, exclude=cams, **SETTINGS) for rows, _, cams in sides(demo)]
    scores = evaluate_features(*better, query_ids, gallery_ids, protocol="all")
    found = names["accuracies"]
    assert found["mean_average_precision"] == pytest.approx(scores.mAP, abs=1e-12)
    assert found["precision_at_1"] == scores.rank(1)
    assert scores.span.mAP == (scores.mAP, scores.mAP)
    assert [round(value, 4) for value in (scores.mAP, scores.rank(1))] == [0.8688, 0.9167]


def test_their_search_agrees_up_to_ties(calculator, theirs, demo, settings, check):
    (query, query_ids, query_cams), (gallery, gallery_ids, gallery_cams) = sides(demo)
    better = [centralize(rows, **{**settings, "exclude": cams} if settings else {}) for rows, _, cams in sides(demo)]
    scores = evaluate_features(*better, query_ids, gallery_ids, protocol="all")
    found = calculator(theirs[1]).get_accuracy(better[0], query_ids, better[1], gallery_ids)
    figures = found["mean_average_precision"], found["precision_at_1"]
    assert check(figures, scores, f"pytorch-metric-learning 2.9.0, {theirs[0]}, protocol all", settings)

    labels = {"query_exclude": query_cams, "reference_exclude": gallery_cams} if settings else {}
    ours = CentralizedKNN(**{name: value for name, value in settings.items() if name != "exclude"}, **labels)
    found = calculator(ours).get_accuracy(query, query_ids, gallery, gallery_ids)
    assert found["mean_average_precision"] == pytest.approx(scores.mAP, abs=1e-12)
    assert found["precision_at_1"] == scores.rank(1)


def test_one_set_and_a_query_that_is_its_beginning(calculator, theirs, demo):
    _, (gallery, ids, cams) = sides(demo)
    ours = calculator(CentralizedKNN(**SETTINGS, reference_exclude=cams))
    better = centralize(gallery, exclude=cams, **SETTINGS)
    scores = evaluate_features(better, None, ids, protocol="all")
    whole = ours.get_accuracy(gallery, ids)
    assert whole["mean_average_precision"] == pytest.approx(scores.mAP, abs=1e-12)
    # CustomKNN sees distances of float32 products, in which some that are nearly equal change places.
    found = calculator(theirs[1]).get_accuracy(better, ids)["mean_average_precision"]
    assert found == pytest.approx(scores.mAP, abs=1e-5)
    part = ours.get_accuracy(gallery[:300], ids[:300], gallery, ids, ref_includes_query=True)
    assert part["mean_average_precision"] == pytest.approx(scores.average_precision[:300].mean(), abs=1e-12)
