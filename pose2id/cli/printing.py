"""What a command prints: the one place that writes to stdout and stderr, so that nothing else reaches a terminal.

A name may hold what a terminal obeys (escape sequences, line ends, changes of direction) or what a stream cannot
encode; both are written as backslash escapes.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from pose2id.errors import escape


def prepare_streams() -> None:
    """Give closed streams (`>&-`) somewhere to go; what others write to them, such as `--help`, is encoded as well."""
    sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115  as long as the process
    sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # it writes first what it holds
                stream.reconfigure(errors="backslashreplace")


def prepare_log(*, verbose: bool) -> None:
    """Show warnings of the libraries, or with `verbose` all that this one logs, a line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line("%(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    # Where memory is so short that not even its thread can start, more is to be said than that.
    warnings.filterwarnings("ignore", message="tqdm:disabling monitor support")
    if verbose:
        logging.getLogger("pose2id").setLevel(logging.INFO)


class _Line(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:
        return escape(super().formatMessage(record))


def say(*lines: object) -> None:
    """Print lines to stdout, such as those of a table."""
    _write(sys.stdout, lines)


def say_json(content: Any, *, indent: int | None = 1) -> None:
    """Print JSON to stdout, all of it ASCII."""
    say(*json.dumps(content, indent=indent).split("\n"))


def tell(*lines: object) -> None:
    """Print lines to stderr."""
    _write(sys.stderr, lines)


def flush() -> None:
    """Have what was said written; OSError where that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OSError(f"standard output cannot be written: {error}") from error


def _write(stream: TextIO, lines: tuple[object, ...]) -> None:
    text = "".join(f"{escape(str(line))}\n" for line in lines)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    except BrokenPipeError:
        raise
    except OSError as error:
        name = "standard output" if stream is sys.stdout else "standard error"
        raise OSError(f"{name} cannot be written: {error}") from error
