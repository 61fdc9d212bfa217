"""Training-free feature centralization for re-identification.

The public names below are resolved on first use, so that ``import pose2id`` loads numpy at most; touching a name that
computes loads torch. Everything else is reached by its module path, such as ``pose2id.plots`` or
``pose2id.integrations.sklearn``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pose2id.centralization import centralize, centralize_queries
    from pose2id.density import id_density
    from pose2id.errors import MissingExtraError
    from pose2id.evaluation import Scores, evaluate, evaluate_features
    from pose2id.jaccard import jaccard_distances
    from pose2id.neighbors import Neighbors, knn_graph
    from pose2id.reranking import rerank, rerank_top

__version__ = "0.1.0"  # stated here only; the build reads it from this line

__all__ = [
    "MissingExtraError",
    "Neighbors",
    "Scores",
    "centralize",
    "centralize_queries",
    "evaluate",
    "evaluate_features",
    "id_density",
    "jaccard_distances",
    "knn_graph",
    "rerank",
    "rerank_top",
]

_MODULE_OF = {
    "MissingExtraError": "errors",
    "Neighbors": "neighbors",
    "Scores": "evaluation",
    "centralize": "centralization",
    "centralize_queries": "centralization",
    "evaluate": "evaluation",
    "evaluate_features": "evaluation",
    "id_density": "density",
    "jaccard_distances": "jaccard",
    "knn_graph": "neighbors",
    "rerank": "reranking",
    "rerank_top": "reranking",
}


def __getattr__(name: str) -> object:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module 'pose2id' has no attribute {name!r}; its public names are {', '.join(__all__)}")
    value: object = getattr(import_module(f"pose2id.{module}"), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
