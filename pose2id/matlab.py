"""MATLAB files of versions 5 to 7, as far as features and lists need them: full numeric arrays, cells, structs, text.

A reader of its own, because these are downloaded files: scipy's crashes the process on some damaged ones, and takes
what it cannot read for something else. Here every length is checked, nothing is run, and what is not a plain array of
numbers comes out as the name of what it is, structs and text with what they hold. The format: *MAT-File Format*, The
MathWorks, "Level 5 MAT-File Format".
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_CELLS, _STRUCT, _TEXT = 1, 2, 4
_OTHERS = {_STRUCT: "a struct", 3: "an object", _TEXT: "text", 5: "a sparse matrix", 16: "a function"}
_LETTERS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_OPAQUE = 17
_COMPLEX = 0x800
_EMPTY = np.empty((0, 0))
_DEEPEST = 8


class Other(NamedTuple):
    """What is neither an array of numbers nor one of cells.

    `content` of a struct is a mapping of fields to values for each of its entries, of text its lines; else None.
    """

    what: str
    content: list[dict[str, Any]] | list[str] | None = None


def read_variables(path: Path, names: Collection[str], *, largest: int) -> list[tuple[str, Any]]:
    """All variables by name, in their order, with the value of those in `names`; None for the others.

    A value is an array of its shape, at least two-dimensional: of numbers, or of objects for cells; or `Other`. Arrays
    may be read-only. ValueError, which does not name the file, for a damaged one, and for more than `largest` bytes in
    it or in what is packed in it.
    """
    try:
        return _read(path, names, largest)
    except (struct.error, zlib.error) as error:
        raise ValueError("it is damaged or cut off") from error


def read_variable(path: Path, variable: str, *, largest: int) -> Any:
    """One variable, as `read_variables` gives it; ValueError, which names the file, where there is not exactly one."""
    if not path.is_file():
        raise ValueError(f"{path} must be a MATLAB file, it is {'a folder' if path.is_dir() else 'none'}")
    try:
        found = read_variables(path, {variable}, largest=largest)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as a MATLAB file: {error}") from error
    named = [value for name, value in found if name == variable]
    if len(named) != 1:
        held = ", ".join(sorted(name for name, _ in found)) or "nothing"
        raise ValueError(f"{path} must hold a variable {variable!r}, it holds: {held}")
    return named[0]


def _read(path: Path, names: Collection[str], largest: int) -> list[tuple[str, Any]]:
    if path.stat().st_size > largest:
        raise ValueError(f"it has more than {largest:,} bytes")
    content = path.read_bytes()
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or content[124:126] != struct.pack(f"{order}H", 0x0100):
        raise ValueError("it is not of version 5 to 7; save it with -v7")
    found, room = [], largest
    for kind, data in _elements(memoryview(content)[128:], order):
        inner = [(kind, data)]
        if kind == _COMPRESSED:
            unpacked = _decompress(data, room)
            room -= len(unpacked)
            inner = list(islice(_elements(memoryview(unpacked), order), 2))  # there must be one, there may be millions
        if [each for each, _ in inner] != [_MATRIX]:
            raise ValueError("it holds something else where a variable should be")
        found.append(_take_matrix(inner[0][1], order, names))
    return found


def _decompress(data: memoryview, room: int) -> bytes:
    unpacker = zlib.decompressobj()
    content = unpacker.decompress(data, room + 1)  # 0 would be no limit
    if len(content) > room:
        raise ValueError(f"a variable in it has more than {room:,} bytes")
    if not unpacker.eof:
        raise ValueError("it is damaged or cut off")
    return content


def _elements(content: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Kind and bytes of one element after the other."""
    at = 0
    while at < len(content):
        (kind,) = struct.unpack_from(f"{order}I", content, at)
        size, kind = divmod(kind, 2**16)
        begin = at + 4
        if size == 0:  # otherwise the short form: size, kind and up to 4 bytes in 8
            (size,) = struct.unpack_from(f"{order}I", content, at + 4)
            begin = at + 8
        elif size > 4:
            raise ValueError("it is damaged or cut off")
        if begin + size > len(content):
            raise ValueError("it is damaged or cut off")
        yield kind, content[begin : begin + size]
        at = begin + size if kind == _COMPRESSED else at + -(-(begin + size - at) // 8) * 8


def _take_matrix(data: memoryview, order: str, wanted: Collection[str] | None, depth: int = 0) -> tuple[str, Any]:
    """Name and value of an array; only the name where others are wanted."""
    if not data:  # an empty cell
        return "", _EMPTY
    if depth > _DEEPEST:
        raise ValueError(f"it has cells in cells, more than {_DEEPEST} levels deep")
    elements = _elements(data, order)
    flags = _take_numbers(*_next(elements), order)
    if len(flags) and int(flags[0]) & 0xFF == _OPAQUE:  # has no shape
        return bytes(_next(elements)[1]).decode("latin-1"), Other("an object")
    shape = [int(size) for size in _take_numbers(*_next(elements), order)]
    name = bytes(_next(elements)[1]).decode("latin-1")
    kind = int(flags[0]) & 0xFF if len(flags) == 2 else 0
    if len(shape) < 2 or min(shape) < 0 or not (kind in _CLASSES or kind == _CELLS or kind in _OTHERS):
        raise ValueError("it is damaged or cut off")
    if wanted is not None and name not in wanted:
        return name, None
    count = math.prod(shape)
    if kind == _STRUCT:
        return name, Other(_OTHERS[kind], _take_struct(elements, count, order, depth))
    if kind == _TEXT:
        return name, Other(_OTHERS[kind], _take_text(*_next(elements), shape, order))
    if kind in _OTHERS:
        return name, Other(_OTHERS[kind])
    if kind == _CELLS:
        if 8 * count > len(data):  # each has a tag at least
            raise ValueError("it is damaged or cut off")
        cells = np.empty(count, dtype=object)
        for place in range(count):
            cells[place] = _take_inner(elements, order, depth)
        return name, cells.reshape(shape, order="F")
    if int(flags[0]) & _COMPLEX:
        return name, Other("complex numbers")
    stored = _take_numbers(*_next(elements), order)  # of a narrower type, where that holds all of them
    with np.errstate(all="ignore"):
        values = stored.astype(_CLASSES[kind], copy=False)
    same = values is stored or np.array_equal(values, stored, equal_nan=stored.dtype.kind == "f")
    if len(values) != count or not same:
        raise ValueError("it is damaged or cut off")
    return name, values.reshape(shape, order="F")


def _take_inner(elements: Iterator[tuple[int, memoryview]], order: str, depth: int) -> Any:
    """The value of the next element, an array within another one."""
    kind, content = _next(elements)
    if kind != _MATRIX:
        raise ValueError("it is damaged or cut off")
    return _take_matrix(content, order, None, depth + 1)[1]


def _take_struct(
    elements: Iterator[tuple[int, memoryview]], count: int, order: str, depth: int
) -> list[dict[str, Any]]:
    """The entries of a struct array, each its fields by name; none of one without fields."""
    widths, names = _take_numbers(*_next(elements), order), bytes(_next(elements)[1])
    width = int(widths[0]) if len(widths) == 1 else 0
    if width < 1 or len(names) % width:
        raise ValueError("it is damaged or cut off")
    fields = [names[at : at + width].partition(b"\0")[0].decode("latin-1") for at in range(0, len(names), width)]
    if len(set(fields)) < len(fields):
        raise ValueError("it is damaged or cut off")
    # Every value has a tag at least, so a wrong count soon finds no more of them.
    return [{field: _take_inner(elements, order, depth) for field in fields} for _ in range(count if fields else 0)]


def _take_text(kind: int, data: memoryview, shape: list[int], order: str) -> list[str] | None:
    """The lines of a table of letters; None for what is none, or has letters that fill two places."""
    coding = _LETTERS.get(kind, "")
    if coding in ("utf-16", "utf-32"):
        coding += "-le" if order == "<" else "-be"
    try:
        letters = bytes(data).decode(coding) if coding else ""
    except UnicodeDecodeError:
        return None
    if not coding or len(shape) != 2 or len(letters) != math.prod(shape):
        return None
    return [letters[line :: shape[0]] for line in range(shape[0])]


def _next(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    found = next(elements, None)
    if found is None:
        raise ValueError("it is damaged or cut off")
    return found


def _take_numbers(kind: int, data: memoryview, order: str) -> NDArray[Any]:
    if kind not in _STORED:
        raise ValueError(f"it holds an element of kind {kind} where numbers should be")
    return np.frombuffer(data, dtype=f"{order}{_STORED[kind]}")
