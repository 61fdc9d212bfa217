"""Annotations: which identity has which attributes, and the published files of them. Nothing here imports torch."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pose2id.attributes.vocabulary import MARKET1501, Vocabulary
from pose2id.documents import read_json
from pose2id.matlab import Other, read_variable
from pose2id.validation import check_choice, take_labels, take_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pose2id.validation import Labels

_NOBODY = (-1, 0)
"""Identities without attributes: Market-1501's junk and distractors."""
_PARTS = ("train", "test")
_VARIABLES = {"market1501": "market_attribute", "dukemtmc": "duke_attribute"}
_IDENTITIES = "image_index"
_LARGEST = 2**26
_FEW = 3


# eq=False: comparing arrays with == has no single truth value.
@dataclass(frozen=True, eq=False)
class AttributeLabels:
    """Which identities have which attributes.

    Attributes
    ----------
    vocabulary : Vocabulary
    ids : (P,) int64 array
        Different identities.
    marks : (P, total) bool array
        Which classes each has, in the order of a row of probabilities: of an attribute one, none where it is not known,
        or several where the vocabulary says so.

    Raises
    ------
    ValueError, TypeError
        When these do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.attributes import Attribute, AttributeLabels, Vocabulary
    >>> coat = Vocabulary("coats", (Attribute("colour", ("black", "red"), several=True),))
    >>> people = AttributeLabels(coat, [7, 9], np.array([[True, False], [False, False]]))
    >>> people.classes.tolist()  # nobody knows the colour of 9's coat
    [[0], [-1]]
    >>> people.take([9, 7, 7]).classes.tolist()
    [[-1], [0], [0]]
    """

    vocabulary: Vocabulary
    ids: NDArray[np.int64]
    marks: NDArray[np.bool_]

    def __post_init__(self) -> None:
        ids = take_labels(self.ids, len(self.ids), "ids")
        if ids.dtype.kind == "U":
            raise TypeError("ids must be integers, received strings")
        marks, shape = np.asarray(self.marks), (len(ids), self.vocabulary.total)
        if marks.dtype != np.bool_ or marks.shape != shape:
            raise ValueError(f"marks must be bools of shape {shape}, received {marks.dtype} of shape {marks.shape}")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "marks", marks)
        for attribute in self.vocabulary.attributes:
            held = marks[:, self.vocabulary.columns(attribute.name)].sum(axis=1)
            if not attribute.several and (held > 1).any():
                raise ValueError(
                    f"identity {ids[held.argmax()]} must have one class of {attribute.name!r}, has {held.max()}"
                )

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def classes(self) -> NDArray[np.int64]:
        """The class of every attribute by its number, (P, A): -1 for none, of several the first one."""
        parts = [self.marks[:, self.vocabulary.columns(name)] for name in self.vocabulary.names]
        return np.stack([np.where(part.any(axis=1), part.argmax(axis=1), -1) for part in parts], axis=1)

    def take(self, ids: Labels) -> AttributeLabels:
        """The rows of these identities, such as those of N images, (N,); -1 and 0 (junk and distractors) have none.

        ValueError for others that are not there.
        """
        wanted = take_labels(ids, len(ids), "ids")
        place = {identity: row for row, identity in enumerate(self.ids.tolist())}
        lost = [
            identity for identity in np.unique(wanted).tolist() if identity not in place and identity not in _NOBODY
        ]
        if lost:
            raise ValueError(
                f"ids must be identities with attributes, of {len(self)} there are, or -1 or 0; received {_few(lost)}"
            )
        marks = np.concatenate([self.marks, np.zeros((1, self.vocabulary.total), bool)])
        marks = marks[[place.get(identity, -1) for identity in wanted.tolist()]]
        return AttributeLabels(self.vocabulary, wanted, marks)


def read_attributes(
    path: str | os.PathLike[str], vocabulary: Vocabulary = MARKET1501, *, part: str = "test"
) -> AttributeLabels:
    """Read annotations: the `.mat` files published for Market-1501 and DukeMTMC-reID, or a `.json` of this package.

    The files are `market_attribute.mat` and `duke_attribute.mat`. Their fields stand in another order for training
    than for testing, so they are taken by name; values count from 1. A colour is a field of its own: an identity may
    have none (108 of 751 in Market-1501's training part) or several. A value of 0 (`top` of two people of Duke) is
    *not known*.

    Parameters
    ----------
    path : path
        A `.json` maps identities to mappings of attributes to classes, `{"0001": {"hair": "long"}}`; null, or what is
        left out, is not known; of several classes a list.
    vocabulary : Vocabulary
        MARKET1501 or DUKEMTMC for a `.mat` file, any for a `.json`.
    part : {"test", "train"}
        Which identities of a `.mat` file, 750 and 751 of Market-1501, 1,110 and 702 of Duke; a `.json` has one part.

    Returns
    -------
    AttributeLabels
        A row for each identity, in the order of the file.

    Raises
    ------
    ValueError
        Names the file: when it is damaged, or is not one of these; for fields or identities that are missing or there
        twice, and values that the vocabulary does not have.

    References
    ----------
    Lin et al., *Improving Person Re-identification by Attribute and Identity Learning*, Pattern Recognition 2019; the
    files are in github.com/vana77/Market-1501_Attribute and github.com/vana77/DukeMTMC-attribute.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.attributes import MARKET1501, read_attributes
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "attributes.json")
    ...     _ = path.write_text('{"0002": {"hair": "long", "upper colour": ["upred", "upblue"]}}')
    ...     people = read_attributes(path, MARKET1501)
    >>> people.ids.tolist(), people.classes[0].tolist()
    ([2], [-1, 1, -1, -1, -1, -1, -1, -1, -1, -1, 2, -1])
    """
    if not isinstance(vocabulary, Vocabulary):
        raise TypeError(f"vocabulary must be a Vocabulary, received {type(vocabulary).__name__}")
    path, part = take_path(path, "path"), check_choice(part, "part", _PARTS)
    if path.suffix.lower() == ".json":
        return _read_json(path, vocabulary)
    if vocabulary.name not in _VARIABLES:
        names = ", ".join(_VARIABLES)
        raise ValueError(f"vocabulary of a .mat file must be one of {names}, received {vocabulary.name!r}")
    variable = _VARIABLES[vocabulary.name]
    parts = _entry(read_variable(path, variable, largest=_LARGEST), f"{path}: {variable!r}")
    fields = _entry(_field(parts, part, f"{path}: {variable!r}"), f"{path}: {part!r}")
    where = f"{path}, {part}"
    ids = _take_ids(_field(fields, _IDENTITIES, where), f"{where}: {_IDENTITIES!r}")
    columns = []
    for attribute in vocabulary.attributes:
        sizes = dict.fromkeys(attribute.classes, 2) if attribute.several else {attribute.name: len(attribute)}
        for field, size in sizes.items():
            values = _take_values(_field(fields, field, where), size, ids, f"{where}: {field!r}")
            columns += [values == 2] if attribute.several else [values == number + 1 for number in range(size)]
    return AttributeLabels(vocabulary, ids, np.stack(columns, axis=1))


