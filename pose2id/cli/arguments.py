"""What each command takes: all that `--help` shows and the shell completes. Loads nothing that computes.

A command names the function that runs it as "module:function"; `pose2id.cli` imports that module when it is called.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NoReturn

from pose2id import __version__
from pose2id.cli.choices import DTYPES, ENGINES, LAYOUTS, METRICS, PRESETS, PROTOCOLS, SHELLS, SOLVERS
from pose2id.errors import escape, require
from pose2id.validation import check_count, check_number

DEMO_FOLDER = "pose2id-demo"
FILES, FOLDERS = ("FILE", "CONFIG", "JSON", "REFS", "PATH"), ("FOLDER", "OUT", "DIR")
"""What arguments with these names in the help are completed with."""


class Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere here; what a command does not know is told by its own parser."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but nothing is left over for the parser above, which would point to its own help."""
        namespace, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return namespace, left

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        self.exit(2, f"{self.prog}: {escape(message)}; see {self.prog} --help\n")


class _Option(argparse.Action):
    """An option that is checked by the name that was typed, see `check_given`; with `nargs=0` a flag.

    `check` takes the value and that name; `needs` are the options without any of which this one does nothing.
    """

    def __init__(
        self, *names: Any, check: Callable[[Any, str], Any] | None = None, needs: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(*names, **options)
        self.check, self.needs = check, needs

    def __call__(self, _parser: object, namespace: Any, value: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, True if self.nargs == 0 else value)
        namespace.given = [*getattr(namespace, "given", ()), (self, value, option)]


def check_given(arguments: argparse.Namespace) -> None:
    """Raise ValueError, naming the option as it was typed, for a value out of range and for what would do nothing."""
    for option, value, name in getattr(arguments, "given", ()):
        if option.needs and not any(getattr(arguments, other) for other in option.needs):
            raise ValueError(f"{name} goes with {' or '.join(f'--{other}' for other in option.needs)}")
        if option.check:
            option.check(value, name)


def _count(minimum: int, maximum: int | None = None) -> Callable[[Any, str], Any]:
    return partial(check_count, minimum=minimum, maximum=maximum)


_SHARE = partial(check_number, high=1)


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
    doctor.add_argument(
        "--rows",
        action=_Option,
        check=_count(0),
        type=int,
        metavar="N",
        help="say which engine 'auto' takes for N rows, and why",
    )
    for option, letter, default, what in (("--width", "D", 768, "columns"), ("--k", "K", 2, "neighbours of each")):
        doctor.add_argument(
            option,
            action=_Option,
            check=_count(1),
            needs=("rows",),
            type=int,
            metavar=letter,
            default=default,
            help=f"{what} for --rows (default {default})",
        )
    _add_common(doctor, "doctor:run", as_json=True)
    return parser


def _add_demo(commands: Any) -> None:
    demo = commands.add_parser("demo", help="the method on a small real set that comes with the package")
    demo.add_argument("-o", "--output", metavar="FOLDER", help=f"folder for the pictures (default {DEMO_FOLDER})")
    demo.add_argument("--overwrite", action="store_true", help="replace pictures that the folder named by -o holds")
    demo.add_argument("--no-pictures", action="store_true", help="draw no pictures, print the table only")
    demo.add_argument("--people", type=int, metavar="N", help="number of people for --generate (default 30)")
    _add_common(demo, "demo:run", as_json=True)
    demo.add_argument(
        "--generate",
        action="store_const",
        dest="run",
        const="walkthrough:run",
        help="the whole method instead: synthetic people, drawn in other poses by the tiny generator (takes minutes)",
    )


def _add_features(commands: Any) -> None:
    centralize = commands.add_parser("centralize", help="pull the features of one set toward their identities' centres")
    centralize.add_argument(
        "features", metavar="FILE", help="feature file; the array 'generated' is used if it has one"
    )
    _add_output(centralize)
    _add_method(centralize)
    centralize.add_argument(
        "--no-normalize",
        action="store_true",
        help="write raw sums, not scaled to length 1, as the released function gives them",
    )
    _add_common(centralize, "features:run_centralize")

    density = commands.add_parser("density", help="ID2: how tight identities are, lower is denser")
    density.add_argument(
        "features",
        metavar="FILE",
        nargs="+",
        help="feature files with 'ids'; several, such as query and gallery, count as one set",
    )
    density.add_argument("--junk", action="store_true", help="count the label -1 as one more identity")
    _add_common(density, "features:run_density", as_json=True)

    rerank = commands.add_parser("rerank", help="k-reciprocal re-ranking; writes the new distances, an array (Q, G)")
    _add_sides(rerank)
    _add_output(rerank)
    _add_reranking(rerank, short=True)
    _add_engine(rerank)
    _add_common(rerank, "features:run_rerank")

    evaluate = commands.add_parser(
        "evaluate", help="mAP, mINP and CMC; with --centralize or --rerank, before and after"
    )
    _add_sides(evaluate)
    rules = (
        "which gallery items are left out for a query; market1501: those of its identity from its camera; all: none; "
        "sysu-mm01: all from its camera, where 2 and 3 count as one (default %(default)s)"
    )
    evaluate.add_argument("--protocol", default="market1501", choices=PROTOCOLS, help=rules)
    evaluate.add_argument(
        "--metric",
        default="euclidean",
        choices=METRICS,
        help="distance between features, in rows without re-ranking (default %(default)s)",
    )
    evaluate.add_argument(
        "--centralize",
        action="store_true",
        help="also score centralized features (each set by itself, with the array 'generated' of the files that have "
        "it), and features that are only scaled to length 1",
    )
    evaluate.add_argument("--rerank", action="store_true", help="also score every row with re-ranking")
    _add_method(evaluate, needs=("centralize",), engine_needs=("centralize", "rerank"))
    _add_reranking(evaluate, needs=("rerank",))
    _add_common(evaluate, "features:run_evaluate", as_json=True)


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
        action=_Option,
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
        action=_Option,
        check=_count(0),
        type=int,
        default=42,
        help="number that the random noise is drawn from (default 42)",
    )
    for name, kind, check, words, released, tiny in (
        ("steps", int, _count(1), "number of denoising steps", 20, 10),
        ("guidance", float, check_number, "how strongly pictures are held to the reference", 3.5, 2),
        ("height", int, _check_side, "height of the pictures in pixels", 512, 64),
        ("width", int, _check_side, "width of the pictures in pixels", 256, 32),
    ):
        words += f" (default: as the weights say; the released ones {released}, tiny {tiny})"
        generate.add_argument(f"--{name}", action=_Option, check=check, type=kind, help=words)
    generate.add_argument(
        "--preset",
        choices=PRESETS,
        help="steps, guidance and noise by name: published (20, 3.5), balanced (4, 2, shared), fast (2, 2, shared), "
        "draft (1, no guidance); what is given beside it goes before (default: as the weights say)",
    )
    for name, words in (
        ("rescale", "share, 0 to 1, in which guided predictions keep the contrast of unguided ones (default 0)"),
        ("start", "share of the steps before guidance begins (default 0)"),
        ("stop", "share of the steps after which guidance ends (default 1)"),
    ):
        share: dict[str, Any] = {"action": _Option, "check": _SHARE, "type": float, "metavar": "SHARE"}
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
        action=_Option,
        check=_count(1),
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
        action=_Option,
        check=_count(1),
        type=int,
        default=8,
        help="pictures drawn at once; fewer need less memory (default 8)",
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
    _add_common(generate, "generate:run")


