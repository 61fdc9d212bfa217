"""What happens to a gallery from outside: files and servers in other states, odd input, killed processes."""

import copy
import datetime as dt
import os
import pickle
import shutil
import signal
import sqlite3
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from support.killing import fork
from support.postgresql import new_schema

pytest.importorskip("sqlalchemy")

from pose2id import progress
from pose2id.cli import main
from pose2id.gallery import Gallery, cache, schema, transactions
from pose2id.gallery.arguments import take_keys


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "people.gallery"


def rows(n, width=6, seed=0):
    return np.random.default_rng(seed).standard_normal((n, width)).astype(np.float32)


def names(n):
    return [f"p{number}" for number in range(n)]


def run_sql(path, *statements):
    with sqlite3.connect(path) as connection:
        found = [connection.execute(*each).fetchall() for each in statements]
    connection.close()
    return found[-1]


# Passwords.


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:s3@cret@127.0.0.1:1/d",
        "postgresql:/u:s3cret@h/d",
        "postgresql:u:s3cret@h/d",
        "u:s3cret@h\n/postgresql://x",
        "postgresql://u:s3cret@127.0.0.1:1/d?host=/x&port=abc",
    ],
)
def test_a_url_that_is_written_wrongly_says_no_password(tmp_path, monkeypatch, url):
    pytest.importorskip("psycopg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        Gallery.open(url)
    assert "cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


# Databases of something else.


@pytest.mark.parametrize("made", ["TABLE notes (id)", "TABLE pose2id_rows (id)", "VIEW v AS SELECT 1"])
@pytest.mark.parametrize("create", [True, False])
def test_a_database_of_something_else_stays_as_it_is(path, made, create):
    run_sql(path, (f"CREATE {made}",))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="is a database of something else"):
        Gallery.open(path, create=create)
    assert path.read_bytes() == before
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_an_empty_file_is_filled_only_if_asked(path):
    path.touch()
    with pytest.raises(FileNotFoundError, match="there is no gallery"):
        Gallery.open(path, create=False)
    assert path.read_bytes() == b""
    Gallery.open(path).close()


def test_tables_of_something_else_in_a_schema_stay_as_they_are(server):
    import psycopg

    target = new_schema(server).removesuffix(",public")
    with psycopg.connect(target) as connection:
        connection.execute("CREATE TABLE pose2id_rows (mine text)")
    with pytest.raises(ValueError, match="holds something else, in tables of these names: pose2id_rows"):
        Gallery.open(target)
    with psycopg.connect(target) as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
        assert found.fetchall() == [("pose2id_rows",)]


# PostgreSQL as others have set it up.


def work(opened, who, wrong):
    try:
        for turn in range(3):
            opened.add(rows(2, seed=10 * who + turn), [f"{who}-{turn}-{number}" for number in range(2)])
    except Exception as error:  # noqa: BLE001
        wrong.append(error)


@pytest.mark.parametrize("setup", ["two search paths", "repeatable read", "serializable"])
def test_writers_wait_however_they_come_in(server, setup):
    targets = [new_schema(server).removesuffix(",public")]
    Gallery.open(targets[0]).close()
    if setup == "two search paths":
        first = targets[0].rpartition("%3D")[2]
        targets.append(f"{new_schema(server).removesuffix(',public')},{first}")
    else:
        word = setup.replace(" ", "%5C%20")
        targets = [f"{targets[0]}%20-cdefault_transaction_isolation%3D{word}"] * 2
    opened, wrong = [Gallery.open(target) for target in targets], []
    threads = [threading.Thread(target=work, args=(each, who, wrong)) for who, each in enumerate(opened)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(opened[0]) == len(opened[1]) == 12
    assert opened[0].verify() == []
    for each in opened:
        each.close()


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_databases_of_other_encodings(server, encoding):
    import psycopg

    name = f"of_{encoding.lower()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name}")
        words = f"CREATE DATABASE {name} ENCODING '{encoding}' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"
        connection.execute(words)
    with Gallery.open(server.replace("/postgres?", f"/{name}?")) as opened:
        opened.add(rows(2), ["é", "a"], cams=["ü", "b"])
        if encoding == "SQL_ASCII":
            opened.add(rows(1, seed=1), ["鍵"])
        else:  # which cannot hold it
            with pytest.raises(OSError, match=r"no equivalent in encoding .*nothing was changed"):
                opened.add(rows(1, seed=1), ["鍵"])
        assert opened.keys()[:2] == ["é", "a"]
        assert opened.search(rows(1), cams=["ü"]).keys == [["é"]]
        assert opened.verify() == []


