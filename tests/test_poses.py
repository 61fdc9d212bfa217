"""Poses: keypoints taken in, drawings as OpenCV draws them, which poses are valid, where they face, which to choose."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest
from support.golden import GOLDEN

from pose2id import MissingExtraError
from pose2id import poses as module
from pose2id.poses import (
    COLORS,
    KEYPOINTS,
    LIMBS,
    Pose,
    PoseLimits,
    pose_direction,
    pose_faults,
    pose_valid,
    read_poses,
    representative_poses,
    select_representative,
    write_poses,
)

DATA = resources.files("pose2id").joinpath("data")
POSES = representative_poses()
AT = {name: row for row, name in enumerate(KEYPOINTS)}
NAN = math.nan


@pytest.fixture(scope="module")
def golden():
    """Drawings by OpenCV, see golden/poses/README.md."""
    with np.load(GOLDEN / "poses" / "drawings.npz") as file:
        return dict(file)


@pytest.fixture(scope="module", autouse=True)
def _pillow():
    pytest.importorskip("PIL")


def draw(pose, *size, **widths):
    image = pose.draw(*size, **widths)
    assert image.mode == "RGB"
    return np.asarray(image)


def changed(pose, **points):
    """The pose with other keypoints: name=(x, y), or None."""
    keypoints = pose.keypoints.copy()
    for name, point in points.items():
        keypoints[AT[name]] = (NAN, NAN) if point is None else point
    return Pose(keypoints)


# what ships


def test_the_file_is_the_documented_one():
    content = DATA.joinpath("representative_poses.json").read_bytes()
    readme = DATA.joinpath("README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{len(content):,} bytes" in readme


def test_source_and_licence_are_with_the_file():
    content = json.loads(DATA.joinpath("representative_poses.json").read_text(encoding="utf-8"))
    assert "github.com/yuanc3/Pose2ID" in content["source"]
    assert content["license"] == "MIT, Copyright (c) 2025 yuanc3"
    assert (
        "representative_poses.json:\n\nMIT License\n\nCopyright (c) 2025 yuanc3" in DATA.joinpath("LICENSE").read_text()
    )


def test_names_limbs_and_colours_are_those_of_the_file():
    content = json.loads(DATA.joinpath("representative_poses.json").read_text(encoding="utf-8"))
    assert tuple(content["keypoint_names"]) == KEYPOINTS
    assert tuple(map(tuple, content["limbs"])) == LIMBS
    assert tuple(map(tuple, content["colors"])) == COLORS


def test_representative_poses_are_those_of_the_file():
    entries = json.loads(DATA.joinpath("representative_poses.json").read_text(encoding="utf-8"))["poses"]
    assert [pose.name for pose in POSES] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    for pose, entry in zip(POSES, entries, strict=True):
        for row, point in zip(pose.keypoints, entry["keypoints"], strict=True):
            assert (None if np.isnan(row).all() else row.tolist()) == point
    assert [int((~pose.present).sum()) for pose in POSES] == [0, 0, 1, 0, 0, 1, 0, 0]
    assert not POSES[2].present[AT["left_wrist"]]
    assert representative_poses() is POSES


# the class


def test_keypoints_are_a_read_only_copy():
    given = POSES[0].keypoints.astype(np.float32)
    pose = Pose(given)
    assert pose.keypoints.dtype == np.float64
    assert pose.name == ""
    given[:] = 0
    assert pose.keypoints.max() > 0.5
    with pytest.raises(ValueError, match="read-only"):
        pose.keypoints[0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        pose.name = "other"


def test_missing_keypoints_may_be_none_or_nan():
    points = POSES[0].keypoints.tolist()
    points[4] = None
    points[7] = [NAN, NAN]
    pose = Pose(points, "half")
    assert np.flatnonzero(~pose.present).tolist() == [4, 7]
    assert np.isnan(pose.keypoints[[4, 7]]).all()
    np.testing.assert_array_equal(np.delete(pose.keypoints, [4, 7], 0), np.delete(POSES[0].keypoints, [4, 7], 0))
    assert not Pose([None] * 18).present.any()


def test_a_pose_survives_pickle():
    again = pickle.loads(pickle.dumps(POSES[2]))
    assert again.name == "3"
    np.testing.assert_array_equal(again.keypoints, POSES[2].keypoints)


GOOD = [[0.5, 0.5]] * 18


@pytest.mark.parametrize(
    ("keypoints", "error", "message"),
    [
        (GOOD[:17], ValueError, r"must have shape \(18, 2\), received \(17, 2\)"),
        (np.zeros((18, 3)), ValueError, r"received \(18, 3\)"),
        ([[0.5, 0.5, 1.0], *GOOD[1:]], ValueError, "points of different lengths"),
        ([[0.5, NAN], *GOOD[1:]], ValueError, r"finite or NaN in both coordinates; not so in rows \[0\]"),
        ([*GOOD[1:], [math.inf, 0.5]], ValueError, r"not so in rows \[17\]"),
        ([[30.0, 0.5], *GOOD[1:]], ValueError, "a coordinate of 30; for pixels use Pose.from_pixels"),
        ([[-11.0, 0.5], *GOOD[1:]], ValueError, "a coordinate of -11;"),
        ([["0.5", "0.5"], *GOOD[1:]], TypeError, "real numbers"),
        (np.zeros((18, 2), complex), TypeError, "dtype complex128"),
        (np.ones((18, 2), bool), TypeError, "dtype bool"),
        ("front", TypeError, "received str"),
        (None, TypeError, "received NoneType"),
        (7, TypeError, "received int"),
    ],
)
def test_bad_keypoints(keypoints, error, message):
    with pytest.raises(error, match=message):
        Pose(keypoints)


def test_a_name_is_a_string():
    with pytest.raises(TypeError, match="name must be a string, received int"):
        Pose(GOOD, 1)


def test_from_pixels():
    pixels = POSES[5].keypoints * (640, 1280)
    pose = Pose.from_pixels(pixels, 640, 1280, "far")
    assert pose.name == "far"
    np.testing.assert_allclose(pose.keypoints, POSES[5].keypoints, rtol=0, atol=1e-15)
    points = [None if math.isnan(x) else (x, y) for x, y in pixels.tolist()]
    np.testing.assert_array_equal(Pose.from_pixels(points, 640, 1280).keypoints, pose.keypoints)


def test_what_openpose_did_not_find_is_missing():
    """It writes zeros; as a keypoint they were the corner of the picture, with limbs that lead there."""
    pixels = np.arange(2.0, 38.0).reshape(18, 2)
    pixels[[4, 17]] = 0
    pixels[9] = 0, 5  # at the left edge, and there
    pixels[10] = 5, -0.0
    pose = Pose.from_pixels(pixels, 64, 128)
    assert np.flatnonzero(~pose.present).tolist() == [4, 17]
    assert pose.keypoints[9].tolist() == [0, 5 / 128]
    scores = np.full(18, 0.5)
    scores[[0, 17]] = 0
    scores[3] = NAN
    scores[5] = -1
    for given in ((np.column_stack([pixels, scores]), None), (pixels, scores), (pixels.tolist(), scores.tolist())):
        found = Pose.from_pixels(given[0], 64, 128, scores=given[1])
        assert np.flatnonzero(~found.present).tolist() == [0, 3, 4, 5, 17]
        np.testing.assert_array_equal(found.keypoints[found.present], pose.keypoints[found.present])
    assert not Pose.from_pixels(pixels, 64, 128, scores=scores, threshold=0.5).present.any()
    certain = np.column_stack([pixels, np.ones(18)]).tolist()
    assert np.flatnonzero(~Pose.from_pixels(certain, 64, 128).present).tolist() == [4, 17]  # zeros whatever they say
    assert not Pose.from_pixels([None, *certain[1:]], 64, 128).present[0]
    assert pose_faults(Pose.from_pixels(np.zeros((18, 3)), 64, 128))[0].startswith("missing: neck, right_shoulder")


@pytest.mark.parametrize(
    ("keypoints", "scores", "error", "message"),
    [
        (np.ones((18, 3)), np.ones(18), ValueError, "scores must not be given beside the third column of keypoints"),
        (np.ones((18, 2)), np.ones((18, 1)), ValueError, r"scores must have shape \(18,\)"),
        (np.ones((18, 2)), [None] * 18, TypeError, "scores must be real numbers"),
        (np.ones((18, 4)), None, ValueError, r"keypoints must have shape \(18, 2\), received \(18, 4\)"),
        (np.ones((25, 3)), None, ValueError, r"keypoints must have shape \(18, 2\), received \(25, 3\)"),
    ],
)
def test_bad_scores(keypoints, scores, error, message):
    with pytest.raises(error, match=message):
        Pose.from_pixels(keypoints, 64, 128, scores=scores)


@pytest.mark.parametrize(("size", "error"), [((0, 5), ValueError), ((5, -1), ValueError), (("6", 5), TypeError)])
def test_sizes_are_positive(size, error):
    for make in (
        lambda: Pose.from_pixels(GOOD, *size),
        lambda: pose_faults(POSES[0], aspect=size[0] if size[0] != 5 else -1),
    ):
        with pytest.raises(error, match=r"must be (positive|a finite number)"):
            make()


COCO = ["nose", "left_eye", "right_eye", "left_ear", "right_ear"] + [
    f"{side}_{part}" for part in ("shoulder", "elbow", "wrist", "hip", "knee", "ankle") for side in ("left", "right")
]


def test_from_coco17():
    points = np.random.default_rng(0).uniform(0, 100, (17, 2))
    pose = Pose.from_coco17(points, width=200, height=400, name="coco")
    assert pose.name == "coco"
    assert pose.present.all()
    for name, point in zip(COCO, points, strict=True):
        np.testing.assert_allclose(pose.keypoints[AT[name]], point / (200, 400), rtol=1e-14)
    middle = (points[COCO.index("left_shoulder")] + points[COCO.index("right_shoulder")]) / 2
    np.testing.assert_allclose(pose.keypoints[AT["neck"]], middle / (200, 400), rtol=1e-14)


@pytest.mark.parametrize("lost", ["left_shoulder", "right_shoulder", "left_ear", "nose"])
def test_from_coco17_with_scores(lost):
    points = np.random.default_rng(1).uniform(0, 100, (17, 2))
    scores = np.full(17, 0.31)
    scores[COCO.index(lost)] = 0.3  # not above
    pose = Pose.from_coco17(points, scores, width=100, height=100)
    gone = {KEYPOINTS[i] for i in np.flatnonzero(~pose.present)}
    assert gone == ({lost, "neck"} if "shoulder" in lost else {lost})
    assert Pose.from_coco17(points, scores, width=100, height=100, threshold=0.2).present.all()
    assert not Pose.from_coco17(points, scores, width=100, height=100, threshold=0.5).present.any()
    flags = np.where(np.array(COCO) == lost, 0, 2)
    np.testing.assert_array_equal(Pose.from_coco17(points, flags, width=100, height=100).keypoints, pose.keypoints)
    some = [None if name == lost else point for name, point in zip(COCO, points.tolist(), strict=True)]
    np.testing.assert_array_equal(Pose.from_coco17(some, width=100, height=100).keypoints, pose.keypoints)


def test_zeros_of_coco_are_missing_and_make_no_neck():
    points = np.random.default_rng(1).uniform(1, 100, (17, 3))
    points[:, 2] = 2
    points[COCO.index("left_shoulder")] = 0
    for given in (points, points[:, :2]):
        pose = Pose.from_coco17(given, width=100, height=100)
        assert {KEYPOINTS[i] for i in np.flatnonzero(~pose.present)} == {"left_shoulder", "neck"}


def test_a_score_that_is_no_number_is_not_above_the_threshold():
    scores = np.ones(17)
    scores[0] = NAN
    assert not Pose.from_coco17(np.ones((17, 2)), scores, width=9, height=9).present[0]


@pytest.mark.parametrize(
    ("points", "scores", "error", "message"),
    [
        (np.ones((18, 2)), None, ValueError, r"points must have shape \(17, 2\), received \(18, 2\)"),
        (np.ones((17, 2)), np.ones(18), ValueError, r"scores must have shape \(17,\)"),
        (np.ones((17, 2)), ["high"] * 17, TypeError, "scores must be real numbers"),
    ],
)
def test_bad_coco_input(points, scores, error, message):
    with pytest.raises(error, match=message):
        Pose.from_coco17(points, scores, width=10, height=10)


# drawing


@pytest.mark.parametrize("number", range(8))
def test_drawn_as_released(golden, number):
    np.testing.assert_array_equal(draw(POSES[number]), golden["released"][number])


@pytest.mark.parametrize("number", range(16))
def test_drawn_as_opencv_draws(golden, number):
    width, height, stick, radius = golden["sizes"][number].tolist()
    drawn = draw(Pose(golden["keypoints"][number]), width, height, stick_width=stick, joint_radius=radius)
    np.testing.assert_array_equal(drawn, golden[f"drawing_{number}"])


def test_colours_are_in_rgb_order():
    pose = Pose.from_pixels([(10, 10), (30, 60), (5, 60), *[None] * 15], 64, 128)
    picture = draw(pose)
    assert picture[10, 10].tolist() == [255, 0, 0]  # nose
    assert picture[60, 17].tolist() == [153, 0, 0]  # neck to right shoulder, darkened
    assert picture[60, 30].tolist() == [255, 85, 0]
    assert {tuple(color) for color in picture.reshape(-1, 3).tolist()} == {
        *((0, 0, 0), (255, 0, 0), (255, 85, 0), (255, 170, 0)),
        *((153, 0, 0), (0, 0, 153)),  # two limbs: to the shoulder and to the nose
    }


def test_widths_follow_the_size():
    pose = POSES[6]
    assert (draw(pose) == draw(pose, 64, 128, stick_width=1, joint_radius=2)).all()
    assert (draw(pose, 192, 384) == draw(pose, 192, 384, stick_width=3, joint_radius=6)).all()
    assert (draw(pose, 300, 256) == draw(pose, 300, 256, stick_width=2, joint_radius=4)).all()
    assert (draw(pose, 16, 32) == draw(pose, 16, 32, stick_width=1, joint_radius=1)).all()
    assert (draw(pose, 128, 256) != draw(pose, 128, 256, stick_width=1)).any()
    assert draw(pose, 20, 30).shape == (30, 20, 3)


def test_what_is_missing_is_not_drawn():
    assert not draw(Pose([None] * 18)).any()
    lone = draw(Pose.from_pixels([None, (30, 60), *[None] * 16], 64, 128))
    disc = [(x, y) for x in range(-2, 3) for y in range(-2, 3) if abs(x) + abs(y) < 3]
    assert sorted(map(tuple, np.argwhere(lone.any(axis=2)).tolist())) == sorted((60 + y, 30 + x) for x, y in disc)


@pytest.mark.parametrize("name", ["width", "height", "stick_width", "joint_radius"])
def test_bad_sizes_of_a_drawing(name):
    with pytest.raises(ValueError, match=f"{name} must be an integer >= 1, received 0"):
        POSES[0].draw(**{name: 0})
    with pytest.raises(TypeError, match=f"{name} must be an integer >= 1"):
        POSES[0].draw(**{name: 1.5})


class NoPillow:
    def find_spec(self, name, *_):
        if name == "PIL":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_without_pillow(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "PIL"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoPillow(), *sys.meta_path])
    line = r"^drawing a pose needs PIL, which is not installed: pip install 'pose2id\[ipg\]'$"
    with pytest.raises(MissingExtraError, match=line):
        POSES[0].draw()


def test_all_but_drawing_needs_numpy_only():
    program = (
        "import sys, numpy as np; from pose2id.ipg import poses as p; eight = p.representative_poses(); "
        "p.select_representative(np.eye(8), list('abcdefgh'), eight, 3); "
        "print(sorted({'torch', 'scipy', 'PIL', 'diffusers', 'onnxruntime', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# files


def test_written_poses_are_read_again(tmp_path):
    rng = np.random.default_rng(3)
    awkward = rng.normal(0.5, 0.3, (18, 2))
    awkward[[2, 9]] = NAN
    poses = [POSES[2], Pose(awkward, 'a "ß"\n'), Pose([None] * 18)]
    path = write_poses(tmp_path / "poses.json", poses)
    assert path == tmp_path / "poses.json"
    again = read_poses(str(path))
    assert [pose.name for pose in again] == ["3", 'a "ß"\n', ""]
    for pose, first in zip(again, poses, strict=True):
        np.testing.assert_array_equal(pose.keypoints, first.keypoints)
    assert [file.name for file in tmp_path.iterdir()] == ["poses.json"]
    assert "NaN" not in path.read_text()


def test_a_bare_list_without_names_is_read(tmp_path):
    path = tmp_path / "poses.json"
    path.write_text(json.dumps([{"keypoints": GOOD}, {"keypoints": [None] * 18, "name": "x", "direction": "left"}]))
    assert [pose.name for pose in read_poses(path)] == ["1", "x"]
    path.write_text("[]")
    assert read_poses(path) == ()


def test_existing_files_are_kept(tmp_path):
    path = tmp_path / "poses.json"
    path.write_text("mine")
    with pytest.raises(ValueError, match="exists already; name another or pass overwrite=True"):
        write_poses(path, POSES)
    with pytest.raises(TypeError, match=r"poses must be Pose objects, received \['Pose', 'ndarray'\]"):
        write_poses(path, [POSES[0], POSES[0].keypoints], overwrite=True)
    assert path.read_text() == "mine"
    write_poses(path, POSES[:2], overwrite=True)
    assert len(read_poses(path)) == 2


def test_a_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    path = write_poses(tmp_path / "poses.json", POSES)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_poses(path, POSES[:1], overwrite=True)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ('{"poses": 3}', 'it must hold a list of objects with "keypoints", alone or under "poses"'),
        ('{"persons": []}', "it must hold a list of objects"),
        ("[1]", "it must hold a list of objects"),
        ('[{"name": "a"}]', "it must hold a list of objects"),
        (json.dumps([{"keypoints": GOOD}, {"keypoints": GOOD[1:]}]), r"pose number 2: keypoints must have shape"),
        (json.dumps([{"keypoints": GOOD, "name": 1}]), "pose number 1: name must be a string"),
        ('[{"keypoints": {}}]', "pose number 1: keypoints must be an array or a sequence of points, received dict"),
    ],
)
def test_bad_files(tmp_path, text, message):
    path = tmp_path / "poses.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"poses\.json cannot be read as poses: .*" + message):
        read_poses(path)


def test_files_that_are_not_text_or_not_there(tmp_path):
    (tmp_path / "poses.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as poses: 'utf-8' codec"):
        read_poses(tmp_path / "poses.json")
    with pytest.raises(FileNotFoundError):
        read_poses(tmp_path / "none.json")


# what OpenPose writes


BODY_25 = (
    *("Nose", "Neck", "RShoulder", "RElbow", "RWrist", "LShoulder", "LElbow", "LWrist", "MidHip", "RHip", "RKnee"),
    *("RAnkle", "LHip", "LKnee", "LAnkle", "REye", "LEye", "REar", "LEar", "LBigToe", "LSmallToe", "LHeel", "RBigToe"),
    *("RSmallToe", "RHeel"),
)
"""The order of OpenPose's documentation, doc/02_output.md."""


