"""Cheaper pictures: presets, solvers, guidance in parts of the steps, shared noise, decoders; default as ever."""

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from PIL import Image
from support.pipelines import tiny_pipeline

from pose2id.cli import choices, main
from pose2id.ipg import IPGPipeline, generate_features, representative_poses
from pose2id.ipg.components import NAMED_SOLVERS, SOLVERS
from pose2id.ipg.denoising import rescale
from pose2id.ipg.folders import FolderSettings, generate_folder
from pose2id.ipg.folders.manifest import Unit
from pose2id.ipg.folders.plan import join_units, make_units
from pose2id.ipg.folders.sources import Photographs
from pose2id.ipg.inputs import draw_noise
from pose2id.ipg.networks.attention import connect, gather
from pose2id.ipg.presets import PRESETS, Drawing, choose_drawing

pytestmark = [  # diffusers' own, of its schedulers
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*algorithm_type:FutureWarning"),
]
TOLERANCE = 1e-4
POSES = representative_poses()[:2]
SIZE = {"height": 64, "width": 32}
LATENT = {**SIZE, "output_type": "latent"}
OWN = Drawing(20, 3.5)


def portraits(count):
    rng = np.random.default_rng(3)
    return [Image.fromarray(rng.integers(0, 256, (50 + i, 31, 3), dtype=np.uint8)) for i in range(count)]


PEOPLE = portraits(3)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return tiny_pipeline(tmp_path_factory.mktemp("released"))


@pytest.fixture
def pipe(loaded):
    """With its own scheduler, whatever a test puts in its place."""
    before = loaded.scheduler
    yield loaded
    loaded.scheduler = before


@pytest.fixture(scope="module")
def memories():
    return {}


@pytest.fixture
def _remembered(pipe, memories, monkeypatch):
    """What the denoiser attends to for each person, built once for all solvers and presets: it depends on neither."""
    build = pipe.build_memory

    def remember(image, *size):
        key = image.tobytes(), *size
        if key not in memories:
            memories[key] = build(image, *size)
        return memories[key]

    monkeypatch.setitem(pipe.__dict__, "build_memory", remember)


def difference(a, b):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max())


@contextmanager
def counted_rows(pipe):
    """Rows that the denoiser sees, call by call, while inside."""
    rows = []
    hook = pipe.unet.register_forward_hook(lambda _m, args, _o: rows.append(len(args[0])))
    try:
        yield rows
    finally:
        hook.remove()


# The default.


