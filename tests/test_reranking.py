"""rerank: the sparse implementation against the dense formula."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.neighbors import distance_matrix, is_clear_cut
from reference.reranking import rerank as reference
from support.arrays import ArrayKind, as_float64

from pose2id import centralize, reciprocal, rerank, rerank_top, reranking
from pose2id.neighbors import find_both_ends

F32 = ArrayKind("numpy", "float32")
SETTINGS = [
    (20, 6, 0.3),
    (50, 15, 0.3),
    (7, 1, 0.5),
    (1, 1, 0.3),
    (2, 2, 0.0),
    (3, 4, 0.1),
    (5, 6, 0.9),
    (6, 2, 0.3),
]


def sets(q=14, g=46, d=6, seed=0):
    """Query and gallery of a dozen identities, with some structure to find."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, d))
    x = centres[rng.integers(0, 12, q + g)] + 0.4 * rng.standard_normal((q + g, d))
    return x[:q], x[q:]


@pytest.mark.parametrize(("k1", "k2", "lambda_value"), SETTINGS)
def test_equals_reference(engine, k1, k2, lambda_value):
    query, gallery = sets()
    settings = {"k1": k1, "k2": k2, "lambda_value": lambda_value}
    result = rerank(query, gallery, engine=engine, **settings)
    np.testing.assert_allclose(result, reference(query, gallery, single=False, **settings), atol=1e-6, rtol=0)


def test_defaults():
    query, gallery = sets()
    explicit = reference(query, gallery, k1=20, k2=6, lambda_value=0.3, single=False)
    np.testing.assert_allclose(rerank(query, gallery), explicit, atol=1e-6, rtol=0)


def test_equals_reference_for_every_kind(array_kind, engine):
    query, gallery = (array_kind.rounded(x) for x in sets(seed=1))
    assert is_clear_cut(np.concatenate([query, gallery]), 9, 1e-7)
    result = rerank(array_kind.make(query), array_kind.make(gallery), k1=8, k2=3, engine=engine)
    assert array_kind.has_container(result)
    assert str(result.dtype).removeprefix("torch.") == array_kind.distance_dtype
    expected = reference(query, gallery, k1=8, k2=3, single=array_kind.single)
    np.testing.assert_allclose(as_float64(result), expected, atol=2e-6, rtol=0)


def test_device_is_that_of_the_input(device, engine):
    query, gallery = (torch.tensor(x, dtype=torch.float32, device=device) for x in sets())
    result = rerank(query, gallery, k1=6, k2=3, engine=engine)
    assert result.device == query.device
    expected = reference(as_float64(query), as_float64(gallery), k1=6, k2=3)
    np.testing.assert_allclose(as_float64(result), expected, atol=2e-6, rtol=0)


@given(k1=st.integers(1, 30), k2=st.integers(1, 10), seed=st.integers(0, 10**6), q=st.integers(1, 12))
def test_any_k(k1, k2, seed, q):
    """Odd k1 / 2 round to even; lists may be longer than the sets."""
    query, gallery = sets(q, 13, 3, seed)
    result = rerank(query, gallery, k1=k1, k2=k2)
    np.testing.assert_allclose(result, reference(query, gallery, k1=k1, k2=k2, single=False), atol=1e-6, rtol=0)


