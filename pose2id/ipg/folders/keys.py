"""What photographs and poses may be called: a key becomes a path in the output folder, a pose's name a file name."""

from __future__ import annotations

from pathlib import PureWindowsPath

LONGEST, LONGEST_PART = 4096, 255
"""Characters of a key, and between two of its "/"; no system takes longer ones."""
OWN = ".pose2id"
"""How the names of the run's own files begin: its lock, and what is not yet whole."""
LOCK = f"{OWN}.lock"
"""In every folder that a run fills: one run at a time."""


def check_key(key: object) -> str:
    """The key of a reference: a relative path with "/" that stays in its folder, on every system."""
    if not isinstance(key, str):
        raise TypeError(f"a reference's key must be a string, received {type(key).__name__}")
    parts = key.split("/")
    if len(key) > LONGEST or max(map(len, parts)) > LONGEST_PART:
        raise ValueError(
            f"a reference's key must have at most {LONGEST:,} characters, {LONGEST_PART} between two '/', received "
            f"{len(key):,}: {key[:60]!r}"
        )
    on_windows = PureWindowsPath(key)
    outside = on_windows.anchor or ".." in on_windows.parts  # "c:/a.png", "c:a.png", "..\\a.png"
    if outside or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise ValueError(
            f"a reference's key must be a relative path without '.' and '..', received {key!r}; rename the file"
        )
    if any(part.lower().startswith(OWN) for part in parts):
        raise ValueError(f"names that begin with {OWN} are those of the run's own files, received {key!r}; rename it")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"a reference's name must be valid UTF-8, received {key!r}; rename the file") from error
    return key


def check_pose_name(name: object) -> str:
    """The name of a pose: a file name on every system."""
    if not isinstance(name, str):
        raise TypeError(f"a pose's name must be a string, received {type(name).__name__}")
    if not name.isprintable() or name.strip(".") == "" or any(sign in name for sign in "/\\:"):
        raise ValueError(f"a pose's name becomes a file name and must not hold '/', received {name[:100]!r}")
    if len(name) > LONGEST_PART or name.lower().startswith(OWN):
        raise ValueError(
            f"a pose's name must have at most {LONGEST_PART} characters and not begin with {OWN}, received "
            f"{name[:60]!r}"
        )
    return name
