"""The released weights: what is read, what is refused, what is fetched, and that a conversion is whole or not there."""

import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

import huggingface_hub.file_download  # noqa: E402
import huggingface_hub.utils  # noqa: E402
from huggingface_hub import constants  # noqa: E402
from huggingface_hub.errors import EntryNotFoundError  # noqa: E402
from PIL import Image  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from pose2id import MissingExtraError, cli  # noqa: E402
from pose2id.ipg import IPGPipeline, weights  # noqa: E402
from pose2id.ipg.weights import (  # noqa: E402
    FILES,
    conversion,
    convert,
    converted_folder,
    download,
    fetching,
    from_hub,
    info,
    loading,
    model_card,
)
from pose2id.ipg.weights.configuration import read_config  # noqa: E402
from pose2id.ipg.weights.loading import (  # noqa: E402
    ABSENT,
    load_components,
    load_encoder,
    load_state,
    read_state,
)

GOLDEN = Path(__file__).parent / "golden"
MANIFEST = json.loads((GOLDEN / "manifest" / "manifest.json").read_text())
CONFIG = json.loads((GOLDEN / "ipg" / "config.json").read_text())
# The component, its released file, the file of the golden set.
PARTS = [
    ("reference_unet", "reference_unet", "reference_unet"),
    ("unet", "denoising_unet", "denoising_unet"),
    ("pose_encoder", "pose_guider", "pose_guider"),
    ("ifr", "IFR", "IFR"),
    ("identity_encoder", "transformer_20", "transreid"),
]
STATES = {file: load_file(GOLDEN / "ipg" / f"{golden}.safetensors") for _, file, golden in PARTS}


def write(folder, states=STATES, suffix=".safetensors"):
    """The five files under their released names."""
    folder.mkdir(exist_ok=True, parents=True)
    for name, state in states.items():
        if suffix == ".safetensors":
            save_file(state, folder / f"{name}.safetensors")
        else:
            torch.save(state, folder / f"{name}.pth")
    return folder


def without(state, *keys):
    return {key: tensor for key, tensor in state.items() if key not in keys}


@pytest.fixture(params=[".safetensors", ".pth"])
def suffix(request):
    return request.param


@pytest.fixture
def vae():
    autoencoder = diffusers.AutoencoderKL(**CONFIG["vae"])
    autoencoder.load_state_dict(load_file(GOLDEN / "ipg" / "vae.safetensors"))
    return autoencoder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home of the Hub's client, which has no network."""
    for name, value in (("HF_HOME", "home"), ("HF_HUB_CACHE", "home/hub")):
        monkeypatch.setattr(constants, name, str(tmp_path / value))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home"


def cache(home, file, content):
    """Put a file where the Hub's client keeps it; gives the path that the client answers with."""
    blob = (
        home / "hub" / f"models--{file.repository.replace('/', '--')}" / "blobs" / hashlib.sha256(content).hexdigest()
    )
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(content)
    return link(home, file, blob)


def link(home, file, blob):
    path = home / "hub" / blob.parent.parent.name / "snapshots" / file.revision / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(blob)
    return path


# --- the table and the configuration


def test_the_table():
    assert {(file.repository, file.revision) for file in FILES} == {
        ("yuanc3/Pose2ID", "27df92c15ebf2833a66eaa435460b7b71c3fa3be"),
        ("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493"),
    }
    numbers = {file.name.removesuffix(".pth"): file.numbers for file in FILES}
    for name, shapes in MANIFEST.items():
        assert numbers[name] == sum(math.prod(shape) for shape in shapes.values())
    autoencoder = meta(diffusers.AutoencoderKL, read_config()["vae"])
    assert numbers["diffusion_pytorch_model.safetensors"] == sum(p.numel() for p in autoencoder.parameters())
    for file in FILES:
        assert file.estimate == (None if file.numbers is None else 4 * file.numbers)
        if file.size is not None and file.numbers is not None:  # the rest is the header
            assert 0 < file.size - file.estimate < 100_000


def meta(cls, block):
    with torch.device("meta"):
        return cls(**{key: value for key, value in block.items() if not key.startswith("_")})


def shapes(module):
    return {key: list(tensor.shape) for key, tensor in module.state_dict().items()}


def test_the_full_size_is_that_of_the_released_files():
    from pose2id.ipg.networks import IFR, PoseEncoder, TransReID

    config = read_config()
    unet = shapes(meta(diffusers.UNet2DConditionModel, config["unet"]))
    assert unet == MANIFEST["denoising_unet"]
    assert without(unet, *ABSENT) == MANIFEST["reference_unet"]
    assert shapes(meta(PoseEncoder, config["pose_guider"])) == MANIFEST["pose_guider"]
    assert shapes(meta(IFR, config["ifr"])) == MANIFEST["IFR"]
    assert shapes(meta(TransReID, config["transreid"])) == MANIFEST["transformer_20"]
    assert config["scheduler"] == CONFIG["scheduler"]
    for name, block in CONFIG.items():
        assert name == "run" or config[name].keys() - {"_class_name", "_diffusers_version"} == block.keys() - {
            "_class_name",
            "_diffusers_version",
        }


def test_the_public_configurations_are_as_published():
    """The very files: Git's and Git LFS's hashes of unet/config.json and of the autoencoder's config.json."""
    published = {name: (json.dumps(read_config()[name], indent=2) + "\n").encode() for name in ("unet", "vae")}
    blob = b"blob %d\0" % len(published["unet"]) + published["unet"]
    assert hashlib.new("sha1", blob, usedforsecurity=False).hexdigest() == "1a02ee8abc93e840ffbcb2d68b66ccbcb74b3ab3"
    (file,) = (file for file in FILES if file.name == "config.json")
    assert len(published["vae"]) == file.size
    assert hashlib.sha256(published["vae"]).hexdigest() == file.sha256


