"""`Gallery`: a set that grows and shrinks, whose centralized rows are at every moment those of `centralize`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.arrays import take_features
from pose2id.errors import escape
from pose2id.gallery import questions
from pose2id.gallery.access import Access
from pose2id.gallery.answers import Changes, Found, Neighborhood
from pose2id.gallery.arguments import take_keys, take_texts, take_time, take_told
from pose2id.gallery.keys import find_ids
from pose2id.gallery.opening import choose_cache, make_gallery, open_database
from pose2id.gallery.publishing import Published, publish
from pose2id.gallery.settings import KEPT, change_settings, check_settings
from pose2id.gallery.stores import open_store
from pose2id.gallery.updates import stack
from pose2id.gallery.verification import verify
from pose2id.validation import check_count, check_flag, take_path

if TYPE_CHECKING:
    from datetime import datetime

    from pose2id.arrays import Array
    from pose2id.validation import Labels

    Time = float | datetime | np.datetime64


class Gallery:
    """A living gallery; made by `Gallery.open`.

    **The law**: after any sequence of adds, removes and updates, in any order, by any number of processes,
    ``gallery.features()`` equals ``centralize(gallery.features(centralized=False), k1=..., k2=..., alpha=...,
    normalize=..., exclude=...)`` bit for bit (on one kind of CPU). Where rows came with generated features, and are
    kept in float32, it also equals `centralize` of features and generated ones.

    An object may be used by several threads, which wait for each other; processes open the gallery for themselves.
    """

    def __init__(self, access: Access) -> None:
        self._access = access

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
            gallery; ``?options=-csearch_path%3Dname`` chooses the schema, which must be there (``CREATE SCHEMA name``).
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
        folder = None if cache is None else take_path(cache, "cache")
        database = open_database(target, create=check_flag(create, "create"))
        try:
            head = make_gallery(database, given, width, create=create)
            settings = change_settings(head.settings, given, recompute=recompute, fused=head.fused)
            access = Access(database, folder or choose_cache(database, head))
            if settings != head.settings:
                with access.write("recompute") as change:
                    change.recompute(given)
            return cls(access)
        except BaseException:
            database.close()
            raise

    def close(self) -> None:
        """Let go of the database; what is kept in memory is written to the cache."""
        self._access.close()

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        with self._access.read() as asked:
            return asked.count()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Gallery cannot be pickled or copied; open it there again")

    def __repr__(self) -> str:
        return f"Gallery({escape(self._access.database.name)!r})"

    @property
    def version(self) -> int:
        """A number that every change makes larger by one; 0 for a new gallery."""
        with self._access.read() as asked:
            return asked.head().version

    @property
    def width(self) -> int | None:
        """D, the columns of all rows; None before the first."""
        with self._access.read() as asked:
            return asked.head().width

    @property
    def settings(self) -> dict[str, Any]:
        """The settings, by the names of the arguments of `open`."""
        with self._access.read() as asked:
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
        told = take_told(cams, groups, times, len(names))
        with self._access.write("add") as change:
            return change.add(names, told, features, generated)

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
        told = take_told(cams, groups, times, len(names))
        with self._access.write("update") as change:
            return change.update(names, told, features, generated)

    def remove(self, keys: Labels) -> int:
        """Remove rows: all of them or, where one is not there, none. Returns the new version."""
        names = take_keys(keys)
        with self._access.write("remove") as change:
            return change.remove(names)

    def expire(self, before: Time) -> list[str]:
        """Remove all rows whose time is before this one, in one transaction; those without a time stay.

        Returns their keys, in order of insertion.
        """
        moment = take_time(before, "before")
        with self._access.write("expire") as change:
            return change.expire(moment)

    def reembed(self, features: Array, keys: Labels, generated: Array | Sequence[Array] | None = None) -> int:
        """Give all rows the features of another ReID model, perhaps of another width, in one transaction.

        `keys` must be those of the gallery, in any order; labels, times and places stay. Returns the new version.
        """
        names = take_keys(keys)
        with self._access.write("reembed") as change:
            return change.reembed(names, features, generated)

    # Questions.

    def reading(self) -> AbstractContextManager[int]:
        """Ask several questions of one version, which this gives, whatever is written meanwhile."""
        return self._access.reading()

    def keys(self) -> list[str]:
        """All keys in order of insertion."""
        with self._access.read() as asked:
            return asked.keys()

    def features(self, keys: Labels | None = None, *, centralized: bool = True) -> NDArray[Any]:
        """Centralized rows (K, D) in the order of `keys`; of all rows in order of insertion without.

        `centralized=False` gives the fused rows that are kept: features as given, or with their generated ones.
        """
        name = "centralized" if check_flag(centralized, "centralized") else "fused"
        with self._access.read() as asked:
            head = asked.head()
            if keys is None:
                ids = np.array(asked.ids(), dtype=np.int64)
                return stack(asked, name, ids, head).numpy()
            ids = find_ids(asked, take_keys(keys))
            order = ids.argsort()
            return stack(asked, name, ids[order], head)[torch.from_numpy(order.argsort())].numpy()

    def neighbors(self, keys: Labels | None = None) -> Neighborhood:
        """The neighbours of some rows, of all in order of insertion without, by their fused features."""
        names = None if keys is None else take_keys(keys)
        with self._access.read() as asked:
            return questions.find_neighborhood(asked, self._access.memory, names)

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
        with self._access.read() as asked:
            return questions.search(asked, self._access.memory, rows, top, filters, times, centralize=centralize)

    def changes(self, since: int = 0) -> Changes:
        """What changed after the version `since`: what a copy of that version has to put in and take out."""
        since = check_count(since, "since", 0, 2**63 - 1)
        with self._access.read() as asked:
            version = asked.head().version
            if since > version:
                raise ValueError(f"since must be a version of the gallery, 0 to {version}, received {since}")
            gone = [key for _, key in asked.removed(since)]
            there = asked.ids_of(gone)
            return Changes(version, asked.changed(since), [key for key in dict.fromkeys(gone) if key not in there])

    def history(self, since: int = 0) -> list[dict[str, Any]]:
        """All changes after a version, oldest first: `version`, `time` (seconds since 1970), `action`, `rows`."""
        since = check_count(since, "since", 0, 2**63 - 1)
        with self._access.read() as asked:
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
        with self._access.lock:
            self._access.check_open()
            with closing(open_store(target)) as store, self._access.read() as asked:
                return publish(asked, store, anew=anew, progress=progress)

    def stats(self) -> dict[str, Any]:
        """Numbers of the gallery.

        `rows`, `width`, `version`, `cams`, `groups`, `zero_rows`, `pulled` (rows that have mutual neighbours),
        `first_time`, `last_time`, and `settings`.

        """
        with self._access.read() as asked:
            return questions.count(asked, self._access.memory)

    def verify(self, *, progress: bool = False) -> list[str]:
        """Compute everything anew from the fused rows and compare; what is wrong, in words, nothing if all is right.

        Takes memory for three copies of all rows, and the time of `centralize`.
        """
        with self._access.read() as asked:
            return verify(asked, self._access.memory, progress=progress)
