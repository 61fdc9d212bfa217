"""Choosing settings: the best on some identities, and what it brings on the others, on which nothing was chosen."""

from __future__ import annotations

import hashlib
import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pose2id.centralization import SearchedSet
from pose2id.evaluation import Scores, evaluate_features
from pose2id.progress import tqdm
from pose2id.study.runs import FeatureSet, Setting, compare_scores, run_study, standard_error
from pose2id.tables import format_text
from pose2id.validation import JUNK, check_count, check_flag, check_number, equal_label, take_labels

if TYPE_CHECKING:
    from pose2id.evaluation import Protocol
    from pose2id.evaluation.masks import Ignore, MoreLabels

__all__ = ["GRID", "Choice", "Trial", "choose"]

GRID: Mapping[str, tuple[Any, ...]] = {
    "eta": (0.0, 0.25, 1.0, 4.0),
    "k": (0, 1, 2, 3),
    "alpha": (0.0, 4.0),
    "other_cameras": (False, True),
}
"""What is tried where the caller names nothing else; `k` is k1 = k2, and 0 leaves the neighbours out.

Far apart on purpose: between near settings some hundred identities cannot tell, and they differ little.
"""
RECOMMENDED: Mapping[str, float] = {"eta": 1.0, "k": 3, "alpha": 4.0, "other_cameras": True}
"""What is chosen where the validation identities cannot tell; docs/results.md says why."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting that was tried.

    Attributes
    ----------
    setting : Setting
        What was done.
    scores : Scores
        Over the queries of the identities it was tried on; `mAP` and `rank1` are attributes of the trial as well.
    error : float
        Standard error of mAP over these identities.
    gain, gain_error : float
        mAP minus that of the published setting, and the standard error of this difference: identity by identity, so
        it is usually much smaller than `error`.
    over_base, over_base_error : float
        The same against features that are only scaled to length 1.
    """

    setting: Setting
    scores: Scores
    error: float
    gain: float
    gain_error: float
    over_base: float
    over_base_error: float

    name = property(attrgetter("setting.name"))
    mAP = property(attrgetter("scores.mAP"))
    rank1 = property(lambda trial: trial.scores.rank(1))


@dataclass(frozen=True, eq=False)
class Choice:
    """What `choose` found.

    Attributes
    ----------
    setting : Setting
        The chosen one.
    tried : list of Trial
        Every setting of the grid, best first, on the validation identities.
    published, base : Trial
        The published setting (k1 = k2 = 2, alpha 0, eta 1 where there are generated features), and features that are
        only scaled to length 1, on the validation identities; in the grid or not.
    reported : list of Trial
        Scores on the *other* identities, on which nothing was chosen: length 1, the published setting, and last the
        chosen one; empty where all identities are validation ones.
    validation, others : (V,) and (R,) arrays
        The validation identities, and the other ones.
    """

    setting: Setting
    tried: list[Trial]
    published: Trial
    base: Trial
    reported: list[Trial]
    validation: npt.NDArray[Any]
    others: npt.NDArray[Any]

    @property
    def arguments(self) -> dict[str, float]:
        """Arguments of `centralize`; with ``setting.other_cameras`` also pass ``exclude=cams``."""
        return {name: getattr(self.setting, name) for name in ("eta", "k1", "k2", "alpha")}

    @property
    def warning(self) -> str:
        """What stands against the choice, in one sentence; empty where the best clearly beats the published setting."""
        best = self.tried[0]
        if best.gain > best.gain_error:
            return ""
        gain = _show_difference(best.gain, best.gain_error)
        return (
            f"the best setting is within the error of the published one: {gain} mAP on {len(self.validation)} "
            "identities; take more, or the published setting"
        )

    def describe(self, top: int | None = 10) -> str:
        """Write the tables: the `top` best settings, None for all, and the scores on the other identities."""
        shown = self.tried[:top]
        known = {trial.name for trial in shown}
        ends = [trial for trial in (self.published, self.base) if trial.name not in known]
        rows = [(f"{len(self.validation)} validation identities", trial) for trial in (*shown, *ends)]
        rows += [(f"{len(self.others)} other identities", trial) for trial in self.reported]
        cells = [
            (
                trial.name,
                f"{_percent(trial.mAP)} ± {_percent(trial.error)}",
                _percent(trial.rank1),
                _show_difference(trial.gain, trial.gain_error),
                _show_difference(trial.over_base, trial.over_base_error),
            )
            for _, trial in rows
        ]
        left = len(self.tried) - len(shown)
        legend = [f"chosen: {self.setting.name}"]
        legend[:0] = [f"{left} more were tried"] * bool(left)
        legend += [f"warning: {self.warning}"] * bool(self.warning)
        return format_text(
            ("", "mAP", "R1", "over published", "over length 1"),
            cells,
            headings=[heading for heading, _ in rows],
            legend=legend,
        )

    def __str__(self) -> str:
        return self.describe()


