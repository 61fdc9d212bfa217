"""Photographs as small pictures inside a page."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path

from pose2id.images import read_image

HEIGHT, WIDTH = 112, 84
QUALITY = 70


class Pictures:
    """Data URIs of photographs below a folder, or one of the queries and one of the gallery; each once, by number."""

    def __init__(
        self,
        roots: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
        size: tuple[int, int] = (WIDTH, HEIGHT),
    ) -> None:
        folders = [roots] if isinstance(roots, str | os.PathLike) else list(roots or ())
        if len(folders) > 2:
            raise ValueError(f"images must be one folder, or one for each side, received {len(folders)}")
        self.roots = [Path(folder) for folder in folders]
        self.size = size
        self.uris: list[str] = []
        self.missing: list[str] = []  # not below the folder
        self.damaged: list[str] = []
        self._numbers: dict[Path, int | None] = {}

    @property
    def where(self) -> str:
        """The folders in words."""
        return " and ".join(dict.fromkeys(map(str, self.roots)))

    def number(self, path: str | None, side: int = 0) -> int | None:
        """The number of a photograph's picture, of the first folder or the last (-1); None where it cannot be shown."""
        if not self.roots or path is None:
            return None
        root = self.roots[side]
        full = root / path
        if full not in self._numbers:
            try:
                self._numbers[full] = self._add(full, root)
            except (ValueError, OSError):
                self._numbers[full] = None
                (self.damaged if self._is_there(full, root) else self.missing).append(path)
        return self._numbers[full]

    @staticmethod
    def _is_there(path: Path, root: Path) -> bool:
        # Path.resolve raises RuntimeError for a link that leads to itself, Path.is_file OSError for a very long name.
        there = os.path.isfile(path)  # noqa: PTH113
        return there and Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))

    def _add(self, path: Path, root: Path) -> int:
        if not self._is_there(path, root):
            raise ValueError(f"{path} is no file below {root}")
        picture = read_image(path)
        picture.thumbnail(self.size)
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY)
        self.uris.append(f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}")
        return len(self.uris) - 1
