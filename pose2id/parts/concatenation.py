"""Parts and a whole feature as one row: in a row, or by the trained fusion of PDC."""

from __future__ import annotations

from typing import Any

import torch

from pose2id.arrays import ArrayT, Kind, check_same_kind, take_features
from pose2id.parts.maps import check_same_images, keep_graph, pool_blocks, unit_rows
from pose2id.threads import fit_threads
from pose2id.validation import check_choice


@fit_threads
def concatenate_parts(parts: ArrayT, global_feature: ArrayT | None = None, *, normalize: str | None = "part") -> ArrayT:
    """Put a whole feature and all parts in one row, as PCB and GLAD compare them.

    Parameters
    ----------
    parts : (N, P, D) numpy array or torch tensor
        float16, bfloat16, float32 or float64; finite.
    global_feature : (N, Dg) array of the same kind, optional
        Comes first.
    normalize : {"part", "whole"} or None
        "part": each part, and the whole feature, is scaled to length 1 on its own, so that each counts alike; the row
        has length sqrt(P), or sqrt(P + 1). "whole": the row is scaled to length 1. Vectors of zeros stay.

    Returns
    -------
    (N, P * D) or (N, Dg + P * D) array of the kind of `parts`
        Part by part. The published PCB codes have the channels slow and the parts fast: the same distances.

    Raises
    ------
    TypeError, ValueError
        For other arrays, different N or kind, NaN or inf (the rows are named), other options.

    Notes
    -----
    Nothing knows of parts any more in such a row: do not give it to `centralize` where parts may be hidden, see
    `centralize_parts`.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import concatenate_parts
    >>> concatenate_parts(np.array([[[3.0, 4.0], [0.0, 2.0]]]), np.array([[5.0]])).tolist()
    [[1.0, 0.6, 0.8, 0.0, 1.0]]
    """
    tensor, kind = take_features(parts, "parts", "(N, P, D)")
    if tensor.shape[1] == 0:
        raise ValueError(f"parts must have at least one part (P >= 1), received shape {tuple(tensor.shape)}")
    if normalize is not None:
        check_choice(normalize, "normalize", ("part", "whole"))
    arrays = [keep_graph(parts, tensor)]
    if global_feature is not None:
        whole, other = take_features(global_feature, "global_feature", "(N, Dg)")
        check_same_images((tensor, kind), (whole, other), ("parts", "global_feature"))
        arrays.append(keep_graph(global_feature, whole))

    def join(block: torch.Tensor, *whole: torch.Tensor) -> torch.Tensor:
        vectors = [*whole, *block.unbind(1)]
        if normalize == "part":
            vectors = [unit_rows(vector) for vector in vectors]
        row = torch.cat(vectors, dim=1)
        return unit_rows(row) if normalize == "whole" else row

    return kind.give_back(pool_blocks(join, *arrays))  # type: ignore[no-any-return]


@fit_threads
def fuse_tanh(global_feature: ArrayT, part_feature: ArrayT, weight: ArrayT, bias: ArrayT) -> ArrayT:
    """Join a whole feature and one of the parts as PDC does: [g, tanh(p * weight + bias)].

    Parameters
    ----------
    global_feature : (N, Dg) numpy array or torch tensor
        float16, bfloat16, float32 or float64; finite.
    part_feature : (N, D) array of the same kind
        Of all parts together.
    weight, bias : (D,) arrays of the same kind
        Trained, one of each per dimension. Without those of the model the result has no meaning.

    Returns
    -------
    (N, Dg + D) array of the kind of `global_feature`
        The global feature and, behind it, the squashed part.

    Raises
    ------
    TypeError, ValueError
        For other arrays, shapes that do not fit, different kinds, NaN or inf.

    References
    ----------
    Su et al., "Pose-driven Deep Convolutional Model for Person Re-identification", ICCV 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import fuse_tanh
    >>> row = np.array([[1.0, 2.0]])
    >>> fuse_tanh(row, row, np.array([2.0, 0.0]), np.array([0.0, 0.5])).round(3).tolist()
    [[1.0, 2.0, 0.964, 0.462]]
    """
    tensor, kind = take_features(global_feature, "global_feature", "(N, Dg)")
    part, other = take_features(part_feature, "part_feature", "(N, D)")
    check_same_images((tensor, kind), (part, other), ("global_feature", "part_feature"))
    factor, term = (_take_trained(one, name, part, kind) for one, name in ((weight, "weight"), (bias, "bias")))

    def fuse(block: torch.Tensor, parts: torch.Tensor) -> torch.Tensor:
        return torch.cat([block, torch.tanh(parts * factor.to(parts.dtype) + term.to(parts.dtype))], dim=1)

    return kind.give_back(pool_blocks(fuse, keep_graph(global_feature, tensor), keep_graph(part_feature, part)))  # type: ignore[no-any-return]


def _take_trained(values: Any, name: str, part: torch.Tensor, kind: Kind) -> torch.Tensor:
    """One number per dimension of `part`."""
    tensor, other = take_features(values, name, "(D)")
    check_same_kind(kind, other, ("global_feature", name))
    if len(tensor) != part.shape[1]:
        raise ValueError(
            f"{name} must have shape ({part.shape[1]},), like a row of part_feature, received {tuple(tensor.shape)}"
        )
    return keep_graph(values, tensor)