def choose(
    query: FeatureSet,
    gallery: FeatureSet,
    *,
    over: Mapping[str, Sequence[Any]] | None = None,
    share: float = 0.5,
    seed: int = 0,
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
    metric: str = "euclidean",
    engine: str = "auto",
    progress: bool = False,
) -> Choice:
    """Choose eta, k1 = k2, alpha, and whether neighbours come from other cameras, on validation identities.

    The identities that have queries are split in two. Settings are compared by the mAP of the queries of the
    *validation* identities. What the chosen one brings is measured on the other identities, of which no label has
    entered the choice; only that figure may be reported. Features of all rows are there in both cases, as in use: the
    gallery stays whole.

    Parameters
    ----------
    query, gallery : FeatureSet
        As for `run_study`; features or parts.
    over : mapping of str to sequences, optional
        What is tried: values of "eta", "k" (k1 = k2), "alpha" and "other_cameras"; those not named are the ones of
        `GRID`, as far as there are generated features and cameras. One value fixes what it stands for.
    share : float
        Share of the identities that are validation ones, above 0. 1: all of them, for data that nothing is reported on.
    seed : int
        Decides which identities these are, by their labels and nothing else.
    protocol, ignore, labels, metric
        As for `pose2id.evaluate_features`.
    engine : str
        Who searches neighbours, as for `pose2id.knn_graph`.
    progress : bool
        Show a bar over the settings.

    Returns
    -------
    Choice
        The setting, all that were tried, the scores on the other identities, and a warning where the best is within the
        error of the published setting. Printed it is a table.

    Raises
    ------
    TypeError, ValueError
        As `run_study`; also for unknown names and values in `over`, values that need generated features or cameras
        where there are none, and fewer than two validation identities, or none beside them.

    Notes
    -----
    The best of many settings is partly the luckiest. So of those that it leads by less than a quarter of the standard
    error of that lead, the one is chosen that is nearest to the recommended setting, in steps of the grid: eta 1,
    k1 = k2 = 3, alpha 4, other cameras. Finer grids choose hardly better, and more by luck.

    Neighbours are searched once for each eta, with and without the camera rule. The rest is one evaluation for each
    setting: 13, or 52 with generated features, for the default grid.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.study import FeatureSet, choose
    >>> data = load_demo()
    >>> query, gallery = (FeatureSet(data.features[i], data.ids[i], data.cams[i]) for i in (data.query, data.gallery))
    >>> choice = choose(query, gallery, over={"k": (0, 2, 3)})
    >>> choice.arguments, choice.setting.other_cameras
    ({'eta': 0.0, 'k1': 3, 'k2': 3, 'alpha': 4.0}, True)
    """
    for name, data in (("query", query), ("gallery", gallery)):
        if not isinstance(data, FeatureSet):
            raise TypeError(f"{name} must be a pose2id.study.FeatureSet, received {type(data).__name__}")
    check_flag(progress, "progress")
    grid = _take_grid(over, query, gallery)
    settings = [_name_setting(**dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values())]
    settings = list({setting.name: setting for setting in settings}.values())  # without neighbours some are the same
    has_generated = query.generated is not None or gallery.generated is not None
    published, base = _name_setting(float(has_generated), 2, 0.0), _name_setting(0.0, 0, 0.0)
    ids = take_labels(query.ids, len(query.features), "query_ids")
    validation, others = split_identities(ids, share, seed)
    rules: dict[str, Any] = {"protocol": protocol, "ignore": ignore, "labels": labels, "metric": metric}

    def score(identities: npt.NDArray[Any], wanted: Sequence[Setting], *, progress: bool) -> dict[str, Trial]:
        junk = str(JUNK) if ids.dtype.kind == "U" else JUNK
        masked = replace(query, ids=np.where(np.isin(ids, identities), ids, junk))
        names = {setting.name: setting for setting in (published, base, *wanted)}
        scores = dict(_score(masked, gallery, list(names.values()), rules, engine=engine, progress=progress))
        ends = scores[published.name], scores[base.name]
        return {name: _try(names[name], found, *ends, ids) for name, found in scores.items()}

    found = score(validation, settings, progress=progress)
    tried = [found[setting.name] for setting in settings]
    tried.sort(key=lambda trial: -round(trial.mAP, 9))  # of equals the first
    setting = _pick(tried, grid, ids)
    reported = []
    if len(others):
        scored = score(others, [setting], progress=False)
        reported = [scored[each.name] for each in (base, published) if each != setting] + [scored[setting.name]]
    return Choice(setting, tried, found[published.name], found[base.name], reported, validation, others)


