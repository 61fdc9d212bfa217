"""Readers of data sets: no image is passed over, taken twice or from outside, and no number of a list is rounded.

The first half has the faults that were found, each by value; the second mutates small trees at random and compares
what a reader gives, if it gives anything, with a plain look at the files.
"""

from __future__ import annotations

import codecs
import os
import random
import re
import shutil
import struct
import tracemalloc
import zlib
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.sparse import csc_matrix

from pose2id.datasets import READERS, ImageSet, matlab, read_dataset
from pose2id.datasets.matlab import read_variable
from pose2id.images import SUFFIXES

ROUNDS = int(os.environ.get("POSE2ID_FUZZ", "25"))
"""Mutated trees for each reader; a longer run takes the number from the environment."""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())


def plant(root, *files):
    for file in files:
        write(root / file, b"")


def plant_named(*parts):
    def build(root):
        for folder, names in parts:
            plant(root, *(f"{folder}/{name}" for name in names))

    return build


def plant_msmt17(root):
    for part, lines in {
        "train": ["0000/0000_000_01_a_0008_0.jpg 0", "0001/0001_003_14_b_0100_1.jpg 1"],
        "val": ["0000/0000_001_02_a_0009_0.jpg 0"],
        "query": ["0000/0000_004_12_c_0007_0.jpg 0"],
        "gallery": ["0000/0000_005_15_c_0007_2.jpg 0", "0001/0001_000_01_a_0001_0.jpg 1"],
    }.items():
        plant(root, *(f"{'train' if part in ('train', 'val') else 'test'}/{line.split()[0]}" for line in lines))
        write(root / f"list_{part}.txt", "\n".join(lines) + "\n")


def plant_regdb(root):
    for part in ("train", "test"):
        for kind in ("Visible", "Thermal"):
            names = [f"{kind}/{part}{n}/back_{n:05d}_1.bmp" for n in range(3)]
            plant(root, *names)
            write(root / f"idx/{part}_{kind.lower()}_1.txt", "".join(f"{name} {n}\n" for n, name in enumerate(names)))


def plant_sysu(root):
    for camera in range(1, 7):
        for person in (1, 2, 6, 10):
            plant(root, *(f"cam{camera}/{person:04d}/{shot:04d}.jpg" for shot in range(1, 4)))
    for part, people in (("train", "1"), ("val", "2"), ("test", "10,6")):
        write(root / f"exp/{part}_id.txt", f"{people}\n")


def plant_sysu_tables(root):
    plant_sysu(root)
    for part, people in (("train", [[1]]), ("val", [[2]]), ("test", [[10, 6]])):
        (root / f"exp/{part}_id.txt").unlink()
        savemat(root / f"exp/{part}_id.mat", {"id": np.array(people, dtype=float)})


TRACKS = {"train": [[1, 2, 1, 1], [3, 3, 3, 2]], "test": [[1, 1, -1, 1], [2, 3, 0, 2], [4, 5, 2, 1], [6, 6, 2, 3]]}


def plant_mars(root):
    frames = {
        "train": ["0001C1T0001F001", "0001C1T0001F002", "0003C2T0001F001"],
        "test": [
            *("00-1C1T0001F001", "0000C2T0001F001", "0000C2T0001F002"),
            *("0002C1T0001F001", "0002C1T0001F002", "0002C3T0001F001"),
        ],
    }
    for part, names in frames.items():
        plant(root, *(f"bbox_{part}/{name[:4]}/{name}.jpg" for name in names))
        write(root / f"info/{part}_name.txt", "".join(f"{name}.jpg\n" for name in names))
        savemat(root / f"info/tracks_{part}_info.mat", {f"track_{part}_info": np.array(TRACKS[part], dtype=float)})
    savemat(root / "info/query_IDX.mat", {"query_IDX": np.array([[3.0, 4.0]])})


MARKET = plant_named(
    ("bounding_box_train", ["0002_c1s1_000451_03.jpg", "0007_c6s3_070542_01.jpg"]),
    ("query", ["0001_c1s1_001051_00.jpg", "0003_c2s1_000001_00.jpg"]),
    ("bounding_box_test", ["0000_c3s2_000151_01.jpg", "0001_c4s2_001051_00.jpg", "-1_c1s1_000401_03.jpg"]),
)
OCCLUDED = ("occluded_body_images", "whole_body_images")
VERI = plant_named(
    ("image_train", ["0001_c001_00016450_0.jpg"]),
    ("image_query", ["0002_c002_00030600_0.jpg"]),
    ("image_test", ["0002_c020_00031000_1.jpg", "0005_c003_00077625_0.jpg"]),
)


def plant_veri(root):
    VERI(root)
    write(root / "name_test.txt", "0005_c003_00077625_0.jpg\n0002_c020_00031000_1.jpg\n")


