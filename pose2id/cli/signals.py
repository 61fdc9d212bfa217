"""Signals that ask a command to end, handled as Ctrl-C is: what is half written goes, what is done stays."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

NAMES = ("SIGTERM", "SIGHUP")  # Windows has only the first, and ends a process without it
_APART = 2.0
"""Seconds in which a second signal counts for the first: `timeout` sends it to the process and to its group."""


class EndedError(BaseException):
    """A signal has asked the process to end; passes by all that catches errors, as `KeyboardInterrupt` does."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Raise `EndedError` in here when a signal comes; what the parent has told this process to ignore stays ignored."""
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python sets no handlers
        yield
        return
    last, asked = -_APART, 0

    def end(number: int, _frame: FrameType | None) -> None:
        nonlocal last, asked
        now = time.monotonic()
        if now - last >= _APART:
            last, asked = now, number
            raise EndedError(number)

    def send_again(lost: Any) -> None:
        """Python only reports what is raised while an object is removed; there the signal must not be lost."""
        nonlocal last
        if not isinstance(lost.exc_value, EndedError):
            report(lost)
            return
        last = -_APART
        threading.Timer(0.01, signal.pthread_kill, (threading.main_thread().ident, lost.exc_value.number)).start()

    report = sys.unraisablehook
    numbers = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    try:
        for number in taken:
            signal.signal(number, end)
        sys.unraisablehook = send_again
        yield
    except Exception as error:
        if asked:  # compiled code, matplotlib's say, makes an error of its own of whatever is raised within it
            raise EndedError(asked) from error
        raise
    finally:
        sys.unraisablehook = report
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
