"""Accuracy rows: numbers of this library, stored here and asserted to the rounding shown.

A row that moves is a change users must hear of: mend the code, or change the number here and say so in the changelog
under "Numbers changed".
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import load_omniglot, percent

from pose2id.datasets import load_demo
from pose2id.study import FeatureSet, Setting, run_study

HEAD = ("setting", "mAP", "R1", "R5", "R10", "mINP", "ID2", "ID2 rel.", "ties")

BASE = Setting("base")
NFC = Setting("NFC (2, 2)", k1=2, k2=2)
GENERATED = Setting("generated features, eta 1", eta=1.0)
WEIGHTED = Setting("(3, 3), alpha 4", k1=3, k2=3, alpha=4.0)
RECOMMENDED = replace(WEIGHTED, name="(3, 3), alpha 4, other cameras", other_cameras=True)
SETTINGS = {
    setting.name: setting
    for setting in (
        BASE,
        NFC,
        replace(NFC, name="NFC (3, 3)", k1=3, k2=3),
        replace(NFC, name="NFC (2, 4)", k2=4),
        GENERATED,
        replace(NFC, name="NFC (2, 2), generated features", eta=1.0),
        WEIGHTED,
        RECOMMENDED,
        replace(RECOMMENDED, name="recommended, generated features", eta=1.0),
        replace(BASE, name="base, re-ranked", reranked=True),
        replace(NFC, name="NFC (2, 2), re-ranked", reranked=True),
        replace(GENERATED, name="generated features, re-ranked", reranked=True),
        replace(RECOMMENDED, name="(3, 3), alpha 4, other cameras, re-ranked", reranked=True),
    )
}
# mAP, R1, R5, R10, mINP in percent, ID2 by the paper and as released, queries whose rank-1 hangs on a tie
STORED = {
    "Embedded set (omniglot_tiny)": {
        "base": "81.44 91.25 98.75 99.17 49.86 0.3403 0.1263 0",
        "NFC (2, 2)": "84.13 91.25 96.67 98.33 56.60 0.2997 0.1029 2",
        "NFC (3, 3)": "85.21 90.00 96.67 98.75 58.25 0.2750 0.0895 6",
        "NFC (2, 4)": "85.02 91.25 94.58 96.25 61.60 0.2718 0.0869 0",
        "generated features, eta 1": "83.04 92.08 98.75 98.75 52.21 0.3212 0.1135 0",
        "NFC (2, 2), generated features": "84.89 90.83 97.08 98.75 58.53 0.2834 0.0928 1",
        "(3, 3), alpha 4": "85.68 90.42 97.92 98.75 58.06 0.2778 0.0910 0",
        "(3, 3), alpha 4, other cameras": "86.00 91.67 98.33 99.17 57.94 0.2756 0.0897 0",
        "recommended, generated features": "86.56 90.00 97.92 99.17 59.38 0.2615 0.0816 0",
        "base, re-ranked": "91.50 93.75 97.08 97.92 82.47 0.3403 0.1263 0",
        "NFC (2, 2), re-ranked": "90.28 90.83 95.42 95.83 82.11 0.2997 0.1029 1",
        "generated features, re-ranked": "92.54 94.58 97.50 98.33 83.64 0.3212 0.1135 0",
        "(3, 3), alpha 4, other cameras, re-ranked": "91.04 92.50 95.83 96.67 81.78 0.2756 0.0897 0",
    },
    "Omniglot, strong encoder": {
        "base": "70.89 88.44 96.81 98.31 30.68 0.4216 0.1903 0",
        "NFC (2, 2)": "75.67 88.50 95.56 97.62 35.13 0.3721 0.1554 20",
        "NFC (3, 3)": "76.89 87.75 95.12 97.31 37.42 0.3450 0.1378 7",
        "NFC (2, 4)": "76.53 86.50 93.88 96.12 37.31 0.3430 0.1354 11",
        "generated features, eta 1": "71.92 88.50 97.19 98.25 32.15 0.3991 0.1719 0",
        "NFC (2, 2), generated features": "76.34 89.19 95.88 97.50 37.38 0.3536 0.1415 14",
        "(3, 3), alpha 4": "77.18 89.69 96.25 97.62 37.03 0.3513 0.1419 0",
        "(3, 3), alpha 4, other cameras": "77.80 90.12 96.44 97.75 37.33 0.3489 0.1404 0",
        "recommended, generated features": "78.67 89.94 95.88 97.56 39.20 0.3306 0.1273 0",
        "base, re-ranked": "85.56 89.50 95.06 96.00 61.80 0.4216 0.1903 0",
        "NFC (2, 2), re-ranked": "85.05 88.75 93.62 95.06 60.28 0.3721 0.1554 20",
        "generated features, re-ranked": "85.76 90.06 95.19 96.38 62.94 0.3991 0.1719 0",
        "(3, 3), alpha 4, other cameras, re-ranked": "85.76 89.56 93.88 95.19 61.97 0.3489 0.1404 0",
    },
    "Omniglot, weak encoder": {
        "base": "6.95 27.25 48.69 57.88 0.29 0.8829 0.7882 0",
        "NFC (2, 2)": "6.45 20.94 38.56 49.19 0.32 0.8703 0.7692 32",
        "NFC (3, 3)": "6.20 18.75 36.12 46.62 0.33 0.8643 0.7605 13",
        "NFC (2, 4)": "6.16 18.69 34.88 45.69 0.34 0.8640 0.7601 10",
        "generated features, eta 1": "8.69 32.88 55.31 64.56 0.36 0.8459 0.7284 0",
        "NFC (2, 2), generated features": "7.98 24.00 45.12 56.62 0.39 0.8284 0.7033 37",
        "(3, 3), alpha 4": "7.24 27.31 47.50 56.56 0.32 0.8728 0.7729 0",
        "(3, 3), alpha 4, other cameras": "7.22 27.00 47.06 57.19 0.32 0.8730 0.7733 0",
        "recommended, generated features": "9.06 32.06 52.75 62.31 0.40 0.8298 0.7052 0",
        "base, re-ranked": "7.93 25.25 47.06 55.00 0.33 0.8829 0.7882 0",
        "NFC (2, 2), re-ranked": "6.79 19.25 35.38 44.38 0.38 0.8703 0.7692 42",
        "generated features, re-ranked": "10.26 29.81 52.44 60.25 0.48 0.8459 0.7284 0",
        "(3, 3), alpha 4, other cameras, re-ranked": "7.98 24.44 44.12 52.69 0.36 0.8730 0.7733 0",
    },
}


def measure(features, generated, ids, cams, n_query, name):
    """One row: mAP, R1, R5, R10, mINP, both ID², ties."""
    query, gallery = (
        FeatureSet(features[part], ids[part], cams[part], None if generated is None else generated[part])
        for part in (slice(n_query), slice(n_query, None))
    )
    (row,) = run_study(query, gallery, [SETTINGS[name]])
    densities = (f"{value:.4f}" for value in (row.id2_paper, row.id2_released))
    percents = map(percent, (row.mAP, row.rank1, row.rank5, row.rank10, row.mINP))
    return [*percents, *densities, str(row.tied_rank1)]


def check(report, table, name, row, n_query):
    report(table, HEAD, name, *row)
    measured, stored = (np.array(list(map(float, values))) for values in (row, STORED[table][name].split()))
    # To the rounding shown. After re-ranking, one query more or less may hang on the last bit of a product; where the
    # stored numbers come from, all rows are met exactly.
    one_query = 100 / n_query + 0.01
    limits = (
        (0.02, *[one_query] * 3, one_query, 1e-4, 1e-4, 1)
        if "re-ranked" in name
        else (0.01, *[0.01] * 4, 1e-4, 1e-4, 0)
    )
    assert (np.abs(measured - stored) <= np.array(limits) + 1e-9).all(), f"measured {measured}, stored {stored}"


@pytest.mark.parametrize("name", SETTINGS)
def test_embedded_set(report, name):
    data = load_demo()
    row = measure(data.features, data.generated.mean(axis=1), data.ids, data.cams, data.n_query, name)
    check(report, "Embedded set (omniglot_tiny)", name, row, data.n_query)


@pytest.mark.parametrize("encoder", ["strong", "weak"])
@pytest.mark.parametrize("name", SETTINGS)
def test_larger_sets(report, omniglot, encoder, name):
    data = load_omniglot(omniglot, encoder)
    row = measure(data["feats"], data.get("view_mean"), data["pid"], data["cam"], int(data["n_query"]), name)
    check(report, f"Omniglot, {encoder} encoder", name, row, int(data["n_query"]))
