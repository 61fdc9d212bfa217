"""What a trained encoder makes of many pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.encoders.contract import Encoded, Encoder
from pose2id.encoders.pictures import Pictures
from pose2id.validation import check_count


def encode_images(
    encoder: Encoder,
    images: NDArray[np.uint8],
    *,
    keypoints: Any = None,
    masks: NDArray[np.uint8] | None = None,
    maps: bool = False,
    batch_size: int = 256,
) -> Encoded:
    """What an encoder makes of pictures that have its size already.

    Parameters
    ----------
    encoder : Encoder
        In eval mode, such as `load_encoder` gives it.
    images : ndarray of uint8, shape (N, H, W, 3)
        RGB.
    keypoints, masks
        As for `pose2id.encoders.train_encoder`; what the encoder `needs`.
    maps : bool
        Keep the maps too, which `Encoder.compare` takes; they are large.
    batch_size : int
        Pictures at once.

    Returns
    -------
    Encoded
        Tensors on the CPU.

    Raises
    ------
    ValueError
        For pictures of another size, and where something is missing that the encoder needs.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.encoders import encode_images, make_encoder
    >>> images = np.zeros((5, 64, 32, 3), np.uint8)
    >>> tuple(encode_images(make_encoder("global", 10).eval(), images).features.shape)
    (5, 128)
    """
    ids = np.zeros(len(images), np.int64)
    pictures = Pictures(images, ids, keypoints=keypoints, masks=masks, part_names=encoder.part_names)
    size = images.shape[1], images.shape[2]
    if encoder.image_size not in (None, size):
        raise ValueError(f"images must be of {encoder.image_size}, height and width of the encoder's, received {size}")
    if missing := sorted(encoder.needs - {"attributes"} - pictures.given()):
        raise ValueError(f"{type(encoder).__name__} needs {' and '.join(missing)} of every picture")
    device = next(encoder.parameters()).device
    step = check_count(batch_size, "batch_size", 1)
    found: list[Encoded] = []
    with torch.no_grad():
        for start in range(0, max(1, len(images)), step):
            batch = pictures.take(slice(start, start + step))
            given = [None if each is None else each.to(device) for each in (batch.keypoints, batch.masks)]
            made = encoder(batch.images.to(device), *given)
            kept = made if maps else made._replace(maps=None)
            found.append(Encoded(*(None if each is None else each.cpu() for each in kept)))
    joined = zip(*found, strict=True)
    return Encoded(*(None if parts[0] is None else torch.cat(parts) for parts in joined))
