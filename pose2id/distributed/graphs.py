"""The graphs of tasks: fuse, search pairs of blocks, exchange mutual neighbours, add; the public functions."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from operator import getitem
from typing import Any

import numpy as np
import torch

from pose2id.centralization import check_parameters
from pose2id.distributed import blocks, pivots
from pose2id.distributed.sources import Source, dask_array, graph_of, name_of, take_source, work_type
from pose2id.neighbors import Neighbors, check_engine
from pose2id.validation import check_choice, check_count

ENGINES = ("auto", "exact", "faiss", "pivots")
DEVICES = ("cpu", "cuda")
Key = tuple[str | int, ...]
FAN = 16
"""Tables that one task merges."""
GROUPS = 8
"""Groups that rows for many parts are sent to at first."""
BESIDE = 2
"""Blocks that a task is given beside its own, at most: it works on part of its rows where others would be more."""


def knn_graph(
    features: Any, k: int, *, exclude: Any = None, engine: str = "auto", device: str = "cpu"
) -> Neighbors[Any]:
    """Find the k nearest other rows of every row of a Dask array; lazy.

    Parameters
    ----------
    features : (N, D) dask array
        float16, float32 or float64, in numpy chunks; used as given, not normalised. Any chunks; columns are put
        together, and so are chunks of rows below 8 MB.
    k : int
        Neighbours per row, at least 1. Where there are fewer other rows, the rest is -1 and inf.
    exclude : (N,) integers or strings, or a dask array of them, optional
        Rows with equal labels are never neighbours.
    engine : {"auto", "exact", "faiss", "pivots"}
        Who searches a block among another: "auto" is "exact". Every pair of blocks is searched once, for both, and the
        numbers are those of `pose2id.knn_graph`. "pivots" is approximate: every row is sent to the blocks of its
        nearest pivots and searched there; it needs work that grows with N instead of N².
    device : {"cpu", "cuda"}
        Where workers search.

    Returns
    -------
    Neighbors
        Of dask arrays: `indices` (N, k) int64 and `distances` (N, k), as `pose2id.knn_graph` describes them.

    Raises
    ------
    TypeError, ValueError
        At once for arguments of a wrong kind or shape; when computed for NaN or inf, naming rows.
    MissingExtraError
        Without Dask.

    Examples
    --------
    >>> import dask.array
    >>> import numpy as np
    >>> from pose2id.distributed import knn_graph
    >>> features = dask.array.from_array(np.array([[0.0], [1.0], [3.0]]), chunks=(2, 1))
    >>> knn_graph(features, k=1).indices.compute().ravel().tolist()
    [1, 0, 1]
    """
    k = check_count(k, "k", 1)
    _check_ways(engine, device)
    source = take_source(features, None, exclude)
    graph = _Graph(source, "knn", name_of(source, k, engine, device))
    graph.fuse(eta=0.0, normalize=False)
    graph.search(k, engine, device, zeros=True)
    dtypes = np.dtype(np.int64), work_type(source.features.dtype)
    return Neighbors(*(graph.pick(number, k, dtype) for number, dtype in enumerate(dtypes)))


def centralize(
    features: Any,
    generated: Any = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    alpha: float = 0.0,
    normalize: bool = True,
    exclude: Any = None,
    engine: str = "auto",
    device: str = "cpu",
) -> Any:
    """Pull each row of a Dask array toward its identity's centre; lazy, with the numbers of `pose2id.centralize`.

    Parameters
    ----------
    features : (N, D) dask array
        float16, float32 or float64, in numpy chunks. Any chunks, see `knn_graph`.
    generated : (N, M, D) or (N, D) dask array, optional
        Features of M generated images of each sample, or their mean.
    eta, k1, k2, alpha, normalize
        As for `pose2id.centralize`.
    exclude, engine, device
        As for `knn_graph` of this module.

    Returns
    -------
    (N, D) dask array of the dtype of `features`
        With engine "auto", "exact" or "faiss" equal to the last bit to what `pose2id.centralize` gives on one machine
        of the workers' kind.

    Raises
    ------
    TypeError, ValueError
        At once for arguments of a wrong kind or shape; when computed for NaN or inf, naming rows, and for raw sums
        that do not fit the dtype.
    MissingExtraError
        Without Dask.

    Examples
    --------
    >>> import dask.array
    >>> import numpy as np
    >>> from pose2id.distributed import centralize
    >>> features = dask.array.from_array(np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]), chunks=(2, 2))
    >>> centralize(features, k1=1, k2=1).compute().round(3).tolist()
    [[0.894, 0.447], [0.894, 0.447], [0.0, -1.0]]
    """
    eta, k1, k2, alpha = check_parameters(eta, k1, k2, alpha, normalize, engine)
    _check_ways(engine, device)
    source = take_source(features, generated, exclude)
    if not eta:
        source = source._replace(generated=None)
    settings = eta, k1, k2, alpha, normalize, engine, device
    graph = _Graph(source, "centralize", name_of(source, *settings))
    graph.fuse(eta=eta, normalize=normalize)
    k = min(max(k1, k2), features.shape[0] - 1) if k1 and k2 and features.shape[0] else 0
    if k:
        graph.search(k, engine, device, zeros=False)
        graph.exchange(k1, k2)
    return graph.add(alpha=alpha, normalize=normalize).astype(features.dtype)


def _check_ways(engine: Any, device: Any) -> None:
    check_engine(engine)
    check_choice(engine, "engine on a cluster", ENGINES)
    check_choice(device, "device", DEVICES)


class _Graph:
    """Tasks by key, (what, block) or (what, block, other block)."""

    def __init__(self, source: Source, prefix: str, token: str) -> None:
        self.source, self.prefix, self.token = source, prefix, token
        self.count = len(source.sizes)
        self.askers: list[tuple[int, slice]] = []
        self.tasks: dict[Any, Any] = {}

    def key(self, what: str, *numbers: int) -> Key:
        """The key of a task."""
        return (f"{self.prefix}-{what}-{self.token}", *numbers)

    def put(self, key: Key, call: Any, *arguments: Any, **settings: Any) -> Key:
        """Add a task: a call with what other tasks give, and settings."""
        self.tasks[key] = (partial(call, **settings) if settings else call, *arguments)
        return key

    def parts(self, beside: int) -> list[tuple[int, slice]]:
        """Parts of blocks: so many that each needs at most `BESIDE` of the `beside` blocks of rows that all need."""
        count = max(1, -(-beside // BESIDE))
        ends = [[size * part // count for part in range(count + 1)] for size in self.source.sizes]
        return [(i, slice(*part)) for i, each in enumerate(ends) for part in pairwise(each)]

    def fuse(self, *, eta: float, normalize: bool) -> None:
        """The fused rows of every block."""
        features, generated, labels, sizes = self.source
        parts = self.parts(generated.shape[1] if generated is not None and generated.ndim == 3 else 1)
        if generated is not None:
            rows = tuple(part.stop - part.start for _, part in parts)
            generated = generated.rechunk((rows, *((length,) for length in generated.shape[1:])))
            self.source = self.source._replace(generated=generated)
        calls: list[Key] = []
        for number, (i, part) in enumerate(parts):
            first = self.source.starts[i]
            arguments: list[Any] = [(features.name, i, 0), None, None]
            if generated is not None:
                arguments[1] = (generated.name, number, *[0] * (generated.ndim - 1))
            if isinstance(labels, np.ndarray):
                arguments[2] = labels[first : first + sizes[i]][part]
            elif labels is not None:
                arguments[2] = (getitem, (labels.name, i), part)
            how = {"first": first, "part": part, "eta": eta, "normalize": normalize}
            calls.append(self.put(self.key("fusing", number), blocks.fuse_block, *arguments, **how))
        self._join(parts, calls, blocks.join_parts, [self.key("fused", i) for i in range(self.count)])

    def _join(self, parts: list[tuple[int, slice]], calls: list[Key], join: Any, keys: list[Key]) -> None:
        """Put together, under `keys`, what `calls` give for the parts of each block; of one part it is that itself."""
        members: list[list[Key]] = [[] for _ in keys]
        for (i, _), call in zip(parts, calls, strict=True):
            members[i].append(call)
        for key, each in zip(keys, members, strict=True):
            self.tasks[key] = self.tasks.pop(each[0]) if len(each) == 1 else (join, each)

    def search(self, k: int, engine: str, device: str, *, zeros: bool) -> None:
        """The table of neighbours of every block."""
        if engine == "pivots":
            self._search_parts(k, device, zeros=zeros)
            return
        how: dict[str, Any] = {"k": k, "engine": "exact" if engine == "auto" else engine}
        how |= {"zeros": zeros, "device": device}
        for i in range(self.count):
            for j in range(i, self.count):
                self.put(self.key("pair", i, j), blocks.search_pair, self.key("fused", i), self.key("fused", j), **how)
        for i in range(self.count):
            self._merge(i, [(self.key("pair", min(i, j), max(i, j)), int(j < i)) for j in range(self.count)])

    def _merge(self, i: int, tables: list[tuple[Key, int]]) -> None:
        """The table of block i out of one side each of many, `FAN` at a time."""
        level = 0
        while len(tables) > FAN:
            tables = [
                (self._merged(self.key(f"merged{level}", i, at), tables[at : at + FAN]), -1)
                for at in range(0, len(tables), FAN)
            ]
            level += 1
        self._merged(self.key("table", i), tables)

    def _merged(self, key: Key, tables: list[tuple[Key, int]]) -> Key:
        return self.put(key, blocks.merge_sides, [each for each, _ in tables], sides=[side for _, side in tables])

    def _search_parts(self, k: int, device: str, *, zeros: bool) -> None:
        """The table of every block from the parts of all rows that pivots make."""
        sizes, starts = self.source.sizes, self.source.starts
        parts = pivots.count_parts(sizes)
        samples = [
            self.put(self.key("sample", i), pivots.take_sample, self.key("fused", i), count=count)
            for i, count in enumerate(pivots.share_sample(sizes, parts, self.source.features.shape[1]))
        ]
        trained = self.put(self.key("pivots"), pivots.train, samples, parts=parts)
        for i in range(self.count):
            fused = self.key("fused", i)
            joined = self.put(self.key("joined", i), pivots.join, fused, trained, parts=parts, zeros=zeros)
            self._send(i, parts, fused, joined)
        for p in range(parts):
            rows = [self.key("sent1", i, p) for i in range(self.count)]
            found = self.put(self.key("found", p), pivots.search_part, rows, k=k, device=device)
            for i in range(self.count):
                self.put(self.key("met", p, i), getitem, found, i)
        for i, first in enumerate(starts):
            met = [self.key("met", p, i) for p in range(parts)]
            dtype = work_type(self.source.features.dtype)
            self.put(self.key("table", i), pivots.join_tables, met, rows=sizes[i], first=first, k=k, dtype=dtype)

    def _send(self, i: int, parts: int, *block: Key) -> None:
        """The rows of block i for every part, over some groups of parts, and groups of these.

        Every part takes rows of all blocks, which are more than workers hold: if each took its rows from whole blocks,
        all features would be read from disk once for every part.
        """
        step = 1
        while step * GROUPS < parts:
            step *= GROUPS
        while step:
            for first in range(0, parts, step):
                group = first - first % (step * GROUPS)
                before = (self.key(f"sent{step * GROUPS}", i, group),)
                call, given = (pivots.send_on, before) if before[0] in self.tasks else (pivots.send, block)
                self.put(self.key(f"sent{step}", i, first), call, *given, first=first, stop=min(first + step, parts))
            step //= GROUPS

    def exchange(self, k1: int, k2: int) -> None:
        """What parts of blocks ask all blocks, and the mutual neighbours' rows that these answer with."""
        starts = self.source.starts
        self.askers = self.parts(min(k1, k2))
        firsts = [starts[i] + part.start for i, part in self.askers]
        groups = min(len(self.askers), max(k1, k2))  # so that the answers of one task are about as many rows as a block
        for a, (i, part) in enumerate(self.askers):
            how: dict[str, Any] = {"first": starts[i], "part": part, "starts": starts, "k1": k1}
            asked = self.put(self.key("asked", a), blocks.ask, self.key("table", i), **how)
            for j in range(self.count):
                self.put(self.key("ask", a, j), getitem, asked, j)
        for j in range(self.count):
            own = self.key("fused", j), self.key("table", j)
            for group in range(groups):
                members = range(group, len(self.askers), groups)
                asks, how = [self.key("ask", a, j) for a in members], {"firsts": [firsts[a] for a in members], "k2": k2}
                told = self.put(self.key("answers", j, group), blocks.answer, *own, asks, **how)
                for place, a in enumerate(members):
                    self.put(self.key("answer", a, j), getitem, told, place)

    def add(self, *, alpha: float, normalize: bool) -> Any:
        """The result."""
        features = self.source.features
        how: dict[str, Any] = {"alpha": alpha, "normalize": normalize}
        how["dtype"] = torch.from_numpy(np.empty(0, features.dtype)).dtype
        parts, calls = self.askers or self.parts(0), []
        for a, (i, part) in enumerate(parts):
            answers = [self.key("answer", a, j) for j in range(self.count)] if self.askers else []
            calls.append(
                self.put(self.key("adding", a), blocks.add_block, self.key("fused", i), answers, part=part, **how)
            )
        self._join(parts, calls, np.concatenate, [self.key("added", i, 0) for i in range(self.count)])
        return self._array("added", (features.shape[1],), features.dtype)

    def pick(self, number: int, k: int, dtype: Any) -> Any:
        """One of the two arrays of the tables."""
        what = f"table{number}"
        for i in range(self.count):
            self.put(self.key(what, i, 0), getitem, self.key("table", i), number)
        return self._array(what, (k,), dtype)

    def _array(self, what: str, width: tuple[int, ...], dtype: Any) -> Any:
        name = str(self.key(what)[0])
        sources = [each for each in self.source[:3] if each is not None and not isinstance(each, np.ndarray)]
        chunks = (self.source.sizes, width)
        return dask_array().Array(graph_of(name, self.tasks, sources), name, chunks, dtype=dtype)
