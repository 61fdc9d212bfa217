"""The table of engines: their names, where each lives, whether it works here, and which one "auto" takes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import NamedTuple

import torch

from pose2id.neighbors.contract import Search
from pose2id.validation import check_choice


class Engine(NamedTuple):
    """Where an engine lives, and whether it finds all neighbours."""

    module: str
    search: str
    exact: bool

    def load(self) -> Callable[[Search], tuple[torch.Tensor, torch.Tensor]]:
        """The function that searches: indices (Q, k) and distances (Q, k), by the contract."""
        return getattr(import_module(self.module), self.search)  # type: ignore[no-any-return]


ENGINES = {
    "exact": Engine("pose2id.neighbors._exact", "search", exact=True),
    "faiss": Engine("pose2id.neighbors._faiss", "search", exact=True),
    "pivots": Engine("pose2id.neighbors._pivots", "search", exact=False),
    "faiss-ivf": Engine("pose2id.neighbors._faiss", "search_ivf", exact=False),
    "faiss-hnsw": Engine("pose2id.neighbors._faiss", "search_hnsw", exact=False),
}
"""Engines by name. They are imported by name and on use, so that they may import what this module imports."""

HINT_FROM = {"cpu": 200_000, "cuda": 2_000_000}
"""From so many rows on, by kind of device, "auto" names an approximate engine. Measured on the CPU only."""


class Choice(NamedTuple):
    """What "auto" takes for a set, and why; `hint` is the approximate engine worth a thought, or empty."""

    engine: str
    reason: str
    hint: str


def choose_engine(n: int, device: str = "cpu") -> Choice:
    """What "auto" takes for `n` rows on a device ("cpu" or "cuda"), and why.

    Always `exact`: the answer must not depend on what is installed, nor on the size of the set.

    Examples
    --------
    >>> from pose2id.neighbors import choose_engine
    >>> choose_engine(500_000).engine, choose_engine(500_000).hint
    ('exact', 'pivots')
    """
    check_choice(device, "device", tuple(HINT_FROM))
    reason = "it finds all neighbours, without extras, on the device of the features"
    if n < HINT_FROM[device]:
        return Choice("exact", reason, "")
    return Choice("exact", f"{reason}; an approximate engine is never taken unasked", "pivots")


def check_engine(engine: object) -> str:
    """The name of an engine, or "auto"."""
    return check_choice(engine, "engine", ("auto", *ENGINES))


def describe_engines() -> list[tuple[str, bool, str]]:
    """Name, whether it works here, and a sentence, for every engine: what `pose2id doctor` prints.

    "Works" is tried, not assumed: three rows are searched, and on CUDA, where there is a device, as many as make an
    engine take its own way there.
    """
    described = []
    for name, engine in ENGINES.items():
        usable, words = import_module(engine.module).probe()
        if usable is not None:
            rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]], device="cpu")
            try:
                found, _ = engine.load()(Search(rows, rows, 1, within=True))
                if found.flatten().tolist() != [1, 0, 0]:
                    usable, words = None, f"{words}; it found wrong neighbours: {found.flatten().tolist()}"
                if torch.cuda.is_available() and not _finds_pairs(engine, "cuda"):
                    usable, words = None, f"{words}; it found wrong neighbours on CUDA"
            except Exception as error:  # noqa: BLE001  whatever a broken build raises belongs into the report
                usable, words = None, f"{words}; {type(error).__name__}: {error}"
        described.append((name, usable is not None, words))
    return described


def _finds_pairs(engine: Engine, device: str) -> bool:
    """Whether an engine finds, for 95 % of 5,000 rows in pairs far from all others, the other row of their pair."""
    far = torch.randn(2500, 16, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu")
    rows = torch.cat([far, far + 0.05]).to(device)
    found, _ = engine.load()(Search(rows, rows, 1, within=True))
    partner = torch.arange(len(rows), device=device).roll(len(far))
    return int((found[:, 0] == partner).sum()) > 0.95 * len(rows)
