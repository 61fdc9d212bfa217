"""Readers of data sets on miniature trees of empty files, with the traps of the real ones; the SYSU-MM01 protocol."""

from __future__ import annotations

import functools
import json
import operator
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reference import evaluation as reference
from reference.neighbors import distance_matrix
from reference.protocols import evaluate_sysu
from scipy.io import savemat

from pose2id import datasets, evaluate, evaluate_features
from pose2id.datasets import (
    READERS,
    DataSet,
    ImageSet,
    read_cuhk03_np,
    read_dataset,
    read_dukemtmc,
    read_market1501,
    read_mars,
    read_msmt17,
    read_occluded_reid,
    read_regdb,
    read_synthetic,
    read_sysu_mm01,
    read_veri776,
)
from pose2id.evaluation import PROTOCOLS, Protocol

CLUTTER = ("Thumbs.db", ".DS_Store", "desktop.ini", "._0001_c1s1_000001_00.jpg", "readme.txt")


def plant(root, *files):
    """Empty files and the folders around them."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def rows(images, root):
    """(path below root, identity, camera) of every row."""
    assert images.ids.dtype == images.cams.dtype == np.int64
    below = [path.relative_to(root).as_posix() for path in images.paths]
    return list(zip(below, images.ids.tolist(), images.cams.tolist(), strict=True))


def plant_market(root):
    return plant(
        root,
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/0007_c6s3_070542_01.jpg",
        "query/0001_c1s1_001051_00.jpg",
        "query/0003_c2s1_000001_00.jpg",
        "bounding_box_test/0000_c3s2_000151_01.jpg",
        "bounding_box_test/0001_c4s2_001051_00.jpg",
        "bounding_box_test/-1_c1s1_000401_03.jpg",
        "bounding_box_test/0003_c2s1_000026_01.jpg",
    )


def plant_duke(root):
    return plant(
        root,
        "bounding_box_train/0001_c2_f0046182.jpg",
        "query/0005_c2_f0046985.jpg",
        "bounding_box_test/0005_c8_f0000001.jpg",
    )


def plant_cuhk03(root, boxes="detected", first=3):
    return plant(
        root,
        f"{boxes}/bounding_box_train/0001_c1_1.png",
        f"{boxes}/query/{first:04d}_c1_22.png",
        f"{boxes}/bounding_box_test/{first:04d}_c1_21.png",
        f"{boxes}/bounding_box_test/{first:04d}_c2_27.png",
    )


def plant_msmt17(root, train="train", test="test"):
    lists = {
        "train": "0000/0000_000_01_0303morning_0008_0.jpg 0\n0001/0001_003_14_0303noon_0100_1.jpg 1\n",
        "val": "0000/0000_001_02_0303morning_0009_0.jpg 0\n",
        "query": "0000/0000_004_12_0303afternoon_0007_0.jpg 0\n",
        "gallery": "0000/0000_005_15_0303afternoon_0007_2.jpg 0\n0001/0001_000_01_0303morning_0001_0.jpg 1\n",
    }
    for part, text in lists.items():
        write(root / f"list_{part}.txt", text)
        folder = train if part in ("train", "val") else test
        plant(root, *(f"{folder}/{line.split()[0]}" for line in text.splitlines()))
    return root


def plant_occluded(root):
    return plant(
        root,
        *(f"{part}/{n:03d}/{n:03d}_{m:02d}.tif" for part in OCCLUDED for n in (1, 200) for m in (1, 2)),
    )


OCCLUDED = ("occluded_body_images", "whole_body_images")
SYSU_IMAGES = {  # (camera, person): images
    **{(camera, 1): 3 for camera in range(1, 7)},
    **{(camera, 2): 2 for camera in (1, 3)},
    **{(camera, 6): count for camera, count in ((1, 29), (2, 8), (3, 4), (4, 5), (5, 12), (6, 2))},
    **{(camera, 10): count for camera, count in ((1, 14), (3, 3), (4, 11), (6, 1))},
}


def plant_sysu(root):
    for (camera, person), count in SYSU_IMAGES.items():
        plant(root, *(f"cam{camera}/{person:04d}/{n:04d}.jpg" for n in range(1, count + 1)))
    for part, people in (("train", "1"), ("val", "2"), ("test", "10,6")):
        write(root / f"exp/{part}_id.txt", people + "\n")
    return root


def plant_regdb(root, trials=(1, 2)):
    for trial in trials:
        for part, people in (("train", (0, 1)), ("test", (0, 1, 2))):
            for kind, letter in (("Visible", "v"), ("Thermal", "t")):
                names = [f"{kind}/{trial}{part[1]}{n}/male_back_{letter}_{n:05d}_1.bmp" for n in people]
                plant(root, *names)
                lines = [f"{name} {n}" for name, n in zip(names, people, strict=True)]
                write(root / f"idx/{part}_{kind.lower()}_{trial}.txt", "\n".join(lines) + "\n")
    return root


def plant_mars(root, info="info"):
    """Train: tracklets of 2 and 1 frames. Test: junk, distractor, then persons 2 and 4."""
    train = ["0001C1T0001F001.jpg", "0001C1T0001F002.jpg", "0003C2T0001F001.jpg"]
    test = ["00-1C1T0001F001.jpg", "0000C2T0001F001.jpg", "0000C2T0001F002.jpg"]
    test += ["0002C1T0001F001.jpg", "0002C1T0001F002.jpg", "0002C3T0001F001.jpg", "0004C1T0001F001.jpg"]
    plant(root, *(f"bbox_train/{n[:4]}/{n}" for n in train), *(f"bbox_test/{n[:4]}/{n}" for n in test))
    write(root / info / "train_name.txt", "\n".join(train) + "\n")
    write(root / info / "test_name.txt", "\n".join(test) + "\n")
    save_mars(root / info, "tracks_train_info", track_train_info=[[1, 2, 1, 1], [3, 3, 3, 2]])
    tracks = [[1, 1, -1, 1], [2, 3, 0, 2], [4, 5, 2, 1], [6, 6, 2, 3], [7, 7, 4, 1]]
    save_mars(root / info, "tracks_test_info", track_test_info=tracks)
    save_mars(root / info, "query_IDX", query_IDX=[[3, 4, 5]])
    return root


def save_mars(folder, name, **table):
    savemat(folder / f"{name}.mat", {key: np.array(values, dtype=np.float64) for key, values in table.items()})


def plant_veri(root):
    return plant(
        root,
        "image_train/0001_c001_00016450_0.jpg",
        "image_query/0002_c002_00030600_0.jpg",
        "image_test/0002_c020_00031000_1.jpg",
        "image_test/0005_c003_00077625_0.jpg",
    )


POINTS = [None if n % 3 == 0 else [n / 20, 1 - n / 18] for n in range(18)]


def plant_synthetic(root):
    plant_market(root)
    for part in ("bounding_box_train", "query", "bounding_box_test"):
        names = sorted(path.name for path in (root / part).iterdir())
        write(root / part / "keypoints.json", json.dumps(dict.fromkeys(names, POINTS)))
    return root


MARKET = ("bounding_box_train", "query", "bounding_box_test")
TREES = {
    "market1501": (plant_market, "Market-1501-v15.09.15", ("bounding_box_train", "query", "bounding_box_test")),
    "dukemtmc": (plant_duke, "DukeMTMC-reID", ("bounding_box_train", "query", "bounding_box_test")),
    "cuhk03-np": (plant_cuhk03, "cuhk03-np", tuple(f"detected/{each}" for each in MARKET)),
    "msmt17": (plant_msmt17, "MSMT17_V1", ("train", "test", "list_query.txt", "list_val.txt")),
    "occluded-reid": (plant_occluded, "Occluded_REID", OCCLUDED),
    "sysu-mm01": (plant_sysu, "SYSU-MM01", ("cam1", "cam6", "exp/train_id.txt", "exp/val_id.txt", "exp/test_id.txt")),
    "regdb": (plant_regdb, "RegDB", ("Visible", "Thermal", "idx/test_visible_1.txt", "idx/train_thermal_1.txt")),
    "mars": (plant_mars, "MARS", ("bbox_train", "bbox_test", "info/test_name.txt", "info/query_IDX.mat")),
    "veri-776": (plant_veri, "VeRi", ("image_train", "image_query", "image_test")),
    "synthetic": (plant_synthetic, None, ("bounding_box_train", "query", "bounding_box_test")),
}
MISSING = [(name, part) for name, (_, _, parts) in TREES.items() for part in parts]
FOLDERS = [(name, part) for name, part in MISSING if "." not in part and name not in ("sysu-mm01", "regdb")]


# Every reader


@pytest.mark.parametrize("name", READERS)
def test_reader_by_name(tmp_path, name):
    data = read_dataset(name, TREES[name][0](tmp_path))
    direct = READERS[name](str(tmp_path))
    assert data.root == tmp_path
    assert data.protocol in PROTOCOLS
    for part in ("train", "query", "gallery"):
        images, again = getattr(data, part), getattr(direct, part)
        assert rows(images, tmp_path) == rows(again, tmp_path)
        assert all(path.is_file() for path in images.paths)
        assert len(images) > 0 or (name, part) == ("occluded-reid", "train")


@pytest.mark.parametrize("name", [name for name, tree in TREES.items() if tree[1]])
def test_the_folder_around_it_will_do(tmp_path, name):
    plant_tree, inner, _ = TREES[name]
    plant_tree(tmp_path / inner)
    data = read_dataset(name, tmp_path)
    assert data.root == tmp_path / inner
    assert rows(data.gallery, data.root) == rows(read_dataset(name, tmp_path / inner).gallery, data.root)


@pytest.mark.parametrize(("name", "part"), MISSING)
def test_missing_parts_are_named(tmp_path, name, part):
    plant_tree, inner, parts = TREES[name]
    plant_tree(tmp_path)
    remove(tmp_path / part)
    with pytest.raises(FileNotFoundError) as caught:
        read_dataset(name, tmp_path)
    message = str(caught.value)
    if part.startswith("info/"):  # that folder may stand in several places, so its files are looked for second
        assert f"MARS: {tmp_path}/info has no {part[5:]}; expected train_name.txt, test_name.txt, " in message
        return
    assert f"{tmp_path} has no {part}" in message
    for each in parts:
        assert each.partition("/")[0] in message.partition("expected")[2]
    if inner:
        assert re.search(f"inside it: .*{inner}", message)


@pytest.mark.parametrize("name", READERS)
def test_no_such_folder(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"nowhere is not a folder$"):
        read_dataset(name, tmp_path / "nowhere")
    plant(tmp_path, "file")
    with pytest.raises(FileNotFoundError, match=r"file is not a folder$"):
        read_dataset(name, tmp_path / "file")
    with pytest.raises(TypeError, match="root must be a path, received int"):
        read_dataset(name, 7)


def test_sysu_and_regdb_without_images(tmp_path):
    plant_sysu(tmp_path / "sysu")
    for camera in (3, 6):
        remove(tmp_path / f"sysu/cam{camera}")
        plant(tmp_path / f"sysu/cam{camera}", "0006/Thumbs.db", "0010/._0001.jpg")
    with pytest.raises(ValueError, match=r"SYSU-MM01: \S*/cam3, \S*/cam6 for the people listed holds no images"):
        read_sysu_mm01(tmp_path / "sysu")
    plant_regdb(tmp_path / "regdb")
    remove(tmp_path / "regdb/Thermal")
    plant(tmp_path / "regdb/Thermal", "Thumbs.db")
    with pytest.raises(FileNotFoundError, match=r"train_thermal_1.txt names files that are not in \S*: Thermal/1r0"):
        read_regdb(tmp_path / "regdb")


@pytest.mark.parametrize(("name", "part"), FOLDERS)
def test_folders_without_images(tmp_path, name, part):
    TREES[name][0](tmp_path)
    remove(tmp_path / part)
    plant(tmp_path / part, "Thumbs.db", "._0001.jpg")
    with pytest.raises((ValueError, FileNotFoundError)) as caught:
        read_dataset(name, tmp_path)
    words = "holds no images" if name not in ("msmt17", "mars") else "names files that are not in"
    assert words in str(caught.value)
    assert part in str(caught.value)


@pytest.mark.parametrize("name", READERS)
def test_clutter_is_passed_over(tmp_path, name):
    TREES[name][0](tmp_path)
    expected = read_dataset(name, tmp_path)
    for folder in [path for path in tmp_path.rglob("*") if path.is_dir()]:
        plant(folder, *CLUTTER)
    data = read_dataset(name, tmp_path)
    for part in ("train", "query", "gallery"):
        assert rows(getattr(data, part), tmp_path) == rows(getattr(expected, part), tmp_path)


def remove(path):
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def test_the_nearest_folder_is_the_one_complained_about(tmp_path):
    plant_market(tmp_path / "market1501")
    remove(tmp_path / "market1501/query")
    with pytest.raises(FileNotFoundError, match=r"Market-1501: \S*/market1501 has no query; expected bounding_box_tr"):
        read_market1501(tmp_path)


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    plant_market(tmp_path / "sets")
    assert read_market1501("~/sets").root == tmp_path / "sets"


def test_unknown_names_and_options(tmp_path):
    with pytest.raises(ValueError, match=r"name must be one of 'market1501', .*'synthetic', received 'Market'"):
        read_dataset("Market", tmp_path)
    with pytest.raises(TypeError, match=r"dukemtmc has no option 'trial', it has: none"):
        read_dataset("dukemtmc", tmp_path, trial=1)
    for name, meant in (
        ("Duke", "dukemtmc"),
        ("MSMT-17", "msmt17"),
        ("cuhk03", "cuhk03-np"),
        ("occluded", "occluded-reid"),
    ):
        with pytest.raises(ValueError, match=rf", received '{name}'; did you mean '{meant}'\?$"):
            read_dataset(name, tmp_path)
    with pytest.raises(TypeError, match=r"regdb has no option 'trail', it has: trial, direction; did you mean 'trial'"):
        read_dataset("regdb", tmp_path, trail=1)
    with pytest.raises(TypeError, match=r"regdb has no option 'root2', it has: trial, direction"):
        read_dataset("regdb", tmp_path, root2=1)
    plant_regdb(tmp_path)
    assert "Trial 2" in read_dataset("regdb", tmp_path, trial=2).notes[0]


def test_reading_loads_neither_torch_nor_pillow(tmp_path):
    plant_market(tmp_path)
    program = (
        f"import sys; from pose2id.datasets import read_dataset; print(read_dataset('market1501', {str(tmp_path)!r})); "
        "print(sorted({'torch', 'scipy', 'PIL', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# Market-1501, DukeMTMC-reID, VeRi-776: names that tell identity and camera


def test_market1501(tmp_path):
    data = read_market1501(plant_market(tmp_path))
    assert rows(data.train, tmp_path) == [
        ("bounding_box_train/0002_c1s1_000451_03.jpg", 2, 1),
        ("bounding_box_train/0007_c6s3_070542_01.jpg", 7, 6),
    ]
    assert rows(data.query, tmp_path) == [
        ("query/0001_c1s1_001051_00.jpg", 1, 1),
        ("query/0003_c2s1_000001_00.jpg", 3, 2),
    ]
    assert rows(data.gallery, tmp_path) == [
        ("bounding_box_test/-1_c1s1_000401_03.jpg", -1, 1),
        ("bounding_box_test/0000_c3s2_000151_01.jpg", 0, 3),
        ("bounding_box_test/0001_c4s2_001051_00.jpg", 1, 4),
        ("bounding_box_test/0003_c2s1_000026_01.jpg", 3, 2),
    ]
    assert (data.protocol, data.notes, data.gallery.frames, data.gallery.keypoints) == ("market1501", (), None, None)


def test_market1501_without_junk(tmp_path):
    data = read_market1501(plant_market(tmp_path), junk=False)
    assert data.gallery.ids.tolist() == [0, 1, 3]
    assert [path.name[:4] for path in data.gallery.paths] == ["0000", "0001", "0003"]
    assert data.notes == ("Junk (identity -1) is left out.",)
    with pytest.raises(TypeError, match="junk"):
        read_market1501(tmp_path, junk=1)


def test_market1501_is_scored_with_junk_and_distractors(tmp_path):
    data = read_market1501(plant_market(tmp_path))
    labels = (data.query.ids, data.gallery.ids, data.query.cams, data.gallery.cams)
    # The junk is nearest, the distractor next; the second query has a right answer of its own camera only.
    scores = evaluate(np.array([[0.1, 0.2, 0.3, 0.4]] * 2), *labels, protocol=data.protocol)
    assert (scores.valid_queries, scores.mAP, scores.cmc.tolist()) == (1, 0.5, [0, 1, 1])
    assert data.unmatched.tolist() == [False, True]


def test_upper_case_suffixes_and_other_formats(tmp_path):
    plant_market(tmp_path)
    plant(
        tmp_path, "query/0009_c3s1_000001_00.JPG", "query/0010_c3s1_000001_00.png", "query/0011_c3s1_000001_00.jpg.jpg"
    )
    assert read_market1501(tmp_path).query.ids.tolist() == [1, 3, 9, 10, 11]


def test_a_folder_is_no_image(tmp_path):
    plant_market(tmp_path)
    (tmp_path / "query/0009_c3s1_000001_00.jpg").mkdir()
    assert read_market1501(tmp_path).query.ids.tolist() == [1, 3]


@pytest.mark.parametrize("strange", ["cover.jpg", "0001c1s1_000001_00.jpg", "copy_0001_c1s1_000001_00.png", "1_c1.jpg"])
def test_images_with_other_names_are_named(tmp_path, strange):
    plant_market(tmp_path)
    plant(tmp_path, f"query/{strange}")
    with pytest.raises(ValueError, match=rf"must be named like 0002_c1s1_000451_03.jpg, found {strange} in \S*/query;"):
        read_market1501(tmp_path)


def test_many_images_with_other_names_are_counted(tmp_path):
    plant_market(tmp_path)
    plant(tmp_path, *(f"query/x{n}.jpg" for n in range(9)))
    with pytest.raises(ValueError, match=r"x0.jpg, x1.jpg, x2.jpg and 6 more in \S*query; move them"):
        read_market1501(tmp_path)


def test_another_data_set_is_not_taken_for_it(tmp_path):
    plant_duke(tmp_path / "duke")
    with pytest.raises(ValueError, match=r"must be named like 0002_c1s1_000451_03.jpg"):
        read_market1501(tmp_path / "duke")
    plant_market(tmp_path / "market")
    with pytest.raises(ValueError, match=r"DukeMTMC-reID: image files must be named like 0001_c2_f0046182.jpg"):
        read_dukemtmc(tmp_path / "market")


def test_dukemtmc(tmp_path):
    data = read_dukemtmc(plant_duke(tmp_path))
    assert rows(data.train, tmp_path) == [("bounding_box_train/0001_c2_f0046182.jpg", 1, 2)]
    assert rows(data.query, tmp_path) == [("query/0005_c2_f0046985.jpg", 5, 2)]
    assert rows(data.gallery, tmp_path) == [("bounding_box_test/0005_c8_f0000001.jpg", 5, 8)]
    assert data.protocol == "market1501"


def test_veri776(tmp_path):
    data = read_veri776(plant_veri(tmp_path))
    assert rows(data.train, tmp_path) == [("image_train/0001_c001_00016450_0.jpg", 1, 1)]
    assert rows(data.query, tmp_path) == [("image_query/0002_c002_00030600_0.jpg", 2, 2)]
    assert rows(data.gallery, tmp_path) == [
        ("image_test/0002_c020_00031000_1.jpg", 2, 20),
        ("image_test/0005_c003_00077625_0.jpg", 5, 3),
    ]
    assert data.protocol == "market1501"


def test_veri776_lists_decide_what_counts_and_its_order(tmp_path):
    plant_veri(tmp_path)
    write(tmp_path / "name_test.txt", "0005_c003_00077625_0.jpg\r\n\r\n0002_c020_00031000_1.jpg\r\n")
    plant(tmp_path, "image_test/0009_c003_00077625_0.jpg")
    data = read_veri776(tmp_path)
    assert data.gallery.ids.tolist() == [5, 2]
    assert data.query.ids.tolist() == [2]
    write(tmp_path / "name_query.txt", "0002_c002_00030600_0.jpg\n0003_c002_00030600_0.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"name_query.txt names files .*image_query: 0003_c002_000306"):
        read_veri776(tmp_path)


def test_occluded_reid(tmp_path):
    data = read_occluded_reid(plant_occluded(tmp_path))
    assert len(data.train) == 0
    for images, part, camera in ((data.query, OCCLUDED[0], 1), (data.gallery, OCCLUDED[1], 2)):
        assert rows(images, tmp_path) == [
            (f"{part}/{n:03d}/{n:03d}_{m:02d}.tif", n, camera) for n in (1, 200) for m in (1, 2)
        ]
    labels = (data.query.ids, data.gallery.ids, data.query.cams, data.gallery.cams)
    table = np.random.default_rng(0).random((4, 4))
    everything = evaluate(table, *labels, protocol=data.protocol)
    market = evaluate(table, *labels, protocol="market1501")
    assert (everything.mAP, everything.valid_queries) == (market.mAP, market.valid_queries) == (everything.mAP, 4)


def test_occluded_reid_without_folders_of_people(tmp_path):
    plant(tmp_path, f"{OCCLUDED[0]}/003_01.tif", f"{OCCLUDED[1]}/003_02.TIF", f"{OCCLUDED[1]}/004/004_01.jpg")
    data = read_occluded_reid(tmp_path)
    assert (data.query.ids.tolist(), data.gallery.ids.tolist()) == ([3], [3, 4])


def test_synthetic(tmp_path):
    data = read_synthetic(plant_synthetic(tmp_path))
    expected = np.array([[np.nan, np.nan] if point is None else point for point in POINTS])
    for part in (data.train, data.query, data.gallery):
        assert part.keypoints.shape == (len(part), 18, 2)
        assert part.keypoints.dtype == np.float64
        np.testing.assert_array_equal(part.keypoints[-1], expected)
    assert rows(data.gallery, tmp_path) == rows(read_market1501(tmp_path).gallery, tmp_path)
    assert "ynthetic" in str(data)


@pytest.mark.parametrize("with_folder", [True, False])
def test_synthetic_keypoints_in_one_file(tmp_path, with_folder):
    plant_synthetic(tmp_path)
    content, expected = {}, read_synthetic(tmp_path)
    for number, path in enumerate(sorted(tmp_path.rglob("*.jpg"))):
        key = f"{path.parent.name}/{path.name}" if with_folder else path.name
        content[key] = [[number, place] for place in range(18)]
    for file in tmp_path.rglob("keypoints.json"):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no keypoints.json in \S*bounding_box_train and none in"):
        read_synthetic(tmp_path)
    write(tmp_path / "keypoints.json", json.dumps(content))
    data = read_synthetic(tmp_path)
    assert data.query.paths == expected.query.paths
    place = sorted(tmp_path.rglob("*.jpg")).index(data.query.paths[1])
    np.testing.assert_array_equal(data.query.keypoints[1], [[place, n] for n in range(18)])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.popitem() and content, "must have keypoints of every image, has none of .*; it has "),
        (lambda content: [content], "must map file names to keypoints, holds a list"),
        (lambda content: content | {"0003_c2s1_000001_00.jpg": POINTS[:17]}, "must be a list of 18 keypoints"),
        (lambda content: content | {"0003_c2s1_000001_00.jpg": [*POINTS[:17], [0.5]]}, r"must be \[x, y\] or null"),
        (lambda content: content | {"0003_c2s1_000001_00.jpg": [*POINTS[:17], ["a", 0]]}, r"must be \[x, y\] or null"),
        (lambda content: content | {"0003_c2s1_000001_00.jpg": [*POINTS[:17], [True, 0]]}, r"must be \[x, y\] or null"),
        (lambda content: content | {"0003_c2s1_000001_00.jpg": [*POINTS[:17], [np.inf, 0]]}, r"must be \[x, y\] or"),
    ],
)
def test_synthetic_keypoints_that_are_none(tmp_path, change, words):
    plant_synthetic(tmp_path)
    file = tmp_path / "query/keypoints.json"
    write(file, json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(ValueError, match=r"query/keypoints.json.*" + words):
        read_synthetic(tmp_path)
    write(file, "{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        read_synthetic(tmp_path)


# MSMT17, RegDB: lists


@pytest.mark.parametrize(
    ("folder", "train", "test", "words"),
    [
        ("MSMT17_V1", "train", "test", "visible"),
        ("MSMT17_V2", "mask_train_v2", "mask_test_v2", "blurred"),
        (".", "mask_train_V2", "mask_test_V2", "blurred"),
    ],
)
def test_msmt17(tmp_path, folder, train, test, words):
    root = plant_msmt17(tmp_path / folder, train, test)
    data = read_msmt17(tmp_path)
    assert rows(data.train, root) == [
        (f"{train}/0000/0000_000_01_0303morning_0008_0.jpg", 0, 1),
        (f"{train}/0001/0001_003_14_0303noon_0100_1.jpg", 1, 14),
        (f"{train}/0000/0000_001_02_0303morning_0009_0.jpg", 0, 2),
    ]
    assert rows(data.query, root) == [(f"{test}/0000/0000_004_12_0303afternoon_0007_0.jpg", 0, 12)]
    assert rows(data.gallery, root) == [
        (f"{test}/0000/0000_005_15_0303afternoon_0007_2.jpg", 0, 15),
        (f"{test}/0001/0001_000_01_0303morning_0001_0.jpg", 1, 1),
    ]
    assert (data.root, data.protocol) == (root, "market1501")
    assert words in data.notes[0]


def test_msmt17_without_validation(tmp_path):
    plant_msmt17(tmp_path)
    (tmp_path / "list_val.txt").unlink()
    assert read_msmt17(tmp_path, validation=False).train.ids.tolist() == [0, 1]
    with pytest.raises(FileNotFoundError, match=r"has no list_val.txt"):
        read_msmt17(tmp_path)
    with pytest.raises(TypeError, match="validation"):
        read_msmt17(tmp_path, validation=None)


def test_both_versions_of_msmt17(tmp_path):
    plant_msmt17(tmp_path / "MSMT17_V2", "mask_train_v2", "mask_test_v2")
    plant_msmt17(tmp_path / "MSMT17_V1")
    assert read_msmt17(tmp_path).root.name == "MSMT17_V1"
    assert read_msmt17(tmp_path / "MSMT17_V2").root.name == "MSMT17_V2"


def plant_as_market(root, names):
    return plant(root, *(f"{part}/{name}" for part, name in zip((*MARKET, "bounding_box_test"), names, strict=True)))


AS_MARKET = {
    "short": ("0000_c1_0002.jpg", "0000_c14_0030.jpg", "0000_c15_0003.jpg", "3059_c1_0000.jpg"),
    "long": ("0000_c1s1_000002_00.jpg", "0000_c14s2_1_0.jpg", "0000_c15s1_000003_01.jpg", "3059_c1s1_000000_00.jpg"),
    "its own": (
        "0000_000_01_0303morning_0008_0.jpg",
        *("0000_004_14_0303afternoon_0007_0.jpg", "0000_005_15_0303noon_0007_2.jpg"),
        "3059_000_01_0113morning_0001_0.jpg",
    ),
}


@pytest.mark.parametrize("names", AS_MARKET.values(), ids=AS_MARKET.keys())
@pytest.mark.parametrize("name", ["msmt17", "market1501"])
def test_msmt17_in_the_layout_of_market1501(tmp_path, name, names):
    data = read_dataset(name, plant_as_market(tmp_path, names))
    assert [each[1:] for each in rows(data.train, tmp_path)] == [(0, 1)]
    assert [each[1:] for each in rows(data.query, tmp_path)] == [(0, 14)]
    assert [each[1:] for each in rows(data.gallery, tmp_path)] == [(0, 15), (3059, 1)]
    assert (data.root, data.protocol) == (tmp_path, "market1501")
    assert (data.notes, data.name) == (
        (("In the layout of Market-1501.",), "MSMT17") if name == "msmt17" else ((), "Market-1501")
    )


def test_msmt17_in_the_layout_of_market1501_is_not_whole(tmp_path):
    plant_as_market(tmp_path / "msmt17", AS_MARKET["short"])
    assert read_msmt17(tmp_path).root == tmp_path / "msmt17"
    with pytest.raises(FileNotFoundError, match=r"has no train or mask_train_v2 .* and no list_train.txt"):
        read_msmt17(tmp_path, validation=False)
    remove(tmp_path / "msmt17/query")
    with pytest.raises(
        FileNotFoundError,
        match=r"MSMT17: \S*/msmt17 has no query; expected train or .*list_val.txt; or bounding_box_train, query, boun",
    ):
        read_msmt17(tmp_path)
    plant_msmt17(tmp_path / "msmt17")
    assert "visible" in read_msmt17(tmp_path).notes[0]


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("msmt17", ["MSMT17_V1/MSMT17_V1", "MSMT17/MSMT17_V1", "msmt17/MSMT17_V2", "msmt17/MSMT17/MSMT17_V1"]),
        ("market1501", ["market1501/Market-1501-v15.09.15", "Market-1501-v15.09.15/Market-1501-v15.09.15"]),
        ("dukemtmc", ["dukemtmc-reid/DukeMTMC-reID", "DukeMTMC-reID/DukeMTMC-reID"]),
        ("cuhk03-np", ["cuhk03-np/cuhk03-np", "CUHK03-NP", "cuhk03/CUHK03_NP", "cuhknp"]),
        ("veri-776", ["VeRi-776/VeRi", "veri"]),
        ("mars", ["mars/MARS", "Mars"]),
    ],
)
def test_folders_in_folders_of_the_usual_names(tmp_path, name, places):
    for place in places:
        root = tmp_path / place.replace("/", "_")
        TREES[name][0](root / place)
        data = read_dataset(name, root)
        assert data.root == root / place
        assert len(data.query) > 0


def test_cuhk03_np(tmp_path):
    plant_cuhk03(tmp_path)
    plant_cuhk03(tmp_path, "labeled", first=5)
    data, other = read_cuhk03_np(tmp_path), read_cuhk03_np(tmp_path, boxes="labeled")
    assert rows(data.train, tmp_path) == [("detected/bounding_box_train/0001_c1_1.png", 1, 1)]
    assert rows(data.query, tmp_path) == [("detected/query/0003_c1_22.png", 3, 1)]
    assert rows(data.gallery, tmp_path) == [
        ("detected/bounding_box_test/0003_c1_21.png", 3, 1),
        ("detected/bounding_box_test/0003_c2_27.png", 3, 2),
    ]
    assert rows(other.query, tmp_path) == [("labeled/query/0005_c1_22.png", 5, 1)]
    assert (data.protocol, data.root, data.notes, other.notes) == (
        *("market1501", tmp_path),
        *(("Detected boxes.",), ("Labeled boxes.",)),
    )
    assert data.unmatched.tolist() == [False]
    with pytest.raises(ValueError, match="boxes must be one of 'detected', 'labeled', received 'label'; did you mean"):
        read_dataset("cuhk03-np", tmp_path, boxes="label")


@pytest.mark.parametrize("spelled", ["labeled", "Labeled", "labelled"])
def test_one_of_the_two_folders_of_cuhk03_np(tmp_path, spelled):
    root = plant_cuhk03(tmp_path, spelled) / spelled
    for place in (tmp_path, root):
        data = read_cuhk03_np(place, boxes="labeled")
        assert rows(data.gallery, root)[1] == ("bounding_box_test/0003_c2_27.png", 3, 2)
    with pytest.raises(ValueError, match=r"holds the labeled boxes, not the detected ones; pass boxes='labeled'"):
        read_cuhk03_np(root)
    with pytest.raises(FileNotFoundError, match=r"CUHK03-NP: .* has no detected/bounding_box_train or Detected/bound"):
        read_cuhk03_np(tmp_path)


def test_lists_from_windows(tmp_path):
    plant_msmt17(tmp_path)
    lines = (tmp_path / "list_query.txt").read_text().replace("\n", "\r\n") + "\r\n"
    (tmp_path / "list_query.txt").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert read_msmt17(tmp_path).query.ids.tolist() == [0]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("a.jpg\n", ValueError, r"list_query.txt, entry 1: must be a path and a label, found 'a.jpg'"),
        ("0000/0000_004_12_0303afternoon_0007_0.jpg x\n", ValueError, "entry 1: must be a path and a label"),
        ("\n", ValueError, r"list_query.txt is empty"),
        (
            "0009/0009_004_12_x_0007_0.jpg 9\n",
            FileNotFoundError,
            r"names files .*test: 0009/0009_004_12_x",
        ),
        ("0000/odd.jpg 0\n", ValueError, r"must be named like 0000_000_01_0303morning_0008_0.jpg, found odd.jpg in"),
    ],
)
def test_lists_with_faults(tmp_path, text, error, words):
    plant_msmt17(tmp_path)
    plant(tmp_path, "test/0000/odd.jpg")
    write(tmp_path / "list_query.txt", text)
    with pytest.raises(error, match=words):
        read_msmt17(tmp_path)


def test_a_list_that_is_no_text(tmp_path):
    plant_msmt17(tmp_path)
    (tmp_path / "list_query.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ValueError, match=r"list_query.txt must be a text file"):
        read_msmt17(tmp_path)


def test_regdb(tmp_path):
    data = read_regdb(plant_regdb(tmp_path), trial=2)
    assert rows(data.train, tmp_path) == [
        ("Visible/2r0/male_back_v_00000_1.bmp", 0, 1),
        ("Visible/2r1/male_back_v_00001_1.bmp", 1, 1),
        ("Thermal/2r0/male_back_t_00000_1.bmp", 0, 2),
        ("Thermal/2r1/male_back_t_00001_1.bmp", 1, 2),
    ]
    visible = [(f"Visible/2e{n}/male_back_v_{n:05d}_1.bmp", n, 1) for n in range(3)]
    thermal = [(f"Thermal/2e{n}/male_back_t_{n:05d}_1.bmp", n, 2) for n in range(3)]
    assert (rows(data.query, tmp_path), rows(data.gallery, tmp_path)) == (visible, thermal)
    assert data.notes == ("Trial 2 of 10, visible queries, thermal gallery.",)
    assert data.protocol == "all"
    data = read_regdb(tmp_path, trial=2, direction="thermal-visible")
    assert (rows(data.query, tmp_path), rows(data.gallery, tmp_path)) == (thermal, visible)
    assert data.notes == ("Trial 2 of 10, thermal queries, visible gallery.",)


def test_regdb_trials(tmp_path):
    plant_regdb(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"has no idx/train_visible_3.txt and no idx/train_thermal_3.txt"):
        read_regdb(tmp_path, trial=3)
    for trial, error in ((0, ValueError), (11, ValueError), (True, TypeError), ("1", TypeError)):
        with pytest.raises(error, match="trial must be an integer"):
            read_regdb(tmp_path, trial=trial)
    with pytest.raises(ValueError, match="direction must be one of 'visible-thermal', 'thermal-visible', received 'v'"):
        read_regdb(tmp_path, direction="v")


# MARS


def test_mars(tmp_path):
    data = read_mars(plant_mars(tmp_path))
    assert rows(data.train, tmp_path) == [
        ("bbox_train/0001/0001C1T0001F001.jpg", 1, 1),
        ("bbox_train/0003/0003C2T0001F001.jpg", 3, 2),
    ]
    assert [[path.name for path in track] for track in data.train.frames] == [
        ["0001C1T0001F001.jpg", "0001C1T0001F002.jpg"],
        ["0003C2T0001F001.jpg"],
    ]
    assert rows(data.gallery, tmp_path) == [
        ("bbox_test/00-1/00-1C1T0001F001.jpg", -1, 1),
        ("bbox_test/0000/0000C2T0001F001.jpg", 0, 2),
        ("bbox_test/0002/0002C1T0001F001.jpg", 2, 1),
        ("bbox_test/0002/0002C3T0001F001.jpg", 2, 3),
        ("bbox_test/0004/0004C1T0001F001.jpg", 4, 1),
    ]
    assert rows(data.query, tmp_path) == rows(data.gallery, tmp_path)[2:]
    assert [len(track) for track in data.gallery.frames] == [1, 2, 2, 1, 1]
    assert list(data.query.frames) == list(data.gallery.frames)[2:] == list(data.gallery.frames[2:])
    assert data.gallery.frames[-1] == (tmp_path / "bbox_test/0004/0004C1T0001F001.jpg",)
    assert data.unmatched.tolist() == [False, False, True]
    assert (data.protocol, data.notes) == ("market1501", ())
    assert "tracklets" in str(data)


def test_mars_gallery_options(tmp_path):
    plant_mars(tmp_path)
    save_mars(tmp_path / "info", "query_IDX", query_IDX=[[3], [5]])
    for junk, queries, expected in (
        (True, True, [-1, 0, 2, 2, 4]),
        (False, True, [0, 2, 2, 4]),
        (True, False, [-1, 0, 2]),
        (False, False, [0, 2]),
    ):
        data = read_mars(tmp_path, junk=junk, query_in_gallery=queries)
        assert data.gallery.ids.tolist() == expected
        assert data.query.ids.tolist() == [2, 4]
        assert len(data.notes) == 2 - junk - queries


def test_mars_info_as_cloned(tmp_path):
    plant_mars(tmp_path, "MARS-evaluation/info")
    assert read_mars(tmp_path).query.ids.tolist() == [2, 2, 4]


@pytest.mark.parametrize(
    ("file", "table", "words"),
    [
        ("query_IDX", {"query_IDX": [[3, 6]]}, r"query_IDX.mat must number tracklets from 1 to 5"),
        ("query_IDX", {"query_IDX": [[0]]}, r"query_IDX.mat must number tracklets from 1 to 5"),
        ("query_IDX", {"idx": [[3]]}, r"query_IDX.mat must hold a variable 'query_IDX', it holds: idx"),
        ("tracks_test_info", {"track_test_info": [[1, 2, 3]]}, r"has shape \(1, 3\)"),
        ("tracks_test_info", {"track_test_info": [[7, 8, 4, 1]]}, r"tracklet 1: frames 7 to 8 are not among the 7 of"),
        ("tracks_test_info", {"track_test_info": [[0, 1, -1, 1]]}, r"tracklet 1: frames 0 to 1 are not among"),
        ("tracks_test_info", {"track_test_info": [[1, 1, -1, 1], [3, 2, 0, 2]]}, r"tracklet 2: frames 3 to 2"),
        ("tracks_test_info", {"track_test_info": [[4, 6, 2, 1]]}, r"identity 2 and camera 1 are not those of its fra"),
        (
            "tracks_test_info",
            {"track_test_info": [[7, 7, 2, 1]]},
            r"0004C1T0001F001.jpg; the table and test_name.txt m",
        ),
    ],
)
def test_mars_tables_with_faults(tmp_path, file, table, words):
    plant_mars(tmp_path)
    save_mars(tmp_path / "info", file, **table)
    with pytest.raises(ValueError, match=words):
        read_mars(tmp_path)


def test_a_damaged_matlab_file(tmp_path):
    plant_mars(tmp_path)
    (tmp_path / "info/query_IDX.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(105) + b"\x00\x02IM" + bytes(99))
    with pytest.raises(ValueError, match=r"query_IDX.mat cannot be read as a MATLAB file"):
        read_mars(tmp_path)


def test_frames_that_are_not_there(tmp_path):
    plant_mars(tmp_path)
    remove(tmp_path / "bbox_test/0002/0002C1T0001F002.jpg")
    with pytest.raises(FileNotFoundError, match=r"test_name.txt names files .*bbox_test: 0002/0002C1T0001F002.jpg$"):
        read_mars(tmp_path)


# SYSU-MM01


def sysu(camera, person, *numbers):
    return [(f"cam{camera}/{person:04d}/{n:04d}.jpg", person, camera) for n in numbers]


def every(camera, person):
    return sysu(camera, person, *range(1, SYSU_IMAGES.get((camera, person), 0) + 1))


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_parts(tmp_path, mode):
    data = read_sysu_mm01(plant_sysu(tmp_path), mode=mode)
    train = [every(camera, person) for person in (1, 2) for camera in range(1, 7)]
    query = [every(camera, person) for person in (6, 10) for camera in (3, 6)]
    assert rows(data.train, tmp_path) == functools.reduce(operator.iadd, train, [])
    assert rows(data.query, tmp_path) == functools.reduce(operator.iadd, query, [])
    expected = {6: (1, 2, 4, 5), 10: (1, 4)} if mode == "all" else {6: (1, 2), 10: (1,)}
    found = list(zip(data.gallery.ids.tolist(), data.gallery.cams.tolist(), strict=True))
    assert found == [(person, camera) for person, cameras in expected.items() for camera in cameras]
    assert data.protocol == "sysu-mm01"
    assert read_sysu_mm01(tmp_path, validation=False).train.ids.tolist() == [1] * 18


def common_choice(root, mode, trial):
    """The choice of the usual Python versions for single shot, from their description."""
    random.seed(trial)
    paths = []
    for person in ("0006", "0010"):
        for camera in {"all": ("cam1", "cam2", "cam4", "cam5"), "indoor": ("cam1", "cam2")}[mode]:
            folder = root / camera / person
            if folder.is_dir():
                paths.append(random.choice(sorted(folder.iterdir())))  # noqa: S311
    return tuple(paths)


@pytest.mark.parametrize("mode", ["all", "indoor"])
def test_sysu_single_shot_without_the_permutations(tmp_path, mode):
    plant_sysu(tmp_path)
    choices = [read_sysu_mm01(tmp_path, mode=mode, trial=trial) for trial in range(1, 11)]
    for trial, data in enumerate(choices):
        assert data.gallery.paths == common_choice(tmp_path, mode, trial)
        assert f"seed {trial}: no exp/rand_perm_cam.mat" in data.notes[0]
        assert f"Trial {trial + 1} of 10, {mode} search, 1 shot;" in data.notes[0]
    assert len({data.gallery.paths for data in choices}) == 10
    assert choices[3].gallery.paths == read_sysu_mm01(tmp_path, mode=mode, trial=4).gallery.paths


def test_sysu_multi_shot_without_the_permutations(tmp_path):
    data = read_sysu_mm01(plant_sysu(tmp_path), shots=10, trial=3)
    kinds, counts = np.unique(np.stack([data.gallery.ids, data.gallery.cams]), axis=1, return_counts=True)
    assert list(zip(*kinds.tolist(), counts.tolist(), strict=True)) == [
        *((6, 1, 10), (6, 2, 8), (6, 4, 5), (6, 5, 10)),  # at most as many as there are
        *((10, 1, 10), (10, 4, 10)),
    ]
    assert len(set(data.gallery.paths)) == len(data.gallery)
    assert data.gallery.paths == read_sysu_mm01(tmp_path, shots=10, trial=3).gallery.paths
    assert data.gallery.paths != read_sysu_mm01(tmp_path, shots=10, trial=4).gallery.paths
    assert "10 shots" in data.notes[0]


def permutations(seed=0, images=SYSU_IMAGES):
    """The authors' table: a cell for each camera, in it a cell for each person with a (10, images) array."""
    rng = np.random.default_rng(seed)
    table = np.empty((6, 1), dtype=object)
    for camera in range(1, 7):
        cells = np.empty((12, 1), dtype=object)
        for person in range(1, 13):
            count = images.get((camera, person), 0)
            cells[person - 1, 0] = np.stack([rng.permutation(count) + 1 for _ in range(10)]).astype(np.uint8)
        table[camera - 1, 0] = cells
    return table


