"""Small encoders for re-identification, one for each system of the part-based literature, on one trunk.

Every system is one class with the same two doors: ``forward`` gives features, parts with their visibility, or maps, and
``loss`` the terms that are minimised (`contract`). They stand in rooms by what they look at: the whole picture
(`baseline`), `stripes`, the `pose`, `masks` of parts, the `grid` of locations, and `attributes`. Sizes are scaled down
to what a CPU trains in minutes, the structure is the paper's; each class says what differs.
"""

from pose2id.encoders.baseline import Global
from pose2id.encoders.contract import Batch, Encoded, Encoder
from pose2id.encoders.trunk import Trunk

__all__ = ["Batch", "Encoded", "Encoder", "Global", "Trunk"]
