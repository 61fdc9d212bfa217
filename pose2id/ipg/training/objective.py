"""What a training step computes: the loss of a batch, from noisy latents, a prediction under conditions, and weights.

The paper does not spell these out. The released configuration names v-prediction with zero terminal SNR, a noise offset
of 0.05 and min-SNR weights with gamma 5.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import nn

from pose2id.ipg.networks.attention import PoseInput, connect, make_readers, project, record
from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.batches import Batch, Batches
from pose2id.ipg.training.recipe import Settings

TRAINED = ("reference_unet", "unet", "pose_encoder", "ifr")
"""Components of the pipeline that are trained; the autoencoder and the identity encoder stay as they are."""
_AT_ONCE = 32


class Generator(nn.Module):
    """The trained parts of a pipeline as one module, which predicts for rows with and without a condition."""

    def __init__(self, pipe: IPGPipeline) -> None:
        super().__init__()
        self.reference_unet, self.unet = pipe.reference_unet, pipe.unet
        self.pose_encoder, self.ifr = pipe.pose_encoder, pipe.ifr
        self._readers = make_readers(pipe.unet)
        self._pose = PoseInput()
        self._bank: dict[str, torch.Tensor] = {}

    @contextmanager
    def connected(self) -> Iterator[None]:
        """While inside, the networks are joined, for the backward pass too; the pipeline may draw meanwhile."""
        with connect(self.unet, self._readers, self._pose), record(self.reference_unet) as self._bank:
            try:
                yield
            finally:
                self._bank = {}

    def forward(
        self,
        rows: torch.Tensor,
        timesteps: torch.Tensor,
        pose_maps: torch.Tensor,
        latents: torch.Tensor,
        features: torch.Tensor,
        unconditional: torch.Tensor,
        tokenless: torch.Tensor,
    ) -> torch.Tensor:
        """What the denoiser predicts for noisy latents (B, C, h, w), to be called inside `connected`.

        The last K rows have references: `latents` (K, C, h, w) and identity `features` (K, D). Without any `latents`
        the reference network is not run, and these rows have their tokens only. The B - K rows before them have no
        condition but their pose: tokens of the all-zero image, whose feature is `unconditional` (1, D), and
        self-attention to themselves alone, as unconditional rows have when pictures are drawn. Rows that are
        `tokenless` (K,) have the tokens of the all-zero image in both networks: what is known of the person then comes
        from the reference's latents alone.
        """
        count, known = len(rows), len(features)
        tokens = self.ifr(torch.cat([unconditional, features]))  # (1 + K, tokens, width)
        zero = tokens[:1]
        own = torch.where(tokenless[:, None, None], zero, tokens[1:])
        bank = None
        if len(latents):
            self._bank.clear()
            start = torch.zeros((), dtype=torch.long, device=rows.device)
            self.reference_unet(latents, start, encoder_hidden_states=own, return_dict=False)
            bank = dict(self._bank)
            self._bank.clear()
        memory = project(self.unet, bank, torch.cat([zero.expand(count - known, -1, -1), own]))
        self._pose.features = self.pose_encoder(pose_maps)
        unused = rows.new_zeros(count, 1, self.unet.config.cross_attention_dim)  # see IPGPipeline
        prediction: torch.Tensor = self.unet(
            rows, timesteps, encoder_hidden_states=unused, cross_attention_kwargs={"memory": memory}, return_dict=False
        )[0]
        self._pose.features = None
        return prediction


class Loss:
    """Computes the losses of a stage's batches; with `Settings.cache`, the latents of all targets are computed once.

    `model` is the `Generator` of the pipeline, as accelerate has prepared it.
    """

    def __init__(
        self, pipe: IPGPipeline, model: nn.Module, batches: Batches, settings: Settings, device: torch.device
    ) -> None:
        self.pipe, self.model, self.settings, self.device = pipe, model, settings, device
        self.latents = self._encode_targets(batches) if settings.cache else {}
        self.unconditional = self._features(batches.unconditional)

    def __call__(self, batch: Batch) -> torch.Tensor:
        """The loss of a batch, a scalar with a gradient."""
        # 1. What is to be drawn, and the references, (B, C, h, w) and (K, C, h, w).
        if batch.target_pixels is None:
            targets = torch.stack([self.latents[row] for row in batch.targets])
        else:
            targets = self._encode(batch.target_pixels)
        known = len(batch.references)
        references = self._encode(batch.references) if known and self.settings.use_reference else targets[:0]
        features = self._features(batch.encoder_input) if known else self.unconditional[:0]

        # 2. Noise.
        generator = torch.Generator("cpu").manual_seed(batch.seed)
        scheduler = self.pipe.scheduler
        steps = scheduler.config.num_train_timesteps
        timesteps = torch.randint(steps, (len(targets),), generator=generator, device="cpu").to(self.device)
        noise = draw_noise(tuple(targets.shape), self.settings.noise_offset, generator).to(self.device)
        rows, velocity = noisy_and_target(scheduler, targets, noise, timesteps)

        # 3. Prediction and error.
        pose_maps, tokenless = batch.pose_maps.to(self.device), batch.tokenless.to(self.device)
        prediction = self.model(rows, timesteps, pose_maps, references, features, self.unconditional, tokenless)
        return weighted_error(prediction, velocity, loss_weights(scheduler, timesteps, self.settings.min_snr_gamma))

    @torch.no_grad()
    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pictures (N, 3, H, W) in [0, 1] as scaled latents; the posterior's mean, as the pipeline takes it."""
        vae = self.pipe.vae
        given = (2 * pixels - 1).to(self.device, vae.dtype)
        return (vae.encode(given).latent_dist.mean * vae.config.scaling_factor).float()

    @torch.no_grad()
    def _features(self, images: torch.Tensor) -> torch.Tensor:
        encoder = self.pipe.identity_encoder
        return encoder(images.to(self.device, encoder.dtype)).float()

    def _encode_targets(self, batches: Batches) -> dict[int, torch.Tensor]:
        latents: dict[int, torch.Tensor] = {}
        for start in range(0, len(batches.target_rows), _AT_ONCE):
            rows = batches.target_rows[start : start + _AT_ONCE]
            encoded = self._encode(torch.stack([batches.pixels(row) for row in rows]))
            latents |= dict(zip(rows, encoded, strict=True))
        return latents


