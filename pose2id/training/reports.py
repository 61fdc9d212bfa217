"""What is reported of a training: the table of losses, TensorBoard, a bar, and a line a minute."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pose2id.atomic import sync, write_file
from pose2id.errors import explain_write, require
from pose2id.progress import tqdm

LOSSES = "losses.csv"
_HEADER = "step,loss,learning_rate,gradient_norm"
APART = 60.0
"""Seconds between two lines of a run."""


class Reports:
    """The reports of a run of `total` steps; what was reported of steps after those `done` is removed.

    `report` is told every minute, by `clock`, how far the run is.
    """

    def __init__(
        self,
        folder: Path,
        done: int,
        total: int,
        *,
        tensorboard: bool,
        progress: bool,
        report: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.losses = LossLog(folder / LOSSES, done)
        self._board: Any = None
        if tensorboard:
            writer = require("torch.utils.tensorboard", "train", "the setting tensorboard").SummaryWriter
            self._board = writer(str(folder / "tensorboard"), purge_step=done + 1)
        self._bar = tqdm(total=total, initial=done, desc="training", unit="step", disable=not progress)
        self._total, self._report, self._clock, self._last = total, report, clock, clock()

    def add(
        self,
        step: int,
        loss: float,
        learning_rate: float,
        gradient_norm: float,
        terms: Mapping[str, float] | None = None,
    ) -> None:
        """Report a step, and for TensorBoard the terms that the loss is made of."""
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self._bar.update()
        self.losses.add(step, loss, learning_rate, gradient_norm)
        if self._report and self._clock() - self._last >= APART:
            self._last = self._clock()
            self._report(f"step {step:,} of {self._total:,}, loss {loss:.2f}")
        if self._board:
            values = {"loss": loss, "learning_rate": learning_rate, "gradient_norm": gradient_norm}
            for name, value in {**(terms or {}), **values}.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def close(self) -> None:
        """Close bar and files."""
        self._bar.close()
        self.losses.close()
        if self._board:
            self._board.close()


class LossLog:
    """A table of losses that grows by a line a step; lines of steps after those `done` are removed."""

    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        lines = [_HEADER]
        if done:
            read = path.read_text(encoding="utf-8", errors="replace").splitlines()[1:] if path.exists() else []
            for number, line in enumerate(read, 2):
                if line.count(",") != 3:  # a line that broke off
                    continue
                if not re.match(r"[0-9]{1,18},", line):
                    raise ValueError(f"{path} is damaged in line {number} ({line[:60]!r}); restore it or remove it")
                if int(line.split(",")[0]) <= done:
                    lines.append(line)
        with write_file(path) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, step: int, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Append the line of a step; numbers are written so that they can be read back exactly."""
        try:
            self._stream.write(f"{step},{loss!r},{learning_rate!r},{gradient_norm!r}\n")
        except OSError as error:
            raise OSError(f"{self._path} cannot be written: {explain_write(error)}") from error

    def sync(self) -> None:
        """Have everything on the disk."""
        self._stream.flush()
        sync(self._path)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
