"""centralize: fusing, mutual neighbours, weights, exclusion, tables, zero rows, a given output."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from reference import centralization as reference
from reference.neighbors import is_clear_cut, knn
from support.arrays import ArrayKind, as_float64
from support.engines import of_few_rows, with_projections

from pose2id import arrays, centralize, knn_graph

F32 = ArrayKind("numpy", "float32")
F64 = ArrayKind("numpy", "float64")
SETTINGS = [(1, 1), (2, 2), (3, 3), (5, 5), (2, 1), (5, 2), (1, 2), (2, 5), (1, 8), (60, 60)]


def clusters(n=48, d=6, seed=0):
    """Rows in loose groups, so that mutual neighbours are common; not normalised."""
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal((n // 4, d))[np.arange(n) % (n // 4)] + rng.standard_normal((n, d))


def assert_close(result, expected, kind):
    scale = np.abs(expected).max() if expected.size else 1.0
    np.testing.assert_allclose(as_float64(result), expected, rtol=0, atol=kind.epsilon * scale)


@pytest.mark.parametrize(("k1", "k2"), SETTINGS)
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_reference(engine, k1, k2, normalize):
    x = clusters()
    assert is_clear_cut(reference.unit(x), 8, 1e-9)
    result = centralize(x, k1=k1, k2=k2, normalize=normalize, engine=engine)
    assert_close(result, reference.centralize(x, k1=k1, k2=k2, normalize=normalize, single=False), F64)


@pytest.mark.parametrize("normalize", [True, False])
def test_equals_reference_for_every_kind(array_kind, engine, normalize):
    x = clusters(seed=1)
    features = array_kind.make(x)
    held = array_kind.rounded(x)
    assert is_clear_cut(reference.unit(held), 4, 1e-6)
    result = centralize(features, k1=3, k2=2, normalize=normalize, engine=engine)
    expected = reference.centralize(held, k1=3, k2=2, normalize=normalize, single=array_kind.single)
    assert array_kind.holds(result)
    assert_close(result, expected, array_kind)


def test_half_precision_is_rounded_once():
    """Everything before the last step is computed more precisely than float16."""
    x = ArrayKind("numpy", "float16").rounded(clusters(seed=2))
    assert is_clear_cut(reference.unit(x), 3, 1e-6)
    result = centralize(x.astype(np.float16))
    expected = reference.centralize(x)
    np.testing.assert_allclose(result.astype(np.float64), expected, rtol=2**-10.9, atol=2**-24)


def test_float64_is_computed_in_float64():
    x = clusters(seed=3)
    np.testing.assert_allclose(centralize(x), reference.centralize(x, single=False), rtol=1e-12, atol=1e-15)


def test_device_is_that_of_the_input(device, engine):
    features = torch.tensor(clusters(), dtype=torch.float32, device=device)
    result = centralize(features, engine=engine)
    assert result.device == features.device
    assert_close(result, reference.centralize(as_float64(features)), F32)


def test_defaults_are_the_published_setting():
    x = F32.rounded(clusters())
    explicit = centralize(F32.make(x), None, 1.0, 2, 2, alpha=0.0, normalize=True, neighbors=None, exclude=None)
    np.testing.assert_array_equal(centralize(F32.make(x)), explicit)
    assert_close(explicit, reference.centralize(x, k1=2, k2=2), F32)


def test_worked_example():
    """Positions 10, 11, 11.9, 20 on a line: only 11 and 11.9 are each other's nearest."""
    x = np.array([[10.0], [11.0], [11.9], [20.0]])
    result = centralize(x, k1=1, k2=1, normalize=False)
    np.testing.assert_allclose(result, [[10.0], [22.9], [22.9], [20.0]])


def test_original_features_are_added_not_updated_ones():
    """0-1-2 in a row with k = 2: every pair is mutual and every sum is over the originals."""
    x = np.array([[1.0], [2.0], [4.0]])
    np.testing.assert_array_equal(centralize(x, k1=2, k2=2, normalize=False), [[7.0], [7.0], [7.0]])


