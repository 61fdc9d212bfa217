"""The nearest rows of every row of a gallery, and what becomes of them when rows go and come.

A list holds a few more neighbours than the rule asks for (`SPARE`), nearest first, ties by id. It is always an exact
prefix of all candidates of its row: a neighbour that goes leaves it shorter, one that comes is put in its place. Only
a list that became shorter than the rule needs, while there are more candidates, is searched again.

Ids grow in order of insertion, so order of id is order of index in `centralize`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.neighbors import find_entered, find_neighbors

SPARE = 4
"""Neighbours kept beyond those that the rule asks for."""
CHUNK = 2**24
"""Elements of the rows that are searched at once."""
ENGINE = "exact"
"""It keeps no copy of the rows, and rows of one camera, none of which may be neighbours, do not hold it up."""
AT_ONCE = 4096
"""Rows for which is searched again at once."""
NONE = -1

Ids = NDArray[np.int64]


class Lists(NamedTuple):
    """All rows of a gallery, in ascending order of id, without their vectors; never written to once made."""

    ids: Ids  # (N,)
    near: Ids  # (N, K), ids, nearest first, NONE at the end
    distances: NDArray[np.float32]  # (N, K), inf at the end
    nonzero: NDArray[np.bool_]  # (N,): rows that have a direction
    labels: Ids  # (N,): codes of what `exclude` names

    def places(self, ids: Ids) -> Ids:
        """Where these ids stand; they are there."""
        return np.searchsorted(self.ids, ids)

    def has(self, ids: Ids) -> NDArray[np.bool_]:
        """Whether each of these ids is there."""
        if not len(self.ids):
            return np.zeros(ids.shape, bool)
        at = np.searchsorted(self.ids, ids).clip(max=len(self.ids) - 1)
        return np.asarray(self.ids[at] == ids)

    def take(self, places: NDArray[Any]) -> Lists:
        """Only these rows; their lists stay."""
        return Lists(*(cast(NDArray[Any], each)[places] for each in self))

    def join(self, *others: Lists) -> Lists:
        """These and other rows together."""
        together = Lists(*(np.concatenate(each) for each in zip(self, *others, strict=True)))
        return together.take(together.ids.argsort(kind="stable"))


def count_listed(k: int) -> int:
    """How many neighbours a list of the gallery holds, where the rule asks for k."""
    return k + SPARE if k else 0


class Rows(Protocol):
    """Searched rows by their place."""

    def take(self, places: Ids) -> torch.Tensor:
        """The rows at these ascending places, float32 (n, D)."""

    def release(self) -> None:
        """Say that what was taken is not needed any more."""


def no_lists(k: int) -> Lists:
    """The lists of an empty gallery."""
    none = np.zeros(0, np.int64)
    return Lists(none, np.zeros((0, k), np.int64), np.zeros((0, k), np.float32), np.zeros(0, bool), none)


def without_neighbors(ids: Ids, nonzero: NDArray[np.bool_], labels: Ids, k: int) -> Lists:
    """Rows with empty lists."""
    shape = (len(ids), k)
    return Lists(ids, np.full(shape, NONE), np.full(shape, np.inf, np.float32), nonzero, labels)


def count_candidates(lists: Lists, *, exclude: bool) -> Ids:
    """How many rows could be neighbours of each row."""
    count = int(lists.nonzero.sum())
    if not exclude:
        return np.where(lists.nonzero, count - 1, 0)
    if not len(lists.ids):
        return np.zeros(0, np.int64)
    alike = np.bincount(lists.labels[lists.nonzero], minlength=int(lists.labels.max()) + 1)
    return np.where(lists.nonzero, count - alike[lists.labels], 0)


def drop(lists: Lists, gone: Ids) -> Lists:
    """The lists without these rows, neither as rows nor as neighbours."""
    kept = lists.take(~np.isin(lists.ids, gone))
    lost = np.isin(kept.near, gone) & (kept.near >= 0)
    at = np.flatnonzero(lost.any(axis=1))
    near, distances = kept.near.copy(), kept.distances.copy()
    order = lost[at].argsort(axis=1, kind="stable")
    near[at] = np.take_along_axis(np.where(lost[at], NONE, near[at]), order, axis=1)
    distances[at] = np.take_along_axis(np.where(lost[at], np.inf, distances[at]), order, axis=1)
    return kept._replace(near=near, distances=distances)


def enter(lists: Lists, rows: Rows, new: Lists, new_rows: torch.Tensor, *, exclude: bool) -> Lists:
    """The lists with `new` rows put in at their ids. `new` holds no neighbours yet, `new_rows` its searched rows."""
    k = lists.near.shape[1]
    at = new.nonzero.nonzero()[0]
    near, distances = new.near.copy(), new.distances.copy()
    old_near, old_distances = lists.near, lists.distances
    if k and len(at):
        queries, own = new_rows[torch.from_numpy(at)], new.ids[at]
        labels = torch.from_numpy(new.labels[at]) if exclude else None
        # Among themselves.
        found, lengths = find_neighbors(queries, queries, k, labels, labels, within=True, engine=ENGINE)
        best = (_name(own, found), lengths.numpy())
        # Forward, the nearest of the new among the old; backward, the old ones whose lists they enter.
        counts = (lists.near >= 0).sum(axis=1)
        complete = counts == count_candidates(lists, exclude=exclude)
        last = np.take_along_axis(lists.distances, (counts - 1).clip(min=0)[:, None], axis=1)[:, 0]
        # Of equally far ones the lower id counts: where all new ids are higher, a tie is none.
        ties = len(lists.ids) > 0 and new.ids[0] < lists.ids[-1]
        inside = last if ties else np.nextafter(last, np.float32(-1))
        inside[counts == 0] = -1
        # Lists with room, of which there are many where a second camera comes, take whatever is nearest.
        hungry = complete & (counts < k)
        radius = np.where(hungry, np.float32(-1), inside).astype(np.float32)
        pairs: list[tuple[Ids, Ids, NDArray[np.float32]]] = []
        for places, part in _chunks(lists, rows):
            base_labels = torch.from_numpy(lists.labels[places]) if exclude else None
            within = torch.from_numpy(best[1][:, -1].copy())  # so near are k of those that were seen
            limits = torch.from_numpy(radius[places])
            entered = find_entered(queries, part, k, limits, labels, base_labels, within=within)
            best = _merge(best, (_name(lists.ids[places], entered.indices), entered.distances.numpy()), k)
            pairs.append((places[entered.rows.numpy()], own[entered.queries.numpy()], entered.lengths.numpy()))
            few = np.flatnonzero(hungry[places])
            if len(few):
                inside_few = part[torch.from_numpy(few)], queries, k
                few_labels = None if base_labels is None else base_labels[torch.from_numpy(few)]
                found, lengths = find_neighbors(*inside_few, few_labels, labels, engine=ENGINE)
                row, rank = (found >= 0).numpy().nonzero()
                pairs.append((places[few[row]], own[found.numpy()[row, rank]], lengths.numpy()[row, rank]))
        near[at], distances[at] = best
        if pairs:
            old_near, old_distances = _put(
                lists, complete, *(np.concatenate(each) for each in zip(*pairs, strict=True))
            )
    old = lists._replace(near=old_near, distances=old_distances)
    return old.join(new._replace(near=near, distances=distances))


def refill(lists: Lists, rows: Rows, k: int, *, exclude: bool) -> Lists:
    """Search again for the rows whose lists hold fewer than k neighbours while there are more candidates."""
    counts = (lists.near >= 0).sum(axis=1)
    wanted = np.minimum(count_candidates(lists, exclude=exclude), k)
    short = np.flatnonzero(counts < wanted)
    near, distances = lists.near.copy(), lists.distances.copy()
    for start in range(0, len(short), AT_ONCE):
        at = short[start : start + AT_ONCE]
        near[at], distances[at] = _search_again(lists, rows, at, exclude=exclude)
    return lists._replace(near=near, distances=distances)


def _search_again(lists: Lists, rows: Rows, at: Ids, *, exclude: bool) -> tuple[Ids, NDArray[np.float32]]:
    """The full lists of the rows at these places."""
    width, own = lists.near.shape[1], lists.ids[at]
    queries, labels = rows.take(at), torch.from_numpy(lists.labels[at]) if exclude else None
    # One more than asked for: as queries of another set, rows find themselves.
    best = (np.full((len(at), width + 1), NONE), np.full((len(at), width + 1), np.inf, np.float32))
    for places, part in _chunks(lists, rows):
        base_labels = torch.from_numpy(lists.labels[places]) if exclude else None
        found, lengths = find_neighbors(queries, part, width + 1, labels, base_labels, engine=ENGINE)
        best = _merge(best, (_name(lists.ids[places], found), lengths.numpy()), width + 1)
    order = (best[0] == own[:, None]).argsort(axis=1, kind="stable")[:, :width]
    return np.take_along_axis(best[0], order, axis=1), np.take_along_axis(best[1], order, axis=1)


def mutual(lists: Lists, places: Ids, k1: int, k2: int) -> Ids:
    """The mutual neighbours of the rows at these places, (n, k1), ids in ascending order, NONE in front."""
    near = lists.near[places][:, :k1]
    if not near.size:
        return near.copy()
    other = np.searchsorted(lists.ids, near).clip(max=len(lists.ids) - 1)
    held = (lists.near[other][:, :, :k2] == lists.ids[places][:, None, None]).any(axis=2) & (near >= 0)
    return np.sort(np.where(held, near, NONE), axis=1)


def find_changed(before: Lists, after: Lists, k1: int, k2: int) -> tuple[Ids, Ids]:
    """Rows of both whose list is another, and rows of `after` whose mutual neighbours are others; ids.

    Rows that are in one of both only count for neither.
    """
    stay = after.ids[before.has(after.ids)]
    old, new = before.places(stay), after.places(stay)
    differ = (before.near[old] != after.near[new]) | (before.distances[old] != after.distances[new])
    listed = stay[differ.any(axis=1)]
    k = max(k1, k2)
    moved = stay[(before.near[old][:, :k] != after.near[new][:, :k]).any(axis=1)]
    come, gone = after.ids[~before.has(after.ids)], before.ids[~after.has(before.ids)]
    # Who may have won or lost: rows with another list, and who stands in such a list or stood there.
    around = [
        moved,
        before.near[before.places(moved)][:, :k].ravel(),
        after.near[after.places(moved)][:, :k].ravel(),
        after.near[after.places(come)][:, :k].ravel(),
        before.near[before.places(gone)][:, :k].ravel(),
    ]
    asked = np.unique(np.concatenate(around))
    asked = asked[before.has(asked) & after.has(asked)]
    was, now = mutual(before, before.places(asked), k1, k2), mutual(after, after.places(asked), k1, k2)
    return listed, asked[(was != now).any(axis=1)]


def search(
    queries: torch.Tensor, lists: Lists, rows: Rows, k: int, chosen: NDArray[np.bool_]
) -> tuple[Ids, NDArray[np.float32]]:
    """Ids and distances of the k nearest of the `chosen` (N,) rows to every query, each (Q, k)."""
    best = (np.full((len(queries), k), NONE), np.full((len(queries), k), np.inf, np.float32))
    for places, part in _chunks(lists, rows, chosen):
        found, lengths = find_neighbors(queries, part, k, engine=ENGINE)
        best = _merge(best, (_name(lists.ids[places], found), lengths.numpy()), k)
    return best


def _chunks(lists: Lists, rows: Rows, chosen: NDArray[np.bool_] | None = None) -> Iterator[tuple[Ids, torch.Tensor]]:
    """Places of the rows that have a direction, or of the chosen ones, some at a time, and these rows."""
    places = (lists.nonzero if chosen is None else chosen).nonzero()[0]
    step = len(places)
    if step:
        width = rows.take(places[:1]).shape[1]
        step = max(1, CHUNK // width)
    for start in range(0, len(places), step or 1):
        part = places[start : start + step]
        yield part, rows.take(part)
        rows.release()


def _name(ids: Ids, found: torch.Tensor) -> Ids:
    """The ids of found indices; NONE where nothing was found."""
    at = found.numpy()
    return np.where(at >= 0, ids[at.clip(min=0)], NONE)


def _merge(
    one: tuple[Ids, NDArray[np.float32]], other: tuple[Ids, NDArray[np.float32]], k: int
) -> tuple[Ids, NDArray[np.float32]]:
    """The k nearest of both, by distance, then id."""
    ids, lengths = (np.concatenate([each, more], axis=1) for each, more in zip(one, other, strict=True))
    order = np.lexsort((ids, lengths), axis=1)[:, :k]
    return np.take_along_axis(ids, order, axis=1), np.take_along_axis(lengths, order, axis=1)


def _put(
    lists: Lists, complete: NDArray[np.bool_], places: Ids, ids: Ids, lengths: NDArray[np.float32]
) -> tuple[Ids, NDArray[np.float32]]:
    """The lists with the new neighbours `ids`, at `lengths`, put into those at `places`."""
    k = lists.near.shape[1]
    order = np.lexsort((ids, lengths, places))
    places, ids, lengths = places[order], ids[order], lengths[order]
    near, distances = lists.near.copy(), lists.distances.copy()
    at, starts = np.unique(places, return_index=True)
    rank = np.arange(len(places)) - np.repeat(starts, np.diff([*starts, len(places)]))
    first = rank < k  # of those that come into one list no more than k can stay
    more = np.full((len(at), k), NONE), np.full((len(at), k), np.inf, np.float32)
    row = np.searchsorted(at, places[first])
    more[0][row, rank[first]], more[1][row, rank[first]] = ids[first], lengths[first]
    # What is not known to be complete takes only what comes before its last entry.
    counts = (near[at] >= 0).sum(axis=1)
    last = (counts - 1).clip(min=0)[:, None]
    far, final = np.take_along_axis(distances[at], last, axis=1), np.take_along_axis(near[at], last, axis=1)
    before = (more[1] < far) | ((more[1] == far) & (more[0] < final))
    allowed = (before & (counts > 0)[:, None]) | complete[at][:, None]
    more = np.where(allowed, more[0], NONE), np.where(allowed, more[1], np.float32(np.inf))
    near[at], distances[at] = _merge((near[at], distances[at]), more, k)
    return near, distances
