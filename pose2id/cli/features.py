"""Commands on feature files: centralize, density, rerank, evaluate. Files may hold features or parts."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pose2id.centralization import centralize
from pose2id.cli import cluster
from pose2id.cli.inputs import (
    check_alike,
    check_part_options,
    note_cams,
    note_generated,
    note_parts,
    read_alone,
    read_input,
    read_sides,
    suggest_cams,
    tell_steps,
)
from pose2id.cli.pictures import check_pictures, draw_pictures, find_photographs
from pose2id.cli.printing import flush, say, say_json
from pose2id.density import VARIANTS, id_density
from pose2id.evaluation import PROTOCOLS, Scores
from pose2id.files import LABELS, NAMES, FeatureFile, check_output, write_arrays
from pose2id.parts import centralize_parts, part_density, rerank_parts
from pose2id.reranking import rerank
from pose2id.study import Setting, run_study
from pose2id.tables import as_dicts, format_text
from pose2id.validation import JUNK, equal_label, is_tensor, take_labels

_SCALED = "length 1"
"""The row of features, or parts, that are only scaled."""


def _check_cams(arguments: argparse.Namespace, file: FeatureFile) -> None:
    if arguments.exclude_cams and file.cams is None:
        raise ValueError(f"--exclude-cams needs an array 'cams' in {file.path}, it holds none{suggest_cams(arguments)}")


def run_centralize(arguments: argparse.Namespace) -> None:
    """`pose2id centralize`."""
    if cluster.wants_cluster(arguments):
        cluster.run_centralize(arguments)
        return
    output = check_output(arguments.output, overwrite=arguments.overwrite)
    given = read_alone(arguments)
    file = given.file
    check_part_options(arguments, [given])
    _check_cams(arguments, file)
    method = arguments.eta, arguments.k1, arguments.k2
    options: dict[str, Any] = {
        "alpha": arguments.alpha,
        "normalize": not arguments.no_normalize,
        "exclude": file.cams if arguments.exclude_cams else file.groups,
        "engine": arguments.engine,
        "progress": arguments.progress,
    }
    tell_steps(arguments, [given])(f"centralizing {_show_size(given.rows)}")
    if given.has_parts:
        if output.suffix in (".npy", ".pt"):
            raise ValueError(
                f"output {output} would hold the parts without their name and visibility; write .npz or .safetensors"
            )
        options |= {"generated_visibility": file.generated_visibility, "fill": arguments.fill}
        found = centralize_parts(file.parts, file.visibility, file.generated_parts, *method, **options)
        arrays = {"parts": found.parts, "visibility": found.visibility}
    else:
        arrays = {"features": centralize(file.features, file.generated, *method, **options)}
    result = next(iter(arrays.values()))
    for name in LABELS:
        if (labels := getattr(file, name)) is not None:
            take_labels(labels, len(given.rows), f"{file.path}: {name}")  # they go into the output as they are
            arrays[name] = labels
    path = write_arrays(arguments.output, arrays, overwrite=arguments.overwrite)
    note_parts(arguments, [given])
    say(f"{path}: {_show_size(result)}, {result.dtype}")


def run_density(arguments: argparse.Namespace) -> None:
    """`pose2id density`."""
    names = ("ids", "parts", "visibility")
    count = len(arguments.features)
    sources = arguments.ids or [None] * count
    if len(sources) != count:
        raise ValueError(f"--ids must be given once for each of the {count} feature files, received {len(sources)}")
    options: dict[str, Any] = {"needs": ("ids",), "names": names, "side": arguments.side}
    inputs = [
        read_input(arguments, path, **options, labels={"ids": source})
        for path, source in zip(arguments.features, sources, strict=True)
    ]
    check_alike(inputs)
    labels = [take_labels(given.file.ids, len(given.rows), f"{given.file.path}: ids") for given in inputs]
    if len({given.rows.shape[1:] for given in inputs}) > 1 or len({array.dtype.kind for array in labels}) > 1:
        sizes = [" x ".join(map(str, given.rows.shape[1:])) for given in inputs]
        found = ", ".join(f"{size} columns and {a.dtype} ids" for size, a in zip(sizes, labels, strict=True))
        where = ", ".join(str(given.file.path) for given in inputs)
        equal = "P and D" if inputs[0].has_parts else "D"
        raise ValueError(f"{where} must have equal {equal} and ids of one kind, received {found}")
    rows, ids = torch.cat([given.rows.double() for given in inputs]), np.concatenate(labels)
    values: dict[str, Any]
    if inputs[0].has_parts:
        seen = torch.cat([given.visibility for given in inputs if given.visibility is not None])
        values = {name: part_density(rows, ids, seen, variant=name, junk=arguments.junk).tolist() for name in VARIANTS}
        values = {name: [None if math.isnan(x) else x for x in found] for name, found in values.items()}
    else:
        values = {name: id_density(rows, ids, variant=name, junk=arguments.junk) for name in VARIANTS}
    junk = equal_label(ids, JUNK) & (not arguments.junk)
    left_out, ids = int(junk.sum()), ids[~junk]
    note_parts(arguments, inputs)
    if arguments.json:
        say_json(values | {"rows": len(ids), "identities": len(np.unique(ids))}, indent=None)
        return
    without = f", without {left_out} rows of junk" if left_out else ""
    each = "each part, " if inputs[0].has_parts else ""
    say(f"ID2 of {each}{len(ids)} rows, {len(np.unique(ids))} identities{without}; lower is denser")
    paper, released = (_show_density(values[name]) for name in ("paper", "released"))
    say(f"  paper     {paper}   distance to the centre, mean over identities")
    say(f"  released  {released}   squared distance, mean over samples: as in the published tables")


def _show_density(found: Any) -> str:
    """A number, or one of each part; a part that nobody shows has none."""
    parts = found if isinstance(found, list) else [found]
    return "  ".join(f"{'-':<6}" if value is None else f"{value:.4f}" for value in parts)


def run_rerank(arguments: argparse.Namespace) -> None:
    """`pose2id rerank`."""
    check_output(arguments.output, overwrite=arguments.overwrite)
    sides = read_sides(arguments, names=("parts", "visibility"))
    check_part_options(arguments, sides)
    of_parts = sides[0].has_parts
    files = [given.file for given in sides]
    rows = [file.parts if of_parts else file.features for file in files]
    seen = [file.visibility for file in files]
    if is_tensor(rows[0]) != is_tensor(rows[1]):  # files of two kinds
        rows, seen = [given.rows for given in sides], [given.visibility for given in sides]
    options: dict[str, Any] = {
        "k1": arguments.rerank_k1,
        "k2": arguments.rerank_k2,
        "lambda_value": arguments.rerank_lambda,
        "engine": arguments.engine,
        "progress": arguments.progress,
    }
    tell_steps(arguments, sides)(f"re-ranking {len(sides[0].rows)} queries and {len(sides[1].rows)} gallery rows")
    distances = rerank_parts(*rows, *seen, **options) if of_parts else rerank(*rows, **options)
    path = write_arrays(arguments.output, {"distances": distances}, overwrite=arguments.overwrite)
    note_parts(arguments, sides)
    say(f"{path}: {_show_size(distances)}, {distances.dtype}")


def _show_size(array: Any) -> str:
    return " x ".join(map(str, array.shape))


def run_evaluate(arguments: argparse.Namespace) -> None:
    """`pose2id evaluate`."""
    names = NAMES if arguments.centralize else ("ids", "cams", "parts", "visibility")
    if arguments.plot is not None:
        check_pictures(arguments)
        names = (*names, "paths") if "paths" not in names else names
    if arguments.features is None:
        inputs = read_sides(arguments, needs=("ids",), names=names)
    elif arguments.rerank:
        raise ValueError("--rerank goes with --query and --gallery: re-ranking needs two sets")
    else:
        inputs = [read_alone(arguments, needs=("ids",), names=names)]
    check_part_options(arguments, inputs)
    files = [given.file for given in inputs]
    photographs = find_photographs(arguments, files)
    sets = [each.as_set() for each in inputs]
    of_parts = inputs[0].has_parts  # which are scored by their directions, as the models do that have them
    settings = [Setting(_SCALED) if of_parts else Setting("as given", normalize=False)]
    if arguments.centralize:
        if not of_parts and not all(_has_length_one(side.features) for side in sets):
            settings.append(Setting(_SCALED))  # so that what centralizing brings is not mixed with this
        for file in files:
            _check_cams(arguments, file)
        eta = arguments.eta * any(side.generated is not None for side in sets)
        note_generated(arguments, inputs, eta)
        method = {name: getattr(arguments, name) for name in ("k1", "k2", "alpha")}
        name = "centralized, with generated features" if eta else "centralized"
        settings.append(Setting(name, eta=eta, other_cameras=arguments.exclude_cams, **method))
        if arguments.fill:
            filled: dict[str, Any] = {"fill_gallery": True} if len(sets) > 1 else {"fill_query": True}
            side = "gallery " if len(sets) > 1 else ""
            settings.append(replace(settings[-1], name=f"{name}, {side}filled", **filled))
    if arguments.rerank:
        reranking = {name: getattr(arguments, name) for name in ("rerank_k1", "rerank_k2", "rerank_lambda")}
        settings += [replace(x, name=f"{x.name}, re-ranked", reranked=True, **reranking) for x in settings]
    options = {name: getattr(arguments, name) for name in ("protocol", "metric", "engine")}
    query, gallery = sets if len(sets) > 1 else (sets[0], None)
    report = tell_steps(arguments, inputs)
    rows = run_study(query, gallery, settings, density=False, progress=arguments.progress, report=report, **options)
    note_parts(arguments, inputs)
    if PROTOCOLS[arguments.protocol].same_camera_is_junk:
        note_cams(arguments, inputs, "nothing is removed for its camera")
    if arguments.json:
        keys = ("name", "mAP", "mINP", "rank1", "rank5", "rank10", "valid_queries", "tied_rank1")
        found = {"protocol": arguments.protocol, "metric": arguments.metric, "rows": as_dicts(rows, keys)}
        if arguments.plot is not None:
            found["pictures"] = [str(file) for file in draw_pictures(arguments, query, gallery, rows, photographs)]
        say_json(found)
        return
    legend = []
    if any(row.name == _SCALED for row in rows):
        rest = "" if of_parts else ", as centralizing leaves them"
        legend = [f"{_SCALED}: the {'parts' if of_parts else 'rows'} as given, only each scaled to that length{rest}"]
    spans = [(row.name, row.scores.span.mAP) for row in rows if row.scores.span]
    # What two decimals of a percent show.
    wide = [f"{100 * low:.2f} to {100 * high:.2f} ({name})" for name, (low, high) in spans if high - low >= 5e-5]
    if wide:
        legend.append(f"ties: in other orders of equal distances mAP is {', '.join(wide)}")
    table = [(row.name, *row.scores.cells()) for row in rows]
    say(*format_text(("", *Scores.HEAD), table, legend=legend).split("\n"))
    if arguments.plot is not None:
        flush()
        drawn = draw_pictures(arguments, query, gallery, rows, photographs)
        say("", f"Pictures in {arguments.plot}: {', '.join(file.name for file in drawn)}")


def _has_length_one(features: Any) -> bool:
    """Whether all rows (N, D) are of length 1, to what float16 leaves of it."""
    lengths = torch.linalg.vector_norm(features, dim=1)
    return bool(((lengths - 1).abs() < 1e-2).all())
