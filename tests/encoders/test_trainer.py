"""The trainer of encoders: batches by value, stages, the same bytes twice, after a kill at any moment too."""

import json
import os
import shutil
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("safetensors")
pytest.importorskip("filelock")
from safetensors.torch import load_file
from support.killing import Moments, fork

from pose2id.encoders import (
    SYSTEMS,
    Encoded,
    Encoder,
    EncoderSettings,
    Stage,
    encode_images,
    load_encoder,
    make_encoder,
    save_encoder,
    systems,
    train_encoder,
    training,
)
from pose2id.encoders.losses import Classifier, identity_loss
from pose2id.encoders.pictures import Pictures, mirror_names
from pose2id.encoders.recipe import plan_stages
from pose2id.errors import MissingExtraError
from pose2id.poses import KEYPOINTS, Pose
from pose2id.training import reports
from pose2id.training.reports import LossLog

SETTINGS = EncoderSettings(steps=6, identities=3, shots=2, save_every=2, keep=1, warmup=0, workers=1)
CHANNELS = (8, 8, 16)


class Staged(Encoder):
    """A system of three stages, with dropout."""

    needs = frozenset({"masks"})

    def __init__(self, classes, trunk, *, width=8):
        super().__init__(classes, trunk)
        self.reduce = torch.nn.Conv2d(trunk.channels, width, 1)
        self.norm = torch.nn.BatchNorm2d(width)
        self.classify = Classifier(width, classes)
        self.seen = []

    def stages(self):
        return (Stage("whole", 3), Stage("head", 2, ("reduce", "norm"), rate=0.5), Stage("end", 1))

    def forward(self, images, *_):
        maps = self.norm(self.reduce(self.trunk(images)))
        return Encoded(features=torch.dropout(maps.mean((2, 3)), 0.3, self.training))

    def loss(self, batch):
        self.seen.append(self.stage)
        return {"identity": identity_loss(self.classify(self(batch.images).features), batch.ids)}


@pytest.fixture(autouse=True)
def staged(monkeypatch):
    monkeypatch.setitem(systems.SYSTEMS, "staged", Staged)


def make_arrays(seed=0, people=4, each=3, size=(16, 16)):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (people * each, *size, 3), dtype=np.uint8)
    masks = rng.integers(0, 4, (len(images), *size), dtype=np.uint8)
    return {
        "images": images,
        "ids": [f"person {number // each}" for number in range(len(images))],
        "masks": masks,
        "part_names": ("head", "left arm", "right arm"),
    }


def fit(folder, settings=SETTINGS, system="staged", **options):
    given = {"channels": CHANNELS, "progress": False, **make_arrays(), **options}
    return train_encoder(system, output=folder, settings=settings, **given)


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".pose2id.lock"
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(systems.SYSTEMS, "staged", Staged)
        encoder = fit(folder)
    return folder, encoder


# ---------------------------------------------------------------------------------------------------------------------
# What is learnt from


def test_a_mirror_changes_left_and_right():
    assert mirror_names(("head", "Right arm", "Left arm", "left leg")).tolist() == [0, 2, 1, 3]
    assert mirror_names(KEYPOINTS).tolist() == [0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16]


def make_pictures():
    """A picture, its left arm at the left of it, where the person's left wrist is."""
    points = np.full((2, 18, 2), np.nan)
    points[0, KEYPOINTS.index("left_wrist")] = 0.25, 0.5
    points[0, KEYPOINTS.index("nose")] = 0.5, 0.125
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, 4, :3] = 2
    images = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3)
    return Pictures(images, [0, 1], points, masks, ("head", "left arm", "right arm"), [[0, 1], [1, -1]])


def test_a_batch_as_it_is():
    pictures = make_pictures()
    batch = pictures.take(slice(0, 1))
    assert batch.images.shape == (1, 3, 8, 8)
    assert batch.images[0, 1, 2, 3].item() == pytest.approx(pictures.images[0, 2, 3, 1] / 127.5 - 1)
    wrist, nose = KEYPOINTS.index("left_wrist"), KEYPOINTS.index("nose")
    assert batch.keypoints[0, [wrist, nose]].tolist() == [[2, 4, 1], [4, 1, 1]]
    assert batch.keypoints.isfinite().all()
    assert batch.keypoints[0, :, 2].sum() == 2
    assert batch.masks.shape == (1, 4, 8, 8)
    assert (batch.masks.sum(1) == 1).all()
    assert batch.masks[0, 2, 4].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    assert batch.attributes.tolist() == [[0, 1]]


