"""Small encoders for re-identification, one for each system of the part-based literature, on one trunk.

Every system is one class with the same two doors: ``forward`` gives features, parts with their visibility, or maps, and
``loss`` the terms that are minimised (`contract`). They stand in rooms by what they look at: the whole picture
(`baseline`), `stripes`, the `pose`, `masks` of parts, the `grid` of locations, and `attributes`; `systems` has them by
name. Sizes are scaled down to what a CPU trains in minutes, the structure is the paper's; each class says what differs.
One trainer trains them all (`training`, as the `recipe` says, on `pictures`). A trained encoder is a folder
(`folders`), and makes features of pictures (`encoding`).
"""

from pose2id.encoders.attributes import APR
from pose2id.encoders.baseline import Global
from pose2id.encoders.contract import Batch, Encoded, Encoder, Stage
from pose2id.encoders.encoding import encode_images
from pose2id.encoders.folders import load_encoder, make_encoder, save_encoder
from pose2id.encoders.grid import DSR, IDLA, PersonNet
from pose2id.encoders.masks import SPReID
from pose2id.encoders.pose import GLAD, PABP, PDC, PIE, Spindle
from pose2id.encoders.recipe import EncoderSettings
from pose2id.encoders.stripes import ICNN, PCB, RPP, AlignedReID, GatedLSTM, SCPNet
from pose2id.encoders.systems import SYSTEMS
from pose2id.encoders.training import train_encoder
from pose2id.encoders.trunk import Trunk

__all__ = [
    "APR",
    "DSR",
    "GLAD",
    "ICNN",
    "IDLA",
    "PABP",
    "PCB",
    "PDC",
    "PIE",
    "RPP",
    "SYSTEMS",
    "AlignedReID",
    "Batch",
    "Encoded",
    "Encoder",
    "EncoderSettings",
    "GatedLSTM",
    "Global",
    "PersonNet",
    "SCPNet",
    "SPReID",
    "Spindle",
    "Stage",
    "Trunk",
    "encode_images",
    "load_encoder",
    "make_encoder",
    "save_encoder",
    "train_encoder",
]
