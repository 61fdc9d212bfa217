"""What a report says, computed: tables, curves and rankings of features before and after centralization."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from pose2id.arrays import cut, take_array, take_features
from pose2id.centralization.mutual import mutual_neighbors
from pose2id.distances import full_precision, unit
from pose2id.evaluation import rank_gallery
from pose2id.neighbors import knn_graph
from pose2id.parts import PartFeatures, part_distances, part_neighbors, rerank_parts
from pose2id.reranking import rerank_top
from pose2id.study import FeatureSet, Row, Setting, Verdict, assess, centralize_sets, run_study
from pose2id.study.agreement import scale_rows
from pose2id.study.counting import Counted, count_right, take_known
from pose2id.study.runs import compare_scores
from pose2id.threads import fit_threads
from pose2id.validation import JUNK, equal_label, take_labels

TOP = 10
"""Gallery items shown of each ranking."""
RERANKED = 100
"""Gallery items of each query that are re-ranked."""
BINS = 60
MEASURED = 500
"""Queries at most whose distances are counted, evenly among all: enough for the shape, and fast."""
MAPPED, CLOUD = 10, 25
"""Identities on the map, and rows of each."""
CAMERAS = 50
"""Of which neighbours are told."""
PAIRS = 2**26
"""Query x gallery pairs up to which the table has re-ranked rows: they need the matrix."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Shown:
    """One query and its first gallery items, in every view."""

    query: int
    gain: float | None  # change of its average precision; None without labels
    views: dict[str, list[tuple[int, bool | None]]]  # gallery row, and whether it is right
    precision: dict[str, float]


@dataclass
class Contents:
    """What the page shows; empty lists where labels, or cameras, are missing."""

    rows: list[Row] = field(default_factory=list)
    gain: tuple[float, float] | None = None  # of mAP, and its standard error, paired over identities
    counted: Counted | None = None  # the gallery's mutual neighbours, with labels
    estimated: Verdict | None = None  # without
    curves: dict[str, list[float]] = field(default_factory=dict)
    histograms: list[dict[str, Any]] = field(default_factory=list)
    shown: list[Shown] = field(default_factory=list)
    views: list[str] = field(default_factory=list)
    plane: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    cameras: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@fit_threads
