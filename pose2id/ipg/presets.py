"""How pictures are drawn: number of steps, guidance, whose noise; named settings of these. Loads no torch."""

from __future__ import annotations

from typing import Any, NamedTuple

from pose2id.validation import check_choice, check_count, check_flag, check_number


class Drawing(NamedTuple):
    """What a call of the pipeline draws with; see `IPGPipeline`, whose arguments these are."""

    num_inference_steps: int
    guidance_scale: float
    guidance_rescale: float = 0.0
    guidance_start: float = 0.0
    guidance_stop: float = 1.0
    shared_noise: bool = False

    def guided(self, step: int) -> bool:
        """Whether a step, counted from 0, has guidance, by the rule of diffusers' guiders."""
        first, end = (
            int(share * self.num_inference_steps + 1e-9) for share in (self.guidance_start, self.guidance_stop)
        )
        return self.guidance_scale > 1 and first <= step < end

    @property
    def rows(self) -> int:
        """Rows of the denoiser for a picture, where none is shared."""
        return sum(1 + self.guided(step) for step in range(self.num_inference_steps))


SHARED_BATCHES = 16
"""In a call of the pipeline with shared noise: its first unconditional rows are shared, its pictures all in memory."""

PRESETS = {
    "published": Drawing(20, 3.5),
    "balanced": Drawing(4, 2.0, shared_noise=True),
    "fast": Drawing(2, 2.0, shared_noise=True),
    "draft": Drawing(1, 1.0),
}
"""What the paper draws with, and cheaper ones; docs/generator.md says what each costs and brings."""


def choose_drawing(preset: str | None, own: Drawing, **given: Any) -> Drawing:
    """Those of a preset, for None the weights' `own`, but for what is `given` and not None; checked.

    TypeError or ValueError for what cannot be.

    Examples
    --------
    >>> from pose2id.ipg.presets import PRESETS, choose_drawing
    >>> choose_drawing("balanced", PRESETS["published"], num_inference_steps=3, guidance_scale=None)[:2]
    (3, 2.0)
    """
    chosen = own if preset is None else PRESETS[check_choice(preset, "preset", tuple(PRESETS))]
    return check_drawing(chosen._replace(**{name: value for name, value in given.items() if value is not None}))


def check_drawing(drawing: Drawing) -> Drawing:
    """The same, of plain kinds; TypeError or ValueError for what cannot be."""
    steps = check_count(drawing.num_inference_steps, "num_inference_steps", 1)
    scale = check_number(drawing.guidance_scale, "guidance_scale")
    rescale, start, stop = (
        check_number(getattr(drawing, name), name, 0, 1)
        for name in ("guidance_rescale", "guidance_start", "guidance_stop")
    )
    if start > stop:
        raise ValueError(f"guidance_start must be at most guidance_stop, received {start} and {stop}")
    return Drawing(steps, scale, rescale, start, stop, check_flag(drawing.shared_noise, "shared_noise"))
