"""`centralized`: the evaluator of TransReID, CLIP-ReID and what was made of them scores centralized features.

Import it by its full path: `from pose2id.integrations.transreid import centralized`. Nothing of those is imported
here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from pose2id.integrations.sides import Sides, replaced


@contextmanager
def centralized(evaluator: Any, /, **settings: Any) -> Iterator[None]:
    """Let `R1_mAP_eval` centralize queries and gallery before it computes, until the block ends.

    All the rest is theirs: extraction, re-ranking (of the centralized features), protocol. No file is edited.

    Parameters
    ----------
    evaluator : utils.metrics.R1_mAP_eval
        The class, for all that are built in the block, as by `do_inference` and `do_train`; or one object.
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
    These evaluators order equal distances by chance (`np.argsort`), and with the published settings, k1 = k2 = 2,
    there are many, because centralizing makes rows equal: their scores then lie within `Scores.span` of
    `pose2id.evaluate_features`, not necessarily on its `mAP`. With `k1=3, k2=3, alpha=4` there are hardly any.

    Their own re-ranking calculates in float16, so it differs from `pose2id.rerank` by some thousandths.

    Examples
    --------
    With the evaluator of TransReID::

        from utils.metrics import R1_mAP_eval

        with centralized(R1_mAP_eval, k1=3, k2=3, alpha=4, exclude="cams"):
            do_inference(cfg, model, val_loader, num_query)

    What is done to the features, by a stand-in for the evaluator:

    >>> import torch
    >>> from pose2id.integrations.transreid import centralized
    >>> class Evaluator:
    ...     num_query, camids = 2, [1, 2, 1]
    ...     feats = [torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])]
    ...     def compute(self):
    ...         return torch.cat(self.feats).double().round(decimals=2).tolist()
    >>> with centralized(Evaluator, k1=1, k2=1, exclude="cams"):
    ...     Evaluator().compute()
    [[0.95, 0.32], [0.95, 0.32], [0.0, 1.0]]
    """
    sides = Sides(**settings)

    def compute(before: Callable[..., Any], self: Any) -> Any:
        held, count = self.feats, self.num_query
        features, cams = torch.cat(held), [int(cam) for cam in self.camids]
        if not 0 < count < len(features):
            raise ValueError(f"the evaluator was built for {count} queries and holds {len(features)} rows in all")
        self.feats = list(sides.centralize(features[:count], features[count:], cams[:count], cams[count:]))
        try:
            return before()
        finally:
            self.feats = held

    with replaced(evaluator, "compute", compute):
        yield
