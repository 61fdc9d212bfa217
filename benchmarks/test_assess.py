"""`assess` on sets with known answers: verdicts against the change of mAP, with labels and without.

pytest benchmarks/test_assess.py --omniglot FOLDER [--fonts FOLDER ...] [--spoken REPOSITORY]

The bounds of `pose2id.study.verdicts` were found by hand on these sets, so that "helps" was never wrong on them. What
such bounds are worth on others is seen by finding them again, by a search over a grid, each time without one family of
sets, and trying them on that family.
"""

from __future__ import annotations

import itertools
from pathlib import Path

from assess_sets import every_case

from pose2id.study import FeatureSet, Setting, assess, run_study
from pose2id.study.splits import SETTINGS
from pose2id.study.verdicts import CAMERAS, CROWDED, FEWEST, LINKED

NAMES = ("published", "recommended")
TIGHT = {"jaccard": (0.3, 0.36, 0.42), "closed": (0.6, 0.65, 0.75), "kept": (0.3, 0.5), "linked": (0.5, 0.55, 0.6)}
ROOMY = {"jaccard": (0.22, 0.26, 0.3), "closed": (0.5, 0.55, 0.65), "kept": (0.3, 0.4), "dimension": (11, 14, 17, 20)}
HEAD = ("family", "sets", "setting", "above 1 point", "helps, right", "wrong", "hurts, right", "wrong")
"""The grids of the search, and the head of the tables."""
MARGIN = 0.1
"""How far the bounds found stay from wrong verdicts, as a share of themselves."""


def collect(*sources, **options):
    """One record a set: statistics, verdicts with and without labels, and what happened."""
    for case in every_case(*sources, **options):
        n = case.n_query
        parts = slice(n), slice(n, None)
        some = [None if case.generated is None else case.generated[part] for part in parts]
        sets = [FeatureSet(case.features[p], case.ids[p], case.cams[p], g) for p, g in zip(parts, some, strict=True)]
        settings = [Setting("base"), *(SETTINGS[name] for name in NAMES)]
        base, *rows = run_study(*sets, settings, density=False)
        gallery = sets[1]
        without = assess(gallery.features, gallery.cams)
        known = assess(gallery.features, gallery.cams, gallery.ids)
        yield {
            "family": case.family,
            "name": case.name,
            "base": 100 * base.mAP,
            "change": {name: 100 * (row.mAP - base.mAP) for name, row in zip(NAMES, rows, strict=True)},
            "statistics": without.statistics,
            "without": {name: without.verdicts[name] for name in NAMES},
            "with": {name: known.verdicts[name] for name in NAMES},
            "gains": known.gains,
            "precision": known.precision,
            "interval": without.interval,
        }


def is_wrong(word, change):
    return (word == "helps" and change < -0.2) or (word == "hurts" and change > 0.2)


def can_say(found, name):
    """What holds whatever the grid finds."""
    enough = found["rows"] >= FEWEST[name] and found["cameras"] <= CAMERAS
    return enough and (name != "published" or found["crowded"] >= CROWDED)


def find_bounds(records, name):
    """Bounds that say most where mAP gains above a point, and nothing wrong even a tenth lower; the strictest such."""
    usable = [r for r in records if can_say(r["statistics"], name)]
    wrong = {i for i, r in enumerate(usable) if r["change"][name] < -0.2}
    gained = {i for i, r in enumerate(usable) if r["change"][name] > 1}

    def holding(bounds, extra):
        return {i for i, r in enumerate(usable) if is_within(r["statistics"], bounds) and extra(r["statistics"])}

    clean = []
    for grid, extra in ((TIGHT, lambda _: True), (ROOMY, is_roomy)):
        every = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        every.append(dict.fromkeys(grid, 1000))  # never
        lower = [{key: (1 - MARGIN) * least for key, least in bounds.items()} for bounds in every]
        pairs = zip(every, lower, strict=True)
        clean.append([(bounds, holding(bounds, extra)) for bounds, low in pairs if not holding(low, extra) & wrong])
    both = [((a, b), len((x | y) & gained), -len(x | y)) for a, x in clean[0] for b, y in clean[1]]
    return max(both, key=lambda each: each[1:])[0]


def is_within(found, bounds):
    return all(found[key] >= least for key, least in bounds.items())


def is_roomy(found):
    return 0.5 <= found["linked"] <= LINKED


def say(record, name, bounds):
    found = record["statistics"]
    tight, roomy = bounds
    good = is_within(found, tight) or (is_within(found, roomy) and is_roomy(found))
    return "helps" if good and can_say(found, name) else "unclear"


def count(records, words, name):
    """Cells of the tables: how often each verdict was right, and wrong."""
    large = sum(abs(r["change"][name]) > 1 for r in records)
    cells = [large]
    for word in ("helps", "hurts"):
        wrong = [is_wrong(said, r["change"][name]) for r, said in zip(records, words, strict=True) if said == word]
        cells += [len(wrong) - sum(wrong), sum(wrong)]
    return cells


def make_tables(records, report):
    """Three tables; the number of wrong verdicts in each."""
    families = sorted({r["family"] for r in records})
    wrong = {"without labels": 0, "left out": 0, "with labels": 0}
    for family, name in itertools.product(families, NAMES):
        some = [r for r in records if r["family"] == family]
        bounds = find_bounds([r for r in records if r["family"] != family], name)
        said = {
            "without labels": [r["without"][name] for r in some],
            "left out": [say(r, name, bounds) for r in some],
            "with labels": [r["with"][name] for r in some],
        }
        for table, words in said.items():
            cells = count(some, words, name)
            wrong[table] += cells[2] + cells[4]
            report(f"Will it help? {table}", HEAD, family, len(some), name, *cells)
    return wrong


def test_verdicts(report, request):
    folders = [request.config.getoption(name) for name in ("--omniglot", "--fonts", "--spoken")]
    omniglot, fonts, spoken = folders
    records = list(collect(omniglot and Path(omniglot), [Path(x) for x in fonts or ()], spoken, made_sets=100))
    wrong = make_tables(records, report)
    assert wrong["without labels"] == 0
    held = [r["interval"][0] <= r["precision"] <= r["interval"][1] for r in records]
    assert sum(held) >= 0.95 * len(held)
