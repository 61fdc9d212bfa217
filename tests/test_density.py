"""id_density in both variants."""

import numpy as np
import pytest
import torch
from reference import density as reference
from support.arrays import ArrayKind

from pose2id import arrays, centralize, id_density

F32 = ArrayKind("numpy", "float32")
VARIANTS = {"paper": reference.paper, "released": reference.released}


def samples(n=60, d=6, seed=0):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, 9, n)
    return rng.standard_normal((9, d))[ids] + 0.3 * rng.standard_normal((n, d)), ids.tolist()


@pytest.mark.parametrize("variant", VARIANTS)
def test_equals_reference(array_kind, variant):
    x, ids = samples()
    result = id_density(array_kind.make(x), ids, variant=variant)
    assert type(result) is float
    # The features are rounded by their dtype; the rest is computed in at least float32.
    expected = VARIANTS[variant](array_kind.rounded(x), ids)
    assert result == pytest.approx(expected, rel=1e-5 if array_kind.single else 1e-12)


def test_paper_is_the_default():
    x, ids = samples()
    assert id_density(x, ids) == id_density(x, ids, variant="paper")


def test_worked_example():
    """Identity a: directions 0° and 90°, centre (1/2, 1/2), both at sqrt(1/2). Identity b: one sample."""
    x = np.array([[3.0, 0.0], [0.0, 0.1], [1.0, 1.0]])
    assert id_density(x, ["a", "a", "b"], variant="paper") == pytest.approx((np.sqrt(0.5) + 0) / 2)
    assert id_density(x, ["a", "a", "b"], variant="released") == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_identities_weigh_alike_in_the_paper_and_samples_in_the_released_code():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.standard_normal((2, 4)), np.ones((8, 4))])
    ids = [0] * 2 + [1] * 8
    within = reference.sample_distances(x, ids)[:2]
    assert id_density(x, ids, variant="paper") == pytest.approx(within.mean() / 2)
    assert id_density(x, ids, variant="released") == pytest.approx((within**2).sum() / 10)


LABELS = samples()[1]
LABEL_FORMS = {
    "array": np.array(LABELS),
    "tuple": tuple(LABELS),
    "torch": torch.tensor(LABELS),
    "strings": [f"id {i}" for i in LABELS],
    "array of strings": np.array([f"id {i}" for i in LABELS]),
    "far apart": [10**12 * i for i in LABELS],
    "negative": [-5 * i - 3 for i in LABELS],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("labels", LABEL_FORMS.values(), ids=LABEL_FORMS.keys())
def test_labels_of_every_form(variant, labels):
    x, ids = samples()
    assert id_density(x, labels, variant=variant) == pytest.approx(VARIANTS[variant](x, ids), rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_sample_per_identity_is_zero(variant):
    x, _ = samples(7)
    assert id_density(x, list(range(7)), variant=variant) == pytest.approx(0, abs=1e-12)
    assert id_density(x[:1], [5], variant=variant) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scale", [1e-20, 1e18])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_only_directions_count(variant, scale, dtype):
    x, ids = samples()
    lengths = np.random.default_rng(0).uniform(0.1, 10, (len(x), 1)) * scale
    expected = VARIANTS[variant](x, ids)
    result = id_density((x * lengths).astype(dtype), ids, variant=variant)
    assert result == pytest.approx(expected, rel=1e-5 if dtype is np.float32 else 1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_order_of_rows_does_not_matter(variant):
    x, ids = samples()
    order = np.random.default_rng(1).permutation(len(x))
    shuffled = id_density(x[order], np.array(ids)[order], variant=variant)
    assert shuffled == pytest.approx(id_density(x, ids, variant=variant), rel=1e-12)


@pytest.mark.parametrize("variant", VARIANTS)
def test_input_is_not_changed(variant):
    x, ids = samples()
    features = F32.make(x)
    before = features.copy()
    id_density(features, ids, variant=variant)
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_true_neighbours_make_identities_denser(variant):
    x, ids = samples(seed=2)
    assert id_density(centralize(x), ids, variant=variant) < id_density(x, ids, variant=variant)


def test_device(device):
    x, ids = samples()
    features = torch.tensor(x, device=device)
    assert id_density(features, torch.tensor(ids, device=device)) == pytest.approx(reference.paper(x, ids))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("elements", [1, 6, 40, 150])
def test_block_size_changes_nothing(monkeypatch, variant, elements):
    """Blocks of one row, of parts of an identity, of several identities."""
    monkeypatch.setattr(arrays, "CACHE_ELEMENTS", elements)
    x, ids = samples()
    for labels in (ids, [3] * len(ids), list(range(len(ids)))[::-1], [0] * 50 + list(range(1, 11))):
        expected = VARIANTS[variant](x, labels)
        assert id_density(x, labels, variant=variant) == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("variant", VARIANTS)
def test_file(tmp_path, variant):
    x, ids = samples()
    np.save(tmp_path / "x.npy", x)
    result = id_density(np.load(tmp_path / "x.npy", mmap_mode="r"), ids, variant=variant)
    assert result == id_density(x, ids, variant=variant)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("form", [np.array, lambda ids: np.array(ids).astype(str), list, torch.tensor])
def test_junk_is_nobody(variant, form):
    """A Market-like share of it: the number is that of the people alone, and with `junk=True` as it was counted."""
    rng = np.random.default_rng(4)
    x = rng.standard_normal((300, 8)).astype(np.float32)
    ids = np.where(rng.random(300) < 0.2, -1, rng.integers(-2, 20, 300))
    kept = ids != -1
    found = id_density(x, form(ids.tolist()), variant=variant)
    assert found == pytest.approx(id_density(x[kept], ids[kept] + 100, variant=variant), rel=1e-12)
    assert found == pytest.approx(VARIANTS[variant](x[kept], ids[kept]), rel=1e-6)
    counted = id_density(x, form(ids.tolist()), variant=variant, junk=True)
    assert counted == pytest.approx(id_density(x, ids + 100, variant=variant), rel=1e-12)
    assert counted > found + 0.001


def test_junk_alone_has_no_density():
    with pytest.raises(ValueError, match=r"ids must name at least one person, all 3 are junk \(-1\); junk=True counts"):
        id_density(np.eye(3), ["-1"] * 3)
    assert id_density(np.eye(3), [-1] * 3, junk=True, variant="released") == pytest.approx(2 / 3)
    with pytest.raises(TypeError, match="junk must be True or False, received 1"):
        id_density(np.eye(3), [1, 2, 3], junk=1)