def gather(
    query: FeatureSet,
    gallery: FeatureSet,
    after: Setting,
    *,
    labelled: bool,
    protocol: str = "market1501",
    reranked: bool = True,
    count: int = 24,
    engine: str = "auto",
    report: Report = lambda _: None,
    progress: bool = False,
    estimated: Verdict | None = None,
) -> Contents:
    """Everything but the pictures.

    `after` is the setting that is compared with features as they are; `labelled` says whether `ids` mean anything;
    `estimated` is what `assess` says without labels, where that is known already.
    """
    for name, data in (("query", query), ("gallery", gallery)):
        if not len(data.features):
            raise ValueError(f"{name} must have at least one row, received none")
    contents = Contents()
    if after.other_cameras and all(len(np.unique(np.asarray(side.cams))) == 1 for side in (query, gallery)):
        contents.notes.append(
            "Each side is of one camera, so no row has a neighbour of another, and nothing changes; --all-cams takes "
            "neighbours of all cameras."
        )
    before = Setting("before", normalize=not query.has_parts)
    options: dict[str, Any] = {"engine": engine, "progress": progress}
    report("centralizing")
    pairs = {
        "before": centralize_sets(query, gallery, before, **options),
        "after": centralize_sets(query, gallery, after, **options),
    }
    precision: dict[str, Any] = {}
    labels = (query.ids, gallery.ids, query.cams, gallery.cams)
    if labelled:
        report("scoring")
        settings = _settings(query, gallery, after)
        compared = {"before": len(settings) - 3, "after": len(settings) - 1}
        small = len(query.features) * len(gallery.features) <= PAIRS
        if reranked and small:
            settings += [
                replace(s, name=f"{s.name}, re-ranked", reranked=True)
                for s in map(settings.__getitem__, compared.values())
            ]
        contents.rows = run_study(query, gallery, settings, protocol=protocol, density=False, report=report, **options)
        if reranked and not small:
            contents.notes.append(
                f"Re-ranked rows are left out of the table: they need the whole matrix of {len(query.features):,} x "
                f"{len(gallery.features):,} distances. The rankings below are re-ranked."
            )
        scores = {name: contents.rows[at].scores for name, at in compared.items()}
        precision = {name: found.average_precision for name, found in scores.items()}
        contents.gain = compare_scores(scores["after"], scores["before"], query.ids)
        contents.curves = {name: [found.rank(k) for k in range(1, 51)] for name, found in scores.items()}
        change = np.nan_to_num(precision["after"] - precision["before"])
        chosen = np.argsort(-np.abs(change), kind="stable")[:count]
    else:
        report("searching the nearest")
        lists = {name: _nearest(*pair, TOP) for name, pair in pairs.items()}
        same = [len(set(a) & set(b)) for a, b in zip(lists["before"].tolist(), lists["after"].tolist(), strict=True)]
        chosen = np.argsort(same, kind="stable")[:count]
        change = None
    tables = {name: _distances(_take(pair[0], chosen), pair[1]) for name, pair in pairs.items()}
    if reranked:
        report("re-ranking")
        tables["re-ranked"] = _rerank(*pairs["before"], chosen, **options)
    contents.views = list(tables)
    contents.shown = _show(tables, labels, protocol, chosen, change, precision, labelled=labelled)
    report("distances")
    contents.histograms = _count_distances(pairs, labels, labelled=labelled)
    contents.plane = _map(pairs, gallery, labelled=labelled)
    report("neighbours")
    if not gallery.has_parts and labelled:
        rows, _ = take_features(gallery.features)
        contents.counted = count_right(rows, take_known(gallery.ids, len(rows))[0], nobody=True, engine=engine)
    elif not gallery.has_parts:
        contents.estimated = estimated or assess(gallery.features, gallery.cams, engine=engine)
    contents.cameras, left_out = _count_neighbors(gallery, after, labelled=labelled, engine=engine)
    if left_out:
        contents.notes.append(
            f"The table of neighbours has the {CAMERAS} cameras with most rows, not {left_out:,} more."
        )
    return contents


def _settings(query: FeatureSet, gallery: FeatureSet, after: Setting) -> list[Setting]:
    """The rows of the table: as given, of length 1, as published, and the one that is compared."""
    first = [] if query.has_parts else [Setting("as given", normalize=False)]
    eta = 1.0 if query.generated is not None or gallery.generated is not None else 0.0
    return [*first, Setting("length 1"), Setting("as published, k1 = k2 = 2", eta=eta, k1=2, k2=2), after]


def _take(rows: Any, chosen: Any) -> Any:
    if isinstance(rows, PartFeatures):
        return PartFeatures(*(None if part is None else part[chosen] for part in rows))
    return rows[chosen]


def _distances(one: Any, other: Any) -> Any:
    """Of some queries to all of the gallery, (b, G) numpy."""
    if isinstance(one, PartFeatures):
        found = part_distances(one.parts, other.parts, one.visibility, other.visibility)
        return take_array(found, "distances")[0].cpu().numpy()
    rows, items = (unit(take_array(x, "features")[0].float()) for x in (one, other))
    with full_precision(rows.device):
        return (2 - 2 * rows @ items.T).clamp_(min=0).sqrt_().cpu().numpy()


def _nearest(one: Any, other: Any, count: int) -> Any:
    """The nearest gallery rows of every query, (Q, count) numpy."""
    if isinstance(one, PartFeatures):
        count = min(count, len(other.parts))
        found = part_neighbors(one.parts, other.parts, count, one.visibility, other.visibility).indices
        return take_array(found, "indices")[0].cpu().numpy()
    count = min(count, len(other))
    blocks = [_distances(one[block], other) for block in cut(len(one), 256)]
    return np.concatenate([np.argsort(part, axis=1, kind="stable")[:, :count] for part in blocks])


