"""The table of engines: their names, where each lives, whether it works here, and which one "auto" takes."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache
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
    "native": Engine("pose2id.neighbors._native.search", "search", exact=True),
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


class Costs(NamedTuple):
    """Estimated work of the engines that find all neighbours, in float32 multiply-adds of a large product."""

    exact: float
    faiss: float
    native: float = math.inf  # where it does not work, or is not for such a search


SMALLEST = 256
"""Rows of either side from which on "auto" thinks of others than `exact`: below, importing them costs more."""


def estimate_costs(
    queries: int,
    n: int,
    width: int,
    k: int,
    codes: tuple[int, float] | None,
    native: tuple[int, float] | None = None,
    *,
    within: bool = True,
) -> Costs:
    """What the k nearest of `n` rows cost for `queries` rows, `within` one set or not.

    `codes` are their columns and how many times faster than floats they are multiplied; None where `exact` uses none;
    `native` those of the engine `native`, None where it is not for such a search. All else is in multiply-adds, so it
    travels between machines. Fitted by hand to some times, as multiples of a full product: faiss, floats and `native`
    on a Zen 3, codes on a Zen 4 (3.7 times as fast as floats) by an earlier version. `pytest benchmarks/test_auto.py
    --full` shows what each choice costs.

    - A product: D, or the columns of a code divided by its speed; half of it within one set, .65 D in tiles for faiss.
    - Passing over one: 90 in faiss's heaps, 190 by torch, 150 where codes are multiplied as floats.
    - The codes of a row, its order and its share of calls: 345 D + 500,000.
    - A neighbour: 125 D + 154,000 where codes propose it; 12 D + 10,000 where floats do, which also propose 6 more.
    - `native`: a search 6e8; passing over a product 20; a row 345 D, and 1.5 D for each column of a projection, which
      costs 3e9 to make; a neighbour 10 D + 27,000.
    """
    pairs, measured = queries * n, queries * (k + 6) * (12 * width + 10_000)
    faiss = pairs * ((0.65 if within else 1.0) * width + 90) + measured
    whole = math.inf
    if native is not None:
        columns, speed = native
        made = 3e9 + 1.5 * queries * width * columns if columns < width else 0.0
        product = (0.5 if within else 1.0) * columns / speed + 20
        whole = 6e8 + pairs * product + made + queries * (345 * width + k * (10 * width + 27_000))
    if codes is None:
        return Costs(pairs * (width + 190) + measured, faiss, whole)
    columns, speed = codes
    product = (0.5 if within else 1.0) * columns / speed + (150 if speed == 1 else 0)
    return Costs(pairs * product + queries * (345 * width + 500_000 + k * (125 * width + 154_000)), faiss, whole)


def choose_engine(n: int, device: str = "cpu", *, width: int = 768, k: int = 2, queries: int | None = None) -> Choice:
    """What "auto" takes for the `k` nearest of `n` rows of `width` columns on a device ("cpu" or "cuda"), and why.

    The answer never depends on it: only engines that find all neighbours are taken, and these agree to the last bit.
    `native` and `faiss` are taken on the CPU, where they are installed, work, and are estimated to be cheaper
    (`estimate_costs`).
    `queries` is the number of rows of another set whose neighbours are wanted; None: those of the rows themselves.

    Examples
    --------
    >>> from pose2id.neighbors import choose_engine
    >>> choose_engine(500_000, "cuda").engine, choose_engine(500_000).hint
    ('exact', 'pivots')
    """
    check_choice(device, "device", tuple(HINT_FROM))
    hint = "pivots" if n >= HINT_FROM[device] else ""
    asks = n if queries is None else queries
    never = "; an approximate engine is never taken unasked" if hint else ""
    plain = f"it finds all neighbours, without extras, on the device of the features{never}"
    if device != "cpu" or min(asks, n) < SMALLEST:
        return Choice("exact", plain, hint)
    within = queries is None
    codes, native = planned_codes(asks, n, width, k, within=within), planned_native(asks, n, width, k, within=within)
    costs = estimate_costs(asks, n, width, k, codes, native, within=within)
    named = {name: cost for name, cost in costs._asdict().items() if cost < math.inf}
    words = "estimated at " + ", ".join(f"{name} {cost / 1e9:.3g}" for name, cost in named.items())
    words += " billion multiply-adds"
    cheapest = min(named, key=lambda name: named[name])
    if cheapest == "faiss" and not faiss_works():
        words += "; faiss is not there, does not work or has a GPU"
        del named["faiss"]
        cheapest = min(named, key=lambda name: named[name])
    if cheapest == "exact":
        return Choice("exact", f"{plain}; {words}", hint)
    return Choice(cheapest, f"it finds the same neighbours as exact and is installed; {words}{never}", hint)


def planned_codes(queries: int, n: int, width: int, k: int, *, within: bool) -> tuple[int, float] | None:
    """The codes by which `exact` would filter such a search on the CPU, as `estimate_costs` wants them."""
    plan = import_module("pose2id.neighbors._int8.filter").planned_products
    return plan(queries, n, width, k, within=within)  # type: ignore[no-any-return]


def planned_native(queries: int, n: int, width: int, k: int, *, within: bool) -> tuple[int, float] | None:
    """The codes by which `native` would search, as `estimate_costs` wants them; None where it would not."""
    plan = import_module(ENGINES["native"].module).planned_products
    return plan(queries, n, width, k, within=within)  # type: ignore[no-any-return]


def faiss_works() -> bool:
    """Whether faiss is installed, finds what it should and has no GPU, whose time nobody has measured here."""
    return _faiss_works(sys.modules.get("faiss"))


@lru_cache
def _faiss_works(_: object) -> bool:
    """The answer for one state of the module `faiss`: trying takes as long as a small search."""
    works, _words = _try_engine("faiss")
    return works and not import_module(ENGINES["faiss"].module).has_gpus()


def check_engine(engine: object) -> str:
    """The name of an engine, or "auto"."""
    return check_choice(engine, "engine", ("auto", *ENGINES))


def describe_engines() -> list[tuple[str, bool, str]]:
    """Name, whether it works here, and a sentence, for every engine: what `pose2id doctor` prints.

    "Works" is tried, not assumed: three rows and 512 are searched, and on CUDA, where there is a device, as many as
    make an engine take its own way there.
    """
    return [(name, *_try_engine(name)) for name in ENGINES]


def _try_engine(name: str) -> tuple[bool, str]:
    """Whether an engine works here, and a sentence."""
    engine = ENGINES[name]
    usable, words = import_module(engine.module).probe()
    if usable is None:
        return False, words
    rows = torch.tensor([[0.0, 0.0], [0.0, 1.0], [3.0, 0.0]], device="cpu")
    try:
        found, _ = engine.load()(Search(rows, rows, 1, within=True))
        if found.flatten().tolist() != [1, 0, 0]:
            return False, f"{words}; it found wrong neighbours: {found.flatten().tolist()}"
        if not _finds_pairs(engine, "cpu", 256):
            return False, f"{words}; it found wrong neighbours among 512 rows"
        if torch.cuda.is_available() and not _finds_pairs(engine, "cuda", 2500):
            return False, f"{words}; it found wrong neighbours on CUDA"
    except Exception as error:  # noqa: BLE001  whatever a broken build raises belongs into the report
        return False, f"{words}; {type(error).__name__}: {error}"
    return True, words


def _finds_pairs(engine: Engine, device: str, pairs: int) -> bool:
    """Whether an engine finds, for 95 % of rows in pairs far from all others, the other row of their pair."""
    far = torch.randn(pairs, 16, generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32, device="cpu")
    rows = torch.cat([far, far + 0.05]).to(device)
    found, _ = engine.load()(Search(rows, rows, 1, within=True))
    partner = torch.arange(len(rows), device=device).roll(len(far))
    return int((found[:, 0] == partner).sum()) > 0.95 * len(rows)
