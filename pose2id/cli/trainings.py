"""What the trainings of all networks say."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from pose2id.cli.printing import say, tell
from pose2id.cli.signals import EndedError
from pose2id.training.checkpoints import CHECKPOINTS, find_newest


def run_training(arguments: argparse.Namespace, train: Callable[..., Path], *, speaks: bool = True) -> None:
    """Train, by a function of ``progress`` and ``report``, and say where the result is.

    Of several processes one `speaks`.
    """

    def report(words: str) -> None:
        tell(f"pose2id {arguments.command}: {words}")

    silent = arguments.quiet or arguments.progress  # a bar says as much
    try:
        folder = train(progress=arguments.progress, report=None if silent else report)
    except (KeyboardInterrupt, EndedError):
        if speaks and not arguments.quiet and find_newest(Path(arguments.output) / CHECKPOINTS) is None:
            report(f"there is no checkpoint in {arguments.output} yet: the same command begins anew")
        raise
    if speaks:
        say(folder)
