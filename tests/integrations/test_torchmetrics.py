"""torchmetrics: the recipe in a MetricCollection, processes that exchange rows, and how RetrievalMAP differs."""

import doctest
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.recipes import run

from pose2id import centralize, evaluate_features
from pose2id.evaluation import PROTOCOLS

SETTINGS = {"k1": 3, "k2": 3, "alpha": 4}


@pytest.fixture(scope="module", autouse=True)
def adapter(package):
    package("torchmetrics")
    return package("pose2id.integrations.torchmetrics")


def sides(data):
    """Features, ids and cameras of the queries, and of the gallery."""
    return [
        tuple(torch.tensor(part[rows]) for part in (data.features, data.ids, data.cams))
        for rows in (data.query, data.gallery)
    ]


def expected(data, *, exclude=True, protocol="market1501", **settings):
    """What `evaluate_features` says."""
    query, gallery = (
        centralize(rows, exclude=cams if exclude else None, **settings) if settings else rows
        for rows, _, cams in sides(data)
    )
    labels = (data.ids[data.query], data.ids[data.gallery], data.cams[data.query], data.cams[data.gallery])
    return evaluate_features(query, gallery, *labels, metric="euclidean" if settings else "cosine", protocol=protocol)


def batches(side, size=100):
    return zip(*(part.split(size) for part in side), strict=True)


def fill(metric, data, size=100):
    for side, is_query in zip(sides(data), (True, False), strict=True):
        for batch in batches(side, size):
            metric.update(*batch, query=is_query)
    return metric


def test_examples(adapter):
    assert doctest.testmod(adapter) == doctest.TestResults(failed=0, attempted=7)


def test_recipe(demo):
    queries, gallery = ([*batches(side)] for side in sides(demo))
    names = run("torchmetrics", model=torch.nn.Identity(), query_loader=queries, gallery_loader=gallery)
    scores, collection = names["scores"], names["metrics"]
    before, after = expected(demo), expected(demo, **SETTINGS)
    assert {name: round(value.item(), 4) for name, value in scores.items()} == {
        f"{name}_{key}": round(value, 4)
        for name, found in (("before", before), ("after", after))
        for key, value in {"mAP": found.mAP, "mINP": found.mINP, **{f"R{k}": found.rank(k) for k in (1, 5, 10)}}.items()
    }
    assert (round(before.mAP, 4), round(after.mAP, 4)) == (0.8144, 0.8600)
    assert collection.compute_groups == {0: ["after", "before"]}  # they hold the features once
    collection.reset()
    collection.update(*queries[0], query=True)
    assert [len(metric.features) for metric in collection.values()] == [1, 1]


@pytest.mark.parametrize("protocol", ["market1501", "all", "cuhk03", replace(PROTOCOLS["cuhk03"], seed=3)], ids=str)
def test_protocols(adapter, demo, protocol):
    metric = fill(adapter.ReIDScores(protocol=protocol, centralize=True, exclude="cams", **SETTINGS), demo, 37)
    found, wanted = metric.scores(), expected(demo, protocol=protocol, **SETTINGS)
    assert (found.mAP, found.cmc.tolist(), found.span.mAP) == (wanted.mAP, wanted.cmc.tolist(), wanted.span.mAP)


def test_junk_and_one_set(adapter, demo):
    ids = np.where(np.arange(len(demo.ids)) % 7 == 0, -1, demo.ids)
    metric = adapter.ReIDScores()
    metric.update(demo.features, ids, demo.cams)
    assert metric.scores().mAP == evaluate_features(demo.features, None, ids, None, demo.cams).mAP
    assert metric.clone().compute()["R1"].dtype == torch.float32
    assert metric.set_dtype(torch.float64).compute()["R1"].item() == metric.scores().rank(1)


def test_forward_reset_pickle_and_clone(adapter, demo):
    metric = adapter.ReIDScores(ranks=(1, 3), centralize=True, k1=2)
    query, gallery = sides(demo)
    assert metric(*query, query=True) is None
    assert metric(*gallery, query=False) is None
    first = metric.compute()
    assert list(first) == ["mAP", "mINP", "R1", "R3"]
    assert pickle.loads(pickle.dumps(metric)).compute() == metric.clone().compute() == first
    metric.reset()
    assert metric.features == []
    assert fill(metric, demo).compute() == first


PROGRAM = """
import sys
import torch
sys.path[:0] = {path!r}
from support.operators import declare_operators
kept = declare_operators()
import torch.distributed as dist
from pose2id.datasets import load_demo
from pose2id.integrations.torchmetrics import ReIDScores

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
data = load_demo()
metric = ReIDScores(centralize=True)  # published: rows are tied, so the order shows
for rows, query in ((data.query, True), (data.gallery, False)):
    sides = [part[rows] for part in (data.features, data.ids, data.cams)]
    numbers = torch.arange(len(sides[0]))[:-1]  # an odd number, so the sampler repeats one
    sampler = torch.utils.data.DistributedSampler(numbers, num_replicas=2, rank=rank, shuffle=False)
    for n in torch.tensor([*sampler]).split(50):
        metric.update(*(part[n.numpy()] for part in sides), query=query, rows=n)
values = metric.compute()
with metric.sync_context():
    print(rank, repr(values["mAP"].item()), repr(metric.scores().mAP), metric.scores().valid_queries)
"""


