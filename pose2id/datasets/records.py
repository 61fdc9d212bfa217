"""What a reader gives back: lists of images with their labels, and how they are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from pose2id.evaluation import PROTOCOLS
from pose2id.tables import format_text
from pose2id.validation import check_choice, take_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pose2id.attributes import AttributeLabels


class Frames(Sequence[tuple[Path, ...]]):
    """The frames of tracklets, a tuple of paths each, made when they are asked for: MARS has a million.

    `names` are paths of all frames from `folder`, those of a tracklet one after the other; `bounds` (N, 2) holds, of
    each tracklet, the first of its `names` and the one after its last.
    """

    def __init__(self, folder: Path, names: Sequence[str], bounds: NDArray[np.int64]) -> None:
        self._folder, self._names, self._bounds = folder, names, bounds

    def __len__(self) -> int:
        return len(self._bounds)

    @overload
    def __getitem__(self, row: int) -> tuple[Path, ...]: ...
    @overload
    def __getitem__(self, row: slice) -> Frames: ...
    def __getitem__(self, row: int | slice) -> tuple[Path, ...] | Frames:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        begin, end = self._bounds[row]
        return tuple(self._folder / name for name in self._names[begin:end])

    def take(self, rows: NDArray[Any]) -> Frames:
        """Those of some rows, by numbers or by marks."""
        return Frames(self._folder, self._names, self._bounds[rows])


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images, or tracklets, with identities and cameras; no image is opened.

    Attributes
    ----------
    paths : tuple of pathlib.Path, length N
        One for each row; of a tracklet, its first frame.
    ids : (N,) int64 array
        Identities as the data set numbers them: -1 is junk, 0 in Market-1501 and MARS a distractor.
    cams : (N,) int64 array
        Cameras as the data set numbers them.
    frames : sequence of tuples of pathlib.Path, or None
        All frames of every tracklet, in order; None for sets of single images.
    keypoints : (N, 18, 2) float64 array, or None
        Where the set has them; missing ones are NaN.
    attributes : AttributeLabels, or None
        Those of the person of each row, where they were asked for: `attributes.classes` is (N, A), what these mean says
        `attributes.vocabulary`. Junk and distractors have none.

    Raises
    ------
    ValueError, TypeError
        When these differ in length, or labels are no integers.
    """

    paths: tuple[Path, ...]
    ids: NDArray[np.int64]
    cams: NDArray[np.int64]
    frames: Sequence[tuple[Path, ...]] | None = None
    keypoints: NDArray[np.float64] | None = None
    attributes: AttributeLabels | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "paths", tuple(self.paths))
        for name in ("ids", "cams", "frames", "keypoints", "attributes"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.paths):
                raise ValueError(f"{name} must have one row for each of the {len(self.paths)} paths, has {len(values)}")
        for name in ("ids", "cams"):
            labels = take_labels(getattr(self, name), len(self.paths), name)
            if labels.dtype.kind == "U":
                raise TypeError(f"{name} must be integers, as the data set numbers them, received strings")
            object.__setattr__(self, name, labels)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True, eq=False)
class DataSet:
    """A data set as its test is defined; `print` it for a table of what it holds.

    Attributes
    ----------
    name : str
        What the data set is called in print.
    root : pathlib.Path
        The folder that was read, which may be one inside the folder given.
    train, query, gallery : ImageSet
        `train` has no rows where the data set has none. The identities of `train` have nothing to do with equal
        numbers in the other two, unless the data set numbers all people jointly.
    protocol : str
        The protocol for `pose2id.evaluate` that scores the set as its authors do.
    notes : tuple of str
        What else to know of this reading, such as the trial, a sentence each.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pose2id.datasets import DataSet, ImageSet
    >>> query = ImageSet((Path("0007_c1.jpg"), Path("0009_c1.jpg")), [7, 9], [1, 1])
    >>> gallery = ImageSet((Path("0007_c1b.jpg"), Path("0009_c2.jpg")), [7, 9], [1, 2])
    >>> data = DataSet("example", Path(), ImageSet((), [], []), query, gallery, "market1501")
    >>> data.unmatched.tolist()  # person 7 was seen by one camera only
    [True, False]
    """

    name: str
    root: Path
    train: ImageSet
    query: ImageSet
    gallery: ImageSet
    protocol: str
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_choice(self.protocol, "protocol", tuple(PROTOCOLS))

    @property
    def unmatched(self) -> NDArray[np.bool_]:
        """Queries without a right answer under the protocol, (Q,) bool; `evaluate` skips them."""
        protocol = PROTOCOLS[self.protocol]
        order = np.argsort(self.gallery.ids, kind="stable")
        ordered = self.gallery.ids[order]
        kinds, kind = np.unique(np.stack([self.query.ids, self.query.cams]), axis=1, return_inverse=True)
        alone = np.zeros(kinds.shape[1], bool)
        for number, (identity, camera) in enumerate(kinds.T):
            rows = order[np.searchsorted(ordered, identity, "left") : np.searchsorted(ordered, identity, "right")]
            alone[number] = protocol.junk(identity, self.gallery.ids[rows], camera, self.gallery.cams[rows]).all()
        return np.asarray(alone[kind.reshape(-1)])

    def __str__(self) -> str:
        unit = "images" if self.query.frames is None else "tracklets"
        rows = []
        for part in ("train", "query", "gallery"):
            images: ImageSet = getattr(self, part)
            junk = int((images.ids == -1).sum())
            people = len(np.unique(images.ids)) - bool(junk)
            rows.append((part, len(images), people, len(np.unique(images.cams)), junk))
        table = format_text(("", unit, "identities", "cameras", "junk"), rows, align=">")
        unmatched = int(self.unmatched.sum())
        lines = [f"{self.name}, protocol {self.protocol}: {self.root}", table]
        return "\n".join([*lines, f"queries without a right answer: {unmatched}", *self.notes])
