"""Training data of the generator: records, and the batches that are drawn from them.

What a batch holds is a function of the seed and the batch's number alone, so a run that was killed goes on with the
batches that it would have had.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pose2id.errors import one_line
from pose2id.images import read_image
from pose2id.ipg.pixels import read_pixels
from pose2id.poses import Pose

if TYPE_CHECKING:
    from pose2id.ipg.pipeline import IPGPipeline
    from pose2id.ipg.training import Settings

__all__ = ["Batch", "Batches", "Record", "erase", "prefetch"]

_AREA = (0.02, 0.4)
_ASPECT = (0.3, 1 / 0.3)


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, eq=False)
class Record:
    """A photograph of a person, to train the generator on.

    Attributes
    ----------
    image : PIL image, array (H, W, 3) of uint8, or path
        `pose2id.images.read_image` reads paths.
    identity : int or str
        Who it is.
    pose : Pose or None
        Its pose; only needed for a target.
    reference, target : bool
        Whether it may stand for the person, and whether it may be what is to be drawn: the sets S_ref and S_trg of
        the paper, see `pose2id.ipg.training.cleaning`.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a target without a pose.
    """

    image: Any
    identity: int | str
    pose: Pose | None = None
    reference: bool = True
    target: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.image, np.ndarray):
            if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
                raise ValueError(
                    f"image must have shape (H, W, 3) and dtype uint8, received {self.image.shape} and "
                    f"{self.image.dtype}"
                )
        elif not isinstance(self.image, (Image.Image, str, os.PathLike)):
            raise TypeError(f"image must be a PIL image, an array or a path, received {type(self.image).__name__}")
        if isinstance(self.identity, bool) or not isinstance(self.identity, (int, np.integer, str)):
            raise TypeError(f"identity must be an integer or a string, received {type(self.identity).__name__}")
        if self.pose is not None and not isinstance(self.pose, Pose):
            raise TypeError(f"pose must be a Pose or None, received {type(self.pose).__name__}")
        if self.target and self.pose is None:
            raise ValueError(f"a target needs a pose; give one for identity {self.identity!r}, or target=False")

    def read(self) -> NDArray[np.uint8]:
        """The picture as an array (H, W, 3), RGB."""
        if isinstance(self.image, np.ndarray):
            return self.image
        image = self.image if isinstance(self.image, Image.Image) else read_image(self.image)
        return np.asarray(image.convert("RGB"))


# eq=False: see Record
@dataclass(frozen=True, eq=False)
class Batch:
    """B pairs of a reference and a target; the first B - K have no condition, so their references are not read.

    Attributes
    ----------
    references : tensor (K, 3, H, W), float32 in [0, 1]
        After flipping and erasing.
    encoder_input : tensor (K, 3, h, w)
        The same, as the identity encoder wants them.
    targets : list of int
        Rows of the records.
    drawings : tensor (B, 3, H, W), float32 in [0, 1]
    tokenless : tensor (K,), bool
    target_pixels : tensor (B, 3, H, W) or None
        None where the targets' latents are kept.
    seed : int
        Of the noise.
    """

    references: torch.Tensor
    encoder_input: torch.Tensor
    targets: list[int]
    drawings: torch.Tensor
    tokenless: torch.Tensor
    target_pixels: torch.Tensor | None
    seed: int


class Batches:
    """Batches of a stage of training.

    Parameters
    ----------
    pipe : IPGPipeline
        Its `identity_encoder` prepares pictures.
    records : sequence of Record
    settings : Settings
        Sizes, probabilities, seed, and whether pictures are kept in memory.

    Raises
    ------
    ValueError
        When no identity has both a reference and a target.
    """

    def __init__(self, pipe: IPGPipeline, records: Sequence[Record], settings: Settings) -> None:
        self.records, self.settings = records, settings
        self._preprocess = pipe.identity_encoder.preprocess
        self.people = find_people(records)
        self.nothing = torch.zeros_like(self._preprocess([Image.new("RGB", (8, 16))]))  # stands for no condition
        self._pictures: dict[int, NDArray[np.uint8]] = {}
        self._drawings: dict[int, torch.Tensor] = {}
        if settings.cache:
            for row in sorted({row for pair in self.people for rows in pair for row in rows}):
                self._pictures[row] = records[row].read()
            for row in self.target_rows:
                self._drawings[row] = self._draw(row)

    @property
    def target_rows(self) -> list[int]:
        """Records that may be targets, ascending."""
        return sorted(row for _, targets in self.people for row in targets)

    def pixels(self, row: int) -> torch.Tensor:
        """A record's picture (3, H, W), float32 in [0, 1]."""
        return read_pixels(Image.fromarray(self._read(row)), self.settings.height, self.settings.width)

    def make(self, key: Sequence[int]) -> Batch:
        """The batch that belongs to these numbers, such as step and process."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, *key])
        count = settings.batch_size
        alone = int(rng.binomial(count, settings.condition_drop))
        pairs = [self._pair(rng) for _ in range(count)]
        views = [augment(self._read(reference), rng, settings.flip, settings.erase) for reference, _ in pairs[alone:]]
        pictures = [Image.fromarray(view) for view in views]
        size = settings.height, settings.width
        targets = [target for _, target in pairs]
        drawings = [self._drawings[row] if row in self._drawings else self._draw(row) for row in targets]
        return Batch(
            references=torch.stack([read_pixels(picture, *size) for picture in pictures])
            if pictures
            else torch.zeros(0, 3, *size),
            encoder_input=self._preprocess(pictures) if pictures else self.nothing[:0],
            targets=targets,
            drawings=torch.stack(drawings).float() / 255,
            tokenless=torch.from_numpy(rng.random(len(pictures)) < settings.token_drop),
            target_pixels=None if settings.cache else torch.stack([self.pixels(row) for row in targets]),
            seed=int(rng.integers(2**63)),
        )

    def _pair(self, rng: np.random.Generator) -> tuple[int, int]:
        """A random identity's random reference and random target; two pictures if there are, or the same one twice."""
        references, targets = self.people[rng.integers(len(self.people))]
        if self.settings.same_picture and rng.random() < self.settings.same_picture:
            both = [row for row in targets if self.records[row].reference]
            if both:
                row = both[rng.integers(len(both))]
                return row, row
        reference = references[rng.integers(len(references))]
        others = [row for row in targets if row != reference] or targets
        return reference, others[rng.integers(len(others))]

    def _read(self, row: int) -> NDArray[np.uint8]:
        return self._pictures[row] if row in self._pictures else self.records[row].read()

    def _draw(self, row: int) -> torch.Tensor:
        """The pose of a record as the pipeline would draw it, (3, H, W), uint8."""
        pose = self.records[row].pose
        if pose is None:
            raise ValueError(f"record {row} is a target without a pose")
        drawing = read_pixels(pose.draw(), self.settings.height, self.settings.width)
        return (drawing * 255).round().to(torch.uint8)


