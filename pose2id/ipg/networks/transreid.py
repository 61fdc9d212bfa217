"""The identity encoder of the generator: TransReID, a vision transformer with overlapping patches and a jigsaw branch.

The identity tokens (IFR) were trained on its feature, so the generator needs this encoder whatever model the user's own
features come from. Written from the paper (He et al., "TransReID: Transformer-based Object Re-Identification", ICCV
2021) and the released evaluation code (github.com/damo-cv/TransReID, github.com/yuanc3/Pose2ID, both MIT); names of
modules and parameters are those of the released weights.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL.Image import Image
from torch import nn
from torch.nn import functional

from pose2id.ipg.inputs import check_shape, stack_images
from pose2id.ipg.weights.parts import CheckedModel, is_finite

logger = logging.getLogger(__name__)

LOCALS = 4  # parts of the jigsaw branch; a part's weight in the feature is 1 / LOCALS


class _Attention(nn.Module):
    """Multi-head self-attention over tokens (N, L, D)."""

    def __init__(self, dim: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        n, length, dim = tokens.shape
        qkv = self.qkv(tokens).view(n, length, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (N, heads, L, D / heads)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.proj(mixed.transpose(1, 2).reshape(n, length, dim))


class _Block(nn.Module):
    """A transformer layer that normalises before attention and before the MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float, qkv_bias: bool, eps: float) -> None:
        super().__init__()
        hidden = int(dim * mlp_ratio)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = _Attention(dim, heads, qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = nn.Sequential(OrderedDict(fc1=nn.Linear(dim, hidden), act=nn.GELU(), fc2=nn.Linear(hidden, dim)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class _Trunk(nn.Module):
    """Images (N, 3, H, W) as class token and patch tokens (N, 1 + patches, D), before the last layer.

    The last layer, `norm` and `fc` belong to the released weights and to the transformer the trunk was trained as;
    nothing here uses them, because each branch has a last layer of its own.
    """

    def __init__(
        self,
        dim: int,
        patches: int,
        patch_size: int,
        stride: tuple[int, int],
        blocks: list[_Block],
        eps: float,
        classes: int,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Sequential(OrderedDict(proj=nn.Conv2d(3, dim, patch_size, stride=stride)))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + patches, dim))
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.fc = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)  # (N, patches, D), rows of the image first
        tokens = torch.cat([self.cls_token.expand(len(images), -1, -1), patches], dim=1) + self.pos_embed
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        return tokens


class TransReID(CheckedModel, ModelMixin, ConfigMixin):
    """The identity encoder: photographs of people as features (N, 5 * embed_dim).

    The defaults are the released model: ViT-B/16 with stride 12 on 256 x 128 pixels, features of 3840 numbers. It
    computes the evaluation path only, in training mode too; its weights are frozen in every use of the generator.

    Parameters
    ----------
    img_size : (int, int)
        Height and width of the images.
    patch_size : int
        Side of a square patch.
    stride : (int, int)
        Steps between patches, down and across.
    embed_dim, depth, num_heads : int
        Width, number of layers, and attention heads.
    mlp_ratio, qkv_bias, layer_norm_eps
        Width of the layers' MLP in multiples of `embed_dim`; whether queries, keys and values have a bias; the epsilon
        of every LayerNorm.
    base_fc_classes, num_class : int
        Outputs of the trunk's classifier and of the five identity classifiers. The feature does not depend on them;
        the released weights hold them.
    shift_num, shuffle_groups : int
        The jigsaw: patch tokens move by ``shift_num - 1`` places, then are dealt out in `shuffle_groups` groups.
    divide_length : int
        A local part is ``patches // divide_length`` tokens long; there are always 4 parts, so at least 4.
    re_arrange : bool
        False leaves the patch tokens in their order.
    neck_feat : {"before", "after"}
        The feature before or after the parts' batch normalisations.
    jpm, neck, sie_camera, sie_view, sie_coe, camera_num, view_num
        Of the released configuration. Camera and view embeddings are not supported, and the jigsaw branch and the
        batch normalisations ("bnneck") are always there.

    Raises
    ------
    ValueError
        For a setting that is not supported or sizes that do not fit together.

    Examples
    --------
    >>> from PIL import Image
    >>> from pose2id.ipg.networks import TransReID
    >>> encoder = TransReID(img_size=(64, 32), embed_dim=24, depth=3, num_heads=3)  # untrained and tiny
    >>> encoder(encoder.preprocess([Image.new("RGB", (50, 100))])).shape
    torch.Size([1, 120])
    """

    __module__ = "pose2id.ipg.reid"  # the path that saved pipelines name

    @register_to_config
    def __init__(
        self,
        img_size: Sequence[int] = (256, 128),
        patch_size: int = 16,
        stride: Sequence[int] = (12, 12),
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4,
        qkv_bias: bool = True,
        layer_norm_eps: float = 1e-6,
        base_fc_classes: int = 1000,
        num_class: int = 751,
        camera_num: int = 0,
        view_num: int = 1,
        jpm: bool = True,
        shift_num: int = 5,
        shuffle_groups: int = 2,
        divide_length: int = 4,
        re_arrange: bool = True,
        neck_feat: str = "before",
        neck: str = "bnneck",
        sie_camera: bool = True,
        sie_view: bool = False,
        sie_coe: float = 3.0,  # noqa: ARG002 - recorded by the decorator
    ) -> None:
        super().__init__()
        if sie_camera and camera_num != 0:
            raise ValueError(f"camera_num must be 0: camera embeddings are not supported, received {camera_num}")
        if sie_view and view_num != 0:
            raise ValueError(f"sie_view must be False: view embeddings are not supported, received view_num {view_num}")
        if not jpm:
            raise ValueError(f"jpm must be True: the feature consists of its parts, received {jpm}")
        if neck != "bnneck":
            raise ValueError(f"neck must be 'bnneck', received {neck!r}")
        if neck_feat not in ("before", "after"):
            raise ValueError(f"neck_feat must be 'before' or 'after', received {neck_feat!r}")
        if depth < 1 or num_heads < 1 or embed_dim < 1 or embed_dim % num_heads:
            raise ValueError(
                "depth must be at least 1 and embed_dim a multiple of num_heads, "
                f"received depth {depth}, embed_dim {embed_dim}, num_heads {num_heads}"
            )
        self.img_size, steps = _pair(img_size, "img_size"), _pair(stride, "stride")
        if type(patch_size) is not int or not 1 <= patch_size <= min(self.img_size):
            raise ValueError(f"patch_size must be 1 to {min(self.img_size)}, the image's side, received {patch_size}")
        rows, columns = ((side - patch_size) // step + 1 for side, step in zip(self.img_size, steps, strict=True))
        self.patches = rows * columns
        if not LOCALS <= divide_length <= self.patches:
            raise ValueError(
                f"divide_length must be {LOCALS} to {self.patches}, the number of patches, received {divide_length}"
            )
        if re_arrange and not 1 <= shift_num <= self.patches:
            raise ValueError(f"shift_num must be 1 to {self.patches}, the number of patches, received {shift_num}")
        if re_arrange and (shuffle_groups < 1 or -self.patches % shuffle_groups > 1):
            raise ValueError(
                f"shuffle_groups must divide the number of patches, {self.patches}, or one more, "
                f"received {shuffle_groups}"
            )

        def block() -> _Block:
            return _Block(embed_dim, num_heads, mlp_ratio, qkv_bias, layer_norm_eps)

        def branch() -> nn.Sequential:
            return nn.Sequential(block(), nn.LayerNorm(embed_dim, eps=layer_norm_eps))

        blocks = [block() for _ in range(depth)]
        self.base = _Trunk(embed_dim, self.patches, patch_size, steps, blocks, layer_norm_eps, base_fc_classes)
        self.b1 = branch()  # the whole body
        self.b2 = branch()  # each of the four parts
        for name in _part_names("classifier"):
            self.add_module(name, nn.Linear(embed_dim, num_class, bias=False))
        for name in _part_names("bottleneck"):
            self.add_module(name, nn.BatchNorm1d(embed_dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Features (N, 5 * embed_dim) of images (N, 3, H, W) as `preprocess` makes them, of the encoder's dtype.

        They are ``[whole, part 1 / 4, ..., part 4 / 4]``, not L2-normalised. ValueError for images of another shape.
        """
        check_shape(images, *self.img_size)
        tokens = self.base(images)  # (N, 1 + patches, D)
        whole = self.b1(tokens)[:, 0]  # (N, D)

        length = self.patches // self.config.divide_length
        n, _, dim = tokens.shape
        pieces = self.shuffle(tokens)[:, : LOCALS * length].reshape(n, LOCALS, length, dim)
        class_token = tokens[:, :1].unsqueeze(1).expand(-1, LOCALS, -1, -1)
        pieces = torch.cat([class_token, pieces], dim=2)  # (N, 4, 1 + length, D)
        parts = self.b2(pieces.flatten(0, 1))[:, 0].view(n, LOCALS, dim)

        features = [whole, *parts.unbind(1)]
        if self.config.neck_feat == "after":
            necks = (self.get_submodule(name) for name in _part_names("bottleneck"))
            features = [_normalize(feature, neck) for feature, neck in zip(features, necks, strict=True)]
        return torch.cat([features[0], *(feature / LOCALS for feature in features[1:])], dim=1)

    @property
    def feature_width(self) -> int:
        """Width of the feature: the global part and the four local ones."""
        return (1 + LOCALS) * int(self.config.embed_dim)

    def shuffle(self, tokens: torch.Tensor) -> torch.Tensor:
        """Patch tokens of (N, 1 + patches, D) in the order of the jigsaw branch, (N, patches, D).

        There is one more when the groups need it: the second-to-last of the shifted tokens is there twice.
        """
        tokens = tokens[:, 1:]
        if not self.config.re_arrange:
            return tokens
        # The released code counts the class token among the places, hence one less.
        tokens = tokens.roll(1 - self.config.shift_num, dims=1)
        groups = self.config.shuffle_groups
        if self.patches % groups:
            tokens = torch.cat([tokens, tokens[:, -2:-1]], dim=1)
        n, length, dim = tokens.shape
        return tokens.reshape(n, groups, length // groups, dim).transpose(1, 2).flatten(1, 2)

    def preprocess(self, images: Sequence[Image]) -> torch.Tensor:
        """PIL images of any size and mode as (N, 3, *img_size) float32 in [-1, 1]: RGB, resized with Lanczos."""
        if isinstance(images, Image):
            raise TypeError("images must be a sequence of PIL images, received a single image; put it in a list")
        return (stack_images(images, *self.img_size) / 255 - 0.5) / 0.5

    def load_released_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take over weights under the released names, after checking all of them.

        Every parameter that the feature needs, with either `neck_feat`, must be there. Parts that only training uses
        (the trunk's last layer, its `norm` and `fc`, the classifiers, counters) may be absent and then stay as
        they are. A prefix "module." is removed; values are converted to the encoder's dtype. The ValueError names every
        key that is missing, unexpected, there twice, or of the wrong shape; then nothing is changed.
        """
        own = self.state_dict()
        given: dict[str, torch.Tensor] = {}
        faults = []
        for key, value in state.items():
            name = key.removeprefix("module.")
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"TransReID weights must be tensors, {key!r} is a {type(value).__name__}")
            if name not in own:
                faults.append(f"unexpected key {name}")
            elif name in given:
                faults.append(f"key {name} with and without the prefix module.")
            elif value.shape != own[name].shape:
                faults.append(f"{name} has shape {tuple(value.shape)}, must be {tuple(own[name].shape)}")
            elif not self._unused(name) and value.is_floating_point() != own[name].is_floating_point():
                faults.append(f"{name} has dtype {value.dtype}, must be {own[name].dtype}")
            elif not self._unused(name) and not is_finite(value):
                faults.append(f"{name} holds NaN or inf")
            given[name] = value
        absent = [name for name in own if name not in given]
        faults += [f"missing key {name}" for name in absent if not self._unused(name)]
        if faults:
            raise ValueError(
                f"the weights do not fit this TransReID: {'; '.join(faults)}. "
                "Check that the file is transformer_20 and that the configuration is the one it was trained with"
            )
        if absent:
            logger.info("TransReID weights without parts that only training uses: %s", ", ".join(absent))
        self.load_state_dict(given, strict=False)

    def _unused(self, name: str) -> bool:
        """Whether no feature depends on this entry of the state."""
        last = f"base.blocks.{len(self.base.blocks) - 1}."
        return name.startswith((last, "base.norm.", "base.fc.", "classifier")) or name.endswith("num_batches_tracked")


def _part_names(name: str) -> list[str]:
    """Module names of the whole body and the four parts: name, name_1, ..., name_4."""
    return [name, *(f"{name}_{part}" for part in range(1, LOCALS + 1))]


def _normalize(features: torch.Tensor, neck: Any) -> torch.Tensor:
    """Batch normalisation (N, D) by the stored statistics, in training mode too."""
    return functional.batch_norm(features, neck.running_mean, neck.running_var, neck.weight, neck.bias, eps=neck.eps)


def _pair(values: Sequence[int], name: str) -> tuple[int, int]:
    """Two positive integers, or ValueError."""
    pair = tuple(values) if isinstance(values, Sequence) else ()
    if len(pair) != 2 or not all(type(value) is int and value > 0 for value in pair):
        raise ValueError(f"{name} must be two positive integers, vertical and horizontal, received {values!r}")
    return pair
