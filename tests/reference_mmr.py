# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""MMR once more, as plain loops over Python numbers: the second opinion that `refinement_clipsam` is compared with.

Written from the description of the method (docs/method.md), not from the module. One image, nested lists, float64.
`sam` stands for SAM: it gets one region's prompts and answers ([mask, mask, ...], [score, score, ...]), where a mask
is a list of rows of logits over SAM's padded square.
"""

import math
from collections.abc import Callable


Grid = list[list[float]]
Pixel = tuple[int, int]
Sam = Callable[[list[float], list[list[float]]], tuple[list[Grid], list[float]]]


def regions_of(rough: Grid, threshold: float, min_fraction: float, max_regions: int) -> list[list[Pixel]]:
    """Eq. 7 and what follows: binarise, join neighbours (8), drop the small ones, keep the heaviest."""
    height, width = len(rough), len(rough[0])
    seen: set[Pixel] = set()
    found = []
    for start_row in range(height):
        for start_column in range(width):
            if (start_row, start_column) in seen or not rough[start_row][start_column] > threshold:
                continue
            seen.add((start_row, start_column))
            pixels, waiting = [], [(start_row, start_column)]
            while waiting:
                row, column = waiting.pop()
                pixels.append((row, column))
                for next_row in range(max(row - 1, 0), min(row + 2, height)):
                    for next_column in range(max(column - 1, 0), min(column + 2, width)):
                        if (next_row, next_column) not in seen and rough[next_row][next_column] > threshold:
                            seen.add((next_row, next_column))
                            waiting.append((next_row, next_column))
            if len(pixels) / (height * width) >= min_fraction:
                found.append(pixels)
    found.sort(key=lambda pixels: math.fsum(rough[row][column] for row, column in pixels), reverse=True)
    return found[:max_regions]


def prompts_of(pixels: list[Pixel], rough: Grid, content: tuple[int, int]) -> tuple[list[float], list[float]]:
    """A region's box and its highest point in pixels of SAM's square, less the half pixel that SAM adds itself."""
    across = content[1] / len(rough[0])
    down = content[0] / len(rough)
    rows = [row for row, _ in pixels]
    columns = [column for _, column in pixels]
    left, top = min(columns) * across, min(rows) * down
    right, bottom = (max(columns) + 1) * across, (max(rows) + 1) * down
    best = min(pixels, key=lambda pixel: (-rough[pixel[0]][pixel[1]], pixel))
    point = [(best[1] + 0.5) * across - 0.5, (best[0] + 0.5) * down - 0.5]
    return [left - 0.5, top - 0.5, right - 0.5, bottom - 0.5], point


def tents(place: float, cells: int, content_cells: float) -> list[float]:
    """Bilinear weights of all cells at a place, of those alone whose centre shows the photograph, with sum 1."""
    weights = [
        max(0.0, 1.0 - abs(cell + 0.5 - place)) if cell + 0.5 < content_cells or cell == 0 else 0.0
        for cell in range(cells)
    ]
    if sum(weights) == 0.0:  # the content ends before the first centre
        weights[0] = 1.0
    return [weight / sum(weights) for weight in weights]


def resample(mask: Grid, content: tuple[int, int], sam_side: int, output: tuple[int, int]) -> Grid:
    """The content of SAM's padded square, seen in a frame of `output` pixels."""
    content_rows = content[0] * len(mask) / sam_side
    content_columns = content[1] * len(mask[0]) / sam_side
    resampled = []
    for row in range(output[0]):
        down = tents((row + 0.5) / output[0] * content_rows, len(mask), content_rows)
        line = []
        for column in range(output[1]):
            across = tents((column + 0.5) / output[1] * content_columns, len(mask[0]), content_columns)
            value = 0.0
            for mask_row in range(len(mask)):
                for mask_column in range(len(mask[0])):
                    if down[mask_row] > 0.0 and across[mask_column] > 0.0:
                        value += down[mask_row] * across[mask_column] * mask[mask_row][mask_column]
            line.append(value)
        resampled.append(line)
    return resampled


def sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))


def fuse(
    answers: list[tuple[list[Grid], list[float]]],
    mask_size: tuple[int, int],
    content: tuple[int, int],
    sam_side: int,
    output: tuple[int, int],
    mask_fusion: str,
    merge: str,
    anomalies: list[float],
) -> Grid:
    """Score x mask: a mean over a region's masks, then the maximum over regions; or one sum over everything."""
    size = mask_size if mask_fusion == "soft" else output
    fused = [[0.0] * size[1] for _ in range(size[0])]
    for (logits, scores), anomaly in zip(answers, anomalies, strict=True):
        if mask_fusion == "soft":
            masks = [[[sigmoid(logit) for logit in line] for line in mask] for mask in logits]
        else:
            upsampled = [resample(mask, content, sam_side, output) for mask in logits]
            masks = [[[1.0 if logit > 0 else 0.0 for logit in line] for line in mask] for mask in upsampled]
        for row in range(size[0]):
            for column in range(size[1]):
                weighted = [
                    min(max(score, 0.0), 1.0) * mask[row][column] for score, mask in zip(scores, masks, strict=True)
                ]
                if merge == "average":
                    fused[row][column] = max(fused[row][column], sum(weighted) / len(weighted))
                elif merge == "anomaly_weighted":
                    total = sum(min(max(score, 0.0), 1.0) for score in scores)
                    share = sum(weighted) / total if total else 0.0
                    fused[row][column] = max(fused[row][column], anomaly * share)
                else:
                    fused[row][column] += sum(weighted)
    return resample(fused, content, sam_side, output) if mask_fusion == "soft" else fused


def refine(
    rough: Grid,
    sam: Sam,
    *,
    mask_size: tuple[int, int],
    content: tuple[int, int],
    sam_side: int,
    threshold: float,
    min_fraction: float,
    max_regions: int,
    mask_fusion: str,
    merge: str,
) -> Grid:
    """The whole of MMR: the rough map in, the refined map out."""
    height, width = len(rough), len(rough[0])
    answers, anomalies = [], []
    for pixels in regions_of(rough, threshold, min_fraction, max_regions):
        box, point = prompts_of(pixels, rough, content)
        answers.append(sam(box, [point]))
        anomalies.append(max(rough[row][column] for row, column in pixels))
    fused = fuse(answers, mask_size, content, sam_side, (height, width), mask_fusion, merge, anomalies)

    total = [[rough[row][column] + fused[row][column] for column in range(width)] for row in range(height)]
    if merge != "sum_norm":
        return [[value / 2 for value in line] for line in total]
    low = min(min(line) for line in total)
    high = max(max(line) for line in total)
    if high == low:
        return [[min(max(value, 0.0), 1.0) for value in line] for line in total]
    return [[(value - low) / (high - low) for value in line] for line in total]


def score_of(refined: Grid, top_fraction: float) -> float:
    """The mean of the highest pixels."""
    values = sorted((value for line in refined for value in line), reverse=True)
    count = max(1, round(top_fraction * len(values)))
    return sum(values[:count]) / count
