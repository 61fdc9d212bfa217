"""The folder of one part of a model: its settings and its tensors, checked by name before the part is loaded.

diffusers fills what such a folder lacks: a setting with the default of its class, a tensor with what was in memory. It
warns, and draws. So nothing is left to it before everything is there.
"""

from __future__ import annotations

import inspect
import math
import os
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import __version__
from torch import Tensor, nn

from pose2id.errors import one_line
from pose2id.files import read_tensors
from pose2id.ipg.locks import loading
from pose2id.ipg.weights.configuration import join_names, read_object

if TYPE_CHECKING:
    from typing import Self

STEM = "diffusion_pytorch_model"
Faults = dict[str, list[str]]
_PASSED_OVER = "_use_default_values"
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class CheckedModel:
    """For models with a folder of their own: `from_pretrained` checks it first, as that of the pipeline does."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """As for every diffusers model. A folder is checked first; what comes from the Hub by itself is not.

        Raises
        ------
        OSError, ValueError
            When a file is missing or damaged, or a setting or a tensor is missing, unknown or of another shape.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        with loading:
            if folder.is_dir():
                check_part(folder, cls, variant=kwargs.get("variant"), use_safetensors=kwargs.get("use_safetensors"))
            loaded: Self = super().from_pretrained(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        return loaded


def check_part(
    folder: Path,
    kind: Any,
    *,
    kinds: Collection[Any] = (),
    variant: str | None = None,
    use_safetensors: bool | None = None,
) -> None:
    """Raise OSError or ValueError unless a folder of `save_pretrained` holds all that a part needs, and no more.

    Parameters
    ----------
    folder : path
    kind : type
        The diffusers model or scheduler that the part is.
    kinds : collection of types
        What it may have been before: ``from_config`` of a scheduler keeps the settings of the one before it.
    variant, use_safetensors : optional
        As for `from_pretrained`; they choose between files.
    """
    config = folder / kind.config_name
    settings = _read_settings(config, kind, kinds)
    try:
        part = _build(kind, settings)
    except Exception as error:  # values that do not fit make these classes stumble in many ways
        raise ValueError(f"{config} does not fit {kind.__name__}: {one_line(error, 300)}") from error
    if not isinstance(part, nn.Module):
        return
    files = _find_files(folder, variant, use_safetensors)
    state: dict[str, Tensor] = {}
    for file in files:
        held = take_state(read_file(file), file)
        if twice := sorted(held.keys() & state.keys()):
            raise ValueError(f"{file} holds keys of another file beside it: {join_names(twice)}")
        state |= held
    if len(files) == 1:
        part._fix_state_dict_keys_on_load(state)  # type: ignore[operator] # names that older versions gave
    faults = find_faults(part.state_dict(), state)
    floats = Counter(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    if len(floats) > 1:
        usual = floats.most_common(1)[0][0]
        faults["of another dtype than the rest"] = [
            f"{key} is {_describe(tensor)}"
            for key, tensor in state.items()
            if tensor.is_floating_point() and tensor.dtype != usual
        ]
    if any(faults.values()):
        where = files[0] if len(files) == 1 else folder
        raise ValueError(f"{where} does not fit {config.name} beside it; {list_faults(faults)}")


def _build(kind: Any, settings: Mapping[str, Any]) -> Any:
    """A part without the numbers of its tensors."""
    with torch.device("meta" if issubclass(kind, nn.Module) else "cpu"):
        return kind(**settings)


def _read_settings(path: Path, kind: Any, kinds: Collection[Any] = ()) -> dict[str, Any]:
    """The settings of a part, each of those that its class has; those of other kinds are left out."""
    content = read_object(path)
    written = content.get("_class_name", kind.__name__)
    if written != kind.__name__:
        raise ValueError(f"{path} must be for a {kind.__name__}, it is for a {written}")
    # All other notes change nothing. This one has diffusers pass over the settings that it names.
    settings = {key: value for key, value in content.items() if not key.startswith("_") or key == _PASSED_OVER}
    known = _name_settings(kind)
    inherited = {key for other in kinds for key in _name_settings(other)} - set(known)
    settings = {key: value for key, value in settings.items() if key not in inherited}
    faults = {
        "unknown settings": [key for key in settings if key not in known],
        "missing settings": [key for key in known if key not in settings],
    }
    version = content.get("_diffusers_version")
    if kind.__module__.startswith("diffusers.") and _is_older(version):
        faults["missing settings"] = []  # there may have been fewer; their defaults are as things were then
    if any(faults.values()):
        saved = f"; it was saved by diffusers {version}, this is {__version__}" if version != __version__ else ""
        raise ValueError(f"{path} does not fit {kind.__name__}; {list_faults(faults)}{saved}")
    return settings


def _name_settings(kind: Any) -> list[str]:
    return [key for key in inspect.signature(kind.__init__).parameters if key != "self"]


def _is_older(version: object) -> bool:
    """Whether this is the number of an older diffusers than the one that is installed."""
    theirs, ours = (re.match(r"(\d+)\.(\d+)", str(text)) for text in (version, __version__))
    return theirs is not None and ours is not None and [*map(int, theirs.groups())] < [*map(int, ours.groups())]


def _find_files(folder: Path, variant: str | None, use_safetensors: bool | None) -> list[Path]:
    """The files that diffusers would read the part from."""
    suffixes = ["safetensors", "bin"] if use_safetensors is None else ["safetensors" if use_safetensors else "bin"]
    for infix in dict.fromkeys((f".{variant}" if variant else "", "")):
        index = folder / f"{STEM}.{suffixes[0]}.index{infix}.json"
        if index.is_file():
            return _find_shards(index)
        for suffix in suffixes:
            if (path := folder / f"{STEM}{infix}.{suffix}").is_file():
                return [path]
    raise FileNotFoundError(f"{folder} holds no {' or '.join(f'{STEM}.{suffix}' for suffix in suffixes)}")


def _find_shards(index: Path) -> list[Path]:
    """The files among which an index says that the tensors are divided, as it says."""
    places = read_object(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(place, str) for place in places.values()):
        raise ValueError(f'{index} must hold "weight_map", names of files by key')
    files = []
    for name in sorted(set(places.values())):
        files.append(file := index.parent / name)
        if name != file.name or not file.is_file():
            raise FileNotFoundError(f"{index} names {name!r}, which is no file beside it")
        wrong = {key for key, place in places.items() if place == name} ^ take_state(read_file(file), file).keys()
        if wrong:
            raise ValueError(f"{index} and {file.name} disagree on keys: {join_names(sorted(wrong))}")
    return files


def read_file(path: Path) -> Any:
    """What a file of tensors holds, mapped into memory where its format allows that; the ValueError names the file."""
    try:
        return read_tensors(path, mapped=True)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def take_state(content: Any, path: Path) -> dict[str, Tensor]:
    """What a file held, if that is dense tensors by name; else ValueError."""
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} must hold a dict of tensors, it holds a {type(content).__name__}")
    for key, tensor in content.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"{path} must hold tensors by name, {key!r} in it is a {type(tensor).__name__}")
        if tensor.layout != torch.strided or tensor.is_meta:
            form = "no numbers (device meta)" if tensor.is_meta else f"the layout {tensor.layout}"
            raise ValueError(f"{path} must hold dense tensors, {key!r} in it has {form}")
    return dict(content)


