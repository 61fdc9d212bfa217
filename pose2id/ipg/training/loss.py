"""The loss of a batch: latents and features of its pictures, noise, prediction, weighted error."""

from __future__ import annotations

import torch
from torch import nn

from pose2id.ipg.pipeline import IPGPipeline
from pose2id.ipg.training.batches import Batch, Batches
from pose2id.ipg.training.objective import draw_noise, loss_weights, noisy_and_target, weighted_error
from pose2id.ipg.training.recipe import Settings

__all__ = ["Loss"]

_AT_ONCE = 32


class Loss:
    """Computes the losses of a stage's batches.

    Parameters
    ----------
    pipe : IPGPipeline
        Its autoencoder, identity encoder and scheduler are used.
    model : module
        `Generator` of the same pipeline, as accelerate has prepared it.
    batches : Batches
        With `Settings.cache`, the latents of all its targets are computed here.
    settings : Settings
    device : torch.device
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
        timesteps = torch.randint(steps, (len(targets),), generator=generator, device="cpu")
        timesteps = timesteps.to(self.device)
        noise = draw_noise(tuple(targets.shape), self.settings.noise_offset, generator).to(self.device)
        rows, velocity = noisy_and_target(scheduler, targets, noise, timesteps)

        # 3. Prediction and error.
        prediction = self.model(
            rows,
            timesteps,
            batch.pose_maps.to(self.device),
            references,
            features,
            self.unconditional,
            batch.tokenless.to(self.device),
        )
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
        rows = batches.target_rows
        latents: dict[int, torch.Tensor] = {}
        for start in range(0, len(rows), _AT_ONCE):
            some = rows[start : start + _AT_ONCE]
            encoded = self._encode(torch.stack([batches.pixels(row) for row in some]))
            latents |= dict(zip(some, encoded, strict=True))
        return latents
