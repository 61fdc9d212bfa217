"""torchreid of GitHub: its own engines test, with features in place of pictures and a network that passes them on."""

from functools import partial
from importlib.metadata import version
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.recipes import insert, run

from pose2id import centralize
from pose2id.integrations.torchreid import centralized

RECOMMENDED = {"k1": 3, "k2": 3, "alpha": 4, "exclude": "cams"}


@pytest.fixture(scope="module", params=["PyPI", "GitHub"])  # in this order: a clone stays first on the path
def torchreid(request, package, clone):
    """What has `engine`, `metrics` and `utils`; under the same name PyPI has an older one of another layout."""
    package("torchvision")
    if request.param == "GitHub":
        clone("deep-person-reid")
        found = package("torchreid")
        found.title = f"torchreid {found.__version__} f8cd150"
    else:
        package("torchreid.reid.engine")
        found = package("torchreid.reid")
        found.title = f"torchreid {version('torchreid')}"
    return found


class Batches(list):
    """Batches of 100 rows, as a loader of torchreid gives them."""

    def __init__(self, features, ids, cams, shape=(-1,)):
        for start in range(0, len(features), 100):
            rows = slice(start, start + 100)
            image = torch.tensor(features[rows])
            self.append(
                {
                    "img": image.reshape(len(image), *shape),
                    "pid": torch.tensor(ids[rows]),
                    "camid": torch.tensor(cams[rows]),
                }
            )


def build(torchreid, demo, kind="ImageSoftmaxEngine", shape=(-1,), targets=("demo",), network=None):
    loaders = {
        side: Batches(demo.features[rows], demo.ids[rows], demo.cams[rows], shape)
        for side, rows in (("query", demo.query), ("gallery", demo.gallery))
    }
    manager = SimpleNamespace(
        train_loader=[], test_loader=dict.fromkeys(targets, loaders), sources=[], num_train_pids=3
    )
    return getattr(torchreid.engine, kind)(manager, network or torch.nn.Identity(), None, use_gpu=False)


@pytest.fixture
def engine(torchreid, demo):
    return build(torchreid, demo)


def evaluate(engine, **options):
    """What `engine.test` prints rounded, in full."""
    loaders = engine.test_loader["demo"]
    rank1, mAP = engine._evaluate("demo", loaders["query"], loaders["gallery"], **options)
    return float(mAP), float(rank1)


@pytest.fixture
def matrices(torchreid, monkeypatch):
    """The distances that the engine ranks by, as they come."""
    held, rank = [], torchreid.metrics.evaluate_rank

    def hold(distances, *args, **kwargs):
        held.append(distances)
        return rank(distances, *args, **kwargs)

    monkeypatch.setattr(torchreid.metrics, "evaluate_rank", hold)
    return held


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_scores_are_those_of_this_library(torchreid, engine, own_scores, check, settings, metric):
    assert check(evaluate(engine, dist_metric=metric, normalize_feature=True), own_scores(None, "cosine"))
    with centralized(engine, **settings):
        theirs = evaluate(engine, dist_metric=metric)
    assert check(theirs, own_scores(settings, metric), f"{torchreid.title}, {metric}", settings)


def test_stable_order_leaves_no_difference(engine, own_scores, check, monkeypatch):
    monkeypatch.setattr(np, "argsort", partial(np.argsort, kind="stable"))
    with centralized(engine):
        assert check(evaluate(engine, dist_metric="cosine"), own_scores({}, "cosine"))


def test_recipe(torchreid, engine, demo, matrices, own_scores, capsys):
    run("torchreid", engine=engine)
    assert f"mAP: {own_scores(RECOMMENDED, 'cosine').mAP:.1%}" in capsys.readouterr().out
    qf, gf = (
        centralize(torch.tensor(demo.features[rows]), k1=3, k2=3, alpha=4, exclude=demo.cams[rows])
        for rows in (demo.query, demo.gallery)
    )
    np.testing.assert_array_equal(matrices[0], torchreid.metrics.compute_distance_matrix(qf, gf, "cosine").numpy())


