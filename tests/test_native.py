"""The native engine: its products, its answers against `exact` to the last bit, and what it leaves to others."""

import functools
import itertools
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pose2id import MissingExtraError, knn_graph
from pose2id.neighbors import _exact, _native, engines, find_both_ends, find_neighbors
from pose2id.neighbors._int8.encoder import Rotation
from pose2id.neighbors._native import all_kernels, load_kernel
from pose2id.neighbors._native import search as native
from pose2id.neighbors.contract import Search

KERNELS = {kernel.name: kernel for kernel in all_kernels()}
needs_kernel = pytest.mark.skipif(not KERNELS, reason=f"the native kernel is {load_kernel()[1]}")


@pytest.fixture(params=KERNELS)
def kernel(request, monkeypatch):
    """Every machine that this one can be, for sets of any size."""
    monkeypatch.setattr(native, "load_kernel", lambda: (KERNELS[request.param], "chosen by a test"))
    monkeypatch.setattr(native, "SMALLEST", 1)
    return KERNELS[request.param]


def clusters(n, width, seed=0, noise=0.5):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, n // 12), width))
    return (centres[rng.integers(0, len(centres), n)] + noise * rng.standard_normal((n, width))).astype(np.float32)


def assert_same(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(mine, theirs)


@needs_kernel
@pytest.mark.parametrize("columns", [16, 48, 768, 16384])
@pytest.mark.parametrize("kind", ["largest", "signs", "any", "as long as (7) allows", "longer"])
def test_products_are_exact(kernel, columns, kind):
    """Sums of 16 bits would overflow if a bound were one too large."""
    rng, level = np.random.default_rng(columns), kernel.level
    codes = {
        "largest": np.full((32, columns), level),
        "as long as (7) allows": np.full((32, columns), 45),  # 16 * 45^2 < 2^15 < 16 * 46^2
        "longer": np.full((32, columns), 46),
        "signs": level * rng.choice([-1, 1], (32, 1)) * np.ones((1, columns), int),
        "any": rng.integers(-level, level + 1, (32, columns)),
    }[kind]
    products = kernel.multiply(torch.from_numpy(codes.astype(np.int8)))
    np.testing.assert_array_equal(products, codes[:16] @ codes.T)


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("columns", [32, 48])
def test_a_few_long_rows_of_either_side(monkeypatch, columns):
    """Sixteen products of codes of 40 and 63 overflow 16 bits, those of 40 and 40 do not."""
    monkeypatch.setattr(native, "BLOCK", 1)
    rng = np.random.default_rng(0)
    codes = 40.0 * rng.choice([-1, 1], (300, columns))
    queries, base = codes.copy(), codes.copy()
    queries[7::40] *= 63 / 40
    base[::40] *= 63 / 40  # the largest, which the step follows
    rotation = Rotation(columns, torch.device("cpu")).matrix.double()
    sides = [(torch.from_numpy(side).view(-1, 16) @ rotation.T).view(300, -1).float() for side in (queries, base)]
    found, wanted = (find_neighbors(*sides, 2, engine=name) for name in ("native", "exact"))
    assert_same(found, wanted)
    found, wanted = (find_neighbors(*sides[:1] * 2, 2, within=True, engine=name) for name in ("native", "exact"))
    assert_same(found, wanted)


SETS = {
    "clusters": clusters(700, 40),
    "few columns": clusters(300, 1),
    "wide": clusters(90, 500),
    "noise": np.random.default_rng(1).standard_normal((400, 33), dtype=np.float32),
    "lattice": np.random.default_rng(2).integers(-2, 3, (600, 5)).astype(np.float32),
    "far from the origin": clusters(300, 20) + np.float32(5000),
    "a few far rows": np.concatenate([clusters(290, 20), 1e6 * clusters(10, 20)]),
    "one scale each": clusters(300, 20) * np.float32(10) ** np.arange(-6, 6).repeat(25).astype(np.float32)[:, None],
    "tiny": clusters(300, 20) * np.float32(1e-42),
    "huge": clusters(300, 20) * np.float32(3e37),
    "a line": np.arange(500, dtype=np.float32)[:, None] * np.ones((1, 17), np.float32),
}


def answers(name, k, engine):
    """Within a set, without and with labels, and of one part of it in the other."""
    rows = SETS[name]
    found = [knn_graph(rows, k, exclude=labels, engine=engine) for labels in (None, np.arange(len(rows)) % 5)]
    some, cut = torch.from_numpy(rows), len(rows) // 3
    across = find_neighbors(some[:cut], some[cut:], k, engine=engine)
    return [*((each.indices, each.distances) for each in found), across]


@functools.cache
def exact_answers(name, k):
    """Once for all kernels."""
    return answers(name, k, "exact")


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("k", [1, 7, 64])
def test_answers_are_those_of_exact(name, k):
    for found, wanted in zip(answers(name, k, "native"), exact_answers(name, k), strict=True):
        assert_same(found, wanted)


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [np.float16, np.float64])
@pytest.mark.parametrize("projected", [False, True])
def test_other_dtypes_and_projections(monkeypatch, dtype, projected):
    monkeypatch.setattr(native, "projection_columns", lambda *_: 16 if projected else 0)
    rows = clusters(500, 60).astype(dtype)
    found, wanted = (knn_graph(rows, 3, engine=name) for name in ("native", "exact"))
    assert_same((found.indices, found.distances), (wanted.indices, wanted.distances))


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["clusters", "noise", "a few far rows", "one scale each", "a line"])
def test_both_ends(name, dtype):
    rows = torch.from_numpy(SETS[name].astype(dtype))
    found = find_both_ends(rows, 9, engine="native")
    assert_same(found[:2], find_neighbors(rows, rows, 9, within=True, engine="exact"))
    np.testing.assert_allclose(found[2], torch.cdist(rows.double(), rows.double()).amax(dim=1), rtol=1e-7)


