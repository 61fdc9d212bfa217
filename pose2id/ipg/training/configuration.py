"""The tables [data] and [model] of a generator's configuration, as dataclasses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from pose2id.errors import suggest
from pose2id.training import configuration
from pose2id.training.configuration import Table, read_table
from pose2id.validation import check_number

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


@dataclass(frozen=True)
class WorldData(configuration.WorldData):
    """Synthetic people, ``kind = "world"``; what is not said here is described at `pose2id.synthetic.make_set`.

    Attributes
    ----------
    ids : list of int
        The first identity and the one after the last.
    seed, cams, per_cam, occlusion
        Of `make_set`.
    occluded_targets : bool
        Whether pictures of people behind something may be what is to be drawn.
    """

    occluded_targets: bool = False


@dataclass(frozen=True)
class FolderData(configuration.FolderData):
    """A data set in folders.

    Attributes
    ----------
    kind : str
        A name that `pose2id.datasets.read_dataset` knows.
    root : str
        Its folder.
    options : dict
        Of its reader.
    keypoints : str, optional
        A JSON file: path below `root`, then 18 points [x, y] as fractions of width and height, or null.
    clean : bool
        Leave out outliers and bad poses, see `pose2id.ipg.training.clean`.
    quantile : float
        Of the cleaning.
    """

    clean: bool = False
    quantile: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.quantile, "quantile", 0, 0.5)


@dataclass(frozen=True)
class SmallModel(Table):
    """A generator that is trained from scratch, ``kind = "small"``: its sizes.

    Attributes
    ----------
    encoder_steps : int
        Of the identity encoder, which is trained on the same pictures, see `pose2id.ipg.training.train_encoder`.
    latent_channels : int
        Of the patch codec.
    channels, layers, heads, groups
        Of both UNets, which have two levels; `groups` of the normalisation.
    tokens, token_width : int
        Number and width of the identity tokens.
    pose_channels : list of int
        Of the pose encoder.
    seed : int
    """

    kind: str = "small"
    encoder_steps: int = 3000
    latent_channels: int = 12
    channels: list[int] = field(default_factory=lambda: [48, 96])
    layers: int = 1
    heads: int = 4
    groups: int = 8
    tokens: int = 6
    token_width: int = 64
    pose_channels: list[int] = field(default_factory=lambda: [12, 24, 48])
    seed: int = 0


@dataclass(frozen=True)
class StableDiffusionModel(Table):
    """A generator that begins as Stable Diffusion, ``kind = "stable-diffusion"``.

    Attributes
    ----------
    encoder : str
        A folder with transformer_20.
    path : str
        Folder or Hub id with the UNet.
    vae : str, optional
        Folder or Hub id; None: stabilityai/sd-vae-ft-mse.
    tokens, seed : int
        As for `pose2id.ipg.training.start_from_stable_diffusion`.
    """

    encoder: str
    kind: str = "stable-diffusion"
    path: str = STABLE_DIFFUSION
    vae: str | None = None
    tokens: int = 20
    seed: int = 0


def read_data(table: Mapping[str, Any] | WorldData | FolderData, readers: Collection[str]) -> WorldData | FolderData:
    """Table ``[data]``, or what was made of it; `readers` are the kinds of `FolderData`."""
    if not isinstance(table, Mapping):
        return table
    return configuration.read_data(table, readers, WorldData, FolderData)


def read_model(table: Mapping[str, Any] | SmallModel | StableDiffusionModel) -> SmallModel | StableDiffusionModel:
    """Table ``[model]``, or what was made of it."""
    if not isinstance(table, Mapping):
        return table
    kind = table.get("kind")
    if kind == "small":
        return read_table(SmallModel, table, "model")
    if kind == "stable-diffusion":
        return read_table(StableDiffusionModel, table, "model")
    near = suggest(kind, ("small", "stable-diffusion"))
    raise ValueError(f"model: kind must be 'small' or 'stable-diffusion', received {kind!r}{near}")
