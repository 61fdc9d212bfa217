"""An older path of `pose2id.poses`."""

from pose2id.poses import (
    COLORS,
    KEYPOINTS,
    LIMBS,
    Pose,
    PoseLimits,
    pose_direction,
    pose_faults,
    pose_valid,
    read_poses,
    representative_poses,
    select_representative,
    write_poses,
)

__all__ = [
    "COLORS",
    "KEYPOINTS",
    "LIMBS",
    "Pose",
    "PoseLimits",
    "pose_direction",
    "pose_faults",
    "pose_valid",
    "read_poses",
    "representative_poses",
    "select_representative",
    "write_poses",
]