@needs_kernel
@pytest.mark.usefixtures("kernel")
def test_rows_that_many_crowd_around_are_left_to_exact(monkeypatch):
    rows, left, search_rows = clusters(400, 30), [], _exact.search_rows

    def counted(asked, these, *others):
        left.append(len(these))
        return search_rows(asked, these, *others)

    monkeypatch.setattr(_exact, "search_rows", counted)
    monkeypatch.setattr(native, "CAP", -470)  # 1 for k = 7
    found, wanted = (knn_graph(rows, 7, engine=name) for name in ("native", "exact"))
    assert_same((found.indices, found.distances), (wanted.indices, wanted.distances))
    assert left[0] > 300


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("room", [0, 3, 4096])
def test_distances_that_sums_leave_open_are_measured_as_exact_does(monkeypatch, room):
    """As if float64 sums were good for five digits."""
    monkeypatch.setattr(native, "ROOM", room)
    monkeypatch.setattr(native, "rounding", lambda _: 1e-8)
    rows = clusters(300, 30)
    found, wanted = (knn_graph(rows, 4, engine=name) for name in ("native", "exact"))
    assert_same((found.indices, found.distances), (wanted.indices, wanted.distances))


@needs_kernel
@pytest.mark.usefixtures("kernel")
def test_sets_without_structure_are_left_to_exact(monkeypatch):
    monkeypatch.setattr(native, "measured_at_most", lambda *_: 0)
    sweeps = []
    monkeypatch.setattr(_exact, "search", lambda asked: sweeps.append(asked) or asked.no_neighbors())
    knn_graph(clusters(300, 20), 2, engine="native")
    assert len(sweeps) == 1


@needs_kernel
def test_what_is_not_for_the_kernel_goes_to_exact():
    for rows, k in ((clusters(50, 4), 2), (clusters(400, 4), 65)):
        found, wanted = (knn_graph(rows, k, engine=name) for name in ("native", "exact"))
        assert_same((found.indices, found.distances), (wanted.indices, wanted.distances))


