# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Mask refinement (MMR) as pure functions: anomaly map -> regions -> prompts -> [SAM] -> fused masks -> refined map.

SAM itself is not called here: the model runs it between `build_prompts` and `fuse_masks`.

Two frames occur. CLIP's frame is the photograph squashed to a square. SAM's frame is the photograph scaled per axis
to `reshaped_input_size` and padded at the bottom and on the right to a square of `sam_image_size`; its mask logits
come on a coarser grid over that whole square. Coordinates are continuous, with half-pixel centres: pixel (row i,
column j) covers [j, j + 1) x [i, i + 1), its centre is (j + 0.5, i + 0.5). Sizes are (height, width), points XY,
boxes XYXY.
"""

import math
import warnings
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage


Size = Sequence[int] | torch.Tensor
Coordinates = TypeVar("Coordinates", np.ndarray, torch.Tensor)

PROMPT_TYPES = ("box_and_points", "box", "points")
MASK_FUSIONS = ("soft", "binary")
MERGES = ("average", "anomaly_weighted", "sum_norm")

# Pixels that touch at a corner belong together: thin diagonal defects (scratches) would fall apart otherwise.
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)


class Region(NamedTuple):
    """One connected part of an anomaly map.

    Args:
        mask (`np.ndarray` of shape `(height, width)`, bool): True inside the region.
        box (`tuple[int, int, int, int]`): the tight box, XYXY pixel edges of the map's frame; `xmax` and `ymax` are
            exclusive, so a single pixel has a box of side 1.
        area (`int`): number of pixels.
        score (`float`): highest value of the map inside.
        total (`float`): sum of the map inside.
    """

    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    area: int
    score: float
    total: float


class SamPrompts(NamedTuple):
    """The prompts of one image in SAM's frame, one row per region, `None` for a kind that was not asked for.

    The values are half a pixel below the continuous coordinates, because SAM's prompt encoder adds that half itself.

    Args:
        input_boxes (`torch.Tensor` of shape `(num_regions, 4)`, float32, *optional*): XYXY.
        input_points (`torch.Tensor` of shape `(num_regions, num_points, 2)`, float32, *optional*): XY.
        input_labels (`torch.Tensor` of shape `(num_regions, num_points)`, int64, *optional*): 1, all are positive.
    """

    input_boxes: torch.Tensor | None
    input_points: torch.Tensor | None
    input_labels: torch.Tensor | None


def find_regions(
    anomaly_map: np.ndarray | torch.Tensor,
    threshold: float,
    *,
    min_region_fraction: float = 16 / 518**2,
    max_regions: int = 10,
) -> list[Region]:
    """Binarise an anomaly map (Eq. 7 of the paper) and return its 8-connected regions, largest sum first.

    Args:
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): abnormality per pixel, finite.
        threshold (`float`): a pixel is abnormal when its value is strictly greater.
        min_region_fraction (`float`, in [0, 1]): regions of a smaller share of the map's area are dropped as noise.
        max_regions (`int`, at least 1): how many regions are kept; a warning says when that cuts some off.

    Returns:
        `list[Region]`: by falling `total`; equal totals in the order of their first pixels, row by row.

    Raises:
        TypeError: if `anomaly_map` is neither an array nor a tensor.
        ValueError: if the map is not two-dimensional, is empty or holds NaN or infinity, or an option is out of range.

    Example:
        >>> anomaly_map = np.array([[0.9, 0.0, 0.0], [0.0, 0.7, 0.0], [0.0, 0.0, 0.0]])
        >>> find_regions(anomaly_map, 0.5)[0].box
        (0, 0, 2, 2)
    """
    values = _as_map(anomaly_map)
    if not math.isfinite(threshold):
        raise ValueError(f"`threshold` must be a finite number, got {threshold}")
    if not 0.0 <= min_region_fraction <= 1.0:
        raise ValueError(f"`min_region_fraction` must be in [0, 1], got {min_region_fraction}")
    if max_regions < 1:
        raise ValueError(f"`max_regions` must be at least 1, got {max_regions}")

    # Label the pixels above the threshold and measure every component at once
    foreground = values > float(threshold)
    labels, count = ndimage.label(foreground, structure=_EIGHT_CONNECTED)  # (height, width) int, 0 = background
    members = labels[foreground]  # (num_foreground_pixels,)
    areas = np.bincount(members, minlength=count + 1)  # (count + 1,)
    totals = np.bincount(members, weights=values[foreground], minlength=count + 1)  # (count + 1,)

    # Drop noise; the tolerance keeps a region of exactly the smallest size whatever the fraction's rounding
    min_area = max(1.0, min_region_fraction * values.size * (1 - 1e-12))
    kept = np.flatnonzero(areas >= min_area)
    kept = kept[np.argsort(-totals[kept], kind="stable")]
    if len(kept) > max_regions:
        warnings.warn(
            f"{len(kept)} regions are above the threshold {threshold}: only the {max_regions} of largest summed "
            "score are kept (`max_regions`)",
            stacklevel=2,
        )
        kept = kept[:max_regions]

    # Renumber by rank, so that the boxes of all kept regions come from one pass and in order
    ranks = np.zeros(count + 1, dtype=labels.dtype)
    ranks[kept] = np.arange(1, len(kept) + 1)
    labels = ranks[labels]
    regions = []
    for rank, (label, place) in enumerate(zip(kept, ndimage.find_objects(labels), strict=True), start=1):
        rows, columns = place
        regions.append(
            Region(
                mask=labels == rank,
                box=(columns.start, rows.start, columns.stop, rows.stop),
                area=int(areas[label]),
                score=float(values[place][labels[place] == rank].max()),
                total=float(totals[label]),
            )
        )
    return regions


def sample_points(
    region: Region, anomaly_map: np.ndarray | torch.Tensor, *, num_points: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Choose positive points inside a region: its maximum first, then pixels drawn uniformly without replacement.

    The draw depends on the seed and on the region's own box, not on its index: a defect elsewhere in the image cannot
    move the points of this one.

    Args:
        region (`Region`): a region of `anomaly_map`.
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): the map it was found in.
        num_points (`int`, at least 1): a region of fewer pixels repeats them in turn.
        seed (`int`, at least 0): seed of the draw.

    Returns:
        `np.ndarray` of shape `(num_points, 2)`, float64: XY pixel centres in the map's frame.

    Raises:
        TypeError: if `anomaly_map` is neither an array nor a tensor.
        ValueError: if the map is invalid or of another size than the region, or an option is out of range.

    Example:
        >>> anomaly_map = np.array([[0.0, 0.6], [0.0, 0.9]])
        >>> sample_points(find_regions(anomaly_map, 0.5)[0], anomaly_map, num_points=2)
        array([[1.5, 1.5],
               [1.5, 0.5]])
    """
    values = _as_map(anomaly_map)
    if values.shape != region.mask.shape:
        raise ValueError(f"the region's mask is of size {region.mask.shape}, but `anomaly_map` of {values.shape}")
    if num_points < 1:
        raise ValueError(f"`num_points` must be at least 1, got {num_points}")
    if seed < 0:
        raise ValueError(f"`seed` must be at least 0, got {seed}")

    # Work inside the box only, on flat indices
    xmin, ymin, xmax, ymax = region.box
    inside = region.mask[ymin:ymax, xmin:xmax]
    peak = int(np.where(inside, values[ymin:ymax, xmin:xmax], -np.inf).argmax())
    others = np.flatnonzero(inside)
    others = others[others != peak]

    # Two 8-connected regions never share a box (their paths from side to side would cross): the box is a place
    generator = np.random.default_rng((seed, *region.box))
    drawn = generator.choice(others, size=min(num_points - 1, len(others)), replace=False)
    pixels = np.resize(np.concatenate(([peak], drawn)), num_points)  # repeats cyclically when the region is smaller
    rows, columns = np.divmod(pixels, xmax - xmin)
    return np.stack((columns + xmin + 0.5, rows + ymin + 0.5), axis=-1)  # (num_points, 2)