@torch.no_grad()
def drawn_before(pipe, pairs, steps, guidance):
    """The latents of one batch by the loop that there was before there were presets."""
    noise = torch.stack([draw_noise(42, r, m, (4, 8, 4)) for r, m in pairs])
    features = pipe.encode_poses(POSES, 64, 32)[[m for _, m in pairs]]
    unconditional = pipe.project_memory(tokens=pipe.identity_tokens(None)) if guidance > 1 else None
    known = [pipe.build_memory(person, 64, 32) for person in PEOPLE]
    memory = gather([known[r] for r, _ in pairs], unconditional)
    halves = 2 if guidance > 1 else 1
    pipe.scheduler.set_timesteps(steps)
    latents = noise * pipe.scheduler.init_noise_sigma
    tokens = latents.new_zeros(halves * len(latents), 1, pipe.unet.config.cross_attention_dim)
    with connect(pipe.unet, pipe._readers, pipe._pose):
        pipe._pose.features = torch.cat([features] * halves)
        for timestep in pipe.scheduler.timesteps:
            rows = pipe.scheduler.scale_model_input(torch.cat([latents] * halves), timestep)
            options = {"encoder_hidden_states": tokens, "cross_attention_kwargs": {"memory": memory}}
            prediction = pipe.unet(rows, timestep, **options, return_dict=False)[0].float()
            if halves == 2:
                plain, conditional = prediction.chunk(2)
                prediction = plain + guidance * (conditional - plain)
            latents = pipe.scheduler.step(prediction, timestep, latents, eta=0.0, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("guidance", [3.5, 1.0])
def test_without_a_preset_every_bit_is_as_before(pipe, guidance):
    drawn = pipe(PEOPLE, POSES, **LATENT, num_inference_steps=3, guidance_scale=guidance).images.flatten(0, 1)
    assert torch.equal(drawn, drawn_before(pipe, [(r, m) for r in range(3) for m in range(2)], 3, guidance))


def test_what_is_named_as_usual_changes_no_bit(pipe):
    few = {**LATENT, "num_inference_steps": 2}
    usual = {"guidance_rescale": 0, "guidance_start": 0, "guidance_stop": 1, "shared_noise": False, "preset": None}
    assert torch.equal(pipe(PEOPLE, POSES, **few).images, pipe(PEOPLE, POSES, **few, **usual).images)


# Presets.


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_its_settings(pipe, preset):
    drawn = pipe(PEOPLE[:1], POSES, **LATENT, preset=preset).images
    assert torch.equal(drawn, pipe(PEOPLE[:1], POSES, **LATENT, **PRESETS[preset]._asdict()).images)


def test_what_is_named_goes_before_the_preset(pipe):
    given = {"num_inference_steps": 1, "guidance_scale": 1.5, "shared_noise": False}
    named = pipe(PEOPLE[:1], POSES, **LATENT, preset="balanced", **given).images
    assert torch.equal(named, pipe(PEOPLE[:1], POSES, **LATENT, **given).images)
    assert choose_drawing("fast", OWN, guidance_stop=0.5) == Drawing(2, 2.0, guidance_stop=0.5, shared_noise=True)
    assert choose_drawing(None, Drawing(10, 2.0), guidance_scale=None) == Drawing(10, 2.0)


def test_presets_are_as_published_and_recommended():
    assert {name: (each[0], each[1], each.shared_noise, each.rows) for name, each in PRESETS.items()} == {
        "published": (20, 3.5, False, 40),
        "balanced": (4, 2.0, True, 8),
        "fast": (2, 2.0, True, 4),
        "draft": (1, 1.0, False, 1),
    }
    assert tuple(PRESETS) == choices.PRESETS


def test_presets_load_no_torch():
    words = "import sys, pose2id.ipg.presets; sys.exit('torch' in sys.modules or 'diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"preset": "quick"}, ValueError, "preset must be .*published.*balanced.*fast.*draft.*received 'quick'"),
        ({"preset": 3}, (TypeError, ValueError), "preset must be"),
        ({"guidance_rescale": 1.5}, ValueError, "guidance_rescale must be a number from 0 to 1, received 1.5"),
        ({"guidance_rescale": "1"}, TypeError, "guidance_rescale must be a number from 0 to 1, received '1'"),
        ({"guidance_start": -0.1}, ValueError, "guidance_start must be a number from 0 to 1"),
        ({"guidance_stop": float("nan")}, ValueError, "guidance_stop must be a number from 0 to 1"),
        ({"guidance_start": 0.6, "guidance_stop": 0.5}, ValueError, "guidance_start must be at most guidance_stop"),
        ({"shared_noise": 1}, TypeError, "shared_noise must be True or False, received 1"),
        ({"decode_chunk_size": 0}, ValueError, "decode_chunk_size must be at least 1; received 0"),
        ({"decoder": 3}, TypeError, "decoder must be an AutoencoderTiny; received int"),
    ],
)
def test_what_cannot_be_is_told_before_anything_runs(pipe, monkeypatch, given, error, words):
    monkeypatch.setattr(pipe, "encode_poses", lambda *_: pytest.fail("something ran"))
    with pytest.raises(error, match=words):
        pipe(PEOPLE, POSES, **LATENT, **given)


