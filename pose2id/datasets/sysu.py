"""SYSU-MM01: infrared queries, a gallery of visible images that is drawn anew in each of 10 trials."""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pose2id.datasets.folders import (
    check_some,
    find_root,
    has_images,
    is_given,
    list_folders,
    list_images,
    match_names,
    named,
    take,
)
from pose2id.datasets.listed import TRIALS
from pose2id.datasets.lists import read_people, take_whole
from pose2id.datasets.matlab import read_variable
from pose2id.datasets.records import DataSet, ImageSet
from pose2id.validation import check_choice, check_count, check_flag

_CAMERAS = (1, 2, 3, 4, 5, 6)
_INFRARED = (3, 6)
_GALLERY = {"all": (1, 2, 4, 5), "indoor": (1, 2)}
_PERMUTATIONS = "exp/rand_perm_cam.mat"
_NAME = "SYSU-MM01"

Choose = Callable[[int, int, list[Path]], list[Path]]


def read_sysu_mm01(
    root: str | os.PathLike[str], *, mode: str = "all", shots: int = 1, trial: int = 1, validation: bool = True
) -> DataSet:
    """SYSU-MM01: 491 people, 4 visible and 2 infrared cameras; 3,803 infrared queries of 96 people.

    Read are `cam1` to `cam6`, with one folder for each person (`cam1/0006/0001.jpg`), and the identities in
    `exp/train_id.txt`, `exp/val_id.txt` and `exp/test_id.txt`, or in `.mat` files of these names. Not everybody was
    seen by every camera. Cameras 1, 2, 4 and 5 are visible light, 3 and 6 infrared; 1, 2 and 3 are indoors, 2 and 3
    in the same room.

    For every test person and visible camera the gallery has `shots` images chosen at random. Scores are the mean over
    10 trials, which differ in this choice; training images and queries are the same in all of them.

    Parameters
    ----------
    root : path
        The folder with `cam1` to `cam6` and `exp`, or the one around it; for errors and an example see `read_dataset`.
    mode : {"all", "indoor"}
        All search: gallery from cameras 1, 2, 4 and 5. Indoor search: from 1 and 2. Queries are from 3 and 6 in both.
    shots : int, default 1
        1 is single shot, 10 multi shot. A person with fewer images from a camera is there with all of them.
    trial : int, default 1
        From 1 to 10.
    validation : bool, default True
        Train on the 99 validation people too, as is usual: 395 instead of 296.

    Returns
    -------
    DataSet
        Protocol "sysu-mm01"; cameras are numbered 1 to 6.

    Notes
    -----
    **The choice.** The authors' evaluation takes it from `rand_perm_cam.mat` (in their repository under
    `evaluation/data_split`). Put the file into `exp` and it is used: image i is the i-th by name. Otherwise, as the
    usual Python versions do, it is drawn with the seed `trial - 1`: for single shot exactly as in Ye's
    `Cross-Modal-Re-ID-baseline` (`random.seed(trial - 1)`, then `random.choice` by person and camera); for more shots
    programs differ. The two choices give different galleries and so different scores; `DataSet.notes` says which one it
    was.

    References
    ----------
    Wu et al., *RGB-Infrared Cross-Modality Person Re-Identification*, ICCV 2017, and the authors' code,
    github.com/wuancong/SYSU-MM01.
    """
    cameras = _GALLERY[check_choice(mode, "mode", tuple(_GALLERY))]
    shots, trial = check_count(shots, "shots", 1), check_count(trial, "trial", 1, TRIALS)
    check_flag(validation, "validation")
    parts = ["train", *(["val"] if validation else []), "test"]
    lists = {part: (f"exp/{part}_id.txt", f"exp/{part}_id.mat") for part in parts}
    needed: list[str | tuple[str, ...]] = [*(f"cam{camera}" for camera in _CAMERAS), *lists.values()]
    folder = find_root(_NAME, root, needed, ("SYSU-MM01", "sysu-mm01", "SYSU_MM01", "sysu"))
    people = {part: read_people(take(folder, files)) for part, files in lists.items()}
    _check_people(folder, people)
    _check_cameras(folder)
    permutations = folder / _PERMUTATIONS
    official = is_given(permutations)
    choose = _by_permutation(permutations, trial, shots) if official else _by_seed(trial, shots)
    return DataSet(
        _NAME,
        folder,
        _read(folder, people["train"] + people.get("val", []), _CAMERAS),
        _read(folder, people["test"], _INFRARED),
        _read(folder, people["test"], cameras, choose),
        "sysu-mm01",
        (
            f"Trial {trial} of {TRIALS}, {mode} search, {shots} shot{'s' if shots > 1 else ''}; gallery chosen by "
            + (f"the authors' {_PERMUTATIONS}." if official else f"seed {trial - 1}: no {_PERMUTATIONS} is there."),
        ),
    )


