# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Mask refinement (MMR) as pure functions: regions -> prompts -> (decode, handed in) -> merged masks -> refined map.

A refiner's mask logits come on a coarser grid over its whole square ([`Frame`]); the maps are in CLIP's frame, the
photograph squashed to a square. Sizes are (height, width); half-pixel centres.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from .regions_clipsam import (
    Frame,
    Region,
    SamPrompts,
    Size,
    as_float,
    as_size,
    build_prompts,
    check_choice,
    find_regions,
    relative_threshold,
)


MASK_FUSIONS = ("soft", "binary")
MERGES = ("anomaly_weighted", "average", "sum_norm")
REGION_RULES = ("fixed", "relative")


def resample_masks(mask_logits: torch.Tensor, frame: Frame, output_size: Size) -> torch.Tensor:
    """Resample masks from a refiner's low-resolution padded square to a frame that shows the content alone.

    Bilinear, with half-pixel centres. The content may end inside a cell; a cell belongs to it when the cell's centre
    does, and sampling is clamped to those cells, so that no value of the padding enters. There is no antialiasing: an
    output smaller than the content's cells samples them, which is enough for maps as smooth as SAM's.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., mask_height, mask_width)`): logits or probabilities over SAM's
            padded square (256 cells a side for 1024 pixels); any dtype.
        frame (`Frame`): how the photograph lies in that square.
        output_size (`tuple[int, int]`): (height, width) of the result, for example of CLIP's frame.

    Returns:
        `torch.Tensor` of shape `(..., height, width)`: float32 (float64 if given so).

    Raises:
        ValueError: if the masks have fewer than two dimensions, a size is not two positive numbers, or the content is
            larger than the square.

    Example:
        >>> resample_masks(torch.tensor([[0.0, 1.0], [9.0, 9.0]]), Frame((4, 8), 8), (1, 4))
        tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    if mask_logits.ndim < 2:
        raise ValueError(f"`mask_logits` must be of shape (..., height, width), got {tuple(mask_logits.shape)}")
    content = as_size(frame.content, "frame.content")
    output = as_size(output_size, "output_size")
    if max(content) > frame.side:
        raise ValueError(f"`frame.content` {content} exceeds `frame.side` {frame.side}")

    # Bilinear sampling is separable: blend neighbouring rows, transpose, and once more (whole rows are fast to gather)
    resampled = as_float(mask_logits)
    for axis in (-2, -1):
        lower, upper, weight = _axis_taps(content[axis], frame.side, mask_logits.shape[axis], output[axis])
        first = resampled.index_select(-2, lower.to(resampled.device))
        second = resampled.index_select(-2, upper.to(resampled.device))
        blended = torch.lerp(first, second, weight.to(resampled)[:, None])
        resampled = blended.transpose(-2, -1).contiguous()  # (..., mask_width, height), then (..., height, width)
    return resampled


def merge_masks(
    rough_anomaly_map: torch.Tensor,
    mask_logits: torch.Tensor,
    iou_scores: torch.Tensor,
    frame: Frame,
    *,
    region_peaks: Sequence[float] = (),
    mask_fusion: str = "soft",
    merge: str = "anomaly_weighted",
    refine_weight: float = 0.5,
) -> torch.Tensor:
    """Merge the refiner's masks of one image, weighted by the quality that it predicts for them, with the rough map A.

    With w the `refine_weight`, the answer is (1 - w) A + w S:

    | `merge` | S | answer |
    |---|---|---|
    | `"anomaly_weighted"` | maximum over regions of peak x the score-weighted mean of its masks | as it is |
    | `"average"` | maximum over regions of the mean of score x mask | as it is |
    | `"sum_norm"` | sum over regions and masks of score x mask | scaled to [0, 1] by its own extremes |

    A score says how good a mask is and nothing about whether the thing is a defect. With `"anomaly_weighted"` scores
    therefore weigh a region's masks against each other only, and how abnormal the region is comes from the rough map:
    the answer is nowhere above the image's highest peak (a region's own peak can rise where the mask of a more
    abnormal one covers it). An image without regions goes through the same formula with S = 0, so that at the
    threshold there remains a step from (1 - w) peak (no region) to at most the peak. With `"average"` that step is
    larger, up to (1 - w) peak + w: a good part just above the threshold then outranks a defect just below it. With
    `"sum_norm"` every image, good or not, reaches 1, which changes the ranking between images; a constant map has no
    such scale, its sum A + S (w = 1/2) is only clamped to [0, 1].

    Args:
        rough_anomaly_map (`torch.Tensor` of shape `(height, width)`): CLIP's map A, in [0, 1].
        mask_logits (`torch.Tensor` of shape `(num_regions, num_masks, mask_height, mask_width)`): the refiner's
            low-resolution mask logits over its padded square; `num_regions` may be 0.
        iou_scores (`torch.Tensor` of shape `(num_regions, num_masks)`): their predicted IoU; clamped to [0, 1].
        frame (`Frame`): how the photograph lies in that square.
        region_peaks (sequence of `num_regions` numbers in [0, 1]): the highest rough anomaly of each region; needed by
            `"anomaly_weighted"` alone.
        mask_fusion (`str`): `"soft"` fuses probabilities at the masks' low resolution and resamples the result once;
            `"binary"` resamples every mask's logits, as SAM's own post-processing, and fuses what is above 0.
        merge (`str`): as above.
        refine_weight (`float`, in [0, 1]): share w of the masks. 0 gives the rough map itself, whatever the merge.

    Returns:
        `torch.Tensor` of shape `(height, width)`, float32 (float64 if the map is given so): in [0, 1].

    Raises:
        ValueError: if the shapes do not fit, or an option is unknown or out of range.

    Example:
        >>> masks, scores = torch.tensor([[[[20.0, -20.0]]]]), torch.tensor([[0.8]])
        >>> rough = torch.tensor([[0.75, 0.25]])
        >>> merge_masks(rough, masks, scores, Frame((1, 2), 2), region_peaks=[0.75]).round(decimals=3)
        tensor([[0.7500, 0.1250]])
        >>> merge_masks(
        ...     rough, masks, scores, Frame((1, 2), 2), region_peaks=[0.75], refine_weight=0.2
        ... ).round(decimals=3)
        tensor([[0.7500, 0.2000]])
        >>> merge_masks(rough, masks, scores, Frame((1, 2), 2), merge="average").round(decimals=3)
        tensor([[0.7750, 0.1250]])
    """
    check_choice("mask_fusion", mask_fusion, MASK_FUSIONS)
    check_choice("merge", merge, MERGES)
    if not 0.0 <= refine_weight <= 1.0:
        raise ValueError(f"`refine_weight` must be in [0, 1], got {refine_weight}")
    if rough_anomaly_map.ndim != 2:
        raise ValueError(f"`rough_anomaly_map` must be of shape (height, width), got {tuple(rough_anomaly_map.shape)}")
    if mask_logits.ndim != 4 or mask_logits.shape[:2] != iou_scores.shape:
        raise ValueError(
            "`mask_logits` must be of shape (num_regions, num_masks, height, width) and `iou_scores` of (num_regions, "
            f"num_masks), got {tuple(mask_logits.shape)} and {tuple(iou_scores.shape)}"
        )
    weights = as_float(iou_scores).clamp(0.0, 1.0)  # (num_regions, num_masks)
    if merge == "anomaly_weighted":
        if len(region_peaks) != len(mask_logits):
            raise ValueError(
                f"`merge='anomaly_weighted'` needs {len(mask_logits)} `region_peaks`, got {len(region_peaks)}"
            )
        peaks = torch.tensor(region_peaks, dtype=weights.dtype, device=weights.device).clamp(0.0, 1.0)
        weights = peaks[:, None] * weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    elif merge == "average":
        weights = weights / max(weights.shape[1], 1)
    rough = as_float(rough_anomaly_map)
    if refine_weight == 0.0:
        return rough.clone()
    fused = _fuse(mask_logits, weights, frame, rough.shape, mask_fusion=mask_fusion, add_up=merge == "sum_norm")
    total = (1.0 - refine_weight) * rough + refine_weight * fused.to(rough.device)
    if merge != "sum_norm":
        return total
    total = 2.0 * total  # the plain sum at a weight of 1/2; a map's own extremes take no notice of the factor
    low, high = total.amin(), total.amax()
    return (total - low) / (high - low) if high > low else total.clamp(0.0, 1.0)


@dataclass(frozen=True)
class RefinementOptions:
    """What `refine_map` and its regions depend on; the fields of [`ClipSamConfig`] of the same names explain them."""

    region_rule: str = "fixed"
    region_deviations: float = 3.0
    binarize_threshold: float = 0.5
    min_region_fraction: float = 16 / 518**2
    max_region_fraction: float = 0.25
    max_regions: int = 10
    prompt_type: str = "box_and_points"
    num_points: int = 5
    point_seed: int = 0
    mask_fusion: str = "soft"
    merge: str = "anomaly_weighted"
    refine_weight: float = 0.5

    def find_regions(self, rough_anomaly_map: np.ndarray | torch.Tensor) -> list[Region]:
        """Returns what `find_regions` does with these options, above the threshold of their rule."""
        check_choice("region_rule", self.region_rule, REGION_RULES)
        is_relative = self.region_rule == "relative"
        return find_regions(
            rough_anomaly_map,
            relative_threshold(rough_anomaly_map, self.region_deviations) if is_relative else self.binarize_threshold,
            min_region_fraction=self.min_region_fraction,
            max_region_fraction=self.max_region_fraction,
            max_regions=self.max_regions,
        )


class Refinement(NamedTuple):
    """What `refine_map` made of one image.

    Args:
        anomaly_map (`torch.Tensor` of shape `(height, width)`): the refined map, in [0, 1].
        mask_logits (`torch.Tensor` of shape `(num_regions, num_masks, mask_height, mask_width)`): as decoded.
        iou_scores (`torch.Tensor` of shape `(num_regions, num_masks)`): as decoded.
        prompts (`SamPrompts`): with which they were decoded.
    """

    anomaly_map: torch.Tensor
    mask_logits: torch.Tensor
    iou_scores: torch.Tensor
    prompts: SamPrompts


def refine_map(
    rough_anomaly_map: torch.Tensor,
    regions: Sequence[Region],
    frame: Frame,
    decode: Callable[[SamPrompts], tuple[torch.Tensor, torch.Tensor]],
    options: RefinementOptions,
) -> Refinement:
    """Refine the rough map of one image: regions -> prompts -> decode -> merged masks.

    Args:
        rough_anomaly_map (`torch.Tensor` of shape `(height, width)`): in [0, 1].
        regions (`Sequence[Region]`): those of the map, such as `options.find_regions` gives; may be empty.
        frame (`Frame`): how the photograph lies in the refiner's square.
        decode (`Callable[[SamPrompts], tuple]`): from prompts, one row per region, to mask logits (num_regions,
            num_masks, mask_height, mask_width) and their predicted IoU (num_regions, num_masks).
        options (`RefinementOptions`): prompts and merge.

    Returns:
        `Refinement`: the refined map and what it was made of.

    Raises:
        ValueError: if shapes do not fit or an option is out of range.
    """
    prompts = build_prompts(
        regions,
        rough_anomaly_map.cpu(),
        frame,
        prompt_type=options.prompt_type,
        num_points=options.num_points,
        seed=options.point_seed,
        device=rough_anomaly_map.device,
    )
    mask_logits, iou_scores = decode(prompts)
    anomaly_map = merge_masks(
        rough_anomaly_map,
        mask_logits,
        iou_scores,
        frame,
        region_peaks=[region.peak for region in regions],
        mask_fusion=options.mask_fusion,
        merge=options.merge,
        refine_weight=options.refine_weight,
    )
    return Refinement(anomaly_map, mask_logits, iou_scores, prompts)


def resize_map(anomaly_map: torch.Tensor, size: Size) -> torch.Tensor:
    """Bring a map to another size, bilinear with half-pixel centres.

    Args:
        anomaly_map (`torch.Tensor` of shape `(height, width)`): floating point.
        size (`tuple[int, int]`): (height, width) of the result, for example of the photograph.

    Returns:
        `torch.Tensor` of that shape, same dtype.

    Raises:
        ValueError: if the size is not two positive numbers.

    Example:
        >>> resize_map(torch.tensor([[0.0, 1.0]]), (1, 4))
        tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    return F.interpolate(anomaly_map[None, None], size=as_size(size, "size"), mode="bilinear")[0, 0]


