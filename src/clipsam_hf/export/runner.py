# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Mark defects in photographs with an exported ClipSAM: `python run.py photo.jpg --class-name cookie`.

This one file needs Python 3.11, onnxruntime, numpy and Pillow, and nothing else; it reads the folder that it lies
in, which `clipsam export` wrote. Regions, prompts and merging are those of the package `clipsam_hf`, in numpy; its
tests hold that both give the same answers. From Python:

    from run import Runner
    result = Runner("folder").predict("photo.jpg", "cookie")

Photographs are looked at as a whole: the package's tiles of long or huge ones are not here. Sizes are (height, width).
"""

import argparse
import hashlib
import json
import math
import sys
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


FORMAT = 1
SETTINGS_NAME = "clipsam.json"

# As in `image_loading.py`
_MAX_PIXELS = 89_478_485
_BIT_DEPTHS = (8, 10, 12, 14, 16)

# As in `tiling_clipsam.py`
_LONGEST_ASPECT = 2.0
_MOST_PIXELS = 16_000_000

# As in `regions_clipsam.py`
_ROUNDING = 1e-6
_NEAR = 1e-3
_SMALLEST_SPREAD = 0.02
_DEVIATIONS_PER_MAD = 1.4826


class Result(NamedTuple):
    """What is said of a photograph.

    Args:
        score (`float`): its anomaly score, in [0, 1].
        is_anomalous (`bool`, *optional*): the verdict; `None` without a decision threshold.
        anomaly_map (`np.ndarray` of shape `(height, width)`): float32 in [0, 1], at the photograph's size.
        mask (`np.ndarray` of shape `(height, width)`): bool; what is called abnormal.
        regions (`list[dict]`): the parts of the mask by falling score: `{"box": {"xmin", "ymin", "xmax", "ymax"},
            "score", "area"}`.
        threshold (`float`): of the map, as it was used.
        decision_threshold (`float`, *optional*): of the score, likewise.
    """

    score: float
    is_anomalous: bool | None
    anomaly_map: np.ndarray
    mask: np.ndarray
    regions: list[dict[str, Any]]
    threshold: float
    decision_threshold: float | None


class Region(NamedTuple):
    """A connected part of a map: its box XYXY, its pixels inside the box (bool), and the map's highest value there."""

    box: tuple[int, int, int, int]
    inside: np.ndarray
    peak: float


