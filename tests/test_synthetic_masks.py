"""Which part of a synthetic person each pixel shows, and which joints are seen: by value."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image, ImageDraw

from pose2id.cli import main
from pose2id.parts import mask_visibility, part_boxes, pool_masks
from pose2id.poses import KEYPOINTS, Pose
from pose2id.synthetic import PARTS, make_camera, make_person, make_set, pictures, render, sample_pose, write_dataset
from pose2id.synthetic.folders import PALETTE

HEAD, TORSO, RIGHT_ARM, LEFT_ARM, LEGS, FEET, BAG = range(1, 8)
CAMERA = make_camera(0, 0)
PLAIN = dataclasses.replace(make_person(0, 1), bag="none", hat="none", long_hair=False, bottom_kind="trousers")
# Arms and legs spread, seen from the front: the person's right side is on the left.
SPREAD = np.array(
    [
        *((0.50, 0.12), (0.50, 0.20), (0.36, 0.24), (0.22, 0.36), (0.12, 0.46), (0.64, 0.24), (0.78, 0.36)),
        *((0.88, 0.46), (0.42, 0.50), (0.36, 0.70), (0.30, 0.90), (0.58, 0.50), (0.64, 0.70), (0.70, 0.90)),
        *((0.47, 0.10), (0.53, 0.10), (0.44, 0.11), (0.56, 0.11)),
    ]
)


def look(person=PLAIN, points=SPREAD, yaw=0.0, **size):
    return render(person, Pose(points), yaw, CAMERA, np.random.default_rng(0), clean=True, **size)


def part_at(picture, point):
    height, width = picture.parts.shape
    return int(picture.parts[int(point[1] * height), int(point[0] * width)])


def test_the_parts_of_hand_placed_joints():
    assert PARTS == ("head", "torso", "right arm", "left arm", "legs", "feet", "bag")
    picture = look(height=128, width=64)
    assert (picture.parts.shape, picture.parts.dtype) == ((128, 64), np.uint8)
    known = {"nose": HEAD, "right_elbow": RIGHT_ARM, "right_wrist": RIGHT_ARM, "left_elbow": LEFT_ARM}
    known |= {"left_wrist": LEFT_ARM, "right_knee": LEGS, "left_knee": LEGS, "right_ankle": FEET, "left_ankle": FEET}
    found = {name: part_at(picture, SPREAD[KEYPOINTS.index(name)]) for name in known}
    assert found == known
    assert part_at(picture, (0.5, 0.35)) == TORSO
    assert [part_at(picture, corner) for corner in ((0.05, 0.05), (0.95, 0.95), (0.5, 0.9))] == [0, 0, 0]
    mirrored = look(points=SPREAD[[0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]], yaw=180.0)
    assert part_at(mirrored, SPREAD[4]) == LEFT_ARM  # from behind the left is on the left
    assert part_at(mirrored, SPREAD[7]) == RIGHT_ARM
    assert look(dataclasses.replace(PLAIN, bottom_kind="skirt")).parts[int(0.62 * 64), 16] == LEGS  # between the legs


@pytest.mark.parametrize(("bag", "side"), [("hand", "right"), ("shoulder", "left"), ("backpack", "left")])
def test_bags_are_parts_of_their_own(bag, side):
    carrying = dataclasses.replace(PLAIN, bag=bag, bag_side=side, bag_size=1.0)
    behind = SPREAD * (-1, 1) + (1, 0)
    for points, yaw in ((SPREAD, 0.0), (behind, 180.0)):
        without, having = look(points=points, yaw=yaw), look(carrying, points, yaw)
        changed = (without.image != having.image).any(axis=2)
        assert BAG not in without.parts
        assert changed[having.parts == BAG].all()
        # A pixel of which the bag covers less than half belongs to something else, or to nothing.
        assert np.array_equal(having.parts[~changed], without.parts[~changed])
        assert (having.parts == BAG).sum() > 0.4 * changed.sum()


@pytest.mark.parametrize(("yaw", "near", "far"), [(90.0, RIGHT_ARM, LEFT_ARM), (270.0, LEFT_ARM, RIGHT_ARM)])
def test_the_farther_arm_is_hidden_from_the_side(yaw, near, far):
    picture = look(points=np.where([True, False], SPREAD * 0.2 + 0.4, SPREAD), yaw=yaw)  # seen as narrow as that
    assert (picture.parts == near).sum() > 2 * (picture.parts == far).sum()


def test_all_of_a_person_in_view_is_some_part():
    rng = np.random.default_rng(3)
    for number in range(10):
        pose, yaw = sample_pose(rng)
        picture = render(make_person(0, number), pose, yaw, CAMERA, rng, occlusion=0)
        assert np.array_equal(picture.parts > 0, picture.mask)
        points = picture.pose.keypoints
        assert np.array_equal(picture.seen, ((points >= 0) & (points < 1)).all(axis=1))
    points = SPREAD.copy()
    points[4] = np.nan
    assert np.flatnonzero(~look(points=points).seen).tolist() == [4]  # guessed for the drawing, still missing


# What stands before the person


def test_an_occluder_hides_parts_and_joints(monkeypatch):
    def cover_below(picture, *_):
        """The lower half of the drawing."""
        cover = Image.new("L", picture.size)
        ImageDraw.Draw(cover).rectangle((0, picture.size[1] // 2, *picture.size), fill=255)
        picture.paste((0, 0, 0), mask=cover)
        return cover

    monkeypatch.setattr(pictures, "_draw_occluder", cover_below)
    free, hidden = make_set(range(3), masks=True, occlusion=0), make_set(range(3), masks=True, occlusion=1)
    assert np.array_equal(hidden.masks[:, :32], free.masks[:, :32])
    assert free.masks[:, 32:].any(axis=(1, 2)).all()
    assert not hidden.masks[:, 32:].any()
    assert np.array_equal(hidden.seen, free.seen & (free.keypoints[:, :, 1] < 0.5))
    for pose, points, seen in zip(hidden.seen_poses, hidden.keypoints, hidden.seen, strict=True):
        assert np.array_equal(pose.present, seen)
        assert np.array_equal(pose.keypoints[seen], points[seen])
    boxes, visible = part_boxes(hidden.seen_poses, (64, 32), scheme="three")
    assert np.array_equal(visible[:, 2], hidden.seen[:, 8:14].any(axis=1))
    assert not visible[:, 2].all()
    assert (boxes[visible][:, 1] < 32).all()


def test_what_an_occluder_covers_is_where_it_is_drawn():
    kinds = set()
    for seed in range(24):
        black, white = (Image.new("RGB", (64, 128), color) for color in ("black", "white"))
        covers = [pictures._draw_occluder(ground, CAMERA, np.random.default_rng(seed)) for ground in (black, white)]
        expected = (np.asarray(black) == np.asarray(white)).all(axis=2)
        for cover in covers:
            assert np.array_equal(np.asarray(cover), np.where(expected, 255, 0))
        full_rows = expected.all(axis=1).any()
        straight = (expected == expected[-1]).all(axis=1).any() and (expected.any(axis=0) == expected[-1]).all()
        kinds.add("wall" if full_rows else "pillar" if straight else "person")
    assert kinds == {"wall", "pillar", "person"}


def test_the_real_occluders_hide_what_they_cover():
    free, hidden = (make_set(range(6), cams=2, masks=True, occlusion=share) for share in (0, 1))
    shown = hidden.masks > 0
    assert not (shown & (free.masks == 0)).any()
    assert (hidden.masks[shown] == free.masks[shown]).mean() > 0.99  # a pixel may be of two parts
    gone = [(free.masks[row] > 0).sum() - shown[row].sum() for row in range(len(free))]
    assert np.median(gone) > 20
    assert not (hidden.seen & ~free.seen).any()
    assert (free.seen & ~hidden.seen).any()


# Pooled


def test_a_map_that_is_constant_in_each_part_gives_that_constant():
    people = make_set(range(4), cams=3, masks=True)
    values = np.array([9.0, 1.0, -2.0, 3.5, 4.0, -5.0, 6.0, 7.0])
    maps = np.stack([values[people.masks], -values[people.masks]], axis=1)
    masks = people.masks[:, None] == np.arange(8)[:, None, None]
    parts, visible = pool_masks(maps, masks[:, 1:]), mask_visibility(masks)
    assert np.array_equal(visible, masks[:, 1:].any(axis=(2, 3)))
    assert not visible.all()
    expected = np.where(visible[:, :, None], values[1:, None] * (1, -1), 0)
    np.testing.assert_allclose(parts, expected, rtol=1e-12)


# From the API and in files


def test_masks_are_made_on_request_and_change_nothing():
    plain, masked = make_set([3, 5], cams=2), make_set([3, 5], cams=2, masks=True)
    assert plain.masks is plain.select([0]).masks is None
    for field in dataclasses.fields(plain):
        if field.name != "masks":
            assert np.array_equal(getattr(plain, field.name), getattr(masked, field.name))
    assert (masked.masks.shape, masked.masks.dtype) == ((8, 64, 32), np.uint8)
    assert np.array_equal(masked.select(masked.ids == 5).masks, masked.masks[4:])
    assert np.array_equal(masked.select([2]).seen, masked.seen[[2]])
    assert make_set([], masks=True).masks.shape == (0, 64, 32)
    with pytest.raises(TypeError, match="masks must be True or False"):
        make_set([1], masks=1)


def test_masks_in_files(tmp_path):
    options = {"ids": 4, "cams": 2, "height": 32, "width": 16}
    plain, masked = (write_dataset(tmp_path / str(masks), masks=masks, **options) for masks in (False, True))
    pictures_of = {path.relative_to(masked): path for path in masked.rglob("*") if path.is_file()}
    added = {path for path in pictures_of if path.parts[0] == "masks"}
    for path in plain.rglob("*"):
        name = path.relative_to(plain)
        if path.is_file() and name.name != "README.txt":
            assert path.read_bytes() == (masked / name).read_bytes()
    expected = {Path("masks", path.with_suffix(".png")) for path in pictures_of if path.suffix == ".jpg"}
    expected |= {Path("masks", folder, "seen.json") for folder in ("query", "bounding_box_train", "bounding_box_test")}
    assert added == expected
    assert not (plain / "masks").exists()

    known = make_set(range(1, 5), cams=2, height=32, width=16, masks=True)
    rows = iter(range(len(known)))
    for number in range(1, 5):
        for cam in (1, 2):
            for shot in (1, 2):
                row, name = next(rows), f"{number:04d}_c{cam}s1_{2 * (number - 1) + shot:06d}_00"
                (path,) = masked.glob(f"masks/*/{name}.png")
                with Image.open(path) as image:
                    assert (image.format, image.mode) == ("PNG", "P")
                    assert np.array_equal(np.asarray(image), known.masks[row])
                    shown = np.asarray(image.convert("RGB"))
                assert np.array_equal(shown, np.array(PALETTE)[known.masks[row]])
                seen = json.loads((path.parent / "seen.json").read_text())[f"{name}.jpg"]
                assert seen == known.seen[row].tolist()
    (nobody, *_) = masked.glob("masks/bounding_box_test/0000_*.png")
    assert not np.asarray(Image.open(nobody)).any()
    text = (masked / "README.txt").read_text()
    assert "0 what is not the person, 1 head, 2 torso, 3 right arm, 4 left arm, 5 legs, 6 feet, 7 bag" in text
    assert text.startswith((plain / "README.txt").read_text())
    with pytest.raises(TypeError, match="masks must be True or False"):
        write_dataset(tmp_path / "wrong", masks="yes", **options)


def test_masks_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--ids", "2", "--cams", "2", "--height", "16", "--width", "8"]
    assert main(["synthetic", "-o", "world", "--masks", *options]) == 0
    assert len(list(Path("world/masks").rglob("*.png"))) == len(list(Path("world").rglob("*.jpg"))) == 10
    assert capsys.readouterr().out.startswith("world: 10 synthetic pictures of 2 people")
