"""Poses from photographs: DWPose on crops of one person each, through onnxruntime.

Needs the extras `poses` (onnxruntime) and, for the model's file, `ipg` (huggingface_hub). There is no detector: the
whole picture is taken for the person, as data sets for re-identification have it.

Reference: Z. Yang and others, Effective Whole-body Pose Estimation with Two-stages Distillation, ICCV workshops 2023,
and its code, github.com/IDEA-Research/DWPose, branch onnx, commit 3dca5db (Apache 2.0): `onnxpose.py` for what goes in
and comes out of the network, `wholebody.py` for the neck and the threshold.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pose2id import onnx
from pose2id.hub import fetch
from pose2id.onnx import Session, read_input
from pose2id.poses.pose import Pose
from pose2id.validation import check_count, check_number

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["download_model", "extract_poses", "load_session"]

REPOSITORY = "yzd-v/DWPose"
"""The authors' repository on the Hugging Face Hub; Apache 2.0 by its model card."""
REVISION = "1a7144101628d69ee7a3768d1ee3a094070dc388"
FILE = "dw-ll_ucoco_384.onnx"
# Revision, size and hash were not read off the Hub: they are what several unrelated public repositories on GitHub
# pin for this file, all alike (search there for the hash, or for the revision).
SIZE = 134_399_116
SHA256 = "724f4ff2439ed61afb86fb8a1951ec39c6220682803b4a8bd4f598cd913b1843"

HEIGHT, WIDTH = 384, 288
"""Size of the network's input."""
WHOLE_BODY = 133
"""COCO-WholeBody; the first 17 are those of COCO."""
SPLIT = 2
"""Positions per pixel of the network's input."""
PADDING = 1.25
"""The network sees so many times the picture, black around it."""
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_FARTHEST = 2.0
_PURPOSE = "pose2id.poses.keypoints"


def download_model() -> Path:
    """Fetch the DWPose model (134 MB) into the cache of the Hugging Face Hub, unless it is there, and check its hash.

    Returns
    -------
    pathlib.Path
        Where the file is.

    Raises
    ------
    MissingExtraError, OSError, ValueError
        As `pose2id.hub.fetch`.

    Examples
    --------
    >>> from pose2id.poses.keypoints import FILE, SIZE, download_model
    >>> FILE, SIZE  # in bytes
    ('dw-ll_ucoco_384.onnx', 134399116)
    >>> path = download_model()  # doctest: +SKIP
    """
    return fetch(
        *(REPOSITORY, FILE, REVISION),
        size=SIZE,
        sha256=SHA256,
        purpose=_PURPOSE,
        again="try again (goes on where it broke off), or pass load_session the path of a copy of the file, "
        "as pose2id poses --model does",
    )


def load_session(path: str | os.PathLike[str] | None = None, *, providers: Sequence[Any] | None = None) -> Session:
    """Load the DWPose model.

    Parameters
    ----------
    path : path, optional
        An ONNX file that takes and gives what DWPose does (RTMPose's whole-body models do); it is not checked against
        the pinned hash. None: the pinned file, see `download_model`.
    providers : sequence, optional
        As onnxruntime takes them. None: CUDA where this onnxruntime has it, else the CPU.

    Returns
    -------
    onnxruntime.InferenceSession
        For `extract_poses`.

    Raises
    ------
    MissingExtraError, OSError, ValueError
        As `pose2id.onnx.load_session`, and `download_model` when `path` is None.

    Examples
    --------
    >>> from pose2id.poses.keypoints import load_session
    >>> session = load_session()  # doctest: +SKIP
    >>> load_session("dw-ll_ucoco_384.onnx")
    Traceback (most recent call last):
    FileNotFoundError: dw-ll_ucoco_384.onnx is not a file
    """
    onnx.require_runtime(_PURPOSE)  # before 134 MB are fetched
    return onnx.load_session(download_model() if path is None else path, providers=providers, purpose=_PURPOSE)


