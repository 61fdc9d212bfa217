"""`centralize_parts`: the method part by part. What a row hides is neither compared nor added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, NamedTuple

import numpy as np
import torch

from pose2id.arrays import ArrayT, cached_blocks
from pose2id.centralization import check_parameters, mutual_neighbors
from pose2id.centralization.fusion import check_fits
from pose2id.centralization.mutual import power
from pose2id.distances import row_sums
from pose2id.neighbors import take_exclude
from pose2id.parts.fusion import FusedParts
from pose2id.parts.pairs import ordered_mean
from pose2id.parts.search import Search, search
from pose2id.parts.sets import check_part_engine, take_generated, take_parts, unit_parts
from pose2id.progress import tqdm
from pose2id.threads import fit_threads
from pose2id.validation import check_flag

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels


class PartFeatures(NamedTuple, Generic[ArrayT]):
    """Part features, as `centralize_parts` returns them.

    `parts` (N, P, D); `visibility` (N, P), bools, or floats where floats were given.
    """

    parts: ArrayT
    visibility: ArrayT


@fit_threads
def centralize_parts(
    parts: ArrayT,
    visibility: Array | None = None,
    generated: Array | None = None,
    eta: float = 1.0,
    k1: int = 2,
    k2: int = 2,
    *,
    generated_visibility: Array | None = None,
    alpha: float = 0.0,
    fill: bool = False,
    exclude: Labels | None = None,
    normalize: bool = True,
    engine: str = "auto",
    progress: bool = False,
) -> PartFeatures[ArrayT]:
    """Pull the parts of each person toward their centre, part by part, where they are visible.

    `centralize` for models that give several features an image with a visibility each (BPBReID, KPR, PCB). Neighbours
    are nearest by the mean distance of the parts that both show, which is how such models are scored. Call it once for
    the query set and once for the gallery.

    Parameters
    ----------
    parts : (N, P, D) numpy array or torch tensor
        P features of each image: float16, bfloat16, float32 or float64. Not written to. A part of zeros is hidden.
        Hidden parts may hold anything, NaN too.
    visibility : (N, P) bools, or floats from 0 to 1, optional
        How well each part is seen, of the container and device of `parts`; 0 or False: hidden. None: all are visible.
    generated : (N, M, P, D) array, optional
        Parts of M generated images of each sample, from the same model. A visible part gets eta times their mean,
        weighted by `generated_visibility`; a hidden one, with `fill`, is that mean.
    eta : float
        How much the generated images are trusted, as for `centralize`; 0 leaves them out.
    k1, k2 : int
        Row j counts for row i if it is among the k1 nearest of i, and i is among the k2 nearest of j; 0 for either
        switches the step off. Rows without a common part are never neighbours.
    generated_visibility : (N, M, P) bools or floats, optional
        None: generated images show all parts.
    alpha : float
        Each mutual neighbour counts with max(c, 0) ** alpha, c the mean cosine of the common parts; 0: plain sums.
    fill : bool
        True: a hidden part becomes the sum of the mutual neighbours' that show it, and its visibility the largest of
        theirs. Worth it where people have many images (the gallery), not for single queries.
    exclude : (N,) integers or strings, optional
        Rows with equal labels are never neighbours.
    normalize : bool
        True: parts are scaled to length 1 after fusing and at the end, hidden ones too. False: raw sums, and distances
        of the parts as they are.
    engine : {"auto", "exact"}
        Who searches neighbours; there is one engine for parts, and it finds all.
    progress : bool
        Show progress bars.

    Returns
    -------
    PartFeatures
        `parts` (N, P, D) of the container, device and dtype given, and `visibility` (N, P): bools unless floats were
        given. Hidden parts that are not filled come out as given (of length 1, with `normalize`, if they are finite).

    Raises
    ------
    TypeError, ValueError
        As `centralize`; also for visibility of another shape, outside 0 to 1 or NaN, and for NaN or inf in visible
        parts (rows and parts are named).

    Notes
    -----
    With v the visibility and w_p = sqrt(v_ip v_jp), the distance of i and j is
    ``sum(w_p |u_ip - u_jp|) / sum(w_p)``, and

        z_ip = v_ip u_ip + sum over mutual neighbours j of a_ij v_jp u_jp.

    With P = 1 and all visible this is `centralize`, bit for bit. Neighbours are found without an N x N array, exactly:
    in the order of float64 distances of the fused parts, rounded to float32 unless the features are float64, ties by
    index.

    References
    ----------
    The method: Yuan et al., CVPR 2025. The distance: Somers et al., *Body Part-Based Representation Learning for
    Occluded Person Re-Identification*, WACV 2023. Centralizing part by part is this library's own.

    Examples
    --------
    The second part of row 1 is hidden: it takes no part, and is filled by its neighbour's.

    >>> import numpy as np
    >>> from pose2id.parts import centralize_parts
    >>> parts = np.array([[[1.0, 0.0], [0.0, 1.0]], [[0.6, 0.8], [9.0, 9.0]], [[-1.0, 0.0], [0.0, -1.0]]])
    >>> visibility = np.array([[True, True], [True, False], [True, True]])
    >>> centred = centralize_parts(parts, visibility, k1=1, k2=1, fill=True)
    >>> centred.parts.round(2)[:2].tolist()
    [[[0.89, 0.45], [0.0, 1.0]], [[0.89, 0.45], [0.0, 1.0]]]
    >>> centred.visibility.all()
    np.True_
    """
    eta, k1, k2, alpha = check_parameters(eta, k1, k2, alpha, normalize, "auto", progress)
    check_flag(fill, "fill")
    check_part_engine(engine)
    given, kind = take_parts(parts, visibility)
    views = take_generated(generated, generated_visibility, given, kind)
    labels = take_exclude(exclude, given.rows)
    n = len(given.rows)
    k = min(max(k1, k2), n - 1) if k1 and k2 and n else 0  # no row has more neighbours than that

    # 1. Fuse. The result's memory holds the fused parts until step 4 writes over them.
    result = torch.empty(given.rows.shape, dtype=given.rows.dtype, device=given.rows.device)
    fused = FusedParts(given, views, eta, fill=fill, normalize=normalize)
    searched = fused.write(result, progress=progress)
    seen = fused.visibility.clone()
    # 2. Search the nearest rows of every row, and 3. keep those that are mutual.
    table = torch.full((n, k), -1, dtype=torch.int64, device=result.device)
    if k:
        table = search(Search(searched, searched, k, labels, within=True, progress=progress)).indices
    in_memory = searched.rows is result
    del searched
    mutual = mutual_neighbors(table, k1, k2)
    # 4. Add them, part by part.
    _add_mutual(
        fused, mutual, alpha, result, seen, fill=fill, in_memory=in_memory, active=bool(k1 and k2), bar=progress
    )
    soft = given.soft if given.soft is not None or views is None else views.soft
    return PartFeatures(kind.give_back(result), _give_visibility(seen, soft, kind))


def _give_visibility(seen: torch.Tensor, soft: Any, kind: Any) -> Any:
    """Visibility in the caller's container, bools or floats of the dtype `soft`."""
    if kind.container == "torch":
        return seen.to(device=kind.device, dtype=torch.bool if soft is None else soft)
    return seen.cpu().numpy().astype(np.bool_ if soft is None else soft)