def _rerank(one: Any, other: Any, chosen: Any, **options: Any) -> Any:
    """Re-ranked distances of some queries, (b, G), inf beyond the first ones."""
    if isinstance(one, PartFeatures):
        found = rerank_parts(one.parts, other.parts, one.visibility, other.visibility, **options)
        return take_array(found, "distances")[0].cpu().numpy()[chosen]
    first = rerank_top(one, other, min(RERANKED, len(other)), **options)
    indices, values = (take_array(x, "lists")[0].cpu().numpy()[chosen] for x in (first.indices, first.distances))
    table = np.full((len(chosen), len(other)), np.inf, values.dtype)
    np.put_along_axis(table, indices, values, axis=1)
    return table


def _show(
    tables: dict[str, Any],
    labels: tuple[Any, ...],
    protocol: str,
    chosen: Any,
    change: Any,
    precision: dict[str, Any],
    *,
    labelled: bool,
) -> list[Shown]:
    found: dict[str, list[list[tuple[int, bool | None]]]] = {}
    for name, table in tables.items():
        if labelled:
            some: list[Any] = [None if side is None else np.asarray(side)[chosen] for side in labels[::2]]
            rankings = rank_gallery(
                table, some[0], labels[1], some[1], labels[3], queries=range(len(chosen)), protocol=protocol
            )
            found[name] = [
                [(int(row), bool(right)) for row, right in zip(x.rows[:TOP], x.right[:TOP], strict=True)]
                for x in rankings
            ]
        else:
            order = np.argsort(table, axis=1, kind="stable")[:, :TOP]
            found[name] = [[(int(row), None) for row in rows] for rows in order]
    return [
        Shown(
            int(row),
            None if change is None else float(change[row]),
            {name: rows[at] for name, rows in found.items()},
            {name: float(values[row]) for name, values in precision.items()},
        )
        for at, row in enumerate(chosen)
    ]


def _count_distances(pairs: dict[str, Any], labels: tuple[Any, ...], *, labelled: bool) -> list[dict[str, Any]]:
    """Histograms: of right and of wrong pairs, or without labels of each query's nearest item."""
    histograms = []
    known = [_known(ids) for ids in labels[:2]] if labelled else []
    for name, (one, other) in pairs.items():
        top = 2.0
        counts = np.zeros((2, BINS))
        total = len(one.parts if isinstance(one, PartFeatures) else one)
        some = np.unique(np.linspace(0, total - 1, MEASURED).round().astype(int))
        for part in cut(len(some), 64):
            block = some[part]
            table = np.minimum(_distances(_take(one, block), other), top)
            if not labelled:
                counts[1] += _count(table.min(axis=1), top)
                continue
            right = np.asarray(labels[0])[block][:, None] == np.asarray(labels[1])
            someone = known[0][block][:, None] & known[1]
            other_camera = np.ones_like(right)
            if labels[2] is not None:
                other_camera = np.asarray(labels[2])[block][:, None] != np.asarray(labels[3])
            counts[0] += _count(table[right & other_camera & someone], top)
            counts[1] += _count(table[~right & someone], top)
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        kinds = ("right", "wrong") if labelled else ("", "nearest")
        series = {kind: part.tolist() for kind, part in zip(kinds, shares, strict=True) if kind}
        histograms.append({"name": name, "top": top, "series": series})
    return histograms


def _count(values: Any, top: float) -> Any:
    """How many values lie in each bin from 0 to `top`; faster than numpy.histogram, which asks for no equal bins."""
    return np.bincount(np.minimum((values * (BINS / top)).astype(np.int64), BINS - 1), minlength=BINS)


