"""From a configuration to a trained encoder, and from that to a feature file: the command line."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("filelock")
from PIL import Image

from pose2id import cli
from pose2id.atomic import lock
from pose2id.attributes import SYNTHETIC
from pose2id.datasets import READERS
from pose2id.encoders import SYSTEMS, EncoderSettings, encode_images, load_encoder, make_encoder, save_encoder
from pose2id.encoders.recipe import EncoderModel
from pose2id.poses import read_keypoints
from pose2id.programs.encoders import PhotographData, read_pictures, run_encoder_training
from pose2id.programs.extraction import Encoder, extract, from_files
from pose2id.synthetic import PARTS, label_people, make_set, write_dataset
from pose2id.training import reports
from pose2id.training.configuration import WorldData, open_configuration, read_data, read_table
from pose2id.training.folders import LOCK

CONFIG = """
[encoder]
system = "{system}"
height = 32
width = 16
channels = [8, 8, 16]

[training]
steps = 3
identities = 3
shots = 2
save_every = 2

[data]
kind = "world"
ids = [10, 14]
cams = 2
per_cam = 1
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "encoder.toml"
    path.write_text(CONFIG.format(system="pcb"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_dataset(
        tmp_path_factory.mktemp("data") / "world", ids=4, cams=2, height=32, width=16, masks=True, attributes=True
    )


def test_the_command(config, tmp_path, capsys, folder):
    """What it prints is the folder, which `extract` takes; its features are those of the encoder."""
    run = tmp_path / "run"
    assert cli.main(["train", "encoder", str(config), "-o", str(run), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{run / 'encoder'}\n", "")
    assert cli.main(["train", "encoder", str(config), "-o", str(run), "--device", "cpu"]) == 0
    capsys.readouterr()
    encoder, file = load_encoder(run / "encoder"), tmp_path / "query.npz"
    command = ["extract", "--dataset", "synthetic", str(folder), "--part", "query", "--encoder", str(run / "encoder")]
    assert cli.main([*command, "-o", str(file)]) == 0
    held = np.load(file)
    images = np.stack([np.asarray(Image.open(folder / path)) for path in held["paths"]])
    found = encode_images(encoder, images)
    np.testing.assert_allclose(held["features"], found.features.numpy(), rtol=1e-5, atol=1e-6)
    assert cli.main([*command, "-o", str(tmp_path / "parts.npz"), "--parts"]) == 0
    assert capsys.readouterr().out.endswith("and parts, ids, cams, paths\n")
    parts = np.load(tmp_path / "parts.npz")
    np.testing.assert_array_equal(parts["features"], held["features"])
    np.testing.assert_allclose(parts["parts"], found.parts.numpy(), rtol=1e-5, atol=1e-6)


def test_features_of_a_system_that_compares_pairs_too(tmp_path, folder):
    """DSR has a feature of one picture; what it finds by pairs orders a shortlist."""
    encoder = make_encoder("dsr", 3, channels=(8, 8, 16)).eval()
    encoder.image_size = 32, 16
    command = ["extract", "--dataset", "synthetic", str(folder), "--part", "query", "-o", str(tmp_path / "a.npz")]
    assert cli.main([*command, "--encoder", str(save_encoder(encoder, tmp_path / "encoder"))]) == 0
    held = np.load(tmp_path / "a.npz")
    images = np.stack([np.asarray(Image.open(folder / path)) for path in held["paths"]])
    found = encode_images(encoder, images).features.numpy()
    np.testing.assert_allclose(held["features"], found, rtol=1e-5, atol=1e-6)


def test_parts_of_generated_pictures_too(tmp_path):
    """Those of a photograph stand beside the others, and 0 and 1 come back as bools."""
    paths = {}
    for name, colour in (("a.png", 10), ("b.png", 200)):
        Image.new("RGB", (4, 8), (colour, 0, 0)).save(tmp_path / name)
        paths[name] = tmp_path / name

    def encode(pictures):
        values = np.array([np.asarray(picture)[0, 0, 0] for picture in pictures], np.float32)
        return np.stack([values, values + 1, *(values + 2 + part for part in range(4)), values > 100, values < 0], 1)

    encoder = Encoder(encode, {"name": "mine"}, {"features": (2,), "parts": (2, 2), "visibility": (2,)})
    generated = {name: [tmp_path / "b.png"] * 3 for name in paths}
    report = extract(from_files(paths), tmp_path / "out.npz", encoder, generated=generated)
    held = np.load(report.path)
    assert held["features"].tolist() == [[10, 11], [200, 201]]
    assert held["parts"].tolist() == [[[12, 13], [14, 15]], [[202, 203], [204, 205]]]
    assert held["visibility"].tolist() == [[False, False], [True, False]]
    assert held["visibility"].dtype == held["generated_visibility"].dtype == np.bool_
    assert held["generated"].shape == (2, 3, 2)
    assert held["generated_parts"][0].tolist() == [[[202, 203], [204, 205]]] * 3
    assert report.shape == (2, 2)
    with pytest.raises(ValueError, match="leave out flip or the parts"):
        extract(from_files(paths), tmp_path / "flipped.npz", encoder, flip=True)


@pytest.mark.parametrize(
    ("system", "options", "words"),
    [
        ("spindle", [], r"\(spindle\) needs keypoints of every picture; pass --keypoints FILE, as `pose2id poses"),
        ("pcb", ["--keypoints", "{query}"], "--keypoints are for an encoder that needs them, .*encoder does not"),
        ("spindle", ["--keypoints", "{query}", "--flip"], "takes photographs one by one, not mirrored"),
        (
            "spindle",
            ["--keypoints", "{train}"],
            "the keypoints are of none of 4 photographs: these are called '0003_c1",
        ),
        ("spreid", [], r"\(spreid\) needs masks of every picture"),
        ("idla", [], r"\(idla\) compares pairs and has no feature of one picture"),
        ("global", ["--parts"], r"--parts: encoder .* \(global\) gives one feature of each picture and no parts"),
        ("global", ["--size", "64x32"], "--size are for an .onnx model; encoder .* knows its own"),
        ("pcb", ["--parts", "--flip"], "leave out flip or the parts"),
        (None, [], "has no encoder.json; name a folder"),
        ("unsized", [], "does not say for which size of pictures it is"),
    ],
)
def test_encoders_that_extract_does_not_take(tmp_path, folder, capsys, system, options, words):
    name = tmp_path / "encoder"
    if system is None:
        name.mkdir()
    else:
        encoder = make_encoder("global" if system == "unsized" else system, 3)
        encoder.image_size = None if system == "unsized" else (64, 32)
        save_encoder(encoder, name)
    points = {"query": folder / "query" / "keypoints.json", "train": folder / "bounding_box_train" / "keypoints.json"}
    options = [option.format_map(points) for option in options]
    command = ["extract", str(folder / "query"), "--encoder", str(name), "-o", str(tmp_path / "out.npz"), *options]
    assert cli.main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line), line


def test_keypoints_of_photographs(tmp_path, folder):
    """From a file, or those that the data set has; a photograph without any is one of nobody."""
    encoder = make_encoder("spindle", 3).eval()
    encoder.image_size = 32, 16
    name, points = save_encoder(encoder, tmp_path / "encoder"), folder / "query" / "keypoints.json"
    command = ["extract", "--encoder", str(name), "--parts", "-o"]
    assert cli.main([*command, str(tmp_path / "a.npz"), str(folder / "query"), "--keypoints", str(points)]) == 0
    own = ["--dataset", "synthetic", str(folder), "--part", "query"]
    assert cli.main([*command, str(tmp_path / "b.npz"), *own]) == 0
    a, b = np.load(tmp_path / "a.npz"), np.load(tmp_path / "b.npz")
    poses = read_keypoints(points)
    images = np.stack([np.asarray(Image.open(folder / path)) for path in b["paths"]])
    found = encode_images(encoder, images, keypoints=[poses[Path(path).name] for path in b["paths"]])
    for name in ("features", "parts", "visibility"):
        np.testing.assert_array_equal(a[name], b[name])
        np.testing.assert_allclose(b[name], getattr(found, name).numpy(), rtol=1e-4, atol=1e-5)
    assert a["visibility"].dtype == np.bool_
    held = json.loads(points.read_text())
    first, *_ = sorted(held)
    (tmp_path / "some.json").write_text(json.dumps(held | {first: None}))
    some = ["--keypoints", str(tmp_path / "some.json")]
    assert cli.main([*command, str(tmp_path / "c.npz"), str(folder / "query"), *some]) == 0
    seen = np.load(tmp_path / "c.npz")["visibility"]
    assert not seen[0].any()
    np.testing.assert_array_equal(seen[1:], a["visibility"][1:])


def test_parts_are_of_folders(tmp_path, folder, capsys):
    assert (
        cli.main(["extract", str(folder), "--encoder", "builtins:len", "--parts", "-o", str(tmp_path / "a.npz")]) == 2
    )
    assert "--parts is for a folder that `pose2id train encoder` wrote" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# What is learnt from


def model_of(system, **sizes):
    return EncoderModel(system=system, height=32, width=16, **sizes)


def test_only_what_is_needed_is_read():
    data = WorldData(ids=[0, 2], cams=2, per_cam=1, occlusion=1.0)
    assert set(read_pictures(data, model_of("pcb"))) == {"images", "ids", "sizes"}
    world = make_set([0, 1], cams=2, per_cam=1, height=32, width=16, occlusion=1, masks=True)
    spindle, spreid = read_pictures(data, model_of("spindle")), read_pictures(data, model_of("spreid"))
    np.testing.assert_array_equal(spindle["images"], world.images)
    np.testing.assert_array_equal(spreid["masks"], world.masks)
    assert spreid["part_names"] == PARTS
    apr = read_pictures(data, model_of("apr"))
    np.testing.assert_array_equal(apr["attributes"], world.attributes)
    assert apr["sizes"] == {"attributes": list(SYNTHETIC.counts)}
    assert not world.seen.all()
    np.testing.assert_array_equal(
        np.isnan(spindle["keypoints"][:, :, 0]), ~world.seen | np.isnan(world.keypoints[:, :, 0])
    )


def test_photographs_with_keypoints_and_masks(folder, tmp_path):
    data = PhotographData(kind="synthetic", root=str(folder), masks=str(folder / "masks"))
    found = read_pictures(data, model_of("spreid"))
    paths = sorted((folder / "bounding_box_train").glob("*.jpg"))
    np.testing.assert_array_equal(found["images"], np.stack([np.asarray(Image.open(path)) for path in paths]))
    masks = [folder / "masks" / "bounding_box_train" / f"{path.stem}.png" for path in paths]
    np.testing.assert_array_equal(found["masks"], np.stack([np.asarray(Image.open(path)) for path in masks]))
    assert found["masks"].max() > 3
    assert len(set(found["ids"])) == 2
    kinds, people = read_pictures(data, model_of("apr")), label_people([1, 2])
    np.testing.assert_array_equal(kinds["attributes"], people.take(found["ids"]).classes)
    assert kinds["sizes"] == {"attributes": list(SYNTHETIC.counts)}
    own = read_pictures(data, model_of("spindle"))["keypoints"]
    points = {path.relative_to(folder).as_posix(): [[0.5, 0.25]] + [None] * 17 for path in paths[1:]}
    (tmp_path / "points.json").write_text(json.dumps(points))
    mine = PhotographData(kind="synthetic", root=str(folder), keypoints=str(tmp_path / "points.json"))
    poses = read_pictures(mine, model_of("spindle"))["keypoints"]
    assert own.shape == (len(paths), 18, 2)
    assert poses[0] is None
    assert poses[1].keypoints[0].tolist() == [0.5, 0.25]
    small = read_pictures(data, EncoderModel(system="spreid", height=16, width=8))
    assert small["images"].shape[1:3] == small["masks"].shape[1:] == (16, 8)
    assert set(np.unique(small["masks"])) <= set(np.unique(found["masks"]))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("[encoder]", "[encoders]", "unknown: encoders; allowed are data, encoder, training"),
        ('system = "pcb"', "", "encoder: system must be given"),
        ('"pcb"', '"pbc"', "encoder.toml: system must be one of global.*received 'pbc'; did you mean 'p"),
        ("steps = 3", "step = 3", "training: unknown: step; allowed are .*did you mean 'steps'"),
        ("steps = 3", "steps = 0", "training: steps must be"),
        ("height = 32", "height = 4", "encoder: height must be an integer >= 8"),
        ("[8, 8, 16]", "[8, 8]", "channels must be three integers"),
        ('kind = "world"', 'kind = "mars7"', "data: kind must be 'world' or one of"),
        ("ids = [10, 14]", "ids = [10, 11]", "ids must hold at least two identities, received 1"),
        ("per_cam = 1", "clean = true", "data: unknown: clean"),
        ('"pcb"', '"pcb"\ntrunk = "nowhere"', "nowhere is not a folder"),
        ('"pcb"', '"pcb"\nsizes = {widht = 3}', "sizes of pcb do not fit"),
    ],
)
def test_a_wrong_configuration(config, tmp_path, capsys, old, new, words):
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    assert cli.main(["train", "encoder", str(config), "-o", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pose2id train: ")
    assert re.search(words, line), line
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("system", "more", "words"),
    [
        ("spindle", "", "system spindle needs keypoints of every picture; give them, or train another system"),
        ("spreid", "", "system spreid needs masks of every picture"),
        ("apr", "", "has no market_attribute.mat, which holds the attributes; it is published in"),
        (
            "spindle",
            'keypoints = "none.json"',
            r"keypoints = 'none.json' is not there; .*pose2id poses .* -o none.json",
        ),
        (
            "spindle",
            'keypoints = "other.json"',
            "no picture has a pose in other.json; .*such as 'bounding_box_train.*; it has 'x.jpg'",
        ),
        ("spreid", 'masks = "nowhere"', "masks: there is no nowhere"),
        ("spreid", 'masks = "masks"\nparts = ["a"]', "masks hold part ., part_names are of 1"),
        ("spreid", 'masks = "masks"\nparts = [1]', "parts must hold texts"),
    ],
)
def test_what_a_data_set_lacks_is_told(config, folder, tmp_path, capsys, monkeypatch, system, more, words):
    monkeypatch.chdir(folder)
    (folder / "other.json").write_text(json.dumps({"x.jpg": None}))
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare, ignore=shutil.ignore_patterns("keypoints.json"))
    text = CONFIG.format(system=system)
    config.write_text(text[: text.index("[data]")] + f'[data]\nkind = "market1501"\nroot = "{bare}"\n{more}\n')
    assert cli.main(["train", "encoder", str(config), "-o", str(tmp_path / "run")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line), line
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_second_run_is_told_at_once(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pose2id.programs.encoders.read_pictures", None)
    run = tmp_path / "run"
    run.mkdir()
    with lock(run / LOCK):
        assert cli.main(["train", "encoder", str(config), "-o", str(run)]) == 2
    assert "another run (process" in capsys.readouterr().err


def test_what_saving_needs_is_asked_for_before_pictures(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("pose2id.programs.encoders.read_pictures", None)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert cli.main(["train", "encoder", str(config), "-o", str(tmp_path / "run")]) == 2
    assert "training needs safetensors, which is not installed" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_how_far_it_is(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reports, "APART", 0)
    assert cli.main(["train", "encoder", str(config), "-o", str(tmp_path / "run")]) == 0
    assert [line[:29] for line in capsys.readouterr().err.splitlines()] == [
        f"pose2id train: step {n} of 3, l" for n in "123"
    ]


def test_a_run_without_a_command(config, tmp_path):
    made = run_encoder_training(config, tmp_path / "run", progress=False)
    assert torch.equal(*(load_encoder(made).trunk.state_dict()["stem.0.weight"] for _ in range(2)))


def test_the_configurations_on_the_page_are_some(tmp_path):
    """Each is read; what they need beside pictures is named in them."""
    page = (Path(__file__).parents[2] / "docs" / "encoders.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```toml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    for text, kind in zip(blocks, (WorldData, PhotographData, PhotographData), strict=True):
        (tmp_path / "a.toml").write_text(text, encoding="utf-8")
        with open_configuration(tmp_path / "a.toml", ("encoder", "training", "data")) as tables:
            model = read_table(EncoderModel, tables["encoder"], "encoder")
            read_table(EncoderSettings, tables.get("training", {}), "training")
            data = read_data(tables["data"], READERS, WorldData, PhotographData)
        assert type(data) is kind
        assert all(getattr(data, need) for need in SYSTEMS[model.system].needs)
    table = "".join(re.findall(r"^\|.*\|$", page, re.MULTILINE))
    assert set(SYSTEMS) <= set(re.findall(r"`(\w+)`", table))
