"""`pose2id train generator`, also called `ipg-train`."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from pose2id.cli.printing import say, tell
from pose2id.cli.signals import EndedError
from pose2id.programs.training import run_training
from pose2id.training.checkpoints import CHECKPOINTS, find_newest


def run_generator(arguments: argparse.Namespace) -> None:
    """`pose2id train generator CONFIG -o OUT`."""
    is_first = os.environ.get("RANK", "0") == "0"  # of several processes one speaks

    def report(words: str) -> None:
        tell(f"pose2id {arguments.command}: {words}")

    silent = arguments.quiet or arguments.progress  # a bar says as much
    try:
        folder = run_training(
            arguments.config, arguments.output, progress=arguments.progress, report=None if silent else report
        )
    except (KeyboardInterrupt, EndedError):
        if is_first and not arguments.quiet and find_newest(Path(arguments.output) / CHECKPOINTS) is None:
            report(f"there is no checkpoint in {arguments.output} yet: the same command begins anew")
        raise
    if is_first:
        say(folder)
