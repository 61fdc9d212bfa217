"""The initialisation of a training: networks of Stable Diffusion, small random ones, or a copy of the denoiser."""

from __future__ import annotations

import math
import os

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from PIL import Image

from pose2id.errors import one_line
from pose2id.ipg.components import find_reduction, make_scheduler
from pose2id.ipg.networks import IFR, PoseEncoder, SmallEncoder, TransReID
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.configuration import STABLE_DIFFUSION, SmallModel
from pose2id.ipg.weights.loading import check_report

STABLE_DIFFUSION_REVISION = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"
"""The commit at which others pin that repository; licence CreativeML OpenRAIL-M."""
_POSE_LEVELS = (16, 32, 64, 128)


def copy_denoiser(pipe: IPGPipeline) -> None:
    """Give the reference network the weights of the denoiser.

    The paper starts both from one pretrained model. From scratch, the two learn to understand each other late; so a
    short first stage teaches the denoiser alone what people look like, and the reference network then begins as a copy.

    Parameters
    ----------
    pipe : IPGPipeline
        Its `reference_unet` is changed in place.

    Raises
    ------
    ValueError
        When the two are not built alike.

    Examples
    --------
    >>> from pose2id.ipg.training import copy_denoiser
    >>> copy_denoiser(pipe)  # doctest: +SKIP
    """
    states = [unet.state_dict() for unet in (pipe.unet, pipe.reference_unet)]
    shapes, own = ({(name, tensor.shape) for name, tensor in state.items()} for state in states)
    if wrong := sorted({name for name, _ in shapes ^ own}):
        raise ValueError(f"reference_unet and unet must be built alike; they differ in {', '.join(wrong[:5])}")
    pipe.reference_unet.load_state_dict(states[0])


def start_from_stable_diffusion(
    path_or_id: str | os.PathLike[str] = STABLE_DIFFUSION,
    *,
    vae: AutoencoderKL,
    identity_encoder: TransReID | SmallEncoder,
    scheduler: DDIMScheduler | None = None,
    num_tokens: int = 20,
    revision: str | None = None,
    seed: int = 0,
) -> IPGPipeline:
    """The paper's initialisation: both UNets from Stable Diffusion 1.5, a new pose encoder and a new IFR.

    Parameters
    ----------
    path_or_id : path or str
        A folder or a repository with a subfolder ``unet``; safetensors only.
    vae : AutoencoderKL
        The paper's is stabilityai/sd-vae-ft-mse.
    identity_encoder : TransReID or SmallEncoder
    scheduler : DDIMScheduler, optional
        None: zero terminal SNR, trailing timesteps, v-prediction, as released. Stable Diffusion 1.5 itself predicts
        the noise; its networks learn the velocity instead within the training.
    num_tokens : int
        Identity tokens.
    revision : str, optional
        None: for Stable Diffusion 1.5 a pinned commit, otherwise the newest.
    seed : int
        Of the new parts.

    Returns
    -------
    IPGPipeline
        Float32, on the CPU.

    Raises
    ------
    OSError, ValueError
        When there are no such weights, or not all of them.

    Examples
    --------
    >>> from pose2id.ipg.training import start_from_stable_diffusion
    >>> pipe = start_from_stable_diffusion(vae=vae, identity_encoder=encoder)  # doctest: +SKIP
    """
    if revision is None and os.fspath(path_or_id) == STABLE_DIFFUSION:
        revision = STABLE_DIFFUSION_REVISION
    options = {"subfolder": "unet", "revision": revision, "use_safetensors": True, "torch_dtype": torch.float32}
    unets = []
    for _ in range(2):
        unet, report = UNet2DConditionModel.from_pretrained(os.fspath(path_or_id), output_loading_info=True, **options)
        check_report(unet, report, f"unet of {path_or_id}")
        unets.append(unet)
    encoder = identity_encoder.eval()
    blank = encoder.preprocess([Image.new("RGB", (64, 128))])
    with torch.no_grad():
        width = encoder(blank.to(encoder.device, encoder.dtype)).shape[1]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        levels = _POSE_LEVELS[: int(math.log2(find_reduction(vae))) + 1]
        pose_encoder = PoseEncoder(unets[0].config.block_out_channels[0], block_out_channels=levels)
        ifr = IFR(in_features=width, num_tokens=num_tokens, token_dim=unets[0].config.cross_attention_dim)
    return IPGPipeline(vae, unets[0], unets[1], pose_encoder, ifr, encoder, scheduler or make_scheduler())


def make_small_networks(
    model: SmallModel, height: int, width: int
) -> tuple[UNet2DConditionModel, UNet2DConditionModel, PoseEncoder, IFR]:
    """The parts of a small generator that are to be trained, with random weights: both UNets, pose encoder, IFR."""
    feature_width = SmallEncoder(img_size=(height, width)).feature_width
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(model.seed)
            reference_unet, unet = (
                UNet2DConditionModel(
                    sample_size=(height // 4, width // 4),
                    in_channels=model.latent_channels,
                    out_channels=model.latent_channels,
                    block_out_channels=model.channels,
                    down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
                    up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"],
                    layers_per_block=model.layers,
                    attention_head_dim=model.heads,
                    norm_num_groups=model.groups,
                    cross_attention_dim=model.token_width,
                )
                for _ in range(2)
            )
            pose_encoder = PoseEncoder(model.channels[0], block_out_channels=model.pose_channels)
            ifr = IFR(feature_width, model.tokens, model.token_width)
    except Exception as error:  # numbers that do not fit each other make diffusers stumble in many ways
        raise ValueError(f"model: the networks cannot be built: {one_line(error, 200)}") from error
    return reference_unet, unet, pose_encoder, ifr
