"""The k nearest other rows: one contract, several engines.

The contract, which every engine keeps and `knn_graph` documents: Euclidean distance, ascending; ties go to the lower
index; a row is never its own neighbour, by index, not by distance; -1 and inf where there is no neighbour.

========== ======= ============================================================================== ==================
engine     finds   what it is                                                                     needs
========== ======= ============================================================================== ==================
exact      all     torch products, in int8 where that pays, checked in float64; CPU and CUDA      nothing more
faiss      all     faiss flat search for candidates, checked in float64; CPU, or GPU if faiss has extra faiss-cpu/-gpu
                   it
pivots     most    joins around pivots, for large sets; CPU and CUDA                              nothing more
faiss-ivf  most    faiss inverted file (IVFFlat), automatic size; CPU                             extra faiss-cpu/-gpu
faiss-hnsw most    faiss graph (HNSWFlat); CPU; with several threads not repeatable to the last   extra faiss-cpu/-gpu
                   neighbour
auto       all     `exact`: complete without extras, on the device of the features; see `AUTO`    nothing more
========== ======= ============================================================================== ==================

Engines that find most are approximate: they report real neighbours at their real distances, in the contract's order,
but may miss some, and then report farther ones, or -1 where they met none. How many are missed is measured by
`knn_graph(..., recall_sample=1000)`. None of them is ever chosen by "auto".

A further engine is one module with a function like `_exact.search`, and one line in `ENGINES`.
"""

from __future__ import annotations

import logging
import math
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pose2id.arrays import ArrayT, take_features, work_dtype
from pose2id.neighbors.contract import Neighbors, Search
from pose2id.validation import check_choice, check_count, check_flag, encode_labels, take_labels

if TYPE_CHECKING:
    from pose2id.validation import Labels

__all__ = [
    "AUTO",
    "ENGINES",
    "Choice",
    "Engine",
    "Neighbors",
    "Rule",
    "check_engine",
    "choose_engine",
    "describe_engines",
    "estimate",
    "find_both_ends",
    "find_neighbors",
    "knn_graph",
    "take_exclude",
]

logger = logging.getLogger("pose2id")


class Engine(NamedTuple):
    """Where an engine lives, and whether it finds all neighbours."""

    module: str
    search: str
    exact: bool


ENGINES = {
    "exact": Engine("pose2id.neighbors._exact", "search", exact=True),
    "faiss": Engine("pose2id.neighbors._faiss", "search", exact=True),
    "pivots": Engine("pose2id.neighbors._pivots", "search", exact=False),
    "faiss-ivf": Engine("pose2id.neighbors._faiss_index", "search_ivf", exact=False),
    "faiss-hnsw": Engine("pose2id.neighbors._faiss_index", "search_hnsw", exact=False),
}
"""Engine names, and where the work is done."""


class Rule(NamedTuple):
    """One line of the table `AUTO`: what "auto" takes below so many rows on a kind of device, and why."""

    device: str
    below: float
    engine: str
    reason: str
    hint: str


AUTO = (
    Rule("cpu", 3_000, "exact", "every engine needs a few hundredths of a second for so few rows", ""),
    Rule(
        "cpu",
        200_000,
        "exact",
        "its int8 filter: for k = 2 faiss takes twice its time at 3,368 rows, 4 to 6 times at 15,913, 10 at 50,000",
        "",
    ),
    Rule("cpu", np.inf, "exact", "no exact engine is faster, and an approximate one is never taken unasked", "pivots"),
    Rule("cuda", 2_000_000, "exact", "it works where the features are, without extras", ""),
    Rule(
        "cuda", np.inf, "exact", "it works where the features are; an approximate one is never taken unasked", "pivots"
    ),
)
"""What "auto" takes, the first line that fits. Measured on two cores with AVX512-VNNI, not on CUDA."""


class Choice(NamedTuple):
    """What "auto" takes for a set, and why; `hint` is the approximate engine worth a thought, or empty."""

    engine: str
    reason: str
    hint: str


def choose_engine(n: int, device: str = "cpu") -> Choice:
    """What "auto" takes for `n` rows on a device ("cpu" or "cuda"), and why.

    Neither the width nor the dtype of the rows changes the choice: `exact` is the only engine that finds all neighbours
    without extras, and the answer must not depend on what is installed.

    Examples
    --------
    >>> from pose2id.neighbors import choose_engine
    >>> choose_engine(500_000).engine, choose_engine(500_000).hint
    ('exact', 'pivots')
    """
    check_choice(device, "device", ("cpu", "cuda"))
    rule = next(rule for rule in AUTO if rule.device == device and n < rule.below)
    return Choice(rule.engine, rule.reason, rule.hint)


