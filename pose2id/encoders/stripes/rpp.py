"""RPP: the parts of PCB are where a classifier of locations finds them, no longer straight stripes."""

from __future__ import annotations

import torch
from torch import nn

from pose2id.encoders.contract import Stage
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
    >>> from pose2id.encoders import RPP, Trunk
    >>> encoder = RPP(10, Trunk()).eval()
    >>> [stage.name for stage in encoder.stages()]
    ['stripes', 'induction', 'refined']
    >>> tuple(encoder(torch.zeros(2, 3, 64, 32)).parts.shape)
    (2, 6, 128)
    """

    def __init__(self, classes: int, trunk: Trunk, *, stripes: int = 6, width: int = 64) -> None:
        super().__init__(classes, trunk, stripes=stripes, width=width)
        self.assign = nn.Conv2d(trunk.channels, stripes, 1)  # (N, C, H, W) to (N, P, H, W)

    def stages(self) -> tuple[Stage, ...]:
        """PCB, the induction of the classifier of locations, and all together."""
        return (
            Stage("stripes", 4, ("trunk.", "reduce.", "classify.")),
            Stage("induction", 1, ("assign.",)),
            Stage("refined", 1, rate=0.1),
        )

    def pool(self, maps: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to g, (N, P, C): by stripes in the first stage, then by what the classifier finds."""
        if self.stage == "stripes":
            return super().pool(maps)
        scores: torch.Tensor = self.assign(maps - maps.mean((2, 3), keepdim=True))  # (N, P, H, W)
        shares = scores.softmax(1)  # of whom a location is
        # P / (H W) sum of share x map: not divided by the sum of the shares
        return self.stripes * pool_masks(maps, shares, divide="area")
