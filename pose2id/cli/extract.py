"""`pose2id extract`: photographs, and pictures generated of them, in one feature file."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import Any

import torch

from pose2id.cli.devices import take_device
from pose2id.cli.printing import say, tell
from pose2id.datasets import READERS, read_dataset
from pose2id.ipg import require_packages
from pose2id.ipg.folders import collect_references, find_pictures
from pose2id.poses import read_keypoints
from pose2id.programs.extraction import Photographs, extract, from_files, from_set, load_encoder
from pose2id.validation import check_path


def run(arguments: argparse.Namespace) -> int:
    """`pose2id extract`; returns the exit code: 1 when photographs were skipped."""
    device = take_device(arguments.device)
    photographs, missing = _take_photographs(arguments)
    poses = photographs.poses if arguments.keypoints is None else read_keypoints(arguments.keypoints)
    encoder = load_encoder(
        arguments.encoder,
        device=str(device),
        size=_take_size(arguments.size),
        mean=arguments.mean,
        std=arguments.std,
        parts=arguments.parts,
        poses=poses,
    )
    if arguments.keypoints is not None and encoder.poses is None:
        raise ValueError(f"--keypoints are for an encoder that needs them, {arguments.encoder} does not")
    draw: Any = None
    generated: Any = None
    settings: dict[str, Any] = {}
    if arguments.generate is not None:
        draw, settings = _prepare_drawing(arguments, encoder.call, device)
    elif arguments.generated is not None:
        generated = find_pictures(arguments.generated, photographs.keys)
    skipped: dict[str, str] = {}

    def tell_skipped(key: str, reason: str) -> None:
        skipped[key] = reason
        tell(f"pose2id extract: {key} skipped: {reason}")

    for key in missing:
        tell_skipped(key, "there is no such file")
    report = extract(
        photographs,
        arguments.output,
        encoder,
        draw=draw,
        generated=generated,
        settings=settings,
        flip=arguments.flip,
        batch_size=arguments.batch_size,
        overwrite=arguments.overwrite,
        on_skip=tell_skipped,
        progress=arguments.progress,
    )
    also = [*(encoder.columns or {"features": ()}), *(["generated"] if report.generated else [])][1:]
    also += [*photographs.labels, "paths"]
    say(f"{report.path}: {report.shape[0]} x {report.shape[1]}, and {', '.join(also)}")
    if skipped:
        total = sum(map(len, photographs.files)) + len(missing)
        tell(f"pose2id extract: skipped {len(skipped):,} of {total:,} photographs:", *(f"  {key}" for key in skipped))
    return 1 if skipped else 0


def _take_photographs(arguments: argparse.Namespace) -> tuple[Photographs, list[str]]:
    """The rows, and entries of lists that are not there."""
    tracklets = arguments.pool is not None
    if arguments.dataset is None:
        if not arguments.references:
            raise ValueError(
                "name photographs (files, folders or @LIST), or a data set: --dataset NAME ROOT --part PART"
            )
        paths, missing = collect_references(arguments.references, check_path(arguments.output, "--output"))
        if not paths:
            raise ValueError(f"none of {len(missing):,} listed photographs is there; the first: {missing[0]}")
        return from_files(paths, arguments.names, tracklets=tracklets), missing
    if arguments.references or arguments.names is not None:
        given = "--names" if arguments.names is not None else arguments.references[0]
        raise ValueError(f"--dataset NAME ROOT says which photographs there are, received {given} too; leave one out")
    if arguments.part is None:
        raise ValueError("--dataset needs --part query, gallery or train")
    name, root = arguments.dataset
    leaving = [of for of, reader in READERS.items() if "junk" in inspect.signature(reader).parameters]
    if arguments.no_junk and name in READERS and name not in leaving:
        raise ValueError(f"--no-junk is for data sets that mark junk: {', '.join(leaving)}; leave it out for {name}")
    data = read_dataset(name, root, **({"junk": False} if arguments.no_junk else {}))
    images = getattr(data, arguments.part)
    if not len(images):
        raise ValueError(f"{name} has no images in its part {arguments.part}")
    return from_set(images, data.root, tracklets=tracklets), []


def _prepare_drawing(arguments: argparse.Namespace, encoder: Any, device: torch.device) -> tuple[Any, dict[str, Any]]:
    """Who draws people in poses and gives the features of that; what these depend on. The generator is loaded late."""
    require_packages("--generate")
    from pose2id.ipg import generate_features, named

    folder, identity = named.find_weights(arguments.generate)
    dtype = "float16" if device.type == "cuda" else "float32"
    pipes: list[Any] = []

    def draw(people: Any, keys: Any) -> Any:
        if not pipes:
            pipes.append(named.load_pipeline(folder, device, dtype, progress=arguments.progress))
        options = {"seed": arguments.seed, "preset": arguments.preset, "flip": arguments.flip}
        return generate_features(pipes[0], encoder, people, reference_keys=keys, **options)

    drawn = {"weights": identity, "preset": arguments.preset, "seed": arguments.seed, "dtype": dtype}
    return draw, {"generated": drawn, "device": device.type}


def _take_size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)
    if not match:
        raise ValueError(f"--size must be HEIGHTxWIDTH in pixels, such as 256x128, received {text!r}")
    return int(match[1]), int(match[2])
