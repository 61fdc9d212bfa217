"""The networks of the generator, one in each file; the two UNets are those of diffusers."""

from pose2id.ipg.networks.ifr import IFR
from pose2id.ipg.networks.patch_codec import PatchCodec
from pose2id.ipg.networks.pose_encoder import PoseEncoder
from pose2id.ipg.networks.small_encoder import SmallEncoder
from pose2id.ipg.networks.transreid import TransReID

__all__ = ["IFR", "PatchCodec", "PoseEncoder", "SmallEncoder", "TransReID"]
