"""FiftyOne's own data sets, views and fields, on mongomock: its database, which it downloads, is not needed.

So what is not run here is MongoDB itself, and the App.
"""

import numpy as np
import pytest
from support.recipes import run

from pose2id import centralize, evaluate_features
from pose2id.integrations.fiftyone import centralize_samples, read_vectors, score_samples

SETTINGS = {"k1": 3, "k2": 3, "alpha": 4}


@pytest.fixture(scope="module")
def fiftyone(package, tmp_path_factory):
    """The package, with a store of its own."""
    mongomock, mongoengine, pymongo = (package(name) for name in ("mongomock", "mongoengine", "pymongo"))
    store, connect = mongomock.store.ServerStore(), mongoengine.connect

    class Client(mongomock.MongoClient):
        """What FiftyOne asks of a client beside that."""

        _closed, is_primary = False, True

        def __init__(self, *args, **kwargs):
            kwargs.pop("appname", None)
            super().__init__(*args, _store=store, **kwargs)

        def server_info(self):
            return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name, value in {
            "DATABASE_URI": "mongodb://localhost",
            "DO_NOT_TRACK": "1",
            "DISABLE_SERVICES": "1",
            "DATABASE_VALIDATION": "false",
            "SHOW_PROGRESS_BARS": "false",
        }.items():
            patch.setenv(f"FIFTYONE_{name}", value)
        patch.setattr(pymongo, "MongoClient", Client)
        patch.setattr(
            mongoengine, "connect", lambda *args, **kwargs: connect(*args, mongo_client_class=Client, **kwargs)
        )
        yield package("fiftyone")


@pytest.fixture
def dataset(fiftyone, demo):
    """The demo set as samples with tags, a label, a camera and a vector."""
    dataset = fiftyone.Dataset()
    dataset.add_samples(
        [
            fiftyone.Sample(
                filepath=f"/photographs/{row}.jpg",
                tags=[tag],
                ground_truth=fiftyone.Classification(label=str(demo.ids[row])),
                camera=int(demo.cams[row]),
                embeddings=demo.features[row],
            )
            for tag, rows in (("query", demo.query), ("gallery", demo.gallery))
            for row in np.arange(len(demo.ids))[rows]
        ],
        progress=False,
    )
    yield dataset
    dataset.delete()


def test_recipe(dataset, demo):
    names = run("FiftyOne", dataset=dataset)
    better = [
        centralize(demo.features[rows], exclude=demo.cams[rows], **SETTINGS) for rows in (demo.query, demo.gallery)
    ]
    for tag, rows in zip(("query", "gallery"), better, strict=True):
        np.testing.assert_array_equal(read_vectors(dataset.match_tags(tag), "centralized"), rows)
    labels = [part[rows] for part in (demo.ids, demo.cams) for rows in (demo.query, demo.gallery)]
    scores = evaluate_features(*better, *labels, metric="cosine")
    assert names["scores"].mAP == scores.mAP
    assert round(scores.mAP, 4) == 0.86
    written = dataset.match_tags("query").values("average_precision")
    assert written == scores.average_precision.tolist()
    assert names["worst"].values("average_precision") == sorted(written)
    schema = dataset.get_field_schema()
    assert [type(schema[name]).__name__ for name in ("centralized", "average_precision")] == [
        "VectorField",
        "FloatField",
    ]


def test_their_search_finds_the_same(dataset, demo, package):
    """FiftyOne Brain, on the field of centralized vectors; the index is not stored, for that needs GridFS."""
    centralize_samples(dataset.match_tags("query"), k1=0)  # mongomock wants the field in all samples
    gallery = dataset.match_tags("gallery")
    better = centralize_samples(gallery, **SETTINGS, exclude="camera")
    index = package("fiftyone.brain").compute_similarity(
        gallery, embeddings="centralized", backend="sklearn", metric="cosine"
    )
    index.use_view(gallery)  # it holds all samples that have the field
    for vector in centralize(demo.features[demo.query], exclude=demo.cams[demo.query], **SETTINGS)[::120]:
        index.sort_by_similarity(vector, k=10, dist_field="distance")
        found = np.array(gallery.values("distance"), float)  # NaN where it is none of the ten
        expected, rows = 1 - better @ vector, np.flatnonzero(~np.isnan(found))
        assert len(rows) == 10
        np.testing.assert_allclose(found[rows], expected[rows], atol=1e-6)
        np.testing.assert_allclose(np.sort(found[rows]), np.sort(expected)[:10], atol=1e-6)
        gallery.set_values("distance", [None] * len(found))


def test_samples_without_a_vector_are_counted(dataset):
    sample = dataset.first()
    sample["embeddings"] = None
    sample.save()
    with pytest.raises(ValueError, match="'embeddings' must have a value in every sample, received 1 of 1500 without"):
        centralize_samples(dataset, k1=0)


def test_one_set_without_cameras(dataset, demo):
    scores = score_samples(dataset, None, "embeddings", protocol="all", field=None)
    order = np.concatenate([np.arange(len(demo.ids))[rows] for rows in (demo.query, demo.gallery)])
    expected = evaluate_features(demo.features[order], None, demo.ids[order], protocol="all", metric="cosine")
    assert scores.mAP == expected.mAP
    assert "average_precision" not in dataset.get_field_schema()
