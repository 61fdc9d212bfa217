"""The systems that know joints or masks: golden numbers through them, what trains, what is not there."""

import numpy as np
import pytest
import torch
from support.golden import GOLDEN
from torch import nn
from torch.nn import functional

from pose2id.encoders import (
    GLAD,
    PABP,
    PDC,
    PIE,
    Batch,
    EncoderSettings,
    Spindle,
    SPReID,
    Trunk,
    load_encoder,
    make_encoder,
    save_encoder,
    train_encoder,
)
from pose2id.encoders.pose import pdc, pie, spindle
from pose2id.encoders.pose.joints import draw_heatmaps
from pose2id.encoders.pose.warps import Piece, warp_pieces
from pose2id.parts import part_boxes
from pose2id.poses import representative_poses

HEIGHT, WIDTH, PEOPLE = 32, 16, 4
SIZES = {
    Spindle: {"size": 16, "bins": [2, 2]},
    GLAD: {"size": 6},
    PABP: {"appearance": 6, "pose": 5},
    PDC: {"hidden": 2},
    PIE: {"size": 6},
    SPReID: {"groups": [[1], [2, 3]]},
}
BY_JOINTS = [system for system in SIZES if system is not SPReID]
every = pytest.mark.parametrize("system", SIZES, ids=lambda system: system.__name__)
by_joints = pytest.mark.parametrize("system", BY_JOINTS, ids=lambda system: system.__name__)


@pytest.fixture(scope="module")
def numbers():
    with np.load(GOLDEN / "parts" / "pooling.npz") as file:
        return {key: torch.from_numpy(value) for key, value in file.items()}


def equal(found, expected, atol=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def make(system):
    torch.manual_seed(0)
    return system(PEOPLE, Trunk((4, 6, 8)), **SIZES[system])


def people():
    """Two pictures each of four people of different colours in the paper's poses; one sees three joints, one none."""
    torch.manual_seed(1)
    ids = torch.arange(PEOPLE).repeat_interleave(2)
    colors = torch.rand(PEOPLE, 3, 4, 2).repeat_interleave(2, 0)
    images = functional.interpolate(colors, (HEIGHT, WIDTH)) * 2 - 1 + 0.1 * torch.randn(8, 3, HEIGHT, WIDTH)
    points = torch.tensor(np.stack([pose.keypoints for pose in representative_poses()]), dtype=torch.float32)
    keypoints = torch.cat([points * torch.tensor([WIDTH, HEIGHT]), torch.full((8, 18, 1), 0.9)], 2)
    keypoints[6, 3:] = torch.nan
    keypoints[7, :, 2] = 0
    masks = torch.softmax(3 * torch.randn(8, 5, HEIGHT, WIDTH), 1)
    return Batch(images, ids, keypoints, masks)


def encode(encoder, batch):
    return encoder(batch.images, batch.keypoints, batch.masks)


class Constant(nn.Module):
    """Gives the same whatever it is given."""

    channels = 16

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, _):
        return self.value


@every
def test_what_comes_out(system):
    encoder, batch = make(system).eval(), people()
    found = encode(encoder, batch)
    width = {Spindle: 16, GLAD: 24, PABP: 30, PDC: 16, PIE: 6, SPReID: 24}[system]
    parts = {Spindle: (7, 16), GLAD: (3, 6), PABP: (5, 6), SPReID: (2, 8)}.get(system)
    assert found.features.shape == (8, width)
    assert found.maps.shape == (8, 8, 8, 4)
    assert (found.parts is None) if parts is None else (found.parts.shape == (8, *parts))
    if system in (Spindle, GLAD, SPReID):
        assert found.visibility.shape == (8, parts[0])
        assert found.visibility.dtype == torch.bool
        assert found.visibility[0].all()
    else:
        assert found.visibility is None
    with pytest.raises(ValueError, match=rf"{system.__name__} needs (keypoints|masks)"):
        encoder(batch.images)
    with pytest.raises(ValueError, match="needs"):
        encoder.loss(Batch(batch.images, batch.ids))


@every
def test_features_are_of_the_picture_alone(system):
    encoder, batch = make(system), people()
    encoder.loss(batch)  # the running means are then not those of the start
    encoder.eval()
    whole = encode(encoder, batch)
    for row in (0, 6, 7):
        alone = encode(encoder, Batch(*(None if one is None else one[row : row + 1] for one in batch)))
        for one, many in zip(alone, whole, strict=True):
            if many is not None:
                torch.testing.assert_close(one, many[row : row + 1], rtol=1e-4, atol=1e-5)


