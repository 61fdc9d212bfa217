"""Parts from maps and keypoints: golden numbers, the naive versions, corner cases, wrong arguments."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import pooling as reference
from reference.centralization import unit
from support.arrays import as_float64
from support.golden import GOLDEN

from pose2id.parts import (
    bilinear_pool,
    centralize_parts,
    concatenate_parts,
    fuse_tanh,
    location_pyramid,
    mask_visibility,
    neighborhood_differences,
    part_boxes,
    pool_boxes,
    pool_masks,
    pool_stripes,
)
from pose2id.poses import Pose, representative_poses


@pytest.fixture(scope="module")
def numbers():
    with np.load(GOLDEN / "parts" / "pooling.npz") as file:
        return dict(file)


def equal(found, expected, rtol=1e-9):
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-13)


def sure(joints):
    """Joints with a confidence of 1."""
    return np.concatenate([joints, np.ones_like(joints[:, :, :1])], axis=2)


@pytest.mark.parametrize("height", [24, 26])
def test_stripes_are_those_of_pcb(numbers, height):
    maps = numbers[f"pcb.map_h{height}"]
    equal(pool_stripes(maps), numbers[f"pcb.adaptive_mean_h{height}"].transpose(0, 2, 1))
    windows = concatenate_parts(pool_stripes(maps, rule="windows")).reshape(3, 6, 10)
    equal(windows, numbers[f"pcb.windows_unit_h{height}"].transpose(0, 2, 1))
    row = concatenate_parts(pool_stripes(maps)).reshape(3, 6, 10).transpose(0, 2, 1).reshape(3, 60) / np.sqrt(6)
    equal(row, numbers[f"pcb.adaptive_descriptor_h{height}"])
    flat = concatenate_parts(pool_stripes(maps, rule="windows"))
    found = ((flat[:, None] - flat) ** 2).sum(2)
    equal(found, numbers[f"pcb.windows_distance_squared_h{height}"], 1e-7)


def test_masks_are_those_of_rpp(numbers):
    maps, masks = numbers["rpp.feature_map"], numbers["rpp.assignment"]
    equal(pool_masks(maps, masks), numbers["rpp.weighted_mean"])
    found = 6 * pool_masks(maps, masks, divide="area")
    equal(found, numbers["rpp.parts_before_norm"])
    equal(concatenate_parts(found).reshape(2, 6, 32), numbers["rpp.parts_unit"])


def test_masks_are_those_of_bpbreid(numbers):
    arrays = {key.partition(".")[2]: value for key, value in numbers.items() if key.startswith("maskpool_bpbreid.")}
    maps, masks = arrays["feature_map"], arrays["masks"]
    equal(pool_masks(maps, masks[:, 1:]), arrays["gwap_none_binary_parts"])
    equal(pool_masks(maps, masks[:, 1:], divide="area"), arrays["gap_none_binary_parts"])
    equal(pool_masks(maps, masks[:, :1], divide="area")[:, 0], arrays["background"])
    foreground = arrays["masks_at_map"].max(axis=1, keepdims=True)
    equal(pool_masks(maps, foreground, divide="area")[:, 0], arrays["gwap_none_binary_foreground"])
    equal(pool_stripes(maps, 1)[:, 0], arrays["global"])
    seen = mask_visibility(masks, size=maps.shape[2:])
    assert seen.dtype == bool
    np.testing.assert_array_equal(seen, arrays["gwap_none_binary_visibility"])
    soft = mask_visibility(masks, binary=False, size=maps.shape[2:])
    equal(soft, arrays["gwap_none_continuous_visibility"])


def test_masks_are_those_of_spreid(numbers):
    maps, masks = numbers["spreid.feature_map"], numbers["spreid.region_probabilities"]
    parts = pool_masks(maps, masks)
    equal(parts, numbers["spreid.region_features"])
    found = np.concatenate([parts[:, 0], parts[:, 1:].max(1), pool_stripes(maps, 1)[:, 0]], axis=1)
    equal(found, numbers["spreid.descriptor"])


@pytest.mark.parametrize("shape", ["market", "square", "wide"])
def test_boxes_are_those_of_spindle(numbers, shape):
    joints = sure(numbers[f"spindle_boxes.{shape}_joints"])
    size = tuple(numbers[f"spindle_boxes.{shape}_size"].tolist())
    boxes, seen = part_boxes(joints, size)
    equal(boxes, numbers[f"spindle_boxes.{shape}_boxes"])
    assert seen.all()
    assert seen.dtype == bool
    equal(reference.spindle_boxes(joints, *size, 0.3)[0], boxes)


def test_boxes_are_pooled_as_in_caffe(numbers):
    maps, boxes = numbers["roi_max_pooling.feature_map"], numbers["roi_max_pooling.boxes"]
    pooled = numbers["roi_max_pooling.pooled"]
    found = pool_boxes(np.stack([maps] * len(boxes)), boxes, (96, 96), size=(6, 6))
    np.testing.assert_array_equal(found, pooled)


@pytest.mark.parametrize("size", [None, (3, 2)])
def test_gradients_of_the_largest_go_to_one_of_them(size):
    """Whatever is equal, outside or empty: the same numbers as without, and each number's gradient at one location."""
    maps = torch.from_numpy(np.random.default_rng(0).integers(-1, 2, (6, 3, 9, 7))).double()
    boxes = torch.from_numpy(draw_boxes(0, 6, 5, 9, 7))
    asked = maps.clone().requires_grad_()
    found = pool_boxes(asked, boxes, (18, 14), size=size)
    assert torch.equal(found, pool_boxes(maps, boxes, (18, 14), size=size))
    weight = torch.rand_like(found)
    (found * weight).sum().backward()
    there = pool_boxes(maps + 2, boxes, (18, 14), size=size) > 0
    assert not there.all()
    np.testing.assert_allclose(asked.grad.sum().item(), weight[there].sum().item())
    np.testing.assert_allclose((asked.grad * maps).sum().item(), (weight * found).sum().item())