@pytest.mark.parametrize("shots", [1, 10])
def test_sysu_with_the_permutations(tmp_path, shots):
    plant_sysu(tmp_path)
    table = permutations()
    savemat(tmp_path / "exp/rand_perm_cam.mat", {"rand_perm_cam": table})
    for trial in (1, 7, 10):
        data = read_sysu_mm01(tmp_path, shots=shots, trial=trial)
        expected = []
        for person in (6, 10):
            for camera in (1, 2, 4, 5):
                if (camera, person) in SYSU_IMAGES:
                    row = table[camera - 1, 0][person - 1, 0][trial - 1]
                    expected += sysu(camera, person, *row[:shots].tolist())
        assert rows(data.gallery, tmp_path) == expected
        assert "chosen by the authors' exp/rand_perm_cam.mat" in data.notes[0]


def test_sysu_permutations_of_other_folders(tmp_path):
    plant_sysu(tmp_path)
    savemat(tmp_path / "exp/rand_perm_cam.mat", {"rand_perm_cam": permutations()})
    remove(tmp_path / "cam2/0006/0003.jpg")
    with pytest.raises(ValueError, match=r"has 8 images of person 6 and camera 2 in 10 trials, \S*cam2/0006 holds 7;"):
        read_sysu_mm01(tmp_path)
    savemat(tmp_path / "exp/rand_perm_cam.mat", {"rand_perm_cam": permutations()[:1]})
    with pytest.raises(ValueError, match="of person 6 and camera 2 in 0 trials"):
        read_sysu_mm01(tmp_path)


