"""Pictures of an evaluation, from what `pose2id.study.run_study` was given and gave."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pose2id import plots
from pose2id.arrays import take_array
from pose2id.distances import unit
from pose2id.evaluation import rank_gallery
from pose2id.images import read_image
from pose2id.parts import PartFeatures, part_distances, rerank_parts
from pose2id.plots.ranking import draw_sheet
from pose2id.reranking import rerank
from pose2id.study import FeatureSet, Row, centralize_sets
from pose2id.validation import JUNK, equal_label, take_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

PICTURES = ("cmc.png", "identities.png", "ranking.png")
"""The files that `draw_evaluation` writes, those for which it has what they need."""
TOP, RISING, FALLING = 10, 5, 2
"""Of the ranking sheet: answers of a query, and how many queries."""
IDENTITIES, FEWEST = 8, 3
"""On the map, at most and at least."""
NUMBERS = 2**25
"""In the features on the map at most; of larger sets it has some identities only."""
_SIZE = 128, 256  # width and height of a photograph on a sheet


def draw_evaluation(
    query: FeatureSet,
    gallery: FeatureSet | None,
    rows: Sequence[Row],
    folder: str | os.PathLike[str],
    *,
    protocol: str = "market1501",
    metric: str = "euclidean",
    engine: str = "auto",
    photographs: Sequence[Sequence[str | os.PathLike[str]]] | None = None,
) -> tuple[list[Path], list[str]]:
    """Draw the CMC curves of all rows, a map of identities and the queries that change most.

    The last two show two rows of those without re-ranking: the last one, and before it the last whose features are
    only scaled, or as they are. Of a single row without re-ranking they compare the first row with the last.

    Parameters
    ----------
    query, gallery, protocol, metric, engine
        As `run_study` was given them.
    rows : sequence of Row
        What it gave. The map needs two rows without re-ranking, of features (N, D).
    folder : path
        Files of the same names, see `PICTURES`, are replaced.
    photographs : sequence of sequences of paths, optional
        Of each side one for each row of features. Without there is no ranking sheet.

    Returns
    -------
    files : list of pathlib.Path
        Those that were written.
    missing : list of str
        Which were not, and why.

    Raises
    ------
    MissingExtraError
        Without matplotlib, before anything is written.
    OSError, ValueError
        For photographs that cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.figures import draw_evaluation
    >>> from pose2id.study import FeatureSet, Setting, run_study
    >>> data = load_demo()
    >>> sides = [FeatureSet(data.features[i], data.ids[i], data.cams[i]) for i in (data.query, data.gallery)]
    >>> rows = run_study(*sides, [Setting("base"), Setting("k1 = k2 = 2", k1=2, k2=2)], density=False)
    >>> with tempfile.TemporaryDirectory() as place:
    ...     files, missing = draw_evaluation(*sides, rows, place)
    ...     [file.name for file in files], missing
    (['cmc.png', 'identities.png'], ['ranking.png needs photographs'])
    """
    plots.check_matplotlib("pose2id.programs.figures")
    missing: list[str] = []
    figures: dict[str, Any] = {"cmc.png": plots.plot_cmc({row.name: row.scores for row in rows}).figure}
    images = None if photographs is None else [_Images(paths) for paths in photographs]
    pair = _choose_pair(rows)
    if query.has_parts:
        missing.append("identities.png needs features (N, D), not parts")
    elif len(pair) < 2 or pair[-1].setting.reranked:
        missing.append("identities.png needs two rows to compare, such as those of --centralize")
    else:
        drawn = _draw_map(query, gallery, pair, engine, images)
        if drawn is None:
            missing.append(f"identities.png needs {FEWEST} identities")
        else:
            figures["identities.png"] = drawn
    if images is None:
        missing.append("ranking.png needs photographs")
    else:
        figures["ranking.png"] = _draw_ranking(query, gallery, pair, images, protocol, metric, engine)
    return [plots.write_picture(Path(folder, name), figure.savefig) for name, figure in figures.items()], missing


def _choose_pair(rows: Sequence[Row]) -> Sequence[Row]:
    """The rows to compare, so that one thing differs: scaling is in both, re-ranking in none; one row alone."""
    plain = [row for row in rows if not row.setting.reranked]
    if len(plain) < 2:
        return [rows[0], rows[-1]] if len(rows) > 1 else rows
    still = [row for row in plain[:-1] if not (row.setting.eta or min(row.setting.k1, row.setting.k2))]
    return (still or plain)[-1 if still else 0], plain[-1]


class _Images(Sequence[Any]):
    """Photographs, read when they are drawn, and small."""

    def __init__(self, paths: Sequence[str | os.PathLike[str]]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: Any) -> Any:
        picture = read_image(self.paths[row])
        picture.thumbnail(_SIZE)
        return np.asarray(picture)


def _draw_map(
    query: FeatureSet, gallery: FeatureSet | None, pair: Sequence[Row], engine: str, images: list[_Images] | None
) -> Any:
    """The map of two rows, or None for fewer than three identities."""
    sides = [query] if gallery is None else [query, gallery]
    ids = np.concatenate([take_labels(side.ids, len(side.features), "ids") for side in sides])
    names, counts = np.unique(ids[~equal_label(ids, JUNK)], return_counts=True)
    if len(names) < FEWEST:
        return None
    often = names[counts > 2] if (counts > 2).sum() >= FEWEST else names
    show = often[np.linspace(0, len(often) - 1, min(IDENTITIES, len(often))).astype(int)].tolist()
    width = query.features.shape[1]
    few = max(IDENTITIES, int(len(names) * min(1.0, NUMBERS / (len(ids) * width))))
    counted = names[np.linspace(0, len(names) - 1, min(few, len(names))).astype(int)]
    kept = np.isin(ids, np.concatenate([counted, show]))
    at = torch.from_numpy(np.flatnonzero(kept))
    panels = [
        torch.cat([take_array(x, "features")[0].cpu() for x in _features(query, gallery, row, engine)])[at]
        for row in pair
    ]
    shown = f"{len(show)} of {len(names):,} identities: {', '.join(map(str, show))}."
    over = f"ID² over {len(np.unique(ids[kept])):,} identities in all {width:,} dimensions; lower is denser."
    before, after = panels
    paths = [path for side in images or () for path in side.paths]
    return plots.plot_identities(
        before,
        after,
        ids[kept],
        show=show,
        images=None if images is None else _Images([paths[row] for row in np.flatnonzero(kept)]),
        titles=(pair[0].name, pair[1].name),
        caption=f"{shown} {over}",
    )


def _features(query: FeatureSet, gallery: FeatureSet | None, row: Row, engine: str) -> list[Any]:
    """What was scored, of each side."""
    if gallery is not None:
        return list(centralize_sets(query, gallery, row.setting, engine=engine))
    alone = replace(row.setting, gallery=False)
    return [centralize_sets(query, query, alone, engine=engine)[0]]


def _draw_ranking(
    query: FeatureSet,
    gallery: FeatureSet | None,
    views: Sequence[Row],
    images: list[_Images],
    protocol: str,
    metric: str,
    engine: str,
) -> Any:
    """The queries whose average precision rises most and falls most, of one row those of the lowest."""
    other = query if gallery is None else gallery
    ids = take_labels(query.ids, len(query.features), "ids")
    before, after = views[0], views[-1]
    first, last = before.scores.average_precision, after.scores.average_precision
    groups = {"lowest AP": most_changed(-first, ids, RISING + FALLING)}
    if len(views) > 1:
        gains = last - first
        groups = {
            "AP rises most": most_changed(np.where(gains > 0, gains, np.nan), ids, RISING),
            "AP falls most": most_changed(np.where(gains < 0, -gains, np.nan), ids, FALLING),
        }
        groups = {name: found for name, found in groups.items() if found}
        groups = groups or {"no AP changes": most_changed(-first, ids, RISING)}
    chosen = [row for members in groups.values() for row in members]
    labels: list[Any] = [ids[chosen], other.ids, None, None]
    if query.cams is not None:
        labels[2:] = take_labels(query.cams, len(ids), "cams")[chosen], other.cams
    own = None
    if gallery is None:
        own = np.zeros((len(chosen), len(ids)), dtype=bool)
        own[np.arange(len(chosen)), chosen] = True
    rankings = []
    for view in views:
        distances = _distances(query, gallery, view, chosen, metric, engine)
        found = rank_gallery(distances, *labels, queries=range(len(chosen)), protocol=protocol, ignore=own)
        rankings.append(dict(zip(chosen, found, strict=True)))
    return draw_sheet(
        [(view.name, f": mAP {100 * view.mAP:.1f}") for view in views],
        rankings,
        groups,
        query_images=images[0],
        gallery_images=images[-1],
        top=TOP,
        caption=f"Chosen by rule: at most one query of each identity. mAP is that of all {after.valid_queries:,} "
        f"queries; what the protocol {protocol} leaves out is not shown.",
    )


def _distances(
    query: FeatureSet, gallery: FeatureSet | None, row: Row, chosen: Sequence[int], metric: str, engine: str
) -> Any:
    """Of the chosen queries to the gallery, (q, G)."""
    sides = _features(query, gallery, row, engine)
    one, other = sides[0], sides[-1]
    how = row.setting
    options: dict[str, Any] = {
        "k1": how.rerank_k1,
        "k2": how.rerank_k2,
        "lambda_value": how.rerank_lambda,
        "engine": engine,
    }
    if isinstance(one, PartFeatures):
        if how.reranked:
            table = rerank_parts(one.parts, other.parts, one.visibility, other.visibility, **options)
            return table[chosen]
        some = [None if part is None else part[chosen] for part in one]
        return part_distances(some[0], other.parts, some[1], other.visibility, metric=metric, normalize=how.normalize)
    if how.reranked:
        return rerank(one, other, **options)[chosen]
    left, right = (take_array(x, "features")[0].double() for x in (one[chosen], other))
    return 1 - unit(left) @ unit(right).T if metric == "cosine" else torch.cdist(left, right)


def most_changed(gains: NDArray[np.float64], ids: NDArray[Any], count: int) -> list[int]:
    """Queries in order of falling gain, at most one of each identity; equal gains by query index, NaN never."""
    chosen: dict[Any, int] = {}
    for row in np.argsort(-gains, kind="stable"):
        if not np.isnan(gains[row]):
            chosen.setdefault(ids[row].item(), int(row))
    return list(chosen.values())[:count]
