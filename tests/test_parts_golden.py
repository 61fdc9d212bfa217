"""Further published rules, put together from the public functions, against the numbers of public code."""

import numpy as np
import pytest
import torch
from support.golden import GOLDEN

from pose2id.parts import (
    aligned_distances,
    bilinear_pool,
    lasso,
    location_pyramid,
    mask_visibility,
    neighborhood_differences,
    pool_masks,
    pool_stripes,
    reconstruction_distances,
)


@pytest.fixture(scope="module")
def numbers():
    with np.load(GOLDEN / "parts" / "further.npz") as file:
        return dict(file)


def of(numbers, system):
    return {key.partition(".")[2]: value for key, value in numbers.items() if key.startswith(f"{system}.")}


def equal(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-13)


def test_target_masks_of_bpbreid(numbers):
    """Hard: masks where the background is likeliest become 1e-12. Soft: masks are multiplied by themselves."""
    arrays = of(numbers, "bpbreid")
    maps, masks, foreground = arrays["feature_map"], arrays["masks_at_map"], arrays["foreground_mask"][:, None]
    equal(masks.max(axis=1, keepdims=True), foreground)
    target = masks.max(axis=1, keepdims=True) > 1 - masks.sum(axis=1, keepdims=True)
    for rule, change in (("soft", np.square), ("hard", lambda mask: np.where(target, mask, 1e-12))):
        equal(pool_masks(maps, change(masks)), arrays[f"gwap_{rule}_binary_parts"])
        found = pool_masks(maps, change(foreground), divide="area")[:, 0]
        equal(found, arrays[f"gwap_{rule}_binary_foreground"])
    equal(pool_masks(maps, masks, reduce="max"), arrays["gmp_none_binary_parts"])
    for rule in ("gmp", "gap"):
        equal(pool_masks(maps, foreground, divide="area")[:, 0], arrays[f"{rule}_none_binary_foreground"])
    # the foreground is as visible as the most visible channel, the background's included
    size = maps.shape[2:]
    background = np.zeros_like(arrays["masks"][:, :1])
    for binary, name in ((True, "binary"), (False, "continuous")):
        seen = mask_visibility(np.concatenate([background, arrays["masks"]], axis=1), binary=binary, size=size)
        np.testing.assert_allclose(seen.max(axis=1), arrays[f"gwap_none_{name}_foreground_visibility"], rtol=1e-9)


def test_compact_bilinear_pooling(numbers):
    arrays = of(numbers, "pabp")
    maps = arrays["appearance"], arrays["pose"]
    sketches = tuple(arrays[f"sketch_{name}"].astype(np.float64) for name in ("appearance", "pose"))
    locations, width = np.prod(maps[0].shape[2:]), sketches[0].shape[1]
    found = bilinear_pool(*maps, sketches=sketches, normalize=False)
    np.testing.assert_allclose(found * locations * width, arrays["compact_released_float32"], atol=1e-3)
    np.testing.assert_allclose(bilinear_pool(*maps, sketches=sketches), arrays["compact_unit_float32"], atol=1e-6)
    narrow = bilinear_pool(*(part.astype(np.float32) for part in maps), sketches=sketches)
    assert narrow.dtype == np.float32
    np.testing.assert_allclose(narrow, arrays["compact_unit_float32"], atol=1e-6)
    equal(bilinear_pool(*maps, normalize=False).reshape(3, 5, 12), arrays["bilinear_matrix"])


def test_compact_bilinear_pooling_is_a_sketch_of_the_whole():
    """With one entry a row, the entry of channels (a, p) goes to the sum of both places, with both signs."""
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((2, 3, 4, 2)), rng.standard_normal((2, 5, 4, 2))
    places = [rng.integers(0, 7, part.shape[1]) for part in maps]
    signs = [rng.choice([-1.0, 1.0], part.shape[1]) for part in maps]
    sketches = tuple(sign[:, None] * np.eye(7)[place] for sign, place in zip(signs, places, strict=True))
    whole = bilinear_pool(*maps, normalize=False).reshape(2, 5, 3)
    expected = np.zeros((2, 7))
    for a in range(3):
        for p in range(5):
            expected[:, (places[0][a] + places[1][p]) % 7] += signs[0][a] * signs[1][p] * whole[:, p, a]
    equal(bilinear_pool(*maps, sketches=sketches, normalize=False), expected)
    assert bilinear_pool(*(part[:0] for part in maps), sketches=sketches).shape == (0, 7)


@pytest.mark.parametrize(
    ("sketches", "error", "message"),
    [
        (np.ones((2, 3)), TypeError, "a pair of arrays"),
        ((np.ones((2, 3)),), TypeError, "a pair of arrays"),
        ((np.ones((2, 3)), np.ones((4, 2))), ValueError, r"shapes \(2, d\) and \(4, d\), received"),
        ((np.ones((4, 3)), np.ones((2, 3))), ValueError, r"shapes \(2, d\) and \(4, d\), received"),
        ((np.ones((2, 3)), np.full((4, 3), np.nan)), ValueError, r"sketches\[1\] must be finite"),
    ],
)
def test_bad_sketches(sketches, error, message):
    with pytest.raises(error, match=message):
        bilinear_pool(np.ones((1, 2, 3, 3)), np.ones((1, 4, 3, 3)), sketches=sketches)