def test_sysu_identities_from_matlab_files(tmp_path):
    plant_sysu(tmp_path)
    expected = read_sysu_mm01(tmp_path)
    for part, people in (("train", [[1]]), ("val", [[2]]), ("test", [[10, 6]])):
        remove(tmp_path / f"exp/{part}_id.txt")
        savemat(tmp_path / f"exp/{part}_id.mat", {"id": np.array(people, dtype=np.float64)})
    data = read_sysu_mm01(tmp_path)
    for part in ("train", "query", "gallery"):
        assert rows(getattr(data, part), tmp_path) == rows(getattr(expected, part), tmp_path)


def test_sysu_faults(tmp_path):
    plant_sysu(tmp_path)
    for options, error, words in (
        ({"mode": "outdoor"}, ValueError, "mode must be one of 'all', 'indoor', received 'outdoor'"),
        ({"trial": 11}, ValueError, "trial must be an integer from 1 to 10, received 11"),
        ({"trial": 0}, ValueError, "trial must be an integer >= 1"),
        ({"shots": 0}, ValueError, "shots must be an integer >= 1"),
        ({"shots": "single"}, TypeError, "shots must be an integer >= 1, received 'single'"),
        ({"validation": 1}, TypeError, "validation"),
    ):
        with pytest.raises(error, match=words):
            read_sysu_mm01(tmp_path, **options)
    for text, found in (("6,x\n", "'x'"), ("\n", "nothing"), ("-6\n", "'-6'")):
        write(tmp_path / "exp/test_id.txt", text)
        with pytest.raises(ValueError, match=rf"test_id.txt must hold identities, .*; found {found}"):
            read_sysu_mm01(tmp_path)
    write(tmp_path / "exp/test_id.txt", "11 12\n")
    with pytest.raises(ValueError, match="SYSU-MM01: people are listed of whom no camera has an image: 0011, 0012"):
        read_sysu_mm01(tmp_path)


