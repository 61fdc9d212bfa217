"""What the commands on a living gallery take; loads nothing that computes."""

from __future__ import annotations

import argparse
from typing import Any

from pose2id.cli.choices import SIDES
from pose2id.cli.feature_arguments import METHOD
from pose2id.cli.options import Option, add_common, count
from pose2id.validation import check_number

_TIME = "a date such as 2026-11-30 or 2026-11-30T08:00+01:00 (without a zone: UTC), or seconds since 1970"
SETTINGS = ("k1", "k2", "alpha", "eta", "no_normalize", "exclude", "dtype")


def add_gallery(commands: Any) -> None:
    """The commands on a gallery."""
    gallery = commands.add_parser("gallery", help="a living gallery: add, remove, search, publish to a vector database")
    actions = gallery.add_subparsers(dest="action", required=True, metavar="action")

    add = _add_action(actions, "add", "add the rows of feature files, a change each; makes the gallery if need be")
    _add_files(add, "+", "feature files; 'generated' is used, 'cams' and 'groups' are kept, if a file has them")
    _add_keys(add)
    _add_time(add)
    _add_settings(add)

    update = _add_action(actions, "update", "give rows that are there the features of feature files, a change each")
    _add_files(update, "+", "feature files; 'generated' is used, 'cams' and 'groups' replace those that are kept")
    _add_keys(update)
    _add_time(update)

    remove = _add_action(actions, "remove", "remove rows: all that are named or, where one is not there, none")
    remove.add_argument("removed", metavar="KEY", nargs="*", help="what the rows are called")
    _add_keys(remove)

    expire = _add_action(actions, "expire", "remove all rows of before a time; those without a time stay")
    expire.add_argument("before", metavar="TIME", help=_TIME)

    search = _add_action(actions, "search", "find the nearest centralized rows of each row of a feature file")
    _add_files(search, None, "feature file with the queries")
    search.add_argument(
        "--top", action=Option, check=count(1), type=int, default=10, help="rows to find for each query (default 10)"
    )
    for name, words in (("cams", "cameras"), ("groups", "groups")):
        search.add_argument(f"--only-{name}", nargs="+", metavar="LABEL", help=f"find only rows of these {words}")
        search.add_argument(f"--not-{name}", nargs="+", metavar="LABEL", help=f"leave out rows of these {words}")
    search.add_argument("--after", metavar="TIME", help=f"find only rows of this time or later: {_TIME}")
    search.add_argument("--before", metavar="TIME", help="find only rows of before this time")
    search.add_argument("--centralize-queries", action="store_true", help="pull each query toward the gallery first")

    recompute = _add_action(actions, "recompute", "change settings of the gallery, and compute all rows anew with them")
    _add_settings(recompute)

    publish = _add_action(actions, "publish", "bring a vector database to the gallery's version: what changed is sent")
    publish.add_argument(
        "target",
        metavar="TARGET",
        help="milvus://FILE.db?collection=NAME, milvus://user:password@host:19530/database?collection=NAME or "
        "postgresql://user:password@host/database?table=NAME; add index=hnsw for an approximate index (extras milvus, "
        "pgvector)",
    )
    publish.add_argument("--anew", action="store_true", help="write everything, also over another gallery")

    _add_action(actions, "verify", "compute everything anew and compare; exit code 1: something is wrong")
    info = _add_action(actions, "info", "numbers and settings of the gallery")
    info.description += " 'pulled' are the rows that have mutual neighbours, 'zero_rows' those that hold only zeros."


def _add_action(actions: Any, name: str, words: str) -> Any:
    parser = actions.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}. Prints JSON.")
    where = "the gallery: a file, or postgresql://user:password@host/database"
    parser.add_argument("gallery", metavar="PATH", help=where)
    add_common(parser, f"gallery:run_{name}")
    return parser


def _add_files(parser: argparse.ArgumentParser, several: str | None, words: str) -> None:
    how: dict[str, Any] = {} if several is None else {"nargs": several}
    parser.add_argument("features", metavar="FILE", help=words, **how)
    words = "which set to take of files that hold both, such as a .mat with query_f and gallery_f"
    parser.add_argument("--side", choices=SIDES, help=words)


def _add_keys(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keys",
        metavar="FILE",
        help="text file, a key a line: what rows are called, not their 'paths' in feature files",
    )


def _add_time(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--time", metavar="TIME", help=f"time of all rows: {_TIME}")


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """What a gallery is told when it is made, and keeps."""
    for name, kind, check, default in (
        ("k1", int, count(0), 2),
        ("k2", int, count(0), 2),
        ("alpha", float, check_number, 0),
        ("eta", float, check_number, 1),
    ):
        words = f"{METHOD[name]} (default for a new gallery {default}; a gallery keeps its settings)"
        parser.add_argument(f"--{name}", action=Option, check=check, type=kind, help=words)
    parser.add_argument(
        "--no-normalize",
        action="store_true",
        help="write raw sums, not scaled to length 1, as the released function gives them",
    )
    choice = parser.add_mutually_exclusive_group()
    for name, other in (("cams", "cameras"), ("groups", "groups")):
        words = f"take neighbours from other {other} only; needs '{name}' in each file (default for a new gallery: all)"
        choice.add_argument(f"--exclude-{name}", dest="exclude", action="store_const", const=name, help=words)
    words = "number format in which rows are kept (default for a new gallery float32)"
    parser.add_argument("--dtype", choices=("float32", "float16"), help=words)
