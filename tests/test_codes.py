"""The int8 filter: its bounds hold for every pair, and the engine that uses it gives what plain arithmetic gives."""

import os
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from reference.neighbors import distance_matrix, knn
from support.filters import filter_everything
from support.standin import reason_to_skip, standin

from pose2id import knn_graph
from pose2id.neighbors import _exact, _pivots, find_neighbors
from pose2id.neighbors._int8 import encoder as _encoder
from pose2id.neighbors._int8 import farthest as _farthest
from pose2id.neighbors._int8 import filter as _filter
from pose2id.neighbors._int8 import layout as _layout
from pose2id.neighbors._int8 import machine
from pose2id.neighbors._int8 import pairs as _pairs
from pose2id.neighbors._int8 import products as _products
from pose2id.neighbors._int8 import sweep as _sweep
from pose2id.neighbors.contract import Search


def clustered(n=400, width=24, seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // 8, width))
    return torch.tensor(centres[rng.integers(0, len(centres), n)] + 0.3 * rng.standard_normal((n, width))).to(dtype)


def products(level):
    made = _products.Products(torch.device("cpu"))
    made.level = level
    return made


SETS = {
    "clustered": clustered(),
    "odd width": clustered(width=19),
    "float64": clustered(dtype=torch.float64),
    "float16": clustered(dtype=torch.float16),
    "a common offset": clustered() + 300,
    "tiny": clustered() * 1e-20,
    "float32 underflow": clustered() * 1e-40,
    "huge": clustered() * 1e18,
    "very huge float64": clustered(dtype=torch.float64) * 1e140,
    "one giant row": torch.cat([clustered(), 1e4 * torch.ones(1, 24)]),
    "duplicates": clustered()[torch.arange(400) // 3],
    "mixed lengths": clustered() * torch.logspace(-6, 6, 400)[:, None],
    "lattice": torch.randint(-2, 3, (400, 5), generator=torch.Generator().manual_seed(0)).float(),
}


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("level", [127, 63])
@pytest.mark.parametrize("columns", [0, 4, 16])
def test_the_bounds_hold_for_every_pair(name, level, columns):
    rows = SETS[name]
    if columns > rows.shape[1]:
        pytest.skip("not so many columns")
    encoder = _encoder.Encoder(rows, products(level), columns=columns)
    codes = _layout.sort_codes(encoder, rows)
    real = codes.order >= 0
    assert sorted(codes.order[real].tolist()) == list(range(len(rows)))
    q, half = codes.codes.long(), codes.half.long()
    assert q.abs().max() <= level
    product = (q @ q.T - half - half[:, None])[real][:, real]
    squared = torch.cdist(q.double(), q.double()).square().round()[real][:, real]
    assert (-2 * product <= squared).all()  # (2)
    assert (squared <= 2 - 2 * product).all()
    centred = rows.double()[codes.order[real]] * encoder.scale
    exact = (centred[:, None] - centred).square().sum(dim=2).sqrt()
    error = codes.error[real]
    radius = encoder.step * squared.sqrt()
    assert (radius - error - error[:, None] <= exact).all()  # (1)
    if not columns:
        assert (exact <= radius + error + error[:, None]).all()
        if name in ("clustered", "a common offset", "tiny"):
            assert error.median() < 0.2 * exact.median()  # and they are worth something


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [0, 64, 320])
def test_the_bound_over_a_million_pairs(dtype, columns):
    """Wide rows and very near pairs, whose difference is all rounding."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(1000, 40, generator=generator) @ torch.randn(40, 350, generator=generator)
    rows = rows + 0.02 * torch.randn(1000, 350, generator=generator)
    rows[500:] = rows[:500] + 1e-4 * torch.randn(500, 350, generator=generator)  # near pairs: c is all rounding
    rows = rows.to(dtype)
    encoder = _encoder.Encoder(rows, products(127), columns=columns)
    codes, _, error = encoder.encode(rows)
    q = codes.double()
    radius = (q.square().sum(1) + q.square().sum(1)[:, None] - 2 * q @ q.T).clamp(min=0).sqrt() * encoder.step
    centred = rows.double() * encoder.scale
    exact = torch.cdist(centred, centred, compute_mode="donot_use_mm_for_euclid_dist")
    assert (radius <= exact + error + error[:, None]).all()
    if not columns:
        assert (exact <= radius + error + error[:, None]).all()


def test_a_bound_too_tight_is_caught():
    """Rows whose rests are opposite: (1) is then an equality but for rounding, and 2 % less would be wrong."""
    encoder = _encoder.Encoder(clustered(width=32), products(127))
    centre = torch.randint(-60, 60, (32,), generator=torch.Generator().manual_seed(0)).float()
    along = torch.nn.functional.one_hot(torch.tensor(5), 32).float()
    # y_i = step (q_i + 0.49 a) and y_j = step (q_j - 0.49 a) with q_i - q_j = 40 a: d = step (40 + 0.98).
    rotated = torch.stack([centre + 0.49 * along, centre - 40.49 * along]) * encoder.step
    moved = (rotated.view(-1, _encoder.ROTATED) @ encoder.map.matrix.T).view(2, 32)
    rows = (moved + encoder.centre) / encoder.scale
    codes, _, error = encoder.encode(rows)
    exact = float((rows[0].double() - rows[1].double()).norm()) * encoder.scale
    radius = encoder.step * float((codes[0].double() - codes[1].double()).norm())
    assert exact <= radius + float(error.sum())
    assert exact > radius + 0.98 * float(error.sum())


@pytest.fixture(params=["rotation", "projection"])
def always(monkeypatch, request):
    """The filter on sets of any size and kind."""
    filter_everything(monkeypatch, projection=request.param == "projection")


@pytest.mark.parametrize("name", SETS)
@pytest.mark.usefixtures("always")
def test_same_neighbours_as_the_reference(name):
    rows = SETS[name]
    indices, distances = knn(rows.double().numpy(), 40, single=rows.dtype != torch.float64)
    for k in (1, 2, 5, 20, 40):
        graph = knn_graph(rows, k, engine="exact")
        if rows.dtype == torch.float64:  # the last bit of a float64 distance is the order of summation
            np.testing.assert_allclose(graph.distances, distances[:, :k], rtol=1e-12)
        else:
            np.testing.assert_array_equal(graph.indices, indices[:, :k])
            np.testing.assert_array_equal(graph.distances, distances[:, :k])


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.usefixtures("always")
def test_column_major_rows(width):
    rows = clustered(width=width)
    expected = knn_graph(rows, 3, engine="exact")
    for other in (rows.T.contiguous().T, np.asfortranarray(rows.numpy())):
        assert (torch.as_tensor(knn_graph(other, 3, engine="exact").indices) == expected.indices).all()


SUBNORMAL = torch.randint(0, 60, (300, 2), generator=torch.Generator().manual_seed(0)) * torch.tensor(2.0**-149)
GIANT = torch.cat([torch.randn(299, 24, generator=torch.Generator().manual_seed(0)) * 1e-25, torch.full((1, 24), 1e20)])
LARGEST = clustered() * 2e37  # some distances are beyond float32


@pytest.mark.parametrize("rows", [SUBNORMAL, GIANT, LARGEST], ids=["subnormal", "giant", "largest"])
@pytest.mark.usefixtures("always")
def test_at_the_ends_of_float32(rows):
    with np.errstate(over="ignore"):
        indices, _ = knn(rows.double().numpy(), 4)
    np.testing.assert_array_equal(knn_graph(rows, 4, engine="exact").indices, indices)


@pytest.mark.parametrize("tile", [64, 128, 320])
@pytest.mark.parametrize("pivots", [8, 64])
@pytest.mark.usefixtures("always")
def test_tiles_and_pivots_change_nothing(monkeypatch, tile, pivots):
    rows, labels = clustered(700), np.random.default_rng(0).integers(0, 4, 700)
    expected = knn_graph(rows, 3, exclude=labels, engine="exact")
    monkeypatch.setattr(_layout, "TILE", tile)
    monkeypatch.setattr(_layout, "PIVOTS", pivots)
    monkeypatch.setattr(_pairs, "FLUSH", 1)
    graph = knn_graph(rows, 3, exclude=labels, engine="exact")
    assert torch.equal(graph.indices, expected.indices)
    assert torch.equal(graph.distances, expected.distances)


@pytest.mark.usefixtures("always")
def test_rows_that_collect_too_much_are_left_to_the_float_path(monkeypatch):
    rows = torch.cat([clustered(), torch.zeros(600, 24)])  # the zeros are all each other's neighbours
    left = []
    original = _exact.search_rows
    monkeypatch.setattr(_exact, "search_rows", lambda *a, **k: (left.append(len(a[1])), original(*a, **k)))
    graph = knn_graph(rows, 2, engine="exact")
    assert left == [600]
    np.testing.assert_array_equal(graph.indices, knn(rows.double().numpy(), 2)[0])


@pytest.mark.parametrize("labelled", [False, True])
def test_a_few_rows_that_collect_too_much_are_swept_again(monkeypatch, labelled):
    filter_everything(monkeypatch)
    rows = torch.cat([clustered(), torch.zeros(600, 24)])
    labels = np.arange(len(rows)) % 3 if labelled else None
    expected = knn_graph(rows, 2, exclude=labels, engine="exact")
    monkeypatch.setattr(_filter, "THRESHOLDS", replace(_filter.THRESHOLDS, few=1000))
    monkeypatch.setattr(_exact, "search_rows", lambda *_, **__: pytest.fail("left to the float path"))
    graph = knn_graph(rows, 2, exclude=labels, engine="exact")
    assert torch.equal(graph.indices, expected.indices)
    assert torch.equal(graph.distances, expected.distances)


def test_the_speed_of_codes_is_that_of_the_fastest_of_five_products(monkeypatch):
    clock = iter(np.cumsum([0, 9, 1, 8, 1, 6, 1, 7, 1, 9, 1, 5, 1, 3, 1, 2, 1, 4, 1, 5]) / 1000)  # floats 6, codes 2 ms
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert machine.code_speed.__wrapped__("cpu") == pytest.approx(3)
    assert next(clock, None) is None


def test_slow_codes_are_not_multiplied_five_times(monkeypatch):
    clock = iter(np.cumsum([0, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 40, 1, 30]) / 1000)
    monkeypatch.setattr(machine, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert machine.code_speed.__wrapped__("cpu") == pytest.approx(2 / 30)
    assert next(clock, None) is None


def test_the_speed_of_codes_is_measured_by_one_thread(monkeypatch):
    """Several threads wait for each other on a busy machine, and the wrong answer would stay."""
    seen, multiply, before = [], torch._int_mm, torch.get_num_threads()
    monkeypatch.setattr(torch, "_int_mm", lambda *a: (seen.append(torch.get_num_threads()), multiply(*a))[1])
    torch.set_num_threads(2)
    try:
        machine.code_speed.__wrapped__("cpu")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {1}


@pytest.mark.usefixtures("always")
def test_pairs_are_resolved_on_the_way(monkeypatch):
    rows = clustered(700)
    expected = knn_graph(rows, 3, engine="exact")
    original, calls = _pairs.Pairs.resolve, []
    monkeypatch.setattr(_pairs.Pairs, "resolve", lambda *a: (calls.append(1), original(*a))[1])
    monkeypatch.setattr(_pairs, "FLUSH", -9)  # after every tile
    monkeypatch.setattr(_layout, "TILE", 64)
    assert torch.equal(knn_graph(rows, 3, engine="exact").indices, expected.indices)
    assert len(calls) > 10


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.usefixtures("always")
def test_one_set_in_another(name, k):
    queries, base = SETS[name][:150], SETS[name][100:]
    labels = torch.arange(len(SETS[name])) % 7
    for query_labels, base_labels in ((None, None), (labels[:150], labels[100:])):
        indices, distances = find_neighbors(queries, base, k, query_labels, base_labels, engine="exact")
        exact = (queries.double()[:, None] - base.double()).square().sum(dim=2).sqrt()
        if query_labels is not None:
            exact[query_labels[:, None] == base_labels] = torch.inf
        if queries.dtype != torch.float64:
            exact = exact.float()
        ordered, at = exact.sort(dim=1, stable=True)
        if queries.dtype == torch.float64:
            np.testing.assert_allclose(distances, ordered[:, :k], rtol=1e-11)
        elif name not in ("float32 underflow", "tiny"):  # where float64 sums of squares of this test underflow
            assert torch.equal(indices, at[:, :k])
            assert torch.equal(distances, ordered[:, :k])


@pytest.mark.parametrize("name", ["clustered", "odd width", "float64", "duplicates", "lattice", "a common offset"])
@pytest.mark.usefixtures("always")
def test_both_ends_in_one_sweep(monkeypatch, name):
    rows = SETS[name]
    monkeypatch.setattr(machine, "code_speed", lambda _: 4.0)  # else float products come first
    monkeypatch.setattr(_layout, "TILE", 128)
    monkeypatch.setattr(_pairs, "FLUSH", 1)
    monkeypatch.setattr(_farthest, "FLUSH", 1)
    monkeypatch.setattr(_farthest, "MEASURED", 100)
    searched = []
    original = _exact.farthest
    monkeypatch.setattr(_exact, "farthest", lambda *a, **k: (searched.append(1), original(*a, **k))[1])
    indices, _, farthest = _exact.search_both_ends(Search(rows, rows, 3, within=True))
    assert torch.equal(indices, find_neighbors(rows, rows, 3, within=True, engine="exact")[0])
    exact = (rows.double()[:, None] - rows.double()).square().sum(dim=2).sqrt()
    np.testing.assert_allclose(farthest, exact.amax(dim=1), rtol=3e-6)
    assert bool(searched) == (name == "a common offset")  # far from the middle, products do not tell: the other way


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("engine", ["exact", "pivots"])
def test_codes_in_a_temporary_file(monkeypatch, tmp_path, engine):
    """Where memory is short for them; nothing stays behind, and nothing changes."""
    monkeypatch.setattr(_pivots, "SMALLEST", 100)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    rows = clustered(700, 48)
    expected = knn_graph(rows, 3, engine=engine)
    made, original = [], np.memmap
    monkeypatch.setattr(np, "memmap", lambda *a, **k: (made.append(k["shape"]), original(*a, **k))[1])
    monkeypatch.setattr(machine, "_memory", lambda: 30_000.0)
    graph = knn_graph(rows, 3, engine=engine)
    assert any(shape[1] in (16, 48) and shape[0] >= 700 for shape in made)
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(graph.indices, expected.indices)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("engine", ["exact", "pivots"])
def test_under_another_default_dtype(monkeypatch, engine):
    monkeypatch.setattr(_pivots, "SMALLEST", 100)
    rows = clustered(700, 300)
    expected = knn_graph(rows, 3, engine=engine)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(knn_graph(rows, 3, engine=engine).indices, expected.indices)
    finally:
        torch.set_default_dtype(torch.float32)


def search(rows, k):
    return _filter.search(Search(rows, rows, k, within=True))


def test_whole_rows_of_codes_are_not_multiplied_as_floats(monkeypatch):
    """The rows themselves are, each pair once too, and without making codes."""
    rows = clustered(3200)
    for speed, used in ((4.0, True), (0.1, False)):
        monkeypatch.setattr(machine, "code_speed", lambda _, speed=speed: speed)
        assert (search(rows, 2) is not None) == used
        assert (_filter.search(Search(rows[:100], rows, 2)) is not None) == used
        assert (_filter.planned_products(100, 3200, 24, 2, within=False) is not None) == used
    assert _filter.planned_products(3200, 3200, 24, 2, within=True) == (24, 1.0)
    wide = torch.nn.functional.pad(rows, (0, 2048 - 24))
    monkeypatch.setattr(_encoder.Rotation, "__init__", lambda *_: pytest.fail("codes of whole rows"))
    assert search(wide, 2) is not None  # projection codes


def test_used_where_it_pays_and_only_there(monkeypatch):
    monkeypatch.setattr(_filter, "THRESHOLDS", _filter.Thresholds(floats=True))
    structured = clustered(3200)
    assert search(structured, 2) is not None
    assert search(structured[:2900], 2) is None
    assert search(structured, 65) is None
    assert search(torch.ones(3200, 24), 2) is None  # everything is everybody's neighbour
    noise = torch.randn(3200, 2000, generator=torch.Generator().manual_seed(0))
    assert search(noise, 2) is None
    found = search(structured, 2)
    assert int(found.left.sum()) < 32
    measured = torch.ones(3200, dtype=torch.bool)
    measured[found.left] = False
    some, rows = measured.nonzero()[::16, 0].numpy(), structured.double().numpy()
    table = distance_matrix(rows[some], rows)
    table[range(len(some)), some] = np.inf
    expected = table.argsort(axis=1, kind="stable")[:, :2]
    np.testing.assert_array_equal(found.indices[some], expected)
    np.testing.assert_array_equal(found.distances[some], np.take_along_axis(table, expected, axis=1))


def test_what_projection_codes_leave_is_searched_by_floats(monkeypatch):
    filter_everything(monkeypatch, projection=True)
    rows = torch.cat([clustered(600, 48), torch.randn(200, 48, generator=torch.Generator().manual_seed(3))])
    sweeps = []
    original = _sweep.Sweep.run
    monkeypatch.setattr(_sweep.Sweep, "run", lambda self, *a, **k: (sweeps.append(self), original(self, *a, **k))[1])
    start = _sweep.Sweep.__init__
    monkeypatch.setattr(
        _sweep.Sweep, "__init__", lambda self, *a, **k: (start(self, *a, **k), setattr(self, "cap", 40))[0]
    )
    left, by_floats = [], _exact.search_rows
    monkeypatch.setattr(_exact, "search_rows", lambda *a: (left.append(len(a[1])), by_floats(*a)))
    graph = knn_graph(rows, 2, engine="exact")
    assert [type(sweep.encoder.map) for sweep in sweeps] == [_encoder.Projection]
    assert left == [len(sweeps[0].left.rows_left())]
    assert 20 < left[0] < 800
    np.testing.assert_array_equal(graph.indices, knn(rows.double().numpy(), 2)[0])


def test_projection_codes_where_they_pay():
    assert _filter.projection_columns(15_913, 2048, 2, speed=4.0) == 320
    assert _filter.projection_columns(50_000, 2048, 2, speed=4.0) == 560
    assert _filter.projection_columns(1_000_000, 2048, 2, speed=4.0) == 672  # a third of the columns at most
    assert not _filter.projection_columns(15_913, 768, 2, speed=4.0)
    assert not _filter.projection_columns(8_000, 2048, 2, speed=4.0)
    assert not _filter.projection_columns(50_000, 2048, 20, speed=4.0)
    assert not _filter.projection_columns(50_000, 2048, 2, speed=20.0)  # a CPU with AMX, or a GPU
    assert _filter.projection_columns(15_913, 768, 2, speed=0.1) == 256  # a CPU without VNNI
    assert _filter.projection_columns(3_368, 2048, 2, speed=0.1) == 256
    assert not _filter.projection_columns(3_368, 768, 2, speed=0.1)
    assert not _filter.projection_columns(15_913, 768, 20, speed=0.1)


@pytest.mark.parametrize("speed", [0.1, 4.0])
@pytest.mark.parametrize("width", [16, 1040, 1056, 3200])
def test_products_are_whole_numbers_by_any_instructions(monkeypatch, speed, width):
    """The largest codes of one sign, which float32 cannot sum beyond 1,040 columns, and mixed ones."""
    monkeypatch.setattr(machine, "code_speed", lambda _: speed)
    product = _products.Products(torch.device("cpu"))
    assert product.int8 == (speed > 1)
    level = product.level
    codes = torch.randint(-level, level + 1, (40, width), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    codes[:20], codes[20] = level, -level
    assert torch.equal(product(codes[:24], codes.T).long(), codes[:24].long() @ codes.T.long())
    assert torch.equal(product(codes, codes[:16].T).long(), codes.long() @ codes[:16].T.long())


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("columns", [0, 4])
def test_the_answer_does_not_depend_on_the_instructions(monkeypatch, name, columns):
    rows = SETS[name]
    filter_everything(monkeypatch)
    thresholds = replace(_filter.THRESHOLDS, columns=columns)
    monkeypatch.setattr(_filter, "THRESHOLDS", thresholds)
    graphs = []
    for speed in (0.1, 4.0):
        monkeypatch.setattr(machine, "code_speed", lambda _, speed=speed: speed)
        graphs.append(knn_graph(rows, 3, engine="exact"))
    assert torch.equal(graphs[0].indices, graphs[1].indices)
    assert torch.equal(graphs[0].distances, graphs[1].distances)


def test_the_self_test_finds_saturating_products(monkeypatch):
    """A CPU without AVX512-VNNI adds pairs of products in int16."""
    level_here = machine.largest_code("cpu")

    def saturating(limit):
        def product(a, b):
            pairs = (a.int()[:, None, :] * b.T.int()[None]).unflatten(2, (-1, 2)).sum(dim=3)
            return pairs.clamp(-limit, limit).sum(dim=2).int()

        return product

    for limit, level in ((2**15 - 1, 127), (20_000, 63), (5_000, 0)):
        machine.largest_code.cache_clear()
        monkeypatch.setattr(torch, "_int_mm", saturating(limit))
        assert machine.largest_code("cpu") == level
    monkeypatch.delattr(torch, "_int_mm")
    machine.largest_code.cache_clear()
    assert machine.largest_code("cpu") == 0
    monkeypatch.setattr(_filter, "THRESHOLDS", _filter.Thresholds(floats=True))
    machine.code_speed.cache_clear()
    assert search(clustered(3200), 2) is not None  # by products of floats
    monkeypatch.undo()
    machine.largest_code.cache_clear()
    assert machine.largest_code("cpu") == level_here


@pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))
@pytest.mark.parametrize("wrong", [lambda n: n > 512, lambda n: n < 512], ids=["large", "small"])
def test_the_self_test_tries_small_and_large_products_on_a_gpu(monkeypatch, wrong):
    """CUDA 12.1 had kernels that were wrong for some sizes only (pytorch issue 107671)."""
    product = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: product(a, b) + wrong(len(a)))
    machine.largest_code.cache_clear()
    with standin():
        assert machine.largest_code("cuda") == 0
        monkeypatch.undo()
        machine.largest_code.cache_clear()
        assert machine.largest_code("cuda") == machine.largest_code("cpu")
    machine.largest_code.cache_clear()


def test_a_shortage_of_memory_says_nothing_about_products(monkeypatch):
    def short(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    level_here = machine.largest_code("cpu")
    machine.largest_code.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", short)
    with pytest.raises(torch.OutOfMemoryError):
        machine.largest_code("cpu")
    monkeypatch.undo()
    assert machine.largest_code("cpu") == level_here


@pytest.mark.parametrize(
    ("error", "remembered"),
    [
        (
            "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate",
            None,
        ),
        ("could not create a primitive", 0),  # as oneDNN calls many things, a shortage among them
    ],
)
def test_a_failure_is_not_remembered(monkeypatch, error, remembered):
    def fail(*_):
        raise RuntimeError(error)

    level_here = machine.largest_code("cpu")
    machine.largest_code.cache_clear()
    monkeypatch.setattr(torch, "_int_mm", fail)
    if remembered is None:
        with pytest.raises(RuntimeError, match="DefaultCPUAllocator"):
            machine.largest_code("cpu")
    else:
        assert machine.largest_code("cpu") == 0
    monkeypatch.undo()
    assert machine.largest_code("cpu") == level_here


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="elsewhere the file grows when it is written")
def test_codes_that_find_no_room_on_the_disk(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(machine, "MEMORY_SHARE", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    words = r"^6,400 bytes for codes cannot be written into .*: \[Errno 28\] No space left on device; name"
    with pytest.raises(OSError, match=words):
        machine.allocate_codes(100, 64, torch.device("cpu"))


def test_the_speed_of_a_gpu_is_not_measured_by_launches():
    assert machine.code_speed("cuda") >= _filter.FAST
