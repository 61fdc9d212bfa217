"""What every encoder takes and gives: pictures and what is known of them, features of them, terms of a loss."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import nn

from pose2id.encoders.trunk import Trunk


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
        The trunk's.
    """

    features: torch.Tensor | None = None
    parts: torch.Tensor | None = None
    visibility: torch.Tensor | None = None
    maps: torch.Tensor | None = None


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


class Encoder(nn.Module):
    """A trunk and the head of one system on it.

    Parameters
    ----------
    classes : int
        Identities that it is trained on.
    trunk : Trunk
        Shared structure; every system has one of its own.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """What `forward` cannot do without: of "keypoints" and "masks"; "attributes" for `loss`."""
    pairwise: ClassVar[bool] = False
    """Whether it compares pairs, `compare`, and has no feature of one picture."""

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

    def compare(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        """Only of pairwise encoders: distances (n,) of n pairs, from what `forward` gives as `maps`, (n, C, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} compares features, not pairs of maps")
