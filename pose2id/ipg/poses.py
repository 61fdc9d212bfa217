"""An older path of `pose2id.poses`."""

from pose2id.poses import COLORS as COLORS
from pose2id.poses import KEYPOINTS as KEYPOINTS
from pose2id.poses import LIMBS as LIMBS
from pose2id.poses import Pose as Pose
from pose2id.poses import PoseLimits as PoseLimits
from pose2id.poses import pose_direction as pose_direction
from pose2id.poses import pose_faults as pose_faults
from pose2id.poses import pose_valid as pose_valid
from pose2id.poses import read_poses as read_poses
from pose2id.poses import representative_poses as representative_poses
from pose2id.poses import select_representative as select_representative
from pose2id.poses import write_poses as write_poses
