"""Publishing a gallery: the target equals the gallery, whatever was done in between and wherever it broke off."""

import json
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from support.killing import Moments, fork
from support.postgresql import new_schema

pytest.importorskip("sqlalchemy")

from pose2id.cli import main
from pose2id.gallery import Gallery, Published, gallery, publishing
from pose2id.gallery.stores.records import Record
from pose2id.gallery.stores.targets import take_target

WIDTH = 6
ODD = ["it's", 'say "x"', "a\nb", "%s %(key)s {}", "; DROP TABLE people; --", "ключ", "鍵", "🗝", " ", "\\N", "\x1b[31m"]


class BrokenOffError(Exception):
    """What a kill is in these tests."""


class Memory:
    """A store that keeps at once what it is told, and breaks off before or after its n-th step."""

    def __init__(self):
        self.name, self.rows, self.told, self.steps, self.last = "memory", {}, None, [], None

    def _step(self, name):
        self.steps.append(name)
        if len(self.steps) == self.last:
            raise BrokenOffError

    def record(self):
        return Record.read(self.told)

    def make(self, record):
        self._step("before make")
        self.rows, self.told = {}, record.write()
        self._step("after make")

    def note(self, record):
        self._step("before note")
        self.told = record.write()
        self._step("after note")

    def put(self, rows, vectors):
        self._step("before put")
        for number, (row, vector) in enumerate(zip(rows, vectors, strict=True)):
            assert vector.dtype == np.float32
            self.rows[row.id] = (*row[1:], vector.tobytes())
            if not number:
                self._step("within put")
        self._step("after put")

    def delete(self, ids):
        self._step("before delete")
        for at in ids:
            self.rows.pop(at, None)
        self._step("after delete")

    def count(self):
        return len(self.rows)

    def ids(self):
        return sorted(self.rows)

    def close(self):
        pass


def rows(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32)


def content(opened):
    """What a target must hold: by key, the vector's bytes."""
    return dict(zip(opened.keys(), (row.astype(np.float32).tobytes() for row in opened.features()), strict=True))


def held(store):
    return {row[0]: row[-1] for row in store.rows.values()}


@pytest.fixture
def opened(tmp_path):
    with Gallery.open(tmp_path / "people.gallery") as made:
        yield made


@pytest.fixture
def memory(monkeypatch):
    store = Memory()
    monkeypatch.setattr(gallery, "open_store", lambda _: store)
    monkeypatch.setattr(publishing, "MOST", 3)
    return store


def change(opened, seed):
    """Some adds, removes and updates."""
    random = np.random.default_rng(seed)
    there = opened.keys()
    if len(there) > 3:
        gone = random.choice(there, 2, replace=False).tolist()
        opened.remove(gone)
        opened.add(rows(1, seed + 1), gone[:1])  # a key that comes again
        opened.update(opened.keys()[:1], rows(1, seed + 2), cams=["new"])
    opened.add(rows(4, seed + 3), [f"{seed}-{number}" for number in range(4)], cams=[1, 1, 2, 2])


# What is sent, with a store that can break off anywhere.


def test_only_what_changed_is_sent(opened, memory):
    assert opened.publish("x") == Published(0, 0, 0)
    assert memory.told is None
    opened.add(np.zeros((1, WIDTH), np.float32), ["nobody"], times=[5])
    opened.add(rows(7), [f"p{number}" for number in range(7)], cams=list("aabbccd"), groups=[1] * 7)
    assert opened.publish("x") == Published(2, 8, 0)
    assert held(memory) == content(opened)
    first, second = memory.rows[1], memory.rows[2]
    assert first[:5] == ("nobody", None, None, 5.0, True)
    assert second[:5] == ("p0", "a", "1", None, False)
    assert opened.publish("x") == Published(2, 0, 0)
    changed = opened.changes(2)
    version = opened.remove(["p3"])
    changed = opened.changes(2)
    assert opened.publish("x") == Published(version, len(changed.changed), 1)
    assert held(memory) == content(opened)


