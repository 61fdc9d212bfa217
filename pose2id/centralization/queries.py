"""`centralize_queries`: one query at a time against a fixed gallery. Not the published protocol."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from pose2id.arrays import ArrayT, cached_blocks, check_same_kind, take_features, work_dtype
from pose2id.centralization.arguments import check_parameters, take_generated
from pose2id.centralization.fusion import FusedRows, check_fits
from pose2id.centralization.mutual import Take, add_weighted
from pose2id.distances import scale_to_unit
from pose2id.neighbors import find_neighbors
from pose2id.threads import fit_threads

if TYPE_CHECKING:
    from pose2id.arrays import Array


@fit_threads
def centralize_queries(
    query: ArrayT,
    gallery: ArrayT,
    generated: Array | Sequence[Array] | None = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    alpha: float = 0.0,
    normalize: bool = True,
    engine: str = "auto",
    progress: bool = False,
) -> ArrayT:
    """Pull each query toward a fixed gallery, as a service does that answers one query at a time.

    **Not the published protocol**: there, features of query and gallery never meet; score published settings with
    `centralize`. Gallery row j counts for query q if it is among the k1 nearest of q, and d(q, j) is at most the
    distance from j to its own k2-th neighbour within the gallery. The gallery is not changed, and queries do not see
    each other: a query's row is the same, to the last bit, whichever queries come with it.

    Parameters
    ----------
    query : (Q, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; not written to.
    gallery : (G, D) array of the same container and device
        Rows of zeros have no direction and never count. With `normalize` its rows are scaled to length 1, and that is
        all: pass centralized rows to pull toward these.
    generated : (Q, M, D) or (Q, D) array, or a sequence of M arrays (Q, D), optional
        Features of M generated images of each query, as for `centralize`.
    k1, k2 : int
        As above; 0 for either leaves the gallery out. A gallery of fewer than k2 other rows lets every row count.
    eta, alpha, normalize, engine, progress
        As for `centralize`.

    Returns
    -------
    (Q, D) array of the container, device and dtype of `query`
        A row of zeros stays zero.

    Raises
    ------
    TypeError, ValueError, MissingExtraError
        As `centralize`; also for different D, container or device.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import centralize_queries
    >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, -1.0]])
    >>> centralize_queries(np.array([[0.96, 0.28]]), gallery, k1=1, k2=1).round(2).tolist()
    [[0.99, 0.14]]
    """
    eta, k1, k2, alpha = check_parameters(eta, k1, k2, alpha, normalize, engine, progress)
    rows, kind = take_features(query, "query", "(Q, D)")
    items, other = take_features(gallery, "gallery", "(G, D)")
    check_same_kind(kind, other, ("query", "gallery"))
    if rows.shape[1] != items.shape[1]:
        raise ValueError(f"query and gallery must have equal D, received {tuple(rows.shape)} and {tuple(items.shape)}")
    averaged = [] if generated is None else take_generated(generated, rows, kind, "query")

    base = prepare_gallery(items, work_dtype(torch.promote_types(rows.dtype, items.dtype)), normalize=normalize)
    radius = gallery_radius(base, k2, engine=engine, progress=progress)
    fused = FusedRows(rows, averaged if eta else [], eta, normalize=normalize)
    return kind.give_back(  # type: ignore[no-any-return]
        pull_toward(fused, base, radius, k1, alpha, engine=engine, progress=progress)
    )


def prepare_gallery(gallery: torch.Tensor, dtype: torch.dtype, *, normalize: bool) -> torch.Tensor:
    """The nonzero rows of `gallery` in the working dtype `dtype`, scaled to length 1 if asked; a new tensor."""
    rows = FusedRows(gallery, normalize=normalize)
    memory = torch.empty(gallery.shape, dtype=rows.dtype, device=gallery.device)
    return rows.write(memory).to(dtype, copy=not normalize)


def gallery_radius(
    gallery: torch.Tensor,
    k2: int,
    labels: torch.Tensor | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> torch.Tensor:
    """How near a query must be for each gallery row to count, (G,): its distance to its k2-th neighbour in the gallery.

    Rows with equal `labels` (G,) are no neighbours. inf where there are fewer than k2, -inf for k2 = 0.
    """
    if not 0 < k2 < len(gallery):
        return gallery.new_full((len(gallery),), float("inf" if k2 else "-inf"))
    found = find_neighbors(gallery, gallery, k2, labels, labels, within=True, engine=engine, progress=progress)
    return found[1][:, k2 - 1]


def pull_toward(
    queries: FusedRows,
    gallery: torch.Tensor,
    radius: torch.Tensor,
    k1: int,
    alpha: float,
    labels: tuple[torch.Tensor, torch.Tensor] | None = None,
    *,
    engine: str = "auto",
    progress: bool = False,
) -> torch.Tensor:
    """Each query plus those of its k1 nearest gallery rows within whose radius it lies, (Q, D) in the queries' dtype.

    Gallery rows with the query's label do not count, by `labels` of both sides, (Q,) and (G,). Sums run in float64,
    from the nearest to the farthest; they are scaled to length 1 if the queries are.
    """

    def take(at: torch.Tensor) -> torch.Tensor:
        return gallery.index_select(0, at).double()

    k1 = min(k1, len(gallery))
    out = torch.empty(queries.rows.shape, dtype=queries.rows.dtype, device=queries.rows.device)
    searched = queries.write(torch.empty(out.shape, dtype=gallery.dtype, device=out.device), progress=progress)
    counted = torch.full((len(out), k1), -1, dtype=torch.int64, device=out.device)
    if k1 and len(searched):
        alike = (None, None) if labels is None else (labels[0][queries.nonzero], labels[1])
        rows = searched.to(gallery.dtype)
        near, distances = find_neighbors(rows, gallery, k1, *alike, engine=engine, progress=progress)
        counted[queries.nonzero] = torch.where((near >= 0) & (distances <= radius[near.clamp(min=0)]), near, -1)
    del searched
    add_counted(queries, counted, take, alpha, out)
    return out


def add_counted(queries: FusedRows, counted: torch.Tensor, take: Take, alpha: float, out: torch.Tensor) -> None:
    """Write to `out` (Q, D) each query plus the gallery rows `counted` (Q, k1), -1 for none, which `take` gives.

    Sums run in float64 in the order of `counted`; they are scaled to length 1 if the queries are.
    """
    for block in cached_blocks(out):
        sums, counts = queries.take(block), counted[block] >= 0
        add_weighted(sums, sums.clone(), take, counted[block], counts, alpha)
        if queries.normalize:
            at = counts.any(dim=1).nonzero().flatten()
            sums[at] = scale_to_unit(sums[at])
        out[block] = sums
        if not queries.normalize:
            check_fits(out[block])