# Rows.


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({"num_inference_steps": 4}, 6 * 8),
        ({"num_inference_steps": 4, "guidance_scale": 1.0}, 6 * 4),
        ({"num_inference_steps": 4, "guidance_start": 0.25, "guidance_stop": 0.75}, 6 * (4 + 2)),
        ({"num_inference_steps": 10, "guidance_stop": 0.3}, 6 * (10 + 3)),
        ({"num_inference_steps": 4, "guidance_start": 0.5, "guidance_stop": 0.5}, 6 * 4),
        ({"preset": "balanced"}, 6 * 7 + 2),
        ({"preset": "fast"}, 6 * 3 + 2),
        ({"preset": "draft"}, 6),
        ({"preset": "balanced", "guidance_start": 0.25}, 6 * (4 + 3)),
        ({"preset": "balanced", "latents": torch.ones(6, 4, 8, 4)}, 6 * 8),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.usefixtures("_remembered")
def test_rows_of_the_denoiser(pipe, monkeypatch, given, rows, batch_size):
    monkeypatch.setitem(pipe.unet.__dict__, "forward", lambda x, *_, **__: (torch.zeros_like(x),))  # they are counted
    with counted_rows(pipe) as seen:
        pipe(PEOPLE, POSES, **LATENT, batch_size=batch_size, **given)
    assert sum(seen) == rows


def test_guidance_in_some_steps(pipe):
    """The steps without it are those of a call without it, from the same latents."""
    plain, guided, mixed = [], [], []
    for found, given in ((plain, {"guidance_scale": 1.0}), (guided, {}), (mixed, {"guidance_start": 0.5})):
        keep = lambda _p, _i, _t, values, found=found: found.append(values["latents"].clone())  # noqa: E731
        pipe(PEOPLE[:1], POSES, **LATENT, num_inference_steps=4, **given, callback_on_step_end=keep)
    assert max(difference(a, b) for a, b in zip(plain[:2], mixed[:2], strict=True)) < TOLERANCE
    assert difference(mixed[2], plain[2]) > 0.01
    assert difference(mixed[3], guided[3]) > 0.01


def test_rescaled_guidance():
    generator = torch.Generator().manual_seed(0)
    conditional = torch.randn(3, 4, 8, 4, generator=generator)
    guided = 3 * torch.randn(3, 4, 8, 4, generator=generator) + 1
    whole, half = rescale(guided, conditional, 1.0), rescale(guided, conditional, 0.5)
    for row in range(3):
        assert whole[row].std() == pytest.approx(float(conditional[row].std()), rel=1e-5)
    torch.testing.assert_close(half, (whole + guided) / 2)


def test_rescaled_guidance_changes_the_picture(pipe):
    few = {**LATENT, "num_inference_steps": 2}
    drawn = [pipe(PEOPLE[:1], POSES, **few, guidance_rescale=share).images for share in (0.0, 0.7)]
    assert difference(*drawn) > 0.01
    few["guidance_scale"] = 1.0
    assert torch.equal(*(pipe(PEOPLE[:1], POSES, **few, guidance_rescale=share).images for share in (0.0, 0.7)))


# Noise.


def test_shared_noise_is_that_of_the_pose(pipe):
    few = {**LATENT, "num_inference_steps": 2}
    shared = pipe(PEOPLE, POSES, **few, shared_noise=True, pose_keys=["a", "b"], seed=5).images
    noise = torch.stack([draw_noise(5, None, key, (4, 8, 4)) for key in "ab"] * 3)
    assert difference(shared.flatten(0, 1), pipe(PEOPLE, POSES, **few, latents=noise).images.flatten(0, 1)) < TOLERANCE
    named = {"reference_keys": ["x", "y", "z"], "pose_keys": ["a", "b"], "seed": 5}
    assert torch.equal(shared, pipe(PEOPLE, POSES, **few, shared_noise=True, **named).images)
    other = {"pose_keys": ["a", "c"], "seed": 5}, {"pose_keys": ["a", "b"], "seed": 6}
    assert all(difference(shared, pipe(PEOPLE, POSES, **few, shared_noise=True, **each).images) > 0.1 for each in other)
    same = pipe([PEOPLE[0]] * 2, POSES, **few, shared_noise=True, reference_keys=["x", "y"]).images
    assert difference(same[0], same[1]) < TOLERANCE


