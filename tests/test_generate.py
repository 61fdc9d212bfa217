"""Folder runs: killed at any moment and started again they end with the same bytes. And `pose2id generate`."""

import gc
import hashlib
import importlib.metadata
import io
import json
import os
import re
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image
from support.killing import Moments, fork
from support.pipelines import tiny_pipeline
from support.starting import CONTEXT, start

from pose2id.cli import main
from pose2id.ipg import named, representative_poses
from pose2id.ipg.folders import FolderSettings, collect_poses, collect_references, generate_folder, sheets

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork, SIGKILL and flock")
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (12, 16, 8, 3), dtype=np.uint8)
POSES = {name: Image.new("RGB", (8, 16), colour) for name, colour in (("1", "red"), ("2", "lime"), ("3", "blue"))}
SETTINGS = FolderSettings(weights="fake", height=16, width=8, batch_size=7)
BOOKS = {"manifest.jsonl", ".pose2id.lock"}
LEFT = re.compile(r"(^|/)\.pose2id-[0-9a-f]+\.part/")  # in the workplace of a writer that was killed


class FakePipe:
    """Noise that depends on everything in the call, as the last bits of a real picture do."""

    def __init__(self):
        self.calls = []

    def __call__(self, references, poses, **options):
        self.calls.append((options["reference_keys"], options["pose_keys"]))
        assert options["output_type"] == "pil"
        assert options["batch_size"] == len(references) * len(poses)
        everything = hashlib.sha256(repr(sorted(options.items())).encode())
        for image in (*references, *poses):
            everything.update(image.mode.encode() + np.asarray(image).tobytes())
        rng = np.random.default_rng(int.from_bytes(everything.digest()[:8]))
        shape = (len(references), len(poses), options["height"], options["width"], 3)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        return SimpleNamespace(images=[[Image.fromarray(picture) for picture in row] for row in pixels])


def no_pipe():
    pytest.fail("the pipeline was loaded although there is nothing to draw")


def write_people(folder, names):
    """Photographs, PNG whatever their name; the n-th name of all gets the n-th pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in zip(names, PIXELS, strict=False):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name, "PNG")
    return {name: folder / name for name in names}


NAMES = ("a.png", "b.png", "sub/c.png", "sub/d.png", "e.png")


@pytest.fixture
def people(tmp_path):
    """Five photographs by key."""
    return write_people(tmp_path / "people", NAMES)


def tree(folder):
    """Content of every file below a folder, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stamps(folder):
    """What changes when a file is written again."""
    kept = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in kept.items() if path not in BOOKS}


def pictures(folder):
    return {path: content for path, content in tree(folder).items() if path not in BOOKS and not LEFT.search(path)}


def manifest(folder):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def units(folder):
    return [(line["references"], line["poses"]) for line in manifest(folder) if "unit" in line]


def png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def generate(people, output, pipe=None, settings=SETTINGS, poses=POSES, **options):
    return generate_folder(lambda: pipe or FakePipe(), people, output, poses, settings=settings, **options)


def drawn_apart(people, groups, poses=POSES, settings=SETTINGS):
    """The pictures of these batches, (references, pose names), from the pipe itself."""
    wanted = {}
    for keys, names in groups:
        rows = FakePipe()(
            [Image.open(people[key]).convert("RGB") for key in keys],
            [poses[name] for name in names],
            height=settings.height,
            width=settings.width,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            seed=settings.seed,
            output_type="pil",
            batch_size=len(keys) * len(names),
            reference_keys=list(keys),
            pose_keys=list(names),
        ).images
        for key, row in zip(keys, rows, strict=True):
            for name, picture in zip(names, row, strict=True):
                wanted[f"{key.removesuffix('.png')}/{name}.png"] = png(picture)
    return wanted


ALL = ("1", "2", "3")
GROUPS = [(NAMES[:2], ALL), (NAMES[2:4], ALL), (NAMES[4:], ALL)]  # batch size 7: two people in three poses


def test_pictures_and_where_they_are(tmp_path, people):
    report = generate(people, tmp_path / "out")
    assert pictures(tmp_path / "out") == drawn_apart(people, GROUPS)
    assert (report.drawn, report.found, report.skipped, report.waiting) == (15, 0, {}, 0)


def test_the_manifest(tmp_path, people):
    generate(people, tmp_path / "out")
    lines = manifest(tmp_path / "out")
    versions = {name: importlib.metadata.version(name) for name in ("torch", "diffusers", "pillow")}
    assert lines[0].pop("versions") | {"pose2id": None} == versions | {"pose2id": None}
    assert lines[0] == {
        "pose2id": "generate",
        "format": 1,
        "weights": "fake",
        "seed": 42,
        "num_inference_steps": 20,
    } | {
        "guidance_scale": 3.5,
        "height": 16,
        "width": 8,
        "batch_size": 7,
        "layout": "reference",
        "dtype": "float32",
    } | {"device": "cpu"}
    assert [line["pose"] for line in lines[1:4]] == ["1", "2", "3"]
    hashes = {key: hashlib.sha256(path.read_bytes()).hexdigest() for key, path in people.items()}
    assert {line["reference"]: line["sha256"] for line in lines[4:9]} == hashes
    assert lines[9:] == [
        {"unit": i, "references": list(keys), "poses": list(names)} for i, (keys, names) in enumerate(GROUPS)
    ]
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.jsonl").read_text()


@pytest.mark.parametrize(
    ("n", "batch_size", "wanted"),
    [
        (3, 1, [([i], [p]) for i in range(3) for p in ALL]),
        (3, 2, [([i], p) for i in range(3) for p in (["1", "2"], ["3"])]),
        (3, 3, [([i], ALL) for i in range(3)]),
        (3, 5, [([i], ALL) for i in range(3)]),
        (4, 6, [([0, 1], ALL), ([2, 3], ALL)]),
        (4, 9, [([0, 1, 2], ALL), ([3], ALL)]),
        (4, 100, [([0, 1, 2, 3], ALL)]),
    ],
)
def test_units_are_whole_people_or_parts_of_one(tmp_path, people, n, batch_size, wanted):
    people = dict(list(people.items())[:n])
    pipe = FakePipe()
    generate(people, tmp_path / "out", pipe, replace(SETTINGS, batch_size=batch_size))
    wanted = [([NAMES[i] for i in keys], list(poses)) for keys, poses in wanted]
    assert units(tmp_path / "out") == wanted
    assert pipe.calls == wanted


