# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Regions of an anomaly map, and the prompts that they give a refiner: pure functions.

Two frames occur. CLIP's frame is the photograph squashed to a square. The refiner's is a [`Frame`]: the photograph
scaled per axis and padded at the bottom and on the right to a square. Coordinates are continuous, with half-pixel
centres: pixel (row i, column j) covers [j, j + 1) x [i, i + 1), its centre is (j + 0.5, i + 0.5). Sizes are (height,
width), points XY, boxes XYXY.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from scipy.special import expit, logit


Size = Sequence[int] | torch.Tensor
Coordinates = TypeVar("Coordinates", np.ndarray, torch.Tensor)

PROMPT_TYPES = ("box_and_points", "box", "points")

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
"""Pixels that touch at a corner belong together: thin diagonal defects (scratches) would fall apart otherwise."""


# Of maps in float32 that differ by the order of sums alone, as those of a batch and of its images one by one do
_ROUNDING = 1e-6

# Nearer to 0 and 1 a map's values are no evidence of a difference, but their logits would lie far apart
_NEAR = 1e-3

# In logits (0.005 at a map value of 0.5). Half of a map can be exactly alike, an even background or a saturated one:
# its spread is 0 then, and any rounding would stand out
_SMALLEST_SPREAD = 0.02

# Of a normal distribution the median of the absolute deviations is 1 / 1.4826 standard deviations
_DEVIATIONS_PER_MAD = 1.4826


class Frame(NamedTuple):
    """How a photograph lies in a refiner's square.

    Args:
        content (`tuple[int, int]`): (height, width) of the scaled photograph, from the upper left corner; the rest of
            the square is padding.
        side (`int`): of the square, in pixels.
    """

    content: tuple[int, int]
    side: int


class Region(NamedTuple):
    """One connected part of an anomaly map.

    Args:
        mask (`np.ndarray` of shape `(height, width)`, bool): True inside the region.
        box (`tuple[int, int, int, int]`): the tight box, XYXY pixel edges of the map's frame; `xmax` and `ymax` are
            exclusive, so a single pixel has a box of side 1.
        area (`int`): number of pixels.
        score (`float`): mean of the map inside, as in the regions of a result.
        peak (`float`): highest value of the map inside.
        total (`float`): sum of the map inside.
    """

    mask: NDArray[np.bool_]
    box: tuple[int, int, int, int]
    area: int
    score: float
    peak: float
    total: float


class Verdict(NamedTuple):
    """What `judge` says of one photograph.

    Args:
        is_anomalous (`bool`, *optional*): `None` without a decision threshold; else True exactly if the mask has a
            pixel.
        mask (`np.ndarray` of shape `(height, width)`, bool): the pixels that are called abnormal.
    """

    is_anomalous: bool | None
    mask: NDArray[np.bool_]


class SamPrompts(NamedTuple):
    """The prompts of one image in the refiner's frame, one row per region, `None` for a kind that was not asked for.

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
    max_region_fraction: float = 1.0,
    max_regions: int = 10,
) -> list[Region]:
    """Binarise an anomaly map (Eq. 7 of the paper) and return its 8-connected regions, largest sum first.

    Args:
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): abnormality per pixel, finite.
        threshold (`float`): a pixel is abnormal when its value is strictly greater.
        min_region_fraction (`float`, in [0, 1]): regions of a smaller share of the map's area are dropped as noise.
        max_region_fraction (`float`, in [0, 1]): regions of a larger share are dropped, since a mask of most of the
            image is no defect; by default none is.
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
    for name, fraction in (
        ("min_region_fraction", min_region_fraction),
        ("max_region_fraction", max_region_fraction),
    ):
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"`{name}` must be in [0, 1], got {fraction}")
    if max_regions < 1:
        raise ValueError(f"`max_regions` must be at least 1, got {max_regions}")

    # Label the pixels above the threshold and measure every component at once
    foreground = values > float(threshold)
    labels, areas, totals = _measure(values, foreground)

    # Drop noise and what is too large; the tolerances keep a region of exactly a limit, whatever a fraction's rounding
    min_area = max(1.0, min_region_fraction * values.size * (1 - 1e-12))
    max_area = max_region_fraction * values.size * (1 + 1e-12)
    kept = np.flatnonzero((areas >= min_area) & (areas <= max_area))
    kept = kept[np.argsort(-totals[kept], kind="stable")]
    if len(kept) > max_regions:
        warnings.warn(
            f"{len(kept)} regions are above the threshold {threshold:.4g}: only the {max_regions} of largest summed "
            "score are kept (`max_regions`)",
            stacklevel=2,
        )
        kept = kept[:max_regions]

    # Renumber by rank, so that the boxes of all kept regions come from one pass and in order
    ranks = np.zeros(len(areas), dtype=labels.dtype)
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
                score=float(totals[label] / areas[label]),
                peak=float(values[place][labels[place] == rank].max()),
                total=float(totals[label]),
            )
        )
    return regions


