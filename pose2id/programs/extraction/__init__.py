"""From photographs to a feature file: encode them, and the pictures that were generated of them.

- `photographs`: the rows: from a folder or a data set, single pictures or tracklets, with their labels
- `encoders`: encoders by name: an ONNX file, a folder of a trained one, a function of yours, those in the generator's
  weights
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from pose2id.atomic import lock
from pose2id.files import check_output, write_arrays
from pose2id.images import read_image
from pose2id.ipg.features import encode_pictures
from pose2id.ipg.folders.sources import reason_of
from pose2id.poses import Pose
from pose2id.programs.extraction.encoders import POSE, Encoder, load_encoder
from pose2id.programs.extraction.photographs import Photographs, from_files, from_set
from pose2id.programs.unfinished import Block, Unfinished, stamp
from pose2id.progress import tqdm
from pose2id.validation import check_count, check_flag, is_tensor

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Encoder", "Photographs", "Report", "extract", "from_files", "from_set", "load_encoder"]

ROWS, VIEWED_ROWS, DRAWN_ROWS = 512, 64, 16
"""Rows of a block, which is what a killed run loses at most; fewer where each has many pictures, or these are drawn."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What a run did."""

    path: Path
    shape: tuple[int, int]  # of the features
    generated: int  # pictures of each row, or 0
    skipped: dict[str, str]  # photographs that are not in the file, and why


def extract(
    photographs: Photographs,
    output: str | os.PathLike[str],
    encoder: Encoder,
    *,
    draw: Callable[[list[Image.Image], list[str]], Any] | None = None,
    generated: Mapping[str, Sequence[Path]] | None = None,
    settings: Mapping[str, Any] | None = None,
    flip: bool = False,
    batch_size: int = 64,
    overwrite: bool = False,
    on_skip: Callable[[str, str], object] | None = None,
    progress: bool = False,
) -> Report:
    """Encode photographs into a feature file, and go on where a killed run of the same call ended.

    Parameters
    ----------
    photographs : Photographs
        The rows, see `from_files` and `from_set`. Where a row has several pictures, its feature is their mean.
    output : path
        A file ``.npz`` with `features`, `paths` (the keys), `generated` if there are any, and the labels. Beside it
        stands a folder of the same name and ``.unfinished`` until it is written.
    encoder : Encoder
        See `load_encoder`.
    draw : callable, optional
        Gives generated features (n, M, D) for n people and their keys, such as `generate_features` with a pipeline.
        Of a row with several pictures the first is given.
    generated : mapping of str to sequence of path, optional
        The generated pictures of each key, to be encoded. A key without any is skipped, and one that has more or fewer
        than most.
    settings : mapping, optional
        What else the result depends on, such as the generator's weights, as JSON; a run with others does not go on.
    flip : bool
        Add the features of the mirrored pictures.
    batch_size : int
        Pictures encoded at once.
    overwrite : bool
        Replace the output, and begin anew where it was begun with other settings.
    on_skip : callable, optional
        Called as ``f(key, reason)`` for each photograph that is skipped.
    progress : bool
        A bar on stderr, with the time that is left.

    Returns
    -------
    Report
        The file, its shape, and what was skipped.

    Raises
    ------
    ValueError, TypeError
        For an output that is in the way or no ``.npz``, an encoder that gives something else, no readable photograph.
    OSError
        When a file cannot be written.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from pose2id.programs.extraction import Encoder, extract, from_files
    >>> def mean_colour(pictures):
    ...     return np.stack([np.asarray(picture, np.float32).mean(axis=(0, 1)) for picture in pictures])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = {f"{name}.png": pathlib.Path(folder, f"{name}.png") for name in ("red", "blue")}
    ...     for name, path in files.items():
    ...         Image.new("RGB", (32, 64), name[:-4]).save(path)
    ...     report = extract(from_files(files), f"{folder}/query.npz", Encoder(mean_colour, {"name": "mean colour"}))
    ...     np.load(report.path)["features"].tolist()
    [[0.0, 0.0, 255.0], [255.0, 0.0, 0.0]]
    """
    batch_size = check_count(batch_size, "batch_size", 1)
    flip = check_flag(flip, "flip")
    if flip and encoder.columns is not None:
        raise ValueError("flip adds features, and parts of a mirrored picture are others; leave out flip or the parts")
    if encoder.poses is not None:
        if flip or draw is not None or generated is not None or any(len(files) > 1 for files in photographs.files):
            raise ValueError(
                "an encoder that needs keypoints takes photographs one by one, not mirrored, generated or tracklets"
            )
        if not any(key in encoder.poses for key in photographs.keys):
            raise ValueError(
                f"the keypoints are of none of {len(photographs):,} photographs: these are called "
                f"{photographs.keys[0]!r} and so on, the keypoints {list(encoder.poses)[:3]}"
            )
    if draw is not None and generated is not None:
        raise ValueError("draw and generated are two ways to the same features, received both; give one")
    if not len(photographs):
        raise ValueError("photographs must hold at least one, received none")
    path = check_output(output, overwrite=overwrite)
    if path.suffix != ".npz":
        raise ValueError(f"output {path} must be an .npz file, which holds the paths too, received {path.suffix!r}")
    total = hashlib.sha256(json.dumps(photographs.keys).encode())  # of any names, not only those that are text
    views = 0 if generated is None else _count_views(generated)
    request = {
        "pose2id": "extract",
        "encoder": encoder.identity,
        "flip": flip,
        "batch_size": batch_size,
        "generated": f"{views} pictures" if views else None,
        **(settings or {}),
        "rows": len(photographs),
        "keys": total.hexdigest(),
    }
    work = _Work(photographs, encoder.call, encoder.poses, draw, generated, views, flip, batch_size, on_skip)
    unfinished = Unfinished(path, request)
    with ExitStack() as stack:
        stack.enter_context(lock(path.with_name(f"{path.name}.lock"), keep=False))
        unfinished.begin(restart=overwrite)
        size = DRAWN_ROWS if draw is not None else ROWS if generated is None else VIEWED_ROWS
        ends = [*range(0, len(photographs), size), len(photographs)]
        bar = stack.enter_context(tqdm(total=len(photographs), desc="encoding", unit="row", disable=not progress))
        blocks = []
        for number, (first, last) in enumerate(pairwise(ends)):
            stamps = work.stamps(first, last)
            block = unfinished.read(number, stamps)
            if block is None:
                block = work.encode(first, last)
                unfinished.write(number, block, stamps)
            else:
                work.tell(block.skipped)
            blocks.append(_Done(number, stamps, len(block.rows), _describe(block), block.skipped))
            bar.update(last - first)
        report = _join(photographs, unfinished, blocks, path, encoder.columns, overwrite=overwrite)
        unfinished.end()
    return report


