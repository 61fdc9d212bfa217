"""The method: pull each feature toward its identity's centre (Yuan et al., CVPR 2025, arXiv 2503.00938).

Two steps, each optional, in this order: add the mean of features of *generated* images of the same person (equation
9), then add the *mutual nearest neighbours* (Neighbor Feature Centralization, algorithm 1). This module owns the rule
for both; the search for neighbours lives in `pose2id.neighbors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pose2id.arrays import (
    ArrayT,
    Kind,
    check_count,
    check_flag,
    check_number,
    check_same_kind,
    row_blocks,
    take_array,
    take_features,
    work_dtype,
)
from pose2id.distances import unit
from pose2id.neighbors import Neighbors, check_engine, find_neighbors, take_exclude

if TYPE_CHECKING:
    import torch

    from pose2id.arrays import Array, Labels


def centralize(
    features: ArrayT,
    generated: Array | Sequence[Array] | None = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    alpha: float = 0.0,
    normalize: bool = True,
    neighbors: Array | Neighbors[Any] | None = None,
    exclude: Labels | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> ArrayT:
    """Pull each feature toward its identity's centre, without labels and without training.

    Call it once for the query set and once for the gallery, as the paper does: no feature of one ever enters the
    other.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        One row per image, as the ReID model gives them: float16, bfloat16, float32 or float64. Not written to.
    generated : (N, M, D) or (N, D) array, or a sequence of M arrays (N, D), optional
        Features of M generated images of each sample, from the same model; (N, D) is their mean already.
    eta : float
        How much the generated images are trusted. It multiplies the *mean* of the M features (the released README
        adds the sum instead: its factor is M times ours). Published: 2 on Market-1501, 1 on Occluded-ReID, 0.25 on
        SYSU-MM01.
    k1, k2 : int
        Row j counts for row i if it is among the k1 nearest of i, and i is among the k2 nearest of j. 2 to 4 are
        best in the paper; 0 for either switches the step off. (In the released code a k2 above k1 acts as k1.)
    alpha : float
        Each mutual neighbour is added with weight max(cosine, 0) ** alpha; 0, the published rule, gives plain sums.
    normalize : bool
        True: rows are scaled to length 1 after fusing and again at the end, the published evaluation. False: raw
        sums, as the released stand-alone function.
    neighbors : (N, K) integer array or Neighbors, optional
        Neighbours found elsewhere: row indices, nearest first, without the row itself, -1 where there is none, and
        K >= max(k1, k2). They should be those of the fused (and, with `normalize`, normalised) features.
    exclude : (N,) integers or strings, optional
        Rows with equal labels are never neighbours: pass camera labels to take neighbours from other cameras only,
        frame or tracklet labels where equal ones cannot (or need not) match.
    engine : {"auto", "exact", "faiss"}
        Who searches; see `pose2id.neighbors`. All give the same answer.
    progress : bool
        Show a progress bar.

    Returns
    -------
    (N, D) array of the container, device and dtype of `features`
        A new array, detached from any gradient. A row of zeros has no direction: it is nobody's neighbour, has none,
        and stays zero.

    Raises
    ------
    TypeError
        For containers, dtypes or numbers of the wrong type.
    ValueError
        For wrong shapes, NaN or inf (rows are named), neighbours out of range, M = 0, or raw sums that do not fit
        the dtype.
    MissingExtraError
        When the engine is not installed.

    References
    ----------
    Yuan et al., *From Poses to Identity: Training-Free Person Re-Identification via Feature Centralization*, CVPR
    2025, equation 9 and algorithm 1. `alpha`: Radenovic et al., TPAMI 2019 (alpha query expansion).

    Examples
    --------
    Rows 0 and 1 are each other's nearest and meet in the middle; row 2 keeps its place.

    >>> import numpy as np
    >>> from pose2id import centralize
    >>> features = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]])
    >>> centralize(features, k1=1, k2=1).round(3).tolist()
    [[0.894, 0.447], [0.894, 0.447], [0.0, -1.0]]
    """
    eta, alpha = check_number(eta, "eta"), check_number(alpha, "alpha")
    k1, k2 = check_count(k1, "k1", 0), check_count(k2, "k2", 0)
    check_flag(normalize, "normalize")
    check_flag(progress, "progress")
    check_engine(engine)
    rows, kind = take_features(features)
    views = None if generated is None else _take_generated(generated, rows, kind)
    labels = take_exclude(exclude, rows)
    table = None if neighbors is None else _take_table(neighbors, len(rows), max(k1, k2)).to(rows.device)

    fused = place(rows, views, eta, normalize=normalize)
    links = None
    if k1 and k2 and len(rows) > 1:
        live = alive(fused)
        if table is None:
            k = min(max(k1, k2), len(rows) - 1)  # no row has more neighbours than that
            table = neighbor_table(fused, live, k, labels, engine=engine, progress=progress)
        else:
            table = _drop(table, live, labels)
        links = mutual_neighbors(table, k1, k2)
    pulled = add_neighbors(fused, fused, links, alpha, rows.dtype, normalize=normalize, own=True)
    return kind.give_back(pulled)  # type: ignore[no-any-return]


def place(
    rows: torch.Tensor, views: Sequence[torch.Tensor] | None = None, eta: float = 1.0, *, normalize: bool
) -> torch.Tensor:
    """Fuse f + eta * mean of the views (equation 9), scaled to length 1 if asked; a new tensor in the working dtype."""
    import torch

    placed = torch.empty(rows.shape, dtype=work_dtype(rows.dtype), device=rows.device)
    for block in row_blocks(*rows.shape):
        sums = rows[block].double()
        for view in views or ():
            sums = sums + eta / len(views or ()) * view[block].double()
        if views and not bool(torch.isfinite(sums).all()):
            raise ValueError(f"eta * generated must stay finite, received eta = {eta}; use a smaller eta")
        placed[block] = unit(sums) if normalize else sums
    return placed


def alive(rows: torch.Tensor) -> torch.Tensor:
    """Which rows have a direction, (N,) bool: those that are not all zeros."""
    return (rows != 0).any(dim=1)


def neighbor_table(
    rows: torch.Tensor,
    live: torch.Tensor,
    k: int,
    labels: torch.Tensor | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> torch.Tensor:
    """The k nearest other rows with a direction, (N, k) int64, -1 where there is none (all of it for zero rows)."""
    import torch

    if bool(live.all()):
        return find_neighbors(rows, rows, k, labels, labels, engine=engine, progress=progress)[0]
    at = live.nonzero().flatten()
    kept, part = rows[at], None if labels is None else labels[at]
    found, _ = find_neighbors(kept, kept, k, part, part, engine=engine, progress=progress)
    table = torch.full((len(rows), k), -1, dtype=torch.int64, device=rows.device)
    if len(at):
        table[at] = torch.where(found >= 0, at[found.clamp(min=0)], -1)
    return table


def mutual_neighbors(table: torch.Tensor, k1: int, k2: int) -> torch.Tensor:
    """M_i of algorithm 1: of the first k1 of each row, those that hold the row among their first k2; else -1."""
    import torch

    links = torch.full((len(table), min(k1, table.shape[1])), -1, dtype=torch.int64, device=table.device)
    back = table[:, :k2]
    for block in row_blocks(len(table), links.shape[1] * back.shape[1]):
        near = table[block, :k1]  # (b, k1)
        rows = torch.arange(block.start, block.stop, device=table.device)[:, None, None]
        mutual = (back[near.clamp(min=0)] == rows).any(dim=2) & (near >= 0)  # (b, k1, k2) -> (b, k1)
        links[block] = torch.where(mutual, near, -1)
    return links


def add_neighbors(
    rows: torch.Tensor,
    base: torch.Tensor,
    links: torch.Tensor | None,
    alpha: float,
    dtype: torch.dtype,
    *,
    normalize: bool,
    own: bool,
) -> torch.Tensor:
    """Give z_i = f_i + the weighted sum of base[links_i], scaled to length 1 if asked, in `dtype`; a new tensor.

    Sums run in float64. With `own` (rows is base) they run in ascending order of index, the row itself included, so
    rows that are all each other's neighbours come out equal to the last bit.
    """
    import torch

    out = torch.empty(rows.shape, dtype=dtype, device=rows.device)
    for block in row_blocks(*rows.shape):
        sums = rows[block].double()
        if links is not None:
            sums = _sum_block(sums, base, links[block], alpha, block.start if own else None)
        out[block] = unit(sums) if normalize else sums
        if not normalize and not bool(torch.isfinite(out[block]).all()):
            raise ValueError(
                f"the sums do not fit {dtype}: received features too large for normalize=False; "
                "pass a wider dtype or normalize=True"
            )
    return out


def _sum_block(
    rows: torch.Tensor, base: torch.Tensor, links: torch.Tensor, alpha: float, first: int | None
) -> torch.Tensor:
    """Add to `rows` (b, D), float64, their linked rows of `base`; `first` is row 0's index in it, if it has one."""
    import torch

    sums, members = rows, links
    if first is not None:
        own = torch.arange(first, first + len(rows), device=rows.device)[:, None]
        sums, members = torch.zeros_like(rows), torch.cat([own, links], dim=1).sort(dim=1).values
    for slot in range(members.shape[1]):
        at = members[:, slot]
        other = base[at.clamp(min=0)].double()
        weight = (at >= 0).double()
        if alpha > 0:
            cosine = (unit(rows) * unit(other)).sum(dim=1)
            weight = weight * cosine.clamp(0, 1) ** alpha
            if first is not None:
                weight[at == own[:, 0]] = 1.0
        sums = sums + weight[:, None] * other
    return sums