def test_a_config_is_a_dict_or_a_file(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG))
    expected = without(CONFIG, "run")
    assert read_config(CONFIG) == read_config(path) == read_config(str(path)) == expected
    assert read_config(without(CONFIG, "vae")) == without(expected, "vae")
    read_config(CONFIG)["ifr"]["num_tokens"] = 5
    read_config()["unet"]["block_out_channels"].append(5)
    assert CONFIG["ifr"]["num_tokens"] == 4
    assert read_config()["unet"]["block_out_channels"] == [320, 640, 1280, 1280]


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (without(CONFIG, "ifr", "unet"), ValueError, "missing: unet, ifr, unknown: none"),
        ({**CONFIG, "text_encoder": {}}, ValueError, "missing: none, unknown: text_encoder"),
        ({**CONFIG, "ifr": [1]}, TypeError, "config: block 'ifr' must be a dict; received list"),
        ([CONFIG], TypeError, "config must be a dict of blocks or a path to JSON; received list"),
        (3, TypeError, "received int"),
        ("none.json", FileNotFoundError, "config none.json is not a file"),
    ],
)
def test_a_wrong_config(config, error, message):
    with pytest.raises(error, match=message):
        read_config(config)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_a_config_file_that_is_not_json(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        read_config(path)


# --- files


def same(state, expected):
    assert state.keys() == expected.keys()
    for key, tensor in expected.items():
        assert state[key].dtype == tensor.dtype
        assert torch.equal(state[key], tensor), key


def test_a_file_is_read(tmp_path, suffix):
    write(tmp_path, suffix=suffix)
    for name, state in STATES.items():
        same(read_state(tmp_path, name), state)
        same(read_state(str(tmp_path), name), state)


def test_wrappings_of_a_pth(tmp_path):
    state = STATES["IFR"]
    wrapped = {f"module.{key}": tensor for key, tensor in state.items()}
    for content in (wrapped, {"state_dict": wrapped, "epoch": 20}, {"state_dict": state}):
        torch.save(content, tmp_path / "IFR.pth")
        same(read_state(tmp_path, "IFR"), state)
        torch.save(content, tmp_path / "IFR.pth", _use_new_zipfile_serialization=False)
        same(read_state(tmp_path, "IFR"), state)


def test_safetensors_before_pth(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "IFR.pth")
    save_file({"a": torch.ones(1)}, tmp_path / "IFR.safetensors")
    same(read_state(tmp_path, "IFR"), {"a": torch.ones(1)})


def test_a_missing_file(tmp_path):
    command = "pose2id weights download"
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds neither IFR.safetensors nor IFR.pth.*{command}"):
        read_state(tmp_path, "IFR")
    with pytest.raises(FileNotFoundError, match=rf"none is not a folder; IFR was looked for in it.*{command}"):
        read_state(tmp_path / "none", "IFR")
    (tmp_path / "model_index.json").touch()
    with pytest.raises(FileNotFoundError, match=r"IPGPipeline\.from_pretrained reads it"):
        read_state(tmp_path, "IFR")


class Malice:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class Shell(Malice):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluated(Malice):
    def __reduce__(self):
        return eval, (f"__import__('pathlib').Path({str(self.path)!r}).touch()",)


@pytest.mark.parametrize("kind", [Malice, Shell, Evaluated])
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"weight": torch.ones(2), "bias": x}, lambda x: {"a": 1, "state_dict": [x]}]
)
@pytest.mark.parametrize("save", ["zip", "legacy", "pickle"])
@pytest.mark.parametrize("environment", [{}, {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}])
def test_code_in_a_file_is_refused_and_does_not_run(tmp_path, monkeypatch, kind, wrap, save, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    trace, path = tmp_path / "trace", tmp_path / "IFR.pth"
    content = wrap(kind(trace))
    if save == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=save == "zip")
    refusal = r"it is damaged, or holds more than tensors" if save == "pickle" else r"it holds more than tensors \(.*\)"
    with pytest.raises(ValueError, match=rf"^{path} cannot be read: {refusal}, which is never loaded") as caught:
        read_state(tmp_path, "IFR")
    if save != "pickle":
        assert {Malice: "", Shell: "system", Evaluated: "eval"}[kind] in str(caught.value)
    assert "weights_only" not in str(caught.value)  # nobody is told to load it anyway
    assert not trace.exists()
    torch.load(path, weights_only=False) if save != "pickle" else pickle.loads(path.read_bytes())
    assert trace.exists()  # it would have run


def test_a_script_in_a_file_is_refused(tmp_path):
    path = tmp_path / "IFR.pth"
    torch.save({"weight": torch.ones(2)}, path)
    with zipfile.ZipFile(path, "a") as archive:  # the mark of TorchScript, which is code as well
        archive.writestr("IFR/constants.pkl", b"\x80\x02).")
    with pytest.raises(ValueError, match=r"IFR\.pth cannot be read: .*TorchScript"):
        read_state(tmp_path, "IFR")


def test_a_truncated_file(tmp_path, suffix):
    whole = (write(tmp_path, suffix=suffix) / f"IFR{suffix}").read_bytes()
    path = tmp_path / f"IFR{suffix}"
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"^{path} cannot be read: "):
            read_state(tmp_path, "IFR")
    path.write_bytes(whole)
    same(read_state(tmp_path, "IFR"), STATES["IFR"])