def test_a_sysu_query_of_camera_3_skips_camera_2(tmp_path):
    data = read_sysu_mm01(plant_sysu(tmp_path))
    labels = (data.query.ids, data.gallery.ids, data.query.cams, data.gallery.cams)
    assert data.query.cams.tolist() == [3, 3, 3, 3, 6, 6, 3, 3, 3, 6]
    # The gallery is person 6 by cameras 1, 2, 4, 5 and person 10 by 1, 4. Camera 2's item is the nearest of all.
    table = np.tile([0.9, 0.1, 0.8, 0.7, 0.6, 0.5], (10, 1))
    scores = evaluate(table, *labels, protocol=data.protocol)
    six, ten = np.mean([1 / 3, 2 / 4, 3 / 5]), 1.0
    six_by_6, ten_by_6 = np.mean([1, 2 / 4, 3 / 5, 4 / 6]), np.mean([1 / 2, 2 / 3])
    expected = [six] * 4 + [six_by_6] * 2 + [ten] * 3 + [ten_by_6]
    np.testing.assert_allclose(scores.average_precision, expected, rtol=1e-12)
    assert scores.cmc.tolist() == [0.5, 1.0]  # two people: the second rank is the other person
    assert scores.valid_queries == 10


# The protocol "sysu-mm01" by value


