# SPDX-FileCopyrightText: 2026 The clipsam_hf authors
# SPDX-License-Identifier: Apache-2.0
"""UMCI once more, as plain loops over Python numbers: the second opinion that `umci_clipsam` is compared with.

Written from the description of the method (docs/method.md), not from the module. One image, nested lists, float64.
A feature map is `map[row][column][channel]`, a sequence is `sequence[place][channel]`, and `weights` is a state
dictionary turned into nested lists.
"""

import math
from collections.abc import Sequence
from typing import Any


Vector = list[float]
Tokens = list[Vector]
FeatureMap = list[Tokens]
Weights = dict[str, Any]


def part(weights: Weights, prefix: str) -> Weights:
    """The weights of a sub-module, under their own names."""
    return {name[len(prefix) + 1 :]: value for name, value in weights.items() if name.startswith(f"{prefix}.")}


def dot(first: Vector, second: Vector) -> float:
    return sum(a * b for a, b in zip(first, second, strict=True))


def linear(vector: Vector, weights: Weights) -> Vector:
    return [dot(row, vector) + bias for row, bias in zip(weights["weight"], weights["bias"], strict=True)]


def attend(reader: Tokens, source: Tokens, weights: Weights) -> Tokens:
    """Single-head attention: the reader asks, the source answers. No norm, no residual, no output projection."""
    keys = [linear(token, part(weights, "key")) for token in source]
    values = [linear(token, part(weights, "value")) for token in source]
    read = []
    for token in reader:
        query = linear(token, part(weights, "query"))
        shares = softmax([dot(query, key) / math.sqrt(len(query)) for key in keys])
        read.append([dot(shares, list(channel)) for channel in zip(*values, strict=True)])
    return read


