"""CMC curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pose2id.plots.drawing import COLOURS, INK, LINES, MARKS, MUTED, RULE, WIDTH, check_named, new_figure
from pose2id.validation import check_count

if TYPE_CHECKING:
    from pose2id.evaluation import Scores
    from pose2id.plots.drawing import Axes


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
    check_named(scores, "scores")
    top = check_count(top, "top", 1)
    if ax is None:
        ax = new_figure(WIDTH, 4.6).add_axes((0.09, 0.125, 0.88, 0.765))
    ranks = np.arange(1, top + 1)
    for number, (name, result) in enumerate(scores.items()):
        ax.plot(
            ranks,
            [100 * result.rank(int(rank)) for rank in ranks],
            color=COLOURS[number % len(COLOURS)],
            linestyle=LINES[number % len(LINES)],
            marker=MARKS[number % len(MARKS)],
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.6,
            linewidth=1.8,
            clip_on=False,
            label=f"{name}  (mAP {100 * result.mAP:.2f}, rank-1 {100 * result.rank(1):.2f})",
        )
    ax.set_xlim(0.5, top + 0.5)
    ax.set_xticks([rank for rank in (1, 5, 10, 15, 20, 30, 40, 50, 100) if rank <= top])
    ax.set_xlabel("Rank k", color=INK, fontsize=10.5)
    ax.set_ylabel("Queries with a right answer in the first k (%)", color=INK, fontsize=10.5)
    ax.set_title(title, loc="left", color=INK, fontsize=12, fontweight="bold", pad=10)
    ax.grid(axis="y", color=RULE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(colors=MUTED, labelsize=9.5, length=0)
    for side, spine in ax.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
    ax.legend(loc="lower right", frameon=False, fontsize=10, labelcolor=INK, handlelength=3.0)
    return ax
