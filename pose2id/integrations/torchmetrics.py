"""`ReIDScores`: mAP and CMC by a protocol as a metric of torchmetrics, of features as they are or centralized.

Import it by its full path: `from pose2id.integrations.torchmetrics import ReIDScores`. torchmetrics is not a dependency
of pose2id; install it with `pip install torchmetrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import take_floats
from pose2id.errors import MissingExtraError
from pose2id.evaluation import METRICS, PROTOCOLS, Protocol, Scores, evaluate_features
from pose2id.integrations.sides import Sides
from pose2id.validation import check_choice, check_count, check_flag, is_tensor, take_labels

try:
    from torchmetrics import Metric
except ImportError as error:
    raise MissingExtraError(
        "pose2id.integrations.torchmetrics needs torchmetrics 1.0 or newer: pip install 'torchmetrics>=1.0'",
        extra="torchmetrics",
        package="torchmetrics",
    ) from error

SETTINGS = ("k1", "k2", "alpha", "engine", "exclude")
"""What `centralize=True` may be told."""
_CAMS, _QUERY, _ROWS = 1, 2, 4  # which labels were given: the last column of the state


class ReIDScores(Metric):  # type: ignore[misc]
    """Scores of a validation run, batch by batch: mAP, mINP and CMC by a protocol, cameras and junk included.

    Unlike the metrics of `torchmetrics.retrieval` it takes features, not pairs; it knows which gallery items a query is
    not scored on; and no item counts as wrong because its score is not positive.

    Parameters
    ----------
    protocol, metric
        As for `pose2id.evaluate_features`.
    ranks : sequence of int
        Which entries of CMC `compute` gives.
    centralize : bool
        Centralize queries and gallery before they are scored, each side by itself.
    **settings
        With `centralize`: `k1`, `k2`, `alpha`, `engine` as for `pose2id.centralize`, and `exclude`, None or "cams":
        neighbours come from other cameras only. The rest is what every metric of torchmetrics takes, such as
        `process_group`.

    Notes
    -----
    Two of them in one `MetricCollection`, one with `centralize` and one without, hold the features once.

    On several processes each row goes to all of them when `compute` is called. A `DistributedSampler` repeats rows to
    fill up the last batch, and repeated rows change scores: pass `rows`, the number of each sample in its data set.
    Then each counts once, and stands in the order of the data set, as in one process. Each process must have rows.

    Examples
    --------
    >>> import torch
    >>> from pose2id.integrations.torchmetrics import ReIDScores
    >>> metric = ReIDScores(ranks=(1, 2))
    >>> metric.update(torch.tensor([[1.0, 0.0]]), ids=torch.tensor([7]), cams=torch.tensor([1]), query=True)
    >>> gallery = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.5, 0.5]])
    >>> metric.update(gallery, ids=torch.tensor([7, 5, 7]), cams=torch.tensor([1, 2, 2]), query=False)
    >>> {name: value.item() for name, value in metric.compute().items()}
    {'mAP': 0.5, 'mINP': 0.5, 'R1': 0.0, 'R2': 1.0}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    features: Any  # a list of (B, D), after a synchronization one tensor
    labels: Any  # likewise, (B, 5): id, camera, whether a query, row, which of them were given

    def __init__(
        self,
        *,
        protocol: str | Protocol = "market1501",
        metric: str = "euclidean",
        ranks: Sequence[int] = (1, 5, 10),
        centralize: bool = False,
        **settings: Any,
    ) -> None:
        own = {name: settings.pop(name) for name in SETTINGS if name in settings}
        super().__init__(**settings)
        if not isinstance(protocol, Protocol):
            check_choice(protocol, "protocol", tuple(PROTOCOLS))
        self.protocol = protocol
        self.metric = check_choice(metric, "metric", METRICS)
        self.ranks = tuple(check_count(rank, "ranks", 1) for rank in ranks)
        self.centralize = check_flag(centralize, "centralize")
        if own and not self.centralize:
            raise ValueError(f"{', '.join(own)} needs centralize=True, received False")
        self.sides = Sides(**own)
        self.add_state("features", default=[], dist_reduce_fx="cat")
        self.add_state("labels", default=[], dist_reduce_fx="cat")

    def update(self, features: Any, ids: Any, cams: Any = None, *, query: Any = None, rows: Any = None) -> None:
        """Keep a batch.

        Parameters
        ----------
        features : (B, D) torch tensor or numpy array
            As the model gives them; on the device where they shall be scored.
        ids, cams : (B,) integers
            As for `pose2id.evaluate_features`; `cams` in every update or in none.
        query : bool or (B,) bools, optional
            Which rows are queries; the others are the gallery. Without it all rows are one set, and each is scored
            against the others.
        rows : (B,) integers, optional
            The number of each sample in its data set, queries and gallery each from 0: what comes twice counts once.

        Raises
        ------
        TypeError, ValueError
            For wrong shapes and dtypes, and for labels that are strings.
        """
        taken, _ = take_floats(features, "features", "(B, D)")
        n = len(taken)
        columns = [
            _take_integers(ids, n, "ids"),
            np.zeros(n, np.int64) if cams is None else _take_integers(cams, n, "cams"),
            np.zeros(n, np.int64) if query is None else _take_marks(query, n),
            np.zeros(n, np.int64) if rows is None else _take_integers(rows, n, "rows"),
            np.full(n, _CAMS * (cams is not None) + _QUERY * (query is not None) + _ROWS * (rows is not None)),
        ]
        self.features.append(taken)
        self.labels.append(torch.from_numpy(np.stack(columns, axis=1)).to(taken.device))

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """Keep a batch, as `update`: a batch by itself has no scores."""
        self.update(*args, **kwargs)

    def set_dtype(self, dst_type: str | torch.dtype) -> ReIDScores:
        """Turn features, and what `compute` gives, into another dtype; labels stay integers.

        Parameters
        ----------
        dst_type : dtype or str
            Such as ``torch.float64``.

        Returns
        -------
        ReIDScores
            Itself.
        """
        kept, self.labels = self.labels, []
        super().set_dtype(dst_type)
        self.labels = kept
        return self

    def compute(self) -> dict[str, torch.Tensor]:
        """Scores of all rows.

        Returns
        -------
        dict of str to tensor
            "mAP", "mINP" and "R1", "R5", ... as `ranks` say, fractions.
        """
        scores = self.scores()
        values = {"mAP": scores.mAP, "mINP": scores.mINP, **{f"R{k}": scores.rank(k) for k in self.ranks}}
        return {name: torch.tensor(value, dtype=self.dtype, device=self.device) for name, value in values.items()}

    def scores(self) -> Scores:
        """All that `pose2id.evaluate_features` tells of the rows of this process, the span of ties too.

        Returns
        -------
        Scores
            In `with metric.sync_context(): metric.scores()` that of the rows of all processes.
        """
        features, labels = (_join(state) for state in (self.features, self.labels))
        ids, cams, marks, rows, given = labels.cpu().numpy().T
        if (given != given[0]).any():
            raise ValueError("cams, query and rows must each be given in every update or in none")
        order = np.arange(len(ids))
        if given[0] & _ROWS:
            order = np.unique(np.stack([marks, rows]), axis=1, return_index=True)[1]
        if not given[0] & _QUERY:
            return self._score(features, ids, cams if given[0] & _CAMS else None, [order])
        sides = [order[marks[order] == mark] for mark in (1, 0)]
        for side, name in zip(sides, ("query", "gallery"), strict=True):
            if not len(side):
                raise ValueError(f"at least one row must be of the {name}, received none of {len(order)}; pass query=")
        return self._score(features, ids, cams if given[0] & _CAMS else None, sides)

    def _score(
        self,
        features: torch.Tensor,
        ids: npt.NDArray[np.int64],
        cams: npt.NDArray[np.int64] | None,
        sides: list[npt.NDArray[np.int64]],
    ) -> Scores:
        """Scores of the rows of `sides`, queries and gallery, or one set."""
        if self.sides.exclude and cams is None:
            raise ValueError("exclude='cams' needs the cams of every update, received None")
        sets = [features[torch.from_numpy(side).to(features.device)] for side in sides]
        of_cams = [None if cams is None else cams[side] for side in sides]
        if self.centralize and len(sets) > 1:
            sets = list(self.sides.centralize(*sets, *of_cams))
        elif self.centralize:  # the other side is empty
            sets = [self.sides.centralize(sets[0], sets[0][:0], of_cams[0], [])[0]]
        gallery = (sets[1], ids[sides[0]], ids[sides[1]]) if len(sets) > 1 else (None, ids[sides[0]], None)
        return evaluate_features(sets[0], *gallery, *of_cams, protocol=self.protocol, metric=self.metric)


def _join(state: Any) -> torch.Tensor:
    """A state as one tensor: a list before a synchronization, a tensor after it."""
    if not len(state):
        raise ValueError("there must be rows to score, received none; call update first")
    return torch.cat(list(state)) if isinstance(state, list | tuple) else state


def _take_integers(labels: Any, n: int, name: str) -> npt.NDArray[np.int64]:
    """Labels as integers, which processes can exchange."""
    taken = take_labels(labels, n, name)
    if taken.dtype.kind == "U":
        raise TypeError(f"{name} must be integers, received strings; numpy.unique(..., return_inverse=True) has them")
    return taken


def _take_marks(query: Any, n: int) -> npt.NDArray[np.int64]:
    """Which of n rows are queries, as 1 and 0."""
    marks = np.asarray(query.cpu().numpy() if is_tensor(query) else query)
    if marks.dtype != bool or marks.shape not in ((), (n,)):
        raise TypeError(f"query must be True, False or ({n},) bools, received {marks.dtype} of shape {marks.shape}")
    return np.broadcast_to(marks, n).astype(np.int64)
