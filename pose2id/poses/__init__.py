"""Poses: 18 keypoints of a person, the 8 representative poses, their pose maps, and which poses to keep.

- `pose`: `Pose` and the names of its keypoints
- `drawing`: pose maps, pixel by pixel what DWPose draws
- `files`: `read_poses`, `write_poses`, `read_keypoints`, `write_keypoints`; what `openpose` writes
- `validity`: `pose_valid`, which poses are those of whole, upright pedestrians
- `representative`: `representative_poses`, `pose_direction`, and how to choose others
- `keypoints`: poses from photographs, by DWPose; needs extras and is imported by its full path

Needs numpy, and Pillow (extra `ipg`) for pose maps only.
"""

from __future__ import annotations

from pose2id.poses.drawing import COLORS, LIMBS
from pose2id.poses.files import read_keypoints, read_poses, write_keypoints, write_poses
from pose2id.poses.pose import KEYPOINTS, Pose
from pose2id.poses.representative import pose_direction, representative_poses, select_representative
from pose2id.poses.validity import PoseLimits, pose_faults, pose_valid

__all__ = [
    "COLORS",
    "KEYPOINTS",
    "LIMBS",
    "Pose",
    "PoseLimits",
    "pose_direction",
    "pose_faults",
    "pose_valid",
    "read_keypoints",
    "read_poses",
    "representative_poses",
    "select_representative",
    "write_keypoints",
    "write_poses",
]
