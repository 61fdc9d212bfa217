"""knn_graph: order, ties, dtypes, padding, exclusion, for every engine."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference.neighbors import knn
from support.arrays import ArrayKind, as_float64
from support.engines import of_few_rows, with_projections

from pose2id import knn_graph, rerank
from pose2id.neighbors import _across, _exact, find_across, find_entered, find_neighbors

LATTICE = st.tuples(st.integers(1, 24), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.integers(-2, 2).map(float))
)
F32 = ArrayKind("numpy", "float32")


def random_rows(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def assert_same_graph(graph, indices, distances, rtol=1e-6):
    np.testing.assert_array_equal(as_float64(graph.indices), indices)
    np.testing.assert_allclose(as_float64(graph.distances), distances, rtol=rtol, atol=0)


@pytest.mark.parametrize("k", [1, 2, 7])
def test_equals_reference(array_kind, engine, k):
    x = random_rows(60, 8)
    graph = knn_graph(array_kind.make(x), k, engine=engine)
    indices, distances = knn(array_kind.rounded(x), k, single=array_kind.single)
    assert_same_graph(graph, indices, distances, rtol=1e-6 if array_kind.single else 1e-13)


@of_few_rows
def test_result_is_like_the_input(array_kind, engine):
    graph = knn_graph(array_kind.make(random_rows(9, 3)), 2, engine=engine)
    assert array_kind.has_container(graph.indices)
    assert array_kind.has_container(graph.distances)
    assert str(graph.indices.dtype).removeprefix("torch.") == "int64"
    assert str(graph.distances.dtype).removeprefix("torch.") == array_kind.distance_dtype
    assert tuple(graph.indices.shape) == tuple(graph.distances.shape) == (9, 2)


def test_device_is_that_of_the_input(device, engine):
    x = random_rows(50, 6)
    features = torch.tensor(x, dtype=torch.float32, device=device)
    graph = knn_graph(features, 3, engine=engine)
    assert graph.indices.device == features.device
    assert graph.distances.device == features.device
    assert_same_graph(graph, *knn(as_float64(features), 3))


def test_auto_is_exact():
    x = F32.rounded(random_rows(80, 5))
    assert_same_graph(knn_graph(F32.make(x), 4), *knn(x, 4))


@given(x=LATTICE, k=st.integers(1, 6))
def test_ties_go_to_the_lower_index(engine, x, k):
    graph = knn_graph(x, k, engine=engine)
    indices, distances = knn(x.astype(np.float64), k)
    assert_same_graph(graph, indices, distances, rtol=0)


@given(x=LATTICE, k=st.integers(1, 6))
def test_ties_go_to_the_lower_index_in_float64(engine, x, k):
    graph = knn_graph(x.astype(np.float64), k, engine=engine)
    indices, distances = knn(x.astype(np.float64), k, single=False)
    assert_same_graph(graph, indices, distances, rtol=1e-15)


# Row 2 is nearer to row 0 than row 1 is, by less than float32 can tell.
# "squared": even the squared distances 1 + 2^-28 and 1 are equal in float32.
# "root": the squared distances 1 + 2^-23 and 1 differ in float32, their roots do not.
NEARLY_TIED = {
    "squared": [[0, 0, 0], [1, 2**-14, 0], [1, 0, 0]],
    "root": [[0, 0, 0], [1, 2**-12, 2**-12], [1, 0, 0]],
}


@pytest.mark.parametrize("rows", NEARLY_TIED.values(), ids=NEARLY_TIED.keys())
def test_float32_orders_by_the_rounded_distance(engine, rows):
    graph = knn_graph(np.array(rows, dtype=np.float32), 2, engine=engine)
    assert graph.indices[0].tolist() == [1, 2]
    assert graph.distances[0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("rows", NEARLY_TIED.values(), ids=NEARLY_TIED.keys())
def test_float64_orders_by_the_full_distance(engine, rows):
    graph = knn_graph(np.array(rows, dtype=np.float64), 2, engine=engine)
    assert graph.indices[0].tolist() == [2, 1]
    assert graph.distances[0][1] > 1


def test_distance_one_float32_step_apart_is_no_tie(engine):
    rows = np.array([[0, 0], [1 + 2**-23, 0], [1, 0]], dtype=np.float32)
    assert knn_graph(rows, 2, engine=engine).indices[0].tolist() == [2, 1]


def test_large_mean_does_not_cancel(engine):
    """|a|² + |b|² - 2ab in float32 would lose everything here."""
    x = np.random.default_rng(0).integers(-8, 9, (300, 12)) + 4096.0
    assert_same_graph(knn_graph(x.astype(np.float32), 3, engine=engine), *knn(x, 3), rtol=0)


def test_large_mean_does_not_cancel_in_float64(engine):
    x = random_rows(200, 6) + 1e6
    assert_same_graph(knn_graph(x, 3, engine=engine), *knn(x, 3, single=False), rtol=1e-12)


def test_one_far_row_does_not_blur_the_others(engine):
    x = F32.rounded(random_rows(120, 6))
    x[50] = 1e7
    assert_same_graph(knn_graph(F32.make(x), 3, engine=engine), *knn(x, 3))


@pytest.mark.parametrize("n", [5, 40, 700])
def test_identical_rows(engine, n):
    graph = knn_graph(np.full((n, 3), 0.1, dtype=np.float32), 3, engine=engine)
    first = [[j for j in range(4) if j != i][:3] for i in range(n)]
    assert_same_graph(graph, np.array(first), np.zeros((n, 3)))


def test_self_is_excluded_by_index_not_by_distance(engine):
    x = np.array([[0.0], [5.0], [0.0], [0.0]], dtype=np.float32)
    graph = knn_graph(x, 2, engine=engine)
    assert graph.indices.tolist() == [[2, 3], [0, 2], [0, 3], [0, 2]]


SAME_ROWS = {"itself": lambda x: x, "a view": lambda x: x[:], "a copy": lambda x: x.clone()}


@with_projections
@pytest.mark.parametrize("again", SAME_ROWS.values(), ids=SAME_ROWS.keys())
def test_who_may_find_himself_is_said_and_never_seen(engine, again):
    """Whether queries are the base, a view of it or a copy decides nothing."""
    x = torch.tensor(random_rows(80, 20), dtype=torch.float32)
    indices, distances = find_neighbors(again(x), x, 3, within=True, engine=engine)
    expected = knn(as_float64(x), 3)
    np.testing.assert_array_equal(indices, expected[0])
    np.testing.assert_array_equal(distances, expected[1])
    labels = torch.arange(80) % 5
    indices, distances = find_neighbors(again(x), x, 3, labels, labels[:], within=True, engine=engine)
    np.testing.assert_array_equal(indices, knn(as_float64(x), 3, exclude=labels.tolist())[0])
    indices, distances = find_neighbors(again(x), x, 3, engine=engine)
    assert indices[:, 0].tolist() == list(range(80))
    assert (distances[:, 0] == 0).all()
    np.testing.assert_array_equal(indices[:, 1:], expected[0][:, :2])


def test_other_rows_are_not_within(engine):
    x = torch.tensor(random_rows(80, 20), dtype=torch.float32)
    with pytest.raises(ValueError, match=r"within=True means .* received \(79, 20\) and \(80, 20\)"):
        find_neighbors(x[1:], x, 3, within=True, engine=engine)


def test_many_groups_of_duplicates(engine):
    rng = np.random.default_rng(1)
    x = F32.rounded(rng.standard_normal((30, 8)))[rng.integers(0, 30, 400)]
    assert_same_graph(knn_graph(F32.make(x), 5, engine=engine), *knn(x, 5))


def test_zero_rows_are_ordinary_points(engine):
    x = np.array([[0.0, 0], [3, 4], [0, 0], [3, 3]], dtype=np.float32)
    graph = knn_graph(x, 2, engine=engine)
    assert graph.indices.tolist() == [[2, 3], [3, 0], [0, 3], [1, 0]]


@of_few_rows
@pytest.mark.parametrize("k", [1, 2, 9])
def test_fewer_rows_than_k(engine, array_kind, k):
    for shape in ((0, 4), (1, 4), (2, 4), (5, 1)):
        x = random_rows(*shape)
        graph = knn_graph(array_kind.make(x), k, engine=engine)
        indices, distances = knn(array_kind.rounded(x), k, single=array_kind.single)
        assert tuple(graph.indices.shape) == (shape[0], k)
        assert_same_graph(graph, indices, distances)


LABELS = np.random.default_rng(5).integers(0, 3, 40)
LABEL_FORMS = {
    "numpy int64": LABELS,
    "numpy int32": LABELS.astype(np.int32),
    "numpy uint8": LABELS.astype(np.uint8),
    "list of int": LABELS.tolist(),
    "tuple of int": tuple(LABELS.tolist()),
    "list of numpy int": list(LABELS),
    "torch": torch.tensor(LABELS),
    "numpy str": LABELS.astype(str),
    "list of str": [f"cam {i}" for i in LABELS],
    "object array of str": np.array([f"cam {i}" for i in LABELS], dtype=object),
}


@pytest.mark.parametrize("labels", LABEL_FORMS.values(), ids=LABEL_FORMS.keys())
def test_excluded_rows_are_never_neighbours(engine, labels):
    x = F32.rounded(random_rows(40, 4))
    graph = knn_graph(F32.make(x), 6, exclude=labels, engine=engine)
    assert_same_graph(graph, *knn(x, 6, exclude=LABELS.tolist()))


def test_exclusion_leaves_padding(engine):
    x = np.array([[0.0], [1], [2], [3]], dtype=np.float32)
    graph = knn_graph(x, 2, exclude=["a", "a", "a", "b"], engine=engine)
    assert graph.indices.tolist() == [[3, -1], [3, -1], [3, -1], [2, 1]]
    assert graph.distances.tolist() == [[3, np.inf], [2, np.inf], [1, np.inf], [1, 2]]


def test_rows_of_one_label_are_not_searched(monkeypatch):
    """An engine would look for allowed pairs among all of them."""
    monkeypatch.setattr("pose2id.neighbors.search.ENGINES", {})
    found = knn_graph(np.eye(300, dtype=np.float32), 2, exclude=np.zeros(300, int), engine="exact")
    assert (found.indices == -1).all()
    assert np.isinf(found.distances).all()
    with pytest.raises(KeyError):
        knn_graph(np.eye(300, dtype=np.float32), 2, exclude=np.arange(300) // 299, engine="exact")


def test_everything_excluded(engine):
    graph = knn_graph(F32.make(random_rows(7, 3)), 2, exclude=[1] * 7, engine=engine)
    assert (graph.indices == -1).all()
    assert np.isinf(graph.distances).all()


def test_exclusion_of_most_rows_in_a_large_set(engine):
    """The nearest allowed row may stand far down the list."""
    x = F32.rounded(random_rows(300, 4))
    labels = [0] * 290 + list(range(1, 11))
    assert_same_graph(knn_graph(F32.make(x), 3, exclude=labels, engine=engine), *knn(x, 3, exclude=labels))


@given(x=LATTICE, data=st.data())
def test_exclusion_with_ties(engine, x, data):
    labels = data.draw(st.lists(st.integers(0, 2), min_size=len(x), max_size=len(x)))
    graph = knn_graph(x, 3, exclude=labels, engine=engine)
    assert_same_graph(graph, *knn(x.astype(np.float64), 3, exclude=labels), rtol=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_set_with_ties(engine, dtype):
    """More rows than a tile has, with thousands of exact ties."""
    x = np.random.default_rng(2).integers(-3, 4, (2200, 6)).astype(np.float64)
    squared = (x**2).sum(axis=1)[:, None] + (x**2).sum(axis=1)[None] - 2 * x @ x.T  # exact: small integers
    np.fill_diagonal(squared, np.inf)
    indices = np.argsort(squared, axis=1, kind="stable")[:, :4]
    distances = np.sqrt(np.take_along_axis(squared, indices, axis=1)).astype(dtype)
    graph = knn_graph(x.astype(dtype), 4, engine=engine)
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_allclose(graph.distances, distances, rtol=0 if dtype is np.float32 else 1e-15)


@pytest.mark.parametrize("scale", [2.0**-66, 2.0**60, 1e-20, 1e18])
@pytest.mark.parametrize(
    "kind",
    [ArrayKind("numpy", "float32"), ArrayKind("numpy", "float64"), ArrayKind("torch", "bfloat16")],
    ids=lambda kind: kind.dtype,
)
def test_any_scale(engine, kind, scale):
    x = random_rows(50, 7) * scale
    graph = knn_graph(kind.make(x), 4, engine=engine)
    assert_same_graph(graph, *knn(kind.rounded(x), 4, single=kind.single))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_of_very_different_length(engine, dtype):
    """Differences among the short rows vanish beside the long ones, but they still order them."""
    kind = ArrayKind("numpy", dtype)
    x = random_rows(60, 5)
    x[:20] *= 1e-20
    x[40:] *= 1e18
    x = x[np.random.default_rng(1).permutation(60)]
    graph = knn_graph(kind.make(x), 4, engine=engine)
    assert_same_graph(graph, *knn(kind.rounded(x), 4, single=kind.single))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rows_at_the_ends_of_a_range(engine, dtype):
    """Distances come out right as long as they fit their dtype; squares of some leave that of float64."""
    single, largest = dtype == "float32", {"float32": 2.0**120, "float64": 2.0**1010}[dtype]
    x = (4 * random_rows(320, 7)).round() / 4  # float32 holds them
    for small in (1.0, 2.0**-60 if single else 2.0**-900):
        x[1::2] *= small
        indices, distances = knn(x if single else x.astype(np.longdouble), 4, single=single)
        graph = knn_graph((x * largest).astype(dtype), 4, engine=engine)
        np.testing.assert_allclose(graph.distances, distances * largest, rtol=0 if single else 1e-14)
        if single:
            np.testing.assert_array_equal(graph.indices, indices)


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 3e38), ("float64", 1.5e308)])
def test_distances_that_do_not_fit_are_refused(engine, dtype, largest):
    x = random_rows(320, 7) / 10
    x[5] = 1
    knn_graph(x.astype(dtype) * largest / 10, 4, engine=engine)
    for each in (x * largest, -x * largest):
        with pytest.raises(ValueError, match=f"distances leave the range of torch.{dtype}: received features so large"):
            knn_graph(each.astype(dtype), 4, engine=engine)
        with pytest.raises(ValueError, match="leave the range"):
            rerank(each[:100].astype(dtype), each[100:].astype(dtype), k1=5, k2=2, engine=engine)


@with_projections
def test_wide_rows(engine):
    x = F32.rounded(random_rows(90, 3001))
    assert_same_graph(knn_graph(F32.make(x), 3, engine=engine), *knn(x, 3))


@pytest.mark.parametrize("k", [np.int64(3), np.int32(3), np.uint8(3)])
def test_numpy_integers_are_integers(k):
    x = F32.rounded(random_rows(20, 3))
    assert_same_graph(knn_graph(F32.make(x), k), *knn(x, 3))


def test_progress_changes_nothing(engine):
    x = F32.make(random_rows(30, 3))
    shown, silent = knn_graph(x, 3, progress=True, engine=engine), knn_graph(x, 3, engine=engine)
    np.testing.assert_array_equal(shown.indices, silent.indices)


def test_silent_by_default(engine, capsys):
    knn_graph(F32.make(random_rows(30, 3)), 3, engine=engine)
    assert capsys.readouterr() == ("", "")


# --- whose nearest a new row would enter ---------------------------------------------------------------------------

ENTERED = {
    "Gaussian": lambda rng: rng.standard_normal((90, 7)),
    "ties": lambda rng: rng.integers(-2, 3, (90, 3)).astype(float),
    "duplicates": lambda rng: rng.standard_normal((20, 5))[rng.integers(0, 20, 90)],
    "identical": lambda _: np.full((90, 3), 0.1),
    "mean 1000": lambda rng: rng.standard_normal((90, 6)) + 1000,
    "tiny": lambda rng: rng.standard_normal((90, 6)) * 1e-20,
    "mixed lengths": lambda rng: rng.standard_normal((90, 6)) * 10.0 ** rng.integers(-9, 9, (90, 1)),
}


@pytest.mark.parametrize("name", ENTERED)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("radii", ["k-th", "zero", "inf", "none"])
def test_entered_by_value(monkeypatch, name, dtype, labelled, radii):
    """Against all distances in float64, rounded; several tiles; a new row that ties with the k-th is reported."""
    for name_of, size in (("ROW_TILE", 18), ("COLUMN_TILE", 32), ("ACROSS", 8), ("DOWN", 4)):
        monkeypatch.setattr(_exact, name_of, size)
    x = torch.tensor(ENTERED[name](np.random.default_rng(0)))
    if dtype is torch.float16:
        x = x / x.abs().max()
    x = x.to(dtype)
    labels = torch.arange(90) % 4 if labelled else None
    new, base = x[:30], x[30:]
    ends = (None, None) if labels is None else (labels[:30], labels[30:])
    radius = find_neighbors(base, base, 2, ends[1], ends[1], within=True)[1][:, 1]
    radius = {"k-th": radius, "zero": radius * 0, "inf": radius + torch.inf, "none": radius * 0 - torch.inf}[radii]
    radius[3] = torch.inf
    expected = find_neighbors(new, base, 2, *ends)
    each = torch.arange(30)
    within = expected[1][each, each % 2] * (each % 3 > 0)  # ties with the nearest, or the second; nothing is within 0
    for limit in (None, within):
        found = find_entered(new, base, 2, radius, *ends, within=limit)
        far = torch.zeros_like(expected[0], dtype=torch.bool) if limit is None else expected[1] > limit[:, None]
        assert torch.equal(found.indices, expected[0].masked_fill(far, -1))
        assert torch.equal(found.distances, expected[1].masked_fill(far, torch.inf))
    scale = 2.0 ** -torch.frexp(x.double().abs().max())[1]
    wide = ((base.double()[:, None] * scale - new.double() * scale).square().sum(dim=2).sqrt() / scale).to(
        found.distances.dtype
    )
    counts = wide <= radius[:, None]
    if labelled:
        counts &= ends[1][:, None] != ends[0]
    rows, queries = counts.nonzero(as_tuple=True)
    assert torch.equal(found.rows, rows)
    assert torch.equal(found.queries, queries)
    assert torch.equal(found.lengths, wide[rows, queries])
    assert radii != "none" or set(rows.tolist()) == {3}


@pytest.mark.parametrize("name", ENTERED)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("k", "labelled"), [(2, False), (1, True), (40, True)])
def test_across_is_two_searches(monkeypatch, name, dtype, labelled, k):
    """Several tiles, and for k = 40 more neighbours than one side has rows."""
    monkeypatch.setattr(_across, "TILE", 16)
    x = torch.tensor(ENTERED[name](np.random.default_rng(0)))
    x = x.to(dtype)
    labels = (torch.arange(90) % 4, torch.arange(90) % 3) if labelled else (None, None)
    left, right = x[:30], x[30:]
    ends = [None if each is None else each[: len(part)] for each, part in zip(labels, (left, right), strict=True)]
    found = find_across(left, right, k, *ends)
    expected = find_neighbors(left, right, k, *ends), find_neighbors(right, left, k, *reversed(ends))
    for (indices, distances), (near, lengths) in zip(found, expected, strict=True):
        assert torch.equal(indices, near)
        assert torch.equal(distances, lengths)


def test_across_leaves_fast_codes_to_two_searches(monkeypatch):
    monkeypatch.setattr(_across.machine, "largest_code", lambda _: 127)
    asked = _exact.Search(torch.ones(3000, 2).cumsum(0), torch.rand(3000, 2), 1)
    for speed, slower in ((1.5, True), (4.0, False)):
        monkeypatch.setattr(_across.machine, "code_speed", lambda _, speed=speed: speed)
        assert (_across.search_across(asked) is not None) == slower


@pytest.mark.parametrize("sizes", [(0, 5), (5, 0), (0, 0), (1, 1)])
def test_across_with_few_rows(sizes):
    left, right = (torch.ones(size, 3) for size in sizes)
    found = find_across(left, right, 2)
    assert [tuple(indices.shape) for indices, _ in found] == [(size, 2) for size in sizes]
    assert [indices.tolist() for indices, _ in found] == (
        [[[0, -1]]] * 2 if sizes == (1, 1) else [[[-1, -1]] * size for size in sizes]
    )


def test_entered_measures_few_pairs(monkeypatch):
    x = torch.tensor(random_rows(900, 8), dtype=torch.float32)
    radius = find_neighbors(x[100:], x[100:], 2, within=True)[1][:, 1]
    measured, original = [], _exact.pair_distances
    monkeypatch.setattr(_exact, "pair_distances", lambda *a: (measured.append(len(a[2])), original(*a))[1])
    pairs = _exact.pairs_within(_exact.Search(x[:100], x[100:], 2), radius)[0]
    assert 0 < len(pairs) <= sum(measured) < 1.01 * len(pairs) + 10


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_entered_with_nothing(shape):
    new, base = torch.ones(shape[0], 3), torch.ones(shape[1], 3)
    found = find_entered(new, base, 2, torch.full((shape[1],), torch.inf))
    assert found.indices.shape == (shape[0], 2)
    assert len(found.queries) == len(found.rows) == len(found.lengths) == 0


def test_entered_wants_a_radius_for_each_row():
    with pytest.raises(ValueError, match=r"radius must have one entry for each of the 5 rows .* received \(4,\)"):
        find_entered(torch.ones(2, 3), torch.ones(5, 3), 2, torch.ones(4))
