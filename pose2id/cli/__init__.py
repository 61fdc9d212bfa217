"""The command line: reads, calls, writes.

`pose2id demo | centralize | density | rerank | evaluate | generate | weights | ipg-train | synthetic | doctor`. Results
go to stdout, progress and errors to stderr. Bad input ends with one line and exit code 2. `generate` and `weights` are
in `pose2id.cli.generator`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pose2id import __version__
from pose2id.arrays import take_array, take_features
from pose2id.cli.generator import add_parsers as add_generator
from pose2id.errors import one_line
from pose2id.files import FeatureFile, check_output, read_features, write_arrays
from pose2id.neighbors import ENGINES
from pose2id.validation import check_number, is_tensor, take_labels

DEMO_FOLDER = "pose2id-demo"
EXTRAS = {
    "faiss-cpu": ("faiss-cpu",),
    "faiss-gpu": ("faiss-gpu",),
    "ipg": ("diffusers", "safetensors", "huggingface-hub", "accelerate", "pillow", "filelock"),
    "train": ("tensorboard",),
    "poses": ("onnxruntime",),
    "plots": ("matplotlib", "pillow"),
    "dask": ("dask",),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0; 1 where some inputs were skipped; 2 for bad input)."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments) or 0
        sys.stdout.flush()
    except (ValueError, TypeError, ImportError, OSError, MemoryError, FloatingPointError) as error:
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        print(f"pose2id {arguments.command}: {one_line(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"pose2id {arguments.command}: interrupted", file=sys.stderr)
        return 130
    return code


class _Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere here."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="pose2id",
        description="Better re-identification features without training: centralize, re-rank, evaluate.",
        epilog="Feature files: .npz with 'features' and optionally 'ids', 'cams', 'generated'; .npy; .safetensors; .pt "
        "with one plain tensor. Nothing pickled is loaded.",
    )
    parser.add_argument("--version", action="version", version=f"pose2id {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    demo = commands.add_parser("demo", help="the method on a small real set that comes with the package")
    demo.add_argument("-o", "--output", metavar="FOLDER", help=f"folder for the pictures (default {DEMO_FOLDER})")
    demo.add_argument("--overwrite", action="store_true", help="replace pictures in a folder named by -o")
    demo.add_argument("--no-pictures", action="store_true", help="print the table only")
    demo.add_argument(
        "--generate", action="store_true", help="instead, draw synthetic people with the tiny generator (minutes)"
    )
    demo.add_argument("--people", type=int, metavar="N", help="with --generate: how many people (default 30)")
    _add_common(demo, _demo, as_json=True)

    centralize = commands.add_parser("centralize", help="pull the features of one set toward their identities' centres")
    centralize.add_argument("features", metavar="FILE", help="feature file; 'generated' in it is used")
    _add_output(centralize)
    _add_method(centralize)
    centralize.add_argument("--no-normalize", action="store_true", help="raw sums, as the released function")
    _add_common(centralize, _centralize)

    density = commands.add_parser("density", help="ID2: how tight identities are, lower is denser")
    density.add_argument(
        "features",
        metavar="FILE",
        nargs="+",
        help="feature files with 'ids', taken together (query and gallery)",
    )
    _add_common(density, _density, as_json=True)

    rerank = commands.add_parser("rerank", help="k-reciprocal re-ranking; writes the distances (Q, G)")
    _add_sides(rerank)
    _add_output(rerank)
    _add_reranking(rerank, "")
    _add_engine(rerank)
    _add_common(rerank, _rerank)

    evaluate = commands.add_parser("evaluate", help="mAP, CMC, mINP; with --centralize and --rerank before and after")
    _add_sides(evaluate)
    evaluate.add_argument("--protocol", default="market1501", help="market1501 (default), all or sysu-mm01")
    evaluate.add_argument(
        "--metric", default="euclidean", help="euclidean (default) or cosine, for rows without re-ranking"
    )
    evaluate.add_argument(
        "--centralize",
        action="store_true",
        help="also centralize query and gallery, separately (and show features of length 1)",
    )
    evaluate.add_argument("--rerank", action="store_true", help="also re-rank")
    _add_method(evaluate)
    _add_reranking(evaluate, "rerank-")
    _add_common(evaluate, _evaluate, as_json=True)

    add_generator(commands, _add_common)

    train = commands.add_parser(
        "ipg-train",
        help="train the generator as a configuration says",
        description="Train the generator. Killed and started again it goes on from its last checkpoint.",
    )
    train.add_argument("config", metavar="CONFIG", help="TOML file; see the documentation page Training")
    train.add_argument("-o", "--output", metavar="OUT", required=True, help="folder of the run")
    _add_common(train, _train)

    synthetic = commands.add_parser(
        "synthetic", help="write a data set of synthetic pedestrians in the layout of Market-1501"
    )
    synthetic.add_argument("output", metavar="OUT", help="folder to write")
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
    _add_common(synthetic, _synthetic)

    doctor = commands.add_parser("doctor", help="what is installed, which engines work, what to install for the rest")
    doctor.add_argument("--rows", type=int, metavar="N", help="explain the engine for so many rows (with --width)")
    doctor.add_argument("--width", type=int, metavar="D", help="columns of these rows")
    doctor.add_argument("--k", type=int, default=2, help="neighbours of these rows (default 2)")
    _add_common(doctor, _doctor, as_json=True)
    return parser


def _add_common(parser: argparse.ArgumentParser, run: Any, *, as_json: bool = False) -> None:
    if as_json:
        parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "-q", "--quiet", action="store_true", help="no progress bars (there are none without a terminal)"
    )
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
    parser.add_argument("--engine", default="auto", help=f"auto (default), {', '.join(ENGINES)}")


def _add_reranking(parser: argparse.ArgumentParser, prefix: str) -> None:
    parser.add_argument(f"--{prefix}k1", dest="rerank_k1", type=int, default=20, help="neighbours encoded (default 20)")
    parser.add_argument(f"--{prefix}k2", dest="rerank_k2", type=int, default=6, help="rows averaged (default 6)")
    parser.add_argument(
        f"--{prefix}lambda",
        dest="rerank_lambda",
        type=float,
        default=0.3,
        help="share of the original distance (default 0.3)",
    )


def _progress(arguments: argparse.Namespace) -> bool:
    return not arguments.quiet and sys.stderr.isatty()


def _picture_folder(arguments: argparse.Namespace, names: Sequence[str]) -> Path:
    """Where a demo's pictures go; the folder of its own may hold older ones, one that was named may not."""
    folder = Path(arguments.output or DEMO_FOLDER)
    if not arguments.no_pictures:
        there = [name for name in names if (folder / name).exists()]
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"output {folder} must be a folder, it is a file; name another with -o")
        if arguments.output and there and not arguments.overwrite:
            raise ValueError(f"output {folder / there[0]} exists already; name another folder or pass --overwrite")
    return folder