def test_all_is_mirrored():
    pictures = make_pictures()
    before = pictures.images.copy(), pictures.keypoints.copy(), pictures.masks.copy()
    batch = pictures.draw(np.random.default_rng(0), identities=2, shots=1, flip=1, erase=0)
    row = batch.ids.tolist().index(0)
    assert torch.equal(batch.images[row], pictures.take(slice(0, 1)).images[0].flip(2))
    wrist, nose = KEYPOINTS.index("right_wrist"), KEYPOINTS.index("nose")
    assert batch.keypoints[row, [wrist, nose]].tolist() == [[6, 4, 1], [4, 1, 1]]
    assert batch.keypoints[row, :, 2].sum() == 2
    assert batch.masks[row, 3, 4].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]
    assert batch.masks[row, 2].sum() == 0
    for now, then in zip((pictures.images, pictures.keypoints, pictures.masks), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_what_is_erased_is_hidden():
    """Pixels that changed are background, and no keypoint lies there; all else is as before."""
    size = 40, 20
    grid = np.stack(np.meshgrid((np.arange(6) + 0.5) / 6, (np.arange(3) + 0.5) / 3), 2).reshape(1, 18, 2)
    images, masks = np.zeros((1, *size, 3), np.uint8), np.ones((1, *size), np.uint8)
    pictures = Pictures(images, [0], grid, masks, ("body",))
    shares = []
    for seed in range(20):
        batch = pictures.draw(np.random.default_rng(seed), identities=1, shots=1, flip=0, erase=1)
        hidden = batch.masks[0, 0] == 1
        rows, columns = torch.nonzero(hidden.any(1)).flatten(), torch.nonzero(hidden.any(0)).flatten()
        assert hidden[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert (batch.images[0][:, ~hidden] == -1).all()
        assert (batch.images[0][:, hidden] != -1).float().mean() > 0.95
        x, y, there = batch.keypoints[0].T
        inside = hidden[(grid[0, :, 1] * size[0]).astype(int), (grid[0, :, 0] * size[1]).astype(int)]
        assert torch.equal(there == 0, inside)
        assert (x[inside] == 0).all()
        assert (y[inside] == 0).all()
        shares.append(hidden.float().mean().item())
    assert 0.01 < min(shares) < max(shares) < 0.45


def test_some_pictures_of_some_people():
    rng = np.random.default_rng(0)
    ids = np.repeat([7, 3, 5, 4], [1, 2, 5, 4])
    images = np.arange(12, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    pictures = Pictures(images, ids)
    for _ in range(20):
        batch = pictures.draw(rng, identities=3, shots=4, flip=0.5, erase=0)
        classes = batch.ids.tolist()
        assert classes == [each for each in classes[::4] for _ in range(4)]
        assert len(set(classes)) == 3
        rows = ((batch.images[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()
        assert [np.unique(ids).tolist().index(ids[row]) for row in rows] == classes
        for person in set(classes):
            drawn = {row for row, who in zip(rows, classes, strict=True) if who == person}
            assert len(drawn) == 4 or len(pictures.people[person]) < 4


def test_poses_are_keypoints():
    points = np.full((18, 2), np.nan)
    points[0] = 0.25, 0.75
    pictures = Pictures(np.zeros((2, 4, 8, 3), np.uint8), [0, 1], keypoints=[Pose(points), None])
    assert pictures.take(slice(0, 2)).keypoints[:, 0].tolist() == [[2, 3, 1], [0, 0, 0]]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            {"images": np.zeros((12, 16, 16, 3))},
            ValueError,
            r"images must be .*, received float64 of \(12, 16, 16, 3\)",
        ),
        ({"images": [1]}, ValueError, "received list"),
        ({"ids": [1, 2]}, ValueError, "ids"),
        ({"ids": [1] * 12}, ValueError, "ids must hold at least two identities, received 1"),
        (
            {"masks": np.zeros((12, 16, 8), np.uint8)},
            ValueError,
            r"masks must be an array of uint8 of shape \(12, 16, 16\)",
        ),
        ({"masks": np.zeros((12, 16, 16))}, ValueError, "masks must be .* received float64"),
        ({"masks": None}, ValueError, "system staged needs masks of every picture; give them, or train another system"),
        ({"masks": None, "attributes": [[1]] * 12}, ValueError, "needs masks of every picture; given are attributes"),
        ({"part_names": ()}, ValueError, "part_names must name each part"),
        ({"part_names": ("a", "a", "b")}, ValueError, "part_names must name each part of the masks once"),
        ({"part_names": ("a",)}, ValueError, "masks hold part 3, part_names are of 1"),
        ({"keypoints": np.zeros((12, 18, 3))}, ValueError, r"keypoints must be floats \(N, 18, 2\)"),
        ({"keypoints": np.full((12, 18, 2), 30.0)}, ValueError, "fractions of the picture, received 30"),
        ({"attributes": [1] * 12}, ValueError, r"attributes must be classes \(N, A\)"),
        ({"attributes": [[-2]] * 12}, ValueError, "attributes must be classes"),
        ({"attributes": [[0.5]] * 12}, ValueError, "attributes must be classes"),
        ({"system": "pbc"}, ValueError, "system must be one of"),
        ({"sizes": {"widht": 3}}, TypeError, "sizes of staged do not fit"),
        ({"trunk": "nowhere"}, FileNotFoundError, "nowhere is not a folder"),
        ({"settings": EncoderSettings(steps=2)}, ValueError, "steps must be at least 3, the stages of this system"),
    ],
)
def test_what_cannot_be_trained(tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        fit(tmp_path / "run", **change)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be"),
        ({"shots": 1}, ValueError, "shots must be"),
        ({"flip": 1.5}, ValueError, "flip must be"),
        ({"seed": True}, TypeError, "seed must be"),
        ({"learning_rate": "fast"}, TypeError, "learning_rate must be"),
        ({"tensorboard": 1}, TypeError, "tensorboard must be"),
    ],
)
def test_wrong_settings(change, error, words):
    with pytest.raises((error, ValueError), match=words):
        EncoderSettings(**change)


# ---------------------------------------------------------------------------------------------------------------------
# The run


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_is_trained_and_comes_back(tmp_path, system):
    """What the table names can be trained, saved and loaded, and makes the same of a picture then."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 64, 32, 3), dtype=np.uint8)
    known = {
        "keypoints": rng.random((4, 18, 2)),
        "masks": rng.integers(0, 8, (4, 64, 32), dtype=np.uint8),
        "part_names": ("head", "torso", "right arm", "left arm", "legs", "feet", "bag"),
        "attributes": rng.integers(0, 2, (4, 3)),
    }
    known["keypoints"][1] = np.nan  # nobody is seen
    stages = len(make_encoder(system, 2, sizes={"attributes": [2] * 3} if system == "apr" else {}).stages())
    settings = EncoderSettings(steps=stages, identities=2, shots=2, workers=0)
    trained = train_encoder(system, images, [0, 0, 1, 1], tmp_path, settings, progress=False, **known)
    given = {name: known[name] for name in trained.needs - {"attributes"}}
    one, other = (
        encode_images(each, images, maps=True, **given) for each in (trained, load_encoder(tmp_path / "encoder"))
    )
    for name, value in one._asdict().items():
        assert (value is None) == (getattr(other, name) is None), name
        if value is not None:
            assert torch.equal(value, getattr(other, name)), name
            assert value.isfinite().all(), name
    assert one.maps is not None if trained.pairwise else one.features is not None or one.parts is not None
    none = encode_images(
        trained, images[:0], maps=True, **{k: v if k == "part_names" else v[:0] for k, v in given.items()}
    )
    for name, value in one._asdict().items():
        found = getattr(none, name)
        assert (value is None) == (found is None), name
        assert value is None or found.shape == (0, *value.shape[1:]), name


def test_what_a_run_leaves_behind(whole):
    folder, encoder = whole
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoints", "encoder", "losses.csv", "run.json"]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-000006"]
    lines = (folder / "losses.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", *"123456"]
    held = json.loads((folder / "encoder" / "encoder.json").read_text())
    assert (held["system"], held["classes"], held["image_size"]) == ("staged", 4, [16, 16])
    assert held["part_names"] == ["head", "left arm", "right arm"]
    assert not encoder.training
    assert encoder.stage is None
    assert not any(value.requires_grad for value in encoder.parameters())


def test_the_same_bytes_twice(whole, tmp_path):
    state = torch.random.get_rng_state()
    fit(tmp_path / "run")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()
    assert tree(tmp_path / "run") == tree(whole[0])
    fit(tmp_path / "run", replace(SETTINGS, workers=0, save_every=5))  # which it goes on with, there is nothing to do
    assert tree(tmp_path / "run" / "encoder") == tree(whole[0] / "encoder")
    fit(tmp_path / "other", replace(SETTINGS, seed=1))
    assert tree(tmp_path / "other" / "encoder") != tree(whole[0] / "encoder")


def test_stages_train_their_parameters(tmp_path):
    """With a checkpoint a step: what changed in each stage is what it names, running statistics included."""
    encoder = fit(tmp_path, replace(SETTINGS, save_every=1, keep=10))
    assert encoder.seen == ["whole"] * 3 + ["head"] * 2 + ["end"]
    found = [load_file(path / "model.safetensors") for path in sorted((tmp_path / "checkpoints").iterdir())]
    everything = {name for name in found[0] if name != "classify.norm.bias"}
    for before, after, names in ((1, 2, everything), (2, 4, None), (4, 5, everything)):
        changed = {name for name in found[0] if not torch.equal(found[before][name], found[after][name])}
        assert changed == (names or {name for name in found[0] if name.startswith(("reduce", "norm"))})
    rates = [float(line.split(",")[2]) for line in (tmp_path / "losses.csv").read_text().splitlines()[1:]]
    assert rates == pytest.approx([2e-3, 1.5e-3, 0.5e-3, 1e-3, 0.5e-3, 2e-3])


def test_stages_share_the_steps():
    stages = (Stage("a", 1), Stage("b", 1e-9), Stage("c", 2))
    assert [(part.start, part.end) for part in plan_stages(stages, 30)] == [(0, 10), (10, 11), (11, 30)]
    assert [(part.start, part.end) for part in plan_stages(stages, 3)] == [(0, 1), (1, 2), (2, 3)]
    assert [(part.start, part.end) for part in plan_stages((Stage(),), 5)] == [(0, 5)]


@pytest.mark.skipif(os.name != "posix", reason="needs fork and SIGKILL")
def test_a_run_may_be_killed_at_any_moment(whole, tmp_path, monkeypatch):
    """Before and after a step's line, a checkpoint, the result; what is there in the end is what one run makes."""
    wanted, folder = tree(whole[0]), tmp_path / "run"

    def run(moments):
        monkeypatch.setattr(LossLog, "add", moments.watched(LossLog.add, "a step"))
        monkeypatch.setattr(training, "save", moments.watched(training.save, "a checkpoint"))
        monkeypatch.setattr(training, "save_encoder", moments.watched(training.save_encoder, "the result"))
        fit(folder)

    with monkeypatch.context():
        moments = Moments()
        run(moments)
    monkeypatch.undo()
    monkeypatch.setitem(systems.SYSTEMS, "staged", Staged)
    count = len(moments.seen)
    assert count == 2 * (6 + 5 + 1)  # checkpoints at 2, 4, 6 and the ends of stages, 3 and 5
    for last in (1, 5, 6, 13, 23):
        shutil.rmtree(folder)
        assert fork(lambda last=last: run(Moments(last))) == -signal.SIGKILL
        fit(folder)
        assert tree(folder) == wanted, moments.seen[last - 1]


def test_an_error_in_the_middle_leaves_a_run_to_go_on_with(whole, tmp_path, monkeypatch):
    calls, loss = iter([1, 1, 1, 1, float("nan")]), Staged.loss
    monkeypatch.setattr(Staged, "loss", lambda self, batch: {k: v * next(calls) for k, v in loss(self, batch).items()})
    with pytest.raises(FloatingPointError, match="the gradient is nan at step 5; begin again in another folder"):
        fit(tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setitem(systems.SYSTEMS, "staged", Staged)
    fit(tmp_path / "run")
    assert tree(tmp_path / "run") == tree(whole[0])


def test_another_run_in_the_folder_is_refused(whole, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run")
    for change, words in (
        ({"settings": replace(SETTINGS, learning_rate=1e-3)}, "learning_rate was 0.002, is 0.001"),
        ({"sizes": {"width": 4}}, "sizes was {}, is {'width': 4}"),
        ({"ids": list(range(12))}, "pictures was"),
        ({"masks": make_arrays(1)["masks"]}, "pictures was"),
        ({"trunk": run / "encoder"}, "trunk was None"),
        ({"resume": False}, "holds checkpoints; name another folder, or resume"),
    ):
        with pytest.raises(ValueError, match=words):
            fit(run, **change)
    assert tree(run / "encoder") == tree(whole[0] / "encoder")


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    run = shutil.copytree(whole[0], tmp_path / "run")
    (run / "checkpoints" / "step-000006" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="step-000006 is damaged"):
        fit(run)


def test_a_trunk_to_begin_with(tmp_path):
    """It is taken as it is; a rate of 0 leaves it so but for the running statistics."""
    begin = make_encoder("global", 3, channels=CHANNELS)
    folder = save_encoder(begin, tmp_path / "begin")
    trained = fit(tmp_path / "run", replace(SETTINGS, learning_rate=0, weight_decay=0), trunk=folder)
    for name, value in begin.trunk.named_parameters():
        assert torch.equal(value, trained.trunk.get_parameter(name)), name
    with pytest.raises(ValueError, match=r"has channels \[8, 8, 16\], this encoder \[8, 8, 8\]"):
        fit(tmp_path / "other", trunk=folder, channels=(8, 8, 8))


def test_the_loss_falls(tmp_path):
    """On people that a colour tells apart, at a rate that rises and falls."""
    rng = np.random.default_rng(0)
    images = (rng.integers(0, 60, (16, 16, 16, 3)) + 50 * np.arange(4).repeat(4)[:, None, None, None]).astype(np.uint8)
    settings = EncoderSettings(steps=25, identities=4, shots=3, erase=0)
    fit(tmp_path, settings, "global", images=images, ids=np.arange(4).repeat(4), masks=None)
    losses = [float(line.split(",")[1]) for line in (tmp_path / "losses.csv").read_text().splitlines()[1:]]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    rates = [float(line.split(",")[2]) for line in (tmp_path / "losses.csv").read_text().splitlines()[1:]]
    falling = 1e-3 * (1 + np.cos(np.pi * np.arange(25) / 25))
    assert rates == pytest.approx([falling[0] / 2, *falling[1:]])  # it rises for a tenth of the steps, 2


def test_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(reports, "APART", 0)
    told = []
    fit(tmp_path / "run", report=told.append)
    assert len(told) == 6
    assert told[-1].startswith("step 6 of 6, loss ")


def test_tensorboard_is_asked_for_only_if_wanted(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install.*'pose2id\[train\]'"):
        fit(tmp_path / "run", replace(SETTINGS, tensorboard=True))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("package", ["safetensors", "filelock"])
def test_what_saving_needs_is_asked_for_before_a_step(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"training needs {package}, .*pip install 'pose2id\[ipg\]'"):
        fit(tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("system", ["idla", "personnet"])
def test_layers_that_fit_one_size_take_that_of_the_pictures(tmp_path, system):
    """Of sides that no map divides too; others are refused, and told which it takes."""
    settings = EncoderSettings(steps=1, identities=2, workers=0)
    arrays = {**make_arrays(people=2, size=(30, 17)), "masks": None}
    trained = fit(tmp_path, settings, system, **arrays)
    assert load_encoder(tmp_path / "encoder").sizes == {"size": [30, 17]}
    with pytest.raises(ValueError, match=r"images must be of \(30, 17\), .*, received \(32, 16\)"):
        trained(torch.zeros(1, 3, 32, 16))
    small = {**make_arrays(people=2, size=(16, 12)), "masks": None}
    with pytest.raises(ValueError, match="each of size must be an integer >= 13, received 12"):
        fit(tmp_path / "small", settings, system, **small)
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("counts", [[2, 1], [2], [2, 3, 2]])
def test_attributes_that_a_size_does_not_have(tmp_path, counts):
    given = {
        **make_arrays(people=2),
        "masks": None,
        "attributes": [[0, 1], [1, -1]] * 3,
        "sizes": {"attributes": counts},
    }
    with pytest.raises(ValueError, match=r"attributes must be .* at least \[2, 2\], .* received \[2"):
        fit(tmp_path / "run", system="apr", **given)
    assert not (tmp_path / "run").exists()


def test_narrow_layers_keep_the_usual_layout(tmp_path):
    """Where torch would write beyond its memory in the other one."""
    assert fit(tmp_path, channels=(4, 4, 8)).trunk.widths == (4, 4, 8)


# ---------------------------------------------------------------------------------------------------------------------
# What is made of pictures


def test_pictures_are_encoded_alone(whole):
    """In batches of any size; read-only arrays too."""
    arrays = make_arrays()
    images, masks = arrays["images"], arrays["masks"]
    images.setflags(write=False)
    once = encode_images(whole[1], images, masks=masks)
    twice = encode_images(whole[1], images, masks=masks, batch_size=5)
    assert once.maps is None
    torch.testing.assert_close(once.features, twice.features, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="Staged needs masks of every picture"):
        encode_images(whole[1], images)
    with pytest.raises(ValueError, match=r"images must be of \(16, 16\), .* received \(8, 16\)"):
        encode_images(whole[1], images[:, :8], masks=masks[:, :8])
