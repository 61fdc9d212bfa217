"""The approximate engines: they may miss a neighbour, but what they report is one, at its distance, in its place.

And the measured recall, and what "auto" takes.
"""

import functools
import importlib.util
import logging
import sys
import types

import numpy as np
import pytest
import torch
from reference.neighbors import distance_matrix, knn
from support.arrays import ArrayKind, as_float64
from support.faiss import StandIn, put
from support.standin import reason_to_skip, standin

from pose2id import MissingExtraError, centralize, knn_graph
from pose2id.neighbors import ENGINES, _exact, _faiss, _pivots, choose_engine, engines, find_neighbors
from pose2id.neighbors._int8 import machine

F32 = ArrayKind("numpy", "float32")
NAMES = [name for name, engine in ENGINES.items() if not engine.exact]


@pytest.fixture(params=NAMES)
def engine(request, monkeypatch):
    """Every approximate engine, on sets of 200 rows and more."""
    if request.param.startswith("faiss") and importlib.util.find_spec("faiss") is None:
        pytest.skip("faiss is not installed")
    monkeypatch.setattr(_pivots, "SMALLEST", 200)
    monkeypatch.setattr(_faiss, "SMALLEST", 200)
    return request.param


def people(n, width, seed=0):
    """Rows around identities around groups, as re-identification features are, of length 1."""
    rng = np.random.default_rng(seed)
    groups = rng.standard_normal((20, width))
    identities = groups[rng.integers(0, 20, n // 8)] + 0.8 * rng.standard_normal((n // 8, width))
    rows = identities[rng.integers(0, n // 8, n)] + 0.7 * rng.standard_normal((n, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def some_rows(n=600, width=20, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width))


SETS = {
    "people": people(600, 20),
    "wide": people(400, 300),
    "duplicates": some_rows()[np.random.default_rng(1).integers(0, 200, 600)],
    "identical": np.ones((300, 5)),
    "zeros": np.zeros((300, 3)),
    "one column": some_rows(400, 1),
    "small integers": np.random.default_rng(2).integers(-2, 3, (500, 4)).astype(float),
    "large mean": some_rows() + 4096.0,
    "tiny": some_rows() * 1e-20,
    "huge": some_rows() * 1e18,
    "very different lengths": some_rows() * np.exp(np.random.default_rng(3).uniform(-40, 40, (600, 1))),
    "one far out": np.vstack([some_rows(), np.full((1, 20), 1e15)]),
}


def assert_real(graph, x, k, single, exclude=None):
    """Every reported distance is that of the pair, in the contract's order; nobody is his own neighbour, or twice."""
    indices, distances = as_float64(graph.indices).astype(int), as_float64(graph.distances)
    assert indices.shape == distances.shape == (len(x), k)
    real = indices >= 0
    assert ((indices >= -1) & (indices < len(x))).all()
    assert np.isinf(distances[~real]).all()
    assert not (indices == np.arange(len(x))[:, None]).any()
    scale = 1 / np.abs(x).max() if x.any() else 1.0
    true = np.linalg.norm((x[:, None] - x[indices]) * scale, axis=2) / scale
    np.testing.assert_allclose(distances[real], true[real], rtol=1e-6 if single else 1e-12, atol=0)
    for row, far in zip(indices, distances, strict=True):
        found = row[row >= 0]
        assert len(set(found)) == len(found)
        assert (row[: len(found)] == found).all()  # padding is last
        assert (np.lexsort((found, far[: len(found)])) == np.arange(len(found))).all()
    if exclude is not None:
        assert not ((exclude[:, None] == exclude[indices]) & real).any()


def nearest(x, k, *, single=True, exclude=None):
    """The k nearest by (distance, index), -1 for none; `reference.neighbors.knn`, for more rows."""
    table = distance_matrix(x, x, single=single)
    np.fill_diagonal(table, np.inf)
    if exclude is not None:
        table[exclude[:, None] == exclude] = np.inf
    order = np.argsort(table, axis=1, kind="stable")[:, :k]
    return np.where(np.isinf(np.take_along_axis(table, order, axis=1)), -1, order)


def recall(graph, truth):
    """The share of the true neighbours (N, k), -1 for none, that were found."""
    found = (as_float64(graph.indices)[:, :, None] == truth[:, None, :]) & (truth[:, None, :] >= 0)
    return found.sum() / (truth >= 0).sum()


@functools.cache
def crowd(n, width):
    """float32 rows, and their two nearest."""
    x = F32.rounded(people(n, width))
    return x, nearest(x, 2)


def test_the_two_references_agree():
    x, labels = F32.rounded(SETS["small integers"][:80]), np.arange(80) % 40
    np.testing.assert_array_equal(nearest(x, 3), knn(x, 3)[0])
    np.testing.assert_array_equal(nearest(x, 79, exclude=labels), knn(x, 79, exclude=labels)[0])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("k", [1, 3, 20])
def test_what_is_reported_is_real(engine, name, k):
    x = F32.rounded(SETS[name])
    assert_real(knn_graph(F32.make(x), k, engine=engine), x, k, single=True)


def test_kinds_of_array(engine, array_kind):
    x = array_kind.rounded(people(300, 20))
    graph = knn_graph(array_kind.make(x), 3, engine=engine)
    assert array_kind.has_container(graph.indices)
    assert str(graph.indices.dtype).removeprefix("torch.") == "int64"
    assert str(graph.distances.dtype).removeprefix("torch.") == array_kind.distance_dtype
    assert_real(graph, x, 3, array_kind.single)
    assert recall(graph, nearest(x, 3, single=array_kind.single)) > 0.9


@pytest.mark.parametrize("width", [40, 300])
def test_device_is_that_of_the_input(engine, device, width):
    features = torch.tensor(people(600, width), dtype=torch.float32, device=device)
    graph = knn_graph(features, 3, engine=engine)
    assert graph.indices.device == graph.distances.device == features.device
    assert_real(graph, as_float64(features), 3, single=True)
    assert recall(graph, nearest(as_float64(features), 3)) > 0.9


@pytest.mark.parametrize("scale", [2.0**-66, 1.0, 2.0**60])
@pytest.mark.parametrize("shape", [(2000, 24), (1500, 300)])
def test_recall(engine, shape, scale):
    x, truth = crowd(*shape)
    graph = knn_graph(F32.make(x * scale), 2, engine=engine, recall_sample=len(x))
    assert graph.sampled_recall == pytest.approx(recall(graph, truth), abs=1e-12)
    assert graph.sampled_recall > 0.98


@pytest.mark.parametrize("outlier", [10.0, 1e3])
def test_one_row_far_out_spoils_nothing(engine, outlier):
    x, truth = crowd(1500, 300)
    x = np.vstack([x, np.full((1, 300), outlier)])
    graph = knn_graph(F32.make(x), 2, engine=engine)
    assert recall(types.SimpleNamespace(indices=graph.indices[:-1]), truth) > 0.95


def test_duplicates_find_each_other(engine):
    x = F32.rounded(np.repeat(some_rows(300), 2, axis=0))
    graph = knn_graph(F32.make(x), 1, engine=engine)
    other = np.arange(600) ^ 1
    assert (graph.indices[:, 0] == other).mean() > 0.99


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 199])
def test_small_sets_are_searched_exactly(engine, n):
    x = F32.rounded(some_rows(n, 3))
    graph = knn_graph(F32.make(x), 4, engine=engine)
    indices, distances = knn(x, 4)
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-6)


@pytest.mark.parametrize("k", [65, 250, 1000])
def test_many_neighbours(engine, k):
    x = F32.rounded(people(250, 6))
    graph = knn_graph(F32.make(x), k, engine=engine)
    assert_real(graph, x, k, single=True)
    assert (graph.indices[:, 249:] == -1).all()
    assert recall(graph, nearest(x, k)) > 0.9 or engine == "faiss-ivf"


def test_excluded_rows_are_never_neighbours(engine):
    x, labels = F32.rounded(people(900, 20)), np.random.default_rng(1).integers(0, 3, 900)
    graph = knn_graph(F32.make(x), 3, exclude=labels, engine=engine)
    assert_real(graph, x, 3, single=True, exclude=labels)
    assert recall(graph, nearest(x, 3, exclude=labels)) > 0.9


def test_most_rows_excluded(engine):
    x, labels = F32.rounded(people(600, 6)), np.array([0] * 590 + list(range(1, 11)))
    graph = knn_graph(F32.make(x), 3, exclude=labels, engine=engine)
    assert_real(graph, x, 3, single=True, exclude=labels)
    if engine != "pivots":  # faiss is asked again for twice as many, until its lists hold no more
        assert (graph.indices[:590] >= 0).any(axis=1).mean() > 0.9


def test_everything_excluded(engine):
    graph = knn_graph(F32.make(people(300, 6)), 2, exclude=[1] * 300, engine=engine)
    assert (graph.indices == -1).all()
    assert np.isinf(graph.distances).all()


def test_one_set_in_another(engine):
    x = torch.tensor(people(1500, 20), dtype=torch.float32)
    queries, base = x[:300], x[300:]
    labels = torch.arange(1500) % 4
    options = {"query_labels": labels[:300], "base_labels": labels[300:]}
    mine, far = find_neighbors(queries, base, 3, engine=engine, **options)
    true, near = find_neighbors(queries, base, 3, engine="exact", **options)
    hit = (mine[:, :, None] == true[:, None, :]).any(dim=2)
    assert hit.double().mean() > 0.95
    same = (mine == true).all(dim=1)
    assert torch.equal(far[same], near[same])
    torch.testing.assert_close(far.double(), (queries[:, None].double() - base[mine].double()).norm(dim=2))
    assert bool((labels[:300, None] != labels[300:][mine]).all())


@pytest.mark.parametrize("again", [lambda x: x, lambda x: x[:], torch.clone], ids=["itself", "a view", "a copy"])
def test_who_may_find_himself_is_said_and_never_seen(engine, again):
    x = torch.tensor(people(600, 20), dtype=torch.float32)
    expected = find_neighbors(x, x, 3, within=True, engine=engine)
    found = find_neighbors(again(x), x, 3, within=True, engine=engine)
    assert not (found[0] == torch.arange(600)[:, None]).any()
    if engine != "faiss-hnsw":  # its graph is a little new each time
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    indices, distances = find_neighbors(again(x), x, 3, engine=engine)
    assert indices[:, 0].tolist() == list(range(600))
    assert (distances[:, 0] == 0).all()


def test_the_same_again(engine):
    """Whatever torch's own generator stands at; faiss builds its graph by several threads, each time a little new."""
    x, before = F32.make(crowd(1500, 300)[0]), torch.get_num_threads()
    first = knn_graph(x, 3, engine=engine)
    for threads in (1, 2):
        torch.manual_seed(threads)
        try:
            torch.set_num_threads(threads)
            again = knn_graph(x, 3, engine=engine)
        finally:
            torch.set_num_threads(before)
        if engine != "faiss-hnsw":
            np.testing.assert_array_equal(first.indices, again.indices)
            np.testing.assert_array_equal(first.distances, again.distances)


def test_the_generator_is_left_alone(engine):
    before = torch.get_rng_state()
    knn_graph(F32.make(crowd(1500, 300)[0]), 2, engine=engine)
    assert torch.equal(torch.get_rng_state(), before)


def test_mapped_files(engine, tmp_path):
    x = F32.make(people(600, 20))
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    graph = knn_graph(mapped, 2, engine=engine)
    assert_real(graph, x.astype(float), 2, single=True)


def test_progress(engine, capsys):
    x = F32.make(people(300, 20))
    knn_graph(x, 2, engine=engine)
    assert capsys.readouterr() == ("", "")
    knn_graph(x, 2, engine=engine, progress=True)
    assert "neighbours" in capsys.readouterr().err


def test_centralize_takes_them(engine):
    x = F32.make(people(1000, 20))
    mine, exact = centralize(x, engine=engine), centralize(x)
    assert (np.abs(mine - exact).max(axis=1) < 1e-6).mean() > 0.9


# --- pivots -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pivots(monkeypatch):
    """The engine on sets of 200 rows and more; gives the parts it may be asked for."""
    monkeypatch.setattr(_pivots, "SMALLEST", 200)
    return monkeypatch


@pytest.mark.parametrize("level", [127, 63, 0])
def test_pivots_on_every_machine(pivots, level):
    pivots.setattr(machine, "largest_code", lambda _: level)
    if level == 0:
        pivots.delattr(torch, "_int_mm")
    x, truth = crowd(1500, 300)
    graph = knn_graph(F32.make(x), 2, engine="pivots")
    assert_real(graph, x, 2, single=True)
    assert recall(graph, truth) > 0.98


def test_lists_are_cut_and_short_ones_joined_together(pivots):
    pivots.setattr(_pivots, "LONGEST", 10)
    sizes = [3, 0, 4, 3, 1, 25, 2]
    ends = {False: [3, 7, 10, 11, 19, 27, 36, 38], True: [10, 19, 27, 36, 38]}
    for together, stops in ends.items():
        parts = _pivots._parts(sizes, together=together)
        assert [part.stop for part in parts] == stops
        assert [part.start for part in parts] == [0, *stops[:-1]]


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize("longest", [64, 1024])
def test_lists_joined_together_find_what_each_alone_finds(pivots, longest):
    """As on a GPU, where rows of other lists stand in the same product."""
    pivots.setattr(_pivots, "LONGEST", longest)
    x, cams = torch.from_numpy(people(1200, 200)).float(), np.arange(1200) % 3
    alone = knn_graph(x, 3, engine="pivots", exclude=cams)
    with standin():
        together = knn_graph(x.to("cuda"), 3, engine="pivots", exclude=cams)
        indices, distances = together.indices.cpu(), together.distances.cpu()
    assert float((indices == alone.indices).double().mean()) > 0.999
    torch.testing.assert_close(distances, alone.distances)


def test_float_products_give_what_int8_products_give(pivots):
    x = F32.make(people(2000, 300))
    pivots.setattr(machine, "largest_code", lambda _: 127)
    if not torch.equal(
        torch._int_mm(*(torch.full((32, 32), 127, dtype=torch.int8),) * 2), torch.full((32, 32), 516128)
    ):
        pytest.skip("int8 products of 127 are not exact here")
    fast = knn_graph(x, 3, engine="pivots")
    pivots.setattr(_pivots.Products, "__call__", lambda _, left, right: (left.double() @ right.double()).int())
    slow = knn_graph(x, 3, engine="pivots")
    np.testing.assert_array_equal(fast.indices, slow.indices)


def test_pivots_without_slow_int8_products_find_the_same(pivots):
    """As on CPUs without VNNI: float32 products are the same whole numbers."""
    x = F32.make(people(2000, 300))
    if machine.largest_code("cpu") != 127:
        pytest.skip("int8 products of 127 are not exact here")
    pivots.setattr(machine, "code_speed", lambda _: 4.0)
    fast = knn_graph(x, 3, engine="pivots")
    pivots.setattr(machine, "code_speed", lambda _: 0.03)
    pivots.delattr(torch, "_int_mm")
    slow = knn_graph(x, 3, engine="pivots")
    np.testing.assert_array_equal(slow.indices, fast.indices)
    np.testing.assert_array_equal(slow.distances, fast.distances)


@pytest.mark.parametrize("n", [37, 512, 1300])
@pytest.mark.parametrize("count", [1, 4])
def test_nearest_pivots(n, count):
    """Against all differences; rows and pivots of very different length."""
    rng = np.random.default_rng(0)
    rows, pivots = (
        (rng.standard_normal((m, 32)) * rng.uniform(1, 25, (m, 1))).round().clip(-127, 127) for m in (n, 64)
    )
    found = _pivots._nearest(torch.tensor(rows).to(torch.int8), torch.tensor(pivots).to(torch.int8), count).numpy()
    table = distance_matrix(rows, pivots, single=False)
    assert all(len(set(row)) == count for row in found)
    far = np.take_along_axis(table, found, axis=1) ** 2
    np.testing.assert_allclose(far, np.sort(table**2, axis=1)[:, :count], atol=2)  # halves are cut to whole numbers


@pytest.mark.parametrize("name", ["identical", "people"])
def test_long_lists_are_cut(pivots, name):
    """All rows of the first set are in the same lists; whoever meets k others has k neighbours."""
    pivots.setattr(_pivots, "LONGEST", 32)
    x = F32.rounded(SETS[name])
    graph = knn_graph(F32.make(x), 3, engine="pivots")
    assert_real(graph, x, 3, single=True)
    assert (graph.indices >= 0).mean() > 0.95


def test_more_lists_find_more(pivots):
    x, truth = crowd(2000, 24)
    found = []
    for memberships in (1, 2, 4):
        pivots.setattr(_pivots, "MEMBERSHIPS", memberships)
        found.append(recall(knn_graph(F32.make(x), 2, engine="pivots"), truth))
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize(
    ("n", "k", "count"),
    [(5000, 2, 256), (20_000, 2, 1024), (200_000, 2, 8192), (200_000, 64, 2048), (10**6, 2, 16_384)],
)
def test_number_of_pivots(n, k, count):
    assert _pivots._count_pivots(n, k) == count


def test_no_float_copy_and_no_square(pivots):
    """The largest float tensor and the largest tensor at all, as torch makes them."""
    from torch.utils._python_dispatch import TorchDispatchMode

    n, width = 6000, 256
    x = torch.tensor(people(n, width), dtype=torch.float32)
    largest = {"float": 0, "any": 0}

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, _types, arguments=(), options=None):
            made = function(*arguments, **(options or {}))
            for tensor in made if isinstance(made, tuple | list) else [made]:
                if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() != x.data_ptr():
                    size = tensor.untyped_storage().nbytes()
                    largest["any"] = max(largest["any"], size)
                    if tensor.dtype.is_floating_point:
                        largest["float"] = max(largest["float"], size)
            return made

    pivots.setattr(_pivots, "LONGEST", 256)
    with Watch():
        find_neighbors(x, x, 2, within=True, engine="pivots")
    assert 0 < largest["float"] < 4 * n * width  # not even one copy
    assert largest["any"] < 4 * n * width