def test_the_others_are_the_golden_ones(numbers):
    appearance, pose = numbers["pabp.appearance"], numbers["pabp.pose"]
    equal(bilinear_pool(appearance, pose, normalize=False), numbers["pabp.bilinear"])
    equal(bilinear_pool(appearance, pose), numbers["pabp.bilinear_unit"])
    np.testing.assert_array_equal(
        location_pyramid(numbers["dsr_pyramid.feature_map"]), numbers["dsr_pyramid.locations"]
    )
    k, other = neighborhood_differences(numbers["idla.f"], numbers["idla.g"])
    equal(k, numbers["idla.k"])
    for found, name in ((k, "k_tiled"), (other, "k_prime_tiled")):
        equal(found.transpose(0, 1, 2, 4, 3, 5).reshape(2, 3, 30, 20), numbers[f"idla.{name}"])
    names = ("global_feature", "part_feature", "weight", "bias")
    equal(fuse_tanh(*(numbers[f"pdc_fusion.{name}"] for name in names)), numbers["pdc_fusion.fused"])


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def soften(masks):
    return np.exp(masks) / np.exp(masks).sum(1, keepdims=True)


def draw_boxes(seed, n, p, height, width):
    """Some lie partly or wholly outside, some have no area, some are at halves."""
    rng = np.random.default_rng(seed)
    boxes = rng.integers(-2 * height, 4 * height, (n, p, 4)) / 2
    boxes[..., 2:] = boxes[..., :2] + rng.integers(0, 2 * width, (n, p, 2)) / 2
    boxes[rng.random((n, p)) < 0.2] = 0
    return boxes


