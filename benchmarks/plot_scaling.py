"""Draw the scaling curves that `pytest benchmarks --full --record NAME` wrote: seconds against N, per engine.

python benchmarks/plot_scaling.py benchmarks/results/DATE-NAME-scaling.csv scaling.png
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path


def main(source: str, target: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with Path(source).open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for engine in dict.fromkeys(row["engine"] for row in rows):
        points = [(int(row["N"]), float(row["seconds"])) for row in rows if row["engine"] == engine]
        axes.loglog(*zip(*points, strict=True), marker="o", label=engine)
    axes.set_xlabel("rows N (768 columns, float32)")
    axes.set_ylabel("seconds, k = 2")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(frameon=False)
    figure.savefig(target, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
