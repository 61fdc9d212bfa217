"""APR: its re-weighting by value, what each term teaches, labels that are not known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.golden import GOLDEN
from support.heads import depends_on_the_picture_only, make_batch, reached, train

from pose2id.encoders import APR, Trunk


def make(counts=(2, 3), **sizes):
    torch.manual_seed(0)
    return APR(4, Trunk((4, 6, 8)), attributes=counts, **sizes)


def test_every_parameter_learns_and_the_loss_falls():
    encoder, batch = make(), make_batch()
    wanted = {name for name, each in encoder.named_parameters() if each.requires_grad}
    assert reached(encoder, batch) == wanted
    assert {name.split(".")[0] for name in reached(encoder, batch, "attributes")} == {"trunk", "norm", "recognise"}
    before, after = train(encoder, batch)
    assert after < before
    depends_on_the_picture_only(encoder, batch)


def test_the_module_is_the_golden_one():
    with np.load(GOLDEN / "parts" / "apr.npz") as file:
        scores, matrix, bias, expected = (
            torch.from_numpy(file[f"arm_{name}"]) for name in ("scores", "v", "b", "reweighted")
        )
    encoder = make((scores.shape[1],)).double()
    encoder.reweight.weight.data, encoder.reweight.bias.data = matrix, bias
    torch.testing.assert_close(encoder.reweighted(scores).detach(), expected)


def test_unknown_attributes_teach_nothing():
    encoder, batch = make(), make_batch()
    unknown = batch._replace(attributes=torch.stack([torch.full_like(batch.ids, -1), batch.ids % 3], dim=1))
    found = reached(encoder, unknown, "attributes")
    assert "recognise.1.weight" in found
    assert "recognise.0.weight" not in found
    half = batch._replace(attributes=batch.attributes.where(torch.arange(12)[:, None] < 6, -1))
    normed = encoder.norm(encoder.trunk(batch.images).mean((2, 3)))[:6]
    expected = [
        torch.nn.functional.cross_entropy(layer(normed), batch.attributes[:6, i])
        for i, layer in enumerate(encoder.recognise)
    ]
    torch.testing.assert_close(encoder.loss(half)["attributes"], torch.stack(expected).mean())
    with pytest.raises(ValueError, match="learns from attributes"):
        encoder.loss(batch._replace(attributes=None))


def test_probabilities_and_weight():
    encoder, batch = make(weight=3.0).eval(), make_batch()
    found = encoder(batch.images).attributes
    torch.testing.assert_close(found[:, :2].sum(1), torch.ones(12))
    torch.testing.assert_close(found[:, 2:].sum(1), torch.ones(12))
    one = make(weight=1.0).eval()
    torch.testing.assert_close(encoder.loss(batch)["identity"], 3 * one.loss(batch)["identity"])
