"""The memory bank: reference features, recorded in one stock `UNet2DConditionModel`, read by another, the denoiser.

The reference network writes what enters each of its self-attentions (`record`). The denoiser's self-attention of the
same name takes it as further keys and values, in the conditional rows only; its cross-attentions take the identity
tokens. Neither changes from one denoising step to the next, so keys and values are projected once (`project`) and
handed to the UNet with every call, as ``cross_attention_kwargs={"memory": ...}``; between calls nothing is kept in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch.nn import functional

Memory = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""Keys and values by the name of the attention layer, each (rows, heads, tokens, width of a head)."""

SUFFIX = ".processor"


def layers(unet: UNet2DConditionModel, kind: str) -> list[str]:
    """Names of a UNet's attention layers: kind "attn1" for self-attention, "attn2" for cross-attention."""
    names = (name.removesuffix(SUFFIX) for name in unet.attn_processors)
    return [name for name in names if name.endswith(f".{kind}")]


class _Writer:
    """The stock processor, which also writes down what it is given."""

    def __init__(self, layer: str, bank: dict[str, torch.Tensor]) -> None:
        self.layer, self.bank, self.attend = layer, bank, AttnProcessor2_0()

    def __call__(self, attn: Attention, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        self.bank[self.layer] = hidden_states
        return self.attend(attn, hidden_states, *args, **kwargs)


class ReferenceReader:
    """Attention over own tokens and those in `memory`, for the layer of that name; the stock one without."""

    def __init__(self, layer: str) -> None:
        self.layer = layer
        self.own = layer.endswith(".attn1")
        self.attend = AttnProcessor2_0()

    def __call__(
        self,
        attn: Attention,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        temb: torch.Tensor | None = None,
        memory: Memory | None = None,
    ) -> torch.Tensor:
        """`memory` belongs to the last rows of the batch; those before them attend to their own tokens only."""
        if memory is None or self.layer not in memory:
            return self.attend(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        key, value = memory[self.layer]
        query = split_heads(attn, attn.to_q(hidden_states))
        if self.own:
            own_key, own_value = (split_heads(attn, to(hidden_states)) for to in (attn.to_k, attn.to_v))
            alone = len(query) - len(key)
            joined = functional.scaled_dot_product_attention(
                query[alone:], torch.cat([own_key[alone:], key], dim=2), torch.cat([own_value[alone:], value], dim=2)
            )
            if alone:
                plain = functional.scaled_dot_product_attention(query[:alone], own_key[:alone], own_value[:alone])
                joined = torch.cat([plain, joined])
        else:
            joined = functional.scaled_dot_product_attention(query, key, value)
        hidden: torch.Tensor = attn.to_out[0](joined.transpose(1, 2).flatten(2))
        return hidden


class PoseInput:
    """A forward hook of the denoiser's first convolution that adds the pose features (rows, C, h, w), if any."""

    features: torch.Tensor | None = None

    def __call__(self, _module: torch.nn.Module, _args: Any, output: torch.Tensor) -> torch.Tensor:
        """As torch calls forward hooks."""
        return output if self.features is None else output + self.features


def split_heads(attn: Attention, hidden: torch.Tensor) -> torch.Tensor:
    """(rows, tokens, C) as (rows, heads, tokens, C / heads)."""
    rows, tokens, _ = hidden.shape
    return hidden.view(rows, tokens, attn.heads, -1).transpose(1, 2)


@contextmanager
def record(unet: UNet2DConditionModel) -> Iterator[dict[str, torch.Tensor]]:
    """While inside, what enters each self-attention of `unet`, by layer name, (rows, tokens, C); normalised already."""
    bank: dict[str, torch.Tensor] = {}
    before = unet.attn_processors
    written = {f"{layer}{SUFFIX}": _Writer(layer, bank) for layer in layers(unet, "attn1")}
    unet.set_attn_processor({**before, **written})
    try:
        yield bank
    finally:
        unet.set_attn_processor(before)


@contextmanager
def connect(unet: UNet2DConditionModel, readers: Mapping[str, ReferenceReader], pose: PoseInput) -> Iterator[None]:
    """While inside, `unet` reads `memory` and adds the pose features; afterwards it is as it was.

    `readers`, by processor name, and `pose` are the caller's, so that a compiled UNet meets the same ones again.
    """
    before = unet.attn_processors
    unet.set_attn_processor(dict(readers))
    hook = unet.conv_in.register_forward_hook(pose)
    try:
        yield
    finally:
        hook.remove()
        pose.features = None
        unet.set_attn_processor(before)


def make_readers(unet: UNet2DConditionModel) -> dict[str, ReferenceReader]:
    """A reader for every attention layer of `unet`, by processor name."""
    return {name: ReferenceReader(name.removesuffix(SUFFIX)) for name in unet.attn_processors}


def project(
    unet: UNet2DConditionModel, bank: Mapping[str, torch.Tensor] | None = None, tokens: torch.Tensor | None = None
) -> Memory:
    """Keys and values that `unet` makes from a reference's bank (self-attention) and tokens (cross-attention)."""
    sources: dict[str, torch.Tensor] = dict(bank or {})
    if tokens is not None:
        sources |= dict.fromkeys(layers(unet, "attn2"), tokens)
    memory = {}
    for layer, hidden in sources.items():
        attn = unet.get_submodule(layer)
        memory[layer] = (split_heads(attn, attn.to_k(hidden)), split_heads(attn, attn.to_v(hidden)))
    return memory


def gather(memories: Sequence[Memory], unconditional: Memory | None = None) -> Memory:
    """The memory of a batch: one of a reference for each conditional row, after as many rows that know none.

    `memories` holds one per conditional row (the same one may stand there often). With `unconditional`, the memory of
    the unconditional rows, cross-attentions get as many of its rows first.
    """
    result = {}
    for layer, (key, _) in memories[0].items():
        count = len(memories)
        if all(memory is memories[0] for memory in memories):  # a view will do
            pair = [part.expand(count, *key.shape[1:]) for part in memories[0][layer]]
        else:
            pair = [torch.cat([memory[layer][i] for memory in memories]) for i in (0, 1)]
        if unconditional is not None and layer in unconditional:
            pair = [torch.cat([unconditional[layer][i].expand(count, *key.shape[1:]), pair[i]]) for i in (0, 1)]
        result[layer] = (pair[0], pair[1])
    return result