EVERY = {
    "stripes": (lambda m: pool_stripes(m, 3), lambda m: reference.stripes(m, 3), ["maps"]),
    "windows": (
        lambda m: pool_stripes(m, 3, rule="windows", reduce="max"),
        lambda m: reference.stripes(m, 3, "windows", "max"),
        ["maps"],
    ),
    "masks": (pool_masks, reference.masked, ["maps", "masks"]),
    "area": (
        lambda m, w: pool_masks(m, w, divide="area"),
        lambda m, w: reference.masked(m, w, "area"),
        ["maps", "masks"],
    ),
    "seen": (
        lambda w: mask_visibility(w, binary=False),
        lambda w: reference.mask_visibility(w, False),
        ["masks"],
    ),
    "boxes": (
        lambda m, b: pool_boxes(m, b, (11, 9)),
        lambda m, b: reference.pooled_boxes(m, b, 11, 9, "max", (1, 1))[..., 0, 0],
        ["maps", "boxes"],
    ),
    "bins": (
        lambda m, b: pool_boxes(m, b, (11, 9), reduce="mean", size=(2, 3)),
        lambda m, b: reference.pooled_boxes(m, b, 11, 9, "mean", (2, 3)),
        ["maps", "boxes"],
    ),
    "bilinear": (lambda m, o: bilinear_pool(m, o, normalize=False), reference.bilinear, ["maps", "other"]),
    "pyramid": (
        lambda m: location_pyramid(m, (1, 3), 2),
        lambda m: reference.pyramid(m, (1, 3), 2),
        ["maps"],
    ),
    "neighborhood": (
        lambda m, o: neighborhood_differences(m, o, 3)[1],
        lambda m, o: reference.differences(o, m, 3),
        ["maps", "other"],
    ),
}
VALUES = {
    "maps": draw(1, 3, 4, 7, 5),
    "other": draw(2, 3, 4, 7, 5),
    "masks": soften(3 * draw(3, 3, 3, 4, 6)),
    "boxes": draw_boxes(4, 3, 5, 11, 9),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_kind_of_array(array_kind, name):
    pool, naive, names = EVERY[name]
    found = pool(*(array_kind.make(VALUES[one]) for one in names))
    assert array_kind.holds(found)
    expected = naive(*(array_kind.rounded(VALUES[one]) for one in names))
    np.testing.assert_allclose(as_float64(found), expected, rtol=array_kind.epsilon, atol=array_kind.epsilon)


@pytest.mark.parametrize("name", EVERY)
def test_no_images_and_one(name):
    pool, _, names = EVERY[name]
    whole = pool(*(VALUES[one] for one in names))
    assert pool(*(VALUES[one][:0] for one in names)).shape == (0, *whole.shape[1:])
    equal(pool(*(VALUES[one][2:] for one in names)), whole[2:])


@pytest.mark.parametrize("name", EVERY)
def test_on_every_device(device, name):
    pool, _, names = EVERY[name]
    found = pool(*(torch.tensor(VALUES[one]).to(device) for one in names))
    assert found.device.type == device
    equal(as_float64(found), pool(*(VALUES[one] for one in names)))


@pytest.mark.parametrize("name", EVERY)
def test_blocks_change_nothing(name, monkeypatch):
    pool, _, names = EVERY[name]
    whole = pool(*(VALUES[one] for one in names))
    monkeypatch.setattr("pose2id.arrays.BLOCK_ELEMENTS", 1)
    equal(pool(*(VALUES[one] for one in names)), whole)


seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, height=st.integers(1, 9), count=st.integers(1, 9), rule=st.sampled_from(["adaptive", "windows"]))
def test_stripes_are_the_naive_ones(seed, height, count, rule):
    maps = draw(seed, 2, 2, height, 3)
    if rule == "windows" and count > height:
        with pytest.raises(ValueError, match="count must be at most"):
            pool_stripes(maps, count, rule=rule)
    else:
        for reduce in ("mean", "max"):
            equal(pool_stripes(maps, count, rule=rule, reduce=reduce), reference.stripes(maps, count, rule, reduce))


@given(seed=seeds, size=st.tuples(st.integers(1, 4), st.integers(1, 4)))
def test_boxes_are_pooled_as_the_naive_ones(seed, size):
    maps, boxes = draw(seed, 2, 2, 6, 4), draw_boxes(seed, 2, 3, 12, 8)
    for reduce in ("max", "mean"):
        expected = reference.pooled_boxes(maps, boxes, 12, 8, reduce, size)
        equal(pool_boxes(maps, boxes, (12, 8), reduce=reduce, size=size), expected)


