"""Parts from feature maps (N, C, H, W) alone: stripes, a pose's maps, locations, neighbourhoods.

What a network's last layer left is pooled as the published systems do it. All sums are made in the working dtype,
float32 or float64, over a block of images at a time. A torch tensor that requires a gradient is pooled in one block and
passes it on, so that a network can be trained through the same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from pose2id.arrays import ArrayT, Kind, check_same_kind, row_blocks, take_features, work_dtype
from pose2id.distances import full_precision, scale_to_unit
from pose2id.threads import fit_threads
from pose2id.validation import check_choice, check_count, check_flag


def take_maps(maps: Any, name: str = "maps", shape: str = "(N, C, H, W)") -> tuple[torch.Tensor, Kind]:
    """Maps of four axes, finite floats; only N may be 0."""
    tensor, kind = take_features(maps, name, shape)
    if 0 in tensor.shape[1:]:
        raise ValueError(f"{name} must have no empty axis but the first, received shape {tuple(tensor.shape)}")
    return keep_graph(maps, tensor), kind


def keep_graph(array: Any, tensor: torch.Tensor) -> torch.Tensor:
    """What was checked, `tensor`, or the caller's own `array` where that passes gradients on."""
    return array if isinstance(array, torch.Tensor) and array.requires_grad and torch.is_grad_enabled() else tensor


def check_same_images(
    first: tuple[torch.Tensor, Kind], second: tuple[torch.Tensor, Kind], names: tuple[str, str]
) -> None:
    """Raise unless both arrays are of one kind and have equally many rows."""
    check_same_kind(first[1], second[1], names)
    if len(first[0]) != len(second[0]):
        raise ValueError(
            f"{names[0]} and {names[1]} must have one row for each image, "
            f"received {len(first[0])} and {len(second[0])} rows"
        )


def name_rows(bad: torch.Tensor) -> str:
    """The first of the rows that are marked, for an error."""
    rows = bad.nonzero().flatten().tolist()
    return f"{len(rows)} row(s): " + ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")


def take_extent(size: Any, name: str) -> tuple[int, int]:
    """Height and width, both integers >= 1."""
    if not isinstance(size, Sequence) or isinstance(size, str) or len(size) != 2:
        raise TypeError(f"{name} must be a pair (height, width) of integers, received {size!r}")
    return check_count(size[0], f"the height of {name}", 1), check_count(size[1], f"the width of {name}", 1)


