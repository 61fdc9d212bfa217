"""A living gallery: the law, whoever writes; kills, faults, cache, search, and what is refused."""

import datetime as dt
import multiprocessing
import os
import resource
import shutil
import sqlite3
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.killing import Moments, fork
from support.postgresql import new_schema

pytest.importorskip("sqlalchemy")

from pose2id import centralize, centralize_queries, knn_graph
from pose2id.gallery import Gallery, cache, lists, memory, schema, sqlite, transactions, updates

rng = np.random.default_rng


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def target(request, tmp_path):
    """Where a new gallery can be made: a file, or a schema of a PostgreSQL server."""
    return tmp_path / "people.gallery" if request.param == "sqlite" else new_schema(request.getfixturevalue("server"))


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def people(n, width=6, seed=0, each=4):
    """n rows of n / each people."""
    noise = rng(seed)
    centres = noise.standard_normal((-(-n // each), width))
    rows = centres.repeat(each, axis=0)[:n] + 0.5 * noise.standard_normal((n, width))
    return rows.astype(np.float32)


def names(n, start=0):
    return [f"p{number}" for number in range(start, start + n)]


def assert_law(opened, exclude=None):
    """The centralized rows are those of `centralize`, to the last bit."""
    kept = opened.settings
    options = {name: kept[name] for name in ("k1", "k2", "alpha", "normalize")}
    with opened.reading():
        expected = centralize(opened.features(centralized=False), exclude=exclude, **options)
        assert opened.features().tobytes() == expected.tobytes()


# The law.

FEW = st.integers(0, 2)


class Law(RuleBasedStateMachine):
    """Any sequence of changes, by two writers, in small galleries full of ties, duplicates and rows of zeros."""

    def where(self):
        raise NotImplementedError

    @initialize(
        seed=st.integers(0, 2**32 - 1),
        k1=st.sampled_from([2, 1, 3, 0]),
        k2=st.sampled_from([2, 1, 4]),
        alpha=st.sampled_from([0.0, 2.5]),
        normalize=st.booleans(),
        exclude=st.sampled_from([None, "cams", "groups"]),
        dtype=st.sampled_from(["float32", "float16"]),
        spare=st.sampled_from([4, 0, 1]),
        first=st.sampled_from([9, 4, 0]),
    )
    def make(self, seed, spare, dtype, first, **options):
        self.patch = pytest.MonkeyPatch()
        for room, name, value in [
            (updates, "PART", 3),
            (memory, "PART", 5),
            (lists, "CHUNK", 12),
            (lists, "SPARE", spare),
        ]:
            self.patch.setattr(room, name, value)
        self.random, self.model, self.count = np.random.default_rng(seed), {}, 0
        self.options, self.dtype, self.target = options, dtype, self.where()
        self.writers = [Gallery.open(self.target, dtype=dtype, **options) for _ in range(2)]
        self.add(0, first)

    def rows(self, n):
        rows = (
            self.random.integers(-2, 3, (n, 2)) if self.random.random() < 0.7 else self.random.standard_normal((n, 2))
        )
        return rows.astype(self.dtype)

    def labels(self, n):
        return [f"c{number}" for number in self.random.integers(0, 3, n)]

    def some(self, n):
        return self.random.permutation(list(self.model))[:n].tolist()

    @rule(who=st.integers(0, 1), n=st.sampled_from([1, 4, 9]))
    def add(self, who, n):
        rows, keys = self.rows(n), names(n, self.count)
        cams, groups, times = self.labels(n), self.labels(n), self.random.integers(0, 9, n)
        self.count += n
        self.writers[who].add(rows, keys, cams, groups, times)
        self.model |= {key: [*each] for key, *each in zip(keys, rows, cams, groups, times, strict=True)}

    @rule(who=st.integers(0, 1), n=st.sampled_from([1, 3, 50]))
    def remove(self, who, n):
        keys = self.some(n)
        self.writers[who].remove(keys)
        for key in keys:
            del self.model[key]

    @rule(who=st.integers(0, 1), n=st.sampled_from([1, 3]))
    def update(self, who, n):
        keys = self.some(n)
        rows, cams = self.rows(len(keys)), self.labels(len(keys))
        self.writers[who].update(keys, rows.reshape(-1, 2), cams)
        for key, row, cam in zip(keys, rows, cams, strict=True):
            self.model[key][:2] = row, cam

    @rule(who=st.integers(0, 1), before=FEW)
    def expire(self, who, before):
        gone = [key for key, each in self.model.items() if each[3] < before]
        assert self.writers[who].expire(before=before) == gone
        for key in gone:
            del self.model[key]

    @rule(who=st.integers(0, 1))
    def open_again(self, who):
        self.writers[who].close()
        self.writers[who] = Gallery.open(self.target)

    @invariant()
    def is_law(self):
        if not hasattr(self, "writers"):
            return
        reader = self.writers[0]  # it asks the database, so the other one would say the same
        assert reader.keys() == list(self.model)
        if self.model:
            rows = np.stack([each[0] for each in self.model.values()])
            column = {"cams": 1, "groups": 2}.get(self.options["exclude"])
            labels = None if column is None else [each[column] for each in self.model.values()]
            expected = centralize(rows, **self.options | {"exclude": labels})
            assert reader.features().tobytes() == expected.tobytes()

    def teardown(self):
        for writer in getattr(self, "writers", []):
            assert writer.verify() == []
            writer.close()
        if hasattr(self, "patch"):
            self.patch.undo()


def run_law(where, examples, steps=8):
    machine = type("OwnLaw", (Law,), {"where": where})
    case = machine.TestCase
    profile = settings.get_profile(settings.get_current_profile_name())
    count = max(1, examples * profile.max_examples // 14)
    case.settings = settings(profile, max_examples=count, stateful_step_count=steps)
    case().runTest()


def test_the_law_on_sqlite(tmp_path):
    run_law(lambda _: tmp_path / f"{os.urandom(8).hex()}.gallery", examples=5)


def test_the_law_on_postgresql(server):
    run_law(lambda _: new_schema(server), examples=3)


def work(target, who, barrier):
    """One of several writers: adds, removes and updates its own rows."""
    torch.set_num_threads(1)
    with Gallery.open(target) as opened:
        barrier.wait()
        for turn in range(2):
            keys = [f"{who}-{turn}-{number}" for number in range(6)]
            opened.add(people(6, seed=10 * who + turn, each=2), keys)
            opened.remove(keys[:2])
            opened.update(keys[2:3], people(1, seed=99))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_several_writers_at_once(target):
    Gallery.open(target, k1=3, k2=2).close()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    writers = [context.Process(target=work, args=(target, who, barrier)) for who in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0] * 4
    with Gallery.open(target) as opened:
        assert len(opened) == 4 * 2 * 4
        assert opened.version == 4 * 6
        assert_law(opened)
        assert opened.verify() == []


def test_a_reader_sees_one_version(target):
    with Gallery.open(target) as writer, Gallery.open(target) as reader:
        writer.add(people(8), names(8))
        with reader.reading() as version:
            before = reader.features()
            writer.add(people(8, seed=1), names(8, 8))
            assert (version, len(reader), reader.version) == (1, 8, 1)
            assert reader.features().tobytes() == before.tobytes()
            assert len(reader.search(people(1), top=16).keys[0]) == 8
            with pytest.raises(ValueError, match="reading"):
                reader.remove(["p0"])
        assert reader.version == 2
        assert_law(reader)


def test_the_first_rows_of_a_second_camera(tmp_path, monkeypatch):
    """All rows of the first camera have room for all of them; that must not make pairs of all with all."""
    pairs, original = [], lists.find_entered

    def count(*arguments, **options):
        entered = original(*arguments, **options)
        pairs.append(len(entered.rows))
        return entered

    monkeypatch.setattr(lists, "find_entered", count)
    with Gallery.open(tmp_path / "a", exclude="cams") as opened:
        opened.add(people(100), names(100), cams=[1] * 100)
        opened.add(people(50, seed=1), names(50, 100), cams=[2] * 50)
        assert_law(opened, [1] * 100 + [2] * 50)
        opened.add(people(50, seed=2), names(50, 150), cams=[2] * 50)
        assert_law(opened, [1] * 100 + [2] * 100)
    assert len(pairs) == 2
    assert pairs[0] == 0


@pytest.mark.parametrize("width", [2, 3, 33])
def test_generated_features_are_those_of_centralize(tmp_path, width):
    rows, generated = people(300, width), people(900, width, seed=1).reshape(300, 3, width)
    with Gallery.open(tmp_path / "a", eta=0.25, k1=3, alpha=1.0) as opened:
        opened.add(rows[:200], names(200), generated=generated[:200])
        opened.add(rows[200:], names(100, 200), generated=[generated[200:, m] for m in range(3)])
        expected = centralize(rows, generated, 0.25, 3, alpha=1.0)
        assert opened.features().tobytes() == expected.tobytes()
        assert_law(opened)


# Killed, full, lost.


def moments_of_writing(patch, moments):
    original = transactions.Transaction.__init__

    def watch(self, connection):
        original(self, connection)
        # After one of these nothing is done before the next; after the last one the transaction ends.
        for name in ("insert", "remove", "put_vectors", "put_lists", "mark", "advance", "relabel"):
            setattr(self, name, moments.watched(getattr(self, name), name, after=name == "advance"))

    patch.setattr(transactions.Transaction, "__init__", watch)
    patch.setattr(memory.Memory, "keep", moments.watched(memory.Memory.keep, "keep"))
    patch.setattr(cache, "save", moments.watched(cache.save, "save"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("action", ["add", "remove"])
def test_a_kill_leaves_the_state_before_or_after(tmp_path, action):
    first = tmp_path / "first"
    with Gallery.open(first, k1=3) as opened:
        opened.add(people(12), names(12))
        before = opened.features()
    shutil.rmtree(tmp_path / "first.cache")

    def act(path, moments=None):
        with pytest.MonkeyPatch.context() as patch, Gallery.open(path) as opened:
            if moments is not None:
                moments_of_writing(patch, moments)
            if action == "add":
                opened.add(people(6, seed=2), names(6, 12))
            else:
                opened.remove(names(5))

    counting = Moments()
    shutil.copy(first, tmp_path / "last")
    act(tmp_path / "last", counting)
    with Gallery.open(tmp_path / "last") as opened:
        after = opened.features()
    assert len(counting.seen) >= 9
    seen = set()
    for moment in range(1, len(counting.seen) + 1):
        path = tmp_path / f"copy{moment}"
        shutil.copy(first, path)
        assert fork(lambda path=path, moment=moment: act(path, Moments(moment))) == -9
        with Gallery.open(path) as opened:
            assert moment % 2 or opened.verify() == []
            seen.add(opened.version)
            if opened.version == 2:
                assert opened.features().tobytes() == after.tobytes()
            else:
                assert opened.keys() == names(12)
                assert opened.features().tobytes() == before.tobytes()
            if opened.version == 1 and moment % 4 == 0:  # and goes on
                act(path)
                assert opened.features().tobytes() == after.tobytes()
    assert seen == {1, 2}


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits of Linux")
def test_a_full_disk_changes_nothing(tmp_path):
    path = tmp_path / "people.gallery"
    with Gallery.open(path) as opened:
        opened.add(people(8, 64), names(8))

    def grow():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        with Gallery.open(path) as opened:
            with pytest.raises(OSError, match=r"people.gallery cannot be read or written: .*nothing was changed"):
                opened.add(people(3000, 64), names(3000, 8))
            assert opened.keys() == names(8)
            assert_law(opened)

    assert fork(grow) == 0
    with Gallery.open(path) as opened:
        assert opened.verify() == []
        assert opened.version == 1


@pytest.mark.parametrize("name", ["advance", "put_vectors"])  # one statement, or many in a pipeline
def test_postgresql_lost_is_one_line_and_changes_nothing(server, monkeypatch, caplog, name):
    import psycopg

    target = new_schema(server)
    with Gallery.open(target) as opened:
        opened.add(people(8), names(8))
        step = getattr(transactions.Transaction, name)

        def lose(self, *arguments, **options):
            with psycopg.connect(server, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            step(self, *arguments, **options)

        monkeypatch.setattr(transactions.Transaction, name, lose)
        with pytest.raises(ConnectionError, match="lost") as caught:
            opened.add(people(8, seed=1), names(8, 8))
        assert "\n" not in str(caught.value)
        assert caplog.records == []
        monkeypatch.undo()
        assert opened.version == 1
        opened.remove(["p0"])  # by a new connection
        assert_law(opened)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_opens_the_gallery_for_itself(tmp_path):
    with Gallery.open(tmp_path / "a") as opened:
        opened.add(people(4), names(4))

        def use():
            with pytest.raises(ValueError, match="open it here again"):
                opened.remove(["p0"])
            opened.close()

        assert fork(use) == 0
        assert opened.keys() == names(4)


# The cache.


@pytest.mark.parametrize("harm", ["flip", "cut", "empty", "other", "remove"])
def test_a_damaged_cache_is_made_anew(tmp_path, harm, caplog):
    path, query = tmp_path / "people.gallery", people(2, seed=5)
    with Gallery.open(path) as opened:
        opened.add(people(40), names(40))
        right = opened.search(query, top=5, centralize=True)
    for name in ("fused", "centralized"):
        file = tmp_path / "people.gallery.cache" / name
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        changed = {"flip": data, "cut": data[:-4], "empty": b"", "other": b"x" * 5000, "remove": None}[harm]
        file.unlink()
        if changed is not None:
            file.write_bytes(changed)
    with Gallery.open(path) as opened:
        found = opened.search(query, top=5, centralize=True)
        assert found.keys == right.keys
        assert found.distances.tobytes() == right.distances.tobytes()
        opened.add(people(10, seed=3), names(10, 40))
        assert_law(opened)
    assert ("is not used" in caplog.text) == (harm != "remove")


def test_an_old_cache_is_brought_up_to_date(tmp_path):
    path = tmp_path / "people.gallery"
    with Gallery.open(path) as opened:
        opened.add(people(40), names(40))
        opened.search(people(1))
    shutil.copytree(tmp_path / "people.gallery.cache", tmp_path / "old")
    with Gallery.open(path) as opened:
        opened.update(["p3"], people(1, seed=7))
        opened.remove(["p5", "p6"])
        opened.add(people(4, seed=8), names(4, 40))
    shutil.rmtree(tmp_path / "people.gallery.cache")
    shutil.move(tmp_path / "old", tmp_path / "people.gallery.cache")
    with Gallery.open(path) as opened:
        check_search(opened)
        opened.add(people(4, seed=9), names(4, 44))
        assert_law(opened)


def test_another_copy_of_the_database_is_noticed(tmp_path):
    path = tmp_path / "people.gallery"
    with Gallery.open(path) as opened:
        opened.add(people(10), names(10))
    shutil.copy(path, tmp_path / "saved")
    with Gallery.open(path) as opened:  # version 2, which the copy reaches in another way
        opened.add(people(10, seed=1), names(10, 10))
        opened.search(people(1))
    shutil.copy(tmp_path / "saved", path)
    with Gallery.open(path) as opened:
        opened.add(people(12, seed=2), names(12, 10))
        check_search(opened)
        assert_law(opened)


def test_what_was_removed_is_in_no_file(tmp_path):
    path, rows = tmp_path / "people.gallery", people(40)
    with Gallery.open(path, normalize=False) as opened:
        opened.add(rows, names(40))
        opened.search(rows[:1])
    held = [file for file in tmp_path.rglob("*") if file.is_file() and rows[7].tobytes() in file.read_bytes()]
    assert len(held) == 2  # the database and the rows to be searched
    with Gallery.open(path) as opened:
        opened.remove(["p7"])
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and rows[7].tobytes() in file.read_bytes()]


# Search.


def check_search(opened, **filters):
    """What a search finds is what `knn_graph` finds among the centralized rows."""
    with opened.reading():
        rows, query, keys = opened.features(), people(3, seed=11), opened.keys()
        query /= np.linalg.norm(query.astype(np.float64), axis=1, keepdims=True)
        query = centralize(query, k1=0)  # length 1 as `search` has it
        found = opened.search(query, top=5, **filters)
        for at in range(3):
            graph = knn_graph(np.concatenate([rows, query[at : at + 1]]), 5)
            assert found.keys[at] == [keys[each] for each in graph.indices[-1] if each >= 0]
            assert found.distances[at].tobytes() == graph.distances[-1].tobytes()


def test_search_is_that_of_knn_graph(tmp_path, monkeypatch):
    monkeypatch.setattr(lists, "CHUNK", 60)
    with Gallery.open(tmp_path / "a") as opened:
        opened.add(people(40), names(40))
        check_search(opened)
        opened.add(people(10), names(10, 40))  # duplicates: ties go to the earlier ones
        check_search(opened)
        found = opened.search(people(2), top=60)
        assert [len(keys) for keys in found.keys] == [50, 50]
        assert found.distances.shape == (2, 60)
        assert np.isinf(found.distances[:, 50:]).all()


@pytest.mark.parametrize("alpha", [0.0, 2.0])
def test_queries_are_pulled_as_by_centralize_queries(tmp_path, alpha):
    rows, query = people(40), people(7, seed=4)
    rows[3] = 0
    with Gallery.open(tmp_path / "a", k1=3, k2=4, alpha=alpha) as opened:
        opened.add(rows, names(40))
        pulled = centralize_queries(query, rows, k1=3, k2=4, alpha=alpha)
        found, expected = opened.search(query, centralize=True), opened.search(pulled)
        plain = opened.search(query)
        assert found.keys == expected.keys
        assert np.allclose(found.distances, expected.distances, atol=1e-6)
        assert not np.allclose(found.distances, plain.distances, atol=1e-3)


def test_filters(tmp_path):
    with Gallery.open(tmp_path / "a") as opened:
        times = [dt.datetime(2026, 1, 1 + day, tzinfo=dt.UTC) for day in range(8)]
        opened.add(people(8), names(8), cams=[0, 1] * 4, groups=["x"] * 6 + ["y"] * 2, times=times)
        opened.add(people(2, seed=1), names(2, 8))
        found = {
            "all": opened.search(people(1)),
            "cams": opened.search(people(1), cams=[1]),
            "not cams": opened.search(people(1), not_cams=["1"]),
            "groups": opened.search(people(1), groups=["y"], cams=["0", "1"]),
            "after": opened.search(people(1), after=times[5], before=times[7]),
            "none": opened.search(people(1), cams=[]),
        }
        keys = {name: sorted(each.keys[0]) for name, each in found.items()}
        assert keys == {
            "all": names(10),
            "cams": ["p1", "p3", "p5", "p7"],
            "not cams": ["p0", "p2", "p4", "p6", "p8", "p9"],
            "groups": ["p6", "p7"],
            "after": ["p5", "p6"],
            "none": [],
        }
        assert opened.expire(before=times[2]) == ["p0", "p1"]
        assert_law(opened)


def test_neighbors_changes_stats_and_history(target):
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [0, 0], [0.1, 0.9]], np.float32)
    with Gallery.open(target, k1=1, k2=1) as opened:
        assert opened.changes() == (0, [], [])
        opened.add(rows, list("abcde"), cams=[1, 2, 3, 4, 5])
        near = opened.neighbors(["e", "a", "d"])
        assert (near.keys, near.mutual) == ([["c"], ["b"], []], [["c"], ["b"], []])
        assert opened.stats() | {"settings": None} == {
            "rows": 5,
            "width": 2,
            "version": 1,
            "cams": 5,
            "groups": 0,
            "zero_rows": 1,
            "pulled": 4,
            "first_time": None,
            "last_time": None,
            "settings": None,
        }
        opened.remove(["e"])
        assert opened.changes(1) == (2, ["c"], ["e"])  # and c is alone now
        opened.add(rows[4:], ["e"])
        assert opened.changes(1) == (3, ["c", "e"], [])
        assert opened.changes(2).changed == ["c", "e"]
        assert [(each["version"], each["action"], each["rows"]) for each in opened.history()] == [
            (1, "add", 5),
            (2, "remove", 1),
            (3, "add", 1),
        ]
        with pytest.raises(ValueError, match="0 to 3, received 4"):
            opened.changes(4)


def test_a_copy_that_follows_changes_is_always_equal(tmp_path):
    random, copy, version = rng(3), {}, 0
    with Gallery.open(tmp_path / "a", k1=3, k2=3) as opened:
        for turn in range(8):
            opened.add(people(10, seed=turn), names(10, 10 * turn))
            opened.remove(random.permutation(opened.keys())[:4].tolist())
            opened.update(random.permutation(opened.keys())[:2].tolist(), people(2, seed=100 + turn))
            if turn % 2:
                version, changed, removed = opened.changes(version)
                for key in removed:
                    copy.pop(key, None)
                copy |= dict(zip(changed, opened.features(changed), strict=True))
                there = opened.keys()
                assert set(copy) == set(there)
                assert np.stack([copy[key] for key in there]).tobytes() == opened.features().tobytes()


# Settings, widths, and what is refused.


def test_settings_stay_unless_all_is_computed_anew(target):
    with Gallery.open(target, k1=3, exclude="cams") as opened:
        opened.add(people(20), names(20), cams=[0, 1, 2, 3] * 5)
        with pytest.raises(ValueError, match="needs one; pass cams"):
            opened.add(people(1), ["x"])
    with Gallery.open(target) as opened:
        assert opened.settings["k1"] == 3
        assert_law(opened, [0, 1, 2, 3] * 5)
    with pytest.raises(ValueError, match=r"k1=3, received 2.*recompute=True"):
        Gallery.open(target, k1=2)
    for changed in [{"exclude": None}, {"k1": 5, "k2": 4}, {"normalize": False}, {"normalize": True, "alpha": 3.0}]:
        with Gallery.open(target) as other, Gallery.open(target, recompute=True, **changed) as opened:
            assert opened.settings.items() >= changed.items()
            assert_law(opened)
            assert other.verify() == []
            other.add(people(1, seed=len(other)), [f"x{len(other)}"])
            assert_law(opened)
    with pytest.raises(ValueError, match="eta cannot change"):
        Gallery.open(target, eta=2, recompute=True)
    with pytest.raises(ValueError, match="have none: 'x20'"):
        Gallery.open(target, exclude="cams", recompute=True)
    with Gallery.open(target) as opened:
        assert_law(opened)


def test_a_single_label_goes_into_a_list(tmp_path):
    with Gallery.open(tmp_path / "a") as opened:
        opened.add(people(2), names(2), cams=["gate", "hall"])
        for call in (opened.remove, opened.features, opened.neighbors, lambda key: opened.update(key, people(1))):
            with pytest.raises(TypeError, match=r"^keys must be a sequence, received str; put it in a list: \['p1'\]$"):
                call("p1")
        for name in ("cams", "groups", "not_cams", "not_groups"):
            with pytest.raises(TypeError, match=rf"^{name} must be a sequence, received int; put it in a list: \[3\]$"):
                opened.search(people(1), **{name: 3})
            with pytest.raises(TypeError, match=f"^{name} must be all integers or all strings"):
                opened.search(people(1), **{name: [1.5]})
        assert opened.search(people(1), cams=["gate"]).keys == [["p0"]]
        assert opened.search(people(1), not_cams=["gate"]).keys == [["p1"]]


def test_another_width_is_refused_and_reembed_takes_it(target):
    with Gallery.open(target) as opened, Gallery.open(target) as other:
        opened.add(people(20), names(20), cams=range(20))
        assert len(other.search(people(1)).keys[0]) == 10
        for call in (
            lambda: opened.add(people(1, 7), ["x"]),
            lambda: opened.update(["p0"], people(1, 7)),
            lambda: Gallery.open(target, width=7),
        ):
            with pytest.raises(ValueError, match=r"D = 6, received D = 7.*new gallery, or reembed"):
                call()
        with pytest.raises(ValueError, match="must have the gallery's D = 6"):
            opened.search(people(1, 7))
        with pytest.raises(ValueError, match="1 keys are missing: 'p19'"):
            opened.reembed(people(19, 7), names(19))
        rows = people(20, 7, seed=3)
        opened.reembed(rows[::-1].copy(), names(20)[::-1])
        assert opened.features(centralized=False).tobytes() == rows.tobytes()
        assert_law(opened)
        assert len(other.search(rows[:1]).keys[0]) == 10
        assert_law(other)
        assert other.verify() == []


STRANGE = ["'; DROP TABLE pose2id_rows; --", 'a"b', "line\nend", "名前", "%s %(a)s :b ?", "\\", " ", "\U0001f600"]


def test_keys_and_labels_are_any_text(target):
    with Gallery.open(target, exclude="groups") as opened:
        opened.add(people(8), STRANGE, cams=STRANGE, groups=STRANGE)
        assert opened.keys() == STRANGE
        assert sorted(opened.search(people(1), cams=STRANGE[:3]).keys[0]) == sorted(STRANGE[:3])
        opened.remove(STRANGE[:2])
        opened.update(STRANGE[2:3], people(1, seed=2))
        assert opened.features(STRANGE[3:1:-1]).shape == (2, 6)
        assert_law(opened, STRANGE[2:])


@pytest.mark.parametrize("name", ["a'b", 'a"b', "a\nb", "名前", "a?mode=ro", "%41", "file:x", "a#b"])
def test_paths_are_any_text(tmp_path, name):
    with Gallery.open(tmp_path / name) as opened:
        opened.add(people(2), names(2))
    assert {each.name for each in tmp_path.iterdir()} - {"cache"} == {name, f"{name}.cache"}


def test_one_wrong_row_changes_nothing(target):
    with Gallery.open(target) as opened:
        opened.add(people(4), names(4))
        bad = people(2)
        bad[1, 0] = np.nan
        for call, words in [
            (lambda: opened.add(people(2), ["new", "p1"]), "keys must be new, there are already: 'p1'"),
            (lambda: opened.add(people(2), ["a", "a"]), "more than once: 'a'"),
            (lambda: opened.add(bad, ["a", "b"]), "NaN or inf in 1 row"),
            (lambda: opened.add(people(2), ["a"]), "one row for each of the 1 keys, received 2"),
            (lambda: opened.add(people(1), ["a\0b"]), "without NUL"),
            (lambda: opened.add(people(1), ["\ud800"]), r"UTF-8 can hold, received '\\ud800'"),
            (lambda: opened.add(people(1), ["x" * 3000]), "at most 2000 bytes"),
            (lambda: opened.add(people(1), ["a"], times=[np.nan]), "times must be finite"),
            (lambda: opened.add(people(1), ["a"], times=[dt.datetime(2026, 1, 1)]), "time zone"),
            (lambda: opened.remove(["p0", "nobody"]), "1 are not: 'nobody'"),
            (lambda: opened.update(["nobody"], people(1)), "1 are not: 'nobody'"),
            (lambda: opened.search(people(1), not_cams=["a\0"]), "not_cams must"),
        ]:
            with pytest.raises(ValueError, match=words):
                call()
        assert (opened.version, opened.keys()) == (1, names(4))
        assert_law(opened)


def test_what_is_no_gallery_is_refused(tmp_path):
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(ValueError, match="text is no gallery"):
        Gallery.open(tmp_path / "text")
    with sqlite3.connect(tmp_path / "other") as connection:
        connection.execute("CREATE TABLE notes (id)")
    connection.close()
    with pytest.raises(ValueError, match="something else"):
        Gallery.open(tmp_path / "other")
    with pytest.raises(ValueError, match="k1 must be an integer from 0 to 1000"):
        Gallery.open(tmp_path / "many", k1=1001)
    with pytest.raises(FileNotFoundError, match="there is no gallery"):
        Gallery.open(tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with Gallery.open(tmp_path / "later") as opened:
        pass
    with sqlite3.connect(tmp_path / "later") as connection:
        connection.execute("UPDATE pose2id_gallery SET schema_version = 99")
    connection.close()
    with pytest.raises(ValueError, match="later pose2id"):
        Gallery.open(tmp_path / "later")
    with pytest.raises(ValueError, match="is closed"):
        opened.keys()


def test_an_older_schema_is_migrated(tmp_path, monkeypatch):
    with Gallery.open(tmp_path / "a") as opened:
        opened.add(people(4), names(4))
    monkeypatch.setattr(transactions, "SCHEMA", 2)
    add = "ALTER TABLE pose2id_rows ADD COLUMN note TEXT"
    monkeypatch.setitem(schema.MIGRATIONS, 1, lambda connection: connection.exec_driver_sql(add))
    with Gallery.open(tmp_path / "a") as opened:
        assert opened.verify() == []
    with sqlite3.connect(tmp_path / "a") as connection:
        assert connection.execute("SELECT schema_version FROM pose2id_gallery").fetchall() == [(2,)]
        assert connection.execute("SELECT count(note) FROM pose2id_rows").fetchall() == [(0,)]
    connection.close()


def pages(path):
    connection = sqlite3.connect(path)
    found = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count")]
    connection.close()
    return found


def test_rows_fill_the_pages_of_a_file_and_older_files_keep_theirs(tmp_path, monkeypatch):
    rows, keys = np.random.default_rng(0).standard_normal((300, 512)).astype(np.float32), list(map(str, range(300)))
    for name, page in (("new", sqlite.PAGE), ("old", 4096)):
        monkeypatch.setattr(sqlite, "PAGE", page)
        with Gallery.open(tmp_path / name) as gallery:
            gallery.add(rows[:200], keys[:200])
    monkeypatch.undo()
    for name in ("new", "old"):
        with Gallery.open(tmp_path / name) as gallery:
            gallery.add(rows[200:], keys[200:])
            np.testing.assert_array_equal(gallery.features(), centralize(rows))
            assert gallery.verify() == []
    (page, count), (old_page, old_count) = pages(tmp_path / "new"), pages(tmp_path / "old")
    assert (page, old_page) == (32768, 4096)
    assert page * count < 0.75 * old_page * old_count


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@localhost:1/x",
        "postgresql://user@localhost:1/x?password=s3cret",
        "postgresql://user:s3cret@localhost:port/x",
        "mysql://user:s3cret@localhost/x",
        "postgresql://user:s3cret@",
        "postgresql://user:p@s3cret@localhost:1/x",
        "postgresql://user:p/s3cret@localhost:1/x",
        "postgresql://user:p%00s3cret@localhost:1/x",
        "postgresql://user:s3cret@localhost:1/x?passwrod=s3cret",
    ],
)
def test_passwords_are_never_shown(url, caplog):
    pytest.importorskip("psycopg")
    with pytest.raises((ValueError, OSError)) as caught:
        Gallery.open(url)
    shown = caught.value
    while shown is not None:
        assert "s3cret" not in str(shown) + repr(shown)
        shown = shown.__cause__
    assert "s3cret" not in caplog.text
    assert "\n" not in str(caught.value)


def test_verify_says_what_is_wrong(tmp_path):
    path = tmp_path / "people.gallery"
    with Gallery.open(path) as opened:
        opened.add(people(8), names(8))
        keys = opened.keys()
    for harm, words in [
        ("UPDATE pose2id_centralized SET vector = (SELECT vector FROM pose2id_fused WHERE id = 5) WHERE id = 3", "p2"),
        ("UPDATE pose2id_rows SET near = (SELECT near FROM pose2id_rows WHERE id = 1) WHERE id = 5", "p4"),
        ("DELETE FROM pose2id_fused WHERE id = 8", "missing or damaged: 'p7'"),
        ("INSERT INTO pose2id_fused VALUES (77, x'00')", "belong to no key"),
    ]:
        copy = tmp_path / f"copy{len(words)}"
        shutil.copy(path, copy)
        with sqlite3.connect(copy) as connection:
            connection.execute(harm)
        connection.close()
        with Gallery.open(copy) as opened:
            found = "; ".join(opened.verify())
            assert words in found
    assert keys == names(8)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ImportError, match=r"sqlalchemy.*pose2id\[gallery\]"):
        Gallery.open(Path(tmp_path, "a"))
