"""What is reported of every step of a training: the table of losses, TensorBoard, and a bar."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tqdm import tqdm

from pose2id.atomic import sync, write_file
from pose2id.errors import require

__all__ = ["LossLog", "Reports"]

LOSSES = "losses.csv"
_HEADER = "step,loss,learning_rate,gradient_norm"


class Reports:
    """The reports of a run in a folder, from the process that makes them.

    Parameters
    ----------
    folder : pathlib.Path
    done, total : int
        Steps done, and of the whole run; what was reported of later steps is removed.
    tensorboard, progress : bool
    """

    def __init__(self, folder: Path, done: int, total: int, *, tensorboard: bool, progress: bool) -> None:
        self._losses = LossLog(folder / LOSSES, done)
        self._board: Any = None
        if tensorboard:
            writer = require("torch.utils.tensorboard", "train", "Settings.tensorboard").SummaryWriter
            self._board = writer(str(folder / "tensorboard"), purge_step=done + 1)
        self._bar = tqdm(total=total, initial=done, desc="training", unit="step", disable=not progress)

    def add(self, step: int, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Report a step."""
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self._bar.update()
        self._losses.add(step, loss, learning_rate, gradient_norm)
        if self._board:
            values = {"loss": loss, "learning_rate": learning_rate, "gradient_norm": gradient_norm}
            for name, value in values.items():
                self._board.add_scalar(f"train/{name}", value, step)

    def sync(self) -> None:
        """Have the table of losses on the disk, before a checkpoint says that these steps are done."""
        self._losses.sync()

    def close(self) -> None:
        """Close bar and files."""
        self._bar.close()
        self._losses.close()
        if self._board:
            self._board.close()


class LossLog:
    """A table of losses that grows by a line a step.

    Parameters
    ----------
    path : pathlib.Path
    done : int
        Lines of later steps are removed: they will be written again.
    """

    def __init__(self, path: Path, done: int) -> None:
        self._path = path
        lines = [_HEADER]
        if done:
            read = path.read_text(encoding="utf-8").splitlines()[1:] if path.exists() else []
            lines += [line for line in read if line.count(",") == 3 and int(line.split(",")[0]) <= done]
        with write_file(path) as part:
            part.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self._stream = path.open("a", encoding="utf-8", buffering=1)

    def add(self, step: int, loss: float, learning_rate: float, gradient_norm: float) -> None:
        """Append the line of a step; numbers are written so that they can be read back exactly."""
        self._stream.write(f"{step},{loss!r},{learning_rate!r},{gradient_norm!r}\n")

    def sync(self) -> None:
        """Have everything on the disk."""
        self._stream.flush()
        sync(self._path)

    def close(self) -> None:
        """Close the file."""
        self._stream.close()
