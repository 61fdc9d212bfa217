"""Files from the Hugging Face Hub: fetched at a pinned revision, gone on with where they broke off, checked.

Needs huggingface_hub (extra `ipg`) when called. HF_HOME, HF_ENDPOINT and HF_HUB_OFFLINE are honoured.
"""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from pose2id.atomic import lock
from pose2id.errors import one_line, require

__all__ = ["fetch", "hash_file"]

log = logging.getLogger(__name__)


def fetch(
    repository: str,
    filename: str,
    revision: str,
    *,
    size: int | None = None,
    sha256: str | None = None,
    purpose: str = "pose2id.hub",
    again: str = "try again (goes on where it broke off)",
) -> Path:
    """Bring a file into the cache of the Hugging Face Hub, unless it is there, and check it.

    Parameters
    ----------
    repository, filename, revision : str
        Where it is; the revision is a commit.
    size, sha256 : int and str, optional
        What its content must have, in bytes and hexadecimal digits. None: not checked.
    purpose : str
        Who needs huggingface_hub, for the error where it is missing.
    again : str
        What the user is to do when it failed; ends a sentence in the errors.

    Returns
    -------
    pathlib.Path
        The file in the cache.

    Raises
    ------
    MissingExtraError
        Without huggingface_hub.
    OSError
        When the file is not there and cannot be fetched; FileNotFoundError where HF_HUB_OFFLINE forbids it.
    ValueError
        When it has another size or SHA-256.
    """
    client, constants = (require(name, "ipg", purpose) for name in ("huggingface_hub", "huggingface_hub.constants"))
    try:
        try:
            _resume(repository, filename, revision, purpose)
        except (AttributeError, ImportError, TypeError) as error:  # another version, without what _resume uses
            log.warning("huggingface_hub has changed (%s): %s is fetched anew where it broke off", error, filename)
        path = Path(client.hf_hub_download(repository, filename, revision=revision))
    except Exception as error:  # of the Hub's client, its HTTP library, or the disk
        reason = f"{constants.ENDPOINT} did not give it: {one_line(error, 300)}"
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE forbids to fetch it"
        raise (FileNotFoundError if isinstance(error, FileNotFoundError) else OSError)(
            f"{filename} of {repository} (revision {revision}) is not in {constants.HF_HUB_CACHE}, and {reason}. "
            f"With a connection, {again}"
        ) from error
    fault = ""
    if size is not None and path.stat().st_size != size:
        fault = f"has {path.stat().st_size} bytes, must have {size}"
    elif sha256 is not None and (found := hash_file(path)) != sha256:
        fault = f"has SHA-256 {found}, must have {sha256}"
    if fault:  # the path in the cache is a link to the file
        raise ValueError(f"{path} {fault}; delete {path.resolve()} and {again}")
    return path


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _resume(repository: str, filename: str, revision: str, purpose: str) -> None:
    """Bring a large file into the Hub's cache, going on where an earlier attempt broke off.

    The Hub's client starts a broken file anew since its version 1.31 (its pull request 4228). It takes a blob that
    is in its cache for downloaded, so the blob is put there, checked, and all the rest is left to it.
    """
    client, constants, utils, downloads = (
        require(f"huggingface_hub{part}", "ipg", purpose) for part in ("", ".constants", ".utils", ".file_download")
    )
    found = client.try_to_load_from_cache(repository, filename, revision=revision)
    if isinstance(found, str) or constants.HF_HUB_OFFLINE:
        return
    url = client.hf_hub_url(repository, filename, revision=revision)
    known = client.get_hf_file_metadata(url)
    if known.size is None or not re.fullmatch(r"[0-9a-f]{64}", known.etag or ""):
        return  # small, kept by Git itself: the name of its blob is not the hash of its content
    folder = f"models--{repository.replace('/', '--')}"
    blob = Path(constants.HF_HUB_CACHE, folder, "blobs", known.etag)
    partial = blob.with_name(f"{blob.name}.pose2id")
    held = Path(constants.HF_HUB_CACHE, ".locks", folder, f"{partial.name}.lock")
    for path in (blob, held):
        path.parent.mkdir(parents=True, exist_ok=True)
    with lock(held, wait=True):
        if blob.exists():
            return
        with partial.open("ab") as stream:
            if stream.tell() > known.size:
                stream.seek(0)
                stream.truncate()
            sizes = {"resume_size": stream.tell(), "expected_size": known.size}
            downloads.http_get(url, stream, headers=utils.build_hf_headers(), displayed_filename=filename, **sizes)
        if (digest := hash_file(partial)) != known.etag:
            partial.unlink()
            raise OSError(f"what came has SHA-256 {digest}, must have {known.etag}; it was deleted, try again")
        partial.replace(blob)
