"""The components of a generator: their classes, which fit together, their folders, the DDIM scheduler as released."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMParallelScheduler,
    DDIMScheduler,
    DDPMParallelScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    TCDScheduler,
    UNet2DConditionModel,
    UniPCMultistepScheduler,
)

from pose2id.ipg.locks import unwrap
from pose2id.ipg.networks import IFR, PatchCodec, PoseEncoder, SmallEncoder, TransReID
from pose2id.ipg.weights.configuration import (
    RECORD,
    RELEASED,
    Defaults,
    check_defaults,
    hash_settings,
    read_config,
    read_defaults,
    read_object,
)
from pose2id.ipg.weights.parts import check_part

SOLVERS: tuple[Any, ...] = (
    DDIMScheduler,
    DDIMParallelScheduler,
    DDPMScheduler,
    DDPMParallelScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    TCDScheduler,
    UniPCMultistepScheduler,
)
"""The schedulers of diffusers that keep a zero terminal SNR."""

NAMED_SOLVERS: dict[str, Any] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
    "euler": EulerDiscreteScheduler,
    "euler-ancestral": EulerAncestralDiscreteScheduler,
    "lcm": LCMScheduler,
    "tcd": TCDScheduler,
}
"""As the command line calls them."""

KINDS: dict[str, tuple[Any, ...]] = {
    "vae": (AutoencoderKL, PatchCodec),
    "reference_unet": (UNet2DConditionModel,),
    "unet": (UNet2DConditionModel,),
    "pose_encoder": (PoseEncoder,),
    "ifr": (IFR,),
    "identity_encoder": (TransReID, SmallEncoder),
    "scheduler": SOLVERS,
}
"""Of which classes a component may be."""

SCHEDULERS = {
    "prediction_type": ("v_prediction", "epsilon", "sample"),
    "timestep_spacing": ("trailing", "leading", "linspace"),
}
"""Settings that the pipeline can draw with."""

NOT_WITH_ZERO_SNR: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (True,),
    "use_exponential_sigmas": (True,),
    "use_beta_sigmas": (True,),
    "use_lu_lambdas": (True,),
    "use_flow_sigmas": (True,),
    "algorithm_type": ("dpmsolver", "sde-dpmsolver"),
    "predict_x0": (False,),
    "timestep_type": ("continuous",),
}
"""Settings of solvers that put steps where the noise is infinite, or divide by the signal there."""

SMALLEST_SIGNAL = 1e-6
"""Of the last training step, as a share of the variance; schedulers that keep a zero terminal SNR have at most that."""


def make_scheduler() -> DDIMScheduler:
    """A new DDIM scheduler with the released settings: zero terminal SNR, v-prediction, trailing timesteps."""
    return DDIMScheduler(**read_config()["scheduler"])


def find_reduction(vae: Any) -> int:
    """Pixels per latent, along each side."""
    levels = vae.config.get("block_out_channels")
    return int(vae.config.patch_size if levels is None else 2 ** (len(levels) - 1))


def keeps_zero_snr(scheduler: Any) -> bool:
    """Whether nothing of a picture is left in the last training step."""
    return float(scheduler.alphas_cumprod[-1]) <= SMALLEST_SIGNAL


def check_solver(scheduler: Any, unet: Any) -> None:
    """Raise TypeError or ValueError for a scheduler that cannot be drawn with, by weights with a zero terminal SNR.

    DDIM with ``rescale_betas_zero_snr=False`` is let through: that can only have been asked for.
    """
    kind = type(scheduler).__name__
    if not isinstance(scheduler, SchedulerMixin):
        raise TypeError(f"scheduler must be a DDIMScheduler or another one of diffusers; received {kind}")
    config: Any = scheduler.config  # of a mixin beside it
    if not isinstance(scheduler, SOLVERS):
        found = getattr(scheduler, "alphas_cumprod", None)
        left = "" if found is None else f", alphas_cumprod[-1] is {float(found[-1]):.1e} whatever its settings say"
        raise ValueError(
            f"scheduler must be one that can keep a zero terminal SNR: {', '.join(each.__name__ for each in SOLVERS)}; "
            f"{kind} drops it{left}"
        )
    for name, allowed in SCHEDULERS.items():
        if (value := config.get(name)) not in allowed:
            raise ValueError(f"{name} of scheduler must be one of {', '.join(allowed)}; received {value!r}")
    _check_noise(scheduler)
    if not getattr(unet, "pose2id_zero_snr", False) and not config.get("rescale_betas_zero_snr"):
        return
    if not keeps_zero_snr(scheduler) and not isinstance(scheduler, DDIMScheduler):
        raise ValueError(
            "scheduler must keep the zero terminal SNR that these weights were trained with; alphas_cumprod[-1] of "
            f"this {kind} is {float(scheduler.alphas_cumprod[-1]):.1e}, at most {SMALLEST_SIGNAL:g} is allowed: "
            f"make it by {kind}.from_config(pipe.scheduler.config), or with rescale_betas_zero_snr=True"
        )
    for name, refused in NOT_WITH_ZERO_SNR.items():
        if (value := config.get(name)) in refused:
            raise ValueError(
                f"{name} of scheduler must not be {value!r} for weights with a zero terminal SNR: its first step has "
                "no finite noise level; leave it at its default"
            )


def check_decoder(decoder: Any, vae: Any) -> None:
    """Raise TypeError or ValueError for a decoder that is no `AutoencoderTiny`, or for other latents."""
    if decoder is None:
        return
    if not isinstance(decoder, AutoencoderTiny):
        raise TypeError(f"decoder must be an AutoencoderTiny; received {type(decoder).__name__}")
    config: Any = decoder.config
    theirs = config.latent_channels, config.upsampling_scaling_factor ** (len(config.decoder_block_out_channels) - 1)
    ours = vae.config.latent_channels, find_reduction(vae)
    if theirs != ours:
        raise ValueError(
            f"decoder must be for latents of {ours[0]} channels and {ours[1]} pixels, as vae is; it is for "
            f"{theirs[0]} channels and {theirs[1]} pixels"
        )


def check_components(components: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError where parts do not fit together, or cannot be drawn with."""
    check_solver(components["scheduler"], components["unet"])
    for name, kinds in KINDS.items():
        if not isinstance(unwrap(components[name]), kinds):
            words = " or ".join(f"a {kind.__name__}" for kind in kinds)
            raise TypeError(f"{name} must be {words}; received {type(components[name]).__name__}")
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
    if keeps_zero_snr(components["scheduler"]):
        components["unet"].pose2id_zero_snr = True  # no part of its settings, so it remembers, as it does the defaults