def assert_same(scores, expected):
    assert scores.mAP == pytest.approx(expected.mAP, abs=1e-12)
    assert scores.mINP == pytest.approx(expected.mINP, abs=1e-12)
    assert scores.cmc.shape == expected.cmc.shape
    np.testing.assert_allclose(scores.cmc, expected.cmc, rtol=0, atol=1e-12)
    assert scores.valid_queries == expected.valid_queries
    assert scores.tied_rank1 == expected.tied_rank1


def random_labels(rng, q, g, people=6, modal=True):
    sides = ((q, [3, 6]), (g, [1, 2, 4, 5]))
    cams = [rng.choice(cameras if modal else 6, n) + (0 if modal else 1) for n, cameras in sides]
    return rng.integers(-1, people, q), rng.integers(-1, people, g), *cams


@pytest.mark.parametrize("modal", [True, False])
@pytest.mark.parametrize("levels", [2, 5, 10**6])
def test_sysu_protocol_equals_the_reference(levels, modal):
    rng = np.random.default_rng(levels)
    compared = 0
    for turn in range(32):
        q, g = rng.integers(1, 12), rng.integers(1, 40)
        table = rng.integers(0, levels, (q, g)) / levels
        arguments = random_labels(rng, q, g, modal=modal)
        try:
            expected = evaluate_sysu(table, *arguments)
        except ValueError:  # no query has a match
            with pytest.raises(ValueError, match="at least one query must have a match"):
                evaluate(table, *arguments, protocol="sysu-mm01")
            continue
        assert_same(evaluate(table, *arguments, protocol="sysu-mm01"), expected)
        if turn % 8 == 0:
            words = [side.astype(str) for side in arguments]
            assert_same(evaluate(table, *words, protocol="sysu-mm01"), expected)
        compared += 1
    assert compared > 20


