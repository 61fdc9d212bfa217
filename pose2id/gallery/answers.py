"""What a gallery answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Found(NamedTuple):
    """What a search found.

    Attributes
    ----------
    keys : list of list of str
        For each query, nearest first; shorter where there are fewer rows.
    distances : (Q, top) float32
        Euclidean; inf where there is no row.
    """

    keys: list[list[str]]
    distances: NDArray[np.float32]


class Neighborhood(NamedTuple):
    """The neighbours of some rows, by their fused features.

    Attributes
    ----------
    keys : list of list of str
        Of each row the max(k1, k2) nearest, nearest first.
    distances : (K, max(k1, k2)) float32
        Euclidean; inf where there is none.
    mutual : list of list of str
        The mutual neighbours, which were added, in order of insertion.
    """

    keys: list[list[str]]
    distances: NDArray[np.float32]
    mutual: list[list[str]]


class Changes(NamedTuple):
    """What changed in a gallery since an older version.

    Attributes
    ----------
    version : int
        The version now.
    changed : list of str
        Keys of new rows, and of rows whose centralized row or labels changed, in order of insertion.
    removed : list of str
        Keys that were removed and are not there any more.
    """

    version: int
    changed: list[str]
    removed: list[str]
