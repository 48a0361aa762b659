# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""The training loss of ClipSAM: focal plus dice, per stage. Pure functions of tensors."""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint


IGNORE_INDEX = -100


def resize_labels(labels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Resizes label maps by area, leaving ignored pixels out of every mean.

    Args:
        labels: (batch_size, height, width), 1 = defect, 0 = good, -100 = ignore; values in between are shares.
        size: (height, width) of the target grid.

    Returns:
        Two float tensors (batch_size, *size): the share of defect among a cell's valid pixels, in [0, 1], and the
        share of valid pixels, in [0, 1] (a cell without any has target 0 and weight 0).

    Raises:
        ValueError: If `labels` is not three-dimensional or has values other than -100 and [0, 1].

    Example:
        >>> target, weight = resize_labels(torch.tensor([[[0, 1], [-100, 1]]]), (1, 1))
        >>> round(target.item(), 4), weight.item()
        (0.6667, 0.75)
    """
    if labels.dim() != 3:
        raise ValueError(f"`labels` must be (batch_size, height, width), but got shape {tuple(labels.shape)}.")
    valid = labels != IGNORE_INDEX
    values = torch.where(valid, labels, 0).float()
    if not bool(((values >= 0) & (values <= 1)).all()):
        raise ValueError(
            "`labels` must be 1 for defect, 0 for good and -100 for ignore, but got values from"
            f" {labels.min().item()} to {labels.max().item()} (divide an 8-bit mask by 255)."
        )
    # Area interpolation is an average over the cell, so that the ratio of two averages is the mean of valid pixels.
    weight = F.interpolate(valid.float()[:, None], size, mode="area")[:, 0]  # (batch_size, *size)
    target = F.interpolate(values[:, None], size, mode="area")[:, 0]
    return target / weight.clamp_min(torch.finfo(weight.dtype).tiny), weight


def focal_loss(logits: Tensor, target: Tensor, weight: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Focal loss of two-class logits against soft targets, one value per image (Lin et al., 2017).

    Args:
        logits: (batch_size, 2, height, width), order [normal, abnormal].
        target: (batch_size, height, width), share of defect in [0, 1].
        weight: (batch_size, height, width), weight of each cell in [0, 1].
        gamma: Focusing exponent; 0 is cross entropy.

    Returns:
        (batch_size,): the weighted mean over the cells; 0 for an image without weight.
    """
    return _focal(_difference(logits), target, weight, gamma)


def dice_loss(logits: Tensor, target: Tensor, weight: Tensor, *, smooth: float = 1.0) -> Tensor:
    """Dice loss of the abnormal channel, one value per image, so that a batch equals its images alone.

    Args:
        logits: (batch_size, 2, height, width), order [normal, abnormal].
        target: (batch_size, height, width), share of defect in [0, 1].
        weight: (batch_size, height, width), weight of each cell in [0, 1].
        smooth: Added to both sides of the fraction, in cells: a good image with an empty map has loss 0.

    Returns:
        (batch_size,): 1 - (2 |p t| + smooth) / (|p| + |t| + smooth).
    """
    return _dice(_difference(logits), target, weight, smooth)


def anomaly_segmentation_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    stage_weights: Sequence[float] | None = None,
    focal_gamma: float = 2.0,
    resolution: Literal["grid", "image"] = "grid",
) -> Tensor:
    """Focal plus dice loss, averaged over images and weighted over stages ([M .75][L] in docs/method.md).

    On the grid the labels become the share of defect in each token. At the size of the image the logits are brought to
    the labels instead, bilinearly as for the rough map, and each pixel counts: a defect of 7 x 7 pixels that is missed
    has a dice loss of 0.98 there, and of 0.2 on a grid of 14 pixels, where it is a quarter of one token.

    Args:
        logits: (batch_size, num_stages, 2, height, width).
        labels: (batch_size, any height, any width), 1 = defect, 0 = good, -100 = ignore.
        stage_weights: One weight per stage, normalised to sum 1; equal by default.
        focal_gamma: Focusing exponent of the focal loss.
        resolution: Where logits and labels are compared: `"grid"` (of tokens) or `"image"` (the labels' own size).

    Returns:
        A scalar tensor.

    Raises:
        ValueError: If `labels` has another shape or other values, the batch sizes differ, or `resolution` is unknown.

    Example:
        >>> labels = torch.zeros(1, 28, 28)
        >>> labels[0, :7, :7] = 1
        >>> missed = torch.tensor([9.0, -9.0])[None, None, :, None, None].expand(1, 4, 2, 2, 2)
        >>> [round(anomaly_segmentation_loss(missed, labels, resolution=r).item(), 2) for r in ("grid", "image")]
        [1.33, 2.11]
    """
    if resolution not in ("grid", "image"):
        raise ValueError(f"`resolution` must be 'grid' or 'image', but got {resolution!r}.")
    batch_size, num_stages, _, height, width = logits.shape
    labels = labels.to(logits.device)
    size = (height, width) if resolution == "grid" or labels.dim() != 3 else (labels.shape[1], labels.shape[2])
    target, weight = resize_labels(labels, size)
    if len(target) != batch_size:
        raise ValueError(f"`labels` has {len(target)} images, but `logits` has {batch_size}.")
    weights = logits.new_tensor([1.0] * num_stages if stage_weights is None else list(stage_weights)).float()

    per_stage = []
    for stage in _difference(logits, dim=2).unbind(dim=1):  # (batch_size, height, width)
        if resolution == "grid":
            per_stage.append(_stage_loss(stage, target, weight, focal_gamma))
        else:
            # Pixels are many: what one stage needs for its gradient is computed again then, and not kept for all
            per_stage.append(
                checkpoint(
                    _stage_loss, stage, target, weight, focal_gamma, use_reentrant=False, preserve_rng_state=False
                )
            )
    return (torch.stack(per_stage).mean(dim=1) * weights).sum() / weights.sum()