def _demo(arguments: argparse.Namespace) -> None:
    if arguments.generate:
        _demo_generate(arguments)
        return
    if arguments.people is not None:
        raise ValueError("--people goes with --generate: the demo without it has a fixed set")
    from pose2id.datasets import load_demo
    from pose2id.errors import MissingExtraError
    from pose2id.plots import check_matplotlib
    from pose2id.programs.demo import PICTURES, draw_pictures, format_table, rows_as_dicts, run_demo

    folder = _picture_folder(arguments, PICTURES)
    data = load_demo()
    rows = run_demo(data, progress=_progress(arguments))
    pictures, missing = [], None
    if not arguments.no_pictures:
        try:
            check_matplotlib("drawing the pictures")
            pictures = draw_pictures(data, folder)
        except MissingExtraError as error:
            missing = str(error)
    if arguments.json:
        print(json.dumps({"rows": rows_as_dicts(rows), "pictures": [str(p) for p in pictures]}, indent=1))
    else:
        print(format_table(rows))
        if pictures:
            print(f"\nPictures in {folder}: {', '.join(p.name for p in pictures)}")
    if missing:
        print(f"No pictures: {missing}", file=sys.stderr if arguments.json else sys.stdout)


def _demo_generate(arguments: argparse.Namespace) -> None:
    from pose2id.errors import MissingExtraError
    from pose2id.ipg import require_packages

    require_packages("pose2id demo --generate")
    from pose2id import walkthrough
    from pose2id.ipg.source import load_pipeline
    from pose2id.ipg.weights import tiny_folder

    people = walkthrough.TESTED if arguments.people is None else range(arguments.people)
    if not walkthrough.FEWEST <= len(people) <= walkthrough.TRAINED[0]:
        raise ValueError(
            f"--people must be from {walkthrough.FEWEST} to {walkthrough.TRAINED[0]}, received {arguments.people}"
        )
    folder = _picture_folder(arguments, (walkthrough.SHEET, walkthrough.MAP))
    pipe = load_pipeline(tiny_folder(), "cpu", "float32", progress=False)
    found = walkthrough.run_walkthrough(pipe, people, progress=_progress(arguments))
    if not arguments.json:
        print(walkthrough.format_tables(found.rows), flush=True)
    pictures, missing = [], ""
    if not arguments.no_pictures:
        pictures.append(str(walkthrough.draw_sheet(found.people, found.drawn, folder / walkthrough.SHEET)))
        try:
            weak = found.views["weak"]
            target = folder / walkthrough.MAP
            pictures.append(str(walkthrough.draw_map(found.people, weak.features, weak.generated, target)))
        except MissingExtraError as error:
            missing = str(error)
    if arguments.json:
        print(json.dumps({"rows": walkthrough.rows_as_dicts(found.rows), "pictures": pictures}, indent=1))
    elif pictures:
        print(f"\nPictures: {', '.join(pictures)}")
    if missing:
        print(f"No map of identities: {missing}", file=sys.stderr if arguments.json else sys.stdout)


