"""Files and folders whole or not at all: killed at every step, interrupted, two at once; and locks.

This file is also a program: those that are killed, see `drive` and `drive_writers`, and one of several at once, see
`write_often`.
"""

import contextlib
import functools
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import filelock
import pytest
from support.killing import Moments, fork

from pose2id import atomic
from pose2id.atomic import clear_leftovers, lock, remove_folder, sync, write_file, write_folder

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork, SIGKILL and modes of POSIX")
OLD, NEW = b"old " * 1000, b"new " * 1001


def put_file(target, content=NEW, **options):
    with write_file(target, **options) as temporary:
        temporary.write_bytes(content)
        temporary.chmod(0o600)  # some packages do


def put_folder(target, content=NEW, **options):
    with write_folder(target, **options) as temporary:
        (temporary / "a").mkdir()
        (temporary / "a" / "b").write_bytes(content)
        (temporary / "c").write_bytes(content)
        (temporary / "c").chmod(0o600)


PUT = {"file": put_file, "folder": put_folder}


@posix
@pytest.mark.parametrize("kind", PUT)
@pytest.mark.parametrize("overwrite", [True, False])
def test_devices_and_pipes_are_never_replaced(tmp_path, kind, overwrite):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match=f"{name} is a device, a pipe or a socket, which is never replaced"):
            PUT[kind](tmp_path / name, overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "pipe"]


def held(target):
    """What is there: None, or the one content of the file, or of all files of the folder."""
    if target.is_file():
        return target.read_bytes()
    if not target.exists():
        return None
    contents = {path.read_bytes() for path in (target / "a" / "b", target / "c")}
    assert len(list(target.rglob("*"))) == 3
    assert len(contents) == 1
    return contents.pop()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=PUT)
def kind(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def _no_waiting_for_the_disk():
    """Here it is waited for."""


# Written.


@pytest.mark.parametrize("overwrite", [False, True])
def test_written_and_nothing_else(tmp_path, kind, overwrite):
    PUT[kind](tmp_path / "x.npz", overwrite=overwrite)
    assert held(tmp_path / "x.npz") == NEW
    assert names(tmp_path) == ["x.npz"]


def test_overwritten(tmp_path, kind):
    PUT[kind](tmp_path / "x.npz", OLD)
    PUT[kind](tmp_path / "x.npz", NEW, overwrite=True)
    assert held(tmp_path / "x.npz") == NEW
    assert names(tmp_path) == ["x.npz"]


def test_not_overwritten(tmp_path, kind):
    PUT[kind](tmp_path / "x.npz", OLD)
    with pytest.raises(ValueError, match=r"x\.npz exists already; name another or pass overwrite=True$"):
        PUT[kind](tmp_path / "x.npz", NEW, overwrite=False)
    assert held(tmp_path / "x.npz") == OLD
    assert names(tmp_path) == ["x.npz"]


@pytest.mark.parametrize("at_the_last_moment", [False, True])
def test_what_appears_meanwhile_is_kept(tmp_path, kind, monkeypatch, at_the_last_moment):
    target = tmp_path / "x.npz"

    def appear(path=None, *_):
        if path is None or path.name.startswith("new"):
            (target / "a").mkdir(parents=True) if kind == "folder" else None
            for each in (target / "a" / "b", target / "c") if kind == "folder" else (target,):
                each.write_bytes(OLD)

    if at_the_last_moment:  # after the last look
        checks = iter([lambda *_: None, lambda *_: appear(), lambda *_: None])
        monkeypatch.setattr(atomic, "_check_free", lambda *arguments: next(checks)(*arguments))
        error, words = OSError, "cannot be written: "
    else:
        monkeypatch.setattr(atomic, "sync", appear)
        error, words = ValueError, "exists already"
    with pytest.raises(error, match=rf"x\.npz {words}"):
        PUT[kind](target, overwrite=False)
    assert held(target) == OLD
    assert names(tmp_path) == ["x.npz"]


def test_without_hard_links(tmp_path, monkeypatch):
    def link(*_, **__):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", link)
    put_file(tmp_path / "x", overwrite=False)
    assert held(tmp_path / "x") == NEW


def test_the_temporary_path(tmp_path):
    with write_file(tmp_path / "x.tar.gz") as temporary:
        assert temporary.suffix == ".gz"
        assert not temporary.exists()
        assert temporary.parent.parent == tmp_path
        assert temporary.parent.name.startswith(".pose2id-")
        temporary.touch()
    with write_folder(tmp_path / "y") as temporary:
        assert list(temporary.iterdir()) == []


def test_names_as_long_as_names_can_be(tmp_path, kind):
    name = "x" * 251 + ".npz"
    PUT[kind](tmp_path / name)
    assert names(tmp_path) == [name]


@posix
def test_links_stay(tmp_path, kind):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    link.symlink_to(target)
    for content in (OLD, NEW):  # at first the link leads nowhere
        PUT[kind](link, content, overwrite=True)
        assert link.is_symlink()
        assert held(target) == content
    assert names(tmp_path / "there") == ["target"]


@posix
def test_modes(tmp_path, kind):
    before = os.umask(0o027)
    try:
        PUT[kind](tmp_path / "x")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == (0o640 if kind == "file" else 0o750)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()} == {0o640}
    if kind == "file":
        (tmp_path / "x").chmod(0o604)
        put_file(tmp_path / "x")
        assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o604


