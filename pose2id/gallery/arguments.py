"""What is given to a gallery: keys, labels, times, features; checked, and as they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pose2id.arrays import all_finite, row_blocks, take_features
from pose2id.centralization import FusedRows, take_generated
from pose2id.errors import escape
from pose2id.gallery.settings import Settings
from pose2id.validation import take_labels, take_numbers

LONGEST = 2000
"""Bytes of a key or label in UTF-8: an index of PostgreSQL takes no more than some 2,700."""
LATEST = 99_999
"""The last year of a time; numpy counts microseconds up to three times as many."""
SCALES = 4096
"""How many lengths of a fused row are tried, see `_keep_direction`."""


def name_some(keys: Sequence[str]) -> str:
    """The first few of many keys, for an error."""
    return ", ".join(f"'{escape(key)}'" for key in keys[:5]) + (f" and {len(keys) - 5} more" if len(keys) > 5 else "")


def take_texts(values: Any, n: int | None, name: str) -> list[str]:
    """Labels as text; integers become their digits. `n` is how many there must be."""
    if n is None and isinstance(values, str | int):
        raise TypeError(
            f"{name} must be a sequence, received {type(values).__name__}; put it in a list: [{values!r:.60}]"
        )
    if n is None:
        n = len(values) if hasattr(values, "__len__") else 0
    if isinstance(values, list | tuple) and len(values) == n and all(isinstance(value, str) for value in values):
        texts = [str.__str__(value) for value in values]  # in an array each would take as much as the longest
    else:
        texts = [str(value) for value in take_labels(values, n, name).tolist()]
    for text in set(texts):
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise ValueError(f"{name} must be text that UTF-8 can hold, received '{escape(text)}'") from None
        if "\0" in text or size > LONGEST:
            wrong = "NUL" if "\0" in text else f"{size} bytes"
            raise ValueError(
                f"{name} must be text of at most {LONGEST} bytes without NUL, received '{escape(text[:40])}' ({wrong})"
            )
    return texts


def take_keys(keys: Any, n: int | None = None) -> list[str]:
    """Keys as text, none of them twice."""
    texts = take_texts(keys, n, "keys")
    if len(set(texts)) < len(texts):
        seen: set[str] = set()
        twice = [text for text in texts if text in seen or seen.add(text)]  # type: ignore[func-returns-value]
        raise ValueError(f"keys must differ, received more than once: {name_some(twice)}")
    return texts


def take_time(value: Any, name: str) -> float:
    """One time in seconds since 1970 (UTC)."""
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"{name} must say its time zone, received {value!r}; pass tzinfo, such as datetime.UTC")
        return value.timestamp()
    if isinstance(value, np.datetime64):
        if np.isnat(value):
            return _no_time(name)
        year = 1970 + int(value.astype("datetime64[Y]").astype(np.int64))
        if abs(year) > LATEST:
            raise ValueError(f"{name} must be of the years -{LATEST} to {LATEST}, received the year {year}")
        return float(value.astype("datetime64[us]").astype(np.int64)) / 1e6
    numeric = isinstance(value, int | float | np.integer | np.floating)
    if isinstance(value, bool | np.bool_ | np.timedelta64) or not numeric:
        raise TypeError(
            f"{name} must be in seconds since 1970 or a datetime with its time zone, received {type(value).__name__}"
        )
    try:
        seconds = float(value)
    except OverflowError:
        seconds = float("inf")
    return seconds if np.isfinite(seconds) else _no_time(name)


def _no_time(name: str) -> float:
    raise ValueError(f"{name} must be finite, received NaN, NaT or inf")


def take_times(values: Any, n: int) -> list[float]:
    """A time for each of n rows, as `take_time`."""
    if isinstance(values, torch.Tensor):
        values = take_numbers(values, "times")
    ordered = all(hasattr(values, name) for name in ("__len__", "__getitem__", "__iter__"))
    if not ordered or isinstance(values, str | bytes | Mapping):
        raise TypeError(f"times must be a sequence, received {type(values).__name__}")
    if len(values) != n:
        raise ValueError(f"times must have one entry for each of the {n} rows, received {len(values)}")
    return [take_time(value, "times") for value in values]


def take_told(cams: Any, groups: Any, times: Any, n: int) -> dict[str, list[Any]]:
    """What was given of cam, grp and time, as it is stored."""
    told: dict[str, list[Any]] = {}
    if cams is not None:
        told["cam"] = take_texts(cams, n, "cams")
    if groups is not None:
        told["grp"] = take_texts(groups, n, "groups")
    if times is not None:
        told["time"] = take_times(times, n)
    return told


def other_width(kept: int | None, width: int) -> str:
    """What is said to rows of another width than the gallery's."""
    return (
        f"this gallery has rows of D = {kept}, received D = {width}; features of another model need a new gallery, or "
        "reembed(), which replaces all rows"
    )


