"""The recipes of docs/recipes.md, run as printed on stand-ins for the arrays that each framework holds there."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pose2id import centralize

PAGE = Path(__file__).parents[1].joinpath("docs", "recipes.md").read_text(encoding="utf-8")
TOOLKITS = PAGE.partition("## In other toolkits")[2]
RECIPES = dict(re.findall(r"^\*\*([^*]+)\*\*[^`]*.*?```py\n(.*?)^```$", TOOLKITS, re.M | re.S))

rng = np.random.default_rng(0)
Q, G = rng.standard_normal((30, 16)), rng.standard_normal((80, 16))
CAMS = rng.integers(0, 4, 30), rng.integers(0, 4, 80)


class OmlDataset:
    """What OML hands out: tensors of indices."""

    def get_query_ids(self):
        return torch.arange(30)

    def get_gallery_ids(self):
        return torch.arange(30, 110)


def run(name, **names):
    exec(compile(RECIPES[name], f"recipe {name}", "exec"), names)
    return names


def test_every_pipeline_has_its_recipe():
    assert set(RECIPES) == {
        "torchreid",
        "fast-reid",
        "TransReID, CLIP-ReID, SOLIDER",
        "SYSU-MM01",
        "OML",
        "wildlife-tools",
    }


def test_torchreid():
    names = run("torchreid", qf=torch.tensor(Q).float(), gf=torch.tensor(G).float(), q_camids=CAMS[0], g_camids=CAMS[1])
    torch.testing.assert_close(names["gf"], centralize(torch.tensor(G).float(), exclude=CAMS[1]))


def test_fast_reid():
    names = run("fast-reid", query_features=torch.tensor(Q).float(), gallery_features=torch.tensor(G).float())
    torch.testing.assert_close(names["gallery_features"], centralize(torch.tensor(G).float()))


def test_transreid():
    views = rng.standard_normal((30, 8, 16)), rng.standard_normal((80, 8, 16))
    qf, gf, generated_q, generated_g = (torch.tensor(a).float() for a in (Q, G, *views))
    names = run("TransReID, CLIP-ReID, SOLIDER", qf=qf, gf=gf, generated_q=generated_q, generated_g=generated_g)
    torch.testing.assert_close(names["qf"], centralize(qf, generated_q.mean(dim=1), eta=2.0))


def test_sysu():
    names = run("SYSU-MM01", query_feat=Q, gall_feat=G, gall_cam=CAMS[1])
    assert names["gall_feat"].dtype == np.float64
    np.testing.assert_array_equal(names["gall_feat"], centralize(G, exclude=CAMS[1]))


def test_oml():
    names = run("OML", embeddings=torch.tensor(np.concatenate([Q, G])).float(), dataset=OmlDataset())
    torch.testing.assert_close(names["embeddings"][30:], centralize(torch.tensor(G).float()))


def test_wildlife_tools():
    query, database = SimpleNamespace(features=Q.astype(np.float32)), SimpleNamespace(features=G.astype(np.float32))
    run("wildlife-tools", query=query, database=database)
    np.testing.assert_array_equal(database.features, centralize(G.astype(np.float32)))


def test_a_wrong_recipe_is_noticed(monkeypatch):
    monkeypatch.setitem(RECIPES, "torchreid", "from pose2id import centralize\nqf = centralise(qf)\n")
    with pytest.raises(NameError, match="centralise"):
        run("torchreid", qf=torch.tensor(Q))
