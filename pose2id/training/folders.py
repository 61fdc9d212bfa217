"""The folder of a training: one run at a time works in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from pose2id.atomic import lock

LOCK = ".pose2id.lock"
_held: ContextVar[tuple[str, ...]] = ContextVar("_held", default=())
"""Folders that this thread holds."""


@contextmanager
def hold_folder(folder: Path) -> Iterator[None]:
    """Have the folder of a run, made where it is not there, for this run alone; what holds it may hold it again.

    Raises
    ------
    ValueError
        When another run works in it; names that process.
    """
    real = os.path.realpath(folder)
    if real in _held.get():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / LOCK, keep=False):
        before = _held.set((*_held.get(), real))
        try:
            yield
        finally:
            _held.reset(before)
