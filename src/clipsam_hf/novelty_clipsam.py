# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Novelty within one photograph: how far a patch is from those elsewhere in it that are most like it.

Zero-shot in the strict sense: nothing is trained, and no other photograph is looked at. On a surface, or on a product
whose parts resemble each other, a defect is what nothing else resembles.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .patches_clipsam import average_neighbourhoods


NEIGHBOURHOOD = 3
"""Side of the squares of tokens that are averaged, which makes a texture's patches alike."""

REACH = 2
"""What is no farther than this, in tokens along either axis, is no witness: a defect is larger than a patch."""

NEIGHBOURS = 0.02
"""Share of a photograph's patches that a normal patch is expected to resemble."""


def measure_novelty(feature_maps: Sequence[Tensor]) -> Tensor:
    """Measures how far patches are from those of the same photograph that are most like them.

    Args:
        feature_maps (`Sequence[torch.Tensor]` of shape `(batch_size, channels, height, width)`): Outputs of blocks of
            CLIP's vision tower, on its token grid. Each token is normalised over its channels.

    Returns:
        `torch.Tensor` of shape `(batch_size, height, width)`: float32 in [0, 2], the mean cosine distance to the
        nearest `NEIGHBOURS` of the patches beyond `REACH`, averaged over the maps; 0 where the grid is so small that
        there is none.

    Example:
        >>> surface = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1).repeat(1, 1, 9, 9)
        >>> surface[..., 3:6, 3:6] *= -1
        >>> measure_novelty([surface])[0, 4, ::4].round()
        tensor([0., 2., 0.])
    """
    height, width = feature_maps[0].shape[-2:]
    rows, columns = (torch.arange(side, device=feature_maps[0].device) for side in (height, width))
    is_near = ((rows[:, None] - rows).abs() <= REACH)[:, None, :, None] & (
        ((columns[:, None] - columns).abs() <= REACH)[None, :, None, :]
    )  # (height, width, height, width)
    count = max(1, round(NEIGHBOURS * height * width))
    distances = []
    for feature_map in feature_maps:
        normalised = F.layer_norm(feature_map.float().movedim(1, -1), feature_map.shape[1:2]).movedim(-1, 1)
        (tokens,) = average_neighbourhoods([normalised], [NEIGHBOURHOOD])  # (batch, tokens, channels)
        cosines = (tokens @ tokens.transpose(1, 2)).masked_fill(is_near.flatten(2).flatten(0, 1), -torch.inf)
        nearest = cosines.topk(count, dim=-1).values  # (batch, tokens, neighbours)
        is_there = nearest > -torch.inf
        total = torch.where(is_there, (1 - nearest).clamp(min=0), 0).sum(dim=-1)
        distances.append(total / is_there.sum(dim=-1).clamp(min=1))  # (batch, tokens)
    return torch.stack(distances).mean(dim=0).unflatten(1, (height, width))


__all__ = ["NEIGHBOURHOOD", "NEIGHBOURS", "REACH", "measure_novelty"]
