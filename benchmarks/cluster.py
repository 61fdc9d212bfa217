"""Features that outgrow a worker: `pose2id.distributed` on two workers of little memory, with what each task held.

    python benchmarks/cluster.py 15000 16384 500 700MB exact FOLDER --check

writes ROWS x COLUMNS of float32 to FOLDER once (people of four rows, in no order), centralizes them in chunks of CHUNK
rows on two worker processes of LIMIT memory each, and writes the result there, block by block. Some people's rows are
compared with what the exact engine gives, which knows them by construction; `--check` compares all rows with
`pose2id.centralize`, bit by bit. Linux only: peaks of memory are read from /proc.
"""

import argparse
import re
import time
from pathlib import Path

import dask
import dask.array as da
import distributed
import numpy as np
from numpy.lib.format import open_memmap

import pose2id
from pose2id.distributed import blocks, centralize, pivots

WORKERS = 2
EACH = 4
"""Rows of a person: nearer to each other than to any row of somebody else."""
PEOPLE = 200
"""People whose rows are compared with those of the exact engine."""
KINDS = {"fuse_block", "join_parts", "search_pair", "merge_sides", "ask", "answer", "add_block"}
KINDS |= {"take_sample", "train", "join", "send", "send_on", "search_part", "join_tables"}
"""Functions that are tasks."""
FEW = {
    "memory.target": 0.15,  # what is kept in memory, as a share of the limit
    "memory.transfer": 0.01,  # what is received at once: a block, which is more
    "connections.outgoing": 1,  # from how many workers at once
    "connections.incoming": 1,  # to how many workers is sent at once
}
"""Dask's settings of a worker that keeps and receives little, see docs/clusters.md."""
WRITTEN = 1000
"""Rows that are written at once."""


def people(n):
    """The person of every row."""
    return np.random.default_rng(1).permutation(n) // EACH


