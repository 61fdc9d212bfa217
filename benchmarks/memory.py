"""Peak memory of one call, by the operating system's accounting, in a process of its own.

    python benchmarks/memory.py TASK FEATURES.npy [QUERIES]

prints the bytes that the resident set grew while the call ran, over what it was with the features loaded and the
libraries warm. `measure` runs that and gives the number.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np


def _calls(task: str, queries: int):
    import pose2id
    from pose2id.parts import aligned_distances, centralize_parts

    return {
        "aligned_distances": lambda x: aligned_distances(
            *(part.reshape(len(part), 8, -1) for part in np.split(x, [queries]))
        ),
        "knn": lambda x: pose2id.knn_graph(x, 2, engine="exact"),
        "knn 20": lambda x: pose2id.knn_graph(x, 20, engine="exact"),
        "centralize": lambda x: pose2id.centralize(x),
        "centralize_parts": lambda x: centralize_parts(x.reshape(len(x), 6, -1)),
        "jaccard_distances": lambda x: pose2id.jaccard_distances(x),
        "rerank": lambda x: pose2id.rerank(x[:queries], x[queries:]),
        "rerank_top": lambda x: pose2id.rerank_top(x[:queries], x[queries:], 100),
    }[task]


def measure(task: str, features: np.ndarray, queries: int = 0) -> int:
    """Bytes beyond the features at the peak of `task`, the result included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        np.save(path, features)
        command = [sys.executable, __file__, task, str(path), str(queries)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    return int(done.stdout)


def main() -> None:
    import psutil

    task, path, queries = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0
    features = np.load(path)
    call = _calls(task, queries)
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((320, features.shape[1])), 10, axis=0)
    warm = (3 * centres + rng.standard_normal(centres.shape)).astype(np.float32)
    (_calls(task, 400) if queries else call)(warm)  # libraries loaded, thread pools and their buffers made
    del centres, warm

    process, stop = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, process.memory_info().rss)
            time.sleep(0.001)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        result = call(features)
    finally:
        stop.set()
        watcher.join()
    del result
    print(max(0, peak - before))


if __name__ == "__main__":
    main()
