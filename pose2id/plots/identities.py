"""The map of identities: a few of them on one plane, before and after."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pose2id.arrays import take_features
from pose2id.density import id_density
from pose2id.distances import unit
from pose2id.plots.drawing import COLOURS, INK, MUTED, RULE, WIDTH, as_rgba, load_matplotlib, new_figure
from pose2id.plots.lettering import measure, shorten, wrap
from pose2id.validation import take_labels

if TYPE_CHECKING:
    from pose2id.arrays import Array
    from pose2id.plots.drawing import Axes, Figure, Images
    from pose2id.validation import Labels

    Floats = NDArray[np.float64]


_EDGE, _GAP = 0.11, 0.14  # inches, beside and between the panels
_BADGE = 0.42  # inches, a picture with its frame
_LABEL = (1.2, 0.17)  # inches, width of a name at most, and height
_MOST = 16  # identities; beyond that names and colours cannot be told apart
_RADII = np.arange(0.75, 4.0, 0.25)  # of the circles on which a place is looked for, in its size
_MARKS = "os"  # of the first and the second turn through the colours


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
    titles (variant ``paper``) is computed in full dimension, over all the rows given but junk (-1).

    Parameters
    ----------
    before, after : (N, D) numpy array or torch tensor
        Features of the same rows; they are L2-normalised here.
    ids : (N,) integers or strings
        Identities.
    show : sequence of int or str
        The identities to draw, at least three. Of more than 16 the first 16 are drawn, and the text below says so.
    images : sequence of arrays, optional
        One picture per row, in the forms that `plot_ranking` takes. Each identity is then marked with the
        picture of the sample nearest to its centre *before*, otherwise with its label.
    titles : tuple of two str, default ("Before", "After")
        Panel titles; ID² is added to them. What is too long is shortened in its middle, and so are names of identities.
    title, caption : str, optional
        Text above and below the panels, broken into lines.

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
    chosen = f"The first {_MOST} of {len(show)} identities; more could not be told apart." if len(show) > _MOST else ""
    show, members = list(show)[:_MOST], members[:_MOST]

    centres = np.stack([panels[0][rows].mean(axis=0) for rows in members])  # (identities, D)
    origin = centres.mean(axis=0)
    plane, share = _fit_plane(centres - origin)
    # points[panel][identity] is (rows of that identity, 2)
    points = [[(features[rows] - origin) @ plane.T for rows in members] for features in panels]
    low, high = _limits(np.concatenate([cloud for panel in points for cloud in panel]))
    scale = (high - low).max() / max(_panel_size(low, high))  # of the plane, to an inch
    names = [shorten(name, _LABEL[0], 9) for name in show]
    sizes = [(_BADGE, _BADGE) if images is not None else (measure(name, 9) + 0.05, _LABEL[1]) for name in names]
    badges = _place_badges(points, low, high, _BADGE * scale, scale * np.array(sizes))
    note = f"Both panels: the plane of the centres before; it holds {100 * share:.0f} % of the centres' spread."
    figure, axes = _new_panels(low, high, title, "\n".join(filter(None, [chosen, note, caption])))
    nearest = [
        int(rows[np.argmin(np.linalg.norm(panels[0][rows] - centre, axis=1))])
        for rows, centre in zip(members, centres, strict=True)
    ]
    for ax, name, features, clouds in zip(axes, titles, panels, points, strict=True):
        density = id_density(features, labels, variant="paper")
        words = f": ID² {density:.3f}"
        words = shorten(name, _panel_size(low, high)[0] - measure(words, 10), 10) + words
        ax.set_title(words, loc="left", fontsize=10, color=INK, pad=6, parse_math=False)
        for number, (cloud, spot) in enumerate(zip(clouds, badges, strict=True)):
            colour = COLOURS[number % len(COLOURS)]
            _draw_cloud(ax, cloud, colour, _MARKS[number // len(COLOURS)])
            if images is None:
                middle: dict[str, Any] = {"ha": "center", "va": "center", "parse_math": False}
                ax.text(spot[0], spot[1], names[number], fontsize=9, color=colour, **middle)
            else:
                _draw_badge(ax, images[nearest[number]], spot, colour)
    return figure


def _unit_rows(features: Array, name: str) -> Floats:
    """Features of length 1, checked."""
    tensor, _ = take_features(features, name)
    rows: Floats = unit(tensor.double()).cpu().numpy()
    return rows


def _fit_plane(offsets: Floats) -> tuple[Floats, float]:
    """The first two principal directions of points around 0, (2, D), and the share of their spread that these hold."""
    _, strengths, directions = np.linalg.svd(offsets, full_matrices=False)
    # The sign of a direction is free; fixed by its largest entry, the map is the same with every LAPACK.
    largest = np.abs(directions).argmax(axis=1)
    directions *= np.where(directions[np.arange(len(directions)), largest] < 0, -1.0, 1.0)[:, None]
    plane = np.zeros((2, offsets.shape[1]))
    plane[: len(directions[:2])] = directions[:2]  # D = 1 leaves the second direction empty
    return plane, float((strengths[:2] ** 2).sum() / max((strengths**2).sum(), np.finfo(np.float64).tiny))


def _limits(points: Floats) -> tuple[Floats, Floats]:
    """The lower and the upper corner around all points, with a margin."""
    low, high = points.min(axis=0), points.max(axis=0)
    margin = 0.09 * float((high - low).max()) or 1.0
    return low - margin, high + margin


def _panel_size(low: Floats, high: Floats) -> tuple[float, float]:
    """Width and height of a panel in inches."""
    width = (WIDTH - 2 * _EDGE - _GAP) / 2
    return width, width * float(np.clip((high - low)[1] / (high - low)[0], 0.6, 1.4))


def _new_panels(low: Floats, high: Floats, title: str, note: str) -> tuple[Figure, list[Axes]]:
    """A figure with two empty panels of the same limits."""
    panel_width, panel_height = _panel_size(low, high)
    title, note = wrap(title, WIDTH - 2 * _EDGE, 12, bold=True), wrap(note, WIDTH - 2 * _EDGE, 8)
    more = 0.2 * title.count("\n")
    above, below = 0.68 + more if title else 0.42, 0.17 + 0.165 * (note.count("\n") + 1)
    height = above + panel_height + below
    figure = new_figure(WIDTH, height)
    plain: dict[str, Any] = {"parse_math": False}
    top = 1 - (0.22 + more / 2) / height
    figure.text(_EDGE / WIDTH, top, title, fontsize=12, fontweight="bold", color=INK, va="center", **plain)
    foot = (below - 0.1) / height
    figure.text(_EDGE / WIDTH, foot, note, fontsize=8, color=MUTED, va="top", linespacing=1.45, **plain)
    axes = []
    for left in (_EDGE, _EDGE + (panel_width + _GAP)):
        ax = figure.add_axes((left / WIDTH, below / height, panel_width / WIDTH, panel_height / height))
        ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal", xticks=[], yticks=[])
        for spine in ax.spines.values():
            spine.set_color(RULE)
        axes.append(ax)
    return figure, axes


def _draw_cloud(ax: Axes, cloud: Floats, colour: str, mark: str) -> None:
    """Points, each joined to their centre."""
    centre = cloud.mean(axis=0)
    for x, y in cloud:
        ax.plot([centre[0], x], [centre[1], y], color=colour, linewidth=0.7, alpha=0.5)
    ax.plot(*cloud.T, linestyle="", marker=mark, markersize=4.0, markeredgewidth=0.0, color=colour)


def _place_badges(
    points: Sequence[Sequence[Floats]], low: Floats, high: Floats, size: float, extents: Floats
) -> list[Floats]:
    """A free place for each identity's picture or name, close to its points and the same in every panel.

    `size` is what counts as near; `extents` (identities, 2) are width and height of what is placed. None lies on
    another, as long as there is room.
    """
    clouds = [cloud for panel in points for cloud in panel]
    # The lines from the centres count as taken too, by a few points on each.
    lines = [cloud.mean(axis=0) * (1 - t) + cloud * t for cloud in clouds for t in (0.25, 0.5, 0.75, 1.0)]
    taken = np.concatenate(lines)
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rays = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    everywhere = np.stack(np.meshgrid(*(np.linspace(a, b, 60) for a, b in zip(low, high, strict=True))), axis=-1)
    places: list[Floats] = []
    for cloud, extent in zip(points[0], extents, strict=True):
        centre = cloud.mean(axis=0)
        near = [centre + radius * (size * rays + np.sign(rays) * (extent - size) / 2) for radius in _RADII]
        for spots in (np.concatenate(near), everywhere.reshape(-1, 2)):
            spots = np.clip(spots, low + extent / 2 + 0.1 * size, high - extent / 2 - 0.1 * size)
            apart = np.full(len(spots), True)
            for place, other in zip(places, extents, strict=False):
                apart &= (np.abs(spots - place) > (extent + other) / 2).any(axis=1)
            if apart.any():
                spots = spots[apart]
                break
        beside = np.maximum(np.abs(spots[:, None] - taken) - (extent - size) / 2, 0)
        free = np.linalg.norm(beside, axis=2).min(axis=1)
        if places:
            free = np.minimum(free, np.linalg.norm(spots[:, None] - np.stack(places), axis=2).min(axis=1) / 2)
        # Clear of everything by 0.65 of its size is enough. Among such spots the nearest one; and because all spots
        # of a circle are equally near, the clearest of those: rounding errors must not choose.
        crowded = np.maximum(0.65 * size - free, 0)
        cost = np.linalg.norm(spots - centre, axis=1) + 8 * crowded - 0.1 * free
        places.append(spots[np.argmin(cost)])
    return places


def _draw_badge(ax: Axes, image: ArrayLike, place: Floats, colour: str) -> None:
    """A picture near the points of its identity."""
    matplotlib = load_matplotlib("colors", "offsetbox")
    picture = as_rgba(image)
    is_ink = np.asarray(image).dtype == np.bool_
    if is_ink:  # drawn in the colour of the identity; a photograph gets a frame in that colour
        picture[..., :3] = matplotlib.colors.to_rgb(colour)
    box = matplotlib.offsetbox.OffsetImage(picture, zoom=0.36 * 72 / max(picture.shape[:2]))
    frame = {"edgecolor": colour, "linewidth": 1.0}
    annotation = matplotlib.offsetbox.AnnotationBbox
    ax.add_artist(annotation(box, tuple(place), frameon=not is_ink, pad=0.1, bboxprops=frame))
