"""Training of the generator: its parts against plain float64 versions, its runs killed and resumed."""

import copy
import csv
import json
import math
import os
import re
import shutil
import signal
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from accelerate.state import AcceleratorState
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from reference import ipg as plain
from reference import training as reference
from safetensors.torch import load_file, save_file
from support.golden import GOLDEN
from support.starting import start

from pose2id.atomic import clear_leftovers
from pose2id.errors import MissingExtraError
from pose2id.ipg import IPGPipeline
from pose2id.ipg.inputs import read_pixels
from pose2id.ipg.networks.attention import PoseInput, connect, make_readers
from pose2id.ipg.training import (
    Record,
    Settings,
    copy_denoiser,
    objective,
    read_settings,
    start_from_stable_diffusion,
    train,
)
from pose2id.ipg.training import trainer as training
from pose2id.ipg.training.batches import Batches
from pose2id.ipg.training.initialisation import STABLE_DIFFUSION_REVISION
from pose2id.ipg.training.objective import (
    TRAINED,
    Generator,
    Loss,
    draw_noise,
    loss_weights,
    noisy_and_target,
    unused_parameters,
    weighted_error,
)
from pose2id.ipg.training.recipe import plan_stages
from pose2id.ipg.training.records import find_people
from pose2id.poses import representative_poses
from pose2id.training import checkpoints
from pose2id.training.checkpoints import Checkpoint
from pose2id.training.erasing import erase
from pose2id.training.prefetching import prefetch
from pose2id.training.reports import LossLog

RELEASED = json.loads((GOLDEN / "ipg" / "config.json").read_text())
# Smaller: latents are half the size of pictures, so pictures may be 16 x 8; networks of one level.
CONFIG = copy.deepcopy(RELEASED)
CONFIG["unet"] |= {"down_block_types": ["CrossAttnDownBlock2D"], "up_block_types": ["CrossAttnUpBlock2D"]}
CONFIG["unet"] |= {"block_out_channels": [12]}
CONFIG["vae"] |= {"block_out_channels": [4, 4], "norm_num_groups": 2}
CONFIG["vae"] |= {name: CONFIG["vae"][name][:2] for name in ("down_block_types", "up_block_types")}
CONFIG["pose_guider"] |= {"block_out_channels": [4, 8]}
POSES = representative_poses()
SMALL = Settings(
    steps=6,
    batch_size=2,
    height=16,
    width=8,
    learning_rate=1e-3,
    save_every=2,
    keep=2,
    validate_every=0,
    validation_steps=2,
    workers=0,
)
STAGES = [
    {"steps": 3, "ema": 0.5},
    {"steps": 2, "ema": 0.5, "copy_denoiser": True, "token_drop": 0.5, "gradient_accumulation": 2, "cache": True},
]
FROZEN = ("vae", "identity_encoder")