def _stage_loss(difference: Tensor, target: Tensor, weight: Tensor, focal_gamma: float) -> Tensor:
    """Focal plus dice loss of one stage, (batch_size,), at the size of the target."""
    if difference.shape != target.shape:
        # The softmax of two classes is the sigmoid of their difference, and interpolation is linear in it
        difference = F.interpolate(difference[:, None], target.shape[1:], mode="bilinear")[:, 0]
    return _focal(difference, target, weight, focal_gamma) + _dice(difference, target, weight, 1.0)


def _difference(logits: Tensor, dim: int = 1) -> Tensor:
    """The logit of "abnormal", float32: how far it is above "normal"."""
    normal, abnormal = logits.float().unbind(dim)
    return abnormal - normal


def _focal(difference: Tensor, target: Tensor, weight: Tensor, gamma: float) -> Tensor:
    # Not 0, where a gamma below 1 has an infinite slope
    smallest = torch.finfo(torch.float32).eps
    missed = (-difference).sigmoid().clamp_min(smallest) ** gamma * F.logsigmoid(difference)
    alarmed = difference.sigmoid().clamp_min(smallest) ** gamma * F.logsigmoid(-difference)
    per_cell = -torch.lerp(alarmed, missed, target)  # (batch_size, height, width)
    return (per_cell * weight).sum(dim=(1, 2)) / weight.sum(dim=(1, 2)).clamp_min(1e-6)


def _dice(difference: Tensor, target: Tensor, weight: Tensor, smooth: float) -> Tensor:
    probability = difference.sigmoid()  # (batch_size, height, width)
    overlap = (probability * target * weight).sum(dim=(1, 2))
    total = ((probability + target) * weight).sum(dim=(1, 2))
    return 1 - (2 * overlap + smooth) / (total + smooth)


__all__ = ["IGNORE_INDEX", "anomaly_segmentation_loss", "dice_loss", "focal_loss", "resize_labels"]