def write_features(path, n, width):
    """Rows are noise around the centres of people, and these around those of groups of a hundred."""
    rng, person = np.random.default_rng(0), people(n)
    features = open_memmap(path, "w+", np.float32, (n, width))

    def centre(seed):
        return np.random.default_rng(seed).standard_normal(width, dtype=np.float32)

    for start in range(0, n, WRITTEN):
        for row in range(start, min(start + WRITTEN, n)):
            features[row] = centre([0, person[row] // 100]) + centre([1, person[row]])
            features[row] += 0.8 * rng.standard_normal(width, dtype=np.float32)
        features.flush()


def read(path, start, stop):
    return np.array(np.load(path, mmap_mode="r")[start:stop])


def write(path, start, rows):
    np.load(path, mmap_mode="r+")[start : start + len(rows)] = rows
    return len(rows)


def status(name):
    """A line of this process's memory in /proc, in bytes."""
    return int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


class Holdings(distributed.WorkerPlugin):
    """For every task function of `pose2id.distributed`: how often it ran, and the most bytes that it held.

    That is what it was given, how much the process grew while it ran (the result, what it needs meanwhile, and what
    Dask received or fetched from disk), both together, and the growth less what Dask received and fetched meanwhile.
    The functions are wrapped, so all that a task is given is in memory before it begins.
    """

    name = "holdings"

    def setup(self, worker):
        self.worker, self.kinds, self.peak, self.received = worker, {}, 0, 0
        for module in (blocks, pivots):
            for name, function in vars(module).items():
                if name in KINDS and function.__module__ == module.__name__:
                    setattr(module, name, self.measured(name, function))

    def transition(self, key, start, finish, **_):
        if start == "flight" and finish == "memory":
            self.received += self.worker.state.tasks[key].nbytes or 0

    def moved(self):
        """Bytes received so far, also those on their way, and fetched from disk."""
        fetched = self.worker.data.cumulative_metrics["disk-read", "bytes"]
        return self.received + self.worker.state.transfer_incoming_bytes + fetched

    def measured(self, kind, function):
        def measure(*arguments, **settings):
            self.peak = max(self.peak, status("VmHWM"))
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
            begun, moved = status("VmRSS"), self.moved()
            result = function(*arguments, **settings)
            grown, moved = status("VmHWM") - begun, self.moved() - moved
            given = count_bytes(arguments)
            runs, *most = self.kinds.get(kind, (0, 0, 0, 0, 0))
            self.kinds[kind] = runs + 1, *map(max, most, (given, grown, given + grown, grown - moved))
            return result

        return measure


def count_bytes(value):
    """Bytes of all arrays in what a task is given."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    return sum(map(count_bytes, value)) if isinstance(value, tuple | list) else 0


def holdings(dask_worker):
    plugin = dask_worker.plugins["holdings"]
    return plugin.kinds, max(plugin.peak, status("VmHWM"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("columns", type=int)
    parser.add_argument("chunk", type=int)
    parser.add_argument("limit", help="memory of a worker, such as 700MB")
    parser.add_argument("engine")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--few", action="store_true", help="Dask keeps and receives little at once")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    n, width, chunk = options.rows, options.columns, options.chunk
    options.folder.mkdir(parents=True, exist_ok=True)
    source, target = options.folder / f"{n}x{width}.npy", options.folder / f"{options.engine}.npy"
    if not source.exists():
        write_features(source, n, width)
    open_memmap(target, "w+", np.float32, (n, width)).flush()
    load, starts = dask.delayed(read, pure=True), range(0, n, chunk)
    features = da.concatenate(
        [
            da.from_delayed(load(str(source), start, min(start + chunk, n)), (min(chunk, n - start), width), np.float32)
            for start in starts
        ]
    )
    block = chunk * width * 4
    size = f"{n * width * 4 / 1e9:.1f} GB in {len(starts)} chunks of {block / 1e6:.0f} MB"
    print(f"{n:,} x {width}: {size}; {options.engine}")
    # Otherwise the allocator keeps what was freed, and nobody knows what a task took.
    dask.config.set({"distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**20})
    if options.few:
        dask.config.set({f"distributed.worker.{name}": value for name, value in FEW.items()})
    with (
        distributed.LocalCluster(
            n_workers=WORKERS,
            threads_per_worker=1,
            memory_limit=options.limit,
            dashboard_address=None,
            local_directory=str(options.folder),
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_plugin(Holdings())
        client.run(pose2id.centralize, np.eye(9, dtype=np.float32))  # loads torch
        idle = max(client.run(status, "VmRSS").values())
        print(f"workers of {options.limit}, {idle / 1e6:.0f} MB with torch loaded", flush=True)
        start = time.perf_counter()
        result = centralize(features, engine=options.engine)
        firsts = np.cumsum([0, *result.chunks[0][:-1]]).tolist()
        parts = result.to_delayed()[:, 0]
        write_part = dask.delayed(write)
        written = client.compute(
            [write_part(str(target), first, part) for first, part in zip(firsts, parts, strict=True)]
        )
        assert sum(client.gather(written)) == n
        print(f"{time.perf_counter() - start:.0f} s")
        found = client.run(holdings).values()
        peak = max(peak for _, peak in found)
        print(f"peak of a worker {peak / 1e6:.0f} MB: {(peak - idle) / block:.1f} chunks beyond what it began with")
        print("\n| task | runs | given, in chunks | grown by | together | grown less moved |")
        print("|---|---|---|---|---|---|")
        for kind in sorted({kind for kinds, _ in found for kind in kinds}):
            each = [kinds[kind] for kinds, _ in found if kind in kinds]
            most = " | ".join(f"{max(numbers) / block:.1f}" for numbers in list(zip(*each, strict=True))[1:])
            print(f"| {kind} | {sum(runs for runs, *_ in each)} | {most} |")
    features_on_disk = np.load(source, mmap_mode="r")
    result, person = np.load(target, mmap_mode="r"), people(n)
    same = []
    for number in np.random.default_rng(2).integers(0, n // EACH, PEOPLE):
        rows = np.flatnonzero(person == number)
        same.extend((result[rows] == pose2id.centralize(features_on_disk[rows])).all(axis=1))
    print(f"of {len(same)} rows {np.mean(same):.2%} have the bits of the exact engine")
    if options.check:
        expected = open_memmap(options.folder / "expected.npy", "w+", np.float32, (n, width))
        pose2id.centralize(features_on_disk, engine="exact", out=expected)
        print("equal:", np.array_equal(expected, result))


if __name__ == "__main__":
    main()