def test_no_reference_has_the_key_of_the_shared_noise():
    assert difference(draw_noise(1, None, 0, (64,)), draw_noise(1, "None", 0, (64,))) > 0.1


# Solvers.


def solver(pipe, name, **settings):
    return getattr(diffusers, name).from_config(pipe.scheduler.config, **settings)


STOCHASTIC = ("DDPMScheduler", "DDPMParallelScheduler", "EulerAncestralDiscreteScheduler", "LCMScheduler")
CHOSEN = [(kind.__name__, {}) for kind in SOLVERS] + [
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
]


# Every solver with noise of its own in three steps, and with shared noise in two; two of them with every preset.
DRAWN = [(*chosen, preset) for preset in ("published", "fast") for chosen in CHOSEN] + [
    (name, {}, preset)
    for preset in ("balanced", "draft")
    for name in ("DDIMScheduler", "EulerAncestralDiscreteScheduler")
]


@pytest.mark.usefixtures("_remembered")
@pytest.mark.parametrize(("name", "settings", "preset"), DRAWN)
def test_a_picture_alone_is_that_in_a_batch(pipe, name, settings, preset):
    """At the first, a middle and the last place of two batches; its noise is that of its keys, or of its pose's."""
    pipe.scheduler = solver(pipe, name, **settings)
    few = {**LATENT, "preset": preset, **({"num_inference_steps": 3} if preset == "published" else {})}
    whole = pipe(PEOPLE, POSES, **few, reference_keys=["x", "y", "z"], batch_size=4).images
    for person, pose in ((0, 0), (1, 0), (2, 1)):
        single = {"reference_keys": ["xyz"[person]], "pose_keys": [pose], "batch_size": 1}
        alone = pipe(PEOPLE[person], POSES[pose], **few, **single).images
        assert difference(whole[person, pose], alone[0, 0]) < TOLERANCE
    again = pipe(PEOPLE[2], POSES[1], **few, **{**single, "reference_keys": ["x"]}).images
    assert (difference(alone, again) < TOLERANCE) == PRESETS[preset].shared_noise


@pytest.mark.usefixtures("_remembered")
@pytest.mark.parametrize(("name", "settings"), CHOSEN)
@pytest.mark.parametrize("steps", [1, 2])
def test_the_first_step_draws_the_mean(pipe, name, settings, steps):
    """With zero terminal SNR one step ends where the first prediction points, in every solver."""
    noise, few = torch.ones(2, 4, 8, 4), {**LATENT, "num_inference_steps": steps}
    ddim = pipe(PEOPLE[0], POSES, **few, latents=noise).images
    pipe.scheduler = solver(pipe, name, **settings)
    drawn = pipe(PEOPLE[0], POSES, **few, latents=noise).images
    assert bool(drawn.isfinite().all())
    if steps == 1 and name != "TCDScheduler":  # which leaves a little noise
        assert difference(drawn, ddim) < 0.01


@pytest.mark.parametrize("name", STOCHASTIC)
def test_noise_of_a_solver_is_that_of_the_keys(pipe, name):
    pipe.scheduler = solver(pipe, name)
    few = {**LATENT, "num_inference_steps": 2, "latents": torch.ones(1, 4, 8, 4)}
    one, same, other = (pipe(PEOPLE[0], POSES[0], **few, reference_keys=[key]).images for key in "aab")
    assert torch.equal(one, same)
    assert difference(one, other) > 0.01


