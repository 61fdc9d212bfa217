"""What is given as Dask arrays: checked without computing anything, and laid out in blocks of rows. Dask's one door."""

from __future__ import annotations

import logging
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

Report = Callable[[str | None], None]

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
    _check_array(features, "features", (2,), "(N, D)")
    sizes = _join_chunks(features.chunks[0], features.shape[1] * features.dtype.itemsize)
    n, width = features.shape
    if generated is not None:
        _check_array(generated, "generated", (2, 3), "(N, M, D) or (N, D)")
        if generated.shape[0] != n or generated.shape[-1] != width:
            raise ValueError(
                f"generated must have shape ({n}, M, {width}) or ({n}, {width}), received {generated.shape}"
            )
        if generated.ndim == 3 and not generated.shape[1]:
            raise ValueError(f"generated must have M >= 1, received {generated.shape}")
        generated = generated.rechunk((sizes, *((length,) for length in generated.shape[1:])))
    if exclude is not None and isinstance(exclude, dask_array().Array):
        if exclude.dtype.kind not in "iuU":
            raise TypeError(f"exclude must be integers or strings, received dtype {exclude.dtype}")
        if exclude.shape != (n,):
            raise ValueError(f"exclude must have shape ({n},), one label per row, received {exclude.shape}")
        exclude = exclude.rechunk((sizes,))
    elif exclude is not None:
        exclude = take_labels(exclude, n, "exclude")
    return Source(features.rechunk((sizes, (width,))), generated, exclude, sizes)


def read_zarr(path: str) -> dict[str, Any]:
    """The arrays of a zarr group by name: `features` and `generated` as Dask arrays, labels as numpy arrays."""
    group = _open_group(path)
    arrays = {name: dask_array().from_zarr(group[name]) for name in ("features", "generated") if name in group}
    if "features" not in arrays:
        raise ValueError(f"{path} must hold an array 'features', it holds {', '.join(sorted(group.keys())) or 'none'}")
    return arrays | {name: np.asarray(group[name][:]) for name in LABELS if name in group}


def _open_group(path: str) -> Any:
    zarr = require("zarr", "dask", "pose2id.distributed")
    try:
        return zarr.open_group(str(Path(path).resolve()), mode="r")  # workers may stand in another folder
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} must be a zarr group: {one_line(error, 200)}") from error


def write_zarr(path: str, features: Any, labels: dict[str, Any], scheduler: str, report: Report) -> None:
    """Compute `features`, a Dask array, on a cluster and write it and `labels` to a new zarr group.

    `scheduler` is the address of one, or "local" for processes of this machine. `report` is told the address of the
    dashboard, if there is one.
    """
    group = require("zarr", "dask", "pose2id.distributed").open_group(path, mode="w")
    for name, array in labels.items():
        group.create_array(name, data=array)
    rows = max(1, *features.chunks[0])  # equal chunks, each written by one task
    chunks = rows, features.shape[1]
    target = group.create_array("features", shape=features.shape, dtype=features.dtype, chunks=chunks)
    with _connect(scheduler) as client:
        report(client.dashboard_link)
        dask_array().store(features.rechunk(chunks), target, lock=False, scheduler=client)


@contextmanager
def _connect(scheduler: str) -> Iterator[Any]:
    distributed = require("distributed", "dask", "pose2id.distributed")
    logging.getLogger("distributed").setLevel(logging.ERROR)  # it tells of every connection
    if scheduler == "local":
        with (
            distributed.LocalCluster(
                n_workers=find_limits().threads,
                threads_per_worker=1,
                dashboard_address=None,
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


def _check_array(array: Any, name: str, ranks: tuple[int, ...], shape: str) -> None:
    if not isinstance(array, dask_array().Array):
        raise TypeError(
            f"{name} must be a dask array, received {type(array).__name__}; make one with "
            "dask.array.from_zarr(path), or dask.array.from_array(array, chunks=(rows, -1))"
        )
    if array.dtype not in (np.float16, np.float32, np.float64):
        raise TypeError(f"{name} must hold float16, float32 or float64 values, received dtype {array.dtype}")
    if array.ndim not in ranks:
        raise ValueError(f"{name} must have shape {shape}, received {array.shape}")
    if any(np.isnan(length) for length in array.shape):
        raise ValueError(
            f"{name} must have a known shape, received {array.shape}; call its compute_chunk_sizes() first"
        )
    if array.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one column (D >= 1), received shape {array.shape}")


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