def test_wherever_it_breaks_off_the_next_one_finishes_it(opened, memory):
    change(opened, 0)
    change(opened, 10)
    opened.publish("x")
    for seed in (20, 30):  # after the second the target has come from a version of which some rows are newer
        change(opened, seed)
        before = (dict(memory.rows), memory.told)
        memory.steps, memory.last = [], None
        opened.publish("x")
        steps = len(memory.steps)
        assert {"within put", "before note", "after delete"} <= set(memory.steps)
        for last in range(1, steps + 1):
            memory.rows, memory.told = dict(before[0]), before[1]
            memory.steps, memory.last = [], last
            with pytest.raises(BrokenOffError):
                opened.publish("x")
            memory.last = None
            opened.publish("x")
            assert held(memory) == content(opened)
            assert opened.publish("x")[1:] == (0, 0)


def test_it_breaks_off_again_and_again_while_the_gallery_changes(opened, memory):
    change(opened, 0)
    for round_ in range(1, 12):
        change(opened, 10 * round_)
        memory.steps, memory.last = [], round_ % 11 + 1
        with suppress(BrokenOffError):
            opened.publish("x")
    memory.last = None
    opened.publish("x")
    assert held(memory) == content(opened)


def test_what_was_sent_before_a_kill_is_not_sent_again(opened, memory):
    opened.add(rows(9), [f"p{number}" for number in range(9)])
    memory.last = 2 + 5 + 3  # made, a part of three rows noted, and the next one put
    with pytest.raises(BrokenOffError):
        opened.publish("x")
    memory.last = None
    assert opened.publish("x").sent == 6
    assert held(memory) == content(opened)


def test_a_target_that_lost_rows_gets_them_again(opened, memory):
    opened.add(rows(9), [f"p{number}" for number in range(9)])
    opened.publish("x")
    lost = memory.rows.pop(2), memory.rows.pop(7)
    memory.rows[99] = lost[0]
    assert opened.publish("x") == Published(1, 2, 1)
    assert held(memory) == content(opened)
    memory.rows, memory.told = {}, None
    assert opened.publish("x").sent == 9


def test_other_galleries_and_other_histories(opened, memory, tmp_path):
    opened.add(rows(3), ["a", "b", "c"])
    opened.publish("x")
    with Gallery.open(tmp_path / "other.gallery") as other:
        with pytest.raises(ValueError, match="another gallery"):
            other.publish("x")  # also while it is empty
        other.add(rows(2), ["d", "e"])
        with pytest.raises(ValueError, match="another gallery"):
            other.publish("x")
        assert other.publish("x", anew=True).sent == 2
        assert set(held(memory)) == {"d", "e"}
        told = Record.read(memory.told)
        memory.told = told._replace(stamp="another").write()
        with pytest.raises(ValueError, match="restored"):
            other.publish("x")
        memory.told = told._replace(goal=9).write()
        with pytest.raises(ValueError, match="restored"):
            other.publish("x")
        assert other.publish("x", anew=True).sent == 2


def test_another_width_makes_the_target_anew(opened, memory):
    opened.add(rows(3), ["a", "b", "c"])
    opened.publish("x")
    opened.reembed(np.eye(3, dtype=np.float32), ["a", "b", "c"])
    assert opened.publish("x").sent == 3
    assert "after make" in memory.steps
    assert held(memory) == content(opened)


def test_float16_is_published_exactly(tmp_path, memory):
    with Gallery.open(tmp_path / "half.gallery", dtype="float16") as half:
        half.add(rows(3), ["a", "b", "c"])
        half.publish("x")
        assert held(memory) == content(half)


# The stores themselves.


@pytest.fixture
def people(server):
    """A table in a schema of its own."""
    return new_schema(server)


@pytest.fixture
def milvus(tmp_path):
    pytest.importorskip("milvus_lite", reason="the package milvus-lite is not installed")
    return f"milvus://{tmp_path}/served.db?collection=people"


@pytest.fixture(
    params=[pytest.param("milvus", marks=pytest.mark.milvus), pytest.param("pgvector", marks=pytest.mark.postgresql)]
)
def target(request):
    if request.param == "milvus":
        return request.getfixturevalue("milvus")
    return f"{request.getfixturevalue('people')}&table=people"


def ask(target, query=None, top=3, **chosen):
    """All rows of a target as tuples, by key; or the keys that it finds."""
    return (_ask_milvus if target.startswith("milvus") else _ask_pgvector)(target, query, top, **chosen)


