"""The command line: one file per group of commands, each reads, calls, writes.

`arguments` says what every command takes, `choices` what options can be set to; neither loads what computes. Results
go to stdout, progress and errors to stderr. Bad input ends with one line and exit code 2.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pose2id.cli.arguments import build_parser
from pose2id.errors import one_line
from pose2id.ipg import require_packages

NEED_GENERATOR = ("generate", "train", "walkthrough")
"""Modules here that import the generator, and so what the extra `ipg` installs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0; 1 where some inputs were skipped; 2 for bad input)."""
    command = "pose2id"
    _prepare_streams()
    try:
        try:
            arguments = build_parser().parse_args(argv)
        finally:  # here a failure can be told still, of --help as well
            sys.stdout.flush()
        command = f"pose2id {arguments.command}"
        if arguments.verbose:
            logging.basicConfig(format="%(name)s: %(message)s")
            logging.getLogger("pose2id").setLevel(logging.INFO)
        arguments.progress = not arguments.quiet and sys.stderr.isatty()
        module, _, function = arguments.run.partition(":")
        if module in NEED_GENERATOR:
            require_packages(command)
        code: int = getattr(import_module(f"pose2id.cli.{module}"), function)(arguments) or 0
        sys.stdout.flush()
    except (ValueError, TypeError, ImportError, OSError, MemoryError, FloatingPointError) as error:
        try:
            sys.stdout.flush()
        except OSError:  # Python would try again at its end, and fail with lines and an exit code of its own
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            return 0
        print(f"{command}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    return code


def _prepare_streams() -> None:
    """Give closed streams (`>&-`) somewhere to go; characters that stdout cannot show are escaped, as on stderr."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
