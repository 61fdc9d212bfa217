"""The pipeline's own progress bars: hidden where something that calls it shows one for all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

hidden: ContextVar[bool] = ContextVar("hidden", default=False)
"""Whether they are, in this thread. Not a setting of the pipeline, which other threads may share."""


@contextmanager
def hide() -> Iterator[None]:
    """No bars of pipelines that are called within."""
    before = hidden.set(True)
    try:
        yield
    finally:
        hidden.reset(before)
