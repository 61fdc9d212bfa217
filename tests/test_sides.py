"""What adapters of evaluators share, and what they refuse; with the frameworks they run in tests/integrations."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pose2id import centralize
from pose2id.errors import MissingExtraError
from pose2id.integrations import fastreid, torchreid, transreid
from pose2id.integrations.oml import centralized_results
from pose2id.integrations.sides import Sides, imported, replaced

ADAPTERS = [torchreid.centralized, fastreid.centralized, transreid.centralized]
rng = np.random.default_rng(0)


def test_each_side_has_its_own_generated_features_and_cameras():
    query, gallery = rng.standard_normal((20, 8)), rng.standard_normal((50, 8))
    views = {"query_generated": rng.standard_normal((20, 3, 8)), "gallery_generated": rng.standard_normal((50, 3, 8))}
    cams = rng.integers(0, 3, 20), rng.integers(0, 3, 50)
    settings = {"k1": 3, "k2": 4, "alpha": 2.0, "eta": 0.5, "normalize": False}
    found = Sides(**settings, **views, exclude="cams", engine="exact").centralize(query, gallery, *cams)
    for side, rows, made, excluded in zip(found, (query, gallery), views.values(), cams, strict=True):
        np.testing.assert_array_equal(side, centralize(rows, made, exclude=excluded, **settings))
    one = Sides(gallery_generated=views["gallery_generated"]).centralize(query, gallery, *cams)
    np.testing.assert_array_equal(one[0], centralize(query))
    # Frameworks hold tensors, feature files arrays.
    tensors = torch.from_numpy(query), torch.from_numpy(gallery)
    for made in (views, {name: list(rows.swapaxes(0, 1)) for name, rows in views.items()}):
        mixed = Sides(**settings, **made, exclude="cams", engine="exact").centralize(*tensors, *cams)
        for side, expected in zip(mixed, found, strict=True):
            np.testing.assert_array_equal(side.numpy(), expected)


class Evaluator:
    """Has every method that one of the adapters exchanges."""

    def evaluate(self):
        raise OSError("disk")

    _evaluate = compute = evaluate


@pytest.mark.parametrize("centralized", ADAPTERS)
@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"k3": 3}, TypeError, "k3"),
        ({"k1": -1}, ValueError, "k1"),
        ({"engine": "exat"}, ValueError, "did you mean 'exact'"),
        ({"exclude": np.arange(3)}, ValueError, "None or 'cams', received 'ndarray'; the framework holds the cameras"),
        ({"exclude": "camids"}, ValueError, "received 'camids'"),
        ({"gallery_generated": "views.npy"}, TypeError, "gallery_generated must be .* received str"),
    ],
)
def test_wrong_settings_are_refused_before_features_are_extracted(centralized, settings, error, words):
    with pytest.raises(error, match=words), centralized(Evaluator(), **settings):
        pytest.fail("the block was entered")


@pytest.mark.parametrize("centralized", ADAPTERS)
@pytest.mark.parametrize("other", [object(), SimpleNamespace(evaluate=3), dict])
def test_what_has_no_such_method_is_refused_at_once(centralized, other):
    with (
        pytest.raises(TypeError, match=r"has no method \w+, so it is not what"),
        centralized(other),
    ):
        pytest.fail("the block was entered")


def test_what_was_exchanged_is_put_back_after_an_error():
    class Inner(Evaluator):
        pass

    one = Inner()
    for target in (Evaluator, Inner, one):
        before = dict(vars(target))
        with pytest.raises(OSError, match="disk"), replaced(target, "evaluate", lambda evaluate, _: evaluate()):
            one.evaluate()
        assert dict(vars(target)) == before


@pytest.mark.parametrize("of_class", [True, False])
def test_blocks_that_end_in_another_order_leave_nothing(of_class):
    class Counter:
        def count(self):
            return ["plain"]

    counter, count = Counter(), vars(Counter)["count"]
    one, two = (
        replaced(Counter if of_class else counter, "count", lambda count, _, text=text: [text, *count()])
        for text in ("one", "two")
    )
    one.__enter__()
    two.__enter__()
    assert counter.count() == ["two", "one", "plain"]
    one.__exit__(None, None, None)  # as blocks of two threads may
    assert counter.count() == ["two", "plain"]
    two.__exit__(None, None, None)
    assert counter.count() == ["plain"]
    assert "count" not in vars(counter)
    assert vars(Counter)["count"] is count


metrics = SimpleNamespace(compute_distance_matrix=torch.cdist)  # what the file of an engine imports


def test_engines_of_several_threads_do_not_meet():
    rows = torch.tensor(rng.standard_normal((30, 6)))

    class Engine:
        def parse_data_for_eval(self, data):
            return data, None, torch.zeros(len(data))

        def _evaluate(self):
            sides = [self.parse_data_for_eval(part)[0] for part in (rows[:10], rows[10:])]
            together.wait()
            distances = metrics.compute_distance_matrix(*sides)
            together.wait()
            return distances

    def run(settings):
        engine = Engine()
        with torchreid.centralized(engine, **settings):
            return engine._evaluate()

    together = threading.Barrier(2)
    settings = [{}, {"k1": 3, "k2": 3, "alpha": 4}]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(run, settings))
    for distances, each in zip(found, settings, strict=True):
        expected = torch.cdist(*(centralize(part, **each) for part in (rows[:10], rows[10:])))
        torch.testing.assert_close(distances, expected)
    assert metrics.compute_distance_matrix is torch.cdist


def test_the_innermost_exchange_comes_first():
    class Counter:
        def count(self, start, *, step):
            return [start, step]

    def name(text):
        return lambda count, counter, *args, **kwargs: [text, type(counter).__name__, *count(*args, **kwargs)]

    counter = Counter()
    with replaced(Counter, "count", name("class")), replaced(counter, "count", name("object")):
        assert counter.count(1, step=2) == ["object", "Counter", "class", "Counter", 1, 2]
    assert counter.count(1, step=2) == [1, 2]


def test_a_module_that_its_file_does_not_import_is_said():
    assert imported(Evaluator(), "sys", "modules") is sys
    with pytest.raises(TypeError, match=r"Evaluator is not what .*: no file of its classes imports comm\.gather"):
        imported(Evaluator(), "comm", "gather")


comm = SimpleNamespace(get_world_size=lambda: 2, synchronize=lambda: None)  # of two processes, of which this is one


class TwoProcesses:
    """As `ReidEvaluator` on a process that has a part of the rows."""

    def __init__(self, predictions):
        self._num_query, self._predictions = 10, predictions

    def evaluate(self):
        return [prediction["feats"] for part in comm.gather(self._predictions, dst=0) for prediction in part]


@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_process_centralizes_the_rows_of_all(rank, monkeypatch):
    features, cams = torch.tensor(rng.standard_normal((40, 8))), torch.tensor(rng.integers(0, 3, 40))
    parts = [
        [{"feats": features[i : i + 5], "camids": cams[i : i + 5]} for i in range(start, stop, 5)]
        for start, stop in ((0, 25), (25, 40))
    ]
    evaluator = TwoProcesses(parts[rank])
    others = [parts[1], []]  # what the other process sends: its rows when all are gathered, then nothing

    def gather(own, dst):
        return [own, others.pop(0)] if rank == dst else []

    monkeypatch.setattr(comm, "gather", gather, raising=False)
    with fastreid.centralized(evaluator, exclude="cams"):
        found = evaluator.evaluate()
    assert evaluator._predictions is parts[rank]
    if rank == 1:
        assert found == []
    else:
        expected = [centralize(features[rows], exclude=cams[rows]) for rows in (slice(10), slice(10, None))]
        np.testing.assert_array_equal(torch.cat(found), torch.cat(expected))


class Rows(list):
    """A data set of OML, in part."""

    def get_query_ids(self):
        return torch.arange(2)

    get_gallery_ids = get_query_ids


def test_oml_that_is_not_there_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "oml", None)
    with pytest.raises(MissingExtraError, match=r"needs OML 3\.0 or newer: pip install open-metric-learning omegaconf"):
        centralized_results(np.eye(2), Rows([1, 2]))


def test_arrays_of_another_length_than_an_oml_data_set_are_said():
    for given, words in (
        ({}, "embeddings must have 3 rows, as the data set has items, received 2"),
        ({"embeddings": np.eye(3), "generated": np.ones((2, 1, 3))}, "generated must have 3 rows"),
        ({"embeddings": np.eye(3), "exclude": [1, 2]}, r"exclude must have shape \(3,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            centralized_results(**{"embeddings": np.eye(2), "dataset": Rows([1, 2, 3]), **given})
