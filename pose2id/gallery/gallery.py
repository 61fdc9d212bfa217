"""`Gallery`: a set that grows and shrinks, whose centralized rows are at every moment those of `centralize`."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.arrays import take_features
from pose2id.centralization import FusedRows, add_counted, centralize
from pose2id.errors import escape
from pose2id.gallery import lists as neighborhoods
from pose2id.gallery.arguments import (
    from_blobs,
    fuse_features,
    name_some,
    search_rows,
    take_keys,
    take_texts,
    take_time,
    take_times,
)
from pose2id.gallery.database import Database, Head, Row, Transaction
from pose2id.gallery.lists import NONE, SPARE, Ids, Lists
from pose2id.gallery.memory import Memory
from pose2id.gallery.publishing import Published, publish
from pose2id.gallery.settings import KEPT, Settings, change_settings, check_settings
from pose2id.gallery.stores import open_store
from pose2id.gallery.updates import NOBODY, PART, Come, State, move, stack
from pose2id.neighbors import find_neighbors
from pose2id.threads import fit_threads
from pose2id.validation import check_count, check_flag, take_path

if TYPE_CHECKING:
    from datetime import datetime

    from pose2id.arrays import Array
    from pose2id.validation import Labels

    Time = float | datetime | np.datetime64

EMPTY: Mapping[str, Any] = {}


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


class _Change:
    """One change while its transaction is open."""

    def __init__(self, action: str, ask: Transaction, state: State) -> None:
        self.action, self.ask, self.state = action, ask, state
        self.version = state.head.version + 1
        self.after: State | None = None

    def move(self, count: int, gone: Ids = NOBODY.ids, come: Come = NOBODY, head: Mapping[str, Any] = EMPTY) -> None:
        """Take rows out, put rows in, and say so; `head` are columns that change."""
        before = self.state
        if "width" in head:
            before = before._replace(head=replace(before.head, width=head["width"]))
        if not come.new and len(come.ids):
            self.ask.mark(self.version, come.ids.tolist(), stored=True)
        lists, rows = move(self.ask, before, self.version, gone, come)
        self.ask.advance(self.version, self.action, count, **head)
        self.after = State(self.ask.head(), lists, rows)


class Gallery:
    """A living gallery; made by `Gallery.open`.

    **The law**: after any sequence of adds, removes and updates, in any order, by any number of processes,
    ``gallery.features()`` equals ``centralize(gallery.features(centralized=False), k1=..., k2=..., alpha=...,
    normalize=..., exclude=...)`` bit for bit (on one kind of CPU). Where rows came with generated features, and are
    kept in float32, it also equals `centralize` of features and generated ones.

    An object may be used by several threads, which wait for each other; processes open the gallery for themselves.
    """

    def __init__(self, database: Database, folder: Path) -> None:
        self._database, self._memory = database, Memory(folder)
        self._lock = threading.RLock()
        self._reading: Transaction | None = None
        self._closed, self._process = False, os.getpid()

    @classmethod
    def open(
        cls,
        target: str | os.PathLike[str],
        *,
        width: int | None = None,
        k1: int = KEPT,
        k2: int = KEPT,
        alpha: float = KEPT,
        eta: float = KEPT,
        normalize: bool = KEPT,
        exclude: str | None = KEPT,
        dtype: str = KEPT,
        recompute: bool = False,
        create: bool = True,
        cache: str | os.PathLike[str] | None = None,
    ) -> Gallery:
        """Open a gallery, and make it if it is not there.

        Parameters
        ----------
        target : path or str
            A file, or ``postgresql://user:password@host/database`` (extra `postgresql`). A PostgreSQL schema holds one
            gallery; ``?options=-csearch_path%3Dname`` chooses the schema.
        width : int, optional
            D, the columns of all rows. Otherwise the first rows decide.
        k1, k2, alpha, normalize
            As for `pose2id.centralize`; for a new gallery 2, 2, 0.0 and True. k1 and k2 are at most 1,000.
        eta : float
            The factor of generated features, 1.0.
        exclude : {None, "cams", "groups"}
            Rows of equal camera, or of equal group, are never neighbours; None.
        dtype : {"float32", "float16"}
            In what rows are kept, "float32". Wider features are rounded to it.
        recompute : bool
            A gallery keeps its settings; to name others is an error. With True everything is computed anew with them,
            in one transaction. `eta` and `dtype` never change.
        create : bool
            Make the gallery if it is not there; otherwise that is a FileNotFoundError.
        cache : path, optional
            A folder for the memory-mapped rows, by default ``<file>.cache`` beside the file, or one in the user's cache
            folder. It may be removed at any time.

        Returns
        -------
        Gallery
            A context manager, which closes it.

        Raises
        ------
        ValueError, TypeError
            For settings other than those that the gallery keeps, and for what is no gallery.
        OSError
            When the database cannot be reached or written; `ConnectionError` and `TimeoutError` are such errors.
        MissingExtraError
            Without SQLAlchemy, or, for a URL, psycopg.

        Examples
        --------
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from pose2id.gallery import Gallery
        >>> folder = tempfile.TemporaryDirectory()
        >>> with Gallery.open(pathlib.Path(folder.name, "people.gallery"), k1=1, k2=1) as gallery:
        ...     version = gallery.add(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]), ["a", "b", "c"])
        ...     version = gallery.remove(["c"])
        ...     found = gallery.search(np.array([[0.8, 0.6]]), top=1)
        ...     gallery.features().astype(float).round(3).tolist(), found.keys
        ([[0.894, 0.447], [0.894, 0.447]], [['a']])
        >>> folder.cleanup()
        """
        named = {"k1": k1, "k2": k2, "alpha": alpha, "eta": eta, "normalize": normalize}
        given = check_settings({**named, "exclude": exclude, "dtype": dtype})
        width = None if width is None else check_count(width, "width", 1)
        check_flag(recompute, "recompute")
        database = Database(target, create=check_flag(create, "create"))
        try:
            with database.read() as asked:
                made = asked.is_made()
            if not made and not create:
                raise FileNotFoundError(f"there is no gallery in {database.name}")
            if not made:
                with database.write() as told:
                    if not told.is_made():  # another process may have been first
                        settings = Settings(**given)
                        told.make(database.name, settings, width, count_listed(settings))
            with database.read() as asked:
                old = not asked.is_current()
            if old:
                with database.write() as told:
                    told.migrate(database.name)
            with database.read() as asked:
                head = asked.head()
            if width is not None and head.width not in (None, width):
                raise ValueError(_other_width(head.width, width))
            settings = change_settings(head.settings, given, recompute=recompute, fused=head.fused)
            gallery = cls(database, _cache_folder(database, head, cache))
            if settings != head.settings:
                gallery._recompute(given)
            return gallery
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Let go of the database; what is kept in memory is written to the cache."""
        with self._lock:
            if self._closed or self._process != os.getpid():
                return
            self._memory.save(closing=True)
            self._closed = True
            self._memory = Memory(self._memory.folder)
            self._database.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._read() as asked:
            return asked.count()

    def __repr__(self) -> str:
        return f"Gallery({escape(self._database.name)!r})"

    @property
    def version(self) -> int:
        """A number that every change makes larger by one; 0 for a new gallery."""
        with self._read() as asked:
            return asked.head().version

    @property
    def width(self) -> int | None:
        """D, the columns of all rows; None before the first."""
        with self._read() as asked:
            return asked.head().width

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, by the names of the arguments of `open`."""
        with self._read() as asked:
            return asdict(asked.head().settings)

    # Changes.

    def add(
        self,
        features: Array,
        keys: Labels,
        cams: Labels | None = None,
        groups: Labels | None = None,
        times: Sequence[Time] | NDArray[Any] | None = None,
        generated: Array | Sequence[Array] | None = None,
    ) -> int:
        """Add rows at the end: all of them or, after an error, none.

        Parameters
        ----------
        features : (n, D) numpy array or torch tensor
            As for `pose2id.centralize`.
        keys : (n,) strings or integers
            What the rows are called; integers become their digits. None may be there already.
        cams, groups : (n,) strings or integers, optional
            Camera and group (tracklet, site, ...) of each row, for `exclude` and for filters; kept as text, so 1 and
            "1" are one. What `exclude` names is needed.
        times : (n,) numbers or datetimes, optional
            Seconds since 1970, or datetimes with their time zone (numpy's are UTC), for `expire` and for filters.
        generated : (n, M, D) or (n, D) array, or a sequence of M arrays (n, D), optional
            Features of generated images, as for `pose2id.centralize`. What is kept is the fused row.

        Returns
        -------
        int
            The new version.
        """
        names = take_keys(keys)
        n = len(names)
        told = _take_labels(cams, groups, times, n)
        with self._write("add") as change:
            head = change.state.head
            stored = fuse_features(features, generated, head.settings, n)
            _check_width(head.width, stored.shape[1])
            _check_excluded(head.settings, told)
            there = change.ask.ids_of(names)
            if there:
                raise ValueError(
                    f"keys must be new, there are already: {name_some(list(there))}; update or remove these"
                )
            if not n:
                return head.version
            ids = head.next_id + np.arange(n)
            columns = [told.get(name, [None] * n) for name in ("cam", "grp", "time")]
            rows = [Row(*row) for row in zip(ids.tolist(), names, *columns, strict=True)]
            change.ask.insert(change.version, rows)
            come = Come(ids, lambda part: stored[part], self._memory.encode(head.settings, told, n), new=True)
            fresh = {"width": stored.shape[1], "next_id": int(ids[-1]) + 1}
            change.move(n, come=come, head=fresh | _fused(head, generated))
            return change.version

    def update(
        self,
        keys: Labels,
        features: Array,
        cams: Labels | None = None,
        groups: Labels | None = None,
        times: Sequence[Time] | NDArray[Any] | None = None,
        generated: Array | Sequence[Array] | None = None,
    ) -> int:
        """Give rows that are there other features; they keep their places. What is left out of the rest stays.

        Parameters and result are those of `add`.
        """
        names = take_keys(keys)
        n = len(names)
        told = _take_labels(cams, groups, times, n)
        with self._write("update") as change:
            head = change.state.head
            stored = fuse_features(features, generated, head.settings, n)
            _check_width(head.width, stored.shape[1])
            if not n:
                return head.version
            ids = find_ids(change.ask, names)
            order = ids.argsort()
            ids, stored = ids[order], stored[torch.from_numpy(order)]
            for name, values in told.items():
                change.ask.relabel(name, ids.tolist(), [values[at] for at in order])
            come = Come(ids, lambda part: stored[part], self._codes(change, head.settings, ids), new=False)
            change.move(n, ids, come, _fused(head, generated))
            return change.version

    def remove(self, keys: Labels) -> int:
        """Remove rows: all of them or, where one is not there, none. Returns the new version."""
        names = take_keys(keys)
        with self._write("remove") as change:
            ids = np.sort(find_ids(change.ask, names))
            if not len(ids):
                return change.state.head.version
            change.ask.remove(change.version, ids.tolist())
            change.move(len(ids), ids)
            return change.version

    def expire(self, before: Time) -> list[str]:
        """Remove all rows whose time is before this one, in one transaction; those without a time stay.

        Returns their keys, in order of insertion.
        """
        moment = take_time(before, "before")
        with self._write("expire") as change:
            ids = np.array(change.ask.choose({}, None, moment), dtype=np.int64)
            named = change.ask.keys_of(ids.tolist())
            if len(ids):
                change.ask.remove(change.version, ids.tolist())
                change.move(len(ids), ids)
            return [named[at] for at in ids.tolist()]

    def reembed(self, features: Array, keys: Labels, generated: Array | Sequence[Array] | None = None) -> int:
        """Give all rows the features of another ReID model, perhaps of another width, in one transaction.

        `keys` must be those of the gallery, in any order; labels, times and places stay. Returns the new version.
        """
        names = take_keys(keys)
        n = len(names)
        with self._write("reembed") as change:
            state = change.state
            stored = fuse_features(features, generated, state.head.settings, n)
            missing = sorted(set(change.ask.keys()) - set(names))
            if missing:
                raise ValueError(f"reembed replaces all rows, {len(missing)} keys are missing: {name_some(missing)}")
            if not n:
                return state.head.version
            ids = find_ids(change.ask, names)
            order = ids.argsort()
            ids, stored = ids[order], stored[torch.from_numpy(order)]
            come = Come(ids, lambda part: stored[part], state.lists.labels, new=False)
            change.move(n, ids, come, {"width": stored.shape[1], "fused": generated is not None})
            return change.version

    def _recompute(self, given: dict[str, Any]) -> None:
        """Compute everything anew with other settings."""
        with self._write("recompute") as change:
            head, ids = change.state.head, change.state.lists.ids
            settings = change_settings(head.settings, given, recompute=True, fused=head.fused)
            if settings == head.settings:  # another process was first
                return
            new = replace(head, settings=settings, listed=count_listed(settings))
            change.state = change.state._replace(head=new)
            labels = change.ask.labels_of(ids.tolist())
            at = 1 if settings.exclude == "groups" else 0
            lacking = [row for row in ids.tolist() if labels[row][at] is None] if settings.exclude else []
            if lacking:
                named = _names(change.ask, lacking)
                raise ValueError(f"exclude={settings.exclude!r} needs one for every row, these have none: {named}")
            codes = self._codes(change, settings, ids)
            come = Come(ids, lambda part: stack(change.ask, "fused", ids[part], new), codes, new=False)
            change.move(len(ids), ids, come, {"listed": new.listed, **asdict(settings)})

    def _codes(self, change: _Change, settings: Settings, ids: Ids) -> Ids:
        """The labels of rows that are there, for `exclude`."""
        labels = change.ask.labels_of(ids.tolist())
        cams, groups = ([labels[at][each] for at in ids.tolist()] for each in (0, 1))
        return self._memory.encode(settings, {"cam": cams, "grp": groups}, len(ids))

    # Questions.

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Ask several questions of one version, which this gives, whatever is written meanwhile."""
        with self._lock, self._read() as asked:
            before, self._reading = self._reading, asked
            try:
                yield asked.head().version
            finally:
                self._reading = before

    def keys(self) -> list[str]:
        """All keys in order of insertion."""
        with self._read() as asked:
            return asked.keys()

    def features(self, keys: Labels | None = None, *, centralized: bool = True) -> NDArray[Any]:
        """Centralized rows (K, D) in the order of `keys`; of all rows in order of insertion without.

        `centralized=False` gives the fused rows that are kept: features as given, or with their generated ones.
        """
        name = "centralized" if check_flag(centralized, "centralized") else "fused"
        with self._read() as asked:
            head = asked.head()
            if keys is None:
                ids = np.array(asked.ids(), dtype=np.int64)
                return stack(asked, name, ids, head).numpy()
            ids = find_ids(asked, take_keys(keys))
            order = ids.argsort()
            return stack(asked, name, ids[order], head)[torch.from_numpy(order.argsort())].numpy()

    def neighbors(self, keys: Labels | None = None) -> Neighborhood:
        """The neighbours of some rows, of all in order of insertion without, by their fused features."""
        with self._read() as asked:
            state = self._memory.sync(asked)
            lists, settings = state.lists, state.head.settings
            ids = lists.ids if keys is None else find_ids(asked, take_keys(keys))
            places = lists.places(ids)
            near, mutual = (
                lists.near[places][:, : settings.k],
                neighborhoods.mutual(lists, places, settings.k1 if settings.k else 0, settings.k2),
            )
            named = asked.keys_of(np.unique(np.concatenate([near.ravel(), mutual.ravel()])).tolist())
            return Neighborhood(_name(near, named), lists.distances[places][:, : settings.k], _name(mutual, named))

    def search(
        self,
        query: Array,
        top: int = 10,
        *,
        cams: Labels | None = None,
        groups: Labels | None = None,
        not_cams: Labels | None = None,
        not_groups: Labels | None = None,
        after: Time | None = None,
        before: Time | None = None,
        centralize: bool = False,
    ) -> Found:
        """Find the nearest centralized rows.

        Parameters
        ----------
        query : (Q, D) numpy array or torch tensor
            Scaled to length 1 if the gallery normalizes.
        top : int
            How many rows to find for each query.
        cams, groups : sequence of strings or integers, optional
            Find only rows of these.
        not_cams, not_groups : sequence of strings or integers, optional
            Leave out rows of these.
        after, before : number or datetime, optional
            Find only rows of this time or later, or before this time; rows without a time are left out.
        centralize : bool
            Pull each query toward the gallery first, as `pose2id.centralize_queries` does with the fused rows: row j
            counts if it is among the k1 nearest of the query, and the query is at most as far as j's own k2-th
            neighbour (among rows that `exclude` allows). Filters do not matter for this.

        Returns
        -------
        Found
            `keys`, a list for each query, and `distances` (Q, top). The order is that of `pose2id.knn_graph`: by the
            float64 distance rounded to float32, then by order of insertion. Rows of zeros are never found.
        """
        rows, _ = take_features(query, "query", "(Q, D)")
        top = check_count(top, "top", 1)
        columns = {"cams": "cam", "groups": "grp", "not_cams": "not cam", "not_groups": "not grp"}
        given = zip(columns, (cams, groups, not_cams, not_groups), strict=True)
        filters = {columns[name]: take_texts(values, None, name) for name, values in given if values is not None}
        times = [
            None if time is None else take_time(time, name) for time, name in ((after, "after"), (before, "before"))
        ]
        check_flag(centralize, "centralize")
        with self._read() as asked:
            state = self._memory.sync(asked)
            head, lists = state.head, state.lists
            if head.width is not None and rows.shape[1] != head.width:
                raise ValueError(f"query must have the gallery's D = {head.width}, received {tuple(rows.shape)}")
            queries = self._take_queries(state, rows.cpu().float(), centralize=centralize)
            chosen = lists.nonzero
            if filters or times != [None, None]:
                chosen = chosen & np.isin(lists.ids, np.array(asked.choose(filters, *times), dtype=np.int64))
            store = self._memory.centralized(asked, state)
            k = max(1, min(top, len(lists.ids)))
            ids, distances = neighborhoods.search(queries, lists, store, k, chosen)
            named = asked.keys_of(np.unique(ids).tolist())
        padded = np.pad(distances, ((0, 0), (0, top - k)), constant_values=np.inf)
        return Found(_name(ids, named), padded)

    @fit_threads
    def _take_queries(self, state: State, rows: torch.Tensor, *, centralize: bool) -> torch.Tensor:
        """Queries as they are searched with."""
        settings, lists = state.head.settings, state.lists
        searched, nonzero = search_rows(rows, normalize=settings.normalize)
        if not centralize or not settings.k or not len(lists.ids):
            return searched
        k1 = min(settings.k1, len(lists.ids))
        ids, distances = neighborhoods.search(searched, lists, state.fused, k1, lists.nonzero)
        places = lists.places(ids).clip(max=len(lists.ids) - 1)
        counts = (ids >= 0) & (distances <= lists.distances[places][:, :, settings.k2 - 1]) & nonzero.numpy()[:, None]
        counted = torch.from_numpy(np.where(counts, places, NONE))

        def take(at: torch.Tensor) -> torch.Tensor:
            return state.fused.take(at.numpy()).double()

        queries, out = FusedRows(rows, normalize=settings.normalize), torch.empty_like(rows)
        queries.write(torch.empty_like(rows), searched=False)
        add_counted(queries, counted, take, settings.alpha, out)
        return out

    def changes(self, since: int = 0) -> Changes:
        """What changed after the version `since`: what a copy of that version has to put in and take out."""
        since = check_count(since, "since", 0, 2**63 - 1)
        with self._read() as asked:
            version = asked.head().version
            if since > version:
                raise ValueError(f"since must be a version of the gallery, 0 to {version}, received {since}")
            gone = [key for _, key in asked.removed(since)]
            there = asked.ids_of(gone)
            return Changes(version, asked.changed(since), [key for key in dict.fromkeys(gone) if key not in there])

    def history(self, since: int = 0) -> list[dict[str, Any]]:
        """All changes after a version, oldest first: `version`, `time` (seconds since 1970), `action`, `rows`."""
        since = check_count(since, "since", 0, 2**63 - 1)
        with self._read() as asked:
            names = ("version", "time", "action", "rows")
            return [dict(zip(names, each, strict=True)) for each in asked.history(since)]

    def publish(self, target: str, *, anew: bool = False, progress: bool = False) -> Published:
        """Bring a vector database, which serves searches, to the present version.

        What changed since the last time is inserted or replaced there, what was removed is deleted. The target itself
        remembers which version of which gallery it holds, so there may be several. A publication that was interrupted
        is finished by the next one. Rows that the target lost are sent again.

        Parameters
        ----------
        target : str
            ``milvus://FILE.db?collection=people`` (milvus-lite), ``milvus://user:password@host:19530/database?...`` (a
            server; ``secure=true`` for TLS), or ``postgresql://user:password@host/database?table=people`` (pgvector).
            ``index=hnsw`` makes a new collection or table with an approximate index; otherwise a search there is
            exact. The collection or table is made if it is not there, and belongs to this gallery alone.
        anew : bool
            Write everything, also over another gallery.
        progress : bool
            Show a bar on stderr.

        Returns
        -------
        Published
            `version`, and how many rows were `sent` and `removed`.

        Raises
        ------
        ValueError, TypeError
            For what is no target; for one that holds another gallery, a version that this gallery never had, or
            something else altogether.
        OSError
            When the target cannot be reached or written.
        MissingExtraError
            Without pymilvus (extra `milvus`) or psycopg (extra `pgvector`).

        Notes
        -----
        Columns: `id` (in order of insertion), `key`, `cam`, `grp` (the group), `time`, `zero` (a row of zeros, which
        `search` never finds) and `vector`: the centralized row in float32, bit for bit. Distances are Euclidean; scale
        queries to length 1 if the gallery normalizes. While it runs, a search there may see rows of both versions, and
        other threads wait for this object.
        """
        check_flag(anew, "anew")
        check_flag(progress, "progress")
        with self._lock:
            self._check_open()
            with closing(open_store(target)) as store, self._read() as asked:
                return publish(asked, store, anew=anew, progress=progress)

    def stats(self) -> dict[str, Any]:
        """Numbers of the gallery.

        `rows`, `width`, `version`, `cams`, `groups`, `zero_rows`, `pulled` (rows that have mutual neighbours),
        `first_time`, `last_time`, and `settings`.

        """
        with self._read() as asked:
            state = self._memory.sync(asked)
            lists, settings = state.lists, state.head.settings
            pulled = 0
            for start in range(0, len(lists.ids) if settings.k else 0, PART):
                places = np.arange(start, min(start + PART, len(lists.ids)))
                pulled += int((neighborhoods.mutual(lists, places, settings.k1, settings.k2) >= 0).any(axis=1).sum())
            first, last = asked.times()
            return {
                "rows": len(lists.ids),
                "width": state.head.width,
                "version": state.head.version,
                "cams": asked.count_labels("cam"),
                "groups": asked.count_labels("grp"),
                "zero_rows": int((~lists.nonzero).sum()),
                "pulled": pulled,
                "first_time": first,
                "last_time": last,
                "settings": asdict(settings),
            }

    def verify(self, *, progress: bool = False) -> list[str]:
        """Compute everything anew from the fused rows and compare; what is wrong, in words, nothing if all is right.

        Takes memory for three copies of all rows, and the time of `centralize`.
        """
        with self._read() as asked:
            head = asked.head()  # and nothing that is kept in memory or in files
            lists, settings = self._memory.read_lists(asked, head)[0], head.settings
            wrong = asked.count_orphans()
            fused = dict(asked.vectors("fused", lists.ids.tolist()))
            pulled = dict(asked.vectors("centralized", lists.ids.tolist()))
            size = np.dtype(settings.dtype).itemsize * (head.width or 0)
            for name, found in (("fused", fused), ("centralized", pulled)):
                bad = [at for at in lists.ids.tolist() if len(found.get(at, b"")) != size]
                if bad:
                    wrong.append(f"{len(bad)} {name} rows are missing or damaged: {_names(asked, bad)}")
            if wrong or not len(lists.ids):
                return wrong
            rows = from_blobs(list(fused.values()), settings.dtype, head.width or 1)
            if not np.isfinite(rows).all():
                return [
                    f"some fused rows hold NaN or inf: {_names(asked, lists.ids[~np.isfinite(rows).all(1)].tolist())}"
                ]
            table = _search_anew(rows, lists, settings, progress=progress)
            unlike = (table != _places(lists, lists.near[:, : settings.k])).any(axis=1)
            if unlike.any():
                some = _names(asked, lists.ids[unlike].tolist())
                wrong.append(f"{int(unlike.sum())} rows have other neighbours than those kept: {some}")
            options: dict[str, Any] = {each: getattr(settings, each) for each in ("k1", "k2", "alpha", "normalize")}
            expected = centralize(rows, neighbors=table if settings.k else None, progress=progress, **options)
            stored = from_blobs(list(pulled.values()), settings.dtype, head.width or 1)
            whole = f"u{expected.dtype.itemsize}"
            differ = (expected.view(whole) != stored.view(whole)).any(axis=1)
            if differ.any():
                some = _names(asked, lists.ids[differ].tolist())
                wrong.append(f"{int(differ.sum())} centralized rows are not those of centralize: {some}")
            return wrong

    # What is kept in memory.

    @contextmanager
    def _read(self) -> Iterator[Transaction]:
        with self._lock:
            if self._reading is not None:
                yield self._reading
                return
            self._check_open()
            with self._database.read() as asked:
                yield asked

    @contextmanager
    def _write(self, action: str) -> Iterator[_Change]:
        """One change, by one writer at a time."""
        with self._lock:
            self._check_open()
            if self._reading is not None:
                raise ValueError(f"{action} cannot run within reading(), which holds one version; end that first")
            with self._database.write() as asked:
                change = _Change(action, asked, self._memory.sync(asked))
                yield change
            if change.after is not None:
                self._memory.keep(change.after, clean=action != "add")

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError(f"the gallery {self._database.name} is closed")
        if self._process != os.getpid():  # a connection is of no use, and does harm, after a fork
            raise ValueError(
                f"{self._database.name} was opened by the process that started this one; open it here again"
            )


def count_listed(settings: Settings) -> int:
    """How many neighbours a list of the gallery holds."""
    return settings.k + SPARE if settings.k else 0


def _fused(head: Head, generated: object) -> dict[str, bool]:
    return {"fused": head.fused or generated is not None}


def _cache_folder(database: Database, head: Head, given: str | os.PathLike[str] | None) -> Path:
    if given is not None:
        return take_path(given, "cache")
    if database.path is not None:
        return database.path.with_name(database.path.name + ".cache")
    home = os.environ.get("XDG_CACHE_HOME") or Path("~", ".cache").expanduser()
    return Path(home, "pose2id", "galleries", head.gallery)


def _take_labels(cams: Any, groups: Any, times: Any, n: int) -> dict[str, list[Any]]:
    """What was given of cam, grp and time, as it is stored."""
    told: dict[str, list[Any]] = {}
    if cams is not None:
        told["cam"] = take_texts(cams, n, "cams")
    if groups is not None:
        told["grp"] = take_texts(groups, n, "groups")
    if times is not None:
        told["time"] = take_times(times, n)
    return told


def _check_excluded(settings: Settings, told: dict[str, list[Any]]) -> None:
    if settings.exclude is not None and settings.excluded not in told:
        raise ValueError(
            f"this gallery has exclude={settings.exclude!r}, so every row needs one; pass {settings.exclude}"
        )


def _check_width(kept: int | None, width: int) -> None:
    if kept is not None and width != kept:
        raise ValueError(_other_width(kept, width))


def _other_width(kept: int | None, width: int) -> str:
    return (
        f"this gallery has rows of D = {kept}, received D = {width}; features of another model need a new gallery, or "
        "reembed(), which replaces all rows"
    )


def find_ids(asked: Transaction, keys: list[str]) -> Ids:
    """The ids of keys, in their order; ValueError naming those that are not there."""
    found = asked.ids_of(keys)
    missing = [key for key in keys if key not in found]
    if missing:
        raise ValueError(f"keys must be in the gallery, {len(missing)} are not: {name_some(missing)}")
    return np.array([found[key] for key in keys], dtype=np.int64)


def _places(lists: Lists, ids: Ids) -> Ids:
    """Where ids stand, NONE for none."""
    return np.where(ids >= 0, lists.places(ids), NONE)


def _search_anew(rows: NDArray[Any], lists: Lists, settings: Settings, *, progress: bool) -> Ids:
    """The k nearest of every row, by place, as `centralize` finds them."""
    searched, nonzero = search_rows(torch.from_numpy(rows), normalize=settings.normalize)
    at = nonzero.nonzero().flatten()
    table = np.full((len(rows), settings.k), NONE)
    if settings.k and len(at):
        labels = torch.from_numpy(lists.labels)[at] if settings.exclude else None
        base = searched[at]
        found, _ = find_neighbors(base, base, settings.k, labels, labels, within=True, progress=progress)
        table[at] = torch.where(found >= 0, at[found.clamp(min=0)], NONE)
    return table


def _name(ids: Ids, named: dict[int, str]) -> list[list[str]]:
    return [[named[at] for at in row if at != NONE] for row in ids.tolist()]


def _names(asked: Transaction, ids: list[int]) -> str:
    named = asked.keys_of(ids[:6])
    return name_some([named.get(at, str(at)) for at in ids[:6]] + [""] * (len(ids) - 6))