@dataclass
class _Work:
    """The arguments of `extract` that a block is encoded by."""

    photographs: Photographs
    encoder: Callable[[list[Image.Image]], Any]
    poses: Mapping[str, Pose] | None
    draw: Callable[[list[Image.Image], list[str]], Any] | None
    generated: Mapping[str, Sequence[Path]] | None
    views: int  # generated pictures of each row
    flip: bool
    batch_size: int
    on_skip: Callable[[str, str], object] | None
    like: Any = None  # features that the encoder gave before

    def stamps(self, first: int, last: int) -> list[Any]:
        """Which files the rows of a block are, so that a changed one is noticed."""
        stamps = [stamp(self.photographs.files[row]) for row in range(first, last)]
        if self.generated is not None:
            stamps += [stamp(self.generated.get(key, ())) for key in self.photographs.keys[first:last]]
        return stamps

    def tell(self, skipped: Mapping[str, str]) -> None:
        """Say what was skipped."""
        for key, reason in skipped.items():
            if self.on_skip is not None:
                self.on_skip(key, reason)

    def encode(self, first: int, last: int) -> Block:
        """The rows of a block; pictures are read, and lie in memory, a batch at a time."""
        skipped: dict[str, str] = {}
        sums: dict[int, Any] = {}
        counts: Counter[int] = Counter()
        views: dict[int, list[Any]] = {}
        heads: dict[int, Image.Image] = {}

        def add(row: int, feature: Any) -> None:
            sums[row] = feature if row not in sums else sums[row].astype(np.float64) + feature
            counts[row] += 1

        def add_view(row: int, feature: Any) -> None:
            views.setdefault(row, []).append(feature)

        photographs = _Queue(self._features, self.batch_size, add, self.photographs.keys)
        generated = _Queue(self._features, self.batch_size, add_view, self.photographs.keys)
        left_out = set()
        for row in range(first, last):
            key, files = self.photographs.keys[row], self.photographs.files[row]
            if reason := self._tell_fault(key):
                skipped[key] = reason
                continue
            readable = False
            for file in files:
                try:
                    picture = read_image(file)
                except (ValueError, OSError) as error:
                    skipped[key if len(files) == 1 else f"{key}: {file.name}"] = reason_of(error)
                    continue
                readable = True
                if self.poses is not None:
                    picture.info[POSE] = self.poses.get(key)
                if self.draw is not None:
                    heads.setdefault(row, picture)
                photographs.add(row, picture)
            try:
                for file in self.generated[key] if readable and self.generated is not None else ():
                    generated.add(row, read_image(file))
            except (ValueError, OSError) as error:
                skipped[key] = reason_of(error)
                left_out.add(row)
        photographs.flush()
        generated.flush()
        kept = sorted(sums.keys() - left_out)
        self.tell(skipped)
        if not kept:
            return Block(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), None, skipped)
        features = np.stack([sums[row] if counts[row] == 1 else sums[row] / counts[row] for row in kept])
        drawn = None
        if self.draw is not None:
            drawn = _as_numpy(self.draw([heads[row] for row in kept], [self.photographs.keys[row] for row in kept]))
        elif self.generated is not None:
            drawn = np.stack([np.stack(views[row]) for row in kept])
        return Block(np.array(kept, np.int64), features.astype(_as_numpy(self.like).dtype), drawn, skipped)

    def _features(self, pictures: list[Image.Image]) -> Any:
        features = encode_pictures(self.encoder, pictures, flip=self.flip, like=self.like)
        self.like = features[:1]
        return _as_numpy(features)

    def _tell_fault(self, key: str) -> str:
        """Why a photograph cannot have generated features; nothing where it can."""
        if self.generated is None or (found := len(self.generated.get(key, ()))) == self.views:
            return ""
        return f"there are {found or 'no'} generated pictures of it" + (f", {self.views} of others" if found else "")


