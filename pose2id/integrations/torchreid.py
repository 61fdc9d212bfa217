"""`centralized`: an engine of torchreid tests centralized features.

Import it by its full path: `from pose2id.integrations.torchreid import centralized`. Nothing of torchreid is imported
here, so it works with the releases of the registry and with those of GitHub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch

from pose2id.integrations.sides import Sides, imported, replaced


@contextmanager
def centralized(engine: Any, /, **settings: Any) -> Iterator[None]:
    """Let an engine centralize queries and gallery before it measures distances, until the block ends.

    All the rest is torchreid's: extraction, `normalize_feature` (before), `dist_metric`, re-ranking (of the
    centralized features), protocol, pictures. No file is edited.

    Parameters
    ----------
    engine : torchreid.engine.Engine
        For images or videos; or a class of engines.
    **settings
        `k1`, `k2`, `alpha`, `eta`, `normalize` and `engine` as for `pose2id.centralize`; `exclude="cams"`:
        neighbours come from other cameras only, which the engine's own `parse_data_for_eval` tells;
        `query_generated`, `gallery_generated`: generated features (N, M, D), in the order of the loaders, of length 1
        where `normalize_feature` makes the others so.

    Raises
    ------
    TypeError, ValueError
        For other settings, or no engine, at once.
    RuntimeError
        If an engine evaluates without `metrics.compute_distance_matrix`, so that nothing would be centralized.

    Notes
    -----
    torchreid orders equal distances by chance (`np.argsort`), and with the published settings, k1 = k2 = 2, there
    are many, because centralizing makes rows equal: its scores then lie within `Scores.span` of
    `pose2id.evaluate_features`, not necessarily on its `mAP`. With `k1=3, k2=3, alpha=4` there are hardly any.

    Examples
    --------
    With an engine of torchreid::

        with centralized(engine, k1=3, k2=3, alpha=4, exclude="cams"):
            engine.test(dist_metric="cosine")

    What is done to the features, by a stand-in for the engine:

    >>> import torch
    >>> from types import SimpleNamespace
    >>> from pose2id.integrations.torchreid import centralized
    >>> metrics = SimpleNamespace(compute_distance_matrix=torch.cdist)
    >>> class Engine:
    ...     def parse_data_for_eval(self, data):
    ...         return data, None, torch.tensor([1, 2])
    ...     def _evaluate(self):
    ...         rows, _, _ = self.parse_data_for_eval(torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    ...         gallery, _, _ = self.parse_data_for_eval(torch.tensor([[0.8, 0.6], [0.0, -1.0]]))
    ...         return metrics.compute_distance_matrix(rows, gallery).double().round(decimals=2).tolist()
    >>> Engine()._evaluate()
    [[0.63, 1.41], [0.28, 1.9]]
    >>> with centralized(Engine, k1=1, k2=1):
    ...     Engine()._evaluate()
    [[0.89, 0.89], [0.89, 0.89]]
    """
    sides = Sides(**settings)

    def evaluate(before: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
        thread = get_ident()
        cams: list[Any] = []
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []  # features as the engine holds them, and centralized

        def parse(before: Callable[..., Any], _: Any, data: Any) -> Any:
            parsed = before(data)
            cams.extend(parsed[2].tolist())
            return parsed

        def measure(before: Callable[..., Any], _: Any, input1: Any, input2: Any, *args: Any, **kwargs: Any) -> Any:
            if get_ident() != thread:  # another engine's: the function is of a module
                return before(input1, input2, *args, **kwargs)
            if not pairs:  # query and gallery; for re-ranking the same tensors come again, each with itself
                count = len(input1)
                if len(cams) != count + len(input2):
                    raise RuntimeError(
                        f"the engine parsed {len(cams)} rows, and measures {count} queries against {len(input2)}"
                    )
                pulled = sides.centralize(input1, input2, cams[:count], cams[count:])
                pairs.extend(zip((input1, input2), pulled, strict=True))
            inputs = (next((new for old, new in pairs if old is rows), rows) for rows in (input1, input2))
            return before(*inputs, *args, **kwargs)

        metrics = imported(self, "metrics", "compute_distance_matrix")
        with replaced(self, "parse_data_for_eval", parse), replaced(metrics, "compute_distance_matrix", measure):
            result = before(*args, **kwargs)
        if not pairs:
            raise RuntimeError(
                f"{type(self).__name__} evaluates without metrics.compute_distance_matrix, so nothing was centralized; "
                "call pose2id.centralize where it has the features"
            )
        return result

    with replaced(engine, "_evaluate", evaluate):
        yield