def scale_coordinates(coordinates: Coordinates, source_size: Size, target_size: Size) -> Coordinates:
    """Carry points or boxes from one frame to another that shows the same content at another size.

    Each axis has its own factor, as both frames of this module need: CLIP's is a squash, and SAM rounds each side.

    Args:
        coordinates (`np.ndarray` or `torch.Tensor` of shape `(..., 2)` or `(..., 4)`): XY points or XYXY boxes,
            continuous (edges, or centres at + 0.5).
        source_size (`tuple[int, int]`): (height, width) of the content in the frame of `coordinates`.
        target_size (`tuple[int, int]`): (height, width) of the same content in the other frame, without padding.

    Returns:
        `np.ndarray` or `torch.Tensor`, as given: the same shape; a floating dtype is kept, integers become floating.

    Raises:
        ValueError: if the last dimension is neither 2 nor 4, or a size is not two positive numbers.

    Example:
        >>> scale_coordinates(np.array([259.0, 259.0]), (518, 518), (683, 1024))
        array([512. , 341.5])
    """
    if coordinates.ndim < 1 or coordinates.shape[-1] not in (2, 4):
        raise ValueError(f"`coordinates` must be of shape (..., 2) or (..., 4), got {tuple(coordinates.shape)}")
    source_height, source_width = _as_size(source_size, "source_size")
    target_height, target_width = _as_size(target_size, "target_size")
    repeats = coordinates.shape[-1] // 2
    source = [source_width, source_height] * repeats
    target = [target_width, target_height] * repeats

    # Multiply before dividing: whole numbers are exact in any dtype, their quotient is not
    if isinstance(coordinates, torch.Tensor):
        dtype = coordinates.dtype if coordinates.is_floating_point() else torch.get_default_dtype()
        factors = torch.tensor((target, source), dtype=dtype, device=coordinates.device)
        return coordinates * factors[0] / factors[1]
    dtype = coordinates.dtype if np.issubdtype(coordinates.dtype, np.floating) else np.dtype(np.float64)
    scaled: np.ndarray = coordinates * np.array(target, dtype=dtype) / np.array(source, dtype=dtype)
    return scaled


