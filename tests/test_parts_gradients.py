"""Gradients pass through what pools feature maps, and change no number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pose2id.parts import (
    bilinear_pool,
    concatenate_parts,
    fuse_tanh,
    location_pyramid,
    mask_visibility,
    neighborhood_differences,
    pool_boxes,
    pool_masks,
    pool_stripes,
)

BOXES = torch.tensor([[[0.0, 0.0, 7.0, 9.0], [2.0, 4.0, 8.0, 16.0]], [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 3.0, 5.0]]])
FUNCTIONS = {
    "stripes": lambda maps, _: pool_stripes(maps, 3),
    "windows": lambda maps, _: pool_stripes(maps, 3, rule="windows", reduce="max"),
    "masks": lambda maps, masks: pool_masks(maps, masks),
    "area": lambda maps, masks: pool_masks(maps, masks, divide="area"),
    "largest": lambda maps, masks: pool_masks(maps, masks, reduce="max"),
    "boxes": lambda maps, _: pool_boxes(maps, BOXES, (16, 8)),
    "bins": lambda maps, _: pool_boxes(maps, BOXES, (16, 8), size=(2, 3)),
    "means": lambda maps, _: pool_boxes(maps, BOXES, (16, 8), reduce="mean"),
    "bilinear": bilinear_pool,
    "products": lambda maps, masks: bilinear_pool(maps, masks, normalize=False),
    "pyramid": lambda maps, _: location_pyramid(maps, (1, 2)),
    "differences": lambda maps, masks: neighborhood_differences(maps, masks, 3)[1],
    "visibility": lambda _, masks: mask_visibility(masks, binary=False),
    "parts": lambda maps, masks: concatenate_parts(maps.flatten(2), masks[:, :, 0, 0]),
    "row": lambda maps, _: concatenate_parts(maps.flatten(2), normalize="whole"),
    "tanh": lambda maps, masks: fuse_tanh(
        maps[:, :, 0, 0], maps[:, :, 1, 1], masks[0, :, 0, 0].contiguous(), masks[1, :, 0, 0].contiguous()
    ),
}


def make_maps() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    maps, masks = (torch.from_numpy(rng.random((2, 3, 7, 4))) for _ in range(2))
    return maps.requires_grad_(), masks.requires_grad_()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    maps, masks = make_maps()
    pool = FUNCTIONS[name]
    assert pool(maps, masks).requires_grad
    # Fast: along one random direction, in which a wrong one of 336 derivatives shows too.
    torch.manual_seed(0)
    assert torch.autograd.gradcheck(pool, (maps, masks), eps=1e-7, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_numbers_are_those_without_gradients(name: str, dtype: torch.dtype) -> None:
    maps, masks = (part.detach().to(dtype) for part in make_maps())
    plain = FUNCTIONS[name](maps, masks)
    followed = FUNCTIONS[name](maps.clone().requires_grad_(), masks.clone().requires_grad_())
    assert followed.dtype == plain.dtype
    torch.testing.assert_close(followed.detach(), plain, rtol=1e-6, atol=1e-7)
    with torch.no_grad():
        asked = FUNCTIONS[name](maps.clone().requires_grad_(), masks)
    assert not asked.requires_grad
    assert torch.equal(asked, plain)


def test_a_gradient_in_the_masks_or_the_trained_numbers_alone_is_followed() -> None:
    maps, masks = make_maps()
    assert pool_masks(maps.detach(), masks).requires_grad
    row = maps.detach()[:, :, 0, 0]
    weight = torch.ones(3, dtype=torch.float64, requires_grad=True)
    assert fuse_tanh(row, row, weight, torch.zeros(3, dtype=torch.float64)).requires_grad


def test_no_images_and_parts_of_zeros_have_gradients_too() -> None:
    maps, _ = make_maps()
    assert pool_boxes(maps[:0], BOXES[:0], (16, 8)).shape == (0, 2, 3)
    zeros = torch.zeros(1, 2, 3, requires_grad=True)
    concatenate_parts(zeros).sum().backward()
    assert zeros.grad is not None
    assert torch.isfinite(zeros.grad).all()
