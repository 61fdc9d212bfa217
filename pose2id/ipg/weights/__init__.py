"""The released weights: where they are, how they are fetched, checked and converted.

Repositories, revisions and hashes are in `FILES` and nowhere else. `loading` reads the files. Importing this module
needs no extra; its functions need `ipg`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pose2id.errors import one_line, require
from pose2id.ipg.weights.loading import VAE_REPOSITORY, load_components

if TYPE_CHECKING:
    from pose2id.ipg.weights.loading import Config

REPOSITORY = "yuanc3/Pose2ID"
"""The authors' repository on the Hugging Face Hub."""
TINY = "tiny"
"""The name of the generator that ships with this package."""
FORMAT = 1
"""Version of what `convert` writes by default; a higher one makes every user convert again."""
PURPOSE = "pose2id.ipg.weights"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReleasedFile:
    """A file on the Hugging Face Hub.

    Attributes
    ----------
    repository, revision, name : str
        Where it is; the revision is a commit.
    what, licence : str
        What it holds, under which licence.
    numbers : int or None
        How many numbers it holds, from the architecture; None for a text file.
    size, sha256 : int or None, str or None
        Bytes and hash of its content; None where they are not known beforehand.
    """

    repository: str
    revision: str
    name: str
    what: str
    licence: str
    numbers: int | None
    size: int | None = None
    sha256: str | None = None

    @property
    def estimate(self) -> int | None:
        """Bytes if every number is a float32: an estimate, not the size of the file."""
        return None if self.numbers is None else 4 * self.numbers


_POSE2ID = (REPOSITORY, "27df92c15ebf2833a66eaa435460b7b71c3fa3be")
_VAE = (VAE_REPOSITORY, "31f26fdeee1355a5c34592e401dd41e45d25a493")
_LABEL = "MIT (label of the repository)"
FILES: tuple[ReleasedFile, ...] = (
    ReleasedFile(*_POSE2ID, "denoising_unet.pth", "denoising UNet, from Stable Diffusion 1.5", _LABEL, 859_520_964),
    ReleasedFile(*_POSE2ID, "reference_unet.pth", "reference UNet, from Stable Diffusion 1.5", _LABEL, 859_508_800),
    ReleasedFile(*_POSE2ID, "IFR.pth", "identity features to tokens", _LABEL, 58_999_296),
    ReleasedFile(*_POSE2ID, "pose_guider.pth", "pose encoder", _LABEL, 514_896),
    ReleasedFile(*_POSE2ID, "transformer_20.pth", "identity encoder, TransReID ViT-B/16", _LABEL, 103_656_429),
    ReleasedFile(
        *(*_VAE, "config.json", "sizes of the autoencoder", "MIT", None, 547),
        sha256="92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e",
    ),
    ReleasedFile(
        *(*_VAE, "diffusion_pytorch_model.safetensors", "autoencoder", "MIT", 83_653_863, 334_643_276),
        sha256="a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
    ),
)


def download(names: Iterable[str] | None = None, *, progress: bool = True) -> Path:
    """Fetch released files into the cache of the Hugging Face Hub, at their pinned revisions.

    What is there already is not fetched again, what broke off goes on. Nothing is asked. HF_HOME, HF_ENDPOINT and
    HF_HUB_OFFLINE are honoured.

    Parameters
    ----------
    names : iterable of str, optional
        Of the names in `FILES`; None: all.
    progress : bool
        Bars on stderr.

    Returns
    -------
    pathlib.Path
        The folder of the first of these files, in the order of `FILES`; for None the one that `load_components` reads.

    Raises
    ------
    OSError
        When a file is not there and cannot be fetched; says where it was looked for and what to do.
    ValueError
        For an unknown name, and for a file whose size or SHA-256 is not that of `FILES`.
    """
    known = [file.name for file in FILES]
    wanted = known if names is None else list(names)
    if not wanted or not set(wanted) <= set(known):
        raise ValueError(f"names must be one or more of {', '.join(known)}; received {wanted!r}")
    hidden = require("huggingface_hub.utils", "ipg", PURPOSE).disable_progress_bars
    with nullcontext() if progress else hidden():
        paths = [_fetch(file) for file in FILES if file.name in wanted]
    return paths[0].parent


