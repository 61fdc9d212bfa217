"""DSR: golden numbers, the naive versions, the conditions of optimality, and what must not change anything."""

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from reference import reconstruction as reference
from support.arrays import as_float64
from support.golden import GOLDEN

from pose2id.parts import lasso, reconstruction, reconstruction_distances


@pytest.fixture(scope="module")
def golden_file():
    with np.load(GOLDEN / "parts" / "reconstruction.npz") as file:
        return dict(file)


def make(seed, q=3, g=4, d=8, own=5, others=6, scale=1.0):
    """Gallery images, and queries near the first of them; unit columns."""
    rng = np.random.default_rng(seed)
    gallery = rng.standard_normal((g, d, others))
    near = gallery[np.arange(q) % g] if g else np.zeros((q, d, others))
    mixed = near @ rng.standard_normal((q, others, own)) * (rng.random((q, 1, own)) < 0.7)
    query = mixed / 2 + rng.standard_normal((q, d, own))
    return [scale * x / np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery)]


def fit(query, gallery, beta):
    """The coefficients (n, M2, M) that the solver finds for pairs of images (n, D, M), (n, D, M2)."""
    x, y = torch.from_numpy(query), torch.from_numpy(gallery)
    return lasso.solve_lasso(lasso.make_gram(y), y.mT @ x, x.square().sum(dim=1).sqrt(), beta).numpy()


@pytest.mark.parametrize("reduce", ["mean_squared", "mean_norm"])
@pytest.mark.parametrize("beta", [0.05, 0.4])
def test_l1_is_the_golden_one(golden_file, beta, reduce):
    found = reconstruction_distances(golden_file["query"], golden_file["gallery"], strength=beta, reduce=reduce)
    np.testing.assert_allclose(found, golden_file[f"l1.beta{beta}_{reduce}"], rtol=0, atol=1e-11)


def test_ridge_is_the_released_one(golden_file):
    query, gallery = golden_file["query"], golden_file["gallery"]
    rule = {"penalty": "ridge", "strength": float(golden_file["ridge.kappa"])}
    for name, own, options in [
        ("weighted", query, {"reduce": "mean_norm", "weights": golden_file["ridge.weights"]}),
        ("mean", query, {"reduce": "mean_norm"}),
        ("mean_squared", query, {}),
        ("partial_query", query[:, :, : int(golden_file["ridge.n_partial"])], {"reduce": "mean_norm"}),
    ]:
        found = reconstruction_distances(own, gallery, **rule, **options)
        np.testing.assert_allclose(found, golden_file[f"ridge.distance_{name}"], rtol=1e-12)
    sets = (golden_file[f"released.{name}"] for name in ("query", "gallery"))
    found = reconstruction_distances(*sets, **rule, weights=golden_file["released.weights"], reduce="mean_norm")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, golden_file["released.distance"], rtol=1e-5)


SOME = st.tuples(
    st.integers(0, 10**6), st.integers(0, 3), st.integers(0, 4), st.integers(1, 7), st.integers(1, 4), st.integers(1, 9)
)


@given(SOME, st.sampled_from([0.01, 0.3, 1.0]), st.sampled_from(["l1", "ridge"]), st.booleans(), st.booleans())
def test_distances_are_the_naive_ones(some, beta, penalty, squared, weighted):
    query, gallery = make(*some)
    rule = {"reduce": "mean_squared" if squared else "mean_norm"}
    if weighted:
        rule["weights"] = np.random.default_rng(0).dirichlet(np.ones(some[4]), size=some[1])
    try:
        expected = reference.distances(query, gallery, penalty, beta, **rule)
    except ArithmeticError:
        reject()
    found = reconstruction_distances(query, gallery, penalty=penalty, strength=beta, **rule)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("scale", [1.0, 1000.0, 1e-4])
