"""PDC: the picture, and a picture of its parts that are warped to where they belong, joined by a trained tanh."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.pose.warps import Piece, warp_pieces
from pose2id.encoders.trunk import Trunk
from pose2id.parts import fuse_tanh

_FACE = (0, 14, 15, 16, 17)
# Growths of the paper's code, in pixels of a picture 256 high: a square of 60 around the head; 20 along and 15 across
# limbs; 40 and 34 for the body. Places are its, too: those of a picture of parts 256 x 128.
PIECES = {
    "head": Piece(_FACE, _FACE, 30 / 256, 30 / 256, (0, 4), (2, 6)),
    "right arm": Piece((2,), (4,), 20 / 256, 15 / 256, (0, 8), (0, 2)),
    "left arm": Piece((5,), (7,), 20 / 256, 15 / 256, (0, 8), (6, 8)),
    "right leg": Piece((8,), (10,), 20 / 256, 15 / 256, (8, 16), (0, 2)),
    "left leg": Piece((11,), (13,), 20 / 256, 15 / 256, (8, 16), (6, 8)),
    "body": Piece((1,), (8, 11), 40 / 256, 34 / 256, (4, 12), (2, 6)),
}


class PDC(Encoder):
    r"""Whole picture and picture of parts, :math:`[f_{global}, \tanh(f_{part} \odot w + b)]`, three identity losses.

    What differs from the paper:

    - Joints are given, not found by a network; the head's place is the middle of nose, eyes and ears.
    - The networks that correct each part's place (PTN) are one convolution and one linear layer.
    - The two branches share all of the trunk but its last stage, and start that alike.
    - Identities are told behind a batch normalisation, as by `Global`.

    Parameters
    ----------
    classes, trunk
        As `Encoder`.
    hidden : int
        Channels within a PTN.

    References
    ----------
    Su et al., "Pose-driven Deep Convolutional Model for Person Re-identification", ICCV 2017.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import PDC, Trunk
    >>> keypoints = torch.rand(2, 18, 3) * torch.tensor([32.0, 64.0, 1.0])
    >>> tuple(PDC(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32), keypoints).features.shape)
    (2, 256)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"keypoints"})

    def __init__(self, classes: int, trunk: Trunk, *, hidden: int = 8) -> None:
        super().__init__(classes, trunk)
        hidden = check_size(hidden, "hidden")
        width = trunk.channels
        self.warps = nn.ModuleList(PartTransformer(hidden) for _ in PIECES)
        self.part_stage = copy.deepcopy(trunk.stages[-1])  # the trunk's own is the global branch's
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.classify = Classifier(2 * width, classes)
        self.classify_global, self.classify_part = Classifier(width, classes), Classifier(width, classes)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
    ) -> Encoded:
        """Fused features (N, 2 * C), and the map of the whole picture."""
        maps, _, _, fused = self._encode(images, self.take("keypoints", keypoints))
        return Encoded(self.classify.norm(fused), maps=maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms "identity" of the fused feature, and of each of the two."""
        _, whole, part, fused = self._encode(batch.images, self.take("keypoints", batch.keypoints))
        return {
            "identity": identity_loss(self.classify(fused), batch.ids),
            "identity, global": identity_loss(self.classify_global(whole), batch.ids),
            "identity, part": identity_loss(self.classify_part(part), batch.ids),
        }

    def start_from(self, trunk: Trunk) -> None:
        """The last stage of both branches begins alike."""
        super().start_from(trunk)
        self.part_stage.load_state_dict(trunk.stages[-1].state_dict())

    def _encode(self, images: torch.Tensor, keypoints: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The map of the whole picture (N, C, H, W), its mean, that of the parts' (N, C), and both fused (N, 2 * C)."""
        parts, _ = warp_pieces(images, keypoints, tuple(PIECES.values()), list(self.warps))  # (N, 3, H, W)
        maps = self.trunk.stages[-1](self._share(images))
        whole, part = maps.mean((2, 3)), self.part_stage(self._share(parts)).mean((2, 3))
        return maps, whole, part, fuse_tanh(whole, part, self.weight, self.bias)

    def _share(self, images: torch.Tensor) -> torch.Tensor:
        """The lower layers, of both branches."""
        lower: torch.Tensor = self.trunk.stages[:-1](self.trunk.stem(images))
        return lower


class PartTransformer(nn.Module):
    """PTN: a part's picture (N, 3, h, w), moved by an affine map that it finds itself; nothing moves at the start."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.find = nn.Sequential(
            nn.AdaptiveAvgPool2d((8, 4)), nn.Conv2d(3, hidden, 3, padding=1), nn.ReLU(), nn.Flatten()
        )
        self.affine = nn.Linear(32 * hidden, 6)
        nn.init.zeros_(self.affine.weight)
        with torch.no_grad():
            self.affine.bias.copy_(torch.eye(2, 3).flatten())

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """The picture at other places, 0 beyond its border."""
        matrix = self.affine(self.find(pictures)).unflatten(1, (2, 3))  # theta, of places in [-1, 1]
        grid = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
        return functional.grid_sample(pictures, grid, align_corners=False)
