"""Files that other programs write: .mat and .pt with names of their own, both sides in one; labels in text and CSV."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from pose2id import centralize, evaluate_features, id_density, labels
from pose2id.cli import main
from pose2id.files import read_features, write_arrays
from pose2id.labels import read_labels

RNG = np.random.default_rng(0)
CENTRES = RNG.standard_normal((8, 6)) * 2


def a_set(repeats, first_camera):
    ids = np.tile(np.arange(8), repeats)
    features = (CENTRES[ids] + RNG.standard_normal((len(ids), 6))).astype(np.float32)
    return features, ids, np.repeat(np.arange(repeats) + first_camera, 8)


QUERY, GALLERY = a_set(2, 0), a_set(5, 1)
RESULT = {  # as Person_reID_baseline_pytorch gives it to scipy.io.savemat
    **dict(zip(("gallery_f", "gallery_label", "gallery_cam"), (GALLERY[0], *map(list, GALLERY[1:])), strict=True)),
    **dict(zip(("query_f", "query_label", "query_cam"), (QUERY[0], *map(list, QUERY[1:])), strict=True)),
}
SCORES = evaluate_features(QUERY[0], GALLERY[0], QUERY[1], GALLERY[1], QUERY[2], GALLERY[2])


def save_result(path, arrays=RESULT):
    if path.suffix == ".mat":
        savemat(path, arrays)
    elif path.suffix == ".npz":
        np.savez(path, **{name: np.asarray(array) for name, array in arrays.items()})
    elif path.suffix == ".safetensors":
        write_arrays(path, {name: torch.as_tensor(np.asarray(array)) for name, array in arrays.items()})
    else:
        torch.save({name: torch.as_tensor(np.asarray(array)) for name, array in arrays.items()}, path)
    return path


def same(file, expected):
    for found, array in zip((file.features, file.ids, file.cams), expected, strict=True):
        found = np.asarray(found)
        assert found.flags.c_contiguous
        assert (found.dtype, found.tolist()) == (array.dtype, array.tolist())


def run(capsys, *arguments, err=""):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, err)
    return captured.out


def refuse(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.out, captured.err.count("\n")) == (2, "", 1)
    return captured.err.removeprefix(f"pose2id {arguments[0]}: ").rstrip("\n")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- both sides in one file ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mat", ".npz", ".pt", ".pth", ".safetensors"])
def test_each_side_of_one_file(tmp_path, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = save_result(tmp_path / f"result{suffix}", RESULT | {"mquery_f": QUERY[0]})
    for side, expected in (("query", QUERY), ("gallery", GALLERY)):
        file = read_features(path, ("ids", "cams"), side=side)
        same(file, expected)
        assert file.others == ("mquery_f",)
    with pytest.raises(
        ValueError, match=r"result\.\w+ holds two sets, query and gallery; say which to take: --side, or"
    ):
        read_features(path)
    with pytest.raises(
        ValueError, match="side must be one of 'query', 'gallery', received 'galery'; did you mean 'gal"
    ):
        read_features(path, side="galery")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_matlab_files_as_matlab_saves_them(tmp_path, compressed, dtype):
    """All numbers as doubles, labels in a column or a row, and other variables beside them."""
    features, ids, cams = GALLERY
    arrays = {"gallery_f": features.astype(dtype), "gallery_label": ids[:, None] * 1.0, "gallery_cam": cams * 1.0}
    arrays |= {"note": "text", "names": np.array(["a", "b"], dtype=object), "a_struct": {"b": 1}}
    savemat(tmp_path / "x.mat", arrays, do_compression=compressed)
    same(read_features(tmp_path / "x.mat"), (features.astype(dtype), ids, cams))
    same(read_features(tmp_path / "x.mat", side="gallery"), (features.astype(dtype), ids, cams))
    with pytest.raises(
        ValueError, match=r"x\.mat holds the gallery, and no query: a_struct, gallery_cam, gallery_f, ga"
    ):
        read_features(tmp_path / "x.mat", side="query")


def test_other_names_of_two_sides(tmp_path):
    """Our own names after query_ and gallery_; parts as well."""
    parts = RNG.standard_normal((16, 3, 4)).astype(np.float32)
    arrays = {"query_parts": parts, "query_ids": QUERY[1], "query_generated_parts": parts[:, None]}
    path = save_result(tmp_path / "x.npz", arrays | {"gallery_features": GALLERY[0]})
    file = read_features(path, side="query")
    assert np.array_equal(file.parts, parts)
    assert np.array_equal(file.generated_parts, parts[:, None])
    assert (file.ids.tolist(), file.features, file.others) == (QUERY[1].tolist(), None, ())
    assert np.array_equal(read_features(path, side="gallery").features, GALLERY[0])
    save_result(path, {"query_f": QUERY[0], "query_features": QUERY[0]})
    with pytest.raises(ValueError, match=r"x\.npz holds features twice, under several names, one of them query_f"):
        read_features(path)


def test_a_file_of_one_set_is_read_for_either_side(tmp_path):
    for suffix in (".mat", ".pt"):
        path = save_result(tmp_path / f"x{suffix}", {"features": QUERY[0], "ids": QUERY[1], "cams": QUERY[2]})
        for side in ("query", "gallery", None):
            same(read_features(path, side=side), QUERY)


def test_the_two_options_take_their_sides(here, capsys):
    save_result(here / "result.mat")
    both = ("--query", "result.mat", "--gallery", "result.mat")
    (row,) = json.loads(run(capsys, "evaluate", *both, "--json"))["rows"]
    assert (row["mAP"], row["rank1"]) == (SCORES.mAP, SCORES.rank(1))
    run(capsys, "rerank", *both, "-o", "out.npy")
    assert np.load("out.npy").shape == (16, 40)
    for side, (features, ids, cams) in (("query", QUERY), ("gallery", GALLERY)):
        run(capsys, "centralize", "result.mat", "--side", side, "--exclude-cams", "-o", f"{side}.npz")
        with np.load(f"{side}.npz") as found:
            assert np.array_equal(found["features"], centralize(features, exclude=cams))
            assert np.array_equal(found["ids"], ids)
        found = json.loads(run(capsys, "density", "result.mat", "--side", side, "--json"))
        assert found["paper"] == id_density(features.astype(float), ids)
        (row,) = json.loads(run(capsys, "evaluate", "--features", "result.mat", "--side", side, "--json"))["rows"]
        assert row["mAP"] == evaluate_features(features, None, ids, query_cams=cams).mAP
    words = "result.mat holds two sets, query and gallery; say which to take: --side, or side= in Python"
    for command in (("density", "result.mat"), ("centralize", "result.mat", "-o", "a.npz")):
        assert refuse(capsys, *command) == words
    message = refuse(capsys, "centralize", "result.mat", "--side", "query", "-o", "out.mat")
    assert message == "output out.mat must be a .npz, .npy, .safetensors, .pt file, received suffix '.mat'"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("text", "'gallery_f' in it is text, it must be an array of numbers"),
        (np.array([[1.0]], dtype=object), "'gallery_f' in it is cells, it must be an array of numbers"),
        (QUERY[0] * 1j, "'gallery_f' in it is complex numbers, it must be an array of numbers"),
        ({"a": 1}, "'gallery_f' in it is a struct, it must be an array of numbers"),
    ],
    ids=["text", "cells", "complex", "struct"],
)
def test_variables_that_are_no_arrays(tmp_path, value, words):
    savemat(tmp_path / "x.mat", {"gallery_f": value})
    with pytest.raises(ValueError, match=rf"x\.mat cannot be read as \.mat: {words}"):
        read_features(tmp_path / "x.mat")


def test_damaged_matlab_files(tmp_path, monkeypatch):
    path = save_result(tmp_path / "x.mat")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:100], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=r"x\.mat cannot be read as \.mat: it is (not of version|damaged or cut off)"
        ):
            read_features(path, side="query")
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H", 0x0200) + b"IM" + bytes(400))
    with pytest.raises(ValueError, match=r"it is not of version 5 to 7; save it with -v7"):
        read_features(path)
    path.write_bytes(whole)
    monkeypatch.setattr("pose2id.formats._LARGEST", 1000)
    with pytest.raises(ValueError, match=r"x\.mat cannot be read as \.mat: it has more than 1,000 bytes"):
        read_features(path, side="query")


# --- dictionaries of tensors --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth"])
@pytest.mark.parametrize("lists", [False, True])
def test_a_dictionary_of_tensors(tmp_path, suffix, lists):
    features, ids, cams = map(torch.as_tensor, QUERY)
    content = {
        "features": features,
        "ids": ids.tolist() if lists else ids,
        "cams": cams[None],
        "epoch": 3,
        "names": None,
    }
    torch.save(content, tmp_path / f"x{suffix}")
    file = read_features(tmp_path / f"x{suffix}")
    assert isinstance(file.features, torch.Tensor)
    assert torch.equal(file.features, features)
    assert np.array_equal(file.ids, QUERY[1])
    assert np.array_equal(file.cams, QUERY[2])
    assert file.others == ("epoch", "names")


def test_paths_of_other_programs(tmp_path):
    """Texts are kept, and nothing else of that name hinders."""
    torch.save({"features": torch.zeros(2, 3), "paths": ["a.jpg", "b.jpg"]}, tmp_path / "x.pt")
    assert read_features(tmp_path / "x.pt").paths.tolist() == ["a.jpg", "b.jpg"]
    for paths in ([1, "b.jpg"], None, {"a": 1}):
        torch.save({"features": torch.zeros(2, 3), "paths": paths}, tmp_path / "x.pt")
        assert read_features(tmp_path / "x.pt").paths is None
    for paths in (["a.jpg", "b.jpg"], np.array(["a.jpg", 1], dtype=object), np.zeros((2, 3))):
        savemat(tmp_path / "x.mat", {"query_f": QUERY[0], "query_paths": paths})
        assert read_features(tmp_path / "x.mat").paths is None


def test_labels_that_are_strings_in_a_list(tmp_path):
    torch.save({"features": torch.zeros(2, 3), "ids": ["a", "b"]}, tmp_path / "x.pt")
    ids = read_features(tmp_path / "x.pt").ids
    assert (ids.dtype.kind, ids.tolist()) == ("U", ["a", "b"])
    torch.save({"features": torch.zeros(2, 3), "ids": ["a", 1]}, tmp_path / "x.pt")
    with pytest.raises(
        ValueError, match=r"x\.pt: ids must be all integers or all strings, received a sequence of int, s"
    ):
        read_features(tmp_path / "x.pt")


def test_a_single_tensor_of_any_name(tmp_path):
    for path in (tmp_path / "x.pt", tmp_path / "x.pth"):
        torch.save({"embeddings": torch.as_tensor(QUERY[0])}, path)
        assert np.array_equal(read_features(path).features, QUERY[0])
    torch.save({"gallery_f": torch.as_tensor(QUERY[0])}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"x\.pt holds the gallery, and no query: gallery_f"):
        read_features(tmp_path / "x.pt", side="query")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"features": [[1.0]]}, r"x.pt cannot be read as .pt: 'features' in it is a list, it must be a tensor"),
        ({"features": {"a": torch.zeros(2)}}, r"'features' in it is a dict, it must be a tensor"),
        ({"features": torch.zeros(2, 2), "ids": 3}, r"'ids' in it is a int, it must be a tensor"),
        (
            {f"layer{n}.weight": torch.zeros(1) for n in range(300)},
            r"'features', it holds: layer0.weight, .* and 290 more",
        ),
        (
            {},
            r"an array 'features', it holds: nothing; store it under that name, as in torch\.save\(\{\.\.\.",
        ),
    ],
    ids=["list", "dict", "number", "weights", "nothing"],
)
def test_dictionaries_of_other_things(tmp_path, content, words):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match=words):
        read_features(tmp_path / "x.pt")


def test_numpy_in_a_dictionary_is_told_what_to_do(tmp_path):
    torch.save({"features": QUERY[0]}, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=r"holds pickled objects, which are never .*\(numpy arrays by torch\.from_numpy\)$"
    ):
        read_features(tmp_path / "x.pth")


# --- names that are nearly right ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "needs", "meant"),
    [
        ({"feats": QUERY[0]}, (), "feats"),
        ({"Features": QUERY[0]}, (), "Features"),
        ({"features": QUERY[0], "pids": QUERY[1]}, ("ids",), "pids"),
        ({"features": QUERY[0], "camids": QUERY[1]}, ("cams",), "camids"),
    ],
    ids=["feats", "Features", "pids", "camids"],
)
def test_a_nearly_right_name_is_asked_for(tmp_path, held, needs, meant):
    np.savez(tmp_path / "x.npz", **held)
    with pytest.raises(
        ValueError, match=rf"it holds: .*; is '{meant}' meant\? store it under that name, as in np\.savez"
    ):
        read_features(tmp_path / "x.npz", needs)


def test_an_array_that_is_not_read_for_its_name_is_told(here, capsys):
    for name, (features, ids, cams) in (("query", QUERY), ("gallery", GALLERY)):
        np.savez(here / f"{name}.npz", features=features, ids=ids, camids=cams, epoch=3)
    command = ("evaluate", "--query", "query.npz", "--gallery", "gallery.npz")
    err = "".join(
        f"pose2id evaluate: {name}.npz holds 'camids', which is not read; is 'cams' meant?\n"
        for name in ("query", "gallery")
    )
    err += "pose2id evaluate: no 'cams' in query.npz and gallery.npz: nothing is removed for its camera\n"
    run(capsys, *command, err=err)
    run(capsys, *command, "-q")
    np.savez("query.npz", features=QUERY[0], ids=QUERY[1], cams=QUERY[2], camids=QUERY[2])
    run(capsys, "centralize", "query.npz", "-o", "out.npz")


# --- labels of their own file -------------------------------------------------------------------------------------

TEXTS = {
    "a label a line": ("ids.txt", "7\n0012\n-1\n", [7, 12, -1]),
    "without an end": ("ids.txt", "7\r\n12\r\n\r\n-1", [7, 12, -1]),
    "a head": ("ids.txt", "pid\n7\n12\n-1\n", [7, 12, -1]),
    "upper case": ("IDS.CSV", "cam,ID\n1,7\n2,12\n1,-1\n", [7, 12, -1]),
    "with row numbers": ("ids.csv", ",id,cam\n0,7,1\n1,12,2\n2,-1,1\n", [7, 12, -1]),
    "one line": ("ids.txt", "7 12 -1\n", [7, 12, -1]),
    "one line of commas": ("ids.list", "7, 12,-1", [7, 12, -1]),
    "as numpy writes them": ("ids", "7.000000000000000000e+00\n1.200000000000000000e+01\n-1.0e+00\n", [7, 12, -1]),
    "strings": ("ids.txt", "anna\n0012\nbo\n", ["anna", "0012", "bo"]),
    "more than 64 bits": ("ids.txt", f"{2**70}\n1\n2\n", [str(2**70), "1", "2"]),
    "a byte order mark": ("ids.txt", "\ufeff7\n12\n-1\n", [7, 12, -1]),
    "one column": ("ids.csv", "7\n12\n-1\n", [7, 12, -1]),
    "one column with a head": ("ids.csv", "Person_ID\n7\n12\n-1\n", [7, 12, -1]),
    "a table": ("labels.csv", 'path,id,camera\n"a, b.jpg",7,1\nb.jpg,12,2\nc.jpg,-1,1\n', [7, 12, -1]),
    "semicolons": ("labels.csv", "cam;pid\n1;7\n2;12.0\n3;-1\n", [7, 12, -1]),
    "tabs": ("labels.tsv", "label\tcam\n7\t1\n12\t2\n-1\t3\n", [7, 12, -1]),
    "names with blanks": ("labels.csv", "identity,cam\nAnna B.,1\nBo,2\nCy,3\n", ["Anna B.", "Bo", "Cy"]),
}


@pytest.mark.parametrize(("name", "text", "expected"), TEXTS.values(), ids=TEXTS.keys())
def test_labels_in_text(tmp_path, name, text, expected):
    (tmp_path / name).write_bytes(text.encode())
    labels = read_labels(tmp_path / name)
    assert labels.tolist() == expected
    assert labels.dtype.kind == ("U" if isinstance(expected[0], str) else "i")
    with pytest.raises(
        ValueError, match=rf"{name}: ids must have shape \(4,\), one label per row, received \(3,\); it must"
    ):
        read_labels(tmp_path / name, rows=4)


def test_cameras_of_a_table(tmp_path):
    (tmp_path / "x.csv").write_text("path,id,CamID\na.jpg,7,c1\nb.jpg,12,c2\n")
    assert read_labels(tmp_path / "x.csv", "cams").tolist() == ["c1", "c2"]
    with pytest.raises(ValueError, match="column must be one of 'ids', 'cams', received 'cam'; did you mean 'cams'"):
        read_labels(tmp_path / "x.csv", "cam")


@pytest.mark.parametrize(
    "labels", [np.array([7, 12]), np.array([[7.0, 12.0]]), np.array([[7], [12]]), np.array([7, 12], ">i2")]
)
def test_labels_in_npy(tmp_path, labels):
    np.save(tmp_path / "x.npy", labels)
    assert read_labels(tmp_path / "x.npy").tolist() == [7, 12]
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    assert read_labels(tmp_path / "x.npy").tolist() == ["a", "b"]


BAD = {
    "no file": ("x.txt", None, "x.txt is not a file"),
    "nothing": ("x.txt", b"\n\n", "x.txt must hold ids, it holds none"),
    "nothing in a table": ("x.csv", b"id\n", "x.csv must hold ids, it holds none"),
    "two columns of text": (
        "x.txt",
        b"a.jpg 7\nb.jpg 12\n",
        "x.txt must hold one label a line, found 'a.jpg 7' in line 1; a",
    ),
    "not whole": ("x.txt", b"1.5\n2\n", "x.txt: ids must be integers or strings, received 1.5"),
    "too large for a float": ("x.txt", b"1e20\n2\n", "x.txt: ids must be integers or strings, received 1e20"),
    "no such column": (
        "x.csv",
        b"path,car\na,1\n",
        "must have one column called ids, id, .*, found none of path, car$",
    ),
    "nearly": ("x.csv", b"path,persons\na,1\n", "found none of path, persons; did you mean 'person'"),
    "two such columns": (
        "x.csv",
        b"id,label\n1,2\n",
        "must have one column called ids, .*, found several of id, label$",
    ),
    "no head": ("x.csv", b"1,2\n3,4\n", "must have one column called ids, .*, found none of 1, 2"),
    "no head, told": (
        "x.csv",
        b"0,c1\n1,c2\n",
        "found none of 0, c1; its first line '0,c1' was taken for the head; a table of several .* one, such as id,cam$",
    ),
    "a short line": ("x.csv", b"id,cam\n1,2\n3\n", "x.csv must have 2 columns in every line, found 1 in line 3"),
    "an empty cell": ("x.csv", b"id,cam\n1,2\n,4\n", "x.csv: ids must not be empty, label 2 is"),
    "an open quote": ("x.csv", b'id,cam\n"1,2\n', "x.csv cannot be read as CSV: unexpected end of data in line"),
    "not UTF-8": ("x.txt", b"\xff\xfe7\0", "x.txt must be a text file in UTF-8, it is in UTF-16"),
    "binary": ("x.txt", b"7\0\n", "x.txt must be a text file, found the control character"),
    "no array": ("x.npy", b"7\n12\n", "x.npy cannot be read as .npy: not a numpy array file"),
}


@pytest.mark.parametrize(("name", "content", "words"), BAD.values(), ids=BAD.keys())
def test_what_holds_no_labels(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        read_labels(tmp_path / name)


def test_pickled_labels_are_never_loaded(tmp_path):
    np.save(tmp_path / "x.npy", np.array(["a", 1], dtype=object), allow_pickle=True)
    with pytest.raises(
        ValueError, match=r"x\.npy cannot be read as \.npy: it holds pickled objects, which are never load"
    ):
        read_labels(tmp_path / "x.npy")
    for shape in ((), (2, 2), (2, 1, 1)):
        np.save(tmp_path / "x.npy", np.zeros(shape, int))
        with pytest.raises(ValueError, match=r"x\.npy: ids must have shape \(\d,\), one label per row"):
            read_labels(tmp_path / "x.npy")


@pytest.fixture
def bare(here):
    """Features in .npy, labels in files of three kinds."""
    for name, (features, ids, cams) in (("query", QUERY), ("gallery", GALLERY)):
        np.save(here / f"{name}.npy", features)
        np.savetxt(here / f"{name}_ids.txt", ids)
        np.save(here / f"{name}_cams.npy", cams)
        lines = [f"{n}.jpg,{who},{cam}" for n, (who, cam) in enumerate(zip(ids, cams, strict=True))]
        (here / f"{name}.csv").write_text("\n".join(["image,pid,camid", *lines]))
    return here


BOTH = ("--query", "query.npy", "--gallery", "gallery.npy")


@pytest.mark.usefixtures("bare")
def test_evaluate_with_labels_of_their_own_files(capsys):
    for ids, cams in (("_ids.txt", "_cams.npy"), (".csv", ".csv")):
        options = [
            f"--{side}-{name}={side}{file}"
            for side in ("query", "gallery")
            for name, file in (("ids", ids), ("cams", cams))
        ]
        found = json.loads(run(capsys, "evaluate", *BOTH, *options, "--json"))["rows"]
        assert found[0]["mAP"] == SCORES.mAP
    err = "pose2id evaluate: no 'cams' in query.npy and gallery.npy: nothing is removed for its camera"
    err += "; gallery.csv has a column 'camid': --gallery-cams gallery.csv\n"
    options = ("--query-ids", "query_ids.txt", "--gallery-ids", "gallery.csv", "--json")
    found = json.loads(run(capsys, "evaluate", *BOTH, *options, err=err))["rows"]
    assert found[0]["mAP"] == evaluate_features(QUERY[0], GALLERY[0], QUERY[1], GALLERY[1]).mAP != SCORES.mAP
    alone = ("evaluate", "--features", "gallery.npy", "--ids", "gallery_ids.txt", "--cams", "gallery.csv", "--json")
    expected = evaluate_features(GALLERY[0], None, GALLERY[1], query_cams=GALLERY[2])
    assert json.loads(run(capsys, *alone))["rows"][0]["mAP"] == expected.mAP


@pytest.mark.usefixtures("bare")
def test_what_is_given_goes_before_what_the_file_holds(capsys):
    np.savez("query.npz", features=QUERY[0], ids=QUERY[1][::-1], cams=QUERY[2])
    labels = ("--query-ids", "query.csv", "--gallery-ids", "gallery.csv", "--gallery-cams", "gallery.csv", "--json")
    found = json.loads(run(capsys, "evaluate", "--query", "query.npz", *BOTH[2:], *labels))["rows"]
    assert found[0]["mAP"] == SCORES.mAP


@pytest.mark.usefixtures("bare")
def test_centralize_and_density_with_labels_of_their_own_files(capsys):
    command = ("centralize", "gallery.npy", "--ids", "gallery_ids.txt", "--cams", "gallery.csv", "--exclude-cams")
    run(capsys, *command, "-o", "out.npz")
    with np.load("out.npz") as found:
        assert np.array_equal(found["features"], centralize(GALLERY[0], exclude=GALLERY[2]))
        assert np.array_equal(found["ids"], GALLERY[1])
        assert np.array_equal(found["cams"], GALLERY[2])
    files = ("density", "query.npy", "gallery.npy", "--ids", "query_ids.txt", "--ids", "gallery.csv")
    found = json.loads(run(capsys, *files, "--json"))
    both = np.concatenate([QUERY[0], GALLERY[0]]).astype(float), np.concatenate([QUERY[1], GALLERY[1]])
    assert found["paper"] == id_density(*both)
    message = refuse(capsys, *files[:-2])
    assert message == "--ids must be given once for each of the 2 feature files, received 1"


@pytest.mark.usefixtures("bare")
def test_labels_that_do_not_fit(capsys):
    labels = ("--query-ids", "gallery.csv", "--gallery-ids", "gallery.csv")
    message = refuse(capsys, "evaluate", *BOTH, *labels)
    assert message == (
        "gallery.csv: ids must have shape (16,), one label per row, received (40,); "
        "it must have one for each row of the features"
    )
    assert refuse(capsys, "evaluate", *BOTH, "--query-ids", "none.txt") == "none.txt is not a file"
    assert refuse(capsys, "evaluate", *BOTH, "--ids", "query.csv") == "--ids goes with --features"
    alone = ("evaluate", "--features", "query.npy", "--query-ids", "query.csv")
    assert refuse(capsys, *alone) == "--query-ids goes with --query"


def test_the_documents_name_every_column() -> None:
    for text in (
        Path(__file__).parents[1].joinpath("docs", "feature-files.md").read_text(),
        labels.read_labels.__doc__,
    ):
        ids, cams = re.search(
            r"column called ([^;]*?)[;,] (?:or|and for cameras) ([^;.]*)[,.]", text.replace("\n", " ")
        ).groups()
        for name, found in (("ids", ids), ("cams", cams)):
            assert tuple(re.findall(r"[`\"](\w+)[`\"]", found)) == labels._COLUMNS[name]


@pytest.mark.parametrize("command", ["evaluate", "tune"])
@pytest.mark.usefixtures("bare")
def test_a_table_of_identities_that_holds_cameras_too(capsys, command) -> None:
    options = (*BOTH, "--query-ids", "query.csv", "--gallery-ids", "gallery_ids.txt", "--json")
    assert main([command, *options]) == 0
    assert capsys.readouterr().err.endswith("for its camera; query.csv has a column 'camid': --query-cams query.csv\n")
    alone = ("--features", "query.npy", "--ids", "query.csv", "--json")
    if command == "evaluate":
        assert main([command, *alone]) == 0
        assert capsys.readouterr().err.endswith("camera; query.csv has a column 'camid': --cams query.csv\n")
        message = refuse(capsys, command, *alone, "--centralize", "--exclude-cams")
        assert message.endswith("it holds none; query.csv has a column 'camid': --cams query.csv")