def score_map(anomaly_map: torch.Tensor, *, top_fraction: float = 0.001) -> torch.Tensor:
    """Score images by the mean of their most abnormal pixels, which is steadier than the maximum alone.

    Args:
        anomaly_map (`torch.Tensor` of shape `(batch_size, height, width)`): abnormality per pixel.
        top_fraction (`float`, in (0, 1]): share of the pixels that count, rounded, at least one.

    Returns:
        `torch.Tensor` of shape `(batch_size,)`, float32 (float64 if given so).

    Raises:
        ValueError: if the map is not three-dimensional or empty, or `top_fraction` is out of range.

    Example:
        >>> score_map(torch.tensor([[[0.1, 0.5], [0.2, 0.7]]]), top_fraction=0.5)
        tensor([0.6000])
    """
    if anomaly_map.ndim != 3 or anomaly_map.shape[1:].numel() == 0:
        raise ValueError(f"`anomaly_map` must be of shape (batch_size, height, width), got {tuple(anomaly_map.shape)}")
    if not 0.0 < top_fraction <= 1.0:
        raise ValueError(f"`top_fraction` must be in (0, 1], got {top_fraction}")
    pixels = as_float(anomaly_map).flatten(1)  # (batch_size, height * width)
    count = max(1, round(top_fraction * pixels.shape[1]))
    return pixels.topk(count, dim=1, sorted=False).values.mean(dim=1)  # (batch_size,)


