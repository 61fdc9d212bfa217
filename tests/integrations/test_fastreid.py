"""fast-reid: its `inference_on_dataset` and `ReidEvaluator`, with features in place of pictures."""

import collections
import collections.abc
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.multiprocessing
from support.recipes import insert, run

from pose2id import centralize
from pose2id.integrations.fastreid import centralized

RECOMMENDED = {"k1": 3, "k2": 3, "alpha": 4, "exclude": "cams"}


@pytest.fixture(scope="module")
def evaluation(package, clone):
    """`fastreid.evaluation`, which imports a name that Python moved in 3.3 and removed in 3.10, and compiles itself."""
    for name in ("faiss", "sklearn", "tabulate", "termcolor", "yacs"):
        package(name)
    clone("fast-reid")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collections, "Mapping", collections.abc.Mapping, raising=False)
        module = package("fastreid.evaluation")
        patch.setattr(
            module.reid_evaluation, "compile_helper", lambda: None
        )  # writes into the clone; Python does as well
        yield module


class Loader(list):
    """Batches of 100 rows, queries first, as a loader of fast-reid gives them."""

    def __init__(self, demo, part=slice(None)):
        self.dataset = np.arange(len(demo.ids))[part]  # in the demo set queries stand first
        for start in range(0, len(self.dataset), 100):
            rows = self.dataset[start : start + 100]
            self.append(
                {
                    "images": torch.tensor(demo.features[rows]),
                    "targets": torch.tensor(demo.ids[rows]),
                    "camids": torch.tensor(demo.cams[rows]),
                }
            )


class Network(torch.nn.Module):
    """Gives the rows that stand in for pictures."""

    def forward(self, inputs):
        return inputs["images"]


def configure(metric="euclidean", expansion=False):
    test = {
        "METRIC": metric,
        "AQE": SimpleNamespace(ENABLED=expansion, QE_TIME=1, QE_K=5, ALPHA=3.0),
        "RERANK": SimpleNamespace(ENABLED=False),
        "ROC": SimpleNamespace(ENABLED=False),
    }
    return SimpleNamespace(TEST=SimpleNamespace(**test))


@pytest.fixture
def evaluate(evaluation, demo):
    """A function that runs their evaluation, and gives mAP and rank-1 as shares."""

    def run(evaluator=None, **options):
        evaluator = evaluator or evaluation.ReidEvaluator(configure(**options), demo.n_query)
        results = evaluation.inference_on_dataset(Network(), Loader(demo), evaluator)
        return results["mAP"] / 100, results["Rank-1"] / 100

    return run


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_scores_are_those_of_this_library(evaluation, evaluate, own_scores, check, settings, metric):
    assert check(evaluate(metric="cosine"), own_scores(None, "cosine"))
    with centralized(evaluation.ReidEvaluator, **settings):
        theirs = evaluate(metric=metric)
    assert check(theirs, own_scores(settings, metric), f"fast-reid c9bc3ce, {metric}", settings)


@pytest.fixture
def sides(evaluation, monkeypatch):
    """The features that their evaluator measures distances of, as they come."""
    held, measure = [], evaluation.reid_evaluation.build_dist

    def hold(*args, **kwargs):
        held.append(args[:2])
        return measure(*args, **kwargs)

    monkeypatch.setattr(evaluation.reid_evaluation, "build_dist", hold)
    return held


def centralize_demo(demo, **settings):
    return [
        centralize(torch.tensor(demo.features[rows]), exclude=demo.cams[rows], **settings)
        for rows in (demo.query, demo.gallery)
    ]


def test_recipe(evaluation, package, demo, own_scores, check):
    engine = package("fastreid.engine")

    class Trainer(engine.DefaultTrainer):
        @classmethod
        def build_evaluator(cls, cfg, _):
            return Loader(demo), evaluation.ReidEvaluator(cfg, demo.n_query)

    cfg = configure()
    cfg.DATASETS = SimpleNamespace(TESTS=("demo",))
    cfg.TEST.FLIP = SimpleNamespace(ENABLED=False)
    results = run("fast-reid", DefaultTrainer=Trainer, cfg=cfg, model=Network())["results"]
    assert check((results["mAP"] / 100, results["Rank-1"] / 100), own_scores(RECOMMENDED))


