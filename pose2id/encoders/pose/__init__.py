"""Systems that know a person's joints.

Regions around joints (Spindle, GLAD), parts of the picture warped to where they belong (PDC, PIE), and maps of the
joints against maps of what is seen (PABP).

A joint that is not there is a row of NaN or has a confidence of 0. A part whose joints are all missing is not visible,
and a picture without any joint has its whole feature left.
"""

from pose2id.encoders.pose.glad import GLAD
from pose2id.encoders.pose.pabp import PABP
from pose2id.encoders.pose.pdc import PDC
from pose2id.encoders.pose.pie import PIE
from pose2id.encoders.pose.spindle import Spindle

__all__ = ["GLAD", "PABP", "PDC", "PIE", "Spindle"]