def test_settings_reach_the_pipeline(tmp_path, people):
    settings = FolderSettings("fake", 7, 3, 2.0, 24, 32, 6)
    generate(people, tmp_path / "out", settings=settings)
    assert pictures(tmp_path / "out") == drawn_apart(people, GROUPS, settings=settings)


def test_no_poses_are_the_eight(tmp_path, people):
    settings = replace(SETTINGS, batch_size=8)
    generate(people, tmp_path / "out", settings=settings, poses=None)
    eight = {pose.name: pose.draw() for pose in representative_poses()}
    assert list(eight) == list("12345678")
    assert pictures(tmp_path / "out") == drawn_apart(people, [([key], tuple(eight)) for key in NAMES], eight, settings)


def test_per_pose_folders(tmp_path):
    names = ("0001_c1.jpg", "0002_c2.JPEG", "0003.png", "0004.bmp", "sub/0005.jpg")
    people = write_people(tmp_path / "people", names)
    poses = {"1": POSES["1"], "left": POSES["2"]}
    settings = replace(SETTINGS, layout="pose", batch_size=10)
    generate(people, tmp_path / "out", settings=settings, poses=poses)
    found = pictures(tmp_path / "out")
    targets = ("0001_c1.jpg", "0002_c2.JPEG", "0003.png", "0004.png", "sub/0005.jpg")
    assert set(found) == {f"{folder}/{name}" for folder in ("pose1", "left") for name in targets}
    wanted = drawn_apart(people, [(names, ("1", "left"))], poses, settings)
    for name, target in zip(names, targets, strict=True):
        for pose, folder in (("1", "pose1"), ("left", "left")):
            content, same = found[f"{folder}/{target}"], wanted[f"{name.removesuffix('.png')}/{pose}.png"]
            if target.endswith(".png"):
                assert content == same
            else:
                buffer = io.BytesIO()
                Image.open(io.BytesIO(same)).save(buffer, "JPEG", quality=95, subsampling=0)
                assert content == buffer.getvalue()


# Starting again.


def test_a_finished_run_is_not_touched(tmp_path, people):
    generate(people, tmp_path / "out", sheet=True)
    before, when = tree(tmp_path / "out"), stamps(tmp_path / "out")
    book = (tmp_path / "out" / "manifest.jsonl").stat().st_mtime_ns
    report = generate_folder(no_pipe, people, tmp_path / "out", POSES, settings=SETTINGS, sheet=True)
    assert (report.drawn, report.found, report.skipped, report.waiting) == (0, 15, {}, 0)
    assert (tree(tmp_path / "out"), stamps(tmp_path / "out")) == (before, when)
    assert (tmp_path / "out" / "manifest.jsonl").stat().st_mtime_ns == book


@pytest.mark.parametrize("missing", [["a/1.png"], ["a/3.png", "b/2.png"], ["sub/c/1.png", "e/2.png"]])
def test_an_unfinished_unit_is_drawn_again_whole(tmp_path, people, missing):
    out = tmp_path / "out"
    generate(people, out)
    before, when = tree(out), stamps(out)
    for path in missing:
        (out / path).unlink()
    pipe = FakePipe()
    touched = [group for group in GROUPS if any(f"{path.rpartition('/')[0]}.png" in group[0] for path in missing)]
    report = generate(people, out, pipe)
    assert pipe.calls == [(list(keys), list(names)) for keys, names in touched]
    assert tree(out) == before
    again = {path for path, stamp in stamps(out).items() if stamp != when[path]}
    assert again == set(drawn_apart(people, touched))
    assert (report.drawn, report.found) == (len(again), 15 - len(again))


def test_more_people_get_units_of_their_own(tmp_path, people):
    out = tmp_path / "out"
    few = {key: people[key] for key in ("b.png", "sub/d.png", "e.png")}
    generate(few, out)
    before, when = pictures(out), stamps(out)
    report = generate(people, out)
    wanted = [(("b.png", "sub/d.png"), ALL), (("e.png",), ALL), (("a.png", "sub/c.png"), ALL)]
    assert units(out) == [(list(keys), list(names)) for keys, names in wanted]
    assert pictures(out) == drawn_apart(people, wanted)
    assert {path: stamps(out)[path] for path in before} == when
    assert (report.drawn, report.found) == (6, 9)


def test_more_poses_get_units_of_their_own(tmp_path, people):
    out = tmp_path / "out"
    two = {name: POSES[name] for name in ("3", "1")}
    generate(dict(list(people.items())[:2]), out, poses=two)
    when = stamps(out)
    generate(people, out)
    wanted = [(NAMES[:2], ("3", "1")), (NAMES[:2], ("2",)), (NAMES[2:4], ALL), (NAMES[4:], ALL)]
    assert units(out) == [(list(keys), list(names)) for keys, names in wanted]
    assert pictures(out) == drawn_apart(people, wanted)
    assert when.items() <= stamps(out).items()


def test_fewer_of_both_are_found(tmp_path, people):
    generate(people, tmp_path / "out")
    few, one = {"b.png": people["b.png"]}, {"2": POSES["2"]}
    report = generate_folder(no_pipe, few, tmp_path / "out", one, settings=SETTINGS)
    assert (report.drawn, report.found, report.skipped, report.waiting) == (0, 1, {}, 0)


def test_unfinished_units_of_others_wait(tmp_path, people):
    out = tmp_path / "out"
    generate(people, out)
    before = tree(out)
    for name in ("a/1.png", "e/3.png"):
        (out / name).unlink()
    report = generate_folder(no_pipe, {"sub/c.png": people["sub/c.png"]}, out, POSES, settings=SETTINGS)
    assert (report.found, report.skipped, report.waiting) == (3, {}, 9)
    # b.png is asked for, but its unit cannot be drawn without a.png
    report = generate_folder(no_pipe, {"b.png": people["b.png"]}, out, POSES, settings=SETTINGS)
    assert (report.found, report.waiting, list(report.skipped)) == (0, 3, ["b.png"])
    assert "planned it in one batch with reference a.png, which is not there now" in report.skipped["b.png"]
    report = generate_folder(no_pipe, {"e.png": people["e.png"]}, out, {"1": POSES["1"]}, settings=SETTINGS)
    assert "planned it in one batch with pose 2, which is not there now" in report.skipped["e.png"]
    generate(people, out)
    assert tree(out) == before


