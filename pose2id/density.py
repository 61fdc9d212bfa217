"""ID², the identity density metric (Yuan et al., CVPR 2025, section 3.1): how tight identities are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pose2id.arrays import check_choice, row_blocks, take_features, take_labels
from pose2id.distances import unit

if TYPE_CHECKING:
    from pose2id.arrays import Array, Labels

VARIANTS = ("paper", "released")


def id_density(features: Array, ids: Labels, *, variant: str = "paper") -> float:
    """Measure how close the features of each identity lie to their centre.

    Rows are scaled to length 1; an identity's centre is the mean of its rows, not scaled again. Give query and
    gallery together, as the paper does.

    Parameters
    ----------
    features : (N, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64. A row of zeros stays zero.
    ids : (N,) integers or strings
        Identity labels; every label counts, also -1.
    variant : {"paper", "released"}
        "paper": Euclidean distance to the centre, averaged per identity, then over identities, as the paper's
        formula says. "released": *squared* distance, averaged over samples, as the released code computes it: the
        one to compare with the published tables.

    Returns
    -------
    float
        0 when every identity is one point; lower is denser. A low value alone does not mean good retrieval.

    Raises
    ------
    TypeError, ValueError
        For anything but finite floating-point features (N >= 1, D), N labels and a known variant.

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
    import torch

    check_choice(variant, "variant", VARIANTS)
    rows, _ = take_features(features)
    if not len(rows):
        raise ValueError(f"features must have at least one row, received shape {tuple(rows.shape)}")
    _, codes = np.unique(take_labels(ids, len(rows), "ids"), return_inverse=True)
    identity = torch.from_numpy(codes.reshape(-1).astype(np.int64)).to(rows.device)
    counts = torch.bincount(identity)
    centres = torch.zeros(len(counts), rows.shape[1], dtype=torch.float64, device=rows.device)
    for block in row_blocks(*rows.shape):
        centres.index_add_(0, identity[block], unit(rows[block].double()))
    centres /= counts[:, None]
    totals = torch.zeros(len(counts), dtype=torch.float64, device=rows.device)
    for block in row_blocks(*rows.shape):
        squared = (unit(rows[block].double()) - centres[identity[block]]).square_().sum(dim=1)
        totals.index_add_(0, identity[block], squared if variant == "released" else squared.sqrt())
    return float(totals.sum() / len(rows) if variant == "released" else (totals / counts).mean())
