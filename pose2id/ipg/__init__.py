"""The generator: draw a photographed person in other poses (Identity-Guided Pedestrian Generation).

Needs the extra `ipg`. The names below are loaded when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pose2id.errors import require

if TYPE_CHECKING:
    from pose2id.images import read_image as read_image
    from pose2id.ipg.features import generate_features as generate_features
    from pose2id.ipg.pipeline import IPGOutput as IPGOutput
    from pose2id.ipg.pipeline import IPGPipeline as IPGPipeline
    from pose2id.poses import Pose as Pose
    from pose2id.poses import representative_poses as representative_poses

_HOME = {
    "IPGOutput": "ipg.pipeline",
    "IPGPipeline": "ipg.pipeline",
    "Pose": "poses",
    "generate_features": "ipg.features",
    "read_image": "images",
    "representative_poses": "poses",
}

PACKAGES = ("PIL", "safetensors", "huggingface_hub", "accelerate", "diffusers")
"""What the pipeline imports, each before those that need it; poses and features do without."""

__all__ = ["IPGOutput", "IPGPipeline", "Pose", "generate_features", "read_image", "representative_poses"]


def require_packages(purpose: str) -> None:
    """Raise MissingExtraError, naming the package, where one that the pipeline imports is missing."""
    for package in PACKAGES:
        require(package, "ipg", purpose)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name] == "ipg.pipeline":
        require_packages(f"{__name__}.{name}")
    value = getattr(import_module(f"pose2id.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
