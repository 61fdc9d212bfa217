"""RPP: the parts of PCB are where a classifier of locations finds them, no longer straight stripes."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import nn

from pose2id.encoders.stripes.pcb import PCB
from pose2id.encoders.trunk import Trunk
from pose2id.parts import pool_masks


class RPP(PCB):
    """PCB with refined part pooling.

    It is trained in stages: as PCB; then the classifier of locations alone, which learns from the trained identity
    classifiers what looks like which stripe (the induction); then everything.

    What differs from the paper: the classifier sees the map minus its mean, as in the public code.

    Parameters
    ----------
    classes : int
    trunk : Trunk
    stripes, width : int
        As of `PCB`.

    References
    ----------
    Sun et al., "Beyond Part Models: Person Retrieval with Refined Part Pooling", ECCV 2018.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import Trunk
    >>> from pose2id.encoders.stripes import RPP
    >>> encoder = RPP(10, Trunk())
    >>> [sum(p.numel() for p in encoder.begin(stage)) for stage in encoder.STAGES]
    [266212, 774, 266986]
    """

    STAGES: ClassVar[tuple[str, ...]] = ("stripes", "induction", "refined")

    refined: torch.Tensor  # whether the induction has begun; saved with the weights

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 6, width: int = 64) -> None:
        super().__init__(classes, trunk, stripes=stripes, width=width)
        self.assign = nn.Conv2d(trunk.channels, stripes, 1)  # (N, C, H, W) to (N, P, H, W)
        self.register_buffer("refined", torch.tensor(False))
        self.frozen = False

    def begin(self, stage: str) -> list[nn.Parameter]:
        """Enter a stage of training; the parameters that train in it."""
        if stage not in self.STAGES:
            raise ValueError(f"stage must be one of {self.STAGES}, received {stage!r}")
        self.refined.fill_(stage != "stripes")
        self.frozen = stage == "induction"
        self.train(self.training)
        if self.frozen:
            return list(self.assign.parameters())
        return [one for name, one in self.named_parameters() if self.refined or not name.startswith("assign.")]

    def train(self, mode: bool = True) -> RPP:
        """As of every module; in the induction the frozen layers keep the statistics that they have learnt."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
            self.reduce.eval()
        return self

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to g, (N, P, C): by stripes at first, then by what the classifier finds."""
        if not self.refined:
            return super().pool(maps)
        shares = self.assign(maps - maps.mean((2, 3), keepdim=True)).softmax(1)  # (N, P, H, W): of whom is a location
        # P / (H W) sum of share x map: not divided by the sum of the shares
        return self.stripes * pool_masks(maps, shares, divide="area")