@pytest.mark.parametrize("rounded", [True, False])
def test_sysu_protocol_from_features(rounded):
    rng = np.random.default_rng(0)
    for _ in range(5):
        centres = rng.standard_normal((6, 20))
        query, gallery = (
            (centres[rng.integers(0, 6, n)] + 1e-3 * rng.standard_normal((n, 20))).astype(np.float32) for n in (40, 200)
        )
        if rounded:  # ties
            query, gallery = np.round(query), np.round(gallery)
        arguments = random_labels(rng, 40, 200, people=9)
        table = distance_matrix(query.astype(float), gallery.astype(float)).astype(np.float32)
        expected = evaluate_sysu(table, *arguments)
        assert_same(evaluate_features(query, gallery, *arguments, protocol="sysu-mm01"), expected)


def test_sysu_protocol_marks_the_same_items_as_it_removes():
    rng = np.random.default_rng(1)
    protocol = PROTOCOLS["sysu-mm01"]
    query_ids, gallery_ids, query_cams, gallery_cams = random_labels(rng, 20, 50)
    for identity, camera in zip(query_ids, query_cams, strict=True):
        expected = (gallery_ids == -1) | ((camera == 3) & (gallery_cams == 2))
        np.testing.assert_array_equal(protocol.junk(identity, gallery_ids, camera, gallery_cams), expected)
    assert not protocol.junk(3, np.array([3, 4])).any()
    words = protocol.junk("3", np.array(["3", "4"]), "3", np.array(["2", "1"]))
    assert words.tolist() == [True, False]


