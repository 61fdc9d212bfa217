"""What is to be encoded: photographs by key, a row each, with what their names or a data set's reader say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pose2id.poses import Pose
from pose2id.validation import check_flag

if TYPE_CHECKING:
    from pose2id.datasets import ImageSet

LABELS = ("id", "cam", "frame", "tracklet")
"""Groups that a pattern of names may have."""


@dataclass(frozen=True, eq=False)
class Photographs:
    """Rows of a feature file to be, in order.

    Attributes
    ----------
    keys : tuple of str
        One a row, a relative path with "/"; of a tracklet, that of its first picture.
    files : sequence of tuples of pathlib.Path
        The pictures of each row; several are averaged.
    labels : dict of str to (N,) array
        What goes into the file beside features and paths: of "ids", "cams" and "groups" those that are known.
    poses : dict of str to Pose, or None
        By key, where a data set has keypoints.
    """

    keys: tuple[str, ...]
    files: Sequence[tuple[Path, ...]]
    labels: dict[str, Any] = field(default_factory=dict)
    poses: dict[str, Pose] | None = None

    def __len__(self) -> int:
        return len(self.keys)


def from_files(paths: Mapping[str, Path], names: str | None = None, *, tracklets: bool = False) -> Photographs:
    r"""Photographs by key, in the order of the keys.

    Parameters
    ----------
    paths : mapping of str to path
        As `pose2id.ipg.folders.collect_references` gives them.
    names : str, optional
        A regular expression with named groups that is searched in each key: ``(?P<id>...)`` and ``(?P<cam>...)`` become
        identities and cameras, ``(?P<frame>...)`` (with cam, if there is one) the rows' groups, ``(?P<tracklet>...)``
        says which pictures belong together. Whole numbers become integers where all of them are.
    tracklets : bool
        A row for each tracklet, not for each picture: pictures of one ``tracklet``, or of one folder where the pattern
        has no such group, in the order of their keys.

    Returns
    -------
    Photographs
        With the labels "ids", "cams" and "groups" that the pattern tells; of tracklets every row is a group.

    Raises
    ------
    ValueError
        For a pattern that is none, has none of the groups, or does not fit a key.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pose2id.programs.extraction import from_files
    >>> paths = {name: Path(name) for name in ("0007_c2_1.jpg", "0007_c1_1.jpg", "0009_c1_1.jpg")}
    >>> rows = from_files(paths, r"(?P<id>\d+)_c(?P<cam>\d)")
    >>> rows.keys[0], rows.labels["ids"].tolist(), rows.labels["cams"].tolist()
    ('0007_c1_1.jpg', [7, 7, 9], [1, 2, 1])
    """
    check_flag(tracklets, "tracklets")
    keys = sorted(paths)
    found = _search(keys, names)
    if not tracklets:
        rows = [[at] for at in range(len(keys))]
    else:
        which = found.get("tracklet", [key.rpartition("/")[0] for key in keys])
        places: dict[tuple[str, ...], list[int]] = {}
        for at, name in enumerate(which):
            # the same number may be given by several cameras, and in several folders
            places.setdefault((*(found[of][at] for of in ("cam", "id") if of in found), name), []).append(at)
        rows = sorted(places.values())
    labels: dict[str, Any] = {}
    for of, name in (("id", "ids"), ("cam", "cams")):
        if of in found:
            labels[name] = _as_labels([found[of][row[0]] for row in rows])
    if tracklets:
        labels["groups"] = np.arange(len(rows))
    elif "frame" in found:
        frames = list(zip(found.get("cam", [""] * len(keys)), found["frame"], strict=True))
        numbers = {frame: number for number, frame in enumerate(sorted(set(frames)))}
        labels["groups"] = np.array([numbers[frame] for frame in frames])
    files = [tuple(paths[keys[at]] for at in row) for row in rows]
    return Photographs(tuple(keys[row[0]] for row in rows), files, labels)


def from_set(images: ImageSet, root: Path, *, tracklets: bool = False) -> Photographs:
    """A part of a data set, in the order of the paths below `root`; its tracklets as rows.

    Parameters
    ----------
    images : ImageSet
        Such as ``data.query`` of what `read_dataset` gives.
    root : path
        ``data.root``.
    tracklets : bool
        True for sets of tracklets, and for no others.

    Returns
    -------
    Photographs
        With the labels "ids" and "cams"; of tracklets every row is a group.

    Raises
    ------
    ValueError
        For tracklets where `tracklets` is False, or the other way round.

    Examples
    --------
    >>> from pathlib import Path
    >>> from pose2id.datasets import ImageSet
    >>> from pose2id.programs.extraction import from_set
    >>> images = ImageSet((Path("set/query/b.jpg"), Path("set/query/a.jpg")), [7, 9], [1, 2])
    >>> rows = from_set(images, Path("set"))
    >>> rows.keys, rows.labels["ids"].tolist()
    (('query/a.jpg', 'query/b.jpg'), [9, 7])
    """
    if (images.frames is not None) != check_flag(tracklets, "tracklets"):
        held, remedy = ("tracklets", "take") if images.frames is not None else ("single pictures", "do not take")
        raise ValueError(f"the data set holds {held}; {remedy} --pool tracklet")
    keys = [
        path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix() for path in images.paths
    ]
    order = sorted(range(len(keys)), key=lambda at: (keys[at], at))
    files: Sequence[tuple[Path, ...]] = _Chosen(images, order)
    labels: dict[str, Any] = {"ids": images.ids[order], "cams": images.cams[order]}
    if tracklets:
        labels["groups"] = np.arange(len(order))
    poses = None if images.keypoints is None else {keys[at]: Pose(images.keypoints[at]) for at in order}
    return Photographs(tuple(keys[at] for at in order), files, labels, poses)


class _Chosen(Sequence[tuple[Path, ...]]):
    """The pictures of the rows of a set in another order, made when they are asked for."""

    def __init__(self, images: ImageSet, order: Sequence[int]) -> None:
        self._images, self._order = images, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, row: Any) -> Any:
        if isinstance(row, slice):
            return [self[at] for at in range(len(self))[row]]
        at = self._order[row]
        return (self._images.paths[at],) if self._images.frames is None else self._images.frames[at]

    def __iter__(self) -> Iterator[tuple[Path, ...]]:
        return (self[row] for row in range(len(self)))


def _search(keys: Sequence[str], names: str | None) -> dict[str, list[str]]:
    """What the pattern finds in each key, by group."""
    if names is None:
        return {}
    try:
        pattern = re.compile(names)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"names must be a regular expression, received {_show(names)}: {error}") from error
    groups = list(pattern.groupindex)
    if not groups or not set(groups) <= set(LABELS):
        allowed = ", ".join(f"(?P<{name}>...)" for name in LABELS)
        raise ValueError(f"names must have one or more of the groups {allowed} and no others, received {_show(names)}")
    found: dict[str, list[str]] = {group: [] for group in groups}
    for key in keys:
        match = pattern.search(key)
        for group in groups:
            text = match and match[group]
            if not text:
                raise ValueError(
                    f"names {_show(names)} finds no {group} in {key!r}; mend it, or name other photographs"
                )
            found[group].append(text)
    return found


def _show(pattern: str) -> str:
    """A pattern in quotes as it was typed: `repr` would double its backslashes."""
    shown = pattern[:200]
    return f"'{shown}'" if shown.isprintable() else repr(shown)


def _as_labels(texts: Sequence[str]) -> Any:
    """Integers where all are whole numbers that come back as they were but for zeros in front, else strings."""
    if all(re.fullmatch(r"-?\d{1,18}", text) for text in texts):
        return np.array([int(text) for text in texts], dtype=np.int64)
    return np.array(texts)
