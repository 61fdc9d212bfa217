"""Checkpoints of a training run: folders written under another name and renamed, tensors in safetensors, no pickle.

A folder ``checkpoints/step-000123`` holds

| file                    | what                                              |
|-------------------------|---------------------------------------------------|
| `model.safetensors`     | trained modules, float32                          |
| `optimizer.safetensors` | moments and step counts, by name of the parameter |
| `ema.safetensors`       | averaged parameters, if there are any             |
| `state.json`            | the step, and what else a run wants to find again |
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

__all__ = ["Checkpoint", "LossLog", "check_same_run", "find_newest", "load", "save"]

_NAME = re.compile(r"step-(\d{6,})")
_HEADER = "step,loss,learning_rate,gradient_norm"


# eq=False: comparing tensors with == has no single truth value.
@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint holds; tensors are on the CPU.

    Attributes
    ----------
    step : int
        Optimiser steps done.
    model, optimizer : dict of str to tensor
    ema : dict of str to tensor, or None
    state : dict
        Anything that JSON can hold.
    """

    step: int
    model: dict[str, torch.Tensor]
    optimizer: dict[str, torch.Tensor]
    ema: dict[str, torch.Tensor] | None
    state: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write a checkpoint into `folder`, whole or not at all, then remove all but the newest `keep`.

    Returns
    -------
    pathlib.Path
        The folder of the checkpoint; one of that step that is there already stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{checkpoint.step:06d}"
    if not target.exists():
        part = _part(target)
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _save(part / "model.safetensors", checkpoint.model)
        _save(part / "optimizer.safetensors", checkpoint.optimizer)
        if checkpoint.ema is not None:
            _save(part / "ema.safetensors", checkpoint.ema)
        state = {"step": checkpoint.step, **checkpoint.state}
        (part / "state.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        for path in part.iterdir():
            _sync(path)
        part.replace(target)
    for old in _complete(folder)[:-keep]:
        part = _part(old)  # so that a removal which breaks off leaves nothing that looks complete
        shutil.rmtree(part, ignore_errors=True)
        old.replace(part)
        shutil.rmtree(part)
    return target


def find_newest(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`, None if there is none."""
    return next(reversed(_complete(folder)), None)


def clear_parts(folder: Path) -> None:
    """Remove what killed runs left unfinished in `folder`."""
    for path in folder.glob(".step-*.part"):
        shutil.rmtree(path)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    ValueError
        When it is damaged; names the folder.
    """
    try:
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        ema = path / "ema.safetensors"
        return Checkpoint(
            step=int(state.pop("step")),
            model=load_file(path / "model.safetensors"),
            optimizer=load_file(path / "optimizer.safetensors"),
            ema=load_file(ema) if ema.exists() else None,
            state=state,
        )
    except Exception as error:  # safetensors has errors of its own
        raise ValueError(
            f"checkpoint {path} is damaged ({type(error).__name__}: {error}); remove it to go on from the one before"
        ) from error


def check_same_run(path: Path, run: Mapping[str, Any], *, begun: bool) -> None:
    """Write down what decides the losses of a run, or compare it with what is there if the run has `begun`.

    Raises
    ------
    ValueError
        Naming what differs.
    """
    now = json.loads(json.dumps(run))  # as it will be read
    if begun and path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        names = [name for name in {**there, **now} if there.get(name) != now.get(name)]
        if names:
            words = "; ".join(f"{name} was {there.get(name)!r}, is {now.get(name)!r}" for name in names[:5])
            raise ValueError(
                f"{path.parent} holds a run with other settings: {words}. Go on with the same ones, or name another "
                "folder"
            )
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(now, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


class LossLog:
    """A table of losses that grows by a line a step; ``losses.csv``.

    Parameters
    ----------
    path : pathlib.Path
    done : int
        Lines of later steps are removed: they will be written again.
    """

    def __init__(self, path: Path, done: int) -> None:
        lines = [_HEADER]
        if done:
            read = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
            lines += [line for line in read if line.count(",") == 3 and int(line.split(",")[0]) <= done]
        part = path.with_name(f".{path.name}.part")
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        part.replace(path)
        self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, step: int, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Append the line of a step; numbers are written so that they can be read back exactly."""
        self._stream.write(f"{step},{loss!r},{learning_rate!r},{gradient_norm!r}\n")

    def sync(self) -> None:
        """Have everything on the disk, before a checkpoint says that these steps are done."""
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def _complete(folder: Path) -> list[Path]:
    found = [(int(match[1]), path) for path in folder.glob("step-*") if (match := _NAME.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def _part(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
