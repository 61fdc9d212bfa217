"""What the commands on feature files take; loads nothing that computes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from pose2id.cli.choices import ENGINES, METRICS, PROTOCOLS, SIDES
from pose2id.cli.options import SHARE, Option, add_common, count
from pose2id.validation import check_number

METHOD = {
    "eta": "weight of the mean generated feature",
    "k1": "a neighbour is among the K1 nearest rows of a row",
    "k2": "and that row is among the K2 nearest rows of the neighbour",
    "alpha": "neighbours are weighted by max(cosine, 0)^alpha",
}
"""What the numbers of the method mean."""


def add_features(commands: Any) -> None:
    """The commands on feature files."""
    centralize = commands.add_parser("centralize", help="pull the features of one set toward their identities' centres")
    centralize.add_argument(
        "features",
        metavar="FILE",
        help="feature file; the array 'generated', or of parts 'generated_parts', is used if it has one",
    )
    _add_labels(centralize)
    _add_output(centralize)
    _add_method(centralize)
    _add_parts(centralize, fill=True)
    centralize.add_argument(
        "--no-normalize",
        action="store_true",
        help="write raw sums, not scaled to length 1, as the released function gives them",
    )
    centralize.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="compute on a Dask cluster, from one .zarr group to another: the address of its scheduler, such as "
        "tcp://host:8786, or 'local' for processes of this machine; features need not fit into memory",
    )
    add_common(centralize, "features:run_centralize")

    density = commands.add_parser("density", help="ID2: how tight identities are, lower is denser")
    density.add_argument(
        "features",
        metavar="FILE",
        nargs="+",
        help="feature files with 'ids'; several, such as query and gallery, count as one set",
    )
    _add_labels(density, several=True)
    _add_parts(density)
    density.add_argument("--junk", action="store_true", help="count the label -1 as one more identity")
    add_common(density, "features:run_density", as_json=True)

    rerank = commands.add_parser("rerank", help="k-reciprocal re-ranking; writes the new distances, an array (Q, G)")
    _add_sides(rerank)
    _add_output(rerank)
    _add_reranking(rerank, short=True)
    _add_engine(rerank)
    _add_parts(rerank)
    add_common(rerank, "features:run_rerank")

    evaluate = commands.add_parser(
        "evaluate", help="mAP, mINP and CMC; with --centralize or --rerank, before and after"
    )
    _add_sides(evaluate, alone=True)
    rules = (
        "which gallery items are left out for a query; market1501: those of its identity from its camera; all: none; "
        "sysu-mm01: all from its camera, where 2 and 3 count as one; cuhk03: all from its camera, CMC by one random "
        "item of each identity (single-gallery-shot); vehicleid: all but one random item of each identity, of one set "
        "the rest are the queries (default %(default)s)"
    )
    evaluate.add_argument("--protocol", default="market1501", choices=PROTOCOLS, help=rules)
    metric: dict[str, Any] = {"default": "euclidean", "choices": METRICS}
    metric["help"] = "distance between features; re-ranking has its own (default %(default)s)"
    evaluate.add_argument("--metric", **metric)
    evaluate.add_argument(
        "--centralize",
        action="store_true",
        help="also score centralized features (each set by itself, with the array 'generated' of the files that have "
        "it), and features that are only scaled to length 1",
    )
    evaluate.add_argument("--rerank", action="store_true", help="also score every row with re-ranking")
    _add_method(evaluate, needs=("centralize",), engine_needs=("centralize", "rerank"))
    _add_reranking(evaluate, needs=("rerank",))
    _add_parts(evaluate, fill=True, needs=("centralize",))
    images = (
        "folder that the 'paths' in the feature files are relative to, for pictures; or one for the queries and one "
        "for the gallery"
    )
    evaluate.add_argument(
        "--plot",
        metavar="FOLDER",
        help="write pictures into it: cmc.png, with --centralize identities.png, with --images ranking.png (extra "
        "plots)",
    )
    evaluate.add_argument(
        "--images",
        action=Option,
        needs=("plot",),
        nargs="+",
        metavar="FOLDER",
        help=images,
    )
    evaluate.add_argument(
        "--overwrite", action=Option, needs=("plot",), nargs=0, default=False, help="replace pictures that are there"
    )
    add_common(evaluate, "features:run_evaluate", as_json=True)

    tune = commands.add_parser(
        "tune",
        help="choose eta, k1 = k2, alpha and whose neighbours on a share of the identities; scores on the others",
    )
    _add_sides(tune, labels=True)
    for name, kind, check, words in (
        ("etas", float, check_number, "weights of the mean generated feature (default 0 0.25 1 4, if there is one)"),
        ("ks", int, count(0), "values of k1 = k2, 0 for no neighbours (default 0 1 2 3)"),
        ("alphas", float, check_number, "exponents of the neighbours' weights (default 0 4)"),
    ):
        options: dict[str, Any] = {"type": kind, "nargs": "+", "metavar": "VALUE", "help": f"what is tried: {words}"}
        tune.add_argument(f"--{name}", action=Option, check=_each(check), **options)
    tune.add_argument(
        "--neighbors",
        nargs="+",
        choices=("all", "other"),
        help="what is tried: those of all cameras, of other cameras (default: both, if there are 'cams')",
    )
    tune.add_argument(
        "--share",
        action=Option,
        check=SHARE,
        type=float,
        default=0.5,
        help="share of the identities to choose on; the others are only scored, 1: there are none (default 0.5)",
    )
    tune.add_argument(
        "--seed", action=Option, check=count(0), type=int, default=0, help="decides which they are (default 0)"
    )
    tune.add_argument("--protocol", default="market1501", choices=PROTOCOLS, help=rules)
    tune.add_argument("--metric", **metric)
    _add_engine(tune)
    _add_parts(tune)
    tune.add_argument("--all", action="store_true", help="print all settings that were tried, not the ten best only")
    add_common(tune, "tune:run", as_json=True)

    report = commands.add_parser(
        "report",
        help="one HTML page: whether centralizing helps, and what it changes",
        description="Write a page, to be opened in a browser, that compares features with what centralizing makes of "
        "them: scores, curves, and the rankings that change most. Without 'ids' it shows all that needs none.",
    )
    _add_sides(report, labels=True)
    report.add_argument("-o", "--output", metavar="FILE", required=True, help="the .html file to write")
    report.add_argument("--overwrite", action="store_true", help="replace an existing output file")
    report.add_argument("--images", nargs="+", metavar="FOLDER", help=images)
    report.add_argument("--protocol", default="market1501", choices=PROTOCOLS, help=rules)
    report.add_argument(
        "--count", action=Option, check=count(1), type=int, default=24, help="queries that are shown (default 24)"
    )
    report.add_argument(
        "--audit",
        action=Option,
        check=count(1, 500),
        type=int,
        nargs="?",
        const=60,
        metavar="PAIRS",
        help="show so many pairs of mutual neighbours of the gallery (k1 = k2 = 2), drawn at random, for you to say by "
        "keys whether they are one person; what follows moves as you answer; needs --images (without a number: 60)",
    )
    report.add_argument(
        "--answers",
        metavar="FILE",
        help="answers that such a page saved: the new page goes on with them, and what follows is printed",
    )
    asked = ("audit", "answers")
    report.add_argument(
        "--generated",
        action=Option,
        needs=asked,
        metavar="FOLDER",
        help="use the pictures of each photograph that `generate` wrote to FOLDER",
    )
    report.add_argument(
        "--seed",
        action=Option,
        needs=asked,
        check=count(0),
        type=int,
        help="decides which pairs are drawn (default: that of the answers, or 0)",
    )
    report.add_argument("--no-rerank", action="store_true", help="leave re-ranked rankings out, which take longest")
    _add_method(report, recommended=True)
    report.add_argument(
        "--all-cams",
        dest="exclude_cams",
        action="store_const",
        const=False,
        help="take neighbours from all cameras (default: from others only, where the files have 'cams')",
    )
    _add_parts(report, fill=True)
    add_common(report, "report:run")


def _each(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """A check for lists of values."""
    return lambda values, name: [check(value, name) for value in values]


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True, help="file to write: .npz, .npy, .safetensors or .pt"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output file")


def _add_sides(parser: Any, *, alone: bool = False, labels: bool = False) -> None:
    for side in SIDES:
        parser.add_argument(f"--{side}", metavar="FILE", required=not alone, help=f"feature file of the {side}")
    if alone:
        words = "feature file of one set, instead of the two: each row is a query and never finds itself"
        parser.add_argument("--features", metavar="FILE", help=words)
        parser.one_of = (("query", "gallery"), ("features",))
    if alone or labels:
        for side in SIDES:
            for name, what in _LABELS.items():
                words = f"{what} of the {side}, instead of those in its feature file: {_LABEL_FILE}"
                parser.add_argument(f"--{side}-{name}", action=Option, needs=(side,), metavar="FILE", help=words)
    if alone:
        _add_labels(parser, needs=("features",))


_LABELS = {"ids": "identities", "cams": "cameras"}
_LABEL_FILE = ".npy, .csv or .tsv with a head (id, cam), or text, a label a line"


def _add_labels(parser: argparse.ArgumentParser, *, several: bool = False, needs: tuple[str, ...] = ()) -> None:
    """What is said of one set: files of labels, and which set of a file with two."""
    for name, what in _LABELS.items():
        words = f"{what}, instead of those in the feature file: {_LABEL_FILE}; given once for each feature file"
        how: dict[str, Any] = {"action": "append"} if several else {"action": Option, "needs": needs}
        if not (several and name == "cams"):
            parser.add_argument(f"--{name}", metavar="FILE", help=words, **how)
    words = "which set to take of files that hold both, such as a .mat with query_f and gallery_f"
    parser.add_argument("--side", action=Option, needs=needs, choices=SIDES, help=words)


def _add_method(
    parser: argparse.ArgumentParser,
    *,
    needs: tuple[str, ...] = (),
    engine_needs: tuple[str, ...] = (),
    recommended: bool = False,
) -> None:
    k, alpha = (3, 4) if recommended else (2, 0)
    for name, kind, check, default, more in (
        ("eta", float, check_number, 1, ""),
        ("k1", int, count(0), k, "; 0: none is added"),
        ("k2", int, count(0), k, "; 0: none is added"),
        ("alpha", float, check_number, alpha, "; 0: all alike"),
    ):
        words = f"{METHOD[name]} (default {default}{more})"
        options: dict[str, Any] = {"type": kind, "default": kind(default), "help": words}
        parser.add_argument(f"--{name}", action=Option, check=check, needs=needs, **options)
    parser.add_argument(
        "--exclude-cams",
        action=Option,
        needs=needs,
        nargs=0,
        default=None if recommended else False,
        help="take neighbours from other cameras only; needs 'cams' in each file (default: all; but rows with equal "
        "'groups', if a file has those, are never neighbours)",
    )
    _add_engine(parser, needs=engine_needs)


def _add_engine(parser: argparse.ArgumentParser, *, needs: tuple[str, ...] = ()) -> None:
    searches = (
        "how neighbours are searched; pivots, faiss-ivf and faiss-hnsw may miss some (default auto, which is exact)"
    )
    parser.add_argument("--engine", action=Option, needs=needs, default="auto", choices=ENGINES, help=searches)


def _add_parts(parser: argparse.ArgumentParser, *, fill: bool = False, needs: tuple[str, ...] = ()) -> None:
    choice = parser.add_mutually_exclusive_group()
    if fill:
        words = (
            "part features: a hidden part becomes the sum of the neighbours' that show it, and counts as seen; "
            "`evaluate` fills those of the gallery, or of the one set, only, and scores that in rows of its own"
        )
        choice.add_argument("--fill", action=Option, needs=needs, nargs=0, default=False, help=words)
    words = "take the array 'features' of files that hold 'parts' as well; without this the parts are used"
    choice.add_argument("--whole", action="store_true", help=words)


def _add_reranking(parser: argparse.ArgumentParser, *, short: bool = False, needs: tuple[str, ...] = ()) -> None:
    for name, kind, check, default, words in (
        ("k1", int, count(1), 20, "rows are reciprocal neighbours if each is among so many nearest of the other"),
        ("k2", int, count(1), 6, "a row's reciprocal neighbours are averaged over so many nearest rows"),
        ("lambda", float, SHARE, 0.3, "share of the original distance in the new one, 0 to 1"),
    ):
        how: dict[str, Any] = {"action": Option, "check": check, "needs": needs, "type": kind}
        parser.add_argument(f"--rerank-{name}", default=default, help=f"{words} (default {default})", **how)
        if short:  # as it was called before; elsewhere --k1 and --k2 are those of centralizing
            how |= {"dest": f"rerank_{name}", "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            parser.add_argument(f"--{name}", **how)
