"""Figures from results: CMC curves, a ranking sheet, a map of identities.

Every function takes results and gives axes or a figure back. None touches pyplot: nothing global changes, and
no display is needed. matplotlib comes with the extra ``plots`` and is imported at the first call.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from pose2id.arrays import take_array, take_features
from pose2id.density import id_density
from pose2id.distances import unit
from pose2id.errors import require
from pose2id.evaluation import PROTOCOLS, Protocol, Scores, evaluate
from pose2id.validation import check_count, take_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pose2id.arrays import Array
    from pose2id.validation import Labels

    Images = Sequence[ArrayLike] | NDArray[Any]

__all__ = ["plot_cmc", "plot_identities", "plot_ranking", "write_picture"]

_INK = "#1f2933"
_MUTED = "#616e7c"
_RULE = "#d9dee4"
# Bluish green and vermilion of the Okabe-Ito palette stay apart under red-green colour blindness; line style
# and mark tell right from wrong as well.
_RIGHT = "#009e73"
_WRONG = "#c8203a"
_COLOURS = ("#7b8794", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#3b3f9e", "#56b4e9")
_LINES = ("--", "-", "-", "-", "-.", "-.", ":", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")

_DPI = 200
_WIDTH = 8.0  # inches

# The ranking sheet is measured in tiles: 1 is the width of one. Two blocks of ten answers are _WIDTH wide.
_PITCH = 1.16
_SCORE_WIDTH = 1.3
_BLOCK_GAP = 0.6
_MARGIN = 0.4
_TILE = _WIDTH / (2 * _MARGIN + 1.0 + 2 * (_BLOCK_GAP + 10 * _PITCH + _SCORE_WIDTH))  # inches
_NARROWEST = 22.5  # the key above the sheet needs as much


def check_matplotlib(purpose: str) -> None:
    """Raise MissingExtraError, whose first words are `purpose`, where matplotlib cannot be imported."""
    require("matplotlib", extra="plots", purpose=purpose)


def plot_cmc(scores: Mapping[str, Scores], ax: Axes | None = None, *, top: int = 20, title: str = "") -> Axes:
    """Draw cumulative matching characteristic curves.

    Parameters
    ----------
    scores : mapping of str to Scores
        One curve per entry, in this order; the key is its name in the legend.
    ax : matplotlib Axes, optional
        Where to draw; without it a new figure is made, reached as ``ax.figure``.
    top : int, default 20
        Last rank shown.
    title : str, optional
        Text above the curves.

    Returns
    -------
    matplotlib Axes
        Ranks on x, percent of queries on y.

    Raises
    ------
    TypeError, ValueError
        If `scores` is not a mapping or is empty, or `top` is not a count.
    MissingExtraError
        If matplotlib is not installed (extra ``plots``).

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import evaluate
    >>> from pose2id.plots import plot_cmc
    >>> scores = evaluate(np.array([[0.1, 0.2], [0.1, 0.2]]), [0, 1], [0, 1])
    >>> ax = plot_cmc({"base": scores}, top=2)
    >>> [float(value) for value in ax.lines[0].get_ydata()]
    [50.0, 100.0]
    """
    _check_named(scores, "scores")
    top = check_count(top, "top", 1)
    if ax is None:
        ax = _new_figure(_WIDTH, 4.6).add_axes((0.09, 0.125, 0.88, 0.765))
    ranks = np.arange(1, top + 1)
    for number, (name, result) in enumerate(scores.items()):
        ax.plot(
            ranks,
            [100 * result.rank(int(rank)) for rank in ranks],
            color=_COLOURS[number % len(_COLOURS)],
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKS[number % len(_MARKS)],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.8,
            clip_on=False,
            label=f"{name}  (mAP {100 * result.mAP:.2f}, rank-1 {100 * result.rank(1):.2f})",
        )
    ax.set_xlim(0.5, top + 0.5)
    ax.set_xticks([rank for rank in (1, 5, 10, 15, 20, 30, 40, 50, 100) if rank <= top])
    ax.set_xlabel("Rank k", color=_INK, fontsize=10.5)
    ax.set_ylabel("Queries with a right answer in the first k (%)", color=_INK, fontsize=10.5)
    ax.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold", pad=10)
    ax.grid(axis="y", color=_RULE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=_MUTED, labelsize=9.5, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(_RULE)
    ax.legend(loc="lower right", frameon=False, fontsize=10, labelcolor=_INK, handlelength=3.0)
    return ax


def plot_ranking(
    distances: Mapping[str, Array],
    query_ids: Labels,
    gallery_ids: Labels,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    queries: Sequence[int] | Mapping[str, Sequence[int]],
    query_images: Images,
    gallery_images: Images,
    protocol: str | Protocol = "market1501",
    top: int = 10,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Draw a ranking sheet: one line per query with its nearest gallery images, once per distance matrix.

    Right answers have a solid green frame and a tick, wrong ones a dashed red frame and a cross. Junk is
    removed as the protocol does, before the ranking is cut. Beside each ranking stands its average precision
    (AP) in percent, above each block the mean over all queries (mAP).

    Parameters
    ----------
    distances : mapping of str to (Q, G) numpy array or torch tensor
        One block of columns per entry, in this order; the key is its heading. Smaller is nearer; equal
        distances are ordered by gallery index, as in `pose2id.evaluate`.
    query_ids, gallery_ids : (Q,) and (G,) integers or strings
        Identities.
    query_cams, gallery_cams : (Q,) and (G,) integers or strings, optional
        Cameras; both or neither.
    queries : sequence of int, or mapping of str to sequence of int
        The query rows to show; a mapping shows them under its keys as headings.
    query_images, gallery_images : sequence of arrays
        One picture per row, (H, W) or (H, W, 3 or 4): bool (True is dark ink), uint8, or floats in [0, 1].
    protocol : str or Protocol, default "market1501"
        As in `pose2id.evaluate`.
    top : int, default 10
        Number of answers shown.
    title, caption : str, optional
        Text above and below the sheet.

    Returns
    -------
    matplotlib Figure
        1,600 pixels wide with two blocks of ten when saved as it is.

    Raises
    ------
    TypeError, ValueError
        If there is nothing to draw, shapes do not agree, an index is out of range, or an image has another
        form; for distances, labels and protocol as `pose2id.evaluate`.
    MissingExtraError
        If matplotlib is not installed (extra ``plots``).

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id.plots import plot_ranking
    >>> images = np.zeros((3, 8, 4), dtype=bool)
    >>> figure = plot_ranking(
    ...     {"base": np.array([[0.1, 0.2, 0.3]])}, [5], [5, 6, 5],
    ...     queries=[0], query_images=images[:1], gallery_images=images, top=3,
    ... )
    >>> len(figure.axes)
    1
    """
    _check_named(distances, "distances")
    top = check_count(top, "top", 1)
    groups = {
        group: [check_count(query, "queries", 0) for query in members]
        for group, members in (queries if isinstance(queries, Mapping) else {"": queries}).items()
    }
    shown = [query for members in groups.values() for query in members]
    if not shown:
        raise ValueError("queries is empty; give at least one query row to show")
    if max(shown) >= len(query_images):
        raise ValueError(f"queries must be rows 0 to {len(query_images) - 1}, received {max(shown)}")
    size = (len(query_images), len(gallery_images))
    headings, answers = [], {}
    for name, matrix in distances.items():
        tensor, _ = take_array(matrix, f"distances[{name!r}]")
        if tuple(tensor.shape) != size:
            raise ValueError(
                f"distances[{name!r}] must have a row per query image and a column per gallery image, "
                f"shape {size}; received {tuple(tensor.shape)}"
            )
        scores = evaluate(tensor, query_ids, gallery_ids, query_cams, gallery_cams, protocol=protocol)
        headings.append(f"{name}: mAP {100 * scores.mAP:.1f}")
        # Everything was checked by `evaluate`; what follows may rely on it.
        labels = _Labels.of(size, query_ids, gallery_ids, query_cams, gallery_cams, protocol)
        answers.update({(name, query): _rank_gallery(tensor, query, labels, top) for query in shown})

    pictures = [_as_rgba(query_images[query]) for query in shown]
    pictures += [_as_rgba(gallery_images[row]) for answer in answers.values() for row in answer.rows]
    tall = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    block_width = _PITCH * top + _SCORE_WIDTH
    first = _MARGIN + 1.0 + _BLOCK_GAP
    lefts = [first + number * (block_width + _BLOCK_GAP) for number in range(len(distances))]
    width = max(lefts[-1] + block_width + _MARGIN, _NARROWEST)
    top_line = 1.7 if title else 0.7
    header, heading, line = top_line + 1.55, 0.85, tall + 0.4
    footer = 0.45 + 0.6 * (caption.count("\n") + 1) if caption else 0.1
    body = sum(heading * bool(group) + line * len(members) for group, members in groups.items())
    height = header + body + footer

    figure = _new_figure(width * _TILE, height * _TILE)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0.0, width), ylim=(height, 0.0))
    ax.axis("off")
    ax.text(_MARGIN, 0.8, title, fontsize=12, fontweight="bold", color=_INK, va="center")
    _draw_key(ax, _MARGIN, top_line)
    ax.text(_MARGIN, header - 0.45, "Query", fontsize=8.5, color=_MUTED, va="center")
    for left, text in zip(lefts, headings, strict=True):
        ax.text(left, header - 0.45, text, fontsize=8.5, fontweight="bold", color=_INK, va="center")
    y = header
    for group, members in groups.items():
        if group:
            ax.text(_MARGIN, y + 0.4, group, fontsize=8.5, color=_MUTED, va="center")
            ax.plot([_MARGIN, width - _MARGIN], [y, y], color=_RULE, linewidth=0.8)
            y += heading
        for query in members:
            _draw_tile(ax, query_images[query], _MARGIN, y, tall, None)
            for left, name in zip(lefts, distances, strict=True):
                answer = answers[name, query]
                for place, (row, right) in enumerate(zip(answer.rows, answer.right, strict=True)):
                    _draw_tile(ax, gallery_images[row], left + _PITCH * place, y, tall, bool(right))
                score = "no\nmatch" if answer.ap is None else f"AP {100 * answer.ap:.0f}"
                ax.text(left + _PITCH * top, y + tall / 2, score, fontsize=8.5, color=_INK, va="center")
            y += line
    ax.text(_MARGIN, height - footer + 0.2, caption, fontsize=8, color=_MUTED, va="top", linespacing=1.45)
    return figure


