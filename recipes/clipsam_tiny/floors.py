# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""
Measure maps that need no training on a data set: the floor that a model must be above before it claims anything.

    python recipes/clipsam_tiny/floors.py cookie --size 400 --mask_resize nearest

Each map is made of the photograph squashed to 256x256. Of the local contrasts the best is chosen on the very set that
is reported, which favours the floor.
"""

import argparse
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image
from scipy import ndimage
from tiny_scores import score_image
from tqdm import tqdm  # type: ignore[import-untyped]

from clipsam_hf.data import AnomalyFolder
from clipsam_hf.metrics import AnomalyMetrics, resize_mask


__all__ = ["FLOORS", "Floor", "main"]

Floor = Callable[[np.ndarray], np.ndarray]

SIDE = 256
WINDOWS = (5, 9, 17, 33, 65)
FIGURES = ("pixel_auroc", "pixel_ap", "pixel_f1_max", "pixel_aupro", "image_auroc")


def darkness(image: np.ndarray) -> np.ndarray:
    """How dark a pixel is."""
    return 1 - image.mean(-1)


def unusual_colour(image: np.ndarray) -> np.ndarray:
    """How far a pixel is from the image's median colour."""
    return np.abs(image - np.median(image, (0, 1))).mean(-1)


def local_contrast(window: int, smooth: int) -> Floor:
    """How far the mean near a pixel is from the mean around it; `smooth` and `window` are their sides in pixels."""

    def contrast(image: np.ndarray) -> np.ndarray:
        around = ndimage.uniform_filter(image, (window, window, 1))
        near = ndimage.uniform_filter(image, (smooth, smooth, 1))
        return np.abs(near - around).mean(-1)

    return contrast


def mahalanobis(image: np.ndarray) -> np.ndarray:
    """How far colour, blurred colour, edges and roughness of a pixel are from the image's own statistics."""
    grey = image.mean(-1)
    fine, coarse = (ndimage.gaussian_filter(grey, sigma) for sigma in (1, 4))
    features = np.stack(
        [
            *np.moveaxis(image, -1, 0),
            fine,
            coarse,
            fine - coarse,
            ndimage.gaussian_gradient_magnitude(grey, 1),
            np.sqrt(np.maximum(ndimage.gaussian_filter((grey - coarse) ** 2, 2), 0)),
        ]
    )
    values = features.reshape(len(features), -1).T  # (pixels, features)
    centred = values - values.mean(0)
    precision = np.linalg.pinv(np.cov(centred.T) + 1e-6 * np.eye(len(features)))
    distance = np.sqrt(np.maximum(np.einsum("nf,fg,ng->n", centred, precision, centred), 0)).reshape(grey.shape)
    return distance / (1 + distance)  # the same order, in [0, 1)


FLOORS: dict[str, Floor] = {
    "darkness": darkness,
    "unusual colour": unusual_colour,
    "Mahalanobis": mahalanobis,
    **{
        f"local contrast {window}/{smooth}": local_contrast(window, smooth)
        for window in WINDOWS
        for smooth in (1, 5)
        if smooth < window
    },
}


def measure(data: AnomalyFolder, size: int, mask_resize: str) -> dict[str, dict[str, float]]:
    """Return the figures of every floor, by its name: means over the categories."""
    metrics = {name: AnomalyMetrics() for name in FLOORS}
    for sample in tqdm(data, unit="image", disable=None):
        picture = sample.load_image().resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        image = np.asarray(picture, np.float32) / 255
        mask = resize_mask(sample.load_mask(), (size, size), mask_resize)
        for name, floor in FLOORS.items():
            anomaly_map = Image.fromarray(floor(image).astype(np.float32))
            values = np.asarray(anomaly_map.resize((size, size), Image.Resampling.BILINEAR))
            metrics[name].update(values, mask, sample.category, image_score=score_image(values))
    return {name: each.compute()["mean"] for name, each in metrics.items()}


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="folder of the data set")
    parser.add_argument("--layout", default="auto")
    parser.add_argument("--split", default="all", help="'all' or one of the set's own")
    parser.add_argument("--size", type=int, default=400, help="side of the square in which maps and masks meet")
    parser.add_argument("--mask_resize", choices=("nearest", "bilinear"), default="nearest")
    return parser.parse_args(arguments)


def main() -> None:
    """Print the table."""
    arguments = parse_args()
    data = AnomalyFolder(arguments.root, arguments.layout, split=None if arguments.split == "all" else arguments.split)
    rows = measure(data, arguments.size, arguments.mask_resize)
    contrasts = [name for name in rows if name.startswith("local contrast")]
    best = max(contrasts, key=lambda name: rows[name]["pixel_ap"])
    print("| map | " + " | ".join(FIGURES) + " |\n|---|" + "---:|" * len(FIGURES))
    for name in rows:
        if name == best or name not in contrasts:
            print(f"| {name} | " + " | ".join(f"{100 * rows[name][figure]:.1f}" for figure in FIGURES) + " |")


if __name__ == "__main__":
    main()