def test_a_truncated_file_of_the_older_format(tmp_path):
    path = tmp_path / "IFR.pth"
    torch.save(STATES["IFR"], path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    for length in (2, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=rf"^{path} cannot be read: "):
            read_state(tmp_path, "IFR")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "it is a Git LFS pointer"),
        (b"<!doctype html><title>404</title>", "it is no file of torch.save, it begins with b'<!doctype html>"),
    ],
)
def test_another_kind_of_file(tmp_path, content, message):
    (tmp_path / "IFR.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_state(tmp_path, "IFR")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.ones(1)], "must hold a dict of tensors, it holds a list"),
        ({"weight": torch.ones(1), "lr": 0.1}, "must hold tensors by name, 'lr' in it is a float"),
        ({1: torch.ones(1)}, "must hold tensors by name, 1 in it is a Tensor"),
        ({"a": torch.ones(1), "module.a": torch.ones(1)}, "holds a twice, with and without 'module.'"),
    ],
)
def test_a_file_without_named_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "IFR.pth")
    with pytest.raises(ValueError, match=rf"IFR\.pth {message}"):
        read_state(tmp_path, "IFR")


# --- into modules


def test_tensors_are_taken_without_a_copy():
    with torch.device("meta"):
        module = torch.nn.BatchNorm1d(3)
    state = {
        "weight": torch.arange(3.0),
        "bias": torch.ones(6, dtype=torch.float16)[::2],
        "running_mean": torch.ones(3, dtype=torch.float64),
        "running_var": torch.ones(3),
        "num_batches_tracked": torch.tensor(7),
    }
    load_state(module, state, where="a.pth")
    assert module.weight.data_ptr() == state["weight"].data_ptr()
    for key, tensor in module.state_dict().items():
        assert tensor.tolist() == state[key].tolist()
        assert tensor.dtype == (torch.int64 if key == "num_batches_tracked" else torch.float32)
        assert tensor.is_contiguous()


def test_absent_keys_are_absent_and_become_zeros():
    state = {"weight": torch.ones(1, 2)}
    module = torch.nn.Linear(2, 1)
    load_state(module, state, where="a.pth", absent=("bias",))
    assert module.bias.tolist() == [0]
    assert module.weight.tolist() == [[1, 1]]
    with pytest.raises(ValueError, match=r"^a\.pth does not fit; unexpected keys: weight$"):
        load_state(module, state, where="a.pth", absent=("weight", "bias"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bias": None}, "missing keys: bias"),
        ({"bias": None, "bais": torch.ones(1)}, "missing keys: bias; unexpected keys: bais"),
        ({"weight": torch.ones(2, 1)}, r"wrong shapes: weight is \(2, 1\) float32, must be \(1, 2\) float32"),
        ({"weight": torch.ones(2)}, r"wrong shapes: weight is \(2,\) float32, must be \(1, 2\) float32"),
        (
            {"weight": torch.ones(1, 2, dtype=torch.int64)},
            r"wrong shapes: weight is \(1, 2\) int64, must be \(1, 2\) float32",
        ),
        ({f"k{i}": torch.ones(1) for i in range(23)}, r"unexpected keys: k0, k1, .*, k19 and 3 more"),
    ],
)
def test_a_state_that_does_not_fit(change, message):
    module = torch.nn.Linear(2, 1)
    before = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    state = {"weight": torch.ones(1, 2), "bias": torch.ones(1), **change}
    with pytest.raises(ValueError, match=rf"^a\.pth does not fit; {message}$"):
        load_state(module, {key: tensor for key, tensor in state.items() if tensor is not None}, where="a.pth")
    same(module.state_dict(), before)


def test_all_components(tmp_path, suffix, vae):
    write(tmp_path, suffix=suffix)
    generator = torch.get_rng_state()
    components = load_components(tmp_path, CONFIG, vae)
    assert torch.equal(generator, torch.get_rng_state())
    assert components.keys() == {"vae", "scheduler", *(name for name, *_ in PARTS)}
    for name, file, _ in PARTS:
        state = components[name].state_dict()
        if name == "reference_unet":
            assert not any(state[key].any() for key in ABSENT)
            state = without(state, *ABSENT)
        same(state, STATES[file])
        assert not components[name].training
        assert not any(parameter.requires_grad for parameter in components[name].parameters())
    assert components["vae"] is vae
    assert not vae.training
    attention = components["unet"].down_blocks[0].attentions[0].transformer_blocks[0].attn1
    assert attention.heads == CONFIG["unet"]["attention_head_dim"] == 3
    assert dict(CONFIG["scheduler"]).items() <= dict(components["scheduler"].config).items()


def test_half_precision_and_an_encoder_without_classifiers(tmp_path, vae):
    """Parts that only training uses may be absent; they are zeros, not random."""
    states = {
        name: {k: t.half() if t.is_floating_point() else t for k, t in state.items()} for name, state in STATES.items()
    }
    classifiers = [key for key in STATES["transformer_20"] if key.startswith("classifier")]
    assert classifiers
    states["transformer_20"] = without(states["transformer_20"], *classifiers)
    components = load_components(write(tmp_path, states), CONFIG, vae)
    encoder = components["identity_encoder"].state_dict()
    same(
        {key: encoder.pop(key) for key in classifiers},
        {k: torch.zeros_like(STATES["transformer_20"][k]) for k in classifiers},
    )
    for state, file in ((encoder, "transformer_20"), (components["unet"].state_dict(), "denoising_unet")):
        same(state, {k: t.float() if t.is_floating_point() else t for k, t in states[file].items()})