def _train(arguments: argparse.Namespace) -> None:
    from pose2id.ipg import require_packages

    require_packages("pose2id ipg-train")
    from pose2id.programs.training import run_training

    folder = run_training(arguments.config, arguments.output, progress=_progress(arguments))
    if os.environ.get("RANK", "0") == "0":  # once, of several processes
        print(folder)


def _synthetic(arguments: argparse.Namespace) -> None:
    from pose2id.synthetic import write_dataset

    options = ("ids", "seed", "cams", "per_cam", "height", "width", "occluded", "infrared", "overwrite")
    given = {name: getattr(arguments, name) for name in options}
    folder = write_dataset(arguments.output, progress=_progress(arguments), **given)
    pictures = sum(1 for _ in folder.rglob("*.jpg"))
    print(f"{folder}: {pictures:,} synthetic pictures of {arguments.ids:,} people that do not exist")


def _check_cams(arguments: argparse.Namespace, file: FeatureFile) -> None:
    if arguments.exclude_cams and file.cams is None:
        raise ValueError(f"--exclude-cams needs an array 'cams' in {file.path}, it holds none")


def _method(arguments: argparse.Namespace, file: FeatureFile, *, normalize: bool = True) -> Any:
    """The features of one file, centralized with the options given."""
    from pose2id import centralize

    _check_cams(arguments, file)
    return centralize(
        file.features,
        file.generated,
        arguments.eta,
        arguments.k1,
        arguments.k2,
        alpha=arguments.alpha,
        normalize=normalize,
        exclude=file.cams if arguments.exclude_cams else None,
        engine=arguments.engine,
        progress=_progress(arguments),
    )


def _centralize(arguments: argparse.Namespace) -> None:
    check_output(arguments.output, overwrite=arguments.overwrite)
    file = read_features(arguments.features)
    arrays = {"features": _method(arguments, file, normalize=not arguments.no_normalize)}
    for name, labels in (("ids", file.ids), ("cams", file.cams)):
        if labels is not None:
            take_labels(labels, len(file.features), f"{file.path}: {name}")  # they go into the output as they are
            arrays[name] = labels
    path = write_arrays(arguments.output, arrays, overwrite=arguments.overwrite)
    print(f"{path}: {' x '.join(map(str, file.features.shape))}, {file.features.dtype}")


