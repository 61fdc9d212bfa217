"""Training the generator: what is learnt from (`batches`), what is minimised (`objective`), and the run (`trainer`)."""

from pose2id.ipg.training.batches import Batch, Batches, Record
from pose2id.ipg.training.initialisation import STABLE_DIFFUSION, copy_denoiser, start_from_stable_diffusion
from pose2id.ipg.training.recipe import Recipe, Settings, read_settings
from pose2id.ipg.training.trainer import describe_run, find_processes, train

__all__ = [
    "STABLE_DIFFUSION",
    "Batch",
    "Batches",
    "Recipe",
    "Record",
    "Settings",
    "copy_denoiser",
    "describe_run",
    "find_processes",
    "read_settings",
    "start_from_stable_diffusion",
    "train",
]