def test_scheduler_keys_take_the_defaults_of_diffusers(tmp_path, vae):
    config = {**CONFIG, "scheduler": without(CONFIG["scheduler"], "timestep_spacing", "clip_sample")}
    scheduler = load_components(write(tmp_path), config, vae)["scheduler"]
    assert scheduler.config.timestep_spacing == diffusers.DDIMScheduler().config.timestep_spacing == "leading"
    assert scheduler.config.clip_sample is True


@pytest.mark.parametrize("missing", STATES)
def test_a_missing_component_is_named_first(tmp_path, missing, vae):
    states = {name: {"nonsense": torch.ones(1)} for name in STATES if name != missing}
    with pytest.raises(FileNotFoundError, match=f"holds neither {missing}.safetensors nor {missing}.pth"):
        load_components(write(tmp_path, states), CONFIG, vae)


@pytest.mark.parametrize("file", STATES)
def test_a_component_that_does_not_fit_is_named(tmp_path, suffix, file, vae):
    keys = {"transformer_20": "b1.0.attn.qkv.weight", "IFR": "proj_motion.weight"}
    key = keys.get(file, "conv_in.weight")
    tensor = STATES[file][key]
    path = tmp_path / f"{file}{suffix}"
    shape = rf"{tuple(tensor.shape)}".replace("(", r"\(").replace(")", r"\)")
    for state, message in (
        (without(STATES[file], key), rf"missing keys?:? {key}\b"),
        ({**STATES[file], "extra.weight": torch.ones(1)}, r"unexpected keys?:? extra\.weight\b"),
        ({**STATES[file], key: tensor[:-1].clone()}, rf"{key} .*must be {shape}"),
    ):
        write(tmp_path, {**STATES, file: state}, suffix)
        with pytest.raises(ValueError, match=message) as caught:
            load_components(tmp_path, CONFIG, vae)
        assert str(caught.value).startswith(str(path))


def test_only_the_output_of_the_reference_unet_may_be_absent(tmp_path, vae):
    states = {**STATES, "reference_unet": STATES["denoising_unet"]}
    with pytest.raises(ValueError, match=r"reference_unet\.safetensors does not fit; unexpected keys: ") as caught:
        load_components(write(tmp_path, states), CONFIG, vae)
    assert sorted(str(caught.value).rpartition("keys: ")[2].split(", ")) == sorted(ABSENT)
    states = {**STATES, "denoising_unet": STATES["reference_unet"]}
    with pytest.raises(ValueError, match=r"denoising_unet\.safetensors does not fit; missing keys: ") as caught:
        load_components(write(tmp_path, states), CONFIG, vae)
    assert sorted(str(caught.value).rpartition("keys: ")[2].split(", ")) == sorted(ABSENT)


@pytest.mark.parametrize(
    ("block", "change", "message"),
    [
        ("unet", {"heads": 8}, "config block 'unet' has unknown keys: heads; known are sample_size, in_channels,"),
        ("scheduler", {"beta_strat": 1}, "config block 'scheduler' has unknown keys: beta_strat"),
        ("unet", {"_class_name": "UNet3D"}, "'unet' must be for a UNet2DConditionModel, it is for a UNet3D"),
        ("unet", {"down_block_types": ["None"]}, "config block 'unet' does not fit UNet2DConditionModel: "),
        ("transreid", {"jpm": False}, "config block 'transreid' does not fit TransReID: jpm must be True"),
        ("vae", {"layers_per_block": 2}, "config block 'vae' is not that of stabilityai/sd-vae-ft-mse; pass the"),
    ],
)
def test_a_block_that_does_not_fit(tmp_path, block, change, message):
    config = {**CONFIG, block: {**CONFIG[block], **change}}
    with pytest.raises(ValueError, match=message):
        load_components(write(tmp_path), config)


# --- the autoencoder