def _take_generated(generated: Any, rows: torch.Tensor, kind: Kind) -> list[torch.Tensor]:
    """`generated` in any of its three forms as a list of (N, D) tensors to be averaged."""
    n, width = rows.shape
    wanted = f"({n}, M, {width}) or ({n}, {width}), or be a sequence of M arrays ({n}, {width})"
    if isinstance(generated, list | tuple):
        if not generated:
            raise ValueError(f"generated must have shape {wanted}, M >= 1, received an empty sequence")
        views = []
        for m, view in enumerate(generated):
            tensor, other = take_features(view, f"generated[{m}]")
            check_same_kind(kind, other, ("features", f"generated[{m}]"))
            if tensor.shape != rows.shape:
                raise ValueError(f"generated must have shape {wanted}, received {tuple(tensor.shape)} at position {m}")
            views.append(tensor)
        return views
    shape = "(N, D)" if getattr(generated, "ndim", 3) == 2 else "(N, M, D)"
    tensor, other = take_features(generated, "generated", shape)
    check_same_kind(kind, other, ("features", "generated"))
    if tensor.shape[0] != n or tensor.shape[-1] != width:
        raise ValueError(f"generated must have shape {wanted}, received {tuple(tensor.shape)}")
    if tensor.ndim == 2:
        return [tensor]
    if tensor.shape[1] == 0:
        raise ValueError(f"generated must have shape {wanted} with M >= 1, received {tuple(tensor.shape)}")
    return list(tensor.unbind(dim=1))


