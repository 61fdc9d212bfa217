"""Folders of `save_pretrained` that are not whole: refused by name before anything is drawn, or drawn as if whole.

``POSE2ID_FUZZ=300 pytest tests/test_model_folders.py -k mutated -s`` tries more, and prints how often what came out.
"""

import json
import os
import random
import shutil
from collections import Counter

import numpy as np
import pytest

pytest.importorskip("diffusers")
import torch
from diffusers import AutoencoderKL, DDIMScheduler
from PIL import Image
from safetensors.torch import load_file, save_file
from support.pipelines import tiny_pipeline

from pose2id.ipg import IPGPipeline, representative_poses
from pose2id.ipg.networks import IFR, SmallEncoder, TransReID
from pose2id.ipg.weights import parts, tiny_folder

PARTS = ("vae", "reference_unet", "unet", "pose_encoder", "ifr", "identity_encoder")
TRIALS = int(os.environ.get("POSE2ID_FUZZ", "14"))
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module", autouse=True)
def quiet():
    from diffusers.utils import logging

    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="module", autouse=True)
def _networks_are_built_once():
    """Whatever a folder's tensors are, the network that they are compared with is that of its settings."""
    build, built = parts._build, {}

    def build_once(kind, settings):
        asked = kind, json.dumps(settings)
        if asked not in built:
            built[asked] = build(kind, settings)
        return built[asked]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_build", build_once)
        yield


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(tiny_folder(), tmp_path / "model")


def draw(pipe):
    pipe.set_progress_bar_config(disable=True)
    person = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), dtype=np.uint8))
    size = {"height": 64, "width": 32, "num_inference_steps": 1, "guidance_scale": 2}
    return pipe(person, representative_poses()[:1], **size, output_type="np").images


def rewrite(folder, part, change):
    """Give a part's file the tensors that `change` makes of those in it."""
    state = load_file(folder / part / WEIGHTS)
    state = {key: tensor.clone() for key, tensor in state.items()}
    change(state)
    save_file(state, folder / part / WEIGHTS, metadata={"format": "pt"})


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def forget_record(folder):
    """As folders were before the settings of the parts were written down."""
    edit(folder / "model_index.json", lambda index: index.pop("_settings_sha256"))


def config_of(folder, part):
    return folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")


def all_keys():
    return [(part, key) for part in PARTS for key in load_file(tiny_folder() / part / WEIGHTS)]


def test_a_whole_folder_is_drawn_from(folder):
    assert np.array_equal(draw(IPGPipeline.from_pretrained(folder)), draw(IPGPipeline.from_pretrained("tiny")))


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ("vae", "mean"),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"),
        ("reference_unet", "conv_out.bias"),  # computed, though nothing depends on it
        ("pose_encoder", "conv_in.bias"),
        ("ifr", "norm_motion.bias"),
        ("identity_encoder", "neck.running_var"),  # a buffer
        ("identity_encoder", "neck.num_batches_tracked"),
    ],
)
def test_every_key_is_needed_and_no_other_taken(folder, part, key):
    whole = (folder / part / WEIGHTS).read_bytes()
    where = rf"{part}/{WEIGHTS} does not fit config\.json beside it; "
    cases = {
        lambda state: state.pop(key): rf"{where}missing keys: {key}$",
        lambda state: state.update({f"module.{key}": state.pop(key)}): (
            rf"{where}missing keys: {key}; unexpected keys: module\.{key}$"
        ),
        lambda state: state.update({key: state[key][None].clone()}): rf"{where}wrong shapes: {key} is \(1,",
        lambda state: state.update(
            {key: state[key].to(torch.complex64)}
        ): rf"{where}wrong shapes: {key} is .* complex64",
    }
    for change, words in cases.items():
        rewrite(folder, part, change)
        with pytest.raises(ValueError, match=words):
            IPGPipeline.from_pretrained(folder)
        (folder / part / WEIGHTS).write_bytes(whole)


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.int16, r"wrong shapes: conv_in\.bias is \(12,\) int16, must be \(12,\) float32"),
        (torch.float8_e4m3fn, r"wrong shapes: conv_in\.bias is \(12,\) float8_e4m3fn"),
        (torch.bfloat16, r"of another dtype than the rest: conv_in\.bias is \(12,\) bfloat16$"),
        (torch.float64, r"of another dtype than the rest: conv_in\.bias is \(12,\) float64$"),
    ],
)
def test_one_tensor_of_another_dtype(folder, dtype, words):
    rewrite(folder, "pose_encoder", lambda state: state.update({"conv_in.bias": state["conv_in.bias"].to(dtype)}))
    with pytest.raises(ValueError, match=words):
        IPGPipeline.from_pretrained(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    rewrite(folder, "identity_encoder", lambda state: state["neck.running_var"][3:4].fill_(value))
    with pytest.raises(ValueError, match=r"identity_encoder/.* NaN or inf: neck\.running_var$"):
        IPGPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: data[: len(data) // 2], "cannot be read: SafetensorError: "),
        (lambda data: data + b"x", "cannot be read: SafetensorError: "),
        (lambda _: b"", "cannot be read: SafetensorError: "),
        (lambda _: b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
    ],
)
def test_a_damaged_file(folder, damage, words):
    path = folder / "unet" / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=words) as caught:
        IPGPipeline.from_pretrained(folder)
    assert str(caught.value).startswith(str(path))
    path.unlink()
    with pytest.raises(FileNotFoundError, match=f"unet holds no {WEIGHTS} or "):
        IPGPipeline.from_pretrained(folder)


