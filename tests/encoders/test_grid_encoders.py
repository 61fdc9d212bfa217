"""IDLA, PersonNet and DSR: the released layers by value, gradients, losses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.golden import GOLDEN
from support.heads import depends_on_the_picture_only, make_batch, reached, train

from pose2id.encoders import DSR, IDLA, PersonNet, Trunk
from pose2id.encoders.losses import pair_rows
from pose2id.parts import location_pyramid, reconstruction_distances

SMALL = (4, 6, 8)


def make(system, **sizes):
    torch.manual_seed(0)
    return system(4, Trunk(SMALL), **sizes)


PAIR_SIZES = {"channels": 5, "width": 7, "size": (32, 16)}
SYSTEMS = [(IDLA, PAIR_SIZES), (PersonNet, PAIR_SIZES), (DSR, {"squares": (1, 2)})]


@pytest.mark.parametrize(("system", "sizes"), SYSTEMS)
def test_every_parameter_learns_and_the_loss_falls(system, sizes):
    encoder, batch = make(system, **sizes), make_batch()
    wanted = {name for name, each in encoder.named_parameters() if each.requires_grad}
    # A convolution's bias in front of a batch normalisation has no effect.
    silent = {name for name in wanted if name in {"embed.0.bias", "embed.3.bias"} and isinstance(encoder, IDLA)}
    assert reached(encoder, batch) - silent == wanted - silent
    before, after = train(encoder, batch)
    assert after < before
    depends_on_the_picture_only(encoder, batch)


def test_differences_are_the_published_ones():
    """The summary of one neighbour at a time gives the golden K and K', behind the paper's ReLU."""
    with np.load(GOLDEN / "parts" / "pooling.npz") as file:
        f, g, k, k_prime = (torch.from_numpy(file[f"idla.{name}"]) for name in ("f", "g", "k", "k_prime_tiled"))
    n, channels, height, width = f.shape
    encoder = make(IDLA, channels=channels, size=(32, 16)).double()
    tiled = k_prime.view(n, channels, height, 5, width, 5).permute(0, 1, 2, 4, 3, 5)
    for y, x in ((0, 0), (2, 2), (1, 4)):
        for layer in encoder.summarise:
            layer.weight.data.zero_()
            layer.bias.data.zero_()
            layer.weight.data[range(channels), range(channels), y, x] = 1
        first, second = encoder.summaries(f.double(), g.double())
        torch.testing.assert_close(first, k[..., y, x].double().relu())
        torch.testing.assert_close(second, tiled[..., y, x].double().relu())


def test_pairs_are_told_apart_both_ways_round():
    encoder = make(IDLA, **PAIR_SIZES).eval()
    maps = encoder(make_batch().images).maps
    assert not torch.equal(encoder.compare(maps, maps.flip(0)), encoder.compare(maps.flip(0), maps))
    scores = encoder.classify(maps, maps.flip(0))
    odds = scores.log_softmax(1)
    torch.testing.assert_close(encoder.compare(maps, maps.flip(0)), odds[:, 0] - odds[:, 1])


def test_pairs_of_a_batch():
    first, second, same = pair_rows(torch.tensor([5, 5, 1, 1, 2]))
    assert first[same].tolist() == [0, 1, 2, 3]  # 2 is alone
    assert second[same].tolist() == [1, 0, 3, 2]
    pairs = set(zip(first[~same].tolist(), second[~same].tolist(), strict=True))
    assert pairs == {(0, 2), (1, 3), (2, 4), (3, 0), (4, 1), (1, 2), (3, 4), (4, 0)}
    first, _, same = pair_rows(torch.tensor([1, 1]))
    assert first.tolist() == [0, 1]
    assert same.all()


def test_reconstruction_is_that_of_the_released_code():
    """By `reconstruction_distances`, which the golden arrays check; the released ridge, weights and norms."""
    encoder = make(DSR, squares=(1, 2)).double().eval()
    maps = torch.rand(4, 8, 5, 4, dtype=torch.float64)
    encoder.occlusion.weight.data.normal_(0, 3)
    columns = torch.nn.functional.normalize(location_pyramid(maps, (1, 2)), dim=1)
    weights = torch.sigmoid(encoder.occlusion(location_pyramid(maps, (1, 2)).mT)[:, :, 0]).detach()
    expected = reconstruction_distances(
        columns,
        columns,
        penalty="ridge",
        strength=0.001,
        reduce="mean_norm",
        weights=weights / weights.sum(1, keepdim=True),
    )
    for shift in range(4):
        found = encoder.compare(maps, maps.roll(-shift, 0))
        torch.testing.assert_close(found.detach(), expected[range(4), [(i + shift) % 4 for i in range(4)]])
    pair = [maps[:2, :, :3, :3].clone().requires_grad_(), maps[2:, :, :3, :3].clone().requires_grad_()]
    assert torch.autograd.gradcheck(encoder.compare, pair)  # both pictures learn


def test_reconstruction_learns_which_locations_are_the_person():
    """Its term alone reaches the occlusion unit and the trunk, and no classifier."""
    found = reached(make(DSR, squares=(1, 2)), make_batch(), "reconstruction")
    assert {"occlusion.weight", "occlusion.bias", "trunk.stem.0.weight"} <= found
    assert not [name for name in found if name.startswith("classify")]


def test_losses_of_dsr():
    """The triplets that are hardest by the whole picture, by the whole and by reconstruction; both learn."""
    encoder, batch = make(DSR, squares=(1, 2)).double().eval(), make_batch()
    batch = batch._replace(images=batch.images.double())
    torch.nn.init.normal_(encoder.occlusion.weight)
    maps = encoder.trunk(batch.images)
    means, same = maps.mean((2, 3)), batch.ids[:, None] == batch.ids
    whole = torch.cdist(means, means)
    far, near = whole.masked_fill(~same, -1).argmax(1), whole.masked_fill(same, 99).argmin(1)
    pairs = [[encoder.compare(maps[i : i + 1], maps[j : j + 1])[0] for i, j in enumerate(to)] for to in (far, near)]
    expected = torch.stack([torch.relu(one - other + 0.3) for one, other in zip(*pairs, strict=True)]).mean()
    found = encoder.loss(batch)
    rows = torch.arange(len(maps))
    torch.testing.assert_close(found["triplet"], torch.relu(whole[rows, far] - whole[rows, near] + 0.3).mean())
    torch.testing.assert_close(found["reconstruction"], expected)
    learnt = encoder.occlusion.weight, encoder.trunk.stem[0].weight
    gradients = (torch.autograd.grad(each, learnt, retain_graph=True) for each in (found["reconstruction"], expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_pairs_of_one_person_are_to_be_near():
    encoder, batch = make(IDLA, **PAIR_SIZES).eval(), make_batch()
    maps, (first, second, same) = encoder(batch.images).maps, pair_rows(batch.ids)
    distances = encoder.compare(maps[first], maps[second])
    expected = torch.nn.functional.softplus(distances.where(same, -distances)).mean()
    torch.testing.assert_close(encoder.loss(batch)["verification"], expected)