def test_recipe_in_their_source(evaluation, evaluate, demo, sides, own_scores, check, monkeypatch):
    """The adapter gives the same bits."""
    with centralized(evaluation.ReidEvaluator, **RECOMMENDED):
        evaluate()
    edited = insert("fast-reid's source", evaluation.ReidEvaluator.evaluate, "dist = build_dist(")
    monkeypatch.setattr(evaluation.ReidEvaluator, "evaluate", edited)
    assert check(evaluate(), own_scores(RECOMMENDED))
    for first, second, own in zip(*sides, centralize_demo(demo, k1=3, k2=3, alpha=4), strict=True):
        np.testing.assert_array_equal(first, own)
        np.testing.assert_array_equal(second, own)


def test_query_expansion_comes_after(evaluation, evaluate, demo, sides):
    with centralized(evaluation.ReidEvaluator, **RECOMMENDED):
        evaluate(expansion=True)
    expected = evaluation.reid_evaluation.aqe(*centralize_demo(demo, k1=3, k2=3, alpha=4), 1, 5, 3.0)
    for theirs, own in zip(sides[0], expected, strict=True):
        np.testing.assert_array_equal(theirs, own)


def test_what_the_evaluator_holds_is_restored(evaluation, demo):
    evaluator = evaluation.ReidEvaluator(configure(), demo.n_query)
    for inputs in Loader(demo):
        evaluator.process(inputs, inputs["images"])
    before = evaluator.evaluate()
    with centralized(evaluator, **RECOMMENDED):
        assert evaluator.evaluate()["mAP"] > before["mAP"] + 3
    assert evaluator.evaluate() == before
    assert "evaluate" not in vars(evaluator)


def test_generated_features(evaluation, evaluate, demo, sides):
    views = [torch.tensor(demo.generated[rows]) for rows in (demo.query, demo.gallery)]
    with centralized(evaluation.ReidEvaluator, query_generated=views[0], gallery_generated=views[1], eta=2.0):
        evaluate()
    for theirs, rows, made in zip(sides[0], (demo.query, demo.gallery), views, strict=True):
        np.testing.assert_array_equal(theirs, centralize(torch.tensor(demo.features[rows]), made, eta=2.0))


def test_a_wrong_number_of_queries_is_said(evaluation, demo):
    evaluator = evaluation.ReidEvaluator(configure(), 2000)
    with centralized(evaluator), pytest.raises(ValueError, match="built for 2000 queries and holds 1500 rows"):
        evaluation.inference_on_dataset(Network(), Loader(demo), evaluator)


def work(rank, folder, demo):
    """One of two processes, each with its part of the rows, as their sampler cuts them."""
    collections.Mapping = collections.abc.Mapping
    from fastreid import evaluation

    evaluation.reid_evaluation.compile_helper = lambda: None
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    evaluator = evaluation.ReidEvaluator(configure(), demo.n_query)
    part = slice(0, 750) if rank == 0 else slice(750, None)
    with centralized(evaluation.ReidEvaluator, **RECOMMENDED):
        results = evaluation.inference_on_dataset(Network(), Loader(demo, part), evaluator)
    torch.save({name: float(value) for name, value in results.items()}, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(evaluation, evaluate, demo, tmp_path):
    torch.multiprocessing.spawn(work, (tmp_path, demo), nprocs=2)
    with centralized(evaluation.ReidEvaluator, **RECOMMENDED):
        mAP, rank1 = evaluate()
    together = torch.load(tmp_path / "0.pt")
    assert (together["mAP"] / 100, together["Rank-1"] / 100) == (pytest.approx(mAP), pytest.approx(rank1))
    assert torch.load(tmp_path / "1.pt") == {}
