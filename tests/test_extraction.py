"""From photographs to a feature file: rows, encoders, what is written, and runs that are killed."""

import os
import re
import shlex
import shutil
import signal
import sys
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from support.killing import Moments, fork
from support.onnx import graph_model, stripes_model
from support.pictures import smooth_pictures

from pose2id import centralize, evaluate_features
from pose2id.cli import main
from pose2id.datasets import ImageSet, read_dataset
from pose2id.files import read_features
from pose2id.images import read_image
from pose2id.ipg.features import encode_folder
from pose2id.ipg.folders import find_pictures
from pose2id.programs import extraction, unfinished
from pose2id.programs.extraction import Encoder, extract, from_files, from_set, load_encoder


def colours(pictures):
    """Mean colours of both halves, (n, 6)."""
    halves = [np.asarray(picture, np.float32).reshape(2, -1, 3) for picture in pictures]
    return np.stack([half.mean(axis=1).reshape(6) for half in halves])


COLOURS = Encoder(colours, {"name": "colours"})


@pytest.fixture
def folder(tmp_path):
    """Nine photographs of three people by three cameras."""
    place = tmp_path / "photographs"
    place.mkdir()
    for i, picture in enumerate(smooth_pictures(9)):
        Image.fromarray(picture).save(place / f"{i // 3:04}_c{i % 3 + 1}_{i:03}.png")
    return place


def by_key(folder):
    return {path.name: path for path in folder.iterdir()}


def mirrored(picture):
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def test_features_are_those_of_the_encoder(folder, tmp_path):
    said = []
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS, batch_size=2, on_skip=said.append)
    keys = sorted(by_key(folder))
    pictures = [Image.open(folder / key).convert("RGB") for key in keys]
    file = read_features(report.path)
    assert file.paths.tolist() == keys
    assert (file.ids, file.cams, file.groups, file.generated, said) == (None, None, None, None, [])
    np.testing.assert_array_equal(file.features, colours(pictures))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "photographs"]
    assert (report.shape, report.generated, report.skipped) == ((9, 6), 0, {})
    both = extract(from_files(by_key(folder)), tmp_path / "b.npz", COLOURS, flip=True)
    expected = colours(pictures) + colours(map(mirrored, pictures))
    np.testing.assert_array_equal(read_features(both.path).features, expected)


def test_tensors_of_any_width(folder, tmp_path):
    for dtype, wanted in ((torch.bfloat16, np.float32), (torch.float16, np.float16), (torch.float64, np.float64)):
        encoder = Encoder(lambda pictures, dtype=dtype: torch.tensor(colours(pictures)).to(dtype).requires_grad_(), {})
        report = extract(from_files(by_key(folder)), tmp_path / f"{wanted.__name__}.npz", encoder, overwrite=True)
        assert read_features(report.path).features.dtype == wanted


def test_labels_from_names(folder):
    rows = from_files(by_key(folder), r"(?P<id>-?\d+)_c(?P<cam>\d)_(?P<frame>\d+)")
    assert rows.labels["ids"].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert rows.labels["cams"].tolist() == [1, 2, 3] * 3
    assert len(set(rows.labels["groups"].tolist())) == 9
    rows = from_files(by_key(folder), r"(?P<frame>c\d)")  # three people in each frame
    assert rows.labels["groups"].tolist() == [0, 1, 2] * 3
    keys = dict.fromkeys(("1/2_3", "1_2/3"), folder)  # a camera 1/2 and frame 3 are not camera 1 and frame 2/3
    assert from_files(keys, r"(?P<cam>.*)_(?P<frame>.*)").labels["groups"].tolist() == [1, 0]
    assert from_files(by_key(folder), r"_(?P<id>c\d)").labels["ids"].tolist() == ["c1", "c2", "c3"] * 3
    for pattern, words in (
        ("(", "must be a regular expression, received '\\('"),
        (r"\d+", r"one or more of the groups \(\?P<id>...\)"),
        (r"(?P<who>\d+)", "and no others"),
        (r"(?P<id>x)", "finds no id in '0000_c1_000.png'"),
        (r"(?P<id>x*)", "finds no id in '0000_c1_000.png'"),  # all would be of one identity, called nothing
        (r"(?P<id>x{99999999999})", "must be a regular expression, .*: the repetition number is too large"),
    ):
        with pytest.raises(ValueError, match=words):
            from_files(by_key(folder), pattern)


def test_a_row_for_each_tracklet(folder, tmp_path):
    paths = by_key(folder)
    rows = from_files(paths, r"(?P<tracklet>\d+)_", tracklets=True)
    assert rows.keys == tuple(sorted(paths)[::3])
    assert rows.labels["groups"].tolist() == [0, 1, 2]
    report = extract(rows, tmp_path / "a.npz", COLOURS, batch_size=2)
    pictures = [Image.open(paths[key]).convert("RGB") for key in sorted(paths)]
    expected = colours(pictures).astype(np.float64).reshape(3, 3, 6).mean(axis=1)
    found = read_features(report.path).features
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float32))
    by_folder = from_files({f"a/{i}/{key}": paths[key] for i, key in enumerate(sorted(paths))}, tracklets=True)
    assert len(by_folder) == 9
    cams = from_files(paths, r"(?P<tracklet>\d+)_c(?P<cam>\d)", tracklets=True)  # numbers of each camera's own
    assert len(cams) == 9
    (folder / "0000_c2_001.png").write_bytes(b"broken")
    report = extract(from_files(by_key(folder), r"(?P<tracklet>\d+)_", tracklets=True), tmp_path / "b.npz", COLOURS)
    assert report.skipped.keys() == {"0000_c1_000.png: 0000_c2_001.png"}  # the others of it are averaged
    np.testing.assert_allclose(
        read_features(report.path).features[0], colours(pictures)[[0, 2]].mean(axis=0), rtol=1e-6
    )


