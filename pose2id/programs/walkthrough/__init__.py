"""The whole method on synthetic pedestrians: generate, centralize, the tables of the paper, pictures.

The generator is one that ``pose2id ipg-train`` made of ``data/tiny.toml``. People, pictures and cameras are drawn by a
program (`pose2id.synthetic`), and the generator was trained on other people of the same world. So the
numbers show how the parts of the method work together; they say nothing about how much it brings on
photographs. Nothing is printed here; the command line prints.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.ipg import IPGPipeline
from pose2id.ipg.networks import SmallEncoder
from pose2id.programs.walkthrough.material import (
    TESTED,
    TRAINED,
    Encoder,
    Images,
    Views,
    augment,
    draw_people,
    encode,
    encode_all,
    make_encoders,
    make_people,
    make_real_views,
    switch_off,
)
from pose2id.programs.walkthrough.pictures import (
    MAP,
    SHEET,
    compare_with_poses,
    count_right_people,
    draw_map,
    draw_sheet,
)
from pose2id.programs.walkthrough.tables import build_tables, format_tables, rows_as_dicts
from pose2id.study import FeatureSet, Row, Setting, run_study
from pose2id.synthetic import SyntheticSet

__all__ = [
    "FEWEST",
    "MAP",
    "SHEET",
    "TESTED",
    "TRAINED",
    "Row",
    "Views",
    "Walkthrough",
    "build_tables",
    "compare_with_poses",
    "count_right_people",
    "draw_map",
    "draw_people",
    "draw_sheet",
    "encode",
    "format_tables",
    "make_encoders",
    "make_people",
    "make_real_views",
    "rows_as_dicts",
    "run_walkthrough",
    "switch_off",
]

ABLATED = 45
"""So many queries, drawn at random, for each row of Fig. 5."""
FEWEST = 3
"""People; with fewer there are no standard errors worth printing, and no map."""


@dataclass(frozen=True, eq=False)
class Walkthrough:
    """What `run_walkthrough` found out.

    Attributes
    ----------
    rows : list of Row
        The tables.
    people : SyntheticSet
        The held-out people, queries first.
    drawn : ndarray of uint8, shape (N, 8, H, W, 3)
        All of them in the eight poses.
    views : dict of str to Views
        Features by the encoder's name.
    """

    rows: list[Row]
    people: SyntheticSet
    drawn: Images
    views: dict[str, Views]


def run_walkthrough(
    pipe: IPGPipeline, ids: Iterable[int] = TESTED, *, world: int = 0, seed: int = 0, progress: bool = False
) -> Walkthrough:
    """Draw held-out people, extract features, centralize, evaluate: the tables of the paper on this world.

    Parameters
    ----------
    pipe : IPGPipeline
        A small one, such as ``IPGPipeline.from_pretrained("OUT/pipeline")``.
    ids : iterable of int
        People that it was not trained on.
    world : int
        Seed of people and cameras. The generator was trained in world 0; in another, even the cameras are new to it.
    seed : int
        Of the noise, the weak encoder and the controls.
    progress : bool
        Bars on stderr.

    Returns
    -------
    Walkthrough
        Tables, pictures and features.

    Raises
    ------
    TypeError, ValueError
        For a pipeline with another kind of identity encoder, or fewer than three people; before anything is drawn.

    Examples
    --------
    >>> from pose2id.ipg import IPGPipeline
    >>> from pose2id.programs.walkthrough import format_tables, run_walkthrough
    >>> found = run_walkthrough(IPGPipeline.from_pretrained("tiny"), range(3))  # doctest: +SKIP
    >>> print(format_tables(found.rows))  # doctest: +SKIP
    """
    if not isinstance(pipe.identity_encoder, SmallEncoder):
        kind = type(pipe.identity_encoder).__name__
        raise TypeError(f"pipe must be a small generator, whose identity_encoder is a SmallEncoder; received a {kind}")
    ids = list(ids)
    if len(set(ids)) < FEWEST:
        raise ValueError(f"ids must hold at least {FEWEST} people, received {len(set(ids))}")
    height, width = pipe.config.sample_size
    people, queries = make_people(ids, world=world, height=height, width=width, progress=progress)
    drawn = draw_people(pipe, people, seed=seed, progress=progress)
    real = make_real_views(people, queries, world=world, seed=seed)
    augmented = augment(people.images, seed=seed)
    encoders = make_encoders(pipe, seed=seed, progress=progress)
    views = {name: encode_all(encoder, people, drawn, augmented, real) for name, encoder in encoders.items()}
    rows = build_tables(people, queries, views)
    few = np.sort(np.random.default_rng(seed).permutation(queries)[:ABLATED])
    rows += _ablate(pipe, people, queries, few, drawn, encoders["strong"], seed=seed, progress=progress)
    return Walkthrough(rows, people, drawn, views)


def _ablate(
    pipe: IPGPipeline,
    people: SyntheticSet,
    queries: int,
    chosen: NDArray[np.int64],
    drawn: Images,
    strong: Encoder,
    **options: Any,
) -> list[Row]:
    """Fig. 5: generated features alone as queries, with parts of the generator switched off; the same noise in all."""
    few, items = people.select(chosen), people.select(slice(queries, None))
    pictures = {"tokens and reference": drawn[chosen]}
    for name, off in (
        ("reference only, tokens off", {"tokens": True}),
        ("tokens only, reference off", {"reference": True}),
        ("both off", {"tokens": True, "reference": True}),
    ):
        pictures[name] = draw_people(switch_off(pipe, **off), few, keys=list(chosen), **options)
    gallery, rows = FeatureSet(strong(items.images), items.ids, items.cams), []
    for name, seen in pictures.items():
        query = FeatureSet(strong(seen).mean(1), few.ids, few.cams)
        setting = Setting(name, "Fig. 5: generated features alone as queries")
        rows += run_study(query, gallery, [setting], encoder="strong")
    return rows
