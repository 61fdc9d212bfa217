"""A generator that is made in a moment."""

import json

from diffusers import AutoencoderKL
from safetensors.torch import load_file

from pose2id.ipg import IPGPipeline
from support.golden import GOLDEN


def tiny_pipeline(folder):
    """The tiny pipeline of the golden data; its released files go to `folder`."""
    for file in (GOLDEN / "ipg").glob("*.safetensors"):
        name = "transformer_20.safetensors" if file.stem == "transreid" else file.name
        (folder / name).write_bytes(file.read_bytes())
    config = GOLDEN / "ipg" / "config.json"
    vae = AutoencoderKL(**json.loads(config.read_text())["vae"])
    vae.load_state_dict(load_file(folder / "vae.safetensors"))
    pipe = IPGPipeline.from_released_files(folder, config=config, vae=vae)
    pipe.set_progress_bar_config(disable=True)
    return pipe
