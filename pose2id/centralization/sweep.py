"""`SearchedSet`: one set whose neighbours are searched once, and that is then centralized by several settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic

import torch

from pose2id.arrays import ArrayT, take_features
from pose2id.centralization.arguments import take_generated
from pose2id.centralization.fusion import FusedRows
from pose2id.centralization.mutual import add_mutual_neighbors, mutual_neighbors, search_neighbors
from pose2id.neighbors import take_exclude
from pose2id.threads import fit_threads

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels


class SearchedSet(Generic[ArrayT]):
    """Fused rows of one set, scaled to length 1, and the k nearest of each, from which several results are made.

    `SearchedSet(features, generated, eta, k, exclude=...).centralize(k1, k2, alpha)` has the bits of
    `pose2id.centralize` with these arguments, for k1 and k2 up to k. Beside the features it holds one more array of
    their size, and the neighbours.
    """

    @fit_threads
    def __init__(
        self,
        features: ArrayT,
        generated: Array | Sequence[Array] | None,
        eta: float,
        k: int,
        *,
        exclude: Labels | None = None,
        engine: str = "auto",
    ) -> None:
        rows, self._kind = take_features(features)
        averaged = [] if generated is None else take_generated(generated, rows, self._kind)
        self._fused = FusedRows(rows, averaged if eta else [], eta, normalize=True)
        self._memory = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
        searched = self._fused.write(self._memory)
        k, labels = min(k, max(len(rows) - 1, 0)), take_exclude(exclude, rows)
        self._table = search_neighbors(searched, self._fused.nonzero, k, labels, engine=engine)

    @fit_threads
    def centralize(self, k1: int, k2: int, alpha: float) -> ArrayT:
        """The rows with their mutual neighbours added, in a new array."""
        result = self._memory.clone()  # adding needs the fused rows where it writes
        add_mutual_neighbors(self._fused, mutual_neighbors(self._table, k1, k2), alpha, result)
        pulled: ArrayT = self._kind.give_back(result)
        return pulled