def test_an_autoencoder_from_a_folder(tmp_path, vae):
    vae.save_pretrained(tmp_path / "vae")
    write(tmp_path)
    for place in (tmp_path / "vae", str(tmp_path / "vae")):
        loaded = load_components(tmp_path, CONFIG, place)["vae"]
        same(loaded.state_dict(), vae.state_dict())
        assert not loaded.training
        assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert loaded.config.scaling_factor == CONFIG["run"]["vae_scaling_factor"]


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_the_autoencoder_with_the_names_of_old_diffusers(tmp_path, vae):
    """The published file has them."""
    vae.save_pretrained(tmp_path / "vae")
    state = {}
    for key, tensor in vae.state_dict().items():
        for new, old in OLD_NAMES.items():
            key = key.replace(f".{new}.", f".{old}.") if ".attentions." in key else key
        state[key] = tensor
    assert state.keys() != vae.state_dict().keys()
    save_file(state, tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    same(load_components(write(tmp_path), CONFIG, tmp_path / "vae")["vae"].state_dict(), vae.state_dict())


def test_an_autoencoder_that_does_not_fit(tmp_path, vae):
    folder = tmp_path / "vae"
    vae.save_pretrained(folder)
    write(tmp_path)
    path, state = folder / "diffusion_pytorch_model.safetensors", vae.state_dict()
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    with pytest.raises(ValueError, match=rf"^vae {folder} cannot be loaded: "):
        load_components(tmp_path, CONFIG, folder)
    save_file(without(state, "decoder.conv_out.bias"), path)
    with pytest.raises(
        ValueError, match=rf"{folder} does not fit its config.json; missing keys: decoder.conv_out.bias$"
    ):
        load_components(tmp_path, CONFIG, folder)
    save_file({**state, "more": torch.ones(1)}, path)
    with pytest.raises(ValueError, match=rf"{folder} does not fit its config.json; unexpected keys: more$"):
        load_components(tmp_path, CONFIG, folder)
    path.unlink()
    torch.save(state, folder / "diffusion_pytorch_model.bin")  # pickled files of others are not read at all
    with pytest.raises(ValueError, match=rf"^vae {folder} cannot be loaded: "):
        load_components(tmp_path, CONFIG, folder)


@pytest.mark.usefixtures("home")
def test_no_autoencoder(tmp_path):
    write(tmp_path)
    with pytest.raises(TypeError, match="a folder, a Hub id or None; received int"):
        load_components(tmp_path, CONFIG, 3)
    with pytest.raises(FileNotFoundError, match="vae no/such/folder is neither a folder nor a Hub id such as "):
        load_components(tmp_path, CONFIG, "no/such/folder")
    with pytest.raises(OSError, match="vae nobody/nothing cannot be loaded: "):
        load_components(tmp_path, CONFIG, "nobody/nothing")
    for vae in (None, "stabilityai/sd-vae-ft-mse"):
        with pytest.raises(FileNotFoundError, match=r"config\.json of stabilityai/sd-vae-ft-mse \(revision 31f26fde"):
            load_components(tmp_path, without(CONFIG, "vae"), vae)


@pytest.mark.parametrize("place", [None, "stabilityai/sd-vae-ft-mse"])
def test_the_pinned_autoencoder_from_the_cache(tmp_path, home, monkeypatch, vae, place):
    vae.save_pretrained(tmp_path / "vae")
    contents = {path.name: path.read_bytes() for path in (tmp_path / "vae").iterdir()}
    pin(monkeypatch, contents)
    for file in fetching.FILES:
        if file.name in contents:
            cache(home, file, contents[file.name])
    loaded = load_components(write(tmp_path), without(CONFIG, "vae"), place)["vae"]
    same(loaded.state_dict(), vae.state_dict())


def pin(monkeypatch, contents):
    """The table as if these small files had been published."""
    known = {
        name: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }
    table = tuple(replace(file, **known.get(file.name, {"size": None, "sha256": None})) for file in FILES)
    monkeypatch.setattr(fetching, "FILES", table)


# --- the Hub


def test_download_finds_what_is_there(home):
    links = {file.name: cache(home, file, file.name.encode()) for file in FILES if file.size is None}
    assert download(["IFR.pth"]) == links["IFR.pth"].parent
    assert download([*links], progress=False) == links["IFR.pth"].parent == links["transformer_20.pth"].parent


@pytest.mark.usefixtures("home")
def test_download_asks_for_every_file_at_its_revision(monkeypatch, tmp_path):
    from huggingface_hub.utils import are_progress_bars_disabled

    asked = []

    def answer(repository, name, *, revision):
        asked.append((repository, name, revision, are_progress_bars_disabled()))
        (tmp_path / name).touch()
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
    pin(monkeypatch, {})
    for progress in (True, False):
        asked.clear()
        assert download(progress=progress) == tmp_path
        assert asked == [(file.repository, file.name, file.revision, not progress) for file in FILES]
    assert not are_progress_bars_disabled()


def test_download_says_what_is_missing_and_where(home):
    file = FILES[2]
    with pytest.raises(FileNotFoundError) as caught:
        download([file.name])
    assert str(caught.value) == (
        f"IFR.pth of yuanc3/Pose2ID (revision {file.revision}) is not in {home / 'hub'}, and HF_HUB_OFFLINE forbids to "
        "fetch it. With a connection, run: pose2id weights download (goes on where it broke off). "
        'The weights "tiny" are part of this package and draw synthetic pedestrians: --weights tiny, in Python '
        'from_pretrained("tiny")'
    )


@pytest.mark.usefixtures("home")
def test_weights_that_are_not_here_name_those_that_are(tmp_path, monkeypatch, capsys):
    """Whatever the way to them: not in the cache, no such folder, an unknown id, a folder without any."""
    hint = '--weights tiny, in Python from_pretrained("tiny")'

    def refuse(*_, **__):
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setattr(IPGPipeline, "download", refuse)
    (tmp_path / "empty").mkdir()
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (8, 16)).save(tmp_path / "photographs" / "a.png")
    for name in ("yuanc3/Pose2ID", "no/such/folder", "somebody/something", "nothing", str(tmp_path / "empty")):
        with pytest.raises((OSError, ValueError)) as caught:
            IPGPipeline.from_pretrained(name)
        assert name == str(tmp_path / "empty") or str(caught.value).endswith(hint), caught.value
        command = ["generate", str(tmp_path / "photographs"), "-o", str(tmp_path / "out"), "--weights", name]
        assert cli.main(command) == 2
        told = capsys.readouterr().err
        assert told.endswith(f"{hint}\n"), told
        assert told.count("\n") == 1
    with pytest.raises(FileNotFoundError) as caught:
        IPGPipeline.from_released_files(tmp_path)
    assert str(caught.value).endswith(hint)


FAILURES = [ConnectionError("no route"), EntryNotFoundError("404"), OSError(28, "No space left")]


@pytest.mark.parametrize("error", FAILURES)
@pytest.mark.parametrize("place", ["get_hf_file_metadata", "hf_hub_download"])
def test_download_that_fails(monkeypatch, hub, place, error):
    def fail(*_, **__):
        raise error

    hub(b"abc")
    monkeypatch.setattr(huggingface_hub, place, fail)
    words = str(error).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(OSError, match=rf"IFR\.pth of .* and https://mirror.example did not give it: {words}\. With a"):
        download(["IFR.pth"])


