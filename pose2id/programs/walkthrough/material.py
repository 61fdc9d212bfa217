"""What the tables are made from: people, pictures of them, generated and real, and encoders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pose2id.ipg import IPGPipeline, bars
from pose2id.ipg.networks import SmallEncoder
from pose2id.ipg.training.encoder import encode_images, train_encoder
from pose2id.progress import tqdm
from pose2id.synthetic import SyntheticSet, make_set

TRAINED = range(2000, 4000)
"""Identities of the generator and of its encoder, seed 0; see ``data/tiny.toml``."""
VALIDATION = range(5000, 5100)
"""Identities on which eta was chosen, by ``pytest benchmarks/test_synthetic.py --full``."""
TESTED = range(30)
WEAK_IDENTITIES, WEAK_STEPS = range(6000, 6100), 200
PRESET = "balanced"
ETAS = {"strong": 0.5, "weak": 8.0, "untrained": 8.0, "raw pixels": 8.0}
"""Strong and weak: chosen on `VALIDATION` with `PRESET` out of 0.25 to 8; the others as weak."""
BATCHES = 4
"""In a call of the pipeline, which computes once what is equal for all people of a call."""

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Encoder = Callable[[Images], Features]


@dataclass(frozen=True, eq=False)
class EncodedPictures:
    """Features of one encoder: of the pictures (N, D), of generated ones (N, M, D), and of controls in their place."""

    features: Features
    generated: Features
    mirrored: Features
    augmented: Features
    real: Features


def make_people(
    ids: Iterable[int] = TESTED, *, world: int = 0, height: int = 64, width: int = 32, progress: bool = False
) -> tuple[SyntheticSet, int]:
    """Held-out people: ten pictures of each, six queries and four for the gallery.

    Each of the six cameras takes a query. The first four take a second picture, which is in the gallery.

    Parameters
    ----------
    ids : iterable of int
        Numbers of the people.
    world : int
        Seed of people and cameras. The tiny generator was trained on other people of world 0.
    height, width : int
        Of the pictures, in pixels.
    progress : bool
        A bar on stderr.

    Returns
    -------
    SyntheticSet, int
        The pictures, queries first, and how many of them are queries.

    Raises
    ------
    TypeError, ValueError
        As `pose2id.synthetic.make_set`.

    Examples
    --------
    >>> from pose2id.programs.walkthrough import make_people
    >>> people, queries = make_people(range(2))
    >>> people.images.shape, queries
    ((20, 64, 32, 3), 12)
    """
    people = make_set(ids, seed=world, cams=6, per_cam=2, height=height, width=width, progress=progress)
    shot = np.arange(len(people)) % 2
    query, gallery = np.flatnonzero(shot == 0), np.flatnonzero((shot == 1) & (people.cams < 4))
    return people.select(np.concatenate([query, gallery])), len(query)


def draw_people(
    pipe: IPGPipeline,
    people: SyntheticSet,
    poses: Sequence[Any] | None = None,
    *,
    preset: str | None = PRESET,
    steps: int | None = None,
    guidance: float | None = None,
    seed: int = 0,
    keys: Sequence[int] | None = None,
    batch_size: int = 32,
    progress: bool = False,
) -> Images:
    """Draw the person of every picture in every pose.

    Parameters
    ----------
    pipe : IPGPipeline
    people : SyntheticSet
        N pictures.
    poses, preset, steps, guidance, seed, batch_size
        As `IPGPipeline` takes them; None stands for the 8 representative poses, and for its own numbers.
    keys : sequence of int, optional
        What the noise of each picture depends on besides the seed, where it is not shared; None: its place.
    progress : bool
        A bar on stderr.

    Returns
    -------
    (N, M, H, W, 3) array of uint8
        Of the pipeline's own size.

    Raises
    ------
    TypeError, ValueError
        As a call of `IPGPipeline`.

    Examples
    --------
    >>> from pose2id.ipg import IPGPipeline
    >>> from pose2id.programs.walkthrough import draw_people, make_people
    >>> pipe = IPGPipeline.from_pretrained("tiny")
    >>> draw_people(pipe, make_people([0])[0].select([0]), steps=1).shape
    (1, 8, 64, 32, 3)
    """
    keys = range(len(people)) if keys is None else keys
    chunk = BATCHES * max(1, batch_size // (8 if poses is None else len(poses)))
    rows: list[Any] = []
    for start in tqdm(range(0, len(people), chunk), desc="generating", unit="call", disable=not progress):
        images = [Image.fromarray(image) for image in people.images[start : start + chunk]]
        with bars.hide():  # one for all
            drawn: Any = pipe(
                images,
                poses,
                preset=preset,
                num_inference_steps=steps,
                guidance_scale=guidance,
                seed=seed,
                output_type="np",
                batch_size=batch_size,
                reference_keys=[int(key) for key in keys[start : start + chunk]],
                return_dict=False,
            )[0]
        rows.append((drawn * 255).round().astype(np.uint8))
    return np.concatenate(rows)


class _Ablated(IPGPipeline):
    """Remembers less of a person."""

    tokens = reference = False

    def build_memory(self, image: Any, height: int, width: int) -> Any:
        seen = self.identity_tokens(None if self.tokens else image)
        bank = None if self.reference else self.reference_bank(self.reference_latents(image, height, width), seen)
        return self.project_memory(bank, seen)


def switch_off(pipe: IPGPipeline, *, tokens: bool = False, reference: bool = False) -> IPGPipeline:
    """The same generator, that does not see the identity tokens, or the reference network's hidden states."""
    ablated = _Ablated(**pipe.components, **pipe.defaults._asdict())
    ablated.tokens, ablated.reference = tokens, reference
    return ablated


