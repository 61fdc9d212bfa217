"""An older path, which saved pipelines name in their model_index.json; see `pose2id.ipg.networks.conditions`."""

from pose2id.ipg.networks.conditions import IFR as IFR
from pose2id.ipg.networks.conditions import PoseEncoder as PoseEncoder