@dataclass
class _Queue:
    """Pictures of rows that wait until they are a batch; each feature is given on with its row."""

    encode: Callable[[list[Image.Image]], Any]
    size: int
    give: Callable[[int, Any], None]
    keys: Sequence[str]  # of all rows, to name those that fail
    waiting: list[tuple[int, Image.Image]] = field(default_factory=list)

    def add(self, row: int, picture: Image.Image) -> None:
        self.waiting.append((row, picture))
        if len(self.waiting) == self.size:
            self.flush()

    def flush(self) -> None:
        if not self.waiting:
            return
        try:
            features = self.encode([picture for _, picture in self.waiting])
        except ValueError as error:
            first, last = (self.keys[self.waiting[at][0]] for at in (0, -1))
            raise ValueError(f"{error}; from {first} to {last}") from error
        for (row, _), feature in zip(self.waiting, features, strict=True):
            self.give(row, feature)
        self.waiting.clear()


def _count_views(generated: Mapping[str, Sequence[Path]]) -> int:
    """How many generated pictures most photographs have that have any; of two such numbers the larger."""
    counts = Counter(len(files) for files in generated.values() if len(files))
    if not counts:
        raise ValueError(f"there is no generated picture of any of {len(generated):,} photographs; name their folder")
    return max(counts, key=lambda count: (counts[count], count))


def _as_numpy(features: Any) -> Any:
    if not is_tensor(features):
        return features
    return (features.float() if features.dtype == torch.bfloat16 else features).cpu().numpy()


class _Done(NamedTuple):
    """What is known of a block that lies in the unfinished folder."""

    number: int
    stamps: list[Any]
    rows: int
    kind: str
    skipped: dict[str, str]


def _describe(block: Block) -> str:
    """What is equal in all blocks of a file."""
    words = f"{block.features.dtype} features, D = {block.features.shape[1]}"
    if block.generated is None:
        return words
    return f"{words}, and {block.generated.dtype} generated ones (N, {', '.join(map(str, block.generated.shape[1:]))})"


def _join(
    photographs: Photographs,
    unfinished: Unfinished,
    blocks: Sequence[_Done],
    path: Path,
    columns: Mapping[str, tuple[int, ...]] | None,
    *,
    overwrite: bool,
) -> Report:
    """Write the file from its blocks; they lie in memory one at a time, and the arrays in the unfinished folder."""
    skipped: dict[str, str] = {}
    for done in blocks:
        skipped |= done.skipped
    full = [done for done in blocks if done.rows]
    if not full:
        unfinished.end()
        raise ValueError(
            f"none of {len(photographs):,} photographs could be encoded; the first: {next(iter(skipped.items()))}"
        )
    if len(kinds := sorted({done.kind for done in full})) > 1:
        raise ValueError(
            f"the encoder must give one kind of features, received {' and '.join(kinds)}; remove {unfinished.folder} "
            "to begin anew"
        )
    total = sum(done.rows for done in full)
    rows = np.concatenate([unfinished.reread(done.number, done.stamps).rows for done in full])

    def parts(name: str) -> Iterator[Any]:
        return (getattr(unfinished.reread(done.number, done.stamps), name) for done in full)

    first = unfinished.reread(full[0].number, full[0].stamps)
    names = ("features",) if first.generated is None else ("features", "generated")
    arrays = {name: unfinished.join(name, parts(name), total) for name in names}
    if columns is not None:
        arrays = {named: each for name in names for named, each in _split(arrays[name], name, columns).items()}
    written = {"features": arrays["features"]}
    written |= {name: np.asarray(labels)[rows] for name, labels in photographs.labels.items()}
    written["paths"] = np.array([photographs.keys[row] for row in rows])
    written |= arrays
    write_arrays(path, written, overwrite=overwrite)
    shape = arrays["features"].shape
    return Report(path, (shape[0], shape[1]), arrays["generated"].shape[1] if "generated" in arrays else 0, skipped)


def _split(rows: Any, name: str, columns: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The arrays that stand in each row one after the other, by their names in a file."""
    made, first = {}, 0
    for each, shape in columns.items():
        last = first + math.prod(shape)
        array = rows[..., first:last].reshape(*rows.shape[:-1], *shape)
        if each == "visibility" and bool(np.isin(array, (0, 1)).all()):
            array = array.astype(np.bool_)
        made[name if each == "features" else each if name == "features" else f"{name}_{each}"] = array
        first = last
    return made
