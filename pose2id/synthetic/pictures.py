"""Synthetic pictures, one at a time: an invented person in a pose, as a camera sees it."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import require
from pose2id.poses import Pose
from pose2id.synthetic.cameras import PURPOSE, Camera, draw_background, expose, pixel
from pose2id.synthetic.drawing import PARTS, draw_figure
from pose2id.synthetic.people import Person, draw_traits, jitter
from pose2id.synthetic.walking import check_generator, complete, sample_pose
from pose2id.validation import check_count, check_flag, check_number

if TYPE_CHECKING:
    from PIL import Image

_LARGER = 4
"""The drawing is so many times as high as the picture, for smooth edges."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A synthetic picture and what is known about it.

    Attributes
    ----------
    image : ndarray of uint8, shape (H, W, 3)
    pose : Pose
        Keypoints in this picture, as fractions of its size; some may lie outside.
    mask : ndarray of bool, shape (H, W)
        Where the person is, also behind an occluder.
    occluded : bool
        Whether something stands before the person.
    parts : ndarray of uint8, shape (H, W)
        Which part of the person is seen: its place in `PARTS`, from 1. A pixel is of the part that covers most of it;
        it is 0 where less than half of it shows the person, so also where something stands before.
    seen : ndarray of bool, shape (18,)
        Which keypoints lie inside of the picture, and not behind what stands before the person. Those behind the
        person's own body count as seen.
    """

    image: NDArray[np.uint8]
    pose: Pose
    mask: NDArray[np.bool_]
    occluded: bool
    parts: NDArray[np.uint8]
    seen: NDArray[np.bool_]


def render(
    person: Person,
    pose: Pose,
    yaw: float,
    camera: Camera,
    rng: np.random.Generator,
    *,
    height: int = 64,
    width: int = 32,
    occlusion: float = 0.25,
    clean: bool = False,
) -> Picture:
    """A synthetic picture of an invented person.

    Parameters
    ----------
    person : Person
    pose : Pose
        With shoulders and hips; other missing joints are guessed for the drawing and stay missing in the result.
    yaw : float
        Direction that the person faces, in degrees; decides what of the person is seen. 0 is towards the camera, 90 to
        the right edge of the picture, 180 away.
    camera : Camera
    rng : numpy.random.Generator
        For crop, background, occluder and noise; the same state gives the same picture.
    height, width : int
        Size of the picture, at least 8. Everything is drawn on a canvas twice as high as wide and then brought to
        this size.
    occlusion : float
        Probability that something stands before the person: a low wall, a pillar or another person. It changes
        nothing else in the picture.
    clean : bool
        No effects of the camera (an infrared one stays grey), no occluder, plain background, and the pose exactly as
        given, whatever `rng` and `occlusion`; for measuring how well a generated picture follows a pose.

    Returns
    -------
    Picture
        The image, and what is known of it.

    Raises
    ------
    TypeError, ValueError
        For arguments of other kinds or out of range, and for a pose without shoulders or hips.
    MissingExtraError
        Without Pillow.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.synthetic import make_camera, make_person, render, sample_pose
    >>> rng = np.random.default_rng(0)
    >>> pose, yaw = sample_pose(rng)
    >>> picture = render(make_person(0, 1), pose, yaw, make_camera(0, 0), rng)
    >>> picture.image.shape, picture.mask.shape
    ((64, 32, 3), (64, 32))
    >>> from pose2id.synthetic import PARTS
    >>> PARTS[picture.parts[10, 16] - 1]
    'head'
    """
    for value, kind, name in ((person, Person, "person"), (pose, Pose, "pose"), (camera, Camera, "camera")):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, received {type(value).__name__}")
    check_generator(rng)
    yaw = check_number(yaw, "yaw", -math.inf)
    size = check_count(width, "width", 8), check_count(height, "height", 8)
    occlusion, clean = check_number(occlusion, "occlusion", 0, 1), check_flag(clean, "clean")
    image = require("PIL.Image", "ipg", PURPOSE)
    points = complete(pose)
    canvas = canvas_size(size)
    if clean:
        figure, parts = draw_figure(person, points, yaw, canvas, infrared=camera.infrared)
        picture = image.new("RGB", canvas, (128, 128, 128))
        picture.paste(figure, mask=figure)
        pixels = np.asarray(picture.resize(size, image.Resampling.BOX))
        return Picture(pixels, pose, _silhouette(parts, size), False, _shrink(parts, size), _seen(pose))

    zoom = person.stature * (1 + rng.normal(0, 0.07))
    shift = np.array([0.5, 0.53]) + rng.normal(0, (0.06, 0.03))
    points = (points - (0.5, 0.53)) * zoom + shift
    pose = Pose((pose.keypoints - (0.5, 0.53)) * zoom + shift, pose.name)
    # An occluder takes its chances from a generator of its own, and so leaves everything else as it is.
    occluded, other = bool(rng.random() < occlusion), np.random.default_rng(rng.integers(2**63))
    picture = draw_background(camera, rng, canvas)
    figure, parts = draw_figure(person, points, yaw, canvas, infrared=camera.infrared)
    picture.paste(figure, mask=figure)
    mask, cover = _silhouette(parts, size), None
    if occluded:
        cover = _draw_occluder(picture, camera, other)
        parts.paste(0, mask=cover)
    return Picture(expose(picture, camera, rng, size), pose, mask, occluded, _shrink(parts, size), _seen(pose, cover))


def canvas_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the drawing for a picture of that size: twice as high as wide, and larger."""
    height = _LARGER * max(size[1], 2 * size[0])
    return height // 2, height


