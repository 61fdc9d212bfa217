"""The photographs that the generator is trained on: records, the pairs they allow, and what identifies them."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pose2id.errors import one_line
from pose2id.images import read_image
from pose2id.poses import Pose
from pose2id.progress import tqdm


@dataclass(frozen=True, eq=False)  # comparing arrays with == has no single truth value
class Record:
    """A photograph of a person, to train the generator on.

    Attributes
    ----------
    image : PIL image, array (H, W, 3) of uint8, or path
        `pose2id.images.read_image` reads paths.
    identity : int or str
        Who it is.
    pose : Pose or None
        Its pose; only needed for a target.
    reference, target : bool
        Whether it may stand for the person, and whether it may be what is to be drawn: the sets S_ref and S_trg of
        the paper, see `pose2id.ipg.training.cleaning`.

    Raises
    ------
    TypeError, ValueError
        For anything else, and for a target without a pose.
    """

    image: Any
    identity: int | str
    pose: Pose | None = None
    reference: bool = True
    target: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.image, np.ndarray):
            if self.image.dtype != np.uint8 or self.image.ndim != 3 or self.image.shape[2] != 3:
                raise ValueError(
                    f"image must have shape (H, W, 3) and dtype uint8, received {self.image.shape} and "
                    f"{self.image.dtype}"
                )
        elif not isinstance(self.image, (Image.Image, str, os.PathLike)):
            raise TypeError(f"image must be a PIL image, an array or a path, received {type(self.image).__name__}")
        if isinstance(self.identity, bool) or not isinstance(self.identity, (int, np.integer, str)):
            raise TypeError(f"identity must be an integer or a string, received {type(self.identity).__name__}")
        if self.pose is not None and not isinstance(self.pose, Pose):
            raise TypeError(f"pose must be a Pose or None, received {type(self.pose).__name__}")
        if self.target and self.pose is None:
            raise ValueError(f"a target needs a pose; give one for identity {self.identity!r}, or target=False")

    def read(self) -> NDArray[np.uint8]:
        """The picture as an array (H, W, 3), RGB."""
        if isinstance(self.image, np.ndarray):
            return self.image
        image = self.image if isinstance(self.image, Image.Image) else read_image(self.image)
        return np.asarray(image.convert("RGB"))


def find_people(records: Sequence[Record]) -> list[tuple[list[int], list[int]]]:
    """Rows of references and of targets, for every identity that has both; ValueError when there is none."""
    references: dict[Any, list[int]] = defaultdict(list)
    targets: dict[Any, list[int]] = defaultdict(list)
    for row, record in enumerate(records):
        if record.reference:
            references[record.identity].append(row)
        if record.target:
            targets[record.identity].append(row)
    people = [(rows, targets[who]) for who, rows in references.items() if who in targets]
    if not people:
        raise ValueError(
            f"records must hold an identity with at least one reference and one target; of {len(records)} records "
            f"{sum(record.reference for record in records)} are references and "
            f"{sum(record.target for record in records)} are targets"
        )
    return people


def check_pictures(records: Sequence[Record], *, progress: bool = False) -> None:
    """Read every picture that is a file once, so that none ends a run after days; ValueError names the bad ones."""
    bad = []
    files = [record for record in records if isinstance(record.image, (str, os.PathLike))]
    for record in tqdm(files, desc="reading", unit="picture", disable=not (progress and files)):
        try:
            record.read()
        except (ValueError, OSError) as error:
            bad.append(one_line(error, 200))
    if bad:
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise ValueError(f"pictures that cannot be read: {'; '.join(bad[:3])}{more}; repair them or leave them out")


def fingerprint(records: Sequence[Record]) -> str:
    """A hash of what identifies the records: identities, sets, poses, and pixels, or names and sizes of files."""
    digest = hashlib.sha256()
    paths = [Path(record.image) for record in records if isinstance(record.image, (str, os.PathLike))]
    home = Path(os.path.commonpath([path.absolute().parent for path in paths])) if paths else Path()
    for record in records:
        digest.update(repr((record.identity, record.reference, record.target)).encode())
        digest.update(b"" if record.pose is None else record.pose.keypoints.tobytes())
        if isinstance(record.image, (str, os.PathLike)):
            path = Path(record.image)  # below the folder that holds all, because a data set may move
            digest.update(f"{path.absolute().relative_to(home).as_posix()} {path.stat().st_size}".encode())
        else:
            digest.update(record.read().tobytes())
    return digest.hexdigest()
