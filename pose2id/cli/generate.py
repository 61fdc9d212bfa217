"""`pose2id generate`: photographed people in other poses, in a folder that can be gone on with."""

from __future__ import annotations

import argparse
import re
from functools import partial
from typing import Any

import torch

from pose2id.cli.devices import take_device
from pose2id.cli.printing import say, tell
from pose2id.ipg import named
from pose2id.ipg.folders import FolderSettings, collect_poses, collect_references, generate_folder
from pose2id.ipg.presets import Drawing, choose_drawing
from pose2id.ipg.weights import read_defaults
from pose2id.validation import check_path


def run(arguments: argparse.Namespace) -> int:
    """`pose2id generate`; returns the exit code: 1 when photographs were skipped."""
    progress = arguments.progress
    output = check_path(arguments.output, "--output")
    device = take_device(arguments.device)
    dtype = arguments.dtype or ("float16" if device.type == "cuda" else "float32")
    references, missing = collect_references(arguments.references, output)
    poses = None if arguments.poses is None else collect_poses(arguments.poses, _take_size(arguments.pose_size))
    folder, identity = named.find_weights(arguments.weights)
    decoder_folder, decoder = (
        (None, None) if arguments.decoder is None else named.find_weights(arguments.decoder, "decoder")
    )
    (height, width), steps, guidance = read_defaults(folder)
    drawing = choose_drawing(
        arguments.preset,
        Drawing(steps, guidance),
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        guidance_rescale=arguments.guidance_rescale,
        guidance_start=arguments.guidance_start,
        guidance_stop=arguments.guidance_stop,
        shared_noise=arguments.shared_noise,
    )
    settings = FolderSettings(
        weights=identity,
        seed=arguments.seed,
        **drawing._asdict(),
        height=height if arguments.height is None else arguments.height,
        width=width if arguments.width is None else arguments.width,
        batch_size=arguments.batch_size,
        decode_chunk_size=arguments.decode_chunk_size,
        solver=arguments.solver,
        decoder=decoder,
        layout=arguments.layout,
        dtype=dtype,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
    skipped: dict[str, str] = {}

    def tell_skipped(key: str, reason: str) -> None:
        skipped[key] = reason
        tell(f"pose2id generate: {key} skipped: {reason}")

    def load() -> Any:
        pipe = named.load_pipeline(folder, device, dtype, solver=arguments.solver, progress=progress)
        if decoder_folder is None:
            return pipe
        return partial(pipe, decoder=named.load_decoder(decoder_folder, device, dtype))

    for key in missing:
        tell_skipped(key, "there is no such file")
    report = generate_folder(
        load,
        references,
        output,
        poses,
        settings=settings,
        sheet=arguments.sheet,
        on_skip=tell_skipped,
        progress=progress,
    )
    say(f"{output}: {report.drawn + report.found:,} pictures, {report.drawn:,} of them new")
    if report.waiting:
        tell(
            f"pose2id generate: {report.waiting:,} pictures of an earlier run with other photographs or poses are "
            "unfinished; run it again to finish them"
        )
    if skipped:
        total = len(references) + len(missing)
        tell(f"pose2id generate: skipped {len(skipped):,} of {total:,} photographs:", *(f"  {key}" for key in skipped))
    return 1 if skipped else 0


def _take_size(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})x([1-9]\d{0,5})", text)
    if not match:
        raise ValueError(f"--pose-size must be WIDTHxHEIGHT in pixels, such as 640x480, received {text!r}")
    return float(match[1]), float(match[2])
