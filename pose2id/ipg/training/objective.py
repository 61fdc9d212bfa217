"""What a training step computes: noisy latents, the prediction under its conditions, and the weighted error.

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

__all__ = [
    "TRAINED",
    "Generator",
    "average",
    "check_prediction",
    "draw_noise",
    "ema_decay",
    "loss_weights",
    "noisy_and_target",
    "swapped",
    "unused_parameters",
    "weighted_error",
]

TRAINED = ("reference_unet", "unet", "pose_encoder", "ifr")
"""Components of the pipeline that are trained; the autoencoder and the identity encoder stay as they are."""


class Generator(nn.Module):
    """The trained parts of a pipeline as one module, which predicts for rows with and without a condition.

    Parameters
    ----------
    pipe : IPGPipeline
        Its modules are used, not copied.
    """

    def __init__(self, pipe: IPGPipeline) -> None:
        super().__init__()
        self.reference_unet, self.unet = pipe.reference_unet, pipe.unet
        self.pose_encoder, self.ifr = pipe.pose_encoder, pipe.ifr
        self._readers = make_readers(pipe.unet)
        self._pose = PoseInput()
        self._bank: dict[str, torch.Tensor] = {}

    @contextmanager
    def connected(self) -> Iterator[None]:
        """While inside, the networks are joined; gradient checkpointing needs that in the backward pass too.

        The pipeline may draw meanwhile.
        """
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
        """What the denoiser predicts, to be called inside `connected`.

        Parameters
        ----------
        rows : tensor (B, C, h, w)
            Noisy latents.
        timesteps : tensor (B,), int64
        pose_maps : tensor (B, 3, H, W)
            In [0, 1].
        latents, features : tensors (K, C, h, w) and (K, D)
            References of the last K rows; without any `latents`, the reference network is not run, and these rows have
            their tokens only. The B - K rows before them have no condition but their pose: tokens of the
            all-zero image, and self-attention to themselves alone, as the unconditional rows have when pictures are
            drawn.
        unconditional : tensor (1, D)
            Identity feature of the all-zero image.
        tokenless : tensor (K,), bool
            References that have the tokens of the all-zero image in both networks: what is known of the person then
            comes from the reference's latents alone.

        Returns
        -------
        tensor (B, C, h, w)
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
            rows,
            timesteps,
            encoder_hidden_states=unused,
            cross_attention_kwargs={"memory": memory},
            return_dict=False,
        )[0]
        self._pose.features = None
        return prediction


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
    >>> from diffusers import UNet2DConditionModel
    >>> from pose2id.ipg.training.objective import unused_parameters
    >>> unet = UNet2DConditionModel(
    ...     block_out_channels=[8],
    ...     down_block_types=["CrossAttnDownBlock2D"],
    ...     up_block_types=["CrossAttnUpBlock2D"],
    ...     layers_per_block=1,
    ...     norm_num_groups=4,
    ...     attention_head_dim=2,
    ...     cross_attention_dim=8,
    ... )
    >>> unused_parameters(unet)[-1]
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
        reached = _reached(list(bank.values()))
    finally:
        unet.train(training)
        for name, parameter in parameters.items():
            parameter.requires_grad_(flags[name])
    return [name for name, parameter in parameters.items() if id(parameter) not in reached]


def _reached(tensors: list[torch.Tensor]) -> set[int]:
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
    """Noisy latents, and the velocity that is to be predicted from them.

    With a the root of the scheduler's cumulative alpha (0 at the last timestep, where its betas are rescaled) and s =
    sqrt(1 - a^2): a latents + s noise, and a noise - s latents.
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
