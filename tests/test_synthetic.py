"""The synthetic pedestrians: always the same, true to their traits and poses, in folders like those of Market-1501."""

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("PIL")
from PIL import Image

from pose2id.poses import Pose, pose_direction, pose_valid, representative_poses, select_representative
from pose2id.synthetic import (
    folders,
    make_camera,
    make_person,
    make_set,
    pictures,
    render,
    sample_pose,
    walking,
    write_dataset,
)
from pose2id.synthetic.people import BOTTOMS, REFLECTANCES, TOPS

MARKET = re.compile(r"([-\d]+)_c(\d)s(\d)_(\d+)_(\d+).jpg")
FRONT, BACK = representative_poses()[0], representative_poses()[4]
PERSON, CAMERA = make_person(0, 1), make_camera(0, 0)
PLAIN = dataclasses.replace(PERSON, front="none", back="none", bag="none", hat="none", long_hair=False)
FIELDS = ("images", "keypoints", "ids", "cams", "yaws", "occluded")


def generator(seed=0):
    return np.random.default_rng(seed)


def clean(person, pose=FRONT, yaw=0.0, camera=CAMERA, **size):
    """A picture without any effect of the camera."""
    return render(person, pose, yaw, camera, generator(), clean=True, **size)


def same(one, other):
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in FIELDS)


@pytest.fixture(scope="module")
def people():
    """720 pictures of 60 people."""
    return make_set(range(1, 61), seed=1)


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    """A small data set."""
    return write_dataset(tmp_path_factory.mktemp("market") / "world", ids=8, cams=3)


def listed(folder):
    """Every picture as (folder, identity, camera, number)."""
    entries = []
    for path in sorted(folder.glob("*/*.jpg")):
        identity, camera, sequence, number, box = MARKET.fullmatch(path.name).groups()
        assert (sequence, box) == ("1", "00")
        entries.append((path.parent.name, int(identity), int(camera), int(number)))
    return entries


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# The same on every run, whatever else is made


def test_a_set_is_the_same_in_another_process(people):
    code = (
        "import hashlib; from pose2id.synthetic import make_set; s = make_set([5, 2], seed=1);"
        "print(*(hashlib.sha256(getattr(s, n).tobytes()).hexdigest() for n in "
        f"{FIELDS!r}))"
    )
    here = make_set([5, 2], seed=1)
    expected = [hashlib.sha256(getattr(here, name).tobytes()).hexdigest() for name in FIELDS]
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert there == expected
    assert same(here.select(slice(12, 24)), people.select(people.ids == 2))


def test_a_picture_depends_on_its_identity_camera_and_shot_only(people):
    fewer = make_set([7, 3], seed=1, cams=2, per_cam=3)
    for number in (3, 7):
        known = people.select((people.ids == number) & (people.cams < 2))
        made = fewer.select(np.flatnonzero(fewer.ids == number)[[0, 1, 3, 4]])
        assert same(known, made)


def test_identities_cameras_shots_and_seeds_differ(people):
    assert len(np.unique(people.images.reshape(len(people), -1), axis=0)) == len(people)
    assert not np.array_equal(make_set([1], cams=1, seed=2).images, people.images[:2])
    # numpy's seeds are padded with zeros: people, cameras and pictures must not share their numbers
    assert make_person(0, 0) != make_person(1, 0)
    assert make_camera(0, 0) != make_camera(1, 0)


def test_order_and_fields_of_a_set(people):
    assert people.images.shape == (720, 64, 32, 3)
    assert people.images.dtype == np.uint8
    assert (people.keypoints.shape, people.keypoints.dtype) == ((720, 18, 2), np.float32)
    assert np.array_equal(people.ids, np.repeat(np.arange(1, 61), 12))
    assert np.array_equal(people.cams, np.tile(np.repeat(np.arange(6), 2), 60))
    assert (people.ids.dtype, people.cams.dtype, people.yaws.dtype) == (np.int64, np.int64, np.float32)
    assert (people.occluded.dtype, len(people)) == (np.bool_, 720)
    assert np.isfinite(people.keypoints).all()
    assert np.array_equal(people.poses[4].keypoints, people.keypoints[4].astype(np.float64))


def test_rows_are_selected_by_index_mask_and_slice(people):
    assert people.select([3, 1]).ids.tolist() == [1, 1]
    assert np.array_equal(people.select([3, 1]).images, people.images[[3, 1]])
    assert set(people.select(people.cams == 2).cams.tolist()) == {2}
    assert same(people.select(slice(0, 5)), people.select(range(5)))
    assert len(people.select([])) == len(make_set([])) == 0
    assert make_set([]).images.shape == (0, 64, 32, 3)


