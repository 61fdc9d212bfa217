"""Before and after: two sets and a list of settings in, one row of scores and ID² for each setting out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pose2id.centralization import centralize
from pose2id.density import VARIANTS, id_density
from pose2id.evaluation import Scores, evaluate, evaluate_features
from pose2id.parts import PartFeatures, centralize_parts, evaluate_parts, part_density, rerank_parts
from pose2id.reranking import rerank
from pose2id.validation import is_tensor, take_labels

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.evaluation import Protocol
    from pose2id.evaluation.masks import Ignore, MoreLabels
    from pose2id.validation import Labels

    _Side = tuple[str, "Setting"]

__all__ = ["FeatureSet", "Row", "Setting", "centralize_sets", "run_study", "standard_error"]


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """One side of a study, the queries or the gallery.

    Attributes
    ----------
    features : (N, D) numpy array or torch tensor, or part features (N, P, D)
        As `centralize`, or `centralize_parts`, takes them.
    ids : (N,) integers or strings
        Identities.
    cams : (N,) integers or strings, optional
        Cameras; both sides have them, or neither.
    generated : (N, M, D) or (N, D) array, or a sequence of M arrays (N, D), optional
        Features of generated images, as `centralize` takes them; of parts (N, M, P, D).
    visibility, generated_visibility : (N, P) and (N, M, P) arrays, optional
        How well each part is seen, as `centralize_parts` takes it.
    groups : (N,) integers or strings, optional
        Rows of one group are never neighbours, such as the people in one frame of a video.
    """

    features: Array
    ids: Labels
    cams: Labels | None = None
    generated: Array | Sequence[Array] | None = None
    visibility: Array | None = None
    generated_visibility: Array | None = None
    groups: Labels | None = None

    @property
    def has_parts(self) -> bool:
        """Whether the features are parts, (N, P, D)."""
        return getattr(self.features, "ndim", 2) == 3

    def exclude(self, *, other_cameras: bool) -> Labels | None:
        """Labels of rows that are never neighbours: the cameras, or the groups."""
        return self.cams if other_cameras else self.groups


@dataclass(frozen=True)
class Setting:
    """What is done to the features before they are evaluated; by default they are only scaled to length 1.

    Attributes
    ----------
    name, group : str
        Name of the row, and heading of the rows it belongs to.
    query, gallery : bool
        Whether this side is centralized; the other one is only scaled.
    eta : float
        Weight of the mean generated feature, on the sides that have some; 0 leaves them out.
    k1, k2, alpha : int, int and float
        As in `pose2id.centralize`; k1 = 0 or k2 = 0 leaves the neighbours out.
    other_cameras : bool
        Whether neighbours come from other cameras only (``exclude=cams``), whatever the groups.
    normalize : bool
        False: nothing is scaled, so without neighbours and generated features the rows stay as given.
    reranked : bool
        Whether k-reciprocal re-ranking follows.
    rerank_k1, rerank_k2, rerank_lambda
        Of the re-ranking: `k1`, `k2` and `lambda_value` of `pose2id.rerank`.
    fill_query, fill_gallery : bool
        Whether hidden parts of this side are filled, as by ``centralize_parts(..., fill=True)``.
    """

    name: str
    group: str = ""
    query: bool = True
    gallery: bool = True
    eta: float = 0.0
    k1: int = 0
    k2: int = 0
    alpha: float = 0.0
    other_cameras: bool = False
    normalize: bool = True
    reranked: bool = False
    rerank_k1: int = 20
    rerank_k2: int = 6
    rerank_lambda: float = 0.3
    fill_query: bool = False
    fill_gallery: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """What one setting comes to.

    Attributes
    ----------
    setting : Setting
        What was done; `name` and `table` (its group) are those of the setting.
    scores : Scores
        All that was measured; of it `mAP`, `mINP`, `rank1`, `rank5`, `rank10`, `valid_queries` and `tied_rank1` are
        attributes of the row as well.
    id2_paper, id2_released : float
        ID² over query and gallery together, both variants of `pose2id.id_density`; lower is denser, NaN where it was
        not asked for; `id2` is the paper's. Rows labelled -1 are left out. Re-ranking changes distances, not
        features, so it leaves ID² as it is. For parts the mean over those that somebody shows.
    error : float
        Standard error of mAP over identities; see `standard_error`.
    encoder : str
        Whose features they are, where several encoders are compared.
    """

    setting: Setting
    scores: Scores
    id2_paper: float = math.nan
    id2_released: float = math.nan
    error: float = math.nan
    encoder: str = ""

    name = property(attrgetter("setting.name"))
    table = property(attrgetter("setting.group"))
    mAP = property(attrgetter("scores.mAP"))
    mINP = property(attrgetter("scores.mINP"))
    rank1 = property(lambda row: row.scores.rank(1))
    rank5 = property(lambda row: row.scores.rank(5))
    rank10 = property(lambda row: row.scores.rank(10))
    valid_queries = property(attrgetter("scores.valid_queries"))
    tied_rank1 = property(attrgetter("scores.tied_rank1"))
    id2 = property(attrgetter("id2_paper"))


def run_study(
    query: FeatureSet,
    gallery: FeatureSet | None,
    settings: Iterable[Setting],
    *,
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
    metric: str = "euclidean",
    density: bool = True,
    encoder: str = "",
    engine: str = "auto",
    progress: bool = False,
    report: Callable[[str], None] | None = None,
) -> list[Row]:
    """Centralize both sides, re-rank or not, score, ID²: for every setting.

    Part features are centralized, re-ranked and scored by the functions of `pose2id.parts`.

    Query and gallery are centralized separately, as published: no feature of one ever enters the other. Settings that
    ask for the same features of a side share them; they are held only as long as one needs them. Settings that come to
    the same are scored, and re-ranked, once.

    Parameters
    ----------
    query, gallery : FeatureSet
        Of the same container and device. Without a gallery, None, the one set is scored against itself, as by
        `pose2id.evaluate_features`; then `query` and `fill_query` of a setting are about it.
    settings : iterable of Setting
    protocol, ignore, labels, metric
        As for `pose2id.evaluate_features`; the metric is for settings without re-ranking.
    density : bool
        False leaves out ID².
    encoder : str
        Noted in the rows.
    engine, progress
        As for `pose2id.centralize`, in every step.
    report : callable, optional
        Is told what begins, such as "length 1: re-ranking".

    Returns
    -------
    list of Row
        One for each setting, in their order.

    Raises
    ------
    TypeError, ValueError
        As `pose2id.centralize`, `pose2id.evaluate` and `pose2id.rerank`; and for a setting that needs cameras,
        generated features, parts or, for re-ranking and `fill_gallery`, a gallery where there are none.

    References
    ----------
    Yuan et al., From Poses to Identity, CVPR 2025, Tables 2-4 and 7.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.study import FeatureSet, Setting, run_study
    >>> data = load_demo()
    >>> query, gallery = (FeatureSet(data.features[i], data.ids[i], data.cams[i]) for i in (data.query, data.gallery))
    >>> for row in run_study(query, gallery, [Setting("base"), Setting("k1 = k2 = 2", k1=2, k2=2)]):
    ...     print(f"{row.name:<12}{row.mAP:.4f} {row.id2:.4f}")
    base        0.8144 0.3403
    k1 = k2 = 2 0.8413 0.2997
    """
    if isinstance(settings, Setting) or not isinstance(settings, Iterable):
        raise TypeError(f"settings must be a sequence of Setting, received {type(settings).__name__}")
    settings = list(settings)
    sets = [query] if gallery is None else [query, gallery]
    for setting in settings:
        _check(setting, *sets)
    of_labels = (query.ids, None, query.cams) if gallery is None else (query.ids, gallery.ids, query.cams, gallery.cams)
    rules: dict[str, Any] = {"protocol": protocol, "ignore": ignore, "labels": labels}
    options: dict[str, Any] = {"engine": engine, "progress": progress}
    uses = Counter(side for setting in settings for side in _sides(setting)[: len(sets)])
    features: dict[_Side, Any] = {}
    known: dict[Any, dict[str, Any]] = {}
    rows = []
    for setting in settings:
        sides = _sides(setting)[: len(sets)]
        how = (setting.rerank_k1, setting.rerank_k2, setting.rerank_lambda) if setting.reranked else ()
        if (*sides, how) not in known:
            begin = partial(_report, report, setting.name)
            for side, data in zip(sides, sets, strict=True):
                if side not in features:
                    begin(f"the {side[0]} side")
                    features[side] = _centralize(data, side[1], **options)
            found = [features[side] for side in sides]
            if setting.reranked:
                begin("re-ranking")
                scores = evaluate(_rerank(found[0], found[1], setting, **options), *of_labels, **rules)
            else:
                begin("scoring")
                score = partial(_score_parts, normalize=setting.normalize) if query.has_parts else evaluate_features
                scores = score(*[*found, None][:2], *of_labels, **rules, metric=metric, progress=progress)
            id2 = _measure_density(found, [data.ids for data in sets], setting) if density else {}
            known[(*sides, how)] = {"scores": scores, "error": standard_error(scores, query.ids), **id2}
            del found  # as the distances: not held while the next setting is worked on
        rows.append(Row(setting, encoder=encoder, **known[(*sides, how)]))
        uses.subtract(sides)
        features = {side: array for side, array in features.items() if uses[side]}
    return rows


def centralize_sets(
    query: FeatureSet, gallery: FeatureSet, setting: Setting, *, engine: str = "auto", progress: bool = False
) -> tuple[Any, Any]:
    """Features of both sides after a setting: what `run_study` evaluates.

    Re-ranking changes distances, so nothing of it is seen here. Nor is the scaling of parts to which nothing is added:
    scoring does that.

    Parameters
    ----------
    query, gallery : FeatureSet
        Of the same container and device.
    setting : Setting
    engine, progress
        As for `pose2id.centralize`.

    Returns
    -------
    (Q, D) array, (G, D) array
        The queries and the gallery, of the container, dtype and device given; of parts two `PartFeatures`, whose
        visibility may be None.

    Raises
    ------
    TypeError, ValueError
        As `pose2id.centralize`; and for a setting that needs cameras or generated features where there are none.

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.study import FeatureSet, Setting, centralize_sets
    >>> query, gallery = FeatureSet(np.array([[3.0, 4.0]]), ["a"]), FeatureSet(np.array([[0.0, 2.0]]), ["a"])
    >>> centralize_sets(query, gallery, Setting("base"))
    (array([[0.6, 0.8]]), array([[0., 1.]]))
    """
    _check(setting, query, gallery)
    options: dict[str, Any] = {"engine": engine, "progress": progress}
    (_, of_query), (_, of_gallery) = _sides(setting)
    return _centralize(query, of_query, **options), _centralize(gallery, of_gallery, **options)


def standard_error(scores: Scores, ids: Labels) -> float:
    """Standard error of mAP over identities: that of the mean of their mean average precisions.

    Parameters
    ----------
    scores : Scores
        Of Q queries.
    ids : (Q,) integers or strings
        Identities of the queries. One without a right answer in the gallery does not count.

    Returns
    -------
    float
        A fraction, as mAP; NaN for fewer than two identities.

    Raises
    ------
    TypeError, ValueError
        For labels of another length or kind.

    Examples
    --------
    >>> from pose2id import evaluate
    >>> from pose2id.study import standard_error
    >>> import numpy as np
    >>> scores = evaluate(np.array([[1.0, 2.0], [1.0, 2.0]]), ["a", "b"], ["a", "b"])
    >>> scores.average_precision.tolist(), standard_error(scores, ["a", "b"])
    ([1.0, 0.5], 0.25)
    """
    labels = take_labels(ids, len(scores.average_precision), "ids")
    order = np.argsort(labels, kind="stable")
    starts = np.unique(labels[order], return_index=True)[1]
    groups = np.split(scores.average_precision[order], starts[1:])
    means = np.array([np.nanmean(group) for group in groups if not np.isnan(group).all()])
    return float(means.std(ddof=1) / len(means) ** 0.5) if len(means) > 1 else math.nan


def compare_scores(one: Scores, other: Scores, ids: Labels) -> tuple[float, float]:
    """mAP of one minus that of the other, and the standard error of the difference, identity by identity."""
    pairs = replace(one, average_precision=one.average_precision - other.average_precision)
    return one.mAP - other.mAP, standard_error(pairs, ids)


def _sides(setting: Setting) -> tuple[_Side, _Side]:
    """What is done to the queries, and to the gallery; settings that agree in it share the features."""
    plain = Setting("", normalize=setting.normalize)
    k1, k2 = (0, 0) if min(setting.k1, setting.k2) == 0 else (setting.k1, setting.k2)  # either 0 leaves all out
    method = replace(plain, eta=setting.eta, k1=k1, k2=k2, alpha=setting.alpha, other_cameras=setting.other_cameras)
    query, gallery = replace(method, fill_query=setting.fill_query), replace(method, fill_gallery=setting.fill_gallery)
    return ("query", query if setting.query else plain), ("gallery", gallery if setting.gallery else plain)


def _report(report: Callable[[str], None] | None, name: str, step: str) -> None:
    if report:
        report(f"{name}: {step}")


def _check(setting: Setting, *sets: FeatureSet) -> None:
    """Raise for arguments of other classes, and where a setting would silently be another one.

    `sets` are the queries, and the gallery if there is one.
    """
    given = dict(zip(("query", "gallery"), sets, strict=False))
    kinds: dict[str, tuple[object, type]] = {name: (data, FeatureSet) for name, data in given.items()}
    for name, (value, kind) in {**kinds, "every setting": (setting, Setting)}.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a pose2id.study.{kind.__name__}, received {type(value).__name__}")
    if len(sets) == 1 and (setting.reranked or setting.fill_gallery):
        raise ValueError(
            f"setting {setting.name!r} {'re-ranks' if setting.reranked else 'fills hidden parts of the gallery'}, "
            "which needs a query and a gallery set, received one set"
        )
    if len({data.has_parts for data in sets}) > 1:
        shapes = " and ".join(str(tuple(data.features.shape)) for data in sets)
        raise ValueError(f"query and gallery must both hold features (N, D) or both parts (N, P, D), received {shapes}")
    chosen = {name: data for name, data in given.items() if getattr(setting, name)}
    for name, data in chosen.items():
        if setting.other_cameras and data.cams is None:
            raise ValueError(f"setting {setting.name!r} takes neighbours from other cameras, but {name} has no cams")
    for name, data in given.items():
        if getattr(setting, f"fill_{name}") and not (data.has_parts and name in chosen):
            lack = "is not centralized" if data.has_parts else "has features (N, D), not parts"
            raise ValueError(f"setting {setting.name!r} fills hidden parts, but {name} {lack}")
        for seen in ("visibility", "generated_visibility"):
            if getattr(data, seen) is not None and not data.has_parts:
                raise ValueError(f"{seen} goes with parts (N, P, D), but {name} has features of another shape")
    if setting.eta and chosen and all(data.generated is None for data in chosen.values()):
        lack = f"{' and '.join(chosen)} {'have' if len(chosen) > 1 else 'has'} no generated features"
        raise ValueError(f"setting {setting.name!r} has eta = {setting.eta}, but {lack}")


def _centralize(data: FeatureSet, how: Setting, **options: Any) -> Any:
    added = how.eta or (how.k1 and how.k2)
    if data.has_parts and not added:
        return PartFeatures(data.features, data.visibility)  # scoring scales them, from all bits that were given
    if not (how.normalize or added):
        return data.features
    generated: Any = data.generated if how.eta else None
    exclude = data.exclude(other_cameras=how.other_cameras)
    options |= {"alpha": how.alpha, "normalize": how.normalize, "exclude": exclude}
    if not data.has_parts:
        return centralize(data.features, generated, how.eta, how.k1, how.k2, **options)
    options |= {"fill": how.fill_query or how.fill_gallery}
    if generated is not None:
        options |= {"generated_visibility": data.generated_visibility}
    return centralize_parts(data.features, data.visibility, generated, how.eta, how.k1, how.k2, **options)


def _rerank(one: Any, other: Any, how: Setting, **options: Any) -> Any:
    options |= {"k1": how.rerank_k1, "k2": how.rerank_k2, "lambda_value": how.rerank_lambda}
    if not isinstance(one, PartFeatures):
        return rerank(one, other, **options)
    seen = one.visibility, other.visibility
    return rerank_parts(one.parts, other.parts, *seen, normalize=how.normalize, **options)


def _score_parts(one: Any, other: Any, *labels: Any, **options: Any) -> Scores:
    parts, seen = (other.parts, other.visibility) if other is not None else (None, None)
    return evaluate_parts(
        one.parts, parts, *labels, query_visibility=one.visibility, gallery_visibility=seen, **options
    )


def _measure_density(both: Sequence[Any], ids: Sequence[Labels], how: Setting) -> dict[str, float]:
    labels = np.concatenate([take_labels(each, len(each), "ids") for each in ids])
    if not isinstance(both[0], PartFeatures):
        together = _join(both)
        return {f"id2_{variant}": id_density(together, labels, variant=variant) for variant in VARIANTS}
    both = [centralize_parts(x.parts, x.visibility, k1=0, normalize=how.normalize) for x in both]  # only scaled
    parts, seen = (_join(arrays) for arrays in zip(*both, strict=True))
    values = {}
    for variant in VARIANTS:
        found = part_density(parts, labels, seen, variant=variant)
        values[f"id2_{variant}"] = math.nan if np.isnan(found).all() else float(np.nanmean(found))
    return values


def _join(arrays: Sequence[Any]) -> Any:
    return torch.cat(list(arrays)) if is_tensor(arrays[0]) else np.concatenate(arrays)
