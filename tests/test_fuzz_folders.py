"""Manifests and files of poses, mutated: an error that names the file, or the same result; nothing else is touched.

``POSE2ID_FUZZ=5000 pytest tests/test_fuzz_folders.py -s`` tries more, and prints how often what came out.
"""

import copy
import json
import os
import random
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("diffusers")
from PIL import Image

from pose2id.ipg.folders import FolderSettings, collect_poses, generate_folder
from pose2id.ipg.folders.manifest import read_manifest
from pose2id.poses import read_poses, representative_poses

TRIALS = int(os.environ.get("POSE2ID_FUZZ", "100"))
SETTINGS = FolderSettings(weights="fake", height=16, width=8, batch_size=4)
POSES = {name: Image.new("RGB", (8, 16), colour) for name, colour in (("1", "red"), ("2", "lime"))}
ODD = (
    *(None, True, False, 0, 1, -1, 3, 2.0, 1.5, -0.0, 1e308, 2**63, 2**64, 10**400, float("nan"), float("inf")),
    *(
        "",
        " ",
        "1",
        "2",
        "a.png",
        "b.png",
        ".",
        "..",
        "../x.png",
        "../../x.png",
        "/x.png",
        "x/../../y.png",
        "a/b/c.png",
    ),
    *(
        "c:/x.png",
        "c:x.png",
        "..\\x.png",
        "\\\\host\\x",
        "a\0b",
        "\n",
        "\ud800",
        "con",
        "a" * 300,
        "a/" * 3000,
        "x" * 5000,
    ),
    *(
        "manifest.jsonl",
        ".pose2id.lock",
        ".pose2id-0123456789abcdef.part/x.png",
        "sheets/a.png",
        "LINK/x.png",
        "0" * 64,
    ),
    *([], {}, [[]], [None], ["a.png"], ["1", "1"], ["../x.png"], {"a.png": 1}, [0] * 54, [0.5] * 75, [[1, 2, 3]] * 18),
)
RAW = (b"", b"{", b"[" * 20_000, b"nul", b"\xff\xfe", b"\0", b'{"unit": 1e999}', b'{"pose": ' + b"9" * 5000 + b"}")


def spots(value, path=()):
    """Where there is something in nested lists and objects, as (path, value)."""
    yield path, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from spots(child, (*path, key))


def mutate(content, rng):
    """A copy with one to three places replaced, removed, added, or exchanged."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path, _ = rng.choice([*spots(content)][1:] or [((), content)])
        if not path:
            return rng.choice(ODD)
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        step = rng.randrange(5)
        if step == 0:
            del parent[path[-1]]
        elif step == 1 and isinstance(parent, dict):
            parent[rng.choice(("unit", "pose", "reference", "more", "people", "keypoints"))] = parent[path[-1]]
        elif step == 1:
            parent.insert(path[-1], copy.deepcopy(parent[path[-1]]))
        elif step == 2:
            parent[path[-1]] = copy.deepcopy(rng.choice([value for _, value in spots(content)]))
        else:
            parent[path[-1]] = copy.deepcopy(rng.choice(ODD))
    return content


def damage(text, rng):
    """Bytes of a file, cut, doubled, or with others among them."""
    at = rng.randrange(len(text) + 1)
    return rng.choice((text[:at], text[:at] + text, text[:at] + rng.choice(RAW) + text[at:], text[at:]))


def draw(references, poses, **_):
    """Pictures that say nothing; how many there are is what matters here."""
    return SimpleNamespace(images=[[Image.new("RGB", (8, 16))] * len(poses)] * len(references))


def tree(folder):
    """All files and folders below a folder, links as links."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = Path(parent, name)
            content = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else None
            found[path.relative_to(folder).as_posix()] = content
    return found


def report(what, outcomes):
    sys.stderr.write(f"\n{what}: {sum(outcomes.values()):,} tried, {dict(outcomes)}\n")