@needs_kernel
def test_a_signal_is_heard_between_slices(monkeypatch):
    monkeypatch.setattr(native, "SLICE", 1)
    rows = clusters(6000, 60)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored

    def search_on():
        for _ in range(500):
            knn_graph(rows, 5, engine="native")

    try:
        threading.Timer(0.15, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            search_on()
    finally:
        signal.signal(signal.SIGINT, handler)


def test_not_compiled(monkeypatch):
    monkeypatch.delenv("POSE2ID_KERNEL", raising=False)
    monkeypatch.setattr(_native, "NAMES", ())
    assert load_kernel() == (None, "not compiled: install with a C++ compiler and without POSE2ID_PURE")


def test_without_the_library(monkeypatch, tmp_path):
    monkeypatch.setenv("POSE2ID_KERNEL", str(tmp_path / "none.so"))
    assert load_kernel() == (None, f"POSE2ID_KERNEL names no file: {tmp_path / 'none.so'}")
    with pytest.raises(MissingExtraError, match="engine 'native' needs its kernel: POSE2ID_KERNEL names no file"):
        knn_graph(np.eye(300, dtype=np.float32), 2, engine="native")
    assert engines.choose_engine(20_000).engine != "native"
    (tmp_path / "none.so").write_bytes(b"no library")
    kernel, words = load_kernel()
    assert kernel is None
    assert words.startswith("none.so cannot be loaded")
    assert _native.find_library() == tmp_path / "none.so"


@needs_kernel
@pytest.mark.parametrize("kept", [30, 63, 64, 5000, -1])
def test_a_library_that_is_cut_short_is_not_used(monkeypatch, tmp_path, kept):
    """Loading one ends the process by a signal: pages are missing."""
    library = _native.find_library()
    if library.read_bytes()[:6] != b"\x7fELF\x02\x01":
        pytest.skip("a library of another system")
    (tmp_path / "half.so").write_bytes(library.read_bytes()[:kept])
    monkeypatch.setenv("POSE2ID_KERNEL", str(tmp_path / "half.so"))
    assert load_kernel() == (None, "half.so is cut short: install again")


@needs_kernel
def test_a_library_that_errs_is_not_used(monkeypatch):
    _native._load_kernel.cache_clear()
    monkeypatch.setattr(_native.Kernel, "multiply", lambda *_: torch.zeros(16, 32, dtype=torch.int32))
    try:
        kernel, words = load_kernel()
        assert kernel is None
        assert "multiplies wrongly" in words
    finally:
        _native._load_kernel.cache_clear()


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("k", [1, 5, 57])
def test_float64_distances_below_the_numbers_of_float32(k):
    """In the frame, which the last row makes: float32 has 1.4e-45 and 2.8e-45, and nothing between them."""
    rows = np.random.default_rng(5).standard_normal((301, 30)) * 2.5e-46
    rows[-1] = 1
    for exclude in (None, np.arange(301) % 4):
        found, wanted = (knn_graph(rows, k, exclude=exclude, engine=name) for name in ("native", "exact"))
        assert_same((found.indices, found.distances), (wanted.indices, wanted.distances))


@needs_kernel
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("farthest", [False, True])
@pytest.mark.parametrize("cut", [None, 100, 200])
def test_tasks_are_all_pairs_of_blocks_once(monkeypatch, farthest, cut):
    monkeypatch.setattr(native, "BLOCK", 1)  # blocks of 32 rows
    rows = torch.from_numpy(clusters(300, 20))
    queries, base = (rows, rows) if cut is None else (rows[:cut], rows[cut:])
    asked = Search(queries, base, 2, within=cut is None)
    sweep = native._Sweep(native.load_kernel()[0], asked, 2, farthest=farthest and cut is None)
    a, b = -(-len(queries) // 32), -(-len(base) // 32)
    parts = [sweep.tasks.take(first, first + 7) for first in range(0, len(sweep.tasks), 7)]
    tasks = [tuple(task) for task in torch.cat(parts).tolist()]
    outer = [(0, row, 0) for row in range(a)] if farthest and cut is None else []
    pairs = itertools.product(range(a), range(b))
    wanted = [(1, row, column) for row, column in pairs if cut is not None or column >= row]
    assert tasks[: len(outer)] == outer
    assert sorted(tasks[len(outer) :]) == wanted


@needs_kernel
@pytest.mark.usefixtures("kernel")
def test_another_default_device_changes_nothing():
    rows = torch.from_numpy(clusters(300, 20))
    wanted = find_neighbors(rows[:100], rows[100:], 4, engine="exact")
    with torch.device("meta"):
        found = find_neighbors(rows[:100], rows[100:], 4, engine="native")
        far = find_both_ends(rows, 4, engine="native")
    assert_same(found, wanted)
    assert_same(far, find_both_ends(rows, 4, engine="native"))


@needs_kernel
@pytest.mark.usefixtures("kernel")
def test_several_threads_search_at_once(monkeypatch):
    for name, value in (("SLICE", 1), ("BLOCK", 1), ("AT_ONCE", 5)):
        monkeypatch.setattr(native, name, value)
    rows = torch.from_numpy(clusters(500, 20))
    wanted = find_neighbors(rows, rows, 3, within=True, engine="exact")

    def search(_):
        return find_neighbors(rows, rows, 3, within=True, engine="native")

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(search, range(8)):
            assert_same(found, wanted)


@needs_kernel
@pytest.mark.parametrize("edge", [255, 256, 257, 287, 288, 289])
def test_edges_of_panels_and_of_small_sets(edge):
    """With labels most rows have two neighbours, fewer than are asked for."""
    for rows in (
        clusters(edge, 17),
        clusters(edge, 16).astype(np.float64).T.copy().T,
        clusters(edge, 65).astype(np.float16),
    ):
        labels = np.ones(edge, int)
        labels[[3, edge - 1]] = 2, 3
        for k, exclude in ((1, None), (58, None), (64, None), (4, labels)):
            found, wanted = (knn_graph(rows, k, exclude=exclude, engine=name) for name in ("native", "exact"))
            assert_same((found.indices, found.distances), (wanted.indices, wanted.distances))


@needs_kernel
def test_a_library_of_another_interface_is_not_used(monkeypatch):
    monkeypatch.setattr(_native, "ABI_VERSION", -1)
    _native._load_kernel.cache_clear()
    try:
        assert load_kernel() == (
            None,
            f"{_native.find_library().name} has version 2 of its interface, -1 is needed: install again",
        )
    finally:
        _native._load_kernel.cache_clear()
