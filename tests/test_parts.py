"""Part features: golden numbers, the naive versions, and what must not change anything."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import parts as reference
from reference.centralization import unit
from reference.reranking import extended_set
from support.arrays import as_float64
from support.golden import GOLDEN

from pose2id import centralize, evaluate, id_density, rerank
from pose2id.parts import (
    centralize_parts,
    evaluate_parts,
    part_density,
    part_distances,
    part_neighbors,
    rerank_parts,
)
from pose2id.parts import search as search_module

CASES = [
    "all_visible",
    "bool_alpha4",
    "bool_exclude",
    "bool_k2",
    "bool_k2_4_fill",
    "bool_k2_fill",
    "bool_k3_1",
    "float_alpha1",
    "float_k2",
    "float_k3_fill",
    "generated",
    "generated_fill",
    "raw_sums",
    "single_part",
]
OPTIONS = ("k1", "k2", "alpha", "fill", "normalize", "eta")


@pytest.fixture(scope="module")
def cases():
    with np.load(GOLDEN / "parts" / "centralize.npz") as file:
        arrays = dict(file)
    for pair in arrays.pop("same").tolist():
        name, _, other = pair.partition("=")
        arrays[name] = arrays[other]
    return arrays


@pytest.fixture(scope="module")
def measured():
    with np.load(GOLDEN / "parts" / "visibility.npz") as file:
        return dict(file)


def take_case(cases, name):
    arrays = {key.partition(".")[2]: value for key, value in cases.items() if key.startswith(name + ".")}
    options = {key: arrays[key].item() for key in OPTIONS}
    extra = {key: arrays[key] for key in ("exclude", "generated", "generated_visibility") if key in arrays}
    return arrays, options | extra


def make(seed, n=24, p=4, d=6, hidden=0.4, soft=False, dtype=np.float64):
    """Groups of near rows, some parts hidden."""
    rng = np.random.default_rng(seed)
    parts = 2 * rng.standard_normal((max(1, n // 4), p, d))[rng.integers(0, max(1, n // 4), n)]
    parts += rng.standard_normal((n, p, d))
    shown = rng.random((n, p)) >= hidden
    return parts.astype(dtype), shown * rng.random((n, p)) if soft else shown


@pytest.mark.parametrize("name", CASES)
def test_centralization_is_the_golden_one(cases, name):
    arrays, options = take_case(cases, name)
    found = centralize_parts(arrays["parts"], arrays["visibility"], **options)
    np.testing.assert_allclose(found.parts, arrays["result"], rtol=1e-9, atol=1e-14)
    assert found.visibility.dtype == arrays["visibility"].dtype
    np.testing.assert_array_equal(found.visibility, arrays["result_visibility"])
    if "generated" not in arrays:
        shown = arrays["visibility"] * (arrays["parts"] != 0).any(axis=2)
        shown = shown.astype(arrays["visibility"].dtype)
        distances = part_distances(arrays["parts"], arrays["parts"], shown, shown, normalize=bool(arrays["normalize"]))
        apart = ~np.eye(len(distances), dtype=bool)
        np.testing.assert_allclose(distances[apart], arrays["distances"][apart], rtol=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_the_naive_centralization_is_the_golden_one(cases, name):
    arrays, options = take_case(cases, name)
    result, visibility = reference.centralize(arrays["parts"], arrays["visibility"], **options)
    np.testing.assert_allclose(result, arrays["result"], rtol=1e-9, atol=1e-14)
    np.testing.assert_array_equal(visibility, arrays["result_visibility"])


@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (3, 2), (1, 1)])
def test_the_released_code_flattens(k1, k2):
    with np.load(GOLDEN / "parts" / "nfc_released.npz") as file:
        parts, result = file["parts"], file[f"result_k{k1}_{k2}"]
    flat = centralize(parts.reshape(len(parts), -1), k1=k1, k2=k2, normalize=False)
    np.testing.assert_allclose(flat.reshape(parts.shape), result, rtol=1e-9)
    if k1 > 1:  # else the nearest rows happen to be the same
        assert np.abs(centralize_parts(parts, k1=k1, k2=k2, normalize=False).parts - result).max() > 0.1


RELEASED = [
    (f"{metric}_{reduce}_{kind}", {"metric": metric, "reduce": reduce})
    for metric in ("euclidean", "cosine")
    for reduce in ("mean", "max")
    for kind in ("novis", "bool", "float", "boolfloat")
]


@pytest.mark.parametrize("precision", [64, 32])
@pytest.mark.parametrize(("name", "rule"), RELEASED)
def test_distances_are_the_released_ones(measured, name, rule, precision):
    x, q = measured[f"float{precision}.parts"], int(measured[f"float{precision}.n_query"])
    hard, soft = measured[f"float{precision}.visible"], measured[f"float{precision}.visibility"]
    kind = name.rpartition("_")[2]
    left, right = {"novis": (None, None), "bool": (hard, hard), "float": (soft, soft), "boolfloat": (hard, soft)}[kind]
    shown = [None if v is None else v[at] for v, at in ((left, slice(q)), (right, slice(q, None)))]
    if kind.endswith("float"):
        name = name.replace("max", "mean")  # the release ignores it there
    expected = measured[f"float{precision}.{name}"]
    found = part_distances(x[:q], x[q:], *shown, missing="release", **rule)
    np.testing.assert_allclose(
        found, expected, rtol=1e-12 if precision == 64 else 1e-6, atol=0 if precision == 64 else 1e-6
    )
    if left is not None:
        common = (left[:q, None] * right[q:] > 0).any(axis=2)
        found = part_distances(x[:q], x[q:], *shown, **rule)
        np.testing.assert_array_equal(np.isinf(found), ~common)
        assert 0 < (~common).sum() < common.sum()


def test_nobody_visible_is_zero_in_the_release(measured):
    x, q = measured["float64.parts"], int(measured["float64.n_query"])
    hidden = np.zeros(x.shape[:2], bool)
    found = part_distances(x[:q], x[q:], hidden[:q], hidden[q:], missing="release")
    np.testing.assert_array_equal(found, measured["float64.euclidean_mean_bool_all_invisible"])
    assert np.isinf(part_distances(x[:q], x[q:], hidden[:q], hidden[q:])).all()


@pytest.mark.parametrize(("precision", "tolerance"), [(64, 2e-7), (32, 1e-6)])
def test_reranking_is_the_released_one(measured, precision, tolerance):
    x, q = measured[f"float{precision}.parts"], int(measured[f"float{precision}.n_query"])
    shown = measured[f"float{precision}.visible"]
    found = rerank_parts(x[:q], x[q:], shown[:q], shown[q:], k1=6, k2=3, missing="release")
    off = np.abs(found - measured[f"float{precision}.rerank_bool"]) > tolerance
    assert off.sum() == 7  # all of row 14, which shows nothing: here it is the first of its own list
    assert off[:, 0].sum() == 7
    assert not shown[14].any()


def test_reranking_of_one_part_is_rerank():
    x, _ = make(0, n=60, p=1, d=9)
    flat = unit(x[:, 0])
    found = rerank_parts(x[:20], x[20:], k1=5, k2=3)
    np.testing.assert_allclose(found, rerank(flat[:20], flat[20:], k1=5, k2=3), atol=1e-9)


def naive_rerank(d, q, k1, k2, share):
    """The dense re-ranking of joint distances d (n, n), where inf is as far as the farthest."""
    n = len(d)
    finite = np.where(np.isinf(d) | np.eye(n, dtype=bool), 0, d)
    ratio = np.where(np.isinf(d), 1, finite / finite.max(axis=1, keepdims=True).clip(1e-300)) ** 2
    lists = [
        [i] + [j for j in np.argsort(d[i], kind="stable").tolist() if j != i and np.isfinite(d[i, j])] for i in range(n)
    ]
    weights = np.zeros((n, n))
    for i in range(n):
        members = sorted(extended_set(lists, i, k1))
        weights[i, members] = np.exp(-np.where(np.array(members) == i, 0, ratio[i, members]))
        weights[i] /= weights[i].sum()
    weights = np.stack([weights[(lists[i] + [i] * k2)[:k2]].mean(axis=0) for i in range(n)])
    shared = np.minimum(weights[:q, None], weights[q:]).sum(axis=2)
    return (1 - share) * (1 - shared / (2 - shared)) + share * ratio[:q, q:]


@pytest.mark.parametrize("seed", [0, 1])
def test_reranking_is_the_naive_one(seed):
    x, shown = make(seed, n=40, p=3, hidden=0.6, soft=seed == 1)
    d = reference.distances(x, x, shown, shown)
    found = rerank_parts(x[:12], x[12:], shown[:12], shown[12:], k1=6, k2=3, lambda_value=0.4)
    np.testing.assert_allclose(found, naive_rerank(d, 12, 6, 3, 0.4), atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"alpha": 3.0}, {"normalize": False}, {"k1": 3, "k2": 1}, {"k1": 0}], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_one_visible_part_is_centralize_bit_for_bit(dtype, options):
    x = torch.from_numpy(make(3, n=50, p=1, d=7)[0])
    zero = x.clone()
    zero[4] = 0
    views = torch.from_numpy(make(4, n=150, p=1, d=7)[0]).view(50, 3, 1, 7).to(dtype)
    labels = np.arange(50) % 7
    for rows, generated, exclude in ((zero, None, None), (x, views, None), (x, None, labels)):
        plain = centralize(
            rows[:, 0].to(dtype), None if generated is None else generated[:, :, 0], 1.7, exclude=exclude, **options
        )
        found = centralize_parts(rows.to(dtype), None, generated, 1.7, exclude=exclude, **options)
        assert torch.equal(found.parts[:, 0], plain)
        assert found.visibility.dtype == torch.bool
        assert torch.equal(found.visibility[:, 0], rows[:, 0].any(dim=1))


SOME = st.tuples(st.integers(0, 10**6), st.integers(0, 20), st.integers(1, 4), st.booleans())


@given(SOME, st.booleans(), st.sampled_from([0.0, 2.0]), st.booleans(), st.booleans())
def test_centralization_is_the_naive_one(some, fill, alpha, normalize, views):
    seed, n, p, soft = some
    x, shown = make(seed, n, p, soft=soft)
    options = {"fill": fill, "alpha": alpha, "normalize": normalize, "k1": 3, "eta": 0.7}
    if views:
        generated, seen = make(seed + 1, 2 * n, p, soft=soft)
        options |= {"generated": generated.reshape(n, 2, p, -1), "generated_visibility": seen.reshape(n, 2, p)}
    result, visibility = reference.centralize(x, shown, **options)
    found = centralize_parts(x, shown, **options)
    np.testing.assert_allclose(found.parts, result, atol=1e-11)
    np.testing.assert_allclose(found.visibility, visibility, atol=1e-15)


@given(SOME)
def test_what_changes_nothing(some):
    seed, n, p, soft = some
    x, shown = make(seed, n, p, soft=soft, dtype=np.float32)
    rng = np.random.default_rng(seed)
    options = {"alpha": 1.5, "k1": 3, "k2": 3, "fill": bool(seed % 2)}
    found = centralize_parts(x, shown, **options)
    # The order of the parts, a part that nobody shows, whatever hidden parts hold, the scale of a part.
    order = rng.permutation(p)
    other = centralize_parts(x[:, order], shown[:, order], **options)
    np.testing.assert_array_equal(other.parts, found.parts[:, order])
    np.testing.assert_array_equal(other.visibility, found.visibility[:, order])
    more = np.concatenate([x, np.full((n, 1, x.shape[2]), np.nan, np.float32)], axis=1)
    other = centralize_parts(more, np.concatenate([shown, np.zeros((n, 1), shown.dtype)], axis=1), **options)
    np.testing.assert_array_equal(other.parts[:, :p], found.parts)
    assert np.isnan(other.parts[:, p]).all()
    garbage = np.where(shown[:, :, None] > 0, x * np.float32([4.0, 1.0, 0.5, 8.0])[:p, None], np.inf)
    other = centralize_parts(garbage.astype(np.float32), shown, **options)
    np.testing.assert_array_equal(other.visibility, found.visibility)
    np.testing.assert_array_equal(other.parts[found.visibility > 0], found.parts[found.visibility > 0])
    assert np.isinf(other.parts[found.visibility == 0]).all()
    # Rows in another order: no ties here.
    order = rng.permutation(n)
    other = centralize_parts(x[order], shown[order], **options)
    np.testing.assert_allclose(other.parts, found.parts[order], atol=1e-6)
    # 0 and 1 as floats, and everything visible.
    if not soft:
        other = centralize_parts(x, shown.astype(np.float16), **options)
        np.testing.assert_array_equal(other.parts, found.parts)
        assert other.visibility.dtype == np.float16
        np.testing.assert_array_equal(other.visibility, found.visibility)
    other = centralize_parts(x, np.ones((n, p), bool), **options)
    np.testing.assert_array_equal(other.parts, centralize_parts(x, **options).parts)


@given(SOME, st.sampled_from(["mean", "max"]), st.sampled_from(["euclidean", "cosine"]), st.booleans())
def test_distances_are_the_naive_ones(some, reduce, metric, normalize):
    seed, n, p, soft = some
    x, shown = make(seed, n, p, soft=soft)
    x[: n // 3] = x[n // 2 :][: n // 3]  # some pairs coincide
    q = n // 2
    sets = x[:q], x[q:], shown[:q], shown[q:]
    for missing in ("inf", "release"):
        rule = {"reduce": reduce, "metric": metric, "missing": missing, "normalize": normalize}
        np.testing.assert_allclose(part_distances(*sets, **rule), reference.distances(*sets, **rule), atol=1e-9)


@pytest.mark.parametrize("tile", [2048, 16])
@pytest.mark.parametrize("rule", [("mean", "euclidean"), ("max", "euclidean"), ("mean", "cosine"), ("max", "cosine")])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neighbours_are_the_naive_ones(monkeypatch, tile, rule, dtype):
    monkeypatch.setattr(search_module, "TILE", tile)
    reduce, metric = rule
    for soft, k, offset in ((False, 1, 0), (True, 5, 0), (False, 40, 1000 * (metric == "euclidean"))):
        x, shown = make(7, n=60, soft=soft, dtype=dtype)
        x += dtype(offset)
        given = {"reduce": reduce, "metric": metric, "normalize": offset == 0}
        found = part_neighbors(x[:25], x[25:], k, shown[:25], shown[25:], **given)
        rows = reference.unit_parts(x).astype(dtype) if offset == 0 else x
        given["normalize"] = metric == "cosine"
        d = reference.distances(rows[:25].astype(float), rows[25:].astype(float), shown[:25], shown[25:], **given)
        lists = reference.neighbor_lists(d, within=False, single=dtype == np.float32)
        assert found.indices.tolist() == [(row + [-1] * k)[:k] for row in lists]
        assert found.distances.dtype == dtype
        expected = [[d[i, j] for j in row][:k] + [np.inf] * (k - len(row)) for i, row in enumerate(lists)]
        np.testing.assert_allclose(found.distances, expected, rtol=2e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("tile", [2048, 16])
def test_many_equal_distances_go_by_index(monkeypatch, tile):
    monkeypatch.setattr(search_module, "TILE", tile)
    rng = np.random.default_rng(0)
    x = np.sign(rng.standard_normal((48, 3, 4))).astype(np.float32)
    shown = rng.random((48, 3)) > 0.3
    for rows, seen in ((x, shown), (np.ones_like(x), shown), (x, np.ones_like(shown))):
        d = reference.distances(rows.astype(float), rows.astype(float), seen, seen).astype(np.float32)
        for labels in (None, np.arange(48) % 5):
            result, _ = reference.centralize(rows.astype(float), seen, k1=4, k2=4, exclude=labels, single=True)
            found = centralize_parts(rows, seen, k1=4, k2=4, exclude=labels)
            np.testing.assert_allclose(found.parts, result, atol=1e-6)
        near = part_neighbors(rows, rows, 6, seen, seen)
        order = np.argsort(d, axis=1, kind="stable")[:, :6]
        order = np.where(np.isinf(np.take_along_axis(d, order, axis=1)), -1, order)
        np.testing.assert_array_equal(near.indices, order)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", [("mean", "euclidean"), ("max", "euclidean"), ("mean", "cosine")])
def test_scores_are_those_of_the_matrix(rule, dtype):
    for seed in range(4):
        soft = seed % 2 == 1
        x, shown = make(seed, n=90, p=3, hidden=0.5, soft=soft, dtype=dtype)
        if seed == 3:
            shown = shown**40  # next to nothing in common
        x[50:60] = x[60:70]
        shown[50:60] = shown[60:70]
        x[shown == 0] = np.nan
        rng = np.random.default_rng(seed)
        ids, cams = rng.integers(0, 6, 90), rng.integers(0, 3, 90)
        labels = ids[:30], ids[30:], cams[:30], cams[30:]
        given = {"reduce": rule[0], "metric": rule[1]}
        d = part_distances(x[:30], x[30:], shown[:30], shown[30:], **given)
        assert np.isinf(d).any()
        expected = evaluate(np.where(np.isinf(d), 100, d), *labels)
        visibility = {"query_visibility": shown[:30], "gallery_visibility": shown[30:]}
        found = evaluate_parts(x[:30], x[30:], *labels, **visibility, **given)
        np.testing.assert_allclose(found.average_precision, expected.average_precision, atol=1e-12)
        np.testing.assert_array_equal(found.cmc, expected.cmc)
        if not soft:  # the release ranks alike
            released = part_distances(x[:30], x[30:], shown[:30], shown[30:], missing="release", **given)
            assert evaluate(released, *labels).mAP == pytest.approx(found.mAP, abs=1e-12)


def test_density_is_that_of_what_is_visible():
    x, shown = make(0, n=40, p=3)
    shown[:, 2] = False
    x[~shown] = np.nan
    ids = np.arange(40) % 6 - 1
    found = part_density(x, ids, shown, variant="released")
    for p in range(2):
        at = shown[:, p]
        assert found[p] == pytest.approx(id_density(x[at, p], ids[at], variant="released"), rel=1e-12)
    assert np.isnan(found[2])


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n):
    x, _ = make(0, n=n, p=2)
    found = centralize_parts(x, fill=True)
    assert found.parts.shape == x.shape
    if n < 2:
        np.testing.assert_allclose(found.parts, reference.unit_parts(x), atol=1e-15)
    else:
        np.testing.assert_allclose(found.parts[0], found.parts[1], atol=1e-15)
    assert part_distances(x, x).shape == (n, n)
    near = part_neighbors(x, x, 3)
    assert (near.indices >= 0).sum() == n * n
    if n == 0:
        assert part_neighbors(make(0, p=2)[0], x, 2).indices.tolist() == [[-1, -1]] * 24


def test_without_a_common_part_nobody_is_a_neighbour():
    x, _ = make(0, n=3, p=3)
    shown = np.eye(3, dtype=bool)
    found = centralize_parts(x, shown, fill=True)
    np.testing.assert_allclose(found.parts, reference.unit_parts(x), atol=1e-15)
    np.testing.assert_array_equal(found.visibility, shown)
    assert np.isinf(part_distances(x, x, shown, shown)[~np.eye(3, dtype=bool)]).all()
    assert rerank_parts(x[:1], x[1:], shown[:1], shown[1:], k1=1).tolist() == [[1.0, 1.0]]


def test_every_kind_of_array_comes_back(array_kind):
    x, shown = make(5, n=20, p=3)
    parts = array_kind.make(x)
    seen = torch.from_numpy(shown) if array_kind.container == "torch" else shown
    found = centralize_parts(parts, seen, fill=True)
    assert array_kind.holds(found.parts)
    assert array_kind.has_container(found.visibility)
    expected, _ = reference.centralize(array_kind.rounded(x), shown, fill=True, single=array_kind.single)
    np.testing.assert_allclose(as_float64(found.parts), expected, atol=array_kind.epsilon)
    soft = array_kind.make(shown)
    assert array_kind.holds(centralize_parts(parts, soft).visibility)
    distances = part_distances(parts, parts, seen, seen)
    assert str(distances.dtype).removeprefix("torch.") == array_kind.distance_dtype
    assert array_kind.has_container(rerank_parts(parts, parts, seen, seen, k1=3, k2=2))
    assert array_kind.has_container(part_neighbors(parts, parts, 2).indices)
    np.testing.assert_array_equal(as_float64(parts), array_kind.rounded(x))


def test_on_every_device(device):
    x, shown = make(6, n=30, p=3, soft=True)
    parts, seen = torch.from_numpy(x).to(device), torch.from_numpy(shown).to(device)
    found = centralize_parts(parts, seen, alpha=2.0, fill=True)
    expected = centralize_parts(x, shown, alpha=2.0, fill=True)
    assert found.parts.device.type == found.visibility.device.type == device
    np.testing.assert_allclose(found.parts.cpu().numpy(), expected.parts, atol=1e-12)
    near = part_neighbors(parts[:10], parts[10:], 3, seen[:10], seen[10:])
    assert near.indices.tolist() == part_neighbors(x[:10], x[10:], 3, shown[:10], shown[10:]).indices.tolist()


X, V = make(1, n=6, p=2, d=3, hidden=0)


def spoil(array, at, value):
    array = np.array(array, dtype=np.float64)
    array[at] = value
    return array


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: centralize_parts(X[:, 0]), ValueError, r"parts.*\(N, P, D\).*\(6, 3\)"),
        (lambda: centralize_parts(X.astype(int)), TypeError, "parts.*int64"),
        (lambda: centralize_parts(X[:, :0]), ValueError, r"at least one part.*\(6, 0, 3\)"),
        (lambda: centralize_parts(X[:, :, :0]), ValueError, "at least one column"),
        (lambda: centralize_parts(X, V[:5]), ValueError, r"visibility.*\(6, 2\).*\(5, 2\)"),
        (lambda: centralize_parts(X, V[:, 0]), ValueError, r"visibility.*\(6, 2\).*\(6,\)"),
        (lambda: centralize_parts(X, V.astype(int)), TypeError, "visibility.*int64"),
        (lambda: centralize_parts(X, V.tolist()), TypeError, "visibility.*list"),
        (lambda: centralize_parts(X, torch.from_numpy(V)), TypeError, "same kind"),
        (lambda: centralize_parts(X, spoil(V, (3, 1), 1.5)), ValueError, r"visibility.*1\.5.*\(3, 1\)"),
        (lambda: centralize_parts(X, spoil(V, (3, 1), -0.1)), ValueError, r"visibility.*-0\.1.*\(3, 1\)"),
        (lambda: centralize_parts(X, spoil(V, (3, 1), np.nan)), ValueError, r"visibility.*nan.*\(3, 1\)"),
        (lambda: centralize_parts(spoil(X, (4, 1, 0), np.nan)), ValueError, "parts.*row 4 part 1"),
        (lambda: centralize_parts(spoil(X, (4, 1, 0), np.inf), V), ValueError, "parts.*row 4 part 1"),
        (lambda: centralize_parts(X, fill=1), TypeError, "fill"),
        (lambda: centralize_parts(X, engine="faiss"), ValueError, "engine.*faiss"),
        (lambda: centralize_parts(X, k1=1.5), TypeError, "k1"),
        (lambda: centralize_parts(X, generated=X), ValueError, r"generated.*\(N, M, P, D\)"),
        (lambda: centralize_parts(X, generated=X[:, None, :1]), ValueError, r"generated.*\(6, M, 2, 3\)"),
        (lambda: centralize_parts(X, generated=np.empty((6, 0, 2, 3))), ValueError, "M >= 1"),
        (lambda: centralize_parts(X, generated_visibility=V[:, None]), ValueError, "generated_visibility"),
        (
            lambda: centralize_parts(X, generated=X[:, None], generated_visibility=V),
            ValueError,
            r"generated_visibility.*\(6, 1, 2\)",
        ),
        (
            lambda: centralize_parts(X, generated=spoil(X, (2, 0, 0), np.nan)[:, None]),
            ValueError,
            "generated.*row 2 image 0 part 0",
        ),
        (
            lambda: centralize_parts(X[:3], generated=spoil(X, (3, 1, 0), np.nan).reshape(3, 2, 2, 3)),
            ValueError,
            r"generated.* in 1 part\(s\): row 1 image 1 part 1;",
        ),
        (lambda: centralize_parts(X, exclude=[1, 2]), ValueError, "exclude"),
        (lambda: part_distances(X, X[:, :1]), ValueError, "equal P and D"),
        (lambda: part_distances(X, X, reduce="median"), ValueError, "reduce.*median"),
        (lambda: part_distances(X, X, metric="manhattan"), ValueError, "metric"),
        (lambda: part_distances(X, X, missing=0), TypeError, "missing"),
        (lambda: part_distances(X, X, None, V[:2]), ValueError, "gallery_visibility"),
        (lambda: part_neighbors(X, X, 0), ValueError, "k must"),
        (lambda: rerank_parts(X[:0], X), ValueError, "at least one row"),
        (lambda: rerank_parts(X, X, missing="zero"), ValueError, "missing"),
        (lambda: evaluate_parts(X, X, [1] * 5, [1] * 6), ValueError, "query_ids"),
        (lambda: part_density(X[:0], []), ValueError, r"parts must have at least one row, received shape \(0, "),
        (lambda: part_density(X * 0, [1] * 6, variant="x"), ValueError, "variant must be one of"),
        (lambda: part_density(X, [1] * 6, junk="yes"), TypeError, "junk must be True or False"),
        (lambda: part_density(X, [-1] * 6), ValueError, "junk"),
        (lambda: part_density(X, [1] * 6, variant="other"), ValueError, "variant"),
    ],
)
def test_wrong_arguments_are_named(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_arrays_are_not_written_to():
    x, shown = make(2, soft=True)
    copies = x.copy(), shown.copy()
    centralize_parts(x, shown, x[:, None], fill=True, generated_visibility=shown[:, None])
    part_distances(x, x, shown, shown, missing="release")
    rerank_parts(x, x, shown, shown, missing="release")
    np.testing.assert_array_equal(x, copies[0])
    np.testing.assert_array_equal(shown, copies[1])


def test_scores_of_parts_do_not_depend_on_threads():
    """So many ties that tiles are made again, of float64 products, while other threads ask for theirs."""
    rng = np.random.default_rng(0)
    query, gallery = (rng.integers(1, 4, (n, 2, 3)).astype(np.float32) for n in (2048, 64))
    ids, found = rng.integers(0, 64, 2112), []
    before = torch.get_num_threads(), sys.getswitchinterval()
    try:
        for count in (1, 4):
            torch.set_num_threads(count)
            sys.setswitchinterval(1e-5)
            scores = evaluate_parts(query, gallery, ids[:2048], ids[2048:], normalize=False)
            found.append((scores.mAP, scores.tied_rank1))
    finally:
        torch.set_num_threads(before[0])
        sys.setswitchinterval(before[1])
    assert found[0] == found[1]


@pytest.mark.parametrize("value", [1e200, 1e-200, 1e308])
@pytest.mark.parametrize("missing", ["inf", "release"])
def test_what_hidden_parts_hold_sets_no_scale(value, missing):
    query, shown = np.array([[[1.0, 0.0], [value, 0.0]]]), np.array([[True, False]])
    gallery = np.array([[[0.0, 1.0], [1.0, 0.0]]])
    for options in ({"query_visibility": shown}, {"query_visibility": shown, "reduce": "max"}):
        found = part_distances(query, gallery, missing=missing, normalize=False, **options)
        assert found.tolist() == [[pytest.approx(2**0.5, rel=1e-12)]]
    if missing == "inf":
        soft = part_distances(query, gallery, shown.astype(float), normalize=False)
        assert soft.tolist() == [[pytest.approx(2**0.5, rel=1e-12)]]


@pytest.mark.parametrize("exponent", [-560, 600])
@pytest.mark.parametrize("missing", ["inf", "release"])
def test_reranking_takes_parts_of_any_size(exponent, missing):
    rng = np.random.default_rng(5)
    query, gallery = rng.standard_normal((20, 2, 3)), rng.standard_normal((120, 2, 3))
    options = {"k1": 12, "k2": 4, "normalize": False, "missing": missing}
    expected = rerank_parts(query, gallery, **options)
    found = rerank_parts(query * 2.0**exponent, gallery * 2.0**exponent, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_sparse_visibility_is_named():
    x = torch.ones(2, 3, 4)
    with pytest.raises(TypeError, match=r"visibility must be a dense tensor, received layout torch\.sparse_coo"):
        centralize_parts(x, torch.ones(2, 3, dtype=torch.bool).to_sparse())
