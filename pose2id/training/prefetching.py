"""Batches that are made ahead, by threads, while the network learns from those before."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


def prefetch(make: Callable[[Any], T], keys: Sequence[Any], workers: int) -> Generator[T]:
    """``make(key)`` for every key in order, made ahead by that many threads; by none for 0."""
    if not workers:
        yield from map(make, keys)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        waiting: list[Future[T]] = []
        try:
            for key in keys:
                waiting.append(pool.submit(make, key))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()