def _take_rows(features: Any, generated: Any, n: int | None) -> tuple[torch.Tensor, list[torch.Tensor]]:
    rows, kind = take_features(features)
    if n is not None and len(rows) != n:
        raise ValueError(f"features must have one row for each of the {n} keys, received {len(rows)}")
    return rows, [] if generated is None else take_generated(generated, rows, kind)


def check_rows(features: Any, keys: Any, cams: Any, groups: Any, times: Any, generated: Any) -> None:
    """Raise for what is wrong with rows whatever the gallery that they shall go to."""
    n = len(take_keys(keys))
    take_told(cams, groups, times, n)
    _take_rows(features, generated, n)


def fuse_features(features: Any, generated: Any, settings: Settings, n: int | None = None) -> torch.Tensor:
    """The rows as a gallery keeps them (n, D): features as given, or fused with their generated features.

    With `normalize` fused rows have length 1, and `centralize` makes of them what it makes of features and generated
    ones.
    """
    rows, averaged = _take_rows(features, generated, n)
    rows, averaged = rows.cpu(), [each.cpu() for each in averaged]
    dtype = getattr(torch, settings.dtype)
    stored = torch.empty(rows.shape, dtype=dtype)
    for block in row_blocks(rows):
        part = rows[block]
        if averaged and settings.eta:
            part = _fuse(part, [each[block] for each in averaged], settings)
        stored[block] = part.to(dtype)
        if not all_finite(stored[block]):
            raise ValueError(f"features are too large for {settings.dtype}, in which this gallery keeps them")
    return stored


def _fuse(rows: torch.Tensor, generated: list[torch.Tensor], settings: Settings) -> torch.Tensor:
    """Equation 9 in float64; rows of length 1 if the gallery normalizes."""
    wide = FusedRows(rows.double(), [each.double() for each in generated], settings.eta, normalize=settings.normalize)
    wide.write(torch.empty(rows.shape, dtype=wide.dtype), searched=False)
    made = wide.take(slice(0, len(rows)))
    return _keep_direction(made) if settings.normalize and settings.dtype == "float32" else made.float()


def _keep_direction(directions: torch.Tensor) -> torch.Tensor:
    """Rows of float32 that scaled to length 1 are `directions` (float64) rounded to float32.

    Those themselves nearly always are; scaling them once more may move an entry by its last bit. Then rows of other
    lengths are tried.
    """
    wanted = directions.float()
    kept = wanted.clone()
    scales = torch.linspace(1, 2, SCALES, dtype=torch.float64)[:, None]
    for at in (search_rows(wanted, normalize=True)[0] != wanted).any(dim=1).nonzero().flatten():
        tried = (directions[at] * scales).float()
        right = (search_rows(tried, normalize=True)[0] == wanted[at]).all(dim=1).nonzero()
        if len(right):
            kept[at] = tried[right[0, 0]]
    return kept


def search_rows(stored: torch.Tensor, *, normalize: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Stored rows as `centralize` searches them, float32 (n, D), and which of them have a direction, (n,) bool."""
    fused = FusedRows(stored, normalize=normalize)
    found = fused.write(torch.empty(stored.shape, dtype=torch.float32)).float()
    if len(found) == len(stored):
        return found, fused.nonzero
    rows = torch.zeros(stored.shape, dtype=torch.float32)
    rows[fused.nonzero] = found
    return rows, fused.nonzero


def to_blobs(rows: torch.Tensor) -> list[bytes]:
    """Each row as little-endian bytes."""
    array = rows.numpy()
    return [row.tobytes() for row in array.astype(array.dtype.newbyteorder("<"), copy=False)]


def from_blobs(blobs: Sequence[bytes], dtype: str, width: int) -> NDArray[Any]:
    """Rows from their bytes, (n, width)."""
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(b"".join(blobs), little).reshape(len(blobs), width).astype(dtype, copy=True)
