"""Figures of rankings: CMC curves, and the ranking sheet of queries with their nearest gallery images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from pose2id.arrays import take_array
from pose2id.evaluation import Protocol, Ranking, Scores, evaluate, rank_gallery
from pose2id.plots.drawing import COLOURS, INK, MUTED, RIGHT, RULE, WIDTH, WRONG, as_rgba, load_matplotlib, new_figure
from pose2id.plots.lettering import measure, one_line, shorten, wrap
from pose2id.validation import check_count

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.evaluation.masks import Ignore, MoreLabels
    from pose2id.plots.drawing import Axes, Figure, Images
    from pose2id.validation import Labels

# Of the curves, with COLOURS.
_LINES = ("--", "-", "-", "-", "-.", "-.", ":", ":")
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "*")
_INSIDE, _LONGEST = 4, 4.2  # names among the curves at most, and the widest of them in inches
_LEGEND_LINE = 0.21  # inches
_FRAME, _SMALLEST = 5.7, 5.0  # what a legend has beside its texts, in letters' heights; its smallest letters
# The ranking sheet is measured in tiles: 1 is the width of one. Two blocks of ten answers are WIDTH wide.
_PITCH = 1.16
_SCORE_WIDTH = 1.3
_BLOCK_GAP = 0.6
_MARGIN = 0.4
_TILE = WIDTH / (2 * _MARGIN + 1.0 + 2 * (_BLOCK_GAP + 10 * _PITCH + _SCORE_WIDTH))  # inches
_TITLE_LINE = 0.75  # height of each further line of the title
_HEADING = 0.85  # height of the heading of a group of queries
_NARROWEST = 22.5  # the key above the sheet needs as much
_HEADING_WIDTH = 5.5  # of a block, so that "name: mAP 12.3" can be read


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

        A name or title that is longer than the axes are wide is shortened in its middle.

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
    beside = False
    if ax is None:
        longest = max(measure(one_line(name), 10) for name in scores)
        beside = len(scores) > _INSIDE or longest > _LONGEST  # names would cover the curves
        below = _LEGEND_LINE * len(scores) if beside else 0.0
        height = 4.6 + below
        ax = new_figure(WIDTH, height).add_axes((0.09, (0.125 * 4.6 + below) / height, 0.88, 0.765 * 4.6 / height))
    extent, dpi = ax.get_window_extent(), ax.figure.dpi
    room = extent.width / dpi  # inches
    words = "Queries with a right answer in the first k (%)"
    if measure(words, 10.5) > 1.1 * extent.height / dpi:
        words = "Queries (%)"
    ranks = np.arange(1, top + 1)
    for number, (name, result) in enumerate(scores.items()):
        ax.plot(
            ranks,
            [100 * result.rank(int(rank)) for rank in ranks],
            color=COLOURS[number % len(COLOURS)],
            linestyle=_LINES[number % len(_LINES)],
            marker=_MARKS[(number + number // len(_MARKS)) % len(_MARKS)],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.8,
            clip_on=False,
            label=one_line(name),
        )
    ax.set_xlim(0.5, top + 0.5)
    ax.set_xticks([rank for rank in (1, 5, 10, 15, 20, 30, 40, 50, 100) if rank <= top])
    ax.set_xlabel("Rank k", color=INK, fontsize=10.5)
    ax.set_ylabel(words, color=INK, fontsize=10.5)
    title = shorten(title, room, 12, bold=True)
    ax.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=10, parse_math=False)
    ax.grid(axis="y", color=RULE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=MUTED, labelsize=9.5, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
    _add_legend(ax, scores, room, beside=beside)
    return ax


def _add_legend(ax: Axes, scores: Mapping[str, Scores], room: float, *, beside: bool) -> None:
    """Names and numbers of the curves drawn last, none wider than the axes; `beside`: below the axes."""
    numbers = [f"  (mAP {100 * each.mAP:.2f}, rank-1 {100 * each.rank(1):.2f})" for each in scores.values()]
    size = 10.0
    while size > _SMALLEST and measure(f"Name…{numbers[0]}", size) > room - _FRAME * size / 72:
        size -= 1
    room -= _FRAME * size / 72
    names = [shorten(name, room - measure(text, size), size) for name, text in zip(scores, numbers, strict=True)]
    place: dict[str, Any] = {"loc": "lower right"}
    if beside:
        place = {"loc": "upper left", "bbox_to_anchor": (-0.02, -0.13)}
    # The names follow as texts: matplotlib leaves out labels that begin with "_", and takes "$" for mathematics.
    legend = ax.legend(
        ax.lines[-len(numbers) :],
        [str(number) for number in range(len(numbers))],
        frameon=False,
        fontsize=size,
        labelcolor=INK,
        handlelength=3.0,
        **place,
    )
    for text, name, words in zip(legend.get_texts(), names, numbers, strict=True):
        text.set_parse_math(False)
        text.set_text(name + words)


def plot_ranking(
    distances: Mapping[str, Array],
    query_ids: Labels,
    gallery_ids: Labels | None = None,
    query_cams: Labels | None = None,
    gallery_cams: Labels | None = None,
    *,
    queries: Sequence[int] | Mapping[str, Sequence[int]],
    query_images: Images,
    gallery_images: Images,
    protocol: str | Protocol = "market1501",
    ignore: Ignore | None = None,
    labels: MoreLabels | None = None,
    top: int = 10,
    title: str = "",
    caption: str = "",
) -> Figure:
    """Draw a ranking sheet: one line per query with its nearest gallery images, once per distance matrix.

    Right answers have a solid green frame and a tick, wrong ones a dashed red frame and a cross. Junk is
    removed as the protocol does, before the ranking is cut. Beside each ranking stands its average precision
    (AP) in percent, above each block the mean over all queries (mAP), but not above a sheet of one query. Names that
    are longer than their block are shortened in the middle; title and caption are broken into lines.

    Parameters
    ----------
    distances : mapping of str to (Q, G) numpy array or torch tensor
        One block of columns per entry, in this order; the key is its heading.
    query_ids, gallery_ids, query_cams, gallery_cams, protocol, ignore, labels
        As for `pose2id.evaluate`.
    queries : sequence of int, or mapping of str to sequence of int
        The query rows to show; a mapping shows them under its keys as headings.
    query_images, gallery_images : sequence of arrays
        One picture per row, (H, W) or (H, W, 3 or 4): bool (True is dark ink), uint8, or floats in [0, 1].
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
    groups = dict(queries) if isinstance(queries, Mapping) else {"": queries}
    shown = [query for members in groups.values() for query in members]
    if not shown:
        raise ValueError("queries is empty; give at least one query row to show")
    size, of_labels = (len(query_images), len(gallery_images)), (query_ids, gallery_ids, query_cams, gallery_cams)
    rules: dict[str, Any] = {"protocol": protocol, "ignore": ignore, "labels": labels}
    headings, rankings = [], []
    for name, matrix in distances.items():
        tensor, _ = take_array(matrix, f"distances[{name!r}]")
        if tuple(tensor.shape) != size:
            raise ValueError(
                f"distances[{name!r}] must have a row per query image and a column per gallery image, "
                f"shape {size}; received {tuple(tensor.shape)}"
            )
        mean = f": mAP {100 * evaluate(tensor, *of_labels, **rules).mAP:.1f}" if len(shown) > 1 else ""
        headings.append((name, mean))
        rankings.append(dict(zip(shown, rank_gallery(tensor, *of_labels, queries=shown, **rules), strict=True)))
    pictures: dict[str, Any] = {"query_images": query_images, "gallery_images": gallery_images}
    return draw_sheet(headings, rankings, groups, **pictures, top=top, title=title, caption=caption)