@pytest.fixture(autouse=True)
def _fresh_accelerate():
    """Accelerate remembers the precision of a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def random_pipe(seed=0):
    return plain.random_pipe(CONFIG, seed)


def make_records():
    rng = np.random.default_rng(5)
    pictures = rng.integers(0, 256, (12, 64, 32, 3), dtype=np.uint8)
    return [Record(picture, f"person {i // 3}", POSES[i % 8]) for i, picture in enumerate(pictures)]


@pytest.fixture(scope="module")
def records():
    return make_records()


def weights(pipe, names=TRAINED):
    return {f"{name}.{key}": value.clone() for name in names for key, value in getattr(pipe, name).state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def losses(folder):
    with Path(folder, "losses.csv").open() as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def fit(folder, records, settings=SMALL, **options):
    return train(random_pipe(), records, folder, settings, progress=False, **options)


# ---------------------------------------------------------------------------------------------------------------------
# What a step computes


@pytest.fixture(scope="module")
def scheduler():
    return DDIMScheduler(**CONFIG["scheduler"])


@pytest.fixture(scope="module")
def alphas():
    return reference.alphas_cumprod(CONFIG["scheduler"])


def test_the_target_is_the_velocity_of_the_rescaled_schedule(scheduler, alphas):
    torch.manual_seed(0)
    steps = torch.tensor([0, 1, 250, 600, 998, 999])
    latents, noise = torch.randn(2, 6, 4, 8, 4).double()
    rows, target = noisy_and_target(scheduler, latents.float(), noise.float(), steps)
    for i, step in enumerate(steps):
        expected = reference.noisy(alphas[step], latents[i], noise[i])
        assert (rows[i] - expected).abs().max() < 2e-5
        assert (target[i] - reference.velocity(alphas[step], latents[i], noise[i])).abs().max() < 2e-5
    assert torch.equal(rows[-1], noise[-1].float())  # no signal at all
    assert torch.equal(target[-1], -latents[-1].float())


def test_min_snr_weights_at_every_timestep(scheduler, alphas):
    found = loss_weights(scheduler, torch.arange(1000), 5.0)
    expected = [reference.min_snr_weight(alpha, 5.0) for alpha in alphas]
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    assert found[999] == 1  # not 0: pictures begin there
    # By hand: the first alpha is 1 - 0.00085, so snr + 1 = 1 / 0.00085, and 5 * 0.00085 is the weight.
    assert found[0].item() == pytest.approx(0.00425, rel=1e-3)
    half = int(np.abs(alphas - 0.9).argmin())  # snr + 1 = 10
    assert found[half].item() == pytest.approx(0.5, rel=2e-2)
    assert torch.equal(loss_weights(scheduler, torch.arange(1000), 0.0), torch.ones(1000))


def test_the_error_is_weighted_by_rows():
    prediction = torch.tensor([[[[1.0]], [[3.0]]], [[[2.0]], [[2.0]]]])
    weight = torch.tensor([1.0, 0.5])
    found = weighted_error(prediction.half(), torch.zeros(2, 2, 1, 1), weight)
    assert found == (1 * 5 + 0.5 * 4) / 2
    assert found.dtype == torch.float32


def test_noise_has_an_offset_for_each_channel():
    found = draw_noise((3, 4, 5, 6), 0.5, torch.Generator().manual_seed(3))
    again = torch.Generator().manual_seed(3)
    pure, offset = torch.randn((3, 4, 5, 6), generator=again), torch.randn((3, 4, 1, 1), generator=again)
    assert torch.equal(found, pure + 0.5 * offset)
    assert torch.equal(draw_noise((3, 4, 5, 6), 0.0, torch.Generator().manual_seed(3)), pure)
    with torch.device("meta"):  # whatever the default device
        assert torch.equal(draw_noise((3, 4, 5, 6), 0.5, torch.Generator("cpu").manual_seed(3)), found)


def test_a_scheduler_that_predicts_noise_is_refused(tmp_path, records):
    pipe = random_pipe()
    pipe.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match=r"prediction_type 'v_prediction', received 'epsilon'"):
        train(pipe, records, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def step():
    """Arguments of the generator: five rows, two of them without a condition, one of the others without tokens."""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "rows": normal(5, 4, 8, 4),
        "timesteps": torch.tensor([3, 999, 500, 0, 700]),
        "pose_maps": normal(5, 3, 16, 8).abs().clamp(max=1),
        "latents": normal(3, 4, 8, 4),
        "features": normal(3, 120),
        "unconditional": normal(1, 120),
        "tokenless": torch.tensor([False, True, False]),
    }


def gradients(pipe, predict):
    """Gradients of every parameter of the trained modules, None where there is none."""
    pipe.unet.zero_grad()
    for name in TRAINED:
        getattr(pipe, name).zero_grad()
    predict().square().mean().backward()
    return {
        f"{name}.{key}": None if value.grad is None else value.grad.clone()
        for name in TRAINED
        for key, value in getattr(pipe, name).named_parameters()
    }


def forward(pipe, arguments):
    generator = Generator(pipe)
    with generator.connected():
        return generator(**arguments)


def test_prediction_and_gradients_are_those_of_the_plain_version(step):
    pipe = random_pipe()
    expected = reference.predict(pipe, **step)
    assert (forward(pipe, step) - expected).abs().max() < 1e-5 * expected.abs().max()
    found = gradients(pipe, lambda: forward(pipe, step))
    wanted = gradients(pipe, lambda: reference.predict(pipe, **step))
    for name, gradient in wanted.items():
        assert (found[name] is None) == (gradient is None), name
        if gradient is not None:
            assert (found[name] - gradient).abs().max() < 1e-4 * gradient.abs().max() + 1e-7, name


@torch.no_grad()
def test_rows_without_condition_are_those_of_plain_attention(step):
    pipe = random_pipe()
    tokens = pipe.ifr(step["unconditional"]).expand(2, -1, -1)
    pose = pipe.pose_encoder(step["pose_maps"][:2])
    hook = pipe.unet.conv_in.register_forward_hook(lambda _, __, output: output + pose)
    stock = pipe.unet(step["rows"][:2], step["timesteps"][:2], encoder_hidden_states=tokens).sample
    hook.remove()
    found = forward(pipe, step)
    assert (found[:2] - stock).abs().max() < 1e-5
    other = step | {"latents": step["latents"] + 1, "features": step["features"] + 1}
    changed = (forward(pipe, other) - found).abs().amax(dim=(1, 2, 3))
    assert (changed[:2] < 1e-5).all()
    assert (changed[2:] > 1e-3).all()


@torch.no_grad()
def test_rows_without_tokens_know_the_latents_but_not_the_feature(step):
    pipe = random_pipe()
    found = forward(pipe, step)
    feature = (forward(pipe, step | {"features": step["features"] + 1}) - found).abs().amax(dim=(1, 2, 3))
    latents = (forward(pipe, step | {"latents": step["latents"] + 1}) - found).abs().amax(dim=(1, 2, 3))
    assert feature[3] < 1e-5 < feature[2]
    assert latents[3] > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("known", [0, 1, 5])
def test_all_rows_may_have_a_condition_or_none(step, known):
    pipe = random_pipe()
    arguments = step | {
        "latents": step["latents"][[0] * known],
        "features": step["features"][[0] * known],
        "tokenless": step["tokenless"][[0] * known],
    }
    expected = reference.predict(pipe, **arguments)
    assert (forward(pipe, arguments) - expected).abs().max() < 1e-5


def test_the_generator_leaves_the_networks_as_they_were(step):
    pipe = random_pipe()
    before = pipe.unet.attn_processors, pipe.reference_unet.attn_processors
    forward(pipe, step)
    assert (pipe.unet.attn_processors, pipe.reference_unet.attn_processors) == before
    assert not pipe.unet.conv_in._forward_hooks


LAST = "up_blocks.0.attentions.1"
UNUSED = [
    *(f"{LAST}.transformer_blocks.0.attn1.to_{name}" for name in ("q.weight", "k.weight", "v.weight")),
    *(f"{LAST}.transformer_blocks.0.{name}" for name in ("attn1.to_out.0.weight", "attn1.to_out.0.bias")),
    *(f"{LAST}.transformer_blocks.0.{name}" for name in ("norm2.weight", "norm2.bias")),
    *(f"{LAST}.transformer_blocks.0.attn2.to_{name}" for name in ("q.weight", "k.weight", "v.weight")),
    *(f"{LAST}.transformer_blocks.0.{name}" for name in ("attn2.to_out.0.weight", "attn2.to_out.0.bias")),
    *(f"{LAST}.transformer_blocks.0.{name}" for name in ("norm3.weight", "norm3.bias")),
    *(f"{LAST}.transformer_blocks.0.ff.net.0.proj.{name}" for name in ("weight", "bias")),
    *(f"{LAST}.transformer_blocks.0.ff.net.2.{name}" for name in ("weight", "bias")),
    *(f"{LAST}.proj_out.{name}" for name in ("weight", "bias")),
    *("conv_norm_out.weight", "conv_norm_out.bias", "conv_out.weight", "conv_out.bias"),
]


def test_unused_parameters_of_the_released_architecture():
    unet = plain.random_pipe(RELEASED).unet
    assert unused_parameters(unet) == [name.replace("up_blocks.0", "up_blocks.1") for name in UNUSED]


def test_unused_parameters_are_those_that_a_backward_pass_does_not_reach(step):
    pipe = random_pipe()
    pipe.reference_unet.conv_in.requires_grad_(False)
    assert unused_parameters(pipe.reference_unet) == UNUSED
    assert not pipe.reference_unet.conv_in.weight.requires_grad
    assert all(value.grad is None for value in pipe.reference_unet.parameters())
    pipe.reference_unet.requires_grad_(True)
    found = gradients(pipe, lambda: forward(pipe, step))
    assert [name for name, gradient in found.items() if gradient is None] == [
        f"reference_unet.{name}" for name in UNUSED
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Data


def test_pairs_come_from_the_sets_and_are_two_pictures_where_there_are_two(records):
    mixed = [
        replace(records[0], identity=1, target=False),
        replace(records[1], identity=1),
        replace(records[2], identity=1, reference=False),
        replace(records[3], identity="two"),  # alone: its own target
        replace(records[4], identity=3, target=False, pose=None),  # never a target
        replace(records[5], identity=4, reference=False),  # never a reference
    ]
    assert find_people(mixed) == [([0, 1], [1, 2]), ([3], [3])]
    data = Batches(random_pipe(), mixed, replace(SMALL, batch_size=64, condition_drop=0.0))
    rng = np.random.default_rng(0)
    counts = Counter(data._pair(rng) for _ in range(4000))
    expected = {(0, 1): 500, (0, 2): 500, (1, 2): 1000, (3, 3): 2000}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[pair] - count) < 5 * count**0.5 for pair, count in expected.items())
    assert data.target_rows == [1, 2, 3]


def test_pairs_of_the_same_picture(records):
    hidden = [replace(records[0], target=False), *records[1:3], replace(records[2], reference=False)]
    for share, wanted in ((1.0, 600), (0.25, 150)):
        data = Batches(random_pipe(), hidden, replace(SMALL, same_picture=share))
        rng = np.random.default_rng(0)
        counts = Counter(data._pair(rng) for _ in range(600))
        assert abs(counts[1, 1] + counts[2, 2] - wanted) <= 5 * (600 * share * (1 - share)) ** 0.5
        assert counts[1, 1]
        assert not {(0, 0), (3, 3)} & counts.keys()  # no target, no reference
    apart = [replace(records[0], target=False), replace(records[1], reference=False)]
    assert Batches(random_pipe(), apart, replace(SMALL, same_picture=1.0))._pair(rng) == (0, 1)


def test_a_batch_is_what_the_pipeline_would_see(records):
    pipe = random_pipe()
    settings = replace(SMALL, batch_size=6, condition_drop=0.0, flip=0.0, erase=0.0, height=32, width=16)
    batch = Batches(pipe, records, settings).make((1, 2))
    assert batch.target_pixels.shape == batch.pose_maps.shape == (6, 3, 32, 16)
    pictures = [Image.fromarray(record.image) for record in records]
    inputs = pipe.identity_encoder.preprocess(pictures)
    for i, row in enumerate(batch.targets):
        assert torch.equal(batch.target_pixels[i], read_pixels(pictures[row], 32, 16))
        assert torch.equal(batch.pose_maps[i], read_pixels(records[row].pose.draw(), 32, 16))
        person = [j for j in range(12) if torch.equal(batch.references[i], read_pixels(pictures[j], 32, 16))]
        assert len(person) == 1
        assert records[person[0]].identity == records[row].identity
        assert person[0] != row
        assert torch.equal(batch.encoder_input[i], inputs[person[0]])


def test_only_references_are_mirrored_and_erased(records):
    pipe = random_pipe()
    one = [replace(records[0], identity=1)]
    start = replace(SMALL, batch_size=64, condition_drop=0.0, erase=0.0, flip=0.5, height=64, width=32)
    batch = Batches(pipe, one, start).make((1,))
    picture = read_pixels(Image.fromarray(one[0].image), 64, 32)
    mirrored = [torch.equal(row, picture.flip(2)) for row in batch.references]
    assert all(flipped or torch.equal(row, picture) for row, flipped in zip(batch.references, mirrored, strict=True))
    assert 20 < sum(mirrored) < 44
    assert all(torch.equal(row, picture) for row in batch.target_pixels)
    again = pipe.identity_encoder.preprocess([Image.fromarray(one[0].image[:, ::-1].copy())])[0]
    assert torch.equal(batch.encoder_input[mirrored.index(True)], again)

    batch = Batches(pipe, one, replace(start, erase=0.5, flip=0.0)).make((1,))
    changed = (batch.references != picture).any(dim=1)
    assert 20 < sum(row.any().item() for row in changed) < 44
    assert all(torch.equal(row, picture) for row in batch.target_pixels)


def test_erasing_fills_a_rectangle_of_the_published_size():
    rng = np.random.default_rng(0)
    picture = np.full((128, 64, 3), 7, np.uint8)
    shares = []
    for _ in range(300):
        erased = erase(picture, rng)
        rows, columns = np.nonzero((erased != 7).any(axis=2))
        inside = erased[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        shares.append(inside.shape[0] * inside.shape[1] / (128 * 64))
        assert ((inside != 7).any(axis=2)).mean() > 0.95  # one random pixel in 2^24 is the old one
    assert 0.015 < min(shares) < 0.05
    assert 0.35 < max(shares) < 0.42
    assert (picture == 7).all()


def test_shares_of_rows_without_condition_and_without_tokens(records):
    settings = replace(SMALL, batch_size=50, condition_drop=0.1, token_drop=0.3, flip=0, erase=0)
    data = Batches(random_pipe(), records, replace(settings, cache=True))
    made = [data.make((i,)) for i in range(40)]
    known = np.array([len(batch.references) for batch in made])
    assert abs(known.mean() - 45) < 5 * (4.5 / 40) ** 0.5
    assert known.std() > 1
    tokenless = sum(batch.tokenless.sum().item() for batch in made)
    assert abs(tokenless / known.sum() - 0.3) < 5 * (0.21 / known.sum()) ** 0.5
    assert all(len(batch.pose_maps) == 50 for batch in made)  # poses are never dropped


def test_a_batch_depends_on_its_key_and_the_seed_alone(records):
    data = Batches(random_pipe(), records, SMALL)
    first, second = data.make((0, 1)), data.make((0, 2))
    again = Batches(random_pipe(3), records, SMALL).make((0, 1))
    assert first.seed == again.seed != second.seed
    assert first.targets == again.targets
    assert torch.equal(first.references, again.references)
    assert Batches(random_pipe(), records, replace(SMALL, seed=1)).make((0, 1)).seed != first.seed


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_made_ahead_keep_their_order(workers):
    assert list(prefetch(lambda key: key * 10, range(20), workers)) == [10 * key for key in range(20)]


def test_an_error_in_a_thread_is_raised_here():
    def fail(key):
        raise KeyError(key)

    with pytest.raises(KeyError, match="4"):
        list(prefetch(fail, [4, 5, 6], 2))


def test_paths_and_pictures_give_the_same_batch(records, tmp_path):
    written = []
    for i, record in enumerate(records):
        Image.fromarray(record.image).save(tmp_path / f"{i}.png")
        written.append(replace(record, image=str(tmp_path / f"{i}.png")))
    pictures = [replace(record, image=Image.fromarray(record.image)) for record in records]
    one, two, three = (Batches(random_pipe(), some, SMALL).make((1,)) for some in (records, written, pictures))
    assert torch.equal(one.target_pixels, two.target_pixels)
    assert torch.equal(one.target_pixels, three.target_pixels)
    assert torch.equal(one.references, two.references)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"image": np.zeros((4, 4, 3))}, ValueError, r"shape \(H, W, 3\) and dtype uint8, received .* float64"),
        ({"image": None}, TypeError, "a PIL image, an array or a path, received NoneType"),
        ({"identity": 1.5}, TypeError, "identity must be an integer or a string, received float"),
        ({"identity": True}, TypeError, "identity must be an integer or a string, received bool"),
        ({"pose": "walking"}, TypeError, "pose must be a Pose or None, received str"),
        ({"pose": None}, ValueError, "a target needs a pose; give one for identity 'person 0', or target=False"),
    ],
)
def test_wrong_records_are_refused(records, change, error, words):
    with pytest.raises(error, match=words):
        replace(records[0], **change)


def test_records_without_a_pair_are_refused(records, tmp_path):
    apart = [replace(records[0], identity=1, target=False), replace(records[1], identity=2, reference=False)]
    with pytest.raises(ValueError, match="of 2 records 1 are references and 1 are targets"):
        fit(tmp_path / "out", apart)
    with pytest.raises(TypeError, match="records must hold Record objects, received ndarray"):
        fit(tmp_path / "out", [records[0], records[1].image])
    with pytest.raises(TypeError, match="validation must hold Record objects, received str"):
        fit(tmp_path / "out", records, validation=["me.png"])
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------------------------------------------
# A run


@pytest.fixture(scope="module")
def whole(tmp_path_factory, records):
    """A run of two stages that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    pipe = fit(folder, records, stages=STAGES, validation=records[:2])
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder, pipe


