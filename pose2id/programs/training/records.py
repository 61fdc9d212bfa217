"""The photographs of a training by its table [data]: read, cleaned once, and people chosen for the sheets."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pose2id.atomic import write_file
from pose2id.datasets import READERS, read_dataset
from pose2id.documents import read_json
from pose2id.ipg.training import FolderData, Record, Settings, WorldData, clean, draw_dropped, find_processes
from pose2id.ipg.training.configuration import read_data
from pose2id.ipg.training.records import fingerprint
from pose2id.poses import Pose
from pose2id.programs.keypoints import check_found, find_pose, read_poses
from pose2id.progress import tqdm
from pose2id.synthetic import make_set
from pose2id.validation import check_number, take_path

KEPT = "cleaning.json"
REPORT = "cleaning.txt"
DROPPED = "cleaning.png"
_BATCH = 32

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
    check_found([record.pose for record in records], [Path(record.image) for record in records], data)
    return records


def clean_records(
    encoder: Any, records: Sequence[Record], quantile: float, folder: Path, *, progress: bool = False
) -> list[Record]:
    """Records with the sets S_ref and S_trg of `pose2id.ipg.training.clean`, remembered in a folder with a report.

    For the same records and the same quantile they are read from there, and nothing is encoded.
    """
    path = folder / KEPT
    is_main = find_processes().is_main_process  # the others read what this one has found, and hash nothing
    made_of: dict[str, Any] = {"records": fingerprint(records), "quantile": quantile} if is_main else {}
    kept: dict[str, Any] = _read_kept(path) if path.exists() else {}
    if not kept or any(kept[name] != value for name, value in made_of.items()):
        features = _encode(encoder, records, progress=progress)
        names, poses = [record.identity for record in records], [record.pose for record in records]
        cleaned = clean(features, names, poses, quantile=quantile)
        rows = {"references": np.flatnonzero(cleaned.reference), "targets": np.flatnonzero(cleaned.target)}
        kept = made_of | {name: found.tolist() for name, found in rows.items()}
        log.info("%s", cleaned.report())
        if is_main:
            folder.mkdir(parents=True, exist_ok=True)
            with write_file(folder / REPORT) as part:
                part.write_text(cleaned.report() + "\n", encoding="utf-8")
            with write_file(folder / DROPPED) as part:
                draw_dropped([record.image for record in records], cleaned).save(part)
            with write_file(path) as part:  # last: where it is, the others are
                part.write_text(json.dumps(kept), encoding="utf-8")
    references, targets = set(kept["references"]), set(kept["targets"])
    if max(references, default=0) >= len(records):
        raise ValueError(f"{path} names row {max(references)} of {len(records)}; remove it to clean anew")
    return [
        replace(record, reference=row in references, target=record.target and row in targets)
        for row, record in enumerate(records)
    ]


def _read_kept(path: Path) -> dict[str, Any]:
    """What `clean_records` wrote, and somebody may have edited."""
    try:
        kept: dict[str, Any] = read_json(path)
        if not isinstance(kept, dict) or kept.keys() != {"records", "quantile", "references", "targets"}:
            raise ValueError(f"{path} must hold records, quantile, references and targets")
        check_number(kept["quantile"], f"{path}: quantile", 0, 0.5)
        for name in ("references", "targets"):
            rows = kept[name]
            if not isinstance(rows, list) or not all(type(row) is int and row >= 0 for row in rows):
                raise TypeError(f"{path}: {name} must be a list of rows, received {str(rows)[:100]}")
            if len(set(rows)) < len(rows):
                raise ValueError(f"{path}: {name} holds a row twice")
        if not set(kept["targets"]) <= set(kept["references"]):
            raise ValueError(f"{path}: every target must be a reference")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{error}; remove it to clean anew") from error
    return kept


def _encode(encoder: Any, records: Sequence[Record], *, progress: bool) -> NDArray[np.float32]:
    encoder = encoder.to(find_processes().device)
    rows = []
    for start in tqdm(range(0, len(records), _BATCH), desc="encoding", unit="batch", disable=not progress):
        pictures = [Image.fromarray(record.read()) for record in records[start : start + _BATCH]]
        with torch.no_grad():
            pixels = encoder.preprocess(pictures).to(encoder.device, encoder.dtype)
            rows.append(encoder(pixels).float().cpu().numpy())
    return np.concatenate(rows)


def choose_validation(
    data: WorldData | FolderData, settings: Settings, records: Sequence[Record], count: int = 8
) -> list[Record]:
    """Pictures of `count` different people for the sheets, where there are any of people outside the training set.

    These are the identities after the last one of a world, and the queries of a data set.
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
    root = take_path(data.root, "data: root")
    found = getattr(read_dataset(data.kind, root, **data.options), part)
    poses = read_poses(data)
    records = []
    for row, (path, who) in enumerate(zip(found.paths, found.ids, strict=True)):
        pose = find_pose(poses, path, data)
        if found.keypoints is not None:
            pose = Pose(found.keypoints[row])
        seen = pose is not None and bool(pose.present.any())
        records.append(Record(path, int(who), pose if seen else None, target=seen))
    return records
