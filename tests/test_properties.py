"""What must hold for any input: properties that do not depend on how the numbers are computed."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from reference import centralization as reference
from reference.neighbors import is_clear_cut, knn, mutual_neighbors, neighbor_lists
from support.arrays import ArrayKind, as_float64
from support.engines import of_few_rows, with_projections

from pose2id import centralize, evaluate_features, id_density, knn_graph, rerank
from pose2id.neighbors import _exact

F32 = ArrayKind("numpy", "float32")
F64 = ArrayKind("numpy", "float64")
SHAPES = st.tuples(st.integers(0, 20), st.integers(1, 4))
LATTICE = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(-3, 3).map(float)))
SEEDS = st.integers(0, 10**6)
KS = st.integers(1, 5)
TILES = [1, 3, 16, 64, 1000]
TILE_PAIRS = [(1, 1), (1, 1000), (1000, 1), (3, 16), (16, 3), (7, 64), (64, 7), (64, 64)]


@st.composite
def continuous(draw, smallest=3, largest=40):
    """Random rows without near ties, as float64 values that float32 holds too."""
    rng = np.random.default_rng(draw(SEEDS))
    n, d = draw(st.integers(smallest, largest)), draw(st.integers(2, 9))
    x = rng.standard_normal((n, d)).astype(np.float32).astype(np.float64)
    assume(is_clear_cut(x, n, 1e-6) and is_clear_cut(reference.unit(x), n, 1e-6))
    return x


@st.composite
def with_duplicates(draw):
    """Few distinct rows, each several times, among them zero rows; otherwise without near ties."""
    x = draw(continuous(smallest=3, largest=8))
    x[0] = draw(st.sampled_from([0.0, 1.0])) * x[0]
    assume(is_clear_cut(reference.unit(x), len(x), 1e-6))
    picks = draw(st.lists(st.integers(0, len(x) - 1), min_size=1, max_size=30))
    return x[picks]


def adjacency(x, k1, k2, engine):
    """The mutual relation as an (N, N) table of 0 and 1, read from ``centralize`` itself.

    A one-hot block adds the same constant to every squared distance, so it changes no order, and the raw sum
    of the block is the identity plus the mutual relation.
    """
    marked = np.hstack([x, np.eye(len(x))])
    return centralize(marked, k1=k1, k2=k2, normalize=False, engine=engine)[:, x.shape[1] :] - np.eye(len(x))


# The mutual relation


@of_few_rows
@given(x=LATTICE, k=KS)
def test_mutual_relation_is_symmetric_when_k1_equals_k2(engine, x, k):
    assume(len(x) > 0)
    table = adjacency(x, k, k, engine)
    np.testing.assert_array_equal(table, table.T)


@of_few_rows
@given(x=LATTICE, k1=KS, k2=KS)
def test_mutual_relation_is_that_of_the_reference(engine, x, k1, k2):
    assume(len(x) > 0)
    expected = np.zeros((len(x), len(x)))
    marked = np.hstack([x, np.eye(len(x))])
    for i, mutual in enumerate(mutual_neighbors(neighbor_lists(marked, single=False), k1, k2)):
        expected[i, mutual] = 1
    np.testing.assert_array_equal(adjacency(x, k1, k2, engine), expected)


@of_few_rows
@given(x=LATTICE, k1=KS, k2=KS)
def test_swapping_k1_and_k2_turns_the_relation_round(engine, x, k1, k2):
    assume(len(x) > 0)
    np.testing.assert_array_equal(adjacency(x, k1, k2, engine), adjacency(x, k2, k1, engine).T)


@of_few_rows
@given(x=LATTICE, k1=KS, k2=KS)
def test_a_larger_k_only_adds_links(engine, x, k1, k2):
    assume(len(x) > 0)
    small = adjacency(x, k1, k2, engine)
    assert (adjacency(x, k1 + 1, k2, engine) >= small).all()
    assert (adjacency(x, k1, k2 + 1, engine) >= small).all()


# Against the reference, on structured data


@of_few_rows
@given(x=LATTICE, k1=KS, k2=KS, kind=st.sampled_from([F32, F64, ArrayKind("torch", "float16")]))
def test_raw_sums_are_exact_on_integers(engine, x, k1, k2, kind):
    result = centralize(kind.make(x), k1=k1, k2=k2, normalize=False, engine=engine)
    expected = reference.centralize(x, k1=k1, k2=k2, normalize=False, single=kind.single)
    assert kind.holds(result)
    np.testing.assert_array_equal(as_float64(result), expected)


@given(x=with_duplicates(), k1=KS, k2=KS, normalize=st.booleans(), alpha=st.sampled_from([0.0, 2.0]))
def test_duplicates_and_zero_rows(engine, x, k1, k2, normalize, alpha):
    settings = {"k1": k1, "k2": k2, "normalize": normalize, "alpha": alpha}
    result = centralize(F32.make(x), engine=engine, **settings)
    expected = reference.centralize(x, **settings)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6 * max(1.0, np.abs(expected).max()))
    np.testing.assert_array_equal(result[~x.any(axis=1)], 0)


@given(x=with_duplicates(), k=KS, data=st.data())
def test_duplicates_with_exclusion(engine, x, k, data):
    labels = data.draw(st.lists(st.sampled_from("abc"), min_size=len(x), max_size=len(x)))
    result = centralize(F32.make(x), k1=k, k2=k, exclude=labels, engine=engine)
    expected = reference.centralize(x, k1=k, k2=k, exclude=labels)
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)


@given(x=LATTICE, data=st.data(), k1=KS, k2=KS)
def test_any_table_of_neighbours(x, data, k1, k2):
    """Fused integers stay exact, so the comparison is too."""
    n = len(x)
    rows = st.permutations(range(n)).map(lambda order: (order + [-1] * 9)[:9])
    table = np.array([data.draw(rows) for _ in range(n)], dtype=np.int64).reshape(n, 9)
    table[table == np.arange(n)[:, None]] = -1
    result = centralize(x, k1=k1, k2=k2, neighbors=table, normalize=False)
    np.testing.assert_array_equal(result, reference.centralize(x, k1=k1, k2=k2, neighbors=table, normalize=False))


# Order of the rows


@given(x=continuous(), k1=KS, k2=KS, seed=SEEDS)
def test_permuted_rows_give_permuted_features(engine, x, k1, k2, seed):
    order = np.random.default_rng(seed).permutation(len(x))
    expected = centralize(F32.make(x), k1=k1, k2=k2, engine=engine)[order]
    result = centralize(F32.make(x[order]), k1=k1, k2=k2, engine=engine)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@of_few_rows
@given(x=LATTICE, k=KS, seed=SEEDS)
def test_permuted_rows_keep_their_distances(engine, x, k, seed):
    """Indices may differ within ties, distances may not."""
    order = np.random.default_rng(seed).permutation(len(x))
    expected = knn_graph(x, k, engine=engine).distances[order]
    np.testing.assert_array_equal(knn_graph(x[order], k, engine=engine).distances, expected)


@given(x=continuous(), k=KS, seed=SEEDS)
def test_permuted_rows_have_permuted_neighbours(engine, x, k, seed):
    order = np.random.default_rng(seed).permutation(len(x))
    expected = knn_graph(x, k, engine=engine).indices[order]
    found = knn_graph(x[order], k, engine=engine).indices
    np.testing.assert_array_equal(np.where(found < 0, -1, order[found]), expected)


@given(x=continuous(), k1=KS, k2=KS, seed=SEEDS)
def test_a_rotation_of_all_features_rotates_the_result(engine, x, k1, k2, seed):
    rotation = np.linalg.qr(np.random.default_rng(seed).standard_normal((x.shape[1], x.shape[1])))[0]
    result = centralize(x @ rotation, k1=k1, k2=k2, engine=engine)
    np.testing.assert_allclose(result, centralize(x, k1=k1, k2=k2, engine=engine) @ rotation, rtol=0, atol=1e-9)


# Block size, threads, engine


@pytest.mark.parametrize(("rows", "columns"), TILE_PAIRS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_block_size_changes_nothing(monkeypatch, rows, columns, dtype):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.integers(-2, 3, (50, 4)), rng.standard_normal((30, 4)), np.zeros((7, 4))])
    x = x[:: 3 if rows == columns == 1 else 1]  # a tile for each pair of rows
    kind = ArrayKind("numpy", dtype)
    labels = rng.integers(0, 5, len(x)).tolist()
    indices, distances = knn(kind.rounded(x), 5, single=kind.single)
    allowed, _ = knn(kind.rounded(x), 5, exclude=labels, single=kind.single)
    monkeypatch.setattr(_exact, "ROW_TILE", rows)
    monkeypatch.setattr(_exact, "COLUMN_TILE", columns)
    graph = knn_graph(kind.make(x), 5, engine="exact")
    np.testing.assert_array_equal(graph.indices, indices)
    np.testing.assert_allclose(graph.distances, distances, rtol=1e-14 if dtype == "float64" else 1e-7)
    np.testing.assert_array_equal(knn_graph(kind.make(x), 5, exclude=labels, engine="exact").indices, allowed)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sweep_size_changes_nothing(monkeypatch, tile, dtype):
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.integers(-2, 3, (80, 4)), rng.standard_normal((40, 4))])
    kind = ArrayKind("numpy", dtype)
    query, gallery = kind.make(x[:30]), kind.make(x[30:])
    labels = rng.integers(0, 9, 30), rng.integers(0, 9, 90)
    expected = (
        knn(kind.rounded(x), 5, single=kind.single)[0],
        rerank(query, gallery, k1=6, k2=3, engine="exact"),
        evaluate_features(query, gallery, *labels),
    )
    monkeypatch.setattr(_exact, "SWEEP_TILE", tile)
    np.testing.assert_array_equal(knn_graph(kind.make(x), 5, engine="exact").indices, expected[0])
    result = rerank(query, gallery, k1=6, k2=3, engine="exact")
    np.testing.assert_allclose(result, expected[1], rtol=0, atol=1e-6)
    assert evaluate_features(query, gallery, *labels).mAP == pytest.approx(expected[2].mAP, abs=1e-12)


@pytest.fixture
def thread_count():
    """Set the number of torch's threads; the old number comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_nothing(thread_count, engine, dtype):
    kind = ArrayKind("numpy", dtype)
    rng = np.random.default_rng(0)
    x = kind.make(np.concatenate([rng.integers(-2, 3, (150, 8)), rng.standard_normal((150, 8))]))
    results = []
    for threads in (1, 2):
        thread_count(threads)
        graph = knn_graph(x, 5, engine=engine)
        features = centralize(x, k1=3, k2=3, engine=engine)
        ranking = rerank(x[:50], x[100:200], k1=6, k2=3, engine=engine)
        results.append((graph.indices, graph.distances, features, ranking))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