@pytest.fixture
def hub(home, monkeypatch):
    """A Hub that has IFR.pth, and breaks off where it is told; gives where each request began."""
    file = FILES[2]
    blobs = home / "hub" / "models--yuanc3--Pose2ID" / "blobs"

    def have(content, etag=None, until=None):
        begins = []
        etag = etag or hashlib.sha256(content).hexdigest()

        def describe(url):
            assert url == f"https://mirror.example/yuanc3/Pose2ID/resolve/{file.revision}/IFR.pth"
            return SimpleNamespace(size=len(content), etag=etag)

        def get(url, stream, *, resume_size, expected_size, **_):
            describe(url)
            assert expected_size == len(content)
            begins.append(resume_size)
            stream.write(content[resume_size:until])
            if until:
                raise ConnectionError("broke off")

        def answer(*_, **__):  # as the Hub's client: what is among the blobs is there
            if not (blobs / etag).exists():
                begins.append("by itself")
                return str(cache(home, file, content))
            return str(link(home, file, blobs / etag))

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", describe)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", answer)
        monkeypatch.setattr(huggingface_hub.file_download, "http_get", get)
        return begins

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "https://mirror.example")
    template = "https://mirror.example/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    return have


def test_a_broken_download_goes_on(hub, home):
    content = bytes(range(100))
    for until, begin in ((40, 0), (70, 40), (None, 70)):
        begins = hub(content, until=until)
        if until:
            with pytest.raises(OSError, match="did not give it: broke off"):
                download(["IFR.pth"])
        else:
            folder = download(["IFR.pth"])
        assert begins == [begin]
    assert (folder / "IFR.pth").read_bytes() == content
    assert [path.name for path in home.rglob("blobs/*")] == [hashlib.sha256(content).hexdigest()]


def test_what_came_wrong_is_deleted(hub, home):
    right, wrong = b"right", b"wrong"
    digest = hashlib.sha256(right).hexdigest()
    hub(wrong, etag=digest)
    with pytest.raises(
        OSError, match=rf"what came has SHA-256 {hashlib.sha256(wrong).hexdigest()}, must have {digest}"
    ):
        download(["IFR.pth"])
    assert not list(home.rglob("blobs/*"))
    begins = hub(right)
    (home / "hub" / "models--yuanc3--Pose2ID" / "blobs" / f"{digest}.pose2id").write_bytes(b"longer than it")
    assert (download(["IFR.pth"]) / "IFR.pth").read_bytes() == right
    assert begins == [0]


def test_a_small_file_is_left_to_the_client_of_the_hub(hub):
    begins = hub(b"{}", etag="a" * 40)
    assert (download(["IFR.pth"]) / "IFR.pth").read_bytes() == b"{}"
    assert begins == ["by itself"]


def test_download_checks_size_and_hash(home, monkeypatch):
    pin(monkeypatch, {"config.json": b"{}"})
    (file,) = (file for file in fetching.FILES if file.name == "config.json")
    for content, message in (
        (b"{", "has 1 bytes, must have 2"),
        (b"[]", "has SHA-256 4f53cda18c2baa0c.*, must have 44"),
    ):
        path = cache(home, file, content)
        with pytest.raises(ValueError, match=rf"^{path} {message}") as caught:
            download(["config.json"])
        assert f"delete {path.resolve()} and run: pose2id weights download" in str(caught.value)
        path.resolve().unlink()
        path.unlink()
    cache(home, file, b"{}")
    assert download(["config.json"]) == path.parent


@pytest.mark.parametrize("names", [["IFR"], [], ["IFR.pth", "no.pth"], "IFR.pth"])
def test_download_of_unknown_names(names):
    with pytest.raises(ValueError, match=r"^names must be one or more of denoising_unet\.pth, .*; received \["):
        download(names)


def test_info(home):
    rows = info()
    assert [row["name"] for row in rows] == [*(file.name for file in FILES), "converted"]
    assert all(row["path"] is None and row["bytes"] is None for row in rows)
    assert rows[0]["estimate"] == 4 * 859_520_964
    assert rows[0]["size"] is None
    path = cache(home, FILES[2], b"12345")
    folder = converted_folder()
    (folder / "unet").mkdir(parents=True)
    (folder / "unet" / "a").write_bytes(b"123")
    assert [row["name"] for row in info() if row["path"]] == ["IFR.pth"]
    (folder / "model_index.json").write_bytes(b"{}")
    rows = {row["name"]: row for row in info() if row["path"]}
    assert {name: (row["path"], row["bytes"]) for name, row in rows.items()} == {
        "IFR.pth": (str(path), 5),
        "converted": (str(folder), 5),
    }
    json.dumps(info())


