"""`pose2id gallery`: a living gallery, its changes, searches and publications; prints JSON."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pose2id.cli.gallery_arguments import SETTINGS
from pose2id.cli.printing import say_json
from pose2id.documents import read_text
from pose2id.files import FeatureFile, read_features
from pose2id.gallery import Gallery
from pose2id.gallery.arguments import check_rows, name_some, take_time

NAMES = ("features", "cams", "groups", "paths", "generated")


def run_add(arguments: argparse.Namespace) -> None:
    """`pose2id gallery add`."""
    given = _take_settings(arguments)
    files = _read_rows(arguments)
    name = arguments.exclude
    lacking = next((path for path, rows in files if name and rows[name] is None), None)
    if lacking is not None:  # before a gallery is made with this setting
        raise ValueError(f"--exclude-{name} needs an array '{name}' in {lacking}, it holds none")
    seen: set[str] = set()
    for path, rows in files:
        if twice := [key for key in rows["keys"] if key in seen]:
            raise ValueError(f"{path}: keys must be new, in the files before it are already: {name_some(twice)}")
        seen.update(rows["keys"])
    with Gallery.open(arguments.gallery, **given) as gallery:
        _change(gallery, gallery.add, files, "added")


def _take_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that were named."""
    given = {name: value for name in SETTINGS if (value := getattr(arguments, name))}
    given |= {name: value for name in ("k1", "k2", "alpha", "eta") if (value := getattr(arguments, name)) is not None}
    if given.pop("no_normalize", False):
        given["normalize"] = False
    return given


def run_recompute(arguments: argparse.Namespace) -> None:
    """`pose2id gallery recompute`."""
    with Gallery.open(arguments.gallery, create=False, recompute=True, **_take_settings(arguments)) as gallery:
        say_json({"version": gallery.version, "rows": len(gallery), "settings": gallery.settings})


def run_update(arguments: argparse.Namespace) -> None:
    """`pose2id gallery update`."""
    files = _read_rows(arguments)
    with _open(arguments) as gallery:
        _change(gallery, gallery.update, files, "updated")


def _read_rows(arguments: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Each feature file, and what it gives to `Gallery.add` and `Gallery.update`."""
    if arguments.keys and len(arguments.features) > 1:
        raise ValueError("--keys goes with one feature file; call the command once for each")
    moment = _take_time(arguments.time, "--time")
    rows = []
    for file in [_read(arguments, path) for path in arguments.features]:
        keys = _find_keys(arguments, file)
        given = {"features": file.features, "keys": keys, "generated": file.generated, "cams": file.cams}
        times = None if moment is None else [moment] * len(keys)
        rows.append((str(file.path), {**given, "groups": file.groups, "times": times}))
    for path, given in rows:  # before a gallery is made, or one of the files is taken
        with _named(path):
            check_rows(**given)
    return rows


def _change(gallery: Gallery, change: Callable[..., int], files: list[tuple[str, dict[str, Any]]], said: str) -> None:
    """One change for each file."""
    for number, (path, rows) in enumerate(files):
        with _named(path, f"; the files before it are {said}" if number else ""):
            change(**rows)
    count = sum(len(rows["keys"]) for _, rows in files)
    say_json({"version": gallery.version, "rows": len(gallery), said: count})


@contextmanager
def _named(path: object, ending: str = "") -> Iterator[None]:
    """Errors with the name of the file that holds what is wrong."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise type(error)(f"{path}: {error}{ending}") from error


def _read(arguments: argparse.Namespace, path: str) -> FeatureFile:
    return read_features(path, ("features",), names=NAMES, side=arguments.side)


def _find_keys(arguments: argparse.Namespace, file: FeatureFile) -> list[str]:
    keys = read_keys(arguments.keys) if arguments.keys else file.paths
    if keys is None:
        raise ValueError(f"{file.path} holds no 'paths', by which rows are called; name a file of keys (--keys)")
    return [str(key) for key in keys]


def read_keys(path: str) -> list[str]:
    """Keys of a text file, one a line, as they are written."""
    return [key for line in read_text(path).split("\n") if (key := line.removesuffix("\r"))]


def _take_time(text: str | None, name: str) -> float | None:
    """Seconds since 1970."""
    if text is None:
        return None
    moment: float | datetime
    try:
        moment = float(text)
    except ValueError:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(
                f"{name} must be a date such as 2026-11-30T08:00+01:00, or seconds since 1970, received '{text}'"
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return take_time(moment, name)


def _open(arguments: argparse.Namespace) -> Gallery:
    return Gallery.open(arguments.gallery, create=False)


def run_remove(arguments: argparse.Namespace) -> None:
    """`pose2id gallery remove`."""
    keys = arguments.removed + (read_keys(arguments.keys) if arguments.keys else [])
    if not keys:
        raise ValueError("name the keys that are to be removed, or a file of them (--keys)")
    with _open(arguments) as gallery:
        version = gallery.remove(keys)
        say_json({"version": version, "rows": len(gallery), "removed": len(keys)})


def run_expire(arguments: argparse.Namespace) -> None:
    """`pose2id gallery expire`."""
    moment = _take_time(arguments.before, "TIME")
    with _open(arguments) as gallery:
        keys = gallery.expire(moment)  # type: ignore[arg-type]  # it is required
        say_json({"version": gallery.version, "rows": len(gallery), "removed": keys})


def run_search(arguments: argparse.Namespace) -> None:
    """`pose2id gallery search`."""
    file = read_features(arguments.features, ("features",), names=("features", "paths"), side=arguments.side)
    names = {"cams": "only_cams", "groups": "only_groups", "not_cams": "not_cams", "not_groups": "not_groups"}
    options: dict[str, Any] = {name: getattr(arguments, option) for name, option in names.items()}
    options["centralize"] = arguments.centralize_queries
    options |= {name: _take_time(getattr(arguments, name), f"--{name}") for name in ("after", "before")}
    with _open(arguments) as gallery, gallery.reading() as version, _named(file.path):
        found = gallery.search(file.features, arguments.top, **options)
    queries = range(len(found.keys)) if file.paths is None else np.asarray(file.paths).tolist()
    each = [
        {"query": query, "keys": keys, "distances": distances[: len(keys)].tolist()}
        for query, keys, distances in zip(queries, found.keys, found.distances, strict=True)
    ]
    say_json({"version": version, "found": each}, indent=None)


def run_publish(arguments: argparse.Namespace) -> None:
    """`pose2id gallery publish`."""
    with _open(arguments) as gallery:
        say_json(gallery.publish(arguments.target, anew=arguments.anew, progress=arguments.progress)._asdict())


def run_verify(arguments: argparse.Namespace) -> int:
    """`pose2id gallery verify`."""
    with _open(arguments) as gallery:
        wrong = gallery.verify(progress=arguments.progress)
        say_json({"version": gallery.version, "rows": len(gallery), "wrong": wrong})
    return 1 if wrong else 0


def run_info(arguments: argparse.Namespace) -> None:
    """`pose2id gallery info`."""
    with _open(arguments) as gallery:
        say_json(gallery.stats())
