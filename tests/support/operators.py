"""`import torchvision` beside a torch for the CPU, where the wheel for CUDA cannot load its own operators."""

import importlib.util
from pathlib import Path

import torch


def declare_operators():
    """Declare what torchvision's import asks for; what does not need it works: transforms, models, roi_align.

    Where its library loads, nothing is declared. The result is to be kept: with the object the declarations would go.
    """
    spec = importlib.util.find_spec("torchvision")
    libraries = [] if spec is None else list(Path(spec.origin).parent.glob("_C*"))
    if not libraries:
        return None
    try:
        torch.ops.load_library(str(libraries[0]))
    except OSError:
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return library
    return None
