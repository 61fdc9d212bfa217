"""The generator as a diffusers pipeline: photographs and poses in, pictures of the same people in these poses out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.hooks import CpuOffload
from diffusers import AutoencoderKL, AutoencoderTiny, DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from PIL import Image

from pose2id.errors import one_line
from pose2id.images import take_image
from pose2id.ipg import bars, inputs, weights
from pose2id.ipg.components import (
    KINDS,
    check_components,
    check_decoder,
    check_folder,
    check_solver,
    find_reduction,
    recall_defaults,
)
from pose2id.ipg.denoising import Denoising
from pose2id.ipg.inputs import Key, draw_noise, make_generator, read_pixels
from pose2id.ipg.locks import hold, holding, loading
from pose2id.ipg.modules import IFR, PoseEncoder
from pose2id.ipg.networks.attention import Memory, PoseInput, gather, make_readers, project, record
from pose2id.ipg.presets import Drawing, choose_drawing
from pose2id.ipg.reid import TransReID
from pose2id.ipg.small import PatchCodec, SmallEncoder
from pose2id.ipg.weights.configuration import Config
from pose2id.ipg.weights.loading import load_components
from pose2id.poses import Pose, representative_poses
from pose2id.progress import tqdm

if TYPE_CHECKING:
    from typing import Self

Callback = Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None]


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
        Pose maps to what is added after the denoiser's first convolution.
    ifr : IFR
        Identity features to the tokens of all cross-attentions.
    identity_encoder : TransReID or SmallEncoder
        The ReID model that `ifr` was trained on.
    scheduler : DDIMScheduler
        As released: zero terminal SNR, trailing timesteps, v-prediction. Or another of diffusers that keeps the zero
        terminal SNR: `DDPMScheduler`, `DPMSolverMultistepScheduler`, `UniPCMultistepScheduler`,
        `EulerDiscreteScheduler`, `EulerAncestralDiscreteScheduler`, `LCMScheduler`, `TCDScheduler`, as in
        ``pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)``.
    sample_size : (int, int), optional
        Height and width of the pictures that the weights were trained on.
    num_inference_steps : int, optional
    guidance_scale : float, optional
        As `sample_size`, what a call takes unless it says otherwise. `save_pretrained` keeps all three. None: those of
        the pipeline that `unet` came with, so ``IPGPipeline(**pipe.components)`` draws as `pipe` does; otherwise the
        released ones, and the size that `unet` is configured for where that names height and width.

    Raises
    ------
    ValueError
        When the parts do not fit together, or the scheduler's prediction type is unknown, or a default cannot be.

    Notes
    -----
    Threads may share a pipeline, or pipelines made of the same parts: their calls wait for each other. A call from
    within `callback_on_step_end` is RuntimeError.

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
        scheduler: SchedulerMixin,
        sample_size: list | tuple | None = None,  # type: ignore[type-arg] # diffusers reads the types
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
    ) -> None:
        super().__init__()
        parts = {
            "vae": vae,
            "reference_unet": reference_unet,
            "unet": unet,
            "pose_encoder": pose_encoder,
            "ifr": ifr,
            "identity_encoder": identity_encoder,
            "scheduler": scheduler,
        }
        check_components(parts)
        self.register_modules(**parts)
        self.reduction = find_reduction(vae)
        own = recall_defaults(unet, self.reduction, sample_size, num_inference_steps, guidance_scale)
        self.register_to_config(**own._asdict())
        self._readers = make_readers(unet)
        self._pose = PoseInput()

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
            When a file is missing or damaged, or a setting or a tensor of any part is missing, unknown, or of another
            shape or kind; the message names it. Nothing is loaded then.
        """
        given = name = os.fspath(pretrained_model_name_or_path)
        if name == weights.REPOSITORY:
            ours = ("cache_dir", "revision", "local_files_only", "force_download", "variant", "token", "proxies")
            if refused := [option for option in ours if kwargs.get(option) is not None]:
                raise ValueError(
                    f"{', '.join(refused)}: these weights come at a pinned revision into the cache that HF_HOME names; "
                    "set HF_HOME or HF_HUB_OFFLINE=1 instead"
                )
            name = os.fspath(weights.from_hub())
        elif name == weights.TINY:
            name = os.fspath(weights.tiny_folder())
        if not Path(name).is_dir():
            if name.count("/") > 1 or name.startswith((".", "/")):
                raise FileNotFoundError(
                    f"{name} is neither a folder nor a Hub id such as {weights.REPOSITORY}. {weights.TINY_SAYS}"
                )
            try:
                name = cls.download(name, **kwargs)
            except TypeError:
                raise
            except Exception as error:  # of the Hub's client, its HTTP library, or the disk
                raise OSError(f"{name} cannot be fetched: {one_line(error, 300)}. {weights.TINY_SAYS}") from error
        choice = {option: kwargs.get(option) for option in ("variant", "use_safetensors")}
        with loading:
            own = check_folder(Path(name), kwargs.keys() & KINDS.keys(), **choice)
            pipe: Self = super().from_pretrained(name, **{**own._asdict(), **kwargs})
        pipe.register_to_config(_name_or_path=given)
        return pipe

    @classmethod
    def from_released_files(
        cls,
        folder: str | os.PathLike[str],
        config: Config = None,
        vae: AutoencoderKL | str | os.PathLike[str] | None = None,
    ) -> Self:
        """Load files with the released names and keys.

        Parameters
        ----------
        folder : path
            Holds denoising_unet, reference_unet, IFR, pose_guider and transformer_20 (or transreid), .safetensors or
            .pth.
        config : dict or path to JSON, optional
            Blocks unet, scheduler, pose_guider, ifr, transreid (and vae). None: the released, full size.
        vae : AutoencoderKL, folder or Hub id, optional
            None: stabilityai/sd-vae-ft-mse at a pinned revision, from the Hub or its cache.

        Raises
        ------
        OSError, ValueError
            When a file or a key is missing, a shape is wrong, a file is damaged, or one holds more than tensors.
        """
        return cls(**load_components(folder, config, vae))

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """As for every diffusers pipeline; `generate_features`, which has a bar of its own, hides it."""
        if bars.hidden.get():
            return tqdm(iterable, total=total, disable=True)
        return super().progress_bar(iterable, total)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As for every diffusers pipeline; also writes a model card with sources, licences and intended use.

        Not for a small one, which was trained from scratch: the card is that of the released weights.
        """
        super().save_pretrained(save_directory, *args, **kwargs)
        weights.record_settings(Path(save_directory))
        if not isinstance(self.identity_encoder, SmallEncoder):
            Path(save_directory, "README.md").write_text(weights.model_card(), encoding="utf-8")

    @torch.no_grad()
    def __call__(
        self,
        references: Image.Image | Sequence[Image.Image],
        poses: Sequence[Image.Image | Pose] | Image.Image | Pose | None = None,
        *,
        preset: str | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_rescale: float | None = None,
        guidance_start: float | None = None,
        guidance_stop: float | None = None,
        shared_noise: bool | None = None,
        seed: int = 42,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        batch_size: int = 8,
        decode_chunk_size: int = 1,
        decoder: AutoencoderTiny | None = None,
        reference_keys: Iterable[Key] | None = None,
        pose_keys: Iterable[Key] | None = None,
        callback_on_step_end: Callback | None = None,
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
        preset : {"published", "balanced", "fast", "draft"}, optional
            Steps, guidance and `shared_noise` by name: 20 steps and 3.5 as in the paper; 4 steps, 2 and shared noise;
            2 steps, 2 and shared noise; 1 step without guidance. What is named beside it goes before. None: the
            weights' own.
        height, width : int, optional
            Of the result, multiples of what a latent covers (8 pixels). None, here and below: the weights' own, which
            is 512 x 256 for the released ones and 64 x 32 for "tiny".
        num_inference_steps : int, optional
            Steps of the scheduler; released: 20, tiny: 10.
        guidance_scale : float, optional
            Classifier-free guidance; released: 3.5, tiny: 2. Up to 1 there is none: the conditional prediction alone
            is used. (The released code then uses the *unconditional* one, and so forgets the person.)
        guidance_rescale : float, optional
            From 0 (None) to 1: the share in which a guided prediction gets the standard deviation of the conditional
            one (Lin et al., arXiv 2305.08891, section 3.4).
        guidance_start, guidance_stop : float, optional
            The fractions of the steps between which there is guidance; None: 0 and 1.
        shared_noise : bool, optional
            True: the noise of a picture does not depend on the reference's key, so all people get the same in a pose.
        seed : int
            With a reference's and a pose's key it gives the noise of a picture, whatever else is drawn with it.
        latents : tensor, shape (R x M, C, height / 8, width / 8), optional
            The noise itself, reference-major.
        output_type : {"pil", "np", "pt", "latent"}
            See `IPGOutput`.
        batch_size : int
            Pictures at once. Changes a picture by no more than rounding.
        decode_chunk_size : int
            Pictures that are decoded at once, of a batch. More are faster and need more memory.
        decoder : AutoencoderTiny, optional
            Makes the pictures from the latents instead of `vae`, on its own device; such as ``madebyollin/taesd``.
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
            For anything but images, poses, positive sizes and counts, and keys that fit; for a scheduler that does not
            keep the zero terminal SNR of the weights; where a picture, or what the callback gives, holds NaN or inf.
        RuntimeError
            When this thread is drawing already: the call comes from a callback.
        """
        # 1. Check everything before anything is computed.
        own, unit = self.defaults, self.reduction
        height = inputs.take_size("height", own.sample_size[0] if height is None else height, unit)
        width = inputs.take_size("width", own.sample_size[1] if width is None else width, unit)
        people = inputs.take_list(references, "references", Image.Image)
        shown = representative_poses() if poses is None else inputs.take_list(poses, "poses", (Image.Image, Pose))
        people_keys = inputs.take_keys(reference_keys, len(people), "reference_keys")
        shown_keys = inputs.take_keys(pose_keys, len(shown), "pose_keys")
        if num_inference_steps is not None:
            inputs.take_size("num_inference_steps", num_inference_steps, 1)
        inputs.check_options(seed, 0 if guidance_scale is None else guidance_scale, output_type)
        drawing = choose_drawing(
            preset,
            Drawing(own.num_inference_steps, own.guidance_scale),
            num_inference_steps=num_inference_steps,
            guidance_scale=None if guidance_scale is None else max(0.0, float(guidance_scale)),
            guidance_rescale=guidance_rescale,
            guidance_start=guidance_start,
            guidance_stop=guidance_stop,
            shared_noise=shared_noise,
        )
        check_solver(self.scheduler, self.unet)
        if (steps := drawing.num_inference_steps) > (most := self.scheduler.config.num_train_timesteps):
            raise ValueError(f"num_inference_steps must be at most {most}; received {steps}")
        inputs.take_size("batch_size", batch_size, 1)
        inputs.take_size("decode_chunk_size", decode_chunk_size, 1)
        check_decoder(decoder, self.vae)
        wanted = callback_on_step_end_tensor_inputs or ()
        inputs.check_callback(callback_on_step_end, wanted)
        shape = (self.unet.config.in_channels, height // unit, width // unit)
        inputs.check_latents(latents, len(people), len(shown), shape)

        with hold(self.parts if decoder is None else [*self.parts, decoder]):  # other threads wait
            self.scheduler.set_timesteps(steps, device="cpu")  # some know how many steps they can do, and tell it here

            # 2. Poses once: (M, C, h, w), added after the denoiser's first convolution.
            pose_features = self.encode_poses(shown, height, width)

            # 3. What the unconditional rows attend to: tokens of an all-zero image, and no reference.
            guided = drawing.rows > steps
            unconditional = self.project_memory(tokens=self.identity_tokens(None)) if guided else None
            denoising = Denoising(
                self.unet,
                self.scheduler,
                drawing,
                self._readers,
                self._pose,
                unconditional,
                equal_starts=drawing.shared_noise and latents is None,
            )

            results: list[Any] = []
            known: dict[int, Memory] = {}
            pairs = [(r, m) for r in range(len(people)) for m in range(len(shown))]
            batches = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
            with self.progress_bar(total=len(batches) * steps) as bar:

                def after_step(step: int, timestep: torch.Tensor, moved: torch.Tensor) -> torch.Tensor:
                    bar.update()
                    if callback_on_step_end is None:
                        return moved
                    inputs.check_drawn(moved, f"the latents after step {step + 1}")  # so not the callback's fault
                    changed = callback_on_step_end(self, step, int(timestep), {"latents": moved} if wanted else {})
                    return inputs.take_changed(changed, moved)

                for number, batch in enumerate(batches):
                    # 4. Every reference once, one row, whatever the number of its poses and steps.
                    for r in {r: None for r, _ in batch}:
                        if r not in known:
                            known[r] = self.build_memory(people[r], height, width)
                    memory = gather([known[r] for r, _ in batch], unconditional)
                    known = {batch[-1][0]: known[batch[-1][0]]}  # its other poses may follow

                    # 5. Noise, of variance 1, and a generator of each picture's own for what solvers add to it.
                    seeds = [(seed, None if drawing.shared_noise else people_keys[r], shown_keys[m]) for r, m in batch]
                    if latents is None:
                        noise = torch.stack([draw_noise(*words, shape) for words in seeds])
                    else:
                        noise = latents[number * batch_size :][: len(batch)].float()

                    # 6. Denoise, (B, C, h, w).
                    clean = denoising.run(
                        noise.to(self._execution_device),
                        memory,
                        pose_features[[m for _, m in batch]],
                        [m for _, m in batch],
                        [make_generator(*words, "steps") for words in seeds],
                        after_step,
                    )
                    inputs.check_drawn(clean, "the drawn latents")

                    # 7. Back to pixels.
                    results.extend(self._decode(clean, output_type, decoder, decode_chunk_size))
            self.maybe_free_model_hooks()
        images: Any
        if output_type == "pil":
            images = [results[start : start + len(shown)] for start in range(0, len(results), len(shown))]
        else:
            stacked: Any = np.stack(results) if output_type == "np" else torch.stack(results)
            images = stacked.reshape(len(people), len(shown), *results[0].shape)
        return IPGOutput(images=images) if return_dict else (images,)

    @property
    def parts(self) -> list[Any]:
        """The components that there are; one thread at a time may use them."""
        return [part for part in self.components.values() if part is not None]

    @property
    def defaults(self) -> weights.Defaults:
        """Size, steps and guidance of a call that does not say otherwise."""
        (height, width), steps, guidance = (self.config[name] for name in weights.Defaults._fields)
        return weights.Defaults((height, width), steps, guidance)

    @torch.no_grad()
    @holding
    def encode_poses(self, poses: Sequence[Image.Image | Pose], height: int, width: int) -> torch.Tensor:
        """Poses as features (M, C, height / 8, width / 8) of the denoiser's first convolution."""
        pose_maps = [pose.draw() if isinstance(pose, Pose) else pose for pose in poses]
        pixels = torch.stack([read_pixels(pose_map, height, width) for pose_map in pose_maps])
        return self.pose_encoder(pixels.to(self._execution_device, self.pose_encoder.dtype))

    @torch.no_grad()
    @holding
    def identity_tokens(self, image: Image.Image | None) -> torch.Tensor:
        """Tokens (1, tokens, width) of a person; of an all-zero network input (mid grey) for None."""
        encoder = self.identity_encoder
        if image is None:
            pixels = torch.zeros(1, 3, *encoder.config.img_size)
        else:
            pixels = encoder.preprocess([take_image(image)])
        features = encoder(pixels.to(self._execution_device, encoder.dtype))
        return self.ifr(features.to(self.ifr.dtype))

    @torch.no_grad()
    @holding
    def reference_latents(self, image: Image.Image, height: int, width: int) -> torch.Tensor:
        """The mean of the autoencoder's posterior for a person, scaled, (1, C, height / 8, width / 8)."""
        pixels = (2 * read_pixels(image, height, width) - 1)[None].to(self._execution_device, self.vae.dtype)
        return self.vae.encode(pixels).latent_dist.mean * self.vae.config.scaling_factor

    @torch.no_grad()
    @holding
    def reference_bank(self, latents: torch.Tensor, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
        """The memory bank: what enters the reference network's self-attentions at timestep 0, (rows, pixels, C)."""
        unet = self.reference_unet
        with record(unet) as bank:
            timestep = torch.zeros((), dtype=torch.long, device=latents.device)
            unet(latents.to(unet.dtype), timestep, encoder_hidden_states=tokens.to(unet.dtype), return_dict=False)
        return bank

    @holding
    def build_memory(self, image: Image.Image, height: int, width: int) -> Memory:
        """All that the denoiser attends to for a person: keys and values of every layer, one row each."""
        tokens = self.identity_tokens(image)
        bank = self.reference_bank(self.reference_latents(image, height, width), tokens)
        return self.project_memory(bank, tokens)

    @torch.no_grad()
    @holding
    def project_memory(self, bank: dict[str, torch.Tensor] | None = None, tokens: torch.Tensor | None = None) -> Memory:
        """Keys and values that the denoiser makes from a reference's memory bank and from identity tokens."""
        hook = getattr(self.unet, "_hf_hook", None)
        if isinstance(hook, CpuOffload):  # brings the denoiser to the device, as its own call would
            hook.pre_forward(self.unet)
        dtype = self.unet.dtype
        bank = {layer: hidden.to(dtype) for layer, hidden in (bank or {}).items()}
        return project(self.unet, bank, None if tokens is None else tokens.to(dtype))

    def _decode(
        self, latents: torch.Tensor, output_type: str, decoder: AutoencoderTiny | None, chunk: int
    ) -> Iterator[Any]:
        """The pictures of a batch of latents, one by one, in the form asked for."""
        if output_type == "latent":
            yield from latents
            return
        network = self.vae if decoder is None else decoder
        device = latents.device if decoder is None else decoder.device
        scaled = (latents / network.config.scaling_factor).to(device, network.dtype)
        for rows in scaled.split(chunk):  # decoding takes most memory
            pictures = network.decode(rows, return_dict=False)[0].float()
            for decoded in pictures if output_type == "pt" else pictures.cpu():
                inputs.check_drawn(decoded, "a drawn picture")
                picture = (decoded / 2 + 0.5).clamp(0, 1)
                if output_type == "pt":
                    yield picture
                else:
                    array = picture.permute(1, 2, 0).numpy()
                    yield Image.fromarray((array * 255).round().astype(np.uint8)) if output_type == "pil" else array