TREES = {
    "market1501": MARKET,
    "dukemtmc": plant_named(
        ("bounding_box_train", ["0001_c2_f0046182.jpg"]),
        ("query", ["0005_c2_f0046985.jpg"]),
        ("bounding_box_test", ["0005_c8_f0000001.jpg", "0006_c1_f0000001.jpg"]),
    ),
    "cuhk03-np": plant_named(
        ("detected/bounding_box_train", ["0001_c1_1.png"]),
        ("detected/query", ["0003_c1_22.png", "0003_c2_1.png"]),
        ("detected/bounding_box_test", ["0003_c1_21.png", "0007_c2_27.png"]),
    ),
    "occluded-reid": plant_named(*((part, ["001/001_01.tif", "200/200_1.tif", "200/200_02.tif"]) for part in OCCLUDED)),
    "veri-776": plant_veri,
    "msmt17": plant_msmt17,
    "regdb": plant_regdb,
    "sysu-mm01": plant_sysu,
    "mars": plant_mars,
}
PARTS = {  # those of which every image must be a row
    "market1501": ("bounding_box_train", "query", "bounding_box_test"),
    "dukemtmc": ("bounding_box_train", "query", "bounding_box_test"),
    "cuhk03-np": ("detected/bounding_box_train", "detected/query", "detected/bounding_box_test"),
    "occluded-reid": (None, *OCCLUDED),
    "veri-776": ("image_train", "image_query", None),
}


A_PART = {"occluded-reid": f"{OCCLUDED[0]}/001", "sysu-mm01": "cam3/0006", "veri-776": "image_test"}


@pytest.fixture
def tree(tmp_path):
    def build(name, plant_it=None):
        (plant_it or TREES[name])(tmp_path)
        return tmp_path

    return build


# Images that were passed over


@pytest.mark.parametrize("name", ["market1501", "dukemtmc", "occluded-reid", "veri-776", "sysu-mm01"])
@pytest.mark.parametrize("inner", ["more/{}", "more/and/more/{}", "linked"])
def test_folders_with_images_inside_a_part(tree, name, inner, tmp_path_factory):
    if inner == "linked" and os.name != "posix":
        pytest.skip("links need rights")
    root = tree(name, VERI if name == "veri-776" else None)
    part = A_PART.get(name, "query")
    image = next(path for path in sorted((root / part).iterdir()) if path.is_file()).name
    if inner == "linked":
        away = tmp_path_factory.mktemp("away")
        plant(away, image)
        (root / part / "more").symlink_to(away)
    else:
        plant(root, f"{part}/{inner.format(image)}")
    with pytest.raises(
        ValueError, match=rf"{Path(part).name} has folders with images in it, which would not be read: more; move"
    ):
        read_dataset(name, root)
    shutil.rmtree(root / part / "more") if inner != "linked" else (root / part / "more").unlink()
    plant(root, f"{part}/.hidden/{image}", f"{part}/notes/readme.txt")
    read_dataset(name, root)


@pytest.mark.parametrize("name", ["market1501", "dukemtmc", "occluded-reid", "veri-776", "sysu-mm01"])
@pytest.mark.parametrize("suffix", [".png", ".JPG", ".TIF", ".jpg.jpg", ".webp"])
def test_one_image_in_two_files(tree, name, suffix):
    root = tree(name, VERI if name == "veri-776" else None)
    part = A_PART.get(name, "query")
    image = next(path for path in sorted((root / part).iterdir()) if path.is_file())
    other = image.name.partition(".")[0] + suffix
    if (image.parent / other).exists():
        pytest.skip("the same file")
    plant(root, f"{part}/{other}")
    with pytest.raises(ValueError, match=r"an image must be there once, found again, maybe with another suffix: "):
        read_dataset(name, root)


def test_one_image_of_occluded_reid_in_two_folders(tree):
    root = tree("occluded-reid")
    plant(root, f"{OCCLUDED[1]}/001_01.tif")
    with pytest.raises(ValueError, match=r"an image must be there once, .*: 001_01.tif in \S*whole_body_images; move"):
        read_dataset("occluded-reid", root)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_kind_of_image_that_is_read_counts(tree, suffix):
    root = tree("market1501")
    plant(root, f"query/0009_c3s1_000001_00{suffix}")
    assert read_dataset("market1501", root).query.ids.tolist() == [1, 3, 9]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("cam2/0001.jpg", r"cam2 must hold a folder for each person, holds images: 0001.jpg"),
        ("cam2/6/0004.jpg", r"folders of people must be named like 0001, \S*cam2 holds 6"),
        ("cam2/0006 (copy)/0001.jpg", r"folders of people must be named like 0001, \S*cam2 holds 0006 \(copy\)"),
        ("cam2/0006/1.jpg", "images must have numbers of their own, 1 and 0001 are one"),
    ],
)
def test_images_of_sysu_in_no_folder_of_a_person(tree, file, words):
    root = tree("sysu-mm01")
    plant(root, file)
    with pytest.raises(ValueError, match=words):
        read_dataset("sysu-mm01", root)


# Lists


LISTS = {  # reader, file, a line of it
    "veri-776": ("name_test.txt", "0005_c003_00077625_0.jpg", ""),
    "msmt17": ("list_gallery.txt", "0001/0001_000_01_a_0001_0.jpg", " 1"),
    "regdb": ("idx/test_visible_1.txt", "Visible/test1/back_00001_1.bmp", " 1"),
    "mars": ("info/test_name.txt", "0002C1T0001F002.jpg", ""),
}


def replace(root, file, line, new):
    content = (root / file).read_text()
    assert content.count(line) == 1
    write(root / file, content.replace(line, new))


