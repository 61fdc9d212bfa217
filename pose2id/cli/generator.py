"""Commands of the generator for `pose2id`: arguments, loading, reporting; nothing heavy is imported before one runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pose2id.ipg import require_packages
from pose2id.ipg.weights import REPOSITORY, read_defaults
from pose2id.tables import format_text

DTYPES = ("float32", "float16", "bfloat16")
PURPOSE = "pose2id generate"


def add_parsers(commands: Any, add_common: Callable[..., None]) -> None:
    """Add the commands; `add_common` adds what all commands have, and the function to run.

    That function returns the exit code: 0, or 1 when something was skipped.
    """
    generate = commands.add_parser(
        "generate",
        help="draw photographed people in other poses",
        description="Draw each person in each pose. Killed and started again with the same arguments it goes on where "
        "it was; more photographs or poses may be added. Exit code 1: some photographs were skipped.",
    )
    generate.add_argument(
        "references",
        metavar="REFS",
        nargs="+",
        help="photographs of people: folders (with the folders in them), files, or @LIST, a text file with one path "
        "a line, relative to its own folder",
    )
    generate.add_argument("-o", "--output", metavar="OUT", required=True, help="folder for the pictures")
    generate.add_argument(
        "--poses",
        metavar="PATH",
        help="a folder of pose maps (canonical colours, RGB), one pose map, or a .json of keypoints "
        "(default: the 8 representative poses)",
    )
    generate.add_argument(
        "--weights",
        default=REPOSITORY,
        help=f"{REPOSITORY} (default), tiny (synthetic pedestrians, part of this package), another Hub id, a folder of "
        "save_pretrained, or a folder of released files",
    )
    generate.add_argument("--seed", type=int, default=42, help="of the noise (default 42)")
    for name, kind, words, released, tiny in (
        ("steps", int, "of denoising", 20, 10),
        ("guidance", float, "classifier-free guidance", 3.5, 2),
        ("height", int, "of the pictures, in pixels", 512, 64),
        ("width", int, "of the pictures, in pixels", 256, 32),
    ):
        words += f" (default: the weights' own, {released} as released, {tiny} for tiny)"
        generate.add_argument(f"--{name}", type=kind, help=words)
    generate.add_argument("--dtype", help="float32, float16, bfloat16 (default: float16 on CUDA, else float32)")
    generate.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one, else cpu)")
    generate.add_argument("--batch-size", type=int, default=8, help="pictures at once (default 8)")
    generate.add_argument(
        "--layout",
        default="reference",
        help="reference (default): OUT/<reference>/<pose>.png; pose: OUT/pose<pose>/<reference>, as the demo of the "
        "released code reads it",
    )
    generate.add_argument("--sheet", action="store_true", help="also OUT/sheets/<reference>.png: all poses at a glance")
    add_common(generate, run_generate)

    weights = commands.add_parser(
        "weights",
        help="the generator's weights: where they are, fetch them, convert them",
        description="The released weights of the generator. Nothing is asked; HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE "
        "are honoured.",
    )
    actions = weights.add_subparsers(dest="action", required=True, metavar="action")
    show = actions.add_parser("info", help="what there is, from where, how large, under which licence; fetches nothing")
    add_common(show, show_weights, as_json=True)
    fetch = actions.add_parser(
        "download", help="fetch what is not here (goes on where it broke off) and convert it to safetensors"
    )
    fetch.add_argument("--no-convert", action="store_true", help="leave converting to the first use")
    add_common(fetch, download_weights)
    convert = actions.add_parser("convert", help="write files with the released names as a folder for from_pretrained")
    convert.add_argument(
        "folder",
        metavar="DIR",
        help="with denoising_unet, reference_unet, IFR, pose_guider and transformer_20, .pth or .safetensors",
    )
    convert.add_argument("-o", "--output", metavar="OUT", help="folder to write (default: where from_pretrained looks)")
    convert.add_argument("--config", metavar="JSON", help="sizes of the networks (default: the released ones)")
    convert.add_argument("--vae", metavar="DIR", help="folder of the autoencoder (default: from the Hub or its cache)")
    add_common(convert, convert_weights)


def run_generate(arguments: argparse.Namespace) -> int:
    """`pose2id generate`; returns the exit code."""
    require_packages(PURPOSE)  # rather now than after all photographs have been read
    import torch

    from pose2id.ipg import source
    from pose2id.ipg.folders import FolderSettings, collect_poses, collect_references, generate_folder

    progress = not arguments.quiet and sys.stderr.isatty()
    output = Path(arguments.output)
    device = _take_device(arguments.device)
    dtype = arguments.dtype or ("float16" if device.type == "cuda" else "float32")
    if dtype not in DTYPES:
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, received {dtype!r}")
    references, missing = collect_references(arguments.references, output)
    poses = None if arguments.poses is None else collect_poses(Path(arguments.poses))
    folder, identity = source.find_weights(arguments.weights)
    (height, width), steps, guidance = read_defaults(folder)
    settings = FolderSettings(
        weights=identity,
        seed=arguments.seed,
        num_inference_steps=steps if arguments.steps is None else arguments.steps,
        guidance_scale=guidance if arguments.guidance is None else arguments.guidance,
        height=height if arguments.height is None else arguments.height,
        width=width if arguments.width is None else arguments.width,
        batch_size=arguments.batch_size,
        layout=arguments.layout,
        dtype=dtype,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    )
    skipped: dict[str, str] = {}

    def tell(key: str, reason: str) -> None:
        skipped[key] = reason
        sys.stderr.write(f"pose2id generate: {_one_line(key)} skipped: {_one_line(reason)}\n")

    for key in missing:
        tell(key, "there is no such file")
    try:
        report = generate_folder(
            lambda: source.load_pipeline(folder, device, dtype, progress=progress),
            references,
            output,
            poses,
            settings=settings,
            sheet=arguments.sheet,
            on_skip=tell,
            progress=progress,
        )
    except torch.OutOfMemoryError as error:
        raise MemoryError(
            f"{device} has too little memory for batches of {arguments.batch_size}. What is finished stays: run again "
            "when the memory is free, or with a smaller --batch-size into another folder"
        ) from error
    sys.stdout.write(f"{output}: {report.drawn + report.found:,} pictures, {report.drawn:,} of them new\n")
    if report.waiting:
        sys.stderr.write(
            f"pose2id generate: {report.waiting:,} pictures of an earlier run with other photographs or poses are "
            "unfinished; run it again to finish them\n"
        )
    if skipped:
        total = len(references) + len(missing)
        sys.stderr.write(f"pose2id generate: skipped {len(skipped):,} of {total:,} photographs:\n")
        sys.stderr.writelines(f"  {_one_line(key)}\n" for key in skipped)
    return 1 if skipped else 0


def show_weights(arguments: argparse.Namespace) -> int:
    """`pose2id weights info`; returns the exit code."""
    from pose2id.ipg.weights import info

    rows = info()
    if arguments.json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
        return 0
    *released, converted = rows
    lines = []
    for row in released:
        size = row["bytes"] or row["size"]
        about = _bytes(size) if size else f"about {_bytes(row['estimate'])}"  # the Hub was not asked
        lines.append((row["name"], about, "yes" if row["path"] else "no", row["what"], row["licence"]))
    sys.stdout.write(format_text(("file", "size", "here", "what", "licence"), lines, align="<") + "\n")
    for repository, revision in dict.fromkeys((row["repository"], row["revision"]) for row in released):
        sys.stdout.write(f"from {repository}, revision {revision}\n")
    missing = [row["size"] or row["estimate"] for row in released if row["path"] is None]
    if missing:
        sys.stdout.write(f"to fetch: about {_bytes(sum(missing))}; run: pose2id weights download\n")
    found = f"{converted['path']}, {_bytes(converted['bytes'])}" if converted["path"] else "not yet"
    sys.stdout.write(f"converted: {found}\n")
    return 0


def download_weights(arguments: argparse.Namespace) -> int:
    """`pose2id weights download`; returns the exit code."""
    from pose2id.ipg.weights import convert, download

    folder = download(progress=not arguments.quiet and sys.stderr.isatty())
    sys.stdout.write(f"{folder if arguments.no_convert else convert()}\n")
    return 0


def convert_weights(arguments: argparse.Namespace) -> int:
    """`pose2id weights convert DIR`; returns the exit code."""
    from pose2id.ipg.weights import convert

    folder = convert(arguments.folder, arguments.output, config=arguments.config, vae=arguments.vae)
    sys.stdout.write(f"{folder}\n")
    return 0


def _bytes(number: int) -> str:
    return (
        f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number} bytes"
    )


def _take_device(name: str | None) -> Any:
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"--device must be cpu, cuda, cuda:1, mps or the like, received {name!r}") from error
    kind: Any = getattr(torch, device.type, None)  # such as torch.cuda
    there = device.type == "cpu" or (hasattr(kind, "is_available") and kind.is_available())
    if not there or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise ValueError(f"--device {name} is not there; leave it out to use what there is")
    return device


def _one_line(text: str) -> str:
    """Without line ends; names that the terminal cannot show are escaped."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
