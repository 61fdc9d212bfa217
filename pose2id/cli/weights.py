"""`pose2id weights`: where the generator's weights are; fetch them, convert them."""

from __future__ import annotations

import argparse

from pose2id.cli.printing import say, say_json
from pose2id.ipg import weights
from pose2id.tables import format_text


def run_info(arguments: argparse.Namespace) -> None:
    """`pose2id weights info`."""
    rows = weights.info()
    if arguments.json:
        say_json(rows)
        return
    *released, converted = rows
    head, lines = ("file", "size", "here", "what", "licence"), []
    for row in released:
        size = row["bytes"] or row["size"]
        about = _bytes(size) if size else f"about {_bytes(row['estimate'])}"  # the Hub was not asked
        lines.append((row["name"], about, "yes" if row["path"] else "no", row["what"], row["licence"]))
    say(*format_text(head, lines, align="<").split("\n"))
    for repository, revision in dict.fromkeys((row["repository"], row["revision"]) for row in released):
        say(f"from {repository}, revision {revision}")
    missing = [row["size"] or row["estimate"] for row in released if row["path"] is None]
    if missing:
        say(f"to fetch: about {_bytes(sum(missing))}; run: pose2id weights download")
    found = f"{converted['path']}, {_bytes(converted['bytes'])}" if converted["path"] else "not yet"
    say(f"converted: {found}")


def run_download(arguments: argparse.Namespace) -> None:
    """`pose2id weights download`."""
    folder = weights.download(progress=arguments.progress)
    say(folder if arguments.no_convert else weights.convert())


def run_convert(arguments: argparse.Namespace) -> None:
    """`pose2id weights convert DIR`."""
    folder = weights.convert(arguments.folder, arguments.output, config=arguments.config, vae=arguments.vae)
    say(folder)


def _bytes(number: int) -> str:
    return (
        f"{number / 1e9:.2f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number} bytes"
    )
