"""The engines of faiss: `faiss` finds all neighbours, `faiss-ivf` and `faiss-hnsw` may miss some.

faiss works in float32 and leaves the order of ties open. Here it only proposes candidates: they are measured as
float64 differences, so that reported neighbours are real ones, at their real distances and in the contract's order.

`faiss` (flat; on the CPU, or on its GPUs)
    Within one set on the CPU the first candidates come from products made once for both rows (`_heaps`), else from
    faiss's index. A row whose k-th distance is not clearly below the last one it was given asks the index for twice as
    many. Past `LIMIT` such rows go to the sweep of the engine `exact`. Both engines so give the same neighbours.
`faiss-ivf` (IVFFlat, on the CPU)
    4 sqrt(N) lists, the next power of two above, and at least 39 rows to each (below that faiss's k-means complains),
    trained on 64 rows per list with faiss's own fixed seed; 8 lists are searched, and one more for every 4 neighbours.
    Of the mutual pairs among 200,000 x 768 realistic rows this found .993 (.989 with 4 lists; .988 with 1789 of them).
`faiss-hnsw` (HNSWFlat, on the CPU)
    32 edges per row, 80 candidates while building, 64 or 4 k while searching. Several threads build a slightly
    different graph each time.

All hold a float32 copy of the rows. Sets below `SMALLEST` rows are always searched flat.

faiss is imported here and nowhere else, after torch (the other order has crashed processes), and no GPU function is
called unless `get_num_gpus()` reports one: without a driver such a call ends the process, not the function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from types import ModuleType
from typing import Any

import torch

from pose2id.distances import Frame, lower_distances, slack, squared_norms, underflow
from pose2id.errors import MissingExtraError, one_line
from pose2id.neighbors import _exact, _heaps
from pose2id.neighbors.contract import Search
from pose2id.neighbors.distinct import search_distinct
from pose2id.progress import tqdm

ROW_TILE = 4096
LIMIT = 1024
GPU_LIMIT = 2048  # neighbours that faiss finds on a GPU at once; for more it raises an error
SPARE = 6
SMALLEST = 1000
ROWS_PER_LIST = 39
TRAINING_ROWS = 64
DISTRIBUTIONS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs", "faiss-gpu-cu11", "faiss-gpu-cu12", "faiss")


def probe() -> tuple[ModuleType | None, str]:
    """Import faiss, with a sentence on what it can do, or None and a sentence on what is wrong and how to mend it."""
    wheels = [name for name in DISTRIBUTIONS if _installed(name)]
    several = f"several faiss wheels are installed over each other ({', '.join(wheels)})"
    mend = (f"pip uninstall -y {' '.join(wheels)} && " if wheels else "") + "pip install 'pose2id[faiss-cpu]'"
    try:
        import faiss
    except ImportError as error:
        if wheels:
            return None, f"{wheels[0]} is installed but cannot be imported ({one_line(error, 200)}): {mend}"
        return (
            None,
            "not installed: pip install 'pose2id[faiss-cpu]' (or 'pose2id[faiss-gpu]' on Linux x86-64 with CUDA)",
        )
    except Exception as error:  # noqa: BLE001  faiss-gpu without its CUDA wheels raises RuntimeError
        return None, f"faiss cannot be imported ({type(error).__name__}: {one_line(error, 200)}): {mend}"
    if not hasattr(faiss, "IndexFlatL2"):  # what is left of the folder when one of two wheels was uninstalled
        what = several if len(wheels) > 1 else "faiss is an empty package, left over from an uninstalled wheel"
        return None, f"{what}: {mend}"
    gpus = _gpus(faiss)
    version = getattr(faiss, "__version__", "of unknown version")
    words = f"faiss {version}, " + (f"{gpus} GPU(s)" if gpus else "CPU")
    return faiss, words + (f"; {several}; keep one: {mend}" if len(wheels) > 1 else "")


def _gpus(faiss: Any) -> int:
    """How many GPUs faiss can use; 0 without a driver and in builds for the CPU."""
    return int(faiss.get_num_gpus()) if hasattr(faiss, "get_num_gpus") else 0


def has_gpus() -> bool:
    """Whether the faiss of this process searches on GPUs."""
    return _gpus(require_faiss("faiss")) > 0


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def require_faiss(engine: str) -> ModuleType:
    """faiss, or MissingExtraError that says why `engine` cannot have it, and how to mend it."""
    loaded = sys.modules.get("faiss")
    if loaded is not None and hasattr(loaded, "IndexFlatL2"):
        return loaded  # asking what is installed takes milliseconds
    faiss, words = probe()
    if faiss is None:
        raise MissingExtraError(f"engine '{engine}' needs faiss: {words}", extra="faiss-cpu", package="faiss")
    return faiss


@search_distinct
def search(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k), by the contract."""

    def build(faiss: Any, _: Frame) -> Any:
        index = faiss.IndexFlatL2(asked.base.shape[1])
        if _gpus(faiss) > 0 and max(asked.k + asked.within + SPARE, 2 * LIMIT) <= GPU_LIMIT:
            index = faiss.index_cpu_to_all_gpus(index)
        return index

    return _search("faiss", build, asked)


