"""What each command takes: all that `--help` shows and the shell completes. Loads nothing that computes.

A command names the function that runs it as "module:function"; `pose2id.cli` imports that module when it is called.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from pose2id import __version__
from pose2id.cli.choices import DTYPES, LAYOUTS, PRESETS, SHELLS, SOLVERS
from pose2id.cli.extract_arguments import add_extract
from pose2id.cli.feature_arguments import add_features
from pose2id.cli.gallery_arguments import add_gallery
from pose2id.cli.options import BATCHES_SAY, PRESETS_SAY, SHARE, Option, Parser, add_common, count
from pose2id.errors import require
from pose2id.validation import check_count, check_number

DEMO_FOLDER = "pose2id-demo"
FILES, FOLDERS = ("FILE", "CONFIG", "JSON", "REFS", "PATH"), ("FOLDER", "OUT", "DIR")
"""What arguments with these names in the help are completed with."""


def _check_side(value: Any, name: str) -> None:
    if check_count(value, name, 1) % 8:
        raise ValueError(f"{name} must be a multiple of 8, received {value}")


class _Completion(argparse.Action):
    """Print what a shell needs to complete commands and options."""

    def __call__(self, parser: argparse.ArgumentParser, _namespace: object, shell: Any, _option: Any = None) -> None:
        shtab: Any = require("shtab", "completion", "pose2id --print-completion")
        parsers = [parser]
        while parsers:
            for action in parsers.pop()._actions:
                if isinstance(action, argparse._SubParsersAction):
                    parsers += action.choices.values()
                elif action.metavar in FILES + FOLDERS:
                    action.complete = shtab.FILE if action.metavar in FILES else shtab.DIRECTORY  # type: ignore[attr-defined]
        sys.stdout.write(shtab.complete(parser, shell) + "\n")
        parser.exit()


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="pose2id",
        description="Better re-identification features without training: centralize, re-rank, evaluate.",
        epilog="Feature files: .npz, .safetensors, .mat, .pt or .pth with 'features', or 'parts' and 'visibility', and "
        "optionally 'ids', 'cams', 'generated'; .npy with the features alone. Nothing pickled is loaded.",
    )
    parser.add_argument("--version", action="version", version=f"pose2id {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, help="print the completion script of a shell, and end"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_demo(commands)
    add_extract(commands)
    add_features(commands)
    add_gallery(commands)
    _add_generate(commands)
    _add_poses(commands)
    _add_weights(commands)
    _add_train(commands)
    _add_synthetic(commands)
    doctor = commands.add_parser("doctor", help="what is installed, which engines work, what to install for the rest")
    doctor.add_argument(
        "--rows",
        action=Option,
        check=count(0),
        type=int,
        metavar="N",
        help="say which engine 'auto' takes for N rows, and why",
    )
    for option, letter, default, what in (("--width", "D", 768, "columns"), ("--k", "K", 2, "neighbours of each")):
        doctor.add_argument(
            option,
            action=Option,
            check=count(1),
            needs=("rows",),
            type=int,
            metavar=letter,
            default=default,
            help=f"{what} for --rows (default {default})",
        )
    add_common(doctor, "doctor:run", as_json=True)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="the method on a small real set that comes with the package")
    demo.add_argument("-o", "--output", metavar="FOLDER", help=f"folder for the pictures (default {DEMO_FOLDER})")
    demo.add_argument("--overwrite", action="store_true", help="replace pictures that the folder named by -o holds")
    demo.add_argument("--no-pictures", action="store_true", help="draw no pictures, print the table only")
    demo.add_argument("--people", type=int, metavar="N", help="number of people for --generate (default 30)")
    add_common(demo, "demo:run", as_json=True)
    demo.add_argument(
        "--generate",
        action="store_const",
        dest="run",
        const="walkthrough:run",
        help="the whole method instead: synthetic people, drawn in other poses by the tiny generator (takes minutes)",
    )


def _add_generate(commands: Any) -> None:
    generate = commands.add_parser(
        "generate",
        help="draw photographed people in other poses",
        description="Draw each person in each pose. After an interruption the same command goes on where it was; "
        "photographs and poses may be added. Exit code 1: some photographs were skipped.",
    )
    generate.add_argument(
        "references",
        metavar="REFS",
        nargs="+",
        help="photographs of people: files, folders (and all folders in them), or @LIST: a text file of paths, one a "
        "line, relative to the file's own folder",
    )
    generate.add_argument("-o", "--output", metavar="OUT", required=True, help="folder for the pictures")
    generate.add_argument(
        "--poses",
        metavar="PATH",
        help="poses to draw: a .json of keypoints, a pose map (a skeleton in OpenPose's colours, RGB), or a folder of "
        "pose maps or of OpenPose's own .json files (default: the 8 representative poses)",
    )
    generate.add_argument(
        "--pose-size",
        action=Option,
        needs=("poses",),
        metavar="WIDTHxHEIGHT",
        help="size in pixels of the pictures in which OpenPose found the keypoints, where its .json files hold pixels",
    )
    generate.add_argument(
        "--weights",
        default="yuanc3/Pose2ID",
        help="the generator: a Hub id; a folder, written by save_pretrained or with the released files; or tiny, which "
        "is part of this package and draws synthetic pedestrians (default %(default)s)",
    )
    generate.add_argument(
        "--seed",
        action=Option,
        check=count(0),
        type=int,
        default=42,
        help="number that the random noise is drawn from (default 42)",
    )
    for name, kind, check, words, released, tiny in (
        ("steps", int, count(1), "number of denoising steps", 20, 10),
        ("guidance", float, check_number, "how strongly pictures are held to the reference", 3.5, 2),
        ("height", int, _check_side, "height of the pictures in pixels", 512, 64),
        ("width", int, _check_side, "width of the pictures in pixels", 256, 32),
    ):
        words += f" (default: as the weights say; the released ones {released}, tiny {tiny})"
        generate.add_argument(f"--{name}", action=Option, check=check, type=kind, help=words)
    generate.add_argument(
        "--preset",
        choices=PRESETS,
        help=PRESETS_SAY,
    )
    for name, words in (
        ("rescale", "share, 0 to 1, in which guided predictions keep the contrast of unguided ones (default 0)"),
        ("start", "share of the steps before guidance begins (default 0)"),
        ("stop", "share of the steps after which guidance ends (default 1)"),
    ):
        share: dict[str, Any] = {"action": Option, "check": SHARE, "type": float, "metavar": "SHARE"}
        generate.add_argument(f"--guidance-{name}", help=words, **share)
    generate.add_argument(
        "--shared-noise",
        action=argparse.BooleanOptionalAction,
        help="the same noise for all people in a pose (default: as the preset says, else not)",
    )
    generate.add_argument(
        "--solver",
        choices=SOLVERS,
        help="what solves the steps; ddpm, euler-ancestral and lcm add noise (default: as the weights say; the "
        "released ones ddim)",
    )
    generate.add_argument(
        "--decoder",
        metavar="DIR",
        help="makes the pictures at an eighteenth of the work: folder or Hub id of an AutoencoderTiny for the latents "
        "of the weights, such as madebyollin/taesd (default: the weights' own)",
    )
    generate.add_argument(
        "--decode-chunk-size",
        action=Option,
        check=count(1),
        type=int,
        default=1,
        metavar="N",
        help="pictures decoded at once; more are faster and need more memory (default 1)",
    )
    generate.add_argument(
        "--dtype",
        choices=DTYPES,
        help="number format in which the networks compute (default: float16 on CUDA, else float32)",
    )
    generate.add_argument(
        "--device", help="where to compute: cpu, cuda, cuda:1, mps (default: cuda if there is a GPU, else cpu)"
    )
    generate.add_argument(
        "--batch-size",
        action=Option,
        check=count(1),
        type=int,
        default=8,
        help=f"{BATCHES_SAY} (default 8)",
    )
    generate.add_argument(
        "--layout",
        default="reference",
        choices=LAYOUTS,
        help="names of pictures; reference (default): OUT/<reference>/<pose>.png; pose: OUT/pose<pose>/<reference>, "
        "as the demo of the released code reads them",
    )
    generate.add_argument(
        "--sheet", action="store_true", help="also write OUT/sheets/<reference>.png, all poses of a person at a glance"
    )
    add_common(generate, "generate:run")


def _add_poses(commands: Any) -> None:
    poses = commands.add_parser(
        "poses",
        help="keypoints of photographed people, to a file for training and for generate --poses",
        description="Find the 18 keypoints of the person on each photograph, by DWPose (134 MB, fetched once). Keys of "
        "the file are paths below the folder that is named. Exit code 1: some photographs were skipped.",
    )
    poses.add_argument(
        "references",
        metavar="REFS",
        nargs="+",
        help="photographs of one person each: files, folders (and all folders in them), or @LIST: a text file of "
        "paths, one a line, relative to the file's own folder",
    )
    poses.add_argument("-o", "--output", metavar="FILE", required=True, help="the .json file to write")
    poses.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    poses.add_argument(
        "--model", metavar="FILE", help="another .onnx file that takes and gives what DWPose does (default: DWPose's)"
    )
    poses.add_argument(
        "--threshold",
        action=Option,
        check=check_number,
        type=float,
        default=0.3,
        help="keypoints whose score is not above it are missing (default 0.3)",
    )
    poses.add_argument(
        "--batch-size", action=Option, check=count(1), type=int, default=8, help=f"{BATCHES_SAY} (default 8)"
    )
    add_common(poses, "poses:run")


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser(
        "weights",
        help="the generator's weights: where they are, fetch them, convert them",
        description="The released weights of the generator. The environment variables HF_HOME, HF_ENDPOINT and "
        "HF_HUB_OFFLINE are honoured.",
    )
    actions = weights.add_subparsers(dest="action", required=True, metavar="action")
    info = actions.add_parser("info", help="list the files: source, size, licence, and which are here; fetches nothing")
    add_common(info, "weights:run_info", as_json=True)
    download = actions.add_parser(
        "download",
        help="fetch the files that are not here, going on where it broke off, and convert them to safetensors",
    )
    download.add_argument(
        "--no-convert", action="store_true", help="only fetch; the files are converted when they are first used"
    )
    add_common(download, "weights:run_download")
    convert = actions.add_parser("convert", help="convert a folder of released files to one that from_pretrained loads")
    convert.add_argument(
        "folder",
        metavar="DIR",
        help="folder with denoising_unet, reference_unet, IFR, pose_guider and transformer_20, .pth or .safetensors",
    )
    convert.add_argument(
        "-o",
        "--output",
        metavar="OUT",
        help="folder to write (default: where from_pretrained looks for the released ones)",
    )
    convert.add_argument(
        "--config", metavar="JSON", help="file with the sizes of the networks (default: those of the released ones)"
    )
    convert.add_argument("--vae", metavar="DIR", help="folder of the autoencoder (default: from the Hub or its cache)")
    add_common(convert, "weights:run_convert")


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network, as a configuration file says")
    networks = train.add_subparsers(dest="network", required=True, metavar="network")
    for name, alias, what, page, run in (
        ("generator", "ipg-train", "the generator", "Training the generator", "train:run_generator"),
        ("encoder", None, "a small encoder", "Training encoders", "train_encoders:run_encoder"),
    ):
        words = f"{what}, as a configuration file says"
        text = f"Train {words}. After an interruption the same command goes on from the last checkpoint."
        made = [networks.add_parser(name, help=words, description=text)]
        if alias:
            made.append(commands.add_parser(alias, help=f"the same as `train {name}`", description=text))
        for parser in made:
            parser.add_argument(
                "config", metavar="CONFIG", help=f"TOML file, described on the documentation page {page}"
            )
            parser.add_argument(
                "-o", "--output", metavar="OUT", required=True, help="folder for checkpoints, losses and the result"
            )
            if name == "encoder":
                parser.add_argument(
                    "--device", help="where to compute: cpu, cuda, cuda:1, mps (default: cuda if there is a GPU)"
                )
            add_common(parser, run)


def _add_synthetic(commands: Any) -> None:
    synthetic = commands.add_parser(
        "synthetic", help="write a data set of synthetic pedestrians in the layout of Market-1501"
    )
    output = synthetic.add_mutually_exclusive_group(required=True)
    output.add_argument("-o", "--output", metavar="OUT", help="folder to write")
    output.add_argument("folder", metavar="OUT", nargs="?", help="another way to write -o OUT")
    for name, default, check, words in (
        ("ids", 500, count(2, 9999), "number of people"),
        ("seed", 0, count(0), "number that people and cameras are drawn from"),
        ("cams", 6, count(2, 9), "number of cameras, 2 to 9"),
        ("per-cam", 2, count(2, 99), "pictures of each person by each camera"),
        ("height", 64, count(8), "height of the pictures in pixels"),
        ("width", 32, count(8), "width of the pictures in pixels"),
    ):
        options: dict[str, Any] = {"type": int, "default": default, "help": f"{words} (default {default})"}
        synthetic.add_argument(f"--{name}", action=Option, check=check, **options)
    synthetic.add_argument("--occluded", action="store_true", help="in every query something hides part of the person")
    synthetic.add_argument(
        "--infrared", action="store_true", help="a third of the cameras are infrared, and all queries are theirs"
    )
    synthetic.add_argument(
        "--masks", action="store_true", help="also write which part of the person each pixel shows, in OUT/masks"
    )
    synthetic.add_argument(
        "--attributes",
        action="store_true",
        help="also write each person's hair, clothes and bags, in OUT/attributes.json",
    )
    synthetic.add_argument("--overwrite", action="store_true", help="replace OUT if this command made it")
    add_common(synthetic, "synthetic:run")