# Who is drawn


def test_traits_are_as_frequent_as_documented():
    many = [make_person(3, number) for number in range(1500)]

    def share(name, value):
        return np.mean([getattr(person, name) == value for person in many])

    expected = [
        *(("pattern", "plain", 0.5), ("pattern", "halves", 0.12), ("bag", "backpack", 0.3), ("hat", "none", 0.78)),
        *(("front", "logo", 0.35), ("front", "jacket", 0.25), ("back", "print", 0.25), ("bottom_kind", "skirt", 0.2)),
        *(("long_sleeves", True, 0.55), ("long_hair", True, 0.4), ("bag_side", "left", 0.5)),
    ]
    for name, value, probability in expected:
        assert share(name, value) == pytest.approx(probability, abs=4 * 0.5 / 1500**0.5), (name, value)
    assert (len(TOPS), len(BOTTOMS)) == (11, 6)
    for person in many[:300]:
        for cloth in (person.top, person.bottom, person.skin, person.hair, person.bag_cloth):
            assert all(0 <= value <= 1 for value in (*cloth.color, cloth.reflectance))
            if cloth.material in REFLECTANCES:
                assert cloth.reflectance == pytest.approx(REFLECTANCES[cloth.material], abs=0.25)
    assert [make_person(3, number) for number in range(20)] == many[:20]


@pytest.mark.parametrize(("trait", "value"), [("front", "logo"), ("front", "jacket"), ("back", "print")])
@pytest.mark.parametrize("turn", [-50, -20, 0, 20, 50])
def test_front_and_back_are_seen_from_one_side_only(trait, value, turn):
    colors = {name: dataclasses.replace(PERSON.top, color=(1.0, 0.0, 0.6)) for name in ("inner", "print_cloth")}
    without = dataclasses.replace(PLAIN, **colors)
    having = dataclasses.replace(without, **{trait: value})
    seen = {}
    for pose, yaw in ((FRONT, turn), (BACK, 180 + turn)):
        one, other = clean(without, pose, yaw), clean(having, pose, yaw)
        seen["front" if pose is FRONT else "back"] = not np.array_equal(one.image, other.image)
        assert np.array_equal(one.mask, other.mask)
    assert seen == {"front": trait == "front", "back": trait == "back"}


def test_a_backpack_is_a_box_from_behind_and_straps_from_the_front():
    cloth = dataclasses.replace(PERSON.bag_cloth, color=(1.0, 0.0, 1.0))
    carrying = dataclasses.replace(PLAIN, bag="backpack", bag_cloth=cloth, bag_size=1.0)
    changed = {}
    for name, pose, yaw in (("front", FRONT, 0), ("back", BACK, 180), ("side", representative_poses()[2], 90)):
        one, other = clean(PLAIN, pose, yaw), clean(carrying, pose, yaw)
        changed[name] = (one.image != other.image).any(axis=-1)
        assert (other.mask >= one.mask).all()
        assert (other.mask > one.mask).any() == (name == "side")  # from the side it stands out
    assert 2 * changed["front"].sum() < changed["back"].sum()
    middle = changed["front"][:, 15:17], changed["back"][:, 15:17]
    assert not middle[0].any()
    assert middle[1].any()
    x = np.nonzero(changed["side"] & ~clean(PLAIN, representative_poses()[2], 90).mask)[1]
    assert x.mean() / 32 < representative_poses()[2].keypoints[1, 0]  # behind one who faces the right edge


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_bag_hangs_on_its_own_side(side):
    cloth = dataclasses.replace(PERSON.bag_cloth, color=(1.0, 0.0, 1.0))
    for bag, joint in (("hand", {"left": 7, "right": 4}), ("shoulder", {"left": 11, "right": 8})):
        carrying = dataclasses.replace(PLAIN, bag=bag, bag_side=side, bag_cloth=cloth)
        for pose, yaw in ((FRONT, 0), (BACK, 180)):
            changed = (clean(PLAIN, pose, yaw).image != clean(carrying, pose, yaw).image).any(axis=-1)
            low = np.argwhere(changed)[-1]
            assert abs((low[1] + 0.5) / 32 - pose.keypoints[joint[side], 0]) < 0.15