def test_k1_looks_for_positives_and_k2_confirms():
    """Nearest of a (0) is b (1), but b has c (1.5) nearer: a takes b only if b may look at two rows."""
    x = np.array([[100.0], [101.0], [101.5]])
    alone = centralize(x, k1=1, k2=1, normalize=False)
    confirmed = centralize(x, k1=1, k2=2, normalize=False)
    searched = centralize(x, k1=2, k2=1, normalize=False)
    np.testing.assert_array_equal(alone, [[100.0], [202.5], [202.5]])
    np.testing.assert_array_equal(confirmed, [[201.0], [202.5], [202.5]])
    # With k1 = 2 row b also looks at a, whose nearest is b; nobody's nearest is a.
    np.testing.assert_array_equal(searched, [[100.0], [302.5], [202.5]])


def test_mutual_pair_becomes_identical(array_kind, engine):
    x = clusters(seed=4)
    result = as_float64(centralize(array_kind.make(x), k1=1, k2=1, engine=engine))
    indices, _ = knn(reference.unit(array_kind.rounded(x)), 1, single=array_kind.single)
    pairs = [(i, j) for i, j in enumerate(indices[:, 0]) if indices[j, 0] == i]
    assert len(pairs) > 10
    for i, j in pairs:
        np.testing.assert_array_equal(result[i], result[j])


def test_group_of_mutual_neighbours_becomes_identical(array_kind):
    """Four by four, so the order in which their numbers are added shows in the last bit."""
    rng = np.random.default_rng(5)
    x = (rng.standard_normal((8, 40)) * 3)[np.arange(32) % 8] + 0.1 * rng.standard_normal((32, 40))
    for settings in ({}, {"normalize": False}):
        result = as_float64(centralize(array_kind.make(x), k1=3, k2=3, **settings))
        for member in range(8, 32):
            np.testing.assert_array_equal(result[member], result[member % 8])


@pytest.mark.parametrize(("k1", "k2"), [(0, 2), (2, 0), (0, 0)])
def test_zero_k_switches_nfc_off(array_kind, k1, k2):
    x = clusters()
    raw = centralize(array_kind.make(x), k1=k1, k2=k2, normalize=False)
    np.testing.assert_array_equal(as_float64(raw), array_kind.rounded(x))
    assert_close(centralize(array_kind.make(x), k1=k1, k2=k2), reference.unit(array_kind.rounded(x)), array_kind)


def test_result_is_a_new_array(array_kind):
    features = array_kind.make(clusters())
    result = centralize(features, k1=0, k2=0, normalize=False)
    before = as_float64(features).copy()
    result[0] = 99.0
    np.testing.assert_array_equal(as_float64(features), before)


# Generated features


def with_generated(n=32, m=3, d=5, seed=0):
    rng = np.random.default_rng(seed)
    return clusters(n, d, seed), rng.standard_normal((n, m, d)) * 2


@pytest.mark.parametrize("eta", [0.0, 0.25, 1.0, 2.0])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("k", [0, 2])
def test_generated_features_are_fused_by_their_mean(engine, eta, normalize, k):
    x, generated = with_generated()
    result = centralize(x, generated, eta, k, k, normalize=normalize, engine=engine)
    expected = reference.centralize(x, generated, eta, k, k, normalize=normalize, single=False)
    assert_close(result, expected, F64)


def test_generated_in_all_three_forms(array_kind):
    x, generated = with_generated(seed=1)
    held = array_kind.rounded(generated)
    features = array_kind.make(x)
    expected = reference.centralize(array_kind.rounded(x), held, 2.0, single=array_kind.single)
    views = [array_kind.make(generated[:, m]) for m in range(3)]
    assert_close(centralize(features, array_kind.make(generated), 2.0), expected, array_kind)
    assert_close(centralize(features, views, 2.0), expected, array_kind)
    assert_close(centralize(features, tuple(views), 2.0), expected, array_kind)


def test_generated_already_averaged(array_kind):
    x, generated = with_generated(seed=2)
    mean = array_kind.rounded(generated.mean(axis=1))
    result = centralize(array_kind.make(x), array_kind.make(mean), 2.0)
    expected = reference.centralize(array_kind.rounded(x), mean, 2.0, single=array_kind.single)
    assert array_kind.holds(result)
    assert_close(result, expected, array_kind)