@given(seed=seeds)
def test_boxes_of_unsure_joints(seed):
    rng = np.random.default_rng(seed)
    joints = np.concatenate([rng.uniform(-20, 120, (3, 14, 2)), rng.random((3, 14, 1))], axis=2)
    threshold = float(rng.uniform(0.3, 1))
    boxes, seen = part_boxes(joints, (90, 60), threshold=threshold)
    expected, shown = reference.spindle_boxes(joints, 90, 60, threshold)
    np.testing.assert_array_equal(seen, shown)
    equal(boxes, expected)
    garbage = joints.copy()
    garbage[joints[:, :, 2] <= threshold, :2] = np.nan
    np.testing.assert_array_equal(part_boxes(garbage, (90, 60), threshold=threshold)[0], boxes)
    maps = draw(seed, 3, 2, 9, 6)
    assert not pool_boxes(maps, boxes, (90, 60))[~seen].any()  # zeros: hidden to centralize_parts too
    assert np.isfinite(centralize_parts(pool_boxes(maps, boxes, (90, 60)), seen).parts).all()


def as_coco(joints):
    """The 17 of COCO from 18."""
    order = [0, 15, 14, 17, 16, 5, 2, 6, 3, 7, 4, 11, 8, 12, 9, 13, 10]
    return joints[:, order]


@pytest.mark.parametrize("scheme", ["spindle", "three"])
def test_17_18_and_poses_agree(scheme):
    joints = np.random.default_rng(5).uniform(5, 55, (6, 18, 2))
    joints[:, 1] = (joints[:, 2] + joints[:, 5]) / 2  # the neck, as COCO's users make it
    boxes, seen = part_boxes(sure(joints), (128, 64), scheme=scheme)
    assert seen.all()
    equal(part_boxes(as_coco(sure(joints)), (128, 64), scheme=scheme)[0], boxes)
    poses = [Pose.from_pixels(one, 64, 128) for one in joints]
    equal(part_boxes(poses, (128, 64), scheme=scheme)[0], boxes)
    equal(part_boxes(poses[0], (128, 64), scheme=scheme)[0], boxes[:1])
    face = joints.copy()
    face[:, 14:] = joints[:, :1]  # eyes and ears where the nose is: then 14 joints say the same
    of_14 = part_boxes(sure(face[:, :14]), (128, 64), scheme=scheme)[0]
    equal(of_14, part_boxes(sure(face), (128, 64), scheme=scheme)[0])


@pytest.mark.parametrize(
    ("known", "regions"),
    [
        ([], []),
        ([9], ["leg", "right leg"]),
        ([4], ["body", "right arm"]),
        ([5], ["head", "body", "left arm"]),
        ([16], ["head"]),
        ([1], ["head"]),
        ([11], ["body", "leg", "left leg"]),
    ],
)
def test_a_region_without_a_valid_joint_is_invisible(known, regions):
    joints = np.full((1, 18, 3), 30.0)
    joints[:, :, 2] = 0.3  # just not above the threshold, in float32 too
    joints[:, known, 2] = 0.31
    for dtype in ("float16", "float32", "float64"):
        boxes, seen = part_boxes(joints.astype(dtype), (128, 64))
        assert boxes.dtype == dtype
        assert [name for name, one in zip(reference.SPINDLE, seen[0], strict=True) if one] == regions
        assert not boxes[~seen].any()
        assert (boxes[seen][:, 2:] > boxes[seen][:, :2]).all()
    points = joints[0, :, :2] / (64, 128)
    points[[j for j in range(18) if j not in known]] = np.nan
    np.testing.assert_array_equal(part_boxes(Pose(points), (128, 64))[1], seen)


def test_three_regions():
    boxes, seen = part_boxes(representative_poses(), (128, 64), scheme="three")
    assert seen.all()
    middle = (boxes[:, :, 1] + boxes[:, :, 3]) / 2
    assert (np.diff(middle, axis=1) > 15).all()  # head, upper body, lower body, from above
    assert (boxes >= 0).all()
    assert (boxes[:, :, 2:] <= (64, 128)).all()
    none, seen = part_boxes([], (128, 64), scheme="three")
    assert none.shape == (0, 3, 4)
    assert seen.shape == (0, 3)


