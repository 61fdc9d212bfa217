"""What `pose2id extract` takes; loads nothing that computes."""

from __future__ import annotations

from typing import Any

from pose2id.cli.choices import PARTS, POOLS, PRESETS
from pose2id.cli.options import BATCHES_SAY, PRESETS_SAY, Option, add_common, count
from pose2id.validation import check_number


def _numbers(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if len(values) != 3:
        raise ValueError(f"must be three numbers, received {text!r}")
    return tuple(check_number(value, "each number") for value in values)


_numbers.__name__ = "three numbers, R,G,B"  # as argparse calls it in its error


def add_extract(commands: Any) -> None:
    """The command."""
    extract = commands.add_parser(
        "extract",
        help="photographs, and pictures generated of them, to one feature file",
        description="Encode photographs with a ReID model, and with --generate or --generated pictures of the same "
        "people in other poses. After an interruption the same command goes on where it was. Rows come in the order of "
        "the sorted paths. Exit code 1: some photographs were skipped.",
    )
    extract.add_argument(
        "references",
        metavar="REFS",
        nargs="*",
        help="photographs: files, folders (and all folders in them), or @LIST: a text file of paths, one a line, "
        "relative to the file's own folder",
    )
    extract.add_argument(
        "--dataset",
        nargs=2,
        metavar=("NAME", "ROOT"),
        help="a data set instead, with its identities and cameras: market1501, msmt17, mars, synthetic, ...",
    )
    extract.add_argument("--part", action=Option, needs=("dataset",), choices=PARTS, help="which part of the data set")
    extract.add_argument(
        "--no-junk",
        action=Option,
        needs=("dataset",),
        nargs=0,
        default=False,
        help="leave out pictures of identity -1, as published numbers of Market-1501 do; they are never scored, but "
        "take part when the gallery is centralized",
    )
    extract.add_argument(
        "--encoder",
        required=True,
        metavar="NAME",
        help="your ReID model: a file .onnx; package.module:function, which takes a list of PIL images and gives an "
        "(n, D) array; a folder that `train encoder` wrote; or the encoder in the generator's weights, tiny or pose2id",
    )
    extract.add_argument(
        "--keypoints",
        metavar="JSON",
        help="the keypoints of each photograph, as `poses` writes them, for a folder's encoder that needs them "
        "(default: those of the data set)",
    )
    extract.add_argument(
        "--parts",
        action="store_true",
        help="also write the parts and their visibility, of a folder's encoder that has them",
    )
    extract.add_argument("-o", "--output", metavar="FILE", required=True, help="the .npz file to write")
    extract.add_argument("--overwrite", action="store_true", help="replace an existing output file, or begin anew")
    views = extract.add_mutually_exclusive_group()
    views.add_argument(
        "--generate",
        metavar="WEIGHTS",
        help="draw each person in the 8 poses with these weights (as `generate --weights`), and encode that",
    )
    views.add_argument(
        "--generated", metavar="FOLDER", help="use the pictures of each photograph that `generate` wrote to FOLDER"
    )
    extract.add_argument(
        "--preset",
        action=Option,
        needs=("generate",),
        choices=PRESETS,
        help=PRESETS_SAY,
    )
    extract.add_argument(
        "--seed",
        action=Option,
        check=count(0),
        needs=("generate",),
        type=int,
        default=42,
        help="number that the random noise is drawn from (default 42)",
    )
    extract.add_argument(
        "--pool",
        choices=POOLS,
        help="tracklet: a row for each tracklet, the mean over its pictures; tracklets are those of the data set, the "
        "group 'tracklet' of --names, or the folders that hold the pictures",
    )
    extract.add_argument(
        "--names",
        metavar="REGEX",
        help="what paths say: a regular expression with the groups (?P<id>..), (?P<cam>..), (?P<frame>..) or "
        r"(?P<tracklet>..), such as '(?P<id>-?\d+)_c(?P<cam>\d)' for Market-1501",
    )
    extract.add_argument("--flip", action="store_true", help="add the features of the mirrored pictures")
    extract.add_argument("--size", metavar="HxW", help="an .onnx model's input, HEIGHTxWIDTH (default: as it says)")
    for option, words in (("--mean", "mean"), ("--std", "deviation")):
        text = f"{words} of red, green and blue from 0 to 1 for an .onnx model (default: as it says, else ImageNet's)"
        extract.add_argument(option, type=_numbers, metavar="R,G,B", help=text)
    extract.add_argument("--device", help="where to compute: cpu, cuda, cuda:1, mps (default: cuda if there is a GPU)")
    extract.add_argument(
        "--batch-size",
        action=Option,
        check=count(1),
        type=int,
        default=64,
        help=f"{BATCHES_SAY} (default 64)",
    )
    add_common(extract, "extract:run")