def test_a_photograph_that_has_changed_is_skipped(tmp_path, people):
    out = tmp_path / "out"
    generate(people, out)
    before = tree(out)
    Image.fromarray(PIXELS[10]).save(people["b.png"])
    (out / "a" / "1.png").unlink()
    report = generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)
    assert (
        report.skipped["b.png"]
        == "the file has changed since an earlier run planned its pictures; give it another name"
    )
    assert set(report.skipped) == {"a.png", "b.png"}
    assert {**tree(out), "a/1.png": before["a/1.png"]} == before


def test_a_photograph_that_changes_during_the_run(tmp_path, people):
    class Vandal(FakePipe):
        def __call__(self, *arguments, **options):
            if not self.calls:
                Image.fromarray(PIXELS[10]).save(people["sub/d.png"])
            return super().__call__(*arguments, **options)

    report = generate(people, tmp_path / "out", Vandal())
    assert set(report.skipped) == {"sub/c.png", "sub/d.png"}
    assert "cannot be read any more: d.png has changed during the run" in report.skipped["sub/c.png"]
    assert pictures(tmp_path / "out") == drawn_apart(people, [GROUPS[0], GROUPS[2]])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "other"}, "weights was 'fake', is 'other'"),
        ({"seed": 7}, "seed was 42, is 7"),
        ({"num_inference_steps": 4}, "num_inference_steps was 20, is 4"),
        ({"guidance_scale": 2.0}, r"guidance_scale was 3\.5, is 2\.0"),
        ({"height": 32}, "height was 16, is 32"),
        ({"width": 16}, "width was 8, is 16"),
        ({"batch_size": 8}, "batch_size was 7, is 8"),
        ({"layout": "pose"}, "layout was 'reference', is 'pose'"),
        ({"dtype": "float16"}, "dtype was 'float32', is 'float16'"),
        ({"device": "NVIDIA", "seed": 7}, "seed was 42, is 7; device was 'cpu', is 'NVIDIA'"),
    ],
)
def test_other_settings_do_not_mix(tmp_path, people, change, words):
    generate(people, tmp_path / "out")
    before = tree(tmp_path / "out")
    with pytest.raises(ValueError, match=f"begun with other settings: {words}\\. .*name another folder"):
        generate_folder(no_pipe, people, tmp_path / "out", POSES, settings=replace(SETTINGS, **change))
    assert tree(tmp_path / "out") == before


def test_other_versions_do_not_mix(tmp_path, people, monkeypatch):
    generate(people, tmp_path / "out")
    version = importlib.metadata.version("torch")
    real = importlib.metadata.version
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.1" if name == "torch" else real(name))
    with pytest.raises(ValueError, match=rf"settings: version of torch was '{re.escape(version)}', is '0\.1'\. "):
        generate_folder(no_pipe, people, tmp_path / "out", POSES, settings=SETTINGS)


def test_another_drawing_of_the_same_name_does_not_mix(tmp_path, people):
    generate(people, tmp_path / "out")
    with pytest.raises(ValueError, match="other settings: pose 2 was drawn differently"):
        generate_folder(no_pipe, people, tmp_path / "out", POSES | {"2": POSES["1"]}, settings=SETTINGS)


def test_leftovers_go(tmp_path, people):
    out = tmp_path / "out"
    generate(people, out, sheet=True)
    before = tree(out)
    for folder in ("", "a", "sub/c", "sheets", "sheets/sub"):
        (out / folder / ".pose2id-0123456789abcdef.part").mkdir()
        (out / folder / ".pose2id-0123456789abcdef.part" / "new.png").write_bytes(b"half a pic")
    (out / "a" / "mine.txt").write_text("kept")
    generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)
    assert tree(out) == before | {"a/mine.txt": b"kept"}


def test_files_of_others_are_in_the_way(tmp_path, people):
    out = tmp_path / "out"
    (out / "sub" / "d").mkdir(parents=True)
    (out / "sub" / "d" / "2.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"sub/d/2\.png is in the way: no run here has drawn it"):
        generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)
    assert pictures(out) == {"sub/d/2.png": b"mine"}
    assert not (out / "manifest.jsonl").exists()


def test_a_torn_manifest_is_recovered(tmp_path, people):
    out = tmp_path / "out"
    generate(people, out)
    before, whole = tree(out), (out / "manifest.jsonl").read_bytes()
    header = whole.index(b"\n") + 1
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in [*range(last + 1, len(whole)), last - 5, whole.index(b'"unit"') + 3, header + 30]:
        (out / "manifest.jsonl").write_bytes(whole[:end])
        generate(people, out)
        assert tree(out) == before, end
    (out / "manifest.jsonl").write_bytes(whole[: header - 5])  # nobody knows what these pictures are
    with pytest.raises(ValueError, match="is in the way"):
        generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)
    (out / "manifest.jsonl").write_bytes(whole[:7])
    for folder in ("a", "b", "sub", "e"):
        shutil.rmtree(out / folder)
    generate(people, out)
    assert tree(out) == before


def test_units_lost_with_the_manifest_are_drawn_again_if_their_members_differ(tmp_path, people):
    out = tmp_path / "out"
    few = {key: people[key] for key in NAMES if key != "sub/d.png"}
    generate(few, out)  # units: a b, c e
    whole = (out / "manifest.jsonl").read_bytes()
    (out / "manifest.jsonl").write_bytes(whole[:-3])
    generate(people, out)  # units: a b, c d, e
    assert pictures(out) == drawn_apart(people, GROUPS)