def numbers(count, shift=0):
    """x, y and confidence of keypoints; x says which."""
    return [value for i in range(count) for value in (i + 1 + shift, 2 * i + 3, 0.75)]


def write_people(path, *people, **more):
    people = [{"person_id": [-1], "pose_keypoints_2d": person, "face_keypoints_2d": []} for person in people]
    path.write_text(json.dumps({"version": 1.3, "people": people, **more}))
    return path


def test_openpose_with_25_keypoints(tmp_path):
    values = numbers(25)
    values[3 * 3 : 3 * 3 + 3] = [0, 0, 0]
    values[3 * 8 + 2] = 0  # of the middle of the hips, which is none of ours
    (pose,) = read_poses(write_people(tmp_path / "a.json", values), size=(100, 200))
    assert pose.name == "1"
    for name, (x, y) in zip(KEYPOINTS, pose.keypoints.tolist(), strict=True):
        side, _, part = name.partition("_")
        row = BODY_25.index(side[0].upper() + part.capitalize() if part else name.capitalize())
        if name == "right_elbow":
            assert math.isnan(x)
        else:
            assert (x, y) == pytest.approx(((row + 1) / 100, (2 * row + 3) / 200))


def test_openpose_with_18_keypoints_and_in_its_older_form(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"people": [{"pose_keypoints": numbers(18)}]}))
    (pose,) = read_poses(tmp_path / "a.json", size=(100, 200))
    np.testing.assert_allclose(pose.keypoints, np.array(numbers(18)).reshape(18, 3)[:, :2] / (100, 200))


