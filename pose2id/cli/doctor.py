"""`pose2id doctor`: what is installed, which engines work, what to install for the rest."""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
from importlib import metadata
from typing import Any

import torch

from pose2id import __version__
from pose2id.cli.printing import say, say_json
from pose2id.neighbors import ENGINES, choose_engine, describe_engines
from pose2id.threads import choose_threads, count_others, find_limits


def run(arguments: argparse.Namespace) -> None:
    """`pose2id doctor`."""
    report: dict[str, Any] = {
        "pose2id": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in ("numpy", "scipy", "torch", "tqdm", "scikit-learn")},
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "cores": _describe_cores(),
        "engines": [
            {"name": name, "works": works, "detail": detail, "finds": "all" if ENGINES[name].exact else "most"}
            for name, works, detail in describe_engines()
        ],
        "extras": {
            extra: {package: _version(package) for package in packages} for extra, packages in read_extras().items()
        },
    }
    if arguments.rows is not None:
        rows: int = arguments.rows
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        shape = {"width": arguments.width, "k": arguments.k}
        taken = {device: choose_engine(rows, device, **shape)._asdict() for device in devices}
        report["choice"] = {"rows": rows, **shape, "taken": taken}
    if arguments.json:
        say_json(report)
        return
    say(f"pose2id {report['pose2id']}, Python {report['python']}, {report['platform']}")
    say("packages  " + ", ".join(f"{name} {version or '-'}" for name, version in report["packages"].items()))
    say("devices   " + ", ".join([f"CPU ({report['threads']} threads)", *report["cuda"]]))
    _print_cores(report["cores"])
    say("engines")
    for engine in report["engines"]:
        say(f"  {engine['name']:<11}{'works' if engine['works'] else 'no':<7}{engine['finds']:<6}{engine['detail']}")
    if "choice" in report:
        _print_choice(report["choice"])
    say("extras")
    for extra, packages in report["extras"].items():
        missing = [package for package, version in packages.items() if version is None]
        other = {"faiss-cpu": "faiss-gpu", "faiss-gpu": "faiss-cpu"}.get(extra)
        words = ", ".join(f"{package} {version}" for package, version in packages.items() if version)
        if missing:
            words = f"pip install 'pose2id[{extra}]'   (missing: {', '.join(missing)})"
            if other and report["extras"][other][other]:
                words = f"pip uninstall -y {other} && pip install 'pose2id[{extra}]'   (one of the two, never both)"
        say(f"  {extra:<11}{words}")


def _describe_cores() -> dict[str, Any]:
    """What threads may have here, and how many a call would use now."""
    asked, limits, others = torch.get_num_threads(), find_limits(), count_others()
    used = choose_threads(asked, limits, os.cpu_count() or 1, others)
    quota = None if math.isinf(limits.quota) else limits.quota
    warnings = []
    if asked > limits.threads:
        warnings.append(f"torch is told to use {asked} threads, no more than {limits.threads} should run here")
    if used < min(asked, limits.threads):
        warnings.append(f"the machine is busy: {others} threads of other programs want to run")
    return {"affinity": limits.cores, "quota": quota, "others": others, "used": used, "warnings": warnings}


def _print_cores(cores: dict[str, Any]) -> None:
    quota = "no quota" if cores["quota"] is None else f"a quota of {cores['quota']:g} cores"
    others = f"{cores['others']} threads of other programs run"
    say(f"cores     {cores['affinity']} allowed, {quota}, {others}: a call uses {cores['used']} threads now")
    for warning in cores["warnings"]:
        say(f"  warning    {warning}")


def _print_choice(choice: dict[str, Any]) -> None:
    say(f"auto      for the {choice['k']} nearest of {choice['rows']:,} rows of {choice['width']:,} columns")
    for device, taken in choice["taken"].items():
        say(f"  {device:<11}{taken['engine']}: {taken['reason']}")
        if taken["hint"]:
            say(f"  {'':<11}{taken['hint']} would be much faster and miss a few neighbours")


def read_extras() -> dict[str, list[str]]:
    """The packages of every extra, as the installed distribution names them; `all` is no extra of its own."""
    extras: dict[str, list[str]] = {}
    for requirement in metadata.requires("pose2id") or []:
        package, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if package and extra and extra[1] != "all":
            extras.setdefault(extra[1], []).append(package[0])
    return extras


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