def test_as_many_views_as_rows():
    """N = M = D: the shape alone must decide, axis 1 holds the views."""
    rng = np.random.default_rng(0)
    x, generated = rng.standard_normal((4, 4)), rng.standard_normal((4, 4, 4))
    result = centralize(x, generated, 1.0, 0, 0, normalize=False)
    np.testing.assert_allclose(result, x + generated.mean(axis=1), rtol=1e-14)
    views = [generated[:, m] for m in range(4)]
    np.testing.assert_allclose(centralize(x, views, 1.0, 0, 0, normalize=False), result, rtol=1e-14)


def test_eta_zero_is_without_generated():
    x, generated = with_generated(seed=3)
    np.testing.assert_array_equal(centralize(x, generated, 0.0), centralize(x))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_generated_of_another_float_dtype(dtype):
    x, generated = with_generated(seed=4)
    kind = ArrayKind("numpy", dtype)
    result = centralize(F32.make(x), kind.make(generated))
    assert F32.holds(result)
    assert_close(result, reference.centralize(F32.rounded(x), kind.rounded(generated)), F32)


def test_neighbours_are_those_of_the_fused_features():
    """Without the generated features 0 and 1 are the pair, with them 0 and 2."""
    x = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 1.0]])
    generated = np.array([[0.0, 1.0], [0.0, -1.0], [0.0, 0.0]])
    expected = np.array([[2.0, 2.0], [1.0, -0.9], [2.0, 2.0]])
    np.testing.assert_allclose(centralize(x, generated, 1.0, 1, 1, normalize=False), expected)


# Weights


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_alpha_weights_each_mutual_neighbour(engine, alpha, normalize):
    x = clusters(seed=5)
    settings = {"k1": 4, "k2": 6, "alpha": alpha, "normalize": normalize}
    result = centralize(x, engine=engine, **settings)
    assert_close(result, reference.centralize(x, single=False, **settings), F64)


def test_alpha_for_every_kind(array_kind):
    x = clusters(seed=6)
    expected = reference.centralize(array_kind.rounded(x), alpha=3.0, k1=3, k2=3, single=array_kind.single)
    result = centralize(array_kind.make(x), alpha=3.0, k1=3, k2=3)
    assert array_kind.holds(result)
    assert_close(result, expected, array_kind)


@pytest.mark.parametrize(("alpha", "weight"), [(0.0, 1.0), (1.0, 0.0), (0.01, 0.0)])
def test_neighbour_with_negative_cosine(alpha, weight):
    """The plain sum takes it whole; any alpha above 0 drops it."""
    x = np.array([[1.0, 0.0], [-0.5, 0.5]])
    result = centralize(x, k1=1, k2=1, alpha=alpha, normalize=False)
    np.testing.assert_allclose(result, x + weight * x[::-1])


def test_alpha_is_the_cosine_also_without_normalisation():
    x = np.array([[2.0, 0.0], [3.0, 3.0]])
    expected = x + 0.5 * x[::-1]  # cos² 45° = 1/2, whatever the lengths
    np.testing.assert_allclose(centralize(x, k1=1, k2=1, alpha=2.0, normalize=False), expected)


# Exclusion and precomputed neighbours


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, lambda labels: [f"c{i}" for i in labels]])
@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (1, 3), (4, 1)])
def test_excluded_rows_are_never_neighbours(engine, form, k1, k2):
    x = clusters(seed=7)
    labels = np.random.default_rng(0).integers(0, 4, len(x)).tolist()
    result = centralize(x, k1=k1, k2=k2, exclude=form(labels), engine=engine)
    expected = reference.centralize(x, k1=k1, k2=k2, exclude=labels, single=False)
    assert np.abs(expected - reference.centralize(x, k1=k1, k2=k2, single=False)).max() > 0.1
    assert_close(result, expected, F64)


def test_one_label_for_all_changes_nothing(engine):
    x = clusters()
    np.testing.assert_array_equal(
        centralize(x, exclude=[7] * len(x), normalize=False, engine=engine), x.astype(np.float64)
    )