# --- faiss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["faiss-ivf", "faiss-hnsw"])
def test_without_faiss(monkeypatch, name):
    put(monkeypatch, None)
    for call in (
        lambda: knn_graph(F32.make(people(300, 4)), 2, engine=name),
        lambda: centralize(np.eye(3), engine=name),
    ):
        with pytest.raises(MissingExtraError, match=r"pip install 'pose2id\[faiss-cpu\]'") as caught:
            call()
        assert str(caught.value).startswith(f"engine '{name}' needs faiss: not installed")
        assert caught.value.extra == "faiss-cpu"


@pytest.mark.parametrize("name", ["faiss-ivf", "faiss-hnsw"])
def test_small_sets_never_touch_an_index(monkeypatch, name):
    module = put(monkeypatch, StandIn(), "faiss-cpu")
    x = F32.rounded(some_rows(_faiss.SMALLEST - 1, 3))
    np.testing.assert_array_equal(knn_graph(F32.make(x), 2, engine=name).indices, nearest(x, 2))
    assert module.searches
    with pytest.raises(AttributeError):
        knn_graph(F32.make(some_rows(_faiss.SMALLEST, 3)), 2, engine=name)


# --- measured recall ----------------------------------------------------------------------------------------------


def bad_engine(monkeypatch, spoil):
    """An engine that finds what `exact` finds, after `spoil(indices, distances)`."""
    module = types.ModuleType("bad")

    def search(asked):
        indices, distances = (part.clone() for part in _exact.search(asked))
        spoil(indices, distances)
        return indices, distances

    module.search = search
    monkeypatch.setitem(ENGINES, "pivots", engines.Engine("bad", "search", exact=False))
    monkeypatch.setitem(sys.modules, "bad", module)


