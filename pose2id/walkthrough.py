"""An older path of `pose2id.programs.walkthrough`."""

from pose2id.programs.walkthrough import *  # noqa: F403
