"""The generator as the released code schedules it, plainly: nothing is cached, nothing is shared.

Every picture has its own two rows (unconditional, conditional) in the reference network, and keys and values are
projected again in every step. Slow on purpose; written from the description of the released code's tensors.
"""

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch.nn.functional import scaled_dot_product_attention

from pose2id.ipg import IPGPipeline
from pose2id.ipg.networks import IFR, PoseEncoder, TransReID


class Writer:
    def __init__(self, bank, name, inner):
        self.bank, self.name, self.inner = bank, name, inner

    def __call__(self, attn, hidden_states, *args, **kwargs):
        self.bank[self.name] = hidden_states.clone()
        return self.inner(attn, hidden_states, *args, **kwargs)


class Reader:
    def __init__(self, bank, name, unconditional):
        self.bank, self.name, self.unconditional = bank, name, unconditional

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):  # noqa: ARG002
        both = torch.cat([hidden_states, self.bank[self.name]], dim=1)
        out = attend(attn, hidden_states, both)
        mask = self.unconditional
        if mask.any():
            out[mask] = attend(attn, hidden_states[mask], hidden_states[mask])
        return out


def attend(attn, hidden, context):
    def heads(x):
        return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

    out = scaled_dot_product_attention(*(heads(x) for x in (attn.to_q(hidden), attn.to_k(context), attn.to_v(context))))
    return attn.to_out[0](out.transpose(1, 2).flatten(2))


def write(unet, *args, **kwargs):
    """Run the reference UNet; returns its bank by block name, and its features before the output convolution."""
    bank, seen, before = {}, [], unet.attn_processors
    unet.set_attn_processor(
        {
            name: Writer(bank, name.removesuffix(".attn1.processor"), inner) if ".attn1." in name else inner
            for name, inner in before.items()
        }
    )
    hook = unet.conv_norm_out.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        unet(*args, **kwargs)
    finally:
        hook.remove()
        unet.set_attn_processor(before)
    return bank, seen[0]


def denoise(unet, rows, timestep, tokens, bank, pose, unconditional):
    """One call of the denoiser; without a bank (None) its self-attentions are the stock ones."""
    before = unet.attn_processors
    if bank is not None:
        unet.set_attn_processor(
            {
                name: Reader(bank, name.removesuffix(".attn1.processor"), unconditional) if ".attn1." in name else inner
                for name, inner in before.items()
            }
        )
    hook = unet.conv_in.register_forward_hook(lambda _, __, out: out + pose)
    try:
        return unet(rows, timestep, encoder_hidden_states=tokens, return_dict=False)[0]
    finally:
        hook.remove()
        unet.set_attn_processor(before)


def generate(parts, reference_latents, tokens, no_tokens, pose, noise, steps, guidance):
    """Latents after every step and raw predictions, for B pictures: one row of each argument for each picture."""
    count = len(noise)
    scheduler = parts["scheduler"]
    scheduler.set_timesteps(steps)
    both = torch.cat([no_tokens.expand_as(tokens), tokens])
    bank, _ = write(
        parts["reference_unet"], reference_latents.repeat(2, 1, 1, 1), torch.tensor(0), encoder_hidden_states=both
    )
    unconditional = torch.arange(2 * count) < count
    latents, record = noise, []
    for timestep in scheduler.timesteps:
        rows = torch.cat([latents, latents])
        out = denoise(parts["unet"], rows, timestep, both, bank, torch.cat([pose, pose]), unconditional)
        first, second = out.chunk(2)
        guided = first + guidance * (second - first)
        latents = scheduler.step(guided, timestep, latents, eta=0.0).prev_sample
        record.append({"unet_out": out, "v_cfg": guided, "latents": latents})
    return bank, record


def decode(vae, latents):
    """Latents as images (B, 3, H, W) in [0, 1]."""
    return torch.cat([(vae.decode(row[None] / 0.18215).sample / 2 + 0.5).clamp(0, 1) for row in latents])


@torch.no_grad()
def plainly(pipe, people, poses, noise, *, height, width, steps, guidance):
    """`people[i]` in `poses[i]` by the plain version."""
    latents = torch.cat([pipe.reference_latents(person, height, width) for person in people])
    tokens = torch.cat([pipe.identity_tokens(person) for person in people])
    pose = pipe.encode_poses(poses, height, width)
    _, steps_ = generate(pipe.components, latents, tokens, pipe.identity_tokens(None), pose, noise, steps, guidance)
    return steps_[-1]["latents"]


def random_pipe(config, seed=0):
    """A pipeline with random weights, every part of it at work."""
    torch.manual_seed(seed)
    parts = {
        "vae": AutoencoderKL.from_config(config["vae"]),
        "reference_unet": UNet2DConditionModel.from_config(config["unet"]),
        "unet": UNet2DConditionModel.from_config(config["unet"]),
        "pose_encoder": PoseEncoder(**config["pose_guider"]),
        "ifr": IFR(**config["ifr"]),
        "identity_encoder": TransReID(**config["transreid"]),
        "scheduler": DDIMScheduler(**config["scheduler"]),
    }
    for name in ("pose_encoder", "identity_encoder"):
        for parameter in parts[name].parameters():
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.1)
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    pipe = IPGPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe
