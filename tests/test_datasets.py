"""load_demo: the shipped file, its facts, and what is made of it."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
from importlib import resources

import numpy as np
import pytest

from pose2id.datasets import load_demo

DATA = resources.files("pose2id").joinpath("data")


@pytest.fixture(scope="module")
def data():
    return load_demo()


@pytest.fixture(scope="module")
def stored():
    with DATA.joinpath("omniglot_tiny.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def test_the_file_is_the_documented_one() -> None:
    content = DATA.joinpath("omniglot_tiny.npz").read_bytes()
    readme = DATA.joinpath("README.md").read_text(encoding="utf-8")
    assert hashlib.sha256(content).hexdigest() in readme
    assert f"{len(content):,} bytes" in readme


def test_the_documented_arrays_are_the_stored_ones(stored) -> None:
    readme = DATA.joinpath("README.md").read_text(encoding="utf-8")
    for name, array in stored.items():
        kind = "text" if array.dtype.kind == "U" else str(array.dtype)
        assert f"| `{name}` | {array.shape} | {kind} |" in readme


def test_the_licence_is_beside_the_file() -> None:
    licence = DATA.joinpath("LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in licence
    assert "Copyright (c) 2015 Brenden Lake" in licence
    assert "WITHOUT WARRANTY OF ANY KIND" in licence


def test_shapes_and_dtypes(data) -> None:
    forms = {
        field.name: (value.shape, value.dtype)
        for field in dataclasses.fields(data)
        if isinstance(value := getattr(data, field.name), np.ndarray)
    }
    assert forms == {
        "features": ((1500, 32), np.float32),
        "generated": ((1500, 3, 32), np.float32),
        "ids": ((1500,), np.int64),
        "cams": ((1500,), np.int64),
        "thumbnails": ((1500, 28, 28), np.bool_),
    }
    assert type(data.n_query) is int
    assert isinstance(data.names, tuple)
    assert len(data.names) == 75
    assert {type(name) for name in data.names} == {str}


def test_values_are_the_stored_ones(data, stored) -> None:
    np.testing.assert_array_equal(data.features, stored["feats"])
    np.testing.assert_array_equal(data.ids, stored["pid"])
    np.testing.assert_array_equal(data.cams, stored["cam"])
    assert list(data.names) == stored["names"].tolist()
    for view in range(3):
        np.testing.assert_array_equal(data.generated[:, view], stored["views"][view])


def test_views_belong_to_their_rows(data) -> None:
    # Nearly every row is nearer to its own views than to those of a row far away: nothing was mixed up.
    unit = data.features / np.linalg.norm(data.features, axis=1, keepdims=True)
    views = data.generated / np.linalg.norm(data.generated, axis=2, keepdims=True)
    for view in range(3):
        own = (unit * views[:, view]).sum(axis=1)
        other = (unit * np.roll(views[:, view], 700, axis=0)).sum(axis=1)
        assert (own > other).mean() > 0.98


def test_thumbnails_are_unpacked_most_significant_bit_first(data, stored) -> None:
    for row in (0, 700, 1499):
        bits = "".join(f"{byte:08b}" for byte in stored["thumbs"][row])
        expected = [[bits[28 * y + x] == "1" for x in range(28)] for y in range(28)]
        assert data.thumbnails[row].tolist() == expected
    ink = data.thumbnails.mean(axis=(1, 2))
    assert ink.min() > 0
    assert ink.max() < 0.5  # True is ink, not paper


def test_the_task_is_the_documented_one(data) -> None:
    assert data.n_query == 240
    np.testing.assert_array_equal(np.bincount(data.ids), np.full(75, 20))
    assert set(data.cams.tolist()) == set(range(6))
    queries = data.ids[data.query]
    for identity in np.unique(queries):
        assert len(set(data.cams[data.query][queries == identity].tolist())) == 4
    assert len(np.unique(queries)) == 60
    distractors = ~np.isin(data.ids[data.gallery], queries)
    assert int(distractors.sum()) == 300
    assert len(np.unique(data.ids[data.gallery][distractors])) == 15


def test_query_and_gallery_are_the_two_parts(data) -> None:
    rows = np.arange(1500)
    np.testing.assert_array_equal(np.concatenate([rows[data.query], rows[data.gallery]]), rows)
    assert len(rows[data.query]) == 240


def test_features_are_not_normalised(data) -> None:
    assert np.isfinite(data.features).all()
    assert np.isfinite(data.generated).all()
    assert np.linalg.norm(data.features, axis=1).min() > 5


def test_every_call_gives_fresh_arrays(data) -> None:
    first = load_demo()
    first.features[:] = 0
    first.thumbnails[:] = True
    np.testing.assert_array_equal(load_demo().features, data.features)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.n_query = 1


def test_loading_needs_numpy_only() -> None:
    program = (
        "import sys; from pose2id.datasets import load_demo; load_demo(); "
        "print(sorted({'torch', 'scipy', 'matplotlib', 'tqdm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