@given(seed=st.integers(0, 10**6), k1=st.integers(1, 12), k2=st.integers(1, 6))
def test_ties_go_to_the_lower_index_queries_first(engine, seed, k1, k2):
    """Distinct lattice points: many equal distances, none of them zero."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(4.0)] * 3), axis=-1).reshape(-1, 3)
    x = rng.permutation(grid)[:30]
    result = rerank(F32.make(x[:8]), F32.make(x[8:]), k1=k1, k2=k2, engine=engine)
    np.testing.assert_allclose(result, reference(x[:8], x[8:], k1=k1, k2=k2), atol=2e-6, rtol=0)


def test_pairs_of_duplicates(engine):
    """As after NFC: both members of a mutual pair are the same row."""
    query, gallery = (F32.rounded(centralize(x, k1=1, k2=1)) for x in sets(20, 60, seed=2))
    assert len(np.unique(gallery, axis=0)) < 50
    result = rerank(F32.make(query), F32.make(gallery), k1=10, k2=4, engine=engine)
    np.testing.assert_allclose(result, reference(query, gallery, k1=10, k2=4), atol=2e-6, rtol=0)


def test_banker_rounding_of_half_k1():
    """k1 = 5 extends with half = 2, not 3; the two differ on this data."""
    query, gallery = sets(10, 40, 4, seed=3)
    result = rerank(query, gallery, k1=5, k2=1, lambda_value=0.0)
    np.testing.assert_allclose(
        result, reference(query, gallery, k1=5, k2=1, lambda_value=0.0, single=False), atol=1e-6, rtol=0
    )


def test_lambda_one_is_the_squared_distance_over_its_rows_maximum():
    query, gallery = sets()
    x = np.concatenate([query, gallery])
    squared = distance_matrix(query, x, single=False) ** 2
    expected = squared[:, len(query) :] / squared.max(axis=1, keepdims=True)
    np.testing.assert_allclose(rerank(query, gallery, lambda_value=1.0), expected, rtol=1e-6)


def test_the_rows_maximum_may_lie_among_the_queries():
    query = np.array([[0.0, 0.0], [10.0, 0.0]])
    gallery = np.array([[1.0, 0.0], [2.0, 0.0]])
    result = rerank(query, gallery, k1=1, k2=1, lambda_value=1)
    np.testing.assert_allclose(result, [[0.01, 0.04], [0.81, 0.64]], rtol=1e-6)


def test_lambda_mixes_linearly():
    query, gallery = sets()
    jaccard, original = (rerank(query, gallery, lambda_value=value) for value in (0.0, 1.0))
    np.testing.assert_allclose(rerank(query, gallery), 0.7 * jaccard + 0.3 * original, atol=1e-6)


def test_worked_example():
    """Two tight pairs far apart: a query shares everything with its partner and nothing with the others."""
    query = np.array([[0.0], [100.0]])
    gallery = np.array([[0.0], [100.0]])
    result = rerank(query, gallery, k1=1, k2=1, lambda_value=0.0)
    np.testing.assert_allclose(result, [[0.0, 1.0], [1.0, 0.0]], atol=1e-6)


@pytest.mark.parametrize(("q", "g"), [(1, 1), (1, 2), (2, 1), (3, 3), (1, 30)])
def test_sets_smaller_than_the_lists(engine, q, g):
    query, gallery = sets(q, g, seed=4)
    result = rerank(query, gallery, engine=engine)
    assert result.shape == (q, g)
    np.testing.assert_allclose(result, reference(query, gallery, single=False), atol=1e-6, rtol=0)


@pytest.mark.parametrize("row", [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
def test_identical_rows_give_finite_numbers(engine, row):
    query, gallery = np.array([row] * 7, dtype=np.float32), np.array([row] * 40, dtype=np.float32)
    result = rerank(query, gallery, k1=5, k2=3, engine=engine)
    assert result.shape == (7, 40)
    assert np.isfinite(result).all()
    assert (result >= -1e-6).all()
    assert (result <= 1 + 1e-6).all()


def test_query_and_gallery_are_told_apart(engine):
    """The result belongs to (query row, gallery row), also when the sets have different sizes."""
    query, gallery = sets(3, 50, seed=5)
    forward = rerank(query, gallery, lambda_value=0.0, engine=engine)
    backward = rerank(gallery, query, lambda_value=0.0, engine=engine)
    np.testing.assert_allclose(forward, backward.T, atol=1e-6)  # Jaccard is symmetric without ties


@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_scale(engine, scale, dtype):
    kind = ArrayKind("numpy", np.dtype(dtype).name)
    query, gallery = (kind.rounded(x * scale / 10) for x in sets(seed=6))
    result = rerank(kind.make(query), kind.make(gallery), k1=8, k2=3, engine=engine)
    expected = reference(query, gallery, k1=8, k2=3, single=kind.single)
    np.testing.assert_allclose(result, expected, atol=2e-6, rtol=0)


def test_shift_in_float64(engine):
    query, gallery = sets(seed=7)
    query, gallery = np.round(query * 1024) / 1024, np.round(gallery * 1024) / 1024  # the shift is exact
    expected = rerank(query, gallery, k1=8, k2=3, engine=engine)
    result = rerank(query + 1000, gallery + 1000, k1=8, k2=3, engine=engine)
    np.testing.assert_allclose(result, expected, atol=1e-9, rtol=0)


def test_order_of_the_gallery_does_not_matter(engine):
    query, gallery = sets(seed=8)
    order = np.random.default_rng(0).permutation(len(gallery))
    result = rerank(query, gallery, k1=8, k2=3, engine=engine)
    shuffled = rerank(query, gallery[order], k1=8, k2=3, engine=engine)
    np.testing.assert_allclose(shuffled, result[:, order], atol=1e-6)


def test_larger_set(engine):
    query, gallery = (F32.rounded(x) for x in sets(40, 560, 8, seed=9))
    result = rerank(F32.make(query), F32.make(gallery), engine=engine)
    np.testing.assert_allclose(result, reference(query, gallery), atol=2e-6, rtol=0)


def test_entries_that_differ_where_ranks_tie(engine):
    """Distances that float32 cannot tell apart are ties here; float64 ranks them, so single entries differ."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8))[rng.integers(0, 40, 300)] + 1e-7 * rng.standard_normal((300, 8))
    query, gallery = F32.rounded(x[:60]), F32.rounded(x[60:])
    result = rerank(F32.make(query), F32.make(gallery), k1=8, k2=3, engine=engine)
    difference = np.abs(result - reference(query, gallery, k1=8, k2=3, single=False))
    assert 0 < (difference > 1e-5).sum() < 0.05 * difference.size
    difference = np.abs(result - reference(query, gallery, k1=8, k2=3, single=True))
    assert (difference > 1e-5).sum() == 0
    assert difference.mean() < 1e-7


