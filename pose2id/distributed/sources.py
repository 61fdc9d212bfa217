"""What is given as Dask arrays: checked without computing anything, and laid out in blocks of rows. Dask's one door."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from pose2id.errors import one_line, require
from pose2id.files import LABELS
from pose2id.threads import find_limits
from pose2id.validation import take_labels

Report = Callable[[str], None]

SMALLEST = 2**23
"""Bytes of a block, at least: smaller chunks are put together. A task takes the scheduler about a millisecond."""


def dask_array() -> ModuleType:
    """The module `dask.array`."""
    return require("dask.array", "dask", "pose2id.distributed")


def graph_of(name: str, tasks: dict[Any, Any], sources: list[Any]) -> Any:
    """A graph of `tasks` on top of the arrays `sources`."""
    return require("dask.highlevelgraph", "dask", "pose2id.distributed").HighLevelGraph.from_collections(
        name, tasks, dependencies=sources
    )


def name_of(*parts: Any) -> str:
    """A name that is the same for the same arrays and settings."""
    token: str = require("dask.base", "dask", "pose2id.distributed").tokenize(*parts)
    return token


def work_type(dtype: Any) -> np.dtype[Any]:
    """The working dtype for features of `dtype`."""
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


class Source(NamedTuple):
    """Arrays cut alike, one block of rows after the other."""

    features: Any  # (N, D), one chunk for a block of rows
    generated: Any | None  # (N, M, D) or (N, D)
    labels: Any | None  # (N,): a Dask array, or a numpy array
    sizes: tuple[int, ...]  # rows of every block

    @property
    def starts(self) -> list[int]:
        """The first row of every block."""
        return [int(start) for start in np.cumsum((0, *self.sizes[:-1]))]


def take_source(features: Any, generated: Any = None, exclude: Any = None) -> Source:
    """Check shapes and dtypes, and cut everything as the rows of `features` are."""
    features = _take_floats(features, "features", (2,), "(N, D)")
    sizes = _join_chunks(features.chunks[0], features.shape[1] * features.dtype.itemsize)
    n, width = features.shape
    if generated is not None:
        generated = _take_floats(generated, "generated", (2, 3), "(N, M, D) or (N, D)")
        if generated.shape[0] != n or generated.shape[-1] != width:
            raise ValueError(
                f"generated must have shape ({n}, M, {width}) or ({n}, {width}), received {generated.shape}"
            )
        if generated.ndim == 3 and not generated.shape[1]:
            raise ValueError(f"generated must have M >= 1, received {generated.shape}")
        generated = generated.rechunk((sizes, *((length,) for length in generated.shape[1:])))
    if _is_lazy(exclude):
        _check_array(exclude, "exclude")
        if exclude.dtype.kind not in "iuU":
            raise TypeError(
                f"exclude must be integers or strings, received dtype {exclude.dtype}; make strings by .astype(str)"
            )
        if exclude.shape != (n,):
            raise ValueError(f"exclude must have shape ({n},), one label per row, received {exclude.shape}")
        exclude = exclude.rechunk((sizes,))
    elif exclude is not None:
        exclude = take_labels(exclude, n, "exclude")
    return Source(features.rechunk((sizes, (width,))), generated, exclude, sizes)


def read_zarr(path: str) -> dict[str, Any]:
    """The arrays of a zarr group by name: `features` and `generated` as Dask arrays, labels as numpy arrays."""
    group = _open_group(path)
    with _without_warning():
        held = dict(group.arrays())
    if "features" not in held:
        raise ValueError(f"{path} must hold an array 'features', it holds {', '.join(sorted(group.keys())) or 'none'}")
    arrays = {name: dask_array().from_zarr(held[name]) for name in ("features", "generated") if name in held}
    return arrays | {name: np.asarray(held[name][:]) for name in LABELS if name in held}


def _open_group(path: str) -> Any:
    zarr = require("zarr", "dask", "pose2id.distributed")
    try:
        return zarr.open_group(str(Path(path).resolve()), mode="r")  # workers may stand in another folder
    except zarr.errors.ContainsArrayError as error:
        raise ValueError(
            f"{path} must be a zarr group with an array 'features', it is a bare array; write it with "
            'component="features", as in dask.array.to_zarr(array, path, component="features")'
        ) from error
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} must be a zarr group: {one_line(error, 200)}") from error


@contextmanager
def _without_warning() -> Iterator[None]:
    """Without zarr's warning that its format has no name for text of fixed length: here zarr wrote it and reads it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The data type .* does not have a Zarr V3 specification")
        yield