def find_people(records: Sequence[Record]) -> list[tuple[list[int], list[int]]]:
    """Rows of references and of targets, for every identity that has both.

    Raises
    ------
    ValueError
        When there is none.
    """
    references: dict[Any, list[int]] = defaultdict(list)
    targets: dict[Any, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.reference:
            references[record.identity].append(row)
        if record.target:
            targets[record.identity].append(row)
    people = [(rows, targets[who]) for who, rows in references.items() if who in targets]
    if not people:
        raise ValueError(
            f"records must hold an identity with at least one reference and one target; of {len(records)} records "
            f"{sum(record.reference for record in records)} are references and "
            f"{sum(record.target for record in records)} are targets"
        )
    return people


def augment(picture: NDArray[np.uint8], rng: np.random.Generator, flip: float, erasing: float) -> NDArray[np.uint8]:
    """A picture (H, W, 3), mirrored and with a rectangle erased, each with its probability."""
    if rng.random() < flip:
        picture = picture[:, ::-1]
    if rng.random() < erasing:
        picture = erase(picture, rng)
    return np.ascontiguousarray(picture)


def erase(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A copy of a picture (H, W, 3) with random pixels in a random rectangle.

    2 to 40 per cent of the area, 0.3 to 3.3 times as high as wide (Zhong et al., "Random Erasing Data Augmentation",
    AAAI 2020); a side that is too long for the picture is cut to it.
    """
    height, width = picture.shape[:2]
    area = rng.uniform(*_AREA) * height * width
    aspect = rng.uniform(*_ASPECT)
    tall = min(height, max(1, round((area * aspect) ** 0.5)))
    wide = min(width, max(1, round((area / aspect) ** 0.5)))
    top, left = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
    changed = picture.copy()
    changed[top : top + tall, left : left + wide] = rng.integers(256, size=(tall, wide, 3), dtype=np.uint8)
    return changed


def prefetch(make: Callable[[Any], Batch], keys: Sequence[Any], workers: int) -> Generator[Batch]:
    """``make(key)`` for every key in order, made ahead by that many threads; by none for 0."""
    if not workers:
        yield from map(make, keys)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
        waiting: list[Future[Batch]] = []
        try:
            for key in keys:
                waiting.append(pool.submit(make, key))
                if len(waiting) > 2 * workers:
                    yield waiting.pop(0).result()
            while waiting:
                yield waiting.pop(0).result()
        finally:
            for future in waiting:
                future.cancel()


def check_pictures(records: Sequence[Record], *, progress: bool = False) -> None:
    """Read every picture that is a file once, so that none ends a run after days.

    Raises
    ------
    ValueError
        Naming those that cannot be read.
    """
    bad = []
    files = [record for record in records if isinstance(record.image, (str, os.PathLike))]
    for record in tqdm(files, desc="reading", unit="picture", disable=not (progress and files)):
        try:
            record.read()
        except (ValueError, OSError) as error:
            bad.append(one_line(error, 200))
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"pictures that cannot be read: {'; '.join(bad[:3])}{more}; repair them or leave them out")


def fingerprint(records: Sequence[Record]) -> str:
    """A hash of what identifies the records: identities, sets, poses, and pixels, or names and sizes of files."""
    digest = hashlib.sha256()
    paths = [Path(record.image) for record in records if isinstance(record.image, (str, os.PathLike))]
    home = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    for record in records:
        digest.update(repr((record.identity, record.reference, record.target)).encode())
        digest.update(b"" if record.pose is None else record.pose.keypoints.tobytes())
        if isinstance(record.image, (str, os.PathLike)):
            path = Path(record.image)  # below the folder that holds all, because a data set may move
            digest.update(f"{path.absolute().relative_to(home).as_posix()} {path.stat().st_size}".encode())
        else:
            digest.update(record.read().tobytes())
    return digest.hexdigest()
