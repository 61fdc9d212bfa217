"""The audit: mutual neighbours drawn at random, looked at in pairs by somebody who says whether they are one person."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pose2id.arrays import cut, take_array
from pose2id.documents import read_json
from pose2id.errors import escape
from pose2id.ipg.folders import find_pictures
from pose2id.report.contents import find_mutual
from pose2id.report.pictures import Pictures
from pose2id.study import FeatureSet, Verdict, assess
from pose2id.study.agreement import K
from pose2id.study.verdicts import judge_answers
from pose2id.validation import check_choice, check_count

ANSWERS = ("yes", "no", "unknown")
PAIRS = 60
"""Pairs that are shown where nothing else is asked for: the share is known within 0.13 then."""
MOST = 500
HEIGHT, WIDTH = 256, 192
"""Pixels of the two photographs at most; generated pictures are smaller, and of each photograph so many at most:"""
GENERATED = 8
FORM = "pose2id answers"
"""What a file of answers calls itself."""


@dataclass(frozen=True)
class Answers:
    """What somebody said, as a page saved it."""

    path: Path
    identity: dict[str, Any]
    seed: int
    count: int
    given: dict[tuple[int, int], str]
    """By rows of the gallery, the smaller first."""


@dataclass(frozen=True, eq=False)
class Audit:
    """Pairs to look at, and what is known of them.

    Attributes
    ----------
    pairs : list of (int, int)
        Rows of the gallery that are mutual neighbours (k1 = k2 = 2), in the order in which they are shown.
    answers : dict of (int, int) to {"yes", "no", "unknown"}
        What is answered already.
    total : int
        So many such pairs the gallery has.
    estimated : Verdict
        Without any answer, and without labels.
    identity : dict
        What the features are known by: rows, columns, a hash.
    seed : int
    missing : list of str
        Photographs that are not there or damaged, so that their pairs were passed over.
    shown : list of dict
        Of each pair the names, and the numbers of its pictures in `uris`.
    uris : list of str
        The pictures.
    """

    pairs: list[tuple[int, int]]
    answers: dict[tuple[int, int], str]
    total: int
    estimated: Verdict
    identity: dict[str, Any]
    seed: int
    missing: list[str]
    shown: list[dict[str, Any]]
    uris: list[str]

    @property
    def verdict(self) -> Verdict:
        """What follows from the answers."""
        said = list(self.answers.values())
        right = said.count("yes")
        return judge_answers(self.estimated, right, right + said.count("no"))

    def as_dict(self) -> dict[str, Any]:
        """All that the page needs, ready for JSON."""
        pairs = [
            {**words, "rows": list(pair), "answer": self.answers.get(pair)}
            for words, pair in zip(self.shown, self.pairs, strict=True)
        ]
        found = {
            "form": FORM,
            "set": self.identity,
            "seed": self.seed,
            "pairs": pairs,
            "verdicts": tabulate_verdicts(self.estimated, len(pairs)),
        }
        return {**found, "key": hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16], "pictures": self.uris}


def prepare_audit(
    gallery: FeatureSet,
    paths: Sequence[str] | None,
    images: str | os.PathLike[str],
    *,
    count: int | None = None,
    answers: str | os.PathLike[str] | None = None,
    generated: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    engine: str = "auto",
    progress: bool = False,
) -> Audit:
    """Draw mutual neighbours (k1 = k2 = 2) of the gallery at random, for `write_report` to show.

    Parameters
    ----------
    gallery : FeatureSet
        Features (N, D), not parts. Labels are not looked at; rows of one group are no neighbours.
    paths : (N,) sequence of str
        The photographs of the rows.
    images : path
        The folder that these are relative to.
    count : int, optional
        Pairs that are shown, from 1 to 500; fewer where there are fewer. By default as many as `answers` says, or 60.
    answers : path, optional
        A file of answers that a page saved. Its pairs come first, all of them.
    generated : path, optional
        A folder that `pose2id generate` wrote of the gallery; its pictures are shown below the photographs.
    seed : int, optional
        Decides which pairs are drawn; by default that of `answers`, or 0.
    engine, progress
        As for `pose2id.knn_graph`.

    Returns
    -------
    Audit
        Its `verdict` is what follows from the answers.

    Raises
    ------
    ValueError
        Without photographs or mutual neighbours, for parts, and for answers that are damaged or of another set.

    Examples
    --------
    >>> import tempfile
    >>> from PIL import Image
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.report import prepare_audit
    >>> from pose2id.study import FeatureSet
    >>> data = load_demo()
    >>> gallery = FeatureSet(*(x[data.gallery] for x in (data.features, data.ids, data.cams)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (64, 128)).save(f"{folder}/a.png")
    ...     audit = prepare_audit(gallery, ["a.png"] * len(gallery.ids), folder, count=3)
    >>> len(audit.pairs), audit.verdict.pairs
    (3, 0)
    """
    read = None if answers is None else read_answers(answers)
    count = (read.count if read else PAIRS) if count is None else check_count(count, "count", 1, MOST)
    seed = (read.seed if read else 0) if seed is None else check_count(seed, "seed", 0)
    if gallery.has_parts:
        raise ValueError("an audit needs features (N, D), received parts; pass features of whole pictures")
    if paths is None:
        raise ValueError("an audit needs the photographs' paths, received none")
    identity = identify_set(gallery)
    if read:
        check_set(read, identity)
    mutual = find_mutual(gallery.features, K, K, exclude=gallery.groups, engine=engine, progress=progress)
    one, at = np.nonzero(mutual >= 0)
    pairs = np.stack([one, mutual[one, at]], axis=1)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    given = read.given if read else {}
    if read:
        there = set(map(tuple, pairs.tolist()))
        for pair in given:
            if pair not in there:
                raise ValueError(
                    f"{read.path} holds rows {pair[0]} and {pair[1]}, which are no mutual neighbours of the gallery; "
                    "it was changed, or made with other 'groups'"
                )
    pictures = Pictures(images, (WIDTH, HEIGHT))
    chosen = list(given)
    for row in np.random.default_rng(seed).permutation(len(pairs)):
        if len(chosen) >= count:
            break
        pair = (int(pairs[row, 0]), int(pairs[row, 1]))
        if pair not in given and all(pictures.number(str(paths[end])) is not None for end in pair):
            chosen.append(pair)
    if not chosen:
        raise ValueError(
            f"an audit needs photographs, {pictures.missing[0]} and others are not below {pictures.where}; images must "
            "be the folder that 'paths' are relative to"
            if pictures.missing
            else f"an audit needs photographs, {pictures.damaged[0]} and others below {pictures.where} cannot be read"
            if pictures.damaged
            else f"an audit needs mutual neighbours, the gallery of {len(mutual):,} rows has none"
        )
    shown, uris = _describe(chosen, gallery, paths, pictures, generated)
    estimated = assess(gallery.features, gallery.cams, engine=engine)
    return Audit(chosen, given, len(pairs), estimated, identity, seed, pictures.missing + pictures.damaged, shown, uris)


def identify_set(gallery: FeatureSet) -> dict[str, Any]:
    """What tells features from others: their shape, and a hash of their values."""
    rows, _ = take_array(gallery.features, "features")
    found = hashlib.sha256(str(rows.dtype).encode())
    for part in cut(len(rows), 4096):
        found.update(rows[part].cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return {"rows": len(rows), "columns": rows.shape[1], "sha256": found.hexdigest(), "k1": K, "k2": K}


def read_answers(path: str | os.PathLike[str]) -> Answers:
    """What a page saved; ValueError, naming the file, for anything else."""
    found = read_json(path)
    wrong = f"{path} must be answers that a page of `pose2id report --audit` saved"
    if not isinstance(found, dict) or found.get("form") != FORM:
        raise ValueError(f"{wrong}, with {FORM!r} as its 'form'")
    try:
        given: dict[tuple[int, int], str] = {}
        for each in found["answers"]:
            one, other = sorted(check_count(row, "'rows'", 0) for row in each["rows"])
            if (one, other) in given:
                raise ValueError(f"rows {one} and {other} are there twice")
            given[one, other] = check_choice(each["answer"], "'answer'", ANSWERS)
        counts = {name: check_count(found["set"][name], f"{name!r}", 0) for name in ("rows", "columns", "k1", "k2")}
        identity = {**counts, "sha256": str(found["set"]["sha256"])}
        seed, count = check_count(found["seed"], "'seed'", 0), check_count(found["count"], "'count'", 1, MOST)
        if len(given) > count:
            raise ValueError(f"{len(given)} answers to {count} pairs")
    except KeyError as error:
        raise ValueError(f"{wrong}; {error} is missing") from error
    except (TypeError, ValueError) as error:
        raise ValueError(f"{wrong}: {error}") from error
    return Answers(Path(path), identity, seed, count, given)


def check_set(read: Answers, identity: dict[str, Any]) -> None:
    """Raise ValueError where answers are of another set than the gallery."""
    own = read.identity
    if (own["k1"], own["k2"]) != (K, K):
        raise ValueError(f"{read.path} is of k1 = {own['k1']}, k2 = {own['k2']}, pairs are drawn with k1 = k2 = {K}")
    shapes = [f"{each['rows']:,} x {each['columns']:,}" for each in (own, identity)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{read.path} is of another set: of features {shapes[0]}, the gallery's are {shapes[1]}")
    if own["sha256"] != identity["sha256"]:
        raise ValueError(
            f"{read.path} is of another set: its features have the gallery's rows and columns, and other values"
        )


def tabulate_verdicts(estimated: Verdict, most: int) -> dict[str, list[list[tuple[int, str]]]]:
    """Of each setting and number of answers, which verdict holds from how many "yes" on: the page has no own rule."""
    found: dict[str, list[list[tuple[int, str]]]] = {name: [] for name in estimated.verdicts}
    for count in range(most + 1):
        every = [judge_answers(estimated, right, count).verdicts for right in range(count + 1)]
        for name, table in found.items():
            runs = groupby(range(count + 1), key=lambda right: every[right][name])
            table.append([(next(run), word) for word, run in runs])
    return found


def _describe(
    pairs: Sequence[tuple[int, int]],
    gallery: FeatureSet,
    paths: Sequence[str],
    pictures: Pictures,
    generated: str | os.PathLike[str] | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Names and pictures of each pair; pictures by their numbers in the list that comes second."""
    keys = list(dict.fromkeys(str(paths[row]) for pair in pairs for row in pair))
    numbers = {key: pictures.number(key) for key in keys}
    below: dict[str, list[int]] = {key: [] for key in keys}
    small = Pictures(generated)
    if generated is not None:
        for key, found in find_pictures(generated, keys).items():
            some = [small.number(os.fspath(path.relative_to(generated))) for path in found[:GENERATED]]
            below[key] = [len(pictures.uris) + number for number in some if number is not None]
        if not any(below.values()):
            raise ValueError(
                f"{os.fspath(generated)} holds no picture generated of the gallery's photographs, such as {keys[0]}; "
                "name the folder that `pose2id generate` wrote of them"
            )
    shown = []
    for pair in pairs:
        names = [str(paths[row]) for row in pair]
        cams = [] if gallery.cams is None else [[str(np.asarray(gallery.cams)[row]) for row in pair]]
        shown.append(
            {
                "paths": names,
                "names": [escape(", camera ".join(words)) for words in zip(names, *cams, strict=True)],
                "pictures": [numbers[name] for name in names],
                "generated": [below[name] for name in names],
            }
        )
    return shown, pictures.uris + small.uris