@pytest.mark.parametrize(
    "change",
    [
        {"pattern": "horizontal"},
        {"pattern": "vertical"},
        {"pattern": "halves"},
        {"pattern": "check"},
        {"long_sleeves": True},
        {"bottom_kind": "shorts"},
        {"bottom_kind": "skirt"},
        {"hat": "cap"},
        {"hat": "beanie"},
        {"long_hair": True},
        {"build": 1.2},
        {"head": 1.2},
    ],
    ids=str,
)
@pytest.mark.parametrize(("pose", "yaw"), [(FRONT, 0), (BACK, 180)], ids=["front", "back"])
def test_other_traits_are_seen_from_both_sides(change, pose, yaw):
    person = dataclasses.replace(
        PLAIN, pattern="plain", long_sleeves=False, bottom_kind="trousers", build=1.0, head=1.0
    )
    other = dataclasses.replace(person, **change)
    assert not np.array_equal(clean(person, pose, yaw).image, clean(other, pose, yaw).image)


def test_the_face_is_seen_from_the_front_only():
    pale = dataclasses.replace(PLAIN, long_sleeves=True, bottom_kind="trousers")
    pale = dataclasses.replace(
        pale,
        skin=dataclasses.replace(pale.skin, color=(1.0, 0.0, 1.0)),
        hair=dataclasses.replace(pale.hair, color=(0.0, 0.0, 0.0)),
    )

    def skin(pose, yaw):
        picture = clean(pale, pose, yaw, height=128, width=64)
        head = slice(0, int(128 * pose.keypoints[1, 1]) - 6)
        return (picture.image[head, :, 0] > 200).sum()

    assert skin(FRONT, 0) > 50
    assert skin(BACK, 180) < 5


# How they stand


def test_poses_are_whole_valid_and_framed_like_the_representative_ones():
    rng = generator(1)
    drawn = [sample_pose(rng) for _ in range(600)]
    points = np.stack([pose.keypoints for pose, _ in drawn])
    assert np.isfinite(points).all()
    assert np.mean([pose_valid(pose) for pose, _ in drawn]) > 0.9
    base = np.stack([walking.complete(pose) for pose in representative_poses()])
    heights = np.ptp(points[..., 1], axis=1)
    assert 0.9 * np.ptp(base[..., 1], axis=1).min() - 0.05 < heights.min()
    assert heights.max() < np.ptp(base[..., 1], axis=1).max() + 0.05
    # Shoulders are not jittered: a factor from 0.75 to 1 of those of one of the poses, about the middle.
    widths = points[:, 5, 0] - points[:, 2, 0]
    front = np.abs(widths) > 0.75 * 0.45
    assert front.any()
    known = np.abs(base[:, 5, 0] - base[:, 2, 0])
    assert np.abs(widths).max() <= known.max()
    assert np.abs(widths).min() >= 0.75 * known.min()
    assert np.abs(widths).max() > 0.97 * known.max()


def test_yaws_are_the_directions_of_the_poses():
    rng = generator(2)
    drawn = [sample_pose(rng) for _ in range(400)]
    yaws = np.array([yaw for _, yaw in drawn])
    directions = np.array([pose_direction(pose, aspect=0.5) for pose, _ in drawn])
    apart = np.abs((yaws - directions + 180) % 360 - 180)
    assert yaws.min() >= 0
    assert yaws.max() < 360
    assert np.median(apart) < 12
    assert np.quantile(apart, 0.95) < 35
    # Mirrored half of the time: as many to the left as to the right.
    assert np.mean(np.sin(np.deg2rad(yaws)) > 0) == pytest.approx(0.5, abs=0.1)


def test_mirrored_poses_swap_left_and_right():
    poses, yaws = walking._walkers()
    original, mirrored = poses[:8], poses[8:]
    swapped = [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]
    assert np.allclose(mirrored[:, :, 0], 1 - original[:, swapped, 0])
    assert np.array_equal(mirrored[:, :, 1], original[:, swapped, 1])
    assert np.allclose((yaws[:8] + yaws[8:]) % 360, 0)
    for pose, known, yaw in zip(original, representative_poses(), yaws, strict=False):
        assert np.array_equal(pose[known.present], known.keypoints[known.present])
        assert yaw == pytest.approx(pose_direction(known) % 360)