@posix
def test_nobody_else_reads_what_is_being_written(tmp_path):
    with write_file(tmp_path / "x") as temporary:
        temporary.write_bytes(NEW)
        assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700


@posix
def test_on_the_disk_before_it_is_renamed(tmp_path, kind, monkeypatch):
    done = []
    for name in ("fsync", "rename", "replace", "link"):
        real = getattr(os, name)

        def watched(*arguments, name=name, real=real, **options):
            done.append("folder" if name == "fsync" and stat.S_ISDIR(os.fstat(arguments[0]).st_mode) else name)
            return real(*arguments, **options)

        monkeypatch.setattr(os, name, watched)
    PUT[kind](tmp_path / "x", OLD, overwrite=False)
    assert done == (["fsync", "link", "folder"] if kind == "file" else [*done[:-2], "rename", "folder"])
    assert kind == "file" or sorted(done[:-2]) == ["folder", "folder", "fsync", "fsync"]
    done.clear()
    PUT[kind](tmp_path / "x", NEW, overwrite=True)
    assert done[-3:] == (["fsync", "replace", "folder"] if kind == "file" else ["rename", "rename", "folder"])


# Failing.


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), ZeroDivisionError("0")])
def test_a_failure_leaves_everything_as_it_was(tmp_path, kind, exists, error):
    target = tmp_path / "x.npz"
    if exists:
        PUT[kind](target, OLD)
    told = r"^.*x\.npz cannot be written: .*No space left" if isinstance(error, OSError) else None
    writer = {"file": write_file, "folder": write_folder}[kind](target, overwrite=True)
    with pytest.raises(type(error), match=told), writer as temporary:  # noqa: PT012
        (temporary if kind == "file" else temporary / "c").write_bytes(b"half")
        raise error
    assert held(target) == (OLD if exists else None)
    assert names(tmp_path) == ["x.npz"] * exists


@pytest.mark.parametrize("name", ["fsync", "rename", "replace"])
def test_a_failing_step_leaves_everything_as_it_was(tmp_path, kind, name, monkeypatch):
    target = tmp_path / "x.npz"
    PUT[kind](target, OLD)
    real = getattr(os, name)

    def fail(*arguments):
        if name == "fsync" or Path(arguments[0]).name.startswith("new"):
            raise OSError(5, "Input/output error")
        return real(*arguments)

    monkeypatch.setattr(os, name, fail)
    used = name != ("rename" if kind == "file" else "replace")
    if used:
        with pytest.raises(OSError, match=r"x\.npz cannot be written: .*Input/output error"):
            PUT[kind](target, NEW, overwrite=True)
    assert held(target) == OLD
    assert names(tmp_path) == ["x.npz"]


def test_a_folder_that_cannot_be_synced_is_no_failure(tmp_path, monkeypatch):
    real = os.fsync

    def fsync(handle):
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(22, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    put_folder(tmp_path / "x")
    assert held(tmp_path / "x") == NEW


def test_nothing_written_is_an_error(tmp_path):
    with pytest.raises(OSError, match="x cannot be written: "), write_file(tmp_path / "x"):
        pass
    assert names(tmp_path) == []


def test_a_folder_where_a_file_shall_be_and_the_other_way_round(tmp_path):
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="file cannot be written: "):
        put_folder(tmp_path / "file", overwrite=True)
    with pytest.raises(OSError, match="folder cannot be written: "):
        put_file(tmp_path / "folder", overwrite=True)
    with pytest.raises(OSError, match="file cannot be written: "):
        put_file(tmp_path / "no" / "file")
    assert held(tmp_path / "file") == OLD
    assert names(tmp_path) == ["file", "folder"]