def _add_weights(commands: Any) -> None:
    weights = commands.add_parser(
        "weights",
        help="the generator's weights: where they are, fetch them, convert them",
        description="The released weights of the generator. The environment variables HF_HOME, HF_ENDPOINT and "
        "HF_HUB_OFFLINE are honoured.",
    )
    actions = weights.add_subparsers(dest="action", required=True, metavar="action")
    info = actions.add_parser("info", help="list the files: source, size, licence, and which are here; fetches nothing")
    _add_common(info, "weights:run_info", as_json=True)
    download = actions.add_parser(
        "download",
        help="fetch the files that are not here, going on where it broke off, and convert them to safetensors",
    )
    download.add_argument(
        "--no-convert", action="store_true", help="only fetch; the files are converted when they are first used"
    )
    _add_common(download, "weights:run_download")
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
    _add_common(convert, "weights:run_convert")


def _add_train(commands: Any) -> None:
    train = commands.add_parser("train", help="train a network, as a configuration file says")
    networks = train.add_subparsers(dest="network", required=True, metavar="network")
    what = "the generator, as a configuration file says"
    text = f"Train {what}. After an interruption the same command goes on from the last checkpoint."
    generator = networks.add_parser("generator", help=what, description=text)
    alias = commands.add_parser("ipg-train", help="the same as `train generator`", description=text)
    for parser in (generator, alias):
        parser.add_argument(
            "config", metavar="CONFIG", help="TOML file, described on the documentation page Training the generator"
        )
        parser.add_argument(
            "-o", "--output", metavar="OUT", required=True, help="folder for checkpoints, losses and the result"
        )
        _add_common(parser, "train:run_generator")