def _fetch(file: ReleasedFile) -> Path:
    hub = require("huggingface_hub", "ipg", PURPOSE)
    constants = require("huggingface_hub.constants", "ipg", PURPOSE)
    try:
        there = isinstance(hub.try_to_load_from_cache(file.repository, file.name, revision=file.revision), str)
        if not there and not constants.HF_HUB_OFFLINE:
            _resume(file, hub, constants.HF_HUB_CACHE)
        path = Path(hub.hf_hub_download(file.repository, file.name, revision=file.revision))
    except Exception as error:  # of the Hub's client, its HTTP library, or the disk
        reason = f"{constants.ENDPOINT} did not give it: {one_line(error, 300)}"
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE forbids to fetch it"
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else OSError)(
            f"{file.name} of {file.repository} (revision {file.revision}) is not in {constants.HF_HUB_CACHE}, and "
            f"{reason}. With a connection, run: pose2id weights download (goes on where it broke off)"
        ) from error
    faults = []
    if file.size is not None and path.stat().st_size != file.size:
        faults.append(f"has {path.stat().st_size} bytes, must have {file.size}")
    elif file.sha256 is not None and (found := _hash(path)) != file.sha256:
        faults.append(f"has SHA-256 {found}, must have {file.sha256}")
    if faults:  # the path in the cache is a link to the file
        raise ValueError(f"{path} {faults[0]}; delete {path.resolve()} and run: pose2id weights download")
    return path


def _resume(file: ReleasedFile, hub: Any, cache: str) -> None:
    """Bring a large file into the Hub's cache, going on where an earlier attempt broke off.

    The Hub's client starts a broken file anew since its version 1.31 (its pull request 4228). It takes a blob that
    is in its cache for downloaded, so the blob is put there, checked, and all the rest is left to it.
    """
    url = hub.hf_hub_url(file.repository, file.name, revision=file.revision)
    known = hub.get_hf_file_metadata(url)
    if known.size is None or not re.fullmatch(r"[0-9a-f]{64}", known.etag or ""):
        return  # small, kept by Git itself: the name of its blob is not the hash of its content
    folder = f"models--{file.repository.replace('/', '--')}"
    blob = Path(cache, folder, "blobs", known.etag)
    partial = blob.with_name(f"{blob.name}.pose2id")
    lock = Path(cache, ".locks", folder, f"{partial.name}.lock")
    for path in (blob, lock):
        path.parent.mkdir(parents=True, exist_ok=True)
    utils = require("huggingface_hub.utils", "ipg", PURPOSE)
    with utils.WeakFileLock(lock):
        if blob.exists():
            return
        with partial.open("ab") as stream:
            if stream.tell() > known.size:
                stream.seek(0)
                stream.truncate()
            require("huggingface_hub.file_download", "ipg", PURPOSE).http_get(
                url,
                stream,
                resume_size=stream.tell(),
                headers=utils.build_hf_headers(),
                expected_size=known.size,
                displayed_filename=file.name,
            )
        if (found := _hash(partial)) != known.etag:
            partial.unlink()
            raise OSError(f"what came has SHA-256 {found}, must have {known.etag}; it was deleted, try again")
        partial.replace(blob)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def converted_folder() -> Path:
    """Where the released weights are kept as safetensors: beside the Hub's cache, HF_HOME/pose2id/..."""
    home = require("huggingface_hub.constants", "ipg", PURPOSE).HF_HOME
    return Path(home, "pose2id", f"{REPOSITORY.replace('/', '--')}-{FILES[0].revision[:12]}-{FORMAT}")