def unused_parameters(unet: UNet2DConditionModel) -> list[str]:
    """Parameters of a reference network that can never get a gradient.

    Only what enters its self-attentions is handed on, so all that comes after the last of these inputs, that attention
    itself included, is without effect.

    Parameters
    ----------
    unet : UNet2DConditionModel
        The reference network; it is run once on a few zeros, and is as before afterwards.

    Returns
    -------
    list of str
        Names, in the order of ``unet.named_parameters()``.

    Examples
    --------
    >>> from pose2id.ipg import IPGPipeline
    >>> from pose2id.ipg.training import unused_parameters
    >>> unused_parameters(IPGPipeline.from_pretrained("tiny").reference_unet)[-1]
    'conv_out.bias'
    """
    parameters = dict(unet.named_parameters())
    flags = {name: parameter.requires_grad for name, parameter in parameters.items()}
    training = unet.training
    side = 2 ** len(unet.config.down_block_types)
    first = next(iter(parameters.values()))
    sample = first.new_zeros(1, unet.config.in_channels, side, side)
    tokens = first.new_zeros(1, 1, unet.config.cross_attention_dim)
    try:
        unet.requires_grad_(True).eval()
        with torch.enable_grad(), record(unet) as bank:
            unet(sample, torch.zeros((), dtype=torch.long, device=first.device), encoder_hidden_states=tokens)
        used = _find_leaves(list(bank.values()))
    finally:
        unet.train(training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return [name for name, parameter in parameters.items() if id(parameter) not in used]


def _find_leaves(tensors: list[torch.Tensor]) -> set[int]:
    """Ids of the leaves that the tensors were computed from, found in the graph without a backward pass."""
    waiting = [tensor.grad_fn for tensor in tensors]
    seen, leaves = set(), set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.add(id(node.variable))
        waiting.extend(following for following, _ in node.next_functions)
    return leaves


def draw_noise(shape: tuple[int, ...], offset: float, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise (B, C, h, w), and `offset` times noise that is the same all over a channel, on the CPU.

    The second part lets the mean colour of a picture be learnt (Guttenberg, "Diffusion with offset noise", 2023).
    """
    noise = torch.randn(shape, generator=generator, device="cpu")
    return noise + offset * torch.randn((*shape[:2], 1, 1), generator=generator, device="cpu")


def check_prediction(scheduler: DDIMScheduler) -> None:
    """Raise ValueError for a scheduler that predicts anything but the velocity."""
    if scheduler.config.prediction_type != "v_prediction":
        raise ValueError(
            f"scheduler must have prediction_type 'v_prediction', received {scheduler.config.prediction_type!r}; "
            "with zero terminal SNR nothing else can be learnt at the last timestep"
        )


def noisy_and_target(
    scheduler: DDIMScheduler, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Noisy latents a x + s n, and the velocity a n - s x that is to be predicted, of latents x and noise n.

    a is the root of the scheduler's cumulative alpha (0 at the last timestep, where its betas are rescaled), s =
    sqrt(1 - a^2).
    """
    return scheduler.add_noise(latents, noise, timesteps), scheduler.get_velocity(latents, noise, timesteps)


def loss_weights(scheduler: DDIMScheduler, timesteps: torch.Tensor, gamma: float) -> torch.Tensor:
    """Min-SNR weights of the velocity's squared error, (B,) float32; 1 for gamma = 0.

    min(snr + 1, gamma) / (snr + 1). Derived from the weights of Hang et al. ("Efficient Diffusion Training via Min-SNR
    Weighting Strategy", ICCV 2023) it would be min(snr, gamma) / (snr + 1), as diffusers has it since its pull request
    6307; that is 0 at zero SNR, where drawing begins, so nothing would be learnt there. This is the form of its pull
    request 5238, which is 1 there.
    """
    alpha = scheduler.alphas_cumprod.to(timesteps.device)[timesteps].double()
    if not gamma:
        return torch.ones_like(alpha, dtype=torch.float32)
    # snr + 1 = 1 / (1 - alpha), and alpha < 1
    return (gamma * (1 - alpha)).clamp(max=1).float()


def weighted_error(prediction: torch.Tensor, target: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Mean over the rows of weight times mean squared error, in float32."""
    errors = (prediction.float() - target.float()).square().flatten(1).mean(dim=1)
    return (errors * weights).mean()


def ema_decay(decay: float, step: int) -> float:
    """How much of the average stays at a stage's step, counted from 1; little at first, when it is of the start."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def average(ema: dict[str, torch.Tensor], parameters: Mapping[str, torch.Tensor], decay: float) -> None:
    """Move averaged weights towards the present ones, in place: decay * averaged + (1 - decay) * present."""
    torch._foreach_lerp_(list(ema.values()), [parameters[name].detach() for name in ema], 1 - decay)


@contextmanager
def swapped(parameters: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """While inside, parameters have the values of `other`."""
    before = {name: parameters[name].data for name in other}
    for name, tensor in other.items():
        parameters[name].data = tensor
    try:
        yield
    finally:
        for name, tensor in before.items():
            parameters[name].data = tensor