def _ask_milvus(target, query, top, cam=None, after=None, before=None):
    import pymilvus

    read = take_target(target)
    name, client = read.options["collection"], pymilvus.MilvusClient(read.address)
    try:
        if query is not None:
            words = "zero == false"
            if cam is not None:
                words += f" and cam == {json.dumps(cam, ensure_ascii=False)} and time >= {after} and time < {before}"
            found = client.search(name, data=list(query), limit=top, filter=words, output_fields=["key"])
            return [[hit["entity"]["key"] for hit in each] for each in found]
        names = ["id", "key", "cam", "grp", "time", "zero", "vector"]
        got = client.query(name, filter="id >= 0", output_fields=names)
        return {row["key"]: (*(row[n] for n in names[2:6]), np.float32(row["vector"]).tobytes()) for row in got}
    finally:
        client.close()


def _ask_pgvector(target, query, top, cam=None, after=None, before=None):
    import psycopg
    from psycopg import sql

    read = take_target(target)
    with psycopg.connect("postgresql://" + read.address) as connection:
        table = sql.Identifier(read.options["table"])
        there = "SELECT extnamespace::regnamespace::text FROM pg_extension WHERE extname = 'vector'"
        connection.execute(
            f"SELECT set_config('search_path', current_setting('search_path') || ',' || ({there}), false)"
        )
        if query is not None:
            words = "SELECT key FROM {} WHERE NOT zero "
            words += "" if cam is None else "AND cam = %(cam)s AND time >= %(after)s AND time < %(before)s "
            words += "ORDER BY vector <-> %(query)s::vector, id LIMIT %(top)s"
            told = {"top": top, "cam": cam, "after": after, "before": before}
            asked = [told | {"query": str(row.tolist())} for row in query]
            return [[key for (key,) in connection.execute(sql.SQL(words).format(table), each)] for each in asked]
        words = "SELECT key, cam, grp, time, zero, vector::text FROM {}"
        got = connection.execute(sql.SQL(words).format(table)).fetchall()
        return {key: (*rest, np.float32(vector[1:-1].split(",")).tobytes()) for key, *rest, vector in got}


def test_a_store_holds_the_gallery_to_the_bit(opened, target, monkeypatch):
    monkeypatch.setattr(publishing, "MOST", 7)
    opened.add(rows(40), [f"p{number}" for number in range(40)], cams=["é'"] * 40, times=range(40))
    opened.add(np.zeros((1, WIDTH), np.float32), ["nobody"])
    opened.add(np.float32([[1e-40, -1.0, 0, 0, 0, 1e-38]]), ["tiny"])  # what is lost where text is read carelessly
    opened.add(rows(len(ODD), 1), ODD, cams=ODD, groups=ODD)
    assert opened.publish(target).sent == 42 + len(ODD)
    found = ask(target)
    assert {key: row[-1] for key, row in found.items()} == content(opened)
    assert found["p3"][:4] == ("é'", None, 3.0, False)
    assert found["nobody"][:4] == (None, None, None, True)
    assert all(found[word][:2] == (word, word) for word in ODD)
    assert opened.publish(target)[1:] == (0, 0)
    for seed in (100, 200):
        opened.remove([opened.keys()[2], opened.keys()[-1]])
        change(opened, seed)
        opened.publish(target)
        assert {key: row[-1] for key, row in ask(target).items()} == content(opened)
    query = rows(5, 9)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    assert ask(target, query, 8) == opened.search(query, 8).keys


def test_a_store_that_broke_off_is_finished(opened, target, monkeypatch):
    monkeypatch.setattr(publishing, "MOST", 4)
    opened.add(rows(12), [f"p{number}" for number in range(12)])
    send, parts = publishing._send, []

    def broken(*arguments):
        parts.append(0)
        if len(parts) == 3:
            raise BrokenOffError
        send(*arguments)

    monkeypatch.setattr(publishing, "_send", broken)
    with pytest.raises(BrokenOffError):
        opened.publish(target)
    opened.remove(["p1"])
    assert opened.publish(target).version == 2
    assert {key: row[-1] for key, row in ask(target).items()} == content(opened)
    opened.reembed(np.eye(11, dtype=np.float32), opened.keys())
    opened.publish(target)
    assert {key: row[-1] for key, row in ask(target).items()} == content(opened)


def test_an_approximate_index_holds_the_same(opened, target):
    opened.add(rows(60), [f"p{number}" for number in range(60)])
    opened.publish(f"{target}&index=hnsw")
    assert {key: row[-1] for key, row in ask(target).items()} == content(opened)
    query = rows(4, 9)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    assert [found[0] for found in ask(target, query, 1)] == [found[0] for found in opened.search(query, 1).keys]