def search_ivf(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Near rows by inverted lists; by the contract, but neighbours may be missing."""

    def build(faiss: Any, frame: Frame) -> Any:
        n, width = asked.base.shape
        lists = min(1 << int(4 * n**0.5).bit_length(), n // ROWS_PER_LIST)
        index = faiss.IndexIVFFlat(faiss.IndexFlatL2(width), width, lists)
        index.nprobe = min(lists, 8 + asked.k // 4)
        at = torch.linspace(0, n - 1, min(n, TRAINING_ROWS * lists), dtype=torch.float64, device=asked.base.device)
        index.train(frame.centre_rows(asked.base[at.long()], torch.float32).cpu().numpy())
        return index

    return _search("faiss-ivf", build, asked)


def search_hnsw(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Near rows by a graph; by the contract, but neighbours may be missing."""

    def build(faiss: Any, _: Frame) -> Any:
        index = faiss.IndexHNSWFlat(asked.base.shape[1], 32)
        index.hnsw.efConstruction = 80
        index.hnsw.efSearch = max(64, 4 * asked.k)
        return index

    return _search("faiss-hnsw", build, asked)


def _search(name: str, build: Callable[[Any, Frame], Any], asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Build an index, ask it, measure what it proposes; rows that are not decided ask for twice as many.

    By the flat index a row is decided when nothing else can be nearer, by the others when it has k neighbours.
    """
    faiss, flat = require_faiss(name), name == "faiss"
    queries, base, k = asked.queries, asked.base, asked.k
    n, width = base.shape
    if n < SMALLEST and not flat:
        return search(asked)
    indices, distances = asked.no_neighbors()
    if not len(queries) or not n:
        return indices, distances
    pending = torch.arange(len(queries), device=base.device)
    ask, most = min(n, k + asked.within + SPARE), min(n, LIMIT if flat else max(LIMIT, 2 * k))
    if flat and not _gpus(faiss) and _heaps.can_search(faiss, asked):
        pending = _heaps.search(faiss, asked, indices, distances)
        ask = min(2 * ask, n)
    if not len(pending):
        return indices, distances
    frame = Frame(base, queries)
    index = build(faiss, frame)
    largest, silent = 0.0, not asked.progress
    for start in tqdm(range(0, n, ROW_TILE), desc=f"index ({name})", disable=silent):
        part = frame.centre_rows(base[start : start + ROW_TILE], torch.float32)
        index.add(part.cpu().numpy())
        largest = max(largest, float(squared_norms(part).max()))
    with tqdm(total=len(pending), desc=f"neighbours ({name})", unit="row", disable=silent) as bar:
        while len(pending):
            undecided = []
            for start in range(0, len(pending), ROW_TILE):
                rows = pending[start : start + ROW_TILE]
                tile = frame.centre_rows(queries[rows], torch.float32)
                squared, found = (
                    torch.from_numpy(part).to(base.device) for part in index.search(tile.cpu().numpy(), ask)
                )
                indices[rows], distances[rows] = _exact.measure(asked, rows, asked.drop(rows, found), frame.scale)
                if flat:
                    # Everything faiss did not return is at least as far as the last it did, less both errors.
                    off = slack(width, torch.float32) * (squared_norms(tile) + largest) + underflow(
                        torch.float32, width
                    )
                    beyond = lower_distances(squared[:, -1].double() - off, width, frame.scale).to(distances.dtype)
                    decided = (beyond > distances[rows, -1]) | torch.isinf(beyond) | (ask == n)
                else:
                    decided = indices[rows, -1] >= 0
                undecided.append(rows[~decided])
                bar.update(int(decided.sum()))
            pending = torch.cat(undecided)
            if ask >= most:
                break
            ask = min(2 * ask, n)
    if flat and len(pending):
        _exact.sweep(asked, pending, indices, distances, frame)
    return indices, distances