@pytest.mark.parametrize("name", LISTS)
@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("{root}/{path}", r"without \. and \.\.; found"),
        ("../{path}", r"without \. and \.\.; found '\.\./"),
        ("./{path}", r"without \. and \.\.; found '\./"),
        ("a/../{path}", r"without \. and \.\.; found 'a/"),
        ("/{path}", r"without \. and \.\.; found '/"),
        ("a//{path}", r"without \. and \.\.; found 'a//"),
        ("C:/{path}", r"without \. and \.\.; found 'C:"),
        ("a\\{path}", r"with / between folders and file; found 'a\\\\"),
        ("{path}.txt", r"the path of an image; found"),
        ("._{path}x/._1.jpg", r"the path of an image; found"),
    ],
)
def test_lists_name_files_below_their_folder(tree, name, form, words):
    root = tree(name)
    file, path, label = LISTS[name]
    replace(root, file, path + label, form.format(path=path, root=root.as_posix()) + label)
    number = 1 + (root / file).read_text().splitlines().index(form.format(path=path, root=root.as_posix()) + label)
    with pytest.raises(ValueError, match=rf"{Path(file).name}, entry {number}: must be .*{words}.* in line {number}$"):
        read_dataset(name, root)


@pytest.mark.parametrize("name", LISTS)
def test_lists_name_a_file_once(tree, name):
    root = tree(name)
    file, path, label = LISTS[name]
    content = (root / file).read_text()
    for again in (path, path[:-3] + "png", path.rpartition(".")[0] + path.rpartition(".")[1] + "JPG"):
        write(root / file, content + f"{again}{label}\n" + (f"{again}{label}\n" if again == path else ""))
        with pytest.raises(
            ValueError, match=rf"{Path(file).name} must name every file once, names again: .*{re.escape(path)}"
        ):
            read_dataset(name, root)


def test_two_lists_of_one_part(tree):
    root = tree("msmt17")
    write(root / "list_val.txt", (root / "list_train.txt").read_text())
    with pytest.raises(ValueError, match="an image must be there once, found again"):
        read_dataset("msmt17", root)
    assert len(read_dataset("msmt17", root, validation=False).train) == 2


def test_lists_of_regdb_name_images_of_their_kind(tree):
    root = tree("regdb")
    one, other = (root / f"idx/test_{kind}_1.txt" for kind in ("visible", "thermal"))
    write(one, other.read_text())
    with pytest.raises(ValueError, match=r"test_visible_1.txt must name images in Visible, names back_00000_1.bmp"):
        read_dataset("regdb", root)


@pytest.mark.parametrize("name", LISTS)
def test_lists_in_every_common_form(tree, name):
    root = tree(name)
    file = LISTS[name][0]
    content = (root / file).read_text()
    expected = rows_of(read_dataset(name, root))
    for form in (
        codecs.BOM_UTF8 + content.encode(),
        content.replace("\n", "\r\n").encode(),
        content.replace("\n", "\r").encode(),
        content.replace("\n", " \t\n\n \n").encode(),
        content.replace(" ", " \t  ").encode(),
        content.strip().encode(),
    ):
        write(root / file, form)
        assert rows_of(read_dataset(name, root)) == expected


@pytest.mark.parametrize("name", [*LISTS, "sysu-mm01"])
def test_lists_that_are_no_plain_text(tree, name):
    root = tree(name)
    file = LISTS.get(name, ("exp/test_id.txt",))[0]
    content = (root / file).read_text()
    for form, words in (
        (content.encode("utf-16"), "must be a text file in UTF-8, it is in UTF-16; save it as UTF-8"),
        (content.encode("utf-16-le"), r"found the control character '\\x00' in line 1; UTF-16 has them too"),
        (content.encode() + b"\x00\n", r"the control character '\\x00' in line \d"),
        (content.encode() + b"\x1a", r"the control character '\\x1a' in line \d"),
        (content.encode() + b"\xff", "must be a text file in UTF-8: "),
        (b"", "is empty|found nothing"),
        (b" \n\t\n", "is empty|found nothing"),
    ):
        write(root / file, form)
        with pytest.raises(ValueError, match=rf"{Path(file).name} .*({words})"):
            read_dataset(name, root)
    (root / file).unlink()
    (root / file).mkdir()
    with pytest.raises(ValueError, match=rf"{Path(file).name} must be a text file, it is a folder"):
        read_dataset(name, root)


@pytest.mark.parametrize("name", ["msmt17", "regdb"])
@pytest.mark.parametrize("label", [" 1.5", " 1e3", " x", "", " 1" * 400, " " + "1" * 400, " +1", " 0x1", " ١", " 1,"])
def test_labels_are_whole_numbers(tree, name, label):
    root = tree(name)
    file, path, right = LISTS[name]
    replace(root, file, path + right, path + label)
    with pytest.raises(ValueError, match=rf"{Path(file).name}, entry \d: must be a path and a label, .*in line \d"):
        read_dataset(name, root)


LONG = {
    "blanks": lambda n: "a" + " " * n + "b",
    "a number": lambda n: "1" * n,
    "folders": lambda n: "a/" * n,
    "a pattern": lambda n: "1_" * n,
    "dots": lambda n: "0002_c1s1_1_1." * n,
}