@given(x=st.one_of(LATTICE, continuous(), with_duplicates()), k=KS, kind=st.sampled_from([F32, F64]))
def test_engines_agree(x, k, kind):
    pytest.importorskip("faiss")
    exact, faiss = (knn_graph(kind.make(x), k, engine=name) for name in ("exact", "faiss"))
    np.testing.assert_array_equal(exact.indices, faiss.indices)
    np.testing.assert_array_equal(exact.distances, faiss.distances)


# Layout of the input

LAYOUTS = {
    "contiguous": lambda x: x.copy(),
    "fortran": np.asfortranarray,
    "every second row": lambda x: np.repeat(x, 2, axis=0)[::2],
    "every third column": lambda x: np.repeat(x, 3, axis=1)[:, ::3],
    "rows reversed": lambda x: x[::-1].copy()[::-1],
    "columns reversed": lambda x: x[:, ::-1].copy()[:, ::-1],
    "both reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "big endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
}
TORCH_LAYOUTS = {
    "contiguous": lambda x: x.clone(),
    "transposed": lambda x: x.mT.contiguous().mT,
    "every second row": lambda x: x.repeat_interleave(2, 0)[::2],
    "every third column": lambda x: x.repeat_interleave(3, 1)[:, ::3],
    "expanded": lambda x: torch.stack([x, x])[0],
}