def test_own_graph_as_table(array_kind, engine):
    features = array_kind.make(clusters(seed=8))
    graph = knn_graph(features, 4, engine=engine)
    given = centralize(features, k1=3, k2=4, normalize=False, neighbors=graph.indices, engine=engine)
    found = centralize(features, k1=3, k2=4, normalize=False, engine=engine)
    np.testing.assert_array_equal(as_float64(given), as_float64(found))
    whole = centralize(features, k1=3, k2=4, normalize=False, neighbors=graph, engine=engine)
    np.testing.assert_array_equal(as_float64(whole), as_float64(found))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("normalize", [True, False])
def test_any_table_is_followed(dtype, normalize):
    """The table decides, not the distances; -1 may stand anywhere."""
    rng = np.random.default_rng(0)
    x = clusters(seed=9)
    n = len(x)
    table = np.stack([rng.permutation([j for j in range(n) if j != i])[:30] for i in range(n)])
    table[rng.random(table.shape) < 0.3] = -1
    settings = {"k1": 12, "k2": 9, "normalize": normalize}
    result = centralize(x, neighbors=table.astype(dtype), **settings)
    expected = reference.centralize(x, neighbors=table, **settings)
    assert np.abs(expected - reference.centralize(x, k1=0, k2=0, normalize=normalize)).max() > 0.1
    assert_close(result, expected, F64)


def test_dropped_entries_of_a_table_make_room_for_later_ones():
    x = np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 0.0], [4.0, 1.0]])
    # Row 0 lists the zero row 2 first, then row 1 of its own camera, then row 3.
    table = np.array([[2, 1, 3], [0, 3, -1], [0, 1, 3], [1, 0, -1]])
    cams = ["a", "a", "b", "b"]
    result = centralize(x, k1=1, k2=2, neighbors=table, exclude=cams, normalize=False)
    expected = reference.centralize(x, k1=1, k2=2, neighbors=table, exclude=cams, normalize=False)
    np.testing.assert_array_equal(result, expected)
    np.testing.assert_array_equal(result[0], [5.0, 1.0])


def test_table_of_minus_ones_has_no_neighbours():
    x = clusters()
    table = np.full((len(x), 3), -1)
    np.testing.assert_array_equal(centralize(x, neighbors=table, normalize=False), x)


def test_table_with_more_columns_than_needed():
    x = clusters(seed=10)
    table, _ = knn(x, 20, single=False)
    result = centralize(x, k1=2, k2=3, neighbors=table, normalize=False)
    assert_close(result, reference.centralize(x, k1=2, k2=3, normalize=False, single=False), F64)


# Zero rows


@pytest.mark.parametrize("normalize", [True, False])
def test_zero_rows_stay_zero_and_are_nobodys_neighbours(array_kind, engine, normalize):
    x = clusters(seed=11)
    x[[0, 7, 8, 40]] = 0
    result = centralize(array_kind.make(x), normalize=normalize, engine=engine)
    expected = reference.centralize(array_kind.rounded(x), normalize=normalize, single=array_kind.single)
    np.testing.assert_array_equal(as_float64(result)[[0, 7, 8, 40]], 0)
    assert_close(result, expected, array_kind)


def test_zero_row_between_two_others(engine):
    """Without the zero row in the way, 1 and -1 are each other's nearest."""
    x = np.array([[1.0, 1.0], [0.0, 0.0], [-1.0, 1.0]])
    result = centralize(x, k1=1, k2=1, normalize=False, engine=engine)
    np.testing.assert_array_equal(result, [[0.0, 2.0], [0.0, 0.0], [0.0, 2.0]])


def test_many_zero_rows(engine):
    """More zero rows than any list is long."""
    x = np.zeros((200, 3))
    x[50], x[150] = [1.0, 0.0, 0.0], [0.9, 0.1, 0.0]
    result = centralize(x, k1=2, k2=2, normalize=False, engine=engine)
    expected = np.zeros((200, 3))
    expected[[50, 150]] = [1.9, 0.1, 0.0]
    np.testing.assert_allclose(result, expected)


