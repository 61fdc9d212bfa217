"""Cleaning of the records of a training, done once: what is kept is written into the folder of the run."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from pose2id.atomic import write_file
from pose2id.ipg.training import Cleaned, Record, clean, draw_dropped, find_processes
from pose2id.ipg.training.records import fingerprint

__all__ = ["clean_records"]

KEPT = "cleaning.json"
REPORT = "cleaning.txt"
DROPPED = "cleaning.png"
_BATCH = 32

log = logging.getLogger(__name__)


def clean_records(
    encoder: Any, records: Sequence[Record], quantile: float, folder: Path, *, progress: bool = False
) -> list[Record]:
    """Records with S_ref and S_trg of supplementary 7.1, see `pose2id.ipg.training.clean`.

    What is kept is remembered in `folder` as ``cleaning.json``, with a report and a sheet of what drops out. It is read
    again for the same records and the same quantile; then nothing is encoded.
    """
    path = folder / KEPT
    made_of = {"records": fingerprint(records), "quantile": quantile}
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if {name: kept.get(name) for name in made_of} != made_of:
        features = _encode(encoder, records, progress=progress)
        names, poses = [record.identity for record in records], [record.pose for record in records]
        cleaned = clean(features, names, poses, quantile=quantile)
        kept = made_of | {"references": _rows(cleaned.reference), "targets": _rows(cleaned.target)}
        log.info("%s", cleaned.report())
        if find_processes().is_main_process:
            _write(folder, kept, cleaned, records)
    references, targets = set(kept["references"]), set(kept["targets"])
    return [
        replace(record, reference=row in references, target=record.target and row in targets)
        for row, record in enumerate(records)
    ]


def _encode(encoder: Any, records: Sequence[Record], *, progress: bool) -> NDArray[np.float32]:
    encoder = encoder.to(find_processes().device)
    rows = []
    for start in tqdm(range(0, len(records), _BATCH), desc="encoding", unit="batch", disable=not progress):
        pictures = [Image.fromarray(record.read()) for record in records[start : start + _BATCH]]
        with torch.no_grad():
            pixels = encoder.preprocess(pictures).to(encoder.device, encoder.dtype)
            rows.append(encoder(pixels).float().cpu().numpy())
    return np.concatenate(rows)


def _rows(kept: NDArray[np.bool_]) -> list[int]:
    return [int(row) for row in np.flatnonzero(kept)]


def _write(folder: Path, kept: dict[str, Any], cleaned: Cleaned, records: Sequence[Record]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with write_file(folder / REPORT) as part:
        part.write_text(cleaned.report() + "\n", encoding="utf-8")
    with write_file(folder / DROPPED) as part:
        draw_dropped([record.image for record in records], cleaned).save(part)
    with write_file(folder / KEPT) as part:  # last: where it is, the others are
        part.write_text(json.dumps(kept), encoding="utf-8")