TRUNK = ["trunk.stem", "trunk.stages"]
TRAINED = {
    Spindle: [*TRUNK, "reduce", "tails", "tree", "join", "classify"],
    GLAD: [*TRUNK, "embed", "classify"],
    PABP: [*TRUNK, "appearance", "pose"],
    PDC: [*TRUNK, "warps", "part_stage", "weight", "bias", "classify", "classify_global", "classify_part"],
    PIE: [*TRUNK, "box_trunk", "fuse", "classify", "classify_picture", "classify_box"],
    SPReID: [*TRUNK, "classify"],
}


@every
def test_what_trains(system):
    """All of these and nothing else; only the shift of a classifier's normalisation stays."""
    encoder = make(system)
    for warp in getattr(encoder, "warps", []):  # from an identity nothing goes on to the layer before
        nn.init.normal_(warp.affine.weight, std=0.01)
    sum(encoder.loss(people()).values()).backward()
    reached = {name for name, one in encoder.named_parameters() if one.grad is not None and bool(one.grad.any())}
    still = {name for name, _ in encoder.named_parameters()} - reached
    assert {name for name in still if not name.endswith("norm.bias")} == set()
    assert {name for name in still if name.split(".")[0] not in ("classify", *TRAINED[system])} == set()
    first = {".".join(name.split(".")[: 2 if name.startswith("trunk") else 1]) for name in reached}
    assert first == set(TRAINED[system])
    assert all(torch.isfinite(one.grad).all() for one in encoder.parameters() if one.grad is not None)


@every
def test_the_loss_falls(system):
    encoder, batch = make(system), people()
    steps = torch.optim.Adam(encoder.parameters(), 0.01)
    losses = []
    for _ in range(8):
        steps.zero_grad()
        total = sum(encoder.loss(batch).values())
        total.backward()
        steps.step()
        losses.append(float(total.detach()))
    assert losses[-1] < 0.8 * losses[0]


@by_joints
def test_pictures_without_joints(system):
    """NaN is the same as a confidence of 0, whatever else stands there; a batch of nobody's joints can be learned."""
    encoder, batch = make(system), people()
    nobody = batch.keypoints.clone()
    nobody[:, :, 2] = 0
    nobody[0, :3] = torch.inf
    nowhere = torch.full_like(nobody, torch.nan)
    first, second = (encoder.loss(batch._replace(keypoints=one)) for one in (nobody, nowhere))
    assert all(torch.isfinite(term) for term in first.values())
    assert first == second
    sum(first.values()).backward()
    assert all(torch.isfinite(one.grad).all() for one in encoder.parameters() if one.grad is not None)
    encoder.eval()
    first, second = (encode(encoder, batch._replace(keypoints=one)) for one in (nobody, nowhere))
    assert torch.isfinite(first.features).all()
    equal(first.features, second.features)
    assert first.features.std(0).max() > 1e-5  # who it is can still be seen
    if first.visibility is not None:
        assert not first.visibility.any()
        assert not first.parts.any()


def test_regions_that_are_seen():
    for system, scheme in ((Spindle, "spindle"), (GLAD, "three")):
        found, batch = encode(make(system).eval(), people()), people()
        expected = part_boxes(batch.keypoints, (HEIGHT, WIDTH), scheme=scheme)[1]
        assert not expected[6:].all()
        assert torch.equal(found.visibility, expected)
        assert torch.equal(found.parts.abs().sum(2) > 0, expected)


@pytest.mark.parametrize("shape", [(8, 17, 3), (8, 18, 2), (18, 3)])
def test_other_joints(shape):
    for system in (PABP, PDC, PIE):
        with pytest.raises(ValueError, match=r"keypoints must have shape \(N, 18, 3\)"):
            make(system)(people().images, torch.zeros(shape))


def with_joints(joints):
    """Golden joints (N, 14, 2), the top of the head for the nose, as 18; the others are not there."""
    joints = torch.cat([joints, torch.ones_like(joints[:, :, :1])], 2)
    return torch.cat([joints, torch.full_like(joints[:, :4], torch.nan)], 1)


