"""`centralized_results`: retrieval results of OML (open-metric-learning) from centralized embeddings.

Import it by its full path: `from pose2id.integrations.oml import centralized_results`. OML is no dependency of
pose2id; install it with `pip install open-metric-learning omegaconf`.
"""

from __future__ import annotations

from typing import Any

import torch

from pose2id.centralization import centralize, check_parameters
from pose2id.errors import MissingExtraError
from pose2id.validation import take_labels


def centralized_results(
    embeddings: Any,
    dataset: Any,
    n_items: int = 100,
    *,
    k1: int = 2,
    k2: int = 2,
    alpha: float = 0.0,
    exclude: Any = None,
    generated: Any = None,
    eta: float = 1.0,
    engine: str = "auto",
    verbose: bool = False,
) -> Any:
    """`RetrievalResults.from_embeddings`, with the queries and the gallery of a data set centralized first.

    Each side is centralized by itself. A row that is both query and gallery gets two vectors, one for each side, so
    this cannot be done to `embeddings` in place. Like OML, such a query does not find itself, and rows of one
    `sequence` do not find each other.

    Parameters
    ----------
    embeddings : (N, D) tensor or array
        What `inference` gives, a row for each item of the data set.
    dataset : IQueryGalleryDataset
        Says which rows are queries and which are the gallery, and labels where it has some.
    n_items : int
        How many of the nearest gallery items to keep for a query. mAP over the whole list, as re-identification
        reports it, takes all of them: `len(dataset.get_gallery_ids())`.
    k1, k2, alpha, eta, engine
        As for `pose2id.centralize`.
    exclude : (N,) labels, optional
        Rows of one side with equal labels are never neighbours, such as the cameras of all items of the data set.
    generated : (N, M, D) tensor or array, optional
        Generated features of all items of the data set.
    verbose : bool
        Whether OML shows its bar.

    Returns
    -------
    oml.retrieval.RetrievalResults
        For OML's metrics, postprocessors and pictures.

    Raises
    ------
    MissingExtraError
        If OML is not installed.
    TypeError, ValueError
        As `pose2id.centralize`; for as many rows or labels as the data set has not.

    Notes
    -----
    OML finds items by `topk`, which orders equal distances by chance; see the page *Protocols*, *Order*. For the
    rule of Market-1501, under which a query is not scored on its own camera's items of its identity, give the data
    set the column `sequence` with `f"{identity}_{camera}"`.

    Examples
    --------
    >>> from pose2id.integrations.oml import centralized_results
    >>> results = centralized_results(embeddings, dataset, k1=3, k2=3, alpha=4, exclude=cams)  # doctest: +SKIP
    >>> calc_retrieval_metrics_rr(results, map_top_k=(len(dataset.get_gallery_ids()),))  # doctest: +SKIP
    """
    check_parameters(eta, k1, k2, alpha, True, engine)
    embeddings, rows = torch.as_tensor(embeddings), len(dataset)
    if len(embeddings) != rows:
        raise ValueError(f"embeddings must have {rows} rows, as the data set has items, received {len(embeddings)}")
    labels = None if exclude is None else take_labels(exclude, rows, "exclude")
    generated = None if generated is None else torch.as_tensor(generated)
    if generated is not None and len(generated) != rows:
        raise ValueError(f"generated must have {rows} rows, as the data set has items, received {len(generated)}")
    find, results, sequences = _import()
    sequence = sequences(dataset)
    identities = dataset.get_labels() if hasattr(dataset, "get_labels") else None
    arguments: dict[str, Any] = {}
    for side, ids in (("query", dataset.get_query_ids()), ("gallery", dataset.get_gallery_ids())):
        arguments[f"ids_{side}"] = ids
        arguments[f"embeddings_{side}"] = centralize(
            embeddings[ids],
            None if generated is None else generated[ids],
            eta,
            k1,
            k2,
            alpha=alpha,
            exclude=None if labels is None else labels[ids.cpu().numpy()],
            engine=engine,
        )
        arguments[f"sequence_ids_{side}"] = None if sequence is None else sequence[ids]
        arguments[f"labels_{side}"] = None if identities is None else identities[ids]
    distances, retrieved, relevant = find(**arguments, top_n=n_items, verbose=verbose)
    return results(distances=distances, retrieved_ids=retrieved, gt_ids=relevant)


def _import() -> tuple[Any, Any, Any]:
    try:
        from oml.functional.knn import batched_knn_qg
        from oml.retrieval.retrieval_results import RetrievalResults, get_sequence_from_dataset
    except ImportError as error:
        raise MissingExtraError(
            "pose2id.integrations.oml needs OML 3.0 or newer: pip install open-metric-learning omegaconf "
            f"({type(error).__name__}: {error})",
            extra="open-metric-learning",
            package="oml",
        ) from error
    return batched_knn_qg, RetrievalResults, get_sequence_from_dataset