@pytest.mark.parametrize(
    ("number", "line", "words"),
    [
        (1, b"{}", "line 1"),
        (1, b'{"pose2id": "generate", "format": 2}', "line 1 .*another version of pose2id"),
        (3, b"hello", "line 3"),
        (3, b"[]", "line 3"),
        (3, b"{}", "line 3"),
        (5, b'{"reference": "z.png"}', "line 5"),
        (10, b'{"unit": 0, "references": ["z.png"], "poses": ["1"]}', "line 10 .*not listed above"),
        (10, b'{"unit": 0, "references": ["a.png"], "poses": ["9"]}', "line 10 .*not listed above"),
        (12, b'{"unit": 2, "references": 3, "poses": ["1"]}', "line 12"),
    ],
)
def test_a_damaged_manifest(tmp_path, people, number, line, words):
    out = tmp_path / "out"
    generate(people, out)
    lines = (out / "manifest.jsonl").read_bytes().splitlines()
    lines[number - 1] = line
    (out / "manifest.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match=rf"manifest\.jsonl is damaged in {words}.*restore it or name another folder"):
        generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)


ZERO = "0" * 64


def begin(folder, people):
    """A finished run, and the lines of its manifest: 1 settings, 2 to 4 poses, 5 to 9 references, 10 to 12 units."""
    generate(people, folder)
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_bytes().splitlines()]


def edit(folder, lines):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "manifest.jsonl").write_text(text)


@pytest.mark.parametrize(
    ("number", "change", "words"),
    [
        (1, {"format": True}, "another version"),
        (1, {"seed": -1}, "seed must be an integer >= 0"),
        (1, {"seed": "42"}, "seed must be an integer"),
        (1, {"height": 20}, "height must be a multiple of 8"),
        (1, {"batch_size": 0}, "batch_size must be an integer >= 1"),
        (1, {"batch_size": 2.0}, "batch_size must be an integer >= 1"),
        (1, {"guidance_scale": None}, "guidance_scale must be a finite number"),
        (1, {"layout": []}, "layout must be one of"),
        (1, {"weights": 3}, "weights must be a string"),
        (1, {"device": None}, "device must be a string"),
        (1, {"versions": ["1"]}, "versions must be an object of strings"),
        (1, {"versions": {"torch": 2.1}}, "versions must be an object of strings"),
        (1, {"colour": "red"}, "it must hold .*; it holds .*colour"),
        (2, {"pose": "../1"}, "a pose's name becomes a file name"),
        (2, {"pose": 1}, "a pose's name must be a string, received int"),
        (3, {"pose": "1"}, "pose '1' is listed twice"),
        (2, {"sha256": "00"}, "sha256 must be 64 hexadecimal digits"),
        (2, {"sha256": None}, "sha256 must be 64 hexadecimal digits"),
        (2, {"reference": "a.png"}, "it must hold pose, sha256; it holds pose, reference, sha256"),
        (5, {"reference": "/etc/a.png"}, "key must be a relative path"),
        (5, {"reference": "../a.png"}, "key must be a relative path"),
        (5, {"reference": "c:/a.png"}, "key must be a relative path"),
        (5, {"reference": "c:a.png"}, "key must be a relative path"),
        (5, {"reference": "..\\a.png"}, "key must be a relative path"),
        (5, {"reference": "\\\\server\\share\\a.png"}, "key must be a relative path"),
        (5, {"reference": "a/../../b.png"}, "key must be a relative path"),
        (5, {"reference": "a\0.png"}, "key must be a relative path"),
        (5, {"reference": "a/" * 3000 + "a.png"}, "key must have at most 4,096 characters"),
        (5, {"reference": "a" * 300 + ".png"}, "key must have at most 4,096 characters, 255 between"),
        (5, {"reference": ".pose2id-0123456789abcdef.part/a.png"}, r"begin with \.pose2id are those of the run's own"),
        (5, {"reference": "\ud800.png"}, "name must be valid UTF-8"),
        (5, {"reference": None}, "key must be a string, received NoneType"),
        (6, {"reference": "a.png"}, "reference 'a.png' is listed twice"),
        (10, {"unit": 1}, "it must be unit 0, it is unit 1"),
        (10, {"unit": "0"}, "unit must be an integer >= 0"),
        (10, {"unit": False}, "unit must be an integer >= 0"),
        (10, {"references": []}, "references must be a list of one string or more"),
        (10, {"references": "a.png"}, "references must be a list of one string or more"),
        (10, {"references": [["a.png"]]}, "references must be a list of one string or more"),
        (10, {"references": ["a.png", "a.png"]}, "references must differ"),
        (10, {"references": {"a.png": 1}}, "references must be a list of one string or more"),
        (10, {"poses": ["1", "1"]}, "poses must differ"),
        (10, {"poses": [1]}, "poses must be a list of one string or more"),
        (10, {"references": ["a.png", "b.png", "e.png"]}, "it has 9 pictures, a batch has 7"),
        (11, {"references": ["a.png"]}, "pictures in it are those of an earlier unit"),
        (11, {"unit": 0}, "it must be unit 1, it is unit 0; a unit is listed once"),
    ],
)
def test_an_edited_manifest(tmp_path, people, number, change, words):
    """Whatever an editor may do to a line is named by its number, and nothing is touched."""
    out = tmp_path / "out"
    lines = begin(out, people)
    lines[number - 1] |= change
    edit(out, lines)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=rf"manifest\.jsonl is damaged in line {number} \(.*{words}"):
        generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[" * 100_000, "nested"),
        ('{"unit": ' + "9" * 5000 + "}", "4,300 digits"),
        ('{"unit": 1e400}', "1e400"),
        ('{"unit": 0, "unit": 0, "references": ["a.png"], "poses": ["1"]}', "there twice"),
        ("", "Expecting value"),
        ("null", "must be an object, received NoneType"),
    ],
)
def test_a_line_that_no_parser_bears(tmp_path, people, line, words):
    out = tmp_path / "out"
    lines = begin(out, people)
    edit(out, [*lines[:10], line, *lines[10:]])
    with pytest.raises(ValueError, match=rf"manifest\.jsonl is damaged in line 11 \(.*{words}"):
        generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)


def test_a_unit_listed_twice_is_refused(tmp_path, people):
    out = tmp_path / "out"
    lines = begin(out, people)
    for again in (lines[11], lines[11] | {"unit": 3}):
        edit(out, [*lines, again])
        with pytest.raises(ValueError, match=r"damaged in line 13 \((it must be unit 3|pictures in it are those)"):
            generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)


