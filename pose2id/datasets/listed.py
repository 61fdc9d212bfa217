"""Data sets whose list files say what belongs to which part: MSMT17, RegDB, MARS."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pose2id.datasets.folders import (
    check_there,
    find_layout,
    find_root,
    match_names,
    named,
    take,
)
from pose2id.datasets.lists import read_labelled, read_names, read_vector, take_whole
from pose2id.datasets.matlab import read_variable
from pose2id.datasets.named import MARKET, MARKET_NAME, read_parts
from pose2id.datasets.records import DataSet, Frames, ImageSet
from pose2id.validation import check_choice, check_count, check_flag

TRIALS = 10
"""How many trials RegDB and SYSU-MM01 have; they are numbered from 1."""
_MSMT_TRAIN = ("train", "mask_train_v2", "mask_train_V2")
_MSMT_TEST = ("test", "mask_test_v2", "mask_test_V2")
_MSMT_NAME = r"\d+_\d+_(\d{1,9})_[^.]*", "0000_000_01_0303morning_0008_0.jpg"
_REGDB_DIRECTIONS = ("visible-thermal", "thermal-visible")
_MARS_INFO = (
    ("info", "MARS-evaluation/info", "MARS-evaluation-master/info"),
    ("train_name.txt", "test_name.txt", "tracks_train_info.mat", "tracks_test_info.mat", "query_IDX.mat"),
)
_MARS_NAME = r"(\d{4}|00-1)C(\d)T\d+F\d+", "0001C1T0001F001.jpg"


def read_msmt17(root: str | os.PathLike[str], *, validation: bool = True) -> DataSet:
    """MSMT17: 4,101 people, 15 cameras; 32,621 training images of 1,041, 11,659 queries and 82,161 gallery images.

    Read are `list_train.txt`, `list_val.txt`, `list_query.txt` and `list_gallery.txt`, with lines such as
    `0000/0000_000_01_0303morning_0008_0.jpg 0`: camera 1, identity 0. The images are in `train` and `test` (V1), or
    in `mask_train_v2` and `mask_test_v2` (V2, faces blurred). Training and test identities both start at 0 and are
    different people.

    The set is also passed on in the layout of Market-1501: `bounding_box_train`, `query` and `bounding_box_test`, with
    names such as `0000_c1_0002.jpg`. Where the lists are not there that is read, with training and validation in one.

    Parameters
    ----------
    root : path
        The folder with the lists, or the one around it, V1 before V2; for errors and an example see `read_dataset`.
    validation : bool, default True
        Take the images of `list_val.txt` for training too: they are of the same 1,041 people. False needs the lists.

    Returns
    -------
    DataSet
        Protocol "market1501".

    References
    ----------
    Wei et al., *Person Transfer GAN to Bridge Domain Gap for Person Re-Identification*, CVPR 2018.
    """
    check_flag(validation, "validation")
    name, lists = "MSMT17", ["list_train.txt", "list_query.txt", "list_gallery.txt"]
    needed: list[str | tuple[str, ...]] = [_MSMT_TRAIN, _MSMT_TEST, *lists]
    needed += ["list_val.txt"] if validation else []
    layouts = (needed, MARKET) if validation else (needed,)
    folder, as_market = find_layout(name, root, layouts, ("MSMT17_V1", "MSMT17_V2", "MSMT17"))
    if as_market:
        return read_parts(name, folder, MARKET, MARKET_NAME, notes=("In the layout of Market-1501.",))
    train, test = take(folder, _MSMT_TRAIN), take(folder, _MSMT_TEST)
    trained = [folder / file for file in ("list_train.txt", "list_val.txt")[: 1 + validation]]
    return DataSet(
        name,
        folder,
        _read_msmt17_lists(name, train, trained),
        _read_msmt17_lists(name, test, [folder / "list_query.txt"]),
        _read_msmt17_lists(name, test, [folder / "list_gallery.txt"]),
        "market1501",
        ("V1: faces are visible." if train.name == "train" else "V2: faces are blurred.",),
    )


def _read_msmt17_lists(name: str, folder: Path, sources: list[Path]) -> ImageSet:
    paths: list[Path] = []
    ids: list[int] = []
    for source in sources:
        found, labels = _read_images(name, folder, source)
        paths += found
        ids += labels
    cams = [int(match[1]) for match in match_names(name, paths, *_MSMT_NAME, folder)]
    return ImageSet(tuple(paths), np.array(ids), np.array(cams))


def _read_images(name: str, folder: Path, source: Path) -> tuple[list[Path], list[int]]:
    """The images of `folder` that the list `source` names, and their labels."""
    names, labels = read_labelled(source)
    check_there(name, folder, names, source)
    return [folder / each for each in names], labels


def read_regdb(root: str | os.PathLike[str], *, trial: int = 1, direction: str = "visible-thermal") -> DataSet:
    """RegDB: 412 people with 10 visible and 10 thermal images each; in every trial 206 train, the other 206 test.

    Read are `idx/train_visible_1.txt`, `idx/train_thermal_1.txt`, `idx/test_visible_1.txt` and
    `idx/test_thermal_1.txt` of trial 1, and so on, with lines of a path from the root and a label. Scores are the
    mean over the 10 trials. Training and test labels both start at 0 and are different people.

    Parameters
    ----------
    root : path
        The folder with `Visible`, `Thermal` and `idx`, or the one around it; for errors and an example see
        `read_dataset`.
    trial : int, default 1
        From 1 to 10.
    direction : {"visible-thermal", "thermal-visible"}
        Queries and gallery: visible queries in a thermal gallery, or the other way round.

    Returns
    -------
    DataSet
        Protocol "all". Cameras are 1 for visible and 2 for thermal images, so "market1501" gives the same scores.

    References
    ----------
    Nguyen et al., *Person Recognition System Based on a Combination of Body Images from Visible Light and Thermal
    Cameras*, Sensors 17(3), 2017. The splits: Ye et al., *Hierarchical Discriminative Learning for Visible Thermal
    Person Re-Identification*, AAAI 2018.
    """
    trial = check_count(trial, "trial", 1, TRIALS)
    check_choice(direction, "direction", _REGDB_DIRECTIONS)
    name = "RegDB"
    lists = [f"idx/{part}_{kind}_{trial}.txt" for part in ("train", "test") for kind in ("visible", "thermal")]
    folder = find_root(name, root, ["Visible", "Thermal", *lists], ("RegDB",))
    sides = []
    for place, source in enumerate(lists):
        paths, labels = _read_images(name, folder, folder / source)
        kind = ("Visible", "Thermal")[place % 2]
        if wrong := [path.name for path in paths if path.relative_to(folder).parts[0] != kind]:
            raise ValueError(f"{folder / source} must name images in {kind}, names {named(wrong)}")
        sides.append(ImageSet(tuple(paths), np.array(labels), np.full(len(paths), 1 + place % 2)))
    visible, thermal = sides[:2]
    train = ImageSet(
        visible.paths + thermal.paths,
        np.concatenate([visible.ids, thermal.ids]),
        np.concatenate([visible.cams, thermal.cams]),
    )
    query, gallery = sides[2:] if direction == _REGDB_DIRECTIONS[0] else sides[:1:-1]
    notes = f"Trial {trial} of {TRIALS}, {direction.replace('-', ' queries, ')} gallery."
    return DataSet(name, folder, train, query, gallery, "all", (notes,))


def read_mars(root: str | os.PathLike[str], *, junk: bool = True, query_in_gallery: bool = True) -> DataSet:
    """MARS: 1,261 people on tracklets by 6 cameras; 8,298 tracklets to train, 1,980 queries, 12,180 in the gallery.

    Read are `info/train_name.txt` and `info/test_name.txt` (the frames), `info/tracks_train_info.mat` and
    `info/tracks_test_info.mat` (a row for each tracklet: first frame, last frame, identity, camera) and
    `info/query_IDX.mat`; the frames are `bbox_train/0001/0001C1T0001F001.jpg` and so on. A row of the result is a
    tracklet, and `ImageSet.frames` has its frames; one feature of it is usually their mean. Identity -1 is junk, 0
    distractors.

    Parameters
    ----------
    root : path
        The folder with `bbox_train`, `bbox_test` and `info`, or the one around it; `info` may also be in
        `MARS-evaluation`, as cloned. For errors and an example see `read_dataset`.
    junk : bool, default True
        Keep the 870 junk tracklets in the gallery; see `read_market1501`.
    query_in_gallery : bool, default True
        The queries are in the gallery too, as in the authors' evaluation: they are right answers for queries of
        other cameras, and 140 queries have no other right answer. False leaves them out, as some toolkits do,
        which changes the scores.

    Returns
    -------
    DataSet
        Protocol "market1501".

    References
    ----------
    Zheng et al., *MARS: A Video Benchmark for Large-Scale Person Re-identification*, ECCV 2016, and its evaluation
    code, github.com/liangzheng06/MARS-evaluation.
    """
    check_flag(junk, "junk")
    check_flag(query_in_gallery, "query_in_gallery")
    name, (places, files) = "MARS", _MARS_INFO
    folder = find_root(name, root, ["bbox_train", "bbox_test", places], ("MARS", "mars"))
    info = find_root(name, take(folder, places), files)
    train = _read_tracklets(name, folder / "bbox_train", info / files[0], info / files[2], "track_train_info")
    test = _read_tracklets(name, folder / "bbox_test", info / files[1], info / files[3], "track_test_info")
    chosen = read_vector(info / files[4], "query_IDX") - 1
    wrong = (chosen < 0) | (chosen >= len(test))
    if wrong.any():
        found = chosen[wrong][0] + 1
        raise ValueError(f"{info / files[4]} must number tracklets from 1 to {len(test)}, found {found}")
    numbers, counts = np.unique(chosen + 1, return_counts=True)
    if (counts > 1).any():
        twice = named(list(map(str, numbers[counts > 1])))
        raise ValueError(f"{info / files[4]} must name every tracklet once, names again: {twice}")
    stays = np.ones(len(test), bool) if junk else test.ids != -1
    stays[chosen] &= query_in_gallery
    notes = ["" if query_in_gallery else "The queries are left out of the gallery."]
    notes += ["" if junk else "Junk (identity -1) is left out."]
    query, gallery = _rows(test, chosen), _rows(test, np.flatnonzero(stays))
    return DataSet(name, folder, train, query, gallery, "market1501", tuple(filter(None, notes)))


def _read_tracklets(name: str, folder: Path, names: Path, table: Path, variable: str) -> ImageSet:
    """The tracklets of `table`, rows of (first, last, identity, camera), counted from 1 in the list `names`."""
    frames = read_names(names)
    matches = match_names(name, frames, *_MARS_NAME, names)
    frames = [f"{frame[:4]}/{frame}" for frame in frames]
    check_there(name, folder, frames, names)
    rows = take_whole(read_variable(table, variable), f"{table}: {variable!r}")
    if rows.ndim != 2 or rows.shape[1] != 4 or not len(rows):
        raise ValueError(f"{table} must hold rows of first frame, last frame, identity, camera; has shape {rows.shape}")
    first, last = rows[:, 0] - 1, rows[:, 1]
    wrong = np.flatnonzero((first < 0) | (last <= first) | (last > len(frames)))
    if len(wrong):
        raise ValueError(
            f"{table}, tracklet {wrong[0] + 1}: frames {first[wrong[0]] + 1} to {last[wrong[0]]} are not among the "
            f"{len(frames)} of {names.name}"
        )
    # The folder of junk is called 00-1.
    told = np.array([(int(match[1].removeprefix("00")), int(match[2])) for match in matches])
    changes = np.concatenate([[0], (told[1:] != told[:-1]).any(axis=1).cumsum()])  # so many up to each frame
    wrong = np.flatnonzero((told[first] != rows[:, 2:]).any(axis=1) | (changes[first] != changes[last - 1]))
    if len(wrong):
        raise ValueError(
            f"{table}, tracklet {wrong[0] + 1}: identity {rows[wrong[0], 2]} and camera {rows[wrong[0], 3]} are not "
            f"those of its frames, {frames[first[wrong[0]]]} to {frames[last[wrong[0]] - 1]}; the table and "
            f"{names.name} must be of one release"
        )
    order = np.argsort(first, kind="stable")
    wrong = np.flatnonzero(first[order[1:]] < last[order[:-1]])
    if len(wrong):
        one, other = np.sort(order[wrong[0] : wrong[0] + 2]) + 1
        raise ValueError(f"{table}: a frame must be of one tracklet, {one} and {other} have frames in common")
    tracks = Frames(folder, frames, np.stack([first, last], axis=1))
    return ImageSet(tuple(folder / frames[begin] for begin in first), rows[:, 2], rows[:, 3], tracks)


def _rows(tracklets: ImageSet, rows: NDArray[np.int64]) -> ImageSet:
    frames = tracklets.frames
    return ImageSet(
        tuple(tracklets.paths[row] for row in rows),
        tracklets.ids[rows],
        tracklets.cams[rows],
        frames.take(rows) if isinstance(frames, Frames) else None,
    )
