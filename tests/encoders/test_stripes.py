"""Encoders of stripes: against the numbers of public code, and what trains in each."""

import numpy as np
import pytest
import torch
from support.encoders import learning, losses, on_maps, small_trunk, total, toy_batch
from support.golden import GOLDEN
from torch import nn
from torch.nn import functional

from pose2id.encoders import Batch
from pose2id.encoders.stripes import ICNN, PCB, RPP, AlignedReID, GatedLSTM, SCPNet
from pose2id.encoders.stripes.aligned import align
from pose2id.parts import aligned_distances

STRIPES = {f"classify.{i}.{kind}" for i in range(6) for kind in ("weight", "bias")}
REDUCE = {"reduce.0.weight", "reduce.1.weight", "reduce.1.bias"}
HEADS = {
    PCB: STRIPES | REDUCE,
    RPP: STRIPES | REDUCE | {"assign.weight", "assign.bias"},
    AlignedReID: {"classify.norm.weight", "classify.linear.weight"}
    | {f"{layer}.{kind}" for layer in ("norm.0", "reduce") for kind in ("weight", "bias")},
    ICNN: STRIPES | REDUCE | {"embed.weight"},
    SCPNet: {f"classify.{i}.{layer}.weight" for i in range(4) for layer in ("norm", "linear")}
    | {"expand.0.weight", "expand.1.weight", "expand.1.bias"},
    GatedLSTM: {"summarize.weight", "spread"}
    | {f"read.{kind}_{side}_l0" for kind in ("weight", "bias") for side in ("ih", "hh")},
}
WIDTHS = {PCB: 6 * 8, RPP: 6 * 8, AlignedReID: 8, ICNN: 7 * 8, SCPNet: 4 * 8}
PARTS = {PCB: 6, RPP: 6, AlignedReID: 8, ICNN: 6}


@pytest.fixture
def make():
    torch.manual_seed(0)
    return lambda system, **sizes: system(4, small_trunk(), **sizes)


def load(file, system):
    with np.load(GOLDEN / "parts" / f"{file}.npz") as arrays:
        return {key.partition(".")[2]: torch.from_numpy(arrays[key]) for key in arrays if key.startswith(f"{system}.")}


def equal(found, expected, rtol=1e-9, atol=1e-13):
    np.testing.assert_allclose(found.detach(), expected, rtol=rtol, atol=atol)


def trunk_of(encoder):
    return {name for name, _ in encoder.named_parameters() if name.startswith("trunk.")}


@pytest.mark.parametrize("system", HEADS)
def test_which_parameters_learn_and_the_loss_falls(make, system):
    encoder, batch = make(system), toy_batch()
    assert learning(encoder, batch) == HEADS[system] | trunk_of(encoder)
    before, after = losses(encoder, batch)
    assert after < 0.9 * before
    if issubclass(system, PCB):  # at first every stripe guesses one of four people
        identity = make(system).loss(batch)["identity"].item()
        assert identity == pytest.approx(6 * np.log(4), rel=0.01)


@pytest.mark.parametrize("system", HEADS)
@pytest.mark.parametrize("value", [0, 1.5, "6", True])
def test_bad_sizes(make, system, value):
    for name in ("stripes", "width") if system is not SCPNet else ("stripes",):
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            make(system, **{name: value})


@pytest.mark.parametrize("system", HEADS)
def test_shapes_and_a_picture_alone(make, system):
    encoder, images = make(system), toy_batch().images
    encoder(images)  # statistics of normalisation
    encoder.eval()
    with torch.no_grad():
        found, alone = encoder(images), encoder(images[3:4])
    assert found.maps.shape == (16, 8, 8, 4)
    assert found.visibility is None
    assert (found.features is None) == (system not in WIDTHS) == encoder.pairwise
    assert (found.parts is None) == (system not in PARTS)
    if system in WIDTHS:
        assert found.features.shape == (16, WIDTHS[system])
    if system in PARTS:
        assert found.parts.shape == (16, PARTS[system], 8)
    for together, one in zip(found, alone, strict=True):
        if together is not None:
            equal(together[3:4], one, 1e-5, 1e-6)


