"""The reference of the command line, written from the parser itself, so that it cannot go stale."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

from pose2id.cli.arguments import build_parser

EVERYWHERE = ("help", "quiet", "verbose")
"""What every command takes; the head of the page says it once."""


def describe_commands() -> str:
    """Markdown: a section for each command, with its usage, its arguments and its options."""
    return "\n" + "\n".join(describe_command(*command) for command in list_commands(build_parser()))


def list_commands(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Every command that does something: its sentence in the list of commands, and its parser."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            words = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                yield from list(list_commands(command)) or [(words.get(name, ""), command)]


def describe_command(words: str, parser: argparse.ArgumentParser) -> str:
    """The section of one command."""
    parser.color = False  # from Python 3.14 on a usage has colours
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=84)
    first, *more = parser.format_usage().removeprefix("usage: ").splitlines()
    usage = "\n".join([first, *(f"    {line.strip()}" for line in more)])
    words = mark_up(parser.description or words).rstrip(".")
    if re.match("[a-z][a-z ]", words):  # not mAP, and not k-reciprocal
        words = words[0].upper() + words[1:]
    lines = [f"## {parser.prog}", "", f"{words}.", "", "```text", usage, "```", ""]
    for action in parser._actions:
        if action.dest not in EVERYWHERE and action.help != argparse.SUPPRESS:
            words = mark_up((action.help or "").replace("%(default)s", str(action.default)))
            required = " (required)" if action.required and action.option_strings else ""
            lines += [write_argument(action), f": {words}{required}", ""]
    return "\n".join(lines)


def write_argument(action: argparse.Action) -> str:
    """How an argument is written on the command line."""
    value = action.metavar or action.dest.upper()
    if action.choices:
        value = "{" + ",".join(map(str, action.choices)) + "}"
    if action.nargs == 0:
        value = ""
    return ", ".join(f"`{f'{option} {value}'.strip()}`" for option in action.option_strings or [""])


def mark_up(words: str) -> str:
    """A sentence of `--help` as Markdown: names and options as code."""
    words = re.sub(r"([<>*\[\]])", r"\\\1", words)
    return re.sub(r"'([\w.-]+)'|`([^`]+)`|(?<![\w`])(--?[a-z][\w-]*)", lambda m: f"`{m[1] or m[2] or m[3]}`", words)
