"""The one door through which optional packages are imported, its error when one is missing; errors in one line."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from types import ModuleType

__all__ = ["MissingExtraError", "one_line", "require"]


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
        raise MissingExtraError(message, extra=extra, package=package) from error


def one_line(error: BaseException, limit: int | None = None) -> str:
    r"""What an error says, without line ends and at most `limit` characters long; the name of its class if nothing.

    Examples
    --------
    >>> from pose2id.errors import one_line
    >>> one_line(ValueError("first line\n  second line"))
    'first line second line'
    >>> one_line(KeyboardInterrupt())
    'KeyboardInterrupt'
    """
    return " ".join(str(error).split())[:limit] or type(error).__name__
