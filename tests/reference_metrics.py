# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""Twins of the metrics that follow the definitions step by step: slow, and nothing in common with the package."""

import numpy as np
from skimage.measure import label, regionprops


def flood_regions(mask: np.ndarray) -> list[list[tuple[int, int]]]:
    """The 8-connected regions of a mask as lists of pixels, found by walking from pixel to pixel."""
    waiting = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    regions = []
    while waiting:
        region = [waiting.pop()]
        for row, column in region:
            for neighbour in [(row + i, column + j) for i in (-1, 0, 1) for j in (-1, 0, 1)]:
                if neighbour in waiting:
                    waiting.remove(neighbour)
                    region.append(neighbour)
        regions.append(region)
    return regions


def brute_force_aupro(maps: list[np.ndarray], masks: list[np.ndarray], limit: float) -> float:
    """AUPRO by its definition: every distinct score as a threshold, mean overlap of all regions, cut at the limit."""
    regions = [(index, region) for index, mask in enumerate(masks) for region in flood_regions(mask)]
    good = np.concatenate([scores[~mask] for scores, mask in zip(maps, masks, strict=True)])
    curve = [(0.0, 0.0)]
    for threshold in sorted({float(score) for scores in maps for score in scores.ravel()}, reverse=True):
        overlaps = [
            sum(maps[index][pixel] >= threshold for pixel in region) / len(region) for index, region in regions
        ]
        curve.append((float(np.mean(good >= threshold)), float(np.mean(overlaps))))

    area = 0.0
    for (start, low), (end, high) in zip(curve, curve[1:], strict=False):
        if end <= limit:
            area += (end - start) * (low + high) / 2
        elif start < limit:
            at_limit = low + (high - low) * (limit - start) / (end - start)
            area += (limit - start) * (low + at_limit) / 2
    return area / limit


def linear_loop_aupro(maps: np.ndarray, masks: np.ndarray, limit: float = 0.3, steps: int = 200) -> float:
    """The AUPRO that most published tables used, as they describe it: thresholds at equal steps of the score.

    Args:
        maps (`np.ndarray` of shape `(num_images, height, width)`)
        masks (`np.ndarray` of shape `(num_images, height, width)`, bool)
    """
    rates, overlaps = [], []
    step = (maps.max() - maps.min()) / steps
    for threshold in np.arange(maps.min(), maps.max(), step):
        found = maps > threshold
        regions = [
            found_here[tuple(region.coords.T)].mean()
            for found_here, mask in zip(found, masks, strict=True)
            for region in regionprops(label(mask))
        ]
        rates.append(found[~masks].mean())
        overlaps.append(np.mean(regions))
    kept = np.array(rates) < limit
    x, y = np.array(rates)[kept], np.array(overlaps)[kept]
    x = (x - x.min()) / (x.max() - x.min())
    return abs(float(np.trapezoid(y, x)))


def region_recall(maps: list[np.ndarray], masks: list[np.ndarray], threshold: float, overlap: float) -> float:
    """The share of all regions of which at least `overlap` of the pixels reach the threshold."""
    found = [
        np.mean([scores[pixel] >= threshold for pixel in region]) >= overlap
        for scores, mask in zip(maps, masks, strict=True)
        for region in flood_regions(mask)
    ]
    return float(np.mean(found))
