"""The small real set that ships with the package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, eq=False)
class DemoSet:
    """A small query and gallery set with everything the package can use; the queries come first.

    Attributes
    ----------
    features : ndarray of float32, shape (1500, 32)
        One feature per drawing, *not* L2-normalised.
    generated : ndarray of float32, shape (1500, 3, 32)
        Generated features: of three re-drawn versions of each drawing, *not* L2-normalised.
    ids : ndarray of int64, shape (1500,)
        Identity (which character), 0 to 74.
    cams : ndarray of int64, shape (1500,)
        Camera, 0 to 5.
    n_query : int
        Number of queries, 240.
    thumbnails : ndarray of bool, shape (1500, 28, 28)
        Small pictures; True is ink.
    names : tuple of str, length 75
        ``names[id]`` is alphabet/character.
    """

    features: NDArray[np.float32]
    generated: NDArray[np.float32]
    ids: NDArray[np.int64]
    cams: NDArray[np.int64]
    n_query: int
    thumbnails: NDArray[np.bool_]
    names: tuple[str, ...]

    @property
    def query(self) -> slice:
        """The query rows: ``features[query]``, ``ids[query]`` and so on."""
        return slice(0, self.n_query)

    @property
    def gallery(self) -> slice:
        """The gallery rows: ``features[gallery]``, ``ids[gallery]`` and so on."""
        return slice(self.n_query, len(self.features))


def load_demo() -> DemoSet:
    """Load the small real set that ships with the package.

    75 hand-drawn characters (identities) with 20 drawings each, from Omniglot, with the features of a small
    encoder that never saw these characters: 240 queries, 1,260 gallery rows, 15 identities without a query.
    Nothing is downloaded.

    Returns
    -------
    DemoSet
        Fresh arrays on every call; changing them changes nothing else.

    References
    ----------
    B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum, Human-level concept learning through probabilistic program
    induction, Science 350 (2015). MIT licence; its text, and how the set was made, are in ``pose2id/data``.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> data = load_demo()
    >>> data.features[data.query].shape, data.features[data.gallery].shape
    ((240, 32), (1260, 32))
    >>> data.names[data.ids[0]]
    'Angelic/character02'
    """
    source = files("pose2id").joinpath("data", "omniglot_tiny.npz")
    with source.open("rb") as file, np.load(file, allow_pickle=False) as stored:
        pictures = np.unpackbits(stored["thumbs"], axis=1).reshape(-1, 28, 28)
        return DemoSet(
            features=stored["feats"].astype(np.float32),
            # stored (version, row, dimension) -> (row, version, dimension), the form that `centralize` takes
            generated=np.ascontiguousarray(stored["views"].transpose(1, 0, 2), dtype=np.float32),
            ids=stored["pid"].astype(np.int64),
            cams=stored["cam"].astype(np.int64),
            n_query=int(stored["n_query"]),
            thumbnails=pictures.astype(np.bool_),
            names=tuple(str(name) for name in stored["names"]),
        )