def test_cameras_prefer_a_direction():
    camera = make_camera(0, 2)
    assert camera.yaw == 90
    rng = generator(3)
    yaws = np.array([sample_pose(rng, camera)[1] for _ in range(1500)])
    near = np.abs((yaws - 90 + 180) % 360 - 180) <= 50
    bases = np.abs((walking._walkers()[1] - 90 + 180) % 360 - 180) <= 50
    assert near.mean() == pytest.approx(0.6 + 0.4 * bases.mean(), abs=0.08)


def test_missing_joints_are_guessed_and_stay_missing():
    points = FRONT.keypoints.copy()
    points[[0, 1, 4, 9, 10, 14, 15, 16, 17]] = np.nan
    picture = clean(PERSON, Pose(points))
    assert np.array_equal(picture.pose.present, np.isfinite(points[:, 0]))
    whole = clean(PERSON).mask
    assert (picture.mask & whole).sum() / (picture.mask | whole).sum() > 0.8
    points[8] = np.nan
    with pytest.raises(ValueError, match="must have both shoulders and hips to be drawn; missing: right_hip"):
        clean(PERSON, Pose(points))


# How they are seen


def test_keypoints_lie_on_the_silhouette(people):
    rng, hits, face = generator(4), [], []
    for number in range(60):
        pose, yaw = sample_pose(rng)
        picture = render(make_person(0, number), pose, yaw, CAMERA, rng, occlusion=0)
        points = picture.pose.keypoints
        inside = ((points >= 0) & (points < 1)).all(axis=1)
        x, y = np.floor(np.clip(points, 0, 0.999) * (32, 64)).astype(int).T
        head = np.isin(np.arange(18), [0, 14, 15, 16, 17])
        hits += picture.mask[y, x][inside & ~head].tolist()
        face += picture.mask[y, x][inside & head].tolist()
    assert np.mean(hits) > 0.97
    assert np.mean(face) > 0.75
    inside = (people.keypoints > -0.05) & (people.keypoints < 1.05)
    assert inside.all(axis=-1).mean() > 0.9


def test_a_clean_picture_has_the_pose_as_given():
    picture = clean(PERSON)
    assert picture.pose is FRONT
    assert not picture.occluded
    again = render(PERSON, FRONT, 0.0, make_camera(0, 3), generator(9), occlusion=1.0, clean=True)
    assert np.array_equal(picture.image, again.image)
    assert (picture.image[~picture.mask].astype(int) - 128 == 0).mean() > 0.8


def test_the_pose_in_a_picture_redraws_its_silhouette():
    """Rendered clean in the pose that a picture reports, the same person covers the same pixels."""
    rng = generator(5)
    for number in range(20):
        person = dataclasses.replace(make_person(0, number))
        pose, yaw = sample_pose(rng)
        picture = render(person, pose, yaw, CAMERA, rng)
        redrawn = clean(person, picture.pose, yaw)
        assert np.array_equal(picture.mask, redrawn.mask)
        assert not np.array_equal(picture.pose.keypoints, pose.keypoints)


def test_crops_are_jittered_about_the_middle():
    rng = generator(6)
    person = dataclasses.replace(PERSON, stature=1.0)
    shifts, zooms = [], []
    for _ in range(400):
        points = render(person, FRONT, 0.0, CAMERA, rng, height=16, width=8).pose.keypoints
        zoom = np.ptp(points[:, 1]) / np.ptp(FRONT.keypoints[:, 1])
        assert np.ptp(points[:, 0]) == pytest.approx(zoom * np.ptp(FRONT.keypoints[:, 0]))
        zooms.append(zoom)
        shifts.append(points[0] - (zoom * (FRONT.keypoints[0] - (0.5, 0.53)) + (0.5, 0.53)))
    assert np.mean(zooms) == pytest.approx(1, abs=0.02)
    assert np.std(zooms) == pytest.approx(0.07, rel=0.2)
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.015
    assert np.std(shifts, axis=0) == pytest.approx([0.06, 0.03], rel=0.2)


def test_occluders_come_as_often_as_asked_and_change_nothing_else(people):
    assert people.occluded.mean() == pytest.approx(0.25, abs=0.06)
    never, always = (make_set(range(1, 11), seed=1, occlusion=share) for share in (0.0, 1.0))
    assert not never.occluded.any()
    assert always.occluded.all()
    assert np.array_equal(never.keypoints, always.keypoints)
    few = people.select(people.ids <= 10)
    assert np.array_equal(few.images[~few.occluded], never.images[~few.occluded])
    assert np.array_equal(few.images[few.occluded], always.images[few.occluded])
    changed = (never.images != always.images).any(axis=(1, 2, 3))
    assert changed.all()
    # Something of the person is still to be seen nearly always.
    shares = [(one != other).any(axis=-1).mean() for one, other in zip(never.images, always.images, strict=True)]
    assert np.median(shares) < 0.7