@pytest.mark.parametrize(
    "name",
    [
        "DEISMultistepScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "PNDMScheduler",
        "LMSDiscreteScheduler",
        "DPMSolverSinglestepScheduler",
    ],
)
def test_a_solver_that_drops_the_zero_snr_is_refused(pipe, name):
    own = pipe.components
    pipe.scheduler = solver(pipe, name)
    words = rf"scheduler must be one that can keep a zero terminal SNR: .*; {name} drops it.* is 4\.7e-03"
    with pytest.raises(ValueError, match=words):
        pipe(PEOPLE, POSES, **LATENT)
    with pytest.raises(ValueError, match=words):
        IPGPipeline(**{**own, "scheduler": pipe.scheduler})


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "DDPMScheduler", "TCDScheduler"])
def test_a_solver_without_the_setting_is_refused(pipe, name):
    pipe.scheduler = getattr(diffusers, name)(prediction_type="v_prediction", timestep_spacing="trailing")
    with pytest.raises(ValueError, match=rf"must keep the zero terminal SNR .*{name}\.from_config\(pipe\.scheduler"):
        pipe(PEOPLE, POSES, **LATENT)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"use_lu_lambdas": True}),
        ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
        ("UniPCMultistepScheduler", {"predict_x0": False}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}),
    ],
)
def test_sigmas_that_do_not_go_with_zero_snr(pipe, name, settings):
    pipe.scheduler = solver(pipe, name, **settings)
    setting = next(iter(settings))
    with pytest.raises(ValueError, match=rf"{setting} of scheduler must not be .* zero terminal SNR"):
        pipe(PEOPLE, POSES, **LATENT)


def test_no_scheduler_at_all(pipe):
    with pytest.raises(TypeError, match="scheduler must be a DDIMScheduler or another one of diffusers; received int"):
        IPGPipeline(**{**pipe.components, "scheduler": 3})


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "EulerDiscreteScheduler", "LCMScheduler"])
def test_another_solver_is_saved_and_loaded(pipe, tmp_path, name):
    pipe.scheduler = solver(pipe, name)
    pipe.save_pretrained(tmp_path)
    again = IPGPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler).__name__ == name
    few = {**LATENT, "num_inference_steps": 2}
    assert difference(again(PEOPLE, POSES, **few).images, pipe(PEOPLE, POSES, **few).images) < TOLERANCE


# Decoding.


@pytest.mark.parametrize("chunk", [1, 2, 4, 100])
def test_pictures_that_are_decoded_at_once(pipe, monkeypatch, chunk):
    few = {**SIZE, "output_type": "pt", "num_inference_steps": 1}
    one_by_one = pipe(PEOPLE, POSES, **few).images
    rows, decode = [], pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z, **kw: rows.append(len(z)) or decode(z, **kw))
    assert difference(pipe(PEOPLE, POSES, **few, decode_chunk_size=chunk).images, one_by_one) < TOLERANCE
    assert (sum(rows), max(rows)) == (6, min(6, chunk))


def tiny_decoder(**settings):
    torch.manual_seed(0)
    blocks = {"encoder_block_out_channels": (4,) * 4, "decoder_block_out_channels": (4,) * 4}
    return diffusers.AutoencoderTiny(**{**blocks, "num_decoder_blocks": (1, 1, 1, 1), **settings}).eval()


