"""The method: pull each feature toward its identity's centre (Yuan et al., CVPR 2025, arXiv 2503.00938).

Two steps, each optional, in this order: add the mean of features of *generated* images of the same person (equation
9), then add the *mutual nearest neighbours* (Neighbor Feature Centralization, algorithm 1).

- `sets`: `centralize`, one set by itself: fuse, search, mutual, add. The published use.
- `sweep`: the same set by several settings, its neighbours searched once.
- `queries`: `centralize_queries`, one query at a time against a fixed gallery.
- `fusion`: equation 9, and where the fused rows stand while they are needed.
- `mutual`: the rule of algorithm 1, and the sums.
- `arguments`: what the arguments may be.

The search itself is the room `pose2id.neighbors`.
"""

from pose2id.centralization.arguments import check_parameters, take_generated
from pose2id.centralization.fusion import FusedRows, check_fits
from pose2id.centralization.mutual import add_mutual_neighbors, mutual_neighbors, mutual_sums
from pose2id.centralization.queries import (
    add_counted,
    centralize_queries,
    gallery_radius,
    prepare_gallery,
    pull_toward,
)
from pose2id.centralization.sets import centralize
from pose2id.centralization.sweep import SearchedSet

__all__ = [
    "FusedRows",
    "SearchedSet",
    "add_counted",
    "add_mutual_neighbors",
    "centralize",
    "centralize_queries",
    "check_fits",
    "check_parameters",
    "gallery_radius",
    "mutual_neighbors",
    "mutual_sums",
    "prepare_gallery",
    "pull_toward",
    "take_generated",
]