def _take_table(neighbors: Any, n: int, k: int) -> torch.Tensor:
    """A table of neighbours, checked: integer, (N, K >= k), in range, no row its own, none twice in a row."""
    import torch

    if isinstance(neighbors, Neighbors):
        neighbors = neighbors.indices
    allowed = "integer row indices, -1 where there is none"
    tensor, kind = take_array(neighbors, "neighbors", allowed)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
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
    for block in row_blocks(*table.shape):
        part = table[block]
        own = (part == torch.arange(block.start, block.stop, device=part.device)[:, None]).any(dim=1)
        ordered = part.sort(dim=1).values
        twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(dim=1)
        for wrong, what in ((own, "the row itself"), (twice, "a neighbour twice")):
            if bool(wrong.any()):
                row = int(wrong.nonzero()[0]) + block.start
                raise ValueError(f"neighbors must not hold {what}, received {table[row].tolist()} in row {row}")
    return table


def _drop(table: torch.Tensor, live: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """A given table without zero rows and excluded pairs; what is left moves up, so the first k are what is left."""
    import torch

    result = torch.empty_like(table)
    for block in row_blocks(*table.shape):
        part = table[block]
        keep = (part >= 0) & live[part.clamp(min=0)] & live[block, None]
        if labels is not None:
            keep &= labels[part.clamp(min=0)] != labels[block, None]
        part = torch.where(keep, part, -1)
        result[block] = part.gather(1, (~keep).to(torch.int8).sort(dim=1, stable=True).indices)
    return result


def gallery_reach(gallery: torch.Tensor, k2: int, *, engine: str = "auto", progress: bool = False) -> torch.Tensor:
    """How far each gallery row lets others count: its distance to its k2-th neighbour within the gallery, (G,).

    inf where the gallery has fewer than k2 other rows, -inf for k2 = 0.
    """
    if not k2:
        return gallery.new_full((len(gallery),), float("-inf"))
    return find_neighbors(gallery, gallery, k2, engine=engine, progress=progress)[1][:, k2 - 1]


def pull_toward(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    reach: torch.Tensor,
    k1: int,
    alpha: float,
    dtype: torch.dtype,
    *,
    normalize: bool,
    engine: str = "auto",
    progress: bool = False,
) -> torch.Tensor:
    """Query rows plus those of their k1 nearest gallery rows that reach as far as the query; not the published use."""
    import torch

    links = None
    if k1 and len(gallery) and len(queries):
        near, distances = find_neighbors(queries, gallery, k1, engine=engine, progress=progress)
        counts = (near >= 0) & (distances <= reach[near.clamp(min=0)]) & alive(queries)[:, None]
        links = torch.where(counts, near, -1)
    return add_neighbors(queries, gallery, links, alpha, dtype, normalize=normalize, own=False)