def relative_threshold(anomaly_map: np.ndarray | torch.Tensor, deviations: float = 3.0) -> float:
    """Return the value above which a pixel stands out from its own map, wherever that map lies.

    A localizer that nobody calibrated is right about which pixels are less normal than others and not about the level:
    for one class most of a good map is above 0.5, for another nothing of a defective one. The median and the spread of
    the map's own logits do not depend on that level, nor on a defect of less than half of the image.

    Args:
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): abnormality per pixel, in [0, 1].
        deviations (`float`, positive): how many robust standard deviations (1.4826 x the median absolute deviation) of
            the logits above their median.

    Returns:
        `float`: in (0, 1]. The spread counts as 0.02 logits at least, so that a map that is constant but for rounding
        has nothing above it.

    Raises:
        TypeError: if `anomaly_map` is neither an array nor a tensor.
        ValueError: if the map is not two-dimensional, is empty or holds NaN or infinity, or `deviations` is not a
            positive number.

    Example:
        >>> anomaly_map = np.array([[0.4, 0.5, 0.6], [0.4, 0.5, 0.6], [0.4, 0.5, 0.95]])
        >>> round(relative_threshold(anomaly_map), 3)  # logits of median 0 and median absolute deviation log(1.5)
        0.859
    """
    if not 0 < deviations < math.inf:
        raise ValueError(f"`deviations` must be a positive number, got {deviations}")
    logits = logit(_as_map(anomaly_map).astype(np.float64).clip(_NEAR, 1 - _NEAR))
    median = np.median(logits)
    spread = max(_DEVIATIONS_PER_MAD * np.median(np.abs(logits - median)), _SMALLEST_SPREAD)
    threshold = float(expit(median + deviations * spread))
    return threshold if threshold < 1 - _NEAR else 1.0


def judge(
    score: float,
    anomaly_map: np.ndarray,
    threshold: float,
    *,
    decision_threshold: float | None = None,
    rough_anomaly_map: Callable[[], np.ndarray] | None = None,
) -> Verdict:
    """Say of one photograph whether it is anomalous and where, so that the one never contradicts the other.

    Where a decision threshold holds, a photograph whose score is not above it is normal, and its mask is empty; one
    above it is anomalous if its mask has a pixel. Without one there is no verdict, and the mask follows the threshold.

    Args:
        score (`float`): the image's.
        anomaly_map (`np.ndarray` of shape `(height, width)`): the final map.
        threshold (`float`): a pixel is abnormal when its value is strictly greater.
        decision_threshold (`float`, *optional*): of the score, likewise.
        rough_anomaly_map (callable, *optional*): gives the map before SAM, of the same shape. Where the score is above
            `decision_threshold` but no pixel of the final map above `threshold`, the mask is taken from this one:
            above `threshold`, or above `decision_threshold` if that is empty too. So SAM cannot veto a verdict
            silently.

    Returns:
        `Verdict`: of which `is_anomalous` is true exactly if the mask has a pixel.

    Example:
        >>> final_map, rough_map = np.array([[0.2, 0.4]]), np.array([[0.0, 0.7]])
        >>> judge(0.4, final_map, 0.5, decision_threshold=0.3)
        Verdict(is_anomalous=False, mask=array([[False, False]]))
        >>> judge(0.4, final_map, 0.5, decision_threshold=0.3, rough_anomaly_map=lambda: rough_map)
        Verdict(is_anomalous=True, mask=array([[False,  True]]))
    """
    mask = anomaly_map > threshold
    if decision_threshold is None:
        return Verdict(None, mask)
    if not score > decision_threshold:
        return Verdict(False, np.zeros_like(mask))
    if rough_anomaly_map is not None and not mask.any():
        rough = rough_anomaly_map()
        mask = rough > threshold
        if not mask.any():
            mask = rough > decision_threshold
    return Verdict(bool(mask.any()), mask)


