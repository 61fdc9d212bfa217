"""`centralized`: the evaluator of fast-reid scores centralized features.

Import it by its full path: `from pose2id.integrations.fastreid import centralized`. Nothing of fast-reid is
imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pose2id.integrations.sides import Sides, imported, replaced


@contextmanager
def centralized(evaluator: Any, /, **settings: Any) -> Iterator[None]:
    """Let a `ReidEvaluator` centralize queries and gallery before it evaluates, until the block ends.

    All the rest is fast-reid's: extraction, flipped images, query expansion (of the centralized features),
    `TEST.METRIC`, re-ranking, protocol. On several processes the first one gathers all features, and centralizes
    them. No file is edited.

    Parameters
    ----------
    evaluator : fastreid.evaluation.ReidEvaluator
        Or the class, for all evaluators that are built in the block, as by `DefaultTrainer.test(cfg, model)`.
    **settings
        `k1`, `k2`, `alpha`, `eta`, `normalize` and `engine` as for `pose2id.centralize`; `exclude="cams"`:
        neighbours come from other cameras only; `query_generated`, `gallery_generated`: generated features (N, M,
        D), in the order of the loader.

    Raises
    ------
    TypeError, ValueError
        For other settings, or no evaluator, at once.

    Notes
    -----
    fast-reid orders equal distances by chance (`np.argsort`), and with the published settings, k1 = k2 = 2, there
    are many, because centralizing makes rows equal: its scores then lie within `Scores.span` of
    `pose2id.evaluate_features`, not necessarily on its `mAP`. With `k1=3, k2=3, alpha=4` there are hardly any.

    Examples
    --------
    With fast-reid::

        with centralized(ReidEvaluator, k1=3, k2=3, alpha=4, exclude="cams"):
            DefaultTrainer.test(cfg, model)

    What is done to the features, by a stand-in for the evaluator:

    >>> import torch
    >>> from types import SimpleNamespace
    >>> from pose2id.integrations.fastreid import centralized
    >>> comm = SimpleNamespace(get_world_size=lambda: 1)
    >>> class Evaluator:
    ...     _num_query = 2
    ...     def process(self, features, cams):
    ...         self._predictions = [{"feats": torch.tensor(features), "camids": torch.tensor(cams)}]
    ...     def evaluate(self):
    ...         return self._predictions[0]["feats"].double().round(decimals=2).tolist()
    >>> evaluator = Evaluator()
    >>> evaluator.process([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], [1, 2, 1])
    >>> with centralized(evaluator, k1=1, k2=1, exclude="cams"):
    ...     evaluator.evaluate()
    [[0.95, 0.32], [0.95, 0.32], [0.0, 1.0]]
    >>> evaluator.evaluate()
    [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]
    """
    sides = Sides(**settings)

    def evaluate(before: Callable[..., Any], self: Any) -> Any:
        held = self._predictions
        self._predictions = _centralize(_gather(self), self._num_query, sides)
        try:
            return before()
        finally:
            self._predictions = held

    with replaced(evaluator, "evaluate", evaluate):
        yield


def _gather(evaluator: Any) -> list[dict[str, torch.Tensor]]:
    """The predictions of all processes on the first one, none on the others, as its `evaluate` would gather them."""
    predictions: list[dict[str, torch.Tensor]] = evaluator._predictions
    comm = imported(evaluator, "comm", "get_world_size")
    if comm.get_world_size() == 1:
        return predictions
    comm.synchronize()
    return [prediction for part in comm.gather(predictions, dst=0) for prediction in part]


def _centralize(predictions: list[dict[str, torch.Tensor]], count: int, sides: Sides) -> list[dict[str, torch.Tensor]]:
    """All predictions as one, with centralized features."""
    if not predictions:
        return predictions
    whole = {name: torch.cat([prediction[name] for prediction in predictions]) for name in predictions[0]}
    features, cams = whole["feats"], whole["camids"].tolist()
    if not 0 < count < len(features):
        raise ValueError(
            f"the evaluator was built for {count} queries and holds {len(features)} rows, queries and gallery"
        )
    pulled = sides.centralize(features[:count], features[count:], cams[:count], cams[count:])
    return [{**whole, "feats": torch.cat(pulled)}]
