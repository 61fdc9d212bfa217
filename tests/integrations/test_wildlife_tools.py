"""wildlife-tools, the clone (1.0.3) and the package (0.0.9): recipe, classifier, calibrated pipeline."""

import sys
import types
from importlib.metadata import distribution

import numpy as np
import pytest
import torch
from support.recipes import run

from pose2id import centralize, evaluate, evaluate_features
from pose2id.integrations.wildlife_tools import CentralizedSimilarity

SETTINGS = {"k1": 3, "k2": 3, "alpha": 4}
# Local features, not those of images as a whole, come from a package that is on GitHub only.
GLUE_FACTORY = {
    "gluefactory": (),
    "gluefactory.models": ("get_model",),
    "gluefactory.models.extractors": (),
    "gluefactory.models.extractors.sift": ("filter_dog_point", "run_opencv_sift"),
    "gluefactory.models.utils": (),
    "gluefactory.models.utils.misc": ("pad_to_length",),
}


def forget():
    for name in [name for name in sys.modules if name.partition(".")[0] in ("wildlife_tools", "gluefactory")]:
        del sys.modules[name]


RELEASES = {"1.0.3": "1.0.3 54449df", "0.0.9": "0.0.9"}  # a clone, and the package


@pytest.fixture(scope="module", params=RELEASES)
def version(request, package):
    """A release, importable as `wildlife_tools`."""
    forget()
    if request.param == "1.0.3":
        request.getfixturevalue("clone")("wildlife-tools")
        for name, members in GLUE_FACTORY.items():
            sys.modules[name] = types.ModuleType(name)
            sys.modules[name].__dict__.update(dict.fromkeys(members), __path__=[])
    else:
        package("wildlife_tools")
        forget()  # of the clone, if it is there
        sys.path.insert(0, str(distribution("wildlife-tools").locate_file("")))
    yield request.param
    forget()
    if request.param == "0.0.9":
        del sys.path[0]


@pytest.fixture
def sets(version, demo):  # noqa: ARG001
    """Query and database as the release holds them, and their identities."""
    from pandas import DataFrame
    from wildlife_tools.data import FeatureDataset

    return [
        FeatureDataset(
            demo.features[rows],
            DataFrame({"identity": demo.ids[rows].astype(str), "camera": demo.cams[rows], "path": "x"}),
        )
        for rows in (demo.query, demo.gallery)
    ]


def expected(data, **settings):
    better = [
        centralize(data.features[rows], **{**settings, "exclude": data.cams[rows]} if settings else {})
        for rows in (data.query, data.gallery)
    ]
    return evaluate_features(*better, data.ids[data.query], data.ids[data.gallery], protocol="all", metric="cosine")


def test_recipe(version, sets):
    query, database = sets
    before = query.features.copy(), database.features.copy()
    names = run("wildlife-tools", query=query, database=database)
    found = names["scores"] if version == "1.0.3" else names["scores"]["cosine"]
    left, right = (
        centralize(rows, exclude=side.metadata["camera"].to_numpy(), **SETTINGS)
        for side, rows in zip(sets, before, strict=True)
    )
    np.testing.assert_allclose(found, left @ right.T, atol=1e-6)
    np.testing.assert_array_equal(query.features, before[0])  # as they were
    np.testing.assert_array_equal(database.features, before[1])


def test_their_classifier_agrees_up_to_ties(version, sets, demo, settings, check):
    """Rank-1 is what their classifier says; they have no mAP, so that is of `evaluate` and their similarities."""
    from wildlife_tools.inference import KnnClassifier
    from wildlife_tools.similarity import CosineSimilarity

    query, database = sets
    of_adapter = {**settings, "exclude": "camera"} if settings else {}
    found = CentralizedSimilarity(CosineSimilarity(), **of_adapter)(query, database)
    found = found if version == "1.0.3" else found["cosine"]
    named = KnnClassifier(database_labels=database.labels_string, k=1)(found)
    figures = (
        evaluate(-found, demo.ids[demo.query], demo.ids[demo.gallery], protocol="all").mAP,
        (named == query.labels_string).mean(),
    )
    scores = expected(demo, **settings)
    assert check(
        figures, scores, f"wildlife-tools {RELEASES[version]}, KnnClassifier, protocol all", settings, tolerance=1e-4
    )


def test_features_of_a_model(version, sets):
    """`DeepFeatures` gives a data set in 1.0 and an array in 0.0.9; both are taken."""
    from wildlife_tools.features import DeepFeatures
    from wildlife_tools.similarity import CosineSimilarity

    for side in sets:
        side.transform = None
    sides = [DeepFeatures(torch.nn.Linear(32, 8), num_workers=0, batch_size=100)(side) for side in sets]
    assert isinstance(sides[0], np.ndarray) == (version == "0.0.9")
    found = CentralizedSimilarity(CosineSimilarity())(*sides)
    left, right = (centralize(getattr(side, "features", side)) for side in sides)
    np.testing.assert_allclose(found if version == "1.0.3" else found["cosine"], left @ right.T, atol=1e-6)


def test_in_a_calibrated_pipeline(version, sets, demo):
    if version == "0.0.9":
        pytest.skip("0.0.9 has no SimilarityPipeline")
    from wildlife_tools.similarity import CosineSimilarity, SimilarityPipeline, WildFusion
    from wildlife_tools.similarity.calibration import LogisticCalibration

    matcher = CentralizedSimilarity(CosineSimilarity(), **SETTINGS, exclude="camera")
    pipeline = SimilarityPipeline(matcher=matcher, calibration=LogisticCalibration())
    pipeline.fit_calibration(*sets)
    fused = WildFusion([pipeline], priority_pipeline=SimilarityPipeline(matcher=matcher))(*sets)
    found = evaluate(-fused, demo.ids[demo.query], demo.ids[demo.gallery], protocol="all")
    scores = expected(demo, **SETTINGS)  # a logistic curve keeps the order
    assert found.mAP == pytest.approx(scores.mAP, abs=1e-4)
    assert found.rank(1) == scores.rank(1)


def test_wrong_columns_are_named(sets):
    from wildlife_tools.similarity import CosineSimilarity

    with pytest.raises(
        ValueError, match="exclude must be a column of metadata, identity, camera, path, received 'cam'"
    ):
        CentralizedSimilarity(CosineSimilarity(), exclude="cam")(*sets)
    with pytest.raises(TypeError, match="give a FeatureDataset"):
        CentralizedSimilarity(CosineSimilarity(), exclude="camera")(*(side.features for side in sets))
    sets[0].metadata.loc[3, "path"] = None
    with pytest.raises(ValueError, match="must have no gaps, received 1"):
        CentralizedSimilarity(CosineSimilarity(), exclude="path")(*sets)
