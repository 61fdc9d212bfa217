"""What each command takes: all that `--help` shows and the shell completes. Loads nothing that computes.

A command names the function that runs it as "module:function"; `pose2id.cli` imports that module when it is called.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any, NoReturn

from pose2id import __version__
from pose2id.cli.choices import DTYPES, ENGINES, LAYOUTS, METRICS, PROTOCOLS, SHELLS
from pose2id.errors import require

DEMO_FOLDER = "pose2id-demo"
FILES, FOLDERS = ("FILE", "CONFIG", "JSON", "REFS", "PATH"), ("FOLDER", "OUT", "DIR")
"""What arguments with these names in the help are completed with."""


class Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


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
        epilog="Feature files: .npz with 'features' and optionally 'ids', 'cams', 'generated'; .npy; .safetensors; .pt "
        "with one plain tensor. Nothing pickled is loaded.",
    )
    parser.add_argument("--version", action="version", version=f"pose2id {__version__}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, help="print the completion script of a shell, and end"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    _add_demo(commands)
    _add_features(commands)
    _add_generate(commands)
    _add_weights(commands)
    _add_train(commands)
    _add_synthetic(commands)
    doctor = commands.add_parser("doctor", help="what is installed, which engines work, what to install for the rest")
    doctor.add_argument("--rows", type=int, metavar="N", help="say which engine 'auto' takes for so many rows, and why")
    _add_common(doctor, "doctor:run", as_json=True)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="the method on a small real set that comes with the package")
    demo.add_argument("-o", "--output", metavar="FOLDER", help=f"folder for the pictures (default {DEMO_FOLDER})")
    demo.add_argument("--overwrite", action="store_true", help="replace pictures in a folder named by -o")
    demo.add_argument("--no-pictures", action="store_true", help="print the table only")
    demo.add_argument("--people", type=int, metavar="N", help="with --generate: how many people (default 30)")
    _add_common(demo, "demo:run", as_json=True)
    demo.add_argument(
        "--generate",
        action="store_const",
        dest="run",
        const="walkthrough:run",
        help="instead, draw synthetic people with the tiny generator (minutes)",
    )


def _add_features(commands: Any) -> None:
    centralize = commands.add_parser("centralize", help="pull the features of one set toward their identities' centres")
    centralize.add_argument("features", metavar="FILE", help="feature file; 'generated' in it is used")
    _add_output(centralize)
    _add_method(centralize)
    centralize.add_argument("--no-normalize", action="store_true", help="raw sums, as the released function")
    _add_common(centralize, "features:run_centralize")

    density = commands.add_parser("density", help="ID2: how tight identities are, lower is denser")
    density.add_argument(
        "features", metavar="FILE", nargs="+", help="feature files with 'ids', taken together (query and gallery)"
    )
    _add_common(density, "features:run_density", as_json=True)

    rerank = commands.add_parser("rerank", help="k-reciprocal re-ranking; writes the distances (Q, G)")
    _add_sides(rerank)
    _add_output(rerank)
    _add_reranking(rerank, short=True)
    _add_engine(rerank)
    _add_common(rerank, "features:run_rerank")

    evaluate = commands.add_parser("evaluate", help="mAP, CMC, mINP; with --centralize and --rerank before and after")
    _add_sides(evaluate)
    evaluate.add_argument("--protocol", default="market1501", choices=PROTOCOLS, help="(default %(default)s)")
    evaluate.add_argument(
        "--metric", default="euclidean", choices=METRICS, help="for rows without re-ranking (default %(default)s)"
    )
    evaluate.add_argument(
        "--centralize",
        action="store_true",
        help="also centralize query and gallery, separately (and show features of length 1)",
    )
    evaluate.add_argument("--rerank", action="store_true", help="also re-rank")
    _add_method(evaluate)
    _add_reranking(evaluate)
    _add_common(evaluate, "features:run_evaluate", as_json=True)


def _add_generate(commands: Any) -> None:
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
        default="yuanc3/Pose2ID",
        help="%(default)s (default), tiny (synthetic pedestrians, part of this package), another Hub id, a folder of "
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
    generate.add_argument("--dtype", choices=DTYPES, help="of the networks (default: float16 on CUDA, else float32)")
    generate.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: cuda where there is one, else cpu)")
    generate.add_argument("--batch-size", type=int, default=8, help="pictures at once (default 8)")
    generate.add_argument(
        "--layout",
        default="reference",
        choices=LAYOUTS,
        help="reference (default): OUT/<reference>/<pose>.png; pose: OUT/pose<pose>/<reference>, as the demo of the "
        "released code reads it",
    )
    generate.add_argument("--sheet", action="store_true", help="also OUT/sheets/<reference>.png: all poses at a glance")
    _add_common(generate, "generate:run")


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser(
        "weights",
        help="the generator's weights: where they are, fetch them, convert them",
        description="The released weights of the generator. Nothing is asked; HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE "
        "are honoured.",
    )
    actions = weights.add_subparsers(dest="action", required=True, metavar="action")
    info = actions.add_parser("info", help="what there is, from where, how large, under which licence; fetches nothing")
    _add_common(info, "weights:run_info", as_json=True)
    download = actions.add_parser(
        "download", help="fetch what is not here (goes on where it broke off) and convert it to safetensors"
    )
    download.add_argument("--no-convert", action="store_true", help="leave converting to the first use")
    _add_common(download, "weights:run_download")
    convert = actions.add_parser("convert", help="write files with the released names as a folder for from_pretrained")
    convert.add_argument(
        "folder",
        metavar="DIR",
        help="with denoising_unet, reference_unet, IFR, pose_guider and transformer_20, .pth or .safetensors",
    )
    convert.add_argument("-o", "--output", metavar="OUT", help="folder to write (default: where from_pretrained looks)")
    convert.add_argument("--config", metavar="JSON", help="sizes of the networks (default: the released ones)")
    convert.add_argument("--vae", metavar="DIR", help="folder of the autoencoder (default: from the Hub or its cache)")
    _add_common(convert, "weights:run_convert")


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network as a configuration says")
    networks = train.add_subparsers(dest="network", required=True, metavar="network")
    what = "the generator, as a configuration says"
    text = f"Train {what}. Killed and started again it goes on from its last checkpoint."
    generator = networks.add_parser("generator", help=what, description=text)
    alias = commands.add_parser("ipg-train", help="the same as `train generator`", description=text)
    for parser in (generator, alias):
        parser.add_argument("config", metavar="CONFIG", help="TOML file; see the documentation page Training")
        parser.add_argument("-o", "--output", metavar="OUT", required=True, help="folder of the run")
        _add_common(parser, "train:run_generator")


def _add_synthetic(commands: Any) -> None:
    synthetic = commands.add_parser(
        "synthetic", help="write a data set of synthetic pedestrians in the layout of Market-1501"
    )
    output = synthetic.add_mutually_exclusive_group(required=True)
    output.add_argument("-o", "--output", metavar="OUT", help="folder to write")
    output.add_argument("folder", metavar="OUT", nargs="?", help="the same as -o OUT")
    for name, default, words in (
        ("ids", 500, "identities"),
        ("seed", 0, "of the world"),
        ("cams", 6, "cameras, 2 to 9"),
        ("per-cam", 2, "pictures of each identity from each camera"),
        ("height", 64, "of the pictures, in pixels"),
        ("width", 32, "of the pictures, in pixels"),
    ):
        synthetic.add_argument(f"--{name}", type=int, default=default, help=f"{words} (default {default})")
    synthetic.add_argument("--occluded", action="store_true", help="something stands before the person in every query")
    synthetic.add_argument(
        "--infrared", action="store_true", help="a third of the cameras is infrared, and all queries"
    )
    synthetic.add_argument("--overwrite", action="store_true", help="replace a folder that this command made")
    _add_common(synthetic, "synthetic:run")


def _add_common(parser: argparse.ArgumentParser, run: str, *, as_json: bool = False) -> None:
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bars (there are none without a terminal)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the library's log")
    parser.set_defaults(run=run)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help=".npz, .npy, .safetensors or .pt")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")


def _add_sides(parser: argparse.ArgumentParser) -> None:
    for side in ("query", "gallery"):
        parser.add_argument(f"--{side}", metavar="FILE", required=True, help=f"feature file of the {side}")


def _add_method(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--eta", type=float, default=1.0, help="trust in the generated features (default 1)")
    parser.add_argument("--k1", type=int, default=2, help="neighbours looked at (default 2, 0 for none)")
    parser.add_argument("--k2", type=int, default=2, help="neighbours that must look back (default 2)")
    parser.add_argument("--alpha", type=float, default=0.0, help="weight max(cosine, 0)^alpha (default 0: plain sums)")
    parser.add_argument("--exclude-cams", action="store_true", help="neighbours from other cameras only; needs 'cams'")
    _add_engine(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", default="auto", choices=ENGINES, help="who searches neighbours (default auto)")


def _add_reranking(parser: argparse.ArgumentParser, *, short: bool = False) -> None:
    for name, kind, default, words in (
        ("k1", int, 20, "neighbours encoded"),
        ("k2", int, 6, "rows averaged"),
        ("lambda", float, 0.3, "share of the original distance"),
    ):
        help_text = f"{words} (default {default})"
        parser.add_argument(f"--rerank-{name}", type=kind, default=default, help=help_text)
        if short:  # as it was called before; elsewhere --k1 and --k2 are those of centralizing
            older: dict[str, Any] = {"dest": f"rerank_{name}", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            parser.add_argument(f"--{name}", type=kind, **older)