def softmax(scores: Vector) -> Vector:
    highest = max(scores)
    exponentials = [math.exp(score - highest) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


def convolve(feature_map: FeatureMap, weights: Weights) -> FeatureMap:
    """A convolution of odd kernel, padded with zeros so that the size stays."""
    kernel, bias = weights["weight"], weights["bias"]  # kernel[out][in][row][column]
    height, width = len(feature_map), len(feature_map[0])
    kernel_height, kernel_width = len(kernel[0][0]), len(kernel[0][0][0])
    output = []
    for row in range(height):
        line = []
        for column in range(width):
            cell = list(bias)
            for down in range(kernel_height):
                for across in range(kernel_width):
                    source_row = row + down - kernel_height // 2
                    source_column = column + across - kernel_width // 2
                    if 0 <= source_row < height and 0 <= source_column < width:
                        source = feature_map[source_row][source_column]
                        for out_channel in range(len(cell)):
                            for in_channel in range(len(source)):
                                cell[out_channel] += kernel[out_channel][in_channel][down][across] * source[in_channel]
            line.append(cell)
        output.append(line)
    return output


def mean_of(vectors: Tokens) -> Vector:
    return [sum(channel) / len(vectors) for channel in zip(*vectors, strict=True)]


def pool(feature_map: FeatureMap, size: int) -> FeatureMap:
    """Average pooling, stride = kernel; the last window of a row or column averages what there is (ceil)."""
    height, width = len(feature_map), len(feature_map[0])
    return [
        [
            mean_of(
                [
                    feature_map[row][column]
                    for row in range(top, min(top + size, height))
                    for column in range(left, min(left + size, width))
                ]
            )
            for left in range(0, width, size)
        ]
        for top in range(0, height, size)
    ]


def bilinear_places(cells: int, target: int) -> list[tuple[int, int, float]]:
    """Each target pixel's two neighbours and the second one's weight; half-pixel centres, clamped at the edge."""
    places = []
    for index in range(target):
        place = min(max((index + 0.5) * cells / target - 0.5, 0.0), cells - 1.0)
        first = int(math.floor(place))
        places.append((first, min(first + 1, cells - 1), place - first))
    return places


def resize(feature_map: FeatureMap, height: int, width: int) -> FeatureMap:
    """Bilinear interpolation."""
    output = []
    for top, bottom, down in bilinear_places(len(feature_map), height):
        line = []
        for left, right, across in bilinear_places(len(feature_map[0]), width):
            line.append(
                [
                    (1 - down) * ((1 - across) * a + across * b) + down * ((1 - across) * c + across * d)
                    for a, b, c, d in zip(
                        feature_map[top][left],
                        feature_map[top][right],
                        feature_map[bottom][left],
                        feature_map[bottom][right],
                        strict=True,
                    )
                ]
            )
        output.append(line)
    return output


def transpose(feature_map: FeatureMap) -> FeatureMap:
    return [list(column) for column in zip(*feature_map, strict=True)]


def strip_path(visual: FeatureMap, text: Tokens, weights: Weights, direction: str) -> FeatureMap:
    """Text asks the strips, then the strips ask the updated text: the rows, or else the columns."""
    height, width = len(visual), len(visual[0])
    lines = visual if direction == "row" else transpose(visual)

    means = [[mean_of(line)] for line in lines]  # one strip below the other
    if direction == "column":
        means = transpose(means)  # its convolution lies flat
    convolved = convolve(means, part(weights, f"{direction}_conv"))
    strips = [cell for line in convolved for cell in line]

    heard = attend(text, strips, part(weights, f"{direction}_text"))
    learned = [[a + b for a, b in zip(old, new, strict=True)] for old, new in zip(text, heard, strict=True)]
    answers = attend(strips, learned, part(weights, f"{direction}_image"))
    return resize([[answer] for answer in answers] if direction == "row" else [answers], height, width)


def concatenate(feature_maps: Sequence[FeatureMap]) -> FeatureMap:
    height, width = len(feature_maps[0]), len(feature_maps[0][0])
    return [
        [[value for feature_map in feature_maps for value in feature_map[row][column]] for column in range(width)]
        for row in range(height)
    ]


def unpool(cells: FeatureMap, size: int, height: int, width: int) -> FeatureMap:
    """Bilinear between the centres of the cells, which stay where they were pooled."""
    whole_height = len(cells) * size if len(cells) > 1 else height
    whole_width = len(cells[0]) * size if len(cells[0]) > 1 else width
    return [line[:width] for line in resize(cells, whole_height, whole_width)[:height]]


def scale_path(
    visual: FeatureMap, text: Tokens, weights: Weights, scale_sizes: Sequence[int], interpolation: str
) -> FeatureMap:
    """Each pooled grid asks the text once; a 1x1 convolution fuses the scales."""
    height, width = len(visual), len(visual[0])
    scales = []
    for index, size in enumerate(scale_sizes):
        pooled = pool(visual, size)
        interaction = part(weights, f"interactions.{index}")
        read = [attend(line, text, interaction) for line in pooled]
        aligned = interpolation == "aligned"
        scales.append(unpool(read, size, height, width) if aligned else resize(read, height, width))
    return convolve(concatenate(scales), part(weights, "fuse"))


def normalize(feature_map: FeatureMap) -> FeatureMap:
    """Each token to mean 0 and variance 1 over its channels."""
    normalized = []
    for line in feature_map:
        cells = []
        for cell in line:
            mean = sum(cell) / len(cell)
            variance = sum((value - mean) ** 2 for value in cell) / len(cell)
            cells.append([(value - mean) / math.sqrt(variance + 1e-5) for value in cell])
        normalized.append(cells)
    return normalized


def umci(
    feature_map: FeatureMap,
    text_embeds: Tokens,
    weights: Weights,
    *,
    scale_sizes: Sequence[int],
    scale_interpolation: str = "aligned",
    normalize_features: bool = False,
    head: str = "conv",
    fused_features: Sequence[str] = ("original", "row", "column", "scale"),
) -> FeatureMap:
    """One stage: its feature map and the two texts in, two logits per token out."""
    visual = convolve(
        normalize(feature_map) if normalize_features else feature_map, part(weights, "visual_projection")
    )
    available = {"original": visual}
    if head == "text" or tuple(fused_features) != ("original",):
        text = [linear(embedding, part(weights, "text_projection")) for embedding in text_embeds]
    for direction in ("row", "column"):
        if direction in fused_features:
            available[direction] = strip_path(visual, text, part(weights, "strip_path"), direction)
    if "scale" in fused_features:
        scale_weights = part(weights, "scale_path")
        available["scale"] = scale_path(visual, text, scale_weights, scale_sizes, scale_interpolation)

    fused = convolve(concatenate([available[name] for name in fused_features]), part(weights, "fuse"))
    fused = [[[max(value, 0.0) for value in cell] for cell in line] for line in fused]
    if head == "conv":
        return convolve(fused, part(weights, "classifier"))
    # The scalar products with the texts are scaled as those of the attentions
    root = math.sqrt(len(text[0]))
    return [[[dot(cell, word) / root for word in text] for cell in line] for line in fused]


def rough_map(stages: Sequence[FeatureMap], height: int, width: int) -> list[list[float]]:
    """Logits upsampled, then softmax, then the mean of the stages' abnormal probability."""
    total = [[0.0] * width for _ in range(height)]
    for logits in stages:
        upsampled = resize(logits, height, width)
        for row in range(height):
            for column in range(width):
                total[row][column] += softmax(upsampled[row][column])[1] / len(stages)
    return total