def make_encoders(pipe: IPGPipeline, *, seed: int = 0, progress: bool = False) -> dict[str, Encoder]:
    """Four encoders: the generator's own, one that was trained for seconds, one that was not trained, and pixels."""
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
    flat = images.reshape(-1, *images.shape[-3:])
    return encode_images(network, flat).reshape(*images.shape[:-3], -1)


def _shrink(images: Images) -> Features:
    """Pixels as a feature: means of squares of 4 x 4."""
    *lead, height, width, _ = images.shape
    squares = images.astype(np.float32).reshape(*lead, height // 4, 4, width // 4, 4, 3)
    means: Features = squares.mean((-2, -4)).reshape(*lead, -1) - 127.5
    return means


def make_other_pictures(people: SyntheticSet, queries: int, count: int = 8, *, world: int = 0, seed: int = 0) -> Images:
    """For comparison: other camera pictures of the same people, (N, count, H, W, 3), in place of generated ones.

    Those of the first `queries` rows and those of the others are different pictures. `count` is at most 12.
    """
    height, width = people.images.shape[1:3]
    shots = make_set(np.unique(people.ids), seed=world, cams=6, per_cam=6, height=height, width=width)
    rng = np.random.default_rng(seed)
    number = np.arange(len(shots)) % 6  # 0 and 1 are the pictures of `make_people` themselves
    chosen = []
    for row, who in enumerate(people.ids):
        fresh = np.isin(number, (2, 3) if row < queries else (4, 5)) & (shots.ids == who)
        chosen.append(rng.choice(np.flatnonzero(fresh), count, replace=False))
    return np.stack([shots.images[rows] for rows in chosen])


def augment(images: Images, count: int = 8, *, seed: int = 0) -> Images:
    """Plain augmentations of each picture: mirrored, shifted, brighter or darker, (N, count, H, W, 3)."""
    rng = np.random.default_rng(seed)
    n, height, width, _ = images.shape
    augmented = np.empty((n, count, height, width, 3), np.uint8)
    padded = np.pad(images, ((0, 0), (4, 4), (2, 2), (0, 0)), mode="edge")
    for i in range(n):
        for j in range(count):
            top, left = rng.integers(9), rng.integers(5)
            shifted = padded[i, top : top + height, left : left + width] * rng.uniform(0.8, 1.2, 3)
            augmented[i, j] = np.clip(shifted[:, ::-1] if j % 2 else shifted, 0, 255)
    return augmented


def encode_all(
    encoder: Encoder, people: SyntheticSet, generated: Images, augmented: Images, real: Images
) -> EncodedPictures:
    """What one encoder makes of all these pictures."""
    mirrored = np.ascontiguousarray(people.images[:, :, ::-1])
    return EncodedPictures(*(encoder(images) for images in (people.images, generated, mirrored, augmented, real)))