def stand_in(encoder, maps):
    encoder.trunk = Constant(maps)
    return encoder.double().eval()


@pytest.mark.parametrize("shape", ["market", "square", "wide"])
def test_spindle_looks_where_the_published_code_does(numbers, shape, monkeypatch):
    """The boxes that the head pools, from golden joints; its large regions and its limbs."""
    asked = []

    def pool_boxes(maps, boxes, extent, **options):
        asked.append((boxes, extent))
        return real(maps, boxes, extent, **options)

    real = spindle.pool_boxes
    monkeypatch.setattr(spindle, "pool_boxes", pool_boxes)
    joints = with_joints(numbers[f"spindle_boxes.{shape}_joints"])
    height, width = numbers[f"spindle_boxes.{shape}_size"].tolist()
    encoder = Spindle(3, Trunk((4, 6, 8))).double().eval()
    encoder(torch.zeros(len(joints), 3, height, width, dtype=torch.float64), joints)
    equal(asked[0][0], numbers[f"spindle_boxes.{shape}_boxes"])
    assert asked[0][1] == (height, width)


def test_spindle_pools_as_caffe(numbers, monkeypatch):
    boxes, pooled = numbers["roi_max_pooling.boxes"], numbers["roi_max_pooling.pooled"]
    maps = numbers["roi_max_pooling.feature_map"].expand(4, -1, -1, -1)
    monkeypatch.setattr(spindle, "part_boxes", lambda *_: (boxes, torch.ones(4, 7, dtype=torch.bool)))
    trunk = Constant(maps)
    trunk.channels = 4
    encoder = Spindle(3, trunk, size=4 * 36, bins=(6, 6)).double().eval()
    encoder.reduce = nn.Identity()
    encoder.tails["whole"] = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten())
    encoder.tails["large"] = encoder.tails["limb"] = nn.Flatten()
    found = encoder(torch.zeros(4, 3, 96, 96), torch.zeros(4, 18, 3))
    equal(found.parts.unflatten(2, (4, 6, 6)), pooled)


def test_the_tree_of_spindle():
    """With layers that add 1, 2, ... the largest way through the tree is known by hand; the joint keeps it apart."""
    encoder = make(Spindle)
    with torch.no_grad():
        for number, layer in enumerate(encoder.tree.values()):  # arms, legs, upper, lower, person
            layer[0].weight.copy_(torch.eye(16))
            layer[0].bias.fill_(10.0**number)
        encoder.join.weight.copy_(torch.cat([torch.eye(16), 2 * torch.eye(16)], 1))
        encoder.join.bias.zero_()
    parts = torch.tensor([[0.0, 5, 3, 7, 4, 0, 1]])[:, :, None].expand(1, 7, 16).clone()
    whole = torch.full((1, 16), 0.5)
    # arms max(7, 4) + 1, legs max(0, 1) + 10, upper max(5, 8) + 100, lower max(3, 11) + 1000, all max(0, 108, 1011)
    equal(encoder.fuse(parts, whole), torch.full((1, 16), 0.5 + 2 * 11011.0))
    parts[0, 0] = 2000
    equal(encoder.fuse(parts, whole), torch.full((1, 16), 0.5 + 2 * 12000.0))
    parts[0, 3] = 5000  # one arm, not the mean of both: 5000 + 1 + 100
    equal(encoder.fuse(parts, whole), torch.full((1, 16), 0.5 + 2 * 15101.0))
    parts[0, 6] = 6000  # one leg: 6000 + 10 + 1000
    equal(encoder.fuse(parts, whole), torch.full((1, 16), 0.5 + 2 * 17010.0))


def test_parts_that_are_hidden_change_nothing_in_the_tree():
    """A region without a joint is the least of all: another limb decides."""
    encoder, batch = make(Spindle).eval(), people()
    keypoints = batch.keypoints.clone()
    keypoints[:, [2, 3, 4]] = torch.nan
    hidden = encode(encoder, batch._replace(keypoints=keypoints))
    assert not hidden.visibility[:, 3].any()
    parts = hidden.parts.clone()
    parts[:, 3] = parts[:, 4]  # both arms alike
    whole = encoder.tails["whole"](encoder.reduce(hidden.maps))
    expected = functional.normalize(encoder.classify.norm(encoder.fuse(parts, whole)))
    equal(hidden.features, expected, 1e-6)
    equal(hidden.features.norm(dim=1), torch.ones(8), 1e-6)


