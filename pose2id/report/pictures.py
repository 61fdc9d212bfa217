"""Photographs as small pictures inside a page."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path

from pose2id.images import read_image

HEIGHT, WIDTH = 112, 84
QUALITY = 70


class Pictures:
    """Data URIs of photographs below a folder, each once, by number."""

    def __init__(self, root: str | os.PathLike[str] | None) -> None:
        self.root = None if root is None else Path(root)
        self.uris: list[str] = []
        self.missing: list[str] = []
        self._numbers: dict[str, int | None] = {}

    def number(self, path: str | None) -> int | None:
        """The number of a photograph's picture; None where it cannot be shown."""
        if self.root is None or path is None:
            return None
        if path not in self._numbers:
            try:
                self._numbers[path] = self._add(self.root / path)
            except (ValueError, OSError):
                self._numbers[path] = None
                self.missing.append(path)
        return self._numbers[path]

    def _add(self, path: Path) -> int:
        if not path.resolve().is_relative_to(self.root.resolve()):  # type: ignore[union-attr] # only asked with a root
            raise ValueError(f"{path} leaves the folder")
        picture = read_image(path)
        picture.thumbnail((WIDTH, HEIGHT))
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=QUALITY)
        self.uris.append(f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}")
        return len(self.uris) - 1