def layout_data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((25, 6)), rng.standard_normal((25, 3, 6)), rng.integers(0, 3, 25)


LABELS = layout_data()[2]


def every_search(features, generated, engine):
    """What the public functions that search return for one set of features."""
    graph = knn_graph(features, 3, engine=engine)
    return (
        graph.indices,
        graph.distances,
        centralize(features, generated, 2.0, engine=engine),
        centralize(features, generated[:, 0], normalize=False, alpha=1.0, engine=engine),
        rerank(features[:10], features[10:], k1=5, k2=3, engine=engine),
    )


def every_other_result(features, _generated, labels=LABELS):
    """What those return that no engine changes."""
    return (
        centralize(features, neighbors=knn_graph(features, 3).indices),
        np.array(id_density(features, labels)),
        np.array(evaluate_features(features[:10], features[10:], labels[:10], labels[10:]).mAP),
    )


DTYPES = pytest.mark.parametrize(
    ("dtype", "readonly"), [("float16", False), ("float32", True), ("float64", False), ("float64", True)]
)


def check_layouts(call, dtype, readonly):
    """`call` gives the same for every layout of numpy, and leaves it as it is."""
    x, generated, _ = layout_data()
    x, generated = x.astype(dtype), generated.astype(dtype)
    wanted = call(x, generated)
    for name, layout in LAYOUTS.items():
        features, views = layout(x), layout(generated)
        for array in (features, views):
            array.setflags(write=not readonly)
        before = features.copy(), views.copy()
        with np.errstate(all="raise"):
            results = call(features, views)
        for result, expected in zip(results, wanted, strict=True):
            atol = 1e-3 if dtype == "float16" else 1e-6
            np.testing.assert_allclose(result, expected, rtol=0, atol=atol, err_msg=name)
        np.testing.assert_array_equal(features, before[0], err_msg=name)
        np.testing.assert_array_equal(views, before[1], err_msg=name)


