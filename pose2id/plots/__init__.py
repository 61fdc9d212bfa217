"""Figures from results: CMC curves, a ranking sheet, a map of identities.

Every function takes results and gives axes or a figure back. None touches pyplot: nothing global changes, and
no display is needed. matplotlib comes with the extra ``plots`` and is imported at the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from pose2id.atomic import clear_leftovers, write_file
from pose2id.plots.drawing import check_matplotlib
from pose2id.plots.identities import plot_identities
from pose2id.plots.ranking import plot_cmc, plot_ranking

__all__ = ["check_matplotlib", "plot_cmc", "plot_identities", "plot_ranking", "write_picture"]


def write_picture(path: str | os.PathLike[str], save: Callable[[Path], object]) -> Path:
    """Have `save` write a picture to the path it is given, whole or not at all; its folder is made where there is none.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_picture(f"{folder}/a.png", lambda part: part.write_bytes(b"...")).name
    'a.png'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    clear_leftovers(target.parent)
    with write_file(target) as temporary:
        save(temporary)
    return target
