"""The k nearest other rows: one contract, several engines.

The contract, which every engine keeps and `knn_graph` documents: Euclidean distance, ascending; ties go to the lower
index; a row is never its own neighbour, by index, not by distance; -1 and inf where there is no neighbour.

======== ================================================================================= ==================
engine   what it is                                                                        needs
======== ================================================================================= ==================
exact    blockwise torch products, checked in float64; CPU and CUDA                        nothing more
faiss    faiss flat search for candidates, checked in float64; CPU, or GPU if faiss has it extra faiss-cpu/-gpu
auto     `exact`: complete without extras, on the device of the features, and as exact     nothing more
======== ================================================================================= ==================

A further engine is one module with a function `search` like `_exact.search`, and one line in `ENGINES`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic

import numpy as np

from pose2id.arrays import (
    ArrayT,
    check_choice,
    check_count,
    check_flag,
    encode_labels,
    take_features,
    take_labels,
    work_dtype,
)

if TYPE_CHECKING:
    import torch

    from pose2id.arrays import Labels

ENGINES = {"exact": "pose2id.neighbors._exact", "faiss": "pose2id.neighbors._faiss"}
"""Engine names and the modules whose `search` does the work."""


@dataclass(frozen=True, eq=False)
class Neighbors(Generic[ArrayT]):
    """Nearest neighbours, as `knn_graph` returns them.

    Attributes
    ----------
    indices : (N, k) int64
        Row indices of the neighbours, nearest first; -1 where there is none.
    distances : (N, k) float32 or float64
        Their Euclidean distances (not squared); inf where there is no neighbour.
    """

    indices: ArrayT
    distances: ArrayT


def knn_graph(
    features: ArrayT,
    k: int,
    *,
    exclude: Labels | None = None,
    engine: str = "auto",
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
    engine : {"auto", "exact", "faiss"}
        See `pose2id.neighbors`. All give the same answer.
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
    check_flag(progress, "progress")
    rows, kind = take_features(features)
    labels = take_exclude(exclude, rows)
    indices, distances = find_neighbors(rows, rows, k, labels, labels, engine=engine, progress=progress)
    import torch

    return Neighbors(kind.give_back(indices, torch.int64), kind.give_back(distances, work_dtype(rows.dtype)))


def take_exclude(exclude: Any, rows: torch.Tensor) -> torch.Tensor | None:
    """`exclude` as integer codes on the device of `rows`."""
    import torch

    if exclude is None:
        return None
    labels = take_labels(exclude, len(rows), "exclude")
    return torch.from_numpy(encode_labels([labels], ("exclude", "exclude"))[0]).to(rows.device)


def check_engine(engine: object) -> str:
    """The name of a real engine for `engine`, "auto" resolved."""
    engine = check_choice(engine, "engine", ("auto", *ENGINES))
    return "exact" if engine == "auto" else engine


def find_neighbors(
    queries: torch.Tensor,
    base: torch.Tensor,
    k: int,
    query_labels: torch.Tensor | None = None,
    base_labels: torch.Tensor | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest rows of `base` for every row of `queries`, by the contract; both (Q, k).

    Pass the same tensor twice for neighbours within one set: then a row is not its own neighbour.
    """
    import torch

    search = import_module(ENGINES[check_engine(engine)]).search
    within = min(k, len(base))  # a table of k columns is never built for fewer rows
    indices, distances = search(
        queries, base, max(1, within), query_labels=query_labels, base_labels=base_labels, progress=progress
    )
    if k > indices.shape[1]:
        indices = torch.nn.functional.pad(indices, (0, k - indices.shape[1]), value=-1)
        distances = torch.nn.functional.pad(distances, (0, k - distances.shape[1]), value=np.inf)
    return indices, distances


def find_farthest(rows: torch.Tensor, *, progress: bool = False) -> torch.Tensor:
    """The Euclidean distance of every row to the farthest other row, (n,) float64; 0 where all are identical."""
    from pose2id.neighbors import _exact

    return _exact.farthest(rows, progress=progress)


def describe_engines() -> list[tuple[str, bool, str]]:
    """Name, whether it works here, and a sentence, for every engine: what `pose2id doctor` prints.

    "Works" is tried, not assumed: three rows are searched.
    """
    import torch

    described = []
    for name, module in ENGINES.items():
        engine = import_module(module)
        usable, words = engine.probe()
        if usable is not None:
            rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]], device="cpu")
            try:
                found, _ = engine.search(rows, rows, 1)
                if found.flatten().tolist() != [1, 0, 0]:
                    usable, words = None, f"{words}; it found wrong neighbours: {found.flatten().tolist()}"
            except Exception as error:  # noqa: BLE001  whatever a broken build raises belongs into the report
                usable, words = None, f"{words}; {type(error).__name__}: {error}"
        described.append((name, usable is not None, words))
    return described