def draw_sheet(
    headings: Sequence[tuple[str, str]],
    rankings: Sequence[Mapping[int, Ranking]],
    groups: Mapping[str, Sequence[int]],
    *,
    query_images: Images,
    gallery_images: Images,
    top: int,
    title: str = "",
    caption: str = "",
) -> Figure:
    """The sheet of rankings that are known: of each block its name and what follows it, and a ranking of each query."""
    shown = [query for members in groups.values() for query in members]
    drawn = {row for of_query in rankings for ranking in of_query.values() for row in ranking.rows[:top]}
    pictures = [as_rgba(query_images[query]) for query in shown] + [as_rgba(gallery_images[row]) for row in drawn]
    tall = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    fills = (_NARROWEST - 2 * _MARGIN - 1.0) / len(headings) - _BLOCK_GAP
    block_width = max(_PITCH * top + _SCORE_WIDTH, _HEADING_WIDTH, fills)
    lefts = [_MARGIN + 1.0 + _BLOCK_GAP + number * (block_width + _BLOCK_GAP) for number in range(len(headings))]
    width = lefts[-1] + block_width + _MARGIN
    inner = (width - 2 * _MARGIN) * _TILE  # inches
    title, caption = wrap(title, inner, 12, bold=True), wrap(caption, inner, 8)
    more = _TITLE_LINE * title.count("\n")
    key = 1.7 + more if title else 0.7
    header, line = key + 1.55, tall + 0.4
    footer = 0.45 + 0.6 * (caption.count("\n") + 1) if caption else 0.1
    body = sum(_HEADING * bool(group) + line * len(members) for group, members in groups.items())
    height = header + body + footer

    figure = new_figure(width * _TILE, height * _TILE)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0.0, width), ylim=(height, 0.0))
    ax.axis("off")
    ax.text(_MARGIN, 0.8 + more / 2, title, fontsize=12, fontweight="bold", color=INK, va="center", parse_math=False)
    _draw_key(ax, _MARGIN, key)
    ax.text(_MARGIN, header - 0.45, "Query", fontsize=8.5, color=MUTED, va="center")
    ends = [*(left - _BLOCK_GAP for left in lefts[1:]), width - _MARGIN]
    for left, end, (name, mean) in zip(lefts, ends, headings, strict=True):
        room = (end - left) * _TILE - measure(mean, 8.5, bold=True)
        words = shorten(name, room, 8.5, bold=True) + mean
        ax.text(left, header - 0.45, words, fontsize=8.5, fontweight="bold", color=INK, va="center", parse_math=False)
    y = header
    for group, members in groups.items():
        if group:
            words = shorten(group, inner, 8.5)
            ax.text(_MARGIN, y + 0.4, words, fontsize=8.5, color=MUTED, va="center", parse_math=False)
            ax.plot([_MARGIN, width - _MARGIN], [y, y], color=RULE, linewidth=0.8)
            y += _HEADING
        for query in members:
            _draw_tile(ax, query_images[query], _MARGIN, y, tall, None)
            for left, of_query in zip(lefts, rankings, strict=True):
                rows, right, precision = of_query[query]
                for place, row in enumerate(rows[:top]):
                    _draw_tile(ax, gallery_images[row], left + _PITCH * place, y, tall, bool(right[place]))
                score = f"AP {100 * precision:.0f}" if right.any() else "no\nmatch"
                ax.text(left + _PITCH * top, y + tall / 2, score, fontsize=8.5, color=INK, va="center")
            y += line
    below = height - footer + 0.2
    ax.text(_MARGIN, below, caption, fontsize=8, color=MUTED, va="top", linespacing=1.45, parse_math=False)
    return figure