def test_other_forms_of_weights_are_checked_too(folder):
    expected = draw(IPGPipeline.from_pretrained(folder))
    state = load_file(folder / "ifr" / WEIGHTS)
    shards = {f"diffusion_pytorch_model-0000{i}-of-00002.safetensors": list(state)[i - 1 :: 2] for i in (1, 2)}
    for name, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / "ifr" / name, metadata={"format": "pt"})
    index = folder / "ifr" / f"{WEIGHTS}.index.json"
    places = {key: name for name, keys in shards.items() for key in keys}
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    (folder / "ifr" / WEIGHTS).unlink()
    assert np.array_equal(draw(IPGPipeline.from_pretrained(folder)), expected)
    first, second = shards
    for weight_map, words in (
        ({**places, "more": first}, rf"{WEIGHTS}\.index\.json and {first} disagree on keys: more"),
        (
            {key: place for key, place in places.items() if place == first},
            "does not fit config.json beside it; missing",
        ),
        ({**places, "more": f"../{second}"}, "which is no file beside it"),
        ({**places, "more": 3}, 'must hold "weight_map", names of files by key'),
    ):
        edit(index, lambda content, new=weight_map: content.update(weight_map=new))
        with pytest.raises((ValueError, OSError), match=words):
            IPGPipeline.from_pretrained(folder)
    index.unlink()
    torch.save(state, folder / "ifr" / "diffusion_pytorch_model.bin")
    assert np.array_equal(draw(IPGPipeline.from_pretrained(folder)), expected)
    torch.save(
        {key: tensor.to("meta") for key, tensor in state.items()}, folder / "ifr" / "diffusion_pytorch_model.bin"
    )
    with pytest.raises(
        ValueError, match=r"\.bin must hold dense tensors, '[\w.]+' in it has no numbers \(device meta\)"
    ):
        IPGPipeline.from_pretrained(folder)
    state.pop("proj_motion.bias")
    torch.save(state, folder / "ifr" / "diffusion_pytorch_model.bin")
    with pytest.raises(
        ValueError, match=r"\.bin does not fit config\.json beside it; missing keys: proj_motion\.bias$"
    ):
        IPGPipeline.from_pretrained(folder)


def test_a_variant_is_checked_and_parts_that_are_given_are_not(folder):
    pipe = IPGPipeline.from_pretrained(folder)
    expected = draw(pipe)
    rewrite(folder, "unet", lambda state: state.pop("conv_in.bias"))
    assert np.array_equal(draw(IPGPipeline.from_pretrained(folder, unet=pipe.unet)), expected)
    for part in PARTS:
        shutil.copy(tiny_folder() / part / WEIGHTS, folder / part / WEIGHTS.replace(".", ".fp16.", 1))
    assert np.array_equal(draw(IPGPipeline.from_pretrained(folder, variant="fp16")), expected)
    (folder / "unet" / WEIGHTS.replace(".", ".fp16.", 1)).write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"model\.fp16\.safetensors cannot be read"):
        IPGPipeline.from_pretrained(folder, variant="fp16")


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("unet", "attention_head_dim", 8),
        ("reference_unet", "norm_eps", 1e-6),
        ("scheduler", "rescale_betas_zero_snr", False),
        ("scheduler", "beta_end", 0.02),
        ("vae", "scaling_factor", 2.0),
        ("identity_encoder", "img_size", [32, 32]),
    ],
)
def test_settings_that_fit_the_same_tensors_are_those_that_were_saved(folder, part, name, value):
    edit(config_of(folder, part), lambda config: config.update({name: value}))
    with pytest.raises(
        ValueError, match=rf"{part}/\w+\.json does not hold the settings that the folder was saved with"
    ):
        IPGPipeline.from_pretrained(folder)
    forget_record(folder)  # the change is meant
    IPGPipeline.from_pretrained(folder)


