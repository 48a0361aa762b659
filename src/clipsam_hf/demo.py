# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""What `clipsam demo` shows: one photograph, CLIP's map and SAM's beside each other, and numbers.

The sample is scikit-image's `brick` (CC0, part of its wheel: no download). A crack is drawn into it, always the same,
so that the truth is known to the pixel and IoU and F1 can be told.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

from .image_loading import load_rgb
from .visualization_clipsam import overlay, side_by_side


if TYPE_CHECKING:
    from .pipeline_clipsam import ZeroShotAnomalySegmentationPipeline

SAMPLE_NAME = "brick pavement"
"""What the sample shows."""

_SEED = 0


def sample_photograph() -> Image.Image:
    """Return the photograph of a flawless brick pavement, 512 x 512, from scikit-image's wheel.

    Raises:
        ImportError: If scikit-image, the extra `demo`, is not installed.
    """
    try:
        from skimage.data import brick
    except ImportError as error:
        raise ImportError(
            "the sample photograph needs scikit-image: pip install 'clipsam_hf[demo]', or name a photograph of yours"
        ) from error
    return load_rgb(brick())


def draw_crack(photograph: Image.Image) -> tuple[Image.Image, np.ndarray]:
    """Draw a dark crack with a chipped spot across a photograph.

    Args:
        photograph (`PIL.Image.Image`): RGB; it is not modified.

    Returns:
        The damaged photograph, and the truth as a bool array of shape (height, width).
    """
    rng = np.random.default_rng(_SEED)
    width, height = photograph.size
    scale = 4  # drawn four times too large, then reduced: soft edges, as a lens leaves them

    # A random walk that is tied to both ends, 40 steps long, 2 to 6 pixels wide
    time_line = np.linspace(0, 1, 41)
    walk = np.vstack([np.zeros(2), rng.normal(0, 0.012, (40, 2)).cumsum(axis=0)])
    walk -= time_line[:, None] * walk[-1]
    ends = np.array([[0.18, 0.72], [0.86, 0.30]])
    points = (ends[0] + time_line[:, None] * (ends[1] - ends[0]) + walk) * (width, height) * scale  # (41, 2) XY
    widths = rng.uniform(2, 6, 40) * scale

    stencil = Image.new("L", (width * scale, height * scale))
    draw = ImageDraw.Draw(stencil)
    for start, end, thickness in zip(points[:-1], points[1:], widths, strict=True):
        draw.line([*start, *end], fill=255, width=round(thickness), joint="curve")
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    radii = rng.uniform(8, 16, (12, 1)) * scale
    chip = points[26] + radii * np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    draw.polygon([tuple(corner) for corner in chip], fill=255)

    opacity = np.asarray(stencil.resize(photograph.size, Image.Resampling.BOX), dtype=np.float32) / 255
    depth = 1 - 0.6 * opacity[..., None]  # the crack keeps 40 % of the light and the grain of the brick
    return Image.fromarray(np.rint(np.asarray(photograph) * depth).astype(np.uint8)), opacity >= 0.5


def check_picture(path: Path) -> None:
    """Refuse a file that no picture can be written to.

    Args:
        path (`Path`): The file.

    Raises:
        ValueError: If Pillow does not write its kind.
        OSError: If it is a folder, lies in none, or may not be written.
    """
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--output must end in .png, .jpg or another format that Pillow writes, got {str(path)!r}")
    if path.is_dir() or not path.parent.is_dir():
        raise OSError(f"--output must be a file in a folder that exists, got {str(path)!r}")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"--output cannot be written: {str(path)!r}")


def show(
    segmenter: "ZeroShotAnomalySegmentationPipeline",
    photograph: Image.Image,
    *,
    class_name: str,
    truth: np.ndarray | None = None,
) -> tuple[str, Image.Image]:
    """Predict one photograph without and with SAM.

    Args:
        segmenter (`ZeroShotAnomalySegmentationPipeline`): The pipeline.
        photograph (`PIL.Image.Image`): RGB.
        class_name (`str`): What it shows.
        truth (`np.ndarray`, *optional*): The defect's pixels, bool of shape (height, width).

    Returns:
        `tuple[str, PIL.Image.Image]`: Numbers, in lines; the photograph and its maps side by side.
    """
    lines, pictures = [], {"photograph": photograph}
    if truth is not None:
        pictures["truth"] = Image.fromarray(truth).convert("RGB")
    # The first call also embeds the sentences; they are kept for the second
    for name, refine in (("rough map (CLIP)", False), ("refined map (CLIP and SAM)", True)):
        start = time.perf_counter()
        result: dict[str, Any] = segmenter(photograph, class_name=class_name, refine=refine)
        lines += _describe(name, result, time.perf_counter() - start, truth)
        regions = result["regions"] if refine else ()
        pictures[name] = overlay(photograph, result["anomaly_map"], score=result["score"], regions=regions)
    return "\n".join(lines), side_by_side(pictures)


def _describe(name: str, result: dict[str, Any], seconds: float, truth: np.ndarray | None) -> list[str]:
    """Put what the pipeline found on one photograph into lines."""
    verdict = "" if result["label"] is None else f", {result['label']}"
    lines = [f"{name}: score {result['score']:.3f}{verdict}, {len(result['regions'])} region(s), {seconds:.2f} s"]
    for region in result["regions"]:
        box = region["box"]
        place = f"x {box['xmin']}..{box['xmax']}, y {box['ymin']}..{box['ymax']}"
        lines.append(f"  {place}: score {region['score']:.3f}, area {region['area']} px")
    if truth is not None:
        mask = np.asarray(result["mask"]) > 0
        common = np.sum(mask & truth)
        iou, f1 = common / np.sum(mask | truth), 2 * common / (mask.sum() + truth.sum())
        lines.append(f"  against the known truth: IoU {iou:.3f}, F1 {f1:.3f}")
    return lines
