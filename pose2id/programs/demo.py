"""The demo on the embedded set: a table like the paper's Tables 2-4, and three pictures.

This is the body of ``pose2id demo``. Nothing is printed here; the command line prints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose2id import plots
from pose2id.datasets import DemoSet
from pose2id.evaluation import evaluate
from pose2id.programs.figures import most_changed
from pose2id.progress import tqdm
from pose2id.study import FeatureSet, Row, Setting, centralize_sets, run_study
from pose2id.tables import as_dicts, format_text

_BASE = Setting("base", "Features as extracted")
_NFC = Setting("query and gallery", "Neighbours (NFC), k1 = k2 = 2", k1=2, k2=2)
_COUNTS = "Neighbours: how many"
_GENERATED = Setting("query and gallery, eta = 1", "Generated features", eta=1.0)
_BOTH = Setting("eta = 1", "Neighbours (k1 = k2 = 2) and generated features", k1=2, k2=2, eta=1.0)
_WEIGHTED = Setting("all cameras", "Weighted neighbours, k1 = k2 = 3, alpha = 4", k1=3, k2=3, alpha=4.0)
_RECOMMENDED = replace(_WEIGHTED, name="other cameras only (recommended)", other_cameras=True)
_RECOMMENDED_GENERATED = replace(_RECOMMENDED, name="recommended, generated features, eta = 1", eta=1.0)


# "ID2", not "ID²": the table may be written to a terminal or a pipe that has no such letter.
_LEGEND = (
    "mAP, R1, R5, R10 and mINP in percent (protocol market1501: same identity and camera removed).",
    "ID2: identity density over query and gallery together, lower is denser; 'ID2' by the paper's formula,",
    "'ID2 rel.' as the released code computes it. ties: queries whose first answer hangs on an exact tie.",
    "Generated features are here those of re-drawn variants of the same picture, not of generated images.",
)


def _then_reranked(setting: Setting, name: str) -> Setting:
    return replace(setting, group="With re-ranking (k1 = 20, k2 = 6, lambda = 0.3)", name=name, reranked=True)


SETTINGS: tuple[Setting, ...] = (
    _BASE,
    replace(_NFC, name="query only", gallery=False),
    replace(_NFC, name="gallery only", query=False),
    _NFC,
    *(replace(_NFC, group=_COUNTS, name=f"k1 = k2 = {k}", k1=k, k2=k) for k in (1, 3, 4)),
    # As in the paper. In the released code k2 = 4 acts like k2 = 2 here, because it keeps k1 neighbours only.
    replace(_NFC, group=_COUNTS, name="k1 = 2, k2 = 4", k2=4),
    replace(_GENERATED, name="query only, eta = 1", gallery=False),
    replace(_GENERATED, name="gallery only, eta = 1", query=False),
    *(replace(_GENERATED, name=f"query and gallery, eta = {eta:g}", eta=eta) for eta in (0.25, 0.5, 1.0, 2.0)),
    *(replace(_BOTH, name=f"eta = {eta:g}", eta=eta) for eta in (1.0, 2.0)),
    _WEIGHTED,
    _RECOMMENDED,
    _RECOMMENDED_GENERATED,
    _then_reranked(_BASE, "base"),
    _then_reranked(_NFC, "neighbours, k1 = k2 = 2"),
    _then_reranked(_GENERATED, "generated features, eta = 1"),
    _then_reranked(_BOTH, "both: k1 = k2 = 2, eta = 1"),
    _then_reranked(_WEIGHTED, "weighted, all cameras"),
    _then_reranked(_RECOMMENDED, "weighted, other cameras (recommended)"),
    _then_reranked(_RECOMMENDED_GENERATED, _RECOMMENDED_GENERATED.name),
)
"""The rows of the table, in its order."""

PICTURES = ("ranking.png", "cmc.png", "identities.png")
"""The files that `draw_pictures` writes."""


def run_demo(data: DemoSet, *, settings: Sequence[Setting] = SETTINGS, progress: bool = False) -> list[Row]:
    """Evaluate the settings of the table, or chosen ones, by `pose2id.study.run_study`; one row for each.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.demo import SETTINGS, run_demo
    >>> row = run_demo(load_demo(), settings=SETTINGS[:1])[0]
    >>> print(f"{row.name}: mAP {row.mAP:.4f}, rank-1 {row.rank1:.4f}")
    base: mAP 0.8144, rank-1 0.9125
    """
    bar = tqdm(settings, desc="demo", unit="row", disable=not progress)
    return [row for setting in bar for row in run_study(*_take_sides(data), [setting])]


def format_table(rows: Sequence[Row]) -> str:
    """Write the rows as a fixed-width table, at most 110 columns wide; mAP, rank-k and mINP in percent.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.demo import SETTINGS, format_table, run_demo
    >>> print(format_table(run_demo(load_demo(), settings=SETTINGS[:1])).splitlines()[3])
      base                                        81.44  91.25  98.75  99.17  49.86    0.3403    0.1263     0
    """
    head = ("", "mAP", "R1", "R5", "R10", "mINP", "ID2", "ID2 rel.", "ties")
    cells = (
        (
            row.name,
            *(f"{100 * value:.2f}" for value in (row.mAP, row.rank1, row.rank5, row.rank10, row.mINP)),
            *(f"{value:.4f}" for value in (row.id2_paper, row.id2_released)),
            row.tied_rank1,
        )
        for row in rows
    )
    widths = (42, 6, 6, 6, 6, 6, 9, 9, 5)
    return format_text(head, cells, widths=widths, gap=" ", headings=[row.table for row in rows], legend=_LEGEND)


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """What the settings are made of, then the numbers of the rows, as dictionaries for JSON; scores as fractions.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.demo import SETTINGS, rows_as_dicts, run_demo
    >>> rows_as_dicts(run_demo(load_demo(), settings=SETTINGS[:1]))[0]["rank1"]
    0.9125
    """
    names = ("group", "name", "query", "gallery", "k1", "k2", "alpha", "other_cameras", "eta", "reranked")
    numbers = ("mAP", "rank1", "rank5", "rank10", "mINP", "id2_paper", "id2_released", "tied_rank1")
    return as_dicts(rows, [*(f"setting.{name}" for name in names), *numbers])


def draw_pictures(data: DemoSet, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the ranking sheet, the CMC curves and the map of identities; returns the files, as `PICTURES` names them.

    *After* in the pictures is the recommended setting, without generated features. The queries of the ranking sheet are
    not hand-picked: the five characters whose average precision rises most and the two whose average precision falls
    most, each with its most changed query. The map shows the identities 0, 10, 20, ... 70.

    Files of the same names are replaced, each in one step. Without matplotlib nothing is written (MissingExtraError).

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.demo import draw_pictures
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in draw_pictures(load_demo(), folder)]
    ['ranking.png', 'cmc.png', 'identities.png']
    """
    plots.check_matplotlib("pose2id.programs.demo.draw_pictures")  # before the work, not after it
    figures = (_draw_ranking(data), _draw_cmc(data), _draw_identities(data))
    target = Path(folder)
    return [plots.write_picture(target / name, figure.savefig) for name, figure in zip(PICTURES, figures, strict=True)]


