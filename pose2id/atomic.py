"""Files and folders written whole or not at all, even by processes that are killed; and locks.

What is to be written is made in a workplace, a hidden folder ``.pose2id-<hash of the name>.part`` beside the target.
It is brought to the disk, then renamed: whoever looks sees all of it or what was there before. The writer holds a lock
in its workplace. A workplace whose lock is free was left by a process that was killed; the next writer of the same
target, or `clear_leftovers`, removes it. Two writers of one target wait for each other.

Locks need the package filelock, which torch brings.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from pose2id.errors import explain_write, require

__all__ = ["clear_leftovers", "lock", "remove_folder", "sync", "write_file", "write_folder"]

_LOCK, _FORMER = "lock", "former"
_WRITERS: dict[Path, int] = {}  # of each workplace of this process the thread that writes
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}

log = logging.getLogger(__name__)


@contextmanager
def write_file(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Write a file whole or not at all: give a path to write to, and rename what is there at the end.

    If anything is raised inside, an interrupt as well, the target stays as it was and nothing is left beside it.

    Parameters
    ----------
    path : path
        The target; its folder must exist. Of a symbolic link the target is written, the link stays.
    overwrite : bool
        Replace what is there. Otherwise also what appears meanwhile is kept, by whomever it is; on file systems without
        hard links (such as FAT) there remains a moment in which a file would be replaced.

    Yields
    ------
    pathlib.Path
        A path where nothing is yet, with the suffix of the target. The file gets the mode of the one that it replaces,
        or the usual one, whatever mode it is given.

    Raises
    ------
    ValueError
        When the target exists and `overwrite` is False.
    OSError
        When it cannot be written, also for one raised inside; names the target.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.atomic import write_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder, "a.txt")
    ...     with write_file(target) as temporary:
    ...         _ = temporary.write_text("all of it")
    ...     target.read_text()
    'all of it'
    """
    with _write(path, overwrite=overwrite) as new:
        yield new


@contextmanager
def write_folder(path: str | os.PathLike[str], *, overwrite: bool = False) -> Iterator[Path]:
    """Write a folder whole or not at all: as `write_file`, with an empty folder to fill, in which modes are the usual.

    A folder that is replaced is moved away first, and comes back if the last step fails. A process that is killed
    between these two steps leaves neither; then the next writer, or `clear_leftovers`, brings the former one back. An
    empty folder that appears meanwhile is replaced.
    """
    with _write(path, overwrite=overwrite) as new:
        new.mkdir()
        yield new


@contextmanager
def _write(path: str | os.PathLike[str], *, overwrite: bool) -> Iterator[Path]:
    target = Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a link that leads to itself
    try:
        with _workplace(target) as place:
            _check_free(path, target, overwrite)
            new, file_mode = place / f"new{target.suffix}", _usual_mode(place / "file", Path.touch)
            if overwrite and target.is_file():
                file_mode = stat.S_IMODE(target.stat().st_mode)
            try:
                yield new
            except (OSError, RuntimeError) as error:
                if not getattr(error, "errno", None):
                    _probe(new, error)
                raise
            made = [new, *(each for each in new.rglob("*") if not each.is_symlink())]
            folder_mode = _usual_mode(place / "folder", Path.mkdir) if new.is_dir() else 0
            for each in made:
                each.chmod(folder_mode if each.is_dir() else file_mode)
            if len(made) == 1:  # of many pictures, one by one, each would wait for threads to start
                sync(new)
            else:
                with ThreadPoolExecutor(8) as pool:  # for a thousand small files 0.3 s; one after the other, 3 s
                    list(pool.map(sync, made))
            _check_free(path, target, overwrite)
            try:
                _rename(new, target, place / _FORMER, overwrite)
            except OSError:
                _check_free(path, target, overwrite)
                raise
            sync(target.parent)
    except Exception as error:
        if reason := explain_write(error):
            failed = OSError(f"{os.fspath(path)} cannot be written: {reason}")
            failed.errno = getattr(error, "errno", None)
            raise failed from error
        raise