@pytest.mark.parametrize("part", [*PARTS, "scheduler"])
def test_every_setting_is_there_and_no_other(folder, part):
    forget_record(folder)
    path = config_of(folder, part)
    whole = path.read_text()
    name = next(key for key in json.loads(whole) if not key.startswith("_"))
    for change, words in (
        (lambda config: config.pop(name), f"missing settings: {name}$"),
        (lambda config: config.update(more=1), "unknown settings: more$"),
        # diffusers passes over what this note names, and takes the defaults of the class instead
        (lambda config: config.update(_use_default_values=[name]), "unknown settings: _use_default_values$"),
        (lambda config: config.update(_class_name="Other"), r"must be for a \w+, it is for a Other$"),
    ):
        edit(path, change)
        with pytest.raises(ValueError, match=words) as caught:
            IPGPipeline.from_pretrained(folder)
        assert str(caught.value).startswith(str(path))
        path.write_text(whole)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"trained_betas": [0.1], "rescale_betas_zero_snr": False},
            r"received 1 from 0\.9 to 0\.9: mend",
        ),
        ({"trained_betas": [0.1] * 1001}, "received 1,001 from "),
        ({"beta_start": float("nan")}, "received 1,000 from nan to nan"),
        ({"rescale_betas_zero_snr": False, "beta_start": 1.5, "beta_end": 1.6}, "received 1,000 from -"),
    ],
)
def test_a_noise_schedule_that_cannot_be(folder, settings, words):
    forget_record(folder)
    edit(config_of(folder, "scheduler"), lambda config: config.update(settings))
    with pytest.raises(ValueError, match=words):
        IPGPipeline.from_pretrained(folder)


def test_an_older_diffusers_knew_fewer_settings(folder):
    forget_record(folder)
    for part in ("unet", "ifr"):
        edit(config_of(folder, part), lambda config: config.update(_diffusers_version="0.20.1"))
    edit(config_of(folder, "unet"), lambda config: config.pop("reverse_transformer_layers_per_block"))
    IPGPipeline.from_pretrained(folder)
    edit(config_of(folder, "ifr"), lambda config: config.pop("num_tokens"))  # a class of ours always had it
    with pytest.raises(ValueError, match=r"missing settings: num_tokens; it was saved by diffusers 0\.20\.1, this is "):
        IPGPipeline.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"unet": None}, "must name library and class of unet; received None"),
        ({"unet": [None, None]}, "must name library and class of unet"),
        (
            {"unet": ["diffusers", "UNet1DModel"]},
            "unet must be a UNet2DConditionModel; received UNet1DModel of diffusers",
        ),
        ({"ifr": ["os", "IFR"]}, "ifr must be a IFR; received IFR of os"),
        ({"ifr": ["pose2id.ipg.none", "IFR"]}, "received IFR of pose2id.ipg.none"),
        ({"scheduler": ["diffusers", "DDPMScheduler"]}, "scheduler must be a DDIMScheduler; received DDPMScheduler"),
        (
            {"vae": ["diffusers", "AutoencoderKL"]},
            "vae/config.json must be for a AutoencoderKL, it is for a PatchCodec",
        ),
        (
            {"guidance_scale": None},
            "must name sample_size, num_inference_steps, guidance_scale; missing: guidance_scale",
        ),
        ({"sample_size": 64}, "sample_size must be"),
        ({"_class_name": ["code", "Pipeline"]}, "names or holds code of its own"),
        ({"_settings_sha256": 3}, "_settings_sha256 must be an object; received 3"),
    ],
)
def test_the_index_of_a_pipeline(folder, change, words):
    edit(folder / "model_index.json", lambda index: index.update(change))
    with pytest.raises(ValueError, match=words):
        IPGPipeline.from_pretrained(folder)