def split_identities(ids: npt.NDArray[Any], share: float, seed: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Validation identities and the others, each in ascending order; by a hash of the label, so by no order of rows."""
    share, seed = check_number(share, "share", high=1), check_count(seed, "seed", 0)
    if not share:
        raise ValueError("share must be above 0, received 0.0: settings are chosen on validation identities")
    identities = np.unique(ids[~equal_label(ids, JUNK)])
    count = round(share * len(identities))
    if count < 2 or (share < 1 and count == len(identities)):
        raise ValueError(
            f"settings are chosen on at least 2 identities, and reported on at least 1 other, received share = {share} "
            f"of {len(identities)} identities with queries; share = 1 takes all for choosing"
        )
    order = np.argsort([hashlib.sha256(f"{seed}:{label}".encode()).hexdigest() for label in identities.tolist()])
    return np.sort(identities[order[:count]]), np.sort(identities[order[count:]])


def _take_grid(over: Any, *sets: FeatureSet) -> dict[str, list[Any]]:
    """The values of each name that are tried, checked, in ascending order, each once."""
    if over is not None and not isinstance(over, Mapping):
        raise TypeError(f"over must be a mapping of names to values, received {type(over).__name__}")
    unknown = sorted(set(over or ()) - set(GRID), key=str)
    if unknown:
        raise ValueError(f"over must have names out of {', '.join(GRID)}, received {unknown[0]!r}")
    checks: dict[str, Any] = {"eta": check_number, "k": partial(check_count, minimum=0), "alpha": check_number}
    there = {
        "eta": (any(data.generated is not None for data in sets), "generated features, which query and gallery lack"),
        "other_cameras": (all(data.cams is not None for data in sets), "cameras, which query or gallery lacks"),
    }
    grid = {}
    for name, default in GRID.items():
        has, what = there.get(name, (True, ""))
        values = (over or {}).get(name, default if has else default[:1])
        if isinstance(values, str) or not isinstance(values, Sequence | np.ndarray) or not len(values):
            raise ValueError(f"over[{name!r}] must be a sequence of at least one value, received {values!r}")
        check = checks.get(name, check_flag)
        grid[name] = sorted({check(value, f"a value of over[{name!r}]") for value in values})
        if grid[name][-1] and not has:
            raise ValueError(f"{name} = {grid[name][-1]!r} needs {what}")
    return grid


def _name_setting(eta: float, k: int, alpha: float, other_cameras: bool = False) -> Setting:
    """A setting whose name says what it is; without neighbours what is about them counts as left out."""
    words = [f"eta {eta:g}"] * bool(eta)
    if not k:
        return Setting(words[0] if words else "length 1", eta=eta)
    words += [f"k1 = k2 = {k}"] + [f"alpha {alpha:g}"] * bool(alpha) + ["other cameras"] * other_cameras
    return Setting(", ".join(words), eta=eta, k1=k, k2=k, alpha=alpha, other_cameras=other_cameras)


def _values(setting: Setting) -> dict[str, Any]:
    """What the names of a grid are in a setting."""
    return {
        "eta": setting.eta, "k": setting.k1, "alpha": setting.alpha, "other_cameras": setting.other_cameras
    }  # fmt: skip


def _score(
    query: FeatureSet,
    gallery: FeatureSet,
    settings: list[Setting],
    rules: Mapping[str, Any],
    *,
    engine: str,
    progress: bool,
) -> Iterator[tuple[str, Scores]]:
    """Score each setting; those that search the same neighbours one after the other."""
    with tqdm(total=len(settings), desc="tuning", unit="setting", disable=not progress) as bar:
        if query.has_parts or gallery.has_parts:
            for setting in settings:
                (row,) = run_study(query, gallery, [setting], **rules, density=False, engine=engine)
                yield setting.name, row.scores
                bar.update()
            return
        of_labels: Any = query.ids, gallery.ids, query.cams, gallery.cams
        for eta, other_cameras in dict.fromkeys((each.eta, each.other_cameras) for each in settings):
            group = [each for each in settings if (each.eta, each.other_cameras) == (eta, other_cameras)]
            k = max(each.k1 for each in group)
            sides = [
                SearchedSet(
                    *(data.features, data.generated if eta else None, eta, k),
                    exclude=data.exclude(other_cameras=other_cameras),
                    engine=engine,
                )
                for data in (query, gallery)
            ]
            for setting in group:
                pulled = [side.centralize(setting.k1, setting.k2, setting.alpha) for side in sides]
                yield setting.name, evaluate_features(*pulled, *of_labels, **rules)
                del pulled  # not held while the next are made
                bar.update()


def _try(setting: Setting, scores: Scores, published: Scores, base: Scores, ids: npt.NDArray[Any]) -> Trial:
    differences = *compare_scores(scores, published, ids), *compare_scores(scores, base, ids)
    return Trial(setting, scores, standard_error(scores, ids), *differences)


def _pick(tried: Sequence[Trial], grid: Mapping[str, list[Any]], ids: npt.NDArray[Any]) -> Setting:
    """Of the best and those it leads by a quarter of an error at most, the nearest to the recommended setting."""

    def count_steps(trial: Trial) -> int:
        steps = 0
        for name, value in _values(trial.setting).items():
            wanted = min(grid[name], key=lambda other: abs(other - RECOMMENDED[name]))
            at = bisect_left(grid[name], value)
            steps += abs(at - grid[name].index(wanted))
        return steps

    near = []
    for trial in tried:
        lead, error = compare_scores(tried[0].scores, trial.scores, ids)
        if lead <= (0 if math.isnan(error) else error / 4):
            near.append(trial)
    return min(near, key=count_steps).setting  # of equals the best


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def _show_difference(value: float, error: float) -> str:
    return f"{100 * value:+.2f} ± {_percent(error)}"
