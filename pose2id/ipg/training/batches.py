"""The batches of a training: pairs of a reference and a target, drawn from the records.

What a batch holds is a function of the seed and the batch's number alone, so a run that was killed goes on with the
batches that it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pose2id.ipg.inputs import read_pixels
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.recipe import Settings
from pose2id.ipg.training.records import Record, find_people
from pose2id.training.erasing import erase


@dataclass(frozen=True, eq=False)  # comparing tensors with == has no single truth value
class Batch:
    """B pairs of a reference and a target; the first B - K have no condition, so their references are not read."""

    references: torch.Tensor  # (K, 3, H, W), float32 in [0, 1], mirrored and erased
    encoder_input: torch.Tensor  # (K, 3, h, w): the same, as the identity encoder wants them
    targets: list[int]  # B rows of the records
    pose_maps: torch.Tensor  # (B, 3, H, W), float32 in [0, 1]
    tokenless: torch.Tensor  # (K,), bool: the references that have the tokens of the all-zero image
    target_pixels: torch.Tensor | None  # (B, 3, H, W); None where the targets' latents are kept
    seed: int  # of the noise


class Batches:
    """Batches of a stage of training, made of records; with `Settings.cache` pictures and pose maps stay in memory."""

    def __init__(self, pipe: IPGPipeline, records: Sequence[Record], settings: Settings) -> None:
        self.records, self.settings = records, settings
        self._preprocess = pipe.identity_encoder.preprocess
        self.people = find_people(records)
        self.unconditional = torch.zeros_like(self._preprocess([Image.new("RGB", (8, 16))]))
        self.target_rows = sorted(row for _, targets in self.people for row in targets)
        used = sorted({row for pair in self.people for rows in pair for row in rows})
        self._pictures = {row: records[row].read() for row in used} if settings.cache else {}
        self._pose_maps = {row: self._draw_pose(row) for row in self.target_rows} if settings.cache else {}

    def pixels(self, row: int) -> torch.Tensor:
        """A record's picture (3, H, W), float32 in [0, 1]."""
        return read_pixels(Image.fromarray(self._read(row)), self.settings.height, self.settings.width)

    def make(self, key: Sequence[int]) -> Batch:
        """The batch that belongs to these numbers, such as step and process."""
        settings = self.settings
        rng = np.random.default_rng([settings.seed, *key])
        alone = int(rng.binomial(settings.batch_size, settings.condition_drop))
        pairs = [self._pair(rng) for _ in range(settings.batch_size)]
        pictures = [self._augment(reference, rng) for reference, _ in pairs[alone:]]
        references, encoder_input = torch.zeros(0, 3, settings.height, settings.width), self.unconditional[:0]
        if pictures:
            references = torch.stack([read_pixels(picture, settings.height, settings.width) for picture in pictures])
            encoder_input = self._preprocess(pictures)
        targets = [target for _, target in pairs]
        pose_maps = [self._pose_maps[row] if row in self._pose_maps else self._draw_pose(row) for row in targets]
        return Batch(
            references=references,
            encoder_input=encoder_input,
            targets=targets,
            pose_maps=torch.stack(pose_maps).float() / 255,
            tokenless=torch.from_numpy(rng.random(len(pictures)) < settings.token_drop),
            target_pixels=None if settings.cache else torch.stack([self.pixels(row) for row in targets]),
            seed=int(rng.integers(2**63)),
        )

    def _pair(self, rng: np.random.Generator) -> tuple[int, int]:
        """A random identity's random reference and random target: two pictures, or the same one twice."""
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

    def _augment(self, row: int, rng: np.random.Generator) -> Image.Image:
        """A record's picture, mirrored and with a rectangle erased, each with its probability."""
        picture = self._read(row)
        if rng.random() < self.settings.flip:
            picture = picture[:, ::-1]
        if rng.random() < self.settings.erase:
            picture = erase(picture, rng)
        return Image.fromarray(np.ascontiguousarray(picture))

    def _draw_pose(self, row: int) -> torch.Tensor:
        """The pose of a target as the pipeline would draw it, (3, H, W), uint8."""
        pose: Any = self.records[row].pose  # targets have one
        pixels = read_pixels(pose.draw(), self.settings.height, self.settings.width)
        return (pixels * 255).round().to(torch.uint8)