def _density(arguments: argparse.Namespace) -> None:
    from pose2id import id_density
    from pose2id.density import VARIANTS

    files = [read_features(path, needs=("ids",)) for path in arguments.features]
    tensors = [take_features(file.features, f"{file.path}: features")[0] for file in files]
    labels = [take_labels(file.ids, len(file.features), f"{file.path}: ids") for file in files]
    if len({tensor.shape[1] for tensor in tensors}) > 1 or len({array.dtype.kind for array in labels}) > 1:
        found = ", ".join(f"{t.shape[1]} columns and {a.dtype} ids" for t, a in zip(tensors, labels, strict=True))
        raise ValueError(f"the files must have equal D and ids of one kind, received {found}")
    import torch

    features, ids = torch.cat([tensor.double() for tensor in tensors]), np.concatenate(labels)
    values = {variant: id_density(features, ids, variant=variant) for variant in VARIANTS}
    if arguments.json:
        print(json.dumps(values | {"rows": len(ids), "identities": len(np.unique(ids))}))
        return
    print(f"ID2 of {len(ids)} rows, {len(np.unique(ids))} identities; lower is denser")
    print(f"  paper     {values['paper']:.4f}   distance to the centre, mean over identities")
    print(f"  released  {values['released']:.4f}   squared distance, mean over samples: as in the published tables")


def _rerank(arguments: argparse.Namespace) -> None:
    from pose2id import rerank

    check_output(arguments.output, overwrite=arguments.overwrite)
    query, gallery = read_features(arguments.query), read_features(arguments.gallery)
    distances = rerank(*_same_kind(query.features, gallery.features), **_reranking(arguments), engine=arguments.engine)
    path = write_arrays(arguments.output, {"distances": distances}, overwrite=arguments.overwrite)
    print(f"{path}: {' x '.join(map(str, distances.shape))}, {distances.dtype}")


def _reranking(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "k1": arguments.rerank_k1,
        "k2": arguments.rerank_k2,
        "lambda_value": arguments.rerank_lambda,
        "progress": _progress(arguments),
    }


def _same_kind(query: Any, gallery: Any) -> tuple[Any, Any]:
    """Features of two files as one kind of array: tensors if one of them is a tensor."""
    if is_tensor(query) == is_tensor(gallery):
        return query, gallery
    return take_features(query, "query", "(Q, D)")[0], take_features(gallery, "gallery", "(G, D)")[0]


def _evaluate(arguments: argparse.Namespace) -> None:
    from pose2id.evaluation import METRICS, PROTOCOLS
    from pose2id.neighbors import check_engine
    from pose2id.study import FeatureSet, Setting, run_study
    from pose2id.tables import as_dicts, format_text

    check_engine(arguments.engine)
    for name, allowed in (("protocol", PROTOCOLS), ("metric", METRICS)):
        if getattr(arguments, name) not in allowed:
            raise ValueError(f"--{name} must be one of {', '.join(allowed)}, received {getattr(arguments, name)!r}")
    files = [read_features(path, needs=("ids",)) for path in (arguments.query, arguments.gallery)]
    sets = []  # of tensors: the two files may be of different kinds
    for file, name, shape in zip(files, ("query", "gallery"), ("(Q, D)", "(G, D)"), strict=True):
        generated = None if file.generated is None else take_array(file.generated, "generated")[0]
        sets.append(FeatureSet(take_features(file.features, name, shape)[0], file.ids, file.cams, generated))
    settings = [Setting("as given", normalize=False)]
    if arguments.centralize:
        if not all(_has_length_one(side.features) for side in sets):
            settings.append(Setting("length 1"))  # so that what centralizing brings is not mixed with this
        for file in files:
            _check_cams(arguments, file)
        eta = check_number(arguments.eta, "eta") * any(side.generated is not None for side in sets)
        method = {name: getattr(arguments, name) for name in ("k1", "k2", "alpha")}
        settings.append(Setting("centralized", eta=eta, other_cameras=arguments.exclude_cams, **method))
    if arguments.rerank:
        reranking = {name: getattr(arguments, name) for name in ("rerank_k1", "rerank_k2", "rerank_lambda")}
        settings += [replace(x, name=f"{x.name}, re-ranked", reranked=True, **reranking) for x in settings]
    options = {name: getattr(arguments, name) for name in ("protocol", "metric", "engine")}
    query, gallery = sets
    rows = run_study(query, gallery, settings, density=False, progress=_progress(arguments), **options)
    if arguments.json:
        keys = ("name", "mAP", "mINP", "rank1", "rank5", "rank10", "valid_queries", "tied_rank1")
        found = {"protocol": arguments.protocol, "metric": arguments.metric, "rows": as_dicts(rows, keys)}
        print(json.dumps(found, indent=1))
        return
    cells = []
    for row in rows:
        percent = (f"{100 * value:.2f}" for value in (row.mAP, row.mINP, row.rank1, row.rank5, row.rank10))
        cells.append((row.name, *percent, row.valid_queries, row.tied_rank1))
    print(format_text(("", "mAP", "mINP", "R1", "R5", "R10", "queries", "tied R1"), cells))


