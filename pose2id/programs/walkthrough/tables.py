"""The paper's tables on synthetic people, as rows of numbers and as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id.centralization import centralize
from pose2id.density import id_density
from pose2id.evaluation import Scores, evaluate, evaluate_features
from pose2id.programs.walkthrough.material import Features, Views
from pose2id.reranking import rerank
from pose2id.synthetic import SyntheticSet

__all__ = ["Row", "build_tables", "format_tables", "rows_as_dicts", "standard_error"]

ETAS = {"strong": 1.0, "weak": 4.0, "untrained": 4.0, "raw pixels": 4.0}
"""Strong and weak: chosen on `VALIDATION`, by ``pytest benchmarks/test_synthetic.py --full``; the others as weak."""


@dataclass(frozen=True)
class Row:
    """A row of a table: scores as fractions, by the protocol ``market1501``.

    Attributes
    ----------
    table, encoder, name : str
    mAP, error, rank1, id2 : float
        `error` is the standard error of mAP over identities; `id2` is over query and gallery, as in the paper.
    """

    table: str
    encoder: str
    name: str
    mAP: float
    error: float
    rank1: float
    id2: float


def build_tables(people: SyntheticSet, queries: int, views: dict[str, Views]) -> list[Row]:
    """The paper's Tables 2 to 7 and Fig. 8 on these people, with controls.

    Parameters
    ----------
    people : SyntheticSet
        Queries first.
    queries : int
        How many there are.
    views : dict of str to Views
        By the encoder's name; see `make_encoders`.

    Returns
    -------
    list of Row
        Tables by their number, then the figure and the controls.
    """
    rows: list[Row] = []
    for encoder, seen in views.items():
        eta = ETAS[encoder]
        add = partial(_add_row, rows, people, queries, encoder, seen)
        number = "2" if encoder in ("strong", "weak") else "5"
        title = f"Table {number}: {'parts of the method' if number == '2' else 'encoders without ReID training'}"
        add(title, "base")
        add(title, "+ NFC", k=2)
        add(title, f"+ IPG, eta = {eta:g}", eta=eta)
        add(title, "+ IPG + NFC", eta=eta, k=2)
        if number == "5":
            continue
        for side in ("query", "gallery"):
            title = f"Tables 3 and 4: {side} only"
            add(title, "+ NFC", k=2, side=side)
            add(title, f"+ IPG, eta = {eta:g}", eta=eta, side=side)
        for m in range(seen.generated.shape[1] + 1):
            add("Table 6: the first M poses", f"M = {m}", eta=eta if m else 0, m=m)
        for other in (0.25, 0.5, 1, 2, 4, 8):
            add("Fig. 8: eta", f"eta = {other:g}", eta=other)
        add("Table 7: with re-ranking", "base", reranked=True)
        add("Table 7: with re-ranking", f"+ IPG, eta = {eta:g}", eta=eta, reranked=True)
        add("Table 7: with re-ranking", "+ IPG + NFC", eta=eta, k=2, reranked=True)
        controls = {
            "mirrored picture": seen.mirrored[:, None],
            "8 plain augmentations": seen.augmented,
            "8 other real pictures": seen.real,
        }
        for name, features in controls.items():
            for other in (0.5, 1, 4):
                title = "Controls in place of generated pictures"
                add(title, f"{name}, eta = {other:g}", eta=other, instead=features)
    titles = {row.table for row in rows}
    order = sorted(titles, key=lambda title: ("TFC".index(title[0]), title.replace("Tables", "Table")))
    return sorted(rows, key=lambda row: order.index(row.table))


def _add_row(
    rows: list[Row],
    people: SyntheticSet,
    queries: int,
    encoder: str,
    seen: Views,
    table: str,
    name: str,
    *,
    eta: float = 0.0,
    k: int = 0,
    m: int | None = None,
    side: str = "both",
    reranked: bool = False,
    instead: Features | None = None,
) -> None:
    generated = seen.generated[:, :m] if instead is None else instead
    parts = []
    for part, half in (("query", slice(queries)), ("gallery", slice(queries, None))):
        chosen = side in (part, "both")
        used = generated[half] if eta and chosen else None
        parts.append(centralize(seen.features[half], used, eta, k if chosen else 0, k if chosen else 0))
    query, gallery = parts
    labels = (people.ids[:queries], people.ids[queries:], people.cams[:queries], people.cams[queries:])
    scores = evaluate(rerank(query, gallery), *labels) if reranked else evaluate_features(query, gallery, *labels)
    density = id_density(np.concatenate(parts), people.ids)
    rows.append(Row(table, encoder, name, scores.mAP, standard_error(scores, labels[0]), scores.rank(1), density))


def standard_error(scores: Scores, ids: NDArray[np.int64]) -> float:
    """Standard error of mAP, over the mean average precisions of identities."""
    means = np.array([np.nanmean(scores.average_precision[ids == who]) for who in np.unique(ids)])
    return float(means.std(ddof=1) / len(means) ** 0.5)


def format_tables(rows: Sequence[Row]) -> str:
    """The rows as text, one block for each table, scores in percent.

    Parameters
    ----------
    rows : sequence of Row

    Returns
    -------
    str
        Lines of equal length, and a legend.

    Examples
    --------
    >>> from pose2id.programs.walkthrough import Row, format_tables
    >>> print(format_tables([Row("Table 2", "weak", "base", 0.1666, 0.0123, 0.204, 0.2231)]).splitlines()[3])
      weak       base   16.7   1.2   20.4   0.223
    """
    wide = max(len(row.name) for row in rows)
    head = f"{'':<{13 + wide}}{'mAP':>7}{'+-':>6}{'R1':>7}{'ID2':>8}"
    lines = [head, "-" * len(head)]
    for table in dict.fromkeys(row.table for row in rows):
        lines.append(table)
        for row in (row for row in rows if row.table == table):
            cells = f"{100 * row.mAP:>7.1f}{100 * row.error:>6.1f}{100 * row.rank1:>7.1f}{row.id2:>8.3f}"
            lines.append(f"  {row.encoder:<11}{row.name:<{wide}}{cells}")
    return "\n".join([*lines, "-" * len(head), *_LEGEND])


_LEGEND = (
    "Synthetic people, drawn by a program; nobody is real. The generator was trained on other people of",
    "the same world, those of the encoder 'strong': what 'weak' gains is what was learnt from their labels.",
    "mAP, its standard error over identities (+-) and R1 in percent (market1501); ID2: lower is denser.",
)


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows for JSON."""
    return [dataclasses.asdict(row) for row in rows]
