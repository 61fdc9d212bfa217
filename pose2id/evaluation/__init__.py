"""Evaluation: mAP, CMC and mINP of a ranking, under named protocols.

"mAP" is several metrics in this field; here a protocol is an object that says which gallery items are junk for a
query, and average precision is always the plain one, the mean over a query's matches of (matches so far / rank).

`protocols` has the rules, `relevance` says by the labels what is right, wrong or left out, `masks` what the caller
leaves out beside that. `scores` goes through blocks of queries: `tiles` makes their distances, `counting` finds the
ranks of the matches, `draws` those in drawn galleries. What needs torch is loaded when it is first used: names of
protocols need none.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pose2id.evaluation.protocols import METRICS, PROTOCOLS, Protocol

if TYPE_CHECKING:
    from pose2id.evaluation.scores import Ranking, Scores, TieSpan, evaluate, evaluate_features, rank_gallery

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "Protocol",
    "Ranking",
    "Scores",
    "TieSpan",
    "evaluate",
    "evaluate_features",
    "rank_gallery",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.scores"), name)
    return value