def write_zarr(
    path: str, features: Any, labels: dict[str, Any], scheduler: str, report: Report, *, source: str
) -> None:
    """Compute `features`, a Dask array, on a cluster and write it and `labels` to a new zarr group.

    `scheduler` is the address of one, or "local" for processes of this machine. `source` is the group that is read.
    `report` is told where progress is shown, if anywhere, and what is waited for.
    """
    group = require("zarr", "dask", "pose2id.distributed").open_group(path, mode="w")
    with _without_warning():
        for name, array in labels.items():
            group.create_array(name, data=array)
    rows = max(1, *features.chunks[0])  # equal chunks, each written by one task
    chunks = rows, features.shape[1]
    how = {"write_empty_chunks": True}  # so that chunks can be counted
    target = group.create_array("features", shape=features.shape, dtype=features.dtype, chunks=chunks, config=how)
    with _connect(scheduler) as client:
        if client.dashboard_link:
            report(f"progress at {client.dashboard_link}")
        _check_reach(client, [source, path], report)
        with _explain():
            dask_array().store(features.rechunk(chunks), target, lock=False, scheduler=client)
    missing = target.nchunks - target.nchunks_initialized
    if missing:
        raise ValueError(
            f"{missing} of {target.nchunks} chunks are not there, though workers wrote them: the output must lie on a "
            "file system that all workers see"
        )


def _check_reach(client: Any, folders: list[str], report: Report) -> None:
    """Raise where a worker does not see a folder: zarr would read zeros there, and write where nobody looks."""
    for folder in folders:
        absolute = str(Path(folder).resolve())
        seen = client.run(os.path.isdir, absolute)
        blind = [worker for worker, sees in seen.items() if not sees]
        if blind:
            raise ValueError(
                f"{len(blind)} of {len(seen)} workers, such as {blind[0]}, do not see {absolute}: both groups must lie "
                "on a file system that all workers see, under the same path"
            )
    if not client.scheduler_info()["workers"]:
        report("the scheduler has no workers; waiting for the first")


@contextmanager
def _explain() -> Iterator[None]:
    """What ends a computation besides errors of its own, as a ValueError that says what to do."""
    distributed = require("distributed", "dask", "pose2id.distributed")
    try:
        yield
    except distributed.KilledWorker as error:
        raise ValueError(
            "workers died at the same task again and again, mostly for want of memory: give them more "
            f"(--memory-limit), or take smaller chunks; {one_line(error, 200)}"
        ) from error
    except (concurrent.futures.CancelledError, asyncio.CancelledError) as error:
        raise ValueError(f"the scheduler went away: {one_line(error, 200)}") from error


@contextmanager
def _connect(scheduler: str) -> Iterator[Any]:
    distributed = require("distributed", "dask", "pose2id.distributed")
    logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every connection
    if scheduler == "local":
        with (
            distributed.LocalCluster(
                n_workers=find_limits().threads,
                threads_per_worker=1,
                dashboard_address="127.0.0.1:0",  # any free port: of one that is taken a warning would tell
                silence_logs=logging.ERROR,
            ) as cluster,
            distributed.Client(cluster) as client,
        ):
            yield client
        return
    if "://" not in scheduler:
        raise ValueError(f"scheduler must be 'local' or an address such as tcp://host:8786, received {scheduler!r}")
    try:
        client = distributed.Client(scheduler, timeout="10s")
    except (OSError, ValueError) as error:
        raise ValueError(f"scheduler {scheduler} does not answer: {one_line(error, 200)}") from error
    with client:
        yield client


def _is_lazy(array: Any) -> bool:
    """Whether it belongs to Dask: an array, a frame's column."""
    lazy: bool = require("dask.base", "dask", "pose2id.distributed").is_dask_collection(array)
    return lazy


def _check_array(array: Any, name: str) -> None:
    if not isinstance(array, dask_array().Array):
        how = (
            "to_dask_array().compute_chunk_sizes() makes one of a frame"
            if _is_lazy(array)
            else "make one with dask.array.from_zarr(path), or dask.array.from_array(array, chunks=(rows, -1))"
        )
        raise TypeError(f"{name} must be a dask array, received {type(array).__name__}; {how}")
    if any(np.isnan(length) for length in array.shape):
        raise ValueError(
            f"{name} must have a known shape, received {array.shape}; call its compute_chunk_sizes() first"
        )


def _take_floats(array: Any, name: str, ranks: tuple[int, ...], shape: str) -> Any:
    """The array, in this machine's order of bytes."""
    _check_array(array, name)
    dtype = array.dtype.newbyteorder("=")
    if dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name} must hold float16, float32 or float64 values, received dtype {array.dtype}")
    if array.ndim not in ranks:
        raise ValueError(f"{name} must have shape {shape}, received {array.shape}")
    if array.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one column (D >= 1), received shape {array.shape}")
    return array.astype(dtype)


def _join_chunks(chunks: tuple[int, ...], row_bytes: int) -> tuple[int, ...]:
    """The rows of blocks: chunks that follow each other, put together to at least `SMALLEST` bytes."""
    sizes: list[int] = []
    for chunk in chunks:
        if sizes and (sizes[-1] * row_bytes < SMALLEST or not chunk):
            sizes[-1] += chunk
        else:
            sizes.append(chunk)
    if len(sizes) > 1 and sizes[-1] * row_bytes < SMALLEST:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return tuple(sizes)