def test_what_a_run_leaves_behind(whole):
    folder, pipe = whole
    assert sorted(path.name for path in folder.iterdir()) == [
        *("checkpoints", "losses.csv", "pipeline", "run.json", "sheets")
    ]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["step-000004", "step-000005"]
    assert sorted(path.name for path in (folder / "checkpoints" / "step-000005").iterdir()) == [
        *("ema.safetensors", "model.safetensors", "optimizer.safetensors", "state.json")
    ]
    assert [path.name for path in sorted((folder / "sheets").iterdir())] == ["step-000003.png", "step-000005.png"]
    with Image.open(folder / "sheets" / "step-000005.png") as sheet:
        assert sheet.size == (3 * 8, 3 * 16)  # two people in two poses
    assert len(losses(folder)) == 5
    loaded = IPGPipeline.from_pretrained(folder / "pipeline")
    assert same(weights(loaded), weights(pipe))
    assert not pipe.unet.training
    assert list(loaded.config.sample_size) == [16, 8]


def test_the_result_is_the_average_and_checkpoints_hold_both(whole):
    folder, pipe = whole
    last = folder / "checkpoints" / "step-000005"
    model, ema, now = load_file(last / "model.safetensors"), load_file(last / "ema.safetensors"), weights(pipe)
    assert model.keys() == now.keys()
    assert model.keys() - ema.keys() == {f"reference_unet.{name}" for name in UNUSED}
    assert all(torch.equal(ema[name], now[name]) for name in ema)
    assert not any(torch.equal(ema[name], model[name]) for name in ema)
    assert all(value.dtype == torch.float32 for value in model.values())
    assert all(torch.equal(model[f"reference_unet.{name}"], now[f"reference_unet.{name}"]) for name in UNUSED)