def test_a_tiny_decoder(pipe, monkeypatch):
    few, decoder = {**SIZE, "num_inference_steps": 1}, tiny_decoder()
    latents = pipe(PEOPLE, POSES, **few, output_type="latent").images.flatten(0, 1)
    with torch.no_grad():
        wanted = (decoder.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    monkeypatch.setattr(pipe.vae, "decode", lambda *_: pytest.fail("the other one"))
    drawn = pipe(PEOPLE, POSES, **few, output_type="pt", decoder=decoder, decode_chunk_size=3).images
    assert difference(drawn.flatten(0, 1), wanted) < TOLERANCE


def test_a_decoder_for_other_latents(pipe):
    for settings, words in (({"latent_channels": 8}, "8 channels and 8 pixels"),):
        with pytest.raises(ValueError, match=f"latents of 4 channels and 8 pixels, as vae is; it is for {words}"):
            pipe(PEOPLE, POSES, **LATENT, decoder=tiny_decoder(**settings))


# Features and folders.


def test_generate_features_forwards_what_is_named():
    calls = []

    def fake(references, poses, **options):
        calls.append((len(references), options))
        return SimpleNamespace(images=[[person for _ in poses] for person in references])

    def encode(pictures):
        return np.ones((len(pictures), 2))

    generate_features(fake, encode, PEOPLE * 10, POSES, batch_size=4)
    assert [count for count, _ in calls] == [2] * 15
    assert not calls[0][1].keys() & {"preset", "shared_noise", "guidance_rescale", "decode_chunk_size", "decoder"}
    calls.clear()
    named = {"preset": "fast", "guidance_rescale": 0.5, "guidance_start": 0.0, "guidance_stop": 0.5}
    generate_features(fake, encode, PEOPLE * 20, POSES, batch_size=4, **named, decode_chunk_size=2, decoder=fake)
    assert [count for count, _ in calls] == [32, 28]  # so that what is equal for all people is computed once
    assert named.items() <= calls[0][1].items()
    assert (calls[0][1]["decode_chunk_size"], calls[0][1]["decoder"]) == (2, fake)
    calls.clear()
    generate_features(fake, encode, PEOPLE, POSES, batch_size=4, preset="fast", shared_noise=False)
    assert [count for count, _ in calls] == [2, 1]
    with pytest.raises(ValueError, match="preset must be"):
        generate_features(fake, encode, PEOPLE, POSES, preset="quick")


def test_features_with_shared_noise_are_those_of_the_pictures(pipe):
    def encode(pictures):
        return np.stack([np.asarray(picture, np.float32).mean((0, 1)) for picture in pictures])

    with counted_rows(pipe) as rows:
        features = generate_features(pipe, encode, PEOPLE, POSES, batch_size=2, **SIZE, preset="fast")
    assert sum(rows) == 6 * 3 + 2
    drawn = pipe(PEOPLE, POSES, **SIZE, preset="fast").images
    np.testing.assert_allclose(features, [encode(row) for row in drawn], atol=1)


SETTINGS = FolderSettings(weights="fake", height=16, width=8, batch_size=4)


class Folder:
    """A folder of two photographs that a fake pipeline fills; notes what the pipeline is given."""

    def __init__(self, root):
        self.root, self.given = root, []
        self.people = {f"{i}.png": root / f"{i}.png" for i in range(2)}
        for person, path in zip(PEOPLE, self.people.values(), strict=False):
            person.save(path)

    def __call__(self, references, poses, **options):
        self.given.append(options)
        return SimpleNamespace(images=[[Image.new("RGB", (8, 16)) for _ in poses] for _ in references])

    def fill(self, settings):
        poses = {"1": Image.new("RGB", (8, 16), "red")}
        return generate_folder(lambda: self, self.people, self.root / "out", poses, settings=settings)

    def first_line(self):
        return json.loads((self.root / "out" / "manifest.jsonl").read_text().splitlines()[0])


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_folder_shares_the_first_unconditional_rows(pipe, tmp_path, batch_size):
    """Over all batches; the pictures are those of a call for each batch, bit for bit."""
    people, poses = Folder(tmp_path).people, {"a": POSES[0], "b": POSES[1]}
    settings = FolderSettings("fake", **SIZE, batch_size=batch_size, **PRESETS["fast"]._asdict())
    with counted_rows(pipe) as rows:
        assert generate_folder(lambda: pipe, people, tmp_path / "out", poses, settings=settings).drawn == 4
    assert sum(rows) == 4 * 3 + 2
    lines = map(json.loads, (tmp_path / "out" / "manifest.jsonl").read_text().splitlines())
    units = [line for line in lines if "unit" in line]
    assert len(units) == 4 // batch_size
    for unit in units:
        keys, names = unit["references"], unit["poses"]
        given = [Image.open(people[key]) for key in keys], [poses[name] for name in names]
        named = {"reference_keys": keys, "pose_keys": names, "batch_size": batch_size}
        for key, row in zip(keys, pipe(*given, **SIZE, preset="fast", **named).images, strict=True):
            for name, picture in zip(names, row, strict=True):
                with Image.open(tmp_path / "out" / key[0] / f"{name}.png") as written:
                    np.testing.assert_array_equal(written, picture)


def test_units_of_the_same_poses_are_joined():
    units = make_units("vwxyz", "abc", [], 2)  # two poses, then one, for each person
    assert [len(unit) for unit in units] == [2, 1] * 5
    assert join_units(units[:4]) == [(Unit(("v", "w"), ("a", "b")), 2), (Unit(("v", "w"), ("c",)), 1)]
    units = make_units("vwxyz", "ab", [], 4)
    assert [len(unit) for unit in units] == [4, 4, 2]
    assert join_units(units) == [(Unit(tuple("vwxyz"), ("a", "b")), 4)]
    assert join_units([units[2], units[0]]) == [(units[2], 2), (units[0], 4)]
    assert join_units([units[0], units[2], units[1]]) == [(Unit(tuple("vwz"), ("a", "b")), 4), (units[1], 4)]
    assert join_units([]) == []


def test_one_photograph_that_cannot_be_read_costs_its_batch_alone(tmp_path):
    folder = Folder(tmp_path)
    folder.people["2.png"] = tmp_path / "2.png"
    PEOPLE[2].save(tmp_path / "2.png")
    poses = {"1": Image.new("RGB", (8, 16), "red")}
    settings = replace(SETTINGS, batch_size=1, shared_noise=True)
    read = Photographs.read

    def vandal(photographs, key):
        if key == "1.png":
            PEOPLE[0].save(tmp_path / "1.png")
        return read(photographs, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Photographs, "read", vandal)
        report = generate_folder(lambda: folder, folder.people, tmp_path / "out", poses, settings=settings)
    assert (report.drawn, set(report.skipped)) == (2, {"1.png"})
    assert [len(options["reference_keys"]) for options in folder.given] == [2]


OTHERS = {
    "guidance_rescale": 0.5,
    "guidance_start": 0.25,
    "guidance_stop": 0.75,
    "shared_noise": True,
    "decode_chunk_size": 2,
}


@pytest.mark.parametrize(("name", "value"), OTHERS.items())
def test_a_folder_keeps_what_it_was_drawn_with(tmp_path, name, value):
    folder = Folder(tmp_path)
    folder.fill(replace(SETTINGS, **{name: value}))
    assert folder.given[0][name] == folder.first_line()[name] == value
    assert folder.fill(replace(SETTINGS, **{name: value})).found == 2
    with pytest.raises(ValueError, match=f"{name} was {value}, is {getattr(SETTINGS, name)}"):
        folder.fill(SETTINGS)


@pytest.mark.parametrize(("name", "value"), [("solver", "unipc"), ("decoder", "sha256:1")])
def test_a_folder_keeps_what_its_pipeline_has(tmp_path, name, value):
    folder = Folder(tmp_path)
    folder.fill(replace(SETTINGS, **{name: value}))
    assert folder.first_line()[name] == value
    assert name not in folder.given[0]
    with pytest.raises(ValueError, match=f"{name} was '{value}', is None"):
        folder.fill(SETTINGS)
    with pytest.raises(TypeError, match=f"{name} must be a string, received 3"):
        replace(SETTINGS, **{name: 3})


def test_a_folder_of_usual_settings_is_as_ever(tmp_path):
    folder = Folder(tmp_path)
    folder.fill(SETTINGS)
    assert not folder.first_line().keys() & {*OTHERS, "solver", "decoder"}
    assert not folder.given[0].keys() & OTHERS.keys()
    with pytest.raises(ValueError, match="shared_noise was False, is True"):
        folder.fill(replace(SETTINGS, shared_noise=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"guidance_stop": 2}, "guidance_stop must be a number from 0 to 1"),
        ({"shared_noise": "yes"}, "shared_noise must be True or False"),
        ({"decode_chunk_size": 0}, "decode_chunk_size must be an integer >= 1"),
        ({"guidance_start": 0.5, "guidance_stop": 0.25}, "guidance_start must be at most guidance_stop"),
        ({"preset": "fast"}, "it holds .*preset"),
    ],
)
def test_an_edited_manifest(tmp_path, change, words):
    folder = Folder(tmp_path)
    folder.fill(SETTINGS)
    path = tmp_path / "out" / "manifest.jsonl"
    _, *rest = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps(folder.first_line() | change), *rest, ""]))
    with pytest.raises(ValueError, match=f"is damaged in line 1 .*{words}"):
        folder.fill(SETTINGS)