def test_places_follow_the_environment(tmp_path):
    code = "from pose2id.ipg.weights import converted_folder, info; print(converted_folder(), info()[2]['path'])"
    (file,) = (file for file in FILES if file.name == "IFR.pth")
    path = cache(tmp_path, file, b"1")
    environment = {**without(os.environ, "HF_HUB_CACHE"), "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    answer = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(tmp_path / "pose2id" / "yuanc3--Pose2ID-27df92c15ebf-1"), str(path)]


# --- conversion


def public(config):
    return {key: value for key, value in config.items() if not key.startswith("_")}


def test_a_converted_folder_is_the_same_weights(tmp_path, suffix, vae):
    from pose2id.ipg import IPGPipeline

    folder = convert(write(tmp_path / "files", suffix=suffix), tmp_path / "out" / "converted", config=CONFIG, vae=vae)
    assert folder == tmp_path / "out" / "converted"
    assert [path.name for path in folder.parent.iterdir()] == ["converted"]
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pth", ".pt", ".pkl")]
    assert (folder / "README.md").read_text() == model_card()
    expected = load_components(tmp_path / "files", CONFIG, vae)
    pipe = IPGPipeline.from_pretrained(folder)
    for name, component in expected.items():
        if name == "scheduler":
            assert public(pipe.scheduler.config) == public(component.config)
        else:
            same(getattr(pipe, name).state_dict(), component.state_dict())
    saved = tmp_path / "saved"
    IPGPipeline(**expected).save_pretrained(saved)  # which conversion does without
    files = [path.relative_to(saved) for path in saved.rglob("*") if path.is_file()]
    assert len(files) == len([path for path in folder.rglob("*") if path.is_file()])
    for path in files:
        assert (folder / path).read_bytes() == (saved / path).read_bytes(), path
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "file").touch()
    for path in (folder, *folder.rglob("*")):
        assert path.stat().st_mode == (plain if path.is_dir() else plain / "file").stat().st_mode


@pytest.mark.usefixtures("home")
def test_a_folder_in_the_way(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists already; delete it or name another output"):
        convert(tmp_path, tmp_path / "there")
    converted_folder().mkdir(parents=True)
    with pytest.raises(ValueError, match="exists already"):
        convert(tmp_path)
    with pytest.raises(ValueError, match=r"is in the way: it holds no model_index\.json; delete it"):
        from_hub()  # before anything is fetched
    with pytest.raises(ValueError, match="is for the released weights; with config or vae, name another output"):
        convert(tmp_path, config=CONFIG)


class Save:
    """Writes a folder in two steps, with something in between."""

    def __init__(self, between=lambda: None):
        self.between = between

    def __call__(self, _components, folder):
        (folder / "unet").mkdir()
        self.between()
        (folder / "model_index.json").write_text("{}")


@pytest.fixture
def small(home, monkeypatch):  # noqa: ARG001
    """Conversion without weights; counts how often they are loaded."""
    loaded = []
    monkeypatch.setattr(loading, "load_components", lambda folder, *_: loaded.append(folder) or {})
    monkeypatch.setattr(conversion, "download", lambda: Path("downloaded"))
    monkeypatch.setattr(conversion, "save_components", Save())
    return loaded


def test_the_hub_is_converted_once(small, home):
    folder = from_hub()
    assert folder == converted_folder() == home / "pose2id" / "yuanc3--Pose2ID-27df92c15ebf-1"
    assert (folder / "model_index.json").is_file()
    assert from_hub() == from_hub("yuanc3/Pose2ID") == convert() == folder
    assert small == [Path("downloaded")]
    with pytest.raises(ValueError, match="repository must be 'yuanc3/Pose2ID'; received 'me/mine'"):
        from_hub("me/mine")


def test_files_from_elsewhere_become_the_converted_folder(small, tmp_path):
    assert convert(tmp_path) == from_hub() == converted_folder()
    assert small == [tmp_path]


def test_of_many_that_convert_at_once_one_does(small, monkeypatch):
    started = threading.Barrier(4)
    monkeypatch.setattr(conversion, "save_components", Save())
    folders = []

    def work():
        started.wait()
        folders.append(from_hub())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert folders == [converted_folder()] * 4
    assert len(small) == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_a_failed_conversion_leaves_nothing(monkeypatch, tmp_path, error):
    def fail():
        raise error

    monkeypatch.setattr(conversion, "save_components", Save(fail))
    words = "cannot be written: disk full" if isinstance(error, RuntimeError) else None
    kind = OSError if words else KeyboardInterrupt
    with pytest.raises(kind, match=words):
        from_hub()
    with pytest.raises(kind, match=words):
        convert(tmp_path, tmp_path / "out" / "mine")
    assert not list((tmp_path / "out").iterdir())
    assert [path.suffix for path in converted_folder().parent.iterdir()] == [".lock"]
    monkeypatch.setattr(conversion, "save_components", Save())
    assert (from_hub() / "model_index.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="needs fork")
@pytest.mark.usefixtures("small")
def test_what_a_killed_conversion_left_is_removed():
    folder = converted_folder()
    if (child := os.fork()) == 0:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(conversion, "save_components", Save(lambda: os._exit(9)))
            from_hub()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert [path.name for path in folder.parent.iterdir() if path.suffix != ".lock"] != []
    assert from_hub() == folder
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]


@pytest.mark.usefixtures("small")
def test_a_folder_that_appears_meanwhile_is_kept(monkeypatch, tmp_path):
    def another():
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "file").write_text("another's")

    monkeypatch.setattr(conversion, "save_components", Save(another))
    with pytest.raises(OSError, match="mine cannot be written: "):
        convert(tmp_path, tmp_path / "mine")
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["another's"]


@pytest.mark.usefixtures("small")
def test_what_is_there_needs_no_lock(monkeypatch):
    """Nor anything else that a home which may only be read would refuse."""
    folder = from_hub()
    monkeypatch.setattr(conversion, "lock", None)
    assert from_hub() == folder


# --- words


def test_the_model_card():
    card = model_card()
    for file in FILES:
        assert file.repository in card
        assert file.revision in card
        assert file.numbers is None or f"| {file.name} |" in card
    for words in ("OpenRAIL-M", "labelled MIT", "Not evidence", "Not surveillance", "## Limits"):
        assert words in card
    assert card.startswith("---\nlibrary_name: diffusers\n")
    assert "SOURCES" not in card


