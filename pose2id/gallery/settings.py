"""What a gallery is told once, when it is made, and keeps: the settings of the method, the dtype."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pose2id.validation import check_choice, check_count, check_flag, check_number


class _Kept:
    def __repr__(self) -> str:
        return "kept"


KEPT: Any = _Kept()
"""Stands for a setting that is not named: what the gallery keeps, or the default of a new one."""

LARGEST = 1000
"""The largest k1 and k2: so many neighbours are kept of every row."""
EXCLUDE = ("cams", "groups")
DTYPES = ("float32", "float16")
FIXED = {
    "eta": "it is part of the stored rows",
    "dtype": "rows are stored in it",
}
"""Settings that `recompute` cannot change, and why."""


@dataclass(frozen=True)
class Settings:
    """Settings of one gallery; see `Gallery.open`."""

    k1: int = 2
    k2: int = 2
    alpha: float = 0.0
    eta: float = 1.0
    normalize: bool = True
    exclude: str | None = None
    dtype: str = "float32"

    @property
    def k(self) -> int:
        """How many neighbours of each row the rule asks for; 0 where the step is switched off."""
        return max(self.k1, self.k2) if self.k1 and self.k2 else 0

    @property
    def excluded(self) -> str:
        """The column of what `exclude` names; empty without."""
        return {None: "", "cams": "cam", "groups": "grp"}[self.exclude]


def check_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were named, as they are kept."""
    checks: dict[str, Callable[[Any], Any]] = {
        "k1": lambda value: check_count(value, "k1", 0, LARGEST),
        "k2": lambda value: check_count(value, "k2", 0, LARGEST),
        "alpha": lambda value: check_number(value, "alpha"),
        "eta": lambda value: check_number(value, "eta"),
        "normalize": lambda value: check_flag(value, "normalize"),
        "exclude": lambda value: None if value is None else check_choice(value, "exclude", EXCLUDE),
        "dtype": lambda value: check_choice(value, "dtype", DTYPES),
    }
    return {name: checks[name](value) for name, value in given.items() if value is not KEPT}


def change_settings(kept: Settings, given: Mapping[str, Any], *, recompute: bool, fused: bool) -> Settings:
    """The settings of a gallery after it was opened with the `given` ones; ValueError where they may not change.

    `fused` says that some stored rows hold generated features.
    """
    changed = {name: value for name, value in given.items() if value != getattr(kept, name)}
    if not changed:
        return kept
    words = ", ".join(f"{name}={getattr(kept, name)!r}, received {value!r}" for name, value in changed.items())
    for name, reason in FIXED.items():
        if name in changed:
            raise ValueError(f"this gallery was made with {words}: {name} cannot change, {reason}; make a new gallery")
    if fused and changed.get("normalize") is False:
        raise ValueError(
            f"this gallery was made with {words}: rows with generated features are kept with length 1; "
            "make a new gallery"
        )
    if not recompute:
        raise ValueError(
            f"this gallery was made with {words}; leave that out, or compute everything anew (recompute=True, `pose2id "
            "gallery recompute`)"
        )
    return Settings(**{**asdict(kept), **changed})