def test_what_is_frozen_stays_as_it_is_and_all_else_is_trained(tmp_path, records):
    start = random_pipe()
    seen = Counter()
    for name in TRAINED:
        for key, value in getattr(start, name).named_parameters():
            value.register_hook(lambda gradient, key=f"{name}.{key}": seen.update({key: int(gradient.any())}))
    before, frozen = weights(start), weights(start, FROZEN)
    pipe = train(start, records, tmp_path, replace(SMALL, steps=3, batch_size=4), progress=False)
    assert same(weights(pipe, FROZEN), frozen)
    assert all(value.grad is None for name in FROZEN for value in getattr(pipe, name).parameters())
    assert not any(getattr(pipe, name).training for name in FROZEN)
    after = weights(pipe)
    unchanged = {name for name in before if torch.equal(before[name], after[name])}
    assert unchanged == {f"reference_unet.{name}" for name in UNUSED}
    assert {name for name, count in seen.items() if count} == before.keys() - unchanged


def test_the_loss_falls(tmp_path, records):
    settings = replace(SMALL, steps=15, batch_size=4, learning_rate=3e-3, min_snr_gamma=0.0, cache=True, save_every=99)
    measured = replace(
        settings, steps=1, batch_size=32, learning_rate=0.0, weight_decay=0.0
    )  # the same batch each time
    pipe = fit(tmp_path / "before", records, measured)
    train(pipe, records, tmp_path / "run", settings, progress=False)
    train(pipe, records, tmp_path / "after", measured, progress=False)
    assert losses(tmp_path / "after")[0] < 0.8 * losses(tmp_path / "before")[0]


def test_a_run_can_be_repeated_to_the_last_bit(whole, tmp_path, records):
    folder, pipe = whole
    again = fit(tmp_path, records, replace(SMALL, workers=2), stages=STAGES)
    assert (tmp_path / "losses.csv").read_bytes() == (folder / "losses.csv").read_bytes()
    assert same(weights(again), weights(pipe))


def test_a_run_on_every_device(whole, tmp_path, records, device):
    """Where there is a GPU it is taken; and the device of new tensors may be set to it as well."""
    pipe = random_pipe()
    with torch.device(device):
        train(pipe, records, tmp_path, SMALL, stages=STAGES[:1], progress=False)
    assert losses(tmp_path) == pytest.approx(losses(whole[0])[:3], rel=1e-3)


def test_twelve_steps_are_deterministic(tmp_path, records):
    """The same losses and weights, to the last bit."""
    stages = [{"steps": 8}, {"steps": 4, "copy_denoiser": True, "token_drop": 0.25}]
    settings = replace(SMALL, cache=True, save_every=6, ema=0.99, min_snr_gamma=0.0)
    one = fit(tmp_path / "one", records, settings, stages=stages)
    other = fit(tmp_path / "other", records, settings, stages=stages)
    assert len(losses(tmp_path / "one")) == 12
    assert (tmp_path / "one" / "losses.csv").read_bytes() == (tmp_path / "other" / "losses.csv").read_bytes()
    assert same(weights(one), weights(other))


def test_another_seed_gives_other_losses(whole, tmp_path, records):
    fit(tmp_path, records, replace(SMALL, seed=1, steps=2))
    assert losses(tmp_path)[0] != losses(whole[0])[0]


class Killed(BaseException):
    """What no one expects."""


@pytest.mark.parametrize("at", [1, 3, 4, 5])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, tmp_path, records, monkeypatch, at):
    """Checkpoints are at 2, 3 (end of a stage), 4 and 5; the step that dies has its loss written already."""
    folder, pipe = whole
    add = LossLog.add

    def die(self, step, *values):
        add(self, step, *values)
        if step == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(LossLog, "add", die)
        with pytest.raises(Killed):
            fit(tmp_path, records, stages=STAGES)
    assert len(losses(tmp_path)) == at
    resumed = fit(tmp_path, records, stages=STAGES)
    assert (tmp_path / "losses.csv").read_bytes() == (folder / "losses.csv").read_bytes()
    assert same(weights(resumed), weights(pipe))
    for name in ("model", "ema", "optimizer"):
        paths = [Path("checkpoints", "step-000005", f"{name}.safetensors")] * 2
        assert same(*(load_file(base / path) for base, path in zip((folder, tmp_path), paths, strict=True)))


@pytest.mark.skipif(os.name != "posix", reason="names the process that holds a lock")
def test_two_runs_in_one_folder(tmp_path, records, monkeypatch):
    """The second is told who is there; it must not remove what the first is writing, nor resume beside it."""
    add, refused = LossLog.add, []

    def intrude(self, step, *values):
        def run():
            with pytest.raises(ValueError, match=rf"another run \(process {os.getpid()}\) works in .*run; wait for it"):
                fit(tmp_path / "run", records, SMALL)
            refused.append(step)

        if threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=run)
            other.start()
            other.join()
        add(self, step, *values)

    monkeypatch.setattr(LossLog, "add", intrude)
    fit(tmp_path / "run", records)
    assert refused == [1, 2, 3, 4, 5, 6]
    assert not (tmp_path / "run" / ".pose2id.lock").exists()
    monkeypatch.setattr(LossLog, "add", add)
    fit(tmp_path / "run", records)  # nobody is there any more


