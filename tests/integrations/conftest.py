"""Frameworks as they are: packages that `make test-integrations` installs, and clones in a folder that one names.

Not part of `make test`; `pytest tests/integrations` runs them in any environment, and what is missing there is skipped.
"""

import importlib
import importlib.util
import os
import platform
import sys
from contextlib import ExitStack, contextmanager
from datetime import date
from importlib.metadata import version
from pathlib import Path

import pytest
from support.operators import declare_operators

from pose2id import centralize, evaluate_features
from pose2id.datasets import load_demo

HERE = Path(__file__).parent
FRAMEWORKS = "POSE2ID_FRAMEWORKS"  # a folder with one folder for each of CLONES
CLONES = {
    "deep-person-reid": ("KaiyangZhou", "f8cd150fdf77e8d9e1ed143b7f308c2c609ded50"),
    "fast-reid": ("JDAI-CV", "c9bc3ceb2f7a6438b62fb515ea3df6d1e999e95d"),
    "TransReID": ("damo-cv", "dec55046fcdfadee14e2c28e2df89305d8f7557a"),
    "CLIP-ReID": ("Syliz517", "eb1898b72c882875f478bebfc6d41644eece0a5d"),
    "wildlife-tools": ("WildlifeDatasets", "54449df7a4e4ffd2406e3c4f5c2bdd1fe46ec878"),
}


def pytest_collection_modifyitems(items):
    """Warnings are errors for this package's own tests; frameworks warn of much."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


TORCHVISION = declare_operators()  # kept: with the object the declarations would go


@pytest.fixture(scope="session")
def package():
    """A function that imports a package from the registry, or skips the test."""

    def find(name):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            pytest.skip(f"{name} is not installed; make test-integrations does it")
        return importlib.import_module(name)

    return find


def is_below(module, folder):
    """Whether a module was read from a folder; namespace packages have no file."""
    places = [module.__file__] if getattr(module, "__file__", None) else list(getattr(module, "__path__", []))
    return any(Path(place).is_relative_to(folder) for place in places)


@contextmanager
def first_on_the_path(folder):
    """Import from a folder what it has, whatever was imported under the same names before; all is undone afterwards."""
    names = {path.stem for path in folder.iterdir()}
    hidden = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in names}
    for name in hidden:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in [name for name, module in sys.modules.items() if is_below(module, folder)]:
            del sys.modules[name]
        sys.modules.update(hidden)


@pytest.fixture(scope="module")
def clone():
    """A function that makes the clone of a name importable for a test file or its next parameter, or skips the test.

    Some clones have packages of the same names, such as `utils`.
    """
    with ExitStack() as stack:

        def find(name):
            owner, commit = CLONES[name]
            home = os.environ.get(FRAMEWORKS)
            if not home or not Path(home, name).is_dir():
                where = Path(home) if home else "FOLDER"
                pytest.skip(
                    f"{name} is not in the folder that {FRAMEWORKS} names: git clone https://github.com/{owner}/{name} "
                    f"{where}/{name} && git -C {where}/{name} checkout {commit}"
                    + ("" if home else f" && export {FRAMEWORKS}={where}")
                )
            stack.close()
            folder = Path(home, name).resolve()
            stack.enter_context(first_on_the_path(folder))
            return folder

        yield find


@pytest.fixture(scope="session")
def demo():
    """The demo set: features of 240 queries and 1,260 gallery rows, labels and cameras."""
    return load_demo()


@pytest.fixture(scope="session")
def labels(demo):
    """Identities and cameras of both sides, as `evaluate_features` takes them."""
    return demo.ids[demo.query], demo.ids[demo.gallery], demo.cams[demo.query], demo.cams[demo.gallery]


SETTINGS = {
    "recommended": {"k1": 3, "k2": 3, "alpha": 4, "exclude": "cams"},
    "published": {},  # makes equal rows, so there are ties
}


@pytest.fixture(params=SETTINGS)
def settings(request):
    """Settings of an adapter: those of the recipes, and the published ones."""
    return SETTINGS[request.param]


@pytest.fixture(scope="session")
def own_scores(demo, labels):
    """A function that scores the demo set, centralized by an adapter's settings, by this library; None: as it is."""

    def score(settings, metric="euclidean"):
        sides = demo.features[demo.query], demo.features[demo.gallery]
        if settings is not None:
            settings = dict(settings)
            excluded = settings.pop("exclude", None) == "cams"
            sides = [
                centralize(rows, exclude=cams if excluded else None, **settings)
                for rows, cams in zip(sides, labels[2:], strict=True)
            ]
        return evaluate_features(*sides, *labels, metric=metric)

    return score


TABLE = []  # rows for benchmarks/results/


@pytest.fixture(scope="session")
def check():
    """A function that compares a framework's mAP and rank-1 with this library's.

    They must be equal; where settings make equal rows, within what ties leave open. With a name the comparison goes
    into the table that is printed at the end.
    """

    def compare(theirs, scores, name=None, settings=None, tolerance=1e-6):
        own = (scores.mAP, scores.rank(1))
        open_to_ties = settings is not None and not settings
        spans = (scores.span.mAP, scores.span.rank(1)) if open_to_ties else [(value, value) for value in own]
        if name is not None:
            figures = [f"{100 * value:.4f}" for pair in zip(theirs, own, strict=True) for value in pair]
            ties = [f"{100 * low:.4f} to {100 * high:.4f}" for low, high in spans] if open_to_ties else ["", ""]
            said = ", ".join(f"{key} = {value}" for key, value in settings.items()) or "k1 = k2 = 2"
            TABLE.append((name, said, *figures[:2], ties[0], *figures[2:], ties[1]))
        return all(
            low - tolerance <= value <= high + tolerance for value, (low, high) in zip(theirs, spans, strict=True)
        )

    return compare


def pytest_terminal_summary(terminalreporter):
    if TABLE:
        heads = ("framework", "settings", "mAP, theirs", "ours", "ties leave", "rank-1, theirs", "ours", "ties leave")
        terminalreporter.section("scores")
        versions = (f"{name} {version(name)}" for name in ("torch", "torchvision", "numpy"))
        terminalreporter.line(f"{date.today()}, Python {platform.python_version()}, {', '.join(versions)}")
        for row in (heads, ("---",) * len(heads), *TABLE):
            terminalreporter.line("| " + " | ".join(row) + " |")