def test_code_in_a_folder_does_not_run(folder, tmp_path):
    (folder / "None.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ValueError, match="holds code of its own"):
        IPGPipeline.from_pretrained(folder)
    assert not (tmp_path / "ran").exists()


def test_a_folder_of_released_files_is_told_apart(tmp_path):
    for name in (tmp_path / "none", "./none", "no/such/folder"):
        with pytest.raises(FileNotFoundError, match="is neither a folder nor a Hub id such as yuanc3/Pose2ID"):
            IPGPipeline.from_pretrained(name)
    with pytest.raises(FileNotFoundError, match=r"holds no model_index\.json.*from_released_files"):
        IPGPipeline.from_pretrained(tmp_path)


def test_encoders_and_networks_alone(tmp_path, folder):
    (tmp_path / "files").mkdir()
    reid = tiny_pipeline(tmp_path / "files").identity_encoder
    reid.save_pretrained(tmp_path / "reid")
    for kind, place in (
        (TransReID, tmp_path / "reid"),
        (SmallEncoder, folder / "identity_encoder"),
        (IFR, folder / "ifr"),
    ):
        state = kind.from_pretrained(place).state_dict()
        key = list(state)[-1]
        save_file({name: tensor for name, tensor in state.items() if name != key}, place / WEIGHTS)
        with pytest.raises(ValueError, match=rf"missing keys: {key}$"):
            kind.from_pretrained(place)
        with pytest.raises(ValueError, match=rf"missing keys: {key}$"):
            kind.from_pretrained(place.parent, subfolder=place.name)


def test_a_saved_pipeline_of_the_other_kinds(tmp_path):
    (tmp_path / "files").mkdir()
    pipe = tiny_pipeline(tmp_path / "files")
    pipe.save_pretrained(tmp_path / "saved")
    again = IPGPipeline.from_pretrained(tmp_path / "saved")
    assert (type(again.vae), type(again.identity_encoder)) == (AutoencoderKL, TransReID)
    rewrite(tmp_path / "saved", "identity_encoder", lambda state: state.pop("bottleneck.running_mean"))
    with pytest.raises(ValueError, match=r"missing keys: bottleneck\.running_mean$"):
        IPGPipeline.from_pretrained(tmp_path / "saved")


def test_pictures_that_are_no_numbers(folder):
    pipe = IPGPipeline.from_pretrained(folder)
    pipe.vae.to_patch.data[0] = float("inf")  # would be clamped to white
    with pytest.raises(ValueError, match=r"a drawn picture hold NaN or inf.*torch\.float32 or torch\.bfloat16"):
        draw(pipe)
    pipe = IPGPipeline.from_pretrained(folder)
    pipe.pose_encoder.conv_out.bias.data[0] = float("nan")
    seen = []
    with pytest.raises(ValueError, match="the drawn latents hold NaN or inf"):
        draw(pipe)
    with pytest.raises(ValueError, match="the latents after step 1 hold NaN or inf"):
        pipe(Image.new("RGB", (8, 8)), callback_on_step_end=lambda *given: seen.append(given))
    assert seen == []


def test_latents_of_a_callback_that_are_no_numbers():
    pipe = IPGPipeline.from_pretrained("tiny")
    pipe.set_progress_bar_config(disable=True)

    def write(_pipe, _step, _timestep, given):
        given["latents"][0] = float("nan")

    for callback in (write, lambda *given: {"latents": given[3]["latents"] / 0}):
        with pytest.raises(ValueError, match="callback_on_step_end must return finite latents"):
            pipe(Image.new("RGB", (8, 8)), callback_on_step_end=callback)
    with pytest.raises(TypeError, match=r"must return latents of floats; received torch\.int32"):
        pipe(Image.new("RGB", (8, 8)), callback_on_step_end=lambda *given: {"latents": given[3]["latents"].int()})


# --- mutations at random


def mutate_tensors(folder, rng):
    part = rng.choice(PARTS)
    kind = rng.choice(["remove", "rename", "add", "reshape", "crop", "dtype", "not finite", "exchange"])

    def change(state):
        key = rng.choice(list(state))
        tensor = state[key]
        if kind in ("remove", "rename"):
            state.pop(key)
        if kind == "rename":
            state[key + rng.choice(["_", ".weight", "x"])] = tensor
        elif kind == "add":
            state[rng.choice(["more", f"module.{key}", f"{key}.more"])] = tensor.clone()
        elif kind == "reshape":
            state[key] = tensor[None].clone() if tensor.ndim < 2 else tensor.flatten()
        elif kind == "crop":
            state[key] = tensor[:-1].clone() if tensor.ndim else tensor[None]
        elif kind == "dtype":
            new = rng.choice([torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8, torch.bool])
            state[key] = tensor.to(new) if new != tensor.dtype else tensor.to(torch.int32)
        elif kind == "not finite":
            floats = [tensor for tensor in state.values() if tensor.is_floating_point()]
            rng.choice(floats).view(-1)[0] = rng.choice([float("nan"), float("inf"), -float("inf")])
        elif kind == "exchange":
            other = rng.choice([name for name in state if state[name].shape != tensor.shape])
            state[key], state[other] = state[other], tensor

    rewrite(folder, part, change)
    return f"tensor {kind}"


def mutate_settings(folder, rng):
    part = rng.choice([*PARTS, "scheduler", "scheduler"])
    kind = rng.choice(["change", "remove", "rename", "add", "null"])

    def change(config):
        name = rng.choice([name for name in config if not name.startswith("_")])
        value = config[name]
        if kind in ("remove", "rename"):
            config.pop(name)
        if kind == "rename":
            config[name + "s"] = value
        elif kind == "add":
            config["more"] = value
        elif kind == "null":
            config[name] = None
        elif kind == "change":
            numbers = [value * 2, value + 1, -value, 0] if isinstance(value, (int, float)) else []
            config[name] = rng.choice([*numbers, "x", [1, 2], {}, not value])

    edit(config_of(folder, part), change)
    return f"setting {kind}"


def mutate_index(folder, rng):
    def change(index):
        name = rng.choice([name for name in index if not name.startswith("_diff")])
        if rng.random() < 0.4:
            index.pop(name)
        else:
            index[name] = rng.choice([None, [], ["diffusers", "AutoencoderKL"], "x", 3, {}, ["pose2id.ipg.small", "x"]])

    edit(folder / "model_index.json", change)
    return "index"


def mutate_file(folder, rng):
    path = rng.choice(sorted(path for path in folder.rglob("*.*") if path.suffix in (".json", ".safetensors")))
    data = path.read_bytes()
    kind = rng.choice(["cut", "empty", "gone", "longer", "header", "a folder", "deep", "another's"])
    path.unlink()
    if kind == "a folder":
        path.mkdir()
    elif kind != "gone":
        others = sorted(other for other in folder.rglob(f"*{path.suffix}"))
        new = {
            "cut": data[: rng.randrange(1, len(data))],
            "empty": b"",
            "longer": data + b"\0\0",
            "header": data[:20] + bytes([data[20] ^ 1]) + data[21:],
            "deep": b"[" * 100000,
            "another's": rng.choice(others).read_bytes(),
        }
        path.write_bytes(new[kind])
    return f"file {kind}"


def mutate_extras(folder, rng):
    place = rng.choice([folder, *(folder / part for part in PARTS)])
    names = [
        "notes.txt",
        ".hidden",
        "None.py",
        "unet.py",
        "x.safetensors",
        "diffusion_pytorch_model.bin",
        "config.yaml",
    ]
    names += [
        f"{WEIGHTS}.index.json",
        "diffusion_pytorch_model.fp16.safetensors",
        "diffusion_pytorch_model.bin.index.json",
    ]
    name = rng.choice(names)
    (place / name).write_bytes(rng.choice([b"", b"{}", b'{"weight_map": {"a": "../b"}}', b"raise SystemExit(3)"]))
    return f"extra file {name}"


def try_mutations(place, count, seed=0):
    """How many of `count` mutated folders ended how."""
    rng = random.Random(seed)  # noqa: S311
    expected = draw(IPGPipeline.from_pretrained("tiny"))
    kinds = [mutate_tensors, mutate_tensors, mutate_settings, mutate_settings, mutate_index, mutate_file, mutate_extras]
    outcomes = Counter()
    for number in range(count):
        folder = shutil.copytree(tiny_folder(), place / "mutated")
        what = kinds[number % len(kinds)](folder, rng)
        try:
            pipe = IPGPipeline.from_pretrained(folder)
        except (ValueError, OSError) as error:
            words = str(error)
            assert "\n" not in words, (what, words)
            assert str(folder) in words, (what, words)
            outcomes[what, type(error).__name__] += 1
        else:
            assert np.array_equal(draw(pipe), expected), what
            outcomes[what, "the same picture"] += 1
        shutil.rmtree(folder)
    return outcomes


def test_a_mutated_folder_is_refused_or_drawn_from_as_if_whole(tmp_path):
    outcomes = try_mutations(tmp_path, TRIALS)
    refused = sum(count for (_, end), count in outcomes.items() if end != "the same picture")
    print(f"{TRIALS} model folders: {refused} refused, {TRIALS - refused} the same picture")  # noqa: T201
    assert refused > TRIALS / 2


def test_the_scheduler_of_a_folder_keeps_the_released_settings():
    scheduler = IPGPipeline.from_pretrained("tiny").scheduler
    assert isinstance(scheduler, DDIMScheduler)
    assert float(scheduler.alphas_cumprod[-1]) == 0  # zero terminal SNR: the noise that drawing starts from
