"""The ranking sheet: queries with their nearest gallery images, right and wrong ones marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from pose2id.arrays import take_array
from pose2id.evaluation import Protocol, Ranking, evaluate, rank_gallery
from pose2id.plots.drawing import (
    INK,
    MUTED,
    RIGHT,
    RULE,
    WIDTH,
    WRONG,
    as_rgba,
    check_named,
    load_matplotlib,
    new_figure,
)
from pose2id.validation import check_count

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.plots.drawing import Axes, Figure, Images
    from pose2id.validation import Labels

# The ranking sheet is measured in tiles: 1 is the width of one. Two blocks of ten answers are WIDTH wide.
_PITCH = 1.16
_SCORE_WIDTH = 1.3
_BLOCK_GAP = 0.6
_MARGIN = 0.4
_TILE = WIDTH / (2 * _MARGIN + 1.0 + 2 * (_BLOCK_GAP + 10 * _PITCH + _SCORE_WIDTH))  # inches
_HEADING = 0.85  # height of the heading of a group of queries
_NARROWEST = 22.5  # the key above the sheet needs as much


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
    check_named(distances, "distances")
    top = check_count(top, "top", 1)
    groups = dict(queries) if isinstance(queries, Mapping) else {"": queries}
    shown = [query for members in groups.values() for query in members]
    if not shown:
        raise ValueError("queries is empty; give at least one query row to show")
    size = (len(query_images), len(gallery_images))
    blocks = []
    for name, matrix in distances.items():
        tensor, _ = take_array(matrix, f"distances[{name!r}]")
        if tuple(tensor.shape) != size:
            raise ValueError(
                f"distances[{name!r}] must have a row per query image and a column per gallery image, "
                f"shape {size}; received {tuple(tensor.shape)}"
            )
        labels = (query_ids, gallery_ids, query_cams, gallery_cams)
        scores = evaluate(tensor, *labels, protocol=protocol)
        rankings = rank_gallery(tensor, *labels, queries=shown, protocol=protocol)
        blocks.append(_Block(f"{name}: mAP {100 * scores.mAP:.1f}", dict(zip(shown, rankings, strict=True))))

    drawn = {row for block in blocks for ranking in block.rankings.values() for row in ranking.rows[:top]}
    shapes = [as_rgba(query_images[query]).shape for query in shown]
    shapes += [as_rgba(gallery_images[row]).shape for row in drawn]
    sheet = _Sheet(blocks, groups, top, max(shape[0] / shape[1] for shape in shapes), title, caption)
    figure = new_figure(sheet.width * _TILE, sheet.height * _TILE)
    ax = figure.add_axes((0.0, 0.0, 1.0, 1.0), xlim=(0.0, sheet.width), ylim=(sheet.height, 0.0))
    ax.axis("off")
    sheet.draw_head(ax, title)
    y = sheet.header
    for group, members in groups.items():
        if group:
            sheet.draw_heading(ax, group, y)
            y += _HEADING
        for query in members:
            sheet.draw_line(ax, query, query_images, gallery_images, y)
            y += sheet.line
    ax.text(_MARGIN, sheet.height - sheet.footer + 0.2, caption, fontsize=8, color=MUTED, va="top", linespacing=1.45)
    return figure


class _Block(NamedTuple):
    """What one matrix gives: a heading, and the rankings of the queries shown."""

    heading: str
    rankings: dict[int, Ranking]


class _Sheet:
    """Where things stand on the sheet, in tiles, y downwards; pictures are `tall` high."""

    def __init__(
        self, blocks: list[_Block], groups: Mapping[str, Sequence[int]], top: int, tall: float, title: str, caption: str
    ) -> None:
        self._blocks, self._top, self._tall = blocks, top, tall
        block_width = _PITCH * top + _SCORE_WIDTH
        first = _MARGIN + 1.0 + _BLOCK_GAP
        self._lefts = [first + number * (block_width + _BLOCK_GAP) for number in range(len(blocks))]
        self.width = max(self._lefts[-1] + block_width + _MARGIN, _NARROWEST)
        self._key = 1.7 if title else 0.7
        self.header, self.line = self._key + 1.55, tall + 0.4
        self.footer = 0.45 + 0.6 * (caption.count("\n") + 1) if caption else 0.1
        body = sum(_HEADING * bool(group) + self.line * len(members) for group, members in groups.items())
        self.height = self.header + body + self.footer

    def draw_head(self, ax: Axes, title: str) -> None:
        """The title, the key, the headings of the columns."""
        ax.text(_MARGIN, 0.8, title, fontsize=12, fontweight="bold", color=INK, va="center")
        _draw_key(ax, _MARGIN, self._key)
        ax.text(_MARGIN, self.header - 0.45, "Query", fontsize=8.5, color=MUTED, va="center")
        for left, block in zip(self._lefts, self._blocks, strict=True):
            ax.text(left, self.header - 0.45, block.heading, fontsize=8.5, fontweight="bold", color=INK, va="center")

    def draw_heading(self, ax: Axes, group: str, y: float) -> None:
        """The heading of a group of queries, under a line across the sheet."""
        ax.text(_MARGIN, y + 0.4, group, fontsize=8.5, color=MUTED, va="center")
        ax.plot([_MARGIN, self.width - _MARGIN], [y, y], color=RULE, linewidth=0.8)

    def draw_line(self, ax: Axes, query: int, query_images: Images, gallery_images: Images, y: float) -> None:
        """A query, and from each block its answers and its average precision."""
        _draw_tile(ax, query_images[query], _MARGIN, y, self._tall, None)
        for left, block in zip(self._lefts, self._blocks, strict=True):
            rows, right, precision = block.rankings[query]
            for place in range(min(self._top, len(rows))):
                x = left + _PITCH * place
                _draw_tile(ax, gallery_images[rows[place]], x, y, self._tall, bool(right[place]))
            score = f"AP {100 * precision:.0f}" if right.any() else "no\nmatch"
            ax.text(left + _PITCH * self._top, y + self._tall / 2, score, fontsize=8.5, color=INK, va="center")


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
