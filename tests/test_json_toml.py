"""JSON and TOML files that cannot be: a ValueError that names the file, whoever reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pose2id.datasets import read_dataset
from pose2id.documents import parse_json, read_json, read_toml
from pose2id.poses import read_poses
from pose2id.synthetic import write_dataset

DEEP = 100_000
BAD_JSON = {
    "nested lists": (b"[" * DEEP + b"]" * DEEP, "nested more than 100 levels"),
    "nested objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "nested more than 100 levels"),
    "just too deep": (b"[" * 101 + b"]" * 101, "nested more than 100 levels"),
    "digits": (b"[" + b"9" * 5000 + b"]", "whole number of more than 4,300 digits"),
    "beyond 64 bits": (b'{"a": [18446744073709551616]}', "whole number of 65 bits"),
    "far below": (b"-" + b"9" * 400, "whole number of 1,329 bits"),
    "equal keys": (b'[{"a": {"b": 1, "c": 1, "b": 1}}]', "'b' is there twice in one object"),
    "not UTF-8": (b'{"a": "\xff"}', "'utf-8' codec can't decode byte 0xff"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "'utf-8' codec"),
    "empty": (b"", "Expecting value"),
}
NOT_FINITE = {
    "large": (b"[1e400]", "the number 1e400"),
    "NaN": (b'{"a": NaN}', "the number NaN"),
    "Infinity": (b"[-Infinity]", "the number -Infinity"),
}
BAD_TOML = {
    "nested lists": (b"a = " + b"[" * 5000 + b"]" * 5000, "nested more than 100 levels"),
    "nested names": (b".".join([b"a"] * 300) + b" = 1", "nested more than 100 levels"),
    "digits": (b"a = " + b"9" * 5000, "whole number of more than 4,300 digits"),
    "hexadecimal": (b"a = 0x" + b"f" * 9000, "whole number of 36,000 bits"),
    "large": (b"[training]\nlearning_rate = 1e400", "the number 1e400"),
    "nan": (b"[training]\nlearning_rate = nan", "the number nan"),
    "inf": (b"[data]\nseed = -inf", "the number -inf"),
    "equal keys": (b"[data]\nseed = 1\nseed = 1", "Cannot overwrite a value"),
    "not UTF-8": (b"[data]\nkind = '\xff'", "'utf-8' codec"),
}


def put(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(("content", "words"), [*BAD_JSON.values(), *NOT_FINITE.values()], ids=[*BAD_JSON, *NOT_FINITE])
def test_json_that_cannot_be(tmp_path, content, words):
    with pytest.raises(ValueError, match=rf"a\.json cannot be read as JSON: .*{words}") as caught:
        read_json(put(tmp_path / "a.json", content))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(("content", "words"), BAD_TOML.values(), ids=BAD_TOML)
def test_toml_that_cannot_be(tmp_path, content, words):
    with pytest.raises(ValueError, match=rf"a\.toml cannot be read as TOML: .*{words}"):
        read_toml(put(tmp_path / "a.toml", content))


def test_what_can_be_is_read(tmp_path):
    deep: list = []
    for _ in range(99):
        deep = [deep]
    for value in (deep, 2**64 - 1, -(2**63), 1.5, True, None, "\udcff", {"a": {"b": [1, 2.5, "ä"]}}, []):
        assert parse_json(json.dumps(value).encode()) == value
    assert read_json(put(tmp_path / "a.json", b'\xef\xbb\xbf{"a": 1}')) == {"a": 1}
    assert read_toml(put(tmp_path / "a.toml", b"\xef\xbb\xbfa.b = [0x10, 2.5]")) == {"a": {"b": [16, 2.5]}}
    assert parse_json(b"[1e400, Infinity]", finite=False) == [float("inf")] * 2
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        read_json(tmp_path / "none.json")


# Every reader of such a file


def load_keypoints(folder, content):
    put(folder / "query" / "keypoints.json", content)
    read_dataset("synthetic", folder)


def load_config(folder, content):
    weights = pytest.importorskip("pose2id.ipg.weights.configuration")
    weights.read_config(put(folder / "config.json", content))


def load_defaults(folder, content):
    weights = pytest.importorskip("pose2id.ipg.weights.configuration")
    put(folder / "model_index.json", content)
    weights.read_defaults(folder)


def load_run(folder, content):
    checkpoints = pytest.importorskip("pose2id.training.checkpoints")
    checkpoints.check_same_run(put(folder / "run.json", content), {}, begun=True)


def load_checkpoint(folder, content):
    checkpoints = pytest.importorskip("pose2id.training.checkpoints")
    put(folder / "state.json", content)
    checkpoints.load(folder)


def load_points(folder, content):
    records = pytest.importorskip("pose2id.programs.training.records")
    training = pytest.importorskip("pose2id.ipg.training")
    points = put(folder / "points.json", content)
    records.read_records(
        training.FolderData(kind="market1501", root=str(folder), keypoints=str(points)), training.Settings()
    )


def load_kept(folder, content):
    records = pytest.importorskip("pose2id.programs.training.records")
    put(folder / records.KEPT, content)
    records.clean_records(None, [], 0.005, folder)


READERS = {
    "poses": (lambda folder, content: read_poses(put(folder / "poses.json", content)), "poses.json"),
    "keypoints": (load_keypoints, "query/keypoints.json"),
    "config": (load_config, "config.json"),
    "defaults": (load_defaults, "model_index.json"),
    "run": (load_run, "run.json"),
    "checkpoint": (load_checkpoint, "state.json"),
    "points": (load_points, "points.json"),
    "kept": (load_kept, "cleaning.json"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("json") / "world", ids=2, cams=2, height=32, width=16)


@pytest.mark.parametrize("content", [content for content, _ in BAD_JSON.values()], ids=BAD_JSON)
@pytest.mark.parametrize("reader", READERS)
def test_every_reader_of_json_names_the_file(world, reader, content):
    load, name = READERS[reader]
    with pytest.raises(ValueError, match=name):
        load(world, content)


@pytest.mark.parametrize("content", [b"3", b"null", b'{"references": 1}', b'{"references": [[]], "targets": []}'])
def test_remembered_cleaning_that_cannot_be(world, content):
    with pytest.raises(ValueError, match=r"cleaning\.json must hold .*; remove it to clean anew"):
        load_kept(world, content)


def test_a_run_that_is_no_object(world):
    with pytest.raises(ValueError, match=r"run\.json must hold an object, it holds a list"):
        load_run(world, b"[]")


@pytest.mark.parametrize("content", [content for content, _ in BAD_TOML.values()], ids=BAD_TOML)
def test_a_configuration_that_cannot_be(tmp_path, content):
    recipe = pytest.importorskip("pose2id.ipg.training.recipe")
    with pytest.raises(ValueError, match=r"run\.toml cannot be read as TOML"):
        recipe.read_settings(put(tmp_path / "run.toml", content))


@pytest.mark.parametrize("name", ["market1501", "veri-776", "msmt17", "sysu-mm01"])
def test_the_home_of_nobody(name):
    with pytest.raises(ValueError, match=r"root '~nosuchuser/data' begins with the home of a user that is not known"):
        read_dataset(name, "~nosuchuser/data")
    with pytest.raises(ValueError, match=r"folder '~nosuchuser/world' begins with the home"):
        write_dataset("~nosuchuser/world", ids=2, cams=2)
