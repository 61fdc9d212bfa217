"""Processes that start at once: forked from one that has loaded torch and diffusers, once for all tests of a worker."""

import multiprocessing
import os
import sys
from pathlib import Path
from unittest import mock

METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
CONTEXT = multiprocessing.get_context(METHOD)
CONTEXT.set_forkserver_preload(["pytest", "pose2id.cli", "pose2id.ipg.folders", "pose2id.programs.training"])


def start(action, *arguments, said, environment=None):
    """A process that calls `action`, a function of a module; what it prints goes to the files `said`.out and .err."""
    process = CONTEXT.Process(target=_run, args=(action, arguments, str(said), environment or {}))
    # Only a process of one thread can be forked safely, and the first one started is the one that is forked.
    with mock.patch.dict(os.environ, OMP_NUM_THREADS="1"):
        process.start()
    return process


def run(action, *arguments, said):
    """Exit code, output and errors of a process that has ended, see `start`."""
    process = start(action, *arguments, said=said)
    process.join()
    return (process.exitcode, *(Path(f"{said}.{suffix}").read_text(encoding="utf-8") for suffix in ("out", "err")))


def _run(action, arguments, said, environment):
    os.environ.update(environment)
    for stream, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}.{suffix}", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    sys.exit(action(*arguments))
