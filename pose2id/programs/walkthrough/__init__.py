"""The whole method on synthetic pedestrians: generate, centralize, the tables of the paper, pictures.

The generator is one that ``pose2id train generator`` made of ``data/tiny.toml``. People, pictures and cameras are drawn
by a program (`pose2id.synthetic`), and the generator was trained on other people of the same world. So the numbers show
how the parts of the method work together; they say nothing about how much it brings on photographs. Nothing is printed
here; the command line prints.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.ipg import IPGPipeline
from pose2id.ipg.networks import SmallEncoder
from pose2id.programs.walkthrough.material import (
    ETAS,
    TESTED,
    TRAINED,
    EncodedPictures,
    Encoder,
    Features,
    Images,
    augment,
    draw_people,
    encode,
    encode_all,
    make_encoders,
    make_other_pictures,
    make_people,
    switch_off,
)
from pose2id.programs.walkthrough.pictures import (
    CUT,
    MAP,
    SHEET,
    compare_with_poses,
    count_right_people,
    draw_map,
    draw_parts,
    draw_sheet,
)
from pose2id.study import FeatureSet, Row, Setting, run_study
from pose2id.synthetic import SyntheticSet
from pose2id.tables import as_dicts, format_text

__all__ = [
    "CUT",
    "FEWEST",
    "MAP",
    "SHEET",
    "TESTED",
    "TRAINED",
    "EncodedPictures",
    "Row",
    "Walkthrough",
    "build_tables",
    "compare_with_poses",
    "count_right_people",
    "draw_map",
    "draw_parts",
    "draw_people",
    "draw_sheet",
    "encode",
    "format_tables",
    "make_encoders",
    "make_other_pictures",
    "make_people",
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
    encoded : dict of str to EncodedPictures
        Features by the encoder's name.
    """

    rows: list[Row]
    people: SyntheticSet
    drawn: Images
    encoded: dict[str, EncodedPictures]


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
    real = make_other_pictures(people, queries, world=world, seed=seed)
    augmented = augment(people.images, seed=seed)
    encoders = make_encoders(pipe, seed=seed, progress=progress)
    encoded = {name: encode_all(encoder, people, drawn, augmented, real) for name, encoder in encoders.items()}
    rows = build_tables(people, queries, encoded)
    few = np.sort(np.random.default_rng(seed).permutation(queries)[:ABLATED])
    rows += _ablate(pipe, people, queries, few, drawn, encoders["strong"], seed=seed, progress=progress)
    return Walkthrough(rows, people, drawn, encoded)


def build_tables(people: SyntheticSet, queries: int, encoded: dict[str, EncodedPictures]) -> list[Row]:
    """The paper's Tables 2 to 7 by number, then Fig. 8 and controls, on these people, of which `queries` come first.

    `encoded` holds features by the encoder's name, one of `ETAS`.
    """
    rows: list[Row] = []
    for encoder, seen in encoded.items():
        for generated, settings in _plan(encoder, seen):
            query, gallery = (
                FeatureSet(seen.features[half], people.ids[half], people.cams[half], generated[half])
                for half in (slice(queries), slice(queries, None))
            )
            rows += run_study(query, gallery, settings, encoder=encoder)
    titles = {row.table for row in rows}
    order = sorted(titles, key=lambda title: ("TFC".index(title[0]), title.replace("Tables", "Table")))
    return sorted(rows, key=lambda row: order.index(row.table))


def _plan(encoder: str, seen: EncodedPictures) -> Iterator[tuple[Features, list[Setting]]]:
    """The settings of one encoder, with the features that stand in for generated ones in them."""
    eta = ETAS[encoder]
    is_trained = encoder in ("strong", "weak")
    base, nfc = Setting("base"), Setting("+ NFC", k1=2, k2=2)
    ipg, both = Setting(f"+ IPG, eta = {eta:g}", eta=eta), Setting("+ IPG + NFC", eta=eta, k1=2, k2=2)
    title = "Table 2: parts of the method" if is_trained else "Table 5: encoders without ReID training"
    settings = [replace(setting, group=title) for setting in (base, nfc, ipg, both)]
    if not is_trained:
        yield seen.generated, settings
        return
    title = "Tables 3 and 4: {} only"
    settings += [replace(setting, group=title.format("query"), gallery=False) for setting in (nfc, ipg)]
    settings += [replace(setting, group=title.format("gallery"), query=False) for setting in (nfc, ipg)]
    settings += [Setting(f"eta = {other:g}", "Fig. 8: eta", eta=other) for other in (0.25, 0.5, 1, 2, 4, 8)]
    settings += [replace(setting, group="Table 7: with re-ranking", reranked=True) for setting in (base, ipg, both)]
    yield seen.generated, settings
    for m in range(seen.generated.shape[1] + 1):
        yield seen.generated[:, :m], [Setting(f"M = {m}", "Table 6: the first M poses", eta=eta if m else 0)]
    controls = {
        "mirrored picture": seen.mirrored[:, None],
        "8 plain augmentations": seen.augmented,
        "8 other real pictures": seen.real,
    }
    title = "Controls in place of generated pictures"
    for name, features in controls.items():
        yield features, [Setting(f"{name}, eta = {other:g}", title, eta=other) for other in (0.5, 1, 2, 8)]


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


def format_tables(rows: Sequence[Row]) -> str:
    """Write the rows as text: one block for each table, and a legend.

    Parameters
    ----------
    rows : sequence of Row
        Those of `run_walkthrough`; rows of one table stand together.

    Returns
    -------
    str
        Lines without a final line break; mAP, its standard error and rank-1 in percent.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.programs.walkthrough import format_tables
    >>> from pose2id.study import FeatureSet, Setting, run_study
    >>> query, gallery = FeatureSet(np.eye(2), [0, 1]), FeatureSet(np.eye(2, 3).T, [0, 1, 2])
    >>> rows = run_study(query, gallery, [Setting("base", "Table 2")], encoder="weak")
    >>> print(format_tables(rows).splitlines()[3])
      weak       base  100.0   0.0  100.0   0.000
    """
    head = ("", "", "mAP", "+-", "R1", "ID2")
    cells = (
        (row.encoder, row.name, *(f"{100 * x:.1f}" for x in (row.mAP, row.error, row.rank1)), f"{row.id2:.3f}")
        for row in rows
    )
    headings = [row.table for row in rows]
    return format_text(head, cells, align="<<>", widths=(13, 0, 7, 6, 7, 8), gap="", headings=headings, legend=_LEGEND)


_LEGEND = (
    "Synthetic people, drawn by a program; nobody is real. The generator was trained on other people of",
    "the same world, those of the encoder 'strong': what 'weak' gains is what was learnt from their labels.",
    "mAP, its standard error over identities (+-) and R1 in percent (market1501); ID2: lower is denser.",
)


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return as_dicts(rows, ("table", "encoder", "name", "mAP", "error", "rank1", "id2"))