@pytest.mark.parametrize("name", [*LISTS, "sysu-mm01"])
@pytest.mark.parametrize("make", LONG.values(), ids=LONG)
def test_long_lines_take_linear_time(tree, name, make):
    """Quadratic time would be hours for these."""
    root = tree(name)
    file = LISTS.get(name, ("exp/test_id.txt",))[0]
    write(root / file, (root / file).read_text() + make(2**21) + ".jpg\n")
    with pytest.raises((ValueError, FileNotFoundError), match=Path(file).name) as caught:
        read_dataset(name, root)
    assert len(str(caught.value)) < 3000


# Tables of MATLAB


NUMBERS = [
    (1.5, r"must hold whole numbers, found 1.5 at \(1, 1\)"),
    (np.nan, r"must hold whole numbers, found nan at \(1, 1\)"),
    (np.inf, r"must hold whole numbers, found inf at \(1, 1\)"),
    (2.0**60, r"must hold whole numbers, found 1.15\S* at \(1, 1\)"),
    (1 + 1j, "must be a full table of real numbers, found complex numbers"),
    (3 + 0j, "must be a full table of real numbers, found complex numbers"),
    ("3", "must be a full table of real numbers, found text"),
]
WHOLE = [
    (csc_matrix(np.eye(3)), "must be a full table of real numbers, found a sparse matrix"),
    ({"a": 1}, "must be a full table of real numbers, found a struct"),
    (np.array([["a", 2]], dtype=object), "must be a full table of real numbers, found cells"),
    (np.zeros((2, 2, 2)), "shape|one row"),
    (np.zeros((0, 0)), "shape|one row"),
]


TABLES = {
    "mars": ("info/query_IDX.mat", "query_IDX", np.array([[3.0, 4.0]])),
    "mars tracks": ("info/tracks_test_info.mat", "track_test_info", np.array(TRACKS["test"], dtype=float)),
    "sysu-mm01": ("exp/test_id.mat", "id", np.array([[10.0, 6.0]])),
}


@pytest.mark.parametrize("which", ["mars", "mars tracks", "sysu-mm01"])
@pytest.mark.parametrize(("number", "words"), NUMBERS)
def test_tables_hold_whole_numbers(tree, which, number, words):
    name = which.split()[0]
    root = tree(name, plant_sysu_tables if name == "sysu-mm01" else None)
    file, variable, table = TABLES[which]
    kind = type(number) if isinstance(number, complex) else str if isinstance(number, str) else float
    table = table.astype(kind)
    table[0, 0] = number
    savemat(root / file, {variable: table})
    with pytest.raises(ValueError, match=rf"{Path(file).name}: '{variable}' {words}"):
        read_dataset(name, root)


@pytest.mark.parametrize("which", ["mars", "mars tracks", "sysu-mm01"])
@pytest.mark.parametrize(("table", "words"), WHOLE)
def test_tables_are_full_and_of_their_shape(tree, which, table, words):
    name = which.split()[0]
    root = tree(name, plant_sysu_tables if name == "sysu-mm01" else None)
    file, variable, _ = TABLES[which]
    savemat(root / file, {variable: table})
    with pytest.raises(ValueError, match=rf"{Path(file).name}.*({words})"):
        read_dataset(name, root)


def test_numbers_of_every_type_are_read(tree):
    root = tree("mars")
    for dtype in ("uint8", "int16", "int32", "uint64", "int64", "float32", "float64"):
        for table in ([[4, 3]], [[4], [3]]):
            savemat(root / "info/query_IDX.mat", {"query_IDX": np.array(table, dtype=dtype)})
            assert [path.name for path in read_dataset("mars", root).query.paths] == [
                "0002C3T0001F001.jpg",
                "0002C1T0001F001.jpg",
            ]


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ([[3, 4, 3]], "must name every tracklet once, names again: 3"),
        ([[3, 5]], "must number tracklets from 1 to 4, found 5"),
        ([[-1, 3]], "must number tracklets from 1 to 4, found -1"),
        ([[3, 4], [1, 2]], "must be one row or one column of numbers"),
    ],
)
def test_queries_of_mars(tree, numbers, words):
    root = tree("mars")
    savemat(root / "info/query_IDX.mat", {"query_IDX": np.array(numbers, dtype=float)})
    with pytest.raises(ValueError, match=rf"query_IDX.mat.*{words}"):
        read_dataset("mars", root)


@pytest.mark.parametrize(
    ("tracks", "words"),
    [
        ([[1, 1, -1, 1], [2, 3, 0, 2], [4, 5, 2, 1], [4, 5, 2, 1]], "of one tracklet, 3 and 4 have frames in common"),
        ([[2, 3, 0, 2], [3, 3, 0, 2]], "must be of one tracklet, 1 and 2 have frames in common"),
        ([[3, 3, 0, 2], [2, 3, 0, 2]], "must be of one tracklet, 1 and 2 have frames in common"),
        ([[4, 6, 2, 1]], "identity 2 and camera 1 are not those of its frames"),
    ],
)
def test_a_frame_of_mars_is_of_one_tracklet(tree, tracks, words):
    root = tree("mars")
    savemat(root / "info/tracks_test_info.mat", {"track_test_info": np.array(tracks, dtype=float)})
    with pytest.raises(ValueError, match=words):
        read_dataset("mars", root)


