"""Training the generator.

What is told (`recipe`, and other tables in `configuration`), what is learnt from (`records`, cleaned by `cleaning`;
`batches`), what is minimised (`objective`), the run (`trainer`, with `initialisation`, `sheets`), and the small
identity encoder (`encoder`). What it shares with the training of other networks stands in `pose2id.training`.
"""

from pose2id.ipg.training.batches import Batch, Batches
from pose2id.ipg.training.cleaning import Cleaned, clean, draw_dropped, mahalanobis_distances
from pose2id.ipg.training.configuration import STABLE_DIFFUSION, FolderData, SmallModel, StableDiffusionModel, WorldData
from pose2id.ipg.training.encoder import train_encoder
from pose2id.ipg.training.initialisation import copy_denoiser, start_from_stable_diffusion
from pose2id.ipg.training.objective import unused_parameters
from pose2id.ipg.training.recipe import Recipe, Settings, Stage, describe_run, read_settings
from pose2id.ipg.training.records import Record
from pose2id.ipg.training.trainer import find_processes, train

__all__ = [
    "STABLE_DIFFUSION",
    "Batch",
    "Batches",
    "Cleaned",
    "FolderData",
    "Recipe",
    "Record",
    "Settings",
    "SmallModel",
    "StableDiffusionModel",
    "Stage",
    "WorldData",
    "clean",
    "copy_denoiser",
    "describe_run",
    "draw_dropped",
    "find_processes",
    "mahalanobis_distances",
    "read_settings",
    "start_from_stable_diffusion",
    "train",
    "train_encoder",
    "unused_parameters",
]