def _has_length_one(features: Any) -> bool:
    """Whether all rows (N, D) are of length 1, to what float16 leaves of it."""
    import torch

    lengths = torch.linalg.vector_norm(features, dim=1)
    return bool(((lengths - 1).abs() < 1e-2).all())


def _doctor(arguments: argparse.Namespace) -> None:
    import torch

    from pose2id.neighbors import choose_engine, describe_engines
    from pose2id.validation import check_count

    if (arguments.rows is None) != (arguments.width is None):
        raise ValueError("--rows and --width go together, received only one of them")
    report: dict[str, Any] = {
        "pose2id": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in ("numpy", "scipy", "torch", "tqdm", "scikit-learn")},
        "cuda": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "engines": [
            {"name": name, "works": works, "detail": detail, "finds": "all" if ENGINES[name].exact else "most"}
            for name, works, detail in describe_engines()
        ],
        "extras": {extra: {package: _version(package) for package in packages} for extra, packages in EXTRAS.items()},
    }
    if arguments.rows is not None:
        rows = check_count(arguments.rows, "--rows", 0)
        width, k = check_count(arguments.width, "--width", 1), check_count(arguments.k, "--k", 1)
        devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
        taken = {device: choose_engine(rows, device)._asdict() for device in devices}
        report["choice"] = {"rows": rows, "width": width, "k": k, "taken": taken}
    if arguments.json:
        print(json.dumps(report, indent=1))
        return
    print(f"pose2id {report['pose2id']}, Python {report['python']}, {report['platform']}")
    print("packages  " + ", ".join(f"{name} {version or '-'}" for name, version in report["packages"].items()))
    print("devices   " + ", ".join([f"CPU ({report['threads']} threads)", *report["cuda"]]))
    print("engines")
    for engine in report["engines"]:
        print(f"  {engine['name']:<11}{'works' if engine['works'] else 'no':<7}{engine['finds']:<6}{engine['detail']}")
    if "choice" in report:
        _print_choice(report["choice"])
    print("extras")
    for extra, packages in report["extras"].items():
        missing = [package for package, version in packages.items() if version is None]
        other = {"faiss-cpu": "faiss-gpu", "faiss-gpu": "faiss-cpu"}.get(extra)
        words = ", ".join(f"{package} {version}" for package, version in packages.items() if version)
        if missing:
            words = f"pip install 'pose2id[{extra}]'   (missing: {', '.join(missing)})"
            if other and report["extras"][other][other]:
                words = f"pip uninstall -y {other} && pip install 'pose2id[{extra}]'   (one of the two, never both)"
        print(f"  {extra:<11}{words}")


def _print_choice(choice: dict[str, Any]) -> None:
    print(f"auto      for {choice['rows']:,} x {choice['width']:,}, k = {choice['k']}")
    for device, taken in choice["taken"].items():
        print(f"  {device:<11}{taken['engine']}: {taken['reason']}")
        if taken["hint"]:
            print(f"  {'':<11}{taken['hint']} would be much faster and miss a few neighbours")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.exit(main())