def test_frames_of_another_in_the_middle_of_a_tracklet(tree):
    root = tree("mars")
    names = ["0002C1T0001F001.jpg", "0003C1T0001F001.jpg", "0002C1T0001F002.jpg"]
    plant(root, *(f"bbox_test/{name[:4]}/{name}" for name in names))
    write(root / "info/test_name.txt", "\n".join(names))
    savemat(root / "info/tracks_test_info.mat", {"track_test_info": np.array([[1.0, 3, 2, 1]])})
    with pytest.raises(ValueError, match="tracklet 1: identity 2 and camera 1 are not those of its frames"):
        read_dataset("mars", root)


def cells(*tables_):
    made = np.empty((len(tables_), 1), dtype=object)
    for place, table in enumerate(tables_):
        made[place, 0] = table
    return made


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (np.tile([1.0, 2, 3.5], (10, 1)), r"camera 1, person 6 must hold whole numbers, found 3.5 at \(1, 3\)"),
        (
            np.tile([1, 2, 3 + 0j], (10, 1)),
            "camera 1, person 6 must be a full table of real numbers, found complex numbers",
        ),
        (np.tile([1.0, 2, 2], (10, 1)), "has 3 images of person 6 and camera 1 in 10 trials"),
        (np.tile([0.0, 1, 2], (10, 1)), "has 3 images of person 6"),
        (np.tile([1.0, 2], (10, 1)), "has 2 images of person 6"),
        (np.array(["abc"] * 10), "camera 1, person 6 must be a full table of real numbers"),
    ],
)
def test_permutations_of_sysu(tree, table, words):
    root = tree("sysu-mm01")
    good = np.tile([2.0, 1, 3], (10, 1))
    people = [[good] * 12 for _ in range(6)]
    people[0][5] = table
    savemat(root / "exp/rand_perm_cam.mat", {"rand_perm_cam": cells(*(cells(*each) for each in people))})
    with pytest.raises(ValueError, match=rf"rand_perm_cam.mat.* {words}"):
        read_dataset("sysu-mm01", root)
    shutil.rmtree(root / "cam1/0006")  # a table of images that are gone
    if not isinstance(table[0], str):
        with pytest.raises(ValueError, match=r"rand_perm_cam.mat"):
            read_dataset("sysu-mm01", root)


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "?"])
def test_matlab_files_hold_what_was_saved(tmp_path, compressed, dtype):
    table = (np.arange(12).reshape(3, 4) % 5).astype(dtype)
    nested = cells(table, cells(table[:1], np.zeros((0, 0))), np.zeros((2, 0)))
    content = {"other": "text", "table": table, "long_name_of_a_table": table.T, "nested": nested, "last": {"a": 1}}
    savemat(tmp_path / "x.mat", content, do_compression=compressed)
    assert np.array_equal(read_variable(tmp_path / "x.mat", "table"), table)
    assert np.array_equal(read_variable(tmp_path / "x.mat", "long_name_of_a_table"), table.T)
    found = read_variable(tmp_path / "x.mat", "nested")
    assert found.shape == (3, 1)
    assert np.array_equal(found[0, 0], table)
    assert np.array_equal(found[1, 0][0, 0], table[:1])
    assert (found[1, 0][1, 0].size, found[2, 0].shape) == (0, (2, 0))
    assert (read_variable(tmp_path / "x.mat", "other").what, read_variable(tmp_path / "x.mat", "last").what) == (
        "text",
        "a struct",
    )


def test_matlab_files_of_the_other_byte_order(tmp_path):
    """Written by hand: a row of two doubles that are stored as bytes, its name in the short form."""
    words = [6, 8, 6, 0, 5, 8, 1, 2, (1 << 16) + 1]  # flags, shape, name
    body = struct.pack(">9I", *words) + b"a\0\0\0" + struct.pack(">I", (2 << 16) + 2) + b"\x07\xff\0\0"
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    (tmp_path / "x.mat").write_bytes(head + struct.pack(">2I", 14, len(body)) + body)
    found = read_variable(tmp_path / "x.mat", "a")
    assert (found.tolist(), found.dtype) == ([[7.0, 255.0]], np.float64)


def test_an_object_of_matlab_beside_a_table(tmp_path):
    """Written by hand, as MATLAB stores a string array: flags, then its name where others have their shape."""
    savemat(tmp_path / "x.mat", {"a": np.array([[1.0, 2.0]])})
    body = struct.pack("<8I", 6, 8, 17, 0, (1 << 16) + 1, ord("s"), (3 << 16) + 1, 0)
    with (tmp_path / "x.mat").open("ab") as file:
        file.write(struct.pack("<2I", 14, len(body)) + body)
    assert read_variable(tmp_path / "x.mat", "a").tolist() == [[1.0, 2.0]]
    assert read_variable(tmp_path / "x.mat", "s").what == "an object"