def estimate(engine: str, n: int, width: int, k: int = 2, threads: int = 1) -> tuple[float, float]:
    """Rough seconds on a CPU and rough bytes beside the features, for the k nearest within n rows of `width` columns.

    Fitted to CPU seconds on realistic float32 features of 768 columns, k = 2 and 20, on one core with AVX512-VNNI:
    20,000 rows for all, 200,000 for "pivots" and "faiss-ivf". A machine without takes longer, and so does structureless
    data.
    """
    pairs, entries = float(n) * n, float(n) * width
    if engine == "exact":
        seconds, memory = pairs * (2 + 0.3 * k + 0.0025 * width) * 1e-9, 3 * entries
    elif engine == "faiss":
        seconds, memory = pairs * (0.0215 * width + 0.1 * k) * 1e-9, 8 * entries
    elif engine == "pivots":
        seconds, memory = n * (5 + 3.5 * k + 0.03 * width + 4e-5 * n) * 1e-6, entries + 32.0 * n * (k + 1)
    elif engine == "faiss-ivf":
        seconds, memory = entries * n**0.5 * (1.8e-9 + 3e-11 * k), 4 * entries
    else:
        seconds, memory = entries * (0.043 * math.log2(n + 2) + 0.008 * k) * 1e-6, 4 * entries + 300.0 * n
    return seconds / threads, memory + 12.0 * n * k


def knn_graph(
    features: ArrayT,
    k: int,
    *,
    exclude: Labels | None = None,
    engine: str = "auto",
    recall_sample: int = 0,
    progress: bool = False,
) -> Neighbors[ArrayT]:
    """Find the k nearest other rows of every row.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; used as given, not normalised.
    k : int
        Neighbours per row, at least 1. Where there are fewer other rows, the rest is -1 and inf.
    exclude : (N,) integers or strings, optional
        Rows with equal labels are never neighbours (same camera, same frame, same tracklet).
    engine : {"auto", "exact", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        See `pose2id.neighbors`. The first three give the same answer; the others are approximate, for large sets: they
        may miss neighbours, and what they report is at its real distance.
    recall_sample : int
        Measure the recall on so many rows, evenly spread over all: their true neighbours are searched by the engine
        "exact", and the share of them that the result holds becomes its `sampled_recall`. Ties count by distance. 0
        for none.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Neighbors
        `indices` (N, k) int64 and `distances` (N, k), Euclidean, not squared; float64 for float64 features, else
        float32; container and device as the input. For float64 features the order is that of the float64 distance,
        for narrower ones that of the float64 distance rounded to float32; ties go to the lower index.

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point features (N, D), an integer k >= 1 and N labels.
    MissingExtraError
        When the engine is not installed.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import knn_graph
    >>> graph = knn_graph(np.array([[0.0], [1.0], [3.0]], dtype=np.float32), k=1)
    >>> graph.indices.ravel().tolist(), graph.distances.ravel().tolist()
    ([1, 0, 1], [1.0, 1.0, 2.0])
    """
    k = check_count(k, "k", 1)
    check_engine(engine)
    recall_sample = check_count(recall_sample, "recall_sample", 0)
    check_flag(progress, "progress")
    rows, kind = take_features(features)
    labels = take_exclude(exclude, rows)
    indices, distances = find_neighbors(rows, rows, k, labels, labels, within=True, engine=engine, progress=progress)
    recall = _measure_recall(rows, labels, distances, recall_sample, progress=progress) if recall_sample else None
    return Neighbors(kind.give_back(indices, torch.int64), kind.give_back(distances, work_dtype(rows.dtype)), recall)


def _measure_recall(
    rows: torch.Tensor, labels: torch.Tensor | None, distances: torch.Tensor, count: int, *, progress: bool
) -> float:
    """The share of the true neighbours of `count` rows that were found, given all rows' reported distances.

    Reported distances are real, so a reported neighbour is a true one if it is no farther than the farthest true one.
    1.0 where there is nothing to find.
    """
    n, k = distances.shape
    at = torch.linspace(0, max(n - 1, 0), min(count, n), dtype=torch.float64, device=rows.device).round().long()
    own = None if labels is None else labels[at]
    # One more than asked for: as queries of another set, rows find themselves, unless k + 1 duplicates come first.
    near, true = find_neighbors(rows[at], rows, k + 1, own, labels, engine="exact", progress=progress)
    others = (near >= 0) & (near != at[:, None])
    counts = others.sum(dim=1).clamp(max=k)
    true = true.masked_fill(~others, torch.inf).sort(dim=1).values
    reach = true.gather(1, (counts - 1).clamp(min=0)[:, None])
    hits = (distances[at] <= reach).sum(dim=1).minimum(counts)
    return int(hits.sum()) / int(counts.sum()) if bool(counts.any()) else 1.0


