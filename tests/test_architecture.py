"""The direction of imports: reads every import statement of the package and of the tests, also inside functions."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

import pose2id

PACKAGE = Path(pose2id.__file__).parent

# A room is a module or a folder directly under pose2id. Rooms stand in layers and may import lower layers only, of
# their own layer what SAME_LAYER names, and of a lower one only what ONLY_THESE names, where it names something.
LAYERS = (
    {"errors", "arrays", "validation", "atomic", "documents", "matlab", "tables", "threads", "progress"},
    {"distances", "duplicates", "images", "labels", "poses", "formats", "files", "hub", "onnx", "training"},
    {"neighbors", "reciprocal"},
    {"centralization", "density", "jaccard", "reranking", "evaluation", "parts", "attributes"},
    {"study", "gallery", "distributed"},
    {"datasets", "synthetic", "encoders", "plots", "ipg"},
    {"report", "integrations", "programs"},
    {"cli"},
)
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}
SAME_LAYER = {
    "arrays": {"threads", "validation"},
    "atomic": {"errors"},
    "documents": {"errors"},
    "tables": {"errors"},
    "validation": {"errors"},
    "poses": {"files", "hub", "images", "onnx"},
    "onnx": {"hub"},
    "training": {"formats"},
    "files": {"formats", "images", "labels"},
    "parts": {"centralization", "density", "evaluation", "reranking"},
    "report": {"programs"},
}
ONLY_THESE = {
    "ipg": LAYERS[0] | LAYERS[1],
    "encoders": LAYERS[0] | LAYERS[1] | {"parts", "attributes", "evaluation"},
}
NOBODY_IMPORTS = {"integrations"}
# Names by which older programs import a room; they import that room and nothing else. "" is `pose2id` itself: names
# for type checkers, the rest by name on first use. It stands below the command line and above everything it names.
FRONT = {
    "": {"errors", "centralization", "density", "evaluation", "jaccard", "neighbors", "reranking"},
    "walkthrough": {"programs"},
    "__main__": {"cli"},
}
# Each optional package, and tqdm for its lock, is imported in one file, that others ask.
ONE_FILE = {
    "dask": "pose2id.distributed.sources",
    "distributed": "pose2id.distributed.sources",
    "faiss": "pose2id.neighbors._faiss",
    "matplotlib": "pose2id.plots.drawing",
    "oml": "pose2id.integrations.oml",
    "onnxruntime": "pose2id.onnx",
    "psycopg": "pose2id.gallery.postgresql",
    "pymilvus": "pose2id.gallery.stores.milvus",
    "sklearn": "pose2id.integrations.sklearn",
    "sqlalchemy": "pose2id.gallery.schema",
    "torchmetrics": "pose2id.integrations.torchmetrics",
    "tqdm": "pose2id.progress",
    "zarr": "pose2id.distributed.sources",
}


def may_import(own: str, other: str) -> bool:
    """Whether room `own` may import room `other`."""
    if own in FRONT:
        return other in FRONT[own]
    if other in FRONT:
        return own == "cli" and other == ""
    if other in NOBODY_IMPORTS or other not in LAYER:
        return False
    if LAYER[own] == LAYER[other]:
        return other in SAME_LAYER.get(own, set())
    return LAYER[other] < LAYER[own] and other in ONLY_THESE.get(own, {other})


def module_name(path: Path) -> str:
    parts = ("pose2id", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def nodes(source: str) -> list[ast.AST]:
    """All nodes of a text, which every rule asks for."""
    return list(ast.walk(ast.parse(source)))


@pytest.fixture(scope="module", autouse=True)
def _forget_nodes() -> Iterator[None]:
    yield
    nodes.cache_clear()


def room(module: str) -> str:
    return [*module.split("."), ""][1]


def imported_modules(source: str, module: str, is_package: bool, known: set[str]) -> Iterator[tuple[int, str]]:
    """The modules of pose2id that `source` imports, as (line, full name)."""
    for node in nodes(source):
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
    if own not in LAYER and own not in FRONT:
        return [f"{module}: the room {own!r} stands in no layer, add it to LAYERS"]
    found = []
    for line, target in imported_modules(source, module, is_package, known or set(MODULES)):
        other = room(target)
        where = f"{module}, line {line}: imports {target}"
        if other == own:
            continue
        if not may_import(own, other):
            found.append(f"{where}, but {own or 'pose2id'!r} may not import {other or 'pose2id'!r}")
        elif any(part.startswith("_") for part in target.split(".")):
            found.append(f"{where}, which is private to {other!r}")
    return found


def test_imports_go_in_one_direction() -> None:
    found = []
    for module, path in MODULES.items():
        found += violations(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert found == []


def circles(sources: Mapping[str, tuple[str, bool]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle; `sources` gives text, and whether it is a package, by name.

    Every import counts: for types only, inside a function. `from pose2id.x import name` counts for the module that is
    named, not for the packages it lies in.
    """
    targets = {
        module: {target for _, target in imported_modules(source, module, is_package, set(sources))} & set(sources)
        for module, (source, is_package) in sources.items()
    }
    names = sorted(sources)
    at = {name: number for number, name in enumerate(names)}
    rows = [at[module] for module in names for _ in targets[module]]
    columns = [at[target] for module in names for target in targets[module]]
    graph = csr_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(len(names), len(names)))
    _, group = connected_components(graph, directed=True, connection="strong")
    found = [[name for name in names if group[at[name]] == number] for number in range(group.max() + 1)]
    return [members for members in found if len(members) > 1 or members[0] in targets[members[0]]]