def test_rows_of_a_data_set(folder):
    paths = tuple(sorted(folder.iterdir(), reverse=True))
    images = ImageSet(paths, np.arange(9), np.arange(9) + 10)
    rows = from_set(images, folder.parent)
    assert list(rows.keys) == [f"photographs/{path.name}" for path in reversed(paths)]
    assert rows.labels["ids"].tolist() == list(range(8, -1, -1))
    assert rows.labels["cams"].tolist() == list(range(18, 9, -1))
    assert next(iter(rows.files)) == (paths[-1],)
    tracklets = ImageSet(paths[:2], [0, 1], [1, 2], frames=(paths[:3], paths[3:]))
    rows = from_set(tracklets, folder.parent, tracklets=True)
    assert [len(files) for files in rows.files] == [6, 3]
    with pytest.raises(ValueError, match="holds tracklets; take --pool tracklet"):
        from_set(tracklets, folder.parent)
    with pytest.raises(ValueError, match="holds single pictures; do not take --pool tracklet"):
        from_set(images, folder.parent, tracklets=True)


def test_unreadable_photographs_are_skipped(folder, tmp_path):
    (folder / "0001_c1_003.png").write_bytes(b"no picture")
    said = []
    rows = from_files(by_key(folder), r"(?P<id>\d+)")
    report = extract(rows, tmp_path / "a.npz", COLOURS, on_skip=lambda *words: said.append(words))
    assert report.skipped.keys() == {"0001_c1_003.png"}
    assert [key for key, _ in said] == ["0001_c1_003.png"]
    file = read_features(report.path)
    assert file.ids.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert "0001_c1_003.png" not in file.paths
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"none of 9 photographs could be encoded; the first: .*0000_c1_000\.png"):
        extract(rows, tmp_path / "b.npz", COLOURS)


def draw_folder(place, keys, poses=("1", "2", "10")):
    for at, key in enumerate(keys):
        for step, pose in enumerate(poses):
            path = place / key.removesuffix(".png") / f"{pose}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(smooth_pictures(1, seed=100 + 10 * at + step)[0]).save(path)


def test_generated_pictures_of_a_folder(folder, tmp_path):
    keys = sorted(by_key(folder))
    draw_folder(tmp_path / "drawn", keys)
    expected = np.stack(
        [
            colours([Image.open(tmp_path / "drawn" / key.removesuffix(".png") / f"{pose}.png") for pose in (1, 2, 10)])
            for key in keys
        ]
    )
    found = find_pictures(tmp_path / "drawn", keys)
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS, generated=found, batch_size=4)
    assert report.generated == 3
    np.testing.assert_array_equal(read_features(report.path).generated, expected)
    np.testing.assert_array_equal(encode_folder(colours, tmp_path / "drawn", keys, batch_size=4), expected)
    # by paths from a folder above, and in the layout of the released demo
    above = find_pictures(tmp_path / "drawn", [f"world/query/{key}" for key in keys])
    assert list(above.values()) == list(found.values())
    for key, paths in found.items():
        for path in paths:
            (tmp_path / "released" / f"pose{path.stem}").mkdir(parents=True, exist_ok=True)
            path.rename(tmp_path / "released" / f"pose{path.stem}" / key)
    np.testing.assert_array_equal(encode_folder(colours, tmp_path / "released", keys), expected)
    (tmp_path / "released" / "pose2" / keys[4]).unlink()
    with pytest.raises(ValueError, match=rf"equally many pictures .* it holds 2 of '{keys[4]}' and 3 of others"):
        encode_folder(colours, tmp_path / "released", keys)
    with pytest.raises(ValueError, match=r"it holds 0 of 'nobody\.png'$"):
        encode_folder(colours, tmp_path / "released", ["nobody.png"])


def test_a_photograph_without_generated_pictures_is_skipped(folder, tmp_path):
    keys = sorted(by_key(folder))
    draw_folder(tmp_path / "drawn", keys[1:])
    found = find_pictures(tmp_path / "drawn", keys)
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS, generated=found)
    assert report.skipped == {keys[0]: "there are no generated pictures of it"}
    assert read_features(report.path).generated.shape == (8, 3, 6)


def test_photographs_with_other_numbers_of_generated_pictures(folder, tmp_path):
    """Are skipped; 9 + 3 - 3 pictures for 9 photographs would otherwise be taken for 3 of each."""
    keys = sorted(by_key(folder))
    draw_folder(tmp_path / "drawn", keys)
    found = find_pictures(tmp_path / "drawn", keys)
    found |= {keys[0]: found[keys[0]] + found[keys[1]][:1], keys[8]: found[keys[8]][:2]}
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS, generated=found, batch_size=4)
    assert report.skipped == {
        keys[0]: "there are 4 generated pictures of it, 3 of others",
        keys[8]: "there are 2 generated pictures of it, 3 of others",
    }
    file = read_features(report.path)
    assert file.paths.tolist() == keys[1:8]
    np.testing.assert_array_equal(file.generated[6], colours([Image.open(path) for path in found[keys[7]]]))
    for paths in found.values():
        paths.clear()
    with pytest.raises(ValueError, match="there is no generated picture of any of 9 photographs"):
        extract(from_files(by_key(folder)), tmp_path / "b.npz", COLOURS, generated=found)


def test_an_unreadable_generated_picture(folder, tmp_path):
    keys = sorted(by_key(folder))
    draw_folder(tmp_path / "drawn", keys)
    found = find_pictures(tmp_path / "drawn", keys)
    found[keys[2]][1].write_bytes(b"")
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS, generated=found, batch_size=4)
    assert report.skipped == {keys[2]: f"{found[keys[2]][1]}: the file is empty"}
    file = read_features(report.path)
    np.testing.assert_array_equal(file.generated[2], colours([Image.open(path) for path in found[keys[3]]]))
    np.testing.assert_array_equal(file.features[2], colours([Image.open(folder / keys[3])])[0])