def test_an_empty_text_is_no_output(records, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="output must be a path, received an empty text"):
        fit("", records)
    assert list(tmp_path.iterdir()) == []


def die_at_the_third_step(folder):
    add = LossLog.add

    def die(self, step, *values):
        add(self, step, *values)
        if step == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    LossLog.add = die
    fit(folder, make_records(), stages=STAGES)


@pytest.mark.slow
def test_kill_minus_nine(whole, tmp_path, records):
    folder, pipe = whole
    run = tmp_path / "run"
    process = start(die_at_the_third_step, run, said=tmp_path / "said")
    process.join()
    assert process.exitcode == -signal.SIGKILL, (tmp_path / "said.err").read_text()
    assert len(losses(run)) == 3
    resumed = fit(run, records, stages=STAGES)
    assert (run / "losses.csv").read_bytes() == (folder / "losses.csv").read_bytes()
    assert same(weights(resumed), weights(pipe))


@pytest.mark.parametrize("at", [3, 5])
def test_a_sheet_that_a_kill_has_prevented_is_drawn(whole, tmp_path, records, monkeypatch, at):
    """After the checkpoint of the same step: the run went on after it, and the sheet was never drawn."""
    draw, steps = training.draw_validation, iter((3, 5))

    def die(*arguments):
        if next(steps) == at:
            raise Killed
        return draw(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "draw_validation", die)
        with pytest.raises(Killed):
            fit(tmp_path, records, stages=STAGES, validation=records[:2])
    fit(tmp_path, records, stages=STAGES, validation=records[:2])
    for name in ("step-000003.png", "step-000005.png"):
        assert (tmp_path / "sheets" / name).read_bytes() == (whole[0] / "sheets" / name).read_bytes()


def test_a_finished_run_is_read_again(whole, records):
    folder, pipe = whole
    before = (folder / "losses.csv").read_bytes()
    again = fit(folder, records, stages=STAGES, validation=records[:2])
    assert same(weights(again), weights(pipe))
    assert (folder / "losses.csv").read_bytes() == before


def test_other_settings_are_refused_by_name(whole, records):
    folder, _ = whole
    before = (folder / "run.json").read_bytes()
    with pytest.raises(ValueError, match=r"stage 1, learning_rate was 0.001, is 0.002; stage 2, learning_rate was"):
        fit(folder, records, replace(SMALL, learning_rate=2e-3), stages=STAGES)
    with pytest.raises(ValueError, match="stages was 2, is 1; stage 2, steps was 2, is None"):
        fit(folder, records, stages=STAGES[:1])
    with pytest.raises(ValueError, match="records was"):
        fit(folder, records[:-1], stages=STAGES)
    with pytest.raises(ValueError, match="holds checkpoints; name another folder, or resume"):
        fit(folder, records, stages=STAGES, resume=False)
    assert (folder / "run.json").read_bytes() == before


def test_settings_that_change_nothing_may_change(tmp_path, records):
    fit(tmp_path, records, replace(SMALL, steps=2))
    fit(tmp_path, records, replace(SMALL, steps=2, keep=5, save_every=1, workers=1, validation_guidance=2.0))


def test_another_generator_is_refused(tmp_path, records):
    fit(tmp_path, records, replace(SMALL, steps=1))
    config = CONFIG | {"ifr": {**CONFIG["ifr"], "num_tokens": 5}}
    with pytest.raises(ValueError, match="the checkpoint at step 1 is of another generator"):
        train(plain.random_pipe(config), records, tmp_path, replace(SMALL, steps=1), progress=False)


def test_averages_follow_the_weights(tmp_path, records, monkeypatch):
    values = []
    average = training.average

    def spy(ema, present, decay):
        if not values:
            values.append({name: tensor.double().numpy().copy() for name, tensor in ema.items()})
        average(ema, present, decay)
        values.append({name: tensor.detach().double().numpy().copy() for name, tensor in present.items()})

    monkeypatch.setattr(training, "average", spy)
    pipe = fit(tmp_path, records, replace(SMALL, steps=5, ema=0.3))
    name = "unet.conv_in.weight"
    expected = reference.ema([step[name] for step in values], 0.3)[-1]
    np.testing.assert_allclose(weights(pipe)[name].numpy(), expected, rtol=1e-5, atol=1e-7)
    assert [training.ema_decay(0.3, step) for step in (1, 2, 5)] == [2 / 11, 3 / 12, 0.3]


def test_the_optimiser_takes_steps_of_adamw(tmp_path, records, monkeypatch):
    seen = []
    clip = torch.nn.utils.clip_grad_norm_

    def spy(parameters, largest, **options):
        parameters = list(parameters)
        norm = clip(parameters, largest, **options)
        total = math.sqrt(sum(float(value.grad.double().square().sum()) for value in parameters))
        assert total == pytest.approx(min(float(norm), 0.1), rel=1e-4)
        seen.append(parameters[5].grad.double().numpy().copy())
        return norm

    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
    start = random_pipe()
    present = dict(Generator(start).named_parameters())
    name = [key for key in present if key.removeprefix("reference_unet.") not in UNUSED][5]
    first = present[name].detach().double().numpy().copy()
    settings = replace(SMALL, steps=3, betas=(0.8, 0.95), weight_decay=0.5, clip=0.1, learning_rate=0.01)
    train(start, records, tmp_path, settings, progress=False)
    expected = reference.adamw(first, seen, 0.01, (0.8, 0.95), 0.5)
    np.testing.assert_allclose(present[name].detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_accumulated_batches_are_one_step_of_their_mean(tmp_path, records, monkeypatch):
    make = Batches.make
    monkeypatch.setattr(Batches, "make", lambda self, key: make(self, (key[1],)))  # twice the same
    one = fit(tmp_path / "one", records, replace(SMALL, steps=2))
    two = fit(tmp_path / "two", records, replace(SMALL, steps=2, gradient_accumulation=2))
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "two"), rtol=1e-5)
    first, second = weights(one), weights(two)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 1e-4


def test_gradient_checkpointing_changes_nothing_but_memory(whole, tmp_path, records):
    pipe = fit(tmp_path, records, replace(SMALL, gradient_checkpointing=True), stages=STAGES)
    np.testing.assert_allclose(losses(tmp_path), losses(whole[0]), rtol=1e-4)
    assert not pipe.unet.is_gradient_checkpointing


def test_bfloat16(whole, tmp_path, records):
    pipe = fit(tmp_path, records, replace(SMALL, mixed_precision="bf16", steps=2))
    np.testing.assert_allclose(losses(tmp_path), losses(whole[0])[:2], rtol=0.1)
    assert losses(tmp_path)[0] != losses(whole[0])[0]
    assert all(value.dtype == torch.float32 for value in weights(pipe).values())


