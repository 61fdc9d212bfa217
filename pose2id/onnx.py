"""ONNX models: load a file for onnxruntime (extra `poses`, or `onnx`), and see what it takes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

from pose2id.errors import one_line, require

__all__ = ["Session", "load_session", "read_input", "require_runtime"]


class Session(Protocol):
    """What is used of `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[Any]:
        """The inputs, each with `name` and `shape`."""

    def get_modelmeta(self) -> Any:
        """What the file says of itself, with `custom_metadata_map`."""

    def run(self, output_names: Sequence[str] | None, input_feed: dict[str, Any]) -> Sequence[Any]:
        """All outputs for the named inputs."""


def require_runtime(purpose: str, extra: str = "poses") -> ModuleType:
    """The package onnxruntime, or MissingExtraError."""
    return require("onnxruntime", extra, purpose)


def load_session(
    path: str | os.PathLike[str],
    *,
    providers: Sequence[Any] | None = None,
    purpose: str = "pose2id.onnx",
    extra: str = "poses",
) -> Session:
    """Load an ONNX file, as an `onnxruntime.InferenceSession`.

    Parameters
    ----------
    providers : sequence, optional
        As onnxruntime takes them. None: CUDA where this onnxruntime has it, else the CPU.
    purpose : str
        Who needs onnxruntime, for the error where it is missing.
    extra : str
        What installs it, for that error.

    Raises
    ------
    MissingExtraError
        Without onnxruntime.
    FileNotFoundError, ValueError
        When there is no such file, or it is no model.
    """
    runtime = require_runtime(purpose, extra)
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    if providers is None:
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in runtime.get_available_providers()]
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised, too; here it would be printed first, in colours
    try:
        session: Session = runtime.InferenceSession(os.fspath(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime has a class of its own for every kind of failure
        raise ValueError(f"{path} cannot be loaded by onnxruntime: {one_line(error, 200)}") from error
    return session


def read_input(session: Session) -> tuple[str, list[int | None]]:
    """Name and shape of a model's first input; None for a size that is not fixed (a name, None or -1 in the file)."""
    entry = session.get_inputs()[0]
    return str(entry.name), [size if isinstance(size, int) and size > 0 else None for size in entry.shape]