def test_features_of_alignedreid(numbers):
    arrays = of(numbers, "aligned")
    maps = arrays["feature_map"]
    local = pool_stripes(maps, maps.shape[2], reduce="max")
    local /= np.linalg.norm(local, axis=2, keepdims=True)
    equal(local.transpose(0, 2, 1), arrays["local_feature"])
    equal(pool_stripes(maps, 1)[:, 0], arrays["global_feature"])


def test_steps_of_alignedreid(numbers):
    arrays = of(numbers, "stripes")
    local, q = arrays["local"], int(arrays["n_query"])
    one = aligned_distances(local[:3].reshape(24, 1, -1), local[q : q + 3].reshape(24, 1, -1))  # one stripe each
    cells = one.reshape(3, 8, 3, 8).transpose(0, 2, 1, 3)
    equal(cells, arrays["stripe_normalised"])
    equal(2 * np.arctanh(cells), arrays["stripe_euclidean"])
    pairs = aligned_distances(local[:q], local[q : 2 * q], candidates=np.arange(q)[:, None])
    equal(pairs[:, 0], arrays["dmli_paired_torch"])
    equal(aligned_distances(local[:q], local[q:]), arrays["dmli_huang"])


def test_locations_of_dsr(numbers):
    arrays = of(numbers, "dsr_pyramid")
    places = location_pyramid(arrays["feature_map"])
    scores = 1 / (1 + np.exp(-np.einsum("ncm,c->nm", places, arrays["mask_weight"]) - arrays["mask_bias"]))
    equal(scores, arrays["location_scores"])
    weights = scores / scores.sum(axis=1, keepdims=True)
    equal(weights, arrays["location_weights"])
    first = weights[:, :48] / weights[:, :48].sum(axis=1, keepdims=True)
    equal(np.einsum("ncm,nm->nc", places[:, :, :48], first), arrays["foreground_feature"])
    # DSR.m takes squares of 1 to 4, and the last maximum twice
    atoms = of(numbers, "dsr_joint")
    equal(atoms_of_dsr(atoms["gallery_maps"])[0].T, atoms["atoms_of_map_0"])


def atoms_of_dsr(maps):
    """The locations (G, D, M) of maps (G, H, W, D) as DSR.m takes them, of length 1."""
    places = location_pyramid(maps.transpose(0, 3, 1, 2), (1, 2, 3, 4), 1)
    places = np.concatenate([places, places[:, :, -1:]], axis=2)
    return places / np.linalg.norm(places, axis=1, keepdims=True)


def solve(query, gallery, beta, alpha=0.0):
    """The coefficients (n, M2, M) of pairs of images (n, D, M), (n, D, M2), DSR.m's similarity guided by `alpha`."""
    x, y = torch.from_numpy((1 + alpha) * query), torch.from_numpy(gallery)
    return lasso.solve_lasso(lasso.make_gram(y), y.mT @ x, x.square().sum(dim=1).sqrt(), beta).numpy()


@pytest.mark.parametrize("alpha", ["0", "1.2"])
def test_scores_of_dsr_by_all_images_at_once(numbers, alpha):
    """DSR.m reconstructs from all gallery images together, and scores each by its share; not offered, but solved."""
    arrays = of(numbers, "dsr_joint")
    atoms = atoms_of_dsr(arrays["gallery_maps"])
    probe = arrays["probe_map"].reshape(-1, arrays["probe_map"].shape[2]).T
    probe = probe / np.linalg.norm(probe, axis=0)
    # it halves the square
    w = solve(probe[None], np.concatenate(atoms, axis=1)[None], 2 * arrays["gamma"].item(), float(alpha))[0]
    left = [((probe - own @ part) ** 2).sum(axis=0).mean() for own, part in zip(atoms, np.split(w, 4), strict=True)]
    equal(left, arrays[f"alpha{alpha}_score"], 1e-9)


@pytest.mark.parametrize("beta", [0.05, 0.4])
def test_coefficients_of_dsr(numbers, beta):
    """The published coefficients of a pair leave what the distance says, and reach the objective."""
    arrays = of(numbers, "l1")
    query, gallery, w = arrays["query"][0], arrays["gallery"][0], arrays[f"beta{beta}_coefficients_00"]
    left = ((query - gallery @ w) ** 2).sum(axis=0)
    equal(solve(query[None], gallery[None], beta)[0], w, 1e-7)
    pairs = (np.broadcast_to(part, (5, 7, 40, 18)) for part in (arrays["query"][:, None], arrays["gallery"]))
    used = solve(*(np.ascontiguousarray(part).reshape(35, 40, 18) for part in pairs), beta) != 0
    np.testing.assert_array_equal(used.sum(axis=(1, 2)).reshape(5, 7), arrays[f"beta{beta}_nonzeros"])
    found = reconstruction_distances(query[None], gallery[None], penalty="l1", strength=beta)
    equal(found[0, 0], left.mean(), 1e-7)
    equal(left.mean() + beta * np.abs(w).sum() / w.shape[1], arrays[f"beta{beta}_objective"][0, 0], 1e-7)


def test_the_other_port_of_idla(numbers):
    """It unfolds the first map and subtracts the second's centre, absolute: the sign and the roles of ours."""
    arrays = of(numbers, "idla")
    f, g = arrays["f"], arrays["g"]
    _, other = neighborhood_differences(f, g)  # g - neighbourhood of f
    found = np.abs(other).transpose(0, 1, 2, 4, 3, 5).reshape(2, 3, 30, 20)
    equal(found, arrays["absolute_neighbourhood_minus_centre"])
