"""What the tables are made from: people, pictures of them, generated and real, and encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pose2id.synthetic import SyntheticSet, make_set

if TYPE_CHECKING:
    from pose2id.ipg.pipeline import IPGPipeline

__all__ = [
    "Encoder",
    "Features",
    "Images",
    "Views",
    "draw_people",
    "encode",
    "make_encoders",
    "make_people",
    "make_real_views",
    "switch_off",
    "view_features",
]

TRAINED = range(2000, 4000)
"""Identities of the generator and of its encoder, seed 0; see ``data/tiny.toml``."""
VALIDATION = range(5000, 5100)
"""Identities for the choice of guidance and eta."""
TESTED = range(30)
GUIDANCE = 2.0
"""Chosen on `VALIDATION`."""
STEPS = 10
WEAK_IDENTITIES, WEAK_STEPS = range(6000, 6100), 200

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Encoder = Callable[[Images], Features]


@dataclass(frozen=True, eq=False)
class Views:
    """Features of one encoder: of the pictures (N, D), of what was generated (N, M, D), and of controls."""

    features: Features
    generated: Features
    mirrored: Features
    augmented: Features
    real: Features


def make_people(ids: Iterable[int] = TESTED, *, world: int = 0, progress: bool = False) -> tuple[SyntheticSet, int]:
    """Held-out people: ten pictures of each, queries first, and the number of queries.

    The six cameras have two shots each; the first shot is a query, the second is in the gallery, but the last two
    cameras have no second one. `world` is the seed of people and cameras; the generator was trained in world 0.
    """
    people = make_set(ids, seed=world, cams=6, per_cam=2, progress=progress)
    shot = np.arange(len(people)) % 2
    query, gallery = np.flatnonzero(shot == 0), np.flatnonzero((shot == 1) & (people.cams < 4))
    return people.select(np.concatenate([query, gallery])), len(query)


def draw_people(
    pipe: IPGPipeline,
    people: SyntheticSet,
    poses: Sequence[Any] | None = None,
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    seed: int = 42,
    batch_size: int = 32,
    progress: bool = False,
) -> Images:
    """Every person in every pose, (N, M, H, W, 3); noise by the place in the set."""
    from PIL import Image
    from tqdm import tqdm

    pipe.set_progress_bar_config(disable=True)
    chunk = max(1, batch_size // 8)
    rows: list[Any] = []
    for start in tqdm(range(0, len(people), chunk), desc="generating", unit="batch", disable=not progress):
        images = [Image.fromarray(image) for image in people.images[start : start + chunk]]
        keys = list(range(start, start + len(images)))
        drawn: Any = pipe(
            images,
            poses,
            num_inference_steps=steps,
            guidance_scale=guidance,
            seed=seed,
            output_type="np",
            batch_size=batch_size,
            reference_keys=keys,
            return_dict=False,
        )[0]
        rows.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(rows)


def switch_off(pipe: IPGPipeline, *, tokens: bool = False, reference: bool = False) -> IPGPipeline:
    """The same generator, that does not see the identity tokens, or the reference network's hidden states."""
    from pose2id.ipg.pipeline import IPGPipeline

    class Ablated(IPGPipeline):
        """Remembers less of a person."""

        def remember(self, image: Any, height: int, width: int) -> Any:
            seen = self.identity_tokens(None if tokens else image)
            bank = None if reference else self.reference_bank(self.reference_latents(image, height, width), seen)
            return self._project(bank, seen)

    return Ablated(**pipe.components, sample_size=pipe.config.sample_size)


def make_encoders(pipe: IPGPipeline, *, seed: int = 0, progress: bool = False) -> dict[str, Encoder]:
    """Four encoders: the generator's own, one that was trained for seconds, one that was not trained, and pixels."""
    import torch

    from pose2id.ipg.encoder_training import train_encoder
    from pose2id.ipg.small import SmallEncoder

    few = make_set(WEAK_IDENTITIES, seed=0, per_cam=1, progress=progress)
    weak = train_encoder(few.images, few.ids, steps=WEAK_STEPS, seed=seed, progress=progress)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = SmallEncoder(img_size=pipe.identity_encoder.config.img_size).eval()
    networks = {"strong": pipe.identity_encoder, "weak": weak, "untrained": untrained}
    encoders: dict[str, Encoder] = {name: partial(encode, network) for name, network in networks.items()}
    return encoders | {"raw pixels": _shrink}


def encode(network: Any, images: Images) -> Features:
    """Features of pictures with any number of leading axes, (..., H, W, 3), by a `SmallEncoder`."""
    from pose2id.ipg.encoder_training import encode_images

    flat = images.reshape(-1, *images.shape[-3:])
    return encode_images(network, flat).reshape(*images.shape[:-3], -1)


def _shrink(images: Images) -> Features:
    """Pixels as a feature: means of squares of 4 x 4."""
    *lead, height, width, _ = images.shape
    squares = images.astype(np.float32).reshape(*lead, height // 4, 4, width // 4, 4, 3)
    means: Features = squares.mean((-2, -4)).reshape(*lead, -1) - 127.5
    return means


def make_real_views(people: SyntheticSet, count: int = 8, *, world: int = 0, seed: int = 0) -> Images:
    """As an upper bound: other pictures of the same people, (N, count, H, W, 3), as if the generator were perfect."""
    height, width = people.images.shape[1:3]
    shots = make_set(np.unique(people.ids), seed=world, cams=6, per_cam=4, height=height, width=width)
    rng = np.random.default_rng(seed)
    fresh = np.arange(len(shots)) % 4 >= 2  # the first two shots are the pictures themselves
    return np.stack([shots.images[rng.choice(np.flatnonzero(fresh & (shots.ids == who)), count)] for who in people.ids])


def _augment(images: Images, count: int = 8, *, seed: int = 0) -> Images:
    """Plain augmentations of each picture: mirrored, shifted, brighter or darker, (N, count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    n, height, width, _ = images.shape
    views = np.empty((n, count, height, width, 3), np.uint8)
    padded = np.pad(images, ((0, 0), (4, 4), (2, 2), (0, 0)), mode="edge")
    for i in range(n):
        for j in range(count):
            top, left = rng.integers(9), rng.integers(5)
            view = padded[i, top : top + height, left : left + width] * rng.uniform(0.8, 1.2, 3)
            views[i, j] = np.clip(view[:, ::-1] if j % 2 else view, 0, 255)
    return views


def view_features(encoder: Encoder, people: SyntheticSet, generated: Images, real: Images) -> Views:
    """What one encoder makes of all these pictures."""
    return Views(
        features=encoder(people.images),
        generated=encoder(generated),
        mirrored=encoder(np.ascontiguousarray(people.images[:, :, ::-1])),
        augmented=encoder(_augment(people.images)),
        real=encoder(real),
    )
