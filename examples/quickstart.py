# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Find the defect on one photograph and write a picture of it.

    python examples/quickstart.py                                  # a brick pavement with a crack that we draw
    python examples/quickstart.py photo.jpg --class-name candle    # a photograph of yours

Without IMAGE the photograph is scikit-image's `brick` (CC0, part of its wheel: no download). This script draws a crack
into it, always the same, so that the truth is known to the pixel and IoU and F1 can be told.

Exit code 2 with one sentence: something that was given cannot be used. Nothing was computed then.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from safetensors import SafetensorError
from transformers import pipeline

from clipsam_hf import EMBEDDED_CHECKPOINT, ClipSamForAnomalySegmentation  # the import registers the pipeline's task
from clipsam_hf.image_loading import load_rgb
from clipsam_hf.visualization_clipsam import overlay, side_by_side


SEED = 0


def brick_photograph() -> Image.Image:
    """The photograph of a flawless brick pavement, 512 x 512, from scikit-image's wheel."""
    try:
        from skimage.data import brick
    except ImportError as error:
        raise ImportError(
            "The sample photograph needs scikit-image: pip install 'clipsam_hf[demo]', or name an IMAGE of yours."
        ) from error
    return load_rgb(brick())


def draw_crack(photograph: Image.Image) -> tuple[Image.Image, np.ndarray]:
    """
    Draw a dark crack with a chipped spot across a photograph.

    Returns:
        The damaged photograph, and the truth as a bool array of shape (height, width).
    """
    rng = np.random.default_rng(SEED)
    width, height = photograph.size
    scale = 4  # drawn four times too large, then reduced: soft edges, as a lens leaves them

    # A random walk that is tied to both ends, 40 steps long, 2 to 6 pixels wide.
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


def iou_and_f1(mask: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Intersection over union and F1 of two bool masks that are not both empty."""
    common, either = np.sum(mask & truth), np.sum(mask | truth)
    return float(common / either), float(2 * common / (mask.sum() + truth.sum()))


def timed(segmenter: Any, photograph: Image.Image, class_name: str, *, refine: bool) -> tuple[dict[str, Any], float]:
    """Run the pipeline on one photograph and return its result and the seconds it took."""
    start = time.perf_counter()
    result = segmenter(photograph, class_name=class_name, refine=refine)
    return result, time.perf_counter() - start


def report(name: str, result: dict[str, Any], seconds: float, truth: np.ndarray | None) -> None:
    """Print what the pipeline found on one photograph."""
    verdict = "" if result["label"] is None else f", {result['label']}"
    print(f"{name}: score {result['score']:.3f}{verdict}, {len(result['regions'])} region(s), {seconds:.2f} s")
    for region in result["regions"]:
        box = region["box"]
        print(
            f"  x {box['xmin']}..{box['xmax']}, y {box['ymin']}..{box['ymax']}: "
            f"score {region['score']:.3f}, area {region['area']} px"
        )
    if truth is not None:
        iou, f1 = iou_and_f1(np.asarray(result["mask"]) > 0, truth)
        print(f"  against the known truth: IoU {iou:.3f}, F1 {f1:.3f}")


def check_output(path: Path) -> None:
    """Raise ValueError or OSError if no picture can be written there."""
    if Image.registered_extensions().get(path.suffix.lower()) not in Image.SAVE:
        raise ValueError(f"--output must end in .png, .jpg or another format that Pillow writes, got {str(path)!r}.")
    if path.is_dir() or not path.parent.is_dir():
        raise OSError(f"--output must be a file in a folder that exists, got {str(path)!r}.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise OSError(f"--output cannot be written: {str(path)!r}.")


def load_segmenter(model: str) -> Any:
    """Load a pipeline that can predict, or raise OSError or ValueError."""
    try:
        # The library's overloads know its own tasks only
        segmenter: Any = pipeline("zero-shot-anomaly-segmentation", model=model)  # type: ignore[call-overload]
    except (OSError, SafetensorError, ValueError) as error:
        # The library's message may be about the form of a name alone, or about the network
        raise OSError(f"--model must be a folder or the name of a ClipSAM, got {model!r}: {error}") from error
    if not isinstance(segmenter.model, ClipSamForAnomalySegmentation):
        raise ValueError(f"--model must be a ClipSAM, but {model!r} is a {type(segmenter.model).__name__}.")
    segmenter.model.check_trained()
    return segmenter


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Find the defect on one photograph and write a picture of it.")
    parser.add_argument("image", nargs="?", metavar="IMAGE", help="photograph; default: bricks with a drawn crack")
    parser.add_argument("--class-name", help='what the photograph shows; default: "object", or "brick pavement"')
    parser.add_argument(
        "--output", type=Path, default="quickstart.png", help="picture to write (default: %(default)s)"
    )
    parser.add_argument(
        "--model",
        default=str(EMBEDDED_CHECKPOINT),
        help="folder or name of a ClipSAM model (default: the one inside the package)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    truth = None
    class_name = ("object" if args.image else "brick pavement") if args.class_name is None else args.class_name
    try:
        check_output(args.output)
        if args.image is None:
            photograph, truth = draw_crack(brick_photograph())
        else:
            photograph = load_rgb(args.image, timeout=30)
        segmenter = load_segmenter(args.model)
        segmenter.processor(text=class_name)  # says what is wrong with a name
    except (ImportError, OSError, ValueError) as error:
        print(f"quickstart.py: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)

    source = args.image or "bricks with a drawn crack"
    print(f"{source}: {photograph.height}x{photograph.width} (height x width), {class_name!r}, on {segmenter.device}")

    # The first call also embeds the sentences; they are kept for the second.
    rough, rough_seconds = timed(segmenter, photograph, class_name, refine=False)
    refined, refined_seconds = timed(segmenter, photograph, class_name, refine=True)
    report("rough (CLIP)", rough, rough_seconds, truth)
    report("refined (CLIP and SAM)", refined, refined_seconds, truth)

    pictures = {"photograph": photograph}
    if truth is not None:
        pictures["truth"] = Image.fromarray(truth).convert("RGB")
    pictures["rough map (CLIP)"] = overlay(
        photograph, rough["anomaly_map"], score=rough["score"], label=rough["label"]
    )
    pictures["refined map (CLIP and SAM)"] = overlay(
        photograph,
        refined["anomaly_map"],
        score=refined["score"],
        label=refined["label"],
        regions=refined["regions"],
    )
    side_by_side(pictures).save(args.output)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
