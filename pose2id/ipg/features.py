"""From photographs to features of generated pictures."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pose2id.errors import require
from pose2id.images import PURPOSE, read_image, take_image
from pose2id.ipg import bars
from pose2id.ipg.folders.pictures import find_pictures
from pose2id.ipg.presets import PRESETS, SHARED_BATCHES
from pose2id.poses import Pose, representative_poses
from pose2id.progress import tqdm
from pose2id.validation import check_choice, check_count, check_flag, is_tensor

if TYPE_CHECKING:
    from PIL import Image

Key = str | int


def generate_features(
    pipe: Callable[..., Any],
    encoder: Callable[[list[Image.Image]], Any],
    references: Iterable[Image.Image | str | os.PathLike[str]] | Image.Image | str | os.PathLike[str],
    poses: Iterable[Image.Image | Pose] | Image.Image | Pose | None = None,
    *,
    flip: bool = False,
    preset: str | None = None,
    height: int | None = None,
    width: int | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    guidance_rescale: float | None = None,
    guidance_start: float | None = None,
    guidance_stop: float | None = None,
    shared_noise: bool | None = None,
    seed: int = 42,
    batch_size: int = 8,
    decode_chunk_size: int | None = None,
    decoder: Any = None,
    reference_keys: Iterable[Key] | None = None,
    pose_keys: Sequence[Key] | None = None,
    on_images: Callable[[Key, list[Image.Image]], object] | None = None,
    progress: bool = False,
) -> Any:
    """Draw each person in each pose and give the features of these pictures.

    References are taken a few at a time and no picture is kept, so their number is limited by the features alone. The
    result is what `pose2id.centralize` takes as `generated`; its `features` must come from the same encoder.

    Parameters
    ----------
    pipe : IPGPipeline
        Or any callable with its arguments.
    encoder : callable
        Your ReID model: a list of n PIL images (RGB, `height` x `width`) to n features, a numpy array or torch tensor
        (n, D) of floats. It does its own resizing and normalising.
    references : iterable of PIL images or paths
        The N people; a generator is consumed as needed. A single image or path is N = 1. `read_image` reads paths.
    poses : PIL images or Pose, or one of them, optional
        The M poses; None: the 8 representative ones.
    flip : bool
        Add the feature of the mirrored picture (section 3.2.1 of the paper). The published numbers are without.
    preset, height, width, num_inference_steps, guidance_scale, guidance_rescale, guidance_start, guidance_stop, \
