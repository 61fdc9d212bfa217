"""The command line: one file per group of commands, each reads, calls, writes.

`arguments` and `feature_arguments` say what every command takes, made of `options`; `choices` what these can be set to.
None of them loads what computes. `inputs` reads the files of `features`. Results go to stdout, progress and errors to
stderr. Bad input ends with one line and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module

from pose2id.cli.arguments import build_parser
from pose2id.cli.options import check_given
from pose2id.cli.printing import flush, prepare_log, prepare_streams, tell
from pose2id.cli.signals import EndedError, end_on_signals
from pose2id.errors import hide_passwords, is_out_of_memory, one_line
from pose2id.ipg import require_packages

NEED_GENERATOR = ("generate", "train", "walkthrough")
"""Modules here that import the generator, and so what the extra `ipg` installs."""
BAD_INPUT = (ValueError, TypeError, ImportError, OSError, MemoryError, FloatingPointError)
"""What a user can do something about; anything else is a fault of ours and keeps its traceback."""
NEEDS_LESS = {
    "centralize": "another --engine may need less; in Python centralize(..., out=) takes memory-mapped files",
    "rerank": "another --engine may need less; in Python rerank_top never holds the whole matrix",
    "evaluate": "another --engine may need less, and so does evaluating without --rerank",
    "extract": "run again when memory is free, or anew with a smaller --batch-size and --overwrite",
    "tune": "another --engine may need less",
    "generate": "what is finished stays; run again when memory is free, or elsewhere with a smaller --batch-size",
    "poses": "a smaller --batch-size needs less",
    "train": "a smaller batch_size in [training] needs less",
    "ipg-train": "a smaller batch_size in [training] needs less",
}
"""What to do where a command runs out of memory."""
_WHOLE = "where files hold 'features' too, --whole needs less"
NEEDS_LESS_OF_PARTS = {
    "centralize": _WHOLE,
    "rerank": f"{_WHOLE}; in Python pose2id.parts.part_neighbors never holds a matrix",
    "evaluate": f"evaluating without --rerank needs less; {_WHOLE}",
    "density": _WHOLE,
}
"""The same for part features, of which there is one engine."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code.

    That is 0; 1 where some inputs were skipped; 2 for bad input; 130 after Ctrl-C, and 128 plus its number after
    another signal that asks to end.
    """
    command = name = "pose2id"
    arguments: argparse.Namespace | None = None
    prepare_streams()
    try:
        with end_on_signals():
            try:
                arguments = build_parser().parse_args(argv)
            finally:  # here a failure can be told still, of --help as well
                flush()
            name, command = arguments.command, f"pose2id {arguments.command}"
            check_given(arguments)
            prepare_log(verbose=arguments.verbose)
            arguments.progress = not arguments.quiet and sys.stderr.isatty()
            module, _, function = arguments.run.partition(":")
            if module in NEED_GENERATOR:
                require_packages("the generator")
            code: int = getattr(import_module(f"pose2id.cli.{module}"), function)(arguments) or 0
            flush()
            return code
    except KeyboardInterrupt:
        code, words = 130, "interrupted"
    except EndedError as error:
        code, words = 128 + error.number, f"ended by {error}"
    except Exception as error:
        short = is_out_of_memory(error)
        advice = NEEDS_LESS_OF_PARTS if getattr(arguments, "of_parts", False) else NEEDS_LESS
        if not short and not isinstance(error, BAD_INPUT):
            raise
        code, words = 2, hide_passwords(one_line(error))
        if short and (name in advice or str(error)):
            words = ": ".join([f"out of memory ({words})", *filter(None, [advice.get(name)])])
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            code, words = 0, ""
    _give_up_stdout()
    with suppress(OSError):  # of a terminal that is gone
        tell(*[f"{command}: {words}"] * bool(words))
    return code


def _give_up_stdout() -> None:
    """Write what is left; Python would try again at its end, and fail with lines and an exit code of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
