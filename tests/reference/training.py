"""Plain float64 versions of what training computes: schedule, velocity, weights, averages, learning rates, steps.

The networks' part is in `predict`, which uses the plain reference network and denoiser of `reference.ipg`: every row
has a reference of its own, and a mask says which rows do not look at it.
"""

import math

import numpy as np
import torch

from reference import ipg as plain


def alphas_cumprod(config):
    """Scaled-linear betas, rescaled so that the last cumulative alpha is 0 (Lin et al., 2024, algorithm 1)."""
    betas = np.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, config["num_train_timesteps"]) ** 2
    roots = np.sqrt(np.cumprod(1 - betas))
    return ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])) ** 2


def noisy(alpha, latents, noise):
    return math.sqrt(alpha) * latents + math.sqrt(1 - alpha) * noise


def velocity(alpha, latents, noise):
    return math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * latents


def min_snr_weight(alpha, gamma):
    snr = alpha / (1 - alpha)
    return min(snr + 1, gamma) / (snr + 1)


def ema(values, decay):
    """The average after each of the values; the first is the start."""
    average, result = values[0], []
    for step, value in enumerate(values[1:], 1):
        share = min(decay, (1 + step) / (10 + step))
        average = share * average + (1 - share) * value
        result.append(average)
    return result


def adamw(value, gradients, rate, betas, decay, eps=1e-8):
    """Loshchilov and Hutter, algorithm 2, in float64."""
    first = second = np.zeros_like(value)
    for step, gradient in enumerate(gradients, 1):
        first = betas[0] * first + (1 - betas[0]) * gradient
        second = betas[1] * second + (1 - betas[1]) * gradient**2
        corrected = first / (1 - betas[0] ** step), second / (1 - betas[1] ** step)
        value = value - rate * decay * value - rate * corrected[0] / (np.sqrt(corrected[1]) + eps)
    return value


def predict(pipe, rows, timesteps, pose_maps, latents, features, unconditional, tokenless):
    """What `Generator.forward` gives, for its arguments; rows without a condition have zeros as references."""
    known = len(latents)
    alone = len(rows) - known
    tokens = [pipe.ifr(unconditional)] * alone
    tokens += [pipe.ifr(unconditional if tokenless[i] else features[i : i + 1]) for i in range(known)]
    tokens = torch.cat(tokens)
    seen = torch.cat([latents.new_zeros(alone, *rows.shape[1:]), latents])
    bank, _ = plain.write(pipe.reference_unet, seen, torch.tensor(0), encoder_hidden_states=tokens)
    blind = torch.arange(len(rows)) < alone
    return plain.denoise(pipe.unet, rows, timesteps, tokens, bank, pipe.pose_encoder(pose_maps), blind)
