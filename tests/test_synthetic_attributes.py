"""Attributes of synthetic people: what is drawn, in the words of data sets, in arrays, folders and through readers."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

pytest.importorskip("PIL")
from scipy.io import savemat

from pose2id.attributes import DUKEMTMC, MARKET1501, SYNTHETIC
from pose2id.cli import main
from pose2id.datasets import read_dataset
from pose2id.synthetic import label_people, make_person, make_set, people, person_attributes, write_dataset
from pose2id.synthetic.people import BOTTOMS, TOPS

UPPER = ("white", "gray", "black", "brown", "red", "orange", "yellow", "green", "cyan", "blue", "pink")
LOWER = ("blue", "darkblue", "black", "gray", "khaki", "brown")
TRAITS = "cdc6861d5cd4ab38af8a50b6b4c4e3c5dfb3e7be0177670bb65fbca8e219f45c"


def test_the_words_are_those_of_data_sets():
    for name in SYNTHETIC.names:
        known = next((each[name] for each in (MARKET1501, DUKEMTMC) if name in each.names), None)
        assert known is not None
        if "colour" not in name:
            assert SYNTHETIC[name].classes == known.classes


def test_attributes_are_the_traits(monkeypatch):
    """Of 150 people; colours by the place in the palette that was drawn."""
    drawn = {}
    jitter = people.jitter

    def spy(color, rng):
        found = jitter(color, rng)
        drawn[found] = color
        return found

    monkeypatch.setattr(people, "jitter", spy)
    for number in range(150):
        person = make_person(3, number)
        known = person_attributes(person)
        assert tuple(known) == SYNTHETIC.names
        assert known["hair"] == ("short", "long")[person.long_hair]
        assert known["up"] == ("short sleeve", "long sleeve")[person.long_sleeves]
        assert known["down"] == {"trousers": "long", "shorts": "short", "skirt": "short"}[person.bottom_kind]
        assert known["clothes"] == {"trousers": "pants", "shorts": "pants", "skirt": "dress"}[person.bottom_kind]
        assert known["hat"] == ("yes", "no")[person.hat == "none"]
        bags = {"none": "", "backpack": "backpack", "shoulder": "bag", "hand": "handbag"}
        assert [name for name in ("backpack", "bag", "handbag") if known[name] == "yes"] == [bags[person.bag]] * (
            person.bag != "none"
        )
        assert known["upper colour"] == f"up{UPPER[TOPS.index(drawn[person.top.color])]}"
        assert known["lower colour"] == f"down{LOWER[BOTTOMS.index(drawn[person.bottom.color])]}"


def test_shoes():
    person = make_person(0, 1)
    for color, expected in (((0.9, 0.9, 0.9), "light"), ((0.1, 0.1, 0.1), "dark"), ((0.0, 0.0, 1.0), "dark")):
        shoes = dataclasses.replace(person.shoes, color=color)
        assert person_attributes(dataclasses.replace(person, shoes=shoes))["shoes"] == expected


def test_people_are_those_of_before():
    """By a hash taken before there were attributes; how they are drawn depends on their traits alone."""
    many = [make_person(seed, number) for seed in (0, 5) for number in range(50)]
    traits = repr([(each.pattern, each.bag, each.hat, [round(x, 6) for x in each.bottom.color]) for each in many])
    assert hashlib.sha256(traits.encode()).hexdigest() == TRAITS


def test_sets_know_the_attributes_of_each_picture():
    world = make_set([4, 2], seed=1, cams=2, per_cam=3)
    assert (world.attributes.shape, world.attributes.dtype) == ((12, len(SYNTHETIC)), np.int64)
    expected = label_people([4, 2], seed=1).classes
    assert np.array_equal(world.attributes, expected[[0] * 6 + [1] * 6])
    assert not np.array_equal(*expected)
    for row, number in zip(expected, (4, 2), strict=True):
        words = {each.name: each.classes[kind] for each, kind in zip(SYNTHETIC.attributes, row, strict=True)}
        assert words == person_attributes(make_person(1, number))
    assert np.array_equal(world.select([7, 0]).attributes, expected[[1, 0]])
    assert make_set([]).attributes.shape == (0, len(SYNTHETIC))
    assert label_people([7]).classes.tolist() != label_people([7], seed=1).classes.tolist()


def test_folders(tmp_path):
    sizes = {"ids": 6, "cams": 2, "seed": 3, "height": 16, "width": 8}
    folder, plain = write_dataset(tmp_path / "a", attributes=True, **sizes), write_dataset(tmp_path / "b", **sizes)
    assert {path.name for path in folder.iterdir()} == {path.name for path in plain.iterdir()} | {"attributes.json"}
    for path in plain.rglob("*.jp*g"):
        assert (folder / path.relative_to(plain)).read_bytes() == path.read_bytes()
    held = json.loads((folder / "attributes.json").read_text())
    assert held == {f"{number:04d}": person_attributes(make_person(3, number)) for number in range(1, 7)}
    assert "attributes.json: identity" in (folder / "README.txt").read_text()
    data = read_dataset("synthetic", folder, attributes=True)
    for images in (data.train, data.query, data.gallery):
        assert images.attributes.vocabulary is SYNTHETIC
        assert images.attributes.ids.tolist() == images.ids.tolist()
        known = label_people(range(1, 7), seed=3).classes
        expected = [known[number - 1] if number > 0 else np.full(len(SYNTHETIC), -1) for number in images.ids]
        assert np.array_equal(images.attributes.classes, expected)
    assert {-1, 0} <= set(data.gallery.ids.tolist())
    assert read_dataset("synthetic", folder).query.attributes is None
    with pytest.raises(FileNotFoundError, match=r"no attributes\.json.*--attributes"):
        read_dataset("synthetic", plain, attributes=True)
    (folder / "attributes.json").write_text('{"0001": {}}')
    with pytest.raises(ValueError, match=r"attributes\.json does not belong to these images, train: .* 2, 3"):
        read_dataset("synthetic", folder, attributes=True)


def test_command_line(tmp_path, capsys):
    words = ("--ids", "2", "--cams", "2", "--height", "8", "--width", "8", "--attributes")
    assert main(["synthetic", "-o", str(tmp_path / "world"), *words]) == 0
    capsys.readouterr()
    assert len(json.loads((tmp_path / "world" / "attributes.json").read_text())) == 2


@pytest.mark.parametrize("inside", [True, False])
def test_published_files_beside_their_sets(tmp_path, inside):
    """Training and test parts are taken for the folders that they describe."""
    market = tmp_path / "Market-1501"
    for name in ("bounding_box_train/0002_c1s1_000451_03", "query/0001_c1s1_001051_00"):
        path = market / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("0001_c2s1_000301_00", "0000_c2s1_000302_00", "-1_c2s1_000303_00"):
        path = market / "bounding_box_test" / f"{name}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    parts = {}
    for part, identity, hair in (("train", "0002", 2.0), ("test", "0001", 1.0)):
        fields = {field: np.array([[1.0]]) for field in MARKET1501.fields}
        names = np.empty((1, 1), object)
        names[0, 0] = identity
        parts[part] = fields | {"hair": np.array([[hair]]), "image_index": names}
    savemat((market if inside else tmp_path) / "market_attribute.mat", {"market_attribute": parts})
    data = read_dataset("market1501", tmp_path, attributes=True)
    place = MARKET1501.place("hair")
    assert [images.attributes.classes[:, place].tolist() for images in (data.train, data.query)] == [[1], [0]]
    assert dict(zip(data.gallery.ids.tolist(), data.gallery.attributes.classes[:, place].tolist(), strict=True)) == {
        -1: -1,
        0: -1,
        1: 0,
    }
    with pytest.raises(TypeError, match="attributes must be True or False"):
        read_dataset("market1501", tmp_path, attributes="x.mat")
    for name in ("occluded_body_images", "whole_body_images"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "001_01.tif").touch()
    with pytest.raises(ValueError, match="set with attributes must be one of 'market1501', 'dukemtmc', 'synthetic'"):
        read_dataset("occluded-reid", tmp_path, attributes=True)