def test_generated_pictures_lie_in_memory_a_batch_at_a_time(folder, tmp_path, monkeypatch):
    keys = sorted(by_key(folder))
    draw_folder(tmp_path / "drawn", keys)
    living, most = weakref.WeakSet(), []

    class Picture:
        def __init__(self, mean):
            self.mean = mean

        def copy(self):
            return Picture(self.mean)

    def read(path):
        living.add(picture := Picture(colours([read_image(path)])[0]))
        most.append(len(living))
        return picture

    monkeypatch.setattr(extraction, "read_image", read)
    encoder = Encoder(lambda pictures: np.stack([picture.mean for picture in pictures]), {})
    found = find_pictures(tmp_path / "drawn", keys)
    extract(from_files(by_key(folder)), tmp_path / "a.npz", encoder, generated=found, batch_size=2)
    assert max(most) <= 6  # of 36: two queues, and what is just read


def test_pictures_that_may_be_of_two_photographs(tmp_path):
    draw_folder(tmp_path, ["ann.png"])
    for keys in (["ann.jpg", "ann.png"], ["ann.webp", "ann.jpg"]):
        with pytest.raises(
            ValueError, match=rf"may be of '{keys[0]}' and of '{keys[1]}', which differ in their suffix"
        ):
            find_pictures(tmp_path, keys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"keys": "ann.png"}, "keys must be a sequence of strings, one of each photograph, received str"),
        ({"keys": None}, "keys must be a sequence of strings, one of each photograph, received NoneType"),
        ({"encoder": "tiny"}, "encoder must be callable, received str"),
        ({"flip": "yes"}, "flip must be"),
    ],
)
def test_bad_arguments_for_a_folder(tmp_path, arguments, words):
    draw_folder(tmp_path, ["ann.png"])
    with pytest.raises(TypeError, match=words):
        encode_folder(**{"encoder": colours, "folder": tmp_path, "keys": ["ann.png"]} | arguments)


def test_photographs_that_are_called_pose(tmp_path):
    draw_folder(tmp_path, ["ann.png", "poser.png"])
    found = find_pictures(tmp_path, ["ann.jpg", "poser.jpg"])
    for name in ("ann", "poser"):
        assert found[f"{name}.jpg"] == [tmp_path / name / f"{pose}.png" for pose in (1, 2, 10)]


def test_drawn_features(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "DRAWN_ROWS", 4)
    asked = []

    def draw(people, keys):
        asked.append(keys)
        return np.stack([[colours([person])[0] * (n + 1) for n in range(2)] for person in people])

    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS, draw=draw)
    file = read_features(report.path)
    np.testing.assert_array_equal(file.generated, file.features[:, None] * np.array([1, 2], np.float32)[:, None])
    assert [len(keys) for keys in asked] == [4, 4, 1]
    assert [key for keys in asked for key in keys] == sorted(by_key(folder))
    with pytest.raises(ValueError, match="give one"):
        extract(from_files(by_key(folder)), tmp_path / "b.npz", COLOURS, draw=draw, generated={})


class StoppedError(Exception):
    pass


def stopping(after):
    """An encoder that fails after some calls."""
    calls = []

    def encode(pictures):
        calls.append(len(pictures))
        if len(calls) > after:
            raise StoppedError
        return colours(pictures)

    return Encoder(encode, COLOURS.identity), calls


def test_a_run_goes_on_where_it_was_stopped(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "ROWS", 2)
    rows = from_files(by_key(folder))
    whole = extract(rows, tmp_path / "whole.npz", COLOURS, batch_size=2).path.read_bytes()
    encoder, _ = stopping(3)
    with pytest.raises(StoppedError):
        extract(rows, tmp_path / "a.npz", encoder, batch_size=2)
    assert not (tmp_path / "a.npz").exists()
    with pytest.raises(ValueError, match=r"other settings \(flip False then, True now\); run it with those, remove"):
        extract(rows, tmp_path / "a.npz", COLOURS, batch_size=2, flip=True)
    encoder, calls = stopping(99)
    said = []
    report = extract(rows, tmp_path / "a.npz", encoder, batch_size=2, on_skip=lambda *words: said.append(words))
    assert len(calls) == 2  # three of five blocks were there
    assert report.path.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "photographs", "whole.npz"]
    encoder, _ = stopping(3)
    with pytest.raises(StoppedError):
        extract(rows, tmp_path / "b.npz", encoder, batch_size=2)
    changed = folder / "0000_c1_000.png"
    Image.fromarray(smooth_pictures(1, seed=9)[0]).save(changed)
    os.utime(changed, ns=(1, 1))
    encoder, calls = stopping(99)
    report = extract(rows, tmp_path / "b.npz", encoder, batch_size=2)
    assert len(calls) == 3  # the first block anew
    np.testing.assert_array_equal(read_features(report.path).features[:1], colours([Image.open(changed)]))
    encoder, _ = stopping(3)
    with pytest.raises(StoppedError):
        extract(rows, tmp_path / "c.npz", encoder, batch_size=2)
    extract(rows, tmp_path / "c.npz", COLOURS, batch_size=4, overwrite=True)  # anew
    assert not (tmp_path / "c.npz.unfinished").exists()


