"""Which units are still to be drawn: the same batches after a resume as in a run that was never interrupted."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from pose2id.ipg.folders.manifest import LAYOUTS, MANIFEST, Manifest, Unit, check_same, read_manifest
from pose2id.ipg.folders.output import OutputFolder, place_pictures, sheet_path
from pose2id.ipg.folders.sources import Photographs


@dataclass
class Plan:
    """What a run has to do."""

    paths: dict[tuple[str, str], str]  # of all pictures that this or an earlier run planned, by (reference, pose)
    units: list[Unit] = field(default_factory=list)  # to be drawn
    finished: int = 0  # pictures that are asked for and there
    waiting: int = 0  # pictures of unfinished units that this run was not asked for


def make_plan(folder: OutputFolder, photographs: Photographs, asked: Manifest) -> Plan:
    """Read the manifest and the photographs, write down new units, find out which are unfinished."""
    old = read_manifest(folder.root / MANIFEST)
    if old.units and not old.torn and not _has_pictures(folder, old):
        old = Manifest()  # what failed before its first picture binds nobody
    check_same(folder.root, old, asked)
    photographs.verify(old.references)
    new = make_units(photographs.hashes, asked.poses, old.units, asked.settings["batch_size"])
    known = {key: photographs.hashes[key] for unit in new for key in unit.references}
    manifest = Manifest(asked.settings, old.poses | asked.poses, old.references | known, old.units + new)

    plan = Plan(place_pictures(manifest.units, asked.settings["layout"]))
    folder.list_files(map(posixpath.dirname, ["", *plan.paths.values(), *map(sheet_path, photographs.hashes)]))
    foreign = [path for unit in new for pair in unit.pairs() if (path := plan.paths[pair]) in folder.files]
    if foreign and not (old.torn and old.settings):
        where = folder.root / foreign[0]
        raise ValueError(f"{where} is in the way: no run here has drawn it; remove it or name another folder")
    folder.files -= set(foreign)  # of units that were lost with the end of the manifest, perhaps with other members
    if new or old.torn:
        folder.write(MANIFEST, manifest.text().encode())

    for unit in manifest.units:
        wanted = [key for key, name in unit.pairs() if key in photographs.hashes and name in asked.poses]
        if all(plan.paths[pair] in folder.files for pair in unit.pairs()):
            plan.finished += len(wanted)
        elif len(wanted) == len(unit):
            plan.units.append(unit)
        elif wanted:
            absent = [f"reference {key}" for key in unit.references if key not in photographs.hashes]
            absent += [f"pose {name}" for name in unit.poses if name not in asked.poses]
            for key in wanted:
                reason = f"an earlier run planned it in one batch with {absent[0]}, which is not there now"
                photographs.skip(key, reason)
        else:
            plan.waiting += len(unit)
    return plan


def make_units(references: Iterable[str], poses: Iterable[str], units: list[Unit], batch_size: int) -> list[Unit]:
    """Units for what no unit has yet: as many whole references as fit in a batch, or a part of one's poses."""
    planned = {pair for unit in units for pair in unit.pairs()}
    new: list[Unit] = []
    for key in references:
        missing = tuple(name for name in poses if (key, name) not in planned)
        for start in range(0, len(missing), batch_size):
            names = missing[start : start + batch_size]
            last = new[-1] if new else Unit((), ())
            # Only references with the same poses to draw can share a call of the pipeline.
            if last.poses == names == missing and len(last) + len(names) <= batch_size:
                new[-1] = Unit((*last.references, key), names)
            else:
                new.append(Unit((key,), names))
    return new


def join_units(units: Iterable[Unit]) -> list[tuple[Unit, int]]:
    """What calls of the pipeline get, and their batch size: units of the same poses, each a batch as it is alone.

    Other poses beside them would change the last bits, as all poses of a call are encoded at once.
    """
    alike: dict[tuple[str, ...], list[list[Unit]]] = {}
    for unit in units:
        runs = alike.setdefault(unit.poses, [[]])
        if runs[-1] and not len(runs[-1][0]) == len(runs[-1][-1]) >= len(unit):
            runs.append([])
        runs[-1].append(unit)
    return [
        (Unit(tuple(chain.from_iterable(unit.references for unit in run)), poses), len(run[0]))
        for poses, runs in alike.items()
        for run in runs
    ]


def _has_pictures(folder: OutputFolder, manifest: Manifest) -> bool:
    """Whether any picture that a manifest plans is there."""
    paths = place_pictures(manifest.units, manifest.settings.get("layout", LAYOUTS[0])).values()
    return any((folder.root / path).is_file() for path in paths)
