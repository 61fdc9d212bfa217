"""An older path of `pose2id.poses`."""

from pose2id.poses import *  # noqa: F403
