"""The engines `faiss-ivf` and `faiss-hnsw`: approximate neighbours from faiss's indexes, measured here.

faiss proposes, and may miss; what it proposes is measured as float64 differences, so that reported neighbours are real
ones, at their real distances and in the contract's order. Sets below `SMALLEST` rows are searched flat, by the engine
`faiss`, which misses nothing.

`faiss-ivf` (IVFFlat)
    4 sqrt(N) lists, the next power of two above, and at least 39 rows to each (below that faiss's k-means complains),
    trained on 64 rows per list with faiss's own fixed seed; 8 lists are searched, and one more for every 4 neighbours.
    Of the mutual pairs among 200,000 x 768 realistic rows this found .993 (.989 with 4 lists; .988 with 1789 of them).
`faiss-hnsw` (HNSWFlat)
    32 links, 80 candidates while building, 64 or 4 k while searching. Several threads build a slightly different
    graph each time.

Both work on the CPU, with a float32 copy of the rows inside the index.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from pose2id.distances import Frame
from pose2id.neighbors import _exact, _faiss
from pose2id.neighbors.contract import Search

SMALLEST = 1000
ROWS_PER_LIST = 39
TRAINING_ROWS = 64

probe = _faiss.probe


def search_ivf(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Near rows by inverted lists; by the contract, but neighbours may be missing."""

    def build(faiss: Any, frame: Frame, rows: torch.Tensor) -> Any:
        n, width = rows.shape
        lists = min(1 << int(4 * n**0.5).bit_length(), n // ROWS_PER_LIST)
        quantizer = faiss.IndexFlatL2(width)
        index = faiss.IndexIVFFlat(quantizer, width, lists)
        index.nprobe = min(lists, 8 + asked.k // 4)
        at = torch.linspace(0, n - 1, min(n, TRAINING_ROWS * lists), dtype=torch.float64, device=rows.device).long()
        index.train(frame.centre_rows(rows[at], torch.float32).cpu().numpy())
        return index

    return _search("faiss-ivf", build, asked)


def search_hnsw(asked: Search) -> tuple[torch.Tensor, torch.Tensor]:
    """Near rows by a graph; by the contract, but neighbours may be missing."""

    def build(faiss: Any, _: Frame, rows: torch.Tensor) -> Any:
        index = faiss.IndexHNSWFlat(rows.shape[1], 32)
        index.hnsw.efConstruction = 80
        index.hnsw.efSearch = max(64, 4 * asked.k)
        return index

    return _search("faiss-hnsw", build, asked)


def _search(
    name: str, build: Callable[[Any, Frame, torch.Tensor], Any], asked: Search
) -> tuple[torch.Tensor, torch.Tensor]:
    """Build an index, ask it, measure what it proposes; rows left short by `exclude` ask for twice as many."""
    faiss = _faiss.require_faiss(name)
    queries, base, k = asked.queries, asked.base, asked.k
    if len(base) < SMALLEST:
        return _faiss.search(asked)
    indices, distances = asked.no_neighbors()
    step, silent = _faiss.ROW_TILE, not asked.progress
    frame = Frame(base, queries)
    index = build(faiss, frame, base)
    for start in tqdm(range(0, len(base), step), desc=f"index ({name})", disable=silent):
        index.add(frame.centre_rows(base[start : start + step], torch.float32).cpu().numpy())
    pending = torch.arange(len(queries), device=base.device)
    ask = min(len(base), k + asked.within + _faiss.SPARE)
    with tqdm(total=len(queries), desc=f"neighbours ({name})", unit="row", disable=silent) as bar:
        while len(pending):
            short = []
            for start in range(0, len(pending), step):
                rows = pending[start : start + step]
                _, found = index.search(frame.centre_rows(queries[rows], torch.float32).cpu().numpy(), ask)
                found = asked.drop(rows, torch.from_numpy(found).to(base.device))
                indices[rows], distances[rows] = _exact.measure(asked, rows, found, frame.scale)
                missing = indices[rows, -1] < 0
                short.append(rows[missing])
                bar.update(int((~missing).sum()))
            pending = torch.cat(short)
            if ask >= min(len(base), max(_faiss.LIMIT, 2 * k)):
                break
            ask = min(2 * ask, len(base))
    return indices, distances
