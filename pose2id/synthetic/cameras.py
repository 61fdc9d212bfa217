"""Invented cameras: colours, light, sharpness, noise and surroundings of each, from a seed and a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import require
from pose2id.synthetic.people import Color, jitter
from pose2id.validation import check_count, check_flag

if TYPE_CHECKING:
    from PIL import Image

PURPOSE = "drawing synthetic pedestrians"
_DIRECTIONS = (0.0, 180.0, 90.0, 270.0, 45.0, 200.0)
"""Which way people mostly walk before the first cameras."""


@dataclass(frozen=True)
class Camera:
    """All that makes a camera. Every picture varies a little around these values."""

    number: int  # from 0
    infrared: bool  # grey: sees reflectances instead of colours, by the light of a lamp of its own
    yaw: float  # direction that most people walk in, degrees; see `sample_pose`
    gain: Color  # factor of red, green and blue
    gamma: float  # contrast
    offset: float  # haze that lifts the dark parts
    blur: float  # standard deviation in pixels of a picture 64 pixels high
    resolution: float  # the picture is reduced to this fraction of its size and enlarged again
    noise: float  # standard deviation, where white is 1
    wall: Color  # of the background, as is the ground
    ground: Color
    horizon: float  # where the ground begins, as a fraction of the height
    clutter: tuple[Color, ...]  # colours of the things that stand about


def make_camera(seed: int, number: int, *, infrared: bool = False) -> Camera:
    """The camera with that number in the world of that seed.

    Parameters
    ----------
    seed, number : int
        From 0 to 2**31 - 1.
    infrared : bool
        Grey and near infrared, as two of the six cameras of SYSU-MM01.

    Returns
    -------
    Camera
        The same on every call.

    Examples
    --------
    >>> from pose2id.synthetic import make_camera
    >>> make_camera(0, 1).yaw, make_camera(0, 5, infrared=True).gamma > 0
    (180.0, True)
    """
    seed, number = check_count(seed, "seed", 0), check_count(number, "number", 0)
    infrared = check_flag(infrared, "infrared")
    rng = np.random.default_rng([2, seed, number])
    cast = np.clip(rng.normal(0, 0.18, 3), -0.4, 0.4)
    exposure = float(np.clip(rng.normal(0, 0.2), -0.4, 0.4))
    gain = np.exp((0 if infrared else cast) + exposure + np.zeros(3)).tolist()
    colors = [
        jitter((float(rng.random()), float(saturation), float(rng.uniform(*values))), rng)
        for saturation, values in [(0.25, (0.3, 0.8)), (0.2, (0.3, 0.7)), *5 * [(0.5, (0.2, 0.9))]]
    ]
    if infrared:
        colors = [3 * (float(np.mean(color)),) for color in colors]
    return Camera(
        number=number,
        infrared=infrared,
        yaw=_DIRECTIONS[number] if number < len(_DIRECTIONS) else number * 137.5 % 360,
        gain=(gain[0], gain[1], gain[2]),
        gamma=float(np.exp(np.clip(rng.normal(0, 0.18), -0.4, 0.4))),
        offset=float(np.clip(abs(rng.normal(0, 0.06)), 0, 0.2)),
        blur=float(rng.uniform(0, 0.7)),
        resolution=float(max(0.4, 1 - rng.uniform(0.12, 0.6))),
        noise=float(rng.uniform(0.01, 0.034)),
        wall=colors[0],
        ground=colors[1],
        horizon=float(rng.uniform(0.3, 0.7)),
        clutter=tuple(colors[2:]),
    )


def pixel(color: Color, shade: float = 1.0) -> tuple[int, int, int]:
    """A colour as Pillow takes it, darkened by a factor."""
    red, green, blue = (min(255, max(0, round(255 * shade * value))) for value in color)
    return red, green, blue


def draw_background(camera: Camera, rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A wall, the ground, and one to four things that stand about; `size` is width and height."""
    width, height = size
    light = float(np.exp(rng.normal(0, 0.08)))
    picture: Image.Image = require("PIL.Image", "ipg", PURPOSE).new("RGB", size, pixel(camera.wall, light))
    draw = require("PIL.ImageDraw", "ipg", PURPOSE).Draw(picture)
    edge = height * float(np.clip(camera.horizon + rng.normal(0, 0.06), 0.1, 0.9))
    for step in range(4):  # the ground is lighter towards the camera
        top = edge + (height - edge) * step / 4
        draw.rectangle((0, top, width, height), fill=pixel(camera.ground, light * (0.9 + 0.07 * step)))
    for _ in range(rng.integers(1, 5)):
        left, top = rng.uniform(-0.25, 1) * width, rng.uniform(-0.12, 0.7) * height
        across, down = rng.uniform(0.12, 0.5) * width, rng.uniform(0.08, 0.33) * height
        thing = camera.clutter[rng.integers(len(camera.clutter))]
        mixed = [0.6 * one + 0.4 * other for one, other in zip(thing, camera.wall, strict=True)]
        draw.rectangle((left, top, left + across, top + down), fill=pixel((mixed[0], mixed[1], mixed[2]), light))
    return picture


def expose(picture: Image.Image, camera: Camera, rng: np.random.Generator, size: tuple[int, int]) -> NDArray[np.uint8]:
    """What the camera makes of a large drawing: its resolution, blur, light, colours and noise; (H, W, 3)."""
    image = require("PIL.Image", "ipg", PURPOSE)
    width, height = size
    fraction = float(np.clip(camera.resolution + rng.normal(0, 0.12), 0.38, 1))
    coarse = max(4, round(width * fraction)), max(8, round(height * fraction))
    picture = picture.resize(coarse, image.Resampling.BOX).resize(size, image.Resampling.BILINEAR)
    blur = camera.blur + abs(rng.normal(0, 0.24))
    if blur > 0.25:
        filters = require("PIL.ImageFilter", "ipg", PURPOSE)
        picture = picture.filter(filters.GaussianBlur(blur * height / 64))
    pixels = np.asarray(picture, np.float32) / 255

    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    angle, strength = rng.uniform(0, 2 * np.pi), abs(rng.normal(0, 0.34))
    light = strength * (np.cos(angle) * x + np.sin(angle) * y - 0.3)
    if camera.infrared:  # its lamp lights the middle
        light = light - 0.35 * (x**2 + 0.6 * y**2)
    gain = np.array(camera.gain) * np.exp(rng.normal(0, 0.19) + rng.normal(0, 0.0 if camera.infrared else 0.07, 3))
    pixels = np.clip(pixels * np.exp(light)[..., None], 0, 1) ** camera.gamma
    pixels = pixels * gain * (1 - camera.offset) + camera.offset
    pixels = pixels + camera.noise * rng.standard_normal((height, width, 1 if camera.infrared else 3), np.float32)
    final: NDArray[np.uint8] = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return final
