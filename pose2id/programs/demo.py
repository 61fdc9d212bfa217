"""The demo on the embedded set: a table like the paper's Tables 2-4, and three pictures.

This is the body of ``pose2id demo``. Nothing is printed here; the command line prints.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pose2id import plots
from pose2id.centralization import centralize
from pose2id.datasets import DemoSet
from pose2id.density import id_density
from pose2id.errors import require
from pose2id.evaluation import Scores, evaluate, evaluate_features
from pose2id.reranking import rerank

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "SETTINGS", "Row", "Setting", "draw_pictures", "format_table", "rows_as_dicts", "run_demo"]


@dataclass(frozen=True)
class Setting:
    """What is done to the features before they are evaluated.

    Attributes
    ----------
    group, name : str
        Heading of the table and name of the row under it.
    query, gallery : bool
        Whether this set is centralized; the other one is only L2-normalised.
    k1, k2 : int
        As in `pose2id.centralize`; 0 leaves the neighbours out.
    alpha : float
        As in `pose2id.centralize`.
    other_cameras : bool
        Whether neighbours come from other cameras only (``exclude=cams``).
    eta : float
        Weight of the mean generated feature; 0 leaves the generated views out.
    reranked : bool
        Whether k-reciprocal re-ranking (20, 6, 0.3) follows.
    """

    group: str
    name: str
    query: bool = True
    gallery: bool = True
    k1: int = 0
    k2: int = 0
    alpha: float = 0.0
    other_cameras: bool = False
    eta: float = 0.0
    reranked: bool = False


@dataclass(frozen=True)
class Row:
    """One row of the demo's table.

    Attributes
    ----------
    setting : Setting
        What was done.
    mAP, rank1, rank5, rank10, mINP : float
        Fractions in [0, 1], by the protocol ``market1501``.
    id2_paper, id2_released : float
        ID² over query and gallery together, both variants of `pose2id.id_density`; lower is denser.
        Re-ranking changes distances, not features, so it leaves ID² as it is.
    tied_rank1 : int
        Queries whose first answer hangs on an exact tie of distances.
    """

    setting: Setting
    mAP: float
    rank1: float
    rank5: float
    rank10: float
    mINP: float
    id2_paper: float
    id2_released: float
    tied_rank1: int

    @property
    def name(self) -> str:
        """Name of the row inside its group."""
        return self.setting.name


_BASE = Setting("Features as extracted", "base")
_NFC = Setting("Neighbours (NFC), k1 = k2 = 2", "query and gallery", k1=2, k2=2)
_COUNTS = "Neighbours: how many"
_VIEWS = Setting("Generated views", "query and gallery, eta = 1", eta=1.0)
_BOTH = Setting("Neighbours (k1 = k2 = 2) and generated views", "eta = 1", k1=2, k2=2, eta=1.0)
_WEIGHTED = Setting("Weighted neighbours, k1 = k2 = 3, alpha = 4", "all cameras", k1=3, k2=3, alpha=4.0)
_RECOMMENDED = replace(_WEIGHTED, name="other cameras only (recommended)", other_cameras=True)
_RECOMMENDED_VIEWS = replace(_RECOMMENDED, name="the same, and views, eta = 1", eta=1.0)


# "ID2", not "ID²": the table may be written to a terminal or a pipe that has no such letter.
_LEGEND = (
    "mAP, R1, R5, R10 and mINP in percent (protocol market1501: same identity and camera removed).",
    "ID2: identity density over query and gallery together, lower is denser; 'ID2' by the paper's formula,",
    "'ID2 rel.' as the released code computes it. ties: queries whose first answer hangs on an exact tie.",
    "Views are re-drawn variants of the same picture: they stand in for generated images, they are none.",
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
    replace(_VIEWS, name="query only, eta = 1", gallery=False),
    replace(_VIEWS, name="gallery only, eta = 1", query=False),
    *(replace(_VIEWS, name=f"query and gallery, eta = {eta:g}", eta=eta) for eta in (0.25, 0.5, 1.0, 2.0)),
    *(replace(_BOTH, name=f"eta = {eta:g}", eta=eta) for eta in (1.0, 2.0)),
    _WEIGHTED,
    _RECOMMENDED,
    _RECOMMENDED_VIEWS,
    _then_reranked(_BASE, "base"),
    _then_reranked(_NFC, "neighbours, k1 = k2 = 2"),
    _then_reranked(_VIEWS, "views, eta = 1"),
    _then_reranked(_BOTH, "neighbours, k1 = k2 = 2, and views"),
    _then_reranked(_WEIGHTED, "neighbours, k1 = k2 = 3, alpha = 4"),
    _then_reranked(_RECOMMENDED, "the same, other cameras only"),
    _then_reranked(_RECOMMENDED_VIEWS, "the same, and views, eta = 1"),
)
"""The rows of the table, in its order."""

PICTURES = ("ranking.png", "cmc.png", "identities.png")
"""The files that `draw_pictures` writes."""


def run_demo(data: DemoSet, *, settings: Sequence[Setting] = SETTINGS, progress: bool = False) -> list[Row]:
    """Evaluate the settings of the table, or chosen ones.

    Query and gallery are centralized separately, as published: no feature of one ever enters the other.

    Parameters
    ----------
    data : DemoSet
        The embedded set, from `pose2id.datasets.load_demo`.
    settings : sequence of Setting
        By default the whole table, `SETTINGS`.
    progress : bool, default False
        Show a progress bar on stderr.

    Returns
    -------
    list of Row
        One row per setting, in the same order; all scores as fractions.

    References
    ----------
    Yuan et al., From Poses to Identity, CVPR 2025, Tables 2-4.

    Examples
    --------
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.demo import SETTINGS, run_demo
    >>> row = run_demo(load_demo(), settings=SETTINGS[:1])[0]
    >>> print(f"{row.name}: mAP {row.mAP:.4f}, rank-1 {row.rank1:.4f}")
    base: mAP 0.8144, rank-1 0.9125
    """
    bar = tqdm(settings, desc="demo", unit="row", disable=not progress)
    return [_evaluate_setting(data, setting) for setting in bar]


def format_table(rows: Sequence[Row]) -> str:
    """Write the rows as a fixed-width table, at most 110 columns wide.

    Parameters
    ----------
    rows : sequence of Row
        From `run_demo`.

    Returns
    -------
    str
        Lines without a final line break; mAP, rank-k and mINP in percent.

    Examples
    --------
    >>> from pose2id.programs.demo import SETTINGS, Row, format_table
    >>> row = Row(SETTINGS[0], 0.8144, 0.9125, 0.9875, 0.9917, 0.4986, 0.3403, 0.1263, 0)
    >>> print(format_table([row]).splitlines()[3])
      base                                    81.44  91.25  98.75  99.17  49.86    0.3403    0.1263     0
    """
    columns = (
        ("mAP", 6),
        ("R1", 6),
        ("R5", 6),
        ("R10", 6),
        ("mINP", 6),
        ("ID2", 9),
        ("ID2 rel.", 9),
        ("ties", 5),
    )
    header = " " * 38 + "".join(f" {title:>{width}}" for title, width in columns)
    rule = "-" * len(header)
    lines = [header, rule]
    for group, members in groupby(rows, key=lambda row: row.setting.group):
        lines.append(group)
        for row in members:
            percent = "".join(f" {100 * value:6.2f}" for value in (row.mAP, row.rank1, row.rank5, row.rank10, row.mINP))
            lines.append(f"  {row.name:<36}{percent} {row.id2_paper:9.4f} {row.id2_released:9.4f} {row.tied_rank1:5d}")
    return "\n".join([*lines, rule, *_LEGEND])


def rows_as_dicts(rows: Sequence[Row]) -> list[dict[str, str | int | float | bool]]:
    """Flatten the rows into plain dictionaries, ready for JSON.

    Parameters
    ----------
    rows : sequence of Row
        From `run_demo`.

    Returns
    -------
    list of dict
        The fields of `Setting`, then the numbers of `Row`, under the same names; scores as fractions.

    Examples
    --------
    >>> from pose2id.programs.demo import SETTINGS, Row, rows_as_dicts
    >>> row = Row(SETTINGS[0], 0.8144, 0.9125, 0.9875, 0.9917, 0.5, 0.3, 0.1263, 0)
    >>> rows_as_dicts([row])[0]["mAP"]
    0.8144
    """
    flat = []
    for row in rows:
        numbers = asdict(row)
        flat.append({**numbers.pop("setting"), **numbers})
    return flat


def draw_pictures(data: DemoSet, folder: str | os.PathLike[str]) -> list[Path]:
    """Draw the ranking sheet, the CMC curves and the map of identities, as `PICTURES` names them.

    *After* in the pictures is the recommended setting: k1 = k2 = 3, alpha = 4, neighbours from other cameras,
    no generated views. The queries of the ranking sheet are not hand-picked: the five characters whose
    average precision rises most and the two whose average precision falls most, each with its most changed
    query. The map shows the identities 0, 10, 20, ... 70.

    Parameters
    ----------
    data : DemoSet
        The embedded set, from `pose2id.datasets.load_demo`.
    folder : path
        Made if it does not exist. Files of the same names are replaced, each in one step.

    Returns
    -------
    list of Path
        The three files, in the order of `PICTURES`.

    Raises
    ------
    MissingExtraError
        If matplotlib is not installed (extra ``plots``). Nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.datasets import load_demo
    >>> from pose2id.programs.demo import draw_pictures
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [path.name for path in draw_pictures(load_demo(), folder)]
    ['ranking.png', 'cmc.png', 'identities.png']
    """
    require("matplotlib", extra="plots", purpose="pose2id.programs.demo.draw_pictures")  # before the work, not after it
    figures = (_draw_ranking(data), _draw_cmc(data), _draw_identities(data))
    target = Path(folder)
    return [
        plots.write_picture(target / name, partial(figure.savefig, format="png"))
        for name, figure in zip(PICTURES, figures, strict=True)
    ]


def _apply(data: DemoSet, setting: Setting) -> NDArray[np.float32]:
    """Unit features (1500, 32): the setting on the chosen sets, plain L2 normalisation on the others."""
    parts = []
    for rows, chosen in ((data.query, setting.query), (data.gallery, setting.gallery)):
        used = setting if chosen else _BASE
        parts.append(
            centralize(
                data.features[rows],
                data.generated[rows] if used.eta else None,
                used.eta,
                used.k1,
                used.k2,
                alpha=used.alpha,
                exclude=data.cams[rows] if used.other_cameras else None,
            )
        )
    return np.concatenate(parts)


def _score(data: DemoSet, setting: Setting, features: NDArray[np.float32]) -> Scores:
    query, gallery = features[data.query], features[data.gallery]
    labels = (data.ids[data.query], data.ids[data.gallery], data.cams[data.query], data.cams[data.gallery])
    if setting.reranked:
        return evaluate(rerank(query, gallery, k1=20, k2=6, lambda_value=0.3), *labels, protocol="market1501")
    return evaluate_features(query, gallery, *labels, protocol="market1501")


def _evaluate_setting(data: DemoSet, setting: Setting) -> Row:
    features = _apply(data, setting)
    scores = _score(data, setting, features)
    return Row(
        setting=setting,
        mAP=scores.mAP,
        rank1=scores.rank(1),
        rank5=scores.rank(5),
        rank10=scores.rank(10),
        mINP=scores.mINP,
        id2_paper=id_density(features, data.ids, variant="paper"),
        id2_released=id_density(features, data.ids, variant="released"),
        tied_rank1=scores.tied_rank1,
    )


def _distances(data: DemoSet, setting: Setting) -> NDArray[np.float64]:
    """Euclidean distances (240, 1260) in float64, so that equal features have exactly equal distances."""
    features = _apply(data, setting).astype(np.float64)
    return np.stack([np.linalg.norm(features[data.gallery] - row, axis=1) for row in features[data.query]])


def _average_precisions(data: DemoSet, distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """AP of each query, (240,)."""
    labels = (data.ids[data.query], data.ids[data.gallery], data.cams[data.query], data.cams[data.gallery])
    return evaluate(distances, *labels).average_precision


def _most_changed(gains: NDArray[np.float64], ids: NDArray[np.int64], count: int) -> list[int]:
    """Queries in order of falling gain, at most one of each identity; equal gains by query index."""
    chosen: dict[int, int] = {}
    for query in np.argsort(-gains, kind="stable"):
        chosen.setdefault(int(ids[query]), int(query))
    return list(chosen.values())[:count]


_AFTER = "After: centralize(features, k1=3, k2=3, alpha=4, exclude=cams), query and gallery separately."


def _draw_ranking(data: DemoSet) -> Figure:
    before, after = _distances(data, _BASE), _distances(data, _RECOMMENDED)
    gains = _average_precisions(data, after) - _average_precisions(data, before)
    query_ids = data.ids[data.query]
    rises, falls, stays = int((gains > 0).sum()), int((gains < 0).sum()), int((gains == 0).sum())
    return plots.plot_ranking(
        {"Before": before, "After centralization": after},
        query_ids,
        data.ids[data.gallery],
        data.cams[data.query],
        data.cams[data.gallery],
        queries={
            "AP rises most": _most_changed(gains, query_ids, 5),
            "AP falls most": _most_changed(-gains, query_ids, 2),
        },
        query_images=data.thumbnails[data.query],
        gallery_images=data.thumbnails[data.gallery],
        title="The ten nearest gallery drawings, before and after centralization",
        caption=(
            "Chosen by rule, not by eye: the five characters whose AP rises most, the two whose AP falls most"
            f". Of all {data.n_query} queries AP\n"
            f"rises for {rises}, falls for {falls} and stays for {stays}. "
            "Gallery drawings of the query's identity and camera are removed (Market-1501 rule).\n"
            f"{_AFTER} Drawings: Omniglot (Lake et al. 2015)."
        ),
    )


def _draw_cmc(data: DemoSet) -> Figure:
    compared = {
        "base": _BASE,
        "k1 = k2 = 2, as published": _NFC,
        "k1 = k2 = 3, alpha = 4, other cameras": _RECOMMENDED,
        "the same, and views": _RECOMMENDED_VIEWS,
    }
    scores = {name: _score(data, setting, _apply(data, setting)) for name, setting in compared.items()}
    queries = next(iter(scores.values())).valid_queries
    title = f"CMC on the demo set: {queries} queries, {100 / queries:.1f} % each"
    return cast("Figure", plots.plot_cmc(scores, title=title).figure)  # not a SubFigure: it was made for the axes


def _draw_identities(data: DemoSet) -> Figure:
    show = range(0, len(data.names), 10)
    return plots.plot_identities(
        _apply(data, _BASE),
        _apply(data, _RECOMMENDED),
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