def test_an_approximate_index_is_made_when_all_rows_are_there(opened, people, monkeypatch):
    import psycopg

    def indexes():
        with psycopg.connect(people) as connection:
            words = "SELECT count(*) FROM pg_indexes WHERE tablename = 'people' AND indexdef LIKE '%USING hnsw%'"
            return connection.execute(words + " AND schemaname = current_schema()").fetchone()[0]

    monkeypatch.setattr(publishing, "MOST", 4)
    opened.add(rows(9), [f"p{number}" for number in range(9)])
    target, send = f"{people}&table=people&index=hnsw", publishing._send

    def broken(asked, store, head, ids):
        if ids[0] > 4:
            raise BrokenOffError
        send(asked, store, head, ids)

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_send", broken)
        with pytest.raises(BrokenOffError):
            opened.publish(target)
    assert indexes() == 0
    opened.publish(target)
    assert indexes() == 1
    opened.add(rows(1, 1), ["more"])
    assert opened.publish(target).sent > 0
    assert indexes() == 1
    opened.reembed(np.eye(10, 2001, dtype=np.float32), opened.keys())
    with pytest.raises(ValueError, match="at most 2,000 columns; the gallery has 2,001"):
        opened.publish(target)
    assert len(ask(target)) == 10


def test_an_index_that_a_kill_left_out_is_made(opened, milvus, monkeypatch):
    import pymilvus

    def broken(*_, **__):
        raise BrokenOffError

    opened.add(rows(3), ["a", "b", "c"])
    with monkeypatch.context() as patched:
        patched.setattr(pymilvus.MilvusClient, "create_index", broken)
        with pytest.raises(BrokenOffError):
            opened.publish(milvus)
    opened.publish(milvus)
    client = pymilvus.MilvusClient(take_target(milvus).address)
    assert client.list_indexes("people") == ["vector"]
    client.close()
    assert set(ask(milvus)) == {"a", "b", "c"}


def test_what_others_did_to_a_target_is_mended(opened, target):
    opened.add(rows(5), list("abcde"), cams=list("xxyyz"))
    opened.publish(target)
    expected = ask(target)
    for words, lost in (("id in [1, 4]", 2), ("id >= 0", 5), (None, 5)):
        tamper(target, words)
        assert opened.publish(target)[1:] == (lost, 0)
        assert ask(target) == expected


def tamper(target, words):
    """Delete rows, or all of it."""
    read = take_target(target)
    if target.startswith("milvus"):
        import pymilvus

        client, name = pymilvus.MilvusClient(read.address), read.options["collection"]
        client.delete(name, filter=words) if words else client.drop_collection(name)
        client.close()
        return
    import psycopg

    words = words and words.replace("[", "(").replace("]", ")")
    with psycopg.connect("postgresql://" + read.address) as connection:
        name = read.options["table"]
        connection.execute(f"DELETE FROM {name} WHERE {words}" if words else f"DROP TABLE {name}")


def test_filters_there_find_what_filters_here_find(opened, target):
    cams = ["it's", 'say "x"', "鍵", "a\\b"]
    opened.add(rows(40), [f"p{number}" for number in range(40)], cams=cams * 10, times=range(40))
    opened.publish(target)
    query = rows(3, 9)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    for cam in cams:
        expected = opened.search(query, 4, cams=[cam], after=8, before=30).keys
        assert ask(target, query, 4, cam=cam, after=8, before=30) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_publication_that_was_killed_is_finished(tmp_path, people, monkeypatch):
    import psycopg

    from pose2id.gallery.stores import pgvector

    monkeypatch.setattr(publishing, "MOST", 5)
    path, target = tmp_path / "killed.gallery", f"{people}&table=people"
    with Gallery.open(path) as opened:
        change(opened, 0)
        opened.publish(target)

    def act():
        moments = Moments(last)
        for name in ("put", "delete"):
            monkeypatch.setattr(pgvector.Store, name, moments.watched(getattr(pgvector.Store, name), name))
        monkeypatch.setattr(psycopg.Connection, "commit", moments.watched(psycopg.Connection.commit, "commit"))
        with Gallery.open(path) as opened:
            opened.publish(target)

    for last in (2, 6, 7):  # deleted, put, and of that the transaction ended
        with Gallery.open(path) as opened:
            change(opened, 10 * last)
        assert fork(act) == -signal.SIGKILL
    with Gallery.open(path) as opened:
        opened.publish(target)
        assert {key: row[-1] for key, row in ask(target).items()} == content(opened)


