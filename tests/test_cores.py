"""How many of torch's threads a call uses: what is allowed and what is free, and nothing else changes."""

import math
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pose2id import centralize, evaluate, evaluate_features, id_density, jaccard_distances, knn_graph, rerank, threads
from pose2id.cli import main
from pose2id.evaluation import tiles
from pose2id.threads import (
    Limits,
    choose_threads,
    count_others,
    find_limits,
    fit_threads,
    map_in_threads,
    read_quota,
    refit_threads,
)

ANY = Limits(8, math.inf)


@pytest.fixture(autouse=True)
def told():
    """Torch is told to use four threads, as it is on a machine of so many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    assert torch.get_num_threads() == 4
    torch.set_num_threads(before)


@pytest.fixture
def machine(monkeypatch):
    """A machine of four cores that a test fills."""
    state = SimpleNamespace(limits=Limits(4, math.inf), others=0, now=100.0, computed=10.0)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "find_limits", lambda: state.limits)
    monkeypatch.setattr(threads, "count_others", lambda: state.others)
    clock = SimpleNamespace(perf_counter=lambda: state.now, thread_time=lambda: state.computed)
    monkeypatch.setattr(threads, "time", clock)

    def run(seconds, share=1.0):
        """Let a thread compute and come to a border of blocks; gives the number of threads for what follows."""
        state.now += seconds
        state.computed += share * seconds
        refit_threads()
        return torch.get_num_threads()

    state.run = run
    return state


@pytest.mark.parametrize(
    ("asked", "limits", "cores", "others", "calls", "expected"),
    [
        (2, ANY, 8, 0, 1, 2),  # what the user set
        (8, ANY, 8, 0, 1, 8),
        (8, Limits(2, math.inf), 8, 0, 1, 2),  # affinity
        (8, Limits(8, 3.0), 8, 0, 1, 3),  # quota
        (8, Limits(8, 2.9), 8, 0, 1, 2),
        (8, Limits(8, 0.25), 8, 0, 1, 1),
        (8, ANY, 8, 3, 1, 5),  # others
        (4, ANY, 8, 3, 1, 4),
        (8, ANY, 8, 8, 1, 1),
        (8, ANY, 8, 100, 1, 1),
        (2, ANY, 2, 1, 1, 1),
        (4, Limits(2, math.inf), 64, 40, 1, 2),  # they may be on other cores than ours
        (8, ANY, 8, 0, 2, 4),  # calls in several threads share
        (8, ANY, 8, 2, 2, 3),
        (8, ANY, 8, 0, 100, 1),
    ],
)
def test_choice(asked, limits, cores, others, calls, expected):
    assert choose_threads(asked, limits, cores, others, calls) == expected


# Lines of /proc/self/mountinfo: id, parent, device, root of what is mounted, where, options, -, kind, source, options.
V2 = "30 23 0:26 {root} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"
V1 = "33 32 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "34 32 0:30 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory"
DISK = "25 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        ("0::/", [V2.format(root="/")], {"": "150000 100000"}, 1.5),  # version 2 in a container
        ("0::/", [V2.format(root="/")], {"": "max 100000"}, math.inf),
        ("0::/", [V2.format(root="/")], {}, math.inf),  # the root of a machine has no such file
        ("0::/a.slice/b", [V2.format(root="/")], {"a.slice/b": "400000 100000"}, 4.0),
        ("0::/a.slice/b", [V2.format(root="/")], {"a.slice": "50000 100000", "a.slice/b": "max 100000"}, 0.5),
        ("0::/a/b/c", [V2.format(root="/")], {"a": "300000 100000", "a/b/c": "70000 10000"}, 3.0),
        ("0::/docker/7f", [V2.format(root="/docker/7f")], {"": "200000 100000"}, 2.0),
        ("0::/docker/7f/x", [V2.format(root="/docker/7f")], {"x": "200000 100000", "": "100000 100000"}, 1.0),
        ("0::/docker/7f", [V2.format(root="/docker/7")], {"": "200000 100000", "f": "100000 100000"}, 2.0),
        ("0::/../other", [V2.format(root="/")], {"": "max 100000"}, math.inf),
        ("4:cpu,cpuacct:/\n3:memory:/m", [V1_MEMORY, V1.format(root="/")], {"": (250000, 100000)}, 2.5),
        ("4:cpu,cpuacct:/", [V1.format(root="/")], {"": (-1, 100000)}, math.inf),
        ("4:cpuacct,cpu:/docker/7f", [V1.format(root="/docker/7f")], {"": (50000, 50000)}, 1.0),
        ("4:cpu,cpuacct:/a/b", [V1.format(root="/")], {"a": (100000, 50000), "a/b": (-1, 100000)}, 2.0),
        ("4:cpuset:/a\n0::/a", [V1.format(root="/"), V2.format(root="/")], {"a": "100000 100000"}, 1.0),  # both kinds
        ("0::/", [V2.format(root="/")], {"": "nonsense"}, math.inf),
        ("0::/", [V2.format(root="/")], {"": "100000 0"}, math.inf),
        ("nonsense", ["nonsense"], {}, math.inf),
        ("0::/", [DISK], {}, math.inf),
    ],
)
def test_quota(tmp_path, groups, mounts, files, quota):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    (tmp_path / "proc/self/mountinfo").write_text("\n".join([DISK, *mounts]) + "\n")
    for folder, content in files.items():
        old = isinstance(content, tuple)
        group = tmp_path / ("sys/fs/cgroup/cpu,cpuacct" if old else "sys/fs/cgroup") / folder
        group.mkdir(parents=True, exist_ok=True)
        names = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if old else ("cpu.max",)
        for name, value in zip(names, content if old else (content,), strict=True):
            (group / name).write_text(f"{value}\n")
    assert read_quota(tmp_path) == quota


def test_no_cgroups(tmp_path):
    assert read_quota(tmp_path) == math.inf


def test_limits_of_this_process(monkeypatch):
    name = "process_cpu_count" if hasattr(os, "process_cpu_count") else "sched_getaffinity"
    monkeypatch.setattr(os, name, lambda *_: 3 if name.startswith("process") else {0, 4, 5}, raising=False)
    monkeypatch.setattr(threads, "_own_quota", lambda: 2.5)
    assert find_limits() == (3, 2.5)
    assert find_limits().threads == 2
    for name in ("process_cpu_count", "sched_getaffinity"):  # as on macOS
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert find_limits() == (1, 2.5)


def test_others_are_those_that_stay(monkeypatch):
    found = iter([5, 2, 3, 0, 7, 0, 9])
    monkeypatch.setattr(threads, "_count_running", lambda: next(found))
    assert count_others() == 2
    assert count_others() == 0
    assert count_others() == 0  # 7, 0

    def nothing():
        raise FileNotFoundError("/proc/stat")

    monkeypatch.setattr(threads, "_count_running", nothing)
    assert count_others() == 0


@pytest.mark.parametrize(("others", "used"), [(0, 4), (1, 3), (4, 1), (40, 1)])
def test_a_call_uses_what_is_free(machine, others, used):
    machine.others = others

    @fit_threads
    def outer():
        assert torch.get_num_threads() == used
        machine.others = 0
        assert fit_threads(torch.get_num_threads)() == used  # within a call it was chosen already
        return "result"

    assert outer() == "result"


def test_an_error_leaves_torch_as_it_was(machine):
    machine.others = 4
    seen = []

    @fit_threads
    def wrong():
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        wrong()
    assert seen == [1]
    assert torch.get_num_threads() == 4
    assert not threads._calls


def ask_in_thread(function):
    found = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


def test_other_threads_keep_their_setting(machine):
    machine.others = 4
    answers = []
    go, done = threading.Event(), threading.Event()

    def wait():  # a thread that has not met torch when the call begins, but does while it goes on
        go.wait()
        answers.append(torch.get_num_threads())
        done.set()

    waiting = threading.Thread(target=wait)
    waiting.start()

    @fit_threads
    def work():
        go.set()
        done.wait()
        return torch.get_num_threads()

    assert work() == 1
    waiting.join()
    assert answers == [4]
    assert ask_in_thread(torch.get_num_threads) == 4


def test_calls_in_several_threads_share(machine):
    @fit_threads
    def work():
        return torch.get_num_threads(), ask_in_thread(fit_threads(torch.get_num_threads))

    assert work() == (4, 2)
    assert machine.others == 0


def test_without_a_new_thread(machine, monkeypatch):
    """Where the system gives no more threads, or while Python ends, a call still works."""
    machine.others, stop = 4, threading.Event()
    waiting = threading.Thread(target=stop.wait)
    waiting.start()

    def refuse(_):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert fit_threads(torch.get_num_threads)() == 1
    stop.set()
    waiting.join()


@pytest.mark.usefixtures("machine")
def test_one_thread_asks_nobody(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(threads, "count_others", None)
    assert fit_threads(torch.get_num_threads)() == 1
    torch.set_num_threads(4)


def test_looking_again(machine):
    @fit_threads
    def work():
        used = [torch.get_num_threads()]
        machine.others = 3
        used += [machine.run(0.01), machine.run(0.05), machine.run(0.06)]  # a count holds for a tenth of a second
        machine.others = 0
        return [*used, machine.run(0.2)]

    assert work() == [4, 4, 4, 1, 4]


def test_a_thread_that_gets_too_little_of_its_core(machine):
    """As in a container whose cores others use: their number tells nothing."""

    @fit_threads
    def work():
        used = [torch.get_num_threads(), machine.run(0.03, 0.95), machine.run(0.03, 0.5)]
        used += [machine.run(0.1, 0.5), machine.run(0.11, 0.5)]  # tried again after 0.2 s
        return [*used, machine.run(0.03, 0.5), machine.run(0.3), machine.run(0.11)]  # now after 0.4 s

    assert work() == [4, 4, 1, 1, 4, 1, 1, 4]


@pytest.mark.usefixtures("machine")
def test_refitting_outside_a_call_does_nothing():
    refit_threads()
    assert torch.get_num_threads() == 4


rng = np.random.default_rng(0)
ROWS = rng.standard_normal((400, 24), dtype=np.float32)[rng.integers(0, 400, 3100)]
ROWS = ROWS + 0.3 * rng.standard_normal((3100, 24), dtype=np.float32)
FEW, IDS = ROWS[:600].repeat(3, axis=1), np.arange(600) % 50


def take(found):
    return [found.indices, found.distances]


CALLS = {
    "knn_graph": lambda: take(knn_graph(ROWS, 3)),
    "centralize": lambda: [centralize(FEW)],
    "rerank": lambda: [rerank(FEW[:100], FEW[100:])],
    "jaccard_distances": lambda: [jaccard_distances(FEW).data],
    "evaluate": lambda: [evaluate(FEW[:100] @ FEW[100:].T, IDS[:100], IDS[100:]).average_precision],
    "evaluate_features": lambda: [evaluate_features(FEW[:100], FEW[100:], IDS[:100], IDS[100:]).average_precision],
    "id_density": lambda: [np.array(id_density(FEW, IDS))],
}


@pytest.mark.parametrize("name", CALLS)
def test_threads_change_no_result(machine, monkeypatch, name):
    machine.others = 4
    one = CALLS[name]()
    machine.others = 0
    four = CALLS[name]()
    turns = iter(range(10**9))
    monkeypatch.setattr(threads._Call, "refit", lambda _: threads._set_threads(1 + next(turns) % 4))
    mixed = CALLS[name]()
    assert next(turns) > 0
    for results in (four, mixed):
        assert all(np.array_equal(*pair) for pair in zip(one, results, strict=True))


@pytest.mark.parametrize(
    ("limits", "others", "line", "warnings"),
    [
        (Limits(4, math.inf), 0, "4 allowed, no quota, 0 threads of other programs run: a call uses 4 threads now", []),
        (
            Limits(4, 2.5),
            0,
            "4 allowed, a quota of 2.5 cores, 0 threads of other programs run: a call uses 2 threads now",
            ["torch is told to use 4 threads, no more than 2 should run here"],
        ),
        (
            Limits(2, math.inf),
            3,
            "2 allowed, no quota, 3 threads of other programs run: a call uses 1 threads now",
            [
                "torch is told to use 4 threads, no more than 2 should run here",
                "the machine is busy: 3 threads of other programs want to run",
            ],
        ),
    ],
)
def test_doctor(monkeypatch, capsys, limits, others, line, warnings):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr("pose2id.cli.doctor.find_limits", lambda: limits)
    monkeypatch.setattr("pose2id.cli.doctor.count_others", lambda: others)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    at = lines.index(f"cores     {line}")
    assert [text.removeprefix("  warning    ") for text in lines[at + 1 : lines.index("engines")]] == warnings


def test_map_in_threads_gives_all_in_order():
    threads_of = {}

    def call(item):
        threads_of.setdefault(threading.get_ident(), set()).add(torch.get_num_threads())
        return item * item

    assert list(map_in_threads(call, range(50), torch.device("cpu"))) == [item * item for item in range(50)]
    assert torch.get_num_threads() == 4
    assert threading.get_ident() not in threads_of
    assert all(counts == {1} for counts in threads_of.values())
    assert list(map_in_threads(call, [], torch.device("cpu"))) == []


def test_map_in_threads_ends_with_the_first_error(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    called = []

    def call(item):
        called.append(item)
        if item == 3:
            raise ValueError("item 3")
        return item

    counted = map_in_threads(call, range(1000), torch.device("cpu"))
    assert [next(counted) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="item 3"):
        next(counted)
    assert len(called) < 10


def test_scores_do_not_depend_on_threads(monkeypatch):
    """Blocks of a few queries, of float32 products that leave so much open that float64 ones follow."""
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 2, (300, 6)) + 1e-4 * rng.integers(0, 2, (300, 6))).astype(np.float32)
    ids, found = rng.integers(0, 20, 300), []
    monkeypatch.setattr(tiles, "QUERY_TILE", 16)
    for count in (1, 4):
        torch.set_num_threads(count)
        scores = evaluate_features(x[:100], x[100:], ids[:100], ids[100:])
        found.append((scores.mAP, scores.mINP, scores.tied_rank1, scores.cmc.tolist()))
    assert found[0] == found[1]


def test_threads_that_come_later_take_what_was_told(machine):
    """Though a call goes on with one thread, and the first progress bar of a process starts a thread of its own."""
    machine.others = 8
    found = []
    knn_graph(np.random.default_rng(0).standard_normal((50, 4)), 1)
    later = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert found == [4]