def _take_sides(data: DemoSet) -> tuple[FeatureSet, FeatureSet]:
    query, gallery = (
        FeatureSet(data.features[rows], data.ids[rows], data.cams[rows], data.generated[rows])
        for rows in (data.query, data.gallery)
    )
    return query, gallery


def _rank(data: DemoSet, setting: Setting) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Distances (240, 1260), float64 so that equal features have exactly equal ones, and AP of each query, (240,)."""
    query, gallery = _take_sides(data)
    rows, items = (side.astype(np.float64) for side in centralize_sets(query, gallery, setting))
    distances = np.stack([np.linalg.norm(items - row, axis=1) for row in rows])
    return distances, evaluate(distances, query.ids, gallery.ids, query.cams, gallery.cams).average_precision


_AFTER = "After: centralize(features, k1=3, k2=3, alpha=4, exclude=cams), query and gallery separately."


def _draw_ranking(data: DemoSet) -> Any:
    (before, worse), (after, better) = _rank(data, _BASE), _rank(data, _RECOMMENDED)
    gains = better - worse
    query, gallery = _take_sides(data)
    rises, falls, stays = int((gains > 0).sum()), int((gains < 0).sum()), int((gains == 0).sum())
    return plots.plot_ranking(
        {"Before": before, "After centralization": after},
        *(query.ids, gallery.ids, query.cams, gallery.cams),
        queries={
            "AP rises most": most_changed(gains, data.ids[data.query], 5),
            "AP falls most": most_changed(-gains, data.ids[data.query], 2),
        },
        query_images=data.thumbnails[data.query],
        gallery_images=data.thumbnails[data.gallery],
        title="The ten nearest gallery drawings, before and after centralization",
        caption=(
            "Chosen by rule, not by eye: the five characters whose AP rises most, the two whose AP falls most. "
            f"Of all {data.n_query} queries AP\nrises for {rises}, falls for {falls} and stays for {stays}. "
            "Gallery drawings of the query's identity and camera are removed (Market-1501 rule).\n"
            f"{_AFTER} Drawings: Omniglot (Lake et al. 2015)."
        ),
    )


def _draw_cmc(data: DemoSet) -> Any:
    compared = {
        "base": _BASE,
        "as published: k1 = k2 = 2": _NFC,
        "recommended: k1 = k2 = 3, alpha = 4, other cameras": _RECOMMENDED,
        "recommended, with generated features": _RECOMMENDED_GENERATED,
    }
    rows = run_study(*_take_sides(data), compared.values(), density=False)
    scores = {name: row.scores for name, row in zip(compared, rows, strict=True)}
    queries = rows[0].valid_queries
    title = f"CMC on the demo set: {queries} queries, {100 / queries:.1f} % each"
    return plots.plot_cmc(scores, title=title).figure


def _draw_identities(data: DemoSet) -> Any:
    show = range(0, len(data.names), 10)
    sides = _take_sides(data)
    before, after = (np.concatenate(centralize_sets(*sides, setting)) for setting in (_BASE, _RECOMMENDED))
    return plots.plot_identities(
        before,
        after,
        data.ids,
        show=show,
        images=data.thumbnails,
        titles=("Before", "After centralization"),
        title="Eight characters on a plane, before and after centralization",
        caption=(
            f"Identities {show[0]}, {show[1]}, ... {show[-1]}, all their drawings. "
            f"ID² over all {len(data.names)} identities in all {data.features.shape[1]} dimensions; "
            f"lower is denser.\n{_AFTER}"
        ),
    )
