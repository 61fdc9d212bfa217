"""The output folder on the disk: which files are there, how one is written, and that only one run works in it."""

from __future__ import annotations

import errno
import io
import logging
import os
import posixpath
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pose2id.errors import require
from pose2id.images import PURPOSE
from pose2id.ipg.folders.layout import LOCK
from pose2id.ipg.folders.manifest import MANIFEST

if TYPE_CHECKING:
    from PIL import Image

TEMPORARY = ".pose2id.part"

log = logging.getLogger(__name__)


class OutputFolder:
    """The folder that a run writes into.

    Attributes
    ----------
    root : pathlib.Path
        The folder, made where it is not there.
    files : set of str
        Finished pictures and sheets, as paths below `root` with "/".
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        self.files: set[str] = set()
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(f"output {self.root} must be a folder, it is a file")
        self.root.mkdir(parents=True, exist_ok=True)

    def list_files(self, folders: Iterable[str]) -> None:
        """See which files are in these folders; half-written ones of a run that was killed are removed."""
        for folder in set(folders):
            try:
                with os.scandir(self.root / folder) as entries:
                    for entry in entries:
                        if entry.name == TEMPORARY:
                            Path(entry.path).unlink()
                        elif entry.is_file():
                            self.files.add(posixpath.join(folder, entry.name))
            except FileNotFoundError:
                continue

    def write(self, target: str, content: bytes) -> None:
        """Write a file so that it is there completely or not at all, even after a loss of power."""
        path = self.root / target
        if not path.parent.resolve().is_relative_to(self.root.resolve()):  # before any folder is made
            raise ValueError(f"{path} is not inside {self.root}, a link leads out of it; remove the link")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(TEMPORARY)
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        if target == MANIFEST and os.name == "posix":  # a picture whose name is lost is drawn again, a manifest is not
            handle = os.open(self.root, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        self.files.add(target)

    def write_picture(self, target: str, picture: Image.Image, poses: str | None = None) -> None:
        """Write a picture as JPEG or PNG, as its name says; `poses` is a note in a PNG."""
        buffer = io.BytesIO()
        if target.lower().endswith((".jpg", ".jpeg")):
            picture.save(buffer, "JPEG", quality=95, subsampling=0)
        else:
            texts = require("PIL.PngImagePlugin", "ipg", PURPOSE).PngInfo()
            if poses is not None:
                texts.add_text("poses", poses)
            picture.save(buffer, "PNG", pnginfo=texts)
        self.write(target, buffer.getvalue())

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; the system lets go of it when a process ends, however it ends."""
        try:
            import fcntl
        except ImportError:
            log.warning("this system has no locks: take care that no second run works in %s", self.root)
            yield
            return
        with (self.root / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                    holder = (self.root / LOCK).read_text().strip() or "unknown"
                    raise ValueError(
                        f"another run (process {holder}) works in {self.root}; wait for it or end it"
                    ) from error
                log.warning("%s cannot be locked (%s): take care that no second run works in it", self.root, error)
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            try:
                yield
            finally:
                file.truncate(0)
