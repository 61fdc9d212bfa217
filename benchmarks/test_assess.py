"""`assess` on sets with known answers: verdicts against the change of mAP, with labels and without.

pytest benchmarks/test_assess.py --omniglot FOLDER [--fonts FOLDER ...] [--spoken REPOSITORY]

The weights of `pose2id.study.verdicts` were fitted to these sets, those made in feature space left aside. What such
weights are worth on others is seen by fitting them again, each time without all sets of one source, and trying them on
these.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from assess_sets import every_case
from sklearn.linear_model import LogisticRegression

from pose2id.study import FeatureSet, Setting, assess, run_study
from pose2id.study.agreement import Statistics
from pose2id.study.splits import SETTINGS
from pose2id.study.verdicts import CAMERAS, FEWEST, HELPS, LINKED, LOOSE, WEIGHTS, estimate_precision, judge_features

NAMES = ("published", "recommended")
HEAD = ("source", "sets", "setting", "above 1 point", "helps, right", "wrong", "hurts, right", "wrong")
SOURCES = {"embedded": "omniglot", "drawings": "omniglot", "omniglot strong": "omniglot", "omniglot weak": "omniglot"}
MADE = ("made", "tracklets")
MARGIN = {"published": 0.3, "recommended": 0.5}
"""How far thresholds stay from the nearest wrong verdict, in log odds."""


def measure(case, partial):
    """One record: statistics, verdicts with and without labels, and what happened."""
    n = case.n_query
    sets = [FeatureSet(case.features[p], case.ids[p], case.cams[p]) for p in (slice(n), slice(n, None))]
    settings = [Setting("base"), *(SETTINGS[name] for name in NAMES)]
    base, *rows = run_study(*sets, settings, density=False)
    gallery = sets[1]
    known = assess(gallery.features, gallery.cams, gallery.ids)
    found = Statistics(**known.statistics)
    said = {"without labels": judge_features(found), "with labels": known.verdicts}
    if partial:
        rng = np.random.default_rng(0)
        names = rng.permutation(np.unique(gallery.ids))
        rest = (rng.random(len(gallery.ids)) < 0.4, np.isin(gallery.ids, names[len(names) // 3 :]))
        for which, unknown in zip(("60 % of the rows", "a third of the identities"), rest, strict=True):
            ids = np.where(unknown, -1, gallery.ids)
            said[f"with labels of {which}"] = assess(gallery.features, gallery.cams, ids).verdicts
    return {
        "source": SOURCES.get(case.family, case.family),
        "name": case.name,
        "change": {name: 100 * (row.mAP - base.mAP) for name, row in zip(NAMES, rows, strict=True)},
        "statistics": known.statistics,
        "said": said,
        "held": estimate_precision(found)[1][0] <= known.precision <= estimate_precision(found)[1][1],
    }


def collect(*sources, **options):
    """The records of all sets; of every fourth with labels of some rows as well."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        cases = enumerate(every_case(*sources, **options))
        waiting = [pool.submit(measure, case, number % 4 == 0) for number, case in cases]
        return [each.result() for each in waiting]


def is_wrong(word, change):
    return (word == "helps" and change < -0.2) or (word == "hurts" and change > 0.2)


def is_open(found, name, word):
    """Whether a verdict may be said, whatever the odds."""
    rows = HELPS[name][1] if word == "helps" else FEWEST
    loose = word == "helps" or (name == "published" and found["excess"] < LOOSE)
    return found["rows"] >= rows and found["cameras"] <= CAMERAS and found["linked"] >= LINKED[word] and loose


def fit(records, name):
    """Weights, and the log odds from which on "helps", and down to which "hurts" is said."""
    usable = [r for r in records if r["source"] not in MADE and r["statistics"]["linked"] >= 0.5]
    usable = [r for r in usable if r["statistics"]["rows"] >= FEWEST and r["statistics"]["cameras"] <= CAMERAS + 0.1]
    keys = [key for key in WEIGHTS[name] if key]
    values = np.array([[r["statistics"][key] for key in keys] for r in usable])
    change = np.array([r["change"][name] for r in usable])
    size, clear = values.std(axis=0) + 1e-9, abs(change) > 0.2
    model = LogisticRegression(C=0.3, max_iter=2000)
    model.fit((values / size)[clear], change[clear] > 0, sample_weight=np.minimum(abs(change), 3)[clear])
    weights = dict(zip(keys, model.coef_[0] / size, strict=True)) | {"": float(model.intercept_[0])}

    def select(word, which):
        open_ones = [r for r in usable if which(r["change"][name]) and is_open(r["statistics"], name, word)]
        return [weigh(r, weights) for r in open_ones] or [0]

    high, low = select("helps", lambda change: change < -0.2), select("hurts", lambda change: change > 0.2)
    return weights, max(high) + MARGIN[name], min(low) - MARGIN[name]


def weigh(record, weights):
    return sum(weight * (record["statistics"] | {"": 1.0})[key] for key, weight in weights.items())


def say(record, name, weights, high, low):
    odds, found = weigh(record, weights), record["statistics"]
    if odds >= high and is_open(found, name, "helps"):
        return "helps"
    return "hurts" if odds <= low and is_open(found, name, "hurts") else "unclear"


def count(records, words, name):
    """Cells of the tables: large changes; of these how often each verdict was right; how often any was wrong."""
    cells = [sum(abs(r["change"][name]) > 1 for r in records)]
    for word in ("helps", "hurts"):
        those = [r["change"][name] for r, said in zip(records, words, strict=True) if said == word]
        wrong = [is_wrong(word, change) for change in those]
        cells += [sum(abs(c) > 1 and not w for c, w in zip(those, wrong, strict=True)), sum(wrong)]
    return cells


def make_tables(records, report):
    """The tables, and the number of wrong verdicts in each, without those on sets made in feature space."""
    wrong, sources = {}, sorted({r["source"] for r in records})
    for name, source in itertools.product(NAMES, sources):
        bounds = fit([r for r in records if r["source"] != source], name)
        for r in records:
            if r["source"] == source:
                r["said"].setdefault("left out", {})[name] = say(r, name, *bounds)
    for table in dict.fromkeys(key for r in records for key in r["said"]):
        title, some = f"Will it help? {table}", [r for r in records if table in r["said"]]

        def tell(label, those, name, title=title, table=table):
            cells = count(those, [r["said"][table][name] for r in those], name)
            report(title, HEAD, label, len(those), name, *cells)
            return cells[2] + cells[4]

        for source, name in itertools.product(sources, NAMES):
            tell(source, [r for r in some if r["source"] == source], name)
        found, made = ([r for r in some if (r["source"] in MADE) == yes] for yes in (False, True))
        wrong[table] = sum(tell("all but made", found, name) for name in NAMES)
        for name in NAMES:
            tell("all made", made, name)
    return wrong


def test_verdicts(report, request):
    folders = [request.config.getoption(name) for name in ("--omniglot", "--fonts", "--spoken")]
    omniglot, fonts, spoken = folders
    records = collect(omniglot and Path(omniglot), [Path(x) for x in fonts or ()], spoken, made_sets=60)
    for name in NAMES:
        weights, high, low = fit(records, name)
        cells = [f"{weights[key]:.1f}" for key in WEIGHTS[name]]
        report(
            "Weights",
            ("setting", "weights", "helps from", "hurts from"),
            name,
            ", ".join(cells),
            f"{high:.1f}",
            f"{low:.1f}",
        )
    wrong = make_tables(records, report)
    assert wrong["without labels"] == 0
    assert sum(r["held"] for r in records) >= 0.95 * len(records)