def test_damaged_blocks_and_foreign_folders(folder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(extraction, "ROWS", 2)
    rows = from_files(by_key(folder))
    whole = extract(rows, tmp_path / "whole.npz", COLOURS, batch_size=2).path.read_bytes()
    encoder, _ = stopping(3)
    with pytest.raises(StoppedError):
        extract(rows, tmp_path / "a.npz", encoder, batch_size=2)
    first, second, _ = sorted((tmp_path / "a.npz.unfinished").glob("0*.npz"))
    first.write_bytes(first.read_bytes()[:-40])
    second.write_bytes(second.read_bytes().replace(b"notes", b"nodes"))
    assert extract(rows, tmp_path / "a.npz", COLOURS, batch_size=2).path.read_bytes() == whole
    assert sum("is damaged" in line for line in caplog.messages) == 2
    (tmp_path / "b.npz.unfinished").mkdir()
    (tmp_path / "b.npz.unfinished" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="in the way, and not of `extract`"):
        extract(rows, tmp_path / "b.npz", COLOURS, overwrite=True)
    (tmp_path / "b.npz.unfinished" / "mine.txt").unlink()  # empty: a run was killed before it wrote what it was asked
    assert extract(rows, tmp_path / "b.npz", COLOURS, batch_size=2).path.read_bytes() == whole


@pytest.mark.skipif(os.name != "posix", reason="kills forked processes")
@pytest.mark.parametrize("moment", [1, 2, 4, 5, 7, 8, 9, 10, 11, 12])
def test_killed_runs(folder, tmp_path, monkeypatch, moment):
    """SIGKILL before or after a block, the joining and the end; whatever is left, the same bytes come out."""
    monkeypatch.setattr(extraction, "ROWS", 3)
    rows = from_files(by_key(folder))
    whole = extract(rows, tmp_path / "whole.npz", COLOURS).path.read_bytes()

    def killed():
        moments = Moments(moment)
        for owner, name in (
            (unfinished.Unfinished, "write"),
            (unfinished.Unfinished, "join"),
            (extraction, "write_arrays"),
            (unfinished.Unfinished, "end"),
        ):
            setattr(owner, name, moments.watched(getattr(owner, name), name))
        extract(rows, tmp_path / "a.npz", COLOURS)

    assert fork(killed) == -signal.SIGKILL
    done = (tmp_path / "a.npz").exists()
    assert done == (moment >= 10)
    if done:  # complete, the folder beside it is all that is left
        assert (tmp_path / "a.npz").read_bytes() == whole
        with pytest.raises(ValueError, match="exists already"):
            extract(rows, tmp_path / "a.npz", COLOURS)
    extract(rows, tmp_path / "a.npz", COLOURS, overwrite=done)
    assert (tmp_path / "a.npz").read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix != ".lock") == [
        "a.npz",
        "photographs",
        "whole.npz",
    ]