def test_no_two_modules_form_a_circle() -> None:
    sources = {name: (path.read_text(encoding="utf-8"), path.name == "__init__.py") for name, path in MODULES.items()}
    # The front door resolves its names on first use; for the command line it is only the version.
    sources["pose2id"] = ("", True)
    assert circles(sources) == []


@pytest.mark.parametrize(
    "late",
    [
        "from pose2id.two import name",
        "import pose2id.two",
        "from . import two",
        "from pose2id import two",
        "if TYPE_CHECKING:\n    from pose2id.two import Name",
        "def late():\n    from pose2id.two import name",
        "from pose2id.three import name",
    ],
)
def test_a_circle_is_found(late: str) -> None:
    sources = {
        "pose2id": ("", True),
        "pose2id.one": (late, False),
        "pose2id.two": ("from pose2id.one import other", False),
        "pose2id.three": ("from pose2id.two import name", False),
        "pose2id.four": ("import pose2id.one", False),
    }
    members = ["pose2id.one", "pose2id.three", "pose2id.two"] if "three" in late else ["pose2id.one", "pose2id.two"]
    assert circles(sources) == [members]


# The imports that stand inside functions, each with its reason; anything else stands at the top of its module.
LATE_IMPORTS = {
    ("pose2id.ipg.weights.conversion", "pose2id.ipg.weights"),  # loading needs diffusers, the list of weights does not
    ("pose2id.neighbors._faiss", "faiss"),  # optional, and only after torch
    ("pose2id.integrations.oml", "oml.functional.knn"),  # optional, and the docstring is read without it
    ("pose2id.integrations.oml", "oml.retrieval.retrieval_results"),  # likewise
    ("pose2id.cli.extract", "pose2id.ipg"),  # the generator needs diffusers, photographs and ONNX models do not
    ("pose2id.programs.extraction.encoders", "pose2id.ipg"),  # likewise
}