def build_prompts(
    regions: Sequence[Region],
    anomaly_map: np.ndarray | torch.Tensor,
    reshaped_input_size: Size,
    *,
    prompt_type: str = "box_and_points",
    num_points: int = 5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> SamPrompts:
    """Turn the regions of one image into SAM's point and box prompts.

    Args:
        regions (`Sequence[Region]`): the regions of `anomaly_map`; an empty one gives tensors of no rows.
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): the map they were found in.
        reshaped_input_size (`tuple[int, int]`): (height, width) of the real content in SAM's padded square.
        prompt_type (`str`): `"box_and_points"`, `"box"` or `"points"`.
        num_points (`int`, at least 1): positive points per region, see `sample_points`.
        seed (`int`, at least 0): seed of `sample_points`.
        device (`torch.device`, *optional*): where the tensors are put; the CPU by default.

    Returns:
        `SamPrompts`: ready for `SamModel` after a batch dimension is added.

    Raises:
        TypeError: if `anomaly_map` is neither an array nor a tensor.
        ValueError: if the map is invalid or of another size than a region, or an option is out of range.

    Example:
        >>> anomaly_map = np.array([[0.0, 0.9], [0.0, 0.0]])
        >>> prompts = build_prompts(find_regions(anomaly_map, 0.5), anomaly_map, (512, 1024), num_points=1)
        >>> prompts.input_boxes.tolist(), prompts.input_points.tolist()
        ([[511.5, -0.5, 1023.5, 255.5]], [[[767.5, 127.5]]])
    """
    _check_choice("prompt_type", prompt_type, PROMPT_TYPES)
    values = _as_map(anomaly_map)

    input_boxes = input_points = input_labels = None
    if prompt_type in ("box_and_points", "box"):
        boxes = np.array([region.box for region in regions], dtype=np.float64).reshape(-1, 4)  # (num_regions, 4)
        input_boxes = _to_sam_convention(boxes, values.shape, reshaped_input_size, device)
    if prompt_type in ("box_and_points", "points"):
        drawn = [sample_points(region, values, num_points=num_points, seed=seed) for region in regions]
        points = np.array(drawn, dtype=np.float64).reshape(-1, num_points, 2)  # (num_regions, num_points, 2)
        input_points = _to_sam_convention(points, values.shape, reshaped_input_size, device)
        input_labels = torch.ones(points.shape[:2], dtype=torch.long, device=device)  # (num_regions, num_points)
    return SamPrompts(input_boxes, input_points, input_labels)


def resample_masks(
    mask_logits: torch.Tensor, reshaped_input_size: Size, sam_image_size: int, output_size: Size
) -> torch.Tensor:
    """Resample masks from SAM's low-resolution padded square to a frame that shows the content alone.

    Bilinear, with half-pixel centres. The content may end inside a cell; a cell belongs to it when the cell's centre
    does, and sampling is clamped to those cells, so that no value of the padding enters. There is no antialiasing: an
    output smaller than the content's cells samples them, which is enough for maps as smooth as SAM's.

    Args:
        mask_logits (`torch.Tensor` of shape `(..., mask_height, mask_width)`): logits or probabilities over SAM's
            padded square (256 cells a side for 1024 pixels); any dtype.
        reshaped_input_size (`tuple[int, int]`): (height, width) of the real content in SAM's padded square, in pixels.
        sam_image_size (`int`): side of SAM's padded square, in pixels.
        output_size (`tuple[int, int]`): (height, width) of the result, for example of CLIP's frame.

    Returns:
        `torch.Tensor` of shape `(..., height, width)`: float32 (float64 if given so).

    Raises:
        ValueError: if the masks have fewer than two dimensions, a size is not two positive numbers, or the content is
            larger than the square.

    Example:
        >>> resample_masks(torch.tensor([[0.0, 1.0], [9.0, 9.0]]), (4, 8), 8, (1, 4))
        tensor([[0.0000, 0.2500, 0.7500, 1.0000]])
    """
    if mask_logits.ndim < 2:
        raise ValueError(f"`mask_logits` must be of shape (..., height, width), got {tuple(mask_logits.shape)}")
    content = _as_size(reshaped_input_size, "reshaped_input_size")
    output = _as_size(output_size, "output_size")
    if max(content) > sam_image_size:
        raise ValueError(f"`reshaped_input_size` {content} exceeds `sam_image_size` {sam_image_size}")

    # Bilinear sampling is separable: blend neighbouring rows, transpose, and once more (whole rows are fast to gather)
    resampled = _as_float(mask_logits)
    for axis in (-2, -1):
        lower, upper, weight = _axis_taps(content[axis], sam_image_size, mask_logits.shape[axis], output[axis])
        first = resampled.index_select(-2, lower.to(resampled.device))
        second = resampled.index_select(-2, upper.to(resampled.device))
        blended = torch.lerp(first, second, weight.to(resampled)[:, None])
        resampled = blended.transpose(-2, -1).contiguous()  # (..., mask_width, height), then (..., height, width)
    return resampled


def fuse_masks(
    mask_logits: torch.Tensor,
    iou_scores: torch.Tensor,
    reshaped_input_size: Size,
    sam_image_size: int,
    output_size: Size,
    *,
    region_scores: Sequence[float] | torch.Tensor | None = None,
    mask_fusion: str = "soft",
    merge: str = "average",
) -> torch.Tensor:
    """Fuse SAM's masks of one image into one map, each mask weighted by the quality that SAM predicts for it.

    With `merge="average"` a region's map is the mean over its masks of score x mask, and the image's map is the
    maximum over its regions; without regions it is 0. With `merge="sum_norm"` it is the sum over all regions and
    masks. Scores are weights and not normalised, so masks that SAM doubts count little even where all are doubtful.

    SAM's score says how good a mask is and nothing about whether the thing is a defect. With
    `merge="anomaly_weighted"` the scores therefore only weigh a region's masks against each other, score x mask over
    the sum of scores, and how abnormal the region is comes from `region_scores`.

    Args:
        mask_logits (`torch.Tensor` of shape `(num_regions, num_masks, mask_height, mask_width)`): SAM's low-resolution
            mask logits over its padded square; `num_regions` may be 0.
        iou_scores (`torch.Tensor` of shape `(num_regions, num_masks)`): SAM's predicted IoU; clamped to [0, 1].
        reshaped_input_size (`tuple[int, int]`): (height, width) of the real content in SAM's padded square, in pixels.
        sam_image_size (`int`): side of SAM's padded square, in pixels.
        output_size (`tuple[int, int]`): (height, width) of the result, for example of CLIP's frame.
        region_scores (sequence of `num_regions` numbers in [0, 1], *optional*): how abnormal each region is, such as
            its highest rough anomaly; used, and needed, by `"anomaly_weighted"` alone.
        mask_fusion (`str`): `"soft"` fuses probabilities at SAM's low resolution and resamples the result once;
            `"binary"` resamples every mask's logits, as SAM's own post-processing, and fuses what is above 0.
        merge (`str`): `"average"`, `"anomaly_weighted"` or `"sum_norm"`, see `merge_maps`.

    Returns:
        `torch.Tensor` of shape `(height, width)`, float32 (float64 if given so): in [0, num_regions * num_masks] for
        `"sum_norm"`, else in [0, 1].

    Raises:
        ValueError: if the shapes do not fit, or an option or a size is out of range.

    Example:
        >>> fuse_masks(torch.tensor([[[[20.0, -20.0]]]]), torch.tensor([[0.8]]), (1, 2), 2, (1, 2)).round(decimals=3)
        tensor([[0.8000, 0.0000]])
    """
    _check_choice("mask_fusion", mask_fusion, MASK_FUSIONS)
    _check_choice("merge", merge, MERGES)
    if mask_logits.ndim != 4 or mask_logits.shape[:2] != iou_scores.shape:
        raise ValueError(
            "`mask_logits` must be of shape (num_regions, num_masks, height, width) and `iou_scores` of (num_regions, "
            f"num_masks), got {tuple(mask_logits.shape)} and {tuple(iou_scores.shape)}"
        )
    if merge == "anomaly_weighted" and (region_scores is None or len(region_scores) != len(mask_logits)):
        given = "none" if region_scores is None else len(region_scores)
        raise ValueError(f"`merge='anomaly_weighted'` needs {len(mask_logits)} `region_scores`, got {given}")

    # One region at a time: the memory does not grow with the number of regions
    frame = (reshaped_input_size, sam_image_size, output_size)
    weights = _as_float(iou_scores).clamp(0.0, 1.0)[..., None, None]  # (num_regions, num_masks, 1, 1)
    if merge == "anomaly_weighted":
        anomalies = torch.as_tensor(region_scores).to(weights)[:, None, None, None].clamp(0.0, 1.0)
        weights = anomalies * weights / weights.sum(1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    fused_size = mask_logits.shape[-2:] if mask_fusion == "soft" else _as_size(output_size, "output_size")
    fused = weights.new_zeros(fused_size)
    for region_logits, region_weights in zip(mask_logits, weights, strict=True):
        if mask_fusion == "soft":
            masks = _as_float(region_logits).sigmoid()  # (num_masks, mask_height, mask_width)
        else:
            masks = resample_masks(region_logits, *frame) > 0  # (num_masks, height, width)
        weighted = region_weights * masks
        if merge == "sum_norm":
            fused = fused + weighted.sum(0)
        else:
            fused = torch.maximum(fused, weighted.mean(0) if merge == "average" else weighted.sum(0))
    return resample_masks(fused, *frame) if mask_fusion == "soft" else fused  # (height, width)


def merge_maps(rough_anomaly_map: torch.Tensor, mask_map: torch.Tensor, *, merge: str = "average") -> torch.Tensor:
    """Merge CLIP's rough map A with SAM's fused masks S.

    `"average"` and `"anomaly_weighted"` are (A + S) / 2. An image without regions goes through the same formula with
    S = 0, so there is no step at the threshold, and a good part's 0.49 never outranks a defect that SAM missed.
    `"sum_norm"` scales A + S to [0, 1] by its own minimum and maximum: every image, good or not, then reaches 1, which
    changes the ranking between images; a constant map has no such scale and is only clamped to [0, 1].

    Args:
        rough_anomaly_map (`torch.Tensor` of shape `(..., height, width)`): CLIP's map, in [0, 1].
        mask_map (`torch.Tensor` of the same shape): the result of `fuse_masks` for the same `merge`.
        merge (`str`): `"average"` or `"sum_norm"`.

    Returns:
        `torch.Tensor` of the same shape, float32 (float64 if given so): in [0, 1].

    Raises:
        ValueError: if the shapes differ or have fewer than two dimensions, or `merge` is unknown.

    Example:
        >>> merge_maps(torch.tensor([[0.25, 0.5]]), torch.tensor([[0.0, 1.0]]))
        tensor([[0.1250, 0.7500]])
    """
    _check_choice("merge", merge, MERGES)
    if rough_anomaly_map.ndim < 2 or rough_anomaly_map.shape != mask_map.shape:
        raise ValueError(
            "`rough_anomaly_map` and `mask_map` must be of one shape (..., height, width), got "
            f"{tuple(rough_anomaly_map.shape)} and {tuple(mask_map.shape)}"
        )
    total = _as_float(rough_anomaly_map) + _as_float(mask_map)
    if merge != "sum_norm":
        return total / 2
    low = total.amin(dim=(-2, -1), keepdim=True)  # (..., 1, 1)
    spread = total.amax(dim=(-2, -1), keepdim=True) - low  # (..., 1, 1)
    scaled = (total - low) / torch.where(spread > 0, spread, 1.0)
    return torch.where(spread > 0, scaled, total.clamp(0.0, 1.0))


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
    pixels = _as_float(anomaly_map).flatten(1)  # (batch_size, height * width)
    count = max(1, round(top_fraction * pixels.shape[1]))
    return pixels.topk(count, dim=1, sorted=False).values.mean(dim=1)  # (batch_size,)


def _axis_taps(content: int, padded: int, cells: int, output: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return, per output pixel of one axis, its two cells and the weight of the second."""
    # Integers first, one correctly rounded division: a cell's centre on the content's edge is recognised exactly
    content_cells = content * cells / padded
    last = max(math.ceil(content_cells - 0.5) - 1, 0)  # the last cell whose centre lies inside the content
    centres = torch.arange(output, dtype=torch.float64) + 0.5
    positions = (centres * content_cells / output - 0.5).clamp(0, last)  # in cells, 0 = centre of the first
    lower = positions.floor().long()
    return lower, (lower + 1).clamp(max=last), positions - lower


def _to_sam_convention(
    coordinates: np.ndarray, map_size: Size, reshaped_input_size: Size, device: torch.device | str | None
) -> torch.Tensor:
    """Carry coordinates to SAM's frame and take off the half pixel that its prompt encoder adds."""
    scaled = scale_coordinates(coordinates, map_size, reshaped_input_size) - 0.5
    return torch.tensor(scaled, dtype=torch.float32, device=device)


def _as_map(anomaly_map: np.ndarray | torch.Tensor) -> np.ndarray:
    """Check one anomaly map and return it as a float32 or float64 array on the CPU."""
    if isinstance(anomaly_map, torch.Tensor):
        values = _as_float(anomaly_map.detach()).cpu().numpy()
    elif isinstance(anomaly_map, np.ndarray):
        values = anomaly_map.astype(np.result_type(anomaly_map.dtype, np.float32), copy=False)
    else:
        raise TypeError(f"`anomaly_map` must be a numpy array or a torch tensor, got {type(anomaly_map).__name__}")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"`anomaly_map` must be of shape (height, width) and not empty, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("`anomaly_map` must be finite, got NaN or infinity")
    return values


def _as_float(tensor: torch.Tensor) -> torch.Tensor:
    """Raise half precision (and integers) to float32: scores and coordinates need more than 8 bits of mantissa."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _as_size(size: Size, name: str) -> tuple[int, int]:
    """Check a (height, width)."""
    values = tuple(int(value) for value in size)
    if len(values) != 2 or min(values) < 1:
        raise ValueError(f"`{name}` must be a positive (height, width), got {values}")
    return values[0], values[1]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")


__all__ = [
    "MASK_FUSIONS",
    "MERGES",
    "PROMPT_TYPES",
    "Region",
    "SamPrompts",
    "build_prompts",
    "find_regions",
    "fuse_masks",
    "merge_maps",
    "resample_masks",
    "sample_points",
    "scale_coordinates",
    "score_map",
]
