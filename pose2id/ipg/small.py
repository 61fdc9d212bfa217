"""A path that saved pipelines name in their model_index.json; see `pose2id.ipg.networks`.

A file format, so it stays. Diffusers takes classes from modules that are loaded already (the pipeline imports this one)
and looks for their base class beside them.
"""

from diffusers import ModelMixin as ModelMixin

from pose2id.ipg.networks import PatchCodec as PatchCodec
from pose2id.ipg.networks import SmallEncoder as SmallEncoder