@pytest.mark.parametrize("system", [PCB, ICNN])
@pytest.mark.parametrize("height", [24, 26])
def test_parts_of_pcb(system, height):
    """Six rows of a map of 26 are shared by two stripes: adaptive pooling, not windows."""
    arrays = load("pooling", "pcb")
    maps = arrays[f"map_h{height}"]
    encoder = on_maps(system, maps)
    found = encoder(maps)
    equal(found.parts.mT, arrays[f"adaptive_mean_h{height}"])
    rows = found.features[:, -60:].unflatten(1, (6, 10)).mT.flatten(1)
    equal(rows / 6**0.5, arrays[f"adaptive_descriptor_h{height}"])
    if system is ICNN:
        whole = encoder.embed(maps.mean((2, 3)))
        equal(found.features[:, :-60], functional.normalize(whole).detach())


def test_parts_of_rpp():
    arrays = load("pooling", "rpp")
    maps = arrays["feature_map"]
    encoder = on_maps(RPP, maps)
    encoder.stage = "stripes"
    equal(encoder(maps).parts, on_maps(PCB, maps)(maps).parts.detach())
    encoder.stage = None
    # the released classifier sees means of eight channels
    given = load("rpp", "rpp")
    weight = given["classifier_weight"].repeat_interleave(8, 1) / 8
    encoder.assign.load_state_dict({"weight": weight[:, :, None, None], "bias": given["classifier_bias"]})
    found = encoder(maps)
    equal(found.parts, arrays["parts_before_norm"])
    equal(found.features.unflatten(1, (6, 32)), arrays["parts_unit"])


def test_stages_of_rpp(make):
    """PCB; then the classifier of locations alone, against what PCB has learnt; then all."""
    encoder, batch = make(RPP), toy_batch()
    whole = HEADS[RPP] | trunk_of(encoder)
    alone = HEADS[RPP] - (HEADS[PCB])
    expected = {"stripes": whole - alone, "induction": alone, "refined": whole}
    for stage in encoder.stages():
        encoder.stage = stage.name
        names = {name for name, _ in encoder.named_parameters() if name.startswith(stage.trains)}
        assert names == expected[stage.name]
        assert names <= learning(encoder, batch)
        parameters = [one for name, one in encoder.named_parameters() if name in names]
        before, after = losses(encoder, batch, parameters=parameters, rate=0.1)
        assert after < before
    assert [stage.name for stage in encoder.stages()] == list(expected)
    encoder.stage = None
    found = encoder.eval()(batch.images).parts.detach()
    encoder.stage = "refined"
    equal(encoder(batch.images).parts, found)
    encoder.stage = "stripes"
    assert (encoder(batch.images).parts - found).abs().max() > 1e-3


def test_features_of_alignedreid():
    arrays = load("further", "aligned")
    maps = arrays["feature_map"]
    found = on_maps(AlignedReID, maps)(maps)
    equal(found.features, functional.normalize(arrays["global_feature"]))
    equal(functional.normalize(found.parts, dim=2).mT, arrays["local_feature"])


