"""What arguments are made of: a parser with errors in one line, options that are checked as they were typed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from itertools import takewhile
from typing import Any, NoReturn

from pose2id.errors import escape, hide_passwords, suggest
from pose2id.validation import check_count, check_number


class Parser(argparse.ArgumentParser):
    """Errors in one line, as everywhere here; what a command does not know is told by its own parser.

    `one_of`: sets of options, one of which must be given wholly, and nothing of the others.
    """

    one_of: tuple[tuple[str, ...], ...] = ()
    _words: Sequence[str] = ()

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse, but nothing is left over for the parser above, which would point to its own help."""
        self._words = list(sys.argv[1:] if args is None else args)
        namespace, left = super().parse_known_args(args, namespace)
        if left:
            self.error(self._tell_unknown(left))
        given = {name for names in self.one_of for name in names if getattr(namespace, name) is not None}
        if self.one_of and given not in map(set, self.one_of):
            self.error("give " + ", or ".join(" and ".join(f"--{name}" for name in names) for names in self.one_of))
        return namespace, left

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """As argparse, with the nearest choice."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += suggest(value, map(str, action.choices or ()))
            raise

    def _tell_unknown(self, words: list[str]) -> str:
        near = next(filter(None, (suggest(word, self._option_string_actions) for word in words)), "")
        return f"unrecognized arguments: {' '.join(words)}{near}"

    def _find_unknown(self) -> list[str]:
        """The long options that were typed here and that no option of this parser begins with."""
        typed = [word for word in takewhile(lambda word: word != "--", self._words) if word.startswith("--")]
        known = tuple(self._option_string_actions)
        return [word for word in typed if not any(name.startswith(word.partition("=")[0]) for name in known)]

    def error(self, message: str) -> NoReturn:
        """End with exit code 2."""
        if " required" in message and (unknown := self._find_unknown()):  # the likelier slip, as in `--helpp`
            message = self._tell_unknown(unknown)
        self.exit(2, f"{self.prog}: {escape(hide_passwords(message))}; see {self.prog} --help\n")


class Option(argparse.Action):
    """An option that is checked by the name that was typed, see `check_given`; with `nargs=0` a flag.

    `check` takes the value and that name; `needs` are the options without any of which this one does nothing.
    """

    def __init__(
        self, *names: Any, check: Callable[[Any, str], Any] | None = None, needs: tuple[str, ...] = (), **options: Any
    ) -> None:
        super().__init__(*names, **options)
        self.check, self.needs = check, needs

    def __call__(self, _parser: object, namespace: Any, value: Any, option: str | None = None) -> None:
        """Keep the value, and that it was given."""
        setattr(namespace, self.dest, True if self.nargs == 0 else value)
        namespace.given = [*getattr(namespace, "given", ()), (self, value, option)]


def check_given(arguments: argparse.Namespace) -> None:
    """Raise ValueError, naming the option as it was typed, for a value out of range and for what would do nothing."""
    for option, value, name in getattr(arguments, "given", ()):
        if option.needs and not any(getattr(arguments, other) for other in option.needs):
            raise ValueError(f"{name} goes with {' or '.join(f'--{other}' for other in option.needs)}")
        if option.check:
            option.check(value, name)


def count(minimum: int, maximum: int | None = None) -> Callable[[Any, str], Any]:
    """A check for whole numbers in a range."""
    return partial(check_count, minimum=minimum, maximum=maximum)


PRESETS_SAY = (
    "steps, guidance and noise by name: published (20, 3.5), balanced (4, 2, shared), fast (2, 2, shared), "
    "draft (1, no guidance); what is given beside it goes before (default: as the weights say)"
)
BATCHES_SAY = "pictures worked on at once; fewer need less memory"
SHARE = partial(check_number, high=1)
"""A check for numbers from 0 to 1."""


def add_common(parser: argparse.ArgumentParser, run: str, *, as_json: bool = False) -> None:
    """The function that runs a command, as "module:function", and the options that all commands have."""
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
