"""What is asked of every encoder: toy batches, where gradients go, that losses fall."""

from __future__ import annotations

import numpy as np
import torch

from pose2id.encoders import Batch, Encoder

KEYPOINTS = 18
PARTS = 7


def make_batch(identities: int = 4, shots: int = 3, size: tuple[int, int] = (32, 16), seed: int = 0) -> Batch:
    """Pictures of people who have a colour each, with noise; joints and masks somewhere, two attributes."""
    rng = np.random.default_rng(seed)
    n, (height, width) = identities * shots, size
    ids = np.repeat(np.arange(identities), shots)
    colors = rng.uniform(-1, 1, (identities, 3, 4, 1))
    images = colors[ids].repeat(height // 4, axis=2) + rng.normal(0, 0.1, (n, 3, height, width))
    joints = rng.uniform(0.1, 0.9, (n, KEYPOINTS, 2)) * (width, height)
    masks = rng.dirichlet(np.ones(PARTS + 1), (n, height, width)).transpose(0, 3, 1, 2)
    return Batch(
        images=torch.tensor(images, dtype=torch.float32),
        ids=torch.from_numpy(ids),
        keypoints=torch.tensor(np.concatenate([joints, np.ones((n, KEYPOINTS, 1))], axis=2), dtype=torch.float32),
        masks=torch.tensor(masks, dtype=torch.float32),
        attributes=torch.from_numpy(np.stack([ids % 2, ids % 3], axis=1)),
    )


def reached(encoder: Encoder, batch: Batch, term: str | None = None) -> set[str]:
    """The parameters that get a gradient other than 0, of the sum of the loss or of one term."""
    encoder.zero_grad()
    terms = encoder.loss(batch)
    loss: torch.Tensor = torch.stack(list(terms.values())).sum() if term is None else terms[term]
    loss.backward()
    return {name for name, each in encoder.named_parameters() if each.grad is not None and bool(each.grad.any())}


def train(encoder: Encoder, batch: Batch, steps: int = 12, learning_rate: float = 3e-3) -> tuple[float, float]:
    """The loss before and after some steps on one batch."""
    optimizer = torch.optim.Adam([each for each in encoder.parameters() if each.requires_grad], lr=learning_rate)
    losses = []
    for _ in range(steps + 1):
        loss = torch.stack(list(encoder.loss(batch).values())).sum()
        losses.append(float(loss.detach()))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return losses[0], losses[-1]


def depends_on_the_picture_only(encoder: Encoder, batch: Batch) -> None:
    """Evaluated, a picture has the features that it has alone."""
    encoder.eval()
    with torch.no_grad():
        together = encoder(batch.images, batch.keypoints, batch.masks)
        alone = encoder(batch.images[1:2], batch.keypoints[1:2], batch.masks[1:2])
    for all_of_them, one in zip(together, alone, strict=True):
        assert (all_of_them is None) == (one is None)
        if one is not None:
            torch.testing.assert_close(all_of_them[1:2], one, rtol=1e-4, atol=1e-5)