def test_alignment_within_a_batch():
    arrays = load("further", "stripes")
    local, n = arrays["local"], int(arrays["n_query"])
    found = align(local)
    equal(found[:n, n:], arrays["dmli_huang"])
    equal(found, aligned_distances(local, local), atol=1e-5)  # equal stripes are 1e-6 apart
    stripes = torch.randn(3, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    other = ~torch.eye(3, dtype=torch.bool)
    assert torch.autograd.gradcheck(lambda rows: align(rows)[other], stripes)


def test_alignedreid_mines_by_the_global_distance():
    maps = torch.rand(12, 8, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(3).repeat_interleave(4)
    torch.manual_seed(0)
    encoder = on_maps(AlignedReID, maps)
    local = functional.normalize(encoder.reduce(encoder.norm(maps).amax(3).mT), dim=2).detach()
    whole, aligned = torch.cdist(maps.mean((2, 3)), maps.mean((2, 3))), aligned_distances(local, local)

    def mean(distances, mined_by):
        same = ids[:, None] == ids
        far = mined_by.masked_fill(~same, -1).argmax(1)
        near = mined_by.masked_fill(same, 99).argmin(1)
        rows = torch.arange(12)
        return functional.relu(distances[rows, far] - distances[rows, near] + 0.3).mean()

    found = encoder.loss(Batch(maps, ids))
    equal(found["triplet"], mean(whole, whole))
    equal(found["local"], mean(aligned, whole), 1e-5)
    assert abs(mean(aligned, aligned) - mean(aligned, whole)) > 0.01


@pytest.mark.parametrize("system", [AlignedReID, ICNN, SCPNet, GatedLSTM])
def test_triplets_need_somebody_else(make, system):
    batch = toy_batch()
    with pytest.raises(ValueError, match="ids must hold at least two identities"):
        make(system).loss(batch._replace(ids=torch.zeros_like(batch.ids)))


def test_icnn_has_a_global_branch(make):
    encoder, batch = make(ICNN), toy_batch()
    whole = encoder.embed(encoder.trunk(batch.images).mean((2, 3)))
    same = batch.ids[:, None] == batch.ids
    distances = torch.cdist(whole, whole)
    far, near = distances.masked_fill(~same, 0).amax(1), distances.masked_fill(same, 99).amin(1)
    found = encoder.loss(batch)
    equal(found["triplet"], functional.relu(far - near + 0.3).mean().detach(), 1e-4)
    found["triplet"].backward()
    assert encoder.embed.weight.grad.abs().max() > 0
    assert all(one.grad is None for one in encoder.classify.parameters())


def test_scpnet_teaches_channels_by_stripes():
    maps = torch.rand(4, 8, 8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batch = Batch(maps, torch.tensor([0, 0, 1, 1]))
    encoder = on_maps(SCPNet, maps)
    groups = encoder(maps).features.unflatten(1, (4, 8))
    stripes = maps.unflatten(2, (4, 2)).mean((3, 4)).mT
    found = encoder.loss(batch)["pull"]
    equal(found, 10 * sum(functional.mse_loss(groups[:, i], stripes[:, i]) for i in range(4)).detach())
    # Where channels do not hang on the map, nothing is left that learns: stripes teach only.
    nn.init.zeros_(encoder.expand[0].weight)
    encoder.loss(batch)["pull"].backward()
    assert maps.grad.abs().max() == 0
    assert encoder.expand[1].bias.grad.abs().max() > 0


def test_the_gate_compares_stripes(make):
    encoder = make(GatedLSTM).double().eval()
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(5, 8, 8, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    nn.init.normal_(encoder.summarize.weight, std=2.0)
    a, b = (maps.mean(3).mT for maps in (first, second))  # a row of the map is a stripe here
    gates = torch.exp(-(((a - b) @ encoder.summarize.weight.T) ** 2) / encoder.spread**2)
    assert gates.min() < 0.2
    ends = [
        functional.normalize(encoder.read(functional.normalize(rows * (1 + gates), dim=2))[0].flatten(1))
        for rows in (a, b)
    ]
    found = encoder.compare(first, second)
    equal(found, (ends[0] - ends[1]).norm(dim=1).detach())
    equal(encoder.compare(second, first), found.detach())
    equal(encoder.compare(first[3:4], second[3:4]), found[3:4].detach())
    assert encoder.compare(first, first).max() < 1e-5
    open_gates = [
        functional.normalize(encoder.read(functional.normalize(rows, dim=2))[0].flatten(1)) for rows in (a, b)
    ]
    assert (found - (open_gates[0] - open_gates[1]).norm(dim=1)).abs().min() > 1e-4


def test_the_contrastive_loss(make):
    """The hardest two pairs of each picture: the same person together, another at least 1 apart."""
    encoder, batch = make(GatedLSTM).double().eval(), toy_batch(2, 2)
    batch = Batch(batch.images.double(), batch.ids)
    maps = encoder(batch.images).maps
    means = maps.mean((2, 3))
    expected = []
    for i, own in enumerate([1, 0, 3, 2]):
        rest = [j for j in range(4) if batch.ids[j] != batch.ids[i]]
        near = min(rest, key=lambda j: (means[i] - means[j]).norm().item())
        pairs = [encoder.compare(maps[i : i + 1], maps[j : j + 1]) for j in (own, near)]
        expected.append(pairs[0] ** 2 + max(0, 1 - pairs[1].item()) ** 2)
    equal(total(encoder, batch), torch.cat(expected).mean().detach())