# Leftovers, and two at once.


def place_of(target):
    with write_file(target.with_name(target.name), overwrite=True) as temporary:
        temporary.touch()
    target.unlink()
    return temporary.parent


def leftover(target, former=False):
    place = place_of(target)
    place.mkdir()
    (place / "lock").touch()
    (place / "new").mkdir()
    (place / "new" / "half").write_bytes(b"hal")
    if former:
        (place / "former" / target.name).mkdir(parents=True)
        (place / "former" / target.name / "mine").write_bytes(OLD)
    return place


def test_the_next_writer_of_a_target_clears_what_is_left(tmp_path, kind):
    leftover(tmp_path / "x")
    other = leftover(tmp_path / "y")
    PUT[kind](tmp_path / "x")
    assert held(tmp_path / "x") == NEW
    assert names(tmp_path) == sorted([other.name, "x"])


def test_what_was_moved_away_comes_back(tmp_path):
    leftover(tmp_path / "x", former=True)
    with pytest.raises(ValueError, match="x exists already"):
        put_folder(tmp_path / "x")
    assert (tmp_path / "x" / "mine").read_bytes() == OLD
    assert names(tmp_path) == ["x"]


def test_what_was_moved_away_and_replaced_goes(tmp_path):
    place = leftover(tmp_path / "x", former=True)
    (tmp_path / "x").mkdir()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == ["x"]
    assert not place.exists()
    assert names(tmp_path / "x") == []


def test_leftovers_of_a_folder(tmp_path):
    for name in ("x", "y"):
        leftover(tmp_path / name)
    leftover(tmp_path / "z", former=True)
    (tmp_path / ".pose2id-mine").touch()
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [".pose2id-mine", "z"]
    clear_leftovers(tmp_path / "nothing")


def test_a_workplace_in_use_is_left_alone(tmp_path, kind):
    writer = {"file": write_file, "folder": write_folder}[kind](tmp_path / "x")
    with writer as temporary:
        done = run_apart(f"clear_leftovers({str(tmp_path)!r})")
        assert done == 0
        assert temporary.parent.is_dir()
        (temporary if kind == "file" else temporary / "a").write_bytes(b"")


@posix
@pytest.mark.parametrize("what", ["file", "link", "link to nothing"])
def test_where_the_workplace_shall_be_is_something_else(tmp_path, kind, what):
    """Neither waited for without end nor, behind a link, emptied."""
    place, other = place_of(tmp_path / "x"), tmp_path / "other"
    other.mkdir()
    (other / "mine").write_bytes(OLD)
    place.write_bytes(OLD) if what == "file" else place.symlink_to(other if what == "link" else tmp_path / "nothing")
    with pytest.raises(OSError, match=r"x cannot be written: .* is there: .*; if so, remove that folder"):
        PUT[kind](tmp_path / "x")
    clear_leftovers(tmp_path)
    assert names(tmp_path) == [place.name, "other"]
    assert names(other) == ["mine"]


@posix
def test_a_link_that_leads_to_itself(tmp_path, kind):
    (tmp_path / "x").symlink_to("x")
    with pytest.raises(OSError, match="x cannot be written: "):
        PUT[kind](tmp_path / "x", overwrite=False)
    with pytest.raises(OSError, match="x"):
        remove_folder(tmp_path / "x" / "y")
    assert (tmp_path / "x").is_symlink()
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("times", [1, 3])
def test_the_workplace_goes_while_it_is_entered(tmp_path, kind, times, monkeypatch):
    """Another writer may end between two looks of filelock's, which then says that the folder exists."""
    real, left = filelock.FileLock.acquire, [FileExistsError(17, "File exists")] * times

    def acquire(self, **options):
        if left:
            shutil.rmtree(Path(self.lock_file).parent)
            raise left.pop()
        return real(self, **options)

    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    PUT[kind](tmp_path / "x")
    assert names(tmp_path) == ["x"]
    assert left == []


def run_apart(code):
    program = "from pose2id.atomic import *\nfrom pose2id.atomic import clear_leftovers, lock, write_file\n" + code
    return subprocess.run([sys.executable, "-c", program], check=False).returncode


