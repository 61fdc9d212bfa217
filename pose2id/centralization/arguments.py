"""What the arguments of the method may be: numbers and flags, `generated`, `neighbors`; checked."""

from __future__ import annotations

from typing import Any

import torch

from pose2id.arrays import Kind, check_same_kind, row_blocks, take_array, take_features
from pose2id.neighbors import Neighbors, check_engine
from pose2id.validation import check_count, check_flag, check_number


def check_parameters(
    eta: Any, k1: Any, k2: Any, alpha: Any, normalize: Any, engine: Any, progress: Any = False
) -> tuple[float, int, int, float]:
    """Check all of them; the numbers as Python has them."""
    numbers = check_number(eta, "eta"), check_count(k1, "k1", 0), check_count(k2, "k2", 0), check_number(alpha, "alpha")
    check_flag(normalize, "normalize")
    check_flag(progress, "progress")
    check_engine(engine)
    return numbers


def take_generated(generated: Any, rows: torch.Tensor, kind: Kind, name: str = "features") -> list[torch.Tensor]:
    """`generated` in any of its three forms as a list of (N, D) tensors to be averaged; `name` is that of `rows`."""
    n, width = rows.shape
    wanted = f"({n}, M, {width}) or ({n}, {width}), or be a sequence of M arrays ({n}, {width})"
    if isinstance(generated, list | tuple):
        if not generated:
            raise ValueError(f"generated must have shape {wanted}, M >= 1, received an empty sequence")
        tensors = []
        for m, array in enumerate(generated):
            tensor, other = take_features(array, f"generated[{m}]")
            check_same_kind(kind, other, (name, f"generated[{m}]"))
            if tensor.shape != rows.shape:
                raise ValueError(f"generated must have shape {wanted}, received {tuple(tensor.shape)} at position {m}")
            tensors.append(tensor)
        return tensors
    shape = "(N, D)" if getattr(generated, "ndim", 3) == 2 else "(N, M, D)"
    tensor, other = take_features(generated, "generated", shape)
    check_same_kind(kind, other, (name, "generated"))
    if tensor.shape[0] != n or tensor.shape[-1] != width:
        raise ValueError(f"generated must have shape {wanted}, received {tuple(tensor.shape)}")
    if tensor.ndim == 2:
        return [tensor]
    if tensor.shape[1] == 0:
        raise ValueError(f"generated must have shape {wanted} with M >= 1, received {tuple(tensor.shape)}")
    return list(tensor.unbind(dim=1))


def take_table(neighbors: Any, n: int, k: int) -> torch.Tensor:
    """A table of neighbours, checked: integer, (N, K >= k), in range, no row its own, none twice in a row."""
    if isinstance(neighbors, Neighbors):
        neighbors = neighbors.indices
    allowed = "integer row indices, -1 where there is none"
    tensor, kind = take_array(neighbors, "neighbors", allowed)
    if tensor.dtype.is_floating_point:
        raise TypeError(f"neighbors must hold {allowed}, received dtype {kind.dtype}")
    if tensor.ndim != 2 or tensor.shape[0] != n:
        raise ValueError(f"neighbors must have shape ({n}, K), received {tuple(tensor.shape)}")
    if tensor.shape[1] < k:
        raise ValueError(
            f"neighbors must have at least max(k1, k2) = {k} columns, received {tensor.shape[1]}; pad with -1"
        )
    table = tensor.to(torch.int64)
    if table.numel() and not -1 <= int(table.min()) <= int(table.max()) < n:
        raise ValueError(
            f"neighbors must lie in -1 .. {n - 1} for {n} rows, received {int(table.min())} .. {int(table.max())}"
        )
    for block in row_blocks(table):
        part = table[block]
        own = (part == torch.arange(block.start, block.stop, device=part.device)[:, None]).any(dim=1)
        ordered = part.sort(dim=1).values
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(dim=1)
        for wrong, what in ((own, "the row itself"), (twice, "a neighbour twice")):
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0]) + block.start
                raise ValueError(f"neighbors must not hold {what}, received {table[row].tolist()} in row {row}")
    return table


def pair_generated(generated: Any, tensors: list[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
    """Each tensor of `take_generated` with the caller's array that holds it."""
    arrays = generated if isinstance(generated, list | tuple) else [generated] * len(tensors)
    return list(zip(arrays, tensors, strict=True))
