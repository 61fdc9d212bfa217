"""The components of a generator: which fit together, and the DDIM scheduler as released."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers import DDIMScheduler

from pose2id.ipg.weights.configuration import read_config

SCHEDULERS = {
    "prediction_type": ("v_prediction", "epsilon", "sample"),
    "timestep_spacing": ("trailing", "leading", "linspace"),
}
"""Settings that the pipeline can draw with."""


def make_scheduler() -> DDIMScheduler:
    """A new DDIM scheduler with the released settings: zero terminal SNR, v-prediction, trailing timesteps."""
    return DDIMScheduler(**read_config()["scheduler"])


def find_reduction(vae: Any) -> int:
    """Pixels per latent, along each side."""
    levels = vae.config.get("block_out_channels")
    return int(vae.config.patch_size if levels is None else 2 ** (len(levels) - 1))


def check_components(components: Mapping[str, Any]) -> None:
    """Raise ValueError where parts do not fit together, or settings of the scheduler cannot be drawn with."""
    reference, unet, ifr, pose = (components[name].config for name in ("reference_unet", "unet", "ifr", "pose_encoder"))
    vae, encoder = components["vae"], components["identity_encoder"]
    pairs = {
        "in_channels of reference_unet and unet": (reference.in_channels, unet.in_channels),
        "latent_channels of vae and in_channels of unet": (vae.config.latent_channels, unet.in_channels),
        "token_dim of ifr and cross_attention_dim of unet": (ifr.token_dim, unet.cross_attention_dim),
        "conditioning_embedding_channels of pose_encoder and first block_out_channels of unet": (
            pose.conditioning_embedding_channels,
            unet.block_out_channels[0],
        ),
        "pixels per latent of vae and of pose_encoder": (find_reduction(vae), 2 ** (len(pose.block_out_channels) - 1)),
        "width of identity_encoder's feature and in_features of ifr": (encoder.feature_width, ifr.in_features),
    }
    if faults := [f"{name} ({one} and {other})" for name, (one, other) in pairs.items() if one != other]:
        raise ValueError(f"the parts do not fit, these must be equal: {'; '.join(faults)}")
    for name, allowed in SCHEDULERS.items():
        if (value := components["scheduler"].config[name]) not in allowed:
            raise ValueError(f"{name} of scheduler must be one of {', '.join(allowed)}; received {value!r}")
