"""A synthetic data set as a folder that any tool for Market-1501 can read."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from pose2id.atomic import clear_leftovers, write_folder
from pose2id.errors import require
from pose2id.progress import tqdm
from pose2id.synthetic.cameras import PURPOSE
from pose2id.synthetic.drawing import PARTS
from pose2id.synthetic.pictures import Picture
from pose2id.synthetic.sets import World
from pose2id.synthetic.traits import person_attributes
from pose2id.validation import check_count, check_flag, take_path

VERSION = 1
"""Of this world: grows when the same seed gives other pictures."""
MARKER = "Synthetic pedestrians made by pose2id"
"""The first words of the README.txt of a folder that `write_dataset` made."""
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
MASKS = "masks"
ATTRIBUTES = "attributes.json"
PALETTE = (
    *((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115)),
    *((240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167)),
)
"""Colours of the background and of `PARTS` in mask files: Okabe and Ito's, told apart under colour blindness."""


def write_dataset(
    folder: str | os.PathLike[str],
    *,
    ids: int = 500,
    seed: int = 0,
    cams: int = 6,
    per_cam: int = 2,
    height: int = 64,
    width: int = 32,
    occluded: bool = False,
    infrared: bool = False,
    masks: bool = False,
    attributes: bool = False,
    overwrite: bool = False,
    progress: bool = False,
) -> Path:
    """Write a synthetic data set in the layout and with the names of Market-1501.

    `bounding_box_train` holds the identities 1 to ids // 2, `query` one picture of each other identity from each
    camera, `bounding_box_test` their other pictures and, as in Market-1501, pictures that a tool must treat specially:
    for every second of these identities one bad detection, identity -1 (junk), and one picture of the background,
    identity 0000 (distractor). A name such as `0001_c1s1_000001_00.jpg` holds the identity, the camera from 1, the
    sequence (always 1), a number that differs for all pictures of a camera, and 00. JPEG, quality 95, full colour
    resolution. Beside them `keypoints.json` maps each file name to 18 times [x, y], fractions of the picture, or null;
    `README.txt` says that all is synthetic, and how it was made.

    Parameters
    ----------
    folder : path
        Will be made; its parent must exist. It appears only when it is complete.
    ids : int
        So many identities, 2 to 9999. Many readers of Market-1501 insist on at most 1,501.
    cams : int
        Cameras, 2 to 9; the names have room for one digit. Many readers of Market-1501 insist on at most 6.
    per_cam : int
        Pictures of each identity from each camera, 2 to 99: one for the query, the others for the gallery.
    seed, height, width, progress
        As for `make_set`.
    occluded : bool
        In every query something stands before the person; nothing else changes. Otherwise in 25 % of all pictures. Half
        of the time it covers more than a fifth of the person, in one of twelve less than a twentieth.
    infrared : bool
        A third of the cameras, at least one, is infrared: the third and the sixth of six. As in SYSU-MM01, queries are
        infrared and the gallery is not. Infrared pictures are grey RGB files.
    masks : bool
        Also write which part of the person each pixel shows: in `masks/query` and so on, a PNG with a palette for each
        picture, under its name, whose pixels are places in `PARTS` from 1, and 0 for all that is not the person; and
        `seen.json`, file name to 18 times true or false: whether the keypoint is seen, see `SyntheticSet`. Nothing else
        changes.
    attributes : bool
        Also write `attributes.json`, which maps each identity, such as "0001", to its attributes and their classes, in
        the words of `pose2id.attributes.SYNTHETIC`; junk and distractors have none. Nothing else changes.
    overwrite : bool
        Replace a folder that this function made.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    ValueError, TypeError
        For arguments of other kinds or out of range; when the folder exists and `overwrite` is False, or is not one
        that this function made; when its parent does not exist.
    MissingExtraError
        Without Pillow.
    OSError
        When it cannot be written; nothing is left then.

    References
    ----------
    L. Zheng and others, Scalable person re-identification: a benchmark, ICCV 2015 (layout and names).

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from pose2id.synthetic import write_dataset
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     folder = write_dataset(pathlib.Path(parent, "world"), ids=2, cams=2)
    ...     sorted(path.name for path in (folder / "query").iterdir())
    ['0002_c1s1_000003_00.jpg', '0002_c2s1_000003_00.jpg', 'keypoints.json']
    """
    folder = take_path("." if folder == "" else folder, "folder")  # which exists, and is told so
    ids, cams = check_count(ids, "ids", 2, 9999), check_count(cams, "cams", 2, 9)
    per_cam = check_count(per_cam, "per_cam", 2, 99)
    occluded, infrared = check_flag(occluded, "occluded"), check_flag(infrared, "infrared")
    masks, overwrite = check_flag(masks, "masks"), check_flag(overwrite, "overwrite")
    attributes = check_flag(attributes, "attributes")
    progress = check_flag(progress, "progress")
    world = World(seed, cams, max(1, cams // 3) if infrared else 0, height, width)
    clear_leftovers(Path(os.path.realpath(folder)).parent)  # what a killed process had moved away comes back
    _check_folder(folder, overwrite=overwrite)
    with write_folder(folder, overwrite=overwrite) as made:
        counts = _write_folders(made, world, ids, per_cam, occluded=occluded, masks=masks, progress=progress)
        text = _describe(world, ids, per_cam, occluded, masks, counts)
        if attributes:
            people = {f"{number:04d}": person_attributes(world.person(number)) for number in range(1, ids + 1)}
            _write_rows(made / ATTRIBUTES, people)
            text += (
                f"{ATTRIBUTES}: identity -> its attributes, the same in all pictures, whether these show them or not\n"
            )
        (made / "README.txt").write_text(text, encoding="utf-8")
        _check_folder(folder, overwrite=overwrite)
    return folder


def _check_folder(folder: Path, *, overwrite: bool) -> None:
    """Raise ValueError unless the folder may be made, or replaced."""
    if not folder.parent.is_dir():
        raise ValueError(f"folder {folder} must be in an existing folder, {folder.parent} is none")
    if not (folder.exists() or folder.is_symlink()):
        return
    if not overwrite:
        raise ValueError(f"folder {folder} exists already; name another, or overwrite it (overwrite=True, --overwrite)")
    readme = folder / "README.txt"
    if folder.is_symlink() or not (readme.is_file() and readme.read_bytes().startswith(MARKER.encode())):
        raise ValueError(
            f"folder {folder} is not one that write_dataset made (no README.txt that begins with {MARKER!r}), and is "
            "not replaced; name another or remove it yourself"
        )


def _shots(world: World, ids: int, per_cam: int, *, occluded: bool) -> Iterator[tuple[str, str, int, int, int, float]]:
    """Every picture of a person: folder, file name, identity, camera, shot, occlusion."""
    for number in range(1, ids + 1):
        for cam in range(len(world.cameras)):
            for shot in range(per_cam):
                folder = QUERY if shot == 0 else GALLERY
                if number <= ids // 2:
                    folder = TRAIN
                elif world.infrared and cam not in world.infrared:
                    folder = GALLERY
                elif world.infrared and shot > 0:
                    continue  # infrared pictures are queries only
                name = f"{number:04d}_c{cam + 1}s1_{(number - 1) * per_cam + shot + 1:06d}_00.jpg"
                yield folder, name, number, cam, shot, 1.0 if occluded and folder == QUERY else 0.25


def _write_folders(
    made: Path, world: World, ids: int, per_cam: int, *, occluded: bool, masks: bool, progress: bool
) -> dict[str, int]:
    """Write the three folders; returns how many pictures each holds, and junk and distractors."""
    image = require("PIL.Image", "ipg", PURPOSE)
    points: dict[str, dict[str, list[list[float] | None]]] = {TRAIN: {}, QUERY: {}, GALLERY: {}}
    joints: dict[str, dict[str, list[bool]]] = {folder: {} for folder in points if masks}
    for folder in points:
        (made / folder).mkdir(parents=True)
    for folder in joints:
        (made / MASKS / folder).mkdir(parents=True)

    def save(folder: str, name: str, picture: Picture) -> None:
        image.fromarray(picture.image).save(made / folder / name, quality=95, subsampling=0)
        keypoints = np.round(picture.pose.keypoints, 5).tolist()
        points[folder][name] = [None if math.isnan(x) else [x, y] for x, y in keypoints]
        if masks:
            labels = image.fromarray(picture.parts)
            labels.putpalette([value for color in PALETTE for value in color])
            labels.save((made / MASKS / folder / name).with_suffix(".png"))
            joints[folder][name] = picture.seen.tolist()

    shots = list(_shots(world, ids, per_cam, occluded=occluded))
    bar = tqdm(shots, desc="synthetic", unit="picture", disable=not progress)
    for folder, name, number, cam, shot, occlusion in bar:
        picture, _ = world.take(number, cam, shot, occlusion)
        save(folder, name, picture)
    special = range(ids // 2 + 1, ids + 1, 2)
    seen = [cam for cam in range(len(world.cameras)) if cam not in world.infrared]
    for place, number in enumerate(special):
        cam, frame = seen[place % len(seen)], ids * per_cam + 2 * place + 1
        save(GALLERY, f"-1_c{cam + 1}s1_{frame:06d}_00.jpg", world.take_junk(number, cam))
        save(GALLERY, f"0000_c{cam + 1}s1_{frame + 1:06d}_00.jpg", world.take_nobody(number, cam))
    for folder, rows in points.items():
        _write_rows(made / folder / "keypoints.json", rows)
    for folder, seen_joints in joints.items():
        _write_rows(made / MASKS / folder / "seen.json", seen_joints)
    return {folder: len(rows) for folder, rows in points.items()} | {"special": len(special)}


def _write_rows(path: Path, rows: Mapping[str, object]) -> None:
    """A JSON file with a line for each entry."""
    lines = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def _describe(world: World, ids: int, per_cam: int, occluded: bool, masks: bool, counts: dict[str, int]) -> str:
    pillow = require("PIL", "ipg", PURPOSE).__version__
    infrared = ", ".join(str(cam + 1) for cam in world.infrared)
    queries = ["Every query is occluded."] if occluded else []
    if infrared:
        queries.append("Queries are infrared, the gallery is not.")
    numbers = ", ".join(f"{number} {part}" for number, part in enumerate(PARTS, 1))
    labels = f"""masks: the parts of the people, a PNG for each picture: 0 what is not the person, {numbers}
{MASKS}/.../seen.json: file name -> 18 times whether the keypoint is in the picture and nothing stands before it
"""
    return f"""{MARKER} (world {VERSION}, Pillow {pillow}, numpy {np.__version__}).

All people, places and cameras here are drawn by a program. No picture shows a real person, and results on these
pictures say nothing about results on real ones.

seed {world.seed}, identities {ids}, cameras {len(world.cameras)}, pictures of each identity from each camera {per_cam},
{world.height} x {world.width} pixels (height x width)
infrared cameras: {infrared or "none"}
{" ".join(queries) or "A quarter of the pictures is occluded."}

Layout and names as in Market-1501: identity_c(camera)s(sequence)_(number)_00.jpg
{TRAIN}: identities 1 to {ids // 2}, {counts[TRAIN]} pictures
{QUERY}: identities {ids // 2 + 1} to {ids}, {counts[QUERY]} pictures
{GALLERY}: the same identities, {counts[GALLERY]} pictures; among them {counts["special"]} bad detections, identity -1
  (junk: never counts), and {counts["special"]} of the background alone, identity 0000 (distractors: always wrong)
keypoints.json in each folder: file name -> 18 times [x, y], fractions of width and height, or null; OpenPose order
{labels if masks else ""}"""
