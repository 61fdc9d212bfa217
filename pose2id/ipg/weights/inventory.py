"""What of the released weights is on this machine."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pose2id.errors import require
from pose2id.ipg.weights.table import FILES, PURPOSE, converted_folder


def info() -> list[dict[str, Any]]:
    """What the released weights are and which of them are on this machine; nothing is fetched.

    Returns
    -------
    list of dict
        One for each of `FILES`: its fields, "estimate" (bytes if all numbers are float32), "path" (None where it is
        not in the Hub's cache) and "bytes" (size on this machine, or None). The last one is the converted folder.
    """
    find = require("huggingface_hub", "ipg", PURPOSE).try_to_load_from_cache
    rows: list[dict[str, Any]] = []
    for file in FILES:
        found = find(file.repository, file.name, revision=file.revision)
        path = Path(found) if isinstance(found, str) else None  # else None, or an object: known not to exist
        rows.append(asdict(file) | {"estimate": file.estimate, "path": path, "bytes": path and path.stat().st_size})
    row = dict.fromkeys(rows[0])
    row |= {"name": "converted", "what": "all of these, as from_pretrained reads them", "licence": "as its sources"}
    if ((folder := converted_folder()) / "model_index.json").is_file():
        row["path"] = folder
        row["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [{**row, "path": row["path"] and str(row["path"])} for row in [*rows, row]]
