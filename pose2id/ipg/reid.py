"""An older path, which saved pipelines name in their model_index.json; see `pose2id.ipg.networks.transreid`."""

from pose2id.ipg.networks.transreid import TransReID as TransReID
