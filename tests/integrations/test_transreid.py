"""TransReID and CLIP-ReID: their `do_inference` and `R1_mAP_eval`, with features in place of pictures."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.recipes import insert, run

from pose2id import centralize, rerank
from pose2id.integrations.transreid import centralized

RECOMMENDED = {"k1": 3, "k2": 3, "alpha": 4, "exclude": "cams"}
PROCESSORS = {"TransReID": "processor.processor", "CLIP-ReID": "processor.processor_clipreid_stage2"}
COMMITS = {"TransReID": "dec5504", "CLIP-ReID": "eb1898b"}


@pytest.fixture(scope="module", params=PROCESSORS)
def project(request, package, clone):
    """The modules of one of them; both call theirs `utils` and `processor`."""
    clone(request.param)
    metrics, processor = package("utils.metrics"), package(PROCESSORS[request.param])
    return SimpleNamespace(
        name=f"{request.param} {COMMITS[request.param]}",
        metrics=metrics,
        evaluator=metrics.R1_mAP_eval,
        processor=processor,
    )


class Pictures:
    """A batch that says it went to the GPU."""

    def __init__(self, rows):
        self.rows = rows

    def to(self, device):
        assert device == "cuda"
        return self


class Network:
    """Passes features on, and says that it went to the GPU."""

    def to(self, device):
        assert device == "cuda"

    def eval(self):
        pass

    def __call__(self, pictures, **_):
        return pictures.rows


def batches(demo):
    """Batches of 100 rows, queries first, as their loaders give them."""
    for start in range(0, len(demo.ids), 100):  # in the demo set queries stand first
        rows = slice(start, start + 100)
        cams = tuple(demo.cams[rows].tolist())
        features = Pictures(torch.tensor(demo.features[rows]))
        yield features, demo.ids[rows].tolist(), cams, Pictures(cams), Pictures(cams), [""] * len(cams)


CONFIGURATION = SimpleNamespace(
    TEST=SimpleNamespace(FEAT_NORM="yes"), MODEL=SimpleNamespace(SIE_CAMERA=True, SIE_VIEW=False)
)


@pytest.fixture
def computed(project, monkeypatch):
    """What `R1_mAP_eval.compute` gave in full; `do_inference` returns two of the figures."""
    held, compute = [], project.evaluator.compute

    def hold(self):
        held.append(compute(self))
        return held[-1]

    monkeypatch.setattr(project.evaluator, "compute", hold)
    return held


def infer(project, demo, computed):
    rank1, _ = project.processor.do_inference(CONFIGURATION, Network(), batches(demo), demo.n_query)
    assert rank1 == computed[-1][0][0]
    return float(computed[-1][1]), float(rank1)


def test_scores_are_those_of_this_library(project, demo, computed, own_scores, check, settings):
    assert check(infer(project, demo, computed), own_scores(None, "cosine"))
    with centralized(project.evaluator, **settings):
        theirs = infer(project, demo, computed)
    assert check(theirs, own_scores(settings), project.name, settings)


def test_recipe(project, demo, own_scores, check, computed):
    given = {"cfg": CONFIGURATION, "model": Network(), "val_loader": batches(demo), "num_query": demo.n_query}
    run("TransReID, CLIP-ReID", do_inference=project.processor.do_inference, **given)
    assert check((computed[-1][1], computed[-1][0][0]), own_scores(RECOMMENDED))


def test_recipe_in_their_source(project, demo, monkeypatch):
    """Where it stands, features have length 1, and generated features must have it."""
    edited = insert("TransReID's source", project.evaluator.compute, "if self.reranking:")
    sides = []
    for side, rows in (("q", demo.query), ("g", demo.gallery)):
        features, views = (
            torch.nn.functional.normalize(torch.tensor(array[rows]), dim=-1)
            for array in (demo.features, demo.generated)
        )
        monkeypatch.setitem(edited.__globals__, f"generated_{side}", views)
        sides.append(centralize(features, views, eta=2.0, k1=3, k2=3, alpha=4, exclude=demo.cams[rows]))
    *_, qf, gf = edited(fill(project, demo))
    np.testing.assert_array_equal(qf, sides[0])
    np.testing.assert_array_equal(gf, sides[1])


def test_stable_order_leaves_no_difference(project, demo, computed, own_scores, check, monkeypatch):
    monkeypatch.setattr(np, "argsort", partial(np.argsort, kind="stable"))
    with centralized(project.evaluator):
        assert check(infer(project, demo, computed), own_scores({}))


def fill(project, demo, **options):
    evaluator = project.evaluator(demo.n_query, **options)
    evaluator.reset()
    for pictures, ids, cams, *_ in batches(demo):
        evaluator.update((pictures.rows, ids, cams))
    return evaluator


def test_one_evaluator(project, demo):
    """With generated features, and without their scaling: the rows are those of `centralize`, to the bit."""
    views = [torch.tensor(demo.generated[rows]) for rows in (demo.query, demo.gallery)]
    evaluator = fill(project, demo, feat_norm=False)
    with centralized(evaluator, query_generated=views[0], gallery_generated=views[1], eta=2.0):
        *_, qf, gf = evaluator.compute()
    for theirs, rows, made in zip((qf, gf), (demo.query, demo.gallery), views, strict=True):
        np.testing.assert_array_equal(theirs, centralize(torch.tensor(demo.features[rows]), made, eta=2.0))
    np.testing.assert_array_equal(evaluator.compute()[-1], demo.features[demo.gallery])


def test_re_ranking_is_theirs_of_centralized_features(project, demo):
    """In float16 there, which is said by value."""
    evaluator = fill(project, demo, reranking=True)
    with centralized(evaluator, **RECOMMENDED):
        _, mAP, distances, *_ = evaluator.compute()
    sides = [
        centralize(demo.features[rows], k1=3, k2=3, alpha=4, exclude=demo.cams[rows])
        for rows in (demo.query, demo.gallery)
    ]
    own = rerank(*sides, k1=50, k2=15, lambda_value=0.3)
    assert 1e-4 < np.abs(distances - own).max() < 1e-2
    assert mAP > 0.87


def test_a_wrong_number_of_queries_is_said(project, demo):
    evaluator = fill(project, demo)
    evaluator.num_query = 2000
    with centralized(evaluator), pytest.raises(ValueError, match="built for 2000 queries and holds 1500 rows"):
        evaluator.compute()
