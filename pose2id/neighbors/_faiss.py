"""The engine `faiss`: flat search by faiss, on the CPU or on its GPUs, with this library's order restored.

faiss works in float32 and leaves the order of ties open. Here it only proposes candidates: they are measured as
float64 differences, and a row whose k-th distance is not clearly below the last one faiss returned asks again for
twice as many. Past `LIMIT` such rows go to the sweep of the engine `exact`. Both engines so give the same neighbours.

faiss is imported here and nowhere else, after torch (the other order has crashed processes), and no GPU function is
called unless `get_num_gpus()` reports one: without a driver such a call ends the process, not the function.
"""

from __future__ import annotations

from importlib import metadata
from types import ModuleType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from pose2id.distances import Frame, lower_distances, slack, squared_norms, underflow
from pose2id.errors import MissingExtraError, one_line
from pose2id.neighbors import _exact
from pose2id.neighbors.contract import Search

ROW_TILE = 4096
LIMIT = 1024
GPU_LIMIT = 2048  # neighbours that faiss finds on a GPU at once; for more it raises an error
SPARE = 6
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


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def require_faiss(engine: str) -> ModuleType:
    """faiss, or MissingExtraError that says why `engine` cannot have it, and how to mend it."""
    faiss, words = probe()
    if faiss is None:
        raise MissingExtraError(f"engine '{engine}' needs faiss: {words}", extra="faiss-cpu", package="faiss")
    return faiss


def search(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k), by the contract."""
    faiss = require_faiss("faiss")
    queries, base, k = asked.queries, asked.base, asked.k
    indices, distances = asked.no_neighbors()
    if not len(queries) or not len(base):
        return indices, distances
    frame = Frame(base, queries)
    centred = frame.centre_rows(base, torch.float32)
    count = k + asked.within + SPARE
    index = _flat_index(faiss, centred.cpu().numpy(), max(count, 2 * LIMIT))
    largest = float(squared_norms(centred).max())
    pending = torch.arange(len(queries), device=base.device)
    with tqdm(total=len(queries), desc="neighbours (faiss)", unit="row", disable=not asked.progress) as bar:
        while len(pending):
            undecided = []
            ask = min(count, len(base))
            for start in range(0, len(pending), ROW_TILE):
                rows = pending[start : start + ROW_TILE]
                tile = centred[rows] if asked.within else frame.centre_rows(queries[rows], torch.float32)
                squared, found = (
                    torch.from_numpy(part).to(base.device) for part in index.search(tile.cpu().numpy(), ask)
                )
                # Everything faiss did not return is at least as far as the last it did, less both errors.
                norms = squared_norms(tile)
                beyond = squared[:, -1].double() - slack(base.shape[1], torch.float32) * (norms + largest)
                beyond -= underflow(torch.float32, base.shape[1])
                beyond = lower_distances(beyond, base.shape[1], frame.scale).to(distances.dtype)
                if ask == len(base):
                    beyond.fill_(torch.inf)
                found = asked.drop(rows, found)
                indices[rows], distances[rows] = _exact.measure(asked, rows, found, frame.scale)
                decided = beyond > distances[rows, -1]
                decided |= torch.isinf(beyond)
                undecided.append(rows[~decided])
                bar.update(int(decided.sum()))
            pending = torch.cat(undecided)
            if count >= LIMIT:
                break
            count *= 2
    if len(pending):
        _exact.sweep(asked, pending, indices, distances, frame)
    return indices, distances


def _flat_index(faiss: Any, rows: np.ndarray[Any, np.dtype[np.float32]], most: int) -> Any:
    """A flat L2 index of `rows` for at most `most` neighbours, on all GPUs when faiss sees any and they can."""
    index = faiss.IndexFlatL2(rows.shape[1])
    if _gpus(faiss) > 0 and most <= GPU_LIMIT:
        index = faiss.index_cpu_to_all_gpus(index)
    index.add(rows)
    return index
