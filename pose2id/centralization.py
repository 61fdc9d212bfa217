"""The method: pull each feature toward its identity's centre (Yuan et al., CVPR 2025, arXiv 2503.00938).

Two steps, each optional, in this order: add the mean of features of *generated* images of the same person (equation
9), then add the *mutual nearest neighbours* (Neighbor Feature Centralization, algorithm 1). This module owns the rule
for both; the search for neighbours lives in `pose2id.neighbors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm

from pose2id.arrays import (
    ArrayT,
    Kind,
    all_finite,
    cached_blocks,
    check_same_kind,
    row_blocks,
    take_array,
    take_features,
    take_output,
    work_dtype,
)
from pose2id.distances import split_lengths
from pose2id.neighbors import Neighbors, check_engine, find_neighbors, take_exclude
from pose2id.validation import check_count, check_flag, check_number

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels


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
    out: ArrayT | None = None,
) -> ArrayT:
    """Pull each feature toward its identity's centre, without labels and without training.

    Call it once for the query set and once for the gallery, as the paper does: no feature of one ever enters the
    other.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        One row per image, as the ReID model gives them: float16, bfloat16, float32 or float64. Not written to. A
        memory-mapped file is read a block of rows at a time (see Notes).
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
    engine : {"auto", "exact", "faiss", "pivots", "faiss-ivf", "faiss-hnsw"}
        Who searches neighbours; see `knn_graph`. The first three give the same answer, the others are approximate.
    progress : bool
        Show progress bars: placing the rows, the search, adding the neighbours.
    out : (N, D) array of the container, device and dtype of `features`, optional
        Receives the result, for instance ``numpy.lib.format.open_memmap(path, "w+", features.dtype, shape)``. It must
        hold its rows one after the other, be in native byte order, and share no memory or file with `features` or
        `generated` (from their first to their last entry). It is written to before all is known: after an error beyond
        those of wrong arguments (sums that do not fit, no memory, an engine that is not installed), what it holds is
        undefined.

    Returns
    -------
    (N, D) array of the container, device and dtype of `features`
        `out` if given, else a new array; detached from any gradient. A row of zeros has no direction: it is nobody's
        neighbour, has none, and stays zero.

    Raises
    ------
    TypeError
        For containers, dtypes or numbers of the wrong type.
    ValueError
        For wrong shapes, NaN or inf (rows are named), neighbours out of range, M = 0, an `out` that is read-only or
        in the way of the input, or raw sums that do not fit the dtype.
    MissingExtraError
        When the engine is not installed.

    Notes
    -----
    Beyond input and result only the search takes memory worth mentioning (and N lengths and neighbour lists): the
    result's memory holds the fused rows while it runs, and results are summed a block at a time from rows fused anew.
    So with ``numpy.load(path, mmap_mode="r")`` and an `out` that is a memory-mapped file as well, `features` need not
    fit into memory. Two exceptions: float16 and bfloat16 rows that are fused or scaled are searched in a float32 copy,
    and an array that torch cannot share (foreign byte order, negative strides) is copied as a whole. Neighbours are
    read from wherever they lie in the file.

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
    views = [] if generated is None else _take_generated(generated, rows, kind)
    labels = take_exclude(exclude, rows)
    table = None if neighbors is None else _take_table(neighbors, len(rows), max(k1, k2)).to(rows.device)

    if out is None:
        target = torch.empty(rows.shape, dtype=rows.dtype, device=rows.device)
    else:
        target = take_output(out, rows, kind, [(features, rows), *_given_views(generated, views)])

    fused = Fused(rows, views if eta else [], eta, normalize=normalize)
    linked = k1 > 0 and k2 > 0 and len(rows) > 1
    placed = fused.place_in(target, searched=linked and table is None, progress=progress)
    links = None
    if linked:
        if table is None:
            k = min(max(k1, k2), len(rows) - 1)  # no row has more neighbours than that
            table = neighbor_table(placed, fused.live, k, labels, engine=engine, progress=progress)
        else:
            table = _drop(table, fused.live, labels)
        links = mutual_neighbors(table, k1, k2)
    held = placed is target
    del placed  # a working copy, where it is one
    add_neighbors(fused, fused, links, alpha, target, normalize=normalize, held=held, progress=progress)
    return kind.give_back(target) if out is None else out