def _check_named(results: object, name: str) -> None:
    """Raise unless `results` is a mapping with at least one entry."""
    if not isinstance(results, Mapping):
        raise TypeError(
            f"{name} must be a mapping from names to results, such as {{'base': ...}}; "
            f"received {type(results).__name__}"
        )
    if not results:
        raise ValueError(f"{name} is empty; give at least one name and result")


def _draw_tile(ax: Axes, image: ArrayLike, x: float, y: float, tall: float, right: bool | None) -> None:
    """A picture in a frame of 1 x `tall`, its upper left corner at (x, y); `right` is None for a query."""
    picture = as_rgba(image)
    shape = picture.shape[0] / picture.shape[1]
    wide = min(1.0, tall / shape)
    left, upper = x + (1 - wide) / 2, y + (tall - wide * shape) / 2
    ax.imshow(picture, extent=(left, left + wide, upper + wide * shape, upper), aspect="auto")
    colour = INK if right is None else RIGHT if right else WRONG
    line = (0, (2.2, 1.4)) if right is False else "solid"
    rectangle = load_matplotlib("patches").patches.Rectangle
    ax.add_patch(rectangle((x, y), 1.0, tall, fill=False, edgecolor=colour, linewidth=1.3, linestyle=line))
    if right is not None:
        _draw_mark(ax, x + 1.0, y, right)


def _draw_mark(ax: Axes, x: float, y: float, right: bool) -> None:
    """A white tick on green or a white cross on red, drawn from lines: not every font has these signs."""
    disc = RIGHT if right else WRONG
    ax.plot(x, y, marker="o", markersize=6.4, color=disc, markeredgecolor="white", markeredgewidth=0.6)
    strokes: list[tuple[tuple[float, ...], tuple[float, ...]]] = [((-0.1, -0.03, 0.11), (0.0, 0.08, -0.09))]
    if not right:
        strokes = [((-0.08, 0.08), (-0.08, 0.08)), ((-0.08, 0.08), (0.08, -0.08))]
    for dx, dy in strokes:
        ax.plot(x + np.array(dx), y + np.array(dy), color="white", linewidth=0.9, solid_capstyle="round")


def _draw_key(ax: Axes, x: float, y: float) -> None:
    """What marks and numbers mean."""
    for right, text, start in (
        (True, "right: same identity", x),
        (False, "wrong: another identity", x + 6.2),
    ):
        _draw_mark(ax, start + 0.2, y, right)
        ax.text(start + 0.6, y, text, fontsize=8.5, color=RIGHT if right else WRONG, va="center")
    ax.text(x + 13.1, y, "AP: average precision in percent", fontsize=8.5, color=MUTED, va="center")
