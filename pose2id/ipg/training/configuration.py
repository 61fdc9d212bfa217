"""The tables of a configuration file: their reader, and [data] and [model] as dataclasses."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from pose2id.errors import suggest
from pose2id.validation import check_number

STABLE_DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"
_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "list[int]": (list,),
    "dict[str, Any]": (dict,),
}

T = TypeVar("T")


def read_table(kind: type[T], table: Mapping[str, Any], name: str) -> T:
    """A table of a configuration as the dataclass that describes it; its errors name table and key."""
    known = fields(kind)  # type: ignore[arg-type]
    try:
        check_keys(table, {each.name for each in known})
        needed = [each.name for each in known if each.default is MISSING and each.default_factory is MISSING]
        if missing := [key for key in needed if key not in table]:
            raise ValueError(f"{', '.join(missing)} must be given")
        return kind(**table)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error


def check_keys(given: Mapping[str, Any], allowed: set[str]) -> None:
    """Raise ValueError for keys that are not allowed."""
    unknown = sorted(set(given) - allowed)
    if unknown:
        known = ", ".join(sorted(allowed))
        raise ValueError(f"unknown: {', '.join(unknown)}; allowed are {known}{suggest(unknown[0], sorted(allowed))}")


@dataclass(frozen=True)
class _Table:
    """A table whose values are what its annotations say; numbers are not negative."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value, kinds = getattr(self, each.name), _KINDS[str(each.type).removesuffix(" | None")]
            if value is None and each.default is None:
                continue
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                words = " or ".join(kind.__name__ for kind in kinds)
                raise TypeError(f"{each.name} must be {words}, received {value!r}")
            if isinstance(value, (int, float)) and value < 0:
                raise ValueError(f"{each.name} must not be negative, received {value}")
            if isinstance(value, list) and not all(type(number) is int and number >= 0 for number in value):
                raise TypeError(f"{each.name} must hold integers of 0 or more, received {value!r}")


@dataclass(frozen=True)
class WorldData(_Table):
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

    ids: list[int]
    kind: str = "world"
    seed: int = 0
    cams: int = 6
    per_cam: int = 2
    occlusion: float = 0.25
    occluded_targets: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.ids) != 2 or not self.ids[0] < self.ids[1] <= 2**31:
            raise ValueError(
                f"ids must be the first identity and the one after the last, at most 2**31, received {self.ids}"
            )


@dataclass(frozen=True)
class FolderData(_Table):
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

    kind: str
    root: str
    options: dict[str, Any] = field(default_factory=dict)
    keypoints: str | None = None
    clean: bool = False
    quantile: float = 0.005

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self.quantile, "quantile", 0, 0.5)


@dataclass(frozen=True)
class SmallModel(_Table):
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
class StableDiffusionModel(_Table):
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
    kind = table.get("kind")
    if kind == "world":
        return read_table(WorldData, table, "data")
    if not isinstance(kind, str) or kind not in readers:
        kinds = ("world", *readers)
        raise ValueError(
            f"data: kind must be 'world' or one of {', '.join(readers)}; received {kind!r}{suggest(kind, kinds)}"
        )
    return read_table(FolderData, table, "data")


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