def extract_poses(
    images: Iterable[Image.Image | NDArray[np.uint8]],
    session: Session | None = None,
    *,
    names: Iterable[str] | None = None,
    threshold: float = 0.3,
    batch_size: int = 8,
) -> list[Pose]:
    """The pose of the person on each picture.

    Parameters
    ----------
    images : iterable of PIL images or ndarrays of uint8 (H, W, 3)
        Crops of one person each, arrays in RGB order. Read one batch at a time.
    session : optional
        What `load_session` gives, or any object with its `run` and `get_inputs`. None: loaded for this call.
    names : iterable of str, optional
        Names of the poses, one for each image. None: no names.
    threshold : float
        Keypoints whose score is not above it are missing; 0.3 is DWPose's.
    batch_size : int
        Images in one run of the network. A network with a batch size of its own is run with that.

    Returns
    -------
    list of Pose
        Keypoints as fractions of the crop. All may be missing. The neck is the middle of the shoulders, if both are
        there. What the network places more than two pictures away counts as missing.

    Raises
    ------
    MissingExtraError, OSError, ValueError
        As `load_session`, when `session` is None.
    TypeError, ValueError
        For anything but pictures of 8 bits per channel, another number of names, or a network of another form.

    Examples
    --------
    >>> from PIL import Image
    >>> from pose2id.poses.keypoints import extract_poses
    >>> poses = extract_poses([Image.open("person.jpg")], names=["person"])  # doctest: +SKIP
    >>> poses[0].draw().save("pose.png")  # doctest: +SKIP
    """
    threshold = check_number(threshold, "threshold")
    batch_size = check_count(batch_size, "batch_size", 1)
    session = load_session() if session is None else session
    entry, fixed = _read_form(session)
    waiting, poses = iter(images), list[Pose]()
    labels = repeat("") if names is None else iter(names)
    while pictures := list(islice(waiting, fixed or batch_size)):
        pixels = [_take_pixels(picture, len(poses) + n) for n, picture in enumerate(pictures)]
        batch = np.stack([_prepare(array) for array in pixels])
        if fixed:  # the last batch is filled up with blanks
            batch = np.concatenate([batch, np.zeros((fixed - len(batch), *batch.shape[1:]), np.float32)])
        points, scores = _decode(session.run(None, {entry: batch}), len(batch))
        for array, place, score in zip(pixels, points, scores, strict=False):
            if (name := next(labels, None)) is None:
                raise ValueError(f"names must be as many as images, received only {len(poses)}")
            height, width = array.shape[:2]
            poses.append(_make_pose(place, score, width, height, threshold, name))
    if names is not None and next(labels, None) is not None:
        raise ValueError(f"names must be as many as images, received more than the {len(poses)} images")
    return poses


def _read_form(session: Session) -> tuple[str, int]:
    """Name of the network's input, and its batch size, 0 where it takes any."""
    name, shape = read_input(session)
    needed = (3, HEIGHT, WIDTH)
    if len(shape) != 4 or any(size not in (None, need) for size, need in zip(shape[1:], needed, strict=True)):
        raise ValueError(f"session must take images of shape (batch, 3, {HEIGHT}, {WIDTH}), it takes {shape}")
    return name, shape[0] or 0


def _take_pixels(image: Any, number: int) -> NDArray[np.uint8]:
    """An RGB array (H, W, 3)."""
    if hasattr(image, "convert") and hasattr(image, "mode"):
        if image.mode.partition(";")[0] in ("I", "F"):  # converting them cuts off what is above 255
            raise ValueError(f"image {number} must have 8 bits per channel, received mode {image.mode}; scale it first")
        image = np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        raise TypeError(f"image {number} must be a PIL image or an array, received {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"image {number} must be uint8 of shape (H, W, 3), received {image.dtype} of {image.shape}")
    return image


def _frame(width: int, height: int) -> tuple[float, float, float]:
    """Where the network's input lies in a picture: its left and upper border, and the size of its pixels."""
    pixel = PADDING * max(width / WIDTH, height / HEIGHT)
    return (width - WIDTH * pixel) / 2, (height - HEIGHT * pixel) / 2, pixel


def _prepare(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's input (3, HEIGHT, WIDTH) from a picture (H, W, 3): scaled bilinearly around its middle."""
    height, width = image.shape[:2]
    left, top, pixel = _frame(width, height)
    rows = _scale(image, top + pixel * np.arange(HEIGHT))  # (HEIGHT, W, 3)
    both = _scale(rows.transpose(1, 0, 2), left + pixel * np.arange(WIDTH))  # (WIDTH, HEIGHT, 3)
    return ((np.rint(both) - MEAN) / STD).transpose(2, 1, 0).astype(np.float32)


def _scale(lines: NDArray[Any], places: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Values between the lines (L, ...) at `places`, where line i is at i, and 0 outside."""
    padded = np.pad(lines, ((1, 1), (0, 0), (0, 0)))
    before = np.floor(places)
    share = (places - before)[:, None, None]
    index = np.clip(before.astype(np.int64) + 1, 0, len(padded) - 1)
    after = np.clip(before.astype(np.int64) + 2, 0, len(padded) - 1)
    scaled: NDArray[np.float64] = (1 - share) * padded[index] + share * padded[after]
    return scaled


def _decode(outputs: Sequence[Any], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions (N, K, 2) in pixels of the input and scores (N, K) from the network's two outputs (SimCC).

    For each keypoint there is one curve over the columns and one over the rows; their peaks are its position, and the
    lower of the two peaks is its score.
    """
    curves = [np.asarray(output) for output in outputs]
    wanted = [(count, WHOLE_BODY, SPLIT * WIDTH), (count, WHOLE_BODY, SPLIT * HEIGHT)]
    if [curve.shape for curve in curves] != wanted:
        raise ValueError(f"session must give arrays of shapes {wanted}, it gave {[curve.shape for curve in curves]}")
    points = np.stack([curve.argmax(axis=2) for curve in curves], axis=2) / SPLIT
    scores: NDArray[np.float64] = np.minimum(*(curve.max(axis=2) for curve in curves)).astype(np.float64)
    return points, scores


def _make_pose(
    points: NDArray[np.float64], scores: NDArray[np.float64], width: int, height: int, threshold: float, name: str
) -> Pose:
    left, top, pixel = _frame(width, height)
    places = points[:17] * pixel + (left, top)
    far = (np.abs(places / (width, height) - 0.5) > _FARTHEST).any(axis=1)
    found = np.where(far, -np.inf, scores[:17])
    return Pose.from_coco17(places, found, width=width, height=height, threshold=threshold, name=name)
