"""A living gallery on SQLite: rows added a second, seconds of a removal and of a search, memory.

    python benchmarks/gallery.py 100000 512

The gallery is filled first with people whose rows lie far from everybody else's, so that their neighbours are known
without a search; a sample is verified against `centralize`. Then batches are added through the front door.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from pose2id.gallery import Gallery, lists
from pose2id.neighbors import find_neighbors

EACH, BATCH, FILL = 20, 1000, 4000


def resident():
    """Memory of this process now, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def people(rng, n, width):
    """n rows of length 1: people of EACH rows, cosine 0.8 within one and about 0 between two."""
    centres = rng.standard_normal((n // EACH, width), dtype=np.float32)
    rows = centres.repeat(EACH, axis=0) + 0.5 * rng.standard_normal((n, width), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def enter_alone(old, _rows, new, searched, *, exclude):  # noqa: ARG001
    """As `lists.enter`, for rows whose neighbours are all among themselves."""
    found, lengths = find_neighbors(searched, searched, new.near.shape[1], within=True)
    return old.join(new._replace(near=new.ids[found.numpy()], distances=lengths.numpy()))


def fill(gallery, rng, n, width):
    with mock.patch.object(lists, "enter", enter_alone):
        for start in range(0, n, FILL):
            count = min(FILL, n - start)
            gallery.add(people(rng, count, width), [f"row {start + each}" for each in range(count)])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--at", type=Path, help="a folder that keeps the filled gallery")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as temporary:
        with Gallery.open(Path(temporary, "sample.gallery")) as sample:
            fill(sample, rng, 2 * FILL, width=options.width)
            sample.add(people(rng, 200, options.width), [f"more {each}" for each in range(200)])
            sample.remove(["row 3", "row 70"])
            assert sample.verify() == []
        folder = options.at or Path(temporary)
        path = folder / f"{options.rows}x{options.width}.gallery"
        if not path.exists():
            with Gallery.open(path) as gallery:
                fill(gallery, rng, options.rows, options.width)
        before, features = resident(), options.rows * options.width * 4 / 1e6
        print(f"{options.rows:,} x {options.width}, {torch.get_num_threads()} threads; features {features:.0f} MB")
        with Gallery.open(path) as gallery:
            n, start = len(gallery), time.perf_counter()
            gallery.add(people(rng, EACH, options.width), [f"first {n + each}" for each in range(EACH)])
            print(f"opened, {EACH} rows added: {time.perf_counter() - start:.2f} s")
            for turn in range(options.batches):
                rows, keys = people(rng, BATCH, options.width), [f"{n} {turn} {each}" for each in range(BATCH)]
                start, computed = time.perf_counter(), time.process_time()
                gallery.add(rows, keys)
                spent, computed = time.perf_counter() - start, time.process_time() - computed
                rate = f"{BATCH / spent:.0f} a second, {computed:.2f} s of CPU"
                print(f"{BATCH} rows added: {spent:.2f} s, {rate}, {resident() - before:.0f} MB")
            start = time.perf_counter()
            gallery.remove(gallery.keys()[:EACH])
            print(f"{EACH} rows removed: {time.perf_counter() - start:.2f} s")
            query = people(rng, EACH, options.width)
            for words in ("first search", "search"):
                start = time.perf_counter()
                gallery.search(query)
                spent = time.perf_counter() - start
                print(f"{words}, {EACH} queries: {spent:.2f} s, {resident() - before:.0f} MB")
            product = torch.from_numpy(people(rng, BATCH, options.width))
            base = torch.from_numpy(people(rng, 20_000, options.width))
            start = time.perf_counter()
            for first in range(0, len(base), 2000):
                product @ base[first : first + 2000].T
            spent = (time.perf_counter() - start) * n / len(base)
            print(f"the products of one batch alone: {spent:.2f} s")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(f"peak {peak - before:.0f} MB beyond the {before:.0f} MB before")


if __name__ == "__main__":
    main()
