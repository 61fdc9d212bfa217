"""The engines behind knn_graph: the traps of faiss, its ties, and that float32 means float32.

A stand-in for faiss, brute force with the worst order of ties that faiss allows, runs everywhere; faiss itself runs
where it is installed.
"""

import contextlib
import os
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference.neighbors import knn
from support.engines import Way
from support.faiss import CPU_WHEELS, INSTALL, StandIn, StandInIndex, fail_on_import, put

from pose2id import MissingExtraError, centralize, knn_graph, rerank
from pose2id.distances import pair_distances
from pose2id.neighbors import ENGINES, _exact, _faiss, _heaps, choose_engine, describe_engines, engines, rounded
from pose2id.neighbors._int8 import filter as _filter
from pose2id.neighbors._int8 import machine
from pose2id.neighbors._native import search as _native


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in in place of faiss."""
    return put(monkeypatch, StandIn(), *CPU_WHEELS)


@pytest.fixture(params=["stand-in", "faiss"])
def faiss(request, monkeypatch):
    """The stand-in, or faiss itself; both with the record `searches`."""
    if request.param == "stand-in":
        return put(monkeypatch, StandIn(), *CPU_WHEELS)
    real = pytest.importorskip("faiss")
    record = types.ModuleType("faiss")
    record.searches = []

    class Index(real.IndexFlatL2):
        def search(self, queries, k):
            record.searches.append(("CPU", len(queries), k))
            return super().search(queries, k)

    record.IndexFlatL2, record.get_num_gpus = Index, lambda: 0
    return put(monkeypatch, record, *CPU_WHEELS)


def random_rows(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)


def assert_right(graph, rows, k, **options):
    """Compare with the naive reference, ties included."""
    indices, distances = knn(np.asarray(rows, np.float64), k, single=rows.dtype != np.float64, **options)
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-6 if rows.dtype != np.float64 else 1e-12, atol=0)


@pytest.mark.parametrize("way", [Way("exact, int8"), Way("exact, projection"), Way("native")])
def test_a_way_ends_with_its_test(way):
    """Here there is none, whatever test came before; and a way that is taken is gone again."""
    usual = _filter.Thresholds(), 256
    for _ in range(2):
        assert usual == (_filter.THRESHOLDS, _native.SMALLEST)
        with pytest.MonkeyPatch.context() as patch:
            way.take(patch)
            assert usual != (_filter.THRESHOLDS, _native.SMALLEST)


# --- what can be wrong with faiss ---------------------------------------------------------------------------------


def test_probe(faiss_state):
    works, words = faiss_state
    module, found = _faiss.probe()
    assert (module is not None, found) == (works, words)


def test_description(faiss_state):
    works, words = faiss_state
    described = describe_engines()
    assert [name for name, _, _ in described] == list(ENGINES)
    assert {"exact", "pivots"} <= {name for name, works, _ in described if works}
    assert [(w, d) for name, w, d in described if name.startswith("faiss")] == [(works, words)] * 3


CALLS = {
    "knn_graph": lambda x, engine: knn_graph(x, 2, engine=engine).indices,
    "centralize": lambda x, engine: centralize(x, engine=engine),
    "rerank": lambda x, engine: rerank(x[:9], x[9:], k1=4, k2=2, engine=engine),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_every_state_gives_the_answer_or_the_cure(faiss_state, call):
    works, words = faiss_state
    x = random_rows(30, 4)
    if works:
        np.testing.assert_array_equal(call(x, "faiss"), call(x, "exact"))
        return
    with pytest.raises(MissingExtraError) as caught:
        call(x, "faiss")
    assert str(caught.value) == f"engine 'faiss' needs faiss: {words}"
    assert (caught.value.extra, caught.value.package) == ("faiss-cpu", "faiss")
    assert INSTALL in str(caught.value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_auto_does_not_touch_faiss_for_few_rows(monkeypatch, tmp_path, call):
    fail_on_import(monkeypatch, tmp_path, f"open({str(tmp_path / 'touched')!r}, 'w').close()\nraise OSError('broken')")
    x = random_rows(30, 4)
    np.testing.assert_array_equal(call(x, "auto"), call(x, "exact"))
    assert not (tmp_path / "touched").exists()
    with pytest.raises(MissingExtraError, match="OSError: broken"):
        call(x, "faiss")
    assert (tmp_path / "touched").exists()


def test_torch_is_imported_before_faiss(tmp_path):
    (tmp_path / "faiss.py").write_text("import sys; print('torch' in sys.modules)")
    code = "from pose2id.neighbors import _faiss; _faiss.probe()"
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True)
    assert done.stdout.split() == [b"True"], done.stderr.decode()


@pytest.mark.usefixtures("stand_in")
def test_an_engine_that_errs_is_reported(monkeypatch):
    monkeypatch.setattr(StandInIndex, "search", lambda *_: (np.full((3, 3), 0.0, "f4"), np.zeros((3, 3), int)))
    monkeypatch.setattr(_exact, "sweep", lambda *_, **__: None)
    words = "faiss 9.9.9, CPU; it found wrong neighbours: [-1, 0, 0]"
    assert ("faiss", False, words) in describe_engines()


@pytest.mark.usefixtures("stand_in")
def test_an_engine_that_raises_is_reported(monkeypatch):
    def search(*_):
        raise RuntimeError("Error in void faiss::gpu")

    monkeypatch.setattr(StandInIndex, "search", search)
    assert ("faiss", False, "faiss 9.9.9, CPU; RuntimeError: Error in void faiss::gpu") in describe_engines()


# --- GPUs ---------------------------------------------------------------------------------------------------------


def test_no_gpu_function_is_called_without_a_gpu(stand_in):
    x = random_rows(60, 4)
    assert_right(knn_graph(x, 3, engine="faiss"), x, 3)
    rerank(x[:20], x[20:], engine="faiss")
    describe_engines()
    assert stand_in.gpu_calls == []
    assert {place for place, _, _ in stand_in.searches} == {"CPU"}


@pytest.mark.usefixtures("stand_in")
def test_without_gpu_functions_at_all(monkeypatch):
    """A build for the CPU need not have them."""
    monkeypatch.delattr(StandIn, "get_num_gpus")
    monkeypatch.delattr(StandIn, "index_cpu_to_all_gpus")
    x = random_rows(20, 4)
    assert_right(knn_graph(x, 3, engine="faiss"), x, 3)
    assert _faiss.probe()[1] == "faiss 9.9.9, CPU"


def test_all_gpus_are_used(stand_in):
    stand_in.gpus = 2
    x = np.repeat(random_rows(20, 4), 3, axis=0)
    assert_right(knn_graph(x, 3, engine="faiss"), x, 3)
    assert stand_in.gpu_calls == ["index_cpu_to_all_gpus"]
    assert {place for place, _, _ in stand_in.searches} == {"GPU"}


@pytest.mark.parametrize(("k", "place"), [(2041, "GPU"), (2042, "CPU")])
def test_more_neighbours_than_a_gpu_can_find(stand_in, k, place):
    stand_in.gpus = 1
    x = np.arange(2100, dtype=np.float32)[:, None] ** 2
    graph = knn_graph(x, k, engine="faiss")
    assert {where for where, _, _ in stand_in.searches} == {place}
    assert graph.indices[0].tolist() == list(range(1, k + 1))
    np.testing.assert_array_equal(graph.distances[0], x[1 : k + 1, 0])


# --- ties: faiss is asked again -----------------------------------------------------------------------------------


def asked(faiss):
    return [(rows, k) for _, rows, k in faiss.searches]


def test_asks_once_where_nothing_is_tied(faiss):
    x = random_rows(300, 8)
    assert_right(knn_graph(x, 2, engine="faiss"), x, 2)
    assert asked(faiss) == [(300, 9)]


def test_asks_again_for_twice_as_many_while_ties_are_open(faiss):
    x = np.full((100, 3), 0.5, dtype=np.float32)
    assert_right(knn_graph(x, 2, engine="faiss"), x, 2)
    assert asked(faiss) == [(100, 9), (100, 18), (100, 36), (100, 72), (100, 100)]


def test_asks_again_for_the_open_rows_only(faiss):
    x = random_rows(130, 8)
    x[40:70] = 20  # far from all others
    assert_right(knn_graph(x, 2, engine="faiss"), x, 2)
    assert asked(faiss) == [(130, 9), (30, 18), (30, 36)]


def test_asks_again_when_too_many_are_excluded(faiss):
    x, labels = random_rows(64, 4), [0] * 60 + [1, 2, 3, 4]
    assert_right(knn_graph(x, 2, exclude=labels, engine="faiss"), x, 2, exclude=labels)
    assert asked(faiss)[0] == (64, 9)
    assert asked(faiss)[-1][1] == 64


@pytest.fixture
def swept(monkeypatch):
    """The rows that went to the sweep of `exact`, call by call."""
    calls, sweep = [], _exact.sweep

    def recorded(asked, rows, *others):
        calls.append(rows.tolist())
        sweep(asked, rows, *others)

    monkeypatch.setattr(_exact, "sweep", recorded)
    return calls


@pytest.mark.parametrize(("limit", "searches"), [(1, 1), (9, 1), (10, 2), (19, 3), (1024, 3)])
def test_past_the_limit_the_open_rows_are_swept(faiss, swept, monkeypatch, limit, searches):
    monkeypatch.setattr(_faiss, "LIMIT", limit)
    x = random_rows(130, 8)
    x[40:70] = 20  # far from all others
    assert_right(knn_graph(x, 2, engine="faiss"), x, 2)
    assert asked(faiss) == [(130, 9), (30, 18), (30, 36)][:searches]
    assert swept == ([] if searches == 3 else [list(range(40, 70))])


@pytest.mark.parametrize("limit", [1, 16, 1024])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.usefixtures("faiss")
def test_the_limit_changes_nothing(monkeypatch, limit, dtype):
    monkeypatch.setattr(_faiss, "LIMIT", limit)
    x = np.random.default_rng(3).integers(-2, 3, (150, 3)).astype(dtype)
    assert_right(knn_graph(x, 4, engine="faiss"), x, 4)
    labels = np.arange(150) % 4
    assert_right(knn_graph(x, 4, exclude=labels, engine="faiss"), x, 4, exclude=labels.tolist())


def test_several_tiles(faiss, monkeypatch):
    monkeypatch.setattr(_faiss, "ROW_TILE", 32)
    x = np.random.default_rng(3).integers(-2, 3, (150, 3)).astype(np.float32)
    assert_right(knn_graph(x, 4, engine="faiss"), x, 4)
    assert asked(faiss)[:5] == [(32, 11)] * 4 + [(22, 11)]


# --- the heaps of faiss itself ------------------------------------------------------------------------------------


@pytest.fixture
def heaps():
    """faiss itself, for sets of any size, with tiles of few rows; counts the sets."""
    with small_heaps() as sets:
        yield sets


@contextlib.contextmanager
def small_heaps():
    pytest.importorskip("faiss")
    sets, fill = [], _heaps._fill

    def recorded(*arguments):
        sets.append(len(arguments[1].base))
        return fill(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("SMALLEST", 1), ("PANEL", 5), ("COLUMNS", 12), ("_fill", recorded)):
            patch.setattr(_heaps, name, value)
        patch.setattr(rounded, "TILE", 16)
        yield sets


def assert_same_bits(x, k, exclude=None):
    mine, theirs = (knn_graph(x, k, exclude=exclude, engine=engine) for engine in ("faiss", "exact"))
    np.testing.assert_array_equal(mine.indices, theirs.indices)
    np.testing.assert_array_equal(mine.distances, theirs.distances)
    assert mine.distances.dtype == theirs.distances.dtype


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 5), st.sampled_from(["f2", "f4", "f8"])).flatmap(
        lambda shape: arrays(shape[2], shape[:2], elements=st.integers(-2, 2).map(float))
    ),
    st.integers(1, 45),
    st.sampled_from([0.0, 0.37, 900.0]),
    st.sampled_from([None, 1, 3]),
)
def test_heaps_give_the_bits_of_exact(x, k, shift, groups):
    labels = None if groups is None else np.arange(len(x)) % groups
    with small_heaps() as sets:
        assert_same_bits((x + x.dtype.type(shift)).astype(x.dtype), k, labels)
    searched = labels is None or len(set(labels)) > 1
    assert sets == [len(x)] * searched


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("data", ["plain", "shifted", "tiny", "huge", "lengths", "duplicates", "close"])
def test_heaps_of_many_kinds_of_rows(heaps, dtype, data):
    x = random_rows(90, 24).astype(np.float64)
    changed = {
        "plain": x,
        "shifted": x + 100,
        "tiny": x * (2e-3 if dtype == "float16" else 1e-20),
        "huge": x * (1e3 if dtype == "float16" else 1e18),
        "lengths": x * np.logspace(-2, 3, 90)[:, None],
        "duplicates": np.concatenate([x[:60], x[:30]]),
        "close": x[:30].repeat(3, axis=0) + 1e-3 * x,
    }[data].astype(dtype)
    for k in (1, 4, 20):
        assert_same_bits(changed, k)
    assert sum(heaps)


def test_heaps_leave_ties_to_the_index(heaps):
    x = np.full((30, 3), 0.5, dtype=np.float32)
    assert_right(knn_graph(x, 2, engine="faiss"), x, 2)
    assert heaps == [30]


@pytest.mark.parametrize("shift", [0.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_rounded_distances_are_those_of_differences(monkeypatch, dtype, shift):
    monkeypatch.setattr(rounded, "TILE", 16)
    x = (torch.from_numpy(random_rows(50, 33)) + shift).to(dtype)
    x[7] = x[3]
    rows, found = torch.arange(50), torch.randint(-1, 50, (50, 9), generator=torch.Generator().manual_seed(0))
    found[7, 0] = 3
    mine = rounded.rounded_distances(x, x, rows, found, 1.0)
    wanted = torch.full(found.shape, torch.inf)
    row, slot = (found >= 0).nonzero(as_tuple=True)
    wanted[row, slot] = pair_distances(x, x, row, found[row, slot]).float()
    assert torch.equal(mine, wanted)
    assert torch.equal(rounded.rounded_distances(x, x, rows.flip(0), found.flip(0), 1.0), wanted.flip(0))
    monkeypatch.setattr(rounded, "TILE", 64)  # one tile, of all rows
    assert torch.equal(rounded.rounded_distances(x, x, rows.flip(0), found.flip(0), 1.0), wanted.flip(0))


def test_rounded_distances_are_products_where_they_can(monkeypatch):
    """Not one in a hundred pairs is measured as a difference."""
    counts = []

    def counted(queries, base, left, *others):
        counts.append(len(left))
        return pair_distances(queries, base, left, *others)

    monkeypatch.setattr(rounded, "pair_distances", counted)
    x = torch.from_numpy(random_rows(300, 64))
    rounded.rounded_distances(x, x, torch.arange(300), torch.arange(300).roll(7).repeat(20, 1).T, 1.0)
    assert sum(counts) < 60


# --- what auto takes ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_kernel(monkeypatch):
    """A machine without the native kernel."""
    monkeypatch.setattr(engines, "planned_native", lambda *_, within: None)  # noqa: ARG005


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("n", [255, 256, 1000, 3368, 15913, 10**6])
@pytest.mark.parametrize(("width", "k"), [(768, 2), (768, 50), (2048, 20)])
@pytest.mark.parametrize("codes", [None, (768, 3.7), (256, 1.0)])
def test_auto_takes_what_costs_less(monkeypatch, n, width, k, codes):
    monkeypatch.setattr(engines, "faiss_works", lambda: True)
    monkeypatch.setattr(engines, "planned_codes", lambda *_, within: codes)  # noqa: ARG005
    costs = engines.estimate_costs(n, n, width, k, codes)
    choice = choose_engine(n, width=width, k=k)
    assert choice.engine == ("faiss" if n >= 256 and costs.faiss < costs.exact else "exact")
    if n >= 256:
        assert f"{costs.exact / 1e9:.3g}" in choice.reason
        assert f"{costs.faiss / 1e9:.3g}" in choice.reason
    assert choose_engine(n, "cuda", width=width, k=k).engine == "exact"
    monkeypatch.setattr(engines, "faiss_works", lambda: False)
    assert choose_engine(n, width=width, k=k).engine == "exact"


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize(
    ("n", "width", "k", "speed", "engine"),
    [
        (1000, 768, 2, 3.7, "faiss"),
        (3368, 768, 20, 3.7, "faiss"),  # exact takes 1.96 times as long as faiss.knn there
        (15913, 768, 50, 3.7, "faiss"),  # 1.28 times
        (15913, 768, 2, 3.7, "exact"),  # .23
        (15913, 2048, 20, 3.7, "exact"),  # .43
        (15913, 768, 2, 0.03, "exact"),  # .45
        (15913, 768, 20, 0.03, "faiss"),
    ],
)
def test_what_auto_takes_by_value(monkeypatch, n, width, k, speed, engine):
    monkeypatch.setattr(engines, "faiss_works", lambda: True)
    monkeypatch.setattr(machine, "largest_code", lambda _: 127)
    monkeypatch.setattr(machine, "code_speed", lambda _: speed)
    assert choose_engine(n, width=width, k=k).engine == engine


@pytest.mark.parametrize(
    ("n", "width", "k", "engine"),
    [
        (255, 768, 2, "exact"),
        (1000, 768, 20, "faiss"),
        (3368, 768, 2, "native"),
        (3368, 768, 20, "native"),
        (15913, 2048, 2, "native"),
        (15913, 768, 50, "native"),
        (15913, 768, 65, "faiss"),  # the kernel holds 64
    ],
)
def test_what_auto_takes_with_the_kernel(monkeypatch, n, width, k, engine):
    monkeypatch.setattr(engines, "faiss_works", lambda: True)
    monkeypatch.setattr(machine, "code_speed", lambda _: 0.03)
    monkeypatch.setattr(_native, "load_kernel", lambda: (_native.Kernel(None, 1, "AVX2", 63), "stands for one"))
    assert choose_engine(n, width=width, k=k).engine == engine
    assert choose_engine(n, "cuda", width=width, k=k).engine == "exact"


@pytest.fixture
def no_codes(monkeypatch, no_kernel):  # noqa: ARG001
    """A machine where `exact` has no codes, so that faiss is cheaper for all but the smallest sets."""
    monkeypatch.setattr(engines, "planned_codes", lambda *_, within: None)  # noqa: ARG005


@pytest.mark.usefixtures("no_codes")
def test_the_answer_of_auto_does_not_depend_on_faiss(faiss_state):
    """Missing, broken, half uninstalled, with GPUs: one answer, and no error."""
    works, words = faiss_state
    x = np.concatenate([random_rows(250, 12), random_rows(40, 12)])
    graph = knn_graph(x, 3)
    wanted = knn_graph(x, 3, engine="exact")
    np.testing.assert_array_equal(graph.indices, wanted.indices)
    np.testing.assert_array_equal(graph.distances, wanted.distances)
    taken = choose_engine(len(x), width=12, k=3).engine
    assert taken == ("faiss" if works and "GPU" not in words else "exact")


@pytest.mark.usefixtures("no_codes")
def test_auto_asks_faiss(stand_in):
    x = random_rows(300, 12)
    knn_graph(x, 3)
    centralize(x)
    assert [rows for _, rows, _ in stand_in.searches if rows == 300] == [300] * 2
    before = len(stand_in.searches)
    rerank(x[:20], x[20:], k1=4, k2=2)  # `exact` finds the nearest and the farthest from the same products
    assert len(stand_in.searches) == before


@pytest.mark.usefixtures("no_codes", "stand_in")
def test_auto_refuses_a_build_that_errs(monkeypatch):
    monkeypatch.setattr(
        StandInIndex, "search", lambda _, q, k: (np.zeros((len(q), k), "f4"), np.zeros((len(q), k), int))
    )
    monkeypatch.setattr(_exact, "sweep", lambda *_, **__: None)
    choice = choose_engine(5000)
    assert choice.engine == "exact"
    assert "does not work" in choice.reason


# --- what float32 cannot see --------------------------------------------------------------------------------------


def close_rows(shift):
    """Clusters of points 1e-10 apart: in float32 all points of a cluster are one."""
    rng = np.random.default_rng(4)
    return np.repeat(rng.integers(-5, 6, (12, 4)), 8, axis=0) + 1e-10 * rng.integers(0, 1000, (96, 4)) + shift


@pytest.mark.parametrize("shift", [0.0, 1000.0])
@pytest.mark.parametrize("limit", [1, 1024])
@pytest.mark.usefixtures("faiss")
def test_float64_differences(monkeypatch, limit, shift):
    monkeypatch.setattr(_faiss, "LIMIT", limit)
    x = close_rows(shift)
    graph = knn_graph(x, 3, engine="faiss")
    assert_right(graph, x, 3)
    assert graph.distances.max() < 1e-6


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shift", [1000.0, 1e6])
@pytest.mark.usefixtures("faiss")
def test_shifted_rows(dtype, shift):
    x = (np.random.default_rng(5).integers(-40, 41, (200, 6)) + shift).astype(dtype)
    assert_right(knn_graph(x, 3, engine="faiss"), x, 3)


@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.usefixtures("faiss")
def test_any_scale(scale):
    x = (random_rows(80, 5).astype(np.float64) * scale).astype(np.float32)
    assert_right(knn_graph(x, 3, engine="faiss"), x, 3)


def test_between_two_sets(faiss):
    x = random_rows(90, 5)
    x[50:] = x[:40]  # every second query stands exactly on a gallery row
    mine, theirs = (rerank(x[:45], x[45:], k1=6, k2=3, engine=engine) for engine in ("faiss", "exact"))
    np.testing.assert_array_equal(mine, theirs)
    assert faiss.searches


# --- true float32 products ----------------------------------------------------------------------------------------

NEW_SETTINGS = hasattr(torch.backends.cuda.matmul, "fp32_precision")
"""Since torch 2.9 each backend has its own setting; asking by the old function after setting the new one raises."""


def settings():
    """Everything torch says about the precision of products."""

    def ask(question):
        try:
            return question()
        except RuntimeError:  # "mix of the legacy and new APIs"
            return "mixed"

    found = [ask(torch.get_float32_matmul_precision), ask(lambda: torch.backends.cuda.matmul.allow_tf32)]
    if NEW_SETTINGS:
        backends = torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
        found += [backend.fp32_precision for backend in backends]
    return found


@pytest.fixture
def torch_settings():
    """Put torch's settings back after the test."""
    before = settings()
    yield
    if NEW_SETTINGS:
        for backend, value in zip(
            (torch.backends, torch.backends.cuda.matmul, torch.backends.mkldnn.matmul), before[2:], strict=True
        ):
            backend.fp32_precision = value
    torch.set_float32_matmul_precision(before[0])
    if NEW_SETTINGS:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before[3:]
    assert settings() == before