def test_a_mask_ignores_the_occluder():
    one, other = (render(PERSON, FRONT, 0.0, CAMERA, generator(7), occlusion=share) for share in (0, 1))
    assert np.array_equal(one.mask, other.mask)
    assert (one.occluded, other.occluded) == (False, True)


@pytest.mark.parametrize(("height", "width"), [(128, 64), (96, 48), (100, 32), (64, 64), (8, 8)])
def test_any_size_shows_the_same_picture(height, width):
    small, other = clean(PERSON), clean(PERSON, height=height, width=width)
    assert other.image.shape == (height, width, 3)
    assert other.mask.shape == (height, width)
    assert other.mask.mean() == pytest.approx(small.mask.mean(), abs=0.05 if height > 8 else 0.1)
    resized = np.asarray(Image.fromarray(other.image).resize((8, 8), Image.Resampling.BOX), float)
    expected = np.asarray(Image.fromarray(small.image).resize((8, 8), Image.Resampling.BOX), float)
    assert np.abs(resized - expected).mean() < 6
    noisy = render(PERSON, FRONT, 0.0, CAMERA, generator(), height=height, width=width)
    assert noisy.image.shape == (height, width, 3)


def test_cameras_differ_and_keep_their_look():
    pictures_of = {}
    for number in range(4):
        camera = make_camera(0, number)
        looks = [render(PERSON, FRONT, 0.0, camera, generator(seed), occlusion=0).image for seed in range(30)]
        pictures_of[number] = np.mean(looks, axis=(0, 1, 2)) / np.mean(looks)
    casts = np.array(list(pictures_of.values()))
    apart = np.abs(casts[:, None] - casts).max(axis=-1)[np.triu_indices(4, 1)]
    assert apart.min() > 0.02
    assert apart.max() > 0.1


def test_infrared_is_grey_and_shows_materials_instead_of_colors():
    camera = make_camera(0, 2, infrared=True)
    picture = render(PERSON, FRONT, 0.0, camera, generator())
    assert (picture.image == picture.image[..., :1]).all()
    assert picture.image.std() > 3

    def dressed(**cloth):
        return clean(dataclasses.replace(PLAIN, top=dataclasses.replace(PLAIN.top, **cloth)), camera=camera).image

    assert np.array_equal(dressed(color=(1.0, 0.0, 0.0)), dressed(color=(0.0, 0.3, 0.0)))
    chest = slice(18, 26), slice(12, 19)
    assert dressed(reflectance=0.9)[chest].mean() > dressed(reflectance=0.3)[chest].mean() + 80


@pytest.mark.parametrize(
    ("cams", "infrared", "expected"), [(6, 2, [2, 5]), (6, 1, [5]), (4, 4, [0, 1, 2, 3]), (3, 0, [])]
)
def test_infrared_cameras_are_evenly_spaced(cams, infrared, expected):
    some = make_set([1], cams=cams, per_cam=1, infrared_cams=infrared)
    grey = (some.images == some.images[..., :1]).all(axis=(1, 2, 3))
    assert np.flatnonzero(grey).tolist() == expected
    plain = make_set([1], cams=cams, per_cam=1)
    assert np.array_equal(some.images[~grey], plain.images[~grey])
    assert np.array_equal(some.keypoints, plain.keypoints)


# Folders


def test_a_dataset_has_the_layout_of_market(market):
    assert sorted(path.name for path in market.iterdir()) == [
        "README.txt",
        "bounding_box_test",
        "bounding_box_train",
        "query",
    ]
    entries = listed(market)
    assert len(entries) == len(set(entries))
    train = [entry for entry in entries if entry[0] == "bounding_box_train"]
    query = [entry for entry in entries if entry[0] == "query"]
    gallery = [entry for entry in entries if entry[0] == "bounding_box_test"]
    assert sorted(entry[1:3] for entry in train) == sorted(
        (i, c) for i in (1, 2, 3, 4) for c in (1, 2, 3) for _ in "ab"
    )
    assert sorted(entry[1:3] for entry in query) == [(i, c) for i in (5, 6, 7, 8) for c in (1, 2, 3)]
    people = [entry[1:3] for entry in gallery if entry[1] > 0]
    assert sorted(people) == [(i, c) for i in (5, 6, 7, 8) for c in (1, 2, 3)]
    assert [entry[1] for entry in gallery if entry[1] <= 0] == [-1, -1, 0, 0]
    numbers = [entry[2:] for entry in entries]
    assert len(set(numbers)) == len(numbers)  # no two pictures of a camera have the same number
    assert (market / "bounding_box_train" / "0001_c1s1_000001_00.jpg").is_file()


