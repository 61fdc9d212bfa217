"""PIE: the picture, its PoseBox, and how sure the pose is."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional

from pose2id.encoders.contract import Batch, Encoded, Encoder, check_size
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.pose.joints import take_joints
from pose2id.encoders.pose.warps import Piece, warp_pieces
from pose2id.encoders.trunk import Trunk

JOINTS = 14
"""The first of `pose2id.poses.KEYPOINTS`, whose confidence is used: those of CPM, the nose for the top of the head."""
_FACE = (0, 14, 15, 16, 17)
# PoseBox 3 of the paper: torso and legs, arms, head. Ten parts; how wide they are cut, and their places, are ours.
PIECES = {
    "head": Piece(_FACE, _FACE, 0.1, 0.1, (0, 3), (2, 6)),
    "torso": Piece((1,), (8, 11), 0.03, 0.13, (3, 9), (2, 6)),
    "right upper arm": Piece((2,), (3,), 0.03, 0.06, (3, 6), (0, 2)),
    "right lower arm": Piece((3,), (4,), 0.03, 0.06, (6, 9), (0, 2)),
    "left upper arm": Piece((5,), (6,), 0.03, 0.06, (3, 6), (6, 8)),
    "left lower arm": Piece((6,), (7,), 0.03, 0.06, (6, 9), (6, 8)),
    "right upper leg": Piece((8,), (9,), 0.03, 0.08, (9, 13), (1, 4)),
    "right lower leg": Piece((9,), (10,), 0.03, 0.08, (13, 16), (1, 4)),
    "left upper leg": Piece((11,), (12,), 0.03, 0.08, (9, 13), (4, 7)),
    "left lower leg": Piece((12,), (13,), 0.03, 0.08, (13, 16), (4, 7)),
}


class PIE(Encoder):
    """Two streams, picture and PoseBox, and the confidence of 14 joints, in one layer; an identity loss each.

    What differs from the paper:

    - Both streams are trunks as all systems have, that start alike and share nothing; theirs are AlexNet or ResNet-50.
    - Widths and places of the ten parts of a PoseBox are ours.
    - Identities are told behind a batch normalisation, as by `Global`.

    The paper's own KISSME metric on top is not here.

    Parameters
    ----------
    classes, trunk
        As `Encoder`.
    size : int
        Width of the fused layer, which is the feature.

    References
    ----------
    Zheng et al., "Pose Invariant Embedding for Deep Person Re-identification", 2017.

    Examples
    --------
    >>> import torch
    >>> from pose2id.encoders import PIE, Trunk
    >>> keypoints = torch.rand(2, 18, 3) * torch.tensor([32.0, 64.0, 1.0])
    >>> tuple(PIE(10, Trunk()).eval()(torch.zeros(2, 3, 64, 32), keypoints).features.shape)
    (2, 128)
    """

    needs: ClassVar[frozenset[str]] = frozenset({"keypoints"})

    def __init__(self, classes: int, trunk: Trunk, *, size: int = 128) -> None:
        super().__init__(classes, trunk)
        size = check_size(size, "size")
        self.box_trunk = copy.deepcopy(trunk)
        self.fuse = nn.Linear(2 * trunk.channels + JOINTS, size)
        self.classify = Classifier(size, classes)
        self.classify_picture = Classifier(trunk.channels, classes)
        self.classify_box = Classifier(trunk.channels, classes)

    def forward(
        self,
        images: torch.Tensor,
        keypoints: torch.Tensor | None = None,
        masks: torch.Tensor | None = None,  # noqa: ARG002 - as every encoder
    ) -> Encoded:
        """Fused features (N, size), and the map of the picture."""
        maps, _, _, fused = self._encode(images, self.take("keypoints", keypoints))
        return Encoded(self.classify.norm(fused), maps=maps)

    def loss(self, batch: Batch) -> dict[str, torch.Tensor]:
        """The terms "identity" of the fused layer, and of each stream."""
        _, picture, box, fused = self._encode(batch.images, self.take("keypoints", batch.keypoints))
        return {
            "identity": identity_loss(self.classify(fused), batch.ids),
            "identity, picture": identity_loss(self.classify_picture(picture), batch.ids),
            "identity, PoseBox": identity_loss(self.classify_box(box), batch.ids),
        }

    def start_from(self, trunk: Trunk) -> None:
        """Both streams begin alike."""
        super().start_from(trunk)
        self.box_trunk.load_state_dict(trunk.state_dict())

    def _encode(self, images: torch.Tensor, keypoints: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The picture's map (N, C, H, W), its mean and the PoseBox's (N, C), and the fused layer (N, size)."""
        boxes, _ = warp_pieces(images, keypoints, tuple(PIECES.values()))  # (N, 3, H, W)
        _, confidence = take_joints(keypoints.to(images.dtype))
        maps = self.trunk(images)
        picture, box = maps.mean((2, 3)), self.box_trunk(boxes).mean((2, 3))
        fused = functional.relu(self.fuse(torch.cat([picture, box, confidence[:, :JOINTS]], 1)))
        return maps, picture, box, fused