def test_onnx_models(folder, tmp_path):
    pytest.importorskip("onnxruntime")
    pictures = [Image.open(folder / key).convert("RGB") for key in sorted(by_key(folder))]
    content, kernel = stripes_model()
    (tmp_path / "a.onnx").write_bytes(content)

    def expected(mean, std):
        pixels = np.stack([np.asarray(x.resize((32, 64), Image.Resampling.BILINEAR), np.float64) for x in pictures])
        scaled = ((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)
        return np.einsum("nchw,dchw->nd", scaled, kernel)

    usual = expected((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    encoder = load_encoder(str(tmp_path / "a.onnx"))
    np.testing.assert_allclose(encoder.call(pictures), usual, atol=1e-5)
    half = load_encoder(str(tmp_path / "a.onnx"), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.testing.assert_allclose(half.call(pictures), expected(0.5, 0.5), atol=1e-5)
    assert half.identity != encoder.identity
    (tmp_path / "fixed.onnx").write_bytes(stripes_model((4, 3, 64, 32))[0])  # four at a time, so the last are filled up
    np.testing.assert_allclose(load_encoder(str(tmp_path / "fixed.onnx")).call(pictures), usual, atol=1e-5)
    notes = {"mean": "0.5,0.5,0.5", "std": "[0.5, 0.5, 0.5]", "size": "64,32"}
    (tmp_path / "noted.onnx").write_bytes(stripes_model((None, 3, None, None), **notes)[0])
    np.testing.assert_allclose(load_encoder(str(tmp_path / "noted.onnx")).call(pictures), expected(0.5, 0.5), atol=1e-5)
    (tmp_path / "open.onnx").write_bytes(stripes_model((None, 3, None, None))[0])
    found = load_encoder(str(tmp_path / "open.onnx"), size=(64, 32)).call(pictures)
    np.testing.assert_allclose(found, usual, atol=1e-5)
    for name, options, words in (
        ("open", {}, r"its metadata name none; pass --size HEIGHTxWIDTH"),
        ("a", {"size": (128, 64)}, "takes pictures of 64x32 only, received --size 128x64"),
    ):
        with pytest.raises(ValueError, match=words):
            load_encoder(str(tmp_path / f"{name}.onnx"), **options)
    (tmp_path / "bad.onnx").write_bytes(stripes_model(mean="1,2")[0])
    with pytest.raises(ValueError, match="metadata 'mean' must be 3 numbers, received '1,2'"):
        load_encoder(str(tmp_path / "bad.onnx"))
    for notes, words in (
        ({"size": "64,32", "std": "0,1,1"}, r"std of .*bad\.onnx must be three numbers above 0"),
        ({"size": "64,0"}, "metadata 'size' must be height and width in pixels, received '64,0'"),
        ({"size": "64.5,32"}, "metadata 'size' must be height and width in pixels, received"),
        ({"size": "1e9,1e9"}, "must take pictures of at most 89,478,485 pixels"),
    ):
        (tmp_path / "bad.onnx").write_bytes(stripes_model((None, 3, None, None), **notes)[0])
        with pytest.raises(ValueError, match=words):
            load_encoder(str(tmp_path / "bad.onnx"))
    (tmp_path / "grey.onnx").write_bytes(stripes_model((None, 1, 64, 32))[0])
    with pytest.raises(ValueError, match=r"grey\.onnx (must take pictures \(N, 3, H, W\)|cannot be loaded)"):
        load_encoder(str(tmp_path / "grey.onnx"))


def test_onnx_models_of_several_inputs_and_odd_outputs(tmp_path, capfd):
    pytest.importorskip("onnxruntime")
    pictures = [Image.new("RGB", (32, 64), colour) for colour in ("red", "blue")]
    flat = ("Flatten", "pictures", "flat")
    models = {
        "pooled": graph_model(("GlobalAveragePool", "pictures", "features")),
        "two": graph_model(flat, ("Add", "flat more", "features"), more=(1,)),
        "number": graph_model(("ReduceMax", "pictures", "features", {"keepdims": 0})),
        "failing": graph_model(flat, ("MatMul", "flat flat", "features")),
    }
    for name, content in models.items():
        (tmp_path / f"{name}.onnx").write_bytes(content)
    found = load_encoder(str(tmp_path / "pooled.onnx"), mean=(0, 0, 0), std=(1, 1, 1)).call(pictures)
    np.testing.assert_allclose(found, [[1, 0, 0], [0, 0, 1]], atol=1e-6)
    with pytest.raises(ValueError, match="must have one input, pictures, it also wants 'more'"):
        load_encoder(str(tmp_path / "two.onnx"))
    with pytest.raises(ValueError, match="its first output is one number"):
        load_encoder(str(tmp_path / "number.onnx")).call(pictures)
    with pytest.raises(ValueError, match="failed on 2 pictures; --batch-size 1 if it takes only one at a time: "):
        load_encoder(str(tmp_path / "failing.onnx")).call(pictures)
    assert capfd.readouterr().err == ""  # of what onnxruntime prints itself


def test_the_identity_of_an_onnx_model_is_that_of_its_weights(tmp_path):
    """Which torch writes to a second file beside it."""
    pytest.importorskip("onnxruntime")
    (tmp_path / "a.onnx").write_bytes(stripes_model()[0])
    found = [load_encoder(str(tmp_path / "a.onnx")).identity]
    for content in (b"1", b"2"):
        (tmp_path / "a.onnx.data").write_bytes(content)
        found.append(load_encoder(str(tmp_path / "a.onnx")).identity)
    assert found[0] != found[1] != found[2]


def test_functions_by_name(tmp_path, monkeypatch):
    (tmp_path / "my_own_model.py").write_text(
        "import numpy as np\nclass Model:\n    def encode(self, pictures):\n"
        "        return np.ones((len(pictures), 2), np.float32)\nmodel = Model()\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    encoder = load_encoder("my_own_model:model.encode")
    assert encoder.call([None] * 3).shape == (3, 2)
    assert encoder.identity["function"] == "my_own_model:model.encode"
    for name, error, words in (
        ("my_own_model:modle", ValueError, "has no 'modle'; it has Model"),
        ("my_own_model:number", TypeError, "must be callable, it is a int"),
        ("no_such_module:f", ImportError, "there is no module 'no_such_module'"),
        ("resnet50", ValueError, r"\.onnx, package\.module:function, tiny or pose2id, received 'resnet50'"),
        ("Tinny", ValueError, r"tiny or pose2id, received 'Tinny'; did you mean 'tiny'\?$"),
    ):
        with pytest.raises(error, match=words):
            load_encoder(name)
    with pytest.raises(ValueError, match=r"--mean are for an \.onnx model; encoder my_own_model:model does its own"):
        load_encoder("my_own_model:model", mean=(0, 0, 0))


def test_functions_that_fail(folder, tmp_path, monkeypatch, capsys):
    """A line that says where, whatever the module or the function raises, and nothing is left but what was encoded."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_failing_model.py").write_text("def encode(pictures):\n    return {}['weights']\n")
    (tmp_path / "my_script.py").write_text("import sys\nsys.exit(3)\n")
    (tmp_path / "my_torn_model.py").write_text("def encode(\n")
    (tmp_path / "my_broken_model.py").write_text("raise RuntimeError('no weights')\n")
    for name, words in (
        ("my_failing_model:encode", "failed on 9 pictures: KeyError: 'weights' ("),
        ("my_script:encode", "my_script cannot be imported: SystemExit: 3 ("),
        ("my_torn_model:encode", "my_torn_model cannot be imported: SyntaxError: '(' was never closed (my_torn_model"),
        ("my_broken_model:encode", "cannot be imported: RuntimeError: no weights ("),
        ("./my_failing_model.py:encode", "without folders and .py"),
        (":encode", "must name a module"),
    ):
        assert run("extract", folder, "--encoder", name, "-o", "a.npz") == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert words in said[0]
    assert not (tmp_path / "a.npz").exists()


def test_encoders_that_fill_the_same_memory(folder, tmp_path):
    """As a bound output of onnxruntime; what was given before is not changed by the next call."""
    held = torch.empty(2, 6)

    def encode(pictures):
        held[: len(pictures)] = torch.from_numpy(colours(pictures))
        return held[: len(pictures)]

    pictures = [Image.open(folder / key).convert("RGB") for key in sorted(by_key(folder))]
    expected = colours(pictures)
    for call, name in ((encode, "tensors"), (lambda pictures: encode(pictures).numpy(), "arrays")):
        report = extract(from_files(by_key(folder)), tmp_path / f"{name}.npz", Encoder(call, {}), batch_size=2)
        np.testing.assert_array_equal(read_features(report.path).features, expected)
        report = extract(
            from_files(by_key(folder)), tmp_path / "b.npz", Encoder(call, {}), batch_size=2, flip=True, overwrite=True
        )
        both = expected + colours(map(mirrored, pictures))
        np.testing.assert_array_equal(read_features(report.path).features, both)


def test_a_mended_encoder_begins_anew(folder, tmp_path):
    """Where nothing was encoded yet, or nothing could be, there is nothing to go on with."""
    encoder, _ = stopping(0)
    with pytest.raises(StoppedError):
        extract(from_files(by_key(folder)), tmp_path / "a.npz", Encoder(encoder.call, {"version": 1}))
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", Encoder(colours, {"version": 2}))
    assert report.shape == (9, 6)
    empty = {"0.png": tmp_path / "0.png"}
    empty["0.png"].write_bytes(b"")
    with pytest.raises(ValueError, match="none of 1 photographs"):
        extract(from_files(empty), tmp_path / "b.npz", COLOURS)
    assert not (tmp_path / "b.npz.unfinished").exists()


def test_the_photographs_that_an_encoder_fails_on_are_named(folder, tmp_path):
    def encode(pictures):
        return colours(pictures) / (np.inf if len(pictures) == 4 else np.nan)

    with pytest.raises(
        ValueError, match=r"NaN or inf for some of 1 pictures; from 0002_c3_008\.png to 0002_c3_008\.png"
    ):
        extract(from_files(by_key(folder)), tmp_path / "a.npz", Encoder(encode, {}), batch_size=4)


def test_short_memory(folder, tmp_path, monkeypatch, capsys):
    """The advice can be followed: what was begun with one size of batches is not gone on with in another."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_large_model.py").write_text(
        "import numpy as np\ndef encode(pictures):\n    if len(pictures) > 2:\n"
        "        raise RuntimeError('CUDA out of memory.')\n    return np.ones((len(pictures), 2), np.float32)\n"
    )
    arguments = ["extract", folder, "--encoder", "my_large_model:encode", "-o", "a.npz", "--batch-size"]
    assert run(*arguments, 4) == 2
    said = capsys.readouterr().err
    assert "out of memory" in said
    assert "or anew with a smaller --batch-size and --overwrite" in said
    assert run(*arguments, 2, "--overwrite") == 0


def changing(kinds):
    """An encoder whose calls give the kinds of features in turn."""
    calls = []

    def encode(pictures):
        calls.append(kinds[len(calls) % len(kinds)])
        return calls[-1](colours(pictures))

    return Encoder(encode, {})


@pytest.mark.parametrize("rows", [3, 512])
@pytest.mark.parametrize("other", [np.float16, np.float64, torch.from_numpy, lambda features: features[:, :2]])
def test_encoders_that_change_their_mind(folder, tmp_path, monkeypatch, other, rows):
    monkeypatch.setattr(extraction, "ROWS", rows)
    with pytest.raises(ValueError, match="encoder must give one kind of features"):
        extract(from_files(by_key(folder)), tmp_path / "a.npz", changing([np.float32, other]), batch_size=3)


def test_encoders_that_change_between_runs(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "ROWS", 3)
    rows = from_files(by_key(folder))
    encoder, _ = stopping(1)
    with pytest.raises(StoppedError):
        extract(rows, tmp_path / "a.npz", encoder)
    half = Encoder(lambda pictures: colours(pictures).astype(np.float16), COLOURS.identity)
    with pytest.raises(ValueError, match=r"received float16 features, D = 6 and float32 features, D = 6; remove"):
        extract(rows, tmp_path / "a.npz", half)


def test_encoders_that_change_the_pictures(folder, tmp_path):
    """As `Image.thumbnail` does; the mirrored ones and those that are drawn from are the photographs all the same."""
    seen = []

    def encode(pictures):
        features = colours(pictures)
        for picture in pictures:
            picture.paste("black", (0, 0, *picture.size))
        return features

    def draw(people, _):
        seen.extend(map(np.asarray, people))
        return np.ones((len(people), 1, 6), np.float32)

    extract(from_files(by_key(folder)), tmp_path / "a.npz", Encoder(encode, {}), draw=draw, flip=True)
    pictures = [Image.open(folder / key).convert("RGB") for key in sorted(by_key(folder))]
    np.testing.assert_array_equal(seen, list(map(np.asarray, pictures)))
    expected = colours(pictures) + colours(map(mirrored, pictures))
    np.testing.assert_array_equal(read_features(tmp_path / "a.npz").features, expected)


def test_nothing_is_written_by_way_of_a_map(folder, tmp_path, monkeypatch):
    """Where the disk is full, the system kills a process that writes to mapped memory (SIGBUS)."""
    monkeypatch.setattr(np.memmap, "__setitem__", None)
    report = extract(from_files(by_key(folder)), tmp_path / "a.npz", COLOURS)
    assert report.shape == (9, 6)


def test_files_of_the_user_stay(folder, tmp_path):
    rows = from_files(by_key(folder))
    (tmp_path / "a.npz.lock").write_text("mine")
    with pytest.raises(ValueError, match=r"a\.npz\.lock is no lock"):
        extract(rows, tmp_path / "a.npz", COLOURS)
    assert (tmp_path / "a.npz.lock").read_text() == "mine"
    (tmp_path / "b.npz.unfinished").mkdir()
    (tmp_path / "b.npz.unfinished" / "request.json").write_text('{"mine": 1}')
    with pytest.raises(ValueError, match="in the way, and not of `extract`"):
        extract(rows, tmp_path / "b.npz", COLOURS, overwrite=True)
    assert (tmp_path / "b.npz.unfinished" / "request.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are text")
def test_names_that_are_no_text(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(extraction, "ROWS", 3)
    bad, broken = (os.fsdecode(name) for name in (b"\xff.png", b"0\xfe.png"))
    (folder / "0000_c1_000.png").rename(folder / bad)
    (folder / broken).write_bytes(b"")
    rows = from_files(by_key(folder))
    encoder, _ = stopping(1)
    with pytest.raises(StoppedError):
        extract(rows, tmp_path / "a.npz", encoder)
    report = extract(rows, tmp_path / "a.npz", COLOURS)
    assert report.skipped.keys() == {broken}
    assert read_features(report.path).paths[-1] == bad


def test_folders_that_cannot_be_read(folder, tmp_path, monkeypatch, capsys):
    """Their photographs would be missing, and nobody would know."""
    (folder / "inner").mkdir()
    scan = os.scandir

    def refuse(path):
        if Path(path).name == "inner":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert run("extract", folder, "--encoder", "builtins:len", "-o", tmp_path / "a.npz") == 2
    assert capsys.readouterr().err.endswith(f"Permission denied: '{folder / 'inner'}'\n")


@pytest.mark.parametrize(
    ("encoder", "error", "words"),
    [
        (lambda pictures: [1.0] * len(pictures), TypeError, "must give a numpy array or a torch tensor"),
        (lambda pictures: colours(pictures)[:1], ValueError, r"must give shape \(9, D\)"),
        (lambda pictures: colours(pictures) * np.nan, ValueError, "must give finite features"),
        (
            lambda pictures: colours(pictures).reshape(-1, 2, 3),
            ValueError,
            r"received \(9, 2, 3\); several features an image are not taken here: save them under the name 'parts'",
        ),
    ],
)
def test_encoders_that_give_something_else(folder, tmp_path, encoder, error, words):
    with pytest.raises(error, match=words):
        extract(from_files(by_key(folder)), tmp_path / "a.npz", Encoder(encoder, {}))
    assert not (tmp_path / "a.npz").exists()


def test_bad_arguments(folder, tmp_path):
    rows = from_files(by_key(folder))
    with pytest.raises(ValueError, match=r"must be an \.npz file, which holds the paths too"):
        extract(rows, tmp_path / "a.npy", COLOURS)
    with pytest.raises(ValueError, match="at least one, received none"):
        extract(from_files({}), tmp_path / "a.npz", COLOURS)
    (tmp_path / "a.npz").write_bytes(b"mine")
    with pytest.raises(ValueError, match="exists already"):
        extract(rows, tmp_path / "a.npz", COLOURS)
    assert (tmp_path / "a.npz").read_bytes() == b"mine"


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_the_command(folder, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(stripes_model()[0])
    (folder / "0002_c1_006.png").write_bytes(b"")
    options = ["photographs", "--encoder", "model.onnx", "--names", r"(?P<id>\d+)_c(?P<cam>\d)"]
    assert run("extract", *options, "-o", "a.npz") == 1
    said = capsys.readouterr()
    assert said.out == "a.npz: 8 x 5, and ids, cams, paths\n"
    assert "skipped 1 of 9 photographs:\n  0002_c1_006.png" in said.err
    assert run("evaluate", "--query", "a.npz", "--gallery", "a.npz", "--protocol", "all") == 0
    assert run("centralize", "a.npz", "-o", "b.npz") == 0
    assert read_features(tmp_path / "b.npz").paths.tolist() == read_features(tmp_path / "a.npz").paths.tolist()
    capsys.readouterr()
    for arguments, words in (
        (["--part", "query"], "--part goes with --dataset"),
        ([], "name photographs"),
        (["--dataset", "market1501", "."], "needs --part"),
        (["photographs", "--dataset", "market1501", ".", "--part", "query"], "received photographs too"),
        (["photographs", "--no-junk"], "--no-junk goes with --dataset"),
        (["--dataset", "msmt17", ".", "--part", "query", "--no-junk"], "that mark junk: market1501, mars, synthetic; "),
        (["--dataset", "market", ".", "--part", "query", "--no-junk"], "did you mean 'market1501'?"),
        (["photographs", "--names", r"(?P<id>\d+)_x"], r"names '(?P<id>\d+)_x' finds no id in '0000_c1_000.png'; "),
        (["photographs", "--names", r"\d+"], r"no others, received '\d+'"),
        (["photographs", "--names", r"(\d"], r"a regular expression, received '(\d': "),
        (["photographs", "--size", "64"], "must be HEIGHTxWIDTH"),
        (["photographs", "--preset", "fast"], "--preset goes with --generate"),
        (["photographs", "--generated", "nowhere"], "nowhere is not a folder"),
    ):
        assert run("extract", *arguments, "--encoder", "model.onnx", "-o", "c.npz") == 2
        assert words in capsys.readouterr().err


def test_junk_stays_or_goes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    picture = next(folder.iterdir())
    names = "bounding_box_train/0007_c1s1_000001_01", "query/0002_c1s1_000001_01"
    names += "bounding_box_test/-1_c2s1_000001_01", "bounding_box_test/0002_c2s1_000001_01"
    for name in names:
        path = tmp_path / "market" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, path)
    (tmp_path / "columns.py").write_text(
        "import numpy as np\n\ndef encode(pictures):\n    return np.ones((len(pictures), 2))\n"
    )
    command = ["--dataset", "market1501", "market", "--part", "gallery", "--encoder", "columns:encode"]
    for options, ids in (([], [-1, 2]), (["--no-junk"], [2])):
        output = f"{len(ids)}.npz"
        assert run("extract", *command, *options, "-o", output) == 0, capsys.readouterr().err
        assert read_features(tmp_path / output).ids.tolist() == ids


def test_the_encoder_of_the_tiny_weights(tmp_path, capsys):
    pytest.importorskip("diffusers")
    assert run("synthetic", "-o", tmp_path / "world", "--ids", 4, "--cams", 2, "--per-cam", 2, "-q") == 0
    output = tmp_path / "q.npz"
    world = tmp_path / "world"
    assert run("extract", "--dataset", "synthetic", world, "--part", "query", "--encoder", "tiny", "-o", output) == 0
    query = read_dataset("synthetic", world).query
    file = read_features(output)
    assert file.ids.tolist() == query.ids[np.argsort(query.paths)].tolist()
    from pose2id.ipg import IPGPipeline

    encoder = IPGPipeline.from_pretrained("tiny").identity_encoder
    with torch.no_grad():
        expected = encoder(encoder.preprocess([Image.open(path) for path in sorted(query.paths)]))
    np.testing.assert_allclose(file.features, expected.numpy(), rtol=1e-4, atol=1e-5)
    assert re.match(r".*q\.npz: \d+ x 256, and ids, cams, paths", capsys.readouterr().out.splitlines()[-1])


def test_the_released_encoder_is_fetched_alone(monkeypatch, tmp_path):
    pytest.importorskip("diffusers")
    from pose2id.ipg import named

    network = named.load_identity_encoder(named.find_weights("tiny")[0])
    asked = []
    monkeypatch.setattr(named, "download", lambda names: asked.extend(names) or tmp_path)
    monkeypatch.setattr(named, "load_encoder", lambda folder: asked.append(folder) or network)
    encoder = load_encoder("pose2id")
    assert asked == ["transformer_20.pth", tmp_path]
    assert encoder.identity["weights"].startswith("yuanc3/Pose2ID@")
    assert encoder.call([Image.new("RGB", (32, 64))]).shape == (1, 256)


def test_rows_of_one_group_are_no_neighbours(tmp_path):
    """Two people of one frame are alike; without groups they would be each other's neighbours."""
    x = np.array([[1, 0.0], [0.99, 0.1], [0, 1.0], [0.1, 0.99]], np.float32)
    for name, more in (("with", {"groups": np.array([0, 0, 1, 2])}), ("without", {})):
        np.savez(tmp_path / f"{name}.npz", features=x, ids=np.arange(4), **more)
        assert (
            run("centralize", tmp_path / f"{name}.npz", "--k1", 1, "--k2", 1, "-o", tmp_path / f"{name}_out.npz") == 0
        )
    kept, pulled = (read_features(tmp_path / f"{name}_out.npz") for name in ("with", "without"))
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(kept.features[:2], unit[:2], rtol=1e-6)
    assert not np.allclose(pulled.features[:2], unit[:2])
    np.testing.assert_array_equal(kept.features[2:], pulled.features[2:])
    assert kept.groups.tolist() == [0, 0, 1, 2]


PAGE = Path(__file__).parents[1].joinpath("docs", "photographs.md").read_text(encoding="utf-8")


def test_the_recipe_for_a_tracker(tmp_path, monkeypatch, capsys):
    """With a stand-in that gives boxes back as boxmot's trackers do: corners, tracklet, confidence, class, index."""

    class ByteTrack:
        def update(self, boxes, picture):
            assert picture.shape == (16, 20, 3)
            return np.array([[*box[:4], at, *box[4:], at] for at, box in enumerate(boxes)])

    monkeypatch.setitem(sys.modules, "boxmot", SimpleNamespace(ByteTrack=ByteTrack))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_tracked_model.py").write_text(
        "import numpy as np\ndef encode(pictures):\n"
        "    return np.stack([np.asarray(x, np.float32).mean((0, 1)) for x in pictures])\n"
    )
    code = next(block for block in re.findall(r"^```py\n(.*?)^```$", PAGE, re.M | re.S) if "boxmot" in block)
    boxes = np.array([[-2, 1, 6.4, 15, 0.9, 0], [10.2, 0, 20, 16, 0.8, 0]])
    video = [(np.full((16, 20, 3), 10 * frame, np.uint8), boxes) for frame in range(3)]
    exec(compile(code, "recipe", "exec"), {"video": video})
    commands = list(re.findall(r"^pose2id (extract crops .*)$", PAGE, re.M))
    for command in commands:
        assert main(shlex.split(command.replace("my_model", "my_tracked_model"))) == 0
    tracklets, boxes = read_features("tracklets.npz"), read_features("boxes.npz")
    np.testing.assert_array_equal(tracklets.features, np.full((2, 3), 10))
    assert tracklets.paths.tolist() == ["0000/000000.png", "0001/000000.png"]
    assert boxes.groups.tolist() == [0, 1, 2, 0, 1, 2]
    assert capsys.readouterr().out.count("and groups, paths") == 2


JOURNEY = re.search(
    r"^```text\n(pose2id synthetic .*?)^```",
    Path(__file__).parents[1].joinpath("README.md").read_text(encoding="utf-8"),
    re.M | re.S,
)[1]


@pytest.mark.slow
def test_the_six_commands_of_the_readme(tmp_path, monkeypatch, capsys):
    """As they stand there, but for fewer people and the cheapest pictures; the page has them too."""
    pytest.importorskip("diffusers")
    commands = JOURNEY.splitlines()
    assert len(commands) == 6
    page = PAGE.splitlines()
    assert set(commands) <= set(page)
    monkeypatch.chdir(tmp_path)
    for command in commands:
        command = command.replace("--ids 40", "--ids 12").replace("balanced", "draft")
        assert main(shlex.split(command)[1:]) == 0, command
    said = capsys.readouterr().out
    assert "chosen: " in said
    query, gallery = read_features("query.npz"), read_features("gallery.npz")
    assert query.generated.shape == (len(query.ids), 8, 256)
    # The same again, arrays instead of the command line.
    world = read_dataset("synthetic", "world")
    assert sorted(query.paths.tolist()) == sorted(path.relative_to("world").as_posix() for path in world.query.paths)
    rows = [
        centralize(part.features, part.generated, k1=3, k2=3, alpha=4, exclude=part.cams) for part in (query, gallery)
    ]
    scores = evaluate_features(*rows, query.ids, gallery.ids, query.cams, gallery.cams)
    assert f"{100 * scores.mAP:.2f}" in said.splitlines()[-2]
