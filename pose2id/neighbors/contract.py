"""The contract of the search for neighbours: its rules, what is asked (`Search`), and what users get (`Neighbors`).

Every engine keeps these rules; `knn_graph` documents them for users.

- Distances are Euclidean, not squared. They are computed as differences in float64 and rounded to the *working dtype*:
  float64 for float64 features, float32 for narrower ones.
- Neighbours come in ascending order of the rounded distance; ties go to the lower index.
- Where queries are the rows of the base itself (`within`), a row is never its own neighbour: by index, not by distance.
- Pairs with equal labels do not count.
- Where there is no neighbour, the index is -1 and the distance inf. They stand at the end of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic

import torch

from pose2id.arrays import ArrayT, work_dtype


@dataclass(frozen=True, eq=False)
class Neighbors(Generic[ArrayT]):
    """Nearest neighbours, as `knn_graph` returns them.

    Attributes
    ----------
    indices : (N, k) int64
        Row indices of the neighbours, nearest first; -1 where there is none.
    distances : (N, k) float32 or float64
        Their Euclidean distances (not squared); inf where there is no neighbour.
    sampled_recall : float or None
        With `recall_sample`: the share of the true neighbours of the sampled rows that were found. Else None.
    """

    indices: ArrayT
    distances: ArrayT
    sampled_recall: float | None = None


@dataclass(frozen=True, eq=False)
class Search:
    """What is asked of an engine: the k nearest rows of `base` for every row of `queries`."""

    queries: torch.Tensor  # (Q, D); the base itself if `within`
    base: torch.Tensor  # (N, D)
    k: int  # at least 1
    query_labels: torch.Tensor | None = None  # (Q,) int64; pairs with equal labels do not count
    base_labels: torch.Tensor | None = None  # (N,) int64
    within: bool = False  # query i is row i of the base, and not its own neighbour
    progress: bool = False  # show a progress bar

    def no_neighbors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices (Q, k) and distances (Q, k) where nothing is found yet: -1 and inf."""
        shape, device = (len(self.queries), self.k), self.base.device
        indices = torch.full(shape, -1, dtype=torch.int64, device=device)
        return indices, torch.full(shape, torch.inf, dtype=work_dtype(self.base.dtype), device=device)

    def labelled_alike(self, rows: torch.Tensor | slice, columns: torch.Tensor | slice) -> torch.Tensor | None:
        """Which pairs of `rows` (r,) and `columns`, (c,) or (r, c), have equal labels, (r, c) bool; None without."""
        if self.query_labels is None or self.base_labels is None:
            return None
        return self.query_labels[rows][:, None] == self.base_labels[columns]

    def drop(self, rows: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """`found` (r, c), rows of the base proposed to the queries `rows`, with -1 for those that do not count."""
        if self.within:
            found = torch.where(found == rows[:, None], -1, found)
        alike = self.labelled_alike(rows, found.clamp(min=0))
        return found if alike is None else torch.where(alike, -1, found)
