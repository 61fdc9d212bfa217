"""`pose2id train generator`, also called `ipg-train`."""

from __future__ import annotations

import argparse
import os
from functools import partial

from pose2id.cli.trainings import run_training
from pose2id.programs import training


def run_generator(arguments: argparse.Namespace) -> None:
    """`pose2id train generator CONFIG -o OUT`."""
    train = partial(training.run_training, arguments.config, arguments.output)
    run_training(arguments, train, speaks=os.environ.get("RANK", "0") == "0")
