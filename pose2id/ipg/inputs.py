"""What the generator is given: arguments checked, pictures as tensors, the initial noise by seed and keys."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from pose2id.images import take_image

Key = str | int
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
LARGEST_GUIDANCE = 1e4


def take_list(given: Any, name: str, kinds: type | tuple[type, ...]) -> list[Any]:
    """One or a list of these `kinds`, as a list; not empty."""
    items = [given] if isinstance(given, kinds) else given
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    words = " or ".join("a PIL image" if kind is Image.Image else kind.__name__ for kind in allowed)
    if isinstance(items, (str, bytes, np.ndarray, torch.Tensor)) or not isinstance(items, Sequence):
        raise TypeError(f"{name} must be one or a list of these: {words}; received {_describe(given)}")
    for i, item in enumerate(items):
        if not isinstance(item, kinds):
            raise TypeError(f"{name}[{i}] must be {words}; received {_describe(item)}")
    if not items:
        raise ValueError(f"{name} must hold at least one, received none")
    return list(items)


def _describe(item: object) -> str:
    """What was given instead of an image, and how it becomes one."""
    kind = type(item).__name__
    if isinstance(item, (str, bytes, os.PathLike)):
        return f"{kind} {item!r}: pose2id.images.read_image reads a path"
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return f"{kind} of shape {tuple(item.shape)}: PIL.Image.fromarray takes (height, width, 3) uint8 in numpy"
    return kind


def take_keys(given: Iterable[Key] | None, count: int, name: str) -> list[Key]:
    """`count` different keys; None: the numbers from 0."""
    if isinstance(given, (str, bytes)) or not isinstance(given, (Iterable, type(None))):
        raise TypeError(f"{name} must be a list of strings or integers; received {type(given).__name__} {given!r}")
    keys = list(range(count)) if given is None else list(given)
    if len(keys) != count:
        raise ValueError(f"{name} must have one key for each of {count}; received {len(keys)}")
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, (str, int, np.integer)):
            raise TypeError(f"{name} must be strings or integers; received {type(key).__name__} {key!r}")
    if len(set(keys)) < count:
        raise ValueError(f"{name} must be different, equal ones would give equal noise; received {keys!r}")
    return [key if isinstance(key, str) else int(key) for key in keys]


def take_size(name: str, value: object, unit: int) -> int:
    """A positive multiple of `unit`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer; received {type(value).__name__} {value!r}")
    if value < unit or value % unit:
        what = f"a positive multiple of {unit}" if unit > 1 else "at least 1"
        raise ValueError(f"{name} must be {what}; received {value}")
    return int(value)


def check_options(seed: int, guidance_scale: float, output_type: str) -> None:
    """Raise TypeError or ValueError for a seed, a guidance or a kind of output that cannot be."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise TypeError(f"seed must be an integer; received {type(seed).__name__} {seed!r}")
    if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, (int, float, np.integer, np.floating)):
        raise TypeError(f"guidance_scale must be a number; received {type(guidance_scale).__name__}")
    if not abs(guidance_scale) <= LARGEST_GUIDANCE:
        raise ValueError(
            f"guidance_scale must be a finite number, at most {LARGEST_GUIDANCE:g}; received {guidance_scale}"
        )
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}; received {output_type!r}")


def check_latents(latents: Any, references: int, poses: int, shape: tuple[int, ...]) -> None:
    """Raise TypeError or ValueError for anything but None or one finite `shape` for each picture."""
    if latents is None:
        return
    if not isinstance(latents, torch.Tensor) or not latents.is_floating_point():
        what = latents.dtype if isinstance(latents, torch.Tensor) else type(latents).__name__
        raise TypeError(f"latents must be a torch tensor of floats; received {what}")
    if not bool(latents.isfinite().all()):
        raise ValueError("latents must be finite; received NaN or inf")
    if tuple(latents.shape) != (references * poses, *shape):
        raise ValueError(
            f"latents must have shape {(references * poses, *shape)} for {references} references and {poses} poses; "
            f"received {tuple(latents.shape)}"
        )


def check_callback(callback: object, wanted: Sequence[str]) -> None:
    """Raise TypeError or ValueError for a callback that cannot be called, or wants more than there is."""
    if callback is not None and not callable(callback):
        raise TypeError(f"callback_on_step_end must be callable; received {type(callback).__name__}")
    if any(name != "latents" for name in wanted):
        raise ValueError(f"callback_on_step_end_tensor_inputs may hold 'latents' only; received {list(wanted)!r}")


def take_changed(changed: Any, latents: torch.Tensor) -> torch.Tensor:
    """The latents that a callback wants instead, or those there are."""
    changed = {} if changed is None else changed  # the latents may have been written to
    if not isinstance(changed, Mapping):
        raise TypeError(f"callback_on_step_end must return a dict or None; received {type(changed).__name__}")
    new = changed.get("latents", latents)
    if not isinstance(new, torch.Tensor) or new.shape != latents.shape:
        what = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
        raise ValueError(f"callback_on_step_end must return latents of shape {tuple(latents.shape)}; received {what}")
    if not new.is_floating_point():
        raise TypeError(f"callback_on_step_end must return latents of floats; received {new.dtype}")
    if not bool(new.isfinite().all()):
        raise ValueError("callback_on_step_end must return finite latents; received NaN or inf")
    return new.to(latents)


def check_drawn(tensor: torch.Tensor, what: str) -> None:
    """Raise ValueError for NaN or inf in what the networks gave."""
    if not bool(tensor.isfinite().all()):
        raise ValueError(
            f"{what} hold NaN or inf, so there is no picture: the weights are damaged, or numbers became too large for "
            "them; load undamaged ones, in torch.float32 or torch.bfloat16 instead of float16, or lower guidance_scale"
        )


def draw_noise(seed: int, reference_key: Key | None, pose_key: Key, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (float32, on the CPU) that depends on these arguments only; None: for every reference."""
    generator = make_generator(seed, reference_key, pose_key)
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def make_generator(seed: int, *keys: Key | None) -> torch.Generator:
    """A generator on the CPU that depends on these arguments only."""
    words = repr((int(seed), *(key if isinstance(key, str | None) else int(key) for key in keys)))
    number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") >> 1
    return torch.Generator("cpu").manual_seed(number)


def read_pixels(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """An image, turned upright and resized with Lanczos, as (3, height, width) float32 in [0, 1], RGB."""
    if not image.width * image.height:
        raise ValueError(f"an image must have pixels; received one of {image.width} x {image.height}")
    resized = take_image(image).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def stack_images(images: Sequence[Image.Image], height: int, width: int) -> torch.Tensor:
    """PIL images, resized with Lanczos, as (N, 3, height, width) float32 from 0 to 255, RGB; else TypeError."""
    pixels = np.empty((len(images), height, width, 3), np.float32)
    for index, image in enumerate(images):
        if not isinstance(image, Image.Image):
            raise TypeError(f"images must be PIL images, images[{index}] is a {type(image).__name__}")
        pixels[index] = np.asarray(image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def check_shape(pixels: torch.Tensor, height: int, width: int) -> None:
    """Raise ValueError unless these are (N, 3, height, width), as an encoder takes them."""
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, height, width):
        raise ValueError(
            f"images must have shape (N, 3, {height}, {width}), as preprocess() makes them, "
            f"received {tuple(pixels.shape)}"
        )