def test_the_command_line(tmp_path, capsys):
    PEOPLE[0].save(tmp_path / "person.png")
    command = ["generate", str(tmp_path / "person.png"), "--weights", "tiny", "--quiet", "-o"]
    assert main([*command, str(tmp_path / "out"), "--preset", "fast", "--steps", "1", "--decode-chunk-size", "4"]) == 0
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    assert (line["num_inference_steps"], line["guidance_scale"], line["shared_noise"]) == (1, 2.0, True)
    assert main([*command, str(tmp_path / "out"), "--steps", "1"]) == 2
    assert "shared_noise was True, is False; decode_chunk_size was 4, is 1" in capsys.readouterr().err
    asked = ["--preset", "fast", "--steps", "1", "--no-shared-noise", "--guidance-rescale", "0.5"]
    assert main([*command, str(tmp_path / "own"), *asked, "--guidance-start", "0", "--guidance-stop", "1"]) == 0
    line = json.loads((tmp_path / "own" / "manifest.jsonl").read_text().splitlines()[0])
    assert (line["guidance_rescale"], "shared_noise" in line) == (0.5, False)
    assert main([*command, str(tmp_path / "none"), "--guidance-stop", "2"]) == 2
    assert "--guidance-stop must be a number from 0 to 1, received 2.0" in capsys.readouterr().err


