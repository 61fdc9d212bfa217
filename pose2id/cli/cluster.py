"""`pose2id centralize --scheduler`: zarr groups on a Dask cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from pose2id.atomic import write_folder
from pose2id.cli.printing import say, tell
from pose2id.distributed import centralize
from pose2id.distributed.sources import read_zarr, write_zarr
from pose2id.files import LABELS

SUFFIX = ".zarr"


def wants_cluster(arguments: argparse.Namespace) -> bool:
    """Whether the command goes to a cluster; ValueError where only part of it does."""
    paths = {"the feature file": arguments.features, "-o": arguments.output}
    if arguments.scheduler is None:
        for name, path in paths.items():
            if Path(path).suffix == SUFFIX:
                raise ValueError(f"{name} {path} is a zarr group: add --scheduler local, or the address of a scheduler")
        return False
    for name, path in paths.items():
        if Path(path).suffix != SUFFIX:
            raise ValueError(f"--scheduler goes with {SUFFIX} groups, received {name} {path}")
    for name in ("ids", "cams", "side", "whole", "fill"):
        if getattr(arguments, name, None):
            raise ValueError(f"--{name} does not go with --scheduler: labels are taken from the zarr group itself")
    return True


def run_centralize(arguments: argparse.Namespace) -> None:
    """`pose2id centralize` with `--scheduler`."""
    if Path(arguments.output).exists() and not arguments.overwrite:
        raise ValueError(f"output {arguments.output} exists already; name another or pass --overwrite")
    arrays = read_zarr(arguments.features)
    if arguments.exclude_cams and "cams" not in arrays:
        raise ValueError(f"--exclude-cams needs an array 'cams' in {arguments.features}, it holds none")
    result = centralize(
        arrays["features"],
        arrays.get("generated"),
        arguments.eta,
        arguments.k1,
        arguments.k2,
        alpha=arguments.alpha,
        normalize=not arguments.no_normalize,
        exclude=arrays.get("cams" if arguments.exclude_cams else "groups"),
        engine=arguments.engine,
    )

    def report(words: str) -> None:
        if not arguments.quiet:
            tell(f"pose2id centralize: {words}")

    with write_folder(arguments.output, overwrite=arguments.overwrite) as folder:
        labels = {name: arrays[name] for name in LABELS if name in arrays}
        write_zarr(str(folder), result, labels, arguments.scheduler, report, source=arguments.features)
    say(f"{arguments.output}: {' x '.join(map(str, result.shape))}, {result.dtype}")