def test_two_processes(adapter, demo, tmp_path):
    query, gallery = ([part[:-1] for part in side] for side in sides(demo))
    alone = adapter.ReIDScores(centralize=True)
    alone.update(*query, query=True)
    alone.update(*gallery, query=False)
    program = PROGRAM.format(path=sys.path)
    command = [sys.executable, "-W", "ignore", "-c", program]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meeting")], stdout=subprocess.PIPE, text=True)
        for rank in (0, 1)
    ]
    said = sorted(process.communicate(timeout=120)[0] for process in started)
    one = f"{alone.compute()['mAP'].item()!r} {alone.scores().mAP!r} {alone.scores().valid_queries}\n"
    assert said == [f"0 {one}", f"1 {one}"]


def test_rows_that_come_twice_count_once(adapter, demo):
    query, gallery = sides(demo)
    once = adapter.ReIDScores(metric="cosine")
    once.update(*query, query=True)
    once.update(*gallery, query=False)
    twice = adapter.ReIDScores(metric="cosine")
    for side, is_query in ((gallery, False), (query, True)):
        for half in (
            torch.arange(0, len(side[0]), 2),
            torch.arange(len(side[0]) - 5, -1, -1),
            torch.arange(1, len(side[0]), 2),
        ):
            twice.update(*(part[half] for part in side), query=is_query, rows=half)
    assert twice.scores().average_precision.tolist() == once.scores().average_precision.tolist()


def retrieve(package, name, preds, data, **options):
    """What a metric of torchmetrics' own makes of scores, higher is better; junk by the camera rule left out."""
    target = data.ids[data.query][:, None] == data.ids[data.gallery]
    same_camera = data.cams[data.query][:, None] == data.cams[data.gallery]
    target = torch.tensor(np.where(target & same_camera, -1, target))
    numbers = torch.arange(len(target))[:, None].expand(target.shape)
    metric = getattr(package("torchmetrics.retrieval"), name)(ignore_index=-1, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it gives none
        return metric(preds.float(), target, indexes=numbers).item()


def test_their_own_metrics_agree_up_to_ties(package, demo, own_scores, check, settings):
    query, gallery = (
        centralize(rows, **{**settings, "exclude": cams} if settings else {}) for rows, _, cams in sides(demo)
    )
    preds = 2 - torch.cdist(query.double(), gallery.double())
    found = retrieve(package, "RetrievalMAP", preds, demo), retrieve(package, "RetrievalHitRate", preds, demo, top_k=1)
    assert check(found, own_scores(settings), "torchmetrics 1.9.0, RetrievalMAP, RetrievalHitRate", settings)


def test_retrieval_map_takes_what_is_not_positive_for_wrong(package, adapter, demo):
    """The trap: minus the distance gives 0, cosines below 0 leave right items out; neither with a warning."""
    query, gallery = (rows.double() for rows, _, _ in sides(demo))
    assert retrieve(package, "RetrievalMAP", -torch.cdist(query, gallery), demo) == 0.0

    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]], dtype=torch.float64)
    metric = adapter.ReIDScores(metric="cosine")
    metric.update(gallery[:1], [7], query=True)
    metric.update(gallery, [7, 5, 7], query=False)
    assert metric.scores().mAP == (1 + 2 / 3) / 2
    cosines, target, numbers = gallery @ gallery[0], torch.tensor([True, False, True]), torch.zeros(3, dtype=torch.long)
    theirs = package("torchmetrics.retrieval").RetrievalMAP()
    assert theirs(cosines, target, indexes=numbers) == 1.0
    assert theirs(1 + cosines, target, indexes=numbers).item() == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"protocol": "market"}, "did you mean 'market1501'"),
        ({"metric": "l2"}, "metric must be one of"),
        ({"ranks": (0,)}, "ranks"),
        ({"centralize": 1}, "centralize must be True or False"),
        ({"k1": 3}, "k1 needs centralize=True"),
        ({"centralize": True, "k1": -1}, "k1"),
        ({"centralize": True, "exclude": "camera"}, "exclude must be None or 'cams'"),
        ({"k3": 1}, "k3"),
    ],
)
def test_wrong_settings_are_named_at_once(adapter, settings, words):
    with pytest.raises((TypeError, ValueError), match=words):
        adapter.ReIDScores(**settings)


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"features": torch.zeros(3), "ids": [1, 2, 3]}, "features must have shape"),
        ({"features": torch.zeros(3, 2), "ids": [1, 2]}, "ids must have shape"),
        ({"features": torch.zeros(3, 2), "ids": ["a", "b", "c"]}, "ids must be integers, received strings"),
        ({"features": torch.zeros(3, 2), "ids": [1, 2, 3], "query": 1}, "query must be"),
        ({"features": torch.zeros(3, 2), "ids": [1, 2, 3], "query": [True, False]}, "query must be"),
    ],
)
def test_wrong_batches_are_named(adapter, batch, words):
    with pytest.raises((TypeError, ValueError), match=words):
        adapter.ReIDScores().update(**batch)


def test_what_does_not_fit_together_is_named(adapter, demo):
    metric = adapter.ReIDScores()
    with pytest.raises(ValueError, match="call update first"):
        metric.scores()
    metric.update(demo.features, demo.ids, demo.cams, query=True)
    with pytest.raises(ValueError, match="at least one row must be of the gallery"):
        metric.compute()
    metric.update(demo.features, demo.ids, query=False)
    with pytest.raises(ValueError, match="in every update or in none"):
        metric.compute()
    metric = adapter.ReIDScores(centralize=True, exclude="cams")
    metric.update(demo.features, demo.ids)
    with pytest.raises(ValueError, match="needs the cams"):
        metric.compute()