def test_half_a_pipeline_is_trained_in_single_precision(tmp_path, records):
    pipe = random_pipe()
    for name in TRAINED:
        getattr(pipe, name).half()
    train(pipe, records, tmp_path, replace(SMALL, steps=1), progress=False)
    assert pipe.unet.dtype == torch.float32


def test_learning_rates_by_hand():
    flat = replace(SMALL, learning_rate=2.0, steps=10)
    assert [training.learning_rate(flat, step) for step in (1, 5, 10)] == [2, 2, 2]
    rising = replace(flat, warmup=4)
    assert [training.learning_rate(rising, step) for step in range(1, 6)] == [0.5, 1.0, 1.5, 2.0, 2.0]
    falling = replace(flat, decay="cosine", flat=0.6)  # steps 7 to 10 are 0, 1, 2, 3 quarters of the fall
    found = [training.learning_rate(falling, step) for step in (1, 7, 8, 9, 10)]
    assert found == pytest.approx([2, 2, 1 + math.cos(math.pi / 4), 1, 1 - math.cos(math.pi / 4)])


def test_learning_rates_are_used(whole):
    with (whole[0] / "losses.csv").open() as stream:
        assert {row["learning_rate"] for row in csv.DictReader(stream)} == {"0.001"}


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, records, monkeypatch):
    weigh = weighted_error
    calls = iter([1, 1, math.nan])
    monkeypatch.setattr(objective, "weighted_error", lambda *given: weigh(*given) * next(calls))
    with pytest.raises(FloatingPointError, match=r"the gradient is nan at step 3; .* lower learning_rate"):
        fit(tmp_path, records)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000002"]


def test_tensorboard_is_asked_for_only_if_wanted(tmp_path, records, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"pip install.*'pose2id\[train\]'"):
        fit(tmp_path / "out", records, replace(SMALL, tensorboard=True))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("folder", ["checkpoints", "sheets"])
def test_what_a_killed_run_left_is_removed(tmp_path, records, folder):
    left = tmp_path / folder / ".pose2id-0123456789abcdef.part"
    left.mkdir(parents=True)
    (left / "new").write_bytes(b"half of it")
    fit(tmp_path, records, replace(SMALL, steps=1))
    assert not left.exists()


def test_the_callers_random_numbers_are_left_alone(tmp_path, records):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    pipe = random_pipe()
    torch.manual_seed(1)
    train(pipe, records, tmp_path, replace(SMALL, steps=1), progress=False)
    assert torch.equal(torch.rand(3), expected)


# ---------------------------------------------------------------------------------------------------------------------
# Checkpoints


def checkpoint(step, value=0.0):
    tensors = {"a": torch.full((2,), value), "b": torch.full((), float(step))}
    return Checkpoint(step, tensors, {"a.step": torch.tensor(3.0)}, None, {"x": [1, 2]})


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    path = checkpoints.save(tmp_path, checkpoint(12, 0.5), keep=2)
    assert path.name == "step-000012"
    found = checkpoints.load(path)
    assert (found.step, found.state, found.ema) == (12, {"x": [1, 2]}, None)
    assert same(found.model, checkpoint(12, 0.5).model)
    assert same(found.optimizer, checkpoint(12).optimizer)


def test_the_newest_are_kept_by_number(tmp_path):
    for step in (2, 999_999, 1_000_000, 10):
        checkpoints.save(tmp_path, checkpoint(step), keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000010", "step-1000000", "step-999999"]
    assert checkpoints.find_newest(tmp_path).name == "step-1000000"
    assert checkpoints.find_newest(tmp_path / "none") is None


@pytest.mark.parametrize("files", [0, 1, 2])
def test_a_checkpoint_that_broke_off_does_not_count(tmp_path, monkeypatch, files):
    checkpoints.save(tmp_path, checkpoint(1), keep=2)
    write = checkpoints.write_tensors
    left = iter(range(files))

    def break_off(tensors, path):
        if next(left, None) is None:
            path.write_bytes(b"half")
            raise Killed
        write(tensors, path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "write_tensors", break_off)
        with pytest.raises(Killed):
            checkpoints.save(tmp_path, replace(checkpoint(2), ema={"a": torch.zeros(1)}), keep=2)
    assert checkpoints.find_newest(tmp_path).name == "step-000001"
    clear_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    checkpoints.save(tmp_path, checkpoint(2), keep=2)
    assert checkpoints.load(checkpoints.find_newest(tmp_path)).step == 2


def test_a_removal_that_broke_off_leaves_nothing_that_looks_complete(tmp_path, monkeypatch):
    checkpoints.save(tmp_path, checkpoint(1), keep=1)
    remove = shutil.rmtree

    def break_off(path, ignore_errors=False):
        if path.name == "removed":
            (path / "model.safetensors").unlink()
            raise Killed
        remove(path, ignore_errors)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", break_off)
        with pytest.raises(Killed):
            checkpoints.save(tmp_path, checkpoint(2), keep=1)
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000002"]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_named(tmp_path, name):
    path = checkpoints.save(tmp_path, checkpoint(1), keep=1)
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"checkpoint .*step-000001 is damaged .*remove it to go on"):
        checkpoints.load(path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "state.json must hold an object, it holds a list"),
        ("{}", "step must be an integer >= 0, received None"),
        ('{"step": "1"}', "step must be an integer >= 0, received '1'"),
        ('{"step": 1.5}', "step must be an integer >= 0"),
        ('{"step": true}', "step must be an integer >= 0"),
        ('{"step": 2}', "state.json is of step 2"),
        ('{"step": -1}', "step must be an integer >= 0, received -1"),
        ('{"step": 1e400}', "1e400"),
        ('{"step": ' + "9" * 5000 + "}", "4,300 digits"),
        ("[" * 100_000, "nested"),
        ("\xff", "codec can't decode"),
    ],
)
def test_an_edited_state_is_named(tmp_path, text, words):
    path = checkpoints.save(tmp_path, checkpoint(1), keep=1)
    (path / "state.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"checkpoint .*step-000001 is damaged .*{words}.*remove it to go on"):
        checkpoints.load(path)


def test_only_folders_of_its_own_are_checkpoints(tmp_path):
    """A file is none, and what a link leads to is not removed."""
    inside, elsewhere = tmp_path / "checkpoints", tmp_path / "elsewhere"
    checkpoints.save(elsewhere, checkpoint(1), keep=1)
    inside.mkdir()
    (inside / "step-000009").touch()
    (inside / "step-000001").symlink_to(elsewhere / "step-000001")
    assert checkpoints.find_newest(inside).name == "step-000001"
    assert checkpoints.load(inside / "step-000001").step == 1
    checkpoints.save(inside, checkpoint(2), keep=1)
    assert sorted(path.name for path in inside.iterdir()) == ["step-000002", "step-000009"]
    assert checkpoints.load(elsewhere / "step-000001").step == 1
    with pytest.raises(ValueError, match="step-000009 exists already"):
        checkpoints.save(inside, checkpoint(9), keep=1)


NAME = "unet.conv_in.weight"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("optimizer", lambda held: held.pop(f"{NAME}.exp_avg"), f"the moments .*: {NAME}.exp_avg is missing"),
        ("optimizer", lambda held: held.update({NAME: torch.zeros(1)}), f"the moments .*: {NAME} is unknown"),
        (
            "optimizer",
            lambda held: held.update({f"{NAME}.exp_avg": torch.zeros(3)}),
            rf"the moments .*: {NAME}.exp_avg is torch.float32 of \(3,\), not \(12, ",
        ),
        ("ema", lambda held: held.pop(NAME), f"the averages .*: {NAME} is missing"),
        (
            "ema",
            lambda held: held.update({NAME: held[NAME][:1].clone()}),
            f"the averages .*: {NAME} is torch.float32 of",
        ),
        ("model", lambda held: held.pop(NAME), f"the checkpoint at step 5 is of another generator: .*{NAME}"),
        ("state", lambda held: held.pop("scaler"), "the checkpoint at step 5 must hold an object 'scaler'"),
        ("state", lambda held: held.update(scaler=[1]), "the checkpoint at step 5 must hold an object 'scaler'"),
    ],
)
def test_a_checkpoint_with_other_content_is_refused(whole, tmp_path, records, file, change, words):
    """Silently, a lost moment would begin at zero again."""
    shutil.copytree(whole[0], tmp_path / "run")
    (path,) = (tmp_path / "run" / "checkpoints" / "step-000005").glob(f"{file}.*")
    held = json.loads(path.read_text()) if file == "state" else load_file(path)
    change(held)
    if file == "state":
        path.write_text(json.dumps(held))
    else:
        save_file(held, path)
    with pytest.raises(ValueError, match=words):
        fit(tmp_path / "run", records, stages=STAGES)