def test_openpose_with_its_own_canvas_or_fractions(tmp_path):
    path = write_people(tmp_path / "a.json", numbers(18), canvas_width=50, canvas_height=400)
    assert read_poses(path)[0].keypoints[0].tolist() == [1 / 50, 3 / 400]
    with pytest.raises(ValueError, match=r"a\.json .*size is \(60.0, 400.0\), but the file is of a canvas of \(50.0"):
        read_poses(path, size=(60, 400))
    fractions = [value for i in range(18) for value in (0.5 - i / 50, i / 17, 0.75)]
    for options in ({}, {"size": (64, 128)}):
        (pose,) = read_poses(write_people(tmp_path / "b.json", fractions), **options)
        assert pose.keypoints[1].tolist() == [0.48, 1 / 17]


def test_several_people_and_a_folder_of_files(tmp_path):
    assert read_poses(write_people(tmp_path / "nobody_keypoints.json")) == ()
    two = write_people(tmp_path / "b_keypoints.json", numbers(25), numbers(18, shift=7))
    assert [pose.name for pose in read_poses(two, size=(64, 128))] == ["1", "2"]
    write_people(tmp_path / "a_000000000001_keypoints.json", numbers(18))
    write_people(tmp_path / ".hidden_keypoints.json", [1])
    (tmp_path / "readme.txt").touch()
    poses = read_poses(tmp_path, size=(64, 128))
    assert [pose.name for pose in poses] == ["a_000000000001", "b-1", "b-2"]
    assert poses[2].keypoints[0, 0] == 8 / 64
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty holds no \.json files"):
        read_poses(tmp_path / "empty")


