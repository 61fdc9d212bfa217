"""`CentralizedKNN`: what pytorch-metric-learning's `AccuracyCalculator` searches with, on centralized features.

Import it by its full path: `from pose2id.integrations.pytorch_metric_learning import CentralizedKNN`. Nothing of
pytorch-metric-learning is imported here: it calls a function with tensors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from pose2id.arrays import take_features
from pose2id.centralization import centralize, check_parameters
from pose2id.neighbors import find_neighbors
from pose2id.validation import check_count, check_flag

if TYPE_CHECKING:
    from pose2id.validation import Labels


class CentralizedKNN:
    """A `knn_func`: centralizes queries and references, each set by itself, and finds the nearest references.

    Where the references include the queries, they are one set: it is centralized once, and no query finds itself.

    Parameters
    ----------
    k1, k2, alpha, normalize, engine
        As for `pose2id.centralize`; 0 for k1 or k2 leaves the features as they are, of length 1 with `normalize`.
    query_exclude, reference_exclude : (Q,) and (N,) integers or strings, optional
        `exclude` of each side, such as cameras: rows with equal labels never pull each other. In the order of the
        features that the calculator will be given. Where the references include the queries, the former is not used.

    Notes
    -----
    Equal distances come in the order of the references. `CustomKNN` and `FaissKNN` promise no order: with settings that
    make rows identical (k1 = k2 = 2) they give other numbers, within `Scores.span` of `evaluate_features`.

    Examples
    --------
    >>> import torch
    >>> from pose2id.integrations.pytorch_metric_learning import CentralizedKNN
    >>> knn = CentralizedKNN(k1=3, k2=3, alpha=4)  # AccuracyCalculator(knn_func=knn)
    >>> features = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    >>> distances, indices = knn(features, 1, features, ref_includes_query=True)
    >>> indices.tolist()
    [[1], [0], [0]]
    """

    def __init__(
        self,
        k1: int = 2,
        k2: int = 2,
        *,
        alpha: float = 0.0,
        normalize: bool = True,
        query_exclude: Labels | None = None,
        reference_exclude: Labels | None = None,
        engine: str = "auto",
    ) -> None:
        check_parameters(1.0, k1, k2, alpha, normalize, engine)
        self.k1, self.k2, self.alpha, self.normalize, self.engine = k1, k2, alpha, normalize, engine
        self.query_exclude, self.reference_exclude = query_exclude, reference_exclude

    def __call__(
        self,
        query: torch.Tensor,
        k: int,
        reference: torch.Tensor | None = None,
        ref_includes_query: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Find the k nearest references of each query.

        Parameters
        ----------
        query, reference : (Q, D) and (N, D) torch tensors
            As the model gave them.
        k : int
            How many; at most as many as there are, itself not counted.
        ref_includes_query : bool
            The first Q references are the queries.

        Returns
        -------
        (Q, k) distances, (Q, k) int64
            Euclidean distances of the centralized rows, ascending, and which references these are.

        Raises
        ------
        TypeError, ValueError
            As `pose2id.centralize`; without references, and for more neighbours than there are.
        """
        check_flag(ref_includes_query, "ref_includes_query")
        check_count(k, "k", 1)
        if reference is None:
            raise ValueError(
                "reference must be given, received None; for an InferenceModel train FaissKNN on "
                "pose2id.centralize(references)"
            )
        if query.shape[1:] != reference.shape[1:]:
            raise ValueError(
                f"query and reference must have equally many columns, received {tuple(query.shape)} and "
                f"{tuple(reference.shape)}"
            )
        if ref_includes_query and len(query) > len(reference):
            raise ValueError(f"reference must begin with the queries, received {len(reference)} rows for {len(query)}")
        if k > len(reference) - ref_includes_query:
            raise ValueError(f"k must be at most {len(reference) - ref_includes_query} here, received {k}")
        items, kind = take_features(self._pull(reference, self.reference_exclude), "reference")
        if ref_includes_query:  # who a row is decides, not where it lies: a twin is found
            asked = items[: len(query)]
            own = torch.arange(len(items), device=items.device)
            indices, distances = find_neighbors(asked, items, k, own[: len(query)], own, engine=self.engine)
        else:
            asked, _ = take_features(self._pull(query, self.query_exclude), "query")
            indices, distances = find_neighbors(asked, items, k, engine=self.engine)
        return kind.give_back(distances, distances.dtype), kind.give_back(indices, indices.dtype)

    def _pull(self, features: torch.Tensor, exclude: Labels | None) -> torch.Tensor:
        settings: dict[str, Any] = {"k1": self.k1, "k2": self.k2, "alpha": self.alpha, "normalize": self.normalize}
        pulled: torch.Tensor = centralize(features, exclude=exclude, engine=self.engine, **settings)
        return pulled