def test_a_checkpoint_beyond_the_run_is_refused(whole, tmp_path, records):
    """It was taken for a finished run, and the untrained weights were saved as its result."""
    shutil.copytree(whole[0], tmp_path / "run")
    state = tmp_path / "run" / "checkpoints" / "step-000005" / "state.json"
    state.write_text(state.read_text().replace('"step": 5', '"step": 50'))
    state.parent.rename(state.parent.with_name("step-000050"))
    with pytest.raises(ValueError, match="step-000050 is of step 50, this run has 5; name another folder"):
        fit(tmp_path / "run", records, stages=STAGES)


def test_a_damaged_description_of_a_run(whole, tmp_path, records):
    shutil.copytree(whole[0], tmp_path / "run")
    for text in ("{", "[]", "[" * 100_000, '{"stages": 1e400}', "\xff"):
        (tmp_path / "run" / "run.json").write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match=r"run\.json (cannot be read as JSON|must hold an object)"):
            fit(tmp_path / "run", records, stages=STAGES)


def test_a_damaged_table_of_losses(tmp_path):
    path = tmp_path / "losses.csv"
    path.write_bytes(b"step,loss,learning_rate,gradient_norm\n1,0.5,0.1,2\n\xff\x00\n2,0.5,0.1,2\n")
    LossLog(path, 2).close()  # a loss of power leaves such things
    assert path.read_text().splitlines()[1:] == ["1,0.5,0.1,2", "2,0.5,0.1,2"]
    for step in ("x", "1.5", "-1", "9" * 5000):
        path.write_text(f"step,loss,learning_rate,gradient_norm\n1,0.5,0.1,2\n{step},0.5,0.1,2\n")
        with pytest.raises(ValueError, match=r"losses\.csv is damaged in line 3 .*restore it or remove it"):
            LossLog(path, 2)


def test_the_table_of_losses_is_cut_to_the_steps_done(tmp_path):
    path = tmp_path / "losses.csv"
    log = LossLog(path, 0)
    for step in range(1, 6):
        log.add(step, 0.1 * step, 1e-5, 2.0)
    log.close()
    path.write_text(path.read_text() + "6,0.6,1e")  # a line that broke off
    LossLog(path, 3).close()
    assert path.read_text().splitlines() == [
        "step,loss,learning_rate,gradient_norm",
        *(f"{step},{0.1 * step!r},1e-05,2.0" for step in (1, 2, 3)),
    ]
    LossLog(path, 0).close()
    assert path.read_text() == "step,loss,learning_rate,gradient_norm\n"


# ---------------------------------------------------------------------------------------------------------------------
# Settings, stages, initialisation


def test_the_defaults_are_the_papers():
    found = Settings()
    assert (found.steps, found.batch_size, found.learning_rate, found.weight_decay) == (80_000, 4, 1e-5, 0.01)
    assert (found.height, found.width, found.condition_drop, found.noise_offset) == (512, 256, 0.1, 0.05)
    assert (found.min_snr_gamma, found.token_drop, found.ema, found.decay) == (5.0, 0.0, 0.0, "constant")


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, received 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size must be an integer"),
        ({"keep": True}, TypeError, "keep must be an integer"),
        ({"seed": -1}, ValueError, "seed must be an integer >= 0"),
        ({"flip": 1.5}, ValueError, "flip must be a number from 0 to 1, received 1.5"),
        ({"learning_rate": "1e-5"}, TypeError, "learning_rate must be a finite number"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be a finite number"),
        ({"ema": 1.0}, ValueError, "betas and ema must be below 1"),
        ({"betas": (0.9,)}, TypeError, "betas must be two numbers"),
        ({"betas": (0.9, 1.0)}, ValueError, "betas and ema must be below 1"),
        ({"min_snr_gamma": 0.5}, ValueError, "min_snr_gamma must be 0 or at least 1, received 0.5"),
        ({"decay": "linear"}, ValueError, "decay must be one of 'constant', 'cosine', received 'linear'"),
        ({"mixed_precision": "fp8"}, ValueError, "mixed_precision must be one of"),
        ({"cache": 1}, TypeError, "cache must be True or False"),
    ],
)
def test_wrong_settings_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        replace(SMALL, **change)


def test_stages_change_settings():
    plan = plan_stages(SMALL, STAGES)
    assert [stage.copy_denoiser for stage in plan] == [False, True]
    assert [stage.settings.steps for stage in plan] == [3, 2]
    assert plan[1].settings == replace(SMALL, steps=2, ema=0.5, token_drop=0.5, gradient_accumulation=2, cache=True)
    assert plan_stages(SMALL)[0].settings is not None
    with pytest.raises(ValueError, match=r"stage 2: unknown: learning_rat; allowed are batch_size"):
        plan_stages(SMALL, [{}, {"learning_rat": 1}])
    with pytest.raises(TypeError, match="stage 1: copy_denoiser must be True or False"):
        plan_stages(SMALL, [{"copy_denoiser": "yes"}])
    with pytest.raises(ValueError, match=r"keep must be the same in all stages, received \[2, 3\]"):
        plan_stages(SMALL, [{}, {"keep": 3}])


