"""Figures of invented people, drawn with Pillow part by part, with what is worn and carried.

While it is drawn, a figure's alpha channel holds the number of the part that is seen at each place.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pose2id.errors import require
from pose2id.synthetic.cameras import PURPOSE, pixel
from pose2id.synthetic.people import Cloth, Color, Person

if TYPE_CHECKING:
    from PIL import Image

PARTS = ("head", "torso", "right arm", "left arm", "legs", "feet", "bag")
"""What a figure is drawn of; a part's number is its place here, from 1. Right and left are the person's own."""
_HEAD, _TORSO, _RIGHT_ARM, _LEFT_ARM, _LEGS, _FEET, _BAG = range(1, len(PARTS) + 1)
Point = NDArray[np.float64]
Side = tuple[tuple[int, int, int], tuple[int, int, int]]
_TRUNK = 20.0
"""From the neck to the hips of the representative poses, in pixels of a picture 64 pixels high."""
_RIGHT: Side = ((2, 3, 4), (8, 9, 10))
_LEFT: Side = ((5, 6, 7), (11, 12, 13))
"""Shoulder, elbow and wrist; hip, knee and ankle."""


def draw_figure(
    person: Person, points: Point, yaw: float, size: tuple[int, int], *, infrared: bool = False
) -> tuple[Image.Image, Image.Image]:
    """The person alone, RGBA, transparent around, and the parts of it; all 18 `points` as fractions of the canvas.

    The parts are an image of mode L: at each place the number of what is seen there, see `PARTS`; 0 around.
    """
    canvas = _Figure(person, points, yaw, size, infrared).draw()
    parts = canvas.getchannel("A")
    canvas.putalpha(parts.point([0] + 255 * [255]))
    return canvas, parts


class _Figure:
    """One person on one canvas. `unit` is a pixel of a picture 64 pixels high, for a person of usual size."""

    def __init__(self, person: Person, points: Point, yaw: float, size: tuple[int, int], infrared: bool) -> None:
        self.person, self.infrared = person, infrared
        self.image = require("PIL.Image", "ipg", PURPOSE)
        self.tools = require("PIL.ImageDraw", "ipg", PURPOSE)
        self.canvas: Image.Image = self.image.new("RGBA", size)
        self.pen: Any = self.tools.Draw(self.canvas)
        self.part = 0  # what is being drawn
        self.points = p = points * size
        self.cos, self.sin = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        self.chest, self.hips, self.neck = (p[2] + p[5]) / 2, (p[8] + p[11]) / 2, p[1]
        self.trunk = max(abs(self.hips[1] - self.neck[1]), size[1] / 64)
        self.length = self.trunk / _TRUNK
        self.unit = self.length * person.build
        nose, right_ear, left_ear = p[[0, 16, 17]]
        self.crown = 0.25 * nose + 0.375 * (right_ear + left_ear)
        size_of_head = self.length * person.head
        wide = abs(right_ear[0] - left_ear[0]) / 2 + 0.4 * size_of_head
        self.head = float(np.clip(wide, 3.2 * size_of_head, 4.3 * size_of_head)), 3.9 * size_of_head
        self.half = max(abs(p[2, 0] - p[5, 0]) / 2 + 0.4 * self.unit, 4.0 * self.unit)
        self.half_hips = max(abs(p[8, 0] - p[11, 0]) / 2 + 1.4 * self.unit, 3.7 * self.unit)
        # Facing the right edge of the picture, the person's own right side is the nearer one.
        self.far, self.near = (_LEFT, _RIGHT) if self.sin >= 0 else (_RIGHT, _LEFT)

    def draw(self) -> Image.Image:
        """From the farthest to the nearest part."""
        sideways = abs(self.cos) < 0.9
        self._backpack_beside()
        if sideways:
            self._arm(self.far, 0.8)
        if self.cos >= 0:
            self._long_hair()
        self._leg(self.far, 0.82)
        self._leg(self.near, 1.0)
        self._skirt()
        self._torso()
        self._straps()
        self._head()
        self._backpack_behind()
        if not sideways:
            self._arm(self.far, 0.96)
        self._arm(self.near, 1.0)
        return self.canvas

    def _color(self, cloth: Cloth) -> Color:
        return 3 * (cloth.reflectance,) if self.infrared else cloth.color

    def _fill(self, cloth: Cloth, shade: float = 1.0) -> tuple[int, int, int, int]:
        return (*pixel(self._color(cloth), shade), self.part)

    def _tube(self, start: Point, end: Point, radii: tuple[float, float], cloth: Cloth, shade: float = 1.0) -> None:
        """A limb from point to point, round at both ends, lighter along the middle."""
        dx, dy = (end - start).tolist()
        length = math.hypot(dx, dy) or 1.0
        for part, light, aside in ((1.0, 0.76, 0.0), (0.62, 1.03, -0.2)):
            fill = self._fill(cloth, shade * light)
            corners = []
            for (x, y), radius in ((start, radii[0]), (end, radii[1])):
                r, x = radius * part, x + aside * radius
                self.pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)
                across = (-dy / length * r, dx / length * r)
                corners += [(x + across[0], y + across[1]), (x - across[0], y - across[1])]
            self.pen.polygon([corners[0], corners[1], corners[3], corners[2]], fill=fill)

    def _arm(self, side: Side, shade: float) -> None:
        shoulder, elbow, wrist = self.points[list(side[0])]
        person, u = self.person, self.unit
        sleeve = person.top if person.long_sleeves else person.skin
        hand = wrist + 0.15 * (wrist - elbow)
        if self._has_bag("hand", side):
            self._bag(_moved(hand, 0, 0.4 * self.length), 0.9)
        self.part = _RIGHT_ARM if side == _RIGHT else _LEFT_ARM
        self._tube(wrist, hand, (1.1 * u, 1.0 * u), person.skin, shade)
        self._tube(elbow, wrist, (1.5 * u, 1.2 * u), sleeve, shade)
        self._tube(shoulder, elbow, (2.0 * u, 1.7 * u), person.top, shade)

    def _leg(self, side: Side, shade: float) -> None:
        hip, knee, ankle = self.points[list(side[1])]
        person, u = self.person, self.unit
        lower = person.bottom if person.bottom_kind == "trousers" else person.skin
        self.part = _LEGS
        self._tube(knee, ankle, (1.9 * u, 1.3 * u), lower, shade)
        toe = _moved(ankle, self.sin * 2.4 * u, (0.8 + 0.8 * max(self.cos, 0)) * u)
        self.part = _FEET
        self._tube(_moved(ankle, 0, 0.6 * u), toe, (1.5 * u, 1.3 * u), person.shoes, shade)
        self.part = _LEGS
        if person.bottom_kind == "skirt":
            self._tube(hip, knee, (2.4 * u, 1.8 * u), person.skin, shade)
        else:
            self._tube(hip, knee, (2.7 * u, 2.1 * u), person.bottom, shade)

    def _skirt(self) -> None:
        if self.person.bottom_kind != "skirt":
            return
        self.part = _LEGS
        knees, u = self.points[[9, 12]], self.unit
        hem = self.hips[1] + 0.85 * (knees[:, 1].mean() - self.hips[1])
        left = min(self.hips[0] - 5.2 * u, knees[:, 0].min())
        right = max(self.hips[0] + 5.2 * u, knees[:, 0].max())
        x, y = self.hips
        middle = 0.3 * left + 0.7 * right
        for sides, light in (((left, right), 0.74), ((left, middle), 0.95)):
            corners = [(x - 4 * u, y - 2 * u), (x + 3 * u, y - 2 * u), (sides[1], hem), (sides[0], hem)]
            self.pen.polygon(corners, fill=self._fill(self.person.bottom, light))

    def _torso(self) -> None:
        """The top with its pattern, and what is on its front or back."""
        u, half, low = self.unit, self.half, self.half_hips
        (x, y), (hip_x, hip_y) = self.chest, _moved(self.hips, 0, 1.2 * u)
        box = [int(min(x - half, hip_x - low) - 2 * u), int(min(y, hip_y) - 2 * u)]
        box += [int(max(x + half, hip_x + low) + 2 * u) + 1, int(max(y, hip_y) + 2 * u) + 1]
        mask = self.image.new("L", (box[2] - box[0], box[3] - box[1]))
        pen = self.tools.Draw(mask)
        left, right = sorted(self.points[[2, 5]].tolist())
        r = 1.5 * u
        ends = np.array([(x - half + r, left[1] - 0.2 * u), (x + half - r, right[1] - 0.2 * u)])
        waist = ((x + hip_x) / 2, y + 0.62 * (hip_y - y), 0.46 * (half + low))
        outline = [ends[0] - (r, 0), ends[0] - (0, r), self.neck - (0, 1.2 * u), ends[1] - (0, r), ends[1] + (r, 0)]
        outline += [(waist[0] + waist[2], waist[1]), (hip_x + low, hip_y), (hip_x, hip_y + 0.8 * u)]
        outline += [(hip_x - low, hip_y), (waist[0] - waist[2], waist[1])]
        pen.polygon([(px - box[0], py - box[1]) for px, py in outline], fill=255)
        for px, py in ends.tolist():
            pen.ellipse((px - r - box[0], py - r - box[1], px + r - box[0], py + r - box[1]), fill=255)

        down = (np.arange(box[1], box[3])[:, None] - y) / max(hip_y - y, 1.0)
        across = (np.arange(box[0], box[2]) - (x + (hip_x - x) * down)) / half
        cloth = self._cloth(down + np.zeros_like(across), across)
        cloth *= (1.04 - 0.26 * np.clip(np.abs(across + 0.12), 0, 1.1) ** 2)[..., None]
        patch = self.image.fromarray(np.rint(np.clip(cloth, 0, 1) * 255).astype(np.uint8))
        patch.putalpha(_TORSO)
        self.canvas.paste(patch, (box[0], box[1]), mask)

    def _cloth(self, down: NDArray[np.float64], across: NDArray[np.float64]) -> NDArray[np.float64]:
        """Colours (h, w, 3) of the top; `down` is 0 at the shoulders and 1 at the hips, `across` -1 to 1."""
        person, cos = self.person, self.cos
        cloth = np.empty((*down.shape, 3))
        cloth[:] = self._color(person.top)
        rows, columns = (down * person.stripes) % 1 > 0.5, (across * person.stripes / 2 + 0.25) % 1 > 0.5
        pattern = {"horizontal": rows, "vertical": columns, "halves": down > 0.5, "check": rows ^ columns}
        if person.pattern in pattern:
            cloth[pattern[person.pattern]] = self._color(person.second)
        middle = across - 0.6 * self.sin * (1 if cos > 0 else -1)
        if cos > 0.25 and person.front == "logo":
            wide = 0.42 * (0.4 + 0.6 * cos)
            if person.logo == "square":
                cloth[(np.abs(middle) < wide) & (np.abs(down - 0.36) < 0.17)] = self._color(person.inner)
            else:
                cloth[(middle / wide) ** 2 + ((down - 0.36) / 0.2) ** 2 < 1] = self._color(person.inner)
        if cos > 0.25 and person.front == "jacket":
            cloth[np.abs(middle) < 0.32 * (0.3 + 0.7 * cos)] = self._color(person.inner)
        if cos < -0.25 and person.back == "print":
            wide = 0.55 * (0.4 - 0.6 * cos)
            cloth[(np.abs(middle) < wide) & (np.abs(down - 0.32) < 0.14)] = self._color(person.print_cloth)
        return cloth

    def _head(self) -> None:
        self.part = _HEAD
        person, u, (wide, high) = self.person, self.length * self.person.head, self.head
        self._tube(self.neck, self.crown, (1.5 * u, 1.4 * u), person.skin, 0.85)
        if self.cos < 0:
            self._long_hair()
        self._oval(self.crown, (wide, high), person.hair)
        if self.cos > -0.35:
            face = 0.82 * wide * (0.5 + 0.5 * max(self.cos, 0.15))
            self._oval(_moved(self.crown, self.sin * 0.5 * wide, 0.7 * u), (face, 0.75 * high), person.skin)
        if person.hat != "none":
            self._hat()

    def _long_hair(self) -> None:
        """Down to the shoulders, and farther on the back."""
        if not self.person.long_hair:
            return
        self.part = _HEAD
        u, (wide, _) = self.length * self.person.head, self.head
        end = _moved(self.neck, -self.sin * 2.0 * u, (3.0 if self.cos < 0 else 1.5) * u)
        self._tube(_moved(self.crown, -self.sin * 1.4 * u, 0), end, (wide, 0.85 * wide), self.person.hair)

    def _hat(self) -> None:
        (wide, high), u, cloth = self.head, self.length * self.person.head, self.person.hat_cloth
        (x, y), a = _moved(self.crown, 0, -0.7 * u), 1.08 * wide
        self.pen.pieslice((x - a, y - 0.9 * high, x + a, y + 0.9 * high), 180, 360, fill=self._fill(cloth))
        if self.person.hat == "beanie":
            self.pen.rectangle((x - a, y - 0.3 * u, x + a, y + u), fill=self._fill(cloth, 0.85))
        elif self.cos > -0.5:  # the peak of a cap
            aside = max(self.cos, 0) * 0.65 * wide
            ends = np.array([(x + self.sin * u - aside, y), (x + self.sin * 1.5 * wide + aside, y + 0.3 * u)])
            self._tube(ends[0], ends[1], (0.8 * u, 0.8 * u), cloth, 0.85)

    def _oval(self, centre: Point, radii: tuple[float, float], cloth: Cloth) -> None:
        (x, y), (a, b) = centre, radii
        self.pen.ellipse((x - a, y - b, x + a, y + b), fill=self._fill(cloth))

    def _has_bag(self, bag: str, side: Side) -> bool:
        return self.person.bag == bag and side == (_LEFT if self.person.bag_side == "left" else _RIGHT)

    def _bag(self, top: Point, size: float) -> None:
        """A bag that hangs from a point."""
        self.part = _BAG
        (x, y), u = top, self.length * self.person.bag_size * size
        for box, light in (((-2.9, 0, 2.9, 6.4), 0.75), ((-2.9, 0, 1.7, 5.4), 1.0)):
            corners = [x + box[0] * u, y + box[1] * u, x + box[2] * u, y + box[3] * u]
            self.pen.rectangle(corners, fill=self._fill(self.person.bag_cloth, light))

    def _straps(self) -> None:
        """Straps of a backpack seen from the front; a shoulder bag with its strap."""
        self.part = _BAG
        person, u = self.person, self.length
        if person.bag == "backpack" and self.cos > 0.25:
            for side in (-1, 1):
                x, y = self.chest[0] + side * self.half * 0.6 + self.sin * 0.1 * self.half, self.chest[1]
                ends = np.array([(x, y - 0.5 * u), (x + 0.1 * side * u, y + 6.5 * u)])
                self._tube(ends[0], ends[1], (0.8 * u, 0.8 * u), person.bag_cloth)
        if person.bag == "shoulder":
            carrying, other = (_LEFT, _RIGHT) if person.bag_side == "left" else (_RIGHT, _LEFT)
            hip, shoulder = self.points[carrying[1][0]], self.points[other[0][0]]
            self._tube(shoulder, hip, (0.6 * u, 0.6 * u), person.bag_cloth, 0.75)
            if carrying == self.near or abs(self.cos) > 0.5:
                self._bag(_moved(hip, 0, -u), 1.0)

    def _backpack_beside(self) -> None:
        """The part of a backpack that stands out behind a person seen from the side."""
        if self.person.bag != "backpack" or abs(self.sin) < 0.3:
            return
        self.part = _BAG
        u = self.length * self.person.bag_size
        x, y = 0.55 * self.neck + 0.45 * self.hips
        x -= math.copysign(0.55 * self.half + 1.8 * u, self.sin)
        ends = np.array([(x, y - 2.6 * u), (x, y + 3.6 * u)])
        self._tube(ends[0], ends[1], (2.7 * u, 3.0 * u), self.person.bag_cloth)

    def _backpack_behind(self) -> None:
        if self.person.bag != "backpack" or self.cos > -0.25:
            return
        self.part = _BAG
        u, cloth = self.length * self.person.bag_size, self.person.bag_cloth
        x, y = _moved(0.6 * self.neck + 0.4 * self.hips, -self.sin * 1.5 * u, 0)
        wide = 4.4 * u * (0.5 - 0.5 * self.cos)
        self.pen.rounded_rectangle((x - wide, y - 5 * u, x + wide, y + 5.6 * u), 1.6 * u, fill=self._fill(cloth))
        pocket = (x - 0.72 * wide, y + u, x + 0.72 * wide, y + 4.8 * u)
        self.pen.rounded_rectangle(pocket, 0.8 * u, fill=self._fill(cloth, 0.7))


def _moved(point: Point, x: float, y: float) -> Point:
    """The point so much farther to the right and down."""
    moved: Point = point + np.array([x, y])
    return moved