def _map(pairs: dict[str, Any], gallery: FeatureSet, *, labelled: bool) -> dict[str, list[dict[str, Any]]]:
    """Places in a plane of the rows of some identities, or without labels of some cameras, before and after."""
    whose = np.asarray(gallery.ids) if labelled else None if gallery.cams is None else np.asarray(gallery.cams)
    if whose is None:
        return {}
    names, counts = np.unique(whose, return_counts=True)
    others = ("-1", "0") if labelled else ()  # junk and distractors; a camera 0 is one like others
    usual = [at for at in np.argsort(-counts, kind="stable") if str(names[at]) not in others][:MAPPED]
    rows = [np.flatnonzero(whose == names[at])[:CLOUD] for at in usual if counts[at] > 1]
    if not rows:
        return {}
    every = np.concatenate(rows)
    planes = {}
    for name, (_, other) in pairs.items():
        features = other.parts if isinstance(other, PartFeatures) else other
        flat = take_array(features, "features")[0][torch.from_numpy(every)].double().nan_to_num().flatten(1)
        points = unit(flat)
        points = points - points.mean(dim=0)
        placed = (points @ torch.linalg.svd(points, full_matrices=False)[2][:2].T).numpy()
        placed = np.pad(placed, ((0, 0), (0, 2 - placed.shape[1])))
        scale = np.abs(placed).max() or 1.0
        ends = np.cumsum([len(part) for part in rows])[:-1]
        clouds = np.split(placed / scale, ends)
        kept = [str(whose[part[0]]) for part in rows]
        planes[name] = [{"name": who, "points": cloud.tolist()} for who, cloud in zip(kept, clouds, strict=True)]
    return planes


def find_mutual(
    features: Any, k1: int, k2: int, *, exclude: Any = None, engine: str = "auto", progress: bool = False
) -> Any:
    """The mutual neighbours of every row, (N, k1) numpy, -1 where there is none; a row of zeros has none."""
    rows, nonzero = scale_rows(take_features(features)[0])
    at = nonzero.cpu().numpy()
    mutual = np.full((len(features), k1), -1)
    if len(at) > 1:
        labels = None if exclude is None else take_labels(exclude, len(features), "exclude")[at]
        table = knn_graph(rows, max(k1, k2), exclude=labels, engine=engine, progress=progress).indices
        found = mutual_neighbors(table, k1, k2).cpu().numpy()
        mutual[at] = np.where(found >= 0, at[found], -1)
    return mutual


def _count_neighbors(
    gallery: FeatureSet, after: Setting, *, labelled: bool, engine: str
) -> tuple[list[dict[str, Any]], int]:
    """Of the gallery, camera by camera: how many rows have mutual neighbours, how many, whose; and cameras left out."""
    n = len(gallery.features)
    if not min(after.k1, after.k2) or n < 2 or gallery.has_parts:
        return [], 0
    exclude = gallery.exclude(other_cameras=after.other_cameras)
    mutual = find_mutual(gallery.features, after.k1, after.k2, exclude=exclude, engine=engine)
    cams = np.zeros(n, int) if gallery.cams is None else np.asarray(gallery.cams)
    ids, known = np.asarray(gallery.ids), _known(gallery.ids) if labelled else np.ones(n, bool)
    stats = []
    row, at = np.nonzero(mutual >= 0)
    other = mutual[row, at]
    names, counts = np.unique(cams, return_counts=True)
    most = np.sort(np.argsort(-counts, kind="stable")[:CAMERAS])  # tracks may be given as cameras: thousands
    for camera in [*names[most], None]:
        own = np.ones(n, bool) if camera is None else cams == camera
        mine = own[row]
        asked = mine & known[row] & known[other]
        stats.append(
            {
                "name": "all" if camera is None else str(camera),
                "rows": int(own.sum()),
                "linked": float(np.isin(np.flatnonzero(own), row[mine]).mean()),
                "each": float(mine.sum() / own.sum()),
                "elsewhere": _share(cams[row[mine]] != cams[other[mine]]) if gallery.cams is not None else math.nan,
                "right": _share(ids[row[asked]] == ids[other[asked]]) if labelled else math.nan,
            }
        )
    return (stats[-1:], 0) if gallery.cams is None else (stats, len(names) - len(most))


def _share(found: Any) -> float:
    return float(found.mean()) if len(found) else math.nan


def _known(ids: Any) -> Any:
    """The rows that belong to somebody."""
    return ~equal_label(take_labels(ids, len(ids), "ids"), JUNK)


def name_views(views: Sequence[str]) -> dict[str, str]:
    """How the page calls the views."""
    names = {"before": "before", "after": "centralized", "re-ranked": "re-ranked"}
    return {view: names[view] for view in views}
