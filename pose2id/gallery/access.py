"""Who may read and write, and when: the threads of one object, one version at a time."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pose2id.errors import one_line
from pose2id.gallery.changes import Change
from pose2id.gallery.database import Database
from pose2id.gallery.memory import Memory
from pose2id.gallery.transactions import Transaction

log = logging.getLogger(__name__)


class Access:
    """A database, what is kept of it in memory, and the lock for both."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database, self.memory = database, Memory(folder)
        self.lock = threading.RLock()
        self._reading: Transaction | None = None
        self._closed, self._process = False, os.getpid()

    def close(self) -> None:
        """Let go of the database; what is kept in memory is written to the cache."""
        with self.lock:
            if self._closed or self._process != os.getpid():
                return
            if self._reading is not None:
                raise ValueError("close cannot run within reading(), which holds one version; end that first")
            try:
                self._leave_cache()
            except (OSError, ValueError) as error:
                log.warning("the cache %s is not written: %s", self.memory.folder, one_line(error))
            self._closed = True
            self.memory = Memory(self.memory.folder)
            self.database.close()

    def _leave_cache(self) -> None:
        """Write the present version; what others removed while it was written must not stay in it."""
        if self.memory.state is not None:
            with self.database.read() as asked:
                self.memory.sync(asked)
            self.memory.save(closing=True)
            with self.database.read() as asked:
                self.memory.clean(asked.head())

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Read one version until the end; gives its number."""
        with self.lock, self.read() as asked:
            before, self._reading = self._reading, asked
            try:
                yield asked.head().version
            finally:
                self._reading = before

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        """What is asked: of the version that is held, or of the present one."""
        with self.lock:
            self.check_open()
            if self._reading is not None:
                yield self._reading
                return
            with self.database.read() as asked:
                yield asked

    @contextmanager
    def write(self, action: str) -> Iterator[Change]:
        """One change, by one writer at a time."""
        with self.lock:
            self.check_open()
            if self._reading is not None:
                raise ValueError(f"{action} cannot run within reading(), which holds one version; end that first")
            with self.database.write() as asked:
                change = Change(action, asked, self.memory)
                yield change
            if change.after is not None:
                self.memory.keep(change.after, clean=action != "add")

    def check_open(self) -> None:
        """ValueError where the database is not to be used any more, or not by this process."""
        if self._closed:
            raise ValueError(f"the gallery {self.database.name} is closed")
        if self._process != os.getpid():  # a connection is of no use, and does harm, after a fork
            raise ValueError(
                f"{self.database.name} was opened by the process that started this one; open it here again"
            )