@DTYPES
def test_memory_layout_changes_no_search(engine, readonly, dtype):
    check_layouts(functools.partial(every_search, engine=engine), dtype, readonly)


@DTYPES
def test_memory_layout_changes_nothing_else(readonly, dtype):
    check_layouts(every_other_result, dtype, readonly)


def check_layouts_of_tensors(call, device):
    """`call` gives the same for every layout of tensors, and leaves it as it is."""
    x, generated, _ = layout_data()
    x, generated = (torch.tensor(array, dtype=torch.float32, device=device) for array in (x, generated))
    wanted = call(x, generated)
    for name, layout in TORCH_LAYOUTS.items():
        features, views = layout(x), layout(generated)
        results = call(features, views)
        for result, expected in zip(results, wanted, strict=True):
            np.testing.assert_allclose(as_float64(result), as_float64(expected), rtol=0, atol=1e-6, err_msg=name)
        assert torch.equal(features, x), name
        assert torch.equal(views, generated), name


def test_memory_layout_of_tensors_changes_no_search(engine, device):
    check_layouts_of_tensors(functools.partial(every_search, engine=engine), device)


def test_memory_layout_of_tensors_changes_nothing_else(device):
    check_layouts_of_tensors(every_other_result, device)


def test_no_search_changes_its_input(array_kind, engine):
    check_input(functools.partial(every_search, engine=engine), array_kind)


def test_nothing_else_changes_its_input(array_kind):
    check_input(every_other_result, array_kind)


def check_input(call, kind):
    x, generated, _ = layout_data()
    features, views = kind.make(x), kind.make(generated)
    call(features, views)
    np.testing.assert_array_equal(as_float64(features), kind.rounded(x))
    np.testing.assert_array_equal(as_float64(views), kind.rounded(generated))