def test_more_labels_than_postgresql_takes(server):
    with Gallery.open(new_schema(server)) as opened:
        opened.add(rows(6), names(6), cams=range(6))
        assert sorted(opened.search(rows(1), cams=range(4, 66_000)).keys[0]) == ["p4", "p5"]


def test_more_labels_than_a_statement_takes(path, monkeypatch):
    monkeypatch.setattr(transactions, "AT_ONCE", 3)
    with Gallery.open(path) as opened:
        opened.add(rows(6), names(6), cams=range(6), groups=[7, 7, 7, 8, 8, 8])
        many = [*range(1, 5), *range(1000, 1010)]
        assert sorted(opened.search(rows(1), cams=many).keys[0]) == ["p1", "p2", "p3", "p4"]
        assert sorted(opened.search(rows(1), not_cams=many).keys[0]) == ["p0", "p5"]
        assert sorted(opened.search(rows(1), cams=many, not_cams=[2], groups=["7"]).keys[0]) == ["p1"]


# The file.


@pytest.mark.parametrize("harm", ["remove", "replace"])
def test_a_file_that_is_removed_or_replaced_is_noticed(path, harm):
    opened = Gallery.open(path)
    opened.add(rows(4), names(4))
    if harm == "replace":
        with Gallery.open(path.with_name("other")) as other:
            other.add(rows(2, seed=1), ["a", "b"])
        for each in ("-wal", "-shm"):
            path.with_name(path.name + each).unlink()
        path.with_name("other").replace(path)
    else:
        path.unlink()
    for call in (lambda: opened.add(rows(1), ["x"]), opened.keys, lambda: opened.remove(["p0"])):
        with pytest.raises(OSError, match="was removed or replaced while it was open"):
            call()
    opened.close()
    assert not path.with_name("people.gallery.cache").exists()
    with Gallery.open(path) as opened:
        assert opened.keys() == (["a", "b"] if harm == "replace" else [])
        assert opened.verify() == []


def test_a_path_may_begin_with_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with Gallery.open("~/people.gallery") as opened:
        opened.add(rows(2), names(2))
    assert (tmp_path / "people.gallery").is_file()


def test_a_gallery_that_another_program_migrated_is_not_written(path, monkeypatch):
    with Gallery.open(path) as old:
        old.add(rows(4), names(4))
        run_sql(path, ("UPDATE pose2id_gallery SET schema_version = 2",))
        for call in (lambda: old.add(rows(1), ["x"]), lambda: old.search(rows(1))):
            with pytest.raises(ValueError, match="is of schema 2, here 1"):
                call()
    for room in (schema, transactions):
        monkeypatch.setattr(room, "SCHEMA", 2, raising=False)
    with Gallery.open(path) as opened:
        assert opened.keys() == names(4)


# The cache.


def held(folder, row):
    return [each for each in folder.rglob("*") if each.is_file() and row.tobytes() in each.read_bytes()]


def test_others_leave_no_removed_row_in_a_file(path):
    data = rows(40)
    with Gallery.open(path, normalize=False) as first:
        first.add(data, names(40))
        second = Gallery.open(path)
        second.search(data[:1])
        first.remove(["p7"])
    second.close()  # which had not heard of it
    assert held(path.parent, data[7]) == []


def test_what_a_killed_process_left_is_removed_by_the_next(path):
    data, files = rows(40), path.with_name("people.gallery.cache")
    with Gallery.open(path, normalize=False) as opened:
        opened.add(data, names(40))
        opened.search(data[:1])
    shutil.copytree(files, path.with_name("old"))
    with Gallery.open(path) as opened:
        opened.update(["p8"], rows(1, seed=1))
        opened.remove(["p7"])
    shutil.rmtree(files)
    shutil.move(path.with_name("old"), files)
    opened = Gallery.open(path)
    assert len(opened.neighbors(["p9"]).keys[0]) == 2
    assert held(path.parent, data[7]) == held(path.parent, data[8]) == []
    opened.close()


def test_a_newer_file_of_another_process_stays(path):
    with Gallery.open(path) as first, Gallery.open(path) as second:
        first.add(rows(40), names(40))
        second.search(rows(1))
        first.remove(["p7"])
        first.close()
        file = path.with_name("people.gallery.cache") / "fused"
        before = file.stat().st_ino
        second.search(rows(1))
        assert file.stat().st_ino == before