@pytest.mark.parametrize("name", ["put", "note", "count"])
def test_a_lost_connection_is_one_line_and_the_next_call_goes_on(tmp_path, people, monkeypatch, name):
    import psycopg

    from pose2id.gallery.stores import pgvector

    with Gallery.open(people, cache=tmp_path) as opened:
        change(opened, 0)
        target = f"{people}&password=s3cret&table=people"
        opened.publish(target)
        change(opened, 10)
        step = getattr(pgvector.Store, name)

        def lose(*arguments):
            with psycopg.connect(people, autocommit=True) as other:
                other.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
            return step(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(pgvector.Store, name, lose)
            with pytest.raises(ConnectionError) as caught:
                opened.publish(target)
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)
        opened.publish(target)
        assert {key: row[-1] for key, row in ask(target).items()} == content(opened)


def test_without_the_extension_a_table_is_written_anew(opened, people):
    import psycopg

    opened.add(rows(3), ["a", "b", "c"])
    target = f"{people}&table=people"
    opened.publish(target)
    with psycopg.connect(people) as connection:
        connection.execute("DROP EXTENSION vector CASCADE")
    opened.update(["a"], rows(1, 1))
    with pytest.raises(OSError, match=r"\(pgvector\) is gone; write everything"):
        opened.publish(target)
    assert opened.publish(target, anew=True).sent == 3
    assert {key: row[-1] for key, row in ask(target).items()} == content(opened)


@pytest.mark.parametrize("name", ['a"b', "it's; DROP TABLE x", "людиъ", "two\nlines", "%s {} %%"])
def test_tables_of_any_name(opened, people, name):
    opened.add(rows(3), ["a", "b", "c"])
    target = f"{people}&table={quote(name)}"
    assert opened.publish(target).sent == 3
    assert set(ask(target)) == {"a", "b", "c"}


def test_a_database_without_an_encoding_holds_any_text(opened, server):
    import psycopg

    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE plain ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0")
    opened.add(rows(len(ODD)), ODD, cams=ODD)
    target = server.replace("/postgres?", "/plain?") + "&client_encoding=utf8&table=people"
    for anew in (False, True):
        opened.publish(target.replace("&client_encoding=utf8", ""), anew=anew)
        assert {key: row[-1] for key, row in ask(target).items()} == content(opened)


def test_a_table_of_something_else_is_left_alone(opened, people):
    import psycopg

    opened.add(rows(3), ["a", "b", "c"])
    with psycopg.connect(people) as connection:
        connection.execute("CREATE TABLE mine (id int)")
        connection.execute("COMMENT ON TABLE mine IS 'pose2id gallery: of my own'")
    for anew in (False, True):
        with pytest.raises(ValueError, match="not made by publishing"):
            opened.publish(f"{people}&table=mine", anew=anew)


def test_the_client_speaks_again_when_the_last_thread_is_done():
    pytest.importorskip("pymilvus")
    from pose2id.gallery.stores import milvus

    log = logging.getLogger("pymilvus")
    before = log.level
    first, second = milvus._quiet(), milvus._quiet()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not log.isEnabledFor(logging.CRITICAL)
    second.__exit__(None, None, None)
    assert log.level == before
    assert log.isEnabledFor(logging.CRITICAL)


def test_a_collection_of_something_else_is_left_alone(opened, milvus):
    import pymilvus

    opened.add(rows(3), ["a", "b", "c"])
    client = pymilvus.MilvusClient(take_target(milvus).address)
    client.create_collection("people", dimension=4)
    client.close()
    with pytest.raises(ValueError, match="not made by publishing"):
        opened.publish(milvus, anew=True)


# What is said, and what is not.


