"""The generator against the released pipeline's tensors, and against a plain version that caches nothing."""

import json
import shutil
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from reference import ipg as plain
from safetensors.torch import load_file
from support.golden import GOLDEN

from pose2id.images import read_image
from pose2id.ipg import IPGPipeline, pipeline, representative_poses
from pose2id.ipg.inputs import draw_noise, read_pixels
from pose2id.ipg.networks import IFR, PoseEncoder
from pose2id.ipg.networks.attention import PoseInput, connect, gather, make_readers, project, record
from pose2id.ipg.weights.loading import load_components

CONFIG = json.loads((GOLDEN / "ipg" / "config.json").read_text())
SIZE = {"height": 64, "width": 32, "num_inference_steps": 4}
TOLERANCE = 1e-4
WEIGHTS = ("denoising_unet", "reference_unet", "IFR", "pose_guider")


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN / "ipg" / "golden.safetensors")


def tiny_vae(block=CONFIG["vae"]):
    return AutoencoderKL.from_config(block).eval()


def released_vae():
    vae = tiny_vae()
    vae.load_state_dict(load_file(GOLDEN / "ipg" / "vae.safetensors"))
    return vae


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The golden weights under the released names."""
    folder = tmp_path_factory.mktemp("released")
    for name in WEIGHTS:
        shutil.copy(GOLDEN / "ipg" / f"{name}.safetensors", folder)
    shutil.copy(GOLDEN / "ipg" / "transreid.safetensors", folder / "transformer_20.safetensors")
    return folder


def load_pipe(folder):
    pipe = IPGPipeline.from_released_files(folder, config=CONFIG, vae=released_vae())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def pipe(folder):
    return load_pipe(folder)


@pytest.fixture(scope="module")
def shared_pipe(folder):
    """For tests that change nothing in it."""
    return load_pipe(folder)


@pytest.fixture(scope="module")
def reference(golden):
    return Image.fromarray(golden["ref_image_uint8"].numpy())


@pytest.fixture(scope="module")
def drawings(golden):
    # The released script reads its files with the channels reversed; what the network sees is canonical.
    return [Image.fromarray(drawing[:, :, ::-1].copy()) for drawing in golden["pose_images_rgb_uint8"].numpy()]


def test_what_a_call_leaves_out_is_as_released(pipe, golden, reference, drawings):
    assert pipe.defaults == ((512, 256), 20, 3.5)
    options = {"height": 64, "width": 32, "latents": golden["init_latents"][:1], "output_type": "latent"}
    drawn = pipe(reference, drawings[0], **options).images
    asked = pipe(reference, drawings[0], **options, num_inference_steps=20, guidance_scale=3.5).images
    assert torch.equal(drawn, asked)


def difference(a, b):
    return float((torch.as_tensor(a) - torch.as_tensor(b)).abs().max())


@contextmanager
def predictions(pipe):
    """What the denoiser returns, call by call, while inside."""
    seen = []
    hook = pipe.unet.register_forward_hook(lambda *args: seen.append(args[2][0]))
    try:
        yield seen
    finally:
        hook.remove()


def test_what_goes_in(pipe, golden, reference, drawings):
    assert difference(read_pixels(reference, 64, 32) * 2 - 1, golden["ref_tensor_preprocessed"]) < 1e-6
    assert difference(pipe.identity_encoder.preprocess([reference]), golden["reid_input"]) < 1e-6
    pixels = torch.stack([read_pixels(drawing, 64, 32) for drawing in drawings])
    assert difference(pixels, golden["pose_tensor_preprocessed"]) < 1e-6


def test_parts(pipe, golden, reference, drawings):
    tokens, latents = pipe.identity_tokens(reference), pipe.reference_latents(reference, 64, 32)
    assert difference(tokens[0], golden["tokens_cond"]) < TOLERANCE
    assert difference(pipe.identity_tokens(None)[0], golden["tokens_uncond"]) < TOLERANCE
    assert difference(pipe.encode_poses(drawings, 64, 32), golden["pose_feature"]) < TOLERANCE
    assert difference(latents[0], golden["ref_latents"]) < TOLERANCE
    assert difference(latents[0] / 0.18215, golden["ref_latents_mean_unscaled"]) < TOLERANCE
    assert difference(pipe.scheduler.alphas_cumprod, golden["alphas_cumprod"]) < 1e-6
    bank = pipe.reference_bank(latents, tokens)
    assert {f"bank.{name.removesuffix('.attn1')}" for name in bank} == {n for n in golden if n.startswith("bank.")}
    for name, hidden in bank.items():
        # The released bank has 2B rows; the conditional ones are equal, and the only ones that are used.
        assert difference(hidden[0], golden[f"bank.{name.removesuffix('.attn1')}"][-1]) < TOLERANCE


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_every_step(pipe, golden, reference, drawings, batch_size):
    latents = []
    with predictions(pipe) as seen:
        images = pipe(
            reference,
            drawings,
            **SIZE,
            latents=golden["init_latents"],
            output_type="pt",
            batch_size=batch_size,
            callback_on_step_end=lambda _pipe, _i, _t, values: latents.append(values["latents"]),
        ).images
    assert difference(images[0], golden["images"]) < TOLERANCE
    batches = -(-3 // batch_size)
    for step in range(4):
        mine = [seen[4 * batch + step].chunk(2) for batch in range(batches)]
        both = torch.cat([torch.cat(half) for half in zip(*mine, strict=True)])
        assert difference(both, golden[f"step{step}.unet_out"]) < TOLERANCE
        moved = torch.cat([latents[4 * batch + step] for batch in range(batches)])
        assert difference(moved, golden[f"step{step}.latents"]) < TOLERANCE
    assert pipe.scheduler.timesteps.tolist() == golden["timesteps"].tolist()


def test_two_references_in_one_batch(pipe, golden, reference, drawings):
    people = [reference, Image.fromarray(golden["multi.ref2_image_uint8"].numpy())]
    noise = golden["init_latents"][[0, 0, 1, 1]]
    result = pipe(people, drawings[:2], **SIZE, latents=noise, output_type="latent").images
    assert difference(result[0, 0], golden["multi.latents_final"][0]) < TOLERANCE
    assert difference(result[1, 1], golden["multi.latents_final"][1]) < TOLERANCE
    for row, person in zip((2, 3), people, strict=True):
        assert difference(pipe.identity_tokens(person)[0], golden["multi.tokens"][row]) < TOLERANCE


def test_one_forward_with_and_without_the_reference(pipe, golden):
    tokens = golden["tokens_cond"][None]
    bank = pipe.reference_bank(golden["ref_latents"][None], tokens)
    readers, pose = make_readers(pipe.unet), PoseInput()
    for name, known in (("single.pred", bank), ("single.pred_without_bank", None)):
        memory = gather([project(pipe.unet, known, tokens)] * 3)
        with torch.no_grad(), connect(pipe.unet, readers, pose):
            pose.features = golden["pose_feature"]
            out = pipe.unet(
                golden["single.noisy_latents"],
                golden["single.timesteps"],
                encoder_hidden_states=tokens.expand(3, -1, -1),
                cross_attention_kwargs={"memory": memory},
            ).sample
        assert difference(out, golden[name]) < TOLERANCE


@torch.no_grad()
def test_the_plain_version_is_the_released_one(folder, golden):
    parts = load_components(folder, CONFIG, released_vae())
    count = len(golden["init_latents"])
    latents, tokens = (golden[name].expand(count, *golden[name].shape) for name in ("ref_latents", "tokens_cond"))
    bank, record_ = plain.generate(
        parts, latents, tokens, golden["tokens_uncond"][None], golden["pose_feature"], golden["init_latents"], 4, 3.5
    )
    for name, hidden in bank.items():
        assert difference(hidden, golden[f"bank.{name}"]) < TOLERANCE
    for step, values in enumerate(record_):
        for name, value in values.items():
            assert difference(value, golden[f"step{step}.{name}"]) < TOLERANCE
    assert difference(plain.decode(parts["vae"], record_[-1]["latents"]), golden["images"]) < TOLERANCE
    _, output = plain.write(
        parts["reference_unet"], latents, torch.tensor(0), encoder_hidden_states=golden["tokens_cond"].expand_as(tokens)
    )
    assert difference(output, golden["single.reference_unet_output"]) < TOLERANCE


def other_config():
    """Three levels, two layers, an odd size."""
    config = json.loads(json.dumps(CONFIG))
    config["unet"] |= {
        "block_out_channels": [16, 24, 32],
        "layers_per_block": 2,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
        "cross_attention_dim": 20,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
    }
    config["pose_guider"]["conditioning_embedding_channels"] = 16
    config["ifr"] = {"in_features": 80, "num_tokens": 5, "token_dim": 20}
    config["transreid"] |= {"img_size": [64, 40], "embed_dim": 16, "num_heads": 2}
    return config


def portraits(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Image.fromarray(rng.integers(0, 256, (50 + i, 31, 3), dtype=np.uint8)) for i in range(count)]


def test_another_size():
    pipe = plain.random_pipe(other_config())
    people, poses = portraits(2), representative_poses()[:3]
    noise = torch.randn(6, 4, 11, 5, generator=torch.Generator().manual_seed(1))
    settings = {"height": 88, "width": 40}
    expected = plain.plainly(
        pipe,
        [people[0]] * 3 + [people[1]] * 3,
        [*poses, *poses],
        noise,
        **settings,
        steps=7,
        guidance=2.0,
    )
    for batch_size in (1, 4, 8):
        result = pipe(
            people,
            poses,
            **settings,
            num_inference_steps=7,
            guidance_scale=2.0,
            latents=noise,
            output_type="latent",
            batch_size=batch_size,
        ).images
        assert difference(result.flatten(0, 1), expected) < TOLERANCE
        assert difference(result[0], result[1]) > 0.01


@torch.no_grad()
@pytest.mark.parametrize("guidance", [1.0, 0.5])
def test_without_guidance_only_the_conditional_prediction_is_used(pipe, golden, reference, drawings, guidance):
    with predictions(pipe) as seen:
        pipe(reference, drawings, **SIZE, guidance_scale=guidance, latents=golden["init_latents"], output_type="latent")
    assert len(seen[0]) == 3
    assert difference(seen[0], golden["step0.unet_out"][3:]) < TOLERANCE


class TestNoise:
    def test_depends_on_seed_and_keys_only(self):
        first = draw_noise(1, "a", 0, (4, 2, 2))
        assert torch.equal(first, draw_noise(1, "a", 0, (4, 2, 2)))
        others = [draw_noise(*key, (4, 2, 2)) for key in ((2, "a", 0), (1, "b", 0), (1, "a", 1), (1, "a", "0"))]
        assert all(difference(first, other) > 0.1 for other in others)

    def test_keys_do_not_run_into_each_other(self):
        assert difference(draw_noise(1, "a", "bc", (4,)), draw_noise(1, "ab", "c", (4,))) > 1e-3
        assert difference(draw_noise(1, "a\0str:b", "c", (4,)), draw_noise(1, "a", "b\0str:c", (4,))) > 1e-3

    def test_is_normal(self):
        drawn = torch.stack([draw_noise(i, "a", "b", (4, 16, 8)) for i in range(50)])
        assert abs(float(drawn.mean())) < 0.02
        assert abs(float(drawn.std()) - 1) < 0.02

    def test_of_a_picture_is_the_same_whatever_is_drawn_with_it(self, pipe):
        people, poses = portraits(3), representative_poses()
        whole = pipe(people, poses, **SIZE, output_type="latent", reference_keys=["x", "y", "z"]).images
        one = pipe(
            people[1], poses[4], **SIZE, output_type="latent", reference_keys=["y"], pose_keys=[4], batch_size=1
        ).images
        assert difference(whole[1, 4], one[0, 0]) < TOLERANCE
        again = pipe(people[1], poses[4], **SIZE, output_type="latent", reference_keys=["x"], pose_keys=[4]).images
        assert difference(whole[1, 4], again[0, 0]) > 0.1


class TestWork:
    """What is computed once, and what is left behind."""

    def test_reference_once_poses_once_projections_once(self, pipe, reference, drawings):
        calls = Counter()
        layer = pipe.unet.get_submodule("mid_block.attentions.0.transformer_blocks.0")
        parts = {"reference_unet": pipe.reference_unet, "pose": pipe.pose_encoder, "vae": pipe.vae.encoder}
        parts |= {"attn1": layer.attn1.to_k, "attn2": layer.attn2.to_k}
        hooks = [
            part.register_forward_hook(lambda _m, args, _o, name=name: calls.update({(name, len(args[0])): 1}))
            for name, part in parts.items()
        ]
        pipe([reference, reference], drawings, **SIZE, output_type="latent", batch_size=2)
        for hook in hooks:
            hook.remove()
        assert calls[("reference_unet", 1)] == 2
        assert calls[("vae", 1)] == 2
        assert calls[("pose", 3)] == 1
        # Tokens: two references and the unconditional ones. The bank: two references; own rows: 3 batches x 4 steps.
        assert calls[("attn2", 1)] == 3
        assert calls[("attn1", 1)] == 2
        assert calls[("attn1", 4)] == 12
        assert sum(calls.values()) == 2 + 2 + 1 + 3 + 2 + 12

    def test_the_networks_are_as_before(self, pipe, reference, drawings):
        before = [dict(unet.attn_processors) for unet in (pipe.unet, pipe.reference_unet)]

        def stop(*_):
            raise KeyboardInterrupt

        for callback in (None, stop):
            try:
                pipe(reference, drawings, **SIZE, output_type="latent", callback_on_step_end=callback)
            except KeyboardInterrupt:
                assert callback is stop
            for unet, processors in zip((pipe.unet, pipe.reference_unet), before, strict=True):
                assert all(unet.attn_processors[name] is processor for name, processor in processors.items())
                assert not unet.conv_in._forward_hooks
            assert pipe._pose.features is None

    def test_without_memory_a_reader_is_the_stock_processor(self, pipe, golden):
        rows = (golden["init_latents"], torch.tensor(999))
        tokens = golden["tokens_cond"].expand(3, -1, -1)
        with torch.no_grad():
            stock = pipe.unet(*rows, encoder_hidden_states=tokens).sample
            with connect(pipe.unet, make_readers(pipe.unet), PoseInput()):
                assert torch.equal(pipe.unet(*rows, encoder_hidden_states=tokens).sample, stock)

    @pytest.mark.slow
    def test_compiles_into_one_graph_once(self, pipe, golden, reference, drawings):
        graphs = []

        def backend(module, _inputs):
            graphs.append(module)
            return module.forward

        pipe.unet = torch.compile(pipe.unet, backend=backend, fullgraph=True, dynamic=False)
        for _ in range(2):
            images = pipe(reference, drawings, **SIZE, latents=golden["init_latents"], output_type="pt").images
        assert difference(images[0], golden["images"]) < TOLERANCE
        assert len(graphs) == 1

    def test_offloaded(self, pipe, golden, reference, drawings):
        from accelerate import cpu_offload_with_hook

        hook = None
        for name in ("identity_encoder", "ifr", "pose_encoder", "vae", "reference_unet", "unet"):
            _, hook = cpu_offload_with_hook(getattr(pipe, name), "cpu", prev_module_hook=hook)
        images = pipe(reference, drawings, **SIZE, latents=golden["init_latents"], output_type="pt").images
        assert difference(images[0], golden["images"]) < TOLERANCE

    def test_slices_of_the_autoencoder(self, pipe, golden, reference, drawings):
        pipe.vae.enable_slicing()
        images = pipe(reference, drawings, **SIZE, latents=golden["init_latents"], output_type="pt").images
        assert difference(images[0], golden["images"]) < TOLERANCE


class TestOutput:
    def test_types(self, pipe, golden, reference, drawings):
        options = {**SIZE, "latents": golden["init_latents"]}
        as_tensor, as_array, as_images, as_latents = (
            pipe(reference, drawings, **options, output_type=kind).images for kind in ("pt", "np", "pil", "latent")
        )
        assert as_tensor.shape == (1, 3, 3, 64, 32)
        assert (as_array.shape, as_array.dtype) == ((1, 3, 64, 32, 3), np.float32)
        np.testing.assert_array_equal(as_array, as_tensor.permute(0, 1, 3, 4, 2))
        assert (len(as_images), len(as_images[0]), as_images[0][0].size) == (1, 3, (32, 64))
        np.testing.assert_array_equal(np.asarray(as_images[0][2]), (as_array[0, 2] * 255).round())
        assert as_latents.shape == (1, 3, 4, 8, 4)
        assert isinstance(pipe(reference, drawings, **options, return_dict=False), tuple)

    def test_the_eight_poses_by_default(self, pipe, reference):
        few = {**SIZE, "num_inference_steps": 1, "output_type": "latent"}
        images = pipe(reference, **few).images
        assert images.shape[:2] == (1, 8)
        drawn = [pose.draw() for pose in representative_poses()]
        assert torch.equal(images, pipe(reference, drawn, **few).images)

    def test_a_callback_may_change_the_latents(self, pipe, reference, drawings):
        few = {**SIZE, "output_type": "latent"}
        images = pipe(
            reference, drawings, **few, callback_on_step_end=lambda *args: {"latents": args[3]["latents"] * 0}
        ).images
        assert float(images.abs().max()) == 0

    def test_half_precision(self, pipe, golden, reference, drawings):
        images = pipe.to(torch.bfloat16)(
            reference, drawings, **SIZE, latents=golden["init_latents"], output_type="pt"
        ).images
        assert images.dtype == torch.float32
        assert difference(images[0], golden["images"]) < 0.2
        assert float((images[0] - golden["images"]).abs().mean()) < 0.01

    def test_saved_and_loaded(self, pipe, golden, reference, drawings, tmp_path):
        pipe.save_pretrained(tmp_path)
        assert not [path for path in tmp_path.rglob("*") if path.suffix in (".bin", ".pth", ".pt", ".pkl", ".py")]
        card = (tmp_path / "README.md").read_text()
        assert "OpenRAIL" in card
        again = IPGPipeline.from_pretrained(tmp_path)
        again.set_progress_bar_config(disable=True)
        for name, part in pipe.components.items():
            if isinstance(part, torch.nn.Module):
                assert not again.components[name].training
                for key, value in part.state_dict().items():
                    assert torch.equal(again.components[name].state_dict()[key], value), (name, key)
        images = again(reference, drawings, **SIZE, latents=golden["init_latents"], output_type="pt").images
        assert difference(images[0], golden["images"]) < TOLERANCE

    def test_from_pth(self, folder, tmp_path, golden, reference, drawings):
        for path in folder.iterdir():
            torch.save(
                {f"module.{key}": value for key, value in load_file(path).items()}, tmp_path / f"{path.stem}.pth"
            )
        pipe = IPGPipeline.from_released_files(tmp_path, GOLDEN / "ipg" / "config.json", released_vae())
        pipe.set_progress_bar_config(disable=True)
        images = pipe(reference, drawings, **SIZE, latents=golden["init_latents"], output_type="pt").images
        assert difference(images[0], golden["images"]) < TOLERANCE


def reversed_channels(image):
    return Image.fromarray(np.asarray(image)[:, :, ::-1].copy())


class _Mutants:
    """Ways to get it wrong. Each changes a pipeline; the golden comparison must see it."""

    @staticmethod
    def bank_in_both_halves(_pipe, patch):
        def wrong(own, plain=None):
            memory = gather(own, plain)
            return {
                name: tuple(torch.cat([part, part]) for part in pair) if name.endswith("attn1") else pair
                for name, pair in memory.items()
            }

        patch.setattr(pipeline, "gather", wrong)

    @staticmethod
    def no_bank(pipe, patch):
        patch.setattr(pipe, "reference_bank", lambda *_: {})

    @staticmethod
    def pose_in_one_half(_pipe, patch):
        def wrong(self, _module, _args, output):
            features = self.features.clone()
            features[: len(features) // 2] = 0
            return output + features

        patch.setattr(PoseInput, "__call__", wrong)

    @staticmethod
    def reference_at_timestep_1(pipe, patch):
        forward = pipe.reference_unet.forward
        patch.setattr(pipe.reference_unet, "forward", lambda rows, t, **kw: forward(rows, t + 1, **kw))

    @staticmethod
    def unscaled_latents(pipe, patch):
        original = pipe.reference_latents
        patch.setattr(pipe, "reference_latents", lambda *args: original(*args) / 0.18215)

    @staticmethod
    def no_zero_terminal_snr(pipe, _patch):
        pipe.scheduler = DDIMScheduler(**{**CONFIG["scheduler"], "rescale_betas_zero_snr": False})

    @staticmethod
    def leading_timesteps(pipe, _patch):
        pipe.scheduler = DDIMScheduler(**{**CONFIG["scheduler"], "timestep_spacing": "leading"})

    @staticmethod
    def poses_with_red_and_blue_exchanged(pipe, patch):
        original = pipe.encode_poses
        patch.setattr(pipe, "encode_poses", lambda poses, *a: original([reversed_channels(p) for p in poses], *a))

    @staticmethod
    def layers_in_another_order(pipe, patch):
        original = pipe.reference_bank

        def wrong(*args):
            bank = original(*args)
            first, second = (f"up_blocks.1.attentions.{i}.transformer_blocks.0.attn1" for i in (0, 1))
            bank[first], bank[second] = bank[second], bank[first]
            return bank

        patch.setattr(pipe, "reference_bank", wrong)

    @staticmethod
    def unconditional_tokens_of_nothing(pipe, patch):
        original = pipe.identity_tokens
        patch.setattr(pipe, "identity_tokens", lambda image: original(image) * (0 if image is None else 1))


MUTANTS = [name for name in vars(_Mutants) if not name.startswith("_")]


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(pipe, golden, reference, drawings, monkeypatch, name):
    getattr(_Mutants, name)(pipe, monkeypatch)
    with predictions(pipe) as seen:
        latents = pipe(reference, drawings, **SIZE, latents=golden["init_latents"], output_type="latent").images
    last = golden["step3.latents"]
    assert max(difference(latents[0], last), difference(seen[0], golden["step0.unet_out"])) > 5 * TOLERANCE


class TestErrors:
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"references": []}, ValueError, "references must hold at least one"),
            ({"references": "person.jpg"}, TypeError, "references must be one or a list"),
            (
                {"references": [np.zeros((4, 4, 3))]},
                TypeError,
                r"references\[0\] must be a PIL image; received ndarray",
            ),
            ({"poses": [3]}, TypeError, r"poses\[0\] must be a PIL image or Pose; received int"),
            ({"poses": []}, ValueError, "poses must hold at least one"),
            ({"height": 100}, ValueError, "height must be a positive multiple of 8; received 100"),
            ({"width": 0}, ValueError, "width must be a positive multiple of 8; received 0"),
            ({"width": 32.0}, TypeError, "width must be an integer"),
            ({"batch_size": 0}, ValueError, "batch_size must be at least 1; received 0"),
            ({"num_inference_steps": True}, TypeError, "num_inference_steps must be an integer"),
            ({"output_type": "jpeg"}, ValueError, "output_type must be one of pil, np, pt, latent; received 'jpeg'"),
            ({"latents": torch.zeros(2, 4, 8, 4)}, ValueError, r"latents must have shape \(3, 4, 8, 4\)"),
            ({"reference_keys": ["a", "b"]}, ValueError, "reference_keys must have one key for each of 1; received 2"),
            ({"pose_keys": [1.5, 2, 3]}, TypeError, "pose_keys must be strings or integers; received float"),
            ({"seed": 1.5}, TypeError, "seed must be an integer"),
            ({"guidance_scale": float("nan")}, ValueError, "guidance_scale must be a finite number"),
            ({"callback_on_step_end_tensor_inputs": ["noise"]}, ValueError, "may hold 'latents' only"),
        ],
    )
    def test_are_told_before_anything_runs(self, shared_pipe, reference, drawings, monkeypatch, change, error, words):
        monkeypatch.setattr(shared_pipe, "encode_poses", lambda *_: pytest.fail("something ran"))
        arguments = {"references": reference, "poses": drawings, **SIZE} | change
        with pytest.raises(error, match=words):
            shared_pipe(arguments.pop("references"), arguments.pop("poses"), **arguments)


def test_record_leaves_nothing_behind(pipe):
    before = dict(pipe.reference_unet.attn_processors)
    with pytest.raises(RuntimeError, match="stop"), record(pipe.reference_unet):
        raise RuntimeError("stop")
    assert all(pipe.reference_unet.attn_processors[name] is processor for name, processor in before.items())


@pytest.mark.parametrize("kind", ["16 bits", "transparent", "turned"])
def test_opened_images_are_taken_as_files_are(pipe, tmp_path, kind):
    path = tmp_path / "person.png"
    pixels = np.random.default_rng(0).integers(0, 4096, (16, 8), dtype=np.uint16)
    if kind == "16 bits":
        Image.fromarray(pixels).save(path)
    elif kind == "transparent":
        Image.fromarray((pixels // 16).astype(np.uint8)[:, :2].reshape(4, 2, 4)).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray((pixels // 16).astype(np.uint8)).save(path, exif=exif)
    few = {**SIZE, "num_inference_steps": 1, "output_type": "latent"}
    pose = representative_poses()[0]
    with Image.open(path) as opened:
        ours = pipe(opened, pose, **few).images
        careless = pipe(Image.fromarray(np.asarray(opened.convert("RGB"))), pose, **few).images
    assert torch.equal(ours, pipe(read_image(path), pose, **few).images)
    assert not torch.equal(ours, careless)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"latents": np.zeros((1, 4, 8, 4), np.float32)}, TypeError, "latents must be a torch tensor of floats; "),
        ({"latents": torch.full((1, 4, 8, 4), torch.nan)}, ValueError, "latents must be finite"),
        ({"latents": torch.zeros(1, 4, 8, 4, dtype=torch.complex64)}, TypeError, "received torch.complex64"),
        ({"guidance_scale": np.complex64(2)}, TypeError, "guidance_scale must be a number"),
        ({"guidance_scale": 1e30}, ValueError, "guidance_scale must be a finite number, at most 10000; received 1e"),
        ({"guidance_scale": float("nan")}, ValueError, "received nan"),
        ({"num_inference_steps": 1001}, ValueError, "num_inference_steps must be at most 1000; received 1001"),
        ({"callback_on_step_end": 3}, TypeError, "callback_on_step_end must be callable; received int"),
        ({"callback_on_step_end": lambda *_: 5}, TypeError, "must return a dict or None; received int"),
        (
            {"callback_on_step_end": lambda *_: {"latents": torch.zeros(1)}},
            ValueError,
            r"must return latents of shape \(1, 4, 8, 4\); received \(1,\)",
        ),
        ({"reference_keys": "a"}, TypeError, "reference_keys must be a list of strings or integers; received str 'a'"),
        ({"pose_keys": 5}, TypeError, "pose_keys must be a list of strings or integers; received int 5"),
        ({"reference_keys": [1.5]}, TypeError, "reference_keys must be strings or integers"),
        ({"poses": [Image.new("RGB", (0, 4))]}, ValueError, "an image must have pixels; received one of 0 x 4"),
    ],
)
def test_what_does_not_fit_is_told_in_time(shared_pipe, change, error, words):
    options = {"poses": representative_poses()[:1], **SIZE, "output_type": "latent", **change}
    with pytest.raises(error, match=words):
        shared_pipe(portraits(1), **options)


def test_keys(pipe):
    few = {**SIZE, "num_inference_steps": 1, "output_type": "latent"}
    pose = representative_poses()[0]
    numbers = pipe(portraits(2), pose, **few, reference_keys=np.arange(2)).images
    assert torch.equal(numbers, pipe(portraits(2), pose, **few).images)
    with pytest.raises(ValueError, match="reference_keys must be different"):
        pipe(portraits(2), pose, **few, reference_keys=["a", "a"])


def test_parts_that_do_not_fit(pipe):
    parts = dict(pipe.components)
    wrong = {
        "vae": (tiny_vae({**CONFIG["vae"], "latent_channels": 8}), r"latent_channels of vae and .* \(8 and 4\)"),
        "ifr": (IFR(7, 2, 9), r"token_dim of ifr .* \(9 and .*in_features of ifr \(\d+ and 7\)"),
        "pose_encoder": (PoseEncoder(3, block_out_channels=[2, 2]), r"pixels per latent of vae .* \(8 and 2\)"),
        "scheduler": (
            DDIMScheduler(**{**CONFIG["scheduler"], "prediction_type": "x"}),
            "prediction_type of scheduler must be one of v_prediction, epsilon, sample; received 'x'",
        ),
    }
    for name, (part, words) in wrong.items():
        with pytest.raises(ValueError, match=words):
            IPGPipeline(**{**parts, name: part})
    for part in (None, 3, parts["vae"]):
        with pytest.raises(TypeError, match=f"unet must be a UNet2DConditionModel; received {type(part).__name__}"):
            IPGPipeline(**{**parts, "unet": part})


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"sample_size": 64}, ValueError, r"sample_size must be \[height, width\] in pixels, received 64"),
        ({"num_inference_steps": 2.5}, TypeError, "num_inference_steps must be an integer >= 1, received 2.5"),
        ({"guidance_scale": float("nan")}, ValueError, "guidance_scale must be a finite number >= 0, received nan"),
    ],
)
def test_defaults_that_cannot_be(shared_pipe, given, error, words):
    with pytest.raises(error, match=words):
        IPGPipeline(**shared_pipe.components, **given)


def test_options_that_the_pinned_weights_do_not_take():
    with pytest.raises(ValueError, match="cache_dir, local_files_only: these weights come at a pinned revision"):
        IPGPipeline.from_pretrained("yuanc3/Pose2ID", cache_dir="here", local_files_only=True)
