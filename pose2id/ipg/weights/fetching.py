"""Released files on this machine: which of them are here, and the rest fetched from the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pose2id.errors import require
from pose2id.hub import fetch
from pose2id.ipg.weights.table import FILES, PURPOSE, TINY_SAYS, converted_folder

AGAIN = f"run: pose2id weights download (goes on where it broke off). {TINY_SAYS}"


def download(names: Iterable[str] | None = None, *, progress: bool = True) -> Path:
    """Fetch released files into the cache of the Hugging Face Hub, at their pinned revisions.

    What is there already is not fetched again, what broke off goes on. Nothing is asked. HF_HOME, HF_ENDPOINT and
    HF_HUB_OFFLINE are honoured.

    Parameters
    ----------
    names : iterable of str, optional
        Of the names in `FILES`; None: all.
    progress : bool
        Bars on stderr.

    Returns
    -------
    pathlib.Path
        The folder of the first of these files, in the order of `FILES`; for None the one that `load_components` reads.

    Raises
    ------
    OSError
        When a file is not there and cannot be fetched; says where it was looked for and what to do.
    ValueError
        For an unknown name, and for a file whose size or SHA-256 is not that of `FILES`.
    """
    known = [file.name for file in FILES]
    wanted = known if names is None else list(names)
    if not wanted or not set(wanted) <= set(known):
        raise ValueError(f"names must be one or more of {', '.join(known)}; received {wanted!r}")
    hidden = require("huggingface_hub.utils", "ipg", PURPOSE).disable_progress_bars
    with nullcontext() if progress else hidden():
        paths = [
            fetch(f.repository, f.name, f.revision, size=f.size, sha256=f.sha256, purpose=PURPOSE, again=AGAIN)
            for f in FILES
            if f.name in wanted
        ]
    return paths[0].parent


def info() -> list[dict[str, Any]]:
    """What the released weights are and which of them are on this machine; nothing is fetched.

    One row for each of `FILES`: its fields, "estimate" (bytes if all numbers are float32), "path" (None where it is not
    in the Hub's cache) and "bytes" (size on this machine, or None). The last one is the converted folder.
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