def test_pdc_fuses_as_published(numbers):
    names = ("global_feature", "part_feature", "weight", "bias", "fused")
    whole, part, weight, bias, fused = (numbers[f"pdc_fusion.{name}"] for name in names)
    encoder = PDC(3, Trunk((4, 6, 16))).double().eval()
    encoder.trunk.stages[-1] = Constant(whole[:, :, None, None])
    encoder.part_stage = Constant(part[:, :, None, None])
    encoder.weight, encoder.bias = nn.Parameter(weight), nn.Parameter(bias)
    encoder.classify.norm = nn.Identity()
    equal(encoder(torch.zeros(4, 3, 16, 8).double(), torch.zeros(4, 18, 3)).features, fused)


def test_nothing_moves_at_the_start_of_pdc():
    """Each part's network leaves it where it is, until it has learned; then it moves it."""
    encoder, batch = make(PDC), people()
    pieces = tuple(pdc.PIECES.values())
    plain, seen = warp_pieces(batch.images, batch.keypoints, pieces)
    assert seen[:6].all()
    assert not seen[7].any()
    assert not plain[7].any()
    warped, _ = warp_pieces(batch.images, batch.keypoints, pieces, list(encoder.warps))
    equal(warped, plain, 1e-5)
    with torch.no_grad():
        encoder.warps[0].affine.bias[2] += 0.5
    warped, _ = warp_pieces(batch.images, batch.keypoints, pieces, list(encoder.warps))
    changed = (warped - plain).abs().amax((0, 1)) > 1e-3
    assert changed[:8, 4:12].any()  # the head's place
    assert not changed[8:].any()


def test_branches_of_pdc_share_the_lower_layers():
    """Both take the whole trunk but its last stage; they differ in the last one."""
    encoder, batch = make(PDC), people()
    encoder.loss(batch)["identity, part"].backward()
    assert encoder.trunk.stem[0].weight.grad.any()
    assert all(one.grad is None for one in encoder.trunk.stages[-1].parameters())
    assert encoder.part_stage.body[0].weight.grad.any()


def test_glad_is_the_whole_picture_and_three_boxes():
    encoder, batch = make(GLAD).eval(), people()
    found = encode(encoder, batch)
    whole = encoder.classify[0].norm(encoder.embed[0](found.maps.mean((2, 3))))
    equal(found.features, torch.cat([whole, found.parts.flatten(1)], 1), 1e-6)
    assert list(encoder.loss(batch)) == [f"identity, {name}" for name in ("whole", "head", "upper body", "lower body")]
    # pictures that hide a box do not count for it, and the whole picture always does
    hidden = batch.keypoints.clone()
    hidden[2:, [8, 9, 10, 11, 12, 13]] = torch.nan
    encoder.train()  # at the start all that is hidden would score 0
    first, second = (encoder.loss(batch._replace(keypoints=hidden, ids=ids)) for ids in (batch.ids, batch.ids * 0))
    assert first["identity, lower body"] == second["identity, lower body"]
    assert first["identity, whole"] != second["identity, whole"]


def test_pabp_is_the_published_product(numbers):
    encoder = PABP(3, Trunk((4, 6, 12)))
    encoder.appearance, encoder.pose = nn.Identity(), Constant(numbers["pabp.pose"])
    stand_in(encoder, numbers["pabp.appearance"])
    found = encoder(torch.zeros(3, 3, 32, 16), torch.zeros(3, 18, 3))
    equal(found.features, numbers["pabp.bilinear_unit"])
    equal(found.parts.flatten(1), numbers["pabp.bilinear_unit"])


def test_maps_of_joints():
    keypoints = torch.zeros(2, 18, 3)
    keypoints[0, 4] = torch.tensor([10.0, 18.0, 0.5])  # the middle of location (4, 2) of 4 x 4 pixels
    keypoints[0, 5] = torch.tensor([torch.nan, 18.0, 0.5])
    maps = draw_heatmaps(keypoints, (64, 32), (16, 8))
    assert maps.shape == (2, 19, 16, 8)
    equal(maps[:, 18], 1 - maps[:, :18].amax(1))
    maps = maps[:, :18]
    assert (maps.flatten(2).amax(2) > 0).nonzero().tolist() == [[0, 4]]
    equal(maps[0, 4, 4, 2], torch.tensor(0.5))
    equal(maps[0, 4, 4, 3], 0.5 * torch.exp(torch.tensor(-0.5)), 1e-6)
    equal(maps[0, 4, 6, 3], 0.5 * torch.exp(torch.tensor(-2.5)), 1e-6)


