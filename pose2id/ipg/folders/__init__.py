"""Folders of generated pictures that a run may fill, be killed at any moment, and go on with where it was.

The last bits of a picture depend on what else is in its batch. So the unit of work is a batch, and a manifest in the
folder fixes, before anything is drawn, which references and poses each unit has and with which settings. A unit is
finished when all its pictures are there; an unfinished one is drawn again whole. Every file is there completely or not
at all. What is there when a run ends does not depend on how often it was killed before.

- `generation`: `generate_folder`, the run itself
- `sources`: photographs by key and poses by name, as the command line and a run take them
- `manifest`: `FolderSettings`, what a folder holds, and whether it fits what is asked for
- `plan`: which units are still to be drawn
- `output`: the folder on the disk: where each picture goes, what is there, how it is written
- `sheets`: contact sheets
- `pictures`: what such a folder holds of some photographs
"""

from __future__ import annotations

from pose2id.ipg.folders.generation import Report, generate_folder
from pose2id.ipg.folders.manifest import LAYOUTS, FolderSettings
from pose2id.ipg.folders.pictures import find_pictures
from pose2id.ipg.folders.sources import collect_poses, collect_references

__all__ = [
    "LAYOUTS",
    "FolderSettings",
    "Report",
    "collect_poses",
    "collect_references",
    "find_pictures",
    "generate_folder",
]