def test_sysu_protocol_without_cameras_removes_nothing():
    table = np.array([[0.1, 0.2, 0.3, 0.4]])
    scores = evaluate(table, [1], [2, 2, 3, 1], protocol="sysu-mm01")
    assert (scores.cmc.tolist(), scores.mAP) == ([0, 0, 1], 0.25)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("people", [True, False])
@pytest.mark.parametrize("pairs", [(), ((0, 1), (2, 3))])
def test_the_rules_of_a_protocol_of_ones_own(whole, people, pairs):
    """Each against what `market1501` and `all` make of changed labels."""
    rng = np.random.default_rng(3)
    protocol = Protocol("own", "", True, whole_camera_is_junk=whole, cmc_over_identities=people, co_located=pairs)
    table = rng.integers(0, 9, (15, 60)) / 9
    query_ids, gallery_ids = rng.integers(-1, 8, 15), rng.integers(-1, 8, 60)
    query_cams, gallery_cams = rng.integers(0, 4, 15), rng.integers(0, 4, 60)
    scores = evaluate(table, query_ids, gallery_ids, query_cams, gallery_cams, protocol=protocol)
    if pairs:
        query_cams, gallery_cams = query_cams // 2, gallery_cams // 2
    precisions, firsts, lengths = [], [], []
    for q, row in enumerate(table):
        left = gallery_ids != -1
        here = gallery_cams == query_cams[q]
        left &= ~(here if whole else here & (gallery_ids == query_ids[q]))
        if query_ids[q] == -1 or not (gallery_ids[left] == query_ids[q]).any():
            continue
        precisions.append(reference.evaluate(row[None, left], [query_ids[q]], gallery_ids[left], protocol="all").mAP)
        ranked = gallery_ids[left][np.argsort(row[left], kind="stable")].tolist()
        ranked = list(dict.fromkeys(ranked)) if people else ranked
        firsts.append(ranked.index(query_ids[q]))
        lengths.append(len(ranked))
    assert scores.mAP == pytest.approx(np.mean(precisions), abs=1e-12)
    assert scores.valid_queries == len(firsts)
    assert len(scores.cmc) == max(lengths)
    np.testing.assert_allclose(scores.cmc, [np.mean(np.array(firsts) <= k) for k in range(max(lengths))], atol=1e-12)