def test_nothing_outside_the_folder_is_cleared(tmp_path, people):
    """What a killed writer left there is another run's."""
    out = tmp_path / "out"
    lines = begin(out, people)
    left = tmp_path / ".pose2id-0123456789abcdef.part"
    left.mkdir()
    (left / "new.png").write_bytes(b"half")
    added = [{"reference": "../x.png", "sha256": ZERO}, {"unit": 3, "references": ["../x.png"], "poses": ["1"]}]
    edit(out, lines + added)
    with pytest.raises(ValueError, match="damaged in line 13 "):
        generate_folder(no_pipe, people, out, POSES, settings=SETTINGS)
    assert (left / "new.png").read_bytes() == b"half"


@posix
def test_links_that_lead_out_are_neither_cleared_nor_written_to(tmp_path, people):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    begin(out, people)
    (elsewhere / ".pose2id-0123456789abcdef.part").mkdir(parents=True)
    (elsewhere / ".pose2id-0123456789abcdef.part" / "new.png").write_bytes(b"half")
    (elsewhere / "lock").write_text("mine")
    before = tree(elsewhere)
    shutil.rmtree(out / "a")
    (out / "a").symlink_to(elsewhere)
    with pytest.raises(ValueError, match=r"out/a is not inside .*out, a link leads out of it; remove the link"):
        generate(people, out)
    (out / "a").unlink()
    (out / ".pose2id.lock").unlink()
    (out / ".pose2id.lock").symlink_to(elsewhere / "lock")
    with pytest.raises(ValueError, match=r"the lock .*\.pose2id\.lock is a link, and is written to; remove the link"):
        generate(people, out)
    assert tree(elsewhere) == before
    (out / ".pose2id.lock").unlink()
    assert generate(people, out).drawn == 6  # of a and b


@posix
def test_a_link_that_leads_to_itself(tmp_path):
    """Of these Path.resolve raises RuntimeError."""
    write_people(tmp_path / "people", NAMES)
    for folder in (tmp_path / "people", tmp_path / "out"):
        folder.mkdir(exist_ok=True)
        (folder / "loop.png").symlink_to(folder / "loop.png")
        (folder / "loop").symlink_to(folder / "loop")
    found, _ = collect_references([str(tmp_path / "people")], tmp_path / "out")
    assert set(found) == {*NAMES, "loop.png"}
    report = generate(found, tmp_path / "out", poses={"1": POSES["1"]})
    assert report.skipped == {"loop.png": "there is no such file"}
    assert report.drawn == 5
    assert (
        collect_references([str(tmp_path / "people"), str(tmp_path / "people")], tmp_path / "out" / "loop")[0] == found
    )


@pytest.mark.parametrize("arguments", [["", "-o", "OUT"], ["PEOPLE", "-o", ""], ["PEOPLE", "-o", "OUT", "--poses", ""]])
def test_an_empty_text_is_no_path(tmp_path, capsys, monkeypatch, arguments):
    """It would be the working directory."""
    write_people(tmp_path / "people", NAMES)
    monkeypatch.chdir(tmp_path)
    before = tree(tmp_path)
    known = {"OUT": str(tmp_path / "out"), "PEOPLE": str(tmp_path / "people")}
    assert main(["generate", *(known.get(argument, argument) for argument in arguments), "--weights", "tiny"]) == 2
    assert "must be a path, received an empty text; write '.' for the working directory" in capsys.readouterr().err
    assert tree(tmp_path) == before


