"""How many of torch's threads a call uses: no more than may run here, and than the machine has cores free for.

torch's threads wait for each other, turning on the spot, at the end of each of thousands of small parallel regions.
That is fast while each has a core. Where another program holds one, every region lasts until the scheduler has given
each thread its turn: such a call took ten to fifty times as long as with one thread. So `fit_threads` marks the
functions that compute for long; from their start to their end the calling thread uses

- at most what torch was told (`torch.set_num_threads`, OMP_NUM_THREADS);
- at most what this process may use: the cores of its affinity, and the quota of its cgroups (`find_limits`);
- at most as many as there are cores on which no other program wants to run right now (`count_others`).

`refit_threads` stands in the loops and looks again. It also sees what counting cannot, such as others on just the
cores of this container: a thread that computes all the time and does not get its core for all of it. Then the call goes
on with one thread, which waits for nobody, and tries again later.

Where blocks are independent, `map_in_threads` gives each to a thread of its own, and nobody waits within one.

The number of threads changes no result. torch's own setting is changed for the calling thread only, and put back.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])
Item = TypeVar("Item")
Result = TypeVar("Result")

LOOK = 0.1
"""Seconds for which a count of other programs holds."""
WATCH = 0.3 if os.name == "nt" else 0.02
"""Seconds over which a thread's share of its core is measured; its clock on Windows goes in steps of 0.016 s."""
SHARE = 0.8
"""A thread that gets less of its core than this is in somebody's way."""
PAUSE = 0.2
"""Seconds until more threads than one are tried again after that; doubled each time."""


class Limits(NamedTuple):
    """What this process may use: `cores` of its affinity, and `quota`, cores of time each second, inf for no limit."""

    cores: int
    quota: float

    @property
    def threads(self) -> int:
        """How many threads may run at once, at least 1; part of a core is not worth a thread that others wait for."""
        return max(1, self.cores if math.isinf(self.quota) else min(self.cores, int(self.quota)))


def find_limits() -> Limits:
    """What this process may use: its affinity now, the quota as it was when first asked."""
    if hasattr(os, "process_cpu_count"):  # from Python 3.13 on, where users can also set it
        cores = os.process_cpu_count()
    else:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Limits(cores or 1, _own_quota())


@functools.lru_cache
def _own_quota() -> float:
    return read_quota(Path("/"))


def read_quota(root: Path) -> float:
    """Cores of time each second that the cgroups of this process grant, inf for no limit.

    Version 1 and 2 of cgroups, the least on the way from the process's own group to the top. `root` is "/", or what
    stands for it in a test.
    """
    least = math.inf
    try:
        groups = [line.split(":", 2) for line in (root / "proc/self/cgroup").read_text().splitlines()]
        mounts = [line.split(" ") for line in (root / "proc/self/mountinfo").read_text().splitlines()]
        for fields in mounts:
            kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
            if kind not in ("cgroup", "cgroup2") or (kind == "cgroup" and "cpu" not in options):
                continue
            own = next((path for _, names, path in groups if _names_cpu(names, kind)), None)
            if own is None:
                continue
            top, seen = root / fields[4].lstrip("/"), fields[3].rstrip("/")
            # What is mounted is the part of the tree below `seen`, in containers often the process's own group.
            inside = own.removeprefix(seen) if own == seen or own.startswith(seen + "/") else ""
            folder = top / inside.strip("/")
            for group in [folder, *folder.parents]:
                least = min(least, _group_quota(group))
                if group == top:
                    break
    except (OSError, ValueError, IndexError):
        return least  # no cgroups here, or none that we know
    return least


def _names_cpu(names: str, kind: str) -> bool:
    return not names if kind == "cgroup2" else "cpu" in names.split(",")


def _group_quota(group: Path) -> float:
    """Cores of time each second that one cgroup grants."""
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return math.inf if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return math.inf


def count_others() -> int:
    """Threads of other programs that run at this moment, or would if they had a core; 0 where nothing tells."""
    least = 0
    with contextlib.suppress(OSError, ValueError):
        for _ in range(3):  # what runs for an instant is in nobody's way
            found = _count_running()
            least = min(least or found, found)
            if not least:
                break
    return least


def _count_running() -> int:
    text = Path("/proc/stat").read_bytes()
    start = text.index(b"procs_running") + len(b"procs_running")
    running = int(text[start : text.index(b"\n", start)]) - 1  # without this thread
    if running > 0:  # perhaps threads of this process, such as torch's, which run on for a while before they sleep
        this = str(threading.get_native_id())
        for folder in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # it may be gone
                state = (folder / "stat").read_bytes().rpartition(b")")[2].split()[0]
                running -= folder.name != this and state == b"R"
    return max(0, running)