ZEROS = [0] * 51


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"people": {}}, "people must be a list, received dict"),
        ({"people": None}, "people must be a list, received NoneType"),
        ({"people": [[]]}, "person number 1: it must be an object with 'pose_keypoints_2d'"),
        ({"people": [{"face_keypoints_2d": []}]}, "person number 1: it must be an object with"),
        (
            [numbers(18), numbers(15)],
            "person number 2: pose_keypoints_2d must be one list of 54 .* received 45 entries",
        ),
        ([[]], "person number 1: pose_keypoints_2d must be one list of 54 .* received 0 entries"),
        ([None], "person number 1: pose_keypoints_2d must be one list of 54 .* received NoneType"),
        ([[numbers(18)]], "person number 1: pose_keypoints_2d must be one list of 54 .* received 1 entries"),
        ([[[1, 2, 0.5]] * 18], "person number 1: pose_keypoints_2d must be one list of 54 .* received 18 entries"),
        ([[[1, 2, 0.5]] * 54], r"person number 1: pose_keypoints_2d\[0\] must be a finite number, received \[1, 2"),
        (
            [[*numbers(18)[:-1], None]],
            r"person number 1: pose_keypoints_2d\[53\] must be a finite number, received None",
        ),
        ([[NAN, 2, 0.5, *ZEROS]], r"person number 1: pose_keypoints_2d\[0\] must be a finite number, received nan"),
        ([[1, 2, math.inf, *ZEROS]], r"person number 1: pose_keypoints_2d\[2\] must be a finite number, received inf"),
        ([["1", 2, 0.5, *ZEROS]], r"person number 1: pose_keypoints_2d\[0\] must be a finite number, received '1'"),
        ([[True, 2, 0.5, *ZEROS]], r"person number 1: pose_keypoints_2d\[0\] must be a finite number, received True"),
        ([[10**400, 2, 0.5, *ZEROS]], "whole number of"),
        ([[-0.5, 0.5, 0.5, *ZEROS]], "coordinates from -1 to 1 are not read; let OpenPose write with --keypoint_scale"),
        ([numbers(18), [990, 2, 0.5, *ZEROS]], "person number 2 lies outside a picture of 64 x 128; give the size"),
        ([[1e300, 2, 0.5, *ZEROS]], "person number 1 lies outside a picture"),
        ({"people": [], "canvas_width": 512}, "width and height must be positive, received 512 and 0"),
        (
            {"people": [], "canvas_width": "512", "canvas_height": 512},
            "width must be a finite number >= 0, received '512'",
        ),
    ],
)
def test_bad_files_of_openpose(tmp_path, content, words):
    if isinstance(content, list):
        content = {"people": [{"pose_keypoints_2d": person} for person in content]}
    path = tmp_path / "a_keypoints.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"a_keypoints\.json cannot be read as poses: .*{words}"):
        read_poses(path, size=(64, 128))