def test_manifests(tmp_path):
    rng, outcomes = random.Random(0), Counter()  # noqa: S311
    people = {}
    for number, name in enumerate(("a.png", "b.png", "sub/c.png")):
        path = tmp_path / "people" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 8, 3), number, np.uint8)).save(path)
        people[name] = path
    home = tmp_path / "home"
    out = home / "out"
    generate_folder(lambda: draw, people, out, POSES, settings=SETTINGS)
    whole = (out / "manifest.jsonl").read_bytes()
    lines = [json.loads(line) for line in whole.splitlines()]
    left = home / ".pose2id-0123456789abcdef.part"  # what "../x.png" had cleared
    left.mkdir()
    (left / "new.png").write_bytes(b"half")
    (home / "elsewhere" / ".pose2id-0123456789abcdef.part").mkdir(parents=True)
    (home / "x.png").write_bytes(b"mine")
    if os.name == "posix":
        (out / "LINK").symlink_to(home / "elsewhere")
    inside = tree(out)
    outside = {path: content for path, content in tree(home).items() if not path.startswith("out")}
    expected = read_manifest(out / "manifest.jsonl")

    for _ in range(TRIALS):
        kind = rng.randrange(6)
        if kind == 0:
            text = damage(whole, rng)
        elif kind == 1:  # lines doubled, removed, exchanged
            chosen = rng.choices(lines, k=rng.randrange(len(lines) + 3)) if rng.random() < 0.3 else [*lines]
            chosen.insert(rng.randrange(len(chosen) + 1), rng.choice(lines))
            text = b"".join(json.dumps(line).encode() + b"\n" for line in chosen)
        else:
            text = b"".join(json.dumps(line).encode() + b"\n" for line in mutate(lines, rng) or [])
        (out / "manifest.jsonl").write_bytes(text)
        try:
            generate_folder(lambda: draw, people, out, POSES, settings=SETTINGS)
        except ValueError as error:
            outcomes["refused"] += 1
            said = str(error)
        else:
            said = str(out)
            found = read_manifest(out / "manifest.jsonl")
            outcomes["whole" if found == expected else "begun anew or more"] += 1
            assert found.references.keys() >= people.keys()
            assert {pair for unit in found.units for pair in unit.pairs()} >= {
                (key, name) for key in people for name in POSES
            }
        assert str(out) in said
        assert "\n" not in said
        now = {path: content for path, content in tree(home).items() if not path.startswith("out")}
        assert now == outside, text
        if (there := tree(out)) != inside:  # start again from what was there
            for path in sorted(there.keys() - inside.keys(), reverse=True):
                (out / path).rmdir() if there[path] is None else (out / path).unlink()
            for path, content in inside.items():
                if content is not None and not (out / path).is_symlink():
                    (out / path).write_bytes(content)
    report("manifests", outcomes)
    assert outcomes["refused"] > TRIALS // 2


def pose_files():
    keypoints = [[x, y] if x == x else None for x, y in representative_poses()[2].keypoints.tolist()]
    person = [value for i in range(25) for value in (i + 1, 2 * i + 3, 0.75)]
    person[9:12] = [0, 0, 0]
    return (
        [{"name": "a", "keypoints": keypoints}, {"keypoints": [None] * 17 + [[0.5, 0.25]]}],
        {"poses": [{"name": "a", "keypoints": keypoints}]},
        {"version": 1.3, "people": [{"person_id": [-1], "pose_keypoints_2d": person}, {"pose_keypoints": person[:54]}]},
        {"people": [{"pose_keypoints_2d": person[:54]}], "canvas_width": 64, "canvas_height": 128},
        {"people": []},
    )


def same(one, other):
    return len(one) == len(other) and all(
        a.name == b.name and np.array_equal(a.keypoints, b.keypoints, equal_nan=True)
        for a, b in zip(one, other, strict=True)
    )


def test_files_of_poses(tmp_path):
    rng, outcomes = random.Random(1), Counter()  # noqa: S311
    path = tmp_path / "a_keypoints.json"
    for trial in range(TRIALS * 2):
        content = pose_files()[trial % 5]
        size = (64, 128) if trial % 5 == 2 else None
        path.write_text(json.dumps(content))
        expected = read_poses(path, size=size)
        text = json.dumps(content).encode()
        path.write_bytes(damage(text, rng) if rng.random() < 0.3 else json.dumps(mutate(content, rng)).encode())
        for read in (read_poses, collect_poses):
            try:
                found = read(path, size=size) if read is read_poses else tuple(collect_poses(path, size).values())
            except ValueError as error:
                outcomes["refused"] += 1
                said = str(error)
            else:
                said = str(path)
                outcomes["equal" if same(found, expected) else "other numbers, as the file says"] += 1
                for pose in found:
                    assert pose.keypoints.shape == (18, 2)
                    assert np.abs(pose.keypoints[pose.present]).max(initial=0) <= 10
            assert str(path) in said
    report("files of poses", outcomes)
    assert outcomes["refused"] > TRIALS // 2