def test_what_a_link_leads_to_is_not_written(path, tmp_path):
    with Gallery.open(path) as opened:
        opened.add(rows(40), names(40))
    file, victim = path.with_name("people.gallery.cache") / "fused", tmp_path / "precious"
    victim.write_text("precious")
    file.unlink()
    file.symlink_to(victim)
    with Gallery.open(path) as opened:
        opened.search(rows(1))
    assert victim.read_text() == "precious"
    assert not file.is_symlink()


@pytest.mark.parametrize("harm", ["folder is a file", "files are folders", "pipe"])
def test_a_cache_that_cannot_be_written_stops_nothing(path, harm):
    with Gallery.open(path) as opened:
        opened.add(rows(40), names(40))
    folder = path.with_name("people.gallery.cache")
    file = folder / "fused"
    file.unlink()
    if harm == "folder is a file":
        folder.rmdir()
        folder.write_text("mine")
    elif harm == "pipe":
        os.mkfifo(file)
    else:
        (file / "mine").mkdir(parents=True)
    with Gallery.open(path) as opened:
        assert opened.remove(["p7"]) == 2
        assert opened.update(["p8"], rows(1)) == 3
        assert len(opened.search(rows(1), top=50).keys[0]) == 39
        assert opened.verify() == []
    assert harm != "folder is a file" or folder.read_text() == "mine"


def test_replaced_rows_are_not_kept_in_memory():
    store, ids = cache.no_rows(4), np.arange(8)
    store = store.put(ids, np_rows := cache.torch.from_numpy(rows(8, 4)))
    for turn in range(300):
        last = cache.torch.from_numpy(rows(2, 4, seed=turn))
        store = store.drop(ids[2:4]).put(ids[2:4], last)
    assert len(store.beside) < 32
    expected = np_rows.clone()
    expected[2:4] = last
    assert store.take(ids).equal(expected)


# What is given.


@pytest.mark.parametrize(
    ("times", "words"),
    [
        (np.array(["400000-01-01"], "M8[s]"), "the year 400000"),
        (np.array([3], "m8[s]"), "times must be in seconds since 1970"),
        ({1.0}, "times must be a sequence, received set"),
        ({1.0: 2}, "times must be a sequence, received dict"),
    ],
)
def test_times_that_are_none(path, times, words):
    with Gallery.open(path) as opened:
        with pytest.raises((ValueError, TypeError), match=words):
            opened.add(rows(1), ["a"], times=times)
        assert opened.version == 0


def test_times_of_every_kind(path):
    import torch

    day = dt.datetime(1900, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=5)))
    kinds = [[day], np.array(["-9000"], "M8[Y]"), np.array(["2020-01-01T00:00:00.5"], "M8[ns]")]
    kinds += [torch.tensor([3.0], dtype=torch.bfloat16), np.array([4], ">f8")]
    with Gallery.open(path) as opened:
        for number, times in enumerate(kinds):
            opened.add(rows(1), [str(number)], times=times)
    told = [day.timestamp(), -346179744000.0, 1577836800.5, 3.0, 4.0]
    assert run_sql(path, ("SELECT time FROM pose2id_rows ORDER BY id",)) == [(each,) for each in told]


def test_a_named_width_holds(path):
    Gallery.open(path).close()
    with Gallery.open(path) as other, Gallery.open(path, width=6) as opened:
        for each in (opened, other):
            with pytest.raises(ValueError, match="D = 6, received D = 4"):
                each.add(rows(1, 4), ["a"])
        assert opened.width == other.width == 6
        opened.remove([])
        opened.reembed(rows(0, 4), [])  # while it is empty
        other.add(rows(2, 4), names(2))
        assert opened.features().shape == (2, 4)
        assert opened.verify() == []


@pytest.mark.parametrize("scale", [1e60, 1e-60])
@pytest.mark.parametrize("centralize", [True, False])
def test_queries_of_any_scale(path, scale, centralize):
    with Gallery.open(path) as opened:
        opened.add(rows(20), names(20))
        query = rows(3, seed=1).astype(np.float64)
        found, expected = (opened.search(each, centralize=centralize) for each in (query * scale, query))
        assert found.keys == expected.keys
        assert np.allclose(found.distances, expected.distances, atol=1e-6)
    with Gallery.open(path.with_name("raw"), normalize=False) as opened:
        opened.add(rows(20), names(20))
        if scale > 1:
            with pytest.raises(ValueError, match="query is too large for float32"):
                opened.search(query * scale, centralize=centralize)


def test_one_long_key_costs_no_memory():
    keys = [*map(str, range(20_000)), "x" * 2000]
    tracemalloc.start()
    assert take_keys(keys) == keys
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e7