def _add_mutual(
    fused: FusedParts,
    mutual: torch.Tensor,
    alpha: float,
    out: torch.Tensor,
    seen: torch.Tensor,
    *,
    fill: bool,
    in_memory: bool,
    active: bool,
    bar: bool,
) -> None:
    """Write z to `out` (N, P, D), which holds the fused parts if they are `in_memory`, and visibility to `seen`.

    Sums run in float64 in ascending order of index, the row itself included, as those of `centralize`.
    """
    visibility = fused.visibility

    def take_ahead(at: torch.Tensor) -> torch.Tensor:  # rows of the present block and after it
        return out.index_select(0, at).double() if in_memory else fused.take(at)

    with tqdm(total=len(out), desc="adding", unit="row", disable=not bar) as shown:
        for block in cached_blocks(out):
            if not in_memory:
                out[block] = fused.take(block)
            at = torch.arange(block.start, block.stop, device=out.device)
            if fused.normalize or bool((visibility[block] == visibility[block].ceil()).all()) or not active:
                at = at[(mutual[block] >= 0).any(dim=1)]  # sums of the others are the parts as they stand
            if len(at):
                near, own, weight = mutual[at].sort(dim=1).values, take_ahead(at), visibility[at]
                sums, most = torch.zeros_like(own), torch.zeros_like(weight)
                below = (near >= 0) & (near < at[:, None])
                most = _add_weighted(sums, own, fused.take, near, below, alpha, visibility, at, most)
                sums += own * weight[:, :, None]
                most = _add_weighted(sums, own, take_ahead, near, near > at[:, None], alpha, visibility, at, most)
                if fused.normalize:
                    # Parts to which nothing was added keep their bits.
                    changed = most > 0
                    sums = torch.where(changed[:, :, None], unit_parts(sums), own)
                if fill:
                    seen[at] = torch.where(weight > 0, weight, most)
                out.index_copy_(0, at, sums.to(out.dtype))
            hidden = seen[block] == 0
            if bool(hidden.any()):
                part = out[block]
                part[hidden] = fused.take_hidden(block)[hidden].to(out.dtype)
            if not fused.normalize:
                check_fits(out[block][~hidden])
            shown.update(block.stop - block.start)


def _add_weighted(
    sums: torch.Tensor,
    own: torch.Tensor,
    take: Any,
    neighbors: torch.Tensor,
    chosen: torch.Tensor,
    alpha: float,
    visibility: torch.Tensor,
    rows: torch.Tensor,
    most: torch.Tensor,
) -> torch.Tensor:
    """Add to `sums` (b, P, D) the chosen neighbours (b, k) of `rows`, each part by its visibility.

    `most` (b, P), the largest visibility of the neighbours added so far, comes back with these.
    """
    directions = unit_parts(own.clone()) if alpha > 0 else own
    for slot in range(neighbors.shape[1]):
        at = chosen[:, slot].nonzero().flatten()
        if not len(at):
            continue
        j = neighbors[at, slot]
        other, weight = take(j), visibility[j]
        most[at] = torch.maximum(most[at], weight)
        other *= weight[:, :, None]
        if alpha > 0:
            each = unit_parts(other.clone()).mul_(directions[at])
            cosines = row_sums(each.view(-1, each.shape[2])).view(weight.shape)
            mean = ordered_mean(cosines, visibility[rows[at]].sqrt() * weight.sqrt())
            other *= power(mean.clamp(0, 1), alpha)[:, None, None]
        sums.index_add_(0, at, other)  # each row at most once, so there is no order to get wrong
    return most