class Fused:
    """The rows f + eta * mean of the views (equation 9), scaled to length 1 if asked, in the working dtype.

    They are not kept. `place` goes through them once and can leave them in a buffer for the search; `take` makes some
    of them again, with the same bits: lengths are kept, and all else is done entry by entry in single operations, so
    it depends on nothing but the row. The buffer can be overwritten with results while rows are still needed.
    """

    def __init__(
        self, rows: torch.Tensor, views: Sequence[torch.Tensor] = (), eta: float = 1.0, *, normalize: bool = False
    ) -> None:
        self.rows, self.views, self.eta, self.normalize = rows, views, eta, normalize
        self.dtype = work_dtype(rows.dtype)
        self.live = torch.ones(len(rows), dtype=torch.bool, device=rows.device)  # rows that are not all zeros
        self.lengths: list[torch.Tensor] = []  # what rows are divided by, one after the other, (N, 1) each

    @property
    def as_given(self) -> bool:
        """Whether nothing is fused or scaled."""
        return not self.views and not self.normalize

    def place(self, buffer: torch.Tensor | None = None, *, progress: bool = False) -> int:
        """Find `live` and `lengths`, and write the live rows one after the other to `buffer`, if any; their number."""
        n, count = len(self.rows), 0
        largest, length = torch.ones(2, n, 1, dtype=torch.float64, device=self.rows.device)
        with tqdm(total=n, desc="placing", unit="row", disable=not progress) as bar:
            for block in cached_blocks(self.rows):
                made = self._sum(block)
                if self.views and not all_finite(made):
                    raise ValueError(f"eta * generated must stay finite, received eta = {self.eta}; use a smaller eta")
                if self.normalize:
                    *large, length[block] = parts = split_lengths(made)
                    if large:
                        largest[block] = large[0]
                    for part in parts:
                        made /= part
                made = made.to(self.dtype)
                if self.views and not self.normalize:
                    _check_fits(made)
                live = self.live[block] = made.abs().amax(dim=1) > 0
                made = made if bool(live.all()) else made[live]
                if buffer is not None:
                    buffer[count : count + len(made)] = made
                count += len(made)
                bar.update(block.stop - block.start)
        if self.normalize:
            self.lengths = [length] if bool((largest == 1).all()) else [largest, length]
        return count

    def place_in(self, target: torch.Tensor, *, searched: bool, progress: bool = False) -> torch.Tensor:
        """`place`; the live rows to search: as given where they are, else in the memory of `target`, else in a copy.

        `target` (N, D), in the caller's dtype, is itself returned when it holds all rows.
        """
        if self.as_given:
            self.place(progress=progress)
            if not searched or (bool(self.live.all()) and self.rows.is_contiguous()):
                return self.rows
        if target.dtype == self.dtype:
            count = self.place(target, progress=progress)
            return target if count == len(target) else target[:count]
        buffer = torch.empty(target.shape, dtype=self.dtype, device=target.device) if searched else None
        count = self.place(buffer, progress=progress)
        return self.rows if buffer is None else buffer[:count]

    def take(self, at: slice | torch.Tensor) -> torch.Tensor:
        """The rows `at` in a new float64 tensor, as `place` left them."""
        made = self._sum(at)
        for length in self.lengths:
            made /= length[at]
        return made if self.as_given else made.to(self.dtype).double()

    def _sum(self, at: slice | torch.Tensor) -> torch.Tensor:
        made = _pick(self.rows, at).to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        for view in self.views:
            made += _pick(view, at).double() * (self.eta / len(self.views))
        return made


def _pick(rows: torch.Tensor, at: slice | torch.Tensor) -> torch.Tensor:
    return rows[at] if isinstance(at, slice) else rows.index_select(0, at)  # 3 times as fast as indexing


def to_length_one(rows: torch.Tensor) -> torch.Tensor:
    """`rows` (float64), scaled in place to length 1; a row of zeros stays."""
    for length in split_lengths(rows):
        rows /= length
    return rows


def place(rows: torch.Tensor, *, normalize: bool) -> torch.Tensor:
    """`rows` in the working dtype, scaled to length 1 if asked; a new tensor."""
    placed = torch.empty(rows.shape, dtype=work_dtype(rows.dtype), device=rows.device)
    for block in cached_blocks(rows):
        part = rows[block].to(torch.float64, copy=True, memory_format=torch.contiguous_format)
        placed[block] = to_length_one(part) if normalize else part
    return placed


def alive(rows: torch.Tensor) -> torch.Tensor:
    """Which rows have a direction, (N,) bool: those that are not all zeros."""
    return (rows != 0).any(dim=1)