def test_recipe_in_their_source(engine, own_scores, check, matrices, monkeypatch):
    with centralized(engine, **RECOMMENDED):
        evaluate(engine)
    line = "distmat = metrics.compute_distance_matrix(qf, gf, dist_metric)"
    monkeypatch.setattr(type(engine), "_evaluate", insert("torchreid's source", type(engine)._evaluate, line))
    assert check(evaluate(engine), own_scores(RECOMMENDED))
    np.testing.assert_array_equal(*matrices)


@pytest.mark.parametrize(
    "options", [{}, {"dist_metric": "cosine"}, {"normalize_feature": True}, {"rerank": True}], ids=str
)
def test_distances_are_those_of_the_recipe_in_their_source(torchreid, engine, demo, matrices, options):
    """The recipe edits `_evaluate` before the distances; the adapter gives the same bits."""
    settings = {"k1": 3, "k2": 3, "alpha": 4}
    with centralized(engine, exclude="cams", **settings):
        evaluate(engine, **options)
    sides = [torch.tensor(demo.features[rows]) for rows in (demo.query, demo.gallery)]
    if options.get("normalize_feature"):
        sides = [torch.nn.functional.normalize(rows, p=2, dim=1) for rows in sides]
    qf, gf = (
        centralize(rows, exclude=demo.cams[part], **settings)
        for rows, part in zip(sides, (demo.query, demo.gallery), strict=True)
    )
    measure, metric = torchreid.metrics.compute_distance_matrix, options.get("dist_metric", "euclidean")
    expected = measure(qf, gf, metric).numpy()
    if options.get("rerank"):
        pairs = (measure(qf, qf, metric), measure(gf, gf, metric))
        expected = torchreid.utils.re_ranking(expected, *(pair.numpy() for pair in pairs))
    np.testing.assert_array_equal(matrices[0], expected)


def test_test_prints_it_for_each_target(torchreid, demo, own_scores, capsys):
    engine = build(torchreid, demo, targets=("one", "two"))
    with centralized(engine, **RECOMMENDED):
        engine.test(dist_metric="cosine")
    scores = own_scores(RECOMMENDED, "cosine")
    assert capsys.readouterr().out.count(f"mAP: {scores.mAP:.1%}") == 2


def test_video_engines(torchreid, demo, own_scores, check):
    engine = build(torchreid, demo, "VideoSoftmaxEngine", (1, -1, 1, 1), network=torch.nn.Flatten())
    with centralized(type(engine), engine="exact", **RECOMMENDED):
        assert check(evaluate(engine, dist_metric="cosine"), own_scores(RECOMMENDED, "cosine"))


def test_generated_features(torchreid, engine, demo, matrices):
    views = [torch.tensor(demo.generated[rows]) for rows in (demo.query, demo.gallery)]
    with centralized(engine, query_generated=views[0], gallery_generated=views[1], eta=2.0):
        evaluate(engine)
    sides = (demo.query, demo.gallery)
    qf, gf = (centralize(torch.tensor(demo.features[s]), v, eta=2.0) for s, v in zip(sides, views, strict=True))
    np.testing.assert_array_equal(matrices[0], torchreid.metrics.compute_distance_matrix(qf, gf).numpy())


def test_all_is_restored_also_after_an_error(torchreid, engine):
    before = torchreid.metrics.compute_distance_matrix
    with pytest.raises(ValueError, match="manhattan"), centralized(engine):
        evaluate(engine, dist_metric="manhattan")  # which torchreid refuses
    assert torchreid.metrics.compute_distance_matrix is before
    assert not {"_evaluate", "parse_data_for_eval"} & set(vars(engine))


def test_another_engine_in_the_block_is_left_alone(torchreid, engine, demo, own_scores, check):
    other = build(torchreid, demo)
    with centralized(engine):
        assert check(evaluate(other, normalize_feature=True), own_scores(None, "cosine"))


def test_an_engine_that_measures_elsewhere_is_noticed(torchreid, demo, monkeypatch):
    engine = build(torchreid, demo)
    monkeypatch.setattr(type(engine), "_evaluate", lambda *_, **__: (1.0, 1.0))
    with centralized(engine), pytest.raises(RuntimeError, match="nothing was centralized"):
        evaluate(engine)
