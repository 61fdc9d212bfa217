"""From photographs to a feature file: encode them, and the pictures that were generated of them.

- `photographs`: the rows: from a folder or a data set, single pictures or tracklets, with their labels
- `encoders`: encoders by name: an ONNX file, a function of yours, those in the generator's weights
- `unfinished`: what a killed run has done already
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from pose2id.atomic import lock
from pose2id.files import check_output, write_arrays
from pose2id.images import read_image
from pose2id.ipg.features import encode_pictures
from pose2id.ipg.folders.sources import reason_of
from pose2id.programs.extraction.encoders import Encoder, load_encoder
from pose2id.programs.extraction.photographs import Photographs, from_files, from_set
from pose2id.programs.extraction.unfinished import Block, Unfinished, stamp
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
        The generated pictures of each key, equally many, to be encoded; a key without any is skipped.
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
    if draw is not None and generated is not None:
        raise ValueError("draw and generated are two ways to the same features, received both; give one")
    if not len(photographs):
        raise ValueError("photographs must hold at least one, received none")
    path = check_output(output, overwrite=overwrite)
    if path.suffix != ".npz":
        raise ValueError(f"output {path} must be an .npz file, which holds the paths too, received {path.suffix!r}")
    total = hashlib.sha256("\n".join(photographs.keys).encode())
    request = {
        "pose2id": "extract",
        "encoder": encoder.identity,
        "flip": flip,
        "batch_size": batch_size,
        "generated": None if generated is None else "pictures",
        **(settings or {}),
        "rows": len(photographs),
        "keys": total.hexdigest(),
    }
    work = _Work(photographs, encoder.call, draw, generated, flip, batch_size, on_skip)
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
            blocks.append((number, stamps, len(block.rows), block.features.shape[1:], block.skipped))
            bar.update(last - first)
        report = _join(photographs, unfinished, blocks, path, overwrite=overwrite)
        unfinished.end()
    return report


@dataclass
class _Work:
    """The arguments of `extract` that a block is encoded by."""

    photographs: Photographs
    encoder: Callable[[list[Image.Image]], Any]
    draw: Callable[[list[Image.Image], list[str]], Any] | None
    generated: Mapping[str, Sequence[Path]] | None
    flip: bool
    batch_size: int
    on_skip: Callable[[str, str], object] | None

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
        """The rows of a block; pictures are read a batch at a time."""
        skipped: dict[str, str] = {}
        sums: dict[int, Any] = {}
        counts: dict[int, int] = {}
        heads: dict[int, Image.Image] = {}
        waiting: list[tuple[int, Image.Image]] = []

        def encode_waiting() -> None:
            rows = self._features([picture for _, picture in waiting])
            for (row, _), feature in zip(waiting, rows, strict=True):
                sums[row] = feature if row not in sums else sums[row].astype(np.float64) + feature
                counts[row] = counts.get(row, 0) + 1
            self._dtype = rows.dtype
            waiting.clear()

        views: dict[int, list[Image.Image]] = {}
        for row in range(first, last):
            key, files = self.photographs.keys[row], self.photographs.files[row]
            if self.generated is not None and (found := self._read_views(key, skipped)) is not None:
                views[row] = found
            if self.generated is not None and row not in views:
                continue
            for file in files:
                try:
                    picture = read_image(file)
                except (ValueError, OSError) as error:
                    skipped[key if len(files) == 1 else f"{key}: {file.name}"] = reason_of(error)
                    continue
                if self.draw is not None:
                    heads.setdefault(row, picture)
                waiting.append((row, picture))
                if len(waiting) == self.batch_size:
                    encode_waiting()
        if waiting:
            encode_waiting()
        kept = sorted(sums)
        self.tell(skipped)
        if not kept:
            return Block(np.zeros(0, np.int64), np.zeros((0, 0), np.float32), None, skipped)
        features = np.stack([sums[row] if counts[row] == 1 else sums[row] / counts[row] for row in kept])
        drawn = None
        if self.draw is not None:
            drawn = _as_numpy(self.draw([heads[row] for row in kept], [self.photographs.keys[row] for row in kept]))
        elif self.generated is not None:
            pictures = [picture for row in kept for picture in views[row]]
            parts = [
                self._features(pictures[at : at + self.batch_size]) for at in range(0, len(pictures), self.batch_size)
            ]
            drawn = np.concatenate(parts).reshape(len(kept), -1, features.shape[1])
        return Block(np.array(kept, np.int64), features.astype(self._dtype), drawn, skipped)

    def _features(self, pictures: list[Image.Image]) -> Any:
        return _as_numpy(encode_pictures(self.encoder, pictures, flip=self.flip))

    def _read_views(self, key: str, skipped: dict[str, str]) -> list[Image.Image] | None:
        """The generated pictures of a key; None, and why, where they cannot be had."""
        files = (self.generated or {}).get(key, ())
        try:
            if not files:
                raise ValueError("there are no generated pictures of it")
            return [read_image(file) for file in files]
        except (ValueError, OSError) as error:
            skipped[key] = reason_of(error)
            return None


def _as_numpy(features: Any) -> Any:
    if not is_tensor(features):
        return features
    return (features.float() if features.dtype == torch.bfloat16 else features).cpu().numpy()


def _join(
    photographs: Photographs, unfinished: Unfinished, blocks: Sequence[Any], path: Path, *, overwrite: bool
) -> Report:
    """Write the file from its blocks; they lie in memory one at a time, and the arrays in the unfinished folder."""
    skipped: dict[str, str] = {}
    for *_, reasons in blocks:
        skipped |= reasons
    total = sum(count for _, _, count, _, _ in blocks)
    if not total:
        raise ValueError(
            f"none of {len(photographs):,} photographs could be encoded; the first: {next(iter(skipped.items()))}"
        )
    widths = {width for _, _, count, width, _ in blocks if count}
    if len(widths) > 1:
        raise ValueError(f"the encoder must give one D, received {sorted(width[0] for width in widths)}")
    arrays: dict[str, Any] = {}
    rows = np.empty(total, np.int64)
    at = 0
    for number, stamps, count, _, _ in blocks:
        if not count:
            continue
        block = unfinished.read(number, stamps)
        if block is None:
            raise ValueError(f"photographs of rows {number} have changed during the run; run it again")
        here = slice(at, at + count)
        rows[here] = block.rows
        for name, part in (("features", block.features), ("generated", block.generated)):
            if part is None:
                continue
            if name not in arrays:
                arrays[name] = np.lib.format.open_memmap(
                    unfinished.folder / f"{name}.npy", mode="w+", dtype=part.dtype, shape=(total, *part.shape[1:])
                )
            if part.shape[1:] != arrays[name].shape[1:] or part.dtype != arrays[name].dtype:
                raise ValueError(
                    f"all rows must have equally many {name}, received {part.shape[1:]} and {arrays[name].shape[1:]}"
                )
            arrays[name][here] = part
        at += count
    written = {"features": arrays["features"]}
    written |= {name: np.asarray(labels)[rows] for name, labels in photographs.labels.items()}
    written["paths"] = np.array([photographs.keys[row] for row in rows])
    if "generated" in arrays:
        written["generated"] = arrays["generated"]
    write_arrays(path, written, overwrite=overwrite)
    shape = arrays["features"].shape
    return Report(path, (shape[0], shape[1]), arrays["generated"].shape[1] if "generated" in arrays else 0, skipped)