def _fuse(
    mask_logits: torch.Tensor,
    weights: torch.Tensor,
    frame: Frame,
    output_size: Size,
    *,
    mask_fusion: str,
    add_up: bool,
) -> torch.Tensor:
    """Sum weight x mask over each region's masks, then take the maximum over the regions, or add them up too."""
    output = as_size(output_size, "output_size")
    fused = weights.new_zeros(mask_logits.shape[-2:] if mask_fusion == "soft" else output)
    # One region at a time: the memory does not grow with the number of regions
    for region_logits, region_weights in zip(mask_logits, weights, strict=True):
        if mask_fusion == "soft":
            masks = as_float(region_logits).sigmoid()  # (num_masks, mask_height, mask_width)
        else:
            masks = (resample_masks(region_logits, frame, output) > 0).to(weights)  # (num_masks, height, width)
        region = (region_weights[:, None, None] * masks).sum(0)
        fused = fused + region if add_up else torch.maximum(fused, region)
    return resample_masks(fused, frame, output) if mask_fusion == "soft" else fused  # (height, width)


def _axis_taps(content: int, padded: int, cells: int, output: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, per output pixel of one axis, its two cells and the weight of the second."""
    # Integers first, one correctly rounded division: a cell's centre on the content's edge is recognised exactly
    content_cells = content * cells / padded
    last = max(math.ceil(content_cells - 0.5) - 1, 0)  # the last cell whose centre lies inside the content
    centres = torch.arange(output, dtype=torch.float64) + 0.5
    positions = (centres * content_cells / output - 0.5).clamp(0, last)  # in cells, 0 = centre of the first
    lower = positions.floor().long()
    return lower, (lower + 1).clamp(max=last), positions - lower


__all__ = [
    "MASK_FUSIONS",
    "MERGES",
    "REGION_RULES",
    "Refinement",
    "RefinementOptions",
    "merge_masks",
    "refine_map",
    "resample_masks",
    "resize_map",
    "score_map",
]
