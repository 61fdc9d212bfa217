"""`pose2id synthetic`: a data set of people that do not exist."""

from __future__ import annotations

import argparse

from pose2id.cli.printing import say
from pose2id.synthetic import write_dataset


def run(arguments: argparse.Namespace) -> None:
    """`pose2id synthetic -o OUT`."""
    sizes = ("ids", "seed", "cams", "per_cam", "height", "width")
    options = (*sizes, "occluded", "infrared", "masks", "attributes", "overwrite")
    given = {name: getattr(arguments, name) for name in options}
    output = arguments.folder if arguments.output is None else arguments.output
    folder = write_dataset(output, progress=arguments.progress, **given)
    pictures = sum(1 for _ in folder.rglob("*.jpg"))
    say(f"{folder}: {pictures:,} synthetic pictures of {arguments.ids:,} people that do not exist")
