"""`pose2id train encoder`."""

from __future__ import annotations

import argparse
from functools import partial

from pose2id.cli.devices import take_device
from pose2id.cli.trainings import run_training
from pose2id.programs.encoders import run_encoder_training


def run_encoder(arguments: argparse.Namespace) -> None:
    """`pose2id train encoder CONFIG -o OUT`."""
    device = str(take_device(arguments.device))
    run_training(arguments, partial(run_encoder_training, arguments.config, arguments.output, device=device))
