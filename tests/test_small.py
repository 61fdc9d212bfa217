"""The small encoder and the patch codec, alone and as parts of the pipeline."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers")
from diffusers import DDIMScheduler, UNet2DConditionModel
from PIL import Image
from support.pictures import smooth_pictures

from pose2id.ipg import IPGPipeline
from pose2id.ipg.networks import IFR, PatchCodec, PoseEncoder, SmallEncoder
from pose2id.ipg.weights import read_defaults


def as_pixels(pictures):
    return torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1


def test_the_codec_is_a_principal_component_analysis():
    pictures = smooth_pictures(60)
    codec = PatchCodec.fit(pictures, latent_channels=5)
    pixels = as_pixels(pictures)
    latents = codec.encode(pixels).latent_dist.mean
    assert latents.shape == (60, 5, 4, 2)
    # Patches by hand: (n, 4 rows, 2 columns) of 4 x 4 pixels, channel first.
    patches = pixels.double().reshape(60, 3, 4, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    centred = patches - patches.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    best = centred @ axes[:5].T @ axes[:5] + patches.mean(0)
    ours = codec.decode(latents).sample.double()
    ours = ours.reshape(60, 3, 4, 4, 2, 4).permute(0, 2, 4, 1, 3, 5).reshape(-1, 48)
    assert float((ours - best).abs().max()) < 1e-4
    deviations = latents.permute(1, 0, 2, 3).flatten(1).double().std(1, correction=0)
    wanted = (values[:5] ** 2 / len(patches)) ** 0.25  # the root of the standard deviation of each coefficient
    torch.testing.assert_close(deviations / deviations[0], wanted / wanted[0], atol=1e-4, rtol=0)
    assert float((deviations**2).mean()) == pytest.approx(1, abs=1e-4)


def test_the_codec_answers_as_an_autoencoder_does():
    codec = PatchCodec.fit(smooth_pictures(10))
    pixels = as_pixels(smooth_pictures(2, seed=1))
    (found,) = codec.encode(pixels, return_dict=False)
    assert torch.equal(found.mode(), found.mean)
    assert torch.equal(found.sample(), found.mean)
    (decoded,) = codec.decode(found.mean, return_dict=False)
    assert decoded.shape == pixels.shape
    assert not any(parameter.requires_grad for parameter in codec.parameters())
    with pytest.raises(ValueError, match=r"images must be uint8 of shape \(N, H, W, 3\), received float64 of \(2, 3\)"):
        PatchCodec.fit(np.zeros((2, 3)))


def test_the_encoder():
    encoder = SmallEncoder(img_size=(32, 16), channels=(4, 8, 8, 12), stripes=2, out_features=10).eval()
    pictures = [Image.fromarray(picture) for picture in smooth_pictures(3, 32, 16)]
    pixels = encoder.preprocess(pictures)
    assert pixels.shape == (3, 3, 32, 16)
    assert float(pixels[1, 2, 5, 7]) == pytest.approx(np.asarray(pictures[1])[5, 7, 2] / 127.5 - 1)
    features = encoder(pixels)
    assert features.shape == (3, encoder.feature_width) == (3, 10)
    torch.testing.assert_close(encoder(pixels[1:2]), features[1:2])
    with pytest.raises(ValueError, match=r"images must have shape \(N, 3, 32, 16\), as preprocess\(\) makes them"):
        encoder(torch.zeros(1, 3, 16, 32))
    with pytest.raises(TypeError, match=r"images\[0\] is a str"):
        encoder.preprocess(["person.jpg"])


def test_a_pipeline_of_small_parts(tmp_path):
    torch.manual_seed(0)
    unets = [
        UNet2DConditionModel(
            in_channels=6,
            out_channels=6,
            block_out_channels=[8, 16],
            down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
            layers_per_block=1,
            attention_head_dim=2,
            norm_num_groups=4,
            cross_attention_dim=12,
        ).eval()
        for _ in range(2)
    ]
    pipe = IPGPipeline(
        PatchCodec.fit(smooth_pictures(30, 32, 16), latent_channels=6),
        *unets,
        PoseEncoder(8, block_out_channels=(4, 4, 4)),
        IFR(10, 2, 12),
        SmallEncoder(img_size=(32, 16), channels=(4, 8, 8, 12), out_features=10).eval(),
        DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"),
        sample_size=(32, 16),
        num_inference_steps=2,
        guidance_scale=1.5,
    )
    pipe.set_progress_bar_config(disable=True)
    person = Image.fromarray(smooth_pictures(1, 32, 16)[0])
    drawn = pipe(person, output_type="np").images
    assert drawn.shape == (1, 8, 32, 16, 3)
    assert pipe(person, height=40, num_inference_steps=1, output_type="latent").images.shape == (1, 8, 6, 10, 4)
    with pytest.raises(ValueError, match="width must be a positive multiple of 4; received 18"):
        pipe(person, width=18)
    pipe.save_pretrained(tmp_path)
    again = IPGPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(again(person, output_type="np").images, drawn)
    assert again.defaults == read_defaults(tmp_path) == ((32, 16), 2, 1.5)
    # The paths in the file are a format: they are the old ones, and those of the classes are read as well.
    index = json.loads((tmp_path / "model_index.json").read_text())
    names = {"identity_encoder": "small", "vae": "small", "ifr": "modules", "pose_encoder": "modules"}
    assert {name: index[name][0] for name in names} == {name: f"pose2id.ipg.{path}" for name, path in names.items()}
    files = {"identity_encoder": "small_encoder", "vae": "patch_codec", "ifr": "ifr", "pose_encoder": "pose_encoder"}
    for name, file in files.items():
        index[name][0] = f"pose2id.ipg.networks.{file}"
    del index["num_inference_steps"], index["guidance_scale"], index["sample_size"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    again = IPGPipeline.from_pretrained(tmp_path)
    assert again.defaults == read_defaults(tmp_path) == ((512, 256), 20, 3.5)
    options = {"height": 32, "width": 16, "num_inference_steps": 2, "guidance_scale": 1.5, "output_type": "np"}
    np.testing.assert_array_equal(again(person, **options).images, drawn)