class Runner:
    """An exported model.

    Args:
        folder (`str` or `Path`): what `clipsam export` wrote; by default where this file lies.
        providers (sequence of `str`): onnxruntime's execution providers.
        num_threads (`int`): threads of onnxruntime; by default 0, as many as it likes.

    Raises:
        FileNotFoundError: if the folder holds no export.
        ValueError: if it is of another format.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        providers: tuple[str, ...] = ("CPUExecutionProvider",),
        num_threads: int = 0,
    ) -> None:
        self.folder = Path(__file__).resolve().parent if folder is None else Path(folder)
        path = self.folder / SETTINGS_NAME
        if not path.is_file():
            raise FileNotFoundError(f"{str(self.folder)!r} holds no exported model: there is no {SETTINGS_NAME}.")
        self.settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if self.settings.get("format") != FORMAT:
            raise ValueError(f"{path} is of format {self.settings.get('format')!r}; known is {FORMAT}.")
        self._providers, self._options = list(providers), onnxruntime.SessionOptions()
        self._options.intra_op_num_threads = num_threads
        self._options.log_severity_level = 3

    @property
    def class_names(self) -> list[str]:
        """Names whose text embeddings the folder holds."""
        return list(self.settings["text_embeds"])

    def find_damaged_files(self) -> list[str]:
        """Return the files that are not what was exported, by their SHA-256."""
        damaged = []
        for name, digest in self.settings["files"].items():
            try:
                with open(self.folder / name, "rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError:
                found = None
            if found != digest:
                damaged.append(name)
        return damaged

    def predict(
        self,
        image: Any,
        class_name: str | None = None,
        *,
        roi_mask: Any = None,
        refine: bool = True,
        threshold: float | None = None,
        decision_threshold: float | None = None,
    ) -> Result:
        """Mark the defects of one photograph.

        Args:
            image: a path, a binary file or a PIL image.
            class_name (`str`, *optional*): what it shows, one of `class_names`; not needed if there is one only.
            roi_mask (*optional*): an image too, or a bool array (height, width), not black where to look; brought to
                the size of the photograph. Maps are 0 elsewhere, and nothing scores. Where the references of the
                export have one of their own, both hold.
            refine (`bool`): whether SAM refines the map.
            threshold (`float`, *optional*): of the map, in [0, 1]; by default the model's.
            decision_threshold (`float`, *optional*): of the score, likewise.

        Returns:
            [`Result`].

        Raises:
            ValueError: if the class name is unknown, a threshold is out of range, the region of interest is empty, or
                an image cannot be read.
            OSError: if there is none.
        """
        for name, value in (("threshold", threshold), ("decision_threshold", decision_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"`{name}` must lie in [0, 1], got {value}.")
        photograph = read_photograph(image)
        size = (photograph.height, photograph.width)
        _warn_of_missing_tiles(size)
        rough_map, text_score = self.localize(photograph, class_name)
        rois = [read_roi(roi) for roi in (self._roi, roi_mask) if roi is not None]
        inside = np.all([np.ones(rough_map.shape, bool), *(crop_roi(roi, rough_map.shape) for roi in rois)], axis=0)
        rough_map = rough_map * inside
        final_map = self.refine(rough_map, photograph, inside) * inside if refine else rough_map
        own = self.settings["thresholds"]["refined" if refine else "rough"]
        is_default = threshold is None
        if threshold is None:
            threshold = own["map"]
            if threshold is None:  # nobody calibrated it
                threshold = relative_threshold(final_map[inside], self.settings["refinement"]["region_deviations"])
        decision_threshold = own["score"] if decision_threshold is None else decision_threshold

        scored_map = rough_map if self.settings["score"]["of_rough_map"] else final_map
        score = self.score(scored_map, None if rois else text_score)  # that by text is of the whole photograph
        full_map = resize_map(final_map, size)
        full_rough = partial(resize_map, rough_map, size) if is_default else None
        is_anomalous, mask = judge(score, full_map, threshold, decision_threshold, full_rough)
        regions = describe_regions(full_map, mask)
        return Result(score, is_anomalous, full_map, mask, regions, threshold, decision_threshold)

    def localize(self, photograph: Image.Image, class_name: str | None = None) -> tuple[np.ndarray, float | None]:
        """Return the rough map, (height, width) in CLIP's frame, and the score by text, if that is the model's."""
        names = self.class_names
        if class_name is None and len(names) == 1:
            class_name = names[0]
        if class_name not in names:
            known = ", ".join(map(repr, names))
            raise ValueError(f"The export holds the class names {known}, got {class_name!r}; export it anew for more.")
        text_embeds = np.array(self.settings["text_embeds"][class_name], dtype=np.float32)[None]  # (1, 2, channels)
        pixels = to_pixels(photograph, self.settings["clip"]["size"], self.settings["clip"])[None]
        rough_map, *scores = self._localizer.run(None, {"pixel_values": pixels, "text_embeds": text_embeds})
        if not np.isfinite(rough_map).all():
            raise ValueError("The model's map holds NaN or infinite values: check the export.")
        return rough_map[0], float(scores[0][0]) if scores else None

    def refine(self, rough_map: np.ndarray, photograph: Image.Image, inside: np.ndarray | None = None) -> np.ndarray:
        """Return the map refined by SAM, (height, width) in CLIP's frame; `inside`, likewise, is where to look."""
        options, sam = self.settings["refinement"], self.settings["sam"]
        content = fit_square((photograph.height, photograph.width), sam["longest_edge"])
        if min(content) < 1:
            raise ValueError(
                f"A photograph of {photograph.height}x{photograph.width} is narrower than a pixel in SAM's frame of"
                f" {sam['longest_edge']}; take a part of it, or do without SAM."
            )
        threshold = options["binarize_threshold"]
        if options["region_rule"] == "relative":
            values = rough_map if inside is None else rough_map[inside]
            threshold = relative_threshold(values, options["region_deviations"])
        regions = find_regions(rough_map, threshold, options)
        masks, scores = np.zeros((0, 1, 1, 1), np.float32), np.zeros((0, 1), np.float32)
        if regions:
            square = np.zeros((1, 3, sam["side"], sam["side"]), dtype=np.float32)
            square[0, :, : content[0], : content[1]] = to_pixels(photograph, content, sam)
            names = [each.name for each in self._sam_encoder.get_outputs()]
            embeddings = dict(zip(names, self._sam_encoder.run(None, {"sam_pixel_values": square}), strict=True))
            prompts = build_prompts(regions, rough_map, content, options)
            masks, scores = self._sam_decoder.run(["pred_masks", "iou_scores"], {**embeddings, **prompts})
        return merge_masks(
            rough_map, masks, scores, [region.peak for region in regions], (content, sam["side"]), options
        )

    def score(self, anomaly_map: np.ndarray, text_score: float | None = None) -> float:
        """Return the score of a map, or that by text."""
        settings = self.settings["score"]
        if text_score is not None:
            return text_score
        if settings["image_score"] == "max":
            return float(anomaly_map.max())
        count = max(1, round(settings["score_top_fraction"] * anomaly_map.size))
        return float(np.partition(anomaly_map.ravel(), -count)[-count:].mean())

    @cached_property
    def _roi(self) -> np.ndarray | None:
        name = self.settings.get("roi")
        return None if name is None else read_roi(self.folder / name)

    @cached_property
    def _localizer(self) -> Any:
        return self._open("localizer")

    @cached_property
    def _sam_encoder(self) -> Any:
        return self._open("sam_encoder")

    @cached_property
    def _sam_decoder(self) -> Any:
        return self._open("sam_decoder")

    def _open(self, name: str) -> Any:
        path = self.folder / f"{name}.onnx"
        try:
            return onnxruntime.InferenceSession(str(path), self._options, providers=self._providers)
        except Exception as error:  # onnxruntime has a class of its own for each fault
            reason = str(error).strip().partition("\n")[0]
            raise ValueError(f"{path} cannot be loaded, see `--check`: {reason}") from error


