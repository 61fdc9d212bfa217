"""Identities and cameras as other programs store them: arrays of some shapes and dtypes; text, CSV and `.npy` files."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.documents import read_lines, read_text
from pose2id.errors import one_line, suggest
from pose2id.validation import check_choice, is_tensor, take_labels

__all__ = ["read_labels", "take_stored_labels"]

_COLUMNS = {
    "ids": ("ids", "id", "pid", "pids", "person", "person_id", "identity", "identities", "label", "labels"),
    "cams": ("cams", "cam", "camid", "camids", "cam_id", "camera", "cameras", "camera_id"),
}
"""What heads a column of identities, or of cameras; upper or lower case."""
_TABLES = (".csv", ".tsv")
_NUMBER = re.compile(r"[+-]?\d{1,40}(?:\.\d{0,40})?(?:[eE][+-]?\d{1,2})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)


def read_labels(path: str | os.PathLike[str], column: str = "ids", *, rows: int | None = None) -> NDArray[Any]:
    r"""Read identities or cameras from a file.

    Parameters
    ----------
    path : path
        `.npy`: an array, as `read_features` takes labels. `.csv` or `.tsv`: a table with commas, semicolons or tabs,
        whose head names the column; one column needs no head. Anything else is text: a label a line, with or without
        a head, or all labels in one line with commas or blanks between.
    column : {"ids", "cams"}
        What to take of a table: a column called "ids", "id", "pid", "pids", "person", "person_id", "identity",
        "identities", "label" or "labels"; or "cams", "cam", "camid", "camids", "cam_id", "camera", "cameras" or
        "camera_id". Upper or lower case.
    rows : int, optional
        How many there must be.

    Returns
    -------
    (N,) int64 or str array
        Integers if all are whole numbers, written as 7, 0007, 7.0 or 7e0.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        Names the file, and the line: for a file that is damaged or not UTF-8, holds pickled objects, no or too many
        labels, an empty one, or numbers that are not whole.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.labels import read_labels
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "gallery.csv")
    ...     _ = path.write_text("image,id,camera\na.jpg,0007,c1\nb.jpg,0012,c2\n")
    ...     read_labels(path).tolist(), read_labels(path, "cams").tolist()
    ([7, 12], ['c1', 'c2'])
    """
    path, name = Path(path), check_choice(column, "column", tuple(_COLUMNS))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        labels = _read_npy(path)
        count = labels.size if labels.ndim < 3 and labels.size in labels.shape else len(labels) if labels.ndim else 0
    else:
        words = _read_table(path, name) if suffix in _TABLES else _read_text(path)
        if not words:
            raise ValueError(f"{path} must hold {name}, it holds none")
        labels, count = _take_words(words, f"{path}: {name}"), len(words)
    remedy = "it must have one for each row of the features"
    return np.asarray(take_stored_labels(labels, count if rows is None else rows, f"{path}: {name}", remedy))


def _read_npy(path: Path) -> NDArray[Any]:
    try:
        with path.open("rb") as stream:
            if stream.read(6) != b"\x93NUMPY":
                raise ValueError("not a numpy array file")
            stream.seek(0)
            return np.asarray(np.load(stream, allow_pickle=False))
    except Exception as error:  # damaged files raise nearly everything
        words = one_line(error, 300)
        if "pickle" in words:
            words = "it holds pickled objects, which are never loaded; save plain numbers or strings instead"
        raise ValueError(f"{path} cannot be read as .npy: {words}") from error


def _read_text(path: Path) -> list[str]:
    lines = [(line, text) for _, line, text in read_lines(path)]
    lines = lines[len(lines) > 1 and _is_head(lines[0][1]) :]
    if len(lines) == 1:
        return lines[0][1].replace(",", " ").split()
    for line, text in lines:
        if len(text.replace(",", " ").split()) != 1:
            raise ValueError(
                f"{path} must hold one label a line, found {text[:80]!r} in line {line}; a table of several columns is "
                "read from a .csv file with a head"
            )
    return [text.strip(",") for _, text in lines]


def find_column(path: str | os.PathLike[str], column: str) -> str | None:
    """What heads the one column of identities, "ids", or cameras, "cams", in a table; None where there is no such."""
    path = Path(path)
    if path.suffix.lower() not in _TABLES or not (rows := _read_rows(path)):
        return None
    named = _find_named(rows[0][1], column)
    return rows[0][1][named[0]] if len(named) == 1 else None


def _find_named(head: Sequence[str], column: str) -> list[int]:
    return [place for place, cell in enumerate(head) if cell.casefold() in _COLUMNS[column]]


def _read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """The cells of each line that is not empty, and its number; all of one length."""
    text = read_text(path)
    first = text.lstrip().partition("\n")[0]
    comma = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text), delimiter=comma, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as CSV: {one_line(error, 300)} in line {reader.line_num}") from error
    for line, row in rows:
        if len(row) != (wanted := len(rows[0][1])):
            raise ValueError(f"{path} must have {wanted} columns in every line, found {len(row)} in line {line}")
    return rows


def _read_table(path: Path, column: str) -> list[str]:
    """The cells of one column, without its head."""
    if not (rows := _read_rows(path)):
        return []
    head = rows[0][1]
    named = _find_named(head, column)
    if len(head) == 1:
        return [row[0] for _, row in rows[_is_head(head[0]) :]]
    if len(named) != 1:
        found = f"{'several' if named else 'none'} of {', '.join(head)}"
        wanted = ", ".join(_COLUMNS[column])
        near = next(filter(None, (suggest(cell, _COLUMNS[column]) for cell in head if not named)), "")
        has_digits = re.search(r"\d", "".join(head))  # as labels have, and names of columns seldom
        if has_digits and not near and not any(map(_is_head, head)):
            line = ",".join(head)[:80]
            near = f"; its first line {line!r} was taken for the head; a table of several columns needs one"
            near += ", such as id,cam"
        raise ValueError(f"{path} must have one column called {wanted}, found {found}{near}")
    return [row[named[0]] for _, row in rows[1:]]


def _is_head(word: str) -> bool:
    return any(word.casefold() in names for names in _COLUMNS.values())


def _take_words(words: Sequence[str], name: str) -> NDArray[Any]:
    """Words as integers, if all of them are whole numbers of 64 bits, else as strings."""
    if "" in words:
        raise ValueError(f"{name} must not be empty, label {list(words).index('') + 1} is")
    if not all(map(_NUMBER.fullmatch, words)):
        return np.array(words, dtype=str)
    numbers = []
    for word in words:
        number = int(word) if _WHOLE.fullmatch(word) else float(word)
        if number != int(number) or (isinstance(number, float) and abs(number) > 2**53):
            raise ValueError(f"{name} must be integers or strings, received {word}")
        numbers.append(int(number))
    if all(-(2**63) <= number < 2**63 for number in numbers):
        return np.array(numbers, dtype=np.int64)
    return np.array(words, dtype=str)


def take_stored_labels(labels: Any, rows: int, name: str, remedy: str) -> Any:
    """Labels as (N,) integers or strings in their container; ValueError with the remedy for what is no label.

    Beside these are taken (1, N) and (N, 1), whole numbers as floats, and arrays of objects, which come from lists.
    """
    shape = tuple(labels.shape)
    if labels.dtype.is_floating_point if is_tensor(labels) else labels.dtype.kind == "f":
        floats = (torch if is_tensor(labels) else np).finfo(labels.dtype)
        exact, dtype = min(int(2 / floats.eps), 2**63 - 1), floats.dtype  # up to there they tell labels apart
        values = np.ravel(labels.double().numpy() if is_tensor(labels) else labels)
        wrong = np.flatnonzero(~((values == np.floor(values)) & (np.abs(values) <= exact)))
        if len(wrong):
            value, row = values[wrong[0]], wrong[0]
            why = f"; {dtype} cannot hold all whole numbers beyond {exact}" if exact < abs(value) < np.inf else ""
            raise ValueError(
                f"{name} must be integers or strings, received {value} in row {row}{why}; "
                "store them as int64 or as strings"
            )
        labels = labels.long() if is_tensor(labels) else labels.astype(np.int64)
    if shape in ((1, rows), (rows, 1)):
        labels = labels.reshape(-1)
    try:
        taken = take_labels(labels, rows, name)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{error}; {remedy}") from error
    return taken if not is_tensor(labels) and labels.dtype.hasobject else labels
