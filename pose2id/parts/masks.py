"""Parts under soft masks: feature maps pooled, and which parts the masks show."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from pose2id.arrays import ArrayT, Kind
from pose2id.parts.maps import check_same_images, name_rows, pool_blocks, take_extent, take_maps
from pose2id.threads import fit_threads
from pose2id.validation import check_choice, check_flag

FAINTEST = 1e-6
"""A mask that sums to less is divided by this, as in BPBReID: a part that is nowhere comes out as (nearly) zeros."""


def _take_masks(masks: Any, shape: str) -> tuple[torch.Tensor, Kind]:
    """Masks >= 0, bools as floats."""
    if "bool" in str(getattr(masks, "dtype", "")):
        masks = masks.to(torch.float32) if isinstance(masks, torch.Tensor) else masks.astype("float32")
    tensor, kind = take_maps(masks, "masks", shape)
    bad = (tensor < 0).flatten(1).any(dim=1)
    if bool(bad.any()):
        raise ValueError(f"masks must be >= 0, received smaller values in {name_rows(bad)}; apply a softmax")
    return tensor, kind


def _resize(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Masks at another size, bilinear with the corners in place; as they are where they have it."""
    if tuple(masks.shape[2:]) == size:
        return masks
    return functional.interpolate(masks, size, mode="bilinear", align_corners=True)


@fit_threads
def pool_masks(maps: ArrayT, masks: ArrayT, *, divide: str = "mask", reduce: str = "mean") -> ArrayT:
    r"""Pool maps under soft masks, one part for each mask (BPBReID, KPR, SPReID, PCB's refined parts).

    .. math:: f_p = \sum_{xy} m_p x \,/\, \max(\sum_{xy} m_p,\ 10^{-6}) \quad\text{or}\quad \sum_{xy} m_p x \,/\, (H W)

    Parameters
    ----------
    maps : (N, C, H, W) numpy array or torch tensor
        float16, bfloat16, float32 or float64; finite.
    masks : (N, P, h, w) array of the same kind
        Floats >= 0, such as probabilities, or bools. Each channel is a part and none is dropped: leave the background
        out with ``masks[:, 1:]``. Masks of another size are resized to the maps', bilinear with the corners in place.
    divide : {"mask", "area"}
        Divide by the sum of the mask, or by the number of locations. BPBReID does the first for parts, the second for
        its foreground, whose mask is the largest of the parts'. Refined PCB is P times the second.
    reduce : {"mean", "max"}
        "max", of BPBReID's options: the largest product of mask and map, divided by nothing.

    Returns
    -------
    (N, P, C) array of the kind of `maps`
        A part whose mask is 0 everywhere comes out as zeros, which counts as hidden in this package.

    Raises
    ------
    TypeError, ValueError
        For other arrays, different N or kind, NaN or inf (the rows are named), negative masks.

    Notes
    -----
    SPReID resizes the maps up to its masks instead, which gives other means: resize the maps first to have its numbers.
    Its feature is [foreground, largest of the four parts, plain mean], not all parts in a row.

    References
    ----------
    Somers et al., WACV 2023; Kalayeh et al., "Human Semantic Parsing for Person Re-identification", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import pool_masks
    >>> maps = np.array([[[[1.0, 3.0]]]])
    >>> masks = np.array([[[[0.25, 0.25]], [[0.0, 1.0]]]])
    >>> pool_masks(maps, masks)[0, :, 0].tolist(), pool_masks(maps, masks, divide="area")[0, :, 0].tolist()
    ([2.0, 3.0], [0.5, 1.5])
    """
    tensor, kind = take_maps(maps)
    given, other = _take_masks(masks, "(N, P, h, w)")
    check_choice(divide, "divide", ("mask", "area"))
    check_choice(reduce, "reduce", ("mean", "max"))
    check_same_images((tensor, kind), (given, other), ("maps", "masks"))
    height, width = tensor.shape[2:]

    def pool(block: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        weights = _resize(weights, (height, width)).flatten(2)
        if reduce == "max":
            return torch.stack([(mask[:, None] * block.flatten(2)).amax(2) for mask in weights.unbind(1)], dim=1)
        if divide == "mask":
            weights = weights / weights.sum(2, keepdim=True).clamp(min=FAINTEST)
            return weights @ block.flatten(2).transpose(1, 2)
        return (weights / (height * width)) @ block.flatten(2).transpose(1, 2)

    return kind.give_back(pool_blocks(pool, tensor, given))  # type: ignore[no-any-return]


@fit_threads
def mask_visibility(masks: ArrayT, *, binary: bool = True, size: tuple[int, int] | None = None) -> ArrayT:
    """Which parts an image shows, from the probabilities of its pixels (BPBReID, KPR).

    Parameters
    ----------
    masks : (N, K + 1, h, w) numpy array or torch tensor
        Probabilities of the background, channel 0, and of K parts.
    binary : bool
        True: a part is visible where it is the likeliest channel of any one pixel; of equally likely ones the first
        counts. False: the visibility is the part's largest probability.
    size : (height, width), optional
        Resize the masks first, as `pool_masks` does. BPBReID measures at the size of its feature maps.

    Returns
    -------
    (N, K) array of bools, or of the dtype of `masks`
        For `centralize_parts` and its kin.

    Raises
    ------
    TypeError, ValueError
        For other arrays, less than two channels, NaN or inf (the rows are named), values outside [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import mask_visibility
    >>> masks = np.array([[0.5, 0.2], [0.3, 0.7], [0.2, 0.1]]).reshape(1, 3, 1, 2)
    >>> mask_visibility(masks).tolist(), mask_visibility(masks, binary=False).tolist()
    ([[True, False]], [[0.7, 0.2]])
    """
    tensor, kind = _take_masks(masks, "(N, K + 1, h, w)")
    binary = check_flag(binary, "binary")
    extent = None if size is None else take_extent(size, "size")
    if tensor.shape[1] < 2:
        raise ValueError(f"masks must have a background and at least one part, received shape {tuple(tensor.shape)}")
    largest = float(tensor.detach().max()) if tensor.numel() else 0.0
    if largest > 1 + 1e-3:
        raise ValueError(f"masks must be probabilities from 0 to 1, received {largest}; apply a softmax")

    def measure(block: torch.Tensor) -> torch.Tensor:
        block = block if extent is None else _resize(block, extent)
        if not binary:
            return block[:, 1:].amax(dim=(2, 3)).clamp(max=1)  # a softmax of few bits may exceed 1
        likeliest = block == block.amax(1, keepdim=True)
        return (likeliest & (likeliest.cumsum(1) == 1))[:, 1:].flatten(2).any(dim=2)

    seen = pool_blocks(measure, tensor)
    return kind.give_back(seen, torch.bool if binary else None)  # type: ignore[no-any-return]