def test_numpy_and_torch_agree(engine):
    x, generated, labels = layout_data()
    x, generated = x.astype(np.float32), generated.astype(np.float32)
    as_tensors = torch.tensor(x), torch.tensor(generated)
    searched = every_search(x, generated, engine), every_search(*as_tensors, engine)
    others = every_other_result(x, generated), every_other_result(*as_tensors, torch.tensor(labels))
    for from_numpy, from_torch in (searched, others):
        for one, two in zip(from_numpy, from_torch, strict=True):
            np.testing.assert_array_equal(one, as_float64(two) if one.dtype == np.float64 else two.numpy())


# Shift and scale


@of_few_rows
@given(x=LATTICE, k=KS, shift=st.sampled_from([1000.0, -1000.0, 2.0**30]))
def test_a_shift_in_float64_keeps_the_neighbours(engine, x, k, shift):
    x = x / 1024  # the shift is exact
    expected = knn_graph(x, k, engine=engine)
    result = knn_graph(x + shift, k, engine=engine)
    np.testing.assert_array_equal(result.indices, expected.indices)
    np.testing.assert_array_equal(result.distances, expected.distances)


@with_projections
@given(x=continuous(), k1=KS, k2=KS)
def test_a_shift_in_float64_shifts_the_raw_sums(engine, x, k1, k2):
    """z = f + sum of M_i, so the shift arrives 1 + |M_i| times."""
    shifted = centralize(x + 1000, k1=k1, k2=k2, normalize=False, engine=engine)
    plain = centralize(x, k1=k1, k2=k2, normalize=False, engine=engine)
    counts = (shifted - plain) / 1000
    np.testing.assert_allclose(counts, np.round(counts), rtol=0, atol=1e-9)
    np.testing.assert_allclose(counts[:, 0], 1 + adjacency(x, k1, k2, engine).sum(axis=1), rtol=0, atol=1e-9)


@of_few_rows
@given(x=LATTICE, k=KS, exponent=st.sampled_from([-66, 59]), dtype=st.sampled_from(["float32", "float64"]))
def test_a_scale_keeps_the_neighbours(engine, x, k, exponent, dtype):
    x = x.astype(dtype)
    expected = knn_graph(x, k, engine=engine)
    result = knn_graph(x * x.dtype.type(2.0**exponent), k, engine=engine)
    np.testing.assert_array_equal(result.indices, expected.indices)
    np.testing.assert_array_equal(result.distances, expected.distances * x.dtype.type(2.0**exponent))


@given(x=continuous(), scale=st.sampled_from([1e-20, 1e18]), dtype=st.sampled_from(["float32", "float64"]))
def test_a_scale_does_not_change_normalised_results(engine, x, scale, dtype):
    expected = centralize(x.astype(dtype), alpha=1.0, engine=engine)
    result = centralize((x * scale).astype(dtype), alpha=1.0, engine=engine)
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


# Sizes


@of_few_rows
@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_sets(array_kind, engine, n):
    x = np.random.default_rng(n).standard_normal((n, 3))
    for settings in ({}, {"alpha": 2.0}, {"exclude": ["same"] * n}, {"normalize": False}, {"k1": 30, "k2": 40}):
        result = centralize(array_kind.make(x), engine=engine, **settings)
        expected = reference.centralize(array_kind.rounded(x), single=array_kind.single, **settings)
        assert array_kind.holds(result)
        assert tuple(result.shape) == (n, 3)
        close = {"rtol": array_kind.epsilon, "atol": array_kind.epsilon, "err_msg": str(settings)}
        np.testing.assert_allclose(as_float64(result), expected, **close)


@of_few_rows
@given(x=LATTICE, more=st.integers(0, 40))
def test_k_beyond_the_set_means_all_others(engine, x, more):
    n = len(x)
    k = max(1, n - 1)
    everything = knn_graph(x, k, engine=engine)
    graph = knn_graph(x, k + more, engine=engine)
    np.testing.assert_array_equal(graph.indices[:, :k], everything.indices)
    assert (graph.indices[:, k:] == -1).all()
    assert np.isinf(graph.distances[:, k:]).all()
    for i, row in enumerate(everything.indices.tolist()):
        assert sorted(j for j in row if j >= 0) == [j for j in range(n) if j != i]
