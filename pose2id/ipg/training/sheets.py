"""Sheets of what the generator draws while it is trained: some people in some poses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from PIL import Image

from pose2id.images import draw_sheet
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.objective import TRAINED
from pose2id.ipg.training.recipe import Settings
from pose2id.ipg.training.records import Record
from pose2id.poses import representative_poses

__all__ = ["draw_validation", "drawing_mode"]

_COLUMNS = 8


@contextmanager
def drawing_mode(pipe: IPGPipeline) -> Iterator[None]:
    """While inside, trained modules are in evaluation mode and the pipeline shows no bar."""
    bar = getattr(pipe, "_progress_bar_config", {})
    pipe.set_progress_bar_config(disable=True)
    for name in TRAINED:
        getattr(pipe, name).eval()
    try:
        yield
    finally:
        for name in TRAINED:
            getattr(pipe, name).train()
        pipe.set_progress_bar_config(**bar)


def draw_validation(pipe: IPGPipeline, people: Sequence[Record], settings: Settings) -> Image.Image:
    """A sheet: a row with up to 8 poses, then a row for each person, the reference and it drawn in these poses.

    The poses are those of the people, or the representative ones if they have none.
    """
    poses = [person.pose for person in people if person.pose is not None][:_COLUMNS] or list(representative_poses())
    references = [Image.fromarray(person.read()) for person in people]
    drawn = pipe(
        references,
        poses,
        height=settings.height,
        width=settings.width,
        num_inference_steps=settings.validation_steps,
        guidance_scale=settings.validation_guidance,
        seed=settings.seed,
        return_dict=False,
    )
    rows = [[reference, *pictures] for reference, pictures in zip(references, drawn[0], strict=True)]
    return draw_sheet([[None, *(pose.draw() for pose in poses)], *rows], (settings.width, settings.height))