def find_faults(own: Mapping[str, Tensor], state: Mapping[str, Tensor], absent: Collection[str] = ()) -> Faults:
    """What keeps `state` from being that of a module whose state is `own`: kinds of faults, each with its keys.

    Keys in `absent` must not be in `state`. Floats may be of any width that torch computes with.
    """
    return {
        "missing keys": [key for key in own if key not in state and key not in absent],
        "unexpected keys": [key for key in state if key not in own or key in absent],
        "wrong shapes": [
            f"{key} is {_describe(given)}, must be {_describe(own[key])}"
            for key, given in state.items()
            if key in own and (given.shape != own[key].shape or not is_convertible(given, own[key]))
        ],
        "NaN or inf": [key for key, given in state.items() if key in own and not is_finite(given)],
    }


def is_convertible(given: Tensor, own: Tensor) -> bool:
    """Whether numbers of the one's dtype may become those of the other: floats become floats, others stay."""
    return given.dtype in _FLOATS if own.is_floating_point() else given.dtype == own.dtype


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor inf; without a second tensor of its size."""
    if tensor.dtype not in _FLOATS or not tensor.numel() or tensor.is_meta:  # that holds no numbers at all
        return True
    low, high = tensor.aminmax()
    return math.isfinite(low) and math.isfinite(high)


def list_faults(faults: Faults) -> str:
    """Kinds of faults, each with its keys, in one line."""
    return "; ".join(f"{fault}: {join_names(keys)}" for fault, keys in faults.items() if keys)


def _describe(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"
