"""The generator as a diffusers pipeline: photographs and poses in, pictures of the same people in these poses out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.hooks import CpuOffload
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import BaseOutput
from PIL import Image

from pose2id.images import take_image
from pose2id.ipg.networks.attention import Memory, PoseInput, connect, gather, make_readers, project, record
from pose2id.ipg.networks.conditions import IFR, PoseEncoder
from pose2id.ipg.networks.small import PatchCodec, SmallEncoder
from pose2id.ipg.networks.transreid import TransReID
from pose2id.poses import Pose, representative_poses

if TYPE_CHECKING:
    from typing import Self

__all__ = ["IPGOutput", "IPGPipeline"]

PREDICTIONS = ("v_prediction", "epsilon", "sample")
SPACINGS = ("trailing", "leading", "linspace")
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
LARGEST_GUIDANCE = 1e4
REAL = (int, float, np.integer, np.floating)
Key = str | int


@dataclass
class IPGOutput(BaseOutput):
    """What `IPGPipeline` returns.

    Attributes
    ----------
    images : list of lists of PIL images, array or tensor
        ``images[r][m]`` shows reference r in pose m. "np": (R, M, H, W, 3) float32 in [0, 1]; "pt": (R, M, 3, H, W);
        "latent": (R, M, C, h, w).
    """

    images: list[list[Image.Image]] | np.ndarray | torch.Tensor


class IPGPipeline(DiffusionPipeline):
    """Identity-Guided Pedestrian Generation (Yuan et al., CVPR 2025, section 3.2), on stock diffusers models.

    Parameters
    ----------
    vae : AutoencoderKL or PatchCodec
        Images to latents and back, an eighth of the size as released.
    reference_unet : UNet2DConditionModel
        Sees the reference once, at timestep 0; what enters its self-attentions is shown to `unet`.
    unet : UNet2DConditionModel
        The denoiser.
    pose_encoder : PoseEncoder
        Pose drawings to what is added after the denoiser's first convolution.
    ifr : IFR
        Identity features to the tokens of all cross-attentions.
    identity_encoder : TransReID or SmallEncoder
        The ReID model that `ifr` was trained on.
    scheduler : DDIMScheduler
        As released: zero terminal SNR, trailing timesteps, v-prediction.
    sample_size : (int, int)
        Height and width of the pictures that the weights were trained on.

    Raises
    ------
    ValueError
        When the parts do not fit together, or the scheduler's prediction type is unknown.

    Examples
    --------
    >>> from pose2id.ipg import IPGPipeline
    >>> pipe = IPGPipeline.from_pretrained("yuanc3/Pose2ID").to("cuda")  # doctest: +SKIP
    >>> pipe(Image.open("person.jpg")).images[0][0].save("pose1.png")  # doctest: +SKIP
    """

    model_cpu_offload_seq = "identity_encoder->ifr->pose_encoder->vae->reference_unet->unet->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        vae: AutoencoderKL | PatchCodec,
        reference_unet: UNet2DConditionModel,
        unet: UNet2DConditionModel,
        pose_encoder: PoseEncoder,
        ifr: IFR,
        identity_encoder: TransReID | SmallEncoder,
        scheduler: DDIMScheduler,
        sample_size: list | tuple = (512, 256),  # type: ignore[type-arg] # diffusers reads the types
    ) -> None:
        super().__init__()
        self.register_modules(
            vae=vae,
            reference_unet=reference_unet,
            unet=unet,
            pose_encoder=pose_encoder,
            ifr=ifr,
            identity_encoder=identity_encoder,
            scheduler=scheduler,
        )
        self.register_to_config(sample_size=list(sample_size))
        self.reduction = find_reduction(vae)
        self._check_parts()
        self._readers = make_readers(unet)
        self._pose = PoseInput()

    def _check_parts(self) -> None:
        """Raise ValueError where parts do not fit together; tensors would, but much later and in other words."""
        unet, ifr, pose = self.unet.config, self.ifr.config, self.pose_encoder.config
        pairs = {
            "in_channels of reference_unet and unet": (self.reference_unet.config.in_channels, unet.in_channels),
            "latent_channels of vae and in_channels of unet": (self.vae.config.latent_channels, unet.in_channels),
            "token_dim of ifr and cross_attention_dim of unet": (ifr.token_dim, unet.cross_attention_dim),
            "conditioning_embedding_channels of pose_encoder and first block_out_channels of unet": (
                pose.conditioning_embedding_channels,
                unet.block_out_channels[0],
            ),
            "pixels per latent of vae and of pose_encoder": (self.reduction, 2 ** (len(pose.block_out_channels) - 1)),
            "width of identity_encoder's feature and in_features of ifr": (
                self.identity_encoder.feature_width,
                ifr.in_features,
            ),
        }
        if faults := [f"{name} ({one} and {other})" for name, (one, other) in pairs.items() if one != other]:
            raise ValueError(f"the parts do not fit, these must be equal: {'; '.join(faults)}")
        allowed = {"prediction_type": PREDICTIONS, "timestep_spacing": SPACINGS}
        for name, values in allowed.items():
            if (value := self.scheduler.config[name]) not in values:
                raise ValueError(f"{name} of scheduler must be one of {', '.join(values)}; received {value!r}")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load the released weights, or a folder written by `save_pretrained`.

        Parameters
        ----------
        pretrained_model_name_or_path : str or path
            "yuanc3/Pose2ID": the five released files at a pinned revision, downloaded and converted once, see
            `pose2id.ipg.weights`. "tiny": a small generator of synthetic pedestrians, 64 x 32, that is part of this
            package. Anything else is left to diffusers.
        **kwargs
            As for every diffusers pipeline: `torch_dtype`, `device_map`, ...

        Raises
        ------
        OSError, ValueError
            When a file is missing, or is not what it should be; the message names it and what to do.
        """
        from pose2id.ipg import weights

        name = os.fspath(pretrained_model_name_or_path)
        if name == weights.REPOSITORY:
            ours = ("cache_dir", "revision", "local_files_only", "force_download", "variant", "token", "proxies")
            if given := [option for option in ours if kwargs.get(option) is not None]:
                raise ValueError(
                    f"{', '.join(given)}: these weights come at a pinned revision into the cache that HF_HOME names; "
                    "set HF_HOME or HF_HUB_OFFLINE=1 instead"
                )
            name = os.fspath(weights.from_hub())
        elif name == weights.TINY:
            name = os.fspath(weights.tiny_folder())
        return super().from_pretrained(name, **kwargs)

    @classmethod
    def from_released_files(
        cls,
        folder: str | os.PathLike[str],
        config: dict[str, Any] | str | os.PathLike[str] | None = None,
        vae: AutoencoderKL | str | os.PathLike[str] | None = None,
    ) -> Self:
        """Load files with the released names and keys.

        Parameters
        ----------
        folder : path
            Holds denoising_unet, reference_unet, IFR, pose_guider and transformer_20 (or transreid), .safetensors or
            .pth.
        config : dict or path to JSON, optional
            Blocks unet, scheduler, pose_guider, ifr, transreid (and vae). None is the released, full size.
        vae : AutoencoderKL, folder or Hub id, optional
            None is stabilityai/sd-vae-ft-mse at a pinned revision.

        Raises
        ------
        OSError, ValueError
            When a file or a key is missing, a shape is wrong, a file is damaged, or one holds more than tensors.
        """
        from pose2id.ipg.weights.loading import load_components

        return cls(**load_components(folder, config, vae))

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As for every diffusers pipeline; also writes a model card with sources, licences and intended use.

        Not for a small one, which was trained from scratch: the card is that of the released weights.
        """
        from pose2id.ipg import weights
        from pose2id.ipg.networks.small import SmallEncoder

        super().save_pretrained(save_directory, *args, **kwargs)
        if not isinstance(self.identity_encoder, SmallEncoder):
            Path(save_directory, "README.md").write_text(weights.model_card(), encoding="utf-8")

    @torch.no_grad()
    def __call__(
        self,
        references: Image.Image | Sequence[Image.Image],
        poses: Sequence[Image.Image | Pose] | Image.Image | Pose | None = None,
        *,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 3.5,
        seed: int = 42,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        batch_size: int = 8,
        reference_keys: Iterable[Key] | None = None,
        pose_keys: Iterable[Key] | None = None,
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> IPGOutput | tuple[Any]:
        """Draw every reference in every pose.

        Parameters
        ----------
        references : PIL image, or R of them
            People, any size; resized to `height` x `width`.
        poses : PIL images in canonical colours, `Pose` objects, or None
            None: the 8 representative poses.
        height, width : int, optional
            Of the result, multiples of what a latent covers (8 pixels). None: what the weights were trained at, 512 x
            256 for the released ones.
        num_inference_steps : int
            DDIM steps.
        guidance_scale : float
            Classifier-free guidance. Up to 1 there is none: the conditional prediction alone is used. (The released
            code then uses the *unconditional* one, and so forgets the person.)
        seed : int
            With a reference's and a pose's key it gives the noise of a picture, whatever else is drawn with it.
        latents : tensor, shape (R x M, C, height / 8, width / 8), optional
            The noise itself, reference-major.
        output_type : {"pil", "np", "pt", "latent"}
            See `IPGOutput`.
        batch_size : int
            Pictures at once. Changes a picture by no more than rounding.
        reference_keys, pose_keys : sequence of str or int, optional
            Names that seed the noise; the places in the call by default.
        callback_on_step_end : callable, optional
            Called as ``f(pipe, step, timestep, {"latents": ...})`` after every step of every batch; latents in the
            dict that it returns are used.
        callback_on_step_end_tensor_inputs : sequence of str
            What the dict holds: "latents" or nothing.
        return_dict : bool
            False: a tuple.

        Returns
        -------
        IPGOutput
            ``images[r][m]``.

        Raises
        ------
        TypeError, ValueError
            For anything but images, poses, positive sizes and counts, and keys that fit.
        """
        # 1. Check everything before anything is computed.
        unit = self.reduction
        height, width = (
            size if given is None else _take_size(name, given, unit)
            for name, given, size in zip(("height", "width"), (height, width), self.config.sample_size, strict=True)
        )
        people = _take_list(references, "references", Image.Image)
        drawings = list(representative_poses()) if poses is None else _take_list(poses, "poses", (Image.Image, Pose))
        people_keys = _take_keys(reference_keys, len(people), "reference_keys")
        drawing_keys = _take_keys(pose_keys, len(drawings), "pose_keys")
        steps = _take_size("num_inference_steps", num_inference_steps, 1)
        if steps > (most := self.scheduler.config.num_train_timesteps):
            raise ValueError(f"num_inference_steps must be at most {most}; received {steps}")
        _take_size("batch_size", batch_size, 1)
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise TypeError(f"seed must be an integer; received {type(seed).__name__} {seed!r}")
        if isinstance(guidance_scale, bool) or not isinstance(guidance_scale, REAL):
            raise TypeError(f"guidance_scale must be a number; received {type(guidance_scale).__name__}")
        if not abs(guidance_scale) <= LARGEST_GUIDANCE:
            raise ValueError(
                f"guidance_scale must be a finite number, at most {LARGEST_GUIDANCE:g}; received {guidance_scale}"
            )
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}; received {output_type!r}")
        if callback_on_step_end is not None and not callable(callback_on_step_end):
            raise TypeError(f"callback_on_step_end must be callable; received {type(callback_on_step_end).__name__}")
        wanted = list(callback_on_step_end_tensor_inputs or ())
        if any(name not in self._callback_tensor_inputs for name in wanted):
            raise ValueError(f"callback_on_step_end_tensor_inputs may hold 'latents' only; received {wanted!r}")
        shape = (self.unet.config.in_channels, height // unit, width // unit)
        pairs = [(r, m) for r in range(len(people)) for m in range(len(drawings))]
        if latents is not None and not (isinstance(latents, torch.Tensor) and latents.is_floating_point()):
            what = latents.dtype if isinstance(latents, torch.Tensor) else type(latents).__name__
            raise TypeError(f"latents must be a torch tensor of floats; received {what}")
        if latents is not None and not bool(latents.isfinite().all()):
            raise ValueError("latents must be finite; received NaN or inf")
        if latents is not None and tuple(latents.shape) != (len(pairs), *shape):
            raise ValueError(
                f"latents must have shape {(len(pairs), *shape)} for {len(people)} references and {len(drawings)} "
                f"poses; received {tuple(latents.shape)}"
            )
        device = self._execution_device

        # 2. Poses once: (M, C, h, w), added after the denoiser's first convolution.
        pose_features = self.encode_poses(drawings, height, width)

        # 3. What the unconditional rows attend to: tokens of an all-zero image, and no reference.
        guided = guidance_scale > 1
        plain = self._project(tokens=self.identity_tokens(None)) if guided else None

        results: list[Any] = []
        known: dict[int, Memory] = {}
        batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
        with self.progress_bar(total=len(batches) * num_inference_steps) as bar:
            for number, batch in enumerate(batches):
                # 4. Every reference once, one row, whatever the number of its poses and steps.
                for r in {r: None for r, _ in batch}:
                    if r not in known:
                        known[r] = self.remember(people[r], height, width)
                memory = gather([known[r] for r, _ in batch], plain)
                known = {batch[-1][0]: known[batch[-1][0]]}  # its other poses may follow

                # 5. Noise: DDIM starts from variance 1.
                if latents is None:
                    noise = torch.stack([draw_noise(seed, people_keys[r], drawing_keys[m], shape) for r, m in batch])
                else:
                    noise = latents[number * batch_size :][: len(batch)].float()
                noise = noise.to(device) * self.scheduler.init_noise_sigma
                features = pose_features[[m for _, m in batch]]

                # 6. Denoise, (B, C, h, w), in float32 between the steps.
                clean = self._denoise(
                    noise, memory, features, guidance_scale, num_inference_steps, callback_on_step_end, wanted, bar
                )

                # 7. Back to pixels.
                results.extend(self._finish(clean, output_type))
        self.maybe_free_model_hooks()
        rows = [results[start : start + len(drawings)] for start in range(0, len(results), len(drawings))]
        images = rows if output_type == "pil" else _stack(rows)
        return IPGOutput(images=images) if return_dict else (images,)

    def encode_poses(self, poses: Sequence[Image.Image | Pose], height: int, width: int) -> torch.Tensor:
        """Poses as features (M, C, height / 8, width / 8) of the denoiser's first convolution."""
        drawings = [pose.draw() if isinstance(pose, Pose) else pose for pose in poses]
        pixels = torch.stack([_pixels(drawing, height, width) for drawing in drawings])
        with torch.no_grad():
            return self.pose_encoder(pixels.to(self._execution_device, self.pose_encoder.dtype))

    def identity_tokens(self, image: Image.Image | None) -> torch.Tensor:
        """Tokens (1, tokens, width) of a person; of an all-zero network input (mid grey) for None."""
        encoder = self.identity_encoder
        if image is None:
            height, width = encoder.config.img_size
            pixels = torch.zeros(1, 3, height, width)
        else:
            pixels = encoder.preprocess([take_image(image)])
        with torch.no_grad():
            features = encoder(pixels.to(self._execution_device, encoder.dtype))
            return self.ifr(features.to(self.ifr.dtype))

    def reference_latents(self, image: Image.Image, height: int, width: int) -> torch.Tensor:
        """The mean of the autoencoder's posterior for a person, scaled, (1, C, height / 8, width / 8)."""
        pixels = (2 * _pixels(image, height, width) - 1)[None].to(self._execution_device, self.vae.dtype)
        with torch.no_grad():
            return self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor

    def reference_bank(self, latents: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """What enters each self-attention of the reference network at timestep 0, (rows, pixels, C), by layer."""
        unet = self.reference_unet
        with torch.no_grad(), record(unet) as bank:
            timestep = torch.zeros((), dtype=torch.long, device=latents.device)
            unet(latents.to(unet.dtype), timestep, encoder_hidden_states=tokens.to(unet.dtype), return_dict=False)
        return bank

    def remember(self, image: Image.Image, height: int, width: int) -> Memory:
        """All that the denoiser attends to for a person: keys and values of every layer, one row each."""
        tokens = self.identity_tokens(image)
        bank = self.reference_bank(self.reference_latents(image, height, width), tokens)
        return self._project(bank, tokens)

    def _project(self, bank: dict[str, torch.Tensor] | None = None, tokens: torch.Tensor | None = None) -> Memory:
        hook = getattr(self.unet, "_hf_hook", None)
        if isinstance(hook, CpuOffload):  # brings the denoiser to the device, as its own call would
            hook.pre_forward(self.unet)
        dtype = self.unet.dtype
        with torch.no_grad():
            return project(
                self.unet,
                {layer: hidden.to(dtype) for layer, hidden in (bank or {}).items()},
                None if tokens is None else tokens.to(dtype),
            )

    def _denoise(
        self,
        latents: torch.Tensor,
        memory: Memory,
        pose_features: torch.Tensor,
        guidance_scale: float,
        steps: int,
        callback: Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None] | None,
        wanted: Sequence[str],
        bar: Any,
    ) -> torch.Tensor:
        """All steps of one batch; `memory` has the rows of the unconditional half first when guided."""
        halves = 2 if guidance_scale > 1 else 1
        self.scheduler.set_timesteps(steps, device=latents.device)
        # Stock UNets want tokens, although every cross-attention finds its own in `memory`.
        tokens = latents.new_zeros(
            halves * len(latents), 1, self.unet.config.cross_attention_dim, dtype=self.unet.dtype
        )
        with connect(self.unet, self._readers, self._pose):
            self._pose.features = torch.cat([pose_features.to(self.unet.dtype)] * halves)
            for i, timestep in enumerate(self.scheduler.timesteps):
                rows = self.scheduler.scale_model_input(torch.cat([latents] * halves), timestep)
                prediction = self.unet(
                    rows.to(self.unet.dtype),
                    timestep,
                    encoder_hidden_states=tokens,
                    cross_attention_kwargs={"memory": memory},
                    return_dict=False,
                )[0].float()
                if halves == 2:
                    unconditional, conditional = prediction.chunk(2)
                    prediction = unconditional + guidance_scale * (conditional - unconditional)
                latents = self.scheduler.step(prediction, timestep, latents, eta=0.0, return_dict=False)[0]
                if callback is not None:
                    changed = callback(self, i, int(timestep), {"latents": latents} if wanted else {})
                    latents = _take_changed(changed, latents)
                bar.update()
        return latents

    def _finish(self, latents: torch.Tensor, output_type: str) -> Iterator[Any]:
        """The pictures of a batch of latents, one by one, in the form asked for."""
        if output_type == "latent":
            yield from latents
            return
        for row in (latents / self.vae.config.scaling_factor).to(self.vae.dtype).split(1):  # decoding takes most memory
            picture = (self.vae.decode(row, return_dict=False)[0][0].float() / 2 + 0.5).clamp(0, 1)
            if output_type == "pt":
                yield picture
            else:
                array = picture.permute(1, 2, 0).cpu().numpy()
                yield Image.fromarray((array * 255).round().astype(np.uint8)) if output_type == "pil" else array


