"""Which thread uses a network: one at a time, also when several pipelines are made of it.

While a picture is drawn, the UNets hold what belongs to it (attention processors, a hook), the scheduler its timesteps,
and with offloading every part may move. So a call locks all its parts.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

P = ParamSpec("P")
R = TypeVar("R")
_locks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_guard = threading.Lock()
_thread = threading.local()
loading = threading.RLock()
"""Held while weights are loaded: diffusers then changes for all threads how modules are made, and the default dtype."""


@contextmanager
def hold(parts: Iterable[Any], *, again: bool = False) -> Iterator[None]:
    """While inside, every other thread that wants one of these parts waits.

    A thread that is inside already may enter `again` with parts that it holds. Anything else is RuntimeError, as it
    could wait for ever: two threads may each hold what the other one wants.
    """
    wanted = {id(part): part for part in map(unwrap, parts)}
    held: set[int] | None = getattr(_thread, "held", None)
    if held is not None:
        if not (again and wanted.keys() <= held):
            raise RuntimeError(
                "a pipeline cannot be called from within a call, as from callback_on_step_end: "
                "call it after the other call has returned"
            )
        yield
        return
    with _guard:
        locks = [_locks.setdefault(part, threading.Lock()) for part in wanted.values()]
    with ExitStack() as stack:
        for lock in sorted(locks, key=id):  # all threads in one order
            stack.enter_context(lock)
        _thread.held = wanted.keys()
        try:
            yield
        finally:
            _thread.held = None


def unwrap(part: Any) -> Any:
    """The network itself where torch.compile has wrapped it."""
    return getattr(part, "_orig_mod", part)


def holding(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """A method of a pipeline during which the thread holds all parts; also within a call."""

    @wraps(method)
    def held(pipe: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with hold(pipe.parts, again=True):
            return method(pipe, *args, **kwargs)

    return held
