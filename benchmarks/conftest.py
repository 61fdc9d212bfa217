"""`pytest benchmarks`: the regression table. Accuracy is asserted against stored numbers, speed only printed.

pytest benchmarks                          embedded set, quick sizes and the synthetic demo, about ten minutes
pytest benchmarks --omniglot FOLDER        also the larger Omniglot feature sets, if you have them
pytest benchmarks --full                   also Market-1501's size
pytest benchmarks --record NAME            also write the tables to benchmarks/results/DATE-NAME.md, and the curves to
                                           DATE-NAME-scaling.csv beside it (plot_scaling.py draws them)
"""

from __future__ import annotations

import datetime as dt
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from pose2id.tables import format_markdown

HERE = Path(__file__).parent
TABLES: dict[str, list[tuple[str, ...]]] = {}


def pytest_addoption(parser):
    group = parser.getgroup("pose2id benchmarks")
    group.addoption(
        "--omniglot",
        metavar="FOLDER",
        help="folder with omniglot_strong.npz, omniglot_weak.npz and the features of variants",
    )
    group.addoption("--fonts", metavar="FOLDER", action="append", help="folder with DejaVu, Liberation or Noto fonts")
    group.addoption("--spoken", metavar="REPOSITORY", help="clone of Jakobovski/free-spoken-digit-dataset")
    group.addoption("--full", action="store_true", help="also the sizes of Market-1501 (minutes)")
    group.addoption("--work", metavar="FOLDER", help="where test_encoders.py keeps trained encoders and finished rows")
    group.addoption("--record", metavar="NAME", help="write the tables to benchmarks/results/DATE-NAME.md")


@pytest.fixture
def report():
    """Add a row to a table of the report: report(table, *cells); the first row of a table is its head."""

    def add(table: str, head: tuple[str, ...], *cells: object) -> None:
        TABLES.setdefault(table, [head]).append(tuple(map(str, cells)))

    return add


@pytest.fixture(scope="session")
def omniglot(request):
    """The folder of the larger sets; tests that need it are skipped without."""
    folder = request.config.getoption("--omniglot")
    if folder is None:
        pytest.skip("needs --omniglot FOLDER")
    return Path(folder)


@pytest.fixture(scope="session")
def full(request):
    return request.config.getoption("--full")


def pytest_terminal_summary(terminalreporter, config):
    if not TABLES:
        return
    lines = [*_machine(), ""]
    for name, (head, *rows) in TABLES.items():
        lines += [f"## {name}", "", format_markdown(head, rows), ""]
    terminalreporter.write_sep("=", "regression table")
    terminalreporter.write_line("\n".join(lines))
    if config.getoption("--record"):
        path = HERE / "results" / f"{dt.date.today()}-{config.getoption('--record')}.md"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join([f"# Benchmarks of {dt.date.today()}", "", *lines]), encoding="utf-8")
        terminalreporter.write_line(f"written to {path.relative_to(HERE.parent)}")


def _machine() -> list[str]:
    import torch

    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True, check=False
    )
    versions = ", ".join(f"{name} {_version(name)}" for name in ("pose2id", "torch", "numpy", "scipy", "faiss-cpu"))
    return [
        f"- machine: {model}, {os.cpu_count()} cores, GPU: {', '.join(gpus) or 'none'}",
        f"- Python {platform.python_version()}, {versions}, {torch.get_num_threads()} threads",
        f"- commit: {commit.stdout.strip() or 'unknown'}",
    ]


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "-"


def percent(value: float) -> str:
    return f"{100 * value:.2f}"


def load_omniglot(folder: Path, name: str) -> dict[str, np.ndarray]:
    """Arrays of one larger set as float32, with `views` averaged to `view_mean` where the folder has them."""
    with np.load(folder / f"omniglot_{name}.npz", allow_pickle=False) as archive:
        data = {key: archive[key] for key in archive.files}
    data["feats"] = data["feats"].astype(np.float32)
    if name == "strong" and (folder / "omniglot_strong_views01.npz").exists():
        parts = []
        for part in ("01", "23"):
            with np.load(folder / f"omniglot_strong_views{part}.npz", allow_pickle=False) as archive:
                parts.append(archive["views"].astype(np.float32))
        data["view_mean"] = np.concatenate(parts).mean(axis=0)
    elif name == "weak" and (folder / "omniglot_weak_viewmean.npz").exists():
        with np.load(folder / "omniglot_weak_viewmean.npz", allow_pickle=False) as archive:
            data["view_mean"] = archive["view_mean"].astype(np.float32)
    return data
