"""What commands read: feature files whose features, or parts, are checked; errors name the file."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pose2id.arrays import take_array, take_features
from pose2id.centralization.arguments import take_generated
from pose2id.cli.printing import tell
from pose2id.errors import nearest
from pose2id.files import NAMES, PART_NAMES, SIDES, FeatureFile, read_features
from pose2id.labels import find_column, read_labels
from pose2id.parts import sets
from pose2id.study import FeatureSet

LONG = 10**10
"""Rows squared times columns: from there on a step takes a second or more, and is told where no bar shows it."""


@dataclass(frozen=True, eq=False)
class Input:
    """A feature file, and as tensors what is to be worked on: its parts, if they were taken from it, or its features.

    `rows` (N, D) or (N, P, D), and `generated` of the same; `visibility` is None for features.
    """

    file: FeatureFile
    rows: torch.Tensor
    generated: torch.Tensor | None = None
    visibility: torch.Tensor | None = None
    generated_visibility: torch.Tensor | None = None

    @property
    def has_parts(self) -> bool:
        """Whether it is the parts."""
        return self.visibility is not None

    def as_set(self) -> FeatureSet:
        """One side of a study; of tensors, as the files of two sides may be of different kinds."""
        arrays = self.rows, self.file.ids, self.file.cams, self.generated, self.visibility, self.generated_visibility
        return FeatureSet(*arrays, groups=self.file.groups)


def read_input(
    arguments: argparse.Namespace,
    path: str,
    needs: tuple[str, ...] = (),
    names: tuple[str, ...] = NAMES,
    *,
    side: str | None = None,
    labels: Mapping[str, str | None] | None = None,
) -> Input:
    """Read a feature file: its parts if it has some and --whole is not given, else its features.

    `labels` are files of their own for "ids" and "cams", which go before what the feature file holds.
    """
    own = {name: source for name, source in (labels or {}).items() if source is not None}
    if arguments.whole:
        names = tuple(name for name in names if name not in PART_NAMES)
    names, needs = (tuple(name for name in each if name not in own) for each in (names, needs))
    file = read_features(path, needs, names=names, side=side)
    _note_others(arguments, file, ("features", *names))
    arguments.of_parts = file.parts is not None
    if own:
        count = len(file.features if file.parts is None else file.parts)
        read: dict[str, Any] = {name: read_labels(source, name, rows=count) for name, source in own.items()}
        file = replace(file, **read)
    if file.parts is None:
        rows, kind = take_features(file.features, f"{file.path}: features")
    try:
        if file.parts is None:
            if file.generated is None:
                return Input(file, rows)
            take_generated(file.generated, rows, kind)
            return Input(file, rows, take_array(file.generated, "generated")[0])
        given, kind = sets.take_parts(file.parts, file.visibility)
        views = sets.take_generated(file.generated_parts, file.generated_visibility, given, kind, PART_NAMES[2:])
    except (ValueError, TypeError) as error:
        raise type(error)(f"{file.path}: {error}") from error
    if views is None:
        return Input(file, given.rows, None, given.visibility)
    return Input(file, given.rows, views.rows, given.visibility, views.visibility)


def read_sides(arguments: argparse.Namespace, **options: Any) -> list[Input]:
    """The files of query and gallery: features of equal width, or parts of equal number and width."""
    sides = []
    for side in SIDES:
        labels = {name: getattr(arguments, f"{side}_{name}", None) for name in ("ids", "cams")}
        sides.append(read_input(arguments, getattr(arguments, side), side=side, labels=labels, **options))
    check_alike(sides)
    query, gallery = sides
    if query.rows.shape[1:] != gallery.rows.shape[1:]:
        equal = "parts of equal P and D" if query.has_parts else "features of equal width D"
        raise ValueError(
            f"{query.file.path} and {gallery.file.path} must hold {equal}, "
            f"received {tuple(query.rows.shape)} and {tuple(gallery.rows.shape)}; take both from one model"
        )
    return sides


def read_alone(arguments: argparse.Namespace, **options: Any) -> Input:
    """The file of a command on one set."""
    labels = {name: getattr(arguments, name) for name in ("ids", "cams")}
    return read_input(arguments, arguments.features, side=arguments.side, labels=labels, **options)


def _note_others(arguments: argparse.Namespace, file: FeatureFile, names: Sequence[str]) -> None:
    """Say on stderr which arrays were probably meant for ones that are not there: their names make a difference."""
    lacking = {name for name in names if getattr(file, name) is None} - {"paths"}
    for other in file.others if not arguments.quiet else ():
        if (meant := nearest(other, NAMES, likeness=0.75)) in lacking:
            words = f"{file.path} holds {other!r}, which is not read; is {meant!r} meant?"
            tell(f"pose2id {arguments.command}: {words}")


def tell_steps(arguments: argparse.Namespace, inputs: Sequence[Input]) -> Callable[[str], None]:
    """What says on stderr which step begins, where steps are long and no bars show it."""
    rows = sum(len(each.rows) for each in inputs)
    if arguments.quiet or arguments.progress or rows**2 * math.prod(inputs[0].rows.shape[1:]) < LONG:
        return lambda _: None
    return lambda step: tell(f"pose2id {arguments.command}: {step}")


def check_alike(inputs: Sequence[Input]) -> None:
    """Raise ValueError where some files have parts and others do not."""
    having = [each.file for each in inputs if each.has_parts]
    lacking = [each.file for each in inputs if not each.has_parts]
    if having and lacking:
        remedy = "take all from one model"
        if all(file.features is not None for file in having):
            remedy = "pass --whole to use the 'features' of all"
        raise ValueError(f"{having[0].path} holds 'parts' and {lacking[0].path} does not; {remedy}")


def check_part_options(arguments: argparse.Namespace, inputs: Sequence[Input]) -> None:
    """Raise ValueError, with the reason, for options that do not apply to what was read."""
    if not inputs[0].has_parts:
        if getattr(arguments, "fill", False):
            raise ValueError(f"--fill needs an array 'parts' in {inputs[0].file.path}, it holds none")
    elif getattr(arguments, "engine", "auto") not in ("auto", "exact"):
        path, engine = inputs[0].file.path, arguments.engine
        raise ValueError(
            f"--engine {engine} searches no parts, which {path} holds; one engine does, leave --engine out"
        )


def note_generated(arguments: argparse.Namespace, inputs: Sequence[Input], eta: float) -> None:
    """Say on stderr that one of two sides is fused with generated features and the other is not."""
    if len(inputs) < 2 or not eta or arguments.quiet:
        return
    sides = dict(zip(SIDES, inputs, strict=True))
    having = [side for side, each in sides.items() if each.generated is not None]
    if len(having) == 1:
        (lacking,) = sides.keys() - having
        name = "generated_parts" if inputs[0].has_parts else "generated"
        path, other = (sides[side].file.path for side in (having[0], lacking))
        where, rest = (path, f", {other},") if path != other else (f"the {having[0]} of {path}", "")
        tell(f"pose2id {arguments.command}: only {where} holds {name!r}: the {lacking}{rest} is not fused")


def note_cams(arguments: argparse.Namespace, inputs: Sequence[Input], so: str) -> None:
    """Say on stderr that no file has cameras, and what follows."""
    if all(each.file.cams is None for each in inputs) and not arguments.quiet:
        where = " and ".join(dict.fromkeys(str(each.file.path) for each in inputs))
        tell(f"pose2id {arguments.command}: no 'cams' in {where}: {so}{suggest_cams(arguments)}")


def suggest_cams(arguments: argparse.Namespace) -> str:
    """Words for tables of identities that hold cameras too, which were not asked for."""
    words = ""
    for side in ("", *(f"{name}_" for name in SIDES)):
        table, given = (getattr(arguments, f"{side}{name}", None) for name in ("ids", "cams"))
        if table and not given and (column := find_column(table, "cams")):
            words += f"; {table} has a column {column!r}: --{side.replace('_', '-')}cams {table}"
    return words


def note_parts(arguments: argparse.Namespace, inputs: Sequence[Input]) -> None:
    """Say on stderr that parts were used where there were features too."""
    both = [str(each.file.path) for each in inputs if each.has_parts and each.file.features is not None]
    if both and not arguments.quiet:
        where = " and ".join(dict.fromkeys(both))
        tell(f"pose2id {arguments.command}: parts are used, not the features, of {where}; --whole takes the features")