def neighbor_table(
    placed: torch.Tensor,
    live: torch.Tensor,
    k: int,
    labels: torch.Tensor | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> torch.Tensor:
    """The k nearest other rows with a direction, (N, k) int64, -1 where there is none (all of it for zero rows).

    `placed` holds the rows with a direction only, `live`, (N,) bool, says which they are.
    """
    if bool(live.all()):
        return find_neighbors(placed, placed, k, labels, labels, within=True, engine=engine, progress=progress)[0]
    at = live.nonzero().flatten()
    part = None if labels is None else labels[at]
    found, _ = find_neighbors(placed, placed, k, part, part, within=True, engine=engine, progress=progress)
    table = torch.full((len(live), k), -1, dtype=torch.int64, device=live.device)
    if len(at):
        table[at] = torch.where(found >= 0, at[found.clamp(min=0)], -1)
    return table


def mutual_neighbors(table: torch.Tensor, k1: int, k2: int) -> torch.Tensor:
    """M_i of algorithm 1: of the first k1 of each row, those that hold the row among their first k2; else -1."""
    links = torch.full((len(table), min(k1, table.shape[1])), -1, dtype=torch.int64, device=table.device)
    back = table[:, :k2]
    for block in row_blocks(len(table), links.shape[1] * back.shape[1]):
        near = table[block, :k1]  # (b, k1)
        rows = torch.arange(block.start, block.stop, device=table.device)[:, None, None]
        mutual = (back[near.clamp(min=0)] == rows).any(dim=2) & (near >= 0)  # (b, k1, k2) -> (b, k1)
        links[block] = torch.where(mutual, near, -1)
    return links


def add_neighbors(
    rows: Fused,
    base: Fused,
    links: torch.Tensor | None,
    alpha: float,
    out: torch.Tensor,
    *,
    normalize: bool,
    held: bool = False,
    progress: bool = False,
) -> None:
    """Write z_i = f_i + the weighted sum of base[links_i] to `out`, sums scaled to length 1 if asked.

    Sums run in float64. If `rows` is `base`, they run in ascending order of index, the row itself included, so rows
    that are all each other's neighbours come out equal to the last bit. `held` says that `out` holds the rows already.
    """
    own = rows is base
    ahead = Fused(out) if held else rows  # rows that are not overwritten yet need not be made again
    with tqdm(total=len(out), desc="adding", unit="row", disable=not progress) as bar:
        for block in cached_blocks(out):
            if not held:
                out[block] = rows.take(block)
            if links is not None:
                at = (links[block] >= 0).any(dim=1).nonzero().flatten() + block.start
                near = links[at].sort(dim=1).values if own else links[at]
                lower = (near >= 0) & (near < at[:, None]) if own else near >= 0
                mine = ahead.take(at)
                sums = torch.zeros_like(mine) if own else mine.clone()
                _add_links(sums, mine, base, near, lower, alpha)
                if own:
                    sums += mine
                    _add_links(sums, mine, ahead, near, near > at[:, None], alpha)
                out.index_copy_(0, at, (to_length_one(sums) if normalize else sums).to(out.dtype))
            if not normalize:
                _check_fits(out[block])
            bar.update(block.stop - block.start)


def _check_fits(block: torch.Tensor) -> None:
    if not all_finite(block):
        raise ValueError(
            f"the sums do not fit {block.dtype}: received features too large for normalize=False; "
            "pass a wider dtype or normalize=True"
        )


def _add_links(
    sums: torch.Tensor, rows: torch.Tensor, base: Fused, links: torch.Tensor, chosen: torch.Tensor, alpha: float
) -> None:
    """Add to `sums` (b, D), float64, the chosen linked rows of `base`, weighted by their cosine to `rows` (b, D)."""
    directions = to_length_one(rows.clone()) if alpha > 0 else rows
    for slot in range(links.shape[1]):
        at = chosen[:, slot].nonzero().flatten()
        if len(at):
            other = base.take(links[at, slot])
            if alpha > 0:
                cosine = (directions[at] * to_length_one(other.clone())).sum(dim=1, keepdim=True)
                other *= cosine.clamp(0, 1) ** alpha
            sums.index_add_(0, at, other)  # each row at most once, so there is no order to get wrong


def _given_views(generated: Any, views: Sequence[torch.Tensor]) -> list[tuple[Any, torch.Tensor]]:
    """Each view with the caller's array that holds it."""
    arrays = generated if isinstance(generated, list | tuple) else [generated] * len(views)
    return list(zip(arrays, views, strict=True))


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
    return find_neighbors(gallery, gallery, k2, within=True, engine=engine, progress=progress)[1][:, k2 - 1]


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
    links = None
    if k1 and len(gallery) and len(queries):
        near, distances = find_neighbors(queries, gallery, k1, engine=engine, progress=progress)
        counts = (near >= 0) & (distances <= reach[near.clamp(min=0)]) & alive(queries)[:, None]
        links = torch.where(counts, near, -1)
    out = torch.empty(queries.shape, dtype=dtype, device=queries.device)
    add_neighbors(Fused(queries), Fused(gallery), links, alpha, out, normalize=normalize)
    return out