def set_old(value):
    return lambda: torch.set_float32_matmul_precision(value)


def set_allow_tf32():
    torch.backends.cuda.matmul.allow_tf32 = True


def set_new(*names, value):
    def change():
        backend = torch.backends
        for name in names:
            backend = getattr(backend, name)
        backend.fp32_precision = value

    return change


CHOICES = {"highest": set_old("highest"), "high": set_old("high"), "medium": set_old("medium"), "allow": set_allow_tf32}
if NEW_SETTINGS:
    CHOICES |= {
        "all backends tf32": set_new(value="tf32"),
        "all backends ieee": set_new(value="ieee"),
        "cuda tf32": set_new("cuda", "matmul", value="tf32"),
        "cpu bf16": set_new("mkldnn", "matmul", value="bf16"),
    }


@pytest.fixture(params=CHOICES.values(), ids=CHOICES.keys())
def users_choice(request, torch_settings):  # noqa: ARG001  it puts the settings back
    """The user has chosen a precision; gives what torch says then."""
    request.param()
    return settings()


@pytest.fixture
def products(monkeypatch):
    """What torch said about precision during each product, in float32 tiles."""
    seen, addmm = [], torch.addmm

    def recorded(*arguments, **options):
        if arguments[1].dtype == torch.float32:
            seen.append(settings())
        return addmm(*arguments, **options)

    monkeypatch.setattr(torch, "addmm", recorded)
    return seen


def test_products_are_float32_whatever_the_user_chose(users_choice, products):
    x = random_rows(200, 32)
    assert_right(knn_graph(x, 5, engine="exact"), x, 5)
    rerank(x[:50], x[50:], k1=6, k2=3)
    assert len(products) > 1
    for old, allow, *new in products:
        assert (old, allow) == ("highest", False)
        assert not {"tf32", "bf16"} & set(new[1:])
    assert settings() == users_choice


def test_the_choice_comes_back_after_an_error(users_choice, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch, "addmm", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        knn_graph(random_rows(20, 4), 2, engine="exact")
    assert settings() == users_choice


@pytest.mark.usefixtures("torch_settings")
def test_reranking_is_the_same_whatever_the_user_chose():
    x = random_rows(120, 64)
    before = rerank(x[:40], x[40:])
    torch.set_float32_matmul_precision("medium")
    np.testing.assert_array_equal(rerank(x[:40], x[40:]), before)