def test_pieces_are_turned_upright():
    """A bone that points right is cut with its start on top, what was above it on the right: turned, not mirrored."""
    rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    images = torch.stack([columns, rows, torch.ones_like(rows)])[None].float()
    keypoints = torch.zeros(1, 18, 3)
    keypoints[0, 2], keypoints[0, 3] = torch.tensor([8.0, 30.0, 1]), torch.tensor([24.0, 30.0, 1])
    piece = Piece((2,), (3,), 0.0, 4 / 64, (4, 8), (2, 4))
    found, seen = warp_pieces(images, keypoints, [piece])
    assert seen.tolist() == [[True]]
    cut = found[0, :, 16:32, 8:16]  # 16 x 8 pixels: the bone's own size
    equal(cut[0], (8.5 + torch.arange(16.0))[:, None].expand(16, 8), 1e-3)
    equal(cut[1], (33.5 - torch.arange(8.0)).expand(16, 8), 1e-3)
    assert found.sum() == pytest.approx(float(cut.sum()))
    keypoints[0, 3, 2] = 0  # one end: upright around the other
    lone, seen = warp_pieces(images, keypoints, [piece._replace(longer=0.125)])
    assert seen.all()
    equal(lone[0, 1, 16:32, 8], 22.5 + torch.arange(16.0), 1e-3)
    equal(lone[0, 0, 16, 8:16], 4.5 + torch.arange(8.0), 1e-3)
    keypoints[0, 2, 2] = 0.3  # not sure enough, as in part_boxes
    lone, seen = warp_pieces(images, keypoints, [piece])
    assert not seen.any()
    assert not lone.any()


@pytest.mark.parametrize("pieces", [pdc.PIECES, pie.PIECES], ids=["PDC", "PIE"])
def test_places_of_pieces_do_not_overlap(pieces):
    covered = torch.zeros(16, 8, dtype=torch.int64)
    for piece in pieces.values():
        covered[slice(*piece.rows), slice(*piece.columns)] += 1
    assert covered.max() == 1


def test_pie_knows_how_sure_the_pose_is():
    """The same joints, less sure of themselves: the same PoseBox, another feature; of the 14 first ones only."""
    encoder, batch = make(PIE).eval(), people()
    less = batch.keypoints.clone()
    less[:, :14, 2] *= 0.5
    boxes = [warp_pieces(batch.images, one, tuple(pie.PIECES.values()))[0] for one in (batch.keypoints, less)]
    equal(*boxes)
    first, second = (encode(encoder, batch._replace(keypoints=one)).features for one in (batch.keypoints, less))
    assert ((first - second).abs().amax(1) > 1e-4).tolist() == 7 * [True] + [False]
    less = batch.keypoints.clone()
    less[:, 14:, 2] *= 0.5
    equal(encode(encoder, batch._replace(keypoints=less)).features, first)


LIP = ((1, 2, 4, 13), (3, 5, 6, 7, 10, 11, 14, 15), (9, 12, 16, 17), (8, 18, 19))


def test_spreid_is_the_published_descriptor(numbers):
    """Classes of one pixel each in LIP's order: regions are joined from them by the head."""
    regions = numbers["spreid.region_probabilities"]
    classes = torch.zeros(3, 20, *regions.shape[2:], dtype=torch.float64)
    classes[:, 0] = 1 - regions[:, 0]
    for group, region in zip(LIP, regions[:, 1:].unbind(1), strict=True):
        classes[:, list(group)] = region[:, None] / len(group)
    encoder = stand_in(SPReID(3, Trunk((4, 6, 6)), groups=LIP), numbers["spreid.feature_map"])
    encoder.classify.norm = nn.Identity()
    found = encoder(torch.zeros(3, 3, 32, 16), masks=classes)
    equal(found.features, numbers["spreid.descriptor"])
    equal(found.parts, numbers["spreid.region_features"][:, 1:])


