"""`pose2id train generator`, also called `ipg-train`."""

from __future__ import annotations

import argparse
import os

from pose2id.cli.printing import say
from pose2id.programs.training import run_training


def run_generator(arguments: argparse.Namespace) -> None:
    """`pose2id train generator CONFIG -o OUT`."""
    folder = run_training(arguments.config, arguments.output, progress=arguments.progress)
    if os.environ.get("RANK", "0") == "0":  # once, of several processes
        say(folder)
