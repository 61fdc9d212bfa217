"""centralize_queries: single queries against a fixed gallery, compared with the rule row by row."""

import numpy as np
import pytest
import torch
from reference import centralization as reference
from reference.remembered import remembered
from support.arrays import ArrayKind, as_float64

from pose2id import arrays, centralize_queries
from pose2id.neighbors import ENGINES


def sets(seed=0, queries=25, gallery=70, width=8):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, width))
    pick = [centres[rng.integers(0, 12, n)] + 0.4 * rng.standard_normal((n, width)) for n in (queries, gallery)]
    return pick[0], pick[1], pick[0][:, None] + 0.4 * rng.standard_normal((queries, 3, width))


@remembered
def pulled(query, gallery, generated=None, eta=1.0, k1=2, k2=2, alpha=0.0, normalize=True):
    """One query after the other."""
    query = reference.fuse(query, generated, eta)
    if normalize:
        query, gallery = reference.unit(query), reference.unit(gallery)
    within = np.linalg.norm(gallery[:, None] - gallery, axis=2)
    np.fill_diagonal(within, np.inf)
    radius = np.sort(within, axis=1)[:, k2 - 1] if k2 else np.full(len(gallery), -1.0)
    result = []
    for row in query:
        distance, total = np.linalg.norm(gallery - row, axis=1), row.copy()
        for j in np.argsort(distance, kind="stable")[:k1]:
            if distance[j] <= radius[j]:
                cosine = float((reference.unit(row[None]) * reference.unit(gallery[j : j + 1])).sum())
                total += max(cosine, 0.0) ** alpha * gallery[j]
        result.append(total)
    return reference.unit(np.array(result)) if normalize else np.array(result)


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 2), (3, 1), (2, 5), (0, 2), (2, 0)])
@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 2.0])
def test_equals_reference(engine, k1, k2, alpha, normalize, eta):
    query, gallery, generated = sets()
    given = {"eta": eta, "k1": k1, "k2": k2, "alpha": alpha, "normalize": normalize}
    expected = pulled(query, gallery, generated, **given)
    result = centralize_queries(query, gallery, generated, **given, engine=engine)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 2.0])
def test_every_form_of_generated_features(normalize, eta):
    query, gallery, generated = sets()
    expected = pulled(query, gallery, generated, eta, normalize=normalize)
    for form in (generated, generated.mean(axis=1), list(generated.transpose(1, 0, 2))):
        result = centralize_queries(query, gallery, form, eta, normalize=normalize)
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-14)


def test_every_kind(array_kind):
    query, gallery, generated = (array_kind.rounded(x) for x in sets(1))
    result = centralize_queries(*map(array_kind.make, (query, gallery, generated)), alpha=1.0)
    assert array_kind.holds(result)
    expected = pulled(query, gallery, generated, alpha=1.0)
    np.testing.assert_allclose(as_float64(result), expected, rtol=0, atol=array_kind.epsilon)


def test_dtypes_may_differ_and_that_of_the_query_is_given_back():
    query, gallery, _ = sets(2)
    for one, other in (("float16", "float64"), ("float64", "float16"), ("float32", "float64")):
        result = centralize_queries(query.astype(one), gallery.astype(other))
        assert result.dtype == one
        expected = pulled(query.astype(one).astype(float), gallery.astype(other).astype(float))
        np.testing.assert_allclose(result.astype(float), expected, atol=1e-3 if one == "float16" else 1e-6)


def test_a_query_does_not_see_the_others(engine, monkeypatch):
    query, gallery, generated = (x.astype(np.float32) for x in sets(3))
    before = query.copy(), gallery.copy(), generated.copy()
    whole = centralize_queries(query, gallery, generated, alpha=2.5, engine=engine)
    alone = [centralize_queries(query[i : i + 1], gallery, generated[i : i + 1], alpha=2.5) for i in range(len(query))]
    np.testing.assert_array_equal(np.concatenate(alone), whole)
    monkeypatch.setattr(arrays, "CACHE_ELEMENTS", 24)
    np.testing.assert_array_equal(centralize_queries(query, gallery, generated, alpha=2.5), whole)
    for given, kept in zip((query, gallery, generated), before, strict=True):
        np.testing.assert_array_equal(given, kept)


def test_a_query_at_the_radius_counts():
    gallery = np.array([[1.0, 0.0], [4.0, 0.0]])  # 3 apart
    result = centralize_queries(np.array([[7.0, 0.0], [7.5, 0.0]]), gallery, k1=1, k2=1, normalize=False)
    assert result.tolist() == [[11.0, 0.0], [7.5, 0.0]]


