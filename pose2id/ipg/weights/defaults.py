"""What a generator draws with unless a call says otherwise: size, steps and guidance, kept in its model_index.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from pose2id.validation import check_count, check_number


class Defaults(NamedTuple):
    """The defaults of a generator; those of the released weights where none are given.

    Attributes
    ----------
    sample_size : (int, int)
        Height and width of the pictures that the weights were trained on, in pixels.
    num_inference_steps : int
        DDIM steps.
    guidance_scale : float
        Classifier-free guidance.
    """

    sample_size: tuple[int, int] = (512, 256)
    num_inference_steps: int = 20
    guidance_scale: float = 3.5


RELEASED = Defaults()


def read_defaults(source: str | os.PathLike[str]) -> Defaults:
    """The defaults of a folder of `save_pretrained`; of anything else those of the released weights.

    Raises
    ------
    ValueError
        For a damaged model_index.json, and for one that holds sizes or numbers that cannot be.

    Examples
    --------
    >>> from pose2id.ipg.weights import read_defaults, tiny_folder
    >>> read_defaults(tiny_folder())
    Defaults(sample_size=(64, 32), num_inference_steps=10, guidance_scale=2.0)
    """
    index = Path(source, "model_index.json")
    if not index.is_file():
        return RELEASED
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it must hold an object, not a {type(content).__name__}")
    except ValueError as error:
        raise ValueError(f"{index} is damaged: {error}; give another folder") from error
    given = {name: content[name] for name in Defaults._fields if content.get(name) is not None}
    try:
        return check_defaults(*RELEASED._replace(**given))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{index}: {error}; mend it") from error


def check_defaults(sample_size: Any, num_inference_steps: Any, guidance_scale: Any) -> Defaults:
    """Defaults of the right kinds; TypeError or ValueError for what cannot be."""
    if not isinstance(sample_size, (list, tuple)) or len(sample_size) != 2:
        raise ValueError(f"sample_size must be [height, width] in pixels, received {sample_size!r}")
    height, width = (check_count(side, "sample_size", 1) for side in sample_size)
    steps = check_count(num_inference_steps, "num_inference_steps", 1)
    return Defaults((height, width), steps, check_number(guidance_scale, "guidance_scale"))