def test_pixels_need_a_size(tmp_path):
    path = write_people(tmp_path / "a.json", numbers(18))
    with pytest.raises(ValueError, match=r"a\.json .*up to 37, are pixels, .*give size=\(width, height\)"):
        read_poses(path)
    for size, error in ((64, TypeError), ("64", TypeError), ((64,), TypeError), ((0, 1), ValueError)):
        with pytest.raises(error, match=r"size must be \(width, height\)|must be positive"):
            read_poses(path, size=size)
    with pytest.raises(ValueError, match="path must be a path, received an empty text"):
        read_poses("")


# valid poses


def mirrored(pose):
    """The pose seen in a mirror: x turned round, left and right swapped."""
    other = [AT[n.replace("left", "*").replace("right", "left").replace("*", "right")] for n in KEYPOINTS]
    return Pose(pose.keypoints[other] * (-1, 1) + (1, 0))


@pytest.mark.parametrize("pose", POSES, ids=lambda pose: pose.name)
def test_released_poses_are_valid(pose):
    assert pose_faults(pose) == ()
    assert pose_valid(pose)
    assert pose_valid(mirrored(pose))
    assert pose_valid(Pose(pose.keypoints * 0.7 + (0.1, 0.25)))  # farther away
    assert pose_valid(Pose(pose.keypoints * (0.5, 1) + (0.2, 0)), aspect=1)  # the same person in a wider picture