def take_exclude(exclude: Any, rows: torch.Tensor) -> torch.Tensor | None:
    """`exclude` as integer codes on the device of `rows`."""
    if exclude is None:
        return None
    labels = take_labels(exclude, len(rows), "exclude")
    return torch.from_numpy(encode_labels([labels], ("exclude", "exclude"))[0]).to(rows.device)


def check_engine(engine: object) -> str:
    """The name of an engine, or "auto"."""
    return check_choice(engine, "engine", ("auto", *ENGINES))


def find_neighbors(
    queries: torch.Tensor,
    base: torch.Tensor,
    k: int,
    query_labels: torch.Tensor | None = None,
    base_labels: torch.Tensor | None = None,
    *,
    within: bool = False,
    engine: str = "auto",
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (Q, k) and distances (Q, k) of the k nearest rows of `base` for every row of `queries`, by the contract.

    `within` says that the queries are the rows of the base: then row i is not its own neighbour. Whether both names
    hold one tensor, a view or a copy does not matter.
    """
    if within and queries.shape != base.shape:
        raise ValueError(
            "within=True means that the queries are the rows of the base, "
            f"received {tuple(queries.shape)} and {tuple(base.shape)}; pass the same rows, or within=False"
        )
    check_engine(engine)
    if engine == "auto":
        choice = choose_engine(len(base), base.device.type)
        if choice.hint and within:
            _hint(choice, base, k)
        engine = choice.engine
    search = _search_of(engine)
    wanted = max(1, min(k, len(base)))  # a table of k columns is never built for fewer rows
    asked = Search(base if within else queries, base, wanted, query_labels, base_labels, within, progress)
    indices, distances = search(asked)
    if k > indices.shape[1]:
        indices = torch.nn.functional.pad(indices, (0, k - indices.shape[1]), value=-1)
        distances = torch.nn.functional.pad(distances, (0, k - distances.shape[1]), value=np.inf)
    return indices, distances


def _search_of(name: str) -> Any:
    engine = ENGINES[name]
    return getattr(import_module(engine.module), engine.search)


def _hint(choice: Choice, base: torch.Tensor, k: int) -> None:
    """Say that the search will take long, and what would be faster."""
    threads = torch.get_num_threads()
    times = [estimate(engine, len(base), base.shape[1], k, threads)[0] for engine in (choice.engine, choice.hint)]
    about = f" (on a CPU about {times[1] / 60:.1f} instead of {times[0] / 60:.0f} minutes)"
    logger.warning(
        "engine 'auto' takes '%s' for %d rows; engine='%s' is much faster and misses a few neighbours%s; "
        "engine='%s' says this no more",
        *(choice.engine, len(base), choice.hint, about if base.device.type == "cpu" else "", choice.engine),
    )


def find_both_ends(
    rows: torch.Tensor, k: int, *, engine: str = "auto", progress: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The k nearest other rows of every row, as `find_neighbors` gives them, and the distance to the farthest.

    That one is float64, (n,), Euclidean; 0 where all rows are identical.
    """
    from pose2id.neighbors import _exact

    name = choose_engine(len(rows), rows.device.type).engine if engine == "auto" else engine
    if name == "exact" and k < len(rows):
        return _exact.search_both_ends(Search(rows, rows, k, within=True, progress=progress))
    near, distances = find_neighbors(rows, rows, k, within=True, engine=engine, progress=progress)
    return near, distances, _exact.farthest(rows, progress=progress)


def describe_engines() -> list[tuple[str, bool, str]]:
    """Name, whether it works here, and a sentence, for every engine: what `pose2id doctor` prints.

    "Works" is tried, not assumed: three rows are searched.
    """
    described = []
    for name, engine in ENGINES.items():
        usable, words = import_module(engine.module).probe()
        if usable is not None:
            rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]], device="cpu")
            try:
                found, _ = _search_of(name)(Search(rows, rows, 1, within=True))
                if found.flatten().tolist() != [1, 0, 0]:
                    usable, words = None, f"{words}; it found wrong neighbours: {found.flatten().tolist()}"
            except Exception as error:  # noqa: BLE001  whatever a broken build raises belongs into the report
                usable, words = None, f"{words}; {type(error).__name__}: {error}"
        described.append((name, usable is not None, words))
    return described
