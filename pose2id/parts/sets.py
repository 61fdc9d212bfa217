"""Sets of parts at the boundary: arrays (N, P, D) and their visibility (N, P), checked.

A part is hidden where its visibility is 0, and where it is a vector of zeros, which has no direction. Hidden parts
may hold anything, NaN too: models leave garbage there, and nothing of it is ever used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from pose2id.arrays import (
    Kind,
    check_same_kind,
    row_blocks,
    take_array,
    take_floats,
    work_dtype,
)
from pose2id.distances import scale_to_unit
from pose2id.validation import check_choice, is_tensor, take_tensor


@dataclass(frozen=True)
class Parts:
    """One set of parts, as given; see `take_parts`."""

    rows: torch.Tensor  # (N, P, D)
    visibility: torch.Tensor  # (N, P) float64 from 0 to 1; 0 where a part is hidden
    soft: Any = None  # the dtype of the visibility as the caller gave it, if that holds floats


class PartSet(NamedTuple):
    """What distances are computed from: `rows` (N, P, D), hidden parts 0, and visibility (N, P) float64."""

    rows: torch.Tensor
    visibility: torch.Tensor

    def pick(self, at: torch.Tensor | slice) -> PartSet:
        """Some of the rows."""
        return PartSet(self.rows[at], self.visibility[at])


def take_parts(
    parts: Any, visibility: Any, names: tuple[str, str] = ("parts", "visibility"), shape: str = "(N, P, D)"
) -> tuple[Parts, Kind]:
    """Parts and their visibility, checked: (N, P, D) floats with (N, P) bools or floats, or None: all are visible.

    Generated ones have a shape of four, (N, M, P, D). NaN and inf may stand in hidden parts only.
    """
    rows, kind = take_floats(parts, names[0], shape)
    if rows.shape[-2] == 0:
        raise ValueError(f"{names[0]} must have at least one part (P >= 1), received shape {tuple(rows.shape)}")
    wanted = tuple(rows.shape[:-1])
    seen, soft = torch.ones(wanted, dtype=torch.float64, device=rows.device), None
    if visibility is not None:
        given, soft = _take_visibility(visibility, names, kind)
        if tuple(given.shape) != wanted:
            raise ValueError(f"{names[1]} must have shape {wanted}, one entry per part, received {tuple(given.shape)}")
        seen = given.to(device=rows.device, dtype=torch.float64, copy=True)
    _check_values(rows, seen, names[0])
    return Parts(rows, seen, soft), kind


def _take_visibility(visibility: Any, names: tuple[str, str], kind: Kind) -> tuple[torch.Tensor, Any]:
    """Visibility as a tensor of bools or floats from 0 to 1, and the dtype of the latter."""
    allowed = "bools, or floats from 0 to 1"
    if "bool" in str(getattr(visibility, "dtype", "")):
        if is_tensor(visibility):
            visibility = take_tensor(visibility, names[1]).view(torch.uint8)
        else:
            visibility = visibility.view("uint8")
        tensor, other = take_array(visibility, names[1], allowed)
        check_same_kind(kind, other, names)
        return tensor != 0, None
    tensor, other = take_array(visibility, names[1], allowed)
    check_same_kind(kind, other, names)
    if not tensor.dtype.is_floating_point:
        raise TypeError(f"{names[1]} must hold {allowed}, received dtype {other.dtype}; convert with .astype(bool)")
    if tensor.numel() and not bool(((tensor >= 0) & (tensor <= 1)).all()):
        bad = (~((tensor >= 0) & (tensor <= 1))).nonzero()[0].tolist()
        raise ValueError(f"{names[1]} must hold {allowed}, received {float(tensor[tuple(bad)])} at {tuple(bad)}")
    return tensor, other.dtype


def _check_values(rows: torch.Tensor, seen: torch.Tensor, name: str) -> None:
    """Raise for NaN and inf in visible parts of rows (N, P, D), or generated ones (N, M, P, D).

    Parts of zeros are written to `seen` (N, P) as hidden; generated ones count in their mean.
    """
    axes = ("row", "part") if rows.ndim == 3 else ("row", "image", "part")
    bad: list[list[int]] = []
    for block in row_blocks(rows):
        size, own = rows[block].abs().amax(dim=-1), seen[block]
        if rows.ndim == 3:
            own[size == 0] = 0
        wrong = ~torch.isfinite(size) & (own > 0)
        if bool(wrong.any()):
            bad += [[row + block.start, *at] for row, *at in wrong.nonzero().tolist()]
    if bad:
        named = ", ".join(" ".join(f"{axis} {i}" for axis, i in zip(axes, at, strict=True)) for at in bad[:10])
        raise ValueError(
            f"{name} must be finite where visible, received NaN or inf in {len(bad)} part(s): {named}"
            f"{', ...' if len(bad) > 10 else ''}; repair them, or mark them as hidden"
        )


def take_generated(
    generated: Any,
    visibility: Any,
    given: Parts,
    kind: Kind,
    names: tuple[str, str] = ("generated", "generated_visibility"),
) -> Parts | None:
    """Parts of generated images (N, M, P, D) and their visibility, checked against those they belong to."""
    if generated is None:
        if visibility is not None:
            raise ValueError(f"{names[1]} must come with {names[0]}, received it alone")
        return None
    views, other = take_parts(generated, visibility, names, "(N, M, P, D)")
    check_same_kind(kind, other, ("parts", names[0]))
    n, p, d = given.rows.shape
    if views.rows.shape[0] != n or views.rows.shape[2:] != (p, d) or not views.rows.shape[1]:
        raise ValueError(
            f"{names[0]} must have shape ({n}, M, {p}, {d}) with M >= 1, received {tuple(views.rows.shape)}"
        )
    return views


def take_pair(query: Any, gallery: Any, query_visibility: Any, gallery_visibility: Any) -> tuple[Parts, Parts, Kind]:
    """Two sets of parts of equal P and D, of one kind."""
    queries, kind = take_parts(query, query_visibility, ("query", "query_visibility"), "(Q, P, D)")
    items, other = take_parts(gallery, gallery_visibility, ("gallery", "gallery_visibility"), "(G, P, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    if queries.rows.shape[1:] != items.rows.shape[1:]:
        raise ValueError(
            "query and gallery must have equal P and D, "
            f"received {tuple(queries.rows.shape)} and {tuple(items.rows.shape)}"
        )
    return queries, items, kind


def take_candidates(candidates: Any, q: int, g: int, kind: Kind) -> torch.Tensor:
    """A table (q, C) of rows of the gallery, or -1, as int64, checked."""
    allowed = f"integers from -1 to {g - 1}, indices into gallery"
    given, other = take_array(candidates, "candidates", allowed)
    check_same_kind(kind, other, ("query", "candidates"))
    if given.dtype.is_floating_point:
        raise TypeError(f"candidates must hold {allowed}, received dtype {other.dtype}; convert with .astype(int)")
    if given.ndim != 2 or len(given) != q:
        raise ValueError(f"candidates must have shape ({q}, C), one row per query, received {tuple(given.shape)}")
    table = given.to(torch.int64)
    bad = (table < (0 if given.dtype == torch.uint64 else -1)) | (
        table >= g
    )  # what int64 cannot hold comes out negative
    if bool(bad.any()):
        row, column = bad.nonzero()[0].tolist()
        raise ValueError(f"candidates must hold {allowed}, received {given[row, column].item()} at ({row}, {column})")
    return table


def unit_parts(rows: torch.Tensor) -> torch.Tensor:
    """`rows` (b, P, D) float64, each part scaled in place to length 1; parts of zeros stay."""
    scale_to_unit(rows.view(-1, rows.shape[2]))
    return rows


def visible_rows(block: torch.Tensor, visibility: torch.Tensor) -> torch.Tensor:
    """Some rows (b, P, D) as a new float64 tensor, 0 in hidden parts, whatever these hold."""
    rows = block.to(torch.float64, copy=True, memory_format=torch.contiguous_format)
    hidden = visibility == 0
    if bool(hidden.any()):
        rows[hidden] = 0
    return rows


def prepare(parts: Parts, dtype: torch.dtype | None = None, *, normalize: bool = True) -> PartSet:
    """The visible parts, scaled to length 1 if asked, in `dtype` or the working dtype: a copy."""
    dtype = work_dtype(parts.rows.dtype) if dtype is None else dtype
    made = torch.empty(parts.rows.shape, dtype=dtype, device=parts.rows.device)
    for block in row_blocks(made):
        rows = visible_rows(parts.rows[block], parts.visibility[block])
        made[block] = unit_parts(rows) if normalize else rows
    return PartSet(made, parts.visibility)


def check_part_engine(engine: object) -> None:
    """The name of the one engine for parts, or "auto"."""
    check_choice(engine, "engine", ("auto", "exact"))
