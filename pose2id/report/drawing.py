"""Numbers as shapes: curves, histograms and maps in the units of the page's drawings, 400 wide and 250 or 400 high."""

from __future__ import annotations

from typing import Any

LEFT, RIGHT, TOP, BOTTOM = 40.0, 390.0, 12.0, 220.0
MARKS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
COLOURS = {"before": ("a", True), "after": ("b", False), "re-ranked": ("c", False)}


def draw_curves(curves: dict[str, list[float]], names: dict[str, str]) -> dict[str, Any] | None:
    """CMC curves: lines, a grid and ticks; None without any."""
    if not curves:
        return None
    low = min(min(values) for values in curves.values())
    floor = max(0.0, int(low * 10) / 10 - 0.1) if low > 0.2 else 0.0  # a little below the lowest, at a tenth
    ranks = max(len(values) for values in curves.values())

    def place(rank: int, value: float) -> str:
        x = LEFT + (RIGHT - LEFT) * (rank - 1) / max(ranks - 1, 1)
        return f"{x:.1f},{_height(value, floor):.1f}"

    lines = []
    for view, values in curves.items():
        colour, dashed = COLOURS[view]
        points = " ".join(place(rank, value) for rank, value in enumerate(values, 1))
        lines.append({"name": names[view], "colour": colour, "dashed": dashed, "points": points})
    steps = [floor + (1 - floor) * i / 4 for i in range(5)]
    grid = [{"y": round(_height(value, floor), 1), "text": f"{round(100 * value, 1):g}"} for value in steps]
    ticks = [(LEFT + (RIGHT - LEFT) * (rank - 1) / max(ranks - 1, 1), str(rank)) for rank in (1, 10, 20, 30, 40, 50)]
    words = "CMC. " + " ".join(
        f"{names[view]}: rank 1 {100 * v[0]:.1f} %, rank 10 {100 * v[min(9, len(v) - 1)]:.1f} %."
        for view, v in curves.items()
    )
    return {"lines": lines, "grid": grid, "ticks": ticks, "words": words}


def _height(value: float, floor: float) -> float:
    return BOTTOM - (BOTTOM - TOP) * (value - floor) / (1 - floor)


def draw_histogram(part: dict[str, Any], name: str) -> dict[str, Any]:
    """One or two filled outlines over distances from 0 to 2."""
    highest = max((max(shares) for shares in part["series"].values()), default=0) or 1.0
    lines = []
    for kind, shares in part["series"].items():
        width = (RIGHT - LEFT) / len(shares)
        path = f"M{LEFT:.1f},{BOTTOM:.1f}"
        for at, share in enumerate(shares):
            y = BOTTOM - (BOTTOM - TOP) * share / highest
            path += f"V{y:.1f}H{LEFT + width * (at + 1):.1f}"
        colour, dashed = {"right": ("b", False), "wrong": ("c", True), "nearest": ("b", False)}[kind]
        lines.append({"colour": colour, "dashed": dashed, "path": path + f"V{BOTTOM:.1f}Z"})
    ticks = [(LEFT + (RIGHT - LEFT) * value / part["top"], f"{value:g}") for value in (0, 0.5, 1, 1.5, 2)]
    what = "Distances of right pairs (solid) and of wrong ones (dashed), scaled to the same area"
    if "nearest" in part["series"]:
        what = "Distance of each query to its nearest gallery row"
    means = []
    for kind, shares in part["series"].items():
        width = part["top"] / len(shares)
        mean = sum(share * width * (at + 0.5) for at, share in enumerate(shares))
        means.append(f"{kind}: {mean:.2f} on average" if any(shares) else f"{kind}: none")
    caption = f"{what}, {name}. {'; '.join(means)}."
    return {"lines": lines, "ticks": ticks, "caption": caption, "words": caption}


def draw_plane(
    planes: dict[str, list[dict[str, Any]]], *, labelled: bool
) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """Letters in a plane, one for each identity, or camera; and which letter is who."""
    kinds, kind = ("identities", "identity") if labelled else ("cameras", "camera")
    drawn, marks = [], []
    for view, clouds in planes.items():
        marks = [(MARKS[at], cloud["name"]) for at, cloud in enumerate(clouds)]
        points = [
            {
                "x": round(200 + 185 * x, 1),
                "y": round(204 + 185 * y, 1),
                "mark": MARKS[at],
                "hue": 360 * at // len(clouds),
            }
            for at, cloud in enumerate(clouds)
            for x, y in cloud["points"]
        ]
        words = f"{len(clouds)} of the gallery's {kinds}, {'before' if view == 'before' else 'centralized'}"
        caption = f"{words}: rows in the two directions in which they differ most; a letter is one {kind}."
        drawn.append({"points": points, "caption": caption, "words": caption})
    return drawn, marks
