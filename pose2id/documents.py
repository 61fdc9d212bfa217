"""JSON, TOML and lines of text, read with every check, by all of this package; a ValueError names the file."""

from __future__ import annotations

import codecs
import json
import math
import os
import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pose2id.errors import one_line

__all__ = ["BLANKS", "parse_json", "read_json", "read_lines", "read_text", "read_toml"]

_DEEPEST = 100
"""Levels of lists and objects; what walks through the content afterwards, `copy.deepcopy` say, bears these."""
BLANKS = " \t"
"""What may stand around the text of a line."""
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


def read_json(path: str | os.PathLike[str], *, finite: bool = True) -> Any:
    """Read a JSON file; UTF-8, with or without a byte order mark.

    Parameters
    ----------
    path : path
    finite : bool
        Refuse NaN, Infinity and 1e400; for those who do not say themselves which of the numbers is wrong.

    Returns
    -------
    object
        What it holds: dict, list, str, int, float, bool or None. Whole numbers fit into 64 bits.

    Raises
    ------
    OSError
        When there is no such file, or it cannot be read.
    ValueError
        Names the file: for what is not JSON, a number that is not finite or beyond 64 bits, a key that an object has
        twice, more than 100 levels.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.documents import read_json
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "a.json")
    ...     _ = path.write_text('{"seed": 42}')
    ...     read_json(path)
    {'seed': 42}
    """
    return _read(path, "JSON", lambda content: parse_json(content, finite=finite))


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a TOML file; all else as for `read_json`, inf and nan are refused as well."""
    content: dict[str, Any] = _read(path, "TOML", _parse_toml)
    return content


def _read(path: str | os.PathLike[str], form: str, parse: Callable[[bytes], Any]) -> Any:
    content = Path(path).read_bytes()
    try:
        return parse(content)
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as {form}: {error}") from error


def read_text(path: str | os.PathLike[str]) -> str:
    """What a text file holds, with line ends as Python has them; UTF-8, with or without a byte order mark.

    ValueError for a file that is none, another encoding, and control characters other than tabs.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} must be a text file, it is {'a folder' if path.is_dir() else 'none'}")
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(f"{path} must be a text file in UTF-8, it is in UTF-16; save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be a text file in UTF-8: {error}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if control := _CONTROL.search(text):
        line = text.count("\n", 0, control.start()) + 1
        raise ValueError(
            f"{path} must be a text file, found the control character {control[0]!r} in line {line}; UTF-16 has "
            "them too: save it as UTF-8"
        )
    return text


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, int, str]]:
    """The lines of a text file that are not empty: how many so far, the number of the line, its text."""
    number = 0
    for line, words in enumerate(read_text(path).split("\n"), start=1):
        if stripped := words.strip(BLANKS):
            number += 1
            yield number, line, stripped


def parse_json(content: bytes, *, finite: bool = True) -> Any:
    """What a JSON file with this content holds, as `read_json`; the ValueError does not name a file."""
    # Without these Python would take NaN for a number, and the last one of two equal keys.
    hooks: dict[str, Any] = {"parse_float": _take_number, "parse_constant": _take_number} if finite else {}
    return _parse(lambda text: json.loads(text, object_pairs_hook=_take_object, **hooks), content)


def _parse_toml(content: bytes) -> Any:
    return _parse(lambda text: tomllib.loads(text, parse_float=_take_number), content)


def _parse(parse: Callable[[str], Any], content: bytes) -> Any:
    try:
        found = parse(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    except ValueError as error:
        if "set_int_max_str_digits" in str(error):  # Python's advice is to change a setting of its own
            raise ValueError("it holds a whole number of more than 4,300 digits, 64 bits are allowed") from None
        raise ValueError(one_line(error, 300)) from error
    level: list[Any] = [[found]]
    for _ in range(_DEEPEST + 1):
        values = [value for each in level for value in (each.values() if isinstance(each, dict) else each)]
        for value in values:
            if isinstance(value, int) and not -(2**63) <= value < 2**64:
                raise ValueError(
                    f"it holds a whole number of {value.bit_length():,} bits, allowed are -2**63 to 2**64 - 1"
                )
        level = [value for value in values if isinstance(value, dict | list)]
        if not level:
            return found
    raise ValueError(_TOO_DEEP)


def _take_number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"it holds the number {text[:40]}, numbers must be finite float64")
    return number


def _take_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{twice!r} is there twice in one object")
    return found
