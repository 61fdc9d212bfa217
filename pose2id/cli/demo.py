"""`pose2id demo`: the method on a small real set that comes with the package."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from pose2id.cli.arguments import DEMO_FOLDER
from pose2id.cli.printing import flush, say, say_json, tell
from pose2id.datasets import load_demo
from pose2id.errors import MissingExtraError
from pose2id.plots import check_matplotlib
from pose2id.programs import demo


def run(arguments: argparse.Namespace) -> None:
    """`pose2id demo`."""
    if arguments.people is not None:
        raise ValueError("--people goes with --generate: the demo without it has a fixed set")
    folder = picture_folder(arguments, demo.PICTURES)
    draws = not arguments.no_pictures and can_plot("pictures", "drawing the pictures")
    data = load_demo()
    rows = demo.run_demo(data, progress=arguments.progress)
    if not arguments.json:
        say(*demo.format_table(rows).split("\n"))
        flush()
    pictures = demo.draw_pictures(data, folder) if draws else []
    if arguments.json:
        say_json({"rows": demo.rows_as_dicts(rows), "pictures": [str(p) for p in pictures]})
    elif pictures:
        say("", f"Pictures in {folder}: {', '.join(p.name for p in pictures)}")


def can_plot(what: str, purpose: str) -> bool:
    """Whether there is matplotlib; where not, tells before the work what will be missing."""
    try:
        check_matplotlib(purpose)
    except MissingExtraError as error:
        tell(f"No {what}: {error}")
        return False
    return True


def picture_folder(arguments: argparse.Namespace, names: Sequence[str]) -> Path:
    """Where a demo's pictures go; the folder of its own may hold older ones, one that was named may not."""
    folder = Path(arguments.output or DEMO_FOLDER)
    if not arguments.no_pictures:
        there = [name for name in names if (folder / name).exists()]
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output {folder} must be a folder, it is a file; name another with -o")
        if arguments.output and there and not arguments.overwrite:
            raise ValueError(f"output {folder / there[0]} exists already; name another folder or pass --overwrite")
    return folder