def test_an_empty_mask_is_a_hidden_part():
    masks = np.zeros((1, 2, 3, 2))
    masks[:, 1, 1] = 1
    maps = draw(3, 1, 4, 3, 2)
    parts = pool_masks(maps, masks)
    assert not parts[:, 0].any()
    equal(parts[:, 1], maps[:, :, 1].mean(2))
    equal(pool_masks(maps, masks.astype(bool)), parts)
    equal(pool_masks(torch.tensor(maps), torch.tensor(masks).bool()), parts)


def test_of_equally_likely_parts_the_first_is_seen():
    assert mask_visibility(np.full((1, 3, 2, 2), 0.25)).tolist() == [[False, False]]
    masks = np.array([0.2, 0.4, 0.4]).reshape(1, 3, 1, 1)
    assert mask_visibility(masks).tolist() == [[True, False]]


@pytest.mark.parametrize("normalize", ["part", "whole", None])
def test_concatenation(array_kind, normalize):
    parts, whole = draw(1, 3, 2, 4), draw(2, 3, 5)
    parts[1, 1] = 0
    found = concatenate_parts(array_kind.make(parts), array_kind.make(whole), normalize=normalize)
    assert array_kind.holds(found)
    vectors = [array_kind.rounded(whole), *array_kind.rounded(parts).transpose(1, 0, 2)]
    if normalize == "part":
        vectors = [unit(one) for one in vectors]
    expected = np.concatenate(vectors, axis=1)
    expected = unit(expected) if normalize == "whole" else expected
    np.testing.assert_allclose(as_float64(found), expected, rtol=array_kind.epsilon, atol=array_kind.epsilon)


def test_float16_sums_in_float32():
    maps = np.full((1, 1, 64, 64), 60000, np.float16)  # the sum is inf in float16
    assert pool_stripes(maps, 1).item() == 60000
    assert pool_masks(maps, np.ones_like(maps)).item() == 60000
    assert pool_boxes(maps, np.array([[[0.0, 0, 64, 64]]]), (64, 64), reduce="mean").item() == 60000


def broken(name, at, value=np.nan):
    array = VALUES[name].copy()
    array[at] = value
    return array


