"""Progress bars: those of tqdm, with a lock that no other process shares."""

from __future__ import annotations

import os
import threading

from tqdm import tqdm as shared

__all__ = ["tqdm"]


class tqdm(shared):  # type: ignore[type-arg]  # noqa: N801  it is called as users of tqdm know it
    """A bar of tqdm.

    tqdm's own lock, which every bar takes, also one that is not shown, is shared with the processes that were forked.
    One that is killed while it holds it stops all others for ever.
    """


def _renew_lock() -> None:
    tqdm.set_lock(threading.RLock())


_renew_lock()
if hasattr(os, "register_at_fork"):  # a thread of the parent may hold it at that moment
    os.register_at_fork(after_in_child=_renew_lock)