def late_imports(source: str) -> set[str]:
    """What `source` imports inside functions, by the names of the modules."""
    found = set()
    for function in nodes(source):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            for node in ast.walk(function):
                if isinstance(node, ast.Import):
                    found |= {alias.name for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    found.add("." * node.level + (node.module or ""))
    return found


def test_imports_stand_at_the_top() -> None:
    sources = {module: path.read_text(encoding="utf-8") for module, path in MODULES.items()}
    assert {(module, name) for module, source in sources.items() for name in late_imports(source)} == LATE_IMPORTS


def test_a_late_import_is_found() -> None:
    assert late_imports(
        "import one\nclass A:\n    def f(self):\n        if True:\n            from two.x import y"
    ) == {"two.x"}


def optional_imports(source: str) -> set[str]:
    """Packages of ONE_FILE that `source` imports, by a statement or by `require`."""
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
            names = [node.args[0].value] if node.args and isinstance(node.args[0], ast.Constant) else []
        else:
            continue
        found |= {name.partition(".")[0] for name in names} & {*ONE_FILE, "diffusers"}
    return found


def test_optional_packages_are_imported_in_one_place() -> None:
    for module, path in MODULES.items():
        allowed = {package for package, home in ONE_FILE.items() if home == module}
        allowed |= {"diffusers"} if room(module) == "ipg" else set()
        assert optional_imports(path.read_text(encoding="utf-8")) <= allowed, module


def test_an_optional_import_is_found() -> None:
    found = {"import faiss", "from sklearn.base import x", "def f():\n    require('onnxruntime', 'onnx', 'x')"}
    assert {name for source in found for name in optional_imports(source)} == {"faiss", "sklearn", "onnxruntime"}


# What `atomic` does and nobody else: the parts of whole-or-not-at-all writing.
STEPS = {"fsync", "link", "mkdtemp", "mkstemp", "NamedTemporaryFile", "rename", "renames", "replace", "umask"}
DOES_STEPS = {
    "pose2id.atomic": STEPS,
    "pose2id.hub": {"replace"},  # of a download that goes on where it broke off: its partial file shall outlive a kill
}


def writing_steps(source: str) -> set[str]:
    """Which of STEPS `source` takes: from os or tempfile, or as a method of a path."""
    found, homes = set(), ("os", "tempfile")
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom) and node.module in homes:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in homes:
            found.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            # str.replace takes two arguments, dataclasses.replace and datetime.replace keywords, Path.replace just one.
            one = len(node.args) == 1 and not node.keywords
            found |= {node.func.attr} & ({"rename", "replace"} if one else set())
    return found & STEPS


def test_files_are_written_by_atomic() -> None:
    for module, path in MODULES.items():
        steps = writing_steps(path.read_text(encoding="utf-8"))
        instead = f"{module}: write by pose2id.atomic.write_file or write_folder instead"
        assert steps <= DOES_STEPS.get(module, set()), instead


@pytest.mark.parametrize("module", DOES_STEPS)
def test_exceptions_for_writing_are_needed(module: str) -> None:
    assert module not in MODULES or writing_steps(MODULES[module].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("source", "steps"),
    [
        ("import os\nos.replace(a, b)", {"replace"}),
        ("import os\ndef f():\n    move = os.rename", {"rename"}),
        ("from os import fsync as sync", {"fsync"}),
        ("import tempfile\ntempfile.mkstemp()", {"mkstemp"}),
        ("from tempfile import NamedTemporaryFile", {"NamedTemporaryFile"}),
        ("part.replace(path)", {"replace"}),
        ("Path(a, b).rename(path)", {"rename"}),
        ("os.umask(0)", {"umask"}),
        ("text.replace('a', 'b')\nreplace(settings, seed=1)\ndataclasses.replace(settings, seed=1)", set()),
        ("import os, tempfile\nos.fspath(a)\ntempfile.TemporaryDirectory()", set()),
    ],
)
def test_a_step_of_writing_is_found(source: str, steps: set[str]) -> None:
    assert writing_steps(source) == steps


# Files of these kinds are read by `documents`, which refuses what their parsers stumble over or let pass.
PARSERS = {"json": {"load", "loads", "JSONDecoder", "decoder"}, "tomllib": {"load", "loads"}}


