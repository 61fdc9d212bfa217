"""What every encoder takes and gives: pictures and what is known of them, features of them, terms of a loss."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import nn

from pose2id.encoders.trunk import Trunk
from pose2id.validation import check_count

LARGEST = 4096
"""Of any size: what a folder may ask for before its weights are looked at."""


class Encoded(NamedTuple):
    """What an encoder makes of N pictures; None where it makes no such thing.

    Attributes
    ----------
    features : (N, D)
        As its paper compares them, by Euclidean distance.
    parts : (N, P, d)
        Not of length 1; for `pose2id.parts`.
    visibility : (N, P)
        Bools, or floats in [0, 1]; of `parts`.
    maps : (N, C, H, W)
        The trunk's, or those that `Encoder.compare` takes.
    attributes : (N, A)
        Probabilities of all classes of all attributes, one attribute after the other.
    """

    features: torch.Tensor | None = None
    parts: torch.Tensor | None = None
    visibility: torch.Tensor | None = None
    maps: torch.Tensor | None = None
    attributes: torch.Tensor | None = None


class Batch(NamedTuple):
    """Pictures to learn from: some of each of some people, one after the other.

    Attributes
    ----------
    images : (N, 3, H, W) float32
        RGB in [-1, 1].
    ids : (N,) int64
        Classes, from 0.
    keypoints : (N, 18, 3) float32, or None
        x, y in pixels and confidence, in the order of `pose2id.poses.KEYPOINTS`.
    masks : (N, K + 1, H, W) float32, or None
        Probabilities of the background, channel 0, and of K parts.
    attributes : (N, A) int64, or None
        The class of each attribute, from 0; -1 where unknown.
    """

    images: torch.Tensor
    ids: torch.Tensor
    keypoints: torch.Tensor | None = None
    masks: torch.Tensor | None = None
    attributes: torch.Tensor | None = None


class Stage(NamedTuple):
    """A part of a training, see `Encoder.stages`. Each begins with a new optimiser, warm-up and cosine.

    Attributes
    ----------
    name : str
        What `Encoder.stage` is while it is trained.
    share : float
        Of the steps, in proportion to those of the other stages.
    trains : tuple of str
        How the names of the parameters begin that learn; all others are frozen, and the running statistics of modules
        without any that learns. "" begins every name.
    rate : float
        Times the learning rate that is set.
    """

    name: str = "all"
    share: float = 1.0
    trains: tuple[str, ...] = ("",)
    rate: float = 1.0


class Encoder(nn.Module):
    """A trunk and the head of one system on it.

    Parameters
    ----------
    classes : int
        Identities that it is trained on.
    trunk : Trunk
        Shared structure; every system has one of its own.
    **sizes
        Each system has its own, given by keyword and such as JSON can hold: a folder remembers them. One that needs
        "attributes" has the size `attributes`, how many classes each attribute has.

    Attributes
    ----------
    sizes : dict
        The keywords that it was made with.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What `forward` cannot do without: of "keypoints" and "masks"; "attributes" for `loss`."""
    pairwise: ClassVar[bool] = False
    """Whether it compares pairs, `compare`, which costs too much for more than a shortlist."""
    sized: ClassVar[bool] = False
    """Whether it has the size `size`, height and width, and takes no other pictures."""
    stage: str | None = None
    """The name of the stage that is trained; None when it is done."""
    image_size: tuple[int, int] | None = None
    """Height and width of the pictures that it was trained on."""
    part_names: tuple[str, ...] = ()
    """Of the masks that it was trained with, from channel 1."""
    sizes: dict[str, Any]

    def __new__(cls, *_given: Any, **sizes: Any) -> Self:
        """Remember the sizes, whatever the system makes of them."""
        made = super().__new__(cls)
        made.__dict__["sizes"] = sizes
        return made

    def __init__(self, classes: int, trunk: Trunk) -> None:
        super().__init__()
        self.classes, self.trunk = classes, trunk

    def forward(
        self, images: torch.Tensor, keypoints: torch.Tensor | None = None, masks: torch.Tensor | None = None
    ) -> Encoded:
        """Images (N, 3, H, W), and what `needs` names as in `Batch`, as features."""
        raise NotImplementedError

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms that are added up, each weighted already; by name, for reports."""
        raise NotImplementedError

    def stages(self) -> tuple[Stage, ...]:
        """The parts of its training, one after the other; `forward` and `loss` may ask for `stage`."""
        return (Stage(),)

    def start_from(self, trunk: Trunk) -> None:
        """Begin with the weights of a trained trunk of the same sizes; copies of the trunk's stages begin so too."""
        self.trunk.load_state_dict(trunk.state_dict())

    def take(self, name: str, given: torch.Tensor | None) -> torch.Tensor:
        """What `needs` names, `given` to `forward` or in a batch; ValueError where it is not there."""
        if given is None:
            raise ValueError(f"{type(self).__name__} needs {name} of its pictures, received none")
        return given

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Only of pairwise encoders: distances (n,) of n pairs, from what `forward` gives as `maps`, (n, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} compares features, not pairs of maps")


def check_size(value: object, name: str, least: int = 1) -> int:
    """One of a system's sizes: an integer from `least` to `LARGEST`."""
    return check_count(value, name, least, LARGEST)


def check_sizes(values: object, name: str, count: int | None = None, least: int = 1) -> tuple[int, ...]:
    """A size that is a list of such integers, at least one, or as many as `count` says."""
    if not isinstance(values, list | tuple) or not values or count not in (None, len(values)):
        words = "integers" if count is None else f"{count} integers"
        raise TypeError(f"{name} must be a list of {words}, received {values!r}")
    return tuple(check_size(value, f"each of {name}", least) for value in values)