def _add_synthetic(commands: Any) -> None:
    synthetic = commands.add_parser(
        "synthetic", help="write a data set of synthetic pedestrians in the layout of Market-1501"
    )
    output = synthetic.add_mutually_exclusive_group(required=True)
    output.add_argument("-o", "--output", metavar="OUT", help="folder to write")
    output.add_argument("folder", metavar="OUT", nargs="?", help="another way to write -o OUT")
    for name, default, check, words in (
        ("ids", 500, _count(2, 9999), "number of people"),
        ("seed", 0, _count(0), "number that people and cameras are drawn from"),
        ("cams", 6, _count(2, 9), "number of cameras, 2 to 9"),
        ("per-cam", 2, _count(2, 99), "pictures of each person by each camera"),
        ("height", 64, _count(8), "height of the pictures in pixels"),
        ("width", 32, _count(8), "width of the pictures in pixels"),
    ):
        options: dict[str, Any] = {"type": int, "default": default, "help": f"{words} (default {default})"}
        synthetic.add_argument(f"--{name}", action=_Option, check=check, **options)
    synthetic.add_argument("--occluded", action="store_true", help="in every query something hides part of the person")
    synthetic.add_argument(
        "--infrared", action="store_true", help="a third of the cameras are infrared, and all queries are theirs"
    )
    synthetic.add_argument("--overwrite", action="store_true", help="replace OUT if this command made it")
    _add_common(synthetic, "synthetic:run")


def _add_common(parser: argparse.ArgumentParser, run: str, *, as_json: bool = False) -> None:
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        help="no progress bars (there are none without a terminal), and no notes on results",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="show the library's log")
    parser.set_defaults(run=run)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="file to write: .npz, .npy, .safetensors or .pt"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")


def _add_sides(parser: argparse.ArgumentParser) -> None:
    for side in ("query", "gallery"):
        parser.add_argument(f"--{side}", metavar="FILE", required=True, help=f"feature file of the {side}")


def _add_method(
    parser: argparse.ArgumentParser, *, needs: tuple[str, ...] = (), engine_needs: tuple[str, ...] = ()
) -> None:
    for name, kind, check, default, words in (
        ("eta", float, check_number, 1, "weight of the mean generated feature (default 1)"),
        ("k1", int, _count(0), 2, "a neighbour is among the K1 nearest rows of a row (default 2; 0: none is added)"),
        (
            "k2",
            int,
            _count(0),
            2,
            "and that row is among the K2 nearest rows of the neighbour (default 2; 0: none is added)",
        ),
        ("alpha", float, check_number, 0, "neighbours are weighted by max(cosine, 0)^alpha (default 0: all alike)"),
    ):
        options: dict[str, Any] = {"type": kind, "default": kind(default), "help": words}
        parser.add_argument(f"--{name}", action=_Option, check=check, needs=needs, **options)
    parser.add_argument(
        "--exclude-cams",
        action=_Option,
        needs=needs,
        nargs=0,
        default=False,
        help="take neighbours from other cameras only; the file must have 'cams'",
    )
    _add_engine(parser, needs=engine_needs)


def _add_engine(parser: argparse.ArgumentParser, *, needs: tuple[str, ...] = ()) -> None:
    searches = (
        "how neighbours are searched; pivots, faiss-ivf and faiss-hnsw may miss some (default auto, which is exact)"
    )
    parser.add_argument("--engine", action=_Option, needs=needs, default="auto", choices=ENGINES, help=searches)


def _add_reranking(parser: argparse.ArgumentParser, *, short: bool = False, needs: tuple[str, ...] = ()) -> None:
    for name, kind, check, default, words in (
        ("k1", int, _count(1), 20, "rows are reciprocal neighbours if each is among so many nearest of the other"),
        ("k2", int, _count(1), 6, "a row's reciprocal neighbours are averaged over so many nearest rows"),
        ("lambda", float, _SHARE, 0.3, "share of the original distance in the new one, 0 to 1"),
    ):
        how: dict[str, Any] = {"action": _Option, "check": check, "needs": needs, "type": kind}
        parser.add_argument(f"--rerank-{name}", default=default, help=f"{words} (default {default})", **how)
        if short:  # as it was called before; elsewhere --k1 and --k2 are those of centralizing
            how |= {"dest": f"rerank_{name}", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            parser.add_argument(f"--{name}", **how)
