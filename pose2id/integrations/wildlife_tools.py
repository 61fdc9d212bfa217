"""`CentralizedSimilarity`: a matcher of wildlife-tools on centralized features, in versions 1.0 and 0.0.9.

Import it by its full path: `from pose2id.integrations.wildlife_tools import CentralizedSimilarity`. Nothing of
wildlife-tools is imported here: its data sets are recognised by `features` and `metadata`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from pose2id.centralization import centralize, check_parameters


class CentralizedSimilarity:
    """Centralize queries and database, each by itself, and give them to a matcher.

    It stands where the matcher stood: called by itself, or as the `matcher` of a `SimilarityPipeline`, calibrated or
    not, and so in `WildFusion`.

    Parameters
    ----------
    matcher : callable
        Such as `CosineSimilarity()`.
    k1, k2, alpha, engine
        As for `pose2id.centralize`.
    exclude : str, optional
        A column of the metadata: images with equal values in it never pull each other. Such as the camera, or the
        encounter.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.integrations.wildlife_tools import CentralizedSimilarity
    >>> def cosine(query, database):  # in place of wildlife_tools.similarity.CosineSimilarity()
    ...     return query @ database.T
    >>> query, database = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    >>> CentralizedSimilarity(cosine, k1=1, k2=1)(query, database).round(3).tolist()
    [[0.894, 0.894, 0.0]]
    """

    def __init__(
        self,
        matcher: Callable[..., Any],
        k1: int = 2,
        k2: int = 2,
        *,
        alpha: float = 0.0,
        exclude: str | None = None,
        engine: str = "auto",
    ) -> None:
        if not callable(matcher):
            raise TypeError(f"matcher must be callable, such as CosineSimilarity(), received {matcher!r}")
        check_parameters(1.0, k1, k2, alpha, True, engine)
        self.matcher, self.exclude = matcher, exclude
        self.k1, self.k2, self.alpha, self.engine = k1, k2, alpha, engine

    def __call__(self, query: Any, database: Any, **options: Any) -> Any:
        """What the matcher says of the centralized features.

        Parameters
        ----------
        query, database : FeatureDataset or (N, D) array
            Left as they are.
        **options
            Handed on, such as `pairs`.

        Returns
        -------
        array or dict
            As the matcher gives it: (Q, N) similarities in 1.0, a dict with them in 0.0.9.

        Raises
        ------
        TypeError, ValueError
            As `pose2id.centralize`; for a column that is not there or has gaps.
        """
        return self.matcher(self._pull(query), self._pull(database), **options)

    def _pull(self, given: Any) -> Any:
        """The same with centralized features, as the matcher takes it."""
        labels = None if self.exclude is None else _column(given, self.exclude)
        settings: dict[str, Any] = {"k1": self.k1, "k2": self.k2, "alpha": self.alpha, "engine": self.engine}
        rows = centralize(getattr(given, "features", given), exclude=labels, **settings)
        # The matchers of 0.0.9 share a base class that later ones do not have, and take arrays.
        of_arrays = any(base.__module__ == "wildlife_tools.similarity.base" for base in type(self.matcher).__mro__)
        if of_arrays or not hasattr(given, "features"):
            return rows
        pulled = copy.copy(given)
        pulled.features = rows
        return pulled


def _column(given: Any, name: str) -> npt.NDArray[Any]:
    """The values of a column of the metadata as labels."""
    metadata = getattr(given, "metadata", None)
    if metadata is None:
        raise TypeError(
            f"exclude={name!r} is a column of metadata, which {type(given).__name__} has not; "
            "give a FeatureDataset, or features of pose2id.centralize(..., exclude=labels) to the matcher itself"
        )
    if name not in metadata:
        raise ValueError(f"exclude must be a column of metadata, {', '.join(map(str, metadata))}, received {name!r}")
    gaps = int(metadata[name].isna().sum())
    if gaps:
        raise ValueError(f"metadata column {name!r} must have no gaps, received {gaps}; give these values of their own")
    return np.asarray(metadata[name].astype(str).tolist())