def test_the_solvers_of_the_command_line():
    """Each name is of a scheduler that may be; those that are another's twin have none."""
    assert tuple(NAMED_SOLVERS) == choices.SOLVERS
    assert {kind.__name__ for kind in SOLVERS} - {kind.__name__ for kind in NAMED_SOLVERS.values()} == {
        "DDIMParallelScheduler",
        "DDPMParallelScheduler",
    }


def test_solver_and_decoder_of_the_command_line(tmp_path, capsys):
    """The pictures are those of the pipeline with both."""
    PEOPLE[0].save(tmp_path / "person.png")
    blocks = {"encoder_block_out_channels": (4,) * 3, "decoder_block_out_channels": (4,) * 3}
    numbers = {"num_encoder_blocks": (1,) * 3, "num_decoder_blocks": (1,) * 3, "latent_channels": 12}
    decoder = tiny_decoder(**blocks, **numbers)
    decoder.save_pretrained(tmp_path / "decoder")
    command = ["generate", str(tmp_path / "person.png"), "--weights", "tiny", "--quiet", "--preset", "fast", "-o"]
    both = ["--solver", "euler-ancestral", "--decoder", str(tmp_path / "decoder")]
    assert main([*command, str(tmp_path / "out"), *both]) == 0
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text().splitlines()[0])
    assert (line["solver"], line["decoder"][:7]) == ("euler-ancestral", "sha256:")
    own = IPGPipeline.from_pretrained("tiny")
    own.set_progress_bar_config(disable=True)
    own.scheduler = solver(own, "EulerAncestralDiscreteScheduler")
    poses = representative_poses()
    named = {"reference_keys": ["person.png"], "pose_keys": [pose.name for pose in poses]}
    drawn = own(PEOPLE[0], poses, preset="fast", decoder=decoder, **named).images[0]
    for pose, picture in zip(poses, drawn, strict=True):
        with Image.open(tmp_path / "out" / "person" / f"{pose.name}.png") as written:
            np.testing.assert_array_equal(written, picture)
    assert main([*command, str(tmp_path / "out"), *both[:2]]) == 2
    assert "decoder was 'sha256:" in capsys.readouterr().err
    assert main([*command, str(tmp_path / "none"), "--decoder", str(tmp_path / "no")]) == 2
    assert "decoder " in capsys.readouterr().err
    assert main([*command, str(tmp_path / "none"), "--decoder", "tiny"]) == 2
    assert "config.json" in capsys.readouterr().err