def find_reduction(vae: Any) -> int:
    """Pixels per latent, along each side."""
    levels = vae.config.get("block_out_channels")
    return int(vae.config.patch_size if levels is None else 2 ** (len(levels) - 1))


def draw_noise(seed: int, reference_key: Key, pose_key: Key, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal noise (float32, on the CPU) that depends on these arguments only."""
    words = repr((int(seed), *(key if isinstance(key, str) else int(key) for key in (reference_key, pose_key))))
    number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") >> 1
    generator = torch.Generator("cpu").manual_seed(number)
    return torch.randn(shape, generator=generator, device="cpu", dtype=torch.float32)


def _pixels(image: Image.Image, height: int, width: int) -> torch.Tensor:
    """An image as (3, height, width) float32 in [0, 1], RGB."""
    if not image.width * image.height:
        raise ValueError(f"an image must have pixels; received one of {image.width} x {image.height}")
    resized = take_image(image).resize((width, height), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255


def _stack(rows: list[list[Any]]) -> Any:
    if isinstance(rows[0][0], torch.Tensor):
        return torch.stack([torch.stack(row) for row in rows])
    return np.stack([np.stack(row) for row in rows])


def _take_list(given: Any, name: str, kinds: type | tuple[type, ...]) -> list[Any]:
    items = [given] if isinstance(given, kinds) else given
    if isinstance(items, (str, bytes, np.ndarray, torch.Tensor)) or not isinstance(items, Sequence):
        raise TypeError(f"{name} must be one or a list of them; received {type(given).__name__}")
    allowed = kinds if isinstance(kinds, tuple) else (kinds,)
    words = " or ".join("a PIL image" if kind is Image.Image else kind.__name__ for kind in allowed)
    for i, item in enumerate(items):
        if not isinstance(item, kinds):
            raise TypeError(f"{name}[{i}] must be {words}; received {type(item).__name__}")
    if not items:
        raise ValueError(f"{name} must hold at least one, received none")
    return list(items)


def _take_changed(changed: Any, latents: torch.Tensor) -> torch.Tensor:
    """The latents that a callback wants instead, or those there are."""
    if changed is None:
        return latents
    if not isinstance(changed, Mapping):
        raise TypeError(f"callback_on_step_end must return a dict or None; received {type(changed).__name__}")
    new = changed.get("latents", latents)
    if not isinstance(new, torch.Tensor) or new.shape != latents.shape:
        what = tuple(new.shape) if isinstance(new, torch.Tensor) else type(new).__name__
        raise ValueError(f"callback_on_step_end must return latents of shape {tuple(latents.shape)}; received {what}")
    return new


def _take_keys(given: Iterable[Key] | None, count: int, name: str) -> list[Key]:
    if isinstance(given, (str, bytes)) or not isinstance(given, (Iterable, type(None))):
        raise TypeError(f"{name} must be a list of strings or integers; received {type(given).__name__} {given!r}")
    keys = list(range(count)) if given is None else list(given)
    if len(keys) != count:
        raise ValueError(f"{name} must have one key for each of {count}; received {len(keys)}")
    for key in keys:
        if isinstance(key, bool) or not isinstance(key, (str, int, np.integer)):
            raise TypeError(f"{name} must be strings or integers; received {type(key).__name__} {key!r}")
    if len(set(keys)) < count:
        raise ValueError(f"{name} must be different, equal ones would give equal noise; received {keys!r}")
    return [key if isinstance(key, str) else int(key) for key in keys]


def _take_size(name: str, value: object, unit: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer; received {type(value).__name__} {value!r}")
    if value < unit or value % unit:
        what = f"a positive multiple of {unit}" if unit > 1 else "at least 1"
        raise ValueError(f"{name} must be {what}; received {value}")
    return int(value)
