"""`NeighborCentralizer`: scikit-learn's own checks, and both uses against plain versions."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from pose2id import centralize
from pose2id.errors import MissingExtraError

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.estimator_checks import estimator_checks_generator  # noqa: E402

from pose2id.integrations.sklearn import NeighborCentralizer  # noqa: E402

DIFFERENT_ON_PURPOSE = {
    # fit_transform is the published method within one set; in fit(X).transform(X) every row finds itself.
    "check_transformer_general": "fit_transform(X) is not fit(X).transform(X)",
    "check_transformer_data_not_an_array": "fit_transform(X) is not fit(X).transform(X)",
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    list(estimator_checks_generator(NeighborCentralizer(), expected_failed_checks=DIFFERENT_ON_PURPOSE, mark="xfail")),
    ids=lambda part: getattr(getattr(part, "func", None), "__name__", type(part).__name__),
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def sets(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((12, 8))
    gallery = centres[rng.integers(0, 12, 70)] + 0.4 * rng.standard_normal((70, 8))
    query = centres[rng.integers(0, 12, 25)] + 0.4 * rng.standard_normal((25, 8))
    return query.astype(dtype), gallery.astype(dtype)


def pulled(query, gallery, k1, k2, alpha, normalize, query_cams=None, gallery_cams=None):
    """The rule of `transform`, in float64, row by row; cameras of the gallery, and of the queries, keep rows apart."""
    query, gallery = query.astype(np.float64), gallery.astype(np.float64)
    if normalize:
        query = query / np.linalg.norm(query, axis=1, keepdims=True)
        gallery = gallery / np.linalg.norm(gallery, axis=1, keepdims=True)
    within = np.linalg.norm(gallery[:, None] - gallery[None], axis=2)
    np.fill_diagonal(within, np.inf)
    if gallery_cams is not None:
        within[gallery_cams[:, None] == gallery_cams] = np.inf
    radius = np.sort(within, axis=1)[:, k2 - 1]
    result = []
    for number, row in enumerate(query):
        distance = np.linalg.norm(gallery - row, axis=1)
        if query_cams is not None:
            distance[gallery_cams == query_cams[number]] = np.nan  # the last ones, and at no distance
        total = row.copy()
        for j in np.argsort(distance, kind="stable")[:k1]:
            if distance[j] <= radius[j]:
                cosine = row @ gallery[j] / np.linalg.norm(row) / np.linalg.norm(gallery[j])
                total += max(cosine, 0.0) ** alpha * gallery[j]
        result.append(total / np.linalg.norm(total) if normalize else total)
    return np.array(result)


@pytest.mark.parametrize("engine", ["exact", "auto"])
@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (2, 2), (3, 1), (2, 5)])
@pytest.mark.parametrize("alpha", [0.0, 3.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_transform_pulls_toward_the_gallery(engine, k1, k2, alpha, normalize):
    query, gallery = sets()
    model = NeighborCentralizer(k1, k2, alpha=alpha, normalize=normalize, engine=engine).fit(gallery)
    result = model.transform(query)
    np.testing.assert_allclose(result, pulled(query, gallery, k1, k2, alpha, normalize), atol=2e-6)
    assert result.dtype == np.float32
    changed = np.abs(result - NeighborCentralizer(0, 0, normalize=normalize).fit(gallery).transform(query)).max(axis=1)
    assert 0 < (changed > 1e-3).sum() < len(query) or k2 == 5  # the rule links some queries and not others


@pytest.mark.parametrize("engine", ["exact", "auto"])
@pytest.mark.parametrize(("k1", "k2"), [(2, 2), (3, 1)])
@pytest.mark.parametrize("names", [np.array([3, 1, 2]), np.array(["b", "a", "c"])], ids=["integers", "strings"])
def test_labels_keep_rows_apart(engine, k1, k2, names):
    query, gallery = sets()
    gallery[7], query[2] = 0, 0  # rows without a direction, whose labels go with them
    rng = np.random.default_rng(1)
    cams, query_cams = names[rng.integers(0, 3, 70)], names[rng.integers(0, 3, 25)]
    model = NeighborCentralizer(k1, k2, alpha=2.0, engine=engine).fit(gallery, exclude=cams.tolist())
    others = np.delete(gallery, 7, 0), np.delete(cams, 7, 0)
    rest = np.delete(query, 2, 0), np.delete(query_cams, 2, 0)
    arguments = (rest[0], others[0], k1, k2, 2.0, True)
    both = model.transform(query, exclude=query_cams)
    assert not both[2].any()
    np.testing.assert_allclose(np.delete(both, 2, 0), pulled(*arguments, rest[1], others[1]), atol=2e-6)
    of_fit = model.transform(query)  # only the radius knows of cameras
    np.testing.assert_allclose(np.delete(of_fit, 2, 0), pulled(*arguments, None, others[1]), atol=2e-6)
    without = NeighborCentralizer(k1, k2, alpha=2.0, engine=engine).fit(gallery).transform(query)
    assert (both != of_fit).any()
    assert (of_fit != without).any()
    assert model.exclude_.tolist() == others[1].tolist()


def test_labels_in_fit_transform_and_in_a_pipeline():
    _, gallery = sets()
    cams = np.arange(70) % 4
    expected = centralize(gallery, exclude=cams)
    assert (expected != centralize(gallery)).any()
    np.testing.assert_array_equal(NeighborCentralizer().fit_transform(gallery, exclude=cams), expected)
    pipeline = make_pipeline(NeighborCentralizer())
    np.testing.assert_array_equal(pipeline.fit_transform(gallery, neighborcentralizer__exclude=cams), expected)


def test_labels_that_do_not_fit_are_named():
    query, gallery = sets()
    with pytest.raises(ValueError, match=r"exclude must have shape \(70,\)"):
        NeighborCentralizer().fit(gallery, exclude=[1, 2])
    with pytest.raises(ValueError, match="exclude needs the labels of the gallery too"):
        NeighborCentralizer().fit(gallery).transform(query, exclude=np.zeros(25, int))
    with pytest.raises(TypeError, match="must both be integers or both be strings"):
        NeighborCentralizer().fit(gallery, exclude=np.zeros(70, int)).transform(query, exclude=["a"] * 25)
    with pytest.raises(TypeError, match="cams"):
        NeighborCentralizer().fit_transform(gallery, cams=np.zeros(70, int))


def test_transform_rows_do_not_see_each_other():
    query, gallery = sets()
    model = NeighborCentralizer().fit(gallery)
    alone = np.concatenate([model.transform(query[i : i + 1]) for i in range(len(query))])
    np.testing.assert_array_equal(alone, model.transform(query))


def test_transform_in_threads():
    query, gallery = sets()
    model = NeighborCentralizer().fit(gallery)
    expected = model.transform(query)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(model.transform, np.tile(query, (10, 1))[:, None]))
    np.testing.assert_array_equal(np.concatenate(found), np.tile(expected, (10, 1)))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_fit_transform_is_centralize(dtype):
    _, gallery = sets(dtype=dtype)
    result = NeighborCentralizer(3, 2, alpha=2.0).fit_transform(gallery)
    np.testing.assert_array_equal(result, centralize(gallery, k1=3, k2=2, alpha=2.0))
    assert result.dtype == dtype


def test_zero_rows_are_left_out():
    query, gallery = sets()
    gallery[3] = 0
    query[5] = 0
    model = NeighborCentralizer().fit(gallery)
    assert model.gallery_.shape == (69, 8)
    result = model.transform(query)
    assert not result[5].any()
    np.testing.assert_allclose(
        np.delete(result, 5, 0), pulled(np.delete(query, 5, 0), np.delete(gallery, 3, 0), 2, 2, 0.0, True), atol=2e-6
    )


def test_a_gallery_smaller_than_k2_lets_every_row_count():
    query, gallery = sets()
    result = NeighborCentralizer(1, 5).fit(gallery[:2]).transform(query)
    near = np.linalg.norm(centralize(query, k1=0)[:, None] - centralize(gallery[:2], k1=0)[None], axis=2).argmin(axis=1)
    total = centralize(query, k1=0) + centralize(gallery[:2], k1=0)[near]
    np.testing.assert_allclose(result, total / np.linalg.norm(total, axis=1, keepdims=True), atol=2e-6)


def test_the_input_is_left_alone_and_the_gallery_is_kept():
    query, gallery = sets()
    before = query.copy(), gallery.copy()
    model = NeighborCentralizer().fit(gallery)
    gallery[:] = 7  # what was fitted is the model's own
    first = model.transform(query)
    np.testing.assert_array_equal(query, before[0])
    np.testing.assert_array_equal(first, NeighborCentralizer().fit(before[1]).transform(query))


def test_tensors_of_any_device(device):
    queries, gallery = sets()
    rows, others = (torch.tensor(x, device=device, requires_grad=True) for x in (gallery, queries))
    mine, expected = NeighborCentralizer().fit(rows), NeighborCentralizer().fit(gallery)
    np.testing.assert_allclose(mine.transform(others), expected.transform(queries), atol=1e-6)
    np.testing.assert_allclose(mine.fit_transform(rows), expected.fit_transform(gallery), atol=1e-6)


def test_in_a_pipeline_and_cloned():
    _, gallery = sets()
    pipeline = make_pipeline(StandardScaler(), clone(NeighborCentralizer(1, 1)))
    result = pipeline.fit_transform(gallery)
    np.testing.assert_array_equal(result, centralize(StandardScaler().fit_transform(gallery), k1=1, k2=1))


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"k1": -1}, ValueError),
        ({"k2": 1.5}, TypeError),
        ({"alpha": float("nan")}, ValueError),
        ({"normalize": "yes"}, TypeError),
        ({"engine": "turbo"}, ValueError),
    ],
)
def test_bad_parameters_are_named_at_fit(settings, error):
    with pytest.raises(error, match=next(iter(settings))):
        NeighborCentralizer(**settings).fit(sets()[1])


def test_without_scikit_learn_the_pip_line_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "pose2id.integrations.sklearn")
    with pytest.raises(MissingExtraError, match=r"pip install 'scikit-learn>=1.6'"):
        import pose2id.integrations.sklearn  # noqa: F401


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("view", [torch.clone, torch._neg_view])
def test_tensors_keep_their_dtype(dtype, view):
    """scikit-learn makes float64 of every tensor; numpy has no bfloat16, which becomes float32."""
    query, gallery = (view(torch.tensor(rows).to(dtype)) for rows in sets())
    arrays = [(rows.float() if dtype == torch.bfloat16 else rows.resolve_neg()).numpy() for rows in (query, gallery)]
    found = NeighborCentralizer().fit(gallery).transform(query)
    expected = NeighborCentralizer().fit(arrays[1]).transform(arrays[0])
    assert (found.dtype, found.tolist()) == (arrays[0].dtype, expected.tolist())
    found = NeighborCentralizer().fit_transform(gallery)
    assert (found.dtype, found.tolist()) == (arrays[0].dtype, centralize(arrays[1]).tolist())
