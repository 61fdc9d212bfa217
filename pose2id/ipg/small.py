"""An older path, which saved pipelines name in their model_index.json; see `pose2id.ipg.networks.small`."""

from pose2id.ipg.networks.small import PatchCodec as PatchCodec
from pose2id.ipg.networks.small import SmallEncoder as SmallEncoder