@pytest.mark.parametrize("normalize", [True, False])
def test_only_zero_rows(engine, normalize):
    result = centralize(np.zeros((5, 3), dtype=np.float32), normalize=normalize, engine=engine)
    np.testing.assert_array_equal(result, np.zeros((5, 3)))


@pytest.mark.parametrize("normalize", [True, False])
def test_rows_that_fusing_makes_zero(engine, normalize):
    x = clusters(seed=12)
    generated = np.random.default_rng(0).standard_normal(x.shape)
    generated[3] = -x[3]
    x[5] = 0  # a zero row that fusing fills
    result = centralize(x, generated, 1.0, normalize=normalize, engine=engine)
    np.testing.assert_array_equal(result[3], 0)
    assert np.abs(result[5]).max() > 0
    assert_close(result, reference.centralize(x, generated, 1.0, normalize=normalize, single=False), F64)


def test_opposite_pair_cancels_to_zero(engine):
    x = np.array([[1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    np.testing.assert_array_equal(centralize(x, engine=engine), np.zeros((2, 2)))


# Sizes and scales


@of_few_rows
@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (1, 1), (5, 9)])
@pytest.mark.parametrize("normalize", [True, False])
def test_tiny_sets(engine, k1, k2, normalize):
    for n in range(4):
        x = np.random.default_rng(n).standard_normal((n, 4))
        result = centralize(x, k1=k1, k2=k2, normalize=normalize, engine=engine)
        assert result.shape == (n, 4)
        assert_close(result, reference.centralize(x, k1=k1, k2=k2, normalize=normalize, single=False), F64)


@pytest.mark.parametrize("n", [0, 1])
def test_tiny_sets_of_every_kind(array_kind, n):
    features = array_kind.make(np.ones((n, 3)))
    generated = array_kind.make(np.ones((n, 2, 3)))
    result = centralize(features, generated)
    assert array_kind.holds(result)
    assert_close(result, reference.unit(array_kind.rounded(np.ones((n, 3)))), array_kind)


SCALED = [ArrayKind("numpy", "float32"), ArrayKind("numpy", "float64"), ArrayKind("torch", "bfloat16")]


@pytest.mark.parametrize("scale", [1e-20, 2.0**-66, 1e18, 2.0**59])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("kind", SCALED, ids=lambda kind: kind.dtype)
def test_any_scale(engine, kind, scale, normalize):
    x = clusters(seed=13) / 10 * scale
    held = kind.rounded(x)
    assert is_clear_cut(reference.unit(held), 3, 1e-6)
    result = centralize(kind.make(x), normalize=normalize, alpha=1.0, engine=engine)
    expected = reference.centralize(held, normalize=normalize, alpha=1.0, single=kind.single)
    assert np.isfinite(as_float64(result)).all()
    assert_close(result, expected, kind)


@pytest.mark.parametrize("kind", SCALED, ids=lambda kind: kind.dtype)
def test_rows_of_very_different_length(engine, kind):
    """With normalisation only the directions count."""
    x = clusters(seed=14)
    lengths = np.where(np.arange(len(x)) % 2, 1e-20, 1e18)[:, None]
    held = kind.rounded(x * lengths)
    assert is_clear_cut(reference.unit(held), 3, 1e-6)
    result = centralize(kind.make(x * lengths), engine=engine)
    assert_close(result, reference.centralize(held, single=kind.single), kind)


def test_normalised_rows_have_length_one(engine):
    x = F32.make(clusters(seed=15))
    np.testing.assert_allclose(np.linalg.norm(centralize(x, engine=engine), axis=1), 1, rtol=1e-6)


def test_identical_rows(engine):
    """Lists of identical rows hold the lowest indices, so only those are mutual."""
    x = np.full((12, 2), 0.5, dtype=np.float32)
    result = centralize(x, k1=2, k2=2, normalize=False, engine=engine)
    expected = reference.centralize(x.astype(np.float64), k1=2, k2=2, normalize=False)
    np.testing.assert_array_equal(result, expected)
    assert result[:, 0].tolist() == [1.5, 1.5, 1.5] + [0.5] * 9


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_raw_sums_beyond_the_dtype_are_refused(dtype):
    """Not returned as inf, which every later step would refuse without saying why."""
    x = np.full((3, 2), np.finfo(dtype).max, dtype=dtype)
    with pytest.raises(ValueError, match=dtype):
        centralize(x, normalize=False)
    assert np.isfinite(centralize(x)).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_large_values_that_fit_are_not_refused(dtype):
    """Though the sum of all entries does not fit."""
    x = np.full((3, 2), np.finfo(dtype).max / 4, dtype=dtype)
    np.testing.assert_array_equal(centralize(x, normalize=False), 3 * x)


def test_progress_changes_nothing():
    x = F32.make(clusters())
    np.testing.assert_array_equal(centralize(x, progress=True), centralize(x))


def test_progress_bars_count_the_rows(capfd):
    x = F32.make(clusters())
    centralize(x)
    assert capfd.readouterr().err == ""
    centralize(x, progress=True)
    printed = capfd.readouterr().err
    for part in ("fusing", "adding"):
        assert f"{part}: 100%" in printed
    assert "48/48" in printed


# Blocks


@pytest.mark.parametrize(
    ("elements", "alpha", "normalize"), [(1, 0.0, True), (1, 2.0, False), (30, 0.0, False), (30, 2.0, True)]
)
def test_block_size_changes_nothing(monkeypatch, array_kind, elements, alpha, normalize):
    """Links reach over blocks that are written already, and over those that are not."""
    x, generated = with_generated(n=24, seed=5)
    x[[3, 20]], generated[[3, 20]] = 0, 0
    features, views = array_kind.make(x), array_kind.make(generated)
    settings = {"k1": 4, "k2": 3, "alpha": alpha, "normalize": normalize}
    for keep in (np.arange(24), np.flatnonzero(x.any(axis=1))):  # with and without zero rows
        for more in ((), (views[keep], 2.0)):
            expected = centralize(features[keep], *more, **settings)
            with monkeypatch.context() as patch:
                patch.setattr(arrays, "CACHE_ELEMENTS", elements)
                result = centralize(features[keep], *more, **settings)
            np.testing.assert_array_equal(as_float64(result), as_float64(expected))


@pytest.mark.parametrize("elements", [1, 30])
def test_small_blocks_equal_reference(monkeypatch, engine, elements):
    monkeypatch.setattr(arrays, "CACHE_ELEMENTS", elements)
    x, generated = with_generated(n=64, seed=6)
    x[9], generated[9] = 0, 0
    for settings in ({"k1": 4, "k2": 4}, {"k1": 3, "k2": 5, "alpha": 2.0}, {"k1": 4, "k2": 4, "normalize": False}):
        result = centralize(x, generated, 2.0, engine=engine, **settings)
        assert_close(result, reference.centralize(x, generated, 2.0, single=False, **settings), F64)


def scattered(n, d, seed):
    """n rows in pairs and fours, at random places of a set, so that some are one another's neighbours."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((n // 4, d))
    return (centres[rng.integers(0, n // 4, n)] + 0.3 * rng.standard_normal((n, d))) * rng.uniform(0.5, 2, (n, 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("width", [5, 33, 768, 40_000])  # torch sums the last by several threads
@pytest.mark.parametrize("alpha", [0.0, 2.7])
def test_bits_of_a_row_do_not_depend_on_the_other_rows(monkeypatch, dtype, width, alpha):
    """Alone with its neighbours, among many, in any block: a row comes out the same to the last bit."""
    n = 24 if width > 10_000 else 200
    x, generated = scattered(n, width, 0).astype(dtype), scattered(n, width, 1).astype(dtype)
    table = knn_graph(x, 3).indices
    settings = {"eta": 0.5, "k1": 3, "k2": 3, "alpha": alpha}
    whole = centralize(x, generated, neighbors=table, **settings)
    for row in (0, 7, n - 1):
        near = np.append(table[row], row)
        kept = np.unique(np.append(table[near], near))  # its neighbours, and theirs, which say who is mutual
        place = np.full(n, -1)
        place[kept] = np.arange(len(kept))
        part = centralize(x[kept], generated[kept], neighbors=place[table[kept]], **settings)
        np.testing.assert_array_equal(part[place[row]], whole[row])
    for elements in (1, 3 * width):
        monkeypatch.setattr(arrays, "CACHE_ELEMENTS", elements)
        np.testing.assert_array_equal(centralize(x, generated, neighbors=table, **settings), whole)


@with_projections
@pytest.mark.parametrize("width", [5, 768])
@pytest.mark.parametrize("alpha", [0.0, 2.7])
def test_bits_do_not_depend_on_threads_or_engine(engine, width, alpha):
    check_threads(scattered(300, width, 2), alpha, engine)


@pytest.mark.parametrize("alpha", [0.0, 2.7])
def test_bits_of_very_wide_rows_do_not_depend_on_threads(alpha):
    check_threads(scattered(24, 40_000, 2), alpha, "exact")  # too wide for codes, and too few rows


def check_threads(x, alpha, engine):
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(centralize(x, k1=3, k2=3, alpha=alpha, engine=engine))
    finally:
        torch.set_num_threads(before)
    for result in (*results[1:], centralize(x, k1=3, k2=3, alpha=alpha, engine="exact")):
        np.testing.assert_array_equal(result, results[0])


def test_rows_without_links_do_not_hear_of_zero_rows(array_kind):
    """Zero rows take another way through the memory of the result; the bits are the same."""
    x = clusters(seed=16)
    features, more = array_kind.make(x), array_kind.make(np.concatenate([x, np.zeros((1, x.shape[1]))]))
    np.testing.assert_array_equal(as_float64(centralize(more))[:-1], as_float64(centralize(features)))


def test_ends_of_float64():
    """Squares of such entries leave the range of float64."""
    x = clusters(seed=17)
    lengths = np.array([1e-300, 1.0, 1e300, 1e-160])[np.arange(len(x)) % 4][:, None] / 4
    expected = reference.centralize(x * lengths, single=False)
    assert_close(centralize(x * lengths), expected, F64)
    assert_close(centralize(x * lengths), reference.centralize(x, single=False), F64)


# A given array for the result

SETTINGS_OUT = {
    "published": {},
    "raw": {"normalize": False},
    "off": {"k1": 0},
    "alpha": {"alpha": 2.0},
    "table": {"neighbors": knn(reference.unit(clusters(seed=18)), 2)[0]},
}


@pytest.mark.parametrize("settings", SETTINGS_OUT.values(), ids=SETTINGS_OUT.keys())
@pytest.mark.parametrize("zeros", [0, 2])
def test_out_receives_the_result_and_is_returned(array_kind, settings, zeros):
    x = clusters(seed=18)
    x[5 : 5 + zeros] = 0
    features, generated = array_kind.make(x), array_kind.make(clusters(seed=19))
    for more in ((), (generated, 0.5)):
        if array_kind.container == "torch":
            out = torch.full(x.shape, 9.0, dtype=features.dtype)
        else:
            out = np.full(x.shape, 9.0, dtype=features.dtype)
        assert centralize(features, *more, **settings, out=out) is out
        expected = centralize(features, *more, **settings)
        np.testing.assert_array_equal(as_float64(out), as_float64(expected))
    np.testing.assert_array_equal(as_float64(features), array_kind.rounded(x))
    np.testing.assert_array_equal(as_float64(generated), array_kind.rounded(clusters(seed=19)))


def test_out_on_the_device_of_the_input(device):
    features = torch.tensor(clusters(), dtype=torch.float32, device=device)
    out = torch.zeros_like(features)
    assert centralize(features, out=out) is out
    assert torch.equal(out, centralize(features))


def test_out_may_be_part_of_a_wider_array():
    """Its neighbours in memory are left alone; features and out may be two halves of one array."""
    x = F32.make(clusters())
    wide = np.full((len(x), x.shape[1] + 3), 9.0, dtype=np.float32)
    centralize(x, out=wide[:, 2:-1])
    np.testing.assert_array_equal(wide[:, 2:-1], centralize(x))
    np.testing.assert_array_equal(wide[:, [0, 1, -1]], 9.0)
    both = np.concatenate([x, x])
    centralize(both[: len(x)], out=both[len(x) :])
    np.testing.assert_array_equal(both, np.concatenate([x, centralize(x)]))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("normalize", [True, False])
def test_from_file_to_file(tmp_path, engine, dtype, normalize):
    x = clusters(seed=20).astype(dtype)
    np.save(tmp_path / "features.npy", x)
    features = np.load(tmp_path / "features.npy", mmap_mode="r")
    out = np.lib.format.open_memmap(tmp_path / "result.npy", "w+", dtype, x.shape)
    assert centralize(features, normalize=normalize, engine=engine, out=out) is out
    out.flush()
    np.testing.assert_array_equal(np.load(tmp_path / "result.npy"), centralize(x, normalize=normalize, engine=engine))
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy"), x)


def test_result_of_foreign_byte_order():
    x = clusters().astype(">f4")
    out = np.empty(x.shape, np.float32)
    np.testing.assert_array_equal(centralize(x, out=out), centralize(x))
    assert centralize(x).dtype == x.dtype


@pytest.mark.parametrize("mode", ["r+", "c"])
def test_out_on_the_file_of_the_input_is_refused(tmp_path, mode):
    """The addresses differ; the file is the same, also under another name."""
    np.save(tmp_path / "features.npy", clusters())
    (tmp_path / "link.npy").hardlink_to(tmp_path / "features.npy")
    features = np.load(tmp_path / "features.npy", mmap_mode=mode)
    for name in ("features.npy", "link.npy"):
        out = np.load(tmp_path / name, mmap_mode="r+")
        for given in (out, np.asarray(out)):
            with pytest.raises(ValueError, match="out must not lie in the memory or file"):
                centralize(features, out=given)
            with pytest.raises(ValueError, match="out must not lie in the memory or file"):
                centralize(clusters(), [clusters(), features], out=given)
    np.testing.assert_array_equal(features, clusters())


def test_out_is_not_touched_by_wrong_input():
    x = F32.make(clusters())
    x[3, 2] = np.nan
    out = np.full(x.shape, 9.0, dtype=np.float32)
    with pytest.raises(ValueError, match="NaN"):
        centralize(x, out=out)
    assert (out == 9.0).all()


@pytest.mark.skipif(sys.platform != "linux", reason="counts the peak memory as Linux does")
def test_memory_is_that_of_a_few_blocks():
    """Input and output exist; beyond them there is never a copy (40 MB), only blocks of 2 MB and lists of indices."""
    code = """
import os, resource, numpy as np
from pose2id import centralize
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
def inputs(n):
    x = np.random.default_rng(0).standard_normal((n, 256), dtype=np.float32)
    at = np.arange(n)[:, None]
    return x, np.full_like(x, 1), (at + [1, n - 1]) % n
for settings in ("", "normalize=False", "generated=x", "k1=0"):
    if os.fork() == 0:  # a peak of its own
        for n in (2000, 40_000):
            x, out, table = inputs(n)
            before = peak()
            exec(f"centralize(x, neighbors=table, out=out, {settings})")
        print((peak() - before) / x.nbytes, flush=True)
        os._exit(0)
    os.wait()
"""
    # A process with more than one thread cannot be forked safely. glibc moves the size from which it gives memory back
    # at once; held still, the peak is what is in use, without what it happens to keep.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    copies = [float(line) for line in done.stdout.split()]
    assert len(copies) == 4
    assert max(copies) < 0.3, copies


def test_out_without_rows():
    out = np.zeros((0, 3))
    assert centralize(np.zeros((0, 3)), out=out) is out


def test_out_must_not_be_the_features_turned_around():
    x = np.random.default_rng(0).standard_normal((5, 3))
    with pytest.raises(ValueError, match="memory or file"):
        centralize(x[::-1], out=x)


def test_column_major_features_give_the_same_bits():
    x = np.random.default_rng(0).standard_normal((300, 70))
    np.testing.assert_array_equal(centralize(np.asfortranarray(x)), centralize(x))