@pytest.mark.parametrize("tiles", [(1, 1), (3, 7), (5, 1000)])
def test_tiles_change_nothing(monkeypatch, tiles):
    query, gallery = (F32.make(x) for x in sets(40, 50))
    whole, first = rerank(query, gallery), rerank_top(query, gallery, 9)
    monkeypatch.setattr(reciprocal, "QUERY_TILE", tiles[0])
    monkeypatch.setattr(reranking, "ITEM_TILE", tiles[1])
    np.testing.assert_allclose(rerank(query, gallery), whole, atol=1e-6, rtol=0)
    np.testing.assert_allclose(rerank_top(query, gallery, 9).distances, first.distances, atol=1e-6, rtol=0)


def test_neighbours_that_were_not_found(monkeypatch):
    """An approximate engine may return fewer than k: what is missing counts as the row itself, so it adds nothing."""

    def find(rows, k, **_):
        indices, distances, farthest = find_both_ends(rows, 4)
        missing = k - 4
        return (
            torch.nn.functional.pad(indices, (0, missing), value=-1),
            torch.nn.functional.pad(distances, (0, missing), value=torch.inf),
            farthest,
        )

    query, gallery = sets()
    expected = rerank(query, gallery, k1=4, k2=3)
    monkeypatch.setattr(reranking, "find_both_ends", find)
    # Half of k1 = 5 is 2 as well.
    np.testing.assert_allclose(rerank(query, gallery, k1=5, k2=3), expected, atol=1e-12)


def test_identical_huge_rows():
    query, gallery = np.full((2, 3), 1e300), np.full((4, 3), 1e300)
    result = rerank(query, gallery, k1=5, k2=2)
    np.testing.assert_allclose(result, 0, atol=1e-12)


# The first of each list


