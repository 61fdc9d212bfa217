"""Which weights there are: released files (repository, revision, size, hash, licence), their model card, their folders.

Repositories, revisions and hashes are here and nowhere else. Nothing heavy is imported.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pose2id.errors import require

REPOSITORY = "yuanc3/Pose2ID"
"""The authors' repository on the Hugging Face Hub."""
VAE_REPOSITORY = "stabilityai/sd-vae-ft-mse"
TINY = "tiny"
"""The name of the generator that ships with this package."""
FORMAT = 1
"""Version of what `convert` writes by default; a higher one makes every user convert again."""
PURPOSE = "pose2id.ipg.weights"
TINY_SAYS = (
    'The weights "tiny" are part of this package and draw synthetic pedestrians: --weights tiny, in Python '
    'from_pretrained("tiny")'
)
"""What else there is; ends every error of weights that are not here."""


@dataclass(frozen=True)
class ReleasedFile:
    """A file on the Hugging Face Hub."""

    repository: str
    revision: str  # a commit
    name: str
    what: str
    licence: str
    numbers: int | None  # how many it holds, from the architecture; None for a text file
    size: int | None = None  # in bytes; None, as the hash, where it is not known beforehand
    sha256: str | None = None

    @property
    def estimate(self) -> int | None:
        """Bytes if every number is a float32: an estimate, not the size of the file."""
        return None if self.numbers is None else 4 * self.numbers


_POSE2ID = (REPOSITORY, "27df92c15ebf2833a66eaa435460b7b71c3fa3be")
_VAE = (VAE_REPOSITORY, "31f26fdeee1355a5c34592e401dd41e45d25a493")
_LABEL = "MIT (label of the repository)"
FILES: tuple[ReleasedFile, ...] = (
    ReleasedFile(*_POSE2ID, "denoising_unet.pth", "denoising UNet, from Stable Diffusion 1.5", _LABEL, 859_520_964),
    ReleasedFile(*_POSE2ID, "reference_unet.pth", "reference UNet, from Stable Diffusion 1.5", _LABEL, 859_508_800),
    ReleasedFile(*_POSE2ID, "IFR.pth", "identity features to tokens", _LABEL, 58_999_296),
    ReleasedFile(*_POSE2ID, "pose_guider.pth", "pose encoder", _LABEL, 514_896),
    ReleasedFile(*_POSE2ID, "transformer_20.pth", "identity encoder, TransReID ViT-B/16", _LABEL, 103_656_429),
    ReleasedFile(
        *(*_VAE, "config.json", "sizes of the autoencoder", "MIT", None, 547),
        sha256="92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e",
    ),
    ReleasedFile(
        *(*_VAE, "diffusion_pytorch_model.safetensors", "autoencoder", "MIT", 83_653_863, 334_643_276),
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
)


def converted_folder() -> Path:
    """Where the released weights are kept as safetensors: beside the Hub's cache, HF_HOME/pose2id/..."""
    home = require("huggingface_hub.constants", "ipg", PURPOSE).HF_HOME
    return Path(home, "pose2id", f"{REPOSITORY.replace('/', '--')}-{FILES[0].revision[:12]}-{FORMAT}")


def tiny_folder() -> Path:
    """Where the small generator is that ships with this package; its README.md says how it was trained."""
    return Path(str(files("pose2id").joinpath("data", TINY)))


def model_card() -> str:
    """The README.md that `IPGPipeline.save_pretrained` writes: sources, licences, intended use, limits.

    Examples
    --------
    >>> from pose2id.ipg.weights import model_card
    >>> print(model_card().splitlines()[1])
    library_name: diffusers
    """
    sources = [
        f"| {file.name} | {file.what} | {file.repository}, revision {file.revision} | {file.licence} |"
        for file in FILES
        if file.numbers is not None
    ]
    card = files("pose2id").joinpath("data", "model_card.md").read_text(encoding="utf-8")
    return card.replace("SOURCES", "\n".join(sources))