def test_poses_of_the_command_line(tmp_path, capsys):
    person = [value for i in range(25) for value in (i + 20, 2 * i + 3, 0.5)]
    path = tmp_path / "frame_keypoints.json"
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": person}] * 2}))
    poses = collect_poses(path, (64, 128))
    assert list(poses) == ["1", "2"]
    assert poses["1"].keypoints[0].tolist() == [20 / 64, 3 / 128]
    assert list(collect_poses(tmp_path, (64, 128))) == ["frame-1", "frame-2"]
    command = ["generate", str(tmp_path), "-o", str(tmp_path / "out"), "--weights", "tiny", "--poses"]
    Image.new("RGB", (8, 16)).save(tmp_path / "ann.png")

    def fails(*arguments):
        assert main([*command, *map(str, arguments)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists()
        return line

    assert "are pixels, and it does not say of how large a picture; give size" in fails(path)
    assert "--pose-size must be WIDTHxHEIGHT in pixels, such as 640x480, received '64'" in fails(
        path, "--pose-size", 64
    )
    path.write_text('{"people": []}')
    assert f"{path} holds no pose: nobody was found" in fails(path)
    path.write_text("[]")
    assert f"{path} holds no pose: nobody was found" in fails(path)
    path.write_text(json.dumps({"people": [{"pose_keypoints_2d": [0] * 54}]}))
    assert f"{path}: pose '1' has no keypoints, so there is nothing to draw" in fails(path)
    nowhere = fails(tmp_path / "nope.json")
    assert f"{tmp_path / 'nope.json'} is not there; name a folder of pose maps" in nowhere
    assert "Errno" not in nowhere
    (tmp_path / "empty").mkdir()
    assert "empty holds neither pose maps (.jpg, " in fails(tmp_path / "empty")


@posix
def test_two_runs_in_one_folder(tmp_path, people):
    class Intruder(FakePipe):
        def __call__(self, *arguments, **options):
            with pytest.raises(ValueError, match=rf"another run \(process {os.getpid()}\) works in .*out; wait for it"):
                generate_folder(no_pipe, people, tmp_path / "out", POSES, settings=SETTINGS)
            return super().__call__(*arguments, **options)

    assert generate(people, tmp_path / "out", Intruder()).drawn == 15
    assert (tmp_path / "out" / ".pose2id.lock").read_bytes() == b""


@posix
def test_a_lock_that_the_file_system_lacks_is_told(tmp_path, people, monkeypatch, caplog):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    assert generate(people, tmp_path / "out").drawn == 15
    assert "take care that no second run works in it" in caplog.text


def test_a_failing_disk_leaves_nothing_half(tmp_path, people, monkeypatch):
    out, real, left = tmp_path / "out", os.fsync, [6]

    def fsync(handle):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(28, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            generate(people, out)
    wanted = drawn_apart(people, GROUPS)
    assert pictures(out).items() < wanted.items()
    generate(people, out)
    assert pictures(out) == wanted


# Bad photographs and bad names.


def test_bad_photographs_are_skipped_and_units_made_of_the_others(tmp_path, people):
    whole = people["a.png"].read_bytes()
    bad = {"a0.png": b"", "b0.png": b"hello", "sub/c0.png": whole[: len(whole) // 2], "z.png": None, "folder.png": None}
    for key, content in bad.items():
        people[key] = tmp_path / "people" / key
        if content is not None:
            people[key].write_bytes(content)
    people["folder.png"].mkdir()
    told = []
    report = generate(dict(sorted(people.items())), tmp_path / "out", on_skip=lambda *given: told.append(given))
    wanted = [(("a.png", "b.png"), ALL), (("e.png", "sub/c.png"), ALL), (("sub/d.png",), ALL)]
    assert units(tmp_path / "out") == [(list(keys), list(names)) for keys, names in wanted]
    assert pictures(tmp_path / "out") == drawn_apart(people, wanted)
    assert (report.drawn, dict(told)) == (15, report.skipped)
    reasons = {
        "a0.png": "the file is empty",
        "b0.png": "not an image, or of a kind that is not read",
        "folder.png": "there is no such file",
        "z.png": "there is no such file",
    }
    assert report.skipped.pop("sub/c0.png").startswith("it cannot be decoded: ")
    assert report.skipped == reasons
    # repaired, they are new
    for key in ("a0.png", "z.png"):
        shutil.copy(people["a.png"], people[key])
    report = generate(dict(sorted(people.items())), tmp_path / "out")
    assert units(tmp_path / "out")[3:] == [(["a0.png", "z.png"], list(ALL))]
    assert (report.drawn, set(report.skipped)) == (6, {"b0.png", "folder.png", "sub/c0.png"})


def test_nothing_but_bad_photographs(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    report = generate_folder(no_pipe, {"a.png": tmp_path / "a.png"}, tmp_path / "out", POSES, settings=SETTINGS)
    assert (report.drawn, report.skipped) == (0, {"a.png": "the file is empty"})
    assert pictures(tmp_path / "out") == {}


@pytest.mark.parametrize("key", ["../a.png", "/a.png", "sub/../a.png", "a//b.png", "", ".", "./a.png", "a\0.png"])
def test_keys_that_leave_the_folder(tmp_path, people, key):
    with pytest.raises(ValueError, match=r"key must be a relative path without '\.' and '\.\.', received"):
        generate({key: people["a.png"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_that_are_not_unicode(tmp_path, people):
    with pytest.raises(ValueError, match=r"name must be valid UTF-8, received 'a.udcff\.png'; rename"):
        generate({"a\udcff.png": people["a.png"]}, tmp_path / "out")


@pytest.mark.parametrize("name", ["a/b", "..", "", ".", "a\\b", "a\n", "c:d"])
def test_pose_names_that_are_no_file_names(tmp_path, people, name):
    with pytest.raises(ValueError, match="a pose's name becomes a file name"):
        generate(people, tmp_path / "out", poses={name: POSES["1"]})


@pytest.mark.parametrize(
    ("keys", "poses", "layout", "words"),
    [
        (["a.jpg", "a.png"], ["1"], "reference", r"a\.jpg \(1\) and a\.png \(1\) would both be written to a/1\.png"),
        (["a.png", "A.png"], ["1"], "reference", r"a\.png \(1\) and A\.png \(1\) would both be written to A/1\.png"),
        (["a.png", "A.png"], ["1"], "pose", r"would both be written to pose1/A\.png"),
        (["a.bmp", "a.png"], ["1"], "pose", r"would both be written to pose1/a\.png"),
        (["\u00e9.png", "e\u0301.jpg"], ["1"], "reference", "would both be written to"),
        (["a.png"], ["x", "X"], "reference", r"a\.png \(x\) and a\.png \(X\) would both be written to a/X\.png"),
        (["a.png"], ["1", "pose1"], "pose", r"a\.png \(1\) and a\.png \(pose1\) would both be written to pose1/a\.png"),
        (["a.png", "a/1.png.jpg"], ["1"], "reference", r"a\.png \(1\) would be written to a/1\.png, which is a folder"),
        (
            ["manifest.jsonl.png"],
            ["1"],
            "reference",
            r"the run's own manifest\.jsonl would be written to manifest\.jsonl",
        ),
        (["a.png"], ["sheets"], "pose", r"a\.png \(sheets\) and a\.png \(the sheet\) would both be written"),
    ],
)
def test_names_that_meet_in_the_output(tmp_path, keys, poses, layout, words):
    paths = [tmp_path / f"{i}.png" for i in range(len(keys))]
    for path, pixels in zip(paths, PIXELS, strict=False):
        Image.fromarray(pixels).save(path)
    people = dict(zip(keys, paths, strict=True))
    named = dict(zip(poses, POSES.values(), strict=False))
    settings = replace(SETTINGS, layout=layout)
    with pytest.raises(ValueError, match=words):
        generate_folder(no_pipe, people, tmp_path / "out", named, settings=settings)
    assert pictures(tmp_path / "out") == {}
    # also when one came in an earlier run
    if len(keys) == 2:
        generate(dict([next(iter(people.items()))]), tmp_path / "out", settings=settings, poses=named)
        with pytest.raises(ValueError, match=words):
            generate_folder(no_pipe, people, tmp_path / "out", named, settings=settings)


def test_only_suffixes_of_images_are_cut_off(tmp_path):
    people = write_people(tmp_path / "people", ["frame.001", "frame.002", "x.y.png"])
    generate(people, tmp_path / "out", poses={"1": POSES["1"]})
    assert set(pictures(tmp_path / "out")) == {"frame.001/1.png", "frame.002/1.png", "x.y/1.png"}


@posix
def test_a_link_out_of_the_folder_is_not_followed(tmp_path, people):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"is not inside .*, a link leads out of it"):
        generate(people, tmp_path / "out")
    assert tree(tmp_path / "elsewhere") == {}
    (tmp_path / "out" / "a").unlink()
    (tmp_path / "out" / "a").mkdir()
    (tmp_path / "out" / "a" / "1.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    with pytest.raises(ValueError, match=r"1\.png is not inside .*, a link leads out of it"):
        generate(people, tmp_path / "out")
    assert tree(tmp_path / "elsewhere") == {}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"seed": -1}, ValueError, "seed must be an integer >= 0, received -1"),
        ({"seed": 1.5}, TypeError, r"seed must be an integer >= 0, received 1\.5"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps must be an integer >= 1, received 0"),
        ({"height": 12}, ValueError, "height must be a multiple of 8, received 12"),
        ({"width": 0}, ValueError, "width must be an integer >= 1, received 0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1, received 0"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale must be a finite number >= 0, received nan"),
        ({"layout": "flat"}, ValueError, "layout must be one of reference, pose, received 'flat'"),
    ],
)
def test_settings_are_checked_before_anything_is_made(tmp_path, people, change, error, words):
    with pytest.raises(error, match=words):
        generate(people, tmp_path / "out", settings=replace(SETTINGS, **change))
    assert not (tmp_path / "out").exists()


def test_empty_input_and_a_file_as_output(tmp_path, people):
    with pytest.raises(ValueError, match="references must hold at least one image"):
        generate({}, tmp_path / "out")
    with pytest.raises(ValueError, match="poses must hold at least one"):
        generate(people, tmp_path / "out", poses={})
    with pytest.raises(TypeError, match="pose '1' must be a PIL image or a Pose, received str"):
        generate(people, tmp_path / "out", poses={"1": "1.png"})
    with pytest.raises(ValueError, match=r"output .*a\.png must be a folder, it is a file"):
        generate(people, people["a.png"])


# Contact sheets.


def size_of(path):
    with Image.open(path) as image:
        return image.size


def cell(pixels):
    return np.asarray(Image.fromarray(pixels).resize((128, 256), Image.Resampling.LANCZOS))


def test_sheets(tmp_path, people):
    out = tmp_path / "out"
    generate(people, out)
    before = pictures(out)
    report = generate_folder(no_pipe, people, out, POSES, settings=SETTINGS, sheet=True)
    assert report.found == 15
    assert set(pictures(out)) - set(before) == {f"sheets/{key}" for key in NAMES}
    assert before.items() <= pictures(out).items()
    sheet = np.asarray(Image.open(out / "sheets" / "sub" / "d.png"))
    assert sheet.shape == (512, 4 * 128, 3)
    assert (sheet[:256, :128] == 255).all()
    np.testing.assert_array_equal(sheet[256:, :128], cell(PIXELS[3]))
    for i, (name, drawing) in enumerate(POSES.items(), 1):
        here = np.s_[128 * i : 128 * i + 128]
        np.testing.assert_array_equal(sheet[:256, here], cell(np.asarray(drawing)))
        picture = np.asarray(Image.open(out / "sub" / "d" / f"{name}.png"))
        np.testing.assert_array_equal(sheet[256:, here], cell(picture))


def test_sheets_follow_the_poses(tmp_path, people):
    out = tmp_path / "out"
    generate(people, out, poses={name: POSES[name] for name in ("1", "2")}, sheet=True)
    assert size_of(out / "sheets" / "a.png") == (3 * 128, 512)
    generate(people, out)  # killed, so to say, before the sheets
    generate_folder(no_pipe, people, out, POSES, settings=SETTINGS, sheet=True)
    assert size_of(out / "sheets" / "a.png") == (4 * 128, 512)
    when = stamps(out)
    (out / "sheets" / "b.png").write_bytes(b"damaged")
    generate_folder(no_pipe, people, out, POSES, settings=SETTINGS, sheet=True)
    assert {path for path, stamp in stamps(out).items() if stamp != when[path]} == {"sheets/b.png"}


def test_a_damaged_picture_has_no_sheet(tmp_path, people):
    generate(people, tmp_path / "out")
    (tmp_path / "out" / "b" / "2.png").write_bytes(b"")
    report = generate_folder(no_pipe, people, tmp_path / "out", POSES, settings=SETTINGS, sheet=True)
    assert report.skipped == {"b.png": "its pictures are there, its contact sheet cannot be drawn: the file is empty"}
    assert {path.name for path in (tmp_path / "out" / "sheets").rglob("*.png")} == {"a.png", "c.png", "d.png", "e.png"}


def test_progress(tmp_path, people, capsys):
    out = tmp_path / "out"
    generate(people, out)
    shutil.rmtree(out / "b")
    capsys.readouterr()
    generate(people, out)
    assert capsys.readouterr().err == ""
    shutil.rmtree(out / "b")
    generate(people, out, progress=True)
    err = capsys.readouterr().err
    assert "reading: 100%" in err
    assert "drawing: 100%" in err
    assert "15/15" in err
    assert " 9/15" in err  # it starts from what is there
    assert "picture/s" in err or "s/picture" in err


# Killed.


class Instants(Moments):
    """Around calls of the pipeline and of the system, and amid writing.

    Moments within the writing of one file are in `test_atomic`.
    """

    def __init__(self, last):
        super().__init__(last)
        os.mkdir = self.watched(os.mkdir, "mkdir", after=False)
        os.replace = self.watched(os.replace, "replace")
        write = Path.write_bytes

        def write_in_halves(path, content):
            write(path, content[: len(content) // 2])
            self.pass_by("half written")
            return write(path, content)

        Path.write_bytes = write_in_halves


def drive(folder):
    """Kill runs of a fake pipeline and of a tiny one; writes the moments that there were."""
    told = {}
    torch.set_num_threads(1)  # a process with more than one thread cannot be forked safely
    for kind in ("fake", "tiny"):
        (folder / kind).mkdir()
        told[kind] = drive_kind(folder / kind, kind)
    (folder / "told.json").write_text(json.dumps(told))


def drive_kind(folder, kind):
    """Kill runs at every moment (of the fake pipeline) or at five (of the tiny one), let them go on, compare."""
    poses = {pose.name: pose for pose in representative_poses()[:2]}
    people = write_people(folder / "people", NAMES[1:3])
    if kind == "tiny":
        (folder / "released").mkdir()
        pipe = tiny_pipeline(folder / "released")
        settings = FolderSettings("tiny", height=64, width=32, num_inference_steps=2, batch_size=2)
    else:
        pipe, settings, poses = FakePipe(), replace(SETTINGS, batch_size=2), {name: POSES[name] for name in ("1", "2")}

    def go_on(out):
        generate_folder(lambda: pipe, people, folder / out, poses, settings=settings, sheet=True)

    def run(out, moment=None):
        def action():
            moments = Instants(moment)
            call = moments.watched(pipe, "pipe")
            generate_folder(lambda: call, people, folder / out, poses, settings=settings, sheet=True)
            (folder / "moments.json").write_text(json.dumps(moments.seen))

        return fork(action)

    sheets.CELL = 16  # most of the time would go into the sheets,
    os.fsync = lambda _: None  # or into the disk, which a killed process takes nothing from
    generate(people, folder / "warm")  # what is imported here is not imported again by every child
    gc.freeze()  # a child that looks for garbage here would copy all of it
    assert run("whole") == 0
    wanted = tree(folder / "whole")
    assert len(pictures(folder / "whole")) == len(people) * (1 + len(poses))
    seen = json.loads((folder / "moments.json").read_text())
    last = [1 + len(seen) * i // 6 for i in range(1, 6)] if kind == "tiny" else range(1, len(seen) + 1)
    for moment in last:
        out = folder / str(moment)
        assert run(out.name, moment) == -signal.SIGKILL
        left = pictures(out)
        assert left.items() <= wanted.items(), f"half a picture at moment {moment}"
        finished = {}
        for keys, names in units(out) if (out / "manifest.jsonl").exists() else ():
            mine = {f"{key.removesuffix('.png')}/{name}.png" for key in keys for name in names}
            if mine <= left.keys():
                finished |= {path: stamp for path, stamp in stamps(out).items() if path in mine}
        go_on(out.name)
        assert tree(out) == wanted, f"other bytes after moment {moment}"
        assert finished.items() <= stamps(out).items(), f"a finished unit was touched after moment {moment}"
    for moment in (4, 9, 1, 14, 6):
        assert run("often", moment) == -signal.SIGKILL
    go_on("often")
    assert tree(folder / "often") == wanted
    return seen


@pytest.mark.slow
@posix
def test_killed_at_any_moment_and_started_again(tmp_path):
    process = start(drive, tmp_path, said=tmp_path / "said")
    process.join()
    assert (process.exitcode, (tmp_path / "said.err").read_text()) == (0, "")
    for seen in json.loads((tmp_path / "told.json").read_text()).values():
        assert set(seen) == {f"{when} {name}" for when in ("before", "after") for name in ("pipe", "replace")} | {
            "before mkdir",
            "half written",
        }
        assert seen.count("after replace") == 2 * 2 + 2 + 1  # pictures, sheets, the manifest
        assert seen.count("after pipe") == 2


def wait_to_be_killed(folder, number, there):
    """`pose2id generate` with the fake pipeline that stops at the n-th picture until it is killed."""
    real = os.replace

    def replace(temporary, target):
        real(temporary, target)
        if Path(target).suffix == ".png":
            there.send(str(target))
            if len(pictures(folder / "out")) == number:
                signal.pause()

    os.replace = replace
    named.load_pipeline = lambda *_, **__: FakePipe()
    named.find_weights = lambda name: (name, "fake")
    command_line(folder / "people", "-o", folder / "out", "--poses", folder / "poses", *SMALL)


SMALL = ("--height", 16, "--width", 8, "--batch-size", 7, "--device", "cpu")


def command_line(*arguments):
    """`pose2id generate`; its exit code."""
    return main(["generate", *map(str, arguments)])


@pytest.mark.slow
@posix
def test_killed_from_outside_when_a_picture_appears(tmp_path, people, monkeypatch):
    (tmp_path / "poses").mkdir()
    for name, drawing in POSES.items():
        drawing.save(tmp_path / "poses" / f"{name}.png")
    here, there = CONTEXT.Pipe(duplex=False)
    with here:
        process = start(wait_to_be_killed, tmp_path, 8, there, said=tmp_path / "said")
        there.close()
        appeared = [here.recv() for _ in range(8)]
        process.kill()
        process.join()
    assert (process.exitcode, (tmp_path / "said.err").read_text()) == (-signal.SIGKILL, "")
    assert all(Path(path).is_file() for path in appeared)
    assert len(pictures(tmp_path / "out")) == 8
    pipe = FakePipe()
    monkeypatch.setattr(named, "load_pipeline", lambda *_, **__: pipe)
    monkeypatch.setattr(named, "find_weights", lambda name: (name, "fake"))
    assert command_line(tmp_path / "people", "-o", tmp_path / "out", "--poses", tmp_path / "poses", *SMALL) == 0
    names = sorted(NAMES)  # the order of the command line
    groups = [(names[:2], ALL), (names[2:4], ALL), (names[4:], ALL)]
    assert pipe.calls == [(keys, list(poses)) for keys, poses in groups[1:]]  # the first unit was finished
    assert pictures(tmp_path / "out") == drawn_apart(people, groups)


def test_a_start_that_failed_binds_nobody(tmp_path, people):
    """Before the first picture there is nothing to mix with."""

    def fail():
        raise OSError("no weights")

    out = tmp_path / "out"
    with pytest.raises(OSError, match="no weights"):
        generate_folder(fail, people, out, POSES, settings=SETTINGS)
    other = replace(SETTINGS, seed=7)
    assert generate(people, out, settings=other).drawn == 15
    assert json.loads((out / "manifest.jsonl").read_text().splitlines()[0])["seed"] == 7
    with pytest.raises(ValueError, match="seed was 7, is 42"):
        generate(people, out)
    expected = tmp_path / "expected"
    generate(people, expected, settings=other)
    assert tree(out) == tree(expected)


def test_a_device_that_cannot_compute(tmp_path, people, capsys):
    files = [str(path) for path in people.values()]
    assert main(["generate", *files, "-o", str(tmp_path / "out"), "--device", "meta"]) == 2
    assert "--device meta is not there" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
