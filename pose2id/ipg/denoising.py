"""The denoising loop: which rows the denoiser sees in which step, guidance, and the solver's step."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pose2id.ipg.networks.attention import Memory, PoseInput, ReferenceReader, connect
from pose2id.ipg.presets import Drawing


@dataclass
class Denoising:
    """From noise to latents, for the batches of one call of the pipeline.

    With `equal_starts`, noise that is the same for all people, the unconditional rows of the first step know a pose and
    nothing else. So there is one for each pose, whatever the number of people. They go through the denoiser one by one:
    their last bits must not depend on which batch came first.
    """

    unet: Any
    scheduler: Any
    drawing: Drawing
    readers: dict[str, ReferenceReader]
    pose: PoseInput
    unconditional: Memory | None  # one row, where any step is guided
    equal_starts: bool = False
    _first: dict[int, torch.Tensor] = field(default_factory=dict)  # what is unconditional in the first step, by pose

    def run(
        self,
        noise: torch.Tensor,
        memory: Memory,
        pose_features: torch.Tensor,
        poses: Sequence[int],
        generators: list[torch.Generator],
        after_step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """All steps of one batch, (B, C, h, w), in float32 between the steps.

        `memory` has the rows of the unconditional half first when guided; `poses` says which pose each row has.
        `generators` has one for each picture, so that no solver's noise depends on the batch.
        """
        # On the CPU, where solvers keep the tables that they look a timestep up in: on a GPU they would wait for each.
        self.scheduler.set_timesteps(self.drawing.num_inference_steps, device="cpu")
        timesteps = self.scheduler.timesteps.to(noise.device)  # the denoiser's
        latents = noise * float(self.scheduler.init_noise_sigma)
        known = inspect.signature(self.scheduler.step).parameters
        options = {k: v for k, v in (("eta", 0.0), ("generator", generators)) if k in known}
        features = pose_features.to(self.unet.dtype)
        both = torch.cat([features] * 2) if self.unconditional is not None else features
        count = len(latents)
        alone = {layer: (key[-count:], value[-count:]) for layer, (key, value) in memory.items()}
        scale = self.drawing.guidance_scale
        with connect(self.unet, self.readers, self.pose):
            for i, timestep in enumerate(self.scheduler.timesteps):
                rows = self.scheduler.scale_model_input(latents, timestep)
                if not self.drawing.guided(i):
                    prediction = self._predict(rows, timesteps[i], alone, features)
                else:
                    if self.equal_starts and i == 0:
                        unconditional = self._predict_first(rows, timesteps[i], features, poses)
                        conditional = self._predict(rows, timesteps[i], alone, features)
                    else:
                        predicted = self._predict(torch.cat([rows] * 2), timesteps[i], memory, both)
                        unconditional, conditional = predicted.chunk(2)
                    prediction = unconditional + scale * (conditional - unconditional)
                    if self.drawing.guidance_rescale:
                        prediction = rescale(prediction, conditional, self.drawing.guidance_rescale)
                latents = self.scheduler.step(prediction, timestep, latents, **options, return_dict=False)[0]
                latents = after_step(i, timestep, latents)
        return latents

    def _predict(
        self, rows: torch.Tensor, timestep: torch.Tensor, memory: Memory | None, pose_features: torch.Tensor
    ) -> torch.Tensor:
        """What the denoiser says of these rows, in float32."""
        # Stock UNets want tokens, although every cross-attention finds its own in `memory`.
        tokens = rows.new_zeros(len(rows), 1, self.unet.config.cross_attention_dim, dtype=self.unet.dtype)
        self.pose.features = pose_features
        prediction: torch.Tensor = self.unet(
            rows.to(self.unet.dtype),
            timestep,
            encoder_hidden_states=tokens,
            cross_attention_kwargs={"memory": memory},
            return_dict=False,
        )[0]
        return prediction.float()

    def _predict_first(
        self, rows: torch.Tensor, timestep: torch.Tensor, pose_features: torch.Tensor, poses: Sequence[int]
    ) -> torch.Tensor:
        """The unconditional predictions of the first step, those of each pose once."""
        for place, pose in enumerate(poses):
            if pose not in self._first:
                one = slice(place, place + 1)
                self._first[pose] = self._predict(rows[one], timestep, self.unconditional, pose_features[one])
        return torch.cat([self._first[pose] for pose in poses])


def rescale(guided: torch.Tensor, conditional: torch.Tensor, share: float) -> torch.Tensor:
    """Guided predictions, in this share with the standard deviation of the conditional ones (arXiv 2305.08891, 3.4)."""
    axes = list(range(1, guided.ndim))
    same = guided * (conditional.std(axes, keepdim=True) / guided.std(axes, keepdim=True))
    return share * same + (1 - share) * guided