def test_files_hold_the_pictures_and_keypoints_of_make_set(market):
    expected = make_set(range(1, 9), cams=3)
    row = 0
    for number in range(1, 9):
        for cam in range(3):
            for shot in range(2):
                folder = "bounding_box_train" if number <= 4 else ("query", "bounding_box_test")[shot]
                name = f"{number:04d}_c{cam + 1}s1_{2 * (number - 1) + shot + 1:06d}_00.jpg"
                with Image.open(market / folder / name) as picture:
                    assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (32, 64))
                    error = np.asarray(picture, float) - expected.images[row]
                assert np.abs(error).mean() < 4
                points = json.loads((market / folder / "keypoints.json").read_text())[name]
                assert np.allclose(points, expected.keypoints[row], atol=1e-5)
                row += 1


def test_every_picture_has_its_keypoints(market):
    for folder in ("query", "bounding_box_train", "bounding_box_test"):
        points = json.loads((market / folder / "keypoints.json").read_text())
        assert sorted(points) == sorted(path.name for path in (market / folder).glob("*.jpg"))
        for name, rows in points.items():
            assert len(rows) == 18
            assert all(row is None for row in rows) == name.startswith("0000_")
            Pose(rows)


def test_a_dataset_says_that_it_is_synthetic(market):
    text = (market / "README.txt").read_text()
    assert text.startswith("Synthetic pedestrians made by pose2id (world 1, Pillow ")
    assert "No picture shows a real person" in text
    assert "seed 0, identities 8, cameras 3, pictures of each identity from each camera 2,\n64 x 32 pixels" in text
    assert "infrared cameras: none" in text


def test_a_dataset_is_written_the_same_again(market, tmp_path):
    assert contents(write_dataset(tmp_path / "again", ids=8, cams=3)) == contents(market)


def test_occluded_queries_change_nothing_else(market, tmp_path):
    made, plain = contents(write_dataset(tmp_path / "occluded", ids=8, cams=3, occluded=True)), contents(market)
    assert b"Every query is occluded." in made["README.txt"]
    assert made.keys() == plain.keys()
    differ = {name for name in made if made[name] != plain[name]} - {"README.txt"}
    assert all(name.startswith("query/0") for name in differ)
    occluded = make_set(range(5, 9), cams=3).occluded[::2]  # those that are so anyway stay as they are
    assert len(differ) == (~occluded).sum()


def test_infrared_queries_and_a_gallery_of_colors(tmp_path):
    folder = write_dataset(tmp_path / "sysu", ids=4, infrared=True)
    text = (folder / "README.txt").read_text()
    assert "infrared cameras: 3, 6" in text
    assert "Queries are infrared, the gallery is not." in text
    cameras = {name: set() for name in ("query", "bounding_box_test", "bounding_box_train")}
    for name, _, camera, _ in listed(folder):
        cameras[name].add(camera)
    assert cameras["query"] == {3, 6}
    assert cameras["bounding_box_test"] == {1, 2, 4, 5}
    assert cameras["bounding_box_train"] == {1, 2, 3, 4, 5, 6}
    for path in folder.glob("*/*.jpg"):
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert("RGB"), int)
        assert picture.mode == "RGB"
        assert (np.ptp(pixels, axis=-1).max() <= 2) == (int(path.name.split("_c")[1][0]) in (3, 6))