LINE = np.array([0, 1, 3, 7, 15, 31, 63, 127], dtype=np.float32)[:, None]


def spoil_odd(indices, distances):
    """The second neighbour of odd rows is lost."""
    indices[1::2, 1], distances[1::2, 1] = -1, np.inf


def spoil_first(indices, distances):
    """The neighbours of row 0 are far ones; so every found one is farther than both true ones."""
    indices[0], distances[0] = torch.tensor([4, 5]), torch.tensor([15.0, 31.0])


@pytest.mark.parametrize(
    ("spoil", "sample", "expected"),
    [
        (spoil_odd, 8, 12 / 16),  # of 16 neighbours 4 are lost
        (spoil_odd, 100, 12 / 16),  # no more rows than there are
        (spoil_odd, 2, 3 / 4),  # rows 0 and 7
        (spoil_odd, 1, 1.0),  # row 0
        (spoil_first, 8, 14 / 16),
        (spoil_first, 2, 2 / 4),
        (lambda *_: None, 8, 1.0),
    ],
)
def test_sampled_recall_by_hand(monkeypatch, spoil, sample, expected):
    bad_engine(monkeypatch, spoil)
    assert knn_graph(LINE, 2, engine="pivots", recall_sample=sample).sampled_recall == expected


def test_ties_count_by_distance(monkeypatch):
    """Rows 1 to 5 are all as far from row 0: any two of them will do."""

    def others(indices, distances):  # noqa: ARG001
        indices[0] = torch.tensor([4, 5])

    bad_engine(monkeypatch, others)
    x = np.vstack([np.zeros((1, 5)), np.eye(5)]).astype(np.float32)
    assert knn_graph(x, 2, engine="pivots", recall_sample=6).sampled_recall == 1.0


