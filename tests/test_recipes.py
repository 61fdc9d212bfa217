"""The recipes of docs/recipes.md, run as printed on stand-ins for the arrays that each framework holds there."""

import numpy as np
import pytest
import torch
from support.recipes import RECIPES, run

from pose2id import centralize

WITH_THE_TOOLKIT = {"torchreid", "fast-reid", "TransReID, CLIP-ReID", "OML"}  # tests/integrations
WITH_THE_TOOLKIT |= {"FiftyOne", "pytorch-metric-learning", "torchmetrics", "wildlife-tools"}
SETTINGS = {"k1": 3, "k2": 3, "alpha": 4}

rng = np.random.default_rng(0)
Q, G = rng.standard_normal((30, 16)), rng.standard_normal((80, 16))
CAMS = rng.integers(0, 4, 30), rng.integers(0, 4, 80)


def test_every_pipeline_has_its_recipe():
    assert set(RECIPES) - WITH_THE_TOOLKIT == {
        "torchreid's source",
        "fast-reid's source",
        "TransReID's source",
        "SYSU-MM01",
    }
    assert set(RECIPES) >= WITH_THE_TOOLKIT


def test_torchreid():
    qf, gf = torch.tensor(Q).float(), torch.tensor(G).float()
    names = run("torchreid's source", qf=qf, gf=gf, q_camids=CAMS[0], g_camids=CAMS[1])
    torch.testing.assert_close(names["gf"], centralize(gf, exclude=CAMS[1], **SETTINGS))


def test_fast_reid():
    names = {"query_features": torch.tensor(Q).float(), "gallery_features": torch.tensor(G).float()}
    names = run("fast-reid's source", query_camids=CAMS[0], gallery_camids=CAMS[1], **names)
    gallery = centralize(torch.tensor(G).float(), exclude=CAMS[1], **SETTINGS)
    torch.testing.assert_close(names["gallery_features"], gallery)


def test_transreid():
    views = rng.standard_normal((30, 8, 16)), rng.standard_normal((80, 8, 16))
    qf, gf, generated_q, generated_g = (torch.tensor(a).float() for a in (Q, G, *views))
    names = {"qf": qf, "gf": gf, "generated_q": generated_q, "generated_g": generated_g}
    names = run("TransReID's source", q_camids=CAMS[0], g_camids=CAMS[1], **names)
    expected = centralize(qf, generated_q.mean(dim=1), eta=2.0, exclude=CAMS[0], **SETTINGS)
    torch.testing.assert_close(names["qf"], expected)


def test_sysu():
    names = run("SYSU-MM01", query_feat=Q, gall_feat=G, gall_cam=CAMS[1])
    assert names["gall_feat"].dtype == np.float64
    np.testing.assert_array_equal(names["gall_feat"], centralize(G, exclude=CAMS[1], **SETTINGS))


def test_a_wrong_recipe_is_noticed(monkeypatch):
    monkeypatch.setitem(RECIPES, "torchreid's source", "from pose2id import centralize\nqf = centralise(qf)\n")
    with pytest.raises(NameError, match="centralise"):
        run("torchreid's source", qf=torch.tensor(Q))
