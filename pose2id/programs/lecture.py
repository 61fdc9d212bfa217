"""The figures of the page *The lecture, in code*: what each family of systems pools, and where.

No part is drawn by hand. A map that has 1 in channel k at location k, and 0 elsewhere, goes through a system's own
pooling; each part then says how much of each location it holds (`Locations`, `locate_parts`). Where colours decide, as
in alignment and reconstruction, the map is the picture itself, cut in locations (`cut_locations`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

from pose2id import images, plots
from pose2id.encoders import PCB, RPP, AlignedReID, SPReID, Trunk
from pose2id.encoders.pose import pdc, pie
from pose2id.encoders.pose.joints import draw_heatmaps
from pose2id.encoders.pose.warps import warp_pieces
from pose2id.encoders.stripes.aligned import shortest_ways
from pose2id.parts import location_pyramid, neighborhood_differences, part_boxes, pool_boxes, pool_stripes
from pose2id.parts.lasso import make_gram, solve_lasso
from pose2id.poses import pose_direction, representative_poses
from pose2id.synthetic import PARTS, make_camera, make_person, person_attributes, render
from pose2id.synthetic.folders import PALETTE

SIZE, LOCATION = (64, 32), 4
"""Height and width of the pictures, and how many pixels a location of their maps is high and wide."""
BETA = 0.2
"""Of the reconstruction that is drawn; locations have length 1."""
SURE = 3.0
"""How fast the score of a part falls in the figure of RPP, with the squared distance of colours."""
_WHO, _OTHER = 10, 5  # of world 0
_TORSO = (5, 3)  # the location that the figure of the grid is about
_SCALE, _GAP = 4, 8  # pixels of a figure for one of a picture, and between pictures
_INK, _CLEAR = (31, 41, 51), (255, 255, 255)
_BEST = (213, 94, 0)

Floats = NDArray[np.float64]
Panel = tuple[Image.Image, str]


class Locations(Trunk):
    """A trunk whose maps (N, H W, H, W) say where: 1 in channel k at location k, whatever the picture."""

    def __init__(self) -> None:
        super().__init__((1, 1, SIZE[0] * SIZE[1] // LOCATION**2))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Maps a quarter as high and wide as images, as other trunks give."""
        height, width = (side // LOCATION for side in images.shape[2:])
        return torch.eye(height * width).view(1, -1, height, width).repeat(len(images), 1, 1, 1)


class Seen(NamedTuple):
    """A drawn picture as encoders take it.

    Attributes
    ----------
    image : (1, 3, H, W) in [-1, 1]
    keypoints : (1, 18, 3)
        In pixels; those that are not seen have no confidence.
    masks : (1, K + 1, H, W)
        The background first.
    """

    image: torch.Tensor
    keypoints: torch.Tensor
    masks: torch.Tensor


def see_person(who: int = _WHO, *, pose: int = 0, camera: int = 1, seed: int = 2, occluded: bool = False) -> Seen:
    """A person of world 0 in one of the representative poses."""
    shown = representative_poses()[pose]
    yaw = pose_direction(shown, aspect=SIZE[1] / SIZE[0])
    rng = np.random.default_rng(seed)
    picture = render(make_person(0, who), shown, yaw, make_camera(0, camera), rng, occlusion=float(occluded))
    image = torch.from_numpy(picture.image).permute(2, 0, 1)[None] / 127.5 - 1
    points = np.column_stack([np.nan_to_num(picture.pose.keypoints) * SIZE[::-1], picture.seen])
    labels = functional.one_hot(torch.from_numpy(picture.parts).long(), len(PARTS) + 1)
    return Seen(image, torch.from_numpy(points).float()[None], labels.permute(2, 0, 1)[None].float())


def locate_parts(parts: torch.Tensor | None) -> Floats:
    """Parts (1, P, H W) that were pooled from maps of `Locations`, as maps (P, H, W): how much of what they hold."""
    if parts is None:
        raise ValueError("parts must be an array, received None: the system has no parts")
    height, width = (side // LOCATION for side in SIZE)
    return parts[0].detach().reshape(-1, height, width).double().numpy()


def locate_boxes(seen: Seen, scheme: str) -> tuple[Floats, Floats]:
    """The boxes (P, 4) of `part_boxes`, in pixels, and the locations (P, H, W) that are pooled in each."""
    boxes, _ = part_boxes(seen.keypoints, SIZE, scheme=scheme)
    return boxes[0].double().numpy(), locate_parts(pool_boxes(Locations()(seen.image), boxes, SIZE))


def cut_locations(image: torch.Tensor) -> torch.Tensor:
    """Pictures (N, 3, H, W) as maps (N, 48, H / 4, W / 4): each location holds its pixels."""
    return functional.pixel_unshuffle(image.double(), LOCATION)


def refine_stripes(maps: torch.Tensor, count: int = 6) -> Floats:
    """Shares (P, H, W) of locations in parts, where RPP's classifier knows each stripe by its mean in these maps."""
    head = RPP(2, Trunk((1, 1, maps.shape[1])), stripes=count).double()
    centred = maps - maps.mean((2, 3), keepdim=True)
    means = pool_stripes(centred, count)[0]  # (P, C)
    # The score falls with the squared distance to the mean.
    head.assign.weight = nn.Parameter(2 * SURE * means[:, :, None, None])
    head.assign.bias = nn.Parameter(-SURE * means.square().sum(1))
    shares: Floats = head.assign(centred).softmax(1)[0].detach().numpy()
    return shares


def align_stripes(first: torch.Tensor, second: torch.Tensor) -> NDArray[np.bool_]:
    """The cells (H, H2) on the shortest way between the stripes (H, D), (H2, D) of two pictures (AlignedReID)."""
    cells = (torch.cdist(first, second) / 2).tanh().requires_grad_()
    (on_the_way,) = torch.autograd.grad(shortest_ways(cells), cells)
    return on_the_way.numpy() > 0


def reconstruct_location(target: torch.Tensor, columns: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """The shares w (M,) of columns (D, M) with the least ``|target - columns w|² + beta |w|_1`` (DSR)."""
    right = columns.T @ target
    return solve_lasso(make_gram(columns[None]), right[None, :, None], target.norm()[None, None], beta)[0, :, 0]


def draw_lecture(folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the figures of the page *The lecture, in code*: a PNG for each family of systems.

    Parameters
    ----------
    folder : path
        Made where there is none. Files of the same names are replaced.

    Returns
    -------
    list of Path
        What was written.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.programs.lecture import draw_lecture
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in draw_lecture(folder)][:2]
    ['lecture-whole.png', 'lecture-stripes.png']
    """
    written = []
    for name, draw in FAMILIES.items():
        pictures, texts = zip(*draw(), strict=True)
        size = pictures[0].width + _GAP, pictures[0].height
        cells = [Image.new("RGB", size, "white") for _ in pictures]
        for cell, picture in zip(cells, pictures, strict=True):
            cell.paste(picture)
        sheet = images.draw_sheet([cells], size, labels=[texts])
        written.append(plots.write_picture(Path(folder) / f"lecture-{name}.png", partial(sheet.save, format="PNG")))
    return written


def _draw_whole() -> list[Panel]:
    seen = see_person()
    everything = np.ones((1, SIZE[0] // LOCATION, SIZE[1] // LOCATION))
    return [
        (_enlarge(seen.image), "a picture, 64 pixels high, 32 wide"),
        (_draw_grid(_enlarge(seen.image)), "the locations of its map: 16 rows of 8"),
        (_tint(_draw_grid(_enlarge(seen.image)), everything), "Global: the mean of all of them"),
    ]


def _draw_stripes() -> list[Panel]:
    seen = see_person()
    where = Locations()(seen.image)
    plain = _enlarge(seen.image)
    stripes = locate_parts(PCB(2, Locations()).eval()(seen.image).parts)
    groups = locate_parts(pool_stripes(where, 4))
    refined = refine_stripes(cut_locations(seen.image))
    fine = locate_parts(AlignedReID(2, Locations()).eval()(seen.image).parts)
    return [
        (_outline(_tint(plain, stripes), stripes), "PCB, ICNN: 6 stripes; neighbours share a row of 16"),
        (_tint(plain, refined), "RPP: each location goes to the part that it looks like (here by its colours)"),
        (_outline(_tint(plain, groups), groups), "SCPNet: 4 stripes teach 4 groups of channels"),
        *_draw_alignment(seen, fine),
    ]


def _draw_alignment(seen: Seen, stripes: Floats) -> list[Panel]:
    """A person, and the same one in a box that ends too early: which stripes are compared."""
    cropped = functional.interpolate(seen.image[:, :, : SIZE[0] * 3 // 4], SIZE, mode="bilinear", antialias=True)
    both = [pool_stripes(cut_locations(image), len(stripes))[0] for image in (seen.image, cropped)]
    way = align_stripes(*both)
    width, height = SIZE[1] * _SCALE, SIZE[0] * _SCALE
    wide = Image.new("RGB", (2 * (width + _GAP), height), "white")
    for number, image in enumerate((seen.image, cropped)):
        wide.paste(_outline(_enlarge(image), stripes), (number * (width + _GAP), 0))
    pen, step = ImageDraw.Draw(wide), height / len(stripes)
    for i, j in np.argwhere(way):
        ends = (width * 0.75, (i + 0.5) * step, width * 1.25 + _GAP, (j + 0.5) * step)
        pen.line(ends, fill=_BEST, width=2)
    halves = [wide.crop((number * (width + _GAP), 0, (number + 1) * (width + _GAP), height)) for number in (0, 1)]
    return [
        (halves[0], "AlignedReID: 8 stripes, of a whole person"),
        (halves[1], "the same person in a box that is too short, by the shortest way"),
    ]


def _draw_pose() -> list[Panel]:
    seen = see_person()
    plain = _enlarge(seen.image)
    boxes, pooled = locate_boxes(seen, "spindle")
    three, within = locate_boxes(seen, "three")
    warped = [warp_pieces(seen.image, seen.keypoints, tuple(own.PIECES.values()))[0] for own in (pdc, pie)]
    size = SIZE[0] // LOCATION, SIZE[1] // LOCATION
    bells = draw_heatmaps(seen.keypoints, SIZE, size)[0, :-1].double().numpy()
    return [
        (_frame(_tint(plain, pooled[:3]), boxes[:3]), "Spindle Net: head, body, legs"),
        (_frame(_tint(plain, pooled[3:], first=3), boxes[3:], first=3), "and arms and legs, one by one"),
        (_frame(_tint(plain, within), three), "GLAD: head, upper body, lower body"),
        (_enlarge(warped[0]), "PDC: six parts upright, where they belong"),
        (_enlarge(warped[1]), "PIE: the PoseBox, ten parts"),
        (_tint(plain, bells, strength=0.9), "PABP: maps of the joints, times the map"),
    ]


def _draw_masks() -> list[Panel]:
    panels = []
    words = [
        ("masks: the person is all that is coloured", "SPReID: four parts, as far as locations hold them"),
        ("behind something: no mask, where nothing is seen", "and nothing is pooled there"),
    ]
    for texts, occluded in zip(words, (False, True), strict=True):
        seen = see_person(occluded=occluded)
        plain = _enlarge(seen.image)
        parts = SPReID(2, Locations()).eval()(seen.image, masks=seen.masks).parts
        panels += [(_tint(plain, seen.masks[0, 1:].double().numpy()), texts[0])]
        panels += [(_tint(plain, locate_parts(parts)), texts[1])]
    return panels


def _draw_grid_systems() -> list[Panel]:
    first, second = see_person(), see_person(pose=1, seed=5)
    maps = [cut_locations(seen.image) for seen in (first, second)]
    height, width = maps[0].shape[2:]
    row, column = _TORSO
    own = np.zeros((1, height, width))
    own[0, row, column] = 1
    around = np.zeros((1, height, width))
    different = neighborhood_differences(maps[0], maps[1])[0][0, :, row, column].norm(dim=0).numpy()  # (5, 5)
    around[0, row - 2 : row + 3, column - 2 : column + 3] = different / different.max()
    box = np.array([[column - 2, row - 2, column + 3, row + 3]]) * float(LOCATION)
    squares = _squares_around(row, column)
    columns = functional.normalize(maps[1].flatten(2), dim=1)[0]
    target = functional.normalize(maps[0][0, :, row, column], dim=0)
    shares = reconstruct_location(target, columns).abs().view(1, height, width).numpy()
    plain = [_enlarge(seen.image) for seen in (first, second)]
    return [
        (_outline(_draw_grid(plain[0]), own), "a location of one picture"),
        (_frame(_tint(plain[1], around, strength=0.9), box), "IDLA: its differences from 25 locations of another"),
        (_outline(plain[0], squares), "DSR: squares of three sizes are locations too"),
        (_tint(plain[1], shares, strength=0.9), "DSR: what the first location is made of here"),
    ]


def _squares_around(row: int, column: int, sizes: Sequence[int] = (2, 4, 6)) -> Floats:
    """The square of each size of DSR's pyramid whose middle is nearest to a location, (3, H, W)."""
    where = Locations()(torch.zeros(1, 3, *SIZE))
    chosen = []
    for size in sizes:
        squares = locate_parts(location_pyramid(where, (size,)).mT)
        middles = [np.argwhere(square).mean(0) for square in squares]
        chosen.append(squares[int(np.argmin([np.abs(middle - (row, column)).sum() for middle in middles]))])
    return np.stack(chosen)


def _draw_attributes() -> list[Panel]:
    people = [person_attributes(make_person(0, who)) for who in (_WHO, _OTHER)]
    panels = []
    for number, (who, known) in enumerate(zip((_WHO, _OTHER), people, strict=True)):
        panels.append((_enlarge(see_person(who).image), ("one person", "another")[number]))
        card = Image.new("RGB", (SIZE[1] * _SCALE, SIZE[0] * _SCALE), "white")
        pen = ImageDraw.Draw(card)
        for line, (name, value) in enumerate(known.items()):
            unlike = value != people[1 - number][name]
            words = f"{name}: {value.removeprefix('up').removeprefix('down')}" + " *" * unlike
            pen.text((0, 4 + 22 * line), words, fill=_BEST if unlike else _INK)
        panels.append(
            (card, ("APR: learnt beside who it is", "* differs: where both are sure, a search drops it")[number])
        )
    return panels


FAMILIES = {
    "whole": _draw_whole,
    "stripes": _draw_stripes,
    "pose": _draw_pose,
    "masks": _draw_masks,
    "grid": _draw_grid_systems,
    "attributes": _draw_attributes,
}
"""What draws the pictures of a family, each with a text below it."""


def _enlarge(image: torch.Tensor) -> Image.Image:
    """A picture (1, 3, H, W) in [-1, 1], larger."""
    pixels = ((image[0].permute(1, 2, 0) + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    return _resize(pixels)


def _resize(pixels: NDArray[np.uint8]) -> Image.Image:
    """Pixels or locations, as large as a picture of the figure."""
    return Image.fromarray(pixels).resize((SIZE[1] * _SCALE, SIZE[0] * _SCALE), Image.Resampling.NEAREST)


def _tint(plain: Image.Image, shares: Floats, *, first: int = 0, strength: float = 0.5) -> Image.Image:
    """A picture with each location in the colours of the parts (P, h, w) that hold it, most where a part holds most."""
    shares = shares / shares.max((1, 2), keepdims=True).clip(1e-9)
    total = shares.sum(0)
    colors = np.einsum("phw,pc->hwc", shares, _colors(len(shares), first)) / total[:, :, None].clip(1e-9)
    cover = _resize((255 * strength * total.clip(0, 1)).round().astype(np.uint8))
    return Image.composite(_resize(colors.round().astype(np.uint8)), plain, cover)


def _colors(count: int, first: int = 0) -> Floats:
    """Of parts, from that with number `first`."""
    own = PALETTE[1:]
    return np.array([own[(first + number) % len(own)] for number in range(count)], np.float64)


def _outline(plain: Image.Image, shares: Floats) -> Image.Image:
    """A frame around the locations that each of the parts (P, h, w) holds; they are rectangles."""
    held = [np.argwhere(part > 0) for part in shares]
    corners = [[*places.min(0)[::-1], *(places.max(0)[::-1] + 1)] for places in held]
    return _frame(plain, LOCATION * np.array(corners, np.float64))


def _frame(plain: Image.Image, boxes: Floats, *, first: int = 0) -> Image.Image:
    """Frames x1, y1, x2, y2 in pixels of the picture; every other one a little smaller, so that neighbours are seen."""
    framed = plain.copy()
    pen = ImageDraw.Draw(framed)
    for number, (box, color) in enumerate(zip(boxes * _SCALE, _colors(len(boxes), first), strict=True)):
        inset = 3 * (number % 2)
        low, high = box[:2] + inset, np.maximum(box[2:] - 1 - inset, box[:2] + inset)
        pen.rectangle((*low, *high), outline=tuple(color.astype(int)), width=2)
    return framed


def _draw_grid(plain: Image.Image) -> Image.Image:
    """Lines between locations."""
    lined = plain.copy()
    pen, step = ImageDraw.Draw(lined), LOCATION * _SCALE
    for at in range(step, max(plain.size), step):
        pen.line((at, 0, at, plain.height), fill=_CLEAR)
        pen.line((0, at, plain.width, at), fill=_CLEAR)
    return lined
