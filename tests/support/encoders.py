"""What tests of encoders share: small pictures to learn from, which parameters learn, and whether the loss falls."""

import torch
from torch import nn

from pose2id.encoders import Batch, Trunk

CHANNELS = (4, 6, 8)
"""Of the small trunk, whose maps of 32 x 16 pictures are (N, 8, 8, 4)."""


def small_trunk(channels=CHANNELS):
    """A trunk of few channels."""
    return Trunk(channels)


def toy_batch(people=4, each=4, size=(32, 16), seed=0):
    """Pictures of noise, a little of which is each person's own."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.arange(people).repeat_interleave(each)
    own = torch.randn(people, 3, *size, generator=generator)[ids]
    return Batch((own + 2 * torch.randn(len(ids), 3, *size, generator=generator)) / 2, ids)


def on_maps(make, maps, **sizes):
    """An encoder whose pictures are its maps (N, C, H, W): the trunk hands them on. In evaluation, in float64."""
    encoder = make(3, small_trunk((2, 2, maps.shape[1])), **sizes).double().eval()
    encoder.trunk = nn.Identity()
    return encoder


def total(encoder, batch):
    """The sum of the terms of the loss."""
    return torch.stack(list(encoder.loss(batch).values())).sum()


def learning(encoder, batch):
    """The names of the parameters that a gradient of the loss reaches."""
    encoder.zero_grad()
    total(encoder, batch).backward()
    return {name for name, one in encoder.named_parameters() if one.grad is not None and bool(one.grad.abs().max() > 0)}


def losses(encoder, batch, steps=8, parameters=None, rate=0.05):
    """The losses before and after some steps down the gradient on one batch."""
    parameters = list(encoder.parameters() if parameters is None else parameters)
    found = []
    for _ in range(steps + 1):
        encoder.zero_grad()
        value = total(encoder, batch)
        found.append(value.item())
        value.backward()
        with torch.no_grad():
            for one in parameters:
                if one.grad is not None:
                    one -= rate * one.grad
    return found[0], found[-1]
