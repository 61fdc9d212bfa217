"""Released files from the Hugging Face Hub into its cache, at their pinned revisions."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

from pose2id.errors import require
from pose2id.hub import fetch
from pose2id.ipg.weights.table import FILES, PURPOSE

AGAIN = "run: pose2id weights download (goes on where it broke off)"


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
            fetch(
                file.repository,
                file.name,
                file.revision,
                size=file.size,
                sha256=file.sha256,
                purpose=PURPOSE,
                again=AGAIN,
            )
            for file in FILES
            if file.name in wanted
        ]
    return paths[0].parent