def test_a_recipe_is_read(tmp_path):
    path = tmp_path / "tiny.toml"
    path.write_text(
        "[data]\nids = 500\n[model]\nchannels = [48, 96]\n[training]\nsteps = 300\nbetas = [0.9, 0.99]\n"
        "[[stages]]\nsteps = 100\n[[stages]]\ncopy_denoiser = true\ntoken_drop = 0.3\n"
    )
    recipe = read_settings(path)
    assert recipe.settings == Settings(steps=300, betas=(0.9, 0.99))
    assert recipe.stages == ({"steps": 100}, {"copy_denoiser": True, "token_drop": 0.3})
    assert (recipe.data, recipe.model) == ({"ids": 500}, {"channels": [48, 96]})


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[training]\nstep = 3", ValueError, "unknown: step; allowed are batch_size, betas"),
        ("[trainings]", ValueError, "unknown: trainings; allowed are data, model, stages, training"),
        ("[training]\nsteps = 3.5", TypeError, "steps must be an integer"),
        ("[training]\nsteps = ", ValueError, "bad.toml"),
        ("training = 3", TypeError, "training must be a table, received 3"),
        ("[stages]\nsteps = 3", TypeError, r"stages must be tables, written as \[\[stages\]\]"),
        ("[[stages]]\nsteps = 0", ValueError, "stage 1: steps must be an integer >= 1"),
    ],
)
def test_a_wrong_recipe_is_refused(tmp_path, text, error, words):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(error, match=words) as caught:
        read_settings(path)
    assert str(path) in str(caught.value)


def test_no_recipe(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.toml is not a file"):
        read_settings(tmp_path / "none.toml")


def test_the_reference_network_becomes_a_copy():
    pipe = random_pipe()
    copy_denoiser(pipe)
    assert same(pipe.unet.state_dict(), pipe.reference_unet.state_dict())
    assert pipe.unet.conv_in.weight is not pipe.reference_unet.conv_in.weight
    pipe.reference_unet = UNet2DConditionModel.from_config(CONFIG["unet"] | {"in_channels": 5})
    with pytest.raises(ValueError, match=r"built alike; they differ in conv_in.weight"):
        copy_denoiser(pipe)


def test_the_start_of_the_paper(tmp_path, records):
    made = random_pipe()
    made.unet.save_pretrained(tmp_path / "sd" / "unet")
    parts = {"vae": made.vae, "identity_encoder": made.identity_encoder}
    pipe = start_from_stable_diffusion(tmp_path / "sd", **parts, num_tokens=4)
    assert same(pipe.unet.state_dict(), made.unet.state_dict())
    assert same(pipe.reference_unet.state_dict(), made.unet.state_dict())
    assert pipe.unet.conv_in.weight is not pipe.reference_unet.conv_in.weight
    assert pipe.scheduler.config.rescale_betas_zero_snr
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert not pipe.pose_encoder.conv_out.weight.any()
    assert pipe.ifr.config.in_features == 120
    again = start_from_stable_diffusion(tmp_path / "sd", **parts, num_tokens=4)
    assert same(pipe.ifr.state_dict(), again.ifr.state_dict())
    train(pipe, records, tmp_path / "out", replace(SMALL, steps=1), progress=False)


def test_only_safetensors_are_read(tmp_path):
    made = random_pipe()
    made.unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    with pytest.raises(OSError, match="safetensors"):
        start_from_stable_diffusion(tmp_path, vae=made.vae, identity_encoder=made.identity_encoder)


def test_a_start_without_all_its_tensors_is_refused(tmp_path):
    made = random_pipe()
    made.unet.save_pretrained(tmp_path / "unet")
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    whole = {key: value.clone() for key, value in load_file(path).items()}
    for change, words in (
        ({"conv_in.bias": None}, r"does not fit its config\.json; missing keys: conv_in\.bias$"),
        ({"more": torch.ones(1)}, "unexpected keys: more$"),
        ({"conv_in.bias": whole["conv_in.bias"] / 0}, r"NaN or inf: conv_in\.bias$"),
    ):
        save_file({key: value for key, value in {**whole, **change}.items() if value is not None}, path)
        with pytest.raises(ValueError, match=words):
            start_from_stable_diffusion(tmp_path, vae=made.vae, identity_encoder=made.identity_encoder)


def test_the_pinned_start_is_a_commit():
    assert re.fullmatch(r"[0-9a-f]{40}", STABLE_DIFFUSION_REVISION)


def test_a_stage_without_the_reference_network(tmp_path, records):
    """Its weights stay as they are, and the denoiser learns."""
    pipe = random_pipe()
    before = weights(pipe, ["reference_unet"])
    train(pipe, records, tmp_path, replace(SMALL, use_reference=False), progress=False)
    assert same(weights(pipe, ["reference_unet"]), before)
    assert not same(weights(pipe, ["unet"]), weights(random_pipe(), ["unet"]))


@torch.no_grad()
def test_without_latents_rows_have_their_tokens_only(step):
    pipe = random_pipe()
    found = forward(pipe, {**step, "latents": step["latents"][:0]})
    zero, *own = pipe.ifr(torch.cat([step["unconditional"], step["features"]]))
    tokens = torch.stack([zero, zero, own[0], zero, own[2]])
    pose = PoseInput()
    with connect(pipe.unet, make_readers(pipe.unet), pose):
        pose.features = pipe.pose_encoder(step["pose_maps"])
        wanted = pipe.unet(step["rows"], step["timesteps"], encoder_hidden_states=tokens).sample
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert (found - forward(pipe, step)).abs().max() > 1e-3 * wanted.abs().max()


def test_a_gradient_that_is_not_finite_does_not_reach_the_weights(tmp_path, records, monkeypatch):
    pipe = random_pipe()
    loss_of = Loss.__call__
    steps = Counter()

    def poisoned(self, batch):
        loss = loss_of(self, batch)
        steps["done"] += 1
        if steps["done"] == 3:  # the loss stays finite
            value = self.model.get_parameter("unet.conv_in.weight")
            loss = loss + (value * 0).sum().sqrt() * 0
        return loss

    monkeypatch.setattr(Loss, "__call__", poisoned)
    with pytest.raises(FloatingPointError, match="the gradient is nan at step 3"):
        train(pipe, records, tmp_path, SMALL, progress=False)
    assert all(bool(value.isfinite().all()) for value in weights(pipe).values())
    monkeypatch.setattr(Loss, "__call__", loss_of)
    train(pipe, records, tmp_path, SMALL, progress=False)  # goes on from step 2


def test_the_environment_of_accelerate_does_not_change_the_gradients(tmp_path, records, monkeypatch):
    fit(tmp_path / "plain", records)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    fit(tmp_path / "other", records)
    assert (tmp_path / "other" / "losses.csv").read_text() == (tmp_path / "plain" / "losses.csv").read_text()


def test_a_table_of_losses_that_finds_no_room(tmp_path, monkeypatch):
    class Full:
        def write(self, _):
            raise OSError(28, "No space left on device")

    losses = LossLog(tmp_path / "losses.csv", 0)
    losses.close()
    monkeypatch.setattr(losses, "_stream", Full())
    with pytest.raises(OSError, match=r"losses\.csv cannot be written: \[Errno 28\] No space left"):
        losses.add(1, 0.5, 0.1, 1.0)
