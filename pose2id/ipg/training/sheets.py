"""Sheets of people that a generator draws while it is trained."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from pose2id.images import draw_sheet
from pose2id.ipg import bars
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.objective import TRAINED
from pose2id.ipg.training.recipe import Settings
from pose2id.ipg.training.records import Record
from pose2id.poses import representative_poses

_COLUMNS = 8


def draw_validation(pipe: IPGPipeline, people: Sequence[Record], settings: Settings) -> Image.Image:
    """A sheet: a row of poses, those of up to 8 of the people, and a row for each person, drawn in these poses."""
    poses = [person.pose for person in people if person.pose is not None][:_COLUMNS] or list(representative_poses())
    references = [Image.fromarray(person.read()) for person in people]
    for name in TRAINED:
        getattr(pipe, name).eval()
    try:
        with bars.hide():
            drawn = pipe(
                references,
                poses,
                height=settings.height,
                width=settings.width,
                num_inference_steps=settings.validation_steps,
                guidance_scale=settings.validation_guidance,
                seed=settings.seed,
                return_dict=False,
            )[0]
    finally:
        for name in TRAINED:
            getattr(pipe, name).train()
    rows = [[reference, *pictures] for reference, pictures in zip(references, drawn, strict=True)]
    return draw_sheet([[None, *(pose.draw() for pose in poses)], *rows], (settings.width, settings.height))