def plot_identities(
    before: Array,
    after: Array,
    ids: Labels,
    *,
    show: Sequence[int | str],
    images: Images | None = None,
    titles: tuple[str, str] = ("Before", "After"),
    title: str = "",
    caption: str = "",
) -> Figure:
    """Draw a few identities on a plane, before and after centralization.

    Both panels use one linear projection and the same limits, so distances in them can be compared: the
    first two principal directions of the shown identities' centres *before*, of L2-normalised features.
    Nothing is fitted to *after*. A line joins each sample to the centre of its identity. A plane shows only
    part of the distances, and the share of the centres' spread it holds is written below; ID² in the panel
    titles (variant ``paper``) is computed in full dimension, over all the rows given.

    Parameters
    ----------
    before, after : (N, D) numpy array or torch tensor
        Features of the same rows; they are L2-normalised here.
    ids : (N,) integers or strings
        Identities.
    show : sequence of int or str
        The identities to draw, at least three.
    images : sequence of arrays, optional
        One picture per row, in the forms that `plot_ranking` takes. Each identity is then marked with the
        picture of the sample nearest to its centre *before*, otherwise with its label.
    titles : tuple of two str, default ("Before", "After")
        Panel titles; ID² is added to them.
    title, caption : str, optional
        Text above and below the panels.

    Returns
    -------
    matplotlib Figure
        Two panels, 1,600 pixels wide when saved as it is.

    Raises
    ------
    TypeError, ValueError
        If shapes do not agree, a value is not finite, fewer than three identities are shown, or one of them
        has no row.
    MissingExtraError
        If matplotlib is not installed (extra ``plots``).

    Examples
    --------
    >>> import numpy as np
    >>> from pose2id import centralize
    >>> from pose2id.plots import plot_identities
    >>> features = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    >>> figure = plot_identities(features, centralize(features), np.arange(12) % 3, show=[0, 1, 2])
    >>> len(figure.axes)
    2
    """
    panels = [_unit_rows(before, "before"), _unit_rows(after, "after")]
    if panels[0].shape != panels[1].shape:
        raise ValueError(f"before and after must have the same shape, received {panels[0].shape} and {panels[1].shape}")
    labels = take_labels(ids, len(panels[0]), "ids")
    if images is not None and len(images) != len(labels):
        raise ValueError(f"images must have one entry per row, {len(labels)}; received {len(images)}")
    if len(show) < 3:
        raise ValueError(f"show must name at least three identities, so that they span a plane; received {len(show)}")
    members = [np.flatnonzero(labels == identity) for identity in show]
    for identity, rows in zip(show, members, strict=True):
        if rows.size == 0:
            raise ValueError(f"show names identity {identity!r}, which is not in ids")

    centres = np.stack([panels[0][rows].mean(axis=0) for rows in members])  # (identities, D)
    origin = centres.mean(axis=0)
    _, strengths, directions = np.linalg.svd(centres - origin, full_matrices=False)
    # The sign of a direction is free; fixed by its largest entry, the map is the same with every LAPACK.
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.where(directions[np.arange(len(directions)), largest] < 0, -1.0, 1.0)[:, None]
    share = (strengths[:2] ** 2).sum() / max((strengths**2).sum(), np.finfo(np.float64).tiny)
    plane = np.zeros((2, panels[0].shape[1]))
    plane[: len(directions[:2])] = directions[:2]  # D = 1 leaves the second direction empty
    # points[panel][identity] is (rows of that identity, 2)
    points = [[(features[rows] - origin) @ plane.T for rows in members] for features in panels]
    drawn = np.concatenate([spot for panel in points for spot in panel])
    low, high = drawn.min(axis=0), drawn.max(axis=0)
    margin = 0.09 * float((high - low).max()) or 1.0
    low, high = low - margin, high + margin

    edge, gap = 0.11, 0.14  # inches, as all sizes below
    panel_width = (_WIDTH - 2 * edge - gap) / 2
    panel_height = panel_width * float(np.clip((high - low)[1] / (high - low)[0], 0.6, 1.4))
    above = 0.68 if title else 0.42
    note = f"Both panels: the plane of the centres before; it holds {100 * share:.0f} % of the centres' spread."
    note = "\n".join(filter(None, [note, caption]))
    below = 0.17 + 0.165 * (note.count("\n") + 1)
    height = above + panel_height + below
    badges = _place_badges(points, low, high, 0.42 * (high - low).max() / max(panel_width, panel_height))
    figure = _new_figure(_WIDTH, height)
    figure.text(edge / _WIDTH, 1 - 0.22 / height, title, fontsize=12, fontweight="bold", color=_INK, va="center")
    figure.text(edge / _WIDTH, (below - 0.1) / height, note, fontsize=8, color=_MUTED, va="top", linespacing=1.45)
    for number, name in enumerate(titles):
        left = edge + number * (panel_width + gap)
        ax = figure.add_axes((left / _WIDTH, below / height, panel_width / _WIDTH, panel_height / height))
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_color(_RULE)
        density = id_density(panels[number], labels, variant="paper")
        ax.set_title(f"{name}: ID² {density:.3f}", loc="left", fontsize=10, color=_INK, pad=6)
        for place, cloud in enumerate(points[number]):
            colour = _COLOURS[place % len(_COLOURS)]
            centre = cloud.mean(axis=0)
            for x, y in cloud:
                ax.plot([centre[0], x], [centre[1], y], color=colour, linewidth=0.7, alpha=0.5)
            ax.plot(*cloud.T, linestyle="", marker="o", markersize=4.0, markeredgewidth=0.0, color=colour)
            if images is None:
                x, y = badges[place]
                ax.text(x, y, str(show[place]), fontsize=9, color=colour, ha="center", va="center")
            else:
                rows = members[place]
                nearest = rows[np.argmin(np.linalg.norm(panels[0][rows] - centres[place], axis=1))]
                _draw_badge(ax, images[nearest], badges[place], colour)
    return figure


