"""Centralized features and scores in a FiftyOne dataset: `centralize_samples`, `score_samples`.

Import them by the full path: `from pose2id.integrations.fiftyone import centralize_samples`. Nothing of FiftyOne is
imported here: samples are read by `values` and written by `set_values`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pose2id.centralization import centralize
from pose2id.evaluation import Protocol, Scores, evaluate_features


def centralize_samples(
    samples: Any,
    embeddings: str = "embeddings",
    field: str | None = "centralized",
    *,
    k1: int = 2,
    k2: int = 2,
    alpha: float = 0.0,
    exclude: str | None = None,
    engine: str = "auto",
) -> npt.NDArray[Any]:
    """Centralize the embeddings of samples, and store the result beside them.

    Call it for the queries and for the gallery, `dataset.match_tags("query")` and `dataset.match_tags("gallery")`: no
    feature of one enters the other.

    Parameters
    ----------
    samples : fiftyone.core.collections.SampleCollection
        A dataset or a view.
    embeddings : str
        The field that holds a vector for each sample, such as that of `samples.compute_embeddings(model,
        embeddings_field="embeddings")`.
    field : str, optional
        The field that receives the centralized vectors; None: they are only returned.
    k1, k2, alpha, engine
        As for `pose2id.centralize`.
    exclude : str, optional
        A field of integers or strings: samples with equal values never pull each other. Such as the camera.

    Returns
    -------
    (N, D) array
        In the order of the samples.

    Raises
    ------
    TypeError, ValueError
        As `pose2id.centralize`; for samples without a vector or a label.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.integrations.fiftyone import centralize_samples
    >>> class Samples(dict):  # in place of a dataset of FiftyOne
    ...     values, set_values = dict.__getitem__, dict.__setitem__
    >>> samples = Samples(embeddings=[np.array([1.0, 0.0]), np.array([0.6, 0.8]), np.array([0.0, -1.0])])
    >>> centralize_samples(samples, k1=1, k2=1).round(3).tolist()
    [[0.894, 0.447], [0.894, 0.447], [0.0, -1.0]]
    >>> samples["centralized"][2].tolist()
    [0.0, -1.0]
    """
    labels = None if exclude is None else _read(samples, exclude)
    settings: dict[str, Any] = {"k1": k1, "k2": k2, "alpha": alpha, "exclude": labels, "engine": engine}
    pulled: npt.NDArray[Any] = centralize(read_vectors(samples, embeddings), **settings)
    if field is not None:
        samples.set_values(field, list(pulled))
    return pulled


def score_samples(
    query: Any,
    gallery: Any,
    embeddings: str = "centralized",
    *,
    ids: str = "ground_truth.label",
    cams: str | None = None,
    protocol: str | Protocol = "market1501",
    metric: str = "cosine",
    field: str | None = "average_precision",
) -> Scores:
    """Score queries against a gallery, and store the average precision of each query.

    Then `query.sort_by("average_precision")` shows the worst ones first.

    Parameters
    ----------
    query, gallery : fiftyone.core.collections.SampleCollection
        Datasets or views. `gallery` None: each sample of `query` is scored against the others.
    embeddings : str
        The field that holds a vector for each sample.
    ids, cams : str
        The fields of identities and cameras, integers or strings; without `cams` nothing is removed for its camera.
    protocol, metric
        As for `pose2id.evaluate_features`.
    field : str, optional
        The field of the queries that receives their average precision, None where a query has no right answer.

    Returns
    -------
    Scores
        As of `pose2id.evaluate_features`.

    Raises
    ------
    TypeError, ValueError
        As `pose2id.evaluate_features`; for samples without a vector or a label.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.integrations.fiftyone import score_samples
    >>> class Samples(dict):  # in place of a dataset of FiftyOne
    ...     values, set_values = dict.__getitem__, dict.__setitem__
    >>> samples = Samples(vector=list(np.eye(3, 2) + 0.1), person=["a", "a", "b"])
    >>> score_samples(samples, None, "vector", ids="person").mAP
    0.5
    >>> samples["average_precision"]
    [0.5, 0.5, None]
    """
    given: list[tuple[Any, Any, Any]] = [
        (None, None, None)
        if side is None
        else (read_vectors(side, embeddings), _read(side, ids), None if cams is None else _read(side, cams))
        for side in (query, gallery)
    ]
    vectors, identities, cameras = zip(*given, strict=True)
    scores = evaluate_features(*vectors, *identities, *cameras, protocol=protocol, metric=metric)
    if field is not None:
        query.set_values(field, [None if np.isnan(value) else float(value) for value in scores.average_precision])
    return scores


def read_vectors(samples: Any, field: str) -> npt.NDArray[Any]:
    """The vectors of samples as one array, (N, D).

    Parameters
    ----------
    samples : fiftyone.core.collections.SampleCollection
        A dataset or a view.
    field : str
        The field that holds them.

    Returns
    -------
    (N, D) array
        float32 unless they are float64.

    Raises
    ------
    ValueError
        For samples without one, or vectors of several lengths.

    Examples
    --------
    >>> from pose2id.integrations.fiftyone import read_vectors
    >>> class Samples(dict):  # in place of a dataset of FiftyOne
    ...     values = dict.__getitem__
    >>> read_vectors(Samples(embeddings=[[1.0, 0.0], [0.0, 1.0]]), "embeddings").shape
    (2, 2)
    """
    rows = [np.asarray(row) for row in _read(samples, field, "compute_embeddings(model, embeddings_field=...)")]
    lengths = sorted({row.shape for row in rows})
    if len(lengths) > 1 or (lengths and len(lengths[0]) != 1):
        raise ValueError(f"field {field!r} must hold vectors of one length, received shapes {lengths[:3]}")
    return np.stack(rows) if rows else np.empty((0, 1), np.float32)


def _read(samples: Any, field: str, remedy: str = "set_values") -> list[Any]:
    """The values of a field, all of them there."""
    if not hasattr(samples, "values"):
        raise TypeError(f"samples must be a dataset or a view of FiftyOne, received {type(samples).__name__}")
    values = list(samples.values(field))
    gaps = sum(value is None for value in values)
    if gaps:
        raise ValueError(
            f"field {field!r} must have a value in every sample, received {gaps} of {len(values)} without; "
            f"leave them out with samples.exists({field!r}), or fill them by {remedy}"
        )
    return values
