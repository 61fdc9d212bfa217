"""What adapters share: `Sides` centralizes queries and gallery, `replaced` and `imported` reach into a framework."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from pose2id.centralization import centralize, check_parameters
from pose2id.validation import is_tensor

_MISSING = object()
_LOCK = Lock()
_ENDED: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
"""Of blocks that have ended what their methods had replaced."""


@dataclass(frozen=True, kw_only=True)
class Sides:
    """How the two sides of an evaluation are centralized, each by itself.

    Attributes
    ----------
    k1, k2, alpha, eta, normalize, engine
        As for `pose2id.centralize`.
    exclude : {None, "cams"}
        "cams": neighbours come from other cameras only, by the cameras that the framework holds.
    query_generated, gallery_generated : (N, M, D) array, optional
        Generated features of each side, rows as the framework's.

    Raises
    ------
    TypeError, ValueError
        For what is none of these, at once, not after an hour of extracting features.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.integrations.sides import Sides
    >>> gallery = np.array([[1.0, 0.0], [0.8, 0.6]])
    >>> query, gallery = Sides(k1=1, k2=1, exclude="cams").centralize(gallery[:1], gallery, [0], [0, 0])
    >>> gallery.tolist()  # no row has a neighbour: there is one camera
    [[1.0, 0.0], [0.8, 0.6]]
    """

    k1: int = 2
    k2: int = 2
    alpha: float = 0.0
    eta: float = 1.0
    normalize: bool = True
    exclude: str | None = None
    engine: str = "auto"
    query_generated: Any = None
    gallery_generated: Any = None

    def __post_init__(self) -> None:
        check_parameters(self.eta, self.k1, self.k2, self.alpha, self.normalize, self.engine)
        if self.exclude is not None and not (isinstance(self.exclude, str) and self.exclude == "cams"):
            shown = self.exclude if isinstance(self.exclude, str) else type(self.exclude).__name__
            raise ValueError(
                f"exclude must be None or 'cams', received {shown!r}; the framework holds the cameras itself"
            )
        for name in ("query_generated", "gallery_generated"):
            views = getattr(self, name)
            if views is not None and not (is_tensor(views) or isinstance(views, np.ndarray | list | tuple)):
                raise TypeError(f"{name} must be a (N, M, D) array or tensor, received {type(views).__name__}")

    def centralize(self, query: Any, gallery: Any, query_cams: Any, gallery_cams: Any) -> tuple[Any, Any]:
        """The rows of both sides, centralized; cameras count with `exclude="cams"` only."""
        settings: dict[str, Any] = {name: getattr(self, name) for name in ("eta", "k1", "k2", "alpha", "normalize")}
        sides = ((query, self.query_generated, query_cams), (gallery, self.gallery_generated, gallery_cams))
        settings["engine"] = self.engine
        query, gallery = (
            centralize(rows, _as_rows(views, rows), exclude=cams if self.exclude else None, **settings)
            for rows, views, cams in sides
        )
        return query, gallery


def _as_rows(views: Any, rows: Any) -> Any:
    """Generated features as an array of the kind of `rows`: frameworks hold tensors, feature files numpy arrays."""
    if views is None or not is_tensor(rows):
        return views
    if isinstance(views, list | tuple):
        return [torch.as_tensor(each, device=rows.device) for each in views]
    return torch.as_tensor(views, device=rows.device)


@contextmanager
def replaced(target: Any, name: str, method: Callable[..., Any]) -> Iterator[None]:
    """Exchange a method of a class or of one object, or a function of a module, until the block ends.

    Parameters
    ----------
    target
        A class, an object or a module.
    name : str
        Of the method.
    method : callable
        Called in its place, with two more arguments before the others: what was there, already bound, and the object.

    Raises
    ------
    TypeError
        If the target has no such method.

    Examples
    --------
    >>> from pose2id.integrations.sides import replaced
    >>> class Evaluator:
    ...     def evaluate(self, factor):
    ...         return factor
    >>> with replaced(Evaluator, "evaluate", lambda before, evaluator, factor: before(factor) + 1):
    ...     Evaluator().evaluate(2)
    3
    >>> Evaluator().evaluate(2)
    2
    """
    before: Any = getattr(target, name, None)
    if not callable(before):
        kind = target.__name__ if isinstance(target, type | ModuleType) else type(target).__name__
        raise TypeError(f"{kind} has no method {name}, so it is not what this adapter is for")

    def of_class(self: Any, *args: Any, **kwargs: Any) -> Any:
        if new in _ENDED:
            return before(self, *args, **kwargs)
        return method(partial(before, self), self, *args, **kwargs)

    def of_object(*args: Any, **kwargs: Any) -> Any:
        return before(*args, **kwargs) if new in _ENDED else method(before, target, *args, **kwargs)

    new = of_class if isinstance(target, type) else of_object
    with _LOCK:
        before = getattr(target, name)
        own = vars(target).get(name, _MISSING)
        setattr(target, name, new)
    try:
        yield
    finally:
        # Blocks of several threads end in any order: one that is not the last to have begun stays, and does nothing.
        with _LOCK:
            _ENDED[new] = own
            if vars(target).get(name) is new:
                while own in _ENDED:
                    own = _ENDED[own]
                if own is _MISSING:
                    delattr(target, name)
                else:
                    setattr(target, name, own)


def imported(owner: Any, name: str, member: str) -> Any:
    """A module as the file of an object's class imported it, by which of the framework's releases is in use.

    Parameters
    ----------
    owner
        An object of the framework, also of a class that was derived elsewhere.
    name, member : str
        The name of the module in that file, and something it must have.

    Raises
    ------
    TypeError
        If no class of the object stands in a file that has it.

    Examples
    --------
    >>> from pose2id.integrations.sides import imported, Sides
    >>> imported(Sides(), "inspect", "unwrap").__name__
    'inspect'
    """
    for kind in type(owner).__mro__:
        for method in filter(callable, vars(kind).values()):
            module = getattr(inspect.unwrap(method), "__globals__", {}).get(name)
            if hasattr(module, member):
                return module
    raise TypeError(
        f"{type(owner).__name__} is not what this adapter is for: no file of its classes imports {name}.{member}"
    )
