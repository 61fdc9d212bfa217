"""Evaluation: mAP, CMC and mINP of a ranking, under named protocols.

"mAP" is several metrics in this field; here a protocol is an object that says which gallery items are junk for a
query, and average precision is always the plain one, the mean over a query's matches of (matches so far / rank).

`protocols` and `scores` are what users see, `scoring` is `evaluate`. It goes through blocks of queries: `tiles` makes
their scores, `relevance` says by the labels what is right, wrong or junk, `counting` finds the ranks of the matches.
`ranking` gives single lists to figures. What needs torch is loaded when it is first used: names of protocols need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pose2id.evaluation.protocols import METRICS, PROTOCOLS, Protocol
from pose2id.evaluation.scores import Scores

if TYPE_CHECKING:
    from pose2id.evaluation.ranking import Ranking, rank_gallery
    from pose2id.evaluation.scoring import evaluate, evaluate_features

_WITH_TORCH = {"Ranking": "ranking", "evaluate": "scoring", "evaluate_features": "scoring", "rank_gallery": "ranking"}

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Protocol",
    "Ranking",
    "Scores",
    "evaluate",
    "evaluate_features",
    "rank_gallery",
]


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
    return value
