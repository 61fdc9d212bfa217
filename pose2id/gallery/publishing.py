"""Bringing a target to a version of the gallery: what changed since the last time, however that ended."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pose2id.gallery.arguments import from_blobs
from pose2id.gallery.schema import Head
from pose2id.gallery.stores.records import Record, Store, StoredRow
from pose2id.gallery.transactions import Transaction
from pose2id.progress import tqdm

BYTES = 2**23
"""Of vectors in one request: Milvus takes 64 MB at most."""
MOST = 4096
"""Rows in one request."""


class Published(NamedTuple):
    """What a publication did."""

    version: int  # that the target holds now
    sent: int  # rows that were inserted there or replaced
    removed: int  # rows that were taken out, if they were there


def publish(asked: Transaction, store: Store, *, anew: bool, progress: bool) -> Published:
    """Bring the store to the version that `asked` sees.

    Everything is safe to be done twice, so what was interrupted is done again from what the record says.
    """
    head, record = asked.head(), store.record()
    if record is not None and not anew:
        _check_record(asked, head, record, store.name)
    if head.width is None:  # no rows yet; a target that has some is of another gallery
        return Published(head.version, 0, 0)
    if record is None or anew or record.width != head.width:
        record = Record(head.gallery, head.width, -1, "", head.version, head.stamp, 0)
        store.make(record)
    gone = [at for at, _ in asked.removed(record.version if record.version >= 0 else record.goal)]
    for start in range(0, len(gone), MOST):
        store.delete(gone[start : start + MOST])
    changed, later = (np.array(asked.ids(changed_after=at), dtype=np.int64) for at in (record.version, record.goal))
    wanted = changed[(changed > record.through) | np.isin(changed, later)].tolist()
    goal = record._replace(goal=head.version, goal_stamp=head.stamp)
    with tqdm(total=len(wanted), desc="publishing", unit="row", disable=not progress) as bar:
        for part in _parts(wanted, head):
            _send(asked, store, head, part)
            store.note(goal._replace(through=part[-1]))
            bar.update(len(part))
    sent, removed = len(wanted), len(gone)
    if store.count() != asked.count():  # it lost rows, or somebody wrote there
        here, there = asked.ids(), store.ids()
        missing, surplus = sorted(set(here) - set(there)), sorted(set(there) - set(here))
        for start in range(0, len(surplus), MOST):
            store.delete(surplus[start : start + MOST])
        for part in _parts(missing, head):
            _send(asked, store, head, part)
        sent, removed = sent + len(missing), removed + len(surplus)
    store.note(goal._replace(version=head.version, stamp=head.stamp, through=0))
    return Published(head.version, sent, removed)


def _check_record(asked: Transaction, head: Head, record: Record, name: str) -> None:
    if record.gallery != head.gallery:
        raise ValueError(f"{name} holds another gallery; name another target, or replace it (anew=True, --anew)")
    known = [(record.version, record.stamp), (record.goal, record.goal_stamp)]
    if not all(version < 0 or asked.is_version(version, stamp) for version, stamp in known):
        raise ValueError(
            f"{name} holds version {record.goal} of this gallery, which is not in the gallery's history: one of the "
            "two was restored from a copy; write everything (anew=True, --anew)"
        )


def _parts(ids: list[int], head: Head) -> list[list[int]]:
    size = max(1, min(MOST, BYTES // (4 * (head.width or 1))))
    return [ids[start : start + size] for start in range(0, len(ids), size)]


def _send(asked: Transaction, store: Store, head: Head, ids: list[int]) -> None:
    rows = [StoredRow(*row) for row in asked.labeled(ids)]
    blobs = [blob for _, blob in asked.vectors("centralized", ids)]
    vectors = from_blobs(blobs, head.settings.dtype, head.width or 1).astype(np.float32, copy=False)
    store.put(rows, vectors)
