"""Vocabularies: which attributes people have, and the classes of each. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pose2id.errors import suggest


@dataclass(frozen=True)
class Attribute:
    """One attribute, with a classifier of its own.

    Attributes
    ----------
    name : str
    classes : tuple of str
        At least two, in the order of their probabilities.
    several : bool
        Annotations mark each class by itself, so a person may have none of them, or several, as with colours.
    """

    name: str
    classes: tuple[str, ...]
    several: bool = False

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes of {self.name!r} must be two or more different names, received {self.classes}")

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Vocabulary:
    """The attributes of a data set, in an order.

    A row of probabilities holds those of all classes of the first attribute, then of the second, and so on.

    Attributes
    ----------
    name : str
    attributes : tuple of Attribute
        With different names.

    Examples
    --------
    >>> from pose2id.attributes import MARKET1501
    >>> len(MARKET1501), MARKET1501.total, MARKET1501.counts
    (12, 39, (2, 2, 2, 2, 2, 2, 2, 2, 2, 4, 8, 9))
    >>> MARKET1501["up"].classes, MARKET1501.columns("up")
    (('long sleeve', 'short sleeve'), slice(4, 6, None))
    """

    name: str
    attributes: tuple[Attribute, ...]

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.names)) < len(self.names):
            raise ValueError(f"attributes must be one or more of different names, received {self.names}")

    def __len__(self) -> int:
        return len(self.attributes)

    def __iter__(self) -> Iterator[Attribute]:
        return iter(self.attributes)

    def __getitem__(self, name: str) -> Attribute:
        return self.attributes[self.place(name)]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the attributes."""
        return tuple(attribute.name for attribute in self.attributes)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many classes each attribute has."""
        return tuple(map(len, self.attributes))

    @property
    def total(self) -> int:
        """How many classes there are in all: the length of a row of probabilities."""
        return sum(self.counts)

    @property
    def fields(self) -> tuple[str, ...]:
        """The names under which annotations hold them: each class by itself where there may be `several`."""
        return tuple(field for each in self.attributes for field in (each.classes if each.several else (each.name,)))

    def place(self, name: str) -> int:
        """The number of the attribute with that name, from 0."""
        if name not in self.names:
            known = ", ".join(self.names)
            raise KeyError(f"{self.name} has no attribute {name!r}, it has: {known}{suggest(str(name), self.names)}")
        return self.names.index(name)

    def columns(self, name: str) -> slice:
        """Where the probabilities of an attribute stand in a row."""
        start = sum(self.counts[: self.place(name)])
        return slice(start, start + len(self[name]))


_NO_YES = "no", "yes"

MARKET1501 = Vocabulary(
    "market1501",
    (
        Attribute("gender", ("male", "female")),
        Attribute("hair", ("short", "long")),
        Attribute("up", ("long sleeve", "short sleeve")),
        Attribute("down", ("long", "short")),
        Attribute("clothes", ("dress", "pants")),
        Attribute("hat", _NO_YES),
        Attribute("backpack", _NO_YES),
        Attribute("bag", _NO_YES),
        Attribute("handbag", _NO_YES),
        Attribute("age", ("young", "teenager", "adult", "old")),
        Attribute(
            "upper colour",
            ("upblack", "upwhite", "upred", "uppurple", "upyellow", "upgray", "upblue", "upgreen"),
            several=True,
        ),
        Attribute(
            "lower colour",
            (
                *("downblack", "downwhite", "downpink", "downpurple", "downyellow"),
                *("downgray", "downblue", "downgreen", "downbrown"),
            ),
            several=True,
        ),
    ),
)
"""Market-1501: 12 classifiers, 39 classes, 27 fields of the published annotations."""

DUKEMTMC = Vocabulary(
    "dukemtmc",
    (
        Attribute("gender", ("male", "female")),
        Attribute("top", ("short", "long")),
        Attribute("boots", _NO_YES),
        Attribute("hat", _NO_YES),
        Attribute("backpack", _NO_YES),
        Attribute("bag", _NO_YES),
        Attribute("handbag", _NO_YES),
        Attribute("shoes", ("dark", "light")),
        Attribute(
            "upper colour",
            ("upblack", "upwhite", "upred", "uppurple", "upgray", "upblue", "upgreen", "upbrown"),
            several=True,
        ),
        Attribute(
            "lower colour",
            ("downblack", "downwhite", "downred", "downgray", "downblue", "downgreen", "downbrown"),
            several=True,
        ),
    ),
)
"""DukeMTMC-reID: 10 classifiers, 31 classes, 23 fields of the published annotations."""

SYNTHETIC = Vocabulary(
    "synthetic",
    (
        Attribute("hair", ("short", "long")),
        Attribute("up", ("long sleeve", "short sleeve")),
        Attribute("down", ("long", "short")),
        Attribute("clothes", ("dress", "pants")),
        Attribute("hat", _NO_YES),
        Attribute("backpack", _NO_YES),
        Attribute("bag", _NO_YES),
        Attribute("handbag", _NO_YES),
        Attribute("shoes", ("dark", "light")),
        Attribute(
            "upper colour",
            (
                *("upwhite", "upgray", "upblack", "upbrown", "upred", "uporange"),
                *("upyellow", "upgreen", "upcyan", "upblue", "uppink"),
            ),
        ),
        Attribute("lower colour", ("downblue", "downdarkblue", "downblack", "downgray", "downkhaki", "downbrown")),
    ),
)
"""The drawn world of `pose2id.synthetic`: 11 attributes, 35 classes; Market-1501's words, and Duke's shoes, where these
have them. There is no age and no gender in it; a skirt is *dress*, a shoulder bag is *bag*."""

VOCABULARIES = {vocabulary.name: vocabulary for vocabulary in (MARKET1501, DUKEMTMC, SYNTHETIC)}
"""The vocabularies by the names of their data sets, as `pose2id.datasets.READERS` has them."""