def describe_regions(anomaly_map: np.ndarray, mask: np.ndarray, *, outlines: bool = False) -> list[dict[str, Any]]:
    """List the 8-connected parts of a mask as a result shows them, by falling score.

    Args:
        anomaly_map (`np.ndarray` of shape `(height, width)`): abnormality per pixel.
        mask (`np.ndarray` of shape `(height, width)`, bool): the pixels that are called abnormal.
        outlines (`bool`): whether each has its own mask, in COCO's run-length encoding, see `encode_rle`.

    Returns:
        `list[dict]`: `{"box": {"xmin", "ymin", "xmax", "ymax"}, "score", "area"}`, perhaps with `"outline"`: pixel
        edges (`xmax` and `ymax` are exclusive), the mean of the map inside, the number of pixels; equal scores from
        top to bottom.

    Example:
        >>> describe_regions(np.array([[0.5, 0.75], [0.0, 0.0]]), np.array([[True, True], [False, False]]))
        [{'box': {'xmin': 0, 'ymin': 0, 'xmax': 2, 'ymax': 1}, 'score': 0.625, 'area': 2}]
    """
    labels, areas, totals = _measure(anomaly_map, mask)
    regions = []
    for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        box = {"xmin": columns.start, "ymin": rows.start, "xmax": columns.stop, "ymax": rows.stop}
        region = {"box": box, "score": float(totals[label] / areas[label]), "area": int(areas[label])}
        if outlines:
            region["outline"] = encode_rle(labels[rows, columns] == label, (rows.start, columns.start), mask.shape)
        regions.append(region)
    return sorted(regions, key=lambda region: region["score"], reverse=True)


def encode_rle(part: np.ndarray, offset: Size = (0, 0), size: Size | None = None) -> dict[str, list[int]]:
    """Encode a mask as COCO's uncompressed run lengths, which `pycocotools.mask.frPyObjects` and others read.

    Args:
        part (`np.ndarray` of shape `(height, width)`, bool): the mask, or the part of it outside of which it is empty.
        offset (`tuple[int, int]`): (row, column) of the part in the mask.
        size (`tuple[int, int]`, *optional*): (height, width) of the mask; by default that of the part.

    Returns:
        `dict`: `"size"`, [height, width], and `"counts"`, the lengths of runs of 0 and 1 by turns, the first of 0,
        down the first column, then the second and so on.

    Example:
        >>> encode_rle(np.array([[False, True], [True, True]]))
        {'size': [2, 2], 'counts': [1, 3]}
        >>> encode_rle(np.array([[True]]), (0, 1), (2, 3))
        {'size': [2, 3], 'counts': [2, 1, 3]}
    """
    height, width = as_size(part.shape if size is None else size, "size")
    padded = np.zeros((part.shape[1], part.shape[0] + 2), dtype=np.int8)  # (columns, rows), a frame of 0 at both ends
    padded[:, 1:-1] = part.T
    steps = np.diff(padded, axis=1)
    starts, ends = (  # of the runs of each column, as places in the whole mask
        (columns + offset[1]) * height + rows + offset[0]
        for columns, rows in (np.nonzero(steps == sign) for sign in (1, -1))
    )
    # A run that ends at the bottom goes on where the next column begins with one
    goes_on = starts[1:] == ends[:-1]
    starts, ends = starts[np.r_[True, ~goes_on][: len(starts)]], ends[np.r_[~goes_on, True][: len(ends)]]
    edges = np.concatenate(([0], np.stack([starts, ends], axis=1).ravel(), [height * width]))
    counts = np.diff(edges).tolist()
    return {"size": [height, width], "counts": counts[:-1] if len(counts) > 1 and counts[-1] == 0 else counts}