def _check_noise(scheduler: Any) -> None:
    """Raise ValueError unless there is a share of the picture for each training step, and it can be one."""
    shares, steps = scheduler.alphas_cumprod, scheduler.config.num_train_timesteps
    if len(shares) != steps or not ((shares >= 0) & (shares <= 1)).all():
        raise ValueError(
            f"scheduler must have {steps:,} alphas_cumprod from 0 to 1, by num_train_timesteps; received "
            f"{len(shares):,} from {float(shares.min()):g} to {float(shares.max()):g}: mend its betas"
        )


def recall_defaults(unet: Any, reduction: int, *given: Any) -> Defaults:
    """Size, steps and guidance as `given`; for None those of the first pipeline with this denoiser.

    They are the weights' own, and no part of any component. So the denoiser remembers them.
    """
    known: Defaults | None = getattr(unet, "pose2id_defaults", None)
    if known is None:
        size = unet.config.get("sample_size")
        known = RELEASED
        if isinstance(size, (list, tuple)):
            known = known._replace(sample_size=tuple(side * reduction for side in size))
    own = check_defaults(*(mine if value is None else value for value, mine in zip(given, known, strict=True)))
    if given != (None, None, None) and not hasattr(unet, "pose2id_defaults"):
        remember_defaults(unet, own)
    return own


def remember_defaults(unet: Any, defaults: Defaults) -> None:
    """What a pipeline made of this denoiser is to draw with by default."""
    unet.pose2id_defaults = defaults


def check_folder(
    folder: Path, given: Collection[str] = (), *, variant: str | None = None, use_safetensors: bool | None = None
) -> Defaults:
    """Raise OSError or ValueError unless a folder of `save_pretrained` holds all components but those `given`.

    Every setting and every tensor of a component is compared with its class; nothing is loaded, and no class but those
    of `KINDS` is. Returns size, steps and guidance.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no model_index.json, as save_pretrained writes it; "
            "IPGPipeline.from_released_files reads files with the released names"
        )
    index = read_object(path)
    if not isinstance(index.get("_class_name"), str) or (folder / "None.py").exists():
        raise ValueError(f"{folder} must be of a pipeline of pose2id, it names or holds code of its own")
    recorded = index.get(RECORD) or {}
    if not isinstance(recorded, dict):
        raise ValueError(f"{path}: {RECORD} must be an object; received {recorded!r}")
    for name, kinds in KINDS.items():
        if name in given:
            continue
        if name == "scheduler":  # any may be there, the one that its settings are for
            kinds = _narrow(folder / name / DDIMScheduler.config_name, kinds)
        kind = _find_kind(path, name, index.get(name), kinds)
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} holds no folder {name}, which {path.name} names")
        config = folder / name / kind.config_name
        if recorded.get(name, found := hash_settings(config)) != found:
            raise ValueError(
                f"{config} does not hold the settings that the folder was saved with; restore it, or, if the change is "
                f"meant, remove {RECORD} from {path}"
            )
        before = SOLVERS if name == "scheduler" else ()
        check_part(folder / name, kind, kinds=before, variant=variant, use_safetensors=use_safetensors)
    missing = [name for name in Defaults._fields if index.get(name) is None]
    if 0 < len(missing) < len(Defaults._fields):  # older folders have none of them
        raise ValueError(f"{path} must name {', '.join(Defaults._fields)}; missing: {', '.join(missing)}")
    return read_defaults(folder)


def _narrow(config: Path, kinds: tuple[Any, ...]) -> tuple[Any, ...]:
    """Of these kinds the one that a file of settings names, all where it cannot be read or names none."""
    try:
        named = read_object(config).get("_class_name")
    except (OSError, ValueError):  # told where the part is checked
        named = None
    return tuple(kind for kind in kinds if kind.__name__ == named) or kinds


def _find_kind(path: Path, name: str, entry: Any, kinds: tuple[Any, ...]) -> Any:
    """The class of a component by its entry in a pipeline's index: where it is found, and its name."""
    if not isinstance(entry, list) or len(entry) != 2 or not all(isinstance(word, str) for word in entry):
        raise ValueError(f"{path} must name library and class of {name}; received {entry!r}")
    library, class_name = entry
    for kind in kinds:
        theirs = library == "diffusers" and kind.__module__.startswith("diffusers.")
        if class_name == kind.__name__ and (theirs or _has(library, kind)):
            return kind
    words = " or ".join(kind.__name__ for kind in kinds)
    raise ValueError(f"{path}: {name} must be a {words}; received {class_name} of {library}")


def _has(library: str, kind: Any) -> bool:
    """Whether a module of pose2id holds this class; no other module is imported."""
    try:
        return library.startswith("pose2id.ipg.") and getattr(import_module(library), kind.__name__, None) is kind
    except ImportError:
        return False
