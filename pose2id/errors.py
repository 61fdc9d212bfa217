"""The one door through which optional packages are imported; errors in one line, and what they say of the machine."""

from __future__ import annotations

import errno
import re
import unicodedata
from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches
from functools import partial
from importlib import import_module
from types import ModuleType

__all__ = [
    "MissingExtraError",
    "escape",
    "explain_write",
    "hide_passwords",
    "is_out_of_memory",
    "nearest",
    "one_line",
    "require",
    "suggest",
]


class MissingExtraError(ImportError):
    """An optional package is needed and cannot be used.

    Parameters
    ----------
    message : str
        The whole sentence shown to the user.
    extra : str
        The extra of pose2id that installs the package, such as ``"plots"``.
    package : str
        The package that could not be imported, such as ``"matplotlib"``; also ``name``, as on every `ImportError`.
    """

    def __init__(self, message: str, *, extra: str, package: str) -> None:
        super().__init__(message, name=package)
        self.extra = extra
        self.package = package

    def __reduce__(self) -> tuple[object, ...]:
        # An error raised in a worker process is pickled on its way home; ImportError would drop our keywords.
        return partial(type(self), extra=self.extra, package=self.package), (str(self),)


def require(module_name: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module, or say how to install it.

    Parameters
    ----------
    module_name : str
        The module to import, dotted or not: ``"matplotlib.figure"``.
    extra : str
        The extra of pose2id that installs it: ``"plots"``.
    purpose : str
        Who needs it; the first words of the message: ``"pose2id.plots"``.

    Returns
    -------
    module
        For a dotted name the innermost one.

    Raises
    ------
    MissingExtraError
        If the package is not installed, or is installed and fails while it is imported. The two cases have
        different messages, because installing the extra again rarely repairs a broken installation.

    Examples
    --------
    >>> from pose2id.errors import require
    >>> require("numpy.linalg", "all", "this example").__name__
    'numpy.linalg'
    >>> require("nosuch", "plots", "Plot")
    Traceback (most recent call last):
        ...
    pose2id.errors.MissingExtraError: Plot needs nosuch, which is not installed: pip install 'pose2id[plots]'
    """
    package = module_name.partition(".")[0]
    try:
        import_module(package)  # first: where it is hidden by a None in sys.modules, "package.inner" fails otherwise
        return import_module(module_name)
    except Exception as error:  # compiled packages fail with RuntimeError, OSError or AttributeError as well
        if isinstance(error, ModuleNotFoundError) and error.name == package:
            message = f"{purpose} needs {package}, which is not installed: pip install 'pose2id[{extra}]'"
        else:
            message = (
                f"{purpose} needs {package}, which is installed but cannot be imported "
                f"({type(error).__name__}: {error}): pip install --force-reinstall 'pose2id[{extra}]'"
            )
        if is_out_of_memory(error):
            raise MemoryError(f"{purpose} needs {package}, whose import ran out of memory ({error})") from error
        raise MissingExtraError(message, extra=extra, package=package) from error


_SHORTAGE = re.compile(
    r"out of memory|not enough memory|can(not|'t) allocate memory|unable to allocate|bad_alloc|alloc_failed"
    r"|os error 12\b|failed to map segment|can't start new thread",
    re.IGNORECASE,
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or what it was raised from, says that memory is short; each library has its own way to say so.

    Examples
    --------
    >>> from pose2id.errors import is_out_of_memory
    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"))
    True
    >>> is_out_of_memory(ValueError("k1 must be an integer"))
    False
    """
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    # Others quote what they were given, which may be a file called "out of memory.npz".
    said = not isinstance(error, ValueError | TypeError | OSError) and _SHORTAGE.search(str(error))
    return bool(said) or (error.__cause__ is not None and is_out_of_memory(error.__cause__))


def explain_write(error: Exception) -> str:
    """What kept something from being written, in words; empty for an error that is not of the system.

    Examples
    --------
    >>> from pose2id.errors import explain_write
    >>> explain_write(OSError(28, "No space left on device"))
    '[Errno 28] No space left on device'
    """
    number = error.errno if isinstance(error, OSError) else None
    if not number and (told := re.search(r"\(os error (\d+)\)", str(error))):  # what is written in Rust says it so
        number = int(told[1])
    if number == errno.EFBIG:
        return f"it grows beyond what the file system, or a limit (ulimit -f), allows ({error})"
    return str(error) if number or isinstance(error, OSError) else ""


def escape(text: str) -> str:
    r"""A text in one line that a terminal can show, all else in it as backslash escapes.

    So are line ends, escape sequences, marks that change the direction of writing, and bytes of file names that are no
    text; blanks of all widths stay.

    Examples
    --------
    >>> from pose2id.errors import escape
    >>> print(escape("a\x1b[31m\nb"))
    a\x1b[31m\nb
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def one_line(error: BaseException, limit: int | None = None) -> str:
    r"""What an error says, by `escape`, at most `limit` characters long; the name of its class if nothing.

    Of several lines the ends become blanks.

    Examples
    --------
    >>> from pose2id.errors import one_line
    >>> one_line(ValueError("first line\n  second line"))
    'first line second line'
    >>> one_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return escape(" ".join(str(error).split())[:limit])[:limit] or type(error).__name__


_PASSWORD = re.compile(r"(:/{0,3}[^\s/:@]*:)\S+@|\b((?:ssl)?password=)[^\s&'\"]+")


def hide_passwords(text: str) -> str:
    """A text without the passwords of URLs, also of ones that are written wrongly.

    Examples
    --------
    >>> from pose2id.errors import hide_passwords
    >>> hide_passwords("cannot read 'postgresql:/me:s3/cret@host/people?password=s3cret&a=b'")
    "cannot read 'postgresql:/me:***@host/people?password=***&a=b'"
    """
    return _PASSWORD.sub(lambda found: f"{found[1]}***@" if found[1] else f"{found[2]}***", text)


def nearest(word: str, names: Iterable[str], likeness: float = 0.6) -> str | None:
    """Which of the names was probably meant by a word that is none of them, or None.

    Examples
    --------
    >>> from pose2id.errors import nearest
    >>> nearest("Market", ["market1501", "mars"]), nearest("hnsw", ["faiss", "faiss-hnsw"]), nearest("x", ["mars"])
    ('market1501', 'faiss-hnsw', None)
    """
    folded = {name.casefold(): name for name in names}
    close = get_close_matches(word.casefold(), folded, n=1, cutoff=likeness)
    close += [name for name in folded if len(word) > 2 and word.casefold() in name][:1]
    return folded[close[0]] if close else None


def suggest(word: object, names: Iterable[str]) -> str:
    """What an error on an unknown name ends with: the nearest one and all that are about as near, or nothing.

    Examples
    --------
    >>> from pose2id.errors import suggest
    >>> suggest("exat", ["auto", "exact"]), suggest("magic", ["auto", "exact"])
    ("; did you mean 'exact'?", '')
    >>> suggest("--cams", ["--top", "--only-cams", "--not-cams"])  # the nearest alone would be the opposite
    "; did you mean '--only-cams' or '--not-cams'?"
    """
    names = list(names)
    name = nearest(word, names) if isinstance(word, str) else None
    if name is None:
        return ""
    bare = str(word).casefold().lstrip("-")  # dashes, which all options begin with, make none of them nearer
    likeness = {each: SequenceMatcher(None, each.casefold().lstrip("-"), bare).ratio() for each in names}
    least = max(0.5, likeness[name] - 0.1)
    near = [each for each in names if likeness[each] >= least] or [name]
    return f"; did you mean {' or '.join(map(repr, near))}?"