def test_no_folder_is_replaced_by_mistake(tmp_path):
    own = write_dataset(tmp_path / "world", ids=2, cams=2)
    before = contents(own)
    with pytest.raises(ValueError, match=r"world exists already; name another, or overwrite it"):
        write_dataset(own, ids=2, cams=2, seed=1)
    assert contents(own) == before
    write_dataset(own, ids=2, cams=2, seed=1, overwrite=True)
    assert contents(own) != before
    assert "seed 1," in (own / "README.txt").read_text()

    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "README.txt").write_text("My thesis")
    with pytest.raises(ValueError, match=r"foreign is not one that write_dataset made .* and is not replaced"):
        write_dataset(foreign, ids=2, cams=2, overwrite=True)
    assert contents(foreign) == {"README.txt": b"My thesis"}

    (tmp_path / "itself").symlink_to("itself")
    with pytest.raises(ValueError, match="itself exists already"):
        write_dataset(tmp_path / "itself", ids=2, cams=2)
    (tmp_path / "itself").unlink()
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(ValueError, match="is not one that write_dataset made"):
        write_dataset(tmp_path / "link", ids=2, cams=2, overwrite=True)
    with pytest.raises(ValueError, match="must be in an existing folder"):
        write_dataset(tmp_path / "no" / "where", ids=2, cams=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "link", "world"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_everything_as_it_was(tmp_path, monkeypatch, overwrite):
    folder = tmp_path / "world"
    if overwrite:
        write_dataset(folder, ids=2, cams=2)
    before = contents(tmp_path)
    monkeypatch.setattr(folders, "_describe", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_dataset(folder, ids=2, cams=2, seed=1, overwrite=overwrite)
    assert contents(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["world"] * overwrite


def test_a_failing_rename_puts_the_former_folder_back(tmp_path, monkeypatch):
    folder = write_dataset(tmp_path / "world", ids=2, cams=2)
    before = contents(tmp_path)
    rename = type(folder).rename

    def fail(path, target):
        if path.name == "new":
            raise OSError("no space left")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", fail)
    with pytest.raises(OSError, match="no space left"):
        write_dataset(folder, ids=2, cams=2, seed=1, overwrite=True)
    assert contents(tmp_path) == before


# Errors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": 5}, TypeError, r"ids must be integers, such as range\(1, 11\); received 5"),
        ({"ids": "12"}, TypeError, "ids must be integers"),
        ({"ids": [1, 2.5]}, TypeError, r"each of ids must be an integer >= 0, received 2.5"),
        ({"ids": [-1]}, ValueError, "each of ids must be an integer >= 0, received -1"),
        ({"ids": [4, 1, 4]}, ValueError, "ids must be different, received more than once: 4"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, received -1"),
        ({"cams": 0}, ValueError, "cams must be an integer >= 1"),
        ({"per_cam": True}, TypeError, "per_cam must be an integer >= 1, received the bool"),
        ({"height": 7}, ValueError, "height must be an integer >= 8, received 7"),
        ({"width": 4}, ValueError, "width must be an integer >= 8"),
        ({"occlusion": 1.5}, ValueError, "occlusion must be a number from 0 to 1, received 1.5"),
        ({"infrared_cams": 7}, ValueError, "infrared_cams must be at most cams, 6; received 7"),
        ({"progress": 1}, TypeError, "progress must be True or False"),
    ],
    ids=str,
)
def test_bad_arguments_of_a_set(arguments, error, message):
    with pytest.raises(error, match=message):
        make_set(**{"ids": [1], **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"person": 1}, TypeError, "person must be a Person, received int"),
        ({"pose": FRONT.keypoints}, TypeError, "pose must be a Pose, received ndarray"),
        ({"camera": None}, TypeError, "camera must be a Camera, received NoneType"),
        ({"rng": 0}, TypeError, r"rng must be a numpy.random.Generator, .*; received int"),
        ({"yaw": float("nan")}, ValueError, "yaw must be a finite number|yaw must be a number"),
        ({"yaw": "front"}, TypeError, "yaw must be"),
        ({"height": 0}, ValueError, "height must be an integer >= 8"),
        ({"occlusion": -0.1}, ValueError, "occlusion must be a number from 0 to 1"),
        ({"clean": "yes"}, TypeError, "clean must be True or False"),
    ],
    ids=str,
)
def test_bad_arguments_of_a_picture(arguments, error, message):
    usual = {"person": PERSON, "pose": FRONT, "yaw": 0.0, "camera": CAMERA, "rng": generator()}
    with pytest.raises(error, match=message):
        render(**{**usual, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"ids": 1}, ValueError, "ids must be an integer >= 2, received 1"),
        ({"ids": 10_000}, ValueError, "ids must be an integer from 2 to 9999, received 10000"),
        ({"cams": 1}, ValueError, "cams must be an integer >= 2"),
        ({"cams": 10}, ValueError, "cams must be an integer from 2 to 9, received 10"),
        ({"per_cam": 1}, ValueError, "per_cam must be an integer >= 2"),
        ({"per_cam": 100}, ValueError, "per_cam must be an integer from 2 to 99"),
        ({"seed": "a"}, TypeError, "seed must be an integer"),
        ({"infrared": 1}, TypeError, "infrared must be True or False"),
        ({"occluded": None}, TypeError, "occluded must be True or False"),
    ],
    ids=str,
)
def test_bad_arguments_of_a_dataset(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        write_dataset(tmp_path / "world", **arguments)
    assert not any(tmp_path.iterdir())


def test_bad_arguments_of_people_cameras_and_poses():
    with pytest.raises(ValueError, match="number must be an integer >= 0, received -1"):
        make_person(0, -1)
    with pytest.raises(TypeError, match="seed must be an integer"):
        make_camera(0.5, 1)
    with pytest.raises(TypeError, match="infrared must be True or False"):
        make_camera(0, 1, infrared=2)
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator"):
        sample_pose(np.random)
    with pytest.raises(TypeError, match="camera must be a Camera or None, received int"):
        sample_pose(generator(), 3)


def test_imports_nothing_heavy():
    code = "import sys, pose2id.synthetic; print([m for m in ('PIL', 'torch', 'diffusers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_pillow(monkeypatch):
    from pose2id import MissingExtraError

    def fail(module, extra, purpose):
        raise MissingExtraError(f"{purpose} needs {module}", extra=extra, package="PIL")

    monkeypatch.setattr(pictures, "require", fail)
    with pytest.raises(MissingExtraError, match="drawing synthetic pedestrians needs PIL"):
        render(PERSON, FRONT, 0.0, CAMERA, generator())


# --- leftovers of processes that were killed


def kill_while_it_writes(folder):
    """What a killed process leaves beside `folder`."""
    program = f"from pose2id.synthetic import write_dataset; write_dataset({str(folder)!r}, ids=2000)"
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        while not list(folder.parent.glob(".pose2id-*.part/new/bounding_box_train/*.jpg")) and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert not folder.exists()
    (left,) = folder.parent.glob(".pose2id-*.part")
    return left


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_while_it_writes(tmp_path):
    folder = tmp_path / "w[1]"
    left = kill_while_it_writes(folder)
    (tmp_path / ".mine").mkdir()
    write_dataset(folder, ids=2, cams=2, height=16, width=8)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "w[1]"]
    before = contents(folder)
    # As if it had been killed between moving the former folder away and putting the new one there.
    (left / "former").mkdir(parents=True)
    (left / "new").mkdir()
    folder.rename(left / "former" / folder.name)
    with pytest.raises(ValueError, match="exists already"):
        write_dataset(folder, ids=2, cams=2, height=16, width=8)
    assert contents(folder) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mine", "w[1]"]