def test_two_writers_wait_for_each_other(tmp_path, kind):
    target, inside, most = tmp_path / "x", [], []

    def write(number):
        for _ in range(5):
            writer = {"file": write_file, "folder": write_folder}[kind](target, overwrite=True)
            with writer as temporary:
                inside.append(number)
                most.append(len(inside))
                (temporary if kind == "file" else temporary / "c").write_bytes(NEW)
                inside.remove(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 20
    assert (target if kind == "file" else target / "c").read_bytes() == NEW
    assert names(tmp_path) == ["x"]


def write_often(target, kind, start):
    for number in range(30):
        PUT[kind](target, f"{start}{number:03}".encode() * 1000, overwrite=True)
        clear_leftovers(target.parent)


def test_several_processes_at_once(tmp_path, kind):
    """Readers see whole contents only; between the two renames of a folder they may see none."""
    command = [sys.executable, __file__, "write_often", str(tmp_path / "x"), kind]
    processes = [subprocess.Popen([*command, str(number)]) for number in range(3)]
    while any(process.poll() is None for process in processes):
        if kind == "file" and (tmp_path / "x").exists():
            content = held(tmp_path / "x")
            assert content == content[: len(content) // 1000] * 1000
        time.sleep(0.002)
    assert [process.wait() for process in processes] == [0, 0, 0]
    content = held(tmp_path / "x")
    assert content == content[: len(content) // 1000] * 1000
    assert names(tmp_path) == ["x"]


def test_a_folder_is_removed(tmp_path):
    put_folder(tmp_path / "x")
    remove_folder(tmp_path / "x")
    assert names(tmp_path) == []
    with pytest.raises(FileNotFoundError):
        remove_folder(tmp_path / "x")
    assert names(tmp_path) == []


# Killed.


class Steps(Moments):
    """Before and after each step that changes what is on the disk."""

    NAMES = ("mkdir", "open", "fsync", "link", "rename", "replace", "chmod", "unlink", "rmdir")

    def __init__(self, last=None):
        super().__init__(last)
        for name in self.NAMES:
            setattr(os, name, self.watched(getattr(os, name), name))

    def write_in_halves(self, path):
        with path.open("wb", buffering=0) as stream:
            for half in (NEW[:1000], NEW[1000:]):
                self.pass_by("before write")
                stream.write(half)


class Asked(BaseException):
    """What a handler of signals raises."""


class Asks(Steps):
    """Asks its own process to end at the n-th step; a handler raises there."""

    def pass_by(self, name):
        with self.one_by_one:
            self.seen.append(name)
            asks = len(self.seen) == self.last
        if asks:
            os.kill(os.getpid(), signal.SIGTERM)


def in_halves(kind, target, steps, **options):
    if kind == "file":
        with write_file(target, **options) as temporary:
            steps.write_in_halves(temporary)
    else:
        with write_folder(target, **options) as temporary:
            (temporary / "a").mkdir()
            for path in (temporary / "a" / "b", temporary / "c"):
                steps.write_in_halves(path)


def drive(folder, kind):
    """Kill writers at every step; writes the steps that there were."""
    put_file(folder / "warm")  # what is imported here is not imported again by every child
    (folder / "warm").unlink()
    cases = {
        "new": (None, {"overwrite": False}),
        "free": (None, {"overwrite": True}),
        "old": (OLD, {"overwrite": True}),
    }
    told = {name: drive_case(folder, name, kind, before, options) for name, (before, options) in cases.items()}
    sys.stdout.write(json.dumps(told))


def drive_signals(folder, kind):
    """Ask writers to end at every step: the target is as before or new, and nothing stays beside it."""

    def stop(*_):
        raise Asked

    def act(target, last):
        steps = Asks(last)
        with contextlib.suppress(Asked):
            in_halves(kind, target, steps, overwrite=True)
        (folder / "steps").write_text(str(len(steps.seen)))

    put_file(folder / "warm")
    (folder / "warm").unlink()
    signal.signal(signal.SIGTERM, stop)
    told = {}
    for name, before in {"new": None, "old": OLD}.items():
        last, total, ends = 0, 0, []
        while last <= total:
            target = folder / f"{name} {last}" / "x"
            target.parent.mkdir()
            if before is not None:
                PUT[kind](target, before)
            assert fork(functools.partial(act, target, last)) == 0
            total = total or int((folder / "steps").read_text())  # at first nobody is asked
            ends.append(held(target))
            assert ends[-1] in (before, NEW), f"neither old nor new, asked at step {last}"
            assert names(target.parent) == ["x"] * (ends[-1] is not None), f"leftovers, asked at step {last}"
            last += 1
        told[name] = [ends.count(before), ends.count(NEW)]
    sys.stdout.write(json.dumps(told))


def drive_case(folder, name, kind, before, options):
    """The target must be as before or new, the next writer succeed, and nothing stay beside it."""

    def act(target, last=None):
        target.parent.mkdir()
        if before is not None:
            PUT[kind](target, before)

        def action():
            steps = Steps(last)
            in_halves(kind, target, steps, **options)
            (folder / "seen.json").write_text(json.dumps(steps.seen))

        return fork(action)

    assert act(folder / name / "x") == 0
    seen, ends = json.loads((folder / "seen.json").read_text()), set()
    for last, step in enumerate(seen, 1):
        target = folder / f"{name} {last}" / "x"
        assert act(target, last) == -signal.SIGKILL
        found, copy = held(target), target.parent.with_name(f"{name} {last} copy")
        ends.add(found)
        between = kind == "folder" and before == OLD and found is None  # between the two renames
        assert between or found in (before, NEW), f"neither old nor new, killed at step {last}, {step}"
        shutil.copytree(target.parent, copy)
        clear_leftovers(copy)
        assert held(copy / "x") == (OLD if between else found)
        assert names(copy) == ["x"] * (held(copy / "x") is not None)
        PUT[kind](target, NEW, overwrite=between or found is not None)
        assert held(target) == NEW
        assert names(target.parent) == ["x"], f"leftovers, killed at step {last}, {step}"
    assert ends >= {before, NEW}
    return seen


@pytest.mark.slow
@posix
def test_killed_at_every_step(tmp_path, kind):
    # In a program of its own: a process with more than one thread cannot be forked safely.
    command = [sys.executable, __file__, "drive", str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    renames = {"file": ["link", "replace", "replace"], "folder": ["rename", "rename", "rename"]}[kind]
    for seen, rename in zip(told.values(), renames, strict=True):
        assert {f"{when} {name}" for when in ("before", "after") for name in ("mkdir", "fsync", rename)} <= set(seen)
        assert seen.count("before write") == (2 if kind == "file" else 4)
    assert told["old"].count("before rename") == (0 if kind == "file" else 2)


@pytest.mark.slow
@posix
def test_asked_to_end_at_every_step(tmp_path, kind):
    command = [sys.executable, __file__, "drive_signals", str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for before, new in json.loads(done.stdout).values():
        assert before > 10
        assert new > 10


def test_a_target_within_itself(tmp_path, kind):
    """Neither for ever, nor with the words of the package that locks."""
    PUT[kind](tmp_path / "x", OLD)
    writer = {"file": write_file, "folder": write_folder}[kind](tmp_path / "x", overwrite=True)
    with (
        pytest.raises(ValueError, match=r"x is being written already, by this very thread; that has to end"),
        writer,
    ):
        PUT[kind](tmp_path / "x", overwrite=True)
    assert held(tmp_path / "x") == OLD
    assert names(tmp_path) == ["x"]
    with pytest.raises(ValueError, match="already, by this very thread"), write_folder(tmp_path / "y"):
        remove_folder(tmp_path / "y")
    PUT[kind](tmp_path / "x", overwrite=True)


# What whole rooms write with it; longer runs have kill tests of their own.


def write_features(path):
    import numpy as np

    from pose2id.files import write_arrays

    write_arrays(path, {"features": np.eye(2)}, overwrite=True)


def write_pose_file(path):
    from pose2id.poses import representative_poses, write_poses

    write_poses(path, representative_poses(), overwrite=True)


def write_plot(path):
    from pose2id.plots import write_picture

    write_picture(path, lambda part: part.write_bytes(b"picture"))


def die_at_the_rename(write, path):
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    write(path)


def drive_writers(folder):
    """Kill each with all but the last step done, and let it write again."""
    for write in (write_features, write_pose_file, write_plot):
        target = folder / write.__name__ / "x.npz"
        target.parent.mkdir()
        target.write_bytes(OLD)
        assert fork(functools.partial(die_at_the_rename, write, target)) == -signal.SIGKILL, write
        assert target.read_bytes() == OLD
        assert len(names(target.parent)) == 2
        write(target)
        assert target.read_bytes() not in (OLD, b"")
        assert names(target.parent) == ["x.npz"]
    sys.stdout.write("done")


@posix
def test_writers_are_killed_with_all_but_the_last_step_done(tmp_path):
    command = [sys.executable, __file__, "drive_writers", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done", "")


# Locks.


def test_a_lock_is_held_once(tmp_path):
    path = tmp_path / "lock"
    with lock(path):
        assert path.read_text() == f"{os.getpid()}\n"
        words = rf"another run \(process {os.getpid()}\) works in {tmp_path}; wait for it or end it"
        with pytest.raises(ValueError, match=words), lock(path):
            pass
        assert run_apart(f"with lock({str(path)!r}): pass") == 1
    assert path.read_bytes() == b""
    with lock(path), lock(tmp_path / "another"):
        pass


@posix
def test_a_lock_whose_file_goes(tmp_path):
    """Whoever opened the file before it was removed holds a lock without a name, beside which others have another."""
    path = tmp_path / "lock"
    with lock(path, keep=False):
        with (
            pytest.raises(ValueError, match=rf"another run \(process {os.getpid()}\) works in"),
            lock(path, keep=False),
        ):
            pass
        assert path.read_text() == f"{os.getpid()}\n"
    assert names(tmp_path) == []


def test_a_lock_that_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    path, acquire, taken = tmp_path / "lock", atomic._acquire, []

    def late(at, *, wait):
        held = acquire(at, wait=wait)
        taken.append(held)
        if len(taken) < 3:  # its former holder ends
            at.unlink()
            if len(taken) == 2:
                (tmp_path / "other").touch()
                (tmp_path / "other").rename(at)  # and another has come
        return held

    monkeypatch.setattr(atomic, "_acquire", late)
    with lock(path, keep=False):
        assert [held.is_locked for held in taken] == [False, False, True]
    assert names(tmp_path) == []


@posix
def test_a_lock_is_no_link(tmp_path):
    """What it leads to was emptied."""
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lock").symlink_to("mine")
    with (
        pytest.raises(ValueError, match=r"the lock .*lock is a link, and is written to; remove the link"),
        lock(tmp_path / "lock"),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "mine"


def test_only_folders_are_removed(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="file is not a folder; nothing is removed"):
        remove_folder(tmp_path / "file")
    assert names(tmp_path) == ["file"]
    with pytest.raises(FileNotFoundError):
        remove_folder(tmp_path / "none")


def test_a_lock_is_waited_for(tmp_path):
    held, done = threading.Event(), []

    def hold():
        with lock(tmp_path / "lock"):
            held.set()
            time.sleep(0.2)
            done.append("first")

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    with lock(tmp_path / "lock", wait=True):
        done.append("second")
    thread.join()
    assert done == ["first", "second"]


@posix
def test_a_killed_process_holds_no_lock(tmp_path):
    program = f"import time\nfrom pose2id.atomic import lock\nwith lock({str(tmp_path / 'lock')!r}):\n"
    program += "    print('held', flush=True)\n    time.sleep(60)\n"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=rf"another run \(process {process.pid}\)"), lock(tmp_path / "lock"):
            pass
        process.kill()
        process.wait()
    with lock(tmp_path / "lock"):
        pass


@posix
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, kind):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("fcntl.flock", flock)
    with caplog.at_level(logging.WARNING), lock(tmp_path / "lock"):
        pass
    assert "take care that no second run works in it" in caplog.text
    PUT[kind](tmp_path / "x")
    assert held(tmp_path / "x") == NEW
    left = leftover(tmp_path / "y")
    clear_leftovers(tmp_path)  # nobody knows whether its writer lives
    assert left.exists()
    with pytest.raises(OSError, match=r"y cannot be written: .* or was killed; if so, remove that folder"):
        put_file(tmp_path / "y")


def test_a_lock_that_cannot_be_made(tmp_path):
    with pytest.raises(FileNotFoundError), lock(tmp_path / "no" / "lock"):
        pass


def test_sync(tmp_path):
    (tmp_path / "a").touch()
    sync(tmp_path / "a")
    sync(tmp_path)
    with pytest.raises(FileNotFoundError):
        sync(tmp_path / "b")


if __name__ == "__main__":
    program, path, *arguments = sys.argv[1:]
    os.fsync = lambda _: None  # whoever is killed loses nothing that he wrote: only a machine without power does
    programs = (drive, drive_signals, drive_writers, write_often)
    {each.__name__: each for each in programs}[program](Path(path), *arguments)