# What readers give back


def image_set(ids, cams):
    return ImageSet(tuple(Path(f"{n}.jpg") for n in range(len(ids))), np.array(ids), np.array(cams))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_unmatched_are_the_queries_that_evaluate_skips(protocol):
    rng = np.random.default_rng(5)
    for _ in range(20):
        q, g = rng.integers(1, 30), rng.integers(1, 30)
        query, gallery = (image_set(rng.integers(-1, 9, n), rng.integers(1, 5, n)) for n in (q, g))
        data = DataSet("toy", Path(), image_set([], []), query, gallery, protocol)
        labels = (query.ids, gallery.ids, query.cams, gallery.cams)
        if data.unmatched.all():
            with pytest.raises(ValueError, match="at least one query must have a match"):
                evaluate(rng.random((q, g)), *labels, protocol=protocol)
            continue
        scores = evaluate(rng.random((q, g)), *labels, protocol=protocol)
        np.testing.assert_array_equal(data.unmatched, np.isnan(scores.average_precision))


def test_the_table_of_a_data_set(tmp_path):
    text = str(read_market1501(plant_market(tmp_path), junk=True)).splitlines()
    assert text[0] == f"Market-1501, protocol market1501: {tmp_path}"
    assert [line.split() for line in text[1:5]] == [
        ["images", "identities", "cameras", "junk"],
        ["train", "2", "2", "2", "0"],
        ["query", "2", "2", "2", "0"],
        ["gallery", "4", "3", "4", "1"],
    ]
    assert text[5:] == ["queries without a right answer: 1"]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="cams must have one row for each of the 1 paths, has 2"):
        ImageSet((Path("a"),), np.array([1]), np.array([1, 2]))
    with pytest.raises(ValueError, match="protocol must be one of"):
        DataSet("toy", Path(), image_set([], []), image_set([1], [1]), image_set([1], [2]), "magic")


def test_every_public_name_is_there():
    assert {name for name in vars(datasets) if name.startswith("read_")} <= set(datasets.__all__)
    assert all(hasattr(datasets, name) for name in datasets.__all__)


# --- traps that a review found


def test_links_that_lead_nowhere_are_told(tmp_path):
    plant(tmp_path, *["bounding_box_train/0002_c1s1_000451_03.jpg", "query/0001_c1s1_001051_00.jpg"])
    plant(tmp_path, *["bounding_box_test/0001_c2s1_000401_01.jpg"])
    (tmp_path / "bounding_box_test" / "0001_c3s1_000401_01.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"links to images that are not there: 0001_c3s1_000401_01\.jpg"):
        read_market1501(tmp_path)


@pytest.mark.parametrize("name", ["0001_c1s1_001051_00 - Copy.jpg", "9" * 20 + "_c1s1_1_0.jpg"])
def test_copies_and_huge_numbers_are_told(tmp_path, name):
    plant(tmp_path, *["bounding_box_train/0002_c1s1_000451_03.jpg", "query/0001_c1s1_001051_00.jpg", f"query/{name}"])
    plant(tmp_path, *["bounding_box_test/0001_c2s1_000401_01.jpg"])
    with pytest.raises(ValueError, match=r"image files must be named like 0002_c1s1_000451_03\.jpg, found"):
        read_market1501(tmp_path)


def test_a_file_in_place_of_a_folder(tmp_path):
    plant(
        tmp_path, *["bounding_box_train", "query/0001_c1s1_001051_00.jpg", "bounding_box_test/0001_c2s1_000401_01.jpg"]
    )
    with pytest.raises(FileNotFoundError, match="bounding_box_train must be a folder of images"):
        read_market1501(tmp_path)


def plant_lists(root, lists):
    for camera in range(1, 7):
        plant(root, *[f"cam{camera}/{person:04d}/{shot:04d}.jpg" for person in (1, 2, 6) for shot in (1, 2)])
    (root / "exp").mkdir()
    for part, people in lists.items():
        (root / "exp" / f"{part}_id.txt").write_text(people)
    return root


@pytest.mark.parametrize(
    ("lists", "words"),
    [
        ({"train": "1", "val": "1", "test": "6"}, "a person must be in one list, once; listed again: 1"),
        ({"train": "1", "val": "2", "test": "6,6"}, "listed again: 6"),
        ({"train": "1", "val": "2", "test": "6,7,8"}, "no camera has an image: 0007, 0008"),
    ],
)
def test_lists_of_sysu_that_do_not_fit(tmp_path, lists, words):
    with pytest.raises(ValueError, match=words):
        read_sysu_mm01(plant_lists(tmp_path, lists))


@pytest.mark.parametrize("name", ["cover.jpg", "0001 - Copy.jpg"])
def test_strange_names_in_plant_lists(tmp_path, name):
    root = plant_lists(tmp_path, {"train": "1", "val": "2", "test": "6"})
    plant(root, *[f"cam1/0006/{name}"])
    with pytest.raises(ValueError, match=rf"image files must be named like 0001\.jpg, found {name}"):
        read_sysu_mm01(root)


@pytest.mark.parametrize("infrared", [False, True])
def test_what_the_package_writes_it_reads(tmp_path, infrared):
    """And so does a reader with the checks of the usual toolkits."""
    from pose2id.synthetic import write_dataset

    pytest.importorskip("PIL")
    root = write_dataset(tmp_path / "world", ids=6, cams=6, height=16, width=8, infrared=infrared)
    data = read_synthetic(root, junk=False)
    market = read_market1501(root, junk=False)
    for part in ("train", "query", "gallery"):
        ours, theirs = getattr(data, part), getattr(market, part)
        assert ours.paths == theirs.paths
        np.testing.assert_array_equal(ours.ids, theirs.ids)
        assert (ours.ids >= 0).all()
        for path, who, camera in zip(ours.paths, ours.ids, ours.cams, strict=True):
            person, seen = map(int, re.search(r"([-\d]+)_c(\d)", path.name).groups())
            assert (person, seen) == (who, camera)
            assert 0 <= person <= 1501
            assert 1 <= seen <= 6
    assert -1 in read_synthetic(root).gallery.ids
    assert not data.unmatched.any()
    distances = (data.query.ids[:, None] != data.gallery.ids).astype(float)
    cameras = (data.query.cams, data.gallery.cams)
    assert evaluate(distances, data.query.ids, data.gallery.ids, *cameras, protocol=data.protocol).mAP == 1