@pytest.mark.parametrize(
    "text",
    [
        "mysql://u:s3cret@h/d",
        "milvus://u:s3cret@h:x/d",
        "postgresql://u:s3/cret@h/d",
        "postgresql://u:s3@cret@h/d",
        "postgresql://u:s3?cret@h/d",
        "postgresql://u:s3#cret@h/d",
        "postgresql://u:s3\ncret@h/d",
        "postgresql:/u:s3cret@h/d",
        "milvus://u:s3cret@h:19530/a/b",
        "milvus://u:s3cret@h:19530?colection=x",
        "milvus://s3cret@h:19530?collection=1x",
        "milvus://people.db?index=flat",
        "postgresql://u:s3cret@h/d?index=flat",
        "postgresql://u:s3cret@h/d?table=",
        f"postgresql://u:s3cret@h/d?table={'x' * 64}",
        "people.db",
    ],
)
def test_targets_that_are_none(opened, text):
    opened.add(rows(2), ["a", "b"])
    with pytest.raises(ValueError, match=r"target|milvus|table|index|collection") as caught:
        opened.publish(text)
    assert "cret" not in str(caught.value)
    assert "s3" not in str(caught.value)


def test_passwords_are_not_said(opened, caplog, capfd):
    pytest.importorskip("psycopg")
    opened.add(rows(2), ["a", "b"])
    targets = ["postgresql://me:s3%63ret@127.0.0.1:1/d?table=x", "postgresql://127.0.0.1:1/d?password=s3cret"]
    caplog.set_level(logging.DEBUG)
    for text in targets:
        with pytest.raises(ConnectionError, match=r"postgresql://(me@)?127\.0\.0\.1:1/d") as caught:
            opened.publish(text)
        shown = [str(caught.value), repr(caught.value), repr(take_target(text)), caplog.text, *capfd.readouterr()]
        assert not any("s3cret" in words or "s3%63ret" in words for words in shown)
    with pytest.raises(ValueError, match='"passwrod"') as caught:
        opened.publish("postgresql://me@127.0.0.1:1/d?passwrod=s3cret")
    assert "s3cret" not in str(caught.value)
    assert take_target("postgresql://h/d?table=a+b%20c").options == {"table": "a+b c"}
    for name in ("password", "sslpassword", "scram_client_key", "oauth_client_secret"):
        told = take_target(f"postgresql://127.0.0.1:1/d?{name}=s3%20cret").explain(OSError("bad s3 cret, s3%20cret"))
        assert told == "postgresql://127.0.0.1:1/d: bad ***, ***"
    key = take_target("milvus://s3cret@h:19530/d?collection=x")
    assert "s3cret" not in repr(key)
    assert key.explain(OSError("token s3cret")) == "milvus://h:19530/d (x): token ***"


# The command line.


def run(capsys, *arguments, code=0):
    """The JSON that a command prints, or its one line of stderr."""
    assert main(["gallery", *map(str, arguments)]) == code
    out, err = capsys.readouterr()
    if code == 2:
        assert out == ""
        assert err.count("\n") == 1
        return err
    assert err == ""
    return json.loads(out)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second = rows(6), rows(3, 1)
    np.savez("one.npz", features=first, cams=list("aabbcc"), paths=[f"{n}.jpg" for n in range(6)])
    np.savez("two.npz", features=second, cams=[1, 1, 1], generated=rows(3, 2), groups=list("xyz"))
    return first