@pytest.mark.parametrize("compressed", [False, True])
def test_damaged_matlab_files_never_bring_the_process_down(tmp_path, compressed):
    """Cut at every byte, and with every byte changed: an error that names the file, or the numbers that it holds."""
    path, table = tmp_path / "x.mat", np.array([[1.0, 2, 3], [4, 5, 6]])
    savemat(path, {"a": table}, do_compression=compressed)
    content = path.read_bytes()
    changed = [content[:at] for at in range(len(content))]
    for at in range(116, len(content)):
        changed += [content[:at] + bytes([value]) + content[at + 1 :] for value in (0, 5, 17, 255)]
    refused = []
    for each in changed:
        path.write_bytes(each)
        try:
            found = read_variable(path, "a")
        except ValueError as error:
            refused.append(str(error))
            continue
        if isinstance(found, np.ndarray) and found.dtype == float and not compressed and found.size == 6:
            assert found.tobytes("F") == each[-48:]
    assert len(refused) > len(content)
    assert all(words.startswith(f"{path} ") for words in refused)


@pytest.mark.parametrize("element", [(2, 0), (15, 0), (14, 0)])
def test_small_files_that_unpack_to_many_elements(tmp_path, element):
    """As many as there is room for, each of no bytes: as variables, and as cells of one."""
    head, many = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM", struct.pack("<2I", *element) * 20_000
    cell = struct.pack("<12I", 6, 8, 1, 0, 5, 8, 20_000, 1, (1 << 16) + 1, ord("a"), 0, 0)[:40] + many
    for body in (many, struct.pack("<2I", 14, len(cell)) + cell):
        packed = zlib.compress(body)
        (tmp_path / "x.mat").write_bytes(head + struct.pack("<2I", 15, len(packed)) + packed)
        tracemalloc.start()
        with (
            nullcontext() if body is not many and element[0] == 14 else pytest.raises(ValueError, match=r"it holds|cut")
        ):
            found = read_variable(tmp_path / "x.mat", "a")
            assert (found.shape, found[-1, 0].shape) == ((20_000, 1), (0, 0))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 6 * len(body)


def test_variables_that_unpack_to_too_much_together(tmp_path, monkeypatch):
    savemat(tmp_path / "x.mat", {name: np.zeros((100, 100)) for name in "abc"}, do_compression=True)
    monkeypatch.setattr(matlab, "_LARGEST", 250_000)
    assert read_variable(tmp_path / "x.mat", "a").shape == (100, 100)
    monkeypatch.setattr(matlab, "_LARGEST", 200_000)
    with pytest.raises(ValueError, match=r"x.mat cannot be read .*: a variable in it has more than 39,\d\d\d bytes"):
        read_variable(tmp_path / "x.mat", "a")


def test_a_variable_that_unpacks_to_too_much(tmp_path, monkeypatch):
    savemat(tmp_path / "x.mat", {"a": np.zeros((100, 100))}, do_compression=True)
    monkeypatch.setattr(matlab, "_LARGEST", 50_000)
    with pytest.raises(ValueError, match=r"x.mat cannot be read .*: a variable in it has more than 50,000 bytes"):
        read_variable(tmp_path / "x.mat", "a")
    monkeypatch.setattr(matlab, "_LARGEST", 100)
    with pytest.raises(ValueError, match=r"it has more than 100 bytes"):
        read_variable(tmp_path / "x.mat", "a")
    deep = np.zeros((1, 1))
    for _ in range(20):
        deep = cells(deep)
    monkeypatch.undo()
    savemat(tmp_path / "x.mat", {"a": deep})
    with pytest.raises(ValueError, match=r"it has cells in cells, more than 8 levels deep"):
        read_variable(tmp_path / "x.mat", "a")


def test_labels_of_an_image_set_are_integers():
    paths = (Path("a.jpg"), Path("b.jpg"))
    for labels in ([1.5, 2], np.array([1.0, 2.0]), ["1", "2"], [[1], [2]], [1, 2j], [1, 2**70]):
        with pytest.raises((ValueError, TypeError), match=r"^(ids|cams) must"):
            ImageSet(paths, labels, [1, 2])
        with pytest.raises((ValueError, TypeError), match=r"^(ids|cams) must"):
            ImageSet(paths, [1, 2], labels)


# Mutated trees against a plain look at the files


def rows_of(data):
    """(path, identity, camera) of every row of the three parts."""
    return [
        [(str(path), int(who), int(cam)) for path, who, cam in zip(part.paths, part.ids, part.cams, strict=True)]
        for part in (data.train, data.query, data.gallery)
    ]


ODD_NAMES = [
    "{stem}.png", "{stem}.JPG", "{stem}.jpg.jpg", "{stem}.gif", "{stem}.txt", "{stem}", "._{stem}.jpg", "{stem}.jpg ",
    "{stem} - Copy.jpg", "sub/{stem}.jpg", "sub/deep/{stem}.jpg", ".sub/{stem}.jpg", "{stem}x.jpg", "0{stem}.jpg",
    "9{stem}.jpg", "-{stem}.jpg", "{long}{stem}.jpg", "{upper}.jpg", "Thumbs.db", "٣{stem}.jpg", "{stem}.jp2", "1.jpg",
]  # fmt: skip


