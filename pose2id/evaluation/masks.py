"""Masks: what a caller leaves out for each query beside what the protocol calls junk, and what a search looks at.

They are made a block of queries at a time, so beside what was given nothing of shape (Q, G) is held. Nothing here
imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from pose2id.validation import is_tensor, take_labels, take_tensor

if TYPE_CHECKING:
    import torch

    from pose2id.validation import Labels

    Marks = npt.NDArray[np.bool_]
    Numbers = npt.NDArray[np.int64]
    LabelMask = Callable[[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]], Any]
    Table = npt.NDArray[Any] | torch.Tensor | sparse.sparray | sparse.spmatrix
    Ignore = Table | LabelMask
    MoreLabels = Mapping[str, Labels | tuple[Labels, Labels]]
    Sides = Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]
    BlockMask = Callable[[slice], Marks]

_SIGNS = 3
"""So many numbers tell which queries are alike: by measurement more bring little."""
_WORTH = 0.5
"""Where blocks look at less of the gallery than this, looking at that part is quicker than at all of it."""
_FEW = 0.1
"""Where more of all pairs stay, blocks hardly ever look at less than half of the gallery."""
OWN_LABELS = ("ids", "cams", "rows")
"""The labels that a function as `ignore` is given in any case: cameras where there are some, rows from 0."""


def take_ignore(
    ignore: Ignore | None,
    labels: MoreLabels | None,
    size: tuple[int, int],
    sides: Sides,
    *,
    itself: bool,
) -> BlockMask | None:
    """What is left out for a block of queries, as a function that gives it, (b, G) bool, a new array; None: nothing.

    `ignore` and `labels` as for `evaluate`; `sides` are the labels of queries and gallery that there are anyway. With
    `itself` both are one set, and each row is left out for itself too.
    """
    if labels is not None and not callable(ignore):
        raise ValueError(
            f"labels are for a function as ignore, received {type(ignore).__name__} as ignore; leave out the labels"
        )
    given = None
    if callable(ignore):
        rows = np.arange(size[0]), np.arange(size[1])
        given = _ask(ignore, {**sides, "rows": rows, **_take_labels(labels, size, itself=itself)}, size)
    elif ignore is not None:
        given = _take_mask(ignore, size, "ignore", "what is left out")
    if not itself:
        return given

    def with_itself(block: slice) -> Marks:
        marks = np.zeros((block.stop - block.start, size[1]), bool) if given is None else given(block)
        rows = np.arange(block.start, block.stop)
        marks[rows - block.start, rows] = True
        return marks

    return with_itself


def _take_labels(labels: MoreLabels | None, size: tuple[int, int], *, itself: bool) -> Sides:
    """The labels of both sides by their names."""
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels must be a mapping of names to labels, received {type(labels).__name__}")
    taken = {}
    for name, given in labels.items():
        if not isinstance(name, str) or name in OWN_LABELS:
            raise ValueError(f"labels must have names other than {', '.join(OWN_LABELS)}, received {name!r}")
        words = f"labels[{name!r}]"
        if itself:
            taken[name] = (take_labels(given, size[0], words),) * 2
        elif isinstance(given, tuple | list) and len(given) == 2:
            query, gallery = (take_labels(side, n, words) for side, n in zip(given, size, strict=True))
            taken[name] = query, gallery
        else:
            raise ValueError(
                f"{words} must be a pair, the labels of the queries and those of the gallery, "
                f"received {type(given).__name__}"
            )
    return taken


def _ask(function: LabelMask, sides: Sides, size: tuple[int, int]) -> BlockMask:
    gallery = {name: side[1] for name, side in sides.items()}

    def of_block(block: slice) -> Marks:
        marks = np.empty((block.stop - block.start, size[1]), bool)
        for row in range(block.start, block.stop):
            found = function({name: side[0][row] for name, side in sides.items()}, gallery)
            marks[row - block.start] = _take_bools(found, size[1:], "what ignore gives for a query")
        return marks

    return of_block


class Kept:
    """Which gallery items a search looks at for each query, a block of queries at a time, in this order or another."""

    def __init__(self, kept: Table, size: tuple[int, int]) -> None:
        self._mask = _take_mask(kept, size, "kept", "what stays")
        self._rows: Any = None
        if sparse.issparse(kept):
            given: Any = kept
            rows: Any = sparse.csr_array(given)
            if not (rows.has_canonical_format and rows.data.all()):
                rows = rows.copy()
                rows.sum_duplicates()
                rows.eliminate_zeros()
            self._rows = rows

    def marks(self, block: slice) -> Marks:
        """Mark what stays for a block of queries, (b, G); a new array."""
        return self._mask(block)

    def columns(self, block: slice) -> Numbers:
        """The items that stay for some query of a block, (n,), ascending; of a sparse table only."""
        some = np.zeros(self._rows.shape[1], bool)
        some[self.indices(block)] = True
        return np.flatnonzero(some)

    def most(self) -> int:
        """So many items stay for some query at most."""
        return int(np.diff(self._rows.indptr).max(initial=0))

    def slots(self, block: slice) -> tuple[Numbers, Numbers]:
        """Where `indices` stand in a table with a row for each query of a block: rows and places, (p,) each."""
        counts = np.diff(self._rows.indptr[block.start : block.stop + 1]).astype(np.int64)
        row = np.repeat(np.arange(len(counts)), counts)
        return row, np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)

    def indices(self, block: slice) -> Any:
        """The items that stay for the queries of a block, those of one after the other, each ascending, (p,)."""
        return self._rows.indices[self._rows.indptr[block.start] : self._rows.indptr[block.stop]]

    def order(self, height: int) -> Numbers | None:
        """An order of the queries in which those for whom similar items stay follow each other, (Q,).

        None where blocks of so many queries would look at much of the gallery all the same, or the table is not sparse.
        """
        if self._rows is None or not 0 < self._rows.nnz <= _FEW * math.prod(self._rows.shape):
            return None
        # Of two queries as many of such smallest numbers agree, on the average, as they share of what they keep.
        random, (total, width) = np.random.default_rng(0), self._rows.shape
        some = np.diff(self._rows.indptr) > 0
        smallest = np.full((_SIGNS, total), width, np.int32)
        for row in smallest:
            number = random.permutation(np.arange(width, dtype=np.int32))[self._rows.indices]
            row[some] = np.minimum.reduceat(number, self._rows.indptr[:-1][some])
        order = np.lexsort(smallest[::-1])
        there = self.reorder(order)
        blocks = [slice(start, min(start + height, total)) for start in range(0, total, height)]
        pairs = sum((block.stop - block.start) * len(there.columns(block)) for block in blocks)
        return order if pairs <= _WORTH * total * width else None

    def reorder(self, order: Numbers) -> Kept:
        """The same of the queries in another order."""
        return Kept(self._rows[order], self._rows.shape)


def _take_mask(table: Any, size: tuple[int, int], name: str, means: str) -> BlockMask:
    if sparse.issparse(table):
        _check_bools(table, size, name, means)
        return _take_sparse(table)
    if not is_tensor(table):
        array = _take_bools(table, size, name, means)
        return lambda block: array[block].copy()
    tensor = take_tensor(table, name)
    _check_bools(tensor, size, name, means)
    return lambda block: np.array(tensor[block].cpu().numpy())


def _take_sparse(mask: Any) -> BlockMask:
    rows: Any = sparse.csr_array(mask)
    return lambda block: rows[block].toarray()


def _take_bools(values: Any, shape: tuple[int, ...], name: str, means: str = "what is left out") -> Marks:
    """Bools of this shape as a numpy array, from an array or a tensor."""
    if is_tensor(values):
        values = take_tensor(values, name).cpu().numpy()
    if not isinstance(values, np.ndarray) or isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array of bools, received {type(values).__name__}")
    _check_bools(values, shape, name, means)
    return np.asarray(values)


def _check_bools(values: Any, shape: tuple[int, ...], name: str, means: str) -> None:
    if not str(values.dtype).endswith("bool"):
        raise TypeError(f"{name} must hold bools, True for {means}, received dtype {values.dtype}")
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, received {tuple(values.shape)}")