def _probe(new: Path, error: Exception) -> None:
    """Raise what the system says to more of what is half written: numpy and torch do not tell that the disk is full."""
    files = [each for each in (new, *new.rglob("*")) if each.is_file()]
    if files:
        with max(files, key=lambda each: each.stat().st_size).open("ab") as stream:
            try:
                stream.write(bytes(2**20))
                stream.flush()
            except OSError as told:
                raise told from error


def _check_free(path: str | os.PathLike[str], target: Path, overwrite: bool) -> None:
    if target.exists() and not (target.is_file() or target.is_dir()):
        raise ValueError(f"{os.fspath(path)} is a device, a pipe or a socket, which is never replaced; name a file")
    if not overwrite and target.exists():
        raise ValueError(f"{os.fspath(path)} exists already; name another or pass overwrite=True")


def _usual_mode(example: Path, make: Callable[[Path], None]) -> int:
    """The mode of new files or folders. The packages that write make private ones; to ask the umask is to change it."""
    make(example)
    return stat.S_IMODE(example.stat().st_mode)


def _rename(new: Path, target: Path, former: Path, overwrite: bool) -> None:
    """Bring what is made to its place; a folder that is there is moved into the folder `former` first."""
    if new.is_dir():
        if overwrite and target.is_dir():
            former.mkdir()
            target.rename(former / target.name)
        new.rename(target)
    elif overwrite:
        new.replace(target)
    elif os.name == "posix":  # where a rename would replace a file
        try:
            os.link(new, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without hard links
            new.rename(target)
    else:
        new.rename(target)


def remove_folder(path: str | os.PathLike[str]) -> None:
    """Remove a folder so that nobody ever sees a part of it; OSError when it is none or cannot be removed."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{os.fspath(path)} is not a folder; nothing is removed")
    with _workplace(target) as place:
        target.rename(place / "removed")


def clear_leftovers(folder: str | os.PathLike[str]) -> None:
    """Remove what killed writers of this module left in a folder, and bring back what one had moved away.

    What a living process writes, and what belongs to another user, is left alone.
    """
    for place in sorted(Path(folder).glob(".pose2id-*.part")):
        with suppress(OSError):
            _clear(place, wait=False)


def sync(path: str | os.PathLike[str]) -> None:
    """Have a file, or the names in a folder, on the disk before this returns; names where the system can."""
    folder, posix = Path(path).is_dir(), os.name == "posix"
    if folder and not posix:
        return
    handle = os.open(path, os.O_RDONLY if posix else os.O_RDWR)
    try:
        with suppress(OSError) if folder else nullcontext():  # some file systems sync no folders
            os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock(path: str | os.PathLike[str], *, wait: bool = False, keep: bool = True) -> Iterator[None]:
    """Hold a lock file for this process; the system lets go of it when the process ends, however it ends.

    Where the file system has no locks, a warning is logged instead.

    Parameters
    ----------
    path : path
        The lock file; its folder must exist.
    wait : bool
        Wait while another process (or thread) holds it. Otherwise that is a ValueError, which names the process.
    keep : bool
        Leave the file, empty, afterwards. Those who use one file must agree on this.

    Raises
    ------
    ValueError
        When another holds it, unless `wait`; for a link, because what it leads to would be written to; for a file that
        holds something else than the number of a process.
    """
    path = Path(path)
    if path.is_symlink():
        raise ValueError(f"the lock {path} is a link, and is written to; remove the link")
    with suppress(OSError):  # it is not there; Windows lets nobody read a file that is locked
        if path.is_file() and not re.fullmatch(rb"\d*\s*", path.read_bytes()):
            raise ValueError(f"{path} is no lock, and a lock of that name is needed; rename it")
    try:
        held = _acquire(path, wait=wait) if keep else _acquire_removed(path, wait=wait)
    except TimeoutError as error:
        holder = ""
        with suppress(OSError, ValueError):  # Windows lets nobody read a file that is locked
            holder = path.read_text(encoding="utf-8").strip()
        raise ValueError(
            f"another run (process {holder or 'unknown'}) works in {path.parent}; wait for it or end it"
        ) from error
    if held is None:
        log.warning("%s cannot be locked: take care that no second run works in it", path.parent)
        yield
        return
    try:
        with suppress(OSError):
            path.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            path.write_bytes(b"")
            if not keep:
                path.unlink()  # Windows removes no open file; there it stays, empty
        held.release()


def _acquire_removed(path: Path, *, wait: bool) -> Any:
    """As `_acquire`, for a lock file that whoever holds it removes at the end."""
    while True:
        path.touch()
        before = _inode(path)
        held = _acquire(path, wait=wait)
        if held is None or (before is not None and _inode(path) == before):
            return held
        held.release()  # it was removed meanwhile: what we held has no name any more


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def _acquire(path: Path, *, wait: bool) -> Any:
    """A lock that is held, or None where the file system has none; raises TimeoutError if another holds it."""
    file_lock = require("filelock", "ipg", "writing").FileLock
    if not path.parent.is_dir():  # it would be made
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path))
    held = file_lock(path, fallback_to_soft=False)  # a lock made of a mere file would outlive a killed process
    try:
        held.acquire(blocking=wait)
    except NotImplementedError:
        return None
    except FileExistsError as error:  # filelock makes the folder, and another writer removed it in that moment
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fspath(path)) from error
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return held


@contextmanager
def _workplace(target: Path) -> Iterator[Path]:
    """A folder that nobody else may enter, locked, beside the target; it is gone afterwards."""
    # A hash, because the name itself may be as long as names can be.
    place = target.with_name(f".pose2id-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}.part")
    if _WRITERS.get(place) == threading.get_ident():  # to wait for oneself is to wait for ever
        raise ValueError(f"{target} is being written already, by this very thread; that has to end first")
    entered = False
    try:
        while not entered:
            try:
                place.mkdir(mode=0o700)
            except FileExistsError:
                _clear(place, wait=True)
                continue
            with suppress(FileNotFoundError):  # another writer took it, not yet locked, for a dead one's
                held = _acquire(place / _LOCK, wait=True)
                entered = True
        _WRITERS[place] = threading.get_ident()
        yield place
    finally:
        ended = False
        try:
            with suppress(OSError):  # the target is as it should be; the next writer tries again
                if entered:
                    _WRITERS.pop(place, None)
                    _end(place, held)
                ended = entered
        finally:
            if not ended:  # interrupted on the way in or out; the place may be another writer's by now
                with suppress(OSError):
                    _clear(place, wait=False)


def _clear(place: Path, *, wait: bool) -> None:
    """Remove the workplace of a dead writer; of one that lives only after it has ended, or not at all."""
    try:
        ours = stat.S_ISDIR(place.lstat().st_mode)  # whoever puts a link here would have us empty another folder
        held = _acquire(place / _LOCK, wait=wait) if ours else None
    except (FileNotFoundError, TimeoutError):  # it is gone; it lives
        return
    if held is not None:
        _end(place, held)
    elif wait:
        raise FileExistsError(f"{place} is there: another process writes, or was killed; if so, remove that folder")


def _end(place: Path, held: Any) -> None:
    """Put back what was moved away and not replaced, remove the workplace, and let go of it."""
    try:
        for former in (place / _FORMER).glob("*"):
            if not os.path.lexists(place.with_name(former.name)):
                former.rename(place.with_name(former.name))
        for each in place.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.rmtree(each)
            elif each.name != _LOCK:
                each.unlink()
        with suppress(OSError):  # Windows removes no open file; there letting go of the lock removes it
            (place / _LOCK).unlink()
    finally:
        if held is not None:
            held.release()
    with suppress(OSError):  # others may have come in, to remove it as well
        place.rmdir()