def test_without_the_extra(tmp_path, monkeypatch):
    for name in ("diffusers", "huggingface_hub", "huggingface_hub.utils", "huggingface_hub.constants"):
        monkeypatch.setitem(sys.modules, name, None)
    for act, package in (
        (lambda: load_components(tmp_path), "diffusers"),
        (download, "huggingface_hub"),
        (info, "huggingface_hub"),
        (from_hub, "huggingface_hub"),
    ):
        with pytest.raises(MissingExtraError, match=rf"needs {package}, which .*pip install .*'pose2id\[ipg\]'"):
            act()


def test_importing_needs_no_extra():
    code = (
        "import sys, pose2id.ipg.weights\n"
        "print([name for name in ('torch', 'diffusers', 'huggingface_hub', 'safetensors') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


# --- the command


def run(capsys, *arguments):
    code = cli.main(["weights", *map(str, arguments)])
    return code, *capsys.readouterr()


def test_the_command_shows_what_is_here(home, capsys):
    cache(home, FILES[2], b"x" * 200_000)
    code, out, err = run(capsys, "info")
    lines = out.splitlines()
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in lines[1 : len(FILES) + 1]] == [file.name for file in FILES]
    assert re.match(r"denoising_unet\.pth +about 3\.44 GB +no +denoising UNet", lines[1])
    assert re.match(r"IFR\.pth +0\.2 MB +yes ", lines[3])
    assert re.match(r"config\.json +547 bytes +no ", lines[6])
    assert lines[8] == "from yuanc3/Pose2ID, revision 27df92c15ebf2833a66eaa435460b7b71c3fa3be"
    assert lines[10:] == ["to fetch: about 7.63 GB; run: pose2id weights download", "converted: not yet"]
    code, out, _ = run(capsys, "info", "--json")
    assert (code, json.loads(out)) == (0, info())


def test_the_command_shows_the_converted_folder(small, home, capsys):
    assert small == []
    for file in FILES:
        cache(home, file, file.name.encode())
    folder = from_hub()
    _, out, _ = run(capsys, "info")
    assert "to fetch" not in out
    assert out.endswith(f"converted: {folder}, 2 bytes\n")


def test_the_command_downloads_and_converts(small, capsys, monkeypatch):
    asked = []
    for module in (weights, conversion):
        monkeypatch.setattr(module, "download", lambda **options: asked.append(options) or Path("downloaded"))
    assert run(capsys, "download", "--no-convert") == (0, "downloaded\n", "")
    assert small == []
    assert run(capsys, "download") == (0, f"{converted_folder()}\n", "")
    assert small == [Path("downloaded")]
    assert asked == [{"progress": False}, {"progress": False}, {}]


def test_the_command_converts_a_folder(tmp_path, vae, capsys):
    vae.save_pretrained(tmp_path / "vae")
    (tmp_path / "config.json").write_text(json.dumps(without(CONFIG, "vae")))
    options = "--config", tmp_path / "config.json", "--vae", tmp_path / "vae"
    files, out = write(tmp_path / "files"), tmp_path / "out"
    assert run(capsys, "convert", files, "-o", out, *options) == (0, f"{out}\n", "")
    assert (out / "model_index.json").is_file()
    code, _, err = run(capsys, "convert", files, "-o", out, *options)
    assert (code, err) == (2, f"pose2id weights: {out} exists already; delete it or name another output\n")
    code, _, err = run(capsys, "convert", files, *options)
    assert (code, err.endswith("with config or vae, name another output\n")) == (2, True)


@pytest.mark.usefixtures("home")
def test_the_command_without_a_connection(capsys, tmp_path):
    code, out, err = run(capsys, "download")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "denoising_unet.pth of yuanc3/Pose2ID" in err
    code, out, err = run(capsys, "convert", tmp_path / "none")
    assert (code, out) == (2, "")
    assert err.startswith(f"pose2id weights: {tmp_path / 'none'} is not a folder")


def test_half_a_file_sparse_tensors_and_other_kinds(tmp_path):
    torch.save({"a": torch.zeros(100_000)}, tmp_path / "IFR.pth")
    content = (tmp_path / "IFR.pth").read_bytes()
    (tmp_path / "IFR.pth").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"IFR\.pth cannot be read: "):
        read_state(tmp_path, "IFR")
    torch.save({"a": torch.eye(2).to_sparse()}, tmp_path / "IFR.pth")
    with pytest.raises(
        ValueError, match=r"IFR\.pth must hold dense tensors, 'a' in it has the layout torch.sparse_coo"
    ):
        read_state(tmp_path, "IFR")


def test_numbers_of_another_kind_in_the_encoder(tmp_path):
    write(tmp_path)
    state = load_file(tmp_path / "transformer_20.safetensors")
    name = next(key for key in state if key.endswith("blocks.0.norm1.weight"))
    save_file({**state, name: state[name].long()}, tmp_path / "transformer_20.safetensors")
    with pytest.raises(
        ValueError, match=r"transformer_20\.safetensors: .*blocks\.0\.norm1\.weight has dtype torch.int64"
    ):
        load_encoder(tmp_path, CONFIG)


def test_the_encoder_under_its_other_name(tmp_path):
    write(tmp_path)
    (tmp_path / "transformer_20.safetensors").rename(tmp_path / "transreid.safetensors")
    assert load_encoder(tmp_path, CONFIG).config.embed_dim == CONFIG["transreid"]["embed_dim"]
