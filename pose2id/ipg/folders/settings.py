"""What decides the pictures of a folder beside references and poses: `FolderSettings`, checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from pose2id.validation import check_count, check_number

LAYOUTS = ("reference", "pose")
"""One folder for each reference, or for each pose."""


@dataclass(frozen=True)
class FolderSettings:
    """What decides the pictures of a folder, beside references and poses; one folder holds pictures of one setting.

    Attributes
    ----------
    weights : str
        Which weights these are, such as a repository with its revision or a hash.
    seed, num_inference_steps, guidance_scale, height, width, batch_size
        As for the pipeline.
    layout : {"reference", "pose"}
        "reference": ``<reference without suffix>/<pose>.png``. "pose": a folder for each pose (``pose1`` for pose
        "1") with the names of the references, as the demo of the released code reads them; JPEG (quality 95) where
        that name says JPEG, else PNG.
    dtype, device : str
        What the pipeline computes with.
    """

    weights: str
    seed: int = 42
    num_inference_steps: int = 20
    guidance_scale: float = 3.5
    height: int = 512
    width: int = 256
    batch_size: int = 8
    layout: str = "reference"
    dtype: str = "float32"
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name, low in {"seed": 0, "num_inference_steps": 1, "height": 1, "width": 1, "batch_size": 1}.items():
            object.__setattr__(self, name, check_count(getattr(self, name), name, low))
        for name in ("height", "width"):
            if getattr(self, name) % 8:
                raise ValueError(f"{name} must be a multiple of 8, received {getattr(self, name)}")
        object.__setattr__(self, "guidance_scale", check_number(self.guidance_scale, "guidance_scale"))
        if self.layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, received {self.layout!r}")