def sample_points(
    region: Region, anomaly_map: np.ndarray | torch.Tensor, *, num_points: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Choose positive points inside a region: its maximum first, then pixels drawn uniformly without replacement.

    Of equal maxima, and of such that rounding tells apart, the first in reading order is taken. The draw depends on
    the seed and on the region's own box, not on its index: a defect elsewhere in the image cannot move the points of
    this one.

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
    crop = np.where(inside, values[ymin:ymax, xmin:xmax], -np.inf)
    # The first of the highest: an upsampled map is flat at the image's edges, where rounding must not choose
    peak = int((crop >= crop.max() - _ROUNDING).argmax())
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
    source_height, source_width = as_size(source_size, "source_size")
    target_height, target_width = as_size(target_size, "target_size")
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
    frame: Frame,
    *,
    prompt_type: str = "box_and_points",
    num_points: int = 5,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> SamPrompts:
    """Turn the regions of one image into the refiner's point and box prompts.

    Args:
        regions (`Sequence[Region]`): the regions of `anomaly_map`; an empty one gives tensors of no rows.
        anomaly_map (`np.ndarray` or `torch.Tensor` of shape `(height, width)`): the map they were found in.
        frame (`Frame`): how the photograph lies in the refiner's square.
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
        >>> regions, frame = find_regions(anomaly_map, 0.5), Frame((512, 1024), 1024)
        >>> prompts = build_prompts(regions, anomaly_map, frame, num_points=1)
        >>> prompts.input_boxes.tolist(), prompts.input_points.tolist()
        ([[511.5, -0.5, 1023.5, 255.5]], [[[767.5, 127.5]]])
    """
    check_choice("prompt_type", prompt_type, PROMPT_TYPES)
    values = _as_map(anomaly_map)

    input_boxes = input_points = input_labels = None
    if prompt_type in ("box_and_points", "box"):
        boxes = np.array([region.box for region in regions], dtype=np.float64).reshape(-1, 4)  # (num_regions, 4)
        input_boxes = _to_sam_convention(boxes, values.shape, frame, device)
    if prompt_type in ("box_and_points", "points"):
        drawn = [sample_points(region, values, num_points=num_points, seed=seed) for region in regions]
        points = np.array(drawn, dtype=np.float64).reshape(-1, num_points, 2)  # (num_regions, num_points, 2)
        input_points = _to_sam_convention(points, values.shape, frame, device)
        input_labels = torch.ones(points.shape[:2], dtype=torch.long, device=device)  # (num_regions, num_points)
    return SamPrompts(input_boxes, input_points, input_labels)


def _measure(values: np.ndarray, foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label the 8-connected parts of a foreground: labels (height, width), 0 = background; per label area and sum."""
    labels, count = ndimage.label(foreground, structure=EIGHT_CONNECTED)
    members = labels[foreground]  # (num_foreground_pixels,)
    areas = np.bincount(members, minlength=count + 1)  # (count + 1,)
    totals = np.bincount(members, weights=values[foreground], minlength=count + 1)  # (count + 1,)
    return labels, areas, totals


def _to_sam_convention(
    coordinates: np.ndarray, map_size: Size, frame: Frame, device: torch.device | str | None
) -> torch.Tensor:
    """Carry coordinates to SAM's frame and take off the half pixel that its prompt encoder adds."""
    scaled = scale_coordinates(coordinates, map_size, frame.content) - 0.5
    return torch.tensor(scaled, dtype=torch.float32, device=device)


def _as_map(anomaly_map: np.ndarray | torch.Tensor) -> np.ndarray:
    """Check one anomaly map and return it as a float32 or float64 array on the CPU."""
    if isinstance(anomaly_map, torch.Tensor):
        values = as_float(anomaly_map.detach()).cpu().numpy()
    elif isinstance(anomaly_map, np.ndarray):
        values = anomaly_map.astype(np.result_type(anomaly_map.dtype, np.float32), copy=False)
    else:
        raise TypeError(f"`anomaly_map` must be a numpy array or a torch tensor, got {type(anomaly_map).__name__}")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"`anomaly_map` must be of shape (height, width) and not empty, got {values.shape}")
    if not np.isfinite(values).all():
        raise ValueError("`anomaly_map` must be finite, got NaN or infinity")
    return values


def as_float(tensor: torch.Tensor) -> torch.Tensor:
    """Raise half precision (and integers) to float32: scores and coordinates need more than 8 bits of mantissa."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def as_size(size: Size, name: str) -> tuple[int, int]:
    """Check a (height, width)."""
    values = tuple(int(value) for value in size)
    if len(values) != 2 or min(values) < 1:
        raise ValueError(f"`{name}` must be a positive (height, width), got {values}")
    return values[0], values[1]


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(map(repr, choices))}, got {value!r}")


__all__ = [
    "EIGHT_CONNECTED",
    "PROMPT_TYPES",
    "Frame",
    "Region",
    "SamPrompts",
    "Size",
    "Verdict",
    "as_float",
    "as_size",
    "build_prompts",
    "check_choice",
    "describe_regions",
    "encode_rle",
    "find_regions",
    "judge",
    "relative_threshold",
    "sample_points",
    "scale_coordinates",
]
