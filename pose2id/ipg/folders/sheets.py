"""Contact sheets of a folder: each reference, and under each pose map the picture, once all its pictures are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pose2id.errors import require
from pose2id.images import PURPOSE, decode, draw_sheet, read_bytes
from pose2id.ipg.folders.layout import sheet_path
from pose2id.ipg.folders.output import OutputFolder
from pose2id.ipg.folders.sources import Photographs, reason_of

if TYPE_CHECKING:
    from PIL import Image

CELL = 256
"""Height of a picture on a contact sheet, in pixels."""


@dataclass
class ContactSheets:
    """Draws ``sheets/<reference>.png``; the poses on it stand in the file, so that a run with more draws it again."""

    folder: OutputFolder
    photographs: Photographs
    pose_maps: Mapping[str, Image.Image]
    paths: Mapping[tuple[str, str], str]

    def draw(self, keys: Iterable[str]) -> None:
        """Sheets of those references whose pictures are all there, where they are missing or have other poses."""
        note = json.dumps(list(self.pose_maps))
        for key in keys:
            paths = [self.paths.get((key, name), "") for name in self.pose_maps]
            if not self.folder.files.issuperset(paths) or self._is_there(key, note):
                continue
            try:
                person = self.photographs.read(key)
                pictures = [decode(read_bytes(self.folder.root / path)) for path in paths]
            except (ValueError, OSError) as error:
                reason = f"its pictures are there, its contact sheet cannot be drawn: {reason_of(error)}"
                self.photographs.skip(key, reason)
                continue
            width = max(1, round(CELL * pictures[0].width / pictures[0].height))
            sheet = draw_sheet([[None, *self.pose_maps.values()], [person, *pictures]], (width, CELL))
            self.folder.write_picture(sheet_path(key), sheet, note)

    def _is_there(self, key: str, note: str) -> bool:
        if sheet_path(key) not in self.folder.files:
            return False
        try:
            pillow = require("PIL.Image", "ipg", PURPOSE)
            with pillow.open(self.folder.root / sheet_path(key), formats=["PNG"]) as image:
                return bool(image.info.get("poses") == note)
        except (OSError, ValueError, SyntaxError):
            return False