@pytest.mark.parametrize("beta", [1e-6, 1e-3, 0.05, 0.5])
@pytest.mark.parametrize(("d", "others"), [(12, 5), (6, 30), (30, 30)])
def test_every_column_is_optimal(d, others, beta, scale):
    query, gallery = make(0, 2, 2, d, 20, others, scale)
    gallery[1, :, 1::2] = gallery[1, :, : 2 * (others // 2) : 2]  # equal columns: w is not unique
    gallery[1, :, -1] = 0
    beta = beta * scale**2
    w = fit(query, gallery, beta)
    gradient = 2 * gallery.transpose(0, 2, 1) @ (gallery @ w - query)
    size = 2 * scale**2 * (1 + np.abs(w).sum(axis=1, keepdims=True))
    off = np.where(w != 0, np.abs(gradient + beta * np.sign(w)), np.abs(gradient) - beta)
    assert (off <= 1e-10 * size).all()
    assert w.any()


def test_steps_do_not_swing_along_equal_columns():
    query, gallery = make(772806615, 3, 3, 36, 34, 11)
    beta = 0.008384236930365238
    equal = [10, 4, 10, 5, 8, 2, 8, 9, 9, 8, 8]
    once = fit(query, gallery[:, :, sorted(set(equal))], beta)
    left = gallery[:, :, equal] @ fit(query, gallery[:, :, equal], beta)
    np.testing.assert_allclose(left, gallery[:, :, sorted(set(equal))] @ once, atol=1e-8)


@given(SOME, st.sampled_from([0.02, 0.4]), st.sampled_from(["l1", "ridge"]))
def test_what_changes_nothing(some, beta, penalty):
    query, gallery = make(*some)
    rule = {"penalty": penalty, "strength": beta}
    found = reconstruction_distances(query, gallery, **rule)
    rng = np.random.default_rng(some[0])
    # The order of the columns on both sides, columns of zeros, a rotation; scale, with the penalty's.
    close = {"rtol": 1e-9, "atol": 1e-10}
    other = reconstruction_distances(query[:, :, ::-1], gallery[:, :, rng.permutation(some[5])], **rule)
    np.testing.assert_allclose(other, found, **close)
    more = np.concatenate([gallery, np.zeros_like(gallery[:, :, :2])], axis=2)
    np.testing.assert_allclose(reconstruction_distances(query, more, **rule), found, **close)
    turn = np.linalg.qr(rng.standard_normal((some[3], some[3])))[0]
    np.testing.assert_allclose(reconstruction_distances(turn @ query, turn @ gallery, **rule), found, **close)
    rule["strength"] *= 9
    np.testing.assert_allclose(reconstruction_distances(3 * query, 3 * gallery, **rule), 9 * found, **close)
    if penalty == "l1":  # a column that comes twice
        rule["strength"] = beta
        twice = np.concatenate([gallery, gallery], axis=2)
        np.testing.assert_allclose(reconstruction_distances(query, twice, **rule), found, **close)


def test_a_strong_penalty_leaves_everything():
    query, gallery = make(1)
    largest = 2 * np.abs(np.einsum("qdm,gdn->qgmn", query, gallery)).max()
    found = reconstruction_distances(2 * query, gallery, strength=2 * largest)
    np.testing.assert_allclose(found, np.full((3, 4), 4.0), rtol=1e-14)
    assert (reconstruction_distances(2 * query, gallery, strength=1.8 * largest) < 4 - 1e-6).any()


def test_one_location_by_hand():
    query, gallery = np.array([[[1.0], [1.0]]]), np.array([[[2.0], [0.0]]])
    found = reconstruction_distances(query, gallery, strength=0.8)  # w = (2 - 0.4) / 4 = 0.4, x - Yw = (0.2, 1)
    np.testing.assert_allclose(found, [[1.04]], rtol=1e-14)
    found = reconstruction_distances(query, gallery, penalty="ridge", strength=4.0)  # w = 2 / 8
    np.testing.assert_allclose(found, [[1.25]], rtol=1e-14)
    back = reconstruction_distances(gallery, query, strength=0.8)  # w = (2 - 0.4) / 2 = 0.8: not symmetric
    np.testing.assert_allclose(back, [[1.2**2 + 0.8**2]], rtol=1e-14)


@pytest.mark.parametrize("tile", [2**20, 300, 1])
@pytest.mark.parametrize("rule", [{"strength": 0.1}, {"penalty": "ridge", "strength": 0.01}], ids=str)
@pytest.mark.parametrize("others", [4, 11])
def test_candidates_and_tiles(monkeypatch, tile, rule, others):
    query, gallery = make(2, q=5, g=7, others=others)
    rule = rule | {"weights": np.random.default_rng(0).dirichlet(np.ones(5), size=5)}
    dense = reconstruction_distances(query, gallery, **rule)
    monkeypatch.setattr(reconstruction, "TILE", tile)
    monkeypatch.setattr(lasso, "ELEMENTS", tile)
    np.testing.assert_allclose(reconstruction_distances(query, gallery, **rule), dense, rtol=1e-10)
    table = np.array([[3, -1, 0, 3], [6, 5, 4, 2], [-1] * 4, [0, 0, 0, 1], [2, 3, -1, 6]], np.int32)
    found = reconstruction_distances(query, gallery, **rule, candidates=table)
    expected = np.where(table < 0, np.inf, dense[np.arange(5)[:, None], table])
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_gallery_images_are_factored_once(monkeypatch):
    made = []
    monkeypatch.setattr(reconstruction, "TILE", 200)
    monkeypatch.setattr(reconstruction, "make_gram", lambda y: made.append(len(y)) or lasso.make_gram(y))
    query, gallery = make(3, q=20, g=7)
    reconstruction_distances(query, gallery, strength=0.1)
    assert sum(made) == 7


def test_nothing_to_measure():
    query, gallery = make(0)
    for q, g in ((0, 4), (3, 0), (0, 0)):
        assert reconstruction_distances(query[:q], gallery[:g], strength=0.1).shape == (q, g)
    assert reconstruction_distances(query[:0, :, ::-1], gallery, strength=0.1).shape == (0, 4)
    none = np.full((3, 2), -1)
    assert np.isinf(reconstruction_distances(query, gallery[:0], strength=0.1, candidates=none)).all()
    assert reconstruction_distances(query, gallery, strength=0.1, candidates=none[:, :0]).shape == (3, 0)
    assert reconstruction_distances(np.zeros((1, 3, 2)), np.zeros((1, 3, 2)), strength=0.1).tolist() == [[0.0]]


def test_every_kind_of_array_comes_back(array_kind):
    query, gallery = make(4)
    sets = array_kind.make(query), array_kind.make(gallery)
    for penalty in ("l1", "ridge"):
        found = reconstruction_distances(*sets, penalty=penalty, strength=0.1)
        assert array_kind.has_container(found)
        assert str(found.dtype).removeprefix("torch.") == array_kind.distance_dtype
        expected = reference.distances(array_kind.rounded(query), array_kind.rounded(gallery), penalty, 0.1)
        np.testing.assert_allclose(as_float64(found), expected, atol=1e-6 if array_kind.single else 1e-9)
    np.testing.assert_array_equal(as_float64(sets[0]), array_kind.rounded(query))


def test_on_every_device(device):
    query, gallery = make(5)
    table = np.array([[0, 2], [-1, 1], [3, 0]])
    shares = np.full((3, 5), 0.2)
    for penalty in ("l1", "ridge"):
        for chosen in (None, table):
            options = {"weights": shares} | ({} if chosen is None else {"candidates": chosen})
            expected = reconstruction_distances(query, gallery, penalty=penalty, strength=0.1, **options)
            sets = [torch.from_numpy(x).to(device) for x in (query, gallery)]
            options = {name: torch.from_numpy(x).to(device) for name, x in options.items()}
            found = reconstruction_distances(*sets, penalty=penalty, strength=0.1, **options)
            assert found.device.type == device
            np.testing.assert_allclose(found.cpu().numpy(), expected, rtol=1e-9)


X, Y = make(0)
BAD = [
    ({"strength": 0}, ValueError, "strength must be above 0"),
    ({"strength": -1}, ValueError, "strength must be a finite number >= 0"),
    ({"strength": True}, TypeError, "strength must be"),
    ({"penalty": "l2"}, ValueError, "penalty must be one of 'l1', 'ridge'"),
    ({"reduce": "mean"}, ValueError, "reduce must be one of"),
    ({"query": X[0]}, ValueError, r"query must have shape \(Q, D, M\)"),
    ({"query": X[:, :, :0]}, ValueError, "at least one column"),
    ({"query": X[:, :0], "gallery": Y[:, :0]}, ValueError, "at least one row an image"),
    ({"gallery": Y[:, :5]}, ValueError, r"equal D, received \(3, 8, 5\) and \(4, 5, 6\)"),
    ({"gallery": torch.from_numpy(Y)}, TypeError, "query and gallery must be of the same kind"),
    ({"query": X.astype(int)}, TypeError, "query must hold float16"),
    ({"query": np.where(X[1, 2, 3] == X, np.nan, X)}, ValueError, r"query must be finite.*1 row\(s\): 1"),
    ({"gallery": 1e200 * Y}, ValueError, r"gallery must be at most 1e\+100"),
    ({"weights": np.full((3, 6), 1 / 6)}, ValueError, r"weights must have shape \(3, 5\)"),
    ({"weights": np.full((3, 5), 0.25)}, ValueError, "sum 1 for each query, received 1.25 in row 0; divide"),
    ({"weights": np.tile([-0.2, 0.3, 0.3, 0.3, 0.3], (3, 1))}, ValueError, "weights must be at least 0, received -0.2"),
    ({"weights": np.full((3, 5), np.nan)}, ValueError, "weights must be finite"),
    ({"candidates": np.zeros((2, 2), int)}, ValueError, r"candidates must have shape \(3, C\)"),
    ({"candidates": np.zeros((3, 2))}, TypeError, "candidates must hold integers.*received dtype float64"),
    (
        {"candidates": np.array([[0], [4], [0]])},
        ValueError,
        r"from -1 to 3, indices into gallery, received 4 at \(1, 0\)",
    ),
    ({"candidates": np.array([[0], [-2], [0]])}, ValueError, "received -2"),
    ({"candidates": np.array([[0], [2**64 - 1], [0]], np.uint64)}, ValueError, "received 18446744073709551615"),
]


@pytest.mark.parametrize(("changes", "error", "words"), BAD, ids=[next(iter(bad[0])) for bad in BAD])
def test_bad_input(changes, error, words):
    given = {"query": X, "gallery": Y, "strength": 0.1} | changes
    with pytest.raises(error, match=words):
        reconstruction_distances(given.pop("query"), given.pop("gallery"), **given)


def test_a_penalty_below_rounding_is_refused():
    query, gallery = np.ones((1, 4, 1)), np.ones((1, 4, 3))
    with pytest.raises(ValueError, match="strength 1e-20 is too small for these features"):
        reconstruction_distances(query, gallery, penalty="ridge", strength=1e-20)


def test_what_does_not_settle_is_told(monkeypatch):
    monkeypatch.setattr(lasso, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match=r"strength 0.1 is too small for these features: 60 location\(s\)"):
        reconstruction_distances(X, Y, strength=0.1)
