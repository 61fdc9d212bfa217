"""The paper's tables on synthetic people, as rows of numbers and as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from pose2id.programs.walkthrough.material import Features, Views
from pose2id.study import FeatureSet, Row, Setting, run_study
from pose2id.synthetic import SyntheticSet
from pose2id.tables import as_dicts, format_text

ETAS = {"strong": 1.0, "weak": 4.0, "untrained": 4.0, "raw pixels": 4.0}
"""Strong and weak: chosen on `VALIDATION`, by ``pytest benchmarks/test_synthetic.py --full``; the others as weak."""


def build_tables(people: SyntheticSet, queries: int, views: dict[str, Views]) -> list[Row]:
    """The paper's Tables 2 to 7 by number, then Fig. 8 and controls, on these people, of which `queries` come first.

    `views` holds features by the encoder's name, one of `ETAS`.
    """
    rows: list[Row] = []
    for encoder, seen in views.items():
        for generated, settings in _plan(encoder, seen):
            query, gallery = (
                FeatureSet(seen.features[half], people.ids[half], people.cams[half], generated[half])
                for half in (slice(queries), slice(queries, None))
            )
            rows += run_study(query, gallery, settings, encoder=encoder)
    titles = {row.table for row in rows}
    order = sorted(titles, key=lambda title: ("TFC".index(title[0]), title.replace("Tables", "Table")))
    return sorted(rows, key=lambda row: order.index(row.table))


def _plan(encoder: str, seen: Views) -> Iterator[tuple[Features, list[Setting]]]:
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
        yield features, [Setting(f"{name}, eta = {other:g}", title, eta=other) for other in (0.5, 1, 4)]


def format_tables(rows: Sequence[Row]) -> str:
    """The rows as text, one block for each table, scores in percent, and a legend.

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