def _check_people(root: Path, people: dict[str, list[int]]) -> None:
    """Raise ValueError for people who are listed twice, and for those who have no image."""
    listed = Counter(person for part in people.values() for person in part)
    if twice := sorted(person for person, count in listed.items() if count > 1):
        raise ValueError(f"{_NAME}: a person must be in one list, once; listed again: {named(list(map(str, twice)))}")
    folders = {person: [root / f"cam{camera}" / f"{person:04d}" for camera in _CAMERAS] for person in sorted(listed)}
    if lost := [f"{person:04d}" for person, places in folders.items() if not any(map(_has_images, places))]:
        raise ValueError(f"{_NAME}: people are listed of whom no camera has an image: {named(lost)}")


def _has_images(folder: Path) -> bool:
    return folder.is_dir() and bool(list_images(folder))


def _check_cameras(root: Path) -> None:
    """Raise ValueError for images that are in no folder of a person."""
    for camera in _CAMERAS:
        folder = root / f"cam{camera}"
        if loose := [path.name for path in list_images(folder, inner=True)]:
            raise ValueError(f"{_NAME}: {folder} must hold a folder for each person, holds images: {named(loose)}")
        others = [each for each in list_folders(folder) if not re.fullmatch(r"\d{4}", each.name, re.ASCII)]
        if strange := [each.name for each in others if has_images(each)]:
            raise ValueError(f"{_NAME}: folders of people must be named like 0001, {folder} holds {named(strange)}")


def _read(root: Path, people: Iterable[int], cameras: Iterable[int], choose: Choose | None = None) -> ImageSet:
    """The images of these people by these cameras, by person, camera and name; all, or those that `choose` takes."""
    paths: list[Path] = []
    labels: list[tuple[int, int]] = []
    cameras = tuple(cameras)
    for person in sorted(people):
        for camera in cameras:
            folder = root / f"cam{camera}" / f"{person:04d}"
            images = list_images(folder) if folder.is_dir() else []
            numbers = [int(match[1]) for match in match_names(_NAME, images, r"(\d{1,9})", "0001.jpg", folder)]
            if len(set(numbers)) < len(numbers):
                raise ValueError(f"{_NAME}: images must have numbers of their own, 1 and 0001 are one, in {folder}")
            if choose is not None:
                images = choose(person, camera, images)
            paths += images
            labels += [(person, camera)] * len(images)
    check_some(_NAME, paths, ", ".join(str(root / f"cam{camera}") for camera in cameras) + " for the people listed")
    ids, cams = np.array(labels).T
    return ImageSet(tuple(paths), ids, cams)


def _by_seed(trial: int, shots: int) -> Choose:
    # Not numpy's generator: the published numbers of the usual Python versions depend on this one.
    generator = random.Random(trial - 1)  # noqa: S311

    def choose(person: int, camera: int, images: list[Path]) -> list[Path]:  # noqa: ARG001
        if not images:
            return []
        if shots == 1:
            return [generator.choice(images)]
        return generator.sample(images, min(shots, len(images)))

    return choose


def _by_permutation(path: Path, trial: int, shots: int) -> Choose:
    """Row `trial` of a table of numbers from 1 for each camera and person."""
    tables = _cells(read_variable(path, "rand_perm_cam"))

    def choose(person: int, camera: int, images: list[Path]) -> list[Path]:
        cells = _cells(tables[camera - 1]) if camera <= len(tables) else []
        cell = cells[person - 1] if 1 <= person <= len(cells) else np.empty((0, 0))
        table = take_whole(cell, f"{path}, camera {camera}, person {person}")
        if not images and not table.size:
            return []
        if table.ndim != 2 or len(table) < trial or sorted(table[trial - 1]) != list(range(1, len(images) + 1)):
            raise ValueError(
                f"{path} has {table.shape[-1]} images of person {person} and camera {camera} in {len(table)} trials, "
                f"cam{camera}/{person:04d} holds {len(images)}; the file does not belong to these folders, or images "
                "are missing; without the file the gallery is chosen by a seed"
            )
        return [images[number - 1] for number in table[trial - 1][:shots]]

    return choose


def _cells(value: Any) -> list[Any]:
    """The cells of an array of cells of a MATLAB file; none of anything else."""
    return list(value.reshape(-1)) if isinstance(value, np.ndarray) and value.dtype == object else []