shared_noise, seed, decode_chunk_size, decoder
        As for the pipeline, which gets those that are not None; otherwise its own defaults.
    batch_size : int
        Pictures at once. Changes features by rounding only. With shared noise a call of the pipeline gets the people of
        16 batches, as it computes once for a call what is equal for all people.
    reference_keys : iterable of str or int, optional
        One for each reference; seeds its noise. By default its place, 0 to N - 1.
    pose_keys : sequence of str or int, optional
        One for each pose.
    on_images : callable, optional
        Called as ``f(key, pictures)`` with the M pictures of each reference, for instance to keep or to write them.
    progress : bool
        One bar on stderr, over all references; without it there is none, whatever the pipeline's own settings, which
        stay as they are.

    Returns
    -------
    array or tensor, shape (N, M, D)
        Container, dtype and device of what the encoder gives; without a gradient.

    Raises
    ------
    ValueError
        Without references or poses; for an unreadable file; for keys that do not fit; for an encoder's output of
        another shape, or with NaN or inf.
    TypeError
        For an encoder's output that is neither array nor tensor, or holds no floats.

    References
    ----------
    C. Yuan and others, From Poses to Identity: Training-Free Person Re-Identification via Feature Centralization, CVPR
    2025, section 3.2.

    Examples
    --------
    Here the pipeline only repeats the person, and the encoder takes the mean colour.

    >>> from types import SimpleNamespace
    >>> import numpy as np
    >>> from PIL import Image
    >>> from pose2id.ipg.features import generate_features
    >>> def pipe(references, poses, **options):
    ...     return SimpleNamespace(images=[[person for _ in poses] for person in references])
    >>> def encoder(pictures):
    ...     return np.stack([np.asarray(picture).mean(axis=(0, 1)) for picture in pictures])
    >>> people = [Image.new("RGB", (64, 128), colour) for colour in ("red", "blue", "white")]
    >>> generate_features(pipe, encoder, people, poses=[people[0], people[0]]).shape
    (3, 2, 3)
    """
    check_count(batch_size, "batch_size", 1)
    for name, value in (("pipe", pipe), ("encoder", encoder), ("on_images", on_images)):
        if not callable(value) and (name, value) != ("on_images", None):
            raise TypeError(f"{name} must be callable, received {type(value).__name__}")
    people, length = _take_people(references, reference_keys)
    shown: Any = poses
    if poses is not None:
        shown = [poses] if hasattr(poses, "convert") or isinstance(poses, Pose) else list(poses)
    m = len(representative_poses() if shown is None else shown)
    if not m:
        raise ValueError("poses must hold at least one, received none; None means the 8 representative poses")
    options = {
        "height": height,
        "width": width,
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "output_type": "pil",
        "batch_size": batch_size,
        "pose_keys": pose_keys,
    }
    knobs = {
        "preset": preset,
        "guidance_rescale": guidance_rescale,
        "guidance_start": guidance_start,
        "guidance_stop": guidance_stop,
        "shared_noise": shared_noise,
        "decode_chunk_size": decode_chunk_size,
        "decoder": decoder,
    }
    options |= {name: value for name, value in knobs.items() if value is not None}  # a plain callable may know none
    shared = PRESETS[check_choice(preset, "preset", tuple(PRESETS))].shared_noise if preset is not None else False
    shared = shared if shared_noise is None else shared_noise
    people_per_call = max(1, batch_size // m) * (SHARED_BATCHES if shared else 1)
    features: list[Any] = []
    with tqdm(total=length, desc="generating", unit="reference", disable=not progress) as bar:
        for chunk in _chunks(people, reference_keys, people_per_call):
            images = [take_image(reference, f"references, key {key!r}") for key, reference in chunk]
            keys = [key for key, _ in chunk]
            with bars.hide():
                rows = pipe(images, shown, reference_keys=keys, **options).images
            pictures = [picture for row in rows for picture in row]
            if len(pictures) != len(chunk) * m:
                raise ValueError(f"pipe must give {m} pictures for each reference, received {list(map(len, rows))}")
            features.append(encode_pictures(encoder, pictures, flip=flip, like=features[0] if features else None))
            if on_images is not None:
                for key, row in zip(keys, rows, strict=True):
                    on_images(key, list(row))
            bar.update(len(chunk))
    if not features:
        raise ValueError("references must hold at least one image, received none")
    joined = torch.cat(features) if is_tensor(features[0]) else np.concatenate(features)
    return joined.reshape(-1, m, joined.shape[1])


def _take_people(references: Any, keys: Iterable[Key] | None) -> tuple[Iterable[Any], int | None]:
    """The references one by one, and how many they are where that can be told."""
    single = isinstance(references, (str, os.PathLike)) or hasattr(references, "convert")
    if not single and (isinstance(references, (bytes, Mapping)) or not isinstance(references, Iterable)):
        raise TypeError(
            f"references must be an image, a path, or an iterable of these, received {type(references).__name__}"
        )
    if isinstance(keys, (str, bytes)):
        raise TypeError("reference_keys must be one key for each reference, received one string")
    people = [references] if single else references
    length = len(people) if isinstance(people, Sized) else None
    if length is not None and isinstance(keys, Sized) and len(keys) != length:
        raise ValueError(f"reference_keys must have {length} keys, one for each reference; received {len(keys)}")
    return people, length


def _chunks(people: Iterable[Any], keys: Iterable[Key] | None, size: int) -> Iterator[list[tuple[Key, Any]]]:
    """Pairs (key, reference), `size` at a time."""
    try:
        pairs = zip(count() if keys is None else keys, people, strict=keys is not None)
        while chunk := list(islice(pairs, size)):
            yield chunk
    except ValueError as error:
        if "zip()" not in str(error):  # of the caller's generator, not of ours
            raise
        raise ValueError("reference_keys must have one key for each reference, received another number") from None


def encode_folder(
    encoder: Callable[[list[Image.Image]], Any],
    folder: str | os.PathLike[str],
    keys: Sequence[str],
    *,
    flip: bool = False,
    batch_size: int = 64,
    progress: bool = False,
) -> Any:
    """Features of generated pictures that lie in a folder, as `pose2id.centralize` takes them.

    Parameters
    ----------
    encoder : callable
        As for `generate_features`.
    folder : path
        As `pose2id generate` wrote it, or laid out like that: see `pose2id.ipg.folders.find_pictures`.
    keys : sequence of str
        The N photographs, in the order of your features, by their paths below the folder that `generate` was given.
    flip : bool
        Add the features of the mirrored pictures.
    batch_size : int
        Pictures encoded at once.
    progress : bool
        A bar on stderr.

    Returns
    -------
    array or tensor, shape (N, M, D)
        Container and dtype of what the encoder gives.

    Raises
    ------
    ValueError, FileNotFoundError, TypeError
        For a photograph without pictures, or with more or fewer than others; for an encoder as in `generate_features`.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from pose2id.ipg.features import encode_folder
    >>> def encoder(pictures):
    ...     return np.stack([np.asarray(picture).mean(axis=(0, 1)) for picture in pictures])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pathlib.Path(folder, "ann").mkdir()
    ...     for pose in (1, 2):
    ...         Image.new("RGB", (32, 64), "red").save(pathlib.Path(folder, "ann", f"{pose}.png"))
    ...     encode_folder(encoder, folder, ["ann.jpg"]).shape
    (1, 2, 3)
    """
    check_count(batch_size, "batch_size", 1)
    check_flag(flip, "flip")
    if not callable(encoder):
        raise TypeError(f"encoder must be callable, received {type(encoder).__name__}")
    if isinstance(keys, str) or not isinstance(keys, Iterable):
        raise TypeError(f"keys must be a sequence of strings, one of each photograph, received {type(keys).__name__}")
    found = find_pictures(folder, keys)
    counts = {key: len(paths) for key, paths in found.items()}
    most = max(counts.values(), default=0)
    if short := [key for key, count in counts.items() if count != most or not count]:
        raise ValueError(
            f"{os.fspath(folder)} must hold equally many pictures of each of {len(keys):,} photographs, it holds "
            f"{counts[short[0]]} of {short[0]!r}" + (f" and {most} of others" if most else "")
        )
    paths = [path for key in keys for path in found[key]]
    if not paths:
        raise ValueError("keys must hold at least one photograph, received none")
    rows: list[Any] = []
    for start in tqdm(range(0, len(paths), batch_size), desc="encoding", unit="batch", disable=not progress):
        pictures = [read_image(path) for path in paths[start : start + batch_size]]
        rows.append(encode_pictures(encoder, pictures, flip=flip, like=rows[0] if rows else None))
    joined = torch.cat(rows) if is_tensor(rows[0]) else np.concatenate(rows)
    return joined.reshape(len(keys), most, -1)


def encode_pictures(
    encoder: Callable[[list[Image.Image]], Any], pictures: list[Any], *, flip: bool = False, like: Any = None
) -> Any:
    """Features (n, D) of n PIL images by an encoder, checked; with `flip` those of the mirrored ones are added.

    `like` are features that it gave before: these must be of the same kind.
    """
    with torch.no_grad():  # a graph for the gradient would hold all of the encoder's layers for every picture
        # copies, because encoders resize pictures in place, and others need them still
        features = _check_features(encoder([picture.copy() for picture in pictures]), len(pictures), like)
        if flip:
            method = require("PIL.Image", "ipg", PURPOSE).Transpose.FLIP_LEFT_RIGHT
            mirrored = encoder([picture.transpose(method) for picture in pictures])
            features = features + _check_features(mirrored, len(pictures), features)
    return features


def _check_features(features: Any, n: int, like: Any) -> Any:
    """What the encoder gave for n pictures; `like` is what it gave before."""
    if is_tensor(features):
        features = features.detach()
    elif not isinstance(features, np.ndarray):
        raise TypeError(f"encoder must give a numpy array or a torch tensor, received {type(features).__name__}")
    if not (
        features.is_floating_point() if is_tensor(features) else features.dtype.kind == "f" and features.itemsize <= 8
    ):
        raise TypeError(f"encoder must give floats, received dtype {features.dtype}; of at most 64 bits")
    shape = tuple(features.shape)
    if len(shape) != 2 or shape[0] != n or not shape[1]:
        words = f"encoder must give shape ({n}, D) for {n} pictures, received {shape}"
        if len(shape) == 3 and min(shape[1:]) > 1:
            words += "; several features an image are not taken here: save them under the name 'parts', as in "
            words += "np.savez(..., parts=...), see the page Part features"
        raise ValueError(words)
    if like is not None and (type(features), features.dtype, shape[1]) != (type(like), like.dtype, like.shape[1]):
        raise ValueError(
            f"encoder must give one kind of features; received {type(features).__name__} of {features.dtype}, "
            f"D = {shape[1]} after {type(like).__name__} of {like.dtype}, D = {like.shape[1]}"
        )
    if not (features.isfinite() if is_tensor(features) else np.isfinite(features)).all():
        raise ValueError(f"encoder must give finite features, received NaN or inf for some of {n} pictures")
    return features.clone() if is_tensor(features) else features.copy()  # it may fill the same memory next time
