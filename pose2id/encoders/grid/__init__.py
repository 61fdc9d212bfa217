"""Systems that look at the grid of a map's locations: pair classifiers, and reconstruction of one map by another."""

from pose2id.encoders.grid.dsr import DSR
from pose2id.encoders.grid.idla import IDLA, PersonNet

__all__ = ["DSR", "IDLA", "PersonNet"]
