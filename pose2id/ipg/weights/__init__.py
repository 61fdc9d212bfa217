"""The generator's weights: which there are, fetched, read into networks, converted to one folder.

Importing this needs no extra and loads nothing heavy; `loading`, which needs torch and diffusers, is apart.
"""

from pose2id.ipg.weights.configuration import RELEASED, Defaults, check_defaults, read_defaults, record_settings
from pose2id.ipg.weights.conversion import convert, from_hub
from pose2id.ipg.weights.fetching import download, info
from pose2id.ipg.weights.table import (
    FILES,
    REPOSITORY,
    TINY,
    TINY_SAYS,
    ReleasedFile,
    converted_folder,
    model_card,
    tiny_folder,
)

__all__ = [
    "FILES",
    "RELEASED",
    "REPOSITORY",
    "TINY",
    "TINY_SAYS",
    "Defaults",
    "ReleasedFile",
    "check_defaults",
    "convert",
    "converted_folder",
    "download",
    "from_hub",
    "info",
    "model_card",
    "read_defaults",
    "record_settings",
    "tiny_folder",
]
