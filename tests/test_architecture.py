"""The direction of imports: reads every import statement of the package, also those inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import pose2id

PACKAGE = Path(pose2id.__file__).parent

# A room is a module or a folder directly under pose2id. Each may import itself and the rooms named here; ""
# is `pose2id` itself, which only the top may import: below, it would be a circle.
FOUNDATION = {"errors", "arrays"}
CORE = FOUNDATION | {
    "distances",
    "neighbors",
    "centralization",
    "reranking",
    "density",
    "evaluation",
    "parts",
    "gallery",
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "arrays": {"errors"},
    "distances": FOUNDATION,
    "neighbors": FOUNDATION | {"distances"},
    "centralization": FOUNDATION | {"distances", "neighbors"},
    "reranking": FOUNDATION | {"distances", "neighbors"},
    "parts": FOUNDATION | {"distances", "neighbors", "centralization", "reranking"},
    "gallery": FOUNDATION | {"distances", "neighbors", "centralization", "reranking"},
    "density": FOUNDATION | {"distances"},
    "evaluation": FOUNDATION | {"distances"},
    "ipg": FOUNDATION,
    # on top: nothing above imports these
    "files": FOUNDATION,
    "datasets": CORE,
    "plots": CORE,
    "integrations": CORE,
    "synthetic": CORE | {"ipg"},
    "demo": CORE | {"datasets", "plots"},
    "walkthrough": CORE | {"synthetic", "ipg", "plots"},
    "training_runs": CORE | {"synthetic", "datasets", "ipg"},
    "cli": CORE | {"files", "datasets", "plots", "demo", "synthetic", "ipg", "walkthrough", "training_runs", ""},
    # the front door: names for type checkers, the rest by name on first use
    "": CORE,
}
# Finer than a room: of ipg, only the poses are open to the synthetic world.
ONLY_THESE_MODULES = {("synthetic", "ipg"): {"pose2id.ipg.poses"}}


def module_name(path: Path) -> str:
    parts = ("pose2id", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def imported_modules(source: str, module: str, is_package: bool, known: set[str]) -> Iterator[tuple[int, str]]:
    """The modules of pose2id that `source` imports, as (line, full name)."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "pose2id":
                    yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")
                parents = parents[: len(parents) - node.level + is_package]
                base = ".".join([*parents, *filter(None, [node.module])])
            if base.split(".")[0] == "pose2id":
                for alias in node.names:  # `from pose2id import plots` imports a module, `... import rerank` a name
                    inner = f"{base}.{alias.name}"
                    yield node.lineno, inner if inner in known else base


def violations(source: str, module: str, is_package: bool = False, known: set[str] | None = None) -> list[str]:
    """What `source`, taken as the text of `module`, imports against the rules."""
    own = room(module)
    if own not in MAY_IMPORT:
        return [f"{module}: the room {own!r} has no row in MAY_IMPORT, add one"]
    found = []
    for line, target in imported_modules(source, module, is_package, known or set(MODULES)):
        other = room(target)
        where = f"{module}, line {line}: imports {target}"
        if other == own:
            continue
        if other not in MAY_IMPORT[own]:
            found.append(f"{where}, but {own or 'pose2id'!r} may import only {sorted(MAY_IMPORT[own])}")
        elif target not in ONLY_THESE_MODULES.get((own, other), {target}):
            found.append(f"{where}, but of {other!r} only {sorted(ONLY_THESE_MODULES[own, other])} is open to it")
        elif any(part.startswith("_") for part in target.split(".")):
            found.append(f"{where}, which is private to {other!r}")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_in_one_direction(module: str) -> None:
    path = MODULES[module]
    assert violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py") == []


@pytest.mark.parametrize("own", MAY_IMPORT)
def test_the_table_has_no_circle(own: str) -> None:
    reached: set[str] = set()
    waiting = set(MAY_IMPORT[own])
    while waiting:
        reached |= waiting
        waiting = {other for each in waiting for other in MAY_IMPORT[each]} - reached
    if own == "":  # its names are resolved on first use, so the top may import it
        reached.discard("cli")
    assert own not in reached


KNOWN = {
    "pose2id",
    "pose2id.arrays",
    "pose2id.cli",
    "pose2id.ipg",
    "pose2id.ipg.poses",
    "pose2id.ipg.training",
    "pose2id.neighbors",
    "pose2id.neighbors._exact",
    "pose2id.plots",
}


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pose2id.arrays", "from pose2id.plots import draw"),
        ("pose2id.arrays", "import pose2id.plots"),
        ("pose2id.arrays", "import numpy, pose2id.plots as p"),
        ("pose2id.arrays", "from pose2id import plots"),
        ("pose2id.arrays", "from pose2id import centralize"),
        ("pose2id.arrays", "import pose2id"),
        ("pose2id.arrays", "from . import plots"),
        ("pose2id.arrays", "from .plots import draw"),
        ("pose2id.arrays", "def late():\n    if True:\n        from pose2id.plots import draw"),
        ("pose2id.neighbors._exact", "from ..centralization import centralize"),
        ("pose2id.centralization", "from pose2id.neighbors._exact import search"),
        ("pose2id.centralization", "from pose2id.neighbors import _exact"),
        ("pose2id.evaluation", "from pose2id.neighbors import knn_graph"),
        ("pose2id.centralization", "from pose2id.ipg import IPGPipeline"),
        ("pose2id.ipg.training", "from pose2id.datasets import load_demo"),
        ("pose2id.synthetic", "from pose2id.ipg import training"),
        ("pose2id.plots", "from pose2id.cli import main"),
        ("pose2id.newroom", ""),
    ],
)
def test_a_forbidden_import_is_found(module: str, source: str) -> None:
    assert len(violations(source, module, known=KNOWN)) == 1


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        (
            "pose2id.arrays",
            False,
            "import numpy as np\nfrom pose2id.errors import require\nfrom .errors import require",
        ),
        ("pose2id.neighbors", True, "from ._exact import search\nfrom pose2id.neighbors import _exact"),
        ("pose2id.neighbors", True, "from ..arrays import like\nfrom .. import arrays"),
        ("pose2id.centralization", False, "from pose2id.neighbors import knn_graph"),
        ("pose2id.synthetic", False, "from pose2id.ipg.poses import Pose\nfrom pose2id.ipg import poses"),
        ("pose2id.cli", False, "from pose2id import __version__, plots\nimport pose2id.ipg.training"),
        ("pose2id", True, "from pose2id.neighbors import knn_graph"),
    ],
)
def test_an_allowed_import_is_not_reported(module: str, is_package: bool, source: str) -> None:
    assert violations(source, module, is_package, known=KNOWN) == []