def pool_blocks(pool: Callable[..., torch.Tensor], *arrays: torch.Tensor) -> torch.Tensor:
    """`pool` of some rows at a time of all `arrays`, in their common working dtype; kept in the dtype of the first."""
    dtype = arrays[0].dtype
    for array in arrays[1:]:
        dtype = torch.promote_types(dtype, array.dtype)
    with full_precision(arrays[0].device):
        found = pool(*(array[:0].to(work_dtype(dtype)) for array in arrays))  # for the shape, also without rows
        kept = arrays[0].dtype if found.is_floating_point() else found.dtype
        if found.requires_grad:
            return pool(*(array.to(work_dtype(dtype)) for array in arrays)).to(kept)
        result = torch.empty(len(arrays[0]), *found.shape[1:], dtype=kept, device=found.device)
        for block in row_blocks(arrays[0]):
            result[block] = pool(*(array[block].to(work_dtype(dtype)) for array in arrays))
    return result


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Rows scaled to length 1 by way of float64; rows of zeros stay."""
    wide = rows.to(torch.float64, copy=True)
    if wide.requires_grad:
        length: torch.Tensor = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        return (wide / length.where(length > 0, 1)).to(rows.dtype)
    return scale_to_unit(wide).to(rows.dtype)


@fit_threads
def pool_stripes(maps: ArrayT, count: int = 6, *, rule: str = "adaptive", reduce: str = "mean") -> ArrayT:
    """Cut maps into horizontal stripes and pool each over all its locations (PCB).

    Parameters
    ----------
    maps : (N, C, H, W) numpy array or torch tensor
        float16, bfloat16, float32 or float64; finite.
    count : int
        Number P of stripes.
    rule : {"adaptive", "windows"}
        Which rows stripe i has. "adaptive": floor(i H / P) to ceil((i + 1) H / P), as torch's adaptive pooling and most
        copies of PCB; more stripes than rows repeat rows. "windows": all have H - (P - 1) s rows, one every s = floor(H
        / P) rows, as the first PCB code. They are equal where P divides H.
    reduce : {"mean", "max"}
        Over the locations of a stripe.

    Returns
    -------
    (N, P, C) array of the kind of `maps`
        Not scaled to length 1; `concatenate_parts` and `centralize_parts` do that.

    Raises
    ------
    TypeError, ValueError
        For other arrays, NaN or inf (the rows are named), other options, "windows" with more stripes than rows.

    References
    ----------
    Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import pool_stripes
    >>> maps = np.arange(5.0).reshape(1, 1, 5, 1)
    >>> pool_stripes(maps, 2)[0, :, 0].tolist(), pool_stripes(maps, 2, rule="windows")[0, :, 0].tolist()
    ([1.0, 3.0], [1.0, 3.0])
    >>> pool_stripes(maps, 3)[0, :, 0].tolist(), pool_stripes(maps, 3, rule="windows")[0, :, 0].tolist()
    ([0.5, 2.0, 3.5], [1.0, 2.0, 3.0])
    """
    tensor, kind = take_maps(maps)
    count, height = check_count(count, "count", 1), tensor.shape[2]
    check_choice(rule, "rule", ("adaptive", "windows"))
    check_choice(reduce, "reduce", ("mean", "max"))
    if rule == "windows":
        if count > height:
            raise ValueError(f"count must be at most the height of the maps, {height}, by windows, received {count}")
        step = height // count
        rows = [slice(i * step, height - (count - 1 - i) * step) for i in range(count)]
    else:
        rows = [slice(i * height // count, -(-(i + 1) * height // count)) for i in range(count)]

    def pool(block: torch.Tensor) -> torch.Tensor:
        stripes = [block[:, :, one].flatten(2) for one in rows]
        return torch.stack([one.amax(2) if reduce == "max" else one.mean(2) for one in stripes], dim=1)

    return kind.give_back(pool_blocks(pool, tensor))  # type: ignore[no-any-return]


@fit_threads
def bilinear_pool(
    appearance: ArrayT, pose: ArrayT, *, sketches: tuple[ArrayT, ArrayT] | None = None, normalize: bool = True
) -> ArrayT:
    """Pool appearance under every channel of a pose's maps at once (part-aligned bilinear pooling, PABP).

    The mean over all locations of the products p x a of a pose and an appearance channel, pose slow.

    Parameters
    ----------
    appearance : (N, Ca, H, W) numpy array or torch tensor
        Maps of the picture; finite floats.
    pose : (N, Cp, H, W) array of the same kind and size
        Maps of the pose: those of the trained pose branch, or heat maps of keypoints.
    sketches : pair of (Ca, d) and (Cp, d) arrays of the same kind, or None
        Compact form: each channel's count sketch, one entry of 1 or -1 a row. The row is then the mean of the circular
        convolutions of both sketched maps. Features are comparable for the same sketches only: take those of the model.
    normalize : bool
        Scale each row to length 1; rows of zeros stay.

    Returns
    -------
    (N, Cp * Ca) array of the kind of `appearance`, or (N, d) with `sketches`
        ``.reshape(N, Cp, Ca)`` are parts. The published code gives d times the sum over locations: the same direction.

    Raises
    ------
    TypeError, ValueError
        For other arrays, different N, size or kind, NaN or inf (the rows are named).

    References
    ----------
    Suh et al., "Part-Aligned Bilinear Representations for Person Re-identification", ECCV 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import bilinear_pool
    >>> appearance = np.array([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    >>> bilinear_pool(appearance, np.array([[[[1.0, 0.5]]]]), normalize=False).tolist()
    [[1.0, 1.0]]
    """
    tensor, kind = take_maps(appearance, "appearance", "(N, Ca, H, W)")
    given, other = take_maps(pose, "pose", "(N, Cp, H, W)")
    normalize = check_flag(normalize, "normalize")
    check_same_images((tensor, kind), (given, other), ("appearance", "pose"))
    if tensor.shape[2:] != given.shape[2:]:
        raise ValueError(
            f"appearance and pose must have equal H and W, received {tuple(tensor.shape)} and {tuple(given.shape)}; "
            "resize one of them"
        )
    tables = None if sketches is None else _take_sketches(sketches, (tensor.shape[1], given.shape[1]), kind)

    def pool(block: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if tables is None:
            found = (weights.flatten(2) @ block.flatten(2).transpose(1, 2)).flatten(1) / tensor.shape[2:].numel()
        elif len(block):  # a product of spectra is a circular convolution
            maps = (block, tables[0]), (weights, tables[1])
            sketched = [part.flatten(2).transpose(1, 2) @ table.to(part.dtype) for part, table in maps]
            spectra = [torch.fft.rfft(part) for part in sketched]
            found = torch.fft.irfft((spectra[0] * spectra[1]).mean(dim=1), n=tables[0].shape[1])
        else:  # some FFT libraries refuse to transform nothing
            found = block.new_empty(0, tables[0].shape[1])
        return unit_rows(found) if normalize else found

    return kind.give_back(pool_blocks(pool, tensor, given))  # type: ignore[no-any-return]


def _take_sketches(sketches: Any, channels: tuple[int, int], kind: Kind) -> list[torch.Tensor]:
    """The sketches of appearance and pose, checked."""
    if not isinstance(sketches, tuple | list) or len(sketches) != 2:
        raise TypeError(f"sketches must be a pair of arrays, (Ca, d) and (Cp, d), received {type(sketches).__name__}")
    tables = []
    for array, name in zip(sketches, ("sketches[0]", "sketches[1]"), strict=True):
        table, other = take_features(array, name, "(C, d)")
        check_same_kind(kind, other, ("appearance", name))
        tables.append(table)
    shapes = [tuple(table.shape) for table in tables]
    if [shape[0] for shape in shapes] != list(channels) or shapes[0][1] != shapes[1][1] or not shapes[0][1]:
        raise ValueError(f"sketches must have shapes ({channels[0]}, d) and ({channels[1]}, d), received {shapes}")
    return tables


@fit_threads
def location_pyramid(maps: ArrayT, sizes: Sequence[int] = (2, 4, 6, 8), stride: int = 2) -> ArrayT:
    """Local features of several sizes, for reconstruction of a person from another's (DSR).

    Parameters
    ----------
    maps : (N, C, H, W) numpy array or torch tensor
        float16, bfloat16, float32 or float64; finite.
    sizes : sequence of int
        Sides of the squares over which the maximum is taken, one size after the other.
    stride : int
        Step between squares, in both directions; squares lie wholly inside.

    Returns
    -------
    (N, C, M) array of the kind of `maps`
        One column a location, row by row within a size; not scaled. M = 110 for maps of 24 x 8 and the sizes of the
        published Python code; its MATLAB code has sizes 1 to 4 with stride 1.

    Raises
    ------
    TypeError, ValueError
        For other arrays, NaN or inf (the rows are named), no size, or one that does not fit into the maps.

    References
    ----------
    He et al., "Deep Spatial Feature Reconstruction for Partial Person Re-identification", CVPR 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import location_pyramid
    >>> location_pyramid(np.arange(6.0).reshape(1, 1, 2, 3), (1, 2), stride=1).tolist()
    [[[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 4.0, 5.0]]]
    """
    tensor, kind = take_maps(maps)
    stride = check_count(stride, "stride", 1)
    if not isinstance(sizes, Sequence) or isinstance(sizes, str) or not len(sizes):
        raise TypeError(f"sizes must be a sequence of at least one integer, received {sizes!r}")
    sides = [check_count(size, "each of sizes", 1, min(tensor.shape[2:])) for size in sizes]

    def pool(block: torch.Tensor) -> torch.Tensor:
        squares = [block.unfold(2, side, stride).unfold(3, side, stride) for side in sides]
        return torch.cat([one.amax(dim=(4, 5)).flatten(2) for one in squares], dim=2)

    return kind.give_back(pool_blocks(pool, tensor))  # type: ignore[no-any-return]


@fit_threads
def neighborhood_differences(f: ArrayT, g: ArrayT, size: int = 5) -> tuple[ArrayT, ArrayT]:
    """What is different between two images around each location (IDLA, PersonNet), both ways round.

    K(y, x) = f(y, x) - N(y, x), with N the size x size neighbourhood of g, zeros beyond its border; K' with f and g
    exchanged. This layer compares pairs: row i of `f` with row i of `g`.

    Parameters
    ----------
    f, g : (N, C, H, W) numpy arrays or torch tensors of one kind
        float16, bfloat16, float32 or float64; finite, of equal shape.
    size : int
        Odd side of the neighbourhood.

    Returns
    -------
    K, K' : (N, C, H, W, size, size) arrays of the kind of `f`
        Before any ReLU. ``K.transpose(0, 1, 2, 4, 3, 5).reshape(N, C, size * H, size * W)`` is the tiled form that the
        next layer of the published networks takes.

    Raises
    ------
    TypeError, ValueError
        For other arrays, different shapes or kinds, NaN or inf (the rows are named), an even size.

    References
    ----------
    Ahmed et al., "An Improved Deep Learning Architecture for Person Re-Identification", CVPR 2015.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.parts import neighborhood_differences
    >>> f, g = np.array([[[[5.0]]]]), np.array([[[[2.0]]]])
    >>> k, k_prime = neighborhood_differences(f, g, 3)
    >>> k[0, 0, 0, 0].tolist(), k_prime[0, 0, 0, 0, 1].tolist()
    ([[5.0, 5.0, 5.0], [5.0, 3.0, 5.0], [5.0, 5.0, 5.0]], [2.0, -3.0, 2.0])
    """
    first, kind = take_maps(f, "f")
    second, other = take_maps(g, "g")
    check_same_images((first, kind), (second, other), ("f", "g"))
    if first.shape != second.shape:
        raise ValueError(f"f and g must have equal shapes, received {tuple(first.shape)} and {tuple(second.shape)}")
    size = check_count(size, "size", 1)
    if size % 2 == 0:
        raise ValueError(f"size must be odd, so that a neighbourhood has a centre, received {size}")

    def differ(center: torch.Tensor, around: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(around, [size // 2] * 4)
        return center[..., None, None] - padded.unfold(2, size, 1).unfold(3, size, 1)

    return kind.give_back(pool_blocks(differ, first, second)), kind.give_back(pool_blocks(differ, second, first))