def test_the_documented_measures_are_those_of_the_released_poses():
    """Every limit set just around the measures named in the docstring still takes all, and just inside does not."""
    around = PoseLimits(1, 0, 0.295, (0.115, 0.425), (0.935, 1.035), (0.345, 0.515), (0.335, 0.635), (0.615, 0.895))
    around = dataclasses.replace(around, shin=(0.565, 1.025), arm_ratio=1.5, leg_ratio=1.4, twist=0, lean=12.5)
    around = dataclasses.replace(around, elbow=128.5, knee=117.5)
    assert [pose_faults(pose, around) for pose in POSES] == [()] * 8
    inside = {
        "missing": 0,
        "trunk": 0.305,
        "lean": 11.4,
        "elbow": 129.5,
        "knee": 118.5,
        "arm_ratio": 1.4,
        "leg_ratio": 1.3,
    }
    for name, value in inside.items():
        assert not all(pose_valid(pose, dataclasses.replace(around, **{name: value})) for pose in POSES), name
    for name in ("shoulder", "hip", "head", "arm", "thigh", "shin"):
        least, most = getattr(around, name)
        for limit in ((least + 0.01, most), (least, most - 0.01)):
            assert not all(pose_valid(pose, dataclasses.replace(around, **{name: limit})) for pose in POSES), name


STANDING = Pose.from_pixels(
    # trunk of 50 pixels in a picture of 100 x 200
    [
        *[(50, 30), (50, 50), (35, 50), (33, 80), (33, 105), (65, 50), (67, 80), (67, 105)],
        *[(40, 100), (40, 135), (40, 170), (50, 100), (60, 135), (60, 170), (47, 27), (53, 27), (44, 29), (56, 29)],
    ],
    *(100, 200),
)


def at(x, y):
    return x / 100, y / 200


@pytest.mark.parametrize(
    ("points", "faults"),
    [
        ({}, []),
        ({"left_knee": None, "neck": None}, ["missing: neck, left_knee"]),
        (dict.fromkeys(["nose", "left_eye", "right_eye", "left_ear", "right_ear"]), ["missing: face"]),
        (
            dict.fromkeys(["left_wrist", "right_wrist", "left_elbow", "right_elbow", "nose"]),
            ["5 keypoints missing, must be at most 4"],
        ),
        (dict.fromkeys(["left_wrist", "right_wrist", "left_elbow", "right_elbow"]), []),
        (
            {"left_hip": at(50, 75), "right_hip": at(40, 75)},
            ["trunk 0.12 of the picture's height, must be at least 0.15"],
        ),
        ({"right_ear": at(44, -11)}, ["right_ear outside the picture"]),
        ({"right_ear": at(44, -9)}, []),
        ({"left_wrist": at(106, 90)}, ["left_wrist outside the picture"]),
        ({"left_shoulder": at(90, 50)}, ["left shoulder 0.80, must be 0 to 0.7"]),
        ({"right_hip": at(10, 115)}, ["right hip 1.53, must be 0.6 to 1.5"]),
        ({"nose": at(50, 8)}, ["head 0.84, must be 0 to 0.8"]),
        ({"left_wrist": at(68, 128)}, ["left forearm 0.96, must be 0 to 0.9"]),
        ({"right_elbow": at(33, 98)}, ["right upper arm 0.96, must be 0 to 0.9", "forearm"]),
        ({"right_knee": at(40, 112)}, ["right thigh 0.24, must be 0.3 to 1.2", "thigh"]),
        ({"left_ankle": at(60, 149)}, ["left shin 0.28, must be 0.3 to 1.3", "shin 0.70 right and 0.28 left, must"]),
        ({"left_ankle": at(60, 152)}, ["shin 0.70 right and 0.34 left, must differ by at most 2 times"]),
        ({"left_ankle": at(60, 153.5)}, []),
        ({"left_wrist": at(67, 88)}, ["forearm 0.50 right and 0.16 left, must differ by at most 3 times"]),
        ({"left_hip": at(50, 100), "right_hip": at(61, 100)}, ["shoulders (+0.60) and hips (-0.22) lie the other way"]),
        ({"left_hip": at(50, 100), "right_hip": at(59, 100)}, []),
        ({"left_knee": at(60, 98), "left_ankle": at(60, 130)}, ["left thigh", "thigh", "left knee above the hip"]),
        ({"left_ankle": at(67, 112), "left_knee": at(50, 140)}, ["left knee bent to 31 degrees, must be at least 60"]),
        ({"right_wrist": at(28, 52)}, ["right elbow bent to 14 degrees, must be at least 20"]),
        ({name: at(50, 52) for name in KEYPOINTS if name.endswith(("nose", "eye", "ear"))}, ["face below the neck"]),
        ({"right_hip": at(80, 95), "left_hip": at(76, 93)}, ["trunk leans 32 degrees, must be at most 30"]),
    ],
)
def test_faults(points, faults):
    """Every limit, and the values just within it, on a figure where nothing else is wrong."""
    found = pose_faults(changed(STANDING, **points))
    assert len(found) == len(faults), found
    for text, expected in zip(found, faults, strict=True):
        assert text.startswith(expected), found