def test_top_is_the_beginning_of_the_whole_list(array_kind, engine):
    query, gallery = (array_kind.make(x) for x in sets(seed=1))
    settings = {"k1": 8, "k2": 3, "lambda_value": 0.2, "engine": engine}
    whole = rerank(query, gallery, **settings)
    for top in (1, 5, 46, 60):
        first = rerank_top(query, gallery, top, **settings)
        order = np.argsort(as_float64(whole), axis=1, kind="stable")[:, :top]
        assert array_kind.has_container(first.indices)
        assert array_kind.has_container(first.distances)
        assert str(first.indices.dtype).removeprefix("torch.") == "int64"
        assert first.distances.dtype == whole.dtype
        assert tuple(first.indices.shape) == tuple(first.distances.shape) == (14, top)
        indices, distances = as_float64(first.indices), as_float64(first.distances)
        np.testing.assert_array_equal(indices[:, :46], order)
        np.testing.assert_array_equal(distances[:, :46], np.take_along_axis(as_float64(whole), order, axis=1))
        assert (indices[:, 46:] == -1).all()
        assert np.isinf(distances[:, 46:]).all()


def test_top_is_one_hundred_by_default():
    query, gallery = sets(3, 130)
    assert rerank_top(query, gallery).indices.shape == (3, 100)


def test_ties_of_the_top_go_to_the_lower_index(engine):
    """Every gallery row stands there twice, so every distance does too."""
    query, gallery = (F32.make(x) for x in sets(5, 20, seed=2))
    indices = rerank_top(query, np.concatenate([gallery, gallery]), 40, k1=6, k2=2, engine=engine).indices
    for row in indices.tolist():
        assert all(row.index(j) < row.index(j + 20) for j in range(20))


@pytest.mark.parametrize("top", [1, 3, 44, 77, 152, 299])
def test_ties_across_the_end_of_the_top(engine, top):
    """The last of the top and the first after it are equal: the lower index is taken."""
    query, gallery = (F32.make(x) for x in sets(30, 20, seed=2))
    repeated = np.tile(gallery, (15, 1))
    settings = {"k1": 6, "k2": 2, "lambda_value": 1.0, "engine": engine}
    whole = rerank(query, repeated, **settings)
    order = np.argsort(whole, axis=1, kind="stable")
    ordered = np.take_along_axis(whole, order, axis=1)
    assert (ordered[:, top - 1] == ordered[:, top]).any()
    first = rerank_top(query, repeated, top, **settings)
    np.testing.assert_array_equal(first.indices, order[:, :top])
    np.testing.assert_array_equal(first.distances, ordered[:, :top])


def test_input_is_not_changed(array_kind, engine):
    query, gallery = (array_kind.make(x) for x in sets())
    before = as_float64(query).copy(), as_float64(gallery).copy()
    rerank(query, gallery, engine=engine)
    np.testing.assert_array_equal(as_float64(query), before[0])
    np.testing.assert_array_equal(as_float64(gallery), before[1])


def test_progress_changes_nothing():
    query, gallery = sets()
    np.testing.assert_array_equal(rerank(query, gallery, progress=True), rerank(query, gallery))


@pytest.mark.parametrize(("column", "rest"), [(1.1, 1e-8), (1.1, 1e-10), (1.0, 1e-20), (1e18, 1e-3), (1e10, 1e-10)])
def test_a_constant_column_costs_no_digits(column, rest):
    x = rest * np.random.default_rng(0).standard_normal((60, 8))
    x[:, 0] = column
    x = x.astype(np.float32)
    expected = reference(x[:20].astype(float), x[20:].astype(float), k1=5, k2=3, single=True)
    np.testing.assert_allclose(rerank(x[:20], x[20:], k1=5, k2=3), expected, atol=1e-6, rtol=0)


def test_rows_below_the_normal_numbers():
    x = (np.random.default_rng(0).standard_normal((200, 8)) * 1e-40).astype(np.float32)
    expected = reference(x[:60].astype(float), x[60:].astype(float), k1=5, k2=3, single=True)
    np.testing.assert_allclose(rerank(x[:60], x[60:], k1=5, k2=3), expected, atol=1e-5, rtol=0)
