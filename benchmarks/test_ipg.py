"""The generator: ours against the released schedule (2 rows of the reference for each picture, nothing cached).

Equality first, then interleaved runs, medians. On a CPU a random model of middle size; on a CUDA device the full size,
random weights, 512 x 256, 20 steps, 8 poses.
"""

from __future__ import annotations

import copy
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from PIL import Image
from reference import ipg as plain

from pose2id.ipg import representative_poses
from pose2id.ipg.weights.configuration import read_config

HEAD = ("generator", "pictures", "size", "steps", "ours [s]", "released schedule [s]", "ratio", "equality")
GPU_HEAD = ("generator, full size", "dtype", "compiled", "pictures/s", "released schedule", "ratio", "peak memory")
POSES = representative_poses()


def middle_config():
    """SD 1.5's plan with a fifth of its width."""
    config = read_config(None)
    config["unet"] |= {"block_out_channels": [64, 128, 256, 256], "layers_per_block": 1}
    config["vae"] = json.loads((Path(plain.__file__).parents[1] / "golden/ipg/config.json").read_text())["vae"]
    config["pose_guider"]["conditioning_embedding_channels"] = 64
    config["transreid"] |= {"depth": 3, "embed_dim": 96, "num_heads": 3}
    config["ifr"]["in_features"] = 480
    return config


def person():
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (128, 64, 3), dtype=np.uint8))


def both(pipe, noise, size, steps):
    """The two ways to the latents of 8 poses of one person."""
    height, width = size
    options = {"height": height, "width": width}

    def ours():
        return pipe(
            person(), POSES, **options, num_inference_steps=steps, latents=noise, output_type="latent"
        ).images.flatten(0, 1)

    def released():
        return plain.plainly(pipe, [person()] * 8, POSES, noise, **options, steps=steps, guidance=3.5)

    return ours, released


def test_against_the_released_schedule(report, full):
    pipe = plain.random_pipe(middle_config())
    sizes = [((256, 128), 4)] + ([((512, 256), 4), ((512, 256), 20)] if full else [])
    for size, steps in sizes:
        noise = torch.randn(8, 4, size[0] // 8, size[1] // 8, generator=torch.Generator().manual_seed(0))
        calls = both(pipe, noise, size, steps)
        difference = float((calls[0]() - calls[1]()).abs().max())
        assert difference < 1e-4
        seconds = [[], []]
        for _ in range(3 if steps < 20 else 1):
            for call, times in zip(calls, seconds, strict=True):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
        ours, released = map(statistics.median, seconds)
        cells = f"{ours:.2f}", f"{released:.2f}", f"{released / ours:.2f}x", f"to {difference:.0e}"
        report("Generator", HEAD, "random, middle size", 8, f"{size[0]} x {size[1]}", steps, *cells)


FULL_SIZE = """
import resource, sys, time
sys.path[:0] = sys.argv[1:]
from reference import ipg as plain
from pose2id.ipg import representative_poses
from pose2id.ipg.weights.configuration import read_config
from test_ipg import person
pipe = plain.random_pipe(read_config(None))
seconds = []
for steps in (2, 1, 3):  # the first call is the slowest
    start = time.perf_counter()
    pipe(person(), representative_poses()[:1], num_inference_steps=steps)
    seconds.append(time.perf_counter() - start)
print(*seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_full_size_on_a_cpu(report, full):
    """One picture of 512 x 256 in float32; the peak is of the whole process, libraries and weights included."""
    if not full or sys.platform != "linux":
        pytest.skip("needs --full, on Linux")
    folders = [str(Path(__file__).parent), str(Path(plain.__file__).parents[1])]
    done = subprocess.run([sys.executable, "-c", FULL_SIZE, *folders], capture_output=True, text=True, check=True)
    two, one, three, peak = map(float, done.stdout.split())
    assert peak < 24e9
    head = (
        "generator, full size, float32",
        "pictures",
        "size",
        "2 steps, first call [s]",
        "a step more [s]",
        "peak of the process",
    )
    cells = 1, "512 x 256", f"{two:.1f}", f"{(three - one) / 2:.1f}", f"{peak / 2**30:.1f} GiB"
    report("Generator, full size on a CPU", head, "random weights", *cells)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_full_size_on_a_gpu(report, full, dtype, compiled):
    if not full:
        pytest.skip("needs --full")
    with torch.device("cuda"):
        pipe = plain.random_pipe(read_config(None))
    pipe = pipe.to("cuda", dtype)
    stock = copy.copy(pipe.components)
    if compiled:
        pipe.unet = torch.compile(pipe.unet)
    noise = torch.randn(8, 4, 64, 32, generator=torch.Generator().manual_seed(0)).to("cuda")

    def ours():
        return pipe(person(), POSES, latents=noise, output_type="pt").images

    def released():
        stock_pipe = type(pipe)(**stock)
        latents = plain.plainly(
            stock_pipe, [person()] * 8, POSES, noise.to(dtype), height=512, width=256, steps=20, guidance=3.5
        )
        return plain.decode(stock_pipe.vae, latents.to(dtype))

    assert float((ours()[0].float() - released().float()).abs().mean()) < 0.05
    torch.cuda.reset_peak_memory_stats()
    seconds = [[], []]
    for _ in range(3):
        for call, times in zip((ours, released), seconds, strict=True):
            torch.cuda.synchronize()
            start = time.perf_counter()
            call()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
            if call is ours:
                peak = torch.cuda.max_memory_allocated()
    fast, slow = map(statistics.median, seconds)
    cells = f"{8 / fast:.1f}", f"{8 / slow:.1f}", f"{slow / fast:.2f}x", f"{peak / 2**30:.1f} GiB"
    report("Generator on a GPU", GPU_HEAD, "8 poses of one person, 512 x 256, 20 steps", dtype, compiled, *cells)