def test_a_pose_upside_down_is_not_valid():
    found = pose_faults(Pose(STANDING.keypoints * (1, -1) + (0, 1)))
    assert "face below the neck" in found
    assert "left knee above the hip" in found
    assert "right ankle above the hip" in found
    assert any(fault.startswith("trunk leans 174 degrees") for fault in found)


def test_limits_can_be_chosen():
    assert pose_faults(STANDING, PoseLimits(shin=(0.8, 1.0))) == (
        "right shin 0.70, must be 0.8 to 1",
        "left shin 0.70, must be 0.8 to 1",
    )
    assert not pose_valid(STANDING, PoseLimits(shin=(0.8, 1.0)))


@pytest.mark.parametrize("function", [pose_faults, pose_valid, pose_direction])
def test_only_poses_are_measured(function):
    with pytest.raises(TypeError, match="pose must be a Pose, received ndarray"):
        function(POSES[0].keypoints)


def test_limits_are_pose_limits():
    with pytest.raises(TypeError, match="limits must be PoseLimits, received dict"):
        pose_faults(POSES[0], {"knee": 50})


# directions


def turned(degrees, **points):
    """A figure seen from the front, turned about the vertical, shoulders 0.85 of the trunk wide, in a wide picture."""
    turn = math.radians(degrees)
    keypoints = np.full((18, 2), NAN)
    solid = {  # across, down, towards the camera; in trunks
        "neck": (0, 0, 0),
        "right_shoulder": (-0.425, 0, 0),
        "left_shoulder": (0.425, 0, 0),
        "right_hip": (-0.2, 1, 0),
        "left_hip": (0.2, 1, 0),
        "nose": (0, -0.4, 0.3),
    }
    for name, (across, down, ahead) in solid.items():
        keypoints[AT[name]] = across * math.cos(turn) + ahead * math.sin(turn), down
    return changed(Pose(keypoints / (4, 2) / 2 + 0.5), **points)  # aspect 2: a width of 4 trunks, a height of 2


@pytest.mark.parametrize("degrees", [1, 30, 45, 89, 90, 91, 135, 179, -1, -60, -90, -120, -179])
def test_direction_of_a_turned_figure(degrees):
    assert pose_direction(turned(degrees), aspect=2) == pytest.approx(degrees, abs=1e-6)


def test_direction_depends_on_the_shape_of_the_picture():
    expected = math.degrees(math.acos(math.cos(math.radians(60)) / 2))
    assert pose_direction(turned(60), aspect=1) == pytest.approx(expected)


def test_a_mirrored_pose_faces_the_other_way():
    for pose in POSES:
        assert pose_direction(mirrored(pose)) == pytest.approx(-pose_direction(pose))


def test_released_poses_face_as_their_file_says():
    ways = ["front", "front-right", "right", "back-right", "back", "back-left", "left", "front-left"]
    entries = json.loads(DATA.joinpath("representative_poses.json").read_text(encoding="utf-8"))["poses"]
    assert [ways[round(pose_direction(pose) / 45) % 8] for pose in POSES] == [entry["direction"] for entry in entries]


def test_direction_without_a_nose():
    right, left = (0.7, 0.3), (0.3, 0.3)
    pose = turned(60, nose=None)
    assert math.isnan(pose_direction(pose, aspect=2))
    both = {"right_eye": right, "left_eye": (0.6, 0.3)}
    assert pose_direction(changed(pose, **both, right_ear=left, left_ear=left), aspect=2) == pytest.approx(60)
    assert pose_direction(changed(pose, right_eye=right, right_ear=left, left_ear=left), aspect=2) == pytest.approx(-60)
    assert math.isnan(pose_direction(changed(pose, right_eye=right), aspect=2))


