"""The photographs of a training by its table [data]: those that are learnt from, and people for the sheets."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pose2id.datasets import READERS, read_dataset
from pose2id.ipg.training import FolderData, Record, Settings, WorldData
from pose2id.ipg.training.configuration import read_data
from pose2id.poses import Pose
from pose2id.synthetic import make_set

__all__ = ["choose_validation", "read_records"]

log = logging.getLogger(__name__)


def read_records(
    data: Mapping[str, Any] | WorldData | FolderData, settings: Settings, *, progress: bool = False
) -> list[Record]:
    """The pictures that are learnt from.

    Parameters
    ----------
    data : WorldData, FolderData or mapping
        Table ``[data]``.
    settings : Settings
        For the size of synthetic pictures.
    progress : bool
        A bar on stderr.

    Returns
    -------
    list of Record
        One for each picture; targets have a pose.

    Examples
    --------
    >>> from pose2id.ipg.training import Settings, WorldData
    >>> from pose2id.programs.training import read_records
    >>> world = WorldData(ids=[0, 2], cams=2, per_cam=1)
    >>> [record.identity for record in read_records(world, Settings(height=64, width=32))]
    [0, 0, 1, 1]
    """
    data = read_data(data, READERS)
    if isinstance(data, WorldData):
        return _draw_people(data, range(*data.ids), settings, progress=progress)
    records = _read_part(data, "train")
    if not records:
        raise ValueError(f"data: {data.kind} in {data.root} has no training pictures")
    return records


def choose_validation(
    data: WorldData | FolderData, settings: Settings, records: Sequence[Record], count: int = 8
) -> list[Record]:
    """Pictures of different people for the sheets, evenly from all there are.

    They show people outside the training set: of a world the identities after its last one, of a data set its queries.
    Where there are none, people of the training set.
    """
    if isinstance(data, WorldData):
        others = _draw_people(data, range(data.ids[1], data.ids[1] + count), settings)
    else:
        others = [record for record in _read_part(data, "query") if record.identity != -1]  # -1: nobody in particular
    log.info("the sheets show people %s the training set", "outside" if others else "of")
    firsts: dict[Any, Record] = {}
    for record in sorted(others or records, key=lambda record: not record.target):  # those with a pose first
        firsts.setdefault(record.identity, record)
    chosen = list(firsts.values())
    return chosen[:: max(1, len(chosen) // count)][:count]


def _draw_people(data: WorldData, people: range, settings: Settings, *, progress: bool = False) -> list[Record]:
    world = make_set(
        people,
        seed=data.seed,
        cams=data.cams,
        per_cam=data.per_cam,
        height=settings.height,
        width=settings.width,
        occlusion=data.occlusion,
        progress=progress,
    )
    return [
        Record(image, int(who), pose, target=data.occluded_targets or not hidden)
        for image, who, pose, hidden in zip(world.images, world.ids, world.poses, world.occluded, strict=True)
    ]


def _read_part(data: FolderData, part: str) -> list[Record]:
    """The pictures of a data set's part: train, query or gallery."""
    root = Path(data.root).expanduser()
    found = getattr(read_dataset(data.kind, root, **data.options), part)
    poses = _read_keypoints(Path(data.keypoints)) if data.keypoints else {}
    records = []
    for row, (path, who) in enumerate(zip(found.paths, found.ids, strict=True)):
        pose = poses.get(path.relative_to(root).as_posix())
        if found.keypoints is not None:
            pose = Pose(found.keypoints[row])
        seen = pose is not None and bool(pose.present.any())
        records.append(Record(path, int(who), pose if seen else None, target=seen))
    return records


def _read_keypoints(path: Path) -> dict[str, Pose]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it must hold an object: path, then 18 points; it holds a {type(content).__name__}")
        return {name: Pose(points) for name, points in content.items() if points is not None}
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