def test_a_folder_that_is_being_written_is_left_alone(tmp_path, monkeypatch):
    """Another set beside it, from inside the first."""
    describe = folders._describe

    def write_another(*arguments):
        monkeypatch.setattr(folders, "_describe", describe)
        write_dataset(tmp_path / "another", ids=2, cams=2, height=16, width=8)
        return describe(*arguments)

    monkeypatch.setattr(folders, "_describe", write_another)
    write_dataset(tmp_path / "world", ids=2, cams=2, height=16, width=8)
    assert contents(tmp_path / "world") == contents(tmp_path / "another")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["another", "world"]


def test_the_world_is_the_one_of_its_version():
    """Traits exactly; pixels within what another version of Pillow may round. A change must raise VERSION."""
    assert folders.VERSION == 1
    person = make_person(0, 7)
    assert (person.pattern, person.bottom_kind, person.hat, person.bag) == ("plain", "skirt", "beanie", "backpack")
    np.testing.assert_allclose(person.top.color, (0.47597827, 0.36025351, 0.24531441))
    assert person.build == pytest.approx(1.18672656)
    world = make_set([0, 7], cams=3, per_cam=1)
    means = world.images.reshape(6, -1).mean(1)
    np.testing.assert_allclose(means, [94.49, 115.19, 68.47, 95.28, 120.70, 67.83], atol=0.5)


def test_representative_poses_of_the_world_face_all_ways():
    """Equations 7 and 8 on 60 people: the eight chosen poses face eight ways, as the program that drew them knows."""
    world = make_set(range(60), cams=3, per_cam=1)
    means = world.images.astype(np.float32).mean((1, 2))
    rows = select_representative(means, world.ids, world.poses, 8)
    assert len(set(world.ids[rows])) == 8
    off = (world.yaws[rows] - 45 * np.arange(8) + 180) % 360 - 180
    assert np.abs(off).max() < 45