@pytest.mark.parametrize("name", ["neck", "left_shoulder", "right_shoulder", "left_hip", "right_hip"])
def test_direction_is_unknown_without_the_trunk(name):
    assert math.isnan(pose_direction(changed(POSES[0], **{name: None})))


def test_direction_is_unknown_without_a_length():
    assert pose_direction(turned(0), aspect=2) == pytest.approx(0, abs=1e-5)  # an arc cosine near 1
    assert math.isnan(pose_direction(changed(turned(0), left_hip=(0.4, 0.5), right_hip=(0.6, 0.5)), aspect=2))


# selection


def test_selection_follows_its_definition():
    """Against a plain walk through the definition, on random features and poses facing everywhere."""
    rng = np.random.default_rng(8)
    n, count = 200, 6
    ids = rng.integers(0, 40, n)
    features = rng.standard_normal((n, 5)) + ids[:, None]
    poses = []
    for _ in range(n):
        base = POSES[rng.integers(8)]
        moved = Pose(base.keypoints + rng.normal(0, 0.03, (18, 2)))
        poses.append(rng.choice([moved, mirrored(moved), None], p=[0.45, 0.45, 0.1]))
    chosen = select_representative(features, ids, poses, count)

    candidates = []
    for label in sorted(set(ids.tolist())):
        rows = [row for row in range(n) if ids[row] == label]
        centre = sum(features[row] for row in rows) / len(rows)
        usable = [row for row in rows if poses[row] is not None and pose_valid(poses[row])]
        if usable:
            candidates.append(min(usable, key=lambda row: math.dist(features[row], centre)))
    assert len(candidates) > 30
    assert len({row for row in range(n) if poses[row] is not None and not pose_valid(poses[row])}) > 5
    angles = {row: pose_direction(poses[row]) for row in candidates}
    expected, left = {}, set(range(count))
    while left:
        pairs = [
            (abs((angles[row] - target * 60 + 180) % 360 - 180), target, row)
            for target in left
            for row in candidates
            if row not in expected.values()
        ]
        _, target, row = min(pairs)
        expected[target] = row
        left.remove(target)
    assert chosen.dtype == np.int64
    assert chosen.tolist() == [expected[target] for target in range(count)]


def test_the_nearest_image_with_a_usable_pose_stands_for_an_identity():
    features = np.array([[0.0], [1.0], [2.0], [10.0], [7.0]])  # the centre of "a" is 3.25
    ids = ["a", "a", "a", "a", "b"]
    bad = changed(POSES[1], left_knee=None)
    faceless = changed(POSES[1], nose=None, left_eye=None, left_ear=None)  # valid, facing nobody knows where
    assert pose_valid(faceless)
    for poses, expected in [
        (POSES[:5], [2, 4]),
        ([*POSES[:2], None, *POSES[3:5]], [1, 4]),
        ([*POSES[:2], bad, *POSES[3:5]], [1, 4]),
        ([*POSES[:2], faceless, *POSES[3:5]], [1, 4]),
    ]:
        assert sorted(select_representative(features, ids, poses, 2).tolist()) == expected


def test_ties_go_to_the_lower_row():
    features = np.array([[1.0], [-1.0], [5.0], [0.0], [0.0]])
    ids = np.array([7, 7, 7, 3, 3])
    features[2] = 0
    assert select_representative(features, ids, [*POSES[:2], None, POSES[4], POSES[4]], 2).tolist() == [0, 3]


def test_every_candidate_is_taken_once():
    chosen = select_representative(np.eye(8), np.arange(8), POSES)
    assert sorted(chosen.tolist()) == list(range(8))
    assert select_representative(np.eye(8), np.arange(8), POSES, 1).tolist() == [0]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": np.eye(8)[0]}, ValueError, r"shape \(N, D\), received \(8,\)"),
        ({"features": np.eye(8) * 1j}, TypeError, "real numbers, received dtype complex128"),
        ({"features": np.diag([1, NAN, 1, 1, math.inf, 1, 1, 1])}, ValueError, r"not so in rows \[1 4\]"),
        ({"ids": np.arange(7)}, ValueError, "ids"),
        ({"ids": np.arange(8.0)}, TypeError, "ids"),
        ({"poses": POSES[:7]}, ValueError, "one entry for each of the 8 features, received 7"),
        ({"poses": [*POSES[:7], "front"]}, TypeError, "pose must be a Pose, received str"),
        ({"count": 0}, ValueError, "count must be an integer >= 1"),
        ({"count": 9}, ValueError, "count is 9, but only 8 identities have an image with a valid pose"),
        ({"ids": np.zeros(8, int)}, ValueError, "count is 8, but only 1 identities"),
        ({"aspect": 0}, ValueError, "positive"),
    ],
)
def test_bad_input_of_the_selection(changes, error, message):
    good = {"features": np.eye(8), "ids": np.arange(8), "poses": POSES}
    with pytest.raises(error, match=message):
        select_representative(**good | changes)


def test_public_names_are_those_that_are_named():
    assert sorted(module.__all__) == module.__all__