def test_an_object_stays_where_it_is(path):
    with Gallery.open(path) as opened:
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="a Gallery cannot be pickled or copied; open it there again"):
                call(opened)
        with opened.reading(), pytest.raises(ValueError, match=r"close cannot run within reading\(\)"):
            opened.close()
        assert opened.keys() == []
        with opened.reading():

            def use():
                with pytest.raises(ValueError, match="open it here again"):
                    opened.keys()

            assert not hasattr(os, "fork") or fork(use) == 0
    with pytest.raises(TypeError, match="cache must be a path"):
        Gallery.open(path.with_name("other"), cache=3)
    assert not path.with_name("other").exists()


# Damage.


def test_verify_sees_what_is_needed_later(path):
    with Gallery.open(path) as opened:
        opened.add(rows(20), names(20))
        opened.add(np.zeros((1, 6), np.float32), ["zero"])
    ((near,),) = run_sql(path, ("SELECT near FROM pose2id_rows WHERE id = 3",))
    ids = np.frombuffer(near, "<i8")
    other = "(SELECT distances FROM pose2id_rows WHERE id = 9)"
    for name, value, words in [
        ("distances", other, "1 rows have other neighbours than those kept: 'p2'"),
        ("near", ids[[0, 1, 2, 4, 3, 5]].tobytes(), "1 rows have other neighbours than those kept: 'p2'"),
        ("near", np.where(np.arange(6) == 4, -1, ids).tobytes(), "1 rows have other neighbours than those kept: 'p2'"),
        ("near", np.where(np.arange(6) > 2, 777, ids).tobytes(), "1 rows have other neighbours than those kept: 'p2'"),
        ("near", b"\0", "1 lists of neighbours are damaged: 'p2'"),
        ("near", None, "1 lists of neighbours are damaged: 'p2'"),
        ("distances", b"\0" * 28, "1 lists of neighbours are damaged: 'p2'"),
    ]:
        harmed = path.with_name("harmed")
        shutil.copy(path, harmed)
        if isinstance(value, str):
            run_sql(harmed, (f"UPDATE pose2id_rows SET {name} = {value} WHERE id = 3",))
        else:
            run_sql(harmed, (f"UPDATE pose2id_rows SET {name} = ? WHERE id = 3", (value,)))
        with Gallery.open(harmed) as opened:
            assert opened.verify() == [words]
            if "damaged" in words:
                with pytest.raises(ValueError, match="lists of neighbours are damaged: 'p2'"):
                    opened.add(rows(1), ["x"])
    with Gallery.open(path) as opened:
        assert opened.verify() == []


# The command line.


def test_bad_files_make_no_gallery(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    good, bad = {"features": rows(3), "paths": list("abc")}, rows(3)
    bad[1] = np.nan
    np.savez("good.npz", **good)
    for number, (changed, words) in enumerate(
        [
            ({"features": bad}, "NaN or inf"),
            ({"paths": list("aab")}, "more than once: 'a'"),
            ({"generated": rows(3, 5)}, "generated must have shape"),
            ({"paths": ["a" * 3000, "b", "c"]}, "at most 2000 bytes"),
        ]
    ):
        np.savez("bad.npz", **{**good, **changed})
        for files in (["bad.npz"], ["good.npz", "bad.npz"]):
            assert main(["gallery", "add", f"{number}.gallery", *files]) == 2
            out, err = capsys.readouterr()
            assert out == ""
            assert err.count("\n") == 1
            assert "bad.npz" in err
            assert words in err
    assert main(["gallery", "add", "new.gallery", "good.npz", "good.npz"]) == 2
    assert "good.npz: keys must be new, in the files before it are already: 'a', 'b', 'c'" in capsys.readouterr().err
    assert main(["gallery", "add", "new.gallery", "good.npz", "--time", "nan"]) == 2
    assert "--time must be finite" in capsys.readouterr().err
    assert list(Path.cwd().glob("*.gallery*")) == []
    np.savez("more.npz", features=rows(2, 5), paths=["d", "e"])
    assert main(["gallery", "add", "new.gallery", "good.npz", "more.npz"]) == 2
    assert "more.npz: this gallery has rows of D = 6, received D = 5" in (said := capsys.readouterr().err)
    assert said.endswith("; the files before it are added\n")


# Killed processes.


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_killed_process_takes_no_lock_of_others_with_it():
    def take():
        progress.tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert fork(take) == -signal.SIGKILL
    assert progress.tqdm.get_lock().acquire(timeout=2)
    progress.tqdm.get_lock().release()
