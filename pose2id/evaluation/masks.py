"""Masks: which gallery items a caller leaves out for each query, beside what the protocol calls junk.

They are made a block of queries at a time, so beside what was given nothing of shape (Q, G) is held. Nothing here
imports torch.
"""

from __future__ import annotations

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
    LabelMask = Callable[[Mapping[str, Any], Mapping[str, npt.NDArray[Any]]], Any]
    Ignore = npt.NDArray[Any] | torch.Tensor | sparse.sparray | sparse.spmatrix | LabelMask
    MoreLabels = Mapping[str, Labels | tuple[Labels, Labels]]
    Sides = Mapping[str, tuple[npt.NDArray[Any], npt.NDArray[Any]]]
    BlockMask = Callable[[slice], Marks]

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
        given = _take_mask(ignore, size)
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


def _take_mask(ignore: Any, size: tuple[int, int]) -> BlockMask:
    if sparse.issparse(ignore):
        _check_bools(ignore, size, "ignore")
        return _take_sparse(ignore)
    if not is_tensor(ignore):
        array = _take_bools(ignore, size, "ignore")
        return lambda block: array[block].copy()
    tensor = take_tensor(ignore, "ignore")
    _check_bools(tensor, size, "ignore")
    return lambda block: np.array(tensor[block].cpu().numpy())


def _take_sparse(mask: Any) -> BlockMask:
    rows: Any = sparse.csr_array(mask)
    return lambda block: rows[block].toarray()


def _take_bools(values: Any, shape: tuple[int, ...], name: str) -> Marks:
    """Bools of this shape as a numpy array, from an array or a tensor."""
    if is_tensor(values):
        values = take_tensor(values, name).cpu().numpy()
    if not isinstance(values, np.ndarray) or isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{name} must be an array of bools, received {type(values).__name__}")
    _check_bools(values, shape, name)
    return np.asarray(values)


def _check_bools(values: Any, shape: tuple[int, ...], name: str) -> None:
    if not str(values.dtype).endswith("bool"):
        raise TypeError(f"{name} must hold bools, True for what is left out, received dtype {values.dtype}")
    if tuple(values.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, received {tuple(values.shape)}")
