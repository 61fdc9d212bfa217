"""Invented people: the traits of each, from a seed and a number."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np

from pose2id.validation import check_count

Color = tuple[float, float, float]
"""Red, green and blue, 0 to 1."""

# Hue, saturation, value. Of the tops: white, grey, black, brown, red, orange, yellow, green, cyan, blue, pink.
TOPS = (
    *((0.0, 0.0, 0.92), (0.0, 0.0, 0.5), (0.0, 0.0, 0.13), (0.08, 0.45, 0.5), (0.0, 0.75, 0.75), (0.1, 0.75, 0.85)),
    *((0.16, 0.6, 0.85), (0.36, 0.6, 0.5), (0.52, 0.5, 0.75), (0.61, 0.7, 0.6), (0.92, 0.42, 0.85)),
)
# Light denim, dark denim, black, grey, khaki, brown.
BOTTOMS = (
    *((0.61, 0.5, 0.58), (0.62, 0.55, 0.32), (0.0, 0.0, 0.12), (0.0, 0.0, 0.4), (0.11, 0.38, 0.7), (0.07, 0.5, 0.33)),
)
HAIRS = ((0.08, 0.5, 0.2), (0.0, 0.0, 0.08), (0.09, 0.55, 0.42), (0.13, 0.5, 0.8), (0.0, 0.0, 0.6), (0.03, 0.7, 0.4))
SKINS = ((0.06, 0.3, 0.95), (0.06, 0.36, 0.8), (0.06, 0.45, 0.6), (0.06, 0.5, 0.38))
SPREAD = (0.012, 0.04, 0.04)
"""Standard deviations of hue, saturation and value among the colours of one name."""
REFLECTANCES = {"cotton": 0.75, "polyester": 0.6, "wool": 0.48, "denim": 0.36, "leather": 0.24}
"""How bright a material is in the near infrared, where most dyes cannot be seen."""


@dataclass(frozen=True)
class Cloth:
    """A surface: what a colour camera and what an infrared camera sees of it."""

    color: Color
    material: str  # one of `REFLECTANCES`, or "skin" or "hair"
    reflectance: float  # brightness in the near infrared, 0 to 1


@dataclass(frozen=True)
class Person:
    """All that makes an identity; `dataclasses.replace` changes single traits."""

    number: int
    top: Cloth
    second: Cloth  # the other colour of the pattern
    pattern: str  # of the top: "plain", "horizontal" or "vertical" stripes, "halves" or "check"
    stripes: int  # so many from the shoulders to the hips, 3 to 5
    long_sleeves: bool
    bottom: Cloth
    bottom_kind: str  # "trousers", "shorts" or "skirt"
    shoes: Cloth
    skin: Cloth
    hair: Cloth
    long_hair: bool
    hat: str  # "none", "cap" or "beanie"
    hat_cloth: Cloth
    bag: str  # "none", "backpack" (a box from behind, straps from the front), "shoulder" or "hand"
    bag_side: str  # "left" or "right", the person's own
    bag_size: float  # 0.8 to 1.2
    bag_cloth: Cloth
    front: str  # seen only from the front: "none", "logo" or "jacket" (open)
    logo: str  # "round" or "square"
    inner: Cloth  # the logo, or what is worn under an open jacket
    back: str  # seen only from behind: "none" or "print"
    print_cloth: Cloth
    build: float  # thickness of body and limbs, about 1
    head: float  # its size, about 1
    stature: float  # height in the picture, about 1


def make_person(seed: int, number: int) -> Person:
    """The invented person with that number in the world of that seed.

    Parameters
    ----------
    seed, number : int
        From 0 to 2**31 - 1.

    Returns
    -------
    Person
        The same on every call.

    Examples
    --------
    >>> from pose2id.synthetic import make_person
    >>> make_person(0, 1) == make_person(0, 1), make_person(0, 1) == make_person(0, 2)
    (True, False)
    """
    seed, number = check_count(seed, "seed", 0), check_count(number, "number", 0)
    return draw_traits(np.random.default_rng([1, seed, number]), number)


def draw_traits(rng: np.random.Generator, number: int = 0) -> Person:
    """A person at random."""

    def pick(options: dict[str, float]) -> str:
        return list(options)[rng.choice(len(options), p=list(options.values()))]

    def cloth(palette: tuple[Color, ...], materials: tuple[str, ...] = tuple(REFLECTANCES)) -> Cloth:
        material = materials[rng.integers(len(materials))]
        reflectance = float(np.clip(REFLECTANCES[material] + rng.normal(0, 0.05), 0.1, 0.95))
        return Cloth(jitter(palette[rng.integers(len(palette))], rng), material, reflectance)

    def dye(on: Cloth) -> Cloth:
        """Another colour on the same material, which an infrared camera hardly sees."""
        other = cloth(TOPS)
        return Cloth(other.color, on.material, float(np.clip(on.reflectance + rng.normal(0, 0.03), 0.1, 0.95)))

    top = cloth(TOPS, ("cotton", "polyester", "wool"))
    front = pick({"none": 0.4, "logo": 0.35, "jacket": 0.25})
    return Person(
        number=number,
        top=top,
        second=dye(top),
        pattern=pick({"plain": 0.5, "horizontal": 0.2, "vertical": 0.1, "halves": 0.12, "check": 0.08}),
        stripes=int(rng.integers(3, 6)),
        long_sleeves=bool(rng.random() < 0.55),
        bottom=cloth(BOTTOMS, ("cotton", "polyester", "denim", "denim")),
        bottom_kind=pick({"trousers": 0.6, "shorts": 0.2, "skirt": 0.2}),
        shoes=cloth(TOPS + BOTTOMS),
        skin=Cloth(jitter(SKINS[rng.integers(len(SKINS))], rng), "skin", float(rng.uniform(0.62, 0.72))),
        hair=Cloth(jitter(HAIRS[rng.integers(len(HAIRS))], rng), "hair", float(rng.uniform(0.2, 0.5))),
        long_hair=bool(rng.random() < 0.4),
        hat=pick({"none": 0.78, "cap": 0.14, "beanie": 0.08}),
        hat_cloth=cloth(TOPS),
        bag=pick({"none": 0.4, "backpack": 0.3, "shoulder": 0.15, "hand": 0.15}),
        bag_side=pick({"left": 0.5, "right": 0.5}),
        bag_size=float(rng.uniform(0.8, 1.2)),
        bag_cloth=cloth(TOPS + BOTTOMS, ("polyester", "leather")),
        front=front,
        logo=pick({"round": 0.5, "square": 0.5}),
        inner=cloth(TOPS) if front == "jacket" else dye(top),
        back=pick({"none": 0.75, "print": 0.25}),
        print_cloth=dye(top),
        build=float(rng.uniform(0.85, 1.2)),
        head=float(rng.uniform(0.93, 1.07)),
        stature=float(rng.uniform(0.94, 1.04)),
    )


def jitter(color: Color, rng: np.random.Generator) -> Color:
    """A colour near the one given as hue, saturation and value, as red, green and blue."""
    hue, saturation, value = color
    noise = rng.normal(0, SPREAD).tolist()
    # A grey has no hue that a little noise could be added to.
    saturation = float(np.clip(saturation + noise[1], 0, 1)) if saturation else abs(noise[1]) * 0.6
    return colorsys.hsv_to_rgb((hue + noise[0]) % 1, saturation, float(np.clip(value + noise[2], 0.05, 1)))