def parsings(source: str) -> set[str]:
    """Which of PARSERS `source` takes."""
    found = set()
    for node in nodes(source):
        if isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in PARSERS}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Import):
            found |= {f"{alias.name}.load" for alias in node.names if alias.asname and alias.name in PARSERS}
    return found & {f"{module}.{name}" for module, names in PARSERS.items() for name in names}


def test_json_and_toml_are_read_by_documents() -> None:
    for module, path in MODULES.items():
        found = parsings(path.read_text(encoding="utf-8"))
        assert bool(found) == (module == "pose2id.documents"), f"{module}: read by pose2id.documents instead"


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads(a)",
        "from json import load as x",
        "import tomllib\nx = tomllib.load",
        "import json as j",
    ],
)
def test_a_parsing_is_found(source: str) -> None:
    assert parsings(source)
    assert not parsings("import json\njson.dumps(a)\ntorch.load(b)")


KNOWN = {
    "pose2id",
    "pose2id.arrays",
    "pose2id.cli",
    "pose2id.ipg",
    "pose2id.poses",
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
        ("pose2id.neighbors", "from pose2id.evaluation import evaluate"),
        ("pose2id.evaluation", "from pose2id.reranking import rerank"),
        ("pose2id.ipg.training", "from pose2id.neighbors import knn_graph"),
        ("pose2id.programs", "from pose2id.integrations.sklearn import NeighborCentralizer"),
        ("pose2id.report", "from pose2id.cli import main"),
        ("pose2id.centralization", "from pose2id.ipg import IPGPipeline"),
        ("pose2id.ipg.training", "from pose2id.datasets import load_demo"),
        ("pose2id.synthetic", "from pose2id.ipg import training"),
        ("pose2id.plots", "from pose2id.cli import main"),
        ("pose2id.walkthrough", "from pose2id.plots import draw"),
        ("pose2id.programs", "from pose2id.walkthrough import run_walkthrough"),
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
            "import numpy as np\nfrom pose2id.validation import is_tensor\nfrom .validation import is_tensor",
        ),
        ("pose2id.neighbors", True, "from ._exact import search\nfrom pose2id.neighbors import _exact"),
        ("pose2id.neighbors", True, "from ..arrays import like\nfrom .. import arrays"),
        ("pose2id.centralization", False, "from pose2id.neighbors import knn_graph"),
        ("pose2id.synthetic", False, "from pose2id.poses import Pose\nfrom pose2id import poses"),
        ("pose2id.cli", False, "from pose2id import __version__, plots\nimport pose2id.ipg.training"),
        ("pose2id", True, "from pose2id.neighbors import knn_graph"),
    ],
)
def test_an_allowed_import_is_not_reported(module: str, is_package: bool, source: str) -> None:
    assert violations(source, module, is_package, known=KNOWN) == []


# What tests share stands in tests/support, tests/reference and the fixtures of conftest.py.
TESTS = sorted(Path(__file__).parent.glob("**/*.py"))


def imported_tests(source: str) -> list[str]:
    """Lines that import a test file or conftest, those of programs that a test holds as text included."""
    return re.findall(r"^\s*(?:from|import)\s+(?:\.|tests\.)?(?:test_\w+|conftest)\b.*", source, re.MULTILINE)


def test_no_test_imports_another() -> None:
    for path in TESTS:
        assert imported_tests(path.read_text(encoding="utf-8")) == [], path.name


def test_an_import_of_a_test_is_found() -> None:
    for name in ("test_engines", "conftest", ".test_engines", "tests.test_engines"):
        assert imported_tests(f"import os\nfrom {name} import put\n") == [f"from {name} import put"]
        assert imported_tests(f"def late():\n    import {name} as other\n")
        assert imported_tests(f'PROGRAM = """\nimport {name}\n"""\n')
    assert imported_tests("import testing\nfrom support.faiss import put\nfrom pose2id.tables import test_x\n") == []
