"""Training of the small identity encoder: identities as classes, and the hardest triplets of every batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from pose2id.ipg.networks import SmallEncoder
from pose2id.progress import tqdm
from pose2id.training.erasing import draw_rectangle
from pose2id.validation import check_count, check_number, take_labels

MARGIN = 0.3
SMOOTHING = 0.1
WARMUP = 50


def train_encoder(
    images: NDArray[np.uint8],
    ids: Any,
    *,
    steps: int = 3000,
    identities: int = 16,
    shots: int = 4,
    learning_rate: float = 2e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    progress: bool = False,
    **sizes: Any,
) -> SmallEncoder:
    """Train an encoder on pictures of known identities.

    Every batch has some pictures of each of some identities. The loss is cross-entropy over the identities (behind a
    batch normalisation, with label smoothing) plus the triplet loss of the hardest positive and negative in the batch
    (margin 0.3); pictures are mirrored and partly erased at random. AdamW, cosine decay.

    Parameters
    ----------
    images : ndarray of uint8, shape (N, H, W, 3)
        RGB.
    ids : array_like, shape (N,)
        Integers or strings; at least two different ones.
    steps : int
        Batches.
    identities, shots : int
        Identities in a batch, pictures of each.
    learning_rate, weight_decay : float
        Of AdamW.
    seed : int
        The result depends on it, on the pictures and on the machine, on nothing else.
    progress : bool
        A bar on stderr.
    **sizes
        `channels`, `stripes`, `out_features` of `SmallEncoder`.

    Returns
    -------
    SmallEncoder
        In eval mode, without gradients.

    References
    ----------
    H. Luo and others, Bag of Tricks and a Strong Baseline for Deep Person Re-Identification, CVPR workshops 2019;
    A. Hermans and others, In Defense of the Triplet Loss for Person Re-Identification, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.ipg.training.encoder import encode_images, train_encoder
    >>> images = np.random.default_rng(0).integers(0, 256, (8, 16, 8, 3), dtype=np.uint8)
    >>> encoder = train_encoder(images, [0, 0, 0, 0, 1, 1, 1, 1], steps=2, out_features=16)
    >>> encode_images(encoder, images).shape
    (8, 16)
    """
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        what = f"{images.dtype} of {images.shape}" if isinstance(images, np.ndarray) else type(images).__name__
        raise ValueError(f"images must be an array of uint8 of shape (N, H, W, 3), received {what}")
    names, labels = np.unique(take_labels(ids, len(images), "ids"), return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"ids must hold at least two identities, received {len(names)}")
    steps, shots = check_count(steps, "steps", 1), check_count(shots, "shots", 2)
    identities = min(check_count(identities, "identities", 2), len(names))
    learning_rate = check_number(learning_rate, "learning_rate")

    generator = np.random.default_rng(seed)
    members = [np.flatnonzero(labels == label) for label in range(len(names))]
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    targets = torch.arange(identities).repeat_interleave(shots)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = SmallEncoder(img_size=images.shape[1:3], **sizes)
        classify = nn.Linear(encoder.config.out_features, len(names), bias=False)
    modules = nn.ModuleList([encoder, classify]).train()
    # A third faster on CPUs; but with fewer than 8 channels torch 2.13 writes beyond its memory in this layout.
    layout = torch.channels_last if min(encoder.config.channels) >= 8 else torch.contiguous_format
    encoder.to(memory_format=layout)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=learning_rate, weight_decay=weight_decay)
    for step in tqdm(range(steps), desc="training the encoder", unit="step", disable=not progress):
        share = 0.5 + 0.5 * math.cos(math.pi * step / steps)
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / WARMUP) * share
        chosen = generator.choice(len(names), identities, replace=False)
        rows = np.concatenate([generator.choice(members[i], shots, replace=len(members[i]) < shots) for i in chosen])
        features = encoder.project(_augment(pixels[torch.from_numpy(rows)], generator).contiguous(memory_format=layout))
        logits = classify(encoder.neck(features))
        classes = torch.from_numpy(chosen).repeat_interleave(shots)
        loss = functional.cross_entropy(logits, classes, label_smoothing=SMOOTHING) + _triplet_loss(features, targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return encoder.to(memory_format=torch.contiguous_format).eval().requires_grad_(False)


def _augment(pixels: torch.Tensor, generator: np.random.Generator) -> torch.Tensor:
    """uint8 (N, 3, H, W) as the encoder's input; half of them mirrored, half of them with a patch of noise."""
    images = pixels.float() / 127.5 - 1
    n, _, height, width = images.shape
    mirrored = torch.from_numpy(generator.random(n) < 0.5)
    images[mirrored] = images[mirrored].flip(3)
    for i in np.flatnonzero(generator.random(n) < 0.5):
        area, aspect = generator.uniform(0.02, 0.3), float(np.exp(generator.uniform(-1.2, 1.2)))
        rows, columns = draw_rectangle(height, width, area, aspect, generator, rounded=math.ceil)
        patch = images[i, :, rows, columns]
        patch.copy_(torch.from_numpy(generator.standard_normal(tuple(patch.shape), np.float32)))
    return images


def _triplet_loss(features: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """For each row the farthest of its identity against the nearest of another."""
    distances = torch.cdist(features, features)
    same = targets[:, None] == targets
    farthest = distances.masked_fill(~same, -math.inf).amax(1)
    nearest = distances.masked_fill(same, math.inf).amin(1)
    return functional.relu(farthest - nearest + MARGIN).mean()


def encode_images(encoder: SmallEncoder, images: NDArray[np.uint8], *, batch_size: int = 256) -> NDArray[np.float32]:
    """Features (N, D) of pictures uint8 (N, H, W, 3) that have the encoder's size already."""
    with torch.no_grad():
        parts = (torch.from_numpy(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
        rows = [encoder(part.permute(0, 3, 1, 2).float().to(encoder.device) / 127.5 - 1) for part in parts]
    features: NDArray[np.float32] = torch.cat(rows).cpu().numpy()
    return features
