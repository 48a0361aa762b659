# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Measures what tiles find that a look at the whole misses, and what they cost: `python benchmarks/measure_tiling.py`.

Two generated surfaces, seeded: a board of 4096 x 256 pixels and a plate of 24 megapixels, each with a thin crack. Each
is predicted by texts alone and against four good ones, whole and with tiles; "sound" is one without a crack.
"""

import argparse
import time

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage
from transformers import pipeline

import clipsam_hf
from clipsam_hf import ClipSamReferences


SIZES = {"board, 4096 x 256": (256, 4096), "plate, 6000 x 4000": (4000, 6000)}
CLASS_NAME = "concrete"


def paint_surface(size: tuple[int, int], seed: int, *, crack: bool) -> tuple[Image.Image, np.ndarray]:
    """Paints a grey surface of fine grain, and the mask of its crack, which is some 140 pixels long and 3 wide."""
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.standard_normal(size, dtype=np.float32), 1.0)
    cloud = ndimage.zoom(rng.standard_normal([-(-side // 64) + 1 for side in size], dtype=np.float32), 64, order=1)
    surface = 128 + 5 * grain / grain.std() + 2 * cloud[: size[0], : size[1]]
    image = Image.fromarray(surface.clip(0, 255).astype(np.uint8)).convert("RGB")
    mask = Image.new("L", image.size)
    if crack:
        place, direction = np.array([size[1] * 0.62, size[0] * 0.4]), rng.uniform(0, np.pi)
        points = [tuple(place)]
        for _ in range(14):
            direction += rng.normal(0, 0.5)
            place = place + 10 * np.array([np.cos(direction), np.sin(direction)])
            points.append(tuple(place.clip(5, (size[1] - 5, size[0] - 5))))
        for picture, colour in ((image, (30, 28, 26)), (mask, 255)):
            ImageDraw.Draw(picture).line(points, fill=colour, width=3, joint="curve")
        image = image.filter(ImageFilter.GaussianBlur(0.7))
    return image, np.asarray(mask) > 0


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=str(clipsam_hf.EMBEDDED_CHECKPOINT))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    segmenter = pipeline("zero-shot-anomaly-segmentation", model=arguments.model)
    print("surface | compared with | tiles | score, sound | score, crack | highest in the crack, beside it | seconds")
    for name, size in SIZES.items():
        pairs = [paint_surface(size, arguments.seed, crack=crack) for crack in (False, True)]
        for number in (0, 4):
            good = [paint_surface(size, arguments.seed + 1 + each, crack=False)[0] for each in range(number)]
            for tile in (None, "auto"):
                options = {"class_name": CLASS_NAME, "tile": tile}
                if good:
                    options["references"] = ClipSamReferences.from_images(
                        segmenter.model, segmenter.processor, good, class_name=CLASS_NAME, tile=tile
                    )
                (sound, _), (cracked, mask) = pairs
                start = time.perf_counter()
                found = segmenter(cracked, **options)
                seconds = time.perf_counter() - start
                near = ndimage.binary_dilation(mask, iterations=4)
                far = ~ndimage.binary_dilation(mask, iterations=24)
                highest = [found["anomaly_map"][where].max() for where in (near, far)]
                scores = [segmenter(sound, **options)["score"], found["score"]]
                verdict = f" ({found['label']})" if good else ""
                print(
                    f"{name} | {f'{number} good' if good else 'texts'} | {tile or 'none'} | {scores[0]:.3f} |"
                    f" {scores[1]:.3f}{verdict} | {highest[0]:.3f}, {highest[1]:.3f} | {seconds:.1f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