def write_picture(path: str | os.PathLike[str], save: Callable[[Path], object]) -> Path:
    """Have `save` write a file beside the target, and rename it: nobody ever sees half a picture.

    Parameters
    ----------
    path : path
        The target; its folder is made if it does not exist.
    save : callable
        Given the path to write to, whose suffix says nothing.

    Returns
    -------
    pathlib.Path
        The target.

    Examples
    --------
    >>> import tempfile
    >>> from pose2id.plots import write_picture
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_picture(f"{folder}/a.png", lambda part: part.write_bytes(b"...")).name
    'a.png'
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        save(partial)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


@dataclass(frozen=True, eq=False)
class _Labels:
    query_ids: NDArray[Any]
    gallery_ids: NDArray[Any]
    query_cams: NDArray[Any] | None
    gallery_cams: NDArray[Any] | None
    protocol: Protocol

    @classmethod
    def of(
        cls,
        size: tuple[int, int],
        query_ids: Labels,
        gallery_ids: Labels,
        query_cams: Labels | None,
        gallery_cams: Labels | None,
        protocol: str | Protocol,
    ) -> _Labels:
        return cls(
            take_labels(query_ids, size[0], "query_ids"),
            take_labels(gallery_ids, size[1], "gallery_ids"),
            None if query_cams is None else take_labels(query_cams, size[0], "query_cams"),
            None if gallery_cams is None else take_labels(gallery_cams, size[1], "gallery_cams"),
            PROTOCOLS[protocol] if isinstance(protocol, str) else protocol,
        )


@dataclass(frozen=True, eq=False)
class _Answer:
    """The nearest gallery rows of a query, junk removed; `ap` is None if it has no right answer at all."""

    rows: NDArray[np.int64]
    right: NDArray[np.bool_]
    ap: float | None


def _rank_gallery(distances: torch.Tensor, query: int, labels: _Labels, top: int) -> _Answer:
    # float64 keeps order and ties of every narrower dtype; numpy has no bfloat16
    order = np.argsort(distances[query].double().cpu().numpy(), kind="stable")
    ids, cams = labels.query_ids, labels.query_cams
    junk = labels.protocol.junk(
        ids[query], labels.gallery_ids, None if cams is None else cams[query], labels.gallery_cams
    )
    order = order[~junk[order]]
    right = labels.gallery_ids[order] == ids[query]
    found = np.flatnonzero(right) + 1
    ap = float((np.arange(1, len(found) + 1) / found).mean()) if len(found) else None
    return _Answer(order[:top], right[:top], ap)


def _as_rgba(image: ArrayLike) -> NDArray[np.float64]:
    """An (H, W, 4) picture with floats in [0, 1]; bool is dark ink on a clear ground."""
    pixels = np.asarray(image)
    if pixels.ndim not in (2, 3) or pixels.size == 0 or (pixels.ndim == 3 and pixels.shape[2] not in (3, 4)):
        raise ValueError(f"an image must have shape (H, W), (H, W, 3) or (H, W, 4), received {pixels.shape}")
    if pixels.dtype == np.bool_:
        if pixels.ndim == 3:
            raise ValueError(f"a bool image must have shape (H, W), received {pixels.shape}")
        ink = np.array([0x1F, 0x29, 0x33]) / 255
        return np.concatenate([np.broadcast_to(ink, (*pixels.shape, 3)), pixels[..., None]], axis=2)
    if pixels.dtype == np.uint8:
        pixels = pixels / 255
    elif pixels.dtype.kind != "f" or not (pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"an image must be bool, uint8, or floats in [0, 1]; received {pixels.dtype} "
            f"from {pixels.min()} to {pixels.max()}"
        )
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 3:
        pixels = np.concatenate([pixels, np.ones((*pixels.shape[:2], 1))], axis=2)
    return pixels.astype(np.float64)


def _unit_rows(features: Array, name: str) -> NDArray[np.float64]:
    tensor, _ = take_features(features, name)
    rows: NDArray[np.float64] = unit(tensor.double()).cpu().numpy()
    return rows


def _check_named(results: object, name: str) -> None:
    if not isinstance(results, Mapping):
        raise TypeError(
            f"{name} must be a mapping from names to results, such as {{'base': ...}}; "
            f"received {type(results).__name__}"
        )
    if not results:
        raise ValueError(f"{name} is empty; give at least one name and result")


def _new_figure(width: float, height: float) -> Figure:
    agg: Any = require("matplotlib.backends.backend_agg", extra="plots", purpose="pose2id.plots")
    figures: Any = require("matplotlib.figure", extra="plots", purpose="pose2id.plots")
    figure: Figure = figures.Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    agg.FigureCanvasAgg(figure)
    return figure


def _draw_tile(ax: Axes, image: ArrayLike, x: float, y: float, tall: float, right: bool | None) -> None:
    """A picture in a frame of 1 x `tall`, its upper left corner at (x, y); `right` is None for a query."""
    patches: Any = require("matplotlib.patches", extra="plots", purpose="pose2id.plots")
    picture = _as_rgba(image)
    shape = picture.shape[0] / picture.shape[1]
    wide = min(1.0, tall / shape)
    left, upper = x + (1 - wide) / 2, y + (tall - wide * shape) / 2
    ax.imshow(picture, extent=(left, left + wide, upper + wide * shape, upper), aspect="auto")
    colour = _INK if right is None else _RIGHT if right else _WRONG
    line = (0, (2.2, 1.4)) if right is False else "solid"
    ax.add_patch(patches.Rectangle((x, y), 1.0, tall, fill=False, edgecolor=colour, linewidth=1.3, linestyle=line))
    if right is not None:
        _draw_mark(ax, x + 1.0, y, right)


def _draw_mark(ax: Axes, x: float, y: float, right: bool) -> None:
    """A white tick on green or a white cross on red, drawn from lines: not every font has these signs."""
    disc = _RIGHT if right else _WRONG
    ax.plot(x, y, marker="o", markersize=6.4, color=disc, markeredgecolor="white", markeredgewidth=0.6)
    strokes: list[tuple[tuple[float, ...], tuple[float, ...]]] = [((-0.1, -0.03, 0.11), (0.0, 0.08, -0.09))]
    if not right:
        strokes = [((-0.08, 0.08), (-0.08, 0.08)), ((-0.08, 0.08), (0.08, -0.08))]
    for dx, dy in strokes:
        ax.plot(x + np.array(dx), y + np.array(dy), color="white", linewidth=0.9, solid_capstyle="round")


def _draw_key(ax: Axes, x: float, y: float) -> None:
    for right, text, start in (
        (True, "right: same identity", x),
        (False, "wrong: another identity", x + 6.2),
    ):
        _draw_mark(ax, start + 0.2, y, right)
        ax.text(start + 0.6, y, text, fontsize=8.5, color=_RIGHT if right else _WRONG, va="center")
    ax.text(x + 13.1, y, "AP: average precision in percent", fontsize=8.5, color=_MUTED, va="center")


def _place_badges(
    points: Sequence[Sequence[NDArray[np.float64]]],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    size: float,
) -> list[NDArray[np.float64]]:
    """A free place for each identity's picture, close to its points and the same in every panel."""
    clouds = [cloud for panel in points for cloud in panel]
    # The lines from the centres count as taken too, by a few points on each.
    lines = [cloud.mean(axis=0) * (1 - t) + cloud * t for cloud in clouds for t in (0.25, 0.5, 0.75, 1.0)]
    taken = np.concatenate(lines)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    places: list[NDArray[np.float64]] = []
    for cloud in points[0]:
        centre = cloud.mean(axis=0)
        spots = np.concatenate([centre + radius * size * rays for radius in np.arange(0.75, 4.0, 0.25)])
        spots = np.clip(spots, low + 0.6 * size, high - 0.6 * size)
        free = np.linalg.norm(spots[:, None] - taken, axis=2).min(axis=1)
        if places:
            free = np.minimum(free, np.linalg.norm(spots[:, None] - np.stack(places), axis=2).min(axis=1) / 2)
        # Clear of everything by 0.65 of its size is enough. Among such spots the nearest one; and because all spots
        # of a circle are equally near, the clearest of those: rounding errors must not choose.
        crowded = np.maximum(0.65 * size - free, 0)
        cost = np.linalg.norm(spots - centre, axis=1) + 8 * crowded - 0.1 * free
        places.append(spots[np.argmin(cost)])
    return places


def _draw_badge(ax: Axes, image: ArrayLike, place: NDArray[np.float64], colour: str) -> None:
    boxes: Any = require("matplotlib.offsetbox", extra="plots", purpose="pose2id.plots")
    colours: Any = require("matplotlib.colors", extra="plots", purpose="pose2id.plots")
    picture = _as_rgba(image)
    is_ink = np.asarray(image).dtype == np.bool_
    if is_ink:  # drawn in the colour of the identity; a photograph gets a frame in that colour
        picture[..., :3] = colours.to_rgb(colour)
    box = boxes.OffsetImage(picture, zoom=0.36 * 72 / max(picture.shape[:2]))
    frame = {"edgecolor": colour, "linewidth": 1.0}
    ax.add_artist(boxes.AnnotationBbox(box, tuple(place), frameon=not is_ink, pad=0.1, bboxprops=frame))