def _entry(value: Any, where: str) -> Mapping[str, Any]:
    """The fields of a struct with one entry."""
    if not isinstance(value, Other) or value.what != "a struct" or value.content is None or len(value.content) != 1:
        found = "numbers or cells" if isinstance(value, np.ndarray) else value.what
        raise ValueError(f"{where} must be a struct with one entry, found {found}")
    entry = value.content[0]
    return entry if isinstance(entry, Mapping) else {}


def _field(fields: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in fields:
        raise ValueError(f"{where} must have the field {name!r}, has: {', '.join(sorted(fields)) or 'none'}")
    return fields[name]


def _take_ids(cells: Any, where: str) -> NDArray[np.int64]:
    """Identities from cells of text such as '0002'."""
    is_cells = isinstance(cells, np.ndarray) and cells.dtype == object
    ids = [_take_id(cell, where) for cell in (cells.reshape(-1, order="F") if is_cells else ())]
    if not ids:
        raise ValueError(f"{where} must be cells of identities such as '0002'")
    if len(set(ids)) < len(ids):
        raise ValueError(f"{where} must name every identity once, names again: {_few(_doubles(ids))}")
    return np.array(ids, np.int64)


def _take_id(cell: Any, where: str) -> int:
    lines = cell.content if isinstance(cell, Other) and cell.what == "text" else None
    text = lines[0] if lines and len(lines) == 1 else None
    return _parse_id(text, where)


def _parse_id(text: object, where: str) -> int:
    if not isinstance(text, str) or not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise ValueError(f"{where} must hold identities such as '0002', found {str(text)[:80]!r}")
    return int(text)


def _take_values(values: Any, size: int, ids: NDArray[np.int64], where: str) -> NDArray[Any]:
    """Whole numbers from 0, not known, to `size`, one for each identity."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf" or values.size != len(ids):
        found = f"{values.size} values" if isinstance(values, np.ndarray) else values.what
        raise ValueError(f"{where} must have a number for each of the {len(ids)} identities, found {found}")
    row = values.reshape(-1)
    wrong = ~np.isin(row, np.arange(size + 1))
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(f"{where} must hold 1 to {size}, or 0 where it is not known; identity {ids[at]} has {row[at]}")
    return row


def _read_json(path: Path, vocabulary: Vocabulary) -> AttributeLabels:
    people = read_json(path)
    if not isinstance(people, dict):
        raise ValueError(f"{path} must map identities to attributes, holds a {type(people).__name__}")
    ids = [_parse_id(name, str(path)) for name in people]
    if len(set(ids)) < len(ids):
        raise ValueError(f"{path} must name every identity once, names again: {_few(_doubles(ids))}")
    marks = np.zeros((len(ids), vocabulary.total), bool)
    for row, (name, held) in zip(marks, people.items(), strict=True):
        if not isinstance(held, dict) or not set(held) <= set(vocabulary.names):
            allowed = ", ".join(vocabulary.names)
            raise ValueError(f"{path}, {name}: must map attributes ({allowed}) to classes, found {str(held)[:80]}")
        for attribute, value in held.items():
            known = vocabulary[attribute]
            values = value if isinstance(value, list) and known.several else [] if value is None else [value]
            for each in values:
                if each not in known.classes:
                    allowed = ", ".join(known.classes)
                    raise ValueError(
                        f"{path}, {name}: {attribute!r} must be one of {allowed}, found {str(each)[:80]!r}"
                    )
                row[vocabulary.columns(attribute)][known.classes.index(each)] = True
    return AttributeLabels(vocabulary, np.array(ids, np.int64), marks)


def _doubles(ids: list[int]) -> list[int]:
    return sorted(number for number, count in Counter(ids).items() if count > 1)


def _few(ids: list[int]) -> str:
    words = ", ".join(map(str, ids[:_FEW]))
    return words if len(ids) <= _FEW else f"{words} and {len(ids) - _FEW} more"