# --------------------------------------------------------------------------------------------------------------------
# Photographs to pixels


def read_photograph(image: Any) -> Image.Image:
    """Read a photograph as upright 8-bit RGB, transparency on white, as `load_rgb` of the package does."""
    name = repr(getattr(image, "filename", image) if isinstance(image, Image.Image) else str(image))
    try:
        if isinstance(image, Image.Image):
            return _to_rgb(ImageOps.exif_transpose(image), name)
        Image.init()
        formats = [known for known in Image.ID if known != "EPS"]
        # Not by its path: Pillow 13 maps some files of a path into memory and forgets to turn them
        file = nullcontext(image) if hasattr(image, "read") else open(image, "rb")
        with file as binary, Image.open(binary, formats=formats) as opened:
            if opened.width * opened.height > _MAX_PIXELS:
                raise ValueError(f"it has {opened.height}x{opened.width} pixels, more than {_MAX_PIXELS}")
            return _to_rgb(ImageOps.exif_transpose(opened), name)
    except (FileNotFoundError, IsADirectoryError, PermissionError, MemoryError):
        raise
    except Exception as error:
        raise ValueError(f"Cannot read {name}: {str(error) or type(error).__name__}.") from error


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if image.mode == "F":
            if not (-0.5 <= 255 * low and 255 * high <= 255.5):  # NaN fails too
                raise ValueError(f"it holds float values from {low:g} to {high:g}, accepted are 0 to 1")
            return Image.fromarray(np.clip(np.rint(values * np.float32(255)), 0, 255).astype(np.uint8)).convert("RGB")
        if low < 0 or high >= 2**16:
            raise ValueError(f"it holds integers from {low:g} to {high:g}, accepted are 16 bits")
        # The least depth of a camera that holds the image
        most = next(2**depth - 1 for depth in _BIT_DEPTHS if high < 2**depth)
        return Image.fromarray(((values.astype(np.uint32) * 255 + most // 2) // most).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, "white")
        opaque.alpha_composite(image.convert("RGBA"))
        image = opaque
    return image.convert("RGB")


def _warn_of_missing_tiles(size: tuple[int, int]) -> None:
    if max(size) > _LONGEST_ASPECT * min(size) or math.prod(size) > _MOST_PIXELS:
        warnings.warn(
            f"A photograph of {size[0]}x{size[1]} is looked at as a whole, where the package would look at tiles too:"
            " small defects may be missed; crop it.",
            stacklevel=3,
        )


def read_roi(roi_mask: Any) -> np.ndarray:
    """Read a region of interest, bool (height, width), from an image that is not black there."""
    image = roi_mask if isinstance(roi_mask, np.ndarray) else np.asarray(read_photograph(roi_mask))
    inside: np.ndarray = np.any(image.reshape(*image.shape[:2], -1), axis=-1)
    if not inside.any():
        raise ValueError("The region of interest is empty: its mask is black everywhere.")
    return inside


def crop_roi(roi: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Bring a region of interest to the size of a map: the nearest pixels, in float32 as torch does it."""
    rows, columns = (
        ((np.arange(cells, dtype=np.float32) + np.float32(0.5)) / np.float32(cells) * np.float32(length)).astype(int)
        for cells, length in zip(size, roi.shape, strict=True)
    )
    inside: np.ndarray = roi[rows.clip(max=roi.shape[0] - 1)[:, None], columns.clip(max=roi.shape[1] - 1)]
    return inside


def to_pixels(photograph: Image.Image, size: Any, look: dict[str, Any]) -> np.ndarray:
    """Resize by Pillow, rescale and normalise: (3, height, width), float32."""
    resized = np.asarray(photograph.resize((size[1], size[0]), resample=look["resample"]))
    values = (resized.astype(np.float64) * look["rescale_factor"]).astype(np.float32)
    values = (values - np.array(look["mean"], np.float32)) / np.array(look["std"], np.float32)
    pixels: np.ndarray = values.transpose(2, 0, 1)
    return pixels


def fit_square(size: tuple[int, int], longest_edge: int) -> tuple[int, int]:
    """Return (height, width) of a photograph scaled so that its longer side fits, as SAM rounds it."""
    scale = longest_edge * 1.0 / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


# --------------------------------------------------------------------------------------------------------------------
# Maps to regions and prompts: `regions_clipsam.py` of the package


def label_parts(foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the 8-connected parts of a foreground.

    Runs of pixels of a row are joined with those that they touch in the next one.

    Args:
        foreground (`np.ndarray` of shape `(height, width)`): bool.

    Returns:
        `np.ndarray` of shape `(height, width)`: 0 is background, parts count from 1 in the order of first pixels.
        `np.ndarray` of shape `(num_parts, 4)`: their boxes, XYXY, `xmax` and `ymax` exclusive.
    """
    height, width = foreground.shape
    padded = np.zeros((height, width + 2), dtype=np.int8)
    padded[:, 1:-1] = foreground
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]  # exclusive
    # Of each run, those of the next row that begin before its end and end after its start, a corner included
    stride = width + 2
    lows = np.searchsorted(rows * stride + ends, (rows + 1) * stride + starts, side="left")
    highs = np.searchsorted(rows * stride + starts, (rows + 1) * stride + ends, side="right")
    counts = np.maximum(highs - lows, 0)
    upper = np.repeat(np.arange(len(rows)), counts)
    lower = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(lows, counts)

    # Each run points to the first run that it is known to be joined with, until all that touch agree
    root = np.arange(len(rows))
    while (apart := root[upper] != root[lower]).any():
        pair = np.stack([root[upper[apart]], root[lower[apart]]])
        np.minimum.at(root, pair.max(axis=0), pair.min(axis=0))
        while (root[root] != root).any():
            root = root[root]
    firsts, numbers = np.unique(root, return_inverse=True)

    labels = np.zeros(foreground.shape, dtype=np.int32)
    labels[foreground] = np.repeat(numbers + 1, ends - starts)
    boxes = np.tile(np.array([width, height, 0, 0]), (len(firsts), 1))
    for column, values in ((0, starts), (1, rows)):
        np.minimum.at(boxes[:, column], numbers, values)
    for column, values in ((2, ends), (3, rows + 1)):
        np.maximum.at(boxes[:, column], numbers, values)
    return labels, boxes


def _measure(values: np.ndarray, foreground: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels, boxes, and by label, 0 included, area and sum."""
    labels, boxes = label_parts(foreground)
    members = labels[foreground]
    areas = np.bincount(members, minlength=len(boxes) + 1)
    totals = np.bincount(members, weights=values[foreground], minlength=len(boxes) + 1)
    return labels, boxes, areas, totals


def find_regions(anomaly_map: np.ndarray, threshold: float, options: dict[str, Any]) -> list[Region]:
    """Return the parts of a map above a threshold, largest sum first, neither too small nor too large."""
    labels, boxes, areas, totals = _measure(anomaly_map, anomaly_map > threshold)
    smallest = max(1.0, options["min_region_fraction"] * anomaly_map.size * (1 - 1e-12))
    largest = options["max_region_fraction"] * anomaly_map.size * (1 + 1e-12)
    kept = np.flatnonzero((areas >= smallest) & (areas <= largest))
    kept = kept[np.argsort(-totals[kept], kind="stable")][: options["max_regions"]]
    regions = []
    for label in kept:
        xmin, ymin, xmax, ymax = (int(edge) for edge in boxes[label - 1])
        inside = labels[ymin:ymax, xmin:xmax] == label
        regions.append(
            Region((xmin, ymin, xmax, ymax), inside, float(anomaly_map[ymin:ymax, xmin:xmax][inside].max()))
        )
    return regions


def relative_threshold(anomaly_map: np.ndarray, deviations: float) -> float:
    """Return the value above which a pixel stands out from its own map."""
    values = anomaly_map.astype(np.float64).clip(_NEAR, 1 - _NEAR)
    logits = np.log(values / (1 - values))
    median = np.median(logits)
    spread = max(_DEVIATIONS_PER_MAD * np.median(np.abs(logits - median)), _SMALLEST_SPREAD)
    threshold = float(1 / (1 + np.exp(-(median + deviations * spread))))
    return threshold if threshold < 1 - _NEAR else 1.0


def judge(
    score: float,
    anomaly_map: np.ndarray,
    threshold: float,
    decision_threshold: float | None,
    rough_map: Callable[[], np.ndarray] | None,
) -> tuple[bool | None, np.ndarray]:
    """Return the verdict and the mask; SAM, after which `rough_map` was, cannot veto a verdict silently."""
    mask = anomaly_map > threshold
    if decision_threshold is None:
        return None, mask
    if not score > decision_threshold:
        return False, np.zeros_like(mask)
    if rough_map is not None and not mask.any():
        rough = rough_map()
        mask = rough > threshold
        mask = mask if mask.any() else rough > decision_threshold
    return bool(mask.any()), mask


def build_prompts(
    regions: list[Region], anomaly_map: np.ndarray, content: tuple[int, int], options: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the inputs of SAM's decoder, one row per region."""
    target, source = np.array(content[::-1], float), np.array(anomaly_map.shape[::-1], float)  # XY

    def to_sam(coordinates: np.ndarray) -> np.ndarray:
        # SAM's prompt encoder adds half a pixel itself
        return (coordinates * target / source - 0.5).astype(np.float32)

    prompts = {}
    if options["prompt_type"] in ("box_and_points", "points"):
        points = [
            _sample_points(region, anomaly_map, options["num_points"], options["point_seed"]) for region in regions
        ]
        prompts["input_points"] = to_sam(np.stack(points))  # (num_regions, num_points, 2)
        prompts["input_labels"] = np.ones(prompts["input_points"].shape[:2], dtype=np.int64)
    if options["prompt_type"] in ("box_and_points", "box"):
        corners = np.array([region.box for region in regions], float).reshape(-1, 2, 2)
        prompts["input_boxes"] = to_sam(corners).reshape(-1, 4)
    return prompts


def _sample_points(region: Region, anomaly_map: np.ndarray, num_points: int, seed: int) -> np.ndarray:
    xmin, ymin, xmax, ymax = region.box
    crop = np.where(region.inside, anomaly_map[ymin:ymax, xmin:xmax], -np.inf)
    peak = int((crop >= crop.max() - _ROUNDING).argmax())
    others = np.flatnonzero(region.inside)
    others = others[others != peak]
    generator = np.random.default_rng((seed, *region.box))
    drawn = generator.choice(others, size=min(num_points - 1, len(others)), replace=False)
    pixels = np.resize(np.concatenate(([peak], drawn)), num_points)
    rows, columns = np.divmod(pixels, xmax - xmin)
    return np.stack((columns + xmin + 0.5, rows + ymin + 0.5), axis=-1)


def describe_regions(anomaly_map: np.ndarray, mask: np.ndarray) -> list[dict[str, Any]]:
    """List the parts of a mask by falling score."""
    _, boxes, areas, totals = _measure(anomaly_map, mask)
    regions = [
        {
            "box": dict(zip(("xmin", "ymin", "xmax", "ymax"), map(int, box), strict=True)),
            "score": float(total / area),
            "area": int(area),
        }
        for box, area, total in zip(boxes, areas[1:], totals[1:], strict=True)
    ]
    return sorted(regions, key=lambda region: region["score"], reverse=True)


# --------------------------------------------------------------------------------------------------------------------
# Masks to the refined map: `refinement_clipsam.py` of the package


def merge_masks(
    rough_map: np.ndarray,
    mask_logits: np.ndarray,
    iou_scores: np.ndarray,
    peaks: list[float],
    frame: tuple[tuple[int, int], int],
    options: dict[str, Any],
) -> np.ndarray:
    """Merge SAM's masks (num_regions, num_masks, height, width) with the rough map; `frame`: content, and side."""
    share, merge = options["refine_weight"], options["merge"]
    if share == 0:
        return rough_map.copy()
    weights = iou_scores.clip(0, 1)
    if merge == "anomaly_weighted":
        sums = weights.sum(axis=1, keepdims=True).clip(min=np.finfo(np.float32).tiny)
        weights = np.array(peaks, np.float32)[:, None].clip(0, 1) * weights / sums
    elif merge == "average":
        weights = weights / max(weights.shape[1], 1)
    is_soft = options["mask_fusion"] == "soft"
    fused = np.zeros(mask_logits.shape[-2:] if is_soft else rough_map.shape, dtype=np.float32)
    for logits, own in zip(mask_logits, weights, strict=True):
        masks = _sigmoid(logits) if is_soft else resample_masks(logits, frame, rough_map.shape) > 0
        region = (own[:, None, None] * masks.astype(np.float32)).sum(axis=0)
        fused = fused + region if merge == "sum_norm" else np.maximum(fused, region)
    if is_soft:
        fused = resample_masks(fused, frame, rough_map.shape)
    total: np.ndarray = np.float32(1 - share) * rough_map + np.float32(share) * fused
    if merge != "sum_norm":
        return total
    total = 2 * total
    low, high = total.min(), total.max()
    return (total - low) / (high - low) if high > low else total.clip(0, 1)


def resample_masks(masks: np.ndarray, frame: tuple[tuple[int, int], int], size: Any) -> np.ndarray:
    """Resample masks (..., height, width) over SAM's padded square to the content alone, bilinear."""
    content, side = frame
    for axis in (-2, -1):
        cells = content[axis] * masks.shape[axis] / side
        last = max(math.ceil(cells - 0.5) - 1, 0)  # the last cell whose centre lies inside the content
        positions = ((np.arange(size[axis]) + 0.5) * cells / size[axis] - 0.5).clip(0, last)
        masks = _blend(masks, positions, last, axis)
    return masks


def resize_map(anomaly_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bring a map to another size, bilinear with half-pixel centres, in float32 as torch does it."""
    for axis in (0, 1):
        length = anomaly_map.shape[axis]
        scale = np.float32(length) / np.float32(size[axis])
        positions = scale * (np.arange(size[axis], dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
        anomaly_map = _blend(anomaly_map, positions.clip(0, None), length - 1, axis)
    return anomaly_map


def _blend(values: np.ndarray, positions: np.ndarray, last: int, axis: int) -> np.ndarray:
    """Interpolate along an axis, linearly; entries after `last` are not looked at."""
    lower = np.minimum(np.floor(positions).astype(np.int64), last)
    shape = [1] * values.ndim
    shape[axis] = -1
    weight = (positions - lower).astype(np.float32).reshape(shape)
    first, second = values.take(lower, axis), values.take(np.minimum(lower + 1, last), axis)
    return first + weight * (second - first)


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values.clip(-80, 80)))


# --------------------------------------------------------------------------------------------------------------------


def main() -> int:
    """Print a line of JSON for each photograph; 0: done, 1: some cannot be read, 2: what is given cannot be used."""
    parser = argparse.ArgumentParser(description="Mark defects in photographs with an exported ClipSAM.")
    parser.add_argument("photographs", nargs="*", help="files")
    parser.add_argument("--class-name", help="what they show; not needed if the export knows one name only")
    parser.add_argument("--roi", metavar="MASK", help="image that is not black where to look")
    parser.add_argument("--no-refine", action="store_true", help="CLIP's map alone, without SAM")
    parser.add_argument("--threshold", type=float, help="of the map, in [0, 1]; by default the model's")
    parser.add_argument("--decision-threshold", type=float, help="of the score, for the verdict; likewise")
    parser.add_argument("--maps", type=Path, metavar="DIR", help="folder for the maps, PNG of 16 bits")
    parser.add_argument("--check", action="store_true", help="compare the files with their checksums first")
    given = parser.parse_args()
    try:
        runner = Runner()
        if given.check and (damaged := runner.find_damaged_files()):
            raise ValueError(f"These files are not what was exported: {', '.join(damaged)}.")
        if given.class_name not in runner.class_names and (given.class_name or len(runner.class_names) > 1):
            raise ValueError(f"--class-name must be one of {', '.join(runner.class_names)}, got {given.class_name}.")
        roi = None if given.roi is None else read_roi(given.roi)
        if given.maps is not None:
            given.maps.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = {"threshold": given.threshold, "decision_threshold": given.decision_threshold, "roi_mask": roi}
    code = 0
    for number, path in enumerate(given.photographs, start=1):
        try:
            result = runner.predict(path, given.class_name, refine=not given.no_refine, **options)
        except (OSError, ValueError) as error:
            print(json.dumps({"image": path, "error": str(error)}), flush=True)
            code = 1
            continue
        row = {name: getattr(result, name) for name in ("score", "is_anomalous", "threshold", "regions")}
        print(json.dumps({"image": path, **row}), flush=True)
        if given.maps is not None:
            pixels = np.rint(result.anomaly_map * 65535).astype(np.uint16)
            Image.fromarray(pixels).save(given.maps / f"{number:04}-{Path(path).stem}.png")
    return code


if __name__ == "__main__":
    sys.exit(main())