@pytest.mark.parametrize("size", [(32, 16), (8, 4), (5, 3)])
def test_maps_are_resized_to_the_masks(size):
    """The short way equals the paper's: maps enlarged, then pooled under the masks."""
    encoder, batch = make(SPReID).double().eval(), people()
    masks = functional.interpolate(batch.masks.double(), size, mode="bilinear", align_corners=True)
    encoder.classify.norm = nn.Identity()
    found = encoder(batch.images.double(), masks=masks)
    large = functional.interpolate(found.maps, size, mode="bilinear", align_corners=True)
    regions = torch.stack([1 - masks[:, 0], masks[:, 1], masks[:, 2] + masks[:, 3]], 1)
    means = torch.einsum("nphw,nchw->npc", regions, large) / regions.sum((2, 3))[:, :, None]
    expected = torch.cat([means[:, 0], means[:, 1:].amax(1), found.maps.mean((2, 3))], 1)
    equal(found.features, expected)


def test_parts_that_masks_show():
    encoder, batch = make(SPReID).eval(), people()
    labels = torch.zeros(8, HEIGHT, WIDTH, dtype=torch.int64)
    labels[1, 0, 0], labels[2, 3:5], labels[3] = 1, 3, 4  # a head; arms; a bag, that is of no group
    masks = functional.one_hot(labels, 5).permute(0, 3, 1, 2).float()
    found = encode(encoder, batch._replace(masks=masks))
    assert found.visibility.tolist()[:4] == [[False, False], [True, False], [False, True], [False, False]]
    assert torch.equal(found.parts.abs().sum(2) > 0, found.visibility)
    assert torch.isfinite(found.features).all()
    whole = found.maps[3].mean((1, 2))
    assert found.features.shape == (8, 24)
    assert not torch.allclose(found.features[3, :8], found.features[0, :8])  # the bag is of the foreground
    norm = encoder.classify.norm
    expected = (found.features[3, 16:] - norm.bias[16:]) / norm.weight[16:] * (norm.running_var[16:] + norm.eps).sqrt()
    torch.testing.assert_close(expected + norm.running_mean[16:], whole)


@pytest.mark.parametrize("groups", [[], [[1], []], [[0]]])
def test_groups_of_nothing(groups):
    with pytest.raises(ValueError, match=r"groups must be|channel of groups must"):
        SPReID(3, Trunk((4, 6, 8)), groups=groups)


def test_masks_without_a_part_of_the_groups():
    encoder, batch = SPReID(3, Trunk((4, 6, 8)), groups=[[1], [5]]), people()
    with pytest.raises(ValueError, match="parts 1 to 5, the last of groups, received 5 channels"):
        encode(encoder, batch)


@every
def test_all_of_a_trunk_starts_from_a_trained_one(system):
    """Also the copies of it that some systems have."""
    encoder, trained = make(system), Trunk((4, 6, 8))
    encoder.start_from(trained)
    start, found = trained.state_dict(), encoder.state_dict()
    places = {"trunk.": "", "box_trunk.": "", "part_stage.": "stages.2."}
    compared = 0
    for name, value in found.items():
        for place, source in places.items():
            if name.startswith(place):
                assert torch.equal(value, start[source + name.removeprefix(place)])
                compared += 1
    assert compared == len(start) * (2 if system is PIE else 1) + (system is PDC) * sum(
        "stages.2." in one for one in start
    )


@pytest.mark.parametrize("name", ["pdc", "pie"])
def test_the_trainer_starts_copies_of_a_trunk_too(name, tmp_path):
    pytest.importorskip("safetensors")
    pytest.importorskip("filelock")
    begin = save_encoder(make_encoder("global", 2, channels=(4, 6, 8)), tmp_path / "begin")
    settings = EncoderSettings(steps=1, identities=2, warmup=0, workers=0, learning_rate=0, weight_decay=0)
    people = {"images": np.zeros((4, 16, 8, 3), dtype=np.uint8), "ids": [0, 0, 1, 1]}
    known = {"keypoints": list(representative_poses()[:4]), "channels": (4, 6, 8), "trunk": begin}
    trained = train_encoder(name, output=tmp_path / "run", settings=settings, progress=False, **people, **known)
    copied = trained.part_stage if name == "pdc" else trained.box_trunk.stages[-1]
    assert torch.equal(copied.body[0].weight, load_encoder(begin).trunk.stages[-1].body[0].weight)