MAPS, MASKS, BOXES = VALUES["maps"], VALUES["masks"], VALUES["boxes"]
JOINTS = sure(draw(1, 2, 14, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: pool_stripes(broken("maps", (1, 0, 0, 0))), ValueError, r"maps must be finite.* 1 row\(s\): 1;"),
        (lambda: pool_stripes(broken("maps", 2, np.inf)), ValueError, r"maps must be finite.* 1 row\(s\): 2;"),
        (lambda: pool_stripes(MAPS[0]), ValueError, r"maps must have shape \(N, C, H, W\)"),
        (lambda: pool_stripes(MAPS[:, :0]), ValueError, "no empty axis"),
        (lambda: pool_stripes(MAPS[:, :, :0]), ValueError, "no empty axis"),
        (lambda: pool_stripes(MAPS.astype(int)), TypeError, "maps must hold float16"),
        (lambda: pool_stripes(MAPS.tolist()), TypeError, "maps must be a numpy array or a torch tensor"),
        (lambda: pool_stripes(MAPS, 0), ValueError, "count must be an integer >= 1"),
        (lambda: pool_stripes(MAPS, rule="equal"), ValueError, "rule must be one of"),
        (lambda: pool_stripes(MAPS, reduce="sum"), ValueError, "reduce must be one of"),
        (lambda: pool_masks(MAPS, MASKS[:2]), ValueError, "received 3 and 2 rows"),
        (lambda: pool_masks(MAPS, torch.tensor(MASKS)), TypeError, "must be of the same kind"),
        (lambda: pool_masks(MAPS, broken("masks", (0, 1))), ValueError, r"masks must be finite.* 1 row\(s\): 0;"),
        (lambda: pool_masks(MAPS, broken("masks", (2, 1), -1)), ValueError, r"masks must be >= 0.* row\(s\): 2;"),
        (lambda: pool_masks(MAPS, MASKS, divide="none"), ValueError, "divide must be one of"),
        (lambda: mask_visibility(MASKS[:, :1]), ValueError, "a background and at least one part"),
        (lambda: mask_visibility(3 * MASKS, binary=False), ValueError, "probabilities from 0 to 1"),
        (lambda: mask_visibility(MASKS, binary=1), TypeError, "binary must be True or False"),
        (lambda: mask_visibility(MASKS, size=4), TypeError, r"size must be a pair \(height, width\)"),
        (lambda: part_boxes(JOINTS[:, :13], (9, 9)), ValueError, "14, 17 or 18 joints"),
        (lambda: part_boxes(JOINTS[:, :, :2], (9, 9)), ValueError, "14, 17 or 18 joints"),
        (lambda: part_boxes([JOINTS], (9, 9)), TypeError, "keypoints must be a numpy array or a torch tensor"),
        (lambda: part_boxes("abc", (9, 9)), TypeError, "a Pose or a sequence of Pose, received str"),
        (lambda: part_boxes("", (9, 9)), TypeError, "a Pose or a sequence of Pose, received str"),
        (lambda: part_boxes([1, 2], (9, 9)), TypeError, "a Pose or a sequence of Pose, received list"),
        (lambda: part_boxes(JOINTS, (9, 0)), ValueError, "the width of image_size must be an integer >= 1"),
        (lambda: part_boxes(JOINTS, (9,)), TypeError, "image_size must be a pair"),
        (lambda: part_boxes(JOINTS, (9, 9), scheme="glad"), ValueError, "scheme must be one of"),
        (lambda: part_boxes(JOINTS, (9, 9), threshold=np.nan), ValueError, "threshold must be a finite number"),
        (lambda: pool_boxes(MAPS, BOXES[:, :, :3], (9, 9)), ValueError, r"boxes must have shape \(N, P, 4\)"),
        (lambda: pool_boxes(MAPS, BOXES[:1], (9, 9)), ValueError, "received 3 and 1 rows"),
        (lambda: pool_boxes(MAPS, broken("boxes", (1, 2)), (9, 9)), ValueError, r"boxes must be finite.*row\(s\): 1"),
        (lambda: pool_boxes(MAPS, broken("boxes", (0, 1, 0), 99), (9, 9)), ValueError, r"x1 <= x2.*row\(s\): 0"),
        (lambda: pool_boxes(MAPS, BOXES, (9, 9), size=(0, 2)), ValueError, "the height of size"),
        (lambda: bilinear_pool(MAPS, MAPS[:, :, :3]), ValueError, "must have equal H and W"),
        (lambda: bilinear_pool(MAPS, broken("other", 0)), ValueError, r"pose must be finite.* 1 row\(s\): 0;"),
        (lambda: location_pyramid(MAPS, (2, 6)), ValueError, "each of sizes must be an integer from 1 to 5"),
        (lambda: location_pyramid(MAPS, ()), TypeError, "at least one integer"),
        (lambda: location_pyramid(MAPS, stride=0), ValueError, "stride must be an integer >= 1"),
        (lambda: neighborhood_differences(MAPS, MAPS, 4), ValueError, "size must be odd"),
        (lambda: neighborhood_differences(MAPS, MAPS[:, :2]), ValueError, "f and g must have equal shapes"),
        (lambda: concatenate_parts(MAPS[0], normalize="all"), ValueError, "normalize must be one of"),
        (lambda: concatenate_parts(MAPS[:, 0], MAPS[0, 0]), ValueError, "received 3 and 7 rows"),
        (
            lambda: fuse_tanh(MAPS[0, 0], MAPS[0, 0], np.ones(4), np.ones(5)),
            ValueError,
            r"weight must have shape \(5,\)",
        ),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    "pool",
    [
        lambda maps: pool_masks(maps, torch.tensor(MASKS).float()),
        lambda maps: pool_masks(maps, torch.tensor(MASKS).float(), divide="area"),
        lambda maps: bilinear_pool(maps, maps),
        lambda maps: pool_boxes(maps, torch.tensor(BOXES), (9, 9), reduce="mean"),
    ],
)
def test_autocast_changes_no_number(pool):
    maps = torch.tensor(MAPS).float()
    expected = pool(maps)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = pool(maps)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