def mutate_folder(rng, root):
    """One change of the files of a tree."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and path.suffix.lower() in SUFFIXES)
    if not files:
        return
    path = rng.choice(files)
    change = rng.choice(["add", "add", "add", "add", "remove", "rename", "folder", "dangling", "link", "inner", "fifo"])
    stem = path.name.partition(".")[0]
    name = rng.choice(ODD_NAMES).format(stem=stem, long="1" * 180, upper=stem.upper())
    if change == "add":
        plant(path.parent, name)
    elif change == "remove":
        path.unlink()
    elif change == "rename" and "/" not in name and not (path.parent / name).exists():
        path.rename(path.parent / name)
    elif change == "folder":
        path.unlink()
        path.mkdir()
    elif change in ("dangling", "link", "inner"):
        aim = root.parent / "elsewhere"
        plant(aim, path.name)
        link = path.parent / (f"9{path.name}" if change == "link" else "linked" if change == "inner" else path.name)
        if change == "dangling":
            path.unlink()
        if not link.exists():
            link.symlink_to({"dangling": aim / "gone", "link": aim / path.name, "inner": aim}[change])
    elif change == "fifo" and hasattr(os, "mkfifo"):
        path.unlink()
        os.mkfifo(path)


def mutate_text(rng, path):
    """One change of a list."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    at = rng.randrange(len(lines))
    line = lines[at]
    new = rng.choice([
        b"/" + line, b"../" + line, b"./" + line, line.replace(b"/", b"//"), line.replace(b"/", b"\\"), line + b".5",
        line + b" " + b"1" * 400, line + b"\x00", line + b"\x0c", b"\n" + line, line + b" " * 16000 + b"1", b"",
        line + b"\n" + line, line.upper(), line + "\u00a0".encode(), line + "\u2028".encode() + line, line[:-1],
        b"-" + line, line + b",7", line.replace(b"0", b"00"), line[::-1], line.replace(b".jpg", b".png"), b"\t" + line,
        line + b" -1", b"\xef\xbb\xbf" + line, line.replace(b" ", b"\t "), b" ".join([line] * 2), line + b",",
        b"\r" + line,
    ])  # fmt: skip
    lines[at] = new
    text = b"\n".join(lines)
    whole = rng.random()
    if whole < 0.04:
        text = content.decode("utf-8", "replace").encode("utf-16")
    elif whole < 0.08:
        text = codecs.BOM_UTF8 + text
    elif whole < 0.12:
        text = text.replace(b"\n", b"\r\n")
    elif whole < 0.16:
        place = rng.randrange(max(1, len(content)))
        text = content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]
    elif whole < 0.2:
        text = b"\n".join(rng.sample(lines, len(lines)))
    path.write_bytes(text)


STORED = {
    "query_IDX.mat": ("query_IDX", np.array([[3.0, 4.0]])),
    **{f"tracks_{part}_info.mat": (f"track_{part}_info", np.array(rows, dtype=float)) for part, rows in TRACKS.items()},
}


def mutate_table(rng, path):
    """One change of a MATLAB file, each time of the file as it was."""
    variable, table = STORED[path.name]
    damaged = path.with_suffix(".damaged")  # not to be read by scipy, which some damaged files bring down
    if rng.random() < 0.3:
        savemat(path, {variable: table})
        damaged.touch()
        content = bytearray(path.read_bytes())
        for _ in range(rng.randrange(1, 4)):
            content[rng.randrange(len(content))] = rng.randrange(256)
        path.write_bytes(bytes(content[: rng.choice([len(content), len(content), rng.randrange(len(content))])]))
        return
    damaged.unlink(missing_ok=True)
    table = table.copy()
    at = tuple(rng.randrange(size) for size in table.shape)
    table[at] = rng.choice([1.5, -1, 0, np.nan, np.inf, 2.0**60, table[at] + 1, table[at] - 1, 1, 2, 3, 10, 6, 1e-9])
    table = rng.choice([
        table, table, table, table, table + 0j, table.T, np.concatenate([table, table]), table[:, ::-1], table[None],
        np.concatenate([table, table], axis=1), csc_matrix(np.nan_to_num(table, posinf=0)), table.astype(str),
        np.array([["a", 1]], dtype=object), table[:0], table.astype(np.float32), table > 1, table[rng.randrange(2) :],
    ])  # fmt: skip
    held = {"a": table} if rng.random() < 0.03 and not hasattr(table, "nnz") else table
    savemat(path, {variable: held}, do_compression=rng.random() < 0.5)


def table_of(path):
    variable, table = STORED[path.name]
    if path.with_suffix(".damaged").exists():  # the numbers are the end of the file
        return np.frombuffer(path.read_bytes()[-8 * table.size :], "<f8").reshape(table.shape, order="F")
    return loadmat(path)[variable]


def mutate(rng, root):
    lists = sorted(path for path in root.rglob("*.txt") if path.is_file() and not path.stem.startswith("."))
    stored = sorted(root.rglob("*.mat"))
    kind = rng.random()
    if stored and kind < 0.4:
        mutate_table(rng, rng.choice(stored))
    elif lists and kind < 0.75:
        mutate_text(rng, rng.choice(lists))
    else:
        mutate_folder(rng, root)


def visible_images(folder):
    """All images that a person would see there: in every folder that is not hidden, links followed."""
    found = []
    for top, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [each for each in folders if not each.startswith(".")]
        found += [f"{top}/{each}" for each in files if each.lower().endswith(SUFFIXES) and each[0] != "."]
    return sorted(found)