def choose_threads(asked: int, limits: Limits, cores: int, others: int, calls: int = 1) -> int:
    """How many threads each of `calls` calls in this process should use on a machine of so many `cores`.

    `asked` is what torch was told, `others` how many threads of other programs run.
    """
    free = max(1, min(limits.threads, cores - others))
    return min(asked, max(1, free // calls))


class _Call:
    """The threads of a call that goes on: as many as torch was told, or fewer."""

    def __init__(self) -> None:
        self.asked = torch.get_num_threads()
        self.pause = PAUSE
        self.again = 0.0  # when to look at other programs again
        self.watched, self.computed = time.perf_counter(), time.thread_time()

    def look(self) -> None:
        """Use as many threads as others leave free."""
        self.again = time.perf_counter() + LOOK
        calls = max(1, len(_calls))
        _set_threads(choose_threads(self.asked, find_limits(), os.cpu_count() or 1, count_others(), calls))

    def refit(self) -> None:
        """Look again, where it is time."""
        now = time.perf_counter()
        if now - self.watched < WATCH:
            return
        computed = time.thread_time()
        share = (computed - self.computed) / (now - self.watched)
        self.watched, self.computed = now, computed
        if share < SHARE and torch.get_num_threads() > 1:
            _set_threads(1)
            self.again, self.pause = now + self.pause, 2 * self.pause
        elif now >= self.again:
            self.look()


_own = threading.local()
_calls: list[_Call] = []
"""The calls that go on in all threads of this process."""
_lock = threading.Lock()


@contextlib.contextmanager
def _fitted() -> Iterator[None]:
    call = _Call()
    if call.asked == 1 or getattr(_own, "call", None) is not None:  # nothing to choose, or chosen by the call around
        yield
        return
    try:
        _own.call = call
        _calls.append(call)
        call.look()
        yield
    finally:
        _own.call = None
        if call in _calls:
            _calls.remove(call)
        _set_threads(call.asked)


def fit_threads(function: Function) -> Function:
    """Make torch use, within a function, as many threads as the machine has cores for; see the module."""

    @functools.wraps(function)
    def fitted(*arguments: Any, **keywords: Any) -> Any:
        with _fitted():
            return function(*arguments, **keywords)

    return cast(Function, fitted)


def refit_threads() -> None:
    """Look again how many threads should be used; cheap enough for every turn of a loop over blocks."""
    call: _Call | None = getattr(_own, "call", None)
    if call is not None:
        call.refit()


def map_in_threads(
    call: Callable[[Item], Result], items: Sequence[Item], device: torch.device
) -> Generator[Result, None, None]:
    """What `call` makes of each item, in order; as many at a time as torch uses threads, each computing with one.

    For a GPU the calling thread makes all. Where the system gives no more threads it makes the rest, with one.
    """
    threads = min(torch.get_num_threads(), len(items))
    if threads <= 1 or device.type != "cpu":
        yield from map(call, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="pose2id", initializer=_set_threads, initargs=(1,))
    running: deque[Future[Result]] = deque()
    left = deque(items)
    try:
        while left:
            try:
                running.append(pool.submit(call, left[0]))
            except RuntimeError:  # no thread could be started
                break
            left.popleft()
            if len(running) > threads:  # results wait as well, so not all at once
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
        if left:
            pool.shutdown(cancel_futures=True)
            with one_thread():  # torch could not start its own ones either
                yield from map(call, left)
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Torch with one thread: for what shall be timed whatever else the machine does."""
    before = torch.get_num_threads()
    _set_threads(1)
    try:
        yield
    finally:
        _set_threads(before)


def _set_threads(threads: int) -> None:
    """Make torch use so many threads in this thread, and no other number than before in any other.

    `torch.set_num_threads` also sets what threads that come to torch later will take. One that has taken it puts that
    back.
    """
    if threads == torch.get_num_threads():
        return
    known, changed = threading.Event(), threading.Event()

    def keep() -> None:
        before = torch.get_num_threads()
        known.set()
        changed.wait()
        torch.set_num_threads(before)

    keeper = threading.Thread(target=keep)
    with _lock:
        try:
            keeper.start()
        except RuntimeError:  # no more threads can be had, so none will come to torch either
            torch.set_num_threads(threads)
            return
        try:
            known.wait()
            torch.set_num_threads(threads)
        finally:
            changed.set()
            keeper.join()