@pytest.mark.parametrize("name", ["auto", "exact", "faiss"])
@pytest.mark.parametrize("values", ["plain", "duplicates", "excluded"])
def test_exact_engines_reach_one(name, values):
    if name == "faiss":
        pytest.importorskip("faiss")
    x = np.repeat(some_rows(50, 4), 6, axis=0) if values == "duplicates" else some_rows(300, 4)
    labels = np.arange(300) % 3 if values == "excluded" else None
    assert knn_graph(F32.make(x), 4, exclude=labels, engine=name, recall_sample=77).sampled_recall == 1.0


def test_excluded_pairs_are_not_missed(monkeypatch):
    """Rows 0 to 6 have one allowed neighbour, row 7; row 7 has two of its seven. Row 0 loses its one."""
    module = types.ModuleType("bad")

    def search(asked):
        found = _exact.search(asked)
        found[0][0], found[1][0] = -1, np.inf
        return found

    module.search = search
    monkeypatch.setitem(ENGINES, "pivots", engines.Engine("bad", "search", exact=False))
    monkeypatch.setitem(sys.modules, "bad", module)
    graph = knn_graph(LINE, 2, exclude=[0] * 7 + [1], engine="pivots", recall_sample=8)
    assert graph.sampled_recall == 8 / 9


