"""Attributes of the people of a data set, from the file of annotations beside it."""

from __future__ import annotations

import os
from dataclasses import replace

from pose2id.attributes import VOCABULARIES, read_attributes
from pose2id.datasets.folders import is_given
from pose2id.datasets.records import DataSet, ImageSet
from pose2id.validation import check_choice, take_path

_FILES = {
    "market1501": "market_attribute.mat",
    "dukemtmc": "duke_attribute.mat",
    "synthetic": "attributes.json",
}
_HINTS = {
    "market1501": "it is published in github.com/vana77/Market-1501_Attribute",
    "dukemtmc": "it is published in github.com/vana77/DukeMTMC-attribute",
    "synthetic": "write the set with --attributes (attributes=True)",
}


def add_attributes(name: str, data: DataSet, root: str | os.PathLike[str]) -> DataSet:
    """The same with the attributes of everybody, by a file beside the folders or in `root`."""
    file = _FILES[check_choice(name, "name of a set with attributes", tuple(_FILES))]
    source = next((path for path in (data.root / file, take_path(root, "root") / file) if is_given(path)), None)
    if source is None:
        raise FileNotFoundError(f"{data.name}: {data.root} has no {file}, which holds the attributes; {_HINTS[name]}")

    def label(images: ImageSet, part: str) -> ImageSet:
        people = read_attributes(source, VOCABULARIES[name], part="train" if part == "train" else "test")
        try:
            return replace(images, attributes=people.take(images.ids))
        except ValueError as error:
            raise ValueError(f"{data.name}: {source} does not belong to these images, {part}: {error}") from error

    train, query, gallery = (label(getattr(data, part), part) for part in ("train", "query", "gallery"))
    return replace(data, train=train, query=query, gallery=gallery)
