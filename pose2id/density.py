"""ID², the identity density metric (Yuan et al., CVPR 2025, section 3.1): how tight identities are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch

from pose2id.arrays import cached_rows, take_features
from pose2id.distances import unit
from pose2id.threads import fit_threads
from pose2id.validation import JUNK, check_choice, check_flag, equal_label, take_labels

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.validation import Labels

VARIANTS = ("paper", "released")


@fit_threads
def id_density(features: Array, ids: Labels, *, variant: str = "paper", junk: bool = False) -> float:
    """Measure how close the features of each identity lie to their centre.

    Rows are scaled to length 1; an identity's centre is the mean of its rows, not scaled again. Give query and
    gallery together, as the paper does.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64. A row of zeros stays zero. A memory-mapped file is read in blocks, fast
        if its rows are sorted by identity.
    ids : (N,) integers or strings
        Identity labels. -1 (or "-1") is junk, detections of nobody in particular: these rows are left out, as
        `evaluate` leaves them out of every ranking. 0 is an ordinary label.
    variant : {"paper", "released"}
        "paper": Euclidean distance to the centre, averaged per identity, then over identities, as the paper's
        formula says. "released": *squared* distance, averaged over samples, as the released code computes it: the
        one to compare with the published tables.
    junk : bool, default False
        True: the rows labelled -1 count as one more identity.

    Returns
    -------
    float
        0 when every identity is one point; lower is denser. A low value alone does not mean good retrieval.

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point features (N >= 1, D), N labels, not all of them junk, and a known
        variant.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import id_density
    >>> features = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])
    >>> round(id_density(features, ["a", "a", "b"]), 4)  # two at sqrt(1/2) from their centre, one at 0
    0.3536
    >>> round(id_density(features, ["a", "a", "b"], variant="released"), 4)
    0.3333
    """
    check_choice(variant, "variant", VARIANTS)
    check_flag(junk, "junk")
    rows, _ = take_features(features)
    if not len(rows):
        raise ValueError(f"features must have at least one row, received shape {tuple(rows.shape)}")
    labels = take_labels(ids, len(rows), "ids")
    kept = np.flatnonzero(junk | ~equal_label(labels, JUNK))
    if not len(kept):
        raise ValueError(f"ids must name at least one person, all {len(labels)} are junk (-1); junk=True counts them")
    _, codes, counts = np.unique(labels[kept], return_inverse=True, return_counts=True)
    order = kept[np.argsort(codes.reshape(-1), kind="stable")]
    squared = _squared_distances(rows, torch.from_numpy(order).to(rows.device), counts)
    if variant == "released":
        return float(squared.mean())
    return float((np.add.reduceat(np.sqrt(squared), counts.cumsum() - counts) / counts).mean())


def _squared_distances(
    rows: torch.Tensor, order: torch.Tensor, counts: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Squared distance of each normalised row to its centre, in the order of identities: `counts` of `order` each.

    Whole identities at a time, so rows are read once, and no more centres are held than rows; only an identity larger
    than a block is read twice. In a file, rows are read where they lie: in one go if it is sorted by identity.
    """
    squared = torch.empty(len(order), dtype=torch.float64, device=rows.device)
    starts = np.concatenate([[0], counts.cumsum()])
    step, first = cached_rows(rows), 0
    while first < len(counts):
        last = max(first + 1, int(np.searchsorted(starts, starts[first] + step, side="right")) - 1)
        sizes = torch.from_numpy(counts[first:last]).to(rows.device)
        own = torch.arange(last - first, device=rows.device).repeat_interleave(sizes)
        centres = torch.zeros(last - first, rows.shape[1], dtype=torch.float64, device=rows.device)
        begin, end = int(starts[first]), int(starts[last])
        parts = [slice(start, min(start + step, end)) for start in range(begin, end, step)]
        made = rows[:0]
        for part in parts:
            made = unit(rows.index_select(0, order[part]).double())
            centres.index_add_(0, own[part.start - begin : part.stop - begin], made)
        centres /= sizes[:, None]
        for part in parts:
            if len(parts) > 1:
                made = unit(rows.index_select(0, order[part]).double())
            made -= centres.index_select(0, own[part.start - begin : part.stop - begin])
            squared[part] = made.square_().sum(dim=1)
        first = last
    return squared.cpu().numpy()