@pytest.mark.parametrize("n", [0, 1])
def test_recall_of_nothing(n):
    assert knn_graph(np.zeros((n, 3), np.float32), 2, recall_sample=5).sampled_recall == 1.0


def test_recall_is_measured_on_request_only():
    assert knn_graph(LINE, 2).sampled_recall is None


@pytest.mark.parametrize("value", [-1, True, 1.5, "10", None])
def test_bad_sample(value):
    with pytest.raises((TypeError, ValueError), match="recall_sample must be an integer"):
        knn_graph(LINE, 2, recall_sample=value)


# --- auto ---------------------------------------------------------------------------------------------------------


def test_auto_always_finds_all():
    for n in (0, 10, 3000, 10**6, 10**9):
        for device in ("cpu", "cuda"):
            choice = choose_engine(n, device)
            assert ENGINES[choice.engine].exact
            assert not choice.hint or not ENGINES[choice.hint].exact


@pytest.mark.parametrize(
    ("n", "device", "hint"),
    [(199_999, "cpu", ""), (200_000, "cpu", "pivots"), (1_999_999, "cuda", ""), (2_000_000, "cuda", "pivots")],
)
def test_hints(n, device, hint):
    choice = choose_engine(n, device)
    assert ENGINES[choice.engine].exact
    assert choice.hint == hint
    assert choice.reason


@pytest.fixture
def early_hint(monkeypatch):
    """From 50 rows on."""
    monkeypatch.setitem(engines.HINT_FROM, "cpu", 50)


@pytest.mark.usefixtures("early_hint")
def test_auto_says_that_it_will_take_long(caplog):
    x = F32.make(some_rows(60, 4))
    with caplog.at_level(logging.INFO, logger="pose2id"):
        graph = knn_graph(x, 2)
    np.testing.assert_array_equal(graph.indices, nearest(x.astype(float), 2))
    (record,) = caplog.records
    assert record.name == "pose2id"
    assert record.getMessage().startswith("engine 'auto' takes 'exact' for 60 rows; engine='pivots' is much faster")
    assert "\n" not in record.getMessage()


@pytest.mark.usefixtures("early_hint")
@pytest.mark.parametrize(("n", "name"), [(60, "exact"), (60, "pivots"), (49, "auto")])
def test_no_hint_where_none_is_due(caplog, n, name):
    with caplog.at_level(logging.INFO, logger="pose2id"):
        knn_graph(F32.make(some_rows(n, 4)), 2, engine=name)
    assert not caplog.records
