"""Attributes of invented people, read off the traits they are drawn from, in the words of `pose2id.attributes`."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable

import numpy as np

from pose2id.attributes import SYNTHETIC, AttributeLabels
from pose2id.synthetic.people import BOTTOMS, SPREAD, TOPS, Color, Person, make_person
from pose2id.validation import check_count

_UPPER, _LOWER = SYNTHETIC["upper colour"].classes, SYNTHETIC["lower colour"].classes
_LIGHT = 0.5
"""Shoes of at least this brightness are light."""


def person_attributes(person: Person) -> dict[str, str]:
    """The attributes of an invented person.

    Parameters
    ----------
    person : Person

    Returns
    -------
    dict of str to str
        A class for each attribute of `pose2id.attributes.SYNTHETIC`. Of a top with a pattern the first colour counts.

    Examples
    --------
    >>> from pose2id.synthetic import make_person, person_attributes
    >>> person = make_person(0, 1)
    >>> known = person_attributes(person)
    >>> known["up"], known["lower colour"]
    ('long sleeve', 'downbrown')
    """
    yes = {True: "yes", False: "no"}
    red, green, blue = person.shoes.color
    return {
        "hair": "long" if person.long_hair else "short",
        "up": "long sleeve" if person.long_sleeves else "short sleeve",
        "down": "long" if person.bottom_kind == "trousers" else "short",
        "clothes": "dress" if person.bottom_kind == "skirt" else "pants",
        "hat": yes[person.hat != "none"],
        "backpack": yes[person.bag == "backpack"],
        "bag": yes[person.bag == "shoulder"],
        "handbag": yes[person.bag == "hand"],
        "shoes": "light" if 0.299 * red + 0.587 * green + 0.114 * blue >= _LIGHT else "dark",
        "upper colour": _UPPER[_nearest(person.top.color, TOPS)],
        "lower colour": _LOWER[_nearest(person.bottom.color, BOTTOMS)],
    }


def label_people(ids: Iterable[int], *, seed: int = 0) -> AttributeLabels:
    """The attributes of the people with these numbers in the world of that seed.

    Parameters
    ----------
    ids : iterable of int
    seed : int

    Returns
    -------
    AttributeLabels
        A row for each, in this order.

    Examples
    --------
    >>> from pose2id.synthetic import label_people
    >>> people = label_people(range(1, 4))
    >>> people.ids.tolist(), people.classes.shape
    ([1, 2, 3], (3, 11))
    """
    numbers = [check_count(number, "each of ids", 0) for number in ids]
    marks = np.zeros((len(numbers), SYNTHETIC.total), bool)
    for row, number in zip(marks, numbers, strict=True):
        for name, value in person_attributes(make_person(seed, number)).items():
            row[SYNTHETIC.columns(name)][SYNTHETIC[name].classes.index(value)] = True
    return AttributeLabels(SYNTHETIC, np.array(numbers, np.int64), marks)


def _nearest(color: Color, palette: tuple[Color, ...]) -> int:
    """Which colour of a palette, of hues, saturations and values, was most likely varied to this one; see `jitter`."""
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    distances = []
    for known in palette:
        turn = abs((hue - known[0] + 0.5) % 1 - 0.5) if known[1] else 0.0  # a grey has no hue
        off = turn / SPREAD[0], (saturation - known[1]) / SPREAD[1], (value - known[2]) / SPREAD[2]
        distances.append(sum(each * each for each in off))
    return distances.index(min(distances))