def test_the_commands_say_what_the_gallery_does(here, capsys):
    settings = ("--k1", 1, "--k2", 1, "--alpha", 2, "--exclude-cams")
    words = ("--time", "2026-11-01", *settings)
    assert run(capsys, "add", "g.db", "one.npz", *words) == {"version": 1, "rows": 6, "added": 6}
    Path("keys.txt").write_bytes("0007\r\n it's \n鍵\n".encode())
    assert run(capsys, "add", "g.db", "two.npz", "--keys", "keys.txt", "--time", 5)["version"] == 2
    info = run(capsys, "info", "g.db")
    assert (info["rows"], info["settings"]["exclude"], info["settings"]["alpha"]) == (9, "cams", 2.0)
    with Gallery.open("g.db") as opened:
        assert opened.keys()[6:] == ["0007", " it's ", "鍵"]
        expected = opened.search(here, 3, not_cams=["a"], after=10, centralize=True)
    words = ("--top", 3, "--not-cams", "a", "--after", "1970-01-01T00:00:10+00:00", "--centralize-queries")
    found = run(capsys, "search", "g.db", "one.npz", *words)
    assert found["version"] == 2
    assert [each["query"] for each in found["found"]] == [f"{n}.jpg" for n in range(6)]
    assert [each["keys"] for each in found["found"]] == expected.keys
    assert [np.float32(each["distances"]).tolist() for each in found["found"]] == expected.distances.tolist()
    found = run(capsys, "search", "g.db", "two.npz", "--only-cams", "nobody")["found"]
    assert found[2] == {"query": 2, "keys": [], "distances": []}
    assert run(capsys, "remove", "g.db", "3.jpg", "鍵") == {"version": 3, "rows": 7, "removed": 2}
    assert run(capsys, "expire", "g.db", "1970-01-02")["removed"] == ["0007", " it's "]
    better = rows(2, 5)
    np.savez("better.npz", features=better, cams=list("zz"), paths=["4.jpg", "0.jpg"])
    assert run(capsys, "update", "g.db", "better.npz", "--time", 7) == {"version": 5, "rows": 5, "updated": 2}
    with Gallery.open("g.db") as opened:
        assert opened.keys() == [f"{n}.jpg" for n in (0, 1, 2, 4, 5)]
        assert opened.features(["4.jpg", "0.jpg"], centralized=False).tobytes() == better.tobytes()
        assert sorted(opened.search(better, cams=["z"]).keys[0]) == ["0.jpg", "4.jpg"]
        assert opened.expire(before=8) == ["0.jpg", "4.jpg"]
    changed = run(capsys, "recompute", "g.db", "--k1", 3, "--alpha", 0)
    assert (changed["version"], changed["rows"]) == (7, 3)
    assert changed["settings"].items() >= {"k1": 3, "k2": 1, "alpha": 0.0, "exclude": "cams"}.items()
    assert run(capsys, "verify", "g.db") == {"version": 7, "rows": 3, "wrong": []}


@pytest.mark.usefixtures("here")
def test_verify_says_by_its_code_what_is_wrong(capsys):
    import sqlite3

    run(capsys, "add", "g.db", "one.npz")
    with sqlite3.connect("g.db") as connection:
        connection.execute("UPDATE pose2id_centralized SET vector = zeroblob(24) WHERE id = 2")
    connection.close()
    assert "1.jpg" in run(capsys, "verify", "g.db", code=1)["wrong"][0]


@pytest.mark.usefixtures("here", "memory")
def test_publish_says_what_was_sent(capsys):
    run(capsys, "add", "g.db", "one.npz")
    assert run(capsys, "publish", "g.db", "x") == {"version": 1, "sent": 6, "removed": 0}
    assert run(capsys, "publish", "g.db", "x") == {"version": 1, "sent": 0, "removed": 0}
    assert run(capsys, "publish", "g.db", "x", "--anew") == {"version": 1, "sent": 6, "removed": 0}


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("add", "g.db", "two.npz"), "two.npz holds no 'paths', by which rows are called"),
        (("add", "g.db", "one.npz", "two.npz", "--keys", "k"), "--keys goes with one feature file"),
        (("add", "g.db", "one.npz", "--k1", "-1"), "--k1"),
        (("add", "g.db", "one.npz", "--time", "yesterday"), "--time must be a date"),
        (("add", "g.db", "one.npz", "one.npz"), "one.npz: keys must be new"),
        (("add", "g.db", "one.npz", "--exclude-groups"), "--exclude-groups needs an array 'groups' in one.npz"),
        (("add", "none/g.db", "one.npz"), "folder does not exist"),
        (("info", "g.db"), "there is no gallery g.db"),
        (("update", "g.db", "one.npz"), "there is no gallery g.db"),
        (("recompute", "g.db", "--k1", "3"), "there is no gallery g.db"),
        (("remove", "g.db"), "name the keys"),
        (("search", "one.npz", "one.npz"), "one.npz"),
    ],
)
def test_bad_input_is_one_line(capsys, arguments, words):
    assert words in run(capsys, *arguments, code=2)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    "arguments",
    [
        ("postgresql://me:s3cret@h/d", "info"),  # in the wrong order: the parser quotes it
        ("info", "postgresql:/me:s3/cret@h/d"),  # a path with a password
        ("info", "g.db", "postgresql://me:s3cret@h/d?password=s3cret"),
        ("publish", "g.db", "postgresql://me:s3cret@127.0.0.1:1/d"),
    ],
)
def test_no_password_is_said(capsys, arguments):
    pytest.importorskip("psycopg")
    run(capsys, "add", "g.db", "one.npz")
    try:
        code = main(["gallery", *arguments])
    except SystemExit as ended:
        code = ended.code
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert "cret" not in err
    assert "s3" not in err
