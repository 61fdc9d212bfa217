"""Another path that saved pipelines name; see `pose2id.ipg.modules`."""

from diffusers import ModelMixin as ModelMixin

from pose2id.ipg.networks import TransReID as TransReID
