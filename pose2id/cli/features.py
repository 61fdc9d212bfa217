"""Commands on feature files: centralize, density, rerank, evaluate."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pose2id.arrays import take_array, take_features
from pose2id.centralization import centralize
from pose2id.centralization.arguments import take_generated
from pose2id.cli.printing import say, say_json, tell
from pose2id.density import VARIANTS, id_density
from pose2id.evaluation import PROTOCOLS, Scores
from pose2id.files import NAMES, FeatureFile, check_output, read_features, write_arrays
from pose2id.reranking import rerank
from pose2id.study import FeatureSet, Setting, run_study
from pose2id.tables import as_dicts, format_text
from pose2id.validation import JUNK, equal_label, is_tensor, take_labels


def _read(path: str, needs: tuple[str, ...] = (), names: tuple[str, ...] = NAMES) -> tuple[FeatureFile, torch.Tensor]:
    """A feature file, and its features as a tensor; what is wrong with the arrays is told with the file they are in."""
    file = read_features(path, needs, names=names)
    tensor, kind = take_features(file.features, f"{file.path}: features")
    if file.generated is not None:
        try:
            take_generated(file.generated, tensor, kind)
        except (ValueError, TypeError) as error:
            raise type(error)(f"{file.path}: {error}") from error
    return file, tensor


def _read_sides(arguments: argparse.Namespace, **options: Any) -> list[tuple[FeatureFile, torch.Tensor]]:
    """The files of query and gallery, which must be of equal width."""
    (query, rows), (gallery, items) = sides = [_read(path, **options) for path in (arguments.query, arguments.gallery)]
    if rows.shape[1] != items.shape[1]:
        raise ValueError(
            f"{query.path} and {gallery.path} must hold features of equal width D, "
            f"received {tuple(rows.shape)} and {tuple(items.shape)}; take both from one model"
        )
    return sides


def _check_cams(arguments: argparse.Namespace, file: FeatureFile) -> None:
    if arguments.exclude_cams and file.cams is None:
        raise ValueError(f"--exclude-cams needs an array 'cams' in {file.path}, it holds none")


def run_centralize(arguments: argparse.Namespace) -> None:
    """`pose2id centralize`."""
    check_output(arguments.output, overwrite=arguments.overwrite)
    file, _ = _read(arguments.features)
    _check_cams(arguments, file)
    features = centralize(
        file.features,
        file.generated,
        arguments.eta,
        arguments.k1,
        arguments.k2,
        alpha=arguments.alpha,
        normalize=not arguments.no_normalize,
        exclude=file.cams if arguments.exclude_cams else None,
        engine=arguments.engine,
        progress=arguments.progress,
    )
    arrays = {"features": features}
    for name, labels in (("ids", file.ids), ("cams", file.cams)):
        if labels is not None:
            take_labels(labels, len(file.features), f"{file.path}: {name}")  # they go into the output as they are
            arrays[name] = labels
    path = write_arrays(arguments.output, arrays, overwrite=arguments.overwrite)
    say(f"{path}: {' x '.join(map(str, file.features.shape))}, {file.features.dtype}")


def run_density(arguments: argparse.Namespace) -> None:
    """`pose2id density`."""
    files, tensors = zip(*(_read(path, needs=("ids",), names=("ids",)) for path in arguments.features), strict=True)
    labels = [take_labels(file.ids, len(file.features), f"{file.path}: ids") for file in files]
    if len({tensor.shape[1] for tensor in tensors}) > 1 or len({array.dtype.kind for array in labels}) > 1:
        found = ", ".join(f"{t.shape[1]} columns and {a.dtype} ids" for t, a in zip(tensors, labels, strict=True))
        names = ", ".join(str(file.path) for file in files)
        raise ValueError(f"{names} must have equal D and ids of one kind, received {found}")
    features, ids = torch.cat([tensor.double() for tensor in tensors]), np.concatenate(labels)
    values = {variant: id_density(features, ids, variant=variant, junk=arguments.junk) for variant in VARIANTS}
    junk = equal_label(ids, JUNK) & (not arguments.junk)
    left_out, ids = int(junk.sum()), ids[~junk]
    if arguments.json:
        say_json(values | {"rows": len(ids), "identities": len(np.unique(ids))}, indent=None)
        return
    without = f", without {left_out} rows of junk" if left_out else ""
    say(f"ID2 of {len(ids)} rows, {len(np.unique(ids))} identities{without}; lower is denser")
    say(f"  paper     {values['paper']:.4f}   distance to the centre, mean over identities")
    say(f"  released  {values['released']:.4f}   squared distance, mean over samples: as in the published tables")


def run_rerank(arguments: argparse.Namespace) -> None:
    """`pose2id rerank`."""
    check_output(arguments.output, overwrite=arguments.overwrite)
    sides = _read_sides(arguments, names=())
    query, gallery = (file.features for file, _ in sides)
    if is_tensor(query) != is_tensor(gallery):  # files of two kinds
        query, gallery = (tensor for _, tensor in sides)
    distances = rerank(
        query,
        gallery,
        k1=arguments.rerank_k1,
        k2=arguments.rerank_k2,
        lambda_value=arguments.rerank_lambda,
        engine=arguments.engine,
        progress=arguments.progress,
    )
    path = write_arrays(arguments.output, {"distances": distances}, overwrite=arguments.overwrite)
    say(f"{path}: {' x '.join(map(str, distances.shape))}, {distances.dtype}")


def run_evaluate(arguments: argparse.Namespace) -> None:
    """`pose2id evaluate`."""
    names = NAMES if arguments.centralize else ("ids", "cams")
    files, tensors = zip(*_read_sides(arguments, needs=("ids",), names=names), strict=True)
    sets = []  # of tensors: the two files may be of different kinds
    for file, tensor in zip(files, tensors, strict=True):
        generated = None if file.generated is None else take_array(file.generated, "generated")[0]
        sets.append(FeatureSet(tensor, file.ids, file.cams, generated))
    settings = [Setting("as given", normalize=False)]
    if arguments.centralize:
        if not all(_has_length_one(side.features) for side in sets):
            settings.append(Setting("length 1"))  # so that what centralizing brings is not mixed with this
        for file in files:
            _check_cams(arguments, file)
        eta = arguments.eta * any(side.generated is not None for side in sets)
        method = {name: getattr(arguments, name) for name in ("k1", "k2", "alpha")}
        name = "centralized, with generated features" if eta else "centralized"
        settings.append(Setting(name, eta=eta, other_cameras=arguments.exclude_cams, **method))
    if arguments.rerank:
        reranking = {name: getattr(arguments, name) for name in ("rerank_k1", "rerank_k2", "rerank_lambda")}
        settings += [replace(x, name=f"{x.name}, re-ranked", reranked=True, **reranking) for x in settings]
    options = {name: getattr(arguments, name) for name in ("protocol", "metric", "engine")}
    query, gallery = sets
    rows = run_study(query, gallery, settings, density=False, progress=arguments.progress, **options)
    by_camera = PROTOCOLS[arguments.protocol].same_camera_is_junk
    if by_camera and all(file.cams is None for file in files) and not arguments.quiet:
        where = " and ".join(dict.fromkeys(str(file.path) for file in files))
        tell(f"pose2id evaluate: no 'cams' in {where}: nothing is removed for its camera")
    if arguments.json:
        keys = ("name", "mAP", "mINP", "rank1", "rank5", "rank10", "valid_queries", "tied_rank1")
        found = {"protocol": arguments.protocol, "metric": arguments.metric, "rows": as_dicts(rows, keys)}
        say_json(found)
        return
    say(*format_text(("", *Scores.HEAD), [(row.name, *row.scores.cells()) for row in rows]).split("\n"))


def _has_length_one(features: Any) -> bool:
    """Whether all rows (N, D) are of length 1, to what float16 leaves of it."""
    lengths = torch.linalg.vector_norm(features, dim=1)
    return bool(((lengths - 1).abs() < 1e-2).all())