def test_rows_of_zeros_and_small_sets():
    query, gallery, _ = sets(4)
    query[5], gallery[3] = 0, 0
    result = centralize_queries(query, gallery)
    assert not result[5].any()
    rest, others = np.delete(query, 5, 0), np.delete(gallery, 3, 0)
    np.testing.assert_allclose(np.delete(result, 5, 0), pulled(rest, others), rtol=1e-12)
    for nothing in (gallery[:0], np.zeros((2, 8))):
        np.testing.assert_allclose(centralize_queries(rest, nothing), reference.unit(rest), rtol=1e-12)
        np.testing.assert_array_equal(centralize_queries(rest, nothing, normalize=False), rest)
    assert centralize_queries(query[:0], gallery).shape == (0, 8)


@pytest.mark.parametrize("k", [70, 10**9])
def test_more_neighbours_than_there_are(k):
    query, gallery, _ = sets(5)
    direction = reference.unit(query)
    expected = reference.unit(direction + reference.unit(gallery).sum(axis=0))  # a radius without end
    np.testing.assert_allclose(centralize_queries(query, gallery, k1=k, k2=k), expected, rtol=1e-10)


@pytest.mark.parametrize("name", [name for name, engine in ENGINES.items() if not engine.exact])
def test_approximate_engines(name):
    if name.startswith("faiss"):
        pytest.importorskip("faiss")
    query, gallery, _ = sets(6, gallery=600)
    result = centralize_queries(query, gallery, engine=name)
    agree = np.isclose(result, centralize_queries(query, gallery), rtol=0, atol=1e-6).all(axis=1)
    assert agree.mean() > 0.8


def test_progress_is_shown_and_changes_nothing(capfd):
    query, gallery, _ = sets(7)
    expected = centralize_queries(query, gallery)
    capfd.readouterr()
    np.testing.assert_array_equal(centralize_queries(query, gallery, progress=True), expected)
    assert "fusing" in capfd.readouterr().err
    centralize_queries(query, gallery)
    assert capfd.readouterr().err == ""


Q, G, GENERATED = sets()
TENSOR = torch.zeros(25, 8, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        ((Q[:, :4], G), {}, ValueError, r"query and gallery must have equal D, received \(25, 4\) and \(70, 8\)"),
        ((TENSOR, G), {}, TypeError, "query and gallery must be of the same kind, received torch and numpy"),
        ((Q, G, TENSOR), {}, TypeError, "query and generated must be of the same kind, received numpy and torch"),
        ((Q, G, [TENSOR]), {}, TypeError, r"query and generated\[0\] must be of the same kind"),
        ((Q, G, Q[:3]), {}, ValueError, r"generated must have shape \(25, M, 8\) .*, received \(3, 8\)"),
        ((Q, G, GENERATED[:, :0]), {}, ValueError, "M >= 1"),
        ((Q[0], G), {}, ValueError, r"query must have shape \(Q, D\), received \(8,\)"),
        ((Q, G[0]), {}, ValueError, r"gallery must have shape \(G, D\), received \(8,\)"),
        ((np.where(Q > 2, np.nan, Q), G), {}, ValueError, "query must be finite, received NaN or inf in"),
        ((Q, G.astype(int)), {}, TypeError, "gallery must hold float16"),
        ((Q, G), {"k1": 1.5}, TypeError, "k1 must be an integer >= 0, received 1.5"),
        ((Q, G), {"k2": -1}, ValueError, "k2 must be an integer >= 0, received -1"),
        ((Q, G), {"eta": float("nan")}, ValueError, "eta must be a finite number >= 0, received nan"),
        ((Q, G), {"alpha": -1}, ValueError, "alpha must be a finite number >= 0, received -1"),
        ((Q, G), {"normalize": 1}, TypeError, "normalize must be True or False, received 1"),
        ((Q, G), {"progress": "yes"}, TypeError, "progress must be True or False, received 'yes'"),
        ((Q, G), {"engine": "magic"}, ValueError, "engine must be one of .*, received 'magic'"),
        (
            (ArrayKind("numpy", "float16").make(6e4 * reference.unit(Q)), 6e4 * reference.unit(G)),
            {"normalize": False, "k1": 9, "k2": 69},
            ValueError,
            "the sums do not fit torch.float16: received features too large for normalize=False",
        ),
    ],
)
def test_bad_input(arguments, options, error, words):
    with pytest.raises(error, match=words):
        centralize_queries(*arguments, **options)
