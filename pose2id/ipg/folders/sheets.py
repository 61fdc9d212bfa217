"""Contact sheets of a folder: each reference, and under each pose map the picture, once all its pictures are there."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from pose2id.errors import require
from pose2id.images import PURPOSE, decode, draw_sheet, read_bytes
from pose2id.ipg.folders.output import OutputFolder, sheet_path
from pose2id.ipg.folders.sources import Photographs, reason_of

if TYPE_CHECKING:
    from PIL import Image

CELL = 256
"""Height of a picture on a contact sheet, in pixels."""


def draw_sheets(
    keys: Iterable[str],
    folder: OutputFolder,
    photographs: Photographs,
    pose_maps: Mapping[str, Image.Image],
    paths: Mapping[tuple[str, str], str],
) -> None:
    """Sheets of those references whose pictures are all there, where they are missing or have other poses.

    The poses on a sheet stand in its file, so that a run with more poses draws it again.
    """
    note = json.dumps(list(pose_maps))
    for key in keys:
        pictures_at = [paths.get((key, name), "") for name in pose_maps]
        if not folder.files.issuperset(pictures_at) or _is_there(sheet_path(key), folder, note):
            continue
        try:
            person = photographs.read(key)
            pictures = [decode(read_bytes(folder.root / path)) for path in pictures_at]
        except (ValueError, OSError) as error:
            photographs.skip(key, f"its pictures are there, its contact sheet cannot be drawn: {reason_of(error)}")
            continue
        width = max(1, round(CELL * pictures[0].width / pictures[0].height))
        sheet = draw_sheet([[None, *pose_maps.values()], [person, *pictures]], (width, CELL))
        folder.write_picture(sheet_path(key), sheet, note)


def _is_there(path: str, folder: OutputFolder, note: str) -> bool:
    """Whether there is a sheet with these poses that can be read."""
    if path not in folder.files:
        return False
    try:
        with require("PIL.Image", "ipg", PURPOSE).open(folder.root / path, formats=["PNG"]) as image:
            return bool(image.info.get("poses") == note)
    except (OSError, ValueError, SyntaxError):
        return False