def _shares(parts: Image.Image, numbers: Collection[int], size: tuple[int, int]) -> NDArray[np.uint8]:
    """How much of each pixel of a picture some parts cover together, (H, W), 255 for all of it."""
    box = require("PIL.Image", "ipg", PURPOSE).Resampling.BOX
    return np.asarray(parts.point([255 * (number in numbers) for number in range(256)]).resize(size, box))


def _silhouette(parts: Image.Image, size: tuple[int, int]) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = _shares(parts, range(1, 256), size) >= 128
    return mask


def _shrink(parts: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The part that covers most of each pixel, where the person covers half of it; (H, W), see `Picture`."""
    shares = np.stack([_shares(parts, [number], size) for number in range(1, 1 + len(PARTS))])
    return np.where(_silhouette(parts, size), 1 + shares.argmax(axis=0), 0).astype(np.uint8)


def _seen(pose: Pose, cover: Image.Image | None = None) -> NDArray[np.bool_]:
    """Which keypoints lie inside of the picture, and not where `cover` is drawn."""
    points = pose.keypoints
    seen: NDArray[np.bool_] = np.all((points >= 0) & (points < 1), axis=1)  # a missing one is NaN
    if cover is not None:
        inside = np.flatnonzero(seen)
        x, y = (points[inside] * cover.size).astype(np.int64).T
        seen[inside] = np.asarray(cover)[y, x] == 0
    return seen


def _draw_occluder(picture: Image.Image, camera: Camera, rng: np.random.Generator) -> Image.Image:
    """A low wall, a pillar from the side, or another person who walks by, drawn over the picture.

    Returns what it covers, an image of mode L: 255 there, 0 elsewhere.
    """
    width, height = picture.size
    color = jitter((float(rng.random()), 0.4, float(rng.uniform(0.2, 0.8))), rng)
    if camera.infrared:
        color = 3 * (float(np.mean(color)),)
    kind = rng.integers(3)
    if kind == 2:
        pose, yaw = sample_pose(rng)
        beside = (float(rng.choice([-1, 1]) * rng.uniform(0.38, 0.5)), 0.05)
        points = pose.keypoints + beside
        figure, _ = draw_figure(draw_traits(rng), points, yaw, picture.size, infrared=camera.infrared)
        picture.paste(figure, mask=figure)
        return figure.getchannel("A")
    box: tuple[float, float, float, float] = (0, height * rng.uniform(0.6, 0.8), width, height)
    if kind == 1:
        across, top = width * rng.uniform(0.25, 0.45), height * rng.uniform(0, 0.4)
        box = (0, top, across, height) if rng.random() < 0.5 else (width - across, top, width, height)
    cover: Image.Image = require("PIL.Image", "ipg", PURPOSE).new("L", picture.size)
    tools = require("PIL.ImageDraw", "ipg", PURPOSE)
    tools.Draw(picture).rectangle(box, fill=pixel(color))
    tools.Draw(cover).rectangle(box, fill=255)
    return cover
