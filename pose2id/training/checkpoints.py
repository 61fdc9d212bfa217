"""What a training run goes on from: its checkpoints, and ``run.json``, which says what decides its losses.

A checkpoint is a folder ``checkpoints/step-000123``, with tensors in safetensors and no pickle:

| file                    | what                                              |
|-------------------------|---------------------------------------------------|
| `model.safetensors`     | trained modules, float32                          |
| `optimizer.safetensors` | moments and step counts, by name of the parameter |
| `ema.safetensors`       | averaged parameters, if there are any             |
| `state.json`            | the step, and what else a run wants to find again |
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pose2id.atomic import remove_folder, write_file, write_folder
from pose2id.documents import parse_json, read_json
from pose2id.errors import require
from pose2id.formats import read_tensors, write_tensors
from pose2id.validation import check_count

CHECKPOINTS, RUN = "checkpoints", "run.json"
"""What a run has in its folder."""
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, eq=False)  # comparing tensors with == has no single truth value
class Checkpoint:
    """What a checkpoint holds."""

    step: int  # of the optimiser, done
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor] | None
    state: dict[str, Any]  # what JSON can hold


def require_packages() -> None:
    """MissingExtraError without what a run writes with; to be asked before it begins, not at its first checkpoint."""
    for module in ("safetensors.torch", "filelock"):
        require(module, "ipg", "training")


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `folder`, unless that step is there already; then remove all but the newest `keep`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name(checkpoint.step)
    if not target.is_dir():
        with write_folder(target) as part:
            write_tensors(checkpoint.model, part / "model.safetensors")
            write_tensors(checkpoint.optimizer, part / "optimizer.safetensors")
            if checkpoint.ema is not None:
                write_tensors(checkpoint.ema, part / "ema.safetensors")
            state = {"step": checkpoint.step, **checkpoint.state}
            (part / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
    for old in _complete(folder)[:-keep]:
        if old.is_symlink():  # what it leads to lies elsewhere, and is not ours
            old.unlink()
        else:
            remove_folder(old)
    return target


def find_newest(folder: Path) -> Path | None:
    """The newest checkpoint in `folder`, None if there is none."""
    return next(reversed(_complete(folder)), None)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint; ValueError names one that is damaged."""
    try:
        state = read_json(path / "state.json")
        if not isinstance(state, dict):
            raise TypeError(f"state.json must hold an object, it holds a {type(state).__name__}")
        step = check_count(state.pop("step", None), "step", 0)
        if _name(step) != path.name:
            raise ValueError(f"state.json is of step {step}")
        ema = path / "ema.safetensors"
        return Checkpoint(
            step=step,
            model=read_tensors(path / "model.safetensors"),
            optimizer=read_tensors(path / "optimizer.safetensors"),
            ema=read_tensors(ema) if ema.exists() else None,
            state=state,
        )
    except (MemoryError, PermissionError):  # the checkpoint may be good
        raise
    except Exception as error:  # what is missing or of another kind makes it stumble in many ways
        raise ValueError(
            f"checkpoint {path} is damaged ({type(error).__name__}: {error}); remove it to go on from the one before"
        ) from error


def check_tensors(wanted: Mapping[str, torch.Tensor], there: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise ValueError by name unless tensors have the names and shapes of those wanted."""
    faults = [f"{name} is missing" for name in wanted.keys() - there.keys()]
    faults += [f"{name} is unknown" for name in there.keys() - wanted.keys()]
    for name in wanted.keys() & there.keys():
        if wanted[name].shape != there[name].shape or not there[name].is_floating_point():
            faults.append(
                f"{name} is {there[name].dtype} of {tuple(there[name].shape)}, not {tuple(wanted[name].shape)}"
            )
    if faults:
        raise ValueError(f"{what} are of another network: {'; '.join(sorted(faults)[:3])} ({len(faults)} in all)")


def check_same_run(path: Path, run: Mapping[str, Any], *, begun: bool) -> None:
    """Write down what decides the losses of a run; if it has `begun`, ValueError names what differs from before."""
    text = json.dumps(run, indent=1) + "\n"
    if begun and path.exists():
        now, there = parse_json(text.encode()), read_json(path)
        if not isinstance(there, dict):
            raise ValueError(f"{path} must hold an object, it holds a {type(there).__name__}")
        names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
        if names:
            words = "; ".join(f"{name} was {there.get(name)!r}, is {now.get(name)!r}" for name in names[:5])
            raise ValueError(
                f"{path.parent} holds a run with other settings: {words}. Go on with the same ones, or name another "
                "folder"
            )
    with write_file(path) as part:
        part.write_text(text, encoding="utf-8")


def _complete(folder: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def _name(step: int) -> str:
    return f"step-{step:06d}"
