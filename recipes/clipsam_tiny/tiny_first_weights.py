# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
First weights of `clipsam-tiny`'s CLIP: a vision tower that compares every patch with its image before it has learnt.

A defect is what differs from the rest. Both sides of a difference count alike, so that a randomly initialised network
finds no slope towards it and predicts the average for thousands of images. Here the first block subtracts from
a patch the mean of the image and of its neighbourhood, and takes absolute values; the second compares these. All
of it is trained on.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPAttention, CLIPVisionModel


__all__ = ["compare_with_image"]

# Channels of the residual stream, as many as a head is wide each but for the last two
PATCH, AROUND, UNUSUAL, PLACE, LEVEL = slice(0, 32), slice(32, 64), slice(64, 96), slice(96, 120), slice(120, 128)
# The heads that average the image and the neighbourhood
IMAGE_HEAD, NEAR_HEAD = slice(0, 32), slice(32, 64)
PLACE_SCALE, LEVEL_SCALE, NEARNESS, SLOPE = 0.5, 5.0, 5.0, 1.5


def place_waves(side: int, width: int) -> Tensor:
    """Return slow waves over the places of a (side, side) grid, rows and columns: (side * side, width)."""
    place = (torch.arange(side) + 0.5) / side
    waves = torch.cat(
        [f(torch.pi * k * place[:, None]) for k in range(1, width // 4 + 1) for f in (torch.sin, torch.cos)], 1
    )
    rows = waves[:, None].expand(side, side, -1)
    columns = waves[None].expand(side, side, -1)
    return torch.cat((rows, columns), -1).flatten(0, 1)


@torch.no_grad()
def compare_with_image(vision: CLIPVisionModel, filters: Tensor) -> None:
    """
    Set a vision tower's weights.

    Args:
        vision: The tower, 128 wide with four heads.
        filters: Principal components of patches, of about unit response: (32, 3, patch_size, patch_size).

    Raises:
        ValueError: If the tower has another width or number of heads.
    """
    config: Any = vision.config
    width = config.hidden_size
    if (width, config.num_attention_heads) != (LEVEL.stop, 4):
        raise ValueError(f"The tower must be 128 wide with 4 heads, but is {width} with {config.num_attention_heads}.")

    # All weights that are not set below are small noise
    blocks: list[Any] = list(vision.encoder.layers)
    for block in blocks:
        attention, mlp = block.self_attn, block.mlp
        for layer, scale in (
            (attention.q_proj, 0.3),
            (attention.k_proj, 0.3),
            (attention.v_proj, 1.0),
            (attention.out_proj, 0.1),
            (mlp.fc1, 1.0),
            (mlp.fc2, 0.1),
        ):
            layer.weight.normal_(std=scale * layer.in_features**-0.5)

    # A patch is its principal components, its place, and a constant that lets layer norm keep sizes
    embeddings: Any = vision.embeddings
    embeddings.patch_embedding.weight.normal_(std=0.002)
    embeddings.patch_embedding.weight[PATCH] = filters
    side = config.image_size // config.patch_size
    table = torch.zeros(1 + side * side, width)
    table[1:, PLACE] = PLACE_SCALE * place_waves(side, PLACE.stop - PLACE.start)
    table[:, LEVEL] = LEVEL_SCALE * torch.tensor((1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0))
    embeddings.position_embedding.weight.copy_(table)
    embeddings.class_embedding.normal_(std=0.3)

    # Block 1: patch minus image, neighbourhood minus image; then the absolute values of patch minus image and of patch
    # minus neighbourhood, two components to a channel
    first, second, *others = blocks
    average(first.self_attn, IMAGE_HEAD, PATCH, ((PATCH, -1.0), (AROUND, -1.0)))
    average(first.self_attn, NEAR_HEAD, PATCH, ((AROUND, 1.0),))
    look_near(first.self_attn)
    count = 4 * len(filters)
    first.mlp.fc1.weight[:count] = 0
    first.mlp.fc2.weight[:, :count] = 0
    for component in range(len(filters)):
        channel = UNUSUAL.start + component // 2
        for sign, row in ((SLOPE, 4 * component), (-SLOPE, 4 * component + 1)):
            first.mlp.fc1.weight[row, component] = sign
            first.mlp.fc2.weight[channel, row] = 0.7 / SLOPE
            first.mlp.fc1.weight[row + 2, component] = sign
            first.mlp.fc1.weight[row + 2, AROUND.start + component] = -sign
            first.mlp.fc2.weight[channel + len(filters) // 2, row + 2] = 0.7 / SLOPE

    # Block 2: more unusual than the image is, helped by neighbours that are; later blocks have a head that looks near
    average(second.self_attn, IMAGE_HEAD, UNUSUAL, ((UNUSUAL, -1.0),))
    average(second.self_attn, NEAR_HEAD, UNUSUAL, ((UNUSUAL, 0.7),))
    for block in (second, *others):
        look_near(block.self_attn)


def average(attention: CLIPAttention, head: slice, source: slice, targets: tuple[tuple[slice, float], ...]) -> None:
    """Let a head add some channels' average, times a factor, to other channels. It attends to everything alike."""
    unit = torch.eye(head.stop - head.start)
    attention.q_proj.weight[head] *= 0.1
    attention.k_proj.weight[head] *= 0.1
    attention.v_proj.weight[head] = 0
    attention.v_proj.weight[head, source] = unit
    attention.out_proj.weight[:, head] = 0
    for target, factor in targets:
        attention.out_proj.weight[target, head] = factor * unit


def look_near(attention: CLIPAttention) -> None:
    """Let a head attend to its neighbourhood: queries and keys are the waves of the places."""
    for layer in (attention.q_proj, attention.k_proj):
        assert isinstance(layer, nn.Linear)
        count = PLACE.stop - PLACE.start
        layer.weight[NEAR_HEAD] = 0
        layer.weight[NEAR_HEAD.start : NEAR_HEAD.start + count, PLACE] = NEARNESS * torch.eye(count)