def convert(
    folder: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    *,
    config: Config = None,
    vae: Any = None,
) -> Path:
    """Write files with the released names as one folder that `IPGPipeline.from_pretrained` reads.

    The folder appears when it is complete: it is written under a temporary name beside it and renamed. Of several
    processes that convert into the default folder at once one does, and the others wait for it.

    Parameters
    ----------
    folder : path, optional
        As for `load_components`. None: the released files, downloaded where they are not there.
    output : path, optional
        The folder to write. None: `converted_folder`, where ``from_pretrained("yuanc3/Pose2ID")`` looks.
    config, vae : optional
        As for `load_components`; need an `output`.

    Returns
    -------
    pathlib.Path
        The folder. Without `folder` and `output` it may have been converted before.

    Raises
    ------
    ValueError
        When the folder exists already, and as `load_components`.
    OSError
        When a file is missing or the folder cannot be written.
    """
    target = converted_folder() if output is None else Path(output)
    if output is None and (config is not None or vae is not None):
        raise ValueError(f"{target} is for the released weights; with config or vae, name another output")
    if target.exists() and (folder is not None or output is not None):
        raise ValueError(f"{target} exists already; delete it or name another output")
    if output is not None:
        return _write_folder(folder, target, config, vae)
    if (target / "model_index.json").is_file():  # also where nothing may be written
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with require("huggingface_hub.utils", "ipg", PURPOSE).WeakFileLock(f"{target}.lock"):
        if (target / "model_index.json").is_file():
            return target
        for left in target.parent.glob(f".{target.name}.*"):  # of a process that was killed: we have the lock
            shutil.rmtree(left, ignore_errors=True)
        return _write_folder(folder, target, None, None)


def _write_folder(folder: str | os.PathLike[str] | None, target: Path, config: Config, vae: Any) -> Path:
    components = load_components(download() if folder is None else folder, config, vae)
    from pose2id.ipg.pipeline import IPGPipeline

    log.info("converting the weights into %s", target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            IPGPipeline(**components).save_pretrained(temporary)
            umask = os.umask(0)
            os.umask(umask)
            for path in (temporary, *temporary.rglob("*")):  # temporary files are private, a result is not
                path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except Exception as error:  # for a full disk, safetensors raises an error of its own
        raise OSError(f"{target} cannot be written: {one_line(error, 300)}") from error
    return target


def tiny_folder() -> Path:
    """Where the small generator is that ships with this package; its README.md says how it was trained."""
    return Path(str(files("pose2id").joinpath("data", TINY)))


def from_hub(repository: str = REPOSITORY) -> Path:
    """The released weights as a folder of `save_pretrained`; downloaded and converted on the first call.

    Raises
    ------
    OSError, ValueError
        For a repository other than "yuanc3/Pose2ID", and as `convert`.
    """
    if repository != REPOSITORY:
        raise ValueError(f"repository must be {REPOSITORY!r}; received {repository!r}")
    return convert()


def info() -> list[dict[str, Any]]:
    """What the released weights are and which of them are on this machine; nothing is fetched.

    Returns
    -------
    list of dict
        One for each of `FILES`: its fields, "estimate" (bytes if all numbers are float32), "path" (None where it is
        not in the Hub's cache) and "bytes" (size on this machine, or None). The last one is the converted folder.
    """
    find = require("huggingface_hub", "ipg", PURPOSE).try_to_load_from_cache
    rows: list[dict[str, Any]] = []
    for file in FILES:
        found = find(file.repository, file.name, revision=file.revision)
        path = Path(found) if isinstance(found, str) else None  # else None, or an object: known not to exist
        rows.append(asdict(file) | {"estimate": file.estimate, "path": path, "bytes": path and path.stat().st_size})
    row = dict.fromkeys(rows[0])
    row |= {"name": "converted", "what": "all of these, as from_pretrained reads them", "licence": "as its sources"}
    if ((folder := converted_folder()) / "model_index.json").is_file():
        row["path"] = folder
        row["bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return [{**row, "path": row["path"] and str(row["path"])} for row in [*rows, row]]


def model_card() -> str:
    """The README.md that `IPGPipeline.save_pretrained` writes: sources, licences, intended use, limits.

    Examples
    --------
    >>> from pose2id.ipg.weights import model_card
    >>> print(model_card().splitlines()[1])
    library_name: diffusers
    """
    sources = [
        f"| {file.name} | {file.what} | {file.repository}, revision {file.revision} | {file.licence} |"
        for file in FILES
        if file.numbers is not None
    ]
    card = files("pose2id").joinpath("data", "model_card.md").read_text(encoding="utf-8")
    return card.replace("SOURCES", "\n".join(sources))