def lines_of(path):
    return [line.strip(" \t") for line in re.split("\r\n|\r|\n", path.read_bytes().decode("utf-8-sig")) if line.strip()]


def labels_of(path):
    """(identity, camera) as the first two numbers of a file's name say."""
    words = Path(path).name.split("_")
    return int(words[0]), int(re.fullmatch(r"c(\d+)(s\d+)?", words[1])[1])


def check_named(name, root, found):
    for part, rows in zip(PARTS[name], found, strict=True):
        if part is None:
            continue
        source = root / f"name_{part.rpartition('_')[2]}.txt"
        listed = name == "veri-776" and source.is_file()
        paths = [str(root / part / line) for line in lines_of(source)] if listed else visible_images(root / part)
        assert sorted(path for path, _, _ in rows) == sorted(paths)
        if name == "occluded-reid":
            assert all(int(Path(path).name[:3].strip("_") or 0) <= who for path, who, _ in rows)
        else:
            assert all(labels_of(path) == (who, cam) for path, who, cam in rows)


def check_listed(name, root, found):
    if name == "regdb":
        lists = [[f"idx/train_{kind}_1.txt" for kind in ("visible", "thermal")], ["idx/test_visible_1.txt"]]
        lists, folders = [*lists, ["idx/test_thermal_1.txt"]], [root] * 3
    else:
        lists = [["list_train.txt", "list_val.txt"], ["list_query.txt"], ["list_gallery.txt"]]
        folders = [root / "train", root / "test", root / "test"]
    for files, folder, rows in zip(lists, folders, found, strict=True):
        lines = [line.rsplit(maxsplit=1) for file in files for line in lines_of(root / file)]
        assert [(path, who) for path, who, _ in rows] == [(f"{folder}/{path}", int(label)) for path, label in lines]


def check_mars(root, found):
    for part, rows in (("train", found[0]), ("test", found[2])):
        frames = lines_of(root / f"info/{part}_name.txt")
        table = table_of(root / f"info/tracks_{part}_info.mat")
        expected = []
        for first, last, who, cam in table.tolist():
            assert [int(first), int(last), int(who), int(cam)] == [first, last, who, cam]
            name = frames[int(first) - 1]
            expected.append((f"{root}/bbox_{part}/{name[:4]}/{name}", who, cam))
        assert rows == expected
    numbers = table_of(root / "info/query_IDX.mat").reshape(-1).tolist()
    assert found[1] == [found[2][int(number) - 1] for number in numbers]
    assert all(int(number) == number for number in numbers)


def check_sysu(root, found):
    people = {
        part: (root / f"exp/{part}_id.txt").read_text("utf-8-sig").replace(",", " ").split()
        for part in ("train", "val", "test")
    }
    for rows, parts, cameras in ((found[0], ("train", "val"), range(1, 7)), (found[1], ("test",), (3, 6))):
        numbers = sorted(int(number) for part in parts for number in people[part])
        folders = [root / f"cam{camera}/{number:04d}" for number in numbers for camera in cameras]
        expected = [path for folder in folders for path in visible_images(folder)]
        assert [path for path, _, _ in rows] == expected
        assert all(path.startswith(f"{root}/cam{cam}/{who:04d}/") for path, who, cam in rows)
    assert {who for _, who, _ in found[2]} <= {int(number) for number in people["test"]}


def check_rows(name, root, found):
    """Assert that what a reader gave is what is there."""
    for rows in found:
        stems = [path.rpartition("/")[0] + Path(path).name.partition(".")[0].lower() for path, _, _ in rows]
        assert len(set(stems)) == len(stems)
        for path, _, _ in rows:
            assert Path(path).is_file()
            assert os.path.normpath(path) == path
            assert path.startswith(f"{root}/")
    if name in PARTS:
        check_named(name, root, found)
    elif name == "mars":
        check_mars(root, found)
    elif name == "sysu-mm01":
        check_sysu(root, found)
    else:
        check_listed(name, root, found)


def fuzz(name, folder, rounds, seed=0):
    """So many mutated trees: how many were refused, read as before, and read as what they are now."""
    counts = {"refused": 0, "same": 0, "other": 0}
    for turn in range(rounds):
        rng = random.Random(f"{name} {seed} {turn}")  # noqa: S311
        root = folder / f"{turn}" / "set"
        root.mkdir(parents=True)
        TREES[name](root)
        before = rows_of(read_dataset(name, root))
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            mutate(rng, root)
        try:
            found = rows_of(read_dataset(name, root))
        except (ValueError, FileNotFoundError):
            counts["refused"] += 1
        else:
            counts["same" if found == before else "other"] += 1
            check_rows(name, root, found)
        shutil.rmtree(root.parent)
    return counts


@pytest.mark.skipif(os.name != "posix", reason="links, pipes and names of POSIX")
@pytest.mark.parametrize("name", TREES)
def test_mutated_trees_are_read_right_or_refused(name, tmp_path):
    assert set(TREES) | {"synthetic"} == set(READERS)
    counts = fuzz(name, tmp_path, ROUNDS)
    print(name, counts)  # noqa: T201
    assert counts["refused"] > 0 < counts["same"] + counts["other"]
